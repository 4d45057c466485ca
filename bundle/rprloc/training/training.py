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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rprloc.errors import InputError
from rprloc.files import atomic_path, write_text_atomically
from rprloc.modality import Modality, modalities_named
from rprloc.model.body import BodyMap
from rprloc.model.network import Pnet, RPRNet, place_on, save_model
from rprloc.training.body_frame import link_to_body_frame, make_body_frame
from rprloc.training.config import TrainingConfig
from rprloc.training.losses import (
    Batch,
    Draw,
    Loss,
    coarse_draw,
    coarse_loss,
    fine_draw,
    fine_loss,
    forward_batch,
    standardize,
)
from rprloc.training.optimizer import Optimizer
from rprloc.training.processes import one_process_first, rank_and_processes
from rprloc.training.sampling import TrainingScan, choose_scan, random_crop, random_place
from rprloc.version import __version__

_VALIDATION_BATCHES = 8
_ALIGNMENT_SECONDS = 1.0  # a scan; 179 scans took 170 s on two cores
_STATE = ("body_frame.npz", "coarse.pt", "second_body_frame.npz", "coarse_both.pt", "fine.pt")
"""What a run keeps to go on from."""
_PICTURE_SHARE = 3.0  # bytes of a scan and of its picture in alignment for each byte of its packed image

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
    rank, processes = rank_and_processes()
    checkpoint = folder / f"{name}.pt"
    optimizer = Optimizer(net, config, steps)
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
        differences_mm: dict[str, list[Tensor]] = {"validation": [], "offsets": [], "views": []}
        for n in range(_VALIDATION_BATCHES):
            batch = draw(np.random.default_rng((config.seed, 0, 0, n)))
            differences_mm["validation"].append(loss_of(net, batch)[1][None])
            generator = np.random.default_rng((config.seed, 0, 1, n))
            for _ in range(config.crops_a_step // 2):
                index = choose_scan(scans, generator, config.group_power)
                centre_ras = random_place(scans[index], generator)
                views = tuple(
                    random_crop(
                        scans[index],
                        centre_ras,
                        outputs,
                        net,
                        generator,
                        recoloured=config.across,
                        rotation_deg=0.0,
                        scale=0.0,
                    )
                    for _ in range(2)
                )
                body_mm = maps[index].body(views[0].source_ras)
                latents, errors_mm = forward_batch(net, Batch(views, (body_mm, body_mm)))
                other = torch.from_numpy(generator.permutation(len(errors_mm[0]))).to(latents.device)
                differences_mm["offsets"].append(errors_mm[0] - errors_mm[0][other])
                both = (views[0].inside & views[1].inside).to(latents.device)
                differences_mm["views"].append((latents[0] - latents[1])[both][:, :3])
        return {what: torch.cat(mm).abs().mean(0).cpu().double().numpy() for what, mm in differences_mm.items()}

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

    For two modalities, scans of the first make the frame and teach the coarse Pnet, their contrast drawn at random; it
    then sees scans of the second well enough to bring theirs into the frame. There all teach the coarse Pnet once more,
    because it saw people of the second in a wrong size (docs/experiments.md, E48), and then the fine Pnet.

    Raises InputError if ``init`` is for another modality than ``config`` or the first of two, if there are no scans of
    one modality or one alone of the second, or if a run that goes on began with other scans.
    """
    modalities = modalities_named(config.modality)
    require_scans(scans, modalities)
    if init is not None:
        require_same_modality(config, init)
    folder.mkdir(parents=True, exist_ok=True)
    first, theirs, second, their_second = (
        [scan for scan in some if (scan.modality is modalities[0]) == is_first]
        for is_first in (True, False)
        for some in (scans, validation)
    )
    with one_process_first():
        rank = rank_and_processes()[0]
        if rank == 0:
            for name in () if resume else _STATE:  # of an earlier run; this one, if it stops, must not go on from it
                (folder / name).unlink(missing_ok=True)
            _write_config(folder / "config.json", config, scans, validation, init, device)
        maps, atlas = make_body_frame(first, theirs, folder / "body_frame.npz", init, resume=resume or rank > 0)
    torch.manual_seed(config.seed)
    model = RPRNet()
    if init is not None:
        model.load_state_dict(init.state_dict())
    model.modality = config.modality
    model.atlas = atlas
    model = place_on(model, device)
    own, held_out = (first, maps[: len(first)]), (theirs, maps[len(first) :])
    _fit_stage("coarse", model.coarse, own, held_out, folder, config, resume=resume, fresh=init is None)
    if second:
        with one_process_first():
            maps, atlas = link_to_body_frame(
                second, their_second, folder / "second_body_frame.npz", model, resume=resume or rank > 0
            )
        model.add_second_atlas(atlas)
        own = ([*first, *second], [*own[1], *maps[: len(second)]])
        held_out = ([*theirs, *their_second], [*held_out[1], *maps[len(second) :]])
        _fit_stage("coarse_both", model.coarse, own, held_out, folder, config, resume=resume, fresh=False)
    _fit_stage("fine", model.fine, own, held_out, folder, config, resume=resume, fresh=init is None)
    if rank_and_processes()[0] == 0:
        save_model(model.eval(), folder / "model.pt")
    return model.eval()


_Mapped = tuple[Sequence[TrainingScan], Sequence[BodyMap]]
"""Scans, and their maps to the body frame."""


def _fit_stage(
    name: str,
    net: Pnet,
    own: _Mapped,
    theirs: _Mapped,
    folder: Path,
    config: TrainingConfig,
    *,
    resume: bool,
    fresh: bool,
) -> None:
    """Fit one of the networks to scans of ``own``, measuring on ``theirs``; ``fresh``: a network that knows nothing."""
    steps, draw_of, loss_of, outputs = (
        (config.fine_steps, fine_draw, fine_loss, config.fine_outputs)
        if name == "fine"
        else (config.coarse_steps, coarse_draw, coarse_loss, config.coarse_outputs)
    )
    draw, held_out = draw_of(*own, net, config), None
    if theirs[0]:
        held_out = _held_out(*theirs, outputs, draw_of(*theirs, net, config), loss_of, config)
    if fresh:
        batches = [draw(np.random.default_rng((config.seed, 0, n))) for n in range(4)]
        standardize(net, [crop for batch in batches for crop in batch.crops])
    fit(name, net, draw, loss_of, steps, folder, config, resume=resume, held_out=held_out)


def require_scans(scans: Sequence[TrainingScan], modalities: Sequence[Modality]) -> None:
    """Raises InputError if there are no scans of one of the modalities, or of the second just one.

    Those of the second come into the frame by what several of them show.
    """
    for least, modality in enumerate(modalities, 1):
        count = sum(scan.modality is modality for scan in scans)
        if count < least:
            few = f"is no {modality.name} scan to train on" if count == 0 else f"is only one {modality.name} scan"
            others = [
                f", or train for {other.name} alone (--modality)" for other in modalities if other is not modality
            ]
            raise InputError(f"There {few}, and training needs several. Add some{''.join(others)}.")


def require_same_modality(config: TrainingConfig, init: RPRNet) -> None:
    """Raises InputError if a model to go on from is neither for the modality of a run, nor for the first of two."""
    fitting = dict.fromkeys((modalities_named(config.modality)[0].name, config.modality))
    if init.modality not in fitting:
        raise InputError(
            f"The weights to start from are for {init.modality}, and this training is for {config.modality}. "
            f"Start from weights for {' or '.join(fitting)}, leave --init out, or give "
            f"--modality {init.modality.lower()}."
        )


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
        "processes": rank_and_processes()[1],
        "scans": len(scans),
        "validation_scans": len(validation),
        "init": None if init is None else init.identity(),
    }
    write_text_atomically(path, json.dumps({"training": asdict(config), "made_with": made_with}, indent=4) + "\n")


def estimate(scans: Sequence[TrainingScan], config: TrainingConfig, device: torch.device) -> tuple[float, float]:
    """About how many minutes a training will take, and GB of memory, from a step of each network on these scans."""
    model = place_on(RPRNet(), device)
    unmoved = [BodyMap.affine(np.eye(3), np.zeros(3))] * len(scans)
    minutes = len(scans) * _ALIGNMENT_SECONDS / 60.0
    for steps, net, draw_of, loss_of in (
        (config.coarse_steps * len(modalities_named(config.modality)), model.coarse, coarse_draw, coarse_loss),
        (config.fine_steps, model.fine, fine_draw, fine_loss),
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
