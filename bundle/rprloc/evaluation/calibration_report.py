"""What a calibration is worth: tables in Markdown, and a plot of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rprloc.evaluation.calibration import (
    Judged,
    bin_by_expected,
    cross_validate,
    cross_validate_landmarks,
    judge,
    judge_landmarks,
)
from rprloc.evaluation.calibration_plot import Curves, save_plot
from rprloc.evaluation.observations import Observation, Observations, ScanObservation, State
from rprloc.evaluation.scores import ALL_SUPPORTS, SHOTS
from rprloc.files import write_text_atomically
from rprloc.localization.confidence import Calibration

_MANY_PAIRS, _FEW_PAIRS = 200, 30  # deciles of the former are compared, else fifths, and of fewer nothing
_SAID = {
    "upside down": "upside down",
    "mirrored": "mirrored",
    "times as long": "too long",
    "hardly looks like": "hardly like a body",
    "does not look like CT": "values unlike CT",
}
"""A part of each warning, and the column in which scans that get it are counted."""


@dataclass(frozen=True)
class Section:
    """Observations as they are judged in one way, under a title; its plot is called ``stem``.png."""

    title: str
    stem: str
    judged: Sequence[Judged]


def report_tuning(calibration: Calibration, seen: Observations, folder: Path | None) -> str:
    """What a calibration is worth for scans and organs that it was fitted without, as Markdown.

    With a folder, it goes to tuning.md and plots beside it, such as by_scan.png.
    """
    sections = (
        Section(
            "Each scan judged without itself",
            "by_scan",
            cross_validate(calibration, seen.organs, lambda one: (one.region, one.query)),
        ),
        Section(
            "Each organ judged without itself",
            "by_organ",
            cross_validate(calibration, seen.organs, lambda one: one.organ),
        ),
        *_of_landmarks(
            "Landmarks, each scan judged without itself",
            "landmarks_by_scan",
            cross_validate_landmarks(calibration, seen.landmarks, lambda one: (one.region, one.query)),
        ),
        *_of_landmarks(
            "Landmarks, each kind judged without itself",
            "landmarks_by_kind",
            cross_validate_landmarks(calibration, seen.landmarks, lambda one: one.organ),
        ),
    )
    return _report(calibration, sections, seen.scans, folder, "tuning.md")


def report_test(calibration: Calibration, seen: Observations, folder: Path | None) -> str:
    """What a calibration is worth for scans that had no part in it, as Markdown.

    With a folder, it goes to test.md and plots beside it, such as test.png.
    """
    sections = (
        Section("Test cases", "test", judge(calibration, seen.organs)),
        *_of_landmarks("Landmarks of test cases", "landmarks_test", judge_landmarks(calibration, seen.landmarks)),
    )
    return _report(calibration, sections, seen.scans, folder, "test.md")


def _of_landmarks(title: str, stem: str, judged: Sequence[Judged]) -> tuple[Section, ...]:
    """The section of landmarks; none without any."""
    return (Section(title, stem, judged),) if judged else ()


def _report(
    calibration: Calibration,
    sections: Sequence[Section],
    scans: Sequence[ScanObservation],
    folder: Path | None,
    name: str,
) -> str:
    blocks = [f"Written by `rprloc calibrate`, model {calibration.model_id}."]
    for section in sections:
        blocks.append(f"## {section.title}")
        if not section.judged:
            blocks.append("Too little is left to fit, so nothing could be judged.")
            continue
        errors, curves = error_table(section.judged)
        if folder is not None:
            blocks.append(f"![{section.title}]({section.stem}.png)")
            folder.mkdir(parents=True, exist_ok=True)
            save_plot(folder / f"{section.stem}.png", section.title, section.judged, curves)
        blocks += [errors, presence_table(section.judged)]
    blocks += ["## Scans that are doubted", doubts_table(calibration, scans)]
    text = "\n\n".join(blocks) + "\n"
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(folder / name, text)
    return text


def error_table(judged: Sequence[Judged]) -> tuple[str, Curves]:
    """Expected and true errors by region and shots, as Markdown and as curves."""
    lines = [
        "| region, examples | pairs | expected mm | true mm | largest difference | deciles or fifths, mm each |",
        "|---|---|---|---|---|---|",
    ]
    curves = {}
    for region in _regions(judged):
        for shots in SHOTS:
            pairs = [
                (one.expected_mm, one.seen.error_mm)
                for one in judged
                if one.seen.region == region
                and one.seen.tells_error
                and (one.seen.support == ALL_SUPPORTS) == (shots == "all")
            ]
            if not pairs:
                continue
            expected, true = zip(*pairs, strict=True)
            means = f"{len(pairs)} | {np.mean(expected):.1f} | {np.mean(true):.1f}"
            worst, both = "-", "too few"
            if len(pairs) >= _FEW_PAIRS:
                shares = bin_by_expected(expected, true, 10 if len(pairs) >= _MANY_PAIRS else 5)
                worst = f"{100 * np.abs(shares[:, 0] / shares[:, 1] - 1.0).max():.0f} %"
                both = ", ".join(f"{a:.1f}/{b:.1f}" for a, b in shares)
                curves[region, shots] = shares
            lines.append(f"| {region}, {shots} | {means} | {worst} | {both} |")
    return "\n".join(lines), curves


def presence_table(judged: Sequence[Judged]) -> str:
    """How well absent and cut organs are told, by region, as Markdown."""
    lines = [
        "| organs | whole, cut, absent | AUROC absent | AUROC cut | whole organs called absent | absent called so |",
        "|---|---|---|---|---|---|",
    ]
    for group, belongs in _groups(_regions(judged)).items():
        some = [one for one in judged if one.seen.tells_presence and belongs(one.seen)]
        by_state = {state: [one for one in some if one.seen.state is state] for state in State}
        there = by_state[State.WHOLE] + by_state[State.PART]
        absent = area_under_roc([one.presence.absent for one in some], [one.seen.state is State.ABSENT for one in some])
        cut = area_under_roc([_odds_of_cut(one) for one in there], [one.seen.state is State.PART for one in there])
        called = " | ".join(_share_called_absent(by_state[state]) for state in (State.WHOLE, State.ABSENT))
        counts = ", ".join(str(len(by_state[state])) for state in State)
        lines.append(f"| {group} | {counts} | {absent:.3f} | {cut:.3f} | {called} |")
    return "\n".join(lines)


def _groups(regions: Sequence[str]) -> Mapping[str, Callable[[Observation], bool]]:
    """The rows of the table of presence: by region, with its own supports, and with those of all regions."""

    def is_of(region: str) -> Callable[[Observation], bool]:
        return lambda one: one.region == region

    def is_of_alone(region: str) -> Callable[[Observation], bool]:
        return lambda one: one.region == one.support_region == region

    own = {region: is_of_alone(region) for region in regions}
    if len(regions) == 1:
        return own
    every = {f"{region}, with those of all regions": is_of(region) for region in regions}
    return {
        **own,
        "all regions, with their own examples": lambda one: one.region == one.support_region,
        **every,
        "all regions, with those of all regions": lambda one: True,
    }


def _odds_of_cut(one: Judged) -> float:
    """The probability that an organ which is there is cut."""
    return one.presence.part / (1e-9 + one.presence.part + one.presence.whole)


def _share_called_absent(judged: Sequence[Judged]) -> str:
    return f"{100 * np.mean([one.presence.absent > 0.5 for one in judged]):.1f} %" if judged else "-"


def area_under_roc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """The area under the receiver operating characteristic; NaN without both kinds."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores)) if len(set(positive)) == 2 else float("nan")


def doubts_table(calibration: Calibration, scans: Sequence[ScanObservation]) -> str:
    """How many scans of each region and kind are doubted, as Markdown."""
    lines = [f"| scans | number | {' | '.join(_SAID.values())} | any |", "|---" * (len(_SAID) + 3) + "|"]
    told: dict[str, list[list[bool]]] = {}
    for scan in scans:
        doubts = [*scan.warnings, *calibration.doubts(scan.evidence, ())]
        row = [any(part in doubt for doubt in doubts) for part in _SAID]
        told.setdefault(f"{scan.region}, {scan.kind.value}", []).append(row)
    for kind, rows in told.items():
        counts = [*np.array(rows).sum(0), np.array(rows).any(1).sum()]
        lines.append(f"| {kind} | {len(rows)} | {' | '.join(str(int(count)) for count in counts)} |")
    return "\n".join(lines)


def _regions(judged: Sequence[Judged]) -> list[str]:
    return list(dict.fromkeys(one.seen.region for one in judged))
