"""The Pnets: fully-convolutional networks that project every place of a scan to its latent position.

The paper's Pnet maps one patch to a 3D latent; two latents give the offset between their patches. Here the head is
linear and in millimetres (a tanh of a difference is not additive), and no convolution is padded: the latent of a place
depends on the patch around it alone, so one dense pass equals patch-by-patch evaluation and no position leaks from the
border of a crop.
"""

import hashlib
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rprloc.errors import InputError
from rprloc.files import atomic_path
from rprloc.modality import CT, Modality, modalities_named, modality_among
from rprloc.model.body import BodyAtlas
from rprloc.model.shipped import find_weights
from rprloc.volume import Volume

MM_PER_UNIT = 100.0


class ChannelNorm(nn.Module):
    """Layer norm over the channels at each place of (N, C, I, J, K): unlike instance norm, no field of view enters."""

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
        self.receptive_field, self.stride, self.mm_per_unit = 1, 1, MM_PER_UNIT
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
        return self.heads(self.trunk(image))

    def heads(self, features: Tensor) -> Tensor:
        """Latents (N, 3 + D, i, j, k) of the trunk's features (N, C, i, j, k), float32."""
        rows = features.permute(0, 2, 3, 4, 1)  # a product of matrices: quicker than a convolution of one voxel
        latents = F.linear(rows, self.position.weight.flatten(1), self.position.bias) * self.mm_per_unit
        if self.descriptor is not None:
            descriptor = F.linear(rows, self.descriptor.weight.flatten(1), self.descriptor.bias)
            latents = torch.cat([latents, F.normalize(descriptor, dim=-1)], dim=-1)
        return latents.permute(0, 4, 1, 2, 3)


# How small the networks may be: docs/experiments.md, E11.
COARSE_LAYERS = (
    (32, 4, 2, 1),
    (64, 4, 2, 1),
    (96, 3, 1, 1),
    (128, 3, 1, 1),
    (128, 3, 1, 2),
    (128, 3, 1, 1),
    (128, 3, 1, 1),
)
"""(channels, kernel, stride, dilation): a patch of 58 voxels (232 mm), an output every 4 voxels (16 mm)."""

FINE_LAYERS = ((32, 4, 2, 1), (48, 3, 1, 1), (64, 3, 1, 2), (64, 3, 1, 2), (96, 3, 1, 1))
"""(channels, kernel, stride, dilation): a patch of 28 voxels (112 mm), an output every 2 voxels (8 mm)."""

DESCRIPTOR_CHANNELS = 32
_SECOND = "second_atlas_values"


class RPRNet(nn.Module):
    """The coarse and the fine Pnet of one model, and the body atlas of its frame; the forward pass is the coarse one's.

    The atlas lies in the buffers ``atlas_values`` (2, A, B, C), uint8, 255 for 1.0, and ``atlas_origin_mm`` (3,); a new
    model has an empty one, of ``atlas_shape`` (A, B, C) for loaders that want the shapes of the weights to be there.
    Weights for another modality than CT name it in the buffer ``modality_name``, in ASCII; those for CT have none.
    Those for two, such as CT+MR, have an atlas of the second in the same frame, too: ``second_atlas_values``.
    """

    __jit_unused_properties__ = ["atlas", "modality", "modalities"]  # noqa: RUF012 (as TorchScript reads it)
    atlas_values: Tensor
    atlas_origin_mm: Tensor

    def __init__(
        self,
        coarse_layers: Sequence[Sequence[int]] = COARSE_LAYERS,
        fine_layers: Sequence[Sequence[int]] = FINE_LAYERS,
        descriptor_channels: int = DESCRIPTOR_CHANNELS,
        atlas_shape: Sequence[int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.coarse = Pnet(coarse_layers)
        self.fine = Pnet(fine_layers, descriptor_channels)
        self.register_buffer("atlas_values", torch.zeros(2, *atlas_shape, dtype=torch.uint8))
        self.register_buffer("atlas_origin_mm", torch.zeros(3))
        self.register_load_state_dict_pre_hook(_take_what_weights_differ_in)
        self._atlases: dict[str, tuple[Tensor, BodyAtlas]] = {}  # by the buffer's name; and which tensor it is of

    @property
    def atlas(self) -> BodyAtlas:
        """The body atlas on the device of the weights; of the first modality, if they are for two."""
        return self._atlas_in("atlas_values")

    @atlas.setter
    def atlas(self, atlas: BodyAtlas) -> None:
        self.atlas_values = (atlas.values * 255.0).round().to(self.atlas_values)
        self.atlas_origin_mm = torch.from_numpy(atlas.origin_mm.copy()).to(self.atlas_origin_mm)

    def atlas_of(self, modality: Modality) -> BodyAtlas:
        """What scans of one of the weights' modalities are registered to, in the one frame of all."""
        return self._atlas_in("atlas_values" if modality is self.modalities[0] else _SECOND)

    def add_second_atlas(self, atlas: BodyAtlas) -> None:
        """Give weights for two modalities the second one's atlas, on the grid of the first one's."""
        self.register_buffer(_SECOND, (atlas.values * 255.0).round().to(self.atlas_values))

    def _atlas_in(self, name: str) -> BodyAtlas:
        values = self._buffers[name]
        assert values is not None
        if name not in self._atlases or self._atlases[name][0] is not values:  # it has been loaded, moved or set
            origin_mm = self.atlas_origin_mm.cpu().double().numpy()
            self._atlases[name] = values, BodyAtlas.at(values.float() / 255.0, origin_mm)
        return self._atlases[name][1]

    @property
    def modality(self) -> str:
        """What the weights are for, of WEIGHTS_FOR."""
        name = self._buffers.get("modality_name")
        return CT.name if name is None else bytes(name.tolist()).decode("ascii", "replace")

    @modality.setter
    def modality(self, name: str) -> None:
        for buffer in ("modality_name", _SECOND):
            self._buffers.pop(buffer, None)
        if name != CT.name:
            letters = torch.tensor(list(name.encode("ascii")), dtype=torch.uint8)
            self.register_buffer("modality_name", letters.to(self.atlas_values.device))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that the weights are for. Raises InputError for one that this version does not know."""
        return modalities_named(self.modality)

    def modality_of(self, volume: Volume) -> Modality:
        """As what the weights see a scan: as their one modality, or as the one of two that it seems to be."""
        return modality_among(self.modalities, volume.hu, volume.modality)

    def forward(self, image: Tensor) -> Tensor:
        """Coarse latent positions (N, 3, i, j, k) in mm of an image (N, 1, I, J, K) in [0, 1]."""
        return self.coarse(image)

    def identity(self) -> str:
        """A fingerprint of the weights: latents of one model mean nothing to another."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]


def _take_what_weights_differ_in(model: RPRNet, state: Mapping[str, Tensor], *_: object) -> None:
    """Before a state is loaded: an atlas is as large as the body that it was made of, and CT has no name."""
    model.modality = CT.name
    for buffer in ("modality_name", _SECOND):
        if buffer in state:
            model.register_buffer(buffer, torch.zeros_like(state[buffer], device=model.atlas_values.device))
    values = state.get("atlas_values")
    if values is not None and values.ndim == 4 and len(values) == 2:
        model.atlas_values = torch.zeros_like(values, device=model.atlas_values.device)


def place_on(model: RPRNet, device: torch.device | str) -> RPRNet:
    """The model on a device, in the memory layout in which its convolutions and channel norms are fastest."""
    for net in (model.coarse, model.fine):  # not the atlas, which has four axes
        net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return model.to(device)


def mixed_precision(device: torch.device) -> torch.autocast:
    """A context in which convolutions run in bfloat16 on devices with instructions for it; on others it does nothing.

    Heads must stay out of it: millimetres need more than its 8 bits.
    """
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # older versions of torch do not tell
        capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        able = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


def load_model(path: str | Path | None = None, device: torch.device | str = "cpu") -> RPRNet:
    """The model from a state dict on disk, or a shipped one by its name (by default the default one), for inference.

    Raises InputError if there is no such file or if it does not hold an RPRNet's weights.
    """
    path = find_weights(path)
    if not path.is_file():
        raise InputError(
            f"There are no weights at {path}. Give the path of model.pt of the RPR-Loc bundle or of a training run, or "
            "a name that 'rprloc models' lists."
        )
    model = RPRNet()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on files that it then refuses
            state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError, KeyError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path} does not hold the weights of an RPR-Loc model. Give the model.pt of the bundle or of a training "
            "run. If it is one of these, download or train it again."
        ) from error
    try:
        if len(model.modalities) > 1 and _SECOND not in state:
            raise InputError("it lacks an atlas. Download or train it again.")
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}") from error
    return place_on(model.eval().requires_grad_(False), device)


def save_model(model: RPRNet, path: Path) -> None:
    """The model's weights as a plain state dict, written whole or not at all."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
