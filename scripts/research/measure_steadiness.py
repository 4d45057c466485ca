"""How far boxes move when a scan is resampled to 2 mm.

    python -m scripts.research.measure_steadiness DATASETS.json [tuned|test] --about scripts/release/regions.json

The first two supports of each region locate all their organs in up to six test cases, or, with "tuned", in the support
and val cases on which the fine match was tuned; as stored and at 2 mm. Compared are boxes that lie wholly inside the
scan, by the wall that moves furthest.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rprloc.annotation import Annotation, Example
from rprloc.geometry import Box, Grid
from rprloc.io.annotations import read_label_map
from rprloc.io.dataset import Case, Region, read_dataset, read_regions
from rprloc.io.reading import read_volume
from rprloc.localization.localizer import Localizer
from rprloc.localization.locate import locate
from rprloc.localization.support import SupportSet
from rprloc.volume import Volume, resample

SPLITS = {"tuned": ("support", "val"), "test": ("test",)}
SPACING_MM = 2.0
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
        moved_mm = np.array(list(measure_region(localizer, region_cases, region, SPLITS[given.cases])))
        print(
            f"{name}: {len(moved_mm)} boxes, {int((moved_mm > 2.0).sum())} move by more than 2 mm; "
            f"median {np.median(moved_mm):.1f} mm, at most {moved_mm.max():.1f} mm"
        )


def measure_region(
    localizer: Localizer, cases: Sequence[Case], region: Region, splits: Sequence[str]
) -> Iterator[float]:
    """By how much each box moves, in mm."""
    for support in [case for case in cases if case.split == "support"][:_SUPPORTS]:
        organs = localizer.learn(read_all_organs(support))
        for query in [case for case in cases if case.split in splits and case.name != support.name][:_QUERIES]:
            scan = read_volume(query.image_path)
            stored = locate_boxes(localizer, organs, scan)
            resampled = locate_boxes(localizer, organs, make_isotropic(scan))
            for name in region.mean_of(stored):
                if scan.grid.contains(np.stack([stored[name].min_ras, stored[name].max_ras])).all():
                    yield np.abs(stored[name].walls_mm - resampled[name].walls_mm).max()


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


def locate_boxes(localizer: Localizer, organs: SupportSet, scan: Volume) -> dict[str, Box]:
    """The box of every organ, of those that are likely absent, too."""
    return {organ.organ: organ.box for organ in locate(organs, localizer.compute_position_field(scan))}


if __name__ == "__main__":
    main()
