"""An organ's own shape and voxels: what they look like in the support, and where a query shows them.

Registration tells where an organ should be; two thirds of the error that it leaves are of size and contour. Which part
of the organ reaches furthest may differ between people, so its whole outline goes to the query, not six points alone.
Then each voxel of the networks' input near that place is judged: by the support's shape there (the prior), by its grey
value and by the fine descriptor of its cell. What inside and around the organ look like is taken from the support and
adapted to the query as voxels are judged (expectation maximization with a spatial prior: Van Leemput et al., IEEE TMI
18, 1999). How far each wall that comes out is to be trusted is measured in the support, with priors out of place.
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
from rprloc.localization.support import GREY_BINS, Appearance
from rprloc.model.body import sample
from rprloc.model.field import PositionField

_GREY_WINDOW = (0.26, 0.78)  # of the network's input, as in registration; a bin each for what lies below and above

SHAPE_SPACING_MM = 8.0  # of the lattice in the body frame

_SMOOTHING_MM = 8.0  # how far registration may be wrong

_MARGIN_MM = 30.0

_ROUNDS = 4

_FROM_SUPPORT = 0.5  # of the statistics in every round; the rest is the query's own

_GREY_WEIGHT, _DESCRIPTOR_WEIGHT, _NEIGHBOURS_WEIGHT = 0.5, 0.3, 1.0

_PRIOR_FLOOR = 0.002

_DESCRIPTOR_NOISE = 0.006  # the variance of a descriptor's channel between patients at one place of the body

_LEAST_VOXELS = 10.0

_TAIL = 0.005  # the share of the organ left outside of each wall

_DISPLACED_MM = 15.0

_FAR_MM = 25.0  # a judged wall that lies further from the registered one has found something else

_DIRECTIONS = 100  # of the outline

_ROUNDING = 1e-3  # of a voxel


def learned_appearance(field: PositionField, points_ras: Points, mask: Mask | None) -> Appearance:
    """The appearance of an organ in its support scan, from its extreme points (6, 3) and, if there is one, its mask.

    Without a mask the ellipsoid in the box stands for it.
    """
    box = Box.from_extreme_points(points_ras)
    voxels = _near(field.grid, points_ras)
    inside = _in_ellipsoid(box, voxels) if mask is None else _in_mask(mask, voxels)
    smoothed = gaussian_filter(inside, _SMOOTHING_MM / field.grid.spacing_mm, mode="nearest")
    corners_ijk = np.stack(np.meshgrid(*[(0, n - 1) for n in voxels.shape]), -1).reshape(-1, 3)
    corners_body = field.body.body(voxels.ras(corners_ijk))
    origin_body_mm = corners_body.min(0)
    shape = np.ceil((corners_body.max(0) - origin_body_mm) / SHAPE_SPACING_MM).astype(int) + 1
    lattice = Grid.isotropic(shape.tolist(), SHAPE_SPACING_MM, origin_body_mm)
    occupancy = sample(torch.from_numpy(smoothed)[None], voxels, field.body.ras(lattice.centres_ras()))[..., 0]

    seen = _Seen.of(field, voxels)
    covariance = seen.descriptor_covariances(inside).mean(0)
    outline_ras = np.zeros((0, 3)) if mask is None else _outline(mask)
    appearance = Appearance(
        outline_body_mm=field.body.body(outline_ras).astype(np.float32),
        occupancy=np.rint(255.0 * occupancy.clip(0.0, 1.0)).astype(np.uint8),
        origin_body_mm=origin_body_mm,
        grey=seen.grey_distributions(inside),
        descriptors=seen.mean_descriptors(inside),
        precision=np.linalg.inv(covariance + _DESCRIPTOR_NOISE * np.eye(len(covariance))).astype(np.float32),
        bias_mm=np.zeros(6),
        trust=np.zeros(6),
    )
    return _with_trust(appearance, field, points_ras)


def judged_walls(
    appearance: Appearance, field: PositionField, near_ras: Points, displaced_mm: ArrayLike = (0.0, 0.0, 0.0)
) -> NDArray[np.float64] | None:
    """The walls (6,) of the organ around places ``near_ras`` (N, 3), from its own voxels; None if hardly any show it.

    The prior may be displaced (by mm of the scan's world), to see what that does.
    """
    voxels = _near(field.grid, near_ras)
    lattice = Grid.isotropic(appearance.occupancy.shape, SHAPE_SPACING_MM, appearance.origin_body_mm)
    occupancy = F.pad(torch.from_numpy(appearance.occupancy), [1] * 6).float() / 255.0
    padded = lattice.cropped((-1, -1, -1), list(occupancy.shape))  # nothing of the organ lies beyond the lattice
    displaced = voxels.ras_from_ijk.copy()
    displaced[:3, 3] += np.asarray(displaced_mm)
    prior = field.body.sampled_on(occupancy[None], padded, Grid(voxels.shape, displaced))[..., 0]
    prior = prior.clip(_PRIOR_FLOOR, 1.0 - _PRIOR_FLOOR)
    share = _judged(appearance, _Seen.of(field, voxels), prior)
    organ = ((share - 0.3) / 0.4).clip(0.0, 1.0)  # soft, so that little changes move the walls little
    if organ.sum() < _LEAST_VOXELS:
        return None
    walls = np.empty((3, 2))
    for axis in range(3):
        profile = organ.sum(axis=tuple(other for other in range(3) if other != axis))
        below = np.concatenate([[0.0], np.cumsum(profile / profile.sum() + 1e-9)])
        faces_mm = voxels.bounds.min_ras[axis] + voxels.spacing_mm[axis] * np.arange(len(profile) + 1)
        walls[axis] = np.interp([_TAIL, 1.0 - _TAIL], below, faces_mm)
    return walls.reshape(6)


def _judged(appearance: Appearance, seen: _Seen, prior: NDArray[np.float32]) -> NDArray[np.float32]:
    """The organ's share of each voxel (i, j, k), given the prior (i, j, k)."""
    prior_odds = np.log(prior / (1.0 - prior))
    grey, descriptors, share = appearance.grey, appearance.descriptors, prior
    kept = np.float32(_FROM_SUPPORT)
    for _ in range(_ROUNDS):
        direction = appearance.precision @ (descriptors[0] - descriptors[1])
        threshold = 0.5 * (descriptors[0] + descriptors[1]) @ direction
        odds = prior_odds + _NEIGHBOURS_WEIGHT * (2.0 * _mean_of_27(share) - 1.0)
        odds += np.take(_GREY_WEIGHT * np.log(grey[0] / grey[1]), seen.grey_bins)
        odds += np.take(_DESCRIPTOR_WEIGHT * (seen.descriptors @ direction - threshold), seen.cells)
        share = 1.0 / (1.0 + np.exp(-odds))
        own_grey, own_descriptors = seen.grey_distributions(share), seen.mean_descriptors(share)
        grey = kept * appearance.grey + (1 - kept) * own_grey
        descriptors = kept * appearance.descriptors + (1 - kept) * own_descriptors
    return share


def _with_trust(appearance: Appearance, field: PositionField, points_ras: Points) -> Appearance:
    """The appearance with its ``bias_mm`` and ``trust``, from the support's own scan.

    The prior is displaced both ways along every axis. Walls that come back nevertheless are worth much; walls that go
    along with the prior, or do not lie where they were marked in the first place, are worth little.
    """
    marked_mm = Box.from_extreme_points(points_ras).walls_mm
    found_mm = judged_walls(appearance, field, points_ras)
    if found_mm is None:
        return appearance
    bias_mm = found_mm - marked_mm
    squared_mm2 = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            away_mm = np.zeros(3)
            away_mm[axis] = sign * _DISPLACED_MM
            walls_mm = judged_walls(appearance, field, points_ras, away_mm)
            moved_mm = -np.repeat(away_mm, 2) if walls_mm is None else walls_mm - found_mm
            squared_mm2.append(np.square(moved_mm))
    prior_mm2 = _DISPLACED_MM**2 / 3.0  # what the displacements come to on average
    trust = prior_mm2 / (prior_mm2 + np.mean(squared_mm2, axis=0) + np.square(bias_mm))
    end_mm = field.grid.bounds.walls_mm
    trust[4:] *= np.abs(marked_mm - end_mm)[4:] > _DISPLACED_MM  # where the scan ends, a wall cannot but come back
    return replace(appearance, bias_mm=bias_mm, trust=trust)


def refined(appearance: Appearance, field: PositionField, points_ras: Points, shift_mm: ArrayLike) -> Points:
    """Located extreme points (6, 3), stretched along each axis: walls that the outline passes move out to it, then all
    move towards the judged ones by trust, and the less the further these are away.

    ``shift_mm`` (3,): how far they lie from where the map to the body frame alone would put them; the prior goes along.
    """
    walls_mm = wall_coordinates(points_ras)
    outline_ras = field.body.ras(appearance.outline_body_mm.astype(float)) + np.asarray(shift_mm)
    for wall, sign in enumerate(np.tile([-1.0, 1.0], 3) if len(outline_ras) else ()):
        walls_mm[wall] = sign * max(sign * walls_mm[wall], (sign * outline_ras[:, wall // 2]).max())
    found_mm = judged_walls(appearance, field, points_ras, -np.asarray(shift_mm))
    if found_mm is not None:
        away_mm = found_mm - appearance.bias_mm - walls_mm
        walls_mm = walls_mm + appearance.trust * away_mm / (1.0 + np.square(away_mm / _FAR_MM))
    moved = points_ras.copy()
    for axis in range(3):
        low, high = 2 * axis, 2 * axis + 1
        now_mm, then_mm = points_ras[[low, high], axis], walls_mm[[low, high]]
        if now_mm[1] - now_mm[0] < 1.0 or then_mm[1] - then_mm[0] < 1.0:
            continue  # walls that have crossed are no size to stretch
        moved[:, axis] = then_mm[0] + (points_ras[:, axis] - now_mm[0]) * np.diff(then_mm) / np.diff(now_mm)
    return moved


@dataclass(frozen=True, eq=False)
class _Seen:
    """Some voxels (i, j, k) of a scan: their ``grey_bins`` (i, j, k), and for each of the ``cells`` (i, j, k) of the
    fine lattice that they lie in its ``descriptors`` (cell, D).
    """

    grey_bins: NDArray[np.int64]
    cells: NDArray[np.int64]
    descriptors: NDArray[np.float32]

    @classmethod
    def of(cls, field: PositionField, voxels: Grid) -> _Seen:
        first = np.rint(field.grid.ijk(voxels.ras((0, 0, 0)))).astype(int)
        box = tuple(slice(a, a + n) for a, n in zip(first, voxels.shape, strict=True))
        grey = _mean_of_27(field.image[box].cpu().numpy())
        low, high = _GREY_WINDOW
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
    """The mean of the 3x3x3 values around each of (i, j, k); beyond the border lies the outermost value again."""
    for axis in range(3):
        total = values.copy()
        ours, theirs = np.moveaxis(total, axis, 0), np.moveaxis(values, axis, 0)
        ours[1:] += theirs[:-1]
        ours[:1] += theirs[:1]
        ours[:-1] += theirs[1:]
        ours[-1:] += theirs[-1:]
        values = total
    return values / np.float32(27.0)


def _near(grid: Grid, points_ras: Points) -> Grid:
    """The part of an axis-aligned grid up to a margin around points (N, 3), at least one voxel.

    Points marked on voxels lie exactly on planes between them, where rounding must not decide.
    """
    last = np.array(grid.shape) - 1
    first = np.floor(grid.ijk(points_ras.min(0) - _MARGIN_MM) + _ROUNDING).astype(int).clip(0, last)
    end = np.ceil(grid.ijk(points_ras.max(0) + _MARGIN_MM) - _ROUNDING).astype(int).clip(first, last) + 1
    return grid.cropped(first.tolist(), (end - first).tolist())


def _outline(mask: Mask) -> Points:
    """The voxels' centres (N, 3) of a mask that lie furthest in _DIRECTIONS directions, each once, in RAS mm."""
    known, grid = mask
    surface_ras = grid.ras(np.argwhere(known & ~binary_erosion(known)))
    # Evenly over the sphere: the golden spiral.
    number = np.arange(_DIRECTIONS) + 0.5
    height, turn = 1.0 - 2.0 * number / _DIRECTIONS, np.pi * (1.0 + 5.0**0.5) * number
    flat = np.sqrt(1.0 - height**2)
    directions = np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1)
    return surface_ras[np.unique([int(np.argmax(surface_ras @ direction)) for direction in directions])]


def _in_ellipsoid(box: Box, voxels: Grid) -> NDArray[np.float32]:
    """1 in voxels (i, j, k) whose centre lies in the ellipsoid that touches the walls of a box, else 0."""
    off = (voxels.centres_ras() - box.centre_ras) / (0.5 * box.size_mm)
    return (np.square(off).sum(-1) < 1.0).astype(np.float32)


def _in_mask(mask: Mask, voxels: Grid) -> NDArray[np.float32]:
    """How much (0 to 1) a mask covers the centres of voxels (i, j, k), interpolated linearly."""
    known, grid = mask
    padded = F.pad(torch.from_numpy(np.ascontiguousarray(known)).float(), [1] * 6)
    return sample(padded[None], grid.cropped((-1, -1, -1), list(padded.shape)), voxels.centres_ras())[..., 0]
