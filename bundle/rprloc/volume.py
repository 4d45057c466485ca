"""Scans in memory: an array and where its voxels lie; cropping, resampling, and ITK's form of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.geometry import Box, Grid
from rprloc.intensity import AIR_HU


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan in memory: an array and where its voxels lie.

    Parameters
    ----------
    hu : (I, J, K) array
        Hounsfield units, of any number type, in any order of axes; of an MR scan its intensities, on any scale.
    grid : Grid
        Where the voxels lie in the world, RAS mm.
    name : str
        What the scan is called in results.
    modality : str
        What its file says that it is, as DICOM calls it ("CT", "MR"); empty if it says nothing.

    Raises
    ------
    ValueError
        If array and grid differ in shape.

    Examples
    --------
    >>> grid = rprloc.Grid.isotropic((40, 40, 40), 4.0, origin_ras=[0.0, 0.0, 0.0])
    >>> rprloc.Volume(np.full(grid.shape, -1024, np.int16), grid, "air").hu.shape
    (40, 40, 40)
    """

    hu: NDArray[np.generic]
    grid: Grid
    name: str = ""
    modality: str = ""

    def __post_init__(self) -> None:
        if self.hu.shape != self.grid.shape:
            raise ValueError(f"the array has shape {self.hu.shape}, its grid {self.grid.shape}")

    def crop(self, box: Box, margin_mm: float = 0.0) -> Volume:
        """The part of the volume in which a box and a margin lie, as a view of the same voxels; the grid moves along.

        Parameters
        ----------
        box : Box
            In RAS mm. In a scan that is stored obliquely, the smallest block of voxels around it is taken.
        margin_mm : float
            Added on all six sides. What lies outside the scan is left out.

        Raises
        ------
        InputError
            If the box lies outside the scan.

        Examples
        --------
        >>> part = volume.crop(found["heart"].box, margin_mm=10.0)
        >>> part.grid.contains(found["heart"].box.centre_ras).item()
        True
        """
        block = self.grid.voxels_around(box, margin_mm)
        if block is None:
            raise InputError(
                f"The box from RAS {np.round(box.min_ras, 1).tolist()} to {np.round(box.max_ras, 1).tolist()} mm lies "
                f"outside the scan {self.name}. Crop the scan in which the box was found."
            )
        start, shape = [first for first, _ in block], [end - first for first, end in block]
        part = self.hu[tuple(slice(first, end) for first, end in block)]
        return replace(self, hu=part, grid=self.grid.cropped(start, shape))


def to_sitk(array: NDArray[np.generic], grid: Grid) -> sitk.Image:
    """An ITK image of an array (I, J, K) on its grid."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    origin_lps, direction_lps, spacing_mm = grid.to_lps()
    image.SetOrigin(origin_lps.tolist())
    image.SetDirection(direction_lps.ravel().tolist())
    image.SetSpacing(spacing_mm.tolist())
    return image


def from_sitk(image: sitk.Image) -> tuple[NDArray[np.generic], Grid]:
    """The array (I, J, K) and the grid of a 3D scalar ITK image."""
    grid = Grid.from_lps(image.GetSize(), image.GetOrigin(), image.GetDirection(), image.GetSpacing())
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), grid


def resample(volume: Volume, grid: Grid, fill: float = AIR_HU) -> Volume:
    """The volume, as float32, on another grid: averaged where the source is finer (against aliasing), then linear.

    ``fill`` where the centre of a voxel lies outside of the volume. The bins in which voxels are averaged are anchored
    in the world, and filled up at the volume's faces by its outermost voxels, so that the result does not depend on how
    the scan was stored: flipped, permuted or at another spacing.
    """
    hu, source, outside = *_as_stored(volume), None
    spacing_mm = float(grid.spacing_mm.min())
    factors = np.maximum(np.floor(spacing_mm / source.spacing_mm + 0.01), 1).astype(int)
    if (factors > 1).any():
        # A bin begins at the voxel face nearest to the new grid's corner; the shift decides between faces equally near.
        corner_ras = grid.bounds.min_ras + np.array([1e-3, 2e-3, 3e-3])
        before = -np.rint(source.ijk(corner_ras) + 0.5).astype(int) % factors
        hu = _binned(hu, factors, before)
        outside = _outside(source, grid)  # what was filled up does not make the volume larger
        to_source = np.diag([*factors, 1.0])
        to_source[:3, 3] = 0.5 * (factors - 1) - before
        source = Grid((hu.shape[0], hu.shape[1], hu.shape[2]), source.ras_from_ijk @ to_source)
    image = to_sitk(hu, source)
    origin_lps, direction_lps, spacing = grid.to_lps()
    lattice = (origin_lps.tolist(), spacing.tolist(), direction_lps.ravel().tolist())
    shape = [int(n) for n in grid.shape]
    resampled = sitk.Resample(image, shape, sitk.Transform(), sitk.sitkLinear, *lattice, fill, sitk.sitkFloat32)
    values = sitk.GetArrayFromImage(resampled).transpose(2, 1, 0)
    if outside is not None:
        values[outside] = fill
    return replace(volume, hu=values, grid=grid)


def _as_stored(volume: Volume) -> tuple[NDArray[np.generic], Grid]:
    """The volume's array and grid, their axes in such an order that neighbours along the first are next in memory."""
    order = np.argsort(np.abs(volume.hu.strides), kind="stable")
    affine = volume.grid.ras_from_ijk.copy()
    affine[:, :3] = affine[:, order]
    array = volume.hu.transpose(order)
    return array, Grid((array.shape[0], array.shape[1], array.shape[2]), affine)


def _binned(array: NDArray[np.generic], factors: NDArray[np.int64], before: NDArray[np.int64]) -> NDArray[np.float32]:
    """Means over bins of ``factors`` (3,) voxels of (I, J, K); the first bin begins ``before`` (3,) voxels outside.

    Bins that reach beyond the array are filled up by its outermost voxels. Quick if neighbours along i are next in
    memory.
    """
    in_i, in_j, in_k = (
        np.arange(-early, size + -(early + size) % factor).clip(0, size - 1).reshape(-1, factor)
        for early, size, factor in zip(before, array.shape, factors, strict=True)
    )
    small = np.issubdtype(array.dtype, np.integer) and array.dtype.itemsize <= 2
    sums = np.empty((len(in_k), len(in_j), len(in_i)), np.int32 if small else np.float64)
    planes = array.T
    for total, slices in zip(sums, in_k, strict=True):  # plane by plane, which stays in the processor's cache
        plane = planes[slices[0]].astype(sums.dtype)
        for other in slices[1:]:
            plane += planes[other]
        rows = sum(plane[in_j[:, n]] for n in range(in_j.shape[1]))
        total[:] = sum(rows[:, in_i[:, n]] for n in range(in_i.shape[1]))
    return (sums / factors.prod()).astype(np.float32).T


def _outside(volume: Grid, grid: Grid) -> NDArray[np.bool_]:
    """Which voxels of a grid (I, J, K) have their centres outside of a volume; centres on its very faces are inside."""
    volume_from_grid = volume.ijk_from_ras @ grid.ras_from_ijk
    outside = np.zeros(grid.shape, bool)
    for axis, size in enumerate(volume.shape):
        off = volume_from_grid[axis, 3] - 0.5 * (size - 1)  # from the volume's middle, in its voxels
        for other, along in enumerate(np.ogrid[tuple(slice(n) for n in grid.shape)]):
            if volume_from_grid[axis, other] != 0.0:
                off = off + volume_from_grid[axis, other] * along
        outside |= np.abs(off) > 0.5 * size * (1.0 + 1e-5)
    return outside
