"""Bringing unlabelled scans of different people and fields of view into one body frame.

Relative position regression sees one person at a time, so a small and a large patient give the same landmark different
latents. Here all training scans are aligned with each other first, without labels and without a network:

1. *along the body*: every axial slice becomes a coarse picture; a scan is slid along the stack of those already placed
   to where its slices fit best, the best-fitting scans first, so that the stack grows from one scan to the whole range
   of the dataset;
2. *affine, then smooth*: the mean image of all aligned scans is the atlas; each scan is registered to it by gradient
   descent on the squared difference of grey values, first with an affine map, then with a smooth displacement too; then
   the atlas is made anew.

Offsets between places, of one scan or of two people's, are then differences of body coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rprloc.field import sample
from rprloc.geometry import Grid, Points, apply_affine
from rprloc.sampling import TrainingScan, foreground

_STEP = 2  # voxels of the networks' input averaged for alignment: 8 mm
_WINDOW = (0.26, 0.776)  # network inputs of -150 and 275 HU: what scans kept through a display window show, too
_SLICE_SHAPE, _SLICE_STEP = (30, 22), 2  # cells of a slice's picture, and voxels of 8 mm between them
_MIN_OVERLAP = 15  # slices of 8 mm
_STACK = 600  # slices of 8 mm: more than any dataset spans


@dataclass(frozen=True)
class BodyMap:
    """From a scan's world to the common body frame (mm; axes like RAS): an affine and a smooth displacement on top.

    ``displacement_mm`` (3, a, b, c) lies on ``control_grid`` in the scan's world; beyond it the outermost value holds.
    """

    body_from_ras: NDArray[np.float64]
    displacement_mm: NDArray[np.float32]
    control_grid: Grid

    def body(self, points_ras: Points) -> Points:
        """Body coordinates (..., 3) of world points (..., 3)."""
        displacement = sample(torch.from_numpy(self.displacement_mm), self.control_grid, points_ras)
        return apply_affine(self.body_from_ras, points_ras) + displacement


@dataclass
class _Aligned:
    """A scan under alignment: its 8 mm picture, and its current map to the body frame (matrix, shift, displacement)."""

    image: Tensor  # (I, J, K) in [0, 1]
    near: Tensor  # (I, J, K) weight: body and one voxel around it
    grid: Grid
    places: Tensor  # (I, J, K, 3) RAS mm
    matrix: Tensor = field(default_factory=lambda: torch.eye(3))
    shift: Tensor = field(default_factory=lambda: torch.zeros(3))
    displacement: Tensor = field(default_factory=lambda: torch.zeros(3, 2, 2, 2))

    def body(self, matrix: Tensor, shift: Tensor, displacement: Tensor) -> Tensor:
        """Body coordinates (I, J, K, 3) of the voxels under the given map."""
        smooth = F.interpolate(displacement[None], size=self.image.shape, mode="trilinear", align_corners=True)[0]
        return self.places @ matrix.T + shift + smooth.permute(1, 2, 3, 0)

    def body_map(self) -> BodyMap:
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = self.matrix.numpy(), self.shift.numpy()
        a, b, c = self.displacement.shape[1:]
        steps = np.diag([*((np.array(self.image.shape) - 1) / (np.array([a, b, c]) - 1)), 1.0])
        return BodyMap(affine, self.displacement.numpy(), Grid((a, b, c), self.grid.ras_from_ijk @ steps))


def align(scans: Sequence[TrainingScan]) -> list[BodyMap]:
    """The maps of all scans to their common body frame, in the order of ``scans``; deterministic."""
    aligned = [_prepare(scan) for scan in scans]
    _stack_along_body(aligned)
    for iterations, control_mm in ((30, None), (30, None), (40, 64.0), (40, 40.0)):
        atlas, origin_mm = _mean_image(aligned)
        for scan in tqdm(
            aligned, desc="aligning scans, " + ("affine" if control_mm is None else "smooth"), unit="scan"
        ):
            _register(scan, atlas, origin_mm, iterations, control_mm)
    middle_mm = torch.stack([_body_places(scan).mean(0) for scan in aligned]).mean(0)
    for scan in aligned:
        scan.shift = scan.shift - middle_mm
    return [scan.body_map() for scan in aligned]


def _body_places(scan: _Aligned) -> Tensor:
    """Body coordinates (N, 3) of the scan's voxels in and next to the body."""
    return scan.body(scan.matrix, scan.shift, scan.displacement)[scan.near > 0]


def _prepare(scan: TrainingScan) -> _Aligned:
    source = torch.from_numpy(scan.image)[None, None].float() / 255.0
    image = F.avg_pool3d(((source - _WINDOW[0]) / (_WINDOW[1] - _WINDOW[0])).clamp(0.0, 1.0), _STEP)[0, 0]
    body = F.avg_pool3d(foreground(source).float(), _STEP) > 0.3
    affine = scan.grid.ras_from_ijk @ np.diag([_STEP, _STEP, _STEP, 1.0])
    affine[:3, 3] = scan.grid.ras([0.5 * (_STEP - 1)] * 3)
    i, j, k = image.shape
    grid = Grid((i, j, k), affine)
    near = F.max_pool3d(body.float(), 3, 1, 1)[0, 0]
    occupied = near.nonzero()
    first, last = occupied.amin(0), occupied.amax(0) + 1
    box = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    grid = grid.cropped(first.tolist(), (last - first).tolist())
    return _Aligned(image[box], near[box], grid, torch.from_numpy(grid.centres_ras()).float())


def _slice_pictures(scan: _Aligned) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """Coarse pictures (K, cells) of axial slices, which of them (K,) show a body, and its middle (I, J) in voxels."""
    body = (scan.near * scan.image).numpy() > 0.15
    voxels_ijk = np.argwhere(body)
    if len(voxels_ijk) == 0:
        raise ValueError("a scan without any soft tissue cannot be aligned")
    middle = np.median(voxels_ijk, axis=0)[:2]
    axes = [
        2.0 * ((np.arange(cells) - 0.5 * (cells - 1)) * _SLICE_STEP + centre + 0.5) / size - 1.0
        for cells, centre, size in zip(_SLICE_SHAPE, middle, scan.image.shape[:2], strict=True)
    ]
    lattice = torch.from_numpy(np.stack(np.meshgrid(axes[1], axes[0]), axis=-1)).float()
    slices = F.avg_pool2d(scan.image.permute(2, 0, 1)[:, None], 3, 1, 1)
    pictures = F.grid_sample(slices, lattice.expand(len(slices), -1, -1, -1), align_corners=False)
    return pictures.flatten(1).numpy(), body.sum(axis=(0, 1)) > 30, middle


def _stack_along_body(scans: Sequence[_Aligned]) -> None:
    """Set every scan's shift so that the same anatomy has the same height and the body's middle lies at 0 across it."""
    prepared = [_slice_pictures(scan) for scan in scans]
    pictures, shown = [p[0] for p in prepared], [p[1] for p in prepared]
    total, weight = np.zeros((_STACK, pictures[0].shape[1])), np.zeros(_STACK)
    heights: dict[int, int] = {}

    def place(index: int, height: int, sign: int) -> None:
        rows = height + np.flatnonzero(shown[index])
        total[rows] += sign * pictures[index][shown[index]]
        weight[rows] += sign

    def best(index: int) -> tuple[float, int]:
        """The smallest mean squared difference to the stack, relative to the energy of both, and its height."""
        mean, filled = total / np.maximum(weight, 1)[:, None], weight > 0
        mine, visible = pictures[index], shown[index]
        energy = (mine**2).mean(1)[:, None] + (mean**2).mean(1)[None]
        squared = energy - 2.0 * mine @ mean.T / mean.shape[1]
        found = (np.inf, (_STACK - len(mine)) // 2)
        occupied = np.flatnonzero(filled)
        for height in range(max(0, occupied[0] - len(mine)), min(_STACK - len(mine), occupied[-1] + 1)):
            rows = np.flatnonzero(visible & filled[height : height + len(mine)])
            if len(rows) < min(_MIN_OVERLAP, 0.9 * visible.sum()):
                continue
            cost = squared[rows, rows + height].sum() / energy[rows, rows + height].sum() + 0.3 / len(rows)
            found = min(found, (float(cost), height))
        return found

    seed = int(np.argmax([visible.sum() for visible in shown]))
    heights[seed] = (_STACK - len(shown[seed])) // 2
    place(seed, heights[seed], 1)
    with tqdm(total=len(scans), initial=1, desc="stacking scans along the body", unit="scan") as bar:
        while len(heights) < len(scans):
            offers = sorted((*best(index), index) for index in range(len(scans)) if index not in heights)
            for _, height, index in offers[: max(1, len(heights) // 3)]:
                heights[index] = height
                place(index, height, 1)
                bar.update()
    for _ in range(3):
        for index in heights:
            place(index, heights[index], -1)
            if (weight > 0).any():
                heights[index] = best(index)[1]
            place(index, heights[index], 1)
    for index, scan in enumerate(scans):
        middle_ras = scan.grid.ras([*prepared[index][2], 0.0])
        scan.shift = (
            torch.tensor([0.0, 0.0, _STEP * 4.0 * (heights[index] - _STACK // 2)]) - torch.tensor(middle_ras).float()
        )


def _mean_image(scans: Sequence[_Aligned]) -> tuple[Tensor, Tensor]:
    """The atlas (2, A, B, C) at 8 mm: mean image, whether several scans show the place; and its origin (3,)."""
    voxel_mm = float(scans[0].grid.spacing_mm[0])
    where = [_body_places(scan) for scan in scans]
    low = torch.stack([body_mm.amin(0) for body_mm in where]).amin(0)
    high = torch.stack([body_mm.amax(0) for body_mm in where]).amax(0)
    origin_mm = (low / voxel_mm).floor() * voxel_mm
    shape = [int(n) for n in ((high - origin_mm) / voxel_mm).ceil() + 2]
    total, weight = torch.zeros(int(np.prod(shape))), torch.zeros(int(np.prod(shape)))
    limits = torch.tensor(shape)
    for body_mm, scan in zip(where, scans, strict=True):
        ijk = (body_mm - origin_mm) / voxel_mm  # (N, 3)
        values, base = scan.image[scan.near > 0], ijk.floor().long()
        for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
            index = base + corner
            share = (1.0 - (ijk - index).abs()).prod(dim=1)
            ok = ((index >= 0) & (index < limits)).all(dim=1)
            flat = (index[ok, 0] * shape[1] + index[ok, 1]) * shape[2] + index[ok, 2]
            total.index_add_(0, flat, share[ok] * values[ok])
            weight.index_add_(0, flat, share[ok])
    mean = (total / weight.clamp(min=1e-3)).reshape(shape)
    return torch.stack([mean, (weight > 1.0).float().reshape(shape)]), origin_mm


def _register(scan: _Aligned, atlas: Tensor, origin_mm: Tensor, iterations: int, control_mm: float | None) -> None:
    """Improve a scan's map by Adam on the squared grey-value difference to the atlas, plus the displacement's
    roughness.
    """
    voxel_mm = float(scan.grid.spacing_mm[0])
    centre = scan.places[scan.near > 0].mean(0)
    turn, move = torch.zeros(3, 3, requires_grad=True), torch.zeros(3, requires_grad=True)
    parameters = [{"params": [turn], "lr": 0.01}, {"params": [move], "lr": 1.0}]
    displacement = scan.displacement
    if control_mm is not None:
        controls = [max(3, int(np.ceil(n * voxel_mm / control_mm)) + 1) for n in scan.image.shape]
        displacement = F.interpolate(displacement[None], size=controls, mode="trilinear", align_corners=True)[0]
        displacement = displacement.clone().requires_grad_()
        parameters.append({"params": [displacement], "lr": 1.0})
    optimizer = torch.optim.Adam(parameters)
    extent = torch.tensor(atlas.shape[1:])
    for _ in range(iterations):
        body_mm = scan.body(scan.matrix + turn, scan.shift + move - turn @ centre, displacement)
        lattice = (2.0 * (body_mm - origin_mm) / voxel_mm + 1.0) / extent - 1.0
        found = F.grid_sample(atlas[None], lattice[None].flip(-1), padding_mode="border", align_corners=False)[0]
        seen = scan.near * found[1]
        loss = 100.0 * (seen * (found[0] - scan.image).square()).sum() / (seen.sum() + 1.0) + 0.5 * turn.square().sum()
        if control_mm is not None:
            roughness = sum((displacement.diff(dim=axis) / control_mm).square().mean() for axis in (1, 2, 3))
            loss = loss + 2.0 * roughness + 1e-5 * displacement.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scan.matrix = (scan.matrix + turn).detach()
    scan.shift = (scan.shift + move - turn @ centre).detach()
    scan.displacement = displacement.detach()
