"""Label maps on the grid of their image, and the names of their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rprloc.geometry import Grid
from rprloc.io.label_names import read_names
from rprloc.io.mask_files import read_label_map
from rprloc.volume import Volume
from tests.images import write
from tests.phantoms import SHAPE
from tests.refusals import refusal


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_a_label_map_comes_as_integers(tmp_path: Path, phantom: Volume, dtype: type) -> None:
    labels = (phantom.hu > -500).astype(dtype) * 3
    found = read_label_map(write(tmp_path / "labels.nii.gz", labels, phantom.grid.ras_from_ijk), phantom.grid)
    assert np.issubdtype(found.dtype, np.integer)
    np.testing.assert_array_equal(found, labels)


def test_a_label_map_stored_otherwise_is_put_into_the_order_of_its_image(
    tmp_path: Path, phantom: Volume, ras_from_ijk: np.ndarray, store_otherwise
) -> None:
    labels, grid = np.arange(phantom.hu.size, dtype=np.int32).reshape(SHAPE), Grid(SHAPE, ras_from_ijk)
    stored, stored_grid = store_otherwise(labels, grid)
    path = write(tmp_path / "labels.nrrd", stored, stored_grid.ras_from_ijk)
    np.testing.assert_array_equal(read_label_map(path, grid), labels)


def shifted(grid: Grid, off_mm: float) -> Grid:
    affine = grid.ras_from_ijk.copy()
    affine[1, 3] += off_mm
    return Grid(grid.shape, affine)


@pytest.mark.parametrize(
    "elsewhere",
    [
        lambda grid: grid.cropped((1, 0, 0), (29, 24, 20)),
        lambda grid: grid.cropped((1, 0, 0), grid.shape),
        lambda grid: shifted(grid, 0.2),
        lambda grid: Grid(grid.shape, grid.ras_from_ijk @ np.diag([1.01, 1, 1, 1])),
        lambda grid: Grid(grid.shape, grid.ras_from_ijk @ np.diag([-1.0, 1, 1, 1])),
        lambda grid: Grid(grid.shape, grid.ras_from_ijk[:, [1, 0, 2, 3]]),
    ],
    ids=["smaller", "one voxel off", "0.2 mm off", "other spacing", "mirrored at the first voxel", "axes swapped"],
)
def test_a_label_map_of_another_grid_is_refused(tmp_path: Path, phantom: Volume, elsewhere, store_otherwise) -> None:
    labels, grid = store_otherwise((phantom.hu > 0).astype(np.uint8), phantom.grid)
    path = write(tmp_path / "labels.nrrd", labels, grid.ras_from_ijk)
    other = elsewhere(phantom.grid)
    size = " x ".join(map(str, other.shape))
    refusal(lambda: read_label_map(path, other), str(path), f"the image {size} voxels", "reference")
    assert read_label_map(path, shifted(phantom.grid, 0.05)).shape == SHAPE


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_a_label_map_with_fractions_is_refused(tmp_path: Path, phantom: Volume, value: float) -> None:
    labels = np.zeros(SHAPE, np.float32)
    labels[1, 2, 3] = value
    path = write(tmp_path / "labels.mha", labels, phantom.grid.ras_from_ijk)
    refusal(lambda: read_label_map(path, phantom.grid), str(path), "fractions")


def test_a_folder_is_no_label_map(tmp_path: Path, phantom: Volume) -> None:
    refusal(lambda: read_label_map(tmp_path, phantom.grid), str(tmp_path), "is a folder")


def test_names_are_read_by_label(tmp_path: Path) -> None:
    path = tmp_path / "NAMES.json"
    path.write_text('{"2": "liver", "10": "rene sinistro è"}', encoding="utf-8")
    assert read_names(path) == {2: "liver", 10: "rene sinistro è"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"liver": 1, "background": 0, "spleen": 2}', {1: "liver", 2: "spleen"}),
        ('{"0": "Background", "1": "liver"}', {1: "liver"}),
        ('{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 3}', {1: "liver"}),
        ('{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}}', {1: "liver"}),
        ('{"Lt Kidney ": "kidney_left", "L1": "vertebra"}', {"Lt Kidney": "kidney_left", "L1": "vertebra"}),
    ],
)
def test_names_are_read_in_the_shapes_that_are_common(tmp_path: Path, text: str, names: dict[int | str, str]) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(text, encoding="utf-8")
    assert read_names(path) == names


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ('["liver"]', "no label names"),
        ('[["1", "liver"]]', "no label names"),
        ("{}", "no label names"),
        ('"liver"', "no label names"),
        ("{'1': 'liver'}", "not valid JSON"),
        ('{"1": "liver"', "not valid JSON"),
        ('{"0": "background"}', "no label names"),
        ('{"0": "liver"}', "'0'"),
        ('{"liver": 0}', "'liver'"),
        ('{"liver": -1}', "'liver'"),
        ('{"liver": true}', "no name for label liver"),
        ('{"liver": [1, 2]}', "no name for label liver"),
        ('{"labels": {}}', "no label names"),
        ('{"labels": []}', "no label names"),
        ('{"labels": ["liver"]}', "no label names"),
        ('{"labels": {"background": 0}}', "no label names"),
        ('{"liver": 1, "spleen": 1}', "label 1 ('spleen') twice"),
        ('{"a": "liver", "b": "liver"}', "label b ('liver') twice"),
        ('{"-1": "liver"}', "'-1'"),
        ('{"1.0": "liver"}', "'1.0'"),
        ('{"1": 5}', "no name for label 1"),
        ('{"1": " "}', "no name for label 1"),
        ('{"1": {"name": "liver"}}', "no name for label 1"),
        ('{"1": "liver", "2": "liver"}', "label 2 ('liver') twice"),
        ('{"1": "liver", "1": "spleen"}', "label 1 ('spleen') twice"),
        ('{"1": "liver", "01": "spleen"}', "label 1 ('spleen') twice"),
        ("", "is empty"),
    ],
)
def test_names_that_are_not_clear_are_refused(tmp_path: Path, text: str, about: str) -> None:
    path = tmp_path / "NAMES.json"
    path.write_text(text)
    refusal(lambda: read_names(path), str(path), about)


def test_missing_and_binary_name_files_are_refused(tmp_path: Path) -> None:
    refusal(lambda: read_names(tmp_path / "NAMES.json"), "There is no")
    (tmp_path / "NAMES.json").write_bytes(b"\xff\xfe\x00\x80")
    refusal(lambda: read_names(tmp_path / "NAMES.json"), "not valid JSON")
