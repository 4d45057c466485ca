"""A small picture for each organ, its three slices side by side, for the page that shows many scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rprloc.detection import Detections
from rprloc.files import atomic_path, make_folder, name_files
from rprloc.geometry import Box
from rprloc.io.colours import organ_colour
from rprloc.io.pictures import PLANES, Plane, display_volume
from rprloc.modality import guess_modality
from rprloc.volume import Volume

EDGE, GAP = 180, 3
"""Pixels of a square slice, and between two of them."""

END = ".jpg"
"""How the names of the files end; what comes before is that of :func:`rprloc.files.name_files`."""

_LEAST_MM, _MOST_MM = 120.0, 420.0  # of an edge of the square
_LINE = 2  # pixels
_ARM, _OPEN = 14, 3  # pixels from the middle of a cross
_QUALITY = 80


def save_slices(folder: Path, volume: Volume, detections: Detections) -> None:
    """Write a JPEG for each organ that is located: the axial, coronal and sagittal slice through its box's centre; and
    for each landmark, the slices through its point.

    All three have one scale, and show the box and about as much around it. They are seen as in
    :func:`rprloc.save_picture`.
    """
    from matplotlib.image import imsave

    make_folder(folder)
    display = display_volume(volume)
    window = guess_modality(display.hu, display.modality).picture_window(display.hu)
    names = name_files(detections.targets)
    places = {**detections.boxes, **{name: Box(point, point) for name, point in detections.points_ras.items()}}
    for index, (name, box) in enumerate(places.items()):
        largest_mm = float(box.size_mm.max())
        view_mm = max(min(max(2.0 * largest_mm, _LEAST_MM), _MOST_MM), 1.1 * largest_mm)
        picture = np.zeros((EDGE, 3 * EDGE + 2 * GAP, 3), np.uint8)
        colour = np.rint(255 * np.array(organ_colour(index)))
        for column, plane in enumerate(PLANES):
            part = picture[:, column * (EDGE + GAP) :][:, :EDGE]
            part[:] = _draw_slice(display, plane, box.centre_ras, view_mm, window)[..., None]
            if name in detections.boxes:
                _draw_box(part, plane, box, view_mm, colour)
            else:
                _draw_cross(part, colour)
        with atomic_path(folder / f"{names[name]}{END}") as temporary:
            imsave(temporary, picture, format="jpg", pil_kwargs={"quality": _QUALITY, "subsampling": 0})


def list_slices(folder: Path) -> list[Path]:
    """The files of all organs in a folder."""
    return sorted(folder.glob(f"*{END}"))


def _draw_slice(
    display: Volume, plane: Plane, centre_ras: NDArray[np.float64], view_mm: float, window: tuple[float, float]
) -> NDArray[np.uint8]:
    """Grey values (EDGE, EDGE) of a square around a place, black outside of the scan.

    Positions grow to the left and up.
    """
    from scipy.ndimage import map_coordinates

    off_mm = view_mm * (0.5 - (np.arange(EDGE) + 0.5) / EDGE)
    points_ras = np.tile(centre_ras, (EDGE, EDGE, 1))
    points_ras[..., plane.leftward] += off_mm
    points_ras[..., plane.upward] += off_mm[:, None]
    low, high = window
    hu = map_coordinates(display.hu, np.moveaxis(display.grid.ijk(points_ras), -1, 0), order=1, cval=low)
    return np.rint(255 * ((hu.astype(np.float32) - low) / (high - low)).clip(0, 1)).astype(np.uint8)


def _draw_cross(part: NDArray[np.uint8], colour: NDArray[np.float64]) -> None:
    """A cross in the middle of a picture (EDGE, EDGE, 3), open where its lines meet."""
    middle = EDGE // 2
    for near, far in ((middle - _ARM, middle - _OPEN), (middle + _OPEN, middle + _ARM)):
        part[near:far, middle - 1 : middle + 1] = colour
        part[middle - 1 : middle + 1, near:far] = colour


def _draw_box(part: NDArray[np.uint8], plane: Plane, box: Box, view_mm: float, colour: NDArray[np.float64]) -> None:
    """The outline of a box, in whose middle the picture (EDGE, EDGE, 3) has its own."""
    half = 0.5 * box.size_mm * EDGE / view_mm
    (left, right), (top, bottom) = (
        np.rint([0.5 * EDGE - half[axis], 0.5 * EDGE + half[axis]]).astype(int).clip(0, EDGE)
        for axis in (plane.leftward, plane.upward)
    )
    outline = np.zeros(part.shape[:2], bool)
    outline[top:bottom, left:right] = True
    outline[top + _LINE : bottom - _LINE, left + _LINE : right - _LINE] = False
    part[outline] = colour
