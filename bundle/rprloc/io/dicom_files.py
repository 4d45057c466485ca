"""Which files below a folder are DICOM, and which should be but cannot be read: a scan is never shortened silently."""

from __future__ import annotations

import os
import re
import warnings
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rprloc.errors import InputError
from rprloc.files import readable

_PREAMBLE = 132  # bytes; the last four of them are DICM
_NAMED_AS_DICOM = (".dcm", ".dicom", ".ima")
_APPLE_DOUBLE = b"\0\x05\x16\x07"  # what macOS puts beside each file that it copies to another system
_ADDED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".part", ".partial", ".filepart", ".crdownload", ".tmp")
"""What compression and broken downloads add to a file's name."""
_COUNTED = re.compile(r"[0-9a-f]{4,}|\d+")


@dataclass(frozen=True)
class Fault:
    """Why a file cannot be read: ``what`` is wrong with it, as words that follow its name, and what to do."""

    path: Path
    what: str
    advice: str = "Export the series again"
    slices: int = 1
    """How many slices of a CT scan it may hold; none if it is, for example, a picture in colour."""
    near: frozenset[str] = frozenset()
    """Where nobody knows the file's series: the series whose files stand next to it in the order of names."""
    beside: frozenset[str] = frozenset()
    """The series that have files in the same folder."""

    def inside(self, archive: Path, names: Mapping[Path, Path]) -> Fault:
        """The same, with the file's name in the archive out of which it comes, if it does."""
        return replace(self, path=Path(f"{archive}/{names[self.path]}")) if self.path in names else self

    def error(self) -> InputError:
        return InputError(readable(f"{self.path} {self.what}. {self.advice}."))  # headers may hold any letter


def damage(path: Path, error: object) -> Fault:
    """A file in which a library failed. Addresses and names of classes, which say nothing to the user, are left out."""
    reason = " ".join(str(error).split()).rsplit("0x", 1)[-1]
    reason = reason.split("): ", 1)[-1][:120].rstrip(". ")
    reason = re.sub(r"'\w+' object has no attribute '(\w+)'", r"it has no \1", reason)
    if isinstance(error, TypeError) and "NoneType" in reason:
        reason = "a value that it needs is empty"
    return Fault(path, f"is damaged or cut off ({reason or type(error).__name__})")


def begins_as_dicom(start: bytes) -> bool:
    """Whether a file that starts with these bytes is DICOM, be it without preamble and meta header."""
    return start[128:_PREAMBLE] == b"DICM" or _begins_with_data_set(start)


def _begins_with_data_set(start: bytes) -> bool:
    """Whether the first element is one of group 0002 or 0008, as old exports and some archives write them."""
    for order, group in (("little", start[:2]), ("big", start[1::-1])):
        number = int.from_bytes(start[2:4], "little" if order == "little" else "big")
        if len(start) >= 8 and group in (b"\x02\0", b"\x08\0") and number < 0x100:
            explicit = start[4:6].isalpha() and start[4:6].isupper()
            return explicit or int.from_bytes(start[4:8], "little") <= 1024
    return False


def read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_PREAMBLE)


def files_below(folder: Path) -> tuple[list[Path], list[Fault]]:
    """All files in a folder and below it in the order of their names, and the folders that cannot be opened.

    Links to folders are followed, each folder once.
    """
    files: list[Path] = []
    faults: list[Fault] = []
    seen: set[str] = set()

    def note(error: OSError) -> None:
        faults.append(_unopened(Path(str(error.filename)), error))

    for root, folders, names in os.walk(folder, followlinks=True, onerror=note):
        where = os.path.realpath(root)
        if where in seen:
            folders.clear()
            continue
        seen.add(where)
        folders.sort()
        files += [Path(root, name) for name in sorted(names)]
    return files, faults


def only_dicom(files: Iterable[Path], names: Mapping[Path, Path]) -> tuple[list[Path], list[Fault]]:
    """Those of the files that are DICOM, and those that should be: broken links, empty or cut files.

    Other files are passed over. What else is not DICOM counts as a fault where its name says that it should be.
    ``names`` has the names of files that have another one now.
    """
    dicom: list[Path] = []
    faults: list[Fault] = []
    others: list[tuple[Path, bytes]] = []
    for path in files:
        try:
            if not path.is_file():
                if path.is_symlink():
                    faults.append(Fault(path, "is a link to a file that is not there", _COPY))
                continue
            start = read_start(path)
        except OSError as error:
            faults.append(_unopened(path, error))
            continue
        if begins_as_dicom(start):
            dicom.append(path)
        else:
            others.append((path, start))
    named = {names.get(path, path) for path in dicom}
    sequences = {_sequence(name) for name in named}
    for path, start in others:
        name = names.get(path, path)
        plain = _without_added_end(name)
        if name.name.startswith(".") or start.startswith(_APPLE_DOUBLE) or plain in named:
            continue
        ends = {end.lower() for end in name.suffixes}  # also of IM7.dcm.gz
        named_so = not ends.isdisjoint(_NAMED_AS_DICOM) or _sequence(name) in sequences
        if not start:
            faults.append(Fault(path, "is empty", _COPY))
        elif named_so and plain != name:
            faults.append(Fault(path, "is compressed, or was not copied to its end", _COPY))
        elif named_so or start.startswith(b"DICM") or not start.strip(b"\0"):
            cut = len(start) < _PREAMBLE
            faults.append(Fault(path, "is cut off at its beginning" if cut else "does not begin as DICOM does", _COPY))
    return dicom, faults


_COPY = "Copy or export the series again"


def lost_by_directory(files: Sequence[Path], names: Mapping[Path, Path]) -> list[Fault]:
    """The images that a DICOMDIR among the files lists and that are not there, each near its own series.

    ``names`` as for :func:`only_dicom`. Systems differ in capitals and in extensions.
    """
    import pydicom

    known = [names.get(path, path) for path in files]
    there = {str(name).casefold() for path in known for name in (path, path.with_suffix(""))}
    faults = []
    for path in files:
        name = names.get(path, path)
        if name.name.upper() != "DICOMDIR":
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                records = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence"]).DirectoryRecordSequence
                listed = [
                    (r.DirectoryRecordType, r.get("SeriesInstanceUID"), r.get("ReferencedFileID")) for r in records
                ]
        except Exception:  # noqa: BLE001 (pydicom raises anything; a list that cannot be read lists nothing)
            continue
        series = None
        for kind, uid, parts in listed:
            series = uid if kind == "SERIES" else series
            lost = name.parent.joinpath(*([parts] if isinstance(parts, str) else parts or ()))
            if kind == "IMAGE" and series and parts and str(lost).casefold() not in there:
                what = "is listed in DICOMDIR, but is not there"
                faults.append(Fault(lost, what, _COPY, near=frozenset([str(series)])))
    return faults


def _unopened(path: Path, error: OSError) -> Fault:
    return Fault(path, f"cannot be opened ({error.strerror or error})", _COPY)


def with_neighbours(faults: Sequence[Fault], series_of: Mapping[Path, str], names: Mapping[Path, Path]) -> list[Fault]:
    """The faults, each with the series of the files before and after it among those that are named alike."""
    if not faults:
        return []
    alike: dict[tuple[Path, str], list[tuple[tuple[list[int], str], str]]] = defaultdict(list)
    in_folder: dict[Path, set[str]] = defaultdict(set)
    for path, uid in series_of.items():
        name = names.get(path, path)
        alike[_sequence(name)].append((_by_number(name), uid))
        in_folder[name.parent].add(uid)
    for order in alike.values():
        order.sort()
    result = []
    for fault in faults:
        name = names.get(fault.path, fault.path)
        order = alike[_sequence(name)]
        place = bisect_left(order, (_by_number(name), ""))
        near = frozenset(uid for _, uid in order[max(place - 1, 0) : place + 1])
        result.append(replace(fault, near=near, beside=frozenset(in_folder[name.parent])))
    return result


def _sequence(path: Path) -> tuple[Path, str]:
    """What files that are numbered one after the other have in common."""
    return path.parent, _COUNTED.sub("#", _without_added_end(path).name.lower())


def _without_added_end(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in _ADDED else path


def _by_number(path: Path) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", path.name)], path.name
