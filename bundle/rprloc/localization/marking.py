"""From an annotated scan to a support: anchors and latents of its organs and landmarks, appearance of the organs."""

from __future__ import annotations

import numpy as np

from rprloc.annotation import Annotation, Mask, lie_inside
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid, Points, assign_extreme_points
from rprloc.localization.appearance import learn_appearance
from rprloc.localization.config import DEFAULT, LocalizationConfig
from rprloc.localization.cuts import find_cut_walls
from rprloc.localization.dense_match import describe_surroundings
from rprloc.localization.support import Support, SupportLandmark, SupportOrgan
from rprloc.model.device import small_steps
from rprloc.model.field import PositionField


@small_steps()
def build_support(
    field: PositionField, grid: Grid, annotation: Annotation, scan: str, config: LocalizationConfig = DEFAULT
) -> Support:
    """A support from what is marked on a scan with this position field; ``scan`` is what the scan is called.

    Raises InputError if nothing is marked, and for points that lie outside the scan's ``grid`` or span no volume.
    """
    if not annotation.points_ras and not annotation.landmarks_ras:
        raise InputError("Nothing is marked on the scan. Mark an organ or a landmark.")
    organs = {}
    for name, given in annotation.points_ras.items():
        points_ras, mask = assign_extreme_points(given), annotation.masks.get(name)
        _require_inside(name, points_ras, grid, mask)
        box, side = Box.from_extreme_points(points_ras), config.context_side
        context_ras = _context(box, grid, config.context_margin_mm, side)
        anchors_ras = np.concatenate([points_ras, context_ras])
        appearance = learn_appearance(field, points_ras, mask, config)
        cut_walls = find_cut_walls(field, grid, points_ras, mask)
        organs[name] = SupportOrgan(name, anchors_ras, field.at(anchors_ras), np.zeros((6, 3)), appearance, cut_walls)
    landmarks = {}
    for name, point_ras in annotation.landmarks_ras.items():
        _require_inside(name, point_ras[None], grid)
        around = Box(point_ras, point_ras)
        context_ras = _context(around, grid, config.landmark_margin_mm, config.landmark_side)
        anchors_ras = np.concatenate([point_ras[None], context_ras])
        landmarks[name] = SupportLandmark(name, anchors_ras, field.at(anchors_ras), np.zeros((1, 3)))
    surroundings = describe_surroundings((*organs.values(), *landmarks.values()), field, config)
    return Support(scan, annotation.marking, organs, surroundings, landmarks=landmarks)


def _require_inside(name: str, points_ras: Points, grid: Grid, mask: Mask | None = None) -> None:
    """Raise InputError if points (P, 3), those of a mask if there is one, lie outside of the scan."""
    outside = ~lie_inside(points_ras, grid, mask)
    if outside.any():
        worst = np.round(points_ras[outside][0], 1).tolist()
        if len(points_ras) == 1:
            raise InputError(f"{name} lies outside the scan, at RAS {worst} mm. Give its point in this scan.")
        raise InputError(
            f"{int(outside.sum())} of the six points of {name} lie outside the scan (the first at RAS {worst} mm). "
            "Give the points of this scan."
        )


def _context(box: Box, grid: Grid, margin_mm: float, side: int) -> Points:
    """A lattice (M, 3) of places over a box and a margin, those inside the scan."""
    axes = [
        np.linspace(low - margin_mm, high + margin_mm, side) for low, high in zip(box.min_ras, box.max_ras, strict=True)
    ]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return places[grid.contains(places)]
