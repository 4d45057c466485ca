"""What ITK needs of whoever calls it: one image at a time, and names that are UTF-8."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rprloc.errors import InputError
from rprloc.files import is_plain

ITK_FILES = threading.Lock()
"""Held by whoever reads or writes a file through SimpleITK: two at once can crash the process, above all at its first
files (SimpleITK issue 74)."""


@contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """A path to the same file by which SimpleITK can open it: one that is not UTF-8 aborts the process.

    It is the path itself, or else a link in a temporary folder that goes at the block's end. A file that does not exist
    yet is made through the link.
    """
    if is_plain(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rprloc-") as folder:
        if not is_plain(folder):
            raise InputError(
                f"{path} cannot be opened, because neither its name nor the temporary folder's is UTF-8. Set TMPDIR "
                "to a folder with a plain name."
            )
        suffix = next((end for end in (".nii.gz", path.suffix) if path.name.lower().endswith(end.lower())), "")
        link = Path(folder, f"file{suffix if is_plain(suffix) else ''}")
        link.symlink_to(path.absolute())
        yield link
