import contextlib
import fcntl
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mlproject.errors import InputError, one_line
from mlproject.resuming import StepCheckpoints, fingerprint, fit_keeping_best, only_one
from mlproject.training import Adam, Diverged, Schedule
from toys import toy_model

SOURCE = Path(__file__).parents[2] / "src"


def test_a_fingerprint_changes_with_any_value_and_not_with_their_order():
    values = {"seeds": (1, 2), "rate": 5e-4, "path": Path("x")}
    assert fingerprint(values) == fingerprint(dict(reversed(values.items())))
    assert len({fingerprint({**values, key: "other"}) for key in values} | {fingerprint(values)}) == 4


def test_a_second_process_is_refused_until_the_first_ends(tmp_path):
    path = tmp_path / "work" / "grid.lock"
    code = f"import pathlib, mlproject.resuming as r\nwith r.only_one(pathlib.Path({str(path)!r})): pass"
    words = [sys.executable, "-c", code]
    with only_one(path):
        ended = subprocess.run(words, capture_output=True, text=True, env={"PYTHONPATH": str(SOURCE)})
        assert "InputError" in ended.stderr and "another process is at this work" in ended.stderr
    assert subprocess.run(words, capture_output=True, env={"PYTHONPATH": str(SOURCE)}).returncode == 0


def test_work_that_cannot_be_locked_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"file/work/grid\.lock: cannot be written \(") as caught,
        only_one(tmp_path / "file" / "work" / "grid.lock"),
    ):
        raise AssertionError
    assert "\n" not in str(caught.value)


def test_the_end_of_the_work_leaves_no_lock_and_no_empty_folder(tmp_path):
    path = tmp_path / "work" / "study.lock"
    with only_one(path):
        (tmp_path / "work" / "study").mkdir()
        assert path.exists()
    assert not list((tmp_path / "work").iterdir())
    with pytest.raises(RuntimeError), only_one(path):
        (tmp_path / "work" / "study" / "fold").mkdir(parents=True)
        raise RuntimeError
    assert [found.name for found in (tmp_path / "work").rglob("*")] == ["study", "fold"]


def test_a_lock_that_its_holder_removes_meanwhile_keeps_nobody_out(tmp_path, monkeypatch):
    path, lock_file = tmp_path / "grid.lock", fcntl.flock
    tries = []

    def flock(file, how):
        tries.append(file)
        if len(tries) < 3:  # the holder ends between our opening of the file and our asking for it
            path.unlink()
        lock_file(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with only_one(path):
        assert len(tries) == 3 and path.exists()
        with pytest.raises(InputError, match="another process is at this work"), only_one(path):
            pass
    assert not path.exists()


def test_a_lock_of_others_is_not_removed(tmp_path):
    path = tmp_path / "grid.lock"
    with only_one(path):
        path.rename(tmp_path / "elsewhere")  # as a user may
        path.touch()
    assert path.exists()


def test_without_inodes_of_their_own_locks_are_kept(tmp_path, monkeypatch):
    path = tmp_path / "grid.lock"
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with only_one(path), pytest.raises(InputError, match="another process"), only_one(path):
        pass
    assert path.exists()


def test_of_many_at_once_one_works(tmp_path):
    inside, most, done = [], [], []

    def work():
        while len(done) < 200:
            with contextlib.suppress(InputError), only_one(tmp_path / "grid.lock"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
                done.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and not list(tmp_path.iterdir())


@pytest.fixture
def training(tmp_path):
    """Model, optimizer and their checkpoints."""
    model = toy_model()
    optimizer = Adam(model.trainable_variables)
    return model, optimizer, StepCheckpoints(tmp_path / "run", model.variables, optimizer, every_seconds=0)


def mark(model, optimizer, value):
    for variable in (*model.variables, *optimizer.slots().values()):
        variable.assign(np.full(variable.shape, value))


def values(model, optimizer):
    return {float(v.numpy().flat[0]) for v in (*model.variables, *optimizer.slots().values())}


def test_the_newest_is_restored_and_two_are_kept(training, tmp_path):
    model, optimizer, saved = training
    assert saved.restore() == 0
    for step in (5, 10, 15):
        mark(model, optimizer, step)
        saved.save(step)
    mark(model, optimizer, 99)
    assert [path.name for path in sorted((tmp_path / "run").iterdir())] == [
        "step-000000010",
        "step-000000015",
    ]
    assert saved.restore() == 15 and values(model, optimizer) == {15.0}


@pytest.mark.parametrize("name", ["weights.npz", "training.npz"])
@pytest.mark.parametrize("missing", [True, False])
def test_a_damaged_one_is_passed_over_and_named(training, tmp_path, capsys, name, missing):
    model, optimizer, saved = training
    for step in (5, 10):
        mark(model, optimizer, step)
        saved.save(step)
    path = tmp_path / "run" / "step-000000010" / name
    if missing:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-500])
    assert saved.restore() == 5 and values(model, optimizer) == {5.0}
    assert "step-000000010 is passed over" in capsys.readouterr().out


def test_only_the_best_is_kept_and_the_optimizer_is_not_in_it(training, tmp_path):
    model, optimizer, saved = training
    with pytest.raises(ValueError, match="no best"):
        saved.restore_best()
    for step in (5, 10):
        mark(model, optimizer, step)
        saved.keep_best(step)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["best-000000010"]
    mark(model, optimizer, 99)
    assert saved.restore_best() == 10
    assert {float(v.numpy().flat[0]) for v in model.variables} == {10.0}
    assert {float(v.numpy().flat[0]) for v in optimizer.slots().values()} == {99.0}
    assert saved.restore() == 0  # it is nothing to go on from


@pytest.mark.parametrize("save", ["save", "keep_best"])
def test_a_full_disk_is_one_line_and_keeps_what_was_there(training, tmp_path, monkeypatch, save):
    model, optimizer, saved = training
    mark(model, optimizer, 5)
    saved.save(5)

    def savez(path, **arrays):
        path.write_bytes(b"some of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(
        InputError, match=r"/run: cannot be written; free some room, .*No space left on device"
    ):
        getattr(saved, save)(10)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-000000005"]
    assert saved.restore() == 5


def test_due_follows_the_clock(tmp_path):
    model = toy_model()
    optimizer = Adam(model.trainable_variables)
    assert StepCheckpoints(tmp_path, model.variables, optimizer, every_seconds=0).due()
    assert not StepCheckpoints(tmp_path, model.variables, optimizer, every_seconds=1000).due()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("targets.txt, row 3: no clip"), "targets.txt, row 3: no clip"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (
            ValueError("in user code:\n\n  File x\n\n    ValueError: shapes differ\n"),
            "ValueError: shapes differ",
        ),
        (KeyError(), "KeyError()"),
    ],
)
def test_a_failure_is_one_line(error, line):
    assert one_line(error) == line


# --- the best epoch -----------------------------------------------------------------------------------------------


class Training:
    """One number that every step adds one to, whose validation losses are given."""

    def __init__(self, folder, losses, *, epochs=6, steps=2, patience=0):
        self.value = tf.Variable([0.0], name="value")
        self.optimizer = Adam([self.value])
        self.saved = StepCheckpoints(folder, [self.value], self.optimizer, every_seconds=0)
        self.losses, self.logged, self.options = losses, [], (epochs, steps, patience)

    def step(self, batch, learning_rate, key):
        self.value.assign_add([1.0])
        return {"loss": tf.constant(1.0)}

    def measure(self):
        epoch = int(self.value[0]) // self.options[1]
        return {"validation/loss": self.losses[epoch - 1], "validation/other": 7.0 + epoch}

    def run(self, start=0):
        epochs, steps, patience = self.options
        return fit_keeping_best(
            self.step,
            itertools.repeat({}),
            Schedule(epochs, steps, 0, 1e-3),
            lambda step, metrics: self.logged.append((step, metrics)),
            self.saved,
            measure=self.measure,
            losses=self.losses[: start // steps],
            patience=patience,
            flush=lambda: None,
            seed=0,
            start=start,
            label="toy",
        )

    def validated(self):
        return [(step, found["validation/loss"]) for step, found in self.logged if "validation/loss" in found]


@pytest.mark.parametrize(
    ("losses", "patience", "last", "best"),
    [
        ([5, 3, 4, 2, 6, 7], 0, 12, 8),
        ([5, 3, 4, 4, 4, 1], 2, 8, 4),
        ([5, 3, 4, 2, 6, 7], 2, 12, 8),
        ([5, 6, 0, 0, 0, 0], 1, 4, 2),
        ([3, 3, 3, 2, 2, 2], 3, 12, 8),  # of equal ones the first
        ([1, 2, 3, 4, 5, 6], 5, 12, 2),
    ],
)
def test_the_best_epoch_is_kept_and_patience_ends_it(tmp_path, losses, patience, last, best):
    losses = [float(loss) for loss in losses]
    training = Training(tmp_path / "run", losses, patience=patience)
    assert training.run().step == last
    assert training.validated() == [(2 * n, losses[n - 1]) for n in range(1, last // 2 + 1)]
    others = [
        (step, found["validation/other"]) for step, found in training.logged if "validation/other" in found
    ]
    assert others == [(2 * n, 7.0 + n) for n in range(1, last // 2 + 1)]
    assert int(training.value[0]) == last
    assert training.saved.restore_best() == best and int(training.value[0]) == best
    assert training.saved.restore() == last


@pytest.mark.parametrize("start", [2, 4, 6, 8])
@pytest.mark.parametrize("patience", [0, 2])
def test_a_training_that_goes_on_keeps_the_same_best(tmp_path, start, patience):
    """Also one that was stopped between its last epoch and its end."""
    losses = [5.0, 3.0, 4.0, 4.0, 2.0, 6.0]
    training = Training(tmp_path / "run", losses, patience=patience, epochs=start // 2)
    training.run()
    again = Training(tmp_path / "run", losses, patience=patience)
    assert again.saved.restore() == start
    last, best = (8, 4) if patience else (12, 10)
    assert again.run(start).step == last
    assert again.validated() == [(2 * n, losses[n - 1]) for n in range(start // 2 + 1, last // 2 + 1)]
    assert again.saved.restore_best() == best


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_diverges(tmp_path, bad):
    training = Training(tmp_path / "run", [2.0, bad, 1.0])
    with pytest.raises(Diverged, match=rf"validation/loss became {bad} at step 4; try a lower learning_rate"):
        training.run()
    assert training.validated() == [(2, 2.0)]  # what is not finite is not logged
    assert training.saved.restore_best() == 2
