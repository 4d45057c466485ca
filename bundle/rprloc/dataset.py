"""Training and evaluation cases: ``datasets.json`` and the packed copies of scans that training reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from tqdm import tqdm

from rprloc.errors import InputError
from rprloc.files import atomic_path
from rprloc.geometry import Grid
from rprloc.network import LATTICE_ANCHOR_MM, SPACING_MM
from rprloc.reading import read_volume
from rprloc.sampling import TrainingScan
from rprloc.volume import display_window_air, network_grid, network_input, resample

SPLITS = ("train", "val", "support", "test")

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "type": "object",
        "required": ["labels", "cases"],
        "properties": {
            "labels": {
                "type": "object",
                "propertyNames": {"pattern": "^[1-9][0-9]*$"},
                "additionalProperties": {"type": "string", "minLength": 1},
            },
            "cases": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": ["split", "targets"],
                    "properties": {
                        "split": {"enum": list(SPLITS)},
                        "targets": {"type": "array", "items": {"type": "string"}},
                    },
                },
            },
        },
    },
}


@dataclass(frozen=True)
class Case:
    """One scan of a dataset: where its image and its labels lie, and which organs lie wholly inside it."""

    name: str
    region: str
    split: str
    image_path: Path
    labels_path: Path
    targets: tuple[str, ...]
    label_names: dict[int, str]


def read_dataset(path: Path) -> list[Case]:
    """The cases of a ``datasets.json``; images are ``<region>/images/<case>.nii.gz`` beside it, labels likewise.

    Raises InputError if the file is missing or is not in that format.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; a datasets.json was expected; give its path with --data.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.validate(content, _SCHEMA)
    except (ValueError, jsonschema.ValidationError) as error:
        reason = getattr(error, "message", str(error))
        raise InputError(
            f"{path} is not a datasets.json: {reason}; regions with 'labels' and 'cases' were expected; "
            "correct the file."
        ) from error
    return [
        Case(
            name=name,
            region=region,
            split=case["split"],
            image_path=path.parent / region / "images" / f"{name}.nii.gz",
            labels_path=path.parent / region / "labels" / f"{name}.nii.gz",
            targets=tuple(case["targets"]),
            label_names={int(number): organ for number, organ in entry["labels"].items()},
        )
        for region, entry in content.items()
        for name, case in entry["cases"].items()
    ]


def training_cases(path: Path) -> list[Case]:
    """The cases of split train of a ``datasets.json``. Raises InputError like :func:`read_dataset`, or if none is."""
    cases = [case for case in read_dataset(path) if case.split == "train"]
    if not cases:
        raise InputError(f"{path} has no case of split train; scans to train on were expected; add some.")
    return cases


def pack(cases: Sequence[Case], folder: Path) -> list[TrainingScan]:
    """The cases as training scans: 8-bit network input at network spacing, kept in ``folder`` for the next time."""
    folder.mkdir(parents=True, exist_ok=True)
    scans = []
    for case in tqdm(cases, desc="reading scans", unit="scan"):
        packed = folder / f"{case.region}-{case.name}.npz"
        if not packed.exists():
            volume = read_volume(case.image_path)
            air_hu = display_window_air(volume.hu)
            volume = resample(volume, network_grid(volume.grid, SPACING_MM, LATTICE_ANCHOR_MM))
            image = np.rint(network_input(volume.hu, air_hu) * 255).astype(np.uint8)
            with atomic_path(packed) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, image=image, ras_from_ijk=volume.grid.ras_from_ijk)
        with np.load(packed, allow_pickle=False) as arrays:
            image = arrays["image"]
            scans.append(
                TrainingScan.from_array(case.name, case.region, image, Grid(image.shape, arrays["ras_from_ijk"]))
            )
    return scans
