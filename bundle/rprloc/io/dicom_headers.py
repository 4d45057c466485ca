"""What the header of a DICOM image says of its planes: where they lie, how they are stored, what they belong to."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rprloc.io.archive import describe_bomb
from rprloc.io.dicom_files import Fault, damage
from rprloc.io.dicom_slice import Slice

if TYPE_CHECKING:
    from pydicom import Dataset

CT_STORAGE = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
)  # CT, enhanced CT, legacy converted enhanced CT

UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
DEFLATED = "1.2.840.10008.1.2.1.99"
_DECODED_BY_GDCM = (
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)),  # JPEG, JPEG-LS, JPEG 2000
    "1.2.840.10008.1.2.5",  # RLE
)
BROKEN = (
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RuntimeError,
    MemoryError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
"""What pydicom, GDCM and numpy raise for damaged data."""

_OF_SEVERAL = {
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "AcquisitionUID": ("FrameContentSequence", "AcquisitionUID"),
    "IrradiationEventUID": ("IrradiationEventIdentificationSequence", "IrradiationEventUID"),
    "TemporalPositionIdentifier": ("TemporalPositionSequence", "TemporalPositionIdentifier"),
    "TemporalPositionIndex": ("FrameContentSequence", "TemporalPositionIndex"),
    "NominalPercentageOfCardiacPhase": ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    "ImageType": ("CTImageFrameTypeSequence", "FrameType"),
    "FrameType": ("MRImageFrameTypeSequence", "FrameType"),
    "ComplexImageComponent": ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    "EchoNumbers": ("MREchoSequence", "EchoNumbers"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "StackID": ("FrameContentSequence", "StackID"),
    "ConvolutionKernel": ("CTReconstructionSequence", "ConvolutionKernel"),
    "KVP": ("CTXRayDetailsSequence", "KVP"),
    "AcquisitionTime": ("FrameContentSequence", "FrameAcquisitionDateTime"),
    "AcquisitionDateTime": ("FrameContentSequence", "FrameAcquisitionDateTime"),
    "ContentTime": ("FrameContentSequence", "FrameReferenceDateTime"),
}
"""What tells apart the scans that may share a series; beside it the place of the same in each frame of a file."""

_NO_LENGTH = b"\xff\xff\xff\xff"  # of pixels that are packed in pieces, each with its own
PAUSE_S = {"AcquisitionTime": 10.0, "AcquisitionDateTime": 10.0, "ContentTime": 30.0}
"""What lies between two scans of a patient, by the tag that tells the time. The slices of one scan are taken and
computed faster, or lie end to end."""
OWNERS = {
    "PatientID": "patient",
    "StudyInstanceUID": "study",
    "FrameOfReferenceUID": "frame of reference",
    "PatientPosition": "the patient's position",
}
"""What all slices of one scan have in common, and what it is called."""
_CONCATENATION = ("ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber")
_UNASSIGNED = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")
_AS_STORED = (*_OF_SEVERAL, *OWNERS, "InstanceNumber")
"""Only compared with others, or of no use if they cannot be read."""
_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "SeriesInstanceUID",
    "SeriesDescription",
    "InstanceNumber",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "PixelRepresentation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    *OWNERS,
    *_CONCATENATION,
    *_OF_SEVERAL,
)


Header = Mapping[str, Any]
"""The values of a file's header by their names."""


@dataclass(frozen=True, eq=False)
class ImageFile:
    """A DICOM file with images: the series to which it belongs (None if nobody can tell), its planes or its fault."""

    uid: str | None
    description: str = ""
    modality: str = ""
    slices: tuple[Slice, ...] = ()
    fault: Fault | None = None


def read_image_header(path: Path) -> ImageFile | None:
    """The planes of a DICOM file, or why it cannot be read; None for DICOM without an image, such as a report."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, on values that break the standard without harm
        try:
            with path.open("rb") as file:
                refuse_deflate_bomb(file, path)
                data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_names()), force=True)
                bytes_left = path.stat().st_size - file.tell()
                packed = file.read(12).endswith((_NO_LENGTH, _NO_LENGTH + b"\xfe\xff\0\xe0"))
            header = _values(data)  # all at once, so that values that cannot be read are noticed here
            classes = (data.file_meta.get("MediaStorageSOPClassUID"), header.get("SOPClassUID"))
            syntax = transfer_syntax(data)
            if packed and syntax in UNCOMPRESSED:
                raise ValueError("it does not say how its pixels are compressed")
        except (*BROKEN, OSError, pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException) as error:
            return _damaged_file(path, error)
        if header.get("Rows") is not None:
            return _image_file(path, header, syntax, bytes_left)
        if any(classes) and not any(one in CT_STORAGE for one in classes):
            return None
        return _damaged_file(path, EOFError("an image without its size"))


def refuse_deflate_bomb(file: IO[bytes], path: Path) -> None:
    """Raises ValueError for a deflated file that would take gigabytes: pydicom unpacks all of it to read its header."""
    start = file.read(1024)
    if DEFLATED.encode() in start:
        file.seek(144 + int.from_bytes(start[140:144], "little"))  # behind the meta header, whose length stands there
        stream, unpacked, packed = zlib.decompressobj(-zlib.MAX_WBITS), 0, path.stat().st_size
        block = file.read(1 << 16)
        while block and not stream.eof:
            unpacked += len(stream.decompress(block, 1 << 24))
            block = stream.unconsumed_tail or file.read(1 << 16)
            if bomb := describe_bomb(unpacked, packed):
                raise ValueError(f"it {bomb}")
    file.seek(0)


def _image_file(path: Path, header: Header, syntax: str, bytes_left: int) -> ImageFile:
    names = ("SeriesInstanceUID", "SeriesDescription", "Modality")
    uid, description, modality = (str(header.get(name) or "") for name in names)
    modality = modality.upper()
    try:
        fault = _reason_to_refuse(path, header, syntax) or _bomb(path, header)
        if fault is None:
            _require_pixels(path, header, syntax, bytes_left)
        slices = () if fault else tuple(planes_of(path, header))
        fault = fault or _no_hounsfield_units(path, header, slices)
        if fault is None:
            return ImageFile(uid, description, modality, slices)
        fault = replace(fault, slices=fault.slices * max(1, _whole(header.get("NumberOfFrames")) or 1))
    except BROKEN as error:
        fault = damage(path, error)
    return ImageFile(uid, description, modality, fault=fault)


@cache
def _names() -> dict[int, str]:
    from pydicom.tag import Tag

    return {Tag(name): name for name in _TAGS}


def _values(data: Dataset) -> dict[str, Any]:
    """The values of a header; those that are only compared with others as they are stored, which is faster."""
    values: dict[str, Any] = {}
    for tag in list(data.keys()):
        name = _names().get(tag, "")
        stored = data.get_item(tag).value if name in _AS_STORED else None
        values[name] = stored.decode("latin-1").strip(" \0") if isinstance(stored, bytes) else data[tag].value
    return values


def _damaged_file(path: Path, error: Exception) -> ImageFile | None:
    """A file that cannot be read to its end, with the series that its beginning names, if that can be read."""
    import pydicom

    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            start = pydicom.filereader.read_partial(file, lambda tag, *_: tag > 0x0020000E, force=True)
            kind = start.file_meta.get("MediaStorageSOPClassUID") or start.get("SOPClassUID")
            names = ("SeriesInstanceUID", "SeriesDescription", "Modality")
            uid, description, modality = (str(start.get(name) or "") for name in names)
    except (*BROKEN, OSError, pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException):
        return ImageFile(None, fault=damage(path, error))
    if kind is not None and not _may_hold_an_image(str(kind)):
        return None
    return ImageFile(uid or None, description, modality, fault=damage(path, error))


def _may_hold_an_image(sop_class: str) -> bool:
    from pydicom.uid import UID

    name = UID(sop_class).name
    return "Image Storage" in name or name == sop_class  # a class of a maker's own has no name


def transfer_syntax(data: Dataset) -> str:
    """How a file's data are written; where it has no meta header, as its first elements show."""
    said = data.file_meta.get("TransferSyntaxUID")
    if said:
        return str(said)
    implicit, little = data.original_encoding
    return UNCOMPRESSED[0] if implicit else UNCOMPRESSED[1 if little else 2]


def _reason_to_refuse(path: Path, header: Header, syntax: str) -> Fault | None:
    """What no export of the same pixels could be read with, as the header alone tells."""
    from pydicom.uid import UID

    components = int(header.get("SamplesPerPixel") or 1)
    if components != 1 or header.get("PhotometricInterpretation") == "PALETTE COLOR":
        values = f"{components} values at each voxel (colour)" if components != 1 else "colours out of a palette"
        return Fault(path, f"has {values}, but a scan has one", "Give the scan itself, not a picture of it", 0)
    stored, high = header.get("BitsStored"), header.get("HighBit")
    if stored is not None and high is not None and int(high) != int(stored) - 1:
        return Fault(
            path,
            f"holds its pixels in other bits than DICOM allows (HighBit {high} with BitsStored {stored})",
            f"HighBit must be {int(stored) - 1}. Export the series again",
        )
    if syntax not in (*UNCOMPRESSED, DEFLATED, *_DECODED_BY_GDCM):
        named = UID(syntax).name
        return Fault(
            path,
            f"is compressed in a way that RPR-Loc cannot decode ({named if named == syntax else f'{named}, {syntax}'})",
            "Decompress the series, for example with 'gdcmconv --raw' or 'dcmdjpeg'",
        )
    return None


def _no_hounsfield_units(path: Path, header: Header, slices: tuple[Slice, ...]) -> Fault | None:
    """Whether the stored values lead to something else than Hounsfield units, as in maps of dual-energy CT."""
    if str(header.get("Modality") or "").upper() not in ("CT", ""):
        return None  # which is told as such
    advice = "Give the series in Hounsfield units"
    if header.get("ModalityLUTSequence"):
        return Fault(path, "turns pixels into values by a table (Modality LUT), not by slope and intercept", advice)
    others = [plane.rescale_type for plane in slices if plane.rescale_type not in _HOUNSFIELD + UNSURE_UNITS]
    if others:
        return Fault(path, f"holds other values than Hounsfield units (rescale type {others[0]})", advice, 0)
    return None


_HOUNSFIELD = ("", "HU", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS")
UNSURE_UNITS = ("US", "UNSPECIFIED", "HU_MOD")
"""Rescale types that do not say whether the values are Hounsfield units as they were measured."""


def _bomb(path: Path, header: Header) -> Fault | None:
    """Whether the pixels of a file would be far more than any scan is compressed into as much."""
    frames, rows, columns = int(header.get("NumberOfFrames") or 1), int(header["Rows"]), int(header["Columns"])
    unpacked = frames * rows * columns * int(header.get("BitsAllocated") or 0) // 8
    bomb = describe_bomb(unpacked, path.stat().st_size)
    return Fault(path, bomb, "Check how it was exported") if bomb else None


def _require_pixels(path: Path, header: Header, syntax: str, bytes_left: int) -> None:
    """Raises EOFError if what follows the header is too short for the images that it announces."""
    frames, rows, columns = int(header.get("NumberOfFrames") or 1), int(header["Rows"]), int(header["Columns"])
    needed = frames  # compressed, each has a byte at least
    if syntax in UNCOMPRESSED:
        before = 8 if syntax == UNCOMPRESSED[0] else 12  # bytes that say what follows
        needed = before + frames * rows * columns * int(header.get("BitsAllocated") or 0) // 8
    if syntax == DEFLATED:
        bytes_left = 1000 * path.stat().st_size  # zlib packs no better, and the header's reader has read all of it
    if bytes_left < needed:
        raise EOFError(f"it is shorter than its {frames} images of {columns} x {rows} pixels")


def planes_of(path: Path, header: Header) -> list[Slice]:
    """The planes of one file."""
    frames, rows, columns = int(header.get("NumberOfFrames") or 1), int(header["Rows"]), int(header["Columns"])
    groups = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    shared = next(iter(header.get("SharedFunctionalGroupsSequence") or []), None)
    if groups and len(groups) != frames:
        raise EOFError(f"it describes {len(groups)} images and holds {frames}")
    one_plane = header if frames == 1 else None  # many frames cannot all lie where the file says that it lies
    number = _whole(header.get("InstanceNumber"))
    owners = {name: str(header[name]).strip().upper() for name in OWNERS if str(header.get(name) or "").strip()}
    concatenation, part, parts = (header.get(name) for name in _CONCATENATION)
    of_parts = None if not concatenation else (str(concatenation), _whole(part) or 0, _whole(parts))
    transformation = "PixelValueTransformationSequence"
    return [
        Slice(
            path,
            frame if frames > 1 or groups else None,
            str(header.get("SOPClassUID", "")),
            str(header.get("SOPInstanceUID", "")),
            (columns, rows),
            (float(header.get("PixelRepresentation") or 0), *_rescale(header, shared, own)),
            _numbers(one_plane, shared, own, "PlanePositionSequence", "ImagePositionPatient", 3),
            _numbers(header, shared, own, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
            _numbers(header, shared, own, "PixelMeasuresSequence", "PixelSpacing", 2),
            str(_value(header, shared, own, transformation, "RescaleType") or "").strip().upper(),
            _padding(header, shared, own),
            number if frames == 1 and not groups else None,
            _told_apart_by(header, shared, own),
            owners,
            of_parts,
        )
        for frame, own in enumerate(groups or [None] * frames)
    ]


def _whole(value: object) -> int | None:
    """The integer that a value is; None for anything else, such as the number A12."""
    try:
        return int(str(value))
    except ValueError:
        return None


def _value(header: Header | None, shared: Dataset | None, own: Dataset | None, group: str, name: str) -> Any:
    """A header's value: of the frame, else of all frames, else (in a file with a single image) of the file."""
    for place in (own, shared):
        sequence = place.get(group) if place is not None else None
        if sequence and sequence[0].get(name) is not None:
            return sequence[0].get(name)
    return header.get(name) if header is not None else None


def _converted(header: Header, shared: Dataset | None, own: Dataset | None, name: str) -> Any:
    """A header's value that has no place of its own in a frame: where a conversion into a multi-frame file puts it."""
    for group in _UNASSIGNED:
        value = _value(None, shared, own, group, name)
        if value is not None:
            return value
    return header.get(name)


def _numbers(
    header: Header | None, shared: Dataset | None, own: Dataset | None, group: str, name: str, count: int
) -> NDArray[np.float64] | None:
    value = _value(header, shared, own, group, name)
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != count:
        return None
    numbers = np.array([float(part) for part in value])
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} is {list(value)}")
    return numbers


def _rescale(header: Header, shared: Dataset | None, own: Dataset | None) -> tuple[float, float]:
    names = ("RescaleSlope", "RescaleIntercept")
    slope, intercept = (_value(header, shared, own, "PixelValueTransformationSequence", name) for name in names)
    rescale = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    if not np.isfinite(rescale).all() or rescale[0] == 0.0:
        raise ValueError(f"its rescale slope and intercept are {rescale}")
    return rescale


def _padding(header: Header, shared: Dataset | None, own: Dataset | None) -> tuple[int, int] | None:
    value = _converted(header, shared, own, "PixelPaddingValue")
    if value is None:
        return None
    limit = _converted(header, shared, own, "PixelPaddingRangeLimit")
    return int(value), int(value if limit is None else limit)


def _told_apart_by(header: Header, shared: Dataset | None, own: Dataset | None) -> dict[str, str | float]:
    found: dict[str, str | float] = {}
    for name, (group, in_frame) in _OF_SEVERAL.items():
        value = _value(None, shared, own, group, in_frame)
        value = _converted(header, shared, own, name) if value is None else value
        value = _seconds(value) if name in PAUSE_S else value
        if value is not None and str(value).strip():
            found[name] = value if isinstance(value, float) else str(value)
    return found


def _seconds(value: object) -> float | None:
    """The seconds since midnight of a DICOM time (HHMMSS.FFFFFF), or of a date and time since the calendar began; None
    for what is neither."""
    text = str(value or "").strip().split("+")[0].split("-")[0]
    whole, _, fraction = text.partition(".")
    day = 0
    if len(whole) > 6:
        try:
            day = date(int(whole[:4]), int(whole[4:6]), int(whole[6:8])).toordinal()
        except ValueError:
            return None
        whole = whole[8:]
    if not (whole.isdigit() and len(whole) in (2, 4, 6) and (fraction.isdigit() or not fraction)):
        return None
    parts = [int(whole[n : n + 2]) for n in range(0, len(whole), 2)]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    return 86400.0 * day + seconds + float(f"0.{fraction}0")
