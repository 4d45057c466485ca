"""Boxes and the points that span them."""

from __future__ import annotations

import numpy as np

from rprloc.geometry import Box


def points_of(box: Box) -> np.ndarray:
    """Six points (6, 3), each in the middle of its wall, in the order of WALLS."""
    points = np.tile(box.centre_ras, (6, 1))
    points[np.arange(6), np.arange(6) // 2] = box.walls_mm
    return points
