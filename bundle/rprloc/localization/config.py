"""Every constant of localization that was chosen by experiment, in one place.

The numbers E1, E2, ... are those of ``docs/experiments.md``. What has none was set once and never varied.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LocalizationConfig:
    """How organs are learned and located. The defaults are those of the program; others are for experiments.

    The calibration of expected errors holds for the defaults alone.
    """

    # The fine match: each agent looks around for its latent, then all agents correct each other.
    window_places: int = 2  # of the fine lattice to either side, 16 mm (E17)
    window_prior_mm: float = 12.0  # E15, E17
    fine_position_mm: float = 30.0  # E15
    match_temperature: float = 0.08  # E9, E15, E30
    fine_steps: tuple[tuple[float, float], ...] = ((80.0, 15.0), (50.0, 12.0))
    """For each step: how far agents support each other, and the residual in mm beyond which a match counts little (E9,
    E17, E30)."""
    least_confidence: float = 0.05
    ridge_mm2: float = 100.0
    fine_share: float = 0.5
    """Of the way to where the fine steps lead: they and registration are wrong in different ways (E16)."""

    # The dense match: every place around an organ looks for its descriptor among the example's (E40).
    surroundings_mm: float = 32.0  # how far around an organ
    dense_window_cells: int = 3  # of 8 mm, to either side
    dense_prior_mm: float = 12.0
    displacement_smoothing_mm: float = 24.0
    displacement_further: float = 1.5  # a mean over a window around the registered place falls short
    displacement_votes: float = 20.0  # so many independent displacements are in such a mean
    seen_weight: float = 0.5  # of the share that places show by what they look like, against the example's shape
    seen_power: float = 4.0  # less for organs that fill no cell of 8 mm: this power of their largest share of one

    robust_rounds: int = 4  # of the fine match and of several examples

    # Several examples (E37).
    least_spread_mm: float = 0.5  # added to the votes' spread before examples are weighed by it
    far_support_mm: float = 30.0  # a point that lies further from the others counts little

    # Where anchors of an example lie: its six points and a lattice over its box and a margin (E15).
    context_margin_mm: float = 15.0
    context_side: int = 5

    # Anchors around a landmark (E46).
    landmark_margin_mm: float = 16.0
    landmark_side: int = 3

    # The organ's own voxels: each is judged by the example's shape, grey values and descriptors (E19 to E21).
    follow_outline: bool = True
    """Whether a wall moves out to where the example's outline reaches (E18)."""
    follow_voxels: bool = True
    """Whether walls follow the organ's own voxels (E19)."""
    prior_smoothing_mm: float = 8.0  # how far registration may be wrong (E21)
    margin_mm: float = 30.0
    rounds: int = 4  # E19
    from_support: float = 0.5  # of the statistics in every round; the rest is the query's own
    grey_weight: float = 0.5  # E20, E21
    descriptor_weight: float = 0.3  # E20, E21
    neighbours_weight: float = 1.0  # E20, E30
    prior_floor: float = 0.002
    descriptor_noise: float = 0.006  # the variance of a descriptor's channel between patients at one place (E21)
    soft_share: tuple[float, float] = (0.3, 0.7)  # soft, so that little changes move the walls little (E20)
    least_voxels: float = 10.0
    tail: float = 0.005  # the share of the organ left outside of each wall
    displaced_mm: float = 15.0  # of the priors that are put in wrong places in the example (E19)
    wall_weight_power: float = 0.5  # judged walls are worth more than such priors tell, since places are matched (E40)
    far_mm: float = 25.0  # a judged wall that lies further from the registered one has found something else (E20)
    outline_directions: int = 100  # E18


DEFAULT = LocalizationConfig()
"""What the program uses."""
