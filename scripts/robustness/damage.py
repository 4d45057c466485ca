"""What all kinds of damage share: a case's files, and the truth about the scan in them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rprloc.geometry import Grid
from rprloc.io.reading import Scan

Content = dict[str, bytes]
"""The files of a case by their names."""

_PLACE_MM = 2e-3  # 32-bit headers round a place 300 mm away by as much
_AXES = 1e-4


@dataclass(frozen=True, eq=False)
class Truth:
    """What reading must give: the voxels (I, J, K), their affine in RAS mm, and words that its warnings must hold."""

    hu: NDArray[Any]
    ras_from_ijk: NDArray[np.float64]
    warning: str = ""

    def with_values(self, hu: NDArray[Any], warning: str = "") -> Truth:
        """The same places with other values."""
        return replace(self, hu=hu, warning=warning)

    def placed(self, ras_from_ijk: NDArray[np.float64], warning: str = "") -> Truth:
        """The same voxels at other places."""
        return replace(self, ras_from_ijk=ras_from_ijk, warning=warning)

    def differs(self, scan: Scan) -> str:
        """How a scan differs from the truth, in whichever order it holds its axes; an empty text if it does not."""
        own_hu, own = scan.volume.hu, scan.volume.grid
        known = Grid(cast(tuple[int, int, int], self.hu.shape), self.ras_from_ijk)
        ijk_of_own = np.linalg.inv(known.ras_from_ijk) @ own.ras_from_ijk
        order = np.abs(ijk_of_own[:3, :3]).argmax(axis=0)  # the axis of the truth along each axis of the scan
        signs = np.sign(ijk_of_own[order, range(3)])
        if sorted(order) != [0, 1, 2]:
            return "its axes run otherwise"
        backwards = tuple(np.flatnonzero(signs < 0).tolist())
        turned = np.flip(self.hu.transpose(order), backwards)
        if turned.shape != own_hu.shape:
            return f"it has {own_hu.shape} voxels in place of {turned.shape}"
        corners = np.array(np.meshgrid(*([0, n - 1] for n in own.shape), indexing="ij")).reshape(3, -1).T
        known_ijk = np.empty(corners.shape)
        known_ijk[:, order] = np.where(signs < 0, np.array(own.shape) - 1 - corners, corners)
        off_mm = float(np.linalg.norm(own.ras(corners) - known.ras(known_ijk), axis=1).max())
        if not off_mm <= _PLACE_MM + _AXES * float(np.max(known.spacing_mm * known.shape)):
            return f"it lies {off_mm:.3g} mm away"
        tolerance = 1e-6 * max(1.0, float(np.abs(self.hu).max()))
        wrong = int(np.count_nonzero(~np.isclose(own_hu, turned, rtol=1e-5, atol=tolerance)))
        if wrong:
            return f"{wrong} of its voxels are wrong"
        if self.warning and not any(self.warning in text for text in scan.warnings):
            return f"no warning says {self.warning!r}: {scan.warnings}"
        return ""


Kind = tuple[str, Content, Truth | None]
"""A case: what it is, its files, and the truth; None if it must be refused."""

Fields = dict[str, str]
"""The fields of a header that is text."""

Outcome = bool | Callable[[Truth], Truth]
"""What a file with one thing changed must give: the same scan, a refusal (False), or the scan that this makes of it."""


def right_of(truth: Truth, outcome: Outcome) -> Truth | None:
    """The truth about a case; None if it must be refused."""
    return outcome(truth) if callable(outcome) else truth if outcome else None


def vary_fields(
    usual: Fields, values: Mapping[str, Sequence[tuple[str | None, Outcome]]]
) -> Iterator[tuple[str, str | None, Fields, Outcome]]:
    """Yield the usual fields with one of them changed, or left out (None): its name, its text, all fields, the outcome.

    A field that is changed goes to the end.
    """
    for field, texts in values.items():
        others = {name: text for name, text in usual.items() if name != field}
        for text, outcome in texts:
            yield field, text, others if text is None else others | {field: text}, outcome


def cut(data: bytes, rng: random.Random) -> bytes:
    """Some of the beginning, by all sizes alike on a logarithmic scale."""
    return data[: int(len(data) ** rng.uniform(0.0, 0.999)) - 1]
