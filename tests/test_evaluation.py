"""Evaluation: which pairs count, and every number against one worked out by hand or by another way."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import stdev

import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.annotation import Annotation, Example, Marking
from rprloc.detection import OrganDetection, Presence
from rprloc.errors import InputError
from rprloc.evaluation.evaluate import evaluate
from rprloc.evaluation.scores import Evaluation, LandmarkScore, PairScore, mean_of, score, summarize
from rprloc.geometry import WALLS, Box, Grid, Points, extreme_points_of_mask
from rprloc.io.dataset import LandmarkRule, Region, read_dataset
from rprloc.io.mask_files import read_label_map
from rprloc.io.reading import read_volume
from rprloc.localization.confidence import FieldEvidence
from rprloc.localization.localizer import Localizer
from rprloc.localization.support import SupportSet
from rprloc.model.field import PositionField
from rprloc.volume import to_sitk
from scripts.robustness.annotation_writers import (
    contours_of,
    encode_dicom,
    segmentation,
    slicer_segmentation,
    structure_set,
)
from tests.command_line import rprloc
from tests.example import ExampleFiles
from tests.images import write
from tests.phantoms import PHANTOM_GRID, phantom_hu

# split, voxels by which the body is moved along the first axis, targets
CASES: dict[str, tuple[str, int, list[str]]] = {
    "anna": ("support", 0, ["bone", "lung"]),
    "bert": ("support", 2, ["lung"]),
    "carl": ("test", 1, ["bone", "lung"]),
    "dora": ("test", -1, ["bone"]),
    "emil": ("train", 0, []),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datasets.json of small phantoms."""
    folder = tmp_path_factory.mktemp("data")
    for kind in ("images", "labels"):
        (folder / "chest" / kind).mkdir(parents=True)
    grid = PHANTOM_GRID
    for name, (_, shift, _) in CASES.items():
        hu = np.roll(phantom_hu(grid), shift, axis=0)
        labels = np.where(hu == 700, 1, np.where(hu == -850, 2, 0)).astype(np.uint8)
        sitk.WriteImage(to_sitk(hu, grid), folder / "chest" / "images" / f"{name}.nii.gz")
        sitk.WriteImage(to_sitk(labels, grid), folder / "chest" / "labels" / f"{name}.nii.gz")
    cases = {name: {"split": split, "targets": targets} for name, (split, _, targets) in CASES.items()}
    content = {"chest": {"labels": {"1": "bone", "2": "lung"}, "cases": cases}}
    (folder / "datasets.json").write_text(json.dumps(content))
    return folder / "datasets.json"


@pytest.fixture(scope="module")
def untrained(example: ExampleFiles) -> Localizer:
    return Localizer.load(example.weights, "cpu")


def run(untrained: Localizer, data: Path, split: str, shots: str) -> Evaluation:
    return evaluate(untrained, read_dataset(data), "chest", split, shots)


@pytest.fixture(scope="module")
def one_shot(untrained: Localizer, data: Path) -> Evaluation:
    return run(untrained, data, "test", "one")


def test_the_truth_may_have_any_form(untrained: Localizer, data: Path, one_shot: Evaluation, tmp_path: Path) -> None:
    """A structure set, a folder of masks, a segmentation and one of 3D Slicer in place of the four label maps."""
    shutil.copytree(data.parent, tmp_path / "data")
    labels, grid = tmp_path / "data" / "chest" / "labels", PHANTOM_GRID
    for name in CASES:
        numbers = read_label_map(labels / f"{name}.nii.gz", grid)
        (labels / f"{name}.nii.gz").unlink()
        masks = {"Bone": numbers == 1, "Second": numbers == 2}
        if name == "anna":
            contours = {organ: contours_of(mask, grid) for organ, mask in masks.items()}
            (labels / "anna.dcm").write_bytes(encode_dicom(structure_set(contours, [], "1.2")))
        elif name == "bert":
            keys = {"Segment0_Name": "lung", "Segment0_LabelValue": 2, "Segment0_Layer": 0}
            (labels / "bert.seg.nrrd").write_bytes(slicer_segmentation(numbers, grid, keys))
        elif name == "carl":
            (labels / "carl").mkdir()
            for organ, mask in masks.items():
                write(labels / "carl" / f"{organ}.nii.gz", mask.astype(np.uint8), grid.ras_from_ijk)
        else:
            (labels / f"{name}.dcm").write_bytes(encode_dicom(segmentation(masks, grid, "1.2")))
    content = json.loads((tmp_path / "data" / "datasets.json").read_text())
    content["chest"]["labels"]["Second"] = "lung"
    (tmp_path / "data" / "datasets.json").write_text(json.dumps(content))
    found = run(untrained, tmp_path / "data" / "datasets.json", "test", "one")
    assert len(found.scores) == len(one_shot.scores) > 3
    for ours, theirs in zip(found.scores, one_shot.scores, strict=True):
        assert (ours.support, ours.query, ours.target) == (theirs.support, theirs.query, theirs.target)
        assert ours.iou == pytest.approx(theirs.iou, abs=1e-6)
    (labels / "anna").mkdir()
    with pytest.raises(InputError, match=r"several files for the case anna \(anna, anna.dcm\)"):
        read_dataset(tmp_path / "data" / "datasets.json")


def points_in(data: Path, case: str, label: int) -> Points:
    """The true extreme points, read by another library than the code under test."""
    import nibabel

    image = nibabel.load(data.parent / "chest" / "labels" / f"{case}.nii.gz")
    return extreme_points_of_mask(np.asarray(image.dataobj) == label, Grid(image.shape, image.affine))


def support_of(untrained: Localizer, data: Path, case: str) -> SupportSet:
    volume = read_volume(data.parent / "chest" / "images" / f"{case}.nii.gz")
    points = {name: points_in(data, case, number) for number, name in ((1, "bone"), (2, "lung"))}
    wanted = {name: points[name] for name in CASES[case][2]}
    labels = read_label_map(data.parent / "chest" / "labels" / f"{case}.nii.gz", volume.grid)
    masks = Annotation.from_labels(labels, volume.grid, {1: "bone", 2: "lung"}).masks
    return untrained.learn(Example(volume, Annotation(wanted, masks, Marking.LABEL_MAP), case))


def assert_score_is_that_of(one: PairScore, found: OrganDetection, truth: Points) -> None:
    box, true_box = found.box, Box.from_extreme_points(truth)
    # Sums over one organ or several round differently.
    assert one.iou == pytest.approx(box.iou(true_box), abs=1e-4)
    assert one.awd_mm == pytest.approx(box.wall_distances_mm(true_box).mean(), abs=1e-3)
    assert one.point_mm == pytest.approx(np.linalg.norm(found.points_ras - truth, axis=1).mean(), abs=1e-3)


def test_one_shot_scores_every_pair_for_the_targets_of_both_scans(
    untrained: Localizer, data: Path, one_shot: Evaluation
) -> None:
    results = one_shot
    pairs = [(one.support, one.query, one.target) for one in results.scores]
    assert sorted(pairs) == [
        ("anna", "carl", "bone"),
        ("anna", "carl", "lung"),
        ("anna", "dora", "bone"),
        ("bert", "carl", "lung"),
    ]
    assert (results.supports, results.queries, results.organs_per_query) == (2, 2, 2)
    assert results.seconds_per_query > 0
    numbers = {"bone": 1, "lung": 2}
    for one in results.scores:
        volume = read_volume(data.parent / "chest" / "images" / f"{one.query}.nii.gz")
        (found,) = untrained.locate(volume, support_of(untrained, data, one.support), [one.target]).organs
        assert_score_is_that_of(one, found, points_in(data, one.query, numbers[one.target]))
    by_support = {one.support: one.iou for one in results.scores if one.target == "lung"}
    lung = results.targets["lung"]
    assert lung.n == 2 and lung.iou == pytest.approx(np.mean(list(by_support.values())))
    assert lung.iou_sd_supports == pytest.approx(stdev(by_support.values()))
    assert results.targets["bone"].n == 2 and results.targets["bone"].iou_sd_supports is None


def test_all_shots_locate_together(untrained: Localizer, data: Path) -> None:
    results = run(untrained, data, "test", "all")
    pairs = [(one.support, one.query, one.target) for one in results.scores]
    assert pairs == [("all", "carl", "bone"), ("all", "carl", "lung"), ("all", "dora", "bone")]
    volume = read_volume(data.parent / "chest" / "images" / "carl.nii.gz")
    both = SupportSet.merge([support_of(untrained, data, "anna"), support_of(untrained, data, "bert")])
    (found,) = untrained.locate(volume, both, ["lung"]).organs
    assert found.supports == ("anna", "bert")
    assert_score_is_that_of(results.scores[1], found, points_in(data, "carl", 2))
    assert all(summary.iou_sd_supports is None for summary in results.targets.values())


@pytest.mark.parametrize("shots", ["one", "all"])
def test_no_scan_is_its_own_support(untrained: Localizer, data: Path, shots: str) -> None:
    scores = run(untrained, data, "support", shots).scores
    expected = [("bert", "anna"), ("anna", "bert")] if shots == "one" else [("all", "anna"), ("all", "bert")]
    assert [(one.support, one.query) for one in scores if one.target == "lung"] == expected
    assert not [one for one in scores if one.target == "bone"]  # bert is no support for anna's bone


def test_what_is_missing_in_the_dataset_is_an_input_error(untrained: Localizer, data: Path) -> None:
    cases = read_dataset(data)
    with pytest.raises(InputError, match=r"no region han.*chest"):
        evaluate(untrained, cases, "han", "test", "one")
    with pytest.raises(InputError, match="no case of split val"):
        evaluate(untrained, cases, "chest", "val", "one")
    with pytest.raises(InputError, match="No support of chest shares a target with a query of split train"):
        evaluate(untrained, cases, "chest", "train", "one")
    without = [case for case in cases if case.split != "support"]
    with pytest.raises(InputError, match="no case of split support"):
        evaluate(untrained, without, "chest", "test", "one")


def test_a_set_that_has_nothing_in_common_with_the_cases_is_told_so(
    untrained: Localizer, example: ExampleFiles, data: Path, tmp_path: Path
) -> None:
    volume = read_volume(data.parent / "chest" / "images" / "anna.nii.gz")
    middle = {"carina": volume.grid.bounds.centre_ras}
    untrained.learn(Example(volume, Annotation.from_landmarks(middle), "anna")).save(tmp_path / "tips.json")
    other = {"liver": points_in(data, "anna", 1)}
    untrained.learn(Example(volume, Annotation.from_points(other), "anna")).save(tmp_path / "liver.json")
    command = ["evaluate", "--data", data, "--out", tmp_path / "out", "--model", example.weights, "--device", "cpu"]
    for more, about in (
        (["--set", tmp_path / "tips.json", "--region", "chest"], "The set marks landmarks alone (carina)"),
        (["--set", tmp_path / "tips.json"], "The set marks landmarks alone (carina)"),
        (["--set", tmp_path / "liver.json", "--region", "chest"], "the set has liver, and the cases of split test"),
    ):
        done = rprloc(*command, *more)
        assert done.exit_code == 2 and about in done.stderr and "datasets.json" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_seen_of_a_scan_is_computed_once_for_all_sets(
    untrained: Localizer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[FieldEvidence] = []
    of = FieldEvidence.of

    def count(field: PositionField) -> FieldEvidence:
        made.append(of(field))
        return made[-1]

    monkeypatch.setattr(FieldEvidence, "of", count)
    about = Region(landmarks={"apex": LandmarkRule("lung", (0.0, 0.0, 1.0))})
    results = evaluate(untrained, read_dataset(data), "chest", "test", "one", about)
    assert len(results.landmark_scores) == 2  # both supports in carl
    assert len(made) == 3  # two queries, and one that warms up


CUBE = np.array([[0.0, 5, 5], [10, 5, 5], [5, 0, 5], [5, 10, 5], [5, 5, 0], [5, 5, 10]])


def test_a_score_worked_out_by_hand() -> None:
    found = CUBE + np.array([2.0, 0.0, 0.0])
    found[5, 2] = 14.0  # the superior wall is 4 mm too high
    one = score("a", "q", OrganDetection("heart", found, np.zeros(6), 1, ("a",)), CUBE)
    # 10 x 10 x 14 and 10 x 10 x 10 mm share 8 x 10 x 10.
    assert one.iou == pytest.approx(800 / (1400 + 1000 - 800))
    np.testing.assert_allclose(one.wall_errors_mm, [2, 2, 0, 0, 0, 4])
    assert one.awd_mm == pytest.approx(8 / 6)
    np.testing.assert_allclose(one.point_errors_mm, [2, 2, 2, 2, 2, np.sqrt(20)])
    assert (one.support, one.query, one.target) == ("a", "q", "heart")


def test_an_organ_that_is_said_to_be_absent_counts_as_a_miss() -> None:
    found = OrganDetection("heart", CUBE + 2.0, np.zeros(6), 1, ("a",), 3.0, Presence(0.1, 0.2, 0.7))
    one = score("a", "q", found, CUBE)
    assert one.iou == 0.0 and one.missed and one.expected_mm == 3.0
    assert one.awd_mm == pytest.approx(2.0)  # of the place where it was withheld: errors stay honest
    results = replace(made_up(), scores=(one, replace(one, iou=0.5, missed=False)))
    assert results.targets["heart"].missed == 1 and results.targets["heart"].iou == pytest.approx(0.25)
    assert "1 of 2 boxes were withheld" in results.to_table()
    rows = list(csv.DictReader(io.StringIO(results.to_csv())))
    assert [(row["missed"], float(row["expected_wall_error_mm"])) for row in rows] == [("1", 3.0), ("0", 3.0)]


def pair(support: str, target: str, iou: float, awd_mm: float) -> PairScore:
    walls = np.array([1.0, -1, 1, -1, 1, -1]) * awd_mm
    return PairScore(support, "q", target, iou, walls, np.full(6, 2 * awd_mm))


def test_a_landmark_that_is_said_to_be_absent_counts_as_a_miss() -> None:
    scores = tuple(LandmarkScore("a", "q", "carina", mm, missed) for mm, missed in ((4.0, False), (30.0, True)))
    results = replace(made_up("heart"), landmark_scores=scores)
    assert "1 of 2 points were withheld" in results.to_table()
    assert results.landmarks["carina"].missed == 1
    assert "points were withheld" not in replace(results, landmark_scores=scores[:1]).to_table()


def test_means_over_pairs_and_deviation_over_supports() -> None:
    scores = [pair("a", "x", 0.2, 1.0), pair("a", "x", 0.4, 2.0), pair("b", "x", 0.9, 3.0), pair("a", "y", 0.1, 8.0)]
    found = summarize(scores)
    assert list(found) == ["x", "y"]
    assert found["x"].iou == pytest.approx(0.5)  # over pairs: the mean of the supports' means would be 0.6
    assert found["x"].awd_mm == pytest.approx(2.0) and found["x"].point_mm == pytest.approx(4.0)
    assert found["x"].n == 3 and found["x"].iou_sd_supports == pytest.approx(stdev([0.3, 0.9]))
    assert found["y"].iou_sd_supports is None
    mean = mean_of(found)
    assert mean is not None and mean.iou == pytest.approx(0.3) and mean.awd_mm == pytest.approx(5.0)
    assert summarize([]) == {} and mean_of({}) is None


FEW = Region(mean=("mandible", "brainstem", "parotid_left", "parotid_right"))


def made_up(*targets: str, about: Region | None = None) -> Evaluation:
    scores = tuple(pair("a", target, 0.1 * n, float(n)) for n, target in enumerate(targets, 1))
    return Evaluation("han", "test", "one", 1, 1, scores, 0.5, len(targets), "m1", "cpu", about or Region())


def test_the_mean_is_over_the_targets_that_count_in_it() -> None:
    five = ("spinal_cord", "brainstem", "parotid_left", "mandible", "larynx")
    mean = made_up(*five, about=FEW).mean
    assert mean is not None and set(mean.targets) == {"brainstem", "mandible", "parotid_left"}
    assert mean.iou == pytest.approx((0.2 + 0.3 + 0.4) / 3)
    everything = made_up(*five).mean
    assert everything is not None and everything.targets == five
    none = made_up("larynx", about=FEW)
    assert none.mean is None and json.loads(none.to_json())["mean"] is None


def test_json_csv_and_table_tell_the_same(untrained: Localizer, one_shot: Evaluation) -> None:
    results = replace(one_shot, about=FEW)
    content = json.loads(results.to_json())
    assert content["shots"] == "one" and content["split"] == "test" and content["supports"] == 2
    assert content["model_id"] == untrained.model_id
    assert content["mean"] is None  # neither target counts
    rows = list(csv.DictReader(io.StringIO(results.to_csv())))
    assert len(rows) == len(results.scores)
    for target, summary in content["targets"].items():
        of_target = [row for row in rows if row["target"] == target]
        assert summary["n"] == len(of_target)
        for key in ("iou", "awd_mm", "point_mm"):
            assert summary[key] == pytest.approx(np.mean([float(row[key]) for row in of_target]), abs=2e-4)
        for row in of_target:
            walls = [abs(float(row[f"{wall}_mm"])) for wall in WALLS]
            assert float(row["awd_mm"]) == pytest.approx(np.mean(walls), abs=2e-4)
        (line,) = [line.split() for line in results.to_table().splitlines() if line.startswith(target + " ")]
        assert float(line[1]) == pytest.approx(summary["iou"], abs=5.1e-4)
        assert int(line[-1]) == summary["n"]


def test_the_command_writes_results_and_prints_the_table(example: ExampleFiles, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    command = ["evaluate", "--data", data, "--region", "chest", "--split", "test", "--shots", "one"]
    done = rprloc(*command, "--out", out, "--model", example.weights, "--device", "cpu")
    assert done.exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["chest-test-one.csv", "chest-test-one.json"]
    content = json.loads((out / "chest-test-one.json").read_text())
    assert content["region"] == "chest" and set(content["targets"]) == {"bone", "lung"}
    assert set(content["targets"]["bone"]) == {"iou", "awd_mm", "point_mm", "n", "iou_sd_supports", "missed"}
    both = content["targets"]["bone"]["iou"], content["targets"]["lung"]["iou"]
    assert content["mean"]["iou"] == pytest.approx(np.mean(both), abs=2e-4)
    assert content["mean"]["targets"] == ["bone", "lung"]
    assert content["seconds_per_query"] > 0
    assert f"mean    {content['mean']['iou']:.3f}" in done.stdout
    assert len((out / "chest-test-one.csv").read_text().splitlines()) == 1 + 4


def test_the_command_writes_nothing_if_the_data_cannot_be_used(
    example: ExampleFiles, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    command = ["evaluate", "--region", "liver", "--out", out, "--model", example.weights, "--data"]
    for dataset, about in ((data, "no region liver"), (tmp_path / "datasets.json", "There is no file")):
        done = rprloc(*command, dataset)
        assert done.exit_code == 2 and about in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_command_measures_all_regions_and_shots_and_prints_their_table(
    example: ExampleFiles, data: Path, tmp_path: Path
) -> None:
    about = tmp_path / "about.json"
    about.write_text(json.dumps({"chest": {"mean": ["lung"]}}))
    command = ["evaluate", "--data", data, "--out", tmp_path, "--about", about, "--model", example.weights]
    done = rprloc(*command, "--device", "cpu")
    assert done.exit_code == 0
    one, several = (json.loads((tmp_path / f"chest-test-{shots}.json").read_text()) for shots in ("one", "all"))
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| chest")]
    assert [row[1] for row in rows] == ["bone", "lung", "**mean** of 1"]
    for row, target in zip(rows, ("bone", "lung"), strict=False):
        assert float(row[2]) == pytest.approx(one["targets"][target]["iou"], abs=0.0051)
        assert float(row[6]) == pytest.approx(several["targets"][target]["iou"], abs=0.0051)
    assert rows[2][2] == f"**{one['mean']['iou']:.2f}**" and one["mean"]["targets"] == ["lung"]
