"""The review without Qt: order, colours, what comes next, the band, and points on corrected walls."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprloc.detection import AbsentOrgan, Detections, Presence
from rprloc.geometry import Box, Grid, assign_extreme_points
from tests.slicer_module.findings import detection
from tests.slicer_module.scenes import NO_SLICER, Scene, new_scene

pytest.importorskip("slicer", reason=NO_SLICER)
import slicer

from SlicerRPRLocLib import nodes, views
from SlicerRPRLocLib.band import Band
from SlicerRPRLocLib.examples import Examples
from SlicerRPRLocLib.history import History
from SlicerRPRLocLib.results import Results
from SlicerRPRLocLib.review import STEPS, Column, by_column, most_doubtful_unchecked, next_unchecked
from SlicerRPRLocLib.sets import Sets

GRID = Grid((60, 50, 40), np.diag([2.0, 2.0, 2.5, 1.0]))
INSIDE = np.array([[20.0, 50, 50], [80, 52, 51], [50, 20, 49], [51, 80, 50], [50, 50, 20], [49, 51, 80]])


def absent(organ: str, chance: float) -> AbsentOrgan:
    return AbsentOrgan(organ, Presence(0.0, 1.0 - chance, chance), ("anna",))


@pytest.fixture
def results(scene: Scene) -> Results:
    """Findings in three scans, of all kinds."""
    made = Results(scene.mrml)
    found = {
        "scan 10": (detection("heart", INSIDE, 4.0), detection("liver", INSIDE, 12.0)),
        "scan 9": (detection("heart", INSIDE, 25.0), absent("brain", 0.99), absent("liver", 0.6)),
        "Scan 1": (detection("spleen", INSIDE, None), detection("liver", 0.5 * INSIDE + 20.0, 6.0)),
    }
    for name, organs in found.items():
        volume = scene.add_volume(np.zeros(GRID.shape, np.int16), GRID, name)
        made.apply([(volume, Detections(name, organs, "m", "s"))])
    return made


def told(rows: list[Any]) -> list[str]:
    return [f"{row.organ} in {row.scan}" for row in rows]


def test_the_most_doubtful_come_first_over_all_scans(results: Results) -> None:
    assert told(results.rows()) == [
        *("heart in scan 9", "liver in scan 10", "liver in Scan 1", "heart in scan 10"),
        *("spleen in Scan 1", "liver in scan 9", "brain in scan 9"),
    ]
    assert [row.error for row in results.rows()] == ["25.0", "12.0", "6.0", "4.0", "", "", ""]
    (volume,) = (volume for volume in nodes.scans(results.scene) if volume.GetName() == "scan 9")
    assert told(results.rows(volume)) == [f"{organ} in scan 9" for organ in ("heart", "liver", "brain")]


def test_a_column_orders_and_equal_rows_stay_most_doubtful_first(results: Results) -> None:
    rows = results.rows()
    scans = told(by_column(rows, Column.SCAN, backwards=False))
    assert scans[:4] == ["liver in Scan 1", "spleen in Scan 1", "heart in scan 9", "liver in scan 9"]
    assert scans[-2:] == ["liver in scan 10", "heart in scan 10"]
    assert told(by_column(rows, Column.SCAN, backwards=True))[:2] == ["liver in scan 10", "heart in scan 10"]
    assert told(by_column(rows, Column.ORGAN, backwards=False))[:3] == [
        *("brain in scan 9", "heart in scan 9", "heart in scan 10"),
    ]
    sizes = [row.size for row in by_column(rows, Column.SIZE, backwards=False)]
    assert sizes[:3] == ["absent", "absent", "30 x 30 x 30"] and set(sizes[3:]) == {"60 x 60 x 60"}
    results.check(rows[0].key, True)
    assert told(by_column(results.rows(), Column.CHECKED, backwards=False))[-1] == "heart in scan 9"
    for column in Column:
        ordered = by_column(rows, column, backwards=False)
        assert sorted(map(id, ordered)) == sorted(map(id, rows))


def test_a_corrected_box_keeps_its_place_and_loses_its_colour(results: Results) -> None:
    before = told(results.rows())
    roi = results.find(results.rows()[0].key)
    assert results.rows()[0].step is STEPS[-1]
    roi.SetSize(5.0, 6.0, 7.0)
    row = results.rows()[0]
    assert told(results.rows()) == before and row.step is None
    assert (row.error, row.size) == ("corrected", "5 x 6 x 7")
    assert "Corrected by hand" in row.text and "may be off" not in row.text
    assert "Each wall may be off by 12 mm" in results.rows()[1].text


def test_the_next_unchecked_row_is_below_and_after_the_last_the_first(results: Results) -> None:
    rows = results.rows()
    for index, row in enumerate(rows):
        after = next_unchecked(rows, row.key)
        assert after is not None and after.key == rows[(index + 1) % len(rows)].key
    results.check(rows[1].key, True)
    results.check(rows[6].key, True)
    now = results.rows()
    assert next_unchecked(now, rows[0].key).key == rows[2].key
    assert next_unchecked(now, rows[5].key).key == rows[0].key == next_unchecked(now, None).key
    by_scan = by_column(now, Column.SCAN, backwards=False)
    assert most_doubtful_unchecked(by_scan, rows[1].key).key == rows[0].key  # that one is checked
    assert most_doubtful_unchecked(by_scan, rows[0].key).key == rows[2].key  # the user leaves that one for now
    for row in rows:
        results.check(row.key, True)
    assert next_unchecked(results.rows(), rows[0].key) is None is most_doubtful_unchecked(results.rows(), None)


def test_ticks_of_absent_organs_can_be_undone(results: Results) -> None:
    history = History(Examples(results.scene), results, Sets(results.scene))
    row = results.rows()[-1]
    results.check(row.key, True)
    history.record()
    assert results.rows()[-1].checked
    history.undo()
    assert not results.rows()[-1].checked
    history.redo()
    assert results.rows()[-1].checked


def luminance(colour: tuple[int, int, int]) -> float:
    """As in the Web's rules of contrast."""
    shares = [value / 255 for value in colour]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_colours_are_read_without_seeing_hues_and_text_is_read_on_each() -> None:
    assert all(contrast(step.ground, step.text) >= 7.0 for step in STEPS)
    grounds = [step.ground for step in STEPS]
    assert [step.from_mm for step in STEPS] == sorted(step.from_mm for step in STEPS)
    for lighter, darker in itertools.pairwise(grounds):
        assert luminance(lighter) > luminance(darker) and contrast(lighter, darker) >= 1.5


def test_points_on_corrected_walls_mark_just_these_walls() -> None:
    """Also those of points that were found outside of their own box, or on the wrong side."""
    from SlicerRPRLocLib.review import with_box

    generator = np.random.default_rng(5)
    for _ in range(200):
        found = detection("heart", INSIDE + generator.normal(0.0, 15.0, (6, 3)))
        corner = generator.uniform(-100.0, 100.0, 3)
        box = Box(corner, corner + generator.uniform(2.0, 90.0, 3))
        points = with_box(found, box).points_ras
        marked = Box.from_extreme_points(assign_extreme_points(points[generator.permutation(6)]))
        np.testing.assert_allclose(marked.walls_mm, box.walls_mm)
        assert (points >= box.min_ras - 1e-9).all() and (points <= box.max_ras + 1e-9).all()
    shifted = with_box(detection("heart", INSIDE), Box(INSIDE.min(0) + 7.0, INSIDE.max(0) + 7.0))
    np.testing.assert_allclose(shifted.points_ras, INSIDE + 7.0)


# The band


@pytest.fixture
def two(scene: Scene) -> tuple[Results, Any, Any]:
    """Two scans with a heart each; the views show the first."""
    scene.add_views()
    results, volumes = Results(scene.mrml), []
    for name in ("anna", "bert"):
        volumes.append(scene.add_volume(np.zeros(GRID.shape, np.int16), GRID, name))
        results.apply([(volumes[-1], Detections(name, (detection("heart", INSIDE, 8.0),), "m", "s"))])
    views.show_scan(scene.mrml, volumes[0])
    return results, *(results.roi(volume, "heart") for volume in volumes)


def bands(scene: Scene) -> list[Any]:
    """The boxes of the band that are drawn in the red view, the larger first."""
    found = [roi for roi in scene.of_class("vtkMRMLMarkupsROINode") if roi.GetAttribute(nodes.ROLE) == "band"]
    displays = [(roi, roi.GetDisplayNode()) for roi in found]
    seen = [roi for roi, one in displays if one.GetVisibility() and one.IsDisplayableInView("vtkMRMLSliceNodeRed")]
    return sorted(seen, key=lambda roi: -roi.GetSize()[0])


def test_the_band_is_as_wide_as_the_expected_error(scene: Scene, two: tuple[Results, Any, Any]) -> None:
    _, roi, other = two
    band, box = Band(scene.mrml), nodes.box_of_roi(roi)
    band.show(roi, box, 8.0)
    outer, inner = (nodes.box_of_roi(node) for node in bands(scene))
    np.testing.assert_allclose(outer.walls_mm - box.walls_mm, [-8.0, 8.0] * 3)
    np.testing.assert_allclose(inner.walls_mm - box.walls_mm, [8.0, -8.0] * 3)
    band.show(roi, box, 30.0)  # nothing is left of the inner box
    assert len(bands(scene)) == 1
    band.show(roi, box, 8.0)
    assert len(bands(scene)) == 2
    band.show(other, box, 8.0)  # in a scan that no view shows
    assert bands(scene) == []
    views.show_scan(scene.mrml, nodes.volume_of(other))
    assert len(bands(scene)) == 2
    roi_count = len(scene.of_class("vtkMRMLMarkupsROINode"))
    band.show(roi, box, 5.0)
    assert len(scene.of_class("vtkMRMLMarkupsROINode")) == roi_count


def test_a_band_that_is_hidden_stays_so_whatever_the_views_show(scene: Scene, two: tuple[Results, Any, Any]) -> None:
    _, roi, other = two
    band = Band(scene.mrml)
    for between in (None, other):
        views.show_scan(scene.mrml, nodes.volume_of(roi))
        band.show(roi, nodes.box_of_roi(roi), 8.0)
        if between is not None:
            views.show_scan(scene.mrml, nodes.volume_of(between))
        band.hide()
        for one in (other, roi):
            views.show_scan(scene.mrml, nodes.volume_of(one))
            assert bands(scene) == []
    roi.SetDisplayVisibility(False)  # the user does not want to see the box
    band.show(roi, nodes.box_of_roi(roi), 8.0)
    assert bands(scene) == []


def test_a_band_is_for_the_eye_alone(scene: Scene, two: tuple[Results, Any, Any], tmp_path: Path) -> None:
    results, roi, _ = two
    seen: list[bool] = []
    scene.mrml.AddObserver(
        scene.mrml.NodeAddedEvent,
        _added(lambda node: seen.append(bool(node.GetHideFromEditors()))),
    )
    band, history = Band(scene.mrml), History(Examples(scene.mrml), results, Sets(scene.mrml))
    selection = scene.mrml.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    active = selection.GetActivePlaceNodeID() if selection else None
    band.show(roi, nodes.box_of_roi(roi), 8.0)
    assert seen == [True, True] and not history.can_undo
    assert (selection.GetActivePlaceNodeID() if selection else None) == active
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene.mrml)
    for node in bands(scene):
        display = node.GetDisplayNode()
        assert node.GetLocked() and not node.GetSelectable() and not hierarchy.GetItemByDataNode(node)
        assert not display.GetVisibility3D() and not display.GetFillVisibility()
        assert not display.GetHandlesInteractive() and not display.GetPropertiesLabelVisibility()
    heard: list[str] = []
    for node in bands(scene):
        node.AddObserver("AnyEvent", lambda caller, event: heard.append(event))
    band.show(roi, nodes.box_of_roi(roi), 8.0)
    assert heard == []
    assert scene.mrml.WriteToMRB(str(tmp_path / "scene.mrb"), None)
    again = new_scene()
    assert again.mrml.ReadFromMRB(str(tmp_path / "scene.mrb"), True)
    assert {node.GetAttribute(nodes.ROLE) for node in again.of_class("vtkMRMLMarkupsROINode")} == {"result"}
    again.close()


def _added(tell: Any) -> Any:
    import vtk

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(caller: Any, event: str, node: Any) -> None:
        if node.IsA("vtkMRMLMarkupsROINode"):
            tell(node)

    return added
