"""An annotated example on disk, with weights of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.phantoms import PHANTOM_GRID, phantom_hu


@dataclass(frozen=True)
class ExampleFiles:
    """An annotated scan on disk, random weights, and the support set of bone and lung that they make of it."""

    weights: Path
    image: Path
    labels: Path
    names: Path
    support_set: Path


def make_example(folder: Path) -> ExampleFiles:
    """The phantom in ``folder``, annotated, with the support set that fixed random weights make of it."""
    import SimpleITK as sitk
    import torch

    import rprloc
    from rprloc.model.network import RPRNet, save_model
    from rprloc.volume import to_sitk

    files = ExampleFiles(
        *(folder / name for name in ("model.pt", "anna.nii.gz", "labels.nii.gz", "names.json", "set.support.json"))
    )
    grid, hu = PHANTOM_GRID, phantom_hu(PHANTOM_GRID)
    labels = np.where(hu == 700, 1, np.where(hu == -850, 2, 0)).astype(np.uint8)
    torch.manual_seed(0)
    save_model(RPRNet(), files.weights)
    sitk.WriteImage(to_sitk(hu, grid), files.image)
    sitk.WriteImage(to_sitk(labels, grid), files.labels)
    files.names.write_text(json.dumps({"1": "bone", "2": "lung"}), encoding="utf-8")
    example = rprloc.read_example(files.image, labels=files.labels, names=files.names, name="anna")
    rprloc.Localizer.load(files.weights, "cpu").learn(example).save(files.support_set)
    return files
