"""Scans as the benchmark's own methods see them: 3 mm voxels along the RAS axes, the body's box, 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rprloc.errors import InputError
from rprloc.files import atomic_path
from rprloc.geometry import Grid, Points
from rprloc.io.dataset import Case
from rprloc.io.reading import read_volume
from rprloc.modality import guess_modality
from rprloc.model.input import find_body, network_grid
from rprloc.volume import Volume, resample
from scripts.benchmark.registry import Example

SPACING_MM = 3.0
"""The paper's slice distance for head and neck, and its voxel edge for the abdomen."""

PATCH = {"han": ((64, 64, 16), (1.0, 1.0, 3.0)), "abdomen": ((48, 48, 48), (3.0, 3.0, 3.0))}
"""The paper's patches: voxels and spacing in mm along right, front, head."""


def patch_of(region: str) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """The patch of a region; of one that the paper does not have, that of the abdomen."""
    return PATCH.get(region, PATCH["abdomen"])


@dataclass(frozen=True, eq=False)
class Scan:
    """The input (I, J, K) of a scan as uint8, 255 for 1.0 (bone), 0 for air, and its grid along the RAS axes."""

    name: str
    image: NDArray[np.uint8]
    grid: Grid

    @classmethod
    def of(cls, volume: Volume, spacing_mm: Sequence[float] = (SPACING_MM,) * 3) -> Scan:
        """A CT or MR scan at another spacing, cut to the box around its body."""
        modality = guess_modality(volume.hu, volume.modality)

        def seen_on(grid: Grid) -> NDArray[np.uint8]:
            values = resample(volume, grid, modality.fill).hu.astype(np.float32, copy=False)
            return np.rint(modality.to_input(values, volume.hu) * 255).astype(np.uint8)

        grid = network_grid(volume.grid, SPACING_MM, SPACING_MM)
        image = seen_on(grid)
        occupied = np.argwhere(_body(image))
        if len(occupied) == 0:
            raise InputError(f"{volume.name} shows no body. Leave it out, or give {modality.usable_form}.")
        first, last = occupied.min(0), occupied.max(0) + 1
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        grid = grid.cropped(first.tolist(), (last - first).tolist())
        if tuple(spacing_mm) == (SPACING_MM,) * 3:
            return cls(volume.name, np.ascontiguousarray(image[box]), grid)
        bounds, spacing = grid.bounds, np.array(spacing_mm)
        shape = np.rint(bounds.size_mm / spacing).astype(int)
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = bounds.min_ras + 0.5 * spacing
        other = Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
        return cls(volume.name, seen_on(other), other)

    def body(self) -> NDArray[np.bool_]:
        """Whether each voxel (I, J, K) is body, lung included."""
        return _body(self.image)

    def body_ras(self) -> Points:
        """The places (N, 3) of all voxels of the body."""
        return self.grid.ras(np.argwhere(self.body()))


def resample_labels(grid: Grid, example: Example) -> NDArray[np.integer]:
    """The example's label map on another grid (I, J, K), by the nearest voxel; 0 outside."""
    ijk = np.rint(example.volume.grid.ijk(grid.centres_ras())).astype(int)
    inside = np.all((ijk >= 0) & (ijk < example.labels.shape), axis=-1)
    i, j, k = np.moveaxis(np.clip(ijk, 0, np.array(example.labels.shape) - 1), -1, 0)
    return np.where(inside, example.labels[i, j, k], 0)


def _body(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return find_body(torch.from_numpy(image)[None, None].float() / 255.0)[0, 0].numpy()


def cut_patches(scan: Scan, centres_ras: Points, shape: Sequence[int], spacing_mm: Sequence[float]) -> Tensor:
    """Patches (N, 1, i, j, k) in [0, 1] around places (N, 3) of a scan, interpolated linearly; air outside."""
    patches = torch.zeros(len(centres_ras), 1, *shape)
    for patch, centre_ijk in zip(patches, scan.grid.ijk(centres_ras), strict=True):
        part, weights = scan.image, []
        for axis, (count, step) in enumerate(zip(shape, spacing_mm, strict=True)):
            at = centre_ijk[axis] + (np.arange(count) - 0.5 * (count - 1)) * step / scan.grid.spacing_mm[axis]
            first, last = max(int(np.floor(at[0])), 0), min(int(np.floor(at[-1])) + 2, part.shape[axis])
            if first >= last:
                break
            part = part.take(range(first, last), axis)
            # Linear interpolation along one axis is a matrix: each row holds the two weights of one sample.
            hat = 1.0 - np.abs(at[:, None] - np.arange(first, last))
            weights.append(torch.from_numpy(np.maximum(hat, 0.0)).float())
        else:
            source = torch.from_numpy(part).float()
            source = torch.einsum("ai,ijk->ajk", weights[0], source)
            source = torch.einsum("bj,ajk->abk", weights[1], source)
            patch[0] = torch.einsum("ck,abk->abc", weights[2], source) / 255.0
    return patches


def pack_scans(cases: Sequence[Case], folder: Path) -> list[Scan]:
    """The scans of cases, kept in ``folder`` for the next time."""
    folder.mkdir(parents=True, exist_ok=True)
    scans = []
    for case in tqdm(cases, desc="packing", unit="scan", disable=None):
        path = folder / f"{case.name}.npz"
        if not path.exists():
            scan = Scan.of(read_volume(case.image_path))
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, image=scan.image, ras_from_ijk=scan.grid.ras_from_ijk)
        with np.load(path, allow_pickle=False) as arrays:
            image = arrays["image"]
            scans.append(Scan(case.name, image, Grid(image.shape, arrays["ras_from_ijk"])))
    return scans
