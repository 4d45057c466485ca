"""What supports see in annotated scans, beside the truth: the observations that calibration is fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rprloc.errors import InputError
from rprloc.evaluation.evaluate import learn_supports, read_case
from rprloc.evaluation.landmarks import find_landmarks
from rprloc.evaluation.scores import ALL_SUPPORTS
from rprloc.evaluation.view_cache import keep_views
from rprloc.evaluation.views import CaseViews, Kind, View
from rprloc.io.dataset import Case, Region
from rprloc.localization.confidence import Evidence, FieldEvidence, ScanEvidence
from rprloc.localization.config import LocalizationConfig
from rprloc.localization.localizer import Localizer
from rprloc.localization.locate import observe, observe_landmarks
from rprloc.localization.support import Support, SupportSet
from rprloc.model.device import small_steps

_QUERIES = 48  # of each region: training cases, whose labels training never sees, join the others
_MANY_QUERIES, _CUTS_OF_MANY, _CUTS = 40, 3, 5  # of each scan; more where there are few scans
_CHANGED = 8  # scans of each region, about, that are changed, too


class State(Enum):
    """How much of an organ a view shows."""

    WHOLE = "whole"
    PART = "cut"
    ABSENT = "absent"


@dataclass(frozen=True)
class Observation:
    """What a support of ``support_region`` (or all of it together, :data:`ALL_SUPPORTS`) saw of an organ, or of a
    landmark, in a view of a query, and the truth.

    ``error_mm``: the mean wall error, or that of the point; NaN where it is not known. ``contours_stop``: whether the
    organ's contours end where the contouring stopped, so that neither its error nor its presence can be told.
    """

    region: str
    query: str
    support_region: str
    support: str
    organ: str
    evidence: Evidence
    state: State
    error_mm: float
    contours_stop: bool

    @property
    def tells_error(self) -> bool:
        """Whether expected errors are fitted to it: the organ is there, and its true box is known."""
        return self.state is State.WHOLE and not self.contours_stop

    @property
    def tells_presence(self) -> bool:
        """Whether probabilities are fitted to it; supports together see whole scans only."""
        return self.support != ALL_SUPPORTS and not self.contours_stop


@dataclass(frozen=True)
class ScanObservation:
    """A view as a whole: the warnings that its values alone give, and the evidence on it."""

    region: str
    kind: Kind
    warnings: tuple[str, ...]
    evidence: ScanEvidence


@dataclass(frozen=True)
class Observations:
    """All that was seen, of organs, of scans and of landmarks."""

    organs: tuple[Observation, ...]
    scans: tuple[ScanObservation, ...]
    landmarks: tuple[Observation, ...] = ()


@dataclass(frozen=True, eq=False)
class _Example:
    """A support, one of the landmarks of the same case, and the region of the case."""

    region: str
    support: Support
    landmarks: Support | None


def observe_cases(
    localizer: Localizer,
    cases: Sequence[Case],
    regions: Mapping[str, Region],
    *,
    test: bool = False,
    folder: Path | None = None,
) -> Observations:
    """Look by the support cases at the support and val cases and some training cases, or at the test cases.

    ``folder`` keeps position fields for the next time. Raises InputError if there are no such cases, or if a file of
    theirs cannot be used.
    """
    queries = choose_queries(cases, test=test)
    learned_from = [case for case in cases if case.split == "support" and case.targets]
    if not learned_from:
        raise InputError("The dataset has no case of split support with organs. Calibration locates organs by these.")
    examples = [
        _Example(case.region, *learn_supports(localizer, case, regions[case.region].landmarks))
        for case in tqdm(learned_from, desc="supports", unit="scan", disable=None)
    ]
    organs: list[Observation] = []
    landmarks: list[Observation] = []
    scans: list[ScanObservation] = []
    for case in tqdm(queries, desc="queries", unit="scan", disable=None):
        alike = [one.name for one in queries if one.region == case.region]
        looked_at = keep_views(
            localizer,
            case,
            _CUTS_OF_MANY if len(alike) >= _MANY_QUERIES else _CUTS,
            with_changes=alike.index(case.name) % max(1, len(alike) // _CHANGED) == 0,
            folder=folder,
        )
        rules = regions[case.region].landmarks
        truth_ras = find_landmarks(read_case(case).annotation, rules) if rules else {}
        for view in looked_at.views:
            evidence = FieldEvidence.of(view.field)
            scans.append(ScanObservation(case.region, view.kind, view.warnings, evidence.as_a_whole()))
            organs += _observe_view(looked_at, view, evidence, examples, regions, localizer.config)
            landmarks += _observe_landmarks(case, truth_ras, view, evidence, examples, regions, localizer.config)
    return Observations(tuple(organs), tuple(scans), tuple(landmarks))


def choose_queries(cases: Sequence[Case], *, test: bool) -> list[Case]:
    """The test cases, or the support and val cases, filled up in each region by training cases with organs.

    Raises InputError if there are none.
    """
    splits = ("test",) if test else ("support", "val")
    queries = [case for split in splits for case in cases if case.split == split]
    for region in () if test else dict.fromkeys(case.region for case in cases):
        known = sum(case.region == region for case in queries)
        training = [case for case in cases if case.region == region and case.split == "train" and case.targets]
        wanted = min(len(training), max(0, _QUERIES - known))
        queries += [training[n * len(training) // wanted] for n in range(wanted)]
    if not queries:
        raise InputError(f"The dataset has no case of split {' or '.join(splits)}, so there is nothing to look at.")
    return queries


@small_steps()
def _observe_view(
    looked_at: CaseViews,
    view: View,
    evidence: FieldEvidence,
    examples: Sequence[_Example],
    regions: Mapping[str, Region],
    config: LocalizationConfig,
) -> list[Observation]:
    """What every support, and all of the region together, see in a view; nothing if it is no body."""
    if not view.kind.is_body:
        return []
    case = looked_at.case
    own = [one.support for one in examples if one.region == case.region and one.support.scan != case.name]
    found = []
    for name, supports in _alone_and_together(own, view):
        support_set = SupportSet("", supports)
        organs = [organ for organ in support_set.organs if organ in view.shares]
        for organ, seen in observe(support_set, evidence, organs, config) if organs else ():
            share = view.shares[organ.organ]
            found.append(
                Observation(
                    case.region,
                    case.name,
                    case.region,
                    name,
                    organ.organ,
                    seen,
                    State.WHOLE if share == 1.0 else State.ABSENT if share == 0.0 else State.PART,
                    float(organ.box.wall_distances_mm(looked_at.truth[organ.organ]).mean()),
                    organ.organ in regions[case.region].contours_stop,
                )
            )
    if view.kind is Kind.WHOLE:
        found += _observe_from_elsewhere(case, evidence, examples[::2], regions, config)  # every other one will do
    return found


def _alone_and_together(supports: Sequence[Support], view: View) -> list[tuple[str, tuple[Support, ...]]]:
    """The sets that look at a view, with their names: every support alone, and at a whole scan all together."""
    sets: list[tuple[str, tuple[Support, ...]]] = [(support.scan, (support,)) for support in supports]
    if view.kind is Kind.WHOLE and len(supports) > 1:
        sets.append((ALL_SUPPORTS, tuple(supports)))
    return sets


@small_steps()
def _observe_landmarks(
    case: Case,
    truth_ras: Mapping[str, NDArray[np.float64]],
    view: View,
    evidence: FieldEvidence,
    examples: Sequence[_Example],
    regions: Mapping[str, Region],
    config: LocalizationConfig,
) -> list[Observation]:
    """What every support, and all of the region together, see of landmarks in a view; nothing if it is no body.

    Those whose organ a case of another region surely does not show are absent there.
    """
    if not view.kind.is_body:
        return []
    by_region = [(one.region, one.landmarks) for one in examples if one.landmarks is not None]
    own = [support for region, support in by_region if region == case.region and support.scan != case.name]
    sets = [(case.region, *named) for named in _alone_and_together(own, view)]
    if view.kind is Kind.WHOLE:
        sets += [(region, support.scan, (support,)) for region, support in by_region[::2] if region != case.region]
    found = []
    for region, name, supports in sets:
        support_set, rules = SupportSet("", supports), regions[region].landmarks
        absent = regions[region].absent_in.get(case.region, ())
        known = [
            landmark
            for landmark in support_set.landmarks
            if (landmark in truth_ras if region == case.region else rules[landmark].organ in absent)
        ]
        for one, seen in observe_landmarks(support_set, evidence, known, config):
            there = region == case.region and view.field.bounds.contains(truth_ras[one.landmark])
            found.append(
                Observation(
                    case.region,
                    case.name,
                    region,
                    name,
                    one.landmark,
                    seen,
                    State.WHOLE if there else State.ABSENT,
                    float(np.linalg.norm(one.point_ras - truth_ras[one.landmark])) if there else float("nan"),
                    contours_stop=False,
                )
            )
    return found


def _observe_from_elsewhere(
    case: Case,
    evidence: FieldEvidence,
    examples: Iterable[_Example],
    regions: Mapping[str, Region],
    config: LocalizationConfig,
) -> Iterator[Observation]:
    """What supports of other regions see of organs that the case surely does not show."""
    for example in examples:
        absent = regions[example.region].absent_in.get(case.region, ())
        organs = [organ for organ in example.support.organs if organ in absent]
        for organ, seen in observe(SupportSet("", (example.support,)), evidence, organs, config) if organs else ():
            yield Observation(
                case.region,
                case.name,
                example.region,
                example.support.scan,
                organ.organ,
                seen,
                State.ABSENT,
                float("nan"),
                contours_stop=False,
            )
