"""The tracking server of docs/team.md: the page's blocks of code are run, with addresses of this machine."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from postgres import USER, postgres

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "team.md"
BUCKET = "mlflow-artifacts"
_SECONDS = 240  # to start, on a busy machine
_BLOCK = re.compile(r"^#+ (?P<heading>.+?)$|^```\w+\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


class Team(NamedTuple):
    """A running server, and how to reach it and what is behind it."""

    folder: Path
    """What the page calls /srv/mlflow."""
    address: str
    s3: str
    environment: dict[str, str]
    """Of the machine that the server runs on."""
    replaced: dict[str, str]
    """What stands on the page, and what is there in its place."""

    def run(self, heading: str, **replaced: str) -> None:
        """Runs the first block under a heading of the page, where the server is."""
        words = ["bash", "-euc", block(heading, {**self.replaced, **replaced})]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr

    def client(self, user: str, password: str) -> dict[str, str]:
        """The environment of somebody else's machine; without an S3 key, which nobody but the server has."""
        ours = ("MLFLOW_", "AWS_", "PG")
        inherited = {name: word for name, word in os.environ.items() if not name.startswith(ours)}
        known = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
        known |= {"MLFLOW_TRACKING_URI": self.address, "PYTHONPATH": str(ROOT / "src")}
        return {**inherited, **known, "HOME": str(self.folder)}  # nor a ~/.mlflow/credentials

    def objects(self) -> list[str]:
        """The names of all objects in the bucket."""
        keys: list[str] = []
        while True:
            after = f"&start-after={keys[-1]}" if keys else ""
            with urllib.request.urlopen(f"{self.s3}/{BUCKET}?list-type=2{after}", timeout=10) as answer:
                page = answer.read().decode()
            keys += re.findall("<Key>(.*?)</Key>", page)
            if "<IsTruncated>true" not in page:
                return keys


def block(heading: str, replaced: dict[str, str]) -> str:
    """The first block of code under a heading of the page, with other words in place of some of its own."""
    under = ""
    for found in _BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        if found["heading"]:
            under = found["heading"]
        elif under == heading:
            code = found["code"]
            for old, new in replaced.items():
                code = code.replace(old, new)
            return code
    raise AssertionError(f"{PAGE} has no block of code under the heading {heading!r}")


@contextlib.contextmanager
def team_server(folder: Path) -> Iterator[Team]:
    """PostgreSQL, a stand-in of S3 and the server, each in a process of its own, with the users of the page.

    The test is skipped where there is no PostgreSQL.
    """
    with postgres() as database:
        server_port, s3_port = _free_ports(2)
        address, s3 = f"http://127.0.0.1:{server_port}", f"http://127.0.0.1:{s3_port}"
        replaced = {
            "https://s3.example.org": s3,
            "/srv/mlflow": str(folder),
            "127.0.0.1:5432": f"127.0.0.1:{database.port}",
            "127.0.0.1:5000": f"127.0.0.1:{server_port}",
            "--port 5000": f"--port {server_port}",
            "--workers 2": "--workers 1",  # each imports MLflow for seconds
        }
        inherited = {
            name: word for name, word in os.environ.items() if not name.startswith(("MLFLOW_", "PG"))
        }
        path = os.pathsep.join([str(Path(sys.executable).parent), str(database.programs), os.environ["PATH"]])
        # the superuser of the page is `postgres` on Debian; libpq reads where he is
        at = {"PGHOST": "127.0.0.1", "PGPORT": str(database.port), "PGUSER": USER}
        team = Team(folder, address, s3, {**inherited, **at, "PATH": path, "HOME": str(folder)}, replaced)
        for heading in ("Secrets", "Databases"):
            team.run(heading)
        (folder / "basic_auth.ini").write_text(block("Users' settings", replaced), encoding="utf-8")
        moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3_port)]
        serve = ["bash", "-euc", block("Start", replaced)]
        with (
            _process(moto, f"{s3}/moto-api/data.json", team.environment, folder / "moto.log"),
            urllib.request.urlopen(urllib.request.Request(f"{s3}/{BUCKET}", method="PUT"), timeout=10),
            _process(serve, f"{address}/health", team.environment, folder / "server.log"),
        ):
            team.run("Users and permissions")
            yield team


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def _process(command: list[str], health: str, environment: dict[str, str], log: Path) -> Iterator[None]:
    """A server that answers there, ended with all the processes that it has started."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            until = time.monotonic() + _SECONDS
            while not _answers(health):
                assert process.poll() is None, f"{command} has ended:\n{log.read_text()}"
                assert time.monotonic() < until, f"{command} does not answer:\n{log.read_text()}"
                time.sleep(0.1)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):  # its workers, should they be slower
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
        return True
    return False
