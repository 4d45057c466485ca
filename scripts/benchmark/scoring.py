"""The one scorer: every number of the report is computed here, from predictions on disk and label maps."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from rprloc.detection import OrganDetection
from rprloc.evaluation.evaluate import read_case
from rprloc.evaluation.scores import PairScore, Summary, mean_of, score, summarize
from rprloc.files import write_text_atomically
from rprloc.geometry import Points
from scripts.benchmark.predictions import Pair, Prediction, for_shots, path_of
from scripts.benchmark.registry import Row, Setting

MEAN = "mean"

Interval = tuple[float, float]


def iou_of(score: PairScore) -> float:
    return score.iou


def awd_mm_of(score: PairScore) -> float:
    return score.awd_mm


def interval_over_queries(values: Mapping[str, float]) -> Interval:
    """The 95 % interval of the mean of one value a query: how much the few queries leave to chance (bootstrap)."""
    sample = np.array(list(values.values()))
    if len(sample) < 2 or np.ptp(sample) == 0.0:
        return float(sample.mean()), float(sample.mean())
    drawn = bootstrap((sample,), np.mean, n_resamples=2000, method="percentile", random_state=np.random.default_rng(0))
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


@dataclass(frozen=True, eq=False)
class Result:
    """A row's scores in one region, on all its pairs, and the seconds of each query."""

    row: Row
    region: str
    scores: tuple[PairScore, ...]
    seconds: tuple[float, ...]
    organs: int
    estimates: dict[str, float]
    machines: tuple[str, ...]

    @property
    def summaries(self) -> dict[str, Summary]:
        return summarize(self.scores)

    @property
    def iou(self) -> float:
        """The mean over targets of the mean over pairs."""
        mean = mean_of(self.summaries)
        return float("nan") if mean is None else mean.iou

    @property
    def awd_mm(self) -> float:
        mean = mean_of(self.summaries)
        return float("nan") if mean is None else mean.awd_mm

    def by_query(self, measure: Callable[[PairScore], float], target: str = MEAN) -> dict[str, float]:
        """Of each query the mean of a measure over its pairs, of one target or of all."""
        values: dict[str, list[float]] = defaultdict(list)
        for pair in self.scores:
            if target in (MEAN, pair.target):
                values[pair.query].append(measure(pair))
        return {query: fmean(of_query) for query, of_query in values.items()}

    def interval(self, measure: Callable[[PairScore], float], target: str = MEAN) -> Interval:
        return interval_over_queries(self.by_query(measure, target))

    @property
    def pairs(self) -> int:
        return len({(pair.support, pair.query) for pair in self.scores})

    def timed_as(self, other: Result) -> Result:
        """The same scores with the times of another result."""
        machines = tuple(dict.fromkeys((*self.machines, *other.machines)))
        return replace(self, seconds=other.seconds, estimates=other.estimates, machines=machines)

    @property
    def iou_sd_supports(self) -> float | None:
        """The standard deviation (n - 1) over examples of the mean IoU of each; None for less than two."""
        by_support: dict[str, list[float]] = {pair.support: [] for pair in self.scores}
        for pair in self.scores:
            by_support[pair.support].append(pair.iou)
        means = [fmean(values) for values in by_support.values()]
        return stdev(means) if len(means) > 1 else None

    @property
    def seconds_per_query(self) -> float:
        """All organs of a query, from the array in memory to the boxes: the median over pairs."""
        return float(np.median(self.seconds))

    @property
    def seconds_per_organ(self) -> float:
        return self.seconds_per_query / self.organs

    def records(self) -> list[dict[str, Any]]:
        """One entry for each target, and for several targets one for their mean."""
        parts = {target: (summary.iou, summary.awd_mm, summary.n) for target, summary in self.summaries.items()}
        if len(parts) > 1:
            parts[MEAN] = (self.iou, self.awd_mm, self.pairs)
        return [
            {
                "table": self.row.table,
                "row": self.row.name,
                "region": self.region,
                "target": target,
                "iou": round(iou, 4),
                "iou_interval": [round(end, 4) for end in self.interval(iou_of, target)],
                "awd_mm": round(awd_mm, 3),
                "awd_interval_mm": [round(end, 3) for end in self.interval(awd_mm_of, target)],
                "seconds_per_query": round(self.seconds_per_query, 3),
                "seconds_per_organ": round(self.seconds_per_organ, 4),
                "n": n,
            }
            for target, (iou, awd_mm, n) in parts.items()
        ]


def score_rows(setting: Setting, rows: Iterable[Row], region: str, pairs: Sequence[Pair], folder: Path) -> list[Result]:
    """The result of every row that has predictions of all pairs of a region; rows without are left out."""
    cases = {case.name: case for case in setting.cases}
    truths = {pair.query: read_case(cases[pair.query]).annotation.points_ras for pair in pairs}
    results = []
    for row in rows:
        wanted = for_shots(pairs, row.shots)
        paths = [path_of(folder, row.name, pair) for pair in wanted]
        if not wanted or not all(path.exists() for path in paths):
            continue
        predictions = [Prediction.read(path) for path in paths]
        scores = [
            pair_score
            for prediction in predictions
            for pair_score in score_prediction(prediction, truths[prediction.pair.query])
        ]
        estimates = {
            name: float(np.median([prediction.estimates[name] for prediction in predictions]))
            for name in predictions[0].estimates
        }
        results.append(
            Result(
                row,
                region,
                tuple(scores),
                tuple(prediction.seconds for prediction in predictions),
                len(setting.targets[pairs[0].region]),
                estimates,
                tuple(dict.fromkeys(prediction.machine for prediction in predictions)),
            )
        )
    return results


def score_prediction(prediction: Prediction, truth_ras: Mapping[str, Points]) -> list[PairScore]:
    """Every organ of a prediction compared with the query's true extreme points (6, 3)."""
    return [
        score(
            prediction.pair.support,
            prediction.pair.query,
            OrganDetection(organ, points, np.zeros(6), 1, (prediction.pair.support,)),
            truth_ras[organ],
        )
        for organ, points in prediction.points_ras.items()
    ]


def write_records(results: Iterable[Result], path: Path) -> None:
    """All results as a JSON list, one line for each entry."""
    lines = [json.dumps(record, allow_nan=False) for result in results for record in result.records()]
    write_text_atomically(path, "[\n" + ",\n".join(f" {line}" for line in lines) + "\n]\n")
