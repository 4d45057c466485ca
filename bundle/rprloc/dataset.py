"""Training and evaluation cases: ``datasets.json`` and the packed copies of scans that training reads."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from tqdm import tqdm

from rprloc.dicom import is_dicom
from rprloc.errors import InputError
from rprloc.files import atomic_path, parse_json
from rprloc.geometry import Grid
from rprloc.network import LATTICE_ANCHOR_MM, SPACING_MM
from rprloc.reading import IMAGE_EXTENSIONS, read_volume, reason_not_to_train_on
from rprloc.sampling import TrainingScan
from rprloc.volume import display_window_air, network_grid, network_input, resample

_log = logging.getLogger(__name__)

MIN_BODY_VOXELS = 5000
"""Of 4 mm; a tenth of a head."""

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
        content = parse_json(path.read_text(encoding="utf-8"))
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


@dataclass(frozen=True)
class ScanFile:
    """An unlabelled scan on disk: what it is called, the group it is drawn with, and its image."""

    name: str
    group: str
    path: Path


def training_files(path: Path, split: str = "train") -> list[ScanFile]:
    """A split's scans of a ``datasets.json``. Raises InputError as :func:`read_dataset`, or if train has none."""
    found = [ScanFile(case.name, case.region, case.image_path) for case in read_dataset(path) if case.split == split]
    if split == "train" and not found:
        raise InputError(f"{path} has no case of split train; scans to train on were expected; add some.")
    return found


def scans_below(folder: Path) -> list[ScanFile]:
    """The image files below a folder, at any depth, and the folders in which other files lie, each a DICOM series.

    Raises InputError if there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; a folder with scans was expected; give its path with --images.")
    paths: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = sorted(name for name in names if not name.startswith("."))
        images = [name for name in shown if name.lower().endswith(IMAGE_EXTENSIONS)]
        paths += [Path(root, name) for name in images]
        # Where folders go on, files that are not DICOM belong to nothing; where they end, they are listed as no scan.
        if shown and not images and (not folders or any(is_dicom(Path(root, name)) for name in shown)):
            paths.append(Path(root))
    if not paths:
        raise InputError(
            f"{folder} holds no files; scans (NIfTI, NRRD, MetaImage, or folders with DICOM series) were expected; "
            "give the folder where they lie."
        )
    return [ScanFile(path.relative_to(folder).as_posix(), "scans", path) for path in paths]


def pack(files: Sequence[ScanFile], folder: Path, skipped: Path | None = None) -> list[TrainingScan]:
    """The scans as 8-bit network input at network spacing, kept in ``folder`` for the next time.

    Raises InputError for a scan that cannot be read; with ``skipped``, such scans, and those that are hardly CT, are
    left out and listed in that CSV file with the reason. Then InputError is raised only if none is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scans, refused = [], []
    for file in tqdm(files, desc="reading scans", unit="scan"):
        try:
            scans.append(_packed(file, folder, strict=skipped is not None))
        except InputError as error:
            if skipped is None:
                raise
            refused.append((file.path, str(error)))
    if skipped is not None:
        with atomic_path(skipped) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("scan", "reason"), *refused])
        if not scans:
            raise InputError(
                f"None of the {len(files)} scans can be used; CT scans were expected; {skipped} says why for each."
            )
        if refused:
            _log.warning("%d of %d scans are left out; %s says why.", len(refused), len(files), skipped)
    return scans


def _packed(file: ScanFile, folder: Path, *, strict: bool) -> TrainingScan:
    packed = folder / f"{file.group}-{file.name.replace('/', '+')}.npz"
    if not packed.exists():
        volume = read_volume(file.path)
        doubt = reason_not_to_train_on(volume) if strict else None
        if doubt:
            raise InputError(doubt)
        air_hu = display_window_air(volume.hu)
        volume = resample(volume, network_grid(volume.grid, SPACING_MM, LATTICE_ANCHOR_MM))
        image = np.rint(network_input(volume.hu, air_hu) * 255).astype(np.uint8)
        with atomic_path(packed) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, image=image, ras_from_ijk=volume.grid.ras_from_ijk)
    with np.load(packed, allow_pickle=False) as arrays:
        image = arrays["image"]
        scan = TrainingScan.from_array(file.name, file.group, image, Grid(image.shape, arrays["ras_from_ijk"]))
    if len(scan.body_ijk) < MIN_BODY_VOXELS:
        raise InputError(f"{file.path} shows hardly any body; a CT scan of a person was expected; leave it out.")
    return scan
