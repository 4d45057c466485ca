"""Files that cannot be used are refused with a sentence that says what to do."""

from __future__ import annotations

import gzip
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from rprloc.errors import InputError
from rprloc.io.reading import read_volume
from tests.images import EXTENSIONS, write, write_nifti
from tests.refusals import refusal

# Each builder makes one in a folder, from good voxels.


def cut_off(extension: str, compressed: bool = False, keep: float = 0.6) -> Callable[[Path, np.ndarray], Path]:
    def build(folder: Path, hu: np.ndarray) -> Path:
        noisy = hu + np.random.default_rng(0).integers(0, 50, hu.shape).astype(np.int16)
        path = write(folder / f"scan{extension}", noisy, compressed=compressed)
        cut = next((file for file in folder.iterdir() if "raw" in file.suffixes[0]), path)
        cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * keep)])
        return path

    return build


def content(name: str, data: bytes) -> Callable[[Path, np.ndarray], Path]:
    def build(folder: Path, hu: np.ndarray) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return build


def voxels(change: Callable[[np.ndarray], np.ndarray], name: str = "scan.nii.gz") -> Callable[[Path, np.ndarray], Path]:
    return lambda folder, hu: write(folder / name, change(hu))


def picture(name: str) -> Callable[[Path, np.ndarray], Path]:
    def build(folder: Path, hu: np.ndarray) -> Path:
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((20, 30), np.uint8)), str(folder / "picture.png"))
        return (folder / "picture.png").rename(folder / name)

    return build


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(hu: np.ndarray) -> np.ndarray:
        changed = hu.astype(np.float32)
        changed[3, 4, 5] = value
        return changed

    return change


def damaged_gzip(folder: Path, hu: np.ndarray) -> Path:
    path = write(folder / "scan.nii.gz", hu)
    data = bytearray(path.read_bytes())
    data[-8] ^= 0xFF  # the checksum
    path.write_bytes(data)
    return path


def four_dimensional(folder: Path, hu: np.ndarray) -> Path:
    return write_nifti(folder / "scan.nii.gz", np.stack([hu, hu], -1), np.diag([4.0, 5, 6, 1]))


def two_dimensional(folder: Path, hu: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(hu[:, :, 10]), str(folder / "scan.mha"))
    return folder / "scan.mha"


def colours(folder: Path, hu: np.ndarray) -> Path:
    image = sitk.GetImageFromArray(np.zeros((20, 24, 30, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(folder / "scan.nrrd"))
    return folder / "scan.nrrd"


def shear(folder: Path, hu: np.ndarray) -> Path:
    sheared = np.diag([4.0, 5, 6, 1])
    sheared[1, 2] = 1.0
    return write_nifti(folder / "scan.nii", hu, sheared)


def sheared_nrrd(folder: Path, hu: np.ndarray) -> Path:
    path = write(folder / "scan.nrrd", hu)
    path.write_bytes(path.read_bytes().replace(b"(0,0,6)", b"(0,1,6)"))
    return path


def two_positions(folder: Path, hu: np.ndarray) -> Path:
    shifted = np.diag([4.0, 5, 6, 1])
    shifted[0, 3] = 30.0
    return write_nifti(folder / "scan.nii.gz", hu, shifted, np.diag([4.0, 5, 6, 1]), sform_code=2)


def two_voxel_sizes(folder: Path, hu: np.ndarray) -> Path:
    path = write_nifti(folder / "scan.nii", hu, np.diag([4.0, 5, 6, 1]))
    data = bytearray(path.read_bytes())
    data[80:92] = struct.pack("<3f", 3.0, 5.0, 6.0)
    path.write_bytes(data)
    return path


def no_position(folder: Path, hu: np.ndarray) -> Path:
    return write_nifti(folder / "scan.nii.gz", hu, None)


def no_directions(folder: Path, hu: np.ndarray) -> Path:
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 30 24 20\nencoding: raw\nendian: little\n\n"
    (folder / "scan.nrrd").write_bytes(header.encode() + hu.tobytes(order="F"))
    return folder / "scan.nrrd"


def nifti_2_cut_off(folder: Path, hu: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti2Image(hu, np.diag([4.0, 5, 6, 1])), folder / "scan.nii")
    (folder / "scan.nii").write_bytes((folder / "scan.nii").read_bytes()[:9000])
    return folder / "scan.nii"


def nifti_2_no_position(folder: Path, hu: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti2Image(hu, None), folder / "scan.nii.gz")
    return folder / "scan.nii.gz"


def no_data_file(folder: Path, hu: np.ndarray) -> Path:
    path = write(folder / "scan.mhd", hu)
    (folder / "scan.raw").unlink()
    return path


def huge_promise(folder: Path, hu: np.ndarray) -> Path:
    path = write(folder / "scan.nii", hu)
    data = bytearray(path.read_bytes())
    data[42:48] = struct.pack("<3h", 32000, 32000, 32000)
    path.write_bytes(data)
    return path


def broken_numbers(folder: Path, hu: np.ndarray) -> Path:
    path = write(folder / "scan.mha", hu)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 30 24 20", b"DimSize = 30 24 xx"))
    return path


TEXT = b"This is no image at all.\n" * 40
REFUSED = {
    "missing": (lambda folder, hu: folder / "scan.nii.gz", ["There is no"]),
    "missing, unknown extension": (lambda folder, hu: folder / "scan", ["There is no"]),
    "empty": (content("scan.nii.gz", b""), ["is empty"]),
    "empty after unzipping": (content("scan.nii.gz", gzip.compress(b"")), ["not a NIfTI file"]),
    **{f"cut off {end}": (cut_off(end), ["cut off"]) for end in EXTENSIONS},
    **{f"cut off, compressed {end}": (cut_off(end, True), ["cut off"]) for end in EXTENSIONS[2:]},
    "cut off in the header": (cut_off(".nii", keep=0.003), ["not a NIfTI file"]),
    "cut off by one byte": (cut_off(".nii.gz", keep=0.9999), ["cut off"]),
    "damaged checksum": (damaged_gzip, ["damaged"]),
    "header without the voxels": (huge_promise, ["cut off"]),
    "text as .nii.gz": (content("scan.nii.gz", TEXT), ["not a NIfTI file"]),
    "text as .nii": (content("scan.nii", TEXT), ["not a NIfTI file"]),
    "text as .nrrd": (content("scan.nrrd", TEXT), ["not a NRRD file"]),
    "text as .mha": (content("scan.mha", TEXT), ["not a MetaImage file"]),
    "PNG as .nii.gz": (picture("scan.nii.gz"), ["not a NIfTI file"]),
    "PNG as .mha": (picture("scan.mha"), ["not a MetaImage file"]),
    "PNG": (picture("scan.png"), ["extension", ".nii.gz", ".nrrd", ".mha", "DICOM"]),
    "Word document": (content("report.docx", b"PK\x03\x04" + TEXT), ["extension"]),
    "NIfTI-2, cut off": (nifti_2_cut_off, ["cut off"]),
    "NIfTI-2 without orientation": (nifti_2_no_position, ["does not say how the patient lies"]),
    "broken header": (broken_numbers, ["header", "xx"]),
    "2D": (two_dimensional, ["2D"]),
    "4D": (four_dimensional, ["4D", "30 x 24 x 20 x 2"]),
    "colours": (colours, ["3 values at each voxel"]),
    "constant": (voxels(lambda hu: np.full_like(hu, -1000)), ["-1000", "constant"]),
    "NaN": (voxels(with_value(np.nan)), ["1 voxels", "NaN"]),
    "NaN in .mha": (voxels(with_value(np.nan), "scan.mha"), ["1 voxels", "NaN"]),
    "NaN in .nii": (voxels(with_value(np.nan), "scan.nii"), ["1 voxels", "NaN"]),
    "infinite": (voxels(with_value(np.inf), "scan.nrrd"), ["infinite"]),
    "ten slices": (voxels(lambda hu: hu[:, :, :10]), ["30 x 24 x 10", "16 voxels (slices)", "40 mm"]),
    "few columns": (voxels(lambda hu: hu[:15]), ["15 x 24 x 20", "16 voxels"]),
    "short": (lambda folder, hu: write(folder / "scan.mha", hu, np.diag([4.0, 1.5, 6, 1])), ["40 mm"]),
    "sheared NIfTI": (shear, ["sheared", "Resample"]),
    "sheared NRRD": (sheared_nrrd, ["sheared by 9.5 degrees", "Resample"]),
    "sform and qform differ": (two_positions, ["two different positions"]),
    "sform and voxel sizes differ": (two_voxel_sizes, ["two different positions"]),
    "NIfTI without orientation": (no_position, ["does not say how the patient lies"]),
    "NRRD without orientation": (no_directions, ["does not say how the patient lies"]),
    "voxels missing": (no_data_file, ["scan.raw", "missing"]),
}


@pytest.mark.parametrize(("build", "about"), REFUSED.values(), ids=REFUSED.keys())
def test_an_unusable_file_is_refused_in_one_line(tmp_path, hu, capfd, build, about: list[str]) -> None:
    path = build(tmp_path, hu)
    message = refusal(lambda: read_volume(path), path.stem.split(".")[0], *about)
    assert str(tmp_path) in message
    assert "(0x" not in message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "reference",
    ["/etc/passwd", "../scan.raw", "sub/../../scan.raw", "..\\scan.raw", "C:\\scan.raw", "LIST", "scan%03d.raw 1 20 1"],
)
@pytest.mark.parametrize("extension", [".mhd", ".nhdr"])
def test_a_header_cannot_take_voxels_from_elsewhere(tmp_path: Path, hu, extension: str, reference: str) -> None:
    inner = tmp_path / "inner"
    (inner / "sub").mkdir(parents=True)
    path = write(inner / f"scan{extension}", hu)
    shutil.copy(inner / "scan.raw", tmp_path / "scan.raw")
    path.write_text(path.read_text().replace("scan.raw", reference))
    refusal(lambda: read_volume(path), repr(reference), "own folder")


def test_reading_leaves_itk_warnings_as_they_were(tmp_path: Path, hu: np.ndarray) -> None:
    path = write(tmp_path / "scan.nii", hu)
    for shown in (True, False):
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        try:
            read_volume(path)
            with pytest.raises(InputError):
                read_volume(tmp_path / "none.nii")
            assert sitk.ProcessObject.GetGlobalWarningDisplay() is shown
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(True)


def test_a_series_cannot_be_chosen_in_a_file(tmp_path: Path, hu: np.ndarray) -> None:
    path = write(tmp_path / "scan.nii", hu)
    refusal(lambda: read_volume(path, series_uid="1.2.3"), "is an image file", "folder")
