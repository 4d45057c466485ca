"""The command line: what each command writes and prints, and what it refuses before it starts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from rprloc import __version__
from rprloc.annotation import Marking, scan_pseudonym
from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.geometry import Box, extreme_points_of_mask
from rprloc.io.markups import read_extreme_points, write_extreme_points
from rprloc.io.mask_files import read_label_map
from rprloc.io.reading import read_volume
from rprloc.localization.localizer import Localizer
from rprloc.localization.support import SupportSet
from rprloc.model.device import choose_device, run_on_device
from tests.command_line import rprloc
from tests.dicoms import write_series
from tests.example import ExampleFiles
from tests.images import write


def located(example: ExampleFiles, *arguments: object) -> list[object]:
    return ["locate", example.support_set, *arguments, "--model", example.weights, "--device", "cpu"]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def copied(example: ExampleFiles, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(example.image.read_bytes())
    return path


# In general


def test_help_and_version_come_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from rprloc.apps.cli import app\n"
        "for words in (['--help'], ['locate', '--help'], ['--version']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0\n"
        "print([name for name in ('torch', 'SimpleITK', 'scipy', 'matplotlib', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert rprloc("--version").stdout == f"rprloc {__version__}\n"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            ["support", "build"],
            ["--image", "--labels", "--names", "--organ", "--standard-names", "--markups", "--name", "--out"],
        ),
        (["support", "merge"], ["--out"]),
        (["support", "show"], []),
        (["locate"], ["--out", "--device", "--organ", "--picture", "--series", "--model", "-v"]),
        (["report"], ["--csv", "--html"]),
        (["series"], []),
        (["serve"], ["--model", "--device"]),
        (["demo"], ["--out"]),
        (["train"], ["--data", "--images", "--out", "--resume", "--init", "--seed", "--coarse-steps", "--fine-steps"]),
        (["evaluate"], ["--data", "--region", "--split", "--shots", "--about", "--out"]),
    ],
)
def test_every_command_explains_its_options(command: list[str], options: list[str]) -> None:
    done = rprloc(*command, "--help")
    assert done.exit_code == 0
    for option in options:
        assert f"{option} " in done.stdout or f"{option}," in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["locate"], ["locat"], ["locate", "a", "b"], ["demo", "--device", "tpu"], ["evaluate", "--shots", "2"]],
)
def test_wrong_usage_ends_with_code_2(arguments: list[str]) -> None:
    done = rprloc(*arguments)
    assert done.exit_code == 2 and done.stderr and not done.stdout


def test_the_installed_command_ends_with_code_2_and_one_line(example: ExampleFiles, tmp_path: Path) -> None:
    """As a user runs it: a process of its own, with main() as the way in."""
    command = [sys.executable, "-c", "import sys; from rprloc.apps.cli import main; sys.exit(main())"]
    done = subprocess.run([*command, "support", "show", "missing.json"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("Error: There is no support set missing.json. Check the path")
        and done.stderr.count("\n") == 1
    )


def test_verbose_tells_where_an_error_arose(tmp_path: Path) -> None:
    missing = tmp_path / "set.json"
    assert "Traceback" not in rprloc("support", "show", missing).stderr
    done = rprloc("support", "show", missing, "-v")
    assert done.exit_code == 2 and "Traceback" in done.stderr
    assert "Traceback" not in rprloc("support", "show", missing).stderr  # it lasts for one command


# Support sets


def test_a_set_built_from_labels_holds_their_extreme_points(example: ExampleFiles, tmp_path: Path) -> None:
    out = tmp_path / "set.json"
    command = ["support", "build", "--image", example.image, "--labels", example.labels, "--names", example.names]
    done = rprloc(*command, "--out", out, "--model", example.weights, "--device", "cpu")
    assert (done.exit_code, done.stderr) == (0, "")
    volume = read_volume(example.image)
    labels = read_label_map(example.labels, volume.grid)
    (support,) = SupportSet.load(out).supports
    assert support.scan == scan_pseudonym(volume) and support.marking == Marking.LABEL_MAP
    assert list(support.organs) == ["bone", "lung"]
    for number, name in ((1, "bone"), (2, "lung")):
        np.testing.assert_allclose(
            support.organs[name].points_ras, extreme_points_of_mask(labels == number, volume.grid), atol=1e-3
        )
    again = tmp_path / "again.json"
    rprloc(*command, "--out", again, "--model", example.weights, "--device", "cpu")
    assert again.read_bytes() == out.read_bytes()


def test_a_set_built_from_markups_equals_one_from_labels_with_the_same_points(
    example: ExampleFiles, tmp_path: Path
) -> None:
    from_labels = SupportSet.load(example.support_set).supports[0].organs["lung"]
    write_extreme_points(tmp_path / "marks.mrk.json", from_labels.points_ras, "F")
    command = ["support", "build", "--image", example.image, "--markups", tmp_path / "marks.mrk.json", "--name", "lung"]
    out = tmp_path / "set.json"
    done = rprloc(*command, "--out", out, "--model", example.weights, "--device", "cpu", "--scan-name", "case 1")
    assert done.exit_code == 0
    (support,) = SupportSet.load(out).supports
    assert (support.scan, support.marking) == ("case 1", Marking.EXTREME_POINTS)
    np.testing.assert_allclose(support.organs["lung"].points_ras, from_labels.points_ras, atol=1e-3)
    np.testing.assert_allclose(support.organs["lung"].latents, from_labels.latents, atol=1e-3)


def test_a_set_takes_annotations_of_several_forms_and_says_what_it_took(example: ExampleFiles, tmp_path: Path) -> None:
    volume = read_volume(example.image)
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = (read_label_map(example.labels, volume.grid) == 1).astype(np.uint8)
    write(masks / "Kidney_L.nii.gz", mask, volume.grid.ras_from_ijk)
    write_extreme_points(tmp_path / "marks.mrk.json", extreme_points_of_mask(mask == 1, volume.grid), "spleen")
    command = ["support", "build", "--image", example.image, "--labels", masks, "--labels", tmp_path / "marks.mrk.json"]
    command += ["--standard-names", "--model", example.weights, "--device", "cpu", "--out", tmp_path / "set.json"]
    done = rprloc(*command)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == [
        "masks is a folder with a file for each organ. Taken: kidney_left (Kidney_L).",
        "marks.mrk.json is a Markups file of 3D Slicer. Taken: spleen.",
    ]
    (support,) = SupportSet.load(tmp_path / "set.json").supports
    assert list(support.organs) == ["kidney_left", "spleen"] and support.marking == Marking.MIXED
    done = rprloc(*command, "--organ", "spleen")
    assert done.exit_code == 0 and list(SupportSet.load(tmp_path / "set.json").organs) == ["spleen"]
    (tmp_path / "set.json").unlink()
    done = rprloc(*command, "--organ", "heart")
    assert done.exit_code == 2 and not (tmp_path / "set.json").exists()
    assert "There is no heart" in done.stderr and "It has kidney_left, spleen." in done.stderr


@pytest.mark.parametrize(
    "marks",
    [
        [],
        ["--names", "n.json"],
        ["--markups", "m.mrk.json"],
        ["--markups", "m.mrk.json", "--name", "lung", "--organ", "lung"],
        ["--markups", "m.mrk.json", "--name", "lung", "--standard-names"],
        ["--labels", "l.nii.gz", "--name", "lung"],
        ["--labels", "l.nii.gz", "--names", "n.json", "--markups", "m.mrk.json", "--name", "lung"],
        ["--markups", "m.mrk.json", "--name", " "],
    ],
)
def test_an_example_is_marked_in_exactly_one_way(example: ExampleFiles, tmp_path: Path, marks: list[str]) -> None:
    done = rprloc("support", "build", "--image", example.image, *marks, "--out", tmp_path / "set.json")
    assert done.exit_code == 2 and done.stderr.startswith("Error: ")
    assert list(tmp_path.iterdir()) == []


def test_merged_sets_locate_with_the_supports_of_both(example: ExampleFiles, tmp_path: Path) -> None:
    content = json.loads(example.support_set.read_text())
    content["supports"][0]["scan"] = "bert"
    del content["supports"][0]["organs"]["bone"]
    (tmp_path / "b.json").write_text(json.dumps(content))
    both = tmp_path / "both.json"
    assert rprloc("support", "merge", example.support_set, tmp_path / "b.json", "--out", both).exit_code == 0
    shown = rprloc("support", "show", both)
    assert shown.exit_code == 0 and shown.stdout.count("lung:") == 2 and shown.stdout.count("bone:") == 1
    assert "2 supports, 2 organs" in shown.stdout and SupportSet.load(both).identity in shown.stdout
    out = tmp_path / "out"
    command = ["locate", both, example.image, "--out", out, "--model", example.weights, "--device", "cpu"]
    assert rprloc(*command).exit_code == 0
    found = Detections.load(out / "anna.detections.json")
    assert {one.organ: one.supports for one in found.organs} == {"bone": ("anna",), "lung": ("anna", "bert")}


def test_sets_that_do_not_go_together_are_not_merged(example: ExampleFiles, tmp_path: Path) -> None:
    content = json.loads(example.support_set.read_text()) | {"model_id": "other"}
    (tmp_path / "b.json").write_text(json.dumps(content))
    done = rprloc("support", "merge", example.support_set, tmp_path / "b.json", "--out", tmp_path / "both.json")
    assert done.exit_code == 2 and "different weights" in done.stderr
    assert names_in(tmp_path) == ["b.json"]


# Locating


def test_locate_writes_what_the_library_finds(example: ExampleFiles, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    done = rprloc(*located(example, example.image, "--out", out, "--picture"))
    assert (done.exit_code, done.complaints) == (0, "")
    assert names_in(out) == ["anna.detections.json", "anna.mrk.json", "anna.png", "anna.slices"]
    found = Detections.load(out / "anna.detections.json")
    support_set = SupportSet.load(example.support_set)
    expected = Localizer.load(example.weights, "cpu").locate(read_volume(example.image), support_set)
    assert (found.query, found.model_id, found.support_id) == ("anna", support_set.model_id, support_set.identity)
    for ours, theirs in zip(found.organs, expected.organs, strict=True):
        assert ours.organ == theirs.organ and ours.organ in done.stdout
        np.testing.assert_allclose(ours.points_ras, theirs.points_ras, atol=1e-3)
        np.testing.assert_allclose(ours.spread_mm, theirs.spread_mm, atol=1e-3)
    rois = json.loads((out / "anna.mrk.json").read_text())["markups"]
    assert [roi["name"] for roi in rois] == ["bone", "lung"] and {roi["type"] for roi in rois} == {"ROI"}
    picture = sitk.ReadImage(str(out / "anna.png"))
    assert min(picture.GetSize()) > 100 and sitk.GetArrayFromImage(picture).std() > 5


def test_an_roi_that_was_written_is_an_example_again(example: ExampleFiles, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rprloc(*located(example, example.image, "--out", out, "--organ", "lung"))
    (found,) = Detections.load(out / "anna.detections.json").organs
    box = Box.from_extreme_points(read_extreme_points(out / "anna.mrk.json"))
    np.testing.assert_allclose(box.walls_mm, found.box.walls_mm, atol=1e-3)


def test_only_the_organs_asked_for_are_located_each_once(example: ExampleFiles, tmp_path: Path) -> None:
    command = located(example, example.image, "--out", tmp_path, "--organ", "lung", "--organ", "lung")
    assert rprloc(*command).exit_code == 0
    assert list(Detections.load(tmp_path / "anna.detections.json").boxes) == ["lung"]


def test_results_of_before_are_replaced_by_equal_ones(example: ExampleFiles, tmp_path: Path) -> None:
    (tmp_path / "anna.detections.json").write_text("old")
    assert rprloc(*located(example, example.image, "--out", tmp_path)).exit_code == 0
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert rprloc(*located(example, example.image, "--out", tmp_path)).exit_code == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert first["anna.detections.json"] != b"old"


def test_a_dicom_folder_is_a_query_and_series_chooses_in_it(example: ExampleFiles, tmp_path: Path) -> None:
    hu = read_volume(example.image).hu
    folder, out = tmp_path / "patient 7", tmp_path / "out"
    wanted = write_series(folder, hu)
    assert rprloc(*located(example, folder, "--out", out)).exit_code == 0
    assert names_in(out) == ["patient 7.detections.json", "patient 7.mrk.json"]
    alone = (out / "patient 7.detections.json").read_bytes()
    write_series(folder, hu[:, :, 1:])
    done = rprloc(*located(example, folder, "--out", out))
    assert done.exit_code == 2 and wanted in done.stderr and "--series" in done.stderr
    assert rprloc(*located(example, folder, "--out", out, "--series", wanted)).exit_code == 0
    assert (out / "patient 7.detections.json").read_bytes() == alone
    done = rprloc(*located(example, folder, example.image, "--out", out, "--series", wanted))
    assert done.exit_code == 2 and "there are 2 queries" in done.stderr


@pytest.mark.parametrize("other", ["b/anna.nii.gz", "anna.nrrd", "ANNA.nii.gz"])
def test_queries_whose_results_would_have_one_name_are_refused(
    example: ExampleFiles, tmp_path: Path, other: str
) -> None:
    first, second = copied(example, tmp_path / "a" / "anna.nii.gz"), copied(example, tmp_path / other)
    done = rprloc(*located(example, first, second, "--out", tmp_path / "out"))
    assert done.exit_code == 2 and str(first) in done.stderr and str(second) in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["file", "file/sub"])
def test_an_out_that_is_no_folder_is_refused(example: ExampleFiles, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    done = rprloc(*located(example, example.image, "--out", tmp_path / out))
    assert done.exit_code == 2 and "cannot be written to" in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_set_is_not_written_into_a_folder_that_is_missing(example: ExampleFiles, tmp_path: Path) -> None:
    done = rprloc("support", "merge", example.support_set, "--out", tmp_path / "none" / "set.json")
    assert done.exit_code == 2 and "Make its folder, or name a file in a folder where you may write" in done.stderr
    assert list(tmp_path.iterdir()) == []


# Devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="this computer has a GPU")
def test_without_a_gpu_cuda_is_refused_and_auto_takes_the_cpu(example: ExampleFiles, tmp_path: Path) -> None:
    command = ["locate", example.support_set, example.image, "--out", tmp_path / "out", "--model", example.weights]
    done = rprloc(*command, "--device", "cuda")
    assert done.exit_code == 2 and "no CUDA GPU" in done.stderr and not (tmp_path / "out").exists()
    done = rprloc(*command, "--device", "auto", "-v")
    assert done.exit_code == 0 and "on cpu" in done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this computer has no GPU")
def test_the_gpu_finds_what_the_cpu_finds(example: ExampleFiles) -> None:
    volume, support_set = read_volume(example.image), SupportSet.load(example.support_set)
    boxes = [Localizer.load(example.weights, device).locate(volume, support_set).boxes for device in ("cpu", "cuda")]
    for name, box in boxes[0].items():
        np.testing.assert_allclose(boxes[1][name].walls_mm, box.walls_mm, atol=0.5)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InputError, match="auto, cpu or cuda"):
        choose_device("tpu")


def out_of_memory_once() -> Callable[[], str]:
    """Work that fails as PyTorch does when the GPU's memory does not suffice, the first time only."""
    calls = iter([True, False])

    def work() -> str:
        if next(calls):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return "done"

    return work


def test_with_too_little_gpu_memory_auto_goes_on_with_the_cpu_and_cuda_does_not(example: ExampleFiles, caplog) -> None:
    model = Localizer.load(example.weights, "cpu").model
    assert run_on_device(model, out_of_memory_once(), fall_back=True) == "done"
    assert "The CPU does the work" in caplog.text
    with pytest.raises(InputError, match="too little free memory"):
        run_on_device(model, out_of_memory_once(), fall_back=False)


def test_files_of_an_earlier_run_that_found_something_else_go(example: ExampleFiles, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        "locate",
        example.support_set,
        example.image,
        "--out",
        out,
        "--model",
        example.weights,
        "--device",
        "cpu",
    ]
    rprloc(*command, "--picture", "--labels")
    drawn = {out / "anna.png", out / "anna.boxes.nii.gz"}
    assert drawn <= set(out.iterdir())
    rprloc(*command)  # finds the same
    assert drawn <= set(out.iterdir())
    rprloc(*command, "--organ", "lung")
    assert sorted(path.name for path in out.iterdir()) == ["anna.detections.json", "anna.mrk.json"]
