"""The command line ``rprloc``. Exit codes: 0 done; 1 some of several queries failed; 2 bad input, nothing written.

Whatever takes long to import (PyTorch, SimpleITK) is imported inside of the commands, so that help comes at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rprloc.apps import console
from rprloc.apps.cli_weights import calibrate, evaluate, train
from rprloc.apps.options import Commands, Device, Model, Series, SetFile, Verbose, Where, log, set_verbose
from rprloc.errors import InputError
from rprloc.files import require_folder, require_name, require_writable
from rprloc.version import __version__

app = typer.Typer(
    cls=Commands,
    name="rprloc",
    help="Locate organs and landmarks in CT scans, or with weights for it in MR, from one annotated example.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
support_app = typer.Typer(help="Build, merge and show support sets: annotated examples.", no_args_is_help=True)
app.add_typer(support_app, name="support")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rprloc {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    set_verbose(False)


@support_app.command("build")
def support_build(
    image: Annotated[Path, typer.Option(metavar="SCAN", help="The example's scan: a file or a DICOM folder.")],
    out: Annotated[Path, typer.Option(metavar="SET.json", help="The support set to write.")],
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="What marks the organs; may be repeated: a label map, a folder of masks, a .seg.nrrd, DICOM RTSTRUCT "
            "or SEG, or Slicer Markups.",
        ),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(
            metavar="NAMES.json",
            help='Names of labels, {"1": "liver", ...}, or new names of structures, {"Lt Kidney": "kidney_left", ...}.',
        ),
    ] = None,
    organ: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this organ of the labels; may be repeated. By default all."),
    ] = None,
    standard_names: Annotated[
        bool, typer.Option("--standard-names", help="Give organs standard names: kidney_left for Kidney_L.")
    ] = False,
    markups: Annotated[
        Path | None, typer.Option(metavar="FILE.mrk.json", help="Slicer Markups of one organ, to be called --name.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The organ that the markups mark.")] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Landmarks, a point each: a point list of Slicer (.mrk.json), CSV (name,r_mm,a_mm,s_mm) or DICOM SR.",
        ),
    ] = None,
    scan_name: Annotated[
        str | None,
        typer.Option(help="Name of the scan in the set; by default a pseudonym made from its voxels."),
    ] = None,
    series: Series = None,
    model: Model = None,
    device: Where = Device.auto,
    verbose: Verbose = False,
) -> None:
    """Make a support set from an annotated scan: --labels in any form, --markups with --name, or --landmarks."""
    from rprloc import Localizer, read_example

    of_labels = names is not None or bool(organ) or standard_names
    console.require_one_way_of_marking(bool(labels), of_labels, markups is not None, name, landmarks is not None)
    require_name(scan_name, "--scan-name")
    require_writable(out)
    marked = {} if markups is None or name is None else {name.strip(): markups}
    example = read_example(
        image,
        labels=labels or None,
        names=names,
        organs=organ or None,
        standard_names=standard_names,
        markups=marked or None,
        landmarks=landmarks,
        name=None if scan_name is None else scan_name.strip(),
        series_uid=series,
    )
    for note in example.annotation.notes:
        console.say(note)
    support_set = Localizer.load(model, device.value).learn(example)
    support_set.save(out)
    console.warn(support_set.warnings, image.name)
    typer.echo(console.describe_support_set(support_set, out))


@support_app.command("merge")
def support_merge(
    sets: Annotated[list[str], typer.Argument(metavar="SET.json...", help="Support sets of the same weights.")],
    out: Annotated[Path, typer.Option(metavar="SET.json", help="The support set to write.")],
    verbose: Verbose = False,
) -> None:
    """Put the supports of several sets into one."""
    from rprloc import SupportSet

    require_writable(out)
    merged = SupportSet.merge(SupportSet.load(path) for path in sets)
    merged.save(out)
    console.warn(merged.warnings, out.name)
    typer.echo(console.describe_support_set(merged, out))


@support_app.command("show")
def support_show(path: SetFile, verbose: Verbose = False) -> None:
    """Say what a support set holds."""
    from rprloc import SupportSet

    support_set = SupportSet.load(path)
    console.warn(support_set.warnings, Path(path).name)
    typer.echo(console.describe_support_set(support_set, Path(path)))


@app.command()
def locate(
    support_set: SetFile,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results, made if missing.")],
    queries: Annotated[
        list[Path] | None, typer.Argument(metavar="[QUERY]...", help="Scans: files, DICOM folders or zip files.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Or a list of scans; finished ones are skipped.")
    ] = None,
    organ: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this organ or landmark; may be repeated. By default all of the set."),
    ] = None,
    picture: Annotated[bool, typer.Option("--picture", help="Also write pictures of the boxes.")] = False,
    labels: Annotated[bool, typer.Option("--labels", help="Also write the boxes as a NIfTI label map.")] = False,
    rtstruct: Annotated[bool, typer.Option("--rtstruct", help="Also write a DICOM RT structure set.")] = False,
    sr: Annotated[bool, typer.Option("--sr", help="Also write a DICOM measurement report.")] = False,
    seg: Annotated[bool, typer.Option("--seg", help="Also write a DICOM segmentation of the boxes.")] = False,
    crop: Annotated[
        float | None, typer.Option(metavar="MM", help="Also write the scan cut to each box and a margin.")
    ] = None,
    prompts: Annotated[
        bool, typer.Option("--prompts", help="Also write the boxes in voxels, for programs that segment from a box.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--csv", help="Also write organs.csv, a row for each organ of all results in the folder.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this computer that share a manifest.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="The Dask scheduler whose workers share a manifest.")
    ] = None,
    series: Series = None,
    model: Model = None,
    device: Where = Device.auto,
    verbose: Verbose = False,
) -> None:  # long for its options alone
    """Find the organs and landmarks of a support set in other scans."""
    from rprloc import SupportSet
    from rprloc.apps import batch
    from rprloc.io.crops import require_margin
    from rprloc.io.dicom_export import require_dicom_writers
    from rprloc.io.results import DICOM_KINDS, TABLE, read_results
    from rprloc.model.shipped import find_weights

    wanted = batch.choose_queries(queries or [], manifest, series)
    batch.require_ways_to_share(manifest, jobs, scheduler)
    asked = {"seg": seg, "sr": sr, "rtstruct": rtstruct}
    dicom = tuple(kind for kind in DICOM_KINDS if asked[kind])
    require_dicom_writers(dicom)
    require_margin(crop)
    require_folder(out)
    job = batch.Job(
        SupportSet.load(support_set),
        out.absolute(),
        tuple(dict.fromkeys(organ)) if organ else None,
        None if model is None else find_weights(model).absolute(),
        device.value,
        picture,
        labels,
        dicom,
        prompts,
        crop,
        keep_record=manifest is not None,
    )
    if job.keep_record:
        wanted = batch.mark_new_scans(job, wanted)
    failed = _follow(job, wanted, out, jobs, scheduler)
    if table and (failed < len(wanted) or job.keep_record):
        _save_table(out / TABLE, read_results(out))
    if failed:
        others = " The others are done." if failed < len(wanted) else ""
        log.error("%d of %d queries failed.%s", failed, len(wanted), others)
        raise typer.Exit(2 if failed == len(wanted) else 1)


def _follow(job: Any, wanted: list[Any], out: Path, jobs: int, scheduler: str | None) -> int:
    """Do a job and say what comes of every query; returns how many failed."""
    from tqdm import tqdm

    from rprloc.apps import batch

    failed = skipped = 0
    with (
        batch.open_workers(job, jobs, scheduler) as outcomes_of,
        tqdm(total=len(wanted), unit="scan", disable=None if len(wanted) > 1 else True) as bar,
    ):
        for outcome in outcomes_of(wanted):
            bar.update()
            skipped += outcome.skipped
            if outcome.error is not None:
                if len(wanted) == 1 and not job.keep_record:
                    raise InputError(outcome.error)
                failed += 1
                log.error("%s", outcome.error)
            elif outcome.found is not None:
                console.warn(outcome.found.warnings, outcome.query.path.name)
                path = batch.ResultFiles(out, outcome.query.name).detections
                console.say(console.describe_detections(outcome.found, path))
                log.info("%s took %.2f s from the array in memory.", outcome.query.name, outcome.found.seconds)
    if job.keep_record:
        console.say(f"{len(wanted) - failed - skipped} located, {skipped} already done, {failed} failed: {out}")
    return failed


@app.command()
def report(
    results: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that 'rprloc locate --out' wrote.")],
    table: Annotated[Path | None, typer.Option("--csv", metavar="FILE.csv", help="A row for each organ.")] = None,
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE.html", help="A page, and a folder with the slices of --picture."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Make a table or a page of the results in a folder."""
    from rprloc.io.report import save_html
    from rprloc.io.results import read_results

    if table is None and page is None:
        raise InputError("Name a file for the report with --csv, --html or both.")
    for path in (table, page):
        if path is not None:
            require_writable(path)
    content = read_results(results)
    if table is not None:
        _save_table(table, content)
    if page is not None:
        save_html(page, content, results)


def _save_table(path: Path, results: list[Any]) -> None:
    from rprloc.io.table import result_rows, save_table

    save_table(path, [row for result in results for row in result_rows(result)])


@app.command()
def paste(
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="A label map on the voxels of a crop.")],
    crop: Annotated[Path, typer.Option(metavar="CROP.json", help="The place of that crop: the file beside it.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The label map of the whole scan: .nii, .nii.gz or .nrrd.")],
    verbose: Verbose = False,
) -> None:
    """Put a segmentation of a crop back into the whole scan's voxels."""
    from rprloc import Crop, read_label_map
    from rprloc.io.itk import write_image
    from rprloc.io.label_map import require_label_map_name

    require_label_map_name(out)
    require_writable(out)
    place = Crop.load(crop)
    write_image(out, place.paste(read_label_map(labels, place.grid)), place.scan_grid)


@app.command("series")
def list_series(
    path: Annotated[Path, typer.Argument(metavar="DICOM", help="A folder, a zip file or a multi-frame file.")],
    verbose: Verbose = False,
) -> None:
    """List the DICOM series in a folder or file, for --series, and what cannot be read."""
    from rprloc.io.dicom import describe_faults, find_series
    from rprloc.io.dicom_stack import reason_not_to_read
    from rprloc.io.formats import holds_series

    found = find_series(path) if holds_series(path) else []
    if not found:
        raise InputError(f"{path} holds no DICOM images. Give a folder, a zip file or a DICOM file with a scan.")
    for series in found:
        count = max(series.count, len(series.faults))
        typer.echo(f"{series.uid}  {series.modality or '?'}  {count} slices  {series.description}")
        reason = reason_not_to_read(series, path)
        if reason is not None:
            typer.echo(f"    cannot be read: {reason}")
    if found[0].left_out:
        typer.echo(f"left out, of no known series: {describe_faults(found[0].left_out)}")


@app.command("sets")
def list_sets(verbose: Verbose = False) -> None:
    """List the ready-made support sets, such as @head-neck: what they find, how well, and where they are from."""
    from rprloc import SupportSet
    from rprloc.localization.ready_made import SIGN, ready_made_sets

    for name, path in ready_made_sets().items():
        typer.echo(console.describe_ready_made_set(SIGN + name, SupportSet.load(path)))


@app.command("models")
def list_models(verbose: Verbose = False) -> None:
    """List the models that are shipped, for --model, and the licence of each."""
    from rprloc.model.shipped import DEFAULT, read_licence, read_modality, shipped_models

    for name, weights in shipped_models().items():
        typer.echo(f"{name}{' (the default)' if name == DEFAULT else ''}: {weights}")
        typer.echo(f"    For {read_modality(weights)}. {read_licence(weights)}")


@app.command()
def serve(model: Model = None, device: Where = Device.auto, verbose: Verbose = False) -> None:
    """Answer requests of another program: JSON lines on stdin, events on stdout (see rprloc/apps/serve.py)."""
    import io
    import json
    import sys
    from contextlib import redirect_stdout

    stdout = sys.stdout

    def emit(event: dict[str, Any]) -> None:
        stdout.write(json.dumps(event, allow_nan=False) + "\n")
        stdout.flush()

    def refuse(sentence: str, **more: str) -> None:
        emit({"id": None, "event": "error", "message": sentence, **more})

    with redirect_stdout(sys.stderr):  # whatever a library prints is not an event
        try:
            import torch  # noqa: F401  # first, because what is wrong with it has another way out
        except (ImportError, OSError, AttributeError, RuntimeError) as error:
            if not isinstance(error, ModuleNotFoundError) or error.name != "torch":
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
                refuse(f"PyTorch is installed but damaged ({reason}). Install it again.", damaged="torch")
                raise typer.Exit(2) from error
        try:
            from rprloc import Localizer
            from rprloc.apps.serve import Server

            server = Server(Localizer.load(model, device.value), emit)
        except ModuleNotFoundError as error:
            refuse(f"The Python package {error.name} is missing. Install it and try again.")
            raise typer.Exit(2) from error
        except InputError as error:
            refuse(" ".join(str(error).split()))
            raise
        if isinstance(sys.stdin, io.TextIOWrapper):  # JSON is UTF-8, and a line that is not must not end the process
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        server.run(sys.stdin)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for scans and results.")] = Path("demo-out"),
    model: Model = None,
    device: Where = Device.auto,
    verbose: Verbose = False,
) -> None:
    """Get two public CT scans, take the heart of one as the example, and find it in the other."""
    from rprloc import Localizer
    from rprloc.apps.demo import run_demo

    require_folder(out)
    localizer = Localizer.load(model, device.value)
    if not run_demo(localizer, out, typer.echo):
        raise typer.Exit(1)


for command in (train, evaluate, calibrate):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    console.make_output_lossless()
    app()
