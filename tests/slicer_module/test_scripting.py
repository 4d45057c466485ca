"""The page for scripts does what it says, from top to bottom, on Slicer's core with a real child."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rprloc.geometry import Box
from tests.example import ExampleFiles
from tests.slicer_module.scenes import MODULE, NO_SLICER, Scene, bone, segmentation

pytest.importorskip("slicer", reason=NO_SLICER)
import slicer

from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.logic import RPRLocLogic

PAGE = MODULE.parent / "docs" / "slicer" / "scripting.md"


@pytest.fixture
def desk(
    scene: Scene, example: ExampleFiles, logic: RPRLocLogic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder and a scene with what the page speaks of, and the functions that only Slicer's desktop has."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "results").mkdir()
    for name in ("anna.nii.gz", "bert.nii.gz", "scans/carla.nii.gz", "scans/dora.nii.gz"):
        shutil.copy(example.image, tmp_path / name)
    shutil.copy(example.support_set, tmp_path / "organs.json")
    monkeypatch.chdir(tmp_path)
    scan = scene.load(example.image, "known")
    volume = nodes.volume_from_node(scan)
    points = scene.mrml.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "heart points")
    nodes.set_points(points, bone(scan)[[3, 0, 5, 1, 2, 4]], list("123456"))
    drawn = segmentation(scene, volume.hu == -850, volume.grid)
    drawn.SetName("organs")
    drawn.GetSegmentation().GetNthSegment(0).SetName("lung")
    scene.mrml.RemoveNode(scan)
    application = SimpleNamespace(processEvents=lambda: None)
    monkeypatch.setattr(slicer, "app", application, raising=False)
    monkeypatch.setattr(slicer.util, "loadVolume", lambda path: scene.load(Path(path).absolute()))
    modules = {"SlicerRPRLoc": logic}
    monkeypatch.setattr(slicer.util, "getModuleLogic", modules.__getitem__)
    slicer.vtkSlicerCropVolumeLogic().SetMRMLScene(scene.mrml)


@pytest.mark.usefixtures("desk")
def test_the_page_runs_from_top_to_bottom(
    scene: Scene, logic: RPRLocLogic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    known: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), known)
    printed = capsys.readouterr().out
    assert re.search(r"^1 organ in 1 of 1 scans\.", printed) and re.search(r"^heart \[.*\] \[.*\]", printed, re.M)
    assert "{'heart': 1, 'lung': 2, 'bone': 1}" in printed
    assert re.findall(r"^(\w+).nii.gz 1 organ in 1 of 1 scans", printed, re.M) == ["carla", "dora"]
    (roi,) = logic.results.rois()  # those of the scans that were removed went with them
    assert nodes.volume_of(roi) is known["bert"] and isinstance(known["found"].box, Box)
    assert known["segmentation"].GetSegmentation().GetNumberOfSegments() == 1 and known["told"] == []
    assert known["parameters"].GetInputVolumeNode() is known["bert"]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["bert.mrk.json", "organs.csv"]
