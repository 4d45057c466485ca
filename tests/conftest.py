"""Geometries, storage orders and small scans that the tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from rprloc.geometry import Grid
from rprloc.volume import Volume

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("repeatable")

Affine = NDArray[np.float64]


def _affine(axes: NDArray[np.float64], spacing_mm: tuple[float, float, float]) -> Affine:
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing_mm
    affine[:3, 3] = -31.0, 12.5, 407.25
    return affine


def _rotation() -> NDArray[np.float64]:
    """25 degrees about z after 10 degrees about x."""
    a, b = np.radians(25.0), np.radians(10.0)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


_PERMUTED = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
AFFINES = {
    "identity": np.eye(4),
    "anisotropic": _affine(np.eye(3), (0.75, 1.5, 5.0)),
    "flipped": _affine(np.diag([-1.0, -1, 1]), (2.0, 2.0, 3.0)),
    "mirrored": _affine(np.diag([-1.0, 1, 1]), (2.0, 2.0, 3.0)),
    "permuted": _affine(_PERMUTED, (2.0, 3.0, 2.5)),
    "permuted and flipped": _affine(_PERMUTED @ np.diag([1.0, -1, -1]), (2.0, 3.0, 2.5)),
    "oblique": _affine(_rotation(), (1.5, 2.0, 3.0)),
    "oblique and flipped": _affine(_rotation() @ np.diag([-1.0, 1, -1]), (1.5, 2.0, 3.0)),
}
STORAGES = {
    "as it is": ((0, 1, 2), ()),
    "first axis flipped": ((0, 1, 2), (0,)),
    "all axes flipped": ((0, 1, 2), (0, 1, 2)),
    "axes rotated": ((1, 2, 0), ()),
    "axes swapped, one flipped": ((1, 0, 2), (2,)),
    "axes reversed, two flipped": ((2, 1, 0), (0, 1)),
}

Store = Callable[[NDArray[np.generic], Grid], tuple[NDArray[np.generic], Grid]]


@pytest.fixture(params=AFFINES.values(), ids=AFFINES.keys())
def ras_from_ijk(request: pytest.FixtureRequest) -> Affine:
    """The affine of a scan, in every kind of orientation."""
    return request.param.copy()


def stored_otherwise(
    array: NDArray[np.generic], grid: Grid, order: tuple[int, ...], flipped: tuple[int, ...]
) -> tuple[NDArray[np.generic], Grid]:
    """The same values at the same places in the world, with the axes in another order and then some of them flipped."""
    stored, affine = array.transpose(order), grid.ras_from_ijk[:, [*order, 3]].copy()
    for axis in flipped:
        affine[:3, 3] += affine[:3, axis] * (stored.shape[axis] - 1)
        affine[:3, axis] *= -1
    return np.flip(stored, flipped), Grid(stored.shape, affine)


@pytest.fixture(params=STORAGES.values(), ids=STORAGES.keys())
def store_otherwise(request: pytest.FixtureRequest) -> Store:
    """:func:`stored_otherwise` for each of several orders."""
    order, flipped = request.param
    return lambda array, grid: stored_otherwise(array, grid, order, flipped)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CT that may lie beside the checkout; the test is skipped where it does not."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "datasets.json").is_file():
        pytest.skip("the real CT scans are not on this machine")
    return folder


def phantom_hu(grid: Grid) -> NDArray[np.int16]:
    """A body of soft tissue, with a bone off its middle, in air: HU (I, J, K), different along every axis."""
    points_ras, bounds = grid.centres_ras(), grid.bounds
    u = (points_ras - bounds.centre_ras) / bounds.size_mm
    hu = np.full(grid.shape, -1000, np.int16)
    hu[np.square(u / [0.42, 0.36, 0.6]).sum(-1) < 1] = 40
    hu[np.square((u - [0.15, -0.1, 0.2]) / 0.12).sum(-1) < 1] = 700
    hu[np.square((u - [-0.15, 0.05, 0.0]) / [0.15, 0.15, 0.2]).sum(-1) < 1] = -850
    return hu


@pytest.fixture
def phantom() -> Volume:
    """A small chest-like CT, 30 x 24 x 20 voxels of 4 x 5 x 6 mm, stored from left to right and from front to back."""
    grid = Grid((30, 24, 20), np.array([[4.0, 0, 0, -60], [0, -5, 0, 40], [0, 0, 6, -300], [0, 0, 0, 1]]))
    return Volume(phantom_hu(grid), grid, "phantom")


def write_series(folder: Path, hu: np.ndarray, change: Callable[[int, FileDataset], None] | None = None) -> str:
    """A CT series of slices hu[:, :, k], 4 x 5 mm, 6 mm apart; file names and instance numbers run from head to feet.

    ``change`` alters the data set of slice k before it is written. Returns the series' UID.
    """
    folder.mkdir(exist_ok=True)
    series_uid, frame_uid = generate_uid(), generate_uid()
    for k in range(hu.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = "Doe^Dora", "7", "19700102", "F"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.3", series_uid, "CT"
        data.StudyID, data.StudyDate, data.StudyTime, data.AccessionNumber = "1", "20200304", "101112", ""
        data.ReferringPhysicianName, data.Manufacturer, data.SeriesNumber = "", "Maker", 1
        data.FrameOfReferenceUID, data.PositionReferenceIndicator = frame_uid, ""
        data.ImageType, data.AcquisitionNumber, data.KVP, data.SliceThickness = (
            ["ORIGINAL", "PRIMARY", "AXIAL"],
            1,
            120,
            6,
        )
        data.ContentDate, data.ContentTime, data.PatientPosition = "20200304", "101113", "HFS"
        data.SeriesDescription, data.InstanceNumber = "Thorax", hu.shape[2] - k
        data.Columns, data.Rows = hu.shape[:2]
        data.PixelSpacing, data.ImageOrientationPatient = [5, 4], [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [-60, -50, 300 + 6 * k]
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.PixelData = (hu[:, :, k].T + 1024).astype(np.uint16).tobytes()
        if change:
            change(k, data)
        data.save_as(folder / f"{data.SeriesInstanceUID[-4:]}_{99 - k:02d}.dcm", enforce_file_format=True)
    return series_uid


@dataclass(frozen=True)
class Example:
    """An annotated scan on disk, random weights, and the support set of bone and lung that they make of it."""

    weights: Path
    image: Path
    labels: Path
    names: Path
    support_set: Path


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """The phantom as an annotated example; tests copy what they change."""
    import SimpleITK as sitk
    import torch

    from rprloc.annotation import points_from_labels
    from rprloc.io.reading import read_volume
    from rprloc.localization.localizer import Engine
    from rprloc.localization.support import save_support_set
    from rprloc.model.network import RPRNet, save_model
    from rprloc.volume import to_sitk

    folder = tmp_path_factory.mktemp("example")
    files = Example(
        *(folder / name for name in ("model.pt", "anna.nii.gz", "labels.nii.gz", "names.json", "set.support.json"))
    )
    grid = Grid((30, 24, 20), np.array([[4.0, 0, 0, -60], [0, -5, 0, 40], [0, 0, 6, -300], [0, 0, 0, 1]]))
    hu = phantom_hu(grid)
    labels = np.where(hu == 700, 1, np.where(hu == -850, 2, 0)).astype(np.uint8)
    torch.manual_seed(0)
    save_model(RPRNet(), files.weights)
    sitk.WriteImage(to_sitk(hu, grid), files.image)
    sitk.WriteImage(to_sitk(labels, grid), files.labels)
    files.names.write_text(json.dumps({"1": "bone", "2": "lung"}), encoding="utf-8")
    volume = read_volume(files.image)
    points = points_from_labels(labels, volume.grid, {1: "bone", 2: "lung"})
    engine = Engine.load(files.weights, "cpu")
    save_support_set(files.support_set, engine.support_set(volume, points, scan="anna", source="label map"))
    return files


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def complaints(self) -> str:
        """What stderr says besides that the example's random weights are not calibrated."""
        from rprloc.localization.confidence import NOT_CALIBRATED

        return "".join(line for line in self.stderr.splitlines(keepends=True) if NOT_CALIBRATED not in line)


def rprloc(*arguments: object) -> Run:
    """Run the command line with these arguments."""
    from typer.testing import CliRunner

    from rprloc.apps.cli import app

    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Run(done.exit_code, done.stdout, done.stderr)
