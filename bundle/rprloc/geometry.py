"""Every coordinate of the project: voxel grids, world points, boxes and extreme points.

Frames: ``_ras`` is world millimetres, x to the patient's right, y to the front, z to the head (MRML's world frame).
``_ijk`` is a continuous index in array order; an integer index is a voxel's centre. LPS, the frame of DICOM, ITK and
files of Slicer Markups, and LAS are converted here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rprloc.errors import InputError

Points = NDArray[np.float64]
"""(N, 3) float64."""

VoxelBox = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""A block of voxels: along i, j and k the first index and the one behind the last."""

WALLS = ("left", "right", "posterior", "anterior", "inferior", "superior")
"""The order of a box's six walls and of an organ's six extreme points.

Along each RAS axis the minimum comes first, then the maximum.

Examples
--------
>>> dict(zip(rprloc.WALLS, found["heart"].points_ras))["left"].shape
(3,)
>>> rprloc.WALLS[4:]
('inferior', 'superior')
"""

_LPS_RAS_SIGNS = np.array([-1.0, -1.0, 1.0])
_LAS_RAS_SIGNS = np.array([-1.0, 1.0, 1.0])


def ras_from_lps(points_lps: ArrayLike) -> Points:
    """World points (..., 3) in LPS mm, as RAS mm."""
    return np.asarray(points_lps, float) * _LPS_RAS_SIGNS


def ras_from_las(points_las: ArrayLike) -> Points:
    """World points (..., 3) in LAS mm, which some NRRD files use, as RAS mm."""
    return np.asarray(points_las, float) * _LAS_RAS_SIGNS


def lps_from_ras(points_ras: ArrayLike) -> Points:
    """World points (..., 3) in RAS mm, as LPS mm."""
    return np.asarray(points_ras, float) * _LPS_RAS_SIGNS


def apply_affine(b_from_a: NDArray[np.floating], points_a: ArrayLike) -> Points:
    """Points (..., 3) of frame a, in frame b, by the 4x4 matrix ``b_from_a``."""
    return np.asarray(points_a, float) @ b_from_a[:3, :3].T + b_from_a[:3, 3]


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie.

    Parameters
    ----------
    shape : (I, J, K)
        The number of voxels along each axis of the array.
    ras_from_ijk : (4, 4) array
        From continuous array positions to the world, RAS mm. An integer position is a voxel's centre.

    Raises
    ------
    InputError
        For an affine that is not finite or maps the voxels onto a plane.

    Examples
    --------
    >>> grid = rprloc.Grid((10, 10, 5), np.diag([2.0, 2.0, 4.0, 1.0]))
    >>> grid.ras([1, 1, 1]).tolist(), grid.bounds.size_mm.tolist()
    ([2.0, 2.0, 4.0], [20.0, 20.0, 20.0])
    """

    shape: tuple[int, int, int]
    ras_from_ijk: NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.array(self.ras_from_ijk, float)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise InputError(
                "The image's affine is not finite or flattens the volume. Write the image again with its true spacing, "
                "so that the 4x4 matrix has three independent axes."
            )
        affine.setflags(write=False)
        object.__setattr__(self, "ras_from_ijk", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.same_as(other, tolerance_mm=0.0)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def from_lps(
        cls, shape: Sequence[int], origin_lps: ArrayLike, direction_lps: ArrayLike, spacing_mm: ArrayLike
    ) -> Grid:
        """A grid from ITK's origin (3,), direction (9,) or (3, 3), and spacing (3,)."""
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(direction_lps, float).reshape(3, 3) * np.asarray(spacing_mm, float)
        affine[:3, 3] = np.asarray(origin_lps, float)
        affine[:3] *= _LPS_RAS_SIGNS[:, None]
        i, j, k = shape
        return cls((i, j, k), affine)

    def to_lps(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """ITK's origin (3,), direction (3, 3) and spacing (3,)."""
        axes_lps = self.ras_from_ijk[:3, :3] * _LPS_RAS_SIGNS[:, None]
        return lps_from_ras(self.ras_from_ijk[:3, 3]), axes_lps / self.spacing_mm, self.spacing_mm

    @classmethod
    def isotropic(cls, shape: Sequence[int], spacing_mm: float, origin_ras: ArrayLike) -> Grid:
        """An axis-aligned RAS grid with cubic voxels; ``origin_ras`` is the centre of voxel (0, 0, 0)."""
        affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
        affine[:3, 3] = origin_ras
        i, j, k = shape
        return cls((i, j, k), affine)

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance (3,) between neighbouring voxel centres along i, j and k."""
        return np.linalg.norm(self.ras_from_ijk[:3, :3], axis=0)

    @property
    def half_voxel_ras_mm(self) -> NDArray[np.float64]:
        """Half of a voxel's extent (3,) along the RAS axes: the distance from its centre to its outermost corner."""
        return 0.5 * np.abs(self.ras_from_ijk[:3, :3]).sum(axis=1)

    @property
    def bounds(self) -> Box:
        """The smallest RAS box that holds every voxel, to the outer faces."""
        corners_ijk = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in self.shape], indexing="ij"), -1).reshape(-1, 3)
        corners_ras = self.ras(corners_ijk)
        return Box(corners_ras.min(0), corners_ras.max(0))

    def ras(self, points_ijk: ArrayLike) -> Points:
        """World positions (..., 3) of array positions (..., 3)."""
        return apply_affine(self.ras_from_ijk, points_ijk)

    def ijk(self, points_ras: ArrayLike) -> Points:
        """Continuous array positions (..., 3) of world points (..., 3)."""
        return apply_affine(self.ijk_from_ras, points_ras)

    @cached_property
    def ijk_from_ras(self) -> NDArray[np.floating]:
        """The inverse (4, 4) of ``ras_from_ijk``."""
        return np.linalg.inv(self.ras_from_ijk)

    def contains(self, points_ras: ArrayLike, tolerance_mm: float = 1e-3) -> NDArray[np.bool_]:
        """For world points (..., 3): whether each lies inside the outer faces of the grid."""
        ijk, slack = self.ijk(points_ras), tolerance_mm / self.spacing_mm
        return np.all((ijk >= -0.5 - slack) & (ijk <= np.array(self.shape) - 0.5 + slack), axis=-1)

    def same_as(self, other: Grid, tolerance_mm: float = 0.1) -> bool:
        """Whether shape is equal and every corner voxel lies within ``tolerance_mm`` of the other grid's."""
        if self.shape != other.shape:
            return False
        corners_ijk = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij"), -1).reshape(-1, 3)
        distance_mm = np.linalg.norm(self.ras(corners_ijk) - other.ras(corners_ijk), axis=1)
        return bool(distance_mm.max() <= tolerance_mm)

    def cropped(self, start_ijk: Sequence[int], shape: Sequence[int]) -> Grid:
        """The grid of the sub-array that begins at ``start_ijk``; its origin moves along."""
        affine = self.ras_from_ijk.copy()
        affine[:3, 3] = self.ras(start_ijk)
        i, j, k = shape
        return Grid((i, j, k), affine)

    def voxels_around(self, box: Box, margin_mm: float = 0.0) -> VoxelBox | None:
        """The smallest block of voxels that holds a box and a margin, cut off at the faces of the grid.

        A voxel belongs to it if any of it lies in the box; faces on the border of a voxel do not count. In a scan that
        is stored obliquely the block reaches around the box's corners. None if the box lies outside the grid.
        """
        corners_ras = np.array(list(product(*zip(box.min_ras - margin_mm, box.max_ras + margin_mm, strict=True))))
        corners_ijk = self.ijk(corners_ras)
        first = np.floor(corners_ijk.min(0) + 0.5 + 1e-6).astype(int)
        end = np.maximum(np.ceil(corners_ijk.max(0) + 0.5 - 1e-6).astype(int), first + 1)  # also of a box without depth
        first, end = first.clip(0, None), np.minimum(end, self.shape)
        if (end <= first).any():
            return None
        i, j, k = zip(first.tolist(), end.tolist(), strict=True)
        return i, j, k

    def axis_along(self, ras_axis: int) -> int:
        """Which axis of the array runs most nearly along a RAS axis (0, 1 or 2), each of the three along another."""
        from scipy.optimize import linear_sum_assignment

        cosines = np.abs(self.ras_from_ijk[:3, :3]) / self.spacing_mm
        return int(linear_sum_assignment(-cosines)[1][ras_axis])

    def centres_ras(self) -> Points:
        """World positions (I, J, K, 3) of all voxel centres."""
        return self.ras(np.moveaxis(np.indices(self.shape), 0, -1))


@dataclass(frozen=True)
class Box:
    """A box along the RAS axes, in mm; its walls are outer faces, so that one voxel has a volume.

    Parameters
    ----------
    min_ras, max_ras : (3,) array
        The corner to the left, back and feet, and the one to the right, front and head, RAS mm.

    Raises
    ------
    ValueError
        If a wall lies beyond the opposite one.

    Examples
    --------
    >>> box = rprloc.Box([0.0, 0.0, 0.0], [10.0, 20.0, 30.0])
    >>> box.size_mm.tolist(), box.centre_ras.tolist()
    ([10.0, 20.0, 30.0], [5.0, 10.0, 15.0])
    >>> box.iou(rprloc.Box([0.0, 0.0, 0.0], [10.0, 20.0, 15.0]))
    0.5
    """

    min_ras: NDArray[np.float64]
    max_ras: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("min_ras", "max_ras"):
            wall = np.array(getattr(self, name), float)
            wall.setflags(write=False)
            object.__setattr__(self, name, wall)
        if not np.all(self.min_ras <= self.max_ras):
            raise ValueError(f"A box needs min_ras <= max_ras, got {self.min_ras} and {self.max_ras}.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and np.array_equal(self.walls_mm, other.walls_mm)

    def __hash__(self) -> int:
        return hash(tuple(self.walls_mm.tolist()))

    def contains(self, point_ras: ArrayLike) -> bool:
        """Whether a world point (3,) lies in the box or on a wall."""
        return bool((np.asarray(point_ras) >= self.min_ras).all() and (np.asarray(point_ras) <= self.max_ras).all())

    def same_as(self, other: Box, tolerance_mm: float = 0.1) -> bool:
        """Whether every wall lies within ``tolerance_mm`` of the other box's."""
        return bool(self.wall_distances_mm(other).max() <= tolerance_mm)

    @classmethod
    def from_extreme_points(cls, points_ras: ArrayLike) -> Box:
        """The box of six extreme points (6, 3) in the order of WALLS: each wall from its own point alone.

        So one outlier moves one wall. Where located points have crossed, the two walls of that axis change places.
        """
        across_mm = wall_coordinates(points_ras).reshape(3, 2)
        return cls(across_mm.min(1), across_mm.max(1))

    @property
    def walls_mm(self) -> NDArray[np.float64]:
        """The six wall coordinates (6,) in the order of WALLS."""
        return np.stack([self.min_ras, self.max_ras], axis=1).reshape(6)

    @property
    def faces_ras(self) -> NDArray[np.float64]:
        """The corners (6, 4, 3) of the six faces in the order of WALLS, each face's in order around it."""
        faces = np.empty((6, 4, 3))
        for wall in range(6):
            across, along = (axis for axis in range(3) if axis != wall // 2)
            faces[wall, :, wall // 2] = self.walls_mm[wall]
            faces[wall, :, across] = self.walls_mm[2 * across + np.array([0, 1, 1, 0])]
            faces[wall, :, along] = self.walls_mm[2 * along + np.array([0, 0, 1, 1])]
        return faces

    @property
    def centre_ras(self) -> NDArray[np.float64]:
        """The centre (3,), RAS mm."""
        return 0.5 * (self.min_ras + self.max_ras)

    @property
    def size_mm(self) -> NDArray[np.float64]:
        """The edges (3,) along the RAS axes: from left to right, from back to front, from feet to head."""
        return self.max_ras - self.min_ras

    @property
    def volume_mm3(self) -> float:
        """The volume in cubic millimetres."""
        return float(np.prod(self.size_mm))

    def iou(self, other: Box) -> float:
        """Intersection over union of the volumes; 0 for two boxes without any volume."""
        overlap_mm = np.minimum(self.max_ras, other.max_ras) - np.maximum(self.min_ras, other.min_ras)
        intersection = float(np.prod(np.maximum(overlap_mm, 0.0)))
        union = self.volume_mm3 + other.volume_mm3 - intersection
        return intersection / union if union > 0 else 0.0

    def cross_section(self, point_ras: ArrayLike, normal_ras: ArrayLike) -> Points:
        """The polygon (N, 3), 3 to 6 corners in order, in which a plane cuts the box; (0, 3) if it does not."""
        corners_ras = np.stack([self.min_ras, self.max_ras])[np.indices((2, 2, 2)).reshape(3, 8).T, np.arange(3)]
        above_mm = (corners_ras - np.asarray(point_ras, float)) @ np.asarray(normal_ras, float)
        edges = [(corner, corner | bit) for corner in range(8) for bit in (1, 2, 4) if not corner & bit]
        cut = [(start, end) for start, end in edges if (above_mm[start] < 0) != (above_mm[end] < 0)]
        if not cut:
            return np.empty((0, 3))
        start, end = np.array(cut).T
        part = above_mm[start] / (above_mm[start] - above_mm[end])
        points = corners_ras[start] + part[:, None] * (corners_ras[end] - corners_ras[start])
        off = points - points.mean(axis=0)
        across = off[np.argmax(np.linalg.norm(off, axis=1))]
        normal = np.asarray(normal_ras, float)
        angles = np.arctan2(off @ np.cross(normal, across), off @ across * np.linalg.norm(normal))
        return points[np.argsort(angles)]

    def wall_distances_mm(self, other: Box) -> NDArray[np.float64]:
        """Absolute distance (6,) between the same walls; their mean is the absolute wall distance (AWD)."""
        return np.abs(self.walls_mm - other.walls_mm)


def wall_coordinates(points_ras: ArrayLike) -> NDArray[np.float64]:
    """The coordinate (6,) of each of six extreme points (6, 3) across its own wall, in the order of WALLS."""
    return np.asarray(points_ras, float).reshape(6, 3)[np.arange(6), np.arange(6) // 2]


def assign_extreme_points(points_ras: ArrayLike) -> Points:
    """Six points (6, 3) given in any order, put into the order of WALLS.

    The assignment maximizes the sum of outward coordinates (the assignment problem), so that each point serves one
    wall.
    Raises InputError if there are not six finite points or if two opposite walls coincide.
    """
    from scipy.optimize import linear_sum_assignment

    points = np.asarray(points_ras, float)
    if points.shape != (6, 3) or not np.isfinite(points).all():
        count = len(points) if points.ndim else 0
        fault = f"has {count} extreme points, not six" if count != 6 else "has a point that is not three finite numbers"
        raise InputError(
            f"The organ {fault}. Place one point on each of its left, right, posterior, anterior, inferior and "
            "superior walls."
        )
    outward_mm = np.stack([points[:, wall // 2] * (1 if wall % 2 else -1) for wall in range(6)], axis=1)
    rows, walls = linear_sum_assignment(-outward_mm)
    ordered = np.empty((6, 3))
    ordered[walls] = points[rows]
    thickness_mm = wall_coordinates(ordered).reshape(3, 2) @ [-1.0, 1.0]
    if (thickness_mm <= 0.0).any():
        flat = [("left-right", "posterior-anterior", "inferior-superior")[a] for a in np.flatnonzero(thickness_mm <= 0)]
        raise InputError(
            f"The six extreme points span no volume along {', '.join(flat)}. "
            "Place them on the outer walls of the organ, so that points on opposite walls differ."
        )
    return ordered


def extreme_points_of_mask(mask: NDArray[np.bool_], grid: Grid) -> Points:
    """The six extreme points (6, 3) of a mask (I, J, K), in the order of WALLS, in RAS mm.

    Each lies in the centre of the extreme slice (or, where that is not part of the organ, at its voxel nearest to the
    centre), moved out to the voxel's outer face. Raises InputError for an empty mask.
    """
    if mask.shape != grid.shape:
        raise ValueError(f"mask has shape {mask.shape}, its grid {grid.shape}")
    voxels_ras = grid.ras(np.argwhere(mask))
    if len(voxels_ras) == 0:
        raise InputError("The label has no voxels in this image. Leave its name out, or give the right label map.")
    half_mm = grid.half_voxel_ras_mm
    points = np.empty((6, 3))
    for wall in range(6):
        axis, sign = wall // 2, 1.0 if wall % 2 else -1.0
        outward_mm = sign * voxels_ras[:, axis]
        layer = voxels_ras[outward_mm >= outward_mm.max() - half_mm[axis]]
        middle = layer.mean(axis=0)
        off_mm2 = np.round(np.square(layer - middle).sum(axis=1), 6)
        # Ties go by place in the world, so that the point does not depend on how the scan is stored.
        points[wall] = layer[np.lexsort((*np.round(layer, 6).T, off_mm2))[0]]
        points[wall, axis] = sign * (outward_mm.max() + half_mm[axis])
    return points


def describe_box(box: Box) -> str:
    """A box's size and centre, for people."""
    size = " x ".join(f"{mm:.0f}" for mm in box.size_mm)
    return f"{size} mm around RAS {describe_point(box.centre_ras)}"


def describe_point(point_ras: NDArray[np.float64]) -> str:
    """A point (3,) in mm, for people."""
    return f"({', '.join(f'{mm:.0f}' for mm in point_ras)})"
