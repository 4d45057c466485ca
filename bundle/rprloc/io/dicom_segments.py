"""DICOM segmentations: segments in, as masks on the grid of their own frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rprloc.annotation import Mask
from rprloc.errors import InputError
from rprloc.geometry import Grid, ras_from_lps
from rprloc.io.archive import describe_bomb
from rprloc.io.dicom_belonging import explain_damage, images_of, require_same_scan, uid
from rprloc.io.dicom_headers import DEFLATED, UNCOMPRESSED, planes_of, transfer_syntax
from rprloc.io.dicom_slice import Slice
from rprloc.io.plausibility import refuse_too_large
from rprloc.io.reading import Scan
from rprloc.io.sections import slices_of_planes
from rprloc.io.structures import Marked, Structure

if TYPE_CHECKING:
    from pydicom import Dataset

_TYPES = {"BINARY": "a DICOM segmentation", "FRACTIONAL": "a DICOM segmentation of fractions"}
_LABELMAP = "a DICOM label map segmentation"
_SAME_MM = 0.05
_ON_A_SLICE = 0.1  # of a step


@dataclass(frozen=True, eq=False)
class _Lattice:
    """The grid on which all frames of a segmentation lie, and the first voxel and the slices of each."""

    grid: Grid
    corners: NDArray[np.int64]  # (frames, 2)
    along: NDArray[np.float64]  # (frames,), along k, in continuous indices
    stack: NDArray[np.float64]  # where the slices of the scan lie along k

    def fill(self, frames: Sequence[int], pixels: Callable[[int], NDArray[np.bool_]]) -> Mask | None:
        """The voxels (I, J, K) of frames whose pixels are (rows, columns); None if there are none."""
        voxels = np.zeros(self.grid.shape, bool)
        ordered = sorted(frames, key=lambda frame: self.along[frame])
        places, same = np.unique(np.round(self.along[ordered], 2), return_inverse=True)
        parts = slices_of_planes(places, self.stack, self.grid.shape[2], widest=1.0)
        for frame, place in zip(ordered, same, strict=True):
            (i, j), (start, stop), drawn = self.corners[frame], parts[place], pixels(frame).T
            voxels[i : i + drawn.shape[0], j : j + drawn.shape[1], start:stop] |= drawn[:, :, None]
        return Mask.cut_from(voxels, self.grid) if voxels.any() else None


def read_segments(path: Path, data: Dataset, scan: Scan) -> Marked:
    """The segments of a segmentation.

    Raises InputError if it is damaged or belongs to another scan.
    """
    with explain_damage(path):
        kind = str(data.get("SegmentationType") or "").strip().upper()
        if kind not in (*_TYPES, "LABELMAP"):
            raise InputError(
                f"{path} is a segmentation of the type {kind[:20]!r}, which is not read. Export it as a BINARY one."
            )
        remarks = require_same_scan(
            path, "segmentation", scan, {uid(data.get("FrameOfReferenceUID"))} - {""}, _images(data),
            must_share_images=False,
        )  # fmt: skip
        header = {element.keyword: element.value for element in data if element.keyword != "PixelData"}
        for name in ("Rows", "Columns"):
            if not isinstance(header.get(name), int) or header[name] < 1:
                raise InputError(f"{path} does not say how many {name.lower()} its frames have. Export it again.")
        planes = planes_of(path, header)
        names = _names(path, data)
        lattice = _lattice(path, planes, header, scan)
        values = _frame_reader(path, data, len(planes))
        if kind == "LABELMAP":
            return _labelled(path, data, names, lattice, values, len(planes), remarks)
        of_segment: dict[int, list[int]] = {number: [] for number in names}
        for frame, number in enumerate(_segments_of_frames(path, data, len(planes))):
            if number not in of_segment:
                raise InputError(f"{path} has a frame of segment {number}, which it does not name. Export it again.")
            of_segment[number].append(frame)
        least = 1.0
        if kind == "FRACTIONAL":
            least = 0.5 * int(data.MaximumFractionalValue)
            remarks = (*remarks, "A voxel belongs to a segment if at least half of it does.")
    structures, left_out = [], []
    for number, frames in of_segment.items():
        if frames:
            structures.append(Structure(names[number], _reader(path, lattice, frames, lambda n: values(n) >= least)))
        else:
            left_out.append((names[number], "empty"))
    return Marked(path, _TYPES[kind], structures, left_out, remarks)


def _reader(
    path: Path, lattice: _Lattice, frames: Sequence[int], pixels: Callable[[int], NDArray[np.bool_]]
) -> Callable[[], Mask | None]:
    def read() -> Mask | None:
        with explain_damage(path):
            return lattice.fill(frames, pixels)

    return read


def _labelled(
    path: Path,
    data: Dataset,
    names: dict[int, str],
    lattice: _Lattice,
    values: Callable[[int], NDArray[np.integer]],
    count: int,
    remarks: tuple[str, ...],
) -> Marked:
    """The segments of a segmentation whose pixels are the numbers of segments."""
    background = {0, int(data.get("PixelPaddingValue") or 0)}
    strangers = {int(n) for frame in range(count) for n in np.unique(values(frame))} - names.keys() - background
    if strangers:
        raise InputError(f"{path} has pixels of segment {min(strangers)}, which it does not name. Export it again.")

    def pixels_of(number: int) -> Callable[[int], NDArray[np.bool_]]:
        return lambda frame: values(frame) == number

    structures = [
        Structure(name, _reader(path, lattice, range(count), pixels_of(number)))
        for number, name in names.items()
        if number not in background
    ]
    left_out = [(name, "the background") for number, name in names.items() if number in background]
    return Marked(path, _LABELMAP, structures, left_out, remarks)


def _names(path: Path, data: Dataset) -> dict[int, str]:
    """The label of each segment by its number."""
    segments = data.get("SegmentSequence") or []
    numbers = [int(segment.SegmentNumber) for segment in segments]
    if not segments or len(set(numbers)) < len(numbers):
        what = "names no segments" if not segments else "has two segments of one number"
        raise InputError(f"The segmentation {path} {what}. Export it again.")
    labels = [str(segment.get("SegmentLabel") or "").strip() for segment in segments]
    return {number: label or f"segment {number}" for number, label in zip(numbers, labels, strict=True)}


def _images(data: Dataset) -> set[str]:
    """The images from which the segmentation says that it was made."""
    found = images_of(data.get("SourceImageSequence"))
    for series in data.get("ReferencedSeriesSequence") or []:
        found |= images_of(series.get("ReferencedInstanceSequence"))
    return found


def _segments_of_frames(path: Path, data: Dataset, count: int) -> list[int]:
    shared = next(iter(data.get("SharedFunctionalGroupsSequence") or []), None)
    numbers = []
    for own in data.get("PerFrameFunctionalGroupsSequence") or [None] * count:
        told = [place.get("SegmentIdentificationSequence") for place in (own, shared) if place is not None]
        named = next((sequence for sequence in told if sequence), None)
        if named is None or named[0].get("ReferencedSegmentNumber") is None:
            raise InputError(f"{path} has a frame that does not say to which segment it belongs. Export it again.")
        numbers.append(int(named[0].ReferencedSegmentNumber))
    return numbers


def _lattice(path: Path, planes: Sequence[Slice], header: dict[str, object], scan: Scan) -> _Lattice:
    """Where all frames lie, each to half a voxel: those of a tilted gantry and of uneven distances, too."""
    first = planes[0]
    position, axes, spacing = first.position_lps, first.axes_lps, first.spacing_mm
    if position is None or axes is None or spacing is None or any(plane.position_lps is None for plane in planes):
        raise InputError(
            f"{path} has frames that do not say where they lie (no plane position, orientation or pixel spacing). "
            "Export it again."
        )
    alike = all(
        plane.axes_lps is not None
        and plane.spacing_mm is not None
        and np.allclose(plane.axes_lps, axes, atol=1e-3)
        and np.allclose(plane.spacing_mm, spacing, rtol=1e-3)
        for plane in planes
    )
    rows_lps = axes.reshape(2, 3)
    if not alike or not np.allclose(rows_lps @ rows_lps.T, np.eye(2), atol=1e-3) or not (spacing > 0).all():
        raise InputError(
            f"The frames of {path} are not parallel and of one pixel spacing, or their rows and columns are not at "
            "right angles. Export it again."
        )
    directions_lps = np.stack([axes[:3], axes[3:], np.cross(axes[:3], axes[3:])], axis=1)
    places_lps = np.array([plane.position_lps for plane in planes], float)
    off_mm = (places_lps - position) @ directions_lps
    step_mm = _step_mm(np.unique(off_mm[:, 2]), header, scan)
    steps = off_mm / [spacing[1], spacing[0], step_mm]
    low = np.array([*np.rint(steps[:, :2].min(axis=0)), steps[:, 2].min()])
    corners = np.rint(steps[:, :2] - low[:2]).astype(int)
    along = steps[:, 2] - low[2]
    count = [*(corners.max(axis=0) + np.array(first.shape)).tolist(), round(float(along.max())) + 1]
    origin_lps = position + directions_lps @ (low * [spacing[1], spacing[0], step_mm])
    grid = Grid.from_lps(count, origin_lps, directions_lps, [spacing[1], spacing[0], step_mm])
    refuse_too_large(grid, path)
    return _Lattice(grid, corners, along, _stack_along(grid, along, scan))


def _step_mm(places_mm: NDArray[np.float64], header: dict[str, object], scan: Scan) -> float:
    """From slice to slice: as the header says if that fits the frames, else as the frames that are next."""
    told = {name: _measure(header, name) for name in ("SpacingBetweenSlices", "SliceThickness")}
    off_mm = places_mm - places_mm.min()
    steps_mm = np.diff(np.sort(off_mm))
    steps_mm = steps_mm[steps_mm > _SAME_MM]
    between_mm = told["SpacingBetweenSlices"]
    if between_mm is not None and (np.abs(off_mm - between_mm * np.rint(off_mm / between_mm)) <= _SAME_MM).all():
        return between_mm
    if len(steps_mm):
        return float(steps_mm.min())
    return told["SliceThickness"] or float(scan.volume.grid.spacing_mm.max())


def _measure(header: dict[str, object], name: str) -> float | None:
    """A length that the pixel measures of all frames, or of the first, give; None for what is none."""
    for place in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for groups in list(header.get(place) or [])[:1]:  # type: ignore[call-overload]
            for measures in groups.get("PixelMeasuresSequence") or []:
                value = measures.get(name)
                if value is not None and np.isfinite(float(value)) and float(value) > 0:
                    return float(value)
    return None


def _stack_along(grid: Grid, along: NDArray[np.float64], scan: Scan) -> NDArray[np.float64]:
    """Where the slices lie along k: those of the scan if frames lie on them, as these may be unevenly spaced."""
    if scan.series is not None and len(scan.series.slices) > 1:
        places = grid.ijk(ras_from_lps(np.array([plane.position_lps for plane in scan.series.slices], float)))[:, 2]
        if (np.abs(along[:, None] - places).min(axis=1) <= _ON_A_SLICE).all() and np.diff(np.sort(places)).min() > 0.1:
            return np.sort(places)
    return np.arange(max(grid.shape[2], 2), dtype=float)


def _frame_reader(path: Path, data: Dataset, count: int) -> Callable[[int], NDArray[np.integer]]:
    """A function that gives the stored pixels (rows, columns) of a frame."""
    rows, columns, bits = int(data.Rows), int(data.Columns), int(data.BitsAllocated)
    if "PixelData" not in data or bits not in (1, 8, 16) or int(data.get("SamplesPerPixel") or 1) != 1:
        what = "no pixels" if "PixelData" not in data else f"pixels of {bits} bits or several values"
        raise InputError(f"{path} has {what}, but a segmentation has one value of 1, 8 or 16 bits. Export it again.")
    syntax, size = transfer_syntax(data), rows * columns
    if syntax in (*UNCOMPRESSED, DEFLATED):
        pixels = data.PixelData
        expected = (count * size * bits + 7) // 8
        if len(pixels) not in (expected, expected + expected % 2):
            raise InputError(
                f"{path} holds {len(pixels)} bytes of pixels, but its {count} frames of {columns} x {rows} pixels need "
                f"{expected}. Export it again."
            )
        if bits > 1:
            kind = np.dtype("u1" if bits == 8 else ">u2" if syntax == UNCOMPRESSED[2] else "<u2")
            stored = np.frombuffer(pixels, kind, count * size).reshape(count, rows, columns)
            return lambda frame: stored[frame]
        packed = np.frombuffer(pixels, np.uint8)

        def unpacked(frame: int) -> NDArray[np.integer]:
            start, end = frame * size, (frame + 1) * size
            bits_around = np.unpackbits(packed[start // 8 : (end + 7) // 8], bitorder="little")
            return bits_around[start % 8 : start % 8 + size].reshape(rows, columns)

        return unpacked
    if bomb := describe_bomb(count * size * bits // 8, len(data.PixelData)):
        raise InputError(f"{path} {bomb}. Check how it was exported.")
    return _decoder(path, data, syntax)


def _decoder(path: Path, data: Dataset, syntax: str) -> Callable[[int], NDArray[np.integer]]:
    """A function that decompresses a frame."""
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import UID

    try:
        available = get_decoder(UID(syntax)).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise InputError(
            f"{path} is compressed in a way that RPR-Loc cannot decode ({UID(syntax).name}). Export it uncompressed."
        )

    @cache
    def decoded(frame: int) -> NDArray[np.integer]:
        pixels: NDArray[np.integer] = pixel_array(data, index=frame)
        return pixels

    return decoded
