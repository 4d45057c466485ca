"""What the views show: a click shows its own scan, and boxes and clicks keep to their own scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rprloc.detection import AbsentOrgan, Detections, Presence
from rprloc.geometry import Box, Grid
from tests.slicer_module.findings import detection
from tests.slicer_module.mouse import Mouse
from tests.slicer_module.scenes import NO_SLICER, Scene, rigid

pytest.importorskip("slicer", reason=NO_SLICER)

from SlicerRPRLocLib import nodes, views
from SlicerRPRLocLib.examples import Examples
from SlicerRPRLocLib.results import Results

SLICES = ("Red", "Yellow", "Green")
# The scans lie apart, so that a view on one shows nothing of the other.
HERE = Grid((60, 50, 40), np.diag([2.0, 2.0, 2.5, 1.0]))
THERE = Grid((60, 50, 40), HERE.ras_from_ijk + np.array([[0, 0, 0, 900.0], [0] * 4, [0] * 4, [0] * 4]))
INSIDE = np.array([[20.0, 50, 50], [80, 52, 51], [50, 20, 49], [51, 80, 50], [50, 50, 20], [49, 51, 80]])


@pytest.fixture
def two(scene: Scene) -> tuple[Any, Any]:
    """Two scans, each with a heart that was found and an example of a liver; the views show the first."""
    scene.add_views()
    made = []
    for grid, name in ((HERE, "anna"), (THERE, "bert")):
        volume = scene.add_volume(np.zeros(grid.shape, np.int16), grid, name)
        shift = grid.ras_from_ijk[:3, 3]
        found = Detections(name, (detection("heart", INSIDE + shift),), "m", "s")
        Results(scene.mrml).apply([(volume, found)])
        examples = Examples(scene.mrml)
        examples.set_points(examples.add(volume, "liver"), INSIDE + shift)
        made.append(volume)
    views.show_scan(scene.mrml, made[0])
    return made[0], made[1]


def shown(scene: Scene) -> set[str]:
    return {scene.background(name).GetBackgroundVolumeID() for name in SLICES}


def drawn_in(scene: Scene, view: str) -> set[str]:
    """The scans whose boxes and points are drawn in a view, by their names."""
    found = set()
    for node in scene.of_class("vtkMRMLMarkupsNode"):
        display = node.GetDisplayNode()
        if display.GetVisibility() and display.IsDisplayableInView(view):
            found.add(nodes.volume_of(node).GetName())
    return found


def all_views(scene: Scene) -> list[str]:
    return [node.GetID() for node in scene.of_class("vtkMRMLAbstractViewNode")]


def test_a_click_on_a_result_shows_its_scan_in_all_views_and_its_boxes_alone(
    scene: Scene, two: tuple[Any, Any]
) -> None:
    anna, bert = two
    results = Results(scene.mrml)
    assert len(all_views(scene)) == 4
    for volume, other in ((bert, anna), (anna, bert), (bert, anna)):
        results.show((volume.GetID(), "heart"))
        assert shown(scene) == {volume.GetID()}
        assert {drawn_in(scene, view).pop() for view in all_views(scene)} == {volume.GetName()}
        assert all(len(drawn_in(scene, view)) == 1 for view in all_views(scene))
        handles = {nodes.volume_of(roi): roi.GetDisplayNode().GetHandlesInteractive() for roi in results.rois()}
        assert handles[volume] and not handles[other]


def test_the_views_go_to_the_organ_and_show_a_scan_that_lay_out_of_sight(scene: Scene, two: tuple[Any, Any]) -> None:
    _, bert = two
    scene.transform(rigid(), bert)
    Results(scene.mrml).show((bert.GetID(), "heart"))
    centre = nodes.box_of_roi(Results(scene.mrml).roi(bert, "heart")).centre_ras
    for name, axis in zip(SLICES, (2, 0, 1), strict=True):
        view = scene.mrml.GetNodeByID(f"vtkMRMLSliceNode{name}")
        place = nodes.matrix_array(view.GetSliceToRAS())[:3, 3]
        assert place[axis] == pytest.approx(centre[axis])
    bounds = np.zeros(6)
    bert.GetRASBounds(bounds)
    views.show_scan(scene.mrml, two[0])
    views.show_scan(scene.mrml, bert)
    for name in SLICES:
        view = scene.mrml.GetNodeByID(f"vtkMRMLSliceNode{name}")
        place = nodes.matrix_array(view.GetSliceToRAS())[:3, 3]
        assert (place >= bounds[::2]).all() and (place <= bounds[1::2]).all()
        assert min(view.GetFieldOfView()[:2]) >= np.ptp(bounds.reshape(3, 2), axis=1).max() - 1e-6


def test_a_scan_that_is_shown_keeps_its_zoom_and_what_lies_over_it(scene: Scene, two: tuple[Any, Any]) -> None:
    anna, bert = two
    dose = scene.add_volume(np.zeros(HERE.shape, np.int16), HERE, "dose")
    scene.background("Red").SetForegroundVolumeID(dose.GetID())
    red = scene.mrml.GetNodeByID("vtkMRMLSliceNodeRed")
    red.SetFieldOfView(31.0, 31.0, 1.0)
    Results(scene.mrml).show((anna.GetID(), "heart"))
    assert red.GetFieldOfView()[:2] == (31.0, 31.0)
    assert scene.background("Red").GetForegroundVolumeID() == dose.GetID()
    Results(scene.mrml).show((bert.GetID(), "heart"))  # the dose is of another patient
    assert scene.background("Red").GetForegroundVolumeID() is None


def test_boxes_follow_whoever_changes_the_scan_view_by_view(scene: Scene, two: tuple[Any, Any]) -> None:
    """As in a layout that compares two scans."""
    _, bert = two
    scene.background("Green").SetBackgroundVolumeID(bert.GetID())
    views.draw_over_own_scans(scene.mrml)
    assert drawn_in(scene, "vtkMRMLSliceNodeRed") == drawn_in(scene, "vtkMRMLSliceNodeYellow") == {"anna"}
    assert drawn_in(scene, "vtkMRMLSliceNodeGreen") == {"bert"}
    assert drawn_in(scene, "vtkMRMLViewNode1") == {"anna"}
    for name in SLICES:
        scene.background(name).SetBackgroundVolumeID(None)
    views.draw_over_own_scans(scene.mrml)
    assert all(drawn_in(scene, view) == set() for view in all_views(scene))


def test_what_the_user_has_hidden_stays_hidden(scene: Scene, two: tuple[Any, Any]) -> None:
    anna, bert = two
    results = Results(scene.mrml)
    results.roi(anna, "heart").SetDisplayVisibility(False)
    results.show((bert.GetID(), "heart"))
    results.show((anna.GetID(), "heart"))
    assert not results.roi(anna, "heart").GetDisplayVisibility()
    assert results.points(results.roi(anna, "heart")).GetDisplayVisibility()


def test_results_that_come_while_another_scan_is_shown_are_not_drawn_over_it(
    scene: Scene, two: tuple[Any, Any]
) -> None:
    _, bert = two
    found = Detections("bert", (detection("spleen", INSIDE + THERE.ras_from_ijk[:3, 3]),), "m", "s")
    Results(scene.mrml).apply([(bert, found)])
    assert drawn_in(scene, "vtkMRMLSliceNodeRed") == {"anna"}


def test_an_absent_organ_shows_its_scan(scene: Scene, two: tuple[Any, Any]) -> None:
    _, bert = two
    results = Results(scene.mrml)
    brain = AbsentOrgan("brain", Presence(0.01, 0.01, 0.98), ("anna",))
    results.apply([(bert, Detections("bert", (brain,), "m", "s"))])
    results.show((bert.GetID(), "brain"))
    assert shown(scene) == {bert.GetID()}
    assert not any(roi.GetDisplayNode().GetHandlesInteractive() for roi in results.rois())


# Placing


def test_points_can_be_placed_only_over_their_own_scan(scene: Scene, two: tuple[Any, Any]) -> None:
    anna, bert = two
    mouse, examples = Mouse(scene), Examples(scene.mrml)
    example = examples.add(anna, "spleen")
    views.show_scan(scene.mrml, anna)
    views.start_placing(example)
    assert mouse.click(INSIDE[0])
    scene.background("Red").SetBackgroundVolumeID(bert.GetID())
    views.draw_over_own_scans(scene.mrml)
    assert not mouse.click(INSIDE[1])
    assert len(nodes.defined_points(example)) == 1


def test_new_boxes_do_not_take_the_clicks(scene: Scene, two: tuple[Any, Any]) -> None:
    """Slicer makes each new list or ROI that to which clicks add points."""
    anna, bert = two
    mouse, examples = Mouse(scene), Examples(scene.mrml)
    example = examples.add(anna, "spleen")
    views.show_scan(scene.mrml, anna)
    views.start_placing(example)
    for point in INSIDE[:5]:  # their preview appears in the middle
        assert mouse.click(point)
        examples.points_changed(example)
    found = Detections("bert", (detection("spleen", INSIDE + THERE.ras_from_ijk[:3, 3]),), "m", "s")
    Results(scene.mrml).apply([(bert, found)])  # a run has found something meanwhile
    assert views.is_placing(example) and mouse.click(INSIDE[5])
    assert len(nodes.defined_points(example)) == 6


@pytest.mark.parametrize("multiple", [0, 1])
def test_placing_ends_after_six_points_and_leaves_the_users_mouse_mode(
    scene: Scene, two: tuple[Any, Any], multiple: int
) -> None:
    anna, _ = two
    interaction = scene.mrml.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    interaction.SetPlaceModePersistence(multiple)
    mouse, examples = Mouse(scene), Examples(scene.mrml)
    example = examples.add(anna, "spleen")
    views.show_scan(scene.mrml, anna)
    views.start_placing(example)
    for point in INSIDE:
        assert views.is_placing(example) and mouse.click(point)
    assert mouse.places == bool(multiple)
    views.stop_placing(scene.mrml)
    assert interaction.GetPlaceModePersistence() == multiple and not mouse.places


def test_the_guidance_is_true_of_the_views(scene: Scene, two: tuple[Any, Any]) -> None:
    anna, _ = two
    red, green = (scene.mrml.GetNodeByID(f"vtkMRMLSliceNode{name}") for name in ("Red", "Green"))
    layout = scene.of_class("vtkMRMLLayoutNode")[0]
    before = layout.GetViewArrangement()
    red.SetOrientation("Sagittal")
    views.start_placing(Examples(scene.mrml).add(anna, "spleen"))
    assert (red.GetOrientation(), green.GetOrientation()) == ("Axial", "Coronal")
    assert layout.GetViewArrangement() == before
    green.SetMappedInLayout(0)
    views.start_placing(Examples(scene.mrml).add(anna, "spleen"))
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpView


# What an event costs


def test_a_pose_that_is_there_makes_no_event(scene: Scene) -> None:
    roi = scene.mrml.AddNewNodeByClass("vtkMRMLMarkupsROINode", "heart")
    pose = nodes.pose_of_box(Box(INSIDE.min(0), INSIDE.max(0)))
    heard: list[str] = []
    nodes.set_pose(roi, pose)
    roi.AddObserver("AnyEvent", lambda caller, event: heard.append(event))
    for _ in range(10):
        nodes.set_pose(roi, pose)
    assert heard == []
    nodes.set_pose(roi, nodes.pose_of_box(Box(INSIDE.min(0) - 1, INSIDE.max(0))))
    assert heard


def test_a_copy_by_the_user_is_no_second_result(scene: Scene, two: tuple[Any, Any]) -> None:
    results, examples = Results(scene.mrml), Examples(scene.mrml)
    before = len(results.rois()), len(examples.all())
    for node in (results.rois()[0], examples.all()[0]):
        clone = scene.mrml.CreateNodeByClass(node.GetClassName())
        clone.Copy(node)
        scene.mrml.AddNode(clone)
        clone.UnRegister(None)
    assert (len(results.rois()), len(examples.all())) == before
