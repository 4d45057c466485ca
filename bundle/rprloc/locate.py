"""From support latents to the organ in the query scan: multi-step localization over all starts, coarse, then fine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rprloc.detection import Detections, OrganDetection
from rprloc.errors import InputError
from rprloc.field import LatentMap, PositionField, position_field
from rprloc.geometry import Points
from rprloc.network import RPRNet
from rprloc.support import SupportOrgan, SupportSet
from rprloc.volume import Volume

_WALK_MM = (np.inf, 60.0, 30.0, 16.0)
"""Radii of the coarse steps: how near in the body frame the starts must lie whose votes count."""

_WINDOW_PLACES = 4  # the fine search window: places of the fine lattice to either side, 32 mm
_FINE_PRIOR_MM, _FINE_POSITION_MM, _TEMPERATURE = 16.0, 12.0, 0.1
_OWN_WEIGHT_MM = 25.0


@dataclass(frozen=True, eq=False)
class _Query:
    """What all organs share: the starts (all places of the body) and the fine lattice, ready for look-ups."""

    starts_ras: Tensor  # (N, 3)
    starts_latent: Tensor  # (N, 3)
    fine: LatentMap


def detect(model: RPRNet, volume: Volume, support_set: SupportSet, organs: Sequence[str] | None = None) -> Detections:
    """Locate organs of a support set (by default all) in a scan; the model's device does the work.

    Raises InputError if the set belongs to another model or does not hold an organ that is asked for.
    """
    check_support_set(support_set, model.identity(), organs)
    started = time.perf_counter()
    found = locate(support_set, position_field(model, volume), organs)
    seconds = time.perf_counter() - started
    return Detections(volume.name, found, support_set.model_id, support_set.identity, seconds=seconds)


def check_support_set(support_set: SupportSet, model_id: str, organs: Sequence[str] | None) -> None:
    """Raise InputError if the set's latents come from another model, or if it lacks an organ that is asked for."""
    if support_set.model_id != model_id:
        raise InputError(
            f"The support set was built with model {support_set.model_id}, but the model in use is {model_id}; latents "
            "of one model mean nothing to another; build the support set again with this model."
        )
    missing = [name for name in organs or () if name not in support_set.organs]
    if missing:
        raise InputError(
            f"The support set holds no {', '.join(missing)}; it holds {', '.join(support_set.organs)}; name one of "
            "these."
        )


def locate(
    support_set: SupportSet, field: PositionField, organs: Sequence[str] | None = None
) -> tuple[OrganDetection, ...]:
    """Find organs (by default all of the set) by look-ups in the query's position field.

    Every support that has an organ locates it alone; their points are combined by the median in millimetres.
    """
    places_ras, latents = field.coarse.places()
    query = _Query(torch.from_numpy(places_ras).float(), torch.from_numpy(latents), field.fine)
    found = []
    for name in organs or support_set.organs:
        supports = [support for support in support_set.supports if name in support.organs]
        located = [_locate_by_one(support.organs[name], query) for support in supports]
        points_ras = np.median([points for points, _ in located], axis=0)
        spread_mm = np.median([spread for _, spread in located], axis=0)
        scans = tuple(support.scan for support in supports)
        found.append(OrganDetection(name, points_ras, spread_mm, len(places_ras), scans))
    return tuple(found)


def _locate_by_one(organ: SupportOrgan, query: _Query) -> tuple[Points, NDArray[np.float64]]:
    """The six points (6, 3) by one support, and the spread (6,) in mm of the votes of the last coarse step."""
    coarse, fine = torch.from_numpy(organ.latents[:, :3]), torch.from_numpy(organ.latents[:, 3:])
    anchors_ras, spread_mm = coarse_walk(coarse, query.starts_ras, query.starts_latent)
    matched_ras, confidence = fine_match(fine, anchors_ras, query.fine)
    support_ras = torch.from_numpy(organ.anchors_ras).float()
    points = regularized(support_ras, matched_ras, confidence)
    return points.double().numpy(), spread_mm[:6].double().numpy()


def coarse_walk(targets: Tensor, starts_ras: Tensor, starts_latent: Tensor) -> tuple[Tensor, Tensor]:
    """Where the query's field takes the target latents (M, 3): places (M, 3) RAS mm, and the votes' spread (M,) in mm.

    Every start at x with latent p votes x + G (target - p), where G turns offsets of the body frame into the scan's.
    Step by step only starts nearer to the target vote; with Gaussian weights and G fitted to the voting starts, the
    mean vote is the local linear regression of place on latent, evaluated at the target.
    """
    squared_mm = torch.cdist(targets, starts_latent).square()  # (M, N)
    products = starts_latent[:, :, None] * starts_latent[:, None, :]  # (N, 3, 3)
    crossed = starts_latent[:, :, None] * starts_ras[:, None, :]  # (N, 3, 3)
    ridge = 25.0 * torch.eye(3)
    place_ras, spread_mm = torch.zeros(len(targets), 3), torch.zeros(len(targets))
    for radius_mm in _WALK_MM:
        weight = torch.exp(-0.5 * squared_mm / radius_mm**2) + 1e-12
        weight = weight / weight.sum(1, keepdim=True)
        mean_latent, mean_ras = weight @ starts_latent, weight @ starts_ras
        covariance = (weight @ products.flatten(1)).unflatten(1, (3, 3)) - mean_latent[:, :, None] * mean_latent[
            :, None
        ]
        cross = (weight @ crossed.flatten(1)).unflatten(1, (3, 3)) - mean_latent[:, :, None] * mean_ras[:, None]
        turn = torch.linalg.solve(covariance + ridge, cross + ridge)  # latent row vector @ turn = RAS
        place_ras = mean_ras + ((targets - mean_latent)[:, None] @ turn)[:, 0]
        if radius_mm == _WALK_MM[-1]:
            votes = starts_ras[None] + (targets[:, None] - starts_latent[None]) @ turn
            squared = (votes - place_ras[:, None]).square().sum(2) / 3.0
            spread_mm = (weight * squared).sum(1).sqrt()
    return place_ras, spread_mm


def fine_match(targets: Tensor, near_ras: Tensor, fine: LatentMap) -> tuple[Tensor, Tensor]:
    """The places (M, 3) within windows around ``near_ras`` (M, 3) that look most like the target latents (M, 3 + D).

    Likeness is the descriptors' cosine over a temperature, less the squared differences of the fine positions and from
    the window's centre over their variances; the place is the softmax mean. The confidence (M,) is the similarity
    there.
    """
    ijk = torch.from_numpy(fine.grid.ijk(near_ras.double().numpy()))
    reach = torch.arange(-_WINDOW_PLACES, _WINDOW_PLACES + 1)
    window = torch.cartesian_prod(reach, reach, reach)  # (W, 3)
    limits = torch.tensor(fine.grid.shape)
    index = ijk.round().long()[:, None] + window[None]  # (M, W, 3)
    known = ((index >= 0) & (index < limits)).all(2)
    index = index.clamp(min=torch.zeros(3, dtype=torch.long), max=limits - 1)
    flat = (index[..., 0] * limits[1] + index[..., 1]) * limits[2] + index[..., 2]
    found = fine.latents.flatten(1)[:, flat.flatten().to(fine.latents.device)].cpu().T.unflatten(0, flat.shape)
    offsets_mm = (index - ijk[:, None]) * float(fine.grid.spacing_mm[0])
    score = (found[..., 3:] @ targets[:, 3:, None])[..., 0] / _TEMPERATURE
    score = score - 0.5 * (found[..., :3] - targets[:, None, :3]).square().sum(2) / _FINE_POSITION_MM**2
    score = score - 0.5 * offsets_mm.square().sum(2) / _FINE_PRIOR_MM**2
    weight = torch.softmax(score.masked_fill(~known, -torch.inf), dim=1)
    weight = torch.nan_to_num(weight)
    move_mm = (weight[..., None] * offsets_mm).sum(1).float()
    similarity = ((found[..., 3:] @ targets[:, 3:, None])[..., 0] * weight).sum(1).float()
    return near_ras + move_mm, similarity.clamp(min=0.0)


def regularized(support_ras: Tensor, matched_ras: Tensor, confidence: Tensor) -> Tensor:
    """The six extreme points (6, 3) from the matches (M, 3) of all anchors (M, 3): a robust affine near each point."""
    points = []
    for point in range(6):
        distance = (support_ras - support_ras[point]).square().sum(1)
        near = torch.exp(-0.5 * distance / _OWN_WEIGHT_MM**2) * (confidence + 0.05)
        weight = near
        place = matched_ras[point]
        for _ in range(4):
            total = weight.sum()
            mean_s, mean_m = weight @ support_ras / total, weight @ matched_ras / total
            s, m = support_ras - mean_s, matched_ras - mean_m
            ridge = 100.0 * torch.eye(3)
            turn = torch.linalg.solve(
                s.T @ (weight[:, None] * s) / total + ridge, s.T @ (weight[:, None] * m) / total + ridge
            )
            residual = (mean_m + s @ turn - matched_ras).norm(dim=1)
            weight = near / (1.0 + (residual / 8.0) ** 2)
            place = mean_m + (support_ras[point] - mean_s) @ turn
        points.append(place)
    return torch.stack(points)
