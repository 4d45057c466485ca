"""The panel's .ui file says what the code needs, and only the widget needs the desktop."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ElementTree

from tests.slicer_module.scenes import MODULE

UI = MODULE / "Resources" / "UI" / "SlicerRPRLoc.ui"


QMRML = ("qMRMLNodeComboBox", "qMRMLSegmentSelectorWidget")


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


def test_no_two_widgets_lie_in_one_cell() -> None:
    """Qt puts the second one nowhere: it floats over the others."""
    for layout in ElementTree.parse(UI).iter("layout"):
        cells = [(item.get("row"), item.get("column")) for item in layout.findall("item") if item.get("row")]
        assert len(set(cells)) == len(cells), cells


def test_every_bound_parameter_exists_and_every_parameter_is_bound() -> None:
    tree = ast.parse((MODULE / "SlicerRPRLocLib" / "parameters.py").read_text(encoding="utf-8"))
    (node,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "SlicerRPRLocParameterNode")
    parameters = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    shown_by_the_panel = ["weights"]  # Slicer's own connection of a QComboBox fails at all but fixed choices
    assert sorted([*bindings().values(), *shown_by_the_panel]) == sorted(parameters)


def test_every_widget_that_the_code_uses_exists_and_gets_the_scene() -> None:
    names = ("widget.py", "marking.py", "reviewing.py", "buttons.py", "onward_panel.py", "weights_panel.py")
    files = (MODULE / "SlicerRPRLocLib" / name for name in names)
    used = {
        node.attr
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr in ("ui", "_ui")
    }
    known = widgets_in_file()
    assert {name for name in used if name != "segmentSelector"} <= set(known) and used
    connected = {connection.findtext("receiver") for connection in ElementTree.parse(UI).iter("connection")}
    assert connected == {name for name, kind in known.items() if kind in QMRML}


def test_only_the_panel_needs_the_desktop_and_no_file_is_long() -> None:
    for path in [*(MODULE / "SlicerRPRLocLib").glob("*.py"), MODULE / "SlicerRPRLoc.py"]:
        text = path.read_text(encoding="utf-8")
        imported = {
            name.name.split(".")[0]
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import)
            for name in node.names
        }
        panel = ("widget.py", "marking.py", "reviewing.py", "watching.py", "lists.py", "buttons.py", "weights_panel.py")
        of_the_panel = path.name in panel
        assert of_the_panel or not imported & {"qt", "ctk"} or path.name == "library.py", path
        assert len(text.splitlines()) <= 400, path
