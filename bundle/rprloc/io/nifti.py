"""TODO io.nifti."""

from __future__ import annotations

import math
import struct
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.io.formats import READABLE_FORMATS, scan_name
from rprloc.io.headers import require_bytes
from rprloc.io.plausibility import MAX_SHEAR_COSINE, require_finite


def _opened(path: Path) -> IO[bytes]:
    """The file's bytes, unzipped if they are zipped, whatever its name says."""
    return cast(IO[bytes], igzip.open(path)) if is_zipped(path) else path.open("rb")


def is_zipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def is_nifti2(path: Path) -> bool:
    with _opened(path) as stream:
        return stream.read(7)[4:] == b"n+2"


@contextmanager
def unzip(path: Path) -> Iterator[Path]:
    """A plain copy of a zipped NIfTI-1 file under the same name in a temporary folder: unzipped once and quickly.

    The zipped stream is read to its end, as that checks its length and CRC; kept is no more than its header promises.
    """
    with tempfile.TemporaryDirectory(prefix="rprloc-") as folder:
        copy = Path(folder) / f"{scan_name(path)}.nii"
        with _opened(path) as stream, copy.open("wb") as file:
            header = stream.read(352)
            _, _, start, size = _nifti_layout(path, header)
            file.write(header)
            left = start + size - len(header)
            while chunk := stream.read(1 << 20):
                file.write(chunk[: max(left, 0)])
                left -= len(chunk)
        with _speaking_of(path, copy):
            yield copy


@contextmanager
def _speaking_of(path: Path, copy: Path) -> Iterator[None]:
    """Errors about a copy of a file are about the file."""
    try:
        yield
    except (InputError, RuntimeError) as error:
        raise type(error)(str(error).replace(str(copy), str(path))) from error


@contextmanager
def convert_to_nifti1(path: Path) -> Iterator[Path]:
    """A NIfTI-1 copy of a NIfTI-2 file, which SimpleITK does not read, under the same name in a temporary folder."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.imageglobals import LoggingOutputSuppressor
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    broken = (HeaderDataError, ImageFileError, WrapStructError)

    with _opened(path) as stream:  # to the end, as that checks a gzip stream's length and CRC
        while stream.read(1 << 20):
            pass
    with tempfile.TemporaryDirectory(prefix="rprloc-") as folder:
        copy = Path(folder) / (path.name.lower().removesuffix(".gz"))
        # Not what numpy and nibabel tell on the way: the copy's header is checked like any other's.
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"), LoggingOutputSuppressor():
                warnings.simplefilter("ignore")
                image = nibabel.Nifti2Image.from_filename(path)
                header = nibabel.Nifti1Header.from_header(image.header)
                array = np.asanyarray(image.dataobj)  # with slope and intercept applied
                header.set_data_dtype(array.dtype)
                nibabel.save(nibabel.Nifti1Image(array, None, header), copy)
        except (*broken, ValueError, TypeError, OverflowError, EOFError, OSError, MemoryError) as error:
            raise InputError(
                f"The NIfTI-2 file {path} cannot be used ({str(error).splitlines()[0].rstrip('.')}); a complete 3D "
                "image of at most 32767 voxels along an axis was expected; save it as NIfTI-1."
            ) from error
        with _speaking_of(path, copy):
            yield copy


def check_nifti(path: Path) -> NDArray[np.float64] | None:
    """The file's sform (4, 4) in RAS mm, None if it has none.

    Raises InputError where SimpleITK would put zeros for missing voxels and for NaN, or make up an orientation. Header
    fields as in nifti1.h.
    """
    with path.open("rb") as stream:
        header = stream.read(352)
        order, data_type, start, expected = _nifti_layout(path, header)
        size = path.stat().st_size - start
        not_finite, floating = 0, {16: np.dtype(order + "f4"), 64: np.dtype(order + "f8")}.get(data_type)
        if floating is not None:
            stream.seek(start)
            left = expected
            while left > 0 and (chunk := stream.read(min(1 << 20, left))):
                values = np.frombuffer(chunk, floating, len(chunk) // floating.itemsize)
                not_finite += len(values) - int(np.count_nonzero(np.isfinite(values)))
                left -= len(chunk)
    require_bytes(path, size, expected)
    require_finite(path, not_finite)
    return _nifti_sform(path, header, order)


def _nifti_layout(path: Path, header: bytes) -> tuple[str, int, int, int]:
    """Of a NIfTI-1 header (352 bytes): the byte order, the type of its voxels, the byte at which these begin, and how
    many bytes they take. Raises InputError for any other header.
    """
    order = "<" if header[:4] == struct.pack("<i", 348) else ">"
    if header[:4] != struct.pack(order + "i", 348) or header[344:347] != b"n+1":
        raise InputError(
            f"{path} is not a NIfTI file, whatever its name says; {READABLE_FORMATS}; give the scan as it was exported."
        )
    dimensions = struct.unpack(order + "8h", header[40:56])
    data_type, bits_per_voxel = struct.unpack(order + "2h", header[70:74])
    offset = struct.unpack(order + "f", header[108:112])[0]
    voxels = math.prod(max(n, 1) for n in dimensions[1 : 1 + max(dimensions[0], 0)])
    start = int(offset) if offset >= 352 and math.isfinite(offset) else 352
    return order, data_type, start, voxels * bits_per_voxel // 8


def _nifti_sform(path: Path, header: bytes, order: str) -> NDArray[np.float64] | None:
    qform_code, sform_code = struct.unpack(order + "2h", header[252:256])
    if qform_code <= 0 and sform_code <= 0:
        raise InputError(
            f"The NIfTI header of {path} does not say how the patient lies (its sform and qform codes are 0); "
            "left and right would be a guess; a position in the world was expected; export it with its orientation."
        )
    if sform_code <= 0:
        return None
    unit_mm = {1: 1e3, 3: 1e-3}.get(header[123] & 7, 1.0)  # metres, micrometres, else mm
    sform = np.eye(4)
    sform[:3] = np.array(struct.unpack(order + "12f", header[280:328])).reshape(3, 4) * unit_mm
    with np.errstate(all="ignore"):  # infinite numbers end below
        axes = sform[:3, :3] / np.maximum(np.linalg.norm(sform[:3, :3], axis=0), 1e-12)
    if not np.abs(axes.T @ axes - np.eye(3)).max() <= MAX_SHEAR_COSINE:  # so written, NaN counts as well
        raise InputError(
            f"The axes of {path} are sheared, as by a tilted gantry, or flat; perpendicular axes were expected; "
            "resample the scan to perpendicular axes first."
        )
    return sform
