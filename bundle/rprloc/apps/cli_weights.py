"""Commands for people with weights or annotated scans of their own: train, evaluate, calibrate."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from rprloc.apps.options import Device, Model, Verbose, Where
from rprloc.files import require_folder

Data = Annotated[Path, typer.Option(metavar="datasets.json", help="The annotated cases.")]
About = Annotated[
    Path | None, typer.Option(metavar="FILE.json", help="More about the regions than datasets.json holds.")
]


class Shots(str, Enum):
    """Which supports locate together."""

    one = "one"
    all = "all"
    both = "both"


class Split(str, Enum):
    """Which cases are queries."""

    train = "train"
    val = "val"
    support = "support"
    test = "test"


class TrainedOn(str, Enum):
    """The modality of scans to train on."""

    ct = "ct"
    mr = "mr"
    both = "ct+mr"


def train(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the weights, checkpoints and logs.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="datasets.json", help="The cases: split train to train on, split val to measure on."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Or a folder of unlabelled scans. Every 20th is kept to measure on."),
    ] = None,
    modality: Annotated[
        TrainedOn | None,
        typer.Option(
            case_sensitive=False,
            help="What the scans are; ct+mr: of both, found by each other. By default as --init, else ct.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint in the folder.")] = False,
    init: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Weights to start from, as in --model of the others.")
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="config.json",
            help="The recipe. --resume takes the one in the run's folder by default.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all randomness.")] = None,
    coarse_steps: Annotated[int | None, typer.Option(min=0, help="Optimizer steps of the coarse net.")] = None,
    fine_steps: Annotated[int | None, typer.Option(min=0, help="Optimizer steps of the fine net.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=1e-6, max=1.0, help="Highest learning rate of the schedule.")
    ] = None,
    group_power: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="A region of n scans weighs n to this power; 0 weighs all alike."),
    ] = None,
    device: Where = Device.auto,
    verbose: Verbose = False,
) -> None:  # long for its options alone
    """Train both networks on unlabelled scans."""
    from rprloc.model.device import choose_device
    from rprloc.model.network import load_model
    from rprloc.training.prepare import prepare_run
    from rprloc.training.training import estimate
    from rprloc.training.training import train as train_model

    require_folder(out)
    target = choose_device(device.value)
    changes = {
        "seed": seed,
        "coarse_steps": coarse_steps,
        "fine_steps": fine_steps,
        "learning_rate": learning_rate,
        "group_power": group_power,
        "modality": None if modality is None else modality.value.upper(),
    }
    start = None if init is None else load_model(init)
    run = prepare_run(out, data=data, images=images, recipe=config_file, changes=changes, init=start, resume=resume)
    minutes, gigabytes = estimate(run.scans, run.config, target)
    typer.echo(f"Training on {len(run.scans)} scans: about {minutes:.0f} minutes and {gigabytes:.0f} GB of memory.")
    net = train_model(run.scans, out, run.config, device=target, validation=run.validation, resume=resume, init=start)
    typer.echo(f"{out / 'model.pt'}: model {net.identity()} for {net.modality}")


def evaluate(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results, made if missing.")],
    region: Annotated[
        list[str] | None, typer.Option(help="Only this region; may be repeated. By default all of the dataset.")
    ] = None,
    split: Annotated[Split, typer.Option(help="The queries; supports are the cases of split support.")] = Split.test,
    shots: Annotated[
        Shots, typer.Option(help="one: every support alone; all: all together; both: one after the other.")
    ] = Shots.both,
    support_set: Annotated[
        str | None,
        typer.Option(
            "--set", metavar="SET", help="A support set, or a ready-made one such as @head-neck, as examples."
        ),
    ] = None,
    about: About = None,
    model: Model = None,
    device: Where = Device.auto,
    verbose: Verbose = False,
) -> None:
    """Measure the accuracy on annotated cases: JSON and CSV for each region, and a table in Markdown."""
    from rprloc import InputError, Localizer, SupportSet
    from rprloc.evaluation.evaluate import evaluate as evaluate_region
    from rprloc.evaluation.evaluate import require_organs
    from rprloc.evaluation.scores import SHOTS, save_evaluation
    from rprloc.evaluation.table import accuracy_table, landmark_table
    from rprloc.io.dataset import read_dataset, read_regions

    require_folder(out)
    regions, cases = read_regions(data, about), read_dataset(data)
    localizer = Localizer.load(model, device.value)
    examples = None if support_set is None else SupportSet.load(support_set)
    require_organs(examples)
    wanted = SHOTS if shots is Shots.both else (shots.value,)
    pairs = []
    chosen = region or _with_supports(cases, examples, split.value)
    if not chosen:
        raise InputError(
            "There is nothing to measure: no case of this split shows an organ of the examples, or no case is of split "
            "support. Check the datasets.json, or give other examples with --set."
        )
    for name in chosen:
        results = []
        for several in wanted:
            result = evaluate_region(localizer, cases, name, split.value, several, regions.get(name), examples)
            out.mkdir(parents=True, exist_ok=True)
            save_evaluation(result, out)
            typer.echo(result.to_table() + "\n")
            results.append(result)
        if len(results) == 2:
            pairs.append((results[0], results[1]))
    if pairs:
        typer.echo(accuracy_table(pairs))
        landmarks = landmark_table(pairs)
        if landmarks:
            typer.echo("\n" + landmarks)


def calibrate(
    data: Data,
    model: Model = None,
    test: Annotated[
        bool, typer.Option("--test", help="Only measure the present calibration, on the test cases.")
    ] = False,
    report: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for tables and plots.")] = None,
    fields: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder that keeps position fields for the next run.")
    ] = None,
    about: About = None,
    device: Where = Device.auto,
    verbose: Verbose = False,
) -> None:
    """Fit expected errors and probabilities for weights, on annotated cases, and write trust.json beside the weights.

    Calibration uses the labels of val and support cases and of some training cases. No network is trained on them.
    """
    from rprloc import InputError, Localizer
    from rprloc.evaluation.calibration import fit_calibration, require_scikit_learn
    from rprloc.evaluation.calibration_report import report_test, report_tuning
    from rprloc.evaluation.observations import observe_cases
    from rprloc.files import require_writable, write_text_atomically
    from rprloc.io.dataset import read_dataset, read_regions
    from rprloc.model.device import choose_device
    from rprloc.model.network import load_model
    from rprloc.model.shipped import CALIBRATION_FILE, find_weights

    require_scikit_learn()
    weights = find_weights(model)
    out = weights.with_name(CALIBRATION_FILE)
    for folder in (report, fields):
        if folder is not None:
            require_folder(folder)
    regions, cases = read_regions(data, about), read_dataset(data)
    if test:
        localizer = Localizer.load(weights, device.value)
        if localizer.calibration is None:
            raise InputError(f"{weights} is not calibrated. Run 'rprloc calibrate' without --test first.")
        seen = observe_cases(localizer, cases, regions, test=True, folder=fields)
        typer.echo(report_test(localizer.calibration, seen, report))
        return
    # What lies beside the weights is replaced, whatever it is, so it is not read.
    localizer = Localizer.of(load_model(weights, choose_device(device.value)), fall_back=device is Device.auto)
    require_writable(out)
    seen = observe_cases(localizer, cases, regions, folder=fields)
    calibration = fit_calibration(localizer.model_id, seen)
    write_text_atomically(out, calibration.to_json())
    typer.echo(report_tuning(calibration, seen, report))
    typer.echo(f"{out}: calibration of model {calibration.model_id}, fitted to {len(seen.organs)} observations")


def _with_supports(cases: list[Any], examples: Any, split: str) -> list[str]:
    """The regions that can be evaluated: those with a support case, or, of ``examples``, with a query that shows one of
    their organs.
    """
    if examples is None:
        return list(dict.fromkeys(case.region for case in cases if case.split == "support"))
    known = set(examples.targets)
    return list(dict.fromkeys(case.region for case in cases if case.split == split and known & set(case.targets)))
