"""The shipped weights on real CT: what must hold whatever the accuracy is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import STORAGES, stored_otherwise

from rprloc.detection import Detections
from rprloc.evaluation.evaluate import annotated
from rprloc.evaluation.scores import MEAN_TARGETS
from rprloc.geometry import Grid
from rprloc.io.dataset import Case, read_dataset
from rprloc.io.reading import read_volume
from rprloc.localization.localizer import Engine
from rprloc.localization.support import SupportSet
from rprloc.volume import Volume, resample

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load(device="cpu")


@pytest.fixture(scope="module", params=["han", "thorax", "abdomen"])
def region(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def cases(shared_data: Path, region: str) -> list[Case]:
    """The two support cases of a region with the most organs wholly inside: one to learn from, one to search."""
    found = [case for case in read_dataset(shared_data / "datasets.json") if case.region == region]
    return sorted((case for case in found if case.split == "support"), key=lambda case: -len(case.targets))[:2]


@pytest.fixture(scope="module")
def support_set(engine: Engine, cases: list[Case]) -> SupportSet:
    volume, points, masks = annotated(cases[0])
    return engine.support_set(volume, points, scan="support", source="label map", masks=masks)


@pytest.fixture(scope="module")
def query(cases: list[Case]) -> Volume:
    return read_volume(cases[1].image_path)


@pytest.fixture(scope="module")
def found(engine: Engine, support_set: SupportSet, query: Volume) -> Detections:
    return engine.detect(query, support_set)


def assert_same_boxes(ours: Detections, theirs: Detections, query: Volume, region: str, tolerance_mm: float) -> None:
    """For the organs that count in evaluation; those whose box a face of the scan cuts are left out."""
    compared = 0
    for name in MEAN_TARGETS.get(region, tuple(theirs.boxes)):
        box, other = ours.boxes[name], theirs.boxes[name]
        if query.grid.contains(np.stack([other.min_ras, other.max_ras])).all():
            np.testing.assert_allclose(box.walls_mm, other.walls_mm, atol=tolerance_mm, err_msg=name)
            compared += 1
    assert compared >= 3


def test_a_support_finds_its_own_points(engine: Engine, support_set: SupportSet, cases: list[Case]) -> None:
    volume, *_ = annotated(cases[0])
    for organ in engine.detect(volume, support_set).organs:
        truth = support_set.supports[0].organs[organ.organ].points_ras
        assert np.linalg.norm(organ.points_ras - truth, axis=1).max() < 2.0, organ.organ


def test_two_runs_give_the_same_numbers(
    engine: Engine, support_set: SupportSet, query: Volume, found: Detections
) -> None:
    assert engine.detect(query, support_set).to_json() == found.to_json()


@pytest.mark.parametrize(("order", "flipped"), list(STORAGES.values())[1:], ids=list(STORAGES)[1:])
def test_the_stored_orientation_does_not_matter(
    engine: Engine,
    support_set: SupportSet,
    query: Volume,
    found: Detections,
    region: str,
    order: tuple[int, ...],
    flipped: tuple[int, ...],
) -> None:
    hu, grid = stored_otherwise(query.hu, query.grid, order, flipped)
    assert_same_boxes(engine.detect(Volume(hu, grid), support_set), found, query, region, 2.0)


def test_the_voxel_size_hardly_matters(
    engine: Engine, support_set: SupportSet, query: Volume, found: Detections, region: str
) -> None:
    bounds = query.grid.bounds
    shape = np.floor(bounds.size_mm / 2.0).astype(int).tolist()
    finer = resample(query, Grid.isotropic(shape, 2.0, bounds.min_ras + 1.0))
    assert_same_boxes(engine.detect(finer, support_set), found, query, region, 2.0)


def test_boxes_of_another_person_land_near_the_organs(found: Detections, cases: list[Case]) -> None:
    """Not all: a stomach or a gallbladder may lie quite elsewhere in the next person."""
    _, truth, _ = annotated(cases[1])
    distances_mm = {
        name: float(np.linalg.norm(found.boxes[name].centre_ras - truth[name].mean(axis=0)))
        for name in found.boxes.keys() & truth.keys() - {"spinal_cord", "esophagus"}  # their contours stop anywhere
    }
    assert len(distances_mm) >= 3
    assert np.median(list(distances_mm.values())) < 20.0, distances_mm
    assert np.mean([distance < 40.0 for distance in distances_mm.values()]) >= 0.75, distances_mm
