"""Organs found by their own voxels, in fields whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rprloc.annotation import Mask
from rprloc.geometry import Box, Grid, Points, extreme_points_of_mask
from rprloc.localization.appearance import judge_walls, learn_appearance, refine_points
from rprloc.model.body import BodyMap
from rprloc.model.dense import LatentMap
from rprloc.model.field import PositionField
from tests.fields import FINE, INPUT, SHIFT, TURN, make_field

CENTRE, RADII = np.array([6.0, -10.0, 4.0]), np.array([44.0, 36.0, 52.0])
BRIGHT, DARK = 0.6, 0.4


def scan(to_body: BodyMap, organ_body: tuple[np.ndarray, np.ndarray], off_mm: float = 0.0) -> PositionField:
    """A person in whose body frame a bright ellipsoid (centre, radii) lies in a dark body; the map may be off."""
    body_mm = to_body.body(INPUT.centres_ras())
    inside = np.square((body_mm - organ_body[0]) / organ_body[1]).sum(-1) < 1.0
    grey = torch.from_numpy(np.where(inside, BRIGHT, DARK)).float()
    seen = BodyMap(to_body.body_from_ras.copy(), to_body.displacement_mm, to_body.control_grid)
    seen.body_from_ras[:3, 3] += off_mm
    plain = make_field()
    return replace(plain, body=seen, image=grey)


IDENTITY = BodyMap.affine(np.eye(3), np.zeros(3))


def marked() -> tuple[PositionField, Points, Mask]:
    """The support: its field, the extreme points of the organ, and its mask at 2 mm."""
    grid = Grid.isotropic((90, 90, 90), 2.0, [-89.0, -89.0, -89.0])
    mask = np.square((grid.centres_ras() - CENTRE) / RADII).sum(-1) < 1.0
    return scan(IDENTITY, (CENTRE, RADII)), extreme_points_of_mask(mask, grid), Mask(mask, grid)


@pytest.mark.parametrize("with_mask", [True, False], ids=["mask", "six points"])
def test_a_place_that_registration_misses_is_put_right(with_mask: bool) -> None:
    field, points, mask = marked()
    appearance = learn_appearance(field, points, mask if with_mask else None)
    assert (appearance.wall_weight > 0.5).all()
    to_body = BodyMap.affine(TURN, -TURN @ SHIFT)
    for off_mm in (0.0, 12.0, -12.0):
        query = scan(to_body, (CENTRE, RADII), off_mm)
        truth_mm = Box.from_extreme_points(to_body.ras(points)).walls_mm
        registered = query.body.ras(points)
        before = np.abs(Box.from_extreme_points(registered).walls_mm - truth_mm).mean()
        found = Box.from_extreme_points(refine_points(appearance, query, registered, np.zeros(3)))
        after = np.abs(found.walls_mm - truth_mm).mean()
        assert after < max(0.6 * before, 3.0), (off_mm, before, after)


def test_a_larger_organ_gets_a_larger_box() -> None:
    field, points, mask = marked()
    appearance = learn_appearance(field, points, mask)
    larger = scan(IDENTITY, (CENTRE, 1.25 * RADII))
    box = Box.from_extreme_points(refine_points(appearance, larger, points, np.zeros(3)))
    assert (box.size_mm > 1.05 * 2.0 * RADII).all() and (box.size_mm < 1.3 * 2.0 * RADII).all()


def test_an_organ_that_looks_like_its_surroundings_is_left_to_registration() -> None:
    field, points, mask = marked()
    fine = LatentMap(torch.ones_like(field.fine.latents), FINE, field.fine.inside)
    appearance = learn_appearance(replace(field, fine=fine, image=torch.full(INPUT.shape, DARK)), points, mask)
    for off_mm in (0.0, 12.0):
        query = replace(scan(IDENTITY, (CENTRE, RADII), off_mm), fine=fine, image=torch.full(INPUT.shape, DARK))
        registered = query.body.ras(points)
        np.testing.assert_allclose(refine_points(appearance, query, registered, np.zeros(3)), registered, atol=2.0)


def test_the_part_that_reaches_furthest_may_be_another_one() -> None:
    """A turned person: another part of the outline is the leftmost one, which six points alone would not tell."""
    field, points, mask = marked()
    grid = mask.grid
    known = (np.abs(grid.centres_ras() - CENTRE) < RADII).all(-1)  # a block: turned, its edges reach furthest
    points = extreme_points_of_mask(known, grid)
    plain = field.image.mul(0.0).add(DARK)  # nothing to see: the outline alone tells
    support = replace(field, image=plain)
    turn = np.array([[np.cos(0.5), -np.sin(0.5), 0.0], [np.sin(0.5), np.cos(0.5), 0.0], [0.0, 0.0, 1.0]])
    query = replace(field, body=BodyMap.affine(turn, np.zeros(3)), image=plain)
    turned_ras = grid.ras(np.argwhere(known)) @ turn
    truth = Box(turned_ras.min(0) - 1.0, turned_ras.max(0) + 1.0)

    def missed_mm(mask: Mask | None) -> float:
        appearance = replace(learn_appearance(support, points, mask), wall_weight=np.zeros(6))
        found = refine_points(appearance, query, query.body.ras(points), np.zeros(3))
        return float(Box.from_extreme_points(found).wall_distances_mm(truth).mean())

    assert missed_mm(Mask(known, grid)) < 2.5 < missed_mm(None)


def test_the_support_itself_is_not_moved() -> None:
    field, points, mask = marked()
    appearance = learn_appearance(field, points, mask)
    np.testing.assert_allclose(refine_points(appearance, field, points, np.zeros(3)), points, atol=1e-6)


def test_little_changes_of_grey_values_move_walls_little() -> None:
    field, points, mask = marked()
    appearance = learn_appearance(field, points, mask)
    walls = judge_walls(appearance, field, points)
    noise = 0.004 * np.random.default_rng(0).standard_normal(INPUT.shape)
    noisy = replace(field, image=field.image + torch.from_numpy(noise).float())
    again = judge_walls(appearance, noisy, points)
    assert walls is not None and again is not None
    assert np.abs(walls - again).max() < 1.0


def test_an_organ_far_outside_of_the_scan_is_left_where_registration_put_it() -> None:
    field, points, mask = marked()
    appearance = learn_appearance(field, points, mask)
    far = points + 2000.0
    np.testing.assert_allclose(refine_points(appearance, field, far, np.full(3, 2000.0)), far)
    assert judge_walls(appearance, field, far) is None
