"""Reading CT scans, label maps and label names from files, and refusing what cannot be used.

Nothing is guessed: a file that is cut off, lacks slices or does not say how the patient lies is an InputError, never a
wrong answer. SimpleITK reads; what it would pass over in silence, or tell only the terminal, is checked beforehand.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import struct
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.volume import Volume, from_sitk

MIN_VOXELS, MIN_EXTENT_MM = 16, 40.0
_IMAGE_IOS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
IMAGE_EXTENSIONS = tuple(_IMAGE_IOS)
_WANTED = "a 3D image as .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd, or a folder with one DICOM series, was expected"
_META_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_HEADER_BYTES = 1 << 16
_MAX_SHEAR_COSINE = 0.005
_MAX_SIDEWAYS_MM = 0.5
_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def read_volume(path: str | Path, *, series_uid: str | None = None) -> Volume:
    """The CT scan in a file (NIfTI, NRRD, MetaImage) or in a folder with a DICOM series.

    Voxels come as (I, J, K) in the file's own order and type, with the file's rescale slope and intercept applied; the
    grid says where they lie, whatever the orientation. ``series_uid`` selects one of several series in a DICOM folder.
    The volume's name is the file's name without its extension, or the folder's name.

    Raises InputError for what is missing, damaged, not a 3D scalar image, sheared, constant, not finite, too small to
    locate anything in, or, with DICOM, incomplete or ambiguous. Doubts about readable data: :func:`image_warnings`.
    """
    path = Path(path)
    with _reading(path):
        if path.is_dir():
            array, grid = _read_dicom_folder(path, series_uid)
        else:
            if series_uid is not None:
                raise InputError(
                    f"A series was selected, but {path} is a file; a DICOM folder was expected, only it has series; "
                    "give the folder, or leave the series out."
                )
            array, grid = _read_file(path)
    _refuse_unusable(array, grid, path)
    return Volume(array, grid, scan_name(path))


def scan_name(path: str | Path) -> str:
    """What the scan at ``path`` is called: its file's name without the extension, or its folder's name."""
    path = Path(path)
    return path.resolve().name if path.is_dir() else path.name[: len(path.name) - len(_extension(path))]


def read_label_map(path: str | Path, grid: Grid) -> NDArray[np.integer]:
    """The label map (I, J, K) in a file, integers, on the image's ``grid``.

    Where the file holds the same voxels with its axes in another order or direction, they are put into the image's.
    Raises InputError if it cannot be read, holds fractions, or lies on another grid.
    """
    path = Path(path)
    with _reading(path):
        if path.is_dir():
            raise InputError(
                f"{path} is a folder; a label map as .nii.gz, .nrrd or .mha was expected; export the segmentation so."
            )
        stored, own_grid = _read_file(path)
    labels = _in_the_order_of(grid, stored, own_grid)
    if labels is None:
        raise InputError(
            f"The label map {path} does not lie on the grid of its image: it has {_described(own_grid)}, the image "
            f"{_described(grid)}; the same voxels were expected; export it with the image as the reference volume."
        )
    if np.issubdtype(labels.dtype, np.integer):
        return cast(NDArray[np.integer], labels)
    whole = np.rint(labels)
    if not np.array_equal(whole, labels):
        raise InputError(
            f"The label map {path} holds fractions or NaN; an integer for each voxel was expected; "
            "export it as a label map, resampled with nearest neighbours."
        )
    return whole.astype(np.int32)


def _in_the_order_of(grid: Grid, array: NDArray[np.generic], own_grid: Grid) -> NDArray[np.generic] | None:
    """An array on ``own_grid`` with its axes as in ``grid``; None if the voxels are not the same, to 0.1 mm."""
    last_ijk = np.array(grid.shape) - 1
    points_ijk = np.vstack([np.zeros(3), np.diag(last_ijk)])  # the first voxel and the ends of the three axes
    own_ijk = own_grid.ijk(grid.ras(points_ijk))
    along = own_ijk[1:] - own_ijk[0]  # (axis of grid, axis of own_grid)
    order = np.abs(along).argmax(axis=1)
    backwards = along[np.arange(3), order] < 0
    same_ijk = np.zeros((4, 3))
    same_ijk[:, order] = np.where(backwards, last_ijk - points_ijk, points_ijk)
    off_mm = np.linalg.norm(own_grid.ras(same_ijk) - grid.ras(points_ijk), axis=1)
    if sorted(order) != [0, 1, 2] or array.transpose(order).shape != grid.shape or off_mm.max() > 0.1:
        return None
    return np.flip(array.transpose(order), tuple(np.flatnonzero(backwards).tolist()))


def read_names(path: str | Path) -> dict[int, str]:
    """Label names from a JSON file such as ``{"1": "liver", "2": "spleen"}``, in the file's order.

    Raises InputError if it is anything but an object of distinct positive integers and distinct non-empty names.
    """
    path = Path(path)
    wanted = 'a JSON object such as {"1": "liver", "2": "spleen"} was expected'
    _require_content(path, wanted)
    try:
        pairs = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=list)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); {wanted}; correct the file.") from error
    # An object arrives as a list of pairs, so that a key given twice is noticed; a JSON list would hold no tuples.
    if not isinstance(pairs, list) or not pairs or not all(isinstance(pair, tuple) for pair in pairs):
        raise InputError(f"{path} holds no label names; {wanted}; list each label value with its name.")
    names: dict[int, str] = {}
    for key, name in pairs:
        if not (key.isascii() and key.isdigit() and int(key) > 0):
            raise InputError(f"{path} has the label value {key!r}; {wanted}; use integers from 1 on (0 is background).")
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{path} has no name for label {key}: {name!r}; {wanted}; write a non-empty text.")
        if int(key) in names or name.strip() in names.values():
            raise InputError(f"{path} has label {key} ({name!r}) twice; {wanted}; keep values and names unique.")
        names[int(key)] = name.strip()
    return names


def image_warnings(volume: Volume) -> list[str]:
    """One sentence for each reason to doubt that the volume is ordinary CT in Hounsfield units; [] for ordinary CT.

    Padding far below air (-2048, -3024) is ordinary. Looks at about two million voxels at most.
    """
    found = []
    spacing_mm = volume.grid.spacing_mm
    spacing = " x ".join(f"{mm:.3g}" for mm in spacing_mm)
    if spacing_mm.min() < 0.1 or spacing_mm.max() > 20.0:
        found.append(
            f"The voxels measure {spacing} mm, which is unusual for CT; check that the spacing is in millimetres."
        )
    elif spacing_mm.max() > 10.0:
        found.append(
            f"The voxels measure {spacing} mm; slices thicker than 10 mm hide small organs; use thinner slices."
        )
    doubt = _intensity_doubt(volume)
    return [*found, doubt[0]] if doubt else found


def reason_not_to_train_on(volume: Volume) -> str | None:
    """Why the volume is hardly CT in Hounsfield units; None for CT, be it kept through a display window."""
    doubt = _intensity_doubt(volume)
    return doubt[0] if doubt and not doubt[1] else None


def _intensity_doubt(volume: Volume) -> tuple[str, bool] | None:
    """The reason (or None) to doubt that the values are full-range Hounsfield units, and whether they are usable CT."""
    step = max(1, int(np.ceil((volume.hu.size / 2e6) ** (1 / 3))))
    hu = np.asarray(volume.hu[::step, ::step, ::step], np.float32).ravel()
    hu = hu[hu >= -1100.0]  # without padding
    if len(hu) == 0:
        return "No voxel is above -1100 HU; CT was expected.", False
    low, high = float(hu.min()), float(hu.max())
    span = f"values run from {low:g} to {high:g}"
    if low > -50.0:
        dense = hu[hu > 500.0]
        if len(dense) > 0.01 * len(hu) and np.mean((dense > 850.0) & (dense < 1250.0)) > 0.6:
            return (
                f"The image looks like CT stored with an offset of about 1000 or 1024 (its {span}, soft tissue near "
                f"{np.median(dense):.0f}); Hounsfield units were expected; apply the rescale intercept to it.",
                False,
            )
        return (
            f"The image does not look like CT: its {span}, as in MR or an 8-bit picture, with nothing near "
            "air's -1000 HU; Hounsfield units were expected; use the original CT.",
            False,
        )
    if low > -800.0:
        if np.mean(hu <= low + 2.0) > 0.01:
            return (
                f"The image seems to have been saved through a display window (its {span}), so that lung or bone are "
                "cut off; it can be used, but the original Hounsfield units may locate better.",
                True,
            )
        return (
            f"The image holds no air: its {span}, while CT shows about -1000 HU around the body; "
            "if it is not CT in Hounsfield units, use the original CT.",
            True,
        )
    if np.mean((hu > -200.0) & (hu < 300.0)) < 0.05:
        return (
            f"Few voxels have values of soft tissue (-200 to 300 HU; the {span}): the image may not be in "
            "Hounsfield units, or its rescale intercept may have been applied twice; use the original CT.",
            False,
        )
    return None


def _refuse_unusable(array: NDArray[np.generic], grid: Grid, path: Path) -> None:
    extent_mm = grid.spacing_mm * grid.shape
    if min(grid.shape) < MIN_VOXELS or extent_mm.min() < MIN_EXTENT_MM:
        raise InputError(
            f"The scan in {path} is too small to locate anything in: it has {_described(grid)}; at least {MIN_VOXELS} "
            f"voxels (slices) and {MIN_EXTENT_MM:g} mm along every axis were expected; give a longer scan."
        )
    axes = grid.ras_from_ijk[:3, :3] / grid.spacing_mm
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine > _MAX_SHEAR_COSINE:
        tilt = np.degrees(np.arcsin(min(cosine, 1.0)))
        raise InputError(
            f"The slices of {path} are sheared by {tilt:.1f} degrees, as by a tilted gantry; "
            "perpendicular axes were expected; resample the scan to perpendicular axes first."
        )
    if np.issubdtype(array.dtype, np.floating):
        _require_finite(path, array.size - int(np.count_nonzero(np.isfinite(array))))
    if array.min() == array.max():
        raise InputError(
            f"All voxels of {path} have the value {array.flat[0]}; a CT scan was expected, nothing can be located in a "
            "constant image; check how it was exported."
        )


def _require_finite(path: Path, not_finite: int) -> None:
    if not_finite:
        raise InputError(
            f"{path} holds {not_finite} voxels that are NaN or infinite; finite values were expected; "
            "replace them, in CT for instance by -1024 outside the scan."
        )


def _described(grid: Grid) -> str:
    voxels, mm = " x ".join(map(str, grid.shape)), " x ".join(f"{mm:.4g}" for mm in grid.spacing_mm)
    origin = ", ".join(f"{mm:.1f}" for mm in grid.ras_from_ijk[:3, 3])
    return f"{voxels} voxels of {mm} mm from RAS ({origin})"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """SimpleITK's terminal warnings off, and reading errors turned into InputError."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    except (RuntimeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = re.sub(r"\w+\(0x\w+\): |ITK ERROR: ", "", str(error).strip().splitlines()[-1]).strip(" .")
        raise InputError(
            f"{path} is damaged or cut off ({reason}); a complete file was expected; copy or export it again."
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened ({error.strerror}); a readable file was expected; check it."
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _require_content(path: Path, wanted: str) -> None:
    if not path.exists():
        raise InputError(f"There is no {path}; {wanted}; check the path.")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty; {wanted}; copy or export it again.")


# Files


def _extension(path: Path) -> str:
    """The extension, lower case, if it is one that can be read, else an empty text."""
    return next((end for end in _IMAGE_IOS if path.name.lower().endswith(end)), "")


def _read_file(path: Path) -> tuple[NDArray[np.generic], Grid]:
    """Array (I, J, K) and grid of a 3D scalar image file."""
    _require_content(path, _WANTED)
    if _is_dicom(path):
        raise InputError(
            f"{path} is a single DICOM file; the whole series was expected; give the folder that holds all its slices, "
            "or, if this file holds all of them, convert it to .nii.gz."
        )
    extension = _extension(path)
    if not extension:
        raise InputError(f"{path} has an extension that is not known; {_WANTED}; convert it to one of these.")
    sform_ras = None
    if extension in (".nii", ".nii.gz"):
        sform_ras = _check_nifti(path)
    elif extension in (".nrrd", ".nhdr"):
        _check_nrrd(path)
    else:
        _check_metaimage(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_IMAGE_IOS[extension])
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size = list(reader.GetSize())
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    if len(size) != 3:
        raise InputError(
            f"{path} is a {len(size)}D image of {' x '.join(map(str, size))}; a 3D scan was expected; "
            + ("give the whole volume, not one slice." if len(size) < 3 else "extract one of its volumes first.")
        )
    _require_scalar(reader.GetNumberOfComponents(), path)
    if reader.GetDimension() > 3:
        reader.SetExtractSize(size + [0] * (reader.GetDimension() - 3))
    array, grid = from_sitk(reader.Execute())
    if sform_ras is not None and not grid.same_as(Grid(grid.shape, sform_ras)):
        raise InputError(
            f"The NIfTI header of {path} gives two different positions (its sform, qform or voxel sizes disagree); one "
            "was expected, as programs differ in which they take; write it again with all the same."
        )
    return array, grid


def _require_scalar(components: int, path: Path) -> None:
    if components != 1:
        raise InputError(
            f"{path} has {components} values at each voxel (colour or a vector field); one Hounsfield value was "
            "expected; give the scan itself, not a picture of it."
        )


def _check_nifti(path: Path) -> NDArray[np.float64] | None:
    """The file's sform (4, 4) in RAS mm, None if it has none.

    Raises InputError where SimpleITK would put zeros for missing voxels and for NaN, or make up an orientation. Header
    fields as in nifti1.h.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if zipped else path.open("rb") as stream:
        header = stream.read(352)
        order = "<" if header[:4] == struct.pack("<i", 348) else ">"
        if header[:4] != struct.pack(order + "i", 348) or header[344:347] != b"n+1":
            is_nifti2 = header[4:7] == b"n+2"
            raise InputError(
                f"{path} is {'a NIfTI-2 file' if is_nifti2 else 'not a NIfTI file, whatever its name says'}; a NIfTI-1 "
                f"file was expected; {'save it as NIfTI-1' if is_nifti2 else 'give the scan as it was exported'}."
            )
        dimensions = struct.unpack(order + "8h", header[40:56])
        data_type, bits_per_voxel = struct.unpack(order + "2h", header[70:74])
        offset = struct.unpack(order + "f", header[108:112])[0]
        expected = math.prod(max(n, 1) for n in dimensions[1 : 1 + max(dimensions[0], 0)]) * bits_per_voxel // 8
        floating = {16: np.dtype(order + "f4"), 64: np.dtype(order + "f8")}.get(data_type)
        stream.seek(int(offset) if offset >= 352 and math.isfinite(offset) else 352)
        size = not_finite = 0
        while chunk := stream.read(1 << 20):  # to the end, as that also checks the length and the CRC of a gzip stream
            if floating is not None:
                values = np.frombuffer(chunk, floating, min(len(chunk), max(expected - size, 0)) // floating.itemsize)
                not_finite += len(values) - int(np.count_nonzero(np.isfinite(values)))
            size += len(chunk)
    _require_bytes(path, size, expected)
    _require_finite(path, not_finite)
    return _nifti_sform(path, header, order)


def _nifti_sform(path: Path, header: bytes, order: str) -> NDArray[np.float64] | None:
    qform_code, sform_code = struct.unpack(order + "2h", header[252:256])
    if qform_code <= 0 and sform_code <= 0:
        raise InputError(
            f"The NIfTI header of {path} does not say how the patient lies (its sform and qform codes are 0); "
            "left and right would be a guess; a position in the world was expected; export it with its orientation."
        )
    if sform_code <= 0:
        return None
    unit_mm = {1: 1e3, 3: 1e-3}.get(header[123] & 7, 1.0)  # metres, micrometres, else mm
    sform = np.eye(4)
    sform[:3] = np.array(struct.unpack(order + "12f", header[280:328])).reshape(3, 4) * unit_mm
    axes = sform[:3, :3] / np.maximum(np.linalg.norm(sform[:3, :3], axis=0), 1e-12)
    if not np.abs(axes.T @ axes - np.eye(3)).max() <= _MAX_SHEAR_COSINE:  # so written, NaN counts as well
        raise InputError(
            f"The axes of {path} are sheared, as by a tilted gantry, or flat; perpendicular axes were expected; "
            "resample the scan to perpendicular axes first."
        )
    return sform


def _check_nrrd(path: Path) -> None:
    """Raises InputError for what is not NRRD, has its data elsewhere than beside it, or has no orientation."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if not head.startswith(b"NRRD000"):
        raise InputError(
            f"{path} is not a NRRD file, whatever its name says; {_WANTED}; give the scan as it was exported."
        )
    lines = re.split(r"\r?\n\r?\n", head.decode("latin-1"), maxsplit=1)[0].splitlines()
    fields = dict(re.findall(r"^([^:#]+): *(.*)$", line)[0] for line in lines if re.match(r"^[^:#]+:(?!=)", line))
    fields = {key.strip().lower(): value.strip() for key, value in fields.items()}
    for key in ("data file", "datafile"):
        if key in fields:
            _data_file(path, fields[key])
    if "space directions" not in fields:
        raise InputError(
            f"The NRRD header of {path} does not say how the patient lies (it has no space directions); "
            "left and right would be a guess; a position in the world was expected; export it with its orientation."
        )


def _check_metaimage(path: Path) -> None:
    """Raises InputError for what is not MetaImage, has its data elsewhere than beside it, or is cut off."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES).decode("latin-1")
    end = re.search(r"^[ \t]*ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*)\r?\n?", head, re.MULTILINE)
    if end is None:
        raise InputError(
            f"{path} is not a MetaImage file, whatever its name says; {_WANTED}; give the scan as it was exported."
        )
    fields = dict(re.findall(r"^[ \t]*(\w+)[ \t]*[=:][ \t]*([^\r\n]*?)[ \t]*\r?$", head[: end.start()], re.MULTILINE))
    local = end[1].strip().lower() == "local"
    size = path.stat().st_size - end.end() if local else _data_file(path, end[1].strip()).stat().st_size
    try:
        if fields.get("CompressedData", "").lower() in ("true", "1"):
            expected = int(fields.get("CompressedDataSize", 0))
        elif fields.get("BinaryData", "").lower() in ("true", "1"):
            kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
            item = _META_BYTES.get(kind, _META_BYTES.get(kind.removeprefix("U"), 0))
            voxels = int(np.prod([int(n) for n in fields.get("DimSize", "").split()], dtype=object))
            expected = voxels * item * int(fields.get("ElementNumberOfChannels", 1))
        else:
            expected = 0
    except ValueError as error:
        raise InputError(
            f"The MetaImage header of {path} is broken ({error}); numbers were expected; export it again."
        ) from error
    _require_bytes(path, size, expected)


def _require_bytes(path: Path, size: int, expected: int) -> None:
    if size < expected:
        raise InputError(
            f"{path} is cut off: {max(size, 0)} bytes of voxels where its header promises {expected}; "
            "a complete file was expected; copy or export it again."
        )


def _data_file(header: Path, reference: str) -> Path:
    """The data file beside a detached header; InputError for any reference that leads elsewhere."""
    elsewhere = (
        reference.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", reference) or ".." in re.split(r"[/\\]", reference)
    )
    if not reference or elsewhere or reference.split()[0].upper() == "LIST" or "%" in reference:
        raise InputError(
            f"{header} takes its voxels from {reference!r}; one data file in the header's own folder was expected; "
            "move the data there, or save the scan as a single .nii.gz file."
        )
    data = header.parent / reference
    if not data.is_file():
        raise InputError(
            f"{header} takes its voxels from {data}, which is missing; both files were expected; copy both."
        )
    return data


# DICOM


@dataclass(frozen=True)
class _Slice:
    """What one DICOM image file says of itself; lengths in mm, LPS; None where it says nothing."""

    path: Path
    series_uid: str
    description: str
    frames: int
    shape: tuple[int, int]
    stored_as: tuple[float, ...]
    position_lps: NDArray[np.float64] | None
    axes_lps: NDArray[np.float64] | None
    spacing_mm: NDArray[np.float64] | None


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_slice(path: Path) -> _Slice | None:
    """The header of a DICOM image file; None for DICOM without an image (a structure set, a report, a directory)."""
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    tags = [
        "SeriesInstanceUID",
        "SeriesDescription",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "RescaleSlope",
        "RescaleIntercept",
    ]
    tags += ["PixelRepresentation", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]

    broken = (InvalidDicomError, BytesLengthException)

    def numbers(name: str, count: int) -> NDArray[np.float64] | None:
        value = header.get(name)
        return np.array([float(part) for part in value]) if value is not None and len(value) == count else None

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, on values that break the standard without harm
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
            if header.get("Rows") is None:
                if header.file_meta.get("MediaStorageSOPClassUID") == _CT_IMAGE_STORAGE:
                    raise EOFError("a CT image without its size")
                return None
            return _Slice(
                path,
                str(header.get("SeriesInstanceUID", "")),
                str(header.get("SeriesDescription", "")),
                int(header.get("NumberOfFrames") or 1),
                (int(header.Columns), int(header.Rows)),
                tuple(
                    float(header.get(name) or 0) for name in ("PixelRepresentation", "RescaleSlope", "RescaleIntercept")
                ),
                numbers("ImagePositionPatient", 3),
                numbers("ImageOrientationPatient", 6),
                numbers("PixelSpacing", 2),
            )
    except (*broken, EOFError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise InputError(
            f"{path} is damaged or cut off ({error}); complete DICOM files were expected; export the series again."
        ) from error


def _read_dicom_folder(folder: Path, series_uid: str | None) -> tuple[NDArray[np.generic], Grid]:
    """Array (I, J, K), I along the rows and K from slice to slice, and grid of the DICOM series in a folder."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    slices = _select_series(
        [header for file in files if _is_dicom(file) and (header := _read_slice(file))], folder, series_uid
    )
    slices, grid = _stack(slices, folder)
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(one.path) for one in slices])
    if len({one.stored_as for one in slices}) > 1:  # else the first slice's type would hold the values of all
        reader.SetOutputPixelType(sitk.sitkFloat32)
    image = reader.Execute()
    _require_scalar(image.GetNumberOfComponentsPerPixel(), folder)
    array, _ = from_sitk(image)
    return array, grid


def _select_series(slices: Sequence[_Slice], folder: Path, series_uid: str | None) -> list[_Slice]:
    series: dict[str, list[_Slice]] = defaultdict(list)
    for one in slices:
        series[one.series_uid].append(one)
    if not series:
        inside = "no DICOM images" if any(folder.iterdir()) else "nothing"
        raise InputError(
            f"The folder {folder} holds {inside}; the slices of one CT series were expected directly "
            "in it; give their folder."
        )
    if series_uid is None and len(series) == 1:
        return next(iter(series.values()))
    if series_uid in series:
        return series[series_uid]
    listed = ", ".join(
        f"{uid} ({members[0].description or 'no description'}, {len(members)} slices)"
        for uid, members in series.items()
    )
    found = f"{len(series)} DICOM series" if series_uid is None else f"no series {series_uid}"
    raise InputError(
        f"The folder {folder} holds {found}: it has {listed}; one series was expected; "
        "select it by its UID with series_uid, on the command line with --series."
    )


def _stack(slices: Sequence[_Slice], folder: Path) -> tuple[list[_Slice], Grid]:
    """The slices from the first to the last along their normal, and the grid that they make up.

    Raises InputError unless they are parallel, of one size, and evenly spaced without gaps or doubles.
    """
    for one in slices:
        if one.frames > 1:
            raise InputError(
                f"{one.path} is a multi-frame DICOM file; one slice in each file was expected; convert it to .nii.gz."
            )
    first = slices[0]
    placed = [
        (one, one.position_lps, one.axes_lps, one.spacing_mm)
        for one in slices
        if one.position_lps is not None and one.axes_lps is not None and one.spacing_mm is not None
    ]
    if len(placed) < len(slices):
        raise InputError(
            f"{len(slices) - len(placed)} of {len(slices)} DICOM images in {folder} do not say where they lie (no "
            "image position, orientation or pixel spacing); slices of a CT series were expected; take other images out."
        )
    if len(slices) < 2:
        raise InputError(
            f"The series in {folder} has a single slice; at least {MIN_VOXELS} were expected; give a whole scan."
        )
    _, _, axes_lps, spacing_mm = placed[0]
    for one, _, axes, spacing in placed:
        same_axes, same_spacing = np.allclose(axes, axes_lps, atol=1e-3), np.allclose(spacing, spacing_mm, rtol=1e-3)
        if one.shape != first.shape or not same_axes or not same_spacing:
            what = "size" if one.shape != first.shape else "orientation" if not same_axes else "pixel spacing"
            raise InputError(
                f"The slices in {folder} differ in {what} ({first.path.name} and {one.path.name}); one stack of equal, "
                "parallel slices was expected; take scouts and other images out of the folder."
            )
    normal_lps = np.cross(axes_lps[:3], axes_lps[3:])
    along_mm = np.array([position @ normal_lps for _, position, _, _ in placed])
    order = np.argsort(along_mm, kind="stable")
    ordered = [slices[n] for n in order]
    positions_lps = np.stack([placed[n][1] for n in order])
    _require_even_steps(ordered, np.diff(along_mm[order]), folder)
    step_lps = (positions_lps[-1] - positions_lps[0]) / (len(slices) - 1)
    line_lps = positions_lps[0] + np.arange(len(slices))[:, None] * step_lps
    off_mm = positions_lps - line_lps
    sideways_mm = np.linalg.norm(off_mm - (off_mm @ normal_lps)[:, None] * normal_lps, axis=1)
    if sideways_mm.max() > _MAX_SIDEWAYS_MM:
        raise InputError(
            f"The slices in {folder} are shifted sideways by up to {sideways_mm.max():.1f} mm against each other; "
            "slices straight above each other were expected; export one series, resampled to a regular stack."
        )
    step_mm = float(np.linalg.norm(step_lps))
    directions_lps = np.stack([axes_lps[:3], axes_lps[3:], step_lps / step_mm], axis=1)
    shape = (*first.shape, len(slices))
    return ordered, Grid.from_lps(shape, positions_lps[0], directions_lps, [spacing_mm[1], spacing_mm[0], step_mm])


def _require_even_steps(ordered: Sequence[_Slice], steps_mm: NDArray[np.float64], folder: Path) -> None:
    step_mm = float(np.median(steps_mm))
    tolerance_mm = max(0.01 * step_mm, 0.05)
    uneven = np.flatnonzero(np.abs(steps_mm - step_mm) > tolerance_mm)
    doubles = np.flatnonzero(steps_mm <= tolerance_mm)
    if len(doubles):
        one, other = (ordered[doubles[0] + n].path.name for n in range(2))
        raise InputError(
            f"{len(doubles)} slices in {folder} lie where another one lies ({one} and {other}); "
            "one slice at each position was expected; export a single phase or reconstruction."
        )
    if len(uneven):
        one, other = (ordered[uneven[0] + n].path.name for n in range(2))
        raise InputError(
            f"The slices in {folder} are not evenly spaced: {steps_mm[uneven[0]]:.2f} mm from {one} to {other}, "
            f"{step_mm:.2f} mm elsewhere; a series without missing slices was expected; export it again."
        )
