"""From support latents to the organ in the query scan: multi-step localization of many agents, coarse, then fine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rprloc.detection import AbsentOrgan, Detections, OrganDetection
from rprloc.errors import InputError
from rprloc.geometry import Points
from rprloc.localization.appearance import refined
from rprloc.localization.confidence import NOT_CALIBRATED, Evidence, Seen, calibration_for
from rprloc.localization.matching import SearchField, step_coarse_and_fine
from rprloc.localization.support import SupportOrgan, SupportSet
from rprloc.model.device import small_steps
from rprloc.model.field import PositionField, position_field
from rprloc.model.network import RPRNet
from rprloc.volume import Volume

_FINE_SHARE = 0.5
"""Of the way to where the fine steps lead: they and registration are wrong in different ways."""


def detect(model: RPRNet, volume: Volume, support_set: SupportSet, organs: Sequence[str] | None = None) -> Detections:
    """Locate organs of a support set (by default all) in a scan; the model's device does the work.

    Raises InputError if the set belongs to another model or does not hold an organ that is asked for.
    """
    check_support_set(support_set, model.identity(), organs)
    started = time.perf_counter()
    found = detect_in(position_field(model, volume), volume.name, support_set, organs)
    return replace(found, seconds=time.perf_counter() - started)


def detect_in(
    field: PositionField, query: str, support_set: SupportSet, organs: Sequence[str] | None = None
) -> Detections:
    """:func:`detect` in the scan named ``query`` whose position field is known.

    Organs that are likely absent get no box, and the warnings say what is wrong with the scan.
    """
    seen, calibration = Seen.of(field), calibration_for(support_set.model_id)
    located = _judged(support_set, seen, organs)
    found = tuple(
        AbsentOrgan(one.organ, one.presence, one.supports) if one.presence is not None and one.is_absent else one
        for one in located
    )
    warnings = (NOT_CALIBRATED,) if calibration is None else calibration.doubts(seen.as_a_whole(), found)
    return Detections(query, found, support_set.model_id, support_set.identity, warnings)


def check_support_set(support_set: SupportSet, model_id: str, organs: Sequence[str] | None) -> None:
    """Raise InputError if the set's latents come from another model, or if it lacks an organ that is asked for."""
    if support_set.model_id != model_id:
        raise InputError(
            f"The support set was built with model {support_set.model_id}, but the model in use is {model_id}; latents "
            "of one model mean nothing to another; build the support set again with this model."
        )
    missing = [name for name in organs or () if name not in support_set.organs]
    if missing:
        raise InputError(
            f"The support set holds no {', '.join(missing)}; it holds {', '.join(support_set.organs)}; name one of "
            "these."
        )


def locate(
    support_set: SupportSet, field: PositionField, organs: Sequence[str] | None = None
) -> tuple[OrganDetection, ...]:
    """Find organs (by default all of the set) by look-ups in the query's position field.

    Every support that has an organ locates it alone; their points are combined by the median in millimetres. An organ
    that is not in the scan is among them, with a place where it would lie; its ``presence`` tells.
    """
    return _judged(support_set, Seen.of(field), organs)


@small_steps()
def _judged(support_set: SupportSet, seen: Seen, organs: Sequence[str] | None) -> tuple[OrganDetection, ...]:
    found, calibration = observed(support_set, seen, organs), calibration_for(support_set.model_id)
    return tuple(one if calibration is None else calibration.judged(one, evidence) for one, evidence in found)


def observed(
    support_set: SupportSet, seen: Seen, organs: Sequence[str] | None = None
) -> Iterator[tuple[OrganDetection, Evidence]]:
    """The organs as :func:`locate` finds them, not yet judged, and the evidence on each."""
    query = SearchField.of(seen.field)
    for name in organs or support_set.organs:
        supports = [support for support in support_set.supports if name in support.organs]
        located = [_located(support.organs[name], query) for support in supports]
        points_ras = np.median([points for points, _ in located], axis=0)
        spread_mm = np.median([spread for _, spread in located], axis=0)
        scans = tuple(support.scan for support in supports)
        starts = sum(len(support.organs[name].anchors_ras) for support in supports)
        evidence = seen.evidence([support.organs[name] for support in supports], located, points_ras)
        yield OrganDetection(name, points_ras, spread_mm, starts, scans), evidence


def _located(organ: SupportOrgan, query: SearchField) -> tuple[Points, NDArray[np.float64]]:
    """The six points (6, 3) by one support, refined by the organ's own voxels, and the votes' spread (6,) in mm."""
    registered_ras, matched_ras, spread_mm = step_coarse_and_fine(organ, query)
    points_ras = registered_ras + _FINE_SHARE * (matched_ras - organ.self_error_mm - registered_ras)
    shift_mm = (points_ras - registered_ras).mean(0)
    return refined(organ.appearance, query.field, points_ras, shift_mm), spread_mm
