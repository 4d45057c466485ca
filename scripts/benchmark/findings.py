"""What the numbers say, in words: what the product beats, what beats it, how fast it is, what the paper's does."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from rprloc.evaluation.scores import PairScore
from scripts.benchmark.paper import look_up_figures
from scripts.benchmark.registry import SUPERVISED
from scripts.benchmark.scoring import MEAN, Interval, Result, awd_mm_of, interval_over_queries, iou_of
from scripts.benchmark.wording import (
    FLOOR,
    OTHER,
    PAPER,
    PRODUCT,
    find_row,
    format_interval,
    format_percent,
    format_scores,
    list_rivals,
    name_region,
    name_target,
)

UNDECIDED = "which may be chance"
TUNED_ON_OTHER = "its settings were chosen with the labels of training cases, too; its networks never saw a label."


def describe_findings(results: Sequence[Result], region: str, cautions: Mapping[str, str]) -> str:
    """The section on a region. ``cautions``: of every method, what must be known before its accuracy is compared."""
    ours = find_row(results, region, PRODUCT)
    lines = [f"### {name_region(region).capitalize()}\n"]
    if ours is None:
        return "\n".join([*lines, f"`{PRODUCT}` has no predictions here.\n"])
    rivals = list_rivals(results, region)
    lines.append(f"- `{PRODUCT}`, one example: {_state(ours)}.")
    unsupervised = [rival for rival in rivals if rival.row.given != SUPERVISED]
    if unsupervised:
        best = max(unsupervised, key=lambda rival: rival.iou)
        lines.append(
            f"- The best other method without labels, `{best.row.name}`: {_state(best)}; {_compare(ours, best)}"
        )
        nearest = min(unsupervised, key=lambda rival: rival.awd_mm)
        if nearest is not best:
            lines.append(f"- By AWD it is `{nearest.row.name}`: {_state(nearest)}; {_compare_awd(ours, nearest)}")
    for rival in rivals:
        if rival.row.given == SUPERVISED:
            lines.append(
                f"- With labels of many patients, `{rival.row.name}`: {_state(rival)}; {_compare(ours, rival)}"
            )
    lines += _list_winners(ours, rivals)
    lines += _describe_floor(results, region)
    lines += _describe_paper(results, region)
    lines += [f"- **Beware**, `{name}`: {caution}" for name, caution in cautions.items() if caution]
    if region.endswith(OTHER):
        lines.append(
            f"- **Beware**, `{PRODUCT}`: {TUNED_ON_OTHER} Its lead may be smaller on scans that it was not set by."
        )
    else:
        lines += describe_speed(results, region)
    return "\n".join(lines) + "\n"


def _state(result: Result) -> str:
    iou, awd = (result.interval(measure) for measure in (iou_of, awd_mm_of))
    return (
        f"IoU {format_percent(result.iou)} % ({_percent(iou)}), AWD {result.awd_mm:.1f} mm ({format_interval(awd, 1)})"
    )


def _percent(ends: Interval) -> str:
    return format_interval((100 * ends[0], 100 * ends[1]))


def difference(ours: Result, theirs: Result, measure: Callable[[PairScore], float] = iou_of) -> tuple[float, Interval]:
    """By how much the first's measure, by default the IoU, is higher on the queries that both have; its interval.

    One query leaves everything to chance.
    """
    mine, others = ours.by_query(measure), theirs.by_query(measure)
    by_query = {query: mine[query] - others[query] for query in mine if query in others}
    ends = interval_over_queries(by_query) if len(by_query) > 1 else (-math.inf, math.inf)
    return sum(by_query.values()) / len(by_query), ends


def _compare(ours: Result, theirs: Result) -> str:
    mean, ends = difference(ours, theirs)
    span = f"by {100 * abs(mean):.1f} % IoU ({_amount(100 * ends[0], 100 * ends[1])})"
    if ends[0] > 0:
        return f"`{PRODUCT}` is better {span}."
    if ends[1] < 0:
        return f"**`{PRODUCT}` is worse** {span}."
    span = f"{100 * mean:+.1f} % IoU, {format_interval((100 * ends[0], 100 * ends[1]), 1)}"
    return f"`{PRODUCT}` and `{theirs.row.name}` cannot be told apart ({span})."


def _compare_awd(ours: Result, theirs: Result) -> str:
    mean, ends = difference(ours, theirs, awd_mm_of)
    span = f"{abs(mean):.1f} mm ({_amount(*ends)})"
    if ends[1] < 0:
        return f"the walls of `{PRODUCT}` are closer by {span}."
    if ends[0] > 0:
        return f"**the walls of `{PRODUCT}` are farther off** by {span}."
    return f"`{PRODUCT}` and `{theirs.row.name}` cannot be told apart ({mean:+.1f} mm, {format_interval(ends, 1)})."


def _amount(low: float, high: float) -> str:
    """The interval of a difference whose sign is told in words: from the smaller amount to the larger one."""
    return format_interval((-high, -low) if high < 0 else (low, high), 1)


def _describe_floor(results: Sequence[Result], region: str) -> list[str]:
    """Whether the product and the paper's method beat what hardly looks at the organ."""
    floor = find_row(results, region, FLOOR)
    if floor is None:
        return []
    lines = [f"- The floor, `{FLOOR}`: {_state(floor)}. Against it:"]
    for name in (PRODUCT, PAPER):
        method = find_row(results, region, name)
        if method is not None:
            lines.append(f"  - `{name}`: {_weigh(method, floor, 'better', '**worse**')}.")
    return lines


def _describe_paper(results: Sequence[Result], region: str) -> list[str]:
    """What the paper's method reaches here beside its own figures, and whether its parts help as they do there."""
    paper = find_row(results, region, PAPER)
    if paper is None:
        return []
    known = look_up_figures(paper.row.table, paper.row.paper)
    target = MEAN if len(paper.summaries) > 1 else next(iter(paper.summaries))
    lines = [f"- The paper's method, `{PAPER}`: {_state(paper)}."]
    if target in known:
        lines[-1] = (
            lines[-1][:-1] + f"; the paper says {known[target][0]:.1f} %, {known[target][1]:.1f} mm of its patients."
        )
    steps = (
        ("six extreme points", "extreme K=1", "two corners", "diagonal K=1"),
        ("twenty runs", "extreme K=20", "one", "extreme K=1"),
        ("the fine network after the coarse one", "M_c + M_f", "the coarse one alone", "M_c one step"),
    )
    for better, name, worse, other in steps:
        one, two = find_row(results, region, name), find_row(results, region, other)
        if one is not None and two is not None:
            weighed = _weigh(one, two, "as in the paper", "**not as in the paper**")
            lines.append(f"  - {better} against {worse}: {weighed}.")
    return lines


def _weigh(one: Result, two: Result, better: str, worse: str) -> str:
    """By how much the first result has more overlap and nearer walls than the second; what each says, if anything."""
    told = []
    for measure, unit, factor, sign in ((iou_of, "% IoU", 100.0, 1), (awd_mm_of, "mm AWD", 1.0, -1)):
        mean, ends = difference(one, two, measure)
        gains = [sign * end for end in ends]
        verdict = better if min(gains) > 0 else worse if max(gains) < 0 else UNDECIDED
        span = format_interval((factor * ends[0], factor * ends[1]), 1)
        told.append(f"{factor * mean:+.1f} {unit} ({span}), {verdict}")
    return "; ".join(told)


def describe_speed(results: Sequence[Result], region: str) -> list[str]:
    """How long the product takes for all organs of a query, against the paper's method and template matching."""
    ours, paper = find_row(results, region, PRODUCT), find_row(results, region, PAPER)
    if ours is None:
        return []
    organs = f"all {ours.organs} organs" if ours.organs > 1 else "one organ"
    line = f"- Time for {organs} of a query: `{PRODUCT}` {ours.seconds_per_query:.2f} s"
    if paper is not None:
        line += f", `{PAPER}` {_compare_seconds(ours, paper)}"
    matching = [result for result in results if result.region == region and result.row.name.startswith("gs-")]
    if matching:
        fastest = min(matching, key=lambda result: result.seconds_per_query)
        line += f", template matching through FFTs (`{fastest.row.name}`) {_compare_seconds(ours, fastest)}"
    return [line + "."]


def _compare_seconds(ours: Result, theirs: Result) -> str:
    factor = theirs.seconds_per_query / ours.seconds_per_query
    verdict = f"{factor:.1f} times as long" if factor >= 1.0 else f"**`{PRODUCT}` is slower than that**"
    return f"{theirs.seconds_per_query:.1f} s ({verdict})"


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
        return ["- None of the other methods shown here is better for any single organ, in IoU or in AWD."]
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
