"""The Pnets: fully-convolutional networks that project every place of a scan to its latent position.

The paper's Pnet maps one patch to a 3D latent; two latents give the offset between their patches. Here the head is linear and in
millimetres (a tanh of a difference is not additive), and no convolution is padded: the latent of a place depends on the patch around
it alone, so one dense pass equals patch-by-patch evaluation and no position leaks from the border of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MM_PER_UNIT = 100.0


class ChannelNorm(nn.Module):
    """Layer norm over the channels at each place of (N, C, I, J, K): unlike instance norm blind to the field of view."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class Pnet(nn.Module):
    """A projection network from image patches to latent positions.

    Args:
        layers: one (channels, kernel, stride, dilation) for every convolution.
        descriptor_channels: length of the unit descriptor beside the position; 0 for none.

    ``receptive_field`` (patch edge) and ``stride`` (step between outputs) are in voxels of the input.
    """

    def __init__(self, layers: Sequence[Sequence[int]], descriptor_channels: int = 0) -> None:
        super().__init__()
        self.layers = [[int(n) for n in layer] for layer in layers]
        self.descriptor_channels = int(descriptor_channels)
        self.receptive_field, self.stride = 1, 1
        blocks: list[nn.Module] = []
        width = 1
        for channels, kernel, stride, dilation in self.layers:
            blocks += [nn.Conv3d(width, channels, kernel, stride, dilation=dilation), ChannelNorm(channels), nn.ReLU()]
            self.receptive_field += dilation * (kernel - 1) * self.stride
            self.stride *= stride
            width = channels
        self.trunk = nn.Sequential(*blocks)
        self.position = nn.Conv3d(width, 3, 1)
        self.descriptor = nn.Conv3d(width, self.descriptor_channels, 1) if self.descriptor_channels else None

    def forward(self, image: Tensor) -> Tensor:
        """Latents (N, 3 + D, i, j, k) of an image (N, 1, I, J, K) in [0, 1]: position in mm, then the unit descriptor.

        i = (I - receptive_field) // stride + 1; the first output belongs to the patch that begins at the first voxel.
        """
        features = self.trunk(image)
        with torch.autocast(image.device.type, enabled=False):  # millimetres need more than the 8 bits of bfloat16
            features = features.float()
            position_mm = self.position(features) * MM_PER_UNIT
            if self.descriptor is None:
                return position_mm
            return torch.cat([position_mm, F.normalize(self.descriptor(features), dim=1)], dim=1)
