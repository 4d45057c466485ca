"""What becomes of results: a folder's files, the table, absent organs, exported files, crops, saved scenes."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprloc.detection import AbsentOrgan, Detections, Presence
from rprloc.errors import InputError
from rprloc.io.label_names import read_names
from tests.command_line import rprloc
from tests.example import ExampleFiles
from tests.slicer_module.findings import detection
from tests.slicer_module.scenes import (
    NO_SLICER,
    Scene,
    locate_all,
    mark,
    new_scene,
    rigid,
    run_to_end,
    serve,
)

pytest.importorskip("slicer", reason=NO_SLICER)

from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.export import export_results
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.runner import Runner


def test_a_folder_is_located_scan_by_scan(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, tmp_path: Path
) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    (scans / "deep").mkdir(parents=True)
    shutil.copy(example.image, scans / "bert.nii.gz")
    shutil.copy(example.image, scans / "deep" / "carla.nii.gz")
    (scans / "broken.nii.gz").write_bytes(b"no image")
    mark(logic, anna)
    before = scene.content()
    logic.locate_in_folder(scans, out)
    update = run_to_end(logic)
    assert "2 organs in 2 scans" in update.summary and "broken: " in update.summary
    assert sorted(path.name for path in out.iterdir()) == [
        *("bert.detections.json", "bert.mrk.json", "carla.detections.json", "carla.mrk.json", "organs.csv")
    ]
    assert scene.content() == before
    with (out / "organs.csv").open(encoding="utf-8") as stream:
        assert [row["query"] for row in csv.DictReader(stream)] == ["bert", "carla"]
    assert rprloc("report", out, "--csv", tmp_path / "report.csv").exit_code == 0
    assert (out / "organs.csv").read_bytes() == (tmp_path / "report.csv").read_bytes()
    with pytest.raises(InputError, match="no folder"):
        logic.locate_in_folder(tmp_path / "missing", out)
    for nothing in ((Path(), out), (scans, Path())):
        with pytest.raises(InputError, match="is chosen"):
            logic.locate_in_folder(*nothing)


def test_the_table_says_what_was_found_and_keeps_ticks(scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    assert logic.results.rows() == []
    mark(logic, anna)
    locate_all(logic, anna, bert)
    rows = logic.results.rows()
    assert [(row.scan, row.organ) for row in rows] == [("anna", "bone"), ("bert", "bone")]
    box = nodes.box_of_roi(logic.results.rois()[0])
    assert rows[0].size == " x ".join(f"{length:.0f}" for length in box.size_mm)
    logic.results.check(rows[1].key, True)
    assert [row.checked for row in logic.results.rows()] == [False, True]
    assert logic.results.record(logic.results.rois()[1]).checked
    assert scene.of_class("vtkMRMLTableNode") == []


def test_a_row_is_about_its_organ_wherever_it_moves(logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    """Results of another scan and another run come and go; a row's key still finds its own ROI."""
    mark(logic, anna, "liver")
    locate_all(logic, bert)
    (key,) = (row.key for row in logic.results.rows())
    mark(logic, anna, "heart")
    locate_all(logic, anna, bert)
    assert len(logic.results.rows()) == 4
    roi = logic.results.find(key)
    assert nodes.organ_of(roi) == "liver" and nodes.volume_of(roi) is bert
    logic.results.remove(roi)
    assert logic.results.find(key) is None and len(logic.results.rows()) == 3


def test_doubtful_organs_come_first_and_are_told(logic: RPRLocLogic, anna: Any) -> None:
    points = nodes.grid_of(anna).bounds.centre_ras + np.repeat([[-9.0], [9.0]], 3, axis=0) * np.eye(3)[[0, 1, 2] * 2]
    points = points[[0, 3, 1, 4, 2, 5]]
    errors = {"heart": 3.0, "liver": 17.0, "spleen": None}
    organs = tuple(detection(organ, points, error) for organ, error in errors.items())
    logic.results.apply([(anna, Detections("anna", organs, "m", "s"))])
    rows = logic.results.rows()
    assert [row.organ for row in rows] == ["liver", "heart", "spleen"]
    assert ["Doubtful" in row.tip for row in rows] == [True, False, False]
    assert [row.error for row in rows] == ["17.0", "3.0", ""] and "centimetre" in rows[0].tip
    roi = logic.results.find(rows[0].key)
    roi.SetSize(5.0, 6.0, 7.0)
    row = next(row for row in logic.results.rows() if row.organ == "liver")
    assert row.error == "corrected" and row.size == "5 x 6 x 7" and "Doubtful" not in row.tip


def test_a_scene_of_version_0_2_keeps_its_ticks(scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    """It had them in a table node, which is not needed any more."""
    import vtk

    mark(logic, anna)
    locate_all(logic, anna, bert)
    table = scene.mrml.AddNewNodeByClass("vtkMRMLTableNode", "RPR-Loc results")
    table.SetAttribute(nodes.ROLE, "results")
    ids, ticks = vtk.vtkStringArray(), vtk.vtkBitArray()
    for array, name, values in ((ids, "ROI", [r.GetID() for r in logic.results.rois()]), (ticks, "Checked", [0, 1])):
        array.SetName(name)
        for value in values:
            array.InsertNextValue(value)
        table.AddColumn(array)
    logic.results.adopt_table()
    assert [row.checked for row in logic.results.rows()] == [False, True]
    assert scene.of_class("vtkMRMLTableNode") == []


def test_results_go_with_their_volume_and_points_with_their_roi(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any
) -> None:
    example = mark(logic, anna)
    locate_all(logic, anna, bert)
    scene.mrml.RemoveNode(logic.results.roi(anna, "bone"))  # as in the module Data
    scene.mrml.RemoveNode(bert)
    logic.tidy()
    left = {node.GetName() for node in scene.of_class("vtkMRMLMarkupsNode")}
    assert left == {"bone (example)", "bone (preview)"} and logic.results.rows() == []
    scene.mrml.RemoveNode(anna)
    logic.tidy()
    assert {node.GetName() for node in scene.of_class("vtkMRMLMarkupsNode")} == {"bone (example)"}
    assert len(nodes.defined_points(example)) == 6  # what a person has clicked is not thrown away


def test_an_absent_organ_has_a_row_and_no_roi(scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    mark(logic, anna)
    mark(logic, anna, "brain")
    locate_all(logic, bert)
    assert len(logic.results.rois()) == 2
    (bone_roi, _) = logic.results.rois()
    answer = logic.results.record(bone_roi).detections
    logic.history.record()
    brain = AbsentOrgan("brain", Presence(0.01, 0.01, 0.98), ("anna",))
    (told,) = logic.results.apply([(bert, replace(answer, organs=(brain,)))])
    assert told == "bert: brain is not in the scan (98 %) and gets no ROI."
    rows = logic.results.rows()
    assert [row.organ for row in rows] == ["bone", "brain"]
    assert "not calibrated" in rows[0].tip and rows[1].tip == "Not in the scan (98 %)."
    assert [roi.GetName() for roi in logic.results.rois()] == ["bone"]
    assert logic.results.find(rows[1].key) is None
    logic.results.check(rows[1].key, True)
    assert [row.checked for row in logic.results.rows()] == [False, True]
    logic.results.apply([(bert, replace(answer, organs=answer.organs))])  # another organ is located again
    assert [row.checked for row in logic.results.rows()] == [False, True]
    assert [one.organ for one in logic.results.as_they_are(bert).organs] == ["bone", "brain"]
    logic.history.undo()
    assert len(logic.results.rois()) == 2 and not logic.results.absent(bert)
    logic.history.redo()
    assert list(logic.results.absent(bert)) == ["brain"]
    logic.results.apply([(bert, replace(answer, organs=(brain,)))])  # looked for anew, so nobody has checked it
    assert not logic.results.rows()[-1].checked
    locate_all(logic, bert, organs=["brain"])  # these weights always give a box
    assert len(logic.results.rois()) == 2 and not logic.results.absent(bert)


def test_absent_organs_are_exported(logic: RPRLocLogic, anna: Any, bert: Any, tmp_path: Path) -> None:
    brain = AbsentOrgan("brain", Presence(0.01, 0.01, 0.98), ("anna",))
    logic.results.apply([(bert, Detections("bert", (brain,), "m", "s"))])
    written = export_results(logic.results, tmp_path, markups=True, label_map=True, table=True)
    assert [path.name for path in written] == ["organs.csv"]
    with written[0].open(encoding="utf-8") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["query"], row["organ"], row["probability_absent"]) == ("bert", "brain", "0.980")
    assert row["size_r_mm"] == row["corrected"] == "" and row["checked"] == "no"
    logic.results.check((bert.GetID(), "brain"), True)
    export_results(logic.results, tmp_path, markups=False, label_map=False, table=True)
    with written[0].open(encoding="utf-8") as stream:
        assert next(csv.DictReader(stream))["checked"] == "yes"


def test_exported_files_hold_the_boxes_as_the_user_left_them(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no results"):
        export_results(logic.results, tmp_path, markups=True, label_map=True, table=True)
    bert.SetName("bert: follow-up/2")
    mark(logic, anna, "heart")
    mark(logic, anna, "liver")
    locate_all(logic, anna, bert)
    inner = nodes.grid_of(bert).cropped((8, 6, 5), (10, 8, 6)).bounds
    nodes.set_pose(logic.results.roi(bert, "heart"), nodes.pose_of_box(inner))
    files = export_results(logic.results, tmp_path, markups=True, label_map=True, table=True)
    endings = ("boxes.json", "boxes.nii.gz", "mrk.json")
    wanted = {f"{name}.{end}" for name in ("anna", "bert_follow-up_2") for end in endings} | {"organs.csv"}
    assert {path.name for path in files} == wanted == {path.name for path in tmp_path.iterdir()}
    record = json.loads((tmp_path / "bert_follow-up_2.mrk.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(record["markups"][0]["size"], inner.size_mm, atol=1e-3)
    np.testing.assert_allclose(record["markups"][0]["center"], inner.centre_ras * [-1, -1, 1], atol=1e-3)
    marked = nodes.volume_from_node(scene.load(tmp_path / "bert_follow-up_2.boxes.nii.gz"))
    names = read_names(tmp_path / "bert_follow-up_2.boxes.json")
    (value,) = (number for number, organ in names.items() if organ == "heart")
    heart_ras = marked.grid.ras(np.argwhere(marked.hu == value))
    assert len(heart_ras) and ((heart_ras >= inner.min_ras - 1e-3) & (heart_ras <= inner.max_ras + 1e-3)).all()
    with (tmp_path / "organs.csv").open(encoding="utf-8") as stream:
        rows = {(row["query"], row["organ"]): row for row in csv.DictReader(stream)}
    row = rows["bert: follow-up/2", "heart"]
    assert len(rows) == 4 and row["corrected"] == "yes" and rows["anna", "heart"]["corrected"] == "no"
    assert [row[f"size_{axis}_mm"] for axis in "ras"] == [f"{length:.2f}" for length in inner.size_mm]
    with pytest.raises(InputError, match="No folder is chosen"):
        export_results(logic.results, Path(), markups=True, label_map=True, table=True)
    with pytest.raises(InputError, match="No kind of file"):
        export_results(logic.results, tmp_path, markups=False, label_map=False, table=False)


def test_a_query_is_cropped_to_a_roi_with_a_margin(scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    scene.transform(rigid(), bert)
    mark(logic, anna)
    locate_all(logic, bert)
    (roi,) = logic.results.rois()
    box = nodes.grid_of(bert).cropped((8, 6, 5), (4, 4, 4)).bounds
    nodes.set_pose(roi, nodes.pose_of_box(box))
    cropped = logic.results.crop(roi, margin_mm=0.0)
    assert cropped.GetName() == "bert bone"
    part = nodes.grid_of(cropped).bounds
    assert (part.min_ras <= box.min_ras + 1e-6).all() and (part.max_ras >= box.max_ras - 1e-6).all()
    wider = logic.results.crop(roi, margin_mm=10.0)
    assert np.prod(nodes.grid_of(wider).shape) > np.prod(nodes.grid_of(cropped).shape)


def test_a_scene_is_saved_as_mrb_and_read_back(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any, tmp_path: Path
) -> None:
    mark(logic, anna)
    logic.sets.load(example.support_set)
    locate_all(logic, bert, organs=["bone"])
    (roi,) = logic.results.rois()
    walls, points = nodes.box_of_roi(roi).walls_mm, logic.examples.points(logic.examples.all()[0])
    path = tmp_path / "scene.mrb"
    assert scene.mrml.WriteToMRB(str(path), None)
    again = new_scene()
    assert again.mrml.ReadFromMRB(str(path), True)
    read = RPRLocLogic(again.mrml, Runner(serve(example)))
    try:
        (roi,) = read.results.rois()
        np.testing.assert_allclose(nodes.box_of_roi(roi).walls_mm, walls, atol=1e-3)
        np.testing.assert_allclose(read.examples.points(read.examples.all()[0]), points, atol=1e-3)
        assert read.targets() == {"bone": 2, "lung": 1}
        assert nodes.volume_of(roi).GetName() == "bert" and not read.results.is_corrected(roi)
        assert len(nodes.defined_points(read.results.points(roi))) == 6
        assert {r.GetAttribute(nodes.ROLE) for r in again.of_class("vtkMRMLMarkupsROINode")} == {"result"}
        locate_all(read, nodes.volume_of(roi), organs=["bone"])
        assert len(read.results.rois()) == 1
    finally:
        read.close()
        again.close()
