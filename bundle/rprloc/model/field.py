"""The position field: the latent of every place of a scan, from one dense pass of each Pnet and one registration."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rprloc.geometry import Box, Grid, Points
from rprloc.model.body import BodyAtlas, BodyMap, sample
from rprloc.model.dense import LatentMap, compute_latents
from rprloc.model.input import LATTICE_ANCHOR_MM, SPACING_MM, NetworkInput, no_body_error, prepare_input
from rprloc.model.looks import RegistrationImage
from rprloc.model.network import Pnet, RPRNet, mixed_precision
from rprloc.model.registration import register_query
from rprloc.model.robust import robust_affine
from rprloc.volume import Volume

_BORDER_PLACES = 2  # of the coarse lattice: they see much of what lies outside the scan, so they have no vote (E8)
_SIZES = (0.6, 1.6)

# Head and neck are small, so there the fine network sees voxels that are smaller by this (E45).
_ENLARGED = 1.5
_NECK_MM = 20.0  # from there upwards, in the body frame: above the shoulders
_SEEN_BELOW_MM = 48.0  # of what lies below, more than half a receptive field


@dataclass(frozen=True, eq=False)
class PositionField:
    """What localization needs of a scan: its map to the body frame, coarse, the fine Pnet's latents, and the networks'
    input ``image`` (I, J, K) on its ``grid``; and, to judge what was found, the ``atlas`` to which it was registered
    and the ``bounds`` of the scan.
    """

    body: BodyMap
    fine: LatentMap
    image: Tensor
    grid: Grid
    atlas: BodyAtlas
    bounds: Box

    def at(self, points_ras: Points) -> NDArray[np.float32]:
        """Body coordinates and fine latents (N, 3 + C) side by side at world points (N, 3)."""
        return np.concatenate([self.body.body(points_ras).astype(np.float32), self.fine.at(points_ras)], axis=1)


def compute_position_field(model: RPRNet, volume: Volume) -> PositionField:
    """The position field of a scan, on the device of the model.

    Raises InputError if nothing in the scan looks like a body, or if it surely is of another modality than the weights.
    """
    modality = model.modality_of(volume)
    atlas = model.atlas_of(modality)
    seen = prepare_input(volume, next(model.parameters()).device, modality)
    image, pose = look_coarsely(model, seen, volume.name)
    body, fine = register_beside_fine_pass(model, image, pose, seen, atlas)
    return PositionField(body, fine, seen.image, seen.grid, atlas, volume.grid.bounds)


def register_input(model: RPRNet, seen: NetworkInput, name: str) -> BodyMap:
    """The map of a network input to the body frame: registered from the pose that the coarse Pnet sees.

    Of weights for two modalities, the input must be of the first. Raises InputError as :func:`look_coarsely`.
    """
    image, pose = look_coarsely(model, seen, name)
    return register_query(image, model.atlas, pose)


def register_beside_fine_pass(
    model: RPRNet, image: RegistrationImage, pose: BodyMap, seen: NetworkInput, atlas: BodyAtlas
) -> tuple[BodyMap, LatentMap]:
    """The map to the body frame, registered from a pose, and the fine Pnet's latents of a network input.

    Registration has work for one thread, so as long as it lasts the fine pass beside it has all others.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(max_workers=1) as beside:
            registering = beside.submit(register_query, image, atlas, pose)

            def left() -> int:
                return threads if registering.done() else max(1, threads - 1)

            with mixed_precision(seen.image.device):
                fine = compute_latents(model.fine, seen, threads=left)
                fine = look_closer(model.fine, seen, pose, fine, left)
            return registering.result(), fine
    finally:
        torch.set_num_threads(threads)


def look_closer(net: Pnet, seen: NetworkInput, pose: BodyMap, fine: LatentMap, threads: Callable[[], int]) -> LatentMap:
    """The fine latents with other descriptors in head and neck: there the network sees the scan enlarged.

    What it sees is made of the same voxels of 4 mm, so a scan of thin slices looks like one of thick ones.
    """
    places_ras = fine.grid.centres_ras()
    closer = pose.body(places_ras)[..., 2] > _NECK_MM
    if not (closer & fine.inside.cpu().numpy()).any():
        return fine
    lowest_mm = places_ras[closer][:, 2].min() - _SEEN_BELOW_MM
    step = round(LATTICE_ANCHOR_MM / SPACING_MM)
    first = max(0, int((lowest_mm - seen.grid.bounds.min_ras[2]) // LATTICE_ANCHOR_MM) * step)
    a, b, c = seen.image.shape
    part = seen.grid.cropped((0, 0, first), (a, b, c - first))
    image = F.interpolate(seen.image[None, None, :, :, first:], scale_factor=_ENLARGED, mode="trilinear")[0, 0]
    spacing_mm = SPACING_MM / _ENLARGED
    grid = Grid.isotropic(image.shape, spacing_mm, part.bounds.min_ras + 0.5 * spacing_mm)
    enlarged = compute_latents(net, NetworkInput.of(image, grid), threads=threads)
    descriptors = torch.from_numpy(sample(enlarged.latents[3:], enlarged.grid, places_ras[closer]))
    latents = fine.latents.clone()
    latents[3:, torch.from_numpy(closer)] = F.normalize(descriptors, dim=1).T.to(latents)
    return replace(fine, latents=latents)


def look_coarsely(model: RPRNet, seen: NetworkInput, name: str) -> tuple[RegistrationImage, BodyMap]:
    """The image of a network input for registration, and the pose that the coarse Pnet sees.

    Raises InputError if no place of the coarse lattice lies in the body.
    """
    with mixed_precision(seen.image.device):
        coarse = compute_latents(model.coarse, seen, border=_BORDER_PLACES)
        if not coarse.inside.any():  # the middle of the scan is empty
            coarse = compute_latents(model.coarse, seen)
    image = RegistrationImage.of(seen)
    if not coarse.inside.any() or not image.near.any():
        raise no_body_error(name, model.modalities)
    return image, estimate_pose(coarse)


def estimate_pose(coarse: LatentMap) -> BodyMap:
    """The affine map to the body frame on which the votes of all places in the body agree best."""
    return find_agreement(*coarse.places())


def find_agreement(places_mm: Points, latents: NDArray[np.floating]) -> BodyMap:
    """The affine map that leads places (N, 3) to the body coordinates (N, 3) that the coarse Pnet sees there, robustly.

    People's sizes differ by less than _SIZES, so a field that is flatter or steeper is one that the net got wrong.
    """
    places, found = (torch.from_numpy(values).double() for values in (places_mm, latents))
    everywhere = torch.ones_like(places[None, :, 0])
    matrix, shift, _ = robust_affine(places, found, everywhere, ridge_mm2=900.0, outlier_mm=50.0, rounds=8)
    left, sizes, right = torch.linalg.svd(matrix[0])
    middle = places.median(dim=0).values
    limited = left @ torch.diag(sizes.clamp(*_SIZES)) @ right
    return BodyMap.affine(limited.numpy(), (shift[0] + (matrix[0] - limited) @ middle).numpy())
