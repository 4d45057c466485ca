"""The band in which the walls of a box lie if it is as far off as expected: an outer and an inner box in slice views.

Both are there for the eye alone. They are not saved, not listed, and the mouse passes through them.
"""

from __future__ import annotations

import numpy as np

from rprloc import Box
from SlicerRPRLocLib import nodes, views
from SlicerRPRLocLib.nodes import Node, Scene

_BAND = "RPRLoc.Band"
"""The attribute that tells the outer from the inner box."""

_PARTS = {"outer": 1.0, "inner": -1.0}


class Band:
    """The band of one box of a scene; it is made once and then goes from box to box."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def show(self, roi: Node, box: Box, error_mm: float) -> None:
        """Show how far the walls of a box may be off, in the views in which its ROI is drawn."""
        for part, sign in _PARTS.items():
            moved = _grown(box, sign * error_mm)
            if moved is None:
                self._hide(part)
                continue
            node = self._find(part) or self._new(part)
            nodes.set_pose(node, nodes.pose_of_box(moved))
            volume_id = roi.GetNodeReferenceID(nodes.VOLUME)
            if node.GetNodeReferenceID(nodes.VOLUME) != volume_id:
                node.SetNodeReferenceID(nodes.VOLUME, volume_id)
            nodes.paint(node, nodes.organ_of(roi))
            views.draw_like(node.GetDisplayNode(), roi.GetDisplayNode())

    def hide(self) -> None:
        for part in _PARTS:
            self._hide(part)

    def _hide(self, part: str) -> None:
        node = self._find(part)
        if node is not None:
            node.RemoveNodeReferenceIDs(nodes.VOLUME)  # so that nobody draws it over a scan again
            node.GetDisplayNode().SetVisibility(False)

    def _find(self, part: str) -> Node | None:
        rois = nodes.of_class(self._scene, "vtkMRMLMarkupsROINode")
        return next((roi for roi in rois if roi.GetAttribute(_BAND) == part), None)

    def _new(self, part: str) -> Node:
        node = views.add_hidden_roi(self._scene, f"RPR-Loc band ({part})", "band")
        node.SetAttribute(_BAND, part)
        display = node.GetDisplayNode()
        display.SetVisibility3D(False)
        display.SetFillVisibility(False)
        display.SetHandlesInteractive(False)
        display.SetPropertiesLabelVisibility(False)
        display.SetPointLabelsVisibility(False)
        display.SetOutlineOpacity(0.6)
        display.SetCurveLineSizeMode(display.UseLineDiameter)
        display.SetLineDiameter(0.5)
        return node


def _grown(box: Box, by_mm: float) -> Box | None:
    """A box with each wall moved outwards; None if nothing is left of it."""
    min_ras, max_ras = box.min_ras - by_mm, box.max_ras + by_mm
    return Box(min_ras, max_ras) if np.all(min_ras < max_ras) else None
