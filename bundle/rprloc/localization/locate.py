"""From support latents to the organs in the query scan: what every support finds, combined, and how far to trust it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rprloc.detection import AbsentOrgan, Detections, OrganDetection
from rprloc.errors import InputError
from rprloc.geometry import Points
from rprloc.localization.confidence import NOT_CALIBRATED, Calibration, Evidence, FieldEvidence
from rprloc.localization.config import DEFAULT, LocalizationConfig
from rprloc.localization.cuts import cut_warnings
from rprloc.localization.matching import SearchField
from rprloc.localization.one_shot import locate_by_one
from rprloc.localization.support import SupportSet
from rprloc.model.device import small_steps
from rprloc.model.field import PositionField


def detect(
    field: PositionField,
    query: str,
    support_set: SupportSet,
    organs: Sequence[str] | None = None,
    *,
    calibration: Calibration | None = None,
    config: LocalizationConfig = DEFAULT,
) -> Detections:
    """Locate organs of a support set (by default all) in the scan named ``query`` whose position field is known.

    Organs that are likely absent get no box, and the warnings say what is wrong with the scan or with the examples.
    Without a calibration every organ gets a box, and a warning says so.
    """
    evidence = FieldEvidence.of(field)
    organs_found = tuple(
        AbsentOrgan(organ.organ, organ.presence, organ.supports)
        if organ.presence is not None and organ.is_absent
        else organ
        for organ in _locate_and_judge(support_set, evidence, organs, calibration, config)
    )
    warnings = (NOT_CALIBRATED,) if calibration is None else calibration.doubts(evidence.as_a_whole(), organs_found)
    warnings = (*warnings, *_doubt_examples(support_set, organs_found))
    return Detections(query, organs_found, support_set.model_id, support_set.identity, warnings)


def _doubt_examples(support_set: SupportSet, found: Sequence[OrganDetection | AbsentOrgan]) -> Iterator[str]:
    """What was wrong with the examples by which organs were sought, and with those of the organs that have a box."""
    sought = {organ.organ for organ in found}
    for support in support_set.supports:
        if not sought.isdisjoint(support.organs):
            yield from (f"Example {support.scan}: {doubt}" for doubt in support.doubts)
    located = [organ.organ for organ in found if isinstance(organ, OrganDetection)]
    for support in support_set.supports:
        doubts = (support.organs[name].doubt for name in located if name in support.organs)
        yield from (f"Example {support.scan}: {doubt}" for doubt in doubts if doubt)
    marked = {
        name: [support.organs[name].cut_walls for support in support_set.supports if name in support.organs]
        for name in located
    }
    yield from cut_warnings(marked)


def check_support_set(support_set: SupportSet, model_id: str, organs: Sequence[str] | None) -> None:
    """Raise InputError if the set's latents come from another model, or if it lacks an organ that is asked for."""
    if support_set.model_id != model_id:
        raise InputError(
            f"The support set was built with model {support_set.model_id}, but the model in use is {model_id}. "
            "Build the support set again with this model, or choose the one that it was built with (--model)."
        )
    missing = [name for name in organs or () if name not in support_set.organs]
    if missing:
        raise InputError(
            f"The support set holds no {', '.join(missing)}. It holds {', '.join(support_set.organs)}: name one of "
            "these."
        )


def locate(
    support_set: SupportSet,
    field: PositionField,
    organs: Sequence[str] | None = None,
    *,
    calibration: Calibration | None = None,
    config: LocalizationConfig = DEFAULT,
) -> tuple[OrganDetection, ...]:
    """Find organs (by default all of the set) by look-ups in the query's position field.

    Every support that has an organ locates it alone; the points are the mean of theirs in millimetres, weighed by how
    much their votes agree. An organ that is not in the scan is among them, with a place where it would lie; its
    ``presence`` tells.
    """
    return _locate_and_judge(support_set, FieldEvidence.of(field), organs, calibration, config)


@small_steps()
def _locate_and_judge(
    support_set: SupportSet,
    evidence: FieldEvidence,
    organs: Sequence[str] | None,
    calibration: Calibration | None,
    config: LocalizationConfig,
) -> tuple[OrganDetection, ...]:
    observations = observe(support_set, evidence, organs, config)
    return tuple(organ if calibration is None else calibration.judge(organ, seen) for organ, seen in observations)


def observe(
    support_set: SupportSet,
    evidence: FieldEvidence,
    organs: Sequence[str] | None = None,
    config: LocalizationConfig = DEFAULT,
) -> Iterator[tuple[OrganDetection, Evidence]]:
    """The organs as :func:`locate` finds them, not yet judged, and the evidence on each."""
    search = SearchField.of(evidence.field, config)
    wanted = list(organs or support_set.organs)
    found = [
        locate_by_one(support, [name for name in wanted if name in support.organs], search)
        for support in support_set.supports
    ]
    for name in wanted:
        supports = [support for support in support_set.supports if name in support.organs]
        located = [by_one[name] for by_one in found if name in by_one]
        spreads_mm = np.stack([spread for _, spread in located])
        points_ras = combine(np.stack([points for points, _ in located]), spreads_mm, config)
        spread_mm = np.median(spreads_mm, axis=0)
        scans = tuple(support.scan for support in supports)
        starts = sum(len(support.organs[name].anchors_ras) for support in supports)
        seen = evidence.evidence([support.organs[name] for support in supports], located, points_ras, config)
        yield OrganDetection(name, points_ras, spread_mm, starts, scans), seen


def combine(points_ras: NDArray[np.float64], spread_mm: NDArray[np.float64], config: LocalizationConfig) -> Points:
    """The points (6, 3) that several supports (n, 6, 3) agree on: their mean, by one over the square of the votes'
    spread (n, 6), and less by those that lie far from the others.
    """
    if len(points_ras) == 1:
        return points_ras[0]
    certainty = 1.0 / np.square(spread_mm + config.least_spread_mm)[..., None]
    agreed_ras = np.median(points_ras, axis=0)
    for _ in range(config.robust_rounds):
        weight = certainty / (1.0 + np.square((points_ras - agreed_ras) / config.far_support_mm))
        agreed_ras = (weight * points_ras).sum(0) / weight.sum(0)
    return agreed_ras
