"""The floor: the examples' boxes, moved as the body's outline says; a method should beat it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry import Example, Method, Row, register
from rprloc.geometry import Points
from rprloc.volume import Volume
from scans import SPACING_MM, Scan

_MIN_OVERLAP_MM = 120.0


@dataclass(frozen=True, eq=False)
class Outline:
    """The body's cross-section at every 3 mm along the body: its centre (N, 2), extent (N, 2) and height (N,) in mm."""

    centre_ras: NDArray[np.float64]
    extent_mm: NDArray[np.float64]
    height_ras: NDArray[np.float64]

    @classmethod
    def of(cls, volume: Volume) -> Outline:
        body_ras = Scan.of(volume).body_ras()
        heights, rows = np.unique(np.round(body_ras[:, 2], 3), return_inverse=True)
        centres, extents = np.empty((len(heights), 2)), np.empty((len(heights), 2))
        for row in range(len(heights)):
            across = body_ras[rows == row, :2]
            centres[row], extents[row] = across.mean(0), 4.0 * across.std(0)
        return cls(centres, extents, heights)

    def shift_to(self, other: Outline) -> NDArray[np.float64]:
        """The translation (3,) that lays this outline on the other: the best of all shifts along the body."""
        best, shift = np.inf, other.height_ras[-1] - self.height_ras[-1]
        fewest = min(round(_MIN_OVERLAP_MM / SPACING_MM), len(self.height_ras), len(other.height_ras))
        for offset in range(fewest - len(self.height_ras), len(other.height_ras) - fewest + 1):
            ours, theirs = _overlap(len(self.height_ras), len(other.height_ras), offset)
            difference = float(np.abs(self.extent_mm[ours] - other.extent_mm[theirs]).mean())
            if difference < best:
                best, shift = difference, other.height_ras[theirs][0] - self.height_ras[ours][0]
        near = np.abs(self.height_ras[:, None] + shift - other.height_ras) < 0.5 * SPACING_MM
        ours, theirs = np.nonzero(near)
        across = (other.centre_ras[theirs] - self.centre_ras[ours]).mean(0) if len(ours) else np.zeros(2)
        return np.array([*across, shift])


def _overlap(ours: int, theirs: int, offset: int) -> tuple[slice, slice]:
    first, last = max(0, -offset), min(ours, theirs - offset)
    return slice(first, last), slice(first + offset, last + offset)


@register
class MeanBox(Method):
    name = "mean-box"
    rows = (
        Row(
            "mean-box",
            3,
            remark="the example's box, moved by the body's outline: the floor",
            strength="Patients of one clinic lie alike, so there is little to be found by looking.",
        ),
        Row("mean-box few-shot", 3, shots="all"),
    )

    def prepare(self, example: Example, organs: Sequence[str]) -> tuple[Outline, dict[str, Points]]:
        return Outline.of(example.volume), {organ: example.points_ras[organ] for organ in organs}

    def find(
        self, prepared: Sequence[tuple[Outline, dict[str, Points]]], query: Volume, organs: Sequence[str]
    ) -> dict[str, Points]:
        there = Outline.of(query)
        moved = [
            {organ: at + outline.shift_to(there) for organ, at in points_ras.items()}
            for outline, points_ras in prepared
        ]
        return {organ: np.mean([points[organ] for points in moved if organ in points], axis=0) for organ in organs}
