"""What corrections are worth: who corrects which scans, and that a corrected box becomes an example as a box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rprloc.annotation import Annotation, Example, Mask
from rprloc.evaluation.scores import PairScore
from rprloc.geometry import Box, extreme_points_of_mask
from rprloc.io.dataset import Case
from rprloc.volume import Volume
from scripts.research.measure_corrections import (
    CORRECTIONS,
    USERS,
    as_corrected,
    choose_users,
    put_together,
    summarize_corrections,
)

CUBE = np.array([[0.0, 5, 5], [10, 5, 5], [5, 0, 5], [5, 10, 5], [5, 5, 0], [5, 5, 10]])


def cases(**counts: int) -> list[Case]:
    plain = Case("", "han", "", Path(), Path(), ("jaw",), {1: "jaw"})
    return [replace(plain, name=f"{split} {n}", split=split) for split, count in counts.items() for n in range(count)]


@pytest.mark.parametrize("val", [12, 0])
def test_no_scan_is_measured_that_teaches_and_no_test_case_is_touched(val: int) -> None:
    users = choose_users(cases(support=4, val=val, train=10, test=9))
    assert len(users) == USERS and len({user.corrected for user in users}) == USERS
    for user in users:
        assert len(user.corrected) == CORRECTIONS[-1] and user.examples[0] == user.first
        assert not set(user.examples) & set(user.measured) and user.measured
        splits = [{name.split()[0] for name in names} for names in (user.examples, user.corrected, user.measured)]
        assert (
            splits == [{"support", "val"}, {"val"}, {"val"}] if val else [{"support", "train"}, {"train"}, {"support"}]
        )
    assert len(users[0].measured) == (val - CORRECTIONS[-1] if val else 3)
    assert choose_users(cases(support=4, val=val, train=10, test=9)) == users


def test_a_corrected_box_is_marked_by_its_walls_alone(phantom: Volume) -> None:
    voxels = np.zeros(phantom.grid.shape, bool)
    voxels[8:12, 9:15, 7:10] = voxels[12, 9, 7] = True
    points_ras = extreme_points_of_mask(voxels, phantom.grid)
    mask = Mask.cut_from(voxels, phantom.grid)
    corrected = as_corrected(Example(phantom, Annotation({"organ": points_ras}, {"organ": mask}), "anna")).annotation
    box = Box.from_extreme_points(points_ras)
    assert not corrected.masks
    np.testing.assert_allclose(Box.from_extreme_points(corrected.points_ras["organ"]).walls_mm, box.walls_mm)
    for wall, point_ras in enumerate(corrected.points_ras["organ"]):
        others = [axis for axis in range(3) if axis != wall // 2]
        np.testing.assert_allclose(point_ras[others], box.centre_ras[others])


def test_what_several_examples_found_is_put_together_by_how_sure_they_are() -> None:
    sure, unsure = np.full(6, 1.0), np.full(6, 30.0)
    first, other, third = {"jaw": (CUBE, sure)}, {"jaw": (CUBE + 4.0, unsure), "larynx": (CUBE, sure)}, {}
    alone = put_together([first, third])
    assert list(alone) == ["jaw"]
    np.testing.assert_array_equal(alone["jaw"], CUBE)
    moved_mm = (put_together([first, other])["jaw"] - CUBE).mean()
    assert 0.0 < moved_mm < 2.0


def test_means_and_their_intervals() -> None:
    pairs = [
        PairScore("user 0", f"q{n}", "jaw", iou, np.full(6, mm), np.zeros(6))
        for n, (iou, mm) in enumerate([(0.4, 9.0), (0.6, 4.0), (0.8, 2.0)])
    ]
    iou, low, high, awd_mm, least_mm, most_mm, median_mm, scans = summarize_corrections(pairs)
    assert iou == pytest.approx(0.6) and 0.4 <= low < iou < high <= 0.8 + 1e-9
    assert awd_mm == pytest.approx(5.0) and 2.0 <= least_mm < awd_mm < most_mm <= 9.0
    assert (median_mm, scans) == (4.0, 3)
