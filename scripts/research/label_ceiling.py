"""What labels can tell.

    python -m scripts.research.label_ceiling DATASETS.json REGION [--minutes 60] [--split test]

A U-Net (MONAI's) is trained on the label maps of a region's training cases, all of its organs at once, at 3 mm, and the
box of each organ's largest piece in the cases of ``--split`` is compared with the true one. The product sees no label
of these cases and one example in place of all; the table tells how much of its error labels would take away. An organ
of which no voxel is found has IoU 0; its walls are not in the mean distance, and the last column counts them.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.ndimage import label as pieces_of
from torch import Tensor, nn

from rprloc.evaluation.evaluate import read_case
from rprloc.geometry import Box
from rprloc.io.dataset import Case, read_dataset
from rprloc.model.network import mixed_precision
from rprloc.training.sampling import jitter, random_matrix
from rprloc.volume import Volume
from scripts.benchmark.circumstances import describe_machine
from scripts.benchmark.fitting import fit
from scripts.benchmark.registry import Example
from scripts.benchmark.scans import Scan, pack_scans, resample_labels

CROP_VOX = 80
_ROTATION_DEG, _SCALE = 12.0, 0.12


def labels_at(example: Example, scan: Scan, organs: tuple[str, ...]) -> NDArray[np.uint8]:
    """The label map (I, J, K) on the scan's grid by the nearest voxel: 0, or 1 + the organ's place in ``organs``."""
    stored = resample_labels(scan.grid, example)
    labels = np.zeros(stored.shape, np.uint8)
    for number, name in example.case.label_names.items():
        labels[stored == number] = 1 + organs.index(name)
    return labels


def random_crop(image: NDArray, labels: NDArray, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """An image and its labels, both (1, edge, edge, edge), around a random voxel of a random class, transformed."""
    wanted = generator.choice(np.unique(labels))
    flat = np.flatnonzero(labels == wanted)
    centre = np.array(np.unravel_index(generator.choice(flat), labels.shape)) + generator.uniform(-10, 10, 3)
    shape = np.array(labels.shape)
    matrix = random_matrix(generator, _ROTATION_DEG, _SCALE) * (CROP_VOX / shape)[:, None]
    # affine_grid wants the last axis first, in units of half an image.
    theta = np.concatenate([matrix, ((2 * centre + 1) / shape - 1)[:, None]], axis=1)[::-1][:, [2, 1, 0, 3]]
    lattice = F.affine_grid(torch.from_numpy(theta.copy()).float()[None], [1, 1, *[CROP_VOX] * 3], align_corners=False)
    source = torch.from_numpy(image)[None, None].float() / 255.0
    seen = jitter(F.grid_sample(source, lattice, align_corners=False)[0], generator)
    classes = torch.from_numpy(labels)[None, None].float()
    return seen, F.grid_sample(classes, lattice, mode="nearest", align_corners=False)[0]


def boxes_of(scores: Tensor, scan: Scan, organs: tuple[str, ...]) -> dict[str, Box]:
    """The box of each organ's largest piece, by the scores (1 + organs, I, J, K) of a scan's voxels."""
    classes, boxes = scores.argmax(0).numpy(), {}
    for number, organ in enumerate(organs, 1):
        pieces, count = pieces_of(classes == number)
        if count:
            largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
            box = find_objects(pieces)[largest - 1]
            ends_ras = scan.grid.ras([[s.start - 0.5 for s in box], [s.stop - 0.5 for s in box]])
            boxes[organ] = Box(ends_ras.min(0), ends_ras.max(0))
    return boxes


def train(
    cases: Sequence[Case], organs: tuple[str, ...], given: argparse.Namespace
) -> tuple[nn.Module, dict[str, Any]]:
    """The network trained on cases with their labels, and what :func:`fit` says of its training."""
    scans = pack_scans(cases, given.runs / "packed")
    marks = [labels_at(Example(case), scan, organs) for case, scan in zip(cases, scans, strict=True)]
    torch.manual_seed(given.seed)
    net = UNet(3, 1, 1 + len(organs), (24, 48, 96, 160), (2, 2, 2), num_res_units=1, norm="INSTANCE")
    compare = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)

    def loss_of(generator: np.random.Generator) -> Tensor:
        index = generator.integers(len(scans))
        crop, classes = random_crop(scans[index].image, marks[index], generator)
        with mixed_precision(crop.device):
            scores = net(crop[None])
        return compare(scores.float(), classes[None])

    state = fit(
        net, loss_of, torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4),
        given.runs / f"{given.region}.pt", given.minutes,
        seed=given.seed, rate_at=lambda share: 0.01 + 0.99 * float(np.cos(0.5 * np.pi * share)) ** 2,
        scans=len(scans),
    )  # fmt: skip
    return net, state


def find_boxes(net: nn.Module, volume: Volume, organs: tuple[str, ...]) -> dict[str, Box]:
    """The boxes of the organs that the network finds in a scan."""
    scan = Scan.of(volume)
    with torch.inference_mode(), mixed_precision(torch.device("cpu")):
        image = torch.from_numpy(scan.image)[None, None].float() / 255.0
        scores = sliding_window_inference(image, (CROP_VOX,) * 3, 1, net, overlap=0.5, mode="gaussian")[0].float()
    return boxes_of(scores, scan, organs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the datasets.json")
    parser.add_argument("region")
    parser.add_argument("--minutes", type=float, default=60.0, help="minutes of training (%(default)s)")
    parser.add_argument("--split", default="test", help="the cases to find organs in (%(default)s)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/label-ceiling"), help="folder for weights (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cases = [case for case in read_dataset(given.data) if case.region == given.region]
    organs = tuple(cases[0].label_names.values())
    training = [case for case in cases if case.split == "train"]
    net, state = train(training, organs, given)
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    missed: dict[str, int] = defaultdict(int)
    for case in (case for case in cases if case.split == given.split):
        query = read_case(case)
        boxes = find_boxes(net, query.volume, organs)
        for organ, points_ras in query.annotation.points_ras.items():
            if organ in boxes:
                truth = Box.from_extreme_points(points_ras)
                scores[organ].append((boxes[organ].iou(truth), boxes[organ].wall_distances_mm(truth).mean()))
            else:
                missed[organ] += 1
                scores[organ].append((0.0, np.nan))
    spent = f"{state['steps']} steps, {state['seconds'] / 60:.0f} minutes"
    print(f"{given.region}, split {given.split}; {len(training)} labelled scans, {spent}, seed {given.seed};", end=" ")
    print(describe_machine(torch.device("cpu")))
    means = []
    for organ in (name for name in organs if name in scores):
        iou, awd_mm = np.array(scores[organ]).T
        means.append((iou.mean(), np.mean(awd_mm[~np.isnan(awd_mm)]) if missed[organ] < len(iou) else np.nan))
        print(f"{organ:24} {means[-1][0]:.2f} {means[-1][1]:6.1f} mm {missed[organ]:3d} of {len(iou)} not found")
    print(f"{f'mean of {len(means)}':24} {np.mean(means, axis=0)[0]:.2f} {np.nanmean(means, axis=0)[1]:6.1f} mm")


if __name__ == "__main__":
    main()
