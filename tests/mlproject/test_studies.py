"""One training after another under a run: what is done, what fails, and what ends them all."""

import contextlib
from types import SimpleNamespace

import pytest
import tensorflow as tf

from mlproject.errors import InputError, OutOfMemory, Stopped
from mlproject.studies import train_each


class Parent:
    """Stands in for a run whose children of some names are done."""

    def __init__(self, done=()):
        self.done, self.asked = done, []

    @contextlib.contextmanager
    def child(self, name, *, key, params):
        self.asked.append((name, key, params))
        yield SimpleNamespace(
            id=f"id-{name[-1]}", done=name in self.done, metrics=lambda: {"seconds/total": 1.25, "r": 0.5}
        )


def each(run, names, train, folder, **more):
    return train_each(
        run,
        names,
        train,
        lambda child: child.metrics()["r"],
        what="seed",
        study="abc",
        folder=folder,
        params=lambda name: {"seed": name},
        said=lambda r: f"r {r}",
        batch_size=4,
        **more,
    )


def test_done_ones_are_read_and_a_failure_does_not_stop_the_others(tmp_path, capsys):
    run, trained = Parent(done=["seed 1"]), []

    def train(child, name, folder, label):
        trained.append((child.id, name, folder, label))
        folder.mkdir()
        if name == "2":
            raise ValueError("two\nlines")

    outcomes = each(run, ["1", "2", "3"], train, tmp_path)
    assert outcomes.done == {"1": 0.5, "3": 0.5} and outcomes.failed == {"2": "ValueError: two"}
    assert trained == [(f"id-{n}", str(n), tmp_path / f"{n}-id-{n}", f"[{n}/3] seed {n}") for n in (2, 3)]
    assert run.asked[0] == ("seed 1", {"grid": "abc", "seed": "1"}, {"seed": "1"})
    assert capsys.readouterr().out.splitlines() == [
        "[1/3] seed 1: r 0.5 (was done before)",
        "[2/3] seed 2: FAILED: ValueError: two",
        "[3/3] seed 3: r 0.5 (1.2 s)",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["2-id-2"]  # to go on from


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (InputError("mend it"), InputError, "mend it"),
        (Stopped("after step 3"), Stopped, "after step 3 in seed 1; the same command goes on from there"),
        (
            tf.errors.ResourceExhaustedError(None, None, "no 9 GB"),
            OutOfMemory,
            "[1/2] seed 1: out of memory with --batch_size 4 (ResourceExhaustedError: no 9 GB); choose a smaller one, "
            "or less; what is trained already is kept",
        ),
    ],
)
def test_what_would_end_the_others_too_ends_it(tmp_path, error, kind, says):
    run = Parent()

    def train(*_):
        raise error

    with pytest.raises(kind) as caught:
        each(run, ["1", "2"], train, tmp_path, or_less=", or less")
    assert str(caught.value) == says and len(run.asked) == 1
