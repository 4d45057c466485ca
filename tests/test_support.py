"""Support sets: built, written, read, merged, refused; and what is not in them."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rprloc.annotation import Annotation, Marking, scan_pseudonym
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid, extreme_points_of_mask
from rprloc.io.annotations import read_example
from rprloc.io.mask_files import read_label_map
from rprloc.io.reading import read_volume
from rprloc.localization.localizer import Localizer
from rprloc.localization.marking import build_support
from rprloc.localization.support import GREY_BINS, Appearance, Support, SupportOrgan, SupportSet
from rprloc.localization.surroundings import CELL_MM, Surroundings
from rprloc.volume import Volume
from tests.example import ExampleFiles


def organ(name: str, centre_ras: tuple[float, float, float], context: int = 4, channels: int = 8) -> SupportOrgan:
    """An organ of 20 mm with numbers for latents that float32 holds exactly."""
    directions = np.repeat(np.eye(3), 2, axis=0) * np.tile([[-1.0], [1.0]], (3, 1))
    points = np.array(centre_ras) + 10.0 * directions
    around = np.array(centre_ras) + np.arange(3 * context).reshape(context, 3)
    anchors = np.concatenate([points, around])
    latents = np.arange(len(anchors) * channels, dtype=np.float32).reshape(-1, channels) / 8
    return SupportOrgan(name, anchors, latents, np.zeros((6, 3)), appearance(channels - 6))


def appearance(channels: int) -> Appearance:
    occupancy = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    grey = np.full((2, GREY_BINS), 0.25, np.float32)
    descriptors, precision = np.ones((2, channels), np.float32), np.eye(channels, dtype=np.float32)
    outline = np.arange(15, dtype=np.float32).reshape(5, 3)
    lattice, bias, weight = Grid.isotropic((2, 3, 4), CELL_MM, [8.0, -16.0, 24.0]), np.ones(6), np.full(6, 0.5)
    return Appearance(outline, occupancy, lattice, grey, descriptors, precision, bias, weight)


def one(scan: str, *organs: SupportOrgan, model: str = "m1", marking: Marking = Marking.LABEL_MAP) -> SupportSet:
    return SupportSet(model, (Support(scan, marking, {entry.name: entry for entry in organs}, around(organs)),))


def around(organs: Sequence[SupportOrgan]) -> Surroundings:
    """Descriptors at three cells for each organ, of which the second lies where the next organ has its first."""
    cells = np.concatenate([np.rint(entry.anchors_ras[:3] / 10.0) + 1 for entry in organs]).astype(np.int16)
    cells = np.unique(cells, axis=0)
    descriptors = np.eye(2, dtype=np.float32)[np.arange(len(cells)) % 2]
    return Surroundings.of(cells, descriptors)


HEART, LIVER = organ("heart", (0.0, 40.0, -100.0)), organ("liver", (60.0, 10.0, -220.5))


def same(a: SupportSet, b: SupportSet) -> bool:
    return a.to_json() == b.to_json()


def test_a_written_set_is_read_as_it_was(tmp_path: Path) -> None:
    written = one("a", HEART, LIVER)
    written.save(tmp_path / "set.json")
    read = SupportSet.load(tmp_path / "set.json")
    assert read.model_id == "m1" and read.organs == ["heart", "liver"]
    for name, expected in (("heart", HEART), ("liver", LIVER)):
        got = read.supports[0].organs[name]
        np.testing.assert_allclose(got.anchors_ras, expected.anchors_ras, atol=1e-4)
        np.testing.assert_array_equal(got.latents, expected.latents)
        for field in fields(Appearance):
            ours, theirs = (getattr(organ.appearance, field.name) for organ in (got, expected))
            if field.name == "lattice":
                assert ours == theirs
                continue
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(got.box.walls_mm, expected.box.walls_mm, atol=1e-4)
    for field in fields(Surroundings):
        ours, theirs = (getattr(each.supports[0].surroundings, field.name) for each in (read, written))
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert read.identity == written.identity
    assert [path.name for path in tmp_path.iterdir()] == ["set.json"]


def test_the_identity_tells_sets_apart() -> None:
    moved = replace(HEART, latents=HEART.latents + np.float32(0.125))
    identities = {one("a", HEART).identity, one("a", moved).identity, one("b", HEART).identity}
    assert len(identities | {one("a", HEART).identity}) == 3


def test_merging_brings_scans_and_organs_together() -> None:
    merged = SupportSet.merge([one("a", HEART), one("b", LIVER), one("a", LIVER, marking=Marking.EXTREME_POINTS)])
    assert [support.scan for support in merged.supports] == ["a", "b"]
    assert list(merged.supports[0].organs) == ["heart", "liver"]
    assert merged.supports[0].marking == Marking.MIXED
    assert same(SupportSet.from_json(merged.to_json()), merged)


def test_merging_a_set_with_itself_changes_nothing() -> None:
    both = one("a", HEART, LIVER)
    assert same(SupportSet.merge([both, both]), both)


def test_sets_of_different_models_are_not_merged() -> None:
    with pytest.raises(InputError, match=r"different weights \(m1, m2\).*Build them again"):
        SupportSet.merge([one("a", HEART), one("b", HEART, model="m2")])


def test_an_organ_marked_in_two_ways_on_one_scan_is_refused() -> None:
    with pytest.raises(InputError, match="heart of scan a is marked differently"):
        SupportSet.merge([one("a", HEART), one("a", organ("heart", (0.0, 45.0, -100.0)))])


def change(*keys: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return edit


HEART_KEYS = ("supports", 0, "organs", "heart")
AROUND_KEYS = ("supports", 0, "surroundings")
NAN = base64.b64encode(np.full((10, 8), np.nan, "<f4").tobytes()).decode()
DAMAGED = {
    "newer version": (change("version", to=5), "support set of version 5, but this program knows version 4"),
    "older version": (change("version", to=3), "support set of version 3, but this program knows version 4"),
    "other format": (change("format", to="rprloc-detections"), "is not a support set"),
    "other frame": (change("frame", to="LPS"), "is not a support set"),
    "no support": (change("supports", to=[]), "is not a support set"),
    "five points": (
        change(*HEART_KEYS, "extreme_points_ras_mm", to=[[0.0, 0.0, 0.0]] * 5),
        "is not a support set",
    ),
    "a text for a number": (
        change(*HEART_KEYS, "extreme_points_ras_mm", 0, to=[0.0, "0", 0.0]),
        "is not a support set",
    ),
    "no base64": (change(*HEART_KEYS, "latents", "base64", to="%%%"), "organ heart: an array is damaged"),
    "too few bytes": (change(*HEART_KEYS, "latents", "base64", to="AAAA"), "organ heart: an array is damaged"),
    "not a number": (change(*HEART_KEYS, "latents", "base64", to=NAN), "numbers that are not finite"),
    "too few latents": (change(*HEART_KEYS, "context_ras_mm", "shape", to=[12, 1]), "not as many latents as points"),
    "a point that is not a number": (
        change(*HEART_KEYS, "extreme_points_ras_mm", 0, to=[float("nan"), 0.0, 0.0]),
        "organ heart: a point, or its error, is not finite",
    ),
    "walls that have crossed": (
        change(*HEART_KEYS, "extreme_points_ras_mm", 0, to=[999.0, 0.0, 0.0]),
        "organ heart: the extreme points span no volume",
    ),
    "a trust of more than one": (
        change(*HEART_KEYS, "appearance", "trust", "base64", to=base64.b64encode(np.full(6, 2.0, "<f4")).decode()),
        "organ heart: its appearance does not fit together",
    ),
    "a shape of numbers": (
        change(*HEART_KEYS, "appearance", "occupancy", to={"dtype": "<f4", "shape": [1, 1, 1], "base64": "AAAAAA=="}),
        "organ heart: its appearance does not fit together",
    ),
    "a colour too few": (
        change(*HEART_KEYS, "appearance", "grey", "shape", to=[GREY_BINS, 2]),
        "organ heart: its appearance does not fit together",
    ),
    "no appearance": (change(*HEART_KEYS, "appearance", to={}), "is not a support set"),
    "no surroundings": (change(*AROUND_KEYS, to={}), "is not a support set"),
    "surroundings of too few descriptors": (
        change(*AROUND_KEYS, "descriptors", to={"dtype": "|i1", "shape": [1, 2], "base64": "AAA="}),
        "what surrounds its organs, does not fit together",
    ),
    "surroundings of other descriptors": (
        change(*AROUND_KEYS, "basis", to={"dtype": "<f4", "shape": [1, 2], "base64": "AAAAAAAAAAA="}),
        "what surrounds its organs, does not fit together",
    ),
    "surroundings at no cells": (
        change(*AROUND_KEYS, "cells", to={"dtype": "<f4", "shape": [1, 3], "base64": "AAAAAAAAAAAAAAAA"}),
        "what surrounds its organs, does not fit together",
    ),
    "a shape between the cells": (
        change(
            *HEART_KEYS, "appearance", "origin_body_mm", "base64", to=base64.b64encode(np.full(3, 4.5, "<f4")).decode()
        ),
        "organ heart: its appearance does not fit together",
    ),
    "other numbers": (change(*HEART_KEYS, "latents", "dtype", to="|O"), "is not a support set"),
}


@pytest.mark.parametrize(("edit", "about"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_set_is_refused_in_one_line(edit: Callable[[dict[str, Any]], None], about: str) -> None:
    content = json.loads(one("a", HEART).to_json())
    whole = copy.deepcopy(content)
    edit(content)
    assert content != whole
    with pytest.raises(InputError, match=about) as caught:
        SupportSet.from_json(json.dumps(content), "set.json")
    message = str(caught.value)
    assert message.startswith("set.json") and message.endswith(".") and "\n" not in message


@pytest.mark.parametrize("data", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"PK\x03\x04"])
def test_other_files_are_no_support_sets(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "set.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"set\.json is not .*support set.*Build the set again"):
        SupportSet.load(path)


def test_a_missing_set_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no support set .*Check the path"):
        SupportSet.load(tmp_path / "set.json")


def test_a_set_holds_no_voxels_and_no_name_of_the_file(example: ExampleFiles, tmp_path: Path) -> None:
    volume = read_volume(example.image)
    image = tmp_path / "Doe_John_1950.nii.gz"
    image.write_bytes(example.image.read_bytes())
    again = read_volume(image)
    name = scan_pseudonym(again)
    assert name == scan_pseudonym(volume) and "Doe" not in name and "1950" not in name
    other = Volume(np.where(volume.hu == 700, np.int16(701), volume.hu), volume.grid)
    assert scan_pseudonym(other) != name

    marked = read_example(image, labels=example.labels, names={2: "lung"})
    assert marked.name == name
    built = Localizer.load(example.weights, "cpu").learn(marked)
    text = built.to_json()
    assert same(SupportSet.from_json(text), built)
    readable = re.sub(r'"base64": "[^"]*"', "", text)  # encoded numbers may spell anything
    assert "Doe" not in readable and "1950" not in readable
    content = json.loads(text)
    assert set(content) == {"format", "version", "model_id", "software", "frame", "supports"}
    (entry,) = content["supports"]
    assert set(entry) == {"scan", "source", "organs", "surroundings"}
    assert set(entry["organs"]["lung"]) == {
        "extreme_points_ras_mm",
        "self_error_ras_mm",
        "context_ras_mm",
        "latents",
        "appearance",
    }
    # Of the organ's shape no more than a blur of 8 mm cells.
    shape = built.supports[0].organs["lung"].appearance.occupancy
    assert shape.dtype == np.uint8 and np.abs(np.diff(shape.astype(int), axis=0)).max() < 128
    # Around it descriptors 8 mm apart, 16 bytes each.
    around = built.supports[0].surroundings
    assert around.descriptors.dtype == np.int8 and around.descriptors.shape == (len(around.cells), 16)
    # Places and latents, those of the extreme points and of a lattice, however large the scan.
    anchors = len(built.supports[0].organs["lung"].anchors_ras)
    assert anchors <= 6 + 5**3
    stored = np.frombuffer(base64.b64decode(entry["organs"]["lung"]["latents"]["base64"]), "<f4")
    assert len(stored) == anchors * built.supports[0].organs["lung"].latents.shape[1]


def test_built_support_keeps_points_and_the_fields_latents(example: ExampleFiles) -> None:
    volume = read_volume(example.image)
    labels = read_label_map(example.labels, volume.grid)
    field = Localizer.load(example.weights, "cpu").compute_position_field(volume)
    annotation = Annotation.from_labels(labels, volume.grid, {1: "bone", 2: "lung"})
    support = build_support(field, volume.grid, annotation, "anna")
    assert support.scan == "anna" and support.marking == Marking.LABEL_MAP
    for number, name in ((1, "bone"), (2, "lung")):
        expected = extreme_points_of_mask(labels == number, volume.grid)
        built = support.organs[name]
        np.testing.assert_allclose(built.points_ras, expected)
        np.testing.assert_allclose(built.box.walls_mm, Box.from_extreme_points(expected).walls_mm)
        assert len(built.anchors_ras) == len(built.latents) > 6
        np.testing.assert_allclose(built.latents, field.at(built.anchors_ras))
        assert volume.grid.contains(built.anchors_ras[6:]).all()


def test_points_are_put_in_order_and_those_outside_refused(example: ExampleFiles) -> None:
    volume = read_volume(example.image)
    field = Localizer.load(example.weights, "cpu").compute_position_field(volume)
    points = organ("x", tuple(volume.grid.bounds.centre_ras)).points_ras
    shuffled = build_support(field, volume.grid, Annotation({"x": points[[3, 0, 5, 1, 4, 2]]}), "s")
    np.testing.assert_allclose(shuffled.organs["x"].points_ras, points)
    far = points + np.array([0.0, 0.0, 500.0])
    with pytest.raises(InputError, match="6 of the six points of x lie outside the scan"):
        build_support(field, volume.grid, Annotation({"x": far}), "s")


def test_a_named_label_without_voxels_is_refused(example: ExampleFiles) -> None:
    volume = read_volume(example.image)
    labels = read_label_map(example.labels, volume.grid)
    with pytest.raises(InputError, match=r"Label 3 \(kidney\) has no voxel"):
        Annotation.from_labels(labels, volume.grid, {1: "bone", 3: "kidney"})
    with pytest.raises(InputError, match="No organ was named"):
        Annotation.from_labels(labels, volume.grid, {})
