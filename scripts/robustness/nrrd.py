"""NRRD files whose header holds other values, field by field."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from scripts.robustness.damage import Content, Fields, Kind, Outcome, Truth, right_of, vary_fields

_HUGE = "99999999999999999999"


def _moved(*diagonal: float) -> Callable[[Truth], Truth]:
    """The truth where a header names another space: x, y, z of RAS times these, about the origin."""
    return lambda truth: truth.placed(np.diag([*diagonal, 1.0]) @ truth.ras_from_ijk)


# A value (None: no such field), and whether the file is then the same scan (True), another one, or refused (False).
_VALUES: dict[str, list[tuple[str | None, Outcome]]] = {
    "type": [
        *((name, True) for name in ("signed short", "short int", "signed short int", "int16", "int16_t", "SHORT")),
        *((name, lambda truth: truth.with_values(truth.hu.view("u2"))) for name in ("ushort", "uint16_t")),
        *((name, False) for name in ("block", "int", "double", "float", "int128", "shorts", "", None)),
    ],
    "dimension": [(text, False) for text in ("0", "-3", "1", "2", "4", "16", "300", _HUGE, "3.0", "three", "", None)],
    "sizes": [
        ("+30 24 20", True),
        *((text, False) for text in ("30 24 -20", "30 24 0", "30 24", "30 24 20 1", "30 24 2000000000", "30 24 x")),
        *((text, False) for text in ("3 24 200", "30 24 19", "30 24 21", "30,24,20", "30.0 24.0 20.0", "nan 24 20")),
        *((text, False) for text in (f"{_HUGE} 24 20", "4294967326 24 20", "1 1 14400", "14400 1 1", "", None)),
    ],
    "space": [
        ("LPS", True),
        ("Left-Posterior-Superior", True),
        ("right-anterior-superior", _moved(-1, -1, 1)),
        ("RAS", _moved(-1, -1, 1)),
        ("left-anterior-superior", _moved(1, -1, 1)),
        ("las", _moved(1, -1, 1)),
        *((text, False) for text in ("scanner-xyz", "3D-right-handed", "3D-left-handed", "scanner-xyz-time", "RPI")),
        *((text, False) for text in ("left-posterior-superior-time", "LPST", "right-posterior-superior", "", None)),
    ],
    "space dimension": [("3", True), *((text, False) for text in ("2", "4", "0", "-1", "x", _HUGE))],
    "space directions": [
        ("( -4 , 0 , 0 ) ( 0 , 5 , 0 ) ( 0 , 0 , 6 )", True),
        ("(-4e0,0,0) (0,5.0,0) (0,0,+6)", True),
        ("(0,5,0) (-4,0,0) (0,0,6)", lambda truth: truth.placed(truth.ras_from_ijk[:, [1, 0, 2, 3]])),
        *(
            (text, False)
            for text in (
                "(0,0,0) (0,5,0) (0,0,6)",
                "(nan,0,0) (0,5,0) (0,0,6)",
                "(inf,0,0) (0,5,0) (0,0,6)",
                "(-4,4,0) (0,5,0) (0,0,6)",
                "(-4,0,0) (-4,0,0) (0,0,6)",
                "(1e300,0,0) (0,5,0) (0,0,6)",
                "(1e-300,0,0) (0,5,0) (0,0,6)",
                "(-4000,0,0) (0,5,0) (0,0,6)",
                "(-0.004,0,0) (0,5,0) (0,0,6)",
                "none (0,5,0) (0,0,6)",
                "none none none",
                "(-4,0,0) (0,5,0)",
                "(-4,0,0) (0,5,0) (0,0,6) none",
                "(-4,0) (0,5) (0,6)",
                "(-4,0,0,0) (0,5,0,0) (0,0,6,0)",
                "(-4,0,0) (0,5,0) (0,0,6",
                "-4,0,0 0,5,0 0,0,6",
                "(-4;0;0) (0;5;0) (0;0;6)",
                "(x,0,0) (0,5,0) (0,0,6)",
                "",
            )
        ),
        (None, False),
    ],
    "space origin": [
        ("( 60 , -40 , -300 )", True),
        *(
            (text, False)
            for text in ("(nan,-40,-300)", "(60,inf,-300)", "(1e9,-40,-300)", "(60,-40)", "(60,-40,-300,0)")
        ),
        *((text, False) for text in ("60,-40,-300", "none", "(a,b,c)", "()", "", None)),
    ],
    "space units": [
        *((text, True) for text in ('"mm" "mm" "mm"', '"MM" "mm" "millimeters"', '"" "" ""', '"???" "???" "???"')),
        ('"cm" "cm" "cm"', lambda truth: truth.placed(np.diag([10.0, 10, 10, 1]) @ truth.ras_from_ijk, "measure")),
        *((text, False) for text in ('"m" "m" "m"', '"um" "um" "um"', '"mm" "mm" "cm"', '"inch" "inch" "inch"')),
    ],
    "spacings": [
        *((text, True) for text in ("4 5 6", "nan nan nan", "4.0001 5 6")),
        *((text, False) for text in ("1 1 1", "-4 5 6", "4 5 7", "0 5 6", "inf 5 6", "a b c")),
    ],
    "encoding": [
        ("RAW", True),
        *((text, False) for text in ("hex", "none", "gzip", "bzip2", "ascii", "zip", "", None)),
    ],
    "endian": [("LITTLE", True), *((text, False) for text in ("middle", "", None))],
    "byte skip": [("0", True), ("-1", True), *((text, False) for text in ("1", "-2", "x", _HUGE, "28800"))],
    "line skip": [("0", True), *((text, False) for text in ("-1", "x", _HUGE, "100000"))],
    "old min": [(text, False) for text in ("0", "-1024", "nan")],
    "oldmax": [(text, False) for text in ("1", "3071")],
    "kinds": [(text, True) for text in ("domain domain domain", "space space space", "??? ??? ???")],
    "centers": [(text, True) for text in ("cell cell cell", "node node node")],
    "measurement frame": [("(1,0,0) (0,1,0) (0,0,1)", True), ("(0,1,0) (1,0,0) (0,0,1)", True)],
    **{
        name: [(text, True) for text in ("0", "x")]
        for name in ("content", "min", "max", "number", "sample units", "thicknesses", "labels", "a field of nobody")
    },
}
_LINES: list[tuple[bytes, Outcome]] = [
    (b"# a comment: of any kind", True),
    (b"key:=value", True),
    (b"space:=right-anterior-superior", True),
    (b"key:=\xff\xfe", True),
    (b"type: short", True),
    (b"type: ushort", False),
    (b"space: right-anterior-superior", False),
    (b"space origin: (0,0,0)", False),
    (b"a line of nothing", False),
    (b"\0\0\0", False),
    (b"x" * (1 << 16), False),
]
_MAGIC: list[tuple[bytes, Outcome]] = [
    *((b"NRRD000%d" % n, True) for n in range(1, 10)),
    *((text, False) for text in (b"NRRD0000", b"NRRX0004", b"nrrd0004", b"NRRD00004", b"NRRD", b"", b"\0" * 8)),
]


def vary_nrrd(truth: Truth) -> Iterator[Kind]:
    """Yield NRRD files, each with a value that is at a limit or otherwise not the usual one."""
    data = truth.hu.tobytes(order="F")
    usual = _usual_fields(truth)
    for field, text, fields, outcome in vary_fields(usual, _VALUES):
        what = f"{field}: {text[:40]}" if text is not None else f"no {field}"
        yield f".nrrd with {what}", {"bad.nrrd": encode(fields, data)}, right_of(truth, outcome)
    plain = encode(usual, data)
    for line, outcome in _LINES:
        changed = plain.replace(b"sizes:", line + b"\nsizes:", 1)
        yield f".nrrd with the line {line[:40]!r}", {"bad.nrrd": changed}, right_of(truth, outcome)
    for magic, outcome in _MAGIC:
        yield f".nrrd that begins with {magic!r}", {"bad.nrrd": magic + plain[8:]}, right_of(truth, outcome)
    yield from _vary_encodings(truth, usual)


def encode(fields: Fields, data: bytes) -> bytes:
    """A NRRD file."""
    lines = ["NRRD0004", *(f"{name}: {text}" for name, text in fields.items()), "", ""]
    return "\n".join(lines).encode("utf-8", "surrogateescape") + data


def _usual_fields(truth: Truth) -> Fields:
    lps = np.diag([-1.0, -1, 1, 1]) @ truth.ras_from_ijk
    texts = [f"({','.join(f'{part:.10g}' for part in column[:3])})" for column in lps.T]
    return {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, truth.hu.shape)),
        "space directions": " ".join(texts[:3]),
        "endian": "little",
        "encoding": "raw",
        "space origin": texts[3],
    }


def _vary_encodings(truth: Truth, usual: Fields) -> Iterator[Kind]:
    """Yield encodings, types and byte orders, whole and damaged, in one file and in two."""
    raw, big = truth.hu.tobytes(order="F"), truth.hu.astype(">i2").tobytes(order="F")
    text = " ".join(map(str, truth.hu.ravel(order="F"))).encode()
    packed = {
        "gzip": gzip.compress(raw),
        "gz": gzip.compress(raw),
        "bzip2": bz2.compress(raw),
        "bz2": bz2.compress(raw),
    }
    written = {"raw": raw, **packed, **dict.fromkeys(("ascii", "text", "txt"), text)}
    for encoding, data in written.items():
        fields = usual | {"encoding": encoding}
        yield f".nrrd in {encoding}", {"bad.nrrd": encode(fields, data)}, truth
        detached = encode(fields | {"data file": "voxels"}, b"")
        yield f".nhdr in {encoding}", {"bad.nhdr": detached, "voxels": data}, truth
        yield f".nrrd in {encoding} without its end", {"bad.nrrd": encode(fields, data[: int(0.9 * len(data))])}, None
        if encoding != "raw":
            broken = bytearray(data)
            broken[len(data) // 2] ^= 0x40
            yield f".nrrd in {encoding} with a wrong bit", {"bad.nrrd": encode(fields, bytes(broken))}, None
        if encoding in packed:
            skipped = fields | {"byte skip": "4"}
            yield f".nrrd in {encoding} with byte skip", {"bad.nrrd": encode(skipped, b"1234" + data)}, None
            inside = gzip.compress(b"1234" + raw) if encoding in ("gz", "gzip") else bz2.compress(b"1234" + raw)
            yield f".nrrd in {encoding} with byte skip inside", {"bad.nrrd": encode(skipped, inside)}, None
    for bad, where in (text[:-3] + b"1e9", "a number that is too large"), (text + b" 7", "a number too many"):
        yield f".nrrd in text with {where}", {"bad.nrrd": encode(usual | {"encoding": "text"}, bad)}, None
    yield ".nrrd with the other byte order", {"bad.nrrd": encode(usual | {"endian": "big"}, big)}, truth
    for kind, name in ("i4", "int"), ("i8", "long long int"), ("f4", "float"), ("f8", "double"):
        stored: Any = truth.hu.astype(kind)
        yield f".nrrd of {name}", {"bad.nrrd": encode(usual | {"type": name}, stored.tobytes(order="F"))}, truth
    before = encode(usual | {"line skip": "2", "byte skip": "3"}, b"one\ntwo\nxyz" + raw)
    yield ".nrrd with lines and bytes before its voxels", {"bad.nrrd": before}, truth
    yield ".nrrd with lines as on Windows", {"bad.nrrd": _with_windows_lines(encode(usual, b"")) + raw}, truth
    yield ".nrrd with a slice more than told", {"bad.nrrd": encode(usual, raw + b"\x11" * 1440)}, None
    yield from _vary_axes(truth, usual, raw)


def _with_windows_lines(header: bytes) -> bytes:
    return header.replace(b"\n", b"\r\n")


def _vary_axes(truth: Truth, usual: Fields, raw: bytes) -> Iterator[Kind]:
    """Yield files with a fourth axis: of one place, of colours or of time."""
    sizes, directions = usual["sizes"], usual["space directions"]
    for more, count, where in ((f"1 {sizes}", 1, "first"), (f"2 {sizes}", 2, "first"), (f"{sizes} 1", 1, "last")):
        told = f"none {directions}" if where == "first" else f"{directions} none"
        fields = usual | {"dimension": "4", "sizes": more, "space directions": told}
        content: Content = {"bad.nrrd": encode(fields, raw * count)}
        yield f".nrrd with {count} values at each voxel, {where}", content, truth if count == 1 else None
        layers = fields | {"kinds": "list domain domain domain"}
        layered = encode(layers, raw * count).replace(b"kinds:", b"Segment0_Name:=a\nkinds:", 1)
        yield f".nrrd with {count} layers of segments, {where}", {"bad.nrrd": layered}, truth if count == 1 else None
