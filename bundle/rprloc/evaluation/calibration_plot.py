"""The plot of a calibration: expected and true errors, probabilities and shares, and absence at every threshold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rprloc.evaluation.calibration import Judged, bin_by_expected
from rprloc.evaluation.observations import State
from rprloc.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = dict[tuple[str, str], NDArray[np.float64]]
"""By region and shots: the mean expected and true error in each share of the pairs, (shares, 2)."""


def save_plot(path: Path, title: str, judged: Sequence[Judged], curves: Curves) -> None:
    """Draw all three side by side. Raises InputError if the file cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 4.2), layout="constrained")
    errors, presence, roc = figure.subplots(1, 3)
    single = [one for one in judged if one.seen.tells_presence]
    _draw_errors(errors, curves)
    _draw_probabilities(presence, single)
    _draw_absence(roc, single)
    figure.suptitle(title, fontsize=11)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90, metadata={"Software": None})


def _draw_errors(axes: Axes, curves: Curves) -> None:
    limit = 1.1 * max((float(shares.max()) for shares in curves.values()), default=10.0)
    line = np.array([0.0, limit])
    axes.fill_between(line, line / 1.2, line / 0.8, color="0.9", label="expected within 20 %")
    axes.plot(line, line, color="0.6", lw=1)
    for (region, shots), shares in curves.items():
        axes.plot(*shares.T, "o-" if shots == "one" else "s--", ms=4, lw=1, label=f"{region}, {shots}")
    axes.set(xlabel="expected wall error, mm", ylabel="true wall error, mm", xlim=(0, limit), ylim=(0, limit))
    axes.set_title("Deciles of the expected error")
    axes.legend(fontsize=8)


def _draw_probabilities(axes: Axes, judged: Sequence[Judged]) -> None:
    axes.plot([0, 1], [0, 1], color="0.6", lw=1)
    said = {
        State.ABSENT: [one.presence.absent for one in judged],
        State.PART: [one.presence.part for one in judged],
        State.WHOLE: [one.presence.whole for one in judged],
    }
    for state, chances in said.items():
        shares = bin_by_expected(chances, [one.seen.state is state for one in judged])
        axes.plot(*shares.T, "o-", ms=4, lw=1, label=state.value)
    axes.set(xlabel="probability said", ylabel="share that is so", title="Probabilities")
    axes.legend(fontsize=8)


def _draw_absence(axes: Axes, judged: Sequence[Judged]) -> None:
    from sklearn.metrics import roc_curve

    for region in dict.fromkeys(one.seen.region for one in judged):
        some = [one for one in judged if one.seen.region == region]
        absent = [one.seen.state is State.ABSENT for one in some]
        if len(set(absent)) == 2:
            false, hits, _ = roc_curve(absent, [one.presence.absent for one in some])
            axes.plot(false, hits, lw=1, label=region)
    axes.set(xlabel="present organs called absent", ylabel="absent organs called so")
    axes.set_title("Absence, examples of all regions")
    axes.legend(fontsize=8)
