#!/usr/bin/env python3
"""All methods on the same pairs of scans, and the report: scripts/benchmark/run.py DATASETS.json.

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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk
import torch

from circumstances import machine
from paper import order_of
from predictions import Pair, chosen_pairs, path_of, predict
from registry import METHODS, SUPERVISED, Method, Setting, load_methods
from report import ALL_ORGANS, PRODUCT, write_report
from rprloc.errors import InputError
from rprloc.evaluation.scores import MEAN_TARGETS
from rprloc.io.dataset import read_dataset
from scoring import scored, write_records

TARGETS = {"han": MEAN_TARGETS["han"], "abdomen": ("pancreas",)}
"""The targets of the paper's tables."""

STAGES = ("train", "predict", "report")

_log = logging.getLogger("benchmark")


def run(
    setting: Setting,
    pairs: dict[str, int],
    docs: Path,
    *,
    all_organs: str | None = None,
    only: Sequence[str] = (),
    again: Sequence[str] = (),
    folders: Sequence[Path] = (METHODS,),
    stages: Sequence[str] = STAGES,
) -> None:
    """Run the benchmark on so many ``pairs`` of each region; see the module. ``only``: names of methods that run.
    ``all_organs``: a region in whose first pair all organs are sought, too, to tell how long that takes.

    The report holds every row of every method in ``folders`` that has its predictions.
    """
    setting.folder.mkdir(parents=True, exist_ok=True)
    methods: list[Method] = [make(setting) for make in load_methods(*folders).values()]
    known = [method.name for method in methods]
    unknown = [name for name in (*only, *again) if name not in known]
    if unknown:
        raise InputError(
            f"There is no method {', '.join(unknown)}; one of {', '.join(known)} was expected; name one of these."
        )
    chosen = {region: chosen_pairs(setting, region, count) for region, count in pairs.items()}
    if all_organs is not None and all_organs not in chosen:
        raise InputError(
            f"All organs of {all_organs} cannot be timed: one of {', '.join(chosen)}, which have pairs, was expected; "
            "name one of these."
        )
    whole = None if all_organs is None else _with_all_organs(setting, chosen[all_organs][0])
    for method in methods:
        if only and method.name not in only:
            continue
        for region in chosen:
            if method.name in again:
                for row in method.rows:
                    for folder in (setting.folder, setting.folder / ALL_ORGANS):
                        shutil.rmtree(path_of(folder, row.name, chosen[region][0]).parent, ignore_errors=True)
            if "train" in stages:
                method.train(region)
            if "predict" in stages:
                made = predict(method, region, chosen[region], setting.folder)
                _log.info("%s, %s: %d predictions made.", method.name, region, made)
        if whole is not None and "predict" in stages and all(row.given != SUPERVISED for row in method.rows):
            made = predict(type(method)(whole), all_organs, chosen[all_organs][:1], whole.folder / ALL_ORGANS)
            _log.info("%s, all organs of %s: %d predictions made.", method.name, all_organs, made)
    if "report" not in stages:
        return
    rows = [row for method in methods for row in method.rows]
    rows.sort(key=lambda row: (row.table, not row.name.startswith(PRODUCT), order_of(row.table, row.paper)))
    results = [one for region in chosen for one in scored(setting, rows, region, chosen[region], setting.folder)]
    everything = []
    if whole is not None:
        found = scored(whole, rows, all_organs, chosen[all_organs][:1], whole.folder / ALL_ORGANS)
        everything = [replace(one, region=ALL_ORGANS) for one in found if one.row.table == 3]
    docs.mkdir(parents=True, exist_ok=True)
    write_records([*results, *everything], docs / "results.json")
    budgets = {method.name: {region: method.budget(region) for region in chosen} for method in methods}
    cautions = {region: {method.name: method.caution(region) for method in methods} for region in chosen}
    write_report(results, everything, chosen, budgets, cautions, setting, docs)
    missing = [row.name for row in rows if row.name not in {one.row.name for one in results}]
    if missing:
        _log.warning("Rows without all predictions, which are not in the report: %s.", ", ".join(missing))


def _with_all_organs(setting: Setting, pair: Pair) -> Setting:
    """The setting with all organs as targets that both scans of a pair show wholly."""
    shown = [set(case.targets) for case in setting.cases if case.name in (pair.support, pair.query)]
    organs = [organ for case in setting.cases if case.name == pair.query for organ in case.targets]
    return replace(
        setting, targets={pair.region: tuple(organ for organ in organs if all(organ in one for one in shown))}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the datasets.json")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/benchmark"), help="weights and predictions (%(default)s)"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs/benchmark"), help="where the report goes (%(default)s)")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of an example and a query in han (%(default)s)")
    parser.add_argument("--abdomen-pairs", type=int, default=5, help="the same in the abdomen (%(default)s)")
    parser.add_argument("--all-organs", metavar="REGION", help="time all organs of one query of this region, too")
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="run these alone; all are reported")
    parser.add_argument("--again", nargs="+", default=[], metavar="METHOD", help="predict anew with these")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES, help="%(default)s")
    parser.add_argument(
        "--budget", type=float, default=1.0, help="factor on every method's time to train (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads of every method (%(default)s)")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(given.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(given.threads)
    if given.threads == 1 and os.environ.get("OMP_NUM_THREADS") != "1":
        _log.warning("Set OMP_NUM_THREADS=1, so that numerical libraries keep to one thread, too.")
    _log.info("%s", machine())
    try:
        setting = Setting(tuple(read_dataset(given.data)), given.runs, TARGETS, given.budget, given.seed)
        pairs = {region: count for region, count in (("han", given.pairs), ("abdomen", given.abdomen_pairs)) if count}
        run(
            setting,
            pairs,
            given.docs,
            all_organs=given.all_organs,
            only=given.only,
            again=given.again,
            stages=given.stages,
        )
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
