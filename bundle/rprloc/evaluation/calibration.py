"""Fitting expected errors and probabilities to observations, and judging observations without having seen them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rprloc.detection import Presence
from rprloc.errors import InputError
from rprloc.evaluation.observations import Observation, Observations, ScanObservation, State
from rprloc.evaluation.views import Kind
from rprloc.localization.confidence import (
    ERROR_EVIDENCE,
    LANDMARK_EVIDENCE,
    Calibration,
    Linear,
    presence_evidence,
)

_log = logging.getLogger(__name__)

_RIDGE_OF_ERRORS, _RIDGE_OF_ODDS = 100.0, 1.0  # observations' worth, on standardized evidence (E24)
_LEAST_QUERIES, _LEAST_OBSERVATIONS = 3, 20  # with fewer the fits say nothing
_SHARE_DOUBTED = 0.01  # of ordinary scans
_THRESHOLDS = ("least_likeness", "least_sidedness", "least_length_scale")
_NOTHING = Linear(0.0, {})


@dataclass(frozen=True)
class Judged:
    """An observation and what a calibration that has not seen it says of it."""

    seen: Observation
    expected_mm: float
    presence: Presence


def require_scikit_learn() -> None:
    """Raise InputError before the work if scikit-learn is not installed."""
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError("Calibration needs scikit-learn. Install it: pip install 'rprloc[calibrate]'.") from error


def fit_calibration(model_id: str, observations: Observations) -> Calibration:
    """The calibration that these observations give; regions count alike.

    Raises InputError if there are too few observations.
    """
    _require_enough(observations.organs)
    calibration = _fit(model_id, observations.organs, find_thresholds(observations.scans))
    return with_landmarks(calibration, observations.landmarks)


def with_landmarks(calibration: Calibration, seen: Sequence[Observation]) -> Calibration:
    """The calibration with what landmarks give; without any of it if they are too few."""
    there, known = [one for one in seen if one.state is State.WHOLE], [one for one in seen if one.tells_presence]
    counts = Counter(one.state for one in known)
    if min(counts[State.WHOLE], counts[State.ABSENT]) < _LEAST_OBSERVATIONS:
        return replace(calibration, landmark_error=None, landmark_absent=None)
    rows = [vars(one.evidence) for one in there]
    error = fit_log_mean(rows, LANDMARK_EVIDENCE, [one.error_mm for one in there], _weights(there))
    partial = replace(calibration, landmark_error=error)
    distances = [presence_evidence(one.evidence, partial.expected_landmark_mm(one.evidence)) for one in known]
    absent = fit_log_odds(distances, ("seen",), [one.state is State.ABSENT for one in known], _weights(known))
    return replace(partial, landmark_absent=absent)


def cross_validate(
    calibration: Calibration, seen: Sequence[Observation], group_of: Callable[[Observation], Hashable]
) -> list[Judged]:
    """Every observation as judged by what is fitted without its group, with the thresholds of ``calibration``.

    Groups without which too little is left are not judged.
    """
    thresholds = {name: getattr(calibration, name) for name in _THRESHOLDS}
    found = []
    for group, own, others in _left_out(seen, group_of):
        if min(_counts(others).values()) == 0:
            _log.warning("The check cannot leave out %s: without it, there are not both cut and absent organs.", group)
            continue
        without = _fit(calibration.model_id, others, thresholds)
        found += judge(without, own)
    return found


def _left_out(
    seen: Sequence[Observation], group_of: Callable[[Observation], Hashable]
) -> Iterator[tuple[Hashable, list[Observation], list[Observation]]]:
    """Each group, its own observations, and all others."""
    for group in dict.fromkeys(group_of(one) for one in seen):
        yield (
            group,
            [one for one in seen if group_of(one) == group],
            [one for one in seen if group_of(one) != group],
        )


def cross_validate_landmarks(
    calibration: Calibration, seen: Sequence[Observation], group_of: Callable[[Observation], Hashable]
) -> list[Judged]:
    """As :func:`cross_validate`, of landmarks."""
    found = []
    for _, own, others in _left_out(seen, group_of):
        found += judge_landmarks(with_landmarks(calibration, others), own)
    return found


def judge_landmarks(calibration: Calibration, seen: Sequence[Observation]) -> list[Judged]:
    """Every observation of a landmark as a calibration judges it; nothing if it is none for landmarks."""
    if calibration.landmark_error is None:
        return []
    found = []
    for one in seen:
        expected_mm = calibration.expected_landmark_mm(one.evidence)
        in_scan = calibration.landmark_in_scan(one.evidence, expected_mm)
        found.append(Judged(one, expected_mm, Presence(in_scan, 0.0, 1.0 - in_scan)))
    return found


def judge(calibration: Calibration, seen: Sequence[Observation]) -> list[Judged]:
    """Every observation as a calibration judges it."""
    found = []
    for one in seen:
        expected_mm = calibration.expected_mm(one.evidence)
        found.append(Judged(one, expected_mm, calibration.presence(one.evidence, expected_mm)))
    return found


def bin_by_expected(expected: Sequence[float], true: Sequence[float], count: int = 10) -> NDArray[np.float64]:
    """The mean of both in each of ``count`` equal shares of the pairs, by what was expected: (count, 2)."""
    pairs = np.array(sorted(zip(expected, true, strict=True)))
    return np.array([part.mean(0) for part in np.array_split(pairs, min(count, len(pairs)))])


def find_thresholds(scans: Sequence[ScanObservation]) -> dict[str, float]:
    """What a scan must have so that it is not doubted, by the names that a calibration gives it.

    The likeness and the length scale that all but _SHARE_DOUBTED of ordinary scans exceed, be they cut along the body
    (half a body may rightly be doubted). Of sidedness, halfway from what they exceed to the most one-sided of mirrored
    scans. Where no scan shows sides, 0: what lies below is mirrored.
    """
    ordinary = [scan.evidence for scan in scans if scan.kind in (Kind.WHOLE, Kind.CUT_ALONG)]
    likeness = float(np.quantile([scan.likeness for scan in ordinary], _SHARE_DOUBTED))
    length_scale = float(np.quantile([scan.length_scale for scan in ordinary], _SHARE_DOUBTED))
    sided = [scan.sidedness for scan in ordinary if scan.sidedness is not None]
    least_sidedness = 0.0
    if sided:
        lowest = float(np.quantile(sided, _SHARE_DOUBTED))
        mirrored = [scan.evidence.sidedness for scan in scans if scan.kind is Kind.MIRRORED]
        highest = max((sidedness for sidedness in mirrored if sidedness is not None), default=lowest)
        least_sidedness = min(lowest, 0.5 * (lowest + highest))
    return dict(zip(_THRESHOLDS, (likeness, least_sidedness, length_scale), strict=True))


def _fit(model_id: str, seen: Sequence[Observation], thresholds: Mapping[str, Any]) -> Calibration:
    whole = [one for one in seen if one.tells_error]
    error = fit_log_mean(
        [vars(one.evidence) for one in whole], ERROR_EVIDENCE, [one.error_mm for one in whole], _weights(whole)
    )
    partial = Calibration(model_id, error, _NOTHING, _NOTHING, **thresholds)
    known = [one for one in seen if one.tells_presence]
    rows = [presence_evidence(one.evidence, partial.expected_mm(one.evidence)) for one in known]
    absent = fit_log_odds(rows, ("seen",), [one.state is State.ABSENT for one in known], _weights(known))
    there = [n for n, one in enumerate(known) if one.state is not State.ABSENT]
    known, rows = [known[n] for n in there], [rows[n] for n in there]
    inside = fit_log_odds(rows, ("inside",), [one.state is State.WHOLE for one in known], _weights(known))
    return replace(partial, absent=absent, whole=inside)


def fit_log_mean(
    rows: Sequence[Mapping[str, float]], names: Sequence[str], y: Sequence[float], weights: NDArray[np.float64]
) -> Linear:
    """The logarithm of the mean of ``y``, greater than 0, by gamma regression with a ridge."""
    from sklearn.linear_model import GammaRegressor

    alpha = _RIDGE_OF_ERRORS / weights.sum()  # scikit-learn divides the observations' share by the sum of weights
    regression = GammaRegressor(alpha=alpha, solver="newton-cholesky", tol=1e-9, max_iter=1000)
    return _fit_linear(regression, rows, names, np.maximum(y, 1e-3), weights)


def fit_log_odds(
    rows: Sequence[Mapping[str, float]], names: Sequence[str], y: Sequence[bool], weights: NDArray[np.float64]
) -> Linear:
    """The log odds that ``y`` is true, by logistic regression with a ridge; it must be true and false at least once."""
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(C=1.0 / _RIDGE_OF_ODDS, solver="newton-cholesky", tol=1e-9, max_iter=1000)
    return _fit_linear(regression, rows, names, np.asarray(y, bool), weights)


def _fit_linear(
    regression: Any,
    rows: Sequence[Mapping[str, float]],
    names: Sequence[str],
    y: NDArray[np.generic],
    weights: NDArray[np.float64],
) -> Linear:
    """What a regression on standardized evidence finds, in the evidence's own units."""
    values = np.array([[row[name] for name in names] for row in rows], float)
    middle, scale = values.mean(0), values.std(0) + 1e-6
    regression.fit((values - middle) / scale, y, sample_weight=weights)
    slopes = np.ravel(regression.coef_) / scale
    intercept = float(np.ravel(regression.intercept_)[0] - slopes @ middle)
    return Linear(intercept, dict(zip(names, slopes.tolist(), strict=True)))


def _weights(seen: Sequence[Observation]) -> NDArray[np.float64]:
    """Weights (N,) with which every region counts alike."""
    count = Counter(one.region for one in seen)
    weight = np.array([1.0 / count[one.region] for one in seen])
    return weight * len(weight) / weight.sum()


def _counts(seen: Sequence[Observation]) -> dict[State, int]:
    """How many observations of each state the fits can use."""
    counts = Counter(one.state for one in seen if one.tells_presence)
    return {state: counts[state] for state in State}


def _require_enough(seen: Sequence[Observation]) -> None:
    counts = _counts(seen)
    queries = {(one.region, one.query) for one in seen}
    if len(queries) < _LEAST_QUERIES or min(counts.values()) < _LEAST_OBSERVATIONS:
        told = ", ".join(f"{count} {state.value}" for state, count in counts.items())
        raise InputError(
            f"There are too few annotated scans to calibrate: supports saw organs in {len(queries)} scans ({told}). At "
            f"least {_LEAST_QUERIES} scans and {_LEAST_OBSERVATIONS} organs of each kind are needed. Add support, val "
            "or training cases with their organs."
        )
