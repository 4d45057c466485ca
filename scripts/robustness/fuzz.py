"""A fuzzer: good files with random edits are read right or refused, or the edit that shows a fault is kept.

    python -m scripts.robustness.fuzz --out finds [--minutes 10] [--seed 0]

The edits change bytes, numbers and lines of a header. Whatever comes of it, reading must give a scan or one clear
sentence, within 10 seconds. A NIfTI or NRRD file that is read is also read by another program (nibabel, pynrrd):
where both read it, both must find the same voxels at the same places. What goes wrong is made as small as possible and
written to the folder, with the error. Each find becomes a case of ``scripts.robustness.malformed_inputs``.
"""

from __future__ import annotations

import argparse
import faulthandler
import gzip
import re
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import nibabel
import nrrd
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tqdm import tqdm

from rprloc.annotation import Annotation
from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.io.annotations import read_annotation
from rprloc.io.label_names import read_names
from rprloc.io.landmarks import read_landmarks
from rprloc.io.markups import read_extreme_points
from rprloc.io.mask_files import read_label_map
from rprloc.io.reading import Scan, read_scan
from rprloc.localization.support import SupportSet
from scripts.robustness.annotations import good_annotations
from scripts.robustness.damage import Truth
from scripts.robustness.good_files import write_good_files

LIMIT_S = 10.0
_EXAMPLES = 200  # between two looks at the clock
_NUMBERS = (
    *(b"0", b"1", b"-1", b"2", b"3", b"4", b"7", b"255", b"-32768", b"65535", b"2147483648", b"18446744073709551616"),
    *(b"0.5", b"-0", b"1e-320", b"1e38", b"1e308", b"1e999", b"nan", b"inf", b"-inf", b"none", b"x", b""),
)
_LIMITS = [
    b"\0" * 4,
    b"\xff" * 4,
    b"\0\0\x80\x7f",
    b"\0\0\x80\xff",
    b"\0\0\xc0\x7f",
    b"\0\0\x80\x3f",
    b"\xff\x7f",
    b"\x01\0",
]
_NUMBER = re.compile(rb"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")

Edit = tuple[str, int, bytes]


@dataclass(frozen=True)
class Target:
    """What is fuzzed: the file that is edited, where, and how it is read."""

    file: str
    header: range
    """Where the edits begin: its header without the word that tells the format."""
    read: Callable[[Path], object]
    is_binary: bool = False
    is_zipped: bool = False
    """Whether the edits meet what is zipped in it, not the zipped bytes."""


def edits(target: Target) -> st.SearchStrategy[list[Edit]]:
    """One to four edits of a target's header: what is done, where, and with which bytes."""
    some, place = st.binary(min_size=1, max_size=8), st.sampled_from(target.header)
    setting = st.tuples(st.just("set"), place, st.one_of(some, st.sampled_from(_LIMITS)))
    cutting = st.tuples(st.sampled_from(["insert", "delete", "cut"]), place, some)
    wording = st.tuples(st.sampled_from(["number", "copy line", "swap lines"]), place, st.sampled_from(_NUMBERS))
    likely = setting if target.is_binary else wording
    rarely = {8: setting, 9: cutting}
    edit = st.sampled_from(range(10)).flatmap(lambda choice: rarely.get(choice, likely))
    return st.lists(edit, min_size=1, max_size=4)


def apply_edits(data: bytes, chosen: list[Edit], header: int) -> bytes:
    """The file after its edits, which begin in its first ``header`` bytes."""
    changed = bytearray(data)
    for kind, place, new in chosen:
        start = min(place, len(changed))
        if kind == "insert":
            changed[start:start] = new
        elif kind == "set":
            changed[start : start + len(new)] = new
        elif kind == "delete":
            del changed[start : start + len(new)]
        elif kind == "cut":
            del changed[start:]
        elif kind == "number" and (numbers := list(_NUMBER.finditer(changed, 0, header))):
            found = numbers[place % len(numbers)]
            changed[found.start() : found.end()] = new
        elif kind in ("copy line", "swap lines") and (ends := changed[:header].count(b"\n")) > 1:
            lines = bytes(changed).split(b"\n", ends)
            one, other = place % ends, place // ends % ends
            if kind == "copy line":
                lines.insert(other, lines[one])
            else:
                lines[one], lines[other] = lines[other], lines[one]
            changed = bytearray(b"\n".join(lines))
    return bytes(changed)


def _read_scan_in(path: Path) -> Scan:
    scan = read_scan(path)
    _ = scan.warnings
    return scan


def _read_labels(path: Path) -> object:
    volume = read_scan(path.parent / "scan.nii").volume
    return Annotation.from_labels(read_label_map(path, volume.grid), volume.grid, {1: "bone"})


@cache
def _series_in(folder: Path) -> Scan:
    return read_scan(folder / "series.zip")


def _read_annotation(path: Path) -> Annotation:
    return read_annotation(path, _series_in(path.parent))


def _read_report(path: Path) -> object:
    return read_landmarks(path, _series_in(path.parent))


TARGETS = {
    ".nii": Target("scan.nii", range(4, 344), _read_scan_in, is_binary=True),
    ".nii.gz": Target("scan.nii.gz", range(4, 344), _read_scan_in, is_binary=True, is_zipped=True),
    "zipped bytes": Target("scan.nii.gz", range(3000), _read_scan_in, is_binary=True),
    ".nrrd": Target("scan.nrrd", range(9, 300), _read_scan_in),
    ".nhdr": Target("scan.nhdr", range(9, 300), _read_scan_in),
    ".mha": Target("scan.mha", range(350), _read_scan_in),
    ".mhd": Target("scan.mhd", range(350), _read_scan_in),
    "DICOM": Target("series/slice07.dcm", range(132, 1300), lambda path: _read_scan_in(path.parent), is_binary=True),
    "zip": Target("series.zip", range(3000), _read_scan_in, is_binary=True),
    "label map": Target("labels.nii.gz", range(4, 2000), _read_labels, is_binary=True, is_zipped=True),
    "structure set": Target("a.rtstruct", range(132, 6000), _read_annotation, is_binary=True),
    "report": Target("a.sr", range(132, 1300), _read_report, is_binary=True),
    "segmentation": Target("a.seg", range(132, 3000), _read_annotation, is_binary=True),
    ".seg.nrrd": Target("a.seg.nrrd", range(9, 600), _read_annotation),
    "names": Target("names.json", range(3000), read_names),
    "markups": Target("points.mrk.json", range(5000), read_extreme_points),
    "support set": Target("set.json", range(3000), SupportSet.load),
    "detections": Target("scan.detections.json", range(3000), Detections.load),
}


def prepare(folder: Path) -> None:
    """Write the good files into a new folder, as the targets want them."""
    write_good_files(folder)
    for name, data in good_annotations().items():
        (folder / name).write_bytes(data)
    (folder / "series").mkdir()
    with zipfile.ZipFile(folder / "series.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.glob("slice*.dcm")):
            archive.write(path, path.name)
            path.rename(folder / "series" / path.name)


def check(target: Target, folder: Path, data: bytes) -> None:
    """Read a target with these bytes in place of its own. Raises AssertionError, or whatever reading it raises."""
    path = folder / target.file
    path.write_bytes(data)
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it would be a stray line on a user's screen
            result = target.read(path)
    except InputError as error:
        assert "\n" not in str(error) and str(error).endswith("."), f"no clear sentence: {error}"
    else:
        truth = _by_another_program(path) if isinstance(result, Scan) else None
        if truth is not None:
            difference = truth.differs(cast(Scan, result))
            assert not difference, f"another program reads otherwise: {difference}"
    seconds = time.perf_counter() - started
    assert seconds < LIMIT_S, f"it took {seconds:.0f} s"


def _by_another_program(path: Path) -> Truth | None:
    """What nibabel or pynrrd makes of a scan; None for what they cannot read, or see in a way of their own."""
    read = {".nii": _by_nibabel, ".gz": _by_nibabel, ".nrrd": _by_pynrrd, ".nhdr": _by_pynrrd}.get(path.suffix)
    if read is None:
        return None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            array, affine = read(path)
        except Exception:  # noqa: BLE001 (whatever it raises: its limits are not ours)
            return None
        steps = np.linalg.norm(affine[:3, :3], axis=0)
        axes = affine[:3, :3] / steps
        if array.ndim != 3 or not np.isfinite(axes).all() or np.abs(axes.T @ axes - np.eye(3)).max() > 1e-5:
            return None  # sheared axes are straightened
    return Truth(array, affine)


def _by_nibabel(path: Path) -> tuple[Any, Any]:
    image: Any = nibabel.load(path)
    array = np.asanyarray(image.dataobj)
    unit_mm = {1: 1000.0, 3: 1e-3}.get(int(image.header["xyzt_units"]) & 7, 1.0)  # nibabel leaves it to the caller
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return array, np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ image.affine


def _by_pynrrd(path: Path) -> tuple[Any, Any]:
    array, header = nrrd.read(str(path))
    signs = {"left-posterior-superior": (-1, -1, 1), "right-anterior-superior": (1, 1, 1)}
    signs |= {"left-anterior-superior": (-1, 1, 1), "lps": (-1, -1, 1), "ras": (1, 1, 1), "las": (-1, 1, 1)}
    unit_mm = {"cm": 10.0, "m": 1000.0, "um": 1e-3}.get(str((header.get("space units") or ["mm"])[0]), 1.0)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.asarray(header["space directions"]).T, header["space origin"]
    return array, np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ np.diag([*signs[header["space"].lower()], 1.0]) @ affine


def fuzz(name: str, folder: Path, number: int, examples: int = _EXAMPLES) -> tuple[bytes, str] | None:
    """Try a target with edits of its own for each ``number``; the smallest file that shows a fault, and the fault."""
    target = TARGETS[name]
    good = (folder / target.file).read_bytes()
    plain = gzip.decompress(good) if target.is_zipped else good
    last = good

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(edits(target))
    def attempt(chosen: list[Edit]) -> None:
        nonlocal last
        last = apply_edits(plain, chosen, target.header.stop)
        last = gzip.compress(last, 1) if target.is_zipped else last
        faulthandler.dump_traceback_later(6 * LIMIT_S, exit=True)  # a hang; the file lies in the folder
        check(target, folder, last)

    try:
        attempt()
    except Exception:  # noqa: BLE001 (any at all is a find)
        return last, traceback.format_exc(limit=-4)
    finally:
        faulthandler.cancel_dump_traceback_later()
        (folder / target.file).write_bytes(good)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder for what is found")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.out.exists():
        raise SystemExit(f"{arguments.out} exists already. Name a new folder.")
    folder = arguments.out / "good"
    prepare(folder)
    started, tried, known = time.monotonic(), 0, set[str]()
    with tqdm(total=round(60 * arguments.minutes), unit="s") as progress:
        while (seconds := time.monotonic() - started) < 60 * arguments.minutes:
            progress.update(round(seconds) - progress.n)
            name = list(TARGETS)[tried % len(TARGETS)]
            found = fuzz(name, folder, arguments.seed + tried)
            tried += 1
            if found and found[1] not in known:
                known.add(found[1])
                path = arguments.out / f"{len(known):02d} {Path(TARGETS[name].file).name}"
                path.write_bytes(found[0])
                path.with_name(path.name + ".txt").write_text(found[1], encoding="utf-8")
                progress.write(f"{path}: {found[1].strip().splitlines()[-1][:200]}")
    print(f"About {tried * _EXAMPLES} files from seed {arguments.seed} on: {len(known)} faults.")
    raise SystemExit(1 if known else 0)


if __name__ == "__main__":
    main()
