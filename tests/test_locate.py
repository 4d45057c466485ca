"""Localization on fields whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rprloc.annotation import Annotation
from rprloc.localization.confidence import FieldEvidence
from rprloc.localization.config import DEFAULT
from rprloc.localization.locate import combine, locate
from rprloc.localization.marking import build_support
from rprloc.localization.matching import SearchField, match_finely, regularize
from rprloc.localization.one_shot import with_self_error
from rprloc.localization.support import SupportSet
from tests.fields import FINE, SHIFT, TURN, body_mm, make_field, texture


@pytest.fixture
def truth_ras() -> np.ndarray:
    return np.random.default_rng(1).uniform(-90, 90, (12, 3))


def test_fine_match_corrects_a_place_that_is_off(truth_ras: np.ndarray) -> None:
    query = SearchField.of(make_field())
    body = body_mm(truth_ras)
    wanted = torch.from_numpy(np.concatenate([body, texture(body)], axis=1)).float()
    near = torch.from_numpy(truth_ras).float() + torch.tensor([9.0, -7.0, 6.0])
    before_mm = np.linalg.norm([9.0, -7.0, 6.0])
    found, _ = match_finely(wanted, near, query)
    assert np.linalg.norm(found.numpy() - truth_ras, axis=1).max() < before_mm
    for _ in range(8):  # every step comes nearer
        found, confidence = match_finely(wanted, found, query)
    assert np.linalg.norm(found.numpy() - truth_ras, axis=1).max() < 0.5 * before_mm
    assert float(confidence.min()) > 0.8


def test_fine_match_leaves_a_point_beyond_the_lattice_where_it_is() -> None:
    far = torch.tensor([[900.0, 0.0, 0.0]])
    found, confidence = match_finely(torch.ones(1, 19), far, SearchField.of(make_field()))
    assert torch.equal(found, far)
    assert float(confidence[0]) == 0.0


def test_regularized_points_ignore_a_few_wild_matches() -> None:
    generator = np.random.default_rng(0)
    support = torch.from_numpy(generator.uniform(-30, 30, (100, 3))).float()
    matched = support @ torch.from_numpy(TURN).float().T + torch.tensor([10.0, -4.0, 300.0])
    wild = matched.clone()
    wild[::9] += 60.0
    points, spread_mm = regularize(support, wild, torch.ones(100), 40.0, 8.0)
    assert float((points - matched).norm(dim=1).max()) < 2.0
    _, calm_mm = regularize(support, matched, torch.ones(100), 40.0, 8.0)
    assert float(calm_mm.mean()) < 1.0 < float(spread_mm.mean())


@pytest.mark.parametrize("off_mm", [0.0, 6.0])
def test_an_organ_is_found_in_another_person_by_one_and_by_several_supports(off_mm: float) -> None:
    lower, upper = np.array([-20.0, -35.0, -30.0]), np.array([30.0, 10.0, 25.0])
    middle = (lower + upper) / 2
    points = np.array([np.where(np.arange(3) == w // 2, (lower, upper)[w % 2], middle) for w in range(6)])
    support_field = make_field(np.eye(3), np.zeros(3))
    supports = [build_support(support_field, FINE, Annotation.from_points({"organ": points}), name) for name in "abc"]
    truth = np.linalg.solve(TURN, points.T).T + SHIFT
    registered_mm = float(np.linalg.norm([off_mm, off_mm, 0.5 * off_mm]))
    for shots in (1, 3):
        (found,) = locate(SupportSet("m", tuple(supports[:shots])), FieldEvidence.of(make_field(off_mm=off_mm)))
        assert found.organ == "organ"
        assert found.supports == tuple("abc"[:shots])
        assert np.linalg.norm(found.points_ras - truth, axis=1).max() < max(4.0, 0.6 * registered_mm)
        assert found.starts == shots * len(supports[0].organs["organ"].anchors_ras)


@pytest.mark.parametrize("off_mm", [0.0, 0.7])
def test_support_equal_to_query_gives_its_points_back(off_mm: float) -> None:
    # On the planes between voxels, too.
    points = np.array([[-20.0, 0, 0], [30, 5, 0], [0, -35, 5], [5, 10, 0], [0, 0, -30], [0, 0, 25]]) + off_mm
    same = make_field(off_mm=3.0)
    support = build_support(same, FINE, Annotation.from_points({"organ": points}), "s")
    support = with_self_error(support, SearchField.of(same))
    assert np.abs(support.organs["organ"].self_error_mm).max() < 5.0
    (found,) = locate(SupportSet("m", (support,)), FieldEvidence.of(same))
    np.testing.assert_allclose(found.points_ras, support.organs["organ"].points_ras, atol=1e-3)


def test_supports_are_weighed_by_how_much_their_votes_agree() -> None:
    apart = np.stack([np.zeros((6, 3)), np.full((6, 3), 6.0)])
    alike, sure = np.full((2, 6), 2.0), np.array([np.full(6, 1.0), np.full(6, 5.0)])
    np.testing.assert_allclose(combine(apart, alike, DEFAULT), 3.0)
    assert combine(apart, sure, DEFAULT).max() < 0.6
    np.testing.assert_allclose(combine(apart[1:], sure[1:], DEFAULT), apart[1])


@pytest.mark.parametrize("supports", [3, 5])
def test_a_support_that_is_far_off_hardly_moves_the_box(supports: int) -> None:
    points = np.random.default_rng(0).normal(0.0, 2.0, (supports, 6, 3))
    spread = np.full((supports, 6), 3.0)
    wild = points.copy()
    wild[0] += 150.0
    assert np.abs(combine(wild, spread, DEFAULT) - combine(points, spread, DEFAULT)).max() < 6.0


def test_two_supports_of_one_name_both_count() -> None:
    person = make_field(np.eye(3), np.zeros(3))
    points = np.array([[-20.0, 0, 0], [30, 5, 0], [0, -35, 5], [5, 10, 0], [0, 0, -30], [0, 0, 25]])
    supports = [
        build_support(person, FINE, Annotation.from_points({name: points + off}), "s")
        for name, off in (("organ", 0.0), ("organ", 8.0), ("other", 0.0))
    ]
    first, second, both = (
        locate(SupportSet("m", chosen), FieldEvidence.of(make_field()))[0].points_ras
        for chosen in (tuple(supports[:1]), tuple(supports[1:2]), tuple(supports))
    )
    assert (np.abs(both - first).max(0) > 1.0).all() and (np.abs(both - second).max(0) > 1.0).all()
    assert [organ.organ for organ in locate(SupportSet("m", tuple(supports)), FieldEvidence.of(make_field()))] == [
        "organ",
        "other",
    ]
