"""How the accuracy grows with the number of examples.

    python -m scripts.research.measure_shots DATASETS.json --about scripts/release/regions.json --out docs/accuracy

Examples are the support cases and some training cases with organs, whose labels serve as any user's would; no test case
is touched. Queries are the val cases, or where there are none the examples themselves, each without itself. Every
example locates in every query once; then for each number of examples ten sets of that many are drawn (seed 0) and
combined as the program combines them. Written are shots.csv and shots.png.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rprloc.evaluation.evaluate import read_case
from rprloc.files import atomic_path, require_folder, write_text_atomically
from rprloc.geometry import Box, Points
from rprloc.io.dataset import Case, Region, read_dataset, read_regions
from rprloc.localization.config import DEFAULT
from rprloc.localization.localizer import Localizer
from rprloc.localization.locate import combine
from rprloc.localization.matching import SearchField
from rprloc.localization.one_shot import locate_by_one
from rprloc.localization.support import Support

NUMBERS = (1, 2, 3, 5, 8, 12, 16, 20)
EXAMPLES, DRAWS = 25, 10

Row = tuple[Any, ...]
"""A region's name, a number, the IoU, its least and its most, the mean wall distance in mm, and what more there is."""


@dataclass(frozen=True, eq=False)
class Located:
    """What every example found of an organ in a query: its points (6, 3), the votes' spread (6,), and the truth."""

    by_example: Mapping[str, tuple[Points, NDArray[np.float64]]]
    truth: Box


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the datasets.json")
    parser.add_argument("--about", type=Path, help="more about the regions than the datasets.json holds")
    parser.add_argument("--out", type=Path, required=True, help="folder for shots.csv and shots.png")
    parser.add_argument("--model", help="the weights, a path or a shipped model's name")
    given = parser.parse_args()
    require_folder(given.out)
    localizer, cases = Localizer.load(given.model, "cpu"), read_dataset(given.data)
    rows = []
    for name, region in read_regions(given.data, given.about).items():
        located = locate_in_region(localizer, [case for case in cases if case.region == name], region)
        for count, iou, low, high, awd_mm in measure(located):
            print(f"{name}: {count} examples, IoU {iou:.3f} ({low:.3f} to {high:.3f}), {awd_mm:.1f} mm", flush=True)
            rows.append((name, count, iou, low, high, awd_mm))
    given.out.mkdir(parents=True, exist_ok=True)
    write_table(given.out / "shots.csv", ["examples", "iou", "least_of_draws", "most_of_draws", "awd_mm"], rows)
    draw(given.out / "shots.png", rows, "examples", NUMBERS, scale="log")


def locate_in_region(localizer: Localizer, cases: Sequence[Case], region: Region) -> dict[tuple[str, str], Located]:
    """What every example finds in every query, by query and organ."""
    own = [case for case in cases if case.split == "support" and case.targets]
    training = [case for case in cases if case.split == "train" and case.targets]
    wanted = min(len(training), EXAMPLES - len(own))
    examples = [*own, *(training[n * len(training) // wanted] for n in range(wanted))]
    queries = [case for case in cases if case.split == "val" and case.targets] or examples
    supports: list[Support] = []
    for case in tqdm(examples, desc="examples", unit="scan", disable=None):
        (support,) = localizer.learn(read_case(case)).supports
        supports.append(support)
    located = {}
    for case in tqdm(queries, desc="queries", unit="scan", disable=None):
        query = read_case(case)
        search = SearchField.of(localizer.compute_position_field(query.volume), localizer.config)
        found: dict[str, dict[str, tuple[Points, NDArray[np.float64]]]] = defaultdict(dict)
        organs = region.mean_of(query.annotation.points_ras)
        for support in supports:
            if support.scan != case.name:
                shared = [organ for organ in organs if organ in support.organs]
                for organ, by_one in locate_by_one(support, shared, search).items():
                    found[organ][support.scan] = by_one
        for organ, by_example in found.items():
            truth = Box.from_extreme_points(query.annotation.points_ras[organ])
            located[case.name, organ] = Located(by_example, truth)
    return located


def measure(located: Mapping[tuple[str, str], Located]) -> list[tuple[int, float, float, float, float]]:
    """For each number of examples: the number, the mean IoU, the least and the most of the draws, the mean AWD in mm.

    Each is the mean over organs of the mean over queries. Queries with fewer examples of an organ take those they have.
    """
    generator = np.random.default_rng(0)
    names = sorted({name for one in located.values() for name in one.by_example})
    config = DEFAULT
    measured = []
    for count in (number for number in NUMBERS if number < len(names)):
        draws = []
        for _ in range(DRAWS):
            order = list(generator.permutation(names))
            scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for (_, organ), one in located.items():
                chosen = [one.by_example[name] for name in order if name in one.by_example][:count]
                points_ras = combine(np.stack([p for p, _ in chosen]), np.stack([s for _, s in chosen]), config)
                box = Box.from_extreme_points(points_ras)
                scores[organ].append((box.iou(one.truth), float(box.wall_distances_mm(one.truth).mean())))
            draws.append(np.mean([np.mean(values, axis=0) for values in scores.values()], axis=0))
        iou, awd_mm = np.array(draws).T
        measured.append((count, float(iou.mean()), float(iou.min()), float(iou.max()), float(awd_mm.mean())))
    return measured


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Rows of a region, a number and measures as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["region", *columns])
    writer.writerows([value if isinstance(value, (str, int)) else f"{value:.4f}" for value in row] for row in rows)
    write_text_atomically(path, text.getvalue())


def draw(path: Path, rows: Sequence[Row], what: str, numbers: Sequence[int], scale: str = "linear") -> None:
    """IoU, with its least and most, and wall distance against a number of ``what``, a line for each region."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    overlap, distance = figure.subplots(1, 2)
    for region in dict.fromkeys(row[0] for row in rows):
        own = np.array([row[1:] for row in rows if row[0] == region], float)
        overlap.plot(own[:, 0], own[:, 1], "o-", ms=4, label=region)
        overlap.fill_between(own[:, 0], own[:, 2], own[:, 3], alpha=0.15)
        distance.plot(own[:, 0], own[:, 4], "o-", ms=4, label=region)
    for axes, title in ((overlap, "mean IoU of the boxes"), (distance, "mean distance of the walls, mm")):
        axes.set(xlabel=what, title=title, xscale=scale)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    overlap.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()
