"""The report's plots: accuracy and time of every method, training, and boxes from the front and the side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from rprloc.files import atomic_path
from rprloc.geometry import Box
from rprloc.io.colours import organ_colour
from scripts.benchmark.fitting import read_checks
from scripts.benchmark.registry import SUPERVISED, Method
from scripts.benchmark.scoring import Result, awd_mm_of, iou_of
from scripts.benchmark.wording import PRODUCT, name_region, name_target


def plot_methods(results: Sequence[Result], region: str, path: Path) -> None:
    """A line for each method, the best on top: IoU, AWD and time; the bars are 95 % intervals over queries."""
    shown = [result for result in results if result.region == region and result.row.table == 3]
    shown.sort(key=lambda result: result.iou)
    targets = list(shown[0].summaries)
    figure, axes = pyplot.subplots(
        1, 3, figsize=(12, 1.6 + 0.32 * len(shown)), sharey=True, layout="constrained", width_ratios=(3, 3, 2)
    )
    for axis, measure, factor in ((axes[0], iou_of, 100.0), (axes[1], awd_mm_of, 1.0)):
        for number, target in enumerate(targets if len(targets) > 1 else ()):
            means = [factor * fmean(result.by_query(measure, target).values()) for result in shown]
            axis.plot(means, range(len(shown)), ".", color=organ_colour(number), label=name_target(target), ms=7)
        for place, result in enumerate(shown):
            mean = factor * fmean(result.by_query(measure).values())
            low, high = (factor * end for end in result.interval(measure))
            colour = _colour_of(result)
            axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="D", color=colour, ms=5, capsize=3)
    for place, result in enumerate(shown):
        axes[2].plot(max(result.seconds_per_query, 1e-3), place, "D", color=_colour_of(result), ms=5)
    axes[2].set_xscale("log")
    axes[0].set_yticks(range(len(shown)), [result.row.name for result in shown])
    axes[0].set_xlim(0, 100)
    axes[1].set_xlim(left=0)
    organs = f"{len(targets)} organs" if len(targets) > 1 else "one organ"
    for axis, label in zip(axes, ("IoU, %", "AWD, mm", f"seconds a query, {organs}"), strict=True):
        axis.set_xlabel(label)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], color=colour, marker="D", ls="-", label=label)
        for label, colour in (("RPR-Loc", "tab:red"), ("supervised", "0.5"), ("others; bars: 95 %", "black"))
    ]
    figure.legend(handles=handles + axes[0].get_legend_handles_labels()[0], loc="outside upper center", ncols=7,
                  frameon=False, fontsize=8)  # fmt: skip
    _save(figure, path)


def _colour_of(result: Result) -> str:
    if result.row.name.startswith(PRODUCT):
        return "tab:red"
    return "0.5" if result.row.given == SUPERVISED else "black"


def plot_training(methods: Sequence[Method], regions: Sequence[str], path: Path) -> bool:
    """What was followed during training, against its minutes, a panel for each method; whether there was anything."""
    curves = {
        method: {
            (region, what): parts
            for region in regions
            for what, weights in method.weights(region).items()
            if (parts := read_checks(weights))
        }
        for method in methods
    }
    followed = [method for method, of_method in curves.items() if of_method]
    if not followed:
        return False
    figure, axes = pyplot.subplots(
        1, len(followed), figsize=(4.2 * len(followed), 3.9), layout="constrained", squeeze=False
    )
    for axis, method in zip(axes[0], followed, strict=True):
        for (region, what), parts in curves[method].items():
            label = name_region(region) + (f", {what}" if len(method.weights(region)) > 1 else "")
            checks = [check for part in parts for check in (*part, (0, nan, nan))]  # a gap after each part
            axis.plot([seconds / 60 for _, seconds, _ in checks], [error for _, _, error in checks], ".-", label=label)
        axis.set_title(f"{method.name}\n{method.checked}", fontsize=9)
        axis.set_xlabel("minutes of training")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        axis.grid(color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)
    return True


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


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
