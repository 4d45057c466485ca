"""NRRD files: what their headers say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rprloc.errors import InputError
from rprloc.geometry import Grid, Points, ras_from_las, ras_from_lps
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

_MAX_HEADER_BYTES = 1 << 24  # segmentations with hundreds of segments have long ones
_MAX_FIELDS = 1000  # the standard has some forty
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(
        ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"), "i8"
    ),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_ENCODINGS = {
    **dict.fromkeys(("raw",), "raw"),
    **dict.fromkeys(("gz", "gzip"), "gzip"),
    **dict.fromkeys(("bz2", "bzip2"), "bzip2"),
    **dict.fromkeys(("txt", "text", "ascii"), "text"),
}
_SEGMENT = re.compile(r"segment\d+_", re.IGNORECASE)


# The spaces that are bound to the patient; with "-time", or "t", there is a fourth axis. Those of the scanner and
# "3D-right-handed" do not say where left and right are.
_SPACES: dict[str, Callable[[ArrayLike], Points]] = {
    **dict.fromkeys(("left-posterior-superior", "lps"), ras_from_lps),
    **dict.fromkeys(("left-anterior-superior", "las"), ras_from_las),
    **dict.fromkeys(("right-anterior-superior", "ras"), np.asarray),
}


@dataclass(frozen=True, eq=False)
class _Axes:
    """The axes of the array that lie in space; the others are colours, layers or time."""

    spatial: list[int]
    vectors: NDArray[np.float64]  # (spatial axis, 3), in the header's space and unit


def read_nrrd_header(path: Path) -> StoredImage:
    """What the header of a NRRD file says. Raises InputError for what it does not say, and says twice."""
    fields, is_segmentation, end = _fields(path)
    sizes = whole_numbers(path, "sizes", fields.get("sizes", ""), _dimension(path, fields))
    kind = _TYPES.get(fields.get("type", "").lower())
    encoding = _ENCODINGS.get(fields.get("encoding", "").lower())
    if kind is None:
        raise broken(path, f"its type {fields.get('type', '')!r} is none that a scan can have")
    if encoding is None:
        raise InputError(
            f"{path} has the NRRD encoding {fields.get('encoding', '')!r}, which is not read. Save it with the "
            "encoding raw or gzip."
        )
    grid = _grid(path, fields, sizes, is_segmentation)
    if "oldmin" in fields or "oldmax" in fields:
        raise InputError(
            f"The values in {path} are scaled (its header has old min or old max). Save the scan in Hounsfield units."
        )
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower(), "")
    if not order and kind[1] != "1" and encoding != "text":
        raise broken(path, f"its endian is {fields.get('endian', '')!r}, so the order of bytes is not known")
    data, start = (data_file(path, fields["datafile"]), 0) if "datafile" in fields else (path, end)
    dtype = np.dtype(f"{order}{kind}")
    start = _skipped(path, fields, data, start, encoding, math.prod(grid.shape) * dtype.itemsize)
    return StoredImage(path, grid, dtype, data, start, encoding)


def _fields(path: Path) -> tuple[dict[str, str], bool, int]:
    """The fields by their names in lower case without spaces, whether segments are described, where the header ends."""
    pairs: list[tuple[str, str]] = []
    is_segmentation = False
    with path.open("rb") as file:
        if not re.match(rb"NRRD000[1-9]\r?\n", file.readline(16)):
            raise InputError(
                f"{path} is not a NRRD file, whatever its name says. {READABLE_FORMATS} Give the scan as it was "
                "exported."
            )
        while (line := file.readline(_MAX_HEADER_BYTES)).rstrip(b"\r\n"):
            text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            if file.tell() > _MAX_HEADER_BYTES or len(pairs) > _MAX_FIELDS:
                raise broken(path, "it does not end")
            if text.startswith("#"):
                continue
            key, separator, value = text.partition(":")
            if value.startswith("="):
                is_segmentation = is_segmentation or _SEGMENT.match(key) is not None
            elif separator:
                pairs.append((key.strip().lower().replace(" ", ""), value.strip()))
            else:
                raise broken(path, f"it has the line {text[:40]!r}")
        return collected(path, pairs), is_segmentation, file.tell()


def _dimension(path: Path, fields: dict[str, str]) -> int:
    return whole_numbers(path, "dimension", fields.get("dimension", ""), 1)[0]


def _grid(path: Path, fields: dict[str, str], sizes: list[int], is_segmentation: bool) -> Grid:
    if len(sizes) < 3:
        require_3d(path, sizes)
    if "spacedirections" not in fields:
        raise not_told(path, "NRRD", "space directions")
    to_ras, dimension = _space(path, fields)
    axes = _axes(path, fields, sizes, dimension)
    others = [n for axis, n in enumerate(sizes) if axis not in axes.spatial]
    layers = math.prod(others)
    if layers != 1 and is_segmentation:
        raise InputError(
            f"The segments in {path} overlap: it holds them in {layers} layers. Export them as one label map, in 3D "
            "Slicer with 'Export visible segments to binary labelmap'."
        )
    require_scalar(path, layers)
    shape = require_3d(path, [sizes[axis] for axis in axes.spatial])
    origin = _vector(path, "space origin", fields.get("spaceorigin", ""), dimension)
    if origin is None:
        raise not_told(path, "NRRD", "space origin")
    _refuse_other_spacings(path, fields, axes)
    affine = np.eye(4)
    affine[:3, :3] = to_ras(axes.vectors).T
    affine[:3, 3] = to_ras(origin[:3])
    affine[:3] *= _unit_mm(path, fields)
    return place(path, shape, affine)


def _space(path: Path, fields: dict[str, str]) -> tuple[Callable[[ArrayLike], Points], int]:
    """How points are turned into RAS, and how many numbers they have."""
    space = fields.get("space", "").lower()
    timeless = space.removesuffix("-time") if "-" in space else space.removesuffix("t")
    if timeless not in _SPACES:
        raise InputError(
            f"The NRRD header of {path} does not say how the patient lies (its space is {space[:40]!r}, not for "
            "instance left-posterior-superior). Left and right would be a guess. Export the scan with its orientation."
        )
    dimension = 3 if timeless == space else 4
    if fields.get("spacedimension", str(dimension)) != str(dimension):
        raise broken(path, f"its space dimension is {fields['spacedimension']!r} in the space {space!r}")
    return _SPACES[timeless], dimension


def _axes(path: Path, fields: dict[str, str], sizes: list[int], dimension: int) -> _Axes:
    text = fields["spacedirections"]
    words = re.findall(r"none|\([^()]*\)", text)
    if len(words) != len(sizes) or re.sub(r"none|\([^()]*\)|\s", "", text):
        raise broken(path, f"its space directions are {text!r}")
    spatial, vectors = [], []
    for axis, word in enumerate(words):
        vector = _vector(path, "space directions", word, dimension)
        if vector is None or (dimension == 4 and not vector[:3].any()):
            continue
        if vector[3:].any():
            raise broken(path, f"its space directions mix space and time: {text!r}")
        spatial.append(axis)
        vectors.append(vector[:3])
    if len(spatial) != 3:
        raise InputError(
            f"{path} is a {len(spatial)}D image, not a 3D scan. Give the whole volume, with three axes in space."
        )
    return _Axes(spatial, np.array(vectors))


def _vector(path: Path, field: str, text: str, dimension: int) -> NDArray[np.float64] | None:
    if text in ("", "none"):
        return None
    inner = re.fullmatch(r"\(([^()]*)\)", text)
    if inner is None:
        raise broken(path, f"its {field} is {text!r}")
    return np.array(numbers(path, f"its {field}", inner[1].replace(",", " "), dimension))


def _refuse_other_spacings(path: Path, fields: dict[str, str], axes: _Axes) -> None:
    """The standard forbids spacings beside directions; programs differ in which they take."""
    words = fields.get("spacings", "").split()
    told = [words[axis] for axis in axes.spatial if axis < len(words)]
    lengths = np.linalg.norm(axes.vectors, axis=1)
    for word, length in zip(told, lengths, strict=False):
        if word.lower() != "nan" and not np.isclose(numbers(path, "spacings", word, 1)[0], length, rtol=1e-4, atol=0):
            raise InputError(
                f"The NRRD header of {path} gives two different voxel sizes (its spacings and space directions). "
                "Programs differ in which they take. Export the scan again."
            )


def _unit_mm(path: Path, fields: dict[str, str]) -> float:
    """Millimetres in the unit of the directions and the origin, which are millimetres where nothing is said."""
    texts = [fields.get(key, "") for key in ("spaceunits", "units")]
    for text in texts:
        if re.sub(r'"[^"]*"|\s', "", text):
            raise broken(path, f"its units are {text!r}, not in quotation marks")
    named = {name.lower() for text in texts for name in re.findall(r'"([^"]*)"', text)}
    time = {"", "s", "ms", "sec", "hu", "???"}
    units = {MM_IN.get(name, 0.0) for name in named - time} if named - time else {1.0}
    if len(units) != 1 or 0.0 in units:
        raise InputError(
            f"The NRRD header of {path} has the units {', '.join(sorted(named - time))}. Export the scan with places "
            "in mm."
        )
    return units.pop()


def _skipped(path: Path, fields: dict[str, str], data: Path, start: int, encoding: str, size: int) -> int:
    """The byte at which the voxels begin, behind the lines and bytes that are to be skipped."""
    lines = whole_numbers(path, "line skip", fields.get("lineskip", "0"), 1)[0]
    skip = whole_numbers(path, "byte skip", fields.get("byteskip", "0"), 1)[0]
    if (lines or skip) and encoding != "raw":
        raise InputError(f"{path} skips lines or bytes of compressed voxels. Save it without line skip and byte skip.")
    if lines < 0 or skip < -1:
        raise broken(path, f"it skips {lines} lines and {skip} bytes")
    if skip == -1:  # the voxels are the last bytes of the file
        return max(data.stat().st_size - size, 0)
    with data.open("rb") as file:
        file.seek(start)
        for _ in range(lines):
            if not file.readline():
                break
        return file.tell() + skip
