"""Reading CT series from DICOM: folders, zip files and multi-frame files, and what results written as DICOM refer to.

pydicom reads, and SimpleITK (GDCM) decompresses. Where each image lies, whether the stack is complete, and which series
is meant is decided here: these libraries pass over gaps, tilts and mixed series.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.io.archive import unpack

if TYPE_CHECKING:
    from pydicom import Dataset

MIN_SLICES = 16
CT_STORAGE = (
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

UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
BROKEN = (
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
            paths = dict.fromkeys(plane.path for plane in self.slices)
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
        kept = unpack(path)
        files = kept.files
    elif path.is_file():
        files = [path]
    else:
        files = [Path(root, name) for root, folders, names in os.walk(path) for name in _in_order(folders, names)]
    slices_of: dict[str, list[Slice]] = defaultdict(list)
    about: dict[str, tuple[str, str]] = {}
    for file in files:
        if not file.is_file() or not is_dicom(file):
            continue
        header = _header(file)
        if header is not None:
            uid = str(header.get("SeriesInstanceUID", ""))
            slices_of[uid] += _slices(file, header)
            about.setdefault(uid, (str(header.get("SeriesDescription", "")), str(header.get("Modality", ""))))
    return [DicomSeries(uid, *about[uid], tuple(slices), kept) for uid, slices in sorted(slices_of.items())]


def choose_series(all_series: Sequence[DicomSeries], path: Path, uid: str | None) -> DicomSeries:
    """The series with this UID; without one the only series, or the only one of several that can be a CT scan.

    Raises InputError, which lists what there is, if none or several can be meant.
    """
    if not all_series:
        inside = "no DICOM images" if path.is_file() or any(path.iterdir()) else "nothing"
        raise InputError(f"{path} holds {inside}. Give the folder or zip file with the slices of a CT series.")
    scans = [series for series in all_series if series.modality in ("CT", "") and len(series.slices) >= MIN_SLICES]
    if uid is not None:
        meant = [series for series in all_series if series.uid == uid]
    else:
        meant = list(all_series) if len(all_series) == 1 else scans
    if len(meant) == 1:
        return meant[0]
    what = f"no series {uid}" if uid is not None else f"{len(all_series)} DICOM series"
    raise InputError(
        f"{path} holds {what}. It has {', '.join(series.summary for series in all_series)}. "
        "Select one CT scan by its UID with series_uid, on the command line with --series."
    )


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
            if header.get("Rows") is None and header.file_meta.get("MediaStorageSOPClassUID") in CT_STORAGE:
                raise EOFError("a CT image without its size")
            for element in header:  # so that values that cannot be read are noticed here
                _ = element.value
    except (*BROKEN, pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException) as error:
        raise damaged_error(path, error) from error
    return header if header.get("Rows") is not None else None


def damaged_error(path: Path, error: object) -> InputError:
    reason = " ".join(str(error).split())[:200].rstrip(".")
    return InputError(f"{path} is damaged or cut off ({reason}). Export the series again.")


def _slices(path: Path, header: Dataset) -> list[Slice]:
    """The planes of one file."""
    try:
        components = int(header.get("SamplesPerPixel") or 1)
        frames, rows, columns = int(header.get("NumberOfFrames") or 1), int(header.Rows), int(header.Columns)
        if components != 1:
            raise InputError(
                f"{path} has {components} values at each voxel (colour), but CT has one. Give the scan itself, not a "
                "picture of it."
            )
        if header.file_meta.get("TransferSyntaxUID") in UNCOMPRESSED:
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
    except BROKEN as error:
        raise damaged_error(path, error) from error


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
    rescale = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    if not np.isfinite(rescale).all() or rescale[0] == 0.0:
        raise ValueError(f"its rescale slope and intercept are {rescale}")
    return rescale
