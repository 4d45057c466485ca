"""Scenes of real MRML nodes and real child processes. The tests skip where the wheel slicer-core is not installed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Example
from numpy.typing import NDArray

from rprloc.geometry import Grid

MODULE = Path(__file__).resolve().parents[2] / "SlicerRPRLoc"
sys.path.insert(0, str(MODULE))
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


@pytest.fixture
def scene() -> Iterator[Scene]:
    """An empty scene; an error that VTK or MRML reports fails the test."""
    import slicer
    import vtk

    before = vtk.vtkOutputWindow.GetInstance()
    messages = vtk.vtkStringOutputWindow()
    vtk.vtkOutputWindow.SetInstance(messages)
    made = new_scene()
    yield made
    made.close()
    vtk.vtkOutputWindow.SetInstance(before)
    slicer.mrmlScene = None
    text = messages.GetOutput() or ""
    assert "ERR" not in text.upper().replace("ERROR CODE 0", ""), text


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


def serve(example: Example, before: str = "") -> list[str]:
    """How to start a child with the example's random weights; ``before``: Python statements that it runs first."""
    code = f"import runpy, sys\n{before}\nsys.argv[0] = 'rprloc'\nrunpy.run_module('rprloc', run_name='__main__')"
    return [sys.executable, "-c", code, "serve", "--model", str(example.weights), "--device", "cpu"]


@pytest.fixture(scope="session")
def child(example: Example) -> Iterator[Any]:
    """A child with random weights that the tests share, because PyTorch takes seconds to start."""
    from SlicerRPRLocLib.runner import Runner

    runner = Runner(serve(example))
    yield runner
    runner.cancel()


class Nobody:
    """In place of the shared child, when a logic is closed that must not end it."""

    def cancel(self) -> None:
        """There is nothing to end."""


@pytest.fixture
def logic(scene: Scene, child: Any) -> Iterator[Any]:
    """The module's logic on the scene, with the shared child."""
    from SlicerRPRLocLib.logic import RPRLocLogic

    made = RPRLocLogic(scene.mrml, child)
    yield made
    if made._child is child and not made.busy:
        made._child = Nobody()
    made.close()
