"""The part of the panel in which a person goes through the findings: see, correct, tick, next; and let the rest learn.

The key for "tick and go on" is Space. It works in the table and in the views, so that it is free in lists, buttons and
fields, where Space means something else; Slicer's own views do nothing at it.
"""

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SlicerRPRLocLib import nodes, teaching, views
from SlicerRPRLocLib.band import Band
from SlicerRPRLocLib.lists import ResultTable
from SlicerRPRLocLib.nodes import Node
from SlicerRPRLocLib.review import Key, Row, most_doubtful_unchecked, next_unchecked
from SlicerRPRLocLib.watching import SceneWatcher

_TICK_KEY = "Space"


class Reviewing(SceneWatcher):
    """The table of results, the band around the chosen box, and the buttons and the key to go through them."""

    ui: Any
    parent: Any

    def setUpReview(self) -> None:
        self.table = ResultTable(self.ui.resultTable, lambda key: self._try(lambda: self.onRow(key)), self.onTick)
        self.band = Band(slicer.mrmlScene)
        self._shortcuts = []
        layout = slicer.app.layoutManager()
        for place in (self.ui.resultTable, None if layout is None else layout.viewport()):
            if place is not None:
                shortcut = qt.QShortcut(place)
                shortcut.setKey(qt.QKeySequence(_TICK_KEY))
                shortcut.setContext(qt.Qt.WidgetWithChildrenShortcut)
                shortcut.activated.connect(lambda: self._try(self.onTickAndGoOn))
                shortcut.setEnabled(False)
                self._shortcuts.append(shortcut)

    def enterReview(self) -> None:
        for shortcut in self._shortcuts:
            shortcut.setEnabled(True)

    def exitReview(self) -> None:
        """The panel is not seen any more: its key is Slicer's again, and no band is left in the views."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(False)
        self.band.hide()

    def removeShortcuts(self) -> None:
        """Before the panel is made anew: of two shortcuts with one key, Qt answers neither."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(False)
            shortcut.setParent(None)
        self._shortcuts = []

    # Going through

    def onRow(self, key: Key) -> None:
        self.logic.results.show(key)
        if self.logic.results.find_located(key) is None:
            self.ui.statusLabel.setText(_("{organ} is not in the scan; the views show the scan.").format(organ=key[1]))
        self.showFinding()
        self.showButtons()

    def onTick(self, key: Key, checked: bool) -> None:
        self.logic.results.check(key, checked)
        self.later("results", self.recordAndRefresh)

    def onNext(self) -> None:
        """Go to the most doubtful finding that nobody has checked."""
        self.goTo(most_doubtful_unchecked(self.table.rows, self.table.key))

    def onTickAndGoOn(self) -> None:
        """Tick the chosen row, and go to the next one below that nobody has checked.

        If the views show another scan by now, nobody sees what would be ticked: they go back to the row's scan first.
        """
        row = self.table.row
        if row is None:
            self.onNext()
            return
        seen = views.shown_scan(slicer.mrmlScene)
        if seen is not None and seen.GetID() != row.key[0]:
            self.onRow(row.key)
            return
        if not row.checked:
            self.table.tick(row.key)
            self.onTick(row.key, True)
        self.goTo(next_unchecked(self.table.rows, row.key))

    def goTo(self, row: Row | None) -> None:
        if row is None or row.checked:
            if self.table.rows:
                self.ui.statusLabel.setText(_("All {n} results are checked.").format(n=len(self.table.rows)))
            return
        self.table.choose(row.key)
        self.ui.resultTable.setFocus()  # for the arrow keys
        self.onRow(row.key)

    # The chosen result

    def chosenResult(self) -> Node:
        roi = None if self.table.key is None else self.logic.results.find(self.table.key)
        if roi is None:
            raise ValueError(_("No organ with a box is chosen. Click its row in the table of results."))
        return roi

    def chosenFinding(self) -> Node:
        found = None if self.table.key is None else self.logic.results.find_located(self.table.key)
        if found is None:
            raise ValueError(_("No result is chosen. Click its row in the table of results."))
        return found

    def onDeleteResult(self) -> None:
        self.logic.results.remove(self.chosenFinding())
        self.recordAndRefresh()

    def onUseAsExample(self) -> None:
        example, told = teaching.use_as_example(self.logic.results, self.logic.examples, self.chosenFinding())
        self.recordAndRefresh()
        self.examples.choose(example.GetID())
        self.ui.statusLabel.setText(told)
        self.showButtons()

    def onLocateAgain(self) -> None:
        self.start(self.logic.locate_again)

    def followDrag(self, located: Node) -> None:
        """The mouse drags a box or a point: its row alone follows, where it is."""
        if located in self.logic.results.located():
            row = self.logic.results.row(located)
            self.table.update(row)
            if row.key == self.table.key:
                self.ui.findingLabel.setText(row.text)

    def showFinding(self) -> None:
        """Tell of the chosen row, and draw the band of its box unless a person has corrected that."""
        row = self.table.row
        self.ui.findingLabel.setText("" if row is None else row.text)
        roi = None if row is None else self.logic.results.find(row.key)
        if row is None or roi is None or row.corrected or not row.error_mm or not self.parent.isEntered:
            self.band.hide()
        elif roi.GetID() not in self._dragged:
            self.band.show(roi, nodes.box_of_roi(roi), row.error_mm)

    def countChecked(self) -> str:
        """How far the review is, "" without results."""
        rows = self.table.rows
        done = sum(row.checked for row in rows)
        return _("{done} of {n} checked").format(done=done, n=len(rows)) if rows else ""

    # What the rest of the panel does

    examples: Any
    start: Callable[[Callable[[], None]], None]
    showButtons: Callable[[], None]
    _try: Callable[[Callable[[], None]], None]
