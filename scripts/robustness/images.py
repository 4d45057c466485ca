"""Scans and label maps of every format that are cut off, of noise, a bomb, or no image at all."""

from __future__ import annotations

import bz2
import gzip
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from scripts.robustness.damage import Kind, Truth, cut
from scripts.robustness.good_files import IMAGES

_ELSEWHERE = (
    *("/etc/passwd", "/dev/zero", "../scan.raw", "../../good/scan.raw", "a/../../good/scan.raw", "C:\\scan.raw"),
    *("http://localhost/scan.raw", "LIST", "list", "scan%03d.raw 1 20 1", ".", "", " "),
)


def vary_images(good: Path, truth: Truth, rng: random.Random) -> Iterator[Kind]:
    """Yield scans in all formats, whole, cut off, of noise, or with data elsewhere; the first file is the scan."""
    for suffix, header in IMAGES.items():
        name = f"bad{suffix}"
        data = (good / f"scan{suffix}").read_bytes()
        beside = {}
        if suffix in (".nhdr", ".mhd"):
            raw = next(good.glob("scan.raw*"))
            beside = {raw.name: raw.read_bytes()}
            half = beside[raw.name][: len(beside[raw.name]) // 2]
            yield f"{suffix} without its data", {name: data}, None
            yield f"{suffix} with half of its data", {name: data, raw.name: half}, None
            for where in (*_ELSEWHERE, str((good / raw.name).resolve())):
                content = {name: data.replace(raw.name.encode(), where.encode())}
                yield f"{suffix} with its data in {where[:12]!r}", content, None
        yield f"{suffix} as it is", {name: data, **beside}, truth
        for n in range(8):
            # A detached header is as good without its last line's end, so it is cut well before.
            yield f"{suffix} cut off {n}", {name: cut(data[: int(0.85 * len(data))], rng), **beside}, None
        yield f"{suffix} of noise", {name: rng.randbytes(5000), **beside}, None
        yield f"{suffix} of zeros", {name: bytes(5000), **beside}, None
        if header:
            noise = rng.randbytes(header) + data[header:]
            yield f"{suffix} with noise in the header", {name: noise, **beside}, None
    for name in ("bad", "bad.png", "bad.txt", "bad.dcm"):
        yield f"{name} that is no image", {name: b"no image at all\n" * 50}, None
    yield from _bombs()


def _bombs() -> Iterator[Kind]:
    """Yield small files that unpack to many gigabytes, as they say or against what they say."""
    zeros, edge = bytes(1 << 20), 2000
    said = f"NRRD0004\ntype: short\ndimension: 3\nspace: RAS\nsizes: {edge} {edge} {edge}\nendian: little\n"
    said += "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
    packed = {"gzip": gzip.compress(zeros, 9) * 16_000, "bzip2": bz2.compress(zeros * 100) * 160}  # 16 GB of zeros
    for encoding, data in packed.items():
        yield (
            f".nrrd that unpacks from {encoding} to 16 GB",
            {"bad.nrrd": f"{said}encoding: {encoding}\n\n".encode() + data},
            None,
        )
    small = said.replace(f"{edge} {edge} {edge}", "100 100 100")
    for encoding, data in packed.items():
        content = {"bad.nrrd": f"{small}encoding: {encoding}\n\n".encode() + data}
        yield f".nrrd that says 2 MB and unpacks from {encoding} to 16 GB", content, None
    more = b"NRRD" + b"x: y\n" * (1 << 22)
    yield ".nrrd whose header does not end", {"bad.nrrd": more.replace(b"NRRD", b"NRRD0004\n", 1)}, None
    yield ".mha whose header does not end", {"bad.mha": b"ObjectType = Image\n" + b"Comment = y\n" * (1 << 20)}, None
    meta = (
        f"ObjectType = Image\nNDims = 3\nDimSize = {edge} {edge} {edge}\nElementType = MET_SHORT\nBinaryData = True\n"
    )
    meta += (
        "BinaryDataByteOrderMSB = False\nCompressedData = True\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
    )
    meta += "ElementSpacing = 1 1 1\nElementDataFile = LOCAL\n"
    stream = zlib.compressobj(9)
    deflated = b"".join(stream.compress(zeros) for _ in range(300)) + stream.flush()  # 0.3 GB, so that it is soon made
    yield ".mha that says 16 GB and has 0.3", {"bad.mha": meta.encode() + deflated}, None
    yield (
        ".mha that says 2 MB and unpacks to 0.3 GB",
        {"bad.mha": meta.replace("2000 2000 2000", "100 100 100").encode() + deflated},
        None,
    )


def vary_labels(good: Path, rng: random.Random) -> Iterator[Kind]:
    """Yield label maps that are cut off, empty, of noise or of another size than the scan."""
    labels = (good / "labels.nii.gz").read_bytes()
    for n in range(6):
        yield f"labels cut off {n}", {"bad.nii.gz": cut(labels, rng)}, None
    unpacked = bytearray(gzip.decompress(labels))
    struct.pack_into("<h", unpacked, 42, 29)
    yield "labels of another size", {"bad.nii.gz": bytes(unpacked)}, None
    unpacked[352:] = bytes(len(unpacked) - 352)
    struct.pack_into("<h", unpacked, 42, 30)
    yield "labels without a label", {"bad.nii.gz": bytes(unpacked)}, None
    yield "labels of noise", {"bad.nii.gz": rng.randbytes(900)}, None
