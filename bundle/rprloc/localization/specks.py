"""Pieces of a mask that lie apart from the organ: stray voxels of a label, which would make its box too large."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rprloc.annotation import Annotation, Mask
from rprloc.geometry import extreme_points_of_mask

FAR_MM = 10.0
"""A speck reaches further than this beyond the box of the organ."""

SMALL_SHARE = 0.01
FEW_VOXELS, FEW_SHARE = 10, 0.1
"""A piece is small with less than SMALL_SHARE of the voxels of the largest piece; of an organ of few voxels, also with
fewer than FEW_VOXELS and less than FEW_SHARE."""

DOUBTED_SHARE = 0.2
"""A piece that is not small, but has less than this share, may be stray, too: it is kept and told."""

APART_MM = 20.0
"""Large pieces that are further apart may be two organs, such as the kidneys, or one and a mistake: that is told."""


def leave_out_specks(annotation: Annotation) -> tuple[Annotation, tuple[str, ...], dict[str, str]]:
    """The annotation without the specks of its masks; notes on these; and, by organ, doubts about pieces that are kept.

    See :class:`Pieces` for what a speck is. Organs without a mask, and those without specks, stay as they are.
    """
    points_ras, masks = dict(annotation.points_ras), dict(annotation.masks)
    notes: list[str] = []
    doubts: dict[str, str] = {}
    for organ, mask in annotation.masks.items():
        cleaned, told, doubt = without_specks(mask, organ)
        notes += told
        if doubt:
            doubts[organ] = doubt
        if cleaned is not mask:
            masks[organ] = cleaned
            points_ras[organ] = extreme_points_of_mask(cleaned.voxels, cleaned.grid)
    return replace(annotation, points_ras=points_ras, masks=masks), tuple(notes), doubts


def without_specks(mask: Mask, organ: str) -> tuple[Mask, list[str], str]:
    """A mask of an organ without its specks (itself if it has none), notes on its pieces, and a doubt about some that
    are kept, or an empty text.
    """
    found = Pieces.of(mask)
    notes: list[str] = []
    doubt = ""
    if found is None:
        return mask, notes, doubt
    if found.specks.any():
        notes.append(
            f"The label of {organ} has {_voxels(found.specks, mask)}. Such specks are left out. If they belong to the "
            "organ, join them to it in the label map."
        )
    if found.gap_mm > APART_MM:
        notes.append(
            f"The label of {organ} lies in large pieces, {found.gap_mm:.0f} mm apart. The box spans them all. If that "
            "is not meant, give each a label of its own, or erase what does not belong to the organ."
        )
    if found.doubted.any():
        doubt = (
            f"The label of {organ} has {_voxels(found.doubted, mask)}. The box spans them, too. If they do not belong "
            "to the organ, erase them in the label map."
        )
    if not found.specks.any():
        return mask, notes, doubt
    return Mask.cut_from(mask.voxels & ~found.specks, mask.grid), notes, doubt


def _voxels(voxels: NDArray[np.bool_], mask: Mask) -> str:
    """How many voxels these are, and where the first of them lies."""
    count = int(np.count_nonzero(voxels))
    place = ", ".join(f"{mm:.0f}" for mm in mask.grid.ras(np.unravel_index(int(voxels.argmax()), voxels.shape)))
    if count == 1:
        return f"1 voxel apart from the organ, at RAS ({place}) mm"
    return f"{count} voxels apart from the organ, the first at RAS ({place}) mm"


@dataclass(frozen=True, eq=False)
class Pieces:
    """The connected pieces of a mask: which voxels (I, J, K) lie apart from the organ, and how far the rest is spread.

    ``specks`` are small beside the largest piece (see SMALL_SHARE) and reach more than FAR_MM beyond the box of all
    pieces that are not. So pairs such as the lungs stay, and crumbs beside an organ. ``doubted`` are not small, but
    less than DOUBTED_SHARE of the largest piece, and reach as far beyond the box of all that are more. ``gap_mm`` is
    the widest between the boxes of the other pieces, from each to the nearest.
    """

    specks: NDArray[np.bool_]
    doubted: NDArray[np.bool_]
    gap_mm: float

    @classmethod
    def of(cls, mask: Mask) -> Pieces | None:
        """Those of a mask; None if it has one piece alone."""
        pieces, sizes, reach = _label_pieces(mask.voxels)
        if len(sizes) < 2:
            return None
        largest = sizes.max()
        small = (sizes < SMALL_SHARE * largest) | ((sizes < FEW_VOXELS) & (sizes < FEW_SHARE * largest))
        large = ~small & (sizes >= DOUBTED_SHARE * largest)

        def far_from(kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
            low, high = reach[kept, :, 0].min(0), reach[kept, :, 1].max(0)
            beyond_mm = np.maximum(low - reach[:, :, 0], reach[:, :, 1] - high) * mask.grid.spacing_mm
            far: NDArray[np.bool_] = beyond_mm.max(1) > FAR_MM
            return far

        specks, doubted = small & far_from(~small), ~small & ~large & far_from(large)
        gap_mm = _widest_gap(reach[large] * mask.grid.spacing_mm[:, None])
        specks, doubted = (np.concatenate([[False], chosen])[pieces] for chosen in (specks, doubted))
        return cls(specks, doubted, gap_mm)


def _widest_gap(reach_mm: NDArray[np.float64]) -> float:
    """The widest gap between boxes (N, 3, 2), from each to the nearest: the longest edge of their spanning tree."""
    low, high = reach_mm[..., 0], reach_mm[..., 1]
    between = np.maximum(low[:, None] - high[None], low[None] - high[:, None]).max(-1).clip(0.0)
    to_tree, widest = between[0].copy(), 0.0
    joined = np.zeros(len(between), bool)
    joined[0] = True
    while not joined.all():
        nearest = int(np.where(joined, np.inf, to_tree).argmin())
        widest, joined[nearest] = max(widest, float(to_tree[nearest])), True
        to_tree = np.minimum(to_tree, between[nearest])
    return widest


def has_pieces_beyond_the_largest(mask: NDArray[np.bool_]) -> bool:
    """Whether any pieces of a mask (I, J, K), small or not, lie beyond the box of its largest one."""
    _, sizes, reach = _label_pieces(mask)
    low, high = reach[int(np.argmax(sizes))].T
    return bool((low - reach[:, :, 0].min(0) > 1).any() or (reach[:, :, 1].max(0) - high > 1).any())


def _label_pieces(
    voxels: NDArray[np.bool_],
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """The number of the connected piece at each voxel (I, J, K), from 1 on; of each piece its voxels (N,), and where
    it begins and ends along each axis (N, 3, 2).
    """
    from scipy.ndimage import find_objects, label

    pieces, count = label(voxels, np.ones((3, 3, 3)))
    reach = [[(along.start, along.stop) for along in box] for box in find_objects(pieces)]
    return pieces, np.bincount(pieces.ravel(), minlength=count + 1)[1:], np.array(reach)
