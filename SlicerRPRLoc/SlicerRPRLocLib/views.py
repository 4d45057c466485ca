"""What the views show: the scan that is worked on, its boxes alone, and where clicks place points.

A box means something only over the scan in which it lies. So each is drawn in those views alone that show its scan,
whoever has put the scan there; a point, too, can be placed in these views only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from slicer.util import NodeModify

from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.nodes import Node, Scene

_HIDDEN = "RPRLoc.Hidden"
"""The attribute of a display node that was hidden here, not by the user."""

_PLACING_VIEWS = {"Red": "Axial", "Green": "Coronal"}
"""The views that the guidance names, and what they have to show for its words to be true."""


def show_scan(scene: Scene, volume: Node, place_ras: ArrayLike | None = None) -> None:
    """Show a volume in all slice views, and in it a place (3,) of the world, if one is given.

    What lay over another scan is taken off with it, because it belongs to that one. Views that do not show the
    volume's place are moved to it; others keep their zoom.
    """
    composites = _composites(scene)
    bounds = np.zeros(6)
    volume.GetRASBounds(bounds)
    first_ras, last_ras = bounds[::2], bounds[1::2]
    for view in nodes.of_class(scene, "vtkMRMLSliceNode"):
        composite = composites.get(view.GetLayoutName())
        if composite is not None and composite.GetBackgroundVolumeID() != volume.GetID():
            with NodeModify(composite):
                composite.SetForegroundVolumeID(None)
                composite.SetLabelVolumeID(None)
                composite.SetBackgroundVolumeID(volume.GetID())
            _fit(view, first_ras, last_ras)
        if place_ras is not None:
            view.JumpSliceByCentering(*np.asarray(place_ras, float))
        else:
            centre_ras = nodes.matrix_array(view.GetSliceToRAS())[:3, 3]
            if (centre_ras < first_ras).any() or (centre_ras > last_ras).any():
                _fit(view, first_ras, last_ras)
    draw_over_own_scans(scene)


def shown_scan(scene: Scene) -> Node | None:
    """The volume that the first slice view shows (in Slicer's layouts the red one); None if it shows none."""
    composites = _composites(scene)
    for view in nodes.of_class(scene, "vtkMRMLSliceNode"):
        composite = composites.get(view.GetLayoutName())
        if composite is not None:
            return scene.GetNodeByID(composite.GetBackgroundVolumeID() or "")
    return None


def backgrounds(scene: Scene) -> tuple[tuple[str, str], ...]:
    """Of each slice view's layout name the id of the volume that it shows; compared, it tells whether that changed."""
    found = ((name, node.GetBackgroundVolumeID() or "") for name, node in _composites(scene).items())
    return tuple(sorted(found))


def draw_over_own_scans(scene: Scene) -> None:
    """Draw each example, preview and result in those views alone that show its scan.

    3D views have no scan of their own, so they follow the first slice view. Without slice views nothing is changed.
    """
    composites = _composites(scene)
    views_of: dict[str, list[str]] = {}
    for view in nodes.of_class(scene, "vtkMRMLSliceNode"):
        composite = composites.get(view.GetLayoutName())
        if composite is not None:
            views_of.setdefault(composite.GetBackgroundVolumeID() or "", []).append(view.GetID())
    if not views_of:
        return
    first = next(iter(views_of.values()))
    first += [view.GetID() for view in nodes.of_class(scene, "vtkMRMLViewNode")]
    for kind in ("vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsROINode"):
        for node in nodes.of_class(scene, kind):
            volume = nodes.find_volume(node) if node.GetAttribute(nodes.ROLE) else None
            if volume is not None:
                views = views_of.get(volume.GetID(), [])
                for index in range(node.GetNumberOfDisplayNodes()):
                    _draw_in(node.GetNthDisplayNode(index), views)


def add_hidden_roi(scene: Scene, name: str, role: str) -> Node:
    """A ROI that is there for the eye alone: not saved, not listed by other modules, and out of the mouse's reach."""
    # Subject hierarchy looks at a node once, when it comes into the scene: it must be a hidden one by then.
    roi = scene.CreateNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetName(name)
    roi.SetAttribute(nodes.ROLE, role)
    roi.SetHideFromEditors(True)
    roi.SetSaveWithScene(False)
    roi.SetLocked(True)
    roi.SetSelectable(False)
    with nodes.keeping_place_node(scene):
        scene.AddNode(roi)
    roi.UnRegister(None)  # the scene holds it from here on
    roi.CreateDefaultDisplayNodes()
    roi.GetDisplayNode().SetSaveWithScene(False)
    return roi


def draw_like(display: Node, other: Node) -> None:
    """Draw, or hide, like something else of the same scan."""
    hidden = other.GetAttribute(_HIDDEN)
    if display.GetAttribute(_HIDDEN) != hidden:
        display.SetAttribute(_HIDDEN, hidden)
    display.SetVisibility(other.GetVisibility())
    display.SetViewNodeIDs(other.GetViewNodeIDs())


def _draw_in(display: Node, views: Sequence[str]) -> None:
    """Draw in these views alone; nowhere if there are none. What the user has hidden himself stays hidden."""
    if not views:
        if display.GetVisibility():
            display.SetAttribute(_HIDDEN, "1")
            display.SetVisibility(False)
        return
    display.SetViewNodeIDs(views)  # no event if they are the same
    if display.GetAttribute(_HIDDEN):
        display.RemoveAttribute(_HIDDEN)
        display.SetVisibility(True)


def _composites(scene: Scene) -> dict[str, Node]:
    """What each slice view shows, by the view's layout name."""
    return {node.GetLayoutName(): node for node in nodes.of_class(scene, "vtkMRMLSliceCompositeNode")}


def _fit(view: Node, first_ras: ArrayLike, last_ras: ArrayLike) -> None:
    """Let a slice view show the middle of a box in the world, as large as it fits along the longest side."""
    size_mm = float(np.max(np.subtract(last_ras, first_ras)))
    width, height, depth = view.GetFieldOfView()
    if size_mm > 0 and min(width, height) > 0:
        zoom = size_mm / min(width, height)
        view.SetFieldOfView(width * zoom, height * zoom, depth)
    view.JumpSliceByCentering(*(0.5 * np.add(first_ras, last_ras)))


# Placing points by the mouse


def start_placing(markups: Node) -> None:
    """Let clicks in the views add points to an example until it has all, or :func:`stop_placing`.

    Views in which the guidance's words on an organ would be wrong are set to Slicer's own orientation. The mouse mode
    "place multiple", which is the user's, stays as it is: Slicer goes on by itself until the list has the points it
    requires.
    """
    scene = markups.GetScene()
    if nodes.is_landmark(markups):
        _show_any_slice(scene)
    else:
        _show_placing_views(scene)
    markups.SetRequiredNumberOfControlPoints(nodes.points_wanted(markups))
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    selection.SetReferenceActivePlaceNodeClassName(markups.GetClassName())
    selection.SetActivePlaceNodeID(markups.GetID())
    interaction.SetCurrentInteractionMode(interaction.Place)


def is_placing(markups: Node) -> bool:
    """Whether clicks in the views add points to this list."""
    scene = markups.GetScene()
    selection = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    placing = interaction.GetCurrentInteractionMode() == interaction.Place
    return placing and selection.GetActivePlaceNodeID() == markups.GetID()


def stop_placing(scene: Scene) -> None:
    interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    if interaction is not None and interaction.GetCurrentInteractionMode() == interaction.Place:
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)


def _show_placing_views(scene: Scene) -> None:
    views = {view.GetLayoutName(): view for view in nodes.of_class(scene, "vtkMRMLSliceNode")}
    for name, orientation in _PLACING_VIEWS.items():
        view = views.get(name)
        if view is not None and view.GetOrientation() != orientation and view.HasSliceOrientationPreset(orientation):
            view.SetOrientation(orientation)
    if not all(name in views and views[name].IsMappedInLayout() for name in _PLACING_VIEWS):
        _show_four_views(scene)


def _show_any_slice(scene: Scene) -> None:
    if not any(view.IsMappedInLayout() for view in nodes.of_class(scene, "vtkMRMLSliceNode")):
        _show_four_views(scene)


def _show_four_views(scene: Scene) -> None:
    layout = next(iter(nodes.of_class(scene, "vtkMRMLLayoutNode")), None)
    if layout is not None:
        layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
