"""TODO annotation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from rprloc.errors import InputError
from rprloc.geometry import Grid, Points, extreme_points_of_mask
from rprloc.volume import Volume

Mask = tuple[NDArray[np.bool_], Grid]
"""The voxels (I, J, K) of an organ on a grid of its own, as small as the organ."""


def scan_pseudonym(volume: Volume) -> str:
    """A name for a scan that tells nothing about the patient, the same whenever it is read: a hash of its voxels."""
    digest = hashlib.sha256(np.ascontiguousarray(volume.hu).tobytes()).hexdigest()
    return f"scan-{digest[:10]}"


def points_from_labels(labels: NDArray[np.integer], grid: Grid, names: Mapping[int, str]) -> dict[str, Points]:
    """The extreme points (6, 3) of every named label of a label map (I, J, K).

    Raises InputError for a name whose label has no voxel, and if no name was given.
    """
    if not names:
        raise InputError("No organ was named; at least one label with a name was expected; name one.")
    points = {}
    for number, name in names.items():
        mask = labels == number
        if not mask.any():
            raise InputError(
                f"Label {number} ({name}) has no voxel in the label map; every named organ must be in it; leave the "
                "name out or give the right label map."
            )
        points[name] = extreme_points_of_mask(mask, grid)
    return points


def masks_from_labels(labels: NDArray[np.integer], grid: Grid, names: Mapping[int, str]) -> dict[str, Mask]:
    """The mask of every named label of a label map (I, J, K), cut to the organ; labels without a voxel are left out."""
    masks = {}
    for number, name in names.items():
        found = find_objects((labels == number).view(np.uint8))
        if found:
            first, shape = [part.start for part in found[0]], [part.stop - part.start for part in found[0]]
            masks[name] = (labels[found[0]] == number, grid.cropped(first, shape))
    return masks
