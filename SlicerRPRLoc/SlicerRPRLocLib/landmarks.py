"""Results of landmarks: for each that was found in a query volume a list of one point, which may be corrected.

That a landmark is not in the scan is kept with the volume, as for organs: :mod:`SlicerRPRLocLib.results` does both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from rprloc import AbsentOrgan, Detections, OrganDetection
from rprloc.detection import AbsentLandmark, LandmarkDetection
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.nodes import Node, Scene

FOUND, CHECKED = "RPRLoc.Detections", "RPRLoc.Checked"
"""The attributes of a result: the JSON of its detections, and whether a person has looked at it."""

MOVED_MM = 0.01
"""What is further off than this was moved by a person."""

DOUBTFUL_MM = 10.0  # more than a centimetre, of a box at each wall: worth a look before the others

_ROLE = "result landmark"
_KIND = "vtkMRMLMarkupsFiducialNode"

parsed = lru_cache(maxsize=4096)(Detections.from_json)
"""The detections of a JSON text."""


@dataclass(frozen=True)
class FoundLandmark:
    """One landmark in one volume: as it was found (the JSON of its detections), and its point (3,) as it is now."""

    volume_id: str
    found_json: str
    point_ras: tuple[float, ...]
    checked: bool

    @property
    def detections(self) -> Detections:
        """The detections, of this one landmark."""
        return parsed(self.found_json)

    @property
    def found(self) -> LandmarkDetection:
        return self.detections.located_landmarks[0]


def with_targets(
    found: Detections, targets: Iterable[OrganDetection | AbsentOrgan | LandmarkDetection | AbsentLandmark]
) -> Detections:
    """The detections of these organs and landmarks alone."""
    given = list(targets)
    organs = tuple(one for one in given if isinstance(one, (OrganDetection, AbsentOrgan)))
    landmarks = tuple(one for one in given if isinstance(one, (LandmarkDetection, AbsentLandmark)))
    return replace(found, organs=organs, landmarks=landmarks)


class Landmarks:
    """The landmarks that were found, in a scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def all(self) -> list[Node]:
        """The points of all results whose volume is there; the user's copies of them are none, nor one he has unset."""
        return [node for node in self._lists() if self._is_result(node)]

    def find(self, volume: Node, name: str) -> Node | None:
        """The point of a landmark in a volume."""
        return next(
            (node for node in self.all() if nodes.volume_of(node) is volume and nodes.organ_of(node) == name), None
        )

    def record(self, node: Node) -> FoundLandmark:
        """What a result's node holds."""
        return FoundLandmark(
            nodes.volume_of(node).GetID(),
            node.GetAttribute(FOUND),
            tuple(nodes.defined_points(node)[0].tolist()),
            node.GetAttribute(CHECKED) == "1",
        )

    def is_corrected(self, node: Node) -> bool:
        """Whether the user has moved the point since it was found."""
        record = self.record(node)
        return bool(np.abs(np.subtract(record.point_ras, record.found.point_ras)).max() > MOVED_MM)

    def as_it_is(self, node: Node) -> LandmarkDetection:
        """The landmark with its point as the user has left it."""
        record = self.record(node)
        return replace(record.found, point_ras=np.array(record.point_ras))

    def put(self, result: FoundLandmark, folder: str) -> None:
        """Make the node of a result hold it; it is made, in this folder beside the volume, if it is missing."""
        volume, found = self._scene.GetNodeByID(result.volume_id), result.found
        node = self.find(volume, found.landmark)
        if node is None:
            name = found.landmark
            node = nodes.new_markups(_KIND, name, _ROLE, name, volume, folder=folder, landmark=True)
        locked = node.GetNumberOfControlPoints() == 0 or node.GetLocked()  # a new one, until its row is chosen
        node.SetAttribute(FOUND, result.found_json)
        node.SetAttribute(CHECKED, "1" if result.checked else "0")
        node.SetAndObserveTransformNodeID(None)
        told = f"{found.remark}; the votes spread {found.spread_mm:.1f} mm"
        node.SetLocked(False)
        node.SetFixedNumberOfControlPoints(False)
        nodes.set_points(node, [result.point_ras], [found.landmark], [told])
        node.SetFixedNumberOfControlPoints(True)  # it is one point, however the mouse is used
        node.SetLocked(locked)
        node.SetDescription(f"RPR-Loc: {told}")

    def let_move(self, chosen: Node | None) -> None:
        """Let the mouse move this point alone, so that no other is moved by mistake."""
        for node in self.all():
            node.SetLocked(node is not chosen)

    def remove_orphans(self) -> None:
        """Remove the points whose volume is gone, and lists whose point is."""
        for node in self._lists():
            if not self._is_result(node):
                nodes.remove(node)

    def _lists(self) -> list[Node]:
        lists = nodes.of_class(self._scene, _KIND)
        return [node for node in lists if node.GetAttribute(nodes.ROLE) == _ROLE and not nodes.is_clone(node)]

    def _is_result(self, node: Node) -> bool:
        return nodes.find_volume(node) is not None and len(nodes.defined_points(node)) == 1
