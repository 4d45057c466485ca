"""``rprloc train``: weights that locate, runs that go on, scans that are left out, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from rprloc.localization.localizer import Localizer
from rprloc.volume import to_sitk
from tests.command_line import rprloc
from tests.example import ExampleFiles
from tests.persons import person


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datasets.json with three unlabelled scans of drawn persons."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "body" / "images").mkdir(parents=True)
    for n, last_mm in enumerate((300, 280, 320)):
        scan = person(np.array([10.0 * n, 0.0, 0.0]), 1.0, 60, last_mm)
        hu = np.interp(scan.image / 255.0, [0.0, 0.2, 0.8, 1.0], [-1000, -200, 300, 1500]).astype(np.int16)
        sitk.WriteImage(to_sitk(hu, scan.grid), folder / "body" / "images" / f"scan{n}.nii.gz")
    cases = {f"scan{n}": {"split": "val" if n == 2 else "train", "targets": []} for n in range(3)}
    (folder / "datasets.json").write_text(json.dumps({"body": {"labels": {"1": "lung"}, "cases": cases}}))
    return folder / "datasets.json"


@pytest.mark.slow
def test_train_makes_weights_that_locate_and_goes_on_where_it_stopped(
    example: ExampleFiles, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["train", "--data", dataset, "--out", out, "--device", "cpu", "--coarse-steps", 2, "--fine-steps", 2]
    done = rprloc(*command)
    assert done.exit_code == 0, done.stderr
    assert {"model.pt", "coarse.csv", "fine.csv"} <= set(names_in(out))
    trained = Localizer.load(out / "model.pt", "cpu")
    assert trained.model.identity() in done.stdout
    assert trained.model.identity() != Localizer.load(example.weights, "cpu").model.identity()

    assert "Training on 2 scans: about" in done.stdout
    for stage in ("coarse", "fine"):
        rows = [line.split(",") for line in (out / f"{stage}.csv").read_text().splitlines()]
        measured = [["2", what] for what in ("training", "validation", "offsets", "views")]
        assert [row[:2] for row in rows] == [["step", "crops"], *measured]
    # The same configuration, scans and seed give the same weights again.
    again = rprloc(
        "train", "--data", dataset, "--out", tmp_path / "again", "--device", "cpu", "--config", out / "config.json"
    )
    assert again.exit_code == 0, again.stderr
    for ours, theirs in zip(
        Localizer.load(tmp_path / "again" / "model.pt", "cpu").model.parameters(),
        trained.model.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)

    done = rprloc(*command)
    assert done.exit_code == 2 and "holds a training run already" in done.stderr
    # Nothing is left to do: the weights stay what they are, and so does the recipe, which need not be given again.
    recipe = (out / "config.json").read_text()
    done = rprloc("train", "--data", dataset, "--out", out, "--device", "cpu", "--resume")
    assert done.exit_code == 0 and trained.model.identity() in done.stdout
    assert (out / "config.json").read_text() == recipe


@pytest.mark.slow
def test_a_folder_of_scans_is_trained_on_from_given_weights_and_bad_ones_are_listed(
    example: ExampleFiles, dataset: Path, tmp_path: Path
) -> None:
    images, out = tmp_path / "scans", tmp_path / "run"
    shutil.copytree(dataset.parent / "body" / "images", images / "ward 3")
    (images / "broken.nii.gz").write_bytes(b"no image")
    (images / "letters").mkdir()
    (images / "letters" / "to_the_doctor.txt").write_text("Dear colleague")
    mr = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 900, (40, 40, 40)).astype(np.int16))
    mr.SetSpacing([4.0, 4.0, 4.0])
    sitk.WriteImage(mr, images / "mr.nrrd")
    steps = ("--coarse-steps", 2, "--fine-steps", 2)
    done = rprloc(
        "train", "--images", images, "--out", out, "--init", example.weights, "--device", "cpu", *steps
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "Training on 3 scans: about" in done.stdout
    with (out / "skipped.csv").open(encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["scan", "reason"]
    assert {Path(path).name for path, _ in rows[1:]} == {"broken.nii.gz", "letters", "mr.nrrd"}
    assert "does not look like CT" in next(reason for path, reason in rows if path.endswith("mr.nrrd"))
    assert "3 of 6 scans are left out" in done.stderr
    trained = Localizer.load(out / "model.pt", "cpu").model
    shipped = Localizer.load(example.weights, "cpu").model
    assert trained.identity() != shipped.identity()
    np.testing.assert_array_equal(trained.atlas.values, shipped.atlas.values)  # the frame stays
    go_on = ("train", "--images", images, "--out", out, "--device", "cpu", "--resume")
    done = rprloc(*go_on)  # what was not begun before it stopped would begin from nothing
    assert done.exit_code == 2 and f"began from weights {shipped.identity()}" in done.stderr, done.stderr
    done = rprloc(*go_on, "--init", example.weights)
    assert done.exit_code == 0 and trained.identity() in done.stdout, done.stderr


def test_training_on_a_folder_without_usable_scans_is_refused(example: ExampleFiles, tmp_path: Path) -> None:
    images, out = tmp_path / "scans", tmp_path / "run"
    done = rprloc("train", "--images", images, "--out", out)
    assert done.exit_code == 2 and "There is no folder" in done.stderr
    images.mkdir()
    done = rprloc("train", "--images", images, "--out", out)
    assert done.exit_code == 2 and "holds no files" in done.stderr
    assert not out.exists()
    (images / "broken.nii.gz").write_bytes(b"no image")
    done = rprloc("train", "--images", images, "--out", out)
    assert done.exit_code == 2 and "None of the 1 scans can be used" in done.stderr
    assert not (out / "model.pt").exists()


def test_training_takes_one_source_of_scans(dataset: Path, tmp_path: Path) -> None:
    for given in ((), ("--data", dataset, "--images", dataset.parent)):
        done = rprloc("train", *given, "--out", tmp_path / "run")
        assert done.exit_code == 2 and "--data or from --images" in done.stderr


def test_training_needs_cases_of_split_train(example: ExampleFiles, tmp_path: Path) -> None:
    data, out = tmp_path / "datasets.json", tmp_path / "run"
    done = rprloc("train", "--data", data, "--out", out)
    assert done.exit_code == 2 and "There is no file" in done.stderr
    data.write_text(json.dumps({"body": {"labels": {}, "cases": {"a": {"split": "test", "targets": []}}}}))
    done = rprloc("train", "--data", data, "--out", out)
    assert done.exit_code == 2 and "no case of split train" in done.stderr
    assert not out.exists()
