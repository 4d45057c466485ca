"""Whether a DICOM annotation belongs to a scan, and what is common to reading DICOM annotations."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rprloc.errors import InputError
from rprloc.files import readable
from rprloc.io.dicom_files import damage
from rprloc.io.dicom_headers import BROKEN, DEFLATED, refuse_deflate_bomb, transfer_syntax
from rprloc.io.reading import Scan

if TYPE_CHECKING:
    from pydicom import Dataset

_ELEMENT_BYTES = 8  # of the smallest
_OF_ITS_ITEMS = 0xFFFFFFFF  # the length of a sequence that ends with a mark


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """What pydicom raises for damaged data, as InputError; it warns of no values that break the standard."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError as error:
        raise InputError(readable(str(error))) from error
    except (*BROKEN, pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException) as error:
        raise damage(path, error).error() from error


def read_data_set(path: Path, shown: Path) -> Dataset:
    """All that a DICOM file holds; ``shown`` is what it is called in messages.

    Raises InputError if it is damaged or cut off.
    """
    import pydicom

    with explain_damage(shown), path.open("rb") as file:
        refuse_deflate_bomb(file, path)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*(end of|End of|EOF|Unexpected|bytes|length)")
            try:
                data = pydicom.dcmread(file, force=True)
            except UserWarning as warning:  # pydicom keeps what it has of a file that is cut off
                raise EOFError(str(warning)) from warning
        _require_whole(data, path.stat().st_size)
    return data


def _require_whole(data: Dataset, size: int) -> None:
    """Raise EOFError for a file that ends in its last element; pydicom tells nobody if that is a sequence."""
    from pydicom.dataelem import RawDataElement

    if transfer_syntax(data) == DEFLATED:
        return  # whose stream has an end of its own
    stored: list[Any] = [data.get_item(tag) for tag in list(data.keys())]
    known = [one for one in stored if isinstance(one, RawDataElement) and one.length != _OF_ITS_ITEMS]
    short = any(one.length > len(one.value or b"") for one in known)
    rest = size - max((one.value_tell + one.length for one in known), default=size)
    if short or (0 < rest < _ELEMENT_BYTES and stored[-1] is known[-1]):
        raise EOFError("its last element is not whole")


def uid(value: Any) -> str:
    """A UID as text that compares with those of :class:`rprloc.io.dicom_slice.Slice`."""
    return str(value or "").strip(" \0").upper()


def images_of(references: Iterable[Dataset] | None) -> set[str]:
    """The UIDs of the images in a sequence of references."""
    return {uid(image.get("ReferencedSOPInstanceUID")) for image in references or []} - {""}


def require_same_scan(
    path: Path, what: str, scan: Scan, frames: Collection[str], images: Collection[str], *, must_share_images: bool
) -> tuple[str, ...]:
    """Raise InputError if an annotation belongs to another scan; gives what a person should know if nobody can tell.

    ``frames`` and ``images`` are the UIDs of the frames of reference and the images that it names.
    """
    if scan.series is None:
        return (f"The scan is not DICOM, so whether the {what} belongs to it could not be checked.",)
    own_frames = {plane.owners.get("FrameOfReferenceUID", "") for plane in scan.series.slices} - {""}
    own_images = {uid(plane.sop_uid) for plane in scan.series.slices} - {""}
    shared = own_images.intersection(images)
    if own_frames and frames and own_frames.isdisjoint(frames):
        raise InputError(
            f"The {what} {path} lies in another frame of reference than the scan. Give the one that was made on this "
            "scan."
        )
    if must_share_images and images and own_images and not shared:
        raise InputError(
            f"The {what} {path} was drawn on the images of another series. Give the one that was made on this scan, "
            "or give that series as the scan."
        )
    if not (own_frames and frames) and not shared:
        raise InputError(
            f"The {what} {path} does not say to which scan it belongs: it names no frame of reference and no image of "
            "the scan. Export it again with its references."
        )
    return ()
