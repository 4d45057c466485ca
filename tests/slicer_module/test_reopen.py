"""Results in a folder are listed and opened again, each with the scan that was searched and no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.apps.batch import JOURNALS
from rprloc.detection import AbsentOrgan, Detections, LandmarkDetection, Presence
from rprloc.errors import InputError
from rprloc.geometry import Box, Grid
from rprloc.io.reading import read_volume
from rprloc.volume import to_sitk
from tests.boxes import points_of
from tests.command_line import rprloc
from tests.dicoms import SERIES, write_series
from tests.example import ExampleFiles
from tests.phantoms import Affine, phantom_hu
from tests.slicer_module.findings import detection, landmark
from tests.slicer_module.scenes import NO_SLICER, Nobody, Scene, mark, run_to_end

pytest.importorskip("slicer", reason=NO_SLICER)
import slicer

from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.handover import same_voxels
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.reopen import FolderResults
from SlicerRPRLocLib.weights import modality_of_scan

GRID = Grid((60, 44, 44), np.diag([4.0, 5.0, 6.0, 1.0]))


@pytest.fixture
def loaded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was loaded, by Slicer's reader of volumes; its desktop has the function around it."""
    files: list[Path] = []

    def load(path: str, properties: dict[str, Any]) -> Any:
        files.append(Path(path))
        return scene.load(Path(path), properties["name"])

    monkeypatch.setattr(slicer.util, "loadVolume", load)
    return files


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of scans and one of results."""
    for name in ("scans", "out"):
        (tmp_path / name).mkdir()
    return tmp_path / "scans", tmp_path / "out"


@pytest.fixture
def logic(scene: Scene) -> RPRLocLogic:
    return RPRLocLogic(scene.mrml, Nobody())


def write_scan(path: Path, grid: Grid = GRID) -> Path:
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(to_sitk(phantom_hu(grid), grid), path)
    return path


def found_in(path: Path, error_mm: float = 4.0) -> Detections:
    """What could have been found in a file: a heart in its middle, and no brain."""
    grid = read_volume(path).grid
    middle_ras, half_mm = grid.bounds.centre_ras, 0.2 * grid.bounds.size_mm
    heart = detection("heart", points_of(Box(middle_ras - half_mm, middle_ras + half_mm)), error_mm)
    absent = AbsentOrgan("brain", Presence(0.0, 0.02, 0.98), ("anna",))
    return Detections("x", (heart, absent), "m", "s", grid=grid)


def test_results_of_a_run_in_a_folder_come_back_one_by_one(
    scene: Scene, child: Any, example: ExampleFiles, folders: tuple[Path, Path], loaded: list[Path]
) -> None:
    scans, out = folders
    for name in ("bert.nii.gz", "carla.nii.gz"):
        shutil.copy(example.image, scans / name)
    write_series(scans / "dora", read_volume(example.image).hu)
    logic = RPRLocLogic(scene.mrml, child)
    mark(logic, scene.load(example.image, "anna"))
    logic.locate_in_folder(scans, out)
    assert not run_to_end(logic).failed
    folder = FolderResults(out, scans)
    assert {entry.name for entry in folder.entries} == {"bert", "carla", "dora"} and loaded == []
    for name in ("carla", "dora"):
        assert logic.open_result(folder, name).startswith(f"{name} is open.")
        volume = nodes.volume_of(logic.results.rois()[-1])
        wanted = Detections.load(out / f"{name}.detections.json")
        assert volume.GetName() == name and same_voxels(wanted.grid, nodes.grid_of(volume))
        assert nodes.box_of_roi(logic.results.roi(volume, "bone")).same_as(wanted.boxes["bone"], 1e-3)
    assert loaded == [scans / "carla.nii.gz"]
    np.testing.assert_array_equal(nodes.volume_from_node(volume).hu, read_volume(scans / "dora").hu)
    logic.history.undo()  # opening is one step
    assert [nodes.volume_of(roi).GetName() for roi in logic.results.rois()] == ["carla"]
    logic._child = Nobody()


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_the_scan_is_known_again_however_it_is_stored(
    scene: Scene, logic: RPRLocLogic, folders: tuple[Path, Path], loaded: list[Path], ras_from_ijk: Affine, ending: str
) -> None:
    """Slicer turns an axis of a left-handed image round when it loads it."""
    scans, out = folders
    path = write_scan(scans / f"bert{ending}", Grid(GRID.shape, ras_from_ijk))
    found = found_in(path)
    found.save(out / "bert.detections.json")
    told = logic.open_result(FolderResults(out, scans), "bert")
    (roi,) = logic.results.rois()
    assert nodes.box_of_roi(roi).same_as(found.boxes["heart"], 1e-3)
    assert "brain is not in the scan" in told
    assert [(row.organ, row.size == "absent") for row in logic.results.rows()] == [("heart", False), ("brain", True)]


def test_the_list_tells_what_to_doubt_first_and_loads_nothing(
    scene: Scene, folders: tuple[Path, Path], loaded: list[Path]
) -> None:
    scans, out = folders
    path = write_scan(scans / "good.nii.gz")
    found = found_in(path, 3.0)
    found.save(out / "good.detections.json")
    tip = LandmarkDetection("tip", GRID.bounds.centre_ras, 1.0, 3, ("a",), 21.0, 0.9)
    doubtful = replace(found_in(path, 17.0), warnings=("odd", "odder"), landmarks=(tip,))
    doubtful.save(out / "doubtful.detections.json")
    replace(found, organs=()).save(out / "empty.detections.json")
    (out / "damaged.detections.json").write_text("{", encoding="utf-8")
    found.save(out / "failed.detections.json")  # of an earlier run
    (out / "failed.failed.json").write_text(json.dumps({"query": "failed", "error": "No body.", "run": "1"}))
    (out / "worse.failed.json").write_text("[]", encoding="utf-8")
    folder = FolderResults(out)
    assert [entry.text for entry in folder.entries] == [
        "doubtful: up to 21 mm off, 1 not in the scan, 2 warnings",
        "good: up to 3 mm off, 1 not in the scan",
        "empty: nothing to tell",
        "damaged: damaged",
        "failed: failed",
        "worse: failed",
    ]
    assert loaded == []
    logic, before = RPRLocLogic(scene.mrml, Nobody()), scene.content()
    for name, sentence in {"damaged": "is not JSON", "failed": "No body.", "worse": "damaged"}.items():
        with pytest.raises(InputError, match=f"{name} cannot be opened.*{sentence}"):
            logic.open_result(folder, name)
    with pytest.raises(InputError, match="Choose the folder in the field 'Scans in'"):
        logic.open_result(folder, "good")
    assert scene.content() == before


@pytest.mark.parametrize("kind", ["file", "DICOM"])
def test_another_scan_under_the_same_name_is_refused(
    scene: Scene, logic: RPRLocLogic, folders: tuple[Path, Path], loaded: list[Path], kind: str
) -> None:
    scans, out = folders
    shifted = np.array(GRID.ras_from_ijk)
    shifted[:3, 3] += [0.0, 0.0, 1.0]
    if kind == "file":
        path = write_scan(scans / "bert.nii.gz")
        found_in(path).save(out / "bert.detections.json")
        write_scan(path, Grid(GRID.shape, shifted))
    else:
        write_series(scans / "bert", phantom_hu(GRID))
        found_in(scans / "bert").save(out / "bert.detections.json")
        shutil.rmtree(scans / "bert")
        write_series(scans / "bert", phantom_hu(GRID), SERIES["oblique"])
    before = scene.content()
    with pytest.raises(InputError, match="is not the scan that was searched"):
        logic.open_result(FolderResults(out, scans), "bert")
    assert scene.content() == before and loaded == []


def test_a_scan_that_slicer_puts_elsewhere_is_taken_away_again(
    scene: Scene, logic: RPRLocLogic, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, out = folders
    found_in(write_scan(scans / "bert.nii.gz")).save(out / "bert.detections.json")
    elsewhere = Grid(GRID.shape, np.diag([1.0, 1.0, 1.0, 1.0]))
    monkeypatch.setattr(
        slicer.util,
        "loadVolume",
        lambda path, properties: scene.add_volume(np.zeros(GRID.shape, np.int16), elsewhere, properties["name"]),
    )
    with pytest.raises(InputError, match="is not the scan that was searched"):
        logic.open_result(FolderResults(out, scans), "bert")
    assert nodes.scans(scene.mrml) == [] and logic.results.rois() == []


def test_a_scan_that_is_gone_or_is_there_twice_is_told(
    scene: Scene, logic: RPRLocLogic, folders: tuple[Path, Path], loaded: list[Path]
) -> None:
    scans, out = folders
    path = write_scan(scans / "bert.nii.gz")
    found_in(path).save(out / "bert.detections.json")
    shutil.copy(path, scans / "other.nii.gz")
    path.unlink()
    with pytest.raises(InputError, match=r"No scan is called bert below .*scans"):
        logic.open_result(FolderResults(out, scans), "bert")
    for place in ("a", "b"):
        write_scan(scans / place / "bert.nii.gz")
    with pytest.raises(InputError, match="2 scans are called bert"):
        logic.open_result(FolderResults(out, scans), "bert")
    with pytest.raises(InputError, match="There is no folder"):
        logic.open_result(FolderResults(out, scans / "missing"), "bert")
    for nothing, sentence in ((Path(), "is chosen"), (out / "missing", "There is no"), (scans, "holds no results")):
        with pytest.raises(InputError, match=sentence):
            FolderResults(nothing)
    assert loaded == []


def test_a_scan_that_is_there_already_is_not_loaded_again_and_a_corrected_box_stays(
    scene: Scene, logic: RPRLocLogic, folders: tuple[Path, Path], loaded: list[Path]
) -> None:
    scans, out = folders
    path = write_scan(scans / "bert.nii.gz")
    found_in(path).save(out / "bert.detections.json")
    by_hand = scene.load(path, "loaded by hand")
    folder = FolderResults(out, scans)
    logic.open_result(folder, "bert")
    (roi,) = logic.results.rois()
    assert loaded == [] and nodes.volume_of(roi) is by_hand
    roi.SetSize(5.0, 6.0, 7.0)
    assert "corrected by hand" in logic.open_result(folder, "bert") and roi.GetSize() == (5.0, 6.0, 7.0)
    scene.transform(np.diag([1.0, 1.0, 1.0, 1.0]) + np.eye(4, k=3) * 30.0, by_hand)  # it lies elsewhere now
    logic.open_result(folder, "bert")
    assert loaded == [path] and len(logic.results.rois()) == 2


def test_what_was_ticked_stays_so_when_the_same_results_are_opened_again(
    scene: Scene, logic: RPRLocLogic, folders: tuple[Path, Path], loaded: list[Path]
) -> None:
    scans, out = folders
    path = write_scan(scans / "bert.nii.gz")
    found = replace(found_in(path), landmarks=(landmark("tip", GRID.bounds.centre_ras),))
    found.save(out / "bert.detections.json")
    logic.open_result(FolderResults(out, scans), "bert")
    for row in logic.results.rows():
        logic.results.check(row.key, True)
    logic.open_result(FolderResults(out, scans), "bert")
    assert [row.checked for row in logic.results.rows()] == [True, True, True]
    replace(found_in(path, 5.0), landmarks=found.landmarks).save(out / "bert.detections.json")  # another heart
    logic.open_result(FolderResults(out, scans), "bert")
    assert {row.organ: row.checked for row in logic.results.rows()} == {"heart": False, "tip": True, "brain": True}


def test_results_that_do_not_say_where_the_scan_lay_are_opened_with_a_word(
    scene: Scene, logic: RPRLocLogic, folders: tuple[Path, Path], loaded: list[Path]
) -> None:
    scans, out = folders
    found = found_in(write_scan(scans / "bert.nii.gz"))
    replace(found, grid=None, warnings=("It is upside down.",)).save(out / "bert.detections.json")
    told = logic.open_result(FolderResults(out, scans), "bert")
    assert "of an older version" in told and "It is upside down." in told and len(logic.results.rois()) == 1


def test_the_journal_of_a_manifest_says_where_its_scans_are(
    scene: Scene, logic: RPRLocLogic, example: ExampleFiles, folders: tuple[Path, Path], loaded: list[Path]
) -> None:
    scans, out = folders
    shutil.copy(example.image, scans / "bert.nii.gz")
    manifest = scans.parent / "scans.csv"
    manifest.write_text("path,name\nscans/bert.nii.gz,ward/first\n", encoding="utf-8")
    run = ["locate", example.support_set, "--manifest", manifest, "--out", out, "--model", example.weights]
    done = rprloc(*run, "--device", "cpu")
    assert done.exit_code == 0, done.output
    folder = FolderResults(out)
    assert [entry.name for entry in folder.entries] == ["ward/first"]
    logic.open_result(folder, "ward/first")
    assert loaded == [scans / "bert.nii.gz"] and {row.scan for row in logic.results.rows()} == {"first"}
    (scans / "bert.nii.gz").unlink()
    with pytest.raises(InputError, match=r"scans.bert.nii.gz, in which ward/first was located, is gone"):
        RPRLocLogic(scene.mrml, Nobody()).open_result(FolderResults(out), "ward/first")


def test_two_series_of_one_folder_that_lie_at_the_same_place_are_two_scans(
    scene: Scene, logic: RPRLocLogic, folders: tuple[Path, Path]
) -> None:
    """As the phases of a study with contrast do."""
    scans, out = folders
    (scans / "anna").mkdir()
    (out / JOURNALS).mkdir()
    lines = ["name,path,series,outcome,finished"]
    for number, name in enumerate(("plain", "contrast")):
        series = write_series(scans / name, phantom_hu(GRID) + 10 * number)
        found_in(scans / name, 3.0 + number).save(out / f"{name}.detections.json")
        for file in (scans / name).iterdir():
            file.rename(scans / "anna" / f"{name}-{file.name}")
        lines.append(f"{name},../scans/anna,{series},located,2026-01-01")
    (out / JOURNALS / "run.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder = FolderResults(out)
    for name in ("plain", "contrast", "plain"):
        logic.open_result(folder, name)
    assert sorted((row.scan, row.error) for row in logic.results.rows() if row.size_mm is not None) == [
        ("contrast", "4.0"),
        ("plain", "3.0"),
    ]
    first, second = (nodes.volume_from_node(volume).hu.max() for volume in nodes.scans(scene.mrml))
    assert second == first + 10
    assert [modality_of_scan(volume) for volume in nodes.scans(scene.mrml)] == ["CT", "CT"]
