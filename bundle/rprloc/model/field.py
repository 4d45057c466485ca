"""The position field: the latent of every place of a scan, from one dense pass of each Pnet and one registration."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rprloc.geometry import Box, Grid, Points
from rprloc.model.body import BodyAtlas, BodyMap
from rprloc.model.dense import LatentMap, latent_map
from rprloc.model.input import body_input, no_body_error
from rprloc.model.looks import Picture
from rprloc.model.network import RPRNet, mixed_precision
from rprloc.model.registration import registered
from rprloc.model.robust import robust_affine
from rprloc.volume import Volume

_BORDER_PLACES = 2  # of the coarse lattice: those that see more of what lies outside of the scan have no vote

_SIZES = (0.6, 1.6)


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


def position_field(model: RPRNet, volume: Volume) -> PositionField:
    """The position field of a scan, on the device of the model.

    Raises InputError if nothing in the scan looks like a body.
    """
    image, body, grid = body_input(volume, next(model.parameters()).device)
    picture, pose = first_look(model, image, body, grid, volume.name)
    found, fine = registered_and_fine(model, picture, pose, image, body, grid)
    return PositionField(found, fine, image, grid, model.atlas, volume.grid.bounds)


def body_map_of(model: RPRNet, image: Tensor, body: Tensor, grid: Grid, name: str) -> BodyMap:
    """The map of a network input (I, J, K) to the body frame: registered from the pose that the coarse Pnet sees.

    Raises InputError as :func:`first_look`.
    """
    picture, pose = first_look(model, image, body, grid, name)
    return registered(picture, model.atlas, pose)


def registered_and_fine(
    model: RPRNet, picture: Picture, pose: BodyMap, image: Tensor, body: Tensor, grid: Grid
) -> tuple[BodyMap, LatentMap]:
    """The map to the body frame, registered from a pose, and the fine Pnet's latents of a network input (I, J, K).

    Registration has work for one thread, so as long as it lasts the fine pass beside it has all others.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(max_workers=1) as beside:
            registering = beside.submit(registered, picture, model.atlas, pose)

            def left() -> int:
                return threads if registering.done() else max(1, threads - 1)

            with mixed_precision(image.device):
                fine = latent_map(model.fine, image, body, grid, threads=left)
            return registering.result(), fine
    finally:
        torch.set_num_threads(threads)


def first_look(model: RPRNet, image: Tensor, body: Tensor, grid: Grid, name: str) -> tuple[Picture, BodyMap]:
    """The picture of a network input (I, J, K) for registration, and the pose that the coarse Pnet sees.

    Raises InputError if no place of the coarse lattice lies in the ``body`` (I, J, K).
    """
    with mixed_precision(image.device):
        coarse = latent_map(model.coarse, image, body, grid, border=_BORDER_PLACES)
        if not coarse.inside.any():  # the middle of the scan is empty
            coarse = latent_map(model.coarse, image, body, grid)
    picture = Picture.of(image, body, grid)
    if not coarse.inside.any() or not picture.near.any():
        raise no_body_error(name)
    return picture, coarse_pose(coarse)


def coarse_pose(coarse: LatentMap) -> BodyMap:
    """The affine map to the body frame on which the votes of all places in the body agree best.

    People's sizes differ by less than _SIZES, so a field that is flatter or steeper is one that the net got wrong.
    """
    places_ras, latents = (torch.from_numpy(values).double() for values in coarse.places())
    everywhere = torch.ones_like(places_ras[None, :, 0])
    matrix, shift, _ = robust_affine(places_ras, latents, everywhere, ridge_mm2=900.0, outlier_mm=50.0, rounds=8)
    left, sizes, right = torch.linalg.svd(matrix[0])
    middle = places_ras.median(dim=0).values
    limited = left @ torch.diag(sizes.clamp(*_SIZES)) @ right
    return BodyMap.affine(limited.numpy(), (shift[0] + (matrix[0] - limited) @ middle).numpy())
