"""Fixtures of scenes, child processes and the panel. The tests skip where the wheel slicer-core is not installed."""

from __future__ import annotations

import ctypes
import gc
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.example import ExampleFiles
from tests.slicer_module.desktop import Desktop, all_widgets, load_ui
from tests.slicer_module.scenes import MODULE, Nobody, Scene, new_scene, serve

sys.path.insert(0, str(MODULE))

PANEL_FILES = (
    "widget",
    "marking",
    "parameters",
    "lists",
    "watching",
    "buttons",
    "onward_panel",
    "reviewing",
    "weights_panel",
)


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


@pytest.fixture(scope="session")
def application() -> Iterator[Any]:
    """Qt without a display."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QT_QPA_PLATFORM", "offscreen")
        widgets = pytest.importorskip(
            "PySide6.QtWidgets", reason="Qt cannot be loaded here (PySide6 and libEGL)", exc_type=ImportError
        )
        if sys.version_info < (3, 12):  # PySide 6.12 gives one reference to None away with each call that returns it
            never_freed = [None] * 2_000_000
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(never_freed))
        made = widgets.QApplication.instance() or widgets.QApplication(["tests"])
        yield made
        gc.collect()
        made.processEvents()


@pytest.fixture
def desktop(
    application: Any, scene: Scene, example: ExampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Desktop:
    """Slicer's desktop; the panel's files are imported anew with it."""
    import slicer
    import slicer.util

    made = Desktop(scene, example)
    for name, module in made.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
        if name.startswith("slicer."):
            monkeypatch.setattr(slicer, name.removeprefix("slicer."), module, raising=False)
    for name in (*(f"SlicerRPRLocLib.{part}" for part in PANEL_FILES), "SlicerRPRLoc"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(slicer.util, "loadUI", lambda path: load_ui(Path(path)), raising=False)
    monkeypatch.setattr(
        slicer.util,
        "childWidgetVariables",
        lambda panel: types.SimpleNamespace(**{child.objectName(): child for child in all_widgets(panel)}),
    )
    monkeypatch.setattr(slicer.util, "tryWithErrorDisplay", made.try_with_error_display, raising=False)
    monkeypatch.setattr(slicer.util, "startupEnvironment", lambda: None)
    for name, value in {
        "WaitCursor": made.wait_cursor,
        "confirmOkCancelDisplay": made.confirm,
        "mainWindow": lambda: made.window,
        "showStatusMessage": lambda text: None,
        "selectModule": made.opened.append,
        "loadVolume": made.load_volume,
    }.items():
        monkeypatch.setattr(slicer.util, name, value, raising=False)
    connected: list[tuple[str, Any]] = []
    application = types.SimpleNamespace(
        temporaryPath=str(tmp_path / "temporary"),
        connected=connected,
        connect=lambda signal, slot: connected.append((signal, slot)),
        processEvents=lambda: None,
        openNodeModule=made.opened.append,
        layoutManager=lambda: types.SimpleNamespace(viewport=lambda: made.views),
    )
    monkeypatch.setattr(slicer, "app", application, raising=False)
    monkeypatch.setattr(slicer, "dicomDatabase", made.database, raising=False)
    return made


@pytest.fixture
def panel(desktop: Desktop, scene: Scene, child: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module's panel, set up, with a child of random weights."""
    import SlicerRPRLocLib.widget as widget

    used: list[tuple[str, str]] = []

    def runner(self: Any, device: str, weights: str) -> Any:
        used.append((device, weights))
        return child

    monkeypatch.setattr(widget.SlicerRPRLocWidget, "_runner", runner)
    scene.add_views()
    made = widget.SlicerRPRLocWidget()
    made.children, made.logic_scene = used, scene
    made.setup()
    made.parent.isEntered = True
    made.enter()
    yield made
    if not made.logic.busy:
        made.logic._child = Nobody()  # the next tests use the child, too
    made.exit()
    made.cleanup()
    import shiboken6

    shiboken6.delete(made.parent)  # Qt's widgets, while the application is there
