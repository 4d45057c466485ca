"""Expected errors and presence: what must hold of them whatever was fitted, and the shipped ones on real scans."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rprloc.annotation import Annotation
from rprloc.detection import AbsentOrgan, Detections, OrganDetection, Presence
from rprloc.errors import InputError
from rprloc.evaluation.evaluate import read_case
from rprloc.evaluation.views import Kind, change, keep_between
from rprloc.geometry import Box
from rprloc.io.dataset import Case, read_dataset
from rprloc.io.reading import Scan, read_volume
from rprloc.io.results import write_results
from rprloc.localization.confidence import (
    NOT_CALIBRATED,
    Calibration,
    Evidence,
    FieldEvidence,
    ScanEvidence,
    load_calibration,
)
from rprloc.localization.localizer import Localizer
from rprloc.localization.locate import observe
from rprloc.localization.marking import build_support
from rprloc.localization.support import SupportSet
from rprloc.model.body import BodyAtlas
from rprloc.model.shipped import CALIBRATION_FILE, find_weights
from rprloc.volume import Volume
from tests.command_line import rprloc
from tests.example import ExampleFiles
from tests.fields import FINE, make_field
from tests.scans import BELLY, CHEST, Pair

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
def shipped() -> Calibration:
    """The calibration of the shipped weights."""
    found = load_calibration(find_weights())
    assert found is not None
    return found


def test_the_calibration_is_that_of_the_shipped_weights(localizer: Localizer, shipped: Calibration) -> None:
    assert localizer.model_id == shipped.model_id
    assert localizer.calibration == shipped
    assert Calibration.from_json(shipped.to_json()) == shipped


def test_a_calibration_that_is_damaged_is_refused(example: ExampleFiles, tmp_path: Path) -> None:
    weights = tmp_path / "model.pt"
    weights.write_bytes(example.weights.read_bytes())
    assert load_calibration(weights) is None and Localizer.load(weights, "cpu").calibration is None
    for text in ('{"model_id": "m"}', "[]", "{"):
        weights.with_name(CALIBRATION_FILE).write_text(text)
        with pytest.raises(InputError, match="not a calibration"):
            Localizer.load(weights, "cpu")


def test_probabilities_sum_to_one_and_follow_the_place(shipped: Calibration) -> None:
    for inside_mm in (200.0, 20.0, 0.0, -20.0, -200.0):
        moved = replace(EVIDENCE, inside_mm=inside_mm, seen_mm=inside_mm + 50.0)
        presence = shipped.presence(moved, shipped.expected_mm(moved))
        assert sum(asdict(presence).values()) == pytest.approx(1.0)
    far_inside, cut, gone = (
        shipped.presence(replace(EVIDENCE, inside_mm=mm, seen_mm=mm + 50.0), 8.0) for mm in (60.0, -25.0, -110.0)
    )
    assert far_inside.whole > 0.9 and cut.is_cut and gone.absent > 0.95
    assert far_inside.absent < cut.absent < gone.absent


def test_poor_evidence_means_greater_errors(shipped: Calibration) -> None:
    expected_mm = shipped.expected_mm(EVIDENCE)
    assert 2.0 < expected_mm < 30.0
    assert shipped.expected_mm(replace(EVIDENCE, log_spread=2.0)) > expected_mm


def test_a_scan_that_does_not_reach_the_organ_makes_it_absent(shipped: Calibration) -> None:
    support = build_support(make_field(np.eye(3), np.zeros(3)), FINE, Annotation({"organ": POINTS}), "s")
    example = SupportSet("m", (support,))
    whole = make_field()
    ((found, evidence),) = observe(example, FieldEvidence.of(whole), None)
    assert evidence.inside_mm > 0.0 and evidence.log_back < np.log(20.0)
    assert evidence.log_supports == evidence.log_disagreement == 0.0
    chances = []
    lower_mm, upper_mm = found.box.min_ras[2], found.box.max_ras[2]
    for lowest_mm in (lower_mm - 60.0, upper_mm + 10.0, upper_mm + 60.0):  # where the scan begins, on the feet's side
        low = whole.bounds.min_ras.copy()
        low[2] = lowest_mm
        ((_, seen),) = observe(example, FieldEvidence.of(replace(whole, bounds=Box(low, whole.bounds.max_ras))), None)
        chances.append(shipped.presence(seen, 6.0).absent)
    assert chances[0] < chances[1] < chances[2] and chances[0] < 0.1 and chances[2] > 0.9


def test_supports_that_disagree_are_evidence() -> None:
    person = make_field(np.eye(3), np.zeros(3))
    supports = [
        build_support(person, FINE, Annotation({"organ": POINTS + off}), name)
        for name, off in (("a", 0.0), ("b", 0.0), ("c", 12.0))
    ]
    ((_, alike),) = observe(SupportSet("m", (supports[0], supports[1])), FieldEvidence.of(make_field()), None)
    ((_, apart),) = observe(SupportSet("m", tuple(supports)), FieldEvidence.of(make_field()), None)
    assert alike.log_supports == pytest.approx(np.log(2)) and apart.log_supports == pytest.approx(np.log(3))
    assert alike.log_disagreement < 0.1 < 0.5 < apart.log_disagreement


def with_atlas(image: torch.Tensor) -> FieldEvidence:
    """A scan of an identity field, beside an atlas with a liver on the right."""
    plain = make_field(np.eye(3), np.zeros(3))
    values = torch.zeros(2, 40, 40, 40)
    values[0], values[1] = 0.5, 1.0
    values[0, 24:34, 10:30, 10:30] = 0.9
    return FieldEvidence.of(replace(plain, image=image, atlas=BodyAtlas.at(values, [-156.0, -156.0, -156.0])))


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
def test_what_is_wrong_with_a_scan_is_said(
    shipped: Calibration, changed: dict[str, object], said: tuple[str, ...]
) -> None:
    doubts = shipped.doubts(replace(ORDINARY, **changed), ())
    assert len(doubts) == len(said) and all(word in doubt for word, doubt in zip(said, doubts, strict=True))


def test_a_body_that_is_too_long_is_told_where_the_calibration_knows_how_long_bodies_are(shipped: Calibration) -> None:
    stretched = replace(ORDINARY, length_scale=0.4)
    known = replace(shipped, least_length_scale=0.7)
    assert "2.5 times as long" in known.doubts(stretched, ())[0] and known.doubts(ORDINARY, ()) == ()
    assert Calibration.from_json(known.to_json()) == known
    older = replace(shipped, least_length_scale=None)
    assert older.doubts(stretched, ()) == () and Calibration.from_json(older.to_json()) == older


def test_a_scan_of_another_part_of_the_body_is_said_to_be_one(shipped: Calibration) -> None:
    absent = AbsentOrgan("liver", Presence(0.0, 0.1, 0.9), ("a",))
    present = OrganDetection("heart", POINTS, np.zeros(6), 1, ("a",), 4.0, Presence(1.0, 0.0, 0.0))
    assert "another part of the body" in shipped.doubts(ORDINARY, (absent, absent))[0]
    assert shipped.doubts(ORDINARY, (absent, present)) == ()


def test_other_weights_get_no_numbers_and_say_so(example: ExampleFiles, tmp_path: Path) -> None:
    command = ["locate", example.support_set, example.image, "--out", tmp_path, "--model", example.weights]
    done = rprloc(*command, "--device", "cpu")
    assert done.exit_code == 0
    found = Detections.load(tmp_path / "anna.detections.json")
    assert NOT_CALIBRATED in found.warnings and "not calibrated" in done.stdout
    assert [one.organ for one in found.located] == ["bone", "lung"]  # a box comes out always
    assert all(one.presence is None and one.expected_wall_error_mm is None for one in found.located)


def test_where_no_organ_is_there_nothing_is_drawn_and_old_boxes_go(phantom: Volume, tmp_path: Path) -> None:
    heart = OrganDetection("heart", POINTS, np.zeros(6), 1, ("a",), 4.0, Presence(1.0, 0.0, 0.0))
    absent = AbsentOrgan("heart", Presence(0.0, 0.1, 0.9), ("a",))
    names = {f"p{end}" for end in (".detections.json", ".mrk.json", ".png", ".slices", ".boxes.nii.gz")}
    for organs, left in (
        ((heart,), names),
        ((replace(absent, organ="brain"), heart), names),
        ((absent,), {"p.detections.json", "p.boxes.nii.gz"}),
    ):
        write_results(tmp_path, Scan(phantom), Detections("p", organs, "m", "s"), picture=True, label_map=True)
        assert {path.name for path in tmp_path.iterdir()} == left


# The shipped weights on real scans


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> dict[str, list[Case]]:
    found = [case for case in read_dataset(shared_data / "datasets.json") if case.split == "support"]
    return {region: [case for case in found if case.region == region] for region in ("han", "abdomen")}


@pytest.fixture(scope="module")
def heads(localizer: Localizer, cases: dict[str, list[Case]]) -> SupportSet:
    """Organs of head and neck."""
    return localizer.learn(read_case(cases["han"][0]))


def kept_between(volume: Volume, low_mm: float, high_mm: float) -> Volume:
    """The part of a scan between two heights."""
    return keep_between(volume, 2, low_mm, high_mm)


def assert_changes_are_doubted(localizer: Localizer, volume: Volume, organs: SupportSet, upside_down: str) -> None:
    """A mirrored scan is called so, one like MR no body, and one that is upside down what ``upside_down`` says."""
    words = {
        Kind.MIRRORED: "mirrored",
        Kind.UPSIDE_DOWN: upside_down,
        Kind.LIKE_MR: "hardly looks like a body",
        Kind.LIKE_SHIFTED_MR: "hardly looks like a body",
    }
    for kind, scan in change(volume):
        if kind in words:
            doubts = localizer.locate(scan, organs).warnings
            assert any(words[kind] in doubt for doubt in doubts), (kind, doubts)


@pytest.mark.slow
def test_organs_of_a_public_scan_that_are_cut_off_are_absent(
    localizer: Localizer, public_pair: Pair, public_organs: SupportSet
) -> None:
    organs, query = public_organs, public_pair.query
    whole = localizer.locate(query.volume, organs)
    assert set(CHEST.values()) <= whole.boxes.keys()
    assert whole["heart"].presence is not None and not whole["heart"].is_cut
    top_of_heart_mm = query.annotation.points_ras["heart"][5, 2]
    shoulders = kept_between(query.volume, top_of_heart_mm + 25.0, np.inf)
    found = localizer.locate(shoulders, organs)
    assert {"heart", "vertebrae_T8", *BELLY.values()} <= {one.organ for one in found.absent}
    assert "trachea" in found.boxes and "heart" not in found.boxes
    found = localizer.locate(shoulders, organs, list(BELLY.values()))
    assert not found.located and any("another part of the body" in one for one in found.warnings)


@pytest.mark.slow
def test_a_public_scan_that_is_mirrored_or_like_mr_is_noticed(
    localizer: Localizer, public_pair: Pair, public_organs: SupportSet
) -> None:
    volume = public_pair.query.volume
    assert localizer.locate(volume, public_organs, list(CHEST.values())).warnings == ()
    assert_changes_are_doubted(localizer, volume, public_organs, "hardly looks like a body")


@pytest.mark.slow
def test_organs_that_are_cut_off_are_absent(
    localizer: Localizer, cases: dict[str, list[Case]], heads: SupportSet
) -> None:
    query = read_case(cases["han"][1])
    whole = localizer.locate(query.volume, heads)
    assert {"brainstem", "mandible", "parotid_left", "parotid_right"} <= whole.boxes.keys()
    assert all(one.presence is not None and not one.is_cut for one in whole.located if one.organ == "mandible")
    below_the_jaw_mm = query.annotation.points_ras["mandible"][4, 2] - 25.0
    found = localizer.locate(kept_between(query.volume, -np.inf, below_the_jaw_mm), heads)
    assert {"brainstem", "parotid_left", "parotid_right"} <= {one.organ for one in found.absent}
    assert "brainstem" not in found.boxes


@pytest.mark.slow
def test_a_scan_of_another_region_or_mirrored_or_like_mr_is_noticed(
    localizer: Localizer, cases: dict[str, list[Case]], heads: SupportSet
) -> None:
    volume = read_volume(cases["abdomen"][1].image_path)
    found = localizer.locate(volume, heads, ["brainstem", "mandible", "parotid_left", "parotid_right"])
    assert not found.located and any("another part of the body" in one for one in found.warnings)
    assert_changes_are_doubted(localizer, volume, heads, "upside down")
