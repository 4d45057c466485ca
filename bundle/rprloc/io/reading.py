"""Reading scans, and refusing what cannot be used.

Nothing is guessed: a file that is cut off, lacks slices or does not say how the patient lies is an InputError, never a
wrong answer. For each format one reader has the last word about place, extent, scaling and type of the voxels.
"""

from __future__ import annotations

import gzip
import logging
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from isal.igzip_lib import IsalError

from rprloc.errors import InputError
from rprloc.io.dicom import DicomSeries, choose_series, find_series
from rprloc.io.dicom_stack import read_series
from rprloc.io.formats import (
    METAIMAGE,
    NIFTI,
    NRRD,
    READABLE_FORMATS,
    holds_series,
    image_extension,
    require_content,
    scan_name,
)
from rprloc.io.metaimage import read_metaimage_header
from rprloc.io.nifti import read_nifti_header
from rprloc.io.nrrd import read_nrrd_header
from rprloc.io.plausibility import image_warnings, refuse_too_large, refuse_unusable
from rprloc.io.voxels import StoredImage, read_voxels, refuse_bomb, require_possible
from rprloc.volume import Volume

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan as it was read: the volume, and what its file says besides.

    Parameters
    ----------
    volume : Volume
        Hounsfield units, or the intensities of MR, and where they lie.
    notes : tuple of str
        What was done to the scan when it was read, each in a sentence or two.
    series : DicomSeries, optional
        The DICOM series that it comes from; DICOM results refer to it.

    Examples
    --------
    >>> scan = rprloc.read_scan(query_image)
    >>> scan.volume.hu.shape == scan.volume.grid.shape, scan.series is None
    (True, True)
    """

    volume: Volume
    notes: tuple[str, ...] = ()
    series: DicomSeries | None = None

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """The notes, and every reason to doubt that the scan is ordinary CT, each in a sentence or two.

        :meth:`rprloc.Localizer.locate` tells the doubts of its weights' own modality instead.
        """
        return (*self.notes, *image_warnings(self.volume))

    def renamed(self, name: str) -> Scan:
        """The same scan under another name."""
        return replace(self, volume=replace(self.volume, name=name))


def read_scan(path: str | Path, *, series_uid: str | None = None) -> Scan:
    """The scan in a file (NIfTI, NRRD, MetaImage) or in DICOM, with what its file says besides.

    Parameters
    ----------
    path : path
        A file, or for DICOM a folder, a zip file or a multi-frame file.
    series_uid : str, optional
        Which of several DICOM series is meant.

    Returns
    -------
    Scan
        Its volume has the voxels (I, J, K) in the file's own order and type, with rescale slope and intercept applied;
        its grid says where they lie, whatever the orientation. Its name is the file's name without the extension, or
        the folder's name.

    Raises
    ------
    InputError
        For what is missing, damaged, not a 3D scalar image, sheared, constant, not finite, too small to locate
        anything in, or, with DICOM, incomplete or ambiguous.

    Examples
    --------
    >>> rprloc.read_scan(query_image).warnings
    ()
    """
    path = Path(path)
    with explain_reading_errors(path):
        if holds_series(path):
            chosen = choose_series(find_series(path), path, series_uid)
            array, grid, series, notes = read_series(chosen, path)
            scan = Scan(Volume(array, grid, scan_name(path), series.modality), notes, series)
        else:
            if series_uid is not None:
                raise InputError(
                    f"{path} is an image file, and only DICOM has series to select. Give the DICOM folder, or leave "
                    "the series out."
                )
            image = open_image_file(path)
            refuse_bomb(image)
            scan = Scan(Volume(read_voxels(image), image.grid, scan_name(path)))
    refuse_unusable(scan.volume.hu, scan.volume.grid, path)
    return scan


def read_volume(path: str | Path, *, series_uid: str | None = None) -> Volume:
    """The volume of a scan in a file or in DICOM; see :func:`read_scan`.

    What was done to the scan when it was read is logged as a warning of the logger ``rprloc``.

    Parameters
    ----------
    path : path
        A file, or for DICOM a folder, a zip file or a multi-frame file.
    series_uid : str, optional
        Which of several DICOM series is meant.

    Returns
    -------
    Volume
        The voxels (I, J, K) in the file's own order, in Hounsfield units, and where they lie, RAS mm.

    Raises
    ------
    InputError
        As :func:`read_scan`.

    Examples
    --------
    >>> rprloc.read_volume(query_image).grid.shape
    (233, 167, 191)
    """
    scan = read_scan(path, series_uid=series_uid)
    for note in scan.notes:
        _log.warning("%s: %s", scan.volume.name, note)
    return scan.volume


@contextmanager
def explain_reading_errors(path: Path) -> Iterator[None]:
    """SimpleITK's terminal warnings off, and reading errors turned into InputError."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    except (RuntimeError, EOFError, gzip.BadGzipFile, zlib.error, IsalError) as error:  # type: ignore[misc]
        reason = re.sub(
            r"\w+\(0x\w+\): |ITK ERROR: ", "", (str(error).strip().splitlines() or ["unreadable"])[-1]
        ).strip(" .")
        raise InputError(f"{path} is damaged or cut off ({reason}). Copy or export it again.") from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened ({error.strerror or error}). Check the file, and that you may read it."
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def open_image_file(path: Path) -> StoredImage:
    """What the header of a 3D scalar image file says, once it is clear that the file can hold it."""
    require_content(path)
    if not path.is_file() and not path.is_dir():
        raise InputError(f"{path} is no ordinary file, but a pipe or a device. Give a file or a folder.")
    extension = image_extension(path)
    if not extension:
        raise InputError(f"{path} has an extension that is not known. {READABLE_FORMATS} Convert it to one of these.")
    read_header = {NIFTI: read_nifti_header, NRRD: read_nrrd_header, METAIMAGE: read_metaimage_header}
    with np.errstate(all="ignore"):  # what is no number, or too large for one, is refused
        image = next(read for ends, read in read_header.items() if extension in ends)(path)
        require_possible(image)
        refuse_too_large(image.grid, path)
    return image
