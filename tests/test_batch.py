"""Manifests: what is done is not done again, whatever stops; failures are told; a Dask cluster does the same."""

from __future__ import annotations

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.apps.batch import Job, Query, locate_here, read_manifest
from rprloc.detection import Detections
from rprloc.errors import InputError
from rprloc.files import is_temporary
from rprloc.io.reading import read_volume
from rprloc.localization.support import SupportSet
from rprloc.volume import to_sitk
from tests.command_line import rprloc
from tests.example import ExampleFiles

MAIN = [sys.executable, "-c", "from rprloc.apps.cli import main; main()"]


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_scans(example: ExampleFiles, folder: Path, count: int) -> list[Path]:
    """Scans that differ, each the example's shifted by some voxels."""
    volume, paths = read_volume(example.image), []
    folder.mkdir()
    for n in range(count):
        hu = np.roll(volume.hu, n % 5 - 2, axis=0) + np.random.default_rng(n).integers(0, 9, volume.hu.shape)
        paths.append(folder / f"scan{n:02d}.nii")
        sitk.WriteImage(to_sitk(hu.astype(np.int16), volume.grid), paths[-1])
    return paths


def located(example: ExampleFiles, manifest: Path, out: Path, *more: object) -> list[str]:
    command = ["locate", example.support_set, "--manifest", manifest, "--out", out, "--model", example.weights]
    return [str(part) for part in [*command, "--device", "cpu", *more]]


def journal(out: Path) -> list[dict[str, str]]:
    rows = []
    for path in sorted((out / "journal").iterdir()):
        with path.open(newline="", encoding="utf-8") as file:
            rows += list(csv.DictReader(file))
    return rows


def results(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and "journal" not in path.parts)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def assert_alike(ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    """The same files with the same words, and numbers that differ by what other numbers of threads may do to sums.

    Only the name of the run in which a query failed is another one.
    """
    number = re.compile(rb"-?\d+\.\d+(?:e-?\d+)?")
    ours, theirs = ({name: re.sub(rb'"run": "\w+"', b"", one[name]) for name in one} for one in (ours, theirs))
    assert set(ours) == set(theirs)
    for name in ours:
        assert number.sub(b"", ours[name]) == number.sub(b"", theirs[name]), name
        np.testing.assert_allclose(*(np.array(number.findall(one[name]), float) for one in (ours, theirs)), atol=0.1)


def test_a_manifest_gives_what_its_scans_give_one_by_one(example: ExampleFiles, tmp_path: Path) -> None:
    scans = write_scans(example, tmp_path / "scans", 3)
    rows = [{"path": f"scans/{path.name}"} for path in scans]
    rows[2]["name"] = "ward 7/third"
    done = rprloc(*located(example, write_manifest(tmp_path / "all.csv", rows), tmp_path / "out"))
    assert (done.exit_code, done.complaints) == (0, "") and "3 located, 0 already done, 0 failed" in done.stdout
    plain = ["locate", example.support_set, *scans[:2], "--out", tmp_path / "plain", "--model", example.weights]
    assert rprloc(*plain, "--device", "cpu").exit_code == 0
    found = results(tmp_path / "out")
    assert set(found) == {*results(tmp_path / "plain"), "ward 7/third.detections.json", "ward 7/third.mrk.json"}
    assert {name: found[name] for name in results(tmp_path / "plain")} == results(tmp_path / "plain")
    assert Detections.load(tmp_path / "out" / "ward 7" / "third.detections.json").query == "ward 7/third"
    assert [(row["name"], row["outcome"], int(row["bytes_read"])) for row in journal(tmp_path / "out")] == [
        (name, "located", scan.stat().st_size)
        for name, scan in zip(("scan00", "scan01", "ward 7/third"), scans, strict=True)
    ]
    assert rprloc("report", tmp_path / "out", "--csv", tmp_path / "all_results.csv").exit_code == 0
    assert "ward 7/third,lung" in (tmp_path / "all_results.csv").read_text(encoding="utf-8")


def test_a_run_writes_the_table_that_a_report_of_its_folder_has(example: ExampleFiles, tmp_path: Path) -> None:
    scans, broken = write_scans(example, tmp_path / "scans", 2), tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no scan")
    plain = ["--out", tmp_path / "out", "--model", example.weights, "--device", "cpu", "--csv"]
    assert rprloc("locate", example.support_set, broken, *plain).exit_code == 2
    assert not (tmp_path / "out").exists()
    assert rprloc("locate", example.support_set, *scans, broken, *plain).exit_code == 1
    table = (tmp_path / "out" / "organs.csv").read_text(encoding="utf-8")
    assert rprloc("report", tmp_path / "out", "--csv", tmp_path / "all.csv").exit_code == 0
    assert table == (tmp_path / "all.csv").read_text(encoding="utf-8")
    assert {row["query"] for row in csv.DictReader(table.splitlines())} == {"scan00", "scan01"}


def test_only_what_is_missing_or_was_made_otherwise_is_done_again(example: ExampleFiles, tmp_path: Path) -> None:
    scans, out = write_scans(example, tmp_path / "scans", 3), tmp_path / "out"
    scans[1].write_bytes(scans[1].read_bytes()[:2000])
    manifest = write_manifest(tmp_path / "all.csv", [{"path": str(path)} for path in scans])
    done = rprloc(*located(example, manifest, out))
    assert done.exit_code == 1 and "scan01.nii is cut off" in done.stderr and "2 located" in done.stdout
    assert "cut off" in (out / "scan01.failed.json").read_text(encoding="utf-8")
    before = results(out)
    sitk.WriteImage(sitk.ReadImage(str(scans[0])), scans[1])  # mended
    (out / "scan02.mrk.json").touch()
    (out / "scan02.detections.json").unlink()
    done = rprloc(*located(example, manifest, out))
    assert done.exit_code == 0 and "2 located, 1 already done, 0 failed" in done.stdout
    assert not (out / "scan01.failed.json").exists() and results(out)["scan02.mrk.json"] == before["scan02.mrk.json"]
    assert "0 located, 3 already done" in rprloc(*located(example, manifest, out)).stdout
    assert "3 located" in rprloc(*located(example, manifest, out, "--organ", "lung")).stdout  # other organs
    assert "3 located" in rprloc(*located(example, manifest, out, "--organ", "lung", "--labels")).stdout  # another file
    assert "0 located, 3 already done" in rprloc(*located(example, manifest, out, "--organ", "lung", "--labels")).stdout


def test_within_one_run_what_failed_is_not_tried_again(example: ExampleFiles, tmp_path: Path) -> None:
    """As when a worker dies between having tried a scan and having told so."""
    scan, out = write_scans(example, tmp_path / "scans", 1)[0], tmp_path / "out"
    scan.write_bytes(b"broken")
    job = Job(SupportSet.load(example.support_set), out, weights=example.weights, device="cpu", keep_record=True)
    queries = [Query(scan, scan.stem)]
    first, second = (list(locate_here(job, queries)) for _ in range(2))
    assert first == second and "not a NIfTI file" in str(first[0].error)
    assert [row["outcome"] for row in journal(out)] == ["failed"]
    list(locate_here(replace(job, run="another"), queries))
    assert [row["outcome"] for row in journal(out)] == ["failed", "failed"]


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", "has the columns none"),
        ("file\na.nii\n", "has the columns file"),
        ("path,organ\na.nii,lung\n", "has the columns path, organ"),
        ("path\n", "lists no scan"),
        ("path,name\na.nii,b,c\n", "has the columns"),
        ("path,name\n,b\n", "Line 2"),
        ("path,name\na.nii,../b\n", "stay inside"),
        ("path,name\na.nii,/b\n", "stay inside"),
        ("path,name\na.nii,.b\n", "stay inside"),
        ("path,name\na.nii,b\\c\n", "stay inside"),
        ("path\na.nii\nx/a.nii\n", "would both be called a"),
        ("path,name\na.nii,Z\nb.nii,z\n", "would both be called z"),
        ("path,name\na.nii,x/y\nb.nii,x//y\n", "would both be called x/y"),
        ("path,name\na.nii,x/y\nb.nii,x/./y\n", "would both be called x/y"),
        ("path,name\na.nii,y\nb.nii,y/\n", "would both be called y"),
        ("path,name\na.nii,.\n", "stay inside"),
        ("path,name\na.nii,a\0b\n", "Line 2|contains NUL"),
        ("path,name\na.nii,a\x1bb\n", "Line 2"),
        ("path,name\na\0.nii,b\n", "Line 2|contains NUL"),
    ],
)
def test_a_manifest_that_is_not_clear_is_refused(tmp_path: Path, text: str, about: str) -> None:
    (tmp_path / "all.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=about):
        read_manifest(tmp_path / "all.csv")
    (tmp_path / "all.csv").write_bytes(b"path\n\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "all.csv")


@pytest.mark.parametrize(
    ("more", "about"),
    [
        (["scan.nii"], "or list them in --manifest"),
        (["--series", "1.2"], "name the series in a manifest"),
        (["--jobs", "2", "--scheduler", "tcp://127.0.0.1:1"], "Give one of them"),
    ],
)
def test_ways_that_do_not_go_together_are_refused(
    example: ExampleFiles, tmp_path: Path, more: list[str], about: str
) -> None:
    manifest = write_manifest(tmp_path / "all.csv", [{"path": str(example.image)}])
    done = rprloc(*located(example, manifest, tmp_path / "out", *more))
    assert done.exit_code == 2 and about in done.stderr and not (tmp_path / "out").exists()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


Cluster = tuple[str, list["subprocess.Popen[bytes]"]]


@contextmanager
def started_cluster(workers: int, *preload: str, **configuration: str) -> Iterator[Cluster]:
    """A Dask scheduler and workers on the loopback interface, each a process of its own."""
    pytest.importorskip("distributed")
    address = f"tcp://127.0.0.1:{free_port()}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | configuration

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:], "--no-dashboard"]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    running = [start("dask_scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2])]
    options = ["--no-nanny", "--nthreads", "1", *(part for path in preload for part in ("--preload", path))]
    running += [start("dask_worker", address, *options) for _ in range(workers)]
    try:
        yield address, running[1:]
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_cluster_loses_nothing_and_does_nothing_twice_when_a_worker_is_killed(
    example: ExampleFiles, tmp_path: Path
) -> None:
    with started_cluster(2) as cluster:
        kill_a_worker_in_mid_run(example, tmp_path, *cluster)


def stop_between_writes(worker: subprocess.Popen[bytes], out: Path) -> None:
    """Stop a worker where it has no file on its way: killed with one, it would leave the temporary folder behind."""
    for _ in range(50):
        worker.send_signal(signal.SIGSTOP)
        time.sleep(0.3)  # for the other worker to finish what it writes
        if not any(is_temporary(path.relative_to(out)) for path in out.rglob("*")):
            return
        worker.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    pytest.fail("the worker never was between two writes")


def kill_a_worker_in_mid_run(
    example: ExampleFiles, tmp_path: Path, address: str, workers: list[subprocess.Popen[bytes]]
) -> None:
    scans, out = write_scans(example, tmp_path / "scans", 24), tmp_path / "out"
    scans[4].write_bytes(b"broken")
    manifest = write_manifest(tmp_path / "all.csv", [{"path": str(path)} for path in scans])
    command = [*MAIN, *located(example, manifest, out, "--scheduler", address)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and running.poll() is None:
        # Not before both workers have had their share: one may start much later than the other.
        if len(list(out.glob("*.detections.json"))) >= 4 and len(list(out.glob("journal/*"))) == 2:
            break
        time.sleep(0.02)
    stop_between_writes(workers[0], out)
    workers[0].send_signal(signal.SIGKILL)
    stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 1, stderr
    assert "scan04.nii is not a NIfTI file" in stderr and "1 failed" in stdout
    # Nothing lost, nothing half: the same files as in one process, and no temporary ones.
    alone = rprloc(*located(example, manifest, tmp_path / "alone"))
    assert alone.exit_code == 1 and "23 located" in alone.stdout
    assert_alike(results(out), results(tmp_path / "alone"))
    # Nothing twice: every scan is in the journals once (not at all if its worker died between the two writes).
    names = [row["name"] for row in journal(out)]
    assert len(names) == len(set(names)) and set(names) <= {path.stem for path in scans} and len(names) >= 22
    assert len({path.name for path in (out / "journal").iterdir()}) == 2  # both workers had their share
    # And going on finds all done but the broken one.
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert again.returncode == 1 and "0 located, 23 already done, 1 failed" in again.stdout


@pytest.mark.slow
def test_a_scan_that_kills_workers_is_a_failure_and_the_others_are_done(example: ExampleFiles, tmp_path: Path) -> None:
    """The fault is put into the workers: they end, as if out of memory, when they read one of the scans."""
    scans, out = write_scans(example, tmp_path / "scans", 5), tmp_path / "out"
    manifest = write_manifest(tmp_path / "all.csv", [{"path": str(path)} for path in scans])
    (tmp_path / "deadly.py").write_text(
        "import os, rprloc.io.reading\n"
        "read = getattr(rprloc.io.reading, 'original', rprloc.io.reading.read_scan)\n"  # Dask may load this twice
        "rprloc.io.reading.original = read\n"
        "def deadly(path, **options):\n"
        "    return os._exit(9) if 'scan02' in str(path) else read(path, **options)\n"
        "rprloc.io.reading.read_scan = deadly\n",
        encoding="utf-8",
    )
    # Else Dask would try it on four workers each time.
    once = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with started_cluster(4, str(tmp_path / "deadly.py"), **once) as (address, _):
        command = [*MAIN, *located(example, manifest, out, "--scheduler", address)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 1 and "4 located, 0 already done, 1 failed" in done.stdout, done.stderr
    assert "scan02" in (out / "scan02.failed.json").read_text(encoding="utf-8")
    assert len(list(out.glob("*.detections.json"))) == 4 and not (out / "scan02.detections.json").exists()


@pytest.mark.slow
def test_two_processes_of_this_computer_share_a_manifest(example: ExampleFiles, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    scans = write_scans(example, tmp_path / "scans", 2)
    manifest = write_manifest(tmp_path / "all.csv", [{"path": str(path)} for path in scans])
    command = [*MAIN, *located(example, manifest, tmp_path / "out", "--jobs", 2)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0 and "2 located" in done.stdout, done.stderr
    assert len(journal(tmp_path / "out")) == 2


def test_a_scheduler_that_does_not_answer_is_told(example: ExampleFiles, tmp_path: Path, monkeypatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: distributed.client.Client(address, timeout=1))
    manifest = write_manifest(tmp_path / "all.csv", [{"path": str(example.image)}])
    address = f"tcp://127.0.0.1:{free_port()}"
    done = rprloc(*located(example, manifest, tmp_path / "out", "--scheduler", address))
    assert done.exit_code == 2 and f"No Dask scheduler answers at {address}" in done.stderr


def test_another_scan_under_the_name_of_one_that_is_done_is_done_again(example: ExampleFiles, tmp_path: Path) -> None:
    """A row that was corrected; one that is listed in the same way is passed over."""
    scans = [tmp_path / name for name in ("wrong.nii.gz", "right.nii.gz", "bert.nii.gz")]
    for scan in scans:
        scan.write_bytes(example.image.read_bytes())
    out, path = tmp_path / "out", tmp_path / "all.csv"
    for name, expected in (("wrong", "2 located, 0 already done"), ("right", "1 located, 1 already done")):
        rows = [{"path": f"{name}.nii.gz", "name": "p1"}, {"path": "bert.nii.gz", "name": "p2"}]
        assert expected in rprloc(*located(example, write_manifest(path, rows), out)).stdout
        assert "0 located, 2 already done" in rprloc(*located(example, path, out)).stdout
    assert [row["path"] for row in journal(out) if row["name"] == "p1"] == ["../wrong.nii.gz", "../right.nii.gz"]
    write_manifest(path, [{"path": "wrong.nii.gz", "name": "p1"}])
    scans[0].write_bytes(b"no scan any more")
    assert "1 failed" in rprloc(*located(example, path, out)).stdout
    assert sorted(file.name for file in out.glob("p1*")) == ["p1.failed.json"]  # nothing of the other scan is left


def test_scans_of_one_name_in_two_folders_are_two(example: ExampleFiles, tmp_path: Path) -> None:
    for ward in ("a", "b"):
        (tmp_path / ward).mkdir()
        (tmp_path / ward / "scan.nii.gz").write_bytes(example.image.read_bytes())
        manifest = write_manifest(tmp_path / ward / "all.csv", [{"path": "scan.nii.gz", "name": "p1"}])
        assert "1 located" in rprloc(*located(example, manifest, tmp_path / "out")).stdout


@pytest.mark.parametrize(
    "text",
    [
        f"name,outcome\n{'x' * 200_000}\n",
        "n\ufffdme,outcome,finished,path,series\nanna,located,2026-01-01T00:00:00,anna.nii.gz,\n",
    ],
    ids=["an endless field", "no column of names"],
)
def test_a_damaged_journal_stops_nothing(example: ExampleFiles, tmp_path: Path, text: str) -> None:
    scan, out = tmp_path / "anna.nii.gz", tmp_path / "out"
    scan.write_bytes(example.image.read_bytes())
    (out / "journal").mkdir(parents=True)
    (out / "journal" / "old.csv").write_text(text, encoding="utf-8")
    done = rprloc(*located(example, write_manifest(tmp_path / "all.csv", [{"path": str(scan)}]), out))
    assert (
        done.exit_code == 0 and "1 located" in done.stdout and "old.csv cannot be read" in " ".join(done.stderr.split())
    )
