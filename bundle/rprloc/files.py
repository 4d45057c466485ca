"""Writing files so that nobody ever finds half of one, their names, and parsing JSON that anybody may have written."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from rprloc.errors import InputError

_NAME_BYTES, _PATH_BYTES = 255, 4096  # where the system does not say what it allows
_ROOM_BYTES = 64  # for the temporary folder on the way, and the end of the text
_FILE_LETTERS = 50  # of up to four bytes each
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to: it becomes ``path`` at the block's end, or goes if the block fails.

    The temporary name ends like ``path``, so that writers which look at the suffix see the right one, and is short, so
    that it fits wherever ``path`` does. A file that was at ``path`` stays untouched until the new one is complete.
    Raises InputError if the folder is missing or not writable.
    """
    path = Path(path)
    _require_place(path)
    temporary = path.with_name(_temporary_name(path.name[-20:]))
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, last: str, outdated: Sequence[Path] = ()) -> Iterator[Path]:
    """A temporary folder inside ``folder``: at the block's end its files move to ``folder``, all of them or none.

    The file called ``last`` moves last, so that where it is the others are, and none that is ``outdated``: these are
    deleted before. Files in subfolders move to subfolders of the same name, which are made if missing, and what else
    lies there stays; a subfolder from which all is deleted goes, too. Nothing happens if the block fails, or if one of
    the files cannot take its place. Raises InputError like :func:`atomic_path`.
    """
    _require_place(folder / last)
    temporary = folder / _temporary_name("results")
    temporary.mkdir()
    subfolders = {path.parent for path in outdated} - {folder}
    try:
        yield temporary
        complete = [path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file()]
        subfolders |= {folder / path.parent for path in complete} - {folder}
        for path in subfolders:
            make_folder(path)
        for path in (*outdated, *(folder / path for path in complete)):
            _require_place(path)
        for path in outdated:
            path.unlink(missing_ok=True)
        for path in sorted(complete, key=lambda path: (path.name == last, path)):
            (temporary / path).replace(folder / path)
    finally:
        remove_if_empty(subfolders)
        shutil.rmtree(temporary, ignore_errors=True)


def shipped_folder(name: str) -> Path:
    """Where files that are shipped lie: inside the package when it was installed, beside it in the bundle."""
    package = Path(__file__).resolve().parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises InputError if that cannot be, as where a file is called so."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {path} cannot be made ({error.strerror}). Rename what is called so, or name another folder."
        ) from error


def remove_if_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders in which there is nothing."""
    for folder in folders:
        with suppress(OSError):  # something is in it, or it is not there
            folder.rmdir()


def _temporary_name(end: str) -> str:
    return f".{secrets.token_hex(4)}.{end}"


def is_temporary(path: Path) -> bool:
    """Whether a file is, or lies in, what is on its way to another name, or was when a computer went down."""
    return any(_TEMPORARY.match(part) for part in path.parts)


def _require_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise InputError(
            f"{path} cannot be written: the folder {path.parent} does not exist. Make the folder, or name another."
        )
    if path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder. Name a file in it.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(
            f"{path} cannot be written: the folder {path.parent} is read-only. Name a folder where you may write."
        )


def readable(text: str) -> str:
    """A path or a name as text that can be written as UTF-8 and shown: a byte that is no letter becomes ``%FF``.

    Python keeps bytes of a file's name that are not UTF-8 as surrogates. Control characters could do anything to a
    terminal.
    """
    return re.sub("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", lambda found: f"%{ord(found[0]) & 0xFF:02X}", text)


def name_files(names: Iterable[str]) -> dict[str, str]:
    """For each of several different names what a file may be called that belongs to it, all of them different.

    Letters, digits, ``_`` and ``-`` stay. It depends on the other names and their order only where two would be called
    the same, also by a file system that does not tell capitals from small letters.
    """
    named: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^\w-]+", "_", name)[:_FILE_LETTERS] or "_"
        numbered = chain([plain], (f"{plain}-{n}" for n in count(2)))
        called = next(one for one in numbered if one.casefold() not in taken)
        taken.add(called.casefold())
        named[name] = called
    return named


def is_plain(path: str | Path) -> bool:
    """Whether a path is UTF-8 without control characters, as some libraries demand of it."""
    return readable(str(path)) == str(path)


def parse_json(text: str, **hooks: Any) -> Any:
    """The value of a JSON text; ``hooks`` as for :func:`json.loads`. Integers beyond the range of floats are infinite.

    Raises ValueError for whatever cannot be parsed, nesting that is too deep among it.
    """

    def integer(digits: str) -> int | float:
        return int(digits) if len(digits) < 300 else math.copysign(math.inf, -1 if digits.startswith("-") else 1)

    try:
        return json.loads(text, parse_int=integer, **hooks)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, all of it or nothing; line ends stay. Raises InputError like :func:`atomic_path`, and
    for text that UTF-8 cannot hold."""
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path} cannot be written: a name in it has a letter that is none (half of a pair). Correct the name."
        ) from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def require_name(name: str | None, option: str) -> None:
    """Raise InputError for a name that is given, but is empty, no text (in JSON it may be anything) or not UTF-8."""
    if name is None:
        return
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{option} is empty or no text. Give a name, or leave the option out.")
    if not is_plain(name):
        raise InputError(
            f"{option} is {readable(name)!r}, which is not UTF-8 or has control characters. Write another name."
        )


def status_of(path: Path) -> os.stat_result | None:
    """What the system says of a file; None if it is not there or not to be seen, or if no file can be called so."""
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; not an error where :meth:`Path.is_dir` raises one, as for too long a name."""
    status = status_of(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def require_short_name(path: Path) -> None:
    """Raise InputError before the work if the file system takes no file with so long a name."""
    nearest = next((folder for folder in path.absolute().parents if is_folder(folder)), None)
    if nearest is None:
        return  # as a drive that is not there; whoever writes tells
    for part in path.absolute().relative_to(nearest).parts:
        length, most = len(os.fsencode(part)), _limit(nearest, "PC_NAME_MAX", _NAME_BYTES)
        if length > most:
            raise InputError(
                f"{path.name[:30]}... cannot be written: its name would have {length} bytes, and {most} are allowed. "
                "Give a shorter name: rename the scan, or name it in a manifest."
            )
    length, most = len(os.fsencode(path.absolute())), _limit(nearest, "PC_PATH_MAX", _PATH_BYTES) - _ROOM_BYTES
    if length > most:
        raise InputError(
            f"{path.name[:30]}... cannot be written: its path would have {length} bytes, and {most} are allowed. Name "
            "a folder with a shorter path."
        )


def _limit(folder: Path, name: str, otherwise: int) -> int:
    """What the file system of a folder allows; Windows does not say, and some file systems know no limit."""
    try:
        most = os.pathconf(folder, name) if hasattr(os, "pathconf") else otherwise
    except (OSError, ValueError):
        most = otherwise
    return most if most > 0 else otherwise


def require_writable(path: Path) -> None:
    """Raise InputError before the work if a file could not be written at its end."""
    require_short_name(path)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written. Make its folder, or name a file in a folder where you may write.")


def require_folder(path: Path) -> None:
    """Raise InputError before the work if the folder ``path`` is no folder and cannot be made."""
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(
            f"The folder {path} cannot be written to: {nearest} is not a folder where you may write. "
            "Name another folder."
        )
