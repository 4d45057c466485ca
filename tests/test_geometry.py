"""Coordinates: frames, grids, boxes and extreme points, whatever way a scan is stored."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rprloc.errors import InputError
from rprloc.geometry import (
    WALLS,
    Box,
    Grid,
    apply_affine,
    assign_extreme_points,
    extreme_points_of_mask,
    lps_from_ras,
    ras_from_las,
    ras_from_lps,
    wall_coordinates,
)
from tests.phantoms import AFFINES, STORAGES, stored_otherwise

SHAPE = (7, 9, 5)
INDICES = np.array([[0, 0, 0], [6, 8, 4], [1.5, 2.25, 3.75], [-1, 9, 0.5]])
millimetres = st.floats(-500, 500, width=32)


@given(arrays(np.float64, (5, 3), elements=millimetres))
def test_lps_and_back_is_the_same_point(points: np.ndarray) -> None:
    np.testing.assert_array_equal(ras_from_lps(lps_from_ras(points)), points)


def test_lps_turns_left_right_and_front_back() -> None:
    assert lps_from_ras([1.0, 2.0, 3.0]).tolist() == [-1.0, -2.0, 3.0]


def test_las_turns_left_right_alone() -> None:
    assert ras_from_las([1.0, 2.0, 3.0]).tolist() == [-1.0, 2.0, 3.0]


def test_apply_affine_scales_then_shifts() -> None:
    affine = np.array([[0.0, -2, 0, 10], [3, 0, 0, 20], [0, 0, 1, 30], [0, 0, 0, 1]])
    assert apply_affine(affine, [[1, 1, 1], [0, 2, 0]]).tolist() == [[8, 23, 31], [6, 20, 30]]


# Grid


def test_a_grid_agrees_with_itk_on_where_a_voxel_is(ras_from_ijk: np.ndarray) -> None:
    grid = Grid(SHAPE, ras_from_ijk)
    origin_lps, direction_lps, spacing_mm = grid.to_lps()
    image = sitk.Image(list(SHAPE), sitk.sitkUInt8)
    image.SetOrigin(origin_lps.tolist())
    image.SetDirection(direction_lps.ravel().tolist())
    image.SetSpacing(spacing_mm.tolist())
    points_lps = [image.TransformContinuousIndexToPhysicalPoint(ijk.tolist()) for ijk in INDICES]
    np.testing.assert_allclose(lps_from_ras(grid.ras(INDICES)), points_lps, atol=1e-9)

    again = Grid.from_lps(image.GetSize(), image.GetOrigin(), image.GetDirection(), image.GetSpacing())
    assert again.same_as(grid, tolerance_mm=1e-9)


def test_index_and_world_are_inverse(ras_from_ijk: np.ndarray) -> None:
    grid = Grid(SHAPE, ras_from_ijk)
    np.testing.assert_allclose(grid.ijk(grid.ras(INDICES)), INDICES, atol=1e-9)
    np.testing.assert_allclose(grid.ras([0, 0, 0]), ras_from_ijk[:3, 3])


def test_spacing_is_the_distance_of_neighbouring_voxels(ras_from_ijk: np.ndarray) -> None:
    grid = Grid(SHAPE, ras_from_ijk)
    steps_mm = [np.linalg.norm(grid.ras(step) - grid.ras([0, 0, 0])) for step in np.eye(3)]
    np.testing.assert_allclose(grid.spacing_mm, steps_mm)


def test_a_cropped_grid_keeps_every_voxel_in_place(ras_from_ijk: np.ndarray) -> None:
    grid = Grid(SHAPE, ras_from_ijk)
    crop = grid.cropped((2, 3, 1), (4, 5, 3))
    assert crop.shape == (4, 5, 3)
    np.testing.assert_allclose(crop.centres_ras(), grid.centres_ras()[2:6, 3:8, 1:4], atol=1e-9)


def test_bounds_reach_to_the_outer_faces() -> None:
    grid = Grid((10, 20, 5), np.array([[-2.0, 0, 0, 100], [0, 3, 0, -50], [0, 0, 4, 0], [0, 0, 0, 1]]))
    # x: 100 - 9 * 2 - 1 to 100 + 1; y: -50 - 1.5 to -50 + 19 * 3 + 1.5; z: -2 to 4 * 4 + 2.
    assert grid.bounds.min_ras.tolist() == [81, -51.5, -2]
    assert grid.bounds.max_ras.tolist() == [101, 8.5, 18]


def test_bounds_hold_every_voxel_and_do_not_depend_on_storage(ras_from_ijk: np.ndarray, store_otherwise) -> None:
    grid = Grid(SHAPE, ras_from_ijk)
    centres_ras = grid.centres_ras().reshape(-1, 3)
    np.testing.assert_allclose(grid.bounds.min_ras, centres_ras.min(0) - grid.half_voxel_ras_mm, atol=1e-9)
    np.testing.assert_allclose(grid.bounds.max_ras, centres_ras.max(0) + grid.half_voxel_ras_mm, atol=1e-9)
    _, other = store_otherwise(np.zeros(SHAPE, np.uint8), grid)
    np.testing.assert_allclose(other.bounds.walls_mm, grid.bounds.walls_mm, atol=1e-9)


def test_contains_ends_at_the_outer_faces(ras_from_ijk: np.ndarray) -> None:
    grid = Grid(SHAPE, ras_from_ijk)
    inside, outside = [[-0.49, 8.49, 4.49], [3, 4, 2]], [[-0.51, 4, 2], [3, 8.51, 2], [3, 4, 4.51]]
    assert grid.contains(grid.ras(inside)).tolist() == [True, True]
    assert grid.contains(grid.ras(outside)).tolist() == [False, False, False]


def test_same_as_looks_at_the_far_corner_too() -> None:
    grid = Grid((100, 100, 100), np.eye(4))
    wider = np.diag([1.002, 1.0, 1.0, 1.0])  # 0.198 mm off at the far corner, none at the near one
    assert not grid.same_as(Grid(grid.shape, wider))
    assert grid.same_as(Grid(grid.shape, wider), tolerance_mm=0.2)
    assert not grid.same_as(Grid((100, 100, 99), np.eye(4)))
    assert grid.same_as(Grid(grid.shape, np.eye(4)), tolerance_mm=0.0)


def test_grids_are_equal_only_with_the_same_affine() -> None:
    nudged = np.eye(4)
    nudged[0, 3] = 1e-6
    assert Grid(SHAPE, np.eye(4)) == Grid(SHAPE, np.eye(4))
    assert Grid(SHAPE, np.eye(4)) != Grid(SHAPE, nudged)


def test_a_grid_keeps_its_own_affine() -> None:
    affine = np.eye(4)
    grid = Grid(SHAPE, affine)
    affine[0, 3] = 99.0
    assert grid.ras([0, 0, 0]).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        grid.ras_from_ijk[0, 3] = 1.0


@pytest.mark.parametrize("affine", [np.diag([1.0, 1, 0, 1]), np.full((4, 4), np.nan), np.eye(3)])
def test_an_affine_that_flattens_or_is_not_finite_is_refused(affine: np.ndarray) -> None:
    with pytest.raises(InputError, match="affine"):
        Grid(SHAPE, affine)


def test_an_isotropic_grid_has_its_origin_at_a_voxel_centre() -> None:
    grid = Grid.isotropic((2, 3, 4), 4.0, [1, 2, 3])
    assert grid.ras([1, 2, 3]).tolist() == [5, 10, 15]
    assert grid.bounds.min_ras.tolist() == [-1, 0, 1]


# Box

corners = arrays(np.float64, (2, 3), elements=st.floats(-100, 100, width=16))


def box(pair: np.ndarray) -> Box:
    return Box(pair.min(0), pair.max(0))


def test_iou_of_two_boxes_derived_by_hand() -> None:
    first, second = Box([0, 0, 0], [2, 2, 2]), Box([1, 1, 0], [3, 3, 4])
    # They share 1 x 1 x 2 = 2 of 8 + 16 - 2 = 22.
    assert first.iou(second) == pytest.approx(2 / 22)
    assert first.iou(first) == 1.0
    assert first.iou(Box([2, 0, 0], [4, 2, 2])) == 0.0  # they touch
    assert first.iou(Box([5, 5, 5], [6, 6, 6])) == 0.0
    # Apart along two axes: the product of two negative overlaps must not count as a volume.
    assert Box([0, 0, 0], [1, 1, 1]).iou(Box([3, 3, 0], [4, 4, 1])) == 0.0


@given(corners, corners)
def test_iou_is_symmetric_and_between_0_and_1(first: np.ndarray, second: np.ndarray) -> None:
    iou = box(first).iou(box(second))
    assert iou == pytest.approx(box(second).iou(box(first)))
    assert 0.0 <= iou <= 1.0 + 1e-12


@given(corners, corners, st.floats(0.25, 8.0), arrays(np.float64, 3, elements=st.floats(-50, 50, width=16)))
def test_iou_does_not_depend_on_scale_or_place(first, second, scale: float, shift: np.ndarray) -> None:
    first, second = np.round(first), np.round(second)
    moved = box(first * scale + shift).iou(box(second * scale + shift))
    assert moved == pytest.approx(box(first).iou(box(second)), abs=1e-6)


def test_iou_of_boxes_without_volume_is_0() -> None:
    flat, solid = Box([0, 0, 0], [0, 5, 5]), Box([-1, 0, 0], [1, 5, 5])
    assert flat.iou(flat) == flat.iou(solid) == solid.iou(flat) == 0.0


def test_walls_come_in_their_order() -> None:
    assert WALLS == ("left", "right", "posterior", "anterior", "inferior", "superior")
    walls = Box([-1, -2, -3], [4, 5, 6])
    assert walls.walls_mm.tolist() == [-1, 4, -2, 5, -3, 6]
    assert walls.wall_distances_mm(Box([-1, -4, -3], [5, 5, 0])).tolist() == [0, 1, 2, 0, 0, 6]
    assert (walls.volume_mm3, walls.size_mm.tolist()) == (5 * 7 * 9, [5, 7, 9])
    assert walls.centre_ras.tolist() == [1.5, 1.5, 1.5]


def test_a_box_with_crossed_walls_is_refused() -> None:
    with pytest.raises(ValueError, match="min_ras <= max_ras"):
        Box([0, 0, 1], [1, 1, 0])


# Extreme points

SIX = np.array([[-10.0, 1, 2], [12, 0, 1], [1, -20, 3], [2, 22, 0], [0, 3, -30], [3, 1, 33]])


def test_each_wall_comes_from_its_own_point() -> None:
    assert wall_coordinates(SIX).tolist() == [-10, 12, -20, 22, -30, 33]
    outlier = SIX.copy()
    outlier[2] = 400, -20, 400  # far off along the other axes
    assert Box.from_extreme_points(outlier).walls_mm.tolist() == [-10, 12, -20, 22, -30, 33]
    crossed = SIX[[1, 0, 2, 3, 4, 5]]
    assert Box.from_extreme_points(crossed).walls_mm.tolist() == [-10, 12, -20, 22, -30, 33]


def lopsided_mask() -> np.ndarray:
    """A mask whose extreme slices each hold one voxel, so that they are unambiguous: a body and six bumps."""
    mask = np.zeros((12, 14, 11), bool)
    mask[4:8, 4:9, 3:8] = True
    for bump in ([3, 5, 6], [8, 7, 4], [5, 3, 6], [7, 9, 7], [4, 6, 2], [6, 8, 8]):
        mask[tuple(bump)] = True
    return mask


def test_extreme_points_of_a_mask_derived_by_hand() -> None:
    grid = Grid((12, 14, 11), np.diag([2.0, 2.0, 4.0, 1.0]))
    # A bump's centre is at index * spacing; across its wall the point lies half a voxel further out.
    expected = [[5, 10, 24], [17, 14, 16], [10, 5, 24], [14, 19, 28], [8, 12, 6], [12, 16, 34]]
    assert extreme_points_of_mask(lopsided_mask(), grid).tolist() == expected


def test_walls_of_an_organ_do_not_depend_on_storage(ras_from_ijk: np.ndarray, store_otherwise) -> None:
    mask = lopsided_mask()
    grid = Grid(mask.shape, ras_from_ijk)
    walls_mm = wall_coordinates(extreme_points_of_mask(mask, grid))
    stored_walls_mm = wall_coordinates(extreme_points_of_mask(*store_otherwise(mask, grid)))
    np.testing.assert_allclose(stored_walls_mm, walls_mm, atol=1e-6)


def test_extreme_points_do_not_depend_on_storage() -> None:
    mask = lopsided_mask()
    mask[8, 8, 4] = mask[5, 3, 7] = True  # two voxels in an extreme slice: both are equally near to its middle
    for ras_from_ijk, (order, flipped) in itertools.product(AFFINES.values(), STORAGES.values()):
        grid = Grid(mask.shape, ras_from_ijk)
        points_ras = extreme_points_of_mask(mask, grid)
        stored_points_ras = extreme_points_of_mask(*stored_otherwise(mask, grid, order, flipped))
        np.testing.assert_allclose(stored_points_ras, points_ras, atol=1e-6)


def test_the_extreme_points_box_is_the_box_of_all_voxels(ras_from_ijk: np.ndarray) -> None:
    mask = lopsided_mask()
    grid = Grid(mask.shape, ras_from_ijk)
    voxels = [grid.cropped(ijk, (1, 1, 1)).bounds.walls_mm for ijk in np.argwhere(mask)]
    walls_mm = Box.from_extreme_points(extreme_points_of_mask(mask, grid)).walls_mm
    np.testing.assert_allclose(walls_mm[0::2], np.min(voxels, axis=0)[0::2], atol=1e-9)
    np.testing.assert_allclose(walls_mm[1::2], np.max(voxels, axis=0)[1::2], atol=1e-9)


def test_an_organ_of_one_voxel_has_that_voxels_volume() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[2, 3, 1] = True
    points_ras = extreme_points_of_mask(mask, Grid(SHAPE, np.diag([2.0, 3.0, 5.0, 1.0])))
    assert Box.from_extreme_points(points_ras).volume_mm3 == 30.0


def test_an_extreme_point_lies_on_the_organ_where_the_slice_is_a_ring() -> None:
    mask = np.zeros((9, 9, 3), bool)
    mask[1:8, 1:8, 2] = True
    mask[2:7, 2:7, 2] = False
    superior = extreme_points_of_mask(mask, Grid(mask.shape, np.eye(4)))[5]
    assert superior[2] == 2.5
    assert mask[tuple(np.rint(superior - [0, 0, 0.5]).astype(int))]


def test_an_empty_label_and_a_foreign_grid_are_refused() -> None:
    with pytest.raises(InputError, match="no voxels"):
        extreme_points_of_mask(np.zeros(SHAPE, bool), Grid(SHAPE, np.eye(4)))
    with pytest.raises(ValueError, match="shape"):
        extreme_points_of_mask(np.ones((2, 2, 2), bool), Grid(SHAPE, np.eye(4)))


@given(st.permutations(range(6)))
def test_extreme_points_are_assigned_in_any_order(order: list[int]) -> None:
    np.testing.assert_array_equal(assign_extreme_points(SIX[list(order)]), SIX)


def test_a_point_that_is_outermost_twice_serves_one_wall() -> None:
    points = np.array([[-10.0, 0, 0], [10, 0, 0], [0, -9, 0], [11, 12, 0], [0, 0, -10], [0, 0, 10]])
    ordered = assign_extreme_points(points[::-1])  # (11, 12, 0) is both the rightmost and the foremost
    assert sorted(map(tuple, ordered)) == sorted(map(tuple, points))
    assert wall_coordinates(ordered).tolist() == [-10, 10, -9, 12, -10, 10]


def test_the_assignment_maximizes_the_sum_of_outward_coordinates() -> None:
    points = np.random.default_rng(3).normal(size=(6, 3)) * 20
    signs = np.array([-1, 1] * 3)
    best = max((wall_coordinates(points[list(order)]) @ signs) for order in itertools.permutations(range(6)))
    assert wall_coordinates(assign_extreme_points(points)) @ signs == pytest.approx(best)


def test_points_that_span_no_volume_are_refused_by_axis() -> None:
    flat = SIX.copy()
    flat[:, 2] = 7.0
    with pytest.raises(InputError, match="no volume along inferior-superior"):
        assign_extreme_points(flat)


@pytest.mark.parametrize(
    ("points", "fault"),
    [
        (SIX[:5], "has 5 extreme points, not six"),
        (np.full((6, 3), np.nan), "has a point that is not three finite numbers"),
        (np.zeros((6, 2)), "has a point that is not three finite numbers"),
        (3.0, "has 0 extreme points, not six"),
    ],
)
def test_anything_but_six_finite_points_is_refused(points: np.ndarray, fault: str) -> None:
    with pytest.raises(InputError, match=rf"The organ {fault}\. Place one point on each"):
        assign_extreme_points(points)
