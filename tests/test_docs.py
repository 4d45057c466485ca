"""What the documentation shows is true: its examples run, every public name is explained, the site needs no network."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rprloc
from rprloc.apps.demo import DemoScans
from tests.dicoms import edited, write_series

griffe = pytest.importorskip("griffe", reason="the extra docs is not installed")
ROOT = Path(__file__).resolve().parents[1]
LIBRARY = griffe.load("rprloc", search_paths=[ROOT / "bundle"])


def documented(scope: griffe.Object) -> Iterator[griffe.Object]:
    """Everything with a docstring that is defined in a module or class, or below it."""
    if scope.docstring is not None:
        yield scope
    for member in scope.members.values():
        if isinstance(member, griffe.Object):
            yield from documented(member)


DOCSTRINGS = {found.path: found.docstring.value for found in documented(LIBRARY) if ">>>" in found.docstring.value}


@pytest.fixture(scope="module")
def names(public_scans: DemoScans, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What examples in docstrings may use: the public scans, what was learned from one and found in the other."""
    folder = tmp_path_factory.mktemp("documentation")
    localizer = rprloc.Localizer.load(device="cpu")
    example = rprloc.read_example(
        public_scans.support_image, labels=public_scans.support_labels, names=public_scans.support_names
    )
    organs = localizer.learn(example)
    organs.save(folder / "heart.json")
    scan = rprloc.read_scan(public_scans.query_image)
    write_dicom(folder / "dicom", scan.volume)
    return {
        "rprloc": rprloc,
        "np": np,
        "support_image": public_scans.support_image,
        "support_labels": public_scans.support_labels,
        "query_image": public_scans.query_image,
        "dicom_folder": folder / "dicom",
        "support_set_file": folder / "heart.json",
        "localizer": localizer,
        "example": example,
        "organs": organs,
        "volume": scan.volume,
        "scan": scan,
        "found": localizer.locate(scan, organs),
    }


def write_dicom(folder: Path, volume: rprloc.Volume) -> None:
    """Every fourth axial slice of a scan as a DICOM series that lies where the scan lies."""
    hu = np.clip(volume.hu[:, :, ::4], -1024, 3071)
    origin_lps, directions_lps, spacing_mm = volume.grid.to_lps()
    assert np.array_equal(directions_lps, np.eye(3)), "only then is the orientation that of write_series"
    there = edited(
        PixelSpacing=lambda k, old: [spacing_mm[1], spacing_mm[0]],
        ImagePositionPatient=lambda k, old: [*origin_lps[:2], origin_lps[2] + 4 * spacing_mm[2] * k],
    )
    write_series(folder, hu, there)


@pytest.fixture
def reader(public_scans: DemoScans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a reader works, with the scans that pages speak of: Anna's and Emil's are annotated."""
    links = {
        "anna.nii.gz": public_scans.support_image,
        "anna_labels.nii.gz": public_scans.support_labels,
        "bert.nii.gz": public_scans.query_image,
        "emil.nii.gz": public_scans.query_image,
        "emil_labels.nii.gz": public_scans.query_truth,
    }
    for name, path in links.items():
        (tmp_path / name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCSTRINGS)
def test_examples_in_docstrings_run(path: str, names: dict[str, Any], reader: Path) -> None:
    example = doctest.DocTestParser().get_doctest(DOCSTRINGS[path], dict(names), path, None, None)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(example, out=said.append)
    assert runner.failures == 0 and runner.tries > 0, "".join(said)


@pytest.mark.parametrize("name", rprloc.__all__)
def test_every_public_name_is_explained(name: str) -> None:
    described = LIBRARY[name].final_target
    assert described.path in DOCSTRINGS, "it has no example"
    sections = {section.kind.value: section.value for section in described.docstring.parse("numpy")}
    if not described.is_attribute:
        explained = [parameter.name for parameter in sections.get("parameters", [])]
        assert explained == [parameter.name for parameter in described.parameters if parameter.name != "self"]
    if described.is_function:
        assert "raises" in sections
        assert ("returns" in sections) == (str(described.returns) != "None")


def run_blocks(page: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """The names after all Python of a page was run, from top to bottom, and what it printed."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    known: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), known)
    return known, capsys.readouterr().out


@pytest.mark.slow
def test_the_lines_of_the_readme_find_the_spleen(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known, printed = run_blocks(ROOT / "README.md", capsys)
    spleen = known["found"]["spleen"]
    assert printed == f"{spleen.box.size_mm} {spleen.expected_wall_error_mm}\n"
    assert known["found"].located == (spleen,) and known["found"].warnings == ()


@pytest.mark.slow
def test_the_page_for_python_runs_from_top_to_bottom(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known, printed = run_blocks(ROOT / "docs" / "python.md", capsys)
    assert known["part"].hu.size < 0.5 * known["volume"].hu.size
    assert len(known["both"].supports) == 2 and known["both"].organs == ["spleen", "heart"]
    assert len(re.findall("^left out: .*nobody", printed, re.MULTILINE)) == printed.count("left out:") == 1
    for name in ("heart.json", "bert.detections.json", "bert.mrk.json", "bert.png", "bert.boxes.nii.gz"):
        assert (reader / name).is_file()
    assert (reader / "bert.prompts.json").is_file() and (reader / "bert.crops" / "heart.nii.gz").is_file()
    assert known["whole"].shape == known["volume"].hu.shape and known["whole"].sum() == np.prod(known["crop"].shape)


def test_the_readme_fits_on_two_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a link to nowhere fails."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    fetched = re.compile(r'<(?:script|img|iframe|source)[^>]*\ssrc="([^"]+)|<link[^>]*\shref="([^"]+)')
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        places = [one or other for one, other in fetched.findall(page.read_text(encoding="utf-8"))]
        assert places and not [place for place in places if "//" in place], page.name
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", styles)


def test_every_public_name_has_its_place_in_the_reference(site: Path) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html"))
    assert set(rprloc.__all__) == set(re.findall(r'<h2 id="rprloc\.(\w+)"', pages))
    assert ":func:" not in pages and ":data:" not in pages


def test_links_out_of_the_folder_lead_to_pages_or_are_plain_text(site: Path) -> None:
    page = (site / "monailabel.html").read_text(encoding="utf-8")
    assert 'href="index.html#your-first-own-scan"' in page
    assert "monailabel_app/ offers" in page and "monailabel_app/</" not in page
    assert 'href="model-card.html' in (site / "training.html").read_text(encoding="utf-8")
    assert 'href="data_license.txt"' in (site / "model-card.html").read_text(encoding="utf-8")
    assert (site / "data_license.txt").read_bytes() == (ROOT / "bundle" / "docs" / "data_license.txt").read_bytes()


def test_drawings_take_the_colours_of_the_site(site: Path) -> None:
    page = (site / "how-it-works.html").read_text(encoding="utf-8")
    assert page.count('<svg class="drawing" aria-label="') == 2 and ".svg" not in page
