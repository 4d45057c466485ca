"""The shipped weights on real CT in a scene: the ROI lies where the command line and the ground truth say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprloc.apps.demo import DemoScans
from rprloc.detection import Detections
from rprloc.geometry import Box, extreme_points_of_mask
from rprloc.io.markups import write_extreme_points
from rprloc.io.mask_files import read_label_map
from tests.command_line import rprloc
from tests.scans import Pair
from tests.slicer_module.scenes import NO_SLICER, Scene, run_to_end

pytest.importorskip("slicer", reason=NO_SLICER)
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.runner import Runner, serve_command

pytestmark = pytest.mark.slow


@pytest.fixture
def real(scene: Scene) -> Iterator[RPRLocLogic]:
    made = RPRLocLogic(scene.mrml, Runner(serve_command("cpu")))
    yield made
    made.close()


def true_box(labels: Path, query: Any) -> Box:
    """The heart's box in the world, of a label map on the grid that the query had before it was moved."""
    transform = query.GetTransformNodeID()
    query.SetAndObserveTransformNodeID(None)
    mask = read_label_map(labels, nodes.grid_of(query)) == 1
    query.SetAndObserveTransformNodeID(transform)
    return Box.from_extreme_points(extreme_points_of_mask(mask, nodes.grid_of(query)))


def test_the_heart_of_a_real_scan(
    scene: Scene, real: RPRLocLogic, public_scans: DemoScans, public_pair: Pair, tmp_path: Path
) -> None:
    heart = public_pair.support.annotation.points_ras["heart"]
    support: Any = scene.load(public_scans.support_image, "support")
    query: Any = scene.load(public_scans.query_image, "query")
    example = real.examples.add(support, "heart")
    real.examples.set_points(example, heart[[4, 1, 3, 0, 5, 2]])
    real.locate([query])
    assert not run_to_end(real).failed
    box = nodes.box_of_roi(real.results.rois()[0])
    # As the command line says.
    markups = tmp_path / "heart.mrk.json"
    write_extreme_points(markups, heart, "heart")
    build = ["support", "build", "--image", public_scans.support_image, "--markups", markups, "--name", "heart"]
    assert rprloc(*build, "--out", tmp_path / "set.json", "--device", "cpu").exit_code == 0
    done = rprloc("locate", tmp_path / "set.json", public_scans.query_image, "--out", tmp_path, "--device", "cpu")
    assert done.exit_code == 0
    wanted = Detections.load(tmp_path / "query_ct.detections.json").boxes["heart"]
    np.testing.assert_allclose(box.walls_mm, wanted.walls_mm, atol=0.01)
    # Where the heart is, also after the patient was turned and shifted as a whole by a parent transform.
    assert box.iou(true_box(public_scans.query_truth, query)) > 0.5
    angle = np.radians(6.0)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = 150.0, -20.0, 40.0
    scene.transform(turn, query)
    real.locate([query])
    assert not run_to_end(real).failed
    (roi,) = real.results.rois()
    assert nodes.box_of_roi(roi).iou(true_box(public_scans.query_truth, query)) > 0.5


def test_a_landmark_beside_a_ready_made_set(
    scene: Scene, real: RPRLocLogic, public_scans: DemoScans, public_pair: Pair, tmp_path: Path
) -> None:
    heart = public_pair.support.annotation.points_ras["heart"]
    support: Any = scene.load(public_scans.support_image, "support")
    query: Any = scene.load(public_scans.query_image, "query")
    real.examples.set_points(real.examples.add(support, "apex", landmark=True), heart[4:5])
    real.examples.set_points(real.examples.add(support, "heart"), heart)
    real.sets.add_ready_made("@trunk")
    real.locate([query], ["heart", "apex"])
    update = run_to_end(real)
    assert not update.failed and "1 organ and 1 landmark in 1 of 1 scans" in update.summary
    (roi,) = real.results.rois()
    (point,) = real.results.landmarks.all()
    record = real.results.landmarks.record(point)
    assert record.found.expected_error_mm is not None
    assert f"expected error {record.found.expected_error_mm:.0f} mm" in point.GetDescription()
    # As the command line says.
    markups, table = tmp_path / "heart.mrk.json", tmp_path / "apex.csv"
    write_extreme_points(markups, heart, "heart")
    table.write_text("name,r_mm,a_mm,s_mm\napex,{},{},{}\n".format(*heart[4]), encoding="utf-8")
    build = ["support", "build", "--image", public_scans.support_image, "--markups", markups, "--name", "heart"]
    assert rprloc(*build, "--landmarks", table, "--out", tmp_path / "own.json", "--device", "cpu").exit_code == 0
    both = tmp_path / "both.json"
    assert rprloc("support", "merge", tmp_path / "own.json", "@trunk", "--out", both).exit_code == 0
    assert rprloc("locate", both, public_scans.query_image, "--out", tmp_path, "--device", "cpu").exit_code == 0
    wanted = Detections.load(tmp_path / "query_ct.detections.json")
    assert real.results.record(roi).found.supports == wanted["heart"].supports and len(wanted["heart"].supports) == 2
    np.testing.assert_allclose(nodes.box_of_roi(roi).walls_mm, wanted.boxes["heart"].walls_mm, atol=0.01)
    np.testing.assert_allclose(record.point_ras, wanted.points_ras["apex"], atol=0.01)
