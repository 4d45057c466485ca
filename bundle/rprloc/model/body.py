"""The common body frame: the map of a scan into it, and its atlas, the mean of all training scans."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rprloc.geometry import Grid, Points, apply_affine
from rprloc.model.looks import REGISTRATION_SPACING_MM, Look


@dataclass(frozen=True, eq=False)
class BodyMap:
    """From a scan's world to the common body frame (mm; axes like RAS): an affine and a smooth displacement on top.

    ``displacement_mm`` (3, a, b, c) lies on ``control_grid`` in the scan's world; beyond it the outermost value holds.
    """

    body_from_ras: NDArray[np.float64]
    displacement_mm: NDArray[np.float32]
    control_grid: Grid

    @classmethod
    def affine(cls, matrix: ArrayLike, shift_mm: ArrayLike) -> BodyMap:
        """A map without displacement."""
        body_from_ras = np.eye(4)
        body_from_ras[:3, :3], body_from_ras[:3, 3] = matrix, shift_mm
        return cls(body_from_ras, np.zeros((3, 1, 1, 1), np.float32), Grid.isotropic((1, 1, 1), 1.0, np.zeros(3)))

    def followed_by(self, affine: NDArray[np.float64]) -> BodyMap:
        """This map and then an affine one (4, 4) of the body frame, mm."""
        moved_mm = np.einsum("ab,bijk->aijk", affine[:3, :3], self.displacement_mm).astype(np.float32)
        return BodyMap(affine @ self.body_from_ras, moved_mm, self.control_grid)

    def body(self, points_ras: Points) -> Points:
        """Body coordinates (..., 3) of world points (..., 3)."""
        displacement = sample(torch.from_numpy(self.displacement_mm), self.control_grid, points_ras)
        return apply_affine(self.body_from_ras, points_ras) + displacement

    def sampled_on(self, values: Tensor, body_grid: Grid, voxels: Grid) -> NDArray[np.float32]:
        """Values (D, A, B, C) on a grid in the body frame, at the body coordinates of a grid's voxels: (I, J, K, D).

        Like :func:`sample` at ``body(voxels.centres_ras())``, but quick: the axes of ``voxels`` must be parallel to
        those of ``control_grid``, so that the displacement can be interpolated along one axis after the other.
        """
        to_lattice = _normalized_from_ras(body_grid)
        lattice_from_ras = to_lattice @ self.body_from_ras
        lattice = torch.from_numpy(to_lattice[:3, :3]).float() @ torch.from_numpy(self.displacement_mm).flatten(1)
        lattice = lattice.unflatten(1, self.displacement_mm.shape[1:])
        for axis, count in enumerate(voxels.shape):
            places = positions_along(self.control_grid, voxels, axis)
            controls = np.arange(self.control_grid.shape[axis])
            share = (1.0 - np.abs(places[:, None] - controls)).clip(0.0)  # (n, controls)
            # The axis comes in front and goes to the end, so after three rounds they are in order.
            lattice = lattice.movedim(1, -1) @ torch.from_numpy(share).float().T
            step = torch.from_numpy(lattice_from_ras[:3, :3] @ voxels.ras_from_ijk[:3, axis])
            lattice += (step[:, None] * torch.arange(count)).float()[:, None, None]
        start = lattice_from_ras[:3, :3] @ voxels.ras_from_ijk[:3, 3] + lattice_from_ras[:3, 3]
        lattice += torch.from_numpy(start).to(lattice)[:, None, None, None]
        sampled = F.grid_sample(values[None], lattice.movedim(0, -1)[None], padding_mode="border", align_corners=False)
        return sampled[0].movedim(0, -1).numpy()

    def ras(self, points_body: Points, tolerance_mm: float = 0.005) -> Points:
        """World points (..., 3) whose body coordinates are (..., 3): the agent's walk from where the affine sends it.

        Every step moves by the offset that is still missing, as in the paper; smooth maps are found to
        ``tolerance_mm``, about.
        """
        ras_from_body = np.linalg.inv(self.body_from_ras)
        points_ras = apply_affine(ras_from_body, points_body)
        for _ in range(30):
            missing_mm = points_body - self.body(points_ras)
            points_ras = points_ras + 0.7 * missing_mm @ ras_from_body[:3, :3].T
            if np.abs(missing_mm).max(initial=0.0) < tolerance_mm:
                break
        return points_ras


@dataclass(frozen=True, eq=False)
class BodyAtlas:
    """The mean of the aligned training scans, ``values`` (2, A, B, C) on ``grid`` in the body frame, 8 mm: the mean
    image in [0, 1], and whether several scans show the place (0 or 1).
    """

    values: Tensor
    grid: Grid

    @classmethod
    def at(cls, values: Tensor, origin_mm: ArrayLike) -> BodyAtlas:
        """The atlas whose first voxel's centre has the body coordinates ``origin_mm`` (3,)."""
        a, b, c = values.shape[1:]
        return cls(values, Grid.isotropic((a, b, c), REGISTRATION_SPACING_MM, origin_mm))

    @property
    def origin_mm(self) -> NDArray[np.float64]:
        """Body coordinates (3,) of the first voxel's centre."""
        return self.grid.ras_from_ijk[:3, 3]

    def compared(self, look: Look) -> Tensor:
        """What is compared of the mean image, and whether the place is known, (A, B, C, 2), on the CPU."""
        if look not in self._compared:
            mean, known = self.values.cpu()
            self._compared[look] = torch.stack([look(mean, known > 0.5), known], dim=-1)
        return self._compared[look]

    @cached_property
    def _compared(self) -> dict[Look, Tensor]:
        return {}


def sample(values: Tensor, grid: Grid, points_ras: Points) -> NDArray[np.float32]:
    """Values (C, I, J, K) on a grid, at world points (..., 3): (..., C), linear, clamped at the outermost centres."""
    lattice = _normalized(grid, points_ras).to(values)[None, None, None]
    sampled = F.grid_sample(values[None], lattice, padding_mode="border", align_corners=False)[0, :, 0, 0]  # (C, N)
    return sampled.T.cpu().numpy().reshape(*np.shape(points_ras)[:-1], values.shape[0])


def _normalized(grid: Grid, points_ras: Points) -> Tensor:
    """What grid_sample (align_corners=False) calls world points (..., 3) on a grid: (N, 3), k first."""
    return torch.from_numpy(apply_affine(_normalized_from_ras(grid), points_ras).reshape(-1, 3))


def _normalized_from_ras(grid: Grid) -> NDArray[np.float64]:
    """The 4x4 matrix from world points to what grid_sample (align_corners=False) calls them on a grid: k first."""
    shape = np.array(grid.shape)
    normalized_from_ijk = np.diag([*(2.0 / shape), 1.0])
    normalized_from_ijk[:3, 3] = 1.0 / shape - 1.0
    return (normalized_from_ijk @ grid.ijk_from_ras)[[2, 1, 0, 3]]


def positions_along(controls: Grid, voxels: Grid, axis: int) -> NDArray[np.float64]:
    """Where along an axis of ``controls`` the voxels of a grid with parallel axes lie, (n,), at most at its ends."""
    steps_ijk = controls.ijk_from_ras @ voxels.ras_from_ijk
    where = steps_ijk[axis, axis] * np.arange(voxels.shape[axis]) + steps_ijk[axis, 3]
    return where.clip(0.0, controls.shape[axis] - 1)
