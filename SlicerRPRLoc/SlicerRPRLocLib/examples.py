"""Examples: six extreme points of an organ on a support volume, placed by hand or taken from a segment, or the one
point of a landmark."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from rprloc import WALLS, Box, InputError
from rprloc.annotation import OUTSIDE_TOLERANCE_MM, Mask
from rprloc.geometry import Points, assign_extreme_points, extreme_points_of_mask
from rprloc.localization.specks import without_specks
from SlicerRPRLocLib import nodes, views
from SlicerRPRLocLib.nodes import Node, Scene

EXAMPLE = "RPRLoc.Example"
"""The role in which a preview refers to its example."""

_SPECKS, _NAME = "RPRLoc.Specks", "RPRLoc.Name"
"""The attributes that tell of stray pieces of the segment, and how the node was called when its organ was named."""

_SEGMENTATION, _SEGMENT = "RPRLoc.Segmentation", "RPRLoc.Segment"
"""The role in which an example refers to the segmentation it is from, and the attribute with its segment's id."""

_ENDING = " (example)"

NOT_TAKEN = "was not taken"
"""What the sentence says of a point that was taken away again."""

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
    """What to do next: a sentence, whether all points are placed, and the wall and the view it is about, if any."""

    text: str
    complete: bool
    wall: str | None = None
    view: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where an example is from, None if placed by hand: ids of the segmentation and its segment, and what to doubt."""

    segmentation_id: str | None = field(compare=False)  # MRML forgets it with the segmentation, which is nobody's step
    segment_id: str | None
    specks: str | None


class Examples:
    """The examples of a scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._checking = False
        self._accepted: dict[str, dict[str, tuple[float, ...]]] = {}
        """By the ids of examples and of their points, where these lay when they were last looked at and kept."""

    def all(self) -> list[Node]:
        """All examples, complete or not, whose volume is there; the user's copies of examples are none."""
        lists = nodes.of_class(self._scene, "vtkMRMLMarkupsFiducialNode")
        examples = [node for node in lists if node.GetAttribute(nodes.ROLE) == "example" and not nodes.is_clone(node)]
        return [example for example in examples if nodes.find_volume(example) is not None]

    def find(self, volume: Node, organ: str) -> Node | None:
        """The example of an organ or a landmark on a volume."""
        return next(
            (node for node in self.all() if nodes.volume_of(node) is volume and nodes.organ_of(node) == organ), None
        )

    def add(self, volume: Node | None, organ: str, *, landmark: bool = False) -> Node:
        """The example of an organ, or of a landmark, on a volume, new and without points unless there is one.

        Raises InputError without a volume or a name, for a volume that cannot be used, and for a name that is marked
        as the other kind on it.
        """
        organ = organ.strip()
        if volume is None:
            raise InputError("No support volume is chosen. Choose the CT scan on which you mark the organ.")
        if not organ:
            raise InputError("The organ or landmark has no name. Write it into the field Name.")
        nodes.grid_of(volume)
        known = self.find(volume, organ)
        if known is not None:
            if nodes.is_landmark(known) != landmark:
                kind = "an organ" if landmark else "a landmark"
                raise InputError(
                    f"{organ} is marked as {kind} on {volume.GetName()}. Remove that example, or choose another name."
                )
            return known
        kind, name = "vtkMRMLMarkupsFiducialNode", f"{organ}{_ENDING}"
        node = nodes.new_markups(kind, name, "example", organ, volume, landmark=landmark)
        node.SetAttribute(_NAME, node.GetName())
        node.SetControlPointLabelFormat("%d")
        return node

    def add_from_segment(self, volume: Node | None, segmentation: Node, segment_id: str) -> Node:
        """The example that a segment marks; it takes the segment's name. Its guidance tells of specks left out.

        The volume is the one on which the segment was drawn, if the segmentation says so, else the one that is given.
        Raises InputError if the segment is empty or lies outside of the volume.
        """
        volume = nodes.drawn_on(segmentation) or volume
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
        specks = " ".join(filter(None, [*notes, doubt]))
        self.put_origin(node, Origin(segmentation.GetID(), segment_id, specks or None))
        return node

    def add_visible_segments(self, volume: Node | None, segmentation: Node) -> tuple[list[Node], list[str]]:
        """The examples that the visible segments of a segmentation mark, and sentences on those that cannot be used."""
        display, segments = segmentation.GetDisplayNode(), segmentation.GetSegmentation()
        made, told = [], []
        for segment_id in [segments.GetNthSegmentID(index) for index in range(segments.GetNumberOfSegments())]:
            if display is None or display.GetSegmentVisibility(segment_id):
                try:
                    made.append(self.add_from_segment(volume, segmentation, segment_id))
                except InputError as error:
                    told.append(str(error))
        if not made:
            raise InputError(
                " ".join(told) or f"{segmentation.GetName()} has no visible segment. Show one, or draw it."
            )
        return made, told

    def origin(self, example: Node) -> Origin:
        """Where an example is from."""
        return Origin(
            example.GetNodeReferenceID(_SEGMENTATION), example.GetAttribute(_SEGMENT), example.GetAttribute(_SPECKS)
        )

    def put_origin(self, example: Node, origin: Origin) -> None:
        """Keep where an example is from, after its points were set."""
        example.SetNodeReferenceID(_SEGMENTATION, origin.segmentation_id)
        example.SetAttribute(_SEGMENT, origin.segment_id)
        example.SetAttribute(_SPECKS, origin.specks)

    def segment_of(self, example: Node) -> tuple[Node | None, str] | None:
        """The segmentation, None if it is gone, and the segment's id of an example that was taken from one."""
        segment_id = example.GetAttribute(_SEGMENT)
        return None if segment_id is None else (example.GetNodeReference(_SEGMENTATION), segment_id)

    def set_points(self, example: Node, points_ras: ArrayLike) -> None:
        """Give an example points (N, 3) of the world, in any order."""
        points = np.asarray(points_ras, float)
        example.RemoveAttribute(_SPECKS)
        self._accepted.pop(example.GetID(), None)
        self._checking = True
        try:
            nodes.set_points(example, points, [str(number + 1) for number in range(len(points))])
        finally:
            self._checking = False
        self.points_changed(example)

    def points_changed(self, example: Node, *, dragging: bool = False) -> str:
        """Look at an example's points after one was placed, moved or removed; returns what to tell the user.

        A new point outside the volume, and a seventh one (of a landmark, a second one), is taken away again; a point
        that was moved out of it goes back to its last place. Six points are labelled with their walls, a landmark's
        with its name. While one is dragged, its list is left alone, because Slicer's mouse holds on to it; only the
        preview follows. "" if nothing has changed.
        """
        if self._checking:
            return ""
        places = _places(example)
        if places == self._accepted.get(example.GetID()):
            return ""
        self._checking = True
        try:
            refused = self._doubt_of(example) if dragging else self._refuse_unusable(example)
            if not dragging:
                self._label(example)
                self._accepted[example.GetID()] = _places(example)
            self._preview(example)
        finally:
            self._checking = False
        return " ".join(filter(None, [refused, "" if dragging and refused else self.guidance(example).text]))

    def forget(self) -> None:
        """Another scene: its points were never looked at."""
        self._accepted.clear()

    def show_previews(self) -> None:
        """Show the boxes of all examples, as after a scene was loaded, which does not hold them.

        Points that are there already were once accepted, wherever their volume is now.
        """
        for example in self.all():
            self._accepted.setdefault(example.GetID(), _places(example))
            self._preview(example)

    def follow_names(self) -> None:
        """Let an example whose node was renamed, as in the module Data, mark the organ of its new name.

        A name that another example on the same scan has already is taken back.
        """
        for example in self.all():
            name, known = example.GetName() or "", example.GetAttribute(_NAME)
            if known is None or name == known:  # a scene of version 0.2 does not say
                continue
            organ = name.removesuffix(_ENDING).strip()
            if not organ or self.find(nodes.volume_of(example), organ) not in (None, example):
                example.SetName(known)
                continue
            example.SetAttribute(nodes.ORGAN, organ)
            example.SetAttribute(_NAME, name)
            nodes.paint(example, organ)
            preview = self._preview_of(example)
            if preview is not None:
                nodes.remove(preview)
            self._preview(example)
            if nodes.is_landmark(example):
                self._label(example)

    def guidance(self, example: Node) -> Guidance:
        """What to do next for an example."""
        placed, name = len(nodes.defined_points(example)), nodes.organ_of(example)
        if nodes.is_landmark(example):
            return self._guidance_of_landmark(example)
        if placed < len(_STEPS):
            wall, view, where = _STEPS[placed]
            text = f"Point {placed + 1} of 6: in the {view} view, click the {name}'s point {where}."
            return Guidance(text if placed else f"{text} Any order will do.", False, wall, view)
        try:
            size_mm = Box.from_extreme_points(self.points(example)).size_mm
        except InputError as error:
            return Guidance(str(error), False, *_STEPS[-1][:2])
        size = " x ".join(f"{length:.0f}" for length in size_mm)
        specks = example.GetAttribute(_SPECKS)
        text = f"All six walls of the {name} are marked: {size} mm."
        return Guidance(f"{text} {specks}" if specks else text, True)

    def _guidance_of_landmark(self, example: Node) -> Guidance:
        name = nodes.organ_of(example)
        if not len(nodes.defined_points(example)):
            return Guidance(f"Click the {name} in any slice view: one point.", False)
        try:
            self.points(example)
        except InputError as error:
            return Guidance(str(error), False)
        return Guidance(f"The {name} is marked. Drag the point to correct it.", True)

    def points(self, example: Node) -> Points:
        """An organ's six points (6, 3) in the order of WALLS, a landmark's (1, 3).

        Raises InputError for an example that cannot be used.
        """
        ordered = nodes.defined_points(example)
        try:
            if not nodes.is_landmark(example):
                ordered = assign_extreme_points(ordered)
            elif len(ordered) != 1:
                raise InputError(f"A landmark is one point, and there are {len(ordered)}. Place the point.")
        except InputError as error:
            raise InputError(f"{example.GetName()}: {error}") from error
        volume = nodes.volume_of(example)
        outside = ~nodes.grid_of(volume).contains(ordered, OUTSIDE_TOLERANCE_MM)
        if outside.any():
            walls = ", ".join(wall for wall, is_out in zip(WALLS, outside, strict=False) if is_out)
            which = "point" if nodes.is_landmark(example) else f"point at the wall {walls}"
            raise InputError(
                f"{example.GetName()}: the {which} lies outside of {volume.GetName()}. Move it into the scan."
            )
        return ordered

    def remove(self, example: Node) -> None:
        preview = self._preview_of(example)
        if preview is not None:
            nodes.remove(preview)
        nodes.remove(example)

    def remove_orphans(self) -> None:
        """Remove previews whose example, or its volume, is gone. The points stay, because a person has placed them."""
        known = {example.GetID() for example in self.all()}
        for roi in nodes.of_class(self._scene, "vtkMRMLMarkupsROINode"):
            if roi.GetAttribute(nodes.ROLE) == "preview" and roi.GetNodeReferenceID(EXAMPLE) not in known:
                nodes.remove(roi)
        self._accepted = {node_id: places for node_id, places in self._accepted.items() if node_id in known}

    def _doubt_of(self, example: Node) -> str:
        """What to say of a point that is dragged out of the volume."""
        volume = nodes.volume_of(example)
        if nodes.grid_of(volume).contains(nodes.defined_points(example), OUTSIDE_TOLERANCE_MM).all():
            return ""
        return f"That point lies outside of {volume.GetName()}. If you let it go there, it goes back."

    def _refuse_unusable(self, example: Node) -> str:
        """Put points outside of the volume back, or take them away if they are new, and so those that are too many."""
        volume = nodes.find_volume(example)
        if volume is None:
            return ""
        grid, refused = nodes.grid_of(volume), ""
        accepted = self._accepted.get(example.GetID(), {})
        for point_id, place_ras in _places(example).items():
            if grid.contains(np.array(place_ras), OUTSIDE_TOLERANCE_MM):
                continue
            index = example.GetNthControlPointIndexByID(point_id)
            if point_id not in accepted:
                example.RemoveNthControlPoint(index)
                refused = f"That point lies outside of {volume.GetName()} and {NOT_TAKEN}. Click inside the scan."
            elif accepted[point_id] != place_ras:
                example.SetNthControlPointPositionWorld(index, *accepted[point_id])
                refused = f"That point was put back, because it lay outside of {volume.GetName()}."
        while len(nodes.defined_points(example)) > nodes.points_wanted(example):
            example.RemoveNthControlPoint(example.GetNumberOfControlPoints() - 1)
            enough = "One point is" if nodes.is_landmark(example) else "Six points are"
            refused = f"{enough} enough, so the last one {NOT_TAKEN}. Drag a point to correct it."
        return refused

    def _label(self, example: Node) -> None:
        points_ras = nodes.defined_points(example)
        labels = [str(number + 1) for number in range(len(points_ras))]
        if nodes.is_landmark(example):
            labels = [nodes.organ_of(example)] * len(points_ras)
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
        """Show the box that the points span, as long as they span one."""
        points_ras = nodes.defined_points(example)
        preview = self._preview_of(example)
        size_mm = np.ptp(points_ras, axis=0) if len(points_ras) else np.zeros(3)
        if nodes.is_landmark(example) or not (size_mm > 0).all():
            if preview is not None:
                nodes.remove(preview)
            return
        if preview is None:
            preview = self._new_preview(example)
        nodes.set_pose(preview, nodes.pose_of_box(Box(points_ras.min(0), points_ras.max(0))))

    def _new_preview(self, example: Node) -> Node:
        organ = nodes.organ_of(example)
        preview = views.add_hidden_roi(self._scene, f"{organ} (preview)", "preview")
        preview.SetNodeReferenceID(EXAMPLE, example.GetID())
        preview.SetNodeReferenceID(nodes.VOLUME, nodes.volume_of(example).GetID())
        nodes.paint(preview, organ)
        display = preview.GetDisplayNode()
        display.SetFillOpacity(0.1)
        views.draw_like(display, example.GetDisplayNode())
        return preview

    def _preview_of(self, example: Node) -> Node | None:
        for roi in nodes.of_class(self._scene, "vtkMRMLMarkupsROINode"):
            if roi.GetAttribute(nodes.ROLE) == "preview" and roi.GetNodeReference(EXAMPLE) is example:
                return roi
        return None


def _places(example: Node) -> dict[str, tuple[float, ...]]:
    """Where the points that are placed lie in the world, by their ids."""
    indices = [index for index in range(example.GetNumberOfControlPoints()) if nodes.is_placed(example, index)]
    points = map(tuple, nodes.defined_points(example).tolist())
    return dict(zip(map(example.GetNthControlPointID, indices), points, strict=True))
