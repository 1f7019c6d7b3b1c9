"""Shards are made by several processes; here by threads, which a test can watch."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mlproject.data import shards
from mlproject.data.shards import Shard, Task, make_shards

WINDOWS = 3  # of a task


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """Ten tasks, worked at by threads in place of processes; nothing is read."""
    monkeypatch.setattr(shards, "_open_plan", lambda plan: None)
    monkeypatch.setattr(
        shards, "ProcessPoolExecutor", lambda others, context, start, plan: ThreadPoolExecutor(others)
    )
    return [Task("train", number, tmp_path / str(number), [()] * WINDOWS) for number in range(10)]


def made(task):
    return Shard(task, [], 0, 0, 0, np.zeros(1), np.zeros(1), 0, "")


class Bar:
    """Stands in for the bar: how far it is after each step."""

    def __init__(self, **how):
        self.at, self.moved = [0], threading.Condition()
        self.total = how["total"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, count):
        with self.moved:
            self.at.append(self.at[-1] + count)
            self.moved.notify_all()


def test_the_bar_moves_with_what_the_workers_finish(tasks, monkeypatch):
    """Not when this process is done with its own: its first shard here waits for five of the workers."""
    bars = []
    monkeypatch.setattr(shards, "tqdm", lambda **how: bars.append(Bar(**how)) or bars[-1])
    here, seen = threading.current_thread(), []

    def make(task):
        if threading.current_thread() is here and not seen:
            with bars[0].moved:
                seen.append(bars[0].moved.wait_for(lambda: bars[0].at[-1] >= 5 * WINDOWS, timeout=20))
        return made(task)

    monkeypatch.setattr(shards, "_make_shard", make)
    found = make_shards(tasks, None, workers=3, progress=True)
    assert seen == [True]
    assert [shard.task.number for shard in found] == list(range(10))
    assert bars[0].at == list(range(0, 31, WINDOWS)) and bars[0].total == 30


def test_a_failure_of_a_worker_is_raised(tasks, monkeypatch):
    here = threading.current_thread()
    failed = threading.Event()

    def make(task):
        if threading.current_thread() is not here:
            failed.set()
            raise ValueError(f"task {task.number}")
        assert failed.wait(20)
        return made(task)

    monkeypatch.setattr(shards, "_make_shard", make)
    with pytest.raises(ValueError, match="task"):
        make_shards(tasks, None, workers=2, progress=False)
