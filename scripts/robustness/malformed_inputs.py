"""A seeded corpus of odd and malformed input files, and a check that each is read right or refused as it should be.

    python -m scripts.robustness.malformed_inputs --out corpus [--seed 0]

Each case is a file with one thing that is not as usual. Where the scan can still be read, the voxels and their places
are compared with the truth. Any other case goes to the command line, many to a process: it must end with exit code 2
and one line on stderr, and leave no file behind. None may crash, take more than 10 seconds or more than 2 GiB. At the
end all scans that must be refused are given at once, with a good one, which has to be located.

A table of what happened goes to ``corpus.csv`` beside the folder; the exit code is 1 if a case went otherwise.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from rprloc.apps.cli import app
from rprloc.errors import InputError
from rprloc.io.reading import read_scan
from scripts.robustness.annotations import vary_annotations
from scripts.robustness.damage import Content, Kind, Truth
from scripts.robustness.dicom import vary_archives, vary_series
from scripts.robustness.documents import DETECTIONS, MARKUPS, NAMES, SUPPORT, damage_json, damage_weights
from scripts.robustness.good_files import DICOM_AFFINE, write_good_files
from scripts.robustness.images import vary_images, vary_labels
from scripts.robustness.metaimage import vary_metaimage
from scripts.robustness.nifti import vary_nifti
from scripts.robustness.nrrd import vary_nrrd

LIMIT_S = 10.0
LIMIT_BYTES = 2 << 30
RIGHT = ("refused", "read")


@dataclass(frozen=True)
class Case:
    """A command line that must be refused, or a scan to be read; ``{case}`` and ``{good}`` stand for folders."""

    name: str
    arguments: list[str]
    scan: str = ""
    """The scan in it, if there is one that is not as usual."""
    is_read: bool = False
    """Whether that scan is read; the truth then lies in the case's folder, as ``truth.npz``."""


def generate_cases(good: Path, truth: Truth, seed: int) -> Iterator[tuple[Case, Content, Truth | None]]:
    """Yield all cases with their files, the same for the same seed."""
    rng = random.Random(seed)
    build = ["support", "build", "--out", "{case}/out/set.json", "--model", "{good}/model.pt", "--device", "cpu"]
    marked = ["--labels", "{good}/labels.nii.gz", "--names", "{good}/names.json"]
    for name, content, right in vary_scans(good, truth, rng):
        scan = "{case}/" + next(iter(content)).split("/")[0]
        yield Case(name, [*build, *marked, "--image", scan], scan, right is not None), content, right
    for name, content, _ in vary_labels(good, rng):
        given = ["--image", "{good}/scan.nii", "--labels", "{case}/bad.nii.gz", "--names", "{good}/names.json"]
        yield Case(name, [*build, *given]), content, None
    for name, given, content in vary_annotations(good, rng):
        yield Case(f"annotation: {name}", [*build, "--image", "{good}/series.zip", *given]), content, None
    scan_of = ["--image", "{good}/scan.nii"]
    for name, text in damage_json((good / "points.mrk.json").read_text(encoding="utf-8"), MARKUPS, rng):
        given = [*scan_of, "--markups", "{case}/a.mrk.json", "--name", "a"]
        yield Case(f"markups {name}", [*build, *given]), {"a.mrk.json": text}, None
    for name, text in damage_json((good / "names.json").read_text(encoding="utf-8"), NAMES, rng):
        given = [*scan_of, "--labels", "{good}/labels.nii.gz", "--names", "{case}/names.json"]
        yield Case(f"names {name}", [*build, *given]), {"names.json": text}, None
    for name, text in damage_json((good / "set.json").read_text(encoding="utf-8"), SUPPORT, rng):
        yield Case(f"support set {name}", ["support", "show", "{case}/set.json"]), {"set.json": text}, None
    for name, text in damage_json((good / "scan.detections.json").read_text(encoding="utf-8"), DETECTIONS, rng):
        report = ["report", "{case}", "--csv", "{case}/out/all.csv"]
        yield Case(f"detections {name}", report), {"a.detections.json": text}, None
    for name, content in damage_weights(good, rng):
        locate = ["locate", "{good}/set.json", "{good}/scan.nii", "--out", "{case}/out", "--device", "cpu"]
        yield Case(name, [*locate, "--model", "{case}/model.pt"]), content, None


def vary_scans(good: Path, truth: Truth, rng: random.Random) -> Iterator[Kind]:
    """Yield scans in all formats that are not as usual."""
    dicom = truth.placed(DICOM_AFFINE)
    yield from vary_images(good, truth, rng)
    yield from vary_nifti(truth)
    yield from vary_nrrd(truth)
    yield from vary_metaimage(truth)
    yield from vary_series(dicom, rng)
    yield from vary_archives(good, dicom, rng)


def write_corpus(folder: Path, seed: int) -> list[Case]:
    """Write the corpus to a new folder and return its cases."""
    good = folder / "good"
    truth = write_good_files(good)
    corpus = []
    for number, (case, content, right) in enumerate(generate_cases(good, truth, seed)):
        home = home_of(folder, number)
        for name, data in content.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(data)
        (home / "out").mkdir(parents=True, exist_ok=True)
        if right is not None:
            np.savez(home / "truth.npz", hu=right.hu, ras_from_ijk=right.ras_from_ijk, warning=right.warning)
        corpus.append(case)
    text = json.dumps([asdict(case) for case in corpus], indent=1)
    (folder / "cases.json").write_text(text, encoding="utf-8")
    return corpus


def home_of(folder: Path, number: int) -> Path:
    """The folder of a case."""
    return folder / f"{number:04d}"


def list_leftovers() -> list[Path]:
    """List what reading left in the temporary folder."""
    return list(Path(tempfile.gettempdir()).glob("rprloc-*"))


def run_cases(folder: Path, first: int) -> None:
    """Run the cases from ``first`` on; a JSON line for each when it begins and when it ends."""
    for number, fields in enumerate(json.loads((folder / "cases.json").read_text(encoding="utf-8"))):
        if number < first:
            continue
        home, case = home_of(folder, number), Case(**fields)
        print(json.dumps({"number": number}), flush=True)
        _forget_peak()
        started = time.perf_counter()
        outcome, said = _read(home, case.scan) if case.is_read else _refuse(folder, home, case.arguments)
        seconds, peak = time.perf_counter() - started, _peak_bytes()
        if list_leftovers():
            gc.collect()  # what the error still refers to
        if outcome in RIGHT and list((home / "out").iterdir()):
            outcome = f"left {[path.name for path in (home / 'out').iterdir()]}"
        elif outcome in RIGHT and list_leftovers():
            outcome = "left a temporary folder"
        elif outcome in RIGHT and peak > LIMIT_BYTES:
            outcome = f"took {peak / 2**30:.1f} GiB"
        record = {"number": number, "seconds": seconds, "gib": peak / 2**30, "outcome": outcome, "said": said}
        print(json.dumps(record), flush=True)


def _read(home: Path, scan: str) -> tuple[str, str]:
    """What came of reading a scan that can be read, and its warnings."""
    with np.load(home / "truth.npz", allow_pickle=False) as file:
        truth = Truth(file["hu"], file["ras_from_ijk"], str(file["warning"]))
    try:
        found = read_scan(scan.format(case=home))
        difference = truth.differs(found)
    except InputError as error:
        return "refused a good scan", str(error)
    except Exception as error:  # noqa: BLE001 (any at all is wrong)
        return f"raised {type(error).__name__}: {error}", ""
    return difference or "read", " ".join(found.warnings)


def _refuse(folder: Path, home: Path, arguments: list[str]) -> tuple[str, str]:
    """What came of a command line that must be refused, and what it said."""
    result = CliRunner().invoke(app, [part.format(case=home, good=folder / "good") for part in arguments])
    error, lines, said = result.exception, result.stderr.splitlines(), result.stderr.strip()
    if error is not None and not isinstance(error, SystemExit):
        return f"raised {type(error).__name__}: {error}", said
    if result.exit_code != 2:
        return f"exit code {result.exit_code}", said
    if len(lines) != 1 or not lines[0].startswith("Error: ") or not lines[0].endswith("."):
        return f"said {said!r}", said
    return "refused", said


def _forget_peak() -> None:
    """Let the peak of this process's memory begin anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak_bytes() -> int:
    """The most memory that this process has taken; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def check_corpus(folder: Path) -> list[dict[str, Any]]:
    """Run every case and say what happened to it: ``refused``, ``read``, or what went wrong.

    A process runs them one after the other; one that crashes or takes too long is replaced for the rest.
    """
    known = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    results: dict[int, dict[str, Any]] = {}
    temporary = folder / "temporary"
    temporary.mkdir()
    while len(results) < len(known):
        first = len(results)
        command = [sys.executable, "-m", __spec__.name, "--run", str(first), "--out", str(folder)]
        environment = os.environ | {"TMPDIR": str(temporary)}
        process = subprocess.Popen(  # not buffered, so that no line waits here unseen by select
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=environment
        )
        assert process.stdout is not None
        running, limit_s = first, 120.0  # the first line comes after the imports
        while True:
            ready, _, _ = select.select([process.stdout], [], [], limit_s)
            line = process.stdout.readline() if ready else b""
            try:
                record = json.loads(line)
            except ValueError:
                if line and ready:
                    continue  # what a library printed
                process.kill()
                process.wait()
                how = f"crashed the process ({process.returncode})" if ready else "took too long"
                if len(results) < len(known):
                    results[running] = {"number": running, "seconds": limit_s, "gib": 0.0, "outcome": how, "said": ""}
                break
            running, limit_s = record["number"], LIMIT_S
            if "outcome" in record:
                results[running] = record
                if len(results) == len(known):
                    process.wait()
                    break
        process.stdout.close()
    return [results[number] | {"name": known[number]["name"]} for number in range(len(known))]


def locate_beside_bad_ones(folder: Path, cases: list[Case]) -> str:
    """Give all scans that must be refused to one command, with a good one among them; what went wrong, or nothing."""
    bad = [
        case.scan.format(case=home_of(folder, number))
        for number, case in enumerate(cases)
        if case.scan and not case.is_read
    ]
    scans = [*bad[: len(bad) // 2], str(folder / "good" / "scan.nii"), *bad[len(bad) // 2 :]]
    with (folder / "all.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "name"), *((path, f"scan{n}") for n, path in enumerate(scans))])
    command = [sys.executable, "-m", "rprloc", "locate", str(folder / "good" / "set.json"), "--device", "cpu"]
    command += ["--manifest", str(folder / "all.csv"), "--out", str(folder / "all")]
    command += ["--model", str(folder / "good" / "model.pt")]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    located = [path.name for path in (folder / "all").glob("*.detections.json")]
    failed = len(list((folder / "all").glob("*.failed.json")))
    if done.returncode == 1 and located == [f"scan{len(bad) // 2}.detections.json"] and failed == len(bad):
        return "" if "Traceback" not in done.stderr else "a traceback"
    return f"exit code {done.returncode}, {len(located)} located, {failed} of {len(bad)} failed: {done.stderr[-300:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the corpus")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run is not None:
        run_cases(arguments.out, arguments.run)
        return
    if arguments.out.exists():
        raise SystemExit(f"{arguments.out} exists already. Name a new folder.")
    cases = write_corpus(arguments.out, arguments.seed)
    results = check_corpus(arguments.out)
    table = arguments.out.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["number", "name", "outcome", "seconds", "gib", "said"])
        writer.writeheader()
        writer.writerows(results)
    bad = [result for result, case in zip(results, cases, strict=True) if result["outcome"] != RIGHT[case.is_read]]
    slowest, most = (max(result[key] for result in results) for key in ("seconds", "gib"))
    read = sum(case.is_read for case in cases)
    print(
        f"{len(cases)} cases, {read} to be read and {len(cases) - read} to be refused: {len(cases) - len(bad)} right; "
        f"slowest {slowest:.1f} s, most memory {most:.2f} GiB; {table}"
    )
    for result in bad:
        print(f"  {result['number']:04d} {result['name']}: {result['outcome']}")
    fault = locate_beside_bad_ones(arguments.out, cases)
    print(f"All bad scans beside a good one: {fault or 'the good one is located, each other one has failed'}")
    raise SystemExit(1 if bad or fault else 0)


if __name__ == "__main__":
    main()
