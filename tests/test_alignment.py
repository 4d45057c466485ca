"""Alignment brings the same anatomy of different scans to the same body coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from rprloc.model.body import sample
from rprloc.training.alignment import align
from tests.persons import person


@pytest.mark.slow
@pytest.mark.parametrize("makers", [None, [0, 1, 2, 4]])
def test_scans_of_other_sizes_places_and_lengths_come_to_one_frame(makers: list[int] | None) -> None:
    shifts = [np.array(v, float) for v in ([0, 0, 0], [50, -30, 700], [-80, 20, -300], [10, 0, 90], [0, 40, 5])]
    scales = [1.0, 1.0, 0.92, 1.08, 1.0]
    ranges = [(0, 480), (0, 300), (120, 480), (0, 400), (60, 480)]
    scans = [person(v, s, *r) for v, s, r in zip(shifts, scales, ranges, strict=True)]
    maps, atlas = align(scans, makers)
    landmarks = np.array([[0.0, -25, 200], [45, 0, 110], [-45, 0, 230], [0, 0, 290]])  # spine, organ, lung, shoulders
    seen = []
    for shift, scale, (first, _), body_map in zip(shifts, scales, ranges, maps, strict=True):
        place_ras = landmarks * scale + shift + [144.0, 112.0, -first * scale]
        seen.append(body_map.body(place_ras))
        if first > 110:  # the heavy organ's middle lies at the edge of this scan
            seen[-1][1] = np.nan
    spread_mm = np.nanmax(np.linalg.norm(np.array(seen) - np.nanmedian(seen, axis=0), axis=2), axis=0)
    assert (spread_mm < 10.0).all(), spread_mm
    assert np.median(spread_mm) < 6.0
    assert atlas.values.min() >= 0.0
    assert atlas.values.max() <= 1.0
    for body_map, scan in zip(maps, scans, strict=True):  # the atlas shows grey where a scan does, and air where air
        body = scan.image > 100
        places_body = body_map.body(scan.grid.ras(np.argwhere(body)[::97]))
        grey, seen = sample(atlas.values, atlas.grid, places_body).T
        assert seen.mean() > 0.9
        assert grey.mean() > 0.3
