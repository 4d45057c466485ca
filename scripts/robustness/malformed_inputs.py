"""A seeded corpus of malformed input files, and a check that each is refused as it should be.

    python -m scripts.robustness.malformed_inputs --out corpus [--seed 0]

Each case goes to the command line, many to a process: it must end with exit code 2 and one line on stderr within
10 seconds, without a crash, and leave no file behind. A table of what happened goes to ``corpus.csv`` beside the
folder; the exit code is 1 if a case went otherwise.
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

from typer.testing import CliRunner

from rprloc.apps.cli import app
from scripts.robustness.damage import Content
from scripts.robustness.dicom import damage_archives, damage_series
from scripts.robustness.documents import DETECTIONS, MARKUPS, NAMES, SUPPORT, damage_json, damage_weights
from scripts.robustness.good_files import write_good_files
from scripts.robustness.images import damage_images, damage_labels

LIMIT_S = 10.0


@dataclass(frozen=True)
class Case:
    """A command line that must be refused; ``{case}`` and ``{good}`` in it stand for the folders with the files."""

    name: str
    arguments: list[str]


def generate_cases(good: Path, seed: int) -> Iterator[tuple[Case, Content]]:
    """Yield all cases with their files, the same for the same seed."""
    rng = random.Random(seed)
    build = ["support", "build", "--out", "{case}/out/set.json", "--model", "{good}/model.pt", "--device", "cpu"]
    marked = ["--labels", "{good}/labels.nii.gz", "--names", "{good}/names.json"]
    for name, content in damage_images(good, rng):
        yield Case(name, [*build, *marked, "--image", "{case}/" + next(iter(content))]), content
    for name, content in damage_labels(good, rng):
        given = ["--image", "{good}/scan.nii", "--labels", "{case}/bad.nii.gz", "--names", "{good}/names.json"]
        yield Case(name, [*build, *given]), content
    for name, content in damage_series(good, rng):
        yield Case(name, [*build, *marked, "--image", "{case}/series"]), content
    for name, content in damage_archives(good, rng):
        yield Case(name, [*build, *marked, "--image", "{case}/bad.zip"]), content
    scan = ["--image", "{good}/scan.nii"]
    for name, text in damage_json((good / "points.mrk.json").read_text(encoding="utf-8"), MARKUPS, rng):
        yield (
            Case(f"markups {name}", [*build, *scan, "--markups", "{case}/a.mrk.json", "--name", "a"]),
            {"a.mrk.json": text},
        )
    for name, text in damage_json((good / "names.json").read_text(encoding="utf-8"), NAMES, rng):
        yield (
            Case(f"names {name}", [*build, *scan, "--labels", "{good}/labels.nii.gz", "--names", "{case}/names.json"]),
            {"names.json": text},
        )
    for name, text in damage_json((good / "set.json").read_text(encoding="utf-8"), SUPPORT, rng):
        yield Case(f"support set {name}", ["support", "show", "{case}/set.json"]), {"set.json": text}
    for name, text in damage_json((good / "scan.detections.json").read_text(encoding="utf-8"), DETECTIONS, rng):
        yield (
            Case(f"detections {name}", ["report", "{case}", "--csv", "{case}/out/all.csv"]),
            {"a.detections.json": text},
        )
    for name, content in damage_weights(good, rng):
        locate = ["locate", "{good}/set.json", "{good}/scan.nii", "--out", "{case}/out", "--device", "cpu"]
        yield Case(name, [*locate, "--model", "{case}/model.pt"]), content


def write_corpus(folder: Path, seed: int) -> list[Case]:
    """Write the corpus to a new folder and return its cases."""
    good = folder / "good"
    write_good_files(good)
    corpus = []
    for number, (case, content) in enumerate(generate_cases(good, seed)):
        home = folder / f"{number:03d}"
        for name, data in content.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(data)
        (home / "out").mkdir(parents=True, exist_ok=True)
        corpus.append(case)
    text = json.dumps([asdict(case) for case in corpus], indent=1)
    (folder / "cases.json").write_text(text, encoding="utf-8")
    return corpus


def list_leftovers() -> list[Path]:
    """List what reading left in the temporary folder."""
    return list(Path(tempfile.gettempdir()).glob("rprloc-*"))


def run_cases(folder: Path, first: int) -> None:
    """Give the cases from ``first`` on to the command line; a JSON line for each when it begins and when it ends."""
    for number, case in enumerate(json.loads((folder / "cases.json").read_text(encoding="utf-8"))):
        if number < first:
            continue
        home = folder / f"{number:03d}"
        arguments = [part.format(case=home, good=folder / "good") for part in case["arguments"]]
        print(json.dumps({"number": number}), flush=True)
        started = time.perf_counter()
        result = CliRunner().invoke(app, arguments)
        seconds, error = time.perf_counter() - started, result.exception
        raised = None if error is None or isinstance(error, SystemExit) else f"raised {type(error).__name__}: {error}"
        lines, said, exit_code = result.stderr.splitlines(), result.stderr.strip(), result.exit_code
        del result, error
        if list_leftovers():
            gc.collect()  # what the error still refers to
        if raised is not None:
            outcome = raised
        elif exit_code != 2:
            outcome = f"exit code {exit_code}"
        elif len(lines) != 1 or not lines[0].startswith("Error: ") or not lines[0].endswith("."):
            outcome = f"said {said!r}"
        elif list((home / "out").iterdir()):
            outcome = f"left {[path.name for path in (home / 'out').iterdir()]}"
        elif list_leftovers():
            outcome = "left a temporary folder"
        else:
            outcome = "refused"
        print(json.dumps({"number": number, "seconds": seconds, "outcome": outcome, "said": said}), flush=True)


def check_corpus(folder: Path) -> list[dict[str, Any]]:
    """Run every case and say what happened to it: ``refused``, or what went wrong.

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
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        assert process.stdout is not None
        running, limit_s = first, 120.0  # the first line comes after the imports
        while True:
            ready, _, _ = select.select([process.stdout], [], [], limit_s)
            line = process.stdout.readline() if ready else ""
            try:
                record = json.loads(line)
            except ValueError:
                if line and ready:
                    continue  # what a library printed
                process.kill()
                process.wait()
                how = f"crashed the process ({process.returncode})" if ready else "took too long"
                if len(results) < len(known):
                    results[running] = {"number": running, "seconds": limit_s, "outcome": how, "said": ""}
                break
            running, limit_s = record["number"], LIMIT_S
            if "outcome" in record:
                results[running] = record
                if len(results) == len(known):
                    process.wait()
                    break
        process.stdout.close()
    return [results[number] | {"name": known[number]["name"]} for number in range(len(known))]


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
    write_corpus(arguments.out, arguments.seed)
    results = check_corpus(arguments.out)
    table = arguments.out.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["number", "name", "outcome", "seconds", "said"])
        writer.writeheader()
        writer.writerows(results)
    bad = [result for result in results if result["outcome"] != "refused"]
    slowest = max(result["seconds"] for result in results)
    print(f"{len(results)} cases, {len(results) - len(bad)} refused as they should, slowest {slowest:.1f} s; {table}")
    for result in bad:
        print(f"  {result['number']:03d} {result['name']}: {result['outcome']}")
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
