"""Localization on fields whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rprloc.field import LatentMap, PositionField
from rprloc.geometry import Grid
from rprloc.locate import _Query, calibrated, coarse_vote, fine_match, locate, regularized
from rprloc.support import SupportSet, build_support

TURN = np.array([[1.1, 0.05, 0.0], [-0.04, 0.9, 0.02], [0.01, 0.0, 1.05]])
SHIFT = np.array([5.0, 9.0, -80.0])
COARSE = Grid.isotropic((20, 20, 20), 16.0, [-152.0, -152.0, -152.0])
FINE = Grid.isotropic((40, 40, 40), 8.0, [-156.0, -156.0, -156.0])


def body_mm(points_ras: np.ndarray) -> np.ndarray:
    """The body frame of a person who is larger than the frame and turned a little."""
    return (points_ras - SHIFT) @ TURN.T


def texture(points_mm: np.ndarray) -> np.ndarray:
    """Unit descriptors (..., 16) that change from place to place of the body frame, on a scale of about 25 mm."""
    waves = np.random.default_rng(0).normal(0, 1 / 25.0, (3, 16))
    found = np.sin(points_mm @ waves + np.random.default_rng(1).uniform(0, 2 * np.pi, 16))
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def field(to_body, noise_mm: float = 0.0) -> PositionField:
    """A position field whose latents are body coordinates, with noise on the coarse ones."""
    maps = []
    for grid, described in ((COARSE, False), (FINE, True)):
        body = to_body(grid.centres_ras())
        latents = np.concatenate([body, texture(body)], axis=-1) if described else body
        maps.append(LatentMap(torch.from_numpy(np.moveaxis(latents, -1, 0)).float(), grid, torch.ones(grid.shape) > 0))
    noise = noise_mm * torch.randn(maps[0].latents.shape, generator=torch.Generator().manual_seed(0))
    return PositionField(LatentMap(maps[0].latents + noise, COARSE, maps[0].inside), maps[1])


def targets(truth_ras: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(body_mm(truth_ras)).float()


@pytest.fixture
def truth_ras() -> np.ndarray:
    return np.random.default_rng(1).uniform(-90, 90, (12, 3))


def test_coarse_vote_is_exact_in_an_affine_field(truth_ras: np.ndarray) -> None:
    places, spread = coarse_vote(targets(truth_ras), _Query.of(field(body_mm)))
    assert np.linalg.norm(places.numpy() - truth_ras, axis=1).max() < 1.5
    assert float(spread.max()) < 1.0


def test_spread_tells_a_noisy_field_from_a_clean_one(truth_ras: np.ndarray) -> None:
    places, spread = coarse_vote(targets(truth_ras), _Query.of(field(body_mm, noise_mm=6.0)))
    assert np.linalg.norm(places.numpy() - truth_ras, axis=1).mean() < 5.0
    assert 2.0 < float(spread.mean()) < 10.0


def test_fewer_starts_than_votes_are_enough() -> None:
    small = Grid.isotropic((4, 4, 4), 16.0, [-24.0, -24.0, -24.0])
    latents = torch.from_numpy(np.moveaxis(body_mm(small.centres_ras()), -1, 0)).float()
    tiny = PositionField(LatentMap(latents, small, torch.ones(small.shape) > 0), field(body_mm).fine)
    places, _ = coarse_vote(targets(np.array([[3.0, -5.0, 8.0]])), _Query.of(tiny))
    np.testing.assert_allclose(places.numpy(), [[3.0, -5.0, 8.0]], atol=1.5)


def test_fine_match_corrects_a_place_that_is_off(truth_ras: np.ndarray) -> None:
    query = _Query.of(field(body_mm))
    body = body_mm(truth_ras)
    wanted = torch.from_numpy(np.concatenate([body, texture(body)], axis=1)).float()
    near = torch.from_numpy(truth_ras).float() + torch.tensor([9.0, -7.0, 6.0])
    found, confidence = fine_match(wanted, near, query)
    error_mm = np.linalg.norm(found.numpy() - truth_ras, axis=1)
    assert error_mm.max() < 0.5 * np.linalg.norm([9.0, -7.0, 6.0])
    assert float(confidence.min()) > 0.8


def test_fine_match_leaves_a_point_beyond_the_lattice_where_it_is() -> None:
    far = torch.tensor([[900.0, 0.0, 0.0]])
    found, confidence = fine_match(torch.ones(1, 19), far, _Query.of(field(body_mm)))
    assert torch.equal(found, far)
    assert float(confidence[0]) == 0.0


def test_regularized_points_ignore_a_few_wild_matches() -> None:
    generator = np.random.default_rng(0)
    support = torch.from_numpy(generator.uniform(-30, 30, (100, 3))).float()
    matched = support @ torch.from_numpy(TURN).float().T + torch.tensor([10.0, -4.0, 300.0])
    wild = matched.clone()
    wild[::9] += 60.0
    points = regularized(support, wild, torch.ones(100), 40.0, 8.0)
    assert float((points - matched).norm(dim=1).max()) < 2.0


def test_an_organ_is_found_in_another_person_by_one_and_by_several_supports() -> None:
    lower, upper = np.array([-20.0, -35.0, -30.0]), np.array([30.0, 10.0, 25.0])
    middle = (lower + upper) / 2
    points = np.array([np.where(np.arange(3) == w // 2, (lower, upper)[w % 2], middle) for w in range(6)])
    support_field = field(lambda points_ras: points_ras)
    supports = [build_support(support_field, FINE, {"organ": points}, scan=name, source="label map") for name in "abc"]
    truth = np.linalg.solve(TURN, points.T).T + SHIFT
    for shots in (1, 3):
        (found,) = locate(SupportSet("m", tuple(supports[:shots])), field(body_mm, noise_mm=1.0))
        assert found.organ == "organ"
        assert found.supports == tuple("abc"[:shots])
        assert np.linalg.norm(found.points_ras - truth, axis=1).max() < 4.0


def test_support_equal_to_query_gives_its_points_back() -> None:
    points = np.array([[-20.0, 0, 0], [30, 5, 0], [0, -35, 5], [5, 10, 0], [0, 0, -30], [0, 0, 25]])
    same = field(body_mm, noise_mm=3.0)
    support = build_support(same, FINE, {"organ": points}, scan="s", source="extreme points")
    (found,) = locate(SupportSet("m", (calibrated(support, same),)), same)
    np.testing.assert_allclose(found.points_ras, support.organs["organ"].points_ras, atol=1e-3)
