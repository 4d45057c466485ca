"""The command line ``rprloc``. Exit codes: 0 done; 1 some of several queries failed; 2 bad input, nothing written.

Whatever takes long to import (PyTorch, SimpleITK) is imported inside of the commands, so that help comes at once.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rprloc import __version__
from rprloc.apps import console
from rprloc.errors import InputError
from rprloc.files import require_folder, require_name, require_writable

_log = logging.getLogger("rprloc")


class _Commands(TyperGroup):
    """The group of all commands; input that cannot be used ends any of them with one sentence and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MemoryError as error:
            _log.error("This computer's memory does not suffice for this input; more was expected; use smaller scans.")
            raise typer.Exit(2) from error
        except (InputError, OSError) as error:
            _log.error("%s", " ".join(str(error).split()))
            _log.info("It happened here:", exc_info=True)
            raise typer.Exit(2) from error


class Device(str, Enum):
    """Where the network runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Shots(str, Enum):
    """Which supports locate together."""

    one = "one"
    all = "all"


class Split(str, Enum):
    """Which cases are queries."""

    train = "train"
    val = "val"
    support = "support"
    test = "test"


def _set_verbose(verbose: bool) -> bool:
    _log.handlers[:] = [console.Messages()]
    _log.setLevel(logging.INFO if verbose else logging.WARNING)
    return verbose


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rprloc {__version__}")
        raise typer.Exit


Verbose = Annotated[bool, typer.Option("--verbose", "-v", callback=_set_verbose, help="Tell more on stderr.")]

Model = Annotated[Path | None, typer.Option(help="Weights (model.pt); by default the ones shipped.")]

Where = Annotated[Device, typer.Option(help="auto: the GPU if there is one with enough memory, else the CPU.")]

SetFile = Annotated[Path, typer.Argument(metavar="SET.json", help="A support set of 'rprloc support build'.")]

Series = Annotated[str | None, typer.Option(metavar="UID", help="DICOM series, if a folder has several.")]

app = typer.Typer(
    cls=_Commands,
    name="rprloc",
    help="Locate organs in CT scans from one annotated example.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

support_app = typer.Typer(help="Build, merge and show support sets: annotated examples.", no_args_is_help=True)

app.add_typer(support_app, name="support")


@app.callback()
def _start(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    _set_verbose(False)


@support_app.command("build")
def support_build(
    image: Annotated[Path, typer.Option(metavar="CT", help="The example's scan: a file or a DICOM folder.")],
    out: Annotated[Path, typer.Option(metavar="SET.json", help="The support set to write.")],
    labels: Annotated[Path | None, typer.Option(metavar="SEG", help="Label map on the scan's grid.")] = None,
    names: Annotated[
        Path | None,
        typer.Option(metavar="NAMES.json", help='Names of the labels: {"1": "liver", ...}.'),
    ] = None,
    markups: Annotated[
        Path | None,
        typer.Option(metavar="FILE.mrk.json", help="Slicer Markups: six extreme points, or an ROI."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The organ that the markups mark.")] = None,
    scan_name: Annotated[
        str | None,
        typer.Option(help="What the scan is called in the set; by default a pseudonym made from its voxels."),
    ] = None,
    series: Series = None,
    model: Model = None,
    device: Where = Device.auto,
    verbose: Verbose = False,
) -> None:
    """Make a support set from an annotated scan: --labels with --names, or --markups with --name."""
    from rprloc.annotation import masks_from_labels, points_from_labels, scan_pseudonym
    from rprloc.io.annotations import read_label_map, read_names
    from rprloc.io.markups import read_extreme_points
    from rprloc.io.plausibility import image_warnings
    from rprloc.io.reading import read_volume
    from rprloc.localization.localizer import Engine
    from rprloc.localization.support import save_support_set

    console.require_one_way_of_marking(labels, names, markups, name)
    require_name(scan_name, "--scan-name")
    require_writable(out)
    volume = read_volume(image, series_uid=series)
    if labels is not None and names is not None:
        marked = read_label_map(labels, volume.grid), volume.grid, read_names(names)
        points, masks, source = points_from_labels(*marked), masks_from_labels(*marked), "label map"
    else:
        assert markups is not None and name is not None
        points, masks, source = {name.strip(): read_extreme_points(markups)}, {}, "extreme points"
    scan = scan_pseudonym(volume) if scan_name is None else scan_name.strip()
    engine = Engine.load(model, device.value)
    support_set = engine.support_set(volume, points, scan=scan, source=source, masks=masks)
    save_support_set(out, support_set)
    console.warn(image_warnings(volume), image.name)
    typer.echo(console.described(support_set, out))


@support_app.command("merge")
def support_merge(
    sets: Annotated[list[Path], typer.Argument(metavar="SET.json...", help="Support sets of one model.")],
    out: Annotated[Path, typer.Option(metavar="SET.json", help="The support set to write.")],
    verbose: Verbose = False,
) -> None:
    """Put the supports of several sets into one."""
    from rprloc.localization.support import load_support_set, merge, save_support_set

    require_writable(out)
    merged = merge(load_support_set(path) for path in sets)
    save_support_set(out, merged)
    typer.echo(console.described(merged, out))


@support_app.command("show")
def support_show(path: SetFile, verbose: Verbose = False) -> None:
    """Tell what a support set holds."""
    from rprloc.localization.support import load_support_set

    typer.echo(console.described(load_support_set(path), path))


@app.command()
def locate(
    support_set: SetFile,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results; made if missing.")],
    queries: Annotated[
        list[Path] | None, typer.Argument(metavar="[QUERY]...", help="Scans: files, DICOM folders or zip files.")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Or a list of scans; what is done already is passed over."),
    ] = None,
    organ: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this organ; may be repeated. By default all of the set."),
    ] = None,
    picture: Annotated[bool, typer.Option("--picture", help="Also write a PNG with the boxes.")] = False,
    labels: Annotated[bool, typer.Option("--labels", help="Also write the boxes as a NIfTI label map.")] = False,
    rtstruct: Annotated[bool, typer.Option("--rtstruct", help="Also write a DICOM RT structure set.")] = False,
    sr: Annotated[bool, typer.Option("--sr", help="Also write a DICOM measurement report.")] = False,
    seg: Annotated[bool, typer.Option("--seg", help="Also write a DICOM segmentation of the boxes.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this computer that share a manifest.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="The Dask scheduler whose workers share a manifest.")
    ] = None,
    series: Series = None,
    model: Model = None,
    device: Where = Device.auto,
    verbose: Verbose = False,
) -> None:
    """Find the organs of a support set in other scans."""
    from tqdm import tqdm

    from rprloc.apps import batch
    from rprloc.io.dicom_export import require_dicom_writers
    from rprloc.localization.support import load_support_set

    if bool(queries) == (manifest is not None):
        raise InputError("Scans to locate in are named as QUERY..., or listed in --manifest; give one of these.")
    if manifest is None and (jobs > 1 or scheduler is not None):
        raise InputError("--jobs and --scheduler share out a manifest; one was expected; list the scans in --manifest.")
    if jobs > 1 and scheduler is not None:
        raise InputError("--jobs is for this computer and --scheduler for others; give one of them.")
    if series is not None and len(queries or ()) != 1:
        raise InputError(
            f"--series selects one DICOM series, but {len(queries or ())} queries were given; one was expected; "
            "run each folder by itself, or name the series in a manifest."
        )
    wanted = batch.read_manifest(manifest) if manifest is not None else batch.named_queries(queries or (), series)
    # The segmentation first: it alone can turn out impossible, and then nothing is written.
    dicom = tuple(kind for kind, asked in (("seg", seg), ("sr", sr), ("rtstruct", rtstruct)) if asked)
    require_dicom_writers(dicom)
    require_folder(out)
    examples = load_support_set(support_set)
    job = batch.Job(
        examples.to_json(),
        out.absolute(),
        tuple(dict.fromkeys(organ)) if organ else None,
        None if model is None else model.absolute(),
        device.value,
        picture,
        labels,
        dicom,
        keep_record=manifest is not None,
    )
    failed = skipped = 0
    with (
        batch.engine_for(job, jobs, scheduler) as outcomes_of,
        tqdm(total=len(wanted), unit="scan", disable=None if len(wanted) > 1 else True) as bar,
    ):
        for outcome in outcomes_of(wanted):
            bar.update()
            skipped += outcome.skipped
            if outcome.error is not None:
                if len(queries or ()) == 1:
                    raise InputError(outcome.error)
                failed += 1
                _log.error("%s", outcome.error)
            elif outcome.found is not None:
                console.warn(outcome.found.warnings, outcome.query.path.name)
                tqdm.write(console.summary(outcome.found, out / f"{outcome.query.name}.detections.json"))
                _log.info("%s took %.2f s from the array in memory.", outcome.query.name, outcome.found.seconds)
    if manifest is not None:
        typer.echo(f"{len(wanted) - failed - skipped} located, {skipped} were done already, {failed} failed: {out}")
    if failed:
        _log.error("%d of %d queries failed; the others are done.", failed, len(wanted))
        raise typer.Exit(2 if failed == len(wanted) else 1)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that 'rprloc locate --out' wrote.")],
    table: Annotated[Path | None, typer.Option("--csv", metavar="FILE.csv", help="A row for each organ.")] = None,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE.html", help="One page, with the pictures of --picture.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Make a table or a page of the results in a folder."""
    from rprloc.io.report import save_csv, save_html
    from rprloc.io.results import read_results

    if table is None and page is None:
        raise InputError("A report comes as --csv or as --html; at least one was expected; name a file.")
    for path in (table, page):
        if path is not None:
            require_writable(path)
    found = read_results(results)
    if table is not None:
        save_csv(table, found)
    if page is not None:
        save_html(page, found, results)


@app.command("series")
def list_series(
    path: Annotated[Path, typer.Argument(metavar="DICOM", help="A folder, a zip file or a multi-frame file.")],
    verbose: Verbose = False,
) -> None:
    """List the DICOM series in a folder or file, for --series."""
    from rprloc.io.dicom import find_series
    from rprloc.io.formats import holds_series

    found = find_series(path) if holds_series(path) else []
    if not found:
        raise InputError(f"{path} holds no DICOM images; a folder, zip or DICOM file was expected; check the path.")
    for one in found:
        typer.echo(f"{one.uid}  {one.modality or '?'}  {len(one.slices)} slices  {one.description}")


@app.command()
def serve(model: Model = None, device: Where = Device.auto, verbose: Verbose = False) -> None:
    """Answer requests of another program: JSON lines on stdin, events on stdout (see rprloc/serve.py)."""
    import json
    import sys
    from contextlib import redirect_stdout

    stdout = sys.stdout

    def emit(event: dict[str, Any]) -> None:
        stdout.write(json.dumps(event, allow_nan=False) + "\n")
        stdout.flush()

    def refuse(sentence: str) -> None:
        emit({"id": None, "event": "error", "message": sentence})

    with redirect_stdout(sys.stderr):  # whatever a library prints is not an event
        try:
            from rprloc.apps.serve import Server
            from rprloc.localization.localizer import Engine

            server = Server(Engine.load(model, device.value), emit)
        except ModuleNotFoundError as error:
            refuse(f"The Python package {error.name} is missing; RPR-Loc needs it; install it and try again.")
            raise typer.Exit(2) from error
        except InputError as error:
            refuse(" ".join(str(error).split()))
            raise
        server.run(sys.stdin)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for scans and results.")] = Path("demo-out"),
    model: Model = None,
    device: Where = Device.auto,
    verbose: Verbose = False,
) -> None:
    """Get two public CT scans, take the heart of one as the example, and find it in the other."""
    from rprloc.annotation import masks_from_labels, points_from_labels
    from rprloc.apps.demo import fetch_demo_scans
    from rprloc.geometry import Box, extreme_points_of_mask
    from rprloc.io.annotations import read_label_map
    from rprloc.io.reading import read_volume
    from rprloc.io.results import write_results
    from rprloc.localization.localizer import Engine
    from rprloc.localization.support import save_support_set

    require_folder(out)
    engine = Engine.load(model, device.value)
    typer.echo("Getting two public CT scans (75 MB the first time) ...")
    scans = fetch_demo_scans(out / "scans")
    example = read_volume(scans.support_image)
    marked = read_label_map(scans.support_labels, example.grid), example.grid, scans.support_names
    points, masks = points_from_labels(*marked), masks_from_labels(*marked)
    support_set = engine.support_set(example, points, scan=example.name, source="label map", masks=masks)
    save_support_set(out / "heart.support.json", support_set)
    volume = read_volume(scans.query_image)
    found = engine.detect(volume, support_set)
    console.warn(found.warnings, scans.query_image.name)
    truth = Box.from_extreme_points(
        extreme_points_of_mask(read_label_map(scans.query_truth, volume.grid) > 0, volume.grid)
    )
    write_results(out, volume.name, volume, found, picture=True, truth={"heart": truth})
    typer.echo(console.summary(found, out / f"{volume.name}.detections.json"))
    typer.echo(f"  true   {console.box_text(truth)}")
    box = found.boxes.get("heart")
    if box is None:
        typer.echo("The heart is in the scan, but was said to be absent.")
        raise typer.Exit(1)
    typer.echo(f"IoU {box.iou(truth):.2f}, mean wall distance {box.wall_distances_mm(truth).mean():.1f} mm")
    typer.echo(f"Picture: {out / volume.name}.png")


@app.command()
def train(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the weights, checkpoints and logs.")],
    data: Annotated[
        Path | None, typer.Option(metavar="datasets.json", help="The cases; train is trained and val measured on.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Or a folder of unlabelled scans; one in twenty is only measured on."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")] = False,
    init: Annotated[Path | None, typer.Option(metavar="model.pt", help="Weights to go on from.")] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="config.json",
            help="The recipe; a run keeps its own in its folder, and --resume takes that.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all randomness.")] = None,
    coarse_steps: Annotated[int | None, typer.Option(min=0, help="Optimizer steps of the coarse net.")] = None,
    fine_steps: Annotated[int | None, typer.Option(min=0, help="Optimizer steps of the fine net.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=1e-6, max=1.0, help="Its peak in the schedule.")] = None,
    group_power: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="A region of n scans weighs n to this power; 0: all alike."),
    ] = None,
    device: Where = Device.auto,
    verbose: Verbose = False,
) -> None:
    """Train both networks on unlabelled scans."""
    from rprloc.io.dataset import scans_below, training_files
    from rprloc.model.device import choose_device
    from rprloc.model.network import load_model
    from rprloc.training.config import TrainingConfig
    from rprloc.training.packing import pack
    from rprloc.training.training import estimate
    from rprloc.training.training import train as train_model

    if (data is None) == (images is None):
        raise InputError("Scans to train on come from --data or from --images; give one of them.")
    require_folder(out)
    if not resume and any((out / name).exists() for name in ("model.pt", "coarse.pt", "body_frame.npz")):
        raise InputError(
            f"{out} holds a training run already; a new folder was expected; add --resume to go on with it, or name "
            "another folder."
        )
    if data is not None:
        files, held_out = training_files(data), training_files(data, "val")
    elif images is not None:
        files, held_out = scans_below(images), []
    target = choose_device(device.value)
    given = {
        "seed": seed,
        "coarse_steps": coarse_steps,
        "fine_steps": fine_steps,
        "learning_rate": learning_rate,
        "group_power": group_power,
    }
    chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if resume and config_file is None and (out / "config.json").is_file():
        config_file = out / "config.json"
    recipe = TrainingConfig() if config_file is None else TrainingConfig.read(config_file)
    config = replace(recipe, **chosen)
    out.mkdir(parents=True, exist_ok=True)
    start = None if init is None else load_model(init)
    scans = pack(files, out / "packed", None if images is None else out / "skipped.csv")
    if images is None:
        validation = pack(held_out, out / "packed")
    else:
        validation = scans[19::20]
        del scans[19::20]
    minutes, gigabytes = estimate(scans, config, target)
    typer.echo(f"Training on {len(scans)} scans: about {minutes:.0f} minutes and {gigabytes:.0f} GB of memory.")
    net = train_model(scans, out, config, device=target, validation=validation, resume=resume, init=start)
    typer.echo(f"{out / 'model.pt'}: model {net.identity()}")


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option(metavar="datasets.json", help="The annotated cases.")],
    region: Annotated[str, typer.Option(help="The region of the dataset.")],
    out: Annotated[Path, typer.Option(metavar="results.json", help="The results to write.")],
    split: Annotated[Split, typer.Option(help="The queries; supports are the cases of split support.")] = Split.test,
    shots: Annotated[Shots, typer.Option(help="one: every support alone; all: all together.")] = Shots.one,
    per_case: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Also write a row for each support, query and target."),
    ] = None,
    model: Model = None,
    device: Where = Device.auto,
    verbose: Verbose = False,
) -> None:
    """Measure the accuracy on annotated cases."""
    from rprloc.evaluation.evaluate import evaluate as evaluate_model
    from rprloc.evaluation.scores import write_results
    from rprloc.io.dataset import read_dataset
    from rprloc.localization.localizer import Engine

    for path in (out, per_case):
        if path is not None:
            require_writable(path)
    cases = read_dataset(data)
    engine = Engine.load(model, device.value)
    results = evaluate_model(engine.model, cases, region, split.value, shots.value, fall_back=engine.fall_back)
    write_results(results, out, per_case)
    typer.echo(results.to_table())


def main() -> None:
    """Run the command line."""
    app()
