"""The report in ``docs/benchmark``: the paper's tables in their own form, plots, and what they say, all generated."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import matplotlib
import numpy as np

from paper import SECONDS_PER_ORGAN, TITLES, published
from predictions import Pair, Prediction, path_of
from registry import SUPERVISED, Setting
from rprloc.evaluation.evaluate import annotated
from rprloc.files import atomic_path, write_text_atomically
from rprloc.geometry import Box, Points
from rprloc.io.colours import organ_colour
from rprloc.io.pictures import save_picture
from scoring import MEAN, Result

PRODUCT, PAPER = "rprloc", "rpr-paper"
ALL_ORGANS = "all-organs"
_REGIONS = {"han": "head and neck", "abdomen": "abdomen", ALL_ORGANS: "all organs of one query"}
_PACKAGES = ("rprloc", "torch", "monai", "SimpleITK", "numpy", "scipy", "matplotlib")
_FAILURES = 2
_TITLES = {
    1: "Table 1: strategy and number of runs",
    2: "Table 2: steps",
    3: "Table 3: all methods",
}


def write_report(
    results: Sequence[Result],
    everything: Sequence[Result],
    pairs: Mapping[str, Sequence[Pair]],
    budgets: Mapping[str, Mapping[str, str]],
    cautions: Mapping[str, Mapping[str, str]],
    setting: Setting,
    docs: Path,
) -> None:
    """Write report.md and its plots into ``docs``; pictures that show scans stay with the predictions.

    ``everything``: results of the region ALL_ORGANS, of which the times alone are shown.
    """
    matplotlib.use("Agg")
    regions = list(dict.fromkeys(one.region for one in results))
    parts = ["# Benchmark\n", _introduction(results, everything, pairs, setting)]
    parts += [_findings(results, region, cautions[region]) for region in regions]
    if everything:
        parts.append(f"## What it says: {_REGIONS[ALL_ORGANS]}\n\n" + "\n".join(_speed(everything, ALL_ORGANS)) + "\n")
    parts += [_table(results, table) for table in (1, 2, 3) if any(one.row.table == table for one in results)]
    parts += [_times(results, region) for region in regions]
    if everything:
        parts.append(_times(everything, ALL_ORGANS))
    for region in regions:
        _plot_bars(results, region, docs / f"organs_{region}.png")
        _plot_time(results, region, docs / f"time_{region}.png")
    parts.append(_plots(regions))
    parts.append(_failures(results, pairs, setting, docs))
    parts.append(_training(budgets))
    parts.append(_circumstances(results, setting))
    write_text_atomically(docs / "report.md", "\n".join(parts))


def _row(results: Sequence[Result], region: str, name: str) -> Result | None:
    return next((one for one in results if one.region == region and one.row.name == name), None)


def _introduction(
    results: Sequence[Result], everything: Sequence[Result], pairs: Mapping[str, Sequence[Pair]], setting: Setting
) -> str:
    counts = []
    for region, chosen in pairs.items():
        queries, supports = {pair.query for pair in chosen}, {pair.support for pair in chosen}
        counts.append(
            f"- {_REGIONS.get(region, region)} (`{region}`): pairs: {len(chosen)}, test cases: {len(queries)}, "
            f"examples: {len(supports)}"
        )
    for one in next((one.scores[:1] for one in everything if one.row.shots == "one"), ()):
        counts.append(
            f"- all organs that example `{one.support}` and query `{one.query}` both show, {everything[0].organs}: for "
            "the time alone"
        )
    return "\n".join(
        [
            "Every method locates the same organs in the same test scans by the same examples. This file, its plots",
            "and `results.json` are written by `make benchmark-full`; nothing in them is typed. The paper is Lei et",
            "al., MICCAI 2021; columns named *paper* repeat its own figures, measured on other patients; they are no",
            "result of this run.\n",
            *counts,
            "",
            "The pairs are drawn with a seed among the test cases that show all of a region's targets wholly. A cell",
            "is the mean IoU of the boxes in per cent and the mean distance of their six walls (AWD) in mm. *±* is the",
            "standard deviation over examples of the mean IoU.",
            f"Seed {setting.seed}. With so few pairs, differences of a few per cent may be chance.\n"
            if min(len(chosen) for chosen in pairs.values()) < 30
            else f"Seed {setting.seed}.\n",
        ]
    )


def _title(target: str) -> str:
    return TITLES.get(target, target)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _cell(iou: float, awd_mm: float) -> str:
    return f"{_percent(iou)}, {awd_mm:.2f}"


def _findings(results: Sequence[Result], region: str, cautions: Mapping[str, str]) -> str:
    """What the numbers say of the product, in words: what it beats, what beats it, and how fast it is."""
    ours = _row(results, region, PRODUCT)
    lines = [f"## What it says: {_REGIONS.get(region, region)}\n"]
    if ours is None:
        return "\n".join([*lines, f"`{PRODUCT}` has no predictions here.\n"])
    rivals = [
        one for one in results
        if one.region == region and one.row.table == 3 and one.row.shots == "one" and one.row.name != PRODUCT
    ]  # fmt: skip
    unsupervised = [one for one in rivals if one.row.given != SUPERVISED]
    for measure, best_of, better in (("mean IoU", max, np.greater), ("mean AWD", min, np.less)):
        if not unsupervised:
            continue
        best = best_of(unsupervised, key=lambda one: one.iou if measure == "mean IoU" else one.awd_mm)
        mine, theirs = (one.iou if measure == "mean IoU" else one.awd_mm for one in (ours, best))
        shown = [_percent(value) + "%" if measure == "mean IoU" else f"{value:.2f} mm" for value in (mine, theirs)]
        verdict = (
            "beats every other unsupervised row" if better(mine, theirs) else f"**is beaten by `{best.row.name}`**"
        )
        lines.append(
            f"- {measure}: `{PRODUCT}` {verdict} ({shown[0]}; the best other one is `{best.row.name}` {shown[1]})."
        )
    lines += _winners(ours, rivals)
    lines += [f"- **Beware**, `{name}`: {caution}" for name, caution in cautions.items() if caution]
    lines += _speed(results, region)
    return "\n".join(lines) + "\n"


def _speed(results: Sequence[Result], region: str) -> list[str]:
    """How long the product takes for all organs of a query, against the paper's method and template matching."""
    ours, paper = _row(results, region, PRODUCT), _row(results, region, PAPER)
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
    matching = [one for one in results if one.region == region and one.row.name.startswith("gs-")]
    if matching:
        fastest = min(matching, key=lambda one: one.seconds_per_query)
        verdict = "faster" if ours.seconds_per_query < fastest.seconds_per_query else "**slower**"
        lines.append(
            f"- `{PRODUCT}` is {verdict} than template matching through FFTs (`{fastest.row.name}`, "
            f"{fastest.seconds_per_query:.1f} s)."
        )
    return lines


def _winners(ours: Result, rivals: Sequence[Result]) -> list[str]:
    """The organs for which another row is better than the product, by how much, and why that can be."""
    lines, why = [], {}
    for target, mine in ours.summaries.items():
        better = []
        for rival in rivals:
            theirs = rival.summaries[target]
            if theirs.iou > mine.iou or theirs.awd_mm < mine.awd_mm:
                share = _wins(ours, rival, target)
                better.append(f"`{rival.row.name}` ({_cell(theirs.iou, theirs.awd_mm)}; {share})")
                why.setdefault(rival.row.strength or "No reason is known.", []).append(f"`{rival.row.name}`")
        if better:
            lines.append(f"  - {_title(target)}, `{PRODUCT}` {_cell(mine.iou, mine.awd_mm)}: {', '.join(better)}")
    if not lines:
        return ["- No other one-shot or supervised method is better for any single organ, in IoU or in AWD."]
    reasons = [f"  - {', '.join(dict.fromkeys(names))}: {reason}" for reason, names in why.items()]
    return [
        "- Other methods that are better for an organ, in IoU or in AWD (IoU %, AWD mm; in how many pairs the IoU of "
        f"`{PRODUCT}` is nevertheless higher):",
        *lines,
        "- Why that can be:",
        *reasons,
    ]


def _wins(ours: Result, theirs: Result, target: str) -> str:
    """In how many of the pairs that both have the first has the higher IoU."""
    rival = {(one.support, one.query): one.iou for one in theirs.scores if one.target == target}
    mine = {(one.support, one.query): one.iou for one in ours.scores if one.target == target}
    both = mine.keys() & rival.keys()
    return f"{sum(mine[pair] > rival[pair] for pair in both)} of {len(both)}"


def _table(results: Sequence[Result], table: int) -> str:
    """One of the paper's tables; beside each column of ours the paper's."""
    shown = [one for one in results if one.row.table == table]
    known = dict.fromkeys([*TITLES, *(target for one in shown for target in _cells(one))])
    columns = [target for target in known if any(target in _cells(one) for one in shown)]
    rows = list({one.row.name: one.row for one in shown}.values())
    head = ["row"]
    for target in columns:
        head += [_title(target), "paper"]
    regions = list(dict.fromkeys(one.region for one in shown))
    head += [*(f"± {_REGIONS.get(region, region)}" for region in regions), "n", "s a query", "s an organ"]
    if table == 3:
        head.append("s an organ, paper")
    lines = [f"## {_TITLES[table]}\n", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        here = {one.region: one for one in shown if one.row.name == row.name}
        cells = {target: cell for one in here.values() for target, cell in _cells(one).items()}
        paper = published(table, row.paper)
        line = [f"`{row.name}`" + (" (supervised)" if row.given == SUPERVISED else "")]
        for target in columns:
            line.append(cells.get(target, ""))
            line.append(f"*{paper[target][0]:.1f}, {paper[target][1]:.2f}*" if target in paper else "")
        for region in regions:
            spread = here[region].iou_sd_supports if region in here else None
            line.append("" if spread is None else f"{100 * spread:.1f}")
        line.append(" / ".join(str(len(one.seconds)) for one in here.values()))
        line.append(" / ".join(f"{one.seconds_per_query:.2f}" for one in here.values()))
        line.append(" / ".join(f"{one.seconds_per_organ:.2f}" for one in here.values()))
        if table == 3:
            seconds = SECONDS_PER_ORGAN.get(row.paper or "")
            line.append("" if seconds is None else f"*{seconds:g}*")
        lines.append("| " + " | ".join(line) + " |")
    lines.append(
        "\nIoU %, AWD mm. Numbers with a stroke: "
        + " / ".join(_REGIONS.get(region, region) for region in regions)
        + "."
    )
    lines += [f"- `{row.name}`: {row.remark}." for row in rows if row.remark]
    return "\n".join(lines) + "\n"


def _cells(one: Result) -> dict[str, str]:
    cells = {target: _cell(summary.iou, summary.awd_mm) for target, summary in one.summaries.items()}
    if len(cells) > 1:
        cells[MEAN] = _cell(one.iou, one.awd_mm)
    return cells


def _times(results: Sequence[Result], region: str) -> str:
    shown = sorted(
        (one for one in results if one.region == region and one.row.table == 3), key=lambda one: one.seconds_per_query
    )
    ours = _row(results, region, PRODUCT)
    organs = shown[0].organs
    lines = [
        f"## Time: {_REGIONS.get(region, region)}, {organs} organ{'s' if organs > 1 else ''}\n",
        f"| row | s a query | s an organ | times as long as `{PRODUCT}` | otherwise, estimated: s a query |",
        "|---|---|---|---|---|",
    ]
    for one in shown:
        factor = f"{one.seconds_per_query / ours.seconds_per_query:.2g}" if ours else ""
        other = ", ".join(f"{name}: {seconds:.0f}" for name, seconds in one.estimates.items())
        lines.append(
            f"| `{one.row.name}` | {one.seconds_per_query:.2f} | {one.seconds_per_organ:.2f} | {factor} | {other} |"
        )
    lines.append(
        "\nMedian over pairs, from the scan in memory to the boxes; what is made of an example before is not counted. "
        "With one thread the process's own time counts, which is the wall time of an idle machine. "
        "*sliding*: window by window, as in the paper, by the time of some windows; *float32*: without the mixed "
        "precision that the networks here share, by the time of some patches."
    )
    return "\n".join(lines) + "\n"


def _plots(regions: Sequence[str]) -> str:
    lines = ["## Plots\n"]
    for region in regions:
        name = _REGIONS.get(region, region)
        lines.append(f"![IoU and AWD of every organ by every method, {name}](organs_{region}.png)\n")
        lines.append(f"![Mean IoU and AWD against the time of a query, {name}](time_{region}.png)\n")
    return "\n".join(lines)


def _plot_bars(results: Sequence[Result], region: str, path: Path) -> None:
    """IoU and AWD of every organ, one group of bars a method; the whiskers are the deviation over pairs."""
    from matplotlib import pyplot

    shown = [one for one in results if one.region == region and one.row.table == 3]
    targets = list(shown[0].summaries)
    figure, axes = pyplot.subplots(2, 1, figsize=(11, 7), sharex=True, layout="constrained")
    width = 0.8 / len(targets)
    for number, target in enumerate(targets):
        at = np.arange(len(shown)) + (number - 0.5 * (len(targets) - 1)) * width
        pairs = [[score for score in one.scores if score.target == target] for one in shown]
        for axis, values in (
            (axes[0], [[100 * score.iou for score in scores] for scores in pairs]),
            (axes[1], [[score.awd_mm for score in scores] for scores in pairs]),
        ):
            spread = [np.std(one, ddof=1) if len(one) > 1 else 0.0 for one in values]
            axis.bar(
                at, [np.mean(one) for one in values], width, yerr=spread, color=organ_colour(number),
                label=_title(target), error_kw={"lw": 0.7, "ecolor": "0.4"},
            )  # fmt: skip
    axes[0].set_ylabel("IoU, %")
    axes[0].legend(ncols=len(targets), frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    axes[0].set_ylim(0, 100)
    axes[1].set_ylabel("AWD, mm")
    axes[1].set_ylim(0, min(axes[1].get_ylim()[1], 80.0))
    axes[1].set_xticks(range(len(shown)), [one.row.name for one in shown], rotation=35, ha="right")
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _plot_time(results: Sequence[Result], region: str, path: Path) -> None:
    from matplotlib import pyplot

    shown = [one for one in results if one.region == region and one.row.table == 3]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axis, label in ((axes[0], "mean IoU, %"), (axes[1], "mean AWD, mm")):
        for one in shown:
            value = 100 * one.iou if axis is axes[0] else one.awd_mm
            seconds = max(one.seconds_per_query, 1e-3)
            colour = (
                "tab:red" if one.row.name.startswith(PRODUCT) else "0.5" if one.row.given == SUPERVISED else "tab:blue"
            )
            axis.plot(seconds, value, "o" if one.row.shots == "one" else "s", color=colour)
            offset = (5, 3 if one.row.shots == "one" else -9)
            axis.annotate(one.row.name, (seconds, value), xytext=offset, textcoords="offset points", fontsize=8)
        axis.set_xscale("log")
        axis.margins(x=0.25)
        axis.set_xlabel("seconds a query, all organs")
        axis.set_ylabel(label)
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_title("squares: all examples together; grey: supervised", fontsize=9)
    _save(figure, path)


def _save(figure: matplotlib.figure.Figure, path: Path) -> None:
    from matplotlib import pyplot

    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _failures(
    results: Sequence[Result], pairs: Mapping[str, Sequence[Pair]], setting: Setting, docs: Path
) -> str:  # fmt: skip
    """The product's worst pairs: drawn as boxes in ``docs``, and on the scan's slices beside the predictions."""
    lines = [
        "## Where it fails\n",
        f"The pairs with the lowest mean IoU of `{PRODUCT}`: seen from the front and from the side. Filled: the truth;",
        f"solid: `{PRODUCT}`; dotted: the best other unsupervised method. The same on slices of the scans lies in the",
        "folder `pictures` of the run, as the scans are not ours to publish.\n",
    ]
    cases = {case.name: case for case in setting.cases}
    for region in pairs:
        ours = _row(results, region, PRODUCT)
        rivals = [
            one for one in results
            if one.region == region and one.row.table == 3 and one.row.shots == "one"
            and one.row.given != SUPERVISED and one.row.name != PRODUCT
        ]  # fmt: skip
        if ours is None:
            continue
        rival = max(rivals, key=lambda one: one.iou, default=None)
        mean = {
            (pair.support, pair.query): float(
                np.mean([s.iou for s in ours.scores if (s.support, s.query) == (pair.support, pair.query)])
            )
            for pair in pairs[region]
        }
        worst = sorted(pairs[region], key=lambda pair: mean[pair.support, pair.query])[:_FAILURES]
        for number, pair in enumerate(worst, start=1):
            volume, truth, _ = annotated(cases[pair.query])
            truth = {organ: truth[organ] for organ in setting.targets[region]}
            found = Prediction.read(path_of(setting.folder, PRODUCT, pair)).points_ras
            other = Prediction.read(path_of(setting.folder, rival.row.name, pair)).points_ras if rival else {}
            path = docs / f"failure_{region}_{number}.png"
            _draw_boxes(truth, found, other, path)
            pictures = setting.folder / "pictures"
            pictures.mkdir(exist_ok=True)
            save_picture(pictures / path.name, volume, _boxes(found), truth=_boxes(truth))
            lines.append(
                f"{number}. {_REGIONS.get(region, region)}, example `{pair.support}`, query `{pair.query}`: mean IoU "
                f"{_percent(mean[pair.support, pair.query])}%"
                + (f"; dotted: `{rival.row.name}`" if rival else "")
                + f"\n\n   ![boxes]({path.name})\n"
            )
    return "\n".join(lines)


def _boxes(points_ras: Mapping[str, Points]) -> dict[str, Box]:
    return {organ: Box.from_extreme_points(points) for organ, points in points_ras.items()}


def _draw_boxes(
    truth: Mapping[str, Points], found: Mapping[str, Points], other: Mapping[str, Points], path: Path
) -> None:
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
    styles = (
        (truth, {"alpha": 0.3, "lw": 0}),
        (found, {"fill": False, "lw": 1.8}),
        (other, {"fill": False, "ls": ":"}),
    )
    for axis, across, label in ((axes[0], 0, "right, mm"), (axes[1], 1, "front, mm")):
        for points_ras, style in styles:
            for number, (organ, box) in enumerate(_boxes(points_ras).items()):
                corner, size = (values[[across, 2]] for values in (box.min_ras, box.size_mm))
                fill = {"facecolor": organ_colour(number)} if "alpha" in style else {"edgecolor": organ_colour(number)}
                name = _title(organ) if points_ras is truth and across == 0 else None
                axis.add_patch(Rectangle(tuple(corner), *size, label=name, **fill, **style))
        axis.autoscale_view()
        axis.set_aspect("equal")
        axis.invert_xaxis()  # as radiologists look: the patient's right, and front, on the left
        axis.set_xlabel(label)
        axis.set_ylabel("head, mm")
    axes[0].legend(fontsize=8)
    _save(figure, path)


def _training(budgets: Mapping[str, Mapping[str, str]]) -> str:
    lines = ["## What was trained, and for how long\n"]
    for method, by_region in budgets.items():
        for region, budget in by_region.items():
            if budget:
                lines.append(f"- `{method}`, {_REGIONS.get(region, region)}: {budget}")
    lines.append(
        "\nTrained on the `train` cases; only the supervised method sees their labels. Nothing is trained or chosen "
        "on test cases. A network that had less than its recipe's budget shows what that gives, not all it can."
    )
    return "\n".join(lines) + "\n"


def _circumstances(results: Sequence[Result], setting: Setting) -> str:
    machines = sorted({machine for one in results for machine in one.machines})
    lines = ["## Machine and versions\n"]
    lines += [f"- predictions: {machine}" for machine in machines]
    lines.append(f"- {os.cpu_count()} CPUs, {platform.system()}; Python {platform.python_version()}")
    lines.append("- " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    lines.append(f"- seed {setting.seed}")
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return getattr(sys.modules.get(package), "__version__", "unknown")
