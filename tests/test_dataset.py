"""Which scans a training reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rprloc.errors import InputError
from rprloc.io.dataset import scans_below, training_files


def test_images_at_any_depth_and_folders_of_other_files_are_scans(tmp_path: Path) -> None:
    for name in (
        "a.nii.gz",
        "ward/b.NRRD",
        "ward/c.mha",
        "ward/notes.txt",
        "pacs/read me",
        "pacs/7/IM0001",
        "pacs/7/IM0002",
        ".trash/d.nii",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM" if "IM" in name else b"")
    found = scans_below(tmp_path)
    assert sorted(file.name for file in found) == ["a.nii.gz", "pacs/7", "ward/b.NRRD", "ward/c.mha"]
    assert {file.path for file in found} == {tmp_path / file.name for file in found}
    assert [file.name for file in scans_below(tmp_path)] == [file.name for file in found]


def test_a_folder_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        scans_below(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no files"):
        scans_below(tmp_path)


def test_a_split_may_be_empty_but_train_may_not(tmp_path: Path) -> None:
    path = tmp_path / "datasets.json"
    path.write_text(json.dumps({"chest": {"labels": {}, "cases": {"a": {"split": "train", "targets": []}}}}))
    assert [file.path for file in training_files(path)] == [tmp_path / "chest" / "images" / "a.nii.gz"]
    assert training_files(path, "val") == []
    path.write_text(json.dumps({"chest": {"labels": {}, "cases": {"a": {"split": "test", "targets": []}}}}))
    with pytest.raises(InputError, match="no case of split train"):
        training_files(path)
