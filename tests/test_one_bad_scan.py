"""Whatever goes wrong with one scan is told of this scan, and the others are done: by every way to give several."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rprloc.detection import Detections
from rprloc.io.reading import read_volume
from tests.dicoms import write_series
from tests.example import ExampleFiles
from tests.test_batch import started_cluster

MAIN = "from rprloc.apps.cli import main; main()"
LONG = 250 * "n"
"""A name of a file that is allowed, but leaves no room for ``.detections.json``."""

FAULTS = """
import errno, struct, zlib, rprloc.io.reading
read = getattr(rprloc.io.reading, 'original', rprloc.io.reading.read_scan)  # Dask may load this twice
rprloc.io.reading.original = read
faults = {
    'memory': MemoryError(), 'disk': OSError(errno.EIO, 'Input/output error'), 'library': RuntimeError('ITK gave up'),
    'number': OverflowError('too large'), 'key': KeyError('dim'), 'struct': struct.error('unpack'),
    'zlib': zlib.error('invalid'), 'fault': TypeError('a fault of the program'),
}
def faulty(path, **options):
    for name, error in faults.items():
        if str(path).endswith(f'{name}.nii.gz'):
            raise error
    return read(path, **options)
rprloc.io.reading.read_scan = faulty
"""
"""Puts faults into the reading of scans that are called like them: what this computer's libraries cannot be made do."""

KINDS = ("memory", "disk", "library", "number", "key", "struct", "zlib")
REASONS = ("Not enough memory", "Input/output error", "ITK gave up", "too large", "dim", "unpack", "invalid")


def python(
    code: str, *arguments: object, given: str = "", cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A process of its own, as a user's is: what it prints, read as UTF-8."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"} | variables
    command = [sys.executable, "-c", code, *map(os.fspath, map(_text, arguments))]
    return subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        input=given,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=240,
        check=False,
    )


def _text(argument: object) -> str:
    return os.fspath(argument) if isinstance(argument, os.PathLike) else str(argument)


def options(example: ExampleFiles, out: Path) -> list[object]:
    return ["--out", out, "--model", example.weights, "--device", "cpu"]


def copy(example: ExampleFiles, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(example.image.read_bytes())
    return path


def odd_scans(example: ExampleFiles, folder: Path) -> tuple[list[Path], list[Path]]:
    """Scans whose names are odd but can be used, and scans for which there can be no result."""
    latin = [copy(example, folder / os.fsdecode(name)) for name in (b"p\xe4r.nii.gz", b"p\xfcr.nii.gz")]
    stack = folder / os.fsdecode(b"ward \xff")
    write_series(stack, read_volume(example.image).hu)
    good = [*latin, stack, copy(example, folder / "zoe.nii.gz")]
    nameless = copy(example, folder / ".nii.gz")
    long = copy(example, folder / f"{LONG[:-8]}.nii.gz")
    return good, [nameless, long, folder / f"{300 * 'x'}.nii.gz"]


GOOD_NAMES = ["p%E4r", "p%FCr", "ward %FF", "zoe"]


def found(out: Path) -> list[str]:
    """The queries that have detections, as they are called in these."""
    return sorted(Detections.load(path).query for path in out.glob("*.detections.json"))


def test_names_that_are_odd_or_impossible_do_not_stop_the_other_scans(example: ExampleFiles, tmp_path: Path) -> None:
    good, bad = odd_scans(example, tmp_path)
    out = tmp_path / os.fsdecode(b"out \xfe")
    more = ["--labels", "--picture", "--prompts", "--crop", "5"]
    done = python(MAIN, "locate", example.support_set, *bad, *good, *options(example, out), *more)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert found(out) == GOOD_NAMES
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{name}{end}"
        for name in GOOD_NAMES
        for end in (".boxes.nii.gz", ".crops", ".detections.json", ".mrk.json", ".png", ".prompts.json", ".slices")
    )
    boxes = [Detections.load(out / f"{name}.detections.json").boxes for name in ("p%E4r", "zoe")]
    assert {organ: box.walls_mm.tolist() for organ, box in boxes[0].items()} == {
        organ: box.walls_mm.tolist() for organ, box in boxes[1].items()
    }
    assert len(list(out.glob("*.nii.gz"))) == 4
    labels = {(out / f"{name}.boxes.nii.gz").read_bytes() for name in ("p%E4r", "p%FCr", "zoe")}
    assert len(labels) == 1  # one scan under three names
    for reason in ("has no name before its extension", "255 are allowed", "3 of 7 queries failed"):
        assert reason in done.stderr


def test_a_series_whose_folder_and_slices_are_not_utf8_has_all_results(example: ExampleFiles, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    folder, out = tmp_path / os.fsdecode(b"st\xe4ck"), tmp_path / "out"
    write_series(folder, read_volume(example.image).hu)
    for path in list(folder.iterdir()):
        path.rename(folder / os.fsdecode(b"\xe9" + path.name.encode()))
    kinds = ["--rtstruct", "--seg", "--sr", "--labels"]
    done = python(MAIN, "locate", example.support_set, folder, *options(example, out), *kinds)
    assert done.returncode == 0, done.stderr
    ends = ("boxes.nii.gz", "detections.json", "mrk.json", "rtstruct.dcm", "seg.dcm", "sr.dcm")
    assert sorted(path.name for path in out.iterdir()) == [f"st%E4ck.{end}" for end in ends]


def test_a_manifest_goes_on_where_a_failure_cannot_even_be_written_down(example: ExampleFiles, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").write_text("no folder")
    scan = copy(example, tmp_path / "anna.nii.gz")
    names = [LONG, f"{LONG[:240]}", "file/anna", f"{300 * 'f'}/anna", "ward/anna"]
    with (tmp_path / "all.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "name"), *((scan.name, name) for name in names)])
    done = python(MAIN, "locate", example.support_set, "--manifest", tmp_path / "all.csv", *options(example, out))
    assert done.returncode == 1 and "1 located, 0 already done, 4 failed" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr and (out / "ward" / "anna.detections.json").is_file()
    assert "255 are allowed" in (out / f"{LONG[:240]}.failed.json").read_text(encoding="utf-8")
    assert (out / "file").read_text() == "no folder"


def test_no_error_of_a_library_in_one_scan_stops_the_others(example: ExampleFiles, tmp_path: Path) -> None:
    scans = [copy(example, tmp_path / f"{name}.nii.gz") for name in (*KINDS, "zoe")]
    out = tmp_path / "out"
    done = python(FAULTS + MAIN, "locate", example.support_set, *scans, *options(example, out))
    assert done.returncode == 1 and found(out) == ["zoe"], done.stderr
    assert "Traceback" not in done.stderr and "7 of 8 queries failed" in done.stderr
    for scan, reason in zip(scans, REASONS, strict=False):
        assert any(str(scan) in line and reason in line for line in done.stderr.splitlines())
    assert sorted(path.name for path in out.iterdir()) == ["zoe.detections.json", "zoe.mrk.json"]


def test_a_fault_of_the_program_is_not_taken_for_one_of_a_scan(example: ExampleFiles, tmp_path: Path) -> None:
    scan = copy(example, tmp_path / "fault.nii.gz")
    out = tmp_path / "out"
    done = python(FAULTS + MAIN, "locate", example.support_set, scan, example.image, *options(example, out))
    assert done.returncode == 1 and "TypeError: a fault of the program" in done.stderr and "Traceback" in done.stderr


@pytest.mark.slow
def test_no_scan_stops_a_cluster(example: ExampleFiles, tmp_path: Path) -> None:
    scans = [copy(example, tmp_path / f"{name}.nii.gz") for name in (*KINDS, "zoe")]
    names = [*KINDS, "zoe", LONG, LONG[:240]]
    with (tmp_path / "all.csv").open("w", newline="", encoding="utf-8") as file:
        rows = zip([*scans, scans[-1], scans[-1]], names, strict=True)
        csv.writer(file).writerows([("path", "name"), *((scan.name, name) for scan, name in rows)])
    (tmp_path / "faults.py").write_text(FAULTS, encoding="utf-8")
    out = tmp_path / "out"
    with started_cluster(2, str(tmp_path / "faults.py")) as (address, _):
        more = ["--manifest", tmp_path / "all.csv", "--scheduler", address]
        done = python(MAIN, "locate", example.support_set, *options(example, out), *more)
    assert done.returncode == 1 and "1 located, 0 already done, 9 failed" in done.stdout, done.stderr
    assert found(out) == ["zoe"] and all(reason in done.stderr for reason in (*REASONS, "255 are allowed"))


def test_the_bundle_does_what_can_be_done(example: ExampleFiles, tmp_path: Path) -> None:
    pytest.importorskip("monai")
    good, _ = odd_scans(example, tmp_path / "odd")
    scans = [copy(example, tmp_path / f"{name}.nii.gz") for name in KINDS]
    paths = [str(path) for path in [*scans, tmp_path / "odd" / f"{LONG[:-8]}.nii.gz", tmp_path / (300 * "x"), *good]]
    code = """
import json, os, sys
from pathlib import Path
from rprloc.apps.bundle import LocalizationEvaluator, OneShotInferer, QueryDataset
from rprloc.model.network import load_model
weights, support_set, out, *paths = sys.argv[1:]
inferer = OneShotInferer(support_set, weights=weights)
LocalizationEvaluator(load_model(Path(weights)), QueryDataset(paths), inferer, out).run()
"""
    faults = FAULTS + "import rprloc.apps.bundle\nrprloc.apps.bundle.read_scan = faulty\n"
    done = python(faults + code, example.weights, example.support_set, tmp_path / "out", *paths)
    assert found(tmp_path / "out") == GOOD_NAMES, done.stderr
    assert done.returncode == 1 and "9 of 13 scans could not be used" in done.stderr
    assert all(reason in done.stderr for reason in REASONS) and done.stderr.count("255 are allowed") == 2


def test_a_server_answers_on_whatever_it_was_asked(example: ExampleFiles, tmp_path: Path) -> None:
    scan = copy(example, tmp_path / "scans" / os.fsdecode(b"p\xe4r.nii.gz"))
    copy(example, tmp_path / "scans" / "library.nii.gz")
    out = tmp_path / os.fsdecode(b"out \xfe")
    out.mkdir()
    locate = {"command": "locate", "set": str(example.support_set), "image": str(example.image)}
    bad: list[object] = [
        {"command": ["locate"]},
        {"command": {}},
        {"id": [1], "command": "show"},
        {"id": float("nan"), "command": "show", "set": str(example.support_set)},
        locate | {"series": ["1.2"]},
        locate | {"organs": [["lung"]]},
        locate | {"set": "a\0b"},
        locate | {"set": "\ud83d"},
        {"command": "merge", "sets": ["\ud83d"], "out": str(tmp_path / "set.json")},
        {"command": "show", "set": 5000 * "x"},
        locate | {"image": f"{300 * 'x'}.nii.gz"},
        locate | {"image": str(tmp_path / "scans" / "library.nii.gz")},
        locate | {"rois": str(tmp_path / "a.mrk.json"), "label_map": str(tmp_path / "a.txt")},
        locate | {"rois": str(tmp_path / f"{LONG}.mrk.json")},
    ]
    files = {"rois": str(out / "par.mrk.json"), "label_map": str(out / "par.nii.gz")}
    good = [
        {"id": 1, "command": "find", "folder": str(tmp_path / "scans")},
        {"id": 2, **locate, "image": str(scan), **files},
        {"id": "3", "command": "show", "set": str(example.support_set)},
    ]
    lines = [json.dumps(request) for request in [*bad, *good]]
    code = FAULTS + "import rprloc.apps.serve\nrprloc.apps.serve.read_scan = faulty\n" + MAIN
    given = "\n".join([*lines[:4], "{\udcff", *lines[4:]]) + "\n"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--model", example.weights, "--device", "cpu"],
        env=environment,
        input=os.fsencode(given),
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    ends = [event for event in events if event["event"] in ("result", "error")]
    assert [event["event"] for event in ends] == ["error"] * (len(bad) + 1) + ["result"] * 3
    assert all(len(event["message"]) < 500 and "Errno" not in event["message"] for event in ends[: len(bad) + 1])
    images, located, shown = ends[-3:]
    assert str(scan) in images["result"]["images"] and located["result"]["query"] == "p%E4r" and shown["id"] == "3"
    assert sorted(path.name for path in out.iterdir()) == ["par.mrk.json", "par.nii.gz"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("manifest", [False, True])
def test_pipes_devices_and_damaged_archives_fail_by_themselves(example: ExampleFiles, tmp_path: Path, manifest) -> None:
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "zero.mha").symlink_to("/dev/zero")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", os.urandom(50_000))
    data = bytearray((tmp_path / "packed.zip").read_bytes())
    data[60:2000] = b"\x55" * 1940
    (tmp_path / "packed.zip").write_bytes(data)
    (tmp_path / "spaces.mha").write_text(" " * 5000)
    copy(example, tmp_path / "zoe.nii.gz")
    names = ["pipe.nii.gz", "zero.mha", "packed.zip", "spaces.mha", "zoe.nii.gz"]
    (tmp_path / "all.csv").write_text("\n".join(["path", *names]), encoding="utf-8")
    given = ["--manifest", tmp_path / "all.csv"] if manifest else [tmp_path / name for name in names]
    done = python(MAIN, "locate", example.support_set, *given, *options(example, tmp_path / "out"))
    assert done.returncode == 1 and found(tmp_path / "out") == ["zoe"], done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("no ordinary file") == 2
    assert "4 of 5 queries failed. The others are done." in done.stderr


@pytest.mark.parametrize("reader", ["true", "head -n 1"])
def test_output_that_nobody_reads_stops_nothing(example: ExampleFiles, tmp_path: Path, reader: str) -> None:
    scans = [copy(example, tmp_path / f"{name}.nii.gz") for name in ("anna", "bert", "zoe")]
    command = [sys.executable, "-c", MAIN, "locate", example.support_set, *scans, *options(example, tmp_path / "out")]
    line = " ".join(shlex.quote(str(part)) for part in command)
    done = subprocess.run(f"{line} | {reader}", shell=True, capture_output=True, text=True, timeout=240, check=False)
    assert found(tmp_path / "out") == ["anna", "bert", "zoe"], done.stderr
    assert "Traceback" not in done.stderr and "Check the file" not in done.stderr
    show = " ".join(shlex.quote(str(part)) for part in [*command[:3], "support", "show", example.support_set])
    done = subprocess.run(f"{show} | true", shell=True, capture_output=True, text=True, timeout=240, check=False)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_stops_nothing(example: ExampleFiles, tmp_path: Path) -> None:
    scans = [copy(example, tmp_path / f"{name}.nii.gz") for name in ("anna", "zoe")]
    command = [sys.executable, "-c", MAIN, "locate", example.support_set, *scans, *options(example, tmp_path / "out")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [str(part) for part in command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=240, check=False
        )
    assert done.returncode == 0 and found(tmp_path / "out") == ["anna", "zoe"], done.stderr
    assert done.stderr.count("Results are not shown any more") == 1


def test_control_letters_of_a_name_do_not_reach_the_terminal(example: ExampleFiles, tmp_path: Path) -> None:
    (tmp_path / "x\x1b[31m\a.nii.gz").write_bytes(b"no scan")
    copy(example, tmp_path / "z\x1b[31m.nii.gz")
    done = python(MAIN, "locate", example.support_set, *sorted(tmp_path.iterdir()), *options(example, tmp_path / "out"))
    assert done.returncode == 1 and "\x1b" not in done.stderr + done.stdout and "\a" not in done.stderr
    assert "x%1B[31m%07.nii.gz" in done.stderr and found(tmp_path / "out") == ["z%1B[31m"]
