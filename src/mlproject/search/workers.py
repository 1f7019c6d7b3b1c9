"""Processes that train trials, each on one core: they are sent a trial and send back what it reports.

They know neither Optuna nor MLflow. One that is killed is replaced, and its trial handed back; when the command is
killed, its workers end within a second.
"""

import contextlib
import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from mlproject.errors import InputError, Stopped, one_line

_SPAWN = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
_MOST_IDLE_DEATHS = 3  # in a row: workers that end before they train anything cannot work here
_END_SECONDS = 30.0  # for a worker to write its checkpoint when it is asked to stop


_HELD_BYTES = 2**29  # embeddings that are more are read from disk for each batch
# TensorFlow's, which say nothing of an end
_GREETING = re.compile(r"[IW]\d{4} |E\d{4} .*cuInit|WARNING: All log|To enable the following instructions")
_BYTES = 1.5e9  # of a worker: TensorFlow, a head, its optimizer and the embeddings that are held


def count_for(trials: int) -> int:
    """How many workers a machine has room for: one for each core, fewer where memory is short or trials are few."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(psutil.virtual_memory().available // _BYTES), trials))


class Order(NamedTuple):
    """A trial to train."""

    number: int
    params: Mapping[str, Any]
    known: list[list[float]]
    """What an earlier process has reported of it."""
    folder: Path
    """For its checkpoints."""


class Report(NamedTuple):
    """What a worker says of a trial after an epoch; it waits for an answer: whether that is enough."""

    loss: float
    pearson: float


class End(NamedTuple):
    """How a trial has ended."""

    how: str
    """done, pruned, failed, refused: the user must mend something, or lost: its worker is gone and has not said why."""
    why: str = ""
    """Of the last three: in one line."""


class Workers:
    """Processes that are there until `close`.

    Args:
        count: how many.
        folder: for a log of each, what it has written to stdout and stderr; `close` removes those of workers that
            have not ended by themselves.
    """

    def __init__(self, count: int, folder: Path):
        self._folder = folder
        self._task: Any = None
        self._idle_deaths = 0
        self._started = 0
        self._logs: dict[int, Path] = {}
        self._ready: set[int] = set()
        self._orders: dict[int, Order | None] = {}
        self._processes: dict[int, tuple[Any, Connection]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for place in range(count):
            self._start(place)

    def begin(self, task: Any) -> None:
        """Sends every worker what all trials are about, a `trials.Task`."""
        self._task = task
        for place in self._processes:
            self._send(place, task)

    @property
    def idle(self) -> int:
        """How many have nothing to do."""
        return sum(order is None for order in self._orders.values())

    @property
    def busy(self) -> list[int]:
        """Numbers of the trials that are being trained."""
        return [order.number for order in self._orders.values() if order is not None]

    def train(self, order: Order) -> None:
        """Hands a trial to an idle worker."""
        place = next(place for place, other in self._orders.items() if other is None)
        self._orders[place] = order
        self._send(place, order)

    def events(self, seconds: float) -> Iterator[tuple[int, Report | End]]:
        """What has happened: (number of the trial, what its worker says); waits for at most `seconds`.

        Each `Report` must be answered (`answer`). After `begin`.

        Raises:
            InputError: workers end again and again before they have anything to do.
        """
        sources = {connection: place for place, (_, connection) in self._processes.items()}
        for ready in wait(list(sources), seconds):
            place = sources[ready]  # type: ignore[index]
            process, connection = self._processes[place]
            order = self._orders[place]
            try:
                said = connection.recv()
            except (EOFError, OSError):
                process.join()
                why = f"its worker ended with {_ending(process.exitcode)}{self._last_words(place)}"
                connection.close()
                began = order is not None and place in self._ready
                self._idle_deaths += not began
                if self._idle_deaths > _MOST_IDLE_DEATHS:
                    raise InputError(
                        f"workers cannot run: {self._idle_deaths} of them ended before they had trained anything, the "
                        f"last one {why.removeprefix('its worker ended ')}; give fewer --workers where memory is "
                        f"short, or see {self._logs[place]}"
                    ) from None
                self._start(place)
                self._send(place, self._task)
                if not began:
                    if order is not None:  # nothing has come of it yet
                        self.train(order)
                    continue
                said = End("lost", why)
            if said is None:  # ready
                self._ready.add(place)
                continue
            self._idle_deaths = 0
            if order is not None:
                if isinstance(said, End):
                    self._orders[place] = None
                yield order.number, said

    def answer(self, number: int, enough: bool) -> None:
        """Answers a `Report`."""
        for place, order in self._orders.items():
            if order is not None and order.number == number:
                self._send(place, enough)

    def close(self, at_once: bool = True) -> None:
        """Ends them all; those that are at work at once, or after they have written a checkpoint."""
        by_themselves = {place for place, (process, _) in self._processes.items() if process.exitcode}
        for place, (process, connection) in self._processes.items():
            if self._orders[place] is not None or place not in self._ready:
                process.kill() if at_once or place not in self._ready else process.terminate()
            connection.close()  # one that waits finds that there is nobody
        for place, (process, _) in self._processes.items():
            process.join(_END_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
            if place not in by_themselves:
                self._logs[place].unlink(missing_ok=True)
        self._processes.clear()

    def _start(self, place: int) -> None:
        ours, theirs = _SPAWN.Pipe()
        # named after this command and counted: other commands may be in this folder, and one that died has said why
        self._logs[place] = self._folder / f"worker-{os.getpid()}-{self._started}.log"
        self._started += 1
        process = _SPAWN.Process(target=_work, args=(theirs, self._logs[place]), daemon=True)
        # A Ctrl-C reaches all processes of a terminal: workers, which inherit the mask, wait for what the command says.
        resource_tracker.ensure_running()  # before, because its start takes the mask off
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # the worker's end alone, so that its death is an end of file here
        self._processes[place] = process, ours
        self._orders[place] = None
        self._ready.discard(place)

    def _send(self, place: int, what: Any) -> None:
        with contextlib.suppress(OSError):  # it has died: `events` finds that
            self._processes[place][1].send(what)

    def _last_words(self, place: int) -> str:
        with contextlib.suppress(OSError):
            lines = self._logs[place].read_text(errors="replace").strip().splitlines()
            lines = [line for line in lines if not _GREETING.match(line)]
            return f": {lines[-1][:200]}" if lines else ""
        return ""


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


# --- in the worker ------------------------------------------------------------------------------------------------


class _Alone(BaseException):
    """The command is gone, and no error of the work."""


def _receive(connection: Connection) -> Any:
    try:
        received = connection.recv_bytes()
    except (EOFError, OSError) as error:
        raise _Alone from error
    return pickle.loads(received)


def _say(connection: Connection, what: Report | End | None) -> None:
    try:
        connection.send(what)
    except OSError as error:
        raise _Alone from error


def _work(connection: Connection, log: Path) -> None:
    """What a worker does: trains what it is sent until nobody sends any more."""
    _write_to(log)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from mlproject import stopping

    with stopping.listening(), contextlib.suppress(_Alone, Stopped):
        _use_one_core()
        from tqdm import tqdm

        from mlproject.search import trials

        # its own is a semaphore, which a kill would leave and Python warn of
        tqdm.set_lock(threading.RLock())

        task: trials.Task = _receive(connection)
        task.hold(_HELD_BYTES)
        _say(connection, None)  # ready
        while True:
            order: Order = _receive(connection)

            def report(loss: float, pearson: float) -> bool:
                _say(connection, Report(loss, pearson))
                return _receive(connection)

            try:
                trials.train(task, order.params, order.known, order.folder, report)
                end = End("done")
            except trials.Pruned:
                end = End("pruned")
            except InputError as error:
                end = End("refused", one_line(error))
            except Exception as error:
                end = End("failed", one_line(error))
            _say(connection, end)


def _write_to(log: Path) -> None:
    with log.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _use_one_core() -> None:
    """Heads are small: trials side by side use cores better than one trial on all of them.

    Nor do a trial's numbers depend on how many cores there are, nor on whether there is a GPU.
    """
    import tensorflow as tf

    # the command's own TensorFlow, with the trunk, holds all the memory of a GPU
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    # a head lives for seconds: rewriting its graph takes longer than it saves
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    tf.config.experimental.enable_op_determinism()
