"""Where boxes go on in Slicer: to segments, to the module Crop Volume, and to modules that segment from a box.

Whatever is handed over is a node of its own, so that what is done to it there leaves the result as it is.
"""

from __future__ import annotations

import numpy as np

from rprloc import Box, InputError
from SlicerRPRLocLib import nodes, views
from SlicerRPRLocLib.nodes import Node
from SlicerRPRLocLib.results import Results

_ROLE = "handed over"
_SEGMENT_EDITOR = "SegmentEditor"  # the tag of the one node that keeps what the module Segment Editor is at


class Onward:
    """Hands the results of a scene over."""

    def __init__(self, results: Results) -> None:
        self._results, self._scene = results, results.scene

    def to_segmentation(self, volume: Node) -> tuple[Node, list[str]]:
        """The boxes of a volume as segments of a new segmentation on its voxels, and sentences on empty segments.

        The Segment Editor will open on it. Raises InputError if the volume has no box, or was moved away from one.
        """
        rois = [roi for roi in self._results.rois() if nodes.volume_of(roi) is volume]
        if not rois:
            raise InputError(f"{volume.GetName()} has no box that could become a segment. Press Locate first.")
        for roi in rois:
            self._results.require_unmoved(roi)
        name = self._scene.GenerateUniqueName(f"{volume.GetName()} boxes")
        segmentation = self._scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        segmentation.CreateDefaultDisplayNodes()
        segmentation.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        told = [
            f"The segment {nodes.organ_of(roi)} is empty: no voxel of {volume.GetName()} has its centre in the box."
            for roi in rois
            if not nodes.add_segment(segmentation, volume, nodes.box_of_roi(roi), nodes.organ_of(roi))
        ]
        nodes.put_beside(segmentation, volume)
        self._show_in_segment_editor(segmentation, volume)
        return segmentation, told

    def to_crop_volume(self, roi: Node, margin_mm: float) -> Node:
        """The parameters of Crop Volume, set to a result's volume and to a new ROI: the box and a margin in the scan.

        Raises InputError if the box lies outside of the volume, or if that was moved.
        """
        self._results.require_unmoved(roi)
        volume, box = nodes.volume_of(roi), nodes.box_of_roi(roi)
        bounds = nodes.grid_of(volume).bounds
        first_ras = np.maximum(box.min_ras - margin_mm, bounds.min_ras)
        last_ras = np.minimum(box.max_ras + margin_mm, bounds.max_ras)
        if (first_ras >= last_ras).any():
            raise InputError(f"The box of {nodes.organ_of(roi)} lies outside of {volume.GetName()}. Correct it first.")
        kind = "vtkMRMLCropVolumeParametersNode"
        known = nodes.of_class(self._scene, kind)
        parameters = known[0] if known else self._scene.AddNewNodeByClass(kind)
        region = self._copy(roi, "crop", Box(first_ras, last_ras))
        parameters.SetInputVolumeNodeID(volume.GetID())
        parameters.SetOutputVolumeNodeID(None)  # else the volume of an earlier crop would be overwritten
        parameters.SetROINodeID(region.GetID())
        return parameters

    def to_prompt(self, roi: Node) -> Node:
        """A free copy of a result's ROI, for modules that segment from a box; the views go to its middle."""
        self._results.require_unmoved(roi)
        box = nodes.box_of_roi(roi)
        prompt = self._copy(roi, "prompt", box)
        views.show_scan(self._scene, nodes.volume_of(roi), box.centre_ras)
        return prompt

    def remove_orphans(self) -> None:
        """Remove the ROIs that were handed over of volumes that are gone: over another scan they would mean nothing."""
        for roi in nodes.of_class(self._scene, "vtkMRMLMarkupsROINode"):
            if roi.GetAttribute(nodes.ROLE) == _ROLE and nodes.find_volume(roi) is None:
                nodes.remove(roi)

    def _copy(self, roi: Node, purpose: str, box: Box) -> Node:
        volume, organ = nodes.volume_of(roi), nodes.organ_of(roi)
        with nodes.keeping_place_node(self._scene):
            name = self._scene.GenerateUniqueName(f"{organ} {purpose}")
            copy = self._scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
        copy.SetAttribute(nodes.ROLE, _ROLE)
        copy.SetAttribute(nodes.ORGAN, organ)
        copy.SetNodeReferenceID(nodes.VOLUME, volume.GetID())
        nodes.set_pose(copy, nodes.pose_of_box(box))
        copy.CreateDefaultDisplayNodes()
        nodes.paint(copy, organ)
        display = copy.GetDisplayNode()
        display.SetFillVisibility(False)
        display.SetHandlesInteractive(True)
        display.SetRotationHandleVisibility(False)
        nodes.put_beside(copy, volume)
        views.draw_over_own_scans(self._scene)
        return copy

    def _show_in_segment_editor(self, segmentation: Node, volume: Node) -> None:
        kind = "vtkMRMLSegmentEditorNode"
        editor = self._scene.GetSingletonNode(_SEGMENT_EDITOR, kind)
        if editor is None:
            editor = self._scene.CreateNodeByClass(kind)
            editor.SetSingletonTag(_SEGMENT_EDITOR)
            self._scene.AddNode(editor)
            editor.UnRegister(None)  # the scene holds it from here on
        editor.SetAndObserveSegmentationNode(segmentation)
        editor.SetAndObserveSourceVolumeNode(volume)
        editor.SetSelectedSegmentID(segmentation.GetSegmentation().GetNthSegmentID(0))
