"""Where a query shows what surrounds an organ or landmark in a support scan: every place around it is matched.

Registration to the body atlas brings both scans near each other, and the same descriptor then lies within a centimetre
or two. Each place of the query looks around for its descriptor among the support's (a softmax over a window, as in the
fine match). What it finds tells two things: how far the map to the body frame is off, once it is smoothed; and how much
of the organ the place shows, if it shows what it looks like.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from rprloc.geometry import Grid
from rprloc.localization.config import DEFAULT, LocalizationConfig
from rprloc.localization.support import Support, SupportTarget
from rprloc.localization.surroundings import CELL_MM, Surroundings, reduce_descriptors
from rprloc.model.body import BodyMap, sample
from rprloc.model.field import PositionField

_TILE = 4  # cells along each edge of the blocks that are matched at once
_TOLERANCE_MM = 0.5
_LEAST_SHARE = 5  # of an organ, in 255ths: a cell with less lies around it
_AS_NOTHING = 0.01  # the weight of places that did not move, where none was matched


@dataclass(frozen=True, eq=False)
class DenseMatch:
    """What a query shows of an organ or landmark of one support.

    ``body``: the query's map to the body frame, moved so that it leads to the support's own places. ``share`` (A, B, C)
    on ``lattice``, a grid in the body frame: how much of the organ the query shows where its ``registered`` map, not
    moved, leads there.
    """

    body: BodyMap
    registered: BodyMap
    share: Tensor
    lattice: Grid

    def sampled_on(self, voxels: Grid) -> NDArray[np.float32]:
        """The share (I, J, K) in voxels of the query; axes as in :meth:`BodyMap.sampled_on`."""
        return self.registered.sampled_on(self.share[None], self.lattice, voxels)[..., 0]


@dataclass(frozen=True, eq=False)
class _Block:
    """A block of the lattice that begins at the cell ``first`` (3,), of whole tiles and a window around them.

    ``displacement_mm`` (A, B, C, 3) and ``shares`` (A, B, C, n): what the cells that were looked at have found.
    ``shown`` (A, B, C): which of these the query shows.
    """

    first: NDArray[np.int64]
    displacement_mm: NDArray[np.float32]
    shares: NDArray[np.float32]
    shown: NDArray[np.bool_]


def describe_surroundings(
    targets: Iterable[SupportTarget], field: PositionField, config: LocalizationConfig = DEFAULT
) -> Surroundings:
    """The surroundings of targets in their own scan, about as far around them as :func:`match_densely` looks."""
    targets = list(targets)
    if not targets:
        return Surroundings.none()
    reach_mm = config.surroundings_mm + CELL_MM * config.dense_window_cells
    cells = np.unique(np.concatenate([_cells_around(target, reach_mm) for target in targets]), axis=0)
    places_ras = field.body.ras(CELL_MM * cells, _TOLERANCE_MM)
    shown = field.grid.contains(places_ras)
    return Surroundings.of(cells[shown].astype(np.int16), _descriptors_at(field, places_ras[shown]))


def match_densely(
    support: Support, names: Iterable[str], field: PositionField, config: LocalizationConfig = DEFAULT
) -> dict[str, DenseMatch]:
    """What a query shows of organs and landmarks of a support, by name. Each is found from its own surroundings
    alone, whichever others are sought; none without surroundings.
    """
    targets = support.targets
    sought = [targets[name] for name in names]
    zones = [_cells_around(target, config.surroundings_mm) for target in sought]
    if len(support.surroundings.cells) == 0 or not any(len(zone) for zone in zones):
        return {}
    block = _match(support, sought, np.concatenate(zones), field, config)
    controls_mm = field.body.body(field.body.control_grid.centres_ras())
    return {
        target.name: _of_target(zone, block, number, field, controls_mm, config)
        for number, (target, zone) in enumerate(zip(sought, zones, strict=True))
        if len(zone)
    }


def _cells_around(target: SupportTarget, reach_mm: float) -> NDArray[np.int64]:
    """The cells (N, 3) that show a target in its support scan, and those up to so far around them."""
    margin = int(np.ceil(reach_mm / CELL_MM))
    outside = np.pad(target.occupancy < _LEAST_SHARE, margin, constant_values=True)
    if outside.all():
        return np.zeros((0, 3), np.int64)
    near = np.argwhere(distance_transform_edt(outside) * CELL_MM <= reach_mm)
    return near + target.first_cell - margin


def _descriptors_at(field: PositionField, places_ras: NDArray[np.float64]) -> NDArray[np.float32]:
    """The unit descriptors (N, D) of a scan at world places (N, 3), interpolated."""
    found = sample(field.fine.latents[3:], field.fine.grid, places_ras)
    return found / (np.linalg.norm(found, axis=1, keepdims=True) + np.float32(1e-6))


def _match(
    support: Support,
    targets: list[SupportTarget],
    cells: NDArray[np.int64],
    field: PositionField,
    config: LocalizationConfig,
) -> _Block:
    """Match the cells (N, 3), tile by tile: all cells of a tile to all that any of them may look at, in one product."""
    window = config.dense_window_cells
    tiles = np.unique(cells // _TILE, axis=0)
    first = _TILE * tiles.min(0) - window
    edges = _TILE * (tiles.max(0) - tiles.min(0) + 1) + 2 * window
    shape = (int(edges[0]), int(edges[1]), int(edges[2]))
    descriptors, known = support.surroundings.on(first, shape)
    occupancy = np.stack([_occupancy(target, first, shape) for target in targets], axis=-1)
    within = np.stack(np.meshgrid(*[np.arange(_TILE)] * 3, indexing="ij"), -1).reshape(-1, 3)
    inner = (_TILE * tiles[:, None] + within - first).reshape(-1, 3)  # tile by tile
    places_ras = field.body.ras(CELL_MM * (inner + first), _TOLERANCE_MM)
    # Where the example's scan ends, what lies beyond could be matched with its inside alone, to one side.
    shown = field.grid.contains(places_ras) & known[tuple(inner.T)]
    query = torch.from_numpy(reduce_descriptors(_descriptors_at(field, places_ras), support.surroundings.basis))
    query = query.unflatten(0, (len(tiles), -1)) / config.match_temperature
    theirs, unknown = torch.from_numpy(descriptors), torch.from_numpy(np.where(known, 0.0, -1e9).astype(np.float32))
    organ_share = torch.from_numpy(occupancy)
    prior, offsets_mm, own_mm = _window(window, config.dense_prior_mm)
    found = torch.empty(len(tiles), len(within), 3 + len(targets))
    side = _TILE + 2 * window
    for number, corner in enumerate((_TILE * tiles - window - first).tolist()):
        box = tuple(slice(a, a + side) for a in corner)
        score = torch.addmm(prior, query[number], theirs[box].flatten(0, 2).T) + unknown[box].flatten()
        weight = torch.softmax(score, dim=1)
        found[number, :, :3] = weight @ offsets_mm - own_mm
        found[number, :, 3:] = weight @ organ_share[box].flatten(0, 2)
    matched = found.flatten(0, 1).numpy()
    displacement_mm, seen = np.zeros((*shape, 3), np.float32), np.zeros(shape, bool)
    where = tuple(inner[shown].T)
    displacement_mm[where], occupancy[where], seen[where] = matched[shown, :3], matched[shown, 3:], True
    return _Block(first, displacement_mm, occupancy, seen)


def _window(window: int, prior_mm: float) -> tuple[Tensor, Tensor, Tensor]:
    """For the cells (n,) of a tile and those (m,) that they may look at: the log prior (n, m), and where in mm from the
    tile's first cell these (m, 3) and those (n, 3) lie.
    """
    inner, outer = (
        CELL_MM * torch.cartesian_prod(*[torch.arange(a, b)] * 3).float()
        for a, b in ((0, _TILE), (-window, _TILE + window))
    )
    away_mm = (outer - inner[:, None]).abs()
    prior = -0.5 * (away_mm / prior_mm).square().sum(-1)
    return prior.masked_fill((away_mm > CELL_MM * window).any(-1), -1e9), outer, inner


def _occupancy(target: SupportTarget, first: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A target's occupancy (A, B, C), 0 to 1, on a block of the lattice."""
    own = target.occupancy
    begin = target.first_cell - first
    low, high = np.maximum(begin, 0), np.minimum(begin + own.shape, shape)
    block = np.zeros(shape, np.float32)
    if (high > low).all():
        inside, part = (
            tuple(slice(a, b) for a, b in zip(low - off, high - off, strict=True)) for off in (np.zeros(3, int), begin)
        )
        block[inside] = own[part] / np.float32(255.0)
    return block


def _of_target(
    zone: NDArray[np.int64],
    block: _Block,
    number: int,
    field: PositionField,
    controls_mm: NDArray[np.float64],
    config: LocalizationConfig,
) -> DenseMatch:
    """The match of one target, from the cells around it; ``controls_mm`` (I, J, K, 3) is where the controls of the
    query's map lie in the body frame.
    """
    first = zone.min(0) - config.dense_window_cells
    shape = zone.max(0) + config.dense_window_cells - first + 1
    box = tuple(slice(a, a + n) for a, n in zip(first - block.first, shape, strict=True))
    lattice = Grid.isotropic(shape.tolist(), CELL_MM, CELL_MM * first)
    near = np.zeros(shape, bool)
    near[tuple((zone - first).T)] = True
    weight = (near & block.shown[box]).astype(np.float32)
    width = config.displacement_smoothing_mm / CELL_MM
    total = gaussian_filter(weight, width, mode="constant") + np.float32(_AS_NOTHING)
    found_mm = block.displacement_mm[box]
    moved_mm, squared_mm2 = (
        np.stack([gaussian_filter(weight * values[..., axis], width, mode="constant") / total for axis in range(3)])
        for values in (found_mm, np.square(found_mm))
    )
    # What may as well be chance moves nothing (the positive part of James and Stein's estimator).
    signal_mm2 = np.square(moved_mm).sum(0)
    chance_mm2 = (squared_mm2.sum(0) - signal_mm2).clip(0.0) / config.displacement_votes
    certain = (1.0 - chance_mm2 / (signal_mm2 + 1e-6)).clip(0.0)
    further = np.float32(config.displacement_further) * (certain * moved_mm).astype(np.float32)
    by_mm = sample(torch.from_numpy(further), lattice, controls_mm)
    moved = replace(field.body, displacement_mm=field.body.displacement_mm + np.moveaxis(by_mm, -1, 0))
    return DenseMatch(moved, field.body, torch.from_numpy(block.shares[box][..., number].copy()), lattice)
