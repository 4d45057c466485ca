"""The body frame of a training run: the maps of its scans and the atlas, made once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from rprloc.files import atomic_path
from rprloc.geometry import Grid, Points
from rprloc.model.body import BodyAtlas, BodyMap
from rprloc.model.dense import compute_latents
from rprloc.model.field import find_agreement, register_input
from rprloc.model.network import RPRNet, mixed_precision
from rprloc.training.alignment import align, mean_image
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
    kept = _read(path, everyone) if resume else None
    if kept is not None:
        return kept
    if init is None:
        maps, atlas = align(everyone, _makers(len(scans)))
    else:
        maps, atlas = [_registered(init, scan) for scan in tqdm(everyone, "registering scans", unit="scan")], init.atlas
    _write(path, everyone, maps, atlas)
    return maps, atlas


def link_to_body_frame(
    scans: Sequence[TrainingScan],
    validation: Sequence[TrainingScan],
    path: Path,
    model: RPRNet,
    *,
    resume: bool,
) -> tuple[list[BodyMap], BodyAtlas]:
    """The maps of scans of a second modality to the body frame of a model, and their atlas there, kept in ``path``.

    They make a frame of their own, each beginning about where the coarse Pnet sees it. From all their places together
    the Pnet then sees how the one frame lies in the other: it errs in each scan, but not in all alike.
    """
    everyone = [*scans, *validation]
    kept = _read(path, everyone) if resume else None
    if kept is not None:
        return kept
    seen = [_places_seen_in(model, scan) for scan in tqdm(everyone, "looking at scans", unit="scan")]
    own, _ = align(everyone, _makers(len(scans)), starts=[find_agreement(*both) for both in seen])
    count = len(scans)  # those of validation come behind, and take no part
    places = [body_map.body(places_ras) for body_map, (places_ras, _) in zip(own[:count], seen[:count], strict=True)]
    link = find_agreement(np.concatenate(places), np.concatenate([latents for _, latents in seen[:count]]))
    maps = [body_map.followed_by(link.body_from_ras) for body_map in own]
    atlas = mean_image(scans, maps[:count], model.atlas)
    _write(path, everyone, maps, atlas)
    return maps, atlas


def _places_seen_in(model: RPRNet, scan: TrainingScan) -> tuple[Points, NDArray[np.float32]]:
    """Places (N, 3) of the body in a scan, and the body coordinates (N, 3) that the coarse Pnet sees there."""
    device = next(model.parameters()).device
    with torch.no_grad(), mixed_precision(device):
        return compute_latents(model.coarse, scan.as_input(device)).places()


def _makers(count: int) -> list[int]:
    """The indices of the scans that make a frame."""
    if count <= _MAX_MAKERS:
        return list(range(count))
    return sorted(np.random.default_rng(0).choice(count, _MAX_MAKERS, replace=False).tolist())


def _names(scans: Sequence[TrainingScan]) -> list[str]:
    return [f"{scan.group}-{scan.name}" for scan in scans]


def _read(path: Path, scans: Sequence[TrainingScan]) -> tuple[list[BodyMap], BodyAtlas] | None:
    """The maps of these scans and the atlas in a file; None if it is not there or holds those of other scans."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        if arrays["names"].tolist() != _names(scans):
            return None
        maps = [
            BodyMap(
                arrays[f"{name}/affine"],
                arrays[f"{name}/displacement"],
                Grid(arrays[f"{name}/displacement"].shape[1:], arrays[f"{name}/controls"]),
            )
            for name in _names(scans)
        ]
        return maps, BodyAtlas.at(torch.from_numpy(arrays["atlas/values"]), arrays["atlas/origin"])


def _write(path: Path, scans: Sequence[TrainingScan], maps: Sequence[BodyMap], atlas: BodyAtlas) -> None:
    content: dict[str, NDArray[np.generic]] = {
        "names": np.array(_names(scans)),
        "atlas/values": atlas.values.cpu().numpy(),
        "atlas/origin": atlas.origin_mm,
    }
    for name, body_map in zip(_names(scans), maps, strict=True):
        content[f"{name}/affine"] = body_map.body_from_ras
        content[f"{name}/displacement"] = body_map.displacement_mm
        content[f"{name}/controls"] = body_map.control_grid.ras_from_ijk
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **content)  # type: ignore[arg-type]


def _registered(model: RPRNet, scan: TrainingScan) -> BodyMap:
    """The map of a scan to the frame of a trained model, found as in a query scan."""
    return register_input(model, scan.as_input(), scan.name)
