"""Training with a budget of time, for the methods that need it: it resumes, and says what it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
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
    ``settings``: in words, what else matters; it stays in the state with the step from which it held, as do ``scans``.
    Resumes; a run that is complete only loads. The random numbers of a step depend on the seed and the step's number
    alone. Returns the state: seconds, steps, checks (step, seconds, error), parts, ...
    Raises InputError if the loss is no finite number.
    """
    rates = [group["lr"] for group in optimizer.param_groups]  # before those that a resumed run ended with
    state = _resume(net, optimizer, path, {"scans": scans, "settings": settings})
    budget = 60.0 * minutes
    (modes or net).train()
    last = read_clock()
    saved = time.perf_counter()
    bar = tqdm(desc=path.stem, initial=state["steps"], unit="step", mininterval=20.0)

    def done() -> bool:
        return state["seconds"] >= budget or (max_steps is not None and state["steps"] >= max_steps)

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
        checked = state["checks"][-1][1] if state["checks"] else 0.0
        if check is not None and (state["seconds"] - checked >= _CHECK_SECONDS or done()):
            (modes or net).eval()
            with torch.inference_mode():
                state["checks"].append((state["steps"], state["seconds"], float(check())))
            (modes or net).train()
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
    net: nn.Module, optimizer: torch.optim.Optimizer | MuonWithAdamW, path: Path, given: dict[str, Any]
) -> dict[str, Any]:
    """The state in ``path``, put into the net and the optimizer, or a new one; with the machine as it is now.

    What is ``given`` begins a new part of the training if it is not what the last one had.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {"steps": 0, "seconds": 0.0, "losses": [], "checks": [], "parts": []}
    device = next(net.parameters()).device
    if path.exists():
        state = torch.load(path, weights_only=True, map_location=device)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
    parts = [part for part in state["parts"] if part["steps"] < state["steps"]]  # a part without a step is none
    if not parts or given.items() - parts[-1].items():
        parts.append(given | {"steps": state["steps"]})
    return state | {"parts": parts, "machine": describe_machine(device)}


def _read_state(path: Path) -> dict[str, Any]:
    """What :func:`fit` left in a file."""
    return torch.load(path, weights_only=True, map_location="cpu")


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
    """Of the weights in a file what was followed: for each part of the training that has some, its checks.

    A check is (step, seconds, error).
    """
    if not path.exists():
        return []
    state = _read_state(path)
    ends = [part["steps"] for part in state["parts"][1:]] + [state["steps"]]
    parts = [[check for check in state["checks"] if first < check[0] <= last] for first, last in pairwise([0, *ends])]
    return [checks for checks in parts if checks]


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
    last = np.mean(state["losses"][-50:]) if state["losses"] else float("nan")
    return (
        f"{what}: {state['seconds'] / 60:.1f} min on {state['machine']}, {state['steps']} steps ({'; '.join(parts)}), "
        f"final loss {last:.3g}" + (f", the curve ends at {state['checks'][-1][2]:.3g}" if state["checks"] else "")
    )
