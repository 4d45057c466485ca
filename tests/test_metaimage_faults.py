"""What a MetaImage header says of place, scaling and extent is read as it stands, or refused."""

from __future__ import annotations

import gzip
import os
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.geometry import Grid
from rprloc.io.mask_files import read_label_map
from rprloc.io.reading import read_volume
from tests.phantoms import AFFINES, SHAPE
from tests.refusals import refusal

PLACE = {
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "10 20 30",
    "ElementSpacing": "4 5 6",
}
GRID = Grid(SHAPE, np.array([[-4.0, 0, 0, -10], [0, -5, 0, -20], [0, 0, 6, 30], [0, 0, 0, 1]]))


def metaimage(path: Path, array: np.ndarray, fields: dict[str, str | None], data: bytes | None = None) -> Path:
    """A MetaImage file of an array, with these fields besides the usual ones; None leaves one out."""
    told = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        **PLACE,
        "DimSize": " ".join(map(str, array.shape)),
        "ElementType": {"int16": "MET_SHORT", "uint8": "MET_UCHAR", "float32": "MET_FLOAT"}[str(array.dtype)],
        **fields,
    }
    lines = [f"{key} = {text}" for key, text in told.items() if text is not None]
    voxels = array.tobytes(order="F") if data is None else data
    path.write_bytes("\n".join([*lines, "ElementDataFile = LOCAL", ""]).encode() + voxels)
    return path


def packed(path: Path, array: np.ndarray, fields: dict[str, str | None]) -> Path:
    return metaimage(path, array, {"CompressedData": "True", **fields}, zlib.compress(array.tobytes(order="F")))


def noisy(hu: np.ndarray, seed: int) -> np.ndarray:
    return hu + np.random.default_rng(seed).integers(0, 50, hu.shape).astype(np.int16)


# Voxels.


def test_the_scan_before_never_shows_in_the_next_one(tmp_path: Path, hu) -> None:
    for seed, fields in enumerate(({}, {"CompressedDataSize": None}, {})):
        array = noisy(hu, seed)
        path = tmp_path / f"{seed}.mha"
        sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0))), str(path), True)
        lines = [
            line
            for line in path.read_bytes().split(b"\n")
            if "CompressedDataSize" not in fields or b"CompressedDataSize" not in line
        ]
        path.write_bytes(b"\n".join(lines).replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = 4 5 6"))
        np.testing.assert_array_equal(read_volume(path).hu, array)


@pytest.mark.parametrize("extension", [".mha", ".mhd"])
@pytest.mark.parametrize("how", [zlib.compress, gzip.compress])
def test_compressed_voxels_need_no_told_size(tmp_path: Path, hu, extension: str, how) -> None:
    content = how(noisy(hu, 1).tobytes(order="F"))
    read_volume(packed(tmp_path / "other.mha", noisy(hu, 0), {}))
    path = metaimage(tmp_path / f"scan{extension}", hu, {"CompressedData": "True"}, content)
    if extension == ".mhd":
        head, voxels = path.read_bytes().split(b"LOCAL\n", 1)
        path.write_bytes(head + b"scan.zraw\n")
        (tmp_path / "scan.zraw").write_bytes(voxels)
    np.testing.assert_array_equal(read_volume(path).hu, noisy(hu, 1))


@pytest.mark.parametrize("times", [0.0, 0.5, 0.9, 0.9999, 1.0001, 2.0])
def test_a_wrong_size_of_the_compressed_voxels_is_refused(tmp_path: Path, hu, times: float) -> None:
    size = len(zlib.compress(hu.tobytes(order="F")))
    wrong = int(size * times) + (1 if times > 1 else -1 if times > 0.99 else 0)
    path = packed(tmp_path / "scan.mha", hu, {"CompressedDataSize": str(wrong)})
    refusal(lambda: read_volume(path), f"{size} bytes of compressed voxels", str(wrong))
    right = packed(tmp_path / "right.mha", hu, {"CompressedDataSize": str(size)})
    np.testing.assert_array_equal(read_volume(right).hu, hu)


@pytest.mark.parametrize("part", range(10))
def test_a_flipped_bit_of_compressed_voxels_is_refused(tmp_path: Path, hu, part: int) -> None:
    stream = bytearray(zlib.compress(noisy(hu, 0).tobytes(order="F")))
    stream[2 + (len(stream) - 3) * part // 9] ^= 0x10
    path = metaimage(tmp_path / "scan.mha", hu, {"CompressedData": "True"}, bytes(stream))
    refusal(lambda: read_volume(path), str(path))


@pytest.mark.parametrize("slices", [-2, 2])
@pytest.mark.parametrize("compressed", [False, True])
def test_other_voxels_than_promised_are_refused(tmp_path: Path, hu, slices: int, compressed: bool) -> None:
    fields = {"DimSize": f"30 24 {20 - slices}"}
    path = (packed if compressed else metaimage)(tmp_path / "scan.mha", noisy(hu, 0), fields)
    refusal(lambda: read_volume(path), "promises")


@pytest.mark.parametrize("order", ["True", "False"])
@pytest.mark.parametrize("name", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
@pytest.mark.parametrize("kind", ["i2", "f4"])
def test_both_byte_orders_are_read(tmp_path: Path, hu, order: str, name: str, kind: str) -> None:
    array = hu.astype(kind)
    stored = array.astype(array.dtype.newbyteorder(">" if order == "True" else "<")).tobytes(order="F")
    path = metaimage(tmp_path / "scan.mha", array, {"BinaryDataByteOrderMSB": None, name: order}, stored)
    np.testing.assert_array_equal(read_volume(path).hu, hu)
    assert read_volume(path).hu.dtype == np.dtype(kind)


def test_voxels_written_as_numbers_are_read(tmp_path: Path, hu) -> None:
    text = " ".join(map(str, hu.ravel(order="F").tolist())).encode()
    np.testing.assert_array_equal(
        read_volume(metaimage(tmp_path / "scan.mha", hu, {"BinaryData": "False"}, text)).hu, hu
    )
    path = metaimage(tmp_path / "less.mha", hu, {"BinaryData": "False"}, text[:-40])
    refusal(lambda: read_volume(path), "numbers")
    path = metaimage(tmp_path / "large.mha", hu, {"BinaryData": "False"}, b"70000" + text[text.index(b" ") :])
    refusal(lambda: read_volume(path), "70000")


@pytest.mark.parametrize("skip", ["-1", "77"])
def test_a_header_of_the_data_file_is_skipped(tmp_path: Path, hu, skip: str) -> None:
    path = metaimage(tmp_path / "scan.mhd", hu, {"HeaderSize": skip}, b"")
    path.write_bytes(path.read_bytes().replace(b"LOCAL", b"scan.raw"))
    (tmp_path / "scan.raw").write_bytes(b"\1" * 77 + hu.tobytes(order="F"))
    np.testing.assert_array_equal(read_volume(path).hu, hu)


@pytest.mark.parametrize("ahead", [1, 2, 77])
def test_bytes_ahead_of_the_voxels_that_the_header_does_not_tell_are_refused(tmp_path: Path, hu, ahead: int) -> None:
    path = metaimage(tmp_path / "scan.mhd", hu, {}, b"")
    path.write_bytes(path.read_bytes().replace(b"LOCAL", b"scan.raw"))
    (tmp_path / "scan.raw").write_bytes(b"\1" * ahead + hu.tobytes(order="F"))
    refusal(lambda: read_volume(path), "promises")


@pytest.mark.parametrize("name", ["scan.raw", "Szán mit Leerzeichen.raw", os.fsdecode(b"B\xe4r.raw")])
def test_the_data_file_may_have_any_name(tmp_path: Path, hu, name: str) -> None:
    path = metaimage(tmp_path / "scan.mhd", hu, {}, b"")
    path.write_bytes(path.read_bytes().replace(b"LOCAL", os.fsencode(name)))
    (tmp_path / name).write_bytes(hu.tobytes(order="F"))
    np.testing.assert_array_equal(read_volume(path).hu, hu)


def test_what_a_dicom_file_said_is_no_obstacle(tmp_path: Path, hu) -> None:
    """SimpleITK writes it into the header, with more lines than one."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu.transpose(2, 1, 0)))
    image.SetSpacing([4.0, 5.0, 6.0])
    for key, value in {"0008|0060": "CT", "0010|4000": "two\nlines: of = text", "Comment": "x" * 5000}.items():
        image.SetMetaData(key, value)
    for extension in (".mha", ".nrrd"):
        sitk.WriteImage(image, str(tmp_path / f"scan{extension}"), True)
        np.testing.assert_array_equal(read_volume(tmp_path / f"scan{extension}").hu, hu)
    assert b"0008|0060" in (tmp_path / "scan.mha").read_bytes()


# Place.


@pytest.mark.parametrize("name", ["TransformMatrix", "Orientation", "Rotation"])
@pytest.mark.parametrize("origin", ["Offset", "Position", "Origin"])
@pytest.mark.parametrize("spacing", ["ElementSpacing", "ElementSize"])
def test_every_name_of_a_field_is_understood(tmp_path: Path, hu, name: str, origin: str, spacing: str) -> None:
    others = zip((name, origin, spacing), PLACE.values(), strict=True)
    fields = dict.fromkeys(PLACE) | dict(others)
    assert read_volume(metaimage(tmp_path / "scan.mha", hu, fields)).grid.same_as(GRID, tolerance_mm=1e-6)


@pytest.mark.parametrize("field", PLACE)
@pytest.mark.parametrize("orientation", [None, "RAI", "LPI"])
def test_a_place_that_is_not_told_is_refused(tmp_path: Path, hu, field: str, orientation: str | None) -> None:
    fields = {field: None, "AnatomicalOrientation": orientation}
    path = metaimage(tmp_path / "scan.mha", hu, fields)
    refusal(lambda: read_volume(path), "does not say how the patient lies", field)
    path = metaimage(tmp_path / "labels.mha", np.zeros(SHAPE, np.uint8), fields)
    refusal(lambda: read_label_map(path, GRID), "does not say how the patient lies", field)


@pytest.mark.parametrize("orientation", ["LPI", "RAS", "LAI", "AIR", "IAR", "RPI", "RIA"])
def test_an_orientation_that_contradicts_the_matrix_is_refused(tmp_path: Path, hu, orientation: str) -> None:
    path = metaimage(tmp_path / "scan.mha", hu, {"AnatomicalOrientation": orientation})
    refusal(lambda: read_volume(path), "two different orientations", orientation)


@pytest.mark.parametrize("orientation", ["RAI", "rai", "???", "", None])
def test_an_orientation_that_agrees_or_is_unknown_is_none_the_worse(tmp_path: Path, hu, orientation) -> None:
    path = metaimage(tmp_path / "scan.mha", hu, {"AnatomicalOrientation": orientation})
    assert read_volume(path).grid.same_as(GRID, tolerance_mm=1e-6)


@pytest.mark.parametrize("degrees", [30.0, 44.0, 46.0, 60.0])
@pytest.mark.parametrize("axes", AFFINES)
def test_the_orientation_that_itk_writes_is_accepted(tmp_path: Path, hu, axes: str, degrees: float) -> None:
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ (AFFINES[axes][:3, :3] / np.linalg.norm(AFFINES[axes][:3, :3], axis=0)) * 4.0
    grid = Grid(SHAPE, affine)
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu.transpose(2, 1, 0)))
    origin, direction, spacing = grid.to_lps()
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing(spacing.tolist())
    sitk.WriteImage(image, str(tmp_path / "scan.mha"))
    assert read_volume(tmp_path / "scan.mha").grid.same_as(grid, tolerance_mm=1e-3)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("TransformMatrix", "1 0 0 0 1 0 0 0"),
        ("TransformMatrix", "1 0 0 0 1 0 0 0 nan"),
        ("TransformMatrix", "0 0 0 0 0 0 0 0 0"),
        ("TransformMatrix", "2 0 0 0 1 0 0 0 1"),
        ("Offset", "10 20"),
        ("Offset", "10 20 inf"),
        ("ElementSpacing", "4 5"),
        ("ElementSpacing", "4 5 -6"),
        ("ElementSpacing", "4 0 6"),
        ("ElementSpacing", "4 5 nan"),
        ("DimSize", "30 24"),
        ("DimSize", "30 24 0"),
        ("DimSize", "30 24 -20"),
        ("NDims", "0"),
        ("NDims", "three"),
        ("ElementType", "MET_STRING"),
        ("ElementType", None),
        ("BinaryData", None),
        ("BinaryData", "perhaps"),
        ("BinaryDataByteOrderMSB", None),
        ("HeaderSize", "-5"),
        ("ObjectType", "Tube"),
        ("DistanceUnits", "inch"),
        ("CompressedData", "maybe"),
    ],
)
def test_a_broken_field_is_refused(tmp_path: Path, hu, field: str, text: str | None) -> None:
    refusal(lambda: read_volume(metaimage(tmp_path / "scan.mha", hu, {field: text})), "scan.mha")


@pytest.mark.parametrize("other", ["Offset", "Position", "Origin"])
def test_two_places_are_refused(tmp_path: Path, hu, other: str) -> None:
    path = metaimage(tmp_path / "scan.mha", hu, {})
    path.write_bytes(path.read_bytes().replace(b"DimSize", f"{other} = 0 0 0\nDimSize".encode(), 1))
    refusal(lambda: read_volume(path), "twice")


@pytest.mark.parametrize(("unit", "unit_mm"), [("mm", 1.0), ("cm", 10.0), ("um", 1e-3), ("?", 1.0)])
def test_units_are_turned_into_millimetres(tmp_path: Path, hu, unit: str, unit_mm: float) -> None:
    fields = {
        "DistanceUnits": unit,
        "Offset": " ".join(str(mm / unit_mm) for mm in (10, 20, 30)),
        "ElementSpacing": " ".join(str(mm / unit_mm) for mm in (4, 5, 6)),
    }
    assert read_volume(metaimage(tmp_path / "scan.mha", hu, fields)).grid.same_as(GRID, tolerance_mm=1e-6)


@pytest.mark.parametrize(
    ("field", "text"), [("ElementToIntensityFunctionSlope", "2"), ("ElementToIntensityFunctionOffset", "-1024")]
)
def test_a_scaling_that_programs_do_or_do_not_is_refused(tmp_path: Path, hu, field: str, text: str) -> None:
    refusal(lambda: read_volume(metaimage(tmp_path / "scan.mha", hu, {field: text})), "scaled", field)


@pytest.mark.parametrize("cosine", [1e-4, 0.004])
def test_nearly_perpendicular_axes_are_straightened(tmp_path: Path, hu, cosine: float) -> None:
    path = metaimage(tmp_path / "scan.mha", hu, {"TransformMatrix": f"1 0 0 0 1 0 0 {cosine} 1"})
    grid = read_volume(path).grid
    axes = grid.ras_from_ijk[:3, :3] / grid.spacing_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert grid.same_as(GRID, tolerance_mm=cosine * 120)


def test_a_scan_of_many_metres_is_refused(tmp_path: Path, hu) -> None:
    refusal(lambda: read_volume(metaimage(tmp_path / "scan.mha", hu, {"ElementSpacing": "400 500 600"})), " m long")


def test_colours_are_no_scan(tmp_path: Path, hu) -> None:
    path = metaimage(tmp_path / "scan.mha", hu, {"ElementNumberOfChannels": "3"}, hu.tobytes() * 3)
    refusal(lambda: read_volume(path), "3 values at each voxel")


@pytest.mark.parametrize("line", [" " * 100_000, "Comment = x" + " " * 100_000 + "y", "=" * 100_000, " = " * 30_000])
def test_a_long_line_is_read_at_once(tmp_path: Path, hu, line: str) -> None:
    path = metaimage(tmp_path / "scan.mha", hu, {})
    path.write_bytes(line.encode() + b"\n" + path.read_bytes())
    started = time.perf_counter()
    np.testing.assert_array_equal(read_volume(path).hu, hu)
    assert time.perf_counter() - started < 2.0
