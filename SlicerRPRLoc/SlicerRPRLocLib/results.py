"""Results: for each organ found in a query volume a ROI that may be corrected, and the six points that made it.

Landmarks have a point each, in :mod:`SlicerRPRLocLib.landmarks`. What is not in the scan has neither; that it is absent
is kept with the volume and told in the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import vtk
from numpy.typing import ArrayLike

from rprloc import WALLS, AbsentOrgan, Box, Detections, OrganDetection
from rprloc.detection import AbsentLandmark
from SlicerRPRLocLib import landmarks, nodes, views
from SlicerRPRLocLib.landmarks import FoundLandmark, Landmarks, with_targets
from SlicerRPRLocLib.nodes import ROLE, Node, Pose, Scene, find_volume, organ_of, volume_of

_FOUND, _CHECKED = landmarks.FOUND, landmarks.CHECKED
_ABSENT, _ABSENT_CHECKED = "RPRLoc.Absent", "RPRLoc.AbsentChecked"
_MOVED_MM, _DOUBTFUL_MM, _parsed = landmarks.MOVED_MM, landmarks.DOUBTFUL_MM, landmarks.parsed

Key = tuple[str, str]
"""A volume's id and an organ or a landmark: what a row of the table is about, whether it was found or is absent."""


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
        self.landmarks = Landmarks(scene)

    def located(self) -> list[Node]:
        """The ROIs of all results, then the points of landmarks."""
        return [*self.rois(), *self.landmarks.all()]

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
        """Whether the user has moved, resized or turned the ROI, or moved the landmark, since it was found."""
        if nodes.is_landmark(roi):
            return self.landmarks.is_corrected(roi)
        return not nodes.box_of_roi(roi).same_as(self.record(roi).found.box, _MOVED_MM)

    def as_it_is(self, roi: Node) -> OrganDetection:
        """The organ of a ROI with its box as the user has left it."""
        return _with_box(self.record(roi).found, nodes.box_of_roi(roi))

    def as_they_are(self, volume: Node) -> Detections:
        """All organs and landmarks of a volume as the user has left them, then of each kind those that are absent."""
        located = [node for node in self.located() if volume_of(node) is volume]
        organs = [self.as_it_is(node) for node in located if not nodes.is_landmark(node)]
        landmarks = [self.landmarks.as_it_is(node) for node in located if nodes.is_landmark(node)]
        common = _parsed(located[0].GetAttribute(_FOUND))
        return with_targets(common, [*organs, *landmarks, *self.absent(volume).values()])

    def apply(self, answers: Iterable[tuple[Node, Detections]]) -> list[str]:
        """Put what was found beside the volumes; the ROI or point of what is not in its scan goes.

        Returns a sentence for each one that was kept as the user moved it, and for each that is not in the scan.
        """
        told = []
        for volume, found in answers:
            found = replace(found, query=volume.GetName() or found.query)
            absent = self.absent(volume)
            for name, one in found.targets.items():
                known = self.find_located((volume.GetID(), name))
                if known is not None and self.is_corrected(known):
                    what = "point" if nodes.is_landmark(known) else "ROI"
                    told.append(
                        f"The {what} of {name} in {volume.GetName()} was corrected by hand and is left as it is. "
                        "Delete it to locate it again."
                    )
                    continue
                absent.pop(name, None)
                is_organ = isinstance(one, (OrganDetection, AbsentOrgan))
                if isinstance(one, (AbsentOrgan, AbsentLandmark)):
                    absent[name] = one
                    what = "ROI" if is_organ else "point"
                    told.append(f"{volume.GetName()}: {name} is {one.remark} and gets no {what}.")
                    if known is not None:
                        self.remove(known)
                    continue
                if known is not None and nodes.is_landmark(known) == is_organ:  # the name has another meaning now
                    self.remove(known)
                alone = with_targets(found, [one]).to_json()
                if isinstance(one, OrganDetection):
                    self.put(Result(volume.GetID(), alone, nodes.pose_of_box(one.box), checked=False))
                else:
                    point_ras = tuple(one.point_ras.tolist())
                    self.put_landmark(FoundLandmark(volume.GetID(), alone, point_ras, checked=False))
            without = with_targets(found, absent.values())
            self.put_absent(volume.GetID(), without.to_json() if absent else "")
            looked_at = self._absent_checked(volume) - set(found.targets)
            self._keep_absent_checked(volume, looked_at & set(absent))
        views.draw_over_own_scans(self.scene)
        return told

    def absent_json(self) -> dict[str, str]:
        """By the ids of their volumes, the JSON of the detections of organs and landmarks that are not in these."""
        return {volume.GetID(): text for volume in nodes.scans(self.scene) if (text := volume.GetAttribute(_ABSENT))}

    def absent(self, volume: Node) -> dict[str, AbsentOrgan | AbsentLandmark]:
        """By their names, the organs and landmarks that were looked for in a volume and are not in it."""
        text = volume.GetAttribute(_ABSENT)
        targets = _parsed(text).targets if text else {}
        return {name: one for name, one in targets.items() if isinstance(one, (AbsentOrgan, AbsentLandmark))}

    def put_absent(self, volume_id: str, found_json: str) -> None:
        """Keep with a volume what is not in it: the JSON of the detections, or nothing."""
        self.scene.GetNodeByID(volume_id).SetAttribute(_ABSENT, found_json or None)

    def put(self, result: Result) -> None:
        """Make the nodes of a result hold it; they are made if they are missing."""
        volume, found = self.scene.GetNodeByID(result.volume_id), result.found
        folder = _folder(volume)
        roi = self.roi(volume, found.organ)
        if roi is None:
            kind = "vtkMRMLMarkupsROINode"
            roi = nodes.new_markups(kind, found.organ, "result", found.organ, volume, folder=folder)
            display = roi.GetDisplayNode()
            display.SetFillOpacity(0.15)
            display.SetPropertiesLabelVisibility(True)
            display.SetHandlesInteractive(False)
        points = self.points(roi)
        if points is None:
            kind, name = "vtkMRMLMarkupsFiducialNode", f"{found.organ} points"
            points = nodes.new_markups(kind, name, "result points", found.organ, volume, folder=folder)
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

    def put_landmark(self, result: FoundLandmark) -> None:
        """Make the node of a landmark hold it; it is made if it is missing."""
        self.landmarks.put(result, _folder(self.scene.GetNodeByID(result.volume_id)))

    def remove(self, roi: Node) -> None:
        """Remove a ROI with its points, or a landmark."""
        folder = _folder(volume_of(roi))
        for node in (None if nodes.is_landmark(roi) else self.points(roi), roi):
            if node is not None:
                nodes.remove(node)
        nodes.remove_empty_folder(self.scene, folder)

    def remove_orphans(self) -> None:
        """Remove ROIs and landmarks whose volume is gone, and the points of ROIs that are gone."""
        self.landmarks.remove_orphans()
        known = {(organ_of(roi), volume_of(roi).GetID()) for roi in self.rois()}
        for kind, role in (("vtkMRMLMarkupsROINode", "result"), ("vtkMRMLMarkupsFiducialNode", "result points")):
            for node in nodes.of_class(self.scene, kind):
                key = organ_of(node), node.GetNodeReferenceID(nodes.VOLUME)
                if node.GetAttribute(ROLE) == role and key not in known and not nodes.is_clone(node):
                    nodes.remove(node)

    def show(self, key: Key) -> None:
        """Show a row's scan in all views, at what was found; its ROI alone gets handles, or its point can be moved."""
        volume, chosen = self.scene.GetNodeByID(key[0]), self.find_located(key)
        self.landmarks.let_move(chosen)
        for roi in self.rois():
            display = roi.GetDisplayNode()
            display.SetHandlesInteractive(roi is chosen)
            display.SetRotationHandleVisibility(False)  # boxes lie along the axes
        if volume is not None:
            views.show_scan(self.scene, volume, None if chosen is None else _centre(chosen))

    def crop(self, roi: Node, margin_mm: float) -> Node:
        """The query volume cut to a ROI and a margin, as a new volume."""
        volume = volume_of(roi)
        return nodes.crop(volume, nodes.box_of_roi(roi), f"{volume.GetName()} {organ_of(roi)}", margin_mm)

    # The table

    def rows(self) -> list[Row]:
        """What the table shows: volume by volume, in each the most doubtful first and what is absent last."""
        rows: dict[str, list[tuple[float, Row]]] = {}
        for roi in self.rois():
            row = self._row(roi)
            found = self.record(roi).found
            rows.setdefault(row.key[0], []).append((-(found.expected_wall_error_mm or 0.0), row))
        for node in self.landmarks.all():
            record, told = self.landmarks.record(node), self.landmarks.describe(node)
            key, scan = (record.volume_id, record.found.landmark), volume_of(node).GetName()
            row = Row(key, key[1], scan, "point", told.error, record.checked, told.doubtful, told.tip)
            rows.setdefault(key[0], []).append((-(record.found.expected_error_mm or 0.0), row))
        for volume_id in self.absent_json():
            volume = self.scene.GetNodeByID(volume_id)
            checked = self._absent_checked(volume)
            for name, one in self.absent(volume).items():
                tip = f"{one.remark.capitalize()}."
                row = Row((volume_id, name), name, volume.GetName(), "absent", "", name in checked, False, tip)
                rows.setdefault(volume_id, []).append((np.inf, row))
        return [row for of_volume in rows.values() for _, row in sorted(of_volume, key=lambda pair: pair[0])]

    def find_located(self, key: Key) -> Node | None:
        """The ROI of a row, or its landmark; None if it is absent, or the row is no more."""
        volume = self.scene.GetNodeByID(key[0])
        return None if volume is None else self.roi(volume, key[1]) or self.landmarks.find(volume, key[1])

    def find(self, key: Key) -> Node | None:
        """The ROI of a row; None if it is about a landmark, the organ is absent, or the row is no more."""
        volume = self.scene.GetNodeByID(key[0])
        return None if volume is None else self.roi(volume, key[1])

    def check(self, key: Key, checked: bool) -> None:
        """Keep that a person has looked at a row, with what was found or, if it is absent, with the volume."""
        roi, volume = self.find_located(key), self.scene.GetNodeByID(key[0])
        if roi is not None:
            roi.SetAttribute(_CHECKED, "1" if checked else "0")
        elif volume is not None:
            others = self._absent_checked(volume) - {key[1]}
            self._keep_absent_checked(volume, others | {key[1]} if checked else others)

    def absent_rows(self) -> list[tuple[Detections, AbsentOrgan | AbsentLandmark, bool]]:
        """All that is absent, with the detections it is among, and whether a person has looked at it."""
        found = []
        for volume_id, text in self.absent_json().items():
            volume = self.scene.GetNodeByID(volume_id)
            checked, absent = self._absent_checked(volume), self.absent(volume)
            found += [(_parsed(text), one, name in checked) for name, one in absent.items()]
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


def _folder(volume: Node) -> str:
    """The folder in subject hierarchy in which a volume's results lie."""
    return f"{volume.GetName()}: organs"


def _centre(located: Node) -> ArrayLike:
    """The middle (3,) of a ROI, or the point of a landmark."""
    return nodes.defined_points(located)[0] if nodes.is_landmark(located) else nodes.box_of_roi(located).centre_ras


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
