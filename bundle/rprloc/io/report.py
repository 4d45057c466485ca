"""The results in a folder as a table (CSV) and as one HTML page with the pictures, for people who look through many."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from rprloc import __version__
from rprloc.detection import AbsentOrgan, Detections, OrganDetection
from rprloc.files import write_text_atomically
from rprloc.geometry import WALLS
from rprloc.io.results import Failure

_COLUMNS = (
    "query",
    "organ",
    *(f"{wall}_ras_mm" for wall in WALLS),
    *(f"centre_{axis}_ras_mm" for axis in "xyz"),
    *(f"size_{axis}_mm" for axis in "xyz"),
    "spread_mm",
    "expected_wall_error_mm",
    *(f"probability_{presence}" for presence in ("whole", "part", "absent")),
    "supports",
    "model_id",
    "support_id",
    "warnings",
    "error",
)

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1a1a1a; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
img { max-width: 100%; margin-top: 1rem; background: black; }
.note { background: #fff4d6; border-left: 4px solid #d89b00; padding: .4rem .8rem; }
.bad { background: #fde4e1; border-left: 4px solid #c0392b; padding: .4rem .8rem; overflow-wrap: anywhere; }
@media print { h2 { break-before: page; } }
"""


def save_csv(path: Path, results: list[Detections | Failure]) -> None:
    """Write a row for each query and organ, in RAS mm; one that is absent has no box in its row. A query that failed,
    or in which no organ was looked for, gets one row.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for result in results:
        if isinstance(result, Failure):
            writer.writerow({"query": result.query, "error": result.error})
            continue
        common = {
            "query": result.query,
            "model_id": result.model_id,
            "support_id": result.support_id,
            "warnings": " ".join(result.warnings),
        }
        rows = [_row(organ) for organ in result.organs] or [{}]
        writer.writerows([common | row for row in rows])
    write_text_atomically(path, text.getvalue())


def _row(organ: OrganDetection | AbsentOrgan) -> dict[str, str]:
    row = {"organ": organ.organ, "supports": " ".join(organ.supports)}
    if organ.presence is not None:
        row |= {f"probability_{name}": f"{chance:.3f}" for name, chance in asdict(organ.presence).items()}
    if isinstance(organ, AbsentOrgan):
        return row
    if organ.expected_error_mm is not None:
        row["expected_wall_error_mm"] = f"{organ.expected_error_mm:.2f}"
    numbers = [*organ.box.walls_mm, *organ.box.centre_ras, *organ.box.size_mm, organ.spread_mm.mean()]
    return row | dict(zip(_COLUMNS[2:15], (f"{mm:.2f}" for mm in numbers), strict=True))


def save_html(path: Path, results: list[Detections | Failure], folder: Path) -> None:
    """Write one page without links to other files: what was located in each query, with its picture if there is one."""
    located = [one for one in results if isinstance(one, Detections)]
    failed, doubted = len(results) - len(located), sum(bool(one.warnings) for one in located)
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    body = "\n".join(part for result in results for part in _section(result, folder))
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>RPR-Loc report</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>Located organs</h1>\n"
        f"<p>{len(located)} scans located, {doubted} of them with warnings; {failed} failed. "
        f"RPR-Loc {html.escape(__version__)}, {date}.</p>\n"
        '<p class="note">For research only. Every box must be checked by a person.</p>\n'
        f"{body}\n</body></html>\n"
    )
    write_text_atomically(path, page)


def _section(result: Detections | Failure, folder: Path) -> Iterator[str]:
    yield f"<h2>{html.escape(result.query)}</h2>"
    if isinstance(result, Failure):
        yield f'<p class="bad">Not located: {html.escape(result.error)}</p>'
        return
    for warning in result.warnings:
        yield f'<p class="note">{html.escape(warning)}</p>'
    yield "<table><tr><th>organ</th><th>size mm (left-right, front-back, along)</th><th>centre RAS mm</th>"
    yield "<th>how sure</th></tr>"
    for organ in result.organs:
        size = centre = ""
        if isinstance(organ, OrganDetection):
            size = " x ".join(f"{mm:.0f}" for mm in organ.box.size_mm)
            centre = ", ".join(f"{mm:.0f}" for mm in organ.box.centre_ras)
        yield f"<tr><td>{html.escape(organ.organ)}</td><td>{size}</td><td>{centre}</td>"
        yield f"<td>{html.escape(organ.remark)}</td></tr>"
    yield "</table>"
    picture = folder / f"{result.query}.png"
    if picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        yield f'<img alt="boxes in {html.escape(result.query)}" src="data:image/png;base64,{data}">'
