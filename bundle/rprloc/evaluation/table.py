"""Results of several regions as one Markdown table, with 95 % intervals over queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from rprloc.evaluation.scores import Evaluation, PairScore

_DRAWS = 2000


def interval_of_mean(
    pairs: Sequence[PairScore], targets: Sequence[str], of: Callable[[PairScore], float] = lambda pair: pair.iou
) -> tuple[float, float]:
    """The 95 % interval of the mean over targets of the mean over pairs, by default of the IoU: how much the few
    queries leave to chance.

    Queries are drawn with replacement 2,000 times (bootstrap, seed 0).
    """
    by_query: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        by_query[pair.query][pair.target].append(of(pair))
    sums, counts = (
        np.array([[measure(values[target]) for target in targets] for values in by_query.values()])
        for measure in (sum, len)
    )  # (query, target)
    drawn = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), _DRAWS)  # (draw, query)
    # A draw without any query that shows a target tells nothing of it.
    with np.errstate(invalid="ignore"):
        of_targets = drawn @ sums / (drawn @ counts)  # (draw, target)
    shown = np.isfinite(of_targets)
    means = np.where(shown, of_targets, 0.0).sum(1)[shown.any(1)] / shown.sum(1)[shown.any(1)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def accuracy_table(results: Sequence[tuple[Evaluation, Evaluation]]) -> str:
    """One Markdown table of pairs of results, one shot and all shots of a region: a row for each region and target."""
    lines = [
        "| region | target | IoU, one shot | 95 % | AWD mm | sd over supports | IoU, all shots | AWD mm |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for single_shot, all_shots in results:
        fused_targets = all_shots.targets
        for target, alone in single_shot.targets.items():
            spread = "-" if alone.iou_sd_supports is None else f"{alone.iou_sd_supports:.2f}"
            fused = fused_targets.get(target)
            both = "- | -" if fused is None else f"{fused.iou:.2f} | {fused.awd_mm:.1f}"
            lines.append(
                f"| {single_shot.region} | {target} | {alone.iou:.2f} | {_interval(single_shot, [target])} "
                f"| {alone.awd_mm:.1f} "
                f"| {spread} | {both} |"
            )
        mean, fused_mean = single_shot.mean, all_shots.mean
        if mean is not None and fused_mean is not None:
            lines.append(
                f"| {single_shot.region} | **mean** of {len(mean.targets)} | **{mean.iou:.2f}** "
                f"| {_interval(single_shot, mean.targets)} | **{mean.awd_mm:.1f}** | "
                f"| **{fused_mean.iou:.2f}** | **{fused_mean.awd_mm:.1f}** |"
            )
    return "\n".join(lines)


def landmark_table(results: Sequence[tuple[Evaluation, Evaluation]]) -> str:
    """One Markdown table of the landmarks of pairs of results, one shot and all shots of a region; "" without any."""
    rows = []
    for single_shot, all_shots in results:
        fused = all_shots.landmarks
        for name, alone in single_shot.landmarks.items():
            together = fused.get(name)
            both = "- | -" if together is None else f"{together.median_mm:.1f} | {together.p90_mm:.1f}"
            rows.append(
                f"| {single_shot.region} | {name} | {alone.median_mm:.1f} | {alone.mean_mm:.1f} | {alone.p90_mm:.1f} "
                f"| {alone.n} | {both} |"
            )
    if not rows:
        return ""
    head = [
        "| region | landmark | median mm, one shot | mean | 90 % below | pairs | median mm, all shots | 90 % below |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows])


def _interval(evaluation: Evaluation, targets: Sequence[str]) -> str:
    low, high = interval_of_mean(evaluation.scores, targets)
    return f"{low:.2f} to {high:.2f}"
