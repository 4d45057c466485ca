"""What happens to DICOM files in archives and on the way: each function does it to one file."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.dataset import Dataset


def without_preamble(path: Path) -> None:
    """What is left of a file without preamble, DICM and meta header: old exports look so."""
    data = pydicom.dcmread(path)
    implicit, little = data.original_encoding
    del data.file_meta
    pydicom.dcmwrite(path, Dataset(data), implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    assert path.read_bytes()[128:132] != b"DICM"


def with_meta_but_without_preamble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[132:])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut_early(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def cut_in_the_meta_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:150])


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def lost_behind_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_suffix(".gone"))


def replaced_by_a_page(path: Path) -> None:
    path.write_text("<html>404 Not Found" + " " * 200 + "</html>")
