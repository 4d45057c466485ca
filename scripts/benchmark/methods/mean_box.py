"""The floor: the examples' boxes, moved as landmarks of the whole body say; a method should beat it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rprloc.geometry import Points
from rprloc.volume import Volume
from scripts.benchmark.registry import Example, Method, Row, register
from scripts.benchmark.scans import SPACING_MM, Scan

_MIN_OVERLAP_MM = 200.0
_BONE, _AIR = 0.7, 0.1  # network inputs above and below which a voxel of the body counts as bone and as air


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Of every 3 mm along the body: height (N,) and centre (N, 2) in RAS mm, and the body's look (N, 3) there.

    The look: the square roots of the areas of body, bone and air, in mm.
    """

    height_ras: NDArray[np.float64]
    centre_ras: NDArray[np.float64]
    look_mm: NDArray[np.float64]

    @classmethod
    def of(cls, volume: Volume) -> Landmarks:
        scan = Scan.of(volume)
        body = scan.body()
        bone, air = body & (scan.image > 255 * _BONE), body & (scan.image < 255 * _AIR)
        areas = np.stack([part.sum((0, 1)) for part in (body, bone, air)], axis=1) * SPACING_MM**2
        places_ras, count = scan.grid.centres_ras(), np.maximum(body.sum((0, 1)), 1)
        centre_ras = (places_ras[..., :2] * body[..., None]).sum((0, 1)) / count[:, None]
        return cls(places_ras[0, 0, :, 2], centre_ras, np.sqrt(areas))

    def shift_to(self, other: Landmarks) -> NDArray[np.float64]:
        """The translation (3,) to another body: the shift along it with which both look most alike."""
        ours, theirs = len(self.height_ras), len(other.height_ras)
        fewest = min(round(_MIN_OVERLAP_MM / SPACING_MM), ours, theirs)
        best, shift = np.inf, np.zeros(3)
        for offset in range(fewest - ours, theirs - fewest + 1):
            here = slice(max(0, -offset), min(ours, theirs - offset))
            there = slice(here.start + offset, here.stop + offset)
            a, b = self.look_mm[here], other.look_mm[there]
            difference = np.abs((a - a.mean(0)) - (b - b.mean(0))).mean() / (0.5 * (a.std(0) + b.std(0)).mean() + 5.0)
            if difference < best:
                across = (other.centre_ras[there] - self.centre_ras[here]).mean(0)
                best, shift = difference, np.array([*across, other.height_ras[there][0] - self.height_ras[here][0]])
        return shift


@register
class MeanBox(Method):
    name = "mean-box"
    rows = (
        Row(
            "mean-box",
            3,
            remark="the example's box, moved by landmarks of the whole body: the floor",
            strength="Patients of one clinic lie alike, so there is little to be found by looking.",
        ),
        Row("mean-box few-shot", 3, shots="all"),
    )

    def prepare(self, example: Example, organs: Sequence[str]) -> tuple[Landmarks, dict[str, Points]]:
        return Landmarks.of(example.volume), {organ: example.points_ras[organ] for organ in organs}

    def find(
        self, prepared: Sequence[tuple[Landmarks, dict[str, Points]]], query: Volume, organs: Sequence[str]
    ) -> dict[str, Points]:
        there = Landmarks.of(query)
        moved = [
            {organ: at + landmarks.shift_to(there) for organ, at in points_ras.items()}
            for landmarks, points_ras in prepared
        ]
        return {organ: np.mean([points[organ] for points in moved if organ in points], axis=0) for organ in organs}
