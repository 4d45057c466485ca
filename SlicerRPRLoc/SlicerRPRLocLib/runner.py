"""A child process that runs ``rprloc serve``, so that the application stays usable and nothing of it can be harmed.

Nothing here waits: ask :meth:`Runner.poll` from a timer. Requests and events are described in
``rprloc/apps/serve.py``.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import rprloc
from rprloc import InputError
from rprloc.model.shipped import DEFAULT
from rprloc.version import __version__
from SlicerRPRLocLib.runs import Event

_KILL_WAIT_S = 5.0
_KEPT_LINES = 20
_GIVE_AWAY_S = 0.002
"""How long each poll lets other threads run: Slicer's event loop never does, so the readers depend on it."""

_MODEL = "--model"

_LIBRARY = Path(rprloc.__file__).resolve().parent


def serve_command(device: str = "auto", weights: str = DEFAULT) -> list[str]:
    """How to start the child in this Python (in Slicer: PythonSlicer), on ``auto``, ``cpu`` or ``cuda``.

    ``weights`` are the name of a shipped model or the path of a file.
    """
    python = shutil.which("PythonSlicer") or sys.executable
    return [python, "-m", "rprloc", "serve", "--device", device, _MODEL, weights]


def serve_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment (by default this process's) in which the child finds the same rprloc as this process."""
    given = dict(os.environ if environment is None else environment)
    package = str(_LIBRARY.parent)
    given["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [given.get("PYTHONPATH")])])
    given["PYTHONUNBUFFERED"] = "1"
    return given


class Runner:
    """Starts the child at the first request and keeps it, so that what it has in memory serves the next ones."""

    def __init__(self, command: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._command = list(command or serve_command())
        self._environment = serve_environment(environment)
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[str] | None = None
        self._ready: Event | None = None
        self._readers: list[threading.Thread] = []
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._last_lines: deque[str] = deque(maxlen=_KEPT_LINES)

    @property
    def pid(self) -> int | None:
        """The child's process, None if there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def about(self) -> str:
        """Which library and weights the child runs and on what, as it has said itself; "" before it is ready."""
        ready = self._ready
        if ready is None:
            return ""
        weights = self._command[self._command.index(_MODEL) + 1] if _MODEL in self._command else DEFAULT
        return (
            f"RPR-Loc {ready['version']} runs on {ready['device']} with the weights {weights}, which are for "
            f"{ready['modality']}, from {ready['library']}."
        )

    def start(self) -> None:
        """Start the child if it is not running, so that it gets ready while requests are prepared.

        Raises InputError if it cannot be started.
        """
        if self._process is None:
            self._start()

    def submit(self, command: str, **options: object) -> int:
        """Hand a request to the child, which is started if need be; returns the id that the events will carry.

        Raises InputError if the child cannot be started.
        """
        self.start()
        assert self._process is not None and self._process.stdin is not None
        number = next(self._numbers)
        try:
            self._process.stdin.write(json.dumps({"id": number, "command": command, **options}) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, OSError, ValueError):
            # It has ended; poll() tells how, as an event that ends every request.
            pass
        return number

    def poll(self) -> list[Event]:
        """The events since the last time.

        If the child has ended, the last one is ``{"event": "ended", "message", "ready"}``: ``ready`` tells whether it
        ever was. A child that runs another library than this process is ended, and the event says so.
        """
        process = self._process
        if process is not None:
            time.sleep(_GIVE_AWAY_S)
        ended = process is not None and process.poll() is not None
        if ended:
            for reader in self._readers:
                reader.join(_KILL_WAIT_S)
        events = []
        while not self._events.empty():
            event = self._events.get()
            if event.get("damaged") == "torch":
                event["message"] = damaged_torch(str(event.get("message")))
            events.append(event)
            if event["event"] == "ready":
                wrong = _other_library(event)
                if wrong:
                    self.cancel()
                    return [*events[:-1], {"id": None, "event": "ended", "message": wrong, "ready": False}]
                self._ready = event
        if ended:
            assert process is not None
            message, ready = self._why(process.returncode), self._ready is not None
            events.append({"id": None, "event": "ended", "message": message, "ready": ready})
            self._forget()
        return events

    def cancel(self) -> None:
        """End the child and all that it started, at once; events that were not polled are dropped."""
        if self._process is None:
            return
        import psutil

        try:
            child = psutil.Process(self._process.pid)
            family = [*child.children(recursive=True), child]
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, timeout=_KILL_WAIT_S)
        self._process.wait(_KILL_WAIT_S)
        for reader in self._readers:
            reader.join(_KILL_WAIT_S)
        self._forget()

    def _start(self) -> None:
        import psutil  # noqa: F401  # without it nothing could be cancelled

        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                cwd=_LIBRARY.parent,  # first on the path of "python -m", before what Slicer's launcher puts there
                text=True,
                encoding="utf-8",
                errors="replace",
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise InputError(
                f"RPR-Loc's process cannot be started ({error}). {self._command[0]} should be Python. Install the "
                "module again."
            ) from error
        assert self._process.stdout is not None and self._process.stderr is not None
        # The queue is handed over, so that a late line of an old child never reaches the events of a new one.
        self._readers = [
            threading.Thread(target=self._read_events, args=(self._process.stdout, self._events), daemon=True),
            threading.Thread(target=self._read_log, args=(self._process.stderr, self._events), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_events(self, stream: IO[str], events: queue.SimpleQueue[Event]) -> None:
        for line in stream:
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict) and "event" in event:
                if event["event"] == "error" and event.get("id") is None:
                    self._last_lines.append(str(event.get("message")))
                events.put(event)
            else:
                events.put({"id": None, "event": "log", "level": "info", "message": line.rstrip()})

    def _read_log(self, stream: IO[str], events: queue.SimpleQueue[Event]) -> None:
        for line in stream:
            if line.strip():
                self._last_lines.append(line.rstrip())
                events.put({"id": None, "event": "log", "level": "info", "message": line.rstrip()})

    def _why(self, code: int) -> str:
        last = self._last_lines[-1].removeprefix("Error: ") if self._last_lines else "it gave no reason"
        return f"RPR-Loc's process ended (code {code}): {last}"

    def _forget(self) -> None:
        process = self._process
        if process is not None:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    try:
                        stream.close()
                    except OSError:
                        continue
        self._process, self._readers, self._ready = None, [], None
        self._events = queue.SimpleQueue()
        self._last_lines.clear()


def damaged_torch(reason: str) -> str:
    """What to say of a PyTorch that is installed and cannot be imported: the reason, in a sentence, and the way out."""
    return (
        f"{reason} In Slicer: press Uninstall PyTorch in the module PyTorch Utils, restart Slicer, and press Locate, "
        "which installs it anew."
    )


def _other_library(ready: Event) -> str:
    """What is wrong if a child that is ready runs another library than this process; "" if it is the same."""
    theirs, version = ready.get("library"), ready.get("version")
    if theirs is None or Path(theirs).resolve() != _LIBRARY:
        return (
            f"RPR-Loc's process runs the library in {theirs or 'an unknown folder'}, and the panel the one in "
            f"{_LIBRARY}. Write slicer.util.pip_uninstall('rprloc') into Slicer's Python console and restart Slicer."
        )
    if version != __version__:
        return (
            f"RPR-Loc's library has changed from version {__version__} to {version} since Slicer was started. Restart "
            "Slicer."
        )
    return ""
