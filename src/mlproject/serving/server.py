"""The server's processes: which model, how many copies of it fit, and workers that are started anew when they die.

    serve -> Supervisor (no model, no TensorFlow) -> workers, each with a copy of the model and a Guard

All accept on one socket, which the supervisor opens: who asks while no worker is ready waits instead of being refused.
"""

import contextlib
import dataclasses
import gc
import hashlib
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import psutil
import uvicorn
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from mlproject import __version__, stderr
from mlproject.errors import InputError, reason
from mlproject.promotion import CHAMPION
from mlproject.serving.guard import Guard, Limits, Served, log_line
from mlproject.serving.requests import TYPES, Schema
from mlproject.tracking import registered, sequence_models, store

_SHARE = 0.8  # of the memory that is free, for further copies
_GROWTH = 1.25  # of a copy under load, above what it takes after the warm-up
_GRACE_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class Found:
    """A model to serve, in a folder of this machine."""

    folder: Path
    address: str
    """With the number of the version: an alias may be led elsewhere while the server runs."""
    about: dict[str, str]
    """For /version: model, version, digest, mlproject, mlflow."""


def champion() -> str:
    """The address of the version with the alias champion, of the model that was changed last among those with one.

    Raises:
        InputError: none has one.
    """
    for name in registered.list_models():
        for aliases in registered.list_versions(name)["aliases"]:
            if CHAMPION in aliases:
                return f"models:/{name}@{CHAMPION}"
    raise InputError(
        f"--model: no registered model of {store.shown_address()} has the alias {CHAMPION}; "
        "`mlflow run . -e register` makes one, or name another as models:/NAME/VERSION"
    )


@contextlib.contextmanager
def fetched(address: str) -> Iterator[Found]:
    """The model at an address of MLflow, or in a folder; what had to be fetched is removed at the end.

    Raises:
        InputError: there is none, or it takes no table.
    """
    name, version = Path(address).name, ""
    with tempfile.TemporaryDirectory(prefix="mlproject-serve-") as scratch:
        try:
            if address.startswith("models:/") and (named := _named(address)):
                name, version = named
                address = f"models:/{name}/{version}"
            folder = Path(address) if Path(address).is_dir() else _download(address, scratch)
            schema_of(sequence_models.read_metadata(folder))
        except (MlflowException, OSError) as error:
            raise InputError(f"--model: {address}: {reason(error)}") from error
        except InputError as error:
            raise InputError(f"--model: {address}: {error}") from None
        about = {
            "model": name,
            "version": version,
            "digest": _digest(folder),
            "mlproject": __version__,
            "mlflow": mlflow.__version__,
        }
        yield Found(folder, address, about)


def schema_of(metadata: Model) -> Schema:
    """What a model takes.

    Raises:
        InputError: it has no signature of named columns.
    """
    inputs = metadata.get_input_schema()
    if inputs is None or inputs.is_tensor_spec() or not inputs.has_input_names():
        raise InputError(
            "its signature has no named columns; `register` makes models that serve takes, "
            "and `mlflow models serve` serves any"
        )
    columns = {}
    for column in inputs.inputs:
        kind = getattr(column.type, "name", str(column.type))
        if kind not in TYPES:
            raise InputError(f"its column {column.name!r} is of type {kind}; serve takes {', '.join(TYPES)}")
        columns[column.name] = (kind, bool(column.required))
    params = metadata.get_params_schema()
    return Schema(
        columns,
        {one.name: (one.dtype.name, one.shape is not None) for one in (params.params if params else [])},
    )


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: the port is taken, or the host is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # a name that no name server would take is the latter
        raise InputError(f"--host: found {host!r}: {reason(error)}") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(2048)
    except OSError as error:
        opened.close()
        raise InputError(
            f"--port: {host}:{port} cannot be used: {error.strerror}; choose another, or end what listens there"
        ) from error
    opened.set_inheritable(True)
    return opened


@dataclasses.dataclass(frozen=True)
class App:
    """Makes the application in a worker: what is handed to a process of its own, so it holds no model."""

    found: Found
    limits: Limits
    supervisor: int

    def __call__(self) -> Guard:
        """The application, which loads the model when the server starts."""
        threading.Thread(target=self._end_with_supervisor, daemon=True).start()
        return Guard(self.load, self.limits)

    def load(self) -> Served:
        """The model, ready to answer: it has answered once."""
        with stderr.without(stderr.GREETING):
            model = mlflow.pyfunc.load_model(str(self.found.folder))
            if warm_up := getattr(_own_code(model), "warm_up", None):
                warm_up()
        # What is there now stays: a collection that looks at all of TensorFlow's objects takes half a second.
        gc.collect()
        gc.freeze()
        # as in MLflow's server: it tells a model that it is served
        os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
        return Served(
            lambda table, params: model.predict(table, params=params),
            schema_of(model.metadata),
            dict(self.found.about),
        )

    def _end_with_supervisor(self) -> None:
        """A worker whose supervisor was killed would keep the port for ever."""
        while os.getppid() == self.supervisor:
            time.sleep(1)
        os._exit(0)


class Supervisor(Multiprocess):
    """uvicorn's, which starts a worker anew when it dies; the first says how many there is room for.

    Args:
        app: of the workers.
        opened: the socket.
        workers: how many; 0: as many as memory and cores allow.
    """

    def __init__(self, app: App, opened: socket.socket, workers: int) -> None:
        config = uvicorn.Config(
            app,
            factory=True,
            lifespan="on",
            ws="none",
            interface="asgi3",
            access_log=False,
            log_config=None,
            log_level="critical",
            proxy_headers=False,
            server_header=False,
            workers=1,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        super().__init__(config, [opened])
        self._wanted, self._address = workers, f"http://{_shown(opened)}"
        self._model = app.found.address
        self._died = False  # the first worker, before it could answer

    def serve(self) -> int:
        """Serves until it is told to end by SIGTERM or Ctrl-C.

        Returns:
            0, or 1 where a worker cannot load the model.
        """
        self.run()
        return int(self._died or any(process.exitcode == STARTUP_FAILURE for process in self.processes))

    def init_processes(self) -> None:
        """Starts one worker, sees what it takes, and starts the others."""
        self._add()
        while not self.processes[0].is_ready(timeout=1):
            self.handle_signals()
            if self.should_exit.is_set():
                return
            if not self.processes[0].process.is_alive():
                self.processes[0].join()
                self.should_exit.set()
                if self.processes[0].exitcode != STARTUP_FAILURE:  # which has said why
                    self._died = True
                    code = self.processes[0].exitcode
                    print(
                        f"serve: the worker died with {code} as it loaded the model; is there too little memory?",
                        file=sys.stderr,
                    )
                return
            time.sleep(0.05)
        copy = psutil.Process(self.processes[0].pid).memory_info().rss
        count = self._wanted or fitting(copy)
        for _ in range(count - 1):
            self._add()
        print(
            f"{self._model} at {self._address}; one copy takes {copy / 1e9:.2f} GB, "
            f"{count} {'worker' if count == 1 else 'workers'}",
            flush=True,
        )

    def keep_subprocess_alive(self) -> None:
        """Starts those that died anew, and says so.

        uvicorn's own also asks each whether it is well, and waits a minute for one that dies before it answers.
        """
        for place, old in enumerate(self.processes):
            if self.should_exit.is_set() or old.process.is_alive():
                continue
            old.kill()  # closes its pipes
            old.join()
            if old.exitcode == STARTUP_FAILURE:
                self.should_exit.set()
                return
            self.processes[place] = new = Process(self.config, self.sockets)
            new.start()
            log_line({"event": "worker restarted", "died": old.pid, "exit": old.exitcode, "pid": new.pid})

    def _add(self) -> None:
        process = Process(self.config, self.sockets)
        process.start()
        self.processes.append(process)


def _own_code(model: PyFuncModel) -> object | None:
    """The Python model in it; None in that of another library."""
    try:
        return model.unwrap_python_model()
    except MlflowException:
        return None


def fitting(copy_bytes: int) -> int:
    """How many workers there is room for, one among them that runs already: at least 1, at most a core each."""
    more = int(_SHARE * _free_bytes() / (_GROWTH * copy_bytes))
    return max(1, min(1 + more, len(os.sched_getaffinity(0))))


def _free_bytes() -> int:
    """Of the machine or of the container, whichever has less."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no limit is the word max
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    return max(0, free)


def _named(address: str) -> tuple[str, str] | None:
    """Name and number of a version; None for models:/m-ID, a logged model."""
    name, at, alias = address.removeprefix("models:/").partition("@")
    if at:
        return name, str(store.open_store().get_model_version_by_alias(name, alias).version)
    name, slash, version = name.rpartition("/")
    return (name, version) if slash else None


def _download(address: str, scratch: str) -> Path:
    """The folder itself where the store's files are on this machine, else a copy below `scratch`."""
    store.open_store()
    before = tempfile.tempdir
    tempfile.tempdir = scratch  # with a folder named, MLflow copies what is near too
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=address))
    finally:
        tempfile.tempdir = before


def _digest(folder: Path) -> str:
    """Of all files below a folder, with their names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    return digest.hexdigest()


def _shown(opened: socket.socket) -> str:
    host, port = opened.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
