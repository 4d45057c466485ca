"""The paper's own figures (Lei et al., MICCAI 2021, Tables 1, 2 and 3): shown beside ours, never mixed with them.

IoU in per cent and AWD in mm of every target, on the paper's scans: 38 head-and-neck and 21 pancreas test cases.
"""

from __future__ import annotations

TITLES = {
    "brainstem": "Brain stem",
    "mandible": "Mandible",
    "parotid_left": "L Parotid",
    "parotid_right": "R Parotid",
    "mean": "Mean",
    "pancreas": "Pancreas",
}
"""The columns of the paper's tables."""

_TARGETS = tuple(TITLES)

_ROWS: dict[int, dict[str, tuple[tuple[float, float], ...]]] = {
    1: {
        "diagonal K=1": ((44.5, 7.06), (32.3, 15.29), (36.5, 9.94), (35.7, 9.66), (37.2, 10.49), (43.3, 14.51)),
        "extreme K=1": ((45.9, 6.61), (62.2, 8.04), (38.6, 9.61), (37.5, 9.09), (46.1, 8.34), (44.4, 13.85)),
        "extreme K=5": ((49.4, 5.63), (62.7, 7.52), (41.8, 8.66), (36.8, 9.13), (47.7, 7.73), (47.2, 12.78)),
        "extreme K=10": ((50.8, 5.34), (63.2, 7.40), (42.4, 8.73), (38.4, 8.88), (48.7, 7.59), (45.2, 13.53)),
        "extreme K=15": ((50.7, 5.34), (63.7, 7.28), (43.1, 8.48), (38.8, 8.79), (49.1, 7.48), (46.0, 13.19)),
        "extreme K=20": ((51.9, 5.16), (63.3, 7.45), (42.6, 8.57), (37.4, 9.03), (48.8, 7.55), (48.1, 12.42)),
    },
    2: {
        "M_c one step": ((50.7, 5.34), (63.7, 7.28), (43.1, 8.48), (38.8, 8.79), (49.1, 7.48), (48.1, 12.42)),
        "M_c two steps": ((51.4, 5.30), (68.0, 6.03), (45.0, 8.23), (38.7, 8.89), (50.7, 7.11), (46.7, 13.46)),
        "M_c three steps": ((50.5, 5.52), (68.7, 5.79), (45.3, 8.30), (38.9, 8.81), (50.9, 7.10), (46.0, 13.76)),
        "M_c + M_f": ((61.5, 3.70), (70.0, 5.39), (44.8, 7.74), (44.2, 7.65), (55.1, 6.12), (49.5, 12.22)),
    },
    3: {
        "Ours": ((61.5, 3.70), (70.0, 5.39), (44.8, 7.74), (44.2, 7.65), (55.1, 6.12), (49.5, 12.22)),
        "GS MSE": ((39.3, 7.47), (65.7, 7.20), (39.8, 10.67), (37.1, 10.67), (45.5, 9.00), (1.8, 90.23)),
        "GS Cosine": ((35.2, 7.83), (67.4, 7.10), (36.9, 11.07), (36.7, 10.30), (44.1, 9.08), (2.7, 118.14)),
        "GS NCC": ((46.9, 7.35), (58.9, 9.76), (24.3, 18.78), (23.9, 20.14), (38.5, 14.01), (3.5, 101.77)),
        "FM MSE": ((44.7, 6.52), (67.7, 6.88), (39.2, 10.43), (40.6, 8.79), (48.1, 8.16), (7.9, 120.36)),
        "FM Cosine": ((50.2, 5.91), (69.1, 5.53), (44.7, 7.97), (44.6, 8.22), (52.2, 7.92), (19.2, 56.27)),
        "Retina U-Net": ((68.9, 3.54), (75.1, 6.17), (60.5, 5.83), (63.9, 4.75), (67.1, 5.07), (81.0, 3.23)),
    },
}

SECONDS_PER_ORGAN = {
    "Ours": 0.15,
    "GS MSE": 1052.0,
    "GS Cosine": 1421.0,
    "GS NCC": 4547.0,
    "FM MSE": 26586.0,
    "FM Cosine": 25976.0,
    "Retina U-Net": 4.7,
}
"""Table 3; the Pnets on a GTX 1080 Ti."""


def order_of(table: int, row: str | None) -> int:
    """The place of a row in the paper's table; rows that it does not have come last."""
    known = list(_ROWS[table])
    return known.index(row) if row in known else len(known)


def look_up_figures(table: int, row: str | None) -> dict[str, tuple[float, float]]:
    """Of every target (IoU in per cent, AWD in mm); empty for rows that the paper does not have."""
    return dict(zip(_TARGETS, _ROWS[table].get(row or "", ()), strict=False))
