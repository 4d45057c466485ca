"""Real CT: two public scans, fetched once into a cache, and annotated ones that may lie beside the checkout."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from rprloc.annotation import Example
from rprloc.apps.demo import DemoScans, fetch_demo_scans
from rprloc.errors import InputError
from rprloc.io.annotations import read_example
from rprloc.io.dataset import read_dataset, read_regions

ROOT = Path(__file__).resolve().parents[1]
ANNOTATED = ROOT.parent / "shared" / "data"
MORE = ANNOTATED.parent / "data_more"
"""More scans, CT and MR; most have no labels."""
NO_ANNOTATED = "the annotated CT scans are not on this machine"
# Labels of the public support scan. The first are organs that lie wholly in both public scans.
CHEST = {10: "lung_upper_lobe_left", 16: "trachea", 36: "vertebrae_T8", 51: "heart", 116: "sternum"}
BELLY = {1: "spleen", 2: "kidney_right", 3: "kidney_left", 5: "liver"}


@dataclass(frozen=True, eq=False)
class Pair:
    """An example to learn from, a scan to search with what is marked on it, and the organs whose boxes are compared."""

    support: Example
    query: Example
    compared: tuple[str, ...]


def cache_folder() -> Path:
    """Where the public scans are kept from one run of the tests to the next."""
    given = os.environ.get("RPRLOC_TEST_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rprloc-tests"


def fetch_public_scans(folder: Path) -> DemoScans:
    """The demonstration's scans; the test is skipped if they cannot be downloaded, and fails if they are wrong."""
    try:
        return fetch_demo_scans(folder)
    except InputError as error:
        if "could not be downloaded" not in str(error):
            raise
        pytest.skip(f"the public CT scans are not on this machine: {error}")


def read_public_pair(scans: DemoScans) -> Pair:
    support = read_example(scans.support_image, labels=scans.support_labels, names=CHEST | BELLY, name="support")
    query = read_example(scans.query_image, labels=scans.query_truth, names={1: "heart"}, name="query")
    return Pair(support, query, tuple(CHEST.values()))


def read_annotated_pair(region: str) -> Pair:
    """The two support cases of a region with the most organs wholly inside. No test case is looked at."""
    from rprloc.evaluation.evaluate import read_case  # and with it PyTorch, which other tests do without

    cases = [case for case in read_dataset(ANNOTATED / "datasets.json") if case.region == region]
    chosen = sorted((case for case in cases if case.split == "support"), key=lambda case: -len(case.targets))[:2]
    support, query = map(read_case, chosen)
    about = read_regions(ANNOTATED / "datasets.json", ROOT / "scripts" / "release" / "regions.json")[region]
    return Pair(support, query, about.mean_of(support.annotation.points_ras))


def annotated_regions() -> list[object]:
    """Parameters of tests on annotated CT: its regions, or one that is skipped where there are no such scans."""
    if (ANNOTATED / "datasets.json").is_file():
        return ["han", "thorax", "abdomen"]
    return [pytest.param("annotated", marks=pytest.mark.skip(reason=NO_ANNOTATED))]
