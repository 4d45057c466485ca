"""CT volumes in memory, their resampling to the networks' grid, and Hounsfield units as the networks' input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rprloc.geometry import Grid, apply_affine

if TYPE_CHECKING:
    from rprloc.dicom import DicomSeries

AIR_HU = -1024.0
_DARKEST_DISPLAYED_HU, _DISPLAYED_AS_AIR_HU, _PADDING_HU = -300.0, -124.0, -900.0
# Soft tissue takes 60% of the range, lung and bone the rest; air, and with it everything outside the scan, is 0.
_HU_KNOTS, _INPUT_KNOTS = (-1000.0, -200.0, 300.0, 1500.0), (0.0, 0.2, 0.8, 1.0)


@dataclass(frozen=True)
class Volume:
    """A CT scan: Hounsfield units (I, J, K) and the grid they lie on.

    ``notes`` says what was done to it when it was read; ``series`` is the DICOM series that it comes from, if any.
    """

    hu: NDArray[np.generic]
    grid: Grid
    name: str = ""
    notes: tuple[str, ...] = ()
    series: DicomSeries | None = None

    def __post_init__(self) -> None:
        if self.hu.shape != self.grid.shape:
            raise ValueError(f"the array has shape {self.hu.shape}, its grid {self.grid.shape}")


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


def network_grid(grid: Grid, spacing_mm: float, anchor_mm: float) -> Grid:
    """The axis-aligned RAS grid that covers ``grid``, its outer faces at world multiples of ``anchor_mm``.

    Anchored in the world, it is the same however the scan was stored: flipped, permuted or at another spacing.
    """
    bounds, slack_mm = grid.bounds, 1e-3
    first = np.floor((bounds.min_ras + slack_mm) / anchor_mm) * anchor_mm
    last = np.ceil((bounds.max_ras - slack_mm) / anchor_mm) * anchor_mm
    shape = np.rint((last - first) / spacing_mm).astype(int)
    return Grid.isotropic(shape.tolist(), spacing_mm, first + 0.5 * spacing_mm)


def resample(volume: Volume, grid: Grid) -> Volume:
    """The volume, as float32, on another grid: averaged where the source is finer (against aliasing), then linear.

    AIR_HU where the centre of a voxel lies outside of the volume. The bins in which voxels are averaged are anchored in
    the world, and filled up at the volume's faces by its outermost voxels, so that the result does not depend on how
    the scan was stored: flipped, permuted or at another spacing.
    """
    image, inside = to_sitk(volume.hu, volume.grid), None
    spacing_mm = float(grid.spacing_mm.min())
    factors = np.maximum(np.floor(spacing_mm / volume.grid.spacing_mm + 0.01), 1).astype(int)
    if (factors > 1).any():
        # A bin begins at the voxel face nearest to the new grid's corner; the shift decides between faces equally near.
        corner_ras = grid.bounds.min_ras + np.array([1e-3, 2e-3, 3e-3])
        first_face = np.rint(volume.grid.ijk(corner_ras) + 0.5).astype(int)
        before = -first_face % factors
        after = -(before + volume.grid.shape) % factors
        if (before + after > 0).any():  # what is filled up shall not make the volume larger
            middle_ijk = 0.5 * (np.array(volume.grid.shape) - 1)
            wider = volume.grid.ras_from_ijk.copy()  # so little that only centres on the very faces come in
            wider[:3, :3] *= 1.0 + 1e-5
            wider[:3, 3] += volume.grid.ras(middle_ijk) - apply_affine(wider, middle_ijk)
            inside = to_sitk(np.ones(volume.grid.shape, np.uint8), Grid(volume.grid.shape, wider))
            image = sitk.ZeroFluxNeumannPad(image, before.tolist(), after.tolist())
        image = sitk.BinShrink(image, factors.tolist())
    origin_lps, direction_lps, spacing = grid.to_lps()
    shape, unmoved = [int(n) for n in grid.shape], sitk.Transform()
    lattice = (origin_lps.tolist(), spacing.tolist(), direction_lps.ravel().tolist())
    found = sitk.Resample(image, shape, unmoved, sitk.sitkLinear, *lattice, AIR_HU, sitk.sitkFloat32)
    if inside is not None:
        known = sitk.Resample(inside, shape, unmoved, sitk.sitkNearestNeighbor, *lattice, 0, sitk.sitkUInt8)
        found = sitk.Mask(found, known, AIR_HU)
    return Volume(sitk.GetArrayFromImage(found).transpose(2, 1, 0), grid, volume.name)


def display_window_air(hu: NDArray[np.generic]) -> float | None:
    """The value at and below which a scan that was saved through a display window shows air; None for full-range CT.

    Such scans hold air and lung as their darkest value, far above air's -1000. Padding that was put around one later,
    at -900 or below, is looked through: then hardly a voxel lies between that and the dark end, and many lie there.
    """
    darkest = float(hu.min())
    if darkest > _DARKEST_DISPLAYED_HU:
        return darkest
    values = np.asarray(hu)
    displayed = values[values > _DARKEST_DISPLAYED_HU]
    between = values.size - displayed.size - int((values <= _PADDING_HU).sum())
    if displayed.size == 0 or between > 0.01 * displayed.size:
        return None
    dark_end = float(displayed.min())
    at_dark_end = int((displayed <= dark_end + 2.0).sum())
    return dark_end if dark_end < 0.0 and at_dark_end > 0.05 * displayed.size else None


def network_input(hu: NDArray[np.generic], display_air_hu: float | None = None) -> NDArray[np.float32]:
    """Hounsfield units as the networks' input in [0, 1]; air is 0, so that padding with 0 is air.

    ``display_air_hu``: see :func:`display_window_air`; values up to a soft-tissue window's dark end then count as air.
    """
    values = np.asarray(hu, np.float32)
    if display_air_hu is not None:
        values = np.where(values <= max(display_air_hu + 2.0, _DISPLAYED_AS_AIR_HU), np.float32(AIR_HU), values)
    return np.interp(values, _HU_KNOTS, _INPUT_KNOTS).astype(np.float32)
