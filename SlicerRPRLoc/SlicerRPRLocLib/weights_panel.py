"""The choice of weights in the panel: those that are shipped, and files of the user's own."""

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from rprloc.model.shipped import DEFAULT, shipped_models
from SlicerRPRLocLib.weights import describe_weights

_FILES = "Weights of RPR-Loc (*.pt)"


class WeightsChoice:
    """Serves the box with the weights. What is chosen is a parameter of the scene.

    Slicer's own connection of a box with a parameter takes fixed choices alone, so the box is filled here.
    """

    def __init__(self, panel: Any) -> None:
        self._panel, self._box = panel, panel.ui.weightsBox
        self._own: list[str] = []
        """The files that the user has chosen since the module was opened."""
        self._names: list[str] = []
        self._entries: list[tuple[str, str]] = []
        self._box.activated.connect(lambda *_args: panel._try(self.onChoice))

    @property
    def chosen(self) -> str:
        """The name of a shipped model or the path of a file."""
        parameters = self._panel.parameters
        return DEFAULT if parameters is None else str(parameters.weights) or DEFAULT

    def show(self) -> None:
        """Show which weights can be chosen, what they are for, and which are chosen; the last entry asks for a file."""
        self._names = list(dict.fromkeys([*shipped_models(), *self._own, self.chosen]))
        entries = [describe_weights(name) for name in self._names]
        if entries != self._entries:
            self._entries = entries
            self._box.clear()
            for index, (text, tip) in enumerate(entries):
                self._box.addItem(text)
                self._box.setItemData(index, tip, qt.Qt.ToolTipRole)
            self._box.addItem(_("A file of your own..."))
        index = self._names.index(self.chosen)
        self._box.setCurrentIndex(index)
        self._box.setToolTip(f"{_('What finds the organs, for CT or for MR.')} {entries[index][1]}")

    def onChoice(self) -> None:
        """The user has chosen: the next run starts another process with these weights."""
        index, before = int(self._box.property("currentIndex")), self.chosen
        if index < len(self._names):
            self._panel.parameters.weights = self._names[index]
        else:
            path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Choose weights"), "", _FILES)
            if path:
                self._own.append(str(path))
                self._panel.parameters.weights = str(path)
        if self.chosen != before:
            self._panel.rest()
        self._panel.refresh()
