"""The one exception for input that the user can put right."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used. The message is one sentence: what was wrong, what was expected, what to do."""
