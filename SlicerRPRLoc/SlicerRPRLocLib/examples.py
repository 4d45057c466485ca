"""Examples: six extreme points of an organ on a support volume, placed by hand or taken from a segment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rprloc import WALLS, Box, InputError
from rprloc.annotation import OUTSIDE_TOLERANCE_MM, Mask
from rprloc.geometry import Points, assign_extreme_points, extreme_points_of_mask
from rprloc.localization.specks import without_specks
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.nodes import Node, Scene

EXAMPLE = "RPRLoc.Example"
"""The role in which a preview refers to its example."""

_SPECKS = "RPRLoc.Specks"
"""The attribute that tells of stray pieces of the segment."""

# In Slicer's default layout: seen from the feet and from the front, so the patient's left is on the picture's right.
_STEPS = (
    ("left", "Red (axial)", "farthest to the patient's left: on the right of the picture"),
    ("right", "Red (axial)", "farthest to the patient's right: on the left of the picture"),
    ("posterior", "Red (axial)", "farthest back: lowest in the picture"),
    ("anterior", "Red (axial)", "farthest to the front: highest in the picture"),
    ("inferior", "Green (coronal)", "closest to the feet: lowest in the picture"),
    ("superior", "Green (coronal)", "closest to the head: highest in the picture"),
)


@dataclass(frozen=True)
class Guidance:
    """What to do next: a sentence, the wall and the view it is about (None when all six points are placed)."""

    text: str
    wall: str | None
    view: str | None

    @property
    def complete(self) -> bool:
        return self.wall is None


class Examples:
    """The examples of a scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._checking = False

    def all(self) -> list[Node]:
        """All examples, complete or not, whose volume is there."""
        lists = nodes.of_class(self._scene, "vtkMRMLMarkupsFiducialNode")
        examples = [node for node in lists if node.GetAttribute(nodes.ROLE) == "example"]
        return [example for example in examples if nodes.find_volume(example) is not None]

    def find(self, volume: Node, organ: str) -> Node | None:
        """The example of an organ on a volume."""
        return next(
            (node for node in self.all() if nodes.volume_of(node) is volume and nodes.organ_of(node) == organ), None
        )

    def add(self, volume: Node | None, organ: str) -> Node:
        """The example of an organ on a volume, new and without points unless there is one.

        Raises InputError without a volume or a name, and for a volume that cannot be used.
        """
        organ = organ.strip()
        if volume is None:
            raise InputError("No support volume is chosen. Choose the CT scan on which you mark the organ.")
        if not organ:
            raise InputError("The organ has no name. Write it into the field Organ.")
        nodes.grid_of(volume)
        known = self.find(volume, organ)
        if known is not None:
            return known
        node = self._scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", f"{organ} (example)")
        node.SetAttribute(nodes.ROLE, "example")
        node.SetAttribute(nodes.ORGAN, organ)
        node.SetNodeReferenceID(nodes.VOLUME, volume.GetID())
        node.SetControlPointLabelFormat("%d")
        node.CreateDefaultDisplayNodes()
        nodes.paint(node, organ)
        nodes.put_beside(node, volume)
        return node

    def add_from_segment(self, volume: Node | None, segmentation: Node, segment_id: str) -> Node:
        """The example that a segment marks; it takes the segment's name. Its guidance tells of specks left out.

        Raises InputError if the segment is empty or lies outside of the volume.
        """
        mask = Mask(*nodes.mask_of_segment(segmentation, segment_id))
        segment = segmentation.GetSegmentation().GetSegment(segment_id)
        marked, notes, doubt = without_specks(mask, segment.GetName())
        points_ras = extreme_points_of_mask(marked.voxels, marked.grid)
        if volume is not None and not nodes.grid_of(volume).contains(points_ras, OUTSIDE_TOLERANCE_MM).all():
            raise InputError(
                f"The segment {segment.GetName()} reaches out of {volume.GetName()}. Choose the volume on which it was "
                "drawn."
            )
        node = self.add(volume, segment.GetName())
        self.set_points(node, points_ras)
        if notes or doubt:
            node.SetAttribute(_SPECKS, " ".join(filter(None, [*notes, doubt])))
        return node

    def set_points(self, example: Node, points_ras: ArrayLike) -> None:
        """Give an example points (N, 3) of the world, in any order."""
        points = np.asarray(points_ras, float)
        example.RemoveAttribute(_SPECKS)
        self._checking = True
        try:
            nodes.set_points(example, points, [str(number + 1) for number in range(len(points))])
        finally:
            self._checking = False
        self.points_changed(example)

    def points_changed(self, example: Node) -> str:
        """Look at an example's points after one was placed, moved or removed; returns what to tell the user.

        A point outside the volume, and a seventh one, is taken away again. Six points are labelled with their walls.
        """
        if self._checking:
            return ""
        self._checking = True
        try:
            refused = self._remove_unusable(example)
            self._label(example)
            self._preview(example)
        finally:
            self._checking = False
        return " ".join(filter(None, [refused, self.guidance(example).text]))

    def guidance(self, example: Node) -> Guidance:
        """What to do next for an example."""
        placed = len(nodes.defined_points(example))
        if placed < len(_STEPS):
            wall, view, where = _STEPS[placed]
            text = f"Point {placed + 1} of 6: in the {view} view, click the {nodes.organ_of(example)}'s point {where}."
            return Guidance(text if placed else f"{text} Any order will do.", wall, view)
        try:
            size_mm = Box.from_extreme_points(self.points(example)).size_mm
        except InputError as error:
            return Guidance(str(error), *_STEPS[-1][:2])
        size = " x ".join(f"{length:.0f}" for length in size_mm)
        specks = example.GetAttribute(_SPECKS)
        text = f"All six walls of the {nodes.organ_of(example)} are marked: {size} mm."
        return Guidance(f"{text} {specks}" if specks else text, None, None)

    def points(self, example: Node) -> Points:
        """The six points (6, 3) in the order of WALLS. Raises InputError for an example that cannot be used."""
        points_ras = nodes.defined_points(example)
        try:
            ordered = assign_extreme_points(points_ras)
        except InputError as error:
            raise InputError(f"{example.GetName()}: {error}") from error
        volume = nodes.volume_of(example)
        outside = ~nodes.grid_of(volume).contains(ordered, OUTSIDE_TOLERANCE_MM)
        if outside.any():
            walls = ", ".join(wall for wall, is_out in zip(WALLS, outside, strict=True) if is_out)
            raise InputError(
                f"{example.GetName()}: the point at the wall {walls} lies outside of {volume.GetName()}. Move it into "
                "the scan."
            )
        return ordered

    def remove(self, example: Node) -> None:
        preview = self._preview_of(example)
        if preview is not None:
            nodes.remove(preview)
        nodes.remove(example)

    def remove_orphans(self) -> None:
        """Remove previews whose example is gone."""
        for roi in nodes.of_class(self._scene, "vtkMRMLMarkupsROINode"):
            if roi.GetAttribute(nodes.ROLE) == "preview" and roi.GetNodeReference(EXAMPLE) is None:
                nodes.remove(roi)

    def _remove_unusable(self, example: Node) -> str:
        volume = nodes.find_volume(example)
        if volume is None:
            return ""
        grid, refused = nodes.grid_of(volume), ""
        for index in reversed(range(example.GetNumberOfControlPoints())):
            if not nodes.is_placed(example, index):
                continue
            point_ras = np.zeros(3)
            example.GetNthControlPointPositionWorld(index, point_ras)
            if not grid.contains(point_ras, OUTSIDE_TOLERANCE_MM):
                example.RemoveNthControlPoint(index)
                refused = f"That point lies outside of {volume.GetName()} and was not taken. Click inside the scan."
        while len(nodes.defined_points(example)) > len(_STEPS):
            example.RemoveNthControlPoint(example.GetNumberOfControlPoints() - 1)
            refused = "Six points are enough, so the last one was not taken. Drag a point to correct it."
        return refused

    def _label(self, example: Node) -> None:
        points_ras = nodes.defined_points(example)
        labels = [str(number + 1) for number in range(len(points_ras))]
        try:
            ordered = assign_extreme_points(points_ras)
        except InputError:
            pass  # not six yet, or flat: numbers stay
        else:
            for wall, point in zip(WALLS, ordered, strict=True):
                nearest = int(np.abs(points_ras - point).sum(1).argmin())
                labels[nearest] = wall
        placed = [n for n in range(example.GetNumberOfControlPoints()) if nodes.is_placed(example, n)]
        for index, label in zip(placed, labels, strict=True):
            if example.GetNthControlPointLabel(index) != label:
                example.SetNthControlPointLabel(index, label)

    def _preview(self, example: Node) -> None:
        """Show the box that the points span so far, as soon as they span one."""
        points_ras = nodes.defined_points(example)
        preview = self._preview_of(example)
        size_mm = np.ptp(points_ras, axis=0) if len(points_ras) else np.zeros(3)
        if not (size_mm > 0).all():
            if preview is not None:
                preview.SetDisplayVisibility(False)
            return
        if preview is None:
            organ = nodes.organ_of(example)
            preview = self._scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", f"{organ} (preview)")
            preview.SetAttribute(nodes.ROLE, "preview")
            preview.SetNodeReferenceID(EXAMPLE, example.GetID())
            preview.SetHideFromEditors(True)
            preview.SetSaveWithScene(False)
            preview.SetLocked(True)
            preview.SetSelectable(False)
            preview.CreateDefaultDisplayNodes()
            nodes.paint(preview, organ)
            preview.GetDisplayNode().SetFillOpacity(0.1)
            preview.GetDisplayNode().SetSaveWithScene(False)
        preview.SetDisplayVisibility(True)
        nodes.set_pose(preview, nodes.pose_of_box(Box(points_ras.min(0), points_ras.max(0))))

    def _preview_of(self, example: Node) -> Node | None:
        for roi in nodes.of_class(self._scene, "vtkMRMLMarkupsROINode"):
            if roi.GetAttribute(nodes.ROLE) == "preview" and roi.GetNodeReference(EXAMPLE) is example:
                return roi
        return None
