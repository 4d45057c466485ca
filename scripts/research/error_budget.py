"""What each step gains and what is left.

    python -m scripts.research.error_budget DATASETS.json [MODEL.pt] --about scripts/release/regions.json

Pairs of a support and a query of split ``val``, or, in regions without one, of the other supports and the training
cases (whose labels training never sees); one shot, no test case. For every step: the mean over targets of the mean over
pairs, IoU / mean wall distance in mm. Then what is left, which needs the truth:

- without the shift that the pair's organs have in common (its median);
- with the centre of every organ put right, so that only sizes are wrong;
- without *the support's part*: by how much the organ of this support is off, on average, in all other queries. It tells
  how much of the error comes from the one example not being like most people, which no other example corrects;
- without *the query's part*: by how much this organ of the query is off, on average, from all other supports.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rprloc.evaluation.evaluate import read_case
from rprloc.geometry import Box, Points, wall_coordinates
from rprloc.io.dataset import Case, Region, read_dataset, read_regions
from rprloc.localization.confidence import FieldEvidence
from rprloc.localization.config import DEFAULT, LocalizationConfig
from rprloc.localization.localizer import Localizer
from rprloc.localization.locate import locate
from rprloc.localization.support import Support, SupportSet
from rprloc.model.body import BodyMap
from rprloc.model.field import PositionField, compute_position_field, look_coarsely
from rprloc.model.input import prepare_input

STEPS = ("coarse pose", "registered", "dense match", "fine steps", "outline", "own voxels")
REST = ("no common shift", "centres right", "no support's part", "no query's part")
CONFIGS = {
    "dense match": LocalizationConfig(fine_share=0.0, follow_outline=False, follow_voxels=False),
    "fine steps": LocalizationConfig(follow_outline=False, follow_voxels=False),
    "outline": LocalizationConfig(follow_voxels=False),
    "own voxels": DEFAULT,
}
"""Of the steps that follow registration, how organs are located when no further one is done."""

_LEAST_OTHERS = 3

Scores = dict[str, dict[str, list[tuple[float, float]]]]
"""Of every step and organ, IoU and mean wall distance of each pair."""

Offsets = dict[str, dict[tuple[str, str], NDArray[np.float64]]]
"""Of every organ and pair of a support and a query, by how many mm each wall is off (6,)."""


@dataclass(frozen=True, eq=False)
class View:
    """What is known of a case: its position field, the pose that the coarse Pnet sees, and the true points; and of a
    support case, for each step of CONFIGS, what is learned from it.
    """

    field: PositionField
    pose: BodyMap
    truth_ras: Mapping[str, Points]
    supports: Mapping[str, Support]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the datasets.json")
    parser.add_argument("weights", type=Path, nargs="?", help="by default the shipped ones")
    parser.add_argument("--about", type=Path, help="more about the regions than the datasets.json holds")
    given = parser.parse_args()
    localizer = Localizer.load(given.weights, "cpu")
    cases = read_dataset(given.data)
    for name, region in read_regions(given.data, given.about).items():
        scores = measure_region(localizer, [case for case in cases if case.region == name], name, region)
        for step in (*STEPS, *REST):
            iou, awd = np.mean([np.mean(pairs, axis=0) for pairs in scores[step].values()], axis=0)
            print(f"{name:8} {step:18} {iou:.3f} / {awd:.1f}")


def measure_region(localizer: Localizer, cases: Sequence[Case], name: str, region: Region) -> Scores:
    """The scores of all pairs after each step and with each part of the error taken away."""
    supports = [case for case in cases if case.split == "support"]
    queries = [case for case in cases if case.split == "val"]
    queries = queries or supports + [case for case in cases if case.split == "train"]
    views = {
        case.name: look_at(localizer, case)
        for case in tqdm({case.name: case for case in (*supports, *queries)}.values(), name, unit="scan")
    }
    scores: Scores = defaultdict(lambda: defaultdict(list))
    off_mm: Offsets = defaultdict(dict)
    for support, query in tqdm([(s.name, q.name) for s in supports for q in queries if s is not q], unit="pair"):
        known, sought = views[support].truth_ras, views[query].truth_ras
        organs = [organ for organ in region.mean_of(known) if organ in sought]
        if not organs:
            continue
        truth = {organ: box_of(sought[organ]) for organ in organs}
        boxes = locate_boxes(localizer.model_id, views[support], views[query], organs)
        for step, by_organ in (boxes | correct_centres(boxes[STEPS[-1]], truth)).items():
            for organ, box in by_organ.items():
                scores[step][organ].append(score(box, truth[organ]))
        for organ in organs:
            off_mm[organ][support, query] = boxes[STEPS[-1]][organ].walls_mm - truth[organ].walls_mm
    truths = {query.name: {organ: box_of(p) for organ, p in views[query.name].truth_ras.items()} for query in queries}
    score_without_parts(scores, off_mm, truths)
    return scores


def look_at(localizer: Localizer, case: Case) -> View:
    """A case as the networks see it, and what is learned from it."""
    example = read_case(case)
    model, volume, annotation = localizer.model, example.volume, example.annotation
    pose = look_coarsely(model, prepare_input(volume, next(model.parameters()).device), case.name)[1]
    field, supports = compute_position_field(model, volume), {}
    for step, config in CONFIGS.items() if case.split == "support" else ():
        learner = replace(localizer, config=config)
        (supports[step],) = learner.learn_in(field, volume.grid, annotation, case.name).supports
    return View(field, pose, annotation.points_ras, supports)


def locate_boxes(model_id: str, example: View, query: View, organs: Sequence[str]) -> dict[str, dict[str, Box]]:
    """The boxes of organs of a query after each step."""
    marks = example.supports[STEPS[-1]].organs
    boxes = {
        "coarse pose": {o: box_of(query.pose.ras(example.pose.body(marks[o].points_ras))) for o in organs},
        "registered": {o: box_of(query.field.body.ras(marks[o].latents[:6, :3].astype(float))) for o in organs},
    }
    evidence = FieldEvidence.of(query.field)
    for step, config in CONFIGS.items():
        support_set = SupportSet(model_id, (example.supports[step],))
        detections = locate(support_set, evidence, organs, config=config)
        boxes[step] = {detection.organ: box_of(detection.points_ras) for detection in detections}
    return boxes


def correct_centres(boxes: Mapping[str, Box], truth: Mapping[str, Box]) -> dict[str, dict[str, Box]]:
    """The boxes of a pair without the shift that they have in common, and with every centre put right."""
    off_mm = {organ: box.centre_ras - truth[organ].centre_ras for organ, box in boxes.items()}
    common_mm = np.median(list(off_mm.values()), axis=0)
    return {
        "no common shift": {organ: shift(box, -common_mm) for organ, box in boxes.items()},
        "centres right": {organ: shift(box, -off_mm[organ]) for organ, box in boxes.items()},
    }


def score_without_parts(scores: Scores, off_mm: Offsets, truths: Mapping[str, Mapping[str, Box]]) -> None:
    """Add the scores without the support's part and without the query's part."""
    for organ, by_pair in off_mm.items():
        for part, which in (("no support's part", 0), ("no query's part", 1)):
            for pair, pair_mm in by_pair.items():
                others_mm = [mm for other, mm in by_pair.items() if other != pair and other[which] == pair[which]]
                common_mm = np.mean(others_mm, axis=0) if len(others_mm) >= _LEAST_OTHERS else np.zeros(6)
                truth = truths[pair[1]][organ]
                box = box_of_walls(truth.walls_mm + pair_mm - common_mm)
                scores[part][organ].append(score(box, truth))


def box_of(points_ras: Points) -> Box:
    return box_of_walls(wall_coordinates(points_ras))


def box_of_walls(walls_mm: NDArray[np.float64]) -> Box:
    """The box between walls (6,), 1 mm wide at least: early steps may cross walls."""
    low, high = walls_mm.reshape(3, 2).T
    return Box(np.minimum(low, high - 1.0), high)


def shift(box: Box, by_mm: NDArray[np.float64]) -> Box:
    return Box(box.min_ras + by_mm, box.max_ras + by_mm)


def score(box: Box, truth: Box) -> tuple[float, float]:
    return box.iou(truth), float(box.wall_distances_mm(truth).mean())


if __name__ == "__main__":
    main()
