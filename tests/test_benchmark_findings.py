"""What the benchmark's findings say: no more than their intervals do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rprloc.evaluation.scores import PairScore
from scripts.benchmark.findings import describe_findings
from scripts.benchmark.registry import Row
from scripts.benchmark.scoring import Result
from scripts.benchmark.wording import OTHER


def result(name: str, ious: Sequence[float], errors_mm: Sequence[float], table: int = 3) -> Result:
    """A row that locates one organ in a query for each number."""
    scores = tuple(
        PairScore("anna", f"query {n}", "jaw", iou, np.full(6, mm), np.full(6, mm))
        for n, (iou, mm) in enumerate(zip(ious, errors_mm, strict=True))
    )
    return Result(Row(name, table), "han", scores, (1.0,) * len(scores), 1, {}, ("a machine",))


@pytest.mark.parametrize(
    ("ious", "verdict"),
    [
        ([0.5, 0.6, 0.7, 0.8], "as in the paper"),
        ([0.3, 0.2, 0.1, 0.2], "**not as in the paper**"),
        ([0.2, 0.6, 0.3, 0.7], "which may be chance"),
    ],
)
def test_a_part_of_the_papers_method_helps_if_the_interval_says_so(ious: Sequence[float], verdict: str) -> None:
    """By each measure on its own: here overlap and distance say the same, or distance alone."""
    plain, errors_mm = [0.4] * 4, [6.0] * 4
    results = [result("rprloc", plain, errors_mm), result("rpr-paper", plain, errors_mm)]
    results += [result("diagonal K=1", plain, errors_mm, 1)]
    nearer_mm = [10.0 * (1.0 - iou) for iou in ious]
    both = describe_findings([*results, result("extreme K=1", ious, nearer_mm, 1)], "han", {})
    assert f"), {verdict}; " in both and f"), {verdict}.\n" in both
    walls = describe_findings([*results, result("extreme K=1", plain, nearer_mm, 1)], "han", {})
    assert "% IoU (0.0 to 0.0), which may be chance; " in walls and f"), {verdict}.\n" in walls


def test_it_is_told_whether_the_floor_is_beaten() -> None:
    ours = result("rprloc", [0.6, 0.7], [3.0, 3.0])
    paper = result("rpr-paper", [0.2, 0.3], [9.0, 9.0])
    said = describe_findings([ours, paper, result("mean-box", [0.4, 0.5], [5.0, 5.0])], "han", {})
    assert "`rprloc`: +20.0 % IoU (20.0 to 20.0), better; -2.0 mm AWD (-2.0 to -2.0), better." in said
    assert "`rpr-paper`: -20.0 % IoU (-20.0 to -20.0), **worse**; +4.0 mm AWD (4.0 to 4.0), **worse**." in said
    assert "floor" not in describe_findings([ours, paper], "han", {})


def test_times_of_fewer_pairs_change_no_scores() -> None:
    scored = result("a", [0.5, 0.7], [2.0, 3.0])
    fewer = replace(scored, scores=scored.scores[:1], seconds=(9.0,), estimates={"slow": 5.0}, machines=("another",))
    timed = scored.timed_as(fewer)
    assert timed.pairs == 2 and timed.scores == scored.scores
    assert timed.seconds_per_query == 9.0 and timed.estimates == {"slow": 5.0}
    assert timed.machines == ("a machine", "another")


def test_the_nearest_rival_is_compared_by_its_walls() -> None:
    """The product has the better boxes, this rival the nearer walls."""
    ours = result("rprloc", [0.6, 0.7, 0.6, 0.7], [5.0, 6.0, 5.0, 6.0])
    near = result("near", [0.3, 0.4, 0.3, 0.4], [2.0, 3.0, 2.5, 3.0])
    good = result("good", [0.5, 0.6, 0.5, 0.6], [9.0, 9.5, 9.0, 9.5])
    said = describe_findings([ours, near, good], "han", {})
    assert "By AWD it is `near`" in said and "**the walls of `rprloc` are farther off** by 2.9 mm (" in said


def test_one_query_tells_no_method_from_another() -> None:
    said = describe_findings([result("rprloc", [0.7], [3.0]), result("bad", [0.1], [9.0])], "han", {})
    assert "`rprloc` and `bad` cannot be told apart (+60.0 % IoU, of one query there is no interval)" in said


def test_methods_that_are_not_shown_are_not_judged() -> None:
    ours = result("rprloc", [0.6, 0.7], [5.0, 6.0])
    assert "Beware" not in describe_findings([ours], "han", {})
    said = describe_findings([ours, result("worse", [0.1, 0.2], [9.0, 8.0])], "han", {})
    assert "None of the other methods shown here is better" in said and "supervised" not in said


def test_it_is_told_that_the_product_was_set_by_training_cases() -> None:
    ours = replace(result("rprloc", [0.6, 0.7], [5.0, 6.0]), region="han" + OTHER)
    assert "**Beware**, `rprloc`: its settings were chosen" in describe_findings([ours], "han" + OTHER, {})


@pytest.mark.parametrize(("ours", "theirs"), [([0.2, 0.3], [0.6, 0.8]), ([0.6, 0.8], [0.2, 0.3])])
def test_a_difference_whose_sign_is_told_in_words_lies_between_positive_ends(
    ours: Sequence[float], theirs: Sequence[float]
) -> None:
    said = describe_findings([result("rprloc", ours, [5.0, 6.0]), result("other", theirs, [5.0, 6.0])], "han", {})
    assert "by 45.0 % IoU (40.0 to 50.0)" in said


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(0.5, "0.5 s (**`rprloc` is slower than that**)"), (2.0, "2.0 s (2.0 times as long)")]
)
def test_it_is_told_which_method_takes_longer(seconds: float, verdict: str) -> None:
    ours, paper = result("rprloc", [0.6, 0.7], [3.0, 3.0]), result("rpr-paper", [0.5, 0.6], [4.0, 4.0])

    assert f"`rpr-paper` {verdict}" in describe_findings([ours, replace(paper, seconds=(seconds,) * 2)], "han", {})
