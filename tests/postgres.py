"""A real PostgreSQL server for tests, in a temporary folder, gone when they end.

`.ci/run` installs the Debian package where it can; where no server is found, tests that need one are skipped.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import create_engine, text

USER = "mlproject"
_SECONDS = "60"  # to start or to stop


class Server(NamedTuple):
    """A running server; tests may stop it and start it again."""

    folder: Path
    port: int
    programs: Path

    def database(self, name: str) -> str:
        """Makes an empty database and returns its address for SQLAlchemy.

        Optuna and MLflow need one each: both call the table of their version `alembic_version`.
        """
        engine = create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        engine.dispose()
        return self._url(name)

    def start(self) -> None:
        # no fsync: nothing here has to survive the machine
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._control("start", "--log", str(self.folder / "log"), "--options", options)

    def stop(self, mode: str = "fast") -> None:
        self._control("stop", "--mode", mode)

    def _url(self, name: str) -> str:
        # the driver by name: which one SQLAlchemy takes for `postgresql:` differs between its versions
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{name}"

    def _control(self, action: str, *words: str) -> None:
        command = [self.programs / "pg_ctl", action, "-D", self.folder / "data", "--wait", "-t", _SECONDS]
        _as_user([*command, *words], self.folder)


@contextlib.contextmanager
def postgres() -> Iterator[Server]:
    """Starts a server on a free port of this machine, with one user, who is trusted.

    It refuses to run as root: root starts it as the user `postgres` or `nobody`. The test is skipped where there are
    no programs or no such user.
    """
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL server: `apt-get install postgresql` installs one")
    if os.geteuid() == 0 and _account() is None:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))  # in a place that another user reaches
    try:
        if account := _account():
            os.chown(folder, account.pw_uid, account.pw_gid)
        words = ["-D", folder / "data", "-U", USER, "--auth=trust", "--no-sync", "--encoding=UTF8"]
        _as_user([programs / "initdb", *words, "--locale=C"], folder)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        server = Server(folder, port, programs)
        try:
            server.start()
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # one that does not run
                server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    """The folder of initdb and pg_ctl, the newest where there are several: Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    on_path = shutil.which("initdb")
    folders = [*reversed(found), *([Path(on_path).resolve().parent] if on_path else [])]
    complete = (folder for folder in folders if all((folder / n).exists() for n in ("initdb", "pg_ctl")))
    return next(complete, None)


def _account() -> pwd.struct_passwd | None:
    """Who runs the server in place of root; None where we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def _as_user(command: list[object], folder: Path) -> None:
    account = _account()
    who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    environment = {name: word for name, word in os.environ.items() if not name.startswith("PG")}
    # the server keeps its parent's output open: a pipe would never end
    with open(folder / "said", "a") as said:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env={**environment, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
            **who,
        )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, (folder / "said").read_text())
