"""A run: steps that are handed to the child one after another, and what is told of them meanwhile and in the end.

One request is under way and one waits for its turn, so that the child is never idle; nothing is prepared before that.
What others build on is answered before they are handed over.
A step that goes wrong is told, and the others go on, also when it has brought the child to its end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rprloc import InputError

Event = dict[str, Any]
"""What the child tells, an object of JSON; ``rprloc/apps/serve.py`` describes them."""

Answer = dict[str, Any]
"""The result of a request."""

Request = tuple[str, dict[str, object]]
"""A command and its options."""

Preparation = Generator[None, None, Request]
"""Does a piece of what must be done before a request at each step, and gives the request in the end."""

_AHEAD = 2
_DEATHS = 2  # of the child, one after another without an answer between: then it is not the scans' fault


@dataclass(frozen=True)
class Update:
    """How far a run is: ``fraction`` 0 to 1, new lines of the log. ``summary`` is set when it has ended.

    ``news``: whether an answer has changed the scene or the files since the last one.
    """

    fraction: float
    message: str
    log: tuple[str, ...] = ()
    summary: str | None = None
    failed: bool = False
    news: bool = False


@dataclass(frozen=True)
class Step:
    """One request: what it is about, what prepares it, what takes its answer. If a ``vital`` one fails, the run does.

    ``other_way`` gives the step by which it may be tried again after an error of the child, if there is one.
    """

    name: str
    prepare: Callable[[], Preparation]
    take: Callable[[Answer], None]
    vital: bool
    other_way: Callable[[], Step | None] = lambda: None


def at_once(command: str, **options: object) -> Callable[[], Preparation]:
    """The preparation of a request that needs none."""

    def prepare() -> Preparation:
        yield from ()
        return command, options

    return prepare


@dataclass
class Run:
    """``finish`` does what is left when all steps are answered, and tells of it.

    ``so_far`` does the same for a run that fails or is cancelled, if it has had answers.
    """

    finish: Callable[[], str]
    so_far: Callable[[], str] = lambda: ""
    waiting: deque[Step] = field(default_factory=deque)
    pending: dict[int, Step] = field(default_factory=dict)
    total: int = 0
    message: str = "Starting"
    fraction: float = 0.0
    remarks: list[str] = field(default_factory=list)
    _preparation: tuple[Step, Preparation] | None = None
    _request: Request | None = None
    _deaths: int = 0
    _news: bool = False

    def add(self, steps: Iterable[Step]) -> None:
        """Wait for the answers to these steps, too."""
        added = list(steps)
        self.waiting += added
        self.total += len(added)

    @property
    def is_done(self) -> bool:
        return not self.pending and not self.waiting

    def advance(self, submit: Callable[..., int], seconds: float) -> list[str]:
        """Prepare and hand over what is next, for about so long; returns lines for the log.

        Raises InputError if the run cannot go on.
        """
        log: list[str] = []
        deadline = time.monotonic() + seconds
        while self.waiting and time.monotonic() < deadline:
            step = self.waiting[0]
            if self._preparation is None or self._preparation[0] is not step:
                self.close()
                self._preparation, self._request = (step, step.prepare()), None
            if self._request is None:
                try:
                    next(self._preparation[1])
                except StopIteration as end:
                    self._request = end.value
                except (InputError, OSError) as error:
                    self._next()
                    log += self._fail(step, error)
            elif len(self.pending) < _AHEAD and not any(before.vital for before in self.pending.values()):
                command, options = self._request
                self._next()
                self.pending[submit(command, **options)] = step
            else:
                break
        return log

    def _next(self) -> None:
        self.waiting.popleft()
        self._preparation = self._request = None

    def close(self) -> None:
        """Leave what is being prepared."""
        if self._preparation is not None:
            self._preparation[1].close()
            self._preparation = self._request = None

    def take(self, event: Event) -> list[str]:
        """Take an event of the child; returns lines for the log. Raises InputError if the run cannot go on."""
        kind, message = event.get("event"), str(event.get("message", ""))
        if kind == "log":
            if event.get("level") in ("warning", "error") and message not in self.remarks:
                self.remarks.append(message)
            return [message]
        if kind == "ended":
            return self._outlive(message, bool(event.get("ready")))
        if kind == "error" and event.get("id") is None:
            raise InputError(message)
        step = self.pending.get(event.get("id", 0))
        if step is None:
            return []
        answered = self.total - len(self.pending) - len(self.waiting)
        if kind == "progress":
            self.fraction = (answered + float(event["fraction"])) / self.total
            self.message = f"{step.name} ({answered + 1} of {self.total}): {message}"
        elif kind in ("result", "error"):
            del self.pending[event["id"]]
            self._deaths = 0
            other = step.other_way() if kind == "error" else None
            if other is not None:
                self.waiting.appendleft(other)
                return []
            self.fraction = (answered + 1) / self.total
            try:
                if kind == "error":
                    raise InputError(message)
                step.take(event["result"])
                self._news = True
            except (InputError, OSError) as error:
                return self._fail(step, error)
        return []

    def _fail(self, step: Step, error: Exception) -> list[str]:
        sentence = f"{step.name}: {error}"
        if step.vital:
            raise InputError(sentence) from error
        self.remarks.append(sentence)
        return [sentence]

    def _outlive(self, message: str, was_ready: bool) -> list[str]:
        """Go on after the child's end without the step that it was at; a new child gets the others."""
        steps = [self.pending[number] for number in sorted(self.pending)]
        self._deaths += 1
        if not was_ready or self._deaths > _DEATHS or self.is_done:
            raise InputError(message)
        self.pending.clear()
        self.waiting.extendleft(reversed(steps[1:]))
        return self._fail(steps[0], InputError(message)) if steps else [message]

    def under_way(self, log: Sequence[str]) -> Update:
        news, self._news = self._news, False
        return Update(self.fraction, self.message, tuple(log), news=news)

    def done(self, summary: str, log: Sequence[str]) -> Update:
        return Update(1.0, "Done", tuple(log), " ".join([summary, *self.remarks]), news=True)

    def failed(self, message: str, log: Sequence[str]) -> Update:
        told = " ".join(filter(None, [message, *self.remarks, self.so_far()]))
        return Update(self.fraction, "Failed", tuple(log), told, failed=True, news=True)
