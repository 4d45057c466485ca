"""Requests answered by one process, one after another: the network, and what it saw in the last scans, stay in memory.

For programs that work with RPR-Loc over a pipe, such as the module for 3D Slicer. A request is one line of JSON on
stdin, an event is one line of JSON on stdout::

    {"id": 1, "command": "build", "image": PATH, "points_ras_mm": {ORGAN: [[r, a, s] x 6]},
     "landmarks_ras_mm": {LANDMARK: [r, a, s]}, "out": SET.json}
    {"id": 2, "command": "merge", "sets": [SET.json, ...], "out": SET.json}
    {"id": 3, "command": "show", "set": SET.json}
    {"id": 4, "command": "find", "folder": FOLDER}
    {"id": 5, "command": "locate", "set": SET.json, "image": PATH, "organs": [ORGAN, ...]}

``build`` needs one of the two marks at least. It may take ``"masks": {ORGAN: FILE}``, an image file with the organ's
voxels for organs that have points. A mask counts as long as its six extreme points, without specks, are the ones that
are given; else a warning says that the points alone count. ``build`` takes ``scan_name`` and ``build`` and ``locate``
take ``series`` as the commands of the same names do. Both take ``"modality": "MR"``, which says as DICOM would what an
image file holds that does not tell. ``find`` lists the scans below a folder; without ``organs``, which may name
landmarks, too, all are located. ``locate`` also writes the boxes as ROIs of Slicer to
``"rois": FILE.mrk.json``, and as a label map on the scan's voxels to ``"label_map": FILE.nrrd``, if the request names
these files. ``build``, ``merge`` and ``show`` give the set's identity, organs, landmarks, scans and ``warnings``:
reasons to doubt its examples. Events carry the id of their request:

    {"id": null, "event": "ready", "model_id": ..., "modality": "CT", "MR" or "CT+MR", "device": ..., "version": ...,
     "library": FOLDER}                                     once, before the first request is read
    {"id": null, "event": "error", "message": ..., "damaged": "torch"}    in its place, if PyTorch cannot be imported
    {"id": 5, "event": "progress", "fraction": 0.0 to 1.0, "message": ...}
    {"id": 5, "event": "log", "level": "warning", "message": ...}
    {"id": 5, "event": "result", "result": {...}}           ends a request; ``locate`` gives the detections' JSON object
    {"id": 5, "event": "error", "message": ...}             ends a request: what is wrong and what to do
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import rprloc
from rprloc import Annotation, Grid, InputError, Localizer, SupportSet, read_scan, save_label_map, write_rois
from rprloc.annotation import Marking, Mask, scan_pseudonym
from rprloc.apps.console import FAILURES, describe_failure
from rprloc.files import atomic_path, is_folder, parse_json, require_name, require_writable, status_of
from rprloc.geometry import extreme_points_of_mask
from rprloc.io.dataset import scans_below
from rprloc.io.label_map import require_label_map_name
from rprloc.io.reading import explain_reading_errors, open_image_file
from rprloc.io.voxels import read_voxels
from rprloc.localization.specks import without_specks
from rprloc.model.field import PositionField
from rprloc.version import __version__

SCANS_IN_MEMORY = 8
"""How many position fields are kept, megabytes each; of the scan itself they hold the networks' input at 4 mm."""

_SAME_MM = 0.01

Emit = Callable[[dict[str, Any]], None]

_Request = Mapping[str, Any]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Scan:
    """What is kept of a scan; ``pseudonym`` is empty until it is needed, because it takes a hash of all voxels."""

    name: str
    pseudonym: str
    grid: Grid
    warnings: tuple[str, ...]
    field: PositionField


class Server:
    """Answers requests with one model. ``emit`` takes the events; see the module's description for both."""

    def __init__(self, localizer: Localizer, emit: Emit) -> None:
        self._localizer = localizer
        self._emit = emit
        self._scans: OrderedDict[tuple[object, ...], _Scan] = OrderedDict()
        self._last_set: tuple[object, SupportSet] | None = None
        self._id: object = None
        self._commands = {
            "build": self._build,
            "merge": self._merge,
            "show": self._show,
            "find": self._find,
            "locate": self._locate,
        }

    def run(self, lines: Iterable[str]) -> None:
        """Answer each line; returns at the end of the lines. A request that cannot be answered does not end the run."""
        handler = _Events(self._log)
        log = logging.getLogger("rprloc")
        log.addHandler(handler)
        try:
            self._emit(
                {
                    "id": None,
                    "event": "ready",
                    "model_id": self._localizer.model_id,
                    "device": self._localizer.device_name,
                    "modality": self._localizer.modality,
                    "version": __version__,
                    "library": str(Path(rprloc.__file__).resolve().parent),
                }
            )
            for line in lines:
                if line.strip():
                    self._answer(line)
        finally:
            log.removeHandler(handler)

    def _answer(self, line: str) -> None:
        self._id = None
        try:
            request = _parsed(line)
            self._id = _id_of(request)
            name = request.get("command")
            if not isinstance(name, str) or name not in self._commands:
                raise InputError(f"The command {name!r} is not known. Use one of {', '.join(self._commands)}.")
            self._event("result", result=self._commands[name](request))
        except FAILURES as error:
            _log.info("A request failed here:", exc_info=True)
            self._event("error", message=describe_failure(error))

    def _build(self, request: _Request) -> dict[str, Any]:
        points, landmarks = (request.get(name, {}) for name in ("points_ras_mm", "landmarks_ras_mm"))
        if not isinstance(points, Mapping) or not isinstance(landmarks, Mapping) or not (points or landmarks):
            raise InputError(
                '"points_ras_mm" is missing. Add six points of each organ, or "landmarks_ras_mm" with one of each '
                "landmark."
            )
        marked = {}
        for organ, given in points.items():
            require_name(organ, "An organ's name")
            try:
                marked[organ] = np.array(given, float)
            except (TypeError, ValueError) as error:
                raise InputError(f"The points of {organ} are not numbers. Give them as [[r, a, s], ...].") from error
        for landmark in landmarks:
            require_name(landmark, "A landmark's name")
        out = _path(request, "out")
        scan_name = request.get("scan_name")
        require_name(scan_name, '"scan_name"')
        require_writable(out)
        annotation = replace(Annotation.from_points(marked), landmarks_ras=landmarks)
        annotation = _with_masks(annotation, request)
        scan = self._scan(request, pseudonym=scan_name is None)
        name = scan_name or scan.pseudonym
        built = self._localizer.learn_in(scan.field, scan.grid, annotation, name, warnings=scan.warnings)
        return self._save(built, out)

    def _merge(self, request: _Request) -> dict[str, Any]:
        out, sets = _path(request, "out"), request.get("sets")
        if not isinstance(sets, list) or not sets or not _are_texts(sets) or not all(map(_is_path, sets)):
            raise InputError('"sets" is missing. Add a list with the paths of the support sets.')
        require_writable(out)
        return self._save(SupportSet.merge(SupportSet.load(path) for path in sets), out)

    def _show(self, request: _Request) -> dict[str, Any]:
        return _describe(SupportSet.load(_text_of_path(request, "set")))

    def _find(self, request: _Request) -> dict[str, Any]:
        return {"images": [str(scan.path) for scan in scans_below(_path(request, "folder"))]}

    def _locate(self, request: _Request) -> dict[str, Any]:
        support_set = self._support_set(_text_of_path(request, "set"))
        organs = request.get("organs")
        if organs is not None and not (isinstance(organs, list) and organs and _are_texts(organs)):
            raise InputError('"organs" is not a list of names. Leave it out for all organs, or name some.')
        rois, label_map = (_path(request, name) if name in request else None for name in ("rois", "label_map"))
        for path in filter(None, (rois, label_map)):
            require_writable(path)
        if rois and label_map and rois.resolve() == label_map.resolve():
            raise InputError('"rois" and "label_map" name the same file. Give each a name of its own.')
        if label_map:
            require_label_map_name(label_map)
        self._localizer.check(support_set, organs)
        scan = self._scan(request)
        self._progress(0.9, "Locating")
        detections = self._localizer.locate_in(scan.field, scan.name, support_set, organs, warnings=scan.warnings)
        detections = replace(detections, grid=scan.grid)
        with ExitStack() as complete:  # both files or none
            if label_map:
                save_label_map(complete.enter_context(atomic_path(label_map)), detections, scan.grid)
            if rois:
                write_rois(rois, detections)
        result: dict[str, Any] = json.loads(detections.to_json())
        return result

    def _save(self, support_set: SupportSet, out: Path) -> dict[str, Any]:
        support_set.save(out)
        return _describe(support_set)

    def _support_set(self, name: str) -> SupportSet:
        """The set of a file, from memory if it is the one of the last request: a large one takes a while to read."""
        path = Path(name)
        key = (name, path.resolve(), _state_of(path))
        if self._last_set is None or self._last_set[0] != key:
            self._last_set = None  # two large ones need not be there at once
            self._last_set = key, SupportSet.load(name)
        return self._last_set[1]

    def _scan(self, request: _Request, *, pseudonym: bool = False) -> _Scan:
        """The request's scan, from memory if its files are those of the last time; its pseudonym only if asked for."""
        path, series = _path(request, "image"), request.get("series")
        if series is not None and not isinstance(series, str):
            raise InputError('"series" is not a text. Give the UID of a DICOM series, or leave it out.')
        modality = request.get("modality", "")
        if not isinstance(modality, str):
            raise InputError('"modality" is not a text. Give what the scan is as DICOM calls it, or leave it out.')
        modality = modality.upper()
        key = (path.resolve(), series, modality, _state_of(path))
        known = self._scans.get(key)
        if known is None or (pseudonym and not known.pseudonym):
            self._progress(0.0, "Reading the scan")
            read = read_scan(path, series_uid=series)
            read = replace(read, volume=replace(read.volume, modality=read.volume.modality or modality))
            volume = read.volume
            self._progress(0.2, "Looking at the scan")
            field = self._localizer.compute_position_field(volume) if known is None else known.field
            name = scan_pseudonym(volume) if pseudonym else ""
            known = _Scan(volume.name, name, volume.grid, self._localizer.warnings_of(read), field)
            self._scans[key] = known
            while len(self._scans) > SCANS_IN_MEMORY:
                self._scans.popitem(last=False)
        self._scans.move_to_end(key)
        return known

    def _progress(self, fraction: float, message: str) -> None:
        self._event("progress", fraction=fraction, message=message)

    def _log(self, level: str, message: str) -> None:
        self._event("log", level=level, message=message)

    def _event(self, kind: str, **content: object) -> None:
        self._emit({"id": self._id, "event": kind, **content})


def _with_masks(annotation: Annotation, request: _Request) -> Annotation:
    """The annotation with the masks of the request whose extreme points are those that are given."""
    files = request.get("masks", {})
    if not isinstance(files, Mapping) or not all(organ in annotation.points_ras for organ in files):
        raise InputError('"masks" is no object of organs that have points. Give it as {"liver": "mask.nrrd"}.')
    masks = {}
    for organ in files:
        path = _path(files, organ)
        with explain_reading_errors(path):
            image = open_image_file(path)
            voxels = read_voxels(image) != 0
        mask = Mask.cut_from(voxels, image.grid) if voxels.any() else None
        if mask is not None:
            cleaned, _, _ = without_specks(mask, organ)
            found = extreme_points_of_mask(cleaned.voxels, cleaned.grid)
            if np.abs(found - annotation.points_ras[organ]).max() <= _SAME_MM:
                masks[organ] = mask
        if organ not in masks:
            _log.warning("The points of %s are not those of its mask any more, so the points alone count.", organ)
    if not masks:
        return annotation
    marking = Marking.LABEL_MAP if len(masks) == len(annotation.points_ras) else Marking.MIXED
    return replace(annotation, masks=masks, marking=marking)


class _Events(logging.Handler):
    """Log messages as events."""

    def __init__(self, emit: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._emit = emit

    def emit(self, record: logging.LogRecord) -> None:
        self._emit(record.levelname.lower(), self.format(record))


def _parsed(line: str) -> dict[str, Any]:
    try:
        request = parse_json(line)
    except ValueError as error:
        raise InputError(f"A request is not JSON ({error}). Send one JSON object in a line.") from error
    if not isinstance(request, dict):
        raise InputError("A request is not a JSON object. Send one object in a line.")
    return request


def _path(request: _Request, name: str) -> Path:
    return Path(_text_of_path(request, name))


def _text_of_path(request: _Request, name: str) -> str:
    """As it was given: a path leaves out ``./``, which tells a file from a ready-made set of its name."""
    value = request.get(name)
    if not isinstance(value, str) or not value or not _is_path(value):
        raise InputError(f'"{name}" is missing or no path. Add it to the request, as a path.')
    return value


def _is_path(text: str) -> bool:
    """Whether a file could be called so: not with half of a letter that JSON may hold, nor with a zero."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _id_of(request: _Request) -> object:
    """The request's id, which goes back with every event."""
    value = request.get("id")
    if isinstance(value, (str, int, type(None))) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise InputError("The id of a request is neither a text nor a number. Give one of these.")


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _describe(support_set: SupportSet) -> dict[str, Any]:
    return {
        "identity": support_set.identity,
        "model_id": support_set.model_id,
        "organs": support_set.organs,
        "landmarks": support_set.landmarks,
        "scans": [support.scan for support in support_set.supports],
        "warnings": list(support_set.warnings),
    }


def _state_of(path: Path) -> tuple[object, ...]:
    """What changes when the file, or one of the files that belong to it, is written anew; () if there is nothing.

    Those of a folder lie at any depth. Beside a header may lie the file with its voxels.
    """
    if is_folder(path):
        files = sorted(Path(root, name) for root, _, names in os.walk(path) for name in names)
    elif path.suffix.lower() in (".mhd", ".nhdr") and is_folder(path.parent):
        files = sorted(path.parent.iterdir())
    else:
        files = [path]
    states = ((file, status_of(file)) for file in files)
    return tuple((str(file), state.st_mtime_ns, state.st_size) for file, state in states if state is not None)
