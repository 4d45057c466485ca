"""Dataclasses of the library compare by value, or say that they do not: none of them raises where it is compared."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import rprloc
from rprloc.geometry import Box, Grid

LIBRARY = Path(rprloc.__file__).parent
# These check what they are given; all others are filled without their constructors.
MADE = {
    Grid: lambda number: Grid((2, 3, 4), np.diag([1.0, 1.0, number, 1.0])),
    Box: lambda number: Box([0.0, 0.0, 0.0], [1.0, 1.0, number]),
}
ANYTHING = object()


def dataclasses() -> list[str]:
    """The names of all dataclasses of the library, with their modules."""
    found = []
    for path in sorted(LIBRARY.rglob("*.py")):
        module = ".".join(("rprloc", *path.relative_to(LIBRARY).with_suffix("").parts))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(one) for one in node.decorator_list):
                found.append(f"{module}.{node.name}")
    return found


def filled(kind: type, number: int) -> Any:
    """An instance with new arrays in all of its fields; those of one number are equal, those of others are not."""
    if kind in MADE:
        return MADE[kind](number)
    made = object.__new__(kind)
    hints = get_type_hints(kind, localns={name: getattr(rprloc, name) for name in rprloc.__all__})
    for field in fields(kind):
        object.__setattr__(made, field.name, value(hints[field.name], number))
    return made


def value(kind: Any, number: int) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return value(next(one for one in inner if one is not type(None)), number)
    if origin is np.ndarray:
        return np.full(3, float(number))
    if kind is torch.Tensor:
        return torch.full((3,), float(number))
    if origin is not None and issubclass(origin, Mapping):
        return {value(inner[0], number): value(inner[1], number)}
    if origin is not None and issubclass(origin, (Sequence, tuple)):
        return tuple(value(one, number) for one in inner if one is not Ellipsis)
    if not inspect.isclass(kind):
        return ANYTHING
    if is_dataclass(kind):
        return filled(kind, number)
    if issubclass(kind, Enum):
        return next(iter(kind))
    return kind(str(number)) if issubclass(kind, (int, float, str, Path)) else ANYTHING


def assert_equality_works(kind: type) -> None:
    one, same, other = filled(kind, 1), filled(kind, 1), filled(kind, 2)
    assert (one == same) is (kind.__eq__ is not object.__eq__)
    assert (one == other) is False


@pytest.mark.parametrize("name", dataclasses())
def test_instances_compare_by_value_or_by_identity(name: str) -> None:
    module, _, name = name.rpartition(".")
    assert_equality_works(getattr(importlib.import_module(module), name))


@dataclass(frozen=True)
class Careless:
    values: NDArray[np.float64]


def test_a_class_that_leaves_the_comparison_of_arrays_to_python_would_be_noticed() -> None:
    with pytest.raises(ValueError, match="truth value"):
        assert_equality_works(Careless)
