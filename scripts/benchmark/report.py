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
from scripts.benchmark.plots import plot_methods, plot_training
from scripts.benchmark.predictions import Pair
from scripts.benchmark.registry import Method, Setting
from scripts.benchmark.scoring import Result
from scripts.benchmark.tables import TIME_REMARK, format_other, format_table, format_times
from scripts.benchmark.wording import ALL_ORGANS, OTHER, PRODUCT, name_region

_PACKAGES = ("rprloc", "torch", "monai", "SimpleITK", "numpy", "scipy", "matplotlib")


def write_report(
    results: Sequence[Result],
    timed: Mapping[tuple[str, int | None], Sequence[Result]],
    pairs: Mapping[str, Sequence[Pair]],
    methods: Sequence[Method],
    setting: Setting,
    docs: Path,
) -> None:
    """Write report.md and its plots into ``docs``; pictures that show scans stay with the predictions.

    ``timed``: by region and number of threads results of which the times alone are shown.
    """
    matplotlib.use("Agg")
    regions = list(dict.fromkeys(result.region for result in results))
    everything = timed.get((ALL_ORGANS, None), [])
    threaded = {
        region: {threads: some for (of, threads), some in timed.items() if of == region and threads is not None}
        for region in regions
    }
    by_region = {region: pairs[region][0].region for region in regions}
    tables = {result.row.table for result in results}
    main = [result for result in results if not result.region.endswith(OTHER)]
    parts = ["# Benchmark\n", _introduce(results, everything, pairs, setting), "## Conclusions\n"]
    for region in regions:
        cautions = {method.name: method.caution(by_region[region]) for method in methods}
        parts.append(describe_findings(results, region, {} if region.endswith(OTHER) else cautions))
    if everything:
        speed = "\n".join(describe_speed(everything, ALL_ORGANS))
        parts.append(f"### {name_region(ALL_ORGANS).capitalize()}\n\n{speed}\n")
    for region in regions:
        plot_methods(results, region, docs / f"methods_{region}.png")
        parts.append(f"![IoU, AWD and time of every method, {name_region(region)}](methods_{region}.png)\n")
    parts += [format_table(main, table) for table in (1, 2, 3) if table in tables]
    parts += [format_other(results, region) for region in regions if region.endswith(OTHER)]
    parts.append("## Time\n")
    parts += [format_times(results, region, threaded[region]) for region in regions if not region.endswith(OTHER)]
    if everything:
        parts.append(format_times(everything, ALL_ORGANS, {}))
    parts.append(TIME_REMARK)
    parts.append(describe_failures(results, pairs, setting, docs))
    parts.append(_describe_training(methods, list(dict.fromkeys(by_region.values())), docs))
    parts.append(_describe_circumstances(results, setting))
    write_text_atomically(docs / "report.md", "\n".join(parts))


def _introduce(
    results: Sequence[Result], everything: Sequence[Result], pairs: Mapping[str, Sequence[Pair]], setting: Setting
) -> str:
    counts = []
    for region, chosen in pairs.items():
        kind = "other scans" if region.endswith(OTHER) else "test cases"
        queries, supports = {pair.query for pair in chosen}, {pair.support for pair in chosen}
        counts.append(
            f"- {name_region(region)}: pairs: {len(chosen)}, {kind}: {len(queries)}, examples: {len(supports)}"
        )
    for score in next((result.scores[:1] for result in everything if result.row.shots == "one"), ()):
        counts.append(
            f"- all organs that example `{score.support}` and query `{score.query}` both show, {everything[0].organs}: "
            "for the time alone"
        )
    return "\n".join(
        [
            "Every method locates the same organs in the same test scans by the same examples. Of each organ it gets",
            "the six extreme points, registration the mask; the supervised method needs no example. This file, its",
            "plots and `results.json` are written by `make benchmark-full`; nothing in them is typed. The paper is",
            "Lei et al., MICCAI 2021; columns named *paper* repeat its own figures, measured on other patients and",
            "machines; they are no result of this run.\n",
            *counts,
            "",
            "The pairs are drawn with a seed among the test cases that show all of a region's targets wholly. *Other*",
            "*scans* are training cases as queries: networks were trained on their grey values, the",
            "supervised one on their labels, so it is left out. Some labels also helped to choose the settings of",
            f"`{PRODUCT}`, but no label of a test case did. A cell is the mean IoU of the boxes in per cent and the",
            "mean distance of their six walls (AWD) in mm; in brackets 95 % intervals over queries (bootstrap) for",
            "these examples; with few queries they are rough themselves. *±* is the standard deviation over",
            f"examples of the mean IoU: other examples give other figures. Seed {setting.seed}.\n",
        ]
    )


def _describe_training(methods: Sequence[Method], regions: Sequence[str], docs: Path) -> str:
    lines = ["## What was trained, and for how long\n"]
    for method in methods:
        for region in regions:
            budget = method.budget(region)
            if budget:
                followed = f". The curve: {method.checked}" if method.checked else ""
                lines.append(f"- `{method.name}`, {name_region(region)}: {budget}{followed}.")
    if plot_training(methods, regions, docs / "training.png"):
        lines.append("\n![What was followed on scans that nothing is trained on](training.png)")
    lines.append(
        "\nTrained on the `train` cases; only the supervised method's network learns from their labels. Nothing is "
        "trained on test cases, and no setting is chosen on them. The curves are of `val` cases, or of the examples "
        "where a region has none. Where a curve breaks, training went on with other scans or settings, and other "
        "places may be checked from there on; the values on both sides of the break are then of the same network. A "
        "network that had less than its recipe's budget shows what that gives, not all it can."
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
