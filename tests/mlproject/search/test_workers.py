"""Processes that train trials: real ones, of which some are killed."""

import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from mlproject.errors import InputError
from mlproject.search import trials
from mlproject.search.workers import End, Order, Report, Workers, count_for
from searching import CHOICE, BrokenTask, DeadlyTask, UnreadableTask, toy_task

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return toy_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def workers(tmp_path_factory, task):
    folder = tmp_path_factory.mktemp("workers")
    with_two = Workers(2, folder)
    with_two.begin(task)
    yield with_two
    with_two.close()


@pytest.fixture(scope="module")
def expected(task, tmp_path_factory):
    """What the trial reports in this process."""
    found = []
    folder = tmp_path_factory.mktemp("here") / "trial"
    trials.train(task, CHOICE, [], folder, lambda *report: bool(found.append(Report(*report))))
    return found


def follow(workers, numbers, answer=lambda number, said: False, seconds=120):
    """All that is said of these trials until each has ended."""
    said = {number: [] for number in numbers}
    deadline = time.monotonic() + seconds
    while not all(events and isinstance(events[-1], End) for events in said.values()):
        assert time.monotonic() < deadline, said
        for number, event in workers.events(0.5):
            said[number].append(event)
            if isinstance(event, Report):
                workers.answer(number, answer(number, event))
    return said


def process_of(workers, number):
    (place,) = [place for place, order in workers._orders.items() if order and order.number == number]
    return psutil.Process(workers._processes[place][0].pid)


def close(found, expected):
    """To rounding: a worker has one thread."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_reports_come_back_and_trials_end_in_their_own_way(workers, expected, tmp_path):
    assert workers.idle == 2 and workers.busy == []
    workers.train(Order(4, CHOICE, [], tmp_path / "4"))
    workers.train(Order(5, {**CHOICE, "learning_rate": 1e30}, [], tmp_path / "5"))
    assert workers.idle == 0 and sorted(workers.busy) == [4, 5]
    said = follow(workers, (4, 5))
    *reports, end = said[4]
    assert end == End("done") and workers.idle == 2
    close(reports, expected)
    assert said[5][-1].how == "failed" and said[5][-1].why.startswith("Diverged: ")

    workers.train(Order(6, CHOICE, [list(report) for report in reports[:5]], tmp_path / "6"))
    workers.train(Order(7, CHOICE, [], tmp_path / "7"))
    said = follow(workers, (6, 7), lambda number, report: number == 7)
    assert said[6] == [*reports[5:], End("done")]  # the same to the last digit
    assert said[7] == [reports[0], End("pruned")]


def test_a_worker_that_is_killed_is_replaced_and_its_trial_goes_on(workers, task, expected, tmp_path):
    workers.train(Order(8, CHOICE, [], tmp_path / "8"))
    known, killed = [], process_of(workers, 8)

    def answer(number, report):
        known.append(list(report))
        if len(known) == 3:
            killed.kill()  # answered all the same: it may or may not be dead by then
        return False

    said = follow(workers, (8,), answer)
    assert said[8][-1] == End("lost", "its worker ended with signal 9") and workers.idle == 2
    assert not killed.is_running() and len(known) == 3
    workers.train(Order(9, CHOICE, known, tmp_path / "8"))
    said[9] = follow(workers, (9,))[9]
    assert said[9][-1] == End("done")
    close([*map(tuple, known), *said[9][:-1]], expected)


def test_one_that_is_killed_with_nothing_to_do_costs_no_trial(workers, expected, tmp_path):
    for place in (0, 1):
        psutil.Process(workers._processes[place][0].pid).kill()
    workers.train(Order(10, CHOICE, [list(report) for report in expected[:-1]], tmp_path / "10"))
    said = follow(workers, (10,))[10]
    assert [one.how for one in said if isinstance(one, End)] in (["done"], ["lost"])


def test_what_goes_wrong_in_a_trial_is_one_line(tmp_path):
    errors = [
        ValueError("one line\nand another"),
        MemoryError(),
        EOFError("cut"),
        InputError("the disk is full"),
    ]
    workers = Workers(1, tmp_path)
    ends = []
    try:
        workers.begin(BrokenTask())
        for number, error in enumerate(errors):
            workers.train(Order(number, {"error": error}, [], tmp_path / "0"))
            ends += follow(workers, (number,))[number]
    finally:
        workers.close()
    failed = [End("failed", why) for why in ("ValueError: one line", "MemoryError()", "EOFError: cut")]
    assert ends == [*failed, End("refused", "the disk is full")]
    assert not list(tmp_path.glob("worker-*.log"))  # they have ended well


@pytest.mark.parametrize(
    ("task", "says"), [(DeadlyTask(), "7"), (UnreadableTask(), "1: OSError: the disk is gone")], ids=str
)
def test_workers_that_cannot_start_end_the_search_and_cost_no_trial(tmp_path, task, says):
    workers = Workers(2, tmp_path)
    began = time.monotonic()
    try:
        workers.begin(task)
        workers.train(Order(0, CHOICE, [], tmp_path / "0"))
        with pytest.raises(InputError) as caught:
            while time.monotonic() < began + 240:
                for event in workers.events(0.5):
                    pytest.fail(f"no trial has begun: {event}")
    finally:
        workers.close()
    (line,) = str(caught.value).splitlines()
    start = "workers cannot run: 4 of them ended before they had trained anything, the last one with "
    assert line.startswith(f"{start}exit code {says}; give fewer --workers"), line
    logs = sorted(tmp_path.glob("worker-*.log"))
    assert str(logs[-1]) in line or str(logs[-2]) in line  # they are there to be read


def test_asked_to_stop_they_write_a_checkpoint(tmp_path):
    task = toy_task(tmp_path, epochs=1, steps=100_000, checkpoint_seconds=1e9)
    workers = Workers(1, tmp_path / "logs")
    process = psutil.Process(workers._processes[0][0].pid)
    process.send_signal(signal.SIGINT)  # as a terminal does, before it has begun
    workers.begin(task)
    workers.train(Order(0, CHOICE, [], tmp_path / "0"))
    cpu = time.monotonic() + 120
    while process.cpu_times().user < 6 and time.monotonic() < cpu:  # past all imports
        list(workers.events(0.1))
    process.send_signal(signal.SIGINT)  # in the middle of it
    time.sleep(1)
    assert not list(workers.events(0.1)) and process == process_of(workers, 0)
    workers.close(at_once=False)
    (checkpoint,) = (tmp_path / "0" / "0").glob("step-*")
    assert 0 < int(checkpoint.name[5:]) < 100_000 and not process.is_running()


PARENT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from mlproject.search.workers import Order, Workers
from searching import CHOICE, toy_task

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    workers = Workers(2, folder)
    workers.begin(toy_task(folder, epochs=1, steps=10**6))
    workers.train(Order(0, CHOICE, [], folder / "0"))
    print(*(process.pid for process, _ in workers._processes.values()), flush=True)
    while True:
        list(workers.events(1))
"""


def test_workers_end_when_their_command_is_killed(tmp_path):
    """One at work, one with nothing to do."""
    from processes import ROOT

    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT.format(tests=str(ROOT / "tests"))))
    parent = subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        found = []
        while len(found) != 2:  # the embeddings are spoken of first
            line = parent.stdout.readline()
            assert line
            found = [int(word) for word in line.split() if word.isdigit()] if line[0].isdigit() else []
        workers = [psutil.Process(number) for number in found]
        deadline = time.monotonic() + 120
        while workers[0].cpu_times().user < 5 and time.monotonic() < deadline:  # it is at work
            time.sleep(0.05)
        assert all(worker.is_running() for worker in workers)
    finally:
        parent.kill()
        parent.communicate()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def test_how_many_there_are(monkeypatch):
    memory = psutil.virtual_memory()
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    for available, trials_left, expected in ((64e9, 20, 8), (64e9, 3, 3), (5e9, 20, 3), (1e8, 20, 1)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda a=available: memory._replace(available=int(a)))
        assert count_for(trials_left) == expected
