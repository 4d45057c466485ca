"""Damaged JSON files (markups, names, support sets, detections) and files of weights."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from scripts.robustness.damage import Content, cut

Edit = tuple[str, Callable[[Any], Any]]


def put(*keys: Any, value: Any) -> Callable[[Any], Any]:
    """An edit that sets the value below a chain of keys."""

    def change(content: Any) -> Any:
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return content

    return change


def remove(*keys: Any) -> Callable[[Any], Any]:
    """An edit that removes what is below a chain of keys."""

    def change(content: Any) -> Any:
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        return content

    return change


_FIRST = ("markups", 0)
_POINT = (*_FIRST, "controlPoints", 0)
MARKUPS: list[Edit] = [
    ("without markups", remove("markups")),
    ("with empty markups", put("markups", value=[])),
    ("with markups in words", put("markups", value="points")),
    ("of another schema", put("@schema", value="markups-schema-v9.0.0.json#")),
    ("that is a line", put(*_FIRST, "type", value="Line")),
    ("twice", lambda content: content | {"markups": content["markups"] * 2}),
    ("without points", put(*_FIRST, "controlPoints", value=[])),
    ("with points in words", put(*_FIRST, "controlPoints", value="six")),
    ("with five points", remove(*_POINT)),
    ("with a point that is not set", put(*_POINT, "positionStatus", value="undefined")),
    ("with a point without a position", remove(*_POINT, "position")),
    ("with a point of two numbers", put(*_POINT, "position", value=[1, 2])),
    ("with a NaN", put(*_POINT, "position", value=[float("nan"), 0, 0])),
    ("with infinity", put(*_POINT, "position", value=[float("inf"), 0, 0])),
    ("with huge numbers", put(*_POINT, "position", value=[1e300, 0, 0])),
    ("with a number of 400 digits", put(*_POINT, "position", value=[10**400, 0, 0])),
    ("with truth values", put(*_POINT, "position", value=[True, 0, 0])),
    ("with a position in words", put(*_POINT, "position", value="left")),
    ("in an unknown frame", put(*_FIRST, "coordinateSystem", value="XYZ")),
    ("with a point outside of the scan", put(*_POINT, "position", value=[500, 0, 0])),
    ("in inches", put(*_FIRST, "coordinateUnits", value="in")),
    ("that is an ROI without a size", put(*_FIRST, "type", value="ROI")),
    ("with a point that is a number", put(*_POINT, value=5)),
]
NAMES: list[Edit] = [
    ("that are a list", lambda content: ["bone"]),
    ("that are a number", lambda content: 5),
    ("that are nothing", lambda content: None),
    ("that are empty", lambda content: {}),
    ("for label 0", lambda content: {"0": "bone"}),
    ("for label -1", lambda content: {"-1": "bone"}),
    ("for a label in words", lambda content: {"one": "bone"}),
    ("that are numbers", lambda content: {"1": 5}),
    ("that are blank", lambda content: {"1": "  "}),
    ("that are lists", lambda content: {"1": ["bone"]}),
    ("for a label that is not there", lambda content: {"7": "bone"}),
    ("for a label of 400 digits", lambda content: {"9" * 400: "bone"}),
    ("twice", lambda content: {"1": "bone", "2": "bone"}),
]
_ORGAN = ("supports", 0, "organs", "bone")
SUPPORT: list[Edit] = [
    ("without supports", remove("supports")),
    ("with empty supports", put("supports", value=[])),
    ("of another format", put("format", value="other")),
    ("of a newer version", put("version", value=99)),
    ("of a version in words", put("version", value="new")),
    ("without a model", remove("model_id")),
    ("with a model that is a number", put("model_id", value=5)),
    ("without organs", put("supports", 0, "organs", value={})),
    ("with organs in a list", put("supports", 0, "organs", value=[])),
    ("with five points", remove(*_ORGAN, "extreme_points_ras_mm", 0)),
    ("with a point of two numbers", put(*_ORGAN, "extreme_points_ras_mm", 0, value=[1, 2])),
    ("with a NaN", put(*_ORGAN, "extreme_points_ras_mm", 0, value=[float("nan"), 0, 0])),
    ("with crossed points", put(*_ORGAN, "extreme_points_ras_mm", 0, value=[900, 0, 0])),
    ("with an infinite error", put(*_ORGAN, "self_error_ras_mm", 0, value=[float("inf"), 0, 0])),
    ("without surroundings", remove("supports", 0, "surroundings")),
    ("with surroundings at cells of a half", put("supports", 0, "surroundings", "cells", "dtype", value="<f4")),
    ("with surroundings of another shape", put("supports", 0, "surroundings", "descriptors", "shape", value=[2, 2])),
    ("with surroundings in no basis", put("supports", 0, "surroundings", "basis", "shape", value=[0, 16])),
    ("without latents", remove(*_ORGAN, "latents")),
    ("with latents of another type", put(*_ORGAN, "latents", "dtype", value="|O")),
    ("with latents of another shape", put(*_ORGAN, "latents", "shape", value=[3, 3])),
    ("with latents of a negative shape", put(*_ORGAN, "latents", "shape", value=[-1, -1])),
    ("with latents of a huge shape", put(*_ORGAN, "latents", "shape", value=[2**62, 2**62])),
    ("with latents that are no base64", put(*_ORGAN, "latents", "base64", value="!!!")),
    ("with half of its latents", put(*_ORGAN, "latents", "base64", value="AAAA")),
    ("with more context than latents", put(*_ORGAN, "context_ras_mm", "shape", value=[1, 3])),
]
_DETECTED = ("organs", 0)
DETECTIONS: list[Edit] = [
    ("without organs", remove("organs")),
    ("with organs in words", put("organs", value="bone")),
    ("of another format", put("format", value="other")),
    ("of a newer version", put("version", value=99)),
    ("with a box unlike its points", put(*_DETECTED, "box", "min_ras_mm", value=[0, 0, 0])),
    ("with a NaN", put(*_DETECTED, "extreme_points", 0, "ras_mm", value=[float("nan"), 0, 0])),
    ("with a number of 400 digits", put(*_DETECTED, "extreme_points", 0, "ras_mm", value=[10**400, 0, 0])),
    ("with five points", remove(*_DETECTED, "extreme_points", 0)),
    ("without a query", remove("query")),
    ("with warnings in words", put("warnings", value="many")),
]


def damage_json(text: str, edits: list[Edit], rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield a JSON file cut off, of noise and nested too deep, and after each of the edits."""
    for n in range(5):
        yield f"cut off {n}", cut(text.rstrip().encode(), rng)
    yield "of noise", rng.randbytes(2000)
    yield "in another encoding", text.replace("a", "ä").encode("utf-16")
    yield "nested 100,000 times", b"[" * 100_000
    yield "with a nested object 50,000 deep", b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    yield "of nothing", b""
    for name, change in edits:
        yield name, json.dumps(change(json.loads(text))).encode()


class Evil:
    """What would run a command if it were unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def damage_weights(good: Path, rng: random.Random) -> Iterator[tuple[str, Content]]:
    """Yield files of weights that are damaged, of another model, or would run a command if they were unpickled."""
    data = (good / "model.pt").read_bytes()
    for n in range(5):
        yield f"weights cut off {n}", {"model.pt": cut(data, rng)}
    yield "weights of noise", {"model.pt": rng.randbytes(3000)}
    yield "weights that are a pickle with a command", {"model.pt": pickle.dumps(Evil("{case}/out/evil"))}
    for name, content in (
        ("with a command", {"coarse.trunk.0.weight": Evil("evil")}),
        ("that are a list", [1, 2]),
        ("of another model", {"weight": torch.zeros(3)}),
        ("that are text", {"coarse.trunk.0.weight": "text"}),
    ):
        stream = io.BytesIO()
        torch.save(content, stream)
        yield f"weights {name}", {"model.pt": stream.getvalue()}
