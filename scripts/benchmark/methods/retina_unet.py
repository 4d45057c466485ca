"""The supervised detector: Retina U-Net, made of MONAI's RetinaNet and a segmentation branch on its pyramid.

Jaeger et al., ML4H 2020. MONAI gives residual units, feature pyramid, heads, anchors, matching, box losses and coding.
As in Retina U-Net the pyramid goes on to the full resolution of the input, where a segmentation is trained beside the
boxes, and overlapping boxes of a class are merged by their scores. Voxels of 6 mm keep it within the budget of a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.data.box_utils import box_iou
from monai.losses import DiceCELoss, FocalLoss
from monai.networks.blocks import ResidualUnit
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from numpy.typing import NDArray
from torch import Tensor, nn

from rprloc.files import atomic_path
from rprloc.geometry import Box, Grid, Points
from rprloc.model.network import mixed_precision
from rprloc.volume import Volume
from scripts.benchmark.fitting import describe_effort, fit, load_weights
from scripts.benchmark.registry import SUPERVISED, Example, Method, Row, Setting, face_centres, register
from scripts.benchmark.scans import SPACING_MM, Scan, pack_scans, resample_labels

VOXEL_MM = 2 * SPACING_MM
MINUTES = {"han": 60.0, "abdomen": 8.0}
_STRIDES = (4, 8)
_MERGED_IOU, _MERGED_BOXES = 0.4, 20


class Pyramid(nn.Module):
    """Images (1, 1, I, J, K) to feature maps at strides 4 and 8; ``segmentation`` (1, classes, I, J, K) of the last."""

    out_channels = 48

    def __init__(self, classes: int) -> None:
        super().__init__()

        def stage(width_in: int, width: int, stride: int, subunits: int = 2) -> nn.Module:
            return ResidualUnit(3, width_in, width, stride, subunits=subunits, norm=("group", {"num_groups": 8}))

        self.full = stage(1, 8, 1, subunits=1)
        self.down = nn.ModuleList([stage(8, 32, 2), stage(32, 64, 2), stage(64, 96, 2)])
        self.fpn = FeaturePyramidNetwork(3, [32, 64, 96], self.out_channels)
        self.narrow = nn.Conv3d(self.out_channels, 8, 1)
        self.up = nn.Sequential(nn.Conv3d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, classes, 1))
        self.segmentation: Tensor | None = None  # the detector asks for feature maps alone

    def forward(self, image: Tensor) -> list[Tensor]:
        full = self.full(image)
        levels, features = {}, full
        for stride, stage in zip((2, 4, 8), self.down, strict=True):
            levels[str(stride)] = features = stage(features)
        maps = self.fpn(levels)
        if self.training:
            upsampled = F.interpolate(self.narrow(maps["2"]), size=full.shape[2:], mode="nearest")
            self.segmentation = self.up(torch.cat([upsampled, full], dim=1)).float()
        return [maps[str(stride)] for stride in _STRIDES]


class Network(RetinaNet):
    """MONAI's RetinaNet with convolutions in mixed precision."""

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        with mixed_precision(images.device):
            maps_by_head = super().forward(images)
        return {head: [level.float() for level in maps] for head, maps in maps_by_head.items()}


class Detector(RetinaNetDetector):
    """MONAI's detector; its own way to this matcher asks for torchvision, of which CPU builds are hard to get."""

    def compute_anchor_matched_idxs(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]], num_anchor_locs_per_level: Sequence[int]
    ) -> list[Tensor]:
        return [
            self.proposal_matcher(
                target[self.target_box_key], anchor, num_anchor_locs_per_level, self.num_anchors_per_loc
            )[1]
            for anchor, target in zip(anchors, targets, strict=True)
        ]


def network_of(organs: int) -> Network:
    """A network for boxes and labels of so many organs, with one anchor a place for each."""
    return Network(3, organs, organs, Pyramid(organs + 1), size_divisible=8)


def detector_of(net: Network, anchor_sizes: NDArray[np.float64]) -> Detector:
    """The detector around a network; ``anchor_sizes`` (organs, 3) in voxels: the organs' usual boxes."""
    detector = Detector(net, AnchorGeneratorWithAnchorShape((1.0, 1.25), anchor_sizes.tolist()))
    detector.set_cls_loss(FocalLoss(reduction="mean", gamma=2.0))
    detector.set_atss_matcher(num_candidates=4, center_in_gt=False)
    detector.set_hard_negative_sampler(batch_size_per_image=64, positive_fraction=0.3, pool_size=20)
    return detector


@register
class RetinaUNet(Method):
    name = "retina-unet"
    rows = (
        Row(
            "retina-unet",
            3,
            "Retina U-Net",
            given=SUPERVISED,
            remark="trained with the boxes and labels of the train cases",
            strength="It has learned the organ from the labels of many patients; the others see one.",
        ),
    )

    checked = "mean IoU of boxes, %"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._detectors: dict[str, Detector] = {}

    def weights(self, region: str) -> dict[str, Path]:
        return {"boxes and label maps": self.setting.folder / "weights" / f"retina-unet-{region}.pt"}

    def _path(self, region: str) -> Path:
        return self.weights(region)["boxes and label maps"]

    def train(self, region: str) -> None:
        organs = self.setting.targets[region]
        cases = [case for case in self.setting.split(region, "train") if set(organs) <= set(case.targets)]
        scans = pack_scans(cases, self.setting.folder / "packed")
        marks = [self._mark(Example(case), scan, organs) for case, scan in zip(cases, scans, strict=True)]
        images = [coarse_image(scan)[0] for scan in scans]
        sizes = np.median([boxes[:, 3:] - boxes[:, :3] for _, boxes in marks], axis=0)
        torch.manual_seed(self.setting.seed)
        detector = detector_of(network_of(len(organs)), sizes)
        pyramid = detector.network.feature_extractor
        assert isinstance(pyramid, Pyramid)
        segmentation_loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)

        def loss_of(generator: np.random.Generator) -> Tensor:
            index = generator.integers(len(images))
            image, labels, boxes = augment(images[index], *marks[index], generator)
            target = {"boxes": boxes, "labels": torch.arange(len(organs))}
            torch.manual_seed(int(generator.integers(2**31)))  # the sampler of negatives has no generator of its own
            losses = detector([image], [target])
            segmentation = pyramid.segmentation
            padded = F.pad(labels, _to_eighths(labels))[None]
            return losses["classification"] + losses["box_regression"] + segmentation_loss(segmentation, padded)

        others = [Example(case) for case in self.scans_to_check(region) if set(organs) & set(case.targets)]
        checked = pack_scans([example.case for example in others], self.setting.folder / "packed")

        def check() -> float:
            """The mean IoU in per cent of those organs that the scans show wholly."""
            ious = []
            for example, scan in zip(others, checked, strict=True):
                boxes = find_boxes(detector, scan, organs)
                for organ in set(organs) & set(example.case.targets):
                    ious.append(boxes[organ].iou(Box.from_extreme_points(example.points_ras[organ])))
            return 100.0 * float(np.mean(ious))

        optimizer = torch.optim.AdamW(detector.network.parameters(), lr=1e-3, weight_decay=1e-4)
        path = self._path(region)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path.with_suffix(".npy")) as temporary:
            np.save(temporary, sizes)
        fit(
            detector.network, loss_of, optimizer, path, MINUTES[region] * self.setting.minutes,
            seed=self.setting.seed, rate_at=lambda share: 0.02 + 0.98 * float(np.cos(0.5 * np.pi * share)) ** 2,
            scans=len(scans), modes=detector, check=check,
        )  # fmt: skip

    def _mark(self, example: Example, scan: Scan, organs: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray]:
        """The labels at 6 mm (I, J, K), and the organs' boxes (organs, 6) in its voxels, from the first face."""
        path = self.setting.folder / "packed" / f"{example.name}-labels.npy"
        grid = coarse_image(scan)[1]
        if not path.exists():
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, resample_labels(grid, example).astype(np.uint8))
        numbers = {name: number for number, name in example.case.label_names.items()}
        labels = np.zeros(grid.shape, np.uint8)
        for place, organ in enumerate(organs):
            labels[np.load(path) == numbers[organ]] = place + 1
        boxes = [Box.from_extreme_points(example.points_ras[organ]) for organ in organs]
        corners = [np.concatenate([grid.ijk(box.min_ras), grid.ijk(box.max_ras)]) + 0.5 for box in boxes]
        return labels, np.array(corners)

    def _detector(self, region: str) -> Detector:
        if region not in self._detectors:
            net = network_of(len(self.setting.targets[region]))
            load_weights(net, self._path(region))
            detector = detector_of(net, np.load(self._path(region).with_suffix(".npy")))
            self._detectors[region] = detector.eval()
        return self._detectors[region]

    def caution(self, region: str) -> str:
        return (
            f"it {describe_effort(self._path(region))}. Its voxels of {VOXEL_MM:g} mm may hold it back, too; half as "
            "large ones take eight times as long."
        )

    def prepare(self, example: Example, organs: Sequence[str]) -> str:
        return example.case.region

    def find(self, prepared: Sequence[str], query: Volume, organs: Sequence[str]) -> dict[str, Points]:
        boxes = find_boxes(self._detector(prepared[0]), Scan.of(query), organs)
        return {organ: face_centres(box) for organ, box in boxes.items()}


def find_boxes(detector: Detector, scan: Scan, organs: Sequence[str]) -> dict[str, Box]:
    """The box of every organ: the mean of the most probable ones that overlap, weighted by their scores."""
    image, grid = coarse_image(scan)
    padded = F.pad(image, _to_eighths(image))[None]  # (1, 1, I, J, K)
    with torch.inference_mode():
        maps = detector.network(padded)
        detector.generate_anchors(padded, maps)
        assert detector.anchors is not None
        scores = torch.cat([_by_anchor(level, len(organs)) for level in maps["classification"]]).sigmoid()
        coded = torch.cat([_by_anchor(level, len(organs)) for level in maps["box_regression"]])
        boxes = detector.box_coder.decode_single(coded, detector.anchors[0])  # (anchors, 6)
    found = {}
    for place, organ in enumerate(organs):
        best = scores[:, place].topk(min(_MERGED_BOXES, len(scores))).indices
        near = best[box_iou(boxes[best], boxes[best[:1]])[:, 0] >= _MERGED_IOU]
        weight = scores[near, place, None]
        corners = ((boxes[near] * weight).sum(0) / weight.sum()).double().numpy() - 0.5
        walls_ras = np.sort(grid.ras(corners.reshape(2, 3)), axis=0)
        found[organ] = Box(walls_ras[0], walls_ras[1])
    return found


def _by_anchor(result: Tensor, organs: int) -> Tensor:
    """(1, anchors a place x values, i, j, k) to (places x anchors, values), in the order of MONAI's anchors."""
    values = result.shape[1] // organs
    return result.reshape(organs, values, -1).permute(2, 0, 1).reshape(-1, values)


def _to_eighths(image: Tensor) -> list[int]:
    """For F.pad: what makes the edges of (1, I, J, K) multiples of 8, at their ends, as MONAI's detector pads."""
    return [amount for n in image.shape[:0:-1] for amount in (0, -n % 8)]


def coarse_image(scan: Scan) -> tuple[Tensor, Grid]:
    """The scan (1, I, J, K) at 6 mm, the mean of 2x2x2 voxels, and its grid."""
    image = torch.from_numpy(scan.image)[None, None].float() / 255.0
    pooled = F.avg_pool3d(image, 2, ceil_mode=True)[0]
    affine = scan.grid.ras_from_ijk @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = scan.grid.ras([0.5, 0.5, 0.5])
    return pooled, Grid((pooled.shape[1], pooled.shape[2], pooled.shape[3]), affine)


def augment(
    image: Tensor, labels: NDArray[np.uint8], boxes: NDArray[np.float64], generator: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """A scan (1, I, J, K), its labels (1, I, J, K) and boxes (organs, 6), stretched, moved and brightened at random."""
    scale, shift = generator.uniform(0.88, 1.12, 3), generator.uniform(-4.0, 4.0, 3)
    shape = np.array(image.shape[1:])
    # Sampling wants, in units of half an image and axes reversed, where each output comes from.
    theta = torch.zeros(1, 3, 4)
    theta[0, :, :3] = torch.diag(torch.from_numpy(1.0 / scale[::-1].copy()))
    theta[0, :, 3] = torch.from_numpy((-2.0 * shift / shape / scale)[::-1].copy())
    lattice = F.affine_grid(theta, [1, 1, *shape.tolist()], align_corners=False)
    image = F.grid_sample(image[None], lattice, align_corners=False)[0]
    classes = torch.from_numpy(labels)[None, None].float()
    moved = F.grid_sample(classes, lattice, mode="nearest", align_corners=False)[0]
    corners = (boxes.reshape(-1, 2, 3) - 0.5 * shape) * scale + 0.5 * shape + shift
    low, high = np.clip(corners[:, 0], 0, shape - 1.0), np.clip(corners[:, 1], 1.0, shape)
    image = (image * float(generator.uniform(0.9, 1.1))).clamp(0, 1) ** float(np.exp(generator.normal(0, 0.1)))
    return image, moved, torch.from_numpy(np.concatenate([low, high], axis=1)).float()
