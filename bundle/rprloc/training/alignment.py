"""Bringing unlabelled scans of different people and fields of view into one body frame.

Relative position regression sees one person at a time, so a small and a large patient give the same landmark different
latents. Here all training scans are aligned with each other first, without labels and without a network:

1. *along the body*: every axial slice becomes a coarse picture; a scan is slid along the stack of those already placed
   to where its slices fit best, the best-fitting scans first, so that the stack grows from one scan to the whole range
   of the dataset;
2. *affine, then smooth*: the mean picture of all aligned scans is the atlas; each scan is registered to it
   (``registration.py``), first with an affine map, then with a smooth displacement too; then the atlas is made anew.

Offsets between places, of one scan or of two people's, are then differences of body coordinates.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from rprloc.errors import InputError
from rprloc.geometry import Grid, lps_from_ras, ras_from_lps
from rprloc.intensity import SOFT_TISSUE_SHARE
from rprloc.model.body import BodyAtlas, BodyMap
from rprloc.model.looks import REGISTRATION_SPACING_MM, RegistrationImage, Stage, Stages, grey
from rprloc.model.registration import register
from rprloc.training.sampling import TrainingScan
from rprloc.volume import to_sitk

_log = logging.getLogger(__name__)

_SLICE_SHAPE, _SLICE_STEP = (30, 22), 2  # cells of a slice's picture, and voxels of 8 mm between them
_MIN_OVERLAP = 15  # slices of 8 mm
_EXPECTED = 10  # slices of 8 mm: how far from where a network sees it a scan may come to lie
_STACK = 600  # slices of 8 mm: more than any dataset spans
_FARTHEST_MM, _LARGEST = 80.0, 1.5  # of a map between atlases that is believed: the middle's way, and the growth

_ROUNDS: Sequence[Stages] = (
    (Stage(40, None, grey),),
    (Stage(40, None, grey),),
    (Stage(20, None, grey), Stage(40, 64.0, grey)),
    (Stage(20, 64.0, grey), Stage(40, 40.0, grey)),
    (Stage(40, 40.0, grey),),
)
"""The atlas is made anew before each round. Grey values alone, and no more rounds: docs/experiments.md, E5 and E6."""


def align(
    scans: Sequence[TrainingScan],
    makers: Sequence[int] | None = None,
    *,
    starts: Sequence[BodyMap] | None = None,
) -> tuple[list[BodyMap], BodyAtlas]:
    """The maps of all scans to their common body frame, in the order of ``scans``, and the atlas; deterministic.

    Only the scans with the indices ``makers`` (by default all) make the frame; the others are brought into it. The time
    grows with the square of the number of makers. ``starts``: about where in a body the scans lie, as a network sees
    it: then scans that share no anatomy do not come to lie anywhere.
    """
    images = [_registration_image(scan) for scan in scans]
    makers = range(len(scans)) if makers is None else makers
    making = [images[n] for n in makers]
    heights_mm = None
    if starts is not None:
        ends_ras = [image.grid.ras((0.5 * image.grid.shape[0], 0.5 * image.grid.shape[1], 0.0)) for image in images]
        heights_mm = [float(start.body(end_ras)[2]) for start, end_ras in zip(starts, ends_ras, strict=True)]
    maps = _stack_along_body(images, makers, heights_mm)
    for number, stages in enumerate(_ROUNDS, 1):
        atlas = _mean_image(making, [maps[n] for n in makers])
        progress = tqdm(zip(images, maps, strict=True), f"registering scans, round {number}", len(scans), unit="scan")
        maps = [register(image, atlas, start, stages) for image, start in progress]
    middle_mm = np.mean([maps[n].body(images[n].places_ras).mean(0) for n in makers], 0)
    to_middle = np.eye(4)
    to_middle[:3, 3] = -middle_mm
    maps = [body_map.followed_by(to_middle) for body_map in maps]
    return maps, _mean_image(making, [maps[n] for n in makers])


def _registration_image(scan: TrainingScan) -> RegistrationImage:
    return RegistrationImage.of(scan.as_input())


def _slice_images(scan: RegistrationImage) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """Coarse pictures (K, cells) of axial slices, which of them (K,) show a body, and its middle (I, J) in voxels."""
    body = (scan.near * scan.image).numpy() > SOFT_TISSUE_SHARE
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
    images = F.grid_sample(slices, lattice.expand(len(slices), -1, -1, -1), align_corners=False)
    return images.flatten(1).numpy(), body.sum(axis=(0, 1)) > 30, middle


def _stack_along_body(
    scans: Sequence[RegistrationImage], makers: Sequence[int], heights_mm: Sequence[float] | None
) -> list[BodyMap]:
    """A shift for every scan: the same anatomy comes to the same height, the body's middle to 0 across it.

    ``heights_mm``: where the first slices lie, about; scans come near to it.
    """
    prepared = [_slice_images(scan) for scan in scans]
    images, shown = [p[0] for p in prepared], [p[1] for p in prepared]
    total, weight = np.zeros((_STACK, images[0].shape[1])), np.zeros(_STACK)
    heights: dict[int, int] = {}

    def place(index: int, height: int, sign: int) -> None:
        rows = height + np.flatnonzero(shown[index])
        total[rows] += sign * images[index][shown[index]]
        weight[rows] += sign

    def best(index: int) -> tuple[float, int]:
        """The smallest mean squared difference to the stack, relative to the energy of both, and its height."""
        mean, filled = total / np.maximum(weight, 1)[:, None], weight > 0
        mine, visible = images[index], shown[index]
        energy = (mine**2).mean(1)[:, None] + (mean**2).mean(1)[None]
        squared = energy - 2.0 * mine @ mean.T / mean.shape[1]
        lowest, highest = 0, _STACK - len(mine)
        offer = (np.inf, highest // 2)
        if heights_mm is not None:
            expected = heights[seed] + round((heights_mm[index] - heights_mm[seed]) / REGISTRATION_SPACING_MM)
            expected = min(max(expected, lowest), highest)
            offer = (np.inf, expected)
            lowest, highest = max(lowest, expected - _EXPECTED), min(highest, expected + _EXPECTED + 1)
        occupied = np.flatnonzero(filled)
        for height in range(max(lowest, occupied[0] - len(mine)), min(highest, occupied[-1] + 1)):
            rows = np.flatnonzero(visible & filled[height : height + len(mine)])
            if len(rows) < min(_MIN_OVERLAP, 0.9 * visible.sum()):
                continue
            cost = squared[rows, rows + height].sum() / energy[rows, rows + height].sum() + 0.3 / len(rows)
            offer = min(offer, (float(cost), height))
        return offer

    seed = max(makers, key=lambda index: shown[index].sum())
    heights[seed] = (_STACK - len(shown[seed])) // 2
    place(seed, heights[seed], 1)
    with tqdm(total=len(makers), initial=1, desc="stacking scans along the body", unit="scan") as bar:
        while len(heights) < len(makers):
            offers = sorted((*best(index), index) for index in makers if index not in heights)
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
    heights |= {index: best(index)[1] for index in range(len(scans)) if index not in heights}
    maps = []
    for index, scan in enumerate(scans):
        middle_ras = scan.grid.ras([*prepared[index][2], 0.0])
        height_mm = REGISTRATION_SPACING_MM * (heights[index] - _STACK // 2)
        maps.append(BodyMap.affine(np.eye(3), np.array([0.0, 0.0, height_mm]) - middle_ras))
    return maps


def mean_image(scans: Sequence[TrainingScan], maps: Sequence[BodyMap], like: BodyAtlas) -> BodyAtlas:
    """The atlas of scans under their maps, on the grid of another atlas."""
    return _mean_image([_registration_image(scan) for scan in scans], maps, like.grid)


def find_affine(atlas: BodyAtlas, other: BodyAtlas) -> NDArray[np.float64]:
    """The affine map (4, 4) of the body frame, mm, that brings an atlas into line with one of another modality.

    Mattes' mutual information (IEEE Trans. Med. Imaging 22 (1), 2003) of the mean images where the atlas is known, by
    SimpleITK. Both should lie within some centimetres of each other. A map that leads further than people differ is not
    believed: then it is the identity, with a warning.

    Raises InputError if the atlases do not overlap.
    """
    mean, known = atlas.values.cpu().numpy()
    fixed, moving = to_sitk(mean, atlas.grid), to_sitk(other.values[0].cpu().numpy(), other.grid)
    transform = sitk.AffineTransform(3)
    middle_ras = atlas.grid.ras(np.argwhere(known > 0.5).mean(axis=0))
    transform.SetCenter(lps_from_ras(middle_ras).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(to_sitk((known > 0.5).astype(np.uint8), atlas.grid))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(4.0, 0.01, 200, relaxationFactor=0.7)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([2.0, 1.0])
    method.SetInitialTransform(transform, inPlace=False)
    try:
        found = method.Execute(fixed, moving)
    except RuntimeError as error:
        raise InputError(
            "The scans of the two modalities cannot be brought into line: they hardly show the same parts of the body. "
            "Train on scans of the same parts, or for each modality alone."
        ) from error
    corners_ras = np.vstack([middle_ras, middle_ras + 100.0 * np.eye(3)])
    moved_ras = ras_from_lps([found.TransformPoint(corner.tolist()) for corner in lps_from_ras(corners_ras)])
    affine = np.eye(4)
    affine[:3, :3] = (moved_ras[1:] - moved_ras[0]).T / 100.0
    affine[:3, 3] = moved_ras[0] - affine[:3, :3] @ middle_ras
    sizes = np.linalg.svd(affine[:3, :3], compute_uv=False)
    believed = (
        np.linalg.norm(moved_ras[0] - middle_ras) < _FARTHEST_MM and sizes[2] > 1 / _LARGEST and sizes[0] < _LARGEST
    )
    if not believed:
        _log.warning(
            "The mean images of the two modalities do not come into line, so the scans of the second lie where the "
            "coarse network sees them. Check that the scans of both show the same parts of the body."
        )
    return affine if believed else np.eye(4)


def _mean_image(images: Sequence[RegistrationImage], maps: Sequence[BodyMap], grid: Grid | None = None) -> BodyAtlas:
    """The atlas of scans under their current maps; by default on a grid around all of them."""
    voxel_mm = float(images[0].grid.spacing_mm[0])
    where = [
        torch.from_numpy(body_map.body(image.places_ras)).float() for image, body_map in zip(images, maps, strict=True)
    ]  # (N, 3) each
    if grid is None:
        low = torch.stack([body_mm.amin(0) for body_mm in where]).amin(0)
        high = torch.stack([body_mm.amax(0) for body_mm in where]).amax(0)
        origin_mm = (low / voxel_mm).floor() * voxel_mm
        shape = [int(n) for n in ((high - origin_mm) / voxel_mm).ceil() + 2]
    else:
        origin_mm, shape = torch.from_numpy(grid.ras(np.zeros(3))).float(), list(grid.shape)
    total, weight = torch.zeros(int(np.prod(shape))), torch.zeros(int(np.prod(shape)))
    limits = torch.tensor(shape)
    for body_mm, image in zip(where, images, strict=True):
        ijk = (body_mm - origin_mm) / voxel_mm
        values, base = image.values, ijk.floor().long()
        for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
            index = base + corner
            share = (1.0 - (ijk - index).abs()).prod(dim=1)
            ok = ((index >= 0) & (index < limits)).all(dim=1)
            flat = (index[ok, 0] * shape[1] + index[ok, 1]) * shape[2] + index[ok, 2]
            total.index_add_(0, flat, share[ok] * values[ok])
            weight.index_add_(0, flat, share[ok])
    mean = (total / weight.clamp(min=1e-3)).reshape(shape)
    return BodyAtlas.at(torch.stack([mean, (weight > 1.0).float().reshape(shape)]), origin_mm.double().numpy())
