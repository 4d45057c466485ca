"""TODO localization.support."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from numpy.typing import NDArray

from rprloc import __version__
from rprloc.errors import InputError
from rprloc.files import parse_json, write_text_atomically
from rprloc.geometry import Box, Points, wall_coordinates

GREY_BINS = 42


@dataclass(frozen=True, eq=False)
class Appearance:
    """What an organ looks like in one support scan.

    ``outline_body_mm`` (N, 3): where its mask reaches furthest in many directions, in the body frame; none without a
    mask. ``occupancy`` (A, B, C) uint8, 255 for 1.0: the smoothed share of the organ, on a lattice in the body frame
    whose first place is ``origin_body_mm`` (3,). ``grey`` (2, GREY_BINS): the distributions of grey values inside and
    around. ``descriptors`` (2, D): the mean fine descriptors inside and around; ``precision`` (D, D): the inverse of
    their covariance. ``bias_mm`` and ``trust`` (6,), in the order of WALLS: by how much a wall that is judged from
    these misses the one marked in the support, and its weight (0 to 1) against the registered one.
    """

    outline_body_mm: NDArray[np.float32]
    occupancy: NDArray[np.uint8]
    origin_body_mm: NDArray[np.float64]
    grey: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    precision: NDArray[np.float32]
    bias_mm: NDArray[np.float64]
    trust: NDArray[np.float64]


FORMAT, VERSION = "rprloc-support", 2

_POSITIONS = 6  # numbers of a latent before the descriptor: body coordinates and fine position


@dataclass(frozen=True, eq=False)
class SupportOrgan:
    """One organ of one support scan.

    ``anchors_ras`` (6 + M, 3) mm in the support's world: the six extreme points in the order of WALLS, then places in
    and around the organ. ``latents`` (6 + M, C): the position field at them: body coordinates, fine position,
    descriptor. ``appearance``: what the organ's own voxels look like.
    """

    name: str
    anchors_ras: Points
    latents: NDArray[np.float32]
    appearance: Appearance
    self_error_mm: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros((6, 3)))
    """(6, 3): by how much localization misses the extreme points in the support scan itself; what is found in other
    scans is corrected by it."""

    @property
    def points_ras(self) -> Points:
        return self.anchors_ras[:6]

    @property
    def box(self) -> Box:
        return Box.from_extreme_points(self.points_ras)


@dataclass(frozen=True, eq=False)
class Support:
    """The organs marked on one scan. ``source`` says how: "label map" or "extreme points"."""

    scan: str
    source: str
    organs: dict[str, SupportOrgan]


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Supports whose latents come from one model."""

    model_id: str
    supports: tuple[Support, ...]

    @property
    def organs(self) -> list[str]:
        """All organs' names in the order in which they first appear."""
        return list(dict.fromkeys(name for support in self.supports for name in support.organs))

    @property
    def identity(self) -> str:
        """A fingerprint of the set's content."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """The set as JSON text, arrays as base64 of little-endian numbers; equal sets give equal text."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "model_id": self.model_id,
            "software": f"rprloc {__version__}",
            "frame": "RAS",
            "supports": [
                {
                    "scan": support.scan,
                    "source": support.source,
                    "organs": {
                        name: {
                            "extreme_points_ras_mm": np.round(organ.points_ras, 4).tolist(),
                            "self_error_ras_mm": np.round(organ.self_error_mm, 4).tolist(),
                            "context_ras_mm": _encode(organ.anchors_ras[6:]),
                            "latents": _encode(organ.latents),
                            "appearance": {name: _encode(getattr(organ.appearance, name)) for name in _APPEARANCE},
                        }
                        for name, organ in support.organs.items()
                    },
                }
                for support in self.supports
            ],
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "The text") -> SupportSet:
        """The set of a JSON text; ``source`` names it in errors. Raises InputError for anything else."""
        wanted = "a support set written by 'rprloc support build' was expected"
        try:
            content = parse_json(text)
        except ValueError as error:
            raise InputError(f"{source} is not JSON ({error}); {wanted}; build it again.") from error
        if isinstance(content, dict) and content.get("format") == FORMAT:
            version = content.get("version")
            if isinstance(version, int) and version != VERSION:
                raise InputError(
                    f"{source} is a support set of version {version}, but this program knows version {VERSION}; "
                    "build the set with this program, or use the one that it was built with."
                )
        schema = json.loads(files("rprloc").joinpath("schemas/support-v2.schema.json").read_text(encoding="utf-8"))
        try:
            jsonschema.validate(content, schema)
        except jsonschema.ValidationError as error:
            raise InputError(
                f"{source} is not a support set: {error.message[:200]}; {wanted}; build it again."
            ) from error
        supports = []
        for entry in content["supports"]:
            organs = {}
            for name, organ in entry["organs"].items():
                where = f"{source}, organ {name}"
                points = np.array(organ["extreme_points_ras_mm"], float)
                context, latents = _decode(organ["context_ras_mm"], where), _decode(organ["latents"], where)
                if context.shape[1] != 3 or len(latents) != 6 + len(context):
                    raise InputError(f"{where}: there are not as many latents as points; {wanted}; build it again.")
                if not (wall_coordinates(points).reshape(3, 2) @ [-1.0, 1.0] > 0.0).all():  # false for NaN, too
                    raise InputError(f"{where}: the extreme points span no volume; {wanted}; build it again.")
                anchors = np.concatenate([points, context.astype(float)])
                missed = np.array(organ["self_error_ras_mm"], float)
                if not np.isfinite(missed).all():
                    raise InputError(f"{where}: an error of the points is not finite; {wanted}; build it again.")
                arrays = {key: _decode(organ["appearance"][key], where) for key in _APPEARANCE}
                appearance = _appearance(arrays, latents.shape[1] - _POSITIONS, f"{where}: its appearance")
                organs[name] = SupportOrgan(name, anchors, latents.astype(np.float32), appearance, missed)
            supports.append(Support(entry["scan"], entry["source"], organs))
        return cls(content["model_id"], tuple(supports))


_APPEARANCE = [field.name for field in dataclasses.fields(Appearance)]


def _appearance(arrays: dict[str, NDArray[Any]], channels: int, where: str) -> Appearance:
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
    if not (fits and (arrays["grey"] > 0.0).all() and (np.abs(arrays["trust"] - 0.5) <= 0.5).all()):
        raise InputError(f"{where} does not fit together; a set that this program wrote was expected; build it again.")
    return Appearance(
        outline_body_mm=outline.astype(np.float32),
        occupancy=occupancy.astype(np.uint8),
        origin_body_mm=arrays["origin_body_mm"].astype(float),
        grey=arrays["grey"].astype(np.float32),
        descriptors=arrays["descriptors"].astype(np.float32),
        precision=arrays["precision"].astype(np.float32),
        bias_mm=arrays["bias_mm"].astype(float),
        trust=arrays["trust"].astype(float),
    )


def _encode(array: NDArray[np.generic]) -> dict[str, Any]:
    dtype = "|u1" if array.dtype == np.uint8 else "<f4"
    data = np.ascontiguousarray(array, dtype=dtype)
    return {"dtype": dtype, "shape": list(data.shape), "base64": base64.b64encode(data.tobytes()).decode("ascii")}


def _decode(entry: Mapping[str, Any], where: str) -> NDArray[Any]:
    try:
        data = base64.b64decode(entry["base64"], validate=True)
        array = np.frombuffer(data, dtype=entry["dtype"]).reshape(entry["shape"])
    except ValueError as error:
        raise InputError(f"{where}: an array is damaged ({error}); build the support set again.") from error
    if not np.isfinite(array).all():
        raise InputError(f"{where}: an array holds numbers that are not finite; build the support set again.")
    return array


def load_support_set(path: Path) -> SupportSet:
    """The support set in a file. Raises InputError if it is missing or is not one."""
    if not path.is_file():
        raise InputError(f"There is no file {path}; a support set was expected; make one with 'rprloc support build'.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file; a support set was expected; build it again.") from error
    return SupportSet.from_json(text, str(path))


def save_support_set(path: Path, support_set: SupportSet) -> None:
    """Write the set whole or not at all."""
    write_text_atomically(path, support_set.to_json())


def merge(sets: Iterable[SupportSet]) -> SupportSet:
    """One set with the supports of all; organs of the same scan come together.

    Raises InputError for sets of different models, and for an organ that two sets mark differently on one scan.
    """
    sets = list(sets)
    models = list(dict.fromkeys(one.model_id for one in sets))
    if len(models) != 1:
        raise InputError(
            f"The support sets come from different models ({', '.join(models) or 'none given'}); latents of one model "
            "mean nothing to another; build them again with one model."
        )
    supports: dict[str, Support] = {}
    for support in (support for one in sets for support in one.supports):
        known = supports.get(support.scan)
        if known is None:
            supports[support.scan] = support
            continue
        for name in known.organs.keys() & support.organs.keys():
            if not np.allclose(known.organs[name].points_ras, support.organs[name].points_ras, atol=1e-3):
                raise InputError(
                    f"Organ {name} of scan {support.scan} is marked differently in two of the sets; one mark for "
                    "each scan was expected; leave one of them out."
                )
        source = known.source if known.source == support.source else "mixed"
        supports[support.scan] = Support(support.scan, source, known.organs | support.organs)
    return SupportSet(models[0], tuple(supports.values()))
