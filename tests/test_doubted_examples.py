"""The example is doubted like the query: its scan, organs that the scan cuts, and specks of a label."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

import rprloc as library
from rprloc import Annotation, Example, Grid, Localizer, SupportSet, Volume
from rprloc.apps.serve import Server
from rprloc.evaluation.views import Kind, change
from rprloc.geometry import WALLS, Box, extreme_points_of_mask
from rprloc.localization.marking import build_support
from rprloc.volume import to_sitk
from tests.command_line import rprloc
from tests.example import ExampleFiles
from tests.fields import FINE, INPUT, make_field
from tests.phantoms import PHANTOM_GRID, SHAPE, Affine, mr, phantom_hu
from tests.scans import BELLY, CHEST, Pair

HU = phantom_hu(PHANTOM_GRID)
LABELS = np.where(HU == 700, 1, np.where(HU == -850, 2, 0)).astype(np.uint8)
NAMES = {1: "bone", 2: "lung"}
CUT_BELOW = "The example of lung is cut by its scan's lower end, so the box may be too small."
ENDS = [(axis, end) for axis in range(3) for end in (0, -1)]


@pytest.fixture(scope="module")
def untrained(example: ExampleFiles) -> Localizer:
    """Random weights, without a calibration."""
    return Localizer.load(example.weights, "cpu")


def phantom_example(labels: NDArray[np.uint8] = LABELS, name: str = "anna", **names: int) -> Example:
    """The phantom with organs, by default bone and lung, marked by a label map."""
    annotation = Annotation.from_labels(labels, PHANTOM_GRID, {n: o for o, n in names.items()} or NAMES)
    return Example(Volume(HU, PHANTOM_GRID), annotation, name)


def block(axis: int, end: int, gap: int) -> NDArray[np.uint8]:
    """An organ amid a scan that reaches to one of its ends, but for some voxels."""
    ijk = [slice(n // 2 - 4, n // 2 + 4) for n in SHAPE]
    ijk[axis] = slice(gap, SHAPE[axis] // 2) if end == 0 else slice(SHAPE[axis] // 2, SHAPE[axis] - gap)
    labels = np.zeros(SHAPE, np.uint8)
    labels[tuple(ijk)] = 1
    return labels


CUT = np.where(LABELS == 1, 1, 2 * block(2, 0, gap=0)).astype(np.uint8)
"""The lung reaches down to the scan's last slice."""


def cut_example(name: str = "anna") -> Example:
    return phantom_example(CUT, name)


def write(example: Example, labels: NDArray[np.uint8], folder: Path) -> list[object]:
    """Write a scan and its labels; returns the options that name them."""
    sitk.WriteImage(to_sitk(example.volume.hu, example.volume.grid), folder / "image.nii.gz")
    sitk.WriteImage(to_sitk(labels, example.volume.grid), folder / "labels.nii.gz")
    (folder / "names.json").write_text(json.dumps(NAMES), encoding="utf-8")
    named = ["--labels", folder / "labels.nii.gz", "--names", folder / "names.json"]
    return ["--image", folder / "image.nii.gz", *named, "--out", folder / "set.json"]


def flat(text: str) -> str:
    return " ".join(text.split())


# Organs that the scan cuts


def around_zero(ras_from_ijk: Affine) -> Grid:
    """A grid with these axes around the origin of the world."""
    affine = ras_from_ijk.copy()
    affine[:3, 3] = -affine[:3, :3] @ (0.5 * (np.array(SHAPE) - 1))
    return Grid(SHAPE, affine)


def cut_walls(grid: Grid, annotation: Annotation) -> tuple[str, ...]:
    field = make_field(np.eye(3), np.zeros(3))
    (organ,) = build_support(field, grid, annotation, "s").organs.values()
    return organ.cut_walls


def wall_of(grid: Grid, axis: int, end: int) -> str:
    """The wall that looks the way in which the scan ends there."""
    middle = 0.5 * (np.array(SHAPE) - 1)
    face = middle.copy()
    face[axis] = 0 if end == 0 else SHAPE[axis] - 1
    outward = grid.ras(face) - grid.ras(middle)
    along = int(np.abs(outward).argmax())
    return WALLS[2 * along + int(outward[along] > 0)]


@pytest.mark.parametrize(("axis", "end"), ENDS)
def test_an_organ_that_reaches_the_last_voxel_is_cut_at_that_wall(ras_from_ijk: Affine, axis: int, end: int) -> None:
    grid = around_zero(ras_from_ijk)
    annotation = Annotation.from_labels(block(axis, end, gap=0), grid, {1: "organ"})
    assert cut_walls(grid, annotation) == (wall_of(grid, axis, end),)


@pytest.mark.parametrize(("axis", "end"), ENDS)
def test_an_organ_that_ends_one_voxel_before_is_whole(ras_from_ijk: Affine, axis: int, end: int) -> None:
    grid = around_zero(ras_from_ijk)
    assert cut_walls(grid, Annotation.from_labels(block(axis, end, gap=1), grid, {1: "organ"})) == ()


@pytest.mark.parametrize(("off_vox", "expected"), [(0.0, ("superior",)), (0.5, ("superior",)), (1.0, ()), (1.5, ())])
def test_a_point_in_the_last_slice_means_a_cut(off_vox: float, expected: tuple[str, ...]) -> None:
    grid = around_zero(np.diag([2.0, 2.0, 5.0, 1.0]))
    points_ras = extreme_points_of_mask(block(2, 0, gap=3) == 1, grid)
    points_ras[5, 2] = grid.bounds.max_ras[2] - 5.0 * off_vox
    assert cut_walls(grid, Annotation.from_points({"organ": points_ras})) == expected


@pytest.mark.parametrize(
    ("narrows", "top_mm", "expected"),
    [(False, 82.0, ("superior",)), (False, 70.0, ()), (True, 82.0, ())],
    ids=["at the end", "below it", "at the top of a head"],
)
def test_a_padded_scan_cuts_where_it_shows_nothing_more(
    narrows: bool, top_mm: float, expected: tuple[str, ...]
) -> None:
    image = torch.zeros(INPUT.shape)
    for k in range(20, 60):  # to 80 mm
        half = 25 if not narrows else min(25, 5 * (60 - k))
        image[40 - half : 40 + half, 40 - half : 40 + half, k] = 0.5
    field = replace(make_field(np.eye(3), np.zeros(3)), image=image)
    points_ras = np.array([[-20.0, 0, 50], [20, 0, 50], [0, -20, 50], [0, 20, 50], [0, 0, 30], [0, 0, top_mm]])
    (organ,) = build_support(field, FINE, Annotation.from_points({"organ": points_ras}), "s").organs.values()
    assert organ.cut_walls == expected


def test_learning_from_a_cut_organ_says_so_and_so_does_what_is_found_by_it(untrained: Localizer) -> None:
    cut, whole = untrained.learn(cut_example()), untrained.learn(phantom_example())
    assert cut.supports[0].organs["lung"].cut_walls == ("inferior",)
    assert [one for one in cut.warnings if one.startswith(CUT_BELOW)] == list(cut.warnings)
    query = Volume(HU, PHANTOM_GRID)
    assert cut.warnings[0] in untrained.locate(query, SupportSet.from_json(cut.to_json())).warnings
    assert not any("cut by" in one for one in untrained.locate(query, cut, ["bone"]).warnings)
    assert whole.warnings == () and not any("cut by" in one for one in untrained.locate(query, whole).warnings)


def test_of_several_examples_those_that_are_cut_are_counted(untrained: Localizer) -> None:
    both = SupportSet.merge([untrained.learn(cut_example("anna")), untrained.learn(phantom_example(name="bert"))])
    (told,) = [one for one in untrained.locate(Volume(HU, PHANTOM_GRID), both).warnings if "cut by" in one]
    assert told.startswith("1 of 2 examples of lung is cut by the scan's lower end, so the box may be too small.")


def test_a_warning_of_many_cut_organs_stays_short(untrained: Localizer) -> None:
    cut = cut_example()
    points_ras = cut.annotation.points_ras["lung"]
    many = Annotation.from_points({f"organ number {number}": points_ras for number in range(40)})
    (told,) = untrained.learn(replace(cut, annotation=many)).warnings
    assert "organ number 0, organ number 1," in told and "and 34 more" in told and len(told) < 300


# What the file of a set keeps


def doubted_set(untrained: Localizer) -> SupportSet:
    learned = untrained.learn(cut_example())
    return replace(learned, supports=(replace(learned.supports[0], doubts=("The scan seems to be upside down.",)),))


def test_a_set_keeps_doubts_and_cuts_and_tells_of_them(untrained: Localizer) -> None:
    kept = SupportSet.from_json(doubted_set(untrained).to_json())
    assert kept.warnings[0] == "The scan seems to be upside down." and kept.warnings[1].startswith(CUT_BELOW)
    found = untrained.locate(Volume(HU, PHANTOM_GRID), kept)
    assert "Example anna: The scan seems to be upside down." in found.warnings
    both = SupportSet.merge([kept, kept])
    assert both.to_json() == kept.to_json() and both.warnings == kept.warnings


def test_a_set_without_doubts_says_nothing_of_them(untrained: Localizer) -> None:
    (entry,) = json.loads(untrained.learn(phantom_example()).to_json())["supports"]
    assert set(entry) == {"scan", "source", "organs", "surroundings"}
    written = {"extreme_points_ras_mm", "self_error_ras_mm", "context_ras_mm", "latents", "appearance"}
    assert all(set(organ) == written for organ in entry["organs"].values())


@pytest.mark.parametrize(
    ("key", "value"), [("doubts", "upside down"), ("doubts", [7]), ("cut_walls", ["up"]), ("cut_walls", "superior")]
)
def test_damaged_doubts_are_refused(untrained: Localizer, key: str, value: object) -> None:
    content = json.loads(doubted_set(untrained).to_json())
    (entry,) = content["supports"]
    assert key in entry or key in entry["organs"]["lung"]
    (entry if key == "doubts" else entry["organs"]["lung"])[key] = value
    with pytest.raises(library.InputError, match="is not a support set"):
        SupportSet.from_json(json.dumps(content))


def test_what_was_noticed_while_reading_is_told_but_not_written(untrained: Localizer) -> None:
    read = replace(phantom_example(), warnings=("2 slices of /home/doe/ct were straightened.",))
    learned = untrained.learn(read)
    assert learned.warnings == read.warnings
    assert "straightened" not in learned.to_json()


# The scan as a whole


def test_values_that_are_not_ct_are_told_of_an_example_that_was_made_by_hand(untrained: Localizer) -> None:
    plain = phantom_example()
    marked = replace(plain, volume=Volume(mr(HU), PHANTOM_GRID))
    (told,) = untrained.learn(marked).warnings
    assert "does not look like CT" in told
    again = replace(marked, warnings=(told,))
    assert untrained.learn(again).warnings == (told,)


@pytest.mark.slow
def test_the_shipped_weights_doubt_an_example_as_they_doubt_a_query(
    localizer: Localizer, public_pair: Pair, public_organs: SupportSet
) -> None:
    support = public_pair.support
    volume, annotation = support.volume, Annotation(support.annotation.points_ras)
    said = {Kind.MIRRORED: "mirrored", Kind.BACK_TO_FRONT: "hardly looks like", Kind.LIKE_MR: "hardly looks like"}
    for kind, changed in change(volume):
        if kind not in said:
            continue
        learned = localizer.learn(Example(changed, annotation, "anna"))
        doubts = [one for one in learned.warnings if "cut by" not in one]
        as_query = localizer.locate(changed, public_organs, ["heart"]).warnings
        assert doubts == [one for one in as_query if "none of the wanted organs" not in one]
        assert any(said[kind] in one for one in doubts), kind
        found = localizer.locate(public_pair.query.volume, SupportSet.from_json(learned.to_json()), ["heart"])
        assert [one for one in found.warnings if one.startswith("Example anna: ") and said[kind] in one], kind


@pytest.mark.slow
def test_organs_that_a_public_scan_cuts_are_named(
    localizer: Localizer, public_pair: Pair, public_organs: SupportSet
) -> None:
    (told,) = public_organs.warnings
    assert told.startswith("The examples of kidney_right, kidney_left are cut by their scan's lower end, so the boxes")
    cut = {name for name, organ in public_organs.supports[0].organs.items() if organ.cut_walls}
    assert cut == {"kidney_right", "kidney_left"} and not cut & set(CHEST.values()) and cut < set(BELLY.values())
    query = public_pair.query.volume
    assert localizer.locate(query, public_organs, ["heart", "trachea"]).warnings == ()


# Specks


def speckled(*places: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The phantom's labels, and single voxels of bone at some places."""
    labels = LABELS.copy()
    for place in places:
        labels[place] = 1
    return labels


@pytest.mark.parametrize("place", [(0, 0, 0), (29, 23, 19), (0, 12, 10), (15, 23, 10)])
def test_a_stray_voxel_of_a_label_is_left_out_and_told(untrained: Localizer, place: tuple[int, int, int]) -> None:
    assert LABELS[place] == 0
    clean, learned = untrained.learn(phantom_example()), untrained.learn(phantom_example(speckled(place)))
    assert learned.to_json() == clean.to_json()
    (told,) = learned.warnings
    where = ", ".join(f"{mm:.0f}" for mm in PHANTOM_GRID.ras(place))
    assert told.startswith(f"The label of bone has 1 voxel apart from the organ, at RAS ({where}) mm. Such specks")
    assert len(told) < 300


def test_all_specks_of_an_organ_are_counted(untrained: Localizer) -> None:
    learned = untrained.learn(phantom_example(speckled((0, 0, 0), (0, 0, 1), (0, 23, 19))))
    assert learned.to_json() == untrained.learn(phantom_example()).to_json()
    assert "has 3 voxels apart from the organ, the first at RAS (-60, 40, -300) mm." in learned.warnings[0]


def pieces(*boxes: tuple[slice, slice, slice]) -> NDArray[np.uint8]:
    labels = np.zeros(SHAPE, np.uint8)
    for box in boxes:
        labels[box] = 1
    return labels


LARGE = (slice(4, 14), slice(6, 16), slice(4, 14))  # 1000 voxels of 4 x 5 x 6 mm


@pytest.mark.parametrize(
    ("labels", "specks"),
    [
        (pieces(LARGE, (slice(20, 27), slice(6, 16), slice(4, 14))), 0),
        (pieces(LARGE, (slice(24, 26), slice(6, 8), slice(4, 8))), 0),
        (pieces(LARGE, (slice(24, 26), slice(6, 8), slice(4, 6))), 8),
        (pieces(LARGE, (slice(15, 16), slice(8, 9), slice(8, 9))), 0),
        (pieces(LARGE, (slice(17, 18), slice(8, 9), slice(8, 9))), 1),
        (pieces((slice(4, 7), slice(6, 9), slice(4, 7)), (slice(24, 25), slice(8, 9), slice(8, 9))), 1),
        (pieces((slice(4, 6), slice(6, 8), slice(4, 6)), (slice(24, 25), slice(8, 9), slice(8, 9))), 0),
        (pieces(LARGE, (slice(20, 27), slice(6, 16), slice(4, 14)), (slice(28, 29), slice(8, 9), slice(8, 9))), 0),
    ],
    ids=[
        "a pair of organs",
        "1.6 % of the largest piece",
        "0.8 %, far away",
        "a crumb 8 mm away",
        "a crumb 16 mm away",
        "one voxel beside 27",
        "one voxel beside eight",
        "a crumb beside the smaller of a pair",
    ],
)
def test_what_is_small_and_far_from_the_organ_is_a_speck(
    untrained: Localizer, labels: NDArray[np.uint8], specks: int
) -> None:
    learned = untrained.learn(phantom_example(labels, organ=1))
    told = [one for one in learned.warnings if "specks are left out" in one]
    assert [one.split(" voxel")[0] for one in told] == ([f"The label of organ has {specks}"] if specks else [])
    kept = labels == 1
    if specks:
        kept[20 if specks == 8 else 16 :] = False
    expected = Box.from_extreme_points(extreme_points_of_mask(kept, PHANTOM_GRID))
    assert learned.supports[0].organs["organ"].box.same_as(expected, 1e-3)


@pytest.mark.parametrize(
    ("beside", "doubted"),
    [
        ((slice(24, 26), slice(6, 8), slice(4, 8)), "has 16 voxels apart"),  # of 1000
        ((slice(14, 15), slice(18, 22), slice(4, 8)), "has 16 voxels apart"),
        ((slice(15, 16), slice(6, 10), slice(4, 8)), ""),  # within 10 mm
        ((slice(20, 27), slice(6, 16), slice(4, 14)), "lies in large pieces, 24 mm apart"),  # a pair
        ((slice(15, 22), slice(6, 16), slice(4, 14)), ""),  # a pair 4 mm apart
    ],
)
def test_a_piece_too_large_for_a_speck_is_kept_and_told(
    untrained: Localizer, beside: tuple[slice, slice, slice], doubted: str
) -> None:
    labels = pieces(LARGE, beside)
    learned = untrained.learn(phantom_example(labels, organ=1))
    expected = Box.from_extreme_points(extreme_points_of_mask(labels == 1, PHANTOM_GRID))
    assert learned.supports[0].organs["organ"].box.same_as(expected, 1e-3)
    told = [one for one in learned.warnings if "The box spans them" in one]
    assert [doubted in one for one in told] == ([True] if doubted else [])
    kept = SupportSet.from_json(learned.to_json()).warnings  # a pair is none the worse in other scans
    assert [one for one in kept if "The box spans them" in one] == (told if "voxels" in doubted else [])


# Every door


def test_support_build_and_locate_tell_on_stderr(example: ExampleFiles, tmp_path: Path) -> None:
    labels = CUT.copy()
    labels[0, 0, -1] = 2
    options = write(cut_example(), labels, tmp_path)
    built = rprloc("support", "build", *options, "--model", example.weights, "--device", "cpu")
    assert built.exit_code == 0
    assert f"Warning: image.nii.gz: {CUT_BELOW}" in flat(built.stderr)
    assert "The label of lung has 1 voxel apart from the organ" in flat(built.stderr)
    weights = ["--model", example.weights, "--device", "cpu", "--out", tmp_path / "found"]
    located = rprloc("locate", tmp_path / "set.json", example.image, *weights)
    assert located.exit_code == 0 and CUT_BELOW in flat(located.stderr)
    found = library.Detections.load(tmp_path / "found" / "anna.detections.json")
    assert any(one.startswith(CUT_BELOW) for one in found.warnings)


def test_the_server_answers_a_build_with_its_warnings(
    example: ExampleFiles, untrained: Localizer, tmp_path: Path
) -> None:
    cut = replace(cut_example(), volume=Volume(mr(HU), PHANTOM_GRID))
    write(cut, CUT, tmp_path)
    points = {"lung": cut.annotation.points_ras["lung"].tolist()}
    out = str(tmp_path / "set.json")
    build = {"command": "build", "image": str(tmp_path / "image.nii.gz"), "points_ras_mm": points, "out": out}
    events: list[dict[str, Any]] = []
    Server(untrained, events.append).run([json.dumps(build), json.dumps({"command": "show", "set": out})])
    built, shown = [event["result"] for event in events if event["event"] == "result"]
    assert len(built["warnings"]) == 2
    assert "does not look like CT" in built["warnings"][0] and built["warnings"][1].startswith(CUT_BELOW)
    assert shown["warnings"] == built["warnings"][1:]


def test_of_several_examples_each_doubt_names_its_own(untrained: Localizer) -> None:
    sets = [untrained.learn(cut_example(name)) for name in ("anna", "bert")]
    merged = SupportSet.merge([*sets, untrained.learn(phantom_example(name="cleo"))])
    assert merged.warnings == tuple(f"Example {name}: {sets[0].warnings[0]}" for name in ("anna", "bert"))


def test_a_doubted_piece_is_told_with_what_is_found_by_it(untrained: Localizer) -> None:
    """Not with what is found of other organs."""
    labels = pieces(LARGE, (slice(24, 26), slice(6, 8), slice(4, 8)))
    labels[5:9, 18:22, 14:18] = 2
    learned = SupportSet.from_json(untrained.learn(phantom_example(labels, organ=1, other=2)).to_json())
    (told,) = [text for text in learned.warnings if "has 16 voxels apart" in text]
    for organs, count in ((None, 1), (["organ"], 1), (["other"], 0)):
        found = untrained.locate(Volume(HU, PHANTOM_GRID), learned, organs)
        assert [f"Example anna: {told}" == text for text in found.warnings].count(True) == count


@pytest.mark.parametrize(("apart_vox", "told"), [(3, False), (6, True)])
def test_pieces_in_a_row_are_measured_from_each_to_the_nearest(
    untrained: Localizer, apart_vox: int, told: bool
) -> None:
    """Vertebrae under one label are as far apart as neighbours are: 12 mm, or 24."""
    row = [slice(first, first + 4) for first in (4, 8 + apart_vox, 12 + 2 * apart_vox)]
    learned = untrained.learn(phantom_example(pieces(*((i, slice(6, 16), slice(4, 14)) for i in row)), organ=1))
    assert [text for text in learned.warnings if "large pieces, 24 mm apart" in text or "large pieces" in text] == (
        [learned.warnings[0]] if told else []
    )
    assert not told or "24 mm apart" in learned.warnings[0]
