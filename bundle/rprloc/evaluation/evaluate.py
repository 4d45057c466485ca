"""Accuracy on annotated cases: every pair of a support and a query is localized and compared with the label map."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from tqdm import tqdm

from rprloc.annotation import Annotation, Example, Marking
from rprloc.detection import OrganDetection
from rprloc.errors import InputError
from rprloc.evaluation.scores import ALL_SUPPORTS, SHOTS, Evaluation, PairScore, score
from rprloc.io.annotations import read_annotation
from rprloc.io.dataset import Case, Region
from rprloc.io.reading import read_scan
from rprloc.localization.localizer import Localizer
from rprloc.localization.locate import locate
from rprloc.localization.support import Support, SupportSet
from rprloc.model.device import run_on_device
from rprloc.volume import Volume


def evaluate(
    localizer: Localizer, cases: Iterable[Case], region: str, split: str, shots: str, about: Region | None = None
) -> Evaluation:
    """Localize the targets of a region's ``split`` cases by its support cases, and compare with the label maps.

    ``shots``: "one" for every support alone, over all pairs of a support and a query; "all" for all supports together.
    A pair counts for the targets that lie wholly inside both scans; no scan is its own support. The time a query is
    the median wall time from its array in memory to the boxes of all organs of the set with the most organs, after one
    query that warms up.

    Raises InputError if the region, supports or queries are missing, or a file of theirs cannot be used.
    """
    if shots not in SHOTS:
        raise ValueError(f"shots must be one of {SHOTS}, got {shots!r}")
    supports, queries = _choose(list(cases), region, split)
    known = [learn_support(localizer, case) for case in tqdm(supports, desc="supports", unit="scan", disable=None)]
    organs_per_query = 0
    scores: list[PairScore] = []
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
        by_set, elapsed = run_on_device(localizer.model, localize, fall_back=localizer.fall_back)
        seconds.append(elapsed)
        for (name, _), organs in zip(sets, by_set, strict=True):
            scores += [score(name, case.name, organ, truth[organ.organ]) for organ in organs if organ.organ in truth]
    if not scores:
        raise InputError(
            f"No support of {region} shares a target with a query of split {split}. Check the targets in the "
            "datasets.json."
        )
    return Evaluation(
        region=region,
        split=split,
        shots=shots,
        supports=len(supports),
        queries=len(queries),
        scores=tuple(scores),
        seconds_per_query=median(seconds),
        organs_per_query=organs_per_query,
        model_id=localizer.model_id,
        device=localizer.device_name,
        about=about or Region(),
    )


def _sets_for(
    model_id: str, supports: Sequence[Support], query: str, organs: Iterable[str], shots: str
) -> list[tuple[str, SupportSet]]:
    """The named sets that locate in a query and share an organ with it, the one with the most organs first."""
    others = [support for support in supports if support.scan != query]
    sets = [(support.scan, SupportSet(model_id, (support,))) for support in others]
    if shots == "all":
        sets = [(ALL_SUPPORTS, SupportSet(model_id, tuple(others)))] if others else []
    wanted = set(organs)
    sets = [(name, support_set) for name, support_set in sets if wanted & set(support_set.organs)]
    return sorted(sets, key=lambda entry: -len(entry[1].organs))  # the first is timed; sorting is stable


def _choose(cases: Sequence[Case], region: str, split: str) -> tuple[list[Case], list[Case]]:
    """The support and the query cases."""
    regions = list(dict.fromkeys(case.region for case in cases))
    if region not in regions:
        raise InputError(
            f"The dataset has no region {region}. It has {', '.join(regions) or 'none'}: name one of these."
        )
    supports = [case for case in cases if case.region == region and case.split == "support"]
    queries = [case for case in cases if case.region == region and case.split == split]
    for what, chosen in (("support", supports), (split, queries)):
        if not chosen:
            raise InputError(f"The region {region} has no case of split {what}. Check the splits in the datasets.json.")
    return supports, queries


def read_case(case: Case) -> Example:
    """A case's scan with the targets that lie wholly inside it.

    Raises InputError if a file cannot be used.
    """
    scan = read_scan(case.image_path)
    annotation = Annotation({}, marking=Marking.LABEL_MAP)
    if case.targets:
        annotation = read_annotation(case.labels_path, scan, names=case.names, organs=case.targets)
    return Example(scan.volume, annotation, case.name, scan.warnings)


def learn_support(localizer: Localizer, case: Case) -> Support:
    """The support that a case makes."""
    (support,) = localizer.learn(read_case(case)).supports
    return support


def _localization(
    localizer: Localizer, volume: Volume, sets: Sequence[SupportSet]
) -> Callable[[], tuple[list[tuple[OrganDetection, ...]], float]]:
    """A function that locates all organs by every set, and tells the seconds that the first one took with the field."""

    def localize() -> tuple[list[tuple[OrganDetection, ...]], float]:
        started = time.perf_counter()
        field = localizer.compute_position_field(volume)

        def by(support_set: SupportSet) -> tuple[OrganDetection, ...]:
            return locate(support_set, field, calibration=localizer.calibration, config=localizer.config)

        first = by(sets[0])
        elapsed = time.perf_counter() - started
        return [first, *(by(support_set) for support_set in sets[1:])], elapsed

    return localize
