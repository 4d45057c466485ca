"""TODO localization.localizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rprloc.annotation import Mask
from rprloc.detection import Detections
from rprloc.geometry import Grid, Points
from rprloc.io.plausibility import image_warnings
from rprloc.localization.locate import check_support_set, detect, detect_in
from rprloc.localization.marking import build_support, calibrated
from rprloc.localization.support import SupportSet
from rprloc.model.device import _log, choose_device, run_on_device
from rprloc.model.field import PositionField, position_field
from rprloc.model.network import RPRNet, load_model
from rprloc.volume import Volume


@dataclass(frozen=True, eq=False)
class Engine:
    """A model that builds supports and locates organs. ``fall_back``: see :func:`run_on_device`."""

    model: RPRNet
    fall_back: bool = False

    @classmethod
    def load(cls, weights: Path | None = None, device: str = "auto") -> Engine:
        """The model in a file (by default the shipped one) on ``auto``, ``cpu`` or ``cuda``; ``auto`` may fall back.

        Raises InputError like :func:`choose_device` and :func:`rprloc.model.network.load_model`.
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
        """A set of one support; see :func:`rprloc.localization.marking.build_support`, :func:`rprloc.localization.marking.calibrated`."""
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
