"""The report's tables: the paper's, with its own figures beside ours, and the times of all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.benchmark.paper import SECONDS_PER_ORGAN, TITLES, look_up_figures
from scripts.benchmark.registry import SUPERVISED, Row
from scripts.benchmark.scoring import MEAN, Result, awd_mm_of, iou_of
from scripts.benchmark.wording import PRODUCT, find_row, format_interval, format_scores, name_region, name_target

_HEADINGS = {
    1: "Table 1: strategy and number of runs",
    2: "Table 2: steps",
    3: "Table 3: all methods",
}


TIME_REMARK = (
    "From the scan in memory to the boxes; what is made of an example before is not counted. With one thread the "
    "processor time of the process counts, with more the wall time. *sliding*: window by window, as in the paper, by "
    "the time of some windows; *float32*: without the mixed precision that the networks here share, by the time of "
    "some patches.\n"
)


def format_table(results: Sequence[Result], table: int) -> str:
    """One of the paper's tables; beside each column of ours the paper's."""
    shown = [result for result in results if result.row.table == table]
    known = dict.fromkeys([*TITLES, *(target for result in shown for target in _format_cells(result))])
    targets = [target for target in known if any(target in _format_cells(result) for result in shown)]
    regions = list(dict.fromkeys(result.region for result in shown))
    rows = list({result.row.name: result.row for result in shown}.values())
    head = ["row"]
    for target in targets:
        head += [name_target(target), "paper"]
    head += [*(f"± {name_region(region)}" for region in regions), "n", "s a query", "s an organ"]
    if table == 3:
        head.append("s an organ, paper")
    lines = [f"## {_HEADINGS[table]}\n", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        by_region = {result.region: result for result in shown if result.row.name == row.name}
        lines.append("| " + " | ".join(_format_row(row, by_region, targets, regions)) + " |")
    lines.append(
        "\nIoU %, AWD mm; in brackets 95 % intervals over queries. Numbers with a stroke: "
        + " / ".join(map(name_region, regions)) + ". Seconds: "
        + " / ".join(dict.fromkeys(_describe_timing([one for one in shown if one.region == of]) for of in regions))
        + "."
    )  # fmt: skip
    if table == 3:
        lines.append("The paper's seconds are those of its own machine, a GTX 1080 Ti for its networks.")
    lines += [f"- `{row.name}`: {row.remark}." for row in rows if row.remark]
    return "\n".join(lines) + "\n"


def _format_row(row: Row, by_region: Mapping[str, Result], targets: Sequence[str], regions: Sequence[str]) -> list[str]:
    """The cells of a row. ``by_region``: its results in the regions where it has some."""
    cells = {target: cell for result in by_region.values() for target, cell in _format_cells(result).items()}
    paper = look_up_figures(row.table, row.paper)
    line = [f"`{row.name}`" + (" (supervised)" if row.given == SUPERVISED else "")]
    for target in targets:
        line.append(cells.get(target, ""))
        line.append(f"*{paper[target][0]:.1f}, {paper[target][1]:.2f}*" if target in paper else "")
    for region in regions:
        spread = by_region[region].iou_sd_supports if region in by_region else None
        line.append("" if spread is None else f"{100 * spread:.1f}")
    line.append(" / ".join(str(result.pairs) for result in by_region.values()))
    line.append(" / ".join(f"{result.seconds_per_query:.2f}" for result in by_region.values()))
    line.append(" / ".join(f"{result.seconds_per_organ:.2f}" for result in by_region.values()))
    if row.table == 3:
        seconds = SECONDS_PER_ORGAN.get(row.paper or "")
        line.append("" if seconds is None else f"*{seconds:g}*")
    return line


def _format_cells(result: Result) -> dict[str, str]:
    """The scores of every target, and, of several, of their mean; with the intervals of the mean, or of the one."""
    cells = {target: format_scores(summary.iou, summary.awd_mm) for target, summary in result.summaries.items()}
    if len(cells) > 1:
        cells[MEAN] = format_scores(result.iou, result.awd_mm)
    iou, awd_mm = result.interval(iou_of), result.interval(awd_mm_of)
    ends = format_interval((100 * iou[0], 100 * iou[1])), format_interval(awd_mm, 1)
    return {target: f"{cell} ({ends[0]}; {ends[1]})" if len(cells) == 1 or target == MEAN else cell
            for target, cell in cells.items()}  # fmt: skip


def format_times(results: Sequence[Result], region: str, threaded: Mapping[int, Sequence[Result]]) -> str:
    """The times of all rows of table 3 in a region, the fastest first; beside them those with more threads."""
    shown = sorted(
        (result for result in results if result.region == region and result.row.table == 3),
        key=lambda result: result.seconds_per_query,
    )
    ours = find_row(results, region, PRODUCT)
    organs = shown[0].organs
    head = ["row", "s a query", "s an organ", f"times as long as `{PRODUCT}`"]
    head += [f"s a query, {threads} threads" for threads in threaded]
    head.append("otherwise, estimated: s a query")
    lines = [
        f"### Time: {name_region(region)}, {organs} organ{'s' if organs > 1 else ''}, {_describe_timing(shown)}\n",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for result in shown:
        factor = f"{result.seconds_per_query / ours.seconds_per_query:.2g}" if ours else ""
        other = ", ".join(f"{name}: {seconds:.0f}" for name, seconds in result.estimates.items())
        cells = [f"`{result.row.name}`", f"{result.seconds_per_query:.2f}", f"{result.seconds_per_organ:.2f}", factor]
        for more in threaded.values():
            same = find_row(more, region, result.row.name)
            cells.append("" if same is None else f"{same.seconds_per_query:.2f}")
        lines.append("| " + " | ".join([*cells, other]) + " |")
    return "\n".join(lines) + "\n"


def _describe_timing(results: Sequence[Result]) -> str:
    """Over how many pairs the times of results are medians; these may be fewer than those of the scores."""
    counts = sorted({len(result.seconds) for result in results})
    return "one pair" if counts == [1] else f"median over {' or '.join(map(str, counts))} pairs"


def format_other(results: Sequence[Result], region: str) -> str:
    """The rows of table 3 in a region that the paper's tables do not have, such as training cases as queries."""
    shown = [result for result in results if result.region == region and result.row.table == 3]
    targets = list(dict.fromkeys(target for result in shown for target in _format_cells(result)))
    name = name_region(region)
    lines = [
        f"### {name[0].upper()}{name[1:]}\n",
        "| row | " + " | ".join(map(name_target, targets)) + " | n |",
        "|---" * (len(targets) + 2) + "|",
    ]
    for result in shown:
        cells = _format_cells(result)
        lines.append(f"| `{result.row.name}` | " + " | ".join(cells[t] for t in targets) + f" | {result.pairs} |")
    return "\n".join(lines) + "\n"
