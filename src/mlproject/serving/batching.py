"""Calls of a model, one at a time, each with the rows of as many waiting requests as ask for the same.

A model that computes uses all cores: two calls at once would share them and both be late. So requests wait, those of
equal parameters together, and a call that nobody waits for any more still counts as work until it has ended.
"""

import asyncio
import dataclasses
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlproject.serving.requests import Asked, Refused

ROW = "row"  # the column of an answer that says which row of the input it is of
# How long a call waits for those who had an answer a moment ago and may ask again, and as a share of the last call.
_LINGER_SECONDS, _LINGER_SHARE = 0.002, 0.05

Predict = Callable[[pd.DataFrame, dict[str, Any]], Any]


@dataclasses.dataclass(eq=False)
class _Job:
    asked: Asked
    key: str
    answer: "asyncio.Future[Any]"


class Scorer:
    """Answers requests by calls of one model in one thread.

    Args:
        predict: takes a table and parameters.
        batch_rows: most rows of several requests in one call; 0: each request is a call of its own.
        most_waiting: requests; more are refused.
    """

    def __init__(self, predict: Predict, *, batch_rows: int, most_waiting: int) -> None:
        self._predict, self._batch_rows, self._most_waiting = predict, batch_rows, most_waiting
        self._waiting: deque[_Job] = deque()
        self._calls: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, list[_Job]]] = queue.SimpleQueue()
        self._busy = False
        self._expected = 0  # how many asked at once when the last call ended
        self._seconds = 0.0  # that it took
        self._timer: asyncio.TimerHandle | None = None
        # a daemon, as a call that never ends must not keep the process
        threading.Thread(target=self._work, name="predict", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._busy

    async def score(self, asked: Asked) -> Any:
        """What the model says of one request's rows; to be cancelled by who does not wait any longer.

        Raises:
            Refused: 503, too many wait.
            Exception: what the model raises.
        """
        if len(self._waiting) >= self._most_waiting:
            raise Refused(
                503, f"{len(self._waiting)} requests wait already; ask again later", retry_after="1"
            )
        loop = asyncio.get_running_loop()
        job = _Job(asked, asked.key if self._batch_rows else "", loop.create_future())
        self._waiting.append(job)
        if not self._busy and (self._timer is None or len(self._waiting) >= self._expected):
            self._start(loop)
        try:
            return await job.answer
        finally:
            if job in self._waiting:  # cancelled before its turn
                self._waiting.remove(job)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self._waiting[0].answer.done():
            self._waiting.popleft()
        if self._busy or not self._waiting:
            return
        first = self._waiting.popleft()
        jobs, rows = [first], len(first.asked.table)
        if self._batch_rows:
            for job in list(self._waiting):
                more = len(job.asked.table)
                if job.key == first.key and rows + more <= self._batch_rows and not job.answer.done():
                    jobs.append(job)
                    self._waiting.remove(job)
                    rows += more
        self._busy = True
        self._calls.put((loop, jobs))

    def _ended(self, loop: asyncio.AbstractEventLoop, jobs: list[_Job], answers: Sequence[Any]) -> None:
        self._busy = False
        for job, answer in zip(jobs, answers, strict=True):
            if job.answer.done():  # cancelled: nobody waits
                continue
            if isinstance(answer, Exception):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)
        self._expected = len(jobs) + len(self._waiting)
        if (self._batch_rows and len(jobs) < self._expected) or len(jobs) > 1:
            linger = min(_LINGER_SECONDS, _LINGER_SHARE * self._seconds)
            self._timer = loop.call_later(linger, self._start, loop)
        else:
            self._start(loop)

    def _work(self) -> None:
        while True:
            loop, jobs = self._calls.get()
            began = time.perf_counter()
            answers = self._answers(jobs)
            self._seconds = time.perf_counter() - began
            try:
                loop.call_soon_threadsafe(self._ended, loop, jobs, answers)
            except RuntimeError:  # the loop has closed: the server has ended
                return

    def _answers(self, jobs: list[_Job]) -> list[Any]:
        if len(jobs) > 1:
            together = self._together(jobs)
            if together is not None:
                return together
        answers: list[Any] = []
        for job in jobs:
            try:
                answers.append(
                    None if job.answer.cancelled() else self._predict(job.asked.table, job.asked.params)
                )
            except Exception as error:
                answers.append(error)
        return answers

    def _together(self, jobs: list[_Job]) -> list[pd.DataFrame] | None:
        """One answer for each; None where each must be asked alone: a mistake in one, or rows cannot be told apart."""
        tables = [job.asked.table for job in jobs]
        try:
            found = self._predict(pd.concat(tables, ignore_index=True), jobs[0].asked.params)
        except Exception:  # of which request it is, each one's own call will tell
            return None
        ends = np.cumsum([len(table) for table in tables])
        if not isinstance(found, pd.DataFrame) or ROW not in found or found[ROW].dtype.kind not in "iu":
            self._batch_rows = 0
            return None
        rows = found[ROW].to_numpy()
        parts = []
        for end, table in zip(ends, tables, strict=True):
            begin = end - len(table)
            part = found[(rows >= begin) & (rows < end)]
            parts.append(part.assign(**{ROW: part[ROW] - begin}).reset_index(drop=True))
        return parts
