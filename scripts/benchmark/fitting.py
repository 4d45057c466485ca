"""Training with a budget of time, for the methods that need it: it resumes, and says what it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from rprloc.errors import InputError
from rprloc.files import atomic_path
from rprloc.training.optimizer import MuonWithAdamW
from scripts.benchmark.circumstances import describe_machine, read_clock

_CHECKPOINT_SECONDS = 60.0
_CHECK_SECONDS = 300.0


def fit(
    net: nn.Module,
    loss_of: Callable[[np.random.Generator], Tensor],
    optimizer: torch.optim.Optimizer | MuonWithAdamW,
    path: Path,
    minutes: float,
    *,
    seed: int,
    rate_at: Callable[[float], float],
    scans: int,
    max_steps: int | None = None,
    modes: nn.Module | None = None,
    check: Callable[[], float] | None = None,
    settings: str = "",
) -> dict[str, Any]:
    """Optimize ``net`` until the budget is spent, and leave it with its weights; ``path`` holds the state.

    ``loss_of`` draws a batch. ``rate_at``: the factor of the optimizer's rate as a function of the share of the budget
    that is spent. ``minutes`` are those of :func:`read_clock`: with one thread, other work does not count.
    ``max_steps`` ends it earlier. ``modes``: a module around the net that is put into training mode, too.
    ``check``: the error on scans that nothing is trained on; kept from time to time, for the curve, not counted.
    ``settings``: in words, what else matters. When they or ``scans`` change, a new part of the training begins, with a
    check of its own.
    Resumes; a run that is complete only loads. The random numbers of a step depend on the seed and the step's number
    alone. Returns the state: seconds, steps, parts (steps at its beginning, scans, settings, checks: (step, seconds,
    error)), ...
    Raises InputError if the loss is no finite number.
    """
    rates = [group["lr"] for group in optimizer.param_groups]  # before those that a resumed run ended with
    state = _resume(net, optimizer, path, scans, settings)
    budget = 60.0 * minutes
    (modes or net).train()

    def note_check() -> None:
        if check is not None:
            (modes or net).eval()
            with torch.inference_mode():
                state["parts"][-1]["checks"].append((state["steps"], state["seconds"], float(check())))
            (modes or net).train()

    saved = time.perf_counter()
    bar = tqdm(desc=path.stem, initial=state["steps"], unit="step", mininterval=20.0)

    def done() -> bool:
        return state["seconds"] >= budget or (max_steps is not None and state["steps"] >= max_steps)

    if state["parts"][-1]["steps"] == state["steps"] > 0 and not done():
        note_check()
    checked = max((seconds for part in state["parts"] for _, seconds, _ in part["checks"]), default=0.0)
    last = read_clock()
    while not done():
        share = state["seconds"] / budget
        if max_steps is not None:
            share = max(share, state["steps"] / max_steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * rate_at(min(share, 1.0))
        loss = loss_of(np.random.default_rng([seed, state["steps"]]))
        if not torch.isfinite(loss):
            raise InputError(
                f"The loss of {path.stem} is {float(loss.detach())} at step {state['steps']}. What is in {path} stays."
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        now = read_clock()
        state["seconds"] += now - last
        state["steps"] += 1
        state["losses"].append(float(loss.detach()))
        last = now
        bar.update()
        told = f"loss {np.mean(state['losses'][-50:]):.4g}, {state['seconds']:.0f} of {budget:.0f} s"
        bar.set_postfix_str(told, refresh=False)
        if state["seconds"] - checked >= _CHECK_SECONDS or done():
            note_check()
            checked = state["seconds"]
            last = read_clock()
        if time.perf_counter() - saved > _CHECKPOINT_SECONDS or done():
            state |= {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
            with atomic_path(path) as temporary:
                torch.save(state, temporary)
            saved = time.perf_counter()
    bar.close()
    (modes or net).eval()
    return state


def _resume(
    net: nn.Module, optimizer: torch.optim.Optimizer | MuonWithAdamW, path: Path, scans: int, settings: str
) -> dict[str, Any]:
    """The state in ``path``, put into the net and the optimizer, or a new one; with the machine as it is now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {"steps": 0, "seconds": 0.0, "losses": [], "parts": []}
    device = next(net.parameters()).device
    if path.exists():
        state = _read_state(path, device)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
    if not state["parts"] or (state["parts"][-1]["scans"], state["parts"][-1]["settings"]) != (scans, settings):
        state["parts"].append({"steps": state["steps"], "scans": scans, "settings": settings, "checks": []})
    return state | {"machine": describe_machine(device)}


def _read_state(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What :func:`fit` left in a file; one from before there were parts has a single one."""
    state = torch.load(path, weights_only=True, map_location=device)
    if "parts" not in state:
        state["parts"] = [{"steps": 0, "scans": state["scans"], "settings": "", "checks": state["checks"]}]
    return state


def load_weights(net: nn.Module, path: Path) -> None:
    """Put the weights that :func:`fit` left in ``path`` into a network. Raises InputError if there are none."""
    if not path.exists():
        raise InputError(f"There are no weights at {path}. Train the method first: run the stage train, too.")
    net.load_state_dict(_read_state(path)["net"])
    net.eval()


def steps_of(path: Path) -> int:
    """How many steps the weights in a file were trained; 0 if there are none."""
    return int(_read_state(path)["steps"]) if path.exists() else 0


def read_checks(path: Path) -> list[list[tuple[int, float, float]]]:
    """Of the weights in a file what was followed: the checks (step, seconds, error) of each part that has some."""
    parts = _read_state(path)["parts"] if path.exists() else []
    return [part["checks"] for part in parts if part["checks"]]


def version_of(*paths: Path) -> str:
    """What tells the weights in files from others: how much they were trained."""
    states = [_read_state(path) for path in paths if path.exists()]
    return ", ".join(f"{state['steps']} steps in {state['seconds']:.1f} s" for state in states) or "not trained"


def describe_effort(path: Path) -> str:
    """As part of a sentence: how long the weights in a file learned, and from how much."""
    if not path.exists():
        return "has not learned"
    state = _read_state(path)
    scans = ", then ".join(dict.fromkeys(str(part["scans"]) for part in state["parts"]))
    return f"learned for {state['seconds'] / 60:.1f} minutes from {scans} scans"


def describe_training(path: Path, what: str) -> str:
    """In words: how long the weights in ``path`` were trained, and on how much."""
    if not path.exists():
        return f"{what}: not trained"
    state = _read_state(path)
    ends = [*(f"to step {part['steps']}: " for part in state["parts"][1:]), "then: " if len(state["parts"]) > 1 else ""]
    parts = [
        ", ".join([f"{end}{part['scans']} scans", *filter(None, [part["settings"]])])
        for end, part in zip(ends, state["parts"], strict=True)
    ]
    last, checks = np.mean(state["losses"][-50:]) if state["losses"] else float("nan"), state["parts"][-1]["checks"]
    return (
        f"{what}: {state['seconds'] / 60:.1f} min on {state['machine']}, {state['steps']} steps ({'; '.join(parts)}), "
        f"final loss {last:.3g}" + (f", the curve ends at {checks[-1][2]:.3g}" if checks else "")
    )
