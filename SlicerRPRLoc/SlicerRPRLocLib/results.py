"""Results: for each organ found in a query volume a ROI that may be corrected, and the six points that made it.

An organ that is not in the scan has neither; that it is absent is kept with the volume and told in the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import vtk

from rprloc import WALLS, AbsentOrgan, Box, Detections, OrganDetection
from SlicerRPRLocLib import nodes, views
from SlicerRPRLocLib.nodes import ORGAN, ROLE, Node, Pose, Scene, find_volume, organ_of, paint, volume_of

_FOUND, _CHECKED = "RPRLoc.Detections", "RPRLoc.Checked"
_ABSENT, _ABSENT_CHECKED = "RPRLoc.Absent", "RPRLoc.AbsentChecked"
_MOVED_MM = 0.01
_DOUBTFUL_MM = 10.0  # more than a centimetre at each wall: worth a look before the others

Key = tuple[str, str]
"""A volume's id and an organ: what a row of the table is about, whether the organ has a ROI or is absent."""

_parsed = lru_cache(maxsize=4096)(Detections.from_json)


@dataclass(frozen=True)
class Result:
    """One organ in one volume: as it was found (the JSON of its detections), and its ROI as it is now."""

    volume_id: str
    found_json: str
    pose: Pose
    checked: bool

    @property
    def detections(self) -> Detections:
        """The detections, of this one organ."""
        return _parsed(self.found_json)

    @property
    def found(self) -> OrganDetection:
        return self.detections.located[0]

    @property
    def organ(self) -> str:
        return self.found.organ


@dataclass(frozen=True)
class Row:
    """A row of the table of results; ``tip`` says the rest. A doubtful one is worth a look before the others."""

    key: Key
    organ: str
    scan: str
    size: str
    error: str
    checked: bool
    doubtful: bool
    tip: str


class Results:
    """The results in a scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def rois(self) -> list[Node]:
        """The ROIs of all results whose volume is there, volume by volume; the user's copies of them are none."""
        found = [
            roi
            for roi in nodes.of_class(self.scene, "vtkMRMLMarkupsROINode")
            if roi.GetAttribute(ROLE) == "result" and find_volume(roi) is not None and not nodes.is_clone(roi)
        ]
        volumes = list(dict.fromkeys(volume_of(roi).GetID() for roi in found))
        return sorted(found, key=lambda roi: volumes.index(volume_of(roi).GetID()))

    def roi(self, volume: Node, organ: str) -> Node | None:
        return next((roi for roi in self.rois() if volume_of(roi) is volume and organ_of(roi) == organ), None)

    def points(self, roi: Node) -> Node | None:
        """The point list that belongs to a ROI."""
        for node in nodes.of_class(self.scene, "vtkMRMLMarkupsFiducialNode"):
            same = organ_of(node) == organ_of(roi) and find_volume(node) is volume_of(roi)
            if same and node.GetAttribute(ROLE) == "result points" and not nodes.is_clone(node):
                return node
        return None

    def record(self, roi: Node) -> Result:
        """What a result's nodes hold."""
        return Result(
            volume_of(roi).GetID(), roi.GetAttribute(_FOUND), nodes.pose_of_roi(roi), roi.GetAttribute(_CHECKED) == "1"
        )

    def is_corrected(self, roi: Node) -> bool:
        """Whether the user has moved, resized or turned the ROI since it was found."""
        return not nodes.box_of_roi(roi).same_as(self.record(roi).found.box, _MOVED_MM)

    def as_it_is(self, roi: Node) -> OrganDetection:
        """The organ of a ROI with its box as the user has left it."""
        return _with_box(self.record(roi).found, nodes.box_of_roi(roi))

    def as_they_are(self, volume: Node) -> Detections:
        """All organs of a volume with their boxes as the user has left them, then those that are absent."""
        rois = [roi for roi in self.rois() if volume_of(roi) is volume]
        organs = tuple(self.as_it_is(roi) for roi in rois)
        return replace(self.record(rois[0]).detections, organs=(*organs, *self.absent(volume)))

    def apply(self, answers: Iterable[tuple[Node, Detections]]) -> list[str]:
        """Put what was found beside the volumes; the ROI of an organ that is not in its scan goes.

        Returns a sentence for each ROI that was kept as the user moved it, and for each organ that is not in the scan.
        """
        told = []
        for volume, found in answers:
            absent = {organ.organ: organ for organ in self.absent(volume)}
            for organ in found.organs:
                known = self.roi(volume, organ.organ)
                if known is not None and self.is_corrected(known):
                    told.append(
                        f"The ROI of {organ.organ} in {volume.GetName()} was corrected by hand and is left as it is. "
                        "Delete it to locate it again."
                    )
                    continue
                absent.pop(organ.organ, None)
                if isinstance(organ, AbsentOrgan):
                    absent[organ.organ] = organ
                    told.append(f"{volume.GetName()}: {organ.organ} is {organ.remark} and gets no ROI.")
                    if known is not None:
                        self.remove(known)
                    continue
                alone = replace(found, query=volume.GetName() or found.query, organs=(organ,))
                self.put(Result(volume.GetID(), alone.to_json(), nodes.pose_of_box(organ.box), checked=False))
            without = replace(found, query=volume.GetName() or found.query, organs=tuple(absent.values()))
            self.put_absent(volume.GetID(), without.to_json() if absent else "")
            looked_at = self._absent_checked(volume) - {organ.organ for organ in found.organs}
            self._keep_absent_checked(volume, looked_at & set(absent))
        views.draw_over_own_scans(self.scene)
        return told

    def absent_json(self) -> dict[str, str]:
        """By the ids of their volumes, the JSON of the detections of organs that are not in these."""
        return {volume.GetID(): text for volume in nodes.scans(self.scene) if (text := volume.GetAttribute(_ABSENT))}

    def absent(self, volume: Node) -> tuple[AbsentOrgan, ...]:
        """The organs that were looked for in a volume and are not in it."""
        text = volume.GetAttribute(_ABSENT)
        return _parsed(text).absent if text else ()

    def put_absent(self, volume_id: str, found_json: str) -> None:
        """Keep with a volume which organs are not in it: the JSON of their detections, or nothing."""
        self.scene.GetNodeByID(volume_id).SetAttribute(_ABSENT, found_json or None)

    def put(self, result: Result) -> None:
        """Make the nodes of a result hold it; they are made if they are missing."""
        volume, found = self.scene.GetNodeByID(result.volume_id), result.found
        folder = f"{volume.GetName()}: organs"
        roi = self.roi(volume, found.organ)
        if roi is None:
            roi = self._new("vtkMRMLMarkupsROINode", found.organ, "result", found.organ, volume, folder)
            display = roi.GetDisplayNode()
            display.SetFillOpacity(0.15)
            display.SetPropertiesLabelVisibility(True)
            display.SetHandlesInteractive(False)
        points = self.points(roi)
        if points is None:
            name = f"{found.organ} points"
            points = self._new("vtkMRMLMarkupsFiducialNode", name, "result points", found.organ, volume, folder)
            points.GetDisplayNode().SetPointLabelsVisibility(False)
            points.GetDisplayNode().SetGlyphScale(1.5)
        roi.SetAttribute(_FOUND, result.found_json)
        roi.SetAttribute(_CHECKED, "1" if result.checked else "0")
        roi.SetAndObserveTransformNodeID(None)
        nodes.set_pose(roi, result.pose)
        spreads = [f"{found.remark}; the votes spread {spread:.1f} mm" for spread in found.spread_mm]
        points.SetLocked(False)
        nodes.set_points(points, found.points_ras, list(WALLS), spreads)
        points.SetLocked(True)
        roi.SetDescription(f"RPR-Loc: {found.remark}; mean spread of the votes {found.spread_mm.mean():.1f} mm")

    def remove(self, roi: Node) -> None:
        points, folder = self.points(roi), f"{volume_of(roi).GetName()}: organs"
        for node in (points, roi):
            if node is not None:
                nodes.remove(node)
        nodes.remove_empty_folder(self.scene, folder)

    def remove_orphans(self) -> None:
        """Remove ROIs whose volume is gone, and the points of ROIs that are gone."""
        known = {(organ_of(roi), volume_of(roi).GetID()) for roi in self.rois()}
        for kind, role in (("vtkMRMLMarkupsROINode", "result"), ("vtkMRMLMarkupsFiducialNode", "result points")):
            for node in nodes.of_class(self.scene, kind):
                key = organ_of(node), node.GetNodeReferenceID(nodes.VOLUME)
                if node.GetAttribute(ROLE) == role and key not in known and not nodes.is_clone(node):
                    nodes.remove(node)

    def show(self, key: Key) -> None:
        """Show a row's scan in all views, at its organ if that is in it, whose ROI alone gets handles."""
        volume, chosen = self.scene.GetNodeByID(key[0]), self.find(key)
        for roi in self.rois():
            display = roi.GetDisplayNode()
            display.SetHandlesInteractive(roi is chosen)
            display.SetRotationHandleVisibility(False)  # boxes lie along the axes
        if volume is not None:
            views.show_scan(self.scene, volume, None if chosen is None else nodes.box_of_roi(chosen).centre_ras)

    def crop(self, roi: Node, margin_mm: float) -> Node:
        """The query volume cut to a ROI and a margin, as a new volume."""
        volume = volume_of(roi)
        return nodes.crop(volume, nodes.box_of_roi(roi), f"{volume.GetName()} {organ_of(roi)}", margin_mm)

    # The table

    def rows(self) -> list[Row]:
        """What the table shows: volume by volume, in each the most doubtful organs first and absent ones last."""
        rows: dict[str, list[tuple[float, Row]]] = {}
        for roi in self.rois():
            row = self._row(roi)
            found = self.record(roi).found
            rows.setdefault(row.key[0], []).append((-(found.expected_wall_error_mm or 0.0), row))
        for volume_id in self.absent_json():
            volume = self.scene.GetNodeByID(volume_id)
            checked = self._absent_checked(volume)
            for organ in self.absent(volume):
                key, done = (volume_id, organ.organ), organ.organ in checked
                tip = f"{organ.remark.capitalize()}."
                row = Row(key, organ.organ, volume.GetName(), "absent", "", done, False, tip)
                rows.setdefault(volume_id, []).append((np.inf, row))
        return [row for of_volume in rows.values() for _, row in sorted(of_volume, key=lambda pair: pair[0])]

    def find(self, key: Key) -> Node | None:
        """The ROI of a row; None if the organ is absent, or the row is no more."""
        volume = self.scene.GetNodeByID(key[0])
        return None if volume is None else self.roi(volume, key[1])

    def check(self, key: Key, checked: bool) -> None:
        """Keep that a person has looked at a row, with its ROI or, if the organ is absent, with the volume."""
        roi, volume = self.find(key), self.scene.GetNodeByID(key[0])
        if roi is not None:
            roi.SetAttribute(_CHECKED, "1" if checked else "0")
        elif volume is not None:
            others = self._absent_checked(volume) - {key[1]}
            self._keep_absent_checked(volume, others | {key[1]} if checked else others)

    def absent_rows(self) -> list[tuple[Detections, AbsentOrgan, bool]]:
        """Every absent organ, with the detections it is among, and whether a person has looked at it."""
        found = []
        for volume_id, text in self.absent_json().items():
            checked = self._absent_checked(self.scene.GetNodeByID(volume_id))
            found += [(_parsed(text), organ, organ.organ in checked) for organ in _parsed(text).absent]
        return found

    def adopt_table(self) -> None:
        """Take the ticks out of the table node of a scene of version 0.2, which kept them there, and remove it."""
        for table in nodes.of_class(self.scene, "vtkMRMLTableNode"):
            if table.GetAttribute(ROLE) == "results":
                ids, ticks = (table.GetTable().GetColumnByName(name) for name in ("ROI", "Checked"))
                for row in range(min(ids.GetNumberOfValues(), ticks.GetNumberOfValues()) if ids and ticks else 0):
                    roi = self.scene.GetNodeByID(ids.GetValue(row))
                    if roi is not None:
                        roi.SetAttribute(_CHECKED, str(int(vtk.vtkVariant(ticks.GetValue(row)).ToInt())))
                nodes.remove(table)

    def _row(self, roi: Node) -> Row:
        found, box, error = self.record(roi).found, nodes.box_of_roi(roi), self.record(roi).found.expected_wall_error_mm
        corrected = self.is_corrected(roi)
        doubtful = error is not None and error > _DOUBTFUL_MM and not corrected
        tip = [
            f"In the scan: {_in_the_scan(found)}.",
            f"Centre RAS: {', '.join(f'{value:.0f}' for value in box.centre_ras)} mm.",
            f"The votes for its points spread {found.spread_mm.mean():.1f} mm.",
            "Corrected by hand." if corrected else "",
            "Doubtful: each wall may be off by more than a centimetre. Look at all six." if doubtful else "",
        ]
        return Row(
            (volume_of(roi).GetID(), organ_of(roi)),
            organ_of(roi),
            volume_of(roi).GetName(),
            " x ".join(f"{length:.0f}" for length in box.size_mm),
            "corrected" if corrected else _error_text(found),
            roi.GetAttribute(_CHECKED) == "1",
            doubtful,
            "\n".join(filter(None, tip)),
        )

    def _absent_checked(self, volume: Node) -> set[str]:
        return set(json.loads(volume.GetAttribute(_ABSENT_CHECKED) or "[]"))

    def _keep_absent_checked(self, volume: Node, organs: set[str]) -> None:
        volume.SetAttribute(_ABSENT_CHECKED, json.dumps(sorted(organs)) if organs else None)

    def _new(self, kind: str, name: str, role: str, organ: str, volume: Node, folder: str) -> Node:
        with nodes.keeping_place_node(self.scene):
            node = self.scene.AddNewNodeByClass(kind, name)
        node.SetAttribute(ROLE, role)
        node.SetAttribute(ORGAN, organ)
        node.SetNodeReferenceID(nodes.VOLUME, volume.GetID())
        nodes.sign(node)
        node.CreateDefaultDisplayNodes()
        paint(node, organ)
        nodes.put_beside(node, volume, folder)
        return node


def _error_text(found: OrganDetection) -> str:
    return "" if found.expected_wall_error_mm is None else f"{found.expected_wall_error_mm:.1f}"


def _in_the_scan(found: OrganDetection) -> str:
    if found.presence is None:
        return "not calibrated"
    chance = found.presence.part if found.is_cut else found.presence.whole
    return f"{'partly' if found.is_cut else 'wholly'} ({100.0 * chance:.0f} %)"


def _with_box(found: OrganDetection, box: Box) -> OrganDetection:
    """The organ with its points moved to the walls of a box."""
    points_ras = found.points_ras.copy()
    points_ras[np.arange(6), np.arange(6) // 2] = box.walls_mm
    return replace(found, points_ras=points_ras)
