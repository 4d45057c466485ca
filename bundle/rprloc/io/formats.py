"""Which files are scans, and what the scans in them are called."""

from __future__ import annotations

from pathlib import Path

from rprloc.errors import InputError
from rprloc.files import is_folder, readable
from rprloc.io.dicom import is_dicom

NIFTI, NRRD, METAIMAGE = (".nii.gz", ".nii"), (".nrrd", ".nhdr"), (".mha", ".mhd")
IMAGE_EXTENSIONS = (*NIFTI, *NRRD, *METAIMAGE, ".zip")
READABLE_FORMATS = (
    "RPR-Loc reads 3D images as .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd, and DICOM series as a folder, a .zip or a "
    "multi-frame file."
)


def holds_series(path: Path) -> bool:
    """Whether ``path`` is a folder, a zip file or a DICOM file, and so may hold DICOM series."""
    return path.is_dir() or (path.is_file() and (path.name.lower().endswith(".zip") or is_dicom(path)))


def scan_name(path: str | Path) -> str:
    """What the scan at ``path`` is called: its file's name without the extension, or its folder's name.

    Readable also where the file's name is not UTF-8.
    """
    path = Path(path)
    if is_folder(path):
        return readable(path.resolve().name)
    end = next((end for end in (*IMAGE_EXTENSIONS, ".dcm") if path.name.lower().endswith(end)), "")
    return readable(path.name[: len(path.name) - len(end)])


def require_content(path: Path) -> None:
    if not path.exists():
        raise InputError(f"There is no {path}. Check the path.")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty. Copy or export it again.")


def image_extension(path: Path) -> str:
    """The extension, lower case, if it is one that can be read, else an empty text."""
    return next((end for end in (*NIFTI, *NRRD, *METAIMAGE) if path.name.lower().endswith(end)), "")
