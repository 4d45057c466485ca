"""Boxes for the eye and for other programs: pictures on orthogonal slices, and NIfTI label maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.files import atomic_path
from rprloc.geometry import Box, Grid, Points
from rprloc.io.colours import organ_colour
from rprloc.modality import guess_modality
from rprloc.volume import Volume, resample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PICTURED_ORGANS = 12
_VIEW_MM = 420.0  # the most that a picture shows along an axis
_DISPLAY_SPACING_MM, _MAX_DISPLAY_VOXELS = 1.5, 40e6
_WIDTH_IN, _MAX_HEIGHT_IN, _TITLE_IN, _DPI = 11.0, 44.0, 0.35, 110


class Plane(NamedTuple):
    """One orthogonal view: which RAS axes run to the picture's left and up, and the letters of its edges."""

    name: str
    normal: int
    leftward: int
    upward: int
    left: str
    right: str
    top: str
    bottom: str


# Radiological display: seen from the feet and from the front, so that the patient's right is on the picture's left;
# the sagittal view has the front on the left.
PLANES = (
    Plane("axial", 2, 0, 1, "R", "L", "A", "P"),
    Plane("coronal", 1, 0, 2, "R", "L", "S", "I"),
    Plane("sagittal", 0, 1, 2, "A", "P", "S", "I"),
)


def save_picture(
    path: str | Path,
    volume: Volume,
    boxes: Mapping[str, Box],
    *,
    truth: Mapping[str, Box] | None = None,
    points: Mapping[str, Points] | None = None,
    remarks: Mapping[str, str] | None = None,
    landmarks: Mapping[str, NDArray[np.float64]] | None = None,
) -> None:  # long for its description alone
    """Write a PNG with a row for each organ: the axial, coronal and sagittal slice through the centre of its box.

    Each landmark has a row, too, with the slices through its point and a cross.

    Boxes are solid, the row's own drawn thick. Slices are seen from the feet and from the front, so the patient's right
    is on the picture's left, whatever the orientation of the scan. The picture has at most 12 rows and says how many
    organs are left out.

    Parameters
    ----------
    path : path
        The file to write.
    volume : Volume
        The scan in which the boxes lie.
    boxes : mapping of str to Box
        For each organ its box, RAS mm.
    truth : mapping of str to Box, optional
        Reference boxes, drawn dashed and white.
    points : mapping of str to (6, 3) array, optional
        Extreme points in RAS mm, in the order of :data:`rprloc.WALLS`: crosses, projected onto the slice.
    remarks : mapping of str to str, optional
        What stands beside the organs' names; for organs without a box, below the slices.
    landmarks : mapping of str to (3,) array, optional
        Landmarks, RAS mm.

    Raises
    ------
    InputError
        If there is neither box nor landmark, or the folder cannot be written to.

    Examples
    --------
    >>> rprloc.save_picture("bert.png", volume, found.boxes)
    """
    from matplotlib.figure import Figure

    # A landmark is drawn as a box of no size with one point.
    tips = {name: Box(point_ras, point_ras) for name, point_ras in (landmarks or {}).items()}
    points = {**(points or {}), **{name: tip.centre_ras[None] for name, tip in tips.items()}}
    boxes = {**boxes, **tips}
    if not boxes:
        raise InputError(f"{path} cannot be drawn, because no organ was located. Locate an organ first.")
    shown = dict(list(boxes.items())[:MAX_PICTURED_ORGANS])
    display = display_volume(volume)
    window = guess_modality(display.hu, display.modality).picture_window(display.hu)
    view_mm = np.minimum(display.grid.bounds.size_mm, _VIEW_MM)
    widths_mm = [float(view_mm[plane.leftward]) for plane in PLANES]
    row_mm = float(max(view_mm[plane.upward] for plane in PLANES))
    without_box = [f"{organ}: {remark}" for organ, remark in (remarks or {}).items() if organ not in boxes]
    legend_in = 0.3 + 0.25 * math.ceil((len(shown) + 3 + len(without_box)) / 4)
    width_in, row_in, height_in = _layout(len(shown), sum(widths_mm), row_mm, legend_in)
    figure = Figure(figsize=(width_in, height_in), facecolor="black")
    rows = figure.add_gridspec(
        len(shown),
        3,
        width_ratios=widths_mm,
        left=0.0,
        right=1.0,
        bottom=legend_in / height_in,
        top=1.0 - _TITLE_IN / height_in,
        wspace=0.02,
        hspace=_TITLE_IN / row_in,
    )
    for row, (organ, box) in enumerate(shown.items()):
        for column, plane in enumerate(PLANES):
            axes = figure.add_subplot(rows[row, column])
            draw_slice(axes, display, plane, box.centre_ras, view_mm, window)
            draw_organ(axes, plane, organ, shown, (truth or {}).get(organ), (points or {}).get(organ))
        size = "" if organ in tips else "   " + " x ".join(f"{length:.0f}" for length in box.size_mm) + " mm"
        top = rows[row, 0].get_position(figure).y1 + 0.08 / height_in
        remark = (remarks or {}).get(organ)
        title = f"{organ}{size}" + (f";  {remark}" if remark else "")
        figure.text(0.008, top, _drawable(title), color=organ_colour(row), fontsize=10, va="bottom", parse_math=False)
    _draw_legend(figure, list(shown), bool(truth), bool(points), len(boxes) - len(shown), without_box)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, facecolor="black", metadata={"Software": None})


def _drawable(text: str) -> str:
    """The text with the codes of those letters that the font does not have: with boxes, names would look the same."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))

    def drawn(letter: str) -> str:
        if font.get_char_index(ord(letter)) > 0:
            return letter
        return " " if letter.isspace() else letter.encode("ascii", "backslashreplace").decode("ascii")

    return "".join(map(drawn, text))


def _layout(rows: int, width_mm: float, row_mm: float, legend_in: float) -> tuple[float, float, float]:
    """The picture's width, the height of a row's slices, and the picture's height, in inches."""
    inches_per_mm = min(_WIDTH_IN / width_mm, (_MAX_HEIGHT_IN - _TITLE_IN * rows) / (row_mm * rows))
    row_in = row_mm * inches_per_mm
    return max(width_mm * inches_per_mm, 4.0), row_in, (row_in + _TITLE_IN) * rows + legend_in


def draw_organ(
    axes: Axes, plane: Plane, organ: str, boxes: Mapping[str, Box], truth: Box | None, points: Points | None
) -> None:
    """All boxes on the slice through the organ's centre, its own thick, and its reference box and points."""
    centre_ras = boxes[organ].centre_ras
    for index, (other, box) in enumerate(boxes.items()):
        width = 1.8 if other == organ else 0.6
        _draw_box(axes, plane, box, centre_ras, organ_colour(index), width=width, style="-")
    if truth is not None:
        _draw_box(axes, plane, truth, centre_ras, "white", width=1.2, style=(0, (4, 3)))
    if points is not None:
        in_plane = [2 * plane.leftward, 2 * plane.leftward + 1, 2 * plane.upward, 2 * plane.upward + 1]
        seen = points if len(points) == 1 else np.asarray(points, float)[in_plane]
        across, up = seen[:, [plane.leftward, plane.upward]].T
        colour = organ_colour(list(boxes).index(organ))
        axes.plot(across, up, "+", color=colour, ms=8 if len(seen) > 1 else 14, scalex=False, scaley=False)


def display_volume(volume: Volume) -> Volume:
    """The scan on an axis-aligned RAS grid that covers it, coarse enough for memory; itself if it lies on such a grid.

    So several pictures can share one: of what this gives it gives the same again.
    """
    bounds = volume.grid.bounds
    spacing_mm = max(_DISPLAY_SPACING_MM, (bounds.volume_mm3 / _MAX_DISPLAY_VOXELS) ** (1 / 3))
    shape = np.maximum(np.ceil(bounds.size_mm / spacing_mm - 1e-6), 1).astype(int)
    origin_ras = bounds.centre_ras - 0.5 * spacing_mm * (shape - 1)
    grid = Grid.isotropic(shape.tolist(), spacing_mm, origin_ras)
    if volume.grid.same_as(grid, 1e-6):
        return volume
    return resample(volume, grid, guess_modality(volume.hu, volume.modality).darkest(volume.hu))


def draw_slice(
    axes: Axes,
    display: Volume,
    plane: Plane,
    centre_ras: NDArray[np.float64],
    view_mm: NDArray[np.float64],
    window: tuple[float, float] | None = None,
) -> None:
    """The slice through ``centre_ras`` in a window of values, by default the scan's own, letters at its edges.

    Coordinates are RAS mm, growing to the left and up.
    """
    from matplotlib.patheffects import withStroke

    window = window or guess_modality(display.hu, display.modality).picture_window(display.hu)
    bounds = display.grid.bounds
    nearest = int(np.rint(display.grid.ijk(centre_ras)[plane.normal]))
    pixels = np.take(display.hu, np.clip(nearest, 0, display.grid.shape[plane.normal] - 1), axis=plane.normal)
    # What remains is (leftward, upward) in every plane; imshow wants (upward, leftward).
    low, high = bounds.min_ras, bounds.max_ras
    axes.imshow(
        pixels.T,
        origin="lower",
        extent=(low[plane.leftward], high[plane.leftward], low[plane.upward], high[plane.upward]),
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        interpolation="bilinear",
        aspect="equal",
    )
    start = np.clip(centre_ras - 0.5 * view_mm, low, np.maximum(high - view_mm, low))
    stop = start + view_mm
    axes.set_xlim(stop[plane.leftward], start[plane.leftward])
    axes.set_ylim(start[plane.upward], stop[plane.upward])
    axes.set_axis_off()
    letters = ((0.015, 0.5, plane.left), (0.985, 0.5, plane.right), (0.5, 0.985, plane.top), (0.5, 0.015, plane.bottom))
    for across, up, letter in letters:
        axes.text(
            across,
            up,
            letter,
            transform=axes.transAxes,
            color="yellow",
            fontsize=9,
            path_effects=[withStroke(linewidth=2, foreground="black")],
            ha="left" if across < 0.1 else "right" if across > 0.9 else "center",
            va="top" if up > 0.9 else "bottom" if up < 0.1 else "center",
        )


def _draw_box(
    axes: Axes, plane: Plane, box: Box, centre_ras: NDArray[np.float64], colour: Any, *, width: float, style: Any
) -> None:
    """The box's outline, if the slice through ``centre_ras`` cuts it."""
    from matplotlib.patches import Rectangle

    if not box.min_ras[plane.normal] <= centre_ras[plane.normal] <= box.max_ras[plane.normal]:
        return
    corner, size = box.min_ras, box.size_mm
    axes.add_patch(
        Rectangle(
            (corner[plane.leftward], corner[plane.upward]),
            size[plane.leftward],
            size[plane.upward],
            fill=False,
            edgecolor=colour,
            linewidth=width,
            linestyle=style,
            alpha=1.0 if width > 1.0 else 0.6,
        )
    )


def _draw_legend(
    figure: Figure, organs: list[str], has_truth: bool, has_points: bool, left_out: int, without_box: list[str]
) -> None:
    from matplotlib.lines import Line2D

    # A label that begins with an underscore would be left out: hence the space.
    entries = [(Line2D([], [], color=organ_colour(index), lw=2), f" {organ}") for index, organ in enumerate(organs)]
    if has_truth:
        entries.append((Line2D([], [], color="white", lw=1.2, ls="--"), " ground truth"))
    if has_points:
        entries.append((Line2D([], [], color="white", marker="+", ls=""), " marked points"))
    if left_out:
        entries.append((Line2D([], [], ls=""), f" {left_out} more not drawn"))
    entries += [(Line2D([], [], ls=""), f" {text}") for text in without_box]
    legend = figure.legend(
        [handle for handle, _ in entries],
        [_drawable(label) for _, label in entries],
        loc="lower center",
        ncols=4,
        fontsize=9,
        frameon=False,
        labelcolor="white",
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
