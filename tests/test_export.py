"""Pictures and label maps show the boxes where they are, for scans stored in any orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.detection import AbsentOrgan, Detections, OrganDetection, Presence
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid
from rprloc.io.colours import organ_colour
from rprloc.io.label_map import save_label_map
from rprloc.io.pictures import MAX_PICTURED_ORGANS, save_picture
from rprloc.volume import Volume, from_sitk
from tests.boxes import points_of


def turned(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


AXES = {
    "RAS": np.diag([2.0, 2.0, 2.0]),
    "LPS": np.diag([-2.0, -2.0, 2.0]),
    "permuted, flipped and anisotropic": np.array([[0, 0, -4.0], [2.0, 0, 0], [0, -1.0, 0]]),
    "oblique": turned(20) @ np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]]) @ turned(10) * 2,
}


def grid_around_origin(axes: np.ndarray, extent_mm: float) -> Grid:
    """A grid with these axes (3, 3) that covers a cube of ``extent_mm`` about the world's origin."""
    shape = np.round(extent_mm / np.linalg.norm(axes, axis=0)).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = -axes @ (0.5 * (shape - 1))
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def inside(grid: Grid, box: Box) -> np.ndarray:
    centres = grid.centres_ras()
    return np.all((centres >= box.min_ras) & (centres <= box.max_ras), axis=-1)


def rectangle(mask: np.ndarray) -> np.ndarray:
    """First row, last row, first column and last column of the pixels that are set."""
    rows, columns = np.nonzero(mask)
    return np.array([rows.min(), rows.max(), columns.min(), columns.max()])


def panels(path: Path) -> list[np.ndarray]:
    """The axial, coronal and sagittal views (H, W, 3), 0..255, of a picture with one row of a cubic scan."""
    from matplotlib.image import imread

    pixels = np.rint(imread(path)[..., :3] * 255).astype(int)[45:-66]  # less the title and the legend
    return np.array_split(pixels, 3, axis=1)


@pytest.mark.parametrize("name", ["RAS", "LPS", "permuted, flipped and anisotropic"])
def test_the_picture_frames_the_organ_in_radiological_display(tmp_path: Path, name: str) -> None:
    # Bright, to the patient's right, to the back and to the head; all walls lie between voxels of these grids.
    box = Box([20, -40, 8], [44, -12, 48])
    grid = grid_around_origin(AXES[name], 120)
    volume = Volume(np.where(inside(grid, box), 1000, 0).astype(np.int16), grid, modality="CT")
    save_picture(tmp_path / "p.png", volume, {"organ": box})
    colour = np.rint(np.array(organ_colour(0)) * 255)
    # Where the box's centre (32, -26, 28) lies in a view of 120 mm: fractions from the top and from the left.
    for view, (down, across) in zip(
        panels(tmp_path / "p.png"), [(86 / 120, 28 / 120), (32 / 120, 28 / 120), (32 / 120, 86 / 120)], strict=True
    ):
        outline = rectangle(np.abs(view - colour).max(axis=-1) <= 3)
        bright = rectangle((view > 250).all(axis=-1))
        np.testing.assert_allclose(outline, bright, atol=7)
        size = max(view.shape[:2])
        centre = [outline[:2].mean() / size, outline[2:].mean() / size]
        np.testing.assert_allclose(centre, [down, across], atol=0.04)


def test_the_picture_frames_the_organ_of_an_oblique_scan(tmp_path: Path) -> None:
    box = Box([10, -40, 8], [44, -12, 38])
    grid = grid_around_origin(AXES["oblique"], 120)
    volume = Volume(np.where(inside(grid, box), 1000, 0).astype(np.int16), grid)
    save_picture(tmp_path / "p.png", volume, {"organ": box})
    colour = np.rint(np.array(organ_colour(0)) * 255)
    for view in panels(tmp_path / "p.png"):
        outline = rectangle(np.abs(view - colour).max(axis=-1) <= 3)
        bright = rectangle((view > 250).all(axis=-1))
        np.testing.assert_allclose(outline, bright, atol=12)


def test_truth_and_points_are_drawn(tmp_path: Path) -> None:
    grid = grid_around_origin(AXES["RAS"], 100)
    volume = Volume(np.full(grid.shape, -1000, np.int16), grid)
    box, true_box = Box([-10, -10, -10], [10, 10, 10]), Box([-30, -30, -30], [30, 30, 30])
    save_picture(tmp_path / "a.png", volume, {"organ": box}, truth={"organ": true_box})
    save_picture(tmp_path / "b.png", volume, {"organ": box}, points={"organ": points_of(true_box)})
    colour = np.rint(np.array(organ_colour(0)) * 255)
    for with_truth, with_points in zip(panels(tmp_path / "a.png"), panels(tmp_path / "b.png"), strict=True):
        pixels_per_mm = with_truth.shape[1] / 100
        truth = rectangle((with_truth > 250).all(axis=-1))
        np.testing.assert_allclose(truth[3] - truth[2], 60 * pixels_per_mm, atol=6)
        coloured = rectangle(np.abs(with_points - colour).max(axis=-1) <= 3)
        assert coloured[3] - coloured[2] > 50 * pixels_per_mm


def test_odd_names_and_too_many_organs_are_drawn_the_same_each_time(tmp_path: Path) -> None:
    grid = grid_around_origin(AXES["RAS"] * 2, 100)
    volume = Volume(np.zeros(grid.shape, np.int16), grid)
    names = ["_hidden", "a $x^ b", *(f"organ {n}" for n in range(MAX_PICTURED_ORGANS))]
    boxes = {name: Box([-10, -10, -10], [10, 10, 10]) for name in names}
    save_picture(tmp_path / "a.png", volume, boxes)
    save_picture(tmp_path / "b.png", volume, boxes)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_box_outside_the_scan_still_gives_a_picture(tmp_path: Path) -> None:
    grid = grid_around_origin(AXES["LPS"], 60)
    volume = Volume(np.zeros(grid.shape, np.int16), grid)
    save_picture(tmp_path / "p.png", volume, {"organ": Box([500, 500, 500], [510, 510, 510])})
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_no_box_is_refused(tmp_path: Path) -> None:
    volume = Volume(np.zeros((4, 4, 4), np.int16), Grid((4, 4, 4), np.eye(4)))
    with pytest.raises(InputError, match="no organ"):
        save_picture(tmp_path / "p.png", volume, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", list(AXES))
def test_the_label_map_holds_the_voxels_inside_each_box(tmp_path: Path, name: str) -> None:
    grid = grid_around_origin(AXES[name], 60)
    small, large = Box([-4.3, -6.3, -8.3], [7.3, 9.3, 11.3]), Box([-11.3, -14.3, -17.3], [40.3, 22.3, 19.3])
    organs = tuple(OrganDetection(n, points_of(b), np.zeros(6), 1, ()) for n, b in (("small", small), ("large", large)))
    names = save_label_map(tmp_path / "boxes.nii.gz", Detections("q", organs, "m", "s"), grid)
    labels, labels_grid = from_sitk(sitk.ReadImage(str(tmp_path / "boxes.nii.gz")))
    assert names == {1: "small", 2: "large"}
    assert labels_grid.same_as(grid, tolerance_mm=1e-3)
    expected = np.where(inside(grid, small), 1, np.where(inside(grid, large), 2, 0))
    np.testing.assert_array_equal(labels, expected)
    assert (expected == 1).any() and (expected == 2).any()


def test_labels_mean_the_same_where_an_organ_is_absent(tmp_path: Path) -> None:
    grid, box = grid_around_origin(AXES["RAS"], 40), Box([-4.3, -6.3, -8.3], [7.3, 9.3, 11.3])
    found = OrganDetection("liver", points_of(box), np.zeros(6), 1, ())
    organs = (AbsentOrgan("brain", Presence(0.0, 0.0, 1.0), ()), found)
    names = save_label_map(tmp_path / "boxes.nii.gz", Detections("q", organs, "m", "s"), grid)
    labels, _ = from_sitk(sitk.ReadImage(str(tmp_path / "boxes.nii.gz")))
    assert names == {1: "brain", 2: "liver"} and set(np.unique(labels)) == {0, 2}


def test_a_box_outside_the_grid_has_no_voxels(tmp_path: Path) -> None:
    far = OrganDetection("far", points_of(Box([500, 0, 0], [510, 5, 5])), np.zeros(6), 1, ())
    save_label_map(tmp_path / "boxes.nii", Detections("q", (far,), "m", "s"), Grid((4, 5, 6), np.eye(4)))
    labels, _ = from_sitk(sitk.ReadImage(str(tmp_path / "boxes.nii")))
    assert labels.shape == (4, 5, 6) and not labels.any()


def test_a_label_map_may_be_nrrd_which_is_not_compressed(tmp_path: Path) -> None:
    grid = grid_around_origin(AXES["oblique"], 120)
    box = Box([10, -40, 8], [44, -12, 38])
    found = Detections("q", (OrganDetection("organ", points_of(box), np.ones(6), 1, ("s",)),), "m", "s")
    save_label_map(tmp_path / "boxes.nrrd", found, grid)
    labels, labels_grid = from_sitk(sitk.ReadImage(str(tmp_path / "boxes.nrrd")))
    assert labels_grid.same_as(grid, tolerance_mm=1e-3) and b"encoding: raw" in (tmp_path / "boxes.nrrd").read_bytes()
    np.testing.assert_array_equal(labels, inside(grid, box))
    assert labels.any()


def test_a_label_map_needs_the_suffix_of_nifti_or_nrrd(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Let it end with \.nii, \.nii\.gz or \.nrrd"):
        save_label_map(tmp_path / "boxes.mha", Detections("q", (), "m", "s"), Grid((4, 5, 6), np.eye(4)))
