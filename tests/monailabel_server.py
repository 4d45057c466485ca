"""A server of MONAI Label on loopback, and the questions that tests ask it."""

from __future__ import annotations

import email
import json
import os
import shutil
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-monailabel" / "bin" / "python"
START_S, ANSWER_S = 180, 120


@dataclass(frozen=True)
class Answer:
    """Status, JSON and file of an answer; the file's name and content are empty if none came."""

    status: int
    json: Any
    file_name: str = ""
    file: bytes = b""


@dataclass(frozen=True)
class Service:
    """A running server, its process, the studies, and the folder in which it keeps temporary files."""

    url: str
    process: psutil.Process
    studies: Path
    temporary: Path

    def ask(
        self, path: str, parameters: Mapping[str, Any] | None = None, upload: Path | None = None, **query: str
    ) -> Answer:
        """GET, or POST if there are ``parameters``, which go in a form as MONAI Label's clients send it."""
        url = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(url)
        if parameters is not None:
            fields = [b'name="params"\r\n\r\n' + json.dumps(parameters).encode()]
            if upload:
                fields.append(f'name="file"; filename="{upload.name}"\r\n\r\n'.encode() + upload.read_bytes())
            parts = [b"--part\r\nContent-Disposition: form-data; " + field + b"\r\n" for field in fields]
            request.data = b"".join(parts) + b"--part--\r\n"
            request.add_header("Content-Type", "multipart/form-data; boundary=part")
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
                status, headers, body = response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, headers, body = error.code, error.headers, error.read()
        kind = headers.get_content_type()
        if kind == "application/json" and headers.get_filename() is None:
            return Answer(status, json.loads(body))
        if kind != "multipart/form-data":
            return Answer(status, None, headers.get_filename() or "", body)
        message = email.message_from_bytes(f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body)
        values, file = message.get_payload()
        return Answer(status, json.loads(values.get_payload()), file.get_filename(), file.get_payload(decode=True))

    def put(self, path: str, fields: Mapping[str, str], **query: str) -> int:
        """PUT a form; the status."""
        url = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(url, urllib.parse.urlencode(fields).encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=ANSWER_S) as response:
            return int(response.status)

    def infer(self, model: str, image: str, **parameters: Any) -> Answer:
        return self.ask(f"/infer/{model}", parameters, image=image)


def command(folder: Path, conf: Mapping[str, object], port: int) -> list[str]:
    """How to start a server of the app, a copy of it in ``folder``: MONAI Label writes into an app's folder."""
    shutil.copytree(ROOT / "monailabel_app", folder / "app", ignore=shutil.ignore_patterns("*/"))
    settings = [part for key, value in conf.items() for part in ("--conf", key, str(value))]
    places = ["--app", str(folder / "app"), "--studies", str(folder / "studies")]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    return [str(PYTHON), "-m", "monailabel.main", "start_server", *places, *where, *settings]


def environment(folder: Path) -> dict[str, str]:
    """One where MONAI Label finds no settings of this computer, and keeps all of its files in ``folder``."""
    temporary = folder / "temporary"
    temporary.mkdir()
    own = {"HOME": str(folder), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**{key: value for key, value in os.environ.items() if not key.startswith("MONAI")}, **own}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
