"""DICOM series with other values in their headers, damaged, or without some of their slices; also in zip archives."""

from __future__ import annotations

import bz2
import gzip
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import UID

from scripts.robustness.damage import Content, Kind, Outcome, Truth, cut, right_of
from scripts.robustness.good_files import Words, encode_slice

Tags = dict[str, Any]

# Wrong in one slice of the series, which must be refused.
_IN_ONE_SLICE: dict[str, Tags] = {
    "no position": {"ImagePositionPatient": None},
    "no orientation": {"ImageOrientationPatient": None},
    "no spacing": {"PixelSpacing": None},
    "no size": {"Rows": None},
    "no pixels": {"PixelData": None},
    "no bits": {"BitsAllocated": None},
    "13 bits": {"BitsAllocated": 13},
    "0 rows": {"Rows": 0},
    "65535 rows": {"Rows": 65535},
    "65535 rows and columns": {"Rows": 65535, "Columns": 65535},
    "a NaN position": {"ImagePositionPatient": Words("nan\\-50\\342 ")},
    "an infinite position": {"ImagePositionPatient": Words("1e400\\-50\\34")},
    "a short position": {"ImagePositionPatient": [1, 2]},
    "a far position": {"ImagePositionPatient": [-60, -50, 1e7]},
    "a position in words": {"ImagePositionPatient": Words("to the left ")},
    "zero axes": {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
    "equal axes": {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
    "another orientation": {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
    "zero spacing": {"PixelSpacing": [0, 0]},
    "negative spacing": {"PixelSpacing": [-5, 4]},
    "slope 0": {"RescaleSlope": 0},
    "a NaN slope": {"RescaleSlope": Words("nan   ")},
    "a slope in words": {"RescaleSlope": Words("so steep")},
    "a huge intercept": {"RescaleIntercept": Words("1e4000")},
    "a billion frames": {"NumberOfFrames": 10**9},
    "frames in words": {"NumberOfFrames": Words("many more ")},
    "colours": {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
    "few pixels": {"PixelData": b"\0" * 100},
    "one pixel less": {"PixelData": b"\0" * 1438},
    "no columns": {"Columns": None},
    "1 column": {"Columns": 1},
    "a row less": {"Rows": 23},
    "rows and columns exchanged": {"Rows": 30, "Columns": 24},
    "8 bits": {"BitsAllocated": 8},
    "32 bits": {"BitsAllocated": 32},
    "0 bits": {"BitsAllocated": 0},
    "0 stored bits": {"BitsStored": 0, "HighBit": 65535},
    "17 stored bits": {"BitsStored": 17, "HighBit": 16},
    "65535 stored bits": {"BitsStored": 65535, "HighBit": 65534},
    "another high bit": {"HighBit": 15},
    "the lowest high bit": {"HighBit": 0},
    "3 samples": {"SamplesPerPixel": 3},
    "65535 samples": {"SamplesPerPixel": 65535},
    "a palette": {"PhotometricInterpretation": "PALETTE COLOR"},
    "an infinite slope": {"RescaleSlope": Words("1e4000")},
    "a NaN intercept": {"RescaleIntercept": Words("nan   ")},
    "an infinite spacing": {"PixelSpacing": Words("1e999\\1e999 ")},
    "a NaN spacing": {"PixelSpacing": Words("nan\\nan ")},
    "one spacing": {"PixelSpacing": 5},
    "three spacings": {"PixelSpacing": [5, 4, 3]},
    "spacings the other way round": {"PixelSpacing": [4, 5]},
    "a position of one number": {"ImagePositionPatient": 34},
    "a position in one plane with the next": {"ImagePositionPatient": [-60, -50, 348]},
    "a position 10 mm to the side": {"ImagePositionPatient": [-50, -50, 342]},
    "a position at the origin": {"ImagePositionPatient": [0, 0, 0]},
    "NaN axes": {"ImageOrientationPatient": Words("nan\\0\\0\\0\\1\\0 ")},
    "five numbers for its axes": {"ImageOrientationPatient": [1, 0, 0, 0, 1]},
    "axes 5 degrees apart from the others": {"ImageOrientationPatient": [0.9962, 0.0872, 0, -0.0872, 0.9962, 0]},
    "axes of length 2": {"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]},
    "mirrored axes": {"ImageOrientationPatient": [-1, 0, 0, 0, 1, 0]},
    "two frames": {"NumberOfFrames": 2},
    "a negative number of frames": {"NumberOfFrames": -1},
    "another series": {"SeriesInstanceUID": "1.2.3.9"},
    "no series": {"SeriesInstanceUID": None},
    "values that are no Hounsfield units": {"RescaleType": "Z_EFF"},
    "another acquisition": {"AcquisitionNumber": 2},
    "another kind of image": {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
    "another voltage": {"KVP": 80},
    "another kernel": {"ConvolutionKernel": "sharp"},
    "another patient": {"PatientID": "8"},
    "another study": {"StudyInstanceUID": "1.2.4"},
    "another frame of reference": {"FrameOfReferenceUID": "1.2.3.6"},
}


def _values(change: Callable[[Any], Any], warning: str = "") -> Callable[[Truth], Truth]:
    return lambda truth: truth.with_values(change(truth.hu), warning)


def _axes(*lps: float) -> Callable[[Truth], Truth]:
    """The truth where rows, then columns, run along these; the slices still go towards the head."""

    def place(truth: Truth) -> Truth:
        affine = truth.ras_from_ijk.copy()
        affine[:3, :2] = (np.array(lps).reshape(2, 3) * [-1.0, -1.0, 1.0]).T * [4.0, 5.0]
        return truth.placed(affine)

    return place


def _spaced(row_mm: float, column_mm: float, warning: str = "") -> Callable[[Truth], Truth]:
    """The truth with other distances from row to row and from column to column."""
    return lambda truth: truth.placed(truth.ras_from_ijk * [column_mm / 4.0, row_mm / 5.0, 1.0, 1.0], warning)


# In every slice of the series; whether it is then still the same scan (True), another one, or to be refused (False).
_IN_ALL_SLICES: dict[str, tuple[Tags, Outcome]] = {
    "slope 2": ({"RescaleSlope": 2}, _values(lambda hu: 2 * (hu + 1024) - 1024)),
    "slope -1": ({"RescaleSlope": -1}, _values(lambda hu: -(hu + 1024) - 1024)),
    "slope 0.5": ({"RescaleSlope": 0.5}, _values(lambda hu: 0.5 * (hu + 1024) - 1024)),
    "slope 0": ({"RescaleSlope": 0}, False),
    "intercept 0": ({"RescaleIntercept": 0}, _values(lambda hu: hu + 1024, "offset")),
    "no slope and intercept": ({"RescaleSlope": None, "RescaleIntercept": None}, _values(lambda hu: hu + 1024)),
    "intercept -1000.5": ({"RescaleIntercept": -1000.5}, _values(lambda hu: hu + 23.5)),
    "intercept 1e30": ({"RescaleIntercept": Words("1.0e30")}, False),
    "intercept -3e9": ({"RescaleIntercept": -3000000000}, _values(lambda hu: hu + 1024 - 3e9, "cannot be CT")),
    "slope 1e6": ({"RescaleSlope": 1000000}, _values(lambda hu: (hu + 1024.0) * 1e6 - 1024, "not look like CT")),
    "slope 1e38": ({"RescaleSlope": Words("1.0e38")}, False),
    "type HU": ({"RescaleType": "HU"}, True),
    "type hu": ({"RescaleType": "hu"}, True),
    "type US": ({"RescaleType": "US"}, _values(lambda hu: hu, "rescale type US")),
    "type MGML": ({"RescaleType": "MGML"}, False),
    "type HU_MOD": ({"RescaleType": "HU_MOD"}, _values(lambda hu: hu, "rescale type HU_MOD")),
    "16 stored bits": ({"BitsStored": 16, "HighBit": 15}, True),
    "11 stored bits": ({"BitsStored": 11, "HighBit": 10}, True),
    "12 stored bits at the upper end": ({"HighBit": 15}, False),
    "inverted display": ({"PhotometricInterpretation": "MONOCHROME1"}, True),
    "no photometric interpretation": ({"PhotometricInterpretation": None}, False),
    "no samples per pixel": ({"SamplesPerPixel": None}, False),
    "colour": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, False),
    "no modality": ({"Modality": None}, True),
    "modality MR": ({"Modality": "MR"}, _values(lambda hu: hu, "MR")),
    "spacings the other way round": ({"PixelSpacing": [4, 5]}, _spaced(4, 5)),
    "spacings of 9 and 1.9": ({"PixelSpacing": [9, 1.9]}, _spaced(9, 1.9)),
    "spacing 0": ({"PixelSpacing": [0, 4]}, False),
    "spacing -5": ({"PixelSpacing": [-5, 4]}, False),
    "spacing of a metre": ({"PixelSpacing": [5000, 4000]}, False),
    "spacing of micrometres": ({"PixelSpacing": [0.005, 0.004]}, False),
    "no spacing but that at the detector": ({"PixelSpacing": None, "ImagerPixelSpacing": [5, 4]}, False),
    "rows to the front": ({"ImageOrientationPatient": [0, -1, 0, 1, 0, 0]}, _axes(0, -1, 0, 1, 0, 0)),
    "rows to the right": ({"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}, _axes(-1, 0, 0, 0, -1, 0)),
    "mirrored rows": ({"ImageOrientationPatient": [-1, 0, 0, 0, 1, 0]}, _axes(-1, 0, 0, 0, 1, 0)),
    "axes that are sheared": ({"ImageOrientationPatient": [1, 0, 0, 0.2, 0.98, 0]}, False),
    "axes of length 2": ({"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]}, False),
    "axes in the plane of the slices' direction": ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, False),
    "axes of zeros": ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, False),
    "one position": ({"ImagePositionPatient": [-60, -50, 300]}, False),
    "no position": ({"ImagePositionPatient": None}, False),
    "no orientation": ({"ImageOrientationPatient": None}, False),
    "no numbers": ({"InstanceNumber": None}, True),
    "the same number": ({"InstanceNumber": 1}, True),
    "negative numbers": ({"InstanceNumber": -5}, True),
    "a huge number": ({"InstanceNumber": 2**31 - 1}, True),
    "the same UID": ({"SOPInstanceUID": "1.2.3.4.77"}, True),
    "no UID": ({"SOPInstanceUID": None}, True),
    "no series": ({"SeriesInstanceUID": None}, True),
    "slice thickness 0": ({"SliceThickness": 0}, True),
    "slice thickness -1": ({"SliceThickness": -1}, True),
    "slice thickness 99": ({"SliceThickness": 99}, True),
    "slices told to be 1 mm apart": ({"SpacingBetweenSlices": 1}, True),
    "slices told to be -6 mm apart": ({"SpacingBetweenSlices": -6}, True),
    "another slice location": ({"SliceLocation": 5}, True),
    "the feet first": ({"PatientPosition": "FFS"}, True),
    "the face down": ({"PatientPosition": "HFP"}, True),
    "a tilt that the positions do not show": ({"GantryDetectorTilt": 20}, True),
    "an aspect ratio": ({"PixelAspectRatio": [2, 1]}, True),
    "a window": ({"WindowCenter": 40, "WindowWidth": 400}, True),
    "a table of presentation": ({"PresentationLUTShape": "INVERSE"}, True),
    "one frame": ({"NumberOfFrames": 1}, True),
    "no frames": ({"NumberOfFrames": 0}, True),
    "a localizer's type": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, True),
    "lossy compression told": ({"LossyImageCompression": "01"}, True),
    "a birth date of nobody": ({"PatientBirthDate": Words("000000")}, True),
    "another character set": ({"SpecificCharacterSet": "ISO_IR 192", "SeriesDescription": "Lunge, groß"}, True),
    "an unknown character set": ({"SpecificCharacterSet": "ISO_NOBODY"}, True),
    "a unit of maker's own": ({"ManufacturerModelName": "x" * 64}, True),
}
_AT_WHICH_SLICES = {"first": slice(0, 1), "second": slice(1, 2), "last": slice(-1, None), "last five": slice(-5, None)}


def vary_series(truth: Truth, rng: random.Random) -> Iterator[Kind]:
    """Yield folders with DICOM series, of which a slice, all slices or the set of slices are not as usual."""
    hu = truth.hu
    series = {f"series/slice{k:02d}.dcm": encode_slice(hu, k) for k in range(hu.shape[2])}

    def with_slice(data: bytes) -> Content:
        return series | {"series/slice07.dcm": data}

    for n in range(14):
        yield f"DICOM slice cut off {n}", with_slice(series["series/slice07.dcm"][: rng.randrange(140, 1900)]), None
    for n in range(6):
        noisy = bytearray(series["series/slice07.dcm"])
        start = rng.randrange(132, 500)
        noisy[start : start + 60] = rng.randbytes(60)
        yield f"DICOM slice with noise in its header {n}", with_slice(bytes(noisy)), None
    broken = series["series/slice07.dcm"].replace(b"1.2.840.10008.1.2.1\0", b"1\n2.840.10008.1.2.1\0")
    yield "DICOM slice with a line end in its transfer syntax", with_slice(broken), None  # what the fuzzer found
    for name, tags in _IN_ONE_SLICE.items():
        yield f"DICOM slice with {name}", with_slice(encode_slice(hu, 7, tags)), None
    for name, (tags, outcome) in _IN_ALL_SLICES.items():
        content = {file: encode_slice(hu, k, tags) for k, file in enumerate(series)}
        yield f"DICOM series with {name}", content, right_of(truth, outcome)
    yield from _vary_pixels(truth, list(series))
    yield from _vary_folder(truth, series)


def _vary_pixels(truth: Truth, files: list[str]) -> Iterator[Kind]:
    """Yield series with other types of pixels, with padding, and with values of their own in each slice."""
    stored = truth.hu + 1024

    def encode(tags: Callable[[int], Tags]) -> Content:
        return {file: encode_slice(truth.hu, k, tags(k)) for k, file in enumerate(files)}

    def pixels(values: Any, kind: str) -> Callable[[int], Tags]:
        bits = 8 * np.dtype(kind).itemsize
        about = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
        signed = {"PixelRepresentation": int(np.dtype(kind).kind == "i")}
        return lambda k: {**about, **signed, "PixelData": values[:, :, k].T.astype(kind).tobytes()}

    yield (
        "DICOM series with signed pixels",
        encode(lambda k: pixels(truth.hu, "<i2")(k) | {"RescaleIntercept": 0}),
        truth,
    )
    yield "DICOM series with 32 bits", encode(pixels(stored, "<u4")), truth
    large = stored.astype(np.int64) + (3 << 30)
    far = truth.with_values(large - 1024, "not look like CT")
    yield "DICOM series with 32 bits that hold large values", encode(pixels(large, "<u4")), far
    eight = truth.with_values(stored // 16 * 16 - 1024)
    yield "DICOM series with 8 bits", encode(lambda k: pixels(stored // 16, "u1")(k) | {"RescaleSlope": 16}), eight
    above = stored.astype("<u2") | 0xF000  # 12 bits count; what is above may be anything
    yield (
        "DICOM series with other bits above its pixels",
        encode(lambda k: {"PixelData": above[:, :, k].T.tobytes()}),
        truth,
    )
    corner = np.zeros(stored.shape, bool)
    corner[:6, :6] = True
    air = truth.with_values(np.where(corner, -1024, truth.hu))
    for name, value, signed in ("bright", 3000, False), ("above its bits", 63536, False), ("signed", -2000, True):
        kind, base = ("<i2", truth.hu) if signed else ("<u2", stored)
        padded = np.where(corner, value, base).astype(kind)
        bits = {"BitsStored": 16, "HighBit": 15} if signed else {}
        told = {
            "PixelPaddingValue": value,
            "PixelRepresentation": int(signed),
            "RescaleIntercept": 0 if signed else -1024,
        }

        def tags(k: int, padded: Any = padded, told: Tags = told | bits) -> Tags:
            return told | {"PixelData": padded[:, :, k].T.tobytes()}

        yield f"DICOM series with {name} padding", encode(tags), air
    own = truth.with_values(truth.hu + 10 * np.arange(len(files)))
    yield "DICOM series with an intercept for each slice", encode(lambda k: {"RescaleIntercept": -1024 + 10 * k}), own
    for name, tag, values in (
        ("acquisitions", "AcquisitionNumber", (1, 2)),
        ("phases", "TemporalPositionIdentifier", (1, 2)),
        ("kinds of images", "ImageType", (["ORIGINAL", "PRIMARY"], ["DERIVED", "SECONDARY"])),
        ("kernels", "ConvolutionKernel", ("soft", "sharp")),
        ("voltages", "KVP", (80, 140)),
        ("times", "AcquisitionTime", ("101500", "103000")),
    ):
        mixed = encode(lambda k, tag=tag, values=values: {tag: values[k % 2]})  # type: ignore[misc]
        yield f"DICOM series of two {name} that lie in each other", mixed, None
        halves = encode(lambda k, tag=tag, values=values: {tag: values[k // 10]})  # type: ignore[misc]
        yield f"DICOM series of two {name}, one after the other", halves, truth
    tilted = encode(lambda k: {"ImagePositionPatient": [-60, -50 + 0.4 * k, 300 + 6 * k]})
    yield "DICOM series shifted sideways, as by no gantry", tilted | {files[9]: encode_slice(truth.hu, 9)}, None
    turned = encode(lambda k: {"ImagePositionPatient": [-60, -50, 300 - 6 * k]})
    downwards = truth.ras_from_ijk.copy()
    downwards[2, 2] = -6.0
    yield "DICOM series from head to feet", turned, truth.placed(downwards)


def _vary_folder(truth: Truth, series: Content) -> Iterator[Kind]:
    """Yield folders in which files are missing, empty, damaged, doubled or of something else."""
    names = list(series)
    bare = {name: data[132:] for name, data in series.items()}
    for where, which in _AT_WHICH_SLICES.items():
        chosen = names[which]
        for what, change in (
            ("empty", lambda data: b""),
            ("cut off at byte 100", lambda data: data[:100]),
            ("zeros", lambda data: bytes(len(data))),
            ("a page of the web", lambda data: b"<html>404 Not Found" + b" " * 200),
            ("half a file", lambda data: data[: len(data) // 2]),
        ):
            yield (
                f"DICOM folder whose {where} of the slices is {what}",
                series | {name: change(series[name]) for name in chosen},
                None,
            )
        for end, change in (".gz", gzip.compress), (".bz2", bz2.compress), (".part", lambda data: data[:100]):
            packed = {name.removesuffix(".dcm"): data for name, data in series.items() if name not in chosen}
            packed |= {name.removesuffix(".dcm") + end: change(series[name]) for name in chosen}
            yield f"DICOM folder whose {where} of the slices is named {end}", packed, None
        content = series | {name: bare[name] for name in chosen}
        yield f"DICOM folder whose {where} of the slices has no preamble", content, truth
    yield "DICOM folder without preambles", bare, truth
    yield "DICOM folder without a slice in its middle", _without(series, "slice07"), None
    yield "DICOM folder without two slices in its middle", _without(series, "slice07", "slice11"), None
    yield "DICOM folder with one slice", {names[0]: series[names[0]]}, None
    yield "DICOM folder with fifteen slices", {name: series[name] for name in names[:15]}, None
    yield "DICOM folder without DICOM", {"series/notes.txt": b"nothing"}, None
    copied = series | {"series/again.dcm": series[names[7]]}
    yield "DICOM folder with a slice twice", copied, truth.with_values(truth.hu, "Copies")
    other = encode_slice(truth.hu + 5, 7)
    yield "DICOM folder with a slice twice, once with other values", series | {"series/again.dcm": other}, None
    yield "DICOM folder with notes", series | {"series/notes.txt": b"nothing", "series/.DS_Store": b"x"}, truth
    report = encode_slice(
        truth.hu, 3, {"SOPClassUID": UID("1.2.840.10008.5.1.4.1.1.88.67"), "SeriesInstanceUID": "1.9"}
    )
    yield "DICOM folder with a dose report", series | {"series/report.dcm": report}, truth
    scout = encode_slice(truth.hu, 3, {"SeriesInstanceUID": "1.2.3.5"})
    yield "DICOM folder with a scout of its own series", series | {"series/scout.dcm": scout}, truth
    sideways = {
        "SOPInstanceUID": "1.2.3.4.99",
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
        "ImageType": ["LOCALIZER"],
    }
    yield (
        "DICOM folder with a scout in the series",
        series | {"series/scout.dcm": encode_slice(truth.hu, 3, sideways)},
        None,
    )
    below = {name.replace("series/", f"series/{n % 3}/"): data for n, (name, data) in enumerate(series.items())}
    yield "DICOM folder with its slices in three folders", below, truth
    second = {
        f"series/b{k:02d}.dcm": encode_slice(truth.hu, k, {"SeriesInstanceUID": "1.2.3.6"}) for k in range(len(names))
    }
    yield "DICOM folder with two series", series | second, None


def _without(series: Content, *stems: str) -> Content:
    return {name: data for name, data in series.items() if not any(stem in name for stem in stems)}


def vary_archives(good: Path, truth: Truth, rng: random.Random) -> Iterator[Kind]:
    """Yield zip archives: whole, damaged, hostile or without a series."""
    series = {path.name: path.read_bytes() for path in sorted(good.glob("slice*.dcm"))}

    def pack(files: Content) -> bytes:
        with tempfile.TemporaryFile() as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
            file.seek(0)
            return file.read()

    whole = pack(series)
    yield "zip with a series", {"bad.zip": whole}, truth
    yield (
        "zip with a series below folders",
        {"bad.zip": pack({f"a/ü b/{name}": series[name] for name in series})},
        truth,
    )
    yield "zip with a series and notes", {"bad.zip": pack(series | {"../notes.txt": b"x", "__MACOSX/._a": b"x"})}, truth
    for n in range(6):
        yield f"zip cut off {n}", {"bad.zip": cut(whole, rng)}, None
    yield "zip of noise", {"bad.zip": rng.randbytes(3000)}, None
    yield "zip with nothing", {"bad.zip": pack({})}, None
    yield "zip with other files", {"bad.zip": pack({"../../evil.txt": b"x", "/etc/evil": b"x", "C:\\evil": b"x"})}, None
    yield "zip with a zip", {"bad.zip": pack({"inner.zip": whole})}, None
    damaged = bytearray(whole)
    damaged[200:230] = rng.randbytes(30)
    yield "zip with damaged data", {"bad.zip": bytes(damaged)}, None
    locked = bytearray(whole)
    for start in range(len(locked) - 4):
        if locked[start : start + 4] == b"PK\x01\x02":
            locked[start + 8] |= 1
    yield "zip with a password", {"bad.zip": bytes(locked)}, None
    bomb = bytearray(pack({f"{n}.dcm": bytes(1 << 20) for n in range(4)}))
    for start in range(len(bomb) - 4):
        if bomb[start : start + 4] == b"PK\x01\x02":
            struct.pack_into("<I", bomb, start + 24, 0xFFFFFFF0)
    yield "zip that says to be 16 GB", {"bad.zip": bytes(bomb)}, None
    yield "zip with 50,001 files", {"bad.zip": pack({f"{n}": b"" for n in range(50_001)})}, None
    yield (
        "zip with a missing slice",
        {"bad.zip": pack({name: series[name] for name in series if "07" not in name})},
        None,
    )
