"""Organs that the example's own scan cuts: what is found by them may be too small."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rprloc.annotation import Mask
from rprloc.geometry import WALLS, Grid, Points, wall_coordinates
from rprloc.intensity import DENSE_BODY_INPUT

if TYPE_CHECKING:
    from rprloc.model.field import PositionField

_TOUCHING_VOX = 0.75
"""An organ ends with the scan if it comes closer to the scan's outer face. Of a mask that reaches the last voxel the
distance is 0, of a point that was clicked in it 0.5, of a mask that ends one voxel before it 1."""

_FULL = 0.5
"""A body that ends in slices with less of the usual cross-section ends by itself, as a head does, not by a cut."""

_ENDS = ("left edge", "right edge", "back edge", "front edge", "lower end", "upper end")
_MOST_NAMES = 6


def find_cut_walls(field: PositionField, grid: Grid, points_ras: Points, mask: Mask | None) -> tuple[str, ...]:
    """The walls at which an organ ends with its scan on ``grid``, in the order of WALLS; () for one that lies inside.

    ``points_ras`` (6, 3) are its extreme points. Where a scan is padded along the body, it ends with what it shows.
    """
    walls = _walls_at_the_grids_end(grid, points_ras, mask) | _walls_at_padding(field, points_ras)
    return tuple(WALLS[wall] for wall in sorted(walls))


def _walls_at_the_grids_end(grid: Grid, points_ras: Points, mask: Mask | None) -> set[int]:
    if mask is None:
        places_ijk = grid.ijk(points_ras)
    else:  # as small as the organ, so its corners tell, also on axes at an angle
        ends = np.array([[-0.5, n - 0.5] for n in mask.voxels.shape])
        corners_ijk = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3)
        places_ijk = grid.ijk(mask.grid.ras(corners_ijk))
    axes = grid.ras_from_ijk[:3, :3] / grid.spacing_mm
    walls = set()
    for axis in range(3):
        along = int(np.abs(axes[:, axis]).argmax())
        upwards = bool(axes[along, axis] > 0)
        if places_ijk[:, axis].min() + 0.5 < _TOUCHING_VOX:
            walls.add(2 * along + (0 if upwards else 1))
        if grid.shape[axis] - 0.5 - places_ijk[:, axis].max() < _TOUCHING_VOX:
            walls.add(2 * along + (1 if upwards else 0))
    return walls


def _walls_at_padding(field: PositionField, points_ras: Points) -> set[int]:
    """The lower and upper wall that lie where the body ends at once and padding begins, to one voxel of the field."""
    areas = (field.image > DENSE_BODY_INPUT).float().sum((0, 1)).cpu().numpy()
    filled = np.flatnonzero(areas > 0)
    if len(filled) == 0:
        return set()
    step_mm = field.grid.spacing_mm[2]
    low_mm, high_mm = field.grid.bounds.min_ras[2] + step_mm * np.array([filled[0], filled[-1] + 1])
    full = _FULL * np.median(areas[filled])
    bottom_mm, top_mm = wall_coordinates(points_ras)[4:]
    walls = set()
    if low_mm - field.bounds.min_ras[2] > step_mm and areas[filled[:2]].max() > full and bottom_mm < low_mm + step_mm:
        walls.add(4)
    if field.bounds.max_ras[2] - high_mm > step_mm and areas[filled[-2:]].max() > full and top_mm > high_mm - step_mm:
        walls.add(5)
    return walls


def cut_warnings(cut_walls: Mapping[str, Sequence[Sequence[str]]]) -> tuple[str, ...]:
    """A sentence or two for the organs that examples cut in the same way.

    ``cut_walls`` has for each organ the walls at which each of its examples is cut; none for one that is whole.
    """
    alike: dict[tuple[int, int, tuple[str, ...]], list[str]] = {}
    for organ, of_examples in cut_walls.items():
        cut = [walls for walls in of_examples if walls]
        if cut:
            ends = tuple(wall for wall in WALLS if any(wall in walls for walls in cut))
            alike.setdefault((len(cut), len(of_examples), ends), []).append(organ)
    return tuple(_sentence(organs, *how) for how, organs in alike.items())


def _sentence(organs: Sequence[str], cut: int, examples: int, walls: Sequence[str]) -> str:
    named, ends = _listed(organs), " and ".join(_ENDS[WALLS.index(wall)] for wall in walls)
    if examples > 1:
        subject, whose = f"{cut} of {examples} examples of {named} {'are' if cut > 1 else 'is'}", "the scan's"
    elif len(organs) > 1:
        subject, whose = f"The examples of {named} are", "their scan's"
    else:
        subject, whose = f"The example of {named} is", "its scan's"
    boxes = "the box" if len(organs) == 1 else "the boxes"
    return f"{subject} cut by {whose} {ends}, so {boxes} may be too small. Use an example that shows the whole organ."


def _listed(names: Sequence[str]) -> str:
    shown: Iterable[str] = names[:_MOST_NAMES]
    more = len(names) - _MOST_NAMES
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
