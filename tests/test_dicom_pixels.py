"""From stored pixels to Hounsfield units: padding, bits, rescale types, compression."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, HTJ2KLossless, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from rprloc.io.reading import read_scan, read_volume
from tests.dicoms import edited, multi_frame, write_series
from tests.refusals import refusal

CORNER = (slice(0, 6), slice(0, 5))  # what lies outside of the field of view, in each slice


def padded(
    stored: int, bits: int, signed: bool, padding: int | None, limit: int | None = None, above: int = 0
) -> Callable[[int, FileDataset], None]:
    """A change that fills the corner with a stored value, with so many bits stored; ``above`` fills the other bits."""

    def change(k: int, data: FileDataset) -> None:
        data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, int(signed)
        values = np.frombuffer(data.PixelData, np.uint16).reshape(data.Rows, data.Columns).astype(np.int64)
        if signed:
            values, data.RescaleIntercept = values - 1024, 0
        values.T[CORNER] = stored
        data.PixelData = (
            ((values & (1 << bits) - 1 if above or bits < 16 else values & 0xFFFF) | above).astype(np.uint16).tobytes()
        )
        kind = "SS" if signed else "US"
        if padding is not None:
            kind = "US" if padding >= 1 << 15 else kind
            data.add_new("PixelPaddingValue", kind, padding)
        if limit is not None:
            data.add_new("PixelPaddingRangeLimit", kind, limit)

    return change


PADDINGS = {
    "unsigned, 16 bits, far above bone": padded(63536, 16, False, 63536),
    "signed, 16 bits, the highest value": padded(32767, 16, True, 32767),
    "signed, 16 bits, far below air": padded(-2000, 16, True, -2000),
    "signed pixels whose padding is written without a sign": padded(-2000, 16, True, 63536),
    "unsigned, 12 bits, the highest value": padded(4095, 12, False, 4095),
    "signed, 12 bits, the lowest value": padded(-2048, 12, True, -2048),
    "signed, 12 bits, with other bits above them": padded(-2048, 12, True, -2048, above=0x5000),
    "signed, 12 bits, written without a sign": padded(-2000, 12, True, 2096),
    "inside of a range": padded(4050, 12, False, 4000, 4095),
    "inside of a range from above to below": padded(-1990, 16, True, -1900, -2000),
    "at the far end of a range": padded(-2000, 16, True, -1900, -2000),
}


@pytest.mark.parametrize("change", PADDINGS.values(), ids=PADDINGS.keys())
def test_padding_becomes_air_and_all_else_stays(tmp_path: Path, hu: np.ndarray, change) -> None:
    write_series(tmp_path, hu, change)
    expected = hu.copy()
    expected[CORNER] = -1024
    found = read_volume(tmp_path).hu
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int16


def test_padding_that_needs_more_bits_than_are_stored_does_not_hit_what_has_the_same_lower_bits(
    tmp_path: Path, hu: np.ndarray
) -> None:
    """63536 is 2096 in its lower 12 bits, which is bone of 1072 HU."""

    def change(k: int, data: FileDataset) -> None:
        values = np.frombuffer(data.PixelData, np.uint16).reshape(data.Rows, data.Columns).copy()
        values.T[CORNER], values.T[10, 10] = 63536, 2096
        data.PixelData = values.tobytes()
        data.add_new("PixelPaddingValue", "US", 63536)

    write_series(tmp_path, hu, change)
    expected = hu.copy()
    expected[CORNER], expected[10, 10] = -1024, 1072
    np.testing.assert_array_equal(read_volume(tmp_path).hu, expected)


def test_every_slice_has_its_own_padding(tmp_path: Path, hu: np.ndarray) -> None:
    def change(k: int, data: FileDataset) -> None:
        padded(3000 + k, 12, False, 3000 + k)(k, data)

    write_series(tmp_path, hu, change)
    expected = hu.copy()
    expected[CORNER] = -1024
    np.testing.assert_array_equal(read_volume(tmp_path).hu, expected)


def test_padding_is_air_also_where_values_are_fractions(tmp_path: Path, hu: np.ndarray) -> None:
    def change(k: int, data: FileDataset) -> None:
        padded(4095, 12, False, 4095)(k, data)
        data.RescaleIntercept = -1023.5

    write_series(tmp_path, hu, change)
    expected = hu + 0.5
    expected[CORNER] = -1024
    np.testing.assert_allclose(read_volume(tmp_path).hu, expected)


def test_padding_is_air_in_implicit_and_in_compressed_files(tmp_path: Path, hu: np.ndarray) -> None:
    expected = hu.copy()
    expected[CORNER] = -1024
    for name, syntax in (("implicit", ImplicitVRLittleEndian), ("compressed", RLELossless)):
        write_series(tmp_path / name, hu, padded(4095, 12, False, 4095))
        for path in (tmp_path / name).iterdir():
            data = pydicom.dcmread(path)
            if syntax == RLELossless:
                data.compress(syntax, generate_instance_uid=False)
            else:
                data.file_meta.TransferSyntaxUID = syntax
            data.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
        np.testing.assert_array_equal(read_volume(tmp_path / name).hu, expected)


@pytest.mark.parametrize("where", ["of the file", "of all frames", "of each frame"])
def test_the_padding_of_a_multi_frame_file_becomes_air(tmp_path: Path, hu: np.ndarray, where: str) -> None:
    pytest.importorskip("highdicom")
    write_series(tmp_path / "series", hu, padded(4095, 12, False, None))
    multi_frame(tmp_path / "series", tmp_path / "enhanced.dcm")
    data = pydicom.dcmread(tmp_path / "enhanced.dcm")
    said = Dataset()
    said.add_new("PixelPaddingValue", "US", 4095)
    if where == "of the file":
        data.update(said)
    elif where == "of all frames":
        data.SharedFunctionalGroupsSequence[0].UnassignedSharedConvertedAttributesSequence = [said]
    else:
        data.add_new("PixelPaddingValue", "US", 17)  # each frame says better
        for group in data.PerFrameFunctionalGroupsSequence:
            group.UnassignedPerFrameConvertedAttributesSequence = [said]
    data.save_as(tmp_path / "enhanced.dcm")
    expected = hu.copy()
    expected[CORNER] = -1024
    np.testing.assert_array_equal(read_volume(tmp_path / "enhanced.dcm").hu, expected)


@pytest.mark.parametrize(("stored", "high"), [(12, 15), (12, 12), (10, 11), (16, 11)])
def test_pixels_in_other_bits_than_dicom_allows_are_refused(tmp_path: Path, hu: np.ndarray, stored, high) -> None:
    def change(k: int, data: FileDataset) -> None:
        data.BitsStored, data.HighBit = stored, high

    write_series(tmp_path, hu, change)
    refusal(lambda: read_volume(tmp_path), f"HighBit {high} with BitsStored {stored}")


@pytest.mark.parametrize("kind", ["Z_EFF", "MGML", "ED", "EDW", "OD", "PCT", "mgml "])
def test_a_map_that_is_not_in_hounsfield_units_is_refused(tmp_path: Path, hu: np.ndarray, kind: str) -> None:
    write_series(tmp_path, hu, edited(RescaleType=lambda k, old: kind))
    refusal(lambda: read_volume(tmp_path), f"rescale type {kind.strip().upper()}", "Hounsfield units")


@pytest.mark.parametrize("kind", ["HU", "", None])
def test_hounsfield_units_are_read_without_a_word(tmp_path: Path, hu: np.ndarray, kind: str | None) -> None:
    write_series(tmp_path, hu, edited(RescaleType=lambda k, old: kind))
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.volume.hu, hu)
    assert scan.warnings == ()


@pytest.mark.parametrize("kind", ["US", "HU_MOD"])
def test_values_of_which_nobody_says_that_they_are_ordinary_hounsfield_units_are_doubted(
    tmp_path: Path, hu: np.ndarray, kind: str
) -> None:
    write_series(tmp_path, hu, edited(RescaleType=lambda k, old: kind))
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.volume.hu, hu)
    assert any(f"rescale type {kind}" in warning for warning in scan.warnings)


def test_a_map_in_one_frame_of_a_multi_frame_file_is_refused(tmp_path: Path, hu: np.ndarray) -> None:
    pytest.importorskip("highdicom")
    write_series(tmp_path / "series", hu)
    multi_frame(tmp_path / "series", tmp_path / "enhanced.dcm")
    data = pydicom.dcmread(tmp_path / "enhanced.dcm")
    for n, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        transformation = Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = 1, -1024
        transformation.RescaleType = "Z_EFF" if n == 7 else "HU"
        group.PixelValueTransformationSequence = [transformation]
    data.save_as(tmp_path / "enhanced.dcm")
    refusal(lambda: read_volume(tmp_path / "enhanced.dcm"), "rescale type Z_EFF")


def test_a_map_does_not_stand_in_the_way_of_the_scan_beside_it(tmp_path: Path, hu: np.ndarray) -> None:
    write_series(tmp_path / "map", hu, edited(RescaleType=lambda k, old: "Z_EFF"))
    write_series(tmp_path / "scan", hu)
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)


def test_a_table_for_the_values_is_refused(tmp_path: Path, hu: np.ndarray) -> None:
    def change(k: int, data: FileDataset) -> None:
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [4096, 0, 16])
        table.ModalityLUTType = "HU"
        table.add_new("LUTData", "OW", np.arange(4096, dtype=np.uint16)[::-1].tobytes())
        data.ModalityLUTSequence = [table]
        del data.RescaleSlope, data.RescaleIntercept

    write_series(tmp_path, hu, change)
    refusal(lambda: read_volume(tmp_path), "Modality LUT")


def call_compressed(folder: Path, syntax: UID) -> None:
    """Let the files of a series say that their pixels are compressed, which they are not."""
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.PixelData = pydicom.encaps.encapsulate([bytes(data.PixelData)])
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = syntax
        data.save_as(path, implicit_vr=False, little_endian=True)


@pytest.mark.parametrize("syntax", [HTJ2KLossless, UID("1.2.840.10008.1.2.4.102"), UID("1.2.3.4.5")])
def test_a_compression_that_cannot_be_decoded_is_named_with_the_way_out(tmp_path, hu, capfd, syntax: UID) -> None:
    write_series(tmp_path, hu)
    call_compressed(tmp_path, syntax)
    message = refusal(lambda: read_volume(tmp_path), str(syntax), syntax.name, "gdcmconv --raw", "dcmdjpeg")
    assert len(message.replace(str(tmp_path), "")) <= 300
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("lost", ["meta header", "transfer syntax"])
def test_compressed_pixels_of_which_nobody_says_how_are_refused(tmp_path: Path, hu: np.ndarray, lost: str) -> None:
    write_series(tmp_path, hu)
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        data.compress(RLELossless, generate_instance_uid=False)
        data.save_as(path)
        whole = path.read_bytes()
        if lost == "meta header":
            path.write_bytes(whole[whole.index(b"\x08\0\x08\0CS") :])
        else:
            path.write_bytes(whole.replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0"))
    refusal(lambda: read_volume(tmp_path), "does not say how its pixels are compressed")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, UID("1.2.840.10008.1.2.4.70"), UID("1.2.840.10008.1.2.4.80")])
def test_what_was_never_compressed_as_it_says_is_damaged_in_plain_words(tmp_path, hu, capfd, syntax: UID) -> None:
    """Decoders print to the terminal, and ITK's messages hold addresses."""
    write_series(tmp_path, hu)
    call_compressed(tmp_path, syntax)
    message = refusal(lambda: read_volume(tmp_path), "is damaged or cut off")
    assert "0x" not in message and "SimpleITK" not in message and "itk::" not in message
    assert len(message.replace(str(tmp_path), "")) <= 300
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("which", [range(3), range(20)])
def test_how_pixels_are_to_be_shown_does_not_change_compressed_values(tmp_path: Path, hu: np.ndarray, which) -> None:
    def change(k: int, data: FileDataset) -> None:
        if k in which:
            data.PhotometricInterpretation = "MONOCHROME1"
        data.compress(RLELossless)

    write_series(tmp_path, hu, change)
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu)


def test_padding_below_zero_is_none_of_the_values_of_unsigned_pixels(tmp_path: Path, hu: np.ndarray) -> None:
    """-2000 is 2096 in its lower 12 bits, a value that bone has here."""
    bone = np.where(hu == 700, 2096 - 1024, hu)
    write_series(tmp_path, bone, lambda k, data: data.add_new("PixelPaddingValue", "SS", -2000))
    np.testing.assert_array_equal(read_volume(tmp_path).hu, bone)


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [("3000000", "-1024"), ("1", "2147483000"), ("1", "-3000000000"), ("1e10", "0"), ("16383", "-1"), ("16385", "7")],
)
def test_large_slopes_and_intercepts_do_not_wrap_round(tmp_path: Path, hu, slope: str, intercept: str) -> None:
    write_series(tmp_path, hu, edited(RescaleSlope=lambda k, old: slope, RescaleIntercept=lambda k, old: intercept))
    scan = read_scan(tmp_path)
    right = (hu + 1024.0) * float(slope) + float(intercept)
    np.testing.assert_allclose(scan.volume.hu, right, rtol=1e-6)
    assert len(scan.warnings) == 1


def test_values_beyond_all_numbers_are_refused(tmp_path: Path, hu: np.ndarray, capfd) -> None:
    write_series(tmp_path, hu, edited(RescaleSlope=lambda k, old: "1e300"))
    refusal(lambda: read_volume(tmp_path), "NaN or infinite")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("large", [0, 3 << 30])
def test_32_bits_are_read_as_they_are(tmp_path: Path, hu: np.ndarray, large: int) -> None:
    def change(k: int, data: FileDataset) -> None:
        data.BitsAllocated, data.BitsStored, data.HighBit = 32, 32, 31
        data.PixelData = (hu[:, :, k].T.astype(np.int64) + 1024 + large).astype(np.uint32).tobytes()

    write_series(tmp_path, hu, change)
    np.testing.assert_array_equal(read_volume(tmp_path).hu, hu.astype(np.int64) + large)
