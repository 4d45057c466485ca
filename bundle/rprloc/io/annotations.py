"""Annotations of a scan from files: label maps and the names of their labels."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.files import parse_json
from rprloc.geometry import Grid
from rprloc.io.formats import holds_series, require_content
from rprloc.io.plausibility import describe_grid
from rprloc.io.reading import explain_reading_errors, read_image_file


def read_label_map(path: str | Path, grid: Grid) -> NDArray[np.integer]:
    """The label map (I, J, K) in a file, integers, on the image's ``grid``.

    Where the file holds the same voxels with its axes in another order or direction, they are put into the image's.
    Raises InputError if it cannot be read, holds fractions, or lies on another grid.
    """
    path = Path(path)
    with explain_reading_errors(path):
        if holds_series(path):
            raise InputError(
                f"{path} is a folder or DICOM; a label map as .nii.gz, .nrrd or .mha was expected; export the "
                "segmentation so."
            )
        stored, own_grid = read_image_file(path)
    labels = _in_the_order_of(grid, stored, own_grid)
    if labels is None:
        raise InputError(
            f"The label map {path} does not lie on the grid of its image: it has {describe_grid(own_grid)}, the image "
            f"{describe_grid(grid)}; the same voxels were expected; export it with the image as the reference volume."
        )
    if np.issubdtype(labels.dtype, np.integer):
        return cast(NDArray[np.integer], labels)
    whole = np.rint(labels)
    if not np.array_equal(whole, labels):
        raise InputError(
            f"The label map {path} holds fractions or NaN; an integer for each voxel was expected; "
            "export it as a label map, resampled with nearest neighbours."
        )
    return whole.astype(np.int32)


def _in_the_order_of(grid: Grid, array: NDArray[np.generic], own_grid: Grid) -> NDArray[np.generic] | None:
    """An array on ``own_grid`` with its axes as in ``grid``; None if the voxels are not the same, to 0.1 mm."""
    last_ijk = np.array(grid.shape) - 1
    points_ijk = np.vstack([np.zeros(3), np.diag(last_ijk)])  # the first voxel and the ends of the three axes
    own_ijk = own_grid.ijk(grid.ras(points_ijk))
    along = own_ijk[1:] - own_ijk[0]  # (axis of grid, axis of own_grid)
    order = np.abs(along).argmax(axis=1)
    backwards = along[np.arange(3), order] < 0
    same_ijk = np.zeros((4, 3))
    same_ijk[:, order] = np.where(backwards, last_ijk - points_ijk, points_ijk)
    off_mm = np.linalg.norm(own_grid.ras(same_ijk) - grid.ras(points_ijk), axis=1)
    if sorted(order) != [0, 1, 2] or array.transpose(order).shape != grid.shape or off_mm.max() > 0.1:
        return None
    return np.flip(array.transpose(order), tuple(np.flatnonzero(backwards).tolist()))


def read_names(path: str | Path) -> dict[int, str]:
    """Label names from a JSON file such as ``{"1": "liver", "2": "spleen"}``, in the file's order.

    Raises InputError if it is anything but an object of distinct positive integers and distinct non-empty names.
    """
    path = Path(path)
    wanted = 'a JSON object such as {"1": "liver", "2": "spleen"} was expected'
    require_content(path, wanted)
    try:
        pairs = parse_json(path.read_text(encoding="utf-8-sig"), object_pairs_hook=list)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); {wanted}; correct the file.") from error
    # An object arrives as a list of pairs, so that a key given twice is noticed; a JSON list would hold no tuples.
    if not isinstance(pairs, list) or not pairs or not all(isinstance(pair, tuple) for pair in pairs):
        raise InputError(f"{path} holds no label names; {wanted}; list each label value with its name.")
    names: dict[int, str] = {}
    for key, name in pairs:
        if not (key.isascii() and key.isdigit() and int(key) > 0):
            raise InputError(f"{path} has the label value {key!r}; {wanted}; use integers from 1 on (0 is background).")
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{path} has no name for label {key}: {name!r}; {wanted}; write a non-empty text.")
        if int(key) in names or name.strip() in names.values():
            raise InputError(f"{path} has label {key} ({name!r}) twice; {wanted}; keep values and names unique.")
        names[int(key)] = name.strip()
    return names
