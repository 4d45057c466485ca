"""Annotations written by hand, as their standards want them: DICOM structure sets, segmentations, reports, Slicer's."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray
from pydicom import config
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from rprloc.geometry import Grid, Points, lps_from_ras

Contour = tuple[int, Points]
"""The slice on which a contour is drawn, and its corners (N, 3), LPS mm."""
Mask = NDArray[np.bool_]

STRUCTURE_SET, SEGMENTATION, LABEL_MAP, REPORT = (
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("481.3", "66.4", "66.7", "88.34")
)  # SOP classes
CODES = {
    "Imaging Measurement Report": ("126000", "DCM"),
    "Imaging Measurements": ("126010", "DCM"),
    "Measurement Group": ("125007", "DCM"),
    "Tracking Identifier": ("112039", "DCM"),
    "Finding": ("121071", "DCM"),
    "Finding Site": ("363698007", "SCT"),
    "Image Region": ("111030", "DCM"),
}
"""What the items of a report are called."""


def contours_of(mask: Mask, grid: Grid) -> list[Contour]:
    """Closed contours midway between the voxels (I, J, K) inside and outside, slice by slice; holes have their own."""
    found = []
    for k in np.flatnonzero(mask.any(axis=(0, 1))).tolist():
        around = np.pad(mask[:, :, k].astype(float), 1)
        for line in contourpy.contour_generator(z=around.T).lines(0.5):
            ij = np.asarray(line)[:-1] - 1.0
            found.append((k, lps_from_ras(grid.ras(np.column_stack([ij, np.full(len(ij), k)])))))
    return found


def structure_set(contours: Mapping[str, Sequence[Contour]], images: Sequence[str], frame: str) -> FileDataset:
    """An RT structure set of closed contours on images, which may be none."""
    data = _file(STRUCTURE_SET, "RTSTRUCT")
    data.StructureSetLabel, data.FrameOfReferenceUID = "A", frame
    references = [_image(image) for image in images]
    of_series, of_study, of_frame = Dataset(), Dataset(), Dataset()
    of_series.SeriesInstanceUID, of_series.ContourImageSequence = "1.2.3.4", references
    of_study.RTReferencedSeriesSequence = [of_series]
    of_frame.FrameOfReferenceUID, of_frame.RTReferencedStudySequence = frame, [of_study]
    data.ReferencedFrameOfReferenceSequence = [of_frame]
    rois, drawn, observations = [], [], []
    for number, (name, lines) in enumerate(contours.items(), 1):
        roi, shape, seen = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        shape.ReferencedROINumber = number
        shape.ContourSequence = [_contour(k, points_lps, images) for k, points_lps in lines]
        seen.ObservationNumber = seen.ReferencedROINumber = number
        seen.RTROIInterpretedType = "ORGAN"
        rois.append(roi)
        drawn.append(shape)
        observations.append(seen)
    data.StructureSetROISequence, data.ROIContourSequence = rois, drawn
    data.RTROIObservationsSequence = observations
    return data


def _contour(k: int, points_lps: Points, images: Sequence[str]) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points_lps)
    contour.ContourData = [f"{mm:.3f}" for mm in points_lps.ravel()]
    if images:
        contour.ContourImageSequence = [_image(images[k])]
    return contour


def _image(sop_uid: str) -> Dataset:
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", sop_uid
    return image


def segmentation(masks: Mapping[str, Mask], grid: Grid, frame: str, kind: str = "BINARY") -> FileDataset:
    """A segmentation with a frame for each slice of each mask (I, J, K) that has voxels; a label map has all slices."""
    data = _file(LABEL_MAP if kind == "LABELMAP" else SEGMENTATION, "SEG")
    data.SegmentationType, data.FrameOfReferenceUID = kind, frame
    (columns, rows, count), names = grid.shape, list(masks)
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    bits = 1 if kind == "BINARY" else 8
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits, bits - 1, 0
    data.SegmentSequence = [_segment(number, name) for number, name in enumerate(names, 1)]
    if kind == "LABELMAP":
        labels = sum(number * masks[name].astype(np.uint8) for number, name in enumerate(names, 1))
        frames = [(0, k, np.asarray(labels)[:, :, k].T) for k in range(count)]
    else:
        frames = [
            (number, k, masks[name][:, :, k].T)
            for number, name in enumerate(names, 1)
            for k in np.flatnonzero(masks[name].any(axis=(0, 1))).tolist()
        ]
    pixels = np.stack([frame for _, _, frame in frames]).astype(np.uint8)
    if kind == "FRACTIONAL":
        data.SegmentationFractionalType, data.MaximumFractionalValue = "PROBABILITY", 200
        pixels = np.where(pixels, 100, 99).astype(np.uint8)
    packed = np.packbits(pixels.ravel(), bitorder="little") if kind == "BINARY" else pixels
    data.PixelData = packed.tobytes() + b"\0" * (packed.size % 2)
    data.NumberOfFrames = len(frames)
    origin_lps, directions_lps, spacing_mm = grid.to_lps()
    shared, measures, axes = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = _decimals([spacing_mm[1], spacing_mm[0]])
    measures.SpacingBetweenSlices = measures.SliceThickness = _decimals([spacing_mm[2]])[0]
    axes.ImageOrientationPatient = _decimals([*directions_lps[:, 0], *directions_lps[:, 1]])
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [axes]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = [
        _frame(number, origin_lps + k * spacing_mm[2] * directions_lps[:, 2]) for number, k, _ in frames
    ]
    return data


def _segment(number: int, name: str) -> Dataset:
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel, segment.SegmentAlgorithmType = number, name, "MANUAL"
    return segment


def _frame(number: int, position_lps: NDArray[np.float64]) -> Dataset:
    groups, place, identity = Dataset(), Dataset(), Dataset()
    place.ImagePositionPatient = _decimals(position_lps)
    groups.PlanePositionSequence = [place]
    if number:
        identity.ReferencedSegmentNumber = number
        groups.SegmentIdentificationSequence = [identity]
    return groups


def report(groups: Sequence[Sequence[Dataset]]) -> FileDataset:
    """A measurement report (TID 1500) with a group for each of several lists of items."""
    data = _file(REPORT, "SR")
    data.CompletionFlag, data.VerificationFlag, data.ContentDate, data.ContentTime = "PARTIAL", "UNVERIFIED", "", ""
    measurements = item("CONTAINER", "Imaging Measurements")
    measurements.ContentSequence = [item("CONTAINER", "Measurement Group") for _ in groups]
    for group, content in zip(measurements.ContentSequence, groups, strict=True):
        group.ContentSequence = list(content)
    root = item("CONTAINER", "Imaging Measurement Report")
    data.ValueType, data.ConceptNameCodeSequence = root.ValueType, root.ConceptNameCodeSequence
    data.ContinuityOfContent, data.ContentSequence = "SEPARATE", [measurements]
    return data


def item(kind: str, concept: str, text: str = "") -> Dataset:
    """An item of a report: a container, a text, or a code that means ``text``."""
    made = Dataset()
    made.RelationshipType, made.ValueType = "CONTAINS", kind
    made.ConceptNameCodeSequence = [_code(*CODES[concept], concept)]
    if kind == "TEXT":
        made.TextValue = text
    elif kind == "CODE":
        made.ConceptCodeSequence = [_code("1", "99TEST", text)]
    elif kind == "CONTAINER":
        made.ContinuityOfContent = "SEPARATE"
    return made


def point_in_space(point_lps: Sequence[float], frame: str) -> Dataset:
    """An item of a report: a point in a frame of reference, LPS mm."""
    made = item("SCOORD3D", "Image Region")
    made.GraphicType, made.GraphicData = "POINT", [float(mm) for mm in point_lps]
    made.ReferencedFrameOfReferenceUID = frame
    return made


def point_on_image(column_row: Sequence[float], image: str, frame_number: int | None = None) -> Dataset:
    """An item of a report: a point on an image, from the outer corner of its first pixel on."""
    made, under = item("SCOORD", "Image Region"), Dataset()
    made.GraphicType, made.GraphicData = "POINT", [float(part) for part in column_row]
    under.RelationshipType, under.ValueType, under.ReferencedSOPSequence = "SELECTED FROM", "IMAGE", [_image(image)]
    if frame_number is not None:
        under.ReferencedSOPSequence[0].ReferencedFrameNumber = frame_number
    made.ContentSequence = [under]
    return made


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def slicer_segmentation(layers: NDArray[np.generic], grid: Grid, keys: Mapping[str, Any]) -> bytes:
    """A segmentation of 3D Slicer: layers (L, I, J, K), or one (I, J, K), of bytes; ``keys`` describe its segments."""
    lps = np.diag([-1.0, -1, 1, 1]) @ grid.ras_from_ijk
    vectors = [f"({','.join(f'{part:.12g}' for part in column[:3])})" for column in lps.T]
    layered = layers.ndim == 4
    lines = [
        *("NRRD0004", "type: unsigned char", f"dimension: {layers.ndim}", "space: left-posterior-superior"),
        f"sizes: {' '.join(map(str, layers.shape))}",
        f"space directions: {'none ' * layered}{' '.join(vectors[:3])}",
        f"kinds: {'list ' * layered}domain domain domain",
        *("encoding: raw", f"space origin: {vectors[3]}"),
        *(f"{key}:={value}" for key, value in keys.items()),
    ]
    return "\n".join([*lines, "", ""]).encode() + layers.astype(np.uint8).tobytes(order="F")


def encode_dicom(data: FileDataset) -> bytes:
    """The bytes of a DICOM file, also of one with wrong values."""
    stream = io.BytesIO()
    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _file(sop_class: str, modality: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID("1.2.3.99")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.3", "1.2.3.98", modality
    data.PatientID = "7"
    return data


def _decimals(values: Any) -> list[str]:
    return [f"{value:.10g}"[:16] for value in values]
