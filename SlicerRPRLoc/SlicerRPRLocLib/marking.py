"""Section 1 of the panel: examples are marked or taken from segments, and support sets are added, loaded and saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SlicerRPRLocLib import nodes, sets, views
from SlicerRPRLocLib.examples import NOT_TAKEN
from SlicerRPRLocLib.lists import CheckList, ChoiceList
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.nodes import Node

_FILES = "Support sets (*.json *.json.gz)"


class MarkingSection:
    """What the user does in section 1; a part of the panel."""

    logic: RPRLocLogic
    ui: Any
    parameters: Any
    installer: Any
    examples: ChoiceList
    organs: CheckList
    later: Callable[[str, Callable[[], None]], None]
    start: Callable[[Callable[[], None]], None]
    refresh: Callable[[], None]
    recordAndRefresh: Callable[[], None]
    showButtons: Callable[[], None]
    _tips: dict[str, str]

    _placing = ""
    """The id of the example whose points are being placed."""

    def setupMarking(self) -> None:
        """Connect the widgets of this section and list the ready-made sets."""
        self.ui.supportSelector.nodeActivated.connect(self.onSupport)
        self.ui.landmarkBox.toggled.connect(self.onKind)
        self._readyMade = {name: sets.describe_ready_made(name, summary) for name, summary in sets.ready_made().items()}
        box = self.ui.readyMadeBox
        box.currentIndexChanged.connect(lambda *_args: self.showReadyMade())
        for index, (text, tip) in enumerate(self._readyMade.values()):
            box.addItem(text)
            box.setItemData(index, tip, qt.Qt.ToolTipRole)
        self.showReadyMade()

    # Marking

    def onSupport(self, volume: Node | None) -> None:
        """The user has chosen the scan to mark: it is the one to see."""
        if volume is not None:
            views.show_scan(slicer.mrmlScene, volume)

    def onKind(self, landmark: bool) -> None:
        """The user has chosen whether he marks an organ or a landmark."""
        self.ui.placeButton.setText(_("Place the point") if landmark else _("Place six points"))
        self._tips["placeButton"] = (
            _("Click the landmark in a slice view.")
            if landmark
            else _("Click the organ's outermost points in the slice views, one on each wall.")
        )
        self.later("buttons", self.showButtons)

    def onPlace(self) -> None:
        given = self.parameters
        example = self.logic.examples.add(given.supportVolume, given.organName, landmark=given.markLandmark)
        self.chooseExample(example)
        if not self.logic.examples.guidance(example).complete:
            self._placing = example.GetID()
            views.start_placing(example)

    def stopPlacing(self) -> None:
        self._placing = ""
        views.stop_placing(slicer.mrmlScene)

    def onSegment(self) -> None:
        selector = self.ui.segmentSelector
        with slicer.util.WaitCursor():
            example = self.logic.examples.add_from_segment(
                self.parameters.supportVolume, selector.currentNode(), selector.currentSegmentID()
            )
        self.chooseExample(example)

    def onSegments(self) -> None:
        segmentation = self.ui.segmentSelector.currentNode()
        with slicer.util.WaitCursor():
            made, told = self.logic.examples.add_visible_segments(self.parameters.supportVolume, segmentation)
        self.chooseExample(made[-1])
        self.ui.guidanceLabel.setText(_("{n} organs are marked.").format(n=len(made)) + " ".join(["", *told]))

    def chooseExample(self, example: Node) -> None:
        views.show_scan(slicer.mrmlScene, nodes.volume_of(example))
        self.recordAndRefresh()
        self.examples.choose(example.GetID())
        self.ui.guidanceLabel.setText(self.logic.examples.guidance(example).text)
        self.showButtons()

    def onExample(self, node_id: str) -> None:
        """The user has chosen an example: its scan is the one to see, at its points."""
        example = slicer.mrmlScene.GetNodeByID(node_id)
        if example in self.logic.examples.all():
            points_ras = nodes.defined_points(example)
            place_ras = 0.5 * (points_ras.min(0) + points_ras.max(0)) if len(points_ras) else None
            views.show_scan(slicer.mrmlScene, nodes.volume_of(example), place_ras)
            self.ui.guidanceLabel.setText(self.logic.examples.guidance(example).text)
        elif example in self.logic.sets.all():
            self.ui.guidanceLabel.setText(self.logic.sets.doubt(example))
        self.showButtons()

    def look(self, example: Node, *, dragging: bool) -> None:
        message = self.logic.examples.points_changed(example, dragging=dragging)
        if not message:
            return
        self.ui.guidanceLabel.setText(message)
        if dragging:
            return
        if self._placing == example.GetID():
            if self.logic.examples.guidance(example).complete:
                self.stopPlacing()
            elif NOT_TAKEN in message and not views.is_placing(example):
                views.start_placing(example)  # it was the last one, after which Slicer has stopped
        self.recordAndRefresh()

    def onRemoveExample(self) -> None:
        node = slicer.mrmlScene.GetNodeByID(self.examples.chosen or "")
        if node is not None:
            if node in self.logic.sets.all():
                nodes.remove(node)
            else:
                self.logic.examples.remove(node)
            self.recordAndRefresh()

    # Support sets

    def readyMadeSet(self) -> str | None:
        """The name of the ready-made set that is chosen; None if there is none."""
        index = int(self.ui.readyMadeBox.property("currentIndex"))
        return list(self._readyMade)[index] if 0 <= index < len(self._readyMade) else None

    def showReadyMade(self) -> None:
        """Say in the tip what the ready-made set that is chosen finds."""
        name = self.readyMadeSet()
        self.ui.readyMadeBox.setToolTip("" if name is None else self._readyMade[name][1])

    def onAddReadyMade(self) -> None:
        name = self.readyMadeSet()
        if name is not None:
            node = self.logic.sets.add_ready_made(name)
            self.recordAndRefresh()
            self.examples.choose(node.GetID())
            self.ui.guidanceLabel.setText(_("{name} is added; nothing has to be marked.").format(name=name))
            self.showButtons()

    def onLoadSet(self) -> None:
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Load support set"), "", _FILES)
        if path:
            self.installer.ensure()
            with slicer.util.WaitCursor():
                self.logic.sets.load(Path(path))
            self.recordAndRefresh()

    def onSaveSet(self) -> None:
        window = slicer.util.mainWindow()
        path = qt.QFileDialog.getSaveFileName(window, _("Save support set"), "organs.json", _FILES)
        if path:
            file = Path(path) if Path(path).suffix else Path(path).with_suffix(".json")
            self.start(lambda: self.logic.save_support_set(file, self.organs.ticked()))
