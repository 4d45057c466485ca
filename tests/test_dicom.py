"""Reading CT series from DICOM: what is put right, what is refused, and which series is meant."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from scipy.ndimage import binary_erosion

from rprloc.geometry import Grid
from rprloc.io.dicom import choose_series, find_series
from rprloc.io.dicom_stack import read_series
from rprloc.io.reading import read_scan, read_volume
from rprloc.volume import Volume
from tests.command_line import rprloc
from tests.dicoms import IN_COLOUR, edited, multi_frame, position, write_series, zipped
from tests.phantoms import SHAPE
from tests.refusals import refusal

# LPS position of slice k is (-60, -50, 300 + 6 k): in RAS the first voxel lies at (60, 50, 300).
DICOM_RAS = np.array([[-4.0, 0, 0, 60], [0, -5, 0, 50], [0, 0, 6, 300], [0, 0, 0, 1]])


def test_a_dicom_folder_gives_hounsfield_units_in_place(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path / "patient 7", hu)
    volume = read_volume(tmp_path / "patient 7")
    np.testing.assert_array_equal(volume.hu, hu)
    assert np.issubdtype(volume.hu.dtype, np.integer)
    assert volume.grid.same_as(Grid(SHAPE, DICOM_RAS), tolerance_mm=1e-6)
    assert volume.name == "patient 7"


def test_an_oblique_series_agrees_with_itk(tmp_path: Path, hu: np.ndarray, ras_from_ijk: np.ndarray) -> None:
    """Rows and columns along any axes; the slices then follow their normal."""
    rows_lps, columns_lps = (ras_from_ijk[:3, n] / np.linalg.norm(ras_from_ijk[:3, n]) * [-1, -1, 1] for n in (0, 1))
    normal_lps = np.cross(rows_lps, columns_lps)

    def change(k: int, data: FileDataset) -> None:
        data.ImageOrientationPatient = [f"{value:.9f}" for value in (*rows_lps, *columns_lps)]
        data.ImagePositionPatient = [f"{value:.6f}" for value in np.array([5.0, 6, 7]) + 6 * k * normal_lps]

    write_series(tmp_path, hu, change)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    itk = sitk.ReadImage(files)
    for ijk in ([0, 0, 0], [29, 0, 0], [0, 23, 0], [0, 0, 19]):
        point_lps = np.array(itk.TransformIndexToPhysicalPoint(ijk))
        np.testing.assert_allclose(volume.grid.ras(ijk), point_lps * [-1, -1, 1], atol=1e-3)


def test_other_files_and_objects_without_an_image_are_passed_over(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path, hu)
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "sub").mkdir()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = "1.2.840.10008.5.1.4.1.1.481.3", ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    structures = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    structures.Modality, structures.SeriesInstanceUID = "RTSTRUCT", "1.2.3.4"
    structures.save_as(tmp_path / "structures.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)


def test_each_slice_has_its_own_rescale_intercept(tmp_path: Path, hu: np.ndarray) -> None:
    def change(k: int, data: FileDataset) -> None:
        if k % 2:
            data.RescaleIntercept = -1000.5
            data.PixelData = (np.frombuffer(data.PixelData, np.uint16) // 2).tobytes()
            data.RescaleSlope = 2

    write_series(tmp_path, hu, change)
    found = read_volume(tmp_path).hu
    np.testing.assert_allclose(found[:, :, ::2], hu[:, :, ::2])
    np.testing.assert_allclose(found[:, :, 1::2], (hu[:, :, 1::2] + 1024) // 2 * 2 - 1000.5)


def test_two_series_are_listed_and_one_can_be_chosen(tmp_path: Path, hu: np.ndarray) -> None:
    lung = write_series(tmp_path, hu, edited(SeriesDescription=lambda k, old: "Lung"))
    soft = write_series(tmp_path, hu[:, :, :18] + 7)
    refusal(lambda: read_volume(tmp_path), f"{lung} (Lung, 20 slices)", f"{soft} (Thorax, 18 slices)", "--series")
    refusal(lambda: read_volume(tmp_path, series_uid="1.2"), "no series 1.2", lung, soft)
    np.testing.assert_array_equal(read_volume(tmp_path, series_uid=lung).hu, hu)
    np.testing.assert_array_equal(read_volume(tmp_path, series_uid=soft).hu, hu[:, :, :18] + 7)


def test_an_empty_folder_and_one_without_dicom_are_refused(tmp_path: Path) -> None:
    refusal(lambda: read_volume(tmp_path), "holds nothing")
    (tmp_path / "notes.txt").write_text("nothing")
    refusal(lambda: read_volume(tmp_path), "no DICOM images")


REFUSED_SERIES = {
    "a slice missing": (
        position(lambda k: [-60, -50, 6 * k + 6 * (k > 8)]),
        ["12.00 mm", "6.00 mm elsewhere", "missing"],
    ),
    "the last slice but one missing": (position(lambda k: [-60, -50, 6 * k + 6 * (k > 18)]), ["missing", "12.00 mm"]),
    "two slices missing side by side": (position(lambda k: [-60, -50, 6 * k + 12 * (k > 8)]), ["missing", "18.00 mm"]),
    "two slices in one place": (position(lambda k: [-60, -50, 6 * min(k, 18)]), ["1 slices", "single phase"]),
    "every slice twice": (position(lambda k: [-60, -50, 6 * (k // 2)]), ["10 slices", "single phase"]),
    "all in one place": (position(lambda k: [-60, -50, 0]), ["19 slices", "single phase"]),
    "sheared beyond any gantry": (position(lambda k: [-60, -50 + 6.5 * k, 6 * k]), ["sheared by 47.3 degrees"]),
    "a slice shifted sideways": (position(lambda k: [-60 + 9 * (k == 5), -50, 6 * k]), ["sideways", "9.0 mm"]),
    "a scout among them": (
        edited(ImageOrientationPatient=lambda k, old: [0, 1, 0, 0, 0, -1] if k == 3 else old),
        ["orientation", "scouts"],
    ),
    "another pixel spacing": (edited(PixelSpacing=lambda k, old: [5, 4.1] if k == 3 else old), ["pixel spacing"]),
    "another size": (edited(Rows=lambda k, old: 12 if k == 3 else old), ["differ in size"]),
    "no positions": (edited(ImagePositionPatient=lambda k, old: None), ["20 of 20", "do not say where they lie"]),
    "one without orientation": (
        edited(ImageOrientationPatient=lambda k, old: None if k == 3 else old),
        ["1 of 20", "do not say where they lie"],
    ),
    "many frames without places": (
        edited(NumberOfFrames=lambda k, old: 2, BitsAllocated=lambda k, old: 8),
        ["40 of 40", "do not say where they lie"],
    ),
    "slope 0": (edited(RescaleSlope=lambda k, old: 0), ["rescale slope"]),
    "axes not at right angles": (
        edited(ImageOrientationPatient=lambda k, old: [1, 0, 0, 0.5, 0.866, 0]),
        ["right angles"],
    ),
    "spacing 0": (edited(PixelSpacing=lambda k, old: [0, 0]), ["[0.0, 0.0] mm", "both must be above 0"]),
    "more pixels promised than there are": (edited(Rows=lambda k, old: 60000), ["shorter than"]),
    "colour": (
        edited(
            **IN_COLOUR,
            RescaleSlope=lambda k, old: None,
            RescaleIntercept=lambda k, old: None,
        ),
        ["3 values at each voxel"],
    ),
}


@pytest.mark.parametrize(("change", "about"), REFUSED_SERIES.values(), ids=REFUSED_SERIES.keys())
def test_an_unusable_series_is_refused_in_one_line(tmp_path: Path, hu, capfd, change, about: list[str]) -> None:
    write_series(tmp_path / "patient", hu, change)
    refusal(lambda: read_volume(tmp_path / "patient"), "patient", *about)
    assert capfd.readouterr().err == ""


def test_rounded_positions_are_not_gaps(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path, np.concatenate([hu, hu], axis=2), position(lambda k: [-60, -50, round(1.253 * k, 2)]))
    assert read_volume(tmp_path).grid.spacing_mm[2] == pytest.approx(1.253, abs=0.001)


def test_a_short_series_and_a_single_slice_are_refused(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path / "ten", hu[:, :, :10])
    refusal(lambda: read_volume(tmp_path / "ten"), "30 x 24 x 10", "16 voxels (slices)")
    write_series(tmp_path / "one", hu[:, :, :1])
    refusal(lambda: read_volume(tmp_path / "one"), "a single slice")


@pytest.mark.parametrize("keep", [0.1, 0.7])
def test_a_slice_that_is_cut_off_is_refused(tmp_path: Path, hu: np.ndarray, capfd, keep: float) -> None:
    """In the header (it would pass for a file without an image, the last slice for the scan's end) or later."""
    write_series(tmp_path, hu)
    last = sorted(tmp_path.iterdir())[-1]
    last.write_bytes(last.read_bytes()[: int(last.stat().st_size * keep)])
    refusal(lambda: read_volume(tmp_path), "damaged or cut off")
    assert capfd.readouterr().err == ""


def test_for_a_single_dicom_file_the_folder_is_asked_for(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path, hu)
    file = next(tmp_path.iterdir())
    refusal(lambda: read_volume(file), file.name, "single DICOM slice", "Give the folder")
    refusal(lambda: read_volume(file.rename(tmp_path / "IM0001")), "IM0001", "Give the folder")


def test_values_that_break_the_dicom_standard_without_harm_are_read(tmp_path: Path, hu: np.ndarray) -> None:
    with pydicom.config.disable_value_validation():
        write_series(tmp_path, hu, edited(SeriesDescription=lambda k, old: "x" * 80))
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)


# What is put right


def plane_of(position_lps: np.ndarray, axes_lps: np.ndarray) -> np.ndarray:
    """HU (30, 24) that grow linearly in the world, of a slice with 4 x 5 mm pixels."""
    columns, rows = np.meshgrid(np.arange(30) * 4.0, np.arange(24) * 5.0, indexing="ij")
    points_lps = position_lps + columns[..., None] * axes_lps[:3] + rows[..., None] * axes_lps[3:]
    return world_hu(points_lps * [-1, -1, 1])


def world_hu(points_ras: np.ndarray) -> np.ndarray:
    return points_ras @ [2.0, -1.0, 1.5] + 20.0


def assert_values_are_in_place(volume: Volume, known: float) -> None:
    """All voxels but those outside of the planes (air) have the world's value; at least the share ``known`` of all."""
    expected, inside = world_hu(volume.grid.centres_ras()), volume.hu > -900
    assert inside.mean() > known
    # Beside the planes' edge, air is interpolated in.
    inside = binary_erosion(inside, np.ones((3, 3, 1)))
    np.testing.assert_allclose(volume.hu[inside], expected[inside], atol=1.01)


@pytest.mark.parametrize("degrees", [-20.0, 5.0, 28.0])
@pytest.mark.parametrize("sideways_mm", [0.0, 0.7])
def test_a_tilted_gantry_is_straightened(tmp_path: Path, hu: np.ndarray, degrees: float, sideways_mm: float) -> None:
    """The table moves along the body, the planes are tilted about the left-right axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    axes_lps = np.array([1.0, 0, 0, 0, cos, -sin])

    def change(k: int, data: FileDataset) -> None:
        position_lps = np.array([-60.0 + sideways_mm * k, -50, 6.0 * k])
        data.ImageOrientationPatient = [f"{value:.9f}" for value in axes_lps]
        data.ImagePositionPatient = [f"{value:.6f}" for value in position_lps]
        data.PixelData = (np.rint(plane_of(position_lps, axes_lps)).T + 1024).astype(np.uint16).tobytes()

    write_series(tmp_path, hu, change)
    scan = read_scan(tmp_path)
    volume = scan.volume
    assert "gantry was tilted" in scan.warnings[0]
    axes = volume.grid.ras_from_ijk[:3, :3] / volume.grid.spacing_mm
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert_values_are_in_place(volume, known=0.5)
    # No plane is lost and none is made up: slices lie where they were measured.
    assert volume.hu.shape[2] == 20 and scan.series is not None
    for k, one in enumerate(scan.series.slices):
        assert one.position_lps is not None
        assert volume.grid.ijk(one.position_lps * [-1, -1, 1])[2] == pytest.approx(k, abs=1e-4)


def test_uneven_spacing_is_evened_out(tmp_path: Path, hu: np.ndarray) -> None:
    """3 mm through the tumour and 5 mm elsewhere, as planning scans used to be."""
    places_mm = np.concatenate([np.arange(0, 40, 5.0), np.arange(40, 59, 3.0), np.arange(63, 95, 5.0)])[:20]

    def change(k: int, data: FileDataset) -> None:
        position_lps = np.array([-60.0, -50, places_mm[k]])
        data.ImagePositionPatient = position_lps.tolist()
        pixels = plane_of(position_lps, np.array([1.0, 0, 0, 0, 1, 0]))
        data.PixelData = (np.rint(pixels).T + 1024).astype(np.uint16).tobytes()

    write_series(tmp_path, hu, change)
    scan = read_scan(tmp_path)
    volume = scan.volume
    assert "unevenly spaced, 3.00 to 5.00 mm apart" in scan.warnings[0]
    assert volume.grid.spacing_mm[2] == pytest.approx(3.0, abs=0.1)
    assert_values_are_in_place(volume, known=0.99)


def test_a_multi_frame_file_gives_what_its_series_gives(tmp_path: Path, hu: np.ndarray) -> None:
    pytest.importorskip("highdicom")
    write_series(tmp_path / "series", hu)
    multi_frame(tmp_path / "series", tmp_path / "enhanced.dcm")
    volume = read_volume(tmp_path / "enhanced.dcm")
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.grid.same_as(Grid(SHAPE, DICOM_RAS), tolerance_mm=1e-6)
    assert volume.name == "enhanced"
    data = pydicom.dcmread(tmp_path / "enhanced.dcm")
    del data.PerFrameFunctionalGroupsSequence[-1]
    data.save_as(tmp_path / "broken.dcm")
    refusal(lambda: read_volume(tmp_path / "broken.dcm"), "describes 19 images and holds 20")


def test_every_frame_has_its_own_rescale_intercept(tmp_path: Path, hu: np.ndarray) -> None:
    pytest.importorskip("highdicom")
    write_series(tmp_path / "series", hu)
    multi_frame(tmp_path / "series", tmp_path / "enhanced.dcm")
    data = pydicom.dcmread(tmp_path / "enhanced.dcm")
    added = np.zeros(20)
    for n, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        k = round((float(group.PlanePositionSequence[0].ImagePositionPatient[2]) - 300) / 6)
        added[k] = n + 0.5 * (n % 2)
        transformation = pydicom.Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = 1, -1024 + added[k]
        transformation.RescaleType = "HU"
        group.PixelValueTransformationSequence = [transformation]
    data.save_as(tmp_path / "enhanced.dcm")
    np.testing.assert_allclose(read_volume(tmp_path / "enhanced.dcm").hu, hu + added)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("frames", ["one in a file", "all in a file"])
def test_compressed_pixels_are_read(tmp_path: Path, hu: np.ndarray, syntax: UID, frames: str) -> None:
    pytest.importorskip("highdicom")  # which brings JPEG-LS
    write_series(tmp_path / "series", hu)
    if frames == "all in a file":
        multi_frame(tmp_path / "series", tmp_path / "enhanced.dcm")
    read = tmp_path / ("series" if frames == "one in a file" else "enhanced.dcm")
    for path in sorted(read.iterdir()) if read.is_dir() else [read]:
        data = pydicom.dcmread(path)
        if syntax == DeflatedExplicitVRLittleEndian:
            data.file_meta.TransferSyntaxUID = syntax
        else:
            data.compress(syntax, generate_instance_uid=False)
        data.save_as(path)
    volume = read_volume(read)
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.grid.same_as(Grid(SHAPE, DICOM_RAS), tolerance_mm=1e-6)


def test_signed_pixels_of_twelve_bits_are_read_whatever_lies_above_them(tmp_path: Path, hu: np.ndarray) -> None:
    def change(k: int, data: FileDataset) -> None:
        data.PixelRepresentation, data.RescaleIntercept = 1, 0
        data.PixelData = ((hu[:, :, k].T & 0x0FFF) | 0x5000).astype(np.uint16).tobytes()

    write_series(tmp_path, hu, change)
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)


# Folders, zip files and which series is meant


def test_a_zip_file_gives_what_its_folder_gives_and_leaves_nothing_behind(tmp_path: Path, hu, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "study").mkdir()
    write_series(tmp_path / "study" / "series", hu)
    (tmp_path / "study" / "notes.txt").write_text("nothing")
    scan = read_scan(zipped(tmp_path / "study", tmp_path / "Dora.zip"))
    np.testing.assert_array_equal(scan.volume.hu, hu)
    assert scan.volume.name == "Dora" and scan.series is not None
    assert len(scan.series.headers) == 20  # while the scan lives, its files do
    del scan
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_series_may_lie_deeper_as_on_a_disc_from_a_hospital(tmp_path: Path, hu: np.ndarray) -> None:
    (tmp_path / "DICOM" / "PA0").mkdir(parents=True)
    write_series(tmp_path / "DICOM" / "PA0" / "SE0", hu)
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)


def test_a_scout_and_a_picture_beside_the_only_scan_are_passed_over(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path, hu)
    write_series(tmp_path / "scout", hu[:, :, :2], edited(SeriesDescription=lambda k, old: "Scout"))
    write_series(tmp_path / "mr", hu, edited(Modality=lambda k, old: "MR"))
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.volume.hu, hu)
    assert scan.warnings == ()


def test_a_series_of_another_modality_is_read_with_a_warning(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path, hu, edited(Modality=lambda k, old: "MR"))
    assert "says that it is MR" in read_scan(tmp_path).warnings[0]


def test_the_series_of_a_study_are_listed(tmp_path: Path, hu: np.ndarray) -> None:
    one = write_series(tmp_path / "a", hu, edited(SeriesDescription=lambda k, old: "Lung"))
    two = write_series(tmp_path / "b", hu[:, :, :3])
    done = rprloc("series", tmp_path)
    assert done.exit_code == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "20 slices" in lines[one] and "CT" in lines[one] and "Lung" in lines[one] and "3 slices" in lines[two]
    (tmp_path / "none").mkdir()
    assert rprloc("series", tmp_path / "none").exit_code == 2


@pytest.mark.parametrize("steps", [[0.5] * 200 + [0.55] * 200, [0.6] * 150 + [0.63] * 150, [5.0] * 40 + [4.95] * 40])
def test_small_differences_of_spacing_do_not_add_up(tmp_path: Path, steps: list[float]) -> None:
    """A bright slice in the middle lies where its header says."""
    z_mm = np.concatenate([[0.0], np.cumsum(steps)])
    middle = len(steps) // 2
    hu = np.full((12, 12, len(z_mm)), -1000)
    hu[4:8, 4:8], hu[:, :, middle] = 40, 700
    write_series(tmp_path, hu, position(lambda k: [-60, -50, z_mm[k]]))
    volume = read_volume_of(tmp_path)
    profile = volume.hu.mean((0, 1))
    bright = profile - np.median(profile)  # shared by the slices beside the middle, if they were interpolated
    places_mm = volume.grid.ras(np.arange(len(bright))[:, None] * [0, 0, 1])[:, 2]
    assert abs(np.average(places_mm, weights=bright) - z_mm[middle]) < 0.2


def read_volume_of(path: Path) -> Volume:
    """Without the limit to the size of a scan, so that a test needs few pixels."""
    series = choose_series(find_series(path), path, None)
    hu, grid, _, _ = read_series(series, path)
    return Volume(hu, grid, "scan")


@pytest.mark.parametrize(
    ("steps", "good"),
    [
        ([1.0] * 30 + [100.0] * 2 + [1.0] * 30, False),
        ([1.0] * 30 + [20.0] * 2 + [1.0] * 30, False),
        ([1.0] * 30 + [20.0] + [1.0] + [20.0] + [1.0] * 30, False),
        ([1.0] * 30 + [3.0] + [1.0] * 30, False),
        ([1.0] * 30 + [50.0] * 30, False),
        ([1.0, 2.0] * 20, False),  # every third slice is missing
        ([0.625, 1.25] * 20, False),
        ([0.625] * 30 + [7.0] * 30, True),
        ([0.5] * 30 + [10.0] * 30, True),
        ([1.0] * 30 + [5.0] * 30, True),
        ([5.0] * 10 + [0.625] * 40 + [5.0] * 10, True),
        ([5.0] * 2 + [2.5] * 30, True),
    ],
)
def test_a_hole_is_no_other_spacing(tmp_path: Path, steps: list[float], good: bool) -> None:
    z_mm = np.concatenate([[0.0], np.cumsum(steps)])
    hu = np.full((12, 12, len(z_mm)), -1000)
    hu[4:8, 4:8] = 40
    write_series(tmp_path, hu, position(lambda k: [-60, -50, z_mm[k]]))
    if good:
        assert read_volume_of(tmp_path).hu.shape[2] > len(steps)
    else:
        refusal(lambda: read_volume_of(tmp_path), "Slices are missing")
