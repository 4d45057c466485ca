"""The results in a folder as an HTML page for people who look through many: a row for each organ of each scan.

The page needs no other file but its pictures, which lie in a folder beside it and are loaded as they come into view.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from rprloc.detection import CUT, AbsentLandmark, AbsentOrgan, Detections, LandmarkDetection, OrganDetection
from rprloc.files import atomic_folder, name_files, write_text_atomically
from rprloc.geometry import describe_box, describe_point
from rprloc.io.report_page import PAGE, SCRIPT, STYLE
from rprloc.io.results import Failure, ResultFiles
from rprloc.io.slices import EDGE, END, GAP
from rprloc.version import __version__

_PICTURE = re.compile(r"\d+-\d+\.jpg")  # of the scan and of the organ: names from outside make no file's name

Result = Detections | Failure


def save_html(path: Path, results: list[Result], folder: Path) -> None:
    """Write a page of results, and copy their slices from ``folder`` to a folder beside it, all of it or nothing.

    The folder is called like the page, with ``_pictures`` at the end. Pictures of an earlier page are deleted from it.
    Raises InputError if the folder cannot be written to.
    """
    pictures = path.with_name(f"{path.stem}_pictures")
    sources = dict(_find_slices(results, folder))
    names = {key: f"{key[0]:05d}-{key[1]:03d}.jpg" for key in sources}
    known = pictures.glob("*.jpg") if pictures.is_dir() else ()
    outdated = [old for old in known if _PICTURE.fullmatch(old.name) and old.name not in names.values()]
    with atomic_folder(path.parent, path.name, outdated) as temporary:
        if sources:
            (temporary / pictures.name).mkdir()
        for key, source in sources.items():
            shutil.copyfile(source, temporary / pictures.name / names[key])
        url = quote(os.fsencode(pictures.name))
        links = {key: f"{url}/{name}" for key, name in names.items()}
        write_text_atomically(temporary / path.name, _make_page(results, links))


def _find_slices(results: list[Result], folder: Path) -> Iterator[tuple[tuple[int, int], Path]]:
    """The slices of organs that are there, by the numbers of scan and organ."""
    for number, result in enumerate(results, 1):
        if isinstance(result, Detections):
            slices = ResultFiles(folder, result.query).slices
            names = name_files(result.targets)
            for order, (name, found) in enumerate(result.targets.items(), 1):
                path = slices / f"{names[name]}{END}"
                if isinstance(found, (OrganDetection, LandmarkDetection)) and path.is_file():
                    yield (number, order), path


def _make_page(results: list[Result], links: dict[tuple[int, int], str]) -> str:
    located = [result for result in results if isinstance(result, Detections)]
    boxes = sum(len(result.located) for result in located)
    points = sum(len(result.located_landmarks) for result in located)
    absent = sum(len(result.absent) + len(result.absent_landmarks) for result in located)
    missing = boxes + points - len(links)
    organs = dict.fromkeys(name for result in located for name in result.targets)
    what = f"{boxes} boxes, {points} landmarks" if points else f"{boxes} boxes"
    counts = (
        f"{len(located)} scans located, {sum(bool(result.warnings) for result in located)} of them with warnings; "
        f"{len(results) - len(located)} failed. {what}, {absent} not in the scan. "
        f"RPR-Loc {__version__}, {datetime.now().astimezone():%Y-%m-%d %H:%M}."
    )
    return PAGE.format(
        style=STYLE,
        script=SCRIPT,
        style_hash=_hash(STYLE),
        script_hash=_hash(SCRIPT),
        counts=html.escape(counts),
        missing=f" {missing} of them have no picture: locate with --picture." if missing else "",
        organs="".join(f'<option value="{html.escape(organ)}">{html.escape(organ)}</option>' for organ in organs),
        rows="\n".join(row for number, result in enumerate(results, 1) for row in _rows(number, result, links)),
    )


def _hash(text: str) -> str:
    """How a page's policy names the one style and the one script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _rows(number: int, result: Result, links: dict[tuple[int, int], str]) -> Iterator[str]:
    """The rows of one scan; a failure, or a result in which no organ was looked for, has one."""
    if isinstance(result, Failure):
        yield _row("failed", result.query, "", f"not located: {result.error}")
        return
    doubts = " ".join(result.warnings)
    if not result.targets:
        yield _row("empty", result.query, "", "no organ was looked for", doubts)
    for order, (name, organ) in enumerate(result.targets.items(), 1):
        if isinstance(organ, (AbsentOrgan, AbsentLandmark)):
            yield _row("absent", result.query, name, organ.remark, doubts)
            continue
        if isinstance(organ, LandmarkDetection):
            text = f"RAS {describe_point(organ.point_ras)}"
            text += f"; {organ.remark}" if organ.expected_error_mm is None else ""
            yield _row("point", result.query, name, text, doubts, organ.expected_error_mm, links.get((number, order)))
            continue
        text = describe_box(organ.box)
        if organ.expected_wall_error_mm is None:  # else it has a column of its own
            text += f"; {organ.remark}"
        elif organ.is_cut:
            text += f"; {CUT}"
        kind = "cut" if organ.is_cut else "whole"
        yield _row(
            kind, result.query, organ.organ, text, doubts, organ.expected_wall_error_mm, links.get((number, order))
        )


def _row(
    kind: str,
    query: str,
    organ: str,
    text: str,
    doubts: str = "",
    error_mm: float | None = None,
    link: str | None = None,
) -> str:
    query, organ, text, doubts = map(html.escape, (query, organ, text, doubts))
    error = "" if error_mm is None else f"{error_mm:.1f}"
    picture = "none"
    if link is not None:
        size = f'width="{3 * EDGE + 2 * GAP}" height="{EDGE}"'
        picture = f'<img src="{html.escape(link)}" {size} loading="lazy" decoding="async" alt="{organ} in {query}">'
    return (
        f'<tr class="{kind}"><th scope="row">{query}</th><td>{organ}</td><td>{error}</td><td>{text}</td>'
        f"<td>{doubts}</td><td>{picture}</td></tr>"
    )
