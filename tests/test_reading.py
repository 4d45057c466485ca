"""Reading scans of every orientation and format; refusing the unusable with a sentence that says what to do."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import phantom_hu

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.io.annotations import read_label_map, read_names
from rprloc.io.plausibility import image_warnings
from rprloc.io.reading import read_volume
from rprloc.volume import Volume, to_sitk

SHAPE = (30, 24, 20)
EXTENSIONS = [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"]


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None, *, compressed: bool = False) -> Path:
    """An image file of voxels (I, J, K) of 4 x 5 x 6 mm unless told otherwise."""
    grid = Grid(array.shape, np.diag([4.0, 5, 6, 1]) if affine is None else affine)
    sitk.WriteImage(to_sitk(array, grid), str(path), compressed)
    return path


def write_nifti(path: Path, array: np.ndarray, sform: Any, qform: Any = None, sform_code: int = 1) -> Path:
    image = nibabel.Nifti1Image(array, sform)
    image.set_sform(sform, sform_code if sform is not None else 0)
    image.set_qform(qform, 1 if qform is not None else 0)
    nibabel.save(image, path)
    return path


@pytest.fixture
def hu() -> np.ndarray:
    return phantom_hu(Grid(SHAPE, np.diag([4.0, 5, 6, 1])))


def refusal(call: Callable[[], object], *about: str) -> str:
    """The message of the InputError: one sentence that has every text of ``about`` in it."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and ". " not in message
    for text in (*about, "expected"):
        assert text in message
    return message


# Files


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("compressed", [False, True])
def test_every_format_gives_voxels_places_and_name(tmp_path: Path, phantom: Volume, extension, compressed) -> None:
    path = write(tmp_path / f"my.scan{extension}", phantom.hu, phantom.grid.ras_from_ijk, compressed=compressed)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.hu, phantom.hu)
    assert volume.hu.dtype == np.int16
    assert volume.grid.same_as(phantom.grid, tolerance_mm=1e-4)
    assert volume.name == "my.scan"


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_format_keeps_every_orientation(tmp_path: Path, ras_from_ijk: np.ndarray, extension: str) -> None:
    ras_from_ijk[:3, :3] *= 3.0
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE[::-1], dtype=np.int16)
    volume = read_volume(write(tmp_path / f"scan{extension}", array, ras_from_ijk))
    np.testing.assert_array_equal(volume.hu, array)
    assert volume.grid.same_as(Grid(array.shape, ras_from_ijk), tolerance_mm=1e-3)


@pytest.mark.parametrize("stored_as", ["sform", "qform", "both"])
def test_a_nifti_lies_where_nibabel_says(tmp_path: Path, hu, ras_from_ijk: np.ndarray, stored_as: str) -> None:
    ras_from_ijk[:3, :3] *= 3.0
    sform, qform = (None if stored_as == other else ras_from_ijk for other in ("qform", "sform"))
    path = write_nifti(tmp_path / "scan.nii.gz", hu, sform, qform)
    volume = read_volume(path)
    assert volume.grid.same_as(Grid(SHAPE, nibabel.load(path).affine), tolerance_mm=1e-3)
    np.testing.assert_array_equal(volume.hu, nibabel.load(path).dataobj)


def test_zipped_nifti_is_read_as_plain_and_leaves_nothing_behind(
    tmp_path: Path, hu: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members, bytes after the voxels and a name that hides the zip change nothing; errors name the file given."""
    plain = write(tmp_path / "scan.nii", hu)
    content = plain.read_bytes()
    zipped = tmp_path / "other.nii"
    zipped.write_bytes(gzip.compress(content[:9000]) + gzip.compress(content[9000:] + bytes(5000)))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    ours, other = read_volume(plain), read_volume(zipped)
    np.testing.assert_array_equal(ours.hu, other.hu)
    assert ours.grid.same_as(other.grid, tolerance_mm=0.0) and other.name == "other"
    zipped.write_bytes(gzip.compress(content[:-100]))
    message = refusal(lambda: read_volume(zipped), "cut off", str(zipped))
    assert str(temporary) not in message and not list(temporary.iterdir())


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_zip_stream_is_refused(tmp_path: Path, hu: np.ndarray, seed: int) -> None:
    path = write(tmp_path / "scan.nii.gz", hu)
    generator, content = np.random.default_rng(seed), bytearray(path.read_bytes())
    for place in generator.integers(20, len(content) - 8, 20):
        content[place] ^= int(generator.integers(1, 256))
    path.write_bytes(bytes(content))
    refusal(lambda: read_volume(path), str(path))


def test_real_scans_lie_where_nibabel_says(shared_data: Path) -> None:
    for case in ("han/images/han_001", "abdomen/images/abdomen_05", "thorax/images/thorax_03"):
        path = shared_data / f"{case}.nii.gz"
        volume, expected = read_volume(path), nibabel.load(path)
        assert volume.grid.same_as(Grid(expected.shape, expected.affine), tolerance_mm=1e-2)
        np.testing.assert_array_equal(volume.hu, expected.dataobj)
        warned = image_warnings(volume)
        assert [("display window" in text) for text in warned] == ([True] if "abdomen" in case else [])


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_nifti_2_is_read_too(tmp_path: Path, hu: np.ndarray, ras_from_ijk: np.ndarray, extension: str) -> None:
    ras_from_ijk[:3, :3] *= 3.0
    image = nibabel.Nifti2Image((hu + 1024).astype(np.uint16), ras_from_ijk)
    image.header.set_slope_inter(1.0, -1024.0)
    nibabel.save(image, tmp_path / f"scan{extension}")
    volume = read_volume(tmp_path / f"scan{extension}")
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.grid.same_as(Grid(SHAPE, ras_from_ijk), tolerance_mm=1e-2) and volume.name == "scan"


def test_rescale_slope_and_intercept_of_a_nifti_are_applied(tmp_path: Path, hu: np.ndarray) -> None:
    image = nibabel.Nifti1Image((hu + 1024).astype(np.uint16), np.diag([4.0, 5, 6, 1]))
    image.header.set_slope_inter(1.0, -1024.0)
    nibabel.save(image, tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii").hu, hu)


@pytest.mark.parametrize(("unit", "unit_mm"), [("meter", 1000.0), ("micron", 0.001)])
def test_other_units_in_a_nifti_are_turned_into_millimetres(tmp_path: Path, hu, unit: str, unit_mm: float) -> None:
    image = nibabel.Nifti1Image(hu, np.diag([4 / unit_mm, 5 / unit_mm, 6 / unit_mm, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "scan.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").grid.spacing_mm, [4, 5, 6], rtol=1e-4)


def test_a_fourth_axis_of_one_is_no_obstacle(tmp_path: Path, hu: np.ndarray) -> None:
    image = sitk.JoinSeries([to_sitk(hu, Grid(SHAPE, np.diag([4.0, 5, 6, 1])))])
    sitk.WriteImage(image, str(tmp_path / "scan.mha"))
    volume = read_volume(tmp_path / "scan.mha")
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.grid.same_as(Grid(SHAPE, np.diag([4.0, 5, 6, 1])))


def test_a_text_path_will_do(tmp_path: Path, hu: np.ndarray) -> None:
    assert read_volume(str(write(tmp_path / "SCAN.NRRD", hu))).name == "SCAN"


# Files that are refused: each builder makes one in a folder, from good voxels.


def cut_off(extension: str, compressed: bool = False, keep: float = 0.6) -> Callable[[Path, np.ndarray], Path]:
    def build(folder: Path, hu: np.ndarray) -> Path:
        noisy = hu + np.random.default_rng(0).integers(0, 50, hu.shape).astype(np.int16)
        path = write(folder / f"scan{extension}", noisy, compressed=compressed)
        cut = next((file for file in folder.iterdir() if "raw" in file.suffixes[0]), path)
        cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * keep)])
        return path

    return build


def content(name: str, data: bytes) -> Callable[[Path, np.ndarray], Path]:
    def build(folder: Path, hu: np.ndarray) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return build


def voxels(change: Callable[[np.ndarray], np.ndarray], name: str = "scan.nii.gz") -> Callable[[Path, np.ndarray], Path]:
    return lambda folder, hu: write(folder / name, change(hu))


def picture(name: str) -> Callable[[Path, np.ndarray], Path]:
    def build(folder: Path, hu: np.ndarray) -> Path:
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((20, 30), np.uint8)), str(folder / "picture.png"))
        return (folder / "picture.png").rename(folder / name)

    return build


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(hu: np.ndarray) -> np.ndarray:
        changed = hu.astype(np.float32)
        changed[3, 4, 5] = value
        return changed

    return change


def damaged_gzip(folder: Path, hu: np.ndarray) -> Path:
    path = write(folder / "scan.nii.gz", hu)
    data = bytearray(path.read_bytes())
    data[-8] ^= 0xFF  # the checksum
    path.write_bytes(data)
    return path


def four_dimensional(folder: Path, hu: np.ndarray) -> Path:
    return write_nifti(folder / "scan.nii.gz", np.stack([hu, hu], -1), np.diag([4.0, 5, 6, 1]))


def two_dimensional(folder: Path, hu: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(hu[:, :, 10]), str(folder / "scan.mha"))
    return folder / "scan.mha"


def colours(folder: Path, hu: np.ndarray) -> Path:
    image = sitk.GetImageFromArray(np.zeros((20, 24, 30, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(folder / "scan.nrrd"))
    return folder / "scan.nrrd"


def shear(folder: Path, hu: np.ndarray) -> Path:
    sheared = np.diag([4.0, 5, 6, 1])
    sheared[1, 2] = 1.0
    return write_nifti(folder / "scan.nii", hu, sheared)


def sheared_nrrd(folder: Path, hu: np.ndarray) -> Path:
    path = write(folder / "scan.nrrd", hu)
    path.write_bytes(path.read_bytes().replace(b"(0,0,6)", b"(0,1,6)"))
    return path


def two_positions(folder: Path, hu: np.ndarray) -> Path:
    shifted = np.diag([4.0, 5, 6, 1])
    shifted[0, 3] = 30.0
    return write_nifti(folder / "scan.nii.gz", hu, shifted, np.diag([4.0, 5, 6, 1]), sform_code=2)


def two_voxel_sizes(folder: Path, hu: np.ndarray) -> Path:
    path = write_nifti(folder / "scan.nii", hu, np.diag([4.0, 5, 6, 1]))
    data = bytearray(path.read_bytes())
    data[80:92] = struct.pack("<3f", 3.0, 5.0, 6.0)
    path.write_bytes(data)
    return path


def no_position(folder: Path, hu: np.ndarray) -> Path:
    return write_nifti(folder / "scan.nii.gz", hu, None)


def no_directions(folder: Path, hu: np.ndarray) -> Path:
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 30 24 20\nencoding: raw\nendian: little\n\n"
    (folder / "scan.nrrd").write_bytes(header.encode() + hu.tobytes(order="F"))
    return folder / "scan.nrrd"


def nifti_2_cut_off(folder: Path, hu: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti2Image(hu, np.diag([4.0, 5, 6, 1])), folder / "scan.nii")
    (folder / "scan.nii").write_bytes((folder / "scan.nii").read_bytes()[:9000])
    return folder / "scan.nii"


def nifti_2_no_position(folder: Path, hu: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti2Image(hu, None), folder / "scan.nii.gz")
    return folder / "scan.nii.gz"


def no_data_file(folder: Path, hu: np.ndarray) -> Path:
    path = write(folder / "scan.mhd", hu)
    (folder / "scan.raw").unlink()
    return path


def huge_promise(folder: Path, hu: np.ndarray) -> Path:
    path = write(folder / "scan.nii", hu)
    data = bytearray(path.read_bytes())
    data[42:48] = struct.pack("<3h", 32000, 32000, 32000)
    path.write_bytes(data)
    return path


def broken_numbers(folder: Path, hu: np.ndarray) -> Path:
    path = write(folder / "scan.mha", hu)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 30 24 20", b"DimSize = 30 24 xx"))
    return path


TEXT = b"This is no image at all.\n" * 40
REFUSED = {
    "missing": (lambda folder, hu: folder / "scan.nii.gz", ["There is no"]),
    "missing, unknown extension": (lambda folder, hu: folder / "scan", ["There is no"]),
    "empty": (content("scan.nii.gz", b""), ["is empty"]),
    "empty after unzipping": (content("scan.nii.gz", gzip.compress(b"")), ["not a NIfTI file"]),
    **{f"cut off {end}": (cut_off(end), ["cut off"]) for end in EXTENSIONS},
    **{f"cut off, compressed {end}": (cut_off(end, True), ["cut off"]) for end in EXTENSIONS[2:]},
    "cut off in the header": (cut_off(".nii", keep=0.003), ["not a NIfTI file"]),
    "cut off by one byte": (cut_off(".nii.gz", keep=0.9999), ["cut off"]),
    "damaged checksum": (damaged_gzip, ["damaged"]),
    "header without the voxels": (huge_promise, ["cut off"]),
    "text as .nii.gz": (content("scan.nii.gz", TEXT), ["not a NIfTI file"]),
    "text as .nii": (content("scan.nii", TEXT), ["not a NIfTI file"]),
    "text as .nrrd": (content("scan.nrrd", TEXT), ["not a NRRD file"]),
    "text as .mha": (content("scan.mha", TEXT), ["not a MetaImage file"]),
    "PNG as .nii.gz": (picture("scan.nii.gz"), ["not a NIfTI file"]),
    "PNG as .mha": (picture("scan.mha"), ["not a MetaImage file"]),
    "PNG": (picture("scan.png"), ["extension", ".nii.gz", ".nrrd", ".mha", "DICOM"]),
    "Word document": (content("report.docx", b"PK\x03\x04" + TEXT), ["extension"]),
    "NIfTI-2, cut off": (nifti_2_cut_off, ["NIfTI-2"]),
    "NIfTI-2 without orientation": (nifti_2_no_position, ["does not say how the patient lies"]),
    "broken header": (broken_numbers, ["header", "xx"]),
    "2D": (two_dimensional, ["2D"]),
    "4D": (four_dimensional, ["4D", "30 x 24 x 20 x 2"]),
    "colours": (colours, ["3 values at each voxel"]),
    "constant": (voxels(lambda hu: np.full_like(hu, -1000)), ["-1000", "constant"]),
    "NaN": (voxels(with_value(np.nan)), ["1 voxels", "NaN"]),
    "NaN in .mha": (voxels(with_value(np.nan), "scan.mha"), ["1 voxels", "NaN"]),
    "NaN in .nii": (voxels(with_value(np.nan), "scan.nii"), ["1 voxels", "NaN"]),
    "infinite": (voxels(with_value(np.inf), "scan.nrrd"), ["infinite"]),
    "ten slices": (voxels(lambda hu: hu[:, :, :10]), ["30 x 24 x 10", "16 voxels (slices)", "40 mm"]),
    "few columns": (voxels(lambda hu: hu[:15]), ["15 x 24 x 20", "16 voxels"]),
    "short": (lambda folder, hu: write(folder / "scan.mha", hu, np.diag([4.0, 1.5, 6, 1])), ["40 mm"]),
    "sheared NIfTI": (shear, ["sheared", "resample"]),
    "sheared NRRD": (sheared_nrrd, ["sheared by 9.5 degrees", "resample"]),
    "sform and qform differ": (two_positions, ["two different positions"]),
    "sform and voxel sizes differ": (two_voxel_sizes, ["two different positions"]),
    "NIfTI without orientation": (no_position, ["does not say how the patient lies"]),
    "NRRD without orientation": (no_directions, ["does not say how the patient lies"]),
    "voxels missing": (no_data_file, ["scan.raw", "missing"]),
}


@pytest.mark.parametrize(("build", "about"), REFUSED.values(), ids=REFUSED.keys())
def test_an_unusable_file_is_refused_in_one_sentence(tmp_path, hu, capfd, build, about: list[str]) -> None:
    path = build(tmp_path, hu)
    message = refusal(lambda: read_volume(path), path.stem.split(".")[0], *about)
    assert str(tmp_path) in message
    assert "(0x" not in message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "reference",
    ["/etc/passwd", "../scan.raw", "sub/../../scan.raw", "..\\scan.raw", "C:\\scan.raw", "LIST", "scan%03d.raw 1 20 1"],
)
@pytest.mark.parametrize("extension", [".mhd", ".nhdr"])
def test_a_header_cannot_take_voxels_from_elsewhere(tmp_path: Path, hu, extension: str, reference: str) -> None:
    inner = tmp_path / "inner"
    (inner / "sub").mkdir(parents=True)
    path = write(inner / f"scan{extension}", hu)
    shutil.copy(inner / "scan.raw", tmp_path / "scan.raw")
    path.write_text(path.read_text().replace("scan.raw", reference))
    refusal(lambda: read_volume(path), repr(reference), "own folder")


def test_reading_leaves_itk_warnings_as_they_were(tmp_path: Path, hu: np.ndarray) -> None:
    path = write(tmp_path / "scan.nii", hu)
    for shown in (True, False):
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        try:
            read_volume(path)
            with pytest.raises(InputError):
                read_volume(tmp_path / "none.nii")
            assert sitk.ProcessObject.GetGlobalWarningDisplay() is shown
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(True)


def test_a_series_cannot_be_chosen_in_a_file(tmp_path: Path, hu: np.ndarray) -> None:
    path = write(tmp_path / "scan.nii", hu)
    refusal(lambda: read_volume(path, series_uid="1.2.3"), "is an image file", "folder")


# Label maps and names


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_a_label_map_comes_as_integers(tmp_path: Path, phantom: Volume, dtype: type) -> None:
    labels = (phantom.hu > -500).astype(dtype) * 3
    found = read_label_map(write(tmp_path / "labels.nii.gz", labels, phantom.grid.ras_from_ijk), phantom.grid)
    assert np.issubdtype(found.dtype, np.integer)
    np.testing.assert_array_equal(found, labels)


def test_a_label_map_stored_otherwise_is_put_into_the_order_of_its_image(
    tmp_path: Path, phantom: Volume, ras_from_ijk: np.ndarray, store_otherwise
) -> None:
    labels, grid = np.arange(phantom.hu.size, dtype=np.int32).reshape(SHAPE), Grid(SHAPE, ras_from_ijk)
    stored, stored_grid = store_otherwise(labels, grid)
    path = write(tmp_path / "labels.nrrd", stored, stored_grid.ras_from_ijk)
    np.testing.assert_array_equal(read_label_map(path, grid), labels)


def shifted(grid: Grid, off_mm: float) -> Grid:
    affine = grid.ras_from_ijk.copy()
    affine[1, 3] += off_mm
    return Grid(grid.shape, affine)


@pytest.mark.parametrize(
    "elsewhere",
    [
        lambda grid: grid.cropped((1, 0, 0), (29, 24, 20)),
        lambda grid: grid.cropped((1, 0, 0), grid.shape),
        lambda grid: shifted(grid, 0.2),
        lambda grid: Grid(grid.shape, grid.ras_from_ijk @ np.diag([1.01, 1, 1, 1])),
        lambda grid: Grid(grid.shape, grid.ras_from_ijk @ np.diag([-1.0, 1, 1, 1])),
        lambda grid: Grid(grid.shape, grid.ras_from_ijk[:, [1, 0, 2, 3]]),
    ],
    ids=["smaller", "one voxel off", "0.2 mm off", "other spacing", "mirrored at the first voxel", "axes swapped"],
)
def test_a_label_map_of_another_grid_is_refused(tmp_path: Path, phantom: Volume, elsewhere, store_otherwise) -> None:
    labels, grid = store_otherwise((phantom.hu > 0).astype(np.uint8), phantom.grid)
    path = write(tmp_path / "labels.nrrd", labels, grid.ras_from_ijk)
    other = elsewhere(phantom.grid)
    size = " x ".join(map(str, other.shape))
    refusal(lambda: read_label_map(path, other), str(path), f"the image {size} voxels", "reference")
    assert read_label_map(path, shifted(phantom.grid, 0.05)).shape == SHAPE


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_a_label_map_with_fractions_is_refused(tmp_path: Path, phantom: Volume, value: float) -> None:
    labels = np.zeros(SHAPE, np.float32)
    labels[1, 2, 3] = value
    path = write(tmp_path / "labels.mha", labels, phantom.grid.ras_from_ijk)
    refusal(lambda: read_label_map(path, phantom.grid), str(path), "fractions")


def test_a_folder_is_no_label_map(tmp_path: Path, phantom: Volume) -> None:
    refusal(lambda: read_label_map(tmp_path, phantom.grid), str(tmp_path), "is a folder")


def test_names_are_read_by_label(tmp_path: Path) -> None:
    path = tmp_path / "NAMES.json"
    path.write_text('{"2": "liver", "10": "rene sinistro è"}', encoding="utf-8")
    assert read_names(path) == {2: "liver", 10: "rene sinistro è"}


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ('["liver"]', "no label names"),
        ('[["1", "liver"]]', "no label names"),
        ("{}", "no label names"),
        ('"liver"', "no label names"),
        ("{'1': 'liver'}", "not valid JSON"),
        ('{"1": "liver"', "not valid JSON"),
        ('{"0": "background"}', "'0'"),
        ('{"-1": "liver"}', "'-1'"),
        ('{"liver": 1}', "'liver'"),
        ('{"1.0": "liver"}', "'1.0'"),
        ('{"1": 5}', "no name for label 1"),
        ('{"1": " "}', "no name for label 1"),
        ('{"1": {"name": "liver"}}', "no name for label 1"),
        ('{"1": "liver", "2": "liver"}', "label 2 ('liver') twice"),
        ('{"1": "liver", "1": "spleen"}', "label 1 ('spleen') twice"),
        ('{"1": "liver", "01": "spleen"}', "label 01 ('spleen') twice"),
        ("", "is empty"),
    ],
)
def test_names_that_are_not_clear_are_refused(tmp_path: Path, text: str, about: str) -> None:
    path = tmp_path / "NAMES.json"
    path.write_text(text)
    refusal(lambda: read_names(path), str(path), about)


def test_missing_and_binary_name_files_are_refused(tmp_path: Path) -> None:
    refusal(lambda: read_names(tmp_path / "NAMES.json"), "There is no")
    (tmp_path / "NAMES.json").write_bytes(b"\xff\xfe\x00\x80")
    refusal(lambda: read_names(tmp_path / "NAMES.json"), "not valid JSON")


# Doubts


def mr(hu: np.ndarray) -> np.ndarray:
    tissue = np.random.default_rng(0).gamma(6.0, 60.0, hu.shape)
    return np.where(hu > -900, tissue, 8.0).astype(np.int16)


DOUBTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], list[str]]] = {
    "ordinary": (lambda hu: hu, []),
    "padded with -2048": (lambda hu: np.where(np.indices(hu.shape)[0] < 3, -2048, hu), []),
    "padded with -3024": (lambda hu: np.where(np.indices(hu.shape)[0] < 3, -3024, hu), []),
    "air at -1024": (lambda hu: np.where(hu < -900, -1024, hu), []),
    "metal": (lambda hu: np.where(hu > 500, 30000, hu), []),
    "floating point": (lambda hu: hu + 0.25, []),
    "lung window": (lambda hu: np.clip(hu, -1350, 150), []),
    "abdominal window": (lambda hu: np.clip(hu, -125, 275), ["display window", "-125 to 275", "can be used"]),
    "wide window": (lambda hu: np.clip(hu, -500, 500), ["display window"]),
    "offset 1024": (lambda hu: hu + 1024, ["offset of about 1000 or 1024", "rescale intercept"]),
    "offset 1000": (lambda hu: hu + 1000, ["offset of about 1000 or 1024"]),
    "intercept twice": (lambda hu: hu - 1024, ["soft tissue", "twice"]),
    "MR": (mr, ["does not look like CT", "MR"]),
    "MR padded far below": (lambda hu: np.where(np.indices(hu.shape)[0] < 3, -32768, mr(hu)), ["MR"]),
    "normalized MR": (lambda hu: (mr(hu) - mr(hu).mean()) / mr(hu).std(), ["does not look like CT"]),
    "normalized CT": (lambda hu: np.clip((hu + 1000) / 2000, 0, 1), ["does not look like CT"]),
    "8 bits": (lambda hu: ((np.clip(hu, -160, 240) + 160) * 255 // 400).astype(np.uint8), ["8-bit"]),
    "no air": (lambda hu: np.random.default_rng(0).normal(40, 30, hu.shape), ["no air"]),
    "padding alone": (lambda hu: np.where(hu > 0, -2000, -3024), ["No voxel"]),
}


@pytest.mark.parametrize(("change", "about"), DOUBTS.values(), ids=DOUBTS.keys())
def test_doubtful_values_are_named_and_ordinary_ones_are_not(phantom: Volume, change, about: list[str]) -> None:
    found = image_warnings(Volume(change(phantom.hu), phantom.grid))
    assert len(found) == bool(about)
    for text in about:
        assert text in found[0]


@pytest.mark.parametrize(
    ("spacing_mm", "about"),
    [(10.0, ""), (10.5, "slices thicker than 10 mm"), (20.5, "millimetres"), (0.09, "millimetres")],
)
def test_doubtful_spacings_are_named(phantom: Volume, spacing_mm: float, about: str) -> None:
    found = image_warnings(Volume(phantom.hu, Grid(SHAPE, np.diag([4.0, 5.0, spacing_mm, 1.0]))))
    assert len(found) == bool(about)
    assert about in "".join(found)


def test_real_scans_are_ordinary_but_for_the_display_window(shared_data: Path) -> None:
    regions = json.loads((shared_data / "datasets.json").read_text())
    cases = [(region, name) for region, described in regions.items() for name in described["cases"]]
    for region, name in cases[::23]:
        found = image_warnings(read_volume(shared_data / region / "images" / f"{name}.nii.gz"))
        assert [("display window" in text) for text in found] == ([True] if region == "abdomen" else [])
