"""How well boxes agree with the truth: pairs, summaries, and the results of a region with their files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rprloc.detection import LandmarkDetection, OrganDetection
from rprloc.files import write_text_atomically
from rprloc.geometry import WALLS, Box, Points
from rprloc.io.dataset import Region
from rprloc.version import __version__

SHOTS = ("one", "all")
ALL_SUPPORTS = "all"
"""Stands for the support of a pair when all supports locate together."""


@dataclass(frozen=True, eq=False)
class PairScore:
    """How well one support (or all together) located one target in one query.

    ``wall_errors_mm`` (6,): predicted minus true coordinate of each wall along its RAS axis, in the order of WALLS.
    ``point_errors_mm`` (6,): distance between the predicted and the true extreme points. ``missed``: the organ was said
    to be absent, so that there is no box: the IoU is 0, and the errors are those of the place where it was withheld.
    ``expected_mm``: the expected wall error, None with weights for which it was not calibrated.
    """

    support: str
    query: str
    target: str
    iou: float
    wall_errors_mm: NDArray[np.float64]
    point_errors_mm: NDArray[np.float64]
    missed: bool = False
    expected_mm: float | None = None

    @property
    def awd_mm(self) -> float:
        return float(np.abs(self.wall_errors_mm).mean())

    @property
    def point_mm(self) -> float:
        return float(self.point_errors_mm.mean())


@dataclass(frozen=True)
class LandmarkScore:
    """How far one support (or all together) was off with one landmark in one query.

    ``missed``: it was said to be absent; the error is that of the place where it was withheld. ``expected_mm``: the
    expected error, None with weights for which it was not calibrated.
    """

    support: str
    query: str
    landmark: str
    error_mm: float
    missed: bool = False
    expected_mm: float | None = None


@dataclass(frozen=True)
class LandmarkSummary:
    """Errors of a landmark over ``n`` pairs, of which ``missed`` got no point; nine tenths are below ``p90_mm``."""

    median_mm: float
    mean_mm: float
    p90_mm: float
    n: int
    missed: int = 0


@dataclass(frozen=True)
class Summary:
    """Means over ``n`` pairs, of which ``missed`` got no box.

    ``iou_sd_supports`` is the standard deviation (n - 1) of the supports' mean IoU, None for less than two supports.
    """

    iou: float
    awd_mm: float
    point_mm: float
    n: int
    iou_sd_supports: float | None
    missed: int = 0


@dataclass(frozen=True)
class Mean:
    """Means over the summaries of ``targets``."""

    iou: float
    awd_mm: float
    point_mm: float
    targets: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All pairs of one region and split. ``seconds_per_query``: see :func:`evaluate`. ``about``: what is known of the
    region.
    """

    region: str
    split: str
    shots: str
    supports: int
    queries: int
    scores: tuple[PairScore, ...]
    seconds_per_query: float
    organs_per_query: int
    model_id: str
    device: str
    about: Region = field(default_factory=Region)
    landmark_scores: tuple[LandmarkScore, ...] = ()

    @property
    def landmarks(self) -> dict[str, LandmarkSummary]:
        """The summary of every landmark, in the order in which the landmarks first appear."""
        names = dict.fromkeys(score.landmark for score in self.landmark_scores)
        return {name: self._landmark_summary(name) for name in names}

    def _landmark_summary(self, name: str) -> LandmarkSummary:
        scores = [score for score in self.landmark_scores if score.landmark == name]
        errors_mm = [score.error_mm for score in scores]
        return LandmarkSummary(
            float(np.median(errors_mm)),
            fmean(errors_mm),
            float(np.quantile(errors_mm, 0.9)),
            len(scores),
            sum(score.missed for score in scores),
        )

    @property
    def stem(self) -> str:
        """What the files of these results are called."""
        return f"{self.region}-{self.split}-{self.shots}"

    @property
    def targets(self) -> dict[str, Summary]:
        """The summary of every target, in the order in which the targets first appear."""
        return summarize(self.scores)

    @property
    def mean(self) -> Mean | None:
        """The mean over the targets that count in it (:class:`rprloc.io.dataset.Region`); None if there is none."""
        targets = self.targets
        return mean_of({name: targets[name] for name in self.about.mean_of(targets)})

    def to_json(self) -> str:
        """The results as JSON text, millimetres and IoU rounded to four decimals."""
        mean = self.mean
        content = {
            "region": self.region,
            "split": self.split,
            "shots": self.shots,
            "supports": self.supports,
            "queries": self.queries,
            "targets": {name: _round(dataclasses.asdict(summary)) for name, summary in self.targets.items()},
            "mean": None if mean is None else _round(dataclasses.asdict(mean)),
            "landmarks": {name: _round(dataclasses.asdict(summary)) for name, summary in self.landmarks.items()},
            "seconds_per_query": round(self.seconds_per_query, 3),
            "organs_per_query": self.organs_per_query,
            "model_id": self.model_id,
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cpus": os.cpu_count(),
                "threads": torch.get_num_threads(),
                "device": self.device,
            },
            "versions": {
                "rprloc": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """One row for each support, query and target."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            [
                *("region", "support", "query", "target", "iou", "awd_mm", "point_mm"),
                *(f"{wall}_mm" for wall in WALLS),
                *("missed", "expected_wall_error_mm"),
            ]
        )
        for score in self.scores:
            numbers = [score.iou, score.awd_mm, score.point_mm, *score.wall_errors_mm]
            writer.writerow(
                [
                    *(self.region, score.support, score.query, score.target),
                    *(f"{number:.4f}" for number in numbers),
                    int(score.missed),
                    "" if score.expected_mm is None else f"{score.expected_mm:.4f}",
                ]
            )
        return text.getvalue()

    def landmarks_to_csv(self) -> str:
        """One row for each support, query and landmark."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["region", "support", "query", "landmark", "error_mm", "missed", "expected_error_mm"])
        for score in self.landmark_scores:
            expected = "" if score.expected_mm is None else f"{score.expected_mm:.4f}"
            writer.writerow(
                [
                    *(self.region, score.support, score.query, score.landmark),
                    *(f"{score.error_mm:.4f}", int(score.missed), expected),
                ]
            )
        return text.getvalue()

    def to_table(self) -> str:
        """The results as text for people."""
        targets, mean = self.targets, self.mean
        width = max(len(name) for name in ("target", *targets))
        together = "each support alone" if self.shots == "one" else "all supports together"
        lines = [
            f"{self.region}, split {self.split}: {self.queries} queries, {self.supports} supports, {together}",
            f"{'target':{width}}    IoU  sd over supports  AWD mm  points mm     n",
        ]
        for name, summary in targets.items():
            spread = "-" if summary.iou_sd_supports is None else f"{summary.iou_sd_supports:.3f}"
            lines.append(
                f"{name:{width}}  {summary.iou:.3f}  {spread:>16}  {summary.awd_mm:6.1f}  {summary.point_mm:9.1f}"
                f"  {summary.n:4d}"
            )
        missed = sum(summary.missed for summary in targets.values())
        if missed:
            tried = sum(summary.n for summary in targets.values())
            lines.append(
                f"{missed} of {tried} boxes were withheld, because RPR-Loc took the organ for absent. Their IoU counts "
                "as 0."
            )
        if mean is not None:
            lines.append(f"{'mean':{width}}  {mean.iou:.3f}  {'':16}  {mean.awd_mm:6.1f}  {mean.point_mm:9.1f}")
            if mean.targets != tuple(targets):
                lines.append(f"mean over {', '.join(mean.targets)}")
        landmarks = self.landmarks
        if landmarks:
            width = max(len(name) for name in ("landmark", *landmarks))
            lines.append(f"{'landmark':{width}}  median mm  mean mm  90 % below     n")
        for name, points in landmarks.items():
            lines.append(
                f"{name:{width}}  {points.median_mm:9.1f}  {points.mean_mm:7.1f}  {points.p90_mm:10.1f}  {points.n:4d}"
            )
        missed = sum(points.missed for points in landmarks.values())
        if missed:
            tried = sum(points.n for points in landmarks.values())
            lines.append(
                f"{missed} of {tried} points were withheld, because RPR-Loc took the landmark for absent. Their error "
                "is that of the place where it looked."
            )
        lines.append(
            f"{self.seconds_per_query:.2f} s a query for {self.organs_per_query} organs, from the array in memory "
            f"({self.device})"
        )
        return "\n".join(lines)


def score(support: str, query: str, detection: OrganDetection, truth_ras: Points) -> PairScore:
    """Compare a detection with the true extreme points (6, 3), RAS mm, in the order of WALLS.

    An organ that is said to be absent although it is there counts as a miss; see :class:`PairScore`.
    """
    box, truth = detection.box, Box.from_extreme_points(truth_ras)
    return PairScore(
        support,
        query,
        detection.organ,
        0.0 if detection.is_absent else box.iou(truth),
        box.walls_mm - truth.walls_mm,
        np.linalg.norm(detection.points_ras - truth_ras, axis=1),
        detection.is_absent,
        detection.expected_wall_error_mm,
    )


def score_landmark(
    support: str, query: str, detection: LandmarkDetection, truth_ras: NDArray[np.float64]
) -> LandmarkScore:
    """Compare a detection with the true point (3,), RAS mm. A landmark that is said to be absent counts as a miss."""
    error_mm = float(np.linalg.norm(detection.point_ras - truth_ras))
    return LandmarkScore(support, query, detection.landmark, error_mm, detection.is_absent, detection.expected_error_mm)


def summarize(scores: Iterable[PairScore]) -> dict[str, Summary]:
    """The summary of every target, in the order in which the targets first appear; {} without scores."""
    by_target: dict[str, list[PairScore]] = {}
    for pair in scores:
        by_target.setdefault(pair.target, []).append(pair)
    return {target: _summary(pairs) for target, pairs in by_target.items()}


def mean_of(summaries: dict[str, Summary]) -> Mean | None:
    """The mean over targets, each with the same weight; None without any."""
    if not summaries:
        return None
    values = summaries.values()
    return Mean(
        fmean(summary.iou for summary in values),
        fmean(summary.awd_mm for summary in values),
        fmean(summary.point_mm for summary in values),
        tuple(summaries),
    )


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write the results as JSON, and every pair as CSV, organs and landmarks apart.

    Raises InputError if the folder is not writable.
    """
    write_text_atomically(folder / f"{evaluation.stem}.csv", evaluation.to_csv())
    if evaluation.landmark_scores:
        write_text_atomically(folder / f"{evaluation.stem}-landmarks.csv", evaluation.landmarks_to_csv())
    write_text_atomically(folder / f"{evaluation.stem}.json", evaluation.to_json())


def _summary(pairs: Sequence[PairScore]) -> Summary:
    by_support: dict[str, list[float]] = {}
    for pair in pairs:
        by_support.setdefault(pair.support, []).append(pair.iou)
    means = [fmean(values) for values in by_support.values()]
    return Summary(
        fmean(pair.iou for pair in pairs),
        fmean(pair.awd_mm for pair in pairs),
        fmean(pair.point_mm for pair in pairs),
        len(pairs),
        stdev(means) if len(means) > 1 else None,
        sum(pair.missed for pair in pairs),
    )


def _round(values: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}
