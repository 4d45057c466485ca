"""Which form an annotation has, found out from what a file or a folder holds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rprloc.errors import InputError
from rprloc.geometry import Points
from rprloc.io.archive import unpack
from rprloc.io.dicom import is_dicom
from rprloc.io.dicom_belonging import read_data_set
from rprloc.io.dicom_contours import read_contours
from rprloc.io.dicom_files import Fault, files_below, only_dicom, read_start
from rprloc.io.dicom_headers import BROKEN
from rprloc.io.dicom_segments import read_segments
from rprloc.io.dicom_sr_points import REPORTS
from rprloc.io.formats import image_extension, require_content
from rprloc.io.markups import read_marked_organs
from rprloc.io.mask_files import open_label_map, open_mask
from rprloc.io.reading import Scan, explain_reading_errors
from rprloc.io.slicer_segmentation import read_segmentation
from rprloc.io.structures import Marked, Structure, listed

if TYPE_CHECKING:
    from pydicom import Dataset

_MARKUPS = ".mrk.json"
_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # of segments, of label maps
_READERS: dict[str, Callable[[Path, Dataset, Scan], Marked]] = {
    _STRUCTURE_SET: read_contours,
    **dict.fromkeys(_SEGMENTATIONS, read_segments),
}
_BY_MODALITY = {"RTSTRUCT": _STRUCTURE_SET, "SEG": _SEGMENTATIONS[0]}


def open_annotation(path: Path, scan: Scan) -> Marked:
    """What a file or a folder marks on a scan. Raises InputError for what is no annotation, or is of another scan."""
    require_content(path)
    with explain_reading_errors(path):
        if path.is_dir():
            return _open_folder(path, scan)
        start = read_start(path) if path.is_file() else b""
        if path.is_file() and (start.startswith(b"PK\x03\x04") or path.name.lower().endswith(".zip")):
            kept = unpack(path)
            return _open_dicom(path, kept.files, kept.names, scan)
        if path.is_file() and is_dicom(path):
            return _read_dicom(path, path, scan)
        segmentation = read_segmentation(path) if start.startswith(b"NRRD") else None
        if segmentation is not None:
            return segmentation
        if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
            return Marked(path, "a Markups file of 3D Slicer", _marked_organs(path))
        return open_label_map(path, scan.volume.grid)


def _marked_organs(path: Path) -> list[Structure]:
    def reader(points_ras: Points) -> Callable[[], Points]:
        return lambda: points_ras

    return [Structure(name, reader(points_ras)) for name, points_ras in read_marked_organs(path)]


def _open_folder(folder: Path, scan: Scan) -> Marked:
    """A folder with a file for each organ, or else with DICOM in it or below it."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    structures: list[Structure] = []
    taken = set()
    for path in entries:
        if not path.is_file() or not (image_extension(path) or path.name.lower().endswith(_MARKUPS)):
            continue
        require_content(path)
        taken.add(path)
        if path.name.lower().endswith(_MARKUPS):
            structures += _marked_organs(path)
            continue
        segmentation = read_segmentation(path) if read_start(path).startswith(b"NRRD") else None
        structures += [open_mask(path, scan.volume.grid)] if segmentation is None else segmentation.structures
    if not taken:
        files, faults = files_below(folder)
        return _open_dicom(folder, files, {}, scan, faults)
    others = [path.name for path in entries if path not in taken]
    remarks = [f"Passed over: {listed(others)}."] if others else []
    return Marked(folder, "a folder with a file for each organ", structures, (), remarks)


def _open_dicom(
    path: Path, files: Iterable[Path], names: dict[Path, Path], scan: Scan, faults: Sequence[Fault] = ()
) -> Marked:
    """The only annotation of the scan among DICOM files. ``names`` has what files of an archive are called in it."""
    dicom, damaged = only_dicom(files, names)
    annotations = [file for file in dicom if _class_of(file) in _READERS]
    if not annotations:
        for fault in (*faults, *damaged):
            raise fault.inside(path, names).error()
        raise InputError(
            f"{path} holds no annotation: no DICOM RT structure set or segmentation, and no mask or Markups file. Give "
            "the file or the folder with the annotation."
        )
    found, errors = [], []
    for file in annotations:
        try:
            shown = Path(f"{path}/{names[file]}") if file in names else file
            found.append(_read_dicom(file, shown, scan))
        except InputError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    if len(found) > 1:
        which = listed([marked.path.name for marked in found])
        raise InputError(f"{path} holds {len(found)} annotations of the scan ({which}). Give one of these files.")
    remarks = list(found[0].remarks)
    if errors:
        remarks.append(f"Passed over: annotations that are damaged or of another scan ({len(errors)}).")
    return replace(found[0], path=path, remarks=remarks)


def _read_dicom(path: Path, shown: Path, scan: Scan) -> Marked:
    """What a DICOM file marks; ``shown`` is what it is called in messages."""
    read = _READERS.get(_class_of(path))
    if read is None:
        hint = " A report (SR) with points goes with --landmarks." if _class_of(path).startswith(REPORTS) else ""
        raise InputError(
            f"{shown} is a DICOM file, but no RT structure set and no segmentation. Give the file with the "
            f"annotation.{hint}"
        )
    return read(shown, read_data_set(path, shown), scan)


def _class_of(path: Path) -> str:
    """The SOP class of a DICOM file, or that which its modality stands for; an empty text if nobody can tell."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID", "Modality"])
            said = str(data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID") or "")
            return said or _BY_MODALITY.get(str(data.get("Modality") or "").upper(), "")
    except (*BROKEN, OSError, pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException):
        return ""
