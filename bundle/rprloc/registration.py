"""The body frame and how a scan gets into it: registration of its grey values to the body atlas.

The atlas is the mean of all training scans in their common body frame (``alignment.py``); no label had part in it. A
scan's map to the frame starts from the pose that the coarse Pnet sees and is improved by gradient descent on the
squared difference of grey values, first as an affine map, then with a smooth displacement on top. Training aligns its
scans by the same descent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rprloc.geometry import Grid, Points, apply_affine

STEP = 2
"""Voxels of the networks' input averaged to one of a picture: 8 mm."""

_WINDOW = (0.26, 0.776)  # network inputs of -150 and 275 HU: what scans kept through a display window show, too
_PLACES = 6000  # about as many voxels are compared in each step of the descent
_ROUGHNESS, _SIZE = 10.0, 1e-5  # weights of the displacement's squared gradient and of its square in mm^2

Stages = Sequence[tuple[int, float | None]]
"""For each stage of a registration: steps, and mm between the controls of the displacement (None: affine alone)."""

QUERY_STAGES: Stages = ((30, None), (30, 64.0), (40, 40.0))


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

    def body(self, points_ras: Points) -> Points:
        """Body coordinates (..., 3) of world points (..., 3)."""
        displacement = sample(torch.from_numpy(self.displacement_mm), self.control_grid, points_ras)
        return apply_affine(self.body_from_ras, points_ras) + displacement

    def ras(self, points_body: Points) -> Points:
        """World points (..., 3) whose body coordinates are (..., 3): the agent's walk from where the affine sends it.

        Every step moves by the offset that is still missing, as in the paper; smooth maps are found to 0.01 mm.
        """
        ras_from_body = np.linalg.inv(self.body_from_ras)
        points_ras = apply_affine(ras_from_body, points_body)
        for _ in range(30):
            points_ras = points_ras + 0.7 * (points_body - self.body(points_ras)) @ ras_from_body[:3, :3].T
        return points_ras


@dataclass(frozen=True, eq=False)
class BodyAtlas:
    """``values`` (2, A, B, C) in the body frame at 8 mm: the mean picture in [0, 1], and whether several scans show
    the place (0 or 1). ``origin_mm`` (3,): body coordinates of the first voxel's centre.
    """

    values: Tensor
    origin_mm: Tensor


@dataclass(frozen=True, eq=False)
class Picture:
    """What registration compares of a scan: soft tissue (I, J, K) in [0, 1] at 8 mm, and where the body is ``near``."""

    image: Tensor
    near: Tensor
    grid: Grid

    @classmethod
    def of(cls, image: Tensor, body: Tensor, grid: Grid) -> Picture:
        """The picture of a network input (I, J, K) and of its body (I, J, K), cut to one voxel around the body."""
        soft = ((image - _WINDOW[0]) / (_WINDOW[1] - _WINDOW[0])).clamp(0.0, 1.0)
        soft, share = (F.avg_pool3d(values[None, None].float(), STEP) for values in (soft, body))
        near = F.max_pool3d((share > 0.3).float(), 3, 1, 1)[0, 0] > 0.0
        to_input = np.diag([STEP, STEP, STEP, 1.0])
        to_input[:3, 3] = 0.5 * (STEP - 1)
        shape = near.shape
        coarser = Grid((shape[0], shape[1], shape[2]), grid.ras_from_ijk @ to_input)
        occupied = near.nonzero()
        if len(occupied) == 0:
            return cls(soft[0, 0], near, coarser)
        first, last = occupied.amin(0).tolist(), (occupied.amax(0) + 1).tolist()
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        return cls(
            soft[0, 0][box], near[box], coarser.cropped(first, [b - a for a, b in zip(first, last, strict=True)])
        )

    @cached_property
    def places_ras(self) -> Points:
        """World positions (N, 3) of the voxels near the body, in the order of ``values``."""
        return self.grid.ras(self.near.nonzero().cpu().numpy())

    @property
    def values(self) -> Tensor:
        """Grey values (N,) of the voxels near the body."""
        return self.image[self.near]


def sample(values: Tensor, grid: Grid, points_ras: Points) -> NDArray[np.float32]:
    """Values (C, I, J, K) on a grid, at world points (..., 3): (..., C), linear, clamped at the outermost centres."""
    ijk = grid.ijk(points_ras).reshape(-1, 3)
    normalized = (2.0 * ijk + 1.0) / np.array(grid.shape) - 1.0
    lattice = torch.from_numpy(normalized[None, None, None, :, ::-1].copy()).to(values)
    found = F.grid_sample(values[None], lattice, padding_mode="border", align_corners=False)[0, :, 0, 0]  # (C, N)
    return found.T.cpu().numpy().reshape(*np.shape(points_ras)[:-1], values.shape[0])


def robust_affine(
    sources: Tensor, places: Tensor, weights: Tensor, *, ridge_mm2: float, outlier_mm: float, rounds: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One affine map each of sources to places, both (M, K, 3): matrix (M, 3, 3), shift (M, 3), and residuals (M,).

    Weighted least squares, weights (M, K), with a ridge towards a pure shift; in every round but the first, pairs whose
    residual exceeds ``outlier_mm`` have lost weight (Cauchy weights). The residual is the weighted root mean square,
    per axis.
    """
    ridge, weight = ridge_mm2 * torch.eye(3).to(sources), weights
    for _ in range(rounds):
        share = (weight / weight.sum(1, keepdim=True))[..., None]  # (M, K, 1)
        mean_source, mean_place = (share * sources).sum(1), (share * places).sum(1)
        s, x = sources - mean_source[:, None], places - mean_place[:, None]
        moments = (share * s).transpose(1, 2)  # (M, 3, K)
        turn = torch.linalg.solve(moments @ s + ridge, moments @ x + ridge)  # source row vector @ turn = place
        squared_mm = (x - s @ turn).square().sum(2)  # (M, K)
        residual_mm = (share[..., 0] * squared_mm / 3.0).sum(1).sqrt()
        weight = weights / (1.0 + squared_mm / outlier_mm**2)
    matrix = turn.transpose(1, 2)
    return matrix, mean_place - (matrix @ mean_source[..., None])[..., 0], residual_mm


@torch.inference_mode(False)
@torch.enable_grad()
def register(picture: Picture, atlas: BodyAtlas, start: BodyMap, stages: Stages) -> BodyMap:
    """The map of a scan to the body frame, improved from ``start``; deterministic on one machine.

    Adam on the mean squared difference of grey values between voxels near the body and the atlas where it is known,
    plus the displacement's roughness; its steps shrink to nothing over every stage.
    """
    device, known = atlas.values.device, atlas.values.clone()[None]  # inference tensors have no gradient
    places_ras, values = torch.from_numpy(picture.places_ras).float().to(device), picture.values.to(device)
    groups = [torch.from_numpy(group).to(device) for group in _groups(picture.places_ras, picture.grid)]
    extent = torch.tensor(known.shape[2:], device=device)
    voxel_mm = float(picture.grid.spacing_mm[0])
    origin_mm, centre = atlas.origin_mm.to(device), places_ras.mean(0)
    found = start
    for steps, control_mm in stages:
        matrix = torch.from_numpy(found.body_from_ras[:3, :3]).float().to(device)
        shift = torch.from_numpy(found.body_from_ras[:3, 3]).float().to(device)
        controls = found.control_grid if control_mm is None else _control_grid(picture.grid, control_mm)
        at_controls = sample(torch.from_numpy(found.displacement_mm), found.control_grid, controls.centres_ras())
        displacement = torch.from_numpy(np.ascontiguousarray(np.moveaxis(at_controls, -1, 0))).to(device)
        displacement.requires_grad_(control_mm is not None)
        turn, move = (torch.zeros(n, device=device, requires_grad=True) for n in ((3, 3), (3,)))
        parameters = [{"params": [turn], "lr": 0.01}, {"params": [move], "lr": 1.0}]
        if control_mm is not None:
            parameters.append({"params": [displacement], "lr": 1.0})
        optimizer = torch.optim.Adam(parameters)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1.0 / steps, steps)
        control_ijk = controls.ijk(picture.places_ras)
        lattice = torch.from_numpy(((2.0 * control_ijk + 1.0) / np.array(controls.shape) - 1.0)[:, ::-1].copy())
        lattice = lattice.float().to(device)
        for step in range(steps):
            chosen = groups[step % len(groups)]
            x, seen_at = places_ras[chosen], lattice[chosen][None, None, None]
            moved = F.grid_sample(displacement[None], seen_at, padding_mode="border", align_corners=False)[0, :, 0, 0].T
            body_mm = x @ (matrix + turn).T + shift + move - turn @ centre + moved
            normalized = (2.0 * (body_mm - origin_mm) / voxel_mm + 1.0) / extent - 1.0
            there = normalized.flip(-1)[None, None, None]
            grey, seen = F.grid_sample(known, there, padding_mode="border", align_corners=False)[0, :, 0, 0]
            loss = 100.0 * (seen * (grey - values[chosen]).square()).sum() / (seen.sum() + 1.0)
            loss = loss + 0.5 * turn.square().sum()
            if control_mm is not None:
                gradients = [(displacement.diff(dim=axis) / control_mm).square().mean() for axis in (1, 2, 3)]
                loss = loss + _ROUGHNESS * sum(gradients) + _SIZE * displacement.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        affine = np.eye(4)
        affine[:3, :3] = (matrix + turn).detach().cpu().numpy()
        affine[:3, 3] = (shift + move - turn @ centre).detach().cpu().numpy()
        found = BodyMap(affine, displacement.detach().cpu().numpy(), controls)
    return found


def _groups(places_ras: Points, grid: Grid) -> list[NDArray[np.int64]]:
    """Indices of places (N, 3) at the voxels of a grid, dealt out at random to groups of about _PLACES.

    A place's group depends on where in the world it lies alone: the same scan at another spacing has a slightly other
    body, and must not get other groups.
    """
    count = 2 ** max(0, round(np.log2(max(1, len(places_ras)) / _PLACES)))
    ijk = np.rint(places_ras / grid.spacing_mm).astype(np.int64) % 4096
    drawn = np.random.default_rng(0).integers(2**31, size=(3, 4096))
    group = (drawn[0, ijk[:, 0]] ^ drawn[1, ijk[:, 1]] ^ drawn[2, ijk[:, 2]]) % count
    return [np.flatnonzero(group == number) for number in range(count) if (group == number).any()]


def _control_grid(grid: Grid, control_mm: float) -> Grid:
    """A lattice about ``control_mm`` apart, at least 3 along each axis, from the first to the last voxel of a grid."""
    voxels = np.array(grid.shape) - 1
    shape = np.maximum(3, np.ceil((voxels + 1) * grid.spacing_mm / control_mm).astype(int) + 1)
    to_grid = np.diag([*(np.maximum(voxels, 1) / (shape - 1)), 1.0])
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), grid.ras_from_ijk @ to_grid)
