"""A stand-in for the mouse over Slicer's slice views: it places and drags points as Slicer's markups widget does.

A point follows the mouse as a preview before it is placed. Placing ends by itself when a list has the points that it
requires, or after one point if it requires none, unless the user has switched on "place multiple". A point can be
placed only in a view in which its list is drawn. While a point is dragged, the mouse holds on to its index.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from tests.slicer_module.scenes import Scene


class Mouse:
    """The mouse over one slice view."""

    def __init__(self, scene: Scene, view: str = "Red") -> None:
        self._scene = scene.mrml
        self._view = f"vtkMRMLSliceNode{view}"
        self._preview: tuple[Any, int] | None = None

    def _interaction(self) -> Any:
        return self._scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")

    @property
    def places(self) -> bool:
        """Whether a click would place a point."""
        interaction = self._interaction()
        return interaction.GetCurrentInteractionMode() == interaction.Place

    def _list(self) -> Any:
        if not self.places:
            return None
        selection = self._scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
        markups = self._scene.GetNodeByID(selection.GetActivePlaceNodeID())
        display = markups.GetDisplayNode()
        return markups if display.IsDisplayableInView(self._view) and display.GetVisibility() else None

    def move(self, place_ras: ArrayLike) -> None:
        """Move it, without a button pressed."""
        markups = self._list()
        if markups is None:
            return
        if self._preview is None or self._preview[0] is not markups:
            markups.AddNControlPoints(1, "", list(place_ras))
            self._preview = markups, markups.GetNumberOfControlPoints() - 1
        markups.SetNthControlPointPositionWorld(self._preview[1], *place_ras, markups.PositionPreview)

    def click(self, place_ras: ArrayLike) -> bool:
        """Click; whether a point was placed."""
        self.move(place_ras)
        if self._preview is None or self._list() is None:
            return False
        (markups, index), self._preview = self._preview, None
        markups.SetNthControlPointPositionWorld(index, *place_ras, markups.PositionDefined)
        interaction = self._interaction()
        required = markups.GetRequiredNumberOfControlPoints()
        reached = required <= 0 or markups.GetNumberOfControlPoints() >= required
        if reached and not interaction.GetPlaceModePersistence():
            interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        return True

    def grab(self, markups: Any) -> None:
        """Press the button over a point or a handle; Slicer's mouse feels nothing of a markup that is locked."""
        assert not markups.GetLocked(), f"{markups.GetName()} is locked"
        markups.InvokeEvent(markups.PointStartInteractionEvent)

    def drag(self, markups: Any, index: int, place_ras: ArrayLike) -> None:
        """Move a point that it holds; it must still be there."""
        assert index < markups.GetNumberOfControlPoints(), "the point under the mouse is gone"
        markups.SetNthControlPointPositionWorld(index, *place_ras)

    def let_go(self, markups: Any) -> None:
        markups.InvokeEvent(markups.PointEndInteractionEvent)
