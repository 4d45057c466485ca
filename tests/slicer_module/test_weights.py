"""Weights in the panel: which there are, what they are for, and which scans of the scene that is."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rprloc.errors import InputError
from rprloc.evaluation.views import imitate_mr
from rprloc.io.results import TABLE
from rprloc.model.network import RPRNet, save_model
from rprloc.model.shipped import find_weights, read_licence
from tests.example import ExampleFiles
from tests.slicer_module.desktop import Desktop
from tests.slicer_module.panels import choose_heart_of, click_six_points, settle, until
from tests.slicer_module.scenes import NO_SLICER, Scene, bone, locate_all, mark, run_to_end, volumes_of

pytest.importorskip("slicer", reason=NO_SLICER)
import slicer

from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.export import export_results
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.runner import Runner, serve_command
from SlicerRPRLocLib.weights import (
    describe_scans,
    describe_weights,
    fits,
    modality_of_scan,
    modality_of_weights,
    require_weights,
)

SHIPPED = ["research (CT)", "open (CT)", "ct-mr (CT+MR)"]


@pytest.fixture(scope="module")
def for_mr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital's own weights."""
    net = RPRNet()
    net.modality = "MR"
    folder = tmp_path_factory.mktemp("weights") / "abdomen"
    folder.mkdir()
    save_model(net, folder / "model.pt")
    return folder / "model.pt"


def say(volume: Any, modality: str) -> Any:
    """What Slicer's module DICOM notes of a volume that it loads; gives the volume."""
    # Not by the module's own function, which must note it as Slicer does.
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume.GetScene())
    item = hierarchy.GetItemByDataNode(volume) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), volume)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", modality)
    return volume


def like_mr(scene: Scene, volume: Any, name: str) -> Any:
    """A volume as MR would show what another one does."""
    scan = nodes.volume_from_node(volume)
    return scene.add_volume(imitate_mr(scan.hu), scan.grid, name)


# What is known


def test_scans_that_are_known_to_be_of_another_modality_do_not_fit(
    scene: Scene, anna: Any, bert: Any, for_mr: Path, tmp_path: Path
) -> None:
    say(bert, "MR")
    pet = say(like_mr(scene, anna, "pet"), "PT")
    assert [modality_of_scan(volume) for volume in (anna, bert, pet)] == ["", "MR", "PT"]
    both = RPRNet()
    both.modality = "CT+MR"
    save_model(both, for_both := tmp_path / "both.pt")
    misfits_of = {"open": {"bert": "MR", "pet": "PT"}, str(for_mr): {"pet": "PT"}, str(for_both): {"pet": "PT"}}
    for weights, misfits in misfits_of.items():
        wanted = modality_of_weights(weights)
        told = describe_scans(scene.mrml, weights)
        assert list(told) == [volume.GetID() for volume in (anna, bert, pet)]
        for volume in (anna, bert, pet):
            known = misfits.get(volume.GetName())
            assert fits(volume, weights) == (known is None)
            more = f" ({known}; the weights are for {wanted})" if known else ""
            assert told[volume.GetID()] == f"{volume.GetName()}{more}"


def test_weights_tell_what_they_are_for_and_files_that_are_none_are_told(for_mr: Path, tmp_path: Path) -> None:
    assert describe_weights("open") == ("open (CT)", read_licence(find_weights("open")))
    assert describe_weights(str(for_mr)) == ("abdomen/model.pt (MR)", str(for_mr))
    (tmp_path / "notes.pt").write_text("no weights", encoding="utf-8")
    assert describe_weights(str(tmp_path / "notes.pt"))[0].endswith("notes.pt (no weights of RPR-Loc)")
    require_weights("research")
    require_weights(str(for_mr))
    for gone in (str(tmp_path / "gone.pt"), str(tmp_path), "newer-model", "x" * 5000, "a\0b"):
        assert modality_of_weights(gone) == ""
        assert describe_weights(gone)[0].endswith("(not on this computer)")
        with pytest.raises(InputError, match="Choose others in Weights, or bring the file back"):
            require_weights(gone)


def test_of_weights_that_only_a_newer_version_knows_no_scan_is_said_to_be_another(
    tmp_path: Path, scene: Scene, bert: Any
) -> None:
    name = torch.tensor(list(b"CT+PT"), dtype=torch.uint8)
    torch.save({**RPRNet().state_dict(), "modality_name": name}, tmp_path / "newer.pt")
    assert describe_weights(str(tmp_path / "newer.pt"))[0].endswith("newer.pt (CT+PT)")
    assert fits(say(bert, "MR"), str(tmp_path / "newer.pt"))


def test_weights_that_are_written_anew_are_looked_at_again(tmp_path: Path) -> None:
    net, path = RPRNet(), tmp_path / "model.pt"
    save_model(net, path)
    assert modality_of_weights(str(path)) == "CT"
    net.modality = "MR"
    save_model(net, path)
    assert modality_of_weights(str(path)) == "MR"


# The child


def test_a_known_modality_goes_to_the_child_with_a_copy(scene: Scene, logic: Any, anna: Any) -> None:
    bert = like_mr(scene, anna, "bert")
    mark(logic, anna)
    assert "look like CT" in locate_all(logic, bert).summary  # nobody knows better
    say(bert, "MR")
    logic.locate([bert])
    update = run_to_end(logic)
    assert update.failed and "bert: " in update.summary and "says that it is MR, but CT is needed" in update.summary
    say(bert, "PT")
    assert "says that it is PT, not CT" in locate_all(logic, bert).summary
    say(anna, "MR")  # Hounsfield units, as of CT that was computed from MR
    assert "says that it is MR, not CT" in locate_all(logic, bert).summary


def test_own_weights_for_mr_find_in_mr_and_refuse_ct(scene: Scene, anna: Any, for_mr: Path) -> None:
    mr, ct = like_mr(scene, anna, "mr"), say(like_mr(scene, anna, "ct"), "CT")
    logic = RPRLocLogic(scene.mrml, Runner(serve_command("cpu", str(for_mr))))
    try:
        logic.examples.set_points(logic.examples.add(mr, "bone"), bone(anna))
        summary = locate_all(logic, mr, ct).summary
        assert volumes_of(logic) == ["mr"] and "1 organ in 1 of 2 scans" in summary
        assert "says that it is CT, but MR is needed" in summary
        assert f"with the weights {for_mr}, which are for MR, from " in logic.about_child
    finally:
        logic.close()


def test_results_of_two_weights_in_a_scene_are_told_apart(
    scene: Scene, logic: Any, anna: Any, for_mr: Path, tmp_path: Path
) -> None:
    bert, carl = like_mr(scene, anna, "bert"), like_mr(scene, anna, "carl")
    for organ in ("bone", "heart", "lung"):
        mark(logic, anna, organ)
    assert "other weights" not in locate_all(logic, bert, carl).summary
    for organ, name in (("heart", bert), ("heart", carl)):
        logic.results.check((name.GetID(), organ), True)
    other = RPRLocLogic(scene.mrml, Runner(serve_command("cpu", str(for_mr))))
    try:
        logic.examples.remove(logic.examples.find(anna, "bone"))
        logic.examples.set_points(logic.examples.add(carl, "bone"), bone(anna))
        summary = locate_all(other, bert, organs=["bone"]).summary
        told = "Still of other weights: lung in bert, bone in carl, lung in carl. Locate or delete these, too."
        assert told in summary
    finally:
        other.close()
    (new,) = {row["model_id"] for row in exported(other, tmp_path) if (row["query"], row["organ"]) == ("bert", "bone")}
    (old,) = {row["model_id"] for row in exported(other, tmp_path) if (row["query"], row["organ"]) != ("bert", "bone")}
    assert new != old
    assert set(logic.results.as_they_are(bert).model_id.split()) == {new, old}
    assert logic.results.as_they_are(carl).model_id == old


def exported(logic: Any, folder: Path) -> list[dict[str, str]]:
    """The exported table."""
    export_results(logic.results, folder, markups=False, label_map=False, table=True)
    with (folder / TABLE).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# The panel


def choose(panel: Any, index: int) -> None:
    """What Qt tells of a choice of the user's."""
    panel.ui.weightsBox.setCurrentIndex(index)
    panel.ui.weightsBox.activated.emit(index)
    settle(panel)


def entries(box: Any) -> list[str]:
    return [box.itemText(index) for index in range(box.count())]


def scans(panel: Any) -> list[str]:
    return [panel.ui.scanList.item(row).text() for row in range(panel.ui.scanList.count())]


def test_own_weights_are_chosen_and_the_next_run_takes_them(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles, for_mr: Path
) -> None:
    anna = choose_heart_of(panel, scene.load(example.image, "anna"))
    click_six_points(panel, bone(anna))
    mr, ct, untold = (scene.load(example.image, name) for name in ("mr", "ct", "untold"))
    say(mr, "MR"), say(ct, "CT")
    panel.refresh()
    box = panel.ui.weightsBox
    assert entries(box) == [*SHIPPED, "A file of your own..."]
    assert box.currentIndex() == 0 and read_licence(find_weights()) in box.toolTip()
    assert scans(panel) == ["anna", "mr (MR; the weights are for CT)", "ct", "untold"]
    panel.ui.allButton.click()
    assert panel.scans.ticked() == [ct.GetID(), untold.GetID()]
    # No file is chosen.
    choose(panel, 3)
    assert box.currentIndex() == 0 and panel.parameters.weights == "research"
    # One is.
    desktop.file = str(for_mr)
    choose(panel, 3)
    assert desktop.offers("model.pt") and panel.parameters.weights == str(for_mr)
    assert entries(box) == [*SHIPPED, "abdomen/model.pt (MR)", "A file of your own..."]
    assert box.currentIndex() == 3 and str(for_mr) in box.toolTip()
    assert scans(panel) == ["anna", "mr", "ct (CT; the weights are for MR)", "untold"]
    panel.ui.allButton.click()
    assert panel.scans.ticked() == [mr.GetID(), untold.GetID()]
    panel.ui.locateButton.click()
    assert panel.children[1:] == [("auto", str(for_mr))] and desktop.errors == []
    panel.ui.cancelButton.click()
    choose(panel, 1)
    panel.scans.tick([untold.GetID()])
    panel.ui.locateButton.click()
    until(panel, lambda: not panel.logic.busy)
    assert panel.children[2:] == [("auto", "open")] and "which are for CT" in panel.ui.processLabel.text()
    choose(panel, 0)
    assert panel.ui.processLabel.text() == "" and panel.logic.about_child == ""  # the old process has ended


@pytest.mark.parametrize("written", ["model.pt", "trust.json"])
def test_weights_that_were_written_anew_are_run_anew(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles, tmp_path: Path, for_mr: Path, written: str
) -> None:
    own = Path(shutil.copy(example.weights, tmp_path / "model.pt"))
    anna = choose_heart_of(panel, scene.load(example.image, "anna"))
    click_six_points(panel, bone(anna))
    desktop.file = str(own)
    choose(panel, 3)
    panel.scans.tick([anna.GetID()])
    for _ in range(2):
        panel.ui.locateButton.click()
        panel.ui.cancelButton.click()
    assert panel.children == [("auto", "research"), ("auto", str(own))]
    shutil.copy(for_mr if written == "model.pt" else find_weights().with_name(written), tmp_path / written)
    panel.ui.locateButton.click()
    panel.ui.cancelButton.click()
    assert panel.children[2:] == [("auto", str(own))] and desktop.errors == []


def test_weights_that_are_gone_are_told_and_nothing_is_started(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles, tmp_path: Path
) -> None:
    anna = choose_heart_of(panel, scene.load(example.image, "anna"))
    click_six_points(panel, bone(anna))
    panel.parameters.weights = str(tmp_path / "theirs" / "model.pt")  # of a scene from another computer
    panel.refresh()
    assert panel.ui.weightsBox.currentText() == "theirs/model.pt (not on this computer)"
    panel.ui.allButton.click()
    panel.scans.tick([anna.GetID()])
    panel.ui.locateButton.click()
    assert "model.pt are not on this computer. Choose others in Weights" in desktop.errors.pop()
    assert not panel.logic.busy and panel.children == [("auto", "research")]
    choose(panel, 0)
    panel.ui.locateButton.click()
    until(panel, lambda: not panel.logic.busy)
    assert desktop.errors == [] and len(panel.logic.results.rois()) == 1
    panel.parameters.weights = str(tmp_path / "theirs" / "model.pt")
    scene.mrml.Clear(0)
    settle(panel)
    assert panel.ui.weightsBox.currentText() == "research (CT)"
    assert entries(panel.ui.weightsBox) == [*SHIPPED, "A file of your own..."]
