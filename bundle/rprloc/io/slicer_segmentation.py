"""Segmentations of 3D Slicer (``.seg.nrrd``): segments in, as masks on the file's own grid."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rprloc.annotation import Mask
from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.io.nrrd import StoredLayers, read_nrrd_segmentation
from rprloc.io.plausibility import refuse_too_large
from rprloc.io.reading import explain_reading_errors
from rprloc.io.structures import Marked, Structure
from rprloc.io.voxels import read_voxels, require_possible

Layers = list[NDArray[np.generic]]
_KEY = re.compile(r"Segment(\d+)_(ID|Name|LabelValue|Layer)", re.IGNORECASE)


@dataclass(frozen=True)
class _Segment:
    """A segment: its name, the layer in which it lies and its number there."""

    name: str
    layer: int
    label: int


def read_segmentation(path: Path) -> Marked | None:
    """The segments of a segmentation of 3D Slicer; None for a NRRD file that describes none.

    Raises InputError if it is damaged or contradicts itself.
    """
    with explain_reading_errors(path), np.errstate(all="ignore"):
        stored = read_nrrd_segmentation(path)
        if stored is None:
            return None
        require_possible(stored.image)
        refuse_too_large(stored.grid, path)
    segments = _segments(path, stored)

    @cache
    def layers() -> Layers:
        with explain_reading_errors(path):
            return stored.layers_of(read_voxels(stored.image))

    structures = [Structure(one.name, _reader(stored.grid, layers, one)) for one in segments]
    return Marked(path, "a segmentation of 3D Slicer", structures)


def _reader(grid: Grid, layers: Callable[[], Layers], segment: _Segment) -> Callable[[], Mask | None]:
    def read() -> Mask | None:
        voxels = layers()[segment.layer] == segment.label
        return Mask.cut_from(voxels, grid) if voxels.any() else None

    return read


def _segments(path: Path, stored: StoredLayers) -> list[_Segment]:
    """What the header says of the segments. Files of old versions have one segment in each layer and say no more."""
    told: dict[int, dict[str, str]] = {}
    for key, value in stored.keys.items():
        found = _KEY.fullmatch(key)
        if found:
            told.setdefault(int(found[1]), {})[found[2].lower()] = value.strip()
    if not told:
        raise _contradicts(path, "it describes segments and names none")
    places = [{"layer", "labelvalue"} & segment.keys() for segment in told.values()]
    if not any(places) and len(told) != stored.count:
        raise _contradicts(path, f"its {len(told)} segments do not say in which of {stored.count} layers they are")
    segments = []
    for place, (number, segment) in enumerate(sorted(told.items())):
        name = segment.get("name") or segment.get("id") or f"segment {number}"
        if not any(places):
            segments.append(_Segment(name, place, 1))
            continue
        layer, label = (_number(segment.get(key)) for key in ("layer", "labelvalue"))
        if layer is None or label is None or layer >= stored.count or label < 1:
            raise _contradicts(
                path,
                f"the segment {name[:40]!r} has the layer {segment.get('layer')} of {stored.count} and the label "
                f"value {segment.get('labelvalue')}",
            )
        segments.append(_Segment(name, layer, label))
    if len({(segment.layer, segment.label) for segment in segments}) < len(segments):
        raise _contradicts(path, "two segments have the same layer and label value")
    return segments


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,9}", text, re.ASCII) else None


def _contradicts(path: Path, what: str) -> InputError:
    return InputError(f"The header of the segmentation {path} cannot be right: {what}. Save it from 3D Slicer again.")
