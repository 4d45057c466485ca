"""Landmarks of DICOM reports, read back: the program's own, highdicom's and such as other programs write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

import rprloc
from rprloc.detection import AbsentLandmark, LandmarkDetection
from rprloc.geometry import Grid, lps_from_ras
from rprloc.io.annotations import read_example
from rprloc.io.dicom_export import save_sr
from rprloc.io.landmarks import read_landmarks, read_landmarks_with_notes
from rprloc.io.reading import Scan, read_scan
from scripts.robustness.annotation_writers import encode_dicom, item, point_in_space, point_on_image, report
from tests.command_line import rprloc as run_command
from tests.dicoms import SERIES, multi_frame, write_series
from tests.example import ExampleFiles
from tests.phantoms import SHAPE, phantom_hu
from tests.refusals import refusal
from tests.test_dicom_export import detections_of

WORLD = Grid(SHAPE, np.diag([4.0, 5, 6, 1]))


@pytest.fixture(params=[*SERIES, "flipped", "multi-frame"])
def scan(request: pytest.FixtureRequest, tmp_path: Path) -> Scan:
    """A CT series, axial, at angles, with rows from left to right, or in one file."""
    return scan_in(tmp_path, request.param)


def scan_in(folder: Path, kind: str) -> Scan:
    def flip(k: int, data: pydicom.FileDataset) -> None:
        data.ImageOrientationPatient, data.ImagePositionPatient = [-1, 0, 0, 0, -1, 0], [60, 50, 300 - 6 * k]

    write_series(folder / "series", phantom_hu(WORLD), flip if kind == "flipped" else SERIES.get(kind, SERIES["axial"]))
    if kind != "multi-frame":
        return read_scan(folder / "series")
    pytest.importorskip("highdicom")
    multi_frame(folder / "series", folder / "scan.dcm")
    return read_scan(folder / "scan.dcm")


def inside(scan: Scan) -> dict[str, np.ndarray]:
    """Two places in the middle of a scan, on no voxel's centre, RAS mm."""
    shares = {"carina": (0.54, 0.41, 0.53), "rechte Hüfte": (0.39, 0.54, 0.37)}
    return {name: scan.volume.grid.ras(np.multiply(share, scan.volume.grid.shape)) for name, share in shares.items()}


def frame_of(scan: Scan) -> str:
    assert scan.series is not None
    return scan.series.slices[0].owners["FrameOfReferenceUID"]


def written(path: Path, *groups: Sequence[pydicom.Dataset]) -> Path:
    path.write_bytes(encode_dicom(report(groups)))
    return path


def named(name: str, point: pydicom.Dataset) -> list[pydicom.Dataset]:
    return [item("TEXT", "Tracking Identifier", name), point]


def test_landmarks_that_the_program_found_come_back_from_its_report(tmp_path: Path, scan: Scan) -> None:
    pytest.importorskip("highdicom")
    assert scan.series is not None
    places = inside(scan)
    found = tuple(LandmarkDetection(name, place, 2.0, 28, ("a",), 6.0, 0.9) for name, place in places.items())
    boxes = detections_of(scan.series)
    save_sr(tmp_path / "a.dcm", replace(boxes, landmarks=(*found, AbsentLandmark("chin", 0.02, ("a",)))), scan.series)
    again, (note,) = read_landmarks_with_notes(tmp_path / "a.dcm", scan)
    assert list(again) == list(places)
    for name, place in places.items():
        np.testing.assert_allclose(again[name], place, atol=1e-3)
    assert "Landmarks: carina, rechte Hüfte. Left out: liver (a shape, no point), rene è/1" in note
    save_sr(tmp_path / "a.dcm", boxes, scan.series)
    refusal(lambda: read_landmarks(tmp_path / "a.dcm", scan), "without points")


def test_points_on_images_that_highdicom_writes(tmp_path: Path, scan: Scan) -> None:
    """Its transformer tells where a place of an image lies."""
    hd = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes

    assert scan.series is not None
    headers = scan.series.headers
    places, groups = {}, []
    for n in (0, 7, len(scan.series.slices) - 1):
        plane = scan.series.slices[n]
        assert plane.position_lps is not None and plane.axes_lps is not None and plane.spacing_mm is not None
        column_row = np.array([[6.25 + n / 2, 11.5]])
        to_lps = hd.spatial.ImageToReferenceTransformer(
            plane.position_lps.tolist(), plane.axes_lps.tolist(), plane.spacing_mm.tolist()
        )
        places[f"point {n}"] = to_lps(column_row)[0] * [-1, -1, 1]
        frames = None if plane.frame is None else [plane.frame + 1]
        region = hd.sr.ImageRegion(
            "POINT", column_row, hd.sr.SourceImageForRegion(plane.sop_class, plane.sop_uid, frames)
        )
        tracking = hd.sr.TrackingIdentifier(uid=pydicom.uid.generate_uid(), identifier=f"point {n}")
        groups.append(
            hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                tracking, region, finding_type=codes.SCT.AnatomicalStructure
            )
        )
    person = hd.sr.ObserverContext(codes.DCM.Person, hd.sr.PersonObserverIdentifyingAttributes("Doe^Jane"))
    content = hd.sr.MeasurementReport(
        hd.sr.ObservationContext(observer_person_context=person), codes.LN.CTUnspecifiedBodyRegion, groups
    )
    options: dict[str, Any] = {"evidence": headers, "content": content, "series_number": 5, "instance_number": 1}
    hd.sr.Comprehensive3DSR(
        **options, series_instance_uid="1.2.3.41", sop_instance_uid="1.2.3.42", manufacturer="A"
    ).save_as(tmp_path / "a.dcm")
    again = read_landmarks(tmp_path / "a.dcm", scan)
    assert list(again) == list(places)
    for name, place in places.items():
        np.testing.assert_allclose(again[name], place, atol=1e-3)


def test_a_point_is_called_as_what_it_tracks_or_as_what_was_found(tmp_path: Path) -> None:
    scan = scan_in(tmp_path, "oblique")
    (place, *_), frame = inside(scan).values(), frame_of(scan)
    point = point_in_space(lps_from_ras(place), frame)
    carina, lung = item("CODE", "Finding", "Carina"), item("CODE", "Finding Site", "Lung")
    tool = item("TEXT", "Tracking Identifier", "Cornerstone3DTools@^0.1.0:Probe")
    for group, name in (
        ([item("TEXT", "Tracking Identifier", " tip "), carina, point], "tip"),
        ([lung, carina, point], "Carina"),
        ([lung, point], "Lung"),
        ([tool, carina, point], "Carina"),
    ):
        found = read_landmarks(written(tmp_path / "a.dcm", group), scan)
        assert list(found) == [name]
        np.testing.assert_allclose(found[name], place, atol=1e-3)
    refusal(lambda: read_landmarks(written(tmp_path / "a.dcm", [tool, point]), scan), "point without a name")


def test_a_report_belongs_to_its_scan(tmp_path: Path) -> None:
    scan = scan_in(tmp_path, "axial")
    assert scan.series is not None
    places, frame = {name: lps_from_ras(place) for name, place in inside(scan).items()}, frame_of(scan)
    mine, other = (named("carina", point_in_space(places["carina"], uid)) for uid in (frame, "1.2.99"))
    path = tmp_path / "a.dcm"
    refusal(lambda: read_landmarks(written(path, other), scan), "in another frame of reference than the scan")
    away = named("chin", point_on_image([5, 5], "1.2.98"))
    refusal(lambda: read_landmarks(written(path, away), scan), "on images of another series")
    # Of a report on two scans, such as one before and one after, the points of this one count.
    found, (note,) = read_landmarks_with_notes(written(path, away, mine), scan)
    assert list(found) == ["carina"] and "Left out: chin (of another scan)" in note
    refusal(lambda: read_landmarks(written(path, mine)), "Give the scan on which they were marked")
    no_dicom = Scan(scan.volume)
    found, (note,) = read_landmarks_with_notes(written(path, mine), no_dicom)
    np.testing.assert_allclose(found["carina"], inside(scan)["carina"], atol=1e-3)
    assert "could not be checked" in note
    refusal(lambda: read_landmarks(written(path, mine, away), no_dicom), "the scan is not DICOM")
    twice = named("chin", point_in_space(places["carina"], "1.2.99"))
    refusal(lambda: read_landmarks(written(path, mine, twice), no_dicom), "2 frames of reference")


def test_a_point_names_its_frame_of_a_file_with_many(tmp_path: Path) -> None:
    scan = scan_in(tmp_path, "multi-frame")
    assert scan.series is not None
    plane = scan.series.slices[3]
    assert plane.frame is not None
    group = named("tip", point_on_image([0.5, 0.5], plane.sop_uid, plane.frame + 1))
    found = read_landmarks(written(tmp_path / "a.dcm", group), scan)
    np.testing.assert_allclose(found["tip"], plane.grid.ras([0, 0, 0]), atol=1e-3)
    for number in (None, 999):
        group = named("tip", point_on_image([0.5, 0.5], plane.sop_uid, number))
        refusal(lambda group=group: read_landmarks(written(tmp_path / "a.dcm", group), scan), "on which frame")
    several = point_on_image([0.5, 0.5], plane.sop_uid, 1)
    several.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber = [1, 2]
    refusal(lambda: read_landmarks(written(tmp_path / "a.dcm", named("tip", several)), scan), "lie on one image")


def test_what_is_no_report_of_points_is_refused(tmp_path: Path) -> None:
    scan = scan_in(tmp_path, "axial")
    slice_file = next((tmp_path / "series").iterdir())
    refusal(lambda: read_landmarks(slice_file, scan), "no structured report")
    path = written(tmp_path / "a.dcm", named("tip", point_in_space([0.0, 0, 330], frame_of(scan))))
    refusal(lambda: rprloc.read_annotation(path, scan), "goes with --landmarks")
    point = point_in_space([0.0, 0, 330], frame_of(scan))
    point.GraphicData = [0.0, float("nan"), 330.0]
    refusal(lambda: read_landmarks(written(path, named("tip", point)), scan), "tip is not one point of 3 numbers")
    beside = point_on_image([30.1, 5], pydicom.dcmread(slice_file).SOPInstanceUID)
    refusal(lambda: read_landmarks(written(path, named("tip", beside)), scan), "tip lies beside the image")


def test_a_report_goes_through_the_command_line(example: ExampleFiles, tmp_path: Path) -> None:
    scan = scan_in(tmp_path, "axial")
    place = inside(scan)["carina"]
    path = written(tmp_path / "a.dcm", named("carina", point_in_space(lps_from_ras(place), frame_of(scan))))
    found = read_example(tmp_path / "series", landmarks=path)
    np.testing.assert_allclose(found.annotation.landmarks_ras["carina"], place, atol=1e-3)
    build = ["support", "build", "--image", tmp_path / "series", "--model", example.weights, "--device", "cpu"]
    done = run_command(*build, "--landmarks", path, "--out", tmp_path / "set.json")
    assert done.exit_code == 0, done.stderr
    assert "a.dcm is a DICOM structured report. Landmarks: carina." in done.stdout
    learned = rprloc.SupportSet.load(tmp_path / "set.json").supports[0].landmarks
    np.testing.assert_allclose(learned["carina"].point_ras, place, atol=1e-3)
