"""NRRD files: what their headers say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, eq=False)
class _Header:
    """The fields by their names in lower case without spaces, the other keys as they are, and where the header ends."""

    fields: dict[str, str]
    keys: dict[str, str]
    end: int

    @property
    def is_segmentation(self) -> bool:
        return any(_SEGMENT.match(key) for key in self.keys)


@dataclass(frozen=True, eq=False)
class StoredLayers:
    """A segmentation of 3D Slicer as it is stored: label maps, several of them where segments overlap.

    Parameters
    ----------
    image : StoredImage
        All layers as if they were one image that is longer along one axis.
    grid : Grid
        Where the voxels of each layer lie.
    count : int
        The number of layers.
    innermost : bool
        Whether the layers of a voxel follow each other, not the voxels of a layer.
    keys : dict of str to str
        What the header says of the segments, such as ``Segment0_Name``.
    """

    image: StoredImage
    grid: Grid
    count: int
    innermost: bool
    keys: dict[str, str]

    def layers_of(self, voxels: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        """The layers (I, J, K) of the voxels that the image holds."""
        inner, outer = ((self.count,), ()) if self.innermost else ((), (self.count,))
        parts = voxels.reshape((*inner, *self.grid.shape, *outer), order="F")
        return [parts[n] if self.innermost else parts[..., n] for n in range(self.count)]


def read_nrrd_header(path: Path) -> StoredImage:
    """What the header of a NRRD file says. Raises InputError for what it does not say, and says twice."""
    header = _read_header(path)
    image, layers, _ = _stored(path, header)
    if layers != 1 and header.is_segmentation:
        raise InputError(
            f"The segments in {path} overlap: it holds them in {layers} layers, which are no scan and no label map. "
            "Give it as the annotation of a scan, with --labels."
        )
    require_scalar(path, layers)
    return image


def read_nrrd_segmentation(path: Path) -> StoredLayers | None:
    """What the header of a segmentation of 3D Slicer says; None for a NRRD file that describes no segments.

    Raises InputError as :func:`read_nrrd_header`.
    """
    header = _read_header(path)
    if not header.is_segmentation:
        return None
    image, count, innermost = _stored(path, header)
    i, j, k = image.grid.shape
    longer = (count * i, j, k) if innermost else (i, j, k * count)
    whole = replace(image, grid=Grid(longer, image.grid.ras_from_ijk))
    return StoredLayers(whole, image.grid, count, innermost, header.keys)


def _stored(path: Path, header: _Header) -> tuple[StoredImage, int, bool]:
    """What the header says of one layer, how many there are, and whether they are the innermost axis."""
    fields = header.fields
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
    grid, others = _grid(path, fields, sizes)
    if "oldmin" in fields or "oldmax" in fields:
        raise InputError(
            f"The values in {path} are scaled (its header has old min or old max). Save the scan in Hounsfield units."
        )
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower(), "")
    if not order and kind[1] != "1" and encoding != "text":
        raise broken(path, f"its endian is {fields.get('endian', '')!r}, so the order of bytes is not known")
    layers = math.prod(sizes[axis] for axis in others)
    data, start = (data_file(path, fields["datafile"]), 0) if "datafile" in fields else (path, header.end)
    dtype = np.dtype(f"{order}{kind}")
    start = _skipped(path, fields, data, start, encoding, layers * math.prod(grid.shape) * dtype.itemsize)
    return StoredImage(path, grid, dtype, data, start, encoding), layers, bool(others) and others[0] == 0


def _read_header(path: Path) -> _Header:
    pairs: list[tuple[str, str]] = []
    keys: list[tuple[str, str]] = []
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
                keys.append((key, value[1:]))
            elif separator:
                pairs.append((key.strip().lower().replace(" ", ""), value.strip()))
            else:
                raise broken(path, f"it has the line {text[:40]!r}")
        segments = collected(path, [pair for pair in keys if _SEGMENT.match(pair[0])])
        return _Header(collected(path, pairs), segments, file.tell())


def _dimension(path: Path, fields: dict[str, str]) -> int:
    return whole_numbers(path, "dimension", fields.get("dimension", ""), 1)[0]


def _grid(path: Path, fields: dict[str, str], sizes: list[int]) -> tuple[Grid, list[int]]:
    """Where the voxels lie, and the axes that do not lie in space: at most one that is longer than 1."""
    if len(sizes) < 3:
        require_3d(path, sizes)
    if "spacedirections" not in fields:
        raise not_told(path, "NRRD", "space directions")
    to_ras, dimension = _space(path, fields)
    axes = _axes(path, fields, sizes, dimension)
    others = [axis for axis, n in enumerate(sizes) if axis not in axes.spatial and n != 1]
    if len(others) > 1 or any(0 < axis < len(sizes) - 1 for axis in others):
        require_scalar(path, math.prod(sizes[axis] for axis in others))
    shape = require_3d(path, [sizes[axis] for axis in axes.spatial])
    origin = _vector(path, "space origin", fields.get("spaceorigin", ""), dimension)
    if origin is None:
        raise not_told(path, "NRRD", "space origin")
    _refuse_other_spacings(path, fields, axes)
    affine = np.eye(4)
    affine[:3, :3] = to_ras(axes.vectors).T
    affine[:3, 3] = to_ras(origin[:3])
    affine[:3] *= _unit_mm(path, fields)
    return place(path, shape, affine), others


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
