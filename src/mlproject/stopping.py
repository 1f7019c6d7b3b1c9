"""Being asked to end: SIGTERM and Ctrl-C become `Stopped`, at once or at the next safe place."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from mlproject.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_AGAIN_SECONDS = 1.0  # `mlflow run` adds its own SIGTERM to a Ctrl-C: that is one request, not two
_received: int | None = None
_received_at = 0.0
_depth = 0


def should_stop() -> bool:
    """Whether a signal has asked this process to end; to be polled inside `deferred()`."""
    return _received is not None


def received() -> int | None:
    """The number of the first signal received, or None."""
    return _received


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Yields `should_stop`; in the block a first signal is only noted, so that a checkpoint can be written.

    The code inside polls `should_stop()`, saves what it must and raises `Stopped`. When the block ends
    with a signal noted and nothing raised, `Stopped` is raised here. A second signal, a second later or
    more, does not wait.
    """
    global _depth
    _depth += 1
    try:
        yield should_stop
    finally:
        _depth -= 1
    if _depth == 0 and should_stop():
        raise Stopped(_name(_received))


@contextmanager
def listening() -> Iterator[None]:
    """Turns SIGTERM and SIGINT into `Stopped` while the block runs; then the old handlers come back."""
    global _received
    _received = None
    owner = os.getpid()

    def handle(number: int, _frame: FrameType | None) -> None:
        global _received, _received_at
        if os.getpid() != owner:  # a worker forked from us has nothing to save
            os._exit(128 + number)
        now = time.monotonic()
        if _received is None:
            _received, _received_at = number, now
            if not _depth:
                raise Stopped(_name(number))
            print(
                f"{_name(number)}: stopping at the next safe step; send it again to stop now", file=sys.stderr
            )
        elif now - _received_at >= _AGAIN_SECONDS:
            raise Stopped(_name(number))

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _name(number: int | None) -> str:
    return signal.Signals(number).name if number is not None else "stopped"
