"""What corrections teach: a box that a person answers for becomes an example, and open findings are located again."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from rprloc import Detections, InputError
from rprloc.annotation import OUTSIDE_TOLERANCE_MM
from rprloc.geometry import assign_extreme_points
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.examples import Examples
from SlicerRPRLocLib.landmarks import with_targets
from SlicerRPRLocLib.nodes import Node
from SlicerRPRLocLib.results import Results
from SlicerRPRLocLib.review import Row
from SlicerRPRLocLib.wording import counted

_POINT = (3,)
_MOVED_MM = 0.1  # what the decimal of the sentence shows


def use_as_example(results: Results, examples: Examples, located: Node) -> tuple[Node, str]:
    """Make a result that a person has corrected or ticked an example; returns that, and what there is to tell.

    Of a ROI its six points lie on the walls of the box; a landmark gives its point. The result stays as it is. Raises
    InputError, and changes nothing, if nobody has looked at the result, or if it reaches out of its scan, or that was
    moved since it was searched.
    """
    volume, name, landmark = nodes.volume_of(located), nodes.organ_of(located), nodes.is_landmark(located)
    where, what = f"{name} in {volume.GetName()}", "point" if landmark else "box"
    row = results.row(located)
    if not (row.corrected or row.checked):
        raise InputError(f"Nobody has checked the {what} of {where}. Correct it, or tick it, first.")
    results.require_unmoved(located)
    points_ras = nodes.defined_points(located) if landmark else assign_extreme_points(results.points_on_walls(located))
    if not nodes.grid_of(volume).contains(points_ras, OUTSIDE_TOLERANCE_MM).all():
        raise InputError(f"The {what} of {where} reaches out of the scan. Drag it into the scan first.")
    known = examples.find(volume, name) is not None
    example = examples.add(volume, name, landmark=landmark)
    examples.set_points(example, points_ras)
    told = "was an example already and is one as it is now" if known else "is an example now"
    return example, f"{where} {told}. Locate again brings the other results up to date."


def put_unless_checked(results: Results, volume: Node, found: Detections) -> list[str]:
    """Put an answer beside its volume, without boxes and points that a person has ticked; returns remarks.

    Those that a person has corrected :meth:`Results.apply` leaves alone.
    """
    ticked = {row.organ for row in results.rows(volume) if row.checked and not row.corrected}
    ticked = {name for name in ticked & found.targets.keys() if results.find_located((volume.GetID(), name))}
    told = [
        f"{name} in {volume.GetName()} is ticked as checked and is left as it is. Take its tick off to locate it again."
        for name in sorted(ticked)
    ]
    others = with_targets(found, [one for name, one in found.targets.items() if name not in ticked])
    return [*told, *results.apply([(volume, others)])]


class Again:
    """Locates again what is open, and counts what that changes.

    Open is a finding that nobody has corrected or ticked, also one that was absent. An organ on a scan that is itself
    an example of it is left alone, because it would find itself, and so is one that no example marks any more.
    """

    def __init__(self, results: Results, examples: Examples, organs: Collection[str]) -> None:
        """``organs``: those that have an example. Raises InputError if nothing is open."""
        self._results, self._examples, self._organs = results, examples, organs
        rows = results.rows()
        found = self._open(rows)
        if not found:
            raise InputError(
                "There is nothing to locate again. Each result is corrected, ticked or an example, or its organ has no "
                "example."
            )
        self.by_scan: dict[str, list[str]] = {}
        """By the ids of their volumes, the organs that are open."""
        for row in found:
            self.by_scan.setdefault(row.key[0], []).append(row.organ)
        self._left = len(rows) - len(found)
        self._boxes_mm: list[float] = []
        self._points_mm: list[float] = []
        self._new: list[str] = []
        self._gone: list[str] = []

    def _open(self, rows: list[Row]) -> list[Row]:
        marked = {
            (nodes.volume_of(example).GetID(), nodes.organ_of(example))
            for example in self._examples.all()
            if self._examples.guidance(example).complete
        }
        return [
            row
            for row in rows
            if row.organ in self._organs and row.key not in marked and not (row.corrected or row.checked)
        ]

    def put(self, volume: Node, found: Detections) -> list[str]:
        """Put an answer beside its volume, for what nobody has settled or deleted meanwhile; returns no remarks."""
        rows = [row for row in self._results.rows(volume) if row.organ in self.by_scan[volume.GetID()]]
        is_open = {row.organ for row in self._open(rows)}
        self._left += len(rows) - len(is_open)
        before = self._places(volume)
        self._results.apply([(volume, with_targets(found, [t for n, t in found.targets.items() if n in is_open]))])
        now = self._places(volume)
        for name in sorted(is_open & (before.keys() | now.keys())):
            if name in before and name in now and before[name].shape == now[name].shape:
                self._note_move(before[name], now[name])
            elif name not in before or name not in now:
                (self._new if name in now else self._gone).append(f"{name} in {volume.GetName()}")
        return []

    def _note_move(self, before: NDArray[np.float64], now: NDArray[np.float64]) -> None:
        if before.shape == _POINT:
            self._points_mm.append(float(np.linalg.norm(now - before)))
        else:
            self._boxes_mm.append(float(np.abs(now - before).mean()))

    def _places(self, volume: Node) -> dict[str, NDArray[np.float64]]:
        """By their names, the walls (6,) of boxes and the points (3,) of landmarks in a volume."""
        there = [node for node in self._results.located() if nodes.volume_of(node) is volume]
        return {nodes.organ_of(node): _place(node) for node in there}

    @property
    def told(self) -> str:
        """What has changed so far."""
        boxes_mm = [move_mm for move_mm in self._boxes_mm if move_mm >= _MOVED_MM]
        points_mm = [move_mm for move_mm in self._points_mm if move_mm >= _MOVED_MM]
        same = len(self._boxes_mm) + len(self._points_mm) - len(boxes_mm) - len(points_mm)
        told = []
        if self._boxes_mm or not self._points_mm:
            by = f", by {np.median(boxes_mm):.1f} mm at each wall (median)" if boxes_mm else ""
            told.append(f"{counted(len(boxes_mm), 'box', 'boxes')} moved{by}.")
        if self._points_mm:
            by = f", by {np.median(points_mm):.1f} mm (median)" if points_mm else ""
            told.append(f"{counted(len(points_mm), 'point', 'points')} moved{by}.")
        if same:
            told.append(f"{same} stayed in place.")
        if self._new:
            told.append(f"Found now: {', '.join(self._new)}.")
        if self._gone:
            told.append(f"No longer found: {', '.join(self._gone)}.")
        if self._left:
            left = counted(self._left, "result was", "results were")
            told.append(f"{left} left alone: corrected, ticked, an example, or without one.")
        return " ".join(told)


def _place(located: Node) -> NDArray[np.float64]:
    if nodes.is_landmark(located):
        point_ras: NDArray[np.float64] = nodes.defined_points(located)[0]
        return point_ras
    return nodes.box_of_roi(located).walls_mm
