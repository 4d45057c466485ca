"""Views of annotated scans for calibration: as they are, cut and changed, and how much of every organ they show."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.evaluation.evaluate import read_case
from rprloc.geometry import Box
from rprloc.io.dataset import Case
from rprloc.localization.localizer import Localizer
from rprloc.localization.specks import has_pieces_beyond_the_largest
from rprloc.modality import CT, Modality
from rprloc.model.field import PositionField
from rprloc.volume import Volume

_log = logging.getLogger(__name__)

_LEAST_MM, _MOST_SHARE = 100.0, 0.85  # of the scan that a cut leaves along the body


class Kind(str, Enum):
    """What was done to a scan."""

    WHOLE = "whole"
    CUT_ALONG = "cut along"
    CUT_SIDEWAYS = "cut sideways"
    MIRRORED = "mirrored"
    UPSIDE_DOWN = "upside down"
    BACK_TO_FRONT = "back to front"
    LIKE_MR = "like MR"
    LIKE_SHIFTED_MR = "like MR, darkest at -1000"

    @property
    def is_body(self) -> bool:
        """Whether the view still is a scan of a body, so that organs can be located in it."""
        return self in (Kind.WHOLE, Kind.CUT_ALONG, Kind.CUT_SIDEWAYS)


@dataclass(frozen=True, eq=False)
class View:
    """A scan as it is looked at: its position field, the warnings that its values alone give, and by organ the share of
    it that the view shows. ``shares`` is empty where the view is no body.
    """

    kind: Kind
    field: PositionField
    warnings: tuple[str, ...]
    shares: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class CaseViews:
    """All views of a case, and the true boxes of its targets."""

    case: Case
    truth: Mapping[str, Box]
    views: tuple[View, ...]


def make_views(localizer: Localizer, case: Case, cuts: int, *, with_changes: bool) -> CaseViews:
    """A case as it is, with ``cuts`` cuts, and, if asked for, changed in every way.

    Cuts and changes that show no body are left out. Raises InputError if a file of the case cannot be used.
    """
    example = read_case(case)
    volume, annotation = replace(example.volume, name=case.name), example.annotation
    whole = {
        organ: mask.grid.ras(np.argwhere(mask.voxels))
        for organ, mask in annotation.masks.items()
        if not has_pieces_beyond_the_largest(mask.voxels)  # how much of these is shown cannot be told
    }
    field = localizer.compute_position_field(volume)
    views = [View(Kind.WHOLE, field, localizer.warnings_of(volume), dict.fromkeys(whole, 1.0))]
    parts: list[tuple[Kind, Volume, Mapping[str, float]]] = []
    for kind, part in cut(volume, cuts):
        shown = {organ: float(np.mean(part.grid.contains(voxels_ras))) for organ, voxels_ras in whole.items()}
        parts.append((kind, part, shown))
    changes = change(volume, localizer.model.modality_of(volume)) if with_changes else ()
    parts += [(kind, changed, {}) for kind, changed in changes]
    for kind, part, shares in parts:
        try:
            field = localizer.compute_position_field(part)
        except InputError as error:  # no body
            _log.info("%s, %s: %s", case.name, kind.value, error)
            continue
        views.append(View(kind, field, localizer.warnings_of(part), shares))
    truth = {organ: Box.from_extreme_points(points_ras) for organ, points_ras in annotation.points_ras.items()}
    return CaseViews(case, truth, tuple(views))


def cut(volume: Volume, count: int) -> Iterator[tuple[Kind, Volume]]:
    """Parts of a scan, drawn by the scan's name: along the body, the last sideways, too."""
    generator = np.random.default_rng(zlib.crc32(volume.name.encode()))
    bounds = volume.grid.bounds
    for number in range(count):
        low, length = bounds.min_ras[2], bounds.size_mm[2]
        kept = generator.uniform(min(_LEAST_MM, 0.6 * length), _MOST_SHARE * length)
        start = generator.choice([0.0, length - kept, generator.uniform(0.0, length - kept)])
        part = keep_between(volume, 2, low + start, low + start + kept)
        kind = Kind.CUT_ALONG
        if number == count - 1:
            axis = int(generator.integers(2))
            low, high = bounds.min_ras[axis], bounds.max_ras[axis]
            kept = generator.uniform(0.35, 0.65) * (high - low)
            ends = (low, low + kept) if generator.integers(2) else (high - kept, high)
            part = keep_between(part, axis, *ends)
            kind = Kind.CUT_SIDEWAYS
        yield kind, part


def keep_between(volume: Volume, axis: int, low_mm: float, high_mm: float) -> Volume:
    """The part of a scan whose voxels' centres lie between two places along a RAS axis."""
    grid = volume.grid
    own = _own_axis(volume, axis)
    ijk = np.zeros((grid.shape[own], 3))
    ijk[:, own] = np.arange(grid.shape[own])
    along_mm = grid.ras(ijk)[:, axis]
    inside = np.flatnonzero((along_mm >= low_mm) & (along_mm <= high_mm))
    first, shape = [0, 0, 0], list(grid.shape)
    first[own], shape[own] = int(inside[0]), len(inside)
    box = tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))
    return replace(volume, hu=np.ascontiguousarray(volume.hu[box]), grid=grid.cropped(first, shape))


def change(volume: Volume, modality: Modality = CT) -> Iterator[tuple[Kind, Volume]]:
    """A scan of a modality in which everything is there, but wrong."""
    for kind, axis in ((Kind.MIRRORED, 0), (Kind.UPSIDE_DOWN, 2), (Kind.BACK_TO_FRONT, 1)):
        flipped = np.flip(volume.hu, _own_axis(volume, axis))
        yield kind, replace(volume, hu=np.ascontiguousarray(flipped))
    if modality is not CT:
        return
    mr = imitate_mr(volume.hu)
    yield Kind.LIKE_MR, replace(volume, hu=mr)
    yield Kind.LIKE_SHIFTED_MR, replace(volume, hu=mr * 1.2 - 1000.0)


def imitate_mr(values_hu: NDArray[np.generic]) -> NDArray[np.float32]:
    """Intensities from 0 to about 900 with the order of T1-weighted MR: fat bright, fluid dark, air and bone black."""
    knots_hu = [-1024, -900, -300, -120, -60, -10, 30, 60, 100, 200, 400, 1500]
    signal = [0, 5, 40, 700, 900, 500, 350, 420, 520, 350, 120, 30]
    noise = np.random.default_rng(0).normal(0.0, 12.0, values_hu.shape)
    return (np.interp(values_hu.astype(float), knots_hu, signal) + np.abs(noise)).astype(np.float32)


def _own_axis(volume: Volume, axis: int) -> int:
    """The axis of the array that runs along a RAS axis."""
    return int(np.argmax(np.abs(volume.grid.ras_from_ijk[axis, :3])))
