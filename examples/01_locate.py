"""Learn an organ from one annotated scan, find it in another, and write the result.

    . .venv/bin/activate
    python examples/01_locate.py
    python examples/01_locate.py --example anna.nii.gz --labels anna_labels.nii.gz --label 1 --organ spleen bert.nii.gz

Without files of your own it takes the two public scans of the demonstration (75 MB, downloaded once).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import rprloc
from rprloc.apps.demo import fetch_demo_scans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", nargs="?", type=Path, help="the scan in which to find the organ")
    parser.add_argument("--example", type=Path, help="the annotated scan")
    parser.add_argument("--labels", type=Path, help="its label map, on the same grid")
    parser.add_argument("--label", type=int, default=51, help="the organ's number in the label map")
    parser.add_argument("--organ", default="heart", help="what the organ is called")
    parser.add_argument("--out", type=Path, default=Path("example-out"), help="folder for the results")
    parser.add_argument("--scans", type=Path, default=Path("demo-out/scans"), help="where the public scans are kept")
    args = parser.parse_args()
    if len({value is None for value in (args.query, args.example, args.labels)}) > 1:
        parser.error("scans of your own are three: --example, --labels, and the query at the end")
    if args.query is None:
        scans = fetch_demo_scans(args.scans)
        args.example, args.labels, args.query = scans.support_image, scans.support_labels, scans.query_image

    # Learn. The support set can be kept: it holds no image.
    localizer = rprloc.Localizer.load()
    example = rprloc.read_example(args.example, labels=args.labels, names={args.label: args.organ})
    organs = localizer.learn(example)
    args.out.mkdir(parents=True, exist_ok=True)
    organs.save(args.out / f"{args.organ}.json")

    # Locate. Look at the warnings before the box.
    scan = rprloc.read_scan(args.query)
    found = localizer.locate(scan, organs)
    for sentence in found.warnings:
        print("Warning:", sentence)
    box = found.boxes.get(args.organ)
    if box is None:
        print(f"{args.organ}: {found[args.organ].remark}")
    else:
        right, front, head = box.size_mm
        print(f"{args.organ}: {right:.0f} x {front:.0f} x {head:.0f} mm, {found[args.organ].remark}")

    # Write: detections, ROIs for 3D Slicer, a picture.
    rprloc.write_results(args.out, scan, found, picture=True)
    print(f"Results: {args.out}")


if __name__ == "__main__":
    try:
        main()
    except rprloc.InputError as error:
        raise SystemExit(f"Error: {error}") from None
