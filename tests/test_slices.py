"""The small slices frame the organ where it is, for scans stored in any orientation; files of any organ's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from rprloc.errors import InputError
from rprloc.files import atomic_folder, name_files
from rprloc.geometry import Box, Grid
from rprloc.io.colours import organ_colour
from rprloc.io.slices import EDGE, GAP, list_slices, save_slices
from rprloc.volume import Volume
from tests.test_crops import detections_of
from tests.test_export import AXES, grid_around_origin, inside, rectangle

# Bright, to the patient's right, to the back and to the head, and of three different lengths.
BOX = Box([20, -40, 8], [44, -12, 48])


def panels(path: Path) -> list[np.ndarray]:
    """The three slices (EDGE, EDGE, 3) of a picture."""
    pixels = imread(path).astype(int)
    assert pixels.shape == (EDGE, 3 * EDGE + 2 * GAP, 3)
    return [pixels[:, start : start + EDGE] for start in range(0, 3 * (EDGE + GAP), EDGE + GAP)]


@pytest.mark.parametrize("name", AXES)
def test_slices_frame_the_organ_in_radiological_display(tmp_path: Path, name: str) -> None:
    grid = grid_around_origin(AXES[name], 120)
    bright = Box(BOX.min_ras + 4, BOX.max_ras - 4)
    hu = np.where(inside(grid, bright), 240, -160).astype(np.int16)
    hu[inside(grid, Box(BOX.centre_ras - 1, bright.max_ras))] = 40  # the quarter to the right, front and head is grey
    save_slices(tmp_path, Volume(hu, grid), detections_of({"organ": BOX}))
    colour = np.rint(255 * np.array(organ_colour(0)))
    mm = EDGE / 120.0  # pixels
    for part, (across_mm, up_mm) in zip(panels(tmp_path / "organ.jpg"), ((24, 28), (24, 40), (28, 40)), strict=True):
        outline = np.abs(part - colour).sum(-1) < 110  # JPEG blurs colours
        top, bottom, left, right = rectangle(outline)
        half = 0.5 * np.array([-up_mm, up_mm, -across_mm, across_mm]) * mm
        np.testing.assert_allclose([top, bottom + 1, left, right + 1], EDGE / 2 + half, atol=2.0)
        grey = part.mean(-1)
        assert grey[: top - 6].max() < 40 and grey[bottom + 7 :].max() < 40  # the organ lies inside of its outline
        # Of the four quarters around the middle that one is grey which lies to the patient's right, front and head.
        quarters = {
            (row, column): grey[slice(*rows), slice(*columns)].mean()
            for row, rows in (("top", (EDGE // 2 - 12, EDGE // 2 - 4)), ("bottom", (EDGE // 2 + 4, EDGE // 2 + 12)))
            for column, columns in (
                ("left", (EDGE // 2 - 12, EDGE // 2 - 4)),
                ("right", (EDGE // 2 + 4, EDGE // 2 + 12)),
            )
        }
        assert min(quarters, key=lambda quarter: quarters[quarter]) == ("top", "left"), quarters


def test_a_box_at_the_end_of_a_scan_and_a_large_one_are_drawn(tmp_path: Path) -> None:
    grid = Grid.isotropic((50, 50, 50), 2.0, [-49, -49, -49])
    volume = Volume(np.full(grid.shape, 40, np.int16), grid)
    beyond, large = Box([30, 30, 30], [90, 90, 90]), Box([-400, -20, -20], [400, 20, 20])
    save_slices(tmp_path, volume, detections_of({"absent": None, "beyond": beyond, "large": large}))
    assert [path.name for path in list_slices(tmp_path)] == ["beyond.jpg", "large.jpg"]
    for index, name in enumerate(("beyond", "large")):
        outline = (
            np.abs(panels(tmp_path / f"{name}.jpg")[0] - np.rint(255 * np.array(organ_colour(index)))).sum(-1) < 110
        )
        assert outline.sum() > 100


def test_the_same_slices_are_the_same_file(tmp_path: Path) -> None:
    grid = grid_around_origin(AXES["oblique"], 120)
    for folder in ("a", "b"):
        save_slices(tmp_path / folder, Volume(inside(grid, BOX).astype(np.int16), grid), detections_of({"organ": BOX}))
    assert (tmp_path / "a" / "organ.jpg").read_bytes() == (tmp_path / "b" / "organ.jpg").read_bytes()


def test_names_of_files_are_plain_different_and_fit() -> None:
    names = ["liver", "Liver", "a/b", "a b", "a\\b", "", ".", "..", "ä", "\ud800", "n" * 400, "n" * 401, "a_b-2"]
    named = name_files(names)
    assert list(named) == names and named["liver"] == "liver"
    assert len({name.casefold() for name in named.values()}) == len(names)
    for name in named.values():
        assert name and not set(name) & set('./\\ :*?"<>|') and len(name.encode()) <= 230


def test_files_in_subfolders_move_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("old.txt", "kept.txt"):
        (tmp_path / "sub" / name).write_text(name)

    def write(end: str) -> None:
        with atomic_folder(tmp_path, "last", [tmp_path / "sub" / "old.txt"]) as temporary:
            for name in ("sub/new.txt", "other/new.txt", "last"):
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_text("new")
            if end == "fails":
                raise RuntimeError

    with pytest.raises(RuntimeError):
        write("fails")
    assert {path.name for path in tmp_path.rglob("*")} == {"sub", "old.txt", "kept.txt"}
    (tmp_path / "sub" / "new.txt").mkdir()
    with pytest.raises(InputError, match="it is a folder"):
        write("is in the way")
    (tmp_path / "sub" / "new.txt").rmdir()
    assert {path.name for path in tmp_path.rglob("*.txt")} == {"old.txt", "kept.txt"}
    write("ends")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        "last",
        "other/new.txt",
        "sub/kept.txt",
        "sub/new.txt",
    ]
