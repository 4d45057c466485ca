"""Fit what detections say of their own errors: calibrate_trust.py DATASETS.json [--test] [--fields FOLDER].

Annotated scans that constants may be chosen on (val, support cases, by the other supports, and some training cases,
which were trained on without their labels) are looked at as they are and cut, along the body and sideways, so that
organs are whole, cut or absent by their label maps; and mirrored, upside down, back to front and with the contrast of
MR. What was seen and what was true are fitted (rprloc/trust.py), checked by leaving out each scan in turn, and each
organ in turn, and written to bundle/rprloc/trust.json. With --test, test cases are looked at instead, and the shipped
trust.json is measured on them; nothing is fitted. Tables and plots go to docs/trust/. --fields keeps the position
fields in a folder, for the next time with the same weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import pickle
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label
from scipy.stats import rankdata
from tqdm import tqdm

from rprloc.errors import InputError
from rprloc.evaluation.evaluate import annotated
from rprloc.files import atomic_path, write_text_atomically
from rprloc.geometry import Box
from rprloc.io.annotations import read_label_map
from rprloc.io.dataset import Case, read_dataset
from rprloc.io.plausibility import image_warnings
from rprloc.io.reading import read_volume
from rprloc.localization import confidence as trust
from rprloc.localization.confidence import Calibration, Evidence, Linear, ScanEvidence, Seen
from rprloc.localization.localizer import Engine
from rprloc.localization.locate import observed
from rprloc.localization.support import Support, SupportSet
from rprloc.model.field import PositionField
from rprloc.volume import Volume

CROPS = {"han": 3, "thorax": 5, "abdomen": 5}  # of each scan; more where there are few scans
LEAST_MM, MOST_SHARE = 100.0, 0.85  # of the scan that a crop leaves along the body
CONTOURS_STOP = {("han", "spinal_cord"), ("han", "esophagus")}  # their ends are not anatomy
ELSEWHERE = {  # organs of a region that scans of another region surely do not show
    ("han", "abdomen"): ("brainstem", "mandible", "parotid_left", "parotid_right", "larynx"),
    ("han", "thorax"): ("brainstem", "mandible", "parotid_left", "parotid_right"),
    ("abdomen", "han"): (
        *("kidney_right", "kidney_left", "gallbladder", "inferior_vena_cava", "portal_and_splenic_vein"),
        *("pancreas", "adrenal_gland_right", "adrenal_gland_left"),
    ),
}
WHOLE, PART, ABSENT = 0, 1, 2
QUERIES = 48  # of each region: training cases, whose labels training never sees, join the others
CHANGED = 8  # scans of each region, about, of which the following are made
CHANGES = ("mirrored", "upside down", "back to front", "like MR", "like MR, darkest at -1000")


@dataclasses.dataclass(frozen=True)
class View:
    """A scan as it is looked at: its position field, the warnings that its values alone give, and by organ the share of
    it that the scan shows.
    """

    case: Case
    kind: str
    field: PositionField
    warnings: list[str]
    shares: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Observation:
    """What one support, or all, saw of an organ in a view, and the truth. ``awd_mm`` is NaN where it is not known."""

    region: str
    query: str
    kind: str
    support: str
    organ: str
    evidence: Evidence
    state: int
    awd_mm: float


def crops(volume: Volume, labels: NDArray[np.integer], count: int) -> Iterator[tuple[str, Volume, NDArray[np.integer]]]:
    """Parts of a scan and its labels, drawn by the scan's name: along the body, the last one sideways, too."""
    generator = np.random.default_rng(zlib.crc32(volume.name.encode()))
    bounds = volume.grid.bounds
    for number in range(count):
        low, length = bounds.min_ras[2], bounds.size_mm[2]
        kept = generator.uniform(min(LEAST_MM, 0.6 * length), MOST_SHARE * length)
        start = generator.choice([0.0, length - kept, generator.uniform(0.0, length - kept)])
        part = _between(volume, labels, 2, low + start, low + start + kept)
        kind = "cut along"
        if number == count - 1:
            axis = int(generator.integers(2))
            low, high = bounds.min_ras[axis], bounds.max_ras[axis]
            kept = generator.uniform(0.35, 0.65) * (high - low)
            part = _between(*part, axis, *((low, low + kept) if generator.integers(2) else (high - kept, high)))
            kind = "cut sideways"
        yield kind, *part


def _between(
    volume: Volume, labels: NDArray[np.integer], axis: int, low_mm: float, high_mm: float
) -> tuple[Volume, NDArray[np.integer]]:
    """The part of a scan whose voxels' centres lie between two places along a RAS axis."""
    grid = volume.grid
    own = int(np.argmax(np.abs(grid.ras_from_ijk[axis, :3])))
    ijk = np.zeros((grid.shape[own], 3))
    ijk[:, own] = np.arange(grid.shape[own])
    along_mm = grid.ras(ijk)[:, axis]
    inside = np.flatnonzero((along_mm >= low_mm) & (along_mm <= high_mm))
    first, shape = [0, 0, 0], list(grid.shape)
    first[own], shape[own] = int(inside[0]), len(inside)
    box = tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))
    return Volume(np.ascontiguousarray(volume.hu[box]), grid.cropped(first, shape), volume.name), labels[box]


def changed(volume: Volume) -> Iterator[tuple[str, Volume]]:
    """A scan in which everything is there, but wrong."""
    for kind, axis in zip(CHANGES[:3], (0, 2, 1), strict=True):
        own = int(np.argmax(np.abs(volume.grid.ras_from_ijk[axis, :3])))
        yield kind, Volume(np.ascontiguousarray(np.flip(volume.hu, own)), volume.grid, volume.name)
    yield CHANGES[3], like_mr(volume)
    yield CHANGES[4], Volume(like_mr(volume).hu * 1.2 - 1000.0, volume.grid, volume.name)


def like_mr(volume: Volume) -> Volume:
    """Intensities from 0 to about 900 with the order of T1-weighted MR: fat bright, fluid dark, air and bone black."""
    hu = [-1024, -900, -300, -120, -60, -10, 30, 60, 100, 200, 400, 1500]
    signal = [0, 5, 40, 700, 900, 500, 350, 420, 520, 350, 120, 30]
    noise = np.random.default_rng(0).normal(0.0, 12.0, volume.hu.shape)
    return Volume((np.interp(volume.hu, hu, signal) + np.abs(noise)).astype(np.float32), volume.grid, volume.name)


def has_specks(mask: NDArray[np.bool_]) -> bool:
    """Whether pieces of a mask (I, J, K) lie beyond the box of its largest one, so that its box is not the organ's."""
    pieces, _ = label(mask, np.ones((3, 3, 3)))
    boxes = find_objects(pieces)
    largest = boxes[int(np.argmax(np.bincount(pieces.ravel())[1:]))]
    reach = [(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3)]
    return any(abs(a - one.start) > 1 or abs(b - one.stop) > 1 for (a, b), one in zip(reach, largest, strict=True))


def views(engine: Engine, case: Case, folder: Path | None, *, change: bool) -> list[View]:
    """All views of a case, those of CHANGES only if asked for; ``folder`` keeps their position fields."""
    kept = None if folder is None else folder / f"{engine.model.identity()}-{case.name}.pickle"
    if kept is not None and kept.is_file():
        with kept.open("rb") as file:
            return [View(case, *rest) for rest in pickle.load(file)]
    volume = dataclasses.replace(read_volume(case.image_path), name=case.name)
    labels = read_label_map(case.labels_path, volume.grid)
    masks = {name: labels == number for number, name in case.label_names.items() if name in case.targets}
    whole = {name: np.count_nonzero(mask) for name, mask in masks.items() if not has_specks(mask)}
    wanted = [("whole", volume, labels), *crops(volume, labels, CROPS.get(case.region, 3))]
    found = []
    for kind, scan, part in wanted:
        seen = {name: np.count_nonzero(part == number) for number, name in case.label_names.items()}
        shares = {name: seen[name] / number for name, number in whole.items()}
        found.append((kind, engine.position_field(scan), image_warnings(scan), shares))
    for kind, scan in changed(volume) if change else ():
        try:
            found.append((kind, engine.position_field(scan), image_warnings(scan), {}))
        except InputError as error:  # no body
            print(f"{case.name}, {kind}: {error}")
    if kept is not None:
        with atomic_path(kept) as temporary:
            temporary.write_bytes(pickle.dumps(found))
    return [View(case, *rest) for rest in found]


def observations(case_views: Sequence[View], supports: Sequence[Support], regions: dict[str, str]) -> list[Observation]:
    """What every support, and all of the region together, see in the views of one case."""
    found = []
    for view in case_views:
        case = view.case
        if view.kind in CHANGES:
            continue
        seen = Seen.of(view.field)
        _, truth, _ = annotated(case)
        own = [support for support in supports if regions[support.scan] == case.region and support.scan != case.name]
        sets = [(support.scan, (support,)) for support in own]
        if view.kind == "whole":
            sets.append(("all", tuple(own)))
        for name, members in sets:
            organs = [organ for organ in SupportSet("", members).organs if organ in truth.keys() & view.shares.keys()]
            for one, evidence in observed(SupportSet("", members), seen, organs) if organs else ():
                share = view.shares[one.organ]
                state = WHOLE if share == 1.0 else ABSENT if share == 0.0 else PART
                walls_mm = np.abs(one.box.walls_mm - Box.from_extreme_points(truth[one.organ]).walls_mm)
                found.append(
                    Observation(
                        case.region, case.name, view.kind, name, one.organ, evidence, state, float(walls_mm.mean())
                    )
                )
        if view.kind != "whole":
            continue
        for support in supports[::2]:  # of other regions: every other one will do
            elsewhere = ELSEWHERE.get((regions[support.scan], case.region), ())
            organs = [organ for organ in support.organs if organ in elsewhere]
            for one, evidence in observed(SupportSet("", (support,)), seen, organs) if organs else ():
                found.append(
                    Observation(
                        case.region, case.name, "other region", support.scan, one.organ, evidence, ABSENT, np.nan
                    )
                )
    return found


Fit = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def expected_mean(x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients of log-linear means by gamma regression, x (N, 1 + P) with ones first, and a ridge."""

    def slopes(mean_log: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return (y - np.exp(mean_log)) / np.exp(mean_log), np.ones(len(y))

    start = np.log(np.average(y, weights=weight))
    return _newton(x, weight, slopes, start, RIDGE_OF_ERRORS)


def probability(x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients of log odds by logistic regression, x (N, 1 + P) with ones first, and a ridge."""

    def slopes(odds: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        chance = 1.0 / (1.0 + np.exp(-odds))
        return y - chance, chance * (1.0 - chance) + 1e-9

    return _newton(x, weight, slopes, 0.0, RIDGE_OF_ODDS)


RIDGE_OF_ERRORS, RIDGE_OF_ODDS = 100.0, 1.0  # observations' worth, on standardized evidence


def _newton(
    x: NDArray[np.float64],
    weight: NDArray[np.float64],
    slopes: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]],
    start: float,
    ridge: float,
) -> NDArray[np.float64]:
    found = np.zeros(x.shape[1])
    found[0] = start
    penalty = np.diag([0.0] + [ridge] * (x.shape[1] - 1))
    for _ in range(60):
        slope, bend = slopes(x @ found)
        step = np.linalg.solve((x * (weight * bend)[:, None]).T @ x + penalty, x.T @ (weight * slope) - penalty @ found)
        found += step * min(1.0, 1.0 / np.abs(step).max())
    return found


def linear(regression: Fit, rows: Sequence[dict[str, float]], names: Sequence[str], y: Any, weight: Any) -> Linear:
    """What a fit finds for this evidence, in the evidence's own units."""
    values = np.array([[row[name] for name in names] for row in rows], float)
    middle, scale = values.mean(0), values.std(0) + 1e-6
    x = np.concatenate([np.ones((len(values), 1)), (values - middle) / scale], axis=1)
    found = regression(x, np.asarray(y, float), np.asarray(weight, float))
    weights = found[1:] / scale
    return Linear(float(found[0] - weights @ middle), dict(zip(names, weights.tolist(), strict=True)))


def fitted(model_id: str, seen: Sequence[Observation], least: tuple[float, float]) -> Calibration:
    """The calibration that these observations give; regions count alike."""
    whole = [one for one in seen if counts_for_errors(one)]
    rows = [dataclasses.asdict(one.evidence) for one in whole]
    error = linear(expected_mean, rows, trust.ERROR_EVIDENCE, [one.awd_mm for one in whole], _weights(whole))
    known = [one for one in seen if one.support != "all" and (one.region, one.organ) not in CONTOURS_STOP]
    nothing = Linear(0.0, {})
    partial = Calibration(model_id, error, nothing, nothing, *least)
    rows = [trust.presence_evidence(one.evidence, partial.expected_mm(one.evidence)) for one in known]
    absent = linear(probability, rows, ("seen",), [one.state == ABSENT for one in known], _weights(known))
    there = [n for n, one in enumerate(known) if one.state != ABSENT]
    known, rows = [known[n] for n in there], [rows[n] for n in there]
    inside = linear(probability, rows, ("inside",), [one.state == WHOLE for one in known], _weights(known))
    return dataclasses.replace(partial, absent=absent, whole=inside)


def counts_for_errors(one: Observation) -> bool:
    return one.state == WHOLE and (one.region, one.organ) not in CONTOURS_STOP


def _weights(seen: Sequence[Observation]) -> NDArray[np.float64]:
    count = Counter(one.region for one in seen)
    weight = np.array([1.0 / count[one.region] for one in seen])
    return weight * len(weight) / weight.sum()


def thresholds(looked_at: Sequence[tuple[str, ScanEvidence]]) -> tuple[float, float]:
    """The least likeness and the least sidedness of a scan that is not doubted.

    The likeness that all but a hundredth of ordinary scans exceed, be they cut along the body (half a body may rightly
    be doubted); and halfway from that hundredth of the sidedness to the most one-sided of mirrored scans.
    """
    ordinary = [scan for kind, scan in looked_at if kind in ("whole", "cut along")]
    sided = [scan.sidedness for scan in ordinary if scan.sidedness is not None]
    mirrored = [scan.sidedness for kind, scan in looked_at if kind == CHANGES[0] and scan.sidedness is not None]
    lowest = float(np.quantile(sided, 0.01))
    return (
        float(np.quantile([scan.likeness for scan in ordinary], 0.01)),
        min(lowest, 0.5 * (lowest + max(mirrored, default=lowest))),
    )


@dataclasses.dataclass(frozen=True)
class Judged:
    """An observation and what a calibration says of it: expected error, and probabilities of WHOLE, PART and ABSENT."""

    seen: Observation
    expected_mm: float
    chances: tuple[float, float, float]


def judged(calibration: Calibration, seen: Sequence[Observation]) -> list[Judged]:
    found = []
    for one in seen:
        expected_mm = calibration.expected_mm(one.evidence)
        presence = calibration.presence(one.evidence, expected_mm)
        found.append(Judged(one, expected_mm, (presence.whole, presence.part, presence.absent)))
    return found


def cross_validated(
    model_id: str, seen: Sequence[Observation], group: Callable[[Observation], str], least: tuple[float, float]
) -> list[Judged]:
    """Every observation as judged by what was fitted without its group."""
    found = []
    for name in sorted({group(one) for one in seen}):
        calibration = fitted(model_id, [one for one in seen if group(one) != name], least)
        found += judged(calibration, [one for one in seen if group(one) == name])
    return found


def auroc(score: Sequence[float], positive: Sequence[bool]) -> float:
    truth, ranks = np.array(positive, bool), rankdata(score)
    ones, zeros = int(truth.sum()), int((~truth).sum())
    if not ones or not zeros:
        return float("nan")
    return float((ranks[truth].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def bins(expected: Sequence[float], true: Sequence[float], count: int = 10) -> NDArray[np.float64]:
    """The mean of both in each of ``count`` equal shares of the observations, by what was expected: (count, 2)."""
    pairs = np.array(sorted(zip(expected, true, strict=True)))
    return np.array([part.mean(0) for part in np.array_split(pairs, min(count, len(pairs)))])


MANY = 200  # pairs; of fewer, fifths in place of deciles are compared
REGIONS = ("han", "thorax", "abdomen")


def report(title: str, plot: Path, found: Sequence[Judged]) -> str:
    """Tables as Markdown, and a plot."""
    lines = [f"## {title}", "", f"![{title}]({plot.name})", ""]
    columns = (
        "region, examples",
        "pairs",
        "expected mm",
        "true mm",
        "largest difference",
        "deciles or fifths, mm each",
    )
    lines.append(f"| {' | '.join(columns)} |")
    lines += ["|---|---|---|---|---|---|"]
    curves = {}
    for region in REGIONS:
        for shots in ("one", "all"):
            pairs = [
                (one.expected_mm, one.seen.awd_mm)
                for one in found
                if one.seen.region == region
                and counts_for_errors(one.seen)
                and (one.seen.support == "all") == (shots == "all")
            ]
            if len(pairs) < 30:
                continue
            expected, true = zip(*pairs, strict=True)
            deciles = bins(expected, true, 10 if len(pairs) >= MANY else 5)
            worst = np.abs(deciles[:, 0] / deciles[:, 1] - 1.0).max()
            both = ", ".join(f"{a:.1f}/{b:.1f}" for a, b in deciles)
            lines.append(
                f"| {region}, {shots} | {len(pairs)} | {np.mean(expected):.1f} | {np.mean(true):.1f} "
                f"| {100 * worst:.0f} % | {both} |"
            )
            curves[region, shots] = deciles
    single = [
        one for one in found if one.seen.support != "all" and (one.seen.region, one.seen.organ) not in CONTOURS_STOP
    ]
    lines += [
        "",
        "| organs | whole, cut, absent | AUROC absent | AUROC cut | whole organs called absent | absent called so |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    groups: list[tuple[str, Callable[[Observation], bool]]] = [
        *(
            (region, lambda one, region=region: one.region == region and one.kind != "other region")
            for region in REGIONS
        ),
        ("all regions, with their own examples", lambda one: one.kind != "other region"),
        *(
            (f"{region}, with those of all regions", lambda one, region=region: one.region == region)
            for region in REGIONS
        ),
        ("all regions, with those of all regions", lambda one: True),
    ]
    for group, belongs in groups:
        some = [one for one in single if belongs(one.seen)]
        states = [one.seen.state for one in some]
        there = [one for one in some if one.seen.state != ABSENT]
        absent = auroc([one.chances[ABSENT] for one in some], [state == ABSENT for state in states])
        cut = auroc(
            [one.chances[PART] / (1e-9 + one.chances[PART] + one.chances[WHOLE]) for one in there],
            [one.seen.state == PART for one in there],
        )
        called = [
            np.mean([one.chances[ABSENT] > 0.5 for one in some if one.seen.state == state]) for state in (WHOLE, ABSENT)
        ]
        counts = ", ".join(str(states.count(state)) for state in (WHOLE, PART, ABSENT))
        lines.append(
            f"| {group} | {counts} | {absent:.3f} | {cut:.3f} | {100 * called[0]:.1f} % | {100 * called[1]:.1f} % |"
        )
    lines += [""]
    _plot(plot, title, curves, single)
    return "\n".join(lines)


SAID = {
    "upside down": "upside down",
    "mirrored": "mirrored",
    "hardly looks like": "hardly like a body",
    "does not look like CT": "values unlike CT",
}
"""A part of each warning, and the column in which scans that get it are counted."""


def checks(looked_at: Sequence[tuple[str, str, Sequence[str]]]) -> str:
    """How many scans of each region and kind are doubted, as Markdown; ``looked_at`` has the doubts on each."""
    lines = [f"| scans | number | {' | '.join(SAID.values())} | any |", "|---" * (len(SAID) + 3) + "|"]
    told: dict[tuple[str, str], list[list[bool]]] = {}
    for region, kind, doubts in looked_at:
        told.setdefault((region, kind), []).append([any(part in doubt for doubt in doubts) for part in SAID])
    for (region, kind), each in told.items():
        counts = [*np.array(each).sum(0), np.array(each).any(1).sum()]
        lines.append(f"| {region}, {kind} | {len(each)} | {' | '.join(str(int(count)) for count in counts)} |")
    return "\n".join([*lines, ""])


def _plot(path: Path, title: str, curves: dict[tuple[str, str], NDArray[np.float64]], single: Sequence[Judged]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 4.2), layout="constrained")
    errors, presence, roc = figure.subplots(1, 3)
    limit = 1.1 * max(float(one.max()) for one in curves.values())
    line = np.array([0.0, limit])
    errors.fill_between(line, line / 1.2, line / 0.8, color="0.9", label="expected within 20 %")
    errors.plot(line, line, color="0.6", lw=1)
    for (region, shots), deciles in curves.items():
        errors.plot(*deciles.T, "o-" if shots == "one" else "s--", ms=4, lw=1, label=f"{region}, {shots}")
    errors.set(xlabel="expected wall error, mm", ylabel="true wall error, mm", xlim=(0, limit), ylim=(0, limit))
    errors.set_title("Deciles of the expected error")
    errors.legend(fontsize=8)
    presence.plot([0, 1], [0, 1], color="0.6", lw=1)
    for state, name in ((ABSENT, "absent"), (PART, "cut"), (WHOLE, "whole")):
        chances = [one.chances[state] for one in single]
        presence.plot(*bins(chances, [one.seen.state == state for one in single]).T, "o-", ms=4, lw=1, label=name)
    presence.set(xlabel="probability said", ylabel="share that is so", title="Probabilities")
    presence.legend(fontsize=8)
    for region in REGIONS:
        some = [one for one in single if one.seen.region == region]
        order = np.argsort([-one.chances[ABSENT] for one in some])
        truth = np.array([one.seen.state == ABSENT for one in some])[order]
        if truth.any() and not truth.all():
            hits, false = np.cumsum(truth) / truth.sum(), np.cumsum(~truth) / (~truth).sum()
            roc.plot(false, hits, lw=1, label=region)
    roc.set(xlabel="present organs called absent", ylabel="absent organs called so")
    roc.set_title("Absence, examples of all regions")
    roc.legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90, metadata={"Software": None})


@dataclasses.dataclass(frozen=True)
class LookedAt:
    """The observations on all organs, and of every view its region, its kind, the warnings that its values alone give,
    and the evidence on the scan.
    """

    seen: list[Observation]
    scans: list[tuple[str, str, list[str], ScanEvidence]]


def look(engine: Engine, cases: Sequence[Case], test: bool, folder: Path | None) -> LookedAt:
    """Look at the support and val cases and some training cases, or at the test cases."""
    regions = {case.name: case.region for case in cases}
    examples = [case for case in cases if case.split == "support"]
    supports = [_support(engine, case) for case in tqdm(examples, desc="examples", unit="scan")]
    splits = ("test",) if test else ("support", "val")
    queries = [case for split in splits for case in cases if case.split == split]
    for region in () if test else dict.fromkeys(regions.values()):
        known = sum(case.region == region for case in queries)
        training = [case for case in cases if case.region == region and case.split == "train" and case.targets]
        wanted = min(len(training), max(0, QUERIES - known))
        queries += [training[n * len(training) // wanted] for n in range(wanted)]
    found = LookedAt([], [])
    for case in tqdm(queries, desc="queries", unit="scan"):
        of_region = [one.name for one in queries if one.region == case.region]
        change = of_region.index(case.name) % max(1, len(of_region) // CHANGED) == 0
        looked_at = views(engine, case, folder, change=change)
        found.seen.extend(observations(looked_at, supports, regions))
        for view in looked_at:
            found.scans.append((case.region, view.kind, view.warnings, Seen.of(view.field).as_a_whole()))
    return found


def fit(model_id: str, found: LookedAt, out: Path) -> None:
    """Write the shipped calibration, and what it is worth on scans and organs that it was fitted without."""
    least = thresholds([(kind, scan) for _, kind, _, scan in found.scans])
    calibration = fitted(model_id, found.seen, least)
    write_text_atomically(SHIPPED, calibration.to_json())
    by_scan = cross_validated(model_id, found.seen, lambda one: one.query, least)
    by_organ = cross_validated(model_id, found.seen, lambda one: one.organ, least)
    tables = [
        report("Each scan judged without itself", out / "by_scan.png", by_scan),
        report("Each organ judged without itself", out / "by_organ.png", by_organ),
    ]
    _write(out / "tuning.md", calibration, tables, found)


def measure(calibration: Calibration, found: LookedAt, out: Path) -> None:
    """Write what a calibration is worth on scans that had no part in it."""
    _write(
        out / "test.md", calibration, [report("Test cases", out / "test.png", judged(calibration, found.seen))], found
    )


def _write(path: Path, calibration: Calibration, tables: Sequence[str], found: LookedAt) -> None:
    doubts = [(region, kind, [*said, *calibration.doubts(scan, ())]) for region, kind, said, scan in found.scans]
    intro = f"Written by `scripts/calibrate_trust.py`, model {calibration.model_id}."
    text = "\n".join([intro, "", *tables, "## Scans that are doubted", "", checks(doubts)])
    write_text_atomically(path, text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="datasets.json")
    parser.add_argument("--test", action="store_true", help="measure the shipped calibration on the test cases")
    parser.add_argument("--fields", type=Path, help="a folder that keeps position fields for the next time")
    parser.add_argument("--out", type=Path, default=Path("docs/trust"), help="where tables and plots go")
    given = parser.parse_args()
    engine, cases = Engine.load(None, "cpu"), read_dataset(given.data)
    for folder in (given.fields, given.out):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    calibration = trust.calibration_for(engine.model.identity())
    if given.test and calibration is None:
        raise SystemExit("The shipped trust.json was fitted for other weights; run this without --test first.")
    found = look(engine, cases, given.test, given.fields)
    if given.test and calibration is not None:
        measure(calibration, found, given.out)
    else:
        fit(engine.model.identity(), found, given.out)


def _support(engine: Engine, case: Case) -> Support:
    volume, points, masks = annotated(case)
    return engine.support_set(volume, points, scan=case.name, source="label map", masks=masks).supports[0]


SHIPPED = Path(__file__).resolve().parents[1] / "bundle" / "rprloc" / "trust.json"


if __name__ == "__main__":
    main()
