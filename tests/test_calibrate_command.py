"""``rprloc calibrate`` on drawn scans with random weights: what it writes, what that is good for, what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import rprloc as library
from rprloc.detection import Detections
from rprloc.evaluation.calibration import fit_calibration
from rprloc.evaluation.observations import State, observe_cases
from rprloc.io.dataset import Region, read_dataset, read_regions
from rprloc.localization.confidence import Calibration
from rprloc.volume import to_sitk
from tests.command_line import Run, rprloc
from tests.example import ExampleFiles
from tests.phantoms import PHANTOM_GRID, phantom_hu

CASES: dict[str, tuple[str, int]] = {  # split, and voxels by which the body is moved along the first axis
    "anna": ("support", 0),
    "bert": ("support", 2),
    "carl": ("val", 1),
    "dora": ("train", -1),
    "emil": ("train", -2),
    "fred": ("test", 1),
}

ORGANS = {1: "bone", 2: "lung", 3: "crown", 4: "spine"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datasets.json of small phantoms, with an organ at the upper end, which cuts take away, and a long one.

    In one of them the organ's label has a speck.
    """
    folder = tmp_path_factory.mktemp("data")
    for kind in ("images", "labels"):
        (folder / "chest" / kind).mkdir(parents=True)
    drawn = phantom_hu(PHANTOM_GRID)
    labels = np.where(drawn == 700, 1, np.where(drawn == -850, 2, 0)).astype(np.uint8)
    for number, hu, box in ((3, 400, np.s_[14:18, 10:14, 17:19]), (4, 900, np.s_[10:12, 16:18, 1:19])):
        drawn[box], labels[box] = hu, number
    with_speck = labels.copy()
    with_speck[20, 5, 5] = 3
    for name, (_, shift) in CASES.items():
        for kind, array in (("images", drawn), ("labels", with_speck if name == "emil" else labels)):
            moved = to_sitk(np.roll(array, shift, axis=0), PHANTOM_GRID)
            sitk.WriteImage(moved, folder / "chest" / kind / f"{name}.nii.gz")
    cases = {name: {"split": split, "targets": [*ORGANS.values()]} for name, (split, _) in CASES.items()}
    content = {"chest": {"labels": ORGANS, "cases": cases}}
    (folder / "datasets.json").write_text(json.dumps(content))
    return folder / "datasets.json"


@dataclass(frozen=True)
class Calibrated:
    """Weights of one's own, what the command said of them, and its report."""

    data: Path
    weights: Path
    done: Run
    report: Path
    fields: Path

    @property
    def trust(self) -> Path:
        return self.weights.with_name("trust.json")


def calibrate(data: Path, weights: Path, *options: object) -> Run:
    return rprloc("calibrate", "--data", data, "--model", weights, "--device", "cpu", *options)


@pytest.fixture(scope="module")
def calibrated(example: ExampleFiles, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    folder = tmp_path_factory.mktemp("ours")
    weights = Path(shutil.copy(example.weights, folder / "model.pt"))
    weights.with_name("trust.json").write_text("damaged")  # is replaced, whatever it is
    report, fields = folder / "report", folder / "fields"
    done = calibrate(data, weights, "--report", report, "--fields", fields)
    return Calibrated(data, weights, done, report, fields)


@pytest.mark.slow
def test_the_command_writes_what_it_fitted_and_what_that_is_worth(calibrated: Calibrated) -> None:
    assert calibrated.done.exit_code == 0, calibrated.done.stderr
    written = Calibration.from_json(calibrated.trust.read_text())
    assert written.model_id == library.Localizer.load(calibrated.weights, "cpu").model_id
    assert f"{calibrated.trust}: calibration of model {written.model_id}" in calibrated.done.stdout
    assert {path.name for path in calibrated.report.iterdir()} == {"tuning.md", "by_scan.png", "by_organ.png"}
    report = (calibrated.report / "tuning.md").read_text()
    assert report in calibrated.done.stdout and written.model_id in report
    assert "| chest, whole | 5 |" in report and "| chest, cut along | 20 |" in report and "| chest, one |" in report


@pytest.mark.slow
def test_the_calibration_is_fitted_to_what_was_seen(calibrated: Calibrated) -> None:
    cases, localizer = read_dataset(calibrated.data), library.Localizer.load(calibrated.weights, "cpu")
    seen = observe_cases(localizer, cases, read_regions(calibrated.data), folder=calibrated.fields)
    assert localizer.calibration == fit_calibration(localizer.model_id, seen)
    assert {one.organ for one in seen.organs if one.query == "dora"} == {*ORGANS.values()}
    assert {one.organ for one in seen.organs if one.query == "emil"} == {"bone", "lung", "spine"}  # crown has a speck
    whole = [one for one in seen.organs if one.query == "carl" and one.support == "anna" and one.organ == "lung"]
    assert whole[0].state is State.WHOLE and len(whole) == 6
    # The truth is the label map's, read here by other means; what was found is what the localizer finds.
    paths = [calibrated.data.parent / "chest" / kind / "carl.nii.gz" for kind in ("images", "labels")]
    truth = library.read_example(paths[0], labels=paths[1], names={2: "lung"}, name="carl")
    paths = [path.with_name("anna.nii.gz") for path in paths]
    anna = library.read_example(paths[0], labels=paths[1], names={2: "lung"}, name="anna")
    (found,) = localizer.locate(truth.volume, localizer.learn(anna)).organs
    box = library.Box.from_extreme_points(truth.annotation.points_ras["lung"])
    assert isinstance(found, library.OrganDetection)
    assert whole[0].error_mm == pytest.approx(found.box.wall_distances_mm(box).mean(), abs=1e-3)
    assert localizer.calibration is not None
    assert found.expected_wall_error_mm == pytest.approx(localizer.calibration.expected_mm(whole[0].evidence), abs=1e-3)


@pytest.mark.slow
def test_what_was_seen_is_kept_for_the_next_time(
    calibrated: Calibrated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = calibrated.trust.read_bytes()
    weights = Path(shutil.copy(calibrated.weights, tmp_path / "model.pt"))
    monkeypatch.setattr("rprloc.evaluation.view_cache.make_views", None)  # nothing is looked at again
    assert calibrate(calibrated.data, weights, "--fields", calibrated.fields).exit_code == 0
    assert weights.with_name("trust.json").read_bytes() == before


@pytest.mark.slow
def test_located_organs_then_have_expected_errors(
    calibrated: Calibrated, example: ExampleFiles, tmp_path: Path
) -> None:
    command = ["locate", example.support_set, example.image, "--out", tmp_path, "--model", calibrated.weights]
    done = rprloc(*command, "--device", "cpu")
    assert done.exit_code == 0 and "not calibrated" not in done.stdout + done.stderr
    found = Detections.load(tmp_path / "anna.detections.json")
    assert {one.organ for one in found.organs} == {"bone", "lung"} and found.located
    assert all(one.expected_wall_error_mm > 0.0 and one.presence is not None for one in found.located)


@pytest.mark.slow
def test_the_calibration_of_other_weights_is_left_aside_with_a_warning(
    calibrated: Calibrated, example: ExampleFiles, tmp_path: Path
) -> None:
    weights = Path(shutil.copy(example.weights, tmp_path / "model.pt"))
    other = replace(Calibration.from_json(calibrated.trust.read_text()), model_id="other")
    weights.with_name("trust.json").write_text(other.to_json())
    done = rprloc(
        *("locate", example.support_set, example.image, "--out", tmp_path, "--model", weights, "--device", "cpu")
    )
    assert done.exit_code == 0 and "belongs to other weights" in done.stderr
    found = Detections.load(tmp_path / "anna.detections.json")
    assert len(found.located) == 2 and all(one.expected_wall_error_mm is None for one in found.located)
    refused = calibrate(calibrated.data, weights, "--test")
    assert refused.exit_code == 2 and "is not calibrated" in refused.stderr


@pytest.mark.slow
def test_the_calibration_is_measured_on_test_cases_and_not_changed(calibrated: Calibrated, tmp_path: Path) -> None:
    before = calibrated.trust.read_bytes()
    done = calibrate(calibrated.data, calibrated.weights, "--test", "--report", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert calibrated.trust.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"test.md", "test.png"}
    report = (tmp_path / "test.md").read_text()
    assert report in done.stdout and "## Test cases" in report and "| chest, whole | 1 |" in report


@pytest.mark.slow
def test_what_is_known_of_regions_decides_what_is_fitted(data: Path, calibrated: Calibrated) -> None:
    cases, localizer = read_dataset(data), library.Localizer.load(calibrated.weights, "cpu")
    head = [replace(case, region="head", name="gina") for case in cases if case.name == "carl"]
    regions = {
        "chest": Region(contours_stop=("lung",), absent_in={"head": ("bone",)}),
        "head": Region(),
    }
    seen = observe_cases(localizer, [*cases[:2], *head], regions, folder=calibrated.fields).organs
    assert {one.organ for one in seen if one.contours_stop} == {"lung"}
    elsewhere = [one for one in seen if one.query == "gina"]
    assert [(one.support_region, one.support, one.organ) for one in elsewhere] == [("chest", "anna", "bone")]
    assert elsewhere[0].state is State.ABSENT and np.isnan(elsewhere[0].error_mm)


@pytest.mark.slow
def test_what_cannot_be_calibrated_is_refused_and_nothing_is_written(
    calibrated: Calibrated, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Path(shutil.copy(calibrated.weights, tmp_path / "model.pt"))
    content = json.loads(data.read_text())
    few = data.with_name("few.json")
    cases = content["chest"]["cases"]
    for left, said in (
        (["carl", "dora"], "no case of split support"),
        (["anna", "fred"], "too few annotated scans to calibrate"),
        (["dora"], "no case of split support"),
    ):
        content["chest"]["cases"] = {name: cases[name] for name in left}
        few.write_text(json.dumps(content))
        refused = calibrate(few, weights, "--fields", calibrated.fields)
        assert refused.exit_code == 2 and said in refused.stderr and refused.stderr.count("\n") == 1
    monkeypatch.setitem(sys.modules, "sklearn", None)
    refused = calibrate(data, weights)
    assert refused.exit_code == 2 and "pip install 'rprloc[calibrate]'" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
