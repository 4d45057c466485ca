"""Template matching on grey values around each extreme point, in voxels, patches and steps of the paper.

The places and similarities are computed through FFTs, which gives the same place as sliding the window (there is a test
of it). The time of sliding is measured on some windows and scaled to all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rprloc.volume import Volume
from scripts.benchmark.circumstances import read_clock
from scripts.benchmark.matching import SIMILARITIES, FourierMatcher, Sums, best_place, sums_at
from scripts.benchmark.registry import Example, Localization, Method, Row, register
from scripts.benchmark.scans import PATCH, Scan, patch_of

STRIDE = 2
_TIMED_WINDOWS = 200


@dataclass(frozen=True, eq=False)
class Template:
    """A patch (i, j, k) and what is to be added to its centre to get the extreme point, RAS mm."""

    patch: NDArray[np.uint8]
    beyond_centre_mm: NDArray[np.float64]


@register
class GreyValues(Method):
    name = "gs"
    rows = tuple(
        Row(
            f"gs-{similarity}",
            3,
            f"GS {name}",
            remark="exact, through FFTs; all three similarities share the correlation",
            strength="Heads of patients in masks lie alike, and grey values keep the exact place of an edge.",
        )
        for similarity, name in zip(SIMILARITIES, ("MSE", "Cosine", "NCC"), strict=True)
    )

    def prepare(self, example: Example, organs: Sequence[str]) -> dict[str, list[Template]]:
        shape, spacing_mm = patch_of(example.case.region)
        scan, padded = _pad(example.volume, shape, spacing_mm)
        templates: dict[str, list[Template]] = {}
        for organ in organs:
            templates[organ] = []
            for point_ras, point_ijk in zip(
                example.points_ras[organ], scan.grid.ijk(example.points_ras[organ]), strict=True
            ):
                # The patch begins half its edge before the point; in the padded image that is at the point itself.
                first = np.clip(np.rint(point_ijk + 0.5).astype(int), 0, np.array(scan.image.shape))
                box = tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))
                templates[organ].append(Template(padded[box].copy(), point_ras - scan.grid.ras(first - 0.5)))
        return templates

    def locate(
        self, prepared: Sequence[dict[str, list[Template]]], query: Volume, organs: Sequence[str], shots: str = "one"
    ) -> dict[str, Localization]:
        wanted = [template for organ in organs for template in prepared[0][organ]]
        shape = wanted[0].patch.shape
        spacing_mm = next(spacing_mm for patch, spacing_mm in PATCH.values() if patch == shape)
        started = read_clock()
        scan, padded = _pad(query, shape, spacing_mm)
        matcher = FourierMatcher(padded, shape, STRIDE)
        shared = read_clock() - started
        points: dict[str, list[NDArray[np.float64]]] = {similarity: [] for similarity in SIMILARITIES}
        seconds = dict.fromkeys(SIMILARITIES, 0.0)
        for template in wanted:
            started = read_clock()
            sums = matcher.sums(template.patch)
            shared += read_clock() - started
            for similarity in SIMILARITIES:
                started = read_clock()
                place = best_place(sums.score(similarity))
                points[similarity].append(scan.grid.ras(STRIDE * place - 0.5) + template.beyond_centre_mm)
                seconds[similarity] += read_clock() - started
        windows = int(np.prod(matcher.shape)) * len(wanted)
        return {
            f"gs-{similarity}": Localization(
                dict(zip(organs, np.array(points[similarity]).reshape(-1, 6, 3), strict=True)),
                shared + seconds[similarity],
                {"sliding": windows * _seconds_a_window(padded, wanted[0].patch, similarity)},
            )
            for similarity in SIMILARITIES
        }


def _pad(volume: Volume, shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[Scan, NDArray[np.uint8]]:
    """The scan at the patch's spacing, and its image with half a patch of air around, so that no face is out of reach.

    The window that begins at index a of the padded image has its centre at index a - 0.5 of the scan (edges are even).
    """
    scan = Scan.of(volume, spacing_mm)
    return scan, np.pad(scan.image, [(n // 2, n // 2) for n in shape])


def _seconds_a_window(image: NDArray[np.uint8], template: NDArray[np.uint8], similarity: str) -> float:
    """The time of one stop of a sliding window, by some stops at random places."""
    generator = np.random.default_rng(0)
    corners = generator.integers(np.array(image.shape) - template.shape + 1, size=(_TIMED_WINDOWS, 3))
    started = read_clock()
    for corner in corners:
        window = image[tuple(slice(a, a + n) for a, n in zip(corner, template.shape, strict=True))]
        cross, total, squares = (np.array(float(value)) for value in sums_at(window, template))
        Sums(template.size, cross, total, squares, 1.0, 1.0).score(similarity)
    return (read_clock() - started) / _TIMED_WINDOWS
