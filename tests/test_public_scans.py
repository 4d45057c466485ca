"""The measurement on public scans: which organs count, and by whom they are located."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

from rprloc.io.dataset import Case
from scripts.research.measure_public_scans import NAMES, tasks, whole_organs


def test_organs_that_end_with_the_scan_do_not_count(tmp_path: Path) -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[1:3, 1:3, 1:7] = 2
    labels[4:6, 4:6, 0:4] = 3
    labels[5:8, 1:3, 2:4] = 5
    labels[4:6, 1:3, 5:7] = 20  # a bone, of no interest
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([-3.0, 3.0, 3.0, 1.0])), tmp_path / "labels.nii.gz")
    assert whole_organs(tmp_path / "labels.nii.gz", NAMES) == ("kidney_right",)


def case(name: str, targets: tuple[str, ...]) -> Case:
    return Case(name, "public", "test", Path(name), Path(name), targets, NAMES)


def test_public_scans_are_each_others_examples_and_never_their_own() -> None:
    public = [case("trunk", ("heart", "liver")), case("chest", ("heart",)), case("belly", ("pancreas",))]
    names = [[(each.name, each.split, each.region) for each in cases] for cases in tasks(public, None)]
    assert names == [
        [("chest", "support", "trunk_by_public"), ("trunk", "test", "trunk_by_public")],
        [("trunk", "support", "chest_by_public"), ("chest", "test", "chest_by_public")],
    ]
