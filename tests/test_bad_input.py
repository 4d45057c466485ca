"""Input that cannot be used, through the command line: one line, exit code 2, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.io.markups import write_extreme_points
from rprloc.io.reading import read_volume
from rprloc.localization.confidence import NOT_CALIBRATED
from rprloc.volume import Volume, to_sitk
from tests.command_line import Run, rprloc
from tests.dicoms import edited, write_series
from tests.example import ExampleFiles
from tests.phantoms import mr

Build = Callable[[Path, Volume], Path]


def assert_refused(done: Run, *about: str) -> None:
    """The command ended with code 2 and one line on stderr, the fault and what to do, with every text of ``about``."""
    assert done.exit_code == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ") and lines[0].endswith(".") and ". " in lines[0]
    for text in about:
        assert text in lines[0]


@pytest.fixture
def scan(example: ExampleFiles) -> Volume:
    return read_volume(example.image)


# Scans


def missing(folder: Path, scan: Volume) -> Path:
    return folder / "missing.nii.gz"


def empty(folder: Path, scan: Volume) -> Path:
    (folder / "empty.nii.gz").touch()
    return folder / "empty.nii.gz"


def truncated(folder: Path, scan: Volume) -> Path:
    path = voxels(lambda hu: hu + np.random.default_rng(0).integers(0, 50, hu.shape).astype(np.int16))(folder, scan)
    path.write_bytes(path.read_bytes()[:9000])
    return path


def text(folder: Path, scan: Volume) -> Path:
    (folder / "notes.nii.gz").write_text("no image")
    return folder / "notes.nii.gz"


def document(folder: Path, scan: Volume) -> Path:
    (folder / "report.pdf").write_bytes(b"%PDF-1.7")
    return folder / "report.pdf"


def slice_of(folder: Path, scan: Volume) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(scan.hu[:, :, 10]), str(folder / "slice.mha"))
    return folder / "slice.mha"


def series_of(folder: Path, scan: Volume) -> Path:
    image = nibabel.Nifti1Image(np.stack([scan.hu, scan.hu], -1), scan.grid.ras_from_ijk)
    image.set_sform(scan.grid.ras_from_ijk, 1)
    nibabel.save(image, folder / "four.nii.gz")
    return folder / "four.nii.gz"


def voxels(change: Callable[[np.ndarray], np.ndarray]) -> Build:
    def build(folder: Path, scan: Volume) -> Path:
        sitk.WriteImage(to_sitk(change(np.array(scan.hu)), scan.grid), folder / "scan.nii.gz")
        return folder / "scan.nii.gz"

    return build


def with_nan(hu: np.ndarray) -> np.ndarray:
    changed = hu.astype(np.float32)
    changed[3, 4, 5] = np.nan
    return changed


def ten_slices(folder: Path, scan: Volume) -> Path:
    grid = scan.grid.cropped((0, 0, 5), (30, 24, 10))
    sitk.WriteImage(to_sitk(scan.hu[:, :, 5:15], grid), folder / "scan.nii.gz")
    return folder / "scan.nii.gz"


def two_series(folder: Path, scan: Volume) -> Path:
    for hu in (scan.hu, scan.hu[:, :, :18]):
        write_series(folder / "dicom", hu)
    return folder / "dicom"


def missing_slices(folder: Path, scan: Volume) -> Path:
    write_series(folder / "dicom", scan.hu)
    sorted((folder / "dicom").iterdir())[7].unlink()
    return folder / "dicom"


def mixed_sizes(folder: Path, scan: Volume) -> Path:
    smaller = scan.hu[:20, :, 4].T + 1024

    def shrink(k: int, old: object) -> object:
        return smaller.astype(np.uint16).tobytes() if k == 4 else old

    write_series(folder / "dicom", scan.hu, edited(PixelData=shrink, Columns=lambda k, old: 20 if k == 4 else old))
    return folder / "dicom"


BAD_SCANS: dict[str, tuple[Build, str]] = {
    "no such file": (missing, "There is no"),
    "empty file": (empty, "is empty"),
    "truncated file": (truncated, "cut off"),
    "text called an image": (text, "not a NIfTI file"),
    "not an image": (document, "extension that is not known"),
    "2D image": (slice_of, "a 2D image"),
    "4D image": (series_of, "a 4D image"),
    "constant image": (voxels(np.zeros_like), "constant image"),
    "NaN voxels": (voxels(with_nan), "NaN"),
    "10 slices": (ten_slices, "too small"),
    "two DICOM series": (two_series, "2 DICOM series"),
    "missing slices": (missing_slices, "Slices are missing"),
    "mixed sizes": (mixed_sizes, "differ in size"),
    "nothing but air": (voxels(lambda hu: np.where(hu > 600, -990, -1000).astype(np.int16)), "shows no body"),
}


@pytest.mark.parametrize(("build", "about"), BAD_SCANS.values(), ids=BAD_SCANS.keys())
def test_a_bad_query_is_refused(example: ExampleFiles, scan: Volume, tmp_path: Path, build: Build, about: str) -> None:
    query = build(tmp_path, scan)
    out = tmp_path / "out"
    assert_refused(rprloc("locate", example.support_set, query, "--out", out, "--model", example.weights), about)
    assert not out.exists()


@pytest.mark.parametrize(("build", "about"), BAD_SCANS.values(), ids=BAD_SCANS.keys())
def test_a_bad_example_is_refused(
    example: ExampleFiles, scan: Volume, tmp_path: Path, build: Build, about: str
) -> None:
    image = build(tmp_path, scan)
    marks = tmp_path / "lung.mrk.json"
    write_extreme_points(marks, points_of(scan), "lung")
    out = tmp_path / "set.json"
    command = ["support", "build", "--image", image, "--markups", marks, "--name", "lung", "--out", out]
    assert_refused(rprloc(*command, "--model", example.weights), about)
    assert not out.exists()


def test_an_mr_like_query_is_located_with_a_warning_that_names_the_reason(
    example: ExampleFiles, scan: Volume, tmp_path: Path
) -> None:
    query, out = voxels(mr)(tmp_path, scan), tmp_path / "out"
    done = rprloc("locate", example.support_set, query, "--out", out, "--model", example.weights)
    assert done.exit_code == 0
    assert done.stderr.startswith("Warning: scan.nii.gz: The image does not look like CT")
    assert "as in MR" in done.stderr
    warning, not_calibrated = json.loads((out / "scan.detections.json").read_text())["warnings"]
    assert warning in done.complaints and not_calibrated == NOT_CALIBRATED


def test_one_bad_query_among_many_is_reported_and_the_others_are_done(
    example: ExampleFiles, scan: Volume, tmp_path: Path
) -> None:
    (tmp_path / "copy").mkdir()
    good = tmp_path / "copy" / "bert.nii.gz"
    good.write_bytes(example.image.read_bytes())
    bad, out = ten_slices(tmp_path, scan), tmp_path / "out"
    done = rprloc("locate", example.support_set, example.image, bad, good, "--out", out, "--model", example.weights)
    assert done.exit_code == 1
    reported = done.complaints.splitlines()
    assert len(reported) == 2 and "scan.nii.gz is too small" in reported[0] and "1 of 3 queries failed" in reported[1]
    assert sorted(path.name for path in out.iterdir()) == [
        "anna.detections.json",
        "anna.mrk.json",
        "bert.detections.json",
        "bert.mrk.json",
    ]


def test_if_all_of_many_queries_are_bad_nothing_is_written(example: ExampleFiles, scan: Volume, tmp_path: Path) -> None:
    out = tmp_path / "out"
    queries = [ten_slices(tmp_path, scan), missing(tmp_path, scan)]
    done = rprloc("locate", example.support_set, *queries, "--out", out, "--model", example.weights)
    assert done.exit_code == 2
    assert "too small" in done.stderr and "There is no" in done.stderr and "2 of 2 queries failed" in done.stderr
    assert not out.exists()


# Examples


def points_of(scan: Volume) -> np.ndarray:
    """Six points 20 mm around the middle of the scan, in the order of WALLS."""
    directions = np.repeat(np.eye(3), 2, axis=0) * np.tile([[-1.0], [1.0]], (3, 1))
    return scan.grid.bounds.centre_ras + 20.0 * directions


def test_a_label_map_on_another_grid_is_refused(example: ExampleFiles, scan: Volume, tmp_path: Path) -> None:
    labels = tmp_path / "labels.nii.gz"
    grid = scan.grid.cropped((1, 0, 0), (29, 24, 20))
    sitk.WriteImage(to_sitk(np.ones(grid.shape, np.uint8), grid), labels)
    command = ["support", "build", "--image", example.image, "--labels", labels, "--names", example.names]
    done = rprloc(*command, "--out", tmp_path / "set.json", "--model", example.weights)
    assert_refused(done, "does not lie on the grid of its image", "29 x 24 x 20 voxels")
    assert not (tmp_path / "set.json").exists()


@pytest.mark.parametrize(
    ("names", "about"),
    [
        ({"1": "bone", "7": "kidney"}, "Label 7 (kidney) has no voxel"),
        ({"0": "air"}, "has the label value '0'"),
        ({}, "holds no label names"),
        (None, "There is no"),
    ],
)
def test_names_that_do_not_fit_are_refused(
    example: ExampleFiles, tmp_path: Path, names: dict[str, str] | None, about: str
) -> None:
    file = tmp_path / "names.json"
    if names is not None:
        file.write_text(json.dumps(names))
    command = ["support", "build", "--image", example.image, "--labels", example.labels, "--names", file]
    assert_refused(rprloc(*command, "--out", tmp_path / "set.json", "--model", example.weights), about)
    assert not (tmp_path / "set.json").exists()


def five_points(content: dict) -> None:
    content["markups"][0]["controlPoints"].pop()


def unset_point(content: dict) -> None:
    content["markups"][0]["controlPoints"][2]["positionStatus"] = "undefined"


def outside(content: dict) -> None:
    for point in content["markups"][0]["controlPoints"]:
        point["position"][2] += 400.0


def flat(content: dict) -> None:
    for point in content["markups"][0]["controlPoints"]:
        point["position"][2] = -240.0


@pytest.mark.parametrize(
    ("change", "about"),
    [
        (five_points, "has 5 extreme points, not six"),
        (unset_point, "1 of 6 points are not set (posterior)"),
        (outside, "lie outside the scan"),
        (flat, "span no volume along inferior-superior"),
    ],
)
def test_markups_that_do_not_fit_are_refused(
    example: ExampleFiles, scan: Volume, tmp_path: Path, change: Callable[[dict], None], about: str
) -> None:
    marks = tmp_path / "lung.mrk.json"
    write_extreme_points(marks, points_of(scan), "lung")
    content = json.loads(marks.read_text())
    change(content)
    marks.write_text(json.dumps(content))
    command = ["support", "build", "--image", example.image, "--markups", marks, "--name", "lung"]
    assert_refused(rprloc(*command, "--out", tmp_path / "set.json", "--model", example.weights), about)
    assert not (tmp_path / "set.json").exists()


# Support sets and weights


@pytest.mark.parametrize(
    ("key", "value", "about"),
    [
        ("model_id", "0123456789abcdef", "was built with model 0123456789abcdef"),
        ("version", 5, "support set of version 5"),
        ("format", "rprloc-detections", "is not a support set"),
    ],
)
def test_a_support_set_that_does_not_fit_is_refused_before_any_query(
    example: ExampleFiles, tmp_path: Path, key: str, value: object, about: str
) -> None:
    changed, out = tmp_path / "set.json", tmp_path / "out"
    changed.write_text(json.dumps(json.loads(example.support_set.read_text()) | {key: value}))
    # The first query is missing: had it been looked at, there would be a second message.
    queries = [tmp_path / "missing.nii.gz", example.image]
    assert_refused(rprloc("locate", changed, *queries, "--out", out, "--model", example.weights), about)
    assert not out.exists()


def test_an_organ_that_the_set_lacks_is_refused(example: ExampleFiles, tmp_path: Path) -> None:
    command = ["locate", example.support_set, example.image, "--out", tmp_path / "out", "--model", example.weights]
    assert_refused(rprloc(*command, "--organ", "lung", "--organ", "spleen"), "no spleen", "bone, lung")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_none_are_refused(example: ExampleFiles, tmp_path: Path) -> None:
    command = ["locate", example.support_set, example.image, "--out", tmp_path / "out"]
    assert_refused(rprloc(*command, "--model", tmp_path / "model.pt"), "no weights at")
    (tmp_path / "model.pt").write_bytes(b"weights")
    assert_refused(rprloc(*command, "--model", tmp_path / "model.pt"), "does not hold the weights")
    assert not (tmp_path / "out").exists()
