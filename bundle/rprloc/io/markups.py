"""Files of 3D Slicer's Markups (``.mrk.json``, schema 1.0.3): extreme points in, boxes and points out.

The files are in LPS unless they say RAS; everything outside of this module is RAS.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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

_PLACE = "place one point on each of the organ's left, right, posterior, anterior, inferior and superior walls"

_RAS_AXES_IN_LPS = [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0]


def read_extreme_points(path: str | Path) -> Points:
    """The six extreme points (6, 3) that a Markups file marks, RAS mm, in the order of WALLS.

    The file holds one point list (type Fiducial) with six points in any order, or one ROI; an ROI stands for the
    centres of its box's faces, and one that is not along the RAS axes for those of the RAS box around it. A parent
    transform is not part of such a file. Raises InputError if the file is not a Markups file, holds none or several
    such markups, units other than mm, points that are not set or not finite, another number of points, or points that
    span no volume.
    """
    markup = _only_markup_with_points(Path(path))
    try:
        if markup["type"] == "ROI":
            return _face_centres(_box_of_roi(markup))
        return assign_extreme_points(_positions_ras(markup))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def write_rois(path: str | Path, detections: Detections) -> None:
    """Write one ROI per organ into one ``.mrk.json`` file; Slicer makes a node of each, named like the organ.

    The ROIs lie along the RAS axes; the description of their control point tells the expected error, whether the scan
    cuts the organ, and the spread of each wall. Organs that are absent get none.
    Raises InputError if no organ was located or the folder cannot be written to.
    """
    if not detections.located:
        absent = "".join(f"; {one.organ} is {one.remark}" for one in detections.absent)
        raise InputError(
            f"{path} cannot be written: no organ was located{absent}, and Slicer does not open an empty markups file; "
            "locate at least one organ."
        )
    markups = [_roi(found, organ_colour(index)) for index, found in enumerate(detections.located)]
    _write(path, markups)


def write_extreme_points(path: str | Path, points_ras: ArrayLike, name: str) -> None:
    """Write extreme points (6, 3), RAS mm, in the order of WALLS, as a list that :func:`read_extreme_points` reads.

    Each point is labelled with its wall. Raises InputError if the folder cannot be written to.
    """
    points_lps = lps_from_ras(np.asarray(points_ras, float).reshape(6, 3))
    control_points = [
        _control_point(index + 1, wall, "", point)
        for index, (wall, point) in enumerate(zip(WALLS, points_lps, strict=True))
    ]
    markup = _common("Fiducial", name, "%N-%d") | {"controlPoints": control_points, "measurements": []}
    _write(path, [markup | {"display": _display(organ_colour(0), point_labels=True)}])


def _only_markup_with_points(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); a Slicer Markups file was expected; check the path."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is not JSON ({error}); a Slicer Markups file (.mrk.json) was expected; "
            "save the points from Slicer again."
        ) from error
    markups = content.get("markups") if isinstance(content, dict) else None
    if (
        not isinstance(markups, list)
        or not all(isinstance(item, dict) for item in markups)
        or "markups-schema-v1." not in str(content.get("@schema", "markups-schema-v1.")).lower()
    ):
        raise InputError(
            f"{path} is not a Slicer Markups file of schema 1; a file with a list of markups was expected; "
            "save the points from Slicer as .mrk.json."
        )
    usable = [m for m in markups if m.get("type") == "ROI" or (m.get("type") == "Fiducial" and m.get("controlPoints"))]
    if not usable:
        kinds = ", ".join(sorted({str(m.get("type")) for m in markups if m.get("type") != "Fiducial"}))
        raise InputError(
            f"{path} holds no point list with points and no ROI{f' (only {kinds})' if kinds else ''}; "
            f"six extreme points were expected; {_PLACE}."
        )
    if len(usable) > 1:
        names = ", ".join(str(m.get("name") or m["type"]) for m in usable)
        raise InputError(
            f"{path} holds {len(usable)} markups ({names}); one list of extreme points, or one ROI, was expected; "
            "save each organ's points to its own file."
        )
    return usable[0]


def _positions_ras(markup: dict[str, Any]) -> Points:
    """The positions (6, 3) of the control points, RAS mm, in the order of the file."""
    points = markup["controlPoints"]
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise InputError(f"the control points are not a list of points; save the markups from Slicer again; {_PLACE}.")
    labels = [str(point.get("label") or f"point {number}") for number, point in enumerate(points, 1)]
    unset = [
        label
        for label, point in zip(labels, points, strict=True)
        if point.get("positionStatus", "defined") != "defined" or point.get("position") in (None, "", [])
    ]
    if unset:
        raise InputError(
            f"{len(unset)} of {len(points)} points are not set ({', '.join(unset)}); "
            f"six points with a position were expected; place or delete the unset ones."
        )
    if len(points) != 6:
        raise InputError(f"six extreme points were expected, got {len(points)}; {_PLACE}.")
    positions = [
        _numbers(point["position"], 3, f"the position of {label}") for label, point in zip(labels, points, strict=True)
    ]
    return _ras_from_file(markup, np.stack(positions))


def _box_of_roi(markup: dict[str, Any]) -> Box:
    """The RAS box around an ROI."""
    centre_ras = _ras_from_file(markup, _numbers(markup.get("center"), 3, "the ROI's center"))
    size_mm = _numbers(markup.get("size"), 3, "the ROI's size")
    # Row-major; its columns are the ROI's axes in the file's frame, which differs from RAS by signs of rows at most.
    axes = _numbers(markup.get("orientation", np.eye(3).ravel().tolist()), 9, "the ROI's orientation").reshape(3, 3)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3) or (size_mm <= 0).any():
        raise InputError(
            "the ROI has no volume or its axes are not at right angles; a box was expected; "
            "draw the ROI around the organ again."
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
        raise InputError(f"the coordinate units are {units}; mm was expected; save the markups in millimetres.")
    system = markup.get("coordinateSystem", "LPS")
    frame = str(system).upper() or "LPS"
    if frame in ("LPS", "1"):
        return ras_from_lps(positions)
    if frame in ("RAS", "0"):
        return positions
    raise InputError(
        f"the coordinate system is {system!r}; LPS or RAS was expected; save the markups from Slicer again."
    )


def _numbers(value: object, count: int, what: str) -> NDArray[np.float64]:
    numbers = value if isinstance(value, list) else []
    ok = len(numbers) == count and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers)
    if not ok or not np.isfinite(np.array(numbers, float)).all():
        raise InputError(
            f"{what} is {value!r}; {count} finite numbers were expected; place the markup in Slicer and save it again."
        )
    return np.array(numbers, float)


def _roi(found: OrganDetection, colour: Sequence[float]) -> dict[str, Any]:
    centre_lps = lps_from_ras(found.box.centre_ras)
    spreads = ", ".join(f"{wall} {spread:.1f}" for wall, spread in zip(WALLS, found.spread_mm, strict=True))
    description = f"RPR-Loc; {found.remark}; spread of the votes in mm: {spreads}; starts: {found.starts}"
    return _common("ROI", found.organ, "%N") | {
        "roiType": "Box",
        "center": _rounded(centre_lps),
        "orientation": _RAS_AXES_IN_LPS,
        "size": _rounded(found.box.size_mm),
        "insideOut": False,
        "controlPoints": [_control_point(1, found.organ, description, centre_lps)],
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
