"""A model on a device, ready for work: on the GPU if there is one that can do it, else on the CPU."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed

from rprloc.appearance import Mask
from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.field import PositionField, position_field
from rprloc.geometry import Grid, Points
from rprloc.locate import calibrated, check_support_set, detect, detect_in
from rprloc.network import RPRNet, load_model
from rprloc.reading import image_warnings
from rprloc.support import SupportSet, build_support
from rprloc.volume import Volume

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def choose_device(name: str) -> torch.device:
    """The device for ``auto`` (a CUDA GPU that works, else the CPU), ``cpu`` or ``cuda``.

    Raises InputError if ``cuda`` is asked for and there is no GPU, or none that works.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"The device {name!r} is not known; auto, cpu or cuda was expected; name one of these.")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if name == "cuda":
            raise InputError(
                "The device cuda was asked for, but this computer has no CUDA GPU that PyTorch can use; "
                "one was expected; take --device cpu, or install a driver and a CUDA build of PyTorch."
            )
        return torch.device("cpu")
    try:
        torch.zeros(1, device="cuda").add_(1.0)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if name == "cuda":
            raise InputError(
                f"The GPU does not work ({reason}); a free CUDA GPU was expected; take --device cpu."
            ) from error
        _log.warning("The GPU does not work (%s): the CPU is used.", reason)
        return torch.device("cpu")
    return torch.device("cuda")


def join_training() -> torch.device:
    """This process's device in a training that torchrun started: a GPU each, or the CPU where there is none.

    Joins the process group, over NCCL on GPUs and Gloo on CPUs, if that was not done before.
    """
    cuda = choose_device("auto").type == "cuda"
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if cuda else "gloo")
    if not cuda:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def run_on_device(model: RPRNet, work: Callable[[], _Result], *, fall_back: bool) -> _Result:
    """What ``work``, a function that uses ``model``, returns; if the GPU's memory does not suffice, again on the CPU.

    With ``fall_back`` the model stays on the CPU from then on. Raises InputError without it.
    """
    try:
        return work()
    except torch.OutOfMemoryError as error:
        if not fall_back:
            raise InputError(
                "The GPU's memory does not suffice for this scan; more free memory was expected; "
                "take --device auto or --device cpu."
            ) from error
    _log.warning("The GPU's memory does not suffice: the CPU is used from here on.")
    model.to("cpu")
    torch.cuda.empty_cache()
    return work()


@dataclass(frozen=True, eq=False)
class Engine:
    """A model that builds supports and locates organs. ``fall_back``: see :func:`run_on_device`."""

    model: RPRNet
    fall_back: bool = False

    @classmethod
    def load(cls, weights: Path | None = None, device: str = "auto") -> Engine:
        """The model in a file (by default the shipped one) on ``auto``, ``cpu`` or ``cuda``; ``auto`` may fall back.

        Raises InputError like :func:`choose_device` and :func:`rprloc.network.load_model`.
        """
        engine = cls(load_model(weights, choose_device(device)), fall_back=device == "auto")
        _log.info("Model %s on %s.", engine.model.identity(), engine.device_name)
        return engine

    @property
    def device_name(self) -> str:
        """The GPU's name, or cpu."""
        device = next(self.model.parameters()).device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def position_field(self, volume: Volume) -> PositionField:
        """The position field of a scan. Raises InputError if the scan shows no body."""
        return run_on_device(self.model, lambda: position_field(self.model, volume), fall_back=self.fall_back)

    def support_set(
        self,
        volume: Volume,
        points: Mapping[str, Points],
        *,
        scan: str,
        source: str,
        masks: Mapping[str, Mask] | None = None,
    ) -> SupportSet:
        """A set of one support; see :func:`rprloc.support.build_support`, :func:`rprloc.locate.calibrated`."""
        field = self.position_field(volume)
        return self.support_set_of(field, volume.grid, points, scan=scan, source=source, masks=masks)

    def support_set_of(
        self,
        field: PositionField,
        grid: Grid,
        points: Mapping[str, Points],
        *,
        scan: str,
        source: str,
        masks: Mapping[str, Mask] | None = None,
    ) -> SupportSet:
        """:meth:`support_set` of a scan on ``grid`` whose position field is known."""
        support = build_support(field, grid, points, scan=scan, source=source, masks=masks)
        return SupportSet(self.model.identity(), (calibrated(support, field),))

    def check(self, support_set: SupportSet, organs: Sequence[str] | None) -> None:
        """Raise InputError if the set belongs to another model or lacks an organ."""
        check_support_set(support_set, self.model.identity(), organs)

    def detect(self, volume: Volume, support_set: SupportSet, organs: Sequence[str] | None = None) -> Detections:
        """Locate organs (by default all of the set) in a scan; doubts about the scan are among the warnings.

        Raises InputError if the set cannot be used with this model or the scan shows no body.
        """
        found = run_on_device(
            self.model, lambda: detect(self.model, volume, support_set, organs), fall_back=self.fall_back
        )
        return replace(found, warnings=(*image_warnings(volume), *found.warnings))

    def detect_in(
        self,
        field: PositionField,
        query: str,
        support_set: SupportSet,
        organs: Sequence[str] | None = None,
        *,
        warnings: tuple[str, ...] = (),
    ) -> Detections:
        """:meth:`detect` in the scan named ``query`` whose position field and ``warnings`` are known."""
        self.check(support_set, organs)
        found = detect_in(field, query, support_set, organs)
        return replace(found, warnings=(*warnings, *found.warnings))
