"""What surrounds the organs of a support scan: its fine descriptors on a coarse lattice, kept beside the organs.

They tell the places of the scan from each other and are no picture of it: unit vectors 8 mm apart, reduced to 16
numbers of one byte each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CELL_MM = 8.0
"""Between the places of the lattice of cells, which goes through the origin of the body frame."""

_CHANNELS = 16  # docs/experiments.md, E40
_ONE = 127.0  # what stands for 1.0


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Descriptors around the organs of one support scan.

    ``cells`` (N, 3) int16: where they lie in the body frame, in steps of CELL_MM. ``descriptors`` (N, K) int8: unit
    vectors, 127 for 1.0. ``basis`` (D, K): the directions that they keep of the network's descriptors.
    """

    cells: NDArray[np.int16]
    descriptors: NDArray[np.int8]
    basis: NDArray[np.float32]

    @classmethod
    def none(cls) -> Surroundings:
        """Of no organ."""
        return cls.of(np.zeros((0, 3), np.int16), np.zeros((0, 0), np.float32))

    @classmethod
    def of(cls, cells: NDArray[np.int16], descriptors: NDArray[np.float32]) -> Surroundings:
        """Descriptors (N, D) at cells (N, 3), reduced to their principal directions."""
        _, directions = np.linalg.eigh((descriptors.T @ descriptors).astype(float))
        basis = directions[:, ::-1][:, :_CHANNELS]
        if basis.size:  # an eigenvector may point either way
            basis = basis * np.sign(np.take_along_axis(basis, np.abs(basis).argmax(0, keepdims=True), 0))
        basis = basis.astype(np.float32)
        return cls(cells, np.rint(_ONE * reduce_descriptors(descriptors, basis)).astype(np.int8), basis)

    def joined(self, other: Surroundings) -> Surroundings:
        """These and others of the same scan; where both know a cell, these."""
        cells, first = np.unique(np.concatenate([self.cells, other.cells]), axis=0, return_index=True)
        if len(cells) in (len(self.cells), len(other.cells)):
            return self if len(cells) == len(self.cells) else other
        descriptors = np.concatenate([part.descriptors @ part.basis.T for part in (self, other)])
        return Surroundings.of(cells, (descriptors[first] / _ONE).astype(np.float32))

    def on(self, first: NDArray[np.int64], shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The descriptors (A, B, C, K) of a block of cells that begins at ``first`` (3,), and which are known."""
        index = self.cells - first
        inside = ((index >= 0) & (index < shape)).all(1)
        where = tuple(index[inside].T)
        descriptors, known = np.zeros((*shape, self.descriptors.shape[1]), np.float32), np.zeros(shape, bool)
        descriptors[where], known[where] = self.descriptors[inside] / np.float32(_ONE), True
        return descriptors, known


def reduce_descriptors(descriptors: NDArray[np.float32], basis: NDArray[np.float32]) -> NDArray[np.float32]:
    """Descriptors (N, D) as unit vectors (N, K) in a basis (D, K)."""
    kept = descriptors @ basis
    return kept / (np.linalg.norm(kept, axis=1, keepdims=True) + np.float32(1e-6))
