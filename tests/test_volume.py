"""Resampling to the networks' grid and the networks' input, whatever way a scan is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from rprloc.apps.demo import DemoScans
from rprloc.geometry import Grid
from rprloc.intensity import AIR_HU, find_display_window_air, to_network_input
from rprloc.model.input import network_grid
from rprloc.volume import Volume, from_sitk, resample, to_sitk
from tests.phantoms import STORAGES, stored_otherwise


def test_a_volume_without_its_own_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        Volume(np.zeros((3, 4, 5)), Grid((5, 4, 3), np.eye(4)))


def test_itk_and_back_keeps_voxels_and_places(ras_from_ijk: np.ndarray) -> None:
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    grid = Grid(array.shape, ras_from_ijk)
    image = to_sitk(array, grid)
    assert image.GetPixel(1, 2, 3) == array[1, 2, 3]
    again, again_grid = from_sitk(image)
    np.testing.assert_array_equal(again, array)
    assert again.dtype == np.int16
    assert again_grid.same_as(grid, tolerance_mm=1e-6)


# The networks' grid


def test_the_network_grid_has_its_faces_at_multiples_of_the_anchor() -> None:
    grid = Grid((10, 20, 5), np.array([[-2.0, 0, 0, 100], [0, 3, 0, -50], [0, 0, 4, 0], [0, 0, 0, 1]]))
    # Bounds are x 81 to 101, y -51.5 to 8.5, z -2 to 18.
    network = network_grid(grid, spacing_mm=4.0, anchor_mm=16.0)
    assert network.bounds.min_ras.tolist() == [80, -64, -16]
    assert network.bounds.max_ras.tolist() == [112, 16, 32]
    assert network.shape == (8, 20, 12)
    assert network.spacing_mm.tolist() == [4, 4, 4]


def test_the_network_grid_covers_the_scan_and_does_not_depend_on_storage(ras_from_ijk, store_otherwise) -> None:
    grid = Grid((31, 22, 17), ras_from_ijk)
    network = network_grid(grid, 4.0, 8.0)
    assert network.contains(grid.ras([[-0.5, -0.5, -0.5], [30.5, 21.5, 16.5]])).all()
    assert (network.bounds.size_mm < grid.bounds.size_mm + 2 * 8.0).all()
    _, stored_grid = store_otherwise(np.zeros(grid.shape, np.uint8), grid)
    assert network_grid(stored_grid, 4.0, 8.0) == network


def test_a_scan_that_ends_at_a_multiple_of_the_anchor_gets_no_further_layer() -> None:
    grid = Grid.isotropic((16, 16, 16), 2.0, [1.0 - 1e-5, 1.0, 1.0 + 1e-5])
    assert network_grid(grid, 4.0, 16.0).bounds.walls_mm.tolist() == [0, 32, 0, 32, 0, 32]


# Resampling


def ramp_hu(points_ras: np.ndarray) -> np.ndarray:
    return points_ras @ [2.0, -3.0, 1.0] - 400.0


@pytest.mark.parametrize("finer", [1.0, 0.6])
def test_a_ramp_in_the_world_is_resampled_exactly(ras_from_ijk: np.ndarray, store_otherwise, finer: float) -> None:
    """Averaging and linear interpolation leave a linear function as it is, so any shift or flip of voxels shows."""
    ras_from_ijk[:3, :3] *= finer
    grid = Grid((61, 54, 47), ras_from_ijk)
    stored, stored_grid = store_otherwise(ramp_hu(grid.centres_ras()), grid)
    target = network_grid(grid, 4.0, 4.0)
    found = resample(Volume(stored, stored_grid), target)
    margin_vox = np.ceil(4.0 / grid.spacing_mm) + 1
    ijk = grid.ijk(target.centres_ras())
    inside = ((ijk > margin_vox) & (ijk < np.array(grid.shape) - 1 - margin_vox)).all(-1)
    assert found.hu.dtype == np.float32
    assert found.grid == target
    assert inside.any()
    np.testing.assert_allclose(found.hu[inside], ramp_hu(target.centres_ras()[inside]), atol=0.01)


def test_a_resampled_phantom_does_not_depend_on_storage(phantom: Volume, store_otherwise) -> None:
    array, grid = phantom.hu[1:], phantom.grid.cropped((1, 0, 0), (29, 24, 20))
    target = network_grid(grid, 10.0, 10.0)  # bins of 2 x 2 x 1 voxels, of which 29 leave one over
    expected = resample(Volume(array, grid), target).hu
    assert expected.min() < -900 and expected.max() > 200
    found = resample(Volume(*store_otherwise(array, grid)), target).hu
    np.testing.assert_allclose(found, expected, atol=0.01)


def assert_storage_does_not_matter(path: Path, order: tuple[int, ...], flipped: tuple[int, ...]) -> None:
    array, grid = from_sitk(sitk.ReadImage(str(path)))
    start, shape = np.array(grid.shape) // 4, (51, 36, 45)
    crop = tuple(slice(first, first + count) for first, count in zip(start, shape, strict=True))
    array, grid = array[crop], grid.cropped(start.tolist(), shape)
    target = network_grid(grid, 8.0, 8.0)
    expected = resample(Volume(array, grid), target).hu
    assert expected[expected > AIR_HU].std() > 20
    found = resample(Volume(*stored_otherwise(array, grid, order, flipped)), target).hu
    np.testing.assert_allclose(found, expected, atol=0.01)


@pytest.mark.parametrize("scan", ["support_image", "query_image"])
@pytest.mark.parametrize(("order", "flipped"), STORAGES.values(), ids=STORAGES)
def test_a_resampled_real_scan_does_not_depend_on_storage(public_scans: DemoScans, scan: str, order, flipped) -> None:
    assert_storage_does_not_matter(getattr(public_scans, scan), order, flipped)


@pytest.mark.parametrize("case", ["abdomen/images/abdomen_01", "han/images/han_004", "thorax/images/thorax_02"])
def test_a_resampled_annotated_scan_does_not_depend_on_storage(shared_data: Path, case: str) -> None:
    for order, flipped in STORAGES.values():
        assert_storage_does_not_matter(shared_data / f"{case}.nii.gz", order, flipped)


@pytest.mark.parametrize("count", [16, 17, 18, 19])
@pytest.mark.parametrize("end", ["near", "far"])
def test_the_last_slices_are_lost_only_from_a_voxel_whose_middle_they_do_not_reach(count: int, end: str) -> None:
    """17 slices of 1 mm make four bins of 4 mm and one slice more, which must show as well."""
    hu = np.full((16, 16, count), -1000.0)
    hu[:, :, 0 if end == "near" else -1] = 1000.0
    grid = Grid.isotropic(hu.shape, 1.0, [0.5, 0.5, 0.5])
    for shift_mm in (0.0, 1.0, 2.0, 3.0):
        shifted = grid.ras_from_ijk.copy()
        shifted[2, 3] += shift_mm
        moved = Grid(grid.shape, shifted)
        wide = network_grid(moved, 4.0, 4.0)
        found = resample(Volume(hu, moved), wide).hu[2, 2]
        shown = moved.contains(wide.ras([[2, 2, k] for k in range(len(found))]))
        assert (found[~shown] == AIR_HU).all()
        end_mm = moved.ras([2, 2, 0 if end == "near" else len(hu[2, 2]) - 1])[2]
        holder = int(np.rint(wide.ijk([0.0, 0.0, end_mm])[2]))
        assert (found[holder] > -600.0) == shown[holder]


def test_fine_detail_is_averaged_not_picked() -> None:
    hu = np.where(np.indices((32, 32, 32)).sum(0) % 2, 1000.0, -1000.0)
    grid = Grid.isotropic(hu.shape, 1.0, [0.5, 0.5, 0.5])
    found = resample(Volume(hu, grid), network_grid(grid, 4.0, 4.0)).hu
    np.testing.assert_allclose(found, 0.0, atol=1e-3)


def test_outside_the_scan_is_air(phantom: Volume) -> None:
    wide = Grid.isotropic((60, 60, 60), 4.0, phantom.grid.bounds.centre_ras - 120.0)
    found = resample(Volume(np.full_like(phantom.hu, 55), phantom.grid), wide).hu
    away_mm = np.maximum(
        phantom.grid.bounds.min_ras - wide.centres_ras(), wide.centres_ras() - phantom.grid.bounds.max_ras
    )
    assert set(np.unique(found[(away_mm > 4.0).any(-1)])) == {AIR_HU}
    np.testing.assert_allclose(found[(away_mm < 0.0).all(-1)], 55.0)


def test_a_scan_thinner_than_a_bin_is_resampled() -> None:
    grid = Grid((20, 20, 5), np.diag([2.0, 2.0, 0.5, 1.0]))
    found = resample(Volume(np.full(grid.shape, 100, np.int16), grid), network_grid(grid, 4.0, 4.0)).hu
    assert found.max() == 100.0


# The networks' input


@given(st.lists(st.integers(-3024, 3071), min_size=2, max_size=20), st.sampled_from([None, -200.0, -125.0, 0.0]))
def test_the_input_rises_with_density_from_0_to_1(hu: list[int], display_air_hu: float | None) -> None:
    values = to_network_input(np.sort(np.array(hu, np.int16)), display_air_hu)
    assert values.dtype == np.float32
    assert (np.diff(values) >= 0).all()
    assert values.min() >= 0.0 and values.max() <= 1.0


def test_air_and_padding_are_0_and_soft_tissue_takes_most_of_the_range() -> None:
    assert to_network_input(np.array([AIR_HU, -3024.0, -1000.0])).tolist() == [0, 0, 0]
    np.testing.assert_allclose(
        to_network_input(np.array([-600, -200, 50, 300, 1500, 3000])), [0.1, 0.2, 0.5, 0.8, 1, 1]
    )


def test_a_display_window_is_told_by_its_darkest_value() -> None:
    assert find_display_window_air(np.array([-125, 40, 275], np.int16)) == -125.0
    assert find_display_window_air(np.array([-1000, 40], np.int16)) is None
    assert find_display_window_air(np.array([-3024, 40], np.int16)) is None


def test_through_a_display_window_air_is_0_and_soft_tissue_as_in_full_range_ct() -> None:
    full = np.array([-1000, -850, -400, -110, -50, 0, 60, 270], np.int16)
    windowed = np.clip(full, -125, 275)
    air_hu = find_display_window_air(windowed)
    found = to_network_input(windowed, air_hu)
    assert found[:3].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(found[3:], to_network_input(full)[3:])


def test_air_of_a_display_window_stays_0_where_it_was_mixed_with_padding() -> None:
    """Resampling mixes the window's darkest value with AIR_HU at the border of the scan."""
    assert to_network_input(np.array([-125.0, -124.5, -600.0, AIR_HU]), -125.0).tolist() == [0, 0, 0, 0]


def test_a_display_window_is_noticed_through_padding(phantom: Volume) -> None:
    shown = np.clip(phantom.hu, -125, 275)
    padded = np.pad(shown, 6, constant_values=-1024)
    assert find_display_window_air(shown) == find_display_window_air(padded) == -125
    assert find_display_window_air(np.pad(phantom.hu, 6, constant_values=-2048)) is None
