"""RTSTRUCT, SR and SEG say where the boxes are: read back by other programs, on axial, oblique and tilted series."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset

from rprloc.detection import AbsentLandmark, AbsentOrgan, Detections, LandmarkDetection, OrganDetection, Presence
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid
from rprloc.io.dicom import DicomSeries
from rprloc.io.dicom_export import DICOM_WRITERS, save_rtstruct, save_seg, save_sr
from rprloc.io.dicom_objects import slice_contours
from rprloc.io.reading import read_scan, read_volume
from tests.boxes import points_of
from tests.command_line import rprloc
from tests.dicoms import SERIES, multi_frame, write_series
from tests.example import ExampleFiles
from tests.phantoms import phantom_hu

pytest.importorskip("highdicom")
SHAPE = (30, 24, 20)


@pytest.fixture(params=[*SERIES, "multi-frame"])
def series(request: pytest.FixtureRequest, tmp_path: Path) -> DicomSeries:
    hu = phantom_hu(Grid(SHAPE, np.diag([4.0, 5, 6, 1])))
    kind = request.param if request.param in SERIES else "axial"
    write_series(tmp_path / "series", hu, SERIES[kind])
    if request.param == "multi-frame":
        multi_frame(tmp_path / "series", tmp_path / "enhanced.dcm")
    read = read_scan(tmp_path / ("enhanced.dcm" if request.param == "multi-frame" else "series")).series
    assert read is not None
    return read


def middle_of(series: DicomSeries) -> np.ndarray:
    return np.mean([one.grid.bounds.centre_ras for one in series.slices], axis=0)


def detections_of(series: DicomSeries) -> Detections:
    centre = middle_of(series)
    boxes = {
        "liver": Box(centre - np.array([20.3, 15.2, 25.7]), centre + np.array([17.1, 22.9, 19.4])),
        "rene è\\1": Box(
            centre - np.array([20, 30, 13]), centre + np.array([-2, 3.2, 2.9])
        ),  # overlaps; no DICOM text as it is
    }
    return Detections(
        "q",
        tuple(OrganDetection(name, points_of(box), np.full(6, 2.5), 1, ("a",)) for name, box in boxes.items()),
        "model",
        "set",
    )


def test_absent_organs_are_named_in_the_structure_set_and_have_no_roi(tmp_path: Path, series: DicomSeries) -> None:
    found, path = detections_of(series), tmp_path / "q.rtstruct.dcm"
    liver, kidney = found.located
    trusted = replace(liver, expected_wall_error_mm=7.0, presence=Presence(0.1, 0.8, 0.1))
    absent = AbsentOrgan("brain", Presence(0.01, 0.01, 0.98), ("a",))
    save_rtstruct(path, replace(found, organs=(absent, trusted, kidney)), series)
    assert_valid(path)
    data = pydicom.dcmread(path)
    assert [roi.ROIName for roi in data.StructureSetROISequence] == ["liver", "rene è/1"]
    assert "expected wall error 7 mm; the scan shows only a part" in data.StructureSetROISequence[0].ROIDescription
    assert "brain: not in the scan (98 %)" in data.StructureSetDescription


def test_landmarks_are_points_in_the_structure_set_and_in_the_report(tmp_path: Path, series: DicomSeries) -> None:
    place = middle_of(series) + np.array([3.25, -7.5, 1.125])  # between slices, too
    landmark = LandmarkDetection("carina", place, 2.0, 28, ("a",), 6.0, 0.9)
    absent = AbsentLandmark("chin", 0.02, ("a",))
    found = replace(detections_of(series), landmarks=(landmark, absent))
    save_rtstruct(tmp_path / "q.dcm", found, series)
    data = pydicom.dcmread(tmp_path / "q.dcm")
    assert [roi.ROIName for roi in data.StructureSetROISequence][-1] == "carina"
    assert data.StructureSetROISequence[-1].ROIDescription == "expected error 6 mm"
    (contour,) = data.ROIContourSequence[-1].ContourSequence
    assert contour.ContourGeometricType == "POINT" and contour.NumberOfContourPoints == 1
    np.testing.assert_allclose(np.array(contour.ContourData, float), place * [-1, -1, 1], atol=1e-3)
    assert "chin: not in the scan (98 %)" in data.StructureSetDescription
    for only in (found, replace(found, organs=())):
        save_sr(tmp_path / "sr.dcm", only, series)
        points = [
            item for item in every_item(pydicom.dcmread(tmp_path / "sr.dcm")) if item.get("GraphicType") == "POINT"
        ]
        (point,) = points
        assert point.ValueType == "SCOORD3D"
        assert point.ReferencedFrameOfReferenceUID == data.FrameOfReferenceUID
        np.testing.assert_allclose(point.GraphicData, place * [-1, -1, 1], atol=1e-3)


def every_item(data: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    """A report's content items, at any depth."""
    for item in data.get("ContentSequence", ()):
        yield item
        yield from every_item(item)


def assert_valid(path: Path) -> None:
    """By David Clunie's validator."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (package dicom3tools) is not installed")
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    found = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Warning"))]
    # Fields that test series, and often real ones, lack and that are copied from them.
    assert [line for line in found if "empty" not in line.lower()] == []


def test_the_structure_set_has_each_box_on_the_slices_that_cut_it(tmp_path: Path, series: DicomSeries) -> None:
    found, path = detections_of(series), tmp_path / "q.rtstruct.dcm"
    save_rtstruct(path, found, series)
    assert_valid(path)
    by_uid = {(one.sop_uid, one.frame): one for one in series.slices}
    data = pydicom.dcmread(path)
    assert [roi.ROIName for roi in data.StructureSetROISequence] == ["liver", "rene è/1"]
    for roi, box in zip(data.ROIContourSequence, found.boxes.values(), strict=True):
        drawn = {}
        for contour in roi.ContourSequence:
            (image,) = contour.ContourImageSequence
            frame = image.get("ReferencedFrameNumber")
            one = by_uid[image.ReferencedSOPInstanceUID, None if frame is None else frame - 1]
            points_lps = np.array(contour.ContourData, float).reshape(-1, 3)
            assert one.axes_lps is not None and one.position_lps is not None
            normal_lps = np.cross(one.axes_lps[:3], one.axes_lps[3:])
            np.testing.assert_allclose((points_lps - one.position_lps) @ normal_lps, 0, atol=0.01)  # on its slice
            drawn[one] = points_lps * [-1, -1, 1]
        # Every pixel of every slice: inside of the contour, if the slice has one, exactly if inside of the box.
        for one in series.slices:
            centres_ras = one.grid.centres_ras()[:, :, 0].reshape(-1, 3)
            expected = box_distance_mm(box, centres_ras)
            inside = inside_polygon(drawn[one], centres_ras) if one in drawn else np.zeros(len(centres_ras), bool)
            assert (inside == (expected < 0))[np.abs(expected) > 0.1].all()


@pytest.mark.parametrize("kind", ["axial", "oblique", "coronal"])
def test_plastimatch_reads_the_contours_where_the_boxes_are(tmp_path: Path, kind: str) -> None:
    if shutil.which("plastimatch") is None:
        pytest.skip("plastimatch is not installed")
    series = axial_or_other(tmp_path, kind)
    found = detections_of(series)
    save_rtstruct(tmp_path / "q.dcm", found, series)
    command = ["plastimatch", "convert", "--input", "q.dcm", "--output-cxt", "q.cxt"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    header, _, body = (tmp_path / "q.cxt").read_text(encoding="utf-8").partition("END_OF_ROI_NAMES\n")
    assert "|liver" in header
    contours = [line.split("|") for line in body.splitlines()]
    for number, box in enumerate(found.boxes.values(), 1):
        points = [line[5].split("\\") for line in contours if line[0] == str(number)]
        points_ras = [np.array(one, float).reshape(-1, 3) * [-1, -1, 1] for one in points]
        assert len(points_ras) == len(slice_contours(box, series.slices)) > 1
        assert np.abs(box_distance_mm(box, np.concatenate(points_ras))).max() < 0.01  # all on the box's walls


@pytest.mark.parametrize("kind", ["axial", "oblique", "tilted"])
def test_dicompyler_reads_the_contours_where_the_boxes_are(tmp_path: Path, kind: str, monkeypatch) -> None:
    import pydicom.dicomio

    monkeypatch.setattr(pydicom.dicomio, "read_file", pydicom.dcmread, raising=False)  # its name in pydicom 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parsing = pytest.importorskip("dicompylercore.dicomparser")
        series = axial_or_other(tmp_path, kind)
        found = detections_of(series)
        save_rtstruct(tmp_path / "q.dcm", found, series)
        parser = parsing.DicomParser(str(tmp_path / "q.dcm"))
        structures = parser.GetStructures()
        assert [one["name"] for one in structures.values()] == ["liver", "rene è/1"]
        planes = [parser.GetStructureCoordinates(number) for number in structures]
    assert parser.GetReferencedSeries() == series.uid
    for by_height, box in zip(planes, found.boxes.values(), strict=True):
        contours = [np.array(one["data"], float) for several in by_height.values() for one in several]
        assert len(contours) == len(slice_contours(box, series.slices)) > 1
        assert np.abs(box_distance_mm(box, np.concatenate(contours) * [-1, -1, 1])).max() < 0.01  # all on its walls


def axial_or_other(folder: Path, kind: str) -> DicomSeries:
    write_series(folder / "series", phantom_hu(Grid(SHAPE, np.diag([4.0, 5, 6, 1]))), SERIES[kind])
    series = read_scan(folder / "series").series
    assert series is not None
    return series


def box_distance_mm(box: Box, points_ras: np.ndarray) -> np.ndarray:
    """How far each point is outside of the box (positive) or inside."""
    return np.maximum(box.min_ras - points_ras, points_ras - box.max_ras).max(axis=-1)


def inside_polygon(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points of a convex polygon's plane are inside of it."""
    steps = np.roll(polygon, -1, axis=0) - polygon
    normal = np.cross(steps[0], steps[1])
    sides = np.stack([np.cross(step, points - corner) @ normal for step, corner in zip(steps, polygon, strict=True)])
    return (sides > 0).all(axis=0)


def test_a_box_thinner_than_a_slice_has_one_contour_and_one_outside_has_none(tmp_path: Path) -> None:
    series = axial_or_other(tmp_path, "axial")
    thin, outside = Box([0, 0, 314], [20, 20, 317]), Box([0, 0, 700], [20, 20, 740])
    ((one, points_lps),) = slice_contours(thin, series.slices)
    assert one.position_lps is not None and one.position_lps[2] == 318  # the nearest, 2.5 mm off
    np.testing.assert_allclose(np.ptp(points_lps, axis=0), [20, 20, 0], atol=1e-6)
    np.testing.assert_allclose(points_lps[:, 2], 318)
    assert slice_contours(outside, series.slices) == []
    organs = tuple(OrganDetection(n, points_of(b), np.zeros(6), 1, ()) for n, b in (("thin", thin), ("out", outside)))
    save_rtstruct(tmp_path / "q.dcm", Detections("q", organs, "m", "s"), series)
    assert_valid(tmp_path / "q.dcm")
    drawn = pydicom.dcmread(tmp_path / "q.dcm").ROIContourSequence
    assert len(drawn[0].ContourSequence) == 1 and "ContourSequence" not in drawn[1]
    with pytest.raises(InputError, match="no box lies in the scan"):
        save_seg(tmp_path / "seg.dcm", Detections("q", organs[1:], "m", "s"), series)
    assert not (tmp_path / "seg.dcm").exists()


def test_the_report_holds_the_boxes_in_space(tmp_path: Path, series: DicomSeries) -> None:
    """Read from the content tree as PS3.16 TID 1410, 1411 and 1419 lay it out."""
    found, path = detections_of(series), tmp_path / "q.sr.dcm"
    save_sr(path, found, series)
    assert_valid(path)
    data = pydicom.dcmread(path)
    assert data.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34" and data.PatientName == "Doe^Dora"
    evidence = data.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.SeriesInstanceUID == series.uid
    volumes = [group for group in items(data, "125007") if items(group, "121231")]
    planes = [group for group in items(data, "125007") if items(group, "111030")]
    assert len(volumes) == len(planes) == 2
    for group, plane, (organ, box) in zip(volumes, planes, found.boxes.items(), strict=True):
        names = [items(one, "112039")[0].TextValue for one in (group, plane)]
        assert names == [organ.replace("\\", "/")] * 2
        corners_lps = [np.array(face.GraphicData, float).reshape(-1, 3) for face in items(group, "121231")]
        assert len(corners_lps) == 6 and all(np.allclose(face[0], face[-1]) for face in corners_lps)
        points_ras = np.concatenate(corners_lps) * [-1, -1, 1]
        np.testing.assert_allclose(points_ras.min(axis=0), box.min_ras, atol=0.01)
        np.testing.assert_allclose(points_ras.max(axis=0), box.max_ras, atol=0.01)
        frame_uid = items(group, "121231")[0].ReferencedFrameOfReferenceUID
        assert frame_uid == series.headers[0].FrameOfReferenceUID
        sizes = [items(group, code)[0].MeasuredValueSequence[0] for code in ("103355008", "131197000", "410668003")]
        np.testing.assert_allclose([float(size.NumericValue) for size in sizes], box.size_mm, atol=0.1)
        assert {size.MeasurementUnitsCodeSequence[0].CodeValue for size in sizes} == {"mm"}
        (region,) = items(plane, "111030")
        region_ras = np.array(region.GraphicData, float).reshape(-1, 3) * [-1, -1, 1]
        assert np.abs(box_distance_mm(box, region_ras)).max() < 0.01


def items(parent: pydicom.Dataset, code: str) -> list[pydicom.Dataset]:
    """All content items below ``parent`` with this concept."""
    found = []
    for item in parent.get("ContentSequence", []):
        names = item.get("ConceptNameCodeSequence", [])
        found += [item] if names and names[0].CodeValue == code else []
        found += items(item, code)
    return found


def test_the_segmentation_has_the_pixels_in_the_boxes(tmp_path: Path, series: DicomSeries) -> None:
    """Read by dcmqi where it can make a volume of the slices (they are not tilted), else frame by frame."""
    found, path = detections_of(series), tmp_path / "q.seg.dcm"
    save_seg(path, found, series)
    assert_valid(path)
    data = pydicom.dcmread(path)
    assert [one.SegmentLabel for one in data.SegmentSequence] == ["liver", "rene è/1"]
    pixels, shared = data.pixel_array, data.SharedFunctionalGroupsSequence[0]
    counted = np.zeros(2, int)
    for frame, group in zip(pixels, data.PerFrameFunctionalGroupsSequence, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position_lps = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        axes_lps = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
        rows_mm, columns_mm = shared.PixelMeasuresSequence[0].PixelSpacing
        rows, columns = np.indices(frame.shape)
        points_lps = position_lps + columns[..., None] * columns_mm * axes_lps[:3]
        points_lps = points_lps + rows[..., None] * rows_mm * axes_lps[3:]
        distance_mm = box_distance_mm(list(found.boxes.values())[number - 1], points_lps * [-1, -1, 1])
        assert ((frame == 1) == (distance_mm < 0))[np.abs(distance_mm) > 0.1].all()
        counted[number - 1] += int(frame.sum())
    centres_ras = np.concatenate([one.grid.centres_ras().reshape(-1, 3) for one in series.slices])
    for count, box in zip(counted, found.boxes.values(), strict=True):
        distance_mm = box_distance_mm(box, centres_ras)
        assert (distance_mm < -0.1).sum() <= count <= (distance_mm < 0.1).sum() and count > 10


def test_dcmqi_puts_the_segments_where_the_boxes_are(tmp_path: Path) -> None:
    import SimpleITK as sitk

    from rprloc.volume import from_sitk

    if shutil.which("segimage2itkimage") is None:
        pytest.skip("dcmqi is not installed")
    series = axial_or_other(tmp_path, "oblique")
    found = detections_of(series)
    save_seg(tmp_path / "q.dcm", found, series)
    command = ["segimage2itkimage", "-t", "nrrd", "--inputDICOM", str(tmp_path / "q.dcm")]
    done = subprocess.run([*command, "--outputDirectory", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    written = sorted(tmp_path.glob("*.nrrd"))
    assert len(written) == 2
    for file, box in zip(written, found.boxes.values(), strict=True):
        mask, grid = from_sitk(sitk.ReadImage(str(file)))
        distance_mm = box_distance_mm(box, grid.centres_ras())
        assert ((mask > 0) == (distance_mm < 0))[np.abs(distance_mm) > 0.1].all()
        assert (mask > 0).sum() > 10


def test_locate_writes_them_for_a_series_and_refuses_them_for_other_files(
    example: ExampleFiles, tmp_path: Path
) -> None:
    write_series(tmp_path / "dora", read_volume(example.image).hu)
    command = ["locate", example.support_set, "--model", example.weights, "--device", "cpu", "--out", tmp_path / "out"]
    done = rprloc(*command, tmp_path / "dora", "--rtstruct", "--sr", "--seg", "--labels")
    assert (done.exit_code, done.complaints) == (0, "")
    kinds = ["boxes.nii.gz", "detections.json", "mrk.json", "rtstruct.dcm", "seg.dcm", "sr.dcm"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"dora.{kind}" for kind in kinds]
    boxes = Detections.load(tmp_path / "out" / "dora.detections.json").boxes
    rois = pydicom.dcmread(tmp_path / "out" / "dora.rtstruct.dcm").StructureSetROISequence
    assert [roi.ROIName for roi in rois] == list(boxes)
    shutil.rmtree(tmp_path / "out")
    done = rprloc(*command, example.image, "--rtstruct")
    assert done.exit_code == 2 and "not read from DICOM" in done.stderr and not list((tmp_path / "out").glob("*"))


def test_a_series_without_a_frame_of_reference_is_refused(tmp_path: Path) -> None:
    def change(k: int, data: FileDataset) -> None:
        del data.FrameOfReferenceUID

    write_series(tmp_path / "series", phantom_hu(Grid(SHAPE, np.diag([4.0, 5, 6, 1]))), change)
    series = read_scan(tmp_path / "series").series
    assert series is not None
    with pytest.raises(InputError, match="FrameOfReferenceUID"):
        save_rtstruct(tmp_path / "q.dcm", detections_of(series), series)
    assert not (tmp_path / "q.dcm").exists()


def test_a_series_with_the_barest_headers_will_do(tmp_path: Path) -> None:
    def change(k: int, data: FileDataset) -> None:
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"):
            delattr(data, name)
        for name in ("AccessionNumber", "ReferringPhysicianName", "SliceThickness", "Manufacturer", "ImageType"):
            delattr(data, name)

    write_series(tmp_path / "series", phantom_hu(Grid(SHAPE, np.diag([4.0, 5, 6, 1]))), change)
    series = read_scan(tmp_path / "series").series
    assert series is not None
    for kind, write in DICOM_WRITERS.items():
        write(tmp_path / f"{kind}.dcm", detections_of(series), series)
        assert pydicom.dcmread(tmp_path / f"{kind}.dcm").StudyInstanceUID == series.headers[0].StudyInstanceUID
