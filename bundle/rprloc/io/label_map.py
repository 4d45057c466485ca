"""Boxes as a label map on the voxels of a scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid
from rprloc.io.itk import write_image


def save_label_map(path: str | Path, detections: Detections, grid: Grid) -> dict[int, str]:
    """Write the boxes as a label map on the voxels of a scan.

    Label n is the n-th organ of the detections. An organ that is absent has no voxel, so a label means the same in
    every scan. A voxel belongs to a box if its centre lies inside. Where boxes overlap, the smaller one is drawn.
    What lies outside the grid is cut off.

    Parameters
    ----------
    path : path
        The file: ``.nii``, ``.nii.gz`` or ``.nrrd``. NRRD is not compressed, as viewers in a browser may not unpack it.
    detections : Detections
        What was found.
    grid : Grid
        The voxels (I, J, K) of the label map; those of the scan are ``volume.grid``.

    Returns
    -------
    dict of int to str
        The organ of each label, from 1 on.

    Raises
    ------
    InputError
        For another suffix, and if the folder cannot be written to.

    Examples
    --------
    >>> rprloc.save_label_map("bert.boxes.nii.gz", found, volume.grid)
    {1: 'heart'}
    """
    require_label_map_name(path)
    labels = np.zeros(grid.shape, np.uint8 if len(detections.organs) < 256 else np.uint16)
    numbered = {detection.organ: index + 1 for index, detection in enumerate(detections.organs)}
    for organ, box in sorted(detections.boxes.items(), key=lambda entry: -entry[1].volume_mm3):
        _fill_box(labels, grid, box, numbered[organ])
    write_image(path, labels, grid)
    return {number: organ for organ, number in numbered.items()}


def require_label_map_name(path: str | Path) -> None:
    """Raise InputError if a label map is not written to files of this name."""
    if not Path(path).name.lower().endswith((".nii", ".nii.gz", ".nrrd")):
        raise InputError(f"{path} is not the name of a label map. Let it end with .nii, .nii.gz or .nrrd.")


def _fill_box(labels: NDArray[Any], grid: Grid, box: Box, label: int) -> None:
    """Set the voxels of ``labels`` (I, J, K) whose centre lies in the box."""
    first, inside = voxels_in_box(grid, box)
    labels[tuple(map(slice, first, np.add(first, inside.shape)))][inside] = label


def voxels_in_box(grid: Grid, box: Box) -> tuple[tuple[int, int, int], NDArray[np.bool_]]:
    """Which voxels of a grid have their centre in a box: a part of the grid as a mask (I, J, K), and its first voxel.

    Slice by slice to spare memory. The mask has no voxel if the box lies outside the grid.
    """
    corners_ras = np.stack(np.meshgrid(*np.stack([box.min_ras, box.max_ras], 1), indexing="ij"), -1).reshape(-1, 3)
    corners_ijk = grid.ijk(corners_ras)
    first = np.clip(np.ceil(corners_ijk.min(0) - 1e-6), 0, grid.shape).astype(int)
    last = np.clip(np.floor(corners_ijk.max(0) + 1e-6) + 1, 0, grid.shape).astype(int)
    i, j, k = first.tolist()
    inside = np.zeros(np.maximum(last - first, 0), bool)
    for n in range(inside.shape[2] if inside.size else 0):
        centres_ras = grid.cropped([i, j, k + n], [*inside.shape[:2], 1]).centres_ras()[:, :, 0]
        inside[:, :, n] = np.all((centres_ras >= box.min_ras - 1e-6) & (centres_ras <= box.max_ras + 1e-6), axis=-1)
    return (i, j, k), inside
