"""Requests to the guard of the scoring server in this process, and to a server of its own."""

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

ROOT = Path(__file__).parents[1]
SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec("string", "sequence"),
            ColSpec("long", "start", required=False),
            ColSpec("double", "weight", required=False),
        ]
    ),
    params=ParamSchema([ParamSpec("letters", "string", "ACGT"), ParamSpec("share", "boolean", False)]),
)


def save_letters(folder):
    """Writes the letter-counting model as MLflow keeps models."""
    code = str(Path(__file__).with_name("letters_model.py"))
    mlflow.pyfunc.save_model(str(folder), python_model=code, signature=SIGNATURE, pip_requirements=["mlflow"])
    return folder


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


def request_of(method, path, headers=None, query=b""):
    fields = {"host": "localhost", **(headers or {})}
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "client": None,
        "server": None,
        "query_string": query,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
    }


async def ask(app, scope, parts=(b"",), gone_after=None):
    """One request; `gone_after` seconds the client goes away."""
    sent, messages = [], [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if messages:
        messages[-1]["more_body"] = False

    async def receive():
        if messages:
            return messages.pop(0)
        if gone_after is None:
            await asyncio.Event().wait()
        await asyncio.sleep(gone_after)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return None
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(one.get("body", b"") for one in sent[1:]))


async def post(app, body, content_type="application/json", **others):
    headers = {} if content_type is None else {"content-type": content_type}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    scope = request_of("POST", "/invocations", {**headers, **others.pop("headers", {})})
    return await ask(app, scope, [data], **others)


def sequences(*words, **params):
    return {"inputs": {"sequence": list(words)}, **({"params": params} if params else {})}


class Server:
    """`mlproject serve` in a process of its own; `log` is what it has said of requests."""

    def __init__(self, folder, *words, command=None, **environment):
        command = command or ["mlproject", "serve", "--port", "0", *words]
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.errors = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.greeting = self.process.stdout.readline()
        assert "http://" in self.greeting, self.errors
        self.host, _, port = self.greeting.split("http://")[1].split(";")[0].rpartition(":")
        self.port = int(port)

    def _read(self):
        self.errors.extend(iter(self.process.stderr.readline, ""))

    @property
    def log(self):
        return [json.loads(line) for line in self.errors if line.startswith("{")]

    def connect(self):
        return contextlib.closing(http.client.HTTPConnection(self.host, self.port, timeout=60))

    def ask(self, method, path, body=None, headers=None, connection=None):
        with contextlib.ExitStack() as stack:
            connection = connection or stack.enter_context(self.connect())
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def post(self, body, connection=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", "/invocations", data, {"content-type": "application/json"}, connection)

    def wait_for(self, told, seconds=30):
        ends = time.monotonic() + seconds
        while not told():
            assert time.monotonic() < ends, self.errors
            time.sleep(0.05)

    def end(self):
        """Its exit code after SIGTERM."""
        self.process.terminate()
        return self.process.wait(timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(20)
        self.process.stdout.close()
        self.process.stderr.close()
