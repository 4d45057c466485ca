"""Boxes and landmarks as a DICOM measurement report (TID 1500): where they lie in space, and how large boxes are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rprloc.detection import Detections
from rprloc.files import atomic_path
from rprloc.geometry import lps_from_ras
from rprloc.io.dicom import DicomSeries
from rprloc.io.dicom_objects import (
    MAKER,
    PRODUCT,
    close_polygon,
    complete_headers,
    dicom_text,
    explain_missing_headers,
    middle_section,
    require_highdicom,
    slice_contours,
)
from rprloc.version import __version__


def save_sr(path: str | Path, detections: Detections, series: DicomSeries) -> None:
    """Write a measurement report (TID 1500): for each located organ its box in space, with its size and volume.

    The box is a volume surface of six faces. For viewers that show only planar regions, the slice through its middle
    has its contour as an image region. A landmark is an image region that is a point. All lie in the scan's frame of
    reference.

    Parameters
    ----------
    path : path
        The ``.dcm`` file to write.
    detections : Detections
        What was found in the series.
    series : DicomSeries
        The series in which it was found: ``scan.series`` of a scan that was read from DICOM.

    Raises
    ------
    InputError
        If highdicom is not installed (``pip install 'rprloc[dicom]'``), if the series lacks what DICOM demands, or if
        the folder cannot be written to.

    Examples
    --------
    >>> scan = rprloc.read_scan(dicom_folder)
    >>> rprloc.save_sr("dora.sr.dcm", found, scan.series)
    """
    hd = require_highdicom()
    from pydicom.uid import generate_uid

    headers = complete_headers(series)
    report = _report(hd, detections, series, str(headers[0].FrameOfReferenceUID))
    with explain_missing_headers(series):
        document = hd.sr.Comprehensive3DSR(
            evidence=headers,
            content=report,
            series_instance_uid=generate_uid(),
            series_number=9002,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MAKER,
            is_complete=True,
            series_description=PRODUCT,
            software_versions=__version__,
        )
    with atomic_path(path) as temporary:
        document.save_as(temporary)


def _report(hd: Any, detections: Detections, series: DicomSeries, frame_uid: str) -> Any:
    """The content of the report; ``hd`` is highdicom."""
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    device = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(), name=PRODUCT, manufacturer_name=MAKER, model_name=PRODUCT
        ),
    )
    volumes, planes = [], []
    for organ, box in detections.boxes.items():
        sizes_mm = dict(zip((codes.SCT.Width, codes.SCT.Depth, codes.SCT.Length), box.size_mm, strict=True))
        tracking = hd.sr.TrackingIdentifier(uid=generate_uid(), identifier=dicom_text(organ))
        for _, points_lps in middle_section(slice_contours(box, series.slices)):
            region = hd.sr.ImageRegion3D("POLYGON", close_polygon(points_lps), frame_uid)
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
                    [close_polygon(lps_from_ras(face_ras)) for face_ras in box.faces_ras],
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
    for landmark, point_ras in detections.points_ras.items():
        planes.append(
            hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                hd.sr.TrackingIdentifier(uid=generate_uid(), identifier=dicom_text(landmark)),
                hd.sr.ImageRegion3D("POINT", lps_from_ras(point_ras)[None], frame_uid),
                finding_type=codes.SCT.AnatomicalStructure,
            )
        )
    return hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[*volumes, *planes],
        title=codes.DCM.ImagingMeasurementReport,
    )
