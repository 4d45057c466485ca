"""A seeded corpus of malformed input files, and a check that each is refused as it should be.

    python scripts/malformed_inputs.py --out corpus [--seed 0]

Every case is given to the command line in a process of its own making: it must end with exit code 2 and one sentence on
stderr within 10 seconds, without a crash, and leave no file behind. A table of what happened goes to ``corpus.csv``
beside the folder; the exit code is 1 if a case went otherwise.
"""

from __future__ import annotations

import argparse
import csv
import gc
import gzip
import json
import os
import pickle
import random
import select
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

LIMIT_S = 10.0
SHAPE = (30, 24, 20)
Content = dict[str, bytes]  # the case's files by their names
IMAGES = {".nii": 400, ".nii.gz": 0, ".nrrd": 300, ".mha": 350, ".nhdr": 300, ".mhd": 350}
"""Image formats, and within how many bytes their header lies (0: compressed, there is none to edit)."""


@dataclass(frozen=True)
class Case:
    """A command line that must be refused; ``{case}`` and ``{good}`` in it stand for the folders with the files."""

    name: str
    arguments: list[str]


# Good files, from which the bad ones are made


def make_good(folder: Path) -> None:
    """A small scan in every format with its label map, markups, support set, detections and weights."""
    import SimpleITK as sitk
    import torch

    from rprloc.annotation import points_from_labels
    from rprloc.detection import Detections, OrganDetection
    from rprloc.geometry import Grid
    from rprloc.io.markups import write_extreme_points
    from rprloc.io.reading import read_volume
    from rprloc.io.results import save_detections
    from rprloc.localization.localizer import Engine
    from rprloc.localization.support import save_support_set
    from rprloc.model.network import RPRNet, save_model
    from rprloc.volume import to_sitk

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
        (folder / f"slice{n:02d}.dcm").write_bytes(dicom_slice(hu, n))
    torch.manual_seed(0)
    save_model(RPRNet(), folder / "model.pt")
    volume = read_volume(folder / "scan.nii")
    points = points_from_labels(labels, grid, {1: "bone"})
    engine = Engine.load(folder / "model.pt", "cpu")
    save_support_set(folder / "set.json", engine.support_set(volume, points, scan="anna", source="label map"))
    write_extreme_points(folder / "points.mrk.json", points["bone"], "bone")
    organ = OrganDetection("bone", points["bone"], np.zeros(6), 1, ("anna",))
    save_detections(folder / "scan.detections.json", Detections("scan", (organ,), "m", "s"))


def dicom_slice(hu: np.ndarray, k: int, tags: dict[str, Any] | None = None) -> bytes:
    """The file of slice k of a CT series, with other values for ``tags``; None removes one.

    Words where numbers belong are given as :class:`Words`, as pydicom would not write them.
    """
    import io

    from pydicom import config
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, f"1.2.3.4.{k + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.3", "1.2.3.4", "CT"
    data.FrameOfReferenceUID, data.InstanceNumber = "1.2.3.5", k + 1
    data.Columns, data.Rows = hu.shape[:2]
    data.PixelSpacing, data.ImageOrientationPatient = [5, 4], [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [-60, -50, 300 + 6 * k]
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = (hu[:, :, k].T + 1024).astype(np.uint16).tobytes()
    stream = io.BytesIO()
    with config.disable_value_validation():
        for tag, value in (tags or {}).items():
            if value is None:
                delattr(data, tag)
            else:
                setattr(data, tag, "7" * len(value) if isinstance(value, Words) else value)
        data.save_as(stream, enforce_file_format=True)
    written = stream.getvalue()
    for value in (tags or {}).values():
        if isinstance(value, Words):
            written = written.replace(b"7" * len(value), value.encode())
    return written


class Words(str):
    """Text for a DICOM number; an even number of letters, at least six, for they replace as many digits 7."""


# The cases, by what is given


def cases(good: Path, seed: int) -> Iterator[tuple[Case, Content]]:
    """All cases with their files, the same for the same seed."""
    rng = random.Random(seed)
    build = ["support", "build", "--out", "{case}/out/set.json", "--model", "{good}/model.pt", "--device", "cpu"]
    marked = ["--labels", "{good}/labels.nii.gz", "--names", "{good}/names.json"]
    for name, content in image_files(good, rng):
        yield Case(name, [*build, *marked, "--image", "{case}/" + next(iter(content))]), content
    for name, content in label_files(good, rng):
        given = ["--image", "{good}/scan.nii", "--labels", "{case}/bad.nii.gz", "--names", "{good}/names.json"]
        yield Case(name, [*build, *given]), content
    for name, content in dicom_folders(good, rng):
        yield Case(name, [*build, *marked, "--image", "{case}/series"]), content
    for name, content in zip_files(good, rng):
        yield Case(name, [*build, *marked, "--image", "{case}/bad.zip"]), content
    scan = ["--image", "{good}/scan.nii"]
    for name, text in bad_json((good / "points.mrk.json").read_text(encoding="utf-8"), MARKUPS, rng):
        yield (
            Case(f"markups {name}", [*build, *scan, "--markups", "{case}/a.mrk.json", "--name", "a"]),
            {"a.mrk.json": text},
        )
    for name, text in bad_json((good / "names.json").read_text(encoding="utf-8"), NAMES, rng):
        yield (
            Case(f"names {name}", [*build, *scan, "--labels", "{good}/labels.nii.gz", "--names", "{case}/names.json"]),
            {"names.json": text},
        )
    for name, text in bad_json((good / "set.json").read_text(encoding="utf-8"), SUPPORT, rng):
        yield Case(f"support set {name}", ["support", "show", "{case}/set.json"]), {"set.json": text}
    for name, text in bad_json((good / "scan.detections.json").read_text(encoding="utf-8"), DETECTIONS, rng):
        yield (
            Case(f"detections {name}", ["report", "{case}", "--csv", "{case}/out/all.csv"]),
            {"a.detections.json": text},
        )
    for name, content in weights(good, rng):
        locate = ["locate", "{good}/set.json", "{good}/scan.nii", "--out", "{case}/out", "--device", "cpu"]
        yield Case(name, [*locate, "--model", "{case}/model.pt"]), content


def cut(data: bytes, rng: random.Random) -> bytes:
    """Some of the beginning, by all sizes alike on a logarithmic scale."""
    return data[: int(len(data) ** rng.uniform(0.0, 0.999)) - 1]


def image_files(good: Path, rng: random.Random) -> Iterator[tuple[str, Content]]:
    for suffix, header in IMAGES.items():
        name = f"bad{suffix}"
        data = (good / f"scan{suffix}").read_bytes()
        beside = {}
        if suffix in (".nhdr", ".mhd"):
            raw = next(good.glob("scan.raw*"))
            beside = {raw.name: raw.read_bytes()}
            yield f"{suffix} without its data", {name: data}
            yield (
                f"{suffix} with half of its data",
                {name: data, raw.name: beside[raw.name][: len(beside[raw.name]) // 2]},
            )
            for where in ("/etc/passwd", "../scan.raw", "http://localhost/scan.raw", "LIST", "scan%03d.raw 1 20 1"):
                yield f"{suffix} with its data in {where!r}", {name: data.replace(raw.name.encode(), where.encode())}
        for n in range(8):
            # A detached header is as good without its last line's end, so it is cut well before.
            yield f"{suffix} cut off {n}", {name: cut(data[: int(0.85 * len(data))], rng), **beside}
        yield f"{suffix} of noise", {name: rng.randbytes(5000), **beside}
        yield f"{suffix} of zeros", {name: bytes(5000), **beside}
        if header:
            yield f"{suffix} with noise in the header", {name: rng.randbytes(header) + data[header:], **beside}
    nii = (good / "scan.nii").read_bytes()
    for name, offset, form, value in NIFTI_FIELDS:
        changed = bytearray(nii)
        struct.pack_into(form, changed, offset, *(value if isinstance(value, tuple) else (value,)))
        yield f".nii with {name}", {"bad.nii": bytes(changed)}
    packed = bytearray((good / "scan.nii.gz").read_bytes())
    packed[-6] ^= 0xFF
    yield ".nii.gz with a wrong check sum", {"bad.nii.gz": bytes(packed)}
    yield ".nii.gz packed twice", {"bad.nii.gz": gzip.compress((good / "scan.nii.gz").read_bytes())}
    for suffix, edits in (".nrrd", NRRD_EDITS), (".mha", META_EDITS):
        data = (good / f"scan{suffix}").read_bytes()
        for old, new in edits:
            if old not in data:
                raise SystemExit(f"{old!r} is not in the header of {suffix}")
            label = f"{suffix} with {new.decode('latin-1', 'replace').strip()!r} for {old.decode().strip()!r}"
            yield label, {f"bad{suffix}": data.replace(old, new, 1)}
    for name in ("bad", "bad.png", "bad.txt", "bad.dcm"):
        yield f"{name} that is no image", {name: b"no image at all\n" * 50}


NIFTI_FIELDS: list[tuple[str, int, str, Any]] = [
    ("a negative size", 42, "<h", -30),
    ("a size of 0", 44, "<h", 0),
    ("huge sizes", 42, "<3h", (32767, 32767, 32767)),
    ("0 axes", 40, "<h", 0),
    ("7 axes", 40, "<8h", (7, 30, 24, 20, 2, 2, 2, 2)),
    ("32767 axes", 40, "<h", 32767),
    ("negative axes", 40, "<h", -3),
    ("two volumes", 40, "<5h", (4, 30, 24, 10, 2)),
    ("one slice", 40, "<4h", (2, 30, 24, 1)),
    ("few slices", 46, "<h", 5),
    ("an unknown type", 70, "<h", 12345),
    ("type 0", 70, "<h", 0),
    ("colours", 70, "<2h", (128, 24)),
    ("complex numbers", 70, "<2h", (32, 64)),
    ("data far behind its end", 108, "<f", 1e9),
    ("a NaN offset of its data and none", 108, "<f", 3e7),
    ("NaN in the sform", 280, "<f", float("nan")),
    ("infinity in the sform", 292, "<f", float("inf")),
    ("a sform of zeros", 280, "<12f", (0.0,) * 12),
    ("a sheared sform", 284, "<f", 3.0),
    ("a huge sform", 280, "<f", 1e30),
    ("a sform unlike its qform", 292, "<f", 200.0),
    ("neither sform nor qform", 252, "<2h", (0, 0)),
    ("another header size", 0, "<i", 540),
    ("another magic", 344, "<4s", b"ni1\0"),
    ("voxel sizes unlike its sform", 80, "<3f", (1.0, 1.0, 1.0)),
    ("voxels of a micrometre", 123, "<b", 3),
]

NRRD_EDITS = [
    (b"sizes: 30 24 20", b"sizes: 30 24 -20"),
    (b"sizes: 30 24 20", b"sizes: 30 24"),
    (b"sizes: 30 24 20", b"sizes: 30 24 2000000000"),
    (b"sizes: 30 24 20", b"sizes: 30 24 x"),
    (b"sizes: 30 24 20", b"sizes: 3 24 200"),
    (b"dimension: 3", b"dimension: 0"),
    (b"dimension: 3", b"dimension: 2"),
    (b"dimension: 3", b"dimension: 300"),
    (b"type: short", b"type: block"),
    (b"type: short", b"type: double"),
    (b"type: short", b"kind: short"),
    (b"encoding: raw", b"encoding: hex"),
    (b"encoding: raw", b"encoding: none"),
    (b"space directions:", b"space origins:"),
    (b"space directions: (", b"space directions: (0*"),
    (b"space directions: (-4,0,0)", b"space directions: (nan,0,0)"),
    (b"space directions: (-4,0,0)", b"space directions: (0,0,0)"),
    (b"space directions: (-4,0,0)", b"space directions: none"),
    (b"space directions: (-4,0,0)", b"space directions: (-4,4,0)"),
    (b"NRRD000", b"NRRX000"),
]

META_EDITS = [
    (b"NDims = 3", b"NDims = 9999"),
    (b"NDims = 3", b"NDims = -3"),
    (b"NDims = 3", b"NDims = 2"),
    (b"NDims = 3", b"NDims = three"),
    (b"DimSize = 30 24 20", b"DimSize = 30 24 -20"),
    (b"DimSize = 30 24 20", b"DimSize = 30 24 0"),
    (b"DimSize = 30 24 20", b"DimSize = 30 24"),
    (b"DimSize = 30 24 20", b"DimSize = 30 24 2000000000"),
    (b"DimSize = 30 24 20", b"DimSize = 30 24 x"),
    (b"DimSize = 30 24 20", b"DimSize = 3 24 200"),
    (b"ElementType = MET_SHORT", b"ElementType = MET_DOUBLE"),
    (b"ElementType = MET_SHORT", b"ElementType = MET_NOTHING"),
    (b"ElementType = MET_SHORT", b"ElementNumberOfChannels = 3\nElementType = MET_UCHAR"),
    (b"ElementSpacing = 4 5 6", b"ElementSpacing = 0 5 6"),
    (b"ElementSpacing = 4 5 6", b"ElementSpacing = nan 5 6"),
    (b"ElementSpacing = 4 5 6", b"ElementSpacing = 0.01 5 6"),
    (b"TransformMatrix = ", b"TransformMatrix = 0 0 0 0 0 0 0 0 0 #"),
    (b"CompressedData = False", b"CompressedData = True"),
    (b"ElementDataFile = LOCAL", b"ElementDataFile = /dev/zero"),
    (b"ElementDataFile = LOCAL", b"ElementDataFile = ../../../../etc/passwd"),
]


def label_files(good: Path, rng: random.Random) -> Iterator[tuple[str, Content]]:
    labels = (good / "labels.nii.gz").read_bytes()
    for n in range(6):
        yield f"labels cut off {n}", {"bad.nii.gz": cut(labels, rng)}
    unpacked = bytearray(gzip.decompress(labels))
    struct.pack_into("<h", unpacked, 42, 29)
    yield "labels of another size", {"bad.nii.gz": bytes(unpacked)}
    unpacked[352:] = bytes(len(unpacked) - 352)
    struct.pack_into("<h", unpacked, 42, 30)
    yield "labels without a label", {"bad.nii.gz": bytes(unpacked)}
    yield "labels of noise", {"bad.nii.gz": rng.randbytes(900)}


def dicom_folders(good: Path, rng: random.Random) -> Iterator[tuple[str, Content]]:
    from rprloc.io.reading import read_volume

    hu = read_volume(good / "scan.nii").hu
    series = {f"series/{path.name}": path.read_bytes() for path in sorted(good.glob("slice*.dcm"))}

    def with_slice(data: bytes) -> Content:
        return series | {"series/slice07.dcm": data}

    for n in range(14):
        yield f"DICOM slice cut off {n}", with_slice(series["series/slice07.dcm"][: rng.randrange(140, 1900)])
    for n in range(6):
        noisy = bytearray(series["series/slice07.dcm"])
        start = rng.randrange(132, 500)
        noisy[start : start + 60] = rng.randbytes(60)
        yield f"DICOM slice with noise in its header {n}", with_slice(bytes(noisy))
    yield (
        "DICOM folder without a slice in its middle",
        {name: data for name, data in series.items() if "07" not in name},
    )
    yield "DICOM folder with one slice", dict(list(series.items())[:1])
    yield "DICOM folder without DICOM", {"series/notes.txt": b"nothing"}
    yield "DICOM folder with a slice twice", series | {"series/again.dcm": series["series/slice07.dcm"]}
    for name, tags in DICOM_TAGS.items():
        yield f"DICOM slice with {name}", with_slice(dicom_slice(hu, 7, tags))


DICOM_TAGS: dict[str, dict[str, Any]] = {
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
}


def zip_files(good: Path, rng: random.Random) -> Iterator[tuple[str, Content]]:
    series = {path.name: path.read_bytes() for path in sorted(good.glob("slice*.dcm"))}

    def packed(files: Content) -> bytes:
        with tempfile.TemporaryFile() as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
            file.seek(0)
            return file.read()

    whole = packed(series)
    for n in range(6):
        yield f"zip cut off {n}", {"bad.zip": cut(whole, rng)}
    yield "zip of noise", {"bad.zip": rng.randbytes(3000)}
    yield "zip with nothing", {"bad.zip": packed({})}
    yield "zip with other files", {"bad.zip": packed({"../../evil.txt": b"x", "/etc/evil": b"x", "C:\\evil": b"x"})}
    yield "zip with a zip", {"bad.zip": packed({"inner.zip": whole})}
    damaged = bytearray(whole)
    damaged[200:230] = rng.randbytes(30)
    yield "zip with damaged data", {"bad.zip": bytes(damaged)}
    locked = bytearray(whole)
    for start in range(len(locked) - 4):
        if locked[start : start + 4] == b"PK\x01\x02":
            locked[start + 8] |= 1
    yield "zip with a password", {"bad.zip": bytes(locked)}
    bomb = bytearray(packed({f"{n}.dcm": bytes(1 << 20) for n in range(4)}))
    for start in range(len(bomb) - 4):
        if bomb[start : start + 4] == b"PK\x01\x02":
            struct.pack_into("<I", bomb, start + 24, 0xFFFFFFF0)
    yield "zip that says to be 16 GB", {"bad.zip": bytes(bomb)}
    yield "zip with 50,001 files", {"bad.zip": packed({f"{n}": b"" for n in range(50_001)})}
    yield "zip with a missing slice", {"bad.zip": packed({name: series[name] for name in series if "07" not in name})}


Edit = tuple[str, Callable[[Any], Any]]


def put(*keys: Any, value: Any) -> Callable[[Any], Any]:
    """An edit that sets the value below a chain of keys."""

    def change(content: Any) -> Any:
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return content

    return change


def without(*keys: Any) -> Callable[[Any], Any]:
    """An edit that removes what is below a chain of keys."""

    def change(content: Any) -> Any:
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        return content

    return change


_FIRST = ("markups", 0)
_POINT = (*_FIRST, "controlPoints", 0)
MARKUPS: list[Edit] = [
    ("without markups", without("markups")),
    ("with empty markups", put("markups", value=[])),
    ("with markups in words", put("markups", value="points")),
    ("of another schema", put("@schema", value="markups-schema-v9.0.0.json#")),
    ("that is a line", put(*_FIRST, "type", value="Line")),
    ("twice", lambda content: content | {"markups": content["markups"] * 2}),
    ("without points", put(*_FIRST, "controlPoints", value=[])),
    ("with points in words", put(*_FIRST, "controlPoints", value="six")),
    ("with five points", without(*_POINT)),
    ("with a point that is not set", put(*_POINT, "positionStatus", value="undefined")),
    ("with a point without a position", without(*_POINT, "position")),
    ("with a point of two numbers", put(*_POINT, "position", value=[1, 2])),
    ("with a NaN", put(*_POINT, "position", value=[float("nan"), 0, 0])),
    ("with infinity", put(*_POINT, "position", value=[float("inf"), 0, 0])),
    ("with huge numbers", put(*_POINT, "position", value=[1e300, 0, 0])),
    ("with a number of 400 digits", put(*_POINT, "position", value=[10**400, 0, 0])),
    ("with truth values", put(*_POINT, "position", value=[True, 0, 0])),
    ("with a position in words", put(*_POINT, "position", value="left")),
    ("in an unknown frame", put(*_FIRST, "coordinateSystem", value="XYZ")),
    ("with a point outside of the scan", put(*_POINT, "position", value=[500, 0, 0])),
    ("in inches", put(*_FIRST, "coordinateUnits", value="in")),
    ("that is an ROI without a size", put(*_FIRST, "type", value="ROI")),
    ("with a point that is a number", put(*_POINT, value=5)),
]
NAMES: list[Edit] = [
    ("that are a list", lambda content: ["bone"]),
    ("that are a number", lambda content: 5),
    ("that are nothing", lambda content: None),
    ("that are empty", lambda content: {}),
    ("for label 0", lambda content: {"0": "bone"}),
    ("for label -1", lambda content: {"-1": "bone"}),
    ("for a label in words", lambda content: {"one": "bone"}),
    ("that are numbers", lambda content: {"1": 5}),
    ("that are blank", lambda content: {"1": "  "}),
    ("that are lists", lambda content: {"1": ["bone"]}),
    ("for a label that is not there", lambda content: {"7": "bone"}),
    ("for a label of 400 digits", lambda content: {"9" * 400: "bone"}),
    ("twice", lambda content: {"1": "bone", "2": "bone"}),
]
_ORGAN = ("supports", 0, "organs", "bone")
SUPPORT: list[Edit] = [
    ("without supports", without("supports")),
    ("with empty supports", put("supports", value=[])),
    ("of another format", put("format", value="other")),
    ("of a newer version", put("version", value=99)),
    ("of a version in words", put("version", value="new")),
    ("without a model", without("model_id")),
    ("with a model that is a number", put("model_id", value=5)),
    ("without organs", put("supports", 0, "organs", value={})),
    ("with organs in a list", put("supports", 0, "organs", value=[])),
    ("with five points", without(*_ORGAN, "extreme_points_ras_mm", 0)),
    ("with a point of two numbers", put(*_ORGAN, "extreme_points_ras_mm", 0, value=[1, 2])),
    ("with a NaN", put(*_ORGAN, "extreme_points_ras_mm", 0, value=[float("nan"), 0, 0])),
    ("with crossed points", put(*_ORGAN, "extreme_points_ras_mm", 0, value=[900, 0, 0])),
    ("with an infinite error", put(*_ORGAN, "self_error_ras_mm", 0, value=[float("inf"), 0, 0])),
    ("without latents", without(*_ORGAN, "latents")),
    ("with latents of another type", put(*_ORGAN, "latents", "dtype", value="|O")),
    ("with latents of another shape", put(*_ORGAN, "latents", "shape", value=[3, 3])),
    ("with latents of a negative shape", put(*_ORGAN, "latents", "shape", value=[-1, -1])),
    ("with latents of a huge shape", put(*_ORGAN, "latents", "shape", value=[2**62, 2**62])),
    ("with latents that are no base64", put(*_ORGAN, "latents", "base64", value="!!!")),
    ("with half of its latents", put(*_ORGAN, "latents", "base64", value="AAAA")),
    ("with more context than latents", put(*_ORGAN, "context_ras_mm", "shape", value=[1, 3])),
]
_DETECTED = ("organs", 0)
DETECTIONS: list[Edit] = [
    ("without organs", without("organs")),
    ("with organs in words", put("organs", value="bone")),
    ("of another format", put("format", value="other")),
    ("of a newer version", put("version", value=99)),
    ("with a box unlike its points", put(*_DETECTED, "box", "min_ras_mm", value=[0, 0, 0])),
    ("with a NaN", put(*_DETECTED, "extreme_points", 0, "ras_mm", value=[float("nan"), 0, 0])),
    ("with a number of 400 digits", put(*_DETECTED, "extreme_points", 0, "ras_mm", value=[10**400, 0, 0])),
    ("with five points", without(*_DETECTED, "extreme_points", 0)),
    ("without a query", without("query")),
    ("with warnings in words", put("warnings", value="many")),
]


def bad_json(text: str, edits: list[Edit], rng: random.Random) -> Iterator[tuple[str, bytes]]:
    for n in range(5):
        yield f"cut off {n}", cut(text.rstrip().encode(), rng)
    yield "of noise", rng.randbytes(2000)
    yield "in another encoding", text.replace("a", "ä").encode("utf-16")
    yield "nested 100,000 times", b"[" * 100_000
    yield "with a nested object 50,000 deep", b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    yield "of nothing", b""
    for name, change in edits:
        yield name, json.dumps(change(json.loads(text))).encode()


class Evil:
    """What would run a command if it were unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def weights(good: Path, rng: random.Random) -> Iterator[tuple[str, Content]]:
    import io

    import torch

    data = (good / "model.pt").read_bytes()
    for n in range(5):
        yield f"weights cut off {n}", {"model.pt": cut(data, rng)}
    yield "weights of noise", {"model.pt": rng.randbytes(3000)}
    yield "weights that are a pickle with a command", {"model.pt": pickle.dumps(Evil("{case}/out/evil"))}
    for name, content in (
        ("with a command", {"coarse.trunk.0.weight": Evil("evil")}),
        ("that are a list", [1, 2]),
        ("of another model", {"weight": torch.zeros(3)}),
        ("that are text", {"coarse.trunk.0.weight": "text"}),
    ):
        stream = io.BytesIO()
        torch.save(content, stream)
        yield f"weights {name}", {"model.pt": stream.getvalue()}


# Making and checking


def make(folder: Path, seed: int) -> list[Case]:
    """Write the corpus to a new folder; returns its cases."""
    good = folder / "good"
    make_good(good)
    made = []
    for number, (case, content) in enumerate(cases(good, seed)):
        home = folder / f"{number:03d}"
        for name, data in content.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(data)
        (home / "out").mkdir(parents=True, exist_ok=True)
        made.append(case)
    text = json.dumps([asdict(case) for case in made], indent=1)
    (folder / "cases.json").write_text(text, encoding="utf-8")
    return made


def leftovers() -> list[Path]:
    """What reading left in the temporary folder."""
    return list(Path(tempfile.gettempdir()).glob("rprloc-*"))


def run(folder: Path, first: int) -> None:
    """Give the cases from ``first`` on to the command line; a JSON line for each when it begins and when it ends."""
    from typer.testing import CliRunner

    from rprloc.apps.cli import app

    for number, case in enumerate(json.loads((folder / "cases.json").read_text(encoding="utf-8"))):
        if number < first:
            continue
        home = folder / f"{number:03d}"
        arguments = [part.format(case=home, good=folder / "good") for part in case["arguments"]]
        print(json.dumps({"number": number}), flush=True)
        started = time.perf_counter()
        done = CliRunner().invoke(app, arguments)
        seconds, error = time.perf_counter() - started, done.exception
        raised = None if error is None or isinstance(error, SystemExit) else f"raised {type(error).__name__}: {error}"
        lines, said, exit_code = done.stderr.splitlines(), done.stderr.strip(), done.exit_code
        del done, error
        if leftovers():
            gc.collect()  # what the error still refers to
        if raised is not None:
            outcome = raised
        elif exit_code != 2:
            outcome = f"exit code {exit_code}"
        elif len(lines) != 1 or not lines[0].startswith("Error: ") or not lines[0].endswith("."):
            outcome = f"said {said!r}"
        elif list((home / "out").iterdir()):
            outcome = f"left {[path.name for path in (home / 'out').iterdir()]}"
        elif leftovers():
            outcome = "left a temporary folder"
        else:
            outcome = "refused"
        print(
            json.dumps({"number": number, "seconds": seconds, "outcome": outcome, "said": said}),
            flush=True,
        )


def check(folder: Path) -> list[dict[str, Any]]:
    """What happened to each case: ``refused``, or what went wrong."""
    known = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    results: dict[int, dict[str, Any]] = {}
    temporary = folder / "temporary"
    temporary.mkdir()
    while len(results) < len(known):
        first = len(results)
        command = [sys.executable, __file__, "--run", str(first), "--out", str(folder)]
        environment = os.environ | {"TMPDIR": str(temporary)}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        assert process.stdout is not None
        running, limit_s = first, 120.0  # the first line comes after the imports
        while True:
            ready, _, _ = select.select([process.stdout], [], [], limit_s)
            line = process.stdout.readline() if ready else ""
            try:
                record = json.loads(line)
            except ValueError:
                if line and ready:
                    continue  # what a library printed
                how = "took too long" if not ready else f"crashed the process ({process.poll()})"
                process.kill()
                process.wait()
                how = how if not ready else f"crashed the process ({process.returncode})"
                if len(results) < len(known):
                    results[running] = {"number": running, "seconds": limit_s, "outcome": how, "said": ""}
                break
            running, limit_s = record["number"], LIMIT_S
            if "outcome" in record:
                results[running] = record
                if len(results) == len(known):
                    process.wait()
                    break
        process.stdout.close()
    return [results[number] | {"name": known[number]["name"]} for number in range(len(known))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the corpus")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        run(arguments.out, arguments.run)
        return
    if arguments.out.exists():
        raise SystemExit(f"{arguments.out} exists; name a new folder")
    make(arguments.out, arguments.seed)
    results = check(arguments.out)
    table = arguments.out.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["number", "name", "outcome", "seconds", "said"])
        writer.writeheader()
        writer.writerows(results)
    bad = [result for result in results if result["outcome"] != "refused"]
    slowest = max(result["seconds"] for result in results)
    print(f"{len(results)} cases, {len(results) - len(bad)} refused as they should, slowest {slowest:.1f} s; {table}")
    for result in bad:
        print(f"  {result['number']:03d} {result['name']}: {result['outcome']}")
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
