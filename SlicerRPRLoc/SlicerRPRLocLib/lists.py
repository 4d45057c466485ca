"""The panel's lists and its table, on Qt's own widgets: they write only what has changed, and keep what is chosen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import qt
from slicer.i18n import tr as _

from SlicerRPRLocLib.review import Column, Key, Row, by_column

_MEASURED_ROWS = 100
"""How many rows tell how wide the columns of the table have to be."""


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
    """The results in a QTableWidget, the most doubtful first or in the order of the column whose header was clicked.

    ``on_row`` is called when the user clicks a row or goes to it by a key, ``on_tick`` when he ticks it.
    """

    def __init__(self, table: Any, on_row: Callable[[Key], None], on_tick: Callable[[Key, bool], None]) -> None:
        self._table, self._on_row, self._on_tick = table, on_row, on_tick
        self._given: list[Row] = []
        self.rows: list[Row] = []
        """The rows from top to bottom."""
        self.key: Key | None = None
        """What the row that is chosen is about."""
        self._column, self._backwards = Column.ERROR, False
        titles = (_("Name"), _("Scan"), _("Size mm"), _("Error mm"), _("Checked"))
        table.setColumnCount(len(titles))
        table.setHorizontalHeaderLabels(list(titles))
        self._header = table.horizontalHeader()
        self._header.setResizeContentsPrecision(_MEASURED_ROWS)
        self._header.setSortIndicatorShown(True)
        self._header.setSectionsClickable(True)
        self._header.sectionClicked.connect(self.sort)
        self._show_order()
        table.verticalHeader().hide()
        table.currentCellChanged.connect(lambda row, *_others: self._go(row))
        table.cellClicked.connect(lambda row, *_others: self._go(row))
        table.itemChanged.connect(self._ticked)

    @property
    def row(self) -> Row | None:
        """The row that is chosen."""
        return next((row for row in self.rows if row.key == self.key), None)

    def show(self, given: Sequence[Row]) -> None:
        """Show these rows; the one that was chosen stays so, wherever it is now."""
        if list(given) != self._given:
            self._given = list(given)
            self._write(by_column(given, self._column, backwards=self._backwards))

    def sort(self, column: int) -> None:
        """Order the rows by a column; by the one they are ordered by already, the other way round."""
        self._backwards = column == self._column and not self._backwards
        self._column = Column(column)
        self._show_order()
        self._write(by_column(self._given, self._column, backwards=self._backwards))

    def choose(self, key: Key) -> None:
        """Choose a row without telling anybody."""
        self.key = key
        index = [row.key for row in self.rows].index(key)
        with self.filling():
            self._table.setCurrentCell(index, 0)
            self._table.scrollToItem(self._table.item(index, 0))

    def update(self, row: Row) -> None:
        """Show another state of a row, where it is."""
        index = [one.key for one in self.rows].index(row.key)
        before = self.rows[index]
        for rows in (self._given, self.rows):
            rows[:] = [row if row.key == one.key else one for one in rows]
        with self.filling():
            self._fill(index, row, before)

    def tick(self, key: Key) -> None:
        """Tick a row without telling anybody."""
        row = next(row for row in self.rows if row.key == key)
        self.update(replace(row, checked=True))

    def _write(self, rows: list[Row]) -> None:
        """Take out what is gone, put in what is new, and write what differs: of many rows mostly few change."""
        with self.filling():
            wanted = set(rows)
            for index in reversed(range(len(self.rows))):
                stays = index < len(rows) and rows[index].key == self.rows[index].key
                if not stays and self.rows[index] not in wanted:
                    self._table.removeRow(index)
                    del self.rows[index]
            there = set(self.rows)
            for index, row in enumerate(rows):
                before = self.rows[index] if index < len(self.rows) else None
                if before is None or (before.key != row.key and row not in there):
                    self._table.insertRow(index)
                    self.rows.insert(index, row)
                    self._fill(index, row, None)
                elif before != row:
                    self.rows[index] = row
                    self._fill(index, row, before)
            self._table.setRowCount(len(rows))
            self.rows = rows
            self._table.resizeColumnsToContents()  # once: a header that does it by itself does so at each cell
            keys = [row.key for row in rows]
            if self.key in keys:
                self._table.selectRow(keys.index(self.key))
            else:
                self.key = None
                self._table.clearSelection()
                self._table.setCurrentCell(-1, -1)

    def _fill(self, index: int, row: Row, before: Row | None) -> None:
        """Write what differs from the row that was there; new items only for new colours, which cannot be taken off."""
        step, new = row.step, before is None or before.step is not row.step
        for column, text in zip(Column, (row.organ, row.scan, row.size, row.error, ""), strict=True):
            item = qt.QTableWidgetItem() if new else self._table.item(index, int(column))
            item.setText(text)
            if column in (Column.ORGAN, Column.ERROR):
                item.setToolTip(row.tip)
            if new:
                flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
                item.setFlags(flags | qt.Qt.ItemIsUserCheckable if column is Column.CHECKED else flags)
            if column is Column.CHECKED:
                item.setCheckState(_state(row.checked))
            if new and step is not None:
                item.setBackground(qt.QBrush(qt.QColor(*step.ground)))
                item.setForeground(qt.QBrush(qt.QColor(*step.text)))
            if new:
                self._table.setItem(index, int(column), item)

    def _show_order(self) -> None:
        downwards = (self._column is Column.ERROR) != self._backwards  # the largest error is the first
        order = qt.Qt.DescendingOrder if downwards else qt.Qt.AscendingOrder
        self._header.setSortIndicator(int(self._column), order)

    def _go(self, row: int) -> None:
        if not self._filling and 0 <= row < len(self.rows):
            self.key = self.rows[row].key
            self._on_row(self.key)

    def _ticked(self, item: Any) -> None:
        if self._filling or item.column() != Column.CHECKED or item.row() >= len(self.rows):
            return
        row, checked = self.rows[item.row()], item.checkState() == qt.Qt.Checked
        if row.checked != checked:
            self.update(replace(row, checked=checked))
            self._on_tick(row.key, checked)


def _state(ticked: bool) -> Any:
    return qt.Qt.Checked if ticked else qt.Qt.Unchecked
