"""The child process: started, asked, cancelled with all that it started, and gone wrong."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rprloc.errors import InputError
from tests.example import ExampleFiles
from tests.slicer_module.scenes import NO_SLICER, serve

pytest.importorskip("slicer", reason=NO_SLICER)
import psutil

from SlicerRPRLocLib.runner import Runner, serve_command, serve_environment


def wait_for(runner: Runner, kind: str, seconds: float = 60.0) -> list[dict[str, Any]]:
    """Poll until an event of this kind comes; all events up to it."""
    events: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        events += runner.poll()
        if any(event["event"] == kind for event in events):
            return events
        time.sleep(0.02)
    raise AssertionError(f"no {kind} among {events}")


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_one_child_answers_one_request_after_another(example: ExampleFiles) -> None:
    runner = Runner(serve(example))
    assert runner.pid is None and runner.poll() == []
    first = runner.submit("show", set=str(example.support_set))
    events = wait_for(runner, "result")
    pid = runner.pid
    assert events[0]["event"] == "ready" and events[-1]["id"] == first
    second = runner.submit("show", set="missing.json")
    assert wait_for(runner, "error")[-1]["id"] == second and runner.pid == pid
    runner.cancel()
    assert runner.pid is None and not psutil.pid_exists(pid or 0)


def test_cancel_ends_the_whole_tree_of_processes(tmp_path: Path) -> None:
    grandchild = tmp_path / "pid"
    child = (
        "import subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(grandchild)!r}, 'w').write(str(inner.pid))\n"
        'print(\'{"event": "ready"}\', flush=True)\n'
        "time.sleep(600)\n"
    )
    runner = Runner(script(child))
    runner.submit("locate")
    wait_for(runner, "ready")
    pids = [runner.pid or 0, int(grandchild.read_text())]
    assert all(psutil.pid_exists(pid) for pid in pids)
    runner.cancel()
    left = [pid for pid in pids if psutil.pid_exists(pid)]
    assert [pid for pid in left if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE] == []
    runner.cancel()  # once more does no harm


def test_a_child_that_ends_tells_why_and_the_next_request_starts_another() -> None:
    runner = Runner(script("import sys; sys.exit('Error: the disk is full')"))
    runner.submit("locate")
    end = wait_for(runner, "ended")[-1]
    assert end["message"] == "RPR-Loc's process ended (code 1): the disk is full"
    assert runner.pid is None and runner.poll() == []
    runner.submit("locate")
    assert "disk is full" in wait_for(runner, "ended")[-1]["message"]


def test_a_child_that_is_killed_from_outside_is_noticed(example: ExampleFiles) -> None:
    runner = Runner(serve(example))
    runner.submit("show", set=str(example.support_set))
    wait_for(runner, "result")
    psutil.Process(runner.pid).kill()
    assert "code -9" in wait_for(runner, "ended")[-1]["message"]


def test_what_is_no_event_goes_to_the_log() -> None:
    runner = Runner(script("import sys; print('hello'); print('[1]'); print('careful', file=sys.stderr)"))
    runner.submit("locate")
    events = wait_for(runner, "ended")
    assert {event["message"] for event in events if event["event"] == "log"} == {"hello", "[1]", "careful"}


def test_a_python_that_is_not_there_is_refused() -> None:
    runner = Runner(["no-such-python"])
    with pytest.raises(InputError, match="cannot be started"):
        runner.submit("locate")


def test_the_child_finds_the_same_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import rprloc

    environment = serve_environment({"PYTHONPATH": "elsewhere"})
    first, second = environment["PYTHONPATH"].split(os.pathsep)
    assert Path(first) / "rprloc" == Path(rprloc.__file__).resolve().parent and second == "elsewhere"
    assert serve_command("cpu")[1:] == ["-m", "rprloc", "serve", "--device", "cpu"]
    monkeypatch.setattr("shutil.which", lambda name: "/opt/PythonSlicer" if name == "PythonSlicer" else None)
    assert serve_command()[0] == "/opt/PythonSlicer"


def test_the_child_ends_when_its_parent_is_gone(example: ExampleFiles) -> None:
    runner = Runner(serve(example))
    runner.submit("show", set=str(example.support_set))
    wait_for(runner, "result")
    assert runner._process is not None and runner._process.stdin is not None
    runner._process.stdin.close()  # what the system does when the parent dies
    assert runner._process.wait(timeout=20) == 0
    runner.cancel()
