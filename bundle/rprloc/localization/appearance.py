"""An organ's own shape and voxels: what they look like in the support, and where a query shows them.

Registration tells where an organ should be; two thirds of the error that it leaves are of size and contour. Which part
of the organ reaches furthest may differ between people, so its whole outline goes to the query, not six points alone.
Then each voxel of the networks' input near that place is judged: by the support's shape there (the prior), by its grey
value and by the fine descriptor of its cell. What inside and around the organ look like is taken from the support and
adapted to the query as voxels are judged (expectation maximization with a spatial prior: Van Leemput et al., IEEE TMI
18, 1999). How much each wall that comes out is worth is measured in the support, with priors out of place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, gaussian_filter1d

from rprloc.annotation import Mask
from rprloc.geometry import Box, Grid, Points, wall_coordinates
from rprloc.intensity import GREY_VALUE_WINDOW
from rprloc.localization.config import DEFAULT, LocalizationConfig
from rprloc.localization.dense_match import DenseMatch
from rprloc.localization.support import GREY_BINS, Appearance
from rprloc.localization.surroundings import CELL_MM
from rprloc.model.body import sample
from rprloc.model.field import PositionField

_ROUNDING = 1e-3  # of a voxel


def learn_appearance(
    field: PositionField, points_ras: Points, mask: Mask | None, config: LocalizationConfig = DEFAULT
) -> Appearance:
    """The appearance of an organ in its support scan, from its extreme points (6, 3) and, if there is one, its mask.

    Without a mask the ellipsoid in the box stands for it.
    """
    box = Box.from_extreme_points(points_ras)
    voxels = _near(field.grid, points_ras, config)
    inside = _in_ellipsoid(box, voxels) if mask is None else _in_mask(mask, voxels)
    smoothed = gaussian_filter(inside, config.prior_smoothing_mm / field.grid.spacing_mm, mode="nearest")
    corners_ijk = np.stack(np.meshgrid(*[(0, n - 1) for n in voxels.shape]), -1).reshape(-1, 3)
    corners_body = field.body.body(voxels.ras(corners_ijk))
    first = np.floor(corners_body.min(0) / CELL_MM)
    shape = np.ceil(corners_body.max(0) / CELL_MM).astype(int) - first.astype(int) + 1
    lattice = Grid.isotropic(shape.tolist(), CELL_MM, CELL_MM * first)
    occupancy = sample(torch.from_numpy(smoothed)[None], voxels, field.body.ras(lattice.centres_ras()))[..., 0]

    seen = _VoxelStatistics.of(field, voxels)
    covariance = seen.descriptor_covariances(inside).mean(0)
    outline_ras = np.zeros((0, 3)) if mask is None else _outline(mask, config.outline_directions)
    appearance = Appearance(
        outline_body_mm=field.body.body(outline_ras).astype(np.float32),
        occupancy=np.rint(255.0 * occupancy.clip(0.0, 1.0)).astype(np.uint8),
        lattice=lattice,
        grey=seen.grey_distributions(inside),
        descriptors=seen.mean_descriptors(inside),
        precision=np.linalg.inv(covariance + config.descriptor_noise * np.eye(len(covariance))).astype(np.float32),
        bias_mm=np.zeros(6),
        wall_weight=np.zeros(6),
    )
    return _with_wall_weights(appearance, field, points_ras, config)


def judge_walls(
    appearance: Appearance,
    field: PositionField,
    near_ras: Points,
    displaced_mm: ArrayLike = (0.0, 0.0, 0.0),
    config: LocalizationConfig = DEFAULT,
    match: DenseMatch | None = None,
) -> NDArray[np.float64] | None:
    """The walls (6,) of the organ around places ``near_ras`` (N, 3), from its own voxels; None if hardly any show it.

    The prior is the example's shape, displaced by mm of the scan's world, together with what a dense match has seen.
    """
    voxels = _near(field.grid, near_ras, config)
    occupancy = F.pad(torch.from_numpy(appearance.occupancy), [1] * 6).float() / 255.0
    padded = appearance.lattice.cropped(
        (-1, -1, -1), list(occupancy.shape)
    )  # nothing of the organ lies beyond the lattice
    displaced = voxels.ras_from_ijk.copy()
    displaced[:3, 3] += np.asarray(displaced_mm)
    prior_odds = _log_odds(
        field.body.sampled_on(occupancy[None], padded, Grid(voxels.shape, displaced))[..., 0], config
    )
    if match is not None:
        thickness = float(occupancy.max()) ** config.seen_power
        prior_odds += config.seen_weight * thickness * (_log_odds(match.sampled_on(voxels), config) - prior_odds)
    share = _judge_voxels(appearance, _VoxelStatistics.of(field, voxels), prior_odds, config)
    none, all_of_it = config.soft_share
    organ = ((share - none) / (all_of_it - none)).clip(0.0, 1.0)
    if organ.sum() < config.least_voxels:
        return None
    walls = np.empty((3, 2))
    for axis in range(3):
        profile = organ.sum(axis=tuple(other for other in range(3) if other != axis))
        below = np.concatenate([[0.0], np.cumsum(profile / profile.sum() + 1e-9)])
        faces_mm = voxels.bounds.min_ras[axis] + voxels.spacing_mm[axis] * np.arange(len(profile) + 1)
        walls[axis] = np.interp([config.tail, 1.0 - config.tail], below, faces_mm)
    return walls.reshape(6)


def _log_odds(share: NDArray[np.float32], config: LocalizationConfig) -> NDArray[np.float32]:
    """The log odds of shares that nothing makes certain."""
    share = share.clip(config.prior_floor, 1.0 - config.prior_floor)
    odds: NDArray[np.float32] = np.log(share / (1.0 - share))
    return odds


def _share_of(odds: NDArray[np.float32]) -> NDArray[np.float32]:
    share: NDArray[np.float32] = np.reciprocal(1.0 + np.exp(-odds))
    return share


def _judge_voxels(
    appearance: Appearance, seen: _VoxelStatistics, prior_odds: NDArray[np.float32], config: LocalizationConfig
) -> NDArray[np.float32]:
    """The organ's share of each voxel (i, j, k), given the prior's log odds (i, j, k)."""
    grey, descriptors = appearance.grey, appearance.descriptors
    share = _share_of(prior_odds)
    kept = np.float32(config.from_support)
    for _ in range(config.rounds):
        direction = appearance.precision @ (descriptors[0] - descriptors[1])
        threshold = 0.5 * (descriptors[0] + descriptors[1]) @ direction
        odds = prior_odds + config.neighbours_weight * (2.0 * _mean_of_27(share) - 1.0)
        odds += np.take(config.grey_weight * np.log(grey[0] / grey[1]), seen.grey_bins)
        odds += np.take(config.descriptor_weight * (seen.descriptors @ direction - threshold), seen.cells)
        share = _share_of(odds)
        own_grey, own_descriptors = seen.grey_distributions(share), seen.mean_descriptors(share)
        grey = kept * appearance.grey + (1 - kept) * own_grey
        descriptors = kept * appearance.descriptors + (1 - kept) * own_descriptors
    return share


def _with_wall_weights(
    appearance: Appearance, field: PositionField, points_ras: Points, config: LocalizationConfig
) -> Appearance:
    """The appearance with its ``bias_mm`` and ``wall_weight``, from the support's own scan.

    The prior is displaced both ways along every axis. Walls that come back nevertheless are worth much; walls that go
    along with the prior, or do not lie where they were marked in the first place, are worth little.
    """
    marked_mm = Box.from_extreme_points(points_ras).walls_mm
    found_mm = judge_walls(appearance, field, points_ras, config=config)
    if found_mm is None:
        return appearance
    bias_mm = found_mm - marked_mm
    squared_mm2 = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            away_mm = np.zeros(3)
            away_mm[axis] = sign * config.displaced_mm
            walls_mm = judge_walls(appearance, field, points_ras, away_mm, config)
            moved_mm = -np.repeat(away_mm, 2) if walls_mm is None else walls_mm - found_mm
            squared_mm2.append(np.square(moved_mm))
    prior_mm2 = config.displaced_mm**2 / 3.0  # what the displacements come to on average
    weight = prior_mm2 / (prior_mm2 + np.mean(squared_mm2, axis=0) + np.square(bias_mm))
    weight = weight**config.wall_weight_power
    end_mm = field.grid.bounds.walls_mm
    weight[4:] *= (
        np.abs(marked_mm - end_mm)[4:] > config.displaced_mm
    )  # where the scan ends, a wall cannot but come back
    return replace(appearance, bias_mm=bias_mm, wall_weight=weight)


def refine_points(
    appearance: Appearance,
    field: PositionField,
    points_ras: Points,
    shift_mm: ArrayLike,
    config: LocalizationConfig = DEFAULT,
    match: DenseMatch | None = None,
) -> Points:
    """Located extreme points (6, 3), stretched along each axis: walls that the outline passes move out to it, then all
    move towards the judged ones by their weight, and the less the further these are away.

    ``shift_mm`` (3,): how far they lie from where the map to the body frame alone would put them; the prior goes along.
    ``match``: what the query shows of the organ, place by place.
    """
    walls_mm = wall_coordinates(points_ras)
    outline_body_mm = appearance.outline_body_mm[: None if config.follow_outline else 0].astype(float)
    outline_ras = field.body.ras(outline_body_mm) + np.asarray(shift_mm)
    for wall, sign in enumerate(np.tile([-1.0, 1.0], 3) if len(outline_ras) else ()):
        walls_mm[wall] = sign * max(sign * walls_mm[wall], (sign * outline_ras[:, wall // 2]).max())
    found_mm = judge_walls(appearance, field, points_ras, -np.asarray(shift_mm), config, match)
    if found_mm is not None and config.follow_voxels:
        away_mm = found_mm - appearance.bias_mm - walls_mm
        walls_mm = walls_mm + appearance.wall_weight * away_mm / (1.0 + np.square(away_mm / config.far_mm))
    moved = points_ras.copy()
    for axis in range(3):
        low, high = 2 * axis, 2 * axis + 1
        now_mm, then_mm = points_ras[[low, high], axis], walls_mm[[low, high]]
        if now_mm[1] - now_mm[0] < 1.0 or then_mm[1] - then_mm[0] < 1.0:
            continue  # walls that have crossed are no size to stretch
        moved[:, axis] = then_mm[0] + (points_ras[:, axis] - now_mm[0]) * np.diff(then_mm) / np.diff(now_mm)
    return moved


@dataclass(frozen=True, eq=False)
class _VoxelStatistics:
    """Some voxels (i, j, k) of a scan: their ``grey_bins`` (i, j, k), and for each of the ``cells`` (i, j, k) of the
    fine lattice that they lie in its ``descriptors`` (cell, D).
    """

    grey_bins: NDArray[np.int64]
    cells: NDArray[np.int64]
    descriptors: NDArray[np.float32]

    @classmethod
    def of(cls, field: PositionField, voxels: Grid) -> _VoxelStatistics:
        first = np.rint(field.grid.ijk(voxels.ras((0, 0, 0)))).astype(int)
        box = tuple(slice(a, a + n) for a, n in zip(first, voxels.shape, strict=True))
        grey = _mean_of_27(field.image[box].cpu().numpy())
        low, high = GREY_VALUE_WINDOW
        bins = np.floor((grey - low) / (high - low) * (GREY_BINS - 2)).astype(np.int64) + 1
        step = round(field.fine.grid.spacing_mm[0] / field.grid.spacing_mm[0])
        along = [np.arange(a, a + n) // step - a // step for a, n in zip(first, voxels.shape, strict=True)]
        shape = [int(index[-1]) + 1 for index in along]
        inner = tuple(slice(a // step, a // step + n) for a, n in zip(first, shape, strict=True))
        descriptors = field.fine.latents[(slice(3, None), *inner)].permute(1, 2, 3, 0).flatten(0, 2).cpu().numpy()
        i, j, k = np.ix_(*along)
        return cls(bins.clip(0, GREY_BINS - 1), (i * shape[1] + j) * shape[2] + k, descriptors)

    def grey_distributions(self, share: NDArray[np.float32]) -> NDArray[np.float32]:
        """The smoothed distributions (2, GREY_BINS) of the grey values inside and around an organ that has this share
        of each voxel (i, j, k); no bin is empty.
        """
        counts = _inside_and_around(self.grey_bins, share, self._voxels_of_bins)
        smoothed = gaussian_filter1d(counts, 1.0, axis=1) + 1e-3 * counts.sum(1, keepdims=True)
        return (smoothed / smoothed.sum(1, keepdims=True)).astype(np.float32)

    def mean_descriptors(self, share: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean descriptors (2, D) inside and around an organ that has this share of each voxel (i, j, k)."""
        weights = self._weights_of_cells(share)
        return weights @ self.descriptors / weights.sum(1, keepdims=True)

    def descriptor_covariances(self, share: NDArray[np.float32]) -> NDArray[np.float32]:
        """The covariances (2, D, D) of the descriptors inside and around, as above."""
        weights = self._weights_of_cells(share)
        off = self.descriptors - self.mean_descriptors(share)[:, None]  # (2, cell, D)
        return (weights[..., None] * off).transpose(0, 2, 1) @ off / weights.sum(1)[:, None, None]

    def _weights_of_cells(self, share: NDArray[np.float32]) -> NDArray[np.float32]:
        return _inside_and_around(self.cells, share, self._voxels_of_cells).astype(np.float32)

    @cached_property
    def _voxels_of_bins(self) -> NDArray[np.int64]:
        return np.bincount(self.grey_bins.ravel(), minlength=GREY_BINS)

    @cached_property
    def _voxels_of_cells(self) -> NDArray[np.int64]:
        return np.bincount(self.cells.ravel(), minlength=len(self.descriptors))


def _inside_and_around(
    kinds: NDArray[np.int64], share: NDArray[np.float32], voxels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How many voxels of each kind (2, M) lie in an organ that has a share of each (i, j, k), and how many around it,
    and a trace of them all; ``voxels`` (M,): how many there are of each kind.
    """
    inside = np.bincount(kinds.ravel(), share.ravel(), len(voxels))
    return np.stack([inside, voxels - inside]) + 1e-6 * voxels


def _mean_of_27(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the 3x3x3 values around each of (i, j, k); beyond the border lies the outermost value again.

    Equal to scipy.ndimage.uniform_filter(values, 3, mode="nearest") to 1e-7, in half of its time.
    """
    for axis in range(3):
        total = values.copy()
        ours, theirs = np.moveaxis(total, axis, 0), np.moveaxis(values, axis, 0)
        ours[1:] += theirs[:-1]
        ours[:1] += theirs[:1]
        ours[:-1] += theirs[1:]
        ours[-1:] += theirs[-1:]
        values = total
    return values / np.float32(27.0)


def _near(grid: Grid, points_ras: Points, config: LocalizationConfig) -> Grid:
    """The part of an axis-aligned grid up to a margin around points (N, 3), at least one voxel.

    Points marked on voxels lie exactly on planes between them, where rounding must not decide.
    """
    last = np.array(grid.shape) - 1
    first = np.floor(grid.ijk(points_ras.min(0) - config.margin_mm) + _ROUNDING).astype(int).clip(0, last)
    end = np.ceil(grid.ijk(points_ras.max(0) + config.margin_mm) - _ROUNDING).astype(int).clip(first, last) + 1
    return grid.cropped(first.tolist(), (end - first).tolist())


def _outline(mask: Mask, directions: int) -> Points:
    """The voxels' centres (N, 3) of a mask that lie furthest in so many directions, each once, in RAS mm."""
    known, grid = mask.voxels, mask.grid
    surface_ras = grid.ras(np.argwhere(known & ~binary_erosion(known)))
    # Evenly over the sphere: the golden spiral.
    number = np.arange(directions) + 0.5
    height, turn = 1.0 - 2.0 * number / directions, np.pi * (1.0 + 5.0**0.5) * number
    flat = np.sqrt(1.0 - height**2)
    outward = np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1)
    return surface_ras[np.unique([int(np.argmax(surface_ras @ direction)) for direction in outward])]


def _in_ellipsoid(box: Box, voxels: Grid) -> NDArray[np.float32]:
    """1 in voxels (i, j, k) whose centre lies in the ellipsoid that touches the walls of a box, else 0."""
    off = (voxels.centres_ras() - box.centre_ras) / (0.5 * box.size_mm)
    return (np.square(off).sum(-1) < 1.0).astype(np.float32)


def _in_mask(mask: Mask, voxels: Grid) -> NDArray[np.float32]:
    """How much (0 to 1) a mask covers the centres of voxels (i, j, k), interpolated linearly."""
    known, grid = mask.voxels, mask.grid
    padded = F.pad(torch.from_numpy(np.ascontiguousarray(known)).float(), [1] * 6)
    return sample(padded[None], grid.cropped((-1, -1, -1), list(padded.shape)), voxels.centres_ras())[..., 0]
