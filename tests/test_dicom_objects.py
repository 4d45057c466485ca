"""What DICOM results need of the series they refer to, and what they do without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from rprloc.detection import Detections, OrganDetection
from rprloc.geometry import Box
from rprloc.io.dicom_export import DICOM_WRITERS
from rprloc.io.reading import read_scan
from tests.boxes import points_of
from tests.dicoms import edited, write_series
from tests.odd_dicoms import without_preamble
from tests.refusals import refusal


def found_in(series) -> Detections:  # type: ignore[no-untyped-def]
    centre = np.mean([one.grid.bounds.centre_ras for one in series.slices], axis=0)
    box = Box(centre - 20.0, centre + 20.0)
    return Detections("q", (OrganDetection("liver", points_of(box), np.full(6, 2.5), 1, ("a",)),), "model", "set")


@pytest.mark.parametrize("kind", list(DICOM_WRITERS))
def test_results_for_a_series_that_uses_a_uid_twice_are_refused(tmp_path: Path, hu: np.ndarray, kind: str) -> None:
    pytest.importorskip("highdicom")
    write_series(tmp_path / "series", hu, edited(SOPInstanceUID=lambda k, old: "1.2.3" if k in (4, 9) else old))
    series = read_scan(tmp_path / "series").series
    refusal(lambda: DICOM_WRITERS[kind](tmp_path / "q.dcm", found_in(series), series), "SOPInstanceUID", "1 of the 20")
    assert not (tmp_path / "q.dcm").exists()


@pytest.mark.parametrize("kind", list(DICOM_WRITERS))
@pytest.mark.parametrize("date", ["19700000", "1970", "197001", "unknown", "1970.01.02", "19701301"])
def test_a_partial_date_is_left_empty_in_results(tmp_path: Path, hu: np.ndarray, kind: str, date: str) -> None:
    pytest.importorskip("highdicom")
    with pydicom.config.disable_value_validation():
        write_series(tmp_path / "series", hu, edited(PatientBirthDate=lambda k, old: date))
    series = read_scan(tmp_path / "series").series
    assert series is not None
    DICOM_WRITERS[kind](tmp_path / "q.dcm", found_in(series), series)
    written = pydicom.dcmread(tmp_path / "q.dcm")
    assert written.PatientBirthDate in ("", None) and written.StudyDate == "20200304"
    assert written.StudyTime == "101112"


@pytest.mark.parametrize("kind", list(DICOM_WRITERS))
def test_results_refer_to_slices_without_a_meta_header(tmp_path: Path, hu: np.ndarray, kind: str) -> None:
    pytest.importorskip("highdicom")
    write_series(tmp_path / "series", hu)
    for path in (tmp_path / "series").iterdir():
        without_preamble(path)
    series = read_scan(tmp_path / "series").series
    assert series is not None
    DICOM_WRITERS[kind](tmp_path / "q.dcm", found_in(series), series)
    assert pydicom.dcmread(tmp_path / "q.dcm").StudyInstanceUID == "1.2.3"
