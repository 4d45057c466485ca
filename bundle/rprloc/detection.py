"""The result of locating organs in one query scan, and its JSON form."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.files import parse_json, write_text_atomically
from rprloc.geometry import WALLS, Box, Points

FORMAT, VERSION = "rprloc-detections", 1
_DECIMALS = 4
# Okabe and Ito's palette for colour-blind readers (https://jfly.uni-koeln.de/color/) without black, then five more.
_COLOURS = (
    (0.90, 0.62, 0.00),
    (0.34, 0.71, 0.91),
    (0.00, 0.62, 0.45),
    (0.94, 0.89, 0.26),
    (0.80, 0.47, 0.65),
    (0.84, 0.37, 0.00),
    (0.00, 0.45, 0.70),
    (0.60, 0.95, 0.20),
    (0.65, 0.45, 1.00),
    (0.90, 0.10, 0.20),
    (0.20, 0.95, 0.85),
    (0.75, 0.65, 0.50),
)


@dataclass(frozen=True, eq=False)
class OrganDetection:
    """Where one organ lies in the query scan.

    ``points_ras`` (6, 3): the extreme points in the order of WALLS. ``spread_mm`` (6,): per point, the robust spread
    of the votes over the starts. ``starts``: how many starting points voted. ``supports``: names of the support
    scans. Raises ValueError for other shapes and for numbers that are not finite.
    """

    organ: str
    points_ras: Points
    spread_mm: NDArray[np.float64]
    starts: int
    supports: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, shape in (("points_ras", (6, 3)), ("spread_mm", (6,))):
            values = np.array(getattr(self, name), float)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"{self.organ}: {name} must be finite and of shape {shape}, got {values}")
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @property
    def box(self) -> Box:
        return Box.from_extreme_points(self.points_ras)


@dataclass(frozen=True, eq=False)
class Detections:
    """All organs located in the scan named ``query``, with what they were located by.

    ``seconds`` is how long it took (None if unknown); it is not part of the JSON, so that two equal runs write equal
    files.
    """

    query: str
    organs: tuple[OrganDetection, ...]
    model_id: str
    support_id: str
    warnings: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def boxes(self) -> dict[str, Box]:
        """The box of every organ, by its name."""
        return {found.organ: found.box for found in self.organs}

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


def save_detections(path: str | Path, detections: Detections) -> None:
    """Write the detections as JSON, all or nothing. Raises InputError if the folder cannot be written to."""
    write_text_atomically(path, detections.to_json())


def load_detections(path: str | Path) -> Detections:
    """Read a file of :func:`save_detections`. Raises InputError if it is missing or not such a file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); a detections file in JSON was expected; check the path."
        ) from error
    return Detections.from_json(text, str(path))


def organ_colour(index: int) -> tuple[float, float, float]:
    """A colour (red, green, blue in 0..1) for the organ at ``index`` of a result, equal in pictures and in Slicer."""
    if index < len(_COLOURS):
        return _COLOURS[index]
    # Steps by the golden ratio never come back to the same hue.
    hue = (index * 0.6180339887498949) % 1.0
    return colorsys.hls_to_rgb(hue, 0.45 + 0.2 * (index % 2), 0.9)


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), _DECIMALS) + 0.0 for value in values]  # + 0.0: no minus zero


def _organ_record(found: OrganDetection) -> dict[str, Any]:
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
    }


def _organ_of_record(item: dict[str, Any], source: str) -> OrganDetection:
    points = item["extreme_points"]
    points_ras = np.array([point["ras_mm"] for point in points], float)
    spread_mm = np.array([point["spread_mm"] for point in points], float)
    if not (np.isfinite(points_ras).all() and np.isfinite(spread_mm).all()):
        raise InputError(
            f"{source}: {item['organ']} has an extreme point that is not finite; write the detections again."
        )
    found = OrganDetection(item["organ"], points_ras, spread_mm, item["starts"], tuple(item["supports"]))
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
