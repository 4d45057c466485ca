"""Accuracy on annotated cases: every pair of a support and a query is localized and compared with the label map."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rprloc.annotation import Annotation, Example, Marking
from rprloc.detection import OrganDetection
from rprloc.errors import InputError
from rprloc.evaluation.landmarks import find_landmarks
from rprloc.evaluation.scores import (
    ALL_SUPPORTS,
    SHOTS,
    Evaluation,
    LandmarkScore,
    PairScore,
    score,
    score_landmark,
)
from rprloc.io.annotations import read_annotation
from rprloc.io.dataset import Case, LandmarkRule, Region
from rprloc.io.reading import read_scan
from rprloc.io.structures import listed
from rprloc.localization.confidence import FieldEvidence
from rprloc.localization.localizer import Localizer
from rprloc.localization.locate import locate, locate_landmarks
from rprloc.localization.support import Support, SupportSet
from rprloc.model.device import run_on_device
from rprloc.volume import Volume


def evaluate(
    localizer: Localizer,
    cases: Iterable[Case],
    region: str,
    split: str,
    shots: str,
    about: Region | None = None,
    support_set: SupportSet | None = None,
) -> Evaluation:
    """Localize the targets of a region's ``split`` cases by its support cases, and compare with the label maps.

    The landmarks that ``about`` defines on the label maps are localized and compared in the same pairs.

    ``shots``: "one" for every support alone, over all pairs of a support and a query; "all" for all supports together.
    A pair counts for the targets that lie wholly inside both scans; no scan is its own support. With a ``support_set``
    its examples take the place of the support cases; those that are called like a query are left out for it. The time
    a query is the median wall time from its array in memory to the boxes of all organs of the set with the most organs,
    after one query that warms up.

    Raises InputError if the region, supports or queries are missing, a file of theirs cannot be used, or the set
    belongs to other weights.
    """
    if shots not in SHOTS:
        raise ValueError(f"shots must be one of {SHOTS}, got {shots!r}")
    about = about or Region()
    require_organs(support_set)
    queries = _choose(list(cases), region, split)
    if support_set is None:
        supports = _choose(list(cases), region, "support")
        learned = [
            learn_supports(localizer, case, about.landmarks)
            for case in tqdm(supports, desc="supports", unit="scan", disable=None)
        ]
        known, with_landmarks = [organs for organs, _ in learned], [marks for _, marks in learned if marks is not None]
    else:
        localizer.check(support_set)
        known = with_landmarks = list(support_set.supports)
    organs_per_query = 0
    scores: list[PairScore] = []
    landmark_scores: list[LandmarkScore] = []
    seconds: list[float] = []
    for case in tqdm(queries, desc="queries", unit="scan", disable=None):
        query = read_case(case)
        truth = query.annotation.points_ras
        sets = _sets_for(localizer.model_id, known, case.name, truth.keys(), shots)
        if not sets:
            continue
        organs_per_query = max(organs_per_query, len(sets[0][1].organs))
        localize = _localization(localizer, query.volume, [support_set for _, support_set in sets])
        if not seconds:  # warms up
            run_on_device(localizer.model, localize, fall_back=localizer.fall_back)
        evidence, by_set, elapsed = run_on_device(localizer.model, localize, fall_back=localizer.fall_back)
        seconds.append(elapsed)
        for (name, _), organs in zip(sets, by_set, strict=True):
            scores += [score(name, case.name, organ, truth[organ.organ]) for organ in organs if organ.organ in truth]
        true_ras = find_landmarks(query.annotation, about.landmarks)
        landmark_scores += _score_landmarks(localizer, with_landmarks, case.name, evidence, true_ras, shots)
    if not scores:
        raise InputError(_why_no_score(region, split, queries, support_set))
    return Evaluation(
        region=region,
        split=split,
        shots=shots,
        supports=len(known),
        queries=len(queries),
        scores=tuple(scores),
        seconds_per_query=median(seconds),
        organs_per_query=organs_per_query,
        model_id=localizer.model_id,
        device=localizer.device_name,
        about=about,
        landmark_scores=tuple(landmark_scores),
    )


def require_organs(support_set: SupportSet | None) -> None:
    """Raise InputError for a set of landmarks alone: they are measured beside organs."""
    if support_set is not None and not support_set.organs:
        raise InputError(
            f"The set marks landmarks alone ({listed(support_set.landmarks)}), and landmarks are measured beside "
            "organs. Give a set with organs, too, or leave --set out to measure the landmarks that the regions define."
        )


def _why_no_score(region: str, split: str, queries: Sequence[Case], support_set: SupportSet | None) -> str:
    """Why no organ of a region could be compared, and what to do."""
    if support_set is None:
        return (
            f"No support of {region} shares a target with a query of split {split}. Check the targets in the "
            "datasets.json."
        )
    marked = list(dict.fromkeys(target for case in queries for target in case.targets))
    return (
        f"Nothing of the set can be compared in {region}: the set has {listed(support_set.organs)}, and the cases of "
        f"split {split} have {listed(marked) or 'no organ'}. Its own examples do not count. Give another set, split "
        "or region."
    )


def _score_landmarks(
    localizer: Localizer,
    supports: Sequence[Support],
    query: str,
    evidence: FieldEvidence,
    true_ras: Mapping[str, NDArray[np.float64]],
    shots: str,
) -> list[LandmarkScore]:
    """How well every support, or all of them together, locate a query's landmarks (3,)."""
    scores = []
    for name, support_set in _sets_for(localizer.model_id, supports, query, true_ras.keys(), shots):
        wanted = [landmark for landmark in support_set.landmarks if landmark in true_ras]
        for one in locate_landmarks(support_set, evidence, wanted, calibration=localizer.calibration):
            scores.append(score_landmark(name, query, one, true_ras[one.landmark]))
    return scores


def _sets_for(
    model_id: str, supports: Sequence[Support], query: str, organs: Iterable[str], shots: str
) -> list[tuple[str, SupportSet]]:
    """The named sets that locate in a query and share a target with it, the one with the most organs first."""
    others = [support for support in supports if support.scan != query]
    sets = [(support.scan, SupportSet(model_id, (support,))) for support in others]
    if shots == "all":
        sets = [(ALL_SUPPORTS, SupportSet(model_id, tuple(others)))] if others else []
    wanted = set(organs)
    sets = [(name, support_set) for name, support_set in sets if wanted & set(support_set.targets)]
    return sorted(sets, key=lambda entry: -len(entry[1].organs))  # the first is timed; sorting is stable


def _choose(cases: Sequence[Case], region: str, split: str) -> list[Case]:
    """The cases of a split of a region."""
    regions = list(dict.fromkeys(case.region for case in cases))
    if region not in regions:
        raise InputError(
            f"The dataset has no region {region}. It has {', '.join(regions) or 'none'}: name one of these."
        )
    chosen = [case for case in cases if case.region == region and case.split == split]
    if not chosen:
        raise InputError(f"The region {region} has no case of split {split}. Check the splits in the datasets.json.")
    return chosen


def read_case(case: Case) -> Example:
    """A case's scan with the targets that lie wholly inside it.

    Raises InputError if a file cannot be used.
    """
    scan = read_scan(case.image_path)
    annotation = Annotation({}, marking=Marking.LABEL_MAP)
    if case.targets:
        annotation = read_annotation(case.labels_path, scan, names=case.names, organs=case.targets)
    return Example(scan.volume, annotation, case.name, scan.notes)


def learn_supports(
    localizer: Localizer, case: Case, landmarks: Mapping[str, LandmarkRule]
) -> tuple[Support, Support | None]:
    """The support that a case makes, and one of the landmarks that are defined on its label map; None without any.

    They are apart, so that what is measured of organs does not depend on which landmarks are measured beside them.
    """
    example = read_case(case)
    field = localizer.compute_position_field(example.volume)
    warnings = (*example.warnings, *localizer.warnings_of(example.volume))
    found = Annotation.from_landmarks(find_landmarks(example.annotation, landmarks))
    supports: list[Support] = []
    for annotation in (example.annotation, found):
        if annotation.points_ras or annotation.landmarks_ras:
            learned = localizer.learn_in(field, example.volume.grid, annotation, case.name, warnings=warnings)
            supports += learned.supports
    if not example.annotation.points_ras:
        raise InputError(f"The support case {case.name} has no targets. Name its organs, or give it another split.")
    return supports[0], supports[1] if len(supports) > 1 else None


def _localization(
    localizer: Localizer, volume: Volume, sets: Sequence[SupportSet]
) -> Callable[[], tuple[FieldEvidence, list[tuple[OrganDetection, ...]], float]]:
    """A function that locates all organs by every set; it gives the evidence of the scan, too, and the seconds that the
    first set took with the position field.
    """

    def localize() -> tuple[FieldEvidence, list[tuple[OrganDetection, ...]], float]:
        started = time.perf_counter()
        evidence = FieldEvidence.of(localizer.compute_position_field(volume))

        def by(support_set: SupportSet) -> tuple[OrganDetection, ...]:
            return locate(support_set, evidence, calibration=localizer.calibration, config=localizer.config)

        first = by(sets[0])
        elapsed = time.perf_counter() - started
        return evidence, [first, *(by(support_set) for support_set in sets[1:])], elapsed

    return localize
