"""The table and the page of a folder of results."""

from __future__ import annotations

import csv
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rprloc.detection import AbsentOrgan, Detections, OrganDetection, Presence
from rprloc.geometry import WALLS, Box
from rprloc.io.results import save_failure
from tests.boxes import points_of
from tests.command_line import rprloc
from tests.example import ExampleFiles


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two results, one of which has odd names, and a failure."""
    folder = tmp_path / "results"
    folder.mkdir()
    box = Box([-10, -20, -30], [40, 50, 60])
    for query, organ in (("anna", "liver"), ("b<script>", 'left, "upper" <lobe>')):
        found = OrganDetection(organ, points_of(box), np.full(6, 3.25), 5, ("s1", "s2"))
        Detections(query, (found,), "m", "s", ("Doubt <1>.",)).save(folder / f"{query}.detections.json")
    save_failure(folder / "carl.failed.json", "carl", "carl.nii is & remains broken.", "run 1")
    return folder


def test_the_table_has_a_row_for_each_organ_and_each_failure(results: Path, tmp_path: Path) -> None:
    done = rprloc("report", results, "--csv", tmp_path / "all.csv")
    assert (done.exit_code, done.stderr) == (0, "")
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["query"], row["organ"]) for row in rows] == [
        ("anna", "liver"),
        ("b<script>", 'left, "upper" <lobe>'),
        ("carl", ""),
    ]
    assert rows[2]["error"] == "carl.nii is & remains broken."
    box = Detections.load(results / "anna.detections.json").boxes["liver"]
    np.testing.assert_allclose([float(rows[0][f"{wall}_ras_mm"]) for wall in WALLS], box.walls_mm, atol=0.01)
    assert (rows[0]["size_s_mm"], rows[0]["spread_left_mm"], rows[0]["supports"]) == ("90.00", "3.25", "s1 s2")


class Words(HTMLParser):
    """The text of a page, its tags, and where it leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags, self.sources = "", set(), []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data) -> None:
        self.text += data


def test_the_page_shows_every_query_and_needs_no_other_file(
    example: ExampleFiles, results: Path, tmp_path: Path
) -> None:
    command = ["locate", example.support_set, example.image, "--out", tmp_path / "real", "--picture"]
    assert rprloc(*command, "--model", example.weights, "--device", "cpu").exit_code == 0
    for path in (tmp_path / "real").iterdir():
        shutil.copy(path, results)
    assert rprloc("report", results, "--html", tmp_path / "all.html").exit_code == 0
    page = Words()
    page.feed((tmp_path / "all.html").read_text(encoding="utf-8"))
    for text in ("anna", "b<script>", 'left, "upper" <lobe>', "Doubt <1>.", "carl.nii is & remains broken.", "bone"):
        assert text in page.text
    assert "script" not in page.tags
    assert len(page.sources) == 1 and page.sources[0].startswith("data:image/png;base64,")
    assert "2 scans located" in page.text and "1 failed" in page.text


def test_absent_and_cut_organs_are_told(results: Path, tmp_path: Path) -> None:
    box = Box([-10, -20, -30], [40, 50, 60])
    cut = OrganDetection("liver", points_of(box), np.full(6, 3.25), 5, ("s1",), 12.5, Presence(0.2, 0.7, 0.1))
    absent = AbsentOrgan("brain", Presence(0.01, 0.03, 0.96), ("s1",))
    Detections("dora", (absent, cut), "m", "s").save(results / "dora.detections.json")
    assert rprloc("report", results, "--csv", tmp_path / "a.csv", "--html", tmp_path / "a.html").exit_code == 0
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["organ"]: row for row in csv.DictReader(file) if row["query"] == "dora"}
    assert rows["brain"]["probability_absent"] == "0.960" and rows["brain"]["size_r_mm"] == ""
    assert rows["liver"]["expected_wall_error_mm"] == "12.50" and rows["liver"]["probability_part"] == "0.700"
    page = Words()
    page.feed((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert "not in the scan (96 %)" in page.text
    assert "expected wall error 12 mm; the scan shows only a part of it" in page.text


def test_chromium_shows_the_page(results: Path, tmp_path: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("Chromium is not installed")
    rprloc("report", results, "--html", tmp_path / "all.html")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    page = (tmp_path / "all.html").as_uri()
    done = subprocess.run([chromium, *flags, "--dump-dom", page], capture_output=True, text=True, timeout=60)
    assert "<h2>b&lt;script&gt;</h2>" in done.stdout and "carl.nii is &amp; remains broken." in done.stdout


def test_a_folder_without_results_and_a_report_without_a_form_are_refused(results: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, about in (
        (["report", tmp_path / "empty", "--csv", tmp_path / "a.csv"], "holds no results"),
        (["report", tmp_path / "none", "--csv", tmp_path / "a.csv"], "holds no results"),
        (["report", results], "--csv, --html or both"),
        (["report", results, "--csv", tmp_path / "none" / "a.csv"], "cannot be written"),
    ):
        done = rprloc(*arguments)
        assert done.exit_code == 2 and about in done.stderr and not (tmp_path / "a.csv").exists()
    (results / "dora.failed.json").write_text("[1]")
    assert "is damaged" in rprloc("report", results, "--csv", tmp_path / "a.csv").stderr
