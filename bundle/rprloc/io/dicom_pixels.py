"""The pixels of DICOM images in Hounsfield units: decoded by pydicom, decompressed by SimpleITK (GDCM)."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rprloc.io.dicom import BROKEN, CT_STORAGE, UNCOMPRESSED, Slice, damaged_error
from rprloc.io.itk import ITK_FILES

if TYPE_CHECKING:
    from pydicom import Dataset

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

_DEFLATED = "1.2.840.10008.1.2.1.99"
_CAPTURED_FRAMES = "1.2.840.10008.5.1.4.1.1.7.3"  # multi-frame grayscale word secondary capture


def read_pixels(ordered: Sequence[Slice]) -> NDArray[np.generic]:
    """The rescaled pixels (I, J, K) of the planes: int16 where they fit, else int32; float32 for fractions.

    Slice by slice in memory, as images of ITK are, so that none of them is copied once more.
    """
    whole = all(number.is_integer() for image in ordered for number in image.stored_as)
    columns, rows = ordered[0].shape
    values: NDArray[Any] = np.empty((len(ordered), rows, columns), np.int16 if whole else np.float32)
    stored: dict[Path, NDArray[Any]] = {}
    for k, image in enumerate(ordered):
        if image.path not in stored:
            if image.frame is None:
                stored.clear()  # each such file is needed once
            stored[image.path] = _stored_pixels(image.path)
        _, slope, intercept = image.stored_as
        plane = stored[image.path][image.frame or 0]
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
            plain = data.file_meta.get("TransferSyntaxUID") in (*UNCOMPRESSED, _DEFLATED)
            frames = data.pixel_array if plain else _decompressed(data)
        frames = frames.reshape(-1, int(data.Rows), int(data.Columns))
        unused: int = 8 * frames.dtype.itemsize - int(data.BitsStored)  # above the others; they may hold anything
        if not 0 <= unused < 8 * frames.dtype.itemsize:
            raise ValueError(f"{data.BitsStored} bits are stored")
        if frames.shape[0] != int(data.get("NumberOfFrames") or 1):
            raise ValueError(f"{frames.shape[0]} images")
        return frames if unused == 0 else np.right_shift(np.left_shift(frames, unused), unused)
    except (*BROKEN, pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException) as error:
        raise damaged_error(path, error) from error


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
    with tempfile.TemporaryDirectory(prefix="rprloc-") as folder:
        path = Path(folder) / "pixels.dcm"
        clean.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        with ITK_FILES:
            return sitk.GetArrayFromImage(reader.Execute())
