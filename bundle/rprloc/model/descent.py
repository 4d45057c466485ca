"""Registration as gradient descent: many steps on the squared difference of looks, its gradient written out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from rprloc.geometry import Grid, Points, apply_affine
from rprloc.model.body import BodyAtlas, BodyMap, positions_along, sample
from rprloc.model.looks import RegistrationImage, Stages

# Swept in docs/experiments.md, E5 (places) and E32 (rates and epsilon of Adam, below).
_PLACES = 6000  # about as many voxels are compared in each step of the descent
_LIKENESS, _SIZE = 100.0, 1e-5  # weights of the squared difference, and of the displacement's square in mm^2


@dataclass(frozen=True, eq=False)
class Places:
    """The voxels near the body (N, 3), those of a group side by side: ``ijk``, and ``offsets_mm`` (4, N) from their
    ``centre_ras`` (3,) with a row of ones. ``groups``: where in them each group lies.
    """

    ijk: NDArray[np.int64]
    offsets_mm: Tensor
    centre_ras: NDArray[np.float64]
    groups: Sequence[slice]

    @classmethod
    def of(cls, picture: RegistrationImage) -> Places:
        groups = _groups(picture.places_ras, picture.grid)
        order, ends = np.concatenate(groups), np.cumsum([len(group) for group in groups])
        places_ras = picture.places_ras[order]
        centre_ras = places_ras.mean(0)
        offsets = np.concatenate([(places_ras - centre_ras).T, np.ones((1, len(order)))])
        slices = [slice(end - len(group), end) for group, end in zip(groups, ends, strict=True)]
        ijk = picture.near.nonzero().cpu().numpy()[order]
        return cls(ijk, torch.from_numpy(offsets).float(), centre_ras, slices)


def improve(
    places: Places,
    picture: RegistrationImage,
    atlas: BodyAtlas,
    starts: Sequence[BodyMap],
    steps: int,
    control_mm: float | None,
    rates_mm: tuple[float, float],
    stages: Stages,
) -> list[BodyMap]:
    """One stage of R registrations side by side, whose maps ``starts`` have the same controls, steps and rates."""
    count, voxel_mm = len(stages), float(picture.grid.spacing_mm[0])
    tables = [atlas.compared(stage.look) for stage in stages]
    at_places = tuple(places.ijk.T)
    image, near = picture.image.cpu(), picture.near.cpu()
    looks_like = torch.stack([stage.look(image, near)[at_places] for stage in stages])  # (R, N)
    controls = starts[0].control_grid if control_mm is None else _control_grid(picture.grid, control_mm)
    affine, displacement = _parameters_of(starts, controls, places.centre_ras)
    matrices = affine[..., :3].clone()
    origin_mm = torch.from_numpy(atlas.origin_mm.copy()).float()[:, None]
    roughness = torch.tensor([stage.roughness for stage in stages]).repeat_interleave(3)
    ways = _ways_to_places(places, picture.grid, controls, range(min(steps, len(places.groups))))
    shift_mm, displacement_mm = rates_mm
    moving = [(affine, torch.tensor([0.01, 0.01, 0.01, shift_mm]))]
    if control_mm is not None:
        moving.append((displacement, torch.full((), displacement_mm)))
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
            gradients.append(_add_smoothness(along, displacement, roughness, control_mm))
        optimizer.step(gradients)
    return _maps_of(affine, displacement, controls, places.centre_ras)


def _parameters_of(maps: Sequence[BodyMap], controls: Grid, centre_ras: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """What the descent moves: for R maps the affine (R, 3, 4) and the displacement (a, b, c, R * 3) at the controls.

    The affine leads from offsets from the centre, and one, to body coordinates: the matrix, and where the centre goes.
    """
    at_controls = [
        sample(torch.from_numpy(known.displacement_mm), known.control_grid, controls.centres_ras()) for known in maps
    ]
    affines = [
        np.column_stack([known.body_from_ras[:3, :3], apply_affine(known.body_from_ras, centre_ras)]) for known in maps
    ]
    return torch.from_numpy(np.stack(affines)).float(), torch.from_numpy(np.concatenate(at_controls, axis=-1))


def _maps_of(affine: Tensor, displacement: Tensor, controls: Grid, centre_ras: NDArray[np.float64]) -> list[BodyMap]:
    """The maps of :func:`_parameters_of`."""
    maps = []
    for number, own in enumerate(affine.numpy()):
        body_from_ras = np.eye(4)
        body_from_ras[:3, :3] = own[:, :3]
        body_from_ras[:3, 3] = own[:, 3] - body_from_ras[:3, :3] @ centre_ras
        moved_mm = displacement[..., 3 * number : 3 * number + 3].movedim(-1, 0).contiguous()
        maps.append(BodyMap(body_from_ras, moved_mm.numpy(), controls))
    return maps


def _add_smoothness(along: Tensor, displacement: Tensor, roughness: Tensor, control_mm: float) -> Tensor:
    """A gradient with that of the displacement's own terms: its mean square, its mean squared slope by ``roughness``.

    Added in place, term by term: in another order sums round otherwise, and many steps make tenths of a mm of that.
    """
    count = displacement.shape[-1] // 3
    along += (2.0 * _SIZE * count / displacement.numel()) * displacement
    for axis in range(3):
        rise = displacement.diff(dim=axis)
        rise *= roughness * (2.0 * count / (control_mm**2 * rise.numel()))
        along.narrow(axis, 1, rise.shape[axis]).add_(rise)
        along.narrow(axis, 0, rise.shape[axis]).sub_(rise)
    return along


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


def _ways_to_places(places: Places, grid: Grid, controls: Grid, numbers: Iterable[int]) -> list[csr_matrix]:
    """For groups of places, the matrices (N, a * b * c) that interpolate values at controls linearly at the places."""
    ways, shape = [], controls.shape
    (by_i, share_i), (by_j, share_j), (by_k, share_k) = (
        _interpolation(positions_along(controls, grid, axis), shape[axis]) for axis in range(3)
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
