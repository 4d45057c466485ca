"""Results: for each organ found in a query volume a ROI that may be corrected, and the six points that made it.

An organ that is not in the scan has neither; that it is absent is kept with the volume and told in the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rprloc import WALLS, AbsentOrgan, Box, Detections, InputError, OrganDetection
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.nodes import ORGAN, ROLE, Node, Pose, Scene, find_volume, organ_of, paint, volume_of

_FOUND, _CHECKED, _ABSENT = "RPRLoc.Detections", "RPRLoc.Checked", "RPRLoc.Absent"
_TABLE = "RPR-Loc results"
_MOVED_MM = 0.01


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
        return Detections.from_json(self.found_json)

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

    def rois(self) -> list[Node]:
        """The ROIs of all results whose volume is there, volume by volume."""
        found = [
            roi
            for roi in nodes.of_class(self.scene, "vtkMRMLMarkupsROINode")
            if roi.GetAttribute(ROLE) == "result" and find_volume(roi) is not None
        ]
        volumes = list(dict.fromkeys(volume_of(roi).GetID() for roi in found))
        return sorted(found, key=lambda roi: volumes.index(volume_of(roi).GetID()))

    def roi(self, volume: Node, organ: str) -> Node | None:
        return next((roi for roi in self.rois() if volume_of(roi) is volume and organ_of(roi) == organ), None)

    def points(self, roi: Node) -> Node | None:
        """The point list that belongs to a ROI."""
        for node in nodes.of_class(self.scene, "vtkMRMLMarkupsFiducialNode"):
            same = organ_of(node) == organ_of(roi) and find_volume(node) is volume_of(roi)
            if same and node.GetAttribute(ROLE) == "result points":
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
        self.take_ticks()
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
        self.update_table()
        return told

    def absent_json(self) -> dict[str, str]:
        """By the ids of their volumes, the JSON of the detections of organs that are not in these."""
        volumes = nodes.of_class(self.scene, "vtkMRMLScalarVolumeNode")
        return {volume.GetID(): text for volume in volumes if (text := volume.GetAttribute(_ABSENT))}

    def absent(self, volume: Node) -> tuple[AbsentOrgan, ...]:
        """The organs that were looked for in a volume and are not in it."""
        text = volume.GetAttribute(_ABSENT)
        return Detections.from_json(text).absent if text else ()

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

    def jump_to(self, roi: Node) -> None:
        """Show an organ in all slice views, with handles to correct its ROI; all others lose theirs."""
        for other in self.rois():
            display = other.GetDisplayNode()
            display.SetHandlesInteractive(other is roi)
            display.SetRotationHandleVisibility(False)  # boxes lie along the axes
        nodes.show_in_slices(self.scene, nodes.box_of_roi(roi).centre_ras)

    def crop(self, roi: Node, margin_mm: float) -> Node:
        """The query volume cut to a ROI and a margin, as a new volume."""
        volume = volume_of(roi)
        return nodes.crop(volume, nodes.box_of_roi(roi), f"{volume.GetName()} {organ_of(roi)}", margin_mm)

    # The table

    def table(self) -> Node | None:
        tables = nodes.of_class(self.scene, "vtkMRMLTableNode")
        return next((table for table in tables if table.GetAttribute(ROLE) == "results"), None)

    def update_table(self) -> Node | None:
        """Write all results into the table, one in a row, in the order of :meth:`rois`, then those that are absent.

        It is made if need be.
        """
        rois, table = self.rois(), self.table()
        absent = [
            (self.scene.GetNodeByID(volume_id).GetName(), organ)
            for volume_id, text in self.absent_json().items()
            for organ in Detections.from_json(text).absent
        ]
        if table is None:
            if not rois and not absent:
                return None
            table = self.scene.AddNewNodeByClass("vtkMRMLTableNode", _TABLE)
            table.SetAttribute(ROLE, "results")
        boxes = [nodes.box_of_roi(roi) for roi in rois]
        found = [self.record(roi).found for roi in rois]
        nothing = [""] * len(absent)
        sizes = [" x ".join(f"{length:.0f}" for length in box.size_mm) for box in boxes]
        centres = [", ".join(f"{value:.0f}" for value in box.centre_ras) for box in boxes]
        columns: list[tuple[str, Sequence[object]]] = [
            ("Checked", [*(roi.GetAttribute(_CHECKED) == "1" for roi in rois), *(False for _ in absent)]),
            ("Organ", [*(organ_of(roi) for roi in rois), *(organ.organ for _, organ in absent)]),
            ("Scan", [*(volume_of(roi).GetName() for roi in rois), *(name for name, _ in absent)]),
            ("In the scan", [*(_in_the_scan(organ) for organ in found), *(organ.remark for _, organ in absent)]),
            ("Size mm", [*sizes, *nothing]),
            ("Centre RAS mm", [*centres, *nothing]),
            ("Expected error mm", [*(_error_text(organ) for organ in found), *nothing]),
            ("Spread mm", [*(f"{organ.spread_mm.mean():.1f}" for organ in found), *nothing]),
            ("Corrected", [*("yes" if self.is_corrected(roi) else "" for roi in rois), *nothing]),
            ("ROI", [*(roi.GetID() for roi in rois), *nothing]),
        ]
        nodes.write_table(table, columns)
        return table

    def take_ticks(self) -> None:
        """Keep the ticks that the user has set in the table."""
        table = self.table()
        if table is not None:
            ticks = dict(zip(nodes.column(table, "ROI"), nodes.column(table, "Checked"), strict=True))
            for roi in self.rois():
                if roi.GetID() in ticks:
                    roi.SetAttribute(_CHECKED, "1" if ticks[roi.GetID()] else "0")

    def in_row(self, row: int) -> Node:
        """The ROI of a row of the table. Raises InputError if there is none."""
        table = self.table()
        ids = [] if table is None else nodes.column(table, "ROI")
        if 0 <= row < len(ids) and not ids[row]:
            organ = nodes.column(table, "Organ")[row]
            raise InputError(f"{organ} is not in the scan and has no ROI. Click another organ.")
        roi = self.scene.GetNodeByID(ids[row]) if 0 <= row < len(ids) else None
        if roi is None:
            raise InputError("No organ is chosen. Click its row in the table of results.")
        return roi

    def _new(self, kind: str, name: str, role: str, organ: str, volume: Node, folder: str) -> Node:
        node = self.scene.AddNewNodeByClass(kind, name)
        node.SetAttribute(ROLE, role)
        node.SetAttribute(ORGAN, organ)
        node.SetNodeReferenceID(nodes.VOLUME, volume.GetID())
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
