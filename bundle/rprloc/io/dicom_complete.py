"""Whether the files of a DICOM series are one scan, and all of it: faults, copies, lost ends, several acquisitions."""

from __future__ import annotations

import filecmp
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.io.dicom import DicomSeries, describe_faults
from rprloc.io.dicom_files import Fault
from rprloc.io.dicom_headers import OWNERS, PAUSE_S, UNSURE_UNITS
from rprloc.io.dicom_slice import Slice

_WORDS = {
    "AcquisitionNumber": "acquisition number",
    "AcquisitionUID": "acquisition",
    "IrradiationEventUID": "irradiation event",
    "TemporalPositionIdentifier": "temporal position",
    "TemporalPositionIndex": "temporal position",
    "NominalPercentageOfCardiacPhase": "cardiac phase",
    "ImageType": "image type",
    "FrameType": "image type",
    "ComplexImageComponent": "image type",
    "EchoNumbers": "echo",
    "EchoTime": "echo time",
    "InversionTime": "inversion time",
    "DiffusionBValue": "diffusion weighting",
    "StackID": "stack",
    "ConvolutionKernel": "reconstruction kernel",
    "KVP": "tube voltage",
    "AcquisitionTime": "acquisition time",
    "AcquisitionDateTime": "acquisition time",
    "ContentTime": "content time",
}


def one_scan_of(series: DicomSeries, path: Path) -> tuple[list[Slice], list[str]]:
    """The slices of the series without copies, and notes on what was left out.

    Raises InputError, naming ``path``, for a fault of one of its files, and where slices were lost at an end.
    """
    if series.faults:
        raise series.faults[0].error()
    slices, notes = _without_copies(series.slices)
    notes += _require_common_origin(slices, path)
    _require_all_parts(slices, path)
    lost = _lost_slices(series.uid, slices, series.left_out)
    if lost:
        raise InputError(
            f"{path} may lack slices at an end of the scan, as {describe_faults(lost)} cannot be read. "
            "Copy or export the series again. Take away files that do not belong to it."
        )
    if series.left_out:
        notes.append(f"Files that cannot be read were left out: {describe_faults(series.left_out)}.")
    unsure = {plane.rescale_type for plane in slices} & set(UNSURE_UNITS)
    if unsure and series.may_be_ct:
        notes.append(
            f"The series does not say that its values are ordinary Hounsfield units (rescale type {min(unsure)}). "
            "Check where it comes from."
        )
    return slices, notes


def _require_common_origin(slices: Sequence[Slice], path: Path) -> list[str]:
    """A note if every slice has a frame of reference of its own, as some programs write it that hide names.

    Raises InputError for slices of several patients, studies, frames of reference or positions of the patient, whatever
    their series is.
    """
    for name, word in OWNERS.items():
        first_with: dict[str, Slice] = {}
        for plane in slices:
            if name in plane.owners:
                first_with.setdefault(plane.owners[name], plane)
        if name == "FrameOfReferenceUID" and len(first_with) == len(slices) > 1:
            return ["Every slice has a frame of reference of its own, so nothing tells whether they belong together."]
        if len(first_with) > 1:
            one, other, *_ = first_with.values()
            raise InputError(
                f"The slices in {path} do not belong together: {one.name} and {other.name} differ in {word}. "
                "Export one scan as a series of its own."
            )
    return []


def _require_all_parts(slices: Sequence[Slice], path: Path) -> None:
    """Raises InputError if a part of a scan that was written in several files is not there."""
    there: dict[str, set[int]] = defaultdict(set)
    told: dict[str, int] = defaultdict(int)
    for plane in slices:
        if plane.concatenation is not None:
            uid, number, count = plane.concatenation
            there[uid].add(number)
            told[uid] = max(told[uid], number, count or 0)
    for uid, numbers in there.items():
        if len(numbers) < told[uid]:
            raise InputError(
                f"{path} holds {len(numbers)} of the {told[uid]} parts in which the scan was written. Copy or export "
                "all of them."
            )


def _without_copies(slices: Sequence[Slice]) -> tuple[list[Slice], list[str]]:
    """The slices without files that are in the folder twice, byte for byte, and a note on them."""
    kept: list[Slice] = []
    first_of: dict[tuple[str, int | None], Slice] = {}
    copies: dict[Path, Path] = {}
    for plane in slices:
        first = first_of.setdefault((plane.sop_uid, plane.frame), plane)
        if plane.path in copies:
            continue
        if plane.sop_uid and first.path != plane.path and filecmp.cmp(first.path, plane.path, shallow=False):
            copies[plane.path] = first.path
        else:
            kept.append(plane)
    if not copies:
        return kept, []
    copy, first_path = next(iter(copies.items()))
    count = "1 file" if len(copies) == 1 else f"{len(copies)} files"
    return kept, [f"Copies of other files were left out: {count} ({copy.name}, a copy of {first_path.name})."]


def _lost_slices(uid: str, slices: Sequence[Slice], left_out: Sequence[Fault]) -> list[Fault]:
    """The files that were left out and are, by their names or by the slices' numbers, from an end of the series.

    A gap in the middle shows by itself; an end does not. A file that stands among those of the series, by its name, is
    taken for a slice of it. So is one in the same folder, if the slices are numbered without a gap, but not from 1.
    """
    among = [fault for fault in left_out if uid in fault.near]
    numbers = sorted(plane.instance for plane in slices if plane.instance is not None)
    in_a_row = len(numbers) == len(slices) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    if among or not in_a_row or numbers[0] <= 1:
        return among
    return [fault for fault in left_out if uid in fault.beside]


def require_one_acquisition(
    ordered: Sequence[Slice], along_mm: NDArray[np.float64], path: Path, *, in_turn: bool = True
) -> None:
    """Raises InputError if several scans share the series and lie in each other along the normal.

    Passes that lie end to end are one scan: then the slices of each follow each other. Slices that are not taken
    ``in_turn``, as in MR, where every second one may come a breath later, are not told apart by their times.
    """
    for name, word in _WORDS.items():
        if name in PAUSE_S and not in_turn:
            continue
        values = [plane.told_apart_by.get(name) for plane in ordered]
        labels: Sequence[Hashable] = _scans_by_time(values, PAUSE_S[name]) if name in PAUSE_S else values
        runs_of: dict[Hashable, int] = defaultdict(int)
        for n, label in enumerate(labels):
            runs_of[label] += n == 0 or label != labels[n - 1]
        if max(runs_of.values()) == 1:
            continue
        n = next(n for n in range(1, len(labels)) if labels[n] != labels[n - 1])
        raise InputError(
            f"The series in {path} holds several scans or phases that lie in each other: {ordered[n - 1].name} and "
            f"{ordered[n].name} are neighbours and differ in {word}. Export one of them as a series of its own."
        )


def _scans_by_time(seconds: Sequence[object], pause_s: float) -> list[int]:
    """The scan to which each slice belongs; all are one without times.

    A pause separates two scans. So does any difference where a few times alternate from slice to slice: these are of
    whole phases, not of single slices.
    """
    times = np.array([value for value in seconds if isinstance(value, float)])
    if len(times) < len(seconds) or len(times) == 0:
        return [0] * len(seconds)
    few = len(np.unique(times)) <= len(times) / 8 and np.count_nonzero(np.diff(times)) >= len(times) / 2
    in_time = np.sort(times)
    starts = in_time[1:][np.diff(in_time) > (0.0 if few else pause_s)]
    return [int(number) for number in np.searchsorted(starts, times, side="right")]
