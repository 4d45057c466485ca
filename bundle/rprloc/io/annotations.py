"""Annotated examples from files: a scan with its label map, Markups or points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rprloc.annotation import Annotation, Example, scan_pseudonym
from rprloc.errors import InputError
from rprloc.files import parse_json
from rprloc.geometry import Grid
from rprloc.io.formats import holds_series, require_content
from rprloc.io.markups import read_extreme_points
from rprloc.io.plausibility import describe_grid
from rprloc.io.reading import explain_reading_errors, open_image_file, read_scan
from rprloc.io.voxels import StoredImage, read_voxels


def read_example(
    image: str | Path,
    *,
    labels: str | Path | None = None,
    names: Mapping[int, str] | str | Path | None = None,
    markups: Mapping[str, str | Path] | None = None,
    points: Mapping[str, ArrayLike] | None = None,
    name: str | None = None,
    series_uid: str | None = None,
) -> Example:  # long for its description alone
    """A scan and the organs that are marked on it, to learn from.

    The organs come from a label map with names, or from Slicer Markups files, or as points.

    Parameters
    ----------
    image : path
        The scan, as for :func:`read_scan`.
    labels : path, optional
        A label map on the scan's grid (NIfTI, NRRD or MetaImage).
    names : mapping of int to str, or path
        The organ of each label, such as ``{1: "spleen"}``, or a JSON file with them.
    markups : mapping of str to path, optional
        For each organ a Markups file of 3D Slicer with its six extreme points, or with an ROI around it.
    points : mapping of str to (6, 3) array, optional
        For each organ its six extreme points in RAS mm, in any order.
    name : str, optional
        What the scan is called in support sets; by default a pseudonym made from its voxels.
    series_uid : str, optional
        Which of several DICOM series is meant.

    Returns
    -------
    Example
        The scan, its organs with six extreme points (6, 3) each in RAS mm, and with a label map their masks.

    Raises
    ------
    InputError
        If a file cannot be used, if labels lie on another grid or lack a named organ, or if organs are marked in no
        way or in several ways at once.

    Examples
    --------
    >>> example = rprloc.read_example(support_image, labels=support_labels, names={51: "heart"})
    >>> list(example.annotation.points_ras)
    ['heart']
    """
    ways = [labels is not None, markups is not None, points is not None]
    if sum(ways) != 1 or (labels is None) != (names is None):
        raise InputError(
            "Mark the organs in one way: a label map with the names of its labels, Markups files, or points."
        )
    scan = read_scan(image, series_uid=series_uid)
    if labels is not None and names is not None:
        named = names if isinstance(names, Mapping) else read_names(names)
        annotation = Annotation.from_labels(read_label_map(labels, scan.volume.grid), scan.volume.grid, named)
    elif markups is not None:
        annotation = Annotation.from_points({organ: read_extreme_points(path) for organ, path in markups.items()})
    else:
        annotation = Annotation.from_points(points or {})
    return Example(scan.volume, annotation, scan_pseudonym(scan.volume) if name is None else name, scan.warnings)


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


def read_names(path: str | Path) -> dict[int, str]:
    """Label names from a JSON file such as ``{"1": "liver", "2": "spleen"}``, in the file's order.

    Raises InputError if it is anything but an object of distinct positive integers and distinct non-empty names.
    """
    path = Path(path)
    wanted = 'Write a JSON object such as {"1": "liver", "2": "spleen"}.'
    require_content(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder. {wanted}")
    try:
        pairs = parse_json(path.read_text(encoding="utf-8-sig"), object_pairs_hook=list)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}). {wanted}") from error
    # An object arrives as a list of pairs, so that a key given twice is noticed; a JSON list would hold no tuples.
    if not isinstance(pairs, list) or not pairs or not all(isinstance(pair, tuple) for pair in pairs):
        raise InputError(f"{path} holds no label names. {wanted}")
    names: dict[int, str] = {}
    for key, name in pairs:
        if not (key.isascii() and key.isdigit() and int(key) > 0):
            raise InputError(f"{path} has the label value {key!r}. Use integers from 1 on (0 is background).")
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{path} has no name for label {key}: {name!r}. {wanted}")
        if int(key) in names or name.strip() in names.values():
            raise InputError(f"{path} has label {key} ({name!r}) twice. Give every value and every name once.")
        names[int(key)] = name.strip()
    return names
