"""Localization by one support: from the map to the body frame to the organ's own walls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rprloc.geometry import Points
from rprloc.localization.appearance import refine_points
from rprloc.localization.dense_match import DenseMatch, match_densely
from rprloc.localization.matching import SearchField, step_coarse_and_fine
from rprloc.localization.support import Support, SupportOrgan
from rprloc.model.device import small_steps


def locate_by_one(
    support: Support, organs: Iterable[str], search: SearchField
) -> dict[str, tuple[Points, NDArray[np.float64]]]:
    """By one support, for each of its organs asked for: the six points (6, 3), and the votes' spread (6,) in mm.

    What a query shows around the organ moves the map to the body frame; points are sent by that map, corrected by the
    fine match, refined by the organ's own voxels, and by how much all this misses them in the support scan itself.
    """
    names = list(organs)
    matches = match_densely(support, names, search.field, search.config)
    return {name: _locate(support.organs[name], search, matches.get(name)) for name in names}


@small_steps()
def with_self_error(support: Support, search: SearchField) -> Support:
    """The support with the ``self_error_mm`` of its organs, measured in its own position field.

    Smoothing and search windows pull points to one side in much the same way in the support and in a query.
    """
    found = locate_by_one(support, support.organs, search)
    organs = {
        name: replace(organ, self_error_mm=organ.self_error_mm + found[name][0] - organ.points_ras)
        for name, organ in support.organs.items()
    }
    return replace(support, organs=organs)


def _locate(organ: SupportOrgan, search: SearchField, match: DenseMatch | None) -> tuple[Points, NDArray[np.float64]]:
    if match is not None:
        search = replace(search, field=replace(search.field, body=match.body))
    registered_ras, matched_ras, spread_mm = step_coarse_and_fine(organ, search)
    points_ras = registered_ras + search.config.fine_share * (matched_ras - registered_ras)
    shift_mm = (points_ras - registered_ras).mean(0)
    refined_ras = refine_points(organ.appearance, search.field, points_ras, shift_mm, search.config, match)
    return refined_ras - organ.self_error_mm, spread_mm
