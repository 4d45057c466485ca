"""The shipped model for CT and MR on real scans: what was marked in CT or MR is found in MR of another person.

No test case takes part, so what is asked here was not chosen on one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rprloc import Detections, Localizer
from rprloc.annotation import Example
from rprloc.evaluation.evaluate import read_case
from rprloc.geometry import Box
from rprloc.io.dataset import Case, read_dataset
from rprloc.io.reading import read_volume
from rprloc.localization.support import SupportSet
from tests.phantoms import STORAGES, stored_otherwise
from tests.scans import ANNOTATED, MORE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (MORE / "mr_abdomen").is_dir() or not (ANNOTATED / "datasets.json").is_file(),
        reason="the annotated CT and MR scans are not on this machine",
    ),
]
ORGANS = {"liver", "kidney_right", "kidney_left", "spleen"}


@pytest.fixture(scope="module")
def both() -> Localizer:
    return Localizer.load("ct-mr", "cpu")


def supports(folder: str) -> list[Case]:
    """The support cases of a region that show all of the organs."""
    root = MORE if folder == "mr_abdomen" else ANNOTATED
    cases = read_dataset(root / "datasets.json")
    return [case for case in cases if (case.region, case.split) == (folder, "support") and set(case.targets) >= ORGANS]


@pytest.fixture(scope="module")
def query() -> Example:
    return read_case(supports("mr_abdomen")[1])


@pytest.fixture(scope="module", params=["mr_abdomen", "abdomen"])
def support_set(both: Localizer, request: pytest.FixtureRequest) -> SupportSet:
    return both.learn(read_case(supports(request.param)[0]))


@pytest.fixture(scope="module")
def found(both: Localizer, support_set: SupportSet, query: Example) -> Detections:
    return both.locate(query.volume, support_set)


def test_organs_of_another_person_are_found_in_mr(found: Detections, query: Example) -> None:
    truth = {name: Box.from_extreme_points(query.annotation.points_ras[name]) for name in ORGANS}
    ious = {name: found.boxes[name].iou(truth[name]) for name in ORGANS}
    assert np.mean(list(ious.values())) > 0.4 and min(ious.values()) > 0.1, ious
    assert not any("does not look like" in warning for warning in found.warnings), found.warnings


def test_the_scale_of_mr_and_how_it_is_stored_do_not_matter(
    both: Localizer, support_set: SupportSet, found: Detections, query: Example
) -> None:
    values, grid = stored_otherwise(query.volume.hu, query.volume.grid, *STORAGES[list(STORAGES)[-1]])
    other = both.locate(replace(query.volume, hu=3.7 * values.astype(np.float32) + 50.0, grid=grid), support_set)
    for name in ORGANS:
        np.testing.assert_allclose(other.boxes[name].walls_mm, found.boxes[name].walls_mm, atol=2.0, err_msg=name)


def test_mr_that_is_upside_down_is_not_located_without_a_word(both: Localizer, support_set: SupportSet) -> None:
    volume = read_volume(MORE / "mr_abdomen" / "images" / "chaos_mr_03.nii.gz")
    values, grid = volume.hu, volume.grid
    axis = int(np.argmax(np.abs(grid.ras_from_ijk[2, :3])))
    found = both.locate(replace(volume, hu=np.ascontiguousarray(np.flip(values, axis))), support_set)
    assert any("times as long" in warning and "head" in warning for warning in found.warnings), found.warnings


def test_what_was_marked_in_mr_is_found_in_ct(both: Localizer) -> None:
    known, query = both.learn(read_case(supports("mr_abdomen")[0])), read_case(supports("abdomen")[1])
    found = both.locate(query.volume, known)
    ious = [found.boxes[name].iou(Box.from_extreme_points(query.annotation.points_ras[name])) for name in ORGANS]
    assert np.mean(ious) > 0.3, ious
