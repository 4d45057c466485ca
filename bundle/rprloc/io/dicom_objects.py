"""What DICOM objects of every kind need of the series they refer to: headers, contours, pixels, texts."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.geometry import Box, Points, lps_from_ras
from rprloc.io.dicom import DicomSeries
from rprloc.io.dicom_slice import Slice
from rprloc.version import __version__

if TYPE_CHECKING:
    from pydicom import Dataset

MAKER, PRODUCT = "RPR-Loc", "RPR-Loc organ localization"
_REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
_DATES_AND_TIMES = {"PatientBirthDate": ("%Y%m%d",), "StudyDate": ("%Y%m%d",), "StudyTime": ("%H%M%S", "%H%M", "%H")}
OF_THE_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
OF_THE_STUDY = ("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")


def slice_contours(box: Box, slices: Sequence[Slice]) -> list[tuple[Slice, Points]]:
    """The slices that cut the box, each with the corners (N, 3), LPS mm, of the polygon on it.

    Where no slice cuts it but its centre lies within half a slice, the section through its centre, on the next slice.
    """
    planes = [plane_of(plane) for plane in slices]
    cut = [(slice_, box.cross_section(*plane)) for slice_, plane in zip(slices, planes, strict=True)]
    sections = [(slice_, lps_from_ras(points_ras)) for slice_, points_ras in cut if len(points_ras)]
    if sections:
        return sections
    away_mm = [float(normal_ras @ (box.centre_ras - point_ras)) for point_ras, normal_ras in planes]
    nearest = int(np.argmin(np.abs(away_mm)))
    neighbours = [away_mm[n] for n in (nearest - 1, nearest + 1) if 0 <= n < len(planes)]
    if abs(away_mm[nearest]) > max(abs(other - away_mm[nearest]) for other in neighbours) / 2:
        return []
    _, normal_ras = planes[nearest]
    points_ras = box.cross_section(box.centre_ras, normal_ras) - away_mm[nearest] * normal_ras
    return [(slices[nearest], lps_from_ras(points_ras))]


def middle_section(sections: list[tuple[Slice, Points]]) -> list[tuple[Slice, Points]]:
    """The middle one of a box's sections, if there is any."""
    return sections[len(sections) // 2 :][:1]


def plane_of(plane: Slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A point of the slice's plane and its unit normal, RAS."""
    affine = plane.grid.ras_from_ijk
    return affine[:3, 3], affine[:3, 2] / np.linalg.norm(affine[:3, 2])


def close_polygon(points: Points) -> Points:
    return np.concatenate([points, points[:1]])


def pixels_in_boxes(plane: Slice, boxes: Sequence[Box]) -> NDArray[np.bool_]:
    """Whether each pixel's centre lies in each box: (rows, columns, boxes)."""
    centres_ras = plane.grid.centres_ras()[:, :, 0]  # (columns, rows, 3)
    inside = [((centres_ras >= box.min_ras) & (centres_ras <= box.max_ras)).all(axis=-1).T for box in boxes]
    return np.stack(inside, axis=-1)


def complete_headers(series: DicomSeries) -> list[Dataset]:
    """The series' headers, as text in UTF-8, with empty values for what DICOM wants to be there; one for each file."""
    uids = {plane.path: plane.sop_uid for plane in series.slices if plane.sop_uid}
    twice = len(uids) - len(set(uids.values()))
    if twice:
        raise InputError(
            f"{twice} of the {len(uids)} images of the series {series.uid} have a SOPInstanceUID that another one has, "
            "so DICOM results cannot refer to them. Export the series again with a UID of its own for each image."
        )
    headers = []
    away_mm = np.array([plane.position_lps for plane in series.slices[:2]], float)
    one_plane_mm = round(float(np.linalg.norm(np.diff(away_mm, axis=0))), 4) if series.slices[0].frame is None else 0
    for header in series.headers:
        missing = [name for name in _REQUIRED if not header.get(name)]
        if missing:
            raise InputError(
                f"The series {series.uid} has no {', '.join(missing)}. DICOM results refer to the series by "
                "these. Export the series again with them."
            )
        header.decode()
        for name in (*OF_THE_PATIENT, *OF_THE_STUDY):
            text = str(header.get(name) or "")
            setattr(header, name, text if _is_valid(name, text) else "")
        header.SpecificCharacterSet = "ISO_IR 192"
        if one_plane_mm and header.get("SliceThickness") is None:
            header.SliceThickness = one_plane_mm
        headers.append(header)
    return headers


def _is_valid(name: str, text: str) -> bool:
    """Whether a date or time is a whole one; of a part of one, or of another form, DICOM results say nothing."""
    forms = _DATES_AND_TIMES.get(name)
    if forms is None:
        return True
    whole, _, fraction = text.partition(".") if name.endswith("Time") else (text, "", "")
    for form in forms:
        try:
            datetime.datetime.strptime(whole, form)
        except ValueError:
            continue
        exact = len(whole) == len(datetime.datetime(2000, 1, 1).strftime(form))
        return exact and (not fraction or fraction.isdigit())
    return False


@contextmanager
def explain_missing_headers(series: DicomSeries) -> Iterator[None]:
    """What highdicom cannot find in the headers, or does not accept, as InputError."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(
            f"The headers of the series {series.uid} do not allow this DICOM result ({reason}). Export the series "
            "again with complete headers, or leave --sr and --seg out."
        ) from error


def describe_detection(detections: Detections, organ: str) -> str:
    """By what an organ was found and how far it is to be trusted, for a DICOM object's reader."""
    detection = next(located for located in detections.located if located.organ == organ)
    spreads = ", ".join(f"{mm:.1f}" for mm in detection.spread_mm)
    return (
        f"RPR-Loc {__version__}, model {detections.model_id}; {detection.remark}; spread of the votes {spreads} mm; "
        "not approved"
    )


def dicom_text(value: str, limit: int = 64) -> str:
    """A value that fits DICOM's long string: no backslash, no control characters, not too long."""
    cleaned = "".join("/" if letter == "\\" else letter if letter.isprintable() else " " for letter in value).strip()
    return cleaned[:limit] or "organ"


def require_highdicom() -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise InputError(
            "DICOM SR and SEG need highdicom, which is not installed. Install it: pip install 'rprloc[dicom]'."
        ) from error
    return highdicom
