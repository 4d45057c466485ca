"""How well organs are found in MR by examples in MR and in CT, beside registration and template matching.

    python -m scripts.research.measure_mr MR/datasets.json --ct CT/datasets.json --model ct-mr \
        --out docs/accuracy/mr

The weights are for MR, or with ``--ct`` for both. All methods get the same pairs: every example with all of the organs
and every query of the split. ``rprloc few-shot`` takes all examples together. Written are pairs.csv, with every pair
and organ of every method, and table.md. A picture of every query with what its first example found in it stays with the
predictions: such scans are not ours to publish.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rprloc.errors import InputError
from rprloc.evaluation.evaluate import read_case
from rprloc.files import require_folder, write_text_atomically
from rprloc.geometry import Box
from rprloc.io.dataset import Case, read_dataset
from rprloc.io.pictures import save_picture
from scripts.benchmark.predictions import Pair, Prediction, path_of, predict
from scripts.benchmark.registry import Setting, load_methods
from scripts.benchmark.scoring import Result, score_rows
from scripts.benchmark.tables import format_other
from scripts.benchmark.wording import PRODUCT, name_target
from scripts.research.measure_shots import write_table

METHODS = (PRODUCT, "mean-box", "registration", "gs")
TARGETS = ("liver", "kidney_right", "kidney_left", "spleen")
"""The organs that the MR scans and the CT scans have."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the datasets.json of the MR scans")
    parser.add_argument("--ct", type=Path, help="a datasets.json whose support cases are examples, too")
    parser.add_argument("--split", default="test", help="which MR cases are queries (%(default)s)")
    parser.add_argument("--model", help="the weights, a path or a shipped model's name")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/mr"), help="folder of predictions and pictures (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    given = parser.parse_args()
    require_folder(given.out)
    mr = [case for case in read_dataset(given.data) if set(TARGETS) <= set(case.targets)]
    cases = [replace(case, region="MR to MR") for case in mr]
    if given.ct is not None:
        examples = [case for case in read_dataset(given.ct) if case.split == "support"]
        cases += [replace(case, region="CT to MR") for case in examples if set(TARGETS) <= set(case.targets)]
        cases += [replace(case, region="CT to MR") for case in mr if case.split == given.split]
    regions = ["MR to MR"] if given.ct is None else ["MR to MR", "CT to MR"]
    setting = Setting(tuple(cases), given.runs, dict.fromkeys(regions, TARGETS), model=given.model)
    for region in regions:
        if not setting.split(region, "support") or not setting.split(region, given.split):
            raise InputError(
                f"For {region} there is no support case or no {given.split} case with all of {', '.join(TARGETS)}. "
                "Check the datasets.json."
            )
    given.out.mkdir(parents=True, exist_ok=True)
    results = [result for region in regions for result in measure(setting, region, given.split)]
    pairs = [
        (result.region, result.row.name, pair.support, pair.query, pair.target, pair.iou, pair.awd_mm)
        for result in results
        for pair in result.scores
    ]
    write_table(given.out / "pairs.csv", ["row", "example", "query", "organ", "iou", "awd_mm"], pairs)
    table = "\n".join(format_other(results, region) + format_pairs(results, region) for region in regions)
    write_text_atomically(given.out / "table.md", table)
    print(table)


def measure(setting: Setting, region: str, split: str) -> list[Result]:
    """All methods on all pairs of a region, and the pictures."""
    examples, queries = setting.split(region, "support"), setting.split(region, split)
    pairs = [Pair(region, example.name, query.name) for query in queries for example in examples]
    # Cases of both regions have the same names.
    own = replace(setting, cases=tuple(case for case in setting.cases if case.region == region))
    methods = [make(own) for name, make in load_methods().items() if name in METHODS]
    for method in methods:
        predict(method, region, pairs, own.folder)
    for query in queries:
        draw(own, Pair(region, examples[0].name, query.name), query)
    return score_rows(own, [row for method in methods for row in method.rows], region, pairs, own.folder)


def format_pairs(results: Sequence[Result], region: str) -> str:
    """Every pair of the product with one example."""
    found = next(result for result in results if (result.region, result.row.name) == (region, PRODUCT))
    cells = {(pair.support, pair.query, pair.target): f"{pair.iou:.2f} / {pair.awd_mm:.0f}" for pair in found.scores}
    pairs = dict.fromkeys((pair.support, pair.query) for pair in found.scores)
    lines = [
        f"\nEvery pair of `{PRODUCT}`, IoU / AWD in mm:\n",
        "| example | query | " + " | ".join(map(name_target, TARGETS)) + " |",
        "|---" * (len(TARGETS) + 2) + "|",
        *(
            f"| {example} | {query} | " + " | ".join(cells[example, query, target] for target in TARGETS) + " |"
            for example, query in pairs
        ),
    ]
    return "\n".join(lines) + "\n"


def draw(setting: Setting, pair: Pair, query: Case) -> None:
    """A query with the product's boxes by one example."""
    found, example = Prediction.read(path_of(setting.folder, PRODUCT, pair)).points_ras, read_case(query)
    boxes, truth = (
        {organ: Box.from_extreme_points(marked[organ]) for organ in TARGETS}
        for marked in (found, example.annotation.points_ras)
    )
    name = f"{pair.region.lower().replace(' ', '-')}-{pair.query}.png"
    pictures = setting.folder / "pictures"
    pictures.mkdir(exist_ok=True)
    save_picture(pictures / name, example.volume, boxes, truth=truth)


if __name__ == "__main__":
    main()
