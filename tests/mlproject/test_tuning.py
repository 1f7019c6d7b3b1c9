import functools
import pickle
import re
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from enformer_core import checkpoints
from enformer_core.activity import ActivityModel, activity_head
from enformer_core.heads import ActivityHeadConfig
from mlproject.data.construct_windows import ConstructWindows, Fold
from mlproject.embeddings import EmbeddingCache
from mlproject.resuming import StepCheckpoints
from mlproject.training import Adam, Diverged, Schedule
from mlproject.tuning import StoredActivityTrainer, Tuner, train_fold
from toys import toy_config, toy_constructs, toy_model

HEAD = ActivityHeadConfig(2, 8, 8)
ROWS = np.array([4, 0, 11, 7, 2])  # of twelve windows; no multiple of the batch size
MODES = {
    "all": {"moving_blocks": None},
    "moving norms": {"moving_blocks": None, "fixed_norms": False},
    "last": {"moving_blocks": 1, "weight_decay": 0.1},
    "head": {"moving_blocks": 0},
    "stored": {"moving_blocks": 0},
    "lora": {"moving_blocks": 1, "lora_rank": 2},
}


def toy_tuner(**changes):
    """Two transformer blocks on 2,048 bp of six constructs, batches of two."""
    windows = ConstructWindows(toy_constructs(6), 2048, samples=2, stride=1, seed=0)
    enformer = toy_model(target_length=None, num_transformer_layers=2)
    options = {"lora_rank": 0, "fixed_norms": True, "batch_size": 2, "clip_norm": 1.0, **changes}
    return Tuner(enformer, options.pop("head", HEAD), windows, **options)


@pytest.fixture(scope="module")
def tuners(tmp_path_factory):
    """A tuner of each mode by name, made once, and reset."""

    @functools.cache
    def made(mode):
        changes = MODES[mode]
        if mode == "stored":
            changes = {**changes, "embeddings": EmbeddingCache(tmp_path_factory.mktemp("trunk"), 16, 96)}
        tuner = toy_tuner(**changes)
        tuner.fill_embeddings()
        return tuner

    def fresh(mode):
        tuner = made(mode)
        tuner.reset(7)
        return tuner

    return fresh


def train(tuner, count, learning_rate=1e-3):
    """The losses of the first steps on all windows."""
    batches = tuner.batches(np.arange(len(tuner.windows)), seed=3, start=0)
    steps = enumerate(islice(batches, count), 1)
    return [
        float(tuner.step(batch, learning_rate, np.array([3, number], np.int32))["loss"])
        for number, batch in steps
    ]


def values(tuner):
    return checkpoints.arrays(tuner.model.variables)


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not np.array_equal(before[name], after[name])}


HEAD_ONLY = "activity_model/"
LAST_BLOCK = f"{HEAD_ONLY}|enformer/transformer_1/"
# What may move, and of it what may stay: before a batch is normalised by itself, a bias has no effect.
MOVES = {
    "all": (f"{HEAD_ONLY}|enformer/(?!head_)(?!.*/moving_)", None),
    "moving norms": (f"{HEAD_ONLY}|enformer/(?!head_)", "/b$"),
    "last": (LAST_BLOCK, None),
    "head": (HEAD_ONLY, None),
    "stored": (HEAD_ONLY, None),
    "lora": (f"{HEAD_ONLY}|transformer_1/.*/adapter/", None),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_what_moves_in_three_steps_and_what_a_reset_brings_back(tuners, mode):
    """Three: the attention output begins at zero and so does one factor of adapters; they hold up what is before."""
    tuner = tuners(mode)
    before = values(tuner)
    losses = train(tuner, 3)
    after = values(tuner)
    moves, may_stay = MOVES[mode]
    moved = changed(before, after)
    expected = {name for name in before if re.match(moves, name)}
    assert moved <= expected
    assert not {name for name in expected - moved if not may_stay or not re.search(may_stay, name)}
    averages = {name for name in moved if re.search("moving_(mean|variance)", name)}
    assert len(averages) == (0 if mode != "moving norms" else 6 * 14)  # three variables, two of each norm

    tuner.reset(7)
    assert not changed(before, values(tuner))
    assert all(not state.any() for state in tuner.optimizer.state().values())
    np.testing.assert_allclose(train(tuner, 3), losses, rtol=1e-6)
    tuner.reset(8)
    assert changed(before, values(tuner)) == {
        name for name in before if re.search("activity/.*/w$|adapter/down/w$", name)
    }


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_has_all_that_a_step_changes(tuners, mode):
    tuner = tuners(mode)
    train(tuner, 2)
    kept, optimizer = checkpoints.arrays(tuner.training_variables), tuner.optimizer.state()
    expected = values(tuner)
    tuner.reset(8)
    checkpoints.assign_variables(tuner.training_variables, kept, "here")
    tuner.optimizer.restore(optimizer)
    assert not changed(expected, values(tuner))


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "folds"), [("stored", 1), ("lora", 2)])
def test_the_saved_model_predicts_what_the_tuner_said(tuners, tmp_path, mode, folds):
    """Of one fold after another. XLA sums in another order than eager execution and a SavedModel."""
    tuner = tuners(mode)
    sequences = tuner.windows.sequences(ROWS)
    answers = []
    for number in range(folds):
        tuner.reset(number)
        train(tuner, 3 + 3 * number, 1e-2)
        said = tuner.predict(ROWS)
        assert said.shape == (5,) and said.dtype == np.float32
        tuner.finish()
        assert not any("adapter" in name for name in values(tuner))
        tolerance = {"rtol": 1e-4 if mode != "stored" else 2e-3}  # float16 has three digits
        np.testing.assert_allclose(tuner.predict(ROWS), said, **tolerance)
        tuner.save(tmp_path / str(number))
        loaded = checkpoints.load(tmp_path / str(number) / "checkpoint")
        assert isinstance(loaded, ActivityModel)
        assert loaded.config.sequence_length == 2048 and loaded.config.activity == HEAD
        found = loaded(sequences, is_training=False)["activity"]
        np.testing.assert_allclose(found[:, 0], said, **tolerance)
        # kept while it is called: its functions die with it
        served = tf.saved_model.load(str(tmp_path / str(number) / "saved_model"))
        found = served.signatures["serving_default"](sequence=tf.constant(sequences))
        assert list(found) == ["activity"]
        np.testing.assert_allclose(found["activity"][:, 0], said, **tolerance)
        answers.append(said)
    assert np.ptp(answers[0]) > 5e-3  # so that an exchange of windows would show
    assert folds == 1 or np.abs(answers[0] - answers[1]).max() > 0.01


@pytest.mark.slow
def test_compiling_moves_no_weight(tuners):
    for mode in ("stored", "lora"):
        tuner = tuners(mode)
        before = values(tuner)
        tuner.compile()
        assert not changed(before, values(tuner))


@pytest.mark.slow
def test_a_small_batch_is_filled_up_and_changes_no_answer(tuners):
    for mode in ("stored", "last"):
        tuner = tuners(mode)
        train(tuner, 2)
        together = tuner.predict(ROWS)
        alone = np.concatenate([tuner.predict(ROWS[[position]]) for position in range(len(ROWS))])
        np.testing.assert_allclose(together, alone, rtol=1e-6)
        assert np.ptp(together) > 1e-4


@pytest.mark.slow
def test_stored_embeddings_train_the_same_head(tuners):
    """To the three digits of float16; Adam's steps, all of one size, follow the sign of a gradient near zero."""
    computed, stored = tuners("head"), tuners("stored")
    losses = train(computed, 6)
    np.testing.assert_allclose(train(stored, 6), losses, rtol=2e-3)
    assert np.ptp(losses) > 0.1
    np.testing.assert_allclose(stored.predict(ROWS), computed.predict(ROWS), rtol=2e-3)
    heads = [checkpoints.arrays(tuner.model.head.variables) for tuner in (computed, stored)]
    for name, expected in heads[0].items():
        apart = np.abs(heads[1][name] - expected)
        assert apart.mean() < 1e-4 and np.abs(expected).mean() > 1e-3, name


@pytest.mark.slow
def test_embeddings_are_those_of_the_trunk(tuners, tmp_path):
    stored = tuners("stored")
    assert stored.fill_embeddings() == 0
    model = stored.model.enformer
    expected = model.trunk(tf.constant(stored.windows.sequences(ROWS)), is_training=False)
    found = stored.embeddings.read(stored.windows.keys(ROWS))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(stored.embed(ROWS[:1]), expected[:1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(stored.embed(ROWS)[:1], stored.embed(ROWS[:1]))
    kept = stored.embeddings
    stored.embeddings = EmbeddingCache(tmp_path, 16, 96)
    assert stored.fill_embeddings() == 12
    stored.embeddings = kept


@pytest.mark.slow
def test_embeddings_are_the_same_at_every_batch_size(tuners, tmp_path):
    """They are kept for all of them; the last digits depend on how many windows are computed at once."""
    one = toy_tuner(moving_blocks=0, batch_size=1, embeddings=EmbeddingCache(tmp_path, 16, 96))
    one.fill_embeddings()
    keys = one.windows.keys(range(len(one.windows)))
    found, expected = one.embeddings.read(keys), tuners("stored").embeddings.read(keys)
    np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def with_all(tuners):
    """A tuner on the stored embeddings whose head has all there is, and decays."""
    head = ActivityHeadConfig(2, 8, 8, hidden_size=6, dropout=0.25)
    embeddings = tuners("stored").embeddings
    return toy_tuner(head=head, moving_blocks=0, weight_decay=0.1, embeddings=embeddings)


@pytest.mark.slow
def test_a_head_trains_without_its_trunk_as_with_it(with_all):
    """In another process, and not compiled; the order of sums differs."""
    windows, embeddings = pickle.loads(pickle.dumps((with_all.windows, with_all.embeddings)))
    head = activity_head(with_all.model.config.activity)
    options = {"batch_size": 2, "clip_norm": 1.0, "weight_decay": 0.1}
    alone = StoredActivityTrainer(head, windows, embeddings, **options, compiled=False)
    losses, answers = [], []
    for trainer in (with_all, alone):
        trainer.reset(7)
        losses.append(train(trainer, 6))
        answers.append(trainer.predict(ROWS))
    assert np.ptp(losses[0]) > 0.05
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-5)
    alone.reset(7)
    assert train(alone, 6) == losses[1]
    assert (
        checkpoints.arrays(alone.head.variables).keys() == checkpoints.arrays(with_all.head.variables).keys()
    )


@pytest.mark.slow
def test_a_training_with_dropout_and_decay_goes_on_bit_by_bit(with_all):
    """As one that was never stopped; a step draws by its number."""
    rows, found = np.arange(12), []
    for stops in (False, True):
        with_all.reset(7)
        for count in range(1, 7):
            if stops and count == 4:
                kept, moments = checkpoints.arrays(with_all.head.variables), with_all.optimizer.state()
                with_all.reset(8)
                checkpoints.assign_variables(with_all.head.variables, kept, "here")
                with_all.optimizer.restore(moments)
            batch = next(with_all.batches(rows, 3, count - 1))
            loss = with_all.step(batch, 1e-3, np.array([3, count], np.int32))["loss"]
        found.append((float(loss), checkpoints.arrays(with_all.head.variables)))
    assert found[0][0] == found[1][0]
    for name, array in found[0][1].items():
        np.testing.assert_array_equal(found[1][1][name], array, err_msg=name)
    with_all.reset(7)
    batch = next(with_all.batches(rows, 3, 0))
    losses = [float(with_all.step(batch, 0.0, np.array([3, count], np.int32))["loss"]) for count in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_adapters_of_the_whole_trunk_are_in_every_block():
    tuner = toy_tuner(moving_blocks=None, lora_rank=3)
    names = checkpoints.arrays(tuner.training_variables)
    blocks = {name.split("/")[0] for name in names if "adapter" in name}
    assert blocks == {"transformer_0", "transformer_1"}
    assert {name for name in names if "adapter" not in name} == set(
        checkpoints.arrays(tuner.model.head.variables)
    )
    assert {variable.shape[-1] for variable in tuner.training_variables if "down" in variable.name} == {3}


def test_a_rank_that_does_not_fit_is_refused():
    smallest = toy_config().num_heads * toy_config().key_size
    with pytest.raises(ValueError, match="rank is 500; the smallest projection takes 1 to") as caught:
        toy_tuner(moving_blocks=1, lora_rank=500)
    assert int(str(caught.value).split()[-1]) < min(smallest, toy_config().channels)


# --- the training of a fold ---------------------------------------------------------------------------------------

FOLD = Fold("0", train=frozenset("1"), valid=frozenset("2"), test=frozenset("0"))


class Scripted:
    """A tuner whose one weight counts steps, and whose validation loss after each epoch of two steps is given."""

    def __init__(self, losses, folder):
        self.losses = losses
        self.weight = tf.Variable(0.0, name="weight")
        self.saved = StepCheckpoints(folder, [self.weight], Adam([self.weight]), every_seconds=0)
        self.logged = {}
        self.windows = SimpleNamespace(
            in_folds=lambda folds: np.array([{"1": 10, "2": 20}[name] for name in folds]),
            targets=lambda rows: np.zeros((len(rows), 1), np.float32),
        )

    def batches(self, rows, seed, start):
        assert rows.tolist() == [10] and start == int(self.weight.numpy())
        while True:
            yield {}

    def step(self, batch, learning_rate, key):
        self.weight.assign_add(1.0)
        return {"loss": tf.constant(0.5)}

    def predict(self, rows):
        assert rows.tolist() == [20]
        return np.sqrt(np.float32([self.losses[int(self.weight.numpy()) // 2 - 1]]))

    def log(self, step, metrics):
        if "validation/loss" in metrics:
            assert step % 2 == 0 and step not in self.logged
            self.logged[step] = metrics["validation/loss"]

    def train(self, patience, start=0, losses=()):
        options = {"flush": lambda: None, "seed": 0, "start": start, "label": "", "patience": patience}
        schedule = Schedule(len(self.losses), 2, 0, 1.0)
        result = train_fold(self, FOLD, schedule, self.saved, self.log, losses=losses, **options)
        self.saved.restore_best()
        return result.step, int(self.weight.numpy())


LOSSES = (4.0, 9.0, 1.0, 1.0, 2.25, 0.25, 16.0, 16.0)


@pytest.mark.parametrize(
    ("patience", "last", "best"),
    [(0, 16, 12), (1, 4, 2), (2, 10, 6), (3, 16, 12), (8, 16, 12)],
)
def test_a_training_ends_with_its_patience_and_keeps_the_best_epoch(tmp_path, patience, last, best):
    """No lower is not lower: the fourth epoch counts as one without."""
    tuner = Scripted(LOSSES, tmp_path / "fold")
    assert tuner.train(patience) == (last, best)
    assert tuner.logged == {2 * epoch: LOSSES[epoch - 1] for epoch in range(1, last // 2 + 1)}


@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("epochs", [1, 3, 5])
def test_a_training_that_goes_on_ends_the_same(tmp_path, patience, epochs):
    expected = Scripted(LOSSES, tmp_path / "whole").train(patience)
    Scripted(LOSSES[:epochs], tmp_path / "fold").train(patience)  # ends early, as one that is killed
    again = Scripted(LOSSES, tmp_path / "fold")
    start = again.saved.restore()
    assert start == 2 * epochs
    assert again.train(patience, start, LOSSES[:epochs]) == expected
    assert all(step > start for step in again.logged)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_validation_loss_that_is_no_number_ends_the_training(tmp_path, loss, epoch):
    losses = [4.0, 1.0, 2.0]
    losses[epoch - 1] = loss
    said = f"validation/loss became {loss} at step {2 * epoch}; try a lower learning_rate"
    with pytest.raises(Diverged, match=said):
        Scripted(losses, tmp_path / "fold").train(0)
