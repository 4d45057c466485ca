"""The body frame and how a scan gets into it: registration of its grey values to the body atlas.

The atlas is the mean of all training scans in their common body frame (``alignment.py``); no label had part in it. A
scan's map to the frame starts from the pose that the coarse Pnet sees and is improved by gradient descent on the
squared difference of what both look like, first as an affine map, then with a smooth displacement on top. That is done
twice, by grey values and by local contrast, and the mean is taken. Training aligns its scans by grey values alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.optim.adam import adam

from rprloc.geometry import Grid, Points, apply_affine

STEP = 2
"""Voxels of the networks' input averaged to one of a picture: 8 mm."""

_WINDOW = (0.26, 0.776)  # network inputs of -150 and 275 HU: what scans kept through a display window show, too
_PLACES = 6000  # about as many voxels are compared in each step of the descent
_LIKENESS, _SIZE = 100.0, 1e-5  # weights of the squared difference, and of the displacement's square in mm^2
_NOISE = 0.05  # the deviation of grey values that is no contrast yet

Look = Callable[[Tensor, Tensor], Tensor]
"""What is compared of a picture (I, J, K) in [0, 1] that is known at some voxels (I, J, K, bool): again (I, J, K)."""

Stages = Sequence[tuple[int, float | None, Look]]
"""For each stage: steps, mm between the controls of the displacement (None: affine alone), and what is compared."""


def grey(image: Tensor, known: Tensor) -> Tensor:
    """The grey values themselves."""
    return image


def smooth_grey(image: Tensor, known: Tensor) -> Tensor:
    """The mean of the known 3x3x3 voxels around each."""
    weight = known.float()
    total, share = box_mean(torch.stack([image * weight, weight])[:, None], 3)[:, 0]
    return total / (share + 1e-4)


def local_contrast(image: Tensor, known: Tensor) -> Tensor:
    """Each voxel less the mean of the known 5x5x5 around it, over four deviations; 0 where not known.

    It shows borders alike, whatever the contrast agent did to the organs on either side.
    """
    weight = known.float()
    share, total, squares = box_mean(torch.stack([weight, weight * image, weight * image.square()])[:, None], 5)[:, 0]
    mean = total / (share + 1e-4)
    deviation = (squares / (share + 1e-4) - mean.square()).clamp(min=0.0).sqrt()
    return (image - mean) / (4.0 * (deviation + _NOISE)) * weight


def smooth_contrast(image: Tensor, known: Tensor) -> Tensor:
    """Local contrast, smoothed: its valleys are wider."""
    return smooth_grey(local_contrast(image, known), known)


def box_mean(values: Tensor, edge: int) -> Tensor:
    """The mean of the edge^3 voxels around each of (N, C, I, J, K), one axis after the other; 0 lies around them."""
    padded = F.pad(values, [edge // 2] * 6)
    for kernel in ((edge, 1, 1), (1, edge, 1), (1, 1, edge)):
        padded = F.avg_pool3d(padded, kernel, stride=1)
    return padded


_ROUGHNESS: dict[Look, float] = {grey: 10.0, smooth_grey: 10.0, local_contrast: 5.0, smooth_contrast: 5.0}
"""Weights of the displacement's squared gradient."""

BY_GREY: Stages = ((30, None, grey), (30, 64.0, grey), (40, 40.0, grey))
BY_CONTRAST: Stages = ((30, None, smooth_grey), (30, 64.0, smooth_contrast), (40, 40.0, local_contrast))


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

    def sampled_on(self, values: Tensor, body_grid: Grid, voxels: Grid) -> NDArray[np.float32]:
        """Values (D, A, B, C) on a grid in the body frame, at the body coordinates of a grid's voxels: (I, J, K, D).

        Like :func:`sample` at ``body(voxels.centres_ras())``, but quick: the axes of ``voxels`` must be parallel to
        those of ``control_grid``, so that the displacement can be interpolated along one axis after the other.
        """
        to_lattice = _normalized_from_ras(body_grid)
        lattice_from_ras = to_lattice @ self.body_from_ras
        found = torch.from_numpy(to_lattice[:3, :3]).float() @ torch.from_numpy(self.displacement_mm).flatten(1)
        found = found.unflatten(1, self.displacement_mm.shape[1:])
        steps_ijk = self.control_grid.ijk_from_ras @ voxels.ras_from_ijk
        for axis, count in enumerate(voxels.shape):
            controls = self.control_grid.shape[axis]
            where = (steps_ijk[axis, axis] * np.arange(count) + steps_ijk[axis, 3]).clip(0.0, controls - 1)
            share = (1.0 - np.abs(where[:, None] - np.arange(controls))).clip(0.0)  # (count, controls)
            # The axis comes in front and goes to the end, so after three rounds they are in order.
            found = found.movedim(1, -1) @ torch.from_numpy(share).float().T
            step = torch.from_numpy(lattice_from_ras[:3, :3] @ voxels.ras_from_ijk[:3, axis])
            found += (step[:, None] * torch.arange(count)).float()[:, None, None]
        found += torch.from_numpy(lattice_from_ras[:3, :3] @ voxels.ras_from_ijk[:3, 3] + lattice_from_ras[:3, 3]).to(
            found
        )[:, None, None, None]
        sampled = F.grid_sample(values[None], found.movedim(0, -1)[None], padding_mode="border", align_corners=False)
        return sampled[0].movedim(0, -1).numpy()

    def ras(self, points_body: Points) -> Points:
        """World points (..., 3) whose body coordinates are (..., 3): the agent's walk from where the affine sends it.

        Every step moves by the offset that is still missing, as in the paper; smooth maps are found to 0.01 mm.
        """
        ras_from_body = np.linalg.inv(self.body_from_ras)
        points_ras = apply_affine(ras_from_body, points_body)
        for _ in range(30):
            missing_mm = points_body - self.body(points_ras)
            points_ras = points_ras + 0.7 * missing_mm @ ras_from_body[:3, :3].T
            if np.abs(missing_mm).max(initial=0.0) < 0.005:
                break
        return points_ras


@dataclass(frozen=True, eq=False)
class BodyAtlas:
    """``values`` (2, A, B, C) in the body frame at 8 mm: the mean picture in [0, 1], and whether several scans show
    the place (0 or 1). ``origin_mm`` (3,): body coordinates of the first voxel's centre.
    """

    values: Tensor
    origin_mm: Tensor

    def compared(self, look: Look) -> Tensor:
        """What is compared of the mean picture, and whether the place is known, (1, 2, A, B, C)."""
        if look not in self._compared:
            mean, known = self.values
            self._compared[look] = torch.stack([look(mean, known > 0.5), known])[None]
        return self._compared[look]

    @cached_property
    def _compared(self) -> dict[Look, Tensor]:
        return {}


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
    lattice = _normalized(grid, points_ras).to(values)[None, None, None]
    found = F.grid_sample(values[None], lattice, padding_mode="border", align_corners=False)[0, :, 0, 0]  # (C, N)
    return found.T.cpu().numpy().reshape(*np.shape(points_ras)[:-1], values.shape[0])


def _normalized(grid: Grid, points_ras: Points) -> Tensor:
    """What grid_sample (align_corners=False) calls world points (..., 3) on a grid: (N, 3), k first."""
    return torch.from_numpy(apply_affine(_normalized_from_ras(grid), points_ras).reshape(-1, 3))


def _normalized_from_ras(grid: Grid) -> NDArray[np.float64]:
    """The 4x4 matrix from world points to what grid_sample (align_corners=False) calls them on a grid: k first."""
    shape = np.array(grid.shape)
    normalized_from_ijk = np.diag([*(2.0 / shape), 1.0])
    normalized_from_ijk[:3, 3] = 1.0 / shape - 1.0
    return (normalized_from_ijk @ grid.ijk_from_ras)[[2, 1, 0, 3]]


def robust_affine(
    sources: Tensor, places: Tensor, weights: Tensor, *, ridge_mm2: float, outlier_mm: float, rounds: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Affine maps of sources (K, 3) to places (K, 3), one for each row of weights (M, K): matrix (M, 3, 3), shift
    (M, 3), and residuals (M,).

    Weighted least squares with a ridge towards a pure shift; in every round but the first, pairs whose residual exceeds
    ``outlier_mm`` have lost weight (Cauchy weights). The residual is the weighted root mean square, per axis.
    """
    ridge, weight = ridge_mm2 * torch.eye(3).to(sources), weights
    middle_source, middle_place = sources.mean(0), places.mean(0)  # sums of products of what is small lose nothing
    s, x = sources - middle_source, places - middle_place
    s_and_x = torch.cat([s, x], dim=1)
    moments = torch.cat([s_and_x, (s[:, :, None] * s_and_x[:, None]).flatten(1)], dim=1)  # (K, 6 + 3 * 6)
    for _ in range(rounds):
        share = weight / weight.sum(1, keepdim=True)  # (M, K)
        means, products = (share @ moments).split([6, 18], dim=1)
        mean_s, mean_x = means.split(3, dim=1)
        covariances = products.unflatten(1, (3, 6)) - mean_s[:, :, None] * means[:, None]
        turn = torch.linalg.solve(covariances[..., :3] + ridge, covariances[..., 3:] + ridge)  # row vector s @ turn = x
        shift = mean_x - (mean_s[:, None] @ turn)[:, 0]
        squared_mm = torch.zeros_like(share)
        for axis in range(3):
            squared_mm += (x[:, axis] - torch.addmm(shift[:, axis, None], turn[..., axis], s.T)).square_()
        residual_mm = ((share * squared_mm).sum(1) / 3.0).sqrt()
        weight = weights / (1.0 + squared_mm / outlier_mm**2)
    matrix = turn.transpose(1, 2)
    return matrix, shift + middle_place - matrix @ middle_source, residual_mm


def registered(picture: Picture, atlas: BodyAtlas, pose: BodyMap) -> BodyMap:
    """The map of a query scan to the body frame: the mean of two registrations, whose errors are not the same ones."""
    maps = [register(picture, atlas, pose, stages) for stages in (BY_GREY, BY_CONTRAST)]
    return BodyMap(
        np.mean([found.body_from_ras for found in maps], axis=0),
        np.mean([found.displacement_mm for found in maps], axis=0),
        maps[0].control_grid,
    )


@contextmanager
def _descent() -> Iterator[None]:
    """For gradient descent on a few thousand places: gradients on, and one thread, which is twice as fast as two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)


class _Adam:
    """PyTorch's Adam with rates that fall linearly to 1 / steps of what they were.

    By its functional form: at its first use the class torch.optim.Adam loads PyTorch's compiler, which takes seconds.
    """

    def __init__(self, rates: Sequence[tuple[Tensor, float]], steps: int) -> None:
        self._parameters = [parameter for parameter, _ in rates]
        self._rates = [rate for _, rate in rates]
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._counts = [torch.zeros(()) for _ in rates]
        self._steps, self._done = steps, 0

    def step(self, loss: Tensor) -> None:
        """Move every parameter down the gradient of the loss."""
        gradients = torch.autograd.grad(loss, self._parameters)
        with torch.no_grad():
            for n, rate in enumerate(self._rates):
                adam(
                    [self._parameters[n]],
                    [gradients[n]],
                    [self._means[n]],
                    [self._squares[n]],
                    [],
                    [self._counts[n]],
                    amsgrad=False,
                    beta1=0.9,
                    beta2=0.999,
                    lr=rate,
                    weight_decay=0.0,
                    eps=1e-8,
                    maximize=False,
                )
        fall = 1.0 / self._steps - 1.0
        factor = 1.0 + fall / (self._steps + self._done * fall)  # of the rate before, as in torch.optim's LinearLR
        self._rates = [rate * factor for rate in self._rates]
        self._done += 1


@_descent()
def register(picture: Picture, atlas: BodyAtlas, start: BodyMap, stages: Stages) -> BodyMap:
    """The map of a scan to the body frame, improved from ``start``; deterministic on one machine.

    Adam on the mean squared difference of looks between voxels near the body and the atlas where it is known, plus the
    displacement's roughness; its steps shrink to nothing over every stage.
    """
    device = atlas.values.device
    places_ras = torch.from_numpy(picture.places_ras).float().to(device)
    groups = [torch.from_numpy(group).to(device) for group in _groups(picture.places_ras, picture.grid)]
    places = [places_ras[group] for group in groups]
    extent = torch.tensor(atlas.values.shape[1:], device=device)
    voxel_mm = float(picture.grid.spacing_mm[0])
    origin_mm, centre = atlas.origin_mm.to(device), places_ras.mean(0)
    found = start
    for steps, control_mm, look in stages:
        known = atlas.compared(look)
        values = look(picture.image, picture.near)[picture.near].to(device)
        looks_like = [values[group] for group in groups]
        matrix = torch.from_numpy(found.body_from_ras[:3, :3]).float().to(device)
        shift = torch.from_numpy(found.body_from_ras[:3, 3]).float().to(device)
        controls = found.control_grid if control_mm is None else _control_grid(picture.grid, control_mm)
        at_controls = sample(torch.from_numpy(found.displacement_mm), found.control_grid, controls.centres_ras())
        displacement = torch.from_numpy(np.ascontiguousarray(np.moveaxis(at_controls, -1, 0))).to(device)
        displacement.requires_grad_(control_mm is not None)
        turn, move = (torch.zeros(n, device=device, requires_grad=True) for n in ((3, 3), (3,)))
        rates = [(turn, 0.01), (move, 1.0)]
        if control_mm is not None:
            rates.append((displacement, 1.0))
        optimizer = _Adam(rates, steps)
        lattice = _normalized(controls, picture.places_ras).float().to(device)
        seen_at = [lattice[group][None, None, None] for group in groups]
        for step in range(steps):
            number = step % len(groups)
            moved = F.grid_sample(displacement[None], seen_at[number], padding_mode="border", align_corners=False)
            affine_mm = places[number] @ (matrix + turn).T + shift + move - turn @ centre
            body_mm = affine_mm + moved[0, :, 0, 0].T
            there = ((2.0 * (body_mm - origin_mm) / voxel_mm + 1.0) / extent - 1.0).flip(-1)[None, None, None]
            found_there, seen = F.grid_sample(known, there, padding_mode="border", align_corners=False)[0, :, 0, 0]
            squared = (seen * (found_there - looks_like[number]).square()).sum() / (seen.sum() + 1.0)
            loss = _LIKENESS * squared
            loss = loss + 0.5 * turn.square().sum()
            if control_mm is not None:
                gradients = [(displacement.diff(dim=axis) / control_mm).square().mean() for axis in (1, 2, 3)]
                loss = loss + _ROUGHNESS[look] * sum(gradients) + _SIZE * displacement.square().mean()
            optimizer.step(loss)
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
