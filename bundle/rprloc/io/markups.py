"""Files of 3D Slicer's Markups (``.mrk.json``, schema 1.0.3): extreme points and landmarks in, boxes and points out.

The files are in LPS unless they say RAS; everything outside of this module is RAS.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rprloc.detection import Detections, OrganDetection
from rprloc.errors import InputError
from rprloc.files import parse_json, write_text_atomically
from rprloc.geometry import WALLS, Box, Points, assign_extreme_points, lps_from_ras, ras_from_lps
from rprloc.io.colours import organ_colour

# Slicer itself writes this identifier; it compares it with a pattern and does not open it.
SCHEMA = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
LANDMARKS = "landmarks"
"""The name of the point list in which landmarks are written; it is never taken for an organ's extreme points."""

_PLACE = "Place one point on each of the organ's left, right, posterior, anterior, inferior and superior walls."
_RAS_AXES_IN_LPS = [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0]


def read_extreme_points(path: str | Path) -> Points:
    """The six extreme points that a Markups file of 3D Slicer marks.

    The file holds one list of six points (type Fiducial) in any order, or one ROI. An ROI stands for the centres of its
    faces; one that does not lie along the RAS axes, for those of the RAS box around it. A parent transform is not part
    of such a file.

    Parameters
    ----------
    path : path
        A ``.mrk.json`` file, in LPS or RAS as it says itself.

    Returns
    -------
    (6, 3) array
        The points in RAS mm, in the order of :data:`rprloc.WALLS`.

    Raises
    ------
    InputError
        If it is not a Markups file, holds none or several such markups, has units other than mm, or points that are not
        set, are not six, or span no volume.

    Examples
    --------
    >>> rprloc.write_extreme_points("heart.mrk.json", found["heart"].points_ras, "heart")
    >>> points_ras = rprloc.read_extreme_points("heart.mrk.json")
    >>> bool(np.allclose(points_ras, found["heart"].points_ras, atol=1e-3))
    True
    """
    usable = _markups_with_points(Path(path))
    if len(usable) > 1:
        names = ", ".join(str(m.get("name") or m["type"]) for m in usable)
        raise InputError(
            f"{path} holds {len(usable)} markups ({names}), not one list of extreme points or one ROI. "
            "Save each organ's points to its own file."
        )
    return _points_of(Path(path), usable[0])


def read_marked_organs(path: Path) -> list[tuple[str, Points]]:
    """The names and six extreme points (6, 3), RAS mm, of all point lists and ROIs in a Markups file, in its order.

    A list that is called LANDMARKS is none of an organ. Raises InputError as :func:`read_extreme_points`, but for a
    file of several, and for one without a name.
    """
    organs = []
    for markup in _markups_with_points(path):
        if markup["type"] == "Fiducial" and markup.get("name") == LANDMARKS:
            continue
        name = str(markup.get("name") or "").strip()
        if not name:
            raise InputError(f"{path} holds a markup without a name. Name it in Slicer as the organ.")
        organs.append((name, _points_of(path, markup)))
    if not organs:
        raise InputError(f"{path} holds landmarks and no organ. Give it with --landmarks.")
    return organs


def read_labelled_points(path: Path) -> list[tuple[str, NDArray[np.float64]]]:
    """The labels and places (3,), RAS mm, of all points in the point lists of a Markups file, in its order.

    Raises InputError if it is no Markups file, or if a point is not set.
    """
    found: list[tuple[str, NDArray[np.float64]]] = []
    for markup in _read_markups(path):
        if markup.get("type") != "Fiducial":
            continue
        try:
            labels, positions_ras = _labels_and_positions(markup, needed="every landmark has a place")
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if set(labels) == set(WALLS):
            raise InputError(
                f"{path} holds the six extreme points of an organ, not landmarks. Give it as markups of this organ."
            )
        found += zip(labels, positions_ras, strict=True)
    return found


def write_landmarks(path: str | Path, points_ras: Mapping[str, ArrayLike]) -> None:
    """Write landmarks as one point list of 3D Slicer that :func:`rprloc.read_landmarks` reads.

    Parameters
    ----------
    path : path
        The ``.mrk.json`` file to write.
    points_ras : mapping of str to (3,) array
        The points by the landmarks' names, RAS mm; each is labelled with its name. The file is in LPS.

    Raises
    ------
    InputError
        If there is no point, or the folder cannot be written to.

    Examples
    --------
    >>> rprloc.write_landmarks("tips.mrk.json", {"carina": [2.0, 31.5, 120.0]})
    """
    if not points_ras:
        raise InputError(f"{path} cannot be written, because there is no landmark. Give at least one point.")
    _write(path, [_point_list(LANDMARKS, {name: (point, "") for name, point in points_ras.items()})])


def write_rois(path: str | Path, detections: Detections) -> None:
    """Write what was found into one Markups file: 3D Slicer makes an ROI of each box, named like the organ, and one
    list of all landmarks, each point labelled with its name.

    The ROIs lie along the RAS axes; the file is in LPS, as Slicer writes its own. The description of an ROI's control
    point tells the expected error, whether the scan cuts the organ, and how far the votes for each wall spread. Organs
    that are absent get no ROI, and absent landmarks no point.

    Parameters
    ----------
    path : path
        The ``.mrk.json`` file to write.
    detections : Detections
        What was found.

    Raises
    ------
    InputError
        If nothing was located, as Slicer opens no empty file, or if the folder cannot be written to.

    Examples
    --------
    >>> rprloc.write_rois("bert.mrk.json", found)
    """
    if not detections.located and not detections.located_landmarks:
        absent = ", ".join(f"{name} is {one.remark}" for name, one in detections.targets.items())
        raise InputError(
            f"{path} cannot be written, because nothing was located{f': {absent}' if absent else ''}. Slicer "
            "opens no empty Markups file. Locate at least one organ or landmark."
        )
    markups = [_roi(detection, organ_colour(index)) for index, detection in enumerate(detections.located)]
    points = {
        one.landmark: (
            one.point_ras,
            f"RPR-Loc; {one.remark}; spread of the votes {one.spread_mm:.1f} mm; starts: {one.starts}",
        )
        for one in detections.located_landmarks
    }
    if points:
        markups.append(_point_list(LANDMARKS, points))
    _write(path, markups)


def _point_list(name: str, points: Mapping[str, tuple[ArrayLike, str]]) -> dict[str, Any]:
    """A list of labelled points (3,), RAS mm, each with a description."""
    control_points = [
        _control_point(number, label, description, lps_from_ras(np.asarray(point_ras, float)))
        for number, (label, (point_ras, description)) in enumerate(points.items(), 1)
    ]
    return _common("Fiducial", name, "%N-%d") | {
        "controlPoints": control_points,
        "measurements": [],
        "display": _display(organ_colour(0), point_labels=True),
    }


def write_extreme_points(path: str | Path, points_ras: ArrayLike, name: str) -> None:
    """Write extreme points as a Markups file of 3D Slicer that :func:`rprloc.read_extreme_points` reads.

    Each point is labelled with its wall. The file is in LPS, as Slicer writes its own.

    Parameters
    ----------
    path : path
        The ``.mrk.json`` file to write.
    points_ras : (6, 3) array
        RAS mm, in the order of :data:`rprloc.WALLS`.
    name : str
        What the list of points is called in Slicer.

    Raises
    ------
    InputError
        If the folder cannot be written to.

    Examples
    --------
    >>> rprloc.write_extreme_points("heart.mrk.json", found["heart"].points_ras, "heart")
    """
    points_lps = lps_from_ras(np.asarray(points_ras, float).reshape(6, 3))
    control_points = [
        _control_point(index + 1, wall, "", point)
        for index, (wall, point) in enumerate(zip(WALLS, points_lps, strict=True))
    ]
    markup = _common("Fiducial", name, "%N-%d") | {"controlPoints": control_points, "measurements": []}
    _write(path, [markup | {"display": _display(organ_colour(0), point_labels=True)}])


def _read_markups(path: Path) -> list[dict[str, Any]]:
    """The markups of a file. Raises InputError if it is no Markups file."""
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}). Give the path of a Slicer Markups file."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is not JSON ({error}), so it is no Slicer Markups file (.mrk.json). "
            "Save the points from Slicer again."
        ) from error
    markups = content.get("markups") if isinstance(content, dict) else None
    if (
        not isinstance(markups, list)
        or not all(isinstance(item, dict) for item in markups)
        or "markups-schema-v1." not in str(content.get("@schema", "markups-schema-v1.")).lower()
    ):
        raise InputError(
            f"{path} is not a Slicer Markups file of schema 1, with a list of markups. "
            "Save the points from Slicer as .mrk.json."
        )
    return markups


def _markups_with_points(path: Path) -> list[dict[str, Any]]:
    """The point lists that have points, and the ROIs; at least one."""
    markups = _read_markups(path)
    usable = [m for m in markups if m.get("type") == "ROI" or (m.get("type") == "Fiducial" and m.get("controlPoints"))]
    if not usable:
        kinds = ", ".join(sorted({str(m.get("type")) for m in markups if m.get("type") != "Fiducial"}))
        raise InputError(
            f"{path} holds no point list with points and no ROI{f' (only {kinds})' if kinds else ''}. "
            f"An organ needs six extreme points. {_PLACE}"
        )
    return usable


def _points_of(path: Path, markup: dict[str, Any]) -> Points:
    try:
        if markup["type"] == "ROI":
            return _face_centres(_box_of_roi(markup))
        return assign_extreme_points(_positions_ras(markup))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _positions_ras(markup: dict[str, Any]) -> Points:
    """The positions (6, 3) of the control points, RAS mm, in the order of the file."""
    labels, positions_ras = _labels_and_positions(markup)
    if len(labels) != 6:
        raise InputError(f"The organ has {len(labels)} extreme points, not six. {_PLACE}")
    return positions_ras


def _labels_and_positions(
    markup: dict[str, Any], needed: str = "six points with a position are left"
) -> tuple[list[str], Points]:
    """The labels of the control points, and their positions (N, 3), RAS mm, in the order of the file."""
    points = markup["controlPoints"]
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise InputError(f"The control points are not a list of points. Save the markups from Slicer again. {_PLACE}")
    labels = [str(point.get("label") or "") for point in points]
    called = [label or f"point {number}" for number, label in enumerate(labels, 1)]
    unset = [
        label
        for label, point in zip(called, points, strict=True)
        if point.get("positionStatus", "defined") != "defined" or point.get("position") in (None, "", [])
    ]
    if unset:
        raise InputError(
            f"{len(unset)} of {len(points)} points are not set ({', '.join(unset)}). "
            f"Place or delete them, so that {needed}."
        )
    positions = [
        _numbers(point["position"], 3, f"The position of {label}") for label, point in zip(called, points, strict=True)
    ]
    return labels, _ras_from_file(markup, np.array(positions).reshape(-1, 3))


def _box_of_roi(markup: dict[str, Any]) -> Box:
    """The RAS box around an ROI."""
    centre_ras = _ras_from_file(markup, _numbers(markup.get("center"), 3, "The ROI's center"))
    size_mm = _numbers(markup.get("size"), 3, "The ROI's size")
    # Row-major; its columns are the ROI's axes in the file's frame, which differs from RAS by signs of rows at most.
    axes = _numbers(markup.get("orientation", np.eye(3).ravel().tolist()), 9, "The ROI's orientation").reshape(3, 3)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3) or (size_mm <= 0).any():
        raise InputError(
            "The ROI has no volume, or its axes are not at right angles. Draw the ROI around the organ again."
        )
    half_mm = np.abs(axes) @ (0.5 * size_mm)
    return Box(centre_ras - half_mm, centre_ras + half_mm)


def _face_centres(box: Box) -> Points:
    """The centres (6, 3) of a box's faces in the order of WALLS."""
    points = np.tile(box.centre_ras, (6, 1))
    points[np.arange(6), np.arange(6) // 2] = box.walls_mm
    return points


def _ras_from_file(markup: dict[str, Any], positions: NDArray[np.float64]) -> Points:
    """Positions (..., 3) of the markup's frame, as RAS mm. Slicer's default is LPS; its old numbers: 0 RAS, 1 LPS."""
    units = markup.get("coordinateUnits") or "mm"
    if (units[0] if isinstance(units, list) else units) != "mm":
        raise InputError(f"The coordinate units are {units}, not mm. Save the markups in millimetres.")
    system = markup.get("coordinateSystem", "LPS")
    frame = str(system).upper() or "LPS"
    if frame in ("LPS", "1"):
        return ras_from_lps(positions)
    if frame in ("RAS", "0"):
        return positions
    raise InputError(f"The coordinate system is {system!r}, not LPS or RAS. Save the markups from Slicer again.")


def _numbers(value: object, count: int, what: str) -> NDArray[np.float64]:
    numbers = value if isinstance(value, list) else []
    ok = len(numbers) == count and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers)
    if not ok or not np.isfinite(np.array(numbers, float)).all():
        raise InputError(
            f"{what} is {value!r}, not {count} finite numbers. Place the markup in Slicer and save it again."
        )
    return np.array(numbers, float)


def _roi(detection: OrganDetection, colour: Sequence[float]) -> dict[str, Any]:
    centre_lps = lps_from_ras(detection.box.centre_ras)
    spreads = ", ".join(f"{wall} {spread:.1f}" for wall, spread in zip(WALLS, detection.spread_mm, strict=True))
    description = f"RPR-Loc; {detection.remark}; spread of the votes in mm: {spreads}; starts: {detection.starts}"
    return _common("ROI", detection.organ, "%N") | {
        "roiType": "Box",
        "center": _rounded(centre_lps),
        "orientation": _RAS_AXES_IN_LPS,
        "size": _rounded(detection.box.size_mm),
        "insideOut": False,
        "controlPoints": [_control_point(1, detection.organ, description, centre_lps)],
        "measurements": [],
        "display": _display(colour, point_labels=False),
    }


def _common(kind: str, name: str, label_format: str) -> dict[str, Any]:
    return {
        "type": kind,
        "name": name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": label_format,
    }


def _control_point(number: int, label: str, description: str, point_lps: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "id": str(number),
        "label": label,
        "description": description,
        "associatedNodeID": "",
        "position": _rounded(point_lps),
        "orientation": _RAS_AXES_IN_LPS,
        "selected": True,
        "locked": False,
        "visibility": True,
        "positionStatus": "defined",
    }


def _display(colour: Sequence[float], *, point_labels: bool) -> dict[str, Any]:
    """Display properties as Slicer reads them; it keeps none for the fill, which takes half of ``opacity``."""
    return {
        "visibility": True,
        "opacity": 0.5,
        "color": _rounded(colour),
        "selectedColor": _rounded(colour),
        "activeColor": [0.4, 1.0, 0.0],
        "propertiesLabelVisibility": True,
        "pointLabelsVisibility": point_labels,
        "handlesInteractive": False,
    }


def _rounded(values: Sequence[float] | NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) + 0.0 for value in values]


def _write(path: str | Path, markups: list[dict[str, Any]]) -> None:
    content = {"@schema": SCHEMA, "markups": markups}
    write_text_atomically(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
