"""The checker of the bundle: it passes what is here, and says what is wrong with what is not right."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.release import check_bundle

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("monai")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pt")
    copy = shutil.copytree(ROOT / "bundle", tmp_path / "rprloc", ignore=ignored)
    (copy / "models" / "model.pt").write_bytes(b"weights")
    return copy


@pytest.mark.slow
def test_the_bundle_is_as_the_zoo_wants_it(tmp_path: Path) -> None:
    """From the archive of what is committed, if this is a checkout with git, else from the folder."""
    pytest.importorskip("onnxscript")
    archive = tmp_path / "bundle.zip"
    command = ["git", "archive", "--format=zip", "--prefix=rprloc/", f"--output={archive}", "HEAD:bundle"]
    made = shutil.which("git") and subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    given = archive if made else ROOT / "bundle"
    command = [sys.executable, "-m", "scripts.release.check_bundle", str(given)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 8 and "TorchScript differs by at most 0.0e+00 mm" in done.stdout


def metadata(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def alter(bundle: Path) -> None:
        path = bundle / "configs" / "metadata.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")

    return alter


@pytest.mark.parametrize(
    ("check", "alter", "about"),
    [
        ("files", lambda bundle: (bundle / "LICENSE").unlink(), "LICENSE is missing"),
        ("files", lambda bundle: (bundle / "models" / "model.pt").write_bytes(bytes(26_000_000)), "25 MB"),
        ("files", lambda bundle: (bundle / "models" / "model.ts").touch(), "not part of a bundle"),
        ("files", lambda bundle: (bundle / "scripts").mkdir(), "shared by all bundles"),
        ("configs", lambda bundle: (bundle / "configs" / "train.json").write_text("{}"), "four spaces"),
        ("metadata", metadata(lambda content: content.pop("task")), "'task' is a required property"),
        ("metadata", metadata(lambda content: content.update(version="9.9.9")), "not in the changelog"),
        ("metadata", metadata(lambda content: content["eval_metrics"].popitem()), "not those of docs/accuracy"),
        ("readme", lambda bundle: (bundle / "docs" / "README.md").write_text("# A model"), "lacks the sections"),
    ],
)
def test_what_is_not_right_is_said(bundle: Path, check: str, alter: Callable[[Path], None], about: str) -> None:
    run = getattr(check_bundle, f"check_{check}")
    run(bundle)
    alter(bundle)
    with pytest.raises(Exception, match=about):
        run(bundle)
