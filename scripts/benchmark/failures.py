"""The pairs with which the product does worst, in words and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rprloc.evaluation.evaluate import read_case
from rprloc.geometry import Box, Points
from rprloc.io.pictures import save_picture
from scripts.benchmark.plots import draw_boxes
from scripts.benchmark.predictions import Pair, Prediction, path_of
from scripts.benchmark.registry import SUPERVISED, Setting
from scripts.benchmark.scoring import Result
from scripts.benchmark.wording import OTHER, PRODUCT, find_row, format_percent, list_rivals, name_region

_FAILURES = 2


def describe_failures(
    results: Sequence[Result], pairs: Mapping[str, Sequence[Pair]], setting: Setting, docs: Path
) -> str:  # fmt: skip
    """The product's worst pairs: drawn as boxes in ``docs``, and on the scan's slices beside the predictions."""
    lines = [
        "## Where it fails\n",
        f"The pairs with the lowest mean IoU of `{PRODUCT}`: seen from the front and from the side. Filled: the truth;",
        f"solid: `{PRODUCT}`; dotted: the best other unsupervised method. The same on slices of the scans lies in the",
        "folder `pictures` of the run, as the scans are not ours to publish.\n",
    ]
    for region in pairs:
        if region.endswith(OTHER):
            continue
        ours = find_row(results, region, PRODUCT)
        if ours is None:
            continue
        rivals = [rival for rival in list_rivals(results, region) if rival.row.given != SUPERVISED]
        rival = max(rivals, key=lambda rival: rival.iou, default=None)
        mean_iou = {pair: _mean_iou(ours, pair) for pair in pairs[region]}
        worst = sorted(pairs[region], key=lambda pair: mean_iou[pair])[:_FAILURES]
        for number, pair in enumerate(worst, start=1):
            path = docs / f"failure_{region}_{number}.png"
            _draw_failure(pair, rival, setting, path)
            lines.append(
                f"{number}. {name_region(region)}, example `{pair.support}`, query `{pair.query}`: mean IoU "
                f"{format_percent(mean_iou[pair])}%"
                + (f"; dotted: `{rival.row.name}`" if rival else "")
                + f"\n\n   ![boxes]({path.name})\n"
            )
    return "\n".join(lines)


def _mean_iou(result: Result, pair: Pair) -> float:
    ious = [score.iou for score in result.scores if (score.support, score.query) == (pair.support, pair.query)]
    return float(np.mean(ious))


def _draw_failure(pair: Pair, rival: Result | None, setting: Setting, path: Path) -> None:
    """A pair as boxes in ``path``, and on slices of the scan in a file of the same name beside the predictions."""
    (query,) = (case for case in setting.cases if case.name == pair.query)
    scan = read_case(query)
    truth = _boxes_of({organ: scan.annotation.points_ras[organ] for organ in setting.targets[pair.region]})
    ours = _predicted_boxes(setting, PRODUCT, pair)
    theirs = _predicted_boxes(setting, rival.row.name, pair) if rival else {}
    draw_boxes(truth, ours, theirs, path)
    pictures = setting.folder / "pictures"
    pictures.mkdir(exist_ok=True)
    save_picture(pictures / path.name, scan.volume, ours, truth=truth)


def _predicted_boxes(setting: Setting, row: str, pair: Pair) -> dict[str, Box]:
    return _boxes_of(Prediction.read(path_of(setting.folder, row, pair)).points_ras)


def _boxes_of(points_ras: Mapping[str, Points]) -> dict[str, Box]:
    return {organ: Box.from_extreme_points(points) for organ, points in points_ras.items()}
