"""The result of locating organs in one query scan, and its JSON form."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.files import parse_json
from rprloc.geometry import WALLS, Box, Points

FORMAT, VERSION = "rprloc-detections", 1

CUT = "the scan shows a part of it only"
"""Said wherever a box is shown of an organ that the scan cuts."""

_DECIMALS = 4


@dataclass(frozen=True)
class Presence:
    """The probabilities that an organ lies wholly, partly or not at all in the scan; they sum to 1.

    Raises ValueError for numbers that do not.
    """

    whole: float
    part: float
    absent: float

    def __post_init__(self) -> None:
        values = np.array([self.whole, self.part, self.absent], float)
        if not ((values >= 0.0).all() and abs(values.sum() - 1.0) < 1e-3):  # false for NaN, too
            raise ValueError(f"three probabilities that sum to 1 were expected, got {values}")

    @property
    def is_absent(self) -> bool:
        """Whether the organ is more likely absent than not; then it gets no box."""
        return self.absent > 0.5

    @property
    def is_cut(self) -> bool:
        """Whether, of an organ that is not absent, the scan likely shows a part only."""
        return not self.is_absent and self.part > self.whole


@dataclass(frozen=True, eq=False)
class OrganDetection:
    """Where one organ lies in the query scan.

    ``points_ras`` (6, 3): the extreme points in the order of WALLS. ``spread_mm`` (6,): per point, the robust spread
    of the votes over the starts. ``starts``: how many starting points voted. ``supports``: names of the support
    scans. ``expected_error_mm``: how far a wall is off on average, and ``presence``: whether the organ is in the scan;
    both are None with weights for which they were not calibrated (see :mod:`rprloc.localization.confidence`). Raises ValueError for other
    shapes and for numbers that are not finite.
    """

    organ: str
    points_ras: Points
    spread_mm: NDArray[np.float64]
    starts: int
    supports: tuple[str, ...]
    expected_error_mm: float | None = None
    presence: Presence | None = None

    def __post_init__(self) -> None:
        for name, shape in (("points_ras", (6, 3)), ("spread_mm", (6,))):
            values = np.array(getattr(self, name), float)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"{self.organ}: {name} must be finite and of shape {shape}, got {values}")
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if self.expected_error_mm is not None and not 0.0 <= self.expected_error_mm < np.inf:
            raise ValueError(f"{self.organ}: expected_error_mm must be finite, got {self.expected_error_mm}")

    @property
    def box(self) -> Box:
        return Box.from_extreme_points(self.points_ras)

    @property
    def is_cut(self) -> bool:
        """Whether the scan likely shows a part of the organ only."""
        return self.presence is not None and self.presence.is_cut

    @property
    def is_absent(self) -> bool:
        """Whether the organ is likely not in the scan; its points then tell where it would lie."""
        return self.presence is not None and self.presence.is_absent

    @property
    def remark(self) -> str:
        """What a person should know of this box besides where it lies: the expected error, and whether it is cut."""
        if self.expected_error_mm is None:
            return "expected wall error not calibrated"
        cut = f"; {CUT}" if self.is_cut else ""
        return f"expected wall error {self.expected_error_mm:.0f} mm{cut}"


@dataclass(frozen=True)
class AbsentOrgan:
    """An organ that is likely not in the query scan, and so has no box. ``supports``: names of the support scans."""

    organ: str
    presence: Presence
    supports: tuple[str, ...]

    @property
    def remark(self) -> str:
        """How sure it is that the organ is not there."""
        return f"not in the scan ({100.0 * self.presence.absent:.0f} %)"


@dataclass(frozen=True, eq=False)
class Detections:
    """All organs that were looked for in the scan named ``query``, in order, with what they were located by.

    ``seconds`` is how long it took (None if unknown); it is not part of the JSON, so that two equal runs write equal
    files.
    """

    query: str
    organs: tuple[OrganDetection | AbsentOrgan, ...]
    model_id: str
    support_id: str
    warnings: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def located(self) -> tuple[OrganDetection, ...]:
        """The organs that have a box."""
        return tuple(one for one in self.organs if isinstance(one, OrganDetection))

    @property
    def absent(self) -> tuple[AbsentOrgan, ...]:
        """The organs that are likely not in the scan."""
        return tuple(one for one in self.organs if isinstance(one, AbsentOrgan))

    @property
    def boxes(self) -> dict[str, Box]:
        """The box of every organ that is located, by its name."""
        return {found.organ: found.box for found in self.located}

    def to_json(self) -> str:
        """The JSON text, equal for equal results: fixed order of keys, organs as given, mm rounded to 4 decimals."""
        record = {
            "format": FORMAT,
            "version": VERSION,
            "query": self.query,
            "model_id": self.model_id,
            "support_id": self.support_id,
            "organs": [_organ_record(found) for found in self.organs],
            "warnings": list(self.warnings),
        }
        return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "The text") -> Detections:
        """The detections of a JSON text; ``source`` names it in errors. ``seconds`` is None.

        Raises InputError if the text is not JSON, not of this format, of a newer version, or contradicts itself.
        """
        record = _parsed(text, source)
        return cls(
            query=record["query"],
            organs=tuple(_organ_of_record(item, source) for item in record["organs"]),
            model_id=record["model_id"],
            support_id=record["support_id"],
            warnings=tuple(record["warnings"]),
        )


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), _DECIMALS) + 0.0 for value in values]  # + 0.0: no minus zero


def _organ_record(found: OrganDetection | AbsentOrgan) -> dict[str, Any]:
    if isinstance(found, AbsentOrgan):
        return {
            "organ": found.organ,
            "supports": list(found.supports),
            "presence": _presence_record(found.presence),
        }
    points_ras = np.array([_rounded(point) for point in found.points_ras])
    box = Box.from_extreme_points(
        points_ras
    )  # of the rounded points, so that reading and writing again changes nothing
    return {
        "organ": found.organ,
        "box": {
            "min_ras_mm": _rounded(box.min_ras),
            "max_ras_mm": _rounded(box.max_ras),
            "centre_ras_mm": _rounded(box.centre_ras),
            "size_mm": _rounded(box.size_mm),
        },
        "extreme_points": [
            {"wall": wall, "ras_mm": _rounded(point), "spread_mm": spread}
            for wall, point, spread in zip(WALLS, points_ras, _rounded(found.spread_mm), strict=True)
        ],
        "starts": int(found.starts),
        "supports": list(found.supports),
        "expected_wall_error_mm": None if found.expected_error_mm is None else _rounded([found.expected_error_mm])[0],
        "presence": None if found.presence is None else _presence_record(found.presence),
    }


def _presence_record(presence: Presence) -> dict[str, float]:
    """The probabilities, rounded so that they still sum to 1."""
    whole, absent = round(presence.whole, _DECIMALS), round(presence.absent, _DECIMALS)
    return {"whole": whole, "part": round(max(0.0, 1.0 - whole - absent), _DECIMALS), "absent": absent}


def _presence_of_record(item: dict[str, Any], source: str) -> Presence:
    try:
        return Presence(**item["presence"])
    except ValueError as error:
        raise InputError(f"{source}: the presence of {item['organ']}: {error}; write the detections again.") from error


def _organ_of_record(item: dict[str, Any], source: str) -> OrganDetection | AbsentOrgan:
    supports = tuple(item["supports"])
    presence = None if item.get("presence") is None else _presence_of_record(item, source)
    if "box" not in item:
        assert presence is not None, "the schema demands it"
        return AbsentOrgan(item["organ"], presence, supports)
    points = item["extreme_points"]
    points_ras = np.array([point["ras_mm"] for point in points], float)
    spread_mm = np.array([point["spread_mm"] for point in points], float)
    if not (np.isfinite(points_ras).all() and np.isfinite(spread_mm).all()):
        raise InputError(
            f"{source}: {item['organ']} has an extreme point that is not finite; write the detections again."
        )
    found = OrganDetection(
        item["organ"],
        points_ras,
        spread_mm,
        item["starts"],
        supports,
        item.get("expected_wall_error_mm"),
        presence,
    )
    stored = np.array([item["box"]["min_ras_mm"], item["box"]["max_ras_mm"]], float)
    if not np.allclose(stored, [found.box.min_ras, found.box.max_ras], rtol=0.0, atol=1e-3):
        raise InputError(
            f"{source}: the box of {item['organ']} is not the box of its extreme points; both must agree; "
            "change the points together with the box, or write the detections again."
        )
    return found


def _parsed(text: str, source: str) -> dict[str, Any]:
    """The JSON object of the text, checked against the schema."""
    import jsonschema

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a number of JSON")

    try:
        record = parse_json(text, parse_constant=refuse)
    except ValueError as error:
        raise InputError(f"{source} is not JSON ({error}); a detections file was expected; check the path.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(
            f'{source} is not a detections file: it lacks "format": "{FORMAT}"; '
            "name a file that RPR-Loc wrote as its result."
        )
    version = record.get("version")
    if isinstance(version, int) and version > VERSION:
        raise InputError(
            f"{source} has version {version} of the detections format and this RPR-Loc reads up to version {VERSION}; "
            "update RPR-Loc or write the detections again with this one."
        )
    schema = json.loads((files("rprloc") / "schemas" / "detections-v1.schema.json").read_text(encoding="utf-8"))
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(record))
    if fault is not None:
        raise InputError(
            f"{source} is not a valid detections file: at {fault.json_path}, {fault.message}; "
            "write the detections again."
        )
    return record
