"""What tests do with the panel, as its user would, and what they read from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.example import ExampleFiles
from tests.slicer_module.mouse import Mouse
from tests.slicer_module.scenes import Scene, bone


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


def choose_heart_of(panel: Any, volume: Any) -> Any:
    """Choose a scan as the one with the organ, and name the organ; gives the scan."""
    settle(panel)
    panel.ui.supportSelector.choose(volume)
    panel.ui.organEdit.setText("heart")
    settle(panel)
    return volume


def click_six_points(panel: Any, points: np.ndarray) -> None:
    """With the mouse, in a view that shows the scan."""
    panel.ui.placeButton.click()
    mouse = Mouse(panel.logic_scene)
    for point in points:
        assert mouse.click(point)
        settle(panel)


def chosen_example(panel: Any) -> Any:
    return panel.logic_scene.mrml.GetNodeByID(panel.examples.chosen)


def click_example(panel: Any, row: int) -> None:
    """What Qt tells of a click on an example."""
    panel.ui.exampleList.setCurrentRow(row)
    panel.ui.exampleList.itemClicked.emit(panel.ui.exampleList.item(row))


def click_row(panel: Any, row: int) -> None:
    """What Qt tells of a click on a row."""
    panel.ui.resultTable.setCurrentCell(row, 0)
    panel.ui.resultTable.cellClicked.emit(row, 0)


def cells(panel: Any, column: int) -> list[str]:
    table = panel.ui.resultTable
    return [table.item(row, column).text() for row in range(table.rowCount())]


def tick_row(panel: Any, row: int, ticked: bool = True) -> None:
    from PySide6 import QtCore

    state = QtCore.Qt.Checked if ticked else QtCore.Qt.Unchecked
    panel.ui.resultTable.item(row, 4).setCheckState(state)


def marked_and_located(panel: Any, scene: Scene, example: ExampleFiles) -> tuple[Any, Any]:
    """The heart of anna, found in bert; the views show bert."""
    anna, bert = scene.load(example.image, "anna"), scene.load(example.image, "bert")
    settle(panel)
    panel.ui.supportSelector.choose(anna)
    panel.ui.organEdit.setText("heart")
    settle(panel)
    click_six_points(panel, bone(anna))
    panel.scans.tick([bert.GetID()])
    panel.ui.locateButton.click()
    until(panel, lambda: not panel.logic.busy)
    settle(panel)
    click_row(panel, 0)
    return anna, bert


def shown(scene: Scene) -> set[str]:
    return {scene.background(name).GetBackgroundVolumeID() for name in ("Red", "Yellow", "Green")}


def drawn(scene: Scene) -> set[str]:
    """The scans whose boxes and points are drawn in the red view."""
    from SlicerRPRLocLib import nodes

    displays = [(node, node.GetDisplayNode()) for node in scene.of_class("vtkMRMLMarkupsNode")]
    seen = [node for node, one in displays if one.GetVisibility() and one.IsDisplayableInView("vtkMRMLSliceNodeRed")]
    return {nodes.volume_of(node).GetName() for node in seen}


def count_refreshes(panel: Any) -> list[int]:
    """Grows by one whenever the panel shows everything anew."""
    counted: list[int] = []
    refresh = panel.refresh

    def counting() -> None:
        counted.append(1)
        refresh()

    panel.refresh = counting
    return counted
