"""Locating in many scans: one after another with the next being read, or on the workers of a Dask cluster.

A manifest's run can be stopped at any time and goes on where it stopped: a query whose files are all there is passed
over. Every process keeps a journal of what each query took.
"""

from __future__ import annotations

import csv
import functools
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rprloc.apps.console import FAILURES, describe_failure
from rprloc.errors import InputError
from rprloc.files import is_folder, is_plain, name_files, parse_json, readable, status_of
from rprloc.io.results import ResultFiles, dicom_kinds, read_failure, save_failure

if TYPE_CHECKING:
    from distributed import Client

    from rprloc import Detections, Localizer, Scan, SupportSet


JOURNALS = "journal"
"""The folder, beside the results, with one CSV for each process that located something."""

_JOURNAL_COLUMNS = (
    *("name", "outcome", "bytes_read", "seconds_read", "seconds_locate", "seconds_write", "finished", "path", "series"),
)
_READ_AHEAD = 2
_BATCHES_A_WORKER = 3  # handed out at a time: enough that none waits, and few are done again if one dies

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Query:
    """A scan, what its result files are called (they may lie in subfolders), and which of its DICOM series is meant."""

    path: Path
    name: str
    series: str | None = None
    is_new: bool = False
    """Whether results that are there under its name are of another scan."""


@dataclass(frozen=True, eq=False)
class Job:
    """What is done with every query. All paths must mean the same on every machine.

    ``keep_record``: pass over what is done already, write why a query failed, and keep a journal. ``run``: the name
    of this run: another one tries again what failed, but a worker of this one may have died before it could tell.
    """

    support_set: SupportSet
    out: Path
    organs: tuple[str, ...] | None = None
    weights: Path | None = None
    device: str = "auto"
    picture: bool = False
    label_map: bool = False
    dicom: tuple[str, ...] = ()
    prompts: bool = False
    crop_margin_mm: float | None = None
    keep_record: bool = False
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    def files_of(self, query: Query) -> ResultFiles:
        """What the query's result files are called."""
        return ResultFiles(self.out, query.name)

    def wanted_files(self, query: Query, *, boxes: bool, points: bool) -> list[Path]:
        """The files that a finished query has, if organs (``boxes``), landmarks (``points``) or none were located.

        See :func:`rprloc.io.results.write_results`.
        """
        files = self.files_of(query)
        drawn = [files.picture, files.slices] if self.picture else []
        drawn += [files.dicom(kind) for kind in dicom_kinds(self.dicom, boxes=boxes)]
        always = [path for path, wanted in ((files.label_map, self.label_map), (files.prompts, self.prompts)) if wanted]
        return [*(drawn if boxes or points else ()), *always, files.detections]


@dataclass(frozen=True)
class Outcome:
    """How a query ended: located, passed over as it was done already, or failed with an error."""

    query: Query
    error: str | None = None
    skipped: bool = False
    found: Detections | None = field(default=None, compare=False)


def choose_queries(paths: Sequence[Path], manifest: Path | None, series: str | None) -> list[Query]:
    """The scans that a command names, or that its manifest lists; ``series`` goes with a single one.

    Raises InputError if both or neither are given, and as :func:`name_queries` and :func:`read_manifest`.
    """
    if bool(paths) == (manifest is not None):
        raise InputError("Name the scans to search as QUERY..., or list them in --manifest. Do one of both.")
    if series is not None and len(paths) != 1:
        raise InputError(
            f"--series selects one DICOM series, but there are {len(paths)} queries. Run each folder by itself, or "
            "name the series in a manifest."
        )
    return read_manifest(manifest) if manifest is not None else name_queries(paths, series)


def require_ways_to_share(manifest: Path | None, jobs: int, scheduler: str | None) -> None:
    """Raise InputError for ways to share the work that do not go together."""
    if manifest is None and (jobs > 1 or scheduler is not None):
        raise InputError("--jobs and --scheduler only work with --manifest. List the scans in a manifest.")
    if jobs > 1 and scheduler is not None:
        raise InputError("--jobs is for this computer and --scheduler for others. Give one of them.")


def name_queries(paths: Sequence[Path], series: str | None = None) -> list[Query]:
    """The scans at ``paths``, their results named like them. Raises InputError if two would be called the same."""
    from rprloc.io.formats import scan_name

    queries = [Query(path, scan_name(path), series) for path in paths]
    require_distinct_names(queries)
    return queries


@contextmanager
def open_workers(
    job: Job, jobs: int, scheduler: str | None
) -> Iterator[Callable[[Sequence[Query]], Iterator[Outcome]]]:
    """What locates in queries: this process, ``jobs`` of them, or the workers of the Dask scheduler at an address.

    Raises InputError if Dask is not installed or its scheduler does not answer.
    """
    if jobs == 1 and scheduler is None:
        yield lambda queries: locate_here(job, queries)
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError("--jobs and --scheduler need Dask. Install it: pip install 'rprloc[cluster]'.") from error
    if scheduler is None:
        with (
            LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield lambda queries: locate_on(client, job, queries)
        return
    try:
        client = Client(scheduler, timeout=20)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No Dask scheduler answers at {scheduler} ({error}). Give its address as in tcp://host:8786. Start it "
            "with 'dask scheduler', and its workers with 'dask worker ADDRESS --nthreads 1'."
        ) from error
    with client:
        yield lambda queries: locate_on(client, job, queries)


def read_manifest(path: Path) -> list[Query]:
    """The queries of a CSV file with the column ``path`` and, if wanted, ``name`` and ``series``.

    Relative paths start at the manifest's folder. Raises InputError if it is not such a file, or if two results would
    have one name.
    """
    from rprloc.io.formats import scan_name

    wanted = "A manifest is a CSV file with the column path and, if wanted, name and series."
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The manifest {path} cannot be read ({error}). {wanted} Correct it.") from error
    unknown = set(columns) - {"path", "name", "series"}
    if "path" not in columns or unknown or any(None in row for row in rows):
        raise InputError(f"The manifest {path} has the columns {', '.join(columns) or 'none'}. {wanted} Correct it.")
    queries = []
    for number, row in enumerate(rows, 2):
        given, name = (row["path"] or "").strip(), (row.get("name") or "").strip()
        parts = PurePosixPath(name).parts
        name_is_bad = "\\" in name or name.startswith("/") or any(part.startswith(".") for part in parts)
        name_is_bad = name_is_bad or not is_plain(name) or name in (".", "./")
        if not given or "\0" in given or name_is_bad:
            raise InputError(
                f"Line {number} of {path} has the path {given!r} and the name {name!r}. Give every scan a path, "
                "and only names that stay inside the results' folder."
            )
        scan = path.parent / given
        name = str(PurePosixPath(name)) if name else scan_name(scan)  # a//b is a/b
        queries.append(Query(scan, name, (row.get("series") or "").strip() or None))
    if not queries:
        raise InputError(f"The manifest {path} lists no scan. {wanted} List at least one scan.")
    require_distinct_names(queries)
    return queries


def mark_new_scans(job: Job, queries: Sequence[Query]) -> list[Query]:
    """The queries; marked as new are those under whose name an earlier run located another scan, by its journals."""
    last = located_scans(job.out)
    return [
        replace(query, is_new=query.name in last and last[query.name] != _identity(job, query)) for query in queries
    ]


def located_scans(out: Path) -> dict[str, tuple[str, str]]:
    """By the names of their results, the scans that were located into a folder last, as the journals there tell.

    Of each the path from the folder, and its series, "" if none was named. Only a manifest's runs keep journals.
    """
    last: dict[str, tuple[str, str, str]] = {}
    for journal in sorted((out / JOURNALS).glob("*.csv")):
        try:
            with journal.open(newline="", encoding="utf-8", errors="replace") as file:
                for row in csv.DictReader(file):
                    if row.get("outcome") == "located" and row.get("series") is not None:
                        last[row["name"]] = max(last.get(row["name"], ("", "", "")), _scan_of(row))
        except (csv.Error, OSError, KeyError) as error:  # a computer that goes down may damage it
            _log.warning("%s cannot be read (%s), so it does not tell which scans were located.", journal, error)
    return {name: (path, series) for name, (_, path, series) in last.items()}


def _scan_of(row: Mapping[str, str]) -> tuple[str, str, str]:
    """When a line of the journal was written, and of which scan it is."""
    return row["finished"], row["path"], row["series"]


def _identity(job: Job, query: Query) -> tuple[str, str]:
    """What tells a scan from another: its path from the results' folder, as both may move together, and its series."""
    path = query.path.resolve()
    with suppress(ValueError):  # on another drive
        path = Path(os.path.relpath(path, job.out.resolve()))
    return readable(path.as_posix()), query.series or ""


def require_distinct_names(queries: Iterable[Query]) -> None:
    """Raise InputError if the results of two queries would be called the same."""
    first: dict[str, Path] = {}
    for query in queries:
        if not query.name:
            continue  # fails by itself
        # Some file systems do not tell capitals from small letters.
        other = first.setdefault(query.name.casefold(), query.path)
        if other is not query.path:
            raise InputError(
                f"The results of {other} and {query.path} would both be called {query.name}, and one would "
                "overwrite the other. Run them into different folders, or name them in a manifest."
            )


def locate_here(job: Job, queries: Sequence[Query]) -> Iterator[Outcome]:
    """Locate in the queries, one after another; up to two more are read in the meantime."""
    localizer, support_set = _localizer(job.weights, job.device), job.support_set
    organs = list(job.organs or support_set.targets)
    localizer.check(support_set, organs)
    ahead: list[tuple[Query, Outcome | Future[tuple[Scan, float]]]] = []
    with ThreadPoolExecutor(max_workers=_READ_AHEAD, thread_name_prefix="reading") as readers:
        waiting = iter(queries)
        while True:
            for query in islice(waiting, _READ_AHEAD - len(ahead) + 1):
                known = _known_outcome(job, query, organs, localizer.model_id) if job.keep_record else None
                ahead.append((query, known or readers.submit(_read, job, query)))
            if not ahead:
                return
            query, reading = ahead.pop(0)
            outcome = reading if isinstance(reading, Outcome) else _locate_one(job, localizer, query, reading)
            del reading  # and with it the scan
            yield outcome


def _read(job: Job, query: Query) -> tuple[Scan, float]:
    """The scan, called like the query, and how many seconds it took to read."""
    from rprloc import read_scan

    job.files_of(query).require_possible(query.path)
    started = time.perf_counter()
    scan = read_scan(query.path, series_uid=query.series)
    return scan.renamed(query.name), time.perf_counter() - started


def _locate_one(job: Job, localizer: Localizer, query: Query, reading: Future[tuple[Scan, float]]) -> Outcome:
    """Locate in one query whose scan is being read, and write its files."""
    from rprloc import write_results

    seconds = dict.fromkeys(("read", "locate", "write"), 0.0)
    detections, error = None, None
    try:
        scan, seconds["read"] = reading.result()
        started = time.perf_counter()
        detections = localizer.locate(scan, job.support_set, job.organs)
        seconds["locate"], started = time.perf_counter() - started, time.perf_counter()
        files = job.files_of(query)
        files.detections.parent.mkdir(parents=True, exist_ok=True)
        write_results(
            job.out,
            scan,
            detections,
            name=query.name,
            picture=job.picture,
            label_map=job.label_map,
            prompts=job.prompts,
            crop_margin_mm=job.crop_margin_mm,
            dicom=job.dicom,
        )
        files.failure.unlink(missing_ok=True)
        seconds["write"] = time.perf_counter() - started
    except FAILURES as reason:
        _log.info("%s failed here:", query.path, exc_info=True)
        detections, error = None, describe_failure(reason, query.path)
        if query.is_new:
            with _going_on(query, "that the results are of another scan"):
                job.files_of(query).delete()
    if job.keep_record:
        if error is not None:
            _record_failure(job, query, error)
        _note(job, query, "failed" if error else "located", seconds)
    return Outcome(query, error, found=detections)


def locate_on(client: Client, job: Job, queries: Sequence[Query]) -> Iterator[Outcome]:
    """Locate in the queries on the workers of a Dask cluster, in whatever order they end.

    What a worker that dies was at is done by another one. A scan with which workers die again and again, at last while
    nothing else is run, is a failure.
    """
    from distributed import KilledWorker, as_completed

    workers = max(1, len(client.nthreads()))
    size = max(1, min(32, len(queries) // (4 * _BATCHES_A_WORKER * workers)))
    batches = (list(queries[start : start + size]) for start in range(0, len(queries), size))
    given: dict[Any, list[Query]] = {}

    def submit(batch: list[Query]) -> Any:
        future = client.submit(_locate_batch, job, batch, pure=False)
        given[future.key] = batch
        return future

    running = as_completed([submit(batch) for batch in islice(batches, _BATCHES_A_WORKER * workers)])
    suspects: list[Query] = []
    for future in running:
        batch = given.pop(future.key)
        running.update([submit(following) for following in islice(batches, 1)])
        try:
            outcomes = future.result()
        except KilledWorker:  # by one of them, or by what ran beside them
            if len(batch) > 1:
                running.update([submit([query]) for query in batch])
            else:
                suspects += batch
            continue
        future.release()
        yield from outcomes
    for query in suspects:
        try:
            yield from submit([query]).result()
        except KilledWorker:
            error = f"The workers that read {query.path} died, as if memory ran out. Locate in this scan by itself."
            _record_failure(job, query, error)
            yield Outcome(query, error)


def _locate_batch(job: Job, queries: Sequence[Query]) -> list[Outcome]:
    """On a worker: the outcomes, without the detections, which are in the files."""
    return [Outcome(outcome.query, outcome.error, outcome.skipped) for outcome in locate_here(job, queries)]


@functools.lru_cache(maxsize=1)
def _localizer(weights: Path | None, device: str) -> Localizer:
    from rprloc import Localizer

    return Localizer.load(weights, device)


def _known_outcome(job: Job, query: Query, organs: list[str], model_id: str) -> Outcome | None:
    """The outcome of a query that is done already, or that has failed in this very run."""
    failure = job.files_of(query).failure
    if not query.is_new and _is_done(job, query, organs, model_id):
        with _going_on(query, "that it is done"):
            failure.unlink(missing_ok=True)  # of a run that looked for something else
        return Outcome(query, skipped=True)
    error = read_failure(failure, job.run)
    return None if error is None else Outcome(query, error)


def _is_done(job: Job, query: Query, organs: list[str], model_id: str) -> bool:
    """Whether all files of a query are there, made with this support set and these weights, of these targets."""
    from rprloc.io.crops import are_cut
    from rprloc.io.slices import END

    files = job.files_of(query)
    try:
        record = parse_json(files.detections.read_text(encoding="utf-8"))
        named = [organ["organ"] for organ in record["organs"]]
        located = [organ["organ"] for organ in record["organs"] if "box" in organ]
        landmarks = record.get("landmarks", [])
        points = [landmark["landmark"] for landmark in landmarks if "ras_mm" in landmark]
        sought = [*named, *(landmark["landmark"] for landmark in landmarks)]
        made_with = (record["support_id"], record["model_id"], sorted(sought))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    complete = all(path.exists() for path in job.wanted_files(query, boxes=bool(located), points=bool(points)))
    if complete and job.picture:
        files_of = name_files(sought)
        complete = all((files.slices / f"{files_of[name]}{END}").is_file() for name in (*located, *points))
    if complete and job.crop_margin_mm is not None:
        complete = are_cut(files.crops, named, located, job.crop_margin_mm)
    return complete and made_with == (job.support_set.identity, model_id, sorted(organs))


def _record_failure(job: Job, query: Query, error: str) -> None:
    path = job.files_of(query).failure
    with _going_on(query, "why it failed"):
        if query.name:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_failure(path, query.name, error, job.run)


@contextmanager
def _going_on(query: Query, what: str) -> Iterator[None]:
    """Only a warning if something cannot be written down: a full disk must not stop the other queries."""
    try:
        yield
    except (OSError, ValueError) as error:
        _log.warning("%s: %s could not be written down (%s).", readable(str(query.path)), what, describe_failure(error))


def _note(job: Job, query: Query, outcome: str, seconds: dict[str, float]) -> None:
    """A line in this process's journal; lines are appended whole."""
    with _going_on(query, "the line in the journal"):
        _append(job, query, outcome, seconds)


def _append(job: Job, query: Query, outcome: str, seconds: dict[str, float]) -> None:
    folder = job.out / JOURNALS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{socket.gethostname()}-{os.getpid()}.csv"
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(_JOURNAL_COLUMNS)
        taken = (f"{seconds[part]:.3f}" for part in ("read", "locate", "write"))
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        writer.writerow([query.name, outcome, _bytes_of(query.path), *taken, now, *_identity(job, query)])


def _bytes_of(path: Path) -> int:
    files = (Path(root, name) for root, _, names in os.walk(path) for name in names)
    states = [status_of(file) for file in (files if is_folder(path) else [path])]
    return sum(state.st_size for state in states if state is not None)
