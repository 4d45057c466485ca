"""TODO io.dataset."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from rprloc.errors import InputError
from rprloc.files import parse_json
from rprloc.io.dicom import is_dicom
from rprloc.io.formats import IMAGE_EXTENSIONS

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
