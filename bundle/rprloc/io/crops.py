"""A scan cut to its organs, for programs that segment, and the way back: each crop is an image and a file of its place.

Voxels are never resampled, so a result on a crop goes back into the scan voxel by voxel.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.files import make_folder, name_files, parse_json, write_text_atomically
from rprloc.geometry import Grid
from rprloc.io.itk import write_image
from rprloc.io.plausibility import refuse_too_large
from rprloc.volume import Volume

FORMAT, VERSION = "rprloc-crop", 1
IMAGE, PLACE = ".nii.gz", ".json"
"""How the names of the two files of a crop end."""


@dataclass(frozen=True, eq=False)
class Crop:
    """Where a part of a scan lies in the whole.

    Parameters
    ----------
    query : str
        The name of the scan.
    organ : str
        The organ to which it was cut.
    margin_mm : float
        What was added to the organ's box on all sides.
    start_ijk : (3,) tuple of int
        The first voxel of the part in the whole.
    shape : (I, J, K)
        How many voxels the part has.
    scan_grid : Grid
        The voxels of the whole.

    Raises
    ------
    ValueError
        If the part reaches beyond the whole.

    Examples
    --------
    >>> rprloc.write_results(".", scan, found, crop_margin_mm=15.0)
    >>> crop = rprloc.Crop.load("query_ct.crops/heart.json")
    >>> rprloc.read_volume("query_ct.crops/heart.nii.gz").grid.same_as(crop.grid)
    True
    """

    query: str
    organ: str
    margin_mm: float
    start_ijk: tuple[int, int, int]
    shape: tuple[int, int, int]
    scan_grid: Grid

    def __post_init__(self) -> None:
        start, shape = np.array(self.start_ijk), np.array(self.shape)
        if start.min() < 0 or shape.min() < 1 or (start + shape > self.scan_grid.shape).any():
            raise ValueError(f"{self.shape} voxels from {self.start_ijk} on do not lie in {self.scan_grid.shape}")

    @property
    def grid(self) -> Grid:
        """The voxels of the part."""
        return self.scan_grid.cropped(self.start_ijk, self.shape)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The part of an array (I, J, K) of the whole."""
        i, j, k = (slice(start, start + count) for start, count in zip(self.start_ijk, self.shape, strict=True))
        return i, j, k

    def paste(self, part: NDArray[np.generic]) -> NDArray[np.generic]:
        """An array of the whole scan with what was found in the part, and 0 elsewhere.

        Parameters
        ----------
        part : (I, J, K) array
            A value for each voxel of the part, in its order: labels or anything else.

        Returns
        -------
        (I, J, K) array
            A value of the same type for each voxel of the scan.

        Raises
        ------
        InputError
            If the part has another shape.

        Examples
        --------
        >>> rprloc.write_results(".", scan, found, crop_margin_mm=15.0)
        >>> crop = rprloc.Crop.load("query_ct.crops/heart.json")
        >>> whole = crop.paste(np.ones(crop.shape, np.uint8))
        >>> whole.shape == scan.volume.hu.shape, int(whole.sum()) == int(np.prod(crop.shape))
        (True, True)
        """
        if part.shape != self.shape:
            raise InputError(
                f"The part has {part.shape} voxels, the crop to {self.organ} in {self.query} {self.shape}. Give what "
                "was made of this crop, on its voxels."
            )
        whole = np.zeros(self.scan_grid.shape, part.dtype)
        whole[self.slices] = part
        return whole

    @classmethod
    def load(cls, path: str | Path) -> Crop:
        """The place in the JSON file beside a crop. Raises InputError if it is none, or is damaged.

        Examples
        --------
        >>> rprloc.write_results(".", scan, found, crop_margin_mm=15.0)
        >>> rprloc.Crop.load("query_ct.crops/heart.json").margin_mm
        15.0
        """
        path = Path(path)
        record = _read_place(path)
        if record is None:
            raise InputError(f"{path} does not tell the place of a crop. Give the .json file beside the crop.")
        try:
            if record["version"] > VERSION:
                raise InputError(
                    f"{path} has version {record['version']}, but this RPR-Loc reads versions up to {VERSION}. Update "
                    "RPR-Loc."
                )
            if record["crop"] is None:
                raise InputError(f"{path}: the box of {record['organ']} lies outside the scan, so it has no crop.")
            scan, crop = record["scan"], record["crop"]
            grid = Grid(_three_counts(scan["shape"]), np.array(scan["ras_from_ijk"], float))
            refuse_too_large(grid, path)
            start, shape = _three_counts(crop["start_ijk"]), _three_counts(crop["shape"])
            return cls(str(record["query"]), str(record["organ"]), float(record["margin_mm"]), start, shape, grid)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{path} is damaged ({error}). Cut the scan again.") from error

    def save(self, path: str | Path) -> None:
        """Write the place as JSON, whole or not at all. Raises InputError if the folder cannot be written to."""
        part = {"start_ijk": list(self.start_ijk), "shape": list(self.shape)}
        _save_place(Path(path), self.query, self.organ, self.margin_mm, part, self.scan_grid)


def require_margin(margin_mm: float | None) -> None:
    """Raise InputError for a margin that is none."""
    if margin_mm is not None and not 0.0 <= margin_mm < math.inf:
        raise InputError(f"A margin of {margin_mm} mm cannot be cut out. Give a number of millimetres from 0 on.")


def save_crops(folder: Path, volume: Volume, detections: Detections, margin_mm: float) -> None:
    """Write the scan cut to each organ that is located, and beside each image its place.

    Where a box with its margin lies outside the scan, the file of its place says so and there is no image.
    """
    require_margin(margin_mm)
    make_folder(folder)
    names = name_files(organ.organ for organ in detections.organs)
    for organ, box in detections.boxes.items():
        block = volume.grid.voxels_around(box, margin_mm)
        place = folder / f"{names[organ]}{PLACE}"
        if block is None:
            _save_place(place, detections.query, organ, margin_mm, None, volume.grid)
            continue
        (i, j, k), (ni, nj, nk) = [first for first, _ in block], [end - first for first, end in block]
        crop = Crop(detections.query, organ, margin_mm, (i, j, k), (ni, nj, nk), volume.grid)
        write_image(folder / f"{names[organ]}{IMAGE}", volume.hu[crop.slices], crop.grid)
        crop.save(place)


def list_crops(folder: Path) -> list[Path]:
    """The files of all crops in a folder. What somebody else put there is not among them."""
    places = [path for path in sorted(folder.glob(f"*{PLACE}")) if _read_place(path) is not None]
    images = [path.with_name(path.name.removesuffix(PLACE) + IMAGE) for path in places]
    return [*places, *(path for path in images if path.exists())]


def are_cut(folder: Path, organs: Sequence[str], located: Sequence[str], margin_mm: float) -> bool:
    """Whether the crops to those of the organs that are located are there, with this margin."""
    names = name_files(organs)
    for organ in located:
        record = _read_place(folder / f"{names[organ]}{PLACE}")
        if record is None or record.get("margin_mm") != margin_mm:
            return False
        if record.get("crop") is not None and not (folder / f"{names[organ]}{IMAGE}").is_file():
            return False
    return True


def _save_place(path: Path, query: str, organ: str, margin_mm: float, crop: Any, scan_grid: Grid) -> None:
    record = {
        "format": FORMAT,
        "version": VERSION,
        "query": query,
        "organ": organ,
        "margin_mm": margin_mm,
        "crop": crop,
        "scan": {"shape": list(scan_grid.shape), "ras_from_ijk": scan_grid.ras_from_ijk.tolist()},
    }
    write_text_atomically(path, json.dumps(record, ensure_ascii=False) + "\n")


def _read_place(path: Path) -> dict[str, Any] | None:
    """What the file of a place holds; None if it is no such file."""
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format") == FORMAT else None


def _three_counts(values: Any) -> tuple[int, int, int]:
    i, j, k = values
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in (i, j, k)):
        raise ValueError(f"{values} are not three integers")
    return i, j, k
