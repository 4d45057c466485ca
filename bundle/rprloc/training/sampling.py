"""Random training crops: which scan, which place, which transform. All randomness takes a generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from rprloc.geometry import Grid, Points
from rprloc.intensity import BODY_INPUT, DISPLAY_WINDOW
from rprloc.modality import CT, Modality
from rprloc.model.input import NetworkInput, find_body
from rprloc.model.network import Pnet

_RECOLOURED = 0.8  # the share of crops that do not look like their modality, where they are to look like any
_AIR, _SOFT_TISSUE, _TISSUE = 0.03, (0.22, 0.75), (0.1, 1.0)  # inputs: most of air, of soft tissue; what tissue becomes
_GAIN, _CONTRAST = 0.2, 0.3  # deviations: of the logarithm of an MR scanner's gain, and of a gamma's


@dataclass(frozen=True, eq=False)
class TrainingScan:
    """One unlabelled scan at network spacing: its input as uint8 (I, J, K), 255 for 1.0, on an isotropic RAS grid."""

    name: str
    group: str
    image: NDArray[np.uint8]
    grid: Grid
    body_ijk: NDArray[np.int16]
    modality: Modality = CT

    @classmethod
    def from_array(
        cls, name: str, group: str, image: NDArray[np.uint8], grid: Grid, modality: Modality = CT
    ) -> TrainingScan:
        inside = find_body(torch.from_numpy(image)[None, None].float() / 255.0)[0, 0].numpy()
        return cls(name, group, image, grid, np.argwhere(inside).astype(np.int16), modality)

    def as_input(self, device: torch.device | str = "cpu") -> NetworkInput:
        """The whole scan as the networks' input, as it is in use."""
        return NetworkInput.of(torch.from_numpy(self.image).to(device).float() / 255.0, self.grid)


@dataclass(frozen=True, eq=False)
class Crop:
    """A transformed cube of one scan: what a network sees, and where its outputs came from.

    ``image``: (1, I, J, K) in [0, 1]. ``source_ras`` (i, j, k, 3): the place in the scan's world of every network
    output. ``inside`` (i, j, k): whether it is body.
    """

    image: Tensor
    source_ras: Points
    inside: Tensor


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
    """A cube (1, edge, edge, edge) of the scan around ``centre_ras``, sampled along the columns of ``matrix``; air
    outside.
    """
    spacing_mm = float(scan.grid.spacing_mm[0])
    offsets_mm = (np.arange(edge_vox) - 0.5 * (edge_vox - 1)) * spacing_mm
    # grid_sample wants normalized (k, j, i) source positions: an affine of the output's, which affine_grid makes.
    half_extent = offsets_mm[-1]
    centre_ijk = scan.grid.ijk(centre_ras)
    shape = np.array(scan.image.shape)
    theta_ijk = np.concatenate(
        [matrix * (half_extent / spacing_mm) * (2.0 / shape)[:, None], ((2 * centre_ijk + 1) / shape - 1)[:, None]],
        axis=1,
    )
    theta = torch.from_numpy(theta_ijk[::-1][:, [2, 1, 0, 3]].copy()).float()[None]
    lattice = F.affine_grid(theta, [1, 1, edge_vox, edge_vox, edge_vox], align_corners=True)
    source = torch.from_numpy(scan.image)[None, None].float().div_(255.0)
    return F.grid_sample(source, lattice, align_corners=False)[0]


def jitter(
    image: Tensor, generator: np.random.Generator, modality: Modality = CT, *, recoloured: bool = False
) -> Tensor:
    """Random intensities and fields of view: gamma, contrast, blur, noise, and cuts that leave air; before these, in CT
    a display window, in other scans what their scanners and sequences do to them.

    ``recoloured``: most often as another modality might show it. Air stays 0, so that padding remains air.
    """
    if recoloured and generator.random() < _RECOLOURED:
        image = _receive(_slice(_recolour(image, generator), generator), generator)
    else:
        image = _display(image, generator) if modality is CT else _receive(image, generator)
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


def _display(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Sometimes as scans look that were kept through a display window."""
    if generator.random() < 0.3:
        darkest, brightest = DISPLAY_WINDOW
        image = torch.where(image <= darkest, 0.0, image.clamp(max=brightest))
    return image


def _receive(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Sometimes brighter near some coils and darker far from them, and of another contrast."""
    if generator.random() < 0.5:
        gain = torch.from_numpy(np.exp(generator.normal(0.0, _GAIN, (1, 1, 3, 3, 3)))).float()
        image = image * F.interpolate(gain, size=image.shape[1:], mode="trilinear", align_corners=True)[0]
    if generator.random() < 0.5:
        image = image.clamp(min=0.0) ** float(np.exp(generator.normal(0.0, _CONTRAST)))
    return image


def _recolour(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Every tissue brighter or darker than it was, by a smooth random curve that may fall; air stays 0."""
    soft = np.sort(generator.uniform(*_SOFT_TISSUE, int(generator.integers(2, 8))))
    knots = np.concatenate([[0.0, _AIR, 0.15], soft, [0.8, 1.0]])
    knots += 1e-4 * np.arange(len(knots))  # no two are alike
    values = generator.uniform(*_TISSUE, len(knots))
    values[:2], values[2] = 0.0, generator.uniform(0.0, 0.4)  # air, lung
    table = PchipInterpolator(knots, values)(np.linspace(0.0, 1.0, 256)).clip(0.0, 1.0)
    return torch.from_numpy(table).float()[(image.clamp(0.0, 1.0) * 255.0).round().long()]


def _slice(image: Tensor, generator: np.random.Generator) -> Tensor:
    """Sometimes as if made of thick slices, most often axial ones."""
    if generator.random() < 0.5:
        axis = 2 if generator.random() < 0.7 else int(generator.integers(2))
        fewer = list(image.shape[1:])
        fewer[axis] = max(2, round(fewer[axis] / float(generator.uniform(1.2, 2.5))))
        thick = F.interpolate(image[None], size=fewer, mode="area")
        image = F.interpolate(thick, size=image.shape[1:], mode="trilinear", align_corners=False)[0]
    return image


def _cut(image: Tensor, axis: int, generator: np.random.Generator) -> Tensor:
    image, edge = image.clone(), image.shape[axis]
    depth = int(generator.integers(0, edge // 2))
    image.narrow(axis, 0 if generator.random() < 0.5 else edge - depth, depth).zero_()
    return image


def random_place(scan: TrainingScan, generator: np.random.Generator) -> NDArray[np.float64]:
    """A random place (3,) of the body in the scan's world, RAS mm."""
    return scan.grid.ras(scan.body_ijk[generator.integers(len(scan.body_ijk))] + generator.uniform(-0.5, 0.5, 3))


def random_crop(
    scan: TrainingScan,
    centre_ras: NDArray[np.float64],
    outputs: int,
    net: Pnet,
    generator: np.random.Generator,
    *,
    recoloured: bool = False,
    rotation_deg: float = 15.0,
    scale: float = 0.12,
) -> Crop:
    """A crop around ``centre_ras`` under a random transform, as large as ``outputs`` places along each edge need.

    ``recoloured``: see :func:`jitter`.
    """
    matrix = random_matrix(generator, rotation_deg, scale)
    edge_vox = net.receptive_field + net.stride * (outputs - 1)
    image = jitter(cut_crop(scan, centre_ras, matrix, edge_vox), generator, scan.modality, recoloured=recoloured)
    centres_vox = np.arange(outputs) * net.stride + 0.5 * (net.receptive_field - 1)
    offsets_mm = (centres_vox - 0.5 * (edge_vox - 1)) * scan.grid.spacing_mm[0]
    lattice_mm = np.stack(np.meshgrid(offsets_mm, offsets_mm, offsets_mm, indexing="ij"), axis=-1)
    first = round(centres_vox[0]) - 2  # the 5x5x5 voxels around each output's centre, as in find_body()
    window = slice(first, first + 5 + net.stride * (outputs - 1))
    inside = (F.avg_pool3d(image[:, window, window, window], 5, net.stride) > BODY_INPUT)[0]
    return Crop(image, lattice_mm @ matrix.T + centre_ras, inside)


def choose_scan(scans: Sequence[TrainingScan], generator: np.random.Generator, group_power: float = 0.5) -> int:
    """The index of a random scan; a group of n scans weighs n ** ``group_power``, so that none drowns another.

    CT and MR of a group are two groups.
    """
    groups = sorted({(scan.group, scan.modality.name) for scan in scans})
    members = [[i for i, scan in enumerate(scans) if (scan.group, scan.modality.name) == group] for group in groups]
    weights = np.array([len(group) for group in members], float) ** group_power
    return int(generator.choice(members[int(generator.choice(len(groups), p=weights / weights.sum()))]))
