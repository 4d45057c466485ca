"""Points of DICOM structured reports (SR), such as measurement reports (TID 1500): landmarks in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.files import readable
from rprloc.geometry import ras_from_lps
from rprloc.io.dicom_belonging import explain_damage, read_data_set, require_same_scan, uid
from rprloc.io.dicom_slice import Slice
from rprloc.io.reading import Scan
from rprloc.io.structures import listed

if TYPE_CHECKING:
    from pydicom import Dataset

REPORTS = "1.2.840.10008.5.1.4.1.1.88."
"""How the SOP classes of structured reports begin."""

_TRACKING_IDENTIFIER, _FINDING, _FINDING_SITES = "112039", "121071", ("363698007", "G-C0E3")
_TOOLS = "cornerstone"  # viewers that are made with it write the name of their tool for what is tracked
_MOST_DEEP = 50  # of a content tree
_ADVICE = "Export the report again"

Named = tuple[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class _Region:
    """A place or a shape in a report: what it is of, and its content item, with or without an image under it."""

    path: Path
    name: str
    item: Any
    """A data set."""

    @property
    def is_in_space(self) -> bool:
        return str(self.item.ValueType) == "SCOORD3D"

    @property
    def graphic(self) -> str:
        return str(self.item.get("GraphicType") or "").strip().upper()

    @property
    def frame_of_reference(self) -> str:
        return uid(self.item.get("ReferencedFrameOfReferenceUID"))

    @property
    def image(self) -> tuple[str, int | None]:
        """The UID of the image on which it lies, and the number of the frame, from 0 on, if it names one."""
        references = [
            reference
            for child in self.item.get("ContentSequence") or []
            if child.get("ValueType") == "IMAGE"
            for reference in child.get("ReferencedSOPSequence") or []
        ]
        number = references[0].get("ReferencedFrameNumber") if references else None
        if len(references) != 1 or isinstance(number, Sequence):
            raise self.fault("does not lie on one image")
        return uid(references[0].get("ReferencedSOPInstanceUID")), None if number is None else int(number) - 1

    def numbers(self, count: int) -> NDArray[np.float64]:
        values: NDArray[np.float64] = np.array(self.item.get("GraphicData"), float).ravel()
        if len(values) != count or not np.isfinite(values).all():
            raise self.fault(f"is not one point of {count} numbers")
        return values

    def fault(self, what: str) -> InputError:
        return InputError(readable(f"{self.path}: {self.name or 'a point without a name'} {what}. {_ADVICE}."))


def read_report_points(path: Path, scan: Scan) -> tuple[list[Named], tuple[str, ...]]:
    """The names and places (3,), RAS mm, of the points that a report marks on a scan; and what a person should know.

    A point is called like its tracking identifier, or else like its finding or finding site. It lies in the scan's
    frame of reference (SCOORD3D), or on an image of the scan (SCOORD). Raises InputError for what is no report, is
    damaged, or belongs to another scan.
    """
    data = read_data_set(path, path)
    with explain_damage(path):
        said = str(data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID") or "")
        if not said.startswith(REPORTS):
            raise InputError(
                f"{path} is a DICOM file, but no structured report (SR), so it holds no landmarks. Give a report with "
                "points, Markups of 3D Slicer, or a table."
            )
        regions = list(_regions(path, data))
        points = [region for region in regions if region.graphic == "POINT"]
        if not points:
            raise InputError(f"{path} is a DICOM structured report without points. Give one that marks single points.")
        mine, remarks = _of_scan(path, points, scan)
        planes = {} if scan.series is None else _planes(scan.series.slices)
        found = [(point.name, _place(point, planes)) for point in mine]
    left_out = [f"{name} (a shape, no point)" for name in _names(r for r in regions if r.graphic != "POINT")]
    left_out += [f"{name} (of another scan)" for name in _names(point for point in points if point not in mine)]
    sentences = [f"{path.name} is a DICOM structured report.", f"Landmarks: {listed([name for name, _ in found])}."]
    sentences += [f"Left out: {listed(left_out)}."] if left_out else []
    return found, (readable(" ".join([*sentences, *remarks])),)


def _names(regions: Iterator[_Region]) -> list[str]:
    return list(dict.fromkeys(region.name or "without a name" for region in regions))


def _regions(path: Path, data: Dataset) -> Iterator[_Region]:
    """All places and shapes of a report in its order, each with the name of the nearest container that has one."""
    waiting: list[tuple[Any, str, int]] = [(data, "", 0)]
    while waiting:
        item, name, depth = waiting.pop()
        if depth > _MOST_DEEP:
            raise InputError(f"{path} holds items in items without end. {_ADVICE}.")
        children = list(item.get("ContentSequence") or [])
        if item.get("ValueType") in ("SCOORD", "SCOORD3D"):
            yield _Region(path, name, item)
        elif item.get("ValueType") == "CONTAINER":
            name = _name_of(children) or name
        waiting += [(child, name, depth + 1) for child in reversed(children)]


def _name_of(children: Sequence[Any]) -> str:
    """What a group of measurements is about; an empty text if it does not say."""
    said: dict[str, str] = {}
    for child in children:
        kind = _code(child.get("ConceptNameCodeSequence"), "CodeValue")
        text = str(child.get("TextValue") or "") or _code(child.get("ConceptCodeSequence"), "CodeMeaning")
        said.setdefault(kind, text.strip())
    tracked = said.get(_TRACKING_IDENTIFIER, "")
    if tracked.lower().startswith(_TOOLS) and "@" in tracked:
        tracked = ""
    return tracked or said.get(_FINDING, "") or next(filter(None, map(said.get, _FINDING_SITES)), None) or ""


def _code(sequence: Any, part: str) -> str:
    return str(sequence[0].get(part) or "") if sequence else ""


def _of_scan(path: Path, points: Sequence[_Region], scan: Scan) -> tuple[list[_Region], tuple[str, ...]]:
    """The points that belong to a scan, and what a person should know. Raises InputError if there is none."""
    on_images = [point for point in points if not point.is_in_space]
    if scan.series is None:
        if on_images:
            raise InputError(
                readable(
                    f"{path}: {on_images[0].name or 'a point'} lies on an image of a DICOM series, and the scan is not "
                    "DICOM. Give the series as the scan."
                )
            )
        frames = {point.frame_of_reference for point in points}
        if len(frames) > 1:
            raise InputError(
                f"{path} has points in {len(frames)} frames of reference, and the scan is not DICOM, so nobody can "
                "tell which are of the scan. Give the DICOM series as the scan."
            )
        return list(points), require_same_scan(path, "report", scan, frames, (), must_share_images=False)
    for point in points:
        if point.is_in_space and not point.frame_of_reference:
            raise point.fault("does not say in which frame of reference it lies")
    frames = {plane.owners.get("FrameOfReferenceUID", "") for plane in scan.series.slices} - {""}
    images = {uid(plane.sop_uid) for plane in scan.series.slices} - {""}
    mine = [
        point
        for point in points
        if (point.frame_of_reference in frames if point.is_in_space else point.image[0] in images)
    ]
    if not mine:
        where = "on images of another series" if on_images else "in another frame of reference than the scan"
        raise InputError(f"The points of the report {path} lie {where}. Give the report that was made on this scan.")
    return mine, ()


def _planes(slices: Sequence[Slice]) -> dict[tuple[str, int | None], Slice]:
    """The planes of a series by UID and frame; one that is alone in its file goes without a frame, too."""
    planes: dict[tuple[str, int | None], Slice] = {(uid(plane.sop_uid), plane.frame): plane for plane in slices}
    counts: dict[str, int] = {}
    for name, _ in planes:
        counts[name] = counts.get(name, 0) + 1
    alone = {key: plane for key, plane in planes.items() if counts[key[0]] == 1}
    return planes | {(name, frame): plane for (name, _), plane in alone.items() for frame in (None, 0)}


def _place(point: _Region, planes: Mapping[tuple[str, int | None], Slice]) -> NDArray[np.float64]:
    """Where a point lies (3,), RAS mm."""
    if point.is_in_space:
        return np.asarray(ras_from_lps(point.numbers(3)))
    column, row = point.numbers(2)
    plane = planes.get(point.image)
    if plane is None:
        raise point.fault("does not say on which frame of the file it lies, or there is no such frame")
    if not (0 <= column <= plane.shape[0] and 0 <= row <= plane.shape[1]):
        raise point.fault("lies beside the image that it names")
    # DICOM counts from the outer corner of the first pixel, whose centre is (0.5, 0.5).
    return np.asarray(plane.grid.ras(np.array([column - 0.5, row - 0.5, 0.0])))
