"""Whatever a file holds: a result or one clear error, nothing unpickled, nothing followed, nothing left behind."""

from __future__ import annotations

import ast
import csv
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.io import archive
from rprloc.io.archive import unpack
from rprloc.io.plausibility import image_warnings
from rprloc.io.reading import read_volume
from rprloc.volume import to_sitk
from tests.dicoms import write_series
from tests.phantoms import phantom_hu

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_case_of_the_corpus_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.robustness.malformed_inputs", "--out", str(tmp_path / "corpus")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=560)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "corpus.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 200
    # What is wrong in one sentence, what to do in the next.
    assert [row["said"] for row in rows if not re.search(r"[^.]\. [A-Z]", row["said"])] == []
    assert not list(tmp_path.rglob("*evil*"))


Edits = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("insert"), st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("delete"), st.integers(0, 1 << 16), st.just(b"1234")),
        st.tuples(st.just("cut"), st.integers(0, 1 << 16), st.just(b"")),
    ),
    min_size=1,
    max_size=4,
)
HEADER_BYTES = {".nii": 352, ".nii.gz": 3000, ".nrrd": 300, ".mha": 350, "dicom": 1300}


def edited_bytes(data: bytes, edits: list[tuple[str, int, bytes]], header: int) -> bytes:
    changed = bytearray(data)
    for kind, place, new in edits:
        start = place % min(header, max(len(changed), 1))
        if kind == "insert":
            changed[start:start] = new
        elif kind == "cut":
            del changed[place % max(len(changed), 1) :]
        else:
            changed[start : start + len(new)] = new if kind == "set" else b""
    return bytes(changed)


@pytest.mark.parametrize("kind", HEADER_BYTES)
@given(edits=Edits)
def test_a_scan_with_any_damage_is_read_or_refused(tmp_path_factory, kind: str, edits) -> None:
    folder = tmp_path_factory.getbasetemp() / f"fuzz{kind}"
    grid = Grid((30, 24, 20), np.array([[4.0, 0, 0, -60], [0, -5, 0, 40], [0, 0, 6, -300], [0, 0, 0, 1]]))
    if not folder.exists():
        folder.mkdir()
        if kind == "dicom":
            write_series(folder / "series", phantom_hu(grid))
            victim = sorted((folder / "series").iterdir())[7]
        else:
            victim = folder / f"scan{kind}"
            sitk.WriteImage(to_sitk(phantom_hu(grid), grid), victim)
        (folder / "good").write_bytes(victim.read_bytes())
    victim = sorted((folder / "series").iterdir())[7] if kind == "dicom" else folder / f"scan{kind}"
    victim.write_bytes(edited_bytes((folder / "good").read_bytes(), edits, HEADER_BYTES[kind]))
    try:
        volume = read_volume(victim.parent if kind == "dicom" else victim)
    except InputError as error:
        assert "\n" not in str(error) and str(error).endswith(".")
    else:
        image_warnings(volume)


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
        for name, data in files.items():
            written.writestr(name, data)
    return path


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
    monkeypatch.setattr(archive, "_FREE_BYTES", 1 << 20)
    with pytest.raises(InputError, match="times its size"):
        unpack(path)
    monkeypatch.setattr(archive, "_FREE_BYTES", 1 << 30)
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
