"""Hounsfield units and what the networks see of them: every window of grey values and every threshold of the body.

The networks' input is in [0, 1]. The windows and thresholds below are part of the weights: other values need others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AIR_HU = -1024.0
PICTURE_WINDOW_HU = (-160.0, 240.0)
"""Soft tissue: what is black and what is white in pictures."""

_DARKEST_DISPLAYED_HU, _DISPLAYED_AS_AIR_HU, _PADDING_HU = -300.0, -124.0, -900.0
_AT_ONCE = 1 << 20  # voxels that fit a processor's cache
# Soft tissue takes 60% of the range, lung and bone the rest; air, and with it everything outside the scan, is 0.
_HU_KNOTS, _INPUT_KNOTS = (-1000.0, -200.0, 300.0, 1500.0), (0.0, 0.2, 0.8, 1.0)


def input_of_hu(hu: float) -> float:
    """The networks' input for one value in Hounsfield units."""
    return float(np.interp(hu, _HU_KNOTS, _INPUT_KNOTS))


REGISTRATION_WINDOW = (input_of_hu(-150.0), input_of_hu(280.0))
"""What registration compares: what scans kept through a display window show, too (docs/experiments.md, E5)."""

GREY_VALUE_WINDOW = (input_of_hu(-150.0), 0.78)
"""What the distributions of grey values in support sets resolve, up to 283 HU; a bin each lies below and above."""

DISPLAY_WINDOW = (input_of_hu(-125.0), input_of_hu(280.0))
"""What is left of a training scan that is made to look as if it had been kept through a display window."""

BODY_INPUT = 0.03
"""Mean input of 5x5x5 voxels (-880 HU) above which a place counts as body, lung included."""

DENSE_BODY_INPUT = 0.1
"""Input of a single voxel (-600 HU) above which it counts as body when a scan is compared with the atlas."""

SOFT_TISSUE_SHARE = 0.15
"""Of REGISTRATION_WINDOW: above it (-85 HU) a voxel shows where in an axial slice the body lies."""


def find_display_window_air(hu: NDArray[np.generic]) -> float | None:
    """The value at and below which a scan that was saved through a display window shows air; None for full-range CT.

    Such scans hold air and lung as their darkest value, far above air's -1000. Padding that was put around one later,
    at -900 or below, is looked through: then hardly a voxel lies between that and the dark end, and many lie there.
    """
    darkest = float(hu.min())
    if darkest > _DARKEST_DISPLAYED_HU:
        return darkest
    stored = np.asarray(hu).transpose(np.argsort([-abs(step) for step in hu.strides])).reshape(-1)
    between = 0
    for first in range(0, stored.size, _AT_ONCE):
        part = stored[first : first + _AT_ONCE]
        between += int(np.count_nonzero(part <= _DARKEST_DISPLAYED_HU) - np.count_nonzero(part <= _PADDING_HU))
        if between > 0.01 * stored.size:
            return None
    displayed = stored[stored > _DARKEST_DISPLAYED_HU]
    if displayed.size == 0 or between > 0.01 * displayed.size:
        return None
    dark_end = float(displayed.min())
    at_dark_end = int((displayed <= dark_end + 2.0).sum())
    return dark_end if dark_end < 0.0 and at_dark_end > 0.05 * displayed.size else None


def to_network_input(hu: NDArray[np.generic], display_air_hu: float | None = None) -> NDArray[np.float32]:
    """Hounsfield units as the networks' input in [0, 1]; air is 0, so that padding with 0 is air.

    ``display_air_hu``: see :func:`find_display_window_air`; values up to a soft-tissue window's dark end then count as
    air.
    """
    values = np.asarray(hu, np.float32)
    if display_air_hu is not None:
        values = np.where(values <= max(display_air_hu + 2.0, _DISPLAYED_AS_AIR_HU), np.float32(AIR_HU), values)
    return np.interp(values, _HU_KNOTS, _INPUT_KNOTS).astype(np.float32)
