"""The dense match: what a query shows around an organ, on fields whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rprloc.annotation import Annotation
from rprloc.geometry import Grid
from rprloc.localization.confidence import FieldEvidence
from rprloc.localization.dense_match import match_densely
from rprloc.localization.locate import locate
from rprloc.localization.marking import build_support
from rprloc.localization.support import Support, SupportSet
from rprloc.localization.surroundings import CELL_MM, Surroundings, reduce_descriptors
from rprloc.model.field import PositionField
from tests.fields import FINE, SHIFT, TURN, body_mm
from tests.fields import make_field as make_straight_field

POINTS = np.array([[-20.0, 0, 0], [30, 5, 0], [0, -35, 5], [5, 10, 0], [0, 0, -30], [0, 0, 25]])
OTHER = POINTS * 0.8 + [40.0, 20.0, -30.0]


def make_field(matrix: np.ndarray = TURN, shift: np.ndarray = SHIFT, off_mm: float = 0.0) -> PositionField:
    """A field of tests.fields whose map may bend: its controls are 20 mm apart."""
    field = make_straight_field(matrix, shift, off_mm)
    controls = Grid.isotropic((17, 17, 17), 20.0, np.full(3, -160.0))
    body = replace(field.body, displacement_mm=np.zeros((3, 17, 17, 17), np.float32), control_grid=controls)
    return replace(field, body=body)


@pytest.fixture(scope="module")
def support() -> Support:
    """Two organs of a person who is as large as the frame."""
    person = make_field(np.eye(3), np.zeros(3))
    return build_support(person, FINE, Annotation.from_points({"organ": POINTS, "other": OTHER}), "s")


def missed_mm(support: Support, query: PositionField) -> float:
    """How far, on average, the moved map of a query misses the body coordinates of places in the organ."""
    match = match_densely(support, ["organ"], query)["organ"]
    places_ras = np.linalg.solve(TURN, (0.5 * POINTS).T).T + SHIFT
    return float(np.linalg.norm(match.body.body(places_ras) - body_mm(places_ras), axis=1).mean())


@pytest.mark.parametrize("off_mm", [6.0, 9.0, 12.0])
def test_a_map_that_is_off_is_moved_towards_the_truth(support: Support, off_mm: float) -> None:
    off = float(np.linalg.norm([off_mm, off_mm, 0.5 * off_mm]))
    assert missed_mm(support, make_field(off_mm=off_mm)) < 0.6 * off


def test_a_map_that_is_right_stays(support: Support) -> None:
    assert missed_mm(support, make_field()) < 1.0


def test_the_organ_is_seen_where_it_is_and_not_where_the_map_is_wrong(support: Support) -> None:
    voxels = Grid.isotropic((60, 60, 60), 4.0, SHIFT - 118.0)
    seen_mm = []
    for off_mm in (0.0, 8.0):
        share = match_densely(support, ["organ"], make_field(off_mm=off_mm))["organ"].sampled_on(voxels)
        assert share.min() >= 0.0 and 0.7 < share.max() <= 1.0
        seen_mm.append(np.average(voxels.centres_ras().reshape(-1, 3), weights=np.square(share).ravel(), axis=0))
    wrong_by_mm = np.linalg.norm(make_field(off_mm=8.0).body.ras(POINTS[0]) - make_field().body.ras(POINTS[0]))
    assert np.linalg.norm(seen_mm[1] - seen_mm[0]) < 0.6 * wrong_by_mm


def test_an_organ_is_found_in_the_same_place_whichever_others_are_sought(support: Support) -> None:
    query, organs = make_field(off_mm=6.0), SupportSet("m", (support,))
    (alone,) = locate(organs, FieldEvidence.of(query), ["organ"])
    first, second = locate(organs, FieldEvidence.of(query))
    np.testing.assert_allclose(first.points_ras, alone.points_ras, atol=1e-4)
    assert np.abs(second.points_ras - alone.points_ras).max() > 5.0


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_where_the_example_ends_the_map_is_not_pulled_to_one_side(support: Support, axis: int, sign: int) -> None:
    """Of the surroundings one half is known: the map that was right stays so, and one that was wrong gets no worse."""
    around = support.surroundings
    half = sign * (around.cells[:, axis] * CELL_MM - POINTS[:, axis].mean()) > 0.0
    part = Surroundings(around.cells[half], around.descriptors[half], around.basis)
    halved = replace(support, surroundings=part)
    assert missed_mm(halved, make_field()) < 2.5
    assert missed_mm(halved, make_field(off_mm=6.0)) < 9.0


def test_without_surroundings_the_map_stays_as_it_is(support: Support) -> None:
    nothing = replace(support, surroundings=Surroundings.none())
    assert match_densely(nothing, ["organ"], make_field()) == {}
    (found,) = locate(SupportSet("m", (nothing,)), FieldEvidence.of(make_field()), ["organ"])
    truth = np.linalg.solve(TURN, POINTS.T).T + SHIFT
    assert np.linalg.norm(found.points_ras - truth, axis=1).max() < 4.0


def test_a_scan_that_ends_in_the_organ_is_matched_alike_below_its_end(support: Support) -> None:
    whole = make_field(off_mm=6.0)
    end = int(np.ceil(whole.grid.ijk(whole.body.ras(np.zeros(3)))[2])) + 2
    cut = replace(whole, grid=whole.grid.cropped((0, 0, 0), (80, 80, end)), image=whole.image[:, :, :end])
    ours, theirs = (match_densely(support, ["organ"], query)["organ"].body for query in (cut, whole))
    low_ras = whole.body.ras(np.array([[0.0, -10.0, -25.0], [5.0, 0.0, -20.0]]))
    moved_mm = np.linalg.norm(theirs.body(low_ras) - whole.body.body(low_ras), axis=1)
    apart_mm = np.linalg.norm(ours.body(low_ras) - theirs.body(low_ras), axis=1)
    assert moved_mm.min() > 3.0 and apart_mm.max() < 0.5 * moved_mm.min()


def test_descriptors_keep_their_likeness() -> None:
    generator = np.random.default_rng(0)
    descriptors = (generator.normal(size=(500, 12)) @ generator.normal(size=(12, 48))).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    cells = generator.permutation(1000)[:500, None].astype(np.int16) * np.ones(3, np.int16)
    kept = Surroundings.of(cells, descriptors)
    assert kept.basis.shape == (48, 16)
    ours = kept.descriptors / 127.0
    np.testing.assert_allclose(ours @ ours.T, descriptors @ descriptors.T, atol=0.02)
    np.testing.assert_allclose(reduce_descriptors(descriptors, kept.basis), ours, atol=0.01)
    block, known = kept.on(np.zeros(3, int), (10, 10, 10))
    assert known.sum() == (cells < 10).all(1).sum()
    order = np.argsort(cells[:, 0])[: known.sum()]
    np.testing.assert_allclose(block[known], ours[order], atol=1e-6)


def test_surroundings_of_one_scan_are_joined() -> None:
    generator = np.random.default_rng(0)
    descriptors = np.eye(20, dtype=np.float32)[generator.integers(0, 14, 300)]
    cells = np.stack(np.unravel_index(np.arange(300), (10, 6, 5)), 1).astype(np.int16)
    whole = Surroundings.of(cells, descriptors)
    parts = [Surroundings.of(cells[chosen], descriptors[chosen]) for chosen in (slice(0, 200), slice(100, 300))]
    joined = parts[0].joined(parts[1])
    order = np.lexsort(joined.cells.T[::-1])
    np.testing.assert_array_equal(joined.cells[order], whole.cells)
    likeness = [part @ part.T for part in (joined.descriptors[order] / 127.0, whole.descriptors / 127.0)]
    np.testing.assert_allclose(*likeness, atol=0.05)
    assert whole.joined(whole) is whole
    assert whole.joined(Surroundings.none()) is whole and Surroundings.none().joined(whole) is whole
    assert FINE.spacing_mm[0] == CELL_MM
