"""What a NIfTI header says of place, scaling and extent is read as the standard has it, or refused."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from rprloc.geometry import Grid, extreme_points_of_mask
from rprloc.io.annotations import read_example
from rprloc.io.mask_files import read_label_map
from rprloc.io.reading import read_volume
from tests.images import EXTENSIONS, write, write_nifti
from tests.phantoms import SHAPE
from tests.refusals import refusal

AFFINE = np.array([[-4.0, 0, 0, 60], [0, 5, 0, -40], [0, 0, 6, -300], [0, 0, 0, 1]])
QFAC, SLOPE, OFFSET, UNITS, BITPIX, DIM, PIXDIM = 76, 112, 108, 123, 72, 40, 76


def patched(path: Path, values: dict[int, bytes]) -> Path:
    """The NIfTI-1 file with other bytes at some places of its header."""
    data = bytearray(path.read_bytes())
    for start, new in values.items():
        data[start : start + len(new)] = new
    path.write_bytes(data)
    return path


def zipped(path: Path) -> Path:
    other = path.with_name(path.name + ".gz")
    other.write_bytes(gzip.compress(path.read_bytes()))
    return other


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


# Scaling.


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("intercept", [0.0, -1024.0, 1.0, np.nan])
def test_without_a_slope_values_are_as_stored(tmp_path: Path, hu, slope: float, intercept: float) -> None:
    path = patched(write_nifti(tmp_path / "scan.nii", hu, AFFINE), {SLOPE: floats(slope, intercept)})
    np.testing.assert_array_equal(read_volume(path).hu, hu)
    np.testing.assert_array_equal(read_volume(zipped(path)).hu, hu)


@pytest.mark.parametrize(("slope", "intercept"), [(-1.0, 0.0), (0.5, 0.0), (1.0, -1024.0), (-2.0, 7.0), (0.1, 0.3)])
@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float32, np.float64])
def test_any_other_slope_is_applied(tmp_path: Path, hu, slope: float, intercept: float, kind) -> None:
    path = write_nifti(tmp_path / "scan.nii", hu.astype(kind), AFFINE)
    patched(path, {SLOPE: floats(slope, intercept)})
    np.testing.assert_allclose(read_volume(path).hu, np.asarray(nibabel.load(path).dataobj), rtol=1e-6, atol=1e-4)


def test_a_slope_with_an_intercept_that_is_no_number_is_refused(tmp_path: Path, hu) -> None:
    path = patched(write_nifti(tmp_path / "scan.nii", hu, AFFINE), {SLOPE: floats(2.0, np.nan)})
    refusal(lambda: read_volume(path), "multiplied by 2")


def test_a_label_map_without_slope_keeps_its_labels(tmp_path: Path, hu) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:12, 5:12, 5:12], labels[15:22, 8:16, 6:14] = 1, 2
    scan = write_nifti(tmp_path / "scan.nii", hu, AFFINE)
    path = patched(write_nifti(tmp_path / "labels.nii", labels, AFFINE), {SLOPE: floats(0.0, 1.0)})
    example = read_example(scan, labels=path, names={1: "heart"})
    np.testing.assert_allclose(
        example.annotation.points_ras["heart"], extreme_points_of_mask(labels == 1, Grid(SHAPE, AFFINE)), atol=1e-3
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e9, 1.5])
def test_a_label_that_is_no_integer_is_refused(tmp_path: Path, value: float) -> None:
    labels = np.zeros(SHAPE, np.float32)
    labels[3, 4, 5] = value
    path = write_nifti(tmp_path / "labels.nii", labels, AFFINE)
    refusal(lambda: read_label_map(path, Grid(SHAPE, AFFINE)), "labels.nii", "integer")


# Extent and type.


@pytest.mark.parametrize("offset", [0.0, 1.0, 348.0, 351.0, 352.5, -16.0, np.nan, np.inf])
@pytest.mark.parametrize("as_zip", [False, True])
def test_voxels_that_begin_inside_the_header_are_refused(tmp_path: Path, hu, offset: float, as_zip: bool) -> None:
    path = patched(write_nifti(tmp_path / "scan.nii", hu, AFFINE), {OFFSET: floats(offset)})
    refusal(lambda: read_volume(zipped(path) if as_zip else path), "voxels begin")


@pytest.mark.parametrize("offset", [0, 352, 540, 543, -1])
def test_voxels_that_begin_inside_the_header_of_nifti_2_are_refused(tmp_path: Path, hu, offset: int) -> None:
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti2Image(hu, AFFINE), path)
    refusal(lambda: read_volume(patched(path, {168: struct.pack("<q", offset)})), "voxels begin")


@pytest.mark.parametrize("late", [1, 16, 1000])
def test_voxels_that_begin_later_than_told_are_refused(tmp_path: Path, hu, late: int) -> None:
    path = write_nifti(tmp_path / "scan.nii", hu, AFFINE)
    path.write_bytes(path.read_bytes()[:352] + bytes(late) + path.read_bytes()[352:])
    refusal(lambda: read_volume(path), "promises")


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_header_extension_is_no_voxel(tmp_path: Path, hu, as_zip: bool) -> None:
    image = nibabel.Nifti1Image(hu, AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 70001))
    path = tmp_path / "scan.nii"
    nibabel.save(image, path)
    np.testing.assert_array_equal(read_volume(zipped(path) if as_zip else path).hu, hu)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_every_type_and_byte_order_is_read(tmp_path: Path, hu, order: str, kind: str, version) -> None:
    array = (hu // 16 % 100).astype(kind)
    image = version(array, AFFINE, version.header_class(endianness=order), dtype=array.dtype)
    nibabel.save(image, tmp_path / "scan.nii")
    assert nibabel.load(tmp_path / "scan.nii").header.endianness == order
    volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_array_equal(volume.hu, array)
    assert volume.hu.dtype == np.dtype(kind) and volume.hu.dtype.isnative
    assert volume.grid.same_as(Grid(SHAPE, AFFINE), tolerance_mm=1e-3)


def test_a_voxel_size_in_bits_that_is_not_the_types_is_refused(tmp_path: Path, hu) -> None:
    path = patched(write_nifti(tmp_path / "scan.nii", hu, AFFINE), {BITPIX: struct.pack("<h", 8)})
    refusal(lambda: read_volume(path), "bits")


def test_a_header_that_promises_less_than_there_is_is_refused(tmp_path: Path, hu) -> None:
    path = patched(write_nifti(tmp_path / "scan.nii", hu, AFFINE), {DIM + 6: struct.pack("<h", SHAPE[2] - 2)})
    refusal(lambda: read_volume(path), "promises")


@pytest.mark.parametrize("dimensions", [-1, 0, 8, 300])
def test_a_number_of_dimensions_that_cannot_be_is_refused(tmp_path: Path, hu, dimensions: int) -> None:
    path = patched(write_nifti(tmp_path / "scan.nii", hu, AFFINE), {DIM: struct.pack("<h", dimensions)})
    refusal(lambda: read_volume(path), "dimensions")


def test_colours_are_no_scan(tmp_path: Path, hu) -> None:
    colours = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nibabel.save(nibabel.Nifti1Image(colours, AFFINE), tmp_path / "scan.nii")
    refusal(lambda: read_volume(tmp_path / "scan.nii"), "3 values at each voxel")


# Place.


@pytest.mark.parametrize("negative", [(1,), (2,), (3,), (1, 2), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("stored_as", ["qform", "sform", "both"])
def test_negative_voxel_sizes_are_refused(tmp_path: Path, hu, negative, stored_as: str) -> None:
    sform, qform = (None if stored_as == other else AFFINE for other in ("qform", "sform"))
    path = write_nifti(tmp_path / "scan.nii", hu, sform, qform)
    sizes = [-size if axis in negative else size for axis, size in enumerate((4.0, 5.0, 6.0), start=1)]
    patched(path, {PIXDIM + 4: floats(*sizes)})
    refusal(lambda: read_volume(path), "voxel sizes")


@pytest.mark.parametrize("sizes", [(0.0, 5.0, 6.0), (4.0, np.nan, 6.0), (4.0, 5.0, np.inf)])
def test_voxel_sizes_that_are_none_are_refused(tmp_path: Path, hu, sizes) -> None:
    path = patched(write_nifti(tmp_path / "scan.nii", hu, None, AFFINE), {PIXDIM + 4: floats(*sizes)})
    refusal(lambda: read_volume(path), "voxel sizes")


def test_a_signalling_nan_is_no_voxel_size(tmp_path: Path, hu) -> None:
    """A NaN of which numpy warns."""
    signalling = {PIXDIM + 4: b"\x01\x00\x80\x7f"}
    path = patched(write_nifti(tmp_path / "scan.nii", hu, None, AFFINE), signalling)
    refusal(lambda: read_volume(path), "voxel sizes")


def turned(degrees: float) -> np.ndarray:
    a = np.radians(degrees)
    return np.array([[np.cos(a), -np.sin(a), 0, 0], [np.sin(a), np.cos(a), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def mirrored(axis: int) -> np.ndarray:
    """The same box of voxels, with one axis running the other way."""
    back = np.eye(4)
    back[axis, axis], back[axis, 3] = -1.0, SHAPE[axis] - 1
    return AFFINE @ back


def moved(*offset: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += offset
    return affine


OTHER_PLACES = {
    "mirrored": mirrored(0),
    "mirrored, same origin": AFFINE @ np.diag([-1.0, 1, 1, 1]),
    "mirrored along the last axis, same origin": AFFINE @ np.diag([1.0, 1, -1, 1]),
    "upside down": mirrored(2),
    "half a turn": turned(180.0) @ AFFINE,
    "5 degrees": turned(5.0) @ AFFINE,
    "half a degree": turned(0.5) @ AFFINE,
    "moved by 200 mm": moved(0, 0, 200),
    "moved by 2 mm": moved(2, 0, 0),
}


@pytest.mark.parametrize("other", OTHER_PLACES)
@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (2, 1), (4, 1), (2, 2), (3, 4), (1, 4)])
def test_an_sform_and_a_qform_that_disagree_are_refused(tmp_path: Path, hu, other: str, codes) -> None:
    path = write_nifti(tmp_path / "scan.nii", hu, AFFINE, OTHER_PLACES[other], codes[0])
    patched(path, {252: struct.pack("<2h", codes[1], codes[0])})
    for file in (path, zipped(path)):
        refusal(lambda file=file: read_volume(file), "two different positions")


@pytest.mark.parametrize("code", ["sform", "qform"])
def test_the_one_that_is_marked_as_unknown_is_not_compared(tmp_path: Path, hu, code: str) -> None:
    there, elsewhere = AFFINE, moved(0, 0, 200)
    path = write_nifti(tmp_path / "scan.nii", hu, elsewhere, there)
    if code == "sform":
        path = write_nifti(tmp_path / "scan.nii", hu, there, elsewhere)
    patched(path, {252: struct.pack("<2h", *((0, 1) if code == "sform" else (1, 0)))})
    assert read_volume(path).grid.same_as(Grid(SHAPE, there), tolerance_mm=1e-3)


@pytest.mark.parametrize("codes", [(-1, 1), (1, -1), (6, 0), (0, 6), (1, 300), (300, 300)])
def test_a_code_that_the_standard_does_not_know_is_refused(tmp_path: Path, hu, codes) -> None:
    path = patched(write_nifti(tmp_path / "scan.nii", hu, AFFINE, AFFINE), {252: struct.pack("<2h", *codes)})
    refusal(lambda: read_volume(path), "codes")


@pytest.mark.parametrize("degrees", [0.001, 0.01, 0.1, 1.0, 25.0, 90.0, 179.0, 179.9, 179.99, 179.999, 180.0])
def test_rounding_is_no_disagreement(tmp_path: Path, hu, degrees: float) -> None:
    """Near half a turn, a quaternion of 32-bit numbers tells a direction badly."""
    affine = turned(degrees) @ AFFINE
    path = write_nifti(tmp_path / "scan.nii", hu, affine, affine)
    assert read_volume(path).grid.same_as(Grid(SHAPE, affine), tolerance_mm=1e-3)
    alone = read_volume(write_nifti(tmp_path / "alone.nii", hu, None, affine))
    assert alone.grid.same_as(Grid(SHAPE, affine), tolerance_mm=0.15)


@pytest.mark.parametrize("qfac", [0.0, 1.0, -1.0])
def test_a_qform_alone_lies_where_the_standard_says(tmp_path: Path, hu, qfac: float) -> None:
    """qfac -1 turns the third axis round, and 0 counts as 1."""
    right_handed = np.array([[4.0, 0, 0, 60], [0, 5, 0, -40], [0, 0, 6, -300], [0, 0, 0, 1]])
    path = patched(write_nifti(tmp_path / "scan.nii", hu, None, right_handed), {QFAC: floats(qfac)})
    expected = right_handed @ np.diag([1.0, 1, -1 if qfac < 0 else 1, 1])
    assert read_volume(path).grid.same_as(Grid(SHAPE, expected), tolerance_mm=1e-3)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_half_turn_whose_quaternion_is_rounded_stays_along_the_axes(tmp_path: Path, hu, off: int) -> None:
    half = np.sqrt(0.5).astype(np.float32)
    part = half + np.float32(off) * np.spacing(half)
    path = patched(write_nifti(tmp_path / "scan.nii", hu, None, AFFINE), {256: floats(0, part, -part)})
    axes = read_volume(path).grid.ras_from_ijk[:3, :3]
    assert np.abs(axes[np.abs(axes) < 1.0]).max() < 1e-6


@pytest.mark.parametrize("quaternion", [(0.9, 0.9, 0.9), (np.nan, 0, 0), (0, np.inf, 0)])
def test_a_quaternion_that_is_none_is_refused(tmp_path: Path, hu, quaternion) -> None:
    path = patched(write_nifti(tmp_path / "scan.nii", hu, None, AFFINE), {256: floats(*quaternion)})
    refusal(lambda: read_volume(path), "quaternion")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", [280, 284, 292, 308, 324])
def test_an_sform_that_is_not_finite_is_refused(tmp_path: Path, hu, value: float, field: int) -> None:
    path = patched(write_nifti(tmp_path / "scan.nii", hu, AFFINE), {field: floats(value)})
    refusal(lambda: read_volume(path), "no numbers")


def test_an_unknown_unit_of_length_is_refused(tmp_path: Path, hu) -> None:
    refusal(lambda: read_volume(patched(write_nifti(tmp_path / "a.nii", hu, AFFINE), {UNITS: b"\x05"})), "unit")


# Nearly perpendicular axes.


@pytest.mark.parametrize("with_qform", [False, True])
@pytest.mark.parametrize("cosine", [2e-6, 1e-4, 1e-3, 0.0045])
def test_nearly_perpendicular_axes_are_straightened(tmp_path: Path, hu, cosine: float, with_qform: bool) -> None:
    sheared = turned(10.0) @ AFFINE
    sheared[:3, 2] += cosine * 6.0 * sheared[:3, 0] / 4.0
    path = write_nifti(tmp_path / "scan.nii", hu, sheared, sheared if with_qform else None)
    grid = read_volume(path).grid
    axes = grid.ras_from_ijk[:3, :3] / grid.spacing_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=3e-6)
    extent_mm = float(np.linalg.norm(grid.spacing_mm * SHAPE))
    assert grid.same_as(Grid(SHAPE, sheared), tolerance_mm=0.001 + 0.3 * cosine * extent_mm)
    middle = 0.5 * (np.array(SHAPE) - 1)
    np.testing.assert_allclose(grid.ras(middle), Grid(SHAPE, sheared).ras(middle), atol=1e-3)


def test_a_label_map_on_nearly_perpendicular_axes_fits_in_any_order(tmp_path: Path, hu) -> None:
    sheared = AFFINE.copy()
    sheared[1, 2] += 0.02
    scan = read_volume(write_nifti(tmp_path / "scan.nii", hu, sheared))
    back = np.diag([-1.0, 1, 1, 1])
    back[0, 3] = SHAPE[0] - 1
    labels = np.random.default_rng(0).integers(0, 5, SHAPE).astype(np.uint8)
    path = write_nifti(tmp_path / "labels.nii", labels[::-1], sheared @ back)
    np.testing.assert_array_equal(read_label_map(path, scan.grid), labels)


# Size.


@pytest.mark.parametrize("times", [100.0 / 3.0, 1e3, 1e5])
@pytest.mark.parametrize("as_label_map", [False, True])
def test_a_scan_of_many_metres_is_refused(tmp_path: Path, hu, times: float, as_label_map: bool) -> None:
    affine = AFFINE @ np.diag([times, times, times, 1])
    path = write_nifti(tmp_path / "scan.nii", hu, affine, affine)
    read = (lambda: read_label_map(path, Grid(SHAPE, AFFINE))) if as_label_map else (lambda: read_volume(path))
    refusal(read, " m long", "millimetres")


@pytest.mark.parametrize("field", [292, 308, 324])
@pytest.mark.parametrize("away", [2e5, -1e20, 3e38])
def test_a_scan_that_lies_far_away_is_refused(tmp_path: Path, hu, field: int, away: float) -> None:
    path = patched(write_nifti(tmp_path / "scan.nii", hu, AFFINE), {field: floats(away)})
    refusal(lambda: read_volume(path), "m away")


@pytest.mark.parametrize("field", [400, 408, 416, 424, 432])
@pytest.mark.parametrize("value", [1e300, -1e308])
def test_doubles_that_are_no_place_are_refused(tmp_path: Path, hu, field: int, value: float) -> None:
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti2Image(hu, AFFINE), path)
    refusal(lambda: read_volume(patched(path, {field: struct.pack("<d", value)})), "scan.nii")


def test_metres_that_are_millimetres_are_refused(tmp_path: Path, hu) -> None:
    path = patched(write_nifti(tmp_path / "scan.nii", hu, AFFINE), {UNITS: b"\x01"})
    refusal(lambda: read_volume(path), " m long")


# Names.


@pytest.mark.parametrize("name", ["scan.Nii", "SCAN.NII", "scan.Nii.Gz", "Scan.NII.GZ"])
def test_the_case_of_an_extension_does_not_matter(tmp_path: Path, hu, capfd, name: str) -> None:
    plain = write_nifti(tmp_path / "plain.nii", hu, AFFINE)
    path = (zipped(plain) if name.lower().endswith("gz") else plain).rename(tmp_path / name)
    np.testing.assert_array_equal(read_volume(path).hu, hu)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_name_that_is_not_utf_8_is_read(tmp_path: Path, hu, extension: str) -> None:
    folder = tmp_path / os.fsdecode(b"B\xe4r")
    folder.mkdir()
    for file in (write(tmp_path / f"scan{extension}", hu), tmp_path / "scan.raw"):
        if file.exists():
            file.rename(folder / file.name)
    path = (folder / f"scan{extension}").rename(folder / os.fsdecode(b"gr\xfc\xdf" + extension.encode()))
    np.testing.assert_array_equal(read_volume(path).hu, hu)


@pytest.mark.parametrize("keep", [0, 3, 100, 343, 539, 560])
def test_nifti_2_says_nothing_to_the_terminal(tmp_path: Path, hu, capfd, keep: int) -> None:
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti2Image(hu, AFFINE), path)
    path.write_bytes(path.read_bytes()[:keep])
    refusal(lambda: read_volume(path), "scan.nii")
    assert capfd.readouterr() == ("", "")
