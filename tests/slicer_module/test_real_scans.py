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
