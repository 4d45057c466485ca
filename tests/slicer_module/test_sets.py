"""Support sets in a scene: files, plain and gzipped, and ready-made ones, of which the scene keeps the name alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rprloc.errors import InputError
from rprloc.localization import ready_made
from rprloc.localization.support import About, Measured, SupportSet, summarize
from tests.example import ExampleFiles
from tests.slicer_module.scenes import NO_SLICER, Scene, locate_all, mark, new_scene, run_to_end

pytest.importorskip("slicer", reason=NO_SLICER)

from SlicerRPRLocLib import nodes, sets
from SlicerRPRLocLib.logic import RPRLocLogic

SHOTS = 13


def installed_set(example: ExampleFiles, shots: int) -> SupportSet:
    """A set of the example's weights with as many examples of bone and lung, of scans that are called differently."""
    (support,) = SupportSet.load(example.support_set).supports
    measured = {"bone": Measured(0.61, 4.2, 9)}
    about = About("Bones and lungs", ("a phantom",), "MIT licence", "9 phantoms", measured)
    named = tuple(type(support)(**{**vars(support), "scan": f"scan {n}"}) for n in range(shots))
    return SupportSet(SupportSet.load(example.support_set).model_id, named, about)


@pytest.fixture
def folder(example: ExampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the ready-made sets, with one that the child's random weights take: ``@phantom``."""
    made = tmp_path / "sets"
    made.mkdir()
    installed_set(example, SHOTS).save(made / "phantom.support.json.gz")
    monkeypatch.setattr(ready_made, "shipped_folder", lambda name: made)
    return made


def test_the_list_says_what_a_ready_made_set_finds_and_its_licence(folder: Path) -> None:
    (name,) = sets.ready_made()
    text, tip = sets.describe_ready_made(name, sets.ready_made()[name])
    assert text == "@phantom: Bones and lungs"
    assert "bone: 13 examples, IoU 0.61, walls 4.2 mm off" in tip and "Measured in 9 phantoms" in tip
    assert (
        "lung: 13 examples" in tip
        and "From a phantom." in tip
        and tip.endswith("Licence of the examples: MIT licence.")
    )


def test_the_shipped_sets_are_offered_with_their_organs() -> None:
    offered = sets.ready_made()
    assert {"@head-neck", "@trunk"} <= set(offered)
    for name, summary in offered.items():
        whole = SupportSet.load(name)
        assert summary == summarize(ready_made.find_set(name)) and summary.about == whole.about
        assert list(summary.organs) == whole.organs and summary.identity
        assert max(summary.organs.values()) <= len(whole.supports)
        assert "Licence of the examples: " in sets.describe_ready_made(name, summary)[1]


def test_its_organs_stand_in_the_list_without_marking(logic: RPRLocLogic, bert: Any, folder: Path) -> None:
    node = logic.sets.add_ready_made("@phantom")
    assert logic.sets.add_ready_made("@phantom") is node and logic.sets.all() == [node]
    assert logic.describe_targets() == {"bone": "bone (13)", "lung": "lung (13)"}
    assert logic.describe_examples() == {node.GetID(): "@phantom: bone, lung"}
    assert "1 organ in 1 of 1 scans." in locate_all(logic, bert, organs=["lung"]).summary
    with pytest.raises(InputError, match="@nothing is not installed"):
        logic.sets.add_ready_made("@nothing")
    nodes.remove(node)
    assert logic.targets() == {}


def test_a_set_without_what_is_wanted_is_not_handed_over(
    logic: RPRLocLogic, anna: Any, bert: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logic.sets.add_ready_made("@phantom")
    mark(logic, anna, "heart")
    asked: list[str] = []
    submit = logic._child.submit

    def noting(command: str, **options: object) -> int:
        asked.append(command)
        return int(submit(command, **options))

    monkeypatch.setattr(logic._child, "submit", noting)
    locate_all(logic, bert, organs=["heart"])
    assert asked == ["build", "locate"]
    locate_all(logic, bert, organs=["lung"])
    assert asked[2:] == ["locate"]  # the installed file itself
    locate_all(logic, bert, organs=["heart", "lung"])
    assert asked[3:] == ["build", "merge", "locate"]


def test_it_counts_together_with_an_example_of_ones_own(logic: RPRLocLogic, anna: Any, bert: Any, folder: Path) -> None:
    logic.sets.add_ready_made("@phantom")
    mark(logic, anna, "bone")
    assert logic.targets() == {"bone": SHOTS + 1, "lung": SHOTS}
    locate_all(logic, bert)
    shots = {nodes.organ_of(roi): len(logic.results.record(roi).found.supports) for roi in logic.results.rois()}
    assert shots == {"bone": SHOTS + 1, "lung": SHOTS}


def test_a_scene_keeps_the_name_alone_and_opens_again(
    scene: Scene, logic: RPRLocLogic, folder: Path, tmp_path: Path
) -> None:
    node = logic.sets.add_ready_made("@phantom")
    assert not node.GetText()
    assert scene.mrml.WriteToMRB(str(tmp_path / "scene.mrb"), None)
    assert (tmp_path / "scene.mrb").stat().st_size < 50_000 < (folder / "phantom.support.json.gz").stat().st_size
    again = new_scene()
    read = RPRLocLogic(again.mrml, logic._child)
    try:
        assert again.mrml.ReadFromMRB(str(tmp_path / "scene.mrb"), True)
        (node,) = read.sets.all()
        assert read.targets() == {"bone": SHOTS, "lung": SHOTS} and read.sets.doubt(node) == ""
    finally:
        again.close()


def test_another_installed_set_is_told_and_used(
    logic: RPRLocLogic, example: ExampleFiles, bert: Any, folder: Path
) -> None:
    node = logic.sets.add_ready_made("@phantom")
    installed_set(example, 2).save(folder / "phantom.support.json.gz")
    assert "not the one that this scene was made with" in logic.describe_examples()[node.GetID()]
    assert logic.targets() == {"bone": 2, "lung": 2}
    assert "@phantom that is installed here is another one" in locate_all(logic, bert).summary
    assert logic.sets.add_ready_made("@phantom") is node and logic.sets.doubt(node) == ""
    assert "another one" not in locate_all(logic, bert).summary


@pytest.mark.parametrize("damaged", [False, True], ids=["missing", "damaged"])
def test_a_set_that_is_not_installed_stops_a_run_before_it_starts(
    logic: RPRLocLogic, anna: Any, bert: Any, folder: Path, tmp_path: Path, damaged: bool
) -> None:
    logic.sets.add_ready_made("@phantom")
    mark(logic, anna, "heart")
    file = folder / "phantom.support.json.gz"
    if damaged:
        file.write_bytes(file.read_bytes()[:1000])
    else:
        file.unlink()
    assert "@phantom (not installed)" in logic.describe_examples().values()
    assert logic.targets() == {"heart": 1} and sets.ready_made() == {}
    for start in (
        lambda: logic.locate([bert]),
        lambda: logic.save_support_set(tmp_path / "set.json"),
    ):
        with pytest.raises(InputError, match=r"Install RPR-Loc again, whole\. Or remove the set from the examples\."):
            start()
    assert not logic.busy and not (tmp_path / "set.json").exists()
    nodes.remove(logic.sets.all()[0])
    locate_all(logic, bert)


def test_a_set_that_is_saved_holds_the_ready_made_one(
    logic: RPRLocLogic, anna: Any, folder: Path, tmp_path: Path
) -> None:
    logic.sets.add_ready_made("@phantom")
    mark(logic, anna, "bone")
    logic.save_support_set(tmp_path / "set.json.gz")
    assert not run_to_end(logic).failed
    assert len(SupportSet.load(tmp_path / "set.json.gz").supports) == SHOTS + 1


@pytest.mark.parametrize("name", ["set.json", "set.json.gz", "set.support.json.gz"])
def test_plain_and_gzipped_files_are_loaded(
    logic: RPRLocLogic, example: ExampleFiles, tmp_path: Path, name: str
) -> None:
    SupportSet.load(example.support_set).save(tmp_path / name)
    node = logic.sets.load(tmp_path / name)
    assert node.GetName() == name.split(".json")[0] and logic.targets() == {"bone": 1, "lung": 1}
    shutil.copy(example.image, tmp_path / "scan.json.gz")
    with pytest.raises(InputError):
        logic.sets.load(tmp_path / "scan.json.gz")
    assert logic.sets.all() == [node]


def test_sets_that_were_added_and_removed_come_back_whole(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, folder: Path, anna: Any
) -> None:
    def told() -> dict[str, str]:
        return {node.GetName(): logic.sets.describe(node) for node in logic.sets.all()}

    loaded = logic.sets.load(example.support_set)
    logic.history.record()
    logic.sets.add_ready_made("@phantom")
    logic.history.record()
    both, text = told(), loaded.GetText()
    for node in logic.sets.all():
        nodes.remove(node)
        logic.history.record()
    assert told() == {} and logic.targets() == {}
    logic.history.undo()
    logic.history.undo()
    assert told() == both and loaded in logic.sets.all() and loaded.GetText() == text
    locate_all(logic, anna)  # as good as before
    for _ in range(3):
        logic.history.undo()
    assert told() == {} and len(logic.results.rois()) == 0
    logic.history.redo()
    assert list(told()) == [loaded.GetName()]
    logic.history.redo()
    assert told() == both
    scene.mrml.RemoveNode(loaded)  # in the module Data
    logic.history.undo()
    assert told() == both
