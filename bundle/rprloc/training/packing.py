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
from rprloc.io.dataset import ScanFile
from rprloc.io.plausibility import reason_not_to_train_on
from rprloc.io.reading import read_volume
from rprloc.modality import CT, Modality, modality_among
from rprloc.model.input import image_at_network_spacing
from rprloc.training.sampling import TrainingScan

_log = logging.getLogger(__name__)

MIN_BODY_VOXELS = 5000
"""Of 4 mm; a tenth of a head."""


def pack(
    files: Sequence[ScanFile],
    folder: Path,
    skipped: Path | None = None,
    modalities: Sequence[Modality] = (CT,),
) -> list[TrainingScan]:
    """The scans as 8-bit network input at network spacing, kept in ``folder`` for the next time.

    Each is of the one modality, or of the one of two that it seems to be. Raises InputError for a scan that cannot be
    read or surely is of another modality; with ``skipped``, such scans, and those that hardly are of the modality, are
    left out and listed in that CSV file with the reason. Then InputError is raised only if none is left.
    """
    scans, refused = [], []
    for file in tqdm(files, desc="reading scans", unit="scan"):
        try:
            scans.append(_packed(file, folder, modalities, strict=skipped is not None))
        except InputError as error:
            if skipped is None:
                raise
            refused.append((file.path, str(error)))
    if skipped is not None:
        with atomic_path(skipped) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("scan", "reason"), *refused])
        if not scans:
            raise InputError(
                f"None of the {len(files)} scans can be used. {skipped} gives the reason for each. Give "
                f"{' or '.join(modality.name for modality in modalities)} scans."
            )
        if refused:
            _log.warning("%d of %d scans are left out. %s gives the reasons.", len(refused), len(files), skipped)
    return scans


def _packed(file: ScanFile, folder: Path, modalities: Sequence[Modality], *, strict: bool) -> TrainingScan:
    name = f"{file.group}-{file.name.replace('/', '+')}.npz"
    if len(modalities) > 1:  # what was packed for one modality is not of that modality for certain
        folder = folder / "both"
    paths = {modality: _folder_of(folder, modality) / name for modality in modalities}
    modality = next((modality for modality, path in paths.items() if path.exists()), None)
    if modality is None:
        volume = read_volume(file.path)
        modality = modality_among(modalities, volume.hu, volume.modality)
        doubt = reason_not_to_train_on(volume, modality) if strict else None
        if doubt:
            raise InputError(doubt)
        seen, grid = image_at_network_spacing(volume, modality)
        image = np.rint(seen * 255).astype(np.uint8)
        paths[modality].parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(paths[modality]) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, image=image, ras_from_ijk=grid.ras_from_ijk)
    with np.load(paths[modality], allow_pickle=False) as arrays:
        image = arrays["image"]
        grid = Grid(image.shape, arrays["ras_from_ijk"])
        scan = TrainingScan.from_array(file.name, file.group, image, grid, modality)
    if len(scan.body_ijk) < MIN_BODY_VOXELS:
        raise InputError(f"{file.path} shows hardly any body. Leave it out, or give a scan of a person.")
    return scan


def _folder_of(folder: Path, modality: Modality) -> Path:
    """Where the copies of a modality lie: those of one are of no use to another."""
    return folder if modality is CT else folder / modality.name.lower()
