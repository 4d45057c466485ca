"""The models that are shipped, by name, the licence of each, and what any weights are for; needs no PyTorch."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from rprloc.files import shipped_folder

DEFAULT = "research"
SHIPPED_FOR = "CT"
"""The modality of all of them."""

LICENCE_FILE = "license.txt"
"""Beside each file of shipped weights: in a line, what they may be used for, and what they were trained on."""


def shipped_models() -> dict[str, Path]:
    """The files of the shipped weights by the model's name, the default first."""
    folder = shipped_folder("models")
    return {DEFAULT: folder / "model.pt", "open": folder / "open" / "model.pt"}


def find_weights(model: str | Path | None = None) -> Path:
    """The file of weights that the name of a shipped model or a path stands for; by default the default model's."""
    return shipped_models().get(DEFAULT if model is None else str(model)) or Path(str(model))


def read_licence(weights: Path) -> str:
    """The licence of weights in a sentence or two; empty if none lies beside them, as beside weights of a user's own.

    Raises OSError for a file that cannot be read.
    """
    path = weights.with_name(LICENCE_FILE)
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def read_modality(weights: Path) -> str:
    """What weights are for, "CT" or "MR", as their file says; empty if it cannot be told, as of other files.

    Nothing of the file is run, and no tensor is read but the name. Whether the weights can be used, loading tells.
    """
    try:
        with ZipFile(weights) as archive:
            (outline,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(outline) as file:
                state = _Outline(file).load()
            if "atlas_values" not in state:
                return ""
            if "modality_name" not in state:
                return "CT"  # which has no name, see RPRNet
            (_, _, number, *_), *_ = state["modality_name"]
            return archive.read(outline.replace("data.pkl", f"data/{number}")).decode("ascii")
    except (OSError, BadZipFile, pickle.UnpicklingError, LookupError, TypeError, ValueError, AttributeError, EOFError):
        return ""


class _Outline(pickle.Unpickler):
    """The state dict of a file of PyTorch's, with each tensor as what it would be made of: its storage comes first."""

    def persistent_load(self, pid: Any) -> Any:
        return pid

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        return OrderedDict if name == "OrderedDict" else _as_they_are


def _as_they_are(*parts: object) -> tuple[object, ...]:
    return parts
