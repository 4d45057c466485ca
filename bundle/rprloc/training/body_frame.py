"""The body frame of a training run: the maps of its scans and the atlas, made once and kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from rprloc.errors import InputError
from rprloc.files import atomic_path
from rprloc.geometry import Grid, Points
from rprloc.model.body import BodyAtlas, BodyMap
from rprloc.model.dense import compute_latents
from rprloc.model.field import find_agreement, register_input
from rprloc.model.network import RPRNet, mixed_precision
from rprloc.training.alignment import align, find_affine, mean_image
from rprloc.training.sampling import TrainingScan

_log = logging.getLogger(__name__)

_MAX_MAKERS = 300
"""Scans that make the body frame, chosen at random: the time of stacking them grows with the square of their number."""
_OUT_OF_LINE_MM = 40.0
"""So far along an axis a scan lies from the others of its frame that it shows something else, or looks different."""
_LINK_ROUNDS = 4
_NAMED = 10  # scans in a message


def make_body_frame(
    scans: Sequence[TrainingScan],
    validation: Sequence[TrainingScan],
    path: Path,
    init: RPRNet | None,
    *,
    resume: bool,
) -> tuple[list[BodyMap], BodyAtlas]:
    """The maps of scans and validation scans to the body frame, and its atlas, kept in ``path``.

    Raises InputError if a run that goes on began with other scans, which made its frame.
    """
    everyone = [*scans, *validation]
    kept = _read(path, everyone) if resume else None
    if kept is not None:
        return kept
    if resume and init is None:
        _require_none(path)
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
    the Pnet then sees how the one frame lies in the other: it errs in each scan, but not in all alike. Last, mutual
    information between the mean images of both modalities brings the frames into line: docs/experiments.md, E47.

    Scans that lie far from where the others of their frame do look different, as of another sequence. They take no
    part, and lie where the coarse Pnet sees them, but for that last step.

    Raises InputError if the mean images hardly overlap, or if a run that goes on began with other scans.
    """
    everyone = [*scans, *validation]
    kept = _read(path, everyone) if resume else None
    if kept is not None:
        return kept
    if resume:
        _require_none(path)
    seen = [_places_seen_in(model, scan) for scan in tqdm(everyone, "looking at scans", unit="scan")]
    poses = [find_agreement(*both) for both in seen]
    own, _ = align(everyone, _makers(len(scans)), starts=poses)
    places = [body_map.body(places_ras) for body_map, (places_ras, _) in zip(own, seen, strict=True)]
    link, in_line = _find_link(places, [latents for _, latents in seen], len(scans))
    maps = [
        body_map.followed_by(link) if fits else pose for body_map, pose, fits in zip(own, poses, in_line, strict=True)
    ]
    if not all(in_line):
        others = [scan.name for scan, fits in zip(everyone, in_line, strict=True) if not fits]
        _log.warning(
            "%d of %d %s scans do not lie as the others do, and take no part in bringing these into the body frame: "
            "%s%s. Leave out what is no ordinary scan, or shows something else.",
            *(len(others), len(everyone), scans[0].modality.name, ", ".join(others[:_NAMED])),
            ", ..." if len(others) > _NAMED else "",
        )
    # Those of validation come behind, and take no part.
    makers = [n for n in range(len(scans)) if in_line[n]]
    making = [scans[n] for n in makers]
    by_looks = find_affine(mean_image(making, [maps[n] for n in makers], model.atlas), model.atlas)
    maps = [body_map.followed_by(by_looks) for body_map in maps]
    atlas = mean_image(making, [maps[n] for n in makers], model.atlas)
    _write(path, everyone, maps, atlas)
    return maps, atlas


def _find_link(
    places: Sequence[Points], latents: Sequence[NDArray[np.float32]], count: int
) -> tuple[NDArray[np.float64], list[bool]]:
    """The affine map (4, 4) from places in the frame of some scans to the body coordinates that the coarse Pnet sees
    there, from the first ``count`` scans; and of each scan whether it lies in that frame as the others do.
    """
    in_line = np.ones(len(places), bool)
    for _ in range(_LINK_ROUNDS):
        makers = np.flatnonzero(in_line[:count]).tolist()
        link = find_agreement(np.concatenate([places[n] for n in makers]), np.concatenate([latents[n] for n in makers]))
        away_mm = np.array([np.median(theirs - link.body(p), 0) for p, theirs in zip(places, latents, strict=True)])
        in_line = np.abs(away_mm - np.median(away_mm[:count], axis=0)).max(axis=1) < _OUT_OF_LINE_MM
        if 2 * in_line[:count].sum() < count:  # there is no line to be out of
            in_line[:] = True
    return link.body_from_ras, in_line.tolist()


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


def _require_none(path: Path) -> None:
    """Raises InputError if scans of a run that goes on lie in a frame already: its networks know no other one."""
    if path.is_file():
        raise InputError(
            f"The run in {path.parent} began with other scans, and they made its body frame. Go on with the same "
            "scans, or name another folder for these."
        )


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
