"""From support latents to the organs in the query scan: what every support finds, combined, and how far to trust it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rprloc.detection import AbsentLandmark, AbsentOrgan, Detections, LandmarkDetection, OrganDetection
from rprloc.errors import InputError
from rprloc.geometry import Points
from rprloc.localization.confidence import (
    NOT_CALIBRATED,
    NOT_CALIBRATED_FOR_LANDMARKS,
    Calibration,
    Evidence,
    FieldEvidence,
    Target,
)
from rprloc.localization.config import DEFAULT, LocalizationConfig
from rprloc.localization.cuts import cut_warnings
from rprloc.localization.matching import SearchField
from rprloc.localization.one_shot import locate_by_one
from rprloc.localization.support import SupportSet
from rprloc.model.device import small_steps
from rprloc.model.field import PositionField
from rprloc.model.shipped import name_model


def detect(
    field: PositionField,
    query: str,
    support_set: SupportSet,
    organs: Sequence[str] | None = None,
    *,
    calibration: Calibration | None = None,
    config: LocalizationConfig = DEFAULT,
) -> Detections:
    """Locate organs and landmarks of a support set (by default all) in the scan ``query``, whose field is known.

    Organs that are likely absent get no box, landmarks no point, and the warnings say what is wrong with the scan or
    with the examples. Without a calibration everything gets a place, and a warning says so.
    """
    evidence = FieldEvidence.of(field)
    wanted = support_set.targets if organs is None else organs
    known_organs, known_landmarks = set(support_set.organs), set(support_set.landmarks)
    organs_found = tuple(
        AbsentOrgan(one.organ, one.presence, one.supports) if one.presence is not None and one.is_absent else one
        for one in _judge(
            observe(support_set, evidence, [name for name in wanted if name in known_organs], config),
            calibration,
        )
    )
    landmarks = tuple(
        AbsentLandmark(one.landmark, one.in_scan, one.supports) if one.in_scan is not None and one.is_absent else one
        for one in _judge(
            observe_landmarks(support_set, evidence, [name for name in wanted if name in known_landmarks], config),
            calibration,
        )
    )
    found = (*organs_found, *landmarks)
    warnings = (NOT_CALIBRATED,) if calibration is None else calibration.doubts(evidence.as_a_whole(), found)
    if calibration is not None and any(one.in_scan is None for one in landmarks):
        warnings = (*warnings, NOT_CALIBRATED_FOR_LANDMARKS)
    warnings = (*warnings, *_doubt_examples(support_set, organs_found, landmarks))
    return Detections(query, organs_found, support_set.model_id, support_set.identity, warnings, landmarks=landmarks)


def _doubt_examples(
    support_set: SupportSet,
    found: Sequence[OrganDetection | AbsentOrgan],
    landmarks: Sequence[LandmarkDetection | AbsentLandmark],
) -> Iterator[str]:
    """What was wrong with the examples by which targets were sought, and with those of the organs that have a box."""
    sought = {organ.organ for organ in found} | {landmark.landmark for landmark in landmarks}
    for support in support_set.supports:
        if not sought.isdisjoint(support.targets):
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
    """Raise InputError if the set's latents come from another model, or if it lacks what is asked for."""
    if support_set.model_id != model_id:
        raise InputError(
            f"The support set was built with model {name_model(support_set.model_id)}, but the model in use is "
            f"{name_model(model_id)}. Choose the one that it was built with (--model), or build the support set again."
        )
    missing = [name for name in organs or () if name not in support_set.targets]
    if missing:
        raise InputError(
            f"The support set holds no {', '.join(missing)}. It holds {', '.join(support_set.targets)}: name one of "
            "these."
        )


def locate(
    support_set: SupportSet,
    evidence: FieldEvidence,
    organs: Sequence[str] | None = None,
    *,
    calibration: Calibration | None = None,
    config: LocalizationConfig = DEFAULT,
) -> tuple[OrganDetection, ...]:
    """Find organs (by default all of the set) by look-ups in the query's position field, which ``evidence`` holds.

    Every support that has an organ locates it alone; the points are the mean of theirs in millimetres, weighed by how
    much their votes agree. An organ that is not in the scan is among them, with a place where it would lie; its
    ``presence`` tells.
    """
    return tuple(_judge(observe(support_set, evidence, organs, config), calibration))


def locate_landmarks(
    support_set: SupportSet,
    evidence: FieldEvidence,
    landmarks: Sequence[str] | None = None,
    *,
    calibration: Calibration | None = None,
    config: LocalizationConfig = DEFAULT,
) -> tuple[LandmarkDetection, ...]:
    """Find landmarks as :func:`locate` finds organs; of one that is not in the scan, ``in_scan`` tells."""
    return tuple(_judge(observe_landmarks(support_set, evidence, landmarks, config), calibration))


def _judge(observations: Iterable[tuple[Target, Evidence]], calibration: Calibration | None) -> Iterator[Target]:
    for one, seen in observations:
        yield one if calibration is None else calibration.judge(one, seen)


def observe(
    support_set: SupportSet,
    evidence: FieldEvidence,
    organs: Sequence[str] | None = None,
    config: LocalizationConfig = DEFAULT,
) -> Iterator[tuple[OrganDetection, Evidence]]:
    """Organs (by default all) as :func:`locate` finds them, not yet judged, and the evidence on each."""
    wanted = support_set.organs if organs is None else organs
    for name, points_ras, spread_mm, starts, scans, seen in _seek(support_set, evidence, wanted, config):
        yield OrganDetection(name, points_ras, spread_mm, starts, scans), seen


def observe_landmarks(
    support_set: SupportSet,
    evidence: FieldEvidence,
    landmarks: Sequence[str] | None = None,
    config: LocalizationConfig = DEFAULT,
) -> Iterator[tuple[LandmarkDetection, Evidence]]:
    """Landmarks (by default all) as they are found, not yet judged, and the evidence on each."""
    wanted = support_set.landmarks if landmarks is None else landmarks
    for name, points_ras, spread_mm, starts, scans, seen in _seek(support_set, evidence, wanted, config):
        yield LandmarkDetection(name, points_ras[0], float(spread_mm[0]), starts, scans), seen


@small_steps()
def _seek(
    support_set: SupportSet, evidence: FieldEvidence, names: Sequence[str], config: LocalizationConfig
) -> list[tuple[str, Points, NDArray[np.float64], int, tuple[str, ...], Evidence]]:
    """Of organs or landmarks: the name, the points (P, 3), the votes' spread (P,), from how many starting points, the
    examples' scans, and the evidence.
    """
    if not names:
        return []
    search = SearchField.of(evidence.field, config)
    targets = [support.targets for support in support_set.supports]
    found = [
        locate_by_one(support, [name for name in names if name in own], search)
        for support, own in zip(support_set.supports, targets, strict=True)
    ]
    sought = []
    for name in names:
        scans = tuple(support.scan for support, own in zip(support_set.supports, targets, strict=True) if name in own)
        by_support = [own[name] for own in targets if name in own]
        located = [by_one[name] for by_one in found if name in by_one]
        spreads_mm = np.stack([spread for _, spread in located])
        points_ras = combine(np.stack([points for points, _ in located]), spreads_mm, config)
        starts = sum(len(target.anchors_ras) for target in by_support)
        seen = evidence.evidence(by_support, located, points_ras, config)
        sought.append((name, points_ras, np.median(spreads_mm, axis=0), starts, scans, seen))
    return sought


def combine(points_ras: NDArray[np.float64], spread_mm: NDArray[np.float64], config: LocalizationConfig) -> Points:
    """The points (P, 3) that several supports (n, P, 3) agree on: their mean, by one over the square of the votes'
    spread (n, P), and less by those that lie far from the others.
    """
    if len(points_ras) == 1:
        return points_ras[0]
    certainty = 1.0 / np.square(spread_mm + config.least_spread_mm)[..., None]
    agreed_ras = np.median(points_ras, axis=0)
    for _ in range(config.robust_rounds):
        weight = certainty / (1.0 + np.square((points_ras - agreed_ras) / config.far_support_mm))
        agreed_ras = (weight * points_ras).sum(0) / weight.sum(0)
    return agreed_ras
