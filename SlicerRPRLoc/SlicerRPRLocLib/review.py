"""What a person goes through: a row for each finding, in which order, in which colour, and which comes next.

The most doubtful come first, over all scans: who has no time for all rows has seen those that matter. Another order is
for who wants to be done with one scan after the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np

from rprloc import AbsentOrgan, Box, OrganDetection
from rprloc.detection import AbsentLandmark, LandmarkDetection
from SlicerRPRLocLib.landmarks import DOUBTFUL_MM

Key = tuple[str, str]
"""A volume's id and an organ or a landmark: what a row of the table is about, whether it was found or is absent."""

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


@dataclass(frozen=True)
class Step:
    """How expected errors from ``from_mm`` on are shown: a ground, and the colour of the text on it."""

    from_mm: float
    ground: Colour
    text: Colour


STEPS = (
    Step(5.0, (255, 237, 160), (0, 0, 0)),
    Step(DOUBTFUL_MM, (253, 160, 60), (0, 0, 0)),
    Step(20.0, (140, 45, 4), (255, 255, 255)),
)
"""From small errors to large ones.

Each is darker than the one before, so they can be told apart without seeing hues, and each brings its own text, so
that they can be read in a light and in a dark theme. Smaller errors keep the theme's own colours.
"""


class Column(IntEnum):
    """The columns of the table, from left to right."""

    ORGAN, SCAN, SIZE, ERROR, CHECKED = range(5)


@dataclass(frozen=True)
class Row:
    """One finding; ``about`` says in sentences what the cells do not.

    ``size_mm`` is None for a landmark and for what is absent; ``error_mm`` also with weights that are not calibrated.
    ``rank`` grows from the most doubtful finding to the surest.
    """

    key: Key
    organ: str
    scan: str
    size_mm: tuple[float, float, float] | None
    error_mm: float | None
    corrected: bool
    checked: bool
    rank: tuple[int, float]
    about: tuple[str, ...]
    size: str

    @classmethod
    def of_box(cls, key: Key, scan: str, found: OrganDetection, box: Box, *, corrected: bool, checked: bool) -> Row:
        """The row of an organ with a box, as it was found and as its box is now."""
        error_mm = found.expected_wall_error_mm
        right, front, up = box.size_mm.tolist()
        about = [
            f"In the scan: {_in_the_scan(found)}.",
            f"Centre RAS: {', '.join(f'{value:.0f}' for value in box.centre_ras)} mm.",
            f"The votes for its points spread {found.spread_mm.mean():.1f} mm.",
        ]
        about += _doubts(error_mm, corrected, "each wall may be off by more than a centimetre. Look at all six.")
        size_mm = (right, front, up)
        size = " x ".join(f"{length:.0f}" for length in size_mm)
        return cls(key, key[1], scan, size_mm, error_mm, corrected, checked, _rank(error_mm), tuple(about), size)

    @classmethod
    def of_landmark(
        cls,
        key: Key,
        scan: str,
        found: LandmarkDetection,
        point_ras: Sequence[float],
        *,
        corrected: bool,
        checked: bool,
    ) -> Row:
        """The row of a landmark, as it was found and as its point is now."""
        error_mm = found.expected_error_mm
        about = [
            f"In the scan: {'not calibrated' if found.in_scan is None else f'{100.0 * found.in_scan:.0f} %'}.",
            f"RAS: {', '.join(f'{value:.0f}' for value in point_ras)} mm.",
            f"The votes for it spread {found.spread_mm:.1f} mm.",
        ]
        about += _doubts(error_mm, corrected, "it may be off by more than a centimetre.")
        return cls(key, key[1], scan, None, error_mm, corrected, checked, _rank(error_mm), tuple(about), "point")

    @classmethod
    def of_absent(cls, key: Key, scan: str, found: AbsentOrgan | AbsentLandmark, *, checked: bool) -> Row:
        """The row of an organ or a landmark that is not in the scan."""
        about = (f"{found.remark.capitalize()}.",)
        chance = found.presence.absent if isinstance(found, AbsentOrgan) else 1.0 - found.in_scan
        return cls(key, key[1], scan, None, None, False, checked, (2, chance), about, "absent")

    @property
    def error(self) -> str:
        if self.corrected:
            return "corrected"
        return "" if self.error_mm is None else f"{self.error_mm:.1f}"

    @property
    def step(self) -> Step | None:
        """The step of its expected error; None if that is small or unknown, or a person has corrected the box."""
        if self.corrected or self.error_mm is None:
            return None
        return next((step for step in reversed(STEPS) if self.error_mm >= step.from_mm), None)

    @property
    def tip(self) -> str:
        return "\n".join(self.about)

    @property
    def text(self) -> str:
        """All of it in sentences."""
        size = "" if self.size_mm is None else f" {self.size} mm."
        what = "It" if self.size_mm is None else "Each wall"
        error = "" if self.error_mm is None else f" {what} may be off by {self.error_mm:.0f} mm."
        return f"{self.organ} in {self.scan}:{size}{'' if self.corrected else error} {' '.join(self.about)}"


def _rank(error_mm: float | None) -> tuple[int, float]:
    """The rank of what was found, by its expected error; what has none comes after."""
    return (1, 0.0) if error_mm is None else (0, -error_mm)


def _doubts(error_mm: float | None, corrected: bool, doubt: str) -> list[str]:
    """What is to be said of a result that a person has corrected, or that is doubtful."""
    if corrected:
        return ["Corrected by hand."]
    return [f"Doubtful: {doubt}"] if error_mm is not None and error_mm > DOUBTFUL_MM else []


def most_doubtful_first(rows: Sequence[Row]) -> list[Row]:
    """Boxes by expected error, then those without one, then absent organs; equal ones as they are given."""
    return sorted(rows, key=lambda row: row.rank)


def by_column(rows: Sequence[Row], column: Column, *, backwards: bool) -> list[Row]:
    """In the order of a column; equal ones as they are given, backwards, too. Names count as a person counts them."""
    keys: dict[Column, Any] = {
        Column.ORGAN: lambda row: _as_counted(row.organ),
        Column.SCAN: lambda row: _as_counted(row.scan),
        Column.SIZE: lambda row: _volume_mm3(row),
        Column.ERROR: lambda row: row.rank,
        Column.CHECKED: lambda row: row.checked,
    }
    return sorted(rows, key=keys[column], reverse=backwards)


def next_unchecked(rows: Sequence[Row], key: Key | None) -> Row | None:
    """The first row below the one of this key that nobody has checked, and after the last the first again.

    That row itself comes last. None if all are checked.
    """
    here = next((index for index, row in enumerate(rows) if row.key == key), -1)
    return next((row for row in [*rows[here + 1 :], *rows[: here + 1]] if not row.checked), None)


def most_doubtful_unchecked(rows: Sequence[Row], key: Key | None) -> Row | None:
    """The most doubtful row that nobody has checked.

    From an unchecked row, which the user leaves so for now, it goes on to the next most doubtful one.
    """
    leaves = any(row.key == key and not row.checked for row in rows)
    return next_unchecked(most_doubtful_first(rows), key if leaves else None)


def _as_counted(name: str) -> list[tuple[int, int, str]]:
    """What orders "scan 9" before "scan 10"."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts if part]


def _volume_mm3(row: Row) -> float:
    if row.size_mm is None:
        return 0.0
    right, front, up = row.size_mm
    return right * front * up


def _in_the_scan(found: OrganDetection) -> str:
    if found.presence is None:
        return "not calibrated"
    chance = found.presence.part if found.is_cut else found.presence.whole
    return f"{'partly' if found.is_cut else 'wholly'} ({100.0 * chance:.0f} %)"


def with_box(found: OrganDetection, box: Box) -> OrganDetection:
    """The organ with its points moved to the walls of a box, each at the same place of its wall as before.

    No point lies outside of the box, so that another one than its own never marks a wall.
    """
    size_mm = np.where(found.box.size_mm > 0, found.box.size_mm, np.inf)
    share = ((found.points_ras - found.box.min_ras) / size_mm).clip(0.0, 1.0)
    points_ras = box.min_ras + share * box.size_mm
    points_ras[np.arange(6), np.arange(6) // 2] = box.walls_mm
    return replace(found, points_ras=points_ras)
