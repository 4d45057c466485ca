"""Multi-step localization by many agents: coarse, then fine, by look-ups in a position field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rprloc.geometry import Points
from rprloc.localization.config import DEFAULT, LocalizationConfig
from rprloc.localization.support import SupportTarget
from rprloc.model.field import PositionField
from rprloc.model.robust import robust_affine


@dataclass(frozen=True, eq=False)
class SearchField:
    """What all organs share: the map to the body frame, and the fine latents, ready for look-ups.

    ``windows`` (i, j, k, w, w, w, C): a view of the fine latents (I, J, K, C) that shows every window in the lattice.
    """

    field: PositionField
    windows: NDArray[np.float32]
    config: LocalizationConfig

    @classmethod
    def of(cls, field: PositionField, config: LocalizationConfig = DEFAULT) -> SearchField:
        latents = np.ascontiguousarray(field.fine.latents.permute(1, 2, 3, 0).cpu().numpy())
        edges = [min(2 * config.window_places + 1, n) for n in latents.shape[:3]]
        windows = np.lib.stride_tricks.sliding_window_view(latents, edges, (0, 1, 2))
        return cls(field, np.moveaxis(windows, 3, 6), config)


def step_coarse_and_fine(target: SupportTarget, query: SearchField) -> tuple[Points, Points, NDArray[np.float64]]:
    """The marked points (P, 3) by one support after the coarse step and after the fine ones, and the spread (P,) in mm
    of the agents' votes in the last.

    Every anchor is an agent. The coarse step sends all to where the query has their body coordinates; then each looks
    around for its fine latent, and all vote on where each of them goes.
    """
    coarse_ras = query.field.body.ras(target.latents[:, :3].astype(float))
    anchors_ras, support_ras = torch.from_numpy(coarse_ras).float(), torch.from_numpy(target.anchors_ras).float()
    fine = torch.from_numpy(target.latents[:, 3:])
    for reach_mm, outlier_mm in query.config.fine_steps:
        matched_ras, confidence = match_finely(fine, anchors_ras, query)
        anchors_ras, spread_mm = regularize(support_ras, matched_ras, confidence, reach_mm, outlier_mm, query.config)
    count = target.POINT_COUNT
    return coarse_ras[:count], anchors_ras[:count].double().numpy(), spread_mm[:count].double().numpy()


def match_finely(targets: Tensor, near_ras: Tensor, query: SearchField) -> tuple[Tensor, Tensor]:
    """The places (M, 3) within windows around ``near_ras`` (M, 3) that look most like the target latents (M, 3 + D).

    Likeness is the descriptors' cosine over a temperature, less the squared differences of the fine positions and from
    the window's centre over their variances; the place is the softmax mean. The confidence (M,) is the cosine there.
    """
    grid, windows, config = query.field.fine.grid, query.windows, query.config
    ijk = grid.ijk(near_ras.double().numpy())
    middle, sizes = np.rint(ijk), windows.shape[3:6]
    # At the border the window begins at the lattice's first place or ends at its last, and some of it is out of reach.
    first = (middle - config.window_places).clip(0, np.array(grid.shape) - sizes).astype(int)
    latents = windows[tuple(first.T)].reshape(len(first), -1, windows.shape[6])  # (M, W, C)
    positions, descriptors = np.split(targets.numpy(), [3], axis=1)
    similarity = (latents[..., 3:] @ descriptors[..., None])[..., 0]
    off_mm = latents[..., :3] - positions[:, None]
    score = np.einsum("mwc,mwc->mw", off_mm, off_mm) * np.float32(-0.5 / config.fine_position_mm**2)
    score += similarity / np.float32(config.match_temperature)
    offsets_mm, anything = [], np.ones(len(latents), bool)
    for axis, size in enumerate(sizes):
        index = first[:, axis, None] + np.arange(size)
        known = np.abs(index - middle[:, axis, None]) <= config.window_places
        offsets_mm.append(((index - ijk[:, axis, None]) * grid.spacing_mm[0]).astype(np.float32))
        prior = np.where(known, -0.5 * np.square(offsets_mm[axis] / config.window_prior_mm), -1e9).astype(np.float32)
        score.reshape(-1, *sizes)[:] += prior.reshape(-1, *(size if other == axis else 1 for other in range(3)))
        anything &= known.any(1)
    weight = np.exp(score - score.max(1, keepdims=True))
    # A window wholly outside of the lattice has nothing to offer: its point stays where it is.
    weight *= (anything / weight.sum(1))[:, None].astype(np.float32)
    shares = weight.reshape(-1, *sizes)
    moved_mm = [np.einsum(f"mijk,m{'ijk'[axis]}->m", shares, offsets_mm[axis]) for axis in range(3)]
    confidence = np.einsum("mw,mw->m", similarity, weight).clip(0.0)
    return near_ras + torch.from_numpy(np.stack(moved_mm, 1)), torch.from_numpy(confidence)


def regularize(
    support_ras: Tensor,
    matched_ras: Tensor,
    confidence: Tensor,
    reach_mm: float,
    outlier_mm: float,
    config: LocalizationConfig = DEFAULT,
) -> tuple[Tensor, Tensor]:
    """The anchors (M, 3) in the query, and the spread (M,) in mm of the votes for each.

    Near each anchor, the support's anchors (M, 3) and their matches are fitted by a robust affine map. Matches weigh by
    their confidence (M,), and less with their distance in the support (Gaussian of ``reach_mm``); the residual beyond
    which they lose more is ``outlier_mm``.
    """
    distance_mm = torch.cdist(support_ras, support_ras)
    near = torch.exp(-0.5 * (distance_mm / reach_mm).square()) * (confidence + config.least_confidence)  # (M, M)
    matrix, shift_mm, spread_mm = robust_affine(
        support_ras, matched_ras, near, ridge_mm2=config.ridge_mm2, outlier_mm=outlier_mm, rounds=config.robust_rounds
    )
    return (matrix @ support_ras[..., None])[..., 0] + shift_mm, spread_mm
