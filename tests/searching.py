"""A search that takes seconds: heads on made-up embeddings, of which one channel says the activity."""

import os
import time

import numpy as np

from mlproject.data.construct_windows import ConstructWindows, search_folds
from mlproject.embeddings import EmbeddingCache
from mlproject.search import sampling, store
from mlproject.search.space import Bounds, parse_space
from mlproject.search.trials import ActivityTask, Budget
from toys import toy_constructs

BINS, CHANNELS, WINDOW = 4, 8, 512

WORDS = {
    "num_heads": "1,2",
    "key_size": "4",
    "value_size": "4,8",
    "hidden_size": "0",
    "dropout": "0",
    "learning_rate": "1e-4..1e-1:log",
    "weight_decay": "0",
}
BOUNDS = {
    **{name: Bounds(True, 1) for name in ("num_heads", "key_size", "value_size")},
    "hidden_size": Bounds(True, 0),
    "dropout": Bounds(False, 0, 1),
    "learning_rate": Bounds(False, 0, above_least=True),
    "weight_decay": Bounds(False, 0),
}


def toy_space(**words):
    return parse_space({**WORDS, **words}, BOUNDS)


def toy_task(folder, *, folds=3, epochs=4, steps=6, checkpoint_seconds=0.0):
    """Heads on 24 constructs, fold 0 held out; with three folds there are two parts."""
    windows = ConstructWindows(toy_constructs(24, folds=folds), WINDOW, samples=2, stride=1, seed=0)
    cache = EmbeddingCache(folder / "embeddings", BINS, CHANNELS)
    random = np.random.default_rng(0)

    def embed(rows):
        found = random.normal(size=(len(rows), BINS, CHANNELS))
        found[:, :, 0] = 3 * windows.targets(rows)
        return found

    cache.fill(windows.keys(range(len(windows))), embed, batch_size=8)
    budget = Budget(epochs, steps, 4, 1.0, 7, checkpoint_seconds)
    return ActivityTask(windows, tuple(search_folds(windows.constructs, "0")), cache, budget)


def toy_study(
    storage, *, name="toy", direction="maximize", sampler="tpe", pruner="none", steps=8, **settings
):
    return store.open_study(
        storage,
        name,
        direction=direction,
        settings=settings,
        sampler=sampling.NumberedSampler(sampler, 3),
        pruner=sampling.pruner(pruner, steps),
    )


CHOICE = {
    "num_heads": 1,
    "key_size": 4,
    "value_size": 4,
    "hidden_size": 0,
    "dropout": 0.0,
    "learning_rate": 1e-2,
    "weight_decay": 0.0,
}


class BrokenTask:
    """Stands in for a `trials.Task`: its trials raise what is their parameter."""

    parts, budget = 1, None

    def hold(self, most):
        pass

    def training(self, params):
        raise params["error"]


class UnreadableTask(BrokenTask):
    """Its embeddings cannot be read."""

    def hold(self, most):
        raise OSError("the disk is gone")


class DeadlyTask:
    """Ends the process that it is sent to."""

    def __reduce__(self):
        return os._exit, (7,)


# --- processes that use a study -----------------------------------------------------------------------------------


def new_trial(study, value=None):
    """A trial that this process has begun, and finished if there is a value."""
    with store.quietly():
        trial = study.ask()
    trial.set_user_attr(store.OWNER, store.owner())
    toy_space().suggest(trial)
    if value is not None:
        study.tell(trial, value)
    return trial


def tell_one(storage, value):
    """A trial with this value."""
    new_trial(toy_study(storage), value)


def begin_one(storage, name, killed):
    """Begins a trial and ends at once, or stays with it."""
    new_trial(toy_study(storage, name=name))
    if killed:
        os._exit(9)
    time.sleep(600)


def ask_until(storage, count):
    """Begins trials until there are so many."""
    study = toy_study(storage)
    while True:
        with store.exclusively(study):
            if store.counts(study).all >= count:
                return
            new_trial(study)
