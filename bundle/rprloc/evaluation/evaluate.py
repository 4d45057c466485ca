"""Accuracy on annotated cases: every pair of a support and a query is localized and compared with the label map."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from tqdm import tqdm

from rprloc.annotation import Mask, masks_from_labels, points_from_labels
from rprloc.detection import OrganDetection
from rprloc.errors import InputError
from rprloc.evaluation.scores import ALL_SUPPORTS, SHOTS, Evaluation, PairScore, score
from rprloc.geometry import Points
from rprloc.io.annotations import read_label_map
from rprloc.io.dataset import Case
from rprloc.io.reading import read_volume
from rprloc.localization.localizer import Engine
from rprloc.localization.locate import locate
from rprloc.localization.support import Support, SupportSet
from rprloc.model.device import run_on_device
from rprloc.model.field import position_field
from rprloc.model.network import RPRNet
from rprloc.volume import Volume


def evaluate(
    model: RPRNet, cases: Iterable[Case], region: str, split: str, shots: str, *, fall_back: bool = False
) -> Evaluation:
    """Localize the targets of a region's ``split`` cases by its support cases, and compare with the label maps.

    ``shots``: "one" for every support alone, over all pairs of a support and a query; "all" for all supports together.
    A pair counts for the targets that lie wholly inside both scans; no scan is its own support. The time a query is
    the median wall time from its array in memory to the boxes of all organs of the set with the most organs, after one
    query that warms up. ``fall_back``: see :func:`rprloc.model.device.run_on_device`.

    Raises InputError if the region, supports or queries are missing, or a file of theirs cannot be used.
    """
    if shots not in SHOTS:
        raise ValueError(f"shots must be one of {SHOTS}, got {shots!r}")
    cases = list(cases)
    supports, queries = _chosen(cases, region, split)
    engine, model_id = Engine(model, fall_back), model.identity()
    known = [_support(engine, case) for case in tqdm(supports, desc="supports", unit="scan", disable=None)]
    organs_per_query = 0
    scores: list[PairScore] = []
    seconds: list[float] = []
    for case in tqdm(queries, desc="queries", unit="scan", disable=None):
        volume, truth, _ = annotated(case)
        others = [support for support in known if support.scan != case.name]
        sets = [(support.scan, SupportSet(model_id, (support,))) for support in others]
        if shots == "all":
            sets = [(ALL_SUPPORTS, SupportSet(model_id, tuple(others)))] if others else []
        sets = [(name, one) for name, one in sets if set(one.organs) & truth.keys()]
        if not sets:
            continue
        sets.sort(key=lambda entry: -len(entry[1].organs))  # the first is timed; sorting is stable
        organs_per_query = max(organs_per_query, len(sets[0][1].organs))
        localize = _localization(model, volume, sets)
        if not seconds:  # warms up
            run_on_device(model, localize, fall_back=fall_back)
        found, elapsed = run_on_device(model, localize, fall_back=fall_back)
        seconds.append(elapsed)
        for (name, _), detections in zip(sets, found, strict=True):
            scores += [score(name, case.name, one, truth[one.organ]) for one in detections if one.organ in truth]
    if not scores:
        raise InputError(
            f"No support of {region} shares a target with a query of split {split}; at least one pair was expected; "
            "check the targets in the datasets.json."
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
        model_id=model_id,
        device=engine.device_name,
    )


def _chosen(cases: Sequence[Case], region: str, split: str) -> tuple[list[Case], list[Case]]:
    """The support and the query cases."""
    regions = list(dict.fromkeys(case.region for case in cases))
    if region not in regions:
        raise InputError(
            f"The dataset has no region {region}; one of {', '.join(regions) or 'none'} was expected; name one it has."
        )
    supports = [case for case in cases if case.region == region and case.split == "support"]
    queries = [case for case in cases if case.region == region and case.split == split]
    for what, found in (("support", supports), (split, queries)):
        if not found:
            raise InputError(
                f"The region {region} has no case of split {what}; at least one was expected; "
                "check the splits in the datasets.json."
            )
    return supports, queries


def annotated(case: Case) -> tuple[Volume, dict[str, Points], dict[str, Mask]]:
    """A case's scan, and the extreme points (6, 3), RAS mm, and masks of the targets that lie wholly inside it.

    Raises InputError if a file cannot be used.
    """
    volume = read_volume(case.image_path)
    names = {number: name for number, name in case.label_names.items() if name in case.targets}
    if not names:
        return volume, {}, {}
    labels = read_label_map(case.labels_path, volume.grid)
    return volume, points_from_labels(labels, volume.grid, names), masks_from_labels(labels, volume.grid, names)


def _support(engine: Engine, case: Case) -> Support:
    volume, points, masks = annotated(case)
    return engine.support_set(volume, points, scan=case.name, source="label map", masks=masks).supports[0]


def _localization(
    model: RPRNet, volume: Volume, sets: Sequence[tuple[str, SupportSet]]
) -> Callable[[], tuple[list[tuple[OrganDetection, ...]], float]]:
    """A function that locates all organs by every set, and tells the seconds that the first one took with the field."""

    def localize() -> tuple[list[tuple[OrganDetection, ...]], float]:
        started = time.perf_counter()
        field = position_field(model, volume)
        found = [locate(sets[0][1], field)]
        elapsed = time.perf_counter() - started
        return found + [locate(support_set, field) for _, support_set in sets[1:]], elapsed

    return localize
