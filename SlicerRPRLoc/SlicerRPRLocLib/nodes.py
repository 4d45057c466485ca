"""Every conversion between MRML nodes and RPR-Loc: volumes, points, boxes, segments, subject hierarchy.

MRML's world is RAS millimetres, as RPR-Loc's. A node's own coordinates become world coordinates through its parent
transform; whatever leaves this file is in the world.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import ArrayLike, NDArray
from vtk.util.numpy_support import vtk_to_numpy

from rprloc import WALLS, Box, Grid, InputError, Volume
from rprloc.geometry import Points, apply_affine
from rprloc.io.plausibility import MAX_SHEAR_COSINE
from SlicerRPRLocLib import terminology

Scene = Any
Node = Any
"""MRML's scene and its nodes; Slicer's classes carry no types."""

ROLE, ORGAN = "RPRLoc.Role", "RPRLoc.Organ"
"""The attributes that say what a node is for, and of which organ or landmark."""

_LANDMARK = "RPRLoc.Landmark"
"""The attribute of nodes that are about a landmark, not an organ."""

VOLUME, _SELF = "RPRLoc.Volume", "RPRLoc.Self"
"""The roles in which a node refers to the volume it belongs to, and to itself."""

_CORNERS = np.stack(np.meshgrid(*[(-1.0, 1.0)] * 3, indexing="ij"), -1).reshape(-1, 3)


def matrix_array(matrix: vtk.vtkMatrix4x4) -> NDArray[np.float64]:
    """A vtkMatrix4x4 as an array (4, 4)."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def vtk_matrix(array: ArrayLike) -> vtk.vtkMatrix4x4:
    """An array (4, 4) as a vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    for (row, column), value in np.ndenumerate(np.asarray(array, float)):
        matrix.SetElement(row, column, value)
    return matrix


def world_from_node(node: Node) -> NDArray[np.float64]:
    """The matrix (4, 4) from a node's coordinates to the world. Raises InputError if its transform is not linear."""
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise InputError(
            f"{node.GetName()} lies under {parent.GetName()}, which bends space. Harden the transform on it in the "
            "Transforms module."
        )
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return matrix_array(matrix)


# What belongs together


def of_class(scene: Scene, name: str) -> list[Node]:
    """The nodes of a class, and of those derived from it, in a scene."""
    found = scene.GetNodesByClass(name)
    found.UnRegister(None)  # it comes with a reference that nobody holds
    return list(found)


@contextmanager
def keeping_place_node(scene: Scene) -> Iterator[None]:
    """While markups are added: Slicer makes each new one that to which clicks add points, also in mid-placing."""
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    if selection is None:
        yield
        return
    kind, node_id = selection.GetActivePlaceNodeClassName(), selection.GetActivePlaceNodeID()
    try:
        yield
    finally:
        selection.SetReferenceActivePlaceNodeClassName(kind)
        selection.SetReferenceActivePlaceNodeID(node_id)


def is_clone(node: Node) -> bool:
    """Whether a node is the user's copy of another one of this module, which is still there; :func:`sign` tells."""
    original = node.GetNodeReference(_SELF)
    return original is not None and original is not node


def sign(node: Node) -> None:
    """Let a node refer to itself, because a copy of it will then refer to this one."""
    node.SetNodeReferenceID(_SELF, node.GetID())


def scans(scene: Scene) -> list[Node]:
    """The volumes that may be scans: no label maps, colours, diffusion or other kinds derived from a scan."""
    volumes = of_class(scene, "vtkMRMLScalarVolumeNode")
    return [node for node in volumes if node.GetClassName() == "vtkMRMLScalarVolumeNode"]


def organ_of(node: Node) -> str:
    return str(node.GetAttribute(ORGAN))


def is_landmark(node: Node) -> bool:
    """Whether a node is about a landmark, which is one point; else it is about an organ."""
    return node.GetAttribute(_LANDMARK) is not None


def points_wanted(node: Node) -> int:
    """How many points mark what an example is about."""
    return 1 if is_landmark(node) else len(WALLS)


def find_volume(node: Node) -> Node | None:
    """The volume to which an example or a result belongs; None if it is gone."""
    return node.GetNodeReference(VOLUME)


def volume_of(node: Node) -> Node:
    """:func:`find_volume` where it is known to be there."""
    volume = find_volume(node)
    assert volume is not None, f"the volume of {node.GetName()} is gone"
    return volume


def new_markups(
    kind: str, name: str, role: str, organ: str, volume: Node, *, folder: str = "", landmark: bool = False
) -> Node:
    """A node of this class in a volume's scene: what it is for, its colour and term, and its place beside the volume.

    ``landmark``: it is about a landmark, not an organ.
    """
    scene = volume.GetScene()
    with keeping_place_node(scene):
        node = scene.AddNewNodeByClass(kind, name)
    node.SetAttribute(ROLE, role)
    node.SetAttribute(ORGAN, organ)
    if landmark:
        node.SetAttribute(_LANDMARK, "1")
    node.SetNodeReferenceID(VOLUME, volume.GetID())
    sign(node)
    node.CreateDefaultDisplayNodes()
    paint(node, organ)
    put_beside(node, volume, folder)
    return node


def paint(node: Node, organ: str) -> None:
    """Give a node the colour and, where it is known, the term of its organ or landmark."""
    display, colour = node.GetDisplayNode(), terminology.colour(organ)
    display.SetColor(*colour)
    display.SetSelectedColor(*colour)
    term = terminology.find(organ)
    if term is not None:
        node.SetAttribute(terminology.ATTRIBUTE, term.entry)


# Volumes


def grid_of(volume: Node) -> Grid:
    """Where a volume's voxels lie in the world. Raises InputError if it has none, or is sheared or bent."""
    image = volume.GetImageData()
    if image is None or 0 in image.GetDimensions():
        raise InputError(f"The volume {volume.GetName()} holds no image. Load it again.")
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    grid = Grid(image.GetDimensions(), world_from_node(volume) @ matrix_array(matrix))
    axes = grid.ras_from_ijk[:3, :3] / grid.spacing_mm
    if np.abs(axes.T @ axes - np.eye(3)).max() > MAX_SHEAR_COSINE:
        raise InputError(
            f"The volume {volume.GetName()} is sheared by its transform. Harden the transform on it in the Transforms "
            "module."
        )
    return grid


def volume_from_node(node: Node) -> Volume:
    """A scalar volume node as a Volume; its array is a view of the node's. Raises InputError like :func:`grid_of`."""
    grid = grid_of(node)
    array = slicer.util.arrayFromVolume(node)  # (K, J, I)
    if array.ndim != 3:
        raise InputError(
            f"The volume {node.GetName()} has {array.shape[-1]} values a voxel, and a scan has one. Choose another "
            "volume."
        )
    return Volume(array.transpose(2, 1, 0), grid, node.GetName())


def crop(node: Node, box: Box, name: str, margin_mm: float = 0.0) -> Node:
    """A new volume node: the voxels of ``node`` that a box in the world and a margin touch, where they were.

    Raises InputError if the box lies outside the volume.
    """
    part = volume_from_node(node).crop(box, margin_mm)
    node_from_world = np.linalg.inv(world_from_node(node))
    cropped = node.GetScene().AddNewNodeByClass(node.GetClassName(), node.GetScene().GenerateUniqueName(name))
    slicer.util.updateVolumeFromArray(cropped, np.ascontiguousarray(part.hu.transpose(2, 1, 0)))
    cropped.SetIJKToRASMatrix(vtk_matrix(node_from_world @ part.grid.ras_from_ijk))
    cropped.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    cropped.SetNodeReferenceID(VOLUME, node.GetID())
    display = node.GetDisplayNode()
    if display is not None:
        cropped.CreateDefaultDisplayNodes()
        cropped.GetDisplayNode().CopyContent(display)
    put_beside(cropped, node)
    return cropped


# Points and boxes


def defined_points(markups: Node) -> Points:
    """The positions (N, 3) in the world of a list's control points, without those that are not placed yet."""
    places = [index for index in range(markups.GetNumberOfControlPoints()) if is_placed(markups, index)]
    points = np.zeros((len(places), 3))
    for row, index in zip(points, places, strict=True):
        markups.GetNthControlPointPositionWorld(index, row)
    return points


def is_placed(markups: Node, index: int) -> bool:
    return bool(markups.GetNthControlPointPositionStatus(index) == slicer.vtkMRMLMarkupsNode.PositionDefined)


def set_points(
    markups: Node, points_ras: ArrayLike, labels: Sequence[str], descriptions: Sequence[str] | None = None
) -> None:
    """Make a list hold these points (N, 3) of the world, with their labels."""
    points = np.asarray(points_ras, float).reshape(-1, 3)
    with slicer.util.NodeModify(markups):
        while markups.GetNumberOfControlPoints() > len(points):
            markups.RemoveNthControlPoint(markups.GetNumberOfControlPoints() - 1)
        for index, point in enumerate(points):
            if index == markups.GetNumberOfControlPoints():
                markups.AddControlPointWorld(vtk.vtkVector3d(*point), labels[index])
            else:
                markups.SetNthControlPointPositionWorld(index, *point)
                markups.SetNthControlPointLabel(index, labels[index])
            if descriptions is not None:
                markups.SetNthControlPointDescription(index, descriptions[index])


@dataclass(frozen=True)
class Pose:
    """How a ROI lies in its own coordinates: its matrix (4, 4) row by row, and its size in mm."""

    matrix: tuple[float, ...]
    size_mm: tuple[float, float, float]


def pose_of_roi(roi: Node) -> Pose:
    width, depth, height = roi.GetSize()
    return Pose(tuple(matrix_array(roi.GetObjectToNodeMatrix()).ravel().tolist()), (width, depth, height))


def set_pose(roi: Node, pose: Pose) -> None:
    """Give a ROI a pose; one that it has already makes no event, and no view draws anew."""
    if pose_of_roi(roi) == pose:
        return
    with slicer.util.NodeModify(roi):
        roi.SetSize(*pose.size_mm)
        roi.SetAndObserveObjectToNodeMatrix(vtk_matrix(np.reshape(pose.matrix, (4, 4))))


def pose_of_box(box: Box) -> Pose:
    """The pose along the RAS axes of a ROI without parent transform."""
    matrix = np.eye(4)
    matrix[:3, 3] = box.centre_ras
    width, depth, height = box.size_mm.tolist()
    return Pose(tuple(matrix.ravel().tolist()), (width, depth, height))


def box_of_roi(roi: Node) -> Box:
    """The RAS box around a ROI in the world; for a ROI along the RAS axes, its own."""
    return _box_around(matrix_array(roi.GetObjectToWorldMatrix()), roi.GetSize())


def box_of_pose(pose: Pose) -> Box:
    """The same for the pose of a ROI without parent transform."""
    return _box_around(np.reshape(pose.matrix, (4, 4)), pose.size_mm)


def _box_around(ras_from_object: NDArray[np.float64], size_mm: Sequence[float]) -> Box:
    corners_ras = apply_affine(ras_from_object, _CORNERS * (0.5 * np.array(size_mm)))
    return Box(corners_ras.min(0), corners_ras.max(0))


# Segments


def mask_of_segment(segmentation: Node, segment_id: str) -> tuple[NDArray[np.bool_], Grid]:
    """A segment as a mask (I, J, K) on its own grid in the world. Raises InputError if it is empty."""
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        raise InputError(f"{segmentation.GetName()} has no segment {segment_id!r}. Choose one of its segments.")
    image = slicer.vtkOrientedImageData()
    segmentation.CreateBinaryLabelmapRepresentation()  # does nothing where it exists
    found = segmentation.GetBinaryLabelmapRepresentation(segment_id, image)
    scalars = image.GetPointData().GetScalars() if found else None
    if scalars is None or 0 in image.GetDimensions():
        raise InputError(f"The segment {segment.GetName()} is empty. Draw the organ first.")
    array = vtk_to_numpy(scalars).reshape(image.GetDimensions(), order="F") > 0
    if not array.any():
        raise InputError(f"The segment {segment.GetName()} is empty. Draw the organ first.")
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)  # "world" of the segmentation node
    affine = world_from_node(segmentation) @ matrix_array(matrix)
    first_ijk = image.GetExtent()[::2]
    return array, Grid(array.shape, affine).cropped(first_ijk, array.shape)


def drawn_on(segmentation: Node) -> Node | None:
    """The scan on which a segmentation was drawn; None if it does not say, or that one is gone or no scan."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    volume = segmentation.GetNodeReference(role)
    return volume if volume is not None and volume.GetClassName() == "vtkMRMLScalarVolumeNode" else None


def add_segment(segmentation: Node, volume: Node, box: Box, organ: str) -> bool:
    """Add the voxels of a volume whose centre lies in a box of the world to a segmentation, as an organ's segment.

    The segmentation must lie under the volume's transform. Returns whether there is such a voxel; the segment is empty
    if there is none.
    """
    from rprloc.io.label_map import voxels_in_box  # needs packages that are installed after the panel was opened

    first_ijk, inside = voxels_in_box(grid_of(volume), box)
    segment = slicer.vtkSegment()
    segment.SetName(organ)
    segment.SetColor(*terminology.colour(organ))
    term = terminology.find(organ)
    if term is not None:
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), term.entry)
    image, matrix = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    image.SetImageToWorldMatrix(matrix)  # the "world" of the segmentation, under the volume's own transform
    if inside.any():
        ends = zip(first_ijk, np.add(first_ijk, inside.shape) - 1, strict=True)
        image.SetExtent(*(int(end) for pair in ends for end in pair))
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        vtk_to_numpy(image.GetPointData().GetScalars())[:] = inside.ravel(order="F")
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segment.AddRepresentation(representation, image)
    segments = segmentation.GetSegmentation()
    segments.AddSegment(segment, segments.GenerateUniqueSegmentID(organ))
    return bool(inside.any())


# Subject hierarchy


def put_beside(node: Node, volume: Node, folder: str = "") -> None:
    """Put a node beside a volume in subject hierarchy, in a folder of this name if one is given."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    place = hierarchy.GetItemByDataNode(volume)
    parent = hierarchy.GetItemParent(place) if place else hierarchy.GetSceneItemID()
    if folder:
        known = hierarchy.GetItemChildWithName(parent, folder)
        parent = known or hierarchy.CreateFolderItem(parent, folder)
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)


def remove(node: Node) -> None:
    """Remove a node, with how it is displayed, from its scene and from subject hierarchy."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.RemoveItem(item, False, False)  # before the node, else its address stays in a cache
    scene = node.GetScene()
    count = node.GetNumberOfDisplayNodes() if node.IsA("vtkMRMLDisplayableNode") else 0
    displays = [node.GetNthDisplayNode(n) for n in range(count)]
    scene.RemoveNode(node)
    for display in displays:
        if display is not None and display.GetScene() is scene:
            scene.RemoveNode(display)


def remove_empty_folder(scene: Scene, name: str) -> None:
    """Remove the folder of this name from subject hierarchy if nothing is in it."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.GetItemChildWithName(hierarchy.GetSceneItemID(), name, True)
    if folder and hierarchy.GetNumberOfItemChildren(folder) == 0:
        hierarchy.RemoveItem(folder)
