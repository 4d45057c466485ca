"""MetaImage files whose header holds other values, field by field."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from scripts.robustness.damage import Fields, Kind, Outcome, Truth, right_of, vary_fields

_HUGE = "99999999999999999999"


def _times(factor: float, warning: str = "") -> Callable[[Truth], Truth]:
    """The truth in another unit of length."""
    return lambda truth: truth.placed(np.diag([factor, factor, factor, 1.0]) @ truth.ras_from_ijk, warning)


def _with_axes(*lps: float) -> Callable[[Truth], Truth]:
    """The truth with other axes, as the matrix has them: LPS, one axis after the other."""

    def place(truth: Truth) -> Truth:
        affine = truth.ras_from_ijk.copy()
        affine[:3, :3] = np.diag([-1.0, -1, 1]) @ np.array(lps).reshape(3, 3).T * [4.0, 5.0, 6.0]
        return truth.placed(affine)

    return place


# A value (None: no such field), and whether the file is then the same scan (True), another one, or refused (False).
_VALUES: dict[str, list[tuple[str | None, Outcome]]] = {
    "ObjectType": [("image", False), ("Tube", False), ("", False), ("Scene", False), (None, True)],
    "NDims": [(text, False) for text in ("9999", "-3", "0", "1", "2", "4", "three", "3.0", _HUGE, "", None)],
    "BinaryData": [
        *((text, True) for text in ("true", "T", "1")),
        *((text, False) for text in ("False", "2", "", None)),
    ],
    "BinaryDataByteOrderMSB": [("0", True), ("F", True), ("maybe", False), ("", False), (None, False)],
    "CompressedData": [("false", True), (None, True), ("True", False), ("yes", False)],
    "CompressedDataSize": [("0", True), ("77", True), ("x", True)],  # of what is not compressed
    "TransformMatrix": [
        ("-1.0 0 0 0 +1 0 0 0 1e0", True),
        ("1 0 0 0 1 0 0 0 1", _with_axes(1, 0, 0, 0, 1, 0, 0, 0, 1)),
        ("0 1 0 -1 0 0 0 0 1", _with_axes(0, 1, 0, -1, 0, 0, 0, 0, 1)),
        ("0 0 1 0 1 0 -1 0 0", _with_axes(0, 0, 1, 0, 1, 0, -1, 0, 0)),
        *(
            (text, False)
            for text in (
                "0 0 0 0 0 0 0 0 0",
                "-2 0 0 0 1 0 0 0 1",
                "-1 0 0 0 1 0 0 1 0",
                "-1 0 0 0 0.9 0.436 0 0 1",
                "nan 0 0 0 1 0 0 0 1",
                "inf 0 0 0 1 0 0 0 1",
                "-1 0 0 0 1 0 0 0",
                "-1 0 0 0 1 0 0 0 1 0",
                "-1 0 0 1",
                "a b c d e f g h i",
                "",
            )
        ),
        (None, False),
    ],
    "Offset": [
        ("60.0 -40 -3e2", True),
        *(
            (text, False)
            for text in ("nan -40 -300", "60 inf -300", "1e9 -40 -300", "60 -40", "60 -40 -300 0", "x y z")
        ),
        *((text, False) for text in ("", None)),
    ],
    "CenterOfRotation": [(text, True) for text in ("0 0 0", "10 20 30")],
    "AnatomicalOrientation": [
        *((text, True) for text in ("LAI", "lai", "???", "")),
        *((text, False) for text in ("RAI", "LPI", "LAS", "RPS", "RPI", "ALI", "IAL")),
    ],
    "ElementSpacing": [
        ("4.0 5e0 +6", True),
        *(
            (text, False)
            for text in ("0 5 6", "-4 5 6", "nan 5 6", "inf 5 6", "0.01 5 6", "4000 5 6", "4 5", "4 5 6 1")
        ),
        *((text, False) for text in ("1e-320 5 6", "1e308 5 6", "4,5,6", "four five six", "", None)),
    ],
    "ElementSize": [("4 5 6", True), ("1 1 1", True)],  # how large a voxel is, not how far from the next one
    "DimSize": [
        ("+30 24 20", True),
        *((text, False) for text in ("30 24 -20", "30 24 0", "30 24", "30 24 20 1", "30 24 2000000000", "30 24 x")),
        *((text, False) for text in ("3 24 200", "30 24 19", "30 24 21", "30.0 24 20", f"{_HUGE} 24 20", "1 1 14400")),
        *((text, False) for text in ("4294967326 24 20", "", None)),
    ],
    "DistanceUnits": [
        *((text, True) for text in ("mm", "MM", "?")),
        ("cm", _times(10.0, "measure")),
        *((text, False) for text in ("m", "um", "inch", "")),
    ],
    "ElementType": [
        ("MET_USHORT", lambda truth: truth.with_values(truth.hu.view("u2"))),
        ("MET_SHORT_ARRAY", True),
        *(
            (name, False)
            for name in ("MET_DOUBLE", "MET_INT", "MET_NOTHING", "MET_STRING", "MET_OTHER", "short", "", None)
        ),
    ],
    "ElementNumberOfChannels": [("1", True), *((text, False) for text in ("0", "2", "3", "-1", "x", _HUGE))],
    "HeaderSize": [("0", True), ("-1", True), *((text, False) for text in ("1", "-2", "28800", "x", _HUGE))],
    "ElementToIntensityFunctionSlope": [
        ("1", True),
        ("1.0", True),
        *((text, False) for text in ("0", "2", "nan", "x")),
    ],
    "ElementToIntensityFunctionOffset": [("0", True), *((text, False) for text in ("-1024", "inf", "x"))],
    **{
        name: [(text, True) for text in ("0", "x")]
        for name in ("Comment", "Name", "ID", "ParentID", "Color", "Modality", "ElementMin", "ElementMax", "SequenceID")
    },
    "a field of nobody": [("x", True)],
}
_SAME_FIELDS = {
    "TransformMatrix": ("Orientation", "Rotation"),
    "Offset": ("Position", "Origin"),
    "BinaryDataByteOrderMSB": ("ElementByteOrderMSB",),
}


def vary_metaimage(truth: Truth) -> Iterator[Kind]:
    """Yield MetaImage files, each with a value that is at a limit or otherwise not the usual one."""
    raw = truth.hu.tobytes(order="F")
    usual = _usual_fields(truth)
    for field, text, fields, outcome in vary_fields(usual, _VALUES):
        what = f"{field} = {text[:40]}" if text is not None else f"no {field}"
        yield f".mha with {what}", {"bad.mha": encode(fields, raw)}, right_of(truth, outcome)
    for name, others in _SAME_FIELDS.items():
        for other in others:
            fields = {other if field == name else field: text for field, text in usual.items()}
            yield f".mha with {other}", {"bad.mha": encode(fields, raw)}, truth
            twice = encode(usual | {other: "0 0 0 1 1 1 0 0 0"[: len(usual[name])]}, raw)
            yield f".mha with {name} and another {other}", {"bad.mha": twice}, None
    backwards = encode(dict(reversed(usual.items())), raw)
    yield ".mha with its fields the other way round", {"bad.mha": backwards}, truth
    early = b"ObjectType = Image\nElementDataFile = LOCAL\n" + encode(usual, raw)
    yield ".mha with its data before its fields", {"bad.mha": early}, None
    yield from _vary_data(truth, usual)


def encode(fields: Fields, data: bytes, file: str = "LOCAL") -> bytes:
    """A MetaImage file."""
    lines = [*(f"{name} = {text}" for name, text in fields.items()), f"ElementDataFile = {file}", ""]
    return "\n".join(lines).encode("utf-8", "surrogateescape") + data


def _usual_fields(truth: Truth) -> Fields:
    affine = np.diag([-1.0, -1, 1, 1]) @ truth.ras_from_ijk
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    return {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": " ".join(f"{part:.10g}" for part in (affine[:3, :3] / steps).T.ravel()),
        "Offset": " ".join(f"{part:.10g}" for part in affine[:3, 3]),
        "ElementSpacing": " ".join(f"{step:.10g}" for step in steps),
        "DimSize": " ".join(map(str, truth.hu.shape)),
        "ElementType": "MET_SHORT",
    }


def _vary_data(truth: Truth, usual: Fields) -> Iterator[Kind]:
    """Yield compressions, byte orders and types, whole and damaged, in one file and in two."""
    raw = truth.hu.tobytes(order="F")
    packed = zlib.compress(raw)
    zipped = usual | {"CompressedData": "True"}
    sizes: list[tuple[str | None, bool]] = [(str(len(packed)), True), (None, True)]
    sizes += [(text, False) for text in ("0", "1", "-1", str(len(packed) - 1), str(len(packed) + 1), _HUGE, "nan")]
    for size, good in sizes:
        fields = zipped | ({"CompressedDataSize": size} if size is not None else {})
        what = f"compressed .mha with CompressedDataSize = {size}"
        yield what, {"bad.mha": encode(fields, packed)}, truth if good else None
        detached = {"bad.mhd": encode(fields, b"", "voxels.zraw"), "voxels.zraw": packed}
        yield what.replace(".mha", ".mhd"), detached, truth if good else None
    for data, what in (
        (packed[: len(packed) // 2], "half of its data"),
        (zlib.compress(raw[:-1440]), "a slice less than told"),
        (zlib.compress(raw + b"\x11" * 1440), "a slice more than told"),
        (packed[: len(packed) // 2] + b"\0" + packed[len(packed) // 2 + 1 :], "a wrong byte"),
        (packed[:-4] + b"1234", "a wrong check sum"),
        (b"", "no data"),
    ):
        yield f"compressed .mha with {what}", {"bad.mha": encode(zipped, data)}, None
    yield "compressed .mha by gzip", {"bad.mha": encode(zipped, gzip.compress(raw))}, truth
    big = usual | {"BinaryDataByteOrderMSB": "True"}
    yield ".mha with the other byte order", {"bad.mha": encode(big, truth.hu.astype(">i2").tobytes(order="F"))}, truth
    for kind, name in ("i4", "INT"), ("i4", "LONG"), ("i8", "LONG_LONG"), ("f4", "FLOAT"), ("f8", "DOUBLE"):
        data = truth.hu.astype(kind).tobytes(order="F")
        yield f".mha of {name}", {"bad.mha": encode(usual | {"ElementType": f"MET_{name}"}, data)}, truth
    text = " ".join(map(str, truth.hu.ravel(order="F"))).encode()
    as_text = {name: value for name, value in usual.items() if name != "BinaryDataByteOrderMSB"} | {
        "BinaryData": "False"
    }
    yield ".mha in text", {"bad.mha": encode(as_text, text)}, truth
    yield ".mha in text with a word", {"bad.mha": encode(as_text, text[:-4] + b" two")}, None
    for size in "-1", "64":
        fields = usual | {"HeaderSize": size}
        content = {"bad.mhd": encode(fields, b"", "voxels.raw"), "voxels.raw": b"\x11" * 64 + raw}
        yield f".mhd whose data begin behind a header of {size} bytes", content, truth
    for axes, name in ("30 24 20 1", "one time"), ("30 24 10 2", "two times"):
        matrix = "-1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"
        more = {"NDims": "4", "DimSize": axes, "TransformMatrix": matrix, "Offset": "60 -40 -300 0"}
        fields = usual | more | {"ElementSpacing": "4 5 6 1"}
        yield f".mha with {name}", {"bad.mha": encode(fields, raw)}, truth if name == "one time" else None
