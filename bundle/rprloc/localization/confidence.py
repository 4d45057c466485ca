"""Expected error of a box or point, presence of the organ or landmark, and plausibility of the scan as a whole.

What tells these without the truth is the *evidence*: how well the votes agree, how much the places found look like
those of the example, whether they lead back to them, whether the scan looks like the body atlas where it was registered
to it, and where the ends of the scan lie. A few coefficients turn it into an expected wall error in mm and three
probabilities: whole, partly in the scan, absent. ``rprloc calibrate`` fits them on annotated scans, some of them cut,
and writes them beside the weights for which they hold. Weights without a calibration give boxes and a warning.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rprloc.detection import AbsentLandmark, AbsentOrgan, LandmarkDetection, OrganDetection, Presence
from rprloc.errors import InputError
from rprloc.files import parse_json
from rprloc.geometry import Box, Grid, Points, apply_affine, wall_coordinates
from rprloc.intensity import DENSE_BODY_INPUT
from rprloc.localization.config import DEFAULT, LocalizationConfig
from rprloc.localization.support import SupportTarget
from rprloc.model.body import sample
from rprloc.model.field import PositionField
from rprloc.model.input import NetworkInput
from rprloc.model.looks import RegistrationImage
from rprloc.model.shipped import CALIBRATION_FILE

Target = TypeVar("Target", OrganDetection, LandmarkDetection)

_MOST_PLACES = 20_000  # of a scan that are compared with the atlas
_NEAR_MM = 24.0  # around a box
_MOST_SUPPORTS = 5  # more than were seen together in calibration count as so many
_FURTHEST = 8.0  # expected errors from the end of the scan; beyond it nothing changes
_LEAST_DIFFERENCE = 0.03  # of grey values between left and right, root mean square
_MIN_BODY_VOXELS = 20  # of 4 mm: a slice with less shows nothing
_OF_LANDMARKS = ("landmark_error", "landmark_absent")

NOT_CALIBRATED_FOR_LANDMARKS = (
    "These weights are not calibrated for landmarks: each gets a point, even one that is not in the scan, and no "
    "expected error. Check each point, or run 'rprloc calibrate' on cases with landmarks."
)
NOT_CALIBRATED = (
    "These weights are not calibrated: every organ gets a box, even one that is not in the scan, and no expected "
    "error. Check each box, or run 'rprloc calibrate'."
)

# What tells how far a box is off, and what was tried: docs/experiments.md, E24 to E26.
ERROR_EVIDENCE = ("log_size", "log_spread", "log_back", "atlas", "log_supports", "log_disagreement")
LANDMARK_EVIDENCE = ERROR_EVIDENCE[1:]
"""The same of landmarks, which have no size."""


@dataclass(frozen=True)
class Evidence:
    """What tells how far one organ's box, or one landmark's point, is to be trusted. A landmark is a box of no size.

    ``log_size`` and ``log_spread``: logarithms of the box's mean edge and the votes' mean spread, mm. ``log_back``:
    logarithm of how far from an anchor in the support the place is that looks most like the one in the query where the
    anchor went, mm. ``atlas``: correlation of the scan with the atlas around the box. ``log_supports``,
    ``log_disagreement``: logarithms of the number of supports and, mm, of how far their walls lie from the box; 0 for
    one. ``seen_mm``: how far the organ reaches into the scan, across the nearest end; below 0 it does not.
    ``inside_mm``: how far the whole organ lies inside that end.
    """

    log_size: float
    log_spread: float
    log_back: float
    atlas: float
    log_supports: float
    log_disagreement: float
    seen_mm: float
    inside_mm: float


@dataclass(frozen=True)
class ScanEvidence:
    """What tells whether a scan is what it should be.

    ``likeness``: its correlation (-1 to 1) with the atlas. ``sidedness``: how much of the difference between left and
    right that the atlas has is in the scan: about 1 in a body like the atlas's, 0 or less in one that is mirrored; None
    where the atlas is much the same on both sides, as it is without liver and heart. ``upside_down``: whether the scan
    fits the body frame with its axis turned only. ``length_scale``: how long the atlas's body is along its axis, beside
    the scan's; about 1, and far less if a scan that is upside down, or whose slices are said to lie too far apart, was
    fitted by stretching.
    """

    likeness: float
    sidedness: float | None
    upside_down: bool
    length_scale: float = 1.0


@dataclass(frozen=True, eq=False)
class FieldEvidence:
    """A scan beside the body atlas: its grey values (N,) at world places (N, 3), and the atlas's there.

    ``known`` (N,): whether the atlas knows the place. ``straight`` and ``mirrored`` (N,): the atlas where the affine
    part of the map alone leads, which cannot bend a mirrored body into shape, and where the place would lie in a
    mirrored body; ``both_known`` (N,): whether the atlas knows both. ``bounds``: what the scan shows of the body along
    its axis, and its own ends across.
    """

    field: PositionField
    places_ras: Points
    grey: NDArray[np.float32]
    atlas: NDArray[np.float32]
    known: NDArray[np.float32]
    straight: NDArray[np.float32]
    mirrored: NDArray[np.float32]
    both_known: NDArray[np.float32]
    bounds: Box

    @classmethod
    def of(cls, field: PositionField) -> FieldEvidence:
        image = field.image.cpu()
        picture = RegistrationImage.of(NetworkInput(image, image > DENSE_BODY_INPUT, field.grid))
        chosen = picture.near.nonzero()
        chosen = chosen[:: -(-max(1, len(chosen)) // _MOST_PLACES)]
        places_ras, grey = picture.grid.ras(chosen.numpy()), picture.image[tuple(chosen.T)].numpy()
        inside = ((places_ras > field.bounds.min_ras) & (places_ras < field.bounds.max_ras)).all(1)
        places_ras, grey = places_ras[inside], grey[inside]
        body_mm = field.body.body(places_ras)
        values = field.atlas.values.cpu()
        lattice = field.atlas.grid
        middle_mm = float(lattice.bounds.centre_ras[0]) if len(body_mm) == 0 else float(_middle_mm(values, lattice))
        straight_mm = apply_affine(field.body.body_from_ras, places_ras)
        mirrored_mm = straight_mm * [-1.0, 1.0, 1.0] + [2.0 * middle_mm, 0.0, 0.0]
        atlas, known = sample(values, lattice, body_mm).T
        straight, straight_known = sample(values, lattice, straight_mm).T
        mirrored, mirrored_known = sample(values, lattice, mirrored_mm).T
        straight_known = straight_known * lattice.contains(straight_mm)
        return cls(
            field,
            places_ras,
            grey,
            atlas,
            known * lattice.contains(body_mm),
            straight,
            mirrored,
            straight_known * mirrored_known * lattice.contains(mirrored_mm),
            _shown(field),
        )

    def as_a_whole(self) -> ScanEvidence:
        """The evidence on the scan."""
        weight = self.both_known
        odd, even = 0.5 * (self.straight - self.mirrored), 0.5 * (self.straight + self.mirrored)
        squares, both = float((weight * odd * odd).sum()), float((weight * (self.grey - even) * odd).sum())
        differs = squares > _LEAST_DIFFERENCE**2 * float(weight.sum())
        return ScanEvidence(
            likeness=_correlation(self.grey, self.atlas, self.known),
            sidedness=both / squares if differs else None,
            upside_down=bool(self.field.body.body_from_ras[2, 2] < 0.0),
            length_scale=float(np.linalg.norm(self.field.body.body_from_ras[:3, 2])),
        )

    def near(self, box: Box) -> float:
        """Correlation of the scan with the atlas in a box and _NEAR_MM around it; 0 where nothing can be compared."""
        near = ((self.places_ras > box.min_ras - _NEAR_MM) & (self.places_ras < box.max_ras + _NEAR_MM)).all(1)
        return _correlation(self.grey[near], self.atlas[near], self.known[near])

    def evidence(
        self,
        targets: Sequence[SupportTarget],
        located: Sequence[tuple[Points, NDArray[np.float64]]],
        points_ras: Points,
        config: LocalizationConfig = DEFAULT,
    ) -> Evidence:
        """The evidence on an organ or landmark at points (P, 3), from what every support located alone: points (P, 3)
        and spread (P,).
        """
        walls_mm = _coordinates_mm(points_ras)
        box = _box_around(points_ras)
        temperature = config.match_temperature
        back_mm = np.mean(
            [self._back_mm(target, points, temperature) for target, (points, _) in zip(targets, located, strict=True)]
        )
        apart_mm = np.mean([np.abs(_coordinates_mm(points) - walls_mm).mean() for points, _ in located])
        low, high = box.walls_mm.reshape(3, 2).T
        first, last = self.bounds.walls_mm.reshape(3, 2).T
        return Evidence(
            log_size=float(np.log(box.size_mm.mean() + 1.0)),
            log_spread=float(np.log(np.mean([spread_mm for _, spread_mm in located]) + 1.0)),
            log_back=float(np.log(back_mm + 1.0)),
            atlas=self.near(box),
            log_supports=float(np.log(min(len(targets), _MOST_SUPPORTS))),
            log_disagreement=float(np.log(apart_mm + 1.0)),
            seen_mm=float(min((high - first).min(), (last - low).min())),
            inside_mm=float(min((low - first).min(), (last - high).min())),
        )

    def _back_mm(self, target: SupportTarget, points_ras: Points, temperature: float) -> float:
        """How far off, on average, the places where one support's anchors went lead back to in the support.

        Anchors are taken to where the box's walls, or the point, went; those that come to lie outside of the scan do
        not count.
        """
        own, box = _box_around(target.points_ras), _box_around(points_ras)
        stretch = (box.size_mm + 1.0) / (own.size_mm + 1.0)
        places_ras = box.centre_ras + (target.anchors_ras - own.centre_ras) * stretch
        places_ras[: len(points_ras)] = points_ras
        shown = ((places_ras >= self.bounds.min_ras) & (places_ras <= self.bounds.max_ras)).all(1)
        likeness = self.field.fine.at(places_ras)[:, 3:] @ target.latents[:, 6:].T / temperature  # (place, anchor)
        weight = np.exp(likeness - likeness.max(1, keepdims=True))
        back_ras = weight @ target.anchors_ras / weight.sum(1, keepdims=True)
        return float(np.average(np.linalg.norm(back_ras - target.anchors_ras, axis=1), weights=shown + 1e-3))


def _coordinates_mm(points_ras: Points) -> NDArray[np.float64]:
    """The walls (6,) of an organ's points (6, 3), or the coordinates (3,) of a landmark's (1, 3)."""
    return points_ras[0] if len(points_ras) == 1 else wall_coordinates(points_ras)


def _box_around(points_ras: Points) -> Box:
    """The box of an organ's points (6, 3); one of no size of a landmark's (1, 3)."""
    return Box(points_ras[0], points_ras[0]) if len(points_ras) == 1 else Box.from_extreme_points(points_ras)


def _middle_mm(values: Any, lattice: Grid) -> float:
    """The sagittal middle of the atlas ``values`` (2, A, B, C) in the body frame."""
    known = values[1].sum((1, 2)).numpy()
    along_mm = lattice.ras(np.stack([np.arange(len(known)), np.zeros(len(known)), np.zeros(len(known))], 1))[:, 0]
    return float(np.average(along_mm, weights=known + 1e-6))


def _shown(field: PositionField) -> Box:
    """What a scan shows: its bounds, along the body without slices that show nothing of it (padding)."""
    filled = ((field.image > DENSE_BODY_INPUT).float().sum((0, 1)) > _MIN_BODY_VOXELS).nonzero()[:, 0].cpu().numpy()
    low, high = field.bounds.min_ras.copy(), field.bounds.max_ras.copy()
    if len(filled):
        faces_mm = field.grid.bounds.min_ras[2] + field.grid.spacing_mm[2] * np.array([filled[0], filled[-1] + 1])
        if faces_mm[0] < high[2] and faces_mm[1] > low[2]:
            low[2], high[2] = max(low[2], faces_mm[0]), min(high[2], faces_mm[1])
    return Box(low, high)


def _correlation(values: NDArray[np.float32], others: NDArray[np.float32], weights: NDArray[np.float32]) -> float:
    """The weighted correlation of (N,) with (N,); 0 if there is nothing to compare."""
    if weights.sum() < 8.0:
        return 0.0
    a, b = (side - np.average(side, weights=weights) for side in (values, others))
    both = np.average(np.stack([a * b, a * a, b * b]), axis=1, weights=weights)
    return float(both[0] / np.sqrt(both[1] * both[2] + 1e-9))


@dataclass(frozen=True)
class Linear:
    """An intercept, and the weight of each kind of evidence."""

    intercept: float
    weights: Mapping[str, float]

    def of(self, values: Mapping[str, float]) -> float:
        return self.intercept + sum(weight * values[name] for name, weight in self.weights.items())


@dataclass(frozen=True)
class Calibration:
    """What the evidence means, for the weights ``model_id``.

    ``error``: the logarithm of the expected wall error in mm. ``absent``: the log odds that an organ is absent;
    ``whole``: those that one which is not absent lies wholly in the scan. Of these two the evidence is ``seen`` and
    ``inside``, the distances to the scan's end over the expected error. ``least_likeness``, ``least_sidedness``
    and ``least_length_scale``: what a scan must have so that it is not doubted; see :class:`ScanEvidence`. The last is
    None in older calibrations. ``landmark_error`` and ``landmark_absent``: the same of landmarks; None if no landmarks
    were known.
    """

    model_id: str
    error: Linear
    absent: Linear
    whole: Linear
    least_likeness: float
    least_sidedness: float
    landmark_error: Linear | None = None
    landmark_absent: Linear | None = None
    least_length_scale: float | None = None

    def judge(self, detection: Target, evidence: Evidence) -> Target:
        """The detection with its expected error and presence."""
        if isinstance(detection, LandmarkDetection):
            if self.landmark_error is None or self.landmark_absent is None:
                return detection
            expected_mm = self.expected_landmark_mm(evidence)
            return replace(
                detection, expected_error_mm=expected_mm, in_scan=self.landmark_in_scan(evidence, expected_mm)
            )
        expected_mm = self.expected_mm(evidence)
        return replace(detection, expected_wall_error_mm=expected_mm, presence=self.presence(evidence, expected_mm))

    def expected_mm(self, evidence: Evidence) -> float:
        return float(np.exp(self.error.of(dataclasses.asdict(evidence))))

    def expected_landmark_mm(self, evidence: Evidence) -> float:
        assert self.landmark_error is not None
        return float(np.exp(self.landmark_error.of(dataclasses.asdict(evidence))))

    def landmark_in_scan(self, evidence: Evidence, expected_mm: float) -> float:
        assert self.landmark_absent is not None
        return float(1.0 / (1.0 + np.exp(self.landmark_absent.of(presence_evidence(evidence, expected_mm)))))

    def presence(self, evidence: Evidence, expected_mm: float) -> Presence:
        values = presence_evidence(evidence, expected_mm)
        absent, whole = (1.0 / (1.0 + np.exp(-odds.of(values))) for odds in (self.absent, self.whole))
        whole *= 1.0 - absent
        return Presence(float(whole), float(max(0.0, 1.0 - whole - absent)), float(absent))

    def doubts(
        self,
        scan: ScanEvidence,
        found: Sequence[OrganDetection | AbsentOrgan | LandmarkDetection | AbsentLandmark],
    ) -> tuple[str, ...]:
        """A sentence for everything that is wrong with a scan as a whole, or with it and the examples together."""
        doubts = []
        if scan.upside_down:
            doubts.append("The scan seems to be upside down, with the head not towards +S. Check its orientation.")
        elif scan.likeness < self.least_likeness:
            doubts.append(
                f"The scan hardly looks like a body that the weights know (correlation {scan.likeness:.2f}, usually at "
                f"least {self.least_likeness:.2f}). Boxes may lie anywhere. Check that it shows a person on the "
                "back, not turned, and more than a small part of the body, in the values that the weights know (of CT "
                "Hounsfield units)."
            )
        elif self.least_length_scale is not None and scan.length_scale < self.least_length_scale:
            doubts.append(
                f"The body in the scan seems to be {1.0 / max(scan.length_scale, 0.1):.1f} times as long as it usually "
                "is. Boxes may lie anywhere. Check that the head is towards +S, and the distance of the slices."
            )
        elif scan.sidedness is not None and scan.sidedness < self.least_sidedness:
            doubts.append(
                "The scan seems to be mirrored, with the liver not on the right. Check its orientation: boxes of left "
                "and right organs may be exchanged."
            )
        if found and all(isinstance(one, (AbsentOrgan, AbsentLandmark)) for one in found):
            doubts.append(
                "The scan shows none of the wanted organs. It seems to show another part of the body than the "
                "examples. Use examples of this part."
            )
        return tuple(doubts)

    def to_json(self) -> str:
        record = dataclasses.asdict(self)
        for name in (*_OF_LANDMARKS, "least_length_scale"):
            if record[name] is None:
                del record[name]
        return json.dumps(record, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "The text") -> Calibration:
        """The calibration of a JSON text; ``source`` names it in errors. Raises InputError for anything else."""
        try:
            record: dict[str, Any] = dict(parse_json(text))
            names = ["error", "absent", "whole", *(name for name in _OF_LANDMARKS if name in record)]
            lines: dict[str, Any] = {name: Linear(**record.pop(name)) for name in names}
            numbers = [record["least_likeness"], record["least_sidedness"], record.get("least_length_scale", 1.0)]
            numbers += [number for line in lines.values() for number in (line.intercept, *line.weights.values())]
            if not np.isfinite(np.array(numbers, float)).all():
                raise ValueError("a number is not finite")
            return cls(**lines, **record)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{source} is not a calibration ({error}). Make it again with 'rprloc calibrate', or delete it: boxes "
                "then come without expected errors."
            ) from error


def presence_evidence(evidence: Evidence, expected_mm: float) -> dict[str, float]:
    """What tells of an organ's presence: how far it lies inside the scan, in expected errors."""
    inside = {"seen": evidence.seen_mm, "inside": evidence.inside_mm}
    return {name: float(np.clip(mm / expected_mm, -_FURTHEST, _FURTHEST)) for name, mm in inside.items()}


def load_calibration(weights: Path) -> Calibration | None:
    """The calibration that lies beside a file of weights, in ``trust.json``; None if there is none.

    Raises InputError for a file that is no calibration.
    """
    path = weights.with_name(CALIBRATION_FILE)
    if not path.is_file():
        return None
    try:
        return Calibration.from_json(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file, so it is no calibration. Make it again.") from error
