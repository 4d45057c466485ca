"""The result of locating organs in one query scan, and its JSON form."""

from __future__ import annotations

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
from rprloc.geometry import WALLS, Box, Grid, Points

FORMAT, VERSION = "rprloc-detections", 2
CUT = "the scan shows only a part of it"
"""Said wherever a box is shown of an organ that the scan cuts."""

_DECIMALS = 4


@dataclass(frozen=True)
class Presence:
    """The probabilities that an organ lies wholly, partly or not at all in the scan; they sum to 1.

    Parameters
    ----------
    whole, part, absent : float
        From 0 to 1.

    Raises
    ------
    ValueError
        For numbers that do not sum to 1.

    Examples
    --------
    >>> rprloc.Presence(whole=0.2, part=0.7, absent=0.1).is_cut
    True
    """

    whole: float
    part: float
    absent: float

    def __post_init__(self) -> None:
        values = np.array([self.whole, self.part, self.absent], float)
        if not ((values >= 0.0).all() and abs(values.sum() - 1.0) < 1e-3):  # false for NaN, too
            raise ValueError(f"The three probabilities must lie between 0 and 1 and sum to 1, not be {values}.")

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

    Parameters
    ----------
    organ : str
        Its name.
    points_ras : (6, 3) array
        Its extreme points in RAS mm, in the order of :data:`rprloc.WALLS`.
    spread_mm : (6,) array
        For each point, how far the votes for it spread.
    starts : int
        How many starting points voted.
    supports : tuple of str
        The names of the examples' scans.
    expected_wall_error_mm : float, optional
        How far a wall is off on average; None with weights that are not calibrated.
    presence : Presence, optional
        Whether the organ lies in the scan; None with weights that are not calibrated.

    Raises
    ------
    ValueError
        For other shapes and for numbers that are not finite.

    Examples
    --------
    >>> heart = found["heart"]
    >>> heart.is_cut, heart.is_absent
    (False, False)
    """

    organ: str
    points_ras: Points
    spread_mm: NDArray[np.float64]
    starts: int
    supports: tuple[str, ...]
    expected_wall_error_mm: float | None = None
    presence: Presence | None = None

    def __post_init__(self) -> None:
        for name, shape in (("points_ras", (6, 3)), ("spread_mm", (6,))):
            values = np.array(getattr(self, name), float)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"{self.organ}: {name} must be finite and of shape {shape}, got {values}")
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if self.expected_wall_error_mm is not None and not 0.0 <= self.expected_wall_error_mm < np.inf:
            raise ValueError(f"{self.organ}: expected_error_mm must be finite, got {self.expected_wall_error_mm}")

    @property
    def box(self) -> Box:
        """The box of the six points: each wall from its own point alone."""
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
        if self.expected_wall_error_mm is None:
            return "expected wall error not calibrated"
        cut = f"; {CUT}" if self.is_cut else ""
        return f"expected wall error {self.expected_wall_error_mm:.0f} mm{cut}"


@dataclass(frozen=True)
class AbsentOrgan:
    """An organ that is likely not in the query scan, and so has no box.

    Parameters
    ----------
    organ : str
        Its name.
    presence : Presence
        How likely it is wholly, partly or not in the scan.
    supports : tuple of str
        The names of the examples' scans.

    Examples
    --------
    >>> bladder = rprloc.AbsentOrgan("bladder", rprloc.Presence(whole=0.0, part=0.04, absent=0.96), ("anna",))
    >>> bladder.remark
    'not in the scan (96 %)'
    """

    organ: str
    presence: Presence
    supports: tuple[str, ...]

    @property
    def remark(self) -> str:
        """How sure it is that the organ is not there."""
        return f"not in the scan ({100.0 * self.presence.absent:.0f} %)"


@dataclass(frozen=True, eq=False)
class LandmarkDetection:
    """Where one landmark lies in the query scan.

    Parameters
    ----------
    landmark : str
        Its name.
    point_ras : (3,) array
        Its place in RAS mm.
    spread_mm : float
        How far the votes for it spread.
    starts : int
        How many starting points voted.
    supports : tuple of str
        The names of the examples' scans.
    expected_error_mm : float, optional
        How far the point is off on average; None with weights that are not calibrated for landmarks.
    in_scan : float, optional
        The probability that it lies in the scan, 0 to 1; None with weights that are not calibrated for landmarks.

    Raises
    ------
    ValueError
        For other shapes and for numbers that are not finite or out of range.

    Examples
    --------
    >>> tip = rprloc.LandmarkDetection("carina", [2.0, 31.5, 120.0], 3.2, 28, ("anna",), 6.0, 0.98)
    >>> tip.is_absent, tip.remark
    (False, 'expected error 6 mm')
    """

    landmark: str
    point_ras: NDArray[np.float64]
    spread_mm: float
    starts: int
    supports: tuple[str, ...]
    expected_error_mm: float | None = None
    in_scan: float | None = None

    def __post_init__(self) -> None:
        point_ras = np.array(self.point_ras, float)
        if point_ras.shape != (3,) or not np.isfinite(point_ras).all():
            raise ValueError(f"{self.landmark}: point_ras must be finite and of shape (3,), got {point_ras}")
        point_ras.setflags(write=False)
        object.__setattr__(self, "point_ras", point_ras)
        for name, value in (("spread_mm", self.spread_mm), ("expected_error_mm", self.expected_error_mm)):
            if value is not None and not 0.0 <= value < np.inf:
                raise ValueError(f"{self.landmark}: {name} must be finite and not negative, got {value}")
        if self.in_scan is not None and not 0.0 <= self.in_scan <= 1.0:
            raise ValueError(f"{self.landmark}: in_scan must lie between 0 and 1, got {self.in_scan}")

    @property
    def is_absent(self) -> bool:
        """Whether it is likely not in the scan; its point then tells where it would lie."""
        return self.in_scan is not None and self.in_scan < 0.5

    @property
    def remark(self) -> str:
        """What a person should know of this point besides where it lies."""
        if self.expected_error_mm is None:
            return "expected error not calibrated"
        return f"expected error {self.expected_error_mm:.0f} mm"


@dataclass(frozen=True)
class AbsentLandmark:
    """A landmark that is likely not in the query scan, and so has no point.

    Parameters
    ----------
    landmark : str
        Its name.
    in_scan : float
        The probability that it lies in the scan after all.
    supports : tuple of str
        The names of the examples' scans.

    Examples
    --------
    >>> rprloc.AbsentLandmark("carina", 0.04, ("anna",)).remark
    'not in the scan (96 %)'
    """

    landmark: str
    in_scan: float
    supports: tuple[str, ...]

    @property
    def remark(self) -> str:
        """How sure it is that the landmark is not there."""
        return f"not in the scan ({100.0 * (1.0 - self.in_scan):.0f} %)"


@dataclass(frozen=True, eq=False)
class Detections:
    """All organs and landmarks that were looked for in one scan, in order, with what they were located by.

    Parameters
    ----------
    query : str
        The name of the scan.
    organs : tuple of OrganDetection or AbsentOrgan
        What was found of each organ.
    model_id, support_id : str
        The fingerprints of the weights and of the support set.
    warnings : tuple of str
        Reasons to doubt the scan, each in a sentence or two.
    seconds : float, optional
        How long it took. It is not part of the file, so that two equal runs write equal files.
    landmarks : tuple of LandmarkDetection or AbsentLandmark
        What was found of each landmark.
    grid : Grid, optional
        Where the scan's voxels lie, by which the scan is known again; None in older files.

    Examples
    --------
    >>> found["heart"].expected_wall_error_mm > 0.0
    True
    >>> [organ.organ for organ in found.absent]
    []
    """

    query: str
    organs: tuple[OrganDetection | AbsentOrgan, ...]
    model_id: str
    support_id: str
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    landmarks: tuple[LandmarkDetection | AbsentLandmark, ...] = ()
    grid: Grid | None = None

    @property
    def located(self) -> tuple[OrganDetection, ...]:
        """The organs that have a box."""
        return tuple(organ for organ in self.organs if isinstance(organ, OrganDetection))

    @property
    def absent(self) -> tuple[AbsentOrgan, ...]:
        """The organs that are likely not in the scan."""
        return tuple(organ for organ in self.organs if isinstance(organ, AbsentOrgan))

    @property
    def boxes(self) -> dict[str, Box]:
        """The box of every organ that is located, by its name."""
        return {entry.organ: entry.box for entry in self.located}

    @property
    def located_landmarks(self) -> tuple[LandmarkDetection, ...]:
        """The landmarks that have a point."""
        return tuple(entry for entry in self.landmarks if isinstance(entry, LandmarkDetection))

    @property
    def absent_landmarks(self) -> tuple[AbsentLandmark, ...]:
        """The landmarks that are likely not in the scan."""
        return tuple(entry for entry in self.landmarks if isinstance(entry, AbsentLandmark))

    @property
    def points_ras(self) -> dict[str, NDArray[np.float64]]:
        """The point (3,) of every landmark that is located, by its name, RAS mm."""
        return {entry.landmark: entry.point_ras for entry in self.located_landmarks}

    @property
    def targets(self) -> dict[str, OrganDetection | AbsentOrgan | LandmarkDetection | AbsentLandmark]:
        """Everything that was looked for, by its name: the organs, then the landmarks."""
        return {
            **{entry.organ: entry for entry in self.organs},
            **{entry.landmark: entry for entry in self.landmarks},
        }

    def __getitem__(self, name: str) -> Any:
        """What was found of an organ or a landmark. Raises KeyError if it was not looked for."""
        targets = self.targets
        if name not in targets:
            raise KeyError(f"No {name} among the results in {self.query}, only {', '.join(targets)}")
        return targets[name]

    def save(self, path: str | Path) -> None:
        """Write the detections as JSON, whole or not at all. Raises InputError if the folder cannot be written to."""
        write_text_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Detections:
        """The detections in a file. Raises InputError if it is missing or not such a file.

        Examples
        --------
        >>> found.save("bert.detections.json")
        >>> rprloc.Detections.load("bert.detections.json").query == found.query
        True
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The detections {path} cannot be read ({error}). Check the path.") from error
        return cls.from_json(text, str(path))

    def to_json(self) -> str:
        """The JSON text, equal for equal results: fixed order of keys, organs as given, mm rounded to 4 decimals."""
        record = {
            "format": FORMAT,
            "version": VERSION,
            "query": self.query,
            "model_id": self.model_id,
            "support_id": self.support_id,
            **({"scan": _grid_record(self.grid)} if self.grid is not None else {}),
            "organs": [_organ_record(entry) for entry in self.organs],
            **({"landmarks": [_landmark_record(entry) for entry in self.landmarks]} if self.landmarks else {}),
            "warnings": list(self.warnings),
        }
        return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "The text") -> Detections:
        """The detections of a JSON text; ``source`` names it in errors. ``seconds`` is None.

        Raises InputError if the text is not JSON, not of this format, of a newer version, or contradicts itself.
        """
        record = _parse(text, source)
        names = [*(item["organ"] for item in record["organs"]), *(o["landmark"] for o in record.get("landmarks", ()))]
        if len(set(names)) < len(names):
            raise InputError(f"{source} has two results of one name. Write the detections again.")
        return cls(
            query=record["query"],
            organs=tuple(_organ_of_record(item, source) for item in record["organs"]),
            landmarks=tuple(_landmark_of_record(item, source) for item in record.get("landmarks", ())),
            model_id=record["model_id"],
            support_id=record["support_id"],
            warnings=tuple(record["warnings"]),
            grid=_grid_of_record(record["scan"], source) if "scan" in record else None,
        )


def _grid_record(grid: Grid) -> dict[str, Any]:
    rows = [[value + 0.0 for value in row] for row in grid.ras_from_ijk.tolist()]  # + 0.0: no minus zero
    return {"shape": list(grid.shape), "ras_from_ijk": rows}


def _grid_of_record(item: dict[str, Any], source: str) -> Grid:
    i, j, k = item["shape"]
    try:
        return Grid((i, j, k), np.array(item["ras_from_ijk"], float))
    except InputError as error:
        raise InputError(f"{source}: the place of the scan is damaged. Write the detections again.") from error


def _round(values: Iterable[float]) -> list[float]:
    return [round(float(value), _DECIMALS) + 0.0 for value in values]  # + 0.0: no minus zero


def _organ_record(entry: OrganDetection | AbsentOrgan) -> dict[str, Any]:
    if isinstance(entry, AbsentOrgan):
        return {
            "organ": entry.organ,
            "supports": list(entry.supports),
            "presence": _presence_record(entry.presence),
        }
    points_ras = np.array([_round(point) for point in entry.points_ras])
    box = Box.from_extreme_points(
        points_ras
    )  # of the rounded points, so that reading and writing again changes nothing
    return {
        "organ": entry.organ,
        "box": {
            "min_ras_mm": _round(box.min_ras),
            "max_ras_mm": _round(box.max_ras),
            "centre_ras_mm": _round(box.centre_ras),
            "size_mm": _round(box.size_mm),
        },
        "extreme_points": [
            {"wall": wall, "ras_mm": _round(point), "spread_mm": spread}
            for wall, point, spread in zip(WALLS, points_ras, _round(entry.spread_mm), strict=True)
        ],
        "starts": int(entry.starts),
        "supports": list(entry.supports),
        "expected_wall_error_mm": None
        if entry.expected_wall_error_mm is None
        else _round([entry.expected_wall_error_mm])[0],
        "presence": None if entry.presence is None else _presence_record(entry.presence),
    }


def _landmark_record(entry: LandmarkDetection | AbsentLandmark) -> dict[str, Any]:
    in_scan = None if entry.in_scan is None else round(entry.in_scan, _DECIMALS)
    if isinstance(entry, AbsentLandmark):
        return {"landmark": entry.landmark, "supports": list(entry.supports), "in_scan": in_scan}
    expected_mm = entry.expected_error_mm
    return {
        "landmark": entry.landmark,
        "ras_mm": _round(entry.point_ras),
        "spread_mm": _round([entry.spread_mm])[0],
        "starts": int(entry.starts),
        "supports": list(entry.supports),
        "expected_error_mm": None if expected_mm is None else _round([expected_mm])[0],
        "in_scan": in_scan,
    }


def _landmark_of_record(item: dict[str, Any], source: str) -> LandmarkDetection | AbsentLandmark:
    supports = tuple(item["supports"])
    if "ras_mm" not in item:
        return AbsentLandmark(item["landmark"], item["in_scan"], supports)
    try:
        return LandmarkDetection(
            item["landmark"],
            np.array(item["ras_mm"], float),
            item["spread_mm"],
            item["starts"],
            supports,
            item.get("expected_error_mm"),
            item.get("in_scan"),
        )
    except ValueError as error:
        raise InputError(f"{source}: {error}. Write the detections again.") from error


def _presence_record(presence: Presence) -> dict[str, float]:
    """The probabilities, rounded so that they still sum to 1."""
    whole, absent = round(presence.whole, _DECIMALS), round(presence.absent, _DECIMALS)
    return {"whole": whole, "part": round(max(0.0, 1.0 - whole - absent), _DECIMALS), "absent": absent}


def _presence_of_record(item: dict[str, Any], source: str) -> Presence:
    try:
        return Presence(**item["presence"])
    except ValueError as error:
        raise InputError(f"{source}, presence of {item['organ']}: {error} Write the detections again.") from error


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
            f"{source}: {item['organ']} has an extreme point that is not finite. Write the detections again."
        )
    entry = OrganDetection(
        item["organ"],
        points_ras,
        spread_mm,
        item["starts"],
        supports,
        item.get("expected_wall_error_mm"),
        presence,
    )
    stored = np.array([item["box"]["min_ras_mm"], item["box"]["max_ras_mm"]], float)
    if not np.allclose(stored, [entry.box.min_ras, entry.box.max_ras], rtol=0.0, atol=1e-3):
        raise InputError(
            f"{source}: the box of {item['organ']} is not the box of its extreme points. "
            "Change the points together with the box, or write the detections again."
        )
    return entry


def _parse(text: str, source: str) -> dict[str, Any]:
    """The JSON object of the text, checked against the schema."""
    import jsonschema

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a number of JSON")

    try:
        record = parse_json(text, parse_constant=refuse)
    except ValueError as error:
        raise InputError(f"{source} is not JSON ({error}), so it is no detections file. Check the path.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(
            f'{source} is not a detections file: it lacks "format": "{FORMAT}". '
            "Give a file that RPR-Loc wrote as its result."
        )
    version = record.get("version")
    if isinstance(version, int) and version > VERSION:
        raise InputError(
            f"{source} has version {version} of the detections format, but this RPR-Loc reads versions up to "
            f"{VERSION}. Update RPR-Loc, or write the detections again with this one."
        )
    schema = json.loads((files("rprloc") / "schemas" / "detections-v2.schema.json").read_text(encoding="utf-8"))
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(record))
    if fault is not None:
        raise InputError(
            f"{source} is not a valid detections file: at {fault.json_path}, {fault.message}. "
            "Write the detections again."
        )
    return record
