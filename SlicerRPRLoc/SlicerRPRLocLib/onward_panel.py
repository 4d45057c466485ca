"""The part of the panel from which results go on, and that in which the results of a folder are opened again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
import slicer.packaging
from slicer.i18n import tr as _

from SlicerRPRLocLib.dicom_results import export_dicom
from SlicerRPRLocLib.installer import DICOM_REQUIREMENTS, Installer
from SlicerRPRLocLib.lists import ChoiceList
from SlicerRPRLocLib.nodes import Node, find_volume
from SlicerRPRLocLib.reopen import FolderResults


class OnwardPanel:
    """Serves its buttons for the panel."""

    def __init__(self, panel: Any) -> None:
        self._panel, self._ui, self._logic = panel, panel.ui, panel.logic
        self._found: FolderResults | None = None
        self.list = ChoiceList(panel.ui.folderResultList, lambda name: panel.showButtons())
        self.installer = Installer(
            slicer.packaging,
            lambda: None,
            slicer.util.confirmOkCancelDisplay,
            requirements=DICOM_REQUIREMENTS,
            with_torch=False,
        )

    def actions(self) -> dict[str, Callable[[], None]]:
        """What each button does."""
        return {
            "segmentationButton": self.onSegmentation,
            "cropVolumeButton": self.onCropVolume,
            "promptButton": self.onPrompt,
            "dicomButton": self.onDicom,
            "listResultsButton": self.onListResults,
            "openResultButton": self.onOpenResult,
        }

    def reasons(self, no_row: str, nothing: str) -> dict[str, str]:
        """Why a button cannot be pressed, "" if it can; given what is said without a row and without results."""
        folder, results = self._ui.exportPath.currentPath, self._ui.resultPath.currentPath
        return {
            "segmentationButton": "" if self._volume_with_boxes() is not None else no_row,
            "cropVolumeButton": no_row,
            "promptButton": no_row,
            "dicomButton": nothing
            or ("" if self._logic.results.located() else _("Nothing was found that could be written."))
            or ("" if folder else _("Choose the folder for exports first.")),
            "listResultsButton": "" if results else _("Choose the folder of results first."),
            "openResultButton": (
                "" if self._is_listed() else _("Other folders are chosen now: list the results again.")
            )
            or ("" if self.list.chosen else _("List the results and click one first.")),
        }

    def clear(self) -> None:
        """Name no scan any more, as when a scene is closed."""
        self._found = None
        self.list.show({})

    def onSegmentation(self) -> None:
        volume = self._volume_with_boxes()
        if volume is None:
            raise ValueError(_("No scan with boxes is chosen. Click one of its rows in the table of results."))
        with slicer.util.WaitCursor():
            segmentation, told = self._logic.onward.to_segmentation(volume)
        self._say(_("New segmentation: {name}.").format(name=segmentation.GetName()), *told)
        slicer.util.selectModule("SegmentEditor")

    def onCropVolume(self) -> None:
        parameters = self._logic.onward.to_crop_volume(self._panel.chosenResult(), self._panel.parameters.cropMargin)
        slicer.app.openNodeModule(parameters)  # which shows these parameters, if there are others, too

    def onPrompt(self) -> None:
        prompt = self._logic.onward.to_prompt(self._panel.chosenResult())
        self._say(_("New ROI: {name}.").format(name=prompt.GetName()))

    def onDicom(self) -> None:
        parameters = self._panel.parameters
        ticked = {"seg": parameters.dicomSeg, "sr": parameters.dicomSr, "rtstruct": parameters.dicomRtstruct}
        kinds = [kind for kind, wanted in ticked.items() if wanted]
        self._panel.installer.ensure()
        if parameters.dicomSr or parameters.dicomSeg:
            self.installer.ensure()
        database = slicer.dicomDatabase
        with slicer.util.WaitCursor():
            files, told = export_dicom(
                self._logic.results, Path(self._ui.exportPath.currentPath), kinds, database.fileForInstance
            )
            for file in files if parameters.dicomImport else ():
                database.insert(str(file))
        self._say(_("Written: {names}.").format(names=", ".join(file.name for file in files)), *told)

    def onListResults(self) -> None:
        self._panel.installer.ensure()
        self.clear()
        with slicer.util.WaitCursor():
            self._found = FolderResults(*self._folders())
        self.list.show({entry.name: entry.text for entry in self._found.entries})
        self._panel.showButtons()

    def onOpenResult(self) -> None:
        if self._found is None or self.list.chosen is None:
            raise ValueError(_("No result is chosen. List the results of the folder and click one."))
        with slicer.util.WaitCursor():
            told = self._logic.open_result(self._found, self.list.chosen)
        self._panel.refresh()
        self._say(told)

    def _folders(self) -> tuple[Path, Path | None]:
        """The folder of results that is chosen, and that of the scans, if there is one."""
        scans = self._ui.searchPath.currentPath
        return Path(self._ui.resultPath.currentPath), Path(scans) if scans else None

    def _is_listed(self) -> bool:
        """Whether what is listed, if anything is, is of the folders that are chosen."""
        return self._found is None or (self._found.folder, self._found.scans) == self._folders()

    def _volume_with_boxes(self) -> Node | None:
        """The scan of the row that is chosen, if it has a box; the row itself may be of an absent organ."""
        if self._panel.table.key is None:
            return None
        volume = slicer.mrmlScene.GetNodeByID(self._panel.table.key[0])
        return volume if any(find_volume(roi) is volume for roi in self._logic.results.rois()) else None

    def _say(self, *sentences: str) -> None:
        self._ui.statusLabel.setText(" ".join(sentences))
