"""The programs in examples/, as a user runs them: on the demonstration's public scans, each in a process of its own."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rprloc
from rprloc.apps.demo import DemoScans
from rprloc.geometry import extreme_points_of_mask

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run_example(name: str, *arguments: object) -> str:
    """What a program prints; it must succeed."""
    command = [sys.executable, EXAMPLES / f"{name}.py", *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def heart_of_the_query(scans: DemoScans) -> rprloc.Box:
    grid = rprloc.read_volume(scans.query_image).grid
    mask = rprloc.read_label_map(scans.query_truth, grid) > 0
    return rprloc.Box.from_extreme_points(extreme_points_of_mask(mask, grid))


def test_there_are_three_and_each_says_what_it_shows() -> None:
    names = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    assert names == ["01_locate", "02_crop_for_segmentation", "03_train_on_own_scans"]
    for name in names:
        program = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        assert program.startswith('"""') and f"python examples/{name}.py" in program.split('"""')[1]
        assert 30 <= program.count("\n") <= 65


@pytest.mark.slow
@pytest.mark.parametrize("name", ["01_locate", "02_crop_for_segmentation", "03_train_on_own_scans"])
def test_each_has_a_help_text(name: str) -> None:
    text = run_example(name, "--help")
    assert f"python examples/{name}.py" in text and "--out" in text


@pytest.mark.slow
def test_locate_finds_the_heart_and_writes_what_it_found(public_scans: DemoScans, tmp_path: Path) -> None:
    printed = run_example("01_locate", "--scans", public_scans.query_image.parent, "--out", tmp_path)
    found = rprloc.Detections.load(tmp_path / "query_ct.detections.json")
    assert found["heart"].box.iou(heart_of_the_query(public_scans)) > 0.8
    assert "heart: " in printed and found["heart"].remark in printed and "Warning" not in printed
    assert rprloc.SupportSet.load(tmp_path / "heart.json").identity == found.support_id
    assert {path.name for path in tmp_path.iterdir()} == {
        "heart.json",
        "query_ct.detections.json",
        "query_ct.mrk.json",
        "query_ct.png",
        "query_ct.slices",
    }


@pytest.mark.slow
def test_a_cropped_scan_holds_the_heart_where_it_lay(public_scans: DemoScans, tmp_path: Path) -> None:
    printed = run_example("02_crop_for_segmentation", "--scans", public_scans.query_image.parent, "--out", tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "query_ct_heart.nii.gz" and path.name in printed
    part, whole = rprloc.read_volume(path), rprloc.read_volume(public_scans.query_image)
    heart = heart_of_the_query(public_scans)
    assert part.grid.contains([heart.min_ras, heart.max_ras]).all()
    assert part.hu.size < 0.5 * whole.hu.size
    first = np.rint(whole.grid.ijk(part.grid.ras([0, 0, 0]))).astype(int)
    same = whole.hu[tuple(slice(a, a + n) for a, n in zip(first, part.hu.shape, strict=True))]
    np.testing.assert_array_equal(part.hu, same)


@pytest.mark.slow
def test_training_gives_weights_that_can_be_used(public_scans: DemoScans, tmp_path: Path) -> None:
    folder = public_scans.query_image.parent
    printed = run_example("03_train_on_own_scans", "--scans", folder, "--out", tmp_path / "run", "--steps", 2)
    assert "2 scans" in printed
    with (tmp_path / "run" / "skipped.csv").open(newline="", encoding="utf-8") as stream:
        assert {Path(row["scan"]).name for row in csv.DictReader(stream)} == {
            public_scans.support_labels.name,
            public_scans.query_truth.name,
        }
    recipe = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["training"]
    assert (recipe["coarse_steps"], recipe["fine_steps"]) == (2, 2)
    ours = rprloc.Localizer.load(tmp_path / "run" / "model.pt", "cpu")
    assert ours.model_id in printed and ours.model_id != rprloc.Localizer.load(device="cpu").model_id
