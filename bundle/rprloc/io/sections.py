"""From sections in parallel planes to the voxels of a grid: polygons to pixels, and which slices a plane stands for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_EDGE = 0.02
"""Pixels whose centre comes so close to a polygon's edge (in pixels) belong to it: programs that draw through the
centres of the outermost pixels mean these pixels, and text rounds."""
_ROUNDING = 1e-3  # of a step between planes
_WIDEST = 5.0  # slices from one contour to the next: nobody draws so sparsely that more belong together


def pixels_in_polygons(polygons: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (I, J) whose centre lies in an odd number of closed polygons (N, 2), in continuous indices.

    So a polygon in another one is a hole, and of a keyhole the two edges of its channel cancel out.
    """
    around = [np.array(part) * _EDGE for part in ((-1, -1), (-1, 1), (1, -1), (1, 1))]
    inside = np.zeros(shape, bool)
    for off in around:
        inside |= _filled([polygon + off for polygon in polygons], shape)
    return inside


def _filled(polygons: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """By scan lines: where an edge crosses the line through the centres of a row, inside and outside change."""
    crossings = np.zeros((shape[0] + 1, shape[1]), np.int32)
    for polygon in polygons:
        ends = np.roll(polygon, -1, axis=0)
        low, high = np.minimum(polygon[:, 1], ends[:, 1]), np.maximum(polygon[:, 1], ends[:, 1])
        first = np.ceil(low).clip(0, shape[1]).astype(int)
        end = np.ceil(high).clip(0, shape[1]).astype(int)  # a row on the upper end belongs to the next edge
        edges = np.repeat(np.arange(len(polygon)), end - first)
        if len(edges) == 0:
            continue
        before = np.concatenate([[0], np.cumsum(end - first)[:-1]])
        rows = np.arange(len(edges)) - np.repeat(before, end - first) + first[edges]
        start, stop = polygon[edges], ends[edges]
        part = (rows - start[:, 1]) / (stop[:, 1] - start[:, 1])
        at = start[:, 0] + part * (stop[:, 0] - start[:, 0])
        np.add.at(crossings, (np.ceil(at).clip(0, shape[0]).astype(int), rows), 1)
    return (np.cumsum(crossings[:-1], axis=0) % 2).astype(bool)


def slices_of_planes(
    planes: ArrayLike, stack: ArrayLike, count: int, widest: float | None = None
) -> list[tuple[int, int]]:
    """The slices of a grid, from the first to before the last, for which each of several planes stands.

    A plane stands for half of the way to its neighbours, and at most for half of a step of the stack at the ends and
    where the next one is far away. Planes at other places than slices give each slice to the plane that is next.

    Parameters
    ----------
    planes : (N,) array
        Where the planes lie along an axis of the grid, in continuous indices, ascending.
    stack : (M,) array
        Where the slices of the scan lie along the same axis, ascending. They may be unevenly spaced.
    count : int
        How many slices the grid has.
    widest : float, optional
        The widest way between two neighbours, in steps of the stack; by default what is usual among the planes, so
        that what was drawn on every second slice has no gaps.
    """
    places, stack = np.asarray(planes, float), np.asarray(stack, float)
    steps = _in_steps(places, stack)
    gaps = np.diff(steps)
    usual = float(np.median(gaps)) if len(gaps) else 1.0
    widest = min(max(1.0, 1.5 * usual), _WIDEST) if widest is None else widest
    reach = 0.5 * min(1.0, usual)
    low, high = steps - reach, steps + reach
    near = gaps <= widest + _ROUNDING
    middle = 0.5 * (steps[1:] + steps[:-1])
    high[:-1], low[1:] = np.where(near, middle, high[:-1]), np.where(near, middle, low[1:])
    ends = [_from_steps(part, stack) for part in (low, high)]
    first, end = (np.ceil(part - _ROUNDING).clip(0, count).astype(int) for part in ends)
    return list(zip(first.tolist(), end.tolist(), strict=True))


def _in_steps(places: NDArray[np.float64], stack: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places along an axis as continuous numbers of the stack's slices, going on evenly beyond its ends."""
    numbers = np.arange(len(stack), dtype=float)
    steps = np.interp(places, stack, numbers)
    first, last = stack[1] - stack[0], stack[-1] - stack[-2]
    steps = np.where(places < stack[0], (places - stack[0]) / first, steps)
    return np.where(places > stack[-1], numbers[-1] + (places - stack[-1]) / last, steps)


def _from_steps(steps: NDArray[np.float64], stack: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of :func:`_in_steps`."""
    numbers = np.arange(len(stack), dtype=float)
    places = np.interp(steps, numbers, stack)
    places = np.where(steps < 0, stack[0] + steps * (stack[1] - stack[0]), places)
    return np.where(steps > numbers[-1], stack[-1] + (steps - numbers[-1]) * (stack[-1] - stack[-2]), places)
