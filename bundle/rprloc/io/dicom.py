"""DICOM series in folders, zip files and multi-frame files: which there are, and which of them is meant.

pydicom reads, and SimpleITK (GDCM) decompresses. Where each image lies, whether the stack is complete, and which series
is meant is decided here: these libraries pass over gaps, tilts and mixed series.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rprloc.errors import InputError
from rprloc.files import readable
from rprloc.io.archive import unpack
from rprloc.io.dicom_files import (
    Fault,
    begins_as_dicom,
    files_below,
    lost_by_directory,
    only_dicom,
    read_start,
    with_neighbours,
)
from rprloc.io.dicom_headers import ImageFile, read_image_header
from rprloc.io.dicom_slice import Slice

if TYPE_CHECKING:
    from pydicom import Dataset

MIN_SLICES = 16
_ABOUT_LETTERS, _LISTED_LETTERS = 20, 180  # of a message that names series; two are always named


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """The image planes of one series; once read, from the first to the last along their normal."""

    uid: str
    description: str
    modality: str
    slices: tuple[Slice, ...]
    kept: object = field(default=None, repr=False)
    """Whatever must live as long as the files are needed: the folder into which an archive was unpacked."""
    faults: tuple[Fault, ...] = ()
    """What is wrong with files of this series; they stand in the way only of who reads it."""
    left_out: tuple[Fault, ...] = ()
    """Files found with it that cannot be read so far that anybody could tell their series."""

    @property
    def may_be_ct(self) -> bool:
        """Whether its values are taken for Hounsfield units: it says that it is CT, or nothing."""
        return self.modality in ("CT", "")

    @property
    def count(self) -> int:
        """The number of its slices, those included that cannot be read."""
        return len(self.slices) + sum(fault.slices for fault in self.faults)

    @property
    def summary(self) -> str:
        about = self.description[:_ABOUT_LETTERS]
        about += "..." if about != self.description else ""
        return readable(f"{self.uid} ({about or 'no description'}, {self.count} slices)")

    @cached_property
    def headers(self) -> list[Dataset]:
        """The data sets without pixels, one for each file, in the order of the slices."""
        import pydicom

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            paths = dict.fromkeys(plane.path for plane in self.slices)
            return [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths]


def is_dicom(path: Path) -> bool:
    """Whether there is a file that begins as DICOM files do."""
    try:
        return begins_as_dicom(read_start(path))
    except OSError:
        return False


def find_series(path: Path) -> list[DicomSeries]:
    """All image series in a DICOM file, a zip file, or a folder and what lies below it, by their UIDs.

    DICOM objects without an image (structure sets, reports, directories) and other files are passed over. A file that
    cannot be read is a fault of its series. Raises InputError for an archive that cannot be unpacked, and where there
    is nothing but files that cannot be read.
    """
    kept, faults, names = None, list[Fault](), dict[Path, Path]()
    if path.is_file() and not is_dicom(path):
        kept = unpack(path)
        files, names = kept.files, kept.names
    elif path.is_file():
        files = [path]
    else:
        files, faults = files_below(path)
    lost = [] if files == [path] else lost_by_directory(files, names)
    files, not_dicom = only_dicom(files, names)
    images = {file: image for file in files if (image := read_image_header(file)) is not None}
    if any(image.uid for image in images.values()):
        images = {file: image if image.uid else _of_no_series(file, image) for file, image in images.items()}
    unknown = [image.fault for image in images.values() if image.uid is None and image.fault is not None]
    series_of = {file: image.uid for file, image in images.items() if image.uid is not None}
    left_out = with_neighbours([*faults, *not_dicom, *unknown], series_of, names)
    left_out = [fault.inside(path, names) for fault in left_out]
    images = {
        file: replace(image, fault=image.fault and image.fault.inside(path, names)) for file, image in images.items()
    }
    if left_out and not series_of:
        if len(left_out) == 1:
            raise left_out[0].error()
        raise InputError(
            f"{path} holds no DICOM images that can be read: {describe_faults(left_out)}. "
            "Copy or export the series again."
        )
    lost = [replace(fault, path=Path(f"{path}/{fault.path}")) if kept else fault for fault in lost]
    return _as_series(images.values(), kept, left_out, lost)


def series_of_files(files: Iterable[Path]) -> list[DicomSeries]:
    """The image series of these files alone, by their UIDs: for a program that knows which files belong together."""
    images = (read_image_header(file) for file in files)
    return _as_series((image for image in images if image is not None), None, [], [])


def _of_no_series(path: Path, image: ImageFile) -> ImageFile:
    """A file without a series among others that have one: it may be a slice of any of them."""
    return ImageFile(None, fault=image.fault or Fault(path, "does not say to which series it belongs"))


def _as_series(
    images: Iterable[ImageFile], kept: object, left_out: Sequence[Fault], lost: Sequence[Fault]
) -> list[DicomSeries]:
    images_of: dict[str, list[ImageFile]] = defaultdict(list)
    for image in images:
        if image.uid is not None:
            images_of[image.uid].append(image)
    return [
        DicomSeries(
            uid,
            next((image.description for image in members if image.description), ""),
            next((image.modality for image in members if image.modality), ""),
            tuple(plane for image in members for plane in image.slices),
            kept,
            tuple(image.fault for image in members if image.fault is not None),
            (*left_out, *(fault for fault in lost if uid in fault.near)),
        )
        for uid, members in sorted(images_of.items())
    ]


def describe_faults(faults: Sequence[Fault]) -> str:
    """How many files cannot be read, and why the first of them cannot."""
    count = "1 file" if len(faults) == 1 else f"{len(faults)} files"
    example = "" if len(faults) == 1 else "for example "
    return f"{count} ({example}{faults[0].path.name} {faults[0].what})"


def choose_series(all_series: Sequence[DicomSeries], path: Path, uid: str | None) -> DicomSeries:
    """The series with this UID; without one the only series, or the only one of several that can be a CT scan; where
    none can, the only one that can be an MR scan.

    Raises InputError, which lists what there is, if none or several can be meant.
    """
    if not all_series:
        inside = "no DICOM images" if path.is_file() or any(path.iterdir()) else "nothing"
        raise InputError(f"{path} holds {inside}. Give the folder or zip file with the slices of a series.")
    long = [series for series in all_series if series.count >= MIN_SLICES]
    scans = [series for series in long if series.may_be_ct] or [series for series in long if series.modality == "MR"]
    if uid is not None:
        meant = [series for series in all_series if series.uid == uid]
    else:
        meant = list(all_series) if len(all_series) == 1 else scans
    if len(meant) == 1:
        return meant[0]
    what = f"no series {uid}" if uid is not None else f"{len(all_series)} DICOM series"
    raise InputError(
        f"{path} holds {what}. It has {_list(all_series, scans)}. "
        "Select one with series_uid, on the command line with --series."
    )


def _list(all_series: Sequence[DicomSeries], scans: Sequence[DicomSeries]) -> str:
    """The first of the series, those that can be scans before others, and how many more there are."""
    first = [*scans, *(series for series in all_series if series not in scans)]
    named = [series.summary for series in first[:2]]
    for series in first[2:]:
        if len(", ".join([*named, series.summary])) > _LISTED_LETTERS:
            more = len(first) - len(named)
            return f"{', '.join(named)} and {more} more (see 'rprloc series')"
        named.append(series.summary)
    return ", ".join(named)
