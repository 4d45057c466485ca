"""What is refused, and with which message."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rprloc.errors import InputError


def refusal(call: Callable[[], object], *about: str) -> str:
    """The message of the InputError: a line of sentences, the fault and what to do, with every text of ``about``."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and ". " in message
    for text in about:
        assert text in message
    return message
