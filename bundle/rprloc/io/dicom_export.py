"""Results as DICOM objects that refer to the series in which the organs were located: RTSTRUCT, SR and SEG.

RTSTRUCT holds each box as closed contours on the slices, for planning systems; SR as planar regions in space with
measurements; SEG as a mask. All are of the patient and study of the series, and say that no person has approved them.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rprloc import __version__
from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.files import atomic_path
from rprloc.geometry import Box, Points, lps_from_ras
from rprloc.io.colours import organ_colour
from rprloc.io.dicom import DicomSeries, Slice

if TYPE_CHECKING:
    from pydicom import Dataset

_MAKER, _PRODUCT = "RPR-Loc", "RPR-Loc organ localization"

_REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")

_OF_THE_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")

_OF_THE_STUDY = ("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")


def save_rtstruct(path: str | Path, detections: Detections, series: DicomSeries) -> None:
    """Write a structure set: for each located organ an ROI with a contour on every slice that cuts its box.

    Organs that are absent are named in its description.

    A slice stands for half of the way to its neighbours, so that a box thinner than a slice gets one contour on the
    slice in which its centre lies. A box outside of the scan becomes an ROI without contours. Raises InputError if the
    series lacks what DICOM demands, or if the folder cannot be written to.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    headers = _headers(series)
    now, first = datetime.datetime.now(), headers[0]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    for name in (*_OF_THE_PATIENT, *_OF_THE_STUDY):
        setattr(data, name, first.get(name, ""))
    data.StudyInstanceUID, data.SeriesInstanceUID = first.StudyInstanceUID, generate_uid()
    data.Modality, data.SeriesNumber, data.InstanceNumber = "RTSTRUCT", 9001, 1
    data.SeriesDescription, data.OperatorsName = _PRODUCT, ""
    data.Manufacturer, data.ManufacturerModelName, data.SoftwareVersions = _MAKER, _PRODUCT, __version__
    data.InstanceCreationDate, data.InstanceCreationTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    data.StructureSetLabel, data.StructureSetName = "RPR-Loc", _PRODUCT
    absent = "".join(f"; {one.organ}: {one.remark}" for one in detections.absent)
    data.StructureSetDescription = _text(
        f"Boxes located by a research program; to be checked by a person{absent}", 1024
    )
    data.StructureSetDate, data.StructureSetTime = data.InstanceCreationDate, data.InstanceCreationTime
    data.ApprovalStatus = "UNAPPROVED"
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = first.FrameOfReferenceUID, ""
    data.ReferencedFrameOfReferenceSequence = [_referenced_frame(first, series)]
    rois, contours, observations = [], [], []
    for number, (organ, box) in enumerate(detections.boxes.items(), 1):
        roi, drawn, seen = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, _text(organ)
        roi.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
        roi.ROIDescription, roi.ROIGenerationAlgorithm = _text(_description(detections, organ), 1024), "AUTOMATIC"
        drawn.ReferencedROINumber = number
        drawn.ROIDisplayColor = [round(255 * part) for part in organ_colour(number - 1)]
        sections = slice_contours(box, series.slices)
        if sections:
            drawn.ContourSequence = [_contour(index, *section) for index, section in enumerate(sections, 1)]
        seen.ObservationNumber = seen.ReferencedROINumber = number
        seen.RTROIInterpretedType, seen.ROIInterpreter = "ORGAN", ""
        rois.append(roi)
        contours.append(drawn)
        observations.append(seen)
    data.StructureSetROISequence, data.ROIContourSequence = rois, contours
    data.RTROIObservationsSequence = observations
    with atomic_path(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)


def save_sr(path: str | Path, detections: Detections, series: DicomSeries) -> None:
    """Write a measurement report (TID 1500): for each located organ its box, with its size and volume, in space.

    The box is a volume surface of its six faces; for viewers that show planar regions only, the slice through its
    middle has its contour as an image region. Both lie in the frame of reference of the scan. Raises InputError like
    :func:`save_rtstruct`, and if highdicom is not installed.
    """
    hd = _highdicom()
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    headers = _headers(series)
    frame_uid = headers[0].FrameOfReferenceUID
    device = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(), name=_PRODUCT, manufacturer_name=_MAKER, model_name=_PRODUCT
        ),
    )
    volumes, planes = [], []
    for organ, box in detections.boxes.items():
        sizes_mm = dict(zip((codes.SCT.Width, codes.SCT.Depth, codes.SCT.Length), box.size_mm, strict=True))
        tracking = hd.sr.TrackingIdentifier(uid=generate_uid(), identifier=_text(organ))
        for _, points_lps in _middle(slice_contours(box, series.slices)):
            region = hd.sr.ImageRegion3D("POLYGON", _closed(points_lps), frame_uid)
            planes.append(
                hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                    tracking, region, finding_type=codes.SCT.AnatomicalStructure
                )
            )
        volumes.append(
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=tracking,
                referenced_volume_surface=hd.sr.VolumeSurface(
                    "POLYGON",
                    [_closed(lps_from_ras(face_ras)) for face_ras in box.faces_ras],
                    frame_uid,
                    source_series=hd.sr.SourceSeriesForSegmentation(series.uid),
                ),
                finding_type=codes.SCT.AnatomicalStructure,
                measurements=[
                    *(hd.sr.Measurement(name, float(mm), codes.UCUM.Millimeter) for name, mm in sizes_mm.items()),
                    hd.sr.Measurement(codes.SCT.Volume, box.volume_mm3, codes.UCUM.CubicMillimeter),
                ],
            )
        )
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[*volumes, *planes],
        title=codes.DCM.ImagingMeasurementReport,
    )
    with _asking_for_a_complete_series(series):
        document = hd.sr.Comprehensive3DSR(
            evidence=headers,
            content=report,
            series_instance_uid=generate_uid(),
            series_number=9002,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=_MAKER,
            is_complete=True,
            series_description=_PRODUCT,
            software_versions=__version__,
        )
    with atomic_path(path) as temporary:
        document.save_as(temporary)


def save_seg(path: str | Path, detections: Detections, series: DicomSeries) -> None:
    """Write a segmentation: for each located organ a segment with the pixels whose centre lies in its box.

    Raises InputError like :func:`save_sr`, and if no box lies in the scan, as DICOM has no empty segmentation.
    """
    hd = _highdicom()
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    headers = _headers(series)
    multi_frame = series.slices[0].frame is not None
    boxes = list(detections.boxes.values())
    masks = {one: _mask(one, boxes) for one in series.slices}
    used = [one for one in series.slices if multi_frame or masks[one].any()]
    if not any(mask.any() for mask in masks.values()):
        raise InputError(
            f"{path} cannot be written: no box lies in the scan, and a segmentation needs at least one pixel; locate "
            "organs that are in the scan."
        )
    if multi_frame:
        used.sort(key=lambda one: one.frame or 0)
    else:
        by_uid = {header.SOPInstanceUID: header for header in headers}
        headers = [by_uid[one.sop_uid] for one in used]
    algorithm = hd.AlgorithmIdentificationSequence(
        name=_PRODUCT, family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=_text(organ),
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Organ,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            tracking_uid=generate_uid(),
            tracking_id=_text(organ),
            display_color=hd.color.CIELabColor.from_rgb(*(round(255 * part) for part in organ_colour(number - 1))),
        )
        for number, organ in enumerate(detections.boxes, 1)
    ]
    with _asking_for_a_complete_series(series):
        segmentation = hd.seg.Segmentation(
            source_images=headers,
            pixel_array=np.stack([masks[one] for one in used]),  # (frames, rows, columns, segments)
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=generate_uid(),
            series_number=9003,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=_MAKER,
            manufacturer_model_name=_PRODUCT,
            software_versions=__version__,
            device_serial_number=detections.model_id,
            content_label="BOXES",
            content_description="Boxes; research only",
            series_description=_PRODUCT,
        )
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)


DICOM_WRITERS: Mapping[str, Callable[[str | Path, Detections, DicomSeries], None]] = {
    "rtstruct": save_rtstruct,
    "sr": save_sr,
    "seg": save_seg,
}
"""What writes each kind of DICOM result, by the suffix of its file's name before ``.dcm``."""


def require_dicom_writers(kinds: Sequence[str]) -> None:
    """Raise InputError before the work if what writes these kinds of results is not installed."""
    if any(kind in ("sr", "seg") for kind in kinds):
        _highdicom()


def slice_contours(box: Box, slices: Sequence[Slice]) -> list[tuple[Slice, Points]]:
    """The slices that cut the box, each with the corners (N, 3), LPS mm, of the polygon on it.

    Where no slice cuts it but its centre lies within half a slice, the section through its centre, on the next slice.
    """
    planes = [_plane(one) for one in slices]
    cut = [(one, box.cross_section(*plane)) for one, plane in zip(slices, planes, strict=True)]
    found = [(one, lps_from_ras(points_ras)) for one, points_ras in cut if len(points_ras)]
    if found:
        return found
    away_mm = [float(normal_ras @ (box.centre_ras - point_ras)) for point_ras, normal_ras in planes]
    nearest = int(np.argmin(np.abs(away_mm)))
    neighbours = [away_mm[n] for n in (nearest - 1, nearest + 1) if 0 <= n < len(planes)]
    if abs(away_mm[nearest]) > max(abs(other - away_mm[nearest]) for other in neighbours) / 2:
        return []
    _, normal_ras = planes[nearest]
    points_ras = box.cross_section(box.centre_ras, normal_ras) - away_mm[nearest] * normal_ras
    return [(slices[nearest], lps_from_ras(points_ras))]


def _middle(sections: list[tuple[Slice, Points]]) -> list[tuple[Slice, Points]]:
    """The middle one of a box's sections, if there is any."""
    return sections[len(sections) // 2 :][:1]


def _plane(one: Slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A point of the slice's plane and its unit normal, RAS."""
    affine = one.grid.ras_from_ijk
    return affine[:3, 3], affine[:3, 2] / np.linalg.norm(affine[:3, 2])


def _closed(points: Points) -> Points:
    return np.concatenate([points, points[:1]])


def _mask(one: Slice, boxes: Sequence[Box]) -> NDArray[np.bool_]:
    """Whether each pixel's centre lies in each box: (rows, columns, boxes)."""
    centres_ras = one.grid.centres_ras()[:, :, 0]  # (columns, rows, 3)
    inside = [((centres_ras >= box.min_ras) & (centres_ras <= box.max_ras)).all(axis=-1).T for box in boxes]
    return np.stack(inside, axis=-1)


def _headers(series: DicomSeries) -> list[Dataset]:
    """The series' headers, as text in UTF-8, with empty values for what DICOM wants to be there; one for each file."""
    headers = []
    away_mm = np.array([one.position_lps for one in series.slices[:2]], float)
    one_plane_mm = round(float(np.linalg.norm(np.diff(away_mm, axis=0))), 4) if series.slices[0].frame is None else 0
    for header in series.headers:
        missing = [name for name in _REQUIRED if not header.get(name)]
        if missing:
            raise InputError(
                f"The series {series.uid} has no {', '.join(missing)}; DICOM results refer to it and need them; export "
                "the series again with them."
            )
        header.decode()
        for name in (*_OF_THE_PATIENT, *_OF_THE_STUDY):
            setattr(header, name, str(header.get(name) or ""))
        header.SpecificCharacterSet = "ISO_IR 192"
        if one_plane_mm and header.get("SliceThickness") is None:
            header.SliceThickness = one_plane_mm
        headers.append(header)
    return headers


@contextmanager
def _asking_for_a_complete_series(series: DicomSeries) -> Iterator[None]:
    """What highdicom cannot find in the headers, or does not accept, as InputError."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"The headers of the series {series.uid} do not allow this DICOM result ({reason}); complete headers were "
            "expected; export the series again, or leave --sr and --seg out."
        ) from error


def _referenced_frame(first: Dataset, series: DicomSeries) -> Dataset:
    from pydicom.dataset import Dataset

    of_frame, of_study, of_series = Dataset(), Dataset(), Dataset()
    of_series.SeriesInstanceUID = first.SeriesInstanceUID
    of_series.ContourImageSequence = [_referenced_image(one) for one in series.slices]
    of_study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # retired, as DICOM asks for it here
    of_study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    of_study.RTReferencedSeriesSequence = [of_series]
    of_frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    of_frame.RTReferencedStudySequence = [of_study]
    return of_frame


def _referenced_image(one: Slice) -> Dataset:
    from pydicom.dataset import Dataset

    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = one.sop_class, one.sop_uid
    if one.frame is not None:
        image.ReferencedFrameNumber = one.frame + 1
    return image


def _contour(number: int, one: Slice, points_lps: Points) -> Dataset:
    from pydicom.dataset import Dataset

    contour = Dataset()
    contour.ContourNumber, contour.ContourGeometricType = number, "CLOSED_PLANAR"
    contour.ContourImageSequence = [_referenced_image(one)]
    contour.NumberOfContourPoints = len(points_lps)
    contour.ContourData = [f"{mm:.3f}" for mm in points_lps.ravel()]
    return contour


def _description(detections: Detections, organ: str) -> str:
    found = next(one for one in detections.located if one.organ == organ)
    spreads = ", ".join(f"{mm:.1f}" for mm in found.spread_mm)
    return (
        f"RPR-Loc {__version__}, model {detections.model_id}; {found.remark}; spread of the votes {spreads} mm; "
        "not approved"
    )


def _text(value: str, limit: int = 64) -> str:
    """A value that fits DICOM's long string: no backslash, no control characters, not too long."""
    cleaned = "".join("/" if letter == "\\" else letter if letter.isprintable() else " " for letter in value).strip()
    return cleaned[:limit] or "organ"


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise InputError(
            "DICOM SR and SEG are written by highdicom, which is not installed; it was expected; "
            "run: pip install 'rprloc[dicom]'."
        ) from error
    return highdicom
