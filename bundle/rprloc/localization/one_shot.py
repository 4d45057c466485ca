"""Localization by one support: from the map to the body frame to the organ's own walls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rprloc.geometry import Points
from rprloc.localization.appearance import refine_points
from rprloc.localization.dense_match import DenseMatch, match_densely
from rprloc.localization.matching import SearchField, step_coarse_and_fine
from rprloc.localization.support import Support, SupportLandmark, SupportOrgan, SupportTarget
from rprloc.model.device import small_steps

_Kept = TypeVar("_Kept", SupportOrgan, SupportLandmark)


def locate_by_one(
    support: Support, names: Iterable[str], search: SearchField
) -> dict[str, tuple[Points, NDArray[np.float64]]]:
    """By one support, for each of its organs and landmarks asked for: their points (P, 3), and the votes' spread (P,)
    in mm. P is six of an organ, one of a landmark.

    What a query shows around the target moves the map to the body frame; points are sent by that map, corrected by the
    fine match, those of organs by the organ's own voxels, and by how much all this misses them in the support scan
    itself.
    """
    names = list(names)
    targets = support.targets
    matches = match_densely(support, names, search.field, search.config)
    return {name: _locate(targets[name], search, matches.get(name)) for name in names}


@small_steps()
def with_self_error(support: Support, search: SearchField) -> Support:
    """The support with the ``self_error_mm`` of its organs and landmarks, measured in its own position field.

    Smoothing and search windows pull points to one side in much the same way in the support and in a query.
    """
    found = locate_by_one(support, support.targets, search)
    organs = {name: _with_error(organ, found[name][0]) for name, organ in support.organs.items()}
    landmarks = {name: _with_error(landmark, found[name][0]) for name, landmark in support.landmarks.items()}
    return replace(support, organs=organs, landmarks=landmarks)


def _with_error(target: _Kept, found_ras: Points) -> _Kept:
    """A target with what it is missed by in its own scan, where it was found at points (P, 3)."""
    return replace(target, self_error_mm=target.self_error_mm + found_ras - target.points_ras)


def _locate(target: SupportTarget, search: SearchField, match: DenseMatch | None) -> tuple[Points, NDArray[np.float64]]:
    if match is not None:
        search = replace(search, field=replace(search.field, body=match.body))
    registered_ras, matched_ras, spread_mm = step_coarse_and_fine(target, search)
    points_ras = registered_ras + search.config.fine_share * (matched_ras - registered_ras)
    if isinstance(target, SupportOrgan):
        shift_mm = (points_ras - registered_ras).mean(0)
        points_ras = refine_points(target.appearance, search.field, points_ras, shift_mm, search.config, match)
    return points_ras - target.self_error_mm, spread_mm
