"""What a training run is made of."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import jsonschema

from rprloc.errors import InputError
from rprloc.files import parse_json
from rprloc.modality import CT, WEIGHTS_FOR, modalities_named

_AT_LEAST = {"coarse_outputs": 1, "fine_outputs": 1, "crops_a_step": 2, "checkpoint_steps": 1}


@dataclass(frozen=True)
class TrainingConfig:
    """What a training run is made of; with the same scans and seed it gives the same weights up to rounding."""

    seed: int = 0
    coarse_steps: int = 2000  # docs/experiments.md, E9
    fine_steps: int = 6000  # E14
    learning_rate: float = 2e-3  # E10
    weight_decay: float = 1e-4
    coarse_outputs: int = 10  # places along each edge of a crop
    fine_outputs: int = 12
    crops_a_step: int = 4
    group_power: float = 0.0  # how a region of n scans weighs: n ** group_power; 0: all regions alike
    checkpoint_steps: int = 200
    modality: str = CT.name  # of scans and weights, one of WEIGHTS_FOR

    @property
    def across(self) -> bool:
        """Whether scans of one modality are to be found by those of another."""
        return len(modalities_named(self.modality)) > 1

    @classmethod
    def read(cls, path: Path) -> TrainingConfig:
        """The configuration in a JSON file: its object ``training``, with any of the fields; the others are as usual.

        Raises InputError for anything else.
        """
        wanted = (
            f"Write an object 'training' with any of {', '.join(field.name for field in fields(cls))}, as in the "
            "config.json of a run."
        )
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as JSON ({error}). {wanted}") from error
        kinds: dict[str, dict[str, object]] = {
            "int": {"type": "integer", "minimum": 0},
            "float": {"type": "number", "minimum": 0.0},
            "str": {"enum": list(WEIGHTS_FOR)},
        }
        known = {field.name: dict(kinds[str(field.type)]) for field in fields(cls)}
        for name, least in _AT_LEAST.items():
            known[name]["minimum"] = least
        schema = {
            "type": "object",
            "required": ["training"],
            "properties": {"training": {"type": "object", "properties": known, "additionalProperties": False}},
        }
        try:
            jsonschema.validate(content, schema)
        except jsonschema.ValidationError as error:
            raise InputError(f"{path} is no training configuration: {error.message}. {wanted}") from error
        return cls(**content["training"])
