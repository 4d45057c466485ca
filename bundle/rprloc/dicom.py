"""Reading CT series from DICOM: folders, zip files and multi-frame files, and what results written as DICOM refer to.

pydicom reads, and SimpleITK (GDCM) decompresses. Where each image lies, whether the stack is complete, and which series
is meant is decided here: these libraries pass over gaps, tilts and mixed series.
"""

from __future__ import annotations

import os
import struct
import tempfile
import warnings
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rprloc.archive import unpacked
from rprloc.errors import InputError
from rprloc.files import ITK_FILES
from rprloc.geometry import Grid
from rprloc.volume import AIR_HU

if TYPE_CHECKING:
    from pydicom import Dataset

MIN_SLICES = 16
_MAX_SIDEWAYS_MM, _MIN_TILT_SINE, _MAX_TILT_DEGREES = 0.5, 0.005, 40.0
_GAP = 1.5  # a step so many times as long as both of its neighbours is a missing slice, not another spacing
_CT_STORAGE = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
)  # CT, enhanced CT, legacy converted enhanced CT
_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "SeriesInstanceUID",
    "SeriesDescription",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelRepresentation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_PIXEL_TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_CAPTURED_FRAMES = "1.2.840.10008.5.1.4.1.1.7.3"  # multi-frame grayscale word secondary capture
_BROKEN = (
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)
"""What pydicom, GDCM and numpy raise for damaged data."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One image plane, a file or a frame of a file; lengths in mm, LPS; None where the header says nothing.

    ``axes_lps`` (6,) points along a row and along a column; ``spacing_mm`` (2,) is from row to row, then from column to
    column; ``shape`` is (columns, rows); ``frame`` counts from 0 and is None in a file with a single image.
    """

    path: Path
    frame: int | None
    sop_class: str
    sop_uid: str
    shape: tuple[int, int]
    stored_as: tuple[float, float, float]
    """PixelRepresentation, rescale slope, rescale intercept."""
    position_lps: NDArray[np.float64] | None
    axes_lps: NDArray[np.float64] | None
    spacing_mm: NDArray[np.float64] | None

    @property
    def name(self) -> str:
        return self.path.name if self.frame is None else f"frame {self.frame + 1} of {self.path.name}"

    @property
    def grid(self) -> Grid:
        """The grid (columns, rows, 1) of this plane alone. Raises ValueError if the header does not say where it is."""
        if self.position_lps is None or self.axes_lps is None or self.spacing_mm is None:
            raise ValueError(f"{self.name} does not say where it lies")
        normal_lps = np.cross(self.axes_lps[:3], self.axes_lps[3:])
        directions_lps = np.stack([self.axes_lps[:3], self.axes_lps[3:], normal_lps], axis=1)
        return Grid.from_lps(
            (*self.shape, 1), self.position_lps, directions_lps, [self.spacing_mm[1], self.spacing_mm[0], 1.0]
        )


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """The image planes of one series; once read, from the first to the last along their normal."""

    uid: str
    description: str
    modality: str
    slices: tuple[Slice, ...]
    kept: object = field(default=None, repr=False)
    """Whatever must live as long as the files are needed: the folder into which an archive was unpacked."""

    @property
    def summary(self) -> str:
        return f"{self.uid} ({self.description or 'no description'}, {len(self.slices)} slices)"

    @cached_property
    def headers(self) -> list[Dataset]:
        """The data sets without pixels, one for each file, in the order of the slices."""
        import pydicom

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            paths = dict.fromkeys(one.path for one in self.slices)
            return [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]


def is_dicom(path: Path) -> bool:
    """Whether the file begins as DICOM files do."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def find_series(path: Path) -> list[DicomSeries]:
    """All image series in a DICOM file, a zip file, or a folder and what lies below it, by their UIDs.

    DICOM objects without an image (structure sets, reports, directories) and other files are passed over. Raises
    InputError for damaged files and for an archive that cannot be unpacked.
    """
    kept = None
    if path.is_file() and not is_dicom(path):
        kept = unpacked(path)
        files = kept.files
    elif path.is_file():
        files = [path]
    else:
        files = [Path(root, name) for root, folders, names in os.walk(path) for name in _in_order(folders, names)]
    found: dict[str, list[Slice]] = defaultdict(list)
    about: dict[str, tuple[str, str]] = {}
    for file in files:
        if not file.is_file() or not is_dicom(file):
            continue
        header = _header(file)
        if header is not None:
            uid = str(header.get("SeriesInstanceUID", ""))
            found[uid] += _slices(file, header)
            about.setdefault(uid, (str(header.get("SeriesDescription", "")), str(header.get("Modality", ""))))
    return [DicomSeries(uid, *about[uid], tuple(slices), kept) for uid, slices in sorted(found.items())]


def choose_series(found: Sequence[DicomSeries], path: Path, uid: str | None) -> DicomSeries:
    """The series with this UID; without one the only series, or the only one of several that can be a CT scan.

    Raises InputError, which lists what there is, if none or several can be meant.
    """
    if not found:
        inside = "no DICOM images" if path.is_file() or any(path.iterdir()) else "nothing"
        raise InputError(
            f"{path} holds {inside}; the slices of a CT series were expected; give the folder or zip file that has "
            "them."
        )
    scans = [one for one in found if one.modality in ("CT", "") and len(one.slices) >= MIN_SLICES]
    meant = [one for one in found if one.uid == uid] if uid is not None else found if len(found) == 1 else scans
    if len(meant) == 1:
        return meant[0]
    what = f"no series {uid}" if uid is not None else f"{len(found)} DICOM series"
    raise InputError(
        f"{path} holds {what}: it has {', '.join(one.summary for one in found)}; one CT scan was expected; "
        "select it by its UID with series_uid, on the command line with --series."
    )


def read_series(series: DicomSeries, path: Path) -> tuple[NDArray[np.generic], Grid, DicomSeries, tuple[str, ...]]:
    """The array (I, J, K) of Hounsfield units, its grid, the series with its slices in order, and notes.

    I runs along the rows, K from slice to slice. The planes of a tilted gantry are moved onto perpendicular axes, and
    those of uneven spacing are interpolated to even ones; a note says so. Raises InputError, naming ``path``, unless
    the planes are parallel, of one size, and without gaps or doubles.
    """
    ordered, along_mm = _stack(series.slices, path)
    series = DicomSeries(series.uid, series.description, series.modality, tuple(ordered), series.kept)
    array = _pixels(ordered)
    notes = [f"The series says that it is {series.modality}; CT was expected."] * (series.modality not in ("CT", ""))
    array, origin_lps, span_lps, note = _without_tilt(array, ordered, along_mm)
    notes += note
    array, note = _evenly_spaced(array, along_mm)
    notes += note
    _, directions_lps, spacing_mm = ordered[0].grid.to_lps()
    span_mm = float(np.linalg.norm(span_lps))
    directions_lps = np.column_stack([directions_lps[:, :2], span_lps / span_mm])
    spacing_mm = np.array([*spacing_mm[:2], span_mm / (array.shape[2] - 1)])
    grid = Grid.from_lps(array.shape, origin_lps, directions_lps, spacing_mm)
    return array, grid, series, tuple(notes)


def _in_order(folders: list[str], names: list[str]) -> list[str]:
    folders.sort()
    return sorted(names)


def _header(path: Path) -> Dataset | None:
    """The header of a DICOM image file; None for DICOM without an image."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, on values that break the standard without harm
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            if header.get("Rows") is None and header.file_meta.get("MediaStorageSOPClassUID") in _CT_STORAGE:
                raise EOFError("a CT image without its size")
            for element in header:  # so that values that cannot be read are noticed here
                _ = element.value
    except (*_BROKEN, pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException) as error:
        raise _damaged(path, error) from error
    return header if header.get("Rows") is not None else None


def _damaged(path: Path, error: object) -> InputError:
    reason = " ".join(str(error).split())[:200].rstrip(".")
    return InputError(
        f"{path} is damaged or cut off ({reason}); complete DICOM files were expected; export the series again."
    )


def _slices(path: Path, header: Dataset) -> list[Slice]:
    """The planes of one file."""
    try:
        components = int(header.get("SamplesPerPixel") or 1)
        frames, rows, columns = int(header.get("NumberOfFrames") or 1), int(header.Rows), int(header.Columns)
        if components != 1:
            raise InputError(
                f"{path} has {components} values at each voxel (colour); one Hounsfield value was expected; give the "
                "scan itself, not a picture of it."
            )
        if header.file_meta.get("TransferSyntaxUID") in _UNCOMPRESSED:
            expected = frames * rows * columns * int(header.get("BitsAllocated") or 0) // 8
            if path.stat().st_size < expected:
                raise EOFError(f"it is shorter than its {frames} images of {columns} x {rows} pixels")
        groups = list(header.get("PerFrameFunctionalGroupsSequence") or [])
        shared = next(iter(header.get("SharedFunctionalGroupsSequence") or []), None)
        if groups and len(groups) != frames:
            raise EOFError(f"it describes {len(groups)} images and holds {frames}")
        one_plane = header if frames == 1 else None  # many frames cannot all lie where the file says that it lies
        return [
            Slice(
                path,
                number if frames > 1 or groups else None,
                str(header.get("SOPClassUID", "")),
                str(header.get("SOPInstanceUID", "")),
                (columns, rows),
                (float(header.get("PixelRepresentation") or 0), *_rescale(header, shared, own)),
                _numbers(one_plane, shared, own, "PlanePositionSequence", "ImagePositionPatient", 3),
                _numbers(header, shared, own, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
                _numbers(header, shared, own, "PixelMeasuresSequence", "PixelSpacing", 2),
            )
            for number, own in enumerate(groups or [None] * frames)
        ]
    except InputError:
        raise
    except _BROKEN as error:
        raise _damaged(path, error) from error


def _value(header: Dataset | None, shared: Dataset | None, own: Dataset | None, group: str, name: str) -> Any:
    """A header's value: of the frame, else of all frames, else (in a file with a single image) of the file."""
    for place in (own, shared):
        sequence = place.get(group) if place is not None else None
        if sequence and sequence[0].get(name) is not None:
            return sequence[0].get(name)
    return header.get(name) if header is not None else None


def _numbers(
    header: Dataset | None, shared: Dataset | None, own: Dataset | None, group: str, name: str, count: int
) -> NDArray[np.float64] | None:
    value = _value(header, shared, own, group, name)
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != count:
        return None
    numbers = np.array([float(part) for part in value])
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} is {list(value)}")
    return numbers


def _rescale(header: Dataset, shared: Dataset | None, own: Dataset | None) -> tuple[float, float]:
    names = ("RescaleSlope", "RescaleIntercept")
    slope, intercept = (_value(header, shared, own, "PixelValueTransformationSequence", name) for name in names)
    found = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    if not np.isfinite(found).all() or found[0] == 0.0:
        raise ValueError(f"its rescale slope and intercept are {found}")
    return found


def _stack(slices: Sequence[Slice], path: Path) -> tuple[list[Slice], NDArray[np.float64]]:
    """The planes from the first to the last along their normal, and how far each lies along it, from the first, in mm.

    Raises InputError unless they are parallel, of one size, on one line, and without gaps or doubles.
    """
    first = slices[0]
    placed = [
        (one, one.position_lps, one.axes_lps, one.spacing_mm)
        for one in slices
        if one.position_lps is not None and one.axes_lps is not None and one.spacing_mm is not None
    ]
    if len(placed) < len(slices):
        raise InputError(
            f"{len(slices) - len(placed)} of {len(slices)} DICOM images in {path} do not say where they lie (no "
            "image position, orientation or pixel spacing); slices of a CT series were expected; take other images out."
        )
    if len(slices) < 2:
        if path.is_file() and first.frame is None:
            raise InputError(
                f"{path} is a single DICOM slice; the whole series was expected; give the folder that holds all its "
                "slices."
            )
        raise InputError(
            f"The series in {path} has a single slice; at least {MIN_SLICES} were expected; give a whole scan."
        )
    _, _, axes_lps, spacing_mm = placed[0]
    for one, _, axes, spacing in placed:
        same_axes, same_spacing = np.allclose(axes, axes_lps, atol=1e-3), np.allclose(spacing, spacing_mm, rtol=1e-3)
        if one.shape != first.shape or not same_axes or not same_spacing:
            what = "size" if one.shape != first.shape else "orientation" if not same_axes else "pixel spacing"
            raise InputError(
                f"The slices in {path} differ in {what} ({first.name} and {one.name}); one stack of equal, "
                "parallel slices was expected; take scouts and other images out of the folder."
            )
    if not np.allclose(axes_lps.reshape(2, 3) @ axes_lps.reshape(2, 3).T, np.eye(2), atol=1e-3):
        raise InputError(
            f"The rows and columns of the slices in {path} are not at right angles and of length one; image "
            "orientations were expected to be; export the series again."
        )
    if (spacing_mm <= 0.0).any():
        raise InputError(
            f"The pixel spacing in {path} is {spacing_mm.tolist()} mm; two lengths above 0 were expected; export it "
            "again."
        )
    normal_lps = np.cross(axes_lps[:3], axes_lps[3:])
    places_lps = np.stack([position for _, position, _, _ in placed])
    along_mm = places_lps @ normal_lps
    order = np.argsort(along_mm, kind="stable")
    ordered, along_mm = [slices[n] for n in order], along_mm[order] - along_mm[order[0]]
    _require_no_gaps(ordered, np.diff(along_mm), path)
    off_mm = places_lps[order] - places_lps[order[0]]
    off_mm = off_mm - off_mm[-1] * (along_mm / along_mm[-1])[:, None]
    sideways_mm = np.linalg.norm(off_mm - (off_mm @ normal_lps)[:, None] * normal_lps, axis=1)
    if sideways_mm.max() > _MAX_SIDEWAYS_MM:
        raise InputError(
            f"The slices in {path} are shifted sideways by up to {sideways_mm.max():.1f} mm against each other; "
            "slices on one straight line were expected; export one series, resampled to a regular stack."
        )
    return ordered, along_mm


def _require_no_gaps(ordered: Sequence[Slice], steps_mm: NDArray[np.float64], path: Path) -> None:
    step_mm = float(np.median(steps_mm))
    doubles = np.flatnonzero(steps_mm <= max(0.01 * step_mm, 0.05))
    if len(doubles):
        one, other = (ordered[doubles[0] + n].name for n in range(2))
        raise InputError(
            f"{len(doubles)} slices in {path} lie where another one lies ({one} and {other}); "
            "one slice at each position was expected; export a single phase or reconstruction."
        )
    beside_mm = np.pad(steps_mm, 1)
    gaps = np.flatnonzero(steps_mm > _GAP * np.maximum(beside_mm[:-2], beside_mm[2:]))
    if len(gaps) and len(steps_mm) > 1:
        one, other = (ordered[gaps[0] + n].name for n in range(2))
        raise InputError(
            f"Slices are missing in {path}: it is {steps_mm[gaps[0]]:.2f} mm from {one} to {other}, "
            f"{step_mm:.2f} mm elsewhere; a series without missing slices was expected; export it again."
        )


def _pixels(ordered: Sequence[Slice]) -> NDArray[np.generic]:
    """The rescaled pixels (I, J, K) of the planes: int16 where they fit, else int32; float32 for fractions.

    Slice by slice in memory, as images of ITK are, so that none of them is copied once more.
    """
    whole = all(number.is_integer() for one in ordered for number in one.stored_as)
    columns, rows = ordered[0].shape
    values: NDArray[Any] = np.empty((len(ordered), rows, columns), np.int16 if whole else np.float32)
    stored: dict[Path, NDArray[Any]] = {}
    for k, one in enumerate(ordered):
        if one.path not in stored:
            if one.frame is None:
                stored.clear()  # each such file is needed once
            stored[one.path] = _stored_pixels(one.path)
        _, slope, intercept = one.stored_as
        plane = stored[one.path][one.frame or 0]
        if whole:
            plane = plane.astype(np.int32) * int(slope) + int(intercept)
            if values.dtype == np.int16 and (plane.min() < -(1 << 15) or plane.max() >= 1 << 15):
                values = values.astype(np.int32)
            values[k] = plane
        else:
            values[k] = plane * np.float32(slope) + np.float32(intercept)
    return values.transpose(2, 1, 0)


def _stored_pixels(path: Path) -> NDArray[np.generic]:
    """The pixels (frames, rows, columns) as they are stored. Raises InputError if they cannot be decoded."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(path)
            plain = data.file_meta.get("TransferSyntaxUID") in (*_UNCOMPRESSED, _DEFLATED)
            frames = data.pixel_array if plain else _decompressed(data)
        frames = frames.reshape(-1, int(data.Rows), int(data.Columns))
        unused: int = 8 * frames.dtype.itemsize - int(data.BitsStored)  # above the others; they may hold anything
        if not 0 <= unused < 8 * frames.dtype.itemsize:
            raise ValueError(f"{data.BitsStored} bits are stored")
        if frames.shape[0] != int(data.get("NumberOfFrames") or 1):
            raise ValueError(f"{frames.shape[0]} images")
        return frames if unused == 0 else np.right_shift(np.left_shift(frames, unused), unused)
    except (*_BROKEN, pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException) as error:
        raise _damaged(path, error) from error


def _decompressed(data: Dataset) -> NDArray[np.generic]:
    """The pixels of a compressed data set, by GDCM, which gets a file with nothing in it but what it needs.

    It is known to hang on damaged headers, and it would apply one rescale slope to all frames.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID

    frames = int(data.get("NumberOfFrames") or 1)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(_CT_STORAGE[0] if frames == 1 else _CAPTURED_FRAMES)
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = UID("1.2.3"), data.file_meta.TransferSyntaxUID
    clean = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    clean.SOPClassUID, clean.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    for name in _PIXEL_TAGS:
        if name in data:
            setattr(clean, name, data[name].value)
    with tempfile.TemporaryDirectory(prefix="rprloc-") as folder:
        path = Path(folder) / "pixels.dcm"
        clean.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        with ITK_FILES:
            return sitk.GetArrayFromImage(reader.Execute())


def _without_tilt(
    array: NDArray[np.generic], ordered: Sequence[Slice], along_mm: NDArray[np.float64]
) -> tuple[NDArray[np.generic], NDArray[np.float64], NDArray[np.float64], list[str]]:
    """The array with its planes straight above each other, and a note if they were moved.

    Planes of a tilted gantry are parallel, but each lies further along the table: each is moved within its own plane,
    by linear interpolation, so that no value comes from another plane. The second result is the LPS position of the
    first voxel, the third leads from there to the last plane.
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
            f"The slices of {first.path.parent} are sheared by {degrees:.1f} degrees; at most {_MAX_TILT_DEGREES:g}, "
            "as by a tilted gantry, were expected; export the series again."
        )
    step_mm = first.spacing_mm[::-1]  # along a row, then along a column
    shifts_vox = along_mm[:, None] / along_mm[-1] * drift_mm / step_mm  # (K, 2)
    low = np.floor(shifts_vox.min(axis=0)).astype(int)
    high = np.ceil(shifts_vox.max(axis=0)).astype(int)
    air = float(max(AIR_HU, np.iinfo(str(array.dtype)).min)) if np.issubdtype(array.dtype, np.integer) else AIR_HU
    straight = np.full((*(np.array(array.shape[:2]) + high - low), array.shape[2]), air, array.dtype)
    for k, shift in enumerate(shifts_vox):
        widths = [(-low[n], high[n]) for n in range(2)]
        padded = np.pad(array[:, :, k].astype(np.float32), widths, constant_values=air)
        moved = ndimage.shift(padded, shift, order=1, mode="constant", cval=air)
        straight[:, :, k] = np.rint(moved) if np.issubdtype(array.dtype, np.integer) else moved
    origin_lps = first.position_lps + (low * step_mm) @ in_plane_lps
    span_lps = along_mm[-1] * np.cross(*in_plane_lps)
    note = f"The gantry was tilted by {degrees:.1f} degrees; the slices were straightened."
    return straight, origin_lps, span_lps, [note]


def _evenly_spaced(array: NDArray[np.generic], along_mm: NDArray[np.float64]) -> tuple[NDArray[np.generic], list[str]]:
    """The array with equal steps between its planes, and a note if it was interpolated."""
    steps_mm = np.diff(along_mm)
    median_mm = float(np.median(steps_mm))
    if np.abs(steps_mm - median_mm).max() <= max(0.01 * median_mm, 0.05):
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
        f"The slices are unevenly spaced, {steps_mm.min():.2f} to {steps_mm.max():.2f} mm apart; they were "
        f"interpolated to {along_mm[-1] / (count - 1):.2f} mm."
    )
    return even, [note]
