"""Words of sentences that several parts say."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what it counts: ``1 scan``, ``2 scans``; ``many`` where an s does not make it."""
    return f"{number} {one if number == 1 else many or one + 's'}"
