"""NRRD and MetaImage headers: what SimpleITK would pass over in silence."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np

from rprloc.errors import InputError
from rprloc.io.formats import READABLE_FORMATS

_META_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_HEADER_BYTES = 1 << 16


def check_nrrd(path: Path) -> None:
    """Raises InputError for what is not NRRD, has its data elsewhere than beside it, or has no orientation."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if not head.startswith(b"NRRD000"):
        raise InputError(
            f"{path} is not a NRRD file, whatever its name says. {READABLE_FORMATS} Give the scan as it was exported."
        )
    lines = re.split(r"\r?\n\r?\n", head.decode("latin-1"), maxsplit=1)[0].splitlines()
    fields = dict(re.findall(r"^([^:#]+): *(.*)$", line)[0] for line in lines if re.match(r"^[^:#]+:(?!=)", line))
    fields = {key.strip().lower(): value.strip() for key, value in fields.items()}
    for key in ("data file", "datafile"):
        if key in fields:
            _data_file(path, fields[key])
    if "space directions" not in fields:
        raise InputError(
            f"The NRRD header of {path} does not say how the patient lies (it has no space directions). "
            "Left and right would be a guess. Export the scan with its orientation."
        )


def check_metaimage(path: Path) -> None:
    """Raises InputError for what is not MetaImage, has its data elsewhere than beside it, or is cut off."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES).decode("latin-1")
    end = re.search(r"^[ \t]*ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*)\r?\n?", head, re.MULTILINE)
    if end is None:
        raise InputError(
            f"{path} is not a MetaImage file, whatever its name says. {READABLE_FORMATS} Give the scan as it was "
            "exported."
        )
    fields = dict(re.findall(r"^[ \t]*(\w+)[ \t]*[=:][ \t]*([^\r\n]*?)[ \t]*\r?$", head[: end.start()], re.MULTILINE))
    local = end[1].strip().lower() == "local"
    data, start = (path, end.end()) if local else (_data_file(path, end[1].strip()), 0)
    size = data.stat().st_size - start
    try:
        dimensions, sizes = int(fields.get("NDims", 0)), fields.get("DimSize", "").split()
        if not 2 <= dimensions <= 5 or len(sizes) != dimensions:  # MetaIO trusts the number
            raise ValueError(f"{dimensions} dimensions, {len(sizes)} sizes")
        compressed = fields.get("CompressedData", "").lower() in ("true", "1")
        if compressed or fields.get("BinaryData", "").lower() in ("true", "1"):
            kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
            item = _META_BYTES.get(kind, _META_BYTES.get(kind.removeprefix("U"), 0))
            voxels = int(np.prod([int(n) for n in sizes], dtype=object))
            expected = voxels * item * int(fields.get("ElementNumberOfChannels", 1))
        else:
            expected = 0
    except ValueError as error:
        raise InputError(f"The MetaImage header of {path} is broken ({error}). Export the scan again.") from error
    if compressed:
        size = _inflated_bytes(data, start, expected)
    require_bytes(path, size, expected)


def _inflated_bytes(path: Path, start: int, enough: int) -> int:
    """How many bytes the zlib stream that begins at ``start`` holds, counted up to ``enough``. May raise zlib.error."""
    stream, size = zlib.decompressobj(), 0
    with path.open("rb") as file:
        file.seek(start)
        while size < enough and (chunk := file.read(1 << 16)):
            size += len(stream.decompress(chunk))
    return size


def require_bytes(path: Path, size: int, expected: int) -> None:
    if size < expected:
        raise InputError(
            f"{path} is cut off: it holds {max(size, 0)} bytes of voxels, but its header promises {expected}. "
            "Copy or export it again."
        )


def _data_file(header: Path, reference: str) -> Path:
    """The data file beside a detached header; InputError for any reference that leads elsewhere."""
    elsewhere = (
        reference.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", reference) or ".." in re.split(r"[/\\]", reference)
    )
    if not reference or elsewhere or reference.split()[0].upper() == "LIST" or "%" in reference:
        raise InputError(
            f"{header} takes its voxels from {reference!r}, not from one data file in the header's own folder. "
            "Move the data there, or save the scan as a single .nii.gz file."
        )
    data = header.parent / reference
    if not data.is_file():
        raise InputError(f"{header} takes its voxels from {data}, which is missing. Copy both files.")
    return data
