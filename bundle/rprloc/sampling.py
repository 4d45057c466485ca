"""Random training crops: which scan, which place, which transform. All randomness takes a generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rprloc.geometry import Grid, apply_affine

FOREGROUND_INPUT = 0.03
"""Mean network input (about -880 HU) above which the 5x5x5 voxels around a place count as body, lung included."""

_CLIP_LOW, _CLIP_HIGH = 0.29, 0.776  # network inputs of a scan kept through the display window [-125, 275] HU


@dataclass(frozen=True)
class TrainingScan:
    """One unlabelled scan at network spacing: its input as uint8 (I, J, K), 255 for 1.0, on an isotropic RAS grid."""

    name: str
    group: str
    image: NDArray[np.uint8]
    grid: Grid
    body_ijk: NDArray[np.int16]

    @classmethod
    def from_array(cls, name: str, group: str, image: NDArray[np.uint8], grid: Grid) -> TrainingScan:
        inside = foreground(torch.from_numpy(image)[None, None].float() / 255.0)[0, 0].numpy()
        return cls(name, group, image, grid, np.argwhere(inside).astype(np.int16))


@dataclass(frozen=True)
class Crops:
    """Crops of one scan under one transform.

    ``images``: (N, 1, I, J, K) in [0, 1]. ``augmented_mm`` and ``source_ras`` (N, i, j, k, 3): the place of every network output in
    the common augmented frame of these crops, and where it came from in the scan. ``inside`` (N, i, j, k): whether it is body.
    """

    images: Tensor
    augmented_mm: Tensor
    source_ras: Tensor
    inside: Tensor


def foreground(image: Tensor) -> Tensor:
    """Whether each voxel of (N, 1, I, J, K) network input in [0, 1] is body, by the mean of the 5x5x5 voxels around it."""
    return F.avg_pool3d(F.pad(image, [2] * 6), 5, stride=1) > FOREGROUND_INPUT


def random_matrix(generator: np.random.Generator, rotation_deg: float, scale: float) -> NDArray[np.float64]:
    """A random 3x3 matrix source_from_augmented: rotations about the axes, a common and three single scales."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(generator.normal(0.0, rotation_deg / 2, 3))):
        a, b = [(1, 2), (2, 0), (0, 1)][axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    scales = np.exp(generator.uniform(-scale, scale) + generator.uniform(-scale / 3, scale / 3, 3))
    return matrix @ np.diag(scales)


def cut_crop(scan: TrainingScan, centre_ras: NDArray[np.float64], matrix: NDArray[np.float64], edge_vox: int) -> Tensor:
    """A cube (1, edge, edge, edge) of the scan around ``centre_ras``, sampled along the columns of ``matrix``; air outside."""
    spacing_mm = float(scan.grid.spacing_mm[0])
    offsets_mm = (np.arange(edge_vox) - 0.5 * (edge_vox - 1)) * spacing_mm
    # grid_sample wants normalized (k, j, i) source positions: an affine of the output's, which affine_grid makes.
    half_extent = offsets_mm[-1]
    centre_ijk = scan.grid.ijk(centre_ras)
    shape = np.array(scan.image.shape)
    theta_ijk = np.concatenate(
        [matrix * (half_extent / spacing_mm) * (2.0 / shape)[:, None], ((2 * centre_ijk + 1) / shape - 1)[:, None]], axis=1
    )
    theta = torch.from_numpy(theta_ijk[::-1][:, [2, 1, 0, 3]].copy()).float()[None]
    lattice = F.affine_grid(theta, [1, 1, edge_vox, edge_vox, edge_vox], align_corners=True)
    source = torch.from_numpy(scan.image)[None, None].float().div_(255.0)
    return F.grid_sample(source, lattice, align_corners=False)[0]


def jitter(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Random intensities and fields of view: display window, gamma, contrast, blur, noise, and cuts that leave air.

    Air stays 0, so that padding remains air.
    """
    if generator.random() < 0.3:
        image = torch.where(image <= _CLIP_LOW, 0.0, image.clamp(max=_CLIP_HIGH))
    if generator.random() < 0.5:
        image = image.clamp(min=0.0) ** float(np.exp(generator.normal(0.0, 0.15)))
    image = image * float(np.exp(generator.normal(0.0, 0.04)))
    if generator.random() < 0.25:
        image = F.avg_pool3d(F.pad(image[None], [1] * 6, mode="replicate"), 3, stride=1)[0]
    if generator.random() < 0.5:
        seed = int(generator.integers(2**62))
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
        image = torch.where(image > 0.0, image + noise * float(generator.uniform(0.0, 0.05)), image)
    if generator.random() < 0.5:  # cut along the body: scans begin and end anywhere
        image = _cut(image, axis=3, generator=generator)
    if generator.random() < 0.2:
        image = _cut(image, axis=int(generator.integers(1, 3)), generator=generator)
    return image.clamp(0.0, 1.0)


def _cut(image: Tensor, axis: int, generator: np.random.Generator) -> Tensor:
    image, edge = image.clone(), image.shape[axis]
    depth = int(generator.integers(0, edge // 2))
    image.narrow(axis, 0 if generator.random() < 0.5 else edge - depth, depth).zero_()
    return image


def random_crops(
    scan: TrainingScan,
    generator: np.random.Generator,
    *,
    count: int,
    edge_vox: int,
    receptive_field: int,
    stride: int,
    rotation_deg: float = 15.0,
    scale: float = 0.12,
    distance_mm: float = 1e9,
) -> Crops:
    """``count`` crops of one scan under one random transform, each around a random place of the body.

    Crops after the first lie within ``distance_mm`` of it where the body allows.
    """
    matrix = random_matrix(generator, rotation_deg, scale)
    spacing_mm = float(scan.grid.spacing_mm[0])
    outputs = (edge_vox - receptive_field) // stride + 1
    centre_of_patch = np.arange(outputs) * stride + 0.5 * (receptive_field - 1)
    offsets_mm = (centre_of_patch - 0.5 * (edge_vox - 1)) * spacing_mm
    lattice_mm = np.stack(np.meshgrid(offsets_mm, offsets_mm, offsets_mm, indexing="ij"), axis=-1)
    places = torch.from_numpy(np.rint(centre_of_patch).astype(int))
    images, augmented, source, inside = [], [], [], []
    first_ras = None
    for _ in range(count):
        candidates = scan.body_ijk[generator.integers(len(scan.body_ijk), size=16)]
        centres = scan.grid.ras(candidates + generator.uniform(-0.5, 0.5, candidates.shape))
        if first_ras is None:
            first_ras = centre_ras = centres[0]
        else:
            near = np.linalg.norm(centres - first_ras, axis=1) <= distance_mm
            centre_ras = centres[int(np.argmax(near))]
        image = cut_crop(scan, centre_ras, matrix, edge_vox)
        image = jitter(image, generator)
        body = foreground(image[None])[0, 0]
        inside.append(body[places][:, places][:, :, places])
        images.append(image)
        augmented.append(torch.from_numpy(lattice_mm + np.linalg.inv(matrix) @ (centre_ras - first_ras)))
        to_source = np.eye(4)
        to_source[:3, :3], to_source[:3, 3] = matrix, centre_ras
        source.append(torch.from_numpy(apply_affine(to_source, lattice_mm)))
    return Crops(torch.stack(images), torch.stack(augmented).float(), torch.stack(source).float(), torch.stack(inside))


def choose_scan(scans: Sequence[TrainingScan], generator: np.random.Generator) -> TrainingScan:
    """A random scan; groups weigh by the square root of their size, so that a small region is not drowned by a large one."""
    groups = sorted({scan.group for scan in scans})
    members = [[scan for scan in scans if scan.group == group] for group in groups]
    weights = np.sqrt([len(group) for group in members])
    group = members[int(generator.choice(len(groups), p=weights / weights.sum()))]
    return group[int(generator.integers(len(group)))]
