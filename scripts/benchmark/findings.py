"""What the numbers say of the product, in words: what it beats, what beats it, and how fast it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from scripts.benchmark.registry import SUPERVISED
from scripts.benchmark.scoring import Result
from scripts.benchmark.wording import (
    PAPER,
    PRODUCT,
    find_row,
    format_percent,
    format_scores,
    list_rivals,
    name_region,
    name_target,
)


def describe_findings(results: Sequence[Result], region: str, cautions: Mapping[str, str]) -> str:
    """The section on a region. ``cautions``: of every method, what must be known before its accuracy is compared."""
    ours = find_row(results, region, PRODUCT)
    lines = [f"## What it says: {name_region(region)}\n"]
    if ours is None:
        return "\n".join([*lines, f"`{PRODUCT}` has no predictions here.\n"])
    rivals = list_rivals(results, region)
    lines += _compare_means(ours, [rival for rival in rivals if rival.row.given != SUPERVISED])
    lines += _list_winners(ours, rivals)
    lines += [f"- **Beware**, `{name}`: {caution}" for name, caution in cautions.items() if caution]
    lines += describe_speed(results, region)
    return "\n".join(lines) + "\n"


def _compare_means(ours: Result, rivals: Sequence[Result]) -> list[str]:
    """Whether the product beats the best of its unsupervised rivals, in mean IoU and in mean AWD."""
    if not rivals:
        return []
    lines = []
    for measure, best_of, better in (("mean IoU", max, np.greater), ("mean AWD", min, np.less)):
        best = best_of(rivals, key=lambda rival: rival.iou if measure == "mean IoU" else rival.awd_mm)
        mine, theirs = (result.iou if measure == "mean IoU" else result.awd_mm for result in (ours, best))
        texts = [
            format_percent(value) + "%" if measure == "mean IoU" else f"{value:.2f} mm" for value in (mine, theirs)
        ]
        verdict = (
            "beats every other unsupervised row" if better(mine, theirs) else f"**is beaten by `{best.row.name}`**"
        )
        lines.append(
            f"- {measure}: `{PRODUCT}` {verdict} ({texts[0]}; the best other one is `{best.row.name}` {texts[1]})."
        )
    return lines


def describe_speed(results: Sequence[Result], region: str) -> list[str]:
    """How long the product takes for all organs of a query, against the paper's method and template matching."""
    ours, paper = find_row(results, region, PRODUCT), find_row(results, region, PAPER)
    if ours is None:
        return []
    lines = []
    if paper is not None:
        factor = paper.seconds_per_query / ours.seconds_per_query
        goal = "as was aimed at" if factor >= 50 else "**less than the 50 times that were aimed at**"
        organs = f"all {ours.organs} organs" if ours.organs > 1 else "one organ"
        lines.append(
            f"- Time for {organs} of a query: `{PRODUCT}` {ours.seconds_per_query:.2f} s, `{PAPER}` "
            f"{paper.seconds_per_query:.1f} s: {factor:.0f} times faster, {goal}."
        )
    matching = [result for result in results if result.region == region and result.row.name.startswith("gs-")]
    if matching:
        fastest = min(matching, key=lambda result: result.seconds_per_query)
        verdict = "faster" if ours.seconds_per_query < fastest.seconds_per_query else "**slower**"
        lines.append(
            f"- `{PRODUCT}` is {verdict} than template matching through FFTs (`{fastest.row.name}`, "
            f"{fastest.seconds_per_query:.1f} s)."
        )
    return lines


def _list_winners(ours: Result, rivals: Sequence[Result]) -> list[str]:
    """The organs for which another row is better than the product, by how much, and why that can be."""
    lines = []
    names_by_reason: dict[str, list[str]] = defaultdict(list)
    for target, mine in ours.summaries.items():
        better = []
        for rival in rivals:
            theirs = rival.summaries[target]
            if theirs.iou > mine.iou or theirs.awd_mm < mine.awd_mm:
                share = _count_wins(ours, rival, target)
                better.append(f"`{rival.row.name}` ({format_scores(theirs.iou, theirs.awd_mm)}; {share})")
                names_by_reason[rival.row.strength or "No reason is known."].append(f"`{rival.row.name}`")
        if better:
            scores = format_scores(mine.iou, mine.awd_mm)
            lines.append(f"  - {name_target(target)}, `{PRODUCT}` {scores}: {', '.join(better)}")
    if not lines:
        return ["- No other one-shot or supervised method is better for any single organ, in IoU or in AWD."]
    reasons = [f"  - {', '.join(dict.fromkeys(names))}: {reason}" for reason, names in names_by_reason.items()]
    return [
        "- Other methods that are better for an organ, in IoU or in AWD (IoU %, AWD mm; in how many pairs the IoU of "
        f"`{PRODUCT}` is nevertheless higher):",
        *lines,
        "- Why that can be:",
        *reasons,
    ]


def _count_wins(ours: Result, theirs: Result, target: str) -> str:
    """In how many of the pairs that both have the first has the higher IoU."""
    rival = {(score.support, score.query): score.iou for score in theirs.scores if score.target == target}
    mine = {(score.support, score.query): score.iou for score in ours.scores if score.target == target}
    both = mine.keys() & rival.keys()
    return f"{sum(mine[pair] > rival[pair] for pair in both)} of {len(both)}"
