"""What a method of the benchmark is, and the registry of all methods.

A method is a class in a file of its own in ``methods/``, marked with ``@register``. It gets annotated examples and the
query's scan, never the query's labels, and returns extreme points; everything else (pairs, files, scores, report) knows
no method. See ``methods/mean_box.py`` for a small one.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rprloc
from rprloc.errors import InputError
from rprloc.evaluation.evaluate import read_case
from rprloc.geometry import Box, Points
from rprloc.io.dataset import Case
from rprloc.io.mask_files import read_label_map
from rprloc.volume import Volume
from scripts.benchmark.circumstances import read_clock
from scripts.benchmark.fitting import describe_training, version_of

METHODS = Path(__file__).resolve().parent / "methods"

CHECKED_SCANS = 12

UNSUPERVISED, SUPERVISED = "unsupervised", "supervised"


@dataclass(frozen=True)
class Row:
    """One row of the report: its name, the paper's table in which it stands, and what its method was given.

    ``paper``: the row of the paper's table with which it is compared, if any. ``shots``: "one" for each example alone,
    "all" for all examples of the region together. ``remark`` is printed below the table, ``strength``, a sentence,
    where the row beats the product.
    """

    name: str
    table: int
    paper: str | None = None
    shots: str = "one"
    given: str = UNSUPERVISED
    remark: str = ""
    strength: str = ""


@dataclass(frozen=True, eq=False)
class Localization:
    """The six extreme points (6, 3), RAS mm, in the order of WALLS, of every organ; and the seconds it took for all.

    ``estimates`` are further times in seconds that the report names.
    """

    points_ras: dict[str, Points]
    seconds: float
    estimates: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Example:
    """An annotated scan: what a method may know of a support (or, the supervised one, of a training case)."""

    case: Case

    @property
    def name(self) -> str:
        return self.case.name

    @cached_property
    def _content(self) -> rprloc.Example:
        return read_case(self.case)

    @property
    def volume(self) -> Volume:
        return self._content.volume

    @property
    def points_ras(self) -> Mapping[str, Points]:
        """Of every organ that lies wholly inside the scan, the extreme points (6, 3)."""
        return self._content.annotation.points_ras

    @cached_property
    def labels(self) -> NDArray[np.integer]:
        """The label map (I, J, K) on the scan's grid."""
        return read_label_map(self.case.labels_path, self.volume.grid)

    def mask(self, organ: str) -> NDArray[np.bool_]:
        number = next(number for number, name in self.case.label_names.items() if name == organ)
        return self.labels == number


@dataclass(frozen=True)
class Setting:
    """Where a method finds what it may use: the dataset's cases, a folder for what it keeps, and its budget.

    ``minutes`` scales every method's training: 1 for the budgets that the methods name. ``targets``: of each region the
    organs of the tables. ``model``: the product's weights, by default the shipped ones. Raises InputError if two cases
    have one name.
    """

    cases: tuple[Case, ...]
    folder: Path
    targets: dict[str, tuple[str, ...]]
    minutes: float = 1.0
    seed: int = 0
    model: str | None = None

    def __post_init__(self) -> None:
        counts = Counter(case.name for case in self.cases)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise InputError(f"More than one case is called {', '.join(twice)}. Give each a name of its own.")

    def split(self, region: str, split: str) -> list[Case]:
        return [case for case in self.cases if case.region == region and case.split == split]

    def generator(self, *names: str) -> np.random.Generator:
        """Random numbers that depend on the seed and the names alone."""
        return np.random.default_rng([self.seed, *(b for name in names for b in name.encode())])


class Method:
    """Base of all methods: fill in ``name``, ``rows`` and ``find``; the rest where it is needed."""

    name = ""
    rows: tuple[Row, ...] = ()
    checked = ""
    """What was followed on scans that nothing is trained on, with its unit; see :func:`fitting.fit`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def train(self, region: str) -> None:
        """Train what the method needs on the region's ``train`` cases; done at once if that was done before."""

    def weights(self, region: str) -> dict[str, Path]:
        """The files of the networks that :meth:`train` makes, by what they are; {} if it makes none."""
        return {}

    def budget(self, region: str) -> str:
        """In words: what was trained, on what, for how long; empty if nothing was."""
        return "; ".join(describe_training(path, what) for what, path in self.weights(region).items())

    def scans_to_check(self, region: str) -> list[Case]:
        """Scans on which training is followed: to choose by, or the examples of a region that has none."""
        return (self.setting.split(region, "val") or self.setting.split(region, "support"))[:CHECKED_SCANS]

    def caution(self, region: str) -> str:
        """What must be known before the method's accuracy is compared, in a sentence; empty if nothing."""
        return ""

    def version(self, region: str) -> str:
        """Of the weights: predictions that others made are made again. After a change of code, ask with ``--again``."""
        paths = self.weights(region).values()
        return version_of(*paths) if paths else "1"

    def prepare(self, example: Example, organs: Sequence[str]) -> Any:
        """What is kept of an example; made once for each and not timed, as it does not depend on the query."""
        return example

    def find(self, prepared: Sequence[Any], query: Volume, organs: Sequence[str]) -> dict[str, Points]:
        """The extreme points (6, 3) of the organs in a query, by what :meth:`prepare` returned for the examples."""
        raise NotImplementedError

    def locate(
        self, prepared: Sequence[Any], query: Volume, organs: Sequence[str], shots: str = "one"
    ) -> dict[str, Localization]:
        """What the rows of these ``shots`` find: by default the same for all, timed from the array in memory."""
        started = read_clock()
        points_ras = self.find(prepared, query, organs)
        seconds = read_clock() - started
        return {row.name: Localization(points_ras, seconds) for row in self.rows if row.shots == shots}


_registered: dict[str, type[Method]] = {}


def register(method: type[Method]) -> type[Method]:
    """Class decorator: the method takes part in the benchmark."""
    known = _registered.get(method.name)
    if not method.name or not method.rows:
        raise ValueError(f"{method.__name__} needs a name and rows")
    if known is not None and known.__module__ != method.__module__:
        raise ValueError(f"two methods are called {method.name}: in {known.__module__} and in {method.__module__}")
    _registered[method.name] = method
    return method


def load_methods(*folders: Path) -> dict[str, type[Method]]:
    """The methods in all files of the folders (by default ``methods/``) by name, in the order of the files' names."""
    _registered.clear()
    for folder in folders or (METHODS,):
        for path in sorted(folder.glob("*.py")):
            spec = importlib.util.spec_from_file_location(f"benchmark_method_{path.stem}", path)
            if spec is None or spec.loader is None:
                raise InputError(f"{path} cannot be imported as a Python file. Take it out of the folder.")
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # as dataclasses want it
            spec.loader.exec_module(module)
    return dict(_registered)


def face_centres(box: Box) -> Points:
    """Six points (6, 3) in the order of WALLS for methods that find a box and no points: the centres of its faces."""
    points = np.repeat(box.centre_ras[None], 6, axis=0)
    points[np.arange(6), np.arange(6) // 2] = box.walls_mm
    return points
