"""Packed copies of scans: the networks' input at network spacing, which training reads."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rprloc.errors import InputError
from rprloc.files import atomic_path
from rprloc.geometry import Grid
from rprloc.intensity import find_display_window_air, to_network_input
from rprloc.io.dataset import ScanFile
from rprloc.io.plausibility import reason_not_to_train_on
from rprloc.io.reading import read_volume
from rprloc.model.input import LATTICE_ANCHOR_MM, SPACING_MM, network_grid
from rprloc.training.sampling import TrainingScan
from rprloc.volume import resample

_log = logging.getLogger(__name__)

MIN_BODY_VOXELS = 5000
"""Of 4 mm; a tenth of a head."""


def pack(files: Sequence[ScanFile], folder: Path, skipped: Path | None = None) -> list[TrainingScan]:
    """The scans as 8-bit network input at network spacing, kept in ``folder`` for the next time.

    Raises InputError for a scan that cannot be read; with ``skipped``, such scans, and those that are hardly CT, are
    left out and listed in that CSV file with the reason. Then InputError is raised only if none is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scans, refused = [], []
    for file in tqdm(files, desc="reading scans", unit="scan"):
        try:
            scans.append(_packed(file, folder, strict=skipped is not None))
        except InputError as error:
            if skipped is None:
                raise
            refused.append((file.path, str(error)))
    if skipped is not None:
        with atomic_path(skipped) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("scan", "reason"), *refused])
        if not scans:
            raise InputError(
                f"None of the {len(files)} scans can be used. {skipped} gives the reason for each. Give CT scans."
            )
        if refused:
            _log.warning("%d of %d scans are left out. %s gives the reasons.", len(refused), len(files), skipped)
    return scans


def _packed(file: ScanFile, folder: Path, *, strict: bool) -> TrainingScan:
    packed = folder / f"{file.group}-{file.name.replace('/', '+')}.npz"
    if not packed.exists():
        volume = read_volume(file.path)
        doubt = reason_not_to_train_on(volume) if strict else None
        if doubt:
            raise InputError(doubt)
        air_hu = find_display_window_air(volume.hu)
        volume = resample(volume, network_grid(volume.grid, SPACING_MM, LATTICE_ANCHOR_MM))
        image = np.rint(to_network_input(volume.hu, air_hu) * 255).astype(np.uint8)
        with atomic_path(packed) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, image=image, ras_from_ijk=volume.grid.ras_from_ijk)
    with np.load(packed, allow_pickle=False) as arrays:
        image = arrays["image"]
        scan = TrainingScan.from_array(file.name, file.group, image, Grid(image.shape, arrays["ras_from_ijk"]))
    if len(scan.body_ijk) < MIN_BODY_VOXELS:
        raise InputError(f"{file.path} shows hardly any body. Leave it out, or give a CT scan of a person.")
    return scan
