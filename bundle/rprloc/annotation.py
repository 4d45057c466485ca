"""What a person has marked on a scan: organs by extreme points or masks, landmarks by a point each, and the scan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rprloc.errors import InputError
from rprloc.geometry import Grid, Points, assign_extreme_points, extreme_points_of_mask

if TYPE_CHECKING:
    from rprloc.volume import Volume

OUTSIDE_TOLERANCE_MM = 1.0
"""How far a marked point may lie outside the scan."""

_MISSING_LETTERS = 160  # of the names in a message; beyond, it gives the numbers alone


class Marking(str, Enum):
    """How the organs of a scan were marked; the values stand in the files of support sets."""

    LABEL_MAP = "label map"
    EXTREME_POINTS = "extreme points"
    MIXED = "mixed"


@dataclass(frozen=True, eq=False)
class Mask:
    """The voxels (I, J, K) of an organ, bool, on a grid of its own, as small as the organ."""

    voxels: NDArray[np.bool_]
    grid: Grid

    @classmethod
    def cut_from(cls, voxels: NDArray[np.bool_], grid: Grid) -> Mask:
        """The organ's part of a larger array (I, J, K) that has voxels of it."""
        from scipy.ndimage import find_objects

        (around,) = find_objects(voxels.view(np.uint8))
        first, shape = [part.start for part in around], [part.stop - part.start for part in around]
        return cls(voxels[around], grid.cropped(first, shape))


@dataclass(frozen=True, eq=False)
class Annotation:
    """The organs and landmarks that are marked on one scan.

    Parameters
    ----------
    points_ras : mapping of str to (6, 3) float64
        The six extreme points of each organ by its name, in RAS mm, in the order of :data:`rprloc.WALLS`.
    masks : mapping of str to Mask
        The masks of organs, where they are known. A box is better with one, because the whole outline is known.
    marking : Marking
        How the organs were marked.
    notes : tuple of str
        What was read from files and what was left out, each file in a sentence or two.
    landmarks_ras : mapping of str to (3,) float64
        The landmarks by their name, each a point in RAS mm. No landmark may have the name of an organ.

    Raises
    ------
    InputError
        If a landmark is not one finite point, or has the name of an organ.

    See Also
    --------
    rprloc.read_example : Reads a scan and its annotation from files.

    Examples
    --------
    >>> example.annotation.points_ras["heart"].shape, list(example.annotation.masks)
    ((6, 3), ['heart'])
    """

    points_ras: Mapping[str, Points]
    masks: Mapping[str, Mask] = field(default_factory=dict)
    marking: Marking = Marking.EXTREME_POINTS
    notes: tuple[str, ...] = ()
    landmarks_ras: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        landmarks_ras = {name: _one_point(name, given) for name, given in self.landmarks_ras.items()}
        object.__setattr__(self, "landmarks_ras", landmarks_ras)
        both = [name for name in landmarks_ras if name in self.points_ras]
        if both:
            raise InputError(f"{', '.join(both)} is marked as an organ and as a landmark. Give each a name of its own.")

    @classmethod
    def from_landmarks(cls, landmarks_ras: Mapping[str, ArrayLike]) -> Annotation:
        """The annotation of landmarks alone, by one point (3,) of each, RAS mm.

        Raises
        ------
        InputError
            If a landmark is not one finite point.

        Examples
        --------
        >>> rprloc.Annotation.from_landmarks({"carina": [2.0, 31.5, 120.0]}).landmarks_ras["carina"].shape
        (3,)
        """
        return cls(
            {}, landmarks_ras=cast("Mapping[str, NDArray[np.float64]]", landmarks_ras)
        )  # checked when it is made

    @classmethod
    def from_points(cls, points_ras: Mapping[str, ArrayLike]) -> Annotation:
        """The annotation by six points (6, 3) of each organ, RAS mm, in any order.

        Raises
        ------
        InputError
            If an organ has not six finite points, or if they span no volume.

        Examples
        --------
        >>> walls = [[10, 0, 0], [30, 0, 0], [20, -9, 0], [20, 9, 0], [20, 0, -5], [20, 0, 5]]
        >>> list(rprloc.Annotation.from_points({"spleen": walls}).points_ras)
        ['spleen']
        """
        return cls({organ: assign_extreme_points(given) for organ, given in points_ras.items()})

    @classmethod
    def from_labels(cls, labels: NDArray[np.integer], grid: Grid, names: Mapping[int, str]) -> Annotation:
        """The annotation by a label map (I, J, K) on ``grid`` and the names of its labels.

        Raises
        ------
        InputError
            For names whose labels have no voxel, all of them at once, and if no name was given.

        Examples
        --------
        >>> labels = np.zeros((20, 20, 20), int)
        >>> labels[5:15, 5:15, 5:15] = 3
        >>> grid = rprloc.Grid.isotropic(labels.shape, 2.0, [0.0, 0.0, 0.0])
        >>> rprloc.Annotation.from_labels(labels, grid, {3: "spleen"}).masks["spleen"].voxels.shape
        (10, 10, 10)
        """
        if not names:
            raise InputError("No organ was named. Name at least one label of the label map.")
        points_ras, masks, missing = {}, {}, {}
        for number, organ in names.items():
            mask = labels == number
            if not mask.any():
                missing[number] = organ
            if missing:
                continue  # only to tell of all of them
            points_ras[organ] = extreme_points_of_mask(mask, grid)
            masks[organ] = Mask.cut_from(mask, grid)
        if missing:
            raise InputError(describe_missing(missing))
        return cls(points_ras, masks, Marking.LABEL_MAP)


def lie_inside(points_ras: Points, grid: Grid, mask: Mask | None = None) -> NDArray[np.bool_]:
    """For marked points (N, 3), RAS mm: whether each lies in the scan on ``grid``, to OUTSIDE_TOLERANCE_MM.

    On axes at an angle, points on the corners of a ``mask``'s last voxels stick out of the scan by half a voxel.
    """
    corner_mm = 0.0 if mask is None else float(np.linalg.norm(mask.grid.half_voxel_ras_mm))
    return grid.contains(points_ras, OUTSIDE_TOLERANCE_MM + corner_mm)


def _one_point(name: str, given: ArrayLike) -> NDArray[np.float64]:
    """The point (3,) of a landmark, checked."""
    try:
        point_ras = np.array(given, float)
    except (TypeError, ValueError):
        point_ras = np.zeros(0)
    if point_ras.shape != (3,) or not np.isfinite(point_ras).all():
        raise InputError(f"Landmark {name} is not one point of three finite numbers in mm: {given!r}. Mark it again.")
    return point_ras


def describe_missing(missing: Mapping[int, str]) -> str:
    """Which names have no voxel, all of them, as a name that is wrong is seldom alone."""
    if len(missing) == 1:
        ((number, organ),) = missing.items()
        return (
            f"Label {number} ({organ}) has no voxel in the label map. Leave this name out, or give the right label map."
        )
    which = ", ".join(f"{number} ({organ})" for number, organ in missing.items())
    if len(which) > _MISSING_LETTERS:
        which = _ranges(sorted(missing))
    return f"Labels {which} have no voxel in the label map. Leave these names out, or give the right label map."


def _ranges(numbers: Sequence[int]) -> str:
    """Integers in ascending order in short, as in 1-4, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


@dataclass(frozen=True, eq=False)
class Example:
    """A scan with its annotation: what :meth:`rprloc.Localizer.learn` learns organs from.

    Parameters
    ----------
    volume : Volume
        The scan.
    annotation : Annotation
        The organs that are marked on it.
    name : str
        What the scan is called in support sets. It travels with the set, so it should not tell who the patient is.
    warnings : tuple of str
        What was done to the scan when it was read, each in a sentence or two; :meth:`rprloc.Localizer.learn` adds its
        reasons to doubt the scan.

    Examples
    --------
    >>> walls = [[10, 0, 0], [30, 0, 0], [20, -9, 0], [20, 9, 0], [20, 0, -5], [20, 0, 5]]
    >>> rprloc.Example(volume, rprloc.Annotation.from_points({"cyst": walls}), name="patient 7").warnings
    ()
    """

    volume: Volume
    annotation: Annotation
    name: str
    warnings: tuple[str, ...] = ()


def scan_pseudonym(volume: Volume) -> str:
    """A name for a scan that tells nothing about the patient, the same whenever it is read: a hash of its voxels."""
    digest = hashlib.sha256(np.ascontiguousarray(volume.hu).tobytes()).hexdigest()
    return f"scan-{digest[:10]}"
