"""The panel: it hands what the user does to the logic and shows what the logic says. The only file that needs Qt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic, ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.export import export_results
from SlicerRPRLocLib.installer import Installer, torch_extension
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.nodes import Node
from SlicerRPRLocLib.runner import Runner, serve_command
from SlicerRPRLocLib.runs import Update

_POLL_MS = 100
_POINT_EVENTS = ("PointPositionDefinedEvent", "PointRemovedEvent", "PointEndInteractionEvent")


@parameterNodeWrapper
class SlicerRPRLocParameterNode:
    """What the user has chosen; kept in the scene."""

    supportVolume: slicer.vtkMRMLScalarVolumeNode
    organName: str
    example: slicer.vtkMRMLMarkupsFiducialNode
    forceCpu: bool = False
    exportFolder: Path
    exportMarkups: bool = True
    exportLabelMap: bool = False
    exportTable: bool = True
    cropMargin: float = 10.0
    searchFolder: Path
    resultFolder: Path


class SlicerRPRLocLogic(ScriptedLoadableModuleLogic):
    """Slicer's own logic of the module, for its parameter node alone; what it does is in :class:`RPRLocLogic`."""


class SlicerRPRLocWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel of the module."""

    logic: RPRLocLogic

    def __init__(self, parent: object = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.parameters: Any = None
        """A SlicerRPRLocParameterNode, which Slicer wraps, while the panel is shown."""
        self._gui_tag: int | None = None
        self._device = "auto"
        self._organ_items: dict[str, qt.QListWidgetItem] = {}
        self._row = -1
        self._changed: dict[str, bool] = {}
        """By the ids of examples whose points have changed: whether that is a step that can be undone."""
        self._looking = False

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/SlicerRPRLoc.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.ui.exampleSelector.addAttribute("vtkMRMLMarkupsFiducialNode", nodes.ROLE, "example")
        self.logic = RPRLocLogic(slicer.mrmlScene, self._runner("auto"))
        self.installer = self._installer()
        self.timer = qt.QTimer()
        self.timer.setInterval(_POLL_MS)
        self.timer.timeout.connect(self.onTimer)
        for name, action in {
            "placeButton": self.onPlace,
            "stopButton": self.stopPlacing,
            "segmentButton": self.onSegment,
            "removeButton": self.onRemoveExample,
            "loadSetButton": self.onLoadSet,
            "saveSetButton": self.onSaveSet,
            "allButton": self.onAllScans,
            "locateButton": self.onLocate,
            "folderButton": self.onLocateInFolder,
            "cancelButton": self.onCancel,
            "undoButton": self.onUndo,
            "redoButton": self.onRedo,
            "deleteButton": self.onDeleteResult,
            "exportButton": self.onExport,
            "cropButton": self.onCrop,
        }.items():
            getattr(self.ui, name).clicked.connect(lambda *_args, action=action: self._try(action))
        self.ui.resultTable.clicked.connect(lambda index: self._try(lambda: self.onRow(index.row())))
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            self.addObserver(scene, event, self.onSceneChanged)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodeRemoved)
        self.onSceneChanged()

    def cleanup(self) -> None:
        """The application closes: end the child, remove its files."""
        self.timer.stop()
        self.removeObservers()
        self.logic.close()

    def enter(self) -> None:
        self.connectParameters()

    def exit(self) -> None:
        self.stopPlacing()
        self.disconnectParameters()

    # The scene and the parameters

    def onSceneStartClose(self, caller: object = None, event: object = None) -> None:
        self.onCancel()
        self.disconnectParameters()

    def onSceneChanged(self, caller: object = None, event: object = None) -> None:
        """Another scene: the history begins anew."""
        self.logic.history.clear()
        self.connectParameters()
        self.refresh()

    def onNodeRemoved(self, caller: object = None, event: object = None) -> None:
        qt.QTimer.singleShot(0, self.onNodesGone)  # when the scene is done with it

    def onNodesGone(self) -> None:
        self.logic.examples.remove_orphans()
        self.refresh()

    def connectParameters(self) -> None:
        if self.parameters is None:
            node = SlicerRPRLocLogic().getParameterNode()
            self.parameters = SlicerRPRLocParameterNode(node)  # type: ignore[call-arg]  # Slicer wraps the class
            self._gui_tag = self.parameters.connectGui(self.ui)

    def disconnectParameters(self) -> None:
        if self.parameters is not None:
            self.parameters.disconnectGui(self._gui_tag)
            self.parameters = None

    # 1. Examples

    def onPlace(self) -> None:
        example = self.logic.examples.add(self.parameters.supportVolume, self.parameters.organName)
        self.chooseExample(example)
        nodes.start_placing(example)

    def stopPlacing(self) -> None:
        nodes.stop_placing(slicer.mrmlScene)

    def onSegment(self) -> None:
        selector = self.ui.segmentSelector
        segmentation, segment_id = selector.currentNode(), selector.currentSegmentID()
        if segmentation is None or not segment_id:
            raise ValueError(_("No segment is chosen. Choose one above."))
        volume = self.parameters.supportVolume
        self.chooseExample(self.logic.examples.add_from_segment(volume, segmentation, segment_id))

    def chooseExample(self, example: Node) -> None:
        self.observe(example)
        self.parameters.example = example
        self.ui.guidanceLabel.setText(self.logic.examples.guidance(example).text)
        self.logic.history.record()
        self.refresh()

    def observe(self, example: Node) -> None:
        handlers = {getattr(slicer.vtkMRMLMarkupsNode, name): self.onPoints for name in _POINT_EVENTS}
        handlers[slicer.vtkMRMLMarkupsNode.PointModifiedEvent] = self.onPointsMoving
        for event, handler in handlers.items():
            if not self.hasObserver(example, event, handler):
                self.addObserver(example, event, handler)

    def onPoints(self, caller: Node, event: object = None) -> None:
        """A point was placed or removed, or its drag has ended: a step that can be undone."""
        self.lookLater(caller, step=True)

    def onPointsMoving(self, caller: Node, event: object = None) -> None:
        self.lookLater(caller, step=False)

    def lookLater(self, example: Node, step: bool) -> None:
        """Look at the points once, when Slicer is no longer busy with them; what the look changes is no news."""
        if not self._looking:
            if example.GetID() not in self._changed:
                qt.QTimer.singleShot(0, lambda: self.look(example))
            self._changed[example.GetID()] = step or self._changed.get(example.GetID(), False)

    def look(self, example: Node) -> None:
        step = self._changed.pop(example.GetID(), False)
        if example.GetScene() is None:
            return
        self._looking = True
        try:
            message = self.logic.examples.points_changed(example)
        finally:
            self._looking = False
        self.ui.guidanceLabel.setText(message)
        if step:
            if self.logic.examples.guidance(example).complete:
                self.stopPlacing()
            self.logic.history.record()
            self.refresh()

    def onRemoveExample(self) -> None:
        if self.parameters.example is not None:
            self.logic.examples.remove(self.parameters.example)
            self.logic.history.record()
            self.refresh()

    def onLoadSet(self) -> None:
        path = qt.QFileDialog.getOpenFileName(None, _("Load support set"), "", "JSON (*.json)")
        if path:
            self.installer.ensure()
            self.logic.load_support_set(Path(path))
            self.refresh()

    def onSaveSet(self) -> None:
        path = qt.QFileDialog.getSaveFileName(None, _("Save support set"), "organs.json", "JSON (*.json)")
        if path:
            self.start(lambda: self.logic.save_support_set(Path(path), self.tickedOrgans()))

    # 2. Runs

    def onAllScans(self) -> None:
        selector = self.ui.querySelector
        for volume in nodes.of_class(slicer.mrmlScene, "vtkMRMLScalarVolumeNode"):
            ticked = volume is not self.parameters.supportVolume and volume.IsA("vtkMRMLLabelMapVolumeNode") == 0
            selector.setCheckState(volume, qt.Qt.Checked if ticked else qt.Qt.Unchecked)

    def onLocate(self) -> None:
        self.start(lambda: self.logic.locate(list(self.ui.querySelector.checkedNodes()), self.tickedOrgans()))

    def onLocateInFolder(self) -> None:
        folder, out = Path(self.parameters.searchFolder), Path(self.parameters.resultFolder)
        self.start(lambda: self.logic.locate_in_folder(folder, out, self.tickedOrgans()))

    def start(self, run: Callable[[], None]) -> None:
        """Start a run of the logic, after what is missing was installed, on the device that is chosen."""
        self.installer.ensure()
        device = "cpu" if self.parameters.forceCpu else "auto"
        if device != self._device:
            self.logic.use(self._runner(device))
            self._device = device
        self.ui.logView.clear()
        run()
        self.ui.statusLabel.setText(_("Starting"))
        self.timer.start()
        self.refresh()

    def onTimer(self) -> None:
        self.timer.stop()  # an error is shown once, not ten times a second
        with slicer.util.tryWithErrorDisplay(_("RPR-Loc")):
            self.show(self.logic.poll())

    def show(self, update: Update | None) -> None:
        """Show how far a run is, None if there is none."""
        if update is not None:
            for line in update.log:
                self.ui.logView.appendPlainText(line)
            self.ui.progressBar.setValue(round(100 * update.fraction))
            self.ui.statusLabel.setText(update.summary or update.message)
        if update is not None and update.summary is None:
            self.timer.start()
        else:
            self.refresh()

    def onCancel(self) -> None:
        if self.logic.busy:
            self.logic.cancel()
            self.timer.stop()
            self.ui.progressBar.setValue(0)
            self.ui.statusLabel.setText(_("Cancelled; the scene is as it was."))
            self.refresh()

    # 3. Results

    def onRow(self, row: int) -> None:
        self.logic.results.take_ticks()
        self._row = row
        self.logic.results.jump_to(self.chosenResult())

    def chosenResult(self) -> Node:
        return self.logic.results.in_row(self._row)

    def onDeleteResult(self) -> None:
        self.logic.results.remove(self.chosenResult())
        self._row = -1
        self.logic.history.record()
        self.refresh()

    def onUndo(self) -> None:
        self.logic.history.undo()
        self.refresh()

    def onRedo(self) -> None:
        self.logic.history.redo()
        self.refresh()

    def onExport(self) -> None:
        self.logic.results.take_ticks()
        chosen = self.parameters
        files = export_results(
            self.logic.results,
            Path(chosen.exportFolder),
            markups=chosen.exportMarkups,
            label_map=chosen.exportLabelMap,
            table=chosen.exportTable,
        )
        self.ui.statusLabel.setText(_("Written: {names}").format(names=", ".join(file.name for file in files)))

    def onCrop(self) -> None:
        cropped = self.logic.results.crop(self.chosenResult(), self.parameters.cropMargin)
        self.ui.statusLabel.setText(_("New volume: {name}").format(name=cropped.GetName()))

    # What is shown

    def refresh(self) -> None:
        """Show the organs, the results and which buttons can be pressed."""
        for example in self.logic.examples.all():
            self.observe(example)  # also those that came by undo or with a scene
        self.showOrgans()
        self.logic.results.take_ticks()
        if self.logic.results.rois() and self.installer.missing():  # a saved scene on a computer new to the module
            self.ui.statusLabel.setText(_("Press Locate to install what is needed to show the results of this scene."))
        elif (table := self.logic.results.update_table()) is not None:
            self.ui.resultTable.setMRMLTableNode(table)
        busy, history = self.logic.busy, self.logic.history
        for name in ("locateButton", "folderButton", "saveSetButton"):
            getattr(self.ui, name).setEnabled(not busy and bool(self._organ_items))
        self.ui.cancelButton.setEnabled(busy)
        self.ui.undoButton.setEnabled(not busy and history.can_undo)
        self.ui.redoButton.setEnabled(not busy and history.can_redo)

    def showOrgans(self) -> None:
        """The organs that can be located; new ones are ticked, ticks of the others stay."""
        organs = self.logic.organs()
        unticked = set(self._organ_items) - set(self.tickedOrgans())
        self.ui.organList.clear()
        self._organ_items = {}
        for organ, count in organs.items():
            item = qt.QListWidgetItem(organ if count == 1 else f"{organ} ({count})")
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
            item.setCheckState(qt.Qt.Unchecked if organ in unticked else qt.Qt.Checked)
            self.ui.organList.addItem(item)
            self._organ_items[organ] = item

    def tickedOrgans(self) -> list[str]:
        return [organ for organ, item in self._organ_items.items() if item.checkState() == qt.Qt.Checked]

    def _try(self, action: Callable[[], None]) -> None:
        with slicer.util.tryWithErrorDisplay(_("RPR-Loc"), waitCursor=True):
            action()

    def _runner(self, device: str) -> Runner:
        return Runner(serve_command(device), slicer.util.startupEnvironment())

    def _installer(self) -> Installer:
        import slicer.packaging

        return Installer(slicer.packaging, torch_extension)
