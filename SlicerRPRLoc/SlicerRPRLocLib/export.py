"""The files of results: boxes as the user has left them, and the table of organs that the command line writes, too.

What writes images needs packages that Slicer does not bring, so it is imported when it is used: the panel must open
before they are installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from rprloc import Detections, InputError
from rprloc.detection import AbsentLandmark
from rprloc.files import write_text_atomically
from rprloc.io.results import TABLE, ResultFiles
from rprloc.io.table import Row, landmark_row, organ_row, save_table
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.nodes import Node
from SlicerRPRLocLib.results import Results


def export_results(results: Results, folder: Path, *, markups: bool, label_map: bool, table: bool) -> list[Path]:
    """Write all results of a scene into a folder; returns the files.

    Raises InputError, and writes nothing, if there is nothing to write, or if a scan was moved away from its results.
    """
    from rprloc import write_rois

    if not results.located() and not results.absent_json():
        raise InputError("There are no results. Press Locate first.")
    for located in results.located():
        results.require_unmoved(located)
    if not (markups or label_map or table):
        raise InputError("No kind of file is chosen. Tick Markups, label map or table.")
    require_export_folder(folder)
    written: list[Path] = []
    names: set[str] = set()
    volumes = {volume.GetID(): volume for volume in map(nodes.volume_of, results.located())}
    for volume in volumes.values():
        files = ResultFiles(folder, free_name(volume.GetName(), names))
        found = results.as_they_are(volume)
        if markups:
            write_rois(files.rois, found)
            written.append(files.rois)
        if label_map and found.located:  # landmarks have no voxels
            written += _write_label_map(files, found, volume)
    if table:
        save_table(folder / TABLE, _rows(results))
        written.append(folder / TABLE)
    return written


def require_export_folder(folder: Path) -> None:
    """Raise InputError unless a folder is chosen and there."""
    if not folder.is_absolute():
        raise InputError("No folder is chosen. Choose the one for the files.")
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. Choose one where you may write.")


def _write_label_map(files: ResultFiles, found: Detections, volume: Node) -> tuple[Path, Path]:
    """The boxes on the scan's voxels, and beside them the organ of each label, as ``--names`` takes them."""
    from rprloc import save_label_map

    labels = save_label_map(files.label_map, found, nodes.grid_of(volume))
    names = files.folder / f"{files.name}.boxes.json"
    write_text_atomically(names, json.dumps(labels, indent=1, ensure_ascii=False) + "\n")
    return files.label_map, names


def _rows(results: Results) -> Iterator[Row]:
    for roi in results.rois():
        record = results.record(roi)
        corrected = results.is_corrected(roi)
        yield organ_row(record.detections, results.as_it_is(roi), corrected=corrected, checked=record.checked)
    for node in results.landmarks.all():
        landmark, corrected = results.landmarks.record(node), results.landmarks.is_corrected(node)
        as_it_is = results.landmarks.as_it_is(node)
        yield landmark_row(landmark.detections, as_it_is, corrected=corrected, checked=landmark.checked)
    for found, one, checked in results.absent_rows():
        if isinstance(one, AbsentLandmark):
            yield landmark_row(found, one, checked=checked)
        else:
            yield organ_row(found, one, checked=checked)


def free_name(name: str, taken: set[str]) -> str:
    """A volume's name as a file's name that is not taken yet."""
    plain = re.sub(r"[^\w.+-]+", "_", name).strip("._") or "scan"
    free, number = plain, 1
    while free.casefold() in taken:
        number += 1
        free = f"{plain}_{number}"
    taken.add(free.casefold())
    return free
