"""How the report names regions, targets and rows, and writes numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scripts.benchmark.paper import TITLES
from scripts.benchmark.scoring import Result

PRODUCT, PAPER, FLOOR = "rprloc", "rpr-paper", "mean-box"
ALL_ORGANS = "all-organs"
OTHER = "-other"
"""Ends the name of a region's pairs whose queries are training cases."""
_REGIONS = {"han": "head and neck", "abdomen": "abdomen", ALL_ORGANS: "all organs of one query"}


def name_region(region: str) -> str:
    name = region.removesuffix(OTHER)
    return _REGIONS.get(name, name) + (", other scans" if name != region else "")


def name_target(target: str) -> str:
    return TITLES.get(target, target)


def format_percent(share: float) -> str:
    return f"{100 * share:.1f}"


def format_interval(ends: tuple[float, float], digits: int = 0) -> str:
    if math.isinf(ends[1]):
        return "of one query there is no interval"
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def format_scores(iou: float, awd_mm: float) -> str:
    return f"{format_percent(iou)}, {awd_mm:.2f}"


def find_row(results: Sequence[Result], region: str, name: str) -> Result | None:
    """The result of a row in a region, if it is there."""
    return next((result for result in results if result.region == region and result.row.name == name), None)


def list_rivals(results: Sequence[Result], region: str) -> list[Result]:
    """The other one-shot rows of table 3 in a region."""
    return [
        result
        for result in results
        if result.region == region
        and result.row.table == 3
        and result.row.shots == "one"
        and result.row.name != PRODUCT
    ]
