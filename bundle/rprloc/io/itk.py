"""What ITK needs of whoever calls it: one image at a time, and names that are UTF-8; writing images whole."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from isal import igzip
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.files import atomic_path, is_plain
from rprloc.geometry import Grid
from rprloc.volume import to_sitk

_NIFTI_HEADER_BYTES = 352

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


def write_image(path: str | Path, array: NDArray[np.generic], grid: Grid) -> None:
    """Write an array (I, J, K) on its grid as NIfTI, compressed, or NRRD, not compressed; the type stays.

    Raises InputError if the folder cannot be written to, or the disk is full.
    """
    nrrd = Path(path).name.lower().endswith(".nrrd")
    with atomic_path(path) as temporary:
        with plain_path(temporary) as plain, ITK_FILES, _explain_full_disk(path):
            sitk.WriteImage(to_sitk(array, grid), str(plain), useCompression=not nrrd)
        if not nrrd and _bytes_in(temporary) != _NIFTI_HEADER_BYTES + array.nbytes:
            raise _incomplete(path)


@contextmanager
def _explain_full_disk(path: str | Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _incomplete(path) from error


def _bytes_in(path: Path) -> int:
    """How many bytes of a NIfTI file there are, unzipped: ITK tells nobody when the disk was full."""
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size
    count = 0
    try:
        with igzip.open(path) as stream:
            while chunk := stream.read(1 << 20):
                count += len(chunk)
    except (EOFError, OSError):
        return 0
    return count


def _incomplete(path: str | Path) -> InputError:
    return InputError(f"{path} could not be written to its end, as if the disk were full. Make room and try again.")
