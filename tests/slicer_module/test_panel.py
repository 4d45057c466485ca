"""The panel in a real Qt, offscreen: its whole flow, by stand-ins of Slicer's own widgets."""

from __future__ import annotations

import gc
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.example import ExampleFiles
from tests.slicer_module.desktop import Desktop, all_widgets, load_ui
from tests.slicer_module.scenes import NO_SLICER, Nobody, Scene, bone, segmentation

pytest.importorskip("slicer", reason=NO_SLICER)
import slicer
import vtk

from SlicerRPRLocLib import nodes


@pytest.fixture(scope="session")
def application() -> Iterator[Any]:
    """Qt without a display."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QT_QPA_PLATFORM", "offscreen")
        widgets = pytest.importorskip(
            "PySide6.QtWidgets", reason="Qt cannot be loaded here (PySide6 and libEGL)", exc_type=ImportError
        )
        made = widgets.QApplication.instance() or widgets.QApplication(["tests"])
        yield made
        gc.collect()
        made.processEvents()


@pytest.fixture
def desktop(application: Any, scene: Scene, example: ExampleFiles, monkeypatch: pytest.MonkeyPatch) -> Desktop:
    made = Desktop(scene, example)
    for name, module in made.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
        if name.startswith("slicer."):
            monkeypatch.setattr(slicer, name.removeprefix("slicer."), module, raising=False)
    for name in ("SlicerRPRLocLib.widget", "SlicerRPRLoc"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(slicer.util, "loadUI", lambda path: load_ui(Path(path)), raising=False)
    monkeypatch.setattr(
        slicer.util,
        "childWidgetVariables",
        lambda panel: types.SimpleNamespace(**{child.objectName(): child for child in all_widgets(panel)}),
    )
    monkeypatch.setattr(slicer.util, "tryWithErrorDisplay", made.try_with_error_display, raising=False)
    monkeypatch.setattr(slicer.util, "startupEnvironment", lambda: None)
    return made


@pytest.fixture
def panel(desktop: Desktop, child: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module's panel, set up, with a child of random weights."""
    import SlicerRPRLocLib.widget as widget

    used: list[str] = []

    def runner(self: Any, device: str) -> Any:
        used.append(device)
        return child

    monkeypatch.setattr(widget.SlicerRPRLocWidget, "_runner", runner)
    made = widget.SlicerRPRLocWidget()
    made.devices = used
    made.setup()
    made.enter()
    yield made
    made.exit()
    if not made.logic.busy:
        made.logic._child = Nobody()  # the next tests use the child, too
    made.cleanup()
    import shiboken6

    shiboken6.delete(made.parent)  # Qt's widgets, while the application is there


def until(panel: Any, done: Callable[[], bool], seconds: float = 60.0) -> None:
    """Let Qt's timers run until something is true."""
    from PySide6 import QtWidgets

    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, panel.ui.statusLabel.text()
        QtWidgets.QApplication.processEvents()
        time.sleep(0.01)


def settle(panel: Any) -> None:
    """Let Qt do what was put off to a later moment."""
    from PySide6 import QtWidgets

    for _ in range(5):
        QtWidgets.QApplication.processEvents()
        time.sleep(0.002)


def click_six_points(panel: Any, points: np.ndarray) -> None:
    panel.ui.placeButton.click()
    for point in points:
        panel.parameters.example.AddControlPointWorld(vtk.vtkVector3d(*point), "")
        settle(panel)


def test_the_whole_flow_from_six_clicks_to_exported_files(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles, tmp_path: Path
) -> None:
    anna, bert = scene.load(example.image, "anna"), scene.load(example.image, "bert")
    ui = panel.ui
    assert not ui.locateButton.isEnabled()
    # Mark.
    ui.supportSelector.setCurrentNode(anna)
    ui.organEdit.setText("heart")
    ui.placeButton.click()
    assert ui.guidanceLabel.text().startswith("Point 1 of 6: in the Red (axial) view")
    interaction = scene.mrml.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    click_six_points(panel, bone(anna)[[5, 1, 0, 2, 4, 3]])
    assert "All six walls of the heart are marked" in ui.guidanceLabel.text()
    assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform
    # Choose.
    assert panel.tickedOrgans() == ["heart"] and ui.locateButton.isEnabled()
    ui.allButton.click()
    assert ui.querySelector.checkedNodes() == (bert,)
    # Locate.
    ui.locateButton.click()
    assert panel.logic.busy and ui.cancelButton.isEnabled() and not ui.locateButton.isEnabled()
    until(panel, lambda: not panel.logic.busy)
    assert "1 organ in 1 of 1 scans" in ui.statusLabel.text() and ui.progressBar.value() == 100
    assert ui.resultTable.table is panel.logic.results.table()
    (roi,) = panel.logic.results.rois()
    # Check and correct.
    click_row(panel, 0)
    assert roi.GetDisplayNode().GetHandlesInteractive()
    ui.resultTable.table.GetTable().GetColumnByName("Checked").SetValue(0, 1)
    roi.SetSize(50.0, 40.0, 30.0)
    # Export and crop.
    ui.exportPath.setCurrentPath(str(tmp_path))
    ui.labelMapBox.setChecked(True)
    ui.exportButton.click()
    names = ["bert.boxes.json", "bert.boxes.nii.gz", "bert.mrk.json", "organs.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert ",yes,yes," in (tmp_path / "organs.csv").read_text(encoding="utf-8")
    ui.cropButton.click()
    assert "bert heart" in ui.statusLabel.text()
    # Undo and redo.
    ui.undoButton.click()
    assert roi.GetSize() != (50.0, 40.0, 30.0)
    ui.undoButton.click()
    assert panel.logic.results.rois() == [] and len(panel.logic.examples.all()) == 1
    ui.redoButton.click()
    assert len(panel.logic.results.rois()) == 1
    click_row(panel, 0)
    ui.deleteButton.click()
    assert panel.logic.results.rois() == []
    assert desktop.errors == []


def click_row(panel: Any, row: int) -> None:
    from PySide6 import QtGui

    panel.model = QtGui.QStandardItemModel(row + 1, 1)
    panel.ui.resultTable.clicked.emit(panel.model.index(row, 0))


def test_a_segment_and_a_saved_set_serve_as_examples(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles, tmp_path: Path
) -> None:
    anna = scene.load(example.image, "anna")
    scan = nodes.volume_from_node(anna)
    node = segmentation(scene, scan.hu == 700, scan.grid)
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    node.GetSegmentation().GetSegment(segment_id).SetName("bone")
    panel.ui.supportSelector.setCurrentNode(anna)
    panel.ui.segmentButton.click()
    assert "No segment is chosen" in desktop.errors.pop()
    panel.ui.segmentSelector.choice = (node, segment_id)
    panel.ui.segmentButton.click()
    assert panel.tickedOrgans() == ["bone"]
    desktop.file = str(tmp_path / "set.json")
    panel.ui.saveSetButton.click()
    until(panel, lambda: not panel.logic.busy)
    panel.ui.removeButton.click()
    settle(panel)
    assert panel.tickedOrgans() == []
    panel.ui.loadSetButton.click()
    assert panel.tickedOrgans() == ["bone"] and desktop.errors == []


def test_a_run_in_a_folder_is_cancelled(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles, tmp_path: Path
) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "bert.nii.gz").write_bytes(example.image.read_bytes())
    panel.logic.load_support_set(example.support_set)
    panel.refresh()
    panel.ui.searchPath.setCurrentPath(str(tmp_path / "scans"))
    panel.ui.resultPath.setCurrentPath(str(tmp_path / "out"))
    panel.ui.folderButton.click()
    assert panel.logic.busy
    panel.ui.cancelButton.click()
    assert not panel.logic.busy and "as it was" in panel.ui.statusLabel.text()
    panel.ui.cpuBox.setChecked(True)
    panel.ui.folderButton.click()
    until(panel, lambda: not panel.logic.busy)
    assert panel.devices == ["auto", "cpu"]
    assert "2 organs in 1 scan" in panel.ui.statusLabel.text() and desktop.errors == []


def test_what_goes_wrong_is_told_and_changes_nothing(
    desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles
) -> None:
    panel.ui.placeButton.click()
    assert "No support volume" in desktop.errors.pop()
    anna = scene.load(example.image, "anna")
    panel.ui.supportSelector.setCurrentNode(anna)
    panel.ui.placeButton.click()
    assert "The organ has no name" in desktop.errors.pop()
    panel.ui.undoButton.setEnabled(True)
    panel.ui.undoButton.click()
    assert "nothing to undo" in desktop.errors.pop()
    panel.ui.cropButton.click()
    assert "No organ is chosen" in desktop.errors.pop()
    panel.ui.organEdit.setText("heart")
    click_six_points(panel, bone(anna))
    panel.ui.locateButton.click()
    assert "No query volume" in desktop.errors.pop() and not panel.logic.busy
    desktop.missing = ["jsonschema"]
    panel.ui.allButton.click()
    panel.ui.locateButton.click()
    assert "jsonschema" in desktop.errors[-1] and "declined" in desktop.errors.pop()
    desktop.file = str(example.support_set)
    panel.ui.loadSetButton.click()
    assert "jsonschema" in desktop.errors.pop() and panel.logic.support_sets() == []
    assert not panel.logic.busy and desktop.errors == []


def test_another_scene_begins_anew(desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles) -> None:
    anna = scene.load(example.image, "anna")
    panel.ui.supportSelector.setCurrentNode(anna)
    panel.ui.organEdit.setText("heart")
    click_six_points(panel, bone(anna))
    assert panel.logic.history.can_undo
    while panel.logic.history.can_undo:
        panel.ui.undoButton.click()
    assert panel.logic.examples.all() == []
    while panel.logic.history.can_redo:
        panel.ui.redoButton.click()
    (example_node,) = panel.logic.examples.all()
    example_node.SetNthControlPointPositionWorld(0, 1e4, 0.0, 0.0)
    settle(panel)  # an example that came back by redo is looked at, too
    assert "lies outside of anna" in panel.ui.guidanceLabel.text() and desktop.errors == []
    scene.mrml.RemoveNode(example_node)
    settle(panel)
    assert panel.tickedOrgans() == [] and scene.of_class("vtkMRMLMarkupsROINode") == []
    panel.onSceneStartClose()
    panel.onSceneChanged()
    assert not panel.logic.history.can_undo and panel.parameters is not None


def test_a_drag_is_one_step_to_undo(desktop: Desktop, panel: Any, scene: Scene, example: ExampleFiles) -> None:
    anna = scene.load(example.image, "anna")
    panel.ui.supportSelector.setCurrentNode(anna)
    panel.ui.organEdit.setText("heart")
    points = bone(anna)
    click_six_points(panel, points)
    marked = panel.parameters.example
    for step in range(1, 6):
        marked.SetNthControlPointPositionWorld(0, *(points[0] - [0.5 * step, 0, 0]))
        settle(panel)
    assert f"{np.ptp(points[:, 0]) + 2.5:.0f} x" in panel.ui.guidanceLabel.text()
    marked.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    settle(panel)
    panel.ui.undoButton.click()
    np.testing.assert_allclose(nodes.defined_points(marked), points)
    panel.ui.undoButton.click()
    assert len(nodes.defined_points(marked)) == 5 and desktop.errors == []


def test_the_entry_point_describes_the_module_and_offers_samples(
    desktop: Desktop, panel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[tuple[str, Any]] = []
    application = types.SimpleNamespace(connect=lambda signal, slot: connected.append((signal, slot)))
    monkeypatch.setattr(slicer, "app", application, raising=False)
    import SlicerRPRLoc

    module = SlicerRPRLoc.SlicerRPRLoc(types.SimpleNamespace())
    assert "six" in module.parent.helpText and "nothing is sent" in module.parent.helpText
    assert connected == [("startupCompleted()", SlicerRPRLoc.register_sample_data)]
    sources: list[dict[str, Any]] = []
    samples = types.ModuleType("SampleData")
    samples.SampleDataLogic = types.SimpleNamespace(
        registerCustomSampleDataCategory=lambda *given, **named: None,
        registerCustomSampleDataSource=lambda **named: sources.append(named),
    )
    monkeypatch.setitem(sys.modules, "SampleData", samples)
    SlicerRPRLoc.register_sample_data()
    assert Path(sources[0]["thumbnailFileName"]).is_file()
    assert len(sources[0]["uris"]) == len(sources[0]["fileNames"]) == len(sources[0]["nodeNames"])  # Slicer checks it
    assert SlicerRPRLoc.SlicerRPRLocWidget.__name__ == "SlicerRPRLocWidget"
