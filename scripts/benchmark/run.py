"""All methods on the same pairs of scans, and the report.

    python -m scripts.benchmark.run DATASETS.json [MORE.json]

Trains what is not trained yet, predicts what is not predicted yet, scores everything, and writes the report. What was
done stays in the folder of the runs, so a run that was interrupted goes on where it was. ``--again rprloc`` makes the
predictions of a method again; those of ``rprloc`` are made again by themselves when its weights or code have changed.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import SimpleITK as sitk
import torch

from rprloc.errors import InputError
from rprloc.io.dataset import read_dataset
from scripts.benchmark.circumstances import describe_machine
from scripts.benchmark.paper import order_of
from scripts.benchmark.predictions import Pair, choose_other_pairs, choose_pairs, path_of, predict, require_current
from scripts.benchmark.registry import METHODS, SUPERVISED, Method, Setting, load_methods
from scripts.benchmark.report import write_report
from scripts.benchmark.scoring import Result, score_rows, write_records
from scripts.benchmark.wording import ALL_ORGANS, OTHER, PRODUCT

TARGETS = {"han": ("brainstem", "mandible", "parotid_left", "parotid_right"), "abdomen": ("pancreas",)}
"""The targets of the paper's tables."""

STAGES = ("train", "predict", "report")

_TIMED_PAIRS = 3

_log = logging.getLogger("benchmark")


def run(
    setting: Setting,
    pairs: Mapping[str, int],
    docs: Path,
    *,
    other_pairs: Mapping[str, int] | None = None,
    all_organs: str | None = None,
    threads: Sequence[int] = (),
    only: Sequence[str] = (),
    again: Sequence[str] = (),
    folders: Sequence[Path] = (METHODS,),
    stages: Sequence[str] = STAGES,
) -> None:
    """Run the benchmark on so many ``pairs`` of each region; see the module. ``only``: names of methods that run.

    ``other_pairs``: of a region so many pairs whose queries are training cases, without the supervised methods.
    ``all_organs``: a region in whose first pair all organs are sought, too, to tell how long that takes.
    ``threads``: the first pairs of each region are located again with so many threads, for the times alone. With as
    many as the predictions have, these times stand for theirs, which may have been taken beside other work.
    The report holds every row of every method in ``folders`` that has its predictions.
    """
    setting.folder.mkdir(parents=True, exist_ok=True)
    methods: list[Method] = [make(setting) for make in load_methods(*folders).values()]
    known = [method.name for method in methods]
    unknown = [name for name in (*only, *again) if name not in known]
    if unknown:
        raise InputError(f"There is no method {', '.join(unknown)}. Name one of {', '.join(known)}.")
    chosen = {region: choose_pairs(setting, region, count) for region, count in pairs.items()}
    timings = [] if all_organs is None else [_plan_all_organs(setting, chosen, all_organs)]
    for count in threads:
        folder = setting.folder / f"{count}-threads"
        timings += [_Timing(region, setting, some[:_TIMED_PAIRS], folder, count) for region, some in chosen.items()]
    for region, count in (other_pairs or {}).items():
        chosen[region + OTHER] = choose_other_pairs(setting, region, count)
    for method in methods:
        if not only or method.name in only:
            _run_method(method, chosen, timings, stages, again=method.name in again)
    if "report" in stages:
        _report(methods, setting, chosen, timings, docs)


@dataclass(frozen=True)
class _Timing:
    """Pairs that are located for the time alone: of a region, with the targets of a setting and so many threads."""

    region: str
    setting: Setting
    pairs: Sequence[Pair]
    folder: Path
    threads: int | None = None


def _plan_all_organs(setting: Setting, chosen: Mapping[str, Sequence[Pair]], region: str) -> _Timing:
    """The region's first pair with all organs as targets that both of its scans show wholly."""
    if region not in chosen:
        raise InputError(
            f"All organs of {region} cannot be timed, because it has no pairs. Name one of {', '.join(chosen)}."
        )
    pair = chosen[region][0]
    shown = [set(case.targets) for case in setting.cases if case.name in (pair.support, pair.query)]
    organs = [organ for case in setting.cases if case.name == pair.query for organ in case.targets]
    targets = tuple(organ for organ in organs if all(organ in names for names in shown))
    return _Timing(ALL_ORGANS, replace(setting, targets={region: targets}), [pair], setting.folder / ALL_ORGANS)


def _run_method(
    method: Method,
    chosen: Mapping[str, Sequence[Pair]],
    timings: Sequence[_Timing],
    stages: Sequence[str],
    *,
    again: bool,
) -> None:
    """Train a method and let it predict. ``again``: without the predictions that it made before."""
    jobs = _list_jobs(method, chosen, timings)
    for _, _, pairs, home, _ in jobs if again else ():
        for row in method.rows:
            shutil.rmtree(path_of(home, row.name, pairs[0]).parent, ignore_errors=True)
    if "train" in stages:
        for region in dict.fromkeys(pairs[0].region for pairs in chosen.values()):
            method.train(region)
    if "predict" in stages:
        for name, predictor, pairs, home, threads in jobs:
            with _threads(threads):
                count = predict(predictor, pairs[0].region, pairs, home)
            _log.info("%s, %s: %d predictions made.", method.name, name, count)


def _list_jobs(
    method: Method, chosen: Mapping[str, Sequence[Pair]], timings: Sequence[_Timing]
) -> list[tuple[str, Method, Sequence[Pair], Path, int | None]]:
    """What a method predicts: the region's name, the method, the pairs, the folder, and the threads if they are set."""
    folder = method.setting.folder
    supervised = any(row.given == SUPERVISED for row in method.rows)
    return [
        (name, method, pairs, folder, None) for name, pairs in chosen.items() if not (supervised and OTHER in name)
    ] + [
        (timing.region, type(method)(timing.setting), timing.pairs, timing.folder, timing.threads)
        for timing in timings
        if not (supervised and timing.region == ALL_ORGANS)
    ]


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many threads for torch and SimpleITK; None leaves them as they are."""
    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        if count is not None:
            torch.set_num_threads(count)
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)
        yield
    finally:
        torch.set_num_threads(before[0])
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[1])


def _report(
    methods: Sequence[Method],
    setting: Setting,
    chosen: Mapping[str, Sequence[Pair]],
    timings: Sequence[_Timing],
    docs: Path,
) -> None:
    """Score what was predicted, and write results.json and the report into ``docs``."""
    for method in methods:
        for _, predictor, pairs, folder, _ in _list_jobs(method, chosen, timings):
            require_current(predictor, pairs[0].region, pairs, folder)
    rows = [row for method in methods for row in method.rows]
    rows.sort(key=lambda row: (row.table, not row.name.startswith(PRODUCT), order_of(row.table, row.paper)))
    results = [
        result
        for region, pairs in chosen.items()
        for result in score_rows(setting, rows, region, pairs, setting.folder)
    ]
    timed: dict[tuple[str, int | None], list[Result]] = {}
    for timing in timings:
        timed[timing.region, timing.threads] = score_rows(
            timing.setting, rows, timing.region, timing.pairs, timing.folder
        )
    alone = {
        (region, result.row.name): result
        for region in chosen
        for result in timed.pop((region, torch.get_num_threads()), ())
    }
    untimed = [
        result.row.name
        for result in results
        if (result.region, result.row.name) not in alone and any(region == result.region for region, _ in alone)
    ]
    if untimed:
        _log.warning("Rows that were not timed again and keep their first times: %s.", ", ".join(untimed))
    results = [result.timed_as(alone.get((result.region, result.row.name), result)) for result in results]
    docs.mkdir(parents=True, exist_ok=True)
    everything = [result for result in timed.get((ALL_ORGANS, None), ()) if result.row.table == 3]
    write_records([*results, *everything], docs / "results.json")
    write_report(results, timed, chosen, methods, setting, docs)
    scored_rows = {result.row.name for result in results}
    missing = [row.name for row in rows if row.name not in scored_rows]
    if missing:
        _log.warning("Rows without all predictions, which are not in the report: %s.", ", ".join(missing))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="the datasets.json, and more with scans to learn from")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/benchmark"), help="weights and predictions (%(default)s)"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs/benchmark"), help="folder of the report (%(default)s)")
    parser.add_argument("--pairs", type=int, default=85, help="pairs of an example and a query in han (%(default)s)")
    parser.add_argument("--abdomen-pairs", type=int, default=20, help="the same in the abdomen (%(default)s)")
    parser.add_argument(
        "--other-pairs", type=int, default=0, help="in the abdomen, with training cases as queries (%(default)s)"
    )
    parser.add_argument("--all-organs", metavar="REGION", help="time all organs of one query of this region, too")
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="run only these; the report shows all")
    parser.add_argument("--again", nargs="+", default=[], metavar="METHOD", help="repeat the predictions of these")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES, help="%(default)s")
    parser.add_argument(
        "--budget", type=float, default=1.0, help="factor on every method's time to train (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads of every method (%(default)s)")
    parser.add_argument(
        "--time-threads", type=int, nargs="+", default=[], metavar="N", help="time some pairs anew with N threads"
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(given.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(given.threads)
    if given.threads == 1 and os.environ.get("OMP_NUM_THREADS") != "1":
        _log.warning("Set OMP_NUM_THREADS=1, so that numerical libraries keep to one thread, too.")
    _log.info("%s", describe_machine())
    try:
        cases = tuple(case for path in given.data for case in read_dataset(path))
        setting = Setting(cases, given.runs, TARGETS, given.budget, given.seed)
        pairs = {region: count for region, count in (("han", given.pairs), ("abdomen", given.abdomen_pairs)) if count}
        run(
            setting,
            pairs,
            given.docs,
            other_pairs={"abdomen": given.other_pairs} if given.other_pairs else {},
            all_organs=given.all_organs,
            threads=given.time_threads,
            only=given.only,
            again=given.again,
            stages=given.stages,
        )
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
