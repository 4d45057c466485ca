"""The table of organs and landmarks: a row for each of each scan, with the same columns wherever it is written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rprloc.detection import AbsentLandmark, AbsentOrgan, Detections, LandmarkDetection, OrganDetection
from rprloc.files import write_text_atomically
from rprloc.geometry import WALLS
from rprloc.io.results import Failure

_NUMBERS = (
    *(f"{wall}_ras_mm" for wall in WALLS),
    *(f"centre_{axis}_mm" for axis in "ras"),
    *(f"size_{axis}_mm" for axis in "ras"),
    *(f"spread_{wall}_mm" for wall in WALLS),
)
COLUMNS = (
    "query",
    "organ",
    "kind",
    *_NUMBERS,
    "expected_wall_error_mm",
    *(f"probability_{presence}" for presence in ("whole", "part", "absent")),
    "supports",
    "corrected",
    "checked",
    "model_id",
    "support_id",
    "warnings",
    "error",
)
"""In RAS mm: ``centre_r_mm`` is the centre's coordinate to the patient's right, ``size_s_mm`` the size along the body.
``kind`` is organ or landmark: a landmark has its name under ``organ``, its point as the centre, and the expected error
of the point; it is wholly in the scan or not. ``corrected`` and ``checked`` say what a person did, where that is
known."""

Row = dict[str, str]


def organ_row(
    detections: Detections,
    organ: OrganDetection | AbsentOrgan,
    *,
    corrected: bool | None = None,
    checked: bool | None = None,
) -> Row:
    """The row of one organ; an absent one has no numbers."""
    row = _common(detections) | {"organ": organ.organ, "kind": "organ", "supports": " ".join(organ.supports)}
    row |= {name: _yes(value) for name, value in (("corrected", corrected), ("checked", checked))}
    if organ.presence is not None:
        row |= {f"probability_{name}": f"{chance:.3f}" for name, chance in asdict(organ.presence).items()}
    if isinstance(organ, AbsentOrgan):
        return row
    if organ.expected_wall_error_mm is not None:
        row["expected_wall_error_mm"] = f"{organ.expected_wall_error_mm:.2f}"
    numbers = [*organ.box.walls_mm, *organ.box.centre_ras, *organ.box.size_mm, *organ.spread_mm]
    return row | dict(zip(_NUMBERS, (f"{number:.2f}" for number in numbers), strict=True))


def landmark_row(
    detections: Detections,
    landmark: LandmarkDetection | AbsentLandmark,
    *,
    corrected: bool | None = None,
    checked: bool | None = None,
) -> Row:
    """The row of one landmark; an absent one has no numbers."""
    row = _common(detections) | {
        "organ": landmark.landmark,
        "kind": "landmark",
        "supports": " ".join(landmark.supports),
    }
    row |= {name: _yes(value) for name, value in (("corrected", corrected), ("checked", checked))}
    if landmark.in_scan is not None:
        row |= {"probability_whole": f"{landmark.in_scan:.3f}", "probability_absent": f"{1.0 - landmark.in_scan:.3f}"}
    if isinstance(landmark, AbsentLandmark):
        return row
    if landmark.expected_error_mm is not None:
        row["expected_wall_error_mm"] = f"{landmark.expected_error_mm:.2f}"
    names = [f"centre_{axis}_mm" for axis in "ras"]
    return row | dict(zip(names, (f"{mm:.2f}" for mm in landmark.point_ras), strict=True))


def result_rows(result: Detections | Failure) -> list[Row]:
    """The rows of one query; a failure, or a result in which no organ was looked for, has one."""
    if isinstance(result, Failure):
        return [{"query": result.query, "error": result.error}]
    organs = [organ_row(result, organ) for organ in result.organs]
    landmarks = [landmark_row(result, landmark) for landmark in result.landmarks]
    return [*organs, *landmarks] or [_common(result)]


def save_table(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV, whole or not at all. Raises InputError if the folder cannot be written to."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomically(path, text.getvalue())


def _common(detections: Detections) -> Row:
    return {
        "query": detections.query,
        "model_id": detections.model_id,
        "support_id": detections.support_id,
        "warnings": " ".join(detections.warnings),
    }


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"
