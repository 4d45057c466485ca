"""Good files, from which the bad ones are made."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from pydicom import config
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from rprloc.annotation import Annotation, Example, Marking
from rprloc.detection import Detections, OrganDetection
from rprloc.geometry import Grid, extreme_points_of_mask
from rprloc.io.markups import write_extreme_points
from rprloc.io.reading import read_volume
from rprloc.localization.localizer import Localizer
from rprloc.model.network import RPRNet, save_model
from rprloc.volume import to_sitk
from scripts.robustness.damage import Truth

SHAPE = (30, 24, 20)
DICOM_AFFINE = np.array([[-4.0, 0, 0, 60], [0, -5, 0, 50], [0, 0, 6, 300], [0, 0, 0, 1]])
"""Where the slices of the series lie, RAS mm."""
IMAGES = {".nii": 400, ".nii.gz": 0, ".nrrd": 300, ".mha": 350, ".nhdr": 300, ".mhd": 350}
"""Image formats, and within how many bytes their header lies (0: compressed, there is none to edit)."""


def write_good_files(folder: Path) -> Truth:
    """Write a small scan in every format with its label map, markups, support set, detections and weights.

    Returns the truth about the scan.
    """
    folder.mkdir(parents=True)
    grid = Grid(SHAPE, np.array([[4.0, 0, 0, -60], [0, -5, 0, 40], [0, 0, 6, -300], [0, 0, 0, 1]]))
    i, j, k = np.indices(SHAPE)
    hu = np.where((i - 15) ** 2 / 150 + (j - 12) ** 2 / 80 < 1, 40, -1000).astype(np.int16)
    labels = (((i - 20) ** 2 + (j - 12) ** 2 + (k - 10) ** 2) < 12).astype(np.uint8)
    hu = hu + 600 * labels.astype(np.int16) + np.random.default_rng(0).integers(0, 30, SHAPE).astype(np.int16)
    for suffix in IMAGES:
        sitk.WriteImage(to_sitk(hu, grid), folder / f"scan{suffix}")
    sitk.WriteImage(to_sitk(labels, grid), folder / "labels.nii.gz")
    (folder / "names.json").write_text('{"1": "bone"}', encoding="utf-8")
    for n in range(SHAPE[2]):
        (folder / f"slice{n:02d}.dcm").write_bytes(encode_slice(hu, n))
    with zipfile.ZipFile(folder / "series.zip", "w") as archive:
        for path in sorted(folder.glob("slice*.dcm")):
            archive.write(path, path.name)
    torch.manual_seed(0)
    save_model(RPRNet(), folder / "model.pt")
    volume = read_volume(folder / "scan.nii")
    points_ras = extreme_points_of_mask(labels == 1, grid)
    annotation = Annotation({"bone": points_ras}, marking=Marking.LABEL_MAP)
    localizer = Localizer.load(folder / "model.pt", "cpu")
    localizer.learn(Example(volume, annotation, "anna")).save(folder / "set.json")
    write_extreme_points(folder / "points.mrk.json", points_ras, "bone")
    organ = OrganDetection("bone", points_ras, np.zeros(6), 1, ("anna",))
    Detections("scan", (organ,), "m", "s").save(folder / "scan.detections.json")
    return Truth(hu, grid.ras_from_ijk)


def encode_slice(hu: np.ndarray, k: int, tags: dict[str, Any] | None = None) -> bytes:
    """The file of slice k of a CT series, with other values for ``tags``; None removes one.

    Words where numbers belong are given as :class:`Words`, as pydicom would not write them.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID(f"1.2.3.4.{k + 1}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.3", "1.2.3.4", "CT"
    data.FrameOfReferenceUID, data.InstanceNumber, data.PatientID = "1.2.3.5", k + 1, "7"
    data.Columns, data.Rows = hu.shape[:2]
    data.PixelSpacing, data.ImageOrientationPatient = [5, 4], [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [-60, -50, 300 + 6 * k]
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = (hu[:, :, k].T + 1024).astype(np.uint16).tobytes()
    stream = io.BytesIO()
    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, on the values that are to be wrong
        for tag, value in (tags or {}).items():
            if value is None:
                delattr(data, tag)
            else:
                setattr(data, tag, "7" * len(value) if isinstance(value, Words) else value)
        data.save_as(stream, enforce_file_format=True)
    encoded = stream.getvalue()
    for value in (tags or {}).values():
        if isinstance(value, Words):
            encoded = encoded.replace(b"7" * len(value), value.encode())
    return encoded


class Words(str):
    """Text for a DICOM number; an even number of letters, at least six, for they replace as many digits 7."""
