"""TODO model.input."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.intensity import display_window_air, network_input
from rprloc.model.looks import box_mean
from rprloc.volume import Volume, resample

SPACING_MM = 4.0
"""Voxel edge of the networks' input."""

LATTICE_ANCHOR_MM = 16.0
"""Outer faces of the input lie at world multiples of this, a multiple of every network's output step."""

FOREGROUND_INPUT = 0.03
"""Mean network input (about -880 HU) above which the 5x5x5 voxels around a place count as body, lung included."""


def foreground(image: Tensor) -> Tensor:
    """Whether each voxel of (N, 1, I, J, K) network input in [0, 1] is body, by the mean of 5x5x5 voxels."""
    return box_mean(image, 5) > FOREGROUND_INPUT


def network_grid(grid: Grid, spacing_mm: float, anchor_mm: float) -> Grid:
    """The axis-aligned RAS grid that covers ``grid``, its outer faces at world multiples of ``anchor_mm``.

    Anchored in the world, it is the same however the scan was stored: flipped, permuted or at another spacing.
    """
    bounds, slack_mm = grid.bounds, 1e-3
    first = np.floor((bounds.min_ras + slack_mm) / anchor_mm) * anchor_mm
    last = np.ceil((bounds.max_ras - slack_mm) / anchor_mm) * anchor_mm
    shape = np.rint((last - first) / spacing_mm).astype(int)
    return Grid.isotropic(shape.tolist(), spacing_mm, first + 0.5 * spacing_mm)


def body_input(volume: Volume, device: torch.device) -> tuple[Tensor, Tensor, Grid]:
    """The networks' input (I, J, K) of the box around the body in a scan, where in it the body is, and its grid.

    The box lies on the lattice of the whole scan; what is left out counts as air. Raises InputError if nothing in the
    scan looks like a body.
    """
    at_network_spacing = resample(volume, network_grid(volume.grid, SPACING_MM, LATTICE_ANCHOR_MM))
    image = torch.from_numpy(network_input(at_network_spacing.hu, display_window_air(volume.hu))).to(device)
    body = foreground(image[None, None])[0, 0]
    occupied = body.nonzero()
    if len(occupied) == 0:
        raise no_body_error(volume.name)
    step = int(LATTICE_ANCHOR_MM / SPACING_MM)
    first = occupied.amin(0) // step * step
    shape = (-(-(occupied.amax(0) + 1 - first) // step) * step).tolist()
    i, j, k = first.tolist()
    box = (slice(i, i + shape[0]), slice(j, j + shape[1]), slice(k, k + shape[2]))
    return image[box], body[box], at_network_spacing.grid.cropped((i, j, k), shape)


def no_body_error(name: str) -> InputError:
    return InputError(
        f"{name or 'The scan'} shows no body: hardly a place is brighter than air; a CT scan in Hounsfield "
        "units was expected; check its rescale slope and intercept."
    )
