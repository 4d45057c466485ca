"""What locating in an archive takes: measures studies of ordinary size and works out a plan for many.

    python -m scripts.research.archive_plan measure --image CT --set SET.json --out DIR [--copies 8] [locate's options]
    python -m scripts.research.archive_plan plan DIR [--studies 1000000] [--days 7] [--price 0.05] [--storage-mb-s 1000]

``measure`` makes a DICOM series of 512 x 512 pixels and 2.5 mm slices of a CT (resampled, with noise, as real scans
have), locates in it several times with a manifest, and prints the plan. ``plan`` takes the journals of any run.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

PIXELS, SLICE_MM = 512, 2.5


def make_series(image: Path, folder: Path) -> None:
    """A DICOM series of the scan, with pixels as a scanner writes them."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    from rprloc.geometry import Grid
    from rprloc.io.reading import read_volume
    from rprloc.volume import resample

    volume = read_volume(image)
    bounds = volume.grid.bounds
    pixel_mm = float(bounds.size_mm[:2].max()) / PIXELS
    count = int(bounds.size_mm[2] / SLICE_MM)
    corner_ras = bounds.centre_ras + 0.5 * np.array([pixel_mm * PIXELS, pixel_mm * PIXELS, -SLICE_MM * count])
    affine = np.diag([-pixel_mm, -pixel_mm, SLICE_MM, 1.0])  # columns to the left, rows to the back, as in DICOM
    affine[:3, 3] = corner_ras
    grid = Grid((PIXELS, PIXELS, count), affine)
    noise = np.random.default_rng(0).normal(0.0, 12.0, grid.shape)
    hu = np.clip(np.add(resample(volume, grid).hu, noise), -1024, 3071).astype(np.int16)
    origin_lps, _, _ = grid.to_lps()
    folder.mkdir(parents=True)
    series_uid, frame_uid, study_uid = generate_uid(), generate_uid(), generate_uid()
    for k in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study_uid, series_uid, frame_uid
        data.Modality, data.InstanceNumber, data.Rows, data.Columns = "CT", k + 1, PIXELS, PIXELS
        data.PixelSpacing, data.ImageOrientationPatient = [f"{pixel_mm:.6f}"] * 2, [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [f"{mm:.4f}" for mm in origin_lps + np.array([0, 0, SLICE_MM * k])]
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.PixelData = (hu[:, :, k].T + 1024).astype(np.uint16).tobytes()
        data.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)


def measure(image: Path, support_set: Path, out: Path, copies: int, options: list[str]) -> None:
    if not (out / "series").is_dir():
        make_series(image, out / "series")
    with (out / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "name"), *(("series", f"study{n:03d}") for n in range(copies))])
    command = ["locate", str(support_set), "--manifest", str(out / "manifest.csv"), "--out", str(out / "results")]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rprloc", *command, *options], check=True)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores: {copies} studies in {seconds:.1f} s, with the start of Python; "
        f"{(used.ru_utime + used.ru_stime) / copies:.1f} s of a core each; {used.ru_maxrss / 1e6:.1f} GB at most\n"
    )


def plan(results: Path, studies: int, days: float, price: float, storage_mb_s: float) -> str:
    """The plan as Markdown, from the journals of a run and the files that it left."""
    rows = []
    for path in sorted((results / "journal").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            # The first query of a process also waits for the model to be loaded and warmed up.
            rows += [row for row in list(csv.DictReader(file))[1:] if row["outcome"] == "located"]
    if not rows:
        raise SystemExit(
            f"{results} holds no journal with more than one located study. Run 'measure' with more copies."
        )
    parts = {name: np.array([float(row[f"seconds_{name}"]) for row in rows]) for name in ("read", "locate", "write")}
    megabytes_in = np.mean([int(row["bytes_read"]) for row in rows]) / 1e6
    written = [path for path in results.rglob("*") if path.is_file() and "journal" not in path.parts]
    studies_done = max(1, len({path.name.split(".")[0] for path in written}))
    kilobytes_out = sum(path.stat().st_size for path in written) / studies_done / 1e3
    files_out = len(written) / studies_done
    # Reading goes on while the study before is located in; the slower of the two sets the pace.
    pace = np.maximum(parts["read"], parts["locate"] + parts["write"]).mean()
    process_hours = studies * pace / 3600
    processes = process_hours / (24 * days)
    needed_mb_s = megabytes_in / pace * processes
    limits = {
        "the processes' computing": pace - parts["read"].mean(),
        "reading in each process": parts["read"].mean() - (parts["locate"] + parts["write"]).mean(),
    }
    first = max(limits, key=lambda name: limits[name])
    lines = [
        f"Measured on {len(rows)} studies of {megabytes_in:.0f} MB:",
        "",
        "| a study | mean | worst |",
        "|---|---|---|",
        *(f"| {name}, s | {values.mean():.2f} | {values.max():.2f} |" for name, values in parts.items()),
        f"| read, MB | {megabytes_in:.0f} | |",
        f"| written, kB in {files_out:.0f} files | {kilobytes_out:.1f} | |",
        f"| pace of one process, s | {pace:.2f} | |",
        "",
        f"For {studies:,} studies:",
        "",
        "| | |",
        "|---|---|",
        f"| hours of one process | {process_hours:,.0f} |",
        f"| processes to be done in {days:g} days | {np.ceil(processes):,.0f} |",
        f"| price at {price:g} an hour and process | {process_hours * price:,.0f} |",
        f"| read in all, TB | {studies * megabytes_in / 1e6:,.0f} |",
        f"| storage must give, MB/s | {needed_mb_s:,.0f} |",
        f"| written in all, GB in {studies * files_out:,.0f} files | {studies * kilobytes_out / 1e6:,.1f} |",
        "",
        f"One process is held up by {first}. Storage of {storage_mb_s:,.0f} MB/s feeds "
        f"{storage_mb_s * pace / megabytes_in:,.0f} processes; "
        + (
            "with those needed it saturates first: more processes do not help."
            if needed_mb_s > storage_mb_s
            else f"those needed take {100 * needed_mb_s / storage_mb_s:.0f}% of it, so that computing saturates first."
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="locate in studies of ordinary size, then plan")
    measuring.add_argument("--image", type=Path, required=True, help="a CT")
    measuring.add_argument("--set", type=Path, required=True, help="a support set")
    measuring.add_argument("--out", type=Path, required=True, help="a folder for the series and the results")
    measuring.add_argument("--copies", type=int, default=8, help="how often to locate in it (%(default)s)")
    planning = commands.add_parser("plan", help="plan by the journals of a run")
    planning.add_argument("results", type=Path, help="the folder of the run's results")
    for command in (measuring, planning):
        command.add_argument("--studies", type=int, default=1_000_000)
        command.add_argument("--days", type=float, default=7.0)
        command.add_argument(
            "--price", type=float, default=0.05, help="price of one process for an hour, in any currency"
        )
        command.add_argument("--storage-mb-s", type=float, default=1000.0)
    given, options = parser.parse_known_args()
    if given.command == "measure":
        given.out.mkdir(parents=True, exist_ok=True)
        measure(given.image, given.set, given.out, given.copies, options)
        given.results = given.out / "results"
    print(plan(given.results, given.studies, given.days, given.price, given.storage_mb_s))


if __name__ == "__main__":
    main()
