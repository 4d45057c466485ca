"""What each step gains and what is left: error_budget.py DATASETS.json [MODEL.pt].

Pairs of a support and a query of split ``val``, or, in regions without one, of the other supports and the training
cases (whose labels training never sees); one shot, no test case. For every step: the mean over targets of the mean over
pairs, IoU / mean wall distance in mm. Then what is left, which needs the truth:

- without the shift that the pair's organs have in common (its median);
- with the centre of every organ put right, so that only sizes are wrong;
- without *the support's part*: by how much the organ of this support is off, on average, in all other queries. It tells
  how much of the error comes from the one example not being like most people, which no other example corrects;
- without *the query's part*: by how much this organ of the query is off, on average, from all other supports.
"""

import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rprloc.annotation import Mask
from rprloc.evaluation.evaluate import annotated
from rprloc.evaluation.scores import MEAN_TARGETS
from rprloc.geometry import Box, Points, wall_coordinates
from rprloc.io.dataset import Case, read_dataset
from rprloc.localization.localizer import Engine
from rprloc.localization.locate import locate
from rprloc.localization.support import Support, SupportSet
from rprloc.model.body import BodyMap
from rprloc.model.field import PositionField, first_look, position_field
from rprloc.model.input import body_input
from rprloc.model.network import RPRNet
from rprloc.volume import Volume

Found = dict[str, dict[str, Points]]  # of every step and organ the six points (6, 3)
STEPS = ("coarse pose", "registered", "fine steps", "outline", "own voxels")
NOWHERE = np.zeros((0, 3), np.float32)
REST = ("no common shift", "centres right", "no support's part", "no query's part")
_LEAST_OTHERS = 3


def steps_of(support: Support, model_id: str, poses: list[BodyMap], field: PositionField) -> Found:
    """The points of every organ after each step. ``poses``: of the support and of the query."""
    found: Found = defaultdict(dict)
    for name, organ in support.organs.items():
        found["coarse pose"][name] = poses[1].ras(poses[0].body(organ.points_ras))
        found["registered"][name] = field.body.ras(organ.latents[:6, :3].astype(float))
    without: dict[str, dict[str, Any]] = {"fine steps": {"outline_body_mm": NOWHERE, "trust": np.zeros(6)}}
    without |= {"outline": {"trust": np.zeros(6)}, "own voxels": {}}
    for step, left_out in without.items():
        organs = {
            name: replace(organ, appearance=replace(organ.appearance, **left_out))
            for name, organ in support.organs.items()
        }
        for one in locate(SupportSet(model_id, (replace(support, organs=organs),)), field):
            found[step][one.organ] = one.points_ras
    return found


def box_of(points_ras: Points) -> Box:
    """The box of points, 1 mm wide at least: early steps may cross walls."""
    low, high = wall_coordinates(points_ras).reshape(3, 2).T
    return Box(np.minimum(low, high - 1.0), high)


def score(box: Box, true: Box) -> tuple[float, float]:
    return box.iou(true), float(box.wall_distances_mm(true).mean())


def moved(box: Box, by_mm: np.ndarray) -> Box:
    return Box(box.min_ras + by_mm, box.max_ras + by_mm)


def main(data: Path, weights: Path | None) -> None:
    engine = Engine.load(weights, "cpu")
    model = engine.model
    cases = read_dataset(data)
    for region in dict.fromkeys(case.region for case in cases):
        known = [case for case in cases if case.region == region]
        supports = [case for case in known if case.split == "support"]
        queries = [case for case in known if case.split == "val"]
        queries = queries or supports + [case for case in known if case.split == "train"]
        fields, poses, truths, marked = {}, {}, {}, {}
        for case in tqdm({one.name: one for one in (*supports, *queries)}.values(), region, unit="scan"):
            fields[case.name], poses[case.name], volume, truths[case.name], masks = seen(model, case)
            if case in supports:
                marked[case.name] = engine.support_set_of(
                    fields[case.name],
                    volume.grid,
                    truths[case.name],
                    scan=case.name,
                    source="label map",
                    masks=masks,
                ).supports[0]
        off_mm: dict[str, dict[tuple[str, str], NDArray[np.float64]]] = defaultdict(dict)
        scores: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        for support, query in tqdm([(s.name, q.name) for s in supports for q in queries if s is not q], unit="pair"):
            found = steps_of(marked[support], model.identity(), [poses[support], poses[query]], fields[query])
            shared = [
                n for n in MEAN_TARGETS.get(region, truths[support]) if n in truths[query] and n in truths[support]
            ]
            truth = {name: box_of(truths[query][name]) for name in shared}
            boxes = {step: {name: box_of(found[step][name]) for name in shared} for step in STEPS}
            last = boxes[STEPS[-1]]
            off = {name: last[name].centre_ras - truth[name].centre_ras for name in shared}
            common = np.median(list(off.values()), axis=0)
            boxes["no common shift"] = {name: moved(last[name], -common) for name in shared}
            boxes["centres right"] = {name: moved(last[name], -off[name]) for name in shared}
            for step, by_name in boxes.items():
                for name, box in by_name.items():
                    scores[step][name].append(score(box, truth[name]))
            for name in shared:
                off_mm[name][support, query] = last[name].walls_mm - truth[name].walls_mm
        for name, by_pair in off_mm.items():
            for part, which in (("no support's part", 0), ("no query's part", 1)):
                for pair, ours_mm in by_pair.items():
                    others_mm = [mm for p, mm in by_pair.items() if p != pair and p[which] == pair[which]]
                    common_mm = np.mean(others_mm, axis=0) if len(others_mm) >= _LEAST_OTHERS else np.zeros(6)
                    true = box_of(truths[pair[1]][name])
                    low, high = (true.walls_mm + ours_mm - common_mm).reshape(3, 2).T
                    scores[part][name].append(score(Box(np.minimum(low, high - 1.0), high), true))
        for step in (*STEPS, *REST):
            iou, awd = np.mean([np.mean(pairs, axis=0) for pairs in scores[step].values()], axis=0)
            print(f"{region:8} {step:18} {iou:.3f} / {awd:.1f}")


def seen(model: RPRNet, case: Case) -> tuple[PositionField, BodyMap, Volume, dict[str, Points], dict[str, Mask]]:
    """A case's position field, the pose that the coarse Pnet sees, its scan, its organs' points and masks."""
    volume, points, masks = annotated(case)
    image, body, grid = body_input(volume, next(model.parameters()).device)
    pose = first_look(model, image, body, grid, case.name)[1]
    return position_field(model, volume), pose, volume, points, masks


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
