"""Stand-ins for what only Slicer's desktop has: its widgets, its modules for Python, and the errors that it shows.

They behave as Slicer's own do where that has led astray: selectors list nodes of derived classes unless they are told
otherwise and take no others; what binds parameters to widgets overwrites ranges and writes "." into fields for paths.
"""

from __future__ import annotations

import math
import re
import types
import unittest
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from tests.example import ExampleFiles
from tests.slicer_module.scenes import MODULE, Scene


def stand_in_classes() -> dict[str, type]:
    """Widgets with the few methods of Slicer's own that the module uses.

    Long, because the classes can only be defined where PySide6 is imported.
    """
    from PySide6 import QtCore, QtWidgets

    class SceneWidget(QtWidgets.QWidget):
        scene: Any = None

        def setMRMLScene(self, scene: Any) -> None:
            self.scene = scene

    class NodeComboBox(SceneWidget):
        currentNodeChanged = QtCore.Signal(object)
        nodeActivated = QtCore.Signal(object)
        node: Any = None

        def currentNode(self) -> Any:
            return self.node

        def offers(self, node: Any) -> bool:
            kinds = self.property("nodeTypes")
            child_types = self.property("showChildNodeTypes") is not False
            return node.GetClassName() in kinds or (child_types and any(node.IsA(kind) for kind in kinds))

        def setCurrentNode(self, node: Any) -> None:
            if node is not None and not self.offers(node):
                return
            if node is not self.node:
                self.node = node
                self.currentNodeChanged.emit(node)

        def choose(self, node: Any) -> None:
            """What the user does."""
            self.setCurrentNode(node)
            self.nodeActivated.emit(self.node)

    class SegmentSelector(SceneWidget):
        currentNodeChanged = QtCore.Signal(object)
        currentSegmentChanged = QtCore.Signal(str)
        choice: tuple[Any, str] = (None, "")

        def currentNode(self) -> Any:
            return self.choice[0]

        def currentSegmentID(self) -> str:
            return self.choice[1]

        def choose(self, node: Any, segment_id: str) -> None:
            self.choice = (node, segment_id)
            self.currentNodeChanged.emit(node)
            if segment_id:
                self.currentSegmentChanged.emit(segment_id)

    class PathLineEdit(QtWidgets.QWidget):
        currentPathChanged = QtCore.Signal(str)
        currentPath = ""

        def setCurrentPath(self, path: str) -> None:
            self.currentPath = path
            self.currentPathChanged.emit(path)

    return {
        "qMRMLWidget": SceneWidget,
        "qMRMLNodeComboBox": NodeComboBox,
        "qMRMLSegmentSelectorWidget": SegmentSelector,
        "ctkPathLineEdit": PathLineEdit,
        "ctkCollapsibleButton": QtWidgets.QWidget,
    }


def load_ui(path: Path) -> Any:
    """The panel of a .ui file, with stand-ins for Slicer's widgets. Connections to them are made by hand."""
    from PySide6 import QtUiTools

    classes = stand_in_classes()

    class Loader(QtUiTools.QUiLoader):
        def createWidget(self, kind: str, parent: Any = None, name: str = "") -> Any:
            if kind in classes:
                widget = classes[kind](parent)
                widget.setObjectName(name)
                return widget
            return super().createWidget(kind, parent, name)

    loader = Loader()
    panel = loader.load(str(path))
    panel.loader = loader  # PySide forgets the widgets that it made when it goes
    receivers = [connection.findtext("receiver") for connection in ElementTree.parse(path).iter("connection")]
    children = {child.objectName(): child for child in all_widgets(panel)}

    def set_scene(scene: Any) -> None:
        for name in receivers:
            children[name].setMRMLScene(scene)

    panel.setMRMLScene = set_scene
    return panel


def all_widgets(panel: Any) -> list[Any]:
    from PySide6 import QtWidgets

    return [child for child in panel.findChildren(QtWidgets.QWidget) if child.objectName()]


@dataclass
class WithinRange:
    """Slicer's validator of the same name."""

    minimum: float
    maximum: float


def parameter_node_wrapper(kind: type) -> type:
    """Like Slicer's: typed attributes, bound to the widgets that carry the property SlicerParameterName."""

    def plain(hint: Any) -> type:
        return get_args(hint)[0] if get_origin(hint) is Annotated else hint

    class Wrapped:
        types: ClassVar = {name: plain(hint) for name, hint in get_type_hints(kind, include_extras=True).items()}
        ranges: ClassVar = {
            name: next((one for one in hint.__metadata__ if isinstance(one, WithinRange)), None)
            for name, hint in get_type_hints(kind, include_extras=True).items()
            if get_origin(hint) is Annotated
        }

        def __init__(self, node: Any) -> None:
            self.__dict__["node"] = node
            self.__dict__["bound"] = {}
            for name, wanted in self.types.items():
                given = getattr(kind, name, None)
                empty = given if given is not None else (wanted() if wanted in (str, Path) else None)
                self.__dict__[name] = empty

        def __setattr__(self, name: str, value: Any) -> None:
            assert name in self.types and (value is None or isinstance(value, self.types[name])), (name, value)
            self.__dict__[name] = value
            if name in self.bound:
                self.bound[name](value)

        def connectGui(self, ui: Any) -> int:
            from PySide6 import QtWidgets

            for widget in vars(ui).values():
                name = widget.property("SlicerParameterName")
                if name is None:
                    continue
                wanted = self.types[name]
                take = lambda value, name=name: self.__dict__.__setitem__(name, value)  # noqa: E731
                if isinstance(widget, QtWidgets.QLineEdit):
                    assert wanted is str
                    widget.textChanged.connect(take)
                    self.bound[name] = widget.setText
                elif type(widget) is QtWidgets.QCheckBox:  # no other button, as in Slicer
                    assert wanted is bool
                    widget.toggled.connect(take)
                    self.bound[name] = widget.setChecked
                elif isinstance(widget, QtWidgets.QDoubleSpinBox):
                    assert wanted is float
                    limits = self.ranges.get(name) or WithinRange(-math.inf, math.inf)
                    widget.setRange(limits.minimum, limits.maximum)
                    widget.valueChanged.connect(take)
                    self.bound[name] = widget.setValue
                elif hasattr(widget, "currentPathChanged"):
                    assert wanted is Path
                    widget.currentPathChanged.connect(lambda text, take=take: take(Path(text)))
                    self.bound[name] = lambda path, widget=widget: widget.setCurrentPath(str(path))
                else:
                    assert wanted.__name__ in widget.property("nodeTypes")
                    widget.currentNodeChanged.connect(take)
                    self.bound[name] = widget.setCurrentNode
                self.bound[name](self.__dict__[name])
            return 1

        def disconnectGui(self, tag: int) -> None:
            self.bound.clear()

    return Wrapped


def load_requirements(path: Path) -> list[str]:
    """The requirements in a file, without its comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


class Database:
    """Slicer's DICOM database: the file of each instance, and what was added."""

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}
        self.added: list[str] = []

    def fileForInstance(self, uid: str) -> str:
        return str(self.files.get(uid, ""))

    def insert(self, path: str) -> None:
        assert isinstance(path, str) and Path(path).is_file()
        self.added.append(Path(path).name)


class Desktop:
    """Slicer's desktop, as far as the module uses it; keeps the errors that a user would see."""

    def __init__(self, scene: Scene, example: ExampleFiles) -> None:
        self.scene, self.example, self.errors = scene, example, []
        self.window = object()
        self.missing: list[str] = []
        self.questions: list[str] = []
        self.cursors: list[str] = []
        """Whether the cursor was one that waits, each time a dialog was open."""
        self.waiting = False
        self.file = ""
        self.filter = ""
        """Which files the last dialog for files has offered, as Qt writes it."""
        self.opened: list[Any] = []
        """The modules that were opened by their names, or by a node that they show."""
        self.database = Database()

    @cached_property
    def views(self) -> Any:
        """What holds Slicer's views, which take the focus of the keyboard when they are clicked."""
        from PySide6 import QtCore, QtWidgets

        views = QtWidgets.QWidget()
        view = QtWidgets.QFrame(views)
        view.setObjectName("RedView")
        view.setFocusPolicy(QtCore.Qt.StrongFocus)
        return views

    def modules(self) -> dict[str, types.ModuleType]:
        from PySide6 import QtCore, QtGui, QtWidgets

        qt = types.ModuleType("qt")
        for source in (QtCore, QtGui, QtWidgets):  # PySide makes its classes as they are asked for
            vars(qt).update({name: getattr(source, name) for name in dir(source) if name.startswith("Q")})
        desktop = self

        class QFileDialog:
            @staticmethod
            def getOpenFileName(parent: Any, *arguments: str) -> str:
                assert parent is desktop.window
                desktop.cursors.append("waits" if desktop.waiting else "normal")
                desktop.filter = arguments[-1]
                return desktop.file

            getSaveFileName = getOpenFileName

        qt.QFileDialog = QFileDialog

        class Widget:
            def __init__(self, parent: Any = None) -> None:
                self.parent = QtWidgets.QWidget()
                self.parent.isEntered = False
                self.layout = QtWidgets.QVBoxLayout(self.parent)

            def setup(self) -> None:
                """Slicer adds its reload buttons here."""

            def resourcePath(self, name: str) -> str:
                return str(MODULE / "Resources" / name)

        class Logic:
            def getParameterNode(self) -> Any:
                return None

        class Module:
            def __init__(self, parent: Any) -> None:
                self.parent = parent

        made = {name: types.ModuleType(name) for name in ("slicer.i18n", "slicer.packaging", "ctk")}
        made["slicer.i18n"].tr = lambda text: text
        made["slicer.i18n"].translate = lambda context, text: text
        made["slicer.packaging"].load_requirements = load_requirements
        made["slicer.packaging"].pip_check = lambda wanted: (
            not any(str(one).split(">")[0] in self.missing for one in wanted)
        )
        made["slicer.packaging"].pip_ensure = self._pip_ensure
        wrapper = types.ModuleType("slicer.parameterNodeWrapper")
        wrapper.parameterNodeWrapper, wrapper.WithinRange = parameter_node_wrapper, WithinRange
        scripted = types.ModuleType("slicer.ScriptedLoadableModule")
        scripted.ScriptedLoadableModuleWidget, scripted.ScriptedLoadableModuleLogic = Widget, Logic
        scripted.ScriptedLoadableModule, scripted.ScriptedLoadableModuleTest = Module, unittest.TestCase
        return {
            "qt": qt,
            **made,
            "slicer.parameterNodeWrapper": wrapper,
            "slicer.ScriptedLoadableModule": scripted,
        }

    def offers(self, name: str) -> bool:
        """Whether the last dialog for files has shown a file of this name."""
        patterns = re.findall(r"\(([^)]*)\)", self.filter)
        return any(fnmatch(name, pattern) for group in patterns for pattern in group.split())

    def _pip_ensure(self, wanted: list[str], *, constraints: Path, prompt_install: bool, requester: str) -> None:
        raise AssertionError("it was declined")

    def load_volume(self, path: str, properties: dict[str, Any]) -> Any:
        """By Slicer's own reader, as its desktop does: the volume is shown in all views."""
        node = self.scene.load(Path(path), properties["name"])
        for name in ("Red", "Yellow", "Green"):
            self.scene.background(name).SetBackgroundVolumeID(node.GetID())
        return node

    def confirm(self, question: str) -> bool:
        self.cursors.append("waits" if self.waiting else "normal")
        self.questions.append(question)
        return False

    @contextmanager
    def wait_cursor(self) -> Iterator[None]:
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False

    @contextmanager
    def try_with_error_display(self, message: str, waitCursor: bool = False) -> Iterator[None]:
        self.waiting = waitCursor
        try:
            yield
        except (ValueError, OSError) as error:
            self.errors.append(str(error))
        finally:
            self.waiting = False
