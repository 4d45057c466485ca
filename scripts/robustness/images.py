"""Damaged scans and label maps: NIfTI, NRRD, MetaImage and what is no image."""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.robustness.damage import Content, cut
from scripts.robustness.good_files import IMAGES

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


def damage_images(good: Path, rng: random.Random) -> Iterator[tuple[str, Content]]:
    """Yield scans in all formats, cut off, of noise or with a wrong entry in the header; the first file is the scan."""
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


def damage_labels(good: Path, rng: random.Random) -> Iterator[tuple[str, Content]]:
    """Yield label maps that are cut off, empty, of noise or of another size than the scan."""
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
