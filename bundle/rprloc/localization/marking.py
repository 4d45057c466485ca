"""From an annotated scan to a support: anchors, latents and appearance of its organs."""

from __future__ import annotations

import numpy as np

from rprloc.annotation import OUTSIDE_TOLERANCE_MM, Annotation
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid, Points, assign_extreme_points
from rprloc.localization.appearance import learn_appearance
from rprloc.localization.config import DEFAULT, LocalizationConfig
from rprloc.localization.cuts import find_cut_walls
from rprloc.localization.dense_match import describe_surroundings
from rprloc.localization.support import Support, SupportOrgan
from rprloc.model.device import small_steps
from rprloc.model.field import PositionField


@small_steps()
def build_support(
    field: PositionField, grid: Grid, annotation: Annotation, scan: str, config: LocalizationConfig = DEFAULT
) -> Support:
    """A support from the organs marked on a scan with this position field; ``scan`` is what the scan is called.

    Raises InputError for points that lie outside the scan's ``grid`` or span no volume.
    """
    organs = {}
    for name, given in annotation.points_ras.items():
        points_ras, mask = assign_extreme_points(given), annotation.masks.get(name)
        # On axes at an angle, points on the corners of a mask's last voxels stick out of the scan.
        corner_mm = 0.0 if mask is None else float(np.linalg.norm(mask.grid.half_voxel_ras_mm))
        outside = ~grid.contains(points_ras, OUTSIDE_TOLERANCE_MM + corner_mm)
        if outside.any():
            worst = np.round(points_ras[outside][0], 1).tolist()
            raise InputError(
                f"{int(outside.sum())} of the six points of {name} lie outside the scan (the first at RAS {worst} mm). "
                "Give the points of this scan."
            )
        context_ras = _context(Box.from_extreme_points(points_ras), grid, config)
        anchors_ras = np.concatenate([points_ras, context_ras])
        appearance = learn_appearance(field, points_ras, mask, config)
        cut_walls = find_cut_walls(field, grid, points_ras, mask)
        organs[name] = SupportOrgan(name, anchors_ras, field.at(anchors_ras), appearance, cut_walls=cut_walls)
    return Support(scan, annotation.marking, organs, describe_surroundings(organs.values(), field, config))


def _context(box: Box, grid: Grid, config: LocalizationConfig) -> Points:
    """A lattice (M, 3) of places over the organ's box and a margin, those inside the scan."""
    margin_mm = config.context_margin_mm
    axes = [
        np.linspace(low - margin_mm, high + margin_mm, config.context_side)
        for low, high in zip(box.min_ras, box.max_ras, strict=True)
    ]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return places[grid.contains(places)]
