"""Runs in a scene: from six points to ROIs in other volumes; corrected, cancelled, killed, refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.geometry import WALLS, Grid
from rprloc.io.markups import write_extreme_points
from rprloc.io.reading import read_volume
from rprloc.volume import to_sitk
from tests.command_line import rprloc
from tests.example import ExampleFiles
from tests.phantoms import AFFINES, Affine, phantom_hu
from tests.slicer_module.scenes import (
    NO_SLICER,
    Scene,
    bone,
    locate_all,
    mark,
    new_scene,
    rigid,
    run_to_end,
    serve,
    volumes_of,
)

pytest.importorskip("slicer", reason=NO_SLICER)
import psutil
import slicer
import vtk

from SlicerRPRLocLib import nodes, terminology
from SlicerRPRLocLib.handover import COPIES
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.runner import Runner

ORIENTATIONS = {name: AFFINES[name] @ np.diag([2.0, 2.0, 2.0, 1.0]) for name in ("flipped", "oblique", "mirrored")}


def write_scan(path: Path, affine: Affine, moved: Affine | None = None) -> None:
    """The phantom on a grid with this affine, and then moved as a whole."""
    grid = Grid((30, 24, 20), affine)
    placed = grid if moved is None else Grid(grid.shape, moved @ affine)
    sitk.WriteImage(to_sitk(phantom_hu(grid), placed), path)


# From six points to a ROI


@pytest.mark.parametrize("moved", [False, True], ids=["as loaded", "under a transform"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_roi_is_the_box_of_rprloc_locate(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, tmp_path: Path, orientation: str, moved: bool
) -> None:
    """The command line gets the scan as it lies in the world: for a moved volume, a file with the moved affine."""
    affine = ORIENTATIONS[orientation]
    write_scan(tmp_path / "loaded.nrrd", affine)
    write_scan(tmp_path / "query.nrrd", affine, rigid() if moved else None)
    anna, query = scene.load(example.image, "anna"), scene.load(tmp_path / "loaded.nrrd", "query")
    if moved:
        scene.transform(rigid(), query)
    mark(logic, anna)
    locate_all(logic, query)
    write_extreme_points(tmp_path / "bone.mrk.json", bone(anna), "bone")
    model = ["--model", example.weights, "--device", "cpu"]
    build = ["support", "build", "--image", example.image, "--markups", tmp_path / "bone.mrk.json", "--name", "bone"]
    assert rprloc(*build, "--out", tmp_path / "set.json", *model).exit_code == 0
    assert rprloc("locate", tmp_path / "set.json", tmp_path / "query.nrrd", "--out", tmp_path, *model).exit_code == 0
    wanted = Detections.load(tmp_path / "query.detections.json").boxes["bone"]
    (roi,) = logic.results.rois()
    np.testing.assert_allclose(nodes.box_of_roi(roi).walls_mm, wanted.walls_mm, atol=0.01)


def test_a_dicom_series_is_located_as_its_nifti_twin(
    scene: Scene, logic: RPRLocLogic, anna: Any, tmp_path: Path
) -> None:
    from tests.dicoms import write_series

    write_series(tmp_path / "series", nodes.volume_from_node(anna).hu)
    series = read_volume(tmp_path / "series")
    sitk.WriteImage(to_sitk(series.hu, series.grid), tmp_path / "twin.nii.gz")
    twin = scene.load(tmp_path / "twin.nii.gz")
    query = scene.load_dicom(sorted((tmp_path / "series").iterdir()), "dora")
    mark(logic, anna)
    locate_all(logic, twin, query)
    one, other = (nodes.box_of_roi(roi) for roi in logic.results.rois())
    np.testing.assert_allclose(other.walls_mm, one.walls_mm, atol=0.01)


def test_a_result_has_its_points_their_spread_its_term_and_its_place(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any
) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.mrml)
    study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.CreateItem(study, bert)
    mark(logic, anna, "spleen")
    assert "1 organ in 1 of 1 scans" in locate_all(logic, bert).summary
    (roi,) = logic.results.rois()
    points, found = logic.results.points(roi), logic.results.record(roi).found
    assert [points.GetNthControlPointLabel(n) for n in range(6)] == list(WALLS)
    np.testing.assert_allclose(nodes.defined_points(points), found.points_ras, atol=1e-9)
    assert points.GetNthControlPointDescription(2) == f"{found.remark}; the votes spread {found.spread_mm[2]:.1f} mm"
    assert points.GetLocked() and not roi.GetLocked()
    assert nodes.volume_of(roi) is bert and roi.GetName() == "spleen"
    for node in (roi, points):
        folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
        assert hierarchy.GetItemName(folder) == "bert: organs" and hierarchy.GetItemParent(folder) == study
        assert "78961009" in node.GetAttribute(terminology.ATTRIBUTE)
        np.testing.assert_allclose(node.GetDisplayNode().GetColor(), terminology.colour("spleen"))


def test_organs_supports_and_sets_come_together(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    mark(logic, anna, "heart")
    mark(logic, anna, "liver")
    half_done = logic.examples.add(anna, "spleen")
    half_done.AddControlPointWorld(vtk.vtkVector3d(*bone(anna)[0]), "")
    loaded = logic.sets.load(example.support_set)
    assert loaded.GetName() == "set.support"
    assert logic.targets() == {"heart": 1, "liver": 1, "bone": 1, "lung": 1}
    loaded.RemoveAttribute("RPRLoc.Organs")  # as in a scene of version 0.1
    assert logic.targets() == {"heart": 1, "liver": 1, "bone": 1, "lung": 1}
    locate_all(logic, bert)
    assert [nodes.organ_of(roi) for roi in logic.results.rois()] == ["heart", "liver", "bone", "lung"]
    locate_all(logic, anna, organs=["lung", "heart"])
    assert [nodes.organ_of(roi) for roi in logic.results.rois() if nodes.volume_of(roi) is anna] == ["lung", "heart"]


def test_a_support_set_is_saved_and_loaded(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any, tmp_path: Path
) -> None:
    example = mark(logic, anna)
    logic.save_support_set(tmp_path / "set.json")
    update = run_to_end(logic)
    assert not update.failed and "set.json" in update.summary
    locate_all(logic, bert)
    by_points = nodes.box_of_roi(logic.results.rois()[0])
    logic.examples.remove(example)
    logic.results.remove(logic.results.rois()[0])
    logic.sets.load(tmp_path / "set.json")
    locate_all(logic, bert)
    np.testing.assert_allclose(nodes.box_of_roi(logic.results.rois()[0]).walls_mm, by_points.walls_mm, atol=1e-3)
    (tmp_path / "no.json").write_text('{"format": "x"}', encoding="utf-8")
    for bad in ("no.json", "missing.json"):
        with pytest.raises(InputError, match=bad):
            logic.sets.load(tmp_path / bad)
    assert len(logic.sets.all()) == 1


# What the user has corrected


def test_a_roi_that_the_user_moved_is_kept(logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    mark(logic, anna)
    locate_all(logic, bert)
    (roi,) = logic.results.rois()
    assert not logic.results.is_corrected(roi)
    centre = np.zeros(3)
    roi.GetCenterWorld(centre)
    roi.SetCenterWorld(centre[0] + 3.0, centre[1], centre[2])
    moved = nodes.box_of_roi(roi)
    assert "corrected by hand" in locate_all(logic, bert).summary
    assert logic.results.rois() == [roi] and logic.results.is_corrected(roi)
    np.testing.assert_array_equal(nodes.box_of_roi(roi).walls_mm, moved.walls_mm)
    logic.results.remove(roi)
    locate_all(logic, bert)
    assert not logic.results.is_corrected(logic.results.rois()[0])


def test_results_and_corrections_can_be_undone_and_done_again(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any
) -> None:
    mark(logic, anna)
    logic.history.record()
    locate_all(logic, anna, bert)
    roi = logic.results.rois()[1]
    found = nodes.box_of_roi(roi)
    roi.SetSize(1.0, 2.0, 3.0)
    logic.history.record()
    logic.history.undo()
    np.testing.assert_allclose(nodes.box_of_roi(roi).walls_mm, found.walls_mm, atol=1e-9)
    logic.history.undo()
    assert logic.results.rois() == [] and len(logic.examples.all()) == 1
    names = {node.GetName() for node in scene.of_class("vtkMRMLMarkupsNode")}
    assert names == {"bone (example)", "bone (preview)"}
    logic.history.redo()
    logic.history.redo()
    assert volumes_of(logic) == ["anna", "bert"]
    assert logic.results.rois()[1].GetSize() == (1.0, 2.0, 3.0)
    assert len(logic.results.rows()) == 2


# The end of a run

SLOW = (
    "import time, rprloc.localization.localizer as d\nlook = d.compute_position_field\n"
    "def slow(*a):\n    time.sleep(30)\n    return look(*a)\n"
    "d.compute_position_field = slow"
)
FULL = (
    "import torch, rprloc.localization.localizer as d\nlook, calls = d.compute_position_field, []\n"
    "def first_fails(*a):\n    calls.append(1)\n"
    "    if len(calls) == 1: raise torch.OutOfMemoryError('CUDA out of memory')\n    return look(*a)\n"
    "d.compute_position_field = first_fails"
)


def test_nothing_is_left_of_a_run_that_is_cancelled(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    logic._child = Runner(serve(example, SLOW))
    mark(logic, anna)
    before = scene.content()
    logic.locate([bert])
    while "Looking" not in (update := logic.poll()).message:
        assert update.summary is None
        time.sleep(0.02)
    pid = logic._child.pid
    assert logic.busy and pid is not None and 0.0 < update.fraction < 1.0
    logic.cancel()
    assert not logic.busy and logic.poll() is None
    assert not psutil.pid_exists(pid) and scene.content() == before


def test_a_kill_of_the_child_before_its_first_answer_leaves_the_scene_as_it_was(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    mark(logic, anna)
    before = scene.content()
    for wait_s in (0.0, 1.0):
        logic._child = Runner(serve(example, SLOW))
        logic.locate([bert, anna])
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            logic.poll()
            time.sleep(0.01)
        psutil.Process(logic._child.pid).kill()
        update = run_to_end(logic)
        assert update.failed and "process ended (code -9)" in update.summary
        assert scene.content() == before and not logic.busy
        logic._child.cancel()


DEADLY = (
    "import os, rprloc.localization.localizer as d\nlook = d.compute_position_field\n"
    "def deadly(model, volume, *a):\n    if volume.hu.max() == 1234: os.kill(os.getpid(), 9)\n"
    "    return look(model, volume, *a)\nd.compute_position_field = deadly"
)


def test_a_scan_that_kills_the_child_does_not_stop_the_others(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    """As one does that is too large for the computer's memory."""
    scan = nodes.volume_from_node(anna)
    huge = scan.hu.copy()
    huge[0, 0, 0] = 1234
    deadly, carla = scene.add_volume(huge, scan.grid, "huge"), scene.load(example.image, "carla")
    logic._child = Runner(serve(example, DEADLY))
    mark(logic, anna)
    update = locate_all(logic, bert, deadly, carla)
    assert "2 organs in 2 of 3 scans" in update.summary
    assert "huge: RPR-Loc's process ended (code -9)" in update.summary
    assert volumes_of(logic) == ["bert", "carla"]
    logic.locate([deadly])
    assert run_to_end(logic).failed
    logic._child.cancel()


def test_a_child_that_always_dies_ends_the_run(logic: RPRLocLogic, example: ExampleFiles, scene: Scene) -> None:
    volumes = [scene.load(example.image, f"scan {n}") for n in range(6)]
    logic.sets.load(example.support_set)
    logic._child = Runner(serve(example, DEADLY.replace("== 1234", "> 0")))
    logic.locate(volumes)
    update = run_to_end(logic)
    assert update.failed and "code -9" in update.summary and logic.results.rois() == []


def test_results_come_as_they_are_found_and_are_one_step_to_undo(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any, example: ExampleFiles
) -> None:
    volumes = [bert, *(scene.load(example.image, f"scan {n}") for n in range(4))]
    mark(logic, anna)
    logic.history.record()
    before = scene.content()
    logic.locate(volumes)
    seen, news = [], 0
    while (update := logic.poll()).summary is None:
        seen.append(len(logic.results.rois()))
        news += update.news
        time.sleep(0.01)
    assert {1, 2, 3} <= set(seen) and seen == sorted(seen) and news >= 3
    assert len(logic.results.rois()) == 5
    logic.history.undo()
    assert scene.content() == before
    logic.history.redo()
    assert len(logic.results.rois()) == 5


def test_a_correction_in_the_middle_of_a_run_is_a_step_of_its_own(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any, example: ExampleFiles
) -> None:
    mark(logic, anna)
    logic.history.record()
    logic.locate([bert, anna, scene.load(example.image, "carla")])
    while not logic.results.rois():
        logic.poll()
        time.sleep(0.01)
    logic.results.rois()[0].SetSize(1.0, 2.0, 3.0)
    logic.history.record()
    run_to_end(logic)
    assert len(logic.results.rois()) == 3
    logic.history.undo()
    assert [roi.GetSize() == (1.0, 2.0, 3.0) for roi in logic.results.rois()] == [True]
    logic.history.undo()
    assert [roi.GetSize() == (1.0, 2.0, 3.0) for roi in logic.results.rois()] == [False]


def test_what_was_found_before_a_cancel_stays(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any, example: ExampleFiles
) -> None:
    logic._child = Runner(serve(example))
    mark(logic, anna)
    logic.locate([bert, *(scene.load(example.image, f"scan {n}") for n in range(8))])
    while not logic.results.rois():
        logic.poll()
        time.sleep(0.01)
    told = logic.cancel()
    found = len(logic.results.rois())
    assert 1 <= found < 9 and told == f"{found} organ{'s' * (found > 1)} in {found} of 9 scans."
    assert logic.cancel() == ""


def test_scans_are_handed_over_one_at_a_time(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scan = nodes.volume_from_node(bert)
    volumes = [scene.add_volume(scan.hu + np.int16(n), scan.grid, f"scan {n}") for n in range(10)]
    mark(logic, anna)
    start = time.monotonic()
    logic.locate(volumes)
    assert time.monotonic() - start < 0.3 and list(tmp_path.glob("rprloc-*/scan*")) == []
    most = ahead = 0
    while (update := logic.poll()).summary is None:
        copies = len(list(tmp_path.glob("rprloc-*/scan*")))
        most, ahead = max(most, copies), max(ahead, copies - len(logic.results.rois()) - 1)
        time.sleep(0.01)
    assert "10 organs in 10 of 10 scans" in update.summary
    assert most <= COPIES and ahead <= 3  # searched, next in turn, being written


def test_a_file_that_only_slicer_can_read_is_copied_then(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any, example: ExampleFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header of such a file may be right and its voxels such that RPR-Loc's own reader refuses them."""
    broken = example.image.with_name("not-for-rprloc.nii.gz")
    broken.write_bytes(example.image.read_bytes()[:-40])
    monkeypatch.setattr("SlicerRPRLocLib.handover.original_file", lambda volume: broken)
    mark(logic, anna)
    update = locate_all(logic, bert)
    assert "1 organ in 1 of 1 scans" in update.summary


def test_label_maps_colours_and_other_volumes_are_a_remark(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any
) -> None:
    coloured = scene.mrml.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    slicer.util.updateVolumeFromArray(coloured, np.zeros((4, 4, 4, 3), np.uint8))
    empty = scene.mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    mark(logic, anna)
    update = locate_all(logic, coloured, empty, bert)
    assert "1 organ in 1 of 3 scans" in update.summary
    assert "photo: " in update.summary and "3 values a voxel" in update.summary and "no image" in update.summary
    assert [node.GetName() for node in nodes.scans(scene.mrml)] == ["anna", "bert", "empty"]
    with pytest.raises(InputError, match="3 values a voxel"):
        logic.locate([coloured])


def test_a_script_locates_in_one_call(scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    mark(logic, anna)
    called: list[int] = []
    told = logic.locate_and_wait([bert], meanwhile=lambda: called.append(1))
    assert told.startswith("1 organ in 1 of 1 scans.") and called and len(logic.results.rois()) == 1
    hu = np.full((30, 24, 20), -1000, np.int16)
    hu[0, 0, 0] = -999
    with pytest.raises(InputError, match="air: "):
        logic.locate_and_wait([scene.add_volume(hu, Grid(hu.shape, np.diag([4.0, 4.0, 4.0, 1.0])), "air")])


def test_an_undone_result_leaves_nothing_behind(scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any) -> None:
    mark(logic, anna)
    locate_all(logic, anna)
    before = scene.content()
    locate_all(logic, bert, anna)
    logic.history.undo()
    assert scene.content() == before


def test_two_runs_at_once_do_not_mix(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    mark(logic, anna, "heart")
    other_scene = new_scene()
    other = RPRLocLogic(other_scene.mrml, Runner(serve(example)))
    try:
        there = other_scene.load(example.image, "there")
        mark(other, there, "liver")
        logic.locate([bert])
        other.locate([there])
        assert logic._child.pid != other._child.pid
        run_to_end(logic)
        run_to_end(other)
        assert [nodes.organ_of(roi) for roi in logic.results.rois()] == ["heart"]
        assert [nodes.organ_of(roi) for roi in other.results.rois()] == ["liver"]
        logic.locate([anna])
        with pytest.raises(InputError, match="A run is under way"):
            logic.locate([bert])
        run_to_end(logic)
        assert volumes_of(logic) == ["bert", "anna"]
    finally:
        other.close()
        other_scene.close()


def test_a_missing_torch_is_told_in_a_sentence(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    logic._child = Runner(serve(example, "sys.modules['torch'] = None"))
    mark(logic, anna)
    before = scene.content()
    logic.locate([bert])
    update = run_to_end(logic)
    assert update.failed and "package torch is missing" in update.summary and scene.content() == before


def test_a_full_gpu_is_told_and_the_cpu_gives_the_result(
    logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    """The first pass raises what PyTorch raises when a GPU is full."""
    logic._child = Runner([*serve(example, FULL)[:-1], "auto"])
    mark(logic, anna)
    update = locate_all(logic, bert)
    assert "The GPU has too little free memory" in update.summary and len(logic.results.rois()) == 1


def test_of_several_queries_those_that_can_be_used_are_done(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any
) -> None:
    hu = np.full((30, 24, 20), -1000, np.int16)
    hu[0, 0, 0] = -999
    air = scene.add_volume(hu, Grid(hu.shape, np.diag([4.0, 4.0, 4.0, 1.0])), "air")
    mark(logic, anna)
    update = locate_all(logic, air, bert)
    assert "1 organ in 1 of 2 scans" in update.summary and "air: " in update.summary
    assert volumes_of(logic) == ["bert"]
    logic.locate([air])
    update = run_to_end(logic)
    assert update.failed and update.summary.startswith("air: ")


def test_a_volume_that_changes_during_a_run_gets_no_result(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, anna: Any, bert: Any
) -> None:
    carla = scene.load(example.image, "carla")
    logic._child = Runner(serve(example, SLOW.replace("30", "1")))
    mark(logic, anna)
    logic.locate([anna, bert, carla])
    while len(logic._run.waiting) > 1:  # bert is handed over, carla not yet
        logic.poll()
        time.sleep(0.01)
    scene.transform(rigid(), bert)
    scene.mrml.RemoveNode(carla)
    update = run_to_end(logic)
    assert "bert: it was moved" in update.summary and "carla: it was removed" in update.summary
    assert volumes_of(logic) == ["anna"]
    logic._child.cancel()


def test_what_cannot_be_located_is_refused_before_anything_starts(
    scene: Scene, logic: RPRLocLogic, anna: Any, bert: Any
) -> None:
    with pytest.raises(InputError, match="no example yet"):
        logic.locate([bert])
    half = logic.examples.add(anna, "heart")
    with pytest.raises(InputError, match=r"heart \(example\): The organ has 0 extreme points, not six"):
        logic.locate([bert])
    logic.examples.remove(half)
    mark(logic, anna)
    with pytest.raises(InputError, match="No query volume"):
        logic.locate([])
    with pytest.raises(InputError, match=r"no complete example of liver.*: bone"):
        logic.locate([bert], ["liver"])
    with pytest.raises(InputError, match="no image"):
        logic.locate([scene.mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")])
    assert not logic.busy


def test_a_volume_is_handed_over_once_and_nothing_stays_on_disk(
    logic: RPRLocLogic, anna: Any, bert: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mark(logic, anna)
    locate_all(logic, bert)
    scans = sorted(tmp_path.glob("rprloc-*/scan*.nrrd"))
    assert len(scans) == 2
    locate_all(logic, bert)
    assert sorted(tmp_path.glob("rprloc-*/scan*.nrrd")) == scans
    slicer.util.arrayFromVolume(bert)[0, 0, 0] = 5
    slicer.util.arrayFromVolumeModified(bert)
    locate_all(logic, bert)
    changed = sorted(tmp_path.glob("rprloc-*/scan*.nrrd"))
    assert len(changed) == 2 and changed != scans
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in tmp_path.glob("rprloc-*"))
    logic.close()
    assert list(tmp_path.iterdir()) == []
