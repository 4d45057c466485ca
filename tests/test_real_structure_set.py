"""A structure set of a planning system, read beside what another program makes of its contours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Outline
from pydicom.dataset import FileDataset

from rprloc.annotation import Annotation
from rprloc.geometry import Box, ras_from_lps
from rprloc.io.annotations import read_annotation
from rprloc.io.archive import unpack
from rprloc.io.reading import Scan, read_scan
from tests.refusals import refusal
from tests.scans import MORE

pytestmark = pytest.mark.slow
ARCHIVE = MORE / "dicom" / "lung1_001.zip"


@pytest.fixture(scope="module")
def scan() -> Scan:
    if not ARCHIVE.is_file():
        pytest.skip("the archive with a structure set of a planning system is not on this machine")
    return read_scan(ARCHIVE)


@pytest.fixture(scope="module")
def found(scan: Scan) -> Annotation:
    return read_annotation(ARCHIVE, scan)


@pytest.fixture(scope="module")
def data() -> FileDataset:
    """The structure set as pydicom reads it."""
    kept = unpack(ARCHIVE)
    (path,) = (file for file, name in kept.names.items() if "rtstruct" in str(name) and name.suffix == ".dcm")
    return pydicom.dcmread(path)


def test_every_structure_is_taken(found: Annotation) -> None:
    assert list(found.masks) == ["GTV-1", "Spinal-Cord", "Lung-Left", "Lung-Right"]
    assert "Left out" not in found.notes[0]


def test_boxes_are_those_of_the_contours_to_half_a_voxel(scan: Scan, found: Annotation, data: FileDataset) -> None:
    """A contour stands for its slice: the outermost slices reach beyond their planes by half of their distance."""
    half_mm = scan.volume.grid.half_voxel_ras_mm
    for roi, drawn in zip(data.StructureSetROISequence, data.ROIContourSequence, strict=True):
        lines = [np.array(line.ContourData, float).reshape(-1, 3) for line in drawn.ContourSequence]
        points_ras = ras_from_lps(np.concatenate(lines))
        box = Box.from_extreme_points(found.points_ras[roi.ROIName])
        assert (np.abs(box.min_ras - points_ras.min(0) + [0, 0, half_mm[2]]) <= half_mm + 0.02).all(), roi.ROIName
        assert (np.abs(box.max_ras - points_ras.max(0) - [0, 0, half_mm[2]]) <= half_mm + 0.02).all(), roi.ROIName


def test_voxels_are_those_that_matplotlib_finds_inside(scan: Scan, found: Annotation, data: FileDataset) -> None:
    """Slice by slice, as odd and even: a contour in a contour is a hole. They may differ on the very outline."""
    grid = scan.volume.grid
    for roi, drawn in zip(data.StructureSetROISequence, data.ROIContourSequence, strict=True):
        mask = found.masks[roi.ROIName]
        ij = np.stack(np.meshgrid(*(np.arange(n) for n in mask.voxels.shape[:2]), indexing="ij"), -1).reshape(-1, 2)
        for k in range(0, mask.voxels.shape[2], 7):
            inside = np.zeros(len(ij), int)
            for line in drawn.ContourSequence:
                points_ijk = mask.grid.ijk(ras_from_lps(np.array(line.ContourData, float).reshape(-1, 3)))
                if abs(points_ijk[0, 2] - k) < 0.1:
                    inside += Outline(points_ijk[:, :2], closed=False).contains_points(ij)
            differ = (inside % 2).astype(bool) != mask.voxels[:, :, k].ravel()
            assert differ.mean() < 0.004, (roi.ROIName, k)
    assert grid.shape[2] == 134


def test_it_is_refused_for_another_scan(tmp_path: Path, scan: Scan, data: FileDataset) -> None:
    for frame, images in (("1.2.3", False), ("", True)):
        other = pydicom.dcmread(pydicom.filebase.DicomBytesIO(_bytes(data)))
        for roi in other.StructureSetROISequence:
            roi.ReferencedFrameOfReferenceUID = frame or roi.ReferencedFrameOfReferenceUID
        if images:
            study = other.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
            del study.RTReferencedSeriesSequence[0].ContourImageSequence
            for drawn in other.ROIContourSequence:
                for line in drawn.ContourSequence:
                    line.ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"
        other.save_as(tmp_path / "a.dcm", enforce_file_format=True)
        refusal(lambda: read_annotation(tmp_path / "a.dcm", scan), "another series" if images else "another frame")


def _bytes(data: FileDataset) -> bytes:
    stream = pydicom.filebase.DicomBytesIO()
    data.save_as(stream, enforce_file_format=True)
    return bytes(stream.getvalue())
