"""Localization on fields whose truth is known, and on real CT with the shipped weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rprloc.field import LatentMap
from rprloc.geometry import Grid
from rprloc.locate import coarse_walk, fine_match, regularized

TURN = np.array([[1.1, 0.05, 0.0], [-0.04, 0.9, 0.02], [0.01, 0.0, 1.05]])


@pytest.fixture
def starts() -> tuple[torch.Tensor, torch.Tensor]:
    """Starts of a body 10% larger than the frame's and turned a little: places, and their latents."""
    places = np.random.default_rng(0).uniform(-150, 150, (3000, 3))
    return torch.from_numpy(places).float(), torch.from_numpy((places - [5.0, 9.0, -80.0]) @ TURN.T).float()


def test_coarse_walk_is_exact_in_an_affine_field(starts: tuple[torch.Tensor, torch.Tensor]) -> None:
    truth = torch.from_numpy(np.random.default_rng(1).uniform(-80, 80, (10, 3))).float()
    targets = (truth - torch.tensor([5.0, 9.0, -80.0])) @ torch.from_numpy(TURN).float().T
    places, spread = coarse_walk(targets, *starts)
    assert float((places - truth).norm(dim=1).max()) < 1.0
    assert float(spread.max()) < 1.0


def test_spread_tells_a_noisy_field_from_a_clean_one(starts: tuple[torch.Tensor, torch.Tensor]) -> None:
    places, latents = starts
    noisy = latents + 8.0 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    target = latents[:1]
    found, spread = coarse_walk(target, places, noisy)
    assert 2.0 < float(spread[0]) < 12.0
    assert float((found[0] - places[0]).norm()) < 5.0


def test_fine_match_finds_the_place_that_looks_like_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = Grid.isotropic((16, 16, 16), 8.0, [-60.0, -60.0, -60.0])
    position = torch.from_numpy(np.moveaxis(grid.centres_ras(), -1, 0)).float()
    descriptor = torch.nn.functional.normalize(torch.randn(32, 16, 16, 16, generator=generator), dim=0)
    latents = torch.cat([position, descriptor])
    fine = LatentMap(latents, grid, torch.ones(16, 16, 16, dtype=torch.bool))
    truth = torch.from_numpy(grid.ras([[8, 8, 8], [0, 15, 7]])).float()
    targets = torch.stack([latents[:, 8, 8, 8], latents[:, 0, 15, 7]])
    near = truth + torch.tensor([[9.0, -7.0, 6.0], [3.0, -5.0, 8.0]])
    found, confidence = fine_match(targets, near, fine)
    assert float((found - truth).norm(dim=1).max()) < 1.5
    assert float(confidence.min()) > 0.9


def test_regularized_points_ignore_a_few_wild_matches() -> None:
    generator = np.random.default_rng(0)
    support = torch.from_numpy(generator.uniform(-30, 30, (100, 3))).float()
    matched = support @ torch.from_numpy(TURN).float().T + torch.tensor([10.0, -4.0, 300.0])
    wild = matched.clone()
    wild[::9] += 60.0
    points = regularized(support, wild, torch.ones(100))
    assert float((points - matched[:6]).norm(dim=1).max()) < 2.0
