"""The library's layers: what each folder may import, and that the contract which says so notices a breach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINTER = Path(sys.executable).with_name("lint-imports")

pytestmark = pytest.mark.skipif(not LINTER.exists(), reason="import-linter is not installed")


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """What the contract in ``pyproject.toml`` says of the library in a folder."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [str(LINTER), "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The library's files, to be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "bundle" / "rprloc", tmp_path / "rprloc", ignore=ignored)
    return tmp_path


def test_the_library_keeps_its_layers() -> None:
    done = check(ROOT / "bundle")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("geometry.py", "from rprloc.volume import Volume"),
        ("io/reading.py", "from rprloc.model.network import RPRNet"),
        ("model/field.py", "from rprloc.training.sampling import TrainingScan"),
        ("localization/locate.py", "from rprloc.apps.console import warn"),
        ("io/table.py", "def late() -> None:\n    from rprloc.localization.support import SupportSet"),
    ],
)
def test_an_import_of_a_layer_above_is_noticed(copy: Path, file: str, line: str) -> None:
    path = copy / "rprloc" / file
    path.write_text(path.read_text(encoding="utf-8") + f"\n\n{line}\n", encoding="utf-8")
    done = check(copy)
    assert done.returncode == 1 and "BROKEN" in done.stdout, done.stdout + done.stderr


def test_a_file_outside_of_the_layers_is_noticed(copy: Path) -> None:
    (copy / "rprloc" / "helpers.py").write_text('"""Odds and ends."""\n', encoding="utf-8")
    done = check(copy)
    assert done.returncode == 1 and "helpers" in done.stdout, done.stdout + done.stderr


def test_every_folder_is_packaged() -> None:
    """setuptools takes no folder that is not listed."""
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("packages = [")[2].partition("]")[0]
    folders = [path.parent for path in (ROOT / "bundle" / "rprloc").rglob("__init__.py")]
    names = {".".join(folder.relative_to(ROOT / "bundle").parts) for folder in folders}
    assert {name.strip(' \n"') for name in listed.split(",") if name.strip()} == {
        *names,
        "rprloc.models",
        "rprloc.sets",
    }
