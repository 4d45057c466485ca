"""One image plane of a DICOM series: what its header says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rprloc.geometry import Grid


@dataclass(frozen=True, eq=False)
class Slice:
    """One image plane, a file or a frame of a file; lengths in mm, LPS; None where the header says nothing.

    ``axes_lps`` (6,) points along a row and along a column; ``spacing_mm`` (2,) is from row to row, then from column to
    column; ``shape`` is (columns, rows); ``frame`` counts from 0 and is None in a file with a single image.
    """

    path: Path
    frame: int | None
    sop_class: str
    sop_uid: str
    shape: tuple[int, int]
    stored_as: tuple[float, float, float]
    """PixelRepresentation, rescale slope, rescale intercept."""
    position_lps: NDArray[np.float64] | None
    axes_lps: NDArray[np.float64] | None
    spacing_mm: NDArray[np.float64] | None
    rescale_type: str = ""
    padding: tuple[int, int] | None = None
    """The stored values, from one to the other, that stand for no measurement."""
    instance: int | None = None
    told_apart_by: Mapping[str, str | float] = field(default_factory=dict)
    """Of the tags that tell apart the scans in one series: those that the header has. Times are in seconds."""
    owners: Mapping[str, str] = field(default_factory=dict)
    """Of the tags that all slices of a scan have in common: those that the header has."""
    concatenation: tuple[str, int, int | None] | None = None
    """Where the file is a part of one: its UID, the part's number from 1 on, and how many there are, if it says so."""

    @property
    def name(self) -> str:
        return self.path.name if self.frame is None else f"frame {self.frame + 1} of {self.path.name}"

    @property
    def grid(self) -> Grid:
        """The grid (columns, rows, 1) of this plane alone. Raises ValueError if the header does not say where it is."""
        if self.position_lps is None or self.axes_lps is None or self.spacing_mm is None:
            raise ValueError(f"{self.name} does not say where it lies")
        normal_lps = np.cross(self.axes_lps[:3], self.axes_lps[3:])
        directions_lps = np.stack([self.axes_lps[:3], self.axes_lps[3:], normal_lps], axis=1)
        return Grid.from_lps(
            (*self.shape, 1), self.position_lps, directions_lps, [self.spacing_mm[1], self.spacing_mm[0], 1.0]
        )
