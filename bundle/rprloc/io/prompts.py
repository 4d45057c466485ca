"""Boxes as ranges of voxels, for programs that segment whatever a box is drawn around."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rprloc.detection import Detections
from rprloc.files import write_text_atomically
from rprloc.geometry import Grid, VoxelBox

FORMAT, VERSION = "rprloc-prompts", 1
AXES = (
    "Ranges [first, end) of voxel indices i, j, k, in the order in which the file stores its axes: that of nibabel's "
    "arrays and of ITK's indices. Arrays of SimpleITK are [k, j, i]."
)


def save_prompts(path: str | Path, detections: Detections, grid: Grid) -> None:
    """Write the boxes as ranges of a scan's voxels, each with its middle axial slice, as JSON, whole or not at all.

    A range reaches from the first voxel that lies in the box, if only in part, to the one behind the last, and ends at
    the faces of the scan. The axial slice lies across that axis of the array which runs most nearly along the body.
    Organs without a box, and those whose box lies outside the scan, are named.

    Raises InputError if the folder cannot be written to.
    """
    axis = grid.axis_along(2)
    blocks = {organ: grid.voxels_around(box) for organ, box in detections.boxes.items()}
    record = {
        "format": FORMAT,
        "version": VERSION,
        "query": detections.query,
        "axes": AXES,
        "shape": list(grid.shape),
        "ras_from_ijk": grid.ras_from_ijk.tolist(),
        "axial_axis": axis,
        "boxes": [_prompt(organ, block, axis) for organ, block in blocks.items() if block is not None],
        "absent": [organ.organ for organ in detections.absent],
        "outside": [organ for organ, block in blocks.items() if block is None],
    }
    write_text_atomically(path, json.dumps(record, ensure_ascii=False) + "\n")


def _prompt(organ: str, block: VoxelBox, axis: int) -> dict[str, Any]:
    first, end = block[axis]
    middle = (first + end) // 2
    axial = [[middle, middle + 1] if along == axis else list(part) for along, part in enumerate(block)]
    return {"organ": organ, "ijk": [list(part) for part in block], "axial_slice_ijk": axial}
