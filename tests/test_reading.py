"""Reading scans of every orientation and format."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.apps.demo import DemoScans
from rprloc.geometry import Grid
from rprloc.io.plausibility import image_warnings
from rprloc.io.reading import read_volume
from rprloc.volume import Volume, to_sitk
from tests.images import EXTENSIONS, write, write_nifti
from tests.phantoms import SHAPE
from tests.refusals import refusal


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


def assert_lies_where_nibabel_says(path: Path) -> Volume:
    volume, expected = read_volume(path), nibabel.load(path)
    assert volume.grid.same_as(Grid(expected.shape, expected.affine), tolerance_mm=1e-2)
    np.testing.assert_array_equal(volume.hu, expected.dataobj)
    return volume


@pytest.mark.parametrize("scan", [pytest.param("support_image", marks=pytest.mark.slow), "query_image"])
def test_real_scans_lie_where_nibabel_says(public_scans: DemoScans, scan: str) -> None:
    assert image_warnings(assert_lies_where_nibabel_says(getattr(public_scans, scan))) == []


def test_annotated_scans_lie_where_nibabel_says(shared_data: Path) -> None:
    for case in ("han/images/han_001", "abdomen/images/abdomen_05", "thorax/images/thorax_03"):
        warned = image_warnings(assert_lies_where_nibabel_says(shared_data / f"{case}.nii.gz"))
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
