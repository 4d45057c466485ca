"""Writing files so that nobody ever finds half of one, and parsing JSON that anybody may have written."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rprloc.errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to: it becomes ``path`` at the block's end, or goes if the block fails.

    The temporary name ends with the whole name of ``path``, so that writers which look at the suffix see the right
    one. A file that was at ``path`` stays untouched until the new one is complete. Raises InputError if the folder is
    missing or not writable.
    """
    path = Path(path)
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
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
    """Write ``text`` as UTF-8, all of it or nothing; line ends stay. Raises InputError like :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def require_name(name: str | None, option: str) -> None:
    if name is not None and not name.strip():
        raise InputError(f"{option} is empty. Give a name, or leave the option out.")


def require_writable(path: Path) -> None:
    """Raise InputError before the work if a file could not be written at its end."""
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
