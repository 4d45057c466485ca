"""The shipped weights on real CT in a scene: the ROI lies where the command line and the ground truth say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import rprloc

from rprloc.evaluation.evaluate import annotated
from rprloc.geometry import Box, extreme_points_of_mask
from rprloc.io.annotations import read_label_map
from rprloc.io.dataset import Case, read_dataset
from rprloc.io.markups import write_extreme_points
from rprloc.io.results import load_detections
from slicer_module.conftest import NO_SLICER, Scene, run_to_end

pytest.importorskip("slicer", reason=NO_SLICER)
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.runner import Runner, serve_command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> list[Case]:
    """Two annotated examples: one to learn from, one to search. No test case is looked at."""
    found = [case for case in read_dataset(shared_data / "datasets.json") if case.region == "thorax"]
    return [case for case in found if case.split == "support" and "heart" in case.targets][:2]


@pytest.fixture
def real(scene: Scene) -> Iterator[RPRLocLogic]:
    made = RPRLocLogic(scene.mrml, Runner(serve_command("cpu")))
    yield made
    made.close()


def true_box(case: Case, query: Any) -> Box:
    """The heart's box in the world, of a label map on the grid that the query had before it was moved."""
    number = next(number for number, organ in case.label_names.items() if organ == "heart")
    transform = query.GetTransformNodeID()
    query.SetAndObserveTransformNodeID(None)
    mask = read_label_map(case.labels_path, nodes.grid_of(query)) == number
    query.SetAndObserveTransformNodeID(transform)
    return Box.from_extreme_points(extreme_points_of_mask(mask, nodes.grid_of(query)))


def test_the_heart_of_a_real_scan(scene: Scene, real: RPRLocLogic, cases: list[Case], tmp_path: Path) -> None:
    one, other = cases
    _, marked, _ = annotated(one)
    support: Any = scene.load(one.image_path, "support")
    query: Any = scene.load(other.image_path, "query")
    example = real.examples.add(support, "heart")
    real.examples.set_points(example, marked["heart"][[4, 1, 3, 0, 5, 2]])
    real.locate([query])
    assert not run_to_end(real).failed
    box = nodes.box_of_roi(real.results.rois()[0])
    # As the command line says.
    write_extreme_points(tmp_path / "heart.mrk.json", marked["heart"], "heart")
    build = ["support", "build", "--image", one.image_path, "--markups", tmp_path / "heart.mrk.json", "--name", "heart"]
    assert rprloc(*build, "--out", tmp_path / "set.json", "--device", "cpu").exit_code == 0
    done = rprloc("locate", tmp_path / "set.json", other.image_path, "--out", tmp_path, "--device", "cpu")
    assert done.exit_code == 0
    wanted = load_detections(tmp_path / f"{other.name}.detections.json").boxes["heart"]
    np.testing.assert_allclose(box.walls_mm, wanted.walls_mm, atol=0.01)
    # Where the heart is, also after the patient was turned and shifted as a whole by a parent transform.
    assert box.iou(true_box(other, query)) > 0.5
    angle = np.radians(6.0)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = 150.0, -20.0, 40.0
    scene.transform(turn, query)
    real.locate([query])
    assert not run_to_end(real).failed
    (roi,) = real.results.rois()
    assert nodes.box_of_roi(roi).iou(true_box(other, query)) > 0.5
