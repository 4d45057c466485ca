"""Conversions between MRML nodes and RPR-Loc: every kind of orientation and parent transform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.errors import InputError
from rprloc.geometry import Box, Grid, extreme_points_of_mask
from rprloc.volume import Volume, to_sitk
from tests.phantoms import AFFINES, Affine, phantom_hu
from tests.slicer_module.scenes import NO_SLICER, Scene, rigid, segmentation

pytest.importorskip("slicer", reason=NO_SLICER)
import slicer
import vtk

from SlicerRPRLocLib import nodes


def as_node(scene: Scene, ras_from_ijk: Affine, shape: tuple[int, int, int] = (12, 10, 8)) -> tuple[Any, Volume]:
    grid = Grid(shape, ras_from_ijk)
    volume = Volume(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), grid, "scan")
    return scene.add_volume(volume.hu, grid, "scan"), volume


def test_a_volume_keeps_its_voxels_and_its_place(scene: Scene, ras_from_ijk: Affine) -> None:
    node, volume = as_node(scene, ras_from_ijk)
    read = nodes.volume_from_node(node)
    np.testing.assert_array_equal(read.hu, volume.hu)
    assert read.grid.same_as(volume.grid, tolerance_mm=1e-9) and read.name == "scan"


def test_a_file_loaded_by_slicer_is_the_volume_that_rprloc_reads(
    scene: Scene, ras_from_ijk: Affine, tmp_path: Path
) -> None:
    from rprloc.io.reading import read_volume

    grid = Grid((30, 24, 20), ras_from_ijk @ np.diag([4.0, 4.0, 4.0, 1.0]))
    for name in ("scan.nii.gz", "scan.nrrd"):
        sitk.WriteImage(to_sitk(phantom_hu(grid), grid), tmp_path / name)
        ours, theirs = read_volume(tmp_path / name), nodes.volume_from_node(scene.load(tmp_path / name))
        # Slicer turns an axis of a left-handed image round, so voxels are compared by their place in the world.
        ijk = np.rint(theirs.grid.ijk(ours.grid.centres_ras())).astype(int)
        np.testing.assert_array_equal(ours.hu, theirs.hu[tuple(np.moveaxis(ijk, -1, 0))])
        np.testing.assert_allclose(theirs.grid.ras(ijk), ours.grid.centres_ras(), atol=1e-3)


def test_parent_transforms_move_a_volume_and_chains_of_them_too(scene: Scene, ras_from_ijk: Affine) -> None:
    node, volume = as_node(scene, ras_from_ijk)
    inner = scene.transform(rigid(), node)
    shift = np.eye(4)
    shift[:3, 3] = 5.0, 6.0, 7.0
    scene.transform(shift, inner)
    moved = Grid(volume.grid.shape, shift @ rigid() @ volume.grid.ras_from_ijk)
    assert nodes.grid_of(node).same_as(moved, tolerance_mm=1e-6)
    before = nodes.grid_of(node)
    node.HardenTransform()
    assert nodes.grid_of(node).same_as(before, tolerance_mm=1e-6)


def test_what_bends_or_shears_is_refused(scene: Scene) -> None:
    node, _ = as_node(scene, AFFINES["oblique"])
    shear = np.eye(4)
    shear[0, 1] = 0.1
    transform = scene.transform(shear, node)
    with pytest.raises(InputError, match="sheared"):
        nodes.grid_of(node)
    bent = scene.mrml.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "bent")
    spline = vtk.vtkThinPlateSplineTransform()
    points = vtk.vtkPoints()
    for point in np.random.default_rng(0).normal(size=(8, 3)):
        points.InsertNextPoint(point)
    spline.SetSourceLandmarks(points)
    spline.SetTargetLandmarks(points)
    bent = scene.mrml.AddNewNodeByClass("vtkMRMLTransformNode", "bent")
    bent.SetAndObserveTransformToParent(spline)
    transform.SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(InputError, match="bends space"):
        nodes.grid_of(node)


def test_empty_and_coloured_volumes_are_refused(scene: Scene) -> None:
    with pytest.raises(InputError, match="no image"):
        nodes.grid_of(scene.mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))
    coloured = scene.mrml.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "coloured")
    slicer.util.updateVolumeFromArray(coloured, np.zeros((4, 4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="3 values a voxel"):
        nodes.volume_from_node(coloured)


def test_points_go_to_the_world_and_back_under_a_transform(scene: Scene) -> None:
    markups = scene.mrml.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points")
    scene.transform(rigid(), markups)
    points = np.random.default_rng(1).normal(scale=100.0, size=(6, 3))
    nodes.set_points(markups, points, list("abcdef"), list("uvwxyz"))
    np.testing.assert_allclose(nodes.defined_points(markups), points, atol=1e-9)
    nodes.set_points(markups, points[:4] + 1.0, list("ghij"))
    np.testing.assert_allclose(nodes.defined_points(markups), points[:4] + 1.0, atol=1e-9)
    assert markups.GetNthControlPointLabel(3) == "j" and markups.GetNthControlPointDescription(3) == "x"
    markups.UnsetNthControlPointPosition(1)
    assert len(nodes.defined_points(markups)) == 3


def test_a_box_and_its_roi_are_the_same(scene: Scene) -> None:
    box = Box(np.array([-10.0, 20.0, -300.0]), np.array([15.5, 60.0, -220.25]))
    roi = scene.mrml.AddNewNodeByClass("vtkMRMLMarkupsROINode", "roi")
    nodes.set_pose(roi, nodes.pose_of_box(box))
    centre, bounds = np.zeros(3), np.zeros(6)
    roi.GetCenterWorld(centre)
    roi.GetRASBounds(bounds)
    np.testing.assert_allclose(centre, box.centre_ras, atol=1e-9)
    np.testing.assert_allclose(bounds, box.walls_mm, atol=1e-9)
    np.testing.assert_allclose(nodes.box_of_roi(roi).walls_mm, box.walls_mm, atol=1e-9)
    assert nodes.pose_of_roi(roi) == nodes.pose_of_box(box)


def test_a_turned_roi_is_given_the_box_around_it(scene: Scene) -> None:
    roi = scene.mrml.AddNewNodeByClass("vtkMRMLMarkupsROINode", "roi")
    nodes.set_pose(roi, nodes.pose_of_box(Box(np.array([-10.0, -20.0, -5.0]), np.array([10.0, 20.0, 5.0]))))
    quarter = np.array([[0.0, -1, 0, 3], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    scene.transform(quarter, roi)
    box = nodes.box_of_roi(roi)
    np.testing.assert_allclose([box.min_ras, box.max_ras], [[-17, -10, -5], [23, 10, 5]], atol=1e-9)


def test_the_extreme_points_of_a_segment_are_those_of_its_label_map(scene: Scene, ras_from_ijk: Affine) -> None:
    grid = Grid((12, 10, 8), ras_from_ijk)
    mask = np.zeros(grid.shape, bool)
    mask[3:7, 2:9, 5:6] = True
    mask[4, 1, 4] = True
    node = segmentation(scene, mask, grid)
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    found = extreme_points_of_mask(*nodes.mask_of_segment(node, segment_id))
    np.testing.assert_allclose(found, extreme_points_of_mask(mask, grid), atol=1e-6)
    scene.transform(rigid(), node)
    moved = extreme_points_of_mask(mask, Grid(grid.shape, rigid() @ ras_from_ijk))
    np.testing.assert_allclose(extreme_points_of_mask(*nodes.mask_of_segment(node, segment_id)), moved, atol=1e-6)


def test_a_missing_and_an_empty_segment_are_refused(scene: Scene) -> None:
    node = scene.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", "segmentation")
    with pytest.raises(InputError, match="no segment 'x'"):
        nodes.mask_of_segment(node, "x")
    node.GetSegmentation().AddEmptySegment("empty", "spleen")
    with pytest.raises(InputError, match="spleen is empty"):
        nodes.mask_of_segment(node, "empty")


def test_a_crop_holds_the_voxels_of_the_box_where_they_were(scene: Scene, ras_from_ijk: Affine) -> None:
    node, volume = as_node(scene, ras_from_ijk)
    scene.transform(rigid(), node)
    grid = nodes.grid_of(node)
    box = Grid(grid.shape, grid.ras_from_ijk).cropped((4, 3, 2), (3, 4, 2)).bounds
    cropped = nodes.crop(node, box, "part")
    part = nodes.volume_from_node(cropped)
    first = np.rint(grid.ijk(part.grid.ras([0, 0, 0]))).astype(int)
    np.testing.assert_allclose(grid.ras(first), part.grid.ras([0, 0, 0]), atol=1e-6)
    wanted = volume.hu[tuple(slice(a, a + n) for a, n in zip(first, part.grid.shape, strict=True))]
    np.testing.assert_array_equal(part.hu, wanted)
    assert part.grid.contains(np.clip(grid.bounds.centre_ras, box.min_ras, box.max_ras))
    inside = grid.contains(box.min_ras) and grid.contains(box.max_ras)
    assert not inside or (part.grid.contains(box.min_ras) and part.grid.contains(box.max_ras))
    with pytest.raises(InputError, match="outside"):
        nodes.crop(node, Box(box.min_ras + 1e4, box.max_ras + 1e4), "nothing")


def test_a_crop_along_the_axes_is_exact(scene: Scene) -> None:
    node, volume = as_node(scene, np.diag([2.0, 2.0, 2.0, 1.0]))
    box = volume.grid.cropped((4, 3, 2), (3, 4, 2)).bounds
    part = nodes.volume_from_node(nodes.crop(node, box, "part"))
    np.testing.assert_array_equal(part.hu, volume.hu[4:7, 3:7, 2:4])
    np.testing.assert_allclose(part.grid.bounds.walls_mm, box.walls_mm, atol=1e-9)
