"""The paper's method: patch-by-patch Pnets, coarse and fine, one for each region; the rows of Tables 1 and 2.

Lei et al., MICCAI 2021. Where the text leaves a choice, the one that helps the method was taken: training patches come
from non-air places, patches are cut at exact places by interpolation, each wall of a box is that of its own point, a
run's starting place serves all points, as its latent does not depend on them, and inference and training use the same
mixed precision as the product. Training differs in four points. Three make it possible on a CPU: all pairs among
several patches of a scan count, in place of one pair of two patches; Muon, with a rate that rises at the beginning of
the budget and falls at its end, takes the place of Adam; and the fine network starts as the coarse one, because one
that starts anew hardly learns in an hour. The fourth helps where there are few scans: each seems larger or smaller at
every step. The network's blocks have two convolutions, which the text leaves open. The networks of the abdomen learn
from other scans of the trunk, too, because the agents of long scans start there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rprloc.geometry import Box, Points, wall_coordinates
from rprloc.model.device import choose_device
from rprloc.model.network import mixed_precision
from rprloc.training.optimizer import MuonWithAdamW
from rprloc.volume import Volume
from scripts.benchmark.circumstances import read_clock
from scripts.benchmark.fitting import fit, load_weights, steps_of
from scripts.benchmark.registry import Example, Localization, Method, Row, Setting, face_centres, register
from scripts.benchmark.scans import PATCH, Scan, cut_patches, pack_scans

RUNS = (1, 5, 10, 15, 20)
WEIGHT_DECAY = 1e-4
WARM_UP = 0.02
"""Share of the budget in which the rate rises."""
FULL_PAIRS = 250 * 12_000
"""The paper's recipe: 250 epochs, of 12,000 pairs by the settings that were published with it."""


@dataclass(frozen=True)
class Recipe:
    """How a region's networks are built, trained and used; two values are of the coarse and of the fine network."""

    width: int
    reach_mm: tuple[float, float]
    """r of the paper; the abdomen's fine one is that of the code that was published with it."""
    learning_rate: tuple[float, float]
    cool_down: float
    """Share of the budget in which the rate falls."""
    zoom: float
    """How much larger or smaller a training scan may seem: a few scans are soon learned by heart."""
    batch: tuple[tuple[int, int], tuple[int, int]]
    """Scans a step, and patches of each: all pairs of a scan's patches count."""
    minutes: tuple[float, float]
    """The usual budget on one CPU core."""
    step_runs: int
    """How many runs the rows of several steps and of the fine network have."""
    also_trained_on: tuple[str, ...] = ()
    """Further regions whose training scans teach the networks."""


RECIPES = {
    "han": Recipe(
        width=16,
        reach_mm=(300.0, 30.0),
        learning_rate=(1e-3, 5e-4),
        cool_down=0.8,
        zoom=0.0,
        batch=((2, 8), (4, 4)),
        minutes=(240.0, 80.0),
        step_runs=15,
    ),
    "abdomen": Recipe(
        width=24,
        reach_mm=(700.0, 50.0),
        learning_rate=(1e-3, 5e-4),
        cool_down=0.8,
        zoom=0.15,
        batch=((1, 8), (2, 4)),
        minutes=(225.0, 85.0),
        step_runs=20,
        also_trained_on=("thorax", "trunk"),
    ),
}
CHECKED_PATCHES = 6
_TIMED_PATCHES = 4
_AT_ONCE = 4  # patches that fit a processor's cache


class Block(nn.Module):
    """Two 3x3x3 convolutions with instance norm, and a shortcut."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(width_in, width, 3, padding=1), nn.InstanceNorm3d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv3d(width, width, 3, padding=1), nn.InstanceNorm3d(width))
        self.shortcut = nn.Conv3d(width_in, width, 1) if width_in != width else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.second(self.first(features)) + self.shortcut(features))


class PatchPnet(nn.Module):
    """The paper's projection network: patches (N, 1, i, j, k) to latents (N, 3)."""

    def __init__(self, width: int, shape: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width_in = 1
        for level, factor in enumerate((2, 2, 4, 8, 4)):
            layers.append(Block(width_in, factor * width))
            width_in = factor * width
            if level < 3:
                layers.append(nn.MaxPool3d(2))
        self.trunk = nn.Sequential(*layers)
        features = width_in * int(np.prod(np.array(shape) // 8))
        self.head = nn.Sequential(nn.Linear(features, 8 * width), nn.Linear(8 * width, 4 * width))
        self.latent = nn.Linear(4 * width, 3)

    def forward(self, image: Tensor) -> Tensor:
        with mixed_precision(image.device):
            features = self.features(image)
        return self.latent(features.float())

    def features(self, image: Tensor) -> Tensor:
        return self.head(self.trunk(image).flatten(1))


def _schedule(cool_down: float, share: float) -> float:
    return min(1.0, 0.01 + share / WARM_UP, (1.0 - share) / cool_down)


def offset_mm(from_latent: Tensor, to_latent: Tensor, reach_mm: float) -> Tensor:
    """Equation 2 of the paper: r tanh(p_s - p_q)."""
    return reach_mm * torch.tanh(to_latent - from_latent)


def _body_voxels(scan: Scan) -> NDArray[np.int16]:
    """The indices (N, 3) of a scan's voxels that are body."""
    return np.argwhere(scan.body()).astype(np.int16)


def offset_errors_mm(
    net: PatchPnet,
    region: str,
    stage: int,
    scan: Scan,
    body: NDArray[np.int16],
    count: int,
    generator: np.random.Generator,
    zoom: float = 1.0,
) -> Tensor:
    """The errors (pairs, 3) of the offsets between ``count`` patches of a scan, each pair in one direction.

    ``body``: the indices (N, 3) of the voxels in which the patches lie. The fine network's pairs are those in reach.
    ``zoom``: the scan is seen as that of a patient who is so many times as small.
    """
    device, reach_mm = net.latent.weight.device, RECIPES[region].reach_mm[stage]
    first, second = np.triu_indices(count, 1)
    near = np.zeros(len(first), bool)
    while not near.any():  # patches without a pair in reach teach nothing
        among = body
        if stage == 1:
            far_mm = np.abs(body - body[generator.integers(len(body))]) * scan.grid.spacing_mm
            among = body[(far_mm <= 0.75 * reach_mm * zoom).all(1)]
        chosen = among[generator.integers(len(among), size=count)]
        # Anywhere in the voxels, as agents are: at their centres all patches would be equally blurred.
        places_ras = scan.grid.ras(chosen + generator.uniform(-0.5, 0.5, (count, 3)))
        truth_mm = (places_ras[second] - places_ras[first]) / zoom
        near = np.abs(truth_mm).max(1) <= (reach_mm if stage == 1 else np.inf)
    shape, spacing_mm = PATCH[region]
    images = cut_patches(scan, places_ras, shape, [zoom * step for step in spacing_mm])
    latents = torch.cat([net(part.to(device)) for part in images.split(_AT_ONCE)])
    first, second = first[near], second[near]
    found_mm = offset_mm(latents[first], latents[second], reach_mm)
    return found_mm - torch.from_numpy(truth_mm[near]).float().to(device)


@dataclass(frozen=True, eq=False)
class Marked:
    """An example's latents: coarse (6, 3) and fine (6, 3) of the extreme points, coarse (2, 3) of the diagonal's."""

    name: str
    coarse: dict[str, Tensor]
    fine: dict[str, Tensor]
    diagonal: dict[str, Tensor]


@register
class RprPaper(Method):
    name = "rpr-paper"
    rows = (
        Row("diagonal K=1", 1, "diagonal K=1"),
        *(Row(f"extreme K={runs}", 1, f"extreme K={runs}") for runs in RUNS),
        *(Row(f"M_c {steps}", 2, f"M_c {steps}") for steps in ("one step", "two steps", "three steps")),
        Row("M_c + M_f", 2, "M_c + M_f"),
        Row(
            "rpr-paper",
            3,
            "Ours",
            remark="the paper's method: M_c + M_f, patch by patch",
            strength="It has networks of its own for each region.",
        ),
    )

    checked = "root mean square error of an offset along each axis, mm"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._nets: dict[tuple[str, int], PatchPnet] = {}

    def weights(self, region: str) -> dict[str, Path]:
        folder = self.setting.folder / "weights"
        return {stage: folder / f"rpr-paper-{region}-{stage}.pt" for stage in ("coarse", "fine")}

    def _path(self, region: str, stage: int) -> Path:
        return list(self.weights(region).values())[stage]

    def train(self, region: str) -> None:
        regions = (region, *RECIPES[region].also_trained_on)
        cases = [case for name in regions for case in self.setting.split(name, "train")]
        scans = pack_scans(cases, self.setting.folder / "packed")
        for stage in (0, 1):
            self._train(region, stage, scans)

    def _train(self, region: str, stage: int, scans: list[Scan]) -> None:
        recipe = RECIPES[region]
        torch.manual_seed(self.setting.seed)
        device = choose_device("auto")  # predictions are timed on the CPU
        net = PatchPnet(recipe.width, PATCH[region][0])
        if stage == 1:  # latents of the coarse network, in units of the fine one's reach
            load_weights(net, self._path(region, 0))
            # Halved: a noisy network's short offsets are too long, and a saturated tanh hardly learns.
            net.latent.weight.data *= 0.5 * recipe.reach_mm[0] / recipe.reach_mm[1]
        net.to(device)
        layers = [layer for layer in [*net.trunk.modules(), *net.head] if isinstance(layer, nn.Conv3d | nn.Linear)]
        optimizer = MuonWithAdamW(net, layers, recipe.learning_rate[stage], WEIGHT_DECAY)
        scans_a_step, patches = recipe.batch[stage]
        checked = pack_scans(self.scans_to_check(region), self.setting.folder / "packed")
        errors_of = partial(offset_errors_mm, net, region, stage)

        bodies = [_body_voxels(scan) for scan in scans]

        def loss_of(generator: np.random.Generator) -> Tensor:
            zoomed = 1.0 + recipe.zoom * generator.uniform(-1.0, 1.0, scans_a_step)
            chosen = zip(generator.integers(len(scans), size=scans_a_step), zoomed, strict=True)
            errors = [errors_of(scans[n], bodies[n], patches, generator, zoom) for n, zoom in chosen]
            return torch.cat(errors).square().mean()

        def check() -> float:
            generator = np.random.default_rng(self.setting.seed)
            errors = [errors_of(scan, _body_voxels(scan), CHECKED_PATCHES, generator) for scan in checked]
            return float(torch.cat(errors).square().mean().sqrt())

        fit(
            net,
            loss_of,
            optimizer,
            self._path(region, stage),
            recipe.minutes[stage] * self.setting.minutes,
            seed=self.setting.seed,
            rate_at=partial(_schedule, recipe.cool_down),
            scans=len(scans),
            check=check,
            settings=f"rate {recipe.learning_rate[stage]:g}" + (f", zoom {recipe.zoom:.0%}" if recipe.zoom else ""),
        )

    def _pairs_seen(self, region: str, stage: int) -> int:
        """How many pairs of patches a network was trained with at most: the fine one leaves out those too far apart.

        A pair counts once: the other direction has the same error with the other sign.
        """
        scans, patches = RECIPES[region].batch[stage]
        return scans * (patches * (patches - 1) // 2) * steps_of(self._path(region, stage))

    def caution(self, region: str) -> str:
        shares = " and ".join(f"{self._pairs_seen(region, stage):,}" for stage in (0, 1))
        others = " and ".join(name for name in RECIPES[region].also_trained_on if self.setting.split(name, "train"))
        more = f" The networks learned from scans of the {others}, too." if others else ""
        if RECIPES[region].zoom:
            more += f" In training each scan is made up to {RECIPES[region].zoom:.0%} larger or smaller."
        return (
            f"its coarse and fine networks saw at most {shares} pairs of patches, the paper's about {FULL_PAIRS:,} "
            "each. Training differs from the paper's: all pairs among the patches of a step count, so that fewer "
            "patches make as many pairs; Muon takes the place of Adam; the fine network starts as the coarse one. "
            f"The network's blocks have two convolutions, which the paper's text leaves open.{more}"
        )

    def _latents(self, region: str, stage: int, scan: Scan, places_ras: Points) -> Tensor:
        """Latents (N, 3) of the patches around places (N, 3)."""
        if (region, stage) not in self._nets:
            net = PatchPnet(RECIPES[region].width, PATCH[region][0])
            load_weights(net, self._path(region, stage))
            self._nets[region, stage] = net
        with torch.inference_mode():
            return torch.cat(
                [self._nets[region, stage](cut_patches(scan, place[None], *PATCH[region])) for place in places_ras]
            )

    def _region(self, organs: Sequence[str]) -> str:
        return next(region for region, targets in self.setting.targets.items() if set(organs) <= set(targets))

    def prepare(self, example: Example, organs: Sequence[str]) -> Marked:
        scan, region = Scan.of(example.volume), example.case.region
        coarse, fine, diagonal = {}, {}, {}
        for organ in organs:
            points_ras = example.points_ras[organ]
            coarse[organ] = self._latents(region, 0, scan, points_ras)
            fine[organ] = self._latents(region, 1, scan, points_ras)
            diagonal[organ] = self._latents(region, 0, scan, wall_coordinates(points_ras).reshape(3, 2).T)
        return Marked(example.name, coarse, fine, diagonal)

    def locate(
        self, prepared: Sequence[Marked], query: Volume, organs: Sequence[str], shots: str = "one"
    ) -> dict[str, Localization]:
        """All rows from the same agents: K runs are the first K of 20, each from a random place of its own.

        The diagonal's corners start where the first run does, so that the two rows differ in nothing else.
        """
        marked, region = prepared[0], self._region(organs)
        generator = np.random.default_rng([self.setting.seed, crc32(query.name.encode()), crc32(marked.name.encode())])
        started = read_clock()
        scan = Scan.of(query)
        body_ras, bounds = scan.body_ras(), scan.grid.bounds
        reading = read_clock() - started
        reach_mm = RECIPES[region].reach_mm

        def move(stage: int, agents_ras: Points, targets: Tensor) -> tuple[Points, float]:
            """One step of agents (P, 3) or (1, 3) towards targets (P, 3), and its seconds; agents stay in the scan."""
            begun = read_clock()
            latents = self._latents(region, stage, scan, agents_ras)
            moved = agents_ras + offset_mm(latents, targets, reach_mm[stage]).double().numpy()
            return np.clip(moved, bounds.min_ras, bounds.max_ras), read_clock() - begun

        def starts(count: int) -> Points:
            return body_ras[generator.integers(len(body_ras), size=count)]

        origins = starts(max(RUNS))[:, None]
        diagonal = torch.cat([marked.diagonal[organ] for organ in organs])  # (2 organs, 3)
        corners, seconds = move(0, origins[0], diagonal)
        boxes = [Box(pair.min(0), pair.max(0)) for pair in corners.reshape(-1, 2, 3)]
        results = {
            "diagonal K=1": Localization(
                {organ: face_centres(box) for organ, box in zip(organs, boxes, strict=True)}, reading + seconds
            )
        }

        def result(points_ras: Points, seconds: float) -> Localization:
            by_organ = points_ras.reshape(-1, 6, 3)  # (6 organs, 3) to (organs, 6, 3)
            return Localization(dict(zip(organs, by_organ, strict=True)), reading + seconds)

        targets = torch.cat([marked.coarse[organ] for organ in organs])  # (6 organs, 3)
        runs, times = [], []
        for origin in origins:
            moved, seconds = move(0, origin, targets)
            runs.append(moved)
            times.append(seconds)
        for count in RUNS:
            results[f"extreme K={count}"] = result(np.mean(runs[:count], axis=0), sum(times[:count]))

        count = RECIPES[region].step_runs
        agents, seconds = runs[:count], sum(times[:count])
        coarse, coarse_seconds = np.mean(agents, axis=0), seconds
        results["M_c one step"] = result(coarse, seconds)
        for name in ("two steps", "three steps"):
            steps = [move(0, agent, targets) for agent in agents]
            agents, seconds = [moved for moved, _ in steps], seconds + sum(took for _, took in steps)
            results[f"M_c {name}"] = result(np.mean(agents, axis=0), seconds)
        refined, seconds = move(1, coarse, torch.cat([marked.fine[organ] for organ in organs]))
        results["M_c + M_f"] = results["rpr-paper"] = result(refined, coarse_seconds + seconds)
        slower = self._float32_factor(region, scan, starts(_TIMED_PATCHES))
        results["rpr-paper"] = replace(
            results["rpr-paper"], estimates={"float32": slower * results["rpr-paper"].seconds}
        )
        return results

    def _float32_factor(self, region: str, scan: Scan, places_ras: Points) -> float:
        """How many times as long the patches at some places take in float32, the precision of the paper's day."""
        net = self._nets[region, 0]
        images = cut_patches(scan, places_ras, *PATCH[region])
        times = []
        for passed in (net.forward, net.features):
            with torch.inference_mode():
                passed(images[:1])
                started = read_clock()
                for image in images:
                    passed(image[None])
            times.append(read_clock() - started)
        return times[1] / times[0]
