"""The position field: the latent of every place of a scan, from one dense pass of each Pnet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rprloc.errors import InputError
from rprloc.geometry import Grid, Points
from rprloc.network import LATTICE_ANCHOR_MM, SPACING_MM, Pnet, RPRNet
from rprloc.sampling import foreground
from rprloc.volume import Volume, display_window_air, network_grid, network_input, resample

MAX_INPUT_VOXELS = 6_000_000
"""Voxels of network input in one pass; larger scans go in slabs, which is exact because no convolution is padded."""


@dataclass(frozen=True, eq=False)
class LatentMap:
    """One Pnet's latents (C, I, J, K) float32 on the lattice ``grid``; ``inside`` (I, J, K): which places lie in the
    body.
    """

    latents: Tensor
    grid: Grid
    inside: Tensor

    def at(self, points_ras: Points) -> NDArray[np.float32]:
        """Latents (N, C) at world points (N, 3), interpolated linearly; beyond the lattice the nearest value."""
        return sample(self.latents, self.grid, points_ras)

    def places(self) -> tuple[Points, NDArray[np.float32]]:
        """World positions (N, 3) and latents (N, C) of all places in the body."""
        return self.grid.ras(self.inside.nonzero().cpu().numpy()), self.latents[:, self.inside].T.cpu().numpy()


@dataclass(frozen=True, eq=False)
class PositionField:
    """What localization needs of a scan: the coarse Pnet's latents (3) and the fine one's (3 and the descriptor)."""

    coarse: LatentMap
    fine: LatentMap

    def at(self, points_ras: Points) -> NDArray[np.float32]:
        """Coarse and fine latents (N, C + C') side by side at world points (N, 3)."""
        return np.concatenate([self.coarse.at(points_ras), self.fine.at(points_ras)], axis=1)


def sample(values: Tensor, grid: Grid, points_ras: Points) -> NDArray[np.float32]:
    """Values (C, I, J, K) on a grid, at world points (..., 3): (..., C), linear, clamped at the outermost centres."""
    ijk = grid.ijk(points_ras).reshape(-1, 3)
    normalized = (2.0 * ijk + 1.0) / np.array(grid.shape) - 1.0
    lattice = torch.from_numpy(normalized[None, None, None, :, ::-1].copy()).to(values)
    found = F.grid_sample(values[None], lattice, padding_mode="border", align_corners=False)[0, :, 0, 0]  # (C, N)
    return found.T.cpu().numpy().reshape(*np.shape(points_ras)[:-1], values.shape[0])


def position_field(model: RPRNet, volume: Volume) -> PositionField:
    """The position field of a scan, on the device of the model.

    Raises InputError if nothing in the scan looks like a body.
    """
    device = next(model.parameters()).device
    at_network_spacing = resample(volume, network_grid(volume.grid, SPACING_MM, LATTICE_ANCHOR_MM))
    image = torch.from_numpy(network_input(at_network_spacing.hu, display_window_air(volume.hu))).to(device)
    body = foreground(image[None, None])[0, 0]
    occupied = body.nonzero()
    if len(occupied) == 0:
        raise _no_body(volume)
    # Only the box around the body is evaluated, on the lattice of the whole scan: what is left out counts as air.
    step = int(LATTICE_ANCHOR_MM / SPACING_MM)
    first = occupied.amin(0) // step * step
    shape = (-(-(occupied.amax(0) + 1 - first) // step) * step).tolist()
    i, j, k = first.tolist()
    box = (slice(i, i + shape[0]), slice(j, j + shape[1]), slice(k, k + shape[2]))
    grid = at_network_spacing.grid.cropped((i, j, k), shape)
    coarse = latent_map(model.coarse, image[box], body[box], grid)
    if not coarse.inside.any():
        raise _no_body(volume)
    return PositionField(coarse, latent_map(model.fine, image[box], body[box], grid))


def _no_body(volume: Volume) -> InputError:
    return InputError(
        f"{volume.name or 'The scan'} shows no body: hardly a place is brighter than air; a CT scan in Hounsfield "
        "units was expected; check its rescale slope and intercept."
    )


@torch.inference_mode()
def latent_map(net: Pnet, image: Tensor, body: Tensor, grid: Grid) -> LatentMap:
    """One dense pass over a network input (I, J, K), whose edges are multiples of the net's stride.

    The input is padded with air by half the receptive field, so the lattice (I, J, K) / stride spans it to its faces,
    and every latent belongs to the centre of its cell of stride voxels.
    """
    field, stride = net.receptive_field, net.stride
    before = (field - stride) // 2
    outputs = [n // stride for n in image.shape]
    source = F.pad(image[None, None], [before, field - stride - before] * 3)
    source = source.contiguous(memory_format=torch.channels_last_3d)
    rows = max(1, (MAX_INPUT_VOXELS // (source.shape[3] * source.shape[4]) - field) // stride + 1)
    slabs = []
    for first in range(0, outputs[0], rows):
        count = min(rows, outputs[0] - first)
        slabs.append(net(source[:, :, first * stride : (first + count - 1) * stride + field])[0])
    cell_centre = 0.5 * (stride - 1)
    to_input = np.diag([stride, stride, stride, 1.0])
    to_input[:3, 3] = cell_centre
    inside = F.avg_pool3d(body[None, None].float(), stride)[0, 0] > 0.5
    return LatentMap(
        torch.cat(slabs, dim=1).float().contiguous(),
        Grid((outputs[0], outputs[1], outputs[2]), grid.ras_from_ijk @ to_input),
        inside,
    )
