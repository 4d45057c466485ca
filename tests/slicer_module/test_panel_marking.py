"""Section 1 of the panel: landmarks and support sets, from the click to the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprloc.detection import AbsentLandmark, Detections
from rprloc.localization.support import SupportSet
from tests.example import ExampleFiles
from tests.slicer_module.desktop import Desktop
from tests.slicer_module.findings import landmark
from tests.slicer_module.mouse import Mouse
from tests.slicer_module.panels import (
    cells,
    chosen_example,
    click_example,
    click_row,
    count_refreshes,
    drawn,
    settle,
    shown,
    tick_row,
    until,
)
from tests.slicer_module.scenes import NO_SLICER, Scene, bone

pytest.importorskip("slicer", reason=NO_SLICER)

from SlicerRPRLocLib import nodes


def place_tip(panel: Any, scene: Scene, volume: Any) -> Any:
    """Mark the tip of the phantom's bone by one click; gives the example."""
    settle(panel)
    panel.ui.supportSelector.choose(volume)
    panel.ui.organEdit.setText("tip")
    panel.ui.landmarkBox.setChecked(True)
    settle(panel)
    panel.ui.placeButton.click()
    assert Mouse(scene).click(bone(volume)[5])
    settle(panel)
    return chosen_example(panel)


def test_a_landmark_from_one_click_to_exported_files(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles, tmp_path: Path
) -> None:
    anna, bert = scene.load(example.image, "anna"), scene.load(example.image, "bert")
    ui = panel.ui
    assert ui.placeButton.text() == "Place six points"
    # Mark.
    marked = place_tip(panel, scene, anna)
    assert ui.placeButton.text() == "Place the point" and "Click the landmark" in ui.placeButton.toolTip()
    assert shown(scene) == {anna.GetID()} and not Mouse(scene).places
    assert ui.guidanceLabel.text().startswith("The tip is marked")
    assert ui.exampleList.item(0).text() == "tip (landmark) on anna"
    assert ui.organList.item(0).text() == "tip (landmark)"
    # Locate.
    ui.allButton.click()
    ui.locateButton.click()
    until(panel, lambda: not panel.logic.busy)
    settle(panel)
    assert "1 landmark in 1 of 1 scans" in ui.statusLabel.text()
    assert (cells(panel, 0), cells(panel, 1), cells(panel, 2)) == (["tip"], ["bert"], ["point"])
    # Check and correct.
    click_row(panel, 0)
    (point,) = panel.logic.results.landmarks.all()
    assert shown(scene) == {bert.GetID()} and drawn(scene) == {"bert"} and not point.GetLocked()
    assert ui.deleteButton.isEnabled() and not ui.cropButton.isEnabled()
    tick_row(panel, 0)
    settle(panel)
    mouse, place, refreshed = Mouse(scene), nodes.defined_points(point)[0], count_refreshes(panel)
    mouse.grab(point)
    for step in range(1, 4):
        mouse.drag(point, 0, place + step)
        settle(panel)
    assert refreshed == []
    mouse.let_go(point)
    settle(panel)
    assert cells(panel, 3) == ["corrected"]
    # Export.
    (tmp_path / "out").mkdir()
    ui.exportPath.setCurrentPath(str(tmp_path / "out"))
    settle(panel)
    ui.exportButton.click()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bert.mrk.json", "organs.csv"]
    assert ",yes,yes," in (tmp_path / "out" / "organs.csv").read_text(encoding="utf-8")
    # Undo, redo, delete.
    ui.undoButton.click()
    np.testing.assert_allclose(nodes.defined_points(point)[0], place)
    ui.redoButton.click()
    assert cells(panel, 3) == ["corrected"]
    ui.deleteButton.click()
    assert cells(panel, 0) == [] and panel.logic.results.landmarks.all() == []
    # Remove, and undo that.
    click_example(panel, 0)
    assert shown(scene) == {anna.GetID()}
    ui.removeButton.click()
    assert ui.exampleList.count() == 0
    ui.undoButton.click()
    assert ui.exampleList.item(0).text() == "tip (landmark) on anna" and marked.GetScene() is None
    assert desktop.errors == []


@pytest.mark.parametrize("multiple", [0, 1])
def test_a_point_outside_is_refused_and_placing_goes_on(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles, multiple: int
) -> None:
    anna = scene.load(example.image, "anna")
    interaction = scene.mrml.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    interaction.SetPlaceModePersistence(multiple)
    settle(panel)
    panel.ui.supportSelector.choose(anna)
    panel.ui.organEdit.setText("tip")
    panel.ui.landmarkBox.setChecked(True)
    settle(panel)
    panel.ui.placeButton.click()
    mouse, place = Mouse(scene), bone(anna)[5]
    assert mouse.click(place + np.array([0, 0, 5000.0]))
    settle(panel)
    assert "was not taken" in panel.ui.guidanceLabel.text() and mouse.places
    assert mouse.click(place)
    settle(panel)
    assert not mouse.places and interaction.GetPlaceModePersistence() == multiple
    marked = chosen_example(panel)
    mouse.grab(marked)
    mouse.drag(marked, 0, place - np.array([0, 0, 2.0]))
    settle(panel)
    mouse.let_go(marked)
    settle(panel)
    np.testing.assert_allclose(nodes.defined_points(marked), [place - np.array([0, 0, 2.0])])
    panel.ui.placeButton.click()  # it has its point
    assert not mouse.places
    panel.ui.undoButton.click()
    np.testing.assert_allclose(nodes.defined_points(chosen_example(panel)), [place])
    assert desktop.errors == []


def test_the_name_of_an_organ_is_no_landmarks(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles
) -> None:
    anna = scene.load(example.image, "anna")
    place_tip(panel, scene, anna)
    panel.ui.landmarkBox.setChecked(False)
    settle(panel)
    panel.ui.placeButton.click()
    assert "tip is marked as a landmark on anna" in desktop.errors.pop() and desktop.errors == []
    assert panel.ui.placeButton.text() == "Place six points"


def test_an_absent_landmark_is_read_and_ticked(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles
) -> None:
    bert = scene.load(example.image, "bert")
    absent = AbsentLandmark("carina", 0.04, ("anna",))
    found = Detections("bert", (), "m", "s", landmarks=(landmark("tip", bone(bert)[5], 17.0), absent))
    panel.logic.results.apply([(bert, found)])
    panel.refresh()
    assert cells(panel, 0) == ["tip", "carina"] and cells(panel, 2) == ["point", "absent"]
    click_row(panel, 1)
    assert "carina is not in the scan" in panel.ui.statusLabel.text() and not panel.ui.deleteButton.isEnabled()
    tick_row(panel, 1)
    settle(panel)
    assert [row.checked for row in panel.logic.results.rows()] == [False, True] and desktop.errors == []


def test_a_ready_made_set_is_added_seen_and_removed(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles
) -> None:
    ui = panel.ui
    texts = [ui.readyMadeBox.itemText(index) for index in range(ui.readyMadeBox.count())]
    assert [text.split(":")[0] for text in texts] == ["@head-neck", "@trunk"]
    ui.readyMadeBox.setCurrentIndex(1)
    assert "heart" in ui.readyMadeBox.toolTip() and "Licence of the examples: " in ui.readyMadeBox.toolTip()
    ui.readyMadeButton.click()
    ui.readyMadeButton.click()  # once more adds nothing
    assert ui.exampleList.count() == 1 and ui.exampleList.item(0).text().startswith("@trunk: ")
    wanted = SupportSet.load("@trunk").organs
    assert panel.organs.ticked() == wanted and "nothing has to be marked" in ui.guidanceLabel.text()
    assert ui.removeButton.isEnabled()
    click_example(panel, 0)
    ui.removeButton.click()
    settle(panel)
    assert ui.exampleList.count() == 0 and panel.organs.ticked() == [] and panel.logic.sets.all() == []
    assert desktop.errors == []


def test_without_ready_made_sets_the_panel_opens_and_says_so(
    desktop: Desktop, panel: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from rprloc.localization import ready_made

    monkeypatch.setattr(ready_made, "shipped_folder", lambda name: tmp_path)
    bare = type(panel)()
    bare.setup()
    bare.refresh()
    assert bare.ui.readyMadeBox.count() == 0 and not bare.ui.readyMadeButton.isEnabled()
    assert "No ready-made set" in bare.ui.readyMadeButton.toolTip()
    bare.cleanup()


@pytest.mark.parametrize("name", ["set.json.gz", "set.json"])
def test_files_of_both_kinds_are_offered_saved_and_loaded(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles, tmp_path: Path, name: str
) -> None:
    place_tip(panel, scene, scene.load(example.image, "anna"))
    desktop.file = str(tmp_path / name)
    panel.ui.saveSetButton.click()
    until(panel, lambda: not panel.logic.busy)
    assert desktop.offers(name)
    click_example(panel, 0)
    panel.ui.removeButton.click()
    panel.ui.loadSetButton.click()
    assert desktop.offers(name) and not desktop.offers("set.txt")
    assert panel.ui.exampleList.item(0).text() == "set: tip" and desktop.errors == []
