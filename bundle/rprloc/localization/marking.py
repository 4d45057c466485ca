"""TODO localization.marking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rprloc.annotation import Mask
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid, Points, assign_extreme_points
from rprloc.localization.appearance import learned_appearance
from rprloc.localization.matching import SearchField, step_coarse_and_fine
from rprloc.localization.support import Support, SupportOrgan
from rprloc.model.field import PositionField

CONTEXT_MARGIN_MM = 15.0

_CONTEXT_SIDE = 5


def build_support(
    field: PositionField,
    grid: Grid,
    points: Mapping[str, Points],
    *,
    scan: str,
    source: str,
    masks: Mapping[str, Mask] | None = None,
) -> Support:
    """A support from the extreme points (6, 3) of organs in a scan with this position field, and their masks if known.

    Raises InputError for points that lie outside the scan's ``grid`` or span no volume.
    """
    organs = {}
    for name, given in points.items():
        points_ras = assign_extreme_points(given)
        outside = ~grid.contains(points_ras, tolerance_mm=1.0)
        if outside.any():
            worst = np.round(points_ras[outside][0], 1).tolist()
            raise InputError(
                f"{int(outside.sum())} of the six points of {name} lie outside the scan (RAS {worst} mm); all six must "
                "lie in it; give the points of this scan."
            )
        anchors_ras = np.concatenate([points_ras, _context(Box.from_extreme_points(points_ras), grid)])
        appearance = learned_appearance(field, points_ras, (masks or {}).get(name))
        organs[name] = SupportOrgan(name, anchors_ras, field.at(anchors_ras), appearance)
    return Support(scan, source, organs)


def _context(box: Box, grid: Grid) -> Points:
    """A lattice (M, 3) of places over the organ's box and a margin, those inside the scan."""
    axes = [
        np.linspace(low - CONTEXT_MARGIN_MM, high + CONTEXT_MARGIN_MM, _CONTEXT_SIDE)
        for low, high in zip(box.min_ras, box.max_ras, strict=True)
    ]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return places[grid.contains(places)]


def calibrated(support: Support, field: PositionField) -> Support:
    """The support with the ``self_error_mm`` of its organs, measured in its own position field.

    Smoothing and search windows pull points to one side in much the same way in the support and in a query.
    """
    query = SearchField.of(field)
    organs = {
        name: replace(organ, self_error_mm=step_coarse_and_fine(organ, query)[1] - organ.points_ras)
        for name, organ in support.organs.items()
    }
    return replace(support, organs=organs)
