"""The models that are shipped, by name, and the licence of each; needs no PyTorch."""

from __future__ import annotations

from pathlib import Path

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
