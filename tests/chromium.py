"""A real Chromium, driven through its developer tools: pages opened, expressions evaluated, keys pressed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--remote-debugging-pipe")


class Tab:
    """A tab of a browser that listens on a pipe: messages are JSON, each ended by a zero byte."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = os.fdopen(commands, "wb", 0), os.fdopen(answers, "rb")
        self._count, self._session = 0, None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; what happened before it is in ``events``."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path) -> None:
        """Open a file and wait until it is loaded."""
        self.events.clear()
        self.send("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; promises are awaited."""
        done = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key."""
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, text=text, **_code_of(key))
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, **_code_of(key))

    def fetched(self) -> list[str]:
        """The addresses of all that was asked for since a page was opened."""
        self.evaluate("1")
        requests = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in requests]

    def complaints(self) -> list[str]:
        """What went wrong in the page since it was opened: errors of scripts, and what its policy forbade."""
        self.evaluate("1")
        wrong = [event for event in self.events if event.get("method") == "Runtime.exceptionThrown"]
        logged = [event for event in self.events if event.get("method") == "Log.entryAdded"]
        return [str(event["params"]) for event in wrong + logged]

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            message += byte
        return json.loads(message)

    def close(self) -> None:
        self._commands.close()
        self._answers.close()


def _code_of(key: str) -> dict[str, int]:
    code = {"Tab": 9, "Enter": 13, " ": 32}.get(key)
    return {} if code is None else {"windowsVirtualKeyCode": code}


@contextmanager
def open_tab(profile: Path) -> Iterator[Tab]:
    """A tab of a Chromium of its own; the test is skipped where there is none."""
    chromium = next(filter(None, map(shutil.which, _NAMES)), None)
    if chromium is None:
        pytest.skip("Chromium is not installed")
    (theirs, commands), (answers, ours) = os.pipe(), os.pipe()
    # Chromium reads at 3 and writes at 4: a shell puts the pipes there.
    line = f'exec 3<&{theirs} 4>&{ours}; exec "$@"'
    command = ["bash", "-c", line, "bash", chromium, *_FLAGS, f"--user-data-dir={profile}"]
    browser = subprocess.Popen(command, pass_fds=(theirs, ours), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    os.close(theirs)
    os.close(ours)
    tab = Tab(commands, answers)
    try:
        yield tab
    finally:
        tab.close()
        browser.terminate()
        browser.wait(20)
