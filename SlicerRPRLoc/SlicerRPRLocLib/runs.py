"""A run: requests that the child answers one after another, and what is told of them meanwhile and in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rprloc import InputError

Event = dict[str, Any]
"""What the child tells, an object of JSON; ``rprloc/apps/serve.py`` describes them."""

Answer = dict[str, Any]
"""The result of a request."""


@dataclass(frozen=True)
class Update:
    """How far a run is: ``fraction`` 0 to 1, new lines of the log. ``summary`` is set when it has ended."""

    fraction: float
    message: str
    log: tuple[str, ...] = ()
    summary: str | None = None
    failed: bool = False


@dataclass(frozen=True)
class Step:
    """One request: what it is about, and what takes its answer. If a ``vital`` one fails, the run does."""

    name: str
    take: Callable[[Answer], None]
    vital: bool


@dataclass
class Run:
    """Requests under way, by their ids; ``finish`` does what is left when all are answered, and tells of it."""

    finish: Callable[[], str]
    pending: dict[int, Step] = field(default_factory=dict)
    total: int = 0
    message: str = "Starting"
    fraction: float = 0.0
    remarks: list[str] = field(default_factory=list)

    def expect(self, number: int, step: Step) -> None:
        """Wait for the answer to a request, too."""
        self.pending[number] = step
        self.total += 1

    def take(self, event: Event) -> list[str]:
        """Take an event of the child; returns lines for the log. Raises InputError if the run cannot go on."""
        kind, message = event.get("event"), str(event.get("message", ""))
        if kind == "log":
            if event.get("level") in ("warning", "error") and message not in self.remarks:
                self.remarks.append(message)
            return [message]
        if kind == "ended" or (kind == "error" and event.get("id") is None):
            raise InputError(message)
        step = self.pending.get(event.get("id", 0))
        if step is None:
            return []
        answered = self.total - len(self.pending)
        if kind == "progress":
            self.fraction = (answered + float(event["fraction"])) / self.total
            self.message = f"{step.name}: {message}"
        elif kind in ("result", "error"):
            del self.pending[event["id"]]
            self.fraction = (answered + 1) / self.total
            try:
                if kind == "error":
                    raise InputError(message)
                step.take(event["result"])
            except (InputError, OSError) as error:
                sentence = f"{step.name}: {error}"
                if step.vital:
                    raise InputError(sentence) from error
                self.remarks.append(sentence)
                return [sentence]
        return []

    def under_way(self, log: Sequence[str]) -> Update:
        return Update(self.fraction, self.message, tuple(log))

    def done(self, summary: str, log: Sequence[str]) -> Update:
        return Update(1.0, "Done", tuple(log), " ".join([summary, *self.remarks]))

    def failed(self, message: str, log: Sequence[str]) -> Update:
        return Update(self.fraction, "Failed", tuple(log), " ".join([message, *self.remarks]), failed=True)
