"""Where the time of a localization goes.

    python -m scripts.benchmark.speed [CT] [--device cpu] [--out speed.json]

Prints one table: seconds of each stage, warm (median of three), and the peak of memory, for scans of about 1, 4 and 16
million voxels at network spacing, and for 1, 13 and 100 organs. The scans are the given CT (by default the
demonstration's, which is fetched), repeated to and fro until it is large enough; it is also written as a file of
512 x 512 x 200 voxels and read again. The organs are boxes of 60 mm at random places of the body.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from rprloc.annotation import Annotation
from rprloc.apps.demo import fetch_demo_scans
from rprloc.geometry import Grid
from rprloc.io.reading import read_volume
from rprloc.localization.confidence import FieldEvidence
from rprloc.localization.locate import locate
from rprloc.localization.marking import build_support
from rprloc.localization.support import SupportSet
from rprloc.model.device import choose_device
from rprloc.model.field import PositionField, look_coarsely, register_beside_fine_pass
from rprloc.model.input import LATTICE_ANCHOR_MM, SPACING_MM, network_grid, prepare_input
from rprloc.model.network import load_model
from rprloc.volume import Volume, resample, to_sitk

MILLIONS = (1, 4, 16)
ORGANS = (1, 13, 100)


def time_call(work: Callable[[], Any], device: torch.device, repeats: int = 3) -> tuple[float, Any]:
    """The median seconds of a call, after one that is not counted, and what it returns."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def enlarge(volume: Volume, millions: float) -> Volume:
    """The scan repeated to and fro along its axes until it has so many million voxels at network spacing."""
    shape = np.array(network_grid(volume.grid, SPACING_MM, LATTICE_ANCHOR_MM).shape, float)
    wanted = shape * (millions * 1e6 / shape.prod()) ** (1 / 3)
    hu = volume.hu
    for axis, (now, then) in enumerate(zip(shape, wanted, strict=True)):
        size = round(hu.shape[axis] * then / now)
        there_and_back = np.concatenate([hu, np.flip(hu, axis)], axis)
        hu = np.take(there_and_back, np.arange(size) % there_and_back.shape[axis], axis)
    i, j, k = hu.shape
    return Volume(np.ascontiguousarray(hu), Grid((i, j, k), volume.grid.ras_from_ijk), f"{millions} million voxels")


def random_organs(field: PositionField, grid: Grid, count: int, model_id: str) -> SupportSet:
    """Boxes of 60 mm at random places of the body as organs of this very scan."""
    generator = np.random.default_rng(0)
    places = field.fine.places()[0]
    places = places[grid.contains(places - 30.0) & grid.contains(places + 30.0)]
    towards = 30.0 * np.repeat(np.eye(3), 2, axis=0) * np.tile([[-1.0], [1.0]], (3, 1))
    points = {f"organ {n}": places[generator.integers(len(places))] + towards for n in range(count)}
    return SupportSet(model_id, (build_support(field, grid, Annotation(points), "speed"),))


def _locate(organs: SupportSet, field: PositionField) -> object:
    return locate(organs, FieldEvidence.of(field))


def measure_stages(volume: Volume, device: torch.device) -> dict[str, float]:
    """Seconds of each stage for one scan in memory."""
    model = load_model(device=device)
    rows: dict[str, float] = {}

    rows["resample"], seen = time_call(lambda: prepare_input(volume, device), device)
    rows["voxels at 4 mm"] = seen.image.numel() / 1e6

    rows["coarse pass"], (image, pose) = time_call(lambda: look_coarsely(model, seen, ""), device)
    rows["registration, fine pass"], (body, fine) = time_call(
        lambda: register_beside_fine_pass(model, image, pose, seen, model.atlas), device
    )
    field = PositionField(body, fine, seen.image, seen.grid, model.atlas, volume.grid.bounds)
    for count in ORGANS:
        organs = random_organs(field, volume.grid, count, model.identity())
        rows[f"{count} organs"], _ = time_call(partial(_locate, organs, field), device)
    rows["total, 13 organs"] = sum(
        rows[stage] for stage in ("resample", "coarse pass", "registration, fine pass", "13 organs")
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", nargs="?", type=Path, help="a CT; by default the demonstration's")
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    given = parser.parse_args()
    device = choose_device(given.device)
    with tempfile.TemporaryDirectory() as folder:
        volume = read_volume(given.image or fetch_demo_scans(folder).query_image)
        columns = {f"{millions} M": measure_stages(enlarge(volume, millions), device) for millions in MILLIONS}
        path = Path(folder) / "scan.nii.gz"
        size = volume.grid.bounds.size_mm / np.array([512, 512, 200])
        affine = np.diag([*size, 1.0])
        affine[:3, 3] = volume.grid.bounds.min_ras + 0.5 * size
        large = resample(volume, Grid((512, 512, 200), affine))
        sitk.WriteImage(to_sitk(large.hu.astype(np.int16), large.grid), path)
        reading, large = time_call(lambda: read_volume(path), device)
        columns["512 x 512 x 200"] = measure_stages(large, device) | {"read": reading}
        columns["512 x 512 x 200"]["total from file"] = reading + columns["512 x 512 x 200"]["total, 13 organs"]
    rows = ["voxels at 4 mm", "read", "resample", "coarse pass", "registration, fine pass"]
    rows += [*(f"{count} organs" for count in ORGANS), "total, 13 organs", "total from file"]
    width = max(map(len, rows))
    print(" " * width, *(f"{name:>16}" for name in columns))
    for row in rows:
        print(f"{row:{width}}", *(f"{column[row]:16.2f}" if row in column else " " * 16 for column in columns.values()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, {device}, torch {torch.__version__}"
    print(f"Peak of memory over all {peak:.1f} GiB; {machine}.")
    if given.out:
        given.out.write_text(json.dumps({"machine": machine, "peak_gib": round(peak, 2), "scans": columns}, indent=1))


if __name__ == "__main__":
    main()
