"""MetaImage files: what their headers say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.geometry import ras_from_lps
from rprloc.io.formats import READABLE_FORMATS
from rprloc.io.headers import (
    MM_IN,
    broken,
    collected,
    data_file,
    not_told,
    numbers,
    place,
    require_3d,
    require_scalar,
    whole_numbers,
)
from rprloc.io.voxels import StoredImage

_MAX_HEADER_BYTES = 1 << 20
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# Fields that have had several names.
_SAME = {
    "Orientation": "TransformMatrix",
    "Rotation": "TransformMatrix",
    "Position": "Offset",
    "Origin": "Offset",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
# The fields that say something about the voxels; others are comments, such as what a DICOM file said.
_FIELDS = {
    *("ObjectType", "NDims", "DimSize", "TransformMatrix", "Offset", "ElementSpacing", "ElementSize", "DistanceUnits"),
    *("AnatomicalOrientation", "ElementType", "ElementNumberOfChannels", "HeaderSize", "BinaryData"),
    *("BinaryDataByteOrderMSB", "CompressedData", "CompressedDataSize"),
    *("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"),
}
_LETTERS = "RL", "AP", "IS"  # along x, y, z of LPS: where an axis comes from, if it runs that way or the other
_ALONG = 0.3  # the least cosine between an axis and the direction that AnatomicalOrientation gives it


def read_metaimage_header(path: Path) -> StoredImage:
    """What the header of a MetaImage file says. Raises InputError for what it does not say, and says twice."""
    fields, reference, end = _fields(path)
    dimension = whole_numbers(path, "NDims", fields.get("NDims", ""), 1)[0]
    sizes = whole_numbers(path, "DimSize", fields.get("DimSize", ""), dimension)
    require_scalar(path, whole_numbers(path, "channels", fields.get("ElementNumberOfChannels", "1"), 1)[0])
    shape = require_3d(path, sizes)
    grid = place(path, shape, _ras_from_ijk(path, fields, dimension))
    kind = _TYPES.get(fields.get("ElementType", "").removesuffix("_ARRAY"))
    if kind is None:
        raise broken(path, f"its ElementType {fields.get('ElementType', '')!r} is none that a scan can have")
    _refuse_scaling(path, fields)
    compressed = _flag(path, fields, "CompressedData", "False")
    binary = _flag(path, fields, "BinaryData", "True" if compressed else None)
    order = ""
    if kind[1] != "1" and (binary or compressed):
        order = ">" if _flag(path, fields, "BinaryDataByteOrderMSB", None) else "<"
    dtype = np.dtype(f"{order}{kind}")
    data, start = (path, end) if reference.lower() == "local" else (data_file(path, reference), 0)
    skip = whole_numbers(path, "HeaderSize", fields.get("HeaderSize", "0"), 1)[0]
    if skip < -1 or (skip and (compressed or not binary)):
        raise broken(path, f"its HeaderSize is {skip}")
    start = max(data.stat().st_size - math.prod(shape) * dtype.itemsize, 0) if skip == -1 else start + skip
    told = fields.get("CompressedDataSize")
    told_bytes = whole_numbers(path, "CompressedDataSize", told, 1)[0] if compressed and told is not None else None
    encoding = _compression(data, start) if compressed else "raw" if binary else "text"
    return StoredImage(path, grid, dtype, data, start, encoding, compressed_bytes=told_bytes)


def _fields(path: Path) -> tuple[dict[str, str], str, int]:
    """The fields, the name of the data file, and the byte at which the header ends."""
    pairs: list[tuple[str, str]] = []
    with path.open("rb") as file:
        while (line := file.readline(_MAX_HEADER_BYTES)) and file.tell() <= _MAX_HEADER_BYTES:
            separator = next((letter for letter in line if letter in b"=:"), None)
            if separator is None:
                continue  # the second line of a comment
            words = line.decode("utf-8", "surrogateescape").split(chr(separator), 1)
            name, text = (word.strip() for word in words)
            if name == "ElementDataFile":
                fields = collected(path, pairs)
                if fields.get("ObjectType", "Image") != "Image":
                    raise broken(path, f"its ObjectType is {fields['ObjectType']!r}")
                return fields, text, file.tell()
            if _SAME.get(name, name) in _FIELDS:
                pairs.append((_SAME.get(name, name), text))
    raise InputError(
        f"{path} is not a MetaImage file, whatever its name says. {READABLE_FORMATS} Give the scan as it was exported."
    )


def _flag(path: Path, fields: dict[str, str], name: str, default: str | None) -> bool:
    text = fields.get(name, default)
    if text is None:
        raise broken(path, f"it has no {name}")
    if text.lower() not in ("true", "t", "1", "false", "f", "0"):
        raise broken(path, f"{name} is {text!r}")
    return text.lower() in ("true", "t", "1")


def _ras_from_ijk(path: Path, fields: dict[str, str], dimension: int) -> NDArray[np.float64]:
    for field in ("TransformMatrix", "Offset"):
        if field not in fields:
            raise not_told(path, "MetaImage", field)
    spacing = fields.get("ElementSpacing", fields.get("ElementSize"))
    if spacing is None:
        raise not_told(path, "MetaImage", "ElementSpacing")
    steps = numbers(path, "ElementSpacing", spacing, dimension)
    if min(steps) <= 0.0:
        raise broken(path, f"ElementSpacing is {spacing!r}")
    origin = numbers(path, "Offset", fields["Offset"], dimension)
    axes = np.array(numbers(path, "TransformMatrix", fields["TransformMatrix"], dimension**2)).reshape(dimension, -1)
    if np.abs(axes[3:, :3]).max(initial=0.0) > 0 or np.abs(axes[:3, 3:]).max(initial=0.0) > 0:
        raise broken(path, "its TransformMatrix mixes space with a further axis")
    if not np.allclose(np.linalg.norm(axes, axis=1), 1.0, rtol=0, atol=1e-3):
        raise broken(path, f"the axes in its TransformMatrix {fields['TransformMatrix']!r} have not the length 1")
    _refuse_other_orientation(path, fields, axes[:3, :3])
    unit = fields.get("DistanceUnits", "mm").lower()
    if unit != "?" and unit not in MM_IN:
        raise broken(path, f"its DistanceUnits are {unit!r}")
    affine = np.eye(4)
    affine[:3, :3] = ras_from_lps(axes[:3, :3]).T * steps[:3]
    affine[:3, 3] = ras_from_lps(origin[:3])
    affine[:3] *= MM_IN.get(unit, 1.0)
    return affine


def _refuse_other_orientation(path: Path, fields: dict[str, str], axes_lps: NDArray[np.float64]) -> None:
    """AnatomicalOrientation tells the sides from which the axes come; it has to agree with the matrix."""
    text = fields.get("AnatomicalOrientation", "").upper()
    for letter, axis in zip(text, axes_lps, strict=False):
        for along, letters in zip(axis, _LETTERS, strict=True):
            if letter in letters and along * (1.0 if letter == letters[0] else -1.0) < _ALONG:
                raise InputError(
                    f"The MetaImage header of {path} gives two different orientations (its AnatomicalOrientation "
                    f"{text[:8]} and its TransformMatrix disagree). Programs differ in which they take. Export the "
                    "scan again."
                )


def _refuse_scaling(path: Path, fields: dict[str, str]) -> None:
    for name, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if numbers(path, name, fields.get(name, str(neutral)), 1)[0] != neutral:
            raise InputError(
                f"The MetaImage header of {path} asks for its values to be scaled ({name}), which programs do or do "
                "not. Save the scan in Hounsfield units."
            )


def _compression(data: Path, start: int) -> str:
    with data.open("rb") as file:
        file.seek(start)
        return "gzip" if file.read(2) == b"\x1f\x8b" else "zlib"
