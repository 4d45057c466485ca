"""Names and words that not every file system, encoding or font can hold, and files of a result that come together."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.annotation import Annotation
from rprloc.apps.batch import Job, locate_here, name_queries
from rprloc.detection import AbsentOrgan, Detections, Presence
from rprloc.errors import InputError
from rprloc.files import (
    atomic_folder,
    atomic_path,
    readable,
    require_name,
    require_writable,
    write_text_atomically,
)
from rprloc.geometry import Box, Grid
from rprloc.io.formats import scan_name
from rprloc.io.pictures import save_picture
from rprloc.io.reading import Scan, read_scan
from rprloc.io.results import Failure, ResultFiles, read_results, write_results
from rprloc.localization.localizer import Localizer
from rprloc.localization.support import SupportSet
from rprloc.volume import Volume, to_sitk
from tests.command_line import rprloc
from tests.dicoms import write_series, zipped
from tests.example import ExampleFiles
from tests.phantoms import PHANTOM_GRID, phantom_hu
from tests.test_one_bad_scan import MAIN, copy, options, python

# Names of results


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"p\xe4r.nii.gz", "p%E4r"),
        (b"\xff.mha", "%FF"),
        ("Müller 肝.nrrd".encode(), "Müller 肝"),
        (b"\xf0\x9f\x98.nii", "%F0%9F%98"),
        (b".nii.gz", ""),
    ],
)
def test_a_scan_is_called_readably_whatever_bytes_its_name_has(tmp_path: Path, name: bytes, shown: str) -> None:
    path = tmp_path / os.fsdecode(name)
    assert scan_name(path) == shown
    folder = tmp_path / os.fsdecode(b"ward " + name.removesuffix(b".nii.gz"))
    folder.mkdir()
    assert scan_name(folder) == "ward " + readable(os.fsdecode(name.removesuffix(b".nii.gz")))
    (tmp_path / f"{scan_name(folder)}.txt").write_text(scan_name(folder), encoding="utf-8")


def test_every_format_is_read_under_a_name_that_is_not_utf8(example: ExampleFiles, tmp_path: Path) -> None:
    """In a process of its own, as a library that gets such a name may abort it."""
    plain, odd = tmp_path / "plain", tmp_path / os.fsdecode(b"w\xe4rd")
    volume = read_scan(example.image).volume
    for folder in (plain, odd):
        folder.mkdir()
    ends = (".nii", ".nii.gz", ".nrrd", ".mha", ".nhdr", ".mhd")
    for end in ends:
        sitk.WriteImage(to_sitk(volume.hu, volume.grid), plain / f"scan{end}")
    nibabel.save(nibabel.Nifti2Image(volume.hu, volume.grid.ras_from_ijk), plain / "second.nii")
    write_series(plain / "stack", volume.hu)
    zipped(plain / "stack", plain / "stack.zip")
    for path in plain.iterdir():
        if path.is_dir():
            path.rename(odd / os.fsdecode(b"\xff" + path.name.encode()))
        else:  # the files with the voxels beside a header keep their names, as the header names them
            kept = path.suffix == ".raw" or path.name.endswith(".raw.gz")
            shutil.copy(path, odd / os.fsdecode((b"" if kept else b"\xff") + path.name.encode()))
    code = """
import sys, numpy as np, rprloc
from pathlib import Path
first = rprloc.read_scan(sys.argv[1]).volume
for path in sorted(Path(sys.argv[2]).iterdir()):
    if ".raw" not in path.name:
        volume = rprloc.read_scan(path).volume
        assert np.array_equal(volume.hu, first.hu), ascii(path)
        assert "stack" in path.name or volume.grid.same_as(first.grid), ascii(path)
        print(volume.name)
"""
    done = python(code, example.image, odd)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(["%FFscan"] * len(ends) + ["%FFsecond"] + ["%FFstack"] * 2)


def test_different_names_stay_different_when_they_are_made_readable() -> None:
    names = {readable(os.fsdecode(bytes([byte, 97, other]))) for byte in range(128, 192) for other in range(128, 192)}
    assert len(names) == 64 * 64 and readable("Müller %41") == "Müller %41"


@pytest.mark.parametrize("most", [143, 255])
def test_a_name_is_too_long_by_what_the_file_system_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Encrypted folders take 143 bytes; there is none here, so what the system says of its folders is replaced."""
    limit = os.pathconf
    monkeypatch.setattr(os, "pathconf", lambda path, name: most if name == "PC_NAME_MAX" else limit(path, name))
    fits = most - len(".detections.json")
    for letter in ("n", "é"):
        longest = letter * (fits // len(letter.encode()))
        ResultFiles(tmp_path, longest).require_possible(tmp_path)
        ResultFiles(tmp_path / "not yet" / longest, longest).require_possible(tmp_path)
        with pytest.raises(InputError, match=f"{most} are allowed"):
            ResultFiles(tmp_path, longest + letter).require_possible(tmp_path)
        with pytest.raises(InputError, match=f"{most} are allowed"):
            ResultFiles(tmp_path, f"{letter * (most + 1)}/scan").require_possible(tmp_path)
    with pytest.raises(InputError, match="a shorter path"):
        ResultFiles(tmp_path.joinpath(*("n" * 100,) * 41), "anna").require_possible(tmp_path)


@pytest.mark.parametrize("said", [-1, OSError("not known here")])
def test_a_file_system_that_tells_no_limit_is_taken_for_an_ordinary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: int | OSError
) -> None:
    """There is none here, so what the system says is replaced."""

    def limit(path: Path, name: str) -> int:
        if isinstance(said, OSError):
            raise said
        return said

    monkeypatch.setattr(os, "pathconf", limit)
    ResultFiles(tmp_path, "n" * 239).require_possible(tmp_path)
    with pytest.raises(InputError, match="255 are allowed"):
        ResultFiles(tmp_path, "n" * 240).require_possible(tmp_path)


def test_the_longest_name_that_is_allowed_is_written_through_a_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125 + ".json")
    require_writable(path)
    write_text_atomically(path, "whole")
    assert path.read_text() == "whole" and [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with pytest.raises(InputError, match="Give a shorter name"):
        require_writable(tmp_path / ("é" * 126 + ".json"))


def test_names_that_are_no_text_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="letter that is none"):
        write_text_atomically(tmp_path / "a.json", "\ud83d")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="not UTF-8"):
        require_name(os.fsdecode(b"p\xe4r"), "--name")
    with pytest.raises(InputError, match="no text"):
        require_name(5, "--name")  # type: ignore[arg-type]  # as JSON may give it


# All files of a result or none


@pytest.fixture(scope="module")
def scan(example: ExampleFiles) -> Scan:
    return read_scan(example.image)


@pytest.fixture(scope="module")
def found(example: ExampleFiles, scan: Scan) -> Detections:
    return Localizer.load(example.weights, "cpu").locate(scan, SupportSet.load(example.support_set))


def test_where_one_file_cannot_be_written_none_is_and_older_ones_stay(
    scan: Scan, found: Detections, tmp_path: Path
) -> None:
    ends = (".png", ".mrk.json", ".boxes.nii.gz", ".detections.json")
    for blocked in ends:
        folder = tmp_path / blocked[1:]
        (folder / f"anna{blocked}").mkdir(parents=True)
        older = {f"anna{end}" for end in ends if end != blocked}
        for name in older:
            (folder / name).write_text("older")
        with pytest.raises(InputError, match="it is a folder"):
            write_results(folder, scan, found, picture=True, label_map=True)
        assert {path.name for path in folder.iterdir()} == older | {f"anna{blocked}"}
        assert {(folder / name).read_text() for name in older} == {"older"}


@pytest.mark.parametrize("limit", [100, 400, 20_000])
def test_on_a_full_disk_no_file_is_cut_off(example: ExampleFiles, tmp_path: Path, limit: int) -> None:
    """No file may be longer than some bytes, which fails like a full disk."""
    pytest.importorskip("resource")
    code = """
import resource, sys, rprloc
volume = rprloc.read_volume(sys.argv[1])
found = rprloc.Localizer.load(sys.argv[2], "cpu").locate(volume, rprloc.SupportSet.load(sys.argv[3]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[5]),) * 2)
for name in ("a.nii", "a.nii.gz", "a.nrrd"):
    try:
        rprloc.save_label_map(f"{sys.argv[4]}/{name}", found, volume.grid)
        print(name)
    except rprloc.InputError as error:
        print(error, file=sys.stderr)
"""
    done = python(code, example.image, example.weights, example.support_set, tmp_path, limit)
    written = {100: [], 400: ["a.nii.gz"], 20_000: ["a.nii", "a.nii.gz", "a.nrrd"]}[limit]
    assert done.returncode == 0 and done.stdout.split() == written, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)
    assert done.stderr.count("as if the disk were full") == 3 - len(written)


def test_a_scan_that_is_not_from_dicom_leaves_no_file_when_dicom_is_asked_for(
    scan: Scan, found: Detections, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="was not read from DICOM"):
        write_results(tmp_path, scan, found, label_map=True, dicom=["rtstruct"])
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_run_drew_goes_only_when_the_new_result_is_complete(
    scan: Scan, found: Detections, tmp_path: Path
) -> None:
    nowhere = Presence(whole=0.0, part=0.04, absent=0.96)
    absent = replace(found, organs=tuple(AbsentOrgan(organ.organ, nowhere, ("anna",)) for organ in found.organs))
    write_results(tmp_path, scan, found, picture=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 5  # detections, ROIs, picture, and a slice of each organ
    (tmp_path / "anna.boxes.nii.gz").mkdir()
    with pytest.raises(InputError, match="it is a folder"):
        write_results(tmp_path, scan, absent, label_map=True)
    (tmp_path / "anna.boxes.nii.gz").rmdir()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    write_results(tmp_path, scan, absent, label_map=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anna.boxes.nii.gz", "anna.detections.json"]


def test_files_move_together_and_the_one_that_tells_that_all_are_there_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    replace_path = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: (moved.append(Path(to).name), replace_path(path, to))[1])
    with atomic_folder(tmp_path, "b.detections.json") as temporary:
        for name in ("b.detections.json", "a.png", "z.nii"):
            (temporary / name).write_text(name)
        assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent == tmp_path] == []
    assert moved == ["a.png", "z.nii", "b.detections.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.detections.json", "z.nii"]


def test_what_a_run_left_that_was_cut_short_is_no_result(found: Detections, tmp_path: Path) -> None:
    found.save(tmp_path / "anna.detections.json")

    def end_in_the_midst() -> None:
        with atomic_folder(tmp_path, "bert.detections.json") as temporary, atomic_path(tmp_path / "c.failed.json"):
            found.save(temporary / "bert.detections.json")
            kept = tmp_path.rglob("*")
            os.link(temporary / "bert.detections.json", tmp_path / ".0123abcd.tions.detections.json")
            assert len(list(kept)) >= 3
            assert [one.query for one in read_results(tmp_path)] == [found.query]
            raise RuntimeError("power is gone")

    with pytest.raises(RuntimeError, match="power"):
        end_in_the_midst()
    assert [one.query for one in read_results(tmp_path)] == [found.query]


def test_the_report_tells_of_a_failure_rather_than_of_what_was_found_before_it(
    example: ExampleFiles, tmp_path: Path
) -> None:
    job = Job(SupportSet.load(example.support_set), tmp_path, None, example.weights, "cpu", keep_record=True)
    queries = name_queries([copy(example, tmp_path / "scans" / "anna.nii.gz")])
    assert [outcome.error for outcome in locate_here(job, queries)] == [None]
    queries[0].path.write_bytes(b"broken")
    lung = replace(job, organs=("lung",))
    assert [outcome.skipped for outcome in locate_here(lung, queries)] == [False]
    (told,) = read_results(tmp_path)
    assert isinstance(told, Failure) and "not a NIfTI file" in told.error
    assert [outcome.skipped for outcome in locate_here(job, queries)] == [True]  # all that this job wants is there
    (told,) = read_results(tmp_path)
    assert isinstance(told, Detections) and list(told.boxes) == ["bone", "lung"]


def test_a_query_without_a_name_is_told_before_the_work(example: ExampleFiles, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = rprloc("locate", example.support_set, copy(example, tmp_path / ".nii.gz"), *options(example, out))
    assert done.exit_code == 2 and "has no name before its extension" in done.stderr
    assert not out.exists() or not list(out.iterdir())
    two = [copy(example, tmp_path / folder / ".nii.gz") for folder in ("a", "b")]
    done = rprloc("locate", example.support_set, *two, example.image, *options(example, out))
    assert done.exit_code == 1 and done.stderr.count("has no name before its extension") == 2
    assert [one.query for one in read_results(out)] == ["anna"]


# What cannot be shown


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437:strict"])
def test_letters_that_the_terminal_lacks_stop_nothing(example: ExampleFiles, tmp_path: Path, encoding: str) -> None:
    content = json.loads(example.support_set.read_text(encoding="utf-8"))
    for support in content["supports"]:
        support["organs"] = {f"{name} 肝臓": organ for name, organ in support["organs"].items()}
    named = tmp_path / "set.json"
    named.write_text(json.dumps(content), encoding="utf-8")
    scans = [copy(example, tmp_path / f"{name}.nii.gz") for name in ("Łuk", "zoë")]
    out = tmp_path / "out"
    shown = python(MAIN, "support", "show", named, PYTHONIOENCODING=encoding)
    assert shown.returncode == 0 and "lung" in shown.stdout, shown.stderr
    done = python(MAIN, "locate", named, *scans, *options(example, out), PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert {one.query for one in read_results(out)} == {"Łuk", "zoë"}
    if encoding != "ascii":  # there, the library of the command line writes UTF-8
        assert "\\u809d\\u81d3" in shown.stdout and "\\u0141uk" in done.stdout


def test_a_picture_shows_the_codes_of_letters_that_its_font_lacks(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    volume = Volume(phantom_hu(PHANTOM_GRID), PHANTOM_GRID, "anna")
    centre = PHANTOM_GRID.bounds.centre_ras
    box = Box.from_extreme_points(centre + 20 * np.repeat(np.eye(3), 2, axis=0) * np.tile([[-1.0], [1.0]], (3, 1)))

    def drawn(organ: str) -> bytes:
        path = tmp_path / "a.png"
        save_picture(path, volume, {organ: box}, remarks={organ: "", f"{organ} b": "absent"})
        return path.read_bytes()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pictures = {organ: drawn(organ) for organ in ("肝臓", "脾臓", "a\tb", "Müller", "\U0001fac0")}
    assert [str(warning.message) for warning in told] == [] and capfd.readouterr().err == ""
    assert len(set(pictures.values())) == len(pictures)
    assert drawn("肝臓") == drawn("\\u809d\\u81d3")


# Names of labels


def test_all_names_without_voxels_are_told_at_once() -> None:
    labels = np.zeros((20, 20, 20), int)
    labels[5:15, 5:15, 5:15] = 3
    grid = Grid.isotropic(labels.shape, 2.0, [0.0, 0.0, 0.0])
    for names, told in (
        ({1: "spleen", 3: "liver", 9: "colon"}, "Labels 1 (spleen), 9 (colon) have no voxel"),
        ({n: f"organ {n}" for n in range(1, 118)}, "Labels 1-2, 4-117 have no voxel"),
        ({n: f"organ {n}" for n in (20, 3, 5, 6, 7, 9)}, "Labels 20 (organ 20), 5 (organ 5), 6 (organ 6), 7 (organ 7)"),
        (dict.fromkeys((20, 3, 5, 6, 7, 9), "o" * 60), "Labels 5-7, 9, 20 have no voxel"),
        ({n: f"organ {n}" for n in range(1, 118, 2)}, "Labels 1, 5, 7, 9, 11,"),
    ):
        with pytest.raises(InputError) as refused:
            Annotation.from_labels(labels, grid, names)
        assert told in str(refused.value) and "Leave these names out" in str(refused.value)
        assert len(str(refused.value)) < 400
        if len(names) == 59:
            assert all(f" {n}," in str(refused.value) for n in range(5, 117, 2))
