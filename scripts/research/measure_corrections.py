"""What corrections are worth: how far boxes are off in the next scans after 0, 1, 2 and 5 scans were corrected.

    python -m scripts.research.measure_corrections DATASETS.json --about scripts/release/regions.json \\
        --out docs/accuracy

A user starts with one support case as the example, goes through scans in a random order and corrects the boxes of the
first ones: their true boxes, as six points in the middles of the walls, not their masks, become examples. Four users
(seed 0) have orders of their own. The scans are the val cases, and measured are those after the fifth; where there are
no val cases, training cases are corrected and the other support cases are measured. No test case is touched. Written
are corrections.csv and corrections.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rprloc.annotation import Annotation, Example
from rprloc.detection import OrganDetection
from rprloc.evaluation.evaluate import read_case
from rprloc.evaluation.scores import PairScore, mean_of, score, summarize
from rprloc.evaluation.table import interval_of_mean
from rprloc.files import require_folder
from rprloc.geometry import Box, Points
from rprloc.io.dataset import Case, Region, read_dataset, read_regions
from rprloc.localization.config import DEFAULT
from rprloc.localization.localizer import Localizer
from rprloc.localization.locate import combine
from rprloc.localization.matching import SearchField
from rprloc.localization.one_shot import locate_by_one
from rprloc.localization.support import Support
from scripts.research.measure_shots import Row, draw, write_table

CORRECTIONS = (0, 1, 2, 5)
USERS = 4

Found = Mapping[str, tuple[Points, NDArray[np.float64]]]
"""What one example found in one scan: of each organ the points (6, 3) and the votes' spread (6,)."""


@dataclass(frozen=True)
class User:
    """Someone who marks one scan, corrects others in their order, and goes on to those that are measured."""

    first: str
    corrected: tuple[str, ...]
    measured: tuple[str, ...]

    @property
    def examples(self) -> tuple[str, ...]:
        return (self.first, *self.corrected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the datasets.json")
    parser.add_argument("--about", type=Path, help="more about the regions than the datasets.json holds")
    parser.add_argument("--out", type=Path, required=True, help="folder for corrections.csv and corrections.png")
    parser.add_argument("--model", help="the weights, a path or a shipped model's name")
    given = parser.parse_args()
    require_folder(given.out)
    localizer, cases = Localizer.load(given.model, "cpu"), read_dataset(given.data)
    rows: list[Row] = []
    for name, region in read_regions(given.data, given.about).items():
        known = [case for case in cases if case.region == name and case.targets]
        users = choose_users(known)
        scores = follow(localizer, known, users, region)
        for count, pairs in scores.items():
            measures = summarize_corrections(pairs)
            iou, low, high, awd_mm = measures[:4]
            print(f"{name}: {count} corrected, IoU {iou:.3f} ({low:.3f} to {high:.3f}), {awd_mm:.1f} mm", flush=True)
            rows.append((name, count, *measures))
    given.out.mkdir(parents=True, exist_ok=True)
    columns = [
        "corrected",
        "iou",
        "iou_low",
        "iou_high",
        "awd_mm",
        "awd_low_mm",
        "awd_high_mm",
        "awd_median_mm",
        "scans",
    ]
    write_table(given.out / "corrections.csv", columns, rows)
    draw(given.out / "corrections.png", rows, "corrected scans", CORRECTIONS)


def choose_users(cases: Sequence[Case]) -> list[User]:
    """Each user's first example, the scans that are corrected, in their order, and those that are measured."""
    own, val, training = ([case.name for case in cases if case.split == split] for split in ("support", "val", "train"))
    generator, users = np.random.default_rng(0), []
    for number in range(USERS):
        first = own[number % len(own)]
        order = [str(name) for name in generator.permutation(val or training)]
        corrected, later = order[: CORRECTIONS[-1]], order[CORRECTIONS[-1] :]
        measured = later if val else [name for name in own if name != first]
        users.append(User(first, tuple(corrected), tuple(measured)))
    return users


def follow(
    localizer: Localizer, cases: Sequence[Case], users: Sequence[User], region: Region
) -> dict[int, list[PairScore]]:
    """By the number of corrected scans: the score of each organ of each user in each measured scan."""
    by_name = {case.name: case for case in cases}
    firsts = dict.fromkeys(user.first for user in users)
    corrected = dict.fromkeys(name for user in users for name in user.corrected)
    supports = {}
    for name in tqdm([*firsts, *corrected], desc="examples", unit="scan", disable=None):
        example = read_case(by_name[name])
        (supports[name],) = localizer.learn(example if name in firsts else as_corrected(example)).supports
    scores: dict[int, list[PairScore]] = {count: [] for count in CORRECTIONS}
    measured = dict.fromkeys(name for user in users for name in user.measured)
    for name in tqdm(measured, desc="scans", unit="scan", disable=None):
        scan = read_case(by_name[name])
        truth_ras = scan.annotation.points_ras
        wanted = region.mean_of(truth_ras)
        search = SearchField.of(localizer.compute_position_field(scan.volume), localizer.config)
        there = [user for user in users if name in user.measured]
        found = {example: seek(supports[example], wanted, search) for user in there for example in user.examples}
        for number, user in enumerate(there):
            for count in CORRECTIONS:
                for organ, points_ras in put_together(found[one] for one in user.examples[: 1 + count]).items():
                    box = OrganDetection(organ, points_ras, np.zeros(6), 1, user.examples[: 1 + count])
                    scores[count].append(score(f"user {number}", name, box, truth_ras[organ]))
    return scores


def as_corrected(example: Example) -> Example:
    """The scan with its true boxes as a person leaves them: six points on the walls of each, and no mask."""
    points_ras = example.annotation.points_ras
    walls_ras = {organ: Box.from_extreme_points(points).faces_ras.mean(1) for organ, points in points_ras.items()}
    return Example(example.volume, Annotation.from_points(walls_ras), example.name, example.warnings)


def seek(support: Support, organs: Iterable[str], search: SearchField) -> Found:
    return locate_by_one(support, [organ for organ in organs if organ in support.organs], search)


def put_together(found: Iterable[Found]) -> dict[str, Points]:
    """The points (6, 3) of each organ, as the program combines what several examples found; the first knows it."""
    first, *others = found
    together = {}
    for organ, (points_ras, spread_mm) in first.items():
        more = [other[organ] for other in others if organ in other]
        places, spreads = zip((points_ras, spread_mm), *more, strict=True)
        together[organ] = combine(np.stack(places), np.stack(spreads), DEFAULT)
    return together


def summarize_corrections(pairs: Sequence[PairScore]) -> tuple[float, ...]:
    """The mean IoU over organs, its interval, the same of the wall distance in mm, its median, and how many scans."""
    targets = summarize(pairs)
    mean = mean_of(targets)
    assert mean is not None
    apart = interval_of_mean(pairs, list(targets), lambda pair: pair.awd_mm)
    median_mm = float(np.median([pair.awd_mm for pair in pairs]))
    scans = len({pair.query for pair in pairs})
    return (mean.iou, *interval_of_mean(pairs, list(targets)), mean.awd_mm, *apart, median_mm, scans)


if __name__ == "__main__":
    main()
