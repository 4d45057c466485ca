"""What the networks see of a scan: its body at 4 mm, on a lattice anchored in the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.intensity import BODY_INPUT
from rprloc.modality import CT, Modality
from rprloc.volume import Volume, resample

SPACING_MM = 4.0
"""Voxel edge of the networks' input."""

LATTICE_ANCHOR_MM = 16.0
"""Outer faces of the input lie at world multiples of this, a multiple of every network's output step."""


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """What the networks see of a scan: ``image`` (I, J, K) in [0, 1] on ``grid``, and where in it the ``body`` is
    (I, J, K, bool).
    """

    image: Tensor
    body: Tensor
    grid: Grid

    @classmethod
    def of(cls, image: Tensor, grid: Grid) -> NetworkInput:
        """The input of an image (I, J, K) in [0, 1] on its grid, its body found in it."""
        return cls(image, find_body(image[None, None])[0, 0], grid)


def find_body(image: Tensor) -> Tensor:
    """Whether each voxel of (N, 1, I, J, K) network input in [0, 1] is body, by the mean of 5x5x5 voxels."""
    return box_mean(image, 5) > BODY_INPUT


def box_mean(values: Tensor, edge: int) -> Tensor:
    """The mean of the edge^3 voxels around each of (..., I, J, K), one axis after the other; 0 lies around them."""
    for axis in (-3, -2, -1):
        total, size = values.clone(), values.shape[axis]
        for away in range(1, min(edge // 2 + 1, size)):
            total.narrow(axis, away, size - away).add_(values.narrow(axis, 0, size - away))
            total.narrow(axis, 0, size - away).add_(values.narrow(axis, away, size - away))
        values = total.div_(edge)
    return values


def network_grid(grid: Grid, spacing_mm: float, anchor_mm: float) -> Grid:
    """The axis-aligned RAS grid that covers ``grid``, its outer faces at world multiples of ``anchor_mm``.

    Anchored in the world, it is the same however the scan was stored: flipped, permuted or at another spacing.
    """
    bounds, slack_mm = grid.bounds, 1e-3
    first = np.floor((bounds.min_ras + slack_mm) / anchor_mm) * anchor_mm
    last = np.ceil((bounds.max_ras - slack_mm) / anchor_mm) * anchor_mm
    shape = np.rint((last - first) / spacing_mm).astype(int)
    return Grid.isotropic(shape.tolist(), spacing_mm, first + 0.5 * spacing_mm)


def image_at_network_spacing(volume: Volume, modality: Modality) -> tuple[NDArray[np.float32], Grid]:
    """A whole scan as networks for a modality see it: (I, J, K) in [0, 1], 0 outside of the scan, and its grid.

    Raises InputError if it surely is of another modality.
    """
    sign = modality.sign_of_another(volume.hu, volume.modality)
    if sign is not None:
        raise InputError(
            f"{volume.name or 'The scan'} {sign}, but {modality.name} is needed here. Give another scan, or weights "
            "for this one."
        )
    resampled = resample(volume, network_grid(volume.grid, SPACING_MM, LATTICE_ANCHOR_MM), modality.fill)
    return modality.to_input(resampled.hu.astype(np.float32, copy=False), volume.hu), resampled.grid


def prepare_input(volume: Volume, device: torch.device, modality: Modality = CT) -> NetworkInput:
    """The input, of networks for a modality, of the box around the body in a scan.

    The box lies on the lattice of the whole scan; what is left out counts as air. Raises InputError if nothing in the
    scan looks like a body, or if it surely is of another modality.
    """
    image, grid = image_at_network_spacing(volume, modality)
    whole = NetworkInput.of(torch.from_numpy(image).to(device), grid)
    occupied = whole.body.nonzero()
    if len(occupied) == 0:
        raise no_body_error(volume.name, (modality,))
    step = int(LATTICE_ANCHOR_MM / SPACING_MM)
    first = occupied.amin(0) // step * step
    shape = (-(-(occupied.amax(0) + 1 - first) // step) * step).tolist()
    i, j, k = first.tolist()
    box = (slice(i, i + shape[0]), slice(j, j + shape[1]), slice(k, k + shape[2]))
    return NetworkInput(whole.image[box], whole.body[box], whole.grid.cropped((i, j, k), shape))


def no_body_error(name: str, modalities: Sequence[Modality]) -> InputError:
    return InputError(
        f"{name or 'The scan'} shows no body: hardly a place is brighter than air. "
        f"Check that it is {', or '.join(modality.usable_form for modality in modalities)}."
    )
