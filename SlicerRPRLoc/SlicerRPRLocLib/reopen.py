"""The results in a folder, as a run in a folder or the command line wrote them, opened again in the scene.

Results say where the voxels of their scan lie, but not in which file they are: the file is looked for by its name among
the scans, or named by the journals of a run with a manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import slicer
import slicer.util

from rprloc import Detections, Grid, InputError
from rprloc.files import parse_json
from rprloc.io.results import ResultFiles
from SlicerRPRLocLib import nodes, views
from SlicerRPRLocLib.handover import same_voxels
from SlicerRPRLocLib.landmarks import with_targets
from SlicerRPRLocLib.nodes import Node
from SlicerRPRLocLib.results import Results
from SlicerRPRLocLib.weights import note_modality
from SlicerRPRLocLib.wording import counted

_FILE, _SERIES = "RPRLoc.File", "RPRLoc.Series"
"""The attributes in which a volume that was opened here keeps from which file or folder, and which series of that."""


@dataclass(frozen=True)
class Entry:
    """The result of one scan: what is to be said of it. ``fault`` says why it cannot be opened, "" if it can."""

    name: str
    text: str
    worst_mm: float
    fault: str = ""


@dataclass
class FolderResults:
    """The results in ``folder``, of scans below ``scans``, if that is known."""

    folder: Path
    scans: Path | None = None
    entries: list[Entry] = field(init=False)
    """The most doubtful ones first, then those that cannot be opened."""

    def __post_init__(self) -> None:
        if not self.folder.is_absolute():
            raise InputError("No folder of results is chosen. Choose it in the field 'Results to'.")
        if not self.folder.is_dir():
            raise InputError(f"There is no folder {self.folder}. Choose the one with the results.")
        results, failures = ResultFiles.all_in(self.folder)
        failed = {files.name: _why_failed(files.failure) for files in failures}  # a failure hides an older result
        entries = [_entry(files) for files in results if files.name not in failed]
        entries += [Entry(name, f"{name}: failed", np.inf, f"It failed: {why}") for name, why in failed.items()]
        if not entries:
            raise InputError(f"{self.folder} holds no results. Choose the folder that a run has written.")
        self.entries = sorted(entries, key=lambda entry: (bool(entry.fault), -entry.worst_mm, entry.name))

    def open(self, name: str, results: Results) -> tuple[Node, list[str]]:
        """Load one scan, unless it is there already, and put its boxes beside it; the volume, and what to tell.

        What is there just so and was ticked keeps its tick.

        Raises InputError, and changes nothing, if the scan is gone, is damaged, or is not the one that was searched.
        """
        entry = next(entry for entry in self.entries if entry.name == name)
        if entry.fault:
            raise InputError(f"{name} cannot be opened: {entry.fault.rstrip('.')}.")
        found = Detections.load(ResultFiles(self.folder, name).detections)
        path, series = self._scan_of(name)
        volume, told = _known(results, path, series, found), []
        if volume is None:
            volume = _load(results, path, series, name, found.grid)
        if found.grid is None:
            told.append(
                "These results are of an older version, which did not note where the scan lay: see for yourself that "
                f"they belong to {path}."
            )
        new = [one for name, one in found.targets.items() if not results.has_checked(volume, found, name)]
        told += [*found.warnings, *results.apply([(volume, with_targets(found, new))])]
        views.show_scan(results.scene, volume)
        return volume, told

    def _scan_of(self, name: str) -> tuple[Path, str | None]:
        """The file or folder of a result's scan, and which of its series is meant."""
        noted = self._noted.get(name)
        path, series = ((self.folder / noted[0]).resolve(), noted[1]) if noted else (self._only_scan(name), "")
        if not path.exists():
            raise InputError(f"The scan {path}, in which {name} was located, is gone. Put it back.")
        return path, series or None

    def _only_scan(self, name: str) -> Path:
        if self.scans is None or not self.scans.is_absolute():
            raise InputError(
                f"Nobody knows where the scan {name} is. Choose the folder in the field 'Scans in', and list the "
                "results again."
            )
        paths = self._below.get(name, [])
        if len(paths) != 1:
            what = f"{len(paths)} scans are called {name}" if paths else f"No scan is called {name}"
            raise InputError(
                f"{what} below {self.scans}. Choose the folder that was searched in the field 'Scans in', and list the "
                "results again."
            )
        return paths[0]

    @cached_property
    def _noted(self) -> dict[str, tuple[str, str]]:
        from rprloc.apps.batch import located_scans

        return located_scans(self.folder)

    @cached_property
    def _below(self) -> dict[str, list[Path]]:
        from rprloc.io.dataset import scans_below
        from rprloc.io.formats import scan_name

        found: dict[str, list[Path]] = {}
        assert self.scans is not None
        for scan in scans_below(self.scans):
            found.setdefault(scan_name(scan.path), []).append(scan.path)
        return found


def _entry(files: ResultFiles) -> Entry:
    try:
        found = Detections.load(files.detections)
    except InputError as error:
        return Entry(files.name, f"{files.name}: damaged", np.inf, str(error))
    errors = [one.expected_wall_error_mm for one in found.located if one.expected_wall_error_mm is not None]
    errors += [one.expected_error_mm for one in found.located_landmarks if one.expected_error_mm is not None]
    worst_mm = max(errors, default=0.0)
    absent, warnings = len(found.absent) + len(found.absent_landmarks), len(found.warnings)
    said = (
        f"up to {worst_mm:.0f} mm off" if errors else "",
        f"{absent} not in the scan" if absent else "",
        counted(warnings, "warning") if warnings else "",
    )
    return Entry(files.name, f"{files.name}: {', '.join(filter(None, said)) or 'nothing to tell'}", worst_mm)


def _why_failed(path: Path) -> str:
    try:
        return str(parse_json(path.read_text(encoding="utf-8"))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path} should tell why, and is damaged."


def _file_of(volume: Node) -> Path | None:
    """The file or folder from which a volume was loaded, here or by Slicer's own means."""
    storage = volume.GetStorageNode()
    one_file = storage is not None and storage.GetNumberOfFileNames() <= 1
    name = volume.GetAttribute(_FILE) or (storage.GetFullNameFromFileName() if one_file else "")
    return Path(name).resolve() if name else None


def _known(results: Results, path: Path, series: str | None, found: Detections) -> Node | None:
    """The volume of the scene that was loaded from this file and still lies where the scan lay that was searched.

    The phases of one study lie at the same place, and may lie in the same folder: the series tells them apart.
    """
    for volume in nodes.scans(results.scene):
        same_file = _file_of(volume) == path.resolve() and volume.GetAttribute(_SERIES) == series
        if found.grid is not None and same_file:
            try:
                if same_voxels(found.grid, nodes.grid_of(volume)):
                    return volume
            except InputError:  # it is bent or sheared by now
                continue
    return None


def _load(results: Results, path: Path, series: str | None, name: str, searched: Grid | None) -> Node:
    """A new volume of a scan's file. Raises InputError if it does not lie where the scan lay that was searched."""
    volume = _reader(path)(results, path, series, Path(name).name, searched)
    volume.SetAttribute(_FILE, str(path))
    volume.SetAttribute(_SERIES, series)
    return volume


def _reader(path: Path) -> Callable[[Results, Path, str | None, str, Grid | None], Node]:
    from rprloc.io.formats import holds_series

    return _read_dicom if holds_series(path) else _read_file


def _read_file(results: Results, path: Path, series: str | None, name: str, searched: Grid | None) -> Node:
    """By Slicer's own reader, so that Slicer knows the file."""
    from rprloc.io.reading import explain_reading_errors, open_image_file

    with explain_reading_errors(path):
        _require_same(path, searched, open_image_file(path).grid)
    try:
        volume = slicer.util.loadVolume(str(path), {"name": name})
    except RuntimeError as error:
        raise InputError(f"Slicer cannot load {path} ({error}).") from error
    try:
        _require_same(path, searched, nodes.grid_of(volume))
    except InputError:
        nodes.remove(volume)
        raise
    return volume


def _read_dicom(results: Results, path: Path, series: str | None, name: str, searched: Grid | None) -> Node:
    """As it was read when it was searched: straightened, and of one series."""
    from rprloc import read_scan

    scan = read_scan(path, series_uid=series).volume
    _require_same(path, searched, scan.grid)
    volume = results.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", results.scene.GenerateUniqueName(name))
    slicer.util.updateVolumeFromArray(volume, np.ascontiguousarray(scan.hu.transpose(2, 1, 0)))
    volume.SetIJKToRASMatrix(nodes.vtk_matrix(scan.grid.ras_from_ijk))
    volume.CreateDefaultDisplayNodes()
    note_modality(volume, scan.modality)
    return volume


def _require_same(path: Path, searched: Grid | None, grid: Grid) -> None:
    if searched is not None and not same_voxels(searched, grid):
        raise InputError(
            f"{path} is not the scan that was searched: its voxels lie elsewhere. It was written anew, or is another "
            "scan of the same name. Locate in it again."
        )
