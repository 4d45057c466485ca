"""Values and spacings that hardly are a CT's are named, and ordinary ones are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rprloc.geometry import Grid
from rprloc.io.plausibility import image_warnings
from rprloc.io.reading import read_volume
from rprloc.volume import Volume
from tests.phantoms import SHAPE, mr

DOUBTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], list[str]]] = {
    "ordinary": (lambda hu: hu, []),
    "padded with -2048": (lambda hu: np.where(np.indices(hu.shape)[0] < 3, -2048, hu), []),
    "padded with -3024": (lambda hu: np.where(np.indices(hu.shape)[0] < 3, -3024, hu), []),
    "air at -1024": (lambda hu: np.where(hu < -900, -1024, hu), []),
    "metal": (lambda hu: np.where(hu > 500, 30000, hu), []),
    "floating point": (lambda hu: hu + 0.25, []),
    "lung window": (lambda hu: np.clip(hu, -1350, 150), []),
    "abdominal window": (lambda hu: np.clip(hu, -125, 275), ["display window", "-125 to 275", "can be used"]),
    "wide window": (lambda hu: np.clip(hu, -500, 500), ["display window"]),
    "offset 1024": (lambda hu: hu + 1024, ["offset of about 1000 or 1024", "rescale intercept"]),
    "offset 1000": (lambda hu: hu + 1000, ["offset of about 1000 or 1024"]),
    "intercept twice": (lambda hu: hu - 1024, ["soft tissue", "twice"]),
    "MR": (mr, ["does not look like CT", "MR"]),
    "MR padded far below": (lambda hu: np.where(np.indices(hu.shape)[0] < 3, -32768, mr(hu)), ["MR"]),
    "normalized MR": (lambda hu: (mr(hu) - mr(hu).mean()) / mr(hu).std(), ["does not look like CT"]),
    "normalized CT": (lambda hu: np.clip((hu + 1000) / 2000, 0, 1), ["does not look like CT"]),
    "8 bits": (lambda hu: ((np.clip(hu, -160, 240) + 160) * 255 // 400).astype(np.uint8), ["8-bit"]),
    "no air": (lambda hu: np.random.default_rng(0).normal(40, 30, hu.shape), ["no air"]),
    "padding alone": (lambda hu: np.where(hu > 0, -2000, -3024), ["No voxel"]),
}


@pytest.mark.parametrize(("change", "about"), DOUBTS.values(), ids=DOUBTS.keys())
def test_doubtful_values_are_named_and_ordinary_ones_are_not(phantom: Volume, change, about: list[str]) -> None:
    found = image_warnings(Volume(change(phantom.hu), phantom.grid))
    assert len(found) == bool(about)
    for text in about:
        assert text in found[0]


@pytest.mark.parametrize(
    ("spacing_mm", "about"),
    [(10.0, ""), (10.5, "Slices thicker than 10 mm"), (20.5, "millimetres"), (0.09, "millimetres")],
)
def test_doubtful_spacings_are_named(phantom: Volume, spacing_mm: float, about: str) -> None:
    found = image_warnings(Volume(phantom.hu, Grid(SHAPE, np.diag([4.0, 5.0, spacing_mm, 1.0]))))
    assert len(found) == bool(about)
    assert about in "".join(found)


def test_annotated_scans_are_ordinary_but_for_the_display_window(shared_data: Path) -> None:
    regions = json.loads((shared_data / "datasets.json").read_text())
    cases = [(region, name) for region, described in regions.items() for name in described["cases"]]
    for region, name in cases[::23]:
        found = image_warnings(read_volume(shared_data / region / "images" / f"{name}.nii.gz"))
        assert [("display window" in text) for text in found] == ([True] if region == "abdomen" else [])
