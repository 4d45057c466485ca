"""Affine maps that a few wrong pairs do not spoil."""

from __future__ import annotations

import torch
from torch import Tensor


def robust_affine(
    sources: Tensor, places: Tensor, weights: Tensor, *, ridge_mm2: float, outlier_mm: float, rounds: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Affine maps of sources (K, 3) to places (K, 3), one for each row of weights (M, K): matrix (M, 3, 3), shift
    (M, 3), and residuals (M,).

    Weighted least squares with a ridge towards a pure shift; in every round but the first, pairs whose residual exceeds
    ``outlier_mm`` have lost weight (Cauchy weights). The residual is the weighted root mean square, per axis.
    """
    ridge, weight = ridge_mm2 * torch.eye(3).to(sources), weights
    middle_source, middle_place = sources.mean(0), places.mean(0)  # sums of products of what is small lose nothing
    s, x = sources - middle_source, places - middle_place
    s_and_x = torch.cat([s, x], dim=1)
    moments = torch.cat([s_and_x, (s[:, :, None] * s_and_x[:, None]).flatten(1)], dim=1)  # (K, 6 + 3 * 6)
    for _ in range(rounds):
        share = weight / weight.sum(1, keepdim=True)  # (M, K)
        means, products = (share @ moments).split([6, 18], dim=1)
        mean_s, mean_x = means.split(3, dim=1)
        covariances = products.unflatten(1, (3, 6)) - mean_s[:, :, None] * means[:, None]
        turn = torch.linalg.solve(covariances[..., :3] + ridge, covariances[..., 3:] + ridge)  # row vector s @ turn = x
        shift = mean_x - (mean_s[:, None] @ turn)[:, 0]
        squared_mm = torch.zeros_like(share)
        for axis in range(3):
            squared_mm += (x[:, axis] - torch.addmm(shift[:, axis, None], turn[..., axis], s.T)).square_()
        residual_mm = ((share * squared_mm).sum(1) / 3.0).sqrt()
        weight = weights / (1.0 + squared_mm / outlier_mm**2)
    matrix = turn.transpose(1, 2)
    return matrix, shift + middle_place - matrix @ middle_source, residual_mm
