"""The report in ``docs/benchmark``: the paper's tables in their own form, plots, and what they say, all generated."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import matplotlib

from rprloc.files import write_text_atomically
from scripts.benchmark.failures import describe_failures
from scripts.benchmark.findings import describe_findings, describe_speed
from scripts.benchmark.plots import plot_organs, plot_times
from scripts.benchmark.predictions import Pair
from scripts.benchmark.registry import Setting
from scripts.benchmark.scoring import Result
from scripts.benchmark.tables import format_table, format_times
from scripts.benchmark.wording import ALL_ORGANS, name_region

_PACKAGES = ("rprloc", "torch", "monai", "SimpleITK", "numpy", "scipy", "matplotlib")


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
    regions = list(dict.fromkeys(result.region for result in results))
    parts = ["# Benchmark\n", _introduce(results, everything, pairs, setting)]
    parts += [describe_findings(results, region, cautions[region]) for region in regions]
    if everything:
        speed = "\n".join(describe_speed(everything, ALL_ORGANS))
        parts.append(f"## What it says: {name_region(ALL_ORGANS)}\n\n{speed}\n")
    tables = {result.row.table for result in results}
    parts += [format_table(results, table) for table in (1, 2, 3) if table in tables]
    parts += [format_times(results, region) for region in regions]
    if everything:
        parts.append(format_times(everything, ALL_ORGANS))
    for region in regions:
        plot_organs(results, region, docs / f"organs_{region}.png")
        plot_times(results, region, docs / f"time_{region}.png")
    parts.append(_show_plots(regions))
    parts.append(describe_failures(results, pairs, setting, docs))
    parts.append(_describe_training(budgets))
    parts.append(_describe_circumstances(results, setting))
    write_text_atomically(docs / "report.md", "\n".join(parts))


def _introduce(
    results: Sequence[Result], everything: Sequence[Result], pairs: Mapping[str, Sequence[Pair]], setting: Setting
) -> str:
    counts = []
    for region, chosen in pairs.items():
        queries, supports = {pair.query for pair in chosen}, {pair.support for pair in chosen}
        counts.append(
            f"- {name_region(region)} (`{region}`): pairs: {len(chosen)}, test cases: {len(queries)}, "
            f"examples: {len(supports)}"
        )
    for score in next((result.scores[:1] for result in everything if result.row.shots == "one"), ()):
        counts.append(
            f"- all organs that example `{score.support}` and query `{score.query}` both show, {everything[0].organs}: "
            "for the time alone"
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


def _show_plots(regions: Sequence[str]) -> str:
    lines = ["## Plots\n"]
    for region in regions:
        name = name_region(region)
        lines.append(f"![IoU and AWD of every organ by every method, {name}](organs_{region}.png)\n")
        lines.append(f"![Mean IoU and AWD against the time of a query, {name}](time_{region}.png)\n")
    return "\n".join(lines)


def _describe_training(budgets: Mapping[str, Mapping[str, str]]) -> str:
    lines = ["## What was trained, and for how long\n"]
    for method, by_region in budgets.items():
        for region, budget in by_region.items():
            if budget:
                lines.append(f"- `{method}`, {name_region(region)}: {budget}")
    lines.append(
        "\nTrained on the `train` cases; only the supervised method sees their labels. Nothing is trained or chosen "
        "on test cases. A network that had less than its recipe's budget shows what that gives, not all it can."
    )
    return "\n".join(lines) + "\n"


def _describe_circumstances(results: Sequence[Result], setting: Setting) -> str:
    machines = sorted({machine for result in results for machine in result.machines})
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
