"""DICOM as it comes out of archives: files that are lost, odd, or there twice, and what is said of them."""

from __future__ import annotations

import bz2
import gzip
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RLELossless,
    generate_uid,
)

from rprloc.geometry import Grid
from rprloc.io import archive
from rprloc.io.dataset import scans_below
from rprloc.io.reading import read_scan, read_volume
from tests.command_line import rprloc
from tests.dicoms import IN_COLOUR, edited, multi_frame, write_series, zipped
from tests.odd_dicoms import (
    cut_early,
    cut_in_the_meta_header,
    emptied,
    lost_behind_a_link,
    replaced_by_a_page,
    with_meta_but_without_preamble,
    without_preamble,
    zeroed,
)
from tests.phantoms import SHAPE
from tests.refusals import refusal
from tests.test_dicom import DICOM_RAS

LOST = [
    emptied,
    cut_early,
    cut_in_the_meta_header,
    zeroed,
    lost_behind_a_link,
    replaced_by_a_page,
]


# Slices that do not begin as DICOM does


@pytest.mark.parametrize("which", [slice(0, 6), slice(-6, None), slice(3, 9), slice(None)])
@pytest.mark.parametrize("bare", [without_preamble, with_meta_but_without_preamble])
def test_slices_without_a_preamble_are_read_like_the_others(tmp_path: Path, hu, which: slice, bare) -> None:
    write_series(tmp_path, hu)
    for path in sorted(tmp_path.iterdir())[which]:
        bare(path)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.volume.hu, hu)
    assert scan.volume.grid.same_as(Grid(SHAPE, DICOM_RAS), tolerance_mm=1e-6)
    assert scan.warnings == ()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_data_set_without_meta_header_is_read_however_it_is_written(tmp_path: Path, hu: np.ndarray, syntax) -> None:
    write_series(tmp_path, hu)
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        if syntax == ExplicitVRBigEndian:
            data.PixelData = np.frombuffer(data.PixelData, np.uint16).byteswap().tobytes()
        data.file_meta.TransferSyntaxUID = syntax
        written = {"implicit_vr": syntax.is_implicit_VR, "little_endian": syntax.is_little_endian}
        pydicom.dcmwrite(path, data, **written)
        without_preamble(path)
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)


def test_a_folder_without_meta_headers_is_a_scan_to_train_on(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path / "case", hu)
    for path in (tmp_path / "case").iterdir():
        without_preamble(path)
    (tmp_path / "case" / "deeper").mkdir()
    assert [scan.name for scan in scans_below(tmp_path)] == ["case"]


def test_a_broken_link_does_not_stop_the_search_for_scans_to_train_on(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path / "case", hu)
    (tmp_path / "case" / "0").symlink_to(tmp_path / "gone")
    (tmp_path / "case" / "deeper").mkdir()
    assert [scan.name for scan in scans_below(tmp_path)] == ["case"]


@pytest.mark.parametrize("lose", LOST)
@pytest.mark.parametrize("which", [slice(0, 4), slice(-4, None), slice(-1, None), slice(0, 1)])
def test_a_scan_that_lost_an_end_is_refused(tmp_path: Path, hu: np.ndarray, lose, which: slice) -> None:
    write_series(tmp_path, hu)
    for path in sorted(tmp_path.iterdir())[which]:
        lose(path)
    refusal(lambda: read_volume(tmp_path), "xport the series again")


@pytest.mark.parametrize("lose", [emptied, cut_early, zeroed])
def test_a_scan_in_a_zip_file_that_lost_an_end_is_refused(tmp_path: Path, hu: np.ndarray, lose) -> None:
    write_series(tmp_path / "study", hu)
    for path in sorted((tmp_path / "study").iterdir())[-3:]:
        lose(path)
    path = zipped(tmp_path / "study", tmp_path / "study.zip")
    refusal(lambda: read_volume(path), "3 files", "lack slices at an end")


def test_a_damaged_file_in_a_zip_file_has_its_name_there(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path / "study", hu)
    name = sorted((tmp_path / "study").iterdir())[7].name
    (tmp_path / "study" / name).write_bytes((tmp_path / "study" / name).read_bytes()[:-5])
    path = zipped(tmp_path / "study", tmp_path / "study.zip")
    refusal(lambda: read_volume(path), f"{path / name} is damaged")


def test_an_end_that_was_lost_under_other_names_shows_by_the_numbers_of_the_slices(tmp_path: Path, hu) -> None:
    write_series(tmp_path, hu)
    for path in sorted(tmp_path.iterdir()):
        path.rename(tmp_path / ("first" if path.name.endswith("_80.dcm") else path.name))
    emptied(tmp_path / "first")  # which was instance 1
    refusal(lambda: read_volume(tmp_path), "first is empty", "lack slices at an end")


@pytest.mark.parametrize("which", [slice(0, 4), slice(-4, None), slice(None)])
def test_slices_that_name_no_series_are_missed(tmp_path: Path, hu: np.ndarray, which: slice) -> None:
    """They may belong to the scan. Where no slice names one, they are one series."""
    write_series(tmp_path, hu)
    paths = sorted(tmp_path.iterdir())
    for path in paths[which]:
        data = pydicom.dcmread(path)
        del data.SeriesInstanceUID
        data.save_as(path)
    if which == slice(None):
        np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)
    else:
        refusal(lambda: read_volume(tmp_path), "4 files", "does not say to which series it belongs")


@pytest.mark.parametrize("which", [0, -1])
def test_a_packed_slice_is_missed(tmp_path: Path, hu: np.ndarray, which: int) -> None:
    write_series(tmp_path, hu)
    path = sorted(tmp_path.iterdir())[which]
    (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    refusal(lambda: read_volume(tmp_path), "may lack slices", ".dcm.gz is compressed")


def test_a_gap_in_the_middle_is_refused_whatever_made_it(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path, hu)
    sorted(tmp_path.iterdir())[9].unlink()
    emptied(tmp_path / "note")
    refusal(lambda: read_volume(tmp_path), "Slices are missing")


def test_a_file_beside_the_scan_that_cannot_be_read_is_told(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path, hu)
    emptied(tmp_path / "README")
    (tmp_path / "latest").symlink_to(tmp_path / "gone")
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.volume.hu, hu)
    assert len(scan.warnings) == 1 and "2 files" in scan.warnings[0] and "left out" in scan.warnings[0]


def test_what_systems_leave_beside_files_is_passed_over(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path / "study", hu)
    for path in list((tmp_path / "study").iterdir()):
        (path.parent / f"._{path.name}").write_bytes(b"\0\x05\x16\x07" + bytes(4092))
    (tmp_path / "study" / ".nomedia").touch()
    (tmp_path / "study" / "Thumbs.db").write_bytes(b"\xd0\xcf" * 300)
    for path in (tmp_path / "study", zipped(tmp_path / "study", tmp_path / "study.zip")):
        scan = read_scan(path)
        np.testing.assert_array_equal(scan.volume.hu, hu)
    assert read_scan(tmp_path / "study").warnings == ()


def test_a_lost_file_of_another_series_does_not_stand_in_the_way(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path / "scan", hu)
    write_series(tmp_path / "other", hu)
    for path in sorted((tmp_path / "other").iterdir())[-3:]:
        emptied(path)
    lines = rprloc("series", tmp_path).stdout
    assert lines.count("cannot be read") == 2  # one series, and the files of no known series
    uid = pydicom.dcmread(next((tmp_path / "scan").iterdir())).SeriesInstanceUID
    scan = read_scan(tmp_path, series_uid=uid)
    np.testing.assert_array_equal(scan.volume.hu, hu)
    assert "3 files" in scan.warnings[0]


def test_two_series_in_one_folder_are_each_blamed_for_their_own_lost_files(tmp_path: Path, hu: np.ndarray) -> None:
    uids = [write_series(tmp_path / name, hu) for name in ("a", "b")]
    (tmp_path / "both").mkdir()
    for n, path in enumerate([*sorted((tmp_path / "a").iterdir()), *sorted((tmp_path / "b").iterdir())]):
        path.rename(tmp_path / "both" / f"IM{n}")
    emptied(tmp_path / "both" / "IM30")
    emptied(tmp_path / "both" / "IM39")
    np.testing.assert_array_equal(read_volume(tmp_path / "both", series_uid=uids[0]).hu, hu)
    refusal(lambda: read_volume(tmp_path / "both", series_uid=uids[1]), "2 files")


def test_nothing_but_files_that_cannot_be_read_is_said_so(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path / "scan", hu)
    for path in (tmp_path / "scan").iterdir():
        lost_behind_a_link(path)
    refusal(lambda: read_volume(tmp_path / "scan"), "20 files", "is a link to a file that is not there")


# Links and copies


def test_linked_folders_are_followed_each_once(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path / "elsewhere", hu)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "series").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "study" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "study")
    scan = read_scan(tmp_path / "study")
    np.testing.assert_array_equal(scan.volume.hu, hu)
    assert scan.warnings == ()


def test_a_file_that_was_copied_twice_is_read_once_and_told(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path, hu)
    for path in sorted(tmp_path.iterdir())[4:6]:
        shutil.copy(path, tmp_path / f"{path.stem} (copy).dcm")
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.volume.hu, hu)
    assert "Copies of other files were left out: 2 files" in scan.warnings[0] and len(scan.warnings) == 1


def test_a_series_that_lies_in_the_folder_twice_is_read_once(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path / "one", hu)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)


def test_an_image_that_is_there_twice_with_other_pixels_is_refused(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path, hu)
    data = pydicom.dcmread(sorted(tmp_path.iterdir())[4])
    data.PixelData = bytes(len(data.PixelData))
    data.save_as(tmp_path / "copy.dcm")
    refusal(lambda: read_volume(tmp_path), "1 slices", "lie where another one lies")


# What is wrong with one series stays with it


def test_pictures_and_damaged_files_of_other_series_do_not_stand_in_the_way(tmp_path: Path, hu: np.ndarray) -> None:
    scan = write_series(tmp_path / "scan", hu)
    faulty = {
        "3 values": write_series(tmp_path / "colour", hu, edited(**IN_COLOUR)),
        "palette": write_series(
            tmp_path / "palette", hu, edited(PhotometricInterpretation=lambda k, old: "PALETTE COLOR")
        ),
        "rescale slope": write_series(tmp_path / "slope", hu[:, :, :3], edited(RescaleSlope=lambda k, old: 0)),
        "damaged or cut off": write_series(tmp_path / "cut", hu[:, :, :2]),
        "single slice": write_series(tmp_path / "one", hu[:, :, :1]),
    }
    for path in (tmp_path / "cut").iterdir():
        path.write_bytes(path.read_bytes()[:-900])
    for given in (tmp_path, zipped(tmp_path, tmp_path.parent / f"{tmp_path.name}.zip")):
        volume = read_volume(given)
        np.testing.assert_array_equal(volume.hu, hu)
        assert volume.grid.same_as(Grid(SHAPE, DICOM_RAS), tolerance_mm=1e-6)
    np.testing.assert_array_equal(read_volume(tmp_path, series_uid=scan).hu, hu)
    listed = rprloc("series", tmp_path)
    assert listed.exit_code == 0
    lines = listed.stdout.splitlines()
    for reason, uid in faulty.items():
        place = next(n for n, line in enumerate(lines) if line.startswith(uid))
        assert reason in lines[place + 1] and "cannot be read" in lines[place + 1]
        refusal(lambda uid=uid: read_volume(tmp_path, series_uid=uid), reason)
    assert "20 slices" in next(line for line in lines if line.startswith(scan))
    assert sum(line.startswith("    cannot be read") for line in lines) == len(faulty)


def test_a_scan_with_a_damaged_slice_is_no_reason_to_take_another_one(tmp_path: Path, hu: np.ndarray) -> None:
    """Which of two scans is meant stays open, though only one of them can be read."""
    write_series(tmp_path / "a", hu)
    write_series(tmp_path / "b", hu)
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(path.read_bytes()[:-900])
    refusal(lambda: read_volume(tmp_path), "2 DICOM series", "--series")


def test_a_damaged_report_is_no_slice(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path, hu)
    report = pydicom.dcmread(next(tmp_path.iterdir()))
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.22"
    report.SOPInstanceUID, report.SeriesInstanceUID = generate_uid(), generate_uid()
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    report.save_as(tmp_path / "report.dcm")
    whole = (tmp_path / "report.dcm").read_bytes()
    (tmp_path / "report.dcm").write_bytes(whole[:-3])
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.volume.hu, hu)


def test_of_many_series_a_few_are_named(tmp_path: Path, hu: np.ndarray) -> None:
    for n in range(40):
        write_series(tmp_path / str(n), hu[:, :, :2])
    scans = [write_series(tmp_path / name, hu) for name in ("x", "y")]
    message = refusal(lambda: read_volume(tmp_path), "42 DICOM series", *scans, "40 more", "'rprloc series'")
    assert len(message.replace(str(tmp_path), "")) <= 300
    assert len(rprloc("series", tmp_path).stdout.splitlines()) == 42 + 40


def test_a_zip_file_keeps_apart_what_lies_in_different_folders(tmp_path: Path, hu: np.ndarray) -> None:
    """An empty file elsewhere in it is told, and is no end of the scan."""
    write_series(tmp_path / "scan", hu)
    name = next((tmp_path / "scan").iterdir()).name
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in (tmp_path / "scan").iterdir():
            archive.write(path, f"scan/{path.name}")
        archive.writestr(f"other/{name}", b"")
    scan = read_scan(tmp_path / "study.zip")
    np.testing.assert_array_equal(scan.volume.hu, hu)
    assert "1 file" in scan.warnings[0]


@pytest.mark.parametrize("which", [slice(0, 4), slice(-4, None)])
@pytest.mark.parametrize("end", [".gz", ".bz2", ".part", ".zip", ".crdownload"])
def test_an_end_that_was_packed_or_not_copied_to_its_end_is_missed(tmp_path: Path, hu, which: slice, end: str) -> None:
    """The names have no extension that says DICOM."""
    write_series(tmp_path, hu)
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        path.rename(tmp_path / f"IM{number:04d}")
    for path in sorted(tmp_path.iterdir())[which]:
        data = path.read_bytes()
        path.unlink()
        packed = {".gz": gzip.compress(data), ".bz2": bz2.compress(data), ".zip": b"PK\3\4" + data}
        path.with_name(path.name + end).write_bytes(packed.get(end, data[:100]))
    refusal(lambda: read_volume(tmp_path), "may lack slices", "4 files", end)


def test_slices_whose_preamble_alone_is_lost_are_missed(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path, hu)
    for path in sorted(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes()[128:])
    refusal(lambda: read_volume(tmp_path), "20 files", "does not begin as DICOM does")


def test_what_people_keep_beside_slices_is_no_slice(tmp_path: Path, hu: np.ndarray) -> None:
    """Nor if the scan's first image was a scout, so that its slices are numbered from 2."""
    write_series(tmp_path, hu, edited(InstanceNumber=lambda k, old: old + 1))
    for path in sorted(tmp_path.iterdir()):
        path.with_suffix(".jpg").write_bytes(b"\xff\xd8\xff" + bytes(200))
        path.with_name(path.name + ".tmp").write_bytes(path.read_bytes()[:100])  # the file itself is there
    (tmp_path / "converted.nii.gz").write_bytes(gzip.compress(bytes(400)))
    for name in ("report.docx", "table.xlsx", "arrays.npz", "all.zip"):
        (tmp_path / name).write_bytes(b"PK\3\4" + bytes(200))
    (tmp_path / "old.tar.gz").write_bytes(gzip.compress(bytes(400)))
    scan = read_scan(tmp_path)
    assert scan.warnings == () and scan.volume.hu.shape == SHAPE


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ["", ".dcm"])
def test_what_a_dicomdir_lists_is_missed(tmp_path: Path, hu: np.ndarray, packed: bool, end: str) -> None:
    (tmp_path / "disc").mkdir()
    uid = write_series(tmp_path / "disc" / "IMAGES", hu)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MediaStorageDirectoryStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    directory.DirectoryRecordSequence = [Dataset(), Dataset()]
    of_series, report = directory.DirectoryRecordSequence
    of_series.DirectoryRecordType, of_series.SeriesInstanceUID = "SERIES", uid
    report.DirectoryRecordType, report.ReferencedFileID = "SR DOCUMENT", ["REPORT"]
    for number, path in enumerate(sorted((tmp_path / "disc" / "IMAGES").iterdir())):
        path.rename(path.with_name(f"im{number:04d}{end}"))  # systems differ in capitals
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["IMAGES", f"IM{number:04d}"]
        directory.DirectoryRecordSequence.append(record)
    for kind, tags in (("SERIES", {"SeriesInstanceUID": "1.2.9"}), ("IMAGE", {"ReferencedFileID": ["IMAGES", "IM9"]})):
        record = Dataset()  # of a series that was not copied
        record.update({"DirectoryRecordType": kind, **tags})
        directory.DirectoryRecordSequence.append(record)
    directory.save_as(tmp_path / "disc" / "DICOMDIR", enforce_file_format=True)

    def disc() -> Path:
        return zipped(tmp_path / "disc", tmp_path / "disc.zip") if packed else tmp_path / "disc"

    assert read_scan(disc()).warnings == () and read_scan(disc()).volume.hu.shape == SHAPE
    for path in sorted((tmp_path / "disc").rglob("im0*"))[:4]:
        path.unlink()
    refusal(lambda: read_volume(disc()), "4 files", "is listed in DICOMDIR, but is not there")


@pytest.mark.parametrize("told", [2, None])
def test_a_part_of_a_scan_in_several_files_is_not_the_scan(tmp_path: Path, hu: np.ndarray, told: int | None) -> None:
    write_series(tmp_path / "in", hu)
    multi_frame(tmp_path / "in", tmp_path / "whole.dcm")
    uid = generate_uid()
    for number, frames in enumerate((slice(0, 10), slice(10, 20)), 1):
        data = pydicom.dcmread(tmp_path / "whole.dcm")
        data.PixelData = b"".join(np.array_split(np.frombuffer(data.PixelData, np.uint8), 20)[frames])
        data.PerFrameFunctionalGroupsSequence = list(data.PerFrameFunctionalGroupsSequence)[frames]
        data.NumberOfFrames, data.ConcatenationUID, data.InConcatenationNumber = 10, uid, number
        if told:
            data.InConcatenationTotalNumber = told
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        (tmp_path / "parts").mkdir(exist_ok=True)
        data.save_as(tmp_path / "parts" / f"{number}.dcm")
    np.testing.assert_array_equal(read_volume(tmp_path / "parts").hu, hu)
    (tmp_path / "parts" / "1.dcm").unlink()
    refusal(lambda: read_volume(tmp_path / "parts"), "1 of the 2 parts")  # which the second one's number tells, too


OWNERS = {
    "PatientID": ("7", "8"),
    "StudyInstanceUID": ("1.2.3", "1.2.4"),
    "FrameOfReferenceUID": ("1.2.5", "1.2.6"),
    "PatientPosition": ("HFS", "FFS"),
}


@pytest.mark.parametrize("tag", OWNERS)
@pytest.mark.parametrize("mixed", [lambda k: k % 2, lambda k: k // 10, lambda k: k == 19])
def test_slices_of_two_scans_are_no_scan_whatever_their_series_is(tmp_path: Path, hu, tag: str, mixed) -> None:
    write_series(tmp_path, hu, edited(**{tag: lambda k, old: OWNERS[tag][mixed(k)]}))
    refusal(lambda: read_volume(tmp_path), "do not belong together")


@pytest.mark.parametrize("tag", OWNERS)
def test_slices_that_do_not_say_whose_they_are_belong_to_the_others(tmp_path: Path, hu: np.ndarray, tag: str) -> None:
    write_series(tmp_path, hu, edited(**{tag: lambda k, old: OWNERS[tag][0] if k % 3 else None}))
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)


def test_a_frame_of_reference_for_each_slice_is_told(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path, hu, edited(FrameOfReferenceUID=lambda k, old: f"1.2.{k + 1}"))
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.volume.hu, hu)
    assert "frame of reference of its own" in scan.warnings[0]


@pytest.mark.parametrize("letter", [b"\n", b"\r", b"\x1b"])
def test_no_letter_of_a_header_breaks_a_message(tmp_path: Path, hu: np.ndarray, letter: bytes) -> None:
    write_series(tmp_path, hu)
    path = sorted(tmp_path.iterdir())[7]
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1" + letter + b"2.840.10008.1.2.1\0"))
    assert refusal(lambda: read_volume(tmp_path), "cannot decode").isprintable()


def test_no_letter_of_a_description_breaks_a_list_of_series(tmp_path: Path, hu: np.ndarray) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / name, hu, edited(SeriesDescription=lambda k, old: "Thorax\x1b[31m\n"))
    assert refusal(lambda: read_volume(tmp_path), "2 DICOM series").isprintable()
    assert "\x1b" not in rprloc("series", tmp_path).stdout


@pytest.mark.parametrize("number", ["A12", "12\\3", "", "1.5"])
def test_a_number_that_is_none_is_no_obstacle(tmp_path: Path, hu: np.ndarray, number: str) -> None:
    write_series(tmp_path, hu, lambda k, data: data.add_new("InstanceNumber", "SH", number))
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)


def test_a_file_of_far_too_many_images_is_refused_at_once(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path / "in", hu)
    path = sorted((tmp_path / "in").iterdir())[0]
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID, data.NumberOfFrames = DeflatedExplicitVRLittleEndian, 1_500_000
    data.save_as(tmp_path / "scan.dcm", enforce_file_format=True)
    refusal(lambda: read_volume(tmp_path / "scan.dcm"), "would unpack to 2.2 GB")


def test_a_deflated_file_that_holds_gigabytes_is_refused_before_it_is_unpacked(tmp_path: Path, hu, monkeypatch) -> None:
    write_series(tmp_path, hu)
    path = sorted(tmp_path.iterdir())[7]
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.add_new(0x00091001, "OB", bytes(3 << 20))
    data.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)  # 3 MB harm nobody
    monkeypatch.setattr(archive, "HARMLESS_BYTES", 1 << 20)
    refusal(lambda: read_volume(tmp_path), "would unpack to 0.0 GB")


def test_small_files_of_huge_slices_are_refused_before_memory_is_asked_for(tmp_path: Path, monkeypatch) -> None:
    still = np.full((128, 128, 20), -1000)
    write_series(tmp_path, still, lambda k, data: data.compress(RLELossless))
    monkeypatch.setattr(archive, "HARMLESS_BYTES", 1 << 16)
    monkeypatch.setattr(archive, "MAX_PACKING", 10)
    refusal(lambda: read_volume(tmp_path), "no CT can be compressed so well")
