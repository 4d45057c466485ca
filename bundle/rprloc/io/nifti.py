"""NIfTI files: what their headers say, and plain copies that SimpleITK reads quickly and rightly."""

from __future__ import annotations

import math
import struct
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.io.formats import READABLE_FORMATS, scan_name
from rprloc.io.headers import require_bytes
from rprloc.io.plausibility import MAX_SHEAR_COSINE, require_finite

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

_STRUCT_BYTES, _HEADER_BYTES = 348, 352  # of the header, and with the four bytes that say whether it goes on
_FLOATING = {16: np.float32, 64: np.float64}  # data types by their NIfTI code


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
            block = stream.read(_HEADER_BYTES)
            start, size = _layout(_parse_header(path, block))
            file.write(block)
            left = start + size - len(block)
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
                f"The NIfTI-2 file {path} cannot be used ({str(error).splitlines()[0].rstrip('.')}). Give a complete "
                "3D image of at most 32767 voxels along an axis, or save it as NIfTI-1."
            ) from error
        with _speaking_of(path, copy):
            yield copy


def check_nifti(path: Path) -> NDArray[np.float64] | None:
    """The file's sform (4, 4) in RAS mm, None if it has none.

    Raises InputError where SimpleITK would put zeros for missing voxels and for NaN, or make up an orientation.
    """
    with path.open("rb") as stream:
        header = _parse_header(path, stream.read(_HEADER_BYTES))
        start, expected = _layout(header)
        size = path.stat().st_size - start
        not_finite, floating = 0, _FLOATING.get(int(header["datatype"]))
        if floating is not None:
            kind = np.dtype(floating).newbyteorder(header.endianness)
            stream.seek(start)
            left = expected
            while left > 0 and (chunk := stream.read(min(1 << 20, left))):
                values = np.frombuffer(chunk, kind, len(chunk) // kind.itemsize)
                not_finite += len(values) - int(np.count_nonzero(np.isfinite(values)))
                left -= len(chunk)
    require_bytes(path, size, expected)
    require_finite(path, not_finite)
    return _sform(path, header)


def _parse_header(path: Path, block: bytes) -> Nifti1Header:
    """The header of a NIfTI-1 file from its first bytes. Raises InputError for any other file."""
    from nibabel.nifti1 import Nifti1Header

    order = next((order for order in "<>" if block[:4] == struct.pack(f"{order}i", _STRUCT_BYTES)), None)
    if order is None or len(block) < _HEADER_BYTES or block[344:347] != b"n+1":
        raise InputError(
            f"{path} is not a NIfTI file, whatever its name says. {READABLE_FORMATS} Give the scan as it was exported."
        )
    return Nifti1Header(block[:_STRUCT_BYTES], order, check=False)  # what it says is checked by the callers


def _layout(header: Nifti1Header) -> tuple[int, int]:
    """The byte at which the voxels begin, and how many bytes they take."""
    count, *sizes = header["dim"].tolist()
    voxels = math.prod(max(n, 1) for n in sizes[: max(count, 0)])
    offset = float(header["vox_offset"])
    start = int(offset) if offset >= _HEADER_BYTES and math.isfinite(offset) else _HEADER_BYTES
    return start, voxels * int(header["bitpix"]) // 8


def _sform(path: Path, header: Nifti1Header) -> NDArray[np.float64] | None:
    if header["qform_code"] <= 0 and header["sform_code"] <= 0:
        raise InputError(
            f"The NIfTI header of {path} does not say how the patient lies (its sform and qform codes are 0). "
            "Left and right would be a guess. Export the scan with its orientation."
        )
    if header["sform_code"] <= 0:
        return None
    unit_mm = {1: 1e3, 3: 1e-3}.get(int(header["xyzt_units"]) & 7, 1.0)  # metres, micrometres, else mm
    sform: NDArray[np.float64] = header.get_sform()
    sform[:3] *= unit_mm
    with np.errstate(all="ignore"):  # infinite numbers end below
        axes = sform[:3, :3] / np.maximum(np.linalg.norm(sform[:3, :3], axis=0), 1e-12)
    if not np.abs(axes.T @ axes - np.eye(3)).max() <= MAX_SHEAR_COSINE:  # so written, NaN counts as well
        raise InputError(
            f"The axes of {path} are sheared, as by a tilted gantry, or flat. Resample the scan to perpendicular axes "
            "first."
        )
    return sform
