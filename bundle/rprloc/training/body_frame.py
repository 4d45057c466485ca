"""The body frame of a training run: the maps of its scans and the atlas, made once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from rprloc.files import atomic_path
from rprloc.geometry import Grid
from rprloc.model.body import BodyAtlas, BodyMap
from rprloc.model.field import register_input
from rprloc.model.input import NetworkInput
from rprloc.model.network import RPRNet
from rprloc.training.alignment import align
from rprloc.training.sampling import TrainingScan

_MAX_MAKERS = 300
"""Scans that make the body frame, chosen at random: the time of stacking them grows with the square of their number."""


def make_body_frame(
    scans: Sequence[TrainingScan],
    validation: Sequence[TrainingScan],
    path: Path,
    init: RPRNet | None,
    *,
    resume: bool,
) -> tuple[list[BodyMap], BodyAtlas]:
    """The maps of scans and validation scans to the body frame, and its atlas, kept in ``path``."""
    everyone = [*scans, *validation]
    names = [f"{scan.group}-{scan.name}" for scan in everyone]
    if resume and path.is_file():
        with np.load(path, allow_pickle=False) as arrays:
            if arrays["names"].tolist() == names:
                maps = [
                    BodyMap(
                        arrays[f"{name}/affine"],
                        arrays[f"{name}/displacement"],
                        Grid(arrays[f"{name}/displacement"].shape[1:], arrays[f"{name}/controls"]),
                    )
                    for name in names
                ]
                return maps, BodyAtlas.at(torch.from_numpy(arrays["atlas/values"]), arrays["atlas/origin"])
    if init is None:
        makers = np.arange(len(scans))
        if len(scans) > _MAX_MAKERS:
            makers = np.sort(np.random.default_rng(0).choice(len(scans), _MAX_MAKERS, replace=False))
        maps, atlas = align(everyone, makers.tolist())
    else:
        maps, atlas = [_registered(init, scan) for scan in tqdm(everyone, "registering scans", unit="scan")], init.atlas
    content: dict[str, NDArray[np.generic]] = {
        "names": np.array(names),
        "atlas/values": atlas.values.cpu().numpy(),
        "atlas/origin": atlas.origin_mm,
    }
    for name, body_map in zip(names, maps, strict=True):
        content[f"{name}/affine"] = body_map.body_from_ras
        content[f"{name}/displacement"] = body_map.displacement_mm
        content[f"{name}/controls"] = body_map.control_grid.ras_from_ijk
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **content)  # type: ignore[arg-type]
    return maps, atlas


def _registered(model: RPRNet, scan: TrainingScan) -> BodyMap:
    """The map of a scan to the frame of a trained model, found as in a query scan."""
    image = torch.from_numpy(scan.image).float() / 255.0
    return register_input(model, NetworkInput.of(image, scan.grid), scan.name)
