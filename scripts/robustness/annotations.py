"""Annotations that must be refused: structure sets, segmentations, reports, folders of masks, names of label maps."""

from __future__ import annotations

import copy
import random
import warnings
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import config

from rprloc.geometry import Grid
from scripts.robustness.annotation_writers import (
    contours_of,
    encode_dicom,
    item,
    point_in_space,
    point_on_image,
    report,
    segmentation,
    slicer_segmentation,
    structure_set,
)
from scripts.robustness.damage import Content, cut
from scripts.robustness.good_files import DICOM_AFFINE, SHAPE

Edit = tuple[str, Callable[[Any], object]]
_WORDS = {b"777.777": b"left of", b"888.888": b"1_0    "}
"""Numbers that stand for words, which pydicom would not write."""
FRAME, IMAGES = "1.2.3.5", [f"1.2.3.4.{k + 1}" for k in range(SHAPE[2])]
GRID = Grid(SHAPE, DICOM_AFFINE)
ORGAN = np.zeros(SHAPE, bool)
ORGAN[8:18, 6:16, 5:13] = True
OTHER = np.roll(ORGAN, 6, axis=0)


def _rois(data: Any) -> Any:
    return data.StructureSetROISequence


def _lines(data: Any) -> Any:
    return data.ROIContourSequence[0].ContourSequence


def _delete(where: Callable[[Any], Any], name: str) -> Callable[[Any], object]:
    return lambda data: delattr(where(data), name)


def _each_line(**values: Any) -> Callable[[Any], object]:
    def change(data: Any) -> None:
        for line in _lines(data):
            for name, value in values.items():
                setattr(line, name, value)

    return change


def _first_line(change: Callable[[list[str]], list[Any]], *, recount: bool = True) -> Callable[[Any], object]:
    """An edit of the numbers of the first contour; its number of points follows."""

    def edit(data: Any) -> None:
        line = _lines(data)[0]
        line.ContourData = change([str(value) for value in line.ContourData])
        if recount:
            line.NumberOfContourPoints = len(line.ContourData) // 3

    return edit


def _moved(data: Any, by_mm: tuple[float, float, float], lines: slice = slice(None)) -> None:
    for line in _lines(data)[lines]:
        points = np.array(line.ContourData, float).reshape(-1, 3) + by_mm
        line.ContourData = [f"{mm:.3f}" for mm in points.ravel()]


def _above(data: Any) -> None:
    _moved(data, (0.0, 0.0, 900.0))
    for line in _lines(data):
        line.ContourImageSequence = []


def _without_references(data: Any) -> None:
    del data.ReferencedFrameOfReferenceSequence, data.FrameOfReferenceUID
    for roi in _rois(data):
        del roi.ReferencedFrameOfReferenceUID
    for shape in data.ROIContourSequence:
        for line in shape.ContourSequence:
            del line.ContourImageSequence


def _in_frame(uid: str) -> Callable[[Any], object]:
    def change(data: Any) -> None:
        data.FrameOfReferenceUID = uid
        for roi in _rois(data):
            roi.ReferencedFrameOfReferenceUID = uid

    return change


def _on_images(uid: str) -> Callable[[Any], object]:
    def change(data: Any) -> None:
        of_study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        of_study.RTReferencedSeriesSequence[0].ContourImageSequence = []
        for shape in data.ROIContourSequence:
            for line in shape.ContourSequence:
                line.ContourImageSequence[0].ReferencedSOPInstanceUID = uid

    return change


def _types(data: Any, kind: str) -> None:
    for seen in data.RTROIObservationsSequence:
        seen.RTROIInterpretedType = kind


def _empty(data: Any) -> None:
    for shape in data.ROIContourSequence:
        shape.ContourSequence = []


def _two_of_one_name(data: Any) -> None:
    data.StructureSetROISequence.append(copy.deepcopy(_rois(data)[0]))
    data.ROIContourSequence.append(copy.deepcopy(data.ROIContourSequence[0]))
    data.StructureSetROISequence[1].ROINumber = data.ROIContourSequence[1].ReferencedROINumber = 2


def _tilted_by_turns(data: Any) -> None:
    """Every other contour leans to the other side."""
    for n, line in enumerate(_lines(data)):
        points = np.array(line.ContourData, float).reshape(-1, 3)
        points[:, 2] += (points[:, 0] - points[:, 0].mean()) * (0.5 if n % 2 else -0.5)
        line.ContourData = [f"{mm:.3f}" for mm in points.ravel()]
        line.ContourImageSequence = []


STRUCTURE_SETS: list[Edit] = [
    ("without structures", _delete(lambda data: data, "StructureSetROISequence")),
    ("without contours", _delete(lambda data: data, "ROIContourSequence")),
    ("whose structures are empty", _empty),
    ("with an empty list of structures", lambda data: _rois(data).clear()),
    ("with an ROI without a number", _delete(lambda data: _rois(data)[0], "ROINumber")),
    ("with contours of no ROI", _delete(lambda data: data.ROIContourSequence[0], "ReferencedROINumber")),
    ("with contours of an ROI that is not there", lambda d: setattr(d.ROIContourSequence[0], "ReferencedROINumber", 9)),
    ("with two ROIs of one name", _two_of_one_name),
    ("with two ROIs of one number", lambda data: _rois(data).append(copy.deepcopy(_rois(data)[0]))),
    ("of another frame of reference", _in_frame("1.2.99")),
    ("on images of another series", _on_images("1.2.99")),
    ("on one image that is not there", lambda data: setattr(
        _lines(data)[0].ContourImageSequence[0], "ReferencedSOPInstanceUID", "1.2.99")),
    ("on an image that lies elsewhere", lambda data: setattr(
        _lines(data)[0].ContourImageSequence[0], "ReferencedSOPInstanceUID", IMAGES[-1])),
    ("without references", _without_references),
    ("of points", _each_line(ContourGeometricType="POINT")),
    ("of open lines", _each_line(ContourGeometricType="OPEN_PLANAR")),
    ("of contours of no type", _each_line(ContourGeometricType="")),
    ("of contours of an unknown type", _each_line(ContourGeometricType="CLOSED_SOLID")),
    ("of contours of one point", _each_line(ContourData=["0", "0", "330"], NumberOfContourPoints=1)),
    ("of contours of two points", _each_line(ContourData=["0", "0", "330"] * 2, NumberOfContourPoints=2)),
    ("of contours without area", _each_line(ContourData=["0", "0", "336"] * 4, NumberOfContourPoints=4,
                                           ContourImageSequence=[])),
    ("of contours without numbers", _each_line(ContourData=[])),
    ("with an odd number of values", _first_line(lambda values: values[:-1])),
    ("with a NaN", _first_line(lambda values: ["NaN", *values[1:]])),
    ("with infinity", _first_line(lambda values: ["inf", *values[1:]])),
    ("with a huge number", _first_line(lambda values: ["1e300", *values[1:]])),
    ("with words", _first_line(lambda values: ["777.777", *values[1:]])),
    ("with nothing for a number", _first_line(lambda values: ["", *values[1:]])),
    ("with an underscore in a number", _first_line(lambda values: ["888.888", *values[1:]])),
    ("that counts its points wrongly", _first_line(lambda values: values[3:], recount=False)),
    ("with points off their plane", _first_line(lambda values: [*values[:2], str(float(values[2]) + 5), *values[3:]])),
    ("with planes at angles", _tilted_by_turns),
    ("beside the scan", lambda data: _moved(data, (900.0, 0.0, 0.0))),
    ("partly beside the scan", lambda data: _moved(data, (-40.0, 0.0, 0.0))),
    ("above the scan", _above),
    ("of the body's outline alone", lambda data: _types(data, "EXTERNAL")),
    ("of the couch alone", lambda data: _types(data, "SUPPORT")),
    ("that is a plan", lambda data: setattr(data, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.481.5")),
]  # fmt: skip


def _frames(data: Any) -> Any:
    return data.PerFrameFunctionalGroupsSequence


def _shared(data: Any) -> Any:
    return data.SharedFunctionalGroupsSequence[0]


def _at(values: list[str]) -> Callable[[Any], object]:
    return lambda data: setattr(_frames(data)[0].PlanePositionSequence[0], "ImagePositionPatient", values)


def _own_axes(data: Any) -> None:
    axes = copy.deepcopy(_shared(data).PlaneOrientationSequence)
    axes[0].ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    _frames(data)[0].PlaneOrientationSequence = axes


def _axes(values: list[str]) -> Callable[[Any], object]:
    return lambda data: setattr(_shared(data).PlaneOrientationSequence[0], "ImageOrientationPatient", values)


def _every_frame_moved(data: Any) -> None:
    for groups in _frames(data):
        place = groups.PlanePositionSequence[0]
        place.ImagePositionPatient = [str(float(value) + 500) for value in place.ImagePositionPatient]


def _segment_number(number: int) -> Callable[[Any], object]:
    return lambda data: setattr(
        _frames(data)[0].SegmentIdentificationSequence[0], "ReferencedSegmentNumber", number
    )  # fmt: skip


def _second_segment(**values: Any) -> Callable[[Any], object]:
    def change(data: Any) -> None:
        for name, value in values.items():
            setattr(data.SegmentSequence[1], name, value)

    return change


SEGMENTATIONS: list[Edit] = [
    ("of another frame of reference", lambda data: setattr(data, "FrameOfReferenceUID", "1.2.99")),
    ("without references", _delete(lambda data: data, "FrameOfReferenceUID")),
    ("without a type", _delete(lambda data: data, "SegmentationType")),
    ("of an unknown type", lambda data: setattr(data, "SegmentationType", "SURFACE")),
    ("of surfaces", lambda data: setattr(data, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.66.5")),
    ("without segments", _delete(lambda data: data, "SegmentSequence")),
    ("with an empty list of segments", lambda data: data.SegmentSequence.clear()),
    ("with two segments of one number", _second_segment(SegmentNumber=1)),
    ("with two segments of one name", _second_segment(SegmentLabel="bone")),
    ("with a segment without a number", lambda data: delattr(data.SegmentSequence[1], "SegmentNumber")),
    ("with a frame of segment 9", _segment_number(9)),
    ("with a frame of segment 0", _segment_number(0)),
    ("with a frame of no segment", lambda data: delattr(_frames(data)[0], "SegmentIdentificationSequence")),
    ("with a frame too many", lambda data: setattr(data, "NumberOfFrames", len(_frames(data)) + 1)),
    ("with a frame too few", lambda data: setattr(data, "NumberOfFrames", len(_frames(data)) - 1)),
    ("whose last frame is not described", lambda data: _frames(data).pop()),
    ("with two bytes of pixels too few", lambda data: setattr(data, "PixelData", data.PixelData[:-2])),
    ("with two bytes of pixels too many", lambda data: setattr(data, "PixelData", data.PixelData + b"\0\0")),
    ("without pixels", _delete(lambda data: data, "PixelData")),
    ("whose pixels are all zero", lambda data: setattr(data, "PixelData", bytes(len(data.PixelData)))),
    ("without rows", _delete(lambda data: data, "Rows")),
    ("with no rows", lambda data: setattr(data, "Rows", 0)),
    ("with pixels of 32 bits", lambda data: setattr(data, "BitsAllocated", 32)),
    ("with pixels of 8 bits, as it says", lambda data: setattr(data, "BitsAllocated", 8)),
    ("in colour", lambda data: setattr(data, "SamplesPerPixel", 3)),
    ("with a frame without a place", lambda data: delattr(_frames(data)[0], "PlanePositionSequence")),
    ("with a place of two numbers", _at(["1", "2"])),
    ("with a NaN for a place", _at(["NaN", "0", "0"])),
    ("with words for a place", _at(["777.777", "0", "0"])),
    ("with a frame a kilometre away", _at(["0", "0", "1000000"])),
    ("without an orientation", _delete(_shared, "PlaneOrientationSequence")),
    ("with axes that are not at right angles", _axes(["1", "0", "0", "0.5", "0.8660254", "0"])),
    ("with axes of length two", _axes(["2", "0", "0", "0", "2", "0"])),
    ("with flat axes", _axes(["1", "0", "0", "1", "0", "0"])),
    ("with a frame at an angle", _own_axes),
    ("without a pixel spacing", lambda data: delattr(_shared(data).PixelMeasuresSequence[0], "PixelSpacing")),
    ("with a pixel spacing of 0", lambda data: setattr(
        _shared(data).PixelMeasuresSequence[0], "PixelSpacing", ["0", "0"])),
    ("beside the scan", _every_frame_moved),
]  # fmt: skip
FRACTIONS: list[Edit] = [
    ("without the largest value", _delete(lambda data: data, "MaximumFractionalValue")),
    ("whose fractions are all small", lambda data: setattr(data, "PixelData", b"\x01" * len(data.PixelData))),
]
NUMBERED: list[Edit] = [
    ("with pixels of segment 9", lambda data: setattr(data, "PixelData", b"\x09" + data.PixelData[1:])),
    ("whose pixels are all zero", lambda data: setattr(data, "PixelData", bytes(len(data.PixelData)))),
]


def _groups(data: Any) -> Any:
    return data.ContentSequence[0].ContentSequence


def _in_space(data: Any) -> Any:
    return _groups(data)[0].ContentSequence[-1]


def _on_image(data: Any) -> Any:
    return _groups(data)[1].ContentSequence[-1]


def _named(name: str, point: Any) -> list[Any]:
    return [item("TEXT", "Tracking Identifier", name), point]


def _good_report() -> Any:
    """A point in space and one on an image."""
    in_space = point_in_space([-4.0, -5.0, 336.0], FRAME)
    return report([_named("carina", in_space), _named("chin", point_on_image([12.5, 9.5], IMAGES[7]))])


def _one(data: Any, point: Callable[[Any], Any]) -> None:
    """Leave one of the points of a report."""
    kept = [group for group in _groups(data) if group.ContentSequence[-1] is point(data)]
    data.ContentSequence[0].ContentSequence = kept


def _of_another_frame(data: Any) -> None:
    _one(data, _in_space)
    _in_space(data).ReferencedFrameOfReferenceUID = "1.2.99"


def _of_another_image(data: Any) -> None:
    _one(data, _on_image)
    _in_space(data).ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.99"


def _of_shapes(data: Any) -> None:
    _in_space(data).GraphicType = _on_image(data).GraphicType = "MULTIPOINT"


def _endless(data: Any) -> None:
    for _ in range(60):
        deeper = item("CONTAINER", "Measurement Group")
        deeper.ContentSequence = data.ContentSequence[0].ContentSequence
        data.ContentSequence[0].ContentSequence = [deeper]


REPORTS: list[Edit] = [
    ("of another frame of reference", _of_another_frame),
    ("on images of another series", _of_another_image),
    ("that says nothing of the frame", lambda data: delattr(_in_space(data), "ReferencedFrameOfReferenceUID")),
    ("with a point on no image", lambda data: delattr(_on_image(data), "ContentSequence")),
    ("with a point on two images", lambda data: _on_image(data).ContentSequence.append(
        copy.deepcopy(_on_image(data).ContentSequence[0]))),
    ("with a point on a frame that is not there", lambda data: setattr(
        _on_image(data).ContentSequence[0].ReferencedSOPSequence[0], "ReferencedFrameNumber", 9)),
    ("with a point beside its image", lambda data: setattr(_on_image(data), "GraphicData", [12.5, 99.0])),
    ("with a point before its image", lambda data: setattr(_on_image(data), "GraphicData", [-3.0, 9.5])),
    ("with a point of two numbers", lambda data: setattr(_in_space(data), "GraphicData", [1.0, 2.0])),
    ("with a point of six numbers", lambda data: setattr(_in_space(data), "GraphicData", [1.0, 2, 3, 4, 5, 6])),
    ("with a point on an image of three numbers", lambda data: setattr(_on_image(data), "GraphicData", [1.0, 2, 3])),
    ("with a point of no numbers", lambda data: delattr(_in_space(data), "GraphicData")),
    ("with a NaN", lambda data: setattr(_in_space(data), "GraphicData", [1.0, float("nan"), 3.0])),
    ("with a point beside the scan", lambda data: setattr(_in_space(data), "GraphicData", [900.0, 0.0, 330.0])),
    ("with a point without a name", lambda data: _groups(data)[0].ContentSequence.pop(0)),
    ("with a point with an empty name", lambda data: setattr(_groups(data)[0].ContentSequence[0], "TextValue", " ")),
    ("with two points of one name", lambda data: setattr(_groups(data)[1].ContentSequence[0], "TextValue", "carina")),
    ("of shapes alone", _of_shapes),
    ("without content", _delete(lambda data: data, "ContentSequence")),
    ("without groups", lambda data: _groups(data).clear()),
    ("with groups in groups", _endless),
    ("that is a plan", lambda data: setattr(data, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.481.5")),
]  # fmt: skip

_KEYS = {"Segment0_Name": "bone", "Segment0_Layer": "0", "Segment0_LabelValue": "1"}
_KEYS |= {"Segment1_Name": "lump", "Segment1_Layer": "1", "Segment1_LabelValue": "1"}


def _without(left_out: str) -> dict[str, str]:
    return {key: value for key, value in _KEYS.items() if key != left_out}


_NAMES = {key: value for key, value in _KEYS.items() if key.endswith("Name")}
KEYS: dict[str, dict[str, str]] = {
    "with a layer that is not there": _KEYS | {"Segment1_Layer": "2"},
    "with the layer -1": _KEYS | {"Segment1_Layer": "-1"},
    "with a layer in words": _KEYS | {"Segment1_Layer": "first"},
    "with the label value 0": _KEYS | {"Segment1_LabelValue": "0"},
    "with the label value 1.5": _KEYS | {"Segment1_LabelValue": "1.5"},
    "with a segment without a layer": {key: value for key, value in _KEYS.items() if key != "Segment1_Layer"},
    "with a segment without a label value": {
        key: value for key, value in _KEYS.items() if key != "Segment1_LabelValue"
    },
    "with two segments at one place": _KEYS | {"Segment1_Layer": "0"},
    "with two segments of one name": _KEYS | {"Segment1_Name": "bone"},
    "with three segments in two layers, and no numbers": _NAMES | {"Segment2_Name": "third"},
    "with one segment in two layers, and no numbers": {"Segment0_Name": "bone"},
    "that names no segment": {"Segment0_Color": "1 0 0"},
    "whose segments have no voxel": _KEYS | {"Segment0_LabelValue": "3", "Segment1_LabelValue": "3"},
}


def good_annotations() -> Content:
    """Annotations of the good DICOM series that can be read."""
    return {
        "a.rtstruct": encode_dicom(structure_set({"bone": contours_of(ORGAN, GRID)}, IMAGES, FRAME)),
        "a.seg": encode_dicom(segmentation({"bone": ORGAN, "lump": OTHER}, GRID, FRAME)),
        "a.seg.nrrd": slicer_segmentation(np.stack([ORGAN, OTHER]), GRID, _KEYS),
        "a.sr": encode_dicom(_good_report()),
    }


def vary_annotations(good: Path, rng: random.Random) -> Iterator[tuple[str, list[str], Content]]:
    """Yield annotations of the good DICOM series, each with what the command line takes of it; all must be refused."""
    yield from _vary_dicom(rng)
    yield from _vary_segmentations(rng)
    yield from _vary_reports()
    yield from _vary_folders()
    yield from _vary_beside(good)


def _vary_dicom(rng: random.Random) -> Iterator[tuple[str, list[str], Content]]:
    given = ["--labels", "{case}/a.dcm"]
    kinds: list[tuple[str, Callable[[], Any], list[Edit]]] = [
        ("structure set", lambda: structure_set({"bone": contours_of(ORGAN, GRID)}, IMAGES, FRAME), STRUCTURE_SETS),
        ("segmentation", lambda: segmentation({"bone": ORGAN, "lump": OTHER}, GRID, FRAME), SEGMENTATIONS),
        ("fractions", lambda: segmentation({"bone": ORGAN}, GRID, FRAME, "FRACTIONAL"), FRACTIONS),
        ("numbered segments", lambda: segmentation({"bone": ORGAN}, GRID, FRAME, "LABELMAP"), NUMBERED),
    ]
    for kind, make, edits in kinds:
        data = encode_dicom(make())
        for name, change in edits:
            yield f"{kind} {name}", given, {"a.dcm": _changed(make(), change)}
        for part in (0.3, 0.5, 0.7, 0.9, 0.99):
            yield f"{kind} cut off at {part:.0%}", given, {"a.dcm": data[: int(part * len(data))]}
        for n in range(3):
            yield f"{kind} cut off {n}", given, {"a.dcm": cut(data, rng)}
        yield f"{kind} of noise", given, {"a.dcm": data[:132] + rng.randbytes(3000)}
        yield f"{kind} without the organ", [*given, "--organ", "heart"], {"a.dcm": data}
        packed = BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("a", data)
            archive.writestr("b", data)
        yield f"two of one {kind} in a zip file", ["--labels", "{case}/a.zip"], {"a.zip": packed.getvalue()}
        yield f"{kind} in half of a zip file", ["--labels", "{case}/a.zip"], {"a.zip": packed.getvalue()[:-100]}


def _vary_reports() -> Iterator[tuple[str, list[str], Content]]:
    given, data = ["--landmarks", "{case}/a.dcm"], encode_dicom(_good_report())
    for name, change in REPORTS:
        yield f"report {name}", given, {"a.dcm": _changed(_good_report(), change)}
    for part in (0.3, 0.6, 0.9, 0.99):
        yield f"report cut off at {part:.0%}", given, {"a.dcm": data[: int(part * len(data))]}
    yield "report of noise", given, {"a.dcm": data[:132] + random.Random(0).randbytes(3000)}
    yield "report for organs", ["--labels", "{case}/a.dcm"], {"a.dcm": data}
    yield "slice for a report", ["--landmarks", "{good}/slice00.dcm"], {"a": b""}


def _changed(data: Any, change: Callable[[Any], object]) -> bytes:
    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, on the values that are to be wrong
        change(data)
    encoded = encode_dicom(data)
    for number, words in _WORDS.items():
        encoded = encoded.replace(number, words)
    return encoded


def _vary_segmentations(rng: random.Random) -> Iterator[tuple[str, list[str], Content]]:
    given = ["--labels", "{case}/a.seg.nrrd"]
    layers = np.stack([ORGAN, OTHER])
    good = slicer_segmentation(layers, GRID, _KEYS)
    for name, keys in KEYS.items():
        yield f"segmentation of Slicer {name}", given, {"a.seg.nrrd": slicer_segmentation(layers, GRID, keys)}
    twice = good.replace(b"Segment1_Name", b"Segment0_Name:=spleen\nSegment1_Name", 1)
    yield "segmentation of Slicer with a key twice", given, {"a.seg.nrrd": twice}
    for part in (0.1, 0.5, 0.99):
        yield f"segmentation of Slicer cut off at {part:.0%}", given, {"a.seg.nrrd": good[: int(part * len(good))]}
    yield "segmentation of Slicer with more voxels", given, {"a.seg.nrrd": good + b"\1" * 100}
    yield "segmentation of Slicer of noise", given, {"a.seg.nrrd": good[:300] + rng.randbytes(3000)}
    away = Grid(SHAPE, np.diag([1.0, 1, 1, 1]) @ DICOM_AFFINE + np.eye(4, k=3) * 500.0)
    yield "segmentation of Slicer beside the scan", given, {"a.seg.nrrd": slicer_segmentation(layers, away, _KEYS)}
    inner = np.moveaxis(layers, 0, 1)
    moved = slicer_segmentation(inner, GRID, _KEYS).replace(b"none (", b"(", 1).replace(b") (", b") none (", 1)
    yield "segmentation of Slicer with layers in between", given, {"a.seg.nrrd": moved}


def _vary_folders() -> Iterator[tuple[str, list[str], Content]]:
    given = ["--labels", "{case}/masks"]
    organ = _image(ORGAN, GRID)
    smaller = _image(ORGAN[:-1], GRID.cropped((0, 0, 0), (SHAPE[0] - 1, *SHAPE[1:])))
    labels = _image(ORGAN + 2 * OTHER.astype(np.uint8), GRID)
    for name, content in {
        "with masks on different grids": {"masks/bone.nrrd": organ, "masks/lump.nrrd": smaller},
        "with a label map": {"masks/bone.nrrd": organ, "masks/all.nrrd": labels},
        "with a mask of fractions": {"masks/bone.nrrd": _image(ORGAN * np.float32(0.5), GRID)},
        "with empty masks alone": {"masks/bone.nrrd": _image(ORGAN & False, GRID)},
        "with a mask that is cut off": {"masks/bone.nrrd": organ[:-50]},
        "with a mask of no bytes": {"masks/bone.nrrd": b""},
        "with masks of one name": {"masks/bone.nrrd": organ, "masks/bone.nii.nrrd": organ, "masks/bone.mha": organ},
        "with text alone": {"masks/read me.txt": b"masks"},
        "with a mask that is text": {"masks/bone.nii.gz": b"a mask" * 99},
    }.items():
        yield f"folder {name}", given, content
    yield "folder without the organ", [*given, "--organ", "heart"], {"masks/bone.nrrd": organ}
    yield "folder that is not there", given, {"a.txt": b""}


def _vary_beside(good: Path) -> Iterator[tuple[str, list[str], Content]]:
    """Label maps and Markups whose names are not clear."""
    given, labels = ["--labels", "{case}/a.nrrd"], _image(ORGAN.astype(np.uint8), GRID)
    yield "label map without names", given, {"a.nrrd": labels}
    for name, text in {
        "that are no JSON": b"{",
        "of other labels": b'{"7": "bone"}',
        "of other things": b'{"Modality": "CT"}',
        "of a background alone": b'{"labels": {"background": 0}}',
        "of the background": b'{"0": "bone"}',
        "of several labels": b'{"labels": {"bone": [1, 2]}}',
        "twice": b'{"bone": 1, "lump": 1}',
    }.items():
        yield f"label map beside names {name}", given, {"a.nrrd": labels, "a.json": text}
    for name, text in {"that is not there": b'{"Bone": "lump"}', "that is a number": b'{"8": "lump"}'}.items():
        content = {"a.dcm": encode_dicom(segmentation({"bone": ORGAN}, GRID, FRAME)), "names.json": text}
        yield f"new name of a structure {name}", ["--labels", "{case}/a.dcm", "--names", "{case}/names.json"], content
    scan = _image(np.random.default_rng(0).integers(0, 70_000, SHAPE).astype(np.int32), GRID)
    yield "scan for a label map", given, {"a.nrrd": scan}
    yield "slice for a structure set", ["--labels", "{good}/slice00.dcm"], {"a": b""}
    yield "series for a structure set", ["--labels", "{case}/s"], {"s/a": (good / "slice00.dcm").read_bytes()}
    points = (good / "points.mrk.json").read_bytes()
    twice = {"a.mrk.json": points, "b.mrk.json": points}
    yield "points of one name", ["--labels", "{case}/a.mrk.json", "--labels", "{case}/b.mrk.json"], twice
    nameless = points.replace(b'"name": "bone"', b'"name": ""', 1)
    yield "points without a name", ["--labels", "{case}/a.mrk.json"], {"a.mrk.json": nameless}


def _image(voxels: Any, grid: Grid) -> bytes:
    """A NRRD file, not compressed."""
    lps = np.diag([-1.0, -1, 1, 1]) @ grid.ras_from_ijk
    vectors = [f"({','.join(f'{part:.12g}' for part in column[:3])})" for column in lps.T]
    kinds = {"u1": "uchar", "b1": "uchar", "f4": "float", "i4": "int"}
    lines = [
        *("NRRD0004", f"type: {kinds[voxels.dtype.str[1:]]}", "dimension: 3", "space: left-posterior-superior"),
        *(f"sizes: {' '.join(map(str, voxels.shape))}", f"space directions: {' '.join(vectors[:3])}"),
        *("endian: little", "encoding: raw", f"space origin: {vectors[3]}", "", ""),
    ]
    return "\n".join(lines).encode() + voxels.tobytes(order="F")
