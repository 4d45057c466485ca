"""The files by which volumes go to the child process.

The file from which Slicer has read a volume serves if nothing about the volume has changed since; any other volume is
written as a copy, piece by piece, so that the application stays usable meanwhile.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Generator
from pathlib import Path

import numpy as np
import slicer
from numpy.typing import NDArray

from rprloc import Grid, InputError
from rprloc.files import status_of
from SlicerRPRLocLib import nodes
from SlicerRPRLocLib.nodes import Node, Scene

COPIES = 8  # as many scans as the child keeps in its memory; for a scan that it has forgotten, a copy saves nothing
_PIECE_BYTES = 1 << 23
_STARTED_S = time.time()
"""When the application has started: Slicer loads its modules before any scan."""

_SINGLE_FILES = (".nii", ".nii.gz", ".nrrd", ".mha")
_SAME_MM = 1e-3
_NRRD_TYPES = {"float32": "float", "float64": "double"}

Writing = Generator[None, None, Path]
"""Writes a piece at each step, and gives the file in the end."""


class Handover:
    """Keeps the copies, each as long as its volume is there and unchanged, the last ``COPIES`` of them."""

    def __init__(self, temporary: Path | None = None) -> None:
        """``temporary``: where the folder of the copies is made; by default the system's place for such folders."""
        self._temporary = temporary
        self._folder: Path | None = None
        self._numbers = itertools.count(1)
        self._copies: OrderedDict[str, tuple[object, Path]] = OrderedDict()

    def new_file(self, kind: str, suffix: str = ".json") -> Path:
        """A name that is not taken, in the folder of the copies, which only this account can read."""
        if self._folder is None:
            if self._temporary is not None:
                self._temporary.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="rprloc-", dir=self._temporary))
        return self._folder / f"{kind}{next(self._numbers)}{suffix}"

    def write(self, volume: Node, *, copy: bool = False) -> Writing:
        """A file with the volume as it lies in the world; with ``copy`` never the one it came from.

        Raises InputError if it cannot be used or written, or changes meanwhile.
        """
        original = None if copy else original_file(volume)
        if original is not None:
            return original
        scan, state = nodes.volume_from_node(volume), _state_of(volume)
        known = self._copies.pop(volume.GetID(), None)
        if known is not None and known[0] == state:
            self._copies[volume.GetID()] = known
            return known[1]
        if known is not None:
            known[1].unlink(missing_ok=True)
        while len(self._copies) >= COPIES:
            self._copies.popitem(last=False)[1][1].unlink(missing_ok=True)
        path = self.new_file("scan", ".nrrd")
        try:
            yield from write_nrrd(path, scan.hu, scan.grid)
        except OSError as error:
            raise InputError(
                f"The volume {volume.GetName()} cannot be written for RPR-Loc's process ({error.strerror or error}). "
                f"Make space on the disk of {path.parent}, or choose another folder for temporary files in "
                "Edit > Application Settings."
            ) from error
        if _state_of(volume) != state:
            path.unlink(missing_ok=True)
            raise InputError("it was changed while it was handed over. Press Locate again.")
        self._copies[volume.GetID()] = state, path
        return path

    def write_mask(self, voxels: NDArray[np.bool_], grid: Grid) -> Writing:
        """A file with a mask (I, J, K); it is for one request, so the caller removes it."""
        path = self.new_file("mask", ".nrrd")
        yield from write_nrrd(path, voxels.view(np.uint8), grid)
        return path

    def is_copy(self, path: Path) -> bool:
        return path.parent == self._folder

    def forget_gone(self, scene: Scene) -> None:
        """Remove the copies of volumes that are not in the scene any more."""
        for volume_id in [known for known in self._copies if scene.GetNodeByID(known) is None]:
            self._copies.pop(volume_id)[1].unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything."""
        self._copies.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def original_file(volume: Node) -> Path | None:
    """The single file that holds the volume exactly as it lies in the world now; None if there is none for sure.

    A file that was written after the application had started may hold something else by now, so it does not serve.
    """
    from rprloc.apps.console import FAILURES
    from rprloc.io.formats import image_extension
    from rprloc.io.reading import open_image_file

    storage = volume.GetStorageNode()
    if storage is None or volume.GetModifiedSinceRead() or volume.GetParentTransformNode() is not None:
        return None
    path = Path(storage.GetFullNameFromFileName() or "")
    status = status_of(path)
    if storage.GetNumberOfFileNames() > 1 or image_extension(path) not in _SINGLE_FILES or status is None:
        return None
    if max(status.st_mtime, status.st_ctime) >= _STARTED_S:
        return None
    try:
        grid = open_image_file(path).grid
    except FAILURES:
        return None
    return path if same_voxels(grid, nodes.grid_of(volume)) else None


def write_nrrd(path: Path, array: NDArray[np.generic], grid: Grid) -> Generator[None, None, None]:
    """Write an array (I, J, K) and where it lies as a NRRD file, a piece at each step; no file is left if it fails."""
    columns = (" ".join(map(repr, column)) for column in grid.ras_from_ijk[:3].T.tolist())
    *axes, origin = (f"({column.replace(' ', ',')})" for column in columns)
    header = (
        "NRRD0004",
        f"type: {_NRRD_TYPES.get(array.dtype.name, array.dtype.name)}",
        "dimension: 3",
        "space: right-anterior-superior",
        f"sizes: {' '.join(map(str, array.shape))}",
        f"space directions: {' '.join(axes)}",
        f"space origin: {origin}",
        "endian: little",
        "encoding: raw",
        "",
        "",
    )
    slices = array.astype(array.dtype.newbyteorder("<"), copy=False).transpose(2, 1, 0)
    step = max(1, _PIECE_BYTES // max(1, slices[0].nbytes))
    try:
        with path.open("xb") as file:
            file.write("\n".join(header).encode("ascii"))
            for first in range(0, len(slices), step):
                file.write(np.ascontiguousarray(slices[first : first + step]).data)
                yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def same_voxels(grid: Grid, other: Grid) -> bool:
    """Whether two grids have their voxels at the same places; Slicer turns an axis of a left-handed image round."""
    corners_ijk = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(grid.shape) - 1)
    corners_ras = grid.ras(corners_ijk)
    there_ijk = np.rint(other.ijk(corners_ras))
    meet = np.abs(other.ras(there_ijk) - corners_ras).max() <= _SAME_MM
    same_corners = set(map(tuple, there_ijk.tolist())) == set(map(tuple, corners_ijk.astype(float).tolist()))
    return grid.shape == other.shape and bool(meet) and same_corners


def _state_of(volume: Node) -> object:
    """What changes when the volume's voxels or their place do."""
    grid = nodes.grid_of(volume)
    return volume.GetImageData().GetMTime(), grid.shape, grid.ras_from_ijk.tobytes()


def temporary_folder() -> Path | None:
    """Slicer's folder for temporary files, which its users may have moved to a larger disk."""
    application = getattr(slicer, "app", None)
    return Path(application.temporaryPath) if application is not None else None
