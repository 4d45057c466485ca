"""NIfTI files: what their headers say, by the standard.

Two places are told at most, the sform's and the qform's, and voxel sizes besides. They have to agree.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.io.formats import READABLE_FORMATS
from rprloc.io.headers import broken, not_told, place, require_3d, require_scalar
from rprloc.io.voxels import StoredImage, is_zipped

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

_SIZES = {348: (b"n+1\0", 344, 352), 540: (b"n+2\0\r\n\x1a\n", 4, 544)}
"""By the size of the header: its magic word, where that stands, and the first byte at which voxels may begin."""
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_COLOURS = {128: 3, 2304: 4, 32: 2, 1792: 2, 2048: 2}  # RGB, RGBA, complex numbers: values at each voxel
_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}  # unknown is millimetres in practice
_CODES = {0, 1, 2, 3, 4, 5}  # unknown, scanner, aligned with another scan, Talairach, MNI, other template
_SAME_MM = 0.1
_HALF_TURN = 6e-4  # of a quaternion's fourth part, as in NiBabel: three times what 32-bit numbers round off its square
_QUATERNION_COSINE = 1e-3  # how exactly a quaternion of 32-bit numbers tells a direction near half a turn


def read_nifti_header(path: Path) -> StoredImage:
    """What the header of a NIfTI-1 or NIfTI-2 file says. Raises InputError for what it does not say, or says twice."""
    header, first = _parse_header(path)
    count, *sizes = header["dim"].tolist()
    if not 1 <= count <= 7:
        raise broken(path, f"it has {count} dimensions")
    sizes = sizes[:count]
    if count >= 5 and sizes[3] == 1:
        require_scalar(path, sizes[4])
    shape = require_3d(path, sizes)
    code = int(header["datatype"])
    require_scalar(path, _COLOURS.get(code, 1))
    if code not in _TYPES:
        raise broken(path, f"its data type {code} is none that a scan can have")
    kind = np.dtype(f"{header.endianness}{_TYPES[code]}")
    if int(header["bitpix"]) != 8 * kind.itemsize:
        raise broken(path, f"its data type {code} and {int(header['bitpix'])} bits for a voxel disagree")
    start = float(header["vox_offset"])
    if not first <= start < 2**53 or start != int(start):  # so written, NaN counts as well
        raise broken(path, f"its voxels begin at byte {start:g}, which is not behind the header of {first} bytes")
    grid = _grid(path, header, shape)
    scaling = _scaling(path, header)
    if is_zipped(path):
        return StoredImage(path, grid, kind, path, encoding="gzip", unpacked_start=int(start), scaling=scaling)
    return StoredImage(path, grid, kind, path, int(start), scaling=scaling)


def _parse_header(path: Path) -> tuple[Nifti1Header, int]:
    """The header, unzipped if it is zipped whatever the file's name says, and the first byte voxels may begin at."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    with cast(IO[bytes], igzip.open(path)) if is_zipped(path) else path.open("rb") as stream:
        block = stream.read(540)
    for size, (magic, place_of_magic, first) in _SIZES.items():
        for order in "<>":
            if block[:4] == struct.pack(f"{order}i", size) and block[place_of_magic:].startswith(magic):
                kind = Nifti1Header if size == 348 else Nifti2Header
                if len(block) >= size:
                    return kind(block[:size], order, check=False), first  # the callers check what it says
    raise InputError(
        f"{path} is not a NIfTI file, whatever its name says. {READABLE_FORMATS} Give the scan as it was exported."
    )


def _scaling(path: Path, header: Nifti1Header) -> tuple[float, float] | None:
    """Slope and intercept; None where the standard says that values are as stored, whatever the intercept is."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0.0 or not math.isfinite(slope):
        return None
    if not math.isfinite(intercept):
        raise broken(path, f"its values are to be multiplied by {slope:g} and moved by {intercept:g}")
    return slope, intercept


def _grid(path: Path, header: Nifti1Header, shape: tuple[int, int, int]) -> Grid:
    qform_code, sform_code = int(header["qform_code"]), int(header["sform_code"])
    if not {qform_code, sform_code} <= _CODES:
        raise broken(path, f"its sform and qform codes are {sform_code} and {qform_code}")
    if qform_code == 0 and sform_code == 0:
        raise not_told(path, "NIfTI", "sform or qform code")
    unit_mm = _UNITS_MM.get(int(header["xyzt_units"]) & 7)
    if unit_mm is None:
        raise broken(path, f"its unit of length has the code {int(header['xyzt_units']) & 7}")
    sizes = header["pixdim"][1:4].astype(float)
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise InputError(
            f"The NIfTI header of {path} has voxel sizes of {' x '.join(f'{size:g}' for size in sizes)}. A scan with "
            "sizes that are not above 0 would be mirrored by some programs. Export it again."
        )
    qform = _qform(path, header, unit_mm) if qform_code else None
    if not sform_code and qform is not None:
        return place(path, shape, qform)
    sform = np.eye(4)
    sform[:3] = [header[f"srow_{axis}"] for axis in "xyz"]
    sform[:3] *= unit_mm
    grid = place(path, shape, sform)
    sizes_differ_mm = np.abs(sizes * unit_mm - grid.spacing_mm) * (np.array(shape) - 1)
    if sizes_differ_mm.max() > _SAME_MM or (qform is not None and not _agree(sform, qform)):
        raise InputError(
            f"The NIfTI header of {path} gives two different positions (its sform, qform or voxel sizes disagree). "
            "Programs differ in which they take. Write it again with all the same."
        )
    return grid


def _qform(path: Path, header: Nifti1Header, unit_mm: float) -> NDArray[np.float64]:
    """The affine of quaternion, voxel sizes and offset, by the standard: qfac -1 turns the third axis round."""
    quaternion = np.array([header[f"quatern_{part}"] for part in "bcd"], float)
    qfac, length2 = float(header["pixdim"][0]), float(np.square(quaternion).sum())
    if qfac not in (-1.0, 0.0, 1.0) or not length2 <= 1.0 + 1e-5:  # so written, NaN counts as well
        raise broken(path, f"its qform has the quaternion {quaternion.tolist()} and qfac {qfac:g}")
    a = math.sqrt(max(0.0, 1.0 - length2))
    if a < _HALF_TURN:  # so little is rounding, above all of scans along the axes, and would tilt them
        a, quaternion = 0.0, quaternion / math.sqrt(length2)
    b, c, d = quaternion
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * header["pixdim"][1:4].astype(float)
    affine[:3, 2] *= -1.0 if qfac < 0 else 1.0
    affine[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    affine[:3] *= unit_mm
    return affine


def _agree(sform: NDArray[np.float64], qform: NDArray[np.float64]) -> bool:
    """Whether both give the same place, as exactly as a quaternion can tell it; the voxel sizes are compared elsewhere.

    A quaternion cannot tell sheared axes either: where those of the sform are not quite perpendicular, those of the
    qform may be off by as much.
    """
    axes, others = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) for affine in (sform, qform))
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    off_mm = float(np.linalg.norm(sform[:3, 3] - qform[:3, 3]))
    return off_mm <= _SAME_MM and float(np.abs(axes - others).max()) <= _QUATERNION_COSINE + shear
