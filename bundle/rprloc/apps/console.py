"""What the commands share: checks before the work, messages, texts and the files of a result."""

from __future__ import annotations

import io
import logging
import lzma
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rprloc.errors import InputError
from rprloc.files import readable, require_name

if TYPE_CHECKING:
    from rprloc.detection import Detections
    from rprloc.localization.support import SupportSet

_log = logging.getLogger("rprloc")
_MOST_LETTERS = 160  # of what a library or a file's name adds to a sentence

FAILURES = (
    InputError,
    OSError,
    MemoryError,
    RuntimeError,
    ValueError,
    ArithmeticError,
    LookupError,
    EOFError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)
"""What goes wrong because of one scan, or because of the computer while it is at this scan: the others are done.

TypeError, AttributeError, NameError and AssertionError are not among them: they tell of a fault of the program, which
the next scan would meet as well, and end it with a traceback. So does KeyboardInterrupt."""


def describe_failure(error: BaseException, scan: Path | None = None) -> str:
    """Why a scan has no result, in a line; an InputError names the scan itself."""
    text = readable(" ".join(str(error).split()))
    if isinstance(error, InputError):
        return text
    return f"{readable(str(scan))}: {_reason(error, text)}" if scan is not None else _reason(error, text)


def _reason(error: BaseException, text: str) -> str:
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in text.lower()):
        return "Not enough memory for this scan. Use a smaller scan, or a computer with more memory."
    if isinstance(error, OSError) and error.strerror:
        name = readable(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else ""
        where = f" ({name if len(name) <= _MOST_LETTERS else f'{name[:_MOST_LETTERS]}...'})" if name else ""
        return f"A file cannot be read or written: {error.strerror}{where}. Check the file, its folder and the disk."
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"The program stumbled over this scan ({what[:_MOST_LETTERS]}). Repeat with -v and report what it tells."


def make_output_lossless() -> None:
    """Let stdout and stderr write letters that their encoding lacks as codes, instead of stopping in mid-work."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Messages(logging.Handler):
    """Log messages on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.capitalize()}: "
        lines = (prefix + self.format(record)).split("\n")
        tqdm.write("\n".join(map(readable, lines)), file=sys.stderr)


def say(text: str) -> None:
    """A text on stdout, above a progress bar if there is one; where nobody reads it any more, the work goes on."""
    from tqdm import tqdm

    try:
        tqdm.write(text)
        sys.stdout.flush()
    except OSError as error:
        _log.warning("Results are not shown any more (%s). Their files are written all the same.", error.strerror)
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (until the process ends)


def require_one_way_of_marking(labels: bool, of_labels: bool, markups: bool, name: str | None, landmarks: bool) -> None:
    """Whether --labels, options of it, --markups and --landmarks are given, and the name of the markups."""
    none = not (labels or markups or landmarks)
    if none or (labels and markups) or (of_labels and not labels) or markups != (name is not None):
        raise InputError(
            "The organs of an example are marked in one of two ways: --labels (with --names, --organ or "
            "--standard-names), or --markups with --name. Give one of these, or --landmarks, or both."
        )
    require_name(name, "--name")


def warn(warnings: Iterable[str], scan: str) -> None:
    for warning in warnings:
        _log.warning("%s: %s", scan, warning)


def describe_ready_made_set(name: str, support_set: SupportSet) -> str:
    """What a ready-made set says of itself."""
    lines = [f"{name}: {len(support_set.supports)} examples"]
    about = support_set.about
    if about is not None:
        lines = [f"{name}: {about.title}, {len(support_set.supports)} examples; model {support_set.model_id}"]
        width = max(map(len, support_set.targets))
        if about.measured:
            lines.append(f"  {'':{width}}   IoU   mm off, mean of the walls, in {about.measured_on}")
        for target in support_set.targets:
            one = about.measured.get(target)
            figures = f"  {one.iou:.2f}  {one.awd_mm:4.1f}" if one is not None else ""
            lines.append(f"  {target:{width}}{figures}")
        lines += [f"  from {source}" for source in about.sources]
        lines.append(f"  {about.licence}")
    return "\n".join(lines)


def describe_detections(detections: Detections, path: Path) -> str:
    """What was found in one scan and where it is written."""
    from rprloc.detection import LandmarkDetection, OrganDetection
    from rprloc.geometry import describe_box, describe_point

    width = max(map(len, detections.targets))
    lines = [f"{readable(detections.query)} -> {readable(str(path))}"]
    for name, found in detections.targets.items():
        place = ""
        if isinstance(found, OrganDetection):
            place = f"{describe_box(found.box)}; "
        elif isinstance(found, LandmarkDetection):
            place = f"RAS {describe_point(found.point_ras)}; "
        lines.append(f"  {name:{width}}  {place}{found.remark}")
    return "\n".join(lines)


def describe_support_set(support_set: SupportSet, path: Path) -> str:
    """What a support set holds."""
    from rprloc.geometry import describe_box, describe_point

    lines = [
        f"{path}: {len(support_set.supports)} supports, {_count(support_set.organs, 'organ')}, "
        f"{_count(support_set.landmarks, 'landmark')}, "
        f"identity {support_set.identity}, model {support_set.model_id}"
    ]
    for support in support_set.supports:
        lines.append(f"  {support.scan} ({support.marking.value})")
        lines += [f"    {name}: {describe_box(organ.box)}" for name, organ in support.organs.items()]
        lines += [f"    {name}: RAS {describe_point(one.point_ras)}" for name, one in support.landmarks.items()]
    return "\n".join(lines)


def _count(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"
