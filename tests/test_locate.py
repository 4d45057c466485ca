"""Localization on fields whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rprloc.geometry import Grid
from rprloc.localization.locate import locate
from rprloc.localization.marking import build_support, calibrated
from rprloc.localization.matching import SearchField, fine_match, regularized
from rprloc.localization.support import SupportSet
from rprloc.model.body import BodyAtlas, BodyMap
from rprloc.model.dense import LatentMap
from rprloc.model.field import PositionField

TURN = np.array([[1.1, 0.05, 0.0], [-0.04, 0.9, 0.02], [0.01, 0.0, 1.05]])
SHIFT = np.array([5.0, 9.0, -80.0])
INPUT = Grid.isotropic((80, 80, 80), 4.0, [-158.0, -158.0, -158.0])
NO_ATLAS = BodyAtlas(torch.zeros(2, 1, 1, 1), torch.zeros(3))
FINE = Grid.isotropic((40, 40, 40), 8.0, [-156.0, -156.0, -156.0])


def body_mm(points_ras: np.ndarray) -> np.ndarray:
    """The body frame of a person who is larger than the frame and turned a little."""
    return (points_ras - SHIFT) @ TURN.T


def texture(points_mm: np.ndarray) -> np.ndarray:
    """Unit descriptors (..., 16) that change from place to place of the body frame, on a scale of about 25 mm."""
    waves = np.random.default_rng(0).normal(0, 1 / 25.0, (3, 16))
    found = np.sin(points_mm @ waves + np.random.default_rng(1).uniform(0, 2 * np.pi, 16))
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def field(matrix: np.ndarray = TURN, shift: np.ndarray = SHIFT, off_mm: float = 0.0) -> PositionField:
    """The position field of a person whose body coordinates are matrix (x - shift); the coarse ones are off."""
    to_body = BodyMap.affine(matrix, -matrix @ shift)
    body = to_body.body(FINE.centres_ras())
    latents = np.moveaxis(np.concatenate([body, texture(body)], axis=-1), -1, 0)
    fine = LatentMap(torch.from_numpy(latents.copy()).float(), FINE, torch.ones(FINE.shape) > 0)
    seen = BodyMap.affine(matrix, -matrix @ shift + [off_mm, -off_mm, 0.5 * off_mm])
    return PositionField(seen, fine, torch.zeros(INPUT.shape), INPUT, NO_ATLAS, INPUT.bounds)


@pytest.fixture
def truth_ras() -> np.ndarray:
    return np.random.default_rng(1).uniform(-90, 90, (12, 3))


def test_fine_match_corrects_a_place_that_is_off(truth_ras: np.ndarray) -> None:
    query = SearchField.of(field())
    body = body_mm(truth_ras)
    wanted = torch.from_numpy(np.concatenate([body, texture(body)], axis=1)).float()
    near = torch.from_numpy(truth_ras).float() + torch.tensor([9.0, -7.0, 6.0])
    before_mm = np.linalg.norm([9.0, -7.0, 6.0])
    found, _ = fine_match(wanted, near, query)
    assert np.linalg.norm(found.numpy() - truth_ras, axis=1).max() < before_mm
    for _ in range(8):  # every step comes nearer
        found, confidence = fine_match(wanted, found, query)
    assert np.linalg.norm(found.numpy() - truth_ras, axis=1).max() < 0.5 * before_mm
    assert float(confidence.min()) > 0.8


def test_fine_match_leaves_a_point_beyond_the_lattice_where_it_is() -> None:
    far = torch.tensor([[900.0, 0.0, 0.0]])
    found, confidence = fine_match(torch.ones(1, 19), far, SearchField.of(field()))
    assert torch.equal(found, far)
    assert float(confidence[0]) == 0.0


def test_regularized_points_ignore_a_few_wild_matches() -> None:
    generator = np.random.default_rng(0)
    support = torch.from_numpy(generator.uniform(-30, 30, (100, 3))).float()
    matched = support @ torch.from_numpy(TURN).float().T + torch.tensor([10.0, -4.0, 300.0])
    wild = matched.clone()
    wild[::9] += 60.0
    points, spread_mm = regularized(support, wild, torch.ones(100), 40.0, 8.0)
    assert float((points - matched).norm(dim=1).max()) < 2.0
    _, calm_mm = regularized(support, matched, torch.ones(100), 40.0, 8.0)
    assert float(calm_mm.mean()) < 1.0 < float(spread_mm.mean())


@pytest.mark.parametrize("off_mm", [0.0, 6.0])
def test_an_organ_is_found_in_another_person_by_one_and_by_several_supports(off_mm: float) -> None:
    lower, upper = np.array([-20.0, -35.0, -30.0]), np.array([30.0, 10.0, 25.0])
    middle = (lower + upper) / 2
    points = np.array([np.where(np.arange(3) == w // 2, (lower, upper)[w % 2], middle) for w in range(6)])
    support_field = field(np.eye(3), np.zeros(3))
    supports = [build_support(support_field, FINE, {"organ": points}, scan=name, source="label map") for name in "abc"]
    truth = np.linalg.solve(TURN, points.T).T + SHIFT
    registered_mm = float(np.linalg.norm([off_mm, off_mm, 0.5 * off_mm]))
    for shots in (1, 3):
        (found,) = locate(SupportSet("m", tuple(supports[:shots])), field(off_mm=off_mm))
        assert found.organ == "organ"
        assert found.supports == tuple("abc"[:shots])
        assert np.linalg.norm(found.points_ras - truth, axis=1).max() < max(4.0, 0.6 * registered_mm)
        assert found.starts == shots * len(supports[0].organs["organ"].anchors_ras)


@pytest.mark.parametrize("off_mm", [0.0, 0.7])
def test_support_equal_to_query_gives_its_points_back(off_mm: float) -> None:
    # On the planes between voxels, too.
    points = np.array([[-20.0, 0, 0], [30, 5, 0], [0, -35, 5], [5, 10, 0], [0, 0, -30], [0, 0, 25]]) + off_mm
    same = field(off_mm=3.0)
    support = build_support(same, FINE, {"organ": points}, scan="s", source="extreme points")
    (found,) = locate(SupportSet("m", (calibrated(support, same),)), same)
    np.testing.assert_allclose(found.points_ras, support.organs["organ"].points_ras, atol=1e-3)
