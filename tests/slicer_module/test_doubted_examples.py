"""The module tells reasons to doubt an example, and leaves specks of a segment out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprloc.geometry import Grid, extreme_points_of_mask
from tests.slicer_module.scenes import NO_SLICER, Scene, locate_all, mark, run_to_end, segmentation

pytest.importorskip("slicer", reason=NO_SLICER)

from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.logic import RPRLocLogic

CUT = "The example of heart is cut by its scan's upper end, so the box may be too small."


def mark_cut_heart(logic: RPRLocLogic, volume: Any) -> None:
    """A heart that reaches the top of the scan."""
    example = logic.examples.add(volume, "heart")
    bounds = nodes.grid_of(volume).bounds
    points_ras = np.tile(bounds.centre_ras, (6, 1))
    points_ras[np.arange(6), np.arange(6) // 2] += np.tile([-20.0, 20.0], 3)
    points_ras[5, 2] = bounds.max_ras[2]
    logic.examples.set_points(example, points_ras)


def test_the_end_of_a_run_tells_of_an_organ_that_the_examples_scan_cuts(logic: RPRLocLogic, anna: Any) -> None:
    mark_cut_heart(logic, anna)
    assert f"anna: {CUT}" in (locate_all(logic, anna).summary or "")


def test_saving_a_set_tells_of_it_too(logic: RPRLocLogic, anna: Any, tmp_path: Path) -> None:
    mark_cut_heart(logic, anna)
    logic.save_support_set(tmp_path / "set.json")
    assert f"anna: {CUT}" in (run_to_end(logic).summary or "")


def test_nothing_is_told_of_an_example_without_doubts(logic: RPRLocLogic, anna: Any, tmp_path: Path) -> None:
    mark(logic, anna)
    logic.save_support_set(tmp_path / "set.json")
    assert run_to_end(logic).summary == f"The support set is written to {tmp_path / 'set.json'}."


def test_specks_of_a_segment_are_left_out_and_told(scene: Scene, logic: RPRLocLogic, anna: Any) -> None:
    grid: Grid = nodes.grid_of(anna)
    organ = np.zeros(grid.shape, bool)
    organ[10:20, 8:16, 5:15] = True
    speckled = organ.copy()
    speckled[0, 0, 0] = True
    for mask, told in ((speckled, "The label of liver has 1 voxel apart from the organ"), (organ, "")):
        node = segmentation(scene, mask, grid)
        segment_id = node.GetSegmentation().GetNthSegmentID(0)
        node.GetSegmentation().GetSegment(segment_id).SetName("liver")
        example = logic.examples.add_from_segment(anna, node, segment_id)
        expected = extreme_points_of_mask(organ, grid)
        np.testing.assert_allclose(logic.examples.points(example), expected, atol=1e-6)
        text = logic.examples.guidance(example).text
        assert told in text and ("apart from" in text) == bool(told)
