"""Record what the program finds on fixed input, and compare two records: a net under a change of form.

    python -m scripts.release.record_results record FOLDER [--data DATASETS.json]
    python -m scripts.release.record_results compare BEFORE AFTER

``record`` runs the program and keeps what it writes; ``compare`` ends with exit code 1 if anything differs.

A record is made through the command line and the bundle alone, so it can be made of any version of the program. It
holds support sets from a label map and from six points, the detections in three scans of every region by one and by
several examples, all results of a DICOM series, and the bundle's output. Without the annotated scans, only those of
the demonstration are used. Numbers may differ by 0.001 (mm). What names a moment, a file or a software version may
differ freely, and so may the words of a warning, but not how many there are.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

_BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
_TOLERANCE = 1e-3
_FREE_KEYS = ("software", "support_id", "run")
_FREE_TAGS = re.compile(r"Date$|Time$|SoftwareVersions|AlgorithmVersion|UID$|ContributingEquipment")


def record(folder: Path, data: Path | None) -> None:
    """Run the program on fixed input and keep what it writes in ``folder``."""
    folder.mkdir(parents=True)
    _run_rprloc("demo", "--out", folder / "demo")
    demo = folder / "demo" / "scans"
    series = _write_series(demo / "query_ct.nii.gz", folder / "series")
    kinds = ["--labels", "--picture", "--rtstruct", "--sr", "--seg"]
    _run_rprloc("locate", folder / "demo" / "heart.support.json", series, "--out", folder / "dicom", *kinds)
    if data is not None:
        for region, entry in json.loads(data.read_text(encoding="utf-8")).items():
            if any(case["split"] == "support" for case in entry["cases"].values()):
                _record_region(folder / region, data.parent / region, entry)
    for path in [*demo.iterdir(), *series.iterdir()]:
        path.unlink()  # input, no result


def _record_region(out: Path, region: Path, entry: dict[str, Any]) -> None:
    out.mkdir()
    cases = entry["cases"]
    supports = [name for name, case in cases.items() if case["split"] == "support"][:2]
    queries = [name for name, case in cases.items() if case["split"] in ("val", "test")][:3]
    for name in supports:
        named = {number: organ for number, organ in entry["labels"].items() if organ in cases[name]["targets"]}
        names = out / f"{name}.names.json"
        names.write_text(json.dumps(named), encoding="utf-8")
        marks = ["--labels", region / "labels" / f"{name}.nii.gz", "--names", names, "--scan-name", name]
        image = region / "images" / f"{name}.nii.gz"
        _run_rprloc("support", "build", "--image", image, *marks, "--out", out / f"{name}.json")
    number, organ = next(iter(named.items()))
    points = out / "points.mrk.json"
    _write_points(region / "labels" / f"{name}.nii.gz", int(number), points)
    marks = ["--markups", points, "--name", organ]
    _run_rprloc("support", "build", "--image", image, *marks, "--out", out / "points.json")
    _run_rprloc("support", "merge", *(out / f"{name}.json" for name in supports), "--out", out / "all.json")
    scans = [region / "images" / f"{name}.nii.gz" for name in queries]
    for support_set in (supports[0], "points", "all"):
        _run_rprloc("locate", out / f"{support_set}.json", *scans, "--out", out / support_set, "--labels")
    options = {"bundle_root": ".", "dataset_dir": str(scans[0]), "support_set": str(out / "all.json")}
    options |= {"output_dir": str(out / "bundle"), "config_file": "configs/inference.json"}
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    _run("-m", "monai.bundle", "run", *words, folder=_BUNDLE)


def _run_rprloc(*arguments: object) -> None:
    _run("-m", "rprloc", *arguments)


def _run(*arguments: object, folder: Path | None = None) -> None:
    path = os.pathsep.join([str(_BUNDLE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *(str(argument) for argument in arguments)]
    subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def _write_points(labels: Path, number: int, path: Path) -> None:
    """Six extreme points of a label, by plain arithmetic, as Slicer's Markups (LPS)."""
    image = sitk.ReadImage(str(labels))
    mask = np.equal(sitk.GetArrayFromImage(image).T, number)
    places_lps = np.array([image.TransformIndexToPhysicalPoint(ijk.tolist()) for ijk in np.argwhere(mask)])
    ends = [places_lps[pick(places_lps[:, axis])] for axis in range(3) for pick in (np.argmin, np.argmax)]
    points = [{"id": str(n), "label": str(n), "position": end.tolist()} for n, end in enumerate(ends)]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    path.write_text(json.dumps({"markups": [markup]}), encoding="utf-8")


def _write_series(scan: Path, folder: Path) -> Path:
    """The scan as a DICOM series of axial slices, the same bytes every time but for identifiers made by ITK."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(scan)), "LPS")
    image = sitk.Cast(sitk.Clamp(image, sitk.sitkInt16, -1024, 3071), sitk.sitkInt16)
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(image.GetDepth()):
        plane = image[:, :, k]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        direction = image.GetDirection()
        tags = {
            "0008|0060": "CT",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.9.{k + 1}",
            "0008|0020": "20200304",
            "0008|0030": "101112",
            "0010|0010": "Doe^Dora",
            "0010|0020": "7",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.7",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.8",
            "0020|0052": "1.2.826.0.1.3680043.2.1125.6",
            "0020|0013": str(k + 1),
            "0020|0032": "\\".join(f"{mm:.6f}" for mm in position),
            "0020|0037": "\\".join(f"{direction[n]:.6f}" for n in (0, 3, 6, 1, 4, 7)),
            "0018|0050": f"{image.GetSpacing()[2]:.6f}",
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{k:04d}.dcm"))
        writer.Execute(plane)
    return folder


def compare(before: Path, after: Path) -> list[str]:
    """A line for everything that differs between two records; [] for equal ones."""
    files = {path.relative_to(root).as_posix() for root in (before, after) for path in root.rglob("*")}
    lines, largest = [], 0.0
    for name in sorted(files):
        old, new = before / name, after / name
        if old.is_dir() and new.is_dir():
            continue
        if not (old.is_file() and new.is_file()):
            lines.append(f"{name}: only in {before if old.exists() else after}")
            continue
        for fault, apart in _differences(_content(old), _content(new), name):
            largest = max(largest, apart)
            if fault:
                lines.append(fault)
    print(f"{sum((before / name).is_file() for name in files)} files compared; numbers differ by {largest:.2g} at most")
    return lines


def _content(path: Path) -> Any:
    """What a file says, without what may differ freely."""
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".dcm":
        import pydicom

        return _dicom_content(pydicom.dcmread(path))
    if path.name.endswith((".nii.gz", ".png")):
        image = sitk.ReadImage(str(path))
        geometry = [] if path.suffix == ".png" else [*image.GetOrigin(), *image.GetSpacing(), *image.GetDirection()]
        return [geometry, sitk.GetArrayFromImage(image)]
    return path.read_bytes()


def _dicom_content(data: Any) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for element in data:
        if element.VR == "SQ":
            content[element.keyword] = [_dicom_content(item) for item in element.value]
        elif element.VR != "UI" and not _FREE_TAGS.search(element.keyword):
            content[element.keyword] = re.sub(r"RPR-Loc \d[\w.]*", "RPR-Loc", str(element.value))
    return content


def _differences(old: Any, new: Any, where: str) -> Iterator[tuple[str | None, float]]:
    """A sentence (None where all is well) and the largest distance of numbers, for every leaf."""
    if isinstance(old, dict) and isinstance(new, dict):
        if "base64" in old and "base64" in new:
            yield from _differences(_decode(old), _decode(new), where)
            return
        for key in sorted({*old, *new} - {*_FREE_KEYS}):
            if (key in old) != (key in new):
                yield f"{where}/{key}: only in one of them", 0.0
            elif key == "warnings":
                yield from _differences(len(old[key]), len(new[key]), f"{where}/{key}: how many")
            else:
                yield from _differences(old[key], new[key], f"{where}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, f"{where}/{number}")
    elif isinstance(old, (np.ndarray, float, int)) and isinstance(new, (np.ndarray, float, int)):
        if np.shape(old) != np.shape(new):
            yield f"{where}: {np.shape(old)} became {np.shape(new)}", 0.0
            return
        apart = float(np.abs(np.asarray(old, float) - np.asarray(new, float)).max(initial=0.0))
        yield (f"{where}: {apart:.4g} apart" if not apart <= _TOLERANCE else None), apart
    else:
        yield (None if old == new else f"{where}: {str(old)[:80]!r} became {str(new)[:80]!r}"), 0.0


def _decode(entry: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(entry["base64"]), entry["dtype"]).reshape(entry["shape"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run the program and keep what it writes")
    recording.add_argument("folder", type=Path, help="a new folder")
    recording.add_argument("--data", type=Path, help="the annotated scans' datasets.json")
    comparing = commands.add_parser("compare", help="compare two records")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "record":
        record(given.folder.absolute(), None if given.data is None else given.data.absolute())
        return
    differences = compare(given.before, given.after)
    print("\n".join(differences) or "equal")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
