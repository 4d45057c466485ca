"""What a child could have found."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rprloc.detection import LandmarkDetection, OrganDetection, Presence


def detection(organ: str, points_ras: ArrayLike, error_mm: float | None = 4.0) -> OrganDetection:
    """An organ that was found at these extreme points, with an expected error."""
    presence = None if error_mm is None else Presence(0.97, 0.02, 0.01)
    return OrganDetection(organ, np.asarray(points_ras, float), np.full(6, 2.0), 9, ("anna",), error_mm, presence)


def landmark(name: str, point_ras: ArrayLike, error_mm: float | None = 4.0) -> LandmarkDetection:
    """A landmark that was found at this point, with an expected error."""
    in_scan = None if error_mm is None else 0.97
    return LandmarkDetection(name, np.asarray(point_ras, float), 2.0, 9, ("anna",), error_mm, in_scan)
