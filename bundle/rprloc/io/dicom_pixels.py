"""The pixels of DICOM images in Hounsfield units: decoded by pydicom, decompressed by SimpleITK (GDCM)."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rprloc.io.dicom_files import damage
from rprloc.io.dicom_headers import BROKEN, CT_STORAGE, DEFLATED, UNCOMPRESSED, transfer_syntax
from rprloc.io.dicom_slice import Slice
from rprloc.io.itk import ITK_FILES

if TYPE_CHECKING:
    from pydicom import Dataset

_PIXEL_TAGS = (
    "SamplesPerPixel",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)

_LARGEST_WHOLE = 1 << 14  # slope and intercept up to here leave 16 bits within 32, and 32 bits within 64
_CAPTURED_FRAMES = "1.2.840.10008.5.1.4.1.1.7.3"  # multi-frame grayscale word secondary capture


def read_pixels(ordered: Sequence[Slice], padding: float) -> NDArray[np.generic]:
    """The rescaled pixels (I, J, K) of the planes: int16 where they fit, else int32 or float64; float32 for fractions.

    ``padding`` takes the place of what the header calls padding: no measurement, and often brighter than bone. Slice by
    slice in memory, as images of ITK are, so that none of them is copied once more.
    """
    whole = all(number.is_integer() and abs(number) < _LARGEST_WHOLE for image in ordered for number in image.stored_as)
    columns, rows = ordered[0].shape
    values: NDArray[Any] = np.empty((len(ordered), rows, columns), np.int16 if whole else np.float32)
    stored: dict[Path, _Pixels] = {}
    for k, image in enumerate(ordered):
        if image.path not in stored:
            if image.frame is None:
                stored.clear()  # each such file is needed once
            stored[image.path] = _stored_pixels(image.path)
        _, slope, intercept = image.stored_as
        pixels, frame = stored[image.path], image.frame or 0
        plane = pixels.values(frame)
        unmeasured = None if image.padding is None else pixels.between(frame, *image.padding)
        if whole:
            exact = np.int32 if plane.dtype.itemsize <= 2 else np.int64
            plane = plane.astype(exact) * int(slope) + int(intercept)
        else:
            with np.errstate(over="ignore"):  # what is not finite is refused with every other such voxel
                plane = plane * np.float32(slope) + np.float32(intercept)
        if unmeasured is not None:
            plane[unmeasured] = padding
        if whole and not _holds(values.dtype, plane):
            values = values.astype(np.int32 if _holds(np.dtype(np.int32), plane) else np.float64)
        values[k] = plane
    return values.transpose(2, 1, 0)


def _holds(kind: np.dtype[Any], plane: NDArray[Any]) -> bool:
    """Whether a type of numbers holds all of these integers."""
    if kind == np.float64:
        return True
    limits = np.iinfo(kind)
    return bool(limits.min <= plane.min() and plane.max() <= limits.max)


@dataclass(frozen=True, eq=False)
class _Pixels:
    """The pixels (frames, rows, columns) as they lie in the file, of which the lowest ``bits`` count."""

    allocated: NDArray[Any]
    bits: int

    @property
    def _unused(self) -> int:
        return 8 * self.allocated.dtype.itemsize - self.bits

    def values(self, frame: int) -> NDArray[Any]:
        """One image without what lies above the bits that count; that may be anything."""
        plane: NDArray[Any] = self.allocated[frame]
        return plane if self._unused == 0 else np.right_shift(np.left_shift(plane, self._unused), self._unused)

    def between(self, frame: int, one: int, other: int) -> NDArray[np.bool_]:
        """Which pixels of an image have these stored values or lie between them.

        The header may give them without a sign where the pixels have one. What does not fit into the bits that count
        is meant for all bits of a pixel.
        """
        least = -(1 << self.bits - 1) if np.issubdtype(self.allocated.dtype, np.signedinteger) else 0
        fits = all(least <= value < 1 << self.bits for value in (one, other))
        plane, bits = (self.values(frame), self.bits) if fits else (self.allocated[frame], self.bits + self._unused)
        signed = np.issubdtype(plane.dtype, np.signedinteger)
        low, high = sorted(_in_bits(value, bits, signed) for value in (one, other))
        return (plane == low) if low == high else (plane >= low) & (plane <= high)


def _in_bits(value: int, bits: int, signed: bool) -> int:
    """The number that a pixel of so many bits holds for a value."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def _stored_pixels(path: Path) -> _Pixels:
    """Raises InputError if the pixels cannot be decoded."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(path, force=True)
            plain = transfer_syntax(data) in (*UNCOMPRESSED, DEFLATED)
            if not data.file_meta.get("TransferSyntaxUID"):
                data.file_meta.TransferSyntaxUID = pydicom.uid.UID(transfer_syntax(data))
            bits = int(data.BitsStored)
            if plain:
                data.BitsStored = data.BitsAllocated  # else pydicom clears the other bits, which padding may need
            frames = data.pixel_array if plain else _decompressed(data)
        frames = frames.reshape(-1, int(data.Rows), int(data.Columns))
        if not 0 < bits <= 8 * frames.dtype.itemsize:
            raise ValueError(f"{bits} bits are stored")
        if frames.shape[0] != int(data.get("NumberOfFrames") or 1):
            raise ValueError(f"{frames.shape[0]} images")
        return _Pixels(frames, bits)
    except (*BROKEN, pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException) as error:
        raise damage(path, error).error() from error


def _decompressed(data: Dataset) -> NDArray[np.generic]:
    """The pixels of a compressed data set, by GDCM, which gets a file with nothing in it but what it needs.

    It is known to hang on damaged headers, and it would apply one rescale slope to all frames.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID

    frames = int(data.get("NumberOfFrames") or 1)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(CT_STORAGE[0] if frames == 1 else _CAPTURED_FRAMES)
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = UID("1.2.3"), data.file_meta.TransferSyntaxUID
    clean = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    clean.SOPClassUID, clean.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    for name in _PIXEL_TAGS:
        if name in data:
            setattr(clean, name, data[name].value)
    clean.PhotometricInterpretation = "MONOCHROME2"  # how it is shown; of MONOCHROME1 GDCM turns the values round
    with tempfile.TemporaryDirectory(prefix="rprloc-") as folder:
        path = Path(folder) / "pixels.dcm"
        clean.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        with ITK_FILES, _silent_where_it_fails():
            return sitk.GetArrayFromImage(reader.Execute())


@contextmanager
def _silent_where_it_fails() -> Iterator[None]:
    """Keep from the user's terminal what decoders print past Python before they fail; the failure is told anyway."""
    try:
        terminal = os.dup(2)
    except OSError:  # a program without a terminal
        terminal = -1
    if terminal < 0:
        yield
        return
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
        printed.seek(0)
        os.write(2, printed.read())
