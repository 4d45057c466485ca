"""Annotations of every form, read back: the same voxels at the same places as the organ in a label map."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from rprloc.annotation import Annotation, Marking, Mask
from rprloc.geometry import Box, Grid
from rprloc.io.annotations import read_annotation
from rprloc.io.dicom_export import save_rtstruct, save_seg
from rprloc.io.reading import Scan, read_scan
from rprloc.volume import Volume
from scripts.robustness.annotation_writers import (
    contours_of,
    encode_dicom,
    segmentation,
    slicer_segmentation,
    structure_set,
)
from tests.dicoms import SERIES, edited, multi_frame, write_series
from tests.images import write
from tests.phantoms import AFFINES, SHAPE, phantom_hu
from tests.refusals import refusal
from tests.test_dicom_export import detections_of

Writer = Callable[[Path, dict[str, np.ndarray], Scan], Path]
WORLD = Grid(SHAPE, np.diag([4.0, 5, 6, 1]))


def scan_of(grid: Grid) -> Scan:
    """A scan that no file says anything of."""
    return Scan(Volume(phantom_hu(grid), grid, "phantom"))


def organs_of(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """A ring, which has a hole, and a lump in two pieces that overlaps with it."""
    i, j, k = np.indices(shape)
    away = ((i - 14) / 8) ** 2 + ((j - 11) / 6) ** 2
    ring = (away < 1) & (away > 0.25) & (k > 4) & (k < 12)
    lump = ((i - 20) ** 2 + (j - 12) ** 2 + (k - 10) ** 2 < 20) | ((i < 5) & (i > 1) & (j > 16) & (j < 20) & (k == 10))
    return {"ring": ring, "lump": lump}


def voxels_of(mask: Mask) -> np.ndarray:
    """The places of all voxels of a mask, in an order that tells nothing of how it is stored."""
    places = np.round(mask.grid.ras(np.argwhere(mask.voxels)), 2) + 0.0
    return places[np.lexsort(places.T)]


def box_of(points_ras: np.ndarray) -> Box:
    return Box.from_extreme_points(points_ras)


def assert_same(found: Annotation, organs: dict[str, np.ndarray], grid: Grid, atol: float = 0.02) -> None:
    """The same voxels, in any order of axes, and so the same box."""
    assert list(found.points_ras) == list(found.masks) == list(organs) and found.marking == Marking.LABEL_MAP
    for organ, voxels in organs.items():
        truth = Annotation.from_labels(voxels.astype(np.uint8), grid, {1: organ})
        theirs = voxels_of(truth.masks[organ])
        ours = voxels_of(found.masks[organ])
        assert len(ours) == len(theirs)
        gaps = np.abs(found.masks[organ].grid.ijk(theirs) - np.rint(found.masks[organ].grid.ijk(theirs)))
        assert gaps.max() < 0.05
        np.testing.assert_allclose(
            box_of(found.points_ras[organ]).walls_mm, box_of(truth.points_ras[organ]).walls_mm, atol=atol
        )


# Structure sets and segmentations without a DICOM scan.


def write_rtstruct(path: Path, organs: dict[str, np.ndarray], grid: Grid) -> Path:
    path.write_bytes(encode_dicom(structure_set({n: contours_of(m, grid) for n, m in organs.items()}, [], "1.2.3.5")))
    return path


def test_contours_become_the_voxels_around_which_they_are_drawn(
    tmp_path: Path, ras_from_ijk: np.ndarray, store_otherwise
) -> None:
    """The scan may be stored in any order; the contours then lie across any of its axes."""
    grid = Grid(SHAPE, ras_from_ijk)
    organs = organs_of(SHAPE)
    _, stored = store_otherwise(np.zeros(SHAPE), grid)
    found = read_annotation(write_rtstruct(tmp_path / "a.dcm", organs, grid), scan_of(stored))
    assert_same(found, organs, grid)
    assert "could not be checked" in found.notes[0]


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segments_keep_the_voxels_of_their_own_grid(tmp_path: Path, ras_from_ijk: np.ndarray, kind: str) -> None:
    grid, organs = Grid(SHAPE, ras_from_ijk), organs_of(SHAPE)
    if kind == "LABELMAP":
        organs["lump"] = organs["lump"] & ~organs["ring"]
    around = Grid.isotropic((160, 160, 160), 2.0, grid.bounds.centre_ras - 160.0)
    (tmp_path / "a.dcm").write_bytes(encode_dicom(segmentation(organs, grid, "1.2.3.5", kind)))
    assert_same(read_annotation(tmp_path / "a.dcm", scan_of(around)), organs, grid)


def test_segments_in_layers_keep_the_voxels_of_their_own_grid(tmp_path: Path, ras_from_ijk: np.ndarray) -> None:
    grid, organs = Grid(SHAPE, ras_from_ijk), organs_of(SHAPE)
    around = Grid.isotropic((160, 160, 160), 2.0, grid.bounds.centre_ras - 160.0)
    keys = {"Segment0_Name": "ring", "Segment0_LabelValue": 3, "Segment0_Layer": 1}
    keys |= {"Segment1_Name": "lump", "Segment1_LabelValue": 1, "Segment1_Layer": 0}
    layers = np.stack([organs["lump"].astype(np.uint8), 3 * organs["ring"].astype(np.uint8)])
    (tmp_path / "a.seg.nrrd").write_bytes(slicer_segmentation(layers, grid, keys))
    assert_same(read_annotation(tmp_path / "a.seg.nrrd", scan_of(around)), organs, grid)
    old = {"Segment0_Name": "lump", "Segment1_Name": "ring"}  # of Slicer 4.10: a layer for each, without numbers
    (tmp_path / "a.seg.nrrd").write_bytes(slicer_segmentation(layers > 0, grid, old))
    found = read_annotation(tmp_path / "a.seg.nrrd", scan_of(around), organs=["ring", "lump"])
    assert_same(found, organs, grid)


def test_contours_at_an_angle_to_the_scan_get_a_grid_of_their_own(tmp_path: Path) -> None:
    grid, organs = Grid(SHAPE, AFFINES["oblique"]), organs_of(SHAPE)
    scan = scan_of(Grid.isotropic((80, 80, 80), 1.5, grid.bounds.centre_ras - 60.0))
    found = read_annotation(write_rtstruct(tmp_path / "a.dcm", organs, grid), scan)
    for organ, voxels in organs.items():
        truth = Annotation.from_labels(voxels.astype(np.uint8), grid, {1: organ})
        off_mm = box_of(found.points_ras[organ]).wall_distances_mm(box_of(truth.points_ras[organ]))
        assert (off_mm <= np.repeat(grid.half_voxel_ras_mm, 2)).all()


# On DICOM series.


@pytest.fixture(params=[*SERIES, "uneven"])
def scan(request: pytest.FixtureRequest, tmp_path: Path) -> Scan:
    """A series, axial or otherwise."""
    change = SERIES.get(request.param)
    if change is None:
        heights = [6 * k if k < 10 else 54 + 12 * (k - 9) for k in range(SHAPE[2])]
        change = edited(ImagePositionPatient=lambda k, old: [-60, -50, 300 + heights[k]])
    write_series(tmp_path / "series", phantom_hu(WORLD), change)
    return read_scan(tmp_path / "series")


def images_of(scan: Scan) -> list[str]:
    assert scan.series is not None
    return [plane.sop_uid for plane in scan.series.slices]


def frame_of(scan: Scan) -> str:
    assert scan.series is not None
    return scan.series.slices[0].owners["FrameOfReferenceUID"]


def drawn_on(scan: Scan, organs: dict[str, np.ndarray]) -> dict[str, list]:
    """Contours on the slices of the series itself, which may be tilted or unevenly spaced."""
    assert scan.series is not None
    contours: dict[str, list] = {organ: [] for organ in organs}
    for organ, voxels in organs.items():
        for k, plane in enumerate(scan.series.slices):
            contours[organ] += [(k, points_lps) for _, points_lps in contours_of(voxels[:, :, k : k + 1], plane.grid)]
    return contours


def test_contours_on_the_slices_of_a_series_become_voxels_of_the_scan(tmp_path: Path, scan: Scan) -> None:
    """Box within half a voxel of that around all pixels on the slices, each as thick as the way to its neighbours."""
    assert scan.series is not None
    organs = organs_of(SHAPE)
    data = structure_set(drawn_on(scan, organs), images_of(scan), frame_of(scan))
    (tmp_path / "a.dcm").write_bytes(encode_dicom(data))
    found = read_annotation(tmp_path / "a.dcm", scan)
    grid = scan.volume.grid
    for organ, voxels in organs.items():
        assert found.masks[organ].grid.spacing_mm == pytest.approx(grid.spacing_mm)
        # The outermost centres of pixels on slices, moved out by half a voxel.
        places = np.concatenate(
            [
                plane.grid.ras(np.argwhere(voxels[:, :, k : k + 1]))
                for k, plane in enumerate(scan.series.slices)
                if voxels[:, :, k].any()
            ]
        )
        half_mm = grid.half_voxel_ras_mm
        box = box_of(found.points_ras[organ])
        slack = half_mm + (6.0 if scan.notes and "uneven" in scan.notes[0] else 0.01) * np.array([0, 0, 1]) + 0.01
        assert (np.abs(box.min_ras - (places.min(0) - half_mm)) <= slack).all()
        assert (np.abs(box.max_ras - (places.max(0) + half_mm)) <= slack).all()
        solid = found.masks[organ].voxels.any(axis=(0, 1))
        assert organ == "lump" or solid.all()  # no slice between contours is left out


def test_boxes_written_by_the_program_itself_come_back(tmp_path: Path, scan: Scan) -> None:
    pytest.importorskip("highdicom")
    assert scan.series is not None
    boxes = detections_of(scan.series)
    save_rtstruct(tmp_path / "a.dcm", boxes, scan.series)
    half_mm = np.repeat(scan.volume.grid.half_voxel_ras_mm, 2)
    steps = np.diff([float(plane.position_lps[2]) for plane in scan.series.slices if plane.position_lps is not None])
    half_mm[4:] += np.ptp(steps) / 2
    found = read_annotation(tmp_path / "a.dcm", scan)
    assert list(found.points_ras) == ["liver", "rene è/1"]
    for points_ras, box in zip(found.points_ras.values(), boxes.boxes.values(), strict=True):
        off_mm = box_of(points_ras).wall_distances_mm(box)
        # The voxels of an oblique grid reach beyond the box by their corners.
        assert (off_mm <= 2 * half_mm + 0.01).all()
    save_seg(tmp_path / "b.dcm", boxes, scan.series)
    by_seg = read_annotation(tmp_path / "b.dcm", scan)
    for organ in found.masks:
        off_mm = box_of(by_seg.points_ras[organ]).wall_distances_mm(box_of(found.points_ras[organ]))
        assert (off_mm <= half_mm + 0.01).all()


def test_contours_may_lie_on_the_frames_of_one_file(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    write_series(tmp_path / "series", phantom_hu(WORLD))
    multi_frame(tmp_path / "series", tmp_path / "scan.dcm")
    scan = read_scan(tmp_path / "scan.dcm")
    assert scan.series is not None
    boxes = detections_of(scan.series)
    save_rtstruct(tmp_path / "a.dcm", boxes, scan.series)
    found = read_annotation(tmp_path / "a.dcm", scan)
    for points_ras, box in zip(found.points_ras.values(), boxes.boxes.values(), strict=True):
        assert (box_of(points_ras).wall_distances_mm(box) <= np.repeat(scan.volume.grid.half_voxel_ras_mm, 2)).all()
    data = pydicom.dcmread(tmp_path / "a.dcm")
    contours = data.ROIContourSequence[0].ContourSequence
    contours[0].ContourImageSequence[0].ReferencedFrameNumber = 1
    data.save_as(tmp_path / "a.dcm")
    refusal(lambda: read_annotation(tmp_path / "a.dcm", scan), "away from the image")


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segmentations_of_highdicom(tmp_path: Path, scan: Scan, kind: str) -> None:
    hd = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes

    assert scan.series is not None
    organs = organs_of(SHAPE)
    organs["lump"] = organs["lump"] & ~organs["ring"]
    segments = [
        hd.seg.SegmentDescription(number, name, codes.SCT.AnatomicalStructure, codes.SCT.Organ, "MANUAL")
        for number, name in enumerate(organs, 1)
    ]
    stacked = np.stack([voxels.transpose(2, 1, 0) for voxels in organs.values()], axis=-1)
    pixels = stacked.astype(np.float32) * 0.6 if kind == "FRACTIONAL" else stacked.astype(np.uint8)
    options: dict[str, Any] = {"fractional_type": "PROBABILITY"} if kind == "FRACTIONAL" else {}
    data = hd.seg.Segmentation(
        scan.series.headers, pixels, kind, segments, "1.2.3.41", 1, "1.2.3.42", 1, "A", "B", "1", "2", **options
    )
    data.save_as(tmp_path / "a.dcm")
    assert_on_slices(read_annotation(tmp_path / "a.dcm", scan), organs, scan)


def assert_on_slices(found: Annotation, organs: dict[str, np.ndarray], scan: Scan) -> None:
    """Each pixel of each slice lies in the mask of its organ, and none outside of it does, to half a voxel."""
    assert scan.series is not None and list(found.masks) == list(organs)
    for organ, voxels in organs.items():
        mask = found.masks[organ]
        padded = np.pad(mask.voxels, 1)
        for k, plane in enumerate(scan.series.slices):
            pixels = np.argwhere(np.ones_like(voxels[:, :, k : k + 1]))
            at = np.rint(mask.grid.ijk(plane.grid.ras(pixels)) - 0.01).astype(int) + 1
            at = at.clip(0, np.array(padded.shape) - 1)
            wrong = padded[tuple(at.T)] != voxels[:, :, k].ravel()
            tilted = scan.notes and "tilted" in scan.notes[0]
            assert wrong.mean() <= (0.05 if tilted else 0.0), (organ, k)


def test_segments_of_dcmqi(tmp_path: Path, scan: Scan) -> None:
    if shutil.which("itkimage2segimage") is None:
        pytest.skip("dcmqi is not installed")
    if scan.notes:
        pytest.skip("dcmqi writes no segments of slices that are tilted or unevenly spaced")
    organs = organs_of(SHAPE)
    codes = {"CodeValue": "123037004", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Anatomical Structure"}
    organ = {"CodeValue": "113343008", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Organ"}
    about: dict[str, Any] = {"ContentCreatorName": "A", "SeriesNumber": "5", "segmentAttributes": []}
    for name, voxels in organs.items():
        write(tmp_path / f"{name}.nrrd", voxels.astype(np.uint8), scan.volume.grid.ras_from_ijk)
        segment = {"labelID": 1, "SegmentDescription": name, "SegmentLabel": name, "SegmentAlgorithmType": "MANUAL"}
        segment |= {"SegmentedPropertyCategoryCodeSequence": codes, "SegmentedPropertyTypeCodeSequence": organ}
        about["segmentAttributes"].append([segment])
    (tmp_path / "about.json").write_text(json.dumps(about))
    command = ["itkimage2segimage", "--inputImageList", ",".join(str(tmp_path / f"{name}.nrrd") for name in organs)]
    command += ["--inputDICOMDirectory", str(tmp_path / "series"), "--inputMetadata", str(tmp_path / "about.json")]
    done = subprocess.run(
        [*command, "--outputDICOM", str(tmp_path / "a.dcm")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(read_annotation(tmp_path / "a.dcm", scan), organs, scan.volume.grid)
