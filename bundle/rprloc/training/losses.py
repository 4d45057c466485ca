"""Batches and losses of the coarse and the fine Pnet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rprloc.geometry import Points
from rprloc.model.body import BodyMap
from rprloc.model.network import MM_PER_UNIT, ChannelNorm, Pnet, mixed_precision
from rprloc.training.config import TrainingConfig
from rprloc.training.sampling import Crop, TrainingScan, choose_scan, random_crop, random_place

_DESCRIPTOR_TEMPERATURE = 0.07
_FINE_POSITION_WEIGHT = 100.0
"""Makes an error of 10 mm weigh as much as half a nat of doubt about the descriptor's match."""

# Descriptors are learned within single scans: docs/experiments.md, E14.
_MATCH_MM = 4.0
"""Standard deviation of the target distribution over the other crop's places: half of the distance between them."""

_APART_MM = 6.0  # standard deviation, along each axis, of the shift between two such crops


@dataclass(frozen=True, eq=False)
class Batch:
    """Crops, and the body coordinates (i, j, k, 3) in mm of their outputs.

    For the fine Pnet every two crops that follow each other show the same part of one scan.
    """

    crops: tuple[Crop, ...]
    body_mm: tuple[Points, ...]


Draw = Callable[[np.random.Generator], Batch]

Loss = Callable[[Pnet, Batch], tuple[Tensor, Tensor]]
"""From a batch to the loss, and to the mean absolute errors (3,) in body mm: right, front, head."""


def _position_loss(error_mm: Tensor) -> Tensor:
    """The mean squared error in units of the networks' head, growing only linearly beyond 100 mm.

    A loss that is linear from 10 mm on did not learn to tell one height of the body from another.
    """
    return F.smooth_l1_loss(error_mm / MM_PER_UNIT, torch.zeros_like(error_mm))


def forward_batch(net: Pnet, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Latents (N, i, j, k, C) of a batch, float32, and for every crop the errors (M, 3) in mm of its body places."""
    device = next(net.parameters()).device
    images = torch.stack([crop.image for crop in batch.crops]).to(device, memory_format=torch.channels_last_3d)
    with mixed_precision(device):
        features = net.trunk(images)
    latents = net.heads(features.float()).permute(0, 2, 3, 4, 1)
    errors_mm = latents[..., :3] - torch.from_numpy(np.stack(batch.body_mm)).to(latents)
    return latents, [errors_mm[n][crop.inside.to(device)] for n, crop in enumerate(batch.crops)]


@torch.no_grad()
def standardize(net: Pnet, crops: Sequence[Crop]) -> None:
    """Start every channel with mean 0 and standard deviation 1 over the places of some crops, as batch norm would.

    Channel norm alone leaves the channels of a fresh network nearly the same at all places, and learning slow to begin.
    """
    features = torch.stack([crop.image for crop in crops]).to(next(net.parameters()).device)
    for layer in net.trunk:
        features = layer(features)
        if isinstance(layer, ChannelNorm):
            centre = [slice(n // 4, n - n // 4) for n in features.shape[2:]]
            values = features[:, :, centre[0], centre[1], centre[2]].transpose(0, 1).flatten(1)  # (C, places)
            deviation, mean = values.std(1).clamp(min=0.02), values.mean(1)
            layer.norm.weight.div_(deviation)
            layer.norm.bias.copy_(-mean / deviation)
            features = (features - mean.view(-1, 1, 1, 1)) / deviation.view(-1, 1, 1, 1)


def coarse_draw(scans: Sequence[TrainingScan], maps: Sequence[BodyMap], net: Pnet, config: TrainingConfig) -> Draw:
    def draw(generator: np.random.Generator) -> Batch:
        chosen = tuple(choose_scan(scans, generator, config.group_power) for _ in range(config.crops_a_step))
        crops = tuple(
            random_crop(
                scans[n],
                random_place(scans[n], generator),
                config.coarse_outputs,
                net,
                generator,
                recoloured=config.across,
            )
            for n in chosen
        )
        return Batch(crops, tuple(maps[n].body(c.source_ras) for n, c in zip(chosen, crops, strict=True)))

    return draw


def coarse_loss(net: Pnet, batch: Batch) -> tuple[Tensor, Tensor]:
    error_mm = torch.cat(forward_batch(net, batch)[1])
    return _position_loss(error_mm), error_mm.abs().mean(dim=0)


def fine_draw(scans: Sequence[TrainingScan], maps: Sequence[BodyMap], net: Pnet, config: TrainingConfig) -> Draw:
    def draw(generator: np.random.Generator) -> Batch:
        crops: list[Crop] = []
        body_mm: list[Points] = []
        for _ in range(config.crops_a_step // 2):
            index = choose_scan(scans, generator, config.group_power)
            place_ras = random_place(scans[index], generator)
            for _ in range(2):
                crop = random_crop(
                    scans[index], place_ras, config.fine_outputs, net, generator, recoloured=config.across
                )
                crops.append(crop)
                body_mm.append(maps[index].body(crop.source_ras))
                place_ras = place_ras + generator.normal(0.0, _APART_MM, 3)
        return Batch(tuple(crops), tuple(body_mm))

    return draw


def fine_loss(net: Pnet, batch: Batch) -> tuple[Tensor, Tensor]:
    """Offsets between the places of two neighbouring crops, and the match of their descriptors.

    Only offsets count, as in the paper's fine network: what all places of a pair of crops have in common is taken away.
    """
    latents, errors_mm = forward_batch(net, batch)
    offsets_mm, matching = [], latents.new_zeros(())
    pairs = range(0, len(batch.crops), 2)
    for a in pairs:
        b = a + 1
        both = torch.cat([errors_mm[a], errors_mm[b]])
        offsets_mm.append(both - both.mean(dim=0))
        places = [batch.crops[n].source_ras for n in (a, b)]
        inside = [batch.crops[n].inside.to(latents.device) for n in (a, b)]
        matching = matching + _descriptor_loss(
            latents[a][inside[0]][:, 3:],
            latents[b][inside[1]][:, 3:],
            torch.from_numpy(places[0]).to(latents)[inside[0]],
            torch.from_numpy(places[1]).to(latents)[inside[1]],
        )
    error_mm = torch.cat(offsets_mm)
    loss = _FINE_POSITION_WEIGHT * _position_loss(error_mm) + matching / len(pairs)
    return loss, error_mm.abs().mean(dim=0)


def _descriptor_loss(descriptors_a: Tensor, descriptors_b: Tensor, places_a: Tensor, places_b: Tensor) -> Tensor:
    """Cross-entropy of matching places a (N, 3) to places b (M, 3) by their descriptors (N, D), (M, D).

    The target of a place is a Gaussian over the distances to b's places; places without a counterpart take no part.
    """
    if len(places_a) == 0 or len(places_b) == 0:
        return descriptors_a.sum() * 0.0
    distance_mm = torch.cdist(places_a, places_b)
    matched = distance_mm.amin(dim=1) < _MATCH_MM
    if not matched.any():
        return descriptors_a.sum() * 0.0
    target = torch.softmax(-distance_mm[matched].square() / (2.0 * _MATCH_MM**2), dim=1)
    return F.cross_entropy(descriptors_a[matched] @ descriptors_b.T / _DESCRIPTOR_TEMPERATURE, target)
