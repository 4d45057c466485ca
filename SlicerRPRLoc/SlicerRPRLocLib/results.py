"""Results: for each organ found in a query volume a ROI that may be corrected, and the six points that made it.

Landmarks have a point each, in :mod:`SlicerRPRLocLib.landmarks`. What is not in the scan has neither; that it is absent
is kept with the volume and told in the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import vtk
from numpy.typing import ArrayLike

from rprloc import WALLS, AbsentOrgan, Box, Detections, InputError, OrganDetection
from rprloc.detection import AbsentLandmark
from rprloc.geometry import Points
from SlicerRPRLocLib import landmarks, nodes, views
from SlicerRPRLocLib.handover import same_voxels
from SlicerRPRLocLib.landmarks import FoundLandmark, Landmarks, with_targets
from SlicerRPRLocLib.nodes import ROLE, Node, Pose, Scene, find_volume, is_clone, organ_of, volume_of
from SlicerRPRLocLib.review import Key, Row, most_doubtful_first, with_box

_FOUND, _CHECKED = landmarks.FOUND, landmarks.CHECKED
_ABSENT, _ABSENT_CHECKED = "RPRLoc.Absent", "RPRLoc.AbsentChecked"
_MOVED_MM, _parsed = landmarks.MOVED_MM, landmarks.parsed


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
        by_volume: dict[str, list[Node]] = {}
        for roi in nodes.of_class(self.scene, "vtkMRMLMarkupsROINode"):
            if roi.GetAttribute(ROLE) == "result" and not is_clone(roi) and find_volume(roi) is not None:
                by_volume.setdefault(roi.GetNodeReferenceID(nodes.VOLUME), []).append(roi)
        return [roi for rois in by_volume.values() for roi in rois]

    def roi(self, volume: Node, organ: str) -> Node | None:
        return self._by_key().get((volume.GetID(), organ))

    def points(self, roi: Node) -> Node | None:
        """The point list that belongs to a ROI."""
        return self._point_lists().get(_key(roi))

    def _by_key(self) -> dict[Key, Node]:
        return {_key(roi): roi for roi in reversed(self.rois())}

    def _point_lists(self) -> dict[Key, Node]:
        lists = nodes.of_class(self.scene, "vtkMRMLMarkupsFiducialNode")
        return {_key(node): node for node in lists if node.GetAttribute(ROLE) == "result points" and not is_clone(node)}

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
        found = self.record(roi).found
        return with_box(found, nodes.box_of_roi(roi)) if self.is_corrected(roi) else found

    def require_unmoved(self, located: Node) -> None:
        """Raise InputError if a result's scan was moved since it was searched: the box or point stayed behind."""
        volume, searched = volume_of(located), _parsed(located.GetAttribute(_FOUND)).grid
        if searched is not None and not same_voxels(searched, nodes.grid_of(volume)):
            raise InputError(
                f"{volume.GetName()} was moved since {organ_of(located)} was located in it, and the result was not. "
                "Put the scan back, or delete the result and locate again."
            )

    def points_on_walls(self, roi: Node) -> Points:
        """The six extreme points (6, 3) on the walls of a ROI as the user has left it, in the order of WALLS."""
        return with_box(self.record(roi).found, nodes.box_of_roi(roi)).points_ras

    def as_they_are(self, volume: Node) -> Detections:
        """All organs and landmarks of a volume as the user has left them, then of each kind those that are absent.

        If several weights have found them, the model is all of these.
        """
        located = [node for node in self.located() if volume_of(node) is volume]
        organs = [self.as_it_is(node) for node in located if not nodes.is_landmark(node)]
        landmarks = [self.landmarks.as_it_is(node) for node in located if nodes.is_landmark(node)]
        all_found = [_parsed(node.GetAttribute(_FOUND)) for node in located]
        models = dict.fromkeys(found.model_id for found in all_found)
        common = replace(all_found[0], model_id=" ".join(models))
        return with_targets(common, [*organs, *landmarks, *self.absent(volume).values()])

    def of_other_weights(self, model_id: str) -> list[str]:
        """Of which organs and landmarks in which volumes results are there that other weights have found.

        Those for which a person answers, who has corrected or ticked them, are not among them.
        """
        others = [node for node in self.located() if _parsed(node.GetAttribute(_FOUND)).model_id != model_id]
        rows = [self.row(node) for node in others]
        return [f"{row.organ} in {row.scan}" for row in rows if not (row.corrected or row.checked)]

    def apply(self, answers: Iterable[tuple[Node, Detections]]) -> list[str]:
        """Put what was found beside the volumes; the ROI or point of what is not in its scan goes.

        Returns a sentence for each one that was kept as the user moved it, and for each that is not in the scan.
        """
        told = []
        for volume, found in answers:
            found = replace(found, query=volume.GetName() or found.query)
            absent = self.absent(volume)
            there, gone = self._located_by_key(), []
            new: list[Result | FoundLandmark] = []
            for name, one in found.targets.items():
                known = there.get((volume.GetID(), name))
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
                        gone.append(known)
                    continue
                if known is not None and nodes.is_landmark(known) == is_organ:  # the name has another meaning now
                    gone.append(known)
                alone = with_targets(found, [one]).to_json()
                if isinstance(one, OrganDetection):
                    new.append(Result(volume.GetID(), alone, nodes.pose_of_box(one.box), checked=False))
                else:
                    point_ras = tuple(one.point_ras.tolist())
                    new.append(FoundLandmark(volume.GetID(), alone, point_ras, checked=False))
            self.remove_all(gone)
            self.put_all(new)
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

    def absent_ticks(self, volume_id: str) -> str:
        """Which of what is absent in a volume a person has looked at, as JSON; "" if nothing."""
        return self.scene.GetNodeByID(volume_id).GetAttribute(_ABSENT_CHECKED) or ""

    def put_absent_ticks(self, volume_id: str, ticks_json: str) -> None:
        """Keep what :meth:`absent_ticks` has given."""
        self.scene.GetNodeByID(volume_id).SetAttribute(_ABSENT_CHECKED, ticks_json or None)

    def put_absent(self, volume_id: str, found_json: str) -> None:
        """Keep with a volume what is not in it: the JSON of the detections, or nothing."""
        self.scene.GetNodeByID(volume_id).SetAttribute(_ABSENT, found_json or None)

    def put_all(self, results: Iterable[Result | FoundLandmark]) -> None:
        """Make the nodes of results hold them; they are made if they are missing, and left alone if they do already."""
        rois, point_lists = self._by_key(), self._point_lists()
        known = {_key(node): node for node in self.landmarks.all()}
        for result in results:
            if isinstance(result, FoundLandmark):
                node = known.get((result.volume_id, result.found.landmark))
                if node is None or self.landmarks.record(node) != result:
                    self.landmarks.put(result, _folder(self.scene.GetNodeByID(result.volume_id)))
                continue
            key = result.volume_id, result.organ
            roi, points = rois.get(key), point_lists.get(key)
            if roi is None or points is None or self.record(roi) != result:
                self._put(result, roi, points)

    def _put(self, result: Result, roi: Node | None, points: Node | None) -> None:
        volume, found = self.scene.GetNodeByID(result.volume_id), result.found
        folder = _folder(volume)
        if roi is None:
            kind = "vtkMRMLMarkupsROINode"
            roi = nodes.new_markups(kind, found.organ, "result", found.organ, volume, folder=folder)
            display = roi.GetDisplayNode()
            display.SetFillOpacity(0.15)
            display.SetPropertiesLabelVisibility(True)
            display.SetHandlesInteractive(False)
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

    def remove(self, located: Node) -> None:
        """Remove a ROI with its points, or a landmark."""
        self.remove_all([located])

    def remove_all(self, located: Sequence[Node]) -> None:
        """Remove results, ROIs with their points, and folders that are empty then."""
        if not located:
            return
        folders = {_folder(volume_of(node)) for node in located}
        point_lists = self._point_lists()
        points = [point_lists.get(_key(node)) for node in located if not nodes.is_landmark(node)]
        for node in [*points, *located]:
            if node is not None:
                nodes.remove(node)
        for folder in folders:
            nodes.remove_empty_folder(self.scene, folder)

    def remove_orphans(self) -> None:
        """Remove ROIs and landmarks whose volume is gone, and the points of ROIs that are gone."""
        self.landmarks.remove_orphans()
        known = self._by_key()
        for kind, role in (("vtkMRMLMarkupsROINode", "result"), ("vtkMRMLMarkupsFiducialNode", "result points")):
            for node in nodes.of_class(self.scene, kind):
                if node.GetAttribute(ROLE) == role and _key(node) not in known and not is_clone(node):
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
        """The query volume cut to a ROI and a margin, as a new volume. Raises InputError if the volume was moved."""
        self.require_unmoved(roi)
        volume = volume_of(roi)
        return nodes.crop(volume, nodes.box_of_roi(roi), f"{volume.GetName()} {organ_of(roi)}", margin_mm)

    # The table

    def rows(self, volume: Node | None = None) -> list[Row]:
        """A row for each finding, in all scans or in one, the most doubtful first."""
        rows = [self.row(node) for node in self.located() if volume is None or volume_of(node) is volume]
        for scan in nodes.scans(self.scene) if volume is None else [volume]:
            checked = self._absent_checked(scan)
            rows += [
                Row.of_absent((scan.GetID(), name), scan.GetName(), one, checked=name in checked)
                for name, one in self.absent(scan).items()
            ]
        return most_doubtful_first(rows)

    def row(self, located: Node) -> Row:
        """The row of a ROI or a landmark as it is now."""
        scan = volume_of(located).GetName()
        if nodes.is_landmark(located):
            return _row_of_landmark(self.landmarks.record(located), scan, self.landmarks.is_corrected(located))
        record = self.record(located)
        if located.GetParentTransformNode() is None:
            return _row(record, scan)
        return _row_of(record, scan, nodes.box_of_roi(located))

    def _located_by_key(self) -> dict[Key, Node]:
        return {_key(node): node for node in reversed(self.located())}

    def find_located(self, key: Key) -> Node | None:
        """The ROI of a row, or its landmark; None if it is absent, or the row is no more."""
        return self._located_by_key().get(key)

    def find(self, key: Key) -> Node | None:
        """The ROI of a row; None if it is about a landmark, the organ is absent, or the row is no more."""
        return self._by_key().get(key)

    def check(self, key: Key, checked: bool) -> None:
        """Keep that a person has looked at a row, with what was found or, if it is absent, with the volume."""
        roi, volume = self.find_located(key), self.scene.GetNodeByID(key[0])
        if roi is not None:
            roi.SetAttribute(_CHECKED, "1" if checked else "0")
        elif volume is not None:
            others = self._absent_checked(volume) - {key[1]}
            self._keep_absent_checked(volume, others | {key[1]} if checked else others)

    def has_checked(self, volume: Node, found: Detections, name: str) -> bool:
        """Whether a person has ticked just this finding of a volume: it is there as it was found, or is absent."""
        one, known = found.targets[name], self.find_located((volume.GetID(), name))
        if known is None:
            return name in self._absent_checked(volume) and self.absent(volume).get(name) == one
        alone = with_targets(replace(found, query=volume.GetName() or found.query), [one]).to_json()
        return (known.GetAttribute(_CHECKED), known.GetAttribute(_FOUND)) == ("1", alone)

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

    def _absent_checked(self, volume: Node) -> set[str]:
        return set(json.loads(self.absent_ticks(volume.GetID()) or "[]"))

    def _keep_absent_checked(self, volume: Node, organs: set[str]) -> None:
        self.put_absent_ticks(volume.GetID(), json.dumps(sorted(organs)) if organs else "")


def _folder(volume: Node) -> str:
    """The folder in subject hierarchy in which a volume's results lie."""
    return f"{volume.GetName()}: organs"


def _centre(located: Node) -> ArrayLike:
    """The middle (3,) of a ROI, or the point of a landmark."""
    return nodes.defined_points(located)[0] if nodes.is_landmark(located) else nodes.box_of_roi(located).centre_ras


@lru_cache(maxsize=4096)
def _row(record: Result, scan: str) -> Row:
    """The row of a ROI without parent transform; kept, because of many rows few change."""
    return _row_of(record, scan, nodes.box_of_pose(record.pose))


def _row_of(record: Result, scan: str, box: Box) -> Row:
    found = record.found
    corrected = not box.same_as(found.box, _MOVED_MM)
    key = record.volume_id, record.organ
    return Row.of_box(key, scan, found, box, corrected=corrected, checked=record.checked)


@lru_cache(maxsize=4096)
def _row_of_landmark(record: FoundLandmark, scan: str, corrected: bool) -> Row:
    found = record.found
    key = record.volume_id, found.landmark
    return Row.of_landmark(key, scan, found, record.point_ras, corrected=corrected, checked=record.checked)


def _key(node: Node) -> Key:
    return node.GetNodeReferenceID(nodes.VOLUME), organ_of(node)
