"""Reading CT scans, label maps and label names from files, and refusing what cannot be used.

Nothing is guessed: a file that is cut off, lacks slices or does not say how the patient lies is an InputError, never a
wrong answer. SimpleITK reads; what it would pass over in silence, or tell only the terminal, is checked beforehand.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np
import SimpleITK as sitk
from isal import igzip
from isal.igzip_lib import IsalError
from numpy.typing import NDArray

from rprloc.dicom import MIN_SLICES, choose_series, find_series, is_dicom, read_series
from rprloc.errors import InputError
from rprloc.files import ITK_FILES, parse_json
from rprloc.geometry import Grid
from rprloc.volume import Volume, from_sitk

MIN_VOXELS, MIN_EXTENT_MM = MIN_SLICES, 40.0
_IMAGE_IOS = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
IMAGE_EXTENSIONS = (*_IMAGE_IOS, ".zip")
_WANTED = (
    "a 3D image as .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd, or a DICOM series as a folder, a .zip or a multi-frame "
    "file, was expected"
)
_META_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_HEADER_BYTES = 1 << 16
_MAX_SHEAR_COSINE = 0.005


def read_volume(path: str | Path, *, series_uid: str | None = None) -> Volume:
    """The CT scan in a file (NIfTI, NRRD, MetaImage) or in DICOM: a folder, a zip file or a multi-frame file.

    Voxels come as (I, J, K) in the file's own order and type, with the file's rescale slope and intercept applied; the
    grid says where they lie, whatever the orientation. ``series_uid`` selects one of several DICOM series. The
    volume's name is the file's name without its extension, or the folder's name.

    Raises InputError for what is missing, damaged, not a 3D scalar image, sheared, constant, not finite, too small to
    locate anything in, or, with DICOM, incomplete or ambiguous. Doubts about readable data: :func:`image_warnings`.
    """
    path = Path(path)
    with _reading(path):
        if holds_series(path):
            series = choose_series(find_series(path), path, series_uid)
            array, grid, series, notes = read_series(series, path)
            volume = Volume(array, grid, scan_name(path), notes, series)
        else:
            if series_uid is not None:
                raise InputError(
                    f"A series was selected, but {path} is an image file; DICOM was expected, only it has series; "
                    "give the DICOM folder, or leave the series out."
                )
            volume = Volume(*_read_file(path), scan_name(path))
    _refuse_unusable(volume.hu, volume.grid, path)
    return volume


def holds_series(path: Path) -> bool:
    """Whether ``path`` is a folder, a zip file or a DICOM file, and so may hold DICOM series."""
    return path.is_dir() or (path.is_file() and (path.name.lower().endswith(".zip") or is_dicom(path)))


def scan_name(path: str | Path) -> str:
    """What the scan at ``path`` is called: its file's name without the extension, or its folder's name."""
    path = Path(path)
    if path.is_dir():
        return path.resolve().name
    end = next((end for end in (*IMAGE_EXTENSIONS, ".dcm") if path.name.lower().endswith(end)), "")
    return path.name[: len(path.name) - len(end)]


def read_label_map(path: str | Path, grid: Grid) -> NDArray[np.integer]:
    """The label map (I, J, K) in a file, integers, on the image's ``grid``.

    Where the file holds the same voxels with its axes in another order or direction, they are put into the image's.
    Raises InputError if it cannot be read, holds fractions, or lies on another grid.
    """
    path = Path(path)
    with _reading(path):
        if holds_series(path):
            raise InputError(
                f"{path} is a folder or DICOM; a label map as .nii.gz, .nrrd or .mha was expected; export the "
                "segmentation so."
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
        pairs = parse_json(path.read_text(encoding="utf-8-sig"), object_pairs_hook=list)
    except ValueError as error:
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

    Padding far below air (-2048, -3024) is ordinary. Looks at about two million voxels at most. What was done to the
    volume when it was read comes first.
    """
    found = list(volume.notes)
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
    except (RuntimeError, EOFError, gzip.BadGzipFile, zlib.error, IsalError) as error:  # type: ignore[misc]
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
    extension = _extension(path)
    if not extension:
        raise InputError(f"{path} has an extension that is not known; {_WANTED}; convert it to one of these.")
    if extension in (".nii", ".nii.gz"):
        if _is_nifti2(path):
            with _as_nifti1(path) as converted:
                return _read_file(converted)
        if _is_zipped(path):
            with _unzipped(path) as plain:
                return _read_file(plain)
    sform_ras = None
    if extension in (".nii", ".nii.gz"):
        sform_ras = _check_nifti(path)
    elif extension in (".nrrd", ".nhdr"):
        _check_nrrd(path)
    else:
        _check_metaimage(path)
    with ITK_FILES:
        array, grid = from_sitk(_read_image(path, _IMAGE_IOS[extension]))
    if sform_ras is not None and not grid.same_as(Grid(grid.shape, sform_ras)):
        raise InputError(
            f"The NIfTI header of {path} gives two different positions (its sform, qform or voxel sizes disagree); one "
            "was expected, as programs differ in which they take; write it again with all the same."
        )
    return array, grid


def _read_image(path: Path, image_io: str) -> sitk.Image:
    """The 3D scalar image of a file; further axes of length 1 are left out."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
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
    return reader.Execute()


def _require_scalar(components: int, path: Path) -> None:
    if components != 1:
        raise InputError(
            f"{path} has {components} values at each voxel (colour or a vector field); one Hounsfield value was "
            "expected; give the scan itself, not a picture of it."
        )


def _opened(path: Path) -> IO[bytes]:
    """The file's bytes, unzipped if they are zipped, whatever its name says."""
    return cast(IO[bytes], igzip.open(path)) if _is_zipped(path) else path.open("rb")


def _is_zipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _is_nifti2(path: Path) -> bool:
    with _opened(path) as stream:
        return stream.read(7)[4:] == b"n+2"


@contextmanager
def _unzipped(path: Path) -> Iterator[Path]:
    """A plain copy of a zipped NIfTI-1 file under the same name in a temporary folder: unzipped once and quickly.

    The zipped stream is read to its end, as that checks its length and CRC; kept is no more than its header promises.
    """
    with tempfile.TemporaryDirectory(prefix="rprloc-") as folder:
        copy = Path(folder) / f"{scan_name(path)}.nii"
        with _opened(path) as stream, copy.open("wb") as file:
            header = stream.read(352)
            _, _, start, size = _nifti_layout(path, header)
            file.write(header)
            left = start + size - len(header)
            while chunk := stream.read(1 << 20):
                file.write(chunk[: max(left, 0)])
                left -= len(chunk)
        with _speaking_of(path, copy):
            yield copy


@contextmanager
def _speaking_of(path: Path, copy: Path) -> Iterator[None]:
    """Errors about a copy of a file are about the file."""
    try:
        yield
    except (InputError, RuntimeError) as error:
        raise type(error)(str(error).replace(str(copy), str(path))) from error


@contextmanager
def _as_nifti1(path: Path) -> Iterator[Path]:
    """A NIfTI-1 copy of a NIfTI-2 file, which SimpleITK does not read, under the same name in a temporary folder."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.imageglobals import LoggingOutputSuppressor
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    broken = (HeaderDataError, ImageFileError, WrapStructError)

    with _opened(path) as stream:  # to the end, as that checks a gzip stream's length and CRC
        while stream.read(1 << 20):
            pass
    with tempfile.TemporaryDirectory(prefix="rprloc-") as folder:
        copy = Path(folder) / (path.name.lower().removesuffix(".gz"))
        # Not what numpy and nibabel tell on the way: the copy's header is checked like any other's.
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"), LoggingOutputSuppressor():
                warnings.simplefilter("ignore")
                image = nibabel.Nifti2Image.from_filename(path)
                header = nibabel.Nifti1Header.from_header(image.header)
                array = np.asanyarray(image.dataobj)  # with slope and intercept applied
                header.set_data_dtype(array.dtype)
                nibabel.save(nibabel.Nifti1Image(array, None, header), copy)
        except (*broken, ValueError, TypeError, OverflowError, EOFError, OSError, MemoryError) as error:
            raise InputError(
                f"The NIfTI-2 file {path} cannot be used ({str(error).splitlines()[0].rstrip('.')}); a complete 3D "
                "image of at most 32767 voxels along an axis was expected; save it as NIfTI-1."
            ) from error
        with _speaking_of(path, copy):
            yield copy


def _check_nifti(path: Path) -> NDArray[np.float64] | None:
    """The file's sform (4, 4) in RAS mm, None if it has none.

    Raises InputError where SimpleITK would put zeros for missing voxels and for NaN, or make up an orientation. Header
    fields as in nifti1.h.
    """
    with path.open("rb") as stream:
        header = stream.read(352)
        order, data_type, start, expected = _nifti_layout(path, header)
        size = path.stat().st_size - start
        not_finite, floating = 0, {16: np.dtype(order + "f4"), 64: np.dtype(order + "f8")}.get(data_type)
        if floating is not None:
            stream.seek(start)
            left = expected
            while left > 0 and (chunk := stream.read(min(1 << 20, left))):
                values = np.frombuffer(chunk, floating, len(chunk) // floating.itemsize)
                not_finite += len(values) - int(np.count_nonzero(np.isfinite(values)))
                left -= len(chunk)
    _require_bytes(path, size, expected)
    _require_finite(path, not_finite)
    return _nifti_sform(path, header, order)


def _nifti_layout(path: Path, header: bytes) -> tuple[str, int, int, int]:
    """Of a NIfTI-1 header (352 bytes): the byte order, the type of its voxels, the byte at which these begin, and how
    many bytes they take. Raises InputError for any other header.
    """
    order = "<" if header[:4] == struct.pack("<i", 348) else ">"
    if header[:4] != struct.pack(order + "i", 348) or header[344:347] != b"n+1":
        raise InputError(
            f"{path} is not a NIfTI file, whatever its name says; {_WANTED}; give the scan as it was exported."
        )
    dimensions = struct.unpack(order + "8h", header[40:56])
    data_type, bits_per_voxel = struct.unpack(order + "2h", header[70:74])
    offset = struct.unpack(order + "f", header[108:112])[0]
    voxels = math.prod(max(n, 1) for n in dimensions[1 : 1 + max(dimensions[0], 0)])
    start = int(offset) if offset >= 352 and math.isfinite(offset) else 352
    return order, data_type, start, voxels * bits_per_voxel // 8


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
    with np.errstate(all="ignore"):  # infinite numbers end below
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
    data, start = (path, end.end()) if local else (_data_file(path, end[1].strip()), 0)
    size = data.stat().st_size - start
    try:
        dimensions, sizes = int(fields.get("NDims", 0)), fields.get("DimSize", "").split()
        if not 2 <= dimensions <= 5 or len(sizes) != dimensions:  # MetaIO trusts the number
            raise ValueError(f"{dimensions} dimensions, {len(sizes)} sizes")
        compressed = fields.get("CompressedData", "").lower() in ("true", "1")
        if compressed or fields.get("BinaryData", "").lower() in ("true", "1"):
            kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
            item = _META_BYTES.get(kind, _META_BYTES.get(kind.removeprefix("U"), 0))
            voxels = int(np.prod([int(n) for n in sizes], dtype=object))
            expected = voxels * item * int(fields.get("ElementNumberOfChannels", 1))
        else:
            expected = 0
    except ValueError as error:
        raise InputError(
            f"The MetaImage header of {path} is broken ({error}); numbers were expected; export it again."
        ) from error
    if compressed:
        size = _inflated_bytes(data, start, expected)
    _require_bytes(path, size, expected)


def _inflated_bytes(path: Path, start: int, enough: int) -> int:
    """How many bytes the zlib stream that begins at ``start`` holds, counted up to ``enough``. May raise zlib.error."""
    stream, size = zlib.decompressobj(), 0
    with path.open("rb") as file:
        file.seek(start)
        while size < enough and (chunk := file.read(1 << 16)):
            size += len(stream.decompress(chunk))
    return size


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
