"""TODO io.results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.files import parse_json, write_text_atomically

if TYPE_CHECKING:
    from rprloc.geometry import Box
    from rprloc.volume import Volume

RESULT, FAILURE = ".detections.json", ".failed.json"
"""How the names of the files end that hold a query's result, or say why it has none."""


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
    """The results and failures in a folder, by their names. Raises InputError if there are none, or one is damaged."""
    found: dict[str, Detections | Failure] = {}
    for path in folder.rglob(f"*{FAILURE}") if folder.is_dir() else []:
        try:
            record = parse_json(path.read_text(encoding="utf-8"))
            found[_name(path, folder, FAILURE)] = Failure(str(record["query"]), str(record["error"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}); it was expected to tell a failure; delete it.") from error
    found |= {_name(path, folder, RESULT): load_detections(path) for path in folder.rglob(f"*{RESULT}")}
    if not found:
        raise InputError(
            f"{folder} holds no results (*{RESULT}); the folder that 'rprloc locate --out' wrote was expected; give it."
        )
    return [found[name] for name in sorted(found)]


def _name(path: Path, folder: Path, suffix: str) -> str:
    return path.relative_to(folder).as_posix().removesuffix(suffix)


def write_results(
    out: Path,
    name: str,
    volume: Volume,
    found: Detections,
    *,
    picture: bool,
    labels: bool = False,
    dicom: Sequence[str] = (),
    truth: Mapping[str, Box] | None = None,
) -> None:
    """Write a query's result files; the detections come last, so that with them all is there.

    If no organ lies in the scan there is nothing to draw: only the label map and the detections are written, and what
    an earlier run left of the others is deleted.

    ``dicom`` names kinds of :data:`rprloc.io.dicom_export.DICOM_WRITERS`, for a volume that was read from DICOM.
    """
    from rprloc.io.dicom_export import DICOM_WRITERS
    from rprloc.io.label_map import save_label_map
    from rprloc.io.markups import write_rois
    from rprloc.io.pictures import save_picture
    from rprloc.io.results import save_detections

    for kind in dicom:
        if volume.series is None:
            raise InputError(
                f"{name} was not read from DICOM, so that no {kind.upper()} can refer to it; a DICOM series was "
                f"expected; leave --{kind} out."
            )
        if found.located:
            DICOM_WRITERS[kind](out / f"{name}.{kind}.dcm", found, volume.series)
    if labels:
        save_label_map(out / f"{name}.boxes.nii.gz", found, volume.grid)
    if picture and found.located:
        points = {organ.organ: organ.points_ras for organ in found.located}
        remarks = {organ.organ: organ.remark for organ in found.organs}
        save_picture(out / f"{name}.png", volume, found.boxes, truth=truth, points=points, remarks=remarks)
    if found.located:
        write_rois(out / f"{name}.mrk.json", found)
    else:
        for suffix in (".mrk.json", ".png", *(f".{kind}.dcm" for kind in DICOM_WRITERS)):
            (out / f"{name}{suffix}").unlink(missing_ok=True)
    save_detections(out / f"{name}.detections.json", found)


def save_detections(path: str | Path, detections: Detections) -> None:
    """Write the detections as JSON, all or nothing. Raises InputError if the folder cannot be written to."""
    write_text_atomically(path, detections.to_json())


def load_detections(path: str | Path) -> Detections:
    """Read a file of :func:`save_detections`. Raises InputError if it is missing or not such a file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); a detections file in JSON was expected; check the path."
        ) from error
    return Detections.from_json(text, str(path))
