"""Train on scans of your own, without labels.

    . .venv/bin/activate
    python examples/03_train_on_own_scans.py
    python examples/03_train_on_own_scans.py --steps 4000 /archive/ct

The run goes on from the shipped weights. The default, 20 steps on the two public scans of the demonstration (75 MB,
downloaded once), only shows how; a real run needs hundreds of scans and thousands of steps, as ``rprloc train`` takes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import rprloc
from rprloc.apps.demo import fetch_demo_scans
from rprloc.model.device import choose_device
from rprloc.model.network import load_model
from rprloc.training.prepare import prepare_run
from rprloc.training.training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="?", type=Path, help="a folder of CT scans, at any depth")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of each of the two networks")
    parser.add_argument("--out", type=Path, default=Path("example-out/run"), help="folder for the weights and logs")
    parser.add_argument("--scans", type=Path, default=Path("demo-out/scans"), help="where the public scans are kept")
    args = parser.parse_args()
    images = args.images
    if images is None:
        fetch_demo_scans(args.scans)
        images = args.scans

    # Read the scans once. What is no CT, such as the label maps beside the public scans, is left out and listed.
    changes = {"coarse_steps": args.steps, "fine_steps": args.steps}
    run = prepare_run(args.out, images=images, changes=changes)
    print(f"{len(run.scans)} scans; those left out are in {args.out / 'skipped.csv'}")

    # Train, from the shipped weights on. The logs coarse.csv and fine.csv hold errors in mm.
    start = load_model()
    train(run.scans, args.out, run.config, device=choose_device("auto"), validation=run.validation, init=start)

    # Support sets belong to weights, and so do expected errors: both are made anew.
    localizer = rprloc.Localizer.load(args.out / "model.pt")
    print(f"Model {localizer.model_id}: {args.out / 'model.pt'}")
    print(f"Learn your organs again: rprloc support build ... --model {args.out / 'model.pt'}")
    print(f"Expected errors, on annotated scans: rprloc calibrate --data ... --model {args.out / 'model.pt'}")


if __name__ == "__main__":
    main()
