"""Several scans in one DICOM series: those that lie in each other are refused, those end to end are one scan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset

from rprloc.io.reading import read_scan, read_volume
from tests.command_line import rprloc
from tests.dicoms import multi_frame, write_series
from tests.refusals import refusal


def interleaved(hu: np.ndarray, **tags: Callable[[int], object]) -> Callable[[int, FileDataset], None]:
    """Two phases half a step apart: slice k belongs to phase k % 2, and each tag is a function of the phase."""

    def change(k: int, data: FileDataset) -> None:
        data.ImagePositionPatient = [-60, -50, 300 + 3 * k]
        for name, value in tags.items():
            setattr(data, name, value(k % 2))

    return change


PHASES: dict[str, dict[str, Callable[[int], object]]] = {
    "acquisition number": {"AcquisitionNumber": lambda phase: 1 + phase},
    "temporal position": {"TemporalPositionIdentifier": lambda phase: 1 + phase},
    "acquisition time": {"AcquisitionTime": lambda phase: ("101113.25", "102613.5")[phase]},
    "content time": {"ContentTime": lambda phase: ("101113", "101158")[phase]},
    "content time, three seconds apart": {"ContentTime": lambda phase: ("101113", "101116")[phase]},
    "image type": {"ImageType": lambda phase: ["ORIGINAL", "PRIMARY", "AXIAL", f"PHASE {phase}"]},
    "cardiac phase": {"NominalPercentageOfCardiacPhase": lambda phase: 40 + 30 * phase},
    "kernel": {"ConvolutionKernel": lambda phase: ("B30f", "B70f")[phase]},
    "tube voltage": {"KVP": lambda phase: (80, 140)[phase]},
}


@pytest.mark.parametrize("tags", PHASES.values(), ids=PHASES.keys())
def test_phases_that_lie_in_each_other_are_refused(tmp_path: Path, hu: np.ndarray, tags) -> None:
    twice = np.repeat(hu, 2, axis=2)
    write_series(tmp_path, twice, interleaved(twice, **tags))
    refusal(lambda: read_volume(tmp_path), "lie in each other", "Export one of them")
    assert "cannot be read" in rprloc("series", tmp_path).stdout


@pytest.mark.parametrize("tag", ["AcquisitionTime", "ContentTime"])
def test_phases_whose_slices_each_have_a_time_are_refused(tmp_path: Path, hu: np.ndarray, tag: str) -> None:
    def change(k: int, data: FileDataset) -> None:
        data.ImagePositionPatient = [-60, -50, 300 + 3 * k]
        setattr(data, tag, f"1{(k % 2):01d}{20:02d}{k:02d}.5")

    write_series(tmp_path, np.repeat(hu, 2, axis=2), change)
    refusal(lambda: read_volume(tmp_path), "lie in each other", "time")


def test_an_acquisition_that_lies_in_another_at_its_end_is_refused(tmp_path: Path, hu: np.ndarray) -> None:
    """The places are as even as those of one scan: slices of both alternate for a while."""

    def change(k: int, data: FileDataset) -> None:
        data.AcquisitionNumber = 1 if k < 8 else 2 if k > 12 else 1 + k % 2

    write_series(tmp_path, hu, change)
    refusal(lambda: read_volume(tmp_path), "acquisition number")


@pytest.mark.parametrize("slices", [1, 4, 10], ids=["a slice each", "four slices each", "two halves"])
def test_passes_end_to_end_are_one_scan(tmp_path: Path, hu: np.ndarray, slices: int) -> None:
    def change(k: int, data: FileDataset) -> None:
        data.AcquisitionNumber = 1 + k // slices
        data.AcquisitionTime = f"10{k // slices:02d}{k:02d}"
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", f"PASS {k // slices}"]

    write_series(tmp_path, hu, change)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.volume.hu, hu)
    assert scan.warnings == ()


def test_slices_that_were_computed_side_by_side_are_one_scan(tmp_path: Path, hu: np.ndarray) -> None:
    """Four computers each take every fourth slice, a few seconds apart."""

    def change(k: int, data: FileDataset) -> None:
        data.ContentTime = f"1011{3 * (k % 4) + k:02d}"

    write_series(tmp_path, hu, change)
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)


@pytest.mark.parametrize("place", ["FrameAcquisitionNumber", "TemporalPositionIndex", "FrameAcquisitionDateTime"])
def test_phases_in_a_multi_frame_file_are_refused(tmp_path: Path, hu: np.ndarray, place: str) -> None:
    pytest.importorskip("highdicom")
    write_series(tmp_path / "series", hu)
    multi_frame(tmp_path / "series", tmp_path / "enhanced.dcm")
    data = pydicom.dcmread(tmp_path / "enhanced.dcm")
    for group in data.PerFrameFunctionalGroupsSequence:
        phase = round(float(group.PlanePositionSequence[0].ImagePositionPatient[2]) / 6) % 2
        content = group.FrameContentSequence[0]
        values = {"FrameAcquisitionNumber": 1 + phase, "TemporalPositionIndex": 1 + phase}
        setattr(content, place, values.get(place, f"202003041{phase}1112.5"))
    data.save_as(tmp_path / "enhanced.dcm")
    refusal(lambda: read_volume(tmp_path / "enhanced.dcm"), "lie in each other", "frame")
