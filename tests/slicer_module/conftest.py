"""Fixtures of scenes and child processes. The tests skip where the wheel slicer-core is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.example import ExampleFiles
from tests.slicer_module.scenes import MODULE, Nobody, Scene, new_scene, serve

sys.path.insert(0, str(MODULE))


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


@pytest.fixture(scope="session")
def child(example: ExampleFiles) -> Iterator[Any]:
    """A child with random weights that the tests share, because PyTorch takes seconds to start."""
    from SlicerRPRLocLib.runner import Runner

    runner = Runner(serve(example))
    yield runner
    runner.cancel()


@pytest.fixture
def logic(scene: Scene, child: Any) -> Iterator[Any]:
    """The module's logic on the scene, with the shared child."""
    from SlicerRPRLocLib.logic import RPRLocLogic

    made = RPRLocLogic(scene.mrml, child)
    yield made
    if made._child is child and not made.busy:
        made._child = Nobody()
    made.close()


@pytest.fixture
def anna(scene: Scene, example: ExampleFiles) -> Any:
    """The support volume, loaded by Slicer."""
    return scene.load(example.image, "anna")


@pytest.fixture
def bert(scene: Scene, example: ExampleFiles) -> Any:
    """A query volume."""
    return scene.load(example.image, "bert")
