"""The module tells reasons to doubt an example, and leaves specks of a segment out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprloc.annotation import Marking
from rprloc.geometry import Grid, extreme_points_of_mask
from rprloc.localization.support import SupportSet
from tests.command_line import rprloc
from tests.example import ExampleFiles
from tests.slicer_module.scenes import NO_SLICER, Scene, locate_all, mark, rigid, run_to_end, segmentation

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


def test_undo_brings_back_from_which_segment_an_example_is_and_what_to_doubt(
    scene: Scene, logic: RPRLocLogic, anna: Any
) -> None:
    grid: Grid = nodes.grid_of(anna)
    speckled = np.zeros(grid.shape, bool)
    speckled[10:20, 8:16, 5:15] = speckled[0, 0, 0] = True
    node = segmentation(scene, speckled, grid)
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    example = logic.examples.add_from_segment(anna, node, segment_id)
    logic.history.record()
    name, told = nodes.organ_of(example), logic.examples.guidance(example).text
    assert "apart from" in told
    logic.examples.set_points(logic.examples.add(anna, "other"), nodes.defined_points(example))
    logic.history.undo()  # it is about another example
    assert logic.examples.guidance(example).text == told
    logic.examples.remove(example)
    logic.history.undo()
    back = logic.examples.find(anna, name)
    assert logic.examples.guidance(back).text == told and logic.examples.segment_of(back) == (node, segment_id)
    nodes.remove(node)  # that is no step of this module
    assert logic.examples.segment_of(back) == (None, segment_id)
    logic.history.record()
    logic.history.undo()
    assert logic.examples.all() == []


def test_undo_goes_on_where_the_scan_of_an_example_is_bent_by_now(scene: Scene, logic: RPRLocLogic, anna: Any) -> None:
    mark(logic, anna)
    logic.history.record()
    bert = scene.add_volume(np.zeros((9, 9, 9), np.int16), nodes.grid_of(anna).cropped((0, 0, 0), (9, 9, 9)), "bert")
    logic.examples.add(bert, "heart")
    scene.transform(np.eye(4) + np.eye(4, k=1) * 0.5, anna)  # sheared
    logic.history.undo()
    assert [nodes.volume_of(example) for example in logic.examples.all()] == [anna]


# A segment gives its outline, not its six points alone


def from_segment(scene: Scene, logic: RPRLocLogic, volume: Any, moved: bool = False) -> tuple[Any, Any]:
    """The bone of a volume as an example that was taken from a segment, and the segmentation."""
    scan = nodes.volume_from_node(volume)
    node = segmentation(scene, scan.hu == 700, scan.grid)
    if moved:
        scene.transform(rigid(), volume, node)
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    node.GetSegmentation().GetSegment(segment_id).SetName("bone")
    return logic.examples.add_from_segment(volume, node, segment_id), node


def saved_set(logic: RPRLocLogic, path: Path) -> tuple[Any, str]:
    logic.save_support_set(path)
    update = run_to_end(logic)
    assert not update.failed, update.summary
    return SupportSet.load(path), update.summary


@pytest.mark.parametrize("moved", [False, True], ids=["as loaded", "under a transform"])
def test_a_segment_gives_the_set_that_a_label_map_gives(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, tmp_path: Path, moved: bool
) -> None:
    """Under a transform the set is another, because the scan lies elsewhere, but the outline still counts."""
    from_segment(scene, logic, anna, moved)
    built, summary = saved_set(logic, tmp_path / "set.json")
    (support,) = built.supports
    assert support.marking is Marking.LABEL_MAP and "alone" not in summary
    if not moved:
        labels, names = ["--labels", example.labels], tmp_path / "names.json"
        names.write_text('{"1": "bone"}', encoding="utf-8")
        model = ["--model", example.weights, "--device", "cpu"]
        build = ["support", "build", "--image", example.image, *labels, "--names", names]
        assert rprloc(*build, "--out", tmp_path / "cli.json", *model).exit_code == 0
        (wanted,) = SupportSet.load(tmp_path / "cli.json").supports
        np.testing.assert_allclose(support.organs["bone"].anchors_ras, wanted.organs["bone"].anchors_ras, atol=1e-6)
        ours, theirs = support.organs["bone"].appearance, wanted.organs["bone"].appearance
        assert len(ours.outline_body_mm) > 0
        # In any order, because Slicer turns an axis of this scan round.
        apart_mm = np.linalg.norm(ours.outline_body_mm[:, None] - theirs.outline_body_mm[None], axis=-1)
        assert ours.outline_body_mm.shape == theirs.outline_body_mm.shape and apart_mm.min(1).max() < 0.01
        np.testing.assert_allclose(ours.occupancy.astype(float), theirs.occupancy.astype(float), atol=1.0)


def test_a_point_that_was_moved_counts_alone_and_is_told(
    scene: Scene, logic: RPRLocLogic, anna: Any, tmp_path: Path
) -> None:
    example, _ = from_segment(scene, logic, anna)
    points_ras = logic.examples.points(example)
    example.SetNthControlPointPositionWorld(0, *(points_ras[0] - [1.0, 0, 0]))
    logic.examples.points_changed(example)
    built, summary = saved_set(logic, tmp_path / "set.json")
    assert built.supports[0].marking is Marking.EXTREME_POINTS
    assert "The points of bone are not those of its mask any more" in summary


def test_a_segment_that_is_gone_or_drawn_on_is_told(
    scene: Scene, logic: RPRLocLogic, anna: Any, tmp_path: Path
) -> None:
    _, node = from_segment(scene, logic, anna)
    scene.mrml.RemoveNode(node)
    built, summary = saved_set(logic, tmp_path / "set.json")
    assert built.supports[0].marking is Marking.EXTREME_POINTS
    assert "The points alone count for bone: its segmentation is gone" in summary


def test_marked_and_drawn_organs_go_into_one_support(
    scene: Scene, logic: RPRLocLogic, anna: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    from_segment(scene, logic, anna)
    mark(logic, anna, "heart")
    built, _ = saved_set(logic, tmp_path / "set.json")
    (support,) = built.supports
    assert set(support.organs) == {"bone", "heart"} and support.marking is Marking.MIXED
    assert list(tmp_path.glob("rprloc-*/mask*")) == []
