"""Alignment brings the same anatomy of different scans to the same body coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from rprloc.geometry import Grid
from rprloc.model.body import sample
from rprloc.training.alignment import align
from rprloc.training.sampling import TrainingScan


def person(shift_mm: np.ndarray, scale: float, first_mm: float, last_mm: float) -> TrainingScan:
    """A drawn person, 480 mm long when ``scale`` is 1, seen from ``first_mm`` to ``last_mm`` of that length.

    A trunk that narrows to a neck and widens to a head, with a spine, a heavy organ on one side and ribs.
    """
    shape = (72, 56, int((last_mm - first_mm) * scale / 4.0))
    grid = Grid.isotropic(shape, 4.0, shift_mm)
    offset = np.array([144.0, 112.0, -first_mm * scale])
    u = (grid.centres_ras() - shift_mm - offset) / scale
    right, front, head = np.moveaxis(u, -1, 0)
    width = np.interp(head, [0, 240, 300, 330, 360, 480], [110, 120, 100, 40, 60, 45])
    body = np.square(right / width) + np.square(front / (0.6 * width)) < 1
    image = np.where(body, 0.5, 0.0)
    image[np.square(right / 14) + np.square((front + 25) / 14) < 1] = 0.85
    image[np.square((right - 45) / 40) + np.square(front / 35) + np.square((head - 110) / 50) < 1] = 0.62
    image[np.square((right + 45) / 40) + np.square(front / 40) + np.square((head - 230) / 60) < 1] = 0.05
    image[body & (head > 370) & (np.square(right / 38) + np.square(front / 22) + np.square((head - 420) / 40) > 1)] = (
        0.8
    )
    return TrainingScan.from_array("drawn", "g", np.rint(255 * image).astype(np.uint8), grid)


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
        grid = Grid.isotropic(atlas.values.shape[1:], 8.0, atlas.origin_mm.numpy())
        grey, seen = sample(atlas.values, grid, places_body).T
        assert seen.mean() > 0.9
        assert grey.mean() > 0.3
