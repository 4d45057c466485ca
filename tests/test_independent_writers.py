"""Volumes written by other programs: the same voxels at the same places, whatever the affine, type and packing."""

from __future__ import annotations

import gzip
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from rprloc.io.reading import read_scan
from scripts.robustness.damage import Truth
from tests.dicoms import edited, multi_frame, write_series

LPS = np.diag([-1.0, -1, 1, 1])


SPACES = {"left-posterior-superior": (-1, -1), "right-anterior-superior": (1, 1), "left-anterior-superior": (-1, 1)}
SYNTAXES = [
    *(ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
    RLELossless,
]


@dataclass(frozen=True, eq=False, repr=False)
class Drawn:
    """A volume that hypothesis made up: numbers from 0 to 4095 and the affine of their places."""

    stored: np.ndarray
    affine: np.ndarray

    def truth(self, slope: float = 1.0, intercept: float = 0.0) -> Truth:
        return Truth(self.stored * slope + intercept, self.affine)


@st.composite
def volumes(draw: st.DrawFn) -> Drawn:
    """Volumes with axes in any order and direction, turned by any angles, of any spacing, anywhere."""
    shape = tuple(draw(st.lists(st.integers(16, 19), min_size=3, max_size=3)))
    spacing_mm = draw(st.lists(st.floats(2.6, 9.0), min_size=3, max_size=3))
    axes = np.eye(3)[list(draw(st.permutations(range(3))))]
    axes = axes * draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3))
    if draw(st.booleans()):
        quaternion = np.array([1.0, *draw(st.lists(st.floats(-1, 1), min_size=3, max_size=3))])
        axes = nibabel.quaternions.quat2mat(quaternion / np.linalg.norm(quaternion)) @ axes
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing_mm
    affine[:3, 3] = draw(st.lists(st.floats(-900, 900), min_size=3, max_size=3))
    values = np.random.default_rng(draw(st.integers(0, 1000))).integers(0, 4096, shape)
    return Drawn(values, affine)


SCALINGS = st.tuples(st.sampled_from([1.0, -1.0, 0.5, 2.0, 3.7]), st.sampled_from([0.0, -1024.0, 12.25]))
NUMBERS = ["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="written-") as name:
        yield Path(name)


def assert_read(path: Path, truth: Truth) -> None:
    assert truth.differs(read_scan(path)) == ""


@given(
    drawn=volumes(),
    kind=st.sampled_from(NUMBERS),
    scaling=SCALINGS,
    version=st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]),
    order=st.sampled_from("<>"),
    codes=st.sampled_from([(1, 1), (1, 0), (0, 1), (2, 1), (4, 0)]),
    end=st.sampled_from([".nii", ".nii.gz"]),
)
def test_nibabel(drawn: Drawn, kind, scaling, version, order, codes, end) -> None:
    image = version(drawn.stored.astype(kind), drawn.affine, version.header_class(endianness=order), dtype=kind)
    for code, place in zip(codes, (image.set_sform, image.set_qform), strict=True):
        place(drawn.affine if code else None, code)
    data = bytearray(image.to_bytes())
    at, form = (112, "2f") if version is nibabel.Nifti1Image else (176, "2d")
    struct.pack_into(order + form, data, at, *scaling)  # nibabel itself would choose
    with folder() as home:
        (home / f"scan{end}").write_bytes(gzip.compress(data, 1) if end == ".nii.gz" else data)
        assert_read(home / f"scan{end}", drawn.truth(*scaling))


@given(drawn=volumes(), scaling=SCALINGS, end=st.sampled_from([".nii", ".nii.gz"]))
def test_nibabel_with_a_scaling_of_its_own(drawn: Drawn, scaling, end) -> None:
    """Fractions in 16 bits: nibabel finds slope and intercept."""
    truth = drawn.truth(*scaling)
    image = nibabel.Nifti1Image(truth.hu.astype(np.float64), drawn.affine)
    image.set_data_dtype(np.int16)
    with folder() as home:
        nibabel.save(image, home / f"scan{end}")
        assert_read(home / f"scan{end}", Truth(nibabel.load(home / f"scan{end}").get_fdata(), drawn.affine))


@given(
    drawn=volumes(),
    kind=st.sampled_from(NUMBERS),
    end=st.sampled_from([".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"]),
    compressed=st.booleans(),
)
def test_simpleitk(drawn: Drawn, kind, end, compressed) -> None:
    image = sitk.GetImageFromArray(np.ascontiguousarray(drawn.stored.astype(kind).T))
    lps = LPS @ drawn.affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(steps.tolist())
    image.SetDirection((lps[:3, :3] / steps).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    with folder() as home:
        sitk.WriteImage(image, str(home / f"scan{end}"), compressed)
        assert_read(home / f"scan{end}", drawn.truth())


@given(
    drawn=volumes(),
    kind=st.sampled_from(NUMBERS),
    end=st.sampled_from([".nrrd", ".nhdr"]),
    encoding=st.sampled_from(["raw", "gzip", "bzip2", "ascii"]),
    order=st.sampled_from(["little", "big"]),
    space=st.sampled_from(list(SPACES)),
    unit=st.sampled_from([None, "mm", "cm"]),
)
def test_pynrrd(drawn: Drawn, kind, end, encoding, order, space, unit) -> None:
    nrrd = pytest.importorskip("nrrd")
    own = np.diag([*SPACES[space], 1.0, 1.0]) @ drawn.affine / (10.0 if unit == "cm" else 1.0)
    header = {"space": space, "space directions": own[:3, :3].T, "space origin": own[:3, 3], "encoding": encoding}
    header |= {"endian": order} | ({"space units": [unit] * 3} if unit else {})
    stored = drawn.stored.astype(np.dtype(kind).newbyteorder({"little": "<", "big": ">"}[order]))
    with folder() as home:
        nrrd.write(str(home / f"scan{end}"), stored, header, index_order="F")
        assert_read(home / f"scan{end}", drawn.truth())


def series(
    home: Path, drawn: Drawn, slope: float, intercept: float, *, signed: bool = False, syntax: UID = SYNTAXES[0]
) -> Truth:
    """The volume as slices, each in a file of its own."""
    lps = LPS @ drawn.affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    stored = drawn.stored - 2048 if signed else drawn.stored
    tags: dict[str, Any] = {
        "ImageOrientationPatient": lambda k, old: [
            float(f"{part:.9g}") for part in [*(lps[:3, 0] / steps[0]), *(lps[:3, 1] / steps[1])]
        ],
        "ImagePositionPatient": lambda k, old: [float(f"{part:.9g}") for part in lps[:3, 3] + k * lps[:3, 2]],
        "PixelSpacing": lambda k, old: [float(f"{steps[1]:.12g}"), float(f"{steps[0]:.12g}")],
        "RescaleSlope": lambda k, old: slope,
        "RescaleIntercept": lambda k, old: intercept,
        "PixelRepresentation": lambda k, old: int(signed),
        "PixelData": lambda k, old: stored[:, :, k].T.astype("<i2" if signed else "<u2").tobytes(),
    }

    def change(k: int, data: FileDataset) -> None:
        edited(**tags)(k, data)
        if syntax == RLELossless:
            data.compress(syntax, generate_instance_uid=False)
        elif syntax == ExplicitVRBigEndian:
            data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
            data.set_original_encoding(is_implicit_vr=False, is_little_endian=False)
        data.file_meta.TransferSyntaxUID = syntax

    with pydicom.config.disable_value_validation():
        write_series(home, np.zeros(stored.shape), change)
    return Truth(stored * slope + intercept, drawn.affine)


@settings(max_examples=20)
@given(drawn=volumes(), scaling=SCALINGS, signed=st.booleans(), syntax=st.sampled_from(SYNTAXES))
def test_pydicom(drawn: Drawn, scaling, signed, syntax) -> None:
    with folder() as home:
        assert_read(home / "series", series(home / "series", drawn, *scaling, signed=signed, syntax=syntax))


@settings(max_examples=15)
@given(drawn=volumes(), scaling=SCALINGS)
def test_highdicom(drawn: Drawn, scaling) -> None:
    pytest.importorskip("highdicom")
    with folder() as home:
        truth = series(home / "series", drawn, *scaling)
        multi_frame(home / "series", home / "scan.dcm")
        assert_read(home / "scan.dcm", truth)
