"""The body frame and how a scan gets into it: registration of its grey values to the body atlas.

The atlas is the mean of all training scans in their common body frame (``alignment.py``); no label had part in it. A
scan's map to the frame starts from the pose that the coarse Pnet sees and is improved by gradient descent on the
squared difference of what both look like, first as an affine map, then with a smooth displacement on top. That is done
twice, by grey values and by local contrast, and the mean is taken. Training aligns its scans by grey values alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from rprloc.geometry import Grid, Points, apply_affine

STEP = 2
"""Voxels of the networks' input averaged to one of a picture: 8 mm."""

_WINDOW = (0.26, 0.776)  # network inputs of -150 and 275 HU: what scans kept through a display window show, too
_PLACES = 6000  # about as many voxels are compared in each step of the descent
_LIKENESS, _SIZE = 100.0, 1e-5  # weights of the squared difference, and of the displacement's square in mm^2
_NOISE = 0.05  # the deviation of grey values that is no contrast yet

Look = Callable[[Tensor, Tensor], Tensor]
"""What is compared of a picture (I, J, K) in [0, 1] that is known at some voxels (I, J, K, bool): again (I, J, K)."""


class Stage(NamedTuple):
    """Steps of a registration: how many, the mm between the controls of the displacement (None: affine alone), what is
    compared, and the weight of the displacement's squared gradient.
    """

    steps: int
    control_mm: float | None
    look: Look
    roughness: float = 10.0


Stages = Sequence[Stage]


def grey(image: Tensor, known: Tensor) -> Tensor:
    """The grey values themselves."""
    return image


def smooth_grey(image: Tensor, known: Tensor) -> Tensor:
    """The mean of the known 3x3x3 voxels around each."""
    weight = known.float()
    total, share = box_mean(torch.stack([image * weight, weight]), 3)
    return total / (share + 1e-4)


def local_contrast(image: Tensor, known: Tensor) -> Tensor:
    """Each voxel less the mean of the known 5x5x5 around it, over four deviations; 0 where not known.

    It shows borders alike, whatever the contrast agent did to the organs on either side.
    """
    weight = known.float()
    share, total, squares = box_mean(torch.stack([weight, weight * image, weight * image.square()]), 5)
    mean = total / (share + 1e-4)
    deviation = (squares / (share + 1e-4) - mean.square()).clamp(min=0.0).sqrt()
    return (image - mean) / (4.0 * (deviation + _NOISE)) * weight


def smooth_contrast(image: Tensor, known: Tensor) -> Tensor:
    """Local contrast, smoothed: its valleys are wider."""
    return smooth_grey(local_contrast(image, known), known)


def box_mean(values: Tensor, edge: int) -> Tensor:
    """The mean of the edge^3 voxels around each of (..., I, J, K), one axis after the other; 0 lies around them."""
    for axis in (-3, -2, -1):
        total, size = values.clone(), values.shape[axis]
        for away in range(1, min(edge // 2 + 1, size)):
            total.narrow(axis, away, size - away).add_(values.narrow(axis, 0, size - away))
            total.narrow(axis, 0, size - away).add_(values.narrow(axis, away, size - away))
        values = total.div_(edge)
    return values


BY_GREY: Stages = (
    Stage(30, None, grey),
    Stage(30, 64.0, grey, 5.0),
    Stage(40, 32.0, grey, 5.0),
    Stage(60, 20.0, grey, 5.0),
)
BY_CONTRAST: Stages = (
    Stage(30, None, smooth_grey),
    Stage(30, 64.0, smooth_contrast, 2.5),
    Stage(40, 32.0, local_contrast, 2.5),
    Stage(60, 20.0, local_contrast, 2.5),
)
_FURTHER = 1.2
"""A displacement that is to be smooth falls short of the true one: by this it goes further."""


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
        for axis, count in enumerate(voxels.shape):
            where = _positions(self.control_grid, voxels, axis)
            share = (1.0 - np.abs(where[:, None] - np.arange(self.control_grid.shape[axis]))).clip(0.0)  # (n, controls)
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
        """What is compared of the mean picture, and whether the place is known, (A, B, C, 2), on the CPU."""
        if look not in self._compared:
            mean, known = self.values.cpu()
            self._compared[look] = torch.stack([look(mean, known > 0.5), known], dim=-1)
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
    """The map of a query scan to the body frame: the mean of two registrations, whose errors are not the same ones;
    its displacement goes _FURTHER.
    """
    maps = registrations(picture, atlas, pose, (BY_GREY, BY_CONTRAST))
    return BodyMap(
        np.mean([found.body_from_ras for found in maps], axis=0),
        np.float32(_FURTHER) * np.mean([found.displacement_mm for found in maps], axis=0),
        maps[0].control_grid,
    )


def register(picture: Picture, atlas: BodyAtlas, start: BodyMap, stages: Stages) -> BodyMap:
    """The map of a scan to the body frame, improved from ``start``."""
    return registrations(picture, atlas, start, (stages,))[0]


@contextmanager
def small_steps() -> Iterator[None]:
    """For many steps on little data: no gradients by PyTorch, and one thread, as several wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)


@small_steps()
def registrations(picture: Picture, atlas: BodyAtlas, start: BodyMap, courses: Sequence[Stages]) -> tuple[BodyMap, ...]:
    """Maps of a scan to the body frame, improved from ``start`` side by side: one for each of the courses, whose stages
    may differ in what they compare and in roughness alone. On the CPU always, and deterministic on one machine.

    Adam on the mean squared difference of looks between voxels near the body and the atlas where it is known, plus the
    displacement's roughness; its steps shrink to nothing over every stage. The gradient is written out: by PyTorch's
    autograd the same steps take six times as long.
    """
    places = _Places.of(picture)
    found = [start] * len(courses)
    for alike in zip(*courses, strict=True):
        ((steps, control_mm),) = {(stage.steps, stage.control_mm) for stage in alike}
        found = _improved(places, picture, atlas, found, steps, control_mm, alike)
    return tuple(found)


@dataclass(frozen=True, eq=False)
class _Places:
    """The voxels near the body (N, 3), those of a group side by side: ``ijk``, and ``offsets_mm`` (4, N) from their
    ``centre_ras`` (3,) with a row of ones. ``groups``: where in them each group lies.
    """

    ijk: NDArray[np.int64]
    offsets_mm: Tensor
    centre_ras: NDArray[np.float64]
    groups: Sequence[slice]

    @classmethod
    def of(cls, picture: Picture) -> _Places:
        groups = _groups(picture.places_ras, picture.grid)
        order, ends = np.concatenate(groups), np.cumsum([len(group) for group in groups])
        places_ras = picture.places_ras[order]
        centre_ras = places_ras.mean(0)
        offsets = np.concatenate([(places_ras - centre_ras).T, np.ones((1, len(order)))])
        slices = [slice(end - len(group), end) for group, end in zip(groups, ends, strict=True)]
        ijk = picture.near.nonzero().cpu().numpy()[order]
        return cls(ijk, torch.from_numpy(offsets).float(), centre_ras, slices)


def _improved(
    places: _Places,
    picture: Picture,
    atlas: BodyAtlas,
    starts: Sequence[BodyMap],
    steps: int,
    control_mm: float | None,
    stages: Stages,
) -> list[BodyMap]:
    """One stage of R registrations side by side, whose maps ``starts`` have the same controls."""
    count, voxel_mm = len(stages), float(picture.grid.spacing_mm[0])
    tables = [atlas.compared(stage.look) for stage in stages]
    at_places = tuple(places.ijk.T)
    image, near = picture.image.cpu(), picture.near.cpu()
    looks_like = torch.stack([stage.look(image, near)[at_places] for stage in stages])  # (R, N)
    controls = starts[0].control_grid if control_mm is None else _control_grid(picture.grid, control_mm)
    at_controls = [
        sample(torch.from_numpy(one.displacement_mm), one.control_grid, controls.centres_ras()) for one in starts
    ]
    displacement = torch.from_numpy(np.concatenate(at_controls, axis=-1))  # (a, b, c, R * 3)
    # From offsets and one to body coordinates: the map's matrix, and where it sends the centre.
    affine = torch.from_numpy(
        np.stack(
            [
                np.column_stack([one.body_from_ras[:3, :3], apply_affine(one.body_from_ras, places.centre_ras)])
                for one in starts
            ]
        )
    ).float()
    matrices = affine[..., :3].clone()
    origin_mm = atlas.origin_mm.cpu()[:, None]
    roughness = torch.tensor([stage.roughness for stage in stages]).repeat_interleave(3)
    ways = _ways_to_places(places, picture.grid, controls, range(min(steps, len(places.groups))))
    moving = [(affine, torch.tensor([0.01, 0.01, 0.01, 1.0]))]
    if control_mm is not None:
        moving.append((displacement, torch.ones(())))
    optimizer = _Adam(moving, steps)
    for step in range(steps):
        number = step % len(places.groups)
        group = places.groups[number]
        offsets_mm, way = places.offsets_mm[:, group], ways[number]
        moved_mm = torch.from_numpy(way @ displacement.flatten(0, 2).numpy()).T  # (R * 3, N)
        body_mm = torch.addmm(moved_mm, affine.flatten(0, 1), offsets_mm).unflatten(0, (count, 3))
        pull = _pull(tables, (body_mm - origin_mm) / voxel_mm, looks_like[:, group]).flatten(0, 1) / voxel_mm
        along_affine = (pull @ offsets_mm.T).unflatten(0, (count, 3))
        along_affine[..., :3] += affine[..., :3] - matrices
        gradients = [along_affine]
        if control_mm is not None:
            along = torch.from_numpy(way.T @ np.ascontiguousarray(pull.numpy().T)).reshape(displacement.shape)
            along += (2.0 * _SIZE * count / displacement.numel()) * displacement
            for axis in range(3):
                rise = displacement.diff(dim=axis)
                rise *= roughness * (2.0 * count / (control_mm**2 * rise.numel()))
                along.narrow(axis, 1, rise.shape[axis]).add_(rise)
                along.narrow(axis, 0, rise.shape[axis]).sub_(rise)
            gradients.append(along)
        optimizer.step(gradients)
    found = []
    for number in range(count):
        body_from_ras = np.eye(4)
        body_from_ras[:3, :3] = affine[number, :, :3].numpy()
        body_from_ras[:3, 3] = affine[number, :, 3].numpy() - body_from_ras[:3, :3] @ places.centre_ras
        own = displacement[..., 3 * number : 3 * number + 3].movedim(-1, 0).contiguous()
        found.append(BodyMap(body_from_ras, own.numpy(), controls))
    return found


def _pull(tables: Sequence[Tensor], at_voxels: Tensor, looks_like: Tensor) -> Tensor:
    """The gradient (R, 3, N) of R likeness terms by the places (R, 3, N), in voxels of the atlas, where they are taken.

    ``tables``: for each how the atlas looks and whether it is known, (A, B, C, 2). ``looks_like`` (R, N): the scan.
    A likeness term is the mean squared difference of looks where the atlas is known, interpolated linearly.
    """
    shape = tables[0].shape[:3]
    last = torch.tensor(shape)[:, None] - 1.0
    clamped = torch.minimum(at_voxels.clamp(min=0.0), last)
    first = torch.minimum(clamped.floor(), last - 1.0).clamp_(min=0.0)
    share = (clamped - first)[..., None].expand(-1, -1, -1, 2).contiguous()  # (R, 3, N, 2)
    strides = torch.tensor([shape[1] * shape[2], shape[2], 1])
    index = (first * strides[:, None]).sum(1).int()  # (R, N)
    corners = torch.cartesian_prod(*(torch.arange(2).clamp(max=n - 1) for n in shape)) @ strides
    index = index[:, None] + corners.int()[:, None]  # (R, 8, N)
    # Both values of a voxel are fetched as one of 64 bits, which takes half as long.
    values = torch.empty(len(tables), 8, index.shape[2], dtype=torch.int64)
    for table, wanted, into in zip(tables, index, values, strict=True):
        torch.index_select(table.view(torch.int64).flatten(), 0, wanted.flatten(), out=into.view(-1))
    cube = values.view(torch.float32).reshape(len(tables), 2, 2, 2, -1, 2)
    square = torch.empty(len(tables), 2, *cube.shape[2:])  # value and slope by i at 2 x 2 edges
    torch.sub(cube[:, 1], cube[:, 0], out=square[:, 1])
    torch.addcmul(cube[:, 0], square[:, 1], share[:, 0, None, None], out=square[:, 0])
    line = torch.empty(len(tables), 3, *cube.shape[3:])  # value, slope by i and slope by j at both ends
    by_j = square[:, :, 1] - square[:, :, 0]
    torch.addcmul(square[:, :, 0], by_j, share[:, 1, None, None], out=line[:, :2])
    line[:, 2] = by_j[:, 0]
    point = torch.empty(len(tables), 4, *cube.shape[4:])  # value, slopes by i, j and k
    by_k = line[:, :, 1] - line[:, :, 0]
    torch.addcmul(line[:, :, 0], by_k, share[:, 2, None], out=point[:, :3])
    point[:, 3] = by_k[:, 0]
    off, seen = point[:, 0, :, 0] - looks_like, point[:, 0, :, 1]
    weight = _LIKENESS / (seen.sum(1, keepdim=True) + 1.0)
    squared = off.square()
    mean = (seen * squared).sum(1, keepdim=True) * (weight / _LIKENESS)
    by_look, by_known = 2.0 * weight * seen * off, weight * (squared - mean)
    pull = point[:, 1:, :, 0] * by_look[:, None] + point[:, 1:, :, 1] * by_known[:, None]
    return pull * (clamped == at_voxels)  # beyond the atlas, its outermost values are constant


def _ways_to_places(places: _Places, grid: Grid, controls: Grid, numbers: Iterable[int]) -> list[csr_matrix]:
    """For groups of places, the matrices (N, a * b * c) that interpolate values at controls linearly at the places."""
    ways, shape = [], controls.shape
    (by_i, share_i), (by_j, share_j), (by_k, share_k) = (
        _interpolation(_positions(controls, grid, axis), shape[axis]) for axis in range(3)
    )
    # Tables of all neighbours of a place, by its i and by its j and k together.
    by_jk = (by_j[:, None, :, None] * shape[2] + by_k[:, None]).reshape(len(by_j) * len(by_k), -1)
    share_jk = (share_j[:, None, :, None] * share_k[:, None]).reshape(by_jk.shape)
    from_i = np.repeat(by_i * (shape[1] * shape[2]), by_jk.shape[1], axis=1), np.repeat(share_i, by_jk.shape[1], axis=1)
    from_jk = np.tile(by_jk, by_i.shape[1]), np.tile(share_jk, by_i.shape[1])
    for number in numbers:
        i, j, k = places.ijk[places.groups[number]].T
        jk = j * len(by_k) + k
        index, share = from_i[0].take(i, 0) + from_jk[0].take(jk, 0), from_i[1].take(i, 0) * from_jk[1].take(jk, 0)
        begins = np.arange(0, index.size + 1, index.shape[1], dtype=np.int32)
        ways.append(csr_matrix((share.ravel(), index.ravel(), begins), (len(i), int(np.prod(shape)))))
    return ways


def _interpolation(where: NDArray[np.float64], count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Which of ``count`` values in a row to take at positions (n,) between them, and the share of each: (n, 1 or 2)."""
    if count == 1:
        return np.zeros((len(where), 1), np.int32), np.ones((len(where), 1), np.float32)
    first = np.floor(where).clip(0, count - 2).astype(np.int32)
    return np.stack([first, first + 1], axis=1), np.stack([first + 1 - where, where - first], axis=1).astype(np.float32)


def _positions(controls: Grid, voxels: Grid, axis: int) -> NDArray[np.float64]:
    """Where along an axis of ``controls`` the voxels of a grid with parallel axes lie, (n,), at most at its ends."""
    steps_ijk = controls.ijk_from_ras @ voxels.ras_from_ijk
    where = steps_ijk[axis, axis] * np.arange(voxels.shape[axis]) + steps_ijk[axis, 3]
    return where.clip(0.0, controls.shape[axis] - 1)


class _Adam:
    """Adam (Kingma and Ba, 2015) with rates that fall linearly to 1 / steps of what they were.

    At its first use the class torch.optim.Adam loads PyTorch's compiler, which takes seconds.
    """

    def __init__(self, rates: Sequence[tuple[Tensor, Tensor]], steps: int) -> None:
        self._parameters = [parameter for parameter, _ in rates]
        self._rates = [rate for _, rate in rates]
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps, self._done = steps, 0

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move every parameter down its gradient."""
        fallen = 1.0 + (1.0 / self._steps - 1.0) * self._done / self._steps
        self._done += 1
        for parameter, rate, mean, square, gradient in zip(
            self._parameters, self._rates, self._means, self._squares, gradients, strict=True
        ):
            mean.lerp_(gradient, 0.1)
            square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            deviation = (square / (1.0 - 0.999**self._done)).sqrt_().add_(1e-8)
            parameter.addcdiv_(mean * rate, deviation, value=-fallen / (1.0 - 0.9**self._done))


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
