"""Reading CT scans, label maps and label names from files, and refusing what cannot be used.

Nothing is guessed: a file that is cut off, lacks slices or does not say how the patient lies is an InputError, never a
wrong answer. SimpleITK reads; what it would pass over in silence, or tell only the terminal, is checked beforehand.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from isal.igzip_lib import IsalError
from numpy.typing import NDArray

from rprloc.errors import InputError
from rprloc.geometry import Grid
from rprloc.io.dicom import choose_series, find_series
from rprloc.io.dicom_stack import read_series
from rprloc.io.formats import IMAGE_IOS, READABLE_FORMATS, holds_series, image_extension, require_content, scan_name
from rprloc.io.headers import check_metaimage, check_nrrd
from rprloc.io.itk import ITK_FILES
from rprloc.io.nifti import check_nifti, convert_to_nifti1, is_nifti2, is_zipped, unzip
from rprloc.io.plausibility import refuse_unusable
from rprloc.volume import Volume, from_sitk


def read_volume(path: str | Path, *, series_uid: str | None = None) -> Volume:
    """The CT scan in a file (NIfTI, NRRD, MetaImage) or in DICOM: a folder, a zip file or a multi-frame file.

    Voxels come as (I, J, K) in the file's own order and type, with the file's rescale slope and intercept applied; the
    grid says where they lie, whatever the orientation. ``series_uid`` selects one of several DICOM series. The
    volume's name is the file's name without its extension, or the folder's name.

    Raises InputError for what is missing, damaged, not a 3D scalar image, sheared, constant, not finite, too small to
    locate anything in, or, with DICOM, incomplete or ambiguous. Doubts about readable data: :func:`image_warnings`.
    """
    path = Path(path)
    with explain_reading_errors(path):
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
            volume = Volume(*read_image_file(path), scan_name(path))
    refuse_unusable(volume.hu, volume.grid, path)
    return volume


@contextmanager
def explain_reading_errors(path: Path) -> Iterator[None]:
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


def read_image_file(path: Path) -> tuple[NDArray[np.generic], Grid]:
    """Array (I, J, K) and grid of a 3D scalar image file."""
    require_content(path, READABLE_FORMATS)
    extension = image_extension(path)
    if not extension:
        raise InputError(f"{path} has an extension that is not known; {READABLE_FORMATS}; convert it to one of these.")
    if extension in (".nii", ".nii.gz"):
        if is_nifti2(path):
            with convert_to_nifti1(path) as converted:
                return read_image_file(converted)
        if is_zipped(path):
            with unzip(path) as plain:
                return read_image_file(plain)
    sform_ras = None
    if extension in (".nii", ".nii.gz"):
        sform_ras = check_nifti(path)
    elif extension in (".nrrd", ".nhdr"):
        check_nrrd(path)
    else:
        check_metaimage(path)
    with ITK_FILES:
        array, grid = from_sitk(_read_image(path, IMAGE_IOS[extension]))
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
