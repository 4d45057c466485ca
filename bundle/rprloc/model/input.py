"""What the networks see of a scan: its body at 4 mm, on a lattice anchored in the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.intensity import BODY_INPUT, find_display_window_air, to_network_input
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


def prepare_input(volume: Volume, device: torch.device) -> NetworkInput:
    """The networks' input of the box around the body in a scan.

    The box lies on the lattice of the whole scan; what is left out counts as air. Raises InputError if nothing in the
    scan looks like a body.
    """
    at_network_spacing = resample(volume, network_grid(volume.grid, SPACING_MM, LATTICE_ANCHOR_MM))
    image = torch.from_numpy(to_network_input(at_network_spacing.hu, find_display_window_air(volume.hu))).to(device)
    whole = NetworkInput.of(image, at_network_spacing.grid)
    occupied = whole.body.nonzero()
    if len(occupied) == 0:
        raise no_body_error(volume.name)
    step = int(LATTICE_ANCHOR_MM / SPACING_MM)
    first = occupied.amin(0) // step * step
    shape = (-(-(occupied.amax(0) + 1 - first) // step) * step).tolist()
    i, j, k = first.tolist()
    box = (slice(i, i + shape[0]), slice(j, j + shape[1]), slice(k, k + shape[2]))
    return NetworkInput(whole.image[box], whole.body[box], whole.grid.cropped((i, j, k), shape))


def no_body_error(name: str) -> InputError:
    return InputError(
        f"{name or 'The scan'} shows no body: hardly a place is brighter than air. "
        "Check that it is CT in Hounsfield units, with its rescale slope and intercept applied."
    )
