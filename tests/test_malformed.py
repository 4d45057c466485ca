"""Whatever a file holds: a result or one clear error, nothing unpickled, nothing followed, nothing left behind."""

from __future__ import annotations

import ast
import csv
import os
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rprloc.errors import InputError
from rprloc.io import archive, metaimage, nifti
from rprloc.io.archive import unpack
from rprloc.io.reading import read_volume
from scripts.robustness import fuzz

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_case_of_the_corpus_is_read_right_or_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.robustness.malformed_inputs", "--out", str(tmp_path / "corpus")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "corpus.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 1700 and sum(row["outcome"] == "read" for row in rows) >= 600
    # What is wrong in one sentence, what to do in the next.
    refused = [row["said"] for row in rows if row["outcome"] == "refused"]
    assert [said for said in refused if not re.search(r"[^.]\. [A-Z]", said)] == []
    assert not list(tmp_path.rglob("*evil*"))


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "good"
    fuzz.prepare(folder)
    return folder


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_a_file_with_random_edits_is_read_right_or_refused(good_files: Path, name: str) -> None:
    assert fuzz.fuzz(name, good_files, number=0, examples=60) is None


def test_the_fuzzer_finds_a_fault_that_is_put_there(good_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "_scaling", lambda path, header: None)  # as if no file were scaled
    # What is drawn depends on the modules that other tests have loaded, so one round may miss it.
    found = next(filter(None, (fuzz.fuzz(".nii", good_files, number) for number in range(6))), None)
    assert found is not None and "another program reads otherwise" in found[1]
    data, good = found[0], (good_files / "scan.nii").read_bytes()
    assert {n for n, (one, other) in enumerate(zip(data, good, strict=True)) if one != other} <= set(range(112, 120))


def test_the_fuzzer_finds_an_error_of_another_kind(good_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metaimage, "broken", lambda path, what: KeyError(what))
    found = fuzz.fuzz(".mha", good_files, number=0)
    assert found is not None and "KeyError" in found[1]


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
        for name, data in files.items():
            written.writestr(name, data)
    return path


@pytest.mark.parametrize("end", ["9" * 300_000, "9" * 300_000 + " 7 7 7 garbage here", "1,2,3" * 70_000])
def test_a_word_without_end_is_no_number(tmp_path: Path, end: str) -> None:
    header = "NRRD0004\ntype: float\ndimension: 3\nspace: LPS\nsizes: 20 20 20\nspace origin: (0,0,0)\n"
    header += "space directions: (4,0,0) (0,4,0) (0,0,4)\nencoding: text\n\n"
    (tmp_path / "scan.nrrd").write_text(header + " ".join(map(str, range(7999))) + " " + end)
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "scan.nrrd")
    assert len(str(caught.value)) < 400


def test_a_number_beyond_its_type_is_refused_without_a_stray_line(tmp_path: Path, capfd) -> None:
    header = "NRRD0004\ntype: float\ndimension: 3\nspace: LPS\nsizes: 20 20 20\nspace origin: (0,0,0)\n"
    header += "space directions: (4,0,0) (0,4,0) (0,0,4)\nencoding: text\n\n"
    (tmp_path / "scan.nrrd").write_text(header + " ".join(map(str, range(7999))) + " 1e300")
    with pytest.raises(InputError, match="NaN or infinite"):
        read_volume(tmp_path / "scan.nrrd")
    assert capfd.readouterr().err == ""


def test_no_path_in_an_archive_is_followed(tmp_path: Path) -> None:
    names = ["../../evil", "/etc/evil", "C:\\evil\\IM1", "a/b/../../../evil", "\x1b[31mred", "x" * 300, "."]
    found = unpack(zip_of(tmp_path / "a.zip", {name: name.encode() for name in names}))
    assert {path.parent for path in found.files} == {found.folder} and len(set(found.files)) == len(names)
    assert [path.read_bytes() for path in found.files] == [name.encode() for name in names]
    assert all(path.name.isprintable() and len(path.name) < 60 for path in found.files)
    assert not list(tmp_path.parent.glob("evil*")) and not list(tmp_path.rglob("evil*"))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_of(tmp_path / "a.zip", {f"{n}": bytes(1 << 20) for n in range(20)})
    assert len(unpack(path).files) == 20  # 20 MB harm nobody
    monkeypatch.setattr(archive, "HARMLESS_BYTES", 1 << 20)
    with pytest.raises(InputError, match="times its size"):
        unpack(path)
    monkeypatch.setattr(archive, "HARMLESS_BYTES", 1 << 30)
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    with pytest.raises(InputError, match="would unpack to 20 files"):
        unpack(path)


def test_an_archive_never_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    """The sizes in its directory are those that are checked; a file that holds more is damaged."""
    data = bytearray(zip_of(tmp_path / "a.zip", {"a": bytes(1 << 20)}).read_bytes())
    start = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, start + 24, 100)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack(tmp_path / "a.zip")


def test_nothing_in_the_library_unpickles() -> None:
    """torch.load and np.load say that they must not; no other call that could is there."""
    checked = 0
    for path in sorted((ROOT / "bundle" / "rprloc").rglob("*.py")):
        for call in (
            node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
        ):
            called, options = (
                ast.unparse(call.func),
                {option.arg: ast.unparse(option.value) for option in call.keywords},
            )
            if called == "torch.load":
                checked += 1
                assert options.get("weights_only") == "True", path
            if called == "np.load":
                checked += 1
                assert options.get("allow_pickle") == "False", path
            assert called.split(".")[0] not in ("pickle", "joblib", "dill", "marshal", "shelve", "cloudpickle"), path
            assert called not in ("eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load"), path
    assert checked >= 3


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_refused_however_it_is_packed(tmp_path: Path, method: int) -> None:
    path = tmp_path / "scan.zip"
    with zipfile.ZipFile(path, "w", method) as written:
        written.writestr("a", np.random.default_rng(0).bytes(50_000))
    data = bytearray(path.read_bytes())
    data[60:2000] = b"\x55" * 1940
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("end", [".nii", ".nii.gz", ".nrrd", ".mha", ".zip", ""])
def test_a_pipe_or_a_device_is_no_scan(tmp_path: Path, end: str) -> None:
    os.mkfifo(tmp_path / f"pipe{end}")
    (tmp_path / f"zero{end}").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(InputError, match="no ordinary file"):
            read_volume(tmp_path / f"{name}{end}")


def test_a_small_file_that_says_to_be_huge_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    header = "NRRD0004\ntype: short\ndimension: 3\nspace: LPS\nsizes: 3000 3000 3000\nendian: little\n"
    header += "space directions: (0.9,0,0) (0,0.9,0) (0,0,0.9)\nspace origin: (0,0,0)\nencoding: bzip2\n\n"
    (tmp_path / "scan.nrrd").write_bytes(header.encode() + bytes(60_000))
    with pytest.raises(InputError, match="would unpack to 54"):
        read_volume(tmp_path / "scan.nrrd")
