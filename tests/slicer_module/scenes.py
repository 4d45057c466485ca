"""Scenes of real MRML nodes, what tests put into them, and real child processes."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rprloc.geometry import Grid, extreme_points_of_mask
from tests.example import ExampleFiles
from tests.phantoms import AFFINES, Affine

MODULE = Path(__file__).resolve().parents[2] / "SlicerRPRLoc"
NO_SLICER = "slicer-core is not installed: pip install '.[slicer]' (Python 3.10 to 3.13)"


@dataclass
class Scene:
    """A scene with the logics that Slicer's application would have."""

    mrml: Any
    volumes: Any
    logics: list[Any]

    def load(self, path: Path, name: str = "") -> Any:
        """A volume from a file, through Slicer's own reader."""
        node = self.volumes.AddArchetypeVolume(str(path), name or path.name.split(".")[0], 0)
        assert node is not None
        return node

    def load_dicom(self, files: list[Path], name: str) -> Any:
        """A volume from the files of a DICOM series, through Slicer's own reader."""
        import vtk

        names = vtk.vtkStringArray()
        for file in files:
            names.InsertNextValue(str(file))
        node = self.volumes.AddArchetypeVolume(str(files[0]), name, 0, names)
        assert node is not None
        return node

    def add_volume(self, hu: NDArray[Any], grid: Grid, name: str) -> Any:
        """A volume from an array (I, J, K)."""
        import slicer

        from SlicerRPRLocLib.nodes import vtk_matrix

        node = self.mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(hu.transpose(2, 1, 0)))
        node.SetIJKToRASMatrix(vtk_matrix(grid.ras_from_ijk))
        return node

    def transform(self, matrix: NDArray[np.float64], *nodes: Any) -> Any:
        """A linear transform as the parent of nodes."""
        from SlicerRPRLocLib.nodes import vtk_matrix

        node = self.mrml.AddNewNodeByClass("vtkMRMLLinearTransformNode", "transform")
        node.SetMatrixTransformToParent(vtk_matrix(matrix))
        for child in nodes:
            child.SetAndObserveTransformNodeID(node.GetID())
        return node

    def add_views(self) -> dict[str, Any]:
        """The slice views of Slicer's default layout, by their names, and a 3D view."""
        import slicer

        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.mrml)
        views = {}
        for name, orientation in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
            kinds = ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode")
            view, shown = (self.mrml.CreateNodeByClass(kind) for kind in kinds)
            for node in (view, shown):
                node.SetLayoutName(name)
                node.SetSingletonTag(name)
                self.mrml.AddNode(node)
                node.UnRegister(None)
            view.SetOrientation(orientation)
            view.SetMappedInLayout(1)
            views[name] = view
        views["3D"] = self.mrml.AddNewNodeByClass("vtkMRMLViewNode", "3D")
        self.mrml.AddNewNodeByClass("vtkMRMLLayoutNode", "layout")
        return views

    def background(self, name: str) -> Any:
        """What a slice view shows: its composite node."""
        return self.mrml.GetNodeByID(f"vtkMRMLSliceCompositeNode{name}")

    def of_class(self, name: str) -> list[Any]:
        from SlicerRPRLocLib.nodes import of_class

        return of_class(self.mrml, name)

    def close(self) -> None:
        """Empty the scene. Subject hierarchy's cache of addresses, one for all scenes, forgets only removed items."""
        import slicer
        import vtk

        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.mrml)
        items = vtk.vtkIdList()
        hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, True)
        for index in reversed(range(items.GetNumberOfIds())):
            hierarchy.RemoveItem(items.GetId(index), False, False)
        self.mrml.Clear(1)

    def content(self) -> set[str]:
        """What nodes there are, and how their content is written."""
        found = set()
        for index in range(self.mrml.GetNumberOfNodes()):
            node = self.mrml.GetNthNode(index)
            found.add(f"{node.GetID()} {node.GetName()}")
        return found


def new_scene() -> Scene:
    import slicer
    import slicer.util

    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    manager.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(manager)
    application = slicer.vtkMRMLApplicationLogic()
    application.SetMRMLScene(scene)
    colours = slicer.vtkMRMLColorLogic()
    colours.SetMRMLScene(scene)
    application.SetModuleLogic("Colors", colours)  # the displays of volumes ask for it
    logics: list[Any] = [application, cache, manager, colours]
    for kind in (
        slicer.vtkSlicerMarkupsLogic,
        slicer.vtkSlicerVolumesLogic,
        slicer.vtkSlicerSegmentationsModuleLogic,
        slicer.vtkSlicerSubjectHierarchyModuleLogic,
        slicer.vtkSlicerTablesLogic,
        slicer.vtkSlicerTextsLogic,
        slicer.vtkSlicerTransformLogic,
    ):
        logic = kind()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        logics.append(logic)
    volumes = next(logic for logic in logics if isinstance(logic, slicer.vtkSlicerVolumesLogic))
    return Scene(scene, volumes, logics)


def rigid() -> Affine:
    """A turn about all axes, and a shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = AFFINES["oblique"][:3, :3] / np.linalg.norm(AFFINES["oblique"][:3, :3], axis=0)
    matrix[:3, 3] = 12.0, -30.0, 55.0
    return matrix


def segmentation(scene: Scene, mask: np.ndarray, grid: Grid, transform: Affine | None = None) -> Any:
    """A segmentation node with one segment, imported from a label map as Slicer does."""
    import slicer

    from SlicerRPRLocLib.nodes import vtk_matrix

    labels = scene.mrml.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.util.updateVolumeFromArray(labels, np.ascontiguousarray(mask.astype(np.uint8).transpose(2, 1, 0)))
    labels.SetIJKToRASMatrix(vtk_matrix(grid.ras_from_ijk))
    node = scene.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", "segmentation")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, node)
    scene.mrml.RemoveNode(labels)
    if transform is not None:
        scene.transform(transform, node)
    return node


def bone(volume: Any) -> NDArray[np.float64]:
    """The extreme points of the phantom's bone in a volume."""
    from SlicerRPRLocLib import nodes

    scan = nodes.volume_from_node(volume)
    return extreme_points_of_mask(scan.hu == 700, scan.grid)


def mark(logic: Any, volume: Any, organ: str = "bone") -> Any:
    """The bone of a volume as an example, its points in no order."""
    example = logic.examples.add(volume, organ)
    logic.examples.set_points(example, bone(volume)[[3, 0, 5, 1, 2, 4]])
    return example


def locate_all(logic: Any, *queries: Any, organs: list[str] | None = None) -> Any:
    """Locate in volumes and wait; the run's last update."""
    logic.locate(list(queries), organs)
    update = run_to_end(logic)
    assert not update.failed, update.summary
    return update


def volumes_of(logic: Any) -> list[str]:
    """The names of the volumes that have results."""
    from SlicerRPRLocLib import nodes

    return [nodes.volume_of(roi).GetName() for roi in logic.results.rois()]


def run_to_end(logic: Any, seconds: float = 120.0) -> Any:
    """Poll until a run has ended; the last update."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        update = logic.poll()
        assert update is not None, "there is no run"
        if update.summary is not None:
            return update
        time.sleep(0.02)
    raise AssertionError("the run did not end in time")


def serve(example: ExampleFiles, before: str = "") -> list[str]:
    """How to start a child with the example's random weights; ``before``: Python statements that it runs first."""
    code = f"import runpy, sys\n{before}\nsys.argv[0] = 'rprloc'\nrunpy.run_module('rprloc', run_name='__main__')"
    return [sys.executable, "-c", code, "serve", "--model", str(example.weights), "--device", "cpu"]


class Nobody:
    """In place of the shared child, when a logic is closed that must not end it."""

    about = ""

    def cancel(self) -> None:
        """There is nothing to end."""
