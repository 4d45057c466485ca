"""The table and the page of a folder of results."""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rprloc.detection import AbsentOrgan, Detections, OrganDetection, Presence
from rprloc.geometry import WALLS, Box, Grid
from rprloc.io.report import save_html
from rprloc.io.results import read_results, save_failure
from rprloc.io.slices import save_slices
from rprloc.volume import Volume
from tests.boxes import points_of
from tests.chromium import open_tab
from tests.command_line import rprloc
from tests.example import ExampleFiles

GRID = Grid.isotropic((40, 40, 40), 4.0, [-80, -80, -80])


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


def test_the_page_shows_every_query_and_needs_nothing_but_its_pictures(
    example: ExampleFiles, results: Path, tmp_path: Path
) -> None:
    command = ["locate", example.support_set, example.image, "--out", tmp_path / "real", "--picture"]
    assert rprloc(*command, "--model", example.weights, "--device", "cpu").exit_code == 0
    for path in (tmp_path / "real").iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, results / path.name)
    assert rprloc("report", results, "--html", tmp_path / "all.html").exit_code == 0
    text = (tmp_path / "all.html").read_text(encoding="utf-8")
    page = Words()
    page.feed(text)
    for part in ("anna", "b<script>", 'left, "upper" <lobe>', "Doubt <1>.", "carl.nii is & remains broken.", "bone"):
        assert part in page.text
    assert text.count("<script") == 1 and "<lobe" not in text
    assert page.sources == ["all_pictures/00001-001.jpg", "all_pictures/00001-002.jpg"]
    assert sorted(path.name for path in (tmp_path / "all_pictures").iterdir()) == ["00001-001.jpg", "00001-002.jpg"]
    assert "2 scans located" in page.text and "1 failed" in page.text and "1 of them have no picture" in page.text


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
    assert "90 mm around RAS (15, 15, 15); the scan shows only a part of it" in page.text and "12.5" in page.text


def test_a_second_report_leaves_no_stale_picture_and_what_others_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    make_many(folder, 3)
    (tmp_path / "all_pictures").mkdir()
    for name in ("99999-001.jpg", "99999-001.png", "holiday.jpg"):
        (tmp_path / "all_pictures" / name).write_text("")
    assert rprloc("report", folder, "--html", tmp_path / "all.html").exit_code == 0
    assert len(list((tmp_path / "all_pictures").iterdir())) == 3 * 2 + 2
    shutil.rmtree(folder)
    make_many(folder, 1)
    assert rprloc("report", folder, "--html", tmp_path / "all.html").exit_code == 0
    left = {path.name for path in (tmp_path / "all_pictures").iterdir()}
    assert left == {"00001-001.jpg", "00001-002.jpg", "99999-001.png", "holiday.jpg"}
    assert not list(tmp_path.rglob(".*"))


def test_where_the_pictures_cannot_be_written_the_older_page_stays(tmp_path: Path) -> None:
    make_many(tmp_path / "results", 1)
    (tmp_path / "all.html").write_text("older")
    (tmp_path / "all_pictures").write_text("a file")
    done = rprloc("report", tmp_path / "results", "--html", tmp_path / "all.html")
    assert done.exit_code == 2 and "cannot be made" in done.stderr
    assert (tmp_path / "all.html").read_text() == "older"
    assert {path.name for path in tmp_path.iterdir()} == {"all.html", "all_pictures", "results"}


ORGANS = ("liver", 'left, "upper" <lobe>', "brain")


def make_many(folder: Path, count: int, failed: int = 0) -> None:
    """Results of scans 0001, 0002, ... with a box of each kind and an absent organ, and scans that failed.

    The liver's expected error is its scan's number, the lobe's 100 less; every third scan has a warning.
    """
    folder.mkdir()
    box, volume = Box([-10, -20, -30], [40, 50, 60]), Volume(np.zeros((40, 40, 40), np.int16), GRID)
    for number in range(1, count + 1):
        cut = Presence(0.1, 0.9, 0.0)
        found = (
            OrganDetection(ORGANS[0], points_of(box), np.zeros(6), 1, ("s",), float(number), Presence(1.0, 0.0, 0.0)),
            OrganDetection(ORGANS[1], points_of(box), np.zeros(6), 1, ("s",), abs(number - 100.0), cut),
            AbsentOrgan(ORGANS[2], Presence(0.0, 0.04, 0.96), ("s",)),
        )
        query = f"<b>{number:04d}"
        result = Detections(query, found, "m", "s", ("Doubt <1>.",) if number % 3 == 0 else ())
        result.save(folder / f"{query}.detections.json")
        if number == 1:
            save_slices(folder / f"{query}.slices", volume, result)
        else:
            shutil.copytree(folder / "<b>0001.slices", folder / f"{query}.slices", copy_function=os.link)
    for number in range(1, failed + 1):
        save_failure(folder / f"failed{number}.failed.json", f"failed{number}", "It is <i>broken</i>.", "run")


SHOWN = "Array.from(document.querySelectorAll('tbody tr:not([hidden])'), row => row.cells[%d].textContent)"


@pytest.mark.slow
def test_in_chromium_the_rows_of_a_thousand_scans_are_sorted_and_filtered(tmp_path: Path) -> None:
    make_many(tmp_path / "results", 1000, failed=5)
    save_html(tmp_path / "all.html", read_results(tmp_path / "results"), tmp_path / "results")
    assert (tmp_path / "all.html").stat().st_size < 2e6
    with open_tab(tmp_path / "profile") as tab:
        tab.open(tmp_path / "all.html")
        # Only what is in view is fetched, all of it from beside the page, and nothing breaks or breaks out.
        fetched = tab.fetched()
        assert 2 <= len(fetched) < 100 and all(url.startswith(tmp_path.as_uri()) for url in fetched)
        assert tab.complaints() == [] and tab.evaluate("document.querySelectorAll('b, i, lobe').length") == 0
        assert (
            tab.evaluate("document.querySelector('img').complete && document.querySelector('img').naturalWidth") == 546
        )
        assert tab.evaluate("document.querySelector('output').textContent") == "3005 of 3005 rows"
        tab.evaluate("document.querySelector('tbody').lastElementChild.scrollIntoView()")

        # By the keyboard alone: to the organ, one down; then to the table's head, and sort by expected error.
        tab.evaluate("document.querySelector('select[name=organ]').focus()")
        tab.press("l", "l")
        assert set(tab.evaluate(SHOWN % 1)) == {"liver"}
        for _ in range(7):
            tab.press("Tab")
        assert tab.evaluate("document.activeElement.textContent") == "expected error mm"
        tab.press("Enter", "\r")
        assert tab.evaluate(SHOWN % 2)[:2] == ["1000.0", "999.0"]
        assert tab.evaluate("document.querySelectorAll('th')[2].getAttribute('aria-sort')") == "descending"
        tab.press("Enter", "\r")
        assert tab.evaluate(SHOWN % 2)[:2] == ["1.0", "2.0"]

        def choose(name: str, value: str) -> list[list[str]]:
            set_value = f"document.querySelector('[name={name}]').value = {json.dumps(value)};"
            tab.evaluate(set_value + "document.querySelector('form').dispatchEvent(new Event('input'))")
            return [tab.evaluate(SHOWN % column) for column in range(3)]

        assert len(choose("organ", "")[0]) == 3005
        assert set(choose("organ", ORGANS[1])[1]) == {ORGANS[1]}
        choose("organ", "")
        assert set(choose("kind", "absent")[1]) == {"brain"} and len(choose("kind", "failed")[0]) == 5
        assert set(choose("kind", "cut")[1]) == {ORGANS[1]} and len(choose("kind", "box")[0]) == 2000
        errors = choose("error", "990")[2]
        assert errors == [f"{number}.0" for number in range(990, 1001)]  # sorted by it, and the lobe's are less
        choose("error", "")
        assert len(choose("scan", "<B>0999")[0]) == 2
        choose("scan", "")
        choose("kind", "")
        tab.evaluate("document.querySelector('[name=doubt]').click()")
        assert len(tab.evaluate(SHOWN % 0)) == 333 * 3
        assert tab.evaluate("document.querySelector('output').textContent") == "999 of 3005 rows"
        assert tab.complaints() == []


def test_in_chromium_the_page_is_readable_in_dark_light_and_on_paper(tmp_path: Path) -> None:
    make_many(tmp_path / "results", 30, failed=1)
    save_html(tmp_path / "all.html", read_results(tmp_path / "results"), tmp_path / "results")
    contrast = """(() => {
      const light = colour => { const [r, g, b] = colour.match(/[0-9.]+/g).map(part => { const value = part / 255;
        return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const ground = element => { const colour = getComputedStyle(element).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : colour; };
      return Math.min(...Array.from(document.querySelectorAll("p, label, th, td"), element => {
        const [a, b] = [light(getComputedStyle(element).color), light(ground(element))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); })); })()"""
    with open_tab(tmp_path / "profile") as tab:
        tab.open(tmp_path / "all.html")
        for scheme in ("light", "dark"):
            for media in ("screen", "print"):
                features = [{"name": "prefers-color-scheme", "value": scheme}]
                tab.send("Emulation.setEmulatedMedia", media=media, features=features)
                assert tab.evaluate(contrast) >= 7.0, (scheme, media)
                ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (ground == "rgb(255, 255, 255)") == (scheme == "light" or media == "print")
        tab.send("Emulation.setEmulatedMedia", media="", features=[])
        assert len(tab.fetched()) < 41
        tab.evaluate("document.querySelector('[name=organ]').value = 'liver'")
        tab.evaluate("document.querySelector('form').dispatchEvent(new Event('input'))")
        tab.evaluate("new Promise(go => { window.print = go; document.querySelector('[name=print]').click(); })")
        pdf = base64.b64decode(tab.send("Page.printToPDF")["data"])
        assert pdf.count(b"/Subtype /Image") == 30  # on paper all pictures of the rows that are shown are there


def test_the_page_reads_without_its_script(results: Path, tmp_path: Path) -> None:
    rprloc("report", results, "--html", tmp_path / "all.html")
    with open_tab(tmp_path / "profile") as tab:
        tab.send("Emulation.setScriptExecutionDisabled", value=True)
        tab.open(tmp_path / "all.html")
        tab.send("Emulation.setScriptExecutionDisabled", value=False)
        assert tab.evaluate("getComputedStyle(document.forms[0]).display") == "none"
        # On paper all rows are text at once; on a screen only those that were drawn already.
        tab.send("Emulation.setEmulatedMedia", media="print")
        text = tab.evaluate("document.body.innerText")
        assert "carl.nii is & remains broken." in text and "Expected error from" not in text


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
