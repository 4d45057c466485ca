"""What the panel hears of the scene: nodes that come and go, points and boxes that are moved, views that change.

Events come in floods, in mid-drag and in the middle of what Slicer is doing. So each is answered once, later.
"""

from collections.abc import Callable

import qt
import slicer
import vtk
from slicer.util import VTKObservationMixin

from SlicerRPRLocLib import nodes, views
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.nodes import Node


class SceneWatcher(VTKObservationMixin):
    """Hears the scene for the panel, which says in the methods at the end what is to be done."""

    logic: RPRLocLogic

    def __init__(self) -> None:
        VTKObservationMixin.__init__(self)
        self._observed: set[str] = set()
        """The ids of the examples, results and views whose events are heard."""
        self._dragged: set[str] = set()
        """The ids of those of which the mouse holds a point or a handle."""
        self._later: dict[str, Callable[[], None]] = {}
        """What is put off until Slicer is done with what it is at, by what it is about."""
        self._backgrounds: object = None
        self._looking = False

    def watchScene(self) -> None:
        """Begin to hear the scene."""
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneImported)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            self.addObserver(scene, event, self.onNodes)

    def watchNodes(self) -> None:
        """Hear the examples, results and views of the scene, also those that came by undo or with a scene."""
        kind = slicer.vtkMRMLMarkupsNode
        grabbed = {kind.PointStartInteractionEvent: self.onGrabbed}
        changed = (kind.PointPositionDefinedEvent, kind.PointRemovedEvent, kind.PointModifiedEvent)
        for example in self.logic.examples.all():
            points = dict.fromkeys(changed, self.onPoints)
            self._watch(example, {**grabbed, **points, kind.PointEndInteractionEvent: self.onPointsLetGo})
        for node in self.logic.results.located():
            moved = dict.fromkeys((kind.PointModifiedEvent, kind.PointPositionUndefinedEvent), self.onResult)
            self._watch(node, {**grabbed, **moved, kind.PointEndInteractionEvent: self.onResultLetGo})
        for composite in nodes.of_class(slicer.mrmlScene, "vtkMRMLSliceCompositeNode"):
            self._watch(composite, {vtk.vtkCommand.ModifiedEvent: self.onViews})

    def stopWatching(self) -> None:
        self.removeObservers()
        self._later.clear()

    def later(self, what: str, action: Callable[[], None]) -> None:
        """Do something once, when Slicer is no longer busy, however often it is asked for until then."""
        if what not in self._later:
            qt.QTimer.singleShot(0, lambda: self._later.pop(what, lambda: None)())
        self._later[what] = action

    def onSceneStartClose(self, caller: object = None, event: object = None) -> None:
        self.leaveScene()

    def onSceneEndClose(self, caller: object = None, event: object = None) -> None:
        self._later.clear()
        self._dragged.clear()
        self.logic.forget_scene()
        self.clearPanel()
        self.onSceneImported()

    def onSceneImported(self, caller: object = None, event: object = None) -> None:
        """Another scene, or more of it: the history begins anew."""
        self._forgetGone()
        self.logic.results.adopt_table()
        self.logic.examples.show_previews()
        self.logic.history.clear()
        views.draw_over_own_scans(slicer.mrmlScene)
        self.sceneChanged()

    def onNodes(self, caller: object = None, event: object = None) -> None:
        scene = slicer.mrmlScene
        if not (scene.IsClosing() or scene.IsImporting() or scene.IsBatchProcessing()):
            self.later("nodes", self.onNodesChanged)

    def onNodesChanged(self) -> None:
        self._forgetGone()
        self.logic.tidy()
        self.nodesChanged()

    def onViews(self, caller: object = None, event: object = None) -> None:
        self.later("views", self.onViewsChanged)

    def onViewsChanged(self) -> None:
        """Somebody shows another scan: its boxes alone are drawn over it."""
        backgrounds = views.backgrounds(slicer.mrmlScene)
        if backgrounds != self._backgrounds:
            self._backgrounds = backgrounds
            views.draw_over_own_scans(slicer.mrmlScene)

    def onGrabbed(self, caller: Node, event: object = None) -> None:
        self._dragged.add(caller.GetID())

    def onPoints(self, caller: Node, event: object = None) -> None:
        """A point was placed, moved or removed. What looking at it changes is no news."""
        if not self._looking:
            self.later(caller.GetID(), lambda: self._look(caller))

    def onPointsLetGo(self, caller: Node, event: object = None) -> None:
        self._dragged.discard(caller.GetID())
        self.onPoints(caller)

    def onResult(self, caller: Node, event: object = None) -> None:
        """A ROI or a landmark has changed, by the mouse or in any other way."""
        if caller.GetID() in self._dragged:
            self.later("drag", lambda: self.followDrag(caller))
        else:
            self.later("refresh", self.refresh)

    def onResultLetGo(self, caller: Node, event: object = None) -> None:
        self._dragged.discard(caller.GetID())
        self.later("results", self.recordAndRefresh)

    def _watch(self, node: Node, handlers: dict[int, Callable[..., None]]) -> None:
        if node.GetID() not in self._observed:
            self._observed.add(node.GetID())
            for event, handler in handlers.items():
                self.addObserver(node, event, handler)

    def _forgetGone(self) -> None:
        self._observed = {known for known in self._observed if slicer.mrmlScene.GetNodeByID(known) is not None}

    def _look(self, example: Node) -> None:
        if example.GetScene() is not None:
            self._looking = True
            try:
                self.look(example, dragging=example.GetID() in self._dragged)
            finally:
                self._looking = False

    # What the panel does

    def leaveScene(self) -> None:
        """The scene is about to be closed."""
        raise NotImplementedError

    def clearPanel(self) -> None:
        """Say nothing more of a scene that is closed."""
        raise NotImplementedError

    def sceneChanged(self) -> None:
        """Show what is in another scene."""
        raise NotImplementedError

    def nodesChanged(self) -> None:
        """Show what has come into the scene or gone, if the module is shown."""
        raise NotImplementedError

    def look(self, example: Node, *, dragging: bool) -> None:
        """Look at the points of an example, which have changed."""
        raise NotImplementedError

    def followDrag(self, located: Node) -> None:
        """Show what the mouse makes of a ROI or a landmark while it drags it."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Show what there is."""
        raise NotImplementedError

    def recordAndRefresh(self) -> None:
        """:meth:`refresh` after a step that can be undone."""
        raise NotImplementedError
