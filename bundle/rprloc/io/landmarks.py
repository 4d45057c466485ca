"""Landmarks from files: single points with names, from Slicer, a table or a DICOM report."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.files import require_name
from rprloc.io.dicom import is_dicom
from rprloc.io.dicom_sr_points import read_report_points
from rprloc.io.markups import read_labelled_points
from rprloc.io.reading import Scan

_COLUMNS = ("name", "r_mm", "a_mm", "s_mm")


def read_landmarks(path: str | Path, scan: Scan | None = None) -> dict[str, NDArray[np.float64]]:
    """The landmarks in a file, each a point with a name.

    Parameters
    ----------
    path : path
        A ``.mrk.json`` file of 3D Slicer: every point of its point lists is a landmark, named by its label. Or a
        ``.csv`` table with the columns ``name``, ``r_mm``, ``a_mm`` and ``s_mm``: RAS mm. Or a DICOM structured report
        (SR), such as :func:`rprloc.save_sr` writes: its points in space, and those on images of the scan, are named by
        their tracking identifiers, or else by their findings.
    scan : Scan, optional
        The scan on which a report was made, as :func:`rprloc.read_scan` reads it. Only reports need it.

    Returns
    -------
    dict of str to (3,) array
        The points in RAS mm, in the order of the file.

    Raises
    ------
    InputError
        If it is no such file, holds no point, a point that is not set, or a name that is empty or there twice; or if a
        report belongs to another scan.

    Examples
    --------
    >>> rprloc.write_landmarks("tips.mrk.json", {"carina": [2.0, 31.5, 120.0]})
    >>> rprloc.read_landmarks("tips.mrk.json")["carina"].tolist()
    [2.0, 31.5, 120.0]
    """
    return read_landmarks_with_notes(path, scan)[0]


def read_landmarks_with_notes(
    path: str | Path, scan: Scan | None = None
) -> tuple[dict[str, NDArray[np.float64]], tuple[str, ...]]:
    """:func:`read_landmarks`, and what was taken from a report and what was left out, each in a sentence or two."""
    path = Path(path)
    notes: tuple[str, ...] = ()
    if is_dicom(path):
        if scan is None:
            raise InputError(
                f"{path} is DICOM, whose points belong to one scan. Give the scan on which they were marked, too."
            )
        named, notes = read_report_points(path, scan)
    else:
        named = _rows_of_table(path) if path.suffix.lower() == ".csv" else read_labelled_points(path)
    points_ras: dict[str, NDArray[np.float64]] = {}
    for label, point_ras in named:
        name = label.strip()
        if not name:
            raise InputError(f"{path} has a point without a name. Give every landmark a name (in Slicer, a label).")
        require_name(name, f"{path}: a landmark's name")
        if name in points_ras:
            raise InputError(f"{path} has two points that are called {name}. Give every landmark a name of its own.")
        points_ras[name] = point_ras
    if not points_ras:
        raise InputError(f"{path} holds no points. Place a point for each landmark and save them again.")
    return points_ras, notes


def _rows_of_table(path: Path) -> list[tuple[str, NDArray[np.float64]]]:
    """The rows of a table of landmarks."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
            known = set(rows[0]) if rows else set(_COLUMNS)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}). Give the path of a table of landmarks.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} is not a CSV table ({error}). Write it with the columns name,r_mm,a_mm,s_mm."
        ) from error
    if not known >= set(_COLUMNS):
        raise InputError(f"{path} lacks the columns name,r_mm,a_mm,s_mm (RAS mm). Name its columns like this.")
    found = []
    for number, row in enumerate(rows, 2):
        name = row["name"] or ""
        try:
            point_ras = np.array([float(row[column]) for column in _COLUMNS[1:]])
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}, line {number}: the place of {name} is not three numbers. Correct it.") from error
        if not np.isfinite(point_ras).all():
            raise InputError(f"{path}, line {number}: the place of {name} is not finite. Correct it.")
        found.append((name, point_ras))
    return found
