"""Where the work is done: a GPU if there is one that can do it, else the CPU, and with how many threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from rprloc.errors import InputError
from rprloc.model.network import RPRNet

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


def choose_device(name: str) -> torch.device:
    """The device for ``auto`` (a CUDA GPU that works, else the CPU), ``cpu`` or ``cuda``.

    Raises InputError if ``cuda`` is asked for and there is no GPU, or none that works.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"The device {name!r} is not known. Choose auto, cpu or cuda.")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if name == "cuda":
            raise InputError(
                "PyTorch finds no CUDA GPU on this computer. Use --device cpu, or install a driver and a CUDA build of "
                "PyTorch."
            )
        return torch.device("cpu")
    try:
        torch.zeros(1, device="cuda").add_(1.0)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if name == "cuda":
            raise InputError(f"The GPU does not work ({reason}). Free the GPU, or use --device cpu.") from error
        _log.warning("The GPU does not work (%s). The CPU does the work.", reason)
        return torch.device("cpu")
    return torch.device("cuda")


def run_on_device(model: RPRNet, work: Callable[[], _Result], *, fall_back: bool) -> _Result:
    """What ``work``, a function that uses ``model``, returns; if the GPU's memory does not suffice, again on the CPU.

    With ``fall_back`` the model stays on the CPU from then on. Raises InputError without it.
    """
    try:
        return work()
    except torch.OutOfMemoryError as error:
        if not fall_back:
            raise InputError(
                "The GPU has too little free memory for this scan. Free some of it, or use --device auto or "
                "--device cpu."
            ) from error
    _log.warning("The GPU has too little free memory. The CPU does the work from here on.")
    model.to("cpu")
    torch.cuda.empty_cache()
    return work()


@contextmanager
def small_steps() -> Iterator[None]:
    """For many steps on little data: no gradients by PyTorch, and one thread, as several wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)
