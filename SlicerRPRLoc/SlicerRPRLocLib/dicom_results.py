"""Results as DICOM objects beside the series from which Slicer has loaded the scan: RT structure set, SR and SEG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rprloc import InputError
from rprloc.io.results import ResultFiles, dicom_kinds
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.export import free_name, require_export_folder
from SlicerRPRLocLib.handover import same_voxels
from SlicerRPRLocLib.nodes import Node
from SlicerRPRLocLib.results import Results

if TYPE_CHECKING:
    from rprloc.io.dicom import DicomSeries

_INSTANCES = "DICOM.instanceUIDs"
"""The attribute in which Slicer keeps of a volume the UIDs of its slices."""


def export_dicom(
    results: Results, folder: Path, kinds: Sequence[str], file_of: Callable[[str], str]
) -> tuple[list[Path], list[str]]:
    """Write the results of every scan that came from DICOM into a folder, as it is now; the files, and what to tell.

    ``kinds`` are of rprloc.io.results.DICOM_KINDS; ``file_of`` gives the file of a SOP instance, "" if it is not
    known, as Slicer's database does. A scan that is not from DICOM is told, and the others are written; so is one with
    landmarks alone, if no kind is chosen that holds them. Raises InputError if nothing could be written.
    """
    from rprloc.io.dicom_export import DICOM_WRITERS, require_dicom_writers

    if not kinds:
        raise InputError("No kind of DICOM object is chosen. Tick RT structure set, SR or segmentation.")
    require_export_folder(folder)
    require_dicom_writers(kinds)
    volumes = {volume.GetID(): volume for volume in map(nodes.volume_of, results.located())}
    if not volumes:
        raise InputError("There is no box and no landmark that could be written. Press Locate first.")
    written: list[Path] = []
    told: list[str] = []
    names: set[str] = set()
    for volume in volumes.values():
        files = ResultFiles(folder, free_name(volume.GetName(), names))
        try:
            found = results.as_they_are(volume)
            fitting = dicom_kinds(kinds, boxes=bool(found.located))
            if not fitting:
                raise InputError("It has landmarks alone, and a segmentation holds none. Tick RT structure set or SR.")
            for located in results.located():
                if nodes.volume_of(located) is volume:
                    results.require_unmoved(located)
            series = series_of(volume, file_of)
            for kind in fitting:
                DICOM_WRITERS[kind](files.dicom(kind), found, series)
                written.append(files.dicom(kind))
        except InputError as error:
            told.append(f"{volume.GetName()}: {error}")
    if not written:
        raise InputError(" ".join(told))
    return written, told


def series_of(volume: Node, file_of: Callable[[str], str]) -> DicomSeries:
    """The DICOM series from which a volume was loaded, its slices in order.

    Raises InputError if there is none, its files are gone or cannot be read, or the volume does not lie where it does.
    """
    from rprloc.io.dicom import choose_series, series_of_files
    from rprloc.io.dicom_stack import read_series
    from rprloc.io.reading import explain_reading_errors

    uids = (volume.GetAttribute(_INSTANCES) or "").split()
    if not uids:
        raise InputError(
            "It was not loaded from Slicer's DICOM database, so no DICOM object can refer to it. Import the series in "
            "the module DICOM, load it from there, and locate in that scan."
        )
    files = [Path(name) for name in map(file_of, uids) if name and Path(name).is_file()]
    if len(files) < len(uids):
        raise InputError(
            f"{len(uids) - len(files)} of the {len(uids)} files from which it was loaded are no longer in Slicer's "
            "DICOM database. Import the series again."
        )
    path = files[0].parent
    with explain_reading_errors(path):
        _, grid, series, _ = read_series(choose_series(series_of_files(files), path, None), path)
    if not same_voxels(grid, nodes.grid_of(volume)):
        raise InputError(
            "It does not lie where its DICOM series does, so its boxes would be wrong there. It was moved, cropped or "
            "straightened since it was loaded. Load the series again and locate in it."
        )
    return series
