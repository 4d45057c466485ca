"""What registration compares: the image of a scan at 8 mm, and its looks (grey values, local contrast)."""

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
from rprloc.intensity import REGISTRATION_WINDOW
from rprloc.model.input import SPACING_MM, NetworkInput, box_mean

STEP = 2
"""Voxels of the networks' input averaged to one of the image: 8 mm."""

REGISTRATION_SPACING_MM = STEP * SPACING_MM
_NOISE = 0.05  # the deviation of grey values that is no contrast yet (docs/experiments.md, E6)

Look = Callable[[Tensor, Tensor], Tensor]
"""What is compared of an image (I, J, K) in [0, 1] that is known at some voxels (I, J, K, bool): again (I, J, K)."""


class Stage(NamedTuple):
    """Steps of a registration: how many, the mm between the controls of the displacement (None: affine alone), what is
    compared, the weight of the displacement's squared gradient, and how far a step goes at most in mm, about: the
    affine's shift, and the displacement.
    """

    steps: int
    control_mm: float | None
    look: Look
    roughness: float = 10.0
    rates_mm: tuple[float, float] = (1.0, 1.0)


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


@dataclass(frozen=True, eq=False)
class RegistrationImage:
    """What registration compares of a scan: soft tissue (I, J, K) in [0, 1] at 8 mm, and where the body is ``near``."""

    image: Tensor
    near: Tensor
    grid: Grid

    @classmethod
    def of(cls, seen: NetworkInput) -> RegistrationImage:
        """The image of a network input, cut to one voxel around the body."""
        darkest, brightest = REGISTRATION_WINDOW
        soft = ((seen.image - darkest) / (brightest - darkest)).clamp(0.0, 1.0)
        soft, share = (F.avg_pool3d(values[None, None].float(), STEP) for values in (soft, seen.body))
        near = F.max_pool3d((share > 0.3).float(), 3, 1, 1)[0, 0] > 0.0
        to_input = np.diag([STEP, STEP, STEP, 1.0])
        to_input[:3, 3] = 0.5 * (STEP - 1)
        shape = near.shape
        coarser = Grid((shape[0], shape[1], shape[2]), seen.grid.ras_from_ijk @ to_input)
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
