"""DICOM series, written slice by slice as a scanner writes them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)


def write_series(folder: Path, hu: np.ndarray, change: Callable[[int, FileDataset], None] | None = None) -> str:
    """A CT series of slices hu[:, :, k], 4 x 5 mm, 6 mm apart; file names and instance numbers run from head to feet.

    ``change`` alters the data set of slice k before it is written. Returns the series' UID.
    """
    folder.mkdir(exist_ok=True)
    series_uid, frame_uid = generate_uid(), generate_uid()
    for k in range(hu.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "Doe^Dora", "7", "19700102", "F"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.3", series_uid, "CT"
        data.StudyID, data.StudyDate, data.StudyTime, data.AccessionNumber = "1", "20200304", "101112", ""
        data.ReferringPhysicianName, data.Manufacturer, data.SeriesNumber = "", "Maker", 1
        data.FrameOfReferenceUID, data.PositionReferenceIndicator = frame_uid, ""
        data.ImageType, data.AcquisitionNumber, data.KVP, data.SliceThickness = (
            ["ORIGINAL", "PRIMARY", "AXIAL"],
            1,
            120,
            6,
        )
        data.ContentDate, data.ContentTime, data.PatientPosition = "20200304", "101113", "HFS"
        data.SeriesDescription, data.InstanceNumber = "Thorax", hu.shape[2] - k
        data.Columns, data.Rows = hu.shape[:2]
        data.PixelSpacing, data.ImageOrientationPatient = [5, 4], [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [-60, -50, 300 + 6 * k]
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.PixelData = (hu[:, :, k].T + 1024).astype(np.uint16).tobytes()
        if change:
            change(k, data)
        data.save_as(folder / f"{data.SeriesInstanceUID[-4:]}_{99 - k:02d}.dcm", enforce_file_format=True)
    return series_uid


TURNED = np.linalg.qr(np.array([[1.0, 0.2, 0.1], [-0.2, 1.0, 0.3], [0.05, -0.3, 1.0]]))[0]
TURNED = TURNED * np.sign(np.diag(TURNED))  # rows, columns and normal of an oblique series, LPS


def placed(axes_lps: np.ndarray, step_lps: np.ndarray) -> Callable[[int, FileDataset], None]:
    def change(k: int, data: FileDataset) -> None:
        data.ImageOrientationPatient = [f"{value:.9f}" for value in axes_lps]
        data.ImagePositionPatient = [f"{value:.6f}" for value in np.array([-60.0, -50, 300]) + k * step_lps]

    return change


SERIES = {
    "axial": placed(np.array([1.0, 0, 0, 0, 1, 0]), np.array([0.0, 0, 6])),
    "coronal": placed(np.array([1.0, 0, 0, 0, 0, -1]), np.array([0.0, 6, 0])),
    "oblique": placed(TURNED[:, :2].T.ravel(), 6 * np.cross(TURNED[:, 0], TURNED[:, 1])),
    "tilted": placed(np.array([1.0, 0, 0, 0, np.cos(0.3), -np.sin(0.3)]), np.array([0.0, 0, 6])),
}
"""Where the slices of a series lie: a change for :func:`write_series`."""


IN_COLOUR: dict[str, Callable[[int, Any], Any]] = {
    "SamplesPerPixel": lambda k, old: 3,
    "PhotometricInterpretation": lambda k, old: "RGB",
    "PlanarConfiguration": lambda k, old: 0,
    "BitsAllocated": lambda k, old: 8,
    "BitsStored": lambda k, old: 8,
    "HighBit": lambda k, old: 7,
    "PixelData": lambda k, old: bytes(30 * 24 * 3),
}
"""What :func:`edited` replaces to make a picture in colour of a slice."""


def edited(**tags: Callable[[int, Any], Any]) -> Callable[[int, FileDataset], None]:
    """A change that replaces tags by functions of the slice's number and the old value."""

    def change(k: int, data: FileDataset) -> None:
        for name, function in tags.items():
            value = function(k, data.get(name))
            data.pop(name, None)
            if value is not None:
                setattr(data, name, value)

    return change


def position(function: Callable[[int], list[float]]) -> Callable[[int, FileDataset], None]:
    """A change that puts the first pixel of slice k at a place of its own, LPS mm."""
    return edited(ImagePositionPatient=lambda k, old: function(k))


def multi_frame(folder: Path, target: Path) -> None:
    """The series in a folder as one file, by highdicom."""
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    image = LegacyConvertedEnhancedCTImage(slices, generate_uid(), 5, generate_uid(), 1)
    image.save_as(target)


def zipped(folder: Path, target: Path) -> Path:
    """A zip file of all that a folder holds."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target
