"""TODO model.looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rprloc.geometry import Grid, Points

STEP = 2
"""Voxels of the networks' input averaged to one of a picture: 8 mm."""

_WINDOW = (0.26, 0.776)  # network inputs of -150 and 275 HU: what scans kept through a display window show, too

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
