"""Boxes as a label map on the voxels of a scan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from isal import igzip
from numpy.typing import NDArray

from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.files import atomic_path
from rprloc.geometry import Box, Grid
from rprloc.io.itk import ITK_FILES, plain_path
from rprloc.volume import to_sitk

_NIFTI_HEADER_BYTES = 352


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
    nrrd = Path(path).name.lower().endswith(".nrrd")
    labels = np.zeros(grid.shape, np.uint8 if len(detections.organs) < 256 else np.uint16)
    numbered = {detection.organ: index + 1 for index, detection in enumerate(detections.organs)}
    for organ, box in sorted(detections.boxes.items(), key=lambda entry: -entry[1].volume_mm3):
        _fill_box(labels, grid, box, numbered[organ])
    with atomic_path(path) as temporary:
        with plain_path(temporary) as plain, ITK_FILES, _explain_full_disk(path):
            sitk.WriteImage(to_sitk(labels, grid), str(plain), useCompression=not nrrd)
        if not nrrd and _bytes_in(temporary) != _NIFTI_HEADER_BYTES + labels.nbytes:
            raise _incomplete(path)
    return {number: organ for organ, number in numbered.items()}


@contextmanager
def _explain_full_disk(path: str | Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _incomplete(path) from error


def _bytes_in(path: Path) -> int:
    """How many bytes of a NIfTI file there are, unzipped: ITK tells nobody when the disk was full."""
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size
    count = 0
    try:
        with igzip.open(path) as stream:
            while chunk := stream.read(1 << 20):
                count += len(chunk)
    except (EOFError, OSError):
        return 0
    return count


def _incomplete(path: str | Path) -> InputError:
    return InputError(f"{path} could not be written to its end, as if the disk were full. Make room and try again.")


def require_label_map_name(path: str | Path) -> None:
    """Raise InputError if a label map is not written to files of this name."""
    if not Path(path).name.lower().endswith((".nii", ".nii.gz", ".nrrd")):
        raise InputError(f"{path} is not the name of a label map. Let it end with .nii, .nii.gz or .nrrd.")


def _fill_box(labels: NDArray[Any], grid: Grid, box: Box, label: int) -> None:
    """Set the voxels of ``labels`` (I, J, K) whose centre lies in the box, slice by slice to spare memory."""
    corners_ras = np.stack(np.meshgrid(*np.stack([box.min_ras, box.max_ras], 1), indexing="ij"), -1).reshape(-1, 3)
    corners_ijk = grid.ijk(corners_ras)
    first = np.clip(np.ceil(corners_ijk.min(0) - 1e-6), 0, grid.shape).astype(int)
    last = np.clip(np.floor(corners_ijk.max(0) + 1e-6) + 1, 0, grid.shape).astype(int)
    if (last <= first).any():
        return
    shape = (last - first).tolist()
    for k in range(first[2], last[2]):
        centres_ras = grid.cropped([first[0], first[1], k], [shape[0], shape[1], 1]).centres_ras()[:, :, 0]
        inside = np.all((centres_ras >= box.min_ras - 1e-6) & (centres_ras <= box.max_ras + 1e-6), axis=-1)
        labels[first[0] : last[0], first[1] : last[1], k][inside] = label
