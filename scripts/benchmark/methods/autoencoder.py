"""Template matching on features: a self-trained 3D autoencoder's latent of the patch around each extreme point.

The encoder is convolutional and not padded, so that the latents of all windows come out of dense passes: the same
numbers as window by window. Windows lie two voxels of 3 mm apart, as in the paper for the pancreas.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rprloc.geometry import Points
from rprloc.model.network import ChannelNorm, mixed_precision
from rprloc.volume import Volume
from scripts.benchmark.circumstances import read_clock
from scripts.benchmark.fitting import describe_effort, fit, load_weights
from scripts.benchmark.registry import Example, Localization, Method, Row, Setting, register
from scripts.benchmark.scans import SPACING_MM, Scan, pack_scans, patch_of

EDGE_VOX = 22
"""66 mm: the in-plane edge of the paper's head-and-neck patch is 64 mm."""
STRIDE = 2
_NET_STRIDE = 4
_LATENT = 64
_BATCH = 48
MINUTES = {"han": 60.0, "abdomen": 5.0}


class Autoencoder(nn.Module):
    """Patches (N, 1, 22, 22, 22) in [0, 1] to latents (N, 64, 1, 1, 1) and back; larger images to maps of latents."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv3d(1, 32, 4, stride=2), ChannelNorm(32), nn.ReLU(),
            nn.Conv3d(32, 48, 4, stride=2), ChannelNorm(48), nn.ReLU(),
            nn.Conv3d(48, 96, 4), nn.ReLU(),
            nn.Conv3d(96, _LATENT, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.ConvTranspose3d(_LATENT, 96, 4), nn.ReLU(),
            nn.ConvTranspose3d(96, 32, 4, stride=2), nn.ReLU(),
            nn.ConvTranspose3d(32, 1, 4, stride=2),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.encoder(image))


def dense_latents(net: Autoencoder, image: Tensor) -> Tensor:
    """The latents (64, A, B, C) of all windows of an image (I, J, K), STRIDE voxels apart."""
    windows = [(n - EDGE_VOX) // STRIDE + 1 for n in image.shape]
    latents = torch.zeros(_LATENT, *windows)
    shifts = range(_NET_STRIDE // STRIDE)
    with torch.inference_mode(), mixed_precision(image.device):
        for a, b, c in np.ndindex(len(shifts), len(shifts), len(shifts)):
            shifted = image[STRIDE * a :, STRIDE * b :, STRIDE * c :]
            if min(shifted.shape) >= EDGE_VOX:
                part = latents[:, a :: len(shifts), b :: len(shifts), c :: len(shifts)]
                i, j, k = part.shape[1:]
                part[:] = net.encoder(shifted[None, None]).float()[0, :, :i, :j, :k]
    return latents


@register
class FeatureMaps(Method):
    name = "fm"
    rows = tuple(
        Row(
            f"fm-{measure}",
            3,
            f"FM {name}",
            remark="latents of a self-trained autoencoder; both share the dense passes",
            strength="As grey values, blurred a little, which forgives small differences of shape.",
        )
        for measure, name in (("mse", "MSE"), ("cosine", "Cosine"))
    )

    checked = "mean squared error of a patch that comes back"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._nets: dict[str, Autoencoder] = {}

    def weights(self, region: str) -> dict[str, Path]:
        return {"autoencoder": self.setting.folder / "weights" / f"autoencoder-{region}.pt"}

    def caution(self, region: str) -> str:
        edges = " x ".join(f"{count * spacing:g}" for count, spacing in zip(*patch_of(region), strict=True))
        return (
            f"its autoencoder {describe_effort(self.weights(region)['autoencoder'])}, and sees windows with edges of "
            f"{EDGE_VOX * SPACING_MM:g} mm; the paper's patches measure {edges} mm."
        )

    def train(self, region: str) -> None:
        torch.manual_seed(self.setting.seed)
        net = Autoencoder()
        scans = pack_scans(self.setting.split(region, "train"), self.setting.folder / "packed")
        checked = pack_scans(self.scans_to_check(region), self.setting.folder / "packed")

        def error(scans: Sequence[Scan], bodies: Sequence[NDArray], generator: np.random.Generator) -> Tensor:
            """The mean squared error of random patches of some scans."""
            images = np.zeros((_BATCH, 1, EDGE_VOX, EDGE_VOX, EDGE_VOX), np.float32)
            for image in images:
                index = int(generator.integers(len(scans)))
                first = bodies[index][generator.integers(len(bodies[index]))] - EDGE_VOX // 2
                low = np.maximum(first, 0)
                part = scans[index].image[tuple(slice(a, b + EDGE_VOX) for a, b in zip(low, first, strict=True))]
                at = low - first
                image[0][tuple(slice(a, a + n) for a, n in zip(at, part.shape, strict=True))] = part / 255.0
            patch = torch.from_numpy(images)
            with mixed_precision(patch.device):
                again = net(patch)
            return F.mse_loss(again.float(), patch)

        bodies, checked_bodies = (
            [np.argwhere(scan.body()).astype(np.int16) for scan in some] for some in (scans, checked)
        )
        optimizer = torch.optim.Adam(net.parameters(), lr=1.5e-3)
        fit(
            net, lambda generator: error(scans, bodies, generator), optimizer, self.weights(region)["autoencoder"],
            MINUTES[region] * self.setting.minutes, seed=self.setting.seed, scans=len(scans),
            rate_at=lambda share: 1.0 - 0.95 * share,
            check=lambda: error(checked, checked_bodies, np.random.default_rng(self.setting.seed)).item(),
        )  # fmt: skip

    def _latents(self, region: str, volume: Volume) -> tuple[Scan, Tensor]:
        """The latents of all windows; window (a, b, c) has its centre at index STRIDE (a, b, c) - 0.5 of the scan."""
        if region not in self._nets:
            net = Autoencoder()
            load_weights(net, self.weights(region)["autoencoder"])
            self._nets[region] = net
        scan = Scan.of(volume)
        padded = np.pad(scan.image, EDGE_VOX // 2)
        return scan, dense_latents(self._nets[region], torch.from_numpy(padded).float() / 255.0)

    def prepare(self, example: Example, organs: Sequence[str]) -> tuple[str, dict[str, tuple[Tensor, Points]]]:
        """Of every organ the latents (6, 64) of the windows next to its points, and the points less their centres."""
        scan, latents = self._latents(example.case.region, example.volume)
        limits = np.array(latents.shape[1:]) - 1
        marks = {}
        for organ in organs:
            points_ras = example.points_ras[organ]
            windows = np.clip(np.rint((scan.grid.ijk(points_ras) + 0.5) / STRIDE).astype(int), 0, limits)
            marks[organ] = (
                latents[:, windows[:, 0], windows[:, 1], windows[:, 2]].T,
                points_ras - scan.grid.ras(STRIDE * windows - 0.5),
            )
        return example.case.region, marks

    def locate(
        self,
        prepared: Sequence[tuple[str, dict[str, tuple[Tensor, Points]]]],
        query: Volume,
        organs: Sequence[str],
        shots: str = "one",
    ) -> dict[str, Localization]:
        region, marked = prepared[0]
        started = read_clock()
        scan, latents = self._latents(region, query)
        rows = latents.flatten(1)  # (64, A B C)
        squared = rows.square().sum(0)
        shared = read_clock() - started
        results = {}
        for name in ("mse", "cosine"):
            started = read_clock()
            points_ras = {}
            for organ in organs:
                wanted, beyond_centre_mm = marked[organ]
                cross = wanted @ rows  # (6, A B C)
                score = 2.0 * cross - squared if name == "mse" else cross / squared.sqrt().clamp(min=1e-6)
                places = np.stack(np.unravel_index(score.argmax(1).numpy(), latents.shape[1:]), axis=1)
                points_ras[organ] = scan.grid.ras(STRIDE * places - 0.5) + beyond_centre_mm
            results[f"fm-{name}"] = Localization(points_ras, shared + read_clock() - started)
        return results
