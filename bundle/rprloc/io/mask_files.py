"""Label maps and masks in image files, on the grid of the scan that they belong to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from rprloc.annotation import Mask
from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.io.formats import holds_series, scan_name
from rprloc.io.plausibility import describe_grid
from rprloc.io.reading import explain_reading_errors, open_image_file
from rprloc.io.structures import Marked, Structure
from rprloc.io.voxels import StoredImage, read_voxels

_MOST_LABELS = 1 << 16  # of which each has a box of its own; beyond, labels are no numbers of organs


def read_label_map(path: str | Path, grid: Grid) -> NDArray[np.integer]:
    """The label map in a file, on the grid of its image.

    If the file holds the same voxels with its axes in another order or direction, they are put into the image's.

    Parameters
    ----------
    path : path
        A NIfTI, NRRD or MetaImage file.
    grid : Grid
        The grid of the image that the labels belong to, such as ``volume.grid``.

    Returns
    -------
    (I, J, K) array
        Integers, one for each voxel of the grid.

    Raises
    ------
    InputError
        If the file cannot be read, holds fractions, or lies on another grid.

    Examples
    --------
    >>> grid = rprloc.read_volume(support_image).grid
    >>> labels = rprloc.read_label_map(support_labels, grid)
    >>> labels.shape == grid.shape, bool((labels == 51).any())
    (True, True)
    """
    path = Path(path)
    with explain_reading_errors(path):
        if holds_series(path):
            raise InputError(
                f"{path} is a folder or DICOM, not a label map. Export the segmentation as .nii.gz, .nrrd or .mha."
            )
        image = open_image_file(path)
        order, backwards = _order_of(grid, image)  # before memory is asked for
        labels = np.flip(read_voxels(image).transpose(order), backwards)
    if np.issubdtype(labels.dtype, np.integer):
        return cast(NDArray[np.integer], labels)
    whole = np.rint(labels)
    limits = np.iinfo(np.int32)
    if not np.array_equal(whole, labels) or whole.min() < limits.min or whole.max() > limits.max:
        raise InputError(
            f"The label map {path} holds fractions or NaN, but every voxel needs an integer. "
            "Export it as a label map, resampled with nearest neighbours."
        )
    return whole.astype(np.int32)


def _order_of(grid: Grid, labels: StoredImage) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order in which the axes of a label map are those of ``grid``, and which of them then run backwards.

    Raises InputError if the voxels are not the same, to 0.1 mm.
    """
    last_ijk = np.array(grid.shape) - 1
    points_ijk = np.vstack([np.zeros(3), np.diag(last_ijk)])  # the first voxel and the ends of the three axes
    own_ijk = labels.grid.ijk(grid.ras(points_ijk))
    along = own_ijk[1:] - own_ijk[0]  # (axis of grid, axis of the labels' grid)
    order = np.abs(along).argmax(axis=1)
    backwards = along[np.arange(3), order] < 0
    same_ijk = np.zeros((4, 3))
    same_ijk[:, order] = np.where(backwards, last_ijk - points_ijk, points_ijk)
    off_mm = np.linalg.norm(labels.grid.ras(same_ijk) - grid.ras(points_ijk), axis=1)
    own_shape = np.array(labels.grid.shape)
    if sorted(order) != [0, 1, 2] or tuple(own_shape[order]) != grid.shape or off_mm.max() > 0.1:
        raise InputError(
            f"The label map {labels.path} does not lie on the grid of its image. It has "
            f"{describe_grid(labels.grid)}, the image {describe_grid(grid)}. Export it with the image as the reference "
            "volume."
        )
    return tuple(order.tolist()), tuple(np.flatnonzero(backwards).tolist())


def open_label_map(path: Path, grid: Grid) -> Marked:
    """The labels of a label map, each called by its number. Raises InputError as :func:`read_label_map`."""
    from scipy.ndimage import find_objects

    labels = read_label_map(path, grid)
    if int(labels.max()) > _MOST_LABELS:
        raise InputError(
            f"The label map {path} has the label {int(labels.max())}, but labels go up to {_MOST_LABELS}. Check "
            "that it is the label map, and not a scan."
        )
    boxes = find_objects(labels if labels.dtype.itemsize < 8 else labels.clip(0).astype(np.int32))
    structures = []
    for number, box in enumerate(boxes, 1):
        if box is not None:
            structures.append(Structure(str(number), _reader(labels, grid, number, box)))
    return Marked(path, "a label map", structures, are_numbers=True)


def _reader(
    labels: NDArray[np.integer], grid: Grid, number: int, box: tuple[slice, slice, slice]
) -> Callable[[], Mask]:
    first, shape = [part.start for part in box], [part.stop - part.start for part in box]
    return lambda: Mask(labels[box] == number, grid.cropped(first, shape))


def open_mask(path: Path, grid: Grid) -> Structure:
    """The structure of a file with one mask, called as the file. It is read when it is wanted."""

    def read() -> Mask | None:
        labels = read_label_map(path, grid)
        inside = labels != 0
        if not inside.any():
            return None
        values = labels[inside]
        if values.min() != values.max():
            raise InputError(
                f"{path} holds the labels {values.min()} to {values.max()}, but a file in a folder of masks holds one "
                "organ. Give a label map by itself, with the names of its labels."
            )
        return Mask.cut_from(inside, grid)

    return Structure(scan_name(path), read)
