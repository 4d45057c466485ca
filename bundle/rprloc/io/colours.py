"""Colours of organs, the same in pictures, Markups, DICOM and Slicer."""

from __future__ import annotations

import colorsys

# Okabe and Ito's palette for colour-blind readers (https://jfly.uni-koeln.de/color/) without black, then five more.
_COLOURS = (
    (0.90, 0.62, 0.00),
    (0.34, 0.71, 0.91),
    (0.00, 0.62, 0.45),
    (0.94, 0.89, 0.26),
    (0.80, 0.47, 0.65),
    (0.84, 0.37, 0.00),
    (0.00, 0.45, 0.70),
    (0.60, 0.95, 0.20),
    (0.65, 0.45, 1.00),
    (0.90, 0.10, 0.20),
    (0.20, 0.95, 0.85),
    (0.75, 0.65, 0.50),
)


def organ_colour(index: int) -> tuple[float, float, float]:
    """A colour (red, green, blue in 0..1) for the organ at ``index`` of a result, equal in pictures and in Slicer."""
    if index < len(_COLOURS):
        return _COLOURS[index]
    # Steps by the golden ratio never come back to the same hue.
    hue = (index * 0.6180339887498949) % 1.0
    return colorsys.hls_to_rgb(hue, 0.45 + 0.2 * (index % 2), 0.9)
