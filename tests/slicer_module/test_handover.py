"""Files of volumes for the child: the one it came from where that is the same for sure, else a copy, piece by piece."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.io.reading import read_volume
from tests.example import ExampleFiles
from tests.phantoms import Affine
from tests.slicer_module.scenes import NO_SLICER, Scene, rigid

pytest.importorskip("slicer", reason=NO_SLICER)
import slicer

from SlicerRPRLocLib import handover, nodes
from SlicerRPRLocLib.handover import COPIES, Handover, original_file


def written(made: Handover, volume: Any, **options: bool) -> Path:
    """The file, and after how many pieces it was there."""
    writing = made.write(volume, **options)
    while True:
        try:
            next(writing)
        except StopIteration as end:
            return Path(end.value)


@pytest.fixture
def made(tmp_path: Path) -> Handover:
    return Handover(tmp_path / "temporary")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slicer was started after the example's files were written."""
    monkeypatch.setattr(handover, "_STARTED_S", time.time() + 60.0)


def test_a_copy_is_the_volume_as_it_lies_in_the_world(
    scene: Scene, made: Handover, ras_from_ijk: Affine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_PIECE_BYTES", 1000)
    grid = Grid((20, 18, 16), ras_from_ijk @ np.diag([4.0, 4.0, 4.0, 1.0]))
    for dtype in ("int16", "uint8", "float32", "float64", "int32", "uint16"):
        hu = np.random.default_rng(0).integers(0, 100, grid.shape).astype(dtype)
        volume = scene.add_volume(hu, grid, "scan")
        scene.transform(rigid(), volume)
        path = written(made, volume)
        read = read_volume(path)
        np.testing.assert_array_equal(read.hu, hu)
        assert read.grid.same_as(nodes.grid_of(volume), tolerance_mm=1e-6) and read.hu.dtype == dtype
        np.testing.assert_array_equal(nrrd.read(str(path))[0], hu)  # as others read it
    assert path.parent.stat().st_mode & 0o077 == 0


def test_no_piece_takes_long_and_nothing_half_written_stays(scene: Scene, made: Handover) -> None:
    grid = Grid((256, 256, 200), np.diag([1.0, 1.0, 1.0, 1.0]))
    volume = scene.add_volume(np.zeros(grid.shape, np.int16), grid, "large")
    writing, longest_s = made.write(volume), 0.0
    for _ in range(2):
        start = time.monotonic()
        next(writing)
        longest_s = max(longest_s, time.monotonic() - start)
    assert longest_s < 0.3
    folder = made.new_file("x").parent
    assert len(list(folder.iterdir())) == 1
    writing.close()
    assert list(folder.iterdir()) == []


def test_a_file_that_has_not_changed_is_not_copied(
    scene: Scene, made: Handover, example: ExampleFiles, later: None
) -> None:
    volume = scene.load(example.image, "anna")
    assert written(made, volume) == example.image
    volume.SetName("renamed")
    assert written(made, volume) == example.image
    assert written(made, volume, copy=True) != example.image


def test_whatever_makes_the_file_another_than_the_volume_leads_to_a_copy(
    scene: Scene, example: ExampleFiles, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def voxels(volume: Any) -> None:
        slicer.util.arrayFromVolume(volume)[0, 0, 0] = 5
        slicer.util.arrayFromVolumeModified(volume)

    for change in (
        voxels,
        lambda volume: volume.SetOrigin(1.0, 2.0, 3.0),
        lambda volume: volume.SetSpacing(1.0, 2.0, 3.0),
        lambda volume: scene.transform(rigid(), volume),
        lambda volume: (scene.transform(rigid(), volume), volume.HardenTransform()),
        lambda volume: volume.GetStorageNode().SetFileName("/nowhere/anna.nii.gz"),
        lambda volume: volume.GetStorageNode().SetFileName(str(example.labels) + ".dcm"),
    ):
        volume = scene.load(example.image, "anna")
        assert original_file(volume) == example.image
        change(volume)
        assert original_file(volume) is None
    volume = scene.load(example.image, "anna")
    monkeypatch.setattr(handover, "_STARTED_S", example.image.stat().st_mtime - 1.0)
    assert original_file(volume) is None  # who knows whether it is what Slicer has read


def test_the_file_is_the_volume_voxel_by_voxel(scene: Scene, tmp_path: Path, ras_from_ijk: Affine, later: None) -> None:
    """Slicer turns an axis of a left-handed image round, and every voxel is still where the file says."""
    import SimpleITK as sitk

    from rprloc.volume import to_sitk

    grid = Grid((20, 18, 16), ras_from_ijk @ np.diag([4.0, 4.0, 4.0, 1.0]))
    moved = np.eye(4)
    moved[0, 3] = 4.0
    for name, placed in (("scan.nii.gz", grid), ("moved.nii.gz", Grid(grid.shape, moved @ grid.ras_from_ijk))):
        hu = np.arange(20 * 18 * 16, dtype=np.int16).reshape(grid.shape)
        sitk.WriteImage(to_sitk(hu, placed), tmp_path / name)
    volume = scene.load(tmp_path / "scan.nii.gz")
    path = original_file(volume)
    assert path == tmp_path / "scan.nii.gz"
    ours, theirs = read_volume(path), nodes.volume_from_node(volume)
    ijk = np.rint(theirs.grid.ijk(ours.grid.centres_ras())).astype(int)
    np.testing.assert_array_equal(ours.hu, theirs.hu[tuple(np.moveaxis(ijk, -1, 0))])
    volume.GetStorageNode().SetFileName(str(tmp_path / "moved.nii.gz"))  # another patient's, under the same name
    assert original_file(volume) is None


def test_copies_are_used_again_replaced_bounded_and_removed_with_their_volumes(
    scene: Scene, made: Handover, tmp_path: Path
) -> None:
    grid = Grid((20, 18, 16), np.diag([4.0, 4.0, 4.0, 1.0]))
    volumes = [scene.add_volume(np.full(grid.shape, n, np.int16), grid, f"scan {n}") for n in range(COPIES + 3)]
    first = written(made, volumes[0])
    assert written(made, volumes[0]) == first
    slicer.util.arrayFromVolume(volumes[0])[0, 0, 0] = 5
    slicer.util.arrayFromVolumeModified(volumes[0])
    assert written(made, volumes[0]) != first and not first.exists()
    paths = [written(made, volume) for volume in volumes]
    assert sorted(path for path in paths if path.exists()) == sorted(paths[-COPIES:])
    scene.mrml.RemoveNode(volumes[-1])
    made.forget_gone(scene.mrml)
    assert not paths[-1].exists() and paths[-2].exists()
    made.clear()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_volume_that_changes_while_it_is_written_and_a_full_disk_are_told(
    scene: Scene, made: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_PIECE_BYTES", 1000)
    grid = Grid((20, 18, 16), np.diag([4.0, 4.0, 4.0, 1.0]))
    volume = scene.add_volume(np.zeros(grid.shape, np.int16), grid, "scan")
    writing = made.write(volume)
    next(writing)
    volume.SetOrigin(1.0, 2.0, 3.0)
    with pytest.raises(InputError, match="changed while it was handed over"):
        list(writing)
    assert list(made.new_file("x").parent.iterdir()) == []

    def full(self: Path, mode: str) -> Any:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match=r"scan cannot be written .*No space left.*Make space"):
        list(made.write(volume))
