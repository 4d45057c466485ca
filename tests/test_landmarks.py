"""Landmarks: single points are marked, learned, located, kept in files and measured, alone or beside organs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rprloc
from rprloc.annotation import Annotation, Mask
from rprloc.detection import AbsentLandmark, Detections, LandmarkDetection
from rprloc.errors import InputError
from rprloc.evaluation.landmarks import find_landmarks
from rprloc.geometry import Grid
from rprloc.io.dataset import LandmarkRule, read_regions
from rprloc.localization.confidence import FieldEvidence
from rprloc.localization.locate import detect, locate_landmarks
from rprloc.localization.marking import build_support
from rprloc.localization.matching import SearchField
from rprloc.localization.one_shot import with_self_error
from rprloc.localization.support import SupportSet
from tests.command_line import rprloc as run_command
from tests.example import ExampleFiles
from tests.fields import FINE, SHIFT, TURN, make_field
from tests.phantoms import AFFINES, Affine

ORGAN = np.array([[-20.0, 0, 0], [30, 5, 0], [0, -35, 5], [5, 10, 0], [0, 0, -30], [0, 0, 25]])
TIPS = {"carina": [4.0, -3.0, 12.0], "apex": [-41.0, 22.0, -35.0]}


def learned(annotation: Annotation, name: str = "s") -> SupportSet:
    field = make_field(np.eye(3), np.zeros(3))
    support = build_support(field, FINE, annotation, name)
    return SupportSet("m", (with_self_error(support, SearchField.of(field)),))


def in_the_query(point_ras: list[float]) -> np.ndarray:
    return np.linalg.solve(TURN, point_ras) + SHIFT


@pytest.mark.parametrize("off_mm", [0.0, 6.0])
def test_points_are_found_in_another_person_by_one_and_by_several_supports(off_mm: float) -> None:
    sets = [learned(Annotation.from_landmarks(TIPS), name) for name in "abc"]
    for shots in (1, 3):
        found = locate_landmarks(SupportSet.merge(sets[:shots]), FieldEvidence.of(make_field(off_mm=off_mm)))
        assert [one.landmark for one in found] == list(TIPS)
        for one in found:
            assert np.linalg.norm(one.point_ras - in_the_query(TIPS[one.landmark])) < max(3.0, 0.7 * 1.5 * off_mm)
            assert one.supports == tuple("abc"[:shots]) and one.spread_mm < 10.0


def test_a_point_is_found_where_it_was_marked_in_its_own_scan() -> None:
    for one in locate_landmarks(
        learned(Annotation.from_landmarks(TIPS)), FieldEvidence.of(make_field(np.eye(3), np.zeros(3)))
    ):
        assert one.point_ras == pytest.approx(TIPS[one.landmark], abs=1e-6)


def test_a_point_is_found_alike_alone_and_beside_others_that_lie_far() -> None:
    alone = learned(Annotation.from_landmarks({"carina": TIPS["carina"]}))
    both = learned(Annotation.from_landmarks(TIPS))
    query = make_field(off_mm=3.0)
    (a,), (b,) = (locate_landmarks(one, FieldEvidence.of(query), ["carina"]) for one in (alone, both))
    # Only the directions that are kept of the descriptors differ.
    assert np.linalg.norm(a.point_ras - b.point_ras) < 0.5


def test_organs_and_landmarks_of_one_set_are_found_together_or_as_asked_for() -> None:
    annotation = replace(Annotation.from_points({"organ": ORGAN}), landmarks_ras=TIPS)
    support_set, query = learned(annotation), make_field()
    assert (support_set.organs, support_set.landmarks) == (["organ"], list(TIPS))
    found = detect(query, "q", support_set)
    assert list(found.targets) == ["organ", *TIPS] and list(found.points_ras) == list(TIPS)
    (apex,) = detect(query, "q", support_set, ["apex"]).targets.values()
    assert apex.landmark == "apex"
    # Up to rounding: matrix products of other sizes are added up in another order on some processors.
    assert apex.point_ras == pytest.approx(found["apex"].point_ras, abs=1e-6)
    again = SupportSet.from_json(support_set.to_json())
    assert again.to_json() == support_set.to_json()
    assert detect(query, "q", again)["carina"].point_ras == pytest.approx(found["carina"].point_ras, abs=1e-2)


def test_sets_of_landmarks_and_of_organs_come_together() -> None:
    organs, landmarks = learned(Annotation.from_points({"organ": ORGAN})), learned(Annotation.from_landmarks(TIPS))
    merged = SupportSet.merge([organs, landmarks])
    assert len(merged.supports) == 1 and merged.targets == ["organ", *TIPS]
    assert merged.supports[0].marking is organs.supports[0].marking
    moved = learned(Annotation.from_landmarks({"apex": [0.0, 0.0, 0.0]}))
    with pytest.raises(InputError, match="apex of scan s is marked differently"):
        SupportSet.merge([landmarks, moved])
    with pytest.raises(InputError, match="organ is an organ and a landmark"):
        SupportSet.merge([organs, learned(Annotation.from_landmarks({"organ": TIPS["apex"]}), "t")])


def test_points_that_cannot_be_used_are_refused_in_a_sentence() -> None:
    for wrong in ([1.0, 2.0], [[1.0, 2.0, 3.0]], [1.0, float("nan"), 2.0], "here", None):
        with pytest.raises(InputError, match="Landmark tip is not one point of three finite numbers"):
            Annotation.from_landmarks({"tip": wrong})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="organ is marked as an organ and as a landmark"):
        replace(Annotation.from_points({"organ": ORGAN}), landmarks_ras={"organ": [0.0, 0.0, 0.0]})
    with pytest.raises(InputError, match="tip lies outside the scan, at RAS"):
        learned(Annotation.from_landmarks({"tip": [0.0, 0.0, 900.0]}))
    with pytest.raises(InputError, match="Nothing is marked"):
        learned(Annotation({}))


@pytest.mark.parametrize(
    ("edit", "about"),
    [
        (lambda record: record.update(point_ras_mm=[1.0, 2.0]), "is too short"),
        (lambda record: record.update(point_ras_mm=[1.0, 2.0, float("nan")]), "landmark apex: a point, or its error"),
        (lambda record: record.pop("latents"), "'latents' is a required property"),
        (lambda record: record["latents"].update(base64="AAAA"), "landmark apex: an array is damaged"),
        (lambda record: record["context_ras_mm"].update(shape=[26, 3], base64=""), "landmark apex: an array is dam"),
    ],
)
def test_a_damaged_landmark_in_a_set_is_refused(edit: Callable[[dict], None], about: str) -> None:
    content = json.loads(learned(Annotation.from_landmarks(TIPS)).to_json())
    edit(content["supports"][0]["landmarks"]["apex"])
    with pytest.raises(InputError, match=about):
        SupportSet.from_json(json.dumps(content), "set.json")


def test_detections_with_landmarks_come_back_from_their_text() -> None:
    found = LandmarkDetection("carina", np.array([1.0, -2.5, 3.25]), 4.5, 28, ("anna",), 6.25, 0.9375)
    unjudged = LandmarkDetection("apex", np.array([0.0, 0.0, -1.0]), 0.0, 28, ("anna",))
    absent = AbsentLandmark("tip", 0.125, ("anna",))
    detections = Detections("q", (), "m", "s", landmarks=(found, unjudged, absent))
    again = Detections.from_json(detections.to_json())
    assert again.to_json() == detections.to_json()
    assert again.located_landmarks[0].point_ras.tolist() == [1.0, -2.5, 3.25]
    assert again["tip"] == absent and again["apex"].in_scan is None
    assert again.absent_landmarks == (absent,)
    record = json.loads(detections.to_json())
    for wrong in ({"ras_mm": [1, 2]}, {"ras_mm": [1, 2, float("nan")]}, {"in_scan": 2.0}, {"spread_mm": -1.0}):
        broken = {**record, "landmarks": [{**record["landmarks"][0], **wrong}]}
        with pytest.raises(InputError):
            Detections.from_json(json.dumps(broken))
    twice = {**record, "landmarks": [record["landmarks"][0], record["landmarks"][0]]}
    with pytest.raises(InputError, match="two results of one name"):
        Detections.from_json(json.dumps(twice))
    # A file of the version before, which knew no landmarks, is read.
    old = {key: value for key, value in record.items() if key != "landmarks"} | {"version": 1}
    assert Detections.from_json(json.dumps(old)).landmarks == ()


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES.keys())
def test_rules_find_tips_and_forks_on_any_axes(affine: Affine) -> None:
    """A tube along the body that forks, and an egg, both drawn in world coordinates."""
    shape = tuple(int(n) for n in np.ceil(90.0 / np.linalg.norm(affine[:3, :3], axis=0)))
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    places = grid.centres_ras() - grid.bounds.centre_ras
    x, y, z = np.moveaxis(places, -1, 0)
    apart = np.maximum(0.0, -z) * 0.8
    tube = (np.minimum(np.hypot(x - apart, y), np.hypot(x + apart, y)) < 6.0) & (np.abs(z) < 30.0)
    egg = (x / 20.0) ** 2 + (y / 14.0) ** 2 + (z / 28.0) ** 2 < 1.0
    masks = {"trachea": Mask.cut_from(tube, grid), "kidney": Mask.cut_from(egg, grid)}
    rules = {
        "fork": LandmarkRule("trachea", fork=True),
        "upper": LandmarkRule("kidney", (0.0, 0.0, 1.0)),
        "right": LandmarkRule("kidney", (2.0, 0.0, 0.0)),
        "lower left": LandmarkRule("kidney", (0.0, 0.0, -1.0), half="left"),
        "unknown": LandmarkRule("spleen", (0.0, 0.0, 1.0)),
        "no fork": LandmarkRule("kidney", fork=True),
    }
    found = find_landmarks(Annotation({}, masks), rules)
    assert list(found) == ["fork", "upper", "right", "lower left"]
    centred = {name: point - grid.bounds.centre_ras for name, point in found.items()}
    step_mm = float(grid.spacing_mm.max())
    assert np.abs(centred["fork"][:2]).max() < 2.0 * step_mm
    assert -9.0 - 2.0 * step_mm < centred["fork"][2] < -6.0 + step_mm  # where the tubes no longer touch
    assert centred["upper"] == pytest.approx([0.0, 0.0, 26.5], abs=2.0 * step_mm)
    assert centred["right"] == pytest.approx([18.5, 0.0, 0.0], abs=2.0 * step_mm)
    assert centred["lower left"][0] < 0.0


def test_rules_of_landmarks_are_checked(tmp_path: Path) -> None:
    def regions(rule: object) -> dict:
        text = json.dumps({"han": {"labels": {"1": "jaw"}, "cases": {}, "landmarks": {"chin": rule}}})
        (tmp_path / "datasets.json").write_text(text)
        return read_regions(tmp_path / "datasets.json")

    (rule,) = regions({"organ": "jaw", "towards": [0, 1, -1]})["han"].landmarks.values()
    assert rule == LandmarkRule("jaw", (0, 1, -1))
    assert regions({"organ": "jaw", "fork": True})["han"].landmarks["chin"].fork
    for wrong in (
        {"organ": "jaw"},
        {"organ": "jaw", "towards": [0, 0, 0]},
        {"organ": "jaw", "towards": [0, 1]},
        {"organ": "jaw", "towards": [0, 1, 0], "fork": True},
        {"organ": "jaw", "towards": [0, 1, 0], "half": "upper"},
    ):
        with pytest.raises(InputError):
            regions(wrong)


def test_the_public_names_are_there() -> None:
    assert rprloc.LandmarkDetection is LandmarkDetection and rprloc.AbsentLandmark is AbsentLandmark


def test_landmarks_go_through_the_command_line_alone_and_beside_organs(example: ExampleFiles, tmp_path: Path) -> None:
    centre = rprloc.read_volume(example.image).grid.bounds.centre_ras
    rprloc.write_landmarks(tmp_path / "tips.mrk.json", {"tip": centre, "other tip": centre + 4.0})
    (tmp_path / "tips.csv").write_text("name,r_mm,a_mm,s_mm\ntip,{},{},{}\n".format(*centre))
    weights = ["--model", example.weights, "--device", "cpu"]
    build = ["support", "build", "--image", example.image, "--out", tmp_path / "set.json", *weights]
    organs = ["--labels", example.labels, "--names", example.names]
    for marks, landmarks, names in (
        (["--landmarks", tmp_path / "tips.mrk.json"], ["tip", "other tip"], []),
        (["--landmarks", tmp_path / "tips.csv", *organs], ["tip"], ["bone", "lung"]),
    ):
        built = run_command(*build, *marks)
        assert built.exit_code == 0, built.stderr
        assert f"{len(landmarks)} landmark" in built.stdout
        support_set = SupportSet.load(tmp_path / "set.json")
        assert (support_set.organs, support_set.landmarks) == (names, landmarks)
        located = run_command("locate", tmp_path / "set.json", example.image, "--out", tmp_path / "out", *weights)
        assert located.exit_code == 0 and "tip" in located.stdout
        found = Detections.load(tmp_path / "out" / "anna.detections.json")
        assert found["tip"].point_ras == pytest.approx(centre, abs=0.01)
        assert rprloc.read_landmarks(tmp_path / "out" / "anna.mrk.json")["tip"] == pytest.approx(centre, abs=0.01)
        assert "not calibrated" in " ".join(found.warnings)
    only = ["--organ", "tip", "--out", tmp_path / "only"]
    assert run_command("locate", tmp_path / "set.json", example.image, *only, *weights).exit_code == 0
    assert list(Detections.load(tmp_path / "only" / "anna.detections.json").targets) == ["tip"]
    refused = run_command(*build, "--landmarks", tmp_path / "missing.csv")
    assert refused.exit_code == 2 and "missing.csv" in refused.stderr


def test_a_slice_that_was_lost_is_drawn_again(example: ExampleFiles, tmp_path: Path) -> None:
    centre = rprloc.read_volume(example.image).grid.bounds.centre_ras
    (tmp_path / "tips.csv").write_text("name,r_mm,a_mm,s_mm\ntip,{},{},{}\n".format(*centre))
    weights = ["--model", example.weights, "--device", "cpu"]
    marks = ["--landmarks", tmp_path / "tips.csv", "--out", tmp_path / "set.json"]
    assert run_command("support", "build", "--image", example.image, *marks, *weights).exit_code == 0
    (tmp_path / "scans.csv").write_text(f"path\n{example.image}\n")
    locate = [
        "locate",
        tmp_path / "set.json",
        "--manifest",
        tmp_path / "scans.csv",
        "--out",
        tmp_path / "out",
        "--picture",
    ]
    assert "1 located" in run_command(*locate, *weights).stdout
    (drawn,) = (tmp_path / "out" / "anna.slices").iterdir()
    assert "1 already done" in run_command(*locate, *weights).stdout
    drawn.unlink()
    assert "1 located" in run_command(*locate, *weights).stdout and drawn.is_file()


def test_measuring_nothing_is_said(example: ExampleFiles, tmp_path: Path) -> None:
    cases = {"a": {"split": "test", "targets": ["bladder"]}}
    (tmp_path / "datasets.json").write_text(json.dumps({"pelvis": {"labels": {"1": "bladder"}, "cases": cases}}))
    command = ["evaluate", "--data", tmp_path / "datasets.json", "--out", tmp_path / "out"]
    for examples in ([], ["--set", example.support_set, "--model", example.weights]):
        done = run_command(*command, *examples, "--device", "cpu")
        assert done.exit_code == 2 and "nothing to measure" in done.stderr
