"""One dense pass of a Pnet over a scan: the latent of every place, exact up to the scan's faces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rprloc.geometry import Grid, Points
from rprloc.model.body import sample
from rprloc.model.input import NetworkInput
from rprloc.model.network import Pnet

MAX_INPUT_VOXELS = 6_000_000
"""Voxels of network input in one pass; larger scans go in slabs, which is exact because no convolution is padded."""

_ROWS = 16  # of a layer's outputs made at once (docs/experiments.md, E27)

_Range = tuple[int, int]  # first, and one past the last


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


@torch.inference_mode()
def compute_latents(
    net: Pnet,
    seen: NetworkInput,
    *,
    border: int = 0,
    threads: Callable[[], int] = torch.get_num_threads,
) -> LatentMap:
    """One dense pass over a network input (I, J, K), whose edges are multiples of the net's stride.

    Around the input is air without end, so the lattice (I, J, K) / stride spans it to its faces, and every latent
    belongs to the centre of its cell of stride voxels. ``border`` places at either end of each axis are left out, fewer
    where they are a quarter of it. ``threads`` is asked again and again how many to work with.
    """
    stride = net.stride
    whole = [n // stride for n in seen.image.shape]
    left_out = [min(border, (n - 1) // 4) for n in whole]
    wanted = [(out, n - out) for out, n in zip(left_out, whole, strict=True)]
    (start, end), *across = wanted
    rows = max(1, (MAX_INPUT_VOXELS // (seen.image.shape[1] * seen.image.shape[2]) - net.receptive_field) // stride)
    slabs = [
        _latents(net, seen.image, [(first, min(first + rows, end)), *across], threads)
        for first in range(start, end, rows)
    ]
    by_place = [slab.permute(1, 2, 3, 0) for slab in slabs]  # as they lie in memory
    cell_centre = 0.5 * (stride - 1)
    to_input = np.diag([stride, stride, stride, 1.0])
    to_input[:3, 3] = cell_centre
    lattice = Grid((whole[0], whole[1], whole[2]), seen.grid.ras_from_ijk @ to_input)
    inside = F.avg_pool3d(seen.body[None, None].float(), stride)[0, 0] > 0.5
    return LatentMap(
        (by_place[0] if len(slabs) == 1 else torch.cat(by_place)).permute(3, 0, 1, 2),
        lattice.cropped(left_out, [b - a for a, b in wanted]),
        inside[tuple(slice(a, b) for a, b in wanted)],
    )


def _latents(net: Pnet, image: Tensor, wanted: list[_Range], threads: Callable[[], int]) -> Tensor:
    """The latents (C, i, j, k) of a range of cells of an input (I, J, K) that lies in air without end.

    Where a feature sees air alone it is known: it is the same everywhere. So each layer is evaluated only where its
    features are needed and see some of the image; around that they are filled in, which is exact.
    """
    needed = [wanted]  # of each layer's outputs, counted from that whose patch begins half a receptive field outside
    for _, kernel, stride, dilation in reversed(net.layers):
        needed.insert(0, [(a * stride, (b - 1) * stride + dilation * (kernel - 1) + 1) for a, b in needed[0]])
    before = (net.receptive_field - net.stride) // 2
    patch, step = 1, 1
    kept = [[(max(a, before), min(b, n + before)) for (a, b), n in zip(needed[0], image.shape, strict=True)]]
    features = image[tuple(slice(a - before, b - before) for a, b in kept[0])][None, None]
    features = features.contiguous(memory_format=torch.channels_last_3d)
    air = torch.zeros(1, 1, 1, 1, 1).to(features)
    for level, (_, kernel, stride, dilation) in enumerate(net.layers):
        layer = net.trunk[3 * level : 3 * level + 3]
        patch, step = patch + dilation * (kernel - 1) * step, step * stride
        sees_image = [(-((patch - 1 - before) // step), (n - 1 + before) // step + 1) for n in image.shape]
        here = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(needed[level + 1], sees_image, strict=True)]
        source = [(a * stride, (b - 1) * stride + dilation * (kernel - 1) + 1) for a, b in here]
        features = _with_surroundings(features, kept[-1], source, air)
        pieces = []
        for a, b in _parts(here[0]):
            torch.set_num_threads(threads())
            first = (a - here[0][0]) * stride
            pieces.append(layer(features[:, :, first : first + (b - a - 1) * stride + dilation * (kernel - 1) + 1]))
        features = torch.cat(pieces, 2)
        air = layer(air.expand(-1, -1, *[dilation * (kernel - 1) + 1] * 3))
        kept.append(here)
    with torch.autocast(features.device.type, enabled=False):
        return net.heads(features.float())[0]


def _parts(whole: _Range) -> list[_Range]:
    """A range in parts of _ROWS."""
    first, end = whole
    return [(a, min(a + _ROWS, end)) for a in range(first, end, _ROWS)]


def _with_surroundings(features: Tensor, have: list[_Range], want: list[_Range], air: Tensor) -> Tensor:
    """Features (1, C, i, j, k) that cover the ranges ``have``, cut to or filled with ``air`` to the ranges ``want``."""
    both = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(have, want, strict=True)]
    inner = features[_slices(both, have)]
    if both == want:
        return inner
    filled = air.expand(-1, -1, *(b - a for a, b in want)).contiguous(memory_format=torch.channels_last_3d)
    filled[_slices(both, want)] = inner
    return filled


def _slices(part: list[_Range], whole: list[_Range]) -> tuple[slice, ...]:
    """Where the ranges ``part`` lie in an array (1, C, i, j, k) that covers the ranges ``whole``."""
    return slice(None), slice(None), *(slice(a - c, b - c) for (a, b), (c, _) in zip(part, whole, strict=True))
