"""A drawn person, seen by scans of any place, size and length."""

from __future__ import annotations

import numpy as np

from rprloc.geometry import Grid
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
