"""The models that are shipped, by name, the licence of each, and what any weights are for; needs no PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from pickletools import genops
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from rprloc.files import shipped_folder

DEFAULT = "research"

LICENCE_FILE = "license.txt"
"""Beside each file of shipped weights: in a line, what they may be used for, and what they were trained on."""

CALIBRATION_FILE = "trust.json"
"""Beside any weights: what their evidence means."""

_OUTLINE_BYTES, _NAME_BYTES = 1 << 20, 16  # of which weights have 5 kB and two bytes


def shipped_models() -> dict[str, Path]:
    """The files of the shipped weights by the model's name, the default first."""
    folder = shipped_folder("models")
    others = {name: folder / name / "model.pt" for name in ("open", "ct-mr")}
    return {DEFAULT: folder / "model.pt", **others}


def find_weights(model: str | Path | None = None) -> Path:
    """The file of weights that the name of a shipped model or a path stands for; by default the default model's."""
    return shipped_models().get(DEFAULT if model is None else str(model)) or Path(str(model))


def name_model(model_id: str) -> str:
    """Which weights an id stands for, in words: "ct-mr (b6fca2228c351178)" of a shipped model, else the id alone."""
    for name, weights in shipped_models().items():
        calibration = weights.with_name(CALIBRATION_FILE)
        if calibration.is_file() and json.loads(calibration.read_text(encoding="utf-8"))["model_id"] == model_id:
            return f"{name} ({model_id})"
    return model_id


def read_licence(weights: Path) -> str:
    """The licence of weights in a sentence or two; empty if none lies beside them, as beside weights of a user's own.

    Raises OSError for a file that cannot be read.
    """
    path = weights.with_name(LICENCE_FILE)
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def read_modality(weights: Path) -> str:
    """What weights are for, as their file says, such as "CT"; empty if it cannot be told, as of other files.

    Whatever the file is, nothing of it is run, unpacked or built, and no more than a megabyte of its content is read.
    Whether the weights can be used, loading tells.
    """
    try:
        with ZipFile(weights) as archive:
            (outline,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            texts = [text for _, text, _ in genops(_read(archive, outline, _OUTLINE_BYTES)) if isinstance(text, str)]
            if "atlas_values" not in texts:
                return ""
            if "modality_name" not in texts:
                return "CT"  # which has no name, see RPRNet
            # Behind each tensor's name, what it is made of: first its storage, whose number is a text, too.
            number = next(text for text in texts[texts.index("modality_name") :] if text.isdecimal())
            return _read(archive, f"{outline.removesuffix('data.pkl')}data/{number}", _NAME_BYTES).decode("ascii")
    except (OSError, BadZipFile, RuntimeError, LookupError, ValueError, StopIteration, EOFError):
        return ""


def _read(archive: ZipFile, name: str, most_bytes: int) -> bytes:
    """A file of an archive, stored as PyTorch stores it. Raises ValueError if it is compressed, or larger than that."""
    info = archive.getinfo(name)
    if info.compress_type != ZIP_STORED or info.file_size > most_bytes:
        raise ValueError(name)
    return archive.read(info)
