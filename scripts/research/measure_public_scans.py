"""How well organs are found in public scans of three patients, of whom nothing was trained or chosen on.

    python -m scripts.research.measure_public_scans --data DATASETS.json --out public

The scans lie in packages of the Python package index (75 MB). With a datasets.json, its support cases locate organs in
them; without one, the public scans are each other's examples. Only organs that lie wholly inside a scan count. Their
masks were made by another network, so a box can be right and the mask wrong. Vertebrae give landmarks: the tips of
their spinous processes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import find_objects

from rprloc.apps.demo import QUERY, Member, fetch_demo_scans, fetch_files
from rprloc.evaluation.evaluate import evaluate
from rprloc.evaluation.scores import SHOTS, save_evaluation
from rprloc.io.dataset import Case, LandmarkRule, Region, read_dataset
from rprloc.localization.localizer import Localizer

_BELLY = (
    Member(
        "totalsegmentator-2.18.0/tests/reference_files/example_ct.nii.gz",
        "belly_ct.nii.gz",
        "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1",
    ),
    Member(
        "totalsegmentator-2.18.0/tests/reference_files/example_seg_fast_force_split.nii.gz",
        "belly_labels.nii.gz",
        "e8097758e56e73099075b6caaebce23ef11bc6fad66a4ec3753b9406846558c7",
    ),
)
"""They lie in the package of the demonstration's query."""

NAMES = {
    1: "spleen",
    2: "kidney_right",
    3: "kidney_left",
    4: "gallbladder",
    5: "liver",
    6: "stomach",
    7: "pancreas",
    8: "adrenal_gland_right",
    9: "adrenal_gland_left",
    51: "heart",
    64: "portal_and_splenic_vein",
}
"""The numbers of TotalSegmentator, which both label maps have. Left out is what two people would end in different
places: esophagus, trachea, vessels that go on."""


VERTEBRAE = {
    **{27 + n: f"vertebra_L{5 - n}" for n in range(5)},
    **{32 + n: f"vertebra_T{12 - n}" for n in range(12)},
}
"""The same of vertebrae. Not they are measured, but the tips of their spinous processes, as landmarks."""

ABOUT = Region(
    mean=tuple(NAMES.values()),
    landmarks={f"{name}_tip": LandmarkRule(name, (0.0, -1.0, 0.0)) for name in VERTEBRAE.values()},
)


def fetch_public_cases(folder: Path) -> list[Case]:
    """The public scans in ``folder`` as cases of one region, each with the organs that lie wholly inside it."""
    fetch_files(replace(QUERY, members=(*QUERY.members, *_BELLY)), folder)  # one download for both
    scans = fetch_demo_scans(folder)
    belly_image, belly_labels = (folder / member.name for member in _BELLY)
    return [
        _case("trunk", scans.support_image, scans.support_labels, NAMES | VERTEBRAE),
        _case("belly", belly_image, belly_labels, NAMES | VERTEBRAE),
        _case("chest", scans.query_image, scans.query_truth, {1: "heart"}),
    ]


def _case(name: str, image: Path, labels: Path, names: dict[int, str]) -> Case:
    return Case(name, "public", "test", image, labels, whole_organs(labels, names), names)


def whole_organs(labels: Path, names: dict[int, str]) -> tuple[str, ...]:
    """The organs of a label map whose voxels do not reach its border."""
    labelled = np.asarray(nibabel.load(labels).dataobj).astype(np.int64)  # type: ignore[attr-defined]
    found = {number: around for number, around in enumerate(find_objects(labelled), start=1) if around is not None}
    return tuple(
        name
        for number, name in names.items()
        if number in found
        and all(along.start > 0 and along.stop < n for along, n in zip(found[number], labelled.shape, strict=True))
    )


def tasks(public: list[Case], datasets: Path | None) -> Iterator[list[Case]]:
    """For each public scan, and each region whose support cases share an organ with it: these and the scan."""
    examples = [replace(case, split="support") for case in public]
    if datasets is not None:
        examples = [case for case in read_dataset(datasets) if case.split == "support"]
    for scan in public:
        for region in dict.fromkeys(case.region for case in examples):
            near = [case for case in examples if case.region == region and case.name != scan.name]
            near = [case for case in near if set(case.targets) & set(scan.targets)]
            if near:
                name = f"{scan.name}_by_{region}"
                yield [replace(case, region=name) for case in (*near, scan)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a datasets.json whose support cases are the examples")
    parser.add_argument("--out", type=Path, required=True, help="where scans and results go")
    given = parser.parse_args()
    localizer = Localizer.load(device="cpu")
    for cases in tasks(fetch_public_cases(given.out / "scans"), given.data):
        for shots in SHOTS:
            evaluation = evaluate(localizer, cases, cases[0].region, "test", shots, ABOUT)
            save_evaluation(evaluation, given.out)
            print(evaluation.to_table(), flush=True)
            print()


if __name__ == "__main__":
    main()
