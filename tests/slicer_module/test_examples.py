"""Placing six extreme points: in any order, with guidance, refusals and a preview; from segments; undo and redo."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rprloc.errors import InputError
from rprloc.geometry import WALLS, Box, Grid, extreme_points_of_mask
from tests.phantoms import AFFINES
from tests.slicer_module.scenes import NO_SLICER, Scene, rigid, segmentation

pytest.importorskip("slicer", reason=NO_SLICER)
import slicer
import vtk

from SlicerRPRLocLib import nodes, terminology
from SlicerRPRLocLib.examples import Examples
from SlicerRPRLocLib.history import History
from SlicerRPRLocLib.results import Results
from SlicerRPRLocLib.sets import Sets

GRID = Grid((60, 50, 40), np.diag([2.0, 2.0, 2.5, 1.0]))
# Left, right, posterior, anterior, inferior, superior.
POINTS = np.array([[20.0, 50, 50], [80, 52, 51], [50, 20, 49], [51, 80, 50], [50, 50, 20], [49, 51, 80]])


@pytest.fixture
def volume(scene: Scene) -> Any:
    return scene.add_volume(np.zeros(GRID.shape, np.int16), GRID, "anna")


@pytest.fixture
def examples(scene: Scene) -> Examples:
    return Examples(scene.mrml)


def click(examples: Examples, example: Any, point: np.ndarray) -> str:
    """What happens at a click in a view: Slicer adds the point, the module looks at it."""
    example.AddControlPointWorld(vtk.vtkVector3d(*point), "F-1")
    return examples.points_changed(example)


def labels_of(example: Any) -> list[str]:
    return [example.GetNthControlPointLabel(n) for n in range(example.GetNumberOfControlPoints())]


def previews(scene: Scene) -> list[Any]:
    return [roi for roi in scene.of_class("vtkMRMLMarkupsROINode") if roi.GetAttribute(nodes.ROLE) == "preview"]


def test_guidance_names_each_wall_in_the_patients_words_and_its_view(examples: Examples, volume: Any) -> None:
    example = examples.add(volume, "heart")
    walls, texts = [], []
    for point in POINTS:
        guidance = examples.guidance(example)
        walls.append(guidance.wall)
        texts.append(guidance.text)
        click(examples, example, point)
    assert walls == list(WALLS)
    assert "patient's left: on the right of the picture" in texts[0] and "Red (axial)" in texts[0]
    assert "patient's right: on the left of the picture" in texts[1]
    assert "feet" in texts[4] and "Green (coronal)" in texts[4]
    done = examples.guidance(example)
    assert done.complete and "60 x 60 x 60 mm" in done.text


@pytest.mark.parametrize("seed", range(5))
def test_any_order_gives_each_point_its_wall(examples: Examples, volume: Any, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(6)
    example = examples.add(volume, "heart")
    for index in order:
        click(examples, example, POINTS[index])
    assert labels_of(example) == [WALLS[index] for index in order]
    np.testing.assert_allclose(examples.points(example), POINTS)


def test_walls_are_told_in_the_world_also_under_a_transform(scene: Scene, examples: Examples, volume: Any) -> None:
    half_turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    scene.transform(half_turn, volume)
    example = examples.add(volume, "heart")
    for point in POINTS * [-1, -1, 1]:
        click(examples, example, point)
    assert labels_of(example) == ["right", "left", "anterior", "posterior", "inferior", "superior"]


def test_a_point_outside_is_not_taken_and_a_sentence_says_so(examples: Examples, volume: Any) -> None:
    example = examples.add(volume, "heart")
    click(examples, example, POINTS[0])
    message = click(examples, example, np.array([500.0, 0, 0]))
    assert message.startswith("That point lies outside of anna") and "Point 2 of 6" in message
    assert len(nodes.defined_points(example)) == 1


def test_a_seventh_point_is_not_taken(examples: Examples, volume: Any) -> None:
    example = examples.add(volume, "heart")
    for point in POINTS:
        click(examples, example, point)
    message = click(examples, example, np.array([50.0, 50, 50]))
    assert "Six points are enough" in message
    np.testing.assert_allclose(nodes.defined_points(example), POINTS)


def test_points_that_span_nothing_are_refused(examples: Examples, volume: Any) -> None:
    example = examples.add(volume, "heart")
    flat = POINTS.copy()
    flat[:, 2] = 50.0
    for point in flat:
        message = click(examples, example, point)
    assert "no volume along inferior-superior" in message
    assert not examples.guidance(example).complete
    with pytest.raises(InputError, match=r"heart \(example\): .* no volume"):
        examples.points(example)


def test_a_volume_that_moved_away_from_its_points_is_noticed(scene: Scene, examples: Examples, volume: Any) -> None:
    example = examples.add(volume, "heart")
    examples.set_points(example, POINTS)
    shift = np.eye(4)
    shift[0, 3] = 50.0
    scene.transform(shift, volume)
    with pytest.raises(InputError, match=r"the wall left.* lies outside of anna"):
        examples.points(example)


def test_points_of_a_loaded_scene_are_not_thrown_away_with_their_volume_moved(
    scene: Scene, examples: Examples, volume: Any
) -> None:
    """As when a registration was loaded, too; the points are told to lie outside, and a person may mend it."""
    example = examples.add(volume, "heart")
    examples.set_points(example, POINTS)
    loaded = Examples(scene.mrml)
    loaded.show_previews()
    shift = np.eye(4)
    shift[0, 3] = 50.0
    scene.transform(shift, volume)
    example.SetNthControlPointPositionWorld(5, *(POINTS[5] + [30.0, 0, 1.0]))
    message = loaded.points_changed(example)
    assert "lies outside of anna" in message and len(nodes.defined_points(example)) == 6


def test_a_point_that_was_moved_out_goes_back_and_a_new_one_is_taken_away(examples: Examples, volume: Any) -> None:
    example = examples.add(volume, "heart")
    for point in POINTS[:3]:
        click(examples, example, point)
    example.SetNthControlPointPositionWorld(1, 5000.0, 0.0, 0.0)
    assert "it goes back" in examples.points_changed(example, dragging=True)
    assert len(nodes.defined_points(example)) == 3
    assert "was put back" in examples.points_changed(example)
    np.testing.assert_allclose(nodes.defined_points(example), POINTS[:3])
    assert "was not taken" in click(examples, example, np.array([5000.0, 0.0, 0.0]))
    np.testing.assert_allclose(nodes.defined_points(example), POINTS[:3])
    assert examples.points_changed(example) == ""  # nothing is new


def test_the_preview_follows_the_points(scene: Scene, examples: Examples, volume: Any) -> None:
    example = examples.add(volume, "heart")
    click(examples, example, POINTS[0])
    assert previews(scene) == []
    for point in POINTS[1:]:
        click(examples, example, point)
    (preview,) = previews(scene)
    np.testing.assert_allclose(nodes.box_of_roi(preview).walls_mm, Box.from_extreme_points(POINTS).walls_mm)
    example.SetNthControlPointPositionWorld(0, 10.0, 50.0, 50.0)
    examples.points_changed(example)
    assert nodes.box_of_roi(preview).min_ras[0] == pytest.approx(10.0)
    assert not preview.GetSaveWithScene() and preview.GetHideFromEditors() and preview.GetLocked()
    example.RemoveAllControlPoints()
    examples.points_changed(example)
    assert previews(scene) == []
    for point in POINTS:
        click(examples, example, point)
    scene.mrml.RemoveNode(example)
    examples.remove_orphans()
    assert previews(scene) == []


def test_points_that_are_not_placed_yet_do_not_count(examples: Examples, volume: Any) -> None:
    example = examples.add(volume, "heart")
    for index in range(6):
        example.AddControlPointWorld(vtk.vtkVector3d(0, 0, 0), "")
        example.UnsetNthControlPointPosition(index)
    assert examples.guidance(example).wall == "left"
    example.SetNthControlPointPositionWorld(3, *POINTS[0])
    examples.points_changed(example)
    assert examples.guidance(example).wall == "right"


def test_an_example_needs_a_volume_and_a_name(examples: Examples, volume: Any) -> None:
    with pytest.raises(InputError, match="No support volume"):
        examples.add(None, "heart")
    with pytest.raises(InputError, match="no name"):
        examples.add(volume, "  ")
    assert examples.all() == []
    assert examples.add(volume, " heart ") is examples.add(volume, "heart")


def test_an_example_lies_beside_its_volume_and_has_its_term(scene: Scene, examples: Examples, volume: Any) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.mrml)
    study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.CreateItem(study, volume)
    example = examples.add(volume, "heart")
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(example)) == study
    assert "80891009" in example.GetAttribute(terminology.ATTRIBUTE)


def test_a_segment_becomes_an_example_in_one_step(scene: Scene, examples: Examples, volume: Any) -> None:
    mask = np.zeros(GRID.shape, bool)
    mask[10:40, 20:30, 5:25] = True
    node = segmentation(scene, mask, GRID)
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    node.GetSegmentation().GetSegment(segment_id).SetName("liver")
    example = examples.add_from_segment(volume, node, segment_id)
    assert nodes.organ_of(example) == "liver" and labels_of(example) == list(WALLS)
    np.testing.assert_allclose(examples.points(example), extreme_points_of_mask(mask, GRID), atol=1e-6)
    scene.transform(rigid(), volume)
    with pytest.raises(InputError, match="liver reaches out of anna"):
        examples.add_from_segment(volume, node, segment_id)


def test_points_can_be_undone_and_done_again_one_by_one(scene: Scene, examples: Examples, volume: Any) -> None:
    history = History(examples, Results(scene.mrml), Sets(scene.mrml))
    example = examples.add(volume, "heart")
    history.record()
    for point in POINTS:
        click(examples, example, point)
        history.record()
    example.SetNthControlPointPositionWorld(0, 10.0, 50.0, 50.0)
    assert history.can_undo and not history.can_redo
    history.undo()  # the drag, though nobody recorded it
    np.testing.assert_allclose(nodes.defined_points(example), POINTS)
    for left in (5, 4, 3, 2, 1, 0):
        history.undo()
        assert len(nodes.defined_points(example)) == left
    history.undo()
    assert examples.all() == []
    with pytest.raises(InputError, match="nothing to undo"):
        history.undo()
    for _ in range(7):
        history.redo()
    (example,) = examples.all()
    np.testing.assert_allclose(examples.points(example), POINTS)
    history.redo()
    assert nodes.defined_points(example)[0, 0] == 10.0
    with pytest.raises(InputError, match="nothing to redo"):
        history.redo()


def test_a_change_after_an_undo_ends_the_redo(scene: Scene, examples: Examples, volume: Any) -> None:
    history = History(examples, Results(scene.mrml), Sets(scene.mrml))
    examples.set_points(examples.add(volume, "heart"), POINTS)
    examples.set_points(examples.add(volume, "liver"), POINTS + 5.0)
    history.record()
    history.undo()
    assert examples.all() == [] and history.can_redo
    examples.add(volume, "spleen")
    assert not history.can_redo
    history.record()
    scene.mrml.RemoveNode(volume)
    history.undo()  # what belongs to a volume that is gone stays away
    assert examples.all() == []


def test_affines_of_the_volume_do_not_matter(scene: Scene, examples: Examples) -> None:
    for name, affine in AFFINES.items():
        grid = Grid((30, 24, 20), affine)
        volume = scene.add_volume(np.zeros(grid.shape, np.int16), grid, name)
        centre, size = grid.bounds.centre_ras, 4.0
        points = np.tile(centre, (6, 1))
        points[np.arange(6), np.arange(6) // 2] += np.tile([-size, size], 3)
        example = examples.add(volume, "heart")
        for point in points:
            click(examples, example, point)
        np.testing.assert_allclose(examples.points(example), points)
