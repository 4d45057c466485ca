"""Print the accuracy tables of the README from the results of measure_accuracy.sh: accuracy_table.py RESULTS_FOLDER.

The 95 % intervals of the one-shot IoU are those of 2,000 draws of queries with replacement (bootstrap, seed 0): how
much the few people that were measured leave to chance.
"""

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_DRAWS = 2000


def interval(pairs: Sequence[dict[str, str]], targets: Sequence[str]) -> str:
    """The 95 % interval of the mean over targets of the mean IoU over pairs, by drawing queries."""
    by_query: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        by_query[pair["query"]][pair["target"]].append(float(pair["iou"]))
    sums, counts = (
        np.array([[measure(one[target]) for target in targets] for one in by_query.values()]) for measure in (sum, len)
    )  # (query, target)
    drawn = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), _DRAWS)  # (draw, query)
    # A draw without any query that shows a target tells nothing of it.
    with np.errstate(invalid="ignore"):
        means = np.nanmean(drawn @ sums / (drawn @ counts), axis=1)
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return f"{low:.2f} to {high:.2f}"


def main(folder: Path) -> None:
    """One Markdown table: a row for each region and target, one support alone and all supports together."""
    print("| region | target | IoU, one shot | 95 % | AWD mm | sd over supports | IoU, all shots | AWD mm |")
    print("|---|---|---|---|---|---|---|---|")
    for region in ("han", "thorax", "abdomen"):
        one, several = (json.loads((folder / f"{region}-{shots}.json").read_text()) for shots in ("one", "all"))
        with (folder / f"{region}-one.csv").open(newline="") as stream:
            pairs = list(csv.DictReader(stream))
        for target, single in one["targets"].items():
            together = several["targets"][target]
            spread = single["iou_sd_supports"]
            print(
                f"| {region} | {target} | {single['iou']:.2f} | {interval(pairs, [target])} | {single['awd_mm']:.1f} "
                f"| {spread:.2f} | {together['iou']:.2f} | {together['awd_mm']:.1f} |"
            )
        mean, fused = one["mean"], several["mean"]
        print(
            f"| {region} | **mean** of {len(mean['targets'])} | **{mean['iou']:.2f}** "
            f"| {interval(pairs, mean['targets'])} | **{mean['awd_mm']:.1f}** | "
            f"| **{fused['iou']:.2f}** | **{fused['awd_mm']:.1f}** |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
