"""Segmentations as 3D Slicer itself writes them, read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rprloc.geometry import Grid
from rprloc.io.annotations import read_annotation
from rprloc.io.reading import Scan
from rprloc.volume import Volume
from tests.phantoms import SHAPE, phantom_hu
from tests.slicer_module.scenes import NO_SLICER, Scene, segmentation

pytest.importorskip("slicer", reason=NO_SLICER)


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_segmentation_of_slicer_comes_back(
    scene: Scene, tmp_path: Path, ras_from_ijk: np.ndarray, overlapping: bool
) -> None:
    import slicer

    grid = Grid(SHAPE, ras_from_ijk)
    first, second = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    first[4:12, 5:15, 6:14] = True
    second[(8 if overlapping else 14) : 20, 10:18, 3:9] = True
    node = segmentation(scene, first, grid)
    other = segmentation(scene, second, grid)
    inside = node.GetSegmentation()
    inside.GetNthSegment(0).SetName("Left kidney")
    other.GetSegmentation().GetNthSegment(0).SetName("lump: è")
    inside.CopySegmentFromSegmentation(other.GetSegmentation(), other.GetSegmentation().GetNthSegmentID(0))
    if not overlapping:
        inside.CollapseBinaryLabelmaps(False)
    inside.AddEmptySegment("Segment_9", "nothing")
    assert inside.GetNumberOfLayers("Binary labelmap") >= (2 if overlapping else 1)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(tmp_path / "a.seg.nrrd"))
    assert storage.WriteData(node)
    found = read_annotation(tmp_path / "a.seg.nrrd", Scan(Volume(phantom_hu(grid), grid)), standard_names=True)
    assert list(found.masks) == ["kidney_left", "lump: è"] and "nothing (empty)" in found.notes[0]
    for mask, voxels in zip(found.masks.values(), (first, second), strict=True):
        places = np.rint(grid.ijk(mask.grid.ras(np.argwhere(mask.voxels)))).astype(int)
        whole = np.zeros(SHAPE, bool)
        whole[tuple(places.T)] = True
        np.testing.assert_array_equal(whole, voxels)
