"""Support sets: what is kept of annotated examples so that their organs can be found in other scans, and the file.

A support set holds points, latents and a coarse shape of each organ, and descriptors around them, never the image: it
can be shared without the patient's scan. Reading one needs numpy alone.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rprloc.annotation import Marking
from rprloc.errors import InputError
from rprloc.files import atomic_path, parse_json, write_text_atomically
from rprloc.geometry import Box, Grid, Points, wall_coordinates
from rprloc.localization.cuts import cut_warnings
from rprloc.localization.ready_made import find_set
from rprloc.localization.surroundings import CELL_MM, Surroundings
from rprloc.model.shipped import name_model
from rprloc.version import __version__

FORMAT, VERSION = "rprloc-support", 4  # raise it when latents mean something else, too, with the same weights
GREY_BINS = 42
_GZIP, _MOST_BYTES = b"\x1f\x8b", 500_000_000
_POSITIONS = 6  # numbers of a latent before the descriptor: body coordinates and fine position
_FURTHEST_MM, _MOST_CELLS = 10_000.0, 8_000_000  # from the origin of the body frame; that a scan's organs span
_BUILD_AGAIN = "Build the set again with 'rprloc support build'."


@dataclass(frozen=True, eq=False)
class Appearance:
    """What an organ looks like in one support scan.

    ``outline_body_mm`` (N, 3): where its mask reaches furthest in many directions, in the body frame; none without a
    mask. ``occupancy`` (A, B, C) uint8, 255 for 1.0: the smoothed share of the organ on ``lattice``, a grid in the body
    frame. ``grey`` (2, GREY_BINS): the distributions of grey values inside and around. ``descriptors`` (2, D): the mean
    fine descriptors inside and around; ``precision`` (D, D): the inverse of their covariance. ``bias_mm`` and
    ``wall_weight`` (6,), in the order of WALLS: by how much a wall that is judged from these misses the one marked in
    the support, and its weight (0 to 1) against the registered one.
    """

    outline_body_mm: NDArray[np.float32]
    occupancy: NDArray[np.uint8]
    lattice: Grid
    grey: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    precision: NDArray[np.float32]
    bias_mm: NDArray[np.float64]
    wall_weight: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SupportTarget:
    """What can be located by one support scan: an organ or a landmark.

    ``anchors_ras`` (P + M, 3) mm in the support's world: the P points that were marked, then M places around them.
    ``latents`` (P + M, C): the position field at them: body coordinates, fine position, descriptor. Of each target,
    ``self_error_mm`` (P, 3) is by how much localization misses the marked points in the support scan itself; what is
    found in any scan is corrected by it.
    """

    name: str
    anchors_ras: Points
    latents: NDArray[np.float32]
    self_error_mm: NDArray[np.float64]

    POINT_COUNT: ClassVar[int]

    @property
    def points_ras(self) -> Points:
        """The points (P, 3) that were marked."""
        return self.anchors_ras[: self.POINT_COUNT]

    @property
    def occupancy(self) -> NDArray[np.uint8]:
        """Which cells (A, B, C) of the body frame the target fills, 255 for all of one."""
        raise NotImplementedError

    @property
    def first_cell(self) -> NDArray[np.int64]:
        """The cell (3,) at which ``occupancy`` begins, in steps of CELL_MM."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class SupportLandmark(SupportTarget):
    """One landmark of one support scan: a point."""

    POINT_COUNT: ClassVar[int] = 1

    @property
    def point_ras(self) -> NDArray[np.float64]:
        """The point (3,)."""
        point_ras: NDArray[np.float64] = self.anchors_ras[0]
        return point_ras

    @property
    def occupancy(self) -> NDArray[np.uint8]:
        return np.full((1, 1, 1), 255, np.uint8)

    @property
    def first_cell(self) -> NDArray[np.int64]:
        return np.rint(self.latents[0, :3] / CELL_MM).astype(np.int64)


@dataclass(frozen=True, eq=False)
class SupportOrgan(SupportTarget):
    """One organ of one support scan, marked by its six extreme points in the order of WALLS.

    ``appearance``: what the organ's own voxels look like.
    """

    POINT_COUNT: ClassVar[int] = 6
    appearance: Appearance
    cut_walls: tuple[str, ...] = ()
    """The walls, of WALLS, at which the organ ends with the example's scan, which may show only a part of it."""
    doubt: str = ""
    """Why its label may hold more than the organ, in a sentence or two."""

    @property
    def occupancy(self) -> NDArray[np.uint8]:
        return self.appearance.occupancy

    @property
    def first_cell(self) -> NDArray[np.int64]:
        return np.rint(self.appearance.lattice.ras_from_ijk[:3, 3] / CELL_MM).astype(np.int64)

    @property
    def box(self) -> Box:
        """The box that was marked."""
        return Box.from_extreme_points(self.points_ras)


@dataclass(frozen=True, eq=False)
class Support:
    """The organs and landmarks that are marked on one scan, how the organs were marked, and what the scan looks like
    around them all.

    ``doubts``: reasons why what the example finds may lie anywhere, each in a sentence or two. ``notes``: what else was
    noticed when the example was read and learned; they are not part of the file, because they may name files.
    """

    scan: str
    marking: Marking
    organs: dict[str, SupportOrgan]
    surroundings: Surroundings = field(default_factory=Surroundings.none)
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    landmarks: dict[str, SupportLandmark] = field(default_factory=dict)

    @property
    def targets(self) -> dict[str, SupportTarget]:
        """The organs, then the landmarks."""
        return {**self.organs, **self.landmarks}

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notes, the doubts of the scan and of its organs, and which organs the scan cuts."""
        doubts = (*self.doubts, *(organ.doubt for organ in self.organs.values() if organ.doubt))
        return (*self.notes, *doubts, *cut_warnings({name: [o.cut_walls] for name, o in self.organs.items()}))


@dataclass(frozen=True)
class Measured:
    """How well a set finds one of its organs: the mean IoU and wall distance over ``scans`` scans."""

    iou: float
    awd_mm: float
    scans: int


@dataclass(frozen=True)
class About:
    """What a set that is handed on says of itself: a ``title``, the ``sources`` of its examples, the ``licence``, and
    how well it was ``measured`` to find its organs, in the scans that ``measured_on`` names.
    """

    title: str
    sources: tuple[str, ...]
    licence: str
    measured_on: str = ""
    measured: Mapping[str, Measured] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Organs and landmarks that can be located: what :meth:`rprloc.Localizer.learn` learned from examples.

    A set belongs to the weights with which it was learned; other weights refuse it. It holds no image.

    Parameters
    ----------
    model_id : str
        The fingerprint of the weights.
    supports : tuple of Support
        One for each example.
    about : About, optional
        What the set says of itself, as ready-made ones do.

    Examples
    --------
    >>> organs = rprloc.SupportSet.load(support_set_file)
    >>> organs.organs
    ['heart']
    """

    model_id: str
    supports: tuple[Support, ...]
    about: About | None = None

    @property
    def organs(self) -> list[str]:
        """All organs' names in the order in which they first appear."""
        return list(dict.fromkeys(name for support in self.supports for name in support.organs))

    @property
    def landmarks(self) -> list[str]:
        """All landmarks' names in the order in which they first appear."""
        return list(dict.fromkeys(name for support in self.supports for name in support.landmarks))

    @property
    def targets(self) -> list[str]:
        """The names of all organs, then those of all landmarks."""
        return [*self.organs, *self.landmarks]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to doubt the examples, each in a sentence or two.

        A set in a file keeps those that bear on what it finds: a scan that is turned or hardly looks like a body, stray
        pieces of an organ's label that are part of its box, and organs that the scan cuts. Of several examples, each
        reason names its own.

        Examples
        --------
        >>> rprloc.SupportSet.load(support_set_file).warnings
        ()
        """
        if len(self.supports) == 1:
            return self.supports[0].warnings
        return tuple(f"Example {support.scan}: {text}" for support in self.supports for text in support.warnings)

    @cached_property
    def identity(self) -> str:
        """A fingerprint of the set's content."""
        return _fingerprint(self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> SupportSet:
        """The support set in a file, plain or gzipped, or a ready-made one by its name, such as ``@head-neck``.

        A file whose name begins with ``@`` is meant by a text with its folder: ``"./@mine.json"``.

        Raises
        ------
        InputError
            If the file is missing, or is not a support set of this version, or there is no such ready-made set.
        """
        path = find_set(path)
        if not path.is_file():
            raise InputError(f"There is no support set {path}. Check the path, or make it with 'rprloc support build'.")
        return cls.from_json(_read_text(path), str(path))

    def save(self, path: str | Path) -> None:
        """Write the set as JSON, whole or not at all; gzipped if the name ends in ``.gz``.

        Raises
        ------
        InputError
            If the folder is missing or cannot be written to.
        """
        if str(path).endswith(".gz"):
            with atomic_path(path) as temporary:
                temporary.write_bytes(gzip.compress(self.to_json().encode(), 9, mtime=0))
        else:
            write_text_atomically(path, self.to_json())

    @classmethod
    def merge(cls, sets: Iterable[SupportSet]) -> SupportSet:
        """One set with the supports of all; organs and landmarks of the same scan come together.

        What the sets say of themselves is kept: sources and licences of all, and how well an organ is found where no
        other set adds to what finds it.

        Raises
        ------
        InputError
            For sets of different models, for what two sets mark differently on one scan, and for a name that one uses
            for an organ and another for a landmark.

        Examples
        --------
        >>> rprloc.SupportSet.merge([organs, organs]).organs
        ['heart']
        """
        sets = list(sets)
        models = list(dict.fromkeys(support_set.model_id for support_set in sets))
        if len(models) != 1:
            raise InputError(
                f"The support sets belong to different weights "
                f"({', '.join(map(name_model, models)) or 'no set was given'}) and cannot "
                "be merged. Build them again with the same weights."
            )
        supports: dict[str, Support] = {}
        for support in (support for support_set in sets for support in support_set.supports):
            known = supports.get(support.scan)
            supports[support.scan] = support if known is None else _join(known, support)
        merged = cls(models[0], tuple(supports.values()), _join_about(sets))
        _check_names(merged, "The sets")
        return merged

    def to_json(self) -> str:
        """The set as JSON text, arrays as base64 of little-endian numbers; equal sets give equal text."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "model_id": self.model_id,
            "software": f"rprloc {__version__}",
            "frame": "RAS",
            **({} if self.about is None else {"about": _about_record(self.about)}),
            "supports": [
                {
                    "scan": support.scan,
                    "source": support.marking.value,
                    **({"doubts": list(support.doubts)} if support.doubts else {}),
                    "organs": {name: _organ_record(organ) for name, organ in support.organs.items()},
                    **_landmark_records(support),
                    "surroundings": _surroundings_record(support.surroundings),
                }
                for support in self.supports
            ],
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "The text") -> SupportSet:
        """The set of a JSON text; ``source`` names it in errors. Raises InputError for anything else."""
        content = _parse(text, source)
        supports = []
        for entry in content["supports"]:
            organs = {
                name: _organ_of_record(name, record, f"{source}, organ {name}")
                for name, record in entry["organs"].items()
            }
            landmarks = {
                name: _landmark_of_record(name, record, f"{source}, landmark {name}")
                for name, record in entry.get("landmarks", {}).items()
            }
            if not organs and not landmarks:
                raise InputError(f"{source} holds nothing of the scan {entry['scan']}. {_BUILD_AGAIN}")
            doubts = tuple(entry.get("doubts", ()))
            targets = (*organs.values(), *landmarks.values())
            _check_extent(targets, source)
            channels = {target.latents.shape[1] - _POSITIONS for target in targets}
            surroundings = _surroundings_of_record(
                entry["surroundings"], channels, f"{source}, what surrounds its organs"
            )
            supports.append(
                Support(entry["scan"], Marking(entry["source"]), organs, surroundings, doubts, landmarks=landmarks)
            )
        about = _about_of_record(content["about"]) if "about" in content else None
        support_set = cls(content["model_id"], tuple(supports), about)
        _check_names(support_set, source)
        return support_set


@dataclass(frozen=True)
class Summary:
    """What is in the file of a support set, read without its arrays, which takes most of the time.

    ``organs``, ``landmarks``: by their names, how many examples each has. ``identity``: a fingerprint of the text.
    """

    about: About | None
    organs: Mapping[str, int]
    landmarks: Mapping[str, int]
    identity: str


def summarize(path: Path) -> Summary:
    """What is in a file, so that a program can offer the set before anybody uses it; the rest is not checked.

    Raises InputError if it is no support set.
    """
    text = _read_text(path)
    try:
        content = parse_json(text)
        about = _about_of_record(content["about"]) if "about" in content else None
        organs, landmarks = (
            Counter(name for support in content["supports"] for name in support.get(kind, ()))
            for kind in ("organs", "landmarks")
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a support set. {_BUILD_AGAIN}") from error
    return Summary(about, organs, landmarks, _fingerprint(text))


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_text(path: Path) -> str:
    """The text of a file, plain or gzipped. Raises InputError if it is none, is damaged, or is too large for a set."""
    with path.open("rb") as file:
        is_packed = file.read(2) == _GZIP
        file.seek(0)
        try:
            with gzip.open(file) if is_packed else nullcontext(file) as stream:
                data = stream.read(_MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                raise InputError(f"{path} is larger than a support set can be. {_BUILD_AGAIN}")
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not a text file, so it is no support set. {_BUILD_AGAIN}") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{path} is damaged ({error}). {_BUILD_AGAIN}") from error


def _join(known: Support, other: Support) -> Support:
    """The organs and landmarks of both supports of one scan."""
    for name in known.targets.keys() & other.targets.keys():
        a, b = known.targets[name].points_ras, other.targets[name].points_ras
        if a.shape != b.shape or not np.allclose(a, b, atol=1e-3):
            raise InputError(
                f"{name} of scan {known.scan} is marked differently in two of the sets. Leave one of them out."
            )
    markings = {part.marking for part in (known, other) if part.organs} or {known.marking}
    marking = markings.pop() if len(markings) == 1 else Marking.MIXED
    doubts, notes = (tuple(dict.fromkeys(a + b)) for a, b in ((known.doubts, other.doubts), (known.notes, other.notes)))
    if len({len(part.surroundings.basis) for part in (known, other) if len(part.surroundings.cells)}) > 1:
        raise InputError(
            f"The descriptors of scan {known.scan} are of two kinds, so they do not fit together. {_BUILD_AGAIN}"
        )
    surroundings = known.surroundings.joined(other.surroundings)
    organs, landmarks = known.organs | other.organs, known.landmarks | other.landmarks
    return Support(known.scan, marking, organs, surroundings, doubts, notes, landmarks)


def _join_about(sets: Iterable[SupportSet]) -> About | None:
    """What still holds of what several sets say of themselves, once they are one; None if none says anything."""
    different = list({support_set.identity: support_set for support_set in sets}.values())
    told = [(support_set, support_set.about) for support_set in different if support_set.about is not None]
    if not told:
        return None
    measured: dict[str, Measured] = {}
    measured_on: list[str] = []
    for support_set, about in told:
        others = [support for other in different if other is not support_set for support in other.supports]
        known = {name for support in others for name in support.targets}
        joined = {support.scan for support in others}
        known |= {name for support in support_set.supports if support.scan in joined for name in support.targets}
        kept = {name: one for name, one in about.measured.items() if name not in known}
        measured |= kept
        measured_on += [about.measured_on] if kept else []
    further = ["further examples"] if len(told) < len(different) else []

    def together(texts: Iterable[str]) -> str:
        # What was put together before comes apart again, so that nothing is said twice.
        return "; ".join(dict.fromkeys(part for text in texts for part in text.split("; ") if part))

    return About(
        together([*(about.title for _, about in told), *further]),
        tuple(dict.fromkeys(source for _, about in told for source in about.sources)),
        together(about.licence for _, about in told),
        together(measured_on),
        measured,
    )


def _check_names(support_set: SupportSet, source: str) -> None:
    """Raise InputError for a name that stands for an organ and for a landmark."""
    both = [name for name in support_set.organs if name in support_set.landmarks]
    if both:
        raise InputError(f"{source}: {', '.join(both)} is an organ and a landmark. Give each a name of its own.")


def _about_record(about: About) -> dict[str, Any]:
    measured = {
        name: {"iou": round(one.iou, 3), "awd_mm": round(one.awd_mm, 2), "scans": one.scans}
        for name, one in about.measured.items()
    }
    return {
        "title": about.title,
        "sources": list(about.sources),
        "licence": about.licence,
        "measured_on": about.measured_on,
        "measured": measured,
    }


def _about_of_record(record: Mapping[str, Any]) -> About:
    measured = {name: Measured(**one) for name, one in record["measured"].items()}
    return About(record["title"], tuple(record["sources"]), record["licence"], record["measured_on"], measured)


def _organ_record(organ: SupportOrgan) -> dict[str, Any]:
    appearance = organ.appearance
    arrays: dict[str, NDArray[Any]] = {
        "outline_body_mm": appearance.outline_body_mm,
        "occupancy": appearance.occupancy,
        "origin_body_mm": appearance.lattice.ras_from_ijk[:3, 3],
        "grey": appearance.grey,
        "descriptors": appearance.descriptors,
        "precision": appearance.precision,
        "bias_mm": appearance.bias_mm,
        "trust": appearance.wall_weight,
    }
    return {
        "extreme_points_ras_mm": np.round(organ.points_ras, 4).tolist(),
        "self_error_ras_mm": np.round(organ.self_error_mm, 4).tolist(),
        **({"cut_walls": list(organ.cut_walls)} if organ.cut_walls else {}),
        **({"doubt": organ.doubt} if organ.doubt else {}),
        "context_ras_mm": _encode(organ.anchors_ras[6:]),
        "latents": _encode(organ.latents),
        "appearance": {name: _encode(array) for name, array in arrays.items()},
    }


def _landmark_records(support: Support) -> dict[str, Any]:
    """The landmarks of a support; nothing if it has none, so that sets of organs alone stay as they were."""
    records = {
        name: {
            "point_ras_mm": np.round(landmark.point_ras, 4).tolist(),
            "self_error_ras_mm": np.round(landmark.self_error_mm[0], 4).tolist(),
            "context_ras_mm": _encode(landmark.anchors_ras[1:]),
            "latents": _encode(landmark.latents),
        }
        for name, landmark in support.landmarks.items()
    }
    return {"landmarks": records} if records else {}


def _surroundings_record(surroundings: Surroundings) -> dict[str, Any]:
    arrays: dict[str, NDArray[Any]] = {
        "cells": surroundings.cells,
        "descriptors": surroundings.descriptors,
        "basis": surroundings.basis,
    }
    return {name: _encode(array) for name, array in arrays.items()}


def _surroundings_of_record(record: Mapping[str, Any], channels: set[int], where: str) -> Surroundings:
    """The surroundings, checked: their basis must be one for descriptors of so many channels."""
    arrays = {key: _decode(entry, where) for key, entry in record.items()}
    cells, descriptors, basis = arrays["cells"], arrays["descriptors"], arrays["basis"]
    if not (
        all(array.ndim == 2 for array in arrays.values())
        and (cells.dtype, descriptors.dtype, basis.dtype) == (np.int16, np.int8, np.float32)
        and cells.shape == (len(descriptors), 3)
        and descriptors.shape[1] == basis.shape[1]
        and (len(cells) == 0 or channels == {len(basis)})
        and (np.abs(basis) < 1.01).all()
    ):
        raise InputError(f"{where}, does not fit together. {_BUILD_AGAIN}")
    return Surroundings(cells, descriptors, basis)


def _parse(text: str, source: str) -> dict[str, Any]:
    """The JSON object of the text, checked against the schema."""
    import jsonschema

    try:
        content = parse_json(text)
    except ValueError as error:
        raise InputError(f"{source} is not JSON ({error}), so it is no support set. {_BUILD_AGAIN}") from error
    if isinstance(content, dict) and content.get("format") == FORMAT:
        version = content.get("version")
        if isinstance(version, int) and version != VERSION:
            raise InputError(
                f"{source} is a support set of version {version}, but this program knows version {VERSION}. "
                "Build the set with this program, or use the program that it was built with."
            )
    schema = json.loads(files("rprloc").joinpath("schemas/support-v4.schema.json").read_text(encoding="utf-8"))
    try:
        jsonschema.validate(content, schema)
    except jsonschema.ValidationError as error:
        raise InputError(f"{source} is not a support set: {error.message[:200]}. {_BUILD_AGAIN}") from error
    record: dict[str, Any] = content
    return record


def _organ_of_record(name: str, record: Mapping[str, Any], where: str) -> SupportOrgan:
    points = np.array(record["extreme_points_ras_mm"], float)
    anchors, latents, self_error = _anchors_of_record(points, record, where)
    if not (wall_coordinates(points).reshape(3, 2) @ [-1.0, 1.0] > 0.0).all():  # false for NaN, too
        raise InputError(f"{where}: the extreme points span no volume. {_BUILD_AGAIN}")
    arrays = {key: _decode(entry, where) for key, entry in record["appearance"].items()}
    appearance = _appearance_of_arrays(arrays, latents.shape[1] - _POSITIONS, f"{where}: its appearance")
    cut_walls, doubt = tuple(record.get("cut_walls", ())), record.get("doubt", "")
    return SupportOrgan(name, anchors, latents, self_error, appearance, cut_walls, doubt)


def _landmark_of_record(name: str, record: Mapping[str, Any], where: str) -> SupportLandmark:
    return SupportLandmark(name, *_anchors_of_record(np.array([record["point_ras_mm"]], float), record, where))


def _anchors_of_record(
    points: Points, record: Mapping[str, Any], where: str
) -> tuple[Points, NDArray[np.float32], NDArray[np.float64]]:
    """The anchors and latents of a target with marked points (P, 3), and its self-error (P, 3), checked."""
    context, latents = _decode(record["context_ras_mm"], where), _decode(record["latents"], where)
    if context.shape[1] != 3 or len(latents) != len(points) + len(context):
        raise InputError(f"{where}: there are not as many latents as points. {_BUILD_AGAIN}")
    self_error = np.array(record["self_error_ras_mm"], float).reshape(-1, 3)
    if not (np.isfinite(points).all() and np.isfinite(self_error).all()):
        raise InputError(f"{where}: a point, or its error, is not finite. {_BUILD_AGAIN}")
    return np.concatenate([points, context.astype(float)]), latents.astype(np.float32), self_error


def _check_extent(targets: Iterable[SupportTarget], source: str) -> None:
    """Raise InputError if the shapes of a scan's targets span more cells than a body has."""
    targets = list(targets)
    first = CELL_MM * np.min([target.first_cell for target in targets], axis=0)
    last = CELL_MM * np.max([target.first_cell + target.occupancy.shape for target in targets], axis=0)
    if max(np.abs(first).max(), np.abs(last).max()) > _FURTHEST_MM or np.prod((last - first) / CELL_MM) > _MOST_CELLS:
        raise InputError(f"{source}: its organs and landmarks lie further apart than in a body. {_BUILD_AGAIN}")


def _appearance_of_arrays(arrays: Mapping[str, NDArray[Any]], channels: int, where: str) -> Appearance:
    """The arrays of an appearance, checked against each other."""
    occupancy, outline = arrays["occupancy"], arrays["outline_body_mm"]
    shapes = {
        "origin_body_mm": (3,),
        "grey": (2, GREY_BINS),
        "descriptors": (2, channels),
        "precision": (channels, channels),
        "bias_mm": (6,),
        "trust": (6,),
    }
    fits = occupancy.dtype == np.uint8 and occupancy.ndim == 3 and occupancy.size > 0
    fits = fits and outline.ndim == 2 and outline.shape[1] == 3
    fits = fits and all(arrays[name].shape == shape for name, shape in shapes.items())
    fits = fits and not (arrays["origin_body_mm"] % CELL_MM).any()
    if not (fits and (arrays["grey"] > 0.0).all() and (np.abs(arrays["trust"] - 0.5) <= 0.5).all()):
        raise InputError(f"{where} does not fit together. {_BUILD_AGAIN}")
    return Appearance(
        outline_body_mm=outline.astype(np.float32),
        occupancy=occupancy.astype(np.uint8),
        lattice=Grid.isotropic(occupancy.shape, CELL_MM, arrays["origin_body_mm"].astype(float)),
        grey=arrays["grey"].astype(np.float32),
        descriptors=arrays["descriptors"].astype(np.float32),
        precision=arrays["precision"].astype(np.float32),
        bias_mm=arrays["bias_mm"].astype(float),
        wall_weight=arrays["trust"].astype(float),
    )


def _encode(array: NDArray[np.generic]) -> dict[str, Any]:
    dtype = {"uint8": "|u1", "int8": "|i1", "int16": "<i2"}.get(array.dtype.name, "<f4")
    data = np.ascontiguousarray(array, dtype=dtype)
    return {"dtype": dtype, "shape": list(data.shape), "base64": base64.b64encode(data.tobytes()).decode("ascii")}


def _decode(entry: Mapping[str, Any], where: str) -> NDArray[Any]:
    try:
        data = base64.b64decode(entry["base64"], validate=True)
        array = np.frombuffer(data, dtype=entry["dtype"]).reshape(entry["shape"])
    except ValueError as error:
        raise InputError(f"{where}: an array is damaged ({error}). {_BUILD_AGAIN}") from error
    if not np.isfinite(array).all():
        raise InputError(f"{where}: an array holds numbers that are not finite. {_BUILD_AGAIN}")
    return array
