"""Predictions on disk: one small JSON for each pair of an example and a query and each row, so that runs resume."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from zlib import crc32

import numpy as np
from tqdm import tqdm

from rprloc.errors import InputError
from rprloc.evaluation.scores import ALL_SUPPORTS
from rprloc.files import write_text_atomically
from rprloc.geometry import Points
from rprloc.io.dataset import Case
from rprloc.io.reading import read_volume
from rprloc.volume import Volume
from scripts.benchmark.circumstances import describe_machine
from scripts.benchmark.registry import Example, Localization, Method, Row, Setting

_WARM_UP_LIMIT_S = 5.0


@dataclass(frozen=True)
class Pair:
    """A query and the example by which its organs are sought, both by name."""

    region: str
    support: str
    query: str


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a row found in a pair's query: see :class:`registry.Localization`. ``version`` is that of the method."""

    row: str
    version: str
    pair: Pair
    points_ras: dict[str, Points]
    seconds: float
    machine: str
    estimates: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        content = {
            "row": self.row,
            "version": self.version,
            "region": self.pair.region,
            "support": self.pair.support,
            "query": self.pair.query,
            "seconds": round(self.seconds, 4),
            "estimated_seconds": {name: round(value, 2) for name, value in self.estimates.items()},
            "machine": self.machine,
            "extreme_points_ras_mm": {
                organ: np.round(points, 4).tolist() for organ, points in self.points_ras.items()
            },
        }  # fmt: skip
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Prediction:
        """Raises InputError if the file is not one that :func:`predict` wrote."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                content["row"],
                content["version"],
                Pair(content["region"], content["support"], content["query"]),
                {organ: np.array(points, float) for organ, points in content["extreme_points_ras_mm"].items()},
                content["seconds"],
                content["machine"],
                content["estimated_seconds"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not a prediction of the benchmark ({error!r}). Delete it.") from error


def path_of(folder: Path, row: str, pair: Pair) -> Path:
    slug = "".join(letter if letter.isalnum() or letter in "-_=" else "_" for letter in row)
    return folder / "predictions" / pair.region / slug / f"{pair.support}--{pair.query}.json"


def choose_pairs(setting: Setting, region: str, count: int) -> list[Pair]:
    """``count`` pairs of an example and a test case that both show all of the region's targets wholly.

    The queries come in a random order that the seed sets, the examples in turn; no pair comes twice, so more pairs than
    there are give all of them, and few pairs are the first of many.
    """
    return _pair(setting, region, "test")[:count]


def choose_other_pairs(setting: Setting, region: str, count: int) -> list[Pair]:
    """As :func:`choose_pairs`, with training cases as queries.

    No network but the supervised ones has seen their labels; networks may have been trained on their grey values, and
    the product's settings were chosen with some of the labels.
    """
    return _pair(setting, region, "train")[:count]


def _pair(setting: Setting, region: str, split: str) -> list[Pair]:
    targets = set(setting.targets[region])
    examples, queries = (
        [case.name for case in setting.split(region, part) if targets <= set(case.targets)]
        for part in ("support", split)
    )
    if not examples or not queries:
        raise InputError(
            f"The region {region} has no support or no {split} case with all of {', '.join(sorted(targets))}. "
            "Check the datasets.json."
        )
    # By name and not by place in the list: a case more or less does not deal all others anew.
    queries.sort(key=lambda name: crc32(f"{setting.seed} {name}".encode()))
    return [
        Pair(region, examples[(number + turn) % len(examples)], query)
        for turn in range(len(examples))
        for number, query in enumerate(queries)
    ]


def for_shots(pairs: Sequence[Pair], shots: str) -> list[Pair]:
    """The pairs themselves for one shot; for all examples together, one pair for each query."""
    if shots == "one":
        return list(pairs)
    return [Pair(region, ALL_SUPPORTS, query) for region, query in dict.fromkeys((p.region, p.query) for p in pairs)]


def predict(method: Method, region: str, pairs: Sequence[Pair], folder: Path) -> int:
    """Run a method on those pairs of which a prediction is missing or of another version; how many these were."""
    cases = {case.name: case for case in method.setting.cases}
    targets, version = method.setting.targets[region], method.version(region)
    examples = [case for case in method.setting.split(region, "support") if set(targets) & set(case.targets)]
    jobs = [
        (shots, pair, rows)
        for shots in dict.fromkeys(row.shots for row in method.rows)
        for pair in for_shots(pairs, shots)
        if (rows := [row for row in method.rows if row.shots == shots and not _is_done(folder, row, pair, version)])
    ]
    jobs.sort(key=lambda job: (job[0] != "one", job[1].query))
    prepared: dict[str, object] = {}
    warm = False
    volume: Volume | None = None
    for shots, pair, rows in tqdm(jobs, desc=f"{method.name}, {region}", unit="pair", disable=None):
        if volume is None or volume.name != pair.query:
            volume = _rename(read_volume(cases[pair.query].image_path), pair.query)
        names = [case.name for case in examples] if pair.support == ALL_SUPPORTS else [pair.support]
        for name in names:
            if name not in prepared:
                prepared[name] = _prepare(method, cases[name], targets)
        given = [prepared[name] for name in names]
        by_row = method.locate(given, volume, targets, shots)
        if not warm and max(result.seconds for result in by_row.values()) < _WARM_UP_LIMIT_S:
            by_row = method.locate(given, volume, targets, shots)  # the first one only warmed up
        warm = True
        for row in rows:
            _write(folder, row, version, pair, by_row[row.name], targets)
    return len(jobs)


def require_current(method: Method, region: str, pairs: Sequence[Pair], folder: Path) -> None:
    """Raise InputError if another version of the method than the present one made a prediction of these pairs."""
    version = method.version(region)
    for row in method.rows:
        for pair in for_shots(pairs, row.shots):
            if path_of(folder, row.name, pair).exists() and not _is_done(folder, row, pair, version):
                raise InputError(
                    f"{row.name}: predictions in {pair.region} were made by other weights or code than those that the "
                    "report would describe. Run the stage predict for it, too."
                )


def _prepare(method: Method, case: Case, targets: Sequence[str]) -> object:
    return method.prepare(Example(case), [organ for organ in targets if organ in case.targets])


def _rename(volume: Volume, name: str) -> Volume:
    return replace(volume, name=name)


def _is_done(folder: Path, row: Row, pair: Pair, version: str) -> bool:
    path = path_of(folder, row.name, pair)
    return path.exists() and Prediction.read(path).version == version


def _write(folder: Path, row: Row, version: str, pair: Pair, result: Localization, targets: Sequence[str]) -> None:
    points_ras = {organ: np.asarray(result.points_ras[organ], float) for organ in targets}
    for organ, points in points_ras.items():
        if points.shape != (6, 3) or not np.isfinite(points).all():
            raise ValueError(f"{row.name} must give six finite points for {organ} of {pair.query}, got {points}")
    path = path_of(folder, row.name, pair)
    path.parent.mkdir(parents=True, exist_ok=True)
    prediction = Prediction(row.name, version, pair, points_ras, result.seconds, describe_machine(), result.estimates)
    write_text_atomically(path, prediction.to_json())
