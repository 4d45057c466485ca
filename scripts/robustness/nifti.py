"""NIfTI files whose header holds other values, field by field at its limits, for both versions of the format."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from typing import Any

import nibabel
import numpy as np

from scripts.robustness.damage import Kind, Truth

_FREE = {
    *("data_type", "db_name", "extents", "session_error", "regular", "dim_info", "glmax", "glmin", "descrip"),
    *("intent_p1", "intent_p2", "intent_p3", "intent_code", "intent_name", "slice_start", "slice_end", "slice_code"),
    *("slice_duration", "toffset", "cal_max", "cal_min", "aux_file", "unused_str"),
}
"""Fields that say nothing about values or places."""
_MORE: dict[str, list[int]] = {"xyzt_units": [2, 3, 4, 8, 10, 26, 64], "qform_code": [2, 3, 4, 5, 6]}
_MORE["sform_code"] = _MORE["qform_code"]
_MORE["datatype"] = [128, 1536, 2304]
_WRONG = [  # what no sweep over single fields finds: several fields at once
    ("huge sizes", 42, "<3h", (32767, 32767, 32767)),
    ("7 axes", 40, "<8h", (7, 30, 24, 20, 2, 2, 2, 2)),
    ("two volumes", 40, "<5h", (4, 30, 24, 10, 2)),
    ("one slice", 40, "<4h", (2, 30, 24, 1)),
    ("fewer slices", 46, "<h", (5,)),
    ("one slice less", 46, "<h", (19,)),
    ("colours", 70, "<2h", (128, 24)),
    ("complex numbers", 70, "<2h", (32, 64)),
    ("a vector at each voxel", 40, "<6h", (5, 30, 24, 4, 1, 5)),
    ("data far behind its end", 108, "<f", (1e9,)),
    ("voxels that begin in its header", 108, "<f", (348.0,)),
    ("a sform of zeros", 280, "<12f", (0.0,) * 12),
    ("a sheared sform", 284, "<f", (3.0,)),
    ("a sform that is mirrored", 280, "<f", (-4.0,)),
    ("a sform unlike its qform", 292, "<f", (200.0,)),
    ("a qform that is moved", 268, "<f", (140.0,)),
    ("neither sform nor qform", 252, "<2h", (0, 0)),
    ("the magic of a pair of files", 344, "<4s", (b"ni1\0",)),
    ("voxel sizes unlike its sform", 80, "<3f", (1.0, 1.0, 1.0)),
    ("voxels of a micrometre", 123, "<b", (3,)),
]
_LITTLE, _BIG = "<", ">"


def vary_nifti(truth: Truth) -> Iterator[Kind]:
    """Yield NIfTI-1 and NIfTI-2 files, each with one value that is at a limit or otherwise not the usual one."""
    for version, kind in (1, nibabel.Nifti1Image), (2, nibabel.Nifti2Image):
        data = encode(truth, kind)
        sweep: np.dtype[Any] = kind.header_class.template_dtype
        for field in sweep.names or ():
            assert sweep.fields is not None
            form, offset = sweep.fields[field][:2]
            for index in range(int(np.prod(form.shape, dtype=int))):
                for value in [*_limits(form.base), *_MORE.get(field, [])]:
                    changed = bytearray(data)
                    packed = np.array(value, form.base.newbyteorder("<")).tobytes()
                    start = offset + index * form.base.itemsize
                    changed[start : start + form.base.itemsize] = packed
                    where = f"{field}[{index}]" if form.shape else field
                    label = f"NIfTI-{version} with {where} = {value!r}"
                    yield label, {"bad.nii": bytes(changed)}, _outcome(truth, field, index, value)
    data = encode(truth, nibabel.Nifti1Image)
    for name, place, layout, values in _WRONG:
        changed = bytearray(data)
        struct.pack_into(layout, changed, place, *values)
        yield f".nii with {name}", {"bad.nii": bytes(changed)}, None
    yield from _vary_values(truth)
    yield from _vary_files(truth)


def encode(truth: Truth, kind: Any, array: Any = None, *, order: str = _LITTLE, extension: bytes = b"") -> bytes:
    """A NIfTI file of the truth, or of stored values ``array`` at its places, with sform and qform, not scaled."""
    stored = truth.hu if array is None else array
    image = kind(stored, truth.ras_from_ijk, kind.header_class(endianness=order), dtype=stored.dtype)
    image.set_sform(truth.ras_from_ijk, 1)
    image.set_qform(truth.ras_from_ijk, 1)
    if extension:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", extension))
    data = bytearray(image.to_bytes())
    scaling, form = (112, f"{order}2f") if kind is nibabel.Nifti1Image else (176, f"{order}2d")
    struct.pack_into(form, data, scaling, 1.0, 0.0)
    return bytes(data)


def _limits(form: np.dtype[Any]) -> list[Any]:
    if form.kind == "f":
        return [np.nan, np.inf, -np.inf, 0.0, -1.0, float(np.finfo(form).max)]
    if form.kind in "iu":
        limits = np.iinfo(form)
        return sorted({limits.min, max(limits.min, -1), 0, 1, limits.max})
    return [b"\0" * form.itemsize, b"\xff" * form.itemsize]


def _outcome(truth: Truth, field: str, index: int, value: Any) -> Truth | None:
    """The truth about a file with this value, by the standard; the scan has the axes +x, -y, +z and qfac -1."""
    if field in _FREE or (field in ("dim", "pixdim") and index >= 4):
        return truth
    usual: dict[tuple[str, int], tuple[Any, ...]] = {
        ("pixdim", 0): (-1,),
        ("qform_code", 0): (0, 1, 2, 3, 4, 5),  # the sform remains
        ("sform_code", 0): (0, 1, 2, 3, 4, 5),  # the qform remains
        ("quatern_b", 0): (-1,),  # half a turn, in whichever direction
        ("quatern_c", 0): (0,),
        ("quatern_d", 0): (0,),
        **{(f"srow_{axis}", n): (0,) for row, axis in enumerate("xyz") for n in range(3) if n != row},
    }
    if field == "xyzt_units":
        return truth if value & 7 in (0, 2) else None  # unknown or millimetres, with any unit of time
    if field == "scl_slope":
        if value == 0 or not np.isfinite(value):
            return truth  # as stored
        return truth.with_values(-truth.hu) if value == -1 else None
    if field == "scl_inter":
        return truth.with_values(truth.hu + value) if value in (0, -1) else None
    return truth if value in usual.get((field, index), ()) else None


def _vary_values(truth: Truth) -> Iterator[Kind]:
    """Yield types of voxels, byte orders and scalings; what a wrong one of them would give is not near the truth."""
    for order in _LITTLE, _BIG:
        for kind in ("i2", "i4", "i8", "f4", "f8"):
            typed = encode(truth, nibabel.Nifti1Image, truth.hu.astype(kind), order=order)
            yield f".nii of type {order}{kind}", {"bad.nii": typed}, truth
    for slope, intercept in (2.0, 0.0), (1.0, -1024.0), (0.5, 7.0), (-1.0, 0.0), (0.0, -1024.0), (np.nan, 5.0):
        data = bytearray(encode(truth, nibabel.Nifti1Image))
        struct.pack_into("<2f", data, 112, slope, intercept)
        scaled = truth.hu * slope + intercept if slope and np.isfinite(slope) else truth.hu
        yield f".nii with slope {slope} and intercept {intercept}", {"bad.nii": bytes(data)}, truth.with_values(scaled)
    shifted = truth.hu - truth.hu.min()
    for kind, largest in ("u1", 255), ("i1", 127), ("u2", 65535), ("u4", 2**32 - 1), ("u8", 2**63):
        # As little of it as the type holds, scaled back by the header.
        step = max(1, int(np.ceil(shifted.max() / largest)))
        stored = shifted // step
        data = bytearray(encode(truth, nibabel.Nifti1Image, stored.astype(kind)))
        struct.pack_into("<2f", data, 112, step, float(truth.hu.min()))
        right = truth.with_values(stored * step + truth.hu.min())
        yield f".nii of type {kind} with slope and intercept", {"bad.nii": bytes(data)}, right


def _vary_files(truth: Truth) -> Iterator[Kind]:
    """Yield ways in which the same scan is stored: packed, in pieces, with extensions, with more axes."""
    data = encode(truth, nibabel.Nifti1Image)
    packed = gzip.compress(data)
    yield ".nii that is packed", {"bad.nii": packed}, truth
    yield ".nii.gz that is not packed", {"bad.nii.gz": data}, truth
    yield ".NII in capitals", {"bad.NII": data}, truth
    half = len(data) // 2
    yield ".nii.gz in two members", {"bad.nii.gz": gzip.compress(data[:half]) + gzip.compress(data[half:])}, truth
    yield ".nii.gz packed twice", {"bad.nii.gz": gzip.compress(packed)}, None
    for place, name in (-6, "check sum"), (-2, "length"), (len(packed) // 2, "bit in its middle"):
        broken = bytearray(packed)
        broken[place] ^= 0x10
        yield f".nii.gz with a wrong {name}", {"bad.nii.gz": bytes(broken)}, None
    yield ".nii.gz without its end", {"bad.nii.gz": packed[:-8]}, None
    yield ".nii with an extension", {"bad.nii": encode(truth, nibabel.Nifti1Image, extension=b"x" * 70001)}, truth
    late = data[:352] + bytes(16) + data[352:]
    yield ".nii with 16 bytes before its voxels that nobody tells of", {"bad.nii": late}, None
    told = bytearray(late)
    struct.pack_into("<f", told, 108, 368.0)
    yield ".nii with 16 bytes before its voxels", {"bad.nii": bytes(told)}, truth
    yield ".nii with one byte less", {"bad.nii": data[:-1]}, None
    yield ".nii with a slice more than told", {"bad.nii": data + b"\x11" * 1440}, None
    for axes in range(4, 8):
        more = bytearray(data)
        struct.pack_into("<8h", more, 40, axes, *truth.hu.shape, 1, 1, 1, 1)
        yield f".nii with {axes} axes, of one place each", {"bad.nii": bytes(more)}, truth
    affine = truth.ras_from_ijk.copy()
    affine[0, 1], affine[1, 0] = 0.004, 0.004  # sheared by a hundredth of a degree, as other programs leave it
    image = nibabel.Nifti1Image(truth.hu, affine)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    yield ".nii with axes that are nearly at right angles", {"bad.nii": image.to_bytes()}, truth.placed(affine)
