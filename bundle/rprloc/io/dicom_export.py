"""Results as DICOM objects that refer to the series in which the organs were located: RTSTRUCT, SR and SEG.

RTSTRUCT holds each box as closed contours on the slices, for planning systems; SR as planar regions in space with
measurements; SEG as a mask. All are of the patient and study of the series, and say that no person has approved them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rprloc.detection import Detections
from rprloc.io.dicom import DicomSeries
from rprloc.io.dicom_objects import require_highdicom
from rprloc.io.dicom_rtstruct import save_rtstruct
from rprloc.io.dicom_seg import save_seg
from rprloc.io.dicom_sr import save_sr

DICOM_WRITERS: Mapping[str, Callable[[str | Path, Detections, DicomSeries], None]] = {
    "rtstruct": save_rtstruct,
    "sr": save_sr,
    "seg": save_seg,
}
"""What writes each kind of DICOM result, by the suffix of its file's name before ``.dcm``."""


def require_dicom_writers(kinds: Sequence[str]) -> None:
    """Raise InputError before the work if what writes these kinds of results is not installed."""
    if any(kind in ("sr", "seg") for kind in kinds):
        require_highdicom()
