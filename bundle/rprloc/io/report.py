"""The results in a folder as one HTML page with the pictures, for people who look through many."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from rprloc.detection import Detections, OrganDetection
from rprloc.files import write_text_atomically
from rprloc.io.results import Failure, ResultFiles
from rprloc.version import __version__

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


def save_html(path: Path, results: list[Detections | Failure], folder: Path) -> None:
    """Write one page without links to other files: what was located in each query, with its picture if there is one."""
    located = [result for result in results if isinstance(result, Detections)]
    failed, doubted = len(results) - len(located), sum(bool(result.warnings) for result in located)
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
    picture = ResultFiles(folder, result.query).picture
    if picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        yield f'<img alt="boxes in {html.escape(result.query)}" src="data:image/png;base64,{data}">'
