"""The panel's .ui file says what the code needs, and only the widget needs the desktop."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ElementTree

from tests.slicer_module.scenes import MODULE

UI = MODULE / "Resources" / "UI" / "SlicerRPRLoc.ui"


QMRML = ("qMRMLNodeComboBox", "qMRMLCheckableNodeComboBox", "qMRMLSegmentSelectorWidget", "qMRMLTableView")


def widgets_in_file() -> dict[str, str]:
    """The class of each named widget of the .ui file."""
    found = [(widget.get("name", ""), widget.get("class", "")) for widget in ElementTree.parse(UI).iter("widget")]
    assert len(dict(found)) == len(found), "two widgets have one name"
    return dict(found)


def bindings() -> dict[str, str]:
    """The parameter to which each widget of the .ui file is bound."""
    bound = {}
    for widget in ElementTree.parse(UI).iter("widget"):
        for prop in widget.findall("property[@name='SlicerParameterName']"):
            bound[widget.get("name", "")] = prop.findtext("string", "")
    return bound


def test_every_bound_parameter_exists_and_every_parameter_is_bound() -> None:
    tree = ast.parse((MODULE / "SlicerRPRLocLib" / "widget.py").read_text(encoding="utf-8"))
    (node,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "SlicerRPRLocParameterNode")
    parameters = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    assert sorted(bindings().values()) == sorted(parameters)


def test_every_widget_that_the_code_uses_exists_and_gets_the_scene() -> None:
    tree = ast.parse((MODULE / "SlicerRPRLocLib" / "widget.py").read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "ui"
    }
    known = widgets_in_file()
    assert used and used <= set(known)
    connected = {connection.findtext("receiver") for connection in ElementTree.parse(UI).iter("connection")}
    assert connected == {name for name, kind in known.items() if kind in QMRML}


def test_only_the_widget_and_the_entry_point_need_the_desktop_and_the_widget_is_short() -> None:
    for path in [*(MODULE / "SlicerRPRLocLib").glob("*.py"), MODULE / "SlicerRPRLoc.py"]:
        text = path.read_text(encoding="utf-8")
        imported = {
            name.name.split(".")[0]
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import)
            for name in node.names
        }
        assert path.name == "widget.py" or not imported & {"qt", "ctk"}, path
        assert path.name != "widget.py" or len(text.splitlines()) <= 400
