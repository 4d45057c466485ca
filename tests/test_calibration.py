"""Calibration: what is fitted to made-up observations, how it is checked and told, and how scans are cut."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rprloc.errors import InputError
from rprloc.evaluation.calibration import (
    Judged,
    bin_by_expected,
    cross_validate,
    find_thresholds,
    fit_calibration,
    fit_log_mean,
    fit_log_odds,
    judge,
)
from rprloc.evaluation.calibration_report import area_under_roc, doubts_table, error_table, presence_table
from rprloc.evaluation.observations import Observation, Observations, ScanObservation, State, choose_queries
from rprloc.evaluation.views import Kind, change, cut
from rprloc.io.dataset import Case
from rprloc.io.plausibility import image_warnings
from rprloc.localization.confidence import Calibration, Evidence, Linear, ScanEvidence
from rprloc.localization.specks import has_pieces_beyond_the_largest
from rprloc.volume import Volume
from tests.phantoms import mr

ERROR = Linear(
    2.0,
    {
        "log_size": -0.2,
        "log_spread": 0.6,
        "log_back": 0.1,
        "atlas": -0.5,
        "log_supports": 0.0,
        "log_disagreement": 0.0,
    },
)
ABSENT, WHOLE = Linear(0.5, {"seen": -0.6}), Linear(0.4, {"inside": 1.0})
ORDINARY = ScanEvidence(likeness=0.9, sidedness=1.0, upside_down=False)
TRUE = Calibration("m", ERROR, ABSENT, WHOLE, 0.7, 0.5)


@cache
def made_up(count: int, *, scans: int = 40, organs: int = 8, seed: int = 0) -> tuple[Observation, ...]:
    """Observations of one region whose errors and states follow TRUE."""
    generator = np.random.default_rng(seed)
    found = []
    for n in range(count):
        size, spread, back, atlas = generator.normal([4.0, 1.5, 3.0, 0.8], [0.6, 0.4, 0.5, 0.4])
        inside_mm = generator.normal(10.0, 50.0)
        evidence = Evidence(size, spread, back, atlas, 0.0, 0.0, inside_mm + generator.uniform(20.0, 60.0), inside_mm)
        expected_mm = TRUE.expected_mm(evidence)
        chances = TRUE.presence(evidence, expected_mm)
        state = generator.choice(list(State), p=[chances.whole, chances.part, chances.absent])
        error_mm = expected_mm * generator.gamma(4.0, 0.25)
        scan, organ = f"scan{n % scans}", f"organ{n % organs}"
        found.append(Observation("r", scan, "r", "support", organ, evidence, state, error_mm, contours_stop=False))
    return tuple(found)


def ordinary_scans(count: int = 10) -> tuple[ScanObservation, ...]:
    return (ScanObservation("r", Kind.WHOLE, (), ORDINARY),) * count


def test_a_known_relation_is_found_again() -> None:
    found = fit_calibration("m", Observations(made_up(4000), ordinary_scans()))
    assert found.model_id == "m"
    assert found.error.weights == pytest.approx(ERROR.weights, abs=0.08)
    assert found.absent.weights == pytest.approx(ABSENT.weights, abs=0.08)
    assert found.whole.weights == pytest.approx(WHOLE.weights, abs=0.1)
    for one in made_up(50, seed=1):
        assert found.expected_mm(one.evidence) == pytest.approx(TRUE.expected_mm(one.evidence), rel=0.1)
    assert Calibration.from_json(found.to_json()) == found


def test_the_regressions_find_what_made_the_numbers() -> None:
    generator = np.random.default_rng(0)
    rows = [{"a": a, "b": b} for a, b in generator.normal([3.0, -1.0], [2.0, 0.5], (4000, 2))]
    truth = np.array([np.exp(1.0 + 0.2 * row["a"] - 0.5 * row["b"]) for row in rows])
    ones = np.ones(len(rows))
    found = fit_log_mean(rows, ("a", "b"), truth * generator.gamma(4.0, 0.25, len(rows)), ones)
    assert found.intercept == pytest.approx(1.0, abs=0.1)
    assert found.weights == pytest.approx({"a": 0.2, "b": -0.5}, abs=0.05)
    odds = Linear(0.5, {"a": -0.4, "b": 0.8})
    seen = generator.random(len(rows)) < [1.0 / (1.0 + np.exp(-odds.of(row))) for row in rows]
    found = fit_log_odds(rows, ("a", "b"), seen, ones)
    assert found.weights == pytest.approx({"a": -0.4, "b": 0.8}, abs=0.15)


def test_the_fits_are_where_their_gradients_vanish() -> None:
    """With weights, and a ridge of 100 and of 1 observations on standardized evidence."""
    generator = np.random.default_rng(0)
    x, weights = generator.normal([2.0, 5.0], [3.0, 0.1], (300, 2)), generator.uniform(0.2, 3.0, 300)
    rows, standard = [{"a": a, "b": b} for a, b in x], (x - x.mean(0)) / x.std(0)
    y, true = generator.gamma(2.0, 3.0, 300), generator.random(300) < 0.3
    mean, odds = fit_log_mean(rows, ("a", "b"), y, weights), fit_log_odds(rows, ("a", "b"), true.tolist(), weights)
    by_mean = weights * (y / np.exp([mean.of(row) for row in rows]) - 1.0)
    by_odds = weights * (true - 1.0 / (1.0 + np.exp([-odds.of(row) for row in rows])))
    for by, ridge, found in ((by_mean, 100.0, mean), (by_odds, 1.0, odds)):
        slopes = np.array(list(found.weights.values())) * x.std(0)
        assert by.sum() == pytest.approx(0.0, abs=1e-3)
        np.testing.assert_allclose(standard.T @ by, ridge * slopes, atol=1e-3)


def test_every_region_counts_alike() -> None:
    """Ten times as many pairs with small errors in one region do not draw the mean there."""
    near = [replace(one, region="near", error_mm=2.0) for one in made_up(2000)]
    far = [replace(one, region="far", error_mm=20.0) for one in made_up(200)]
    constant = replace(near[0].evidence, seen_mm=50.0, inside_mm=20.0)
    seen = tuple(replace(one, evidence=constant) for one in (*near, *far))
    found = fit_calibration("m", Observations(seen, ordinary_scans()))
    assert found.expected_mm(constant) == pytest.approx(0.5 * (2.0 + 20.0), rel=0.02)


def test_organs_whose_contours_stop_are_left_out_of_the_fits() -> None:
    seen = made_up(1000)
    wrong = tuple(replace(one, contours_stop=True, error_mm=500.0, state=State.WHOLE) for one in made_up(1000, seed=1))
    with_them, without = (fit_calibration("m", Observations(some, ordinary_scans())) for some in (seen + wrong, seen))
    assert with_them == without


def test_supports_together_tell_errors_but_no_presence() -> None:
    seen = made_up(1000)
    without = fit_calibration("m", Observations(seen, ordinary_scans()))
    wrong = tuple(replace(one, support="all", state=State.ABSENT) for one in seen)
    assert fit_calibration("m", Observations(seen + wrong, ordinary_scans())) == without
    worse = tuple(replace(one, support="all", error_mm=3.0 * one.error_mm) for one in seen)
    with_them = fit_calibration("m", Observations(seen + worse, ordinary_scans()))
    assert with_them.expected_mm(seen[0].evidence) > 1.5 * without.expected_mm(seen[0].evidence)


def test_every_group_is_judged_by_what_was_fitted_without_it() -> None:
    seen = made_up(600, scans=5)
    odd = tuple(replace(one, error_mm=4.0 * one.error_mm) if one.query == "scan2" else one for one in seen)
    whole = fit_calibration("m", Observations(odd, ordinary_scans()))
    by_scan = cross_validate(whole, odd, lambda one: one.query)
    assert len(by_scan) == len(odd)
    others = tuple(one for one in odd if one.query != "scan2")
    without = fit_calibration("m", Observations(others, ordinary_scans()))
    own = [one for one in odd if one.query == "scan2"]
    assert [one for one in by_scan if one.seen.query == "scan2"] == judge(without, own)
    assert judge(without, own)[0].expected_mm < 0.8 * judge(whole, own)[0].expected_mm


def test_a_group_without_which_too_little_is_left_is_not_judged(caplog: pytest.LogCaptureFixture) -> None:
    seen = made_up(300, organs=1)
    calibration = fit_calibration("m", Observations(seen, ordinary_scans()))
    assert cross_validate(calibration, seen, lambda one: one.organ) == []
    assert "cannot leave out organ0" in caplog.text


@pytest.mark.parametrize("state", State)
def test_too_few_scans_and_organs_are_refused(state: State) -> None:
    seen = made_up(400)
    for some in (
        (),
        made_up(400, scans=2),
        tuple(one for one in seen if one.state is not state),  # a logistic regression needs both kinds
        tuple(replace(one, contours_stop=one.state is state) for one in seen),
    ):
        with pytest.raises(InputError, match="too few annotated scans to calibrate"):
            fit_calibration("m", Observations(some, ordinary_scans()))


def scan(kind: Kind, likeness: float, sidedness: float | None) -> ScanObservation:
    return ScanObservation("r", kind, (), ScanEvidence(likeness, sidedness, upside_down=False))


def test_thresholds_worked_out_by_hand() -> None:
    ordinary = [scan(kind, 0.5 + 0.01 * n, n / 100) for n in range(51) for kind in (Kind.WHOLE, Kind.CUT_ALONG)]
    # A hundredth of 102 values is 1.01 along the sorted ones, which come in pairs: 0.01 of the way to the second pair.
    lowest = 0.01 * 0.01
    likeness, sidedness, scale = find_thresholds([*ordinary, scan(Kind.CUT_SIDEWAYS, 0.0, -2.0)]).values()
    assert scale == pytest.approx(1.0)
    assert likeness == pytest.approx(0.5 + lowest) and sidedness == pytest.approx(lowest)
    sided = find_thresholds([*ordinary, scan(Kind.MIRRORED, 0.0, -0.8), scan(Kind.MIRRORED, 0.0, -0.4)])
    sidedness = sided["least_sidedness"]
    assert sidedness == pytest.approx(0.5 * (lowest - 0.4))
    sidedness = find_thresholds([*ordinary, scan(Kind.MIRRORED, 0.0, 0.9)])["least_sidedness"]
    assert sidedness == pytest.approx(lowest)
    sidedness = find_thresholds([scan(Kind.WHOLE, 0.5, None), scan(Kind.MIRRORED, 0.0, -0.4)])["least_sidedness"]
    assert sidedness == 0.0


def test_area_under_the_curve_worked_out_by_hand() -> None:
    assert area_under_roc([0.9, 0.8, 0.3, 0.1], [True, False, True, False]) == pytest.approx(0.75)
    assert area_under_roc([0.9, 0.8, 0.2], [True, True, False]) == 1.0
    assert np.isnan(area_under_roc([0.9, 0.8], [True, True]))


def test_shares_of_the_pairs_by_what_was_expected() -> None:
    shares = bin_by_expected([4.0, 1.0, 3.0, 2.0], [8.0, 1.0, 4.0, 3.0], count=2)
    np.testing.assert_allclose(shares, [[1.5, 2.0], [3.5, 6.0]])
    assert len(bin_by_expected([1.0, 2.0], [1.0, 2.0])) == 2


def test_tables_tell_expected_and_true_errors_and_what_was_called_absent() -> None:
    judged = judge(TRUE, made_up(4000))
    table, curves = error_table(judged)
    whole = [one for one in judged if one.seen.state is State.WHOLE]
    expected, true = np.mean([[one.expected_mm, one.seen.error_mm] for one in whole], axis=0)
    assert f"| r, one | {len(whole)} | {expected:.1f} | {true:.1f} |" in table and "r, all" not in table
    assert list(curves) == [("r", "one")] and curves["r", "one"].shape == (10, 2)
    absent = [one for one in judged if one.seen.state is State.ABSENT]
    called = 100 * np.mean([one.presence.absent > 0.5 for one in absent])
    assert f"{called:.1f} % |" in presence_table(judged).splitlines()[-1]


def test_few_pairs_get_means_but_no_shares() -> None:
    few: list[Judged] = [one for one in judge(TRUE, made_up(400)) if one.seen.state is State.WHOLE][:29]
    table, curves = error_table(few)
    assert "| r, one | 29 |" in table and "too few" in table and curves == {}
    assert "| r | 29, 0, 0 | nan | nan |" in presence_table(few)


def test_every_doubt_is_counted_in_its_column(phantom: Volume) -> None:
    strange = Volume(mr(phantom.hu), phantom.grid, "mr")
    doubted = {
        "upside down": (ScanEvidence(0.9, 1.0, upside_down=True), ()),
        "mirrored": (ScanEvidence(0.9, -1.0, upside_down=False), ()),
        "too long": (ScanEvidence(0.9, 1.0, upside_down=False, length_scale=0.4), ()),
        "hardly like a body": (ScanEvidence(0.1, 1.0, upside_down=False), ()),
        "values unlike CT": (ORDINARY, tuple(image_warnings(strange))),
    }
    scans = [ScanObservation("r", Kind.WHOLE, (), ORDINARY)]
    scans += [ScanObservation(name, Kind.WHOLE, said, evidence) for name, (evidence, said) in doubted.items()]
    header, _, ordinary, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in doubts_table(replace(TRUE, least_length_scale=0.7), scans).splitlines()
    ]
    assert ordinary == ["r, whole", "1", "0", "0", "0", "0", "0", "0"]
    for name, row in zip(doubted, rows, strict=True):
        assert [title for title, count in zip(header[2:], row[2:], strict=True) if count == "1"] == [name, "any"]


def test_cuts_keep_voxels_where_they_are(phantom: Volume) -> None:
    kinds = []
    for kind, part in cut(phantom, 3):
        kinds.append(kind)
        assert part.hu.shape == part.grid.shape
        first = np.rint(phantom.grid.ijk(part.grid.ras([0, 0, 0]))).astype(int)
        where = tuple(slice(a, a + n) for a, n in zip(first, part.hu.shape, strict=True))
        np.testing.assert_array_equal(phantom.hu[where], part.hu)
        assert part.hu.size < phantom.hu.size
    assert kinds == [Kind.CUT_ALONG, Kind.CUT_ALONG, Kind.CUT_SIDEWAYS]


def test_changes_are_what_they_are_called(phantom: Volume) -> None:
    made = dict(change(phantom))
    assert list(made) == [kind for kind in Kind if not kind.is_body]
    for kind, axis in ((Kind.MIRRORED, 0), (Kind.UPSIDE_DOWN, 2), (Kind.BACK_TO_FRONT, 1)):
        np.testing.assert_array_equal(made[kind].hu, np.flip(phantom.hu, axis))
        assert made[kind].grid == phantom.grid
    bone, tissue, air = (made[Kind.LIKE_MR].hu[phantom.hu == hu].mean() for hu in (700, 40, -1000))
    assert air < 50.0 < bone < tissue and made[Kind.LIKE_MR].hu.min() >= 0.0
    assert made[Kind.LIKE_SHIFTED_MR].hu.min() == pytest.approx(-1000.0, abs=3.0)


def test_pieces_beyond_the_box_of_the_largest_are_noticed() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[5:12, 5:12, 5:12] = True
    assert not has_pieces_beyond_the_largest(mask)
    mask[6, 6, 13] = True  # one voxel away, and by so much the box is larger
    assert has_pieces_beyond_the_largest(mask)
    mask[6, 6, 13] = False
    mask[12, 5, 5] = True  # touches
    assert not has_pieces_beyond_the_largest(mask)


def case_of(name: str, split: str, region: str = "r", targets: tuple[str, ...] = ("lung",)) -> Case:
    return Case(name, region, split, Path("i"), Path("l"), targets, {1: "lung"})


def test_queries_are_support_and_val_cases_filled_up_by_training_cases() -> None:
    cases = [
        *(case_of(f"t{n}", "train") for n in range(100)),
        *(case_of(f"u{n}", "train", targets=()) for n in range(10)),
        case_of("x", "test"),
        case_of("v", "val"),
        case_of("s", "support"),
        case_of("o", "train", "other"),
    ]
    chosen = [case.name for case in choose_queries(cases, test=False)]
    assert chosen[:2] == ["s", "v"] and chosen[-1] == "o" and len(chosen) == 48 + 1
    assert chosen[2:5] == ["t0", "t2", "t4"] and not [name for name in chosen if name[0] in "ux"]
    assert [case.name for case in choose_queries(cases, test=True)] == ["x"]
    with pytest.raises(InputError, match="no case of split test"):
        choose_queries([case for case in cases if case.split != "test"], test=True)
