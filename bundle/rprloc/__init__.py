"""Find organs and landmarks in CT scans from one annotated example, by relative position regression.

>>> import rprloc
>>> localizer = rprloc.Localizer.load()
>>> example = rprloc.read_example("anna.nii.gz", labels="anna_labels.nii.gz", names={1: "spleen"})
>>> organs = localizer.learn(example)
>>> found = localizer.locate(rprloc.read_volume("bert.nii.gz"), organs)
>>> found["spleen"].box.size_mm, found["spleen"].expected_wall_error_mm
(array([...]), ...)

Positions are RAS millimetres, x to the patient's right, y to the front, z to the head. The names below are loaded when
they are first used, so that importing the package is quick and needs neither PyTorch nor SimpleITK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rprloc.version import __version__ as __version__

if TYPE_CHECKING:
    from rprloc.annotation import Annotation, Example
    from rprloc.detection import AbsentLandmark, AbsentOrgan, Detections, LandmarkDetection, OrganDetection, Presence
    from rprloc.errors import InputError
    from rprloc.geometry import WALLS, Box, Grid
    from rprloc.io.annotations import read_annotation, read_example
    from rprloc.io.crops import Crop
    from rprloc.io.dicom_rtstruct import save_rtstruct
    from rprloc.io.dicom_seg import save_seg
    from rprloc.io.dicom_sr import save_sr
    from rprloc.io.label_map import save_label_map
    from rprloc.io.landmarks import read_landmarks
    from rprloc.io.markups import read_extreme_points, write_extreme_points, write_landmarks, write_rois
    from rprloc.io.mask_files import read_label_map
    from rprloc.io.pictures import save_picture
    from rprloc.io.reading import Scan, read_scan, read_volume
    from rprloc.io.results import write_results
    from rprloc.localization.localizer import Localizer
    from rprloc.localization.support import SupportSet
    from rprloc.volume import Volume

_HOMES = {
    "AbsentLandmark": "detection",
    "AbsentOrgan": "detection",
    "Annotation": "annotation",
    "Box": "geometry",
    "Crop": "io.crops",
    "Detections": "detection",
    "Example": "annotation",
    "Grid": "geometry",
    "InputError": "errors",
    "LandmarkDetection": "detection",
    "Localizer": "localization.localizer",
    "OrganDetection": "detection",
    "Presence": "detection",
    "Scan": "io.reading",
    "SupportSet": "localization.support",
    "Volume": "volume",
    "WALLS": "geometry",
    "read_annotation": "io.annotations",
    "read_example": "io.annotations",
    "read_extreme_points": "io.markups",
    "read_label_map": "io.mask_files",
    "read_landmarks": "io.landmarks",
    "read_scan": "io.reading",
    "read_volume": "io.reading",
    "save_label_map": "io.label_map",
    "save_picture": "io.pictures",
    "save_rtstruct": "io.dicom_rtstruct",
    "save_seg": "io.dicom_seg",
    "save_sr": "io.dicom_sr",
    "write_extreme_points": "io.markups",
    "write_landmarks": "io.markups",
    "write_results": "io.results",
    "write_rois": "io.markups",
}
"""The module of each public name."""

__all__ = [
    "AbsentLandmark",
    "AbsentOrgan",
    "Annotation",
    "Box",
    "Crop",
    "Detections",
    "Example",
    "Grid",
    "InputError",
    "LandmarkDetection",
    "Localizer",
    "OrganDetection",
    "Presence",
    "Scan",
    "SupportSet",
    "Volume",
    "WALLS",
    "read_annotation",
    "read_example",
    "read_extreme_points",
    "read_label_map",
    "read_landmarks",
    "read_scan",
    "read_volume",
    "save_label_map",
    "save_picture",
    "save_rtstruct",
    "save_seg",
    "save_sr",
    "write_extreme_points",
    "write_landmarks",
    "write_results",
    "write_rois",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rprloc' has no attribute {name!r}")
    value = getattr(import_module(f"rprloc.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
