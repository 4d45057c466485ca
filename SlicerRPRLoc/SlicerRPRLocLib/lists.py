"""The panel's lists and its table, on Qt's own widgets: they write only what has changed, and keep what is chosen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import qt
from slicer.i18n import tr as _

from SlicerRPRLocLib.results import Key, Row

_DOUBTFUL_RGB = 255, 205, 130
_CHECKED_COLUMN = 4


class _Filled:
    """What fills a widget must not take the signals of that for the user's."""

    _filling = False

    @contextmanager
    def filling(self) -> Iterator[None]:
        self._filling = True
        try:
            yield
        finally:
            self._filling = False


class CheckList(_Filled):
    """A QListWidget with a tick for each entry. ``on_change`` is called when the user sets or takes one."""

    def __init__(self, widget: Any, on_change: Callable[[], None]) -> None:
        self._widget, self._on_change = widget, on_change
        self._entries: dict[str, str] = {}
        self._items: dict[str, Any] = {}
        widget.itemChanged.connect(self._changed)

    def show(self, entries: Mapping[str, str], *, new_ticked: bool) -> None:
        """Show these texts, by their keys; ticks stay."""
        if entries == self._entries:
            return
        ticked = set(self.ticked())
        with self.filling():
            self._items = {}
            self._widget.clear()
            for key, text in entries.items():
                item = qt.QListWidgetItem(text)
                item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
                item.setCheckState(_state(key in ticked if key in self._entries else new_ticked))
                self._widget.addItem(item)
                self._items[key] = item
        self._entries = dict(entries)

    def ticked(self) -> list[str]:
        """The keys of the entries that are ticked."""
        return [key for key, item in self._items.items() if item.checkState() == qt.Qt.Checked]

    def tick(self, keys: Collection[str]) -> None:
        """Tick these entries alone."""
        with self.filling():
            for key, item in self._items.items():
                item.setCheckState(_state(key in keys))
        self._on_change()

    def _changed(self, item: Any) -> None:
        if not self._filling:
            self._on_change()


class ChoiceList(_Filled):
    """A QListWidget of which one entry can be chosen. ``on_choice`` is called when the user clicks or goes to one."""

    def __init__(self, widget: Any, on_choice: Callable[[str], None]) -> None:
        self._widget, self._on_choice = widget, on_choice
        self._entries: dict[str, str] = {}
        self.chosen: str | None = None
        """The key of the entry that is chosen."""
        widget.currentRowChanged.connect(self._choose)
        widget.itemClicked.connect(lambda item: self._choose(self._row()))

    def show(self, entries: Mapping[str, str]) -> None:
        """Show these texts, by their keys; the choice stays as long as it is there."""
        if entries == self._entries:
            return
        with self.filling():
            self._widget.clear()
            self._entries = dict(entries)
            for text in entries.values():
                self._widget.addItem(text)
        self.choose(self.chosen)

    def choose(self, key: str | None) -> None:
        """Choose an entry without telling anybody; none if it is not there."""
        self.chosen = key if key in self._entries else None
        with self.filling():
            self._widget.setCurrentRow(self._row())

    def _row(self) -> int:
        return -1 if self.chosen is None else list(self._entries).index(self.chosen)

    def _choose(self, row: int) -> None:
        if not self._filling and 0 <= row < len(self._entries):
            self.chosen = list(self._entries)[row]
            self._on_choice(self.chosen)


class ResultTable(_Filled):
    """The results in a QTableWidget.

    ``on_row`` is called when the user clicks a row or goes to it by a key, ``on_tick`` when he ticks it.
    """

    def __init__(self, table: Any, on_row: Callable[[Key], None], on_tick: Callable[[Key, bool], None]) -> None:
        self._table, self._on_row, self._on_tick = table, on_row, on_tick
        self._rows: list[Row] = []
        self.key: Key | None = None
        """What the row that is chosen is about."""
        table.setColumnCount(5)
        titles = (_("Name"), _("Scan"), _("Size mm"), _("Expected error mm"), _("Checked"))
        table.setHorizontalHeaderLabels(list(titles))
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        table.verticalHeader().hide()
        table.currentCellChanged.connect(lambda row, *_others: self._go(row))
        table.cellClicked.connect(lambda row, *_others: self._go(row))
        table.itemChanged.connect(self._ticked)

    def show(self, rows: Sequence[Row]) -> None:
        """Show these rows; the one that was chosen stays so, wherever it is now."""
        if list(rows) == self._rows:
            return
        with self.filling():
            if len(rows) != len(self._rows):
                self._table.setRowCount(len(rows))
            for index, row in enumerate(rows):
                if index >= len(self._rows) or self._rows[index] != row:
                    self._fill(index, row)
            self._rows = list(rows)
            keys = [row.key for row in rows]
            if self.key in keys:
                self._table.selectRow(keys.index(self.key))
            else:
                self.key = None
                self._table.clearSelection()
                self._table.setCurrentCell(-1, -1)

    def _fill(self, index: int, row: Row) -> None:
        for column, text in enumerate((row.organ, row.scan, row.size, row.error, "")):
            item = qt.QTableWidgetItem(text)
            flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
            if column == _CHECKED_COLUMN:
                flags |= qt.Qt.ItemIsUserCheckable
                item.setCheckState(_state(row.checked))
            item.setFlags(flags)
            item.setToolTip(row.tip)
            if row.doubtful:
                item.setBackground(qt.QBrush(qt.QColor(*_DOUBTFUL_RGB)))
                item.setForeground(qt.QBrush(qt.QColor(0, 0, 0)))
            self._table.setItem(index, column, item)

    def _go(self, row: int) -> None:
        if not self._filling and 0 <= row < len(self._rows):
            self.key = self._rows[row].key
            self._on_row(self.key)

    def _ticked(self, item: Any) -> None:
        if self._filling or item.column() != _CHECKED_COLUMN or item.row() >= len(self._rows):
            return
        index, checked = item.row(), item.checkState() == qt.Qt.Checked
        row = replace(self._rows[index], checked=checked)
        if row != self._rows[index]:
            self._rows[index] = row  # its items stay: Qt is at one of them
            self._on_tick(row.key, checked)


def _state(ticked: bool) -> Any:
    return qt.Qt.Checked if ticked else qt.Qt.Unchecked
