"""Damaged DICOM series, in folders and in zip archives."""

from __future__ import annotations

import random
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rprloc.io.reading import read_volume
from scripts.robustness.damage import Content, cut
from scripts.robustness.good_files import Words, encode_slice

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


def damage_series(good: Path, rng: random.Random) -> Iterator[tuple[str, Content]]:
    """Yield folders with DICOM series of which a slice or the set of slices is wrong."""
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
        yield f"DICOM slice with {name}", with_slice(encode_slice(hu, 7, tags))


def damage_archives(good: Path, rng: random.Random) -> Iterator[tuple[str, Content]]:
    """Yield zip archives that are damaged, hostile or without a series."""
    series = {path.name: path.read_bytes() for path in sorted(good.glob("slice*.dcm"))}

    def pack(files: Content) -> bytes:
        with tempfile.TemporaryFile() as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
            file.seek(0)
            return file.read()

    whole = pack(series)
    for n in range(6):
        yield f"zip cut off {n}", {"bad.zip": cut(whole, rng)}
    yield "zip of noise", {"bad.zip": rng.randbytes(3000)}
    yield "zip with nothing", {"bad.zip": pack({})}
    yield "zip with other files", {"bad.zip": pack({"../../evil.txt": b"x", "/etc/evil": b"x", "C:\\evil": b"x"})}
    yield "zip with a zip", {"bad.zip": pack({"inner.zip": whole})}
    damaged = bytearray(whole)
    damaged[200:230] = rng.randbytes(30)
    yield "zip with damaged data", {"bad.zip": bytes(damaged)}
    locked = bytearray(whole)
    for start in range(len(locked) - 4):
        if locked[start : start + 4] == b"PK\x01\x02":
            locked[start + 8] |= 1
    yield "zip with a password", {"bad.zip": bytes(locked)}
    bomb = bytearray(pack({f"{n}.dcm": bytes(1 << 20) for n in range(4)}))
    for start in range(len(bomb) - 4):
        if bomb[start : start + 4] == b"PK\x01\x02":
            struct.pack_into("<I", bomb, start + 24, 0xFFFFFFF0)
    yield "zip that says to be 16 GB", {"bad.zip": bytes(bomb)}
    yield "zip with 50,001 files", {"bad.zip": pack({f"{n}": b"" for n in range(50_001)})}
    yield "zip with a missing slice", {"bad.zip": pack({name: series[name] for name in series if "07" not in name})}
