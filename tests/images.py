"""Image files of every format that the tests write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

from rprloc.geometry import Grid
from rprloc.volume import to_sitk

EXTENSIONS = [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"]


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None, *, compressed: bool = False) -> Path:
    """An image file of voxels (I, J, K) of 4 x 5 x 6 mm unless told otherwise."""
    grid = Grid(array.shape, np.diag([4.0, 5, 6, 1]) if affine is None else affine)
    sitk.WriteImage(to_sitk(array, grid), str(path), compressed)
    return path


def write_nifti(path: Path, array: np.ndarray, sform: Any, qform: Any = None, sform_code: int = 1) -> Path:
    """A NIfTI file with these two affines; one that is None is marked as unknown."""
    image = nibabel.Nifti1Image(array, sform)
    image.set_sform(sform, sform_code if sform is not None else 0)
    image.set_qform(qform, 1 if qform is not None else 0)
    nibabel.save(image, path)
    return path
