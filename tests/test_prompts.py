"""The file of prompts tells the boxes in the voxels that a scan's file stores, as segmenting programs take them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.geometry import Box, Grid
from rprloc.io.reading import Scan
from rprloc.io.results import write_results
from rprloc.volume import to_sitk
from tests.phantoms import SHAPE, Affine
from tests.test_crops import boxes_in, covered_by, detections_of, numbered

ROOT = Path(__file__).resolve().parents[1]


def prompts_of(folder: Path, affine: Affine) -> tuple[dict[str, Any], dict[str, Box]]:
    """A scan as a NIfTI file, and its prompts; one organ is absent, one lies elsewhere."""
    volume = numbered(affine)
    boxes = boxes_in(volume.grid)
    away = volume.grid.bounds.max_ras + 50.0
    found = detections_of(boxes | {"absent": None, "outside": Box(away, away + 5.0)})
    write_results(folder, Scan(volume), found, prompts=True)
    sitk.WriteImage(to_sitk(volume.hu, volume.grid), folder / "bert.nii.gz")
    return json.loads((folder / "bert.prompts.json").read_text(encoding="utf-8")), boxes


def test_ranges_are_those_of_the_stored_file_in_every_orientation(tmp_path: Path, ras_from_ijk: Affine) -> None:
    prompts, boxes = prompts_of(tmp_path, ras_from_ijk)
    image = nibabel.load(tmp_path / "bert.nii.gz")
    stored = Grid(image.shape, image.affine)
    assert stored.same_as(Grid(prompts["shape"], prompts["ras_from_ijk"]), 1e-3)
    assert (prompts["absent"], prompts["outside"]) == (["absent"], ["outside"])
    assert [prompt["organ"] for prompt in prompts["boxes"]] == list(boxes)
    for prompt in prompts["boxes"]:
        block = np.array(prompt["ijk"])
        held = np.zeros(SHAPE, bool)
        held[tuple(slice(*part) for part in block)] = True
        assert (
            block.min() >= 0
            and (block[:, 1] <= SHAPE).all()
            and held[covered_by(stored, boxes[prompt["organ"]], 0)].all()
        )
        # No layer of the block lies wholly outside of the box's own corners.
        box = boxes[prompt["organ"]]
        corners = np.stack(np.meshgrid(*np.stack([box.min_ras, box.max_ras], 1)), -1).reshape(-1, 3)
        low, high = stored.ijk(corners).min(0), stored.ijk(corners).max(0)
        assert (block[:, 0] > low - 1.0 + 0.5 - 1e-3).all() or (block[:, 0] == 0).any()
        assert ((block[:, 1] - 1 < high + 0.5 + 1e-3) | (block[:, 1] == SHAPE)).all()


def test_the_axial_slice_lies_across_the_body_in_the_middle_of_the_box(tmp_path: Path, ras_from_ijk: Affine) -> None:
    prompts, _ = prompts_of(tmp_path, ras_from_ijk)
    axis = prompts["axial_axis"]
    steps_mm = np.array(prompts["ras_from_ijk"])[2, :3] / np.linalg.norm(
        np.array(prompts["ras_from_ijk"])[:3, :3], axis=0
    )
    assert axis == np.abs(steps_mm).argmax()
    for prompt in prompts["boxes"]:
        whole, axial = np.array(prompt["ijk"]), np.array(prompt["axial_slice_ijk"])
        others = [other for other in range(3) if other != axis]
        np.testing.assert_array_equal(axial[others], whole[others])
        (first, end), (at, behind) = whole[axis], axial[axis]
        assert behind == at + 1 and first <= at < end and abs(at + 0.5 - (first + end) / 2) <= 0.5


def test_axes_stay_different_where_two_run_equally_along_the_body() -> None:
    slanted = np.array([[1.0, 0, 0], [0, 1, -1], [0, 1, 1]]) / [1, np.sqrt(2), np.sqrt(2)]
    affine = np.eye(4)
    affine[:3, :3] = slanted
    assert sorted(Grid(SHAPE, affine).axis_along(axis) for axis in range(3)) == [0, 1, 2]


def test_where_nothing_is_located_the_file_says_so(tmp_path: Path) -> None:
    write_results(tmp_path, Scan(numbered(np.eye(4))), detections_of({"heart": None}), prompts=True)
    prompts = json.loads((tmp_path / "bert.prompts.json").read_text())
    assert (prompts["boxes"], prompts["absent"]) == ([], ["heart"])


class Session:
    """Takes boxes as nnInteractive 2.6 does: half-open ranges, one voxel thick for models that know slices alone."""

    def __init__(self) -> None:
        self.image, self.boxes = np.empty(0), []

    def set_image(self, image: np.ndarray) -> None:
        assert image.ndim == 4
        self.image = image

    def add_bbox_interaction(self, bbox_coords: list[list[int]], include_interaction: bool) -> None:
        sizes = [end - first for first, end in bbox_coords]
        assert include_interaction and 1 in sizes and min(sizes) > 0
        self.boxes.append(bbox_coords)

    def set_target_buffer(self, target_buffer: np.ndarray) -> None:
        assert target_buffer.shape == self.image.shape[1:]

    def reset_interactions(self) -> None:
        pass


@pytest.mark.parametrize("affine", [np.diag([-1.0, -2, 3, 1]), np.eye(4)[[2, 0, 1, 3]]], ids=["LPS", "permuted"])
def test_the_lines_of_the_page_feed_the_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, affine: np.ndarray
) -> None:
    """The page's own Python, with something in place of a network that takes what the programs take."""
    prompts, _ = prompts_of(tmp_path, affine)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "after-a-box.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    feeding = [block for block in blocks if "prompts.json" in block]
    assert len(feeding) == 2 and all(block.count("\n") <= 20 for block in feeding)
    for block in feeding:
        block = block.replace("results/", "")
        known: dict[str, Any] = {"session": Session()}
        exec(compile(block, "after-a-box.md", "exec"), known)
        if "session." in block:
            taken = [ranges[::-1] for ranges in known["session"].boxes]
            assert taken == [prompt["axial_slice_ijk"] for prompt in prompts["boxes"]]
            assert known["session"].image.shape == (1, *SHAPE[::-1])
            continue
        data = np.load(tmp_path / "bert.npz", allow_pickle=True)
        imgs, axis = data["imgs"], prompts["axial_axis"]
        rest = [other for other in range(3) if other != axis]
        assert imgs.dtype == np.uint8 and imgs.shape == (SHAPE[axis], SHAPE[rest[1]], SHAPE[rest[0]])
        spacing = np.linalg.norm(np.array(prompts["ras_from_ijk"])[:3, :3], axis=0)
        np.testing.assert_allclose(data["spacing"], spacing[[axis, rest[1], rest[0]]])
        for prompt, box in zip(prompts["boxes"], data["boxes"], strict=True):
            ranges = [[box["z_min"], box["z_max"] + 1], [box["z_mid_x_min"], box["z_mid_x_max"] + 1]]
            ranges += [[box["z_mid_y_min"], box["z_mid_y_max"] + 1]]
            assert ranges == [prompt["ijk"][along] for along in (axis, *rest)]
            assert box["z_mid"] == prompt["axial_slice_ijk"][axis][0]
