"""Boxes as a DICOM segmentation: a mask for each organ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.files import atomic_path
from rprloc.io.colours import organ_colour
from rprloc.io.dicom import DicomSeries
from rprloc.io.dicom_objects import (
    MAKER,
    PRODUCT,
    complete_headers,
    dicom_text,
    explain_missing_headers,
    pixels_in_boxes,
    require_highdicom,
)
from rprloc.version import __version__


def save_seg(path: str | Path, detections: Detections, series: DicomSeries) -> None:  # long for its description alone
    """Write a segmentation: for each located organ a segment with the pixels whose centre lies in its box.

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
        If highdicom is not installed (``pip install 'rprloc[dicom]'``), if no box lies in the scan, as DICOM has no
        empty segmentation, if the series lacks what DICOM demands, or if the folder cannot be written to.

    Examples
    --------
    >>> scan = rprloc.read_scan(dicom_folder)
    >>> rprloc.save_seg("dora.seg.dcm", found, scan.series)
    """
    hd = require_highdicom()
    from pydicom.uid import generate_uid

    headers = complete_headers(series)
    multi_frame = series.slices[0].frame is not None
    boxes = list(detections.boxes.values())
    masks = {plane: pixels_in_boxes(plane, boxes) for plane in series.slices}
    used = [plane for plane in series.slices if multi_frame or masks[plane].any()]
    if not any(mask.any() for mask in masks.values()):
        raise InputError(
            f"{path} cannot be written: no box lies in the scan, and a segmentation needs at least one pixel. Locate "
            "organs that are in the scan."
        )
    if multi_frame:
        used.sort(key=lambda plane: plane.frame or 0)
    else:
        by_uid = {header.SOPInstanceUID: header for header in headers}
        headers = [by_uid[plane.sop_uid] for plane in used]
    with explain_missing_headers(series):
        segmentation = hd.seg.Segmentation(
            source_images=headers,
            pixel_array=np.stack([masks[plane] for plane in used]),  # (frames, rows, columns, segments)
            segmentation_type="BINARY",
            segment_descriptions=_segments(hd, detections),
            series_instance_uid=generate_uid(),
            series_number=9003,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=PRODUCT,
            software_versions=__version__,
            device_serial_number=detections.model_id,
            content_label="BOXES",
            content_description="Boxes; research only",
            series_description=PRODUCT,
        )
    with atomic_path(path) as temporary:
        segmentation.save_as(temporary)


def _segments(hd: Any, detections: Detections) -> list[Any]:
    """What the segments stand for; ``hd`` is highdicom."""
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    algorithm = hd.AlgorithmIdentificationSequence(
        name=PRODUCT, family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    return [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=dicom_text(organ),
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Organ,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            tracking_uid=generate_uid(),
            tracking_id=dicom_text(organ),
            display_color=hd.color.CIELabColor.from_rgb(*(round(255 * part) for part in organ_colour(number - 1))),
        )
        for number, organ in enumerate(detections.boxes, 1)
    ]
