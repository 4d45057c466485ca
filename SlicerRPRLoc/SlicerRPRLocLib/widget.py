"""The panel: it hands what the user does to the logic and shows what the logic says."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.packaging
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget

from rprloc.model.shipped import DEFAULT
from SlicerRPRLocLib import nodes, terminology, views
from SlicerRPRLocLib.buttons import reasons
from SlicerRPRLocLib.export import export_results
from SlicerRPRLocLib.handover import temporary_folder
from SlicerRPRLocLib.installer import Installer, torch_extension
from SlicerRPRLocLib.lists import CheckList, ChoiceList
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.marking import MarkingSection
from SlicerRPRLocLib.onward_panel import OnwardPanel
from SlicerRPRLocLib.parameters import SlicerRPRLocLogic, SlicerRPRLocParameterNode
from SlicerRPRLocLib.reviewing import Reviewing
from SlicerRPRLocLib.runner import Runner, serve_command
from SlicerRPRLocLib.runs import Update
from SlicerRPRLocLib.weights import describe_scans, fits, require_weights, state_of_weights
from SlicerRPRLocLib.weights_panel import WeightsChoice

_POLL_MS = 50
_IDLE_MS = 5 * 60 * 1000


class SlicerRPRLocWidget(ScriptedLoadableModuleWidget, MarkingSection, Reviewing):
    """The panel of the module."""

    logic: RPRLocLogic

    def __init__(self, parent: object = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        Reviewing.__init__(self)
        self.parameters: Any = None  # a SlicerRPRLocParameterNode while the panel is shown
        self._gui_tag: int | None = None
        self._started = ("auto", DEFAULT, state_of_weights(DEFAULT))
        """The device and the weights of the child, and the state of their files."""
        self._tips: dict[str, str] = {}

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/SlicerRPRLoc.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = RPRLocLogic(slicer.mrmlScene, self._runner(*self._started[:2]), temporary_folder())
        self.installer = Installer(slicer.packaging, torch_extension, slicer.util.confirmOkCancelDisplay)
        self.timer, self.idleTimer = qt.QTimer(), qt.QTimer()
        self.timer.setInterval(_POLL_MS)
        self.timer.timeout.connect(self.onTimer)
        self.idleTimer.setInterval(_IDLE_MS)
        self.idleTimer.timeout.connect(self.rest)
        self.organs = CheckList(self.ui.organList, self.showButtons)
        self.scans = CheckList(self.ui.scanList, self.showButtons)
        self.examples = ChoiceList(self.ui.exampleList, lambda key: self._try(lambda: self.onExample(key)))
        self.weights = WeightsChoice(self)
        self.setUpReview()
        self.onward = OnwardPanel(self)
        self.completer = qt.QCompleter(list(terminology.names()))  # kept, because Qt does not own it
        self.completer.setCaseSensitivity(qt.Qt.CaseInsensitive)
        self.ui.organEdit.setCompleter(self.completer)
        for name, action in {
            "placeButton": self.onPlace,
            "stopButton": self.stopPlacing,
            "segmentButton": self.onSegment,
            "segmentsButton": self.onSegments,
            "removeButton": self.onRemoveExample,
            "readyMadeButton": self.onAddReadyMade,
            "loadSetButton": self.onLoadSet,
            "saveSetButton": self.onSaveSet,
            "allButton": self.onAllScans,
            "noneButton": lambda: self.scans.tick(()),
            "locateButton": self.onLocate,
            "folderButton": self.onLocateInFolder,
            "cancelButton": self.onCancel,
            "nextButton": self.onNext,
            "undoButton": lambda: self.change(self.logic.history.undo),
            "redoButton": lambda: self.change(self.logic.history.redo),
            "deleteButton": self.onDeleteResult,
            "teachButton": self.onUseAsExample,
            "againButton": self.onLocateAgain,
            "exportButton": self.onExport,
            "cropButton": self.onCrop,
            **self.onward.actions(),
        }.items():
            button = getattr(self.ui, name)
            self._tips[name] = str(button.property("toolTip"))
            button.clicked.connect(lambda *_args, action=action: self._try(action))
        self.setupMarking()
        for signal in (
            self.ui.supportSelector.currentNodeChanged,
            self.ui.organEdit.textChanged,
            self.ui.segmentSelector.currentNodeChanged,
            self.ui.segmentSelector.currentSegmentChanged,
            *(path.currentPathChanged for path in (self.ui.exportPath, self.ui.searchPath, self.ui.resultPath)),
        ):
            signal.connect(lambda *_args: self.later("buttons", self.showButtons))
        self.watchScene()
        self.onSceneImported()

    def cleanup(self) -> None:
        """The application closes, or the module is loaded anew: end the child, remove its files."""
        self.disconnectParameters()
        self.stopWatching()
        if hasattr(self, "table"):  # it was set up
            self.timer.stop()
            self.idleTimer.stop()
            self.removeShortcuts()
            self.logic.close()

    def onReload(self) -> None:
        """For developers: what the entry point imports is loaded anew, too."""
        for name in [name for name in sys.modules if name.split(".")[0] in ("SlicerRPRLocLib", "rprloc")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def enter(self) -> None:
        self.connectParameters()
        self.enterReview()
        self.refresh()

    def exit(self) -> None:
        self.stopPlacing()
        self.exitReview()
        self.disconnectParameters()
        self.rest()

    def rest(self) -> None:
        """Give the memory of an idle process back, that of the GPU above all."""
        self.idleTimer.stop()
        self.logic.rest()
        self.ui.processLabel.setText(self.logic.about_child)

    # The scene and the parameters

    def leaveScene(self) -> None:
        self.onCancel()
        self.stopPlacing()
        self.disconnectParameters()

    def clearPanel(self) -> None:
        for name in ("guidanceLabel", "statusLabel"):
            getattr(self.ui, name).setText("")
        self.ui.logView.clear()
        self.ui.progressBar.setValue(0)
        self.ui.exportPath.setCurrentPath("")
        self.onward.clear()

    def sceneChanged(self) -> None:
        if self.parent.isEntered:
            self.connectParameters()
        self.refresh()

    def nodesChanged(self) -> None:
        if self.parent.isEntered:
            self.refresh()

    def connectParameters(self) -> None:
        if self.parameters is None:
            node = SlicerRPRLocLogic().getParameterNode()
            self.parameters = SlicerRPRLocParameterNode(node)  # type: ignore[call-arg]  # Slicer wraps the class
            self._gui_tag = self.parameters.connectGui(self.ui)
            shown = views.shown_scan(slicer.mrmlScene)
            if self.parameters.supportVolume is None and shown in nodes.scans(slicer.mrmlScene):
                self.parameters.supportVolume = shown

    def disconnectParameters(self) -> None:
        if self.parameters is not None:
            self.parameters.disconnectGui(self._gui_tag)
            self.parameters = None

    # 2. Runs

    def onAllScans(self) -> None:
        marked = {nodes.volume_of(example).GetID() for example in self.logic.examples.all()}
        others = [volume for volume in nodes.scans(slicer.mrmlScene) if volume.GetID() not in marked]
        self.scans.tick([volume.GetID() for volume in others if fits(volume, self.weights.chosen)])

    def onLocate(self) -> None:
        queries = [slicer.mrmlScene.GetNodeByID(volume_id) for volume_id in self.scans.ticked()]
        self.start(lambda: self.logic.locate(queries, self.organs.ticked()))

    def onLocateInFolder(self) -> None:
        folder, out = Path(self.ui.searchPath.currentPath), Path(self.ui.resultPath.currentPath)
        self.start(lambda: self.logic.locate_in_folder(folder, out, self.organs.ticked()))

    def start(self, run: Callable[[], None]) -> None:
        """Start a run of the logic, after what is missing was installed, on the device and with the weights chosen."""
        require_weights(self.weights.chosen)
        self.installer.ensure()
        device, weights = "cpu" if self.parameters.forceCpu else "auto", self.weights.chosen
        wanted = device, weights, state_of_weights(weights)
        if wanted != self._started:
            self.logic.use(self._runner(device, weights))
            self._started = wanted
        self.ui.logView.clear()
        run()
        self.idleTimer.stop()
        self.ui.statusLabel.setText(_("Starting"))
        self.timer.start()
        self.refresh()

    def onTimer(self) -> None:
        self.timer.stop()  # an error is shown once, not twenty times a second
        with slicer.util.tryWithErrorDisplay(_("RPR-Loc")):
            self.show(self.logic.poll())

    def show(self, update: Update | None) -> None:
        """Show how far a run is, None if there is none."""
        if update is not None:
            for line in update.log:
                self.ui.logView.appendPlainText(line)
            self.ui.progressBar.setValue(round(100 * update.fraction))
            self.ui.statusLabel.setText(update.summary or update.message)
            self.ui.processLabel.setText(self.logic.about_child)
        if update is not None and update.summary is None:
            self.timer.start()
            if update.news:
                self.refresh()
        else:
            self.idleTimer.start()
            self.refresh()

    def onCancel(self) -> None:
        if self.logic.busy:
            found = self.logic.cancel()
            self.timer.stop()
            self.ui.progressBar.setValue(0)
            stays = _("{found} That stays; Undo takes it back.").format(found=found) if found else ""
            self.ui.statusLabel.setText(f"{_('Cancelled.')} {stays or _('Nothing has changed.')}")
            self.ui.processLabel.setText("")
            self.refresh()

    # 3. Results

    def recordAndRefresh(self) -> None:
        self.logic.history.record()
        self.refresh()

    def change(self, do: Callable[[], None]) -> None:
        do()
        self.refresh()

    def onExport(self) -> None:
        chosen = self.parameters
        with slicer.util.WaitCursor():
            files = export_results(
                self.logic.results,
                Path(self.ui.exportPath.currentPath),
                markups=chosen.exportMarkups,
                label_map=chosen.exportLabelMap,
                table=chosen.exportTable,
            )
        self.ui.statusLabel.setText(_("Written: {names}").format(names=", ".join(file.name for file in files)))

    def onCrop(self) -> None:
        with slicer.util.WaitCursor():
            cropped = self.logic.results.crop(self.chosenResult(), self.parameters.cropMargin)
        self.ui.statusLabel.setText(_("New volume: {name}").format(name=cropped.GetName()))

    # What is shown

    def refresh(self) -> None:
        """Show the examples, the scans, the results and which buttons can be pressed; write only what has changed."""
        self.logic.examples.follow_names()
        self.watchNodes()
        self.organs.show(self.logic.describe_targets(), new_ticked=True)
        self.weights.show()
        self.scans.show(describe_scans(slicer.mrmlScene, self.weights.chosen), new_ticked=False)
        self.examples.show(self.logic.describe_examples())
        if self.logic.results.located() and self.installer.missing():  # a saved scene on a computer new to the module
            self.ui.statusLabel.setText(_("Press Locate to install what is needed to show the results of this scene."))
        else:
            self.table.show(self.logic.results.rows())
        self.ui.checkedLabel.setText(self.countChecked())
        self.showFinding()
        self.showButtons()

    def showButtons(self) -> None:
        """Let only those buttons be pressed that can do something; the tips of the others say what is missing."""
        for name, reason in reasons(self).items():
            button = getattr(self.ui, name)
            button.setEnabled(not reason)
            button.setToolTip(reason or self._tips[name])

    def _try(self, action: Callable[[], None]) -> None:
        with slicer.util.tryWithErrorDisplay(_("RPR-Loc")):
            action()

    def _runner(self, device: str, weights: str) -> Runner:
        return Runner(serve_command(device, weights), slicer.util.startupEnvironment())
