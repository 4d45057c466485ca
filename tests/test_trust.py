"""Expected errors and presence: what must hold of them whatever was fitted, and the shipped ones on real scans."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import Example, rprloc
from test_locate import FINE, field

from rprloc.detection import AbsentOrgan, Detections, OrganDetection, Presence
from rprloc.evaluation.evaluate import annotated
from rprloc.geometry import Box
from rprloc.io.dataset import Case, read_dataset
from rprloc.io.results import load_detections, write_results
from rprloc.localization.confidence import (
    NOT_CALIBRATED,
    Calibration,
    Evidence,
    Linear,
    ScanEvidence,
    Seen,
    calibration_for,
    shipped,
)
from rprloc.localization.localizer import Engine
from rprloc.localization.locate import observed
from rprloc.localization.marking import build_support
from rprloc.localization.support import SupportSet
from rprloc.model.body import BodyAtlas
from rprloc.model.network import load_model
from rprloc.volume import Volume

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = Evidence(
    log_size=4.0,
    log_spread=1.0,
    log_back=3.0,
    atlas=0.9,
    log_supports=0.0,
    log_disagreement=0.0,
    seen_mm=80.0,
    inside_mm=30.0,
)
ORDINARY = ScanEvidence(likeness=0.9, sidedness=1.0, upside_down=False)
POINTS = np.array([[-20.0, 0, 0], [30, 5, 0], [0, -35, 5], [5, 10, 0], [0, 0, -30], [0, 0, 25]])


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibrate_trust", ROOT / "scripts" / "calibrate_trust.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_the_calibration_is_that_of_the_shipped_weights() -> None:
    model_id = load_model().identity()
    assert calibration_for(model_id) is shipped()
    assert calibration_for("other weights") is None
    assert Calibration.from_json(shipped().to_json()) == shipped()


def test_probabilities_sum_to_one_and_follow_the_place() -> None:
    for inside_mm in (200.0, 20.0, 0.0, -20.0, -200.0):
        moved = replace(EVIDENCE, inside_mm=inside_mm, seen_mm=inside_mm + 50.0)
        presence = shipped().presence(moved, shipped().expected_mm(moved))
        assert sum(asdict(presence).values()) == pytest.approx(1.0)
    far_inside, cut, gone = (
        shipped().presence(replace(EVIDENCE, inside_mm=mm, seen_mm=mm + 50.0), 8.0) for mm in (60.0, -25.0, -110.0)
    )
    assert far_inside.whole > 0.9 and cut.is_cut and gone.absent > 0.95
    assert far_inside.absent < cut.absent < gone.absent


def test_poor_evidence_means_greater_errors() -> None:
    expected_mm = shipped().expected_mm(EVIDENCE)
    assert 2.0 < expected_mm < 30.0
    assert shipped().expected_mm(replace(EVIDENCE, log_spread=2.0)) > expected_mm


def test_a_scan_that_does_not_reach_the_organ_makes_it_absent() -> None:
    support = build_support(field(np.eye(3), np.zeros(3)), FINE, {"organ": POINTS}, scan="s", source="extreme points")
    example = SupportSet("m", (support,))
    whole = field()
    ((found, evidence),) = observed(example, Seen.of(whole), None)
    assert evidence.inside_mm > 0.0 and evidence.log_back < np.log(20.0)
    assert evidence.log_supports == evidence.log_disagreement == 0.0
    chances = []
    for left_mm in (60.0, -10.0, -60.0):  # of the scan above the organ's lower wall
        low = whole.bounds.min_ras.copy()
        low[2] = found.box.max_ras[2] - left_mm if left_mm < 0 else found.box.min_ras[2] - left_mm
        if left_mm < 0:
            low[2] = found.box.max_ras[2] - left_mm
        ((_, seen),) = observed(example, Seen.of(replace(whole, bounds=Box(low, whole.bounds.max_ras))), None)
        chances.append(shipped().presence(seen, 6.0).absent)
    assert chances[0] < chances[1] < chances[2] and chances[0] < 0.1 and chances[2] > 0.9


def test_supports_that_disagree_are_evidence() -> None:
    person = field(np.eye(3), np.zeros(3))
    supports = [
        build_support(person, FINE, {"organ": POINTS + off}, scan=name, source="extreme points")
        for name, off in (("a", 0.0), ("b", 0.0), ("c", 12.0))
    ]
    ((_, alike),) = observed(SupportSet("m", (supports[0], supports[1])), Seen.of(field()), None)
    ((_, apart),) = observed(SupportSet("m", tuple(supports)), Seen.of(field()), None)
    assert alike.log_supports == pytest.approx(np.log(2)) and apart.log_supports == pytest.approx(np.log(3))
    assert alike.log_disagreement < 0.1 < 0.5 < apart.log_disagreement


def with_atlas(image: torch.Tensor) -> Seen:
    """A scan of an identity field, beside an atlas with a liver on the right."""
    plain = field(np.eye(3), np.zeros(3))
    values = torch.zeros(2, 40, 40, 40)
    values[0], values[1] = 0.5, 1.0
    values[0, 24:34, 10:30, 10:30] = 0.9
    return Seen.of(replace(plain, image=image, atlas=BodyAtlas(values, torch.tensor([-156.0, -156.0, -156.0]))))


def test_a_mirrored_scan_has_the_other_side() -> None:
    image = torch.full((80, 80, 80), 0.52)
    image[48:68, 20:60, 20:60] = 0.72
    right, wrong = with_atlas(image).as_a_whole(), with_atlas(image.flip(0)).as_a_whole()
    assert right.sidedness == pytest.approx(1.0, abs=0.3) and right.likeness > 0.9
    assert wrong.sidedness == pytest.approx(-1.0, abs=0.3) and wrong.likeness < 0.5
    assert with_atlas(torch.zeros(80, 80, 80)).as_a_whole() == ScanEvidence(0.0, None, False)  # nothing to compare


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ()),
        ({"sidedness": None}, ()),
        ({"sidedness": -0.5}, ("mirrored",)),
        ({"upside_down": True}, ("upside down",)),
        ({"likeness": 0.1}, ("hardly looks like a body",)),
    ],
)
def test_what_is_wrong_with_a_scan_is_said(changed: dict[str, object], said: tuple[str, ...]) -> None:
    doubts = shipped().doubts(replace(ORDINARY, **changed), ())
    assert len(doubts) == len(said) and all(word in doubt for word, doubt in zip(said, doubts, strict=True))


def test_a_scan_of_another_part_of_the_body_is_said_to_be_one() -> None:
    absent = AbsentOrgan("liver", Presence(0.0, 0.1, 0.9), ("a",))
    present = OrganDetection("heart", POINTS, np.zeros(6), 1, ("a",), 4.0, Presence(1.0, 0.0, 0.0))
    assert "another part of the body" in shipped().doubts(ORDINARY, (absent, absent))[0]
    assert shipped().doubts(ORDINARY, (absent, present)) == ()


def test_other_weights_get_no_numbers_and_say_so(example: Example, tmp_path: Path) -> None:
    command = ["locate", example.support_set, example.image, "--out", tmp_path, "--model", example.weights]
    done = rprloc(*command, "--device", "cpu")
    assert done.exit_code == 0
    found = load_detections(tmp_path / "anna.detections.json")
    assert NOT_CALIBRATED in found.warnings and "not calibrated" in done.stdout
    assert [one.organ for one in found.located] == ["bone", "lung"]  # a box comes out always
    assert all(one.presence is None and one.expected_error_mm is None for one in found.located)


def test_where_no_organ_is_there_nothing_is_drawn_and_old_boxes_go(phantom: Volume, tmp_path: Path) -> None:
    heart = OrganDetection("heart", POINTS, np.zeros(6), 1, ("a",), 4.0, Presence(1.0, 0.0, 0.0))
    absent = AbsentOrgan("heart", Presence(0.0, 0.1, 0.9), ("a",))
    names = {f"p{end}" for end in (".detections.json", ".mrk.json", ".png", ".boxes.nii.gz")}
    for organs, left in (
        ((heart,), names),
        ((replace(absent, organ="brain"), heart), names),
        ((absent,), {"p.detections.json", "p.boxes.nii.gz"}),
    ):
        write_results(tmp_path, "p", phantom, Detections("p", organs, "m", "s"), picture=True, labels=True)
        assert {path.name for path in tmp_path.iterdir()} == left


def test_the_regressions_find_what_made_the_numbers(script: ModuleType) -> None:
    generator = np.random.default_rng(0)
    rows = [{"a": a, "b": b} for a, b in generator.normal([3.0, -1.0], [2.0, 0.5], (4000, 2))]
    truth = np.array([np.exp(1.0 + 0.2 * row["a"] - 0.5 * row["b"]) for row in rows])
    ones = np.ones(len(rows))
    found = script.linear(script.expected_mean, rows, ("a", "b"), truth * generator.gamma(4.0, 0.25, len(rows)), ones)
    assert found.intercept == pytest.approx(1.0, abs=0.1)
    assert found.weights == pytest.approx({"a": 0.2, "b": -0.5}, abs=0.05)
    odds = Linear(0.5, {"a": -0.4, "b": 0.8})
    seen = generator.random(len(rows)) < [1.0 / (1.0 + np.exp(-odds.of(row))) for row in rows]
    found = script.linear(script.probability, rows, ("a", "b"), seen, ones)
    assert found.weights == pytest.approx({"a": -0.4, "b": 0.8}, abs=0.15)


def test_crops_keep_voxels_where_they_are(script: ModuleType, phantom: Volume) -> None:
    labels = (phantom.hu == 700).astype(np.uint8)
    for kind, part, seen in script.crops(phantom, labels, 3):
        assert kind in ("cut along", "cut sideways") and part.hu.shape == seen.shape == part.grid.shape
        first = np.rint(phantom.grid.ijk(part.grid.ras([0, 0, 0]))).astype(int)
        where = tuple(slice(a, a + n) for a, n in zip(first, part.hu.shape, strict=True))
        np.testing.assert_array_equal(phantom.hu[where], part.hu)
        assert part.hu.size < phantom.hu.size


def test_area_under_the_curve_worked_out_by_hand(script: ModuleType) -> None:
    assert script.auroc([0.9, 0.8, 0.3, 0.1], [True, False, True, False]) == pytest.approx(0.75)
    assert script.auroc([0.9, 0.8, 0.2], [True, True, False]) == 1.0


# The shipped weights on real scans


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load(device="cpu")


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> dict[str, list[Case]]:
    found = [case for case in read_dataset(shared_data / "datasets.json") if case.split == "support"]
    return {region: [case for case in found if case.region == region] for region in ("han", "abdomen")}


def example_of(engine: Engine, case: Case) -> SupportSet:
    volume, points, masks = annotated(case)
    return engine.support_set(volume, points, scan=case.name, source="label map", masks=masks)


@pytest.mark.slow
def test_organs_that_are_cut_off_are_absent(engine: Engine, cases: dict[str, list[Case]], script: ModuleType) -> None:
    heads = example_of(engine, cases["han"][0])
    volume, truth, _ = annotated(cases["han"][1])
    whole = engine.detect(volume, heads)
    assert {"brainstem", "mandible", "parotid_left", "parotid_right"} <= whole.boxes.keys()
    assert all(one.presence is not None and not one.is_cut for one in whole.located if one.organ == "mandible")
    top_mm = truth["mandible"][4, 2] - 25.0  # below the jaw
    neck, _ = script._between(volume, np.zeros(volume.hu.shape, np.uint8), 2, -np.inf, top_mm)
    found = engine.detect(neck, heads)
    assert {"brainstem", "parotid_left", "parotid_right"} <= {one.organ for one in found.absent}
    assert "brainstem" not in found.boxes


@pytest.mark.slow
def test_a_scan_of_another_region_or_mirrored_or_like_mr_is_noticed(
    engine: Engine, cases: dict[str, list[Case]], script: ModuleType
) -> None:
    heads, belly = example_of(engine, cases["han"][0]), cases["abdomen"][1]
    volume, *_ = annotated(belly)
    found = engine.detect(volume, heads, ["brainstem", "mandible", "parotid_left", "parotid_right"])
    assert not found.located and any("another part of the body" in one for one in found.warnings)
    for kind, scan in script.changed(volume):
        if kind in ("mirrored", "upside down", "like MR", "like MR, darkest at -1000"):
            doubts = engine.detect(scan, heads).warnings
            words = {"mirrored": "mirrored", "upside down": "upside down"}.get(kind, "hardly looks like a body")
            assert any(words in doubt for doubt in doubts), (kind, doubts)
