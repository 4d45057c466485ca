"""The files of a result: how they are called, what writes them, what reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.files import (
    atomic_folder,
    is_temporary,
    parse_json,
    readable,
    remove_if_empty,
    require_short_name,
    write_text_atomically,
)

if TYPE_CHECKING:
    from rprloc.geometry import Box
    from rprloc.io.reading import Scan

DICOM_KINDS = ("seg", "sr", "rtstruct")
"""Kinds of DICOM results. The segmentation comes first: it alone can be impossible, and then no work is in vain."""

_FOLDERS = (".slices", ".crops")

TABLE = "organs.csv"
"""The table of all results in a folder; see :mod:`rprloc.io.table`."""


def dicom_kinds(wanted: Sequence[str], *, boxes: bool) -> list[str]:
    """The kinds of DICOM results that a result with or without boxes has: landmarks fill no segmentation."""
    return [kind for kind in wanted if boxes or kind != "seg"]


@dataclass(frozen=True)
class ResultFiles:
    """The names of a query's result files in a folder; ``name`` may lead into a subfolder."""

    folder: Path
    name: str

    @property
    def detections(self) -> Path:
        """What was found, and how far to trust it."""
        return self._path(".detections.json")

    @property
    def failure(self) -> Path:
        """Why there is no result."""
        return self._path(".failed.json")

    @property
    def rois(self) -> Path:
        """The boxes as ROIs of 3D Slicer."""
        return self._path(".mrk.json")

    @property
    def picture(self) -> Path:
        """Each box on three slices."""
        return self._path(".png")

    @property
    def label_map(self) -> Path:
        """The boxes on the scan's voxels."""
        return self._path(".boxes.nii.gz")

    @property
    def slices(self) -> Path:
        """The folder of the slices through each organ, for the page of a report; see :mod:`rprloc.io.slices`."""
        return self._path(".slices")

    @property
    def prompts(self) -> Path:
        """The boxes as ranges of voxels."""
        return self._path(".prompts.json")

    @property
    def crops(self) -> Path:
        """The folder of the scan cut to each organ; see :mod:`rprloc.io.crops`."""
        return self._path(".crops")

    def dicom(self, kind: str) -> Path:
        """One of DICOM_KINDS."""
        return self._path(f".{kind}.dcm")

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.name}{suffix}"

    @property
    def drawn(self) -> tuple[Path, ...]:
        """All that a result may consist of besides the detections; of folders, what was written there."""
        from rprloc.io.crops import list_crops
        from rprloc.io.slices import list_slices

        alone = (self.rois, self.picture, self.label_map, self.prompts, *map(self.dicom, DICOM_KINDS))
        return (*alone, *list_slices(self.slices), *list_crops(self.crops))

    def delete(self) -> None:
        """Delete a result, the detections first: without them the rest is none."""
        drawn = self.drawn
        for path in (self.detections, *drawn):
            path.unlink(missing_ok=True)
        remove_if_empty({self.slices, self.crops})

    def require_possible(self, scan: Path) -> None:
        """Raise InputError before the work if the results of the scan at a path cannot be called like this."""
        if not self.name:
            raise InputError(
                f"{readable(str(scan))} has no name before its extension, so its results would have none. Rename it, "
                "or name it in a manifest."
            )
        for folder in Path(self.name).parts[:-1]:
            if folder.endswith(_FOLDERS):
                raise InputError(
                    f"The name {readable(self.name)} leads into {readable(folder)}, and such folders hold parts of one "
                    "result. Give another name in the manifest."
                )
        require_short_name(self.detections)  # the longest of all

    @classmethod
    def all_in(cls, folder: Path) -> tuple[list[ResultFiles], list[ResultFiles]]:
        """The results and the failures in a folder and below it, sorted by name."""
        ends = (cls(folder, "").detections.name, cls(folder, "").failure.name)
        below = (path.relative_to(folder) for path in folder.rglob("*.json"))
        inside = [path for path in below if not is_temporary(path)]
        results, failures = (
            sorted(path.as_posix().removesuffix(end) for path in inside if path.name.endswith(end)) for end in ends
        )
        return [cls(folder, name) for name in results], [cls(folder, name) for name in failures]


@dataclass(frozen=True)
class Failure:
    """A query without a result, and why."""

    query: str
    error: str


def save_failure(path: Path, query: str, error: str, run: str) -> None:
    """Write why a query has no result, and the name of the run in which it failed."""
    content = {"query": query, "error": error, "run": run}
    write_text_atomically(path, json.dumps(content, ensure_ascii=False) + "\n")


def read_failure(path: Path, run: str) -> str | None:
    """Why a query failed in this run; None if it did not, or if nothing legible tells."""
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
        return str(record["error"]) if record["run"] == run else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_results(folder: Path) -> list[Detections | Failure]:
    """The results and failures in a folder, by their names; a failure hides what an earlier run found.

    Raises InputError if there are none, or one is damaged.
    """
    results, failures = ResultFiles.all_in(folder) if folder.is_dir() else ([], [])
    content: dict[str, Detections | Failure] = {files.name: Detections.load(files.detections) for files in results}
    for files in failures:
        try:
            record = parse_json(files.failure.read_text(encoding="utf-8"))
            content[files.name] = Failure(str(record["query"]), str(record["error"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{files.failure} is damaged ({error}). Delete it.") from error
    if not content:
        raise InputError(f"{folder} holds no results. Give the folder that 'rprloc locate --out' wrote.")
    return [content[name] for name in sorted(content)]


def write_results(
    folder: str | Path,
    scan: Scan,
    detections: Detections,
    *,
    name: str | None = None,
    picture: bool = False,
    label_map: bool = False,
    prompts: bool = False,
    crop_margin_mm: float | None = None,
    dicom: Sequence[str] = (),
    truth: Mapping[str, Box] | None = None,
) -> None:  # long for its description alone
    """Write a query's result files, all of them or none; the detections come last, so that with them all is there.

    If nothing that was looked for lies in the scan there is nothing to draw: only the label map, the prompts and the
    detections are written. Files of an earlier run that found something else are deleted.

    Parameters
    ----------
    folder : path
        Where the files go; it must exist.
    scan : Scan
        The query.
    detections : Detections
        What was found in it.
    name : str, optional
        What the files are called; by default like the query.
    picture, label_map : bool
        Whether to write pictures of the boxes (a PNG, and the slices for the page of a report), and the boxes on the
        scan's voxels.
    prompts : bool
        Whether to write the boxes as ranges of voxels, for programs that take a box as a prompt.
    crop_margin_mm : float, optional
        Write the scan cut to each organ's box and this margin on all sides; see :class:`rprloc.Crop`.
    dicom : sequence of {"seg", "sr", "rtstruct"}
        Which DICOM objects to write, for a scan that was read from DICOM.
    truth : mapping of str to Box, optional
        Reference boxes for the picture.

    Raises
    ------
    InputError
        If the folder cannot be written to, the margin is below 0 or not finite, or DICOM is asked for and the scan is
        not from DICOM.

    Examples
    --------
    >>> rprloc.write_results(".", scan, found, picture=True)
    """
    from rprloc.io.crops import list_crops, require_margin, save_crops
    from rprloc.io.prompts import save_prompts

    files = ResultFiles(Path(folder), detections.query if name is None else name)
    require_margin(crop_margin_mm)
    for kind in dicom:
        if scan.series is None:
            raise InputError(
                f"{files.name} was not read from DICOM, so no {kind.upper()} can refer to it. Leave --{kind} out."
            )
    files.require_possible(Path(files.name or "The scan"))
    outdated = () if _is_written(files.detections, detections) else files.drawn
    if crop_margin_mm is not None:  # a place must never lie beside the image of another margin
        outdated = (*dict.fromkeys((*outdated, *list_crops(files.crops))),)
    with atomic_folder(files.detections.parent, files.detections.name, outdated) as temporary:
        complete = ResultFiles(temporary, Path(files.name).name)
        if prompts:
            save_prompts(complete.prompts, detections, scan.volume.grid)
        if crop_margin_mm is not None and detections.located:
            save_crops(complete.crops, scan.volume, detections, crop_margin_mm)
        _write_kinds(complete, scan, detections, picture, label_map, dicom, truth)
        detections.save(complete.detections)


def _is_written(path: Path, detections: Detections) -> bool:
    """Whether an earlier run has found the same, so that the files that it left go with it."""
    try:
        return path.read_text(encoding="utf-8") == detections.to_json()
    except (OSError, ValueError):
        return False


def _write_kinds(
    files: ResultFiles,
    scan: Scan,
    detections: Detections,
    picture: bool,
    label_map: bool,
    dicom: Sequence[str],
    truth: Mapping[str, Box] | None,
) -> None:
    """All files but the detections."""
    from rprloc.io.dicom_export import DICOM_WRITERS
    from rprloc.io.label_map import save_label_map
    from rprloc.io.markups import write_rois
    from rprloc.io.pictures import display_volume, save_picture
    from rprloc.io.slices import save_slices

    if label_map:
        save_label_map(files.label_map, detections, scan.volume.grid)
    if not detections.located and not detections.located_landmarks:
        return
    for kind in dicom_kinds(dicom, boxes=bool(detections.located)):
        if scan.series is not None:
            DICOM_WRITERS[kind](files.dicom(kind), detections, scan.series)
    if picture:
        points = {organ.organ: organ.points_ras for organ in detections.located}
        remarks = {name: found.remark for name, found in detections.targets.items()}
        display = display_volume(scan.volume)
        save_picture(
            files.picture,
            display,
            detections.boxes,
            truth=truth,
            points=points,
            remarks=remarks,
            landmarks=detections.points_ras,
        )
        save_slices(files.slices, display, detections)
    write_rois(files.rois, detections)
