"""From what a user gives to what training needs: scans, scans that are only measured on, and the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rprloc.errors import InputError
from rprloc.files import parse_json
from rprloc.io.dataset import scans_below, training_files
from rprloc.modality import modalities_named
from rprloc.model.network import RPRNet
from rprloc.training.config import TrainingConfig
from rprloc.training.packing import pack
from rprloc.training.sampling import TrainingScan
from rprloc.training.training import require_same_modality

HELD_OUT = 20
"""Of unlabelled scans in a folder one in so many is only measured on."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a training run is made of."""

    scans: list[TrainingScan]
    validation: list[TrainingScan]
    config: TrainingConfig


def prepare_run(
    folder: Path,
    *,
    data: Path | None = None,
    images: Path | None = None,
    recipe: Path | None = None,
    changes: Mapping[str, int | float | str | None] | None = None,
    init: RPRNet | None = None,
    resume: bool = False,
) -> Prepared:
    """Read the scans of a ``datasets.json`` (``data``) or below a folder (``images``), and work out the recipe.

    The recipe is that of the file ``recipe``; else, where a run goes on, the one that it began with; else the default.
    ``changes`` are fields of it that are set anew, where not None. Without a recipe, a run that starts from ``init``
    has its modality. Raises InputError if the folder holds a run that is not to go on, if the scans or the recipe
    cannot be used, if run, recipe and ``init`` differ in modality, or if a run that goes on began with other weights.
    """
    if (data is None) == (images is None):
        raise InputError("Scans to train on come from --data or from --images. Give one of them.")
    if not resume and any((folder / name).exists() for name in ("model.pt", "coarse.pt", "body_frame.npz")):
        raise InputError(
            f"{folder} holds a training run already. Add --resume to go on with it, or name another folder."
        )
    own = folder / "config.json"
    if recipe is None and resume and own.is_file():
        recipe = own
    config = TrainingConfig() if recipe is None else TrainingConfig.read(recipe)
    chosen = {name: value for name, value in (changes or {}).items() if value is not None}
    if init is not None and recipe is None:
        chosen = {"modality": init.modality, **chosen}
    config = replace(config, **chosen)  # type: ignore[arg-type]
    modalities = modalities_named(config.modality)
    if init is not None:
        require_same_modality(config, init)
    if resume and own.is_file() and TrainingConfig.read(own).modality != config.modality:
        raise InputError(
            f"The run in {folder} is not for {config.modality}. Name another folder, or leave --modality out."
        )
    if resume and own.is_file():
        _require_same_start(own, init)
    packed = folder / "packed"
    if images is None:
        assert data is not None
        files, held_out = training_files(data), training_files(data, "val")
        folder.mkdir(parents=True, exist_ok=True)
        scans, validation = (pack(some, packed, modalities=modalities) for some in (files, held_out))
        return Prepared(scans, validation, config)
    files = scans_below(images)
    folder.mkdir(parents=True, exist_ok=True)
    scans = pack(files, packed, folder / "skipped.csv", modalities)
    validation = scans[HELD_OUT - 1 :: HELD_OUT]
    del scans[HELD_OUT - 1 :: HELD_OUT]
    return Prepared(scans, validation, config)


def _require_same_start(path: Path, init: RPRNet | None) -> None:
    """Raises InputError if a run, by its ``config.json``, began with other weights: it has not gone on from them in all
    of its parts yet.
    """
    made_with = parse_json(path.read_text(encoding="utf-8")).get("made_with", {})
    given = None if init is None else init.identity()
    began = made_with.get("init", given) if isinstance(made_with, dict) else given
    if began != given:
        how = "without --init. Leave it out" if began is None else f"from weights {began}. Give them again with --init"
        raise InputError(f"The run in {path.parent} began {how}, or name another folder.")
