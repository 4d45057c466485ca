"""What the commands share: checks before the work, messages, texts and the files of a result."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rprloc.errors import InputError

if TYPE_CHECKING:
    from rprloc.batch import Job, Outcome, Query
    from rprloc.detection import Detections
    from rprloc.geometry import Box
    from rprloc.support import SupportSet
    from rprloc.volume import Volume

_log = logging.getLogger("rprloc")


class Messages(logging.Handler):
    """Log messages on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.capitalize()}: "
        tqdm.write(prefix + self.format(record), file=sys.stderr)


def require_one_way_of_marking(labels: Path | None, names: Path | None, markups: Path | None, name: str | None) -> None:
    given = tuple(value is not None for value in (labels, names, markups, name))
    if given not in ((True, True, False, False), (False, False, True, True)):
        raise InputError(
            "An example is marked in one of two ways: --labels with --names, or --markups with --name; "
            "give one of these pairs."
        )
    require_name(name, "--name")


def require_name(name: str | None, option: str) -> None:
    if name is not None and not name.strip():
        raise InputError(f"{option} is empty; a name was expected; give one or leave the option out.")


def require_writable(path: Path) -> None:
    """Raise InputError before the work if a file could not be written at its end."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(
            f"{path} cannot be written; a file's name in an existing folder where you may write was expected; "
            "make the folder or name another."
        )


def require_folder(path: Path) -> None:
    """Raise InputError before the work if the folder ``path`` is no folder and cannot be made."""
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(
            f"The folder {path} cannot be written to, as {nearest} is not a folder where you may write; "
            "name another folder."
        )


def named_queries(paths: Sequence[Path], series: str | None = None) -> list[Query]:
    """The scans at ``paths``, their results named like them. Raises InputError if two would be called the same."""
    from rprloc.batch import Query, require_distinct_names
    from rprloc.reading import scan_name

    queries = [Query(path, scan_name(path), series) for path in paths]
    require_distinct_names(queries)
    return queries


@contextmanager
def engine_for(job: Job, jobs: int, scheduler: str | None) -> Iterator[Callable[[Sequence[Query]], Iterator[Outcome]]]:
    """What locates in queries: this process, ``jobs`` of them, or the workers of the Dask scheduler at an address.

    Raises InputError if Dask is not installed or its scheduler does not answer.
    """
    from rprloc import batch

    if jobs == 1 and scheduler is None:
        yield lambda queries: batch.locate_here(job, queries)
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(
            "Dask, which shares out the work, is not installed; it was expected; run: pip install 'rprloc[cluster]'."
        ) from error
    if scheduler is None:
        with (
            LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield lambda queries: batch.locate_on(client, job, queries)
        return
    try:
        client = Client(scheduler, timeout=20)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No Dask scheduler answers at {scheduler} ({error}); one was expected, as in tcp://host:8786; start it "
            "with 'dask scheduler', and its workers with 'dask worker ADDRESS --nthreads 1'."
        ) from error
    with client:
        yield lambda queries: batch.locate_on(client, job, queries)


def write_results(
    out: Path,
    name: str,
    volume: Volume,
    found: Detections,
    *,
    picture: bool,
    labels: bool = False,
    dicom: Sequence[str] = (),
    truth: Mapping[str, Box] | None = None,
) -> None:
    """Write a query's result files; the detections come last, so that with them all is there.

    If no organ lies in the scan there is nothing to draw: only the label map and the detections are written, and what
    an earlier run left of the others is deleted.

    ``dicom`` names kinds of :data:`rprloc.dicom_export.DICOM_WRITERS`, for a volume that was read from DICOM.
    """
    from rprloc.detection import save_detections
    from rprloc.dicom_export import DICOM_WRITERS
    from rprloc.export import save_label_map, save_picture
    from rprloc.markups import write_rois

    for kind in dicom:
        if volume.series is None:
            raise InputError(
                f"{name} was not read from DICOM, so that no {kind.upper()} can refer to it; a DICOM series was "
                f"expected; leave --{kind} out."
            )
        if found.located:
            DICOM_WRITERS[kind](out / f"{name}.{kind}.dcm", found, volume.series)
    if labels:
        save_label_map(out / f"{name}.boxes.nii.gz", found, volume.grid)
    if picture and found.located:
        points = {organ.organ: organ.points_ras for organ in found.located}
        remarks = {organ.organ: organ.remark for organ in found.organs}
        save_picture(out / f"{name}.png", volume, found.boxes, truth=truth, points=points, remarks=remarks)
    if found.located:
        write_rois(out / f"{name}.mrk.json", found)
    else:
        for suffix in (".mrk.json", ".png", *(f".{kind}.dcm" for kind in DICOM_WRITERS)):
            (out / f"{name}{suffix}").unlink(missing_ok=True)
    save_detections(out / f"{name}.detections.json", found)


def warn(warnings: Iterable[str], scan: str) -> None:
    for warning in warnings:
        _log.warning("%s: %s", scan, warning)


def box_text(box: Box) -> str:
    """A box's size and centre."""
    size = " x ".join(f"{length:.0f}" for length in box.size_mm)
    centre = ", ".join(f"{coordinate:.0f}" for coordinate in box.centre_ras)
    return f"{size} mm around RAS ({centre})"


def summary(found: Detections, path: Path) -> str:
    """What was found in one scan and where it is written."""
    width = max(len(organ.organ) for organ in found.organs)
    lines = [f"{found.query} -> {path}"]
    boxes = found.boxes
    for organ in found.organs:
        place = f"{box_text(boxes[organ.organ])}; " if organ.organ in boxes else ""
        lines.append(f"  {organ.organ:{width}}  {place}{organ.remark}")
    return "\n".join(lines)


def described(support_set: SupportSet, path: Path) -> str:
    """What a support set holds."""
    lines = [
        f"{path}: {len(support_set.supports)} supports, {len(support_set.organs)} organs, "
        f"identity {support_set.identity}, model {support_set.model_id}"
    ]
    for support in support_set.supports:
        lines.append(f"  {support.scan} ({support.source})")
        lines += [f"    {name}: {box_text(organ.box)}" for name, organ in support.organs.items()]
    return "\n".join(lines)
