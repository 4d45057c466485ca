"""What corrections teach: boxes become examples, and what is open is located again."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rprloc.detection import AbsentOrgan, Detections, Presence
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid
from tests.example import ExampleFiles
from tests.slicer_module.scenes import NO_SLICER, Scene, bone, locate_all, mark, rigid, run_to_end, serve

pytest.importorskip("slicer", reason=NO_SLICER)

from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.runner import Runner
from SlicerRPRLocLib.teaching import Again, use_as_example


@pytest.fixture
def bert(scene: Scene, anna: Any) -> Any:
    """Another scan than anna: of one scan an organ cannot be marked twice."""
    scan = nodes.volume_from_node(anna)
    hu = scan.hu.copy()
    hu[0, 0, 0] += 5
    return scene.add_volume(hu, scan.grid, "bert")


def correct(roi: Any, walls_mm: Any) -> Box:
    """Give a ROI other walls, as by its handles."""
    low, high = np.reshape(walls_mm, (3, 2)).T
    nodes.set_pose(roi, nodes.pose_of_box(Box(low, high)))
    return nodes.box_of_roi(roi)


def walls(logic: RPRLocLogic, volume: Any, organ: str = "bone") -> Any:
    return nodes.box_of_roi(logic.results.roi(volume, organ)).walls_mm


def states(logic: RPRLocLogic) -> dict[Any, Any]:
    return {logic.results.row(roi).key: logic.results.record(roi) for roi in logic.results.rois()}


def run_again(logic: RPRLocLogic) -> str:
    logic.locate_again()
    update = run_to_end(logic)
    assert not update.failed, update.summary
    return str(update.summary)


# A box becomes an example


@pytest.mark.parametrize("turned", [False, True], ids=["as loaded", "under a transform"])
def test_a_corrected_box_becomes_an_example_with_just_its_walls(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any, turned: bool
) -> None:
    if turned:
        scene.transform(rigid(), bert)
    mark(logic, anna)
    locate_all(logic, bert)
    (roi,) = logic.results.rois()
    box = correct(roi, nodes.grid_of(bert).cropped((8, 6, 5), (9, 8, 6)).bounds.walls_mm)
    before = states(logic)
    example, told = use_as_example(logic.results, logic.examples, roi)
    assert "bone in bert is an example now" in told and "Locate again" in told
    assert logic.examples.all()[-1] is example and nodes.volume_of(example) is bert
    assert logic.examples.guidance(example).complete
    np.testing.assert_allclose(Box.from_extreme_points(logic.examples.points(example)).walls_mm, box.walls_mm)
    assert states(logic) == before and logic.results.is_corrected(roi)
    assert logic.targets() == {"bone": 2}
    assert f"bone on {bert.GetName()}" in logic.describe_examples().values()


def test_a_box_is_used_only_after_somebody_has_looked_at_it(logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    mark(logic, anna)
    locate_all(logic, bert)
    (roi,) = logic.results.rois()
    with pytest.raises(InputError, match=r"Nobody has checked the box of bone in bert.*tick"):
        use_as_example(logic.results, logic.examples, roi)
    assert len(logic.examples.all()) == 1
    logic.results.check((bert.GetID(), "bone"), True)
    example, _ = use_as_example(logic.results, logic.examples, roi)
    np.testing.assert_allclose(
        Box.from_extreme_points(logic.examples.points(example)).walls_mm, nodes.box_of_roi(roi).walls_mm, atol=1e-6
    )
    assert logic.results.record(roi).checked


def test_an_example_that_is_there_gets_the_walls_and_undo_gives_its_own_back(
    logic: RPRLocLogic, anna: Any, bert: Any
) -> None:
    mark(logic, anna)
    own = mark(logic, bert)
    points = logic.examples.points(own)
    locate_all(logic, bert)
    logic.history.record()
    box = correct(logic.results.rois()[0], np.add(walls(logic, bert), [2.0, -1.0, 3.0, -2.0, 1.0, -2.0]))
    logic.history.record()
    example, told = use_as_example(logic.results, logic.examples, logic.results.rois()[0])
    logic.history.record()
    assert example is own and "was an example already" in told and len(logic.examples.all()) == 2
    np.testing.assert_allclose(Box.from_extreme_points(logic.examples.points(own)).walls_mm, box.walls_mm)
    logic.history.undo()
    np.testing.assert_allclose(logic.examples.points(own), points)
    assert logic.results.is_corrected(logic.results.rois()[0])


def test_a_box_that_reaches_out_of_its_scan_is_no_example(logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    mark(logic, anna)
    locate_all(logic, bert)
    (roi,) = logic.results.rois()
    own = mark(logic, bert)
    points = logic.examples.points(own)
    for own_example in (True, False):
        correct(roi, np.add(walls(logic, bert), [0, 0, 0, 0, 0, 500.0]))
        with pytest.raises(InputError, match="box of bone in bert reaches out of the scan"):
            use_as_example(logic.results, logic.examples, roi)
        correct(roi, walls(logic, bert) - [0, 0, 0, 0, 0, 500.0])
        if own_example:
            np.testing.assert_array_equal(logic.examples.points(own), points)
            logic.examples.remove(own)
    assert len(logic.examples.all()) == 1


# Locate again


def test_what_is_open_is_located_by_all_examples_and_the_rest_is_left_alone(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    """What comes out is what a run of its own with these examples finds."""
    carla, dora, emil = (scene.load(example.image, name) for name in ("carla", "dora", "emil"))
    mark(logic, anna)
    locate_all(logic, bert, carla, dora, emil)
    corrected = correct(logic.results.roi(bert, "bone"), np.add(walls(logic, bert), [4.0, -2, 3, -1, 2, -3]))
    use_as_example(logic.results, logic.examples, logic.results.roi(bert, "bone"))
    logic.results.check((carla.GetID(), "bone"), True)
    locate_all(logic, anna)  # the example itself has been searched, too
    ticked, first, own = walls(logic, carla), walls(logic, dora), walls(logic, anna)
    logic.history.record()
    before, content = states(logic), scene.content()
    summary = run_again(logic)
    np.testing.assert_array_equal(walls(logic, bert), corrected.walls_mm)
    np.testing.assert_array_equal(walls(logic, carla), ticked)
    np.testing.assert_array_equal(walls(logic, anna), own)
    moved = np.abs(walls(logic, dora) - first).mean()
    assert moved > 0.1
    assert "2 organs in 2 of 2 scans. 2 boxes moved" in summary and f"by {moved:.1f} mm at each wall" in summary
    assert "3 results were left alone" in summary and "stayed" not in summary
    assert logic.results.record(logic.results.roi(carla, "bone")).checked
    after = walls(logic, dora)
    logic.history.undo()
    assert states(logic) == before and scene.content() == content
    logic.history.redo()
    np.testing.assert_allclose(walls(logic, emil), after, atol=1e-6)
    logic.results.remove(logic.results.roi(dora, "bone"))
    locate_all(logic, dora)
    np.testing.assert_allclose(walls(logic, dora), after, atol=1e-6)


def test_absent_organs_are_looked_for_again_unless_they_are_ticked(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    carla = scene.load(example.image, "carla")
    mark(logic, anna)
    locate_all(logic, bert)
    answer = logic.results.record(logic.results.rois()[0]).detections
    gone = AbsentOrgan("bone", Presence(0.01, 0.01, 0.98), ("anna",))
    for volume in (bert, carla):
        logic.results.apply([(volume, replace(answer, organs=(gone,)))])
    logic.results.check((carla.GetID(), "bone"), True)
    logic.history.record()
    summary = run_again(logic)
    assert "Found now: bone in bert." in summary and "1 result was left alone" in summary
    assert [row.size for row in logic.results.rows()].count("absent") == 1 and not logic.results.absent(bert)
    assert [row.checked for row in logic.results.rows(carla)] == [True]
    logic.history.undo()
    assert list(logic.results.absent(bert)) == ["bone"] and logic.results.rois() == []


def test_an_organ_that_is_no_longer_found_is_told_by_name(logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    mark(logic, anna)
    locate_all(logic, bert)
    answer = logic.results.record(logic.results.rois()[0]).detections
    again = Again(logic.results, logic.examples, ["bone"])
    gone = AbsentOrgan("bone", Presence(0.01, 0.01, 0.98), ("anna",))
    again.put(bert, replace(answer, organs=(gone,)))
    assert again.told == "0 boxes moved. No longer found: bone in bert." and logic.results.rois() == []


def test_the_same_examples_move_nothing(logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    mark(logic, anna)
    locate_all(logic, bert)
    before = states(logic)
    assert "0 boxes moved. 1 stayed in place." in run_again(logic)
    assert states(logic) == before


def test_the_median_counts_boxes_that_moved(scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any) -> None:
    mark(logic, anna)
    scans = [scene.load(example.image, f"scan {n}") for n in range(4)]
    locate_all(logic, *scans)
    again = Again(logic.results, logic.examples, ["bone"])
    for scan, shift_mm in zip(scans, (0.0, 1.0, 2.0, 9.0), strict=True):
        answer = logic.results.record(logic.results.roi(scan, "bone")).detections
        (organ,) = answer.organs
        again.put(scan, replace(answer, organs=(replace(organ, points_ras=organ.points_ras + shift_mm),)))
    assert again.told == "3 boxes moved, by 2.0 mm at each wall (median). 1 stayed in place."


def test_what_a_person_settles_or_deletes_during_the_run_is_left_alone(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    scans = [bert, *(scene.load(example.image, f"scan {n}") for n in range(3))]
    mark(logic, anna)
    locate_all(logic, *scans)
    correct(logic.results.roi(bert, "bone"), np.add(walls(logic, bert), [4.0, -2, 3, -1, 2, -3]))
    use_as_example(logic.results, logic.examples, logic.results.roi(bert, "bone"))
    _, ticked, corrected, deleted = scans
    logic.locate_again()
    logic.results.check((ticked.GetID(), "bone"), True)
    correct(logic.results.roi(corrected, "bone"), walls(logic, corrected) + 3.0)
    before = walls(logic, ticked), walls(logic, corrected)
    logic.results.remove(logic.results.roi(deleted, "bone"))
    summary = run_to_end(logic).summary
    np.testing.assert_array_equal(walls(logic, ticked), before[0])
    np.testing.assert_array_equal(walls(logic, corrected), before[1])
    assert logic.results.roi(deleted, "bone") is None
    assert "0 boxes moved. 3 results were left alone" in summary
    assert logic.results.record(logic.results.roi(ticked, "bone")).checked


def test_one_bad_scan_does_not_end_it(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    carla = scene.load(example.image, "carla")
    mark(logic, anna)
    locate_all(logic, bert, carla)
    scan, air = nodes.volume_from_node(bert), np.full((30, 24, 20), -1000, np.int16)
    found = logic.results.record(logic.results.roi(bert, "bone")).detections
    bad = scene.add_volume(air, Grid(air.shape, scan.grid.ras_from_ijk), "air")
    logic.results.apply([(bad, found)])
    summary = run_again(logic)
    assert "2 organs in 2 of 3 scans" in summary and "air: " in summary and "2 stayed" in summary


def test_a_cancel_keeps_what_was_found_again_and_one_undo_takes_it_back(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    logic._child = Runner(serve(example))
    scans = [bert, *(scene.load(example.image, f"scan {n}") for n in range(6))]
    mark(logic, anna)
    locate_all(logic, *scans)
    correct(logic.results.roi(bert, "bone"), np.add(walls(logic, bert), [4.0, -2, 3, -1, 2, -3]))
    use_as_example(logic.results, logic.examples, logic.results.roi(bert, "bone"))
    logic.history.record()
    before = states(logic)
    logic.locate_again()
    while states(logic) == before:
        assert logic.poll().summary is None
        time.sleep(0.01)
    told = logic.cancel()
    changed = sum(before[key] != now for key, now in states(logic).items())
    assert 1 <= changed < 6 and f"{changed} box" in told and "1 result was left alone" in told
    logic.history.undo()
    assert states(logic) == before


def test_nothing_open_is_told_and_starts_nothing(logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    with pytest.raises(InputError, match="no example yet"):
        logic.locate_again()
    marked = mark(logic, anna)
    with pytest.raises(InputError, match="nothing to locate again"):
        logic.locate_again()
    locate_all(logic, bert)
    logic.results.check((bert.GetID(), "bone"), True)
    with pytest.raises(InputError, match="nothing to locate again"):
        logic.locate_again()
    logic.results.check((bert.GetID(), "bone"), False)
    logic.examples.remove(marked)
    logic.examples.set_points(logic.examples.add(anna, "liver"), bone(anna))
    with pytest.raises(InputError, match="nothing to locate again"):  # no example marks the bone any more
        logic.locate_again()
    assert not logic.busy


def test_absent_findings_of_other_organs_stay(logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    """An organ without an example keeps its row and its tick."""
    mark(logic, anna)
    locate_all(logic, bert)
    answer = logic.results.record(logic.results.rois()[0]).detections
    brain = AbsentOrgan("brain", Presence(0.01, 0.01, 0.98), ("anna",))
    logic.results.apply([(bert, Detections("bert", (brain,), answer.model_id, answer.support_id))])
    logic.results.check((bert.GetID(), "brain"), True)
    assert "1 result was left alone" in run_again(logic)
    assert {(row.organ, row.checked) for row in logic.results.rows()} == {("bone", False), ("brain", True)}
    logic.results.check((bert.GetID(), "brain"), False)
    assert "1 result was left alone: corrected, ticked, an example, or without one." in run_again(logic)


def test_a_landmark_teaches_as_a_box_does(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    carla = scene.load(example.image, "carla")
    marked = logic.examples.add(anna, "tip", landmark=True)
    logic.examples.set_points(marked, bone(anna)[:1])
    locate_all(logic, bert, carla)
    point = logic.results.find_located((bert.GetID(), "tip"))
    with pytest.raises(InputError, match="Nobody has checked the point of tip in bert"):
        use_as_example(logic.results, logic.examples, point)
    moved = nodes.defined_points(point)[0] + [2.0, -3.0, 1.0]
    point.SetNthControlPointPositionWorld(0, *moved)
    row = logic.results.row(point)
    assert (row.size, row.error) == ("point", "corrected") and "Corrected by hand" in row.text
    made, told = use_as_example(logic.results, logic.examples, point)
    assert "tip in bert is an example now" in told and logic.targets() == {"tip": 2}
    np.testing.assert_allclose(logic.examples.points(made), [moved])
    before = nodes.defined_points(logic.results.find_located((carla.GetID(), "tip")))
    logic.history.record()
    summary = run_again(logic)
    now = nodes.defined_points(logic.results.find_located((carla.GetID(), "tip")))
    assert np.linalg.norm(now - before) > 0.1
    assert f"1 point moved, by {np.linalg.norm(now - before):.1f} mm (median)" in summary
    assert "1 result was left alone" in summary and "boxes moved" not in summary
    np.testing.assert_allclose(nodes.defined_points(point), [moved])
    logic.history.undo()
    np.testing.assert_allclose(nodes.defined_points(logic.results.find_located((carla.GetID(), "tip"))), before)


def test_a_box_that_stayed_behind_when_its_scan_was_moved_is_no_example(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any
) -> None:
    mark(logic, anna)
    locate_all(logic, bert)
    logic.results.check((bert.GetID(), "bone"), True)
    transform = scene.transform(np.eye(4) + np.eye(4, k=3) * 4.0, bert)
    with pytest.raises(InputError, match="bert was moved since bone was located in it"):
        use_as_example(logic.results, logic.examples, logic.results.roi(bert, "bone"))
    assert len(logic.examples.all()) == 1
    transform.SetMatrixTransformToParent(nodes.vtk_matrix(np.eye(4)))  # it is put back
    use_as_example(logic.results, logic.examples, logic.results.roi(bert, "bone"))
    assert logic.targets() == {"bone": 2}


def test_locate_leaves_what_is_ticked_alone_and_says_so(scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    example = mark(logic, anna)
    logic.examples.set_points(logic.examples.add(anna, "tip", landmark=True), bone(anna)[:1])
    locate_all(logic, anna, bert)
    before, tip = walls(logic, bert), logic.results.find_located((bert.GetID(), "tip"))
    for name in ("bone", "tip"):
        logic.results.check((bert.GetID(), name), True)
    logic.examples.set_points(example, bone(anna) + np.array([0.0, 0.0, 8.0]))
    other = walls(logic, anna)
    summary = locate_all(logic, anna, bert).summary
    for name in ("bone", "tip"):
        assert f"{name} in bert is ticked as checked and is left as it is. Take its tick off" in summary
        assert f"{name} in anna is" not in summary
    np.testing.assert_array_equal(walls(logic, bert), before)
    assert np.abs(walls(logic, anna) - other).max() > 1.0  # of the scan that nobody has ticked the box is another now
    assert all(row.checked for row in logic.results.rows(bert)) and tip in logic.results.located()
    logic.results.check((bert.GetID(), "bone"), False)
    summary = locate_all(logic, bert).summary
    assert "bone in bert is ticked" not in summary and "tip in bert is ticked" in summary
    assert np.abs(walls(logic, bert) - before).max() > 1.0
