"""Whether what was read can be a scan: reasons to refuse it, and reasons to doubt it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.io.dicom import MIN_SLICES
from rprloc.modality import CT, Modality
from rprloc.volume import Volume

MIN_VOXELS, MIN_EXTENT_MM = MIN_SLICES, 40.0
MAX_EXTENT_MM = 3000.0
_MAX_DISTANCE_MM = 100_000.0  # from the origin of the patient's space
MAX_SHEAR_COSINE = 0.005


def image_warnings(volume: Volume, modality: Modality = CT) -> list[str]:
    """A text for each reason to doubt that the volume is an ordinary scan of a modality; [] for ordinary ones.

    In CT, padding far below air (-2048, -3024) is ordinary. Looks at about two million voxels at most.
    """
    warnings = []
    if not modality.takes(volume.modality):
        warnings.append(f"The series says that it is {volume.modality}, not {modality.name}.")
    spacing_mm = volume.grid.spacing_mm
    spacing = " x ".join(f"{mm:.3g}" for mm in spacing_mm)
    if spacing_mm.min() < 0.1 or spacing_mm.max() > 20.0:
        warnings.append(
            f"The voxels measure {spacing} mm, which is unusual for {modality.name}. Check that the spacing is in "
            "millimetres."
        )
    elif spacing_mm.max() > 10.0:
        warnings.append(
            f"The voxels measure {spacing} mm. Slices thicker than 10 mm hide small organs. Use thinner slices."
        )
    doubt = modality.find_doubt(volume.hu)
    return [*warnings, doubt.text] if doubt else warnings


def reason_not_to_train_on(volume: Volume, modality: Modality) -> str | None:
    """Why the volume is hardly of a modality; None for what is, be it CT that was kept through a display window."""
    doubt = modality.find_doubt(volume.hu)
    return doubt.text if doubt and not doubt.usable else None


def refuse_unusable(array: NDArray[np.generic], grid: Grid, path: Path) -> None:
    extent_mm = grid.spacing_mm * grid.shape
    if min(grid.shape) < MIN_VOXELS or extent_mm.min() < MIN_EXTENT_MM:
        raise InputError(
            f"The scan in {path} is too small to locate anything in: it has {describe_grid(grid)}. Give a longer scan, "
            f"with at least {MIN_VOXELS} voxels (slices) and {MIN_EXTENT_MM:g} mm along every axis."
        )
    refuse_too_large(grid, path)
    refuse_sheared(grid.ras_from_ijk[:3, :3] / grid.spacing_mm, path)
    if np.issubdtype(array.dtype, np.floating):
        require_finite(path, array.size - int(np.count_nonzero(np.isfinite(array))))
    if array.min() == array.max():
        raise InputError(
            f"{path} is a constant image: all its voxels have the value {array.flat[0]}. Check how it was exported."
        )


def refuse_too_large(grid: Grid, path: Path) -> None:
    """Raises InputError for sizes and places that no scan has; memory is asked for by the millimetre later on."""
    extent_mm, away_mm = grid.spacing_mm * grid.shape, float(np.abs(grid.ras_from_ijk[:3, 3]).max())
    if extent_mm.max() > MAX_EXTENT_MM:
        spacing = " x ".join(f"{mm:.4g}" for mm in grid.spacing_mm)
        raise InputError(
            f"The scan in {path} would be {extent_mm.max() / 1000:.4g} m long: it has voxels of {spacing} mm. Check "
            f"that its voxel sizes are in millimetres. No scan is longer than {MAX_EXTENT_MM / 1000:g} m."
        )
    if away_mm > _MAX_DISTANCE_MM:
        raise InputError(
            f"The scan in {path} would lie {away_mm / 1000:.4g} m away from the origin of its space. Check its "
            "position, which is in millimetres."
        )


def refuse_sheared(axes: NDArray[np.float64], path: Path) -> float:
    """The largest cosine between two of three unit axes (columns). Raises InputError if it is no mere rounding."""
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine > MAX_SHEAR_COSINE:
        tilt = np.degrees(np.arcsin(min(cosine, 1.0)))
        raise InputError(
            f"The slices of {path} are sheared by {tilt:.1f} degrees, as by a tilted gantry. "
            "Resample the scan to perpendicular axes first."
        )
    return cosine


def require_finite(path: Path, not_finite: int) -> None:
    if not_finite:
        raise InputError(
            f"{path} holds {not_finite} voxels that are NaN or infinite. "
            "Replace them, in CT for instance by -1024 outside the scan."
        )


def describe_grid(grid: Grid) -> str:
    voxels, mm = " x ".join(map(str, grid.shape)), " x ".join(f"{mm:.4g}" for mm in grid.spacing_mm)
    origin = ", ".join(f"{mm:.1f}" for mm in grid.ras_from_ijk[:3, 3])
    return f"{voxels} voxels of {mm} mm from RAS ({origin})"
