"""Landmarks: one point is marked, found as one point, and treated in everything as a box is."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.detection import AbsentLandmark, Detections
from rprloc.errors import InputError
from rprloc.localization.support import SupportSet
from rprloc.volume import to_sitk
from tests.command_line import rprloc
from tests.example import ExampleFiles
from tests.slicer_module.findings import detection, landmark
from tests.slicer_module.mouse import Mouse
from tests.slicer_module.scenes import NO_SLICER, Scene, bone, locate_all, mark, new_scene, rigid, run_to_end

pytest.importorskip("slicer", reason=NO_SLICER)
import slicer
import vtk

from SlicerRPRLocLib import nodes, terminology, views
from SlicerRPRLocLib.export import export_results
from SlicerRPRLocLib.logic import RPRLocLogic


def tip(volume: Any) -> np.ndarray:
    """The uppermost point of the phantom's bone."""
    return bone(volume)[5]


def mark_tip(logic: RPRLocLogic, volume: Any, name: str = "tip") -> Any:
    example = logic.examples.add(volume, name, landmark=True)
    logic.examples.set_points(example, [tip(volume)])
    return example


def click(logic: RPRLocLogic, example: Any, point: np.ndarray) -> str:
    """What happens at a click in a view: Slicer adds the point, the module looks at it."""
    example.AddControlPointWorld(vtk.vtkVector3d(*point), "F-1")
    return logic.examples.points_changed(example)


def found_in(volume: Any, *found: Any) -> list[tuple[Any, Detections]]:
    return [(volume, Detections("query", (), "m", "s", landmarks=found))]


# Marking


def test_one_point_marks_a_landmark_and_a_second_is_not_taken(scene: Scene, logic: RPRLocLogic, anna: Any) -> None:
    example = logic.examples.add(anna, "carina", landmark=True)
    guidance = logic.examples.guidance(example)
    assert not guidance.complete and "Click the carina" in guidance.text
    with pytest.raises(InputError, match=r"carina \(example\): A landmark is one point"):
        logic.examples.points(example)
    assert "was not taken" in click(logic, example, np.array([5000.0, 0.0, 0.0]))
    assert len(nodes.defined_points(example)) == 0
    told = click(logic, example, tip(anna))
    assert logic.examples.guidance(example).complete and told.startswith("The carina is marked")
    assert example.GetNthControlPointLabel(0) == "carina"
    assert "One point is enough" in click(logic, example, tip(anna) + 1.0)
    np.testing.assert_allclose(logic.examples.points(example), [tip(anna)])
    example.SetNthControlPointPositionWorld(0, 5000.0, 0.0, 0.0)
    assert "was put back" in logic.examples.points_changed(example)
    np.testing.assert_allclose(logic.examples.points(example), [tip(anna)])
    assert scene.of_class("vtkMRMLMarkupsROINode") == []  # a point spans no box
    assert "28700002" in example.GetAttribute(terminology.ATTRIBUTE)


def test_a_landmark_follows_the_name_of_its_node(logic: RPRLocLogic, anna: Any) -> None:
    example = mark_tip(logic, anna)
    example.SetName("apex (example)")
    logic.examples.follow_names()
    assert nodes.organ_of(example) == example.GetNthControlPointLabel(0) == "apex"
    assert logic.describe_examples() == {example.GetID(): "apex (landmark) on anna"}
    assert logic.describe_targets() == {"apex": "apex (landmark)"}


@pytest.mark.parametrize("multiple", [0, 1])
def test_placing_ends_after_one_point_and_turns_no_view(
    scene: Scene, logic: RPRLocLogic, anna: Any, multiple: int
) -> None:
    made = scene.add_views()
    interaction = scene.mrml.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    interaction.SetPlaceModePersistence(multiple)
    made["Red"].SetOrientation("Sagittal")
    example, mouse = logic.examples.add(anna, "tip", landmark=True), Mouse(scene)
    views.show_scan(scene.mrml, anna)
    views.start_placing(example)
    assert mouse.click(tip(anna))
    assert mouse.places == bool(multiple) and made["Red"].GetOrientation() == "Sagittal"
    layout = scene.of_class("vtkMRMLLayoutNode")[0]
    before = layout.GetViewArrangement()
    for name in ("Red", "Yellow", "Green"):
        made[name].SetMappedInLayout(0)
    views.start_placing(example)
    assert layout.GetViewArrangement() != before


def test_a_point_can_be_undone_and_done_again(logic: RPRLocLogic, anna: Any) -> None:
    example = logic.examples.add(anna, "tip", landmark=True)
    logic.history.record()
    click(logic, example, tip(anna))
    logic.history.record()
    logic.history.undo()
    assert len(nodes.defined_points(example)) == 0
    logic.history.undo()
    assert logic.examples.all() == []
    mark(logic, anna, "tip")  # now as an organ
    logic.history.record()
    logic.history.undo()
    logic.examples.add(anna, "tip", landmark=True)
    logic.history.record()
    logic.history.undo()
    assert logic.examples.all() == []


def test_undo_tells_an_organ_from_a_landmark_of_its_name(logic: RPRLocLogic, anna: Any) -> None:
    mark_tip(logic, anna)
    logic.history.record()
    logic.examples.remove(logic.examples.all()[0])
    mark(logic, anna, "tip")
    logic.history.record()
    logic.history.undo()
    (example,) = logic.examples.all()
    assert nodes.is_landmark(example) and len(nodes.defined_points(example)) == 1
    logic.history.redo()
    (example,) = logic.examples.all()
    assert not nodes.is_landmark(example) and len(nodes.defined_points(example)) == 6


def test_a_name_is_an_organ_or_a_landmark(
    logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any, tmp_path: Path
) -> None:
    mark(logic, anna, "tip")
    with pytest.raises(InputError, match="tip is marked as an organ on anna"):
        logic.examples.add(anna, "tip", landmark=True)
    second = mark_tip(logic, bert)
    for start in (
        lambda: logic.locate([bert], ["tip"]),
        lambda: logic.save_support_set(tmp_path / "set.json"),
    ):
        with pytest.raises(InputError, match="tip is a landmark on bert and an organ on anna"):
            start()
    logic.examples.remove(second)
    mark_tip(logic, bert, "bone")
    logic.sets.load(example.support_set)
    with pytest.raises(InputError, match=r"bone is a landmark on bert and an organ in set\.support"):
        logic.locate([bert], ["bone"])
    assert not logic.busy
    assert "1 organ in 1 of 1 scans" in locate_all(logic, bert, organs=["tip"]).summary  # the other is not asked for


# Locating, by the real child


@pytest.mark.parametrize("moved", [False, True], ids=["as loaded", "under a transform"])
def test_the_point_is_that_of_rprloc_locate(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any, tmp_path: Path, moved: bool
) -> None:
    """The command line gets the scan as it lies in the world: for a moved volume, a file with the moved affine."""
    mark_tip(logic, anna)
    if moved:
        scene.transform(rigid(), bert)
    locate_all(logic, bert)
    (found,) = logic.results.landmarks.all()
    there = nodes.volume_from_node(bert)
    sitk.WriteImage(to_sitk(there.hu, there.grid), tmp_path / "query.nrrd")
    table = tmp_path / "tip.csv"
    r, a, s = tip(anna)
    table.write_text(f"name,r_mm,a_mm,s_mm\ntip,{r},{a},{s}\n", encoding="utf-8")
    model = ["--model", example.weights, "--device", "cpu"]
    build = ["support", "build", "--image", example.image, "--landmarks", table]
    assert rprloc(*build, "--out", tmp_path / "set.json", *model).exit_code == 0
    assert rprloc("locate", tmp_path / "set.json", tmp_path / "query.nrrd", "--out", tmp_path, *model).exit_code == 0
    wanted = Detections.load(tmp_path / "query.detections.json").points_ras["tip"]
    np.testing.assert_allclose(nodes.defined_points(found)[0], wanted, atol=0.01)


def test_a_result_has_its_name_its_error_its_term_and_its_place(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any
) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.mrml)
    study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.CreateItem(study, bert)
    mark_tip(logic, anna, "carina")
    assert "1 landmark in 1 of 1 scans" in locate_all(logic, bert).summary
    (point,) = logic.results.landmarks.all()
    assert point.GetClassName() == "vtkMRMLMarkupsFiducialNode" and point.GetNumberOfControlPoints() == 1
    assert point.GetName() == point.GetNthControlPointLabel(0) == "carina" and nodes.volume_of(point) is bert
    assert "expected error" in point.GetDescription() and "spread" in point.GetNthControlPointDescription(0)
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(point))
    assert hierarchy.GetItemName(folder) == "bert: organs" and hierarchy.GetItemParent(folder) == study
    assert "28700002" in point.GetAttribute(terminology.ATTRIBUTE)
    logic.results.remove(point)
    assert not hierarchy.GetItemChildWithName(study, "bert: organs")


def test_a_set_with_landmarks_is_saved_loaded_and_located(
    logic: RPRLocLogic, anna: Any, bert: Any, tmp_path: Path
) -> None:
    mark_tip(logic, anna)
    mark(logic, anna)
    logic.save_support_set(tmp_path / "set.json.gz")
    assert not run_to_end(logic).failed
    saved = SupportSet.load(tmp_path / "set.json.gz")
    assert (saved.organs, saved.landmarks, len(saved.supports)) == (["bone"], ["tip"], 1)
    assert "1 organ and 1 landmark in 1 of 1 scans" in locate_all(logic, bert).summary
    first = nodes.defined_points(logic.results.landmarks.all()[0])
    for example in logic.examples.all():
        logic.examples.remove(example)
    logic.results.remove(logic.results.landmarks.all()[0])
    node = logic.sets.load(tmp_path / "set.json.gz")
    assert logic.describe_examples() == {node.GetID(): "set: bone, tip"}
    assert logic.describe_targets() == {"bone": "bone", "tip": "tip (landmark)"}
    locate_all(logic, bert, organs=["tip"])
    np.testing.assert_allclose(nodes.defined_points(logic.results.landmarks.all()[0]), first, atol=0.01)


def test_a_folder_gets_its_landmarks(logic: RPRLocLogic, example: ExampleFiles, anna: Any, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "bert.nii.gz").write_bytes(example.image.read_bytes())
    mark_tip(logic, anna)
    logic.locate_in_folder(tmp_path / "scans", tmp_path / "out")
    assert "1 landmark in 1 scan are written" in run_to_end(logic).summary
    record = json.loads((tmp_path / "out" / "bert.mrk.json").read_text(encoding="utf-8"))
    assert [one["label"] for one in record["markups"][0]["controlPoints"]] == ["tip"]


# Results


def test_rows_tell_the_error_the_correction_and_what_is_absent(logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    places = tip(bert)
    found = (landmark("tip", places, 17.0), landmark("apex", places, 3.0), landmark("root", places, None))
    told = logic.results.apply(found_in(bert, *found, AbsentLandmark("carina", 0.04, ("anna",))))
    assert told == ["bert: carina is not in the scan (96 %) and gets no point."]
    rows = logic.results.rows()
    assert [row.organ for row in rows] == ["tip", "apex", "root", "carina"]  # the doubtful first, the absent last
    assert [row.size for row in rows] == ["point"] * 3 + ["absent"]
    assert [row.error for row in rows] == ["17.0", "3.0", "", ""]
    assert ["Doubtful" in row.tip for row in rows] == [True, False, False, False] and "centimetre" in rows[0].tip
    for row in rows:
        logic.results.check(row.key, True)
    assert all(row.checked for row in logic.results.rows())
    point = logic.results.find_located(rows[0].key)
    point.SetNthControlPointPositionWorld(0, *(places + 2.0))
    row = next(row for row in logic.results.rows() if row.organ == "tip")
    assert row.error == "corrected" and "Corrected by hand" in row.tip and "Doubtful" not in row.tip
    told = logic.results.apply(found_in(bert, landmark("tip", places, 5.0)))
    assert told == [
        "The point of tip in bert was corrected by hand and is left as it is. Delete it to locate it again."
    ]
    np.testing.assert_allclose(nodes.defined_points(point)[0], places + 2.0)
    logic.results.remove(point)
    logic.results.apply(found_in(bert, landmark("carina", places, 5.0)))
    assert [row.organ for row in logic.results.rows()] == ["carina", "apex", "root"]
    assert logic.results.absent(bert) == {} and not logic.results.rows()[0].checked
    logic.results.apply(found_in(bert, AbsentLandmark("apex", 0.04, ("anna",))))
    assert [row.size for row in logic.results.rows()] == ["point", "point", "absent"]


def test_a_name_that_becomes_a_landmark_leaves_no_box(logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    box = detection("tip", bone(bert))
    for _ in range(2):
        logic.results.apply([(bert, Detections("bert", (box,), "m", "s"))])
        assert (len(logic.results.rois()), len(logic.results.landmarks.all())) == (1, 0)
        logic.results.apply(found_in(bert, landmark("tip", tip(bert))))
        assert (len(logic.results.rois()), len(logic.results.landmarks.all())) == (0, 1)
        assert len(logic.results.rows()) == 1


def test_results_and_corrections_can_be_undone_and_done_again(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any
) -> None:
    places = tip(bert)
    absent = AbsentLandmark("carina", 0.04, ("anna",))
    logic.results.apply(found_in(bert, landmark("tip", places), absent))
    logic.history.record()
    (point,) = logic.results.landmarks.all()
    point.SetNthControlPointPositionWorld(0, *(places + 2.0))
    logic.history.record()
    logic.history.undo()
    np.testing.assert_allclose(nodes.defined_points(point)[0], places)
    logic.history.undo()
    assert logic.results.landmarks.all() == [] and logic.results.rows() == []
    assert scene.of_class("vtkMRMLMarkupsNode") == []
    logic.history.redo()
    logic.history.redo()
    (point,) = logic.results.landmarks.all()
    np.testing.assert_allclose(nodes.defined_points(point)[0], places + 2.0)
    assert [row.organ for row in logic.results.rows()] == ["tip", "carina"]


def test_a_point_goes_with_its_volume_and_a_copy_is_no_second_result(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any
) -> None:
    for volume in (anna, bert):
        logic.results.apply(found_in(volume, landmark("tip", tip(volume))))
    (first, _) = logic.results.landmarks.all()
    clone = scene.mrml.CreateNodeByClass(first.GetClassName())
    clone.Copy(first)
    scene.mrml.AddNode(clone)
    clone.UnRegister(None)
    assert len(logic.results.landmarks.all()) == 2
    scene.mrml.RemoveNode(bert)
    logic.tidy()
    assert logic.results.landmarks.all() == [first] and clone.GetScene() is not None
    first.UnsetNthControlPointPosition(0)  # as in the module Markups
    assert logic.results.rows() == []
    logic.tidy()
    assert first.GetScene() is None


def test_the_mouse_moves_only_the_point_that_is_chosen_and_adds_none(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any
) -> None:
    scene.add_views()
    logic.results.apply(found_in(bert, landmark("tip", tip(bert)), landmark("apex", tip(bert) - 3.0)))
    logic.results.apply(found_in(anna, landmark("tip", tip(anna))))
    points = logic.results.landmarks.all()
    assert all(point.GetLocked() for point in points)
    logic.results.show((bert.GetID(), "apex"))
    assert [point.GetLocked() for point in points] == [1, 0, 1]
    red = scene.mrml.GetNodeByID("vtkMRMLSliceNodeRed")
    assert nodes.matrix_array(red.GetSliceToRAS())[2, 3] == pytest.approx(tip(bert)[2] - 3.0)
    displays = {point.GetID(): point.GetDisplayNode() for point in points}
    seen = [one.GetVisibility() and one.IsDisplayableInView(red.GetID()) for one in displays.values()]
    assert seen == [True, True, False]  # that of anna is not drawn over bert
    assert all(point.GetFixedNumberOfControlPoints() for point in points)
    logic.results.apply(found_in(bert, landmark("apex", tip(bert) - 3.0)))
    assert not points[1].GetLocked()  # it is still the one that is chosen


def test_exported_files_hold_the_points_as_the_user_left_them(
    logic: RPRLocLogic, anna: Any, bert: Any, tmp_path: Path
) -> None:
    absent = AbsentLandmark("carina", 0.04, ("anna",))
    logic.results.apply(found_in(bert, landmark("tip", tip(bert), 4.5), absent))
    (point,) = logic.results.landmarks.all()
    point.SetNthControlPointPositionWorld(0, 1.5, 2.5, 3.5)
    logic.results.check((bert.GetID(), "tip"), True)
    files = export_results(logic.results, tmp_path, markups=True, label_map=True, table=True)
    assert [file.name for file in files] == ["bert.mrk.json", "organs.csv"]  # a point has no voxels
    record = json.loads(files[0].read_text(encoding="utf-8"))
    (written,) = record["markups"][0]["controlPoints"]
    assert written["label"] == "tip" and written["position"] == [-1.5, -2.5, 3.5]  # LPS
    with files[1].open(encoding="utf-8") as stream:
        rows = {row["organ"]: row for row in csv.DictReader(stream)}
    row = rows["tip"]
    assert [row[f"centre_{axis}_mm"] for axis in "ras"] == ["1.50", "2.50", "3.50"]
    assert (row["kind"], row["corrected"], row["checked"]) == ("landmark", "yes", "yes")
    assert (rows["carina"]["kind"], rows["carina"]["probability_absent"]) == ("landmark", "0.960")


def test_a_scene_with_landmarks_is_saved_as_mrb_and_read_back(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any, tmp_path: Path
) -> None:
    mark_tip(logic, anna)
    locate_all(logic, bert)
    (point,) = logic.results.landmarks.all()
    places = nodes.defined_points(point)
    assert scene.mrml.WriteToMRB(str(tmp_path / "scene.mrb"), None)
    again = new_scene()
    read = RPRLocLogic(again.mrml, logic._child)
    try:
        assert again.mrml.ReadFromMRB(str(tmp_path / "scene.mrb"), True)
        (point,) = read.results.landmarks.all()
        np.testing.assert_allclose(nodes.defined_points(point), places, atol=1e-3)
        assert not read.results.is_corrected(point) and nodes.volume_of(point).GetName() == "bert"
        (example,) = read.examples.all()
        assert nodes.is_landmark(example) and read.examples.guidance(example).complete
        assert read.describe_targets() == {"tip": "tip (landmark)"}
        assert [row.organ for row in read.results.rows()] == ["tip"]
        locate_all(read, nodes.volume_of(point))
        assert len(read.results.landmarks.all()) == 1
    finally:
        again.close()
