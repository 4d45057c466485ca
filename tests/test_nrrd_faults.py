"""What a NRRD header says of place, scaling and extent is read as the format has it, or refused."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest

from rprloc.geometry import Grid
from rprloc.io.mask_files import read_label_map
from rprloc.io.reading import read_volume
from tests.phantoms import SHAPE
from tests.refusals import refusal

PLACE = {
    "space": "left-posterior-superior",
    "space directions": "(4,0,0) (0,5,0) (0,0,6)",
    "space origin": "(10,20,30)",
}
RAS_FROM_IJK = {
    "lps": np.array([[-4.0, 0, 0, -10], [0, -5, 0, -20], [0, 0, 6, 30], [0, 0, 0, 1]]),
    "las": np.array([[-4.0, 0, 0, -10], [0, 5, 0, 20], [0, 0, 6, 30], [0, 0, 0, 1]]),
    "ras": np.array([[4.0, 0, 0, 10], [0, 5, 0, 20], [0, 0, 6, 30], [0, 0, 0, 1]]),
}
LPS = Grid(SHAPE, RAS_FROM_IJK["lps"])


def nrrd(path: Path, array: np.ndarray, fields: dict[str, str | None], data: bytes | None = None) -> Path:
    """A NRRD file of an array, with these fields besides the usual ones; None leaves one out."""
    told = {
        "type": f"{'u' if array.dtype.kind == 'u' else ''}int{8 * array.dtype.itemsize}",
        "dimension": str(array.ndim),
        "sizes": " ".join(map(str, array.shape)),
        "endian": "little",
        "encoding": "raw",
        **PLACE,
        **fields,
    }
    lines = ["NRRD0005", "# made by a test", *(f"{key}: {text}" for key, text in told.items() if text is not None)]
    voxels = array.tobytes(order="F") if data is None else data
    path.write_bytes("\n".join([*lines, "", ""]).encode() + voxels)
    return path


# Place.


@pytest.mark.parametrize(
    ("space", "ras"),
    [
        ("left-posterior-superior", "lps"),
        ("LPS", "lps"),
        ("Left-Posterior-Superior", "lps"),
        ("left-anterior-superior", "las"),
        ("LAS", "las"),
        ("right-anterior-superior", "ras"),
        ("RAS", "ras"),
    ],
)
def test_a_space_of_the_patient_is_read(tmp_path: Path, hu, space: str, ras: str) -> None:
    volume = read_volume(nrrd(tmp_path / "scan.nrrd", hu, {"space": space}))
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.grid.same_as(Grid(SHAPE, RAS_FROM_IJK[ras]), tolerance_mm=1e-6)


@pytest.mark.parametrize(
    ("space", "ras"),
    [
        ("left-posterior-superior-time", "lps"),
        ("LPST", "lps"),
        ("left-anterior-superior-time", "las"),
        ("LAST", "las"),
        ("right-anterior-superior-time", "ras"),
        ("RAST", "ras"),
    ],
)
def test_a_space_with_time_is_read_if_there_is_one_time(tmp_path: Path, hu, space: str, ras: str) -> None:
    directions, origin = "(4,0,0,0) (0,5,0,0) (0,0,6,0) (0,0,0,1)", "(10,20,30,0)"
    fields = {"space": space, "space directions": directions, "space origin": origin}
    volume = read_volume(nrrd(tmp_path / "scan.nrrd", hu[..., None], fields))
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.grid.same_as(Grid(SHAPE, RAS_FROM_IJK[ras]), tolerance_mm=1e-6)
    refusal(lambda: read_volume(nrrd(tmp_path / "two.nrrd", np.stack([hu, hu], -1), fields)), "2 values")


@pytest.mark.parametrize(
    "space",
    [
        "scanner-xyz",
        "scanner-xyz-time",
        "3D-right-handed",
        "3D-left-handed",
        "3D-right-handed-time",
        "right-posterior-superior",
        "LPI",
        "LPSX",
        "left-posterior-superior-",
        "",
        None,
    ],
)
def test_a_space_that_is_not_the_patients_is_refused(tmp_path: Path, hu, capfd, space: str | None) -> None:
    for other in ({}, {"space dimension": "3"}):
        path = nrrd(tmp_path / "scan.nrrd", hu, {"space": space, **other})
        refusal(lambda path=path: read_volume(path), "does not say how the patient lies", "space")
    assert capfd.readouterr() == ("", "")


def test_a_scan_without_origin_is_refused(tmp_path: Path, hu) -> None:
    refusal(lambda: read_volume(nrrd(tmp_path / "scan.nrrd", hu, {"space origin": None})), "no space origin")


@pytest.mark.parametrize("field", PLACE)
def test_a_label_map_has_to_say_where_it_lies_too(tmp_path: Path, field: str) -> None:
    path = nrrd(tmp_path / "labels.nrrd", np.zeros(SHAPE, np.uint8), {field: None})
    refusal(lambda: read_label_map(path, LPS), "does not say how the patient lies")


@pytest.mark.parametrize(
    ("unit", "unit_mm"), [("mm", 1.0), ("millimeter", 1.0), ("cm", 10.0), ("m", 1000.0), ("um", 1e-3), ("µm", 1e-3)]
)
def test_units_are_turned_into_millimetres(tmp_path: Path, hu, unit: str, unit_mm: float) -> None:
    places = {key: text for key, text in PLACE.items() if key == "space"}
    steps = [f"({4 / unit_mm},0,0)", f"(0,{5 / unit_mm},0)", f"(0,0,{6 / unit_mm})"]
    places |= {"space directions": " ".join(steps), "space units": f'"{unit}" "{unit}" "{unit}"'}
    places["space origin"] = f"({10 / unit_mm},{20 / unit_mm},{30 / unit_mm})"
    assert read_volume(nrrd(tmp_path / "scan.nrrd", hu, places)).grid.same_as(LPS, tolerance_mm=1e-6)


@pytest.mark.parametrize("units", ['"inch" "inch" "inch"', '"mm" "mm" "um"', '"voxel" "voxel" "voxel"'])
def test_units_that_are_not_known_are_refused(tmp_path: Path, hu, units: str) -> None:
    refusal(lambda: read_volume(nrrd(tmp_path / "scan.nrrd", hu, {"space units": units})), "units")


def test_micrometres_and_metres_that_are_wrong_are_refused(tmp_path: Path, hu) -> None:
    metres = nrrd(tmp_path / "m.nrrd", hu, {"space units": '"m" "m" "m"'})
    refusal(lambda: read_volume(metres), " m long")
    refusal(lambda: read_volume(nrrd(tmp_path / "um.nrrd", hu, {"space units": '"um" "um" "um"'})), "too small")


def test_two_voxel_sizes_are_refused(tmp_path: Path, hu) -> None:
    path = nrrd(tmp_path / "scan.nrrd", hu, {"spacings": "1 5 6"})
    refusal(lambda: read_volume(path), "two different voxel sizes")
    assert read_volume(nrrd(path, hu, {"spacings": "4 5 NaN"})).grid.same_as(LPS)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("space directions", "(4,0,0) (0,5,0)"),
        ("space directions", "(4,0,0) (0,5,0) (0,0)"),
        ("space directions", "(4,0,0) (0,nan,0) (0,0,6)"),
        ("space directions", "4 5 6"),
        ("space origin", "(10,20)"),
        ("space origin", "(10,20,inf)"),
        ("space origin", "10 20 30"),
        ("sizes", "30 24"),
        ("sizes", "30 24 -20"),
        ("sizes", "30 24 0"),
        ("sizes", "30 24 1e9"),
        ("dimension", "three"),
        ("type", "block"),
        ("type", "complex"),
        ("endian", None),
        ("endian", "middle"),
        ("space dimension", "2"),
        ("byte skip", "-2"),
        ("line skip", "x"),
    ],
)
def test_a_broken_field_is_refused(tmp_path: Path, hu, field: str, text: str | None) -> None:
    refusal(lambda: read_volume(nrrd(tmp_path / "scan.nrrd", hu, {field: text})), "scan.nrrd")


def test_a_field_that_says_two_things_is_refused(tmp_path: Path, hu) -> None:
    path = nrrd(tmp_path / "scan.nrrd", hu, {"Space Origin": "(0,0,0)"})
    refusal(lambda: read_volume(path), "twice")


@pytest.mark.parametrize("cosine", [1e-4, 0.004])
def test_nearly_perpendicular_axes_are_straightened(tmp_path: Path, hu, cosine: float) -> None:
    path = nrrd(tmp_path / "scan.nrrd", hu, {"space directions": f"(4,0,0) (0,5,0) (0,{6 * cosine},6)"})
    grid = read_volume(path).grid
    axes = grid.ras_from_ijk[:3, :3] / grid.spacing_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert grid.same_as(LPS, tolerance_mm=cosine * 120)


# Extent and type.


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
@pytest.mark.parametrize("encoding", ["raw", "gzip", "gz", "bzip2", "ascii"])
def test_every_type_order_and_encoding_is_read(tmp_path: Path, hu, kind: str, order: str, encoding: str) -> None:
    array = (hu // 16 % 100).astype(kind)
    stored = array.astype(np.dtype(kind).newbyteorder("<" if order == "little" else ">")).tobytes(order="F")
    if encoding == "ascii":
        stored = " ".join(map(str, array.ravel(order="F").tolist())).encode()
    pack = {"gzip": gzip.compress, "gz": gzip.compress, "bzip2": bz2.compress}.get(encoding, bytes)
    fields = {"encoding": encoding, "endian": order}
    volume = read_volume(nrrd(tmp_path / "scan.nrrd", array, fields, pack(stored)))
    np.testing.assert_array_equal(volume.hu, array)
    assert volume.hu.dtype == np.dtype(kind) and volume.hu.dtype.isnative


def test_an_encoding_that_is_not_read_is_named(tmp_path: Path, hu) -> None:
    refusal(lambda: read_volume(nrrd(tmp_path / "scan.nrrd", hu, {"encoding": "hex"})), "'hex'", "gzip")


@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("part", range(12))
def test_a_flipped_bit_of_compressed_voxels_is_refused(tmp_path: Path, hu, encoding, detached: bool, part: int) -> None:
    noisy = hu + np.random.default_rng(0).integers(0, 50, hu.shape).astype(np.int16)
    packed = bytearray((gzip if encoding == "gzip" else bz2).compress(noisy.tobytes(order="F")))
    packed[20 + (len(packed) - 21) * part // 11] ^= 0x10
    fields = {"encoding": encoding, "data file": "scan.raw.gz" if detached else None}
    path = nrrd(
        tmp_path / ("scan.nhdr" if detached else "scan.nrrd"), noisy, fields, b"" if detached else bytes(packed)
    )
    (tmp_path / "scan.raw.gz").write_bytes(bytes(packed))
    refusal(lambda: read_volume(path), str(path))


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("slices", [-2, 2])
def test_other_voxels_than_promised_are_refused(tmp_path: Path, hu, encoding: str, slices: int) -> None:
    pack = {"gzip": gzip.compress, "bzip2": bz2.compress}.get(encoding, bytes)
    sizes = f"30 24 {20 - slices}"
    path = nrrd(tmp_path / "scan.nrrd", hu, {"encoding": encoding, "sizes": sizes}, pack(hu.tobytes(order="F")))
    refusal(lambda: read_volume(path), "promises")


@pytest.mark.parametrize("skip", ["-1", "100"])
def test_bytes_before_the_voxels_are_skipped(tmp_path: Path, hu, skip: str) -> None:
    (tmp_path / "scan.raw").write_bytes(b"\1" * 100 + hu.tobytes(order="F"))
    path = nrrd(tmp_path / "scan.nhdr", hu, {"data file": "scan.raw", "byte skip": skip}, b"")
    np.testing.assert_array_equal(read_volume(path).hu, hu)
    path = nrrd(tmp_path / "line.nrrd", hu, {"line skip": "2"}, b"one\ntwo\n" + hu.tobytes(order="F"))
    np.testing.assert_array_equal(read_volume(path).hu, hu)


def test_lines_may_end_as_on_windows(tmp_path: Path, hu) -> None:
    path = nrrd(tmp_path / "scan.nrrd", hu, {}, b"")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + hu.tobytes(order="F"))
    np.testing.assert_array_equal(read_volume(path).hu, hu)


@pytest.mark.parametrize("field", ["byte skip", "line skip"])
def test_skipping_in_compressed_voxels_is_refused(tmp_path: Path, hu, field: str) -> None:
    fields = {"encoding": "gzip", field: "1"}
    path = nrrd(tmp_path / "scan.nrrd", hu, fields, gzip.compress(hu.tobytes(order="F")))
    refusal(lambda: read_volume(path), "skip")


def test_scaled_values_are_refused(tmp_path: Path, hu) -> None:
    refusal(lambda: read_volume(nrrd(tmp_path / "scan.nrrd", hu, {"old min": "-1", "old max": "1"})), "scaled")


# Segmentations.


@pytest.mark.parametrize("layers", [2, 3])
def test_segments_in_layers_are_said_to_overlap(tmp_path: Path, layers: int) -> None:
    labels = np.zeros((layers, *SHAPE), np.uint8)
    fields = {
        "kinds": "list domain domain domain",
        "space directions": "none (4,0,0) (0,5,0) (0,0,6)",
        "Segment0_ID": "=Segment_1",
        "Segment0_Layer": "=0",
    }
    path = nrrd(tmp_path / "Segmentation.seg.nrrd", labels, fields)
    path.write_bytes(path.read_bytes().replace(b": =", b":="))
    message = refusal(lambda: read_label_map(path, LPS), "overlap", f"{layers} layers", "label map")
    assert "colour" not in message


def test_a_segmentation_of_one_layer_is_read_whatever_its_header_holds(tmp_path: Path) -> None:
    """With hundreds of segments, the header is longer than many a buffer."""
    labels = np.random.default_rng(0).integers(0, 5, SHAPE).astype(np.uint8)
    notes = {f"Segment{n}_Name": f"= {'x' * 900}" for n in range(300)}
    path = nrrd(tmp_path / "Segmentation.seg.nrrd", labels, notes)
    path.write_bytes(path.read_bytes().replace(b": =", b":="))
    np.testing.assert_array_equal(read_label_map(path, LPS), labels)


def test_colours_are_no_scan(tmp_path: Path, hu) -> None:
    fields = {"space directions": "none (4,0,0) (0,5,0) (0,0,6)", "kinds": "RGB-color domain domain domain"}
    path = nrrd(tmp_path / "scan.nrrd", np.stack([hu] * 3), fields)
    refusal(lambda: read_volume(path), "3 values at each voxel")


@pytest.mark.parametrize("text", ["cm cm cm", '"mm" "mm" mm', "mm", "'mm' 'mm' 'mm'"])
def test_units_without_quotation_marks_are_refused(tmp_path: Path, hu, text: str) -> None:
    path = nrrd(tmp_path / "scan.nrrd", hu, {"space units": text})
    refusal(lambda: read_volume(path), "quotation marks")
