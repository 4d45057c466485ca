"""DICOM RT structure sets: contours of organs in, as masks on the voxels of the scan on which they were drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rprloc.annotation import OUTSIDE_TOLERANCE_MM, Mask
from rprloc.errors import InputError
from rprloc.geometry import Grid, Points, ras_from_lps
from rprloc.io.dicom_belonging import explain_damage, images_of, require_same_scan, uid
from rprloc.io.dicom_slice import Slice
from rprloc.io.reading import Scan
from rprloc.io.sections import pixels_in_polygons, slices_of_planes
from rprloc.io.structures import Marked, Structure

if TYPE_CHECKING:
    from pydicom import Dataset

_FORM = "a DICOM RT structure set"
_CLOSED, _NO_AREA = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"), ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
_NO_ORGANS = (
    *("EXTERNAL", "SUPPORT", "BOLUS", "FIXATION", "REGISTRATION", "ISOCENTER", "MARKER", "CONTROL", "DOSE_REGION"),
    *("DOSE_MEASUREMENT", "BRACHY_CHANNEL", "BRACHY_ACCESSORY", "BRACHY_SRC_APP", "BRACHY_CHNL_SHLD"),
)
"""Interpreted types of what is not in the body, or is all of it."""
_FLAT, _SAME_PLANE = 0.25, 0.05  # of a step between slices: how far points may lie off their plane; planes apart
_TEXT_MM = 0.01  # contours that are the same to so much are one
_OUT_OF_PLANE_VOX = 0.02


@dataclass(frozen=True, eq=False)
class _Roi:
    """A region of interest: its name and number, the frame in which it lies, its type, and its closed contours."""

    path: Path
    number: int
    name: str
    frame: str
    type: str
    contours: Sequence[Any]  # data sets

    def fault(self, what: str, advice: str = "Export the structure set again") -> InputError:
        return InputError(f"{self.path}: {self.name} {what}. {advice}.")


def read_contours(path: Path, data: Dataset, scan: Scan) -> Marked:
    """The structures of an RT structure set.

    Raises InputError if it is damaged or belongs to another scan. What is wrong with one structure is told when it is
    read.
    """
    with explain_damage(path):
        rois = list(_rois(path, data))
        frames = {roi.frame for roi in rois if roi.frame}
        remarks = require_same_scan(path, "structure set", scan, frames, _images(data), must_share_images=True)
        own_frame = next((frame for plane in _slices(scan) if (frame := plane.owners.get("FrameOfReferenceUID"))), "")
        structures, left_out = [], []
        for roi in rois:
            drawn = [contour for contour in roi.contours if _type_of(contour) not in _NO_AREA]
            whole = [contour for contour in drawn if _count(contour) not in (3, 6)]  # no contour of one or two points
            if roi.frame and own_frame and roi.frame != own_frame:
                left_out.append((roi.name, "in another frame of reference"))
            elif not roi.contours:
                left_out.append((roi.name, "no contours"))
            elif not whole:
                left_out.append((roi.name, "only points or lines, no volume"))
            else:
                count = len(roi.contours) - len(whole)
                left = f"{count} {'point or line' if count == 1 else 'points or lines'}" if count else ""
                read = _reader(roi, whole, scan)
                structures.append(Structure(roi.name, read, _why_no_organ(roi), left))
        if not data.get("RTROIObservationsSequence"):
            remarks = (
                *remarks,
                "It does not say which structures are organs: check that none is a couch or an outline.",
            )
    return Marked(path, _FORM, structures, left_out, remarks)


def _reader(roi: _Roi, contours: Sequence[Dataset], scan: Scan) -> Callable[[], Mask | None]:
    def read() -> Mask | None:
        with explain_damage(roi.path):
            return _mask(roi, [_points_ras(roi, contour, scan) for contour in contours], scan)

    return read


def _why_no_organ(roi: _Roi) -> str:
    return f"no organ, but of type {roi.type}" if roi.type in _NO_ORGANS else ""


def _rois(path: Path, data: Dataset) -> Iterator[_Roi]:
    """All regions of interest with their contours, as far as the file names both."""
    if "StructureSetROISequence" not in data or "ROIContourSequence" not in data:
        raise InputError(f"{path} is a structure set without structures or contours. Export it again.")
    types: dict[int, str] = {}
    for seen in data.get("RTROIObservationsSequence") or []:
        types[int(seen.ReferencedROINumber)] = str(seen.get("RTROIInterpretedType") or "").strip().upper()
    contours: dict[int, list[Dataset]] = {}
    for drawn in data.ROIContourSequence:
        contours.setdefault(int(drawn.ReferencedROINumber), []).extend(drawn.get("ContourSequence") or [])
    numbers = [int(roi.ROINumber) for roi in data.StructureSetROISequence]
    strangers = [number for number in contours if number not in numbers]
    if strangers or len(set(numbers)) < len(numbers):
        held = f"contours of ROI {strangers[0]}, which it does not name" if strangers else "two ROIs of one number"
        raise InputError(f"{path} holds {held}. Export the structure set again.")
    for number, roi in zip(numbers, data.StructureSetROISequence, strict=True):
        name = str(roi.get("ROIName") or "").strip() or f"ROI {number}"
        frame = uid(roi.get("ReferencedFrameOfReferenceUID") or data.get("FrameOfReferenceUID"))
        yield _Roi(path, number, name, frame, types.get(number, ""), contours.get(number, []))


def _type_of(contour: Dataset) -> str:
    return str(contour.get("ContourGeometricType") or "").strip().upper()


def _stored(contour: Dataset) -> bytes | list[Any]:
    """The numbers of a contour as they stand in the file, or as a list if somebody has asked for them before."""
    element = contour.get_item("ContourData")
    value = b"" if element is None or element.value is None else element.value
    return value if isinstance(value, bytes) else list(np.atleast_1d(np.asarray(value)))


def _count(contour: Dataset) -> int:
    stored = _stored(contour)
    if isinstance(stored, bytes):
        return stored.count(b"\\") + 1 if stored.strip() else 0
    return len(stored)


def _images(data: Dataset) -> set[str]:
    """The images on which the structure set says that it was drawn."""
    found = set()
    for frame in data.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                found |= images_of(series.get("ContourImageSequence"))
    for drawn in data.get("ROIContourSequence") or []:
        for contour in drawn.get("ContourSequence") or []:
            found |= images_of(contour.get("ContourImageSequence"))
    return found


def _slices(scan: Scan) -> Sequence[Slice]:
    return () if scan.series is None else scan.series.slices


def _points_ras(roi: _Roi, contour: Dataset, scan: Scan) -> Points:
    """The corners (N, 3) of a closed contour, once it is clear that they are what and where the file says."""
    kind, stored = _type_of(contour), _stored(contour)
    if kind not in _CLOSED:
        raise roi.fault(f"has a contour of an unknown type ({kind[:20]!r})")
    words = stored.decode("latin-1").split("\\") if isinstance(stored, bytes) else [str(word) for word in stored]
    try:
        numbers = np.array([float(word) for word in words if "_" not in word])  # to Python 1_0 is ten
    except ValueError:
        numbers = np.empty(0)
    if len(numbers) != len(words) or not np.isfinite(numbers).all() or len(numbers) % 3 or len(numbers) < 9:
        raise roi.fault(f"has a contour of {len(words)} values that are not three numbers for each of its points")
    points_lps = numbers.reshape(-1, 3)
    told = contour.get("NumberOfContourPoints")
    if told is not None and int(told) != len(points_lps):
        raise roi.fault(f"has a contour of {len(points_lps)} points that says that it has {int(told)}")
    _require_on_its_image(roi, contour, points_lps, scan)
    return ras_from_lps(points_lps)


def _require_on_its_image(roi: _Roi, contour: Dataset, points_lps: Points, scan: Scan) -> None:
    planes = _slices(scan)
    named = [(uid(image.get("ReferencedSOPInstanceUID")), image.get("ReferencedFrameNumber"))
             for image in contour.get("ContourImageSequence") or []]  # fmt: skip
    if not planes or not named:
        return
    of_image: dict[str, list[Slice]] = {}
    for plane in planes:
        of_image.setdefault(uid(plane.sop_uid), []).append(plane)
    away_mm = []
    for image, frame in named:
        for plane in of_image.get(image, []):
            if frame is None or plane.frame is None or plane.frame + 1 in np.atleast_1d(frame).astype(int):
                assert plane.axes_lps is not None and plane.position_lps is not None
                normal_lps = np.cross(plane.axes_lps[:3], plane.axes_lps[3:])
                away_mm.append(float(np.abs((points_lps - plane.position_lps) @ normal_lps).max()))
    if not away_mm:
        raise roi.fault(
            "has a contour on an image that the scan does not have", "Give the whole series on which it was drawn"
        )
    first, last = planes[0].position_lps, planes[-1].position_lps
    assert first is not None and last is not None
    step_mm = float(np.linalg.norm(last - first)) / (len(planes) - 1)
    if min(away_mm) > step_mm + OUTSIDE_TOLERANCE_MM:
        raise roi.fault(
            f"has a contour that lies {min(away_mm):.1f} mm away from the image on which it says that it was drawn"
        )


def _mask(roi: _Roi, contours: list[Points], scan: Scan) -> Mask | None:
    """The voxels inside of closed contours (N, 3), RAS mm; None if there are none."""
    contours = _each_once(contours)
    grid, axis, stack = _grid_of_planes(roi, contours, scan)
    contours_ijk = [grid.ijk(points_ras) for points_ras in contours]
    _require_inside(roi, contours_ijk, grid, axis)
    corners = np.concatenate(contours_ijk)
    first = np.floor(corners.min(axis=0) - 1).clip(0).astype(int)
    end = np.minimum(np.ceil(corners.max(axis=0) + 2).astype(int), grid.shape)
    first[axis], end[axis] = 0, grid.shape[axis]
    voxels = np.zeros(end - first, bool)
    across = [other for other in range(3) if other != axis]
    sections = list(_sections(contours_ijk, axis))
    parts = slices_of_planes([place for place, _ in sections], stack, grid.shape[axis])
    for (_, polygons), (start, stop) in zip(sections, parts, strict=True):
        if start < stop:
            flat = [polygon[:, across] - first[across] for polygon in polygons]
            plane = pixels_in_polygons(flat, (int(voxels.shape[across[0]]), int(voxels.shape[across[1]])))
            np.moveaxis(voxels, axis, 0)[start:stop] |= plane
    if not voxels.any():
        return None
    return Mask.cut_from(voxels, grid.cropped(first.tolist(), list(voxels.shape)))


def _each_once(contours: list[Points]) -> list[Points]:
    """The contours without those that are there twice, which would cancel out."""
    return list({np.rint(points / _TEXT_MM).tobytes(): points for points in contours}.values())


def _sections(contours_ijk: list[Points], axis: int) -> Iterator[tuple[float, list[Points]]]:
    """The contours of each plane, and where it lies along an axis of the grid, in ascending order."""
    places = np.array([points[:, axis].mean() for points in contours_ijk])
    order = np.argsort(places, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(places[order]) > _SAME_PLANE) + 1):
        yield float(places[group].mean()), [contours_ijk[n] for n in group]


def _grid_of_planes(roi: _Roi, contours: list[Points], scan: Scan) -> tuple[Grid, int, NDArray[np.float64]]:
    """A grid along one of whose axes the contours' planes follow each other, this axis, and where on it slices lie.

    It is the scan's own wherever contours lie in planes of its voxels, else one with voxels as small.
    """
    own = scan.volume.grid
    heights = np.stack([np.ptp(own.ijk(points_ras), axis=0) for points_ras in contours]).max(axis=0)
    axis = int(np.argmin(heights))
    if heights[axis] <= _FLAT:
        slices = np.arange(own.shape[axis], dtype=float)
        if scan.series is not None:
            drawn_on = own.ijk(ras_from_lps(np.array([plane.position_lps for plane in scan.series.slices], float)))
            if np.ptp(drawn_on[:, axis]) > 0.5 * (own.shape[axis] - 1):  # the axis along which they are stacked
                slices = np.sort(drawn_on[:, axis])
        return own, axis, slices
    normal_ras = _common_normal(roi, contours, _FLAT * float(own.spacing_mm.min()))
    along_mm = np.sort([float(points_ras.mean(axis=0) @ normal_ras) for points_ras in contours])
    voxel_mm = float(own.spacing_mm.min())
    steps_mm = np.diff(along_mm)[np.diff(along_mm) > 0.2 * voxel_mm]
    step_mm = float(steps_mm.min()) if len(steps_mm) else float(own.spacing_mm.max())
    row_ras = np.eye(3)[int(np.argmin(np.abs(normal_ras)))]
    row_ras = row_ras - (row_ras @ normal_ras) * normal_ras
    row_ras /= np.linalg.norm(row_ras)
    axes = np.stack([row_ras, np.cross(normal_ras, row_ras), normal_ras], axis=1)
    spacing_mm = np.array([voxel_mm, voxel_mm, step_mm])
    places_mm = np.concatenate(contours) @ axes
    low_mm = places_mm.min(axis=0) - [voxel_mm, voxel_mm, 0.0]
    count = np.ceil((places_mm.max(axis=0) - low_mm) / spacing_mm - 1e-6).astype(int) + np.array([2, 2, 1])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * spacing_mm, axes @ low_mm
    if not own.contains(np.concatenate(contours), float(own.spacing_mm.max())).all():
        raise _outside(roi)
    return Grid(tuple(count.tolist()), affine), 2, np.arange(max(int(count[2]), 2), dtype=float)


def _common_normal(roi: _Roi, contours: list[Points], tolerance_mm: float) -> NDArray[np.float64]:
    """The unit normal (3,) of all contours' planes."""
    areas = [np.cross(points_ras, np.roll(points_ras, -1, axis=0)).sum(axis=0) for points_ras in contours]
    largest = max(areas, key=lambda area: float(np.linalg.norm(area)))
    normal_ras = largest / max(float(np.linalg.norm(largest)), 1e-9)
    off_mm = max(float(np.ptp(points_ras @ normal_ras)) for points_ras in contours)
    if off_mm > tolerance_mm:
        raise roi.fault(
            f"has contours whose points lie up to {off_mm:.1f} mm off a plane, or whose planes are not parallel"
        )
    return np.asarray(normal_ras, float)


def _require_inside(roi: _Roi, contours_ijk: list[Points], grid: Grid, axis: int) -> None:
    """Raise InputError for points outside of the grid, to half a voxel across the planes and a millimetre."""
    slack = 0.5 + OUTSIDE_TOLERANCE_MM / grid.spacing_mm
    slack[axis] = _OUT_OF_PLANE_VOX
    corners = np.concatenate(contours_ijk)
    if (corners < -0.5 - slack).any() or (corners > np.array(grid.shape) - 0.5 + slack).any():
        raise _outside(roi)


def _outside(roi: _Roi) -> InputError:
    return roi.fault("lies outside of the scan, wholly or in part", "Give the whole scan on which it was drawn")
