"""Annotated cases in ``datasets.json``, and unlabelled scans in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

from rprloc.errors import InputError
from rprloc.files import parse_json
from rprloc.io.dicom import is_dicom
from rprloc.io.formats import IMAGE_EXTENSIONS

SPLITS = ("train", "val", "support", "test")
_ORGANS = {"type": "array", "items": {"type": "string"}}
_ABOUT: dict[str, Any] = {
    "mean": _ORGANS,
    "contours_stop": _ORGANS,
    "absent_in": {"type": "object", "additionalProperties": _ORGANS},
    "landmarks": {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "required": ["organ"],
            "additionalProperties": False,
            "properties": {
                "organ": {"type": "string", "minLength": 1},
                "towards": {"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "number"}},
                "half": {"enum": ["left", "right"]},
                "fork": {"const": True},
            },
            "oneOf": [{"required": ["towards"]}, {"required": ["fork"]}],
        },
    },
}
_ABOUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"type": "object", "properties": _ABOUT, "additionalProperties": False},
}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "type": "object",
        "required": ["labels", "cases"],
        "properties": {
            "labels": {
                "type": "object",
                "propertyNames": {"pattern": "^([1-9][0-9]*|.*[^0-9].*)$"},
                "additionalProperties": {"type": "string", "minLength": 1},
            },
            **_ABOUT,
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
    """One scan of a dataset: where its image and its labels lie, and which organs lie wholly inside it.

    ``label_names`` are the names of numbers in label maps, ``structure_names`` those of structures that are called
    otherwise.
    """

    name: str
    region: str
    split: str
    image_path: Path
    labels_path: Path
    targets: tuple[str, ...]
    label_names: dict[int, str]
    structure_names: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> dict[int | str, str] | None:
        """The names of labels and structures, as :func:`rprloc.read_annotation` takes them."""
        names: dict[int | str, str] = {number: name for number, name in self.label_names.items()}  # noqa: C416
        names.update((other, name) for other, name in self.structure_names.items())
        return names or None


@dataclass(frozen=True)
class LandmarkRule:
    """A landmark that the mask of an organ defines.

    It is the organ's tip ``towards`` a direction (right, front, head), of all of it or of its left or right ``half``;
    or it is where an organ that comes from the head has its ``fork``.
    """

    organ: str
    towards: tuple[float, ...] = ()
    half: str | None = None
    fork: bool = False


@dataclass(frozen=True)
class Region:
    """What is known of a region beside its cases.

    ``mean``: the targets whose mean is given; without any, all. ``contours_stop``: organs whose contours end where
    the contouring stopped, not where the organ does; how far they reach says nothing. ``absent_in``: for other regions
    the organs of this one that their scans surely do not show. ``landmarks``: those that its label maps define.
    """

    mean: tuple[str, ...] = ()
    contours_stop: tuple[str, ...] = ()
    absent_in: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    landmarks: Mapping[str, LandmarkRule] = field(default_factory=dict)

    def mean_of(self, targets: Iterable[str]) -> tuple[str, ...]:
        """Those of the targets whose mean is given."""
        return tuple(target for target in targets if not self.mean or target in self.mean)


def read_regions(path: Path, about: Path | None = None) -> dict[str, Region]:
    """The regions of a ``datasets.json``, in its order, with what it or the file ``about`` says of them.

    ``about`` has the same form, without labels and cases; what it says goes before. Raises InputError for a file that
    is missing or not in that form, and for a region in ``about`` that the dataset does not have.
    """
    content = _read(path, _SCHEMA, "a datasets.json")
    said = {} if about is None else _read(about, _ABOUT_SCHEMA, "a description of regions")
    unknown = [region for region in said if region not in content]
    if unknown:
        raise InputError(f"{about} describes the region {unknown[0]}, which {path} does not have. Correct the name.")
    regions = {}
    for name, entry in content.items():
        known = {key: value for key, value in {**entry, **said.get(name, {})}.items() if key in _ABOUT}
        absent_in = {other: tuple(organs) for other, organs in known.pop("absent_in", {}).items()}
        landmarks = {
            landmark: LandmarkRule(**{**rule, "towards": tuple(rule.get("towards", ()))})
            for landmark, rule in known.pop("landmarks", {}).items()
        }
        faulty = next((one for one, rule in landmarks.items() if not rule.fork and not any(rule.towards)), None)
        if faulty is not None:
            raise InputError(
                f"The landmark {faulty} of {name} lies towards no direction. Give three numbers, not all 0."
            )
        organs = {key: tuple(organs) for key, organs in known.items()}
        regions[name] = Region(**organs, absent_in=absent_in, landmarks=landmarks)
    return regions


def _read(path: Path, schema: dict[str, Any], what: str) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"There is no file {path}. Give the path of {what}.")
    try:
        content: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        jsonschema.validate(content, schema)
    except (ValueError, jsonschema.ValidationError) as error:
        reason = getattr(error, "message", str(error))
        raise InputError(f"{path} is not {what}: {reason}. Correct the file.") from error
    return content


def read_dataset(path: Path) -> list[Case]:
    """The cases of a ``datasets.json``; images are ``<region>/images/<case>.nii.gz`` beside it, labels likewise.

    In place of ``.nii.gz`` there may be another ending, or a folder called as the case. Raises InputError if the file
    is missing or is not in that format, or if a case has several images or labels.
    """
    content = _read(path, _SCHEMA, "a datasets.json")
    return [
        Case(
            name=name,
            region=region,
            split=case["split"],
            image_path=_only_file(path.parent / region / "images", name, IMAGE_EXTENSIONS),
            labels_path=_only_file(path.parent / region / "labels", name, (".mrk.json", *IMAGE_EXTENSIONS)),
            targets=tuple(case["targets"]),
            label_names={int(number): organ for number, organ in entry["labels"].items() if number.isdigit()},
            structure_names={other: organ for other, organ in entry["labels"].items() if not other.isdigit()},
        )
        for region, entry in content.items()
        for name, case in entry["cases"].items()
    ]


def _only_file(folder: Path, name: str, endings: Iterable[str]) -> Path:
    """What a folder has for a case, with whatever ending; the usual ``.nii.gz`` if there is nothing."""
    found = [path for end in ("", ".dcm", ".seg.nrrd", *endings) if (path := folder / f"{name}{end}").exists()]
    if len(found) > 1:
        which = ", ".join(path.name for path in found)
        raise InputError(f"{folder} holds several files for the case {name} ({which}). Leave one of them there.")
    return found[0] if found else folder / f"{name}.nii.gz"


@dataclass(frozen=True)
class ScanFile:
    """An unlabelled scan on disk: what it is called, the group it is drawn with, and its image."""

    name: str
    group: str
    path: Path


def training_files(path: Path, split: str = "train") -> list[ScanFile]:
    """A split's scans of a ``datasets.json``. Raises InputError as :func:`read_dataset`, or if train has none."""
    files = [ScanFile(case.name, case.region, case.image_path) for case in read_dataset(path) if case.split == split]
    if split == "train" and not files:
        raise InputError(f"{path} has no case of split train. Add scans to train on.")
    return files


def scans_below(folder: Path) -> list[ScanFile]:
    """The image files below a folder, at any depth, and the folders in which other files lie, each a DICOM series.

    Raises InputError if there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. Give the path of a folder with scans (--images).")
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
            f"{folder} holds no files. Give the folder in which the scans lie (NIfTI, NRRD, MetaImage, or folders "
            "with DICOM series)."
        )
    return [ScanFile(path.relative_to(folder).as_posix(), "scans", path) for path in paths]
