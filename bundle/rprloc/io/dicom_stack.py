"""From the planes of a DICOM series to one volume: order, gaps, tilt, uneven spacing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.intensity import AIR_HU
from rprloc.io.archive import describe_bomb
from rprloc.io.dicom import MIN_SLICES, DicomSeries
from rprloc.io.dicom_complete import one_scan_of, require_one_acquisition
from rprloc.io.dicom_pixels import read_pixels
from rprloc.io.dicom_slice import Slice

_MAX_SIDEWAYS_MM, _MIN_TILT_SINE, _MAX_TILT_DEGREES = 0.5, 0.005, 40.0
_GAP = 1.5  # a step so many times as long as both of its neighbours, or as most around it, is a missing slice
_AROUND = 2  # steps on either side: a slice or two that are left in a hole do not make it another spacing
_MAX_STEP = 20.0  # times the narrow ones: thick slices beside thin ones, 10 and 0.5 mm, are no more
_EVEN = 0.01  # steps may differ by this part of one, and slices lie as far from where even steps would put them
_EVEN_MM = 0.05  # at least, as headers round


def read_series(series: DicomSeries, path: Path) -> tuple[NDArray[np.generic], Grid, DicomSeries, tuple[str, ...]]:
    """The array (I, J, K) of values, its grid, the series with its slices in order, and notes.

    Values are rescaled as the headers say, which gives Hounsfield units in CT. I runs along the rows, K from slice to
    slice. The planes of a tilted gantry are moved onto perpendicular axes, and those of uneven spacing are interpolated
    to even ones; a note says so. Raises InputError, naming ``path``, unless the planes are parallel, of one size, and
    without gaps or doubles.
    """
    slices, notes = one_scan_of(series, path)
    ordered, along_mm = _stack(slices, path, in_turn=series.modality != "MR")
    _refuse_bomb(ordered, path)
    series = replace(series, slices=tuple(ordered))
    array = read_pixels(ordered, AIR_HU if series.may_be_ct else 0.0)
    air = AIR_HU if series.may_be_ct else float(array.min())
    array, origin_lps, span_lps, note = _without_tilt(array, ordered, along_mm, air)
    notes += note
    array, note = _evenly_spaced(array, along_mm)
    notes += note
    _, directions_lps, spacing_mm = ordered[0].grid.to_lps()
    span_mm = float(np.linalg.norm(span_lps))
    directions_lps = np.column_stack([directions_lps[:, :2], span_lps / span_mm])
    spacing_mm = np.array([*spacing_mm[:2], span_mm / (array.shape[2] - 1)])
    grid = Grid.from_lps(array.shape, origin_lps, directions_lps, spacing_mm)
    return array, grid, series, tuple(notes)


def _refuse_bomb(slices: Sequence[Slice], path: Path) -> None:
    """Before memory is asked for: whether any scan can be compressed as well as these files are."""
    unpacked = sum(2 * plane.shape[0] * plane.shape[1] for plane in slices)
    packed = sum(file.stat().st_size for file in {plane.path for plane in slices})
    if bomb := describe_bomb(unpacked, packed):
        raise InputError(f"The series in {path} {bomb}. Check how it was exported.")


def reason_not_to_read(series: DicomSeries, path: Path) -> str | None:
    """Why :func:`read_series` would refuse the series, as far as its headers tell; None if it can be read."""
    try:
        slices, _ = one_scan_of(series, path)
        _stack(slices, path, in_turn=series.modality != "MR")
    except InputError as error:
        return str(error)
    return f"It has fewer than {MIN_SLICES} slices." if len(slices) < MIN_SLICES else None


def _stack(slices: Sequence[Slice], path: Path, *, in_turn: bool) -> tuple[list[Slice], NDArray[np.float64]]:
    """The planes from the first to the last along their normal, and how far each lies along it, from the first, in mm.

    Raises InputError unless they are parallel, of one size, on one line, and without gaps or doubles, and, where they
    are taken ``in_turn``, of one time.
    """
    first = slices[0]
    placed = [
        (plane, plane.position_lps, plane.axes_lps, plane.spacing_mm)
        for plane in slices
        if plane.position_lps is not None and plane.axes_lps is not None and plane.spacing_mm is not None
    ]
    if len(placed) < len(slices):
        raise InputError(
            f"{len(slices) - len(placed)} of {len(slices)} DICOM images in {path} do not say where they lie (no "
            "image position, orientation or pixel spacing). Take out all images that are not slices of the scan."
        )
    if len(slices) < 2:
        if path.is_file() and first.frame is None:
            raise InputError(f"{path} is a single DICOM slice. Give the folder that holds all slices of the series.")
        raise InputError(
            f"The series in {path} has a single slice. Give a whole scan, with at least {MIN_SLICES} slices."
        )
    _, _, axes_lps, spacing_mm = placed[0]
    for plane, _, axes, spacing in placed:
        same_axes, same_spacing = np.allclose(axes, axes_lps, atol=1e-3), np.allclose(spacing, spacing_mm, rtol=1e-3)
        if plane.shape != first.shape or not same_axes or not same_spacing:
            what = "size" if plane.shape != first.shape else "orientation" if not same_axes else "pixel spacing"
            raise InputError(
                f"The slices in {path} differ in {what} ({first.name} and {plane.name}). Take scouts and other "
                "images out of the folder, so that equal, parallel slices are left."
            )
    if not np.allclose(axes_lps.reshape(2, 3) @ axes_lps.reshape(2, 3).T, np.eye(2), atol=1e-3):
        raise InputError(
            f"The rows and columns of the slices in {path} are not at right angles, or their directions "
            "are not of length one. Export the series again."
        )
    if (spacing_mm <= 0.0).any():
        raise InputError(
            f"The pixel spacing in {path} is {spacing_mm.tolist()} mm, but both must be above 0. Export the series "
            "again."
        )
    normal_lps = np.cross(axes_lps[:3], axes_lps[3:])
    places_lps = np.stack([position for _, position, _, _ in placed])
    along_mm = places_lps @ normal_lps
    order = np.argsort(along_mm, kind="stable")
    ordered, along_mm = [slices[n] for n in order], along_mm[order] - along_mm[order[0]]
    require_one_acquisition(ordered, along_mm, path, in_turn=in_turn)
    _require_no_gaps(ordered, np.diff(along_mm), path)
    off_mm = places_lps[order] - places_lps[order[0]]
    off_mm = off_mm - off_mm[-1] * (along_mm / along_mm[-1])[:, None]
    sideways_mm = np.linalg.norm(off_mm - (off_mm @ normal_lps)[:, None] * normal_lps, axis=1)
    if sideways_mm.max() > _MAX_SIDEWAYS_MM:
        raise InputError(
            f"The slices in {path} are shifted sideways by up to {sideways_mm.max():.1f} mm against each other. "
            "Export one series, resampled to a regular stack on a straight line."
        )
    return ordered, along_mm


def _require_no_gaps(ordered: Sequence[Slice], steps_mm: NDArray[np.float64], path: Path) -> None:
    step_mm = float(np.median(steps_mm))
    doubles = np.flatnonzero(steps_mm <= max(0.01 * step_mm, 0.05))
    if len(doubles):
        one, other = (ordered[doubles[0] + n].name for n in range(2))
        raise InputError(
            f"{len(doubles)} slices in {path} lie where another one lies ({one} and {other}). "
            "Export a single phase or reconstruction, with one slice at each position."
        )
    around = [np.sort(steps_mm[max(n - _AROUND, 0) : n + _AROUND + 1]) for n in range(len(steps_mm))]
    usual_mm = np.array([some[len(some) // 2] for some in around])
    beside_mm = np.pad(steps_mm, 1)
    beside_mm = np.maximum(beside_mm[:-2], beside_mm[2:])
    longest_mm = 1.001 * _MAX_STEP * float(np.quantile(steps_mm, 0.1))
    gaps = np.flatnonzero(steps_mm > np.minimum(_GAP * np.minimum(usual_mm, beside_mm), longest_mm))
    if len(gaps) and len(steps_mm) > 1:
        one, other = (ordered[gaps[0] + n].name for n in range(2))
        raise InputError(
            f"Slices are missing in {path}: it is {steps_mm[gaps[0]]:.2f} mm from {one} to {other}, "
            f"{step_mm:.2f} mm elsewhere. Export the whole series again."
        )


def _without_tilt(
    array: NDArray[np.generic], ordered: Sequence[Slice], along_mm: NDArray[np.float64], air: float
) -> tuple[NDArray[np.generic], NDArray[np.float64], NDArray[np.float64], list[str]]:
    """The array with its planes straight above each other, and a note if they were moved.

    Planes of a tilted gantry are parallel, but each lies further along the table: each is moved within its own plane,
    by linear interpolation, so that no value comes from another plane, and ``air`` fills what it leaves. The second
    result is the LPS position of the first voxel, the third leads from there to the last plane.
    """
    from scipy import ndimage

    first = ordered[0]
    assert first.position_lps is not None and first.axes_lps is not None and first.spacing_mm is not None
    last = ordered[-1].position_lps
    assert last is not None
    in_plane_lps = first.axes_lps.reshape(2, 3)
    drift_mm = in_plane_lps @ (last - first.position_lps)
    degrees = float(np.degrees(np.arctan2(np.linalg.norm(drift_mm), along_mm[-1])))
    if np.sin(np.radians(degrees)) <= _MIN_TILT_SINE:
        return array, first.position_lps, last - first.position_lps, []
    if degrees > _MAX_TILT_DEGREES:
        raise InputError(
            f"The slices of {first.path.parent} are sheared by {degrees:.1f} degrees. A tilted gantry gives "
            f"at most {_MAX_TILT_DEGREES:g}. Export the series again."
        )
    step_mm = first.spacing_mm[::-1]  # along a row, then along a column
    shifts_vox = along_mm[:, None] / along_mm[-1] * drift_mm / step_mm  # (K, 2)
    low = np.floor(shifts_vox.min(axis=0)).astype(int)
    high = np.ceil(shifts_vox.max(axis=0)).astype(int)
    if np.issubdtype(array.dtype, np.integer):
        air = float(max(air, np.iinfo(str(array.dtype)).min))
    straight = np.full((*(np.array(array.shape[:2]) + high - low), array.shape[2]), air, array.dtype)
    for k, shift in enumerate(shifts_vox):
        widths = [(-low[n], high[n]) for n in range(2)]
        padded = np.pad(array[:, :, k].astype(np.float32), widths, constant_values=air)
        moved = ndimage.shift(padded, shift, order=1, mode="constant", cval=air)
        straight[:, :, k] = np.rint(moved) if np.issubdtype(array.dtype, np.integer) else moved
    origin_lps = first.position_lps + (low * step_mm) @ in_plane_lps
    span_lps = along_mm[-1] * np.cross(*in_plane_lps)
    note = f"The gantry was tilted by {degrees:.1f} degrees. The slices were straightened."
    return straight, origin_lps, span_lps, [note]


def _evenly_spaced(array: NDArray[np.generic], along_mm: NDArray[np.float64]) -> tuple[NDArray[np.generic], list[str]]:
    """The array with equal steps between its planes, and a note if it was interpolated."""
    steps_mm = np.diff(along_mm)
    median_mm = float(np.median(steps_mm))
    off_mm = np.abs(along_mm - np.linspace(0.0, along_mm[-1], len(along_mm)))  # small differences add up
    if max(np.abs(steps_mm - median_mm).max(), off_mm.max()) <= max(_EVEN * median_mm, _EVEN_MM):
        return array, []
    wanted_mm = float(np.clip(steps_mm.min(), 0.5 * median_mm, median_mm))
    count = round(float(along_mm[-1]) / wanted_mm) + 1
    places_mm = np.linspace(0.0, along_mm[-1], count)
    below = np.clip(np.searchsorted(along_mm, places_mm, side="right") - 1, 0, len(steps_mm) - 1)
    part = ((places_mm - along_mm[below]) / steps_mm[below]).astype(np.float32)
    even = np.empty((*array.shape[:2], count), array.dtype)
    for k, (n, share) in enumerate(zip(below, part, strict=True)):
        plane = array[:, :, n].astype(np.float32) * (1 - share) + array[:, :, n + 1].astype(np.float32) * share
        even[:, :, k] = np.rint(plane) if np.issubdtype(array.dtype, np.integer) else plane
    note = (
        f"The slices are unevenly spaced, {steps_mm.min():.2f} to {steps_mm.max():.2f} mm apart. They were "
        f"interpolated to {along_mm[-1] / (count - 1):.2f} mm."
    )
    return even, [note]
