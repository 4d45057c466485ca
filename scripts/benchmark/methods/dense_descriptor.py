"""Matching of dense descriptors without position: the place of the whole query whose descriptor is most alike.

The descriptors are those of the product's fine Pnet, so that the row tells what position adds to them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rprloc.geometry import Points
from rprloc.model.dense import LatentMap, compute_latents
from rprloc.model.input import prepare_input
from rprloc.model.network import load_model, mixed_precision
from rprloc.volume import Volume
from scripts.benchmark.registry import Example, Method, Row, Setting, register

_TEMPERATURE = 0.05
_NEAR_MM = 12.0


@register
class DenseDescriptor(Method):
    name = "dense-descriptor"
    rows = (
        Row(
            "dense-descriptor",
            3,
            remark="descriptors of the product's fine network, sought in the whole scan",
            strength="Where a place looks like no other, its position adds nothing but its own error.",
        ),
        Row("dense-descriptor few-shot", 3, shots="all"),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.model = load_model()

    def version(self, region: str) -> str:
        return self.model.identity()

    def _descriptors(self, volume: Volume) -> LatentMap:
        seen = prepare_input(volume, torch.device("cpu"))
        with mixed_precision(seen.image.device):
            return compute_latents(self.model.fine, seen)

    def prepare(self, example: Example, organs: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        field = self._descriptors(example.volume)
        return {organ: field.at(example.points_ras[organ])[:, 3:] for organ in organs}

    def find(
        self, prepared: Sequence[dict[str, NDArray[np.float32]]], query: Volume, organs: Sequence[str]
    ) -> dict[str, Points]:
        places_ras, latents = self._descriptors(query).places()
        points_ras = {}
        for organ in organs:
            points = [_most_alike(marks[organ], places_ras, latents[:, 3:]) for marks in prepared if organ in marks]
            points_ras[organ] = np.median(points, axis=0)
        return points_ras


def _most_alike(wanted: NDArray[np.float32], places_ras: Points, descriptors: NDArray[np.float32]) -> Points:
    """For descriptors (P, D) the places (P, 3): the best of N, refined by the softmax mean of those next to it."""
    points = []
    for similarity in wanted @ descriptors.T:  # (N,)
        best = places_ras[similarity.argmax()]
        near = np.linalg.norm(places_ras - best, axis=1) <= _NEAR_MM
        weight = np.exp((similarity[near] - similarity.max()) / _TEMPERATURE)
        points.append(weight @ places_ras[near] / weight.sum())
    return np.array(points)
