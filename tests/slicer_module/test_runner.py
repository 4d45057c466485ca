"""The child process: started, asked, cancelled with all that it started, and gone wrong."""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import rprloc
from rprloc.errors import InputError
from rprloc.version import __version__
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


READY = {"event": "ready", "device": "cpu", "version": __version__, "library": str(Path(rprloc.__file__).parent)}


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
        f"print({json.dumps(READY)!r}, flush=True)\n"
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


def test_the_child_runs_the_panels_library_and_both_say_so(
    example: ExampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slicer's launcher puts its site-packages before everything, and an old library may lie there."""
    old = tmp_path / "site-packages" / "rprloc"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text("", encoding="utf-8")
    (old / "__main__.py").write_text("import sys; sys.exit('the old library')", encoding="utf-8")
    launcher = tmp_path / "PythonSlicer"
    launcher.write_text(
        f'#!/bin/sh\nPYTHONPATH="{old.parent}:$PYTHONPATH" exec "{sys.executable}" "$@"\n', encoding="utf-8"
    )
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    command = serve_command("cpu", str(example.weights))
    assert command[0] == str(launcher)
    runner = Runner(command)
    assert runner.about == ""
    runner.submit("show", set=str(example.support_set))
    ready = wait_for(runner, "result")[0]
    here = str(Path(rprloc.__file__).resolve().parent)
    assert (ready["event"], ready["library"], ready["version"]) == ("ready", here, __version__)
    assert runner.about == (
        f"RPR-Loc {__version__} runs on cpu with the weights {example.weights}, which are for CT, from {here}."
    )
    runner.cancel()
    assert runner.about == ""


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            {"library": "/elsewhere/rprloc"},
            "runs the library in /elsewhere/rprloc, and the panel the one in .*uninstall",
        ),
        ({"library": None}, "runs the library in an unknown folder"),
        ({"version": "0.1"}, f"changed from version {__version__} to 0.1 .*Restart Slicer"),
    ],
)
def test_a_child_that_runs_another_library_is_ended(said: dict[str, Any], sentence: str) -> None:
    ready = json.dumps({name: value for name, value in {**READY, **said}.items() if value is not None})
    runner = Runner(script(f"import time; print({ready!r}, flush=True); time.sleep(600)"))
    runner.submit("locate")
    pid = runner.pid
    end = wait_for(runner, "ended")[-1]
    assert re.search(sentence, end["message"]) and not end["ready"]
    assert runner.pid is None and not psutil.pid_exists(pid or 0)


def test_the_environment_is_passed_on() -> None:
    environment = serve_environment({"PYTHONPATH": "elsewhere"})
    first, second = environment["PYTHONPATH"].split(os.pathsep)
    assert Path(first) / "rprloc" == Path(rprloc.__file__).resolve().parent and second == "elsewhere"
    started = ["-m", "rprloc", "serve", "--device", "cpu", "--model"]
    assert serve_command("cpu")[1:] == [*started, "research"]
    assert serve_command("cpu", "open")[1:] == [*started, "open"]


@pytest.mark.parametrize(
    "torch", ["from torch._C import missing", "raise OSError('[WinError 126] fbgemm.dll')", "import torch; torch.no"]
)
def test_a_damaged_torch_is_told_with_the_way_out(tmp_path: Path, torch: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(torch, encoding="utf-8")
    before = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    code = f"{before}\nimport runpy\nsys.argv[0] = 'rprloc'\nrunpy.run_module('rprloc', run_name='__main__')"
    runner = Runner([sys.executable, "-c", code, "serve", "--device", "cpu"])
    runner.submit("locate")
    events = wait_for(runner, "ended")  # the error comes before it, often in one poll
    error = next(event for event in events if event["event"] == "error")
    assert error["message"].startswith("PyTorch is installed but damaged (")
    assert "Uninstall PyTorch in the module PyTorch Utils, restart Slicer" in error["message"]
    assert not events[-1]["ready"]


def hold_gil(seconds: float) -> None:
    """What Slicer's event loop does between two ticks of a timer: no other thread of Python gets its turn."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


@pytest.mark.skipif(sys.platform == "win32", reason="usleep")
def test_long_answers_arrive_soon_though_slicer_holds_on_to_python() -> None:
    code = (
        "import json, sys; sys.stdin.readline(); sys.stdin.readline()\n"
        f"print({json.dumps(READY)!r})\n"
        "print(json.dumps({'id': 1, 'event': 'result', 'result': 'x' * 200_000}), flush=True)\n"
        "sys.stdin.readline()\n"
    )
    runner = Runner(script(code))
    try:
        runner.submit("locate")
        runner.submit("locate")
        hold_gil(1.0)  # it has written as much as the pipe holds
        start, ticks = time.monotonic(), 0
        while not any(event["event"] == "result" for event in runner.poll()):
            assert time.monotonic() - start < 20.0
            hold_gil(0.05)
            ticks += 1
    finally:
        runner.cancel()
    assert ticks <= 8


def test_the_child_ends_when_its_parent_is_gone(example: ExampleFiles) -> None:
    runner = Runner(serve(example))
    runner.submit("show", set=str(example.support_set))
    wait_for(runner, "result")
    assert runner._process is not None and runner._process.stdin is not None
    runner._process.stdin.close()  # what the system does when the parent dies
    assert runner._process.wait(timeout=20) == 0
    runner.cancel()
