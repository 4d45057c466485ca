"""How far boxes move when a scan is resampled to 2 mm.

    python -m scripts.research.measure_steadiness DATASETS.json [tuned|test] --about scripts/release/regions.json

The first two supports of each region locate all their organs in up to six test cases, or, with "tuned", in the support
and val cases on which the fine match was tuned; as stored and at 2 mm. Compared are boxes that lie wholly inside the
scan, by the wall that moves furthest.

A box is steady if it moves by no more than 2 mm, or by a quarter of its expected wall error where that is more. Of all
boxes 95 % should be steady, and none should move by more than the expected error.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rprloc.annotation import Annotation, Example
from rprloc.detection import OrganDetection
from rprloc.geometry import Grid
from rprloc.io.dataset import Case, Region, read_dataset, read_regions
from rprloc.io.mask_files import read_label_map
from rprloc.io.reading import read_volume
from rprloc.localization.confidence import FieldEvidence
from rprloc.localization.localizer import Localizer
from rprloc.localization.locate import locate
from rprloc.localization.support import SupportSet
from rprloc.volume import Volume, resample

SPLITS = {"tuned": ("support", "val"), "test": ("test",)}
SPACING_MM, STEADY_MM = 2.0, 2.0
_SUPPORTS, _QUERIES = 2, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the datasets.json")
    parser.add_argument("cases", nargs="?", choices=tuple(SPLITS), default="test", help="%(default)s by default")
    parser.add_argument("--about", type=Path, help="more about the regions than the datasets.json holds")
    given = parser.parse_args()
    cases, localizer = read_dataset(given.data), Localizer.load(device="cpu")
    for name, region in read_regions(given.data, given.about).items():
        region_cases = [case for case in cases if case.region == name]
        measured = list(measure_region(localizer, region_cases, region, SPLITS[given.cases]))
        moved_mm, expected_mm = np.array(measured).T
        steady = moved_mm <= np.maximum(STEADY_MM, expected_mm / 4.0)
        print(
            f"{name}: {len(moved_mm)} boxes, {100.0 * steady.mean():.1f} % steady; "
            f"{int((moved_mm > STEADY_MM).sum())} move by more than {STEADY_MM:g} mm, "
            f"{int((moved_mm > expected_mm).sum())} by more than their expected error; "
            f"median {np.median(moved_mm):.1f} mm, at most {moved_mm.max():.1f} mm",
            flush=True,
        )


def measure_region(
    localizer: Localizer, cases: Sequence[Case], region: Region, splits: Sequence[str]
) -> Iterator[tuple[float, float]]:
    """By how much each box moves, and its expected wall error, in mm."""
    for support in [case for case in cases if case.split == "support"][:_SUPPORTS]:
        organs = localizer.learn(read_all_organs(support))
        for query in [case for case in cases if case.split in splits and case.name != support.name][:_QUERIES]:
            scan = read_volume(query.image_path)
            stored = locate_all(localizer, organs, scan)
            resampled = locate_all(localizer, organs, make_isotropic(scan))
            for name in region.mean_of(stored):
                found, box = stored[name], stored[name].box
                if scan.grid.contains(np.stack([box.min_ras, box.max_ras])).all():
                    moved_mm = np.abs(box.walls_mm - resampled[name].box.walls_mm).max()
                    yield float(moved_mm), found.expected_wall_error_mm or 0.0


def read_all_organs(case: Case) -> Example:
    """A case with all organs that its label map shows, those that the scan cuts, too."""
    volume = read_volume(case.image_path)
    labels = read_label_map(case.labels_path, volume.grid)
    names = {number: name for number, name in case.label_names.items() if (labels == number).any()}
    return Example(volume, Annotation.from_labels(labels, volume.grid, names), case.name)


def make_isotropic(scan: Volume) -> Volume:
    """The scan at 2 mm along the RAS axes."""
    bounds = scan.grid.bounds
    shape = np.floor(bounds.size_mm / SPACING_MM).astype(int).tolist()
    return resample(scan, Grid.isotropic(shape, SPACING_MM, bounds.min_ras + 0.5 * SPACING_MM))


def locate_all(localizer: Localizer, organs: SupportSet, scan: Volume) -> dict[str, OrganDetection]:
    """Every organ, those that are likely absent, too."""
    evidence = FieldEvidence.of(localizer.compute_position_field(scan))
    found = locate(organs, evidence, calibration=localizer.calibration, config=localizer.config)
    return {organ.organ: organ for organ in found}


if __name__ == "__main__":
    main()
