"""How far boxes move when a scan is resampled to 2 mm: measure_steadiness.py DATASETS.json [tuned|test].

The first two supports of each region locate all their organs in up to six test cases, or, with "tuned", in the support
and val cases on which the fine match was tuned; as stored and at 2 mm. Compared are boxes that lie wholly inside the
scan, by the wall that moves furthest.
"""

import sys
from pathlib import Path

import numpy as np

from rprloc.annotation import masks_from_labels, points_from_labels
from rprloc.evaluation.scores import MEAN_TARGETS
from rprloc.geometry import Grid
from rprloc.io.annotations import read_label_map
from rprloc.io.dataset import read_dataset
from rprloc.io.reading import read_volume
from rprloc.localization.localizer import Engine
from rprloc.localization.locate import locate
from rprloc.volume import resample


def main(data: Path, splits: tuple[str, ...]) -> None:
    cases, engine = read_dataset(data), Engine.load(None, "cpu")
    for region in dict.fromkeys(case.region for case in cases):
        known = [case for case in cases if case.region == region]
        moved_mm = []
        for support in [case for case in known if case.split == "support"][:2]:
            volume = read_volume(support.image_path)
            labels = read_label_map(support.labels_path, volume.grid)
            shown = {number: name for number, name in support.label_names.items() if (labels == number).any()}
            marked = labels, volume.grid, shown
            points, masks = points_from_labels(*marked), masks_from_labels(*marked)
            organs = engine.support_set(volume, points, scan=support.name, source="label map", masks=masks)
            for query in [case for case in known if case.split in splits and case.name != support.name][:6]:
                scan = read_volume(query.image_path)
                bounds = scan.grid.bounds
                shape = np.floor(bounds.size_mm / 2.0).astype(int).tolist()
                finer = resample(scan, Grid.isotropic(shape, 2.0, bounds.min_ras + 1.0))
                ours, theirs = (
                    {found.organ: found.box for found in locate(organs, engine.position_field(one))}
                    for one in (scan, finer)
                )
                for name in MEAN_TARGETS.get(region, tuple(ours)):
                    if scan.grid.contains(np.stack([ours[name].min_ras, ours[name].max_ras])).all():
                        moved_mm.append(np.abs(ours[name].walls_mm - theirs[name].walls_mm).max())
        moved = np.array(moved_mm)
        print(
            f"{region}: {len(moved)} boxes, {int((moved > 2.0).sum())} move by more than 2 mm; "
            f"median {np.median(moved):.1f} mm, at most {moved.max():.1f} mm"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), ("support", "val") if sys.argv[2:] == ["tuned"] else ("test",))
