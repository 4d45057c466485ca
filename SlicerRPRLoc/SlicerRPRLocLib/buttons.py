"""Which buttons of the panel can do something now, and what the others wait for."""

from typing import Any

from slicer.i18n import tr as _

from SlicerRPRLocLib import nodes


def reasons(panel: Any) -> dict[str, str]:
    """Why a button cannot be pressed, "" if it can."""
    parameters, ui, busy = panel.parameters, panel.ui, _("A run is under way.") if panel.logic.busy else ""
    undo, redo = panel.logic.history.can()
    results, key, row = panel.logic.results, panel.table.key, panel.table.row
    no_result = "" if key is not None and results.find_located(key) else _("Click the row of a result first.")
    no_row = "" if key is not None and results.find(key) else _("Click the row of an organ with a box first.")
    no_scan = "" if parameters and parameters.supportVolume else _("Choose the scan to mark first.")
    no_name = "" if parameters and parameters.organName.strip() else _("Write a name first.")
    segmentation = ui.segmentSelector.currentNode()
    unknown = segmentation is not None and nodes.drawn_on(segmentation) is None
    no_segmentation = "" if segmentation is not None else _("Choose a segmentation first.")
    no_segment = "" if ui.segmentSelector.currentSegmentID() else _("Choose a segment first.")
    no_organ = "" if panel.organs.ticked() else _("Mark an organ or add a set, and tick what to find first.")
    no_folders = "" if ui.searchPath.currentPath and ui.resultPath.currentPath else _("Choose both folders first.")
    unseen = "" if row is not None and (row.corrected or row.checked) else _("Correct the result or tick it first.")
    unchecked = any(not one.checked for one in panel.table.rows)
    nothing = "" if results.located() or results.absent_json() else _("There are no results yet.")
    return {
        "placeButton": no_scan or no_name,
        "segmentButton": no_segment or (no_scan if unknown else ""),
        "segmentsButton": no_segmentation or (no_scan if unknown else ""),
        "removeButton": "" if panel.examples.chosen else _("Click an example first."),
        "readyMadeButton": "" if panel.readyMadeSet() else _("No ready-made set is installed."),
        "saveSetButton": busy or no_organ,
        "locateButton": busy or no_organ or ("" if panel.scans.ticked() else _("Tick a scan first.")),
        "folderButton": busy or no_organ or no_folders,
        "cancelButton": "" if busy else _("There is no run."),
        "undoButton": busy or ("" if undo else _("There is nothing to undo.")),
        "redoButton": busy or ("" if redo else _("There is nothing to redo.")),
        "nextButton": nothing or ("" if unchecked else _("All results are checked.")),
        "deleteButton": no_result,
        "teachButton": no_result or unseen,
        "againButton": busy or nothing or ("" if panel.logic.targets() else _("Mark an organ or add a set first.")),
        "cropButton": no_row,
        "exportButton": nothing or ("" if ui.exportPath.currentPath else _("Choose the folder first.")),
        **panel.onward.reasons(no_row, nothing),
    }
