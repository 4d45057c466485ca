"""Drawn scans and persons, and the geometries and storage orders in which tests put them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rprloc.geometry import Grid

Affine = NDArray[np.float64]
Store = Callable[[NDArray[np.generic], Grid], tuple[NDArray[np.generic], Grid]]

SHAPE = (30, 24, 20)
# Stored from left to right and from front to back.
PHANTOM_GRID = Grid(SHAPE, np.array([[4.0, 0, 0, -60], [0, -5, 0, 40], [0, 0, 6, -300], [0, 0, 0, 1]]))


def _affine(axes: NDArray[np.float64], spacing_mm: tuple[float, float, float]) -> Affine:
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing_mm
    affine[:3, 3] = -31.0, 12.5, 407.25
    return affine


def _rotation() -> NDArray[np.float64]:
    """25 degrees about z after 10 degrees about x."""
    a, b = np.radians(25.0), np.radians(10.0)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


_PERMUTED = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
AFFINES = {
    "identity": np.eye(4),
    "anisotropic": _affine(np.eye(3), (0.75, 1.5, 5.0)),
    "flipped": _affine(np.diag([-1.0, -1, 1]), (2.0, 2.0, 3.0)),
    "mirrored": _affine(np.diag([-1.0, 1, 1]), (2.0, 2.0, 3.0)),
    "permuted": _affine(_PERMUTED, (2.0, 3.0, 2.5)),
    "permuted and flipped": _affine(_PERMUTED @ np.diag([1.0, -1, -1]), (2.0, 3.0, 2.5)),
    "oblique": _affine(_rotation(), (1.5, 2.0, 3.0)),
    "oblique and flipped": _affine(_rotation() @ np.diag([-1.0, 1, -1]), (1.5, 2.0, 3.0)),
}
STORAGES = {
    "as it is": ((0, 1, 2), ()),
    "first axis flipped": ((0, 1, 2), (0,)),
    "all axes flipped": ((0, 1, 2), (0, 1, 2)),
    "axes rotated": ((1, 2, 0), ()),
    "axes swapped, one flipped": ((1, 0, 2), (2,)),
    "axes reversed, two flipped": ((2, 1, 0), (0, 1)),
}


def stored_otherwise(
    array: NDArray[np.generic], grid: Grid, order: tuple[int, ...], flipped: tuple[int, ...]
) -> tuple[NDArray[np.generic], Grid]:
    """The same values at the same places in the world, with the axes in another order and then some of them flipped."""
    stored, affine = array.transpose(order), grid.ras_from_ijk[:, [*order, 3]].copy()
    for axis in flipped:
        affine[:3, 3] += affine[:3, axis] * (stored.shape[axis] - 1)
        affine[:3, axis] *= -1
    return np.flip(stored, flipped), Grid(stored.shape, affine)


def phantom_hu(grid: Grid) -> NDArray[np.int16]:
    """A body of soft tissue, with a bone off its middle, in air: HU (I, J, K), different along every axis."""
    points_ras, bounds = grid.centres_ras(), grid.bounds
    u = (points_ras - bounds.centre_ras) / bounds.size_mm
    hu = np.full(grid.shape, -1000, np.int16)
    hu[np.square(u / [0.42, 0.36, 0.6]).sum(-1) < 1] = 40
    hu[np.square((u - [0.15, -0.1, 0.2]) / 0.12).sum(-1) < 1] = 700
    hu[np.square((u - [-0.15, 0.05, 0.0]) / [0.15, 0.15, 0.2]).sum(-1) < 1] = -850
    return hu


def mr(hu: np.ndarray) -> np.ndarray:
    """Values as in MR, bright and without a scale, where a CT with these HU shows tissue."""
    tissue = np.random.default_rng(0).gamma(6.0, 60.0, hu.shape)
    return np.where(hu > -900, tissue, 8.0).astype(np.int16)
