"""Position fields whose truth is known."""

from __future__ import annotations

import numpy as np
import torch

from rprloc.geometry import Grid
from rprloc.model.body import BodyAtlas, BodyMap
from rprloc.model.dense import LatentMap
from rprloc.model.field import PositionField

TURN = np.array([[1.1, 0.05, 0.0], [-0.04, 0.9, 0.02], [0.01, 0.0, 1.05]])
SHIFT = np.array([5.0, 9.0, -80.0])
INPUT = Grid.isotropic((80, 80, 80), 4.0, [-158.0, -158.0, -158.0])
NO_ATLAS = BodyAtlas.at(torch.zeros(2, 1, 1, 1), np.zeros(3))
FINE = Grid.isotropic((40, 40, 40), 8.0, [-156.0, -156.0, -156.0])


def body_mm(points_ras: np.ndarray) -> np.ndarray:
    """The body frame of a person who is larger than the frame and turned a little."""
    return (points_ras - SHIFT) @ TURN.T


def texture(points_mm: np.ndarray) -> np.ndarray:
    """Unit descriptors (..., 16) that change from place to place of the body frame, on a scale of about 25 mm."""
    waves = np.random.default_rng(0).normal(0, 1 / 25.0, (3, 16))
    found = np.sin(points_mm @ waves + np.random.default_rng(1).uniform(0, 2 * np.pi, 16))
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def make_field(matrix: np.ndarray = TURN, shift: np.ndarray = SHIFT, off_mm: float = 0.0) -> PositionField:
    """The position field of a person whose body coordinates are matrix (x - shift); the coarse ones are off."""
    to_body = BodyMap.affine(matrix, -matrix @ shift)
    body = to_body.body(FINE.centres_ras())
    latents = np.moveaxis(np.concatenate([body, texture(body)], axis=-1), -1, 0)
    fine = LatentMap(torch.from_numpy(latents.copy()).float(), FINE, torch.ones(FINE.shape) > 0)
    seen = BodyMap.affine(matrix, -matrix @ shift + [off_mm, -off_mm, 0.5 * off_mm])
    return PositionField(seen, fine, torch.zeros(INPUT.shape), INPUT, NO_ATLAS, INPUT.bounds)
