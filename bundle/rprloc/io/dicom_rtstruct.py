"""Boxes and landmarks as a DICOM RT structure set, for planning systems: closed contours, and points."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rprloc.detection import AbsentLandmark, AbsentOrgan, Detections
from rprloc.files import atomic_path
from rprloc.geometry import Points, lps_from_ras
from rprloc.io.colours import organ_colour
from rprloc.io.dicom import DicomSeries
from rprloc.io.dicom_objects import (
    MAKER,
    OF_THE_PATIENT,
    OF_THE_STUDY,
    PRODUCT,
    complete_headers,
    describe_detection,
    dicom_text,
    slice_contours,
)
from rprloc.io.dicom_slice import Slice
from rprloc.version import __version__

if TYPE_CHECKING:
    from pydicom import Dataset


def save_rtstruct(path: str | Path, detections: Detections, series: DicomSeries) -> None:
    """Write an RT structure set: for each located organ an ROI with a contour on every slice that cuts its box.

    A slice stands for half of the way to its neighbours, so a box that is thinner than a slice gets one contour on the
    slice in which its centre lies. A box outside the scan becomes an ROI without contours. A landmark is an ROI with
    one point. What is absent is named in the description. The object says that nobody has approved it.

    Parameters
    ----------
    path : path
        The ``.dcm`` file to write.
    detections : Detections
        What was found in the series, RAS mm; DICOM's own frame, LPS, is made here.
    series : DicomSeries
        The series in which it was found: ``scan.series`` of a scan that was read from DICOM.

    Raises
    ------
    InputError
        If the series lacks what DICOM demands, or the folder cannot be written to.

    Examples
    --------
    >>> scan = rprloc.read_scan(dicom_folder)
    >>> rprloc.save_rtstruct("dora.rtstruct.dcm", found, scan.series)
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    headers = complete_headers(series)
    now, first = datetime.datetime.now(), headers[0]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    for name in (*OF_THE_PATIENT, *OF_THE_STUDY):
        setattr(data, name, first.get(name, ""))
    data.StudyInstanceUID, data.SeriesInstanceUID = first.StudyInstanceUID, generate_uid()
    data.Modality, data.SeriesNumber, data.InstanceNumber = "RTSTRUCT", 9001, 1
    data.SeriesDescription, data.OperatorsName = PRODUCT, ""
    data.Manufacturer, data.ManufacturerModelName, data.SoftwareVersions = MAKER, PRODUCT, __version__
    data.InstanceCreationDate, data.InstanceCreationTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    data.StructureSetLabel, data.StructureSetName = "RPR-Loc", PRODUCT
    absent = "".join(
        f"; {name}: {one.remark}"
        for name, one in detections.targets.items()
        if isinstance(one, (AbsentOrgan, AbsentLandmark))
    )
    data.StructureSetDescription = dicom_text(
        f"Boxes located by a research program; to be checked by a person{absent}", 1024
    )
    data.StructureSetDate, data.StructureSetTime = data.InstanceCreationDate, data.InstanceCreationTime
    data.ApprovalStatus = "UNAPPROVED"
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = first.FrameOfReferenceUID, ""
    data.ReferencedFrameOfReferenceSequence = [_referenced_frame(first, series)]
    _add_rois(data, detections, series, str(first.FrameOfReferenceUID))
    with atomic_path(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)


def _add_rois(data: Dataset, detections: Detections, series: DicomSeries, frame_uid: str) -> None:
    """Give a structure set an ROI for each located organ, with its contours, and for each landmark, with its point."""
    from pydicom.dataset import Dataset

    drawings = [
        (organ, describe_detection(detections, organ), "ORGAN", _contours(slice_contours(box, series.slices)))
        for organ, box in detections.boxes.items()
    ]
    drawings += [(one.landmark, one.remark, "", [_point(one.point_ras)]) for one in detections.located_landmarks]
    rois, contours, observations = [], [], []
    for number, (name, description, kind, drawing) in enumerate(drawings, 1):
        roi, drawn, seen = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, dicom_text(name)
        roi.ReferencedFrameOfReferenceUID = frame_uid
        roi.ROIDescription, roi.ROIGenerationAlgorithm = dicom_text(description, 1024), "AUTOMATIC"
        drawn.ReferencedROINumber = number
        drawn.ROIDisplayColor = [round(255 * part) for part in organ_colour(number - 1)]
        if drawing:
            drawn.ContourSequence = drawing
        seen.ObservationNumber = seen.ReferencedROINumber = number
        seen.RTROIInterpretedType, seen.ROIInterpreter = kind, ""
        rois.append(roi)
        contours.append(drawn)
        observations.append(seen)
    data.StructureSetROISequence, data.ROIContourSequence = rois, contours
    data.RTROIObservationsSequence = observations


def _referenced_frame(first: Dataset, series: DicomSeries) -> Dataset:
    from pydicom.dataset import Dataset

    of_frame, of_study, of_series = Dataset(), Dataset(), Dataset()
    of_series.SeriesInstanceUID = first.SeriesInstanceUID
    of_series.ContourImageSequence = [_referenced_image(plane) for plane in series.slices]
    of_study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # retired, as DICOM asks for it here
    of_study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    of_study.RTReferencedSeriesSequence = [of_series]
    of_frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    of_frame.RTReferencedStudySequence = [of_study]
    return of_frame


def _referenced_image(plane: Slice) -> Dataset:
    from pydicom.dataset import Dataset

    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = plane.sop_class, plane.sop_uid
    if plane.frame is not None:
        image.ReferencedFrameNumber = plane.frame + 1
    return image


def _contours(sections: Sequence[tuple[Slice, Points]]) -> list[Dataset]:
    return [_contour(index, *section) for index, section in enumerate(sections, 1)]


def _point(point_ras: NDArray[np.float64]) -> Dataset:
    """A point (3,), which need not lie on a slice."""
    from pydicom.dataset import Dataset

    contour = Dataset()
    contour.ContourNumber, contour.ContourGeometricType = 1, "POINT"
    contour.NumberOfContourPoints = 1
    contour.ContourData = [f"{mm:.3f}" for mm in lps_from_ras(point_ras)]
    return contour


def _contour(number: int, plane: Slice, points_lps: Points) -> Dataset:
    from pydicom.dataset import Dataset

    contour = Dataset()
    contour.ContourNumber, contour.ContourGeometricType = number, "CLOSED_PLANAR"
    contour.ContourImageSequence = [_referenced_image(plane)]
    contour.NumberOfContourPoints = len(points_lps)
    contour.ContourData = [f"{mm:.3f}" for mm in points_lps.ravel()]
    return contour
