"""Self-supervised training of the coarse and the fine Pnet on unlabelled scans.

First all scans are brought into one body frame, without labels (``alignment.py``). Then both networks learn relative
position regression in that frame: the difference of two latents is the offset in body millimetres between their places.
Because the frame is common, this holds for two places of one scan, as in the paper, and for places of two different
people as well, which fixes the latents themselves up to one constant: the loss regresses the body coordinates of all
places of a crop. The fine Pnet sees smaller patches and learns, besides, a descriptor by which a place of a scan is
told from its neighbours in another view of the same scan, where the truth is known. (With other people's scans, whose
places are known as well as the alignment is good, descriptors blurred; docs/experiments.md.)
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from tqdm import tqdm

from rprloc import __version__
from rprloc.alignment import align
from rprloc.errors import InputError
from rprloc.field import body_map_of
from rprloc.files import atomic_path, parse_json, write_text_atomically
from rprloc.geometry import Grid, Points
from rprloc.network import MM_PER_UNIT, ChannelNorm, Pnet, RPRNet, mixed_precision, placed, save_model
from rprloc.registration import BodyAtlas, BodyMap
from rprloc.sampling import Crop, TrainingScan, choose_scan, foreground, random_crop, random_place

_DESCRIPTOR_TEMPERATURE = 0.07
_FINE_POSITION_WEIGHT = 100.0
"""Makes an error of 10 mm weigh as much as half a nat of doubt about the descriptor's match."""

_VALIDATION_BATCHES = 8

_ALIGNMENT_SECONDS = 1.0  # a scan; 179 scans took 170 s on two cores
_MAX_MAKERS = 300
"""Scans that make the body frame, chosen at random: the time of stacking them grows with the square of their number."""

_PICTURE_SHARE = 3.0  # bytes of a scan and of its picture in alignment for each byte of its packed image

_MATCH_MM = 4.0
"""Standard deviation of the target distribution over the other crop's places: half of the distance between them."""

_APART_MM = 6.0  # standard deviation, along each axis, of the shift between two such crops


_AT_LEAST = {"coarse_outputs": 1, "fine_outputs": 1, "crops_a_step": 2, "checkpoint_steps": 1}


@dataclass(frozen=True)
class TrainingConfig:
    """What a training run is made of; with the same scans and seed it gives the same weights up to rounding."""

    seed: int = 0
    coarse_steps: int = 2000
    fine_steps: int = 6000
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    coarse_outputs: int = 10  # places along each edge of a crop
    fine_outputs: int = 12
    crops_a_step: int = 4
    group_power: float = 0.0  # how a region of n scans weighs: n ** group_power; 0: all regions alike
    checkpoint_steps: int = 200

    @classmethod
    def read(cls, path: Path) -> TrainingConfig:
        """The configuration in a JSON file: its object ``training``, with any of the fields; the others are as usual.

        Raises InputError for anything else.
        """
        wanted = (
            f"an object 'training' with any of {', '.join(field.name for field in fields(cls))} was expected, as in "
            "the config.json of a run; correct it."
        )
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as JSON ({error}); {wanted}") from error
        kinds = {"int": {"type": "integer", "minimum": 0}, "float": {"type": "number", "minimum": 0.0}}
        known = {field.name: dict(kinds[str(field.type)]) for field in fields(cls)}
        for name, least in _AT_LEAST.items():
            known[name]["minimum"] = least
        schema = {
            "type": "object",
            "required": ["training"],
            "properties": {"training": {"type": "object", "properties": known, "additionalProperties": False}},
        }
        try:
            jsonschema.validate(content, schema)
        except jsonschema.ValidationError as error:
            raise InputError(f"{path} is no training configuration: {error.message}; {wanted}") from error
        return cls(**content["training"])


@dataclass(frozen=True, eq=False)
class Batch:
    """Crops, and the body coordinates (i, j, k, 3) in mm of their outputs.

    For the fine Pnet every two crops that follow each other show the same part of one scan.
    """

    crops: tuple[Crop, ...]
    body_mm: tuple[Points, ...]


Draw = Callable[[np.random.Generator], Batch]
Loss = Callable[[Pnet, Batch], tuple[Tensor, Tensor]]
"""From a batch to the loss, and to the mean absolute errors (3,) in body mm: right, front, head."""

Measure = Callable[[Pnet], dict[str, NDArray[np.float64]]]
"""From a network to errors (3,) in mm by name."""


def fit(
    name: str,
    net: Pnet,
    draw: Draw,
    loss_of: Loss,
    steps: int,
    folder: Path,
    config: TrainingConfig,
    *,
    resume: bool,
    held_out: Measure | None = None,
) -> None:
    """Run one stage of ``steps`` optimizer steps on ``net``, with checkpoints and logs in ``folder``.

    The randomness of a step depends on the seed and the step's number alone, so a resumed run takes the same crops.
    What ``held_out`` measures is logged with every checkpoint, too. In a process group every process draws crops of its
    own, and the gradients are averaged; the first one writes.
    """
    if steps == 0:
        return
    rank, processes = _rank_and_processes()
    checkpoint = folder / f"{name}.pt"
    optimizer = _Optimizer(net, config, steps)
    first = 0
    if resume and checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.restore(state["optimizer"])
        first = state["step"]
    log = _Log(folder, name, first) if rank == 0 else None
    net.train()
    errors = []

    def seed(step: int) -> tuple[int, ...]:
        return (config.seed, step) if processes == 1 else (config.seed, step, rank)

    bar = tqdm(range(first, steps), desc=name, initial=first, total=steps, unit="step", disable=rank > 0)
    with ThreadPoolExecutor(max_workers=1) as ahead:  # draws the next batch while the network works on this one
        upcoming = ahead.submit(draw, np.random.default_rng(seed(first)))
        for step in bar:
            batch = upcoming.result()
            if step + 1 < steps:
                upcoming = ahead.submit(draw, np.random.default_rng(seed(step + 1)))
            loss, error_mm = loss_of(net, batch)
            optimizer.step(net, loss)
            errors.append(error_mm.detach().cpu().numpy())
            if log is None:
                continue
            if (step + 1) % 50 == 0 or step + 1 == steps:
                mean_mm = np.mean(errors, axis=0)
                bar.set_postfix_str("error " + "/".join(f"{value:.1f}" for value in mean_mm) + " mm")
                log.add("training", step + 1, mean_mm)
                errors = []
            if (step + 1) % config.checkpoint_steps == 0 or step + 1 == steps:
                for what, mean_mm in held_out(net).items() if held_out else ():
                    log.add(what, step + 1, mean_mm)
                state = {"net": net.state_dict(), "optimizer": optimizer.state(), "step": step + 1}
                with atomic_path(checkpoint) as temporary:
                    torch.save(state, temporary)
    net.eval()


def _held_out(
    scans: Sequence[TrainingScan],
    maps: Sequence[BodyMap],
    outputs: int,
    draw: Draw,
    loss_of: Loss,
    config: TrainingConfig,
) -> Measure:
    """Three measures that need no label, mean absolute mm (3,), on crops of unlabelled scans that are always the same.

    ``validation``: the errors of training. ``offsets``: of the offset between two random places of a crop. ``views``:
    how far the latents of a place lie apart in two views that differ in grey values and field of view.
    """

    @torch.no_grad()
    def measure(net: Pnet) -> dict[str, NDArray[np.float64]]:
        found: dict[str, list[Tensor]] = {"validation": [], "offsets": [], "views": []}
        for n in range(_VALIDATION_BATCHES):
            batch = draw(np.random.default_rng((config.seed, 0, 0, n)))
            found["validation"].append(loss_of(net, batch)[1][None])
            generator = np.random.default_rng((config.seed, 0, 1, n))
            for _ in range(config.crops_a_step // 2):
                index = choose_scan(scans, generator, config.group_power)
                centre_ras = random_place(scans[index], generator)
                views = tuple(
                    random_crop(scans[index], centre_ras, outputs, net, generator, rotation_deg=0.0, scale=0.0)
                    for _ in range(2)
                )
                body_mm = maps[index].body(views[0].source_ras)
                latents, errors_mm = _forward(net, Batch(views, (body_mm, body_mm)))
                other = torch.from_numpy(generator.permutation(len(errors_mm[0]))).to(latents.device)
                found["offsets"].append(errors_mm[0] - errors_mm[0][other])
                both = (views[0].inside & views[1].inside).to(latents.device)
                found["views"].append((latents[0] - latents[1])[both][:, :3])
        return {what: torch.cat(mm).abs().mean(0).cpu().double().numpy() for what, mm in found.items()}

    return measure


class _Log:
    """A stage's errors: ``<name>.csv`` and, where TensorBoard is installed, its curves in ``tensorboard/<name>``."""

    _AXES = ("right_mm", "front_mm", "head_mm")

    def __init__(self, folder: Path, name: str, first: int) -> None:
        self._path = folder / f"{name}.csv"
        if first == 0:
            self._path.write_text(",".join(("step", "crops", *self._AXES, "seconds")) + "\n", encoding="utf-8")
        self._started = time.monotonic()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._curves = None
        else:
            self._curves = SummaryWriter(folder / "tensorboard" / name, purge_step=first)

    def add(self, crops: str, step: int, error_mm: NDArray[np.floating]) -> None:
        rounded = [round(float(value), 2) for value in error_mm]
        with self._path.open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerow([step, crops, *rounded, round(time.monotonic() - self._started)])
        if self._curves is not None:
            for axis, value in zip(self._AXES, rounded, strict=True):
                self._curves.add_scalar(f"{crops}/{axis}", value, step)
            self._curves.flush()


def _rank_and_processes() -> tuple[int, int]:
    """This process's number in its group, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


@contextmanager
def one_process_first() -> Iterator[None]:
    """In a process group, let the first process do the block before the others, which then find what it has kept."""
    rank, processes = _rank_and_processes()
    if processes > 1 and rank > 0:
        distributed.barrier()
    yield
    if processes > 1 and rank == 0:
        distributed.barrier()


class _Optimizer:
    """Muon for the weights of the convolutions, AdamW for all else, under one schedule.

    Muon (Jordan et al., 2024) makes an update's singular values alike. The inputs of a filter are all positive, so
    gradients of many filters share one large direction, the mean; Adam follows it, after which all places have the same
    features for long. Measured on the coarse net after 200 steps: loss 0.31 with AdamW, 0.21 with Muon.
    """

    def __init__(self, net: Pnet, config: TrainingConfig, steps: int) -> None:
        net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self._filters = [layer.weight for layer in net.trunk if isinstance(layer, nn.Conv3d)]
        # Muon takes matrices: views of the weights, one row a filter, which channels last makes possible.
        self._rows = [nn.Parameter(_as_rows(weight.detach())) for weight in self._filters]
        ours = {id(weight) for weight in self._filters}
        others = [parameter for parameter in net.parameters() if id(parameter) not in ours]
        rate, decay = config.learning_rate, config.weight_decay
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.Muon(self._rows, rate, decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, 0.5 * rate, weight_decay=decay),
        ]
        cycle = max(steps, 20)  # the schedule is not defined for a handful of steps
        self._schedules = [
            torch.optim.lr_scheduler.OneCycleLR(
                one, one.param_groups[0]["lr"], total_steps=cycle, pct_start=0.1, cycle_momentum=False
            )
            for one in self._all
        ]

    def step(self, net: Pnet, loss: Tensor) -> None:
        net.zero_grad()
        loss.backward()
        processes = _rank_and_processes()[1]
        if processes > 1:
            for parameter in net.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= processes
        for row, weight in zip(self._rows, self._filters, strict=True):
            row.grad = None if weight.grad is None else _as_rows(weight.grad)
        for one, schedule in zip(self._all, self._schedules, strict=True):
            one.step()
            schedule.step()

    def state(self) -> list[dict[str, Any]]:
        return [one.state_dict() for one in self._all] + [one.state_dict() for one in self._schedules]

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        for one, schedule, saved, planned in zip(
            self._all, self._schedules, states[: len(self._all)], states[len(self._all) :], strict=True
        ):
            one.load_state_dict(saved)
            schedule.load_state_dict(planned)


def _as_rows(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 4, 1).flatten(1)


def _position_loss(error_mm: Tensor) -> Tensor:
    """The mean squared error in units of the networks' head, growing only linearly beyond 100 mm.

    A loss that is linear from 10 mm on did not learn to tell one height of the body from another.
    """
    return F.smooth_l1_loss(error_mm / MM_PER_UNIT, torch.zeros_like(error_mm))


def _forward(net: Pnet, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Latents (N, i, j, k, C) of a batch, float32, and for every crop the errors (M, 3) in mm of its body places."""
    device = next(net.parameters()).device
    images = torch.stack([crop.image for crop in batch.crops]).to(device, memory_format=torch.channels_last_3d)
    with mixed_precision(device):
        features = net.trunk(images)
    latents = net.heads(features.float()).permute(0, 2, 3, 4, 1)
    errors_mm = latents[..., :3] - torch.from_numpy(np.stack(batch.body_mm)).to(latents)
    return latents, [errors_mm[n][crop.inside.to(device)] for n, crop in enumerate(batch.crops)]


@torch.no_grad()
def _standardize(net: Pnet, crops: Sequence[Crop]) -> None:
    """Start every channel with mean 0 and standard deviation 1 over the places of some crops, as batch norm would.

    Channel norm alone leaves the channels of a fresh network nearly the same at all places, and learning slow to begin.
    """
    features = torch.stack([crop.image for crop in crops]).to(next(net.parameters()).device)
    for layer in net.trunk:
        features = layer(features)
        if isinstance(layer, ChannelNorm):
            centre = [slice(n // 4, n - n // 4) for n in features.shape[2:]]
            values = features[:, :, centre[0], centre[1], centre[2]].transpose(0, 1).flatten(1)  # (C, places)
            deviation, mean = values.std(1).clamp(min=0.02), values.mean(1)
            layer.norm.weight.div_(deviation)
            layer.norm.bias.copy_(-mean / deviation)
            features = (features - mean.view(-1, 1, 1, 1)) / deviation.view(-1, 1, 1, 1)


def _coarse_draw(scans: Sequence[TrainingScan], maps: Sequence[BodyMap], net: Pnet, config: TrainingConfig) -> Draw:
    def draw(generator: np.random.Generator) -> Batch:
        chosen = tuple(choose_scan(scans, generator, config.group_power) for _ in range(config.crops_a_step))
        crops = tuple(
            random_crop(scans[n], random_place(scans[n], generator), config.coarse_outputs, net, generator)
            for n in chosen
        )
        return Batch(crops, tuple(maps[n].body(c.source_ras) for n, c in zip(chosen, crops, strict=True)))

    return draw


def _coarse_loss(net: Pnet, batch: Batch) -> tuple[Tensor, Tensor]:
    error_mm = torch.cat(_forward(net, batch)[1])
    return _position_loss(error_mm), error_mm.abs().mean(dim=0)


def _fine_draw(scans: Sequence[TrainingScan], maps: Sequence[BodyMap], net: Pnet, config: TrainingConfig) -> Draw:
    def draw(generator: np.random.Generator) -> Batch:
        crops: list[Crop] = []
        body_mm: list[Points] = []
        for _ in range(config.crops_a_step // 2):
            index = choose_scan(scans, generator, config.group_power)
            place_ras = random_place(scans[index], generator)
            for _ in range(2):
                crops.append(random_crop(scans[index], place_ras, config.fine_outputs, net, generator))
                body_mm.append(maps[index].body(crops[-1].source_ras))
                place_ras = place_ras + generator.normal(0.0, _APART_MM, 3)
        return Batch(tuple(crops), tuple(body_mm))

    return draw


def _fine_loss(net: Pnet, batch: Batch) -> tuple[Tensor, Tensor]:
    """Offsets between the places of two neighbouring crops, and the match of their descriptors.

    Only offsets count, as in the paper's fine network: what all places of a pair of crops have in common is taken away.
    """
    latents, errors_mm = _forward(net, batch)
    offsets_mm, matching = [], latents.new_zeros(())
    pairs = range(0, len(batch.crops), 2)
    for a in pairs:
        b = a + 1
        both = torch.cat([errors_mm[a], errors_mm[b]])
        offsets_mm.append(both - both.mean(dim=0))
        places = [batch.crops[n].source_ras for n in (a, b)]
        inside = [batch.crops[n].inside.to(latents.device) for n in (a, b)]
        matching = matching + _descriptor_loss(
            latents[a][inside[0]][:, 3:],
            latents[b][inside[1]][:, 3:],
            torch.from_numpy(places[0]).to(latents)[inside[0]],
            torch.from_numpy(places[1]).to(latents)[inside[1]],
        )
    error_mm = torch.cat(offsets_mm)
    loss = _FINE_POSITION_WEIGHT * _position_loss(error_mm) + matching / len(pairs)
    return loss, error_mm.abs().mean(dim=0)


def _descriptor_loss(descriptors_a: Tensor, descriptors_b: Tensor, places_a: Tensor, places_b: Tensor) -> Tensor:
    """Cross-entropy of matching places a (N, 3) to places b (M, 3) by their descriptors (N, D), (M, D).

    The target of a place is a Gaussian over the distances to b's places; places without a counterpart take no part.
    """
    if len(places_a) == 0 or len(places_b) == 0:
        return descriptors_a.sum() * 0.0
    distance_mm = torch.cdist(places_a, places_b)
    matched = distance_mm.amin(dim=1) < _MATCH_MM
    if not matched.any():
        return descriptors_a.sum() * 0.0
    target = torch.softmax(-distance_mm[matched].square() / (2.0 * _MATCH_MM**2), dim=1)
    return F.cross_entropy(descriptors_a[matched] @ descriptors_b.T / _DESCRIPTOR_TEMPERATURE, target)


def train(
    scans: Sequence[TrainingScan],
    folder: Path,
    config: TrainingConfig,
    *,
    device: torch.device,
    validation: Sequence[TrainingScan] = (),
    resume: bool = False,
    init: RPRNet | None = None,
) -> RPRNet:
    """Train both networks on unlabelled scans; checkpoints, logs and, at the end, ``model.pt`` go to ``folder``.

    ``validation``: unlabelled scans that are only measured on. ``init``: a model to go on from, in its body frame; by
    default the scans make a frame of their own and the networks start anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with one_process_first():
        rank = _rank_and_processes()[0]
        if rank == 0:
            _write_config(folder / "config.json", config, scans, validation, init, device)
        maps, atlas = _body_frame(scans, validation, folder / "body_frame.npz", init, resume=resume or rank > 0)
    torch.manual_seed(config.seed)
    model = RPRNet()
    if init is not None:
        model.load_state_dict(init.state_dict())
    model.atlas = atlas
    model = placed(model, device)
    for name, steps, net, draw_of, loss_of, outputs in (
        ("coarse", config.coarse_steps, model.coarse, _coarse_draw, _coarse_loss, config.coarse_outputs),
        ("fine", config.fine_steps, model.fine, _fine_draw, _fine_loss, config.fine_outputs),
    ):
        draw, held_out = draw_of(scans, maps[: len(scans)], net, config), None
        if validation:
            theirs = maps[len(scans) :]
            draw_theirs = draw_of(validation, theirs, net, config)
            held_out = _held_out(validation, theirs, outputs, draw_theirs, loss_of, config)
        if init is None:
            batches = [draw(np.random.default_rng((config.seed, 0, n))) for n in range(4)]
            _standardize(net, [crop for batch in batches for crop in batch.crops])
        fit(name, net, draw, loss_of, steps, folder, config, resume=resume, held_out=held_out)
    if _rank_and_processes()[0] == 0:
        save_model(model.eval(), folder / "model.pt")
    return model.eval()


def _write_config(
    path: Path,
    config: TrainingConfig,
    scans: Sequence[TrainingScan],
    validation: Sequence[TrainingScan],
    init: RPRNet | None,
    device: torch.device,
) -> None:
    """What the run is made of: with the same scans, :meth:`TrainingConfig.read` of this file repeats it."""
    made_with = {
        "rprloc": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": _rank_and_processes()[1],
        "scans": len(scans),
        "validation_scans": len(validation),
        "init": None if init is None else init.identity(),
    }
    write_text_atomically(path, json.dumps({"training": asdict(config), "made_with": made_with}, indent=4) + "\n")


def estimate(scans: Sequence[TrainingScan], config: TrainingConfig, device: torch.device) -> tuple[float, float]:
    """About how many minutes a training will take, and GB of memory, from a step of each network on these scans."""
    model = placed(RPRNet(), device)
    unmoved = [BodyMap.affine(np.eye(3), np.zeros(3))] * len(scans)
    minutes = len(scans) * _ALIGNMENT_SECONDS / 60.0
    for steps, net, draw_of, loss_of in (
        (config.coarse_steps, model.coarse, _coarse_draw, _coarse_loss),
        (config.fine_steps, model.fine, _fine_draw, _fine_loss),
    ):
        draw = draw_of(scans, unmoved, net, config)
        for number in range(2):  # the first one warms up
            batch = draw(np.random.default_rng(number))
            started = time.monotonic()
            loss_of(net, batch)[0].backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        minutes += steps * (time.monotonic() - started) / 60.0
    kept = sum(scan.image.nbytes * _PICTURE_SHARE + scan.body_ijk.nbytes for scan in scans)
    return minutes, 2.0 + kept / 1e9


def _body_frame(
    scans: Sequence[TrainingScan],
    validation: Sequence[TrainingScan],
    path: Path,
    init: RPRNet | None,
    *,
    resume: bool,
) -> tuple[list[BodyMap], BodyAtlas]:
    """The maps of scans and validation scans to the body frame, and its atlas, kept in ``path``."""
    everyone = [*scans, *validation]
    names = [f"{scan.group}-{scan.name}" for scan in everyone]
    if resume and path.is_file():
        with np.load(path, allow_pickle=False) as arrays:
            if arrays["names"].tolist() == names:
                maps = [
                    BodyMap(
                        arrays[f"{name}/affine"],
                        arrays[f"{name}/displacement"],
                        Grid(arrays[f"{name}/displacement"].shape[1:], arrays[f"{name}/controls"]),
                    )
                    for name in names
                ]
                return maps, BodyAtlas(*(torch.from_numpy(arrays[key]) for key in ("atlas/values", "atlas/origin")))
    if init is None:
        makers = np.arange(len(scans))
        if len(scans) > _MAX_MAKERS:
            makers = np.sort(np.random.default_rng(0).choice(len(scans), _MAX_MAKERS, replace=False))
        maps, atlas = align(everyone, makers.tolist())
    else:
        maps, atlas = [_registered(init, scan) for scan in tqdm(everyone, "registering scans", unit="scan")], init.atlas
    content: dict[str, NDArray[np.generic]] = {
        "names": np.array(names),
        "atlas/values": atlas.values.cpu().numpy(),
        "atlas/origin": atlas.origin_mm.cpu().numpy(),
    }
    for name, body_map in zip(names, maps, strict=True):
        content[f"{name}/affine"] = body_map.body_from_ras
        content[f"{name}/displacement"] = body_map.displacement_mm
        content[f"{name}/controls"] = body_map.control_grid.ras_from_ijk
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **content)  # type: ignore[arg-type]
    return maps, atlas


def _registered(model: RPRNet, scan: TrainingScan) -> BodyMap:
    """The map of a scan to the frame of a trained model, found as in a query scan."""
    image = torch.from_numpy(scan.image).float() / 255.0
    return body_map_of(model, image, foreground(image[None, None])[0, 0], scan.grid, scan.name)
