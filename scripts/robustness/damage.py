"""What all kinds of damage share."""

from __future__ import annotations

import random

Content = dict[str, bytes]
"""The files of a case by their names."""


def cut(data: bytes, rng: random.Random) -> bytes:
    """Some of the beginning, by all sizes alike on a logarithmic scale."""
    return data[: int(len(data) ** rng.uniform(0.0, 0.999)) - 1]
