"""Names of labels and structures from a JSON file, in the shapes that are common."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rprloc.errors import InputError
from rprloc.files import parse_json
from rprloc.io.formats import require_content

_WANTED = 'Write a JSON object such as {"1": "liver", "2": "spleen"}, or {"Lt Kidney": "kidney_left"} for names.'


def read_names(path: str | Path) -> dict[int | str, str]:
    """Names from a JSON file, in its order: by the number of a label, or by the name that a structure has so far.

    Read are ``{"1": "liver"}``, ``{"liver": 1}``, ``{"Lt Kidney": "kidney_left"}``, and any of these under the key
    "labels", as in the dataset.json of nnU-Net. The background, label 0, is passed over.

    Raises InputError if it is anything but an object of distinct keys and distinct non-empty names.
    """
    path = Path(path)
    require_content(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder. {_WANTED}")
    try:
        pairs = parse_json(path.read_text(encoding="utf-8-sig"), object_pairs_hook=list)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}). {_WANTED}") from error
    # An object arrives as a list of pairs, so that a key given twice is noticed; a JSON list would hold no tuples.
    if _is_object(pairs):
        pairs = next((value for key, value in pairs if key == "labels" and not isinstance(value, str)), pairs)
    if not _is_object(pairs):
        raise InputError(f"{path} holds no label names. {_WANTED}")
    names: dict[int | str, str] = {}
    for key, value in pairs:
        label, name = _pair(path, key, value)
        if label == 0 and name.lower() == "background":
            continue
        if label == 0:
            raise InputError(f"{path} has the label value {key!r}. Use integers from 1 on (0 is background).")
        if label in names or name in names.values():
            raise InputError(f"{path} has label {label} ({name!r}) twice. Give every value and every name once.")
        names[label] = name
    if not names:
        raise InputError(f"{path} holds no label names. {_WANTED}")
    return names


def _is_object(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(pair, tuple) for pair in value)


def _pair(path: Path, key: str, value: object) -> tuple[int | str, str]:
    """A label's number, or the name that a structure has so far, and its name."""
    if isinstance(value, int) and not isinstance(value, bool) and not re.fullmatch(r"[-+\d.\s]*", key):
        if value < 0:
            raise InputError(f"{path} has the label value {value} ({key!r}). Use integers from 1 on.")
        return value, key.strip()
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{path} has no name for label {key[:40]}: {_shown(value)}. {_WANTED}")
    if re.fullmatch(r"[-+]?[\d.]+", key.strip()) and not (key.isascii() and key.isdigit()):
        raise InputError(f"{path} has the label value {key!r}. Use integers from 1 on (0 is background).")
    return (int(key) if key.isascii() and key.isdigit() else key.strip()), value.strip()


def _shown(value: object) -> str:
    return "a list or an object" if isinstance(value, list) else repr(value)[:60]
