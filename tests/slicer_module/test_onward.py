"""Where boxes go on: segments on the scan's voxels, Crop Volume, prompts for modules that segment from a box."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprloc.detection import AbsentOrgan, Detections, Presence
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid
from tests.boxes import points_of
from tests.phantoms import Affine
from tests.slicer_module.findings import detection
from tests.slicer_module.scenes import NO_SLICER, Nobody, Scene, rigid

pytest.importorskip("slicer", reason=NO_SLICER)
import slicer
import vtk

from SlicerRPRLocLib import nodes, terminology, views
from SlicerRPRLocLib.export import export_results
from SlicerRPRLocLib.logic import RPRLocLogic

SHAPE = (30, 24, 20)


@dataclass
class Found:
    """A scan with two organs that overlap and one that is absent, and another scan with one."""

    logic: RPRLocLogic
    volume: Any
    other: Any

    def roi(self, organ: str) -> Any:
        return self.logic.results.roi(self.volume, organ)


def found_in(scene: Scene, affine: Affine, transform: Affine | None = None) -> Found:
    logic = RPRLocLogic(scene.mrml, Nobody())
    grid = Grid(SHAPE, affine)
    volume, other = (scene.add_volume(np.zeros(SHAPE, np.int16), grid, name) for name in ("anna", "bert"))
    if transform is not None:
        scene.transform(transform, volume)
    middle_ras, size_mm = nodes.grid_of(volume).bounds.centre_ras, nodes.grid_of(volume).bounds.size_mm
    liver = Box(middle_ras - 0.25 * size_mm, middle_ras + 0.12 * size_mm)
    kidney = Box(middle_ras - 0.1 * size_mm, middle_ras + 0.2 * size_mm)
    absent = AbsentOrgan("brain", Presence(0.0, 0.02, 0.98), ("anna",))
    organs = (detection("liver", points_of(liver)), detection("left kidney", points_of(kidney)), absent)
    logic.results.apply([(volume, Detections("anna", organs, "m", "s"))])
    logic.results.apply([(other, Detections("bert", (detection("heart", points_of(liver)),), "m", "s"))])
    return Found(logic, volume, other)


@pytest.fixture
def found(scene: Scene) -> Found:
    return found_in(scene, np.diag([2.0, 2.5, 3.0, 1.0]))


def voxels_of(segmentation: Any, organ: str, volume: Any) -> Any:
    """A segment as Slicer's own logic writes it on the voxels of a volume, (I, J, K)."""
    scene = segmentation.GetScene()
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    segment_id = segmentation.GetSegmentation().GetSegmentIdBySegmentName(organ)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.ExportSegmentsToLabelmapNode(segmentation, [segment_id], labels, volume)
    return slicer.util.arrayFromVolume(labels).transpose(2, 1, 0) > 0


@pytest.mark.parametrize("moved", [False, True])
def test_segments_are_the_voxels_in_the_boxes_as_they_are_now(scene: Scene, ras_from_ijk: Affine, moved: bool) -> None:
    found = found_in(scene, ras_from_ijk, rigid() if moved else None)
    found.roi("liver").SetSize(*(0.8 * np.array(found.roi("liver").GetSize())))  # corrected by a person
    copy = scene.mrml.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    copy.CopyContent(found.roi("liver"))  # what the module Data calls a clone
    segmentation, told = found.logic.onward.to_segmentation(found.volume)
    segments = segmentation.GetSegmentation()
    names = {segments.GetNthSegment(n).GetName() for n in range(segments.GetNumberOfSegments())}
    assert told == [] and names == {"liver", "left kidney"}
    centres_ras = nodes.grid_of(found.volume).centres_ras()
    for organ in names:
        box = nodes.box_of_roi(found.roi(organ))
        wanted = ((centres_ras > box.min_ras) & (centres_ras < box.max_ras)).all(-1)
        assert wanted.any()
        np.testing.assert_array_equal(voxels_of(segmentation, organ, found.volume), wanted)


def test_segments_are_named_coloured_and_known_and_the_editor_opens_on_them(scene: Scene, found: Found) -> None:
    segmentation, _ = found.logic.onward.to_segmentation(found.volume)
    segment = segmentation.GetSegmentation().GetSegment("left kidney")
    np.testing.assert_allclose(segment.GetColor(), terminology.colour("left kidney"))
    entry = found.roi("left kidney").GetAttribute(terminology.ATTRIBUTE)
    said = vtk.reference("")
    assert segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), said)
    assert said.get() == entry and "Kidney" in entry and "Left" in entry
    assert nodes.drawn_on(segmentation) is found.volume
    editor = scene.mrml.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert editor.GetSegmentationNode() is segmentation and editor.GetSourceVolumeNode() is found.volume
    assert editor.GetSelectedSegmentID() in ("liver", "left kidney")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.mrml)
    assert hierarchy.GetItemByDataNode(segmentation)
    # Again, for another scan: what was drawn meanwhile stays, and the editor goes to the new one.
    second, _ = found.logic.onward.to_segmentation(found.other)
    assert second is not segmentation and segmentation.GetSegmentation().GetNumberOfSegments() == 2
    assert editor.GetSegmentationNode() is second and editor.GetSourceVolumeNode() is found.other


def test_a_box_without_a_voxel_is_told_and_a_scan_without_boxes_refused(scene: Scene, found: Found) -> None:
    found.roi("liver").SetSize(0.1, 0.1, 0.1)
    found.roi("liver").SetCenter(21.0, 26.0, 31.0)
    segmentation, told = found.logic.onward.to_segmentation(found.volume)
    assert len(told) == 1 and "liver is empty" in told[0]
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 2
    empty = scene.add_volume(np.zeros(SHAPE, np.int16), Grid(SHAPE, np.eye(4)), "carla")
    before = scene.content()
    with pytest.raises(InputError, match="carla has no box"):
        found.logic.onward.to_segmentation(empty)
    assert scene.content() == before


# Crop Volume


@pytest.fixture
def crop_volume(scene: Scene) -> Any:
    """Slicer's own logic of the module Crop Volume."""
    logic = slicer.vtkSlicerCropVolumeLogic()
    scene.logics[0].SetModuleLogic("Volumes", scene.volumes)
    logic.SetMRMLApplicationLogic(scene.logics[0])
    logic.SetMRMLScene(scene.mrml)
    return logic


def test_crop_volume_gets_the_scan_and_the_box_with_its_margin(scene: Scene, found: Found, crop_volume: Any) -> None:
    parameters = found.logic.onward.to_crop_volume(found.roi("liver"), 3.0)
    region, box = parameters.GetROINode(), nodes.box_of_roi(found.roi("liver"))
    assert parameters.GetInputVolumeNode() is found.volume and region.GetName() == "liver crop"
    assert nodes.box_of_roi(region).same_as(Box(box.min_ras - 3.0, box.max_ras + 3.0), 1e-6)
    parameters.SetVoxelBased(True)
    assert crop_volume.Apply(parameters) == 0
    cropped = nodes.grid_of(parameters.GetOutputVolumeNode()).bounds
    assert (cropped.min_ras <= box.min_ras).all() and (cropped.max_ras >= box.max_ras).all()
    assert (cropped.size_mm < nodes.grid_of(found.volume).bounds.size_mm).all()
    region.SetSize(5.0, 5.0, 5.0)
    assert not found.logic.results.is_corrected(found.roi("liver"))


def test_a_crop_keeps_to_the_scan_and_never_goes_over_an_earlier_one(
    scene: Scene, found: Found, crop_volume: Any
) -> None:
    parameters = found.logic.onward.to_crop_volume(found.roi("liver"), 200.0)
    whole = nodes.grid_of(found.volume).bounds
    np.testing.assert_allclose(nodes.box_of_roi(parameters.GetROINode()).walls_mm, whole.walls_mm, atol=1e-6)
    parameters.SetOutputVolumeNodeID(found.other.GetID())
    again = found.logic.onward.to_crop_volume(found.logic.results.roi(found.other, "heart"), 0.0)
    assert again is parameters and again.GetOutputVolumeNode() is None and again.GetInputVolumeNode() is found.other
    found.roi("liver").SetCenter(5000.0, 0.0, 0.0)
    with pytest.raises(InputError, match="liver lies outside of anna"):
        found.logic.onward.to_crop_volume(found.roi("liver"), 10.0)


# Prompts


def test_a_prompt_is_a_free_copy_that_is_no_result(scene: Scene, found: Found) -> None:
    scene.add_views()
    rows = found.logic.results.rows()
    prompt = found.logic.onward.to_prompt(found.roi("liver"))
    assert prompt.GetName() == "liver prompt" and not prompt.GetLocked()
    assert prompt.GetDisplayNode().GetHandlesInteractive() and not prompt.GetDisplayNode().GetFillVisibility()
    assert nodes.box_of_roi(prompt) == nodes.box_of_roi(found.roi("liver"))
    prompt.SetSize(5.0, 5.0, 5.0)
    assert found.logic.results.rows() == rows and found.logic.examples.all() == []
    assert scene.background("Red").GetBackgroundVolumeID() == found.volume.GetID()
    centre_ras = nodes.matrix_array(scene.mrml.GetNodeByID("vtkMRMLSliceNodeRed").GetSliceToRAS())[:3, 3]
    np.testing.assert_allclose(centre_ras, nodes.box_of_roi(found.roi("liver")).centre_ras, atol=1e-6)


def test_what_is_handed_over_keeps_to_its_scan_and_goes_with_it(scene: Scene, found: Found) -> None:
    scene.add_views()
    prompt = found.logic.onward.to_prompt(found.roi("liver"))
    kept = found.logic.onward.to_prompt(found.logic.results.roi(found.other, "heart"))
    assert not prompt.GetDisplayNode().GetVisibility() and kept.GetDisplayNode().GetVisibility()
    views.show_scan(scene.mrml, found.volume)
    assert prompt.GetDisplayNode().GetVisibility() and not kept.GetDisplayNode().GetVisibility()
    scene.mrml.RemoveNode(found.volume)
    found.logic.tidy()
    assert prompt.GetScene() is None and kept.GetScene() is not None


def test_a_prompt_does_not_take_the_clicks_of_an_example_that_is_being_placed(scene: Scene, found: Found) -> None:
    scene.add_views()
    example = found.logic.examples.add(found.volume, "spleen")
    views.start_placing(example)
    found.logic.onward.to_prompt(found.roi("liver"))
    assert views.is_placing(example)


def test_boxes_that_stayed_behind_when_their_scan_was_moved_go_nowhere(
    scene: Scene, found: Found, tmp_path: Path
) -> None:
    logic, volume = found.logic, found.volume
    searched = replace(logic.results.as_they_are(volume), grid=nodes.grid_of(volume))
    logic.results.apply([(volume, searched)])
    roi = found.roi("liver")
    transform = scene.transform(np.eye(4) + 4.0 * np.eye(4, k=3), volume)
    before = scene.mrml.GetNumberOfNodes()

    for go_on in (
        lambda: logic.onward.to_segmentation(volume),
        lambda: logic.onward.to_crop_volume(roi, 5.0),
        lambda: logic.onward.to_prompt(roi),
        lambda: logic.results.crop(roi, 5.0),
        lambda: export_results(logic.results, tmp_path, markups=True, label_map=True, table=True),
    ):
        with pytest.raises(InputError, match=r"anna was moved since .* was located in it"):
            go_on()

    assert scene.mrml.GetNumberOfNodes() == before
    assert not list(tmp_path.iterdir())
    transform.SetMatrixTransformToParent(nodes.vtk_matrix(np.eye(4)))  # it is put back
    assert len(export_results(logic.results, tmp_path, markups=True, label_map=False, table=True)) == 3
