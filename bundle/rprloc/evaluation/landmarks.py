"""Landmarks that label maps define: the tips of organs, and where one forks. They measure how well points are found."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from rprloc.annotation import Annotation, Mask
from rprloc.geometry import Grid, Points
from rprloc.io.dataset import LandmarkRule

_TIP_MM = 3.0
"""A tip is the middle of what lies within so many mm of the outermost voxel: one voxel alone would be chance."""

_BRANCH_MM2 = 20.0  # the least cross-section of a branch
_STEP_MM = 1.0  # of the sections in which a fork is sought


def find_landmarks(annotation: Annotation, rules: Mapping[str, LandmarkRule]) -> dict[str, NDArray[np.float64]]:
    """The landmarks (3,), RAS mm, that rules define on the masks of an annotation, by name.

    Those of organs without a mask, and forks of organs that do not fork, are left out.
    """
    found = {}
    for name, rule in rules.items():
        mask = annotation.masks.get(rule.organ)
        point_ras = None if mask is None else _find(mask, rule)
        if point_ras is not None:
            found[name] = point_ras
    return found


def _find(mask: Mask, rule: LandmarkRule) -> NDArray[np.float64] | None:
    places_ras = mask.grid.ras(np.argwhere(mask.voxels))
    if rule.fork:
        return _fork(places_ras, mask)
    if rule.half is not None:
        across_mm = places_ras[:, 0]
        middle_mm = 0.5 * (across_mm.min() + across_mm.max())
        places_ras = places_ras[across_mm > middle_mm if rule.half == "right" else across_mm < middle_mm]
    if len(places_ras) == 0:  # an organ one voxel wide has no halves
        return None
    direction = np.array(rule.towards, float)
    along_mm = places_ras @ (direction / np.linalg.norm(direction))
    return np.asarray(places_ras[along_mm >= along_mm.max() - _TIP_MM].mean(0))


def _fork(places_ras: Points, mask: Mask) -> NDArray[np.float64] | None:
    """Where an organ that comes from the head forks: between the highest sections of its branches, going up from the
    feet. A section that seems whole between two that are forked is passed over.
    """
    spacing_mm = max(_STEP_MM, float(mask.grid.spacing_mm.max()))
    low, high = places_ras.min(0) - spacing_mm, places_ras.max(0) + spacing_mm
    shape = np.ceil((high - low) / spacing_mm).astype(int) + 1
    grid = Grid.isotropic(shape.tolist(), spacing_mm, low)
    nearest = np.rint(mask.grid.ijk(grid.centres_ras())).astype(int)
    inside: NDArray[np.bool_] = np.all((nearest >= 0) & (nearest < mask.voxels.shape), axis=-1)
    straight = inside & mask.voxels[tuple(np.where(inside[..., None], nearest, 0).reshape(-1, 3).T)].reshape(
        inside.shape
    )
    branches: list[list[NDArray[np.float64]]] = []
    for k in range(grid.shape[2]):
        pieces, count = label(straight[:, :, k])
        large = [n for n in range(1, count + 1) if np.count_nonzero(pieces == n) * spacing_mm**2 >= _BRANCH_MM2]
        middles = [grid.ras([*np.argwhere(pieces == n).mean(0), k]) for n in large]
        branches.append(sorted(middles, key=lambda middle: float(middle[0])))
    forked = [len(middles) > 1 for middles in branches]
    if not any(forked):
        return None
    last = forked.index(True)
    while True:
        further = [k for k in (last + 1, last + 2) if k < len(forked) and forked[k]]
        if not further:
            break
        last = further[0]
    return np.asarray(0.5 * (branches[last][0] + branches[last][-1]))
