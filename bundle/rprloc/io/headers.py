"""What the readers of NIfTI, NRRD and MetaImage headers have in common: sizes, units, places, data files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.io.plausibility import refuse_sheared

_ROUNDING_COSINE = 1e-6  # what 32-bit numbers leave of a right angle
MM_IN = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometre"), 1e-3),
}
"""How many millimetres a unit of length has, by its name in lower case."""


def require_3d(path: Path, sizes: Sequence[int]) -> tuple[int, int, int]:
    """The shape of a volume; further axes of length 1 are left out."""
    shape = list(sizes)
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if any(n < 1 for n in shape) or not shape:
        raise InputError(f"The header of {path} has a size of {' x '.join(map(str, shape))} voxels. Export it again.")
    if len(shape) != 3:
        raise InputError(
            f"{path} is a {len(shape)}D image of {' x '.join(map(str, shape))}, not a 3D scan. "
            + ("Give the whole volume, not one slice." if len(shape) < 3 else "Extract one of its volumes first.")
        )
    i, j, k = shape
    return i, j, k


def require_scalar(path: Path, components: int) -> None:
    if components != 1:
        raise InputError(
            f"{path} has {components} values at each voxel (colour or a vector field), but a scan has one. Give the "
            "scan itself, not a picture of it."
        )


def not_told(path: Path, format_name: str, missing: str) -> InputError:
    """The error for what a header does not say about the patient's place."""
    return InputError(
        f"The {format_name} header of {path} does not say how the patient lies (it has no {missing}). "
        "Left and right would be a guess. Export the scan with its orientation."
    )


def place(path: Path, shape: tuple[int, int, int], ras_from_ijk: NDArray[np.float64]) -> Grid:
    """A header's grid, with perpendicular axes: nearly perpendicular ones are turned by the least, about the middle.

    Raises InputError for axes that are sheared, flat or not finite.
    """
    lengths = np.linalg.norm(ras_from_ijk[:3, :3], axis=0)  # infinite ones end here
    if not np.isfinite(ras_from_ijk).all() or not np.isfinite(lengths).all() or not (lengths > 1e-6).all():
        raise InputError(
            f"The header of {path} has voxel sizes or a position that are no numbers, or flat voxels. "
            "Export the scan again."
        )
    axes = ras_from_ijk[:3, :3] / lengths
    cosine = refuse_sheared(axes, path)
    if cosine <= _ROUNDING_COSINE:
        return Grid(shape, ras_from_ijk)
    left, _, right = np.linalg.svd(axes)  # the polar decomposition gives the nearest perpendicular axes
    straight = np.eye(4)
    straight[:3, :3] = (left @ right) * lengths
    middle = 0.5 * (np.array(shape) - 1)
    straight[:3, 3] = ras_from_ijk[:3, 3] + (ras_from_ijk[:3, :3] - straight[:3, :3]) @ middle
    return Grid(shape, straight)


def numbers(path: Path, field: str, text: str, count: int | None = None) -> list[float]:
    """The finite numbers of a header's field."""
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = [np.nan]
    if not values or not np.isfinite(values).all() or count not in (None, len(values)):
        raise broken(path, f"{field} is {text!r}")
    return values


def whole_numbers(path: Path, field: str, text: str, count: int | None = None) -> list[int]:
    """The integers of a header's field."""
    words = text.split()
    if not words or not all(re.fullmatch(r"[+-]?\d{1,18}", word, re.ASCII) for word in words):
        raise broken(path, f"{field} is {text!r}")
    if count not in (None, len(words)):
        raise broken(path, f"{field} is {text!r}")
    return [int(word) for word in words]


def broken(path: Path, what: str) -> InputError:
    return InputError(f"The header of {path} is broken: {what[:120]}. Export the scan again.")


def collected(path: Path, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A header's fields. Raises InputError for one that is there twice and says two things."""
    fields: dict[str, str] = {}
    for key, text in pairs:
        if fields.setdefault(key, text) != text:
            raise broken(path, f"it gives {key} twice, as {fields[key][:30]!r} and as {text[:30]!r}")
    return fields


def data_file(header: Path, reference: str) -> Path:
    """The data file beside a detached header; InputError for any reference that leads elsewhere."""
    elsewhere = (
        reference.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", reference) or ".." in re.split(r"[/\\]", reference)
    )
    if not reference or elsewhere or reference.split()[0].upper() == "LIST" or "%" in reference:
        raise InputError(
            f"{header} takes its voxels from {reference[:30]!r}, not from one data file in the header's own folder. "
            "Move the data there, or save the scan as a single .nii.gz file."
        )
    data = header.parent / reference
    if not data.is_file():
        raise InputError(f"{header} takes its voxels from {reference[:30]!r}, which is missing. Copy both files.")
    return data
