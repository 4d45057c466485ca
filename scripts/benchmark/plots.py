"""The report's plots: every organ by every method, accuracy against time, and boxes from the front and the side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rprloc.files import atomic_path
from rprloc.geometry import Box
from rprloc.io.colours import organ_colour
from scripts.benchmark.registry import SUPERVISED
from scripts.benchmark.scoring import Result
from scripts.benchmark.wording import PRODUCT, name_target


def plot_organs(results: Sequence[Result], region: str, path: Path) -> None:
    """IoU and AWD of every organ, one group of bars a method; the whiskers are the deviation over pairs."""
    shown = [result for result in results if result.region == region and result.row.table == 3]
    targets = list(shown[0].summaries)
    figure, axes = pyplot.subplots(2, 1, figsize=(11, 7), sharex=True, layout="constrained")
    width = 0.8 / len(targets)
    for number, target in enumerate(targets):
        at = np.arange(len(shown)) + (number - 0.5 * (len(targets) - 1)) * width
        pairs = [[score for score in result.scores if score.target == target] for result in shown]
        for axis, values in (
            (axes[0], [[100 * score.iou for score in scores] for scores in pairs]),
            (axes[1], [[score.awd_mm for score in scores] for scores in pairs]),
        ):
            spread = [np.std(row, ddof=1) if len(row) > 1 else 0.0 for row in values]
            axis.bar(
                at, [np.mean(row) for row in values], width, yerr=spread, color=organ_colour(number),
                label=name_target(target), error_kw={"lw": 0.7, "ecolor": "0.4"},
            )  # fmt: skip
    axes[0].set_ylabel("IoU, %")
    axes[0].legend(ncols=len(targets), frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    axes[0].set_ylim(0, 100)
    axes[1].set_ylabel("AWD, mm")
    axes[1].set_ylim(0, min(axes[1].get_ylim()[1], 80.0))
    axes[1].set_xticks(range(len(shown)), [result.row.name for result in shown], rotation=35, ha="right")
    for axis in axes:
        axis.set_ylim(bottom=0)
        _style(axis, grid="y")
    _save(figure, path)


def plot_times(results: Sequence[Result], region: str, path: Path) -> None:
    """Mean IoU and mean AWD of every method against the time that it takes for a query."""
    shown = [result for result in results if result.region == region and result.row.table == 3]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axis, label in ((axes[0], "mean IoU, %"), (axes[1], "mean AWD, mm")):
        for result in shown:
            row = result.row
            value = 100 * result.iou if axis is axes[0] else result.awd_mm
            seconds = max(result.seconds_per_query, 1e-3)
            colour = "tab:red" if row.name.startswith(PRODUCT) else "0.5" if row.given == SUPERVISED else "tab:blue"
            axis.plot(seconds, value, "o" if row.shots == "one" else "s", color=colour)
            offset = (5, 3 if row.shots == "one" else -9)
            axis.annotate(row.name, (seconds, value), xytext=offset, textcoords="offset points", fontsize=8)
        axis.set_xscale("log")
        axis.margins(x=0.25)
        axis.set_xlabel("seconds a query, all organs")
        axis.set_ylabel(label)
        _style(axis, grid="both")
    axes[0].set_title("squares: all examples together; grey: supervised", fontsize=9)
    _save(figure, path)


def draw_boxes(truth: Mapping[str, Box], ours: Mapping[str, Box], rival: Mapping[str, Box], path: Path) -> None:
    """Boxes from the front and from the side: the truth filled, the product's solid, the rival's dotted."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
    for axis, across, label in ((axes[0], 0, "right, mm"), (axes[1], 1, "front, mm")):
        for boxes, colour_name, style in (
            (truth, "facecolor", {"alpha": 0.3, "lw": 0}),
            (ours, "edgecolor", {"fill": False, "lw": 1.8}),
            (rival, "edgecolor", {"fill": False, "ls": ":"}),
        ):
            for number, (organ, box) in enumerate(boxes.items()):
                corner, size = box.min_ras[[across, 2]], box.size_mm[[across, 2]]
                options: dict[str, Any] = style | {colour_name: organ_colour(number)}
                if boxes is truth and across == 0:
                    options["label"] = name_target(organ)
                axis.add_patch(Rectangle((corner[0], corner[1]), size[0], size[1], **options))
        axis.autoscale_view()
        axis.set_aspect("equal")
        axis.invert_xaxis()  # as radiologists look: the patient's right, and front, on the left
        axis.set_xlabel(label)
        axis.set_ylabel("head, mm")
    axes[0].legend(fontsize=8)
    _save(figure, path)


def _style(axis: Axes, grid: Literal["y", "both"]) -> None:
    axis.grid(axis=grid, color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
