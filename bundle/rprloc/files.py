"""Writing files so that nobody ever finds half of one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
            f"{path} cannot be written: the folder {path.parent} does not exist; make the folder or name another."
        )
    if path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder, a file's name was expected; name a file in it.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(
            f"{path} cannot be written: the folder {path.parent} is read-only; name a folder where you may write."
        )
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, all of it or nothing; line ends stay. Raises InputError like :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))
