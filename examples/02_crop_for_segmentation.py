"""Crop a scan to an organ and a margin, so that a segmentation has less to look at.

    . .venv/bin/activate
    python examples/02_crop_for_segmentation.py
    python examples/02_crop_for_segmentation.py --set organs.json --organ spleen bert.nii.gz

The cropped scan has the same voxels, not resampled, and lies where they lay. Without files of your own it learns the
heart from one public scan of the demonstration and crops the other (75 MB, downloaded once).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import SimpleITK as sitk

import rprloc
from rprloc.apps.demo import fetch_demo_scans
from rprloc.volume import to_sitk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", nargs="?", type=Path, help="the scan to crop")
    parser.add_argument("--set", type=Path, help="a support set that knows the organ")
    parser.add_argument("--organ", default="heart", help="the organ to crop to")
    parser.add_argument("--out", type=Path, default=Path("example-out"), help="folder for the cropped scan")
    parser.add_argument("--scans", type=Path, default=Path("demo-out/scans"), help="where the public scans are kept")
    args = parser.parse_args()
    if (args.query is None) != (args.set is None):
        parser.error("a scan of your own needs --set, and --set a scan at the end")
    if args.query is None and args.organ != "heart":
        parser.error("the demonstration knows the heart alone; give --set and a scan for another organ")
    localizer = rprloc.Localizer.load()
    if args.query is None:
        scans = fetch_demo_scans(args.scans)
        args.query = scans.query_image
        example = rprloc.read_example(scans.support_image, labels=scans.support_labels, names={51: args.organ})
        organs = localizer.learn(example)
    else:
        organs = rprloc.SupportSet.load(args.set)

    volume = rprloc.read_volume(args.query)
    organ = localizer.locate(volume, organs, [args.organ])[args.organ]
    if isinstance(organ, rprloc.AbsentOrgan):
        raise SystemExit(f"{args.organ}: {organ.remark}")

    # Twice the expected error on all sides: the box may be off. Weights without a calibration give no error.
    margin_mm = 20.0 if organ.expected_wall_error_mm is None else 2.0 * organ.expected_wall_error_mm
    part = volume.crop(organ.box, margin_mm)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{volume.name}_{args.organ}.nii.gz"
    sitk.WriteImage(to_sitk(part.hu, part.grid), str(path))
    shape = " x ".join(str(count) for count in part.hu.shape)
    print(f"{path}: {shape} voxels, {part.hu.size / volume.hu.size:.0%} of the scan, margin {margin_mm:.0f} mm")


if __name__ == "__main__":
    try:
        main()
    except rprloc.InputError as error:
        raise SystemExit(f"Error: {error}") from None
