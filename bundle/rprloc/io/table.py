"""The table of organs: one row for each organ of each scan, with the same columns wherever it is written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rprloc.detection import AbsentOrgan, Detections, OrganDetection
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
``corrected`` and ``checked`` say what a person did, where that is known."""

Row = dict[str, str]


def organ_row(
    detections: Detections,
    organ: OrganDetection | AbsentOrgan,
    *,
    corrected: bool | None = None,
    checked: bool | None = None,
) -> Row:
    """The row of one organ; an absent one has no numbers."""
    row = _common(detections) | {"organ": organ.organ, "supports": " ".join(organ.supports)}
    row |= {name: _yes(value) for name, value in (("corrected", corrected), ("checked", checked))}
    if organ.presence is not None:
        row |= {f"probability_{name}": f"{chance:.3f}" for name, chance in asdict(organ.presence).items()}
    if isinstance(organ, AbsentOrgan):
        return row
    if organ.expected_wall_error_mm is not None:
        row["expected_wall_error_mm"] = f"{organ.expected_wall_error_mm:.2f}"
    numbers = [*organ.box.walls_mm, *organ.box.centre_ras, *organ.box.size_mm, *organ.spread_mm]
    return row | dict(zip(_NUMBERS, (f"{number:.2f}" for number in numbers), strict=True))


def result_rows(result: Detections | Failure) -> list[Row]:
    """The rows of one query; a failure, or a result in which no organ was looked for, has one."""
    if isinstance(result, Failure):
        return [{"query": result.query, "error": result.error}]
    return [organ_row(result, organ) for organ in result.organs] or [_common(result)]


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
