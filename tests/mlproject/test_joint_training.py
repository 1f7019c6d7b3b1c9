import dataclasses
from itertools import islice

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from enformer_core import checkpoints, dna
from enformer_core.perceiver import MASKED
from mlproject.joint_training import Examples, JointTrainer, Weights, base_entropy, mean_numbers
from toy_joint import CELL_TYPES, MPRA_LEN, SEQ_LEN, toy_joint, toy_windows, with_activity
from toys import toy_perceiver_config

pytestmark = pytest.mark.slow  # the step of all losses is compiled once, in some ten seconds

WEIGHTS = Weights(0.5, 2.0, 3.0)
UNITS = {"activity_mean": 1.5, "activity_sd": 0.7}


def toy_trainer(modalities="both", data=None, unseen=(), **changes):
    sizes = {"seq_len": SEQ_LEN, "mpra_len": MPRA_LEN, "nucleotide_width": 3}
    config = toy_perceiver_config(cell_types=CELL_TYPES, unseen_cell_types=unseen, **sizes, **UNITS)
    given = {"mpra_batch_size": 8, "track_batch_size": 4, "weights": WEIGHTS, "augment": True}
    given |= {"clip_norm": 1.0, "weight_decay": 0.0, **changes}
    trainer = JointTrainer(config, data or toy_joint(), modalities=modalities, **given)
    trainer.reset(3)
    return trainer


@pytest.fixture(scope="module")
def compiled():
    return toy_trainer()


@pytest.fixture
def trainer(compiled):
    compiled.reset(3)
    return compiled


def examples(data, modalities="both"):
    rows = [data.mpra.rows(subset) if modalities != "tracks" else None for subset in ("train", "valid")]
    windows = [toy_windows(6, seed) if modalities != "mpra" else None for seed in (0, 1)]
    return Examples(*rows, *windows)


def train(trainer, count, of=None, learning_rate=0.01, start=0, seed=3):
    batches = trainer.batches(of or examples(trainer.data), seed, start)
    found = []
    for number, batch in enumerate(islice(batches, count), start + 1):
        scalars = trainer.step(batch, learning_rate, np.array([seed, number], np.int32))
        found.append({name: float(value) for name, value in scalars.items()})
    return found


def cross_entropy(logits, classes):
    """In nats, of each row of logits."""
    logits = np.asarray(logits, np.float64)
    logs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logs -= logits.max(-1, keepdims=True)
    return -np.take_along_axis(logs, np.asarray(classes)[..., np.newaxis], -1)[..., 0]


def binned(log_coverage):
    """Six bins over 0 to 4."""
    return np.clip(np.floor(np.asarray(log_coverage, np.float64) / 4 * 6), 0, 5).astype(int)


def test_losses_are_those_of_numpy(trainer):
    batch = next(trainer.batches(examples(trainer.data), 3, 0))
    numpy = {name: value.numpy() for name, value in batch.items()}
    model = trainer.model
    predicted = model.activity(batch["mpra/letters"], batch["mpra/cell"]).numpy().astype(np.float64)
    expected = {"activity": np.mean(((predicted - numpy["mpra/activity"]) / 0.7) ** 2)}
    logits = model.nucleotides(
        batch["mpra/hidden_letters"],
        batch["mpra/known_activity"],
        batch["mpra/cell"],
        before=batch["mpra/letters_before"],
    )
    letters = numpy["mpra/whole_letters"]
    asked = (numpy["mpra/hidden_letters"] == MASKED) & (letters < 4)  # no N
    assert ((numpy["mpra/hidden_letters"] == MASKED) & (letters == 4)).any()
    expected["nucleotides"] = cross_entropy(logits, np.minimum(letters, 3))[asked].mean()
    logits = model.coverage(batch["tracks/letters"], batch["tracks/visible_coverage"], batch["tracks/cell"])
    hidden = np.isnan(numpy["tracks/visible_coverage"])
    assert hidden.any() and not hidden.all()
    expected["coverage"] = cross_entropy(logits, binned(numpy["tracks/log_coverage"]))[hidden].mean()
    (found,) = train(trainer, 1)
    for name, value in expected.items():
        assert found[f"loss/{name}"] == pytest.approx(value, rel=1e-5), name
    total = sum(getattr(WEIGHTS, name) * value for name, value in expected.items())
    assert found["loss"] == pytest.approx(total, rel=1e-5)


def test_validation_numbers_are_those_of_numpy(trainer):
    of = examples(trainer.data)
    found = trainer.measure(of)
    data, model = trainer.data, trainer.model
    rows = of.valid_rows
    letters = tf.constant(data.mpra.codes[data.mpra.table.sequence[rows]].astype(np.int32))
    cell, activity = data.mpra.cell[rows], data.mpra.table.activity[rows]
    predicted = model.activity(letters, cell).numpy().astype(np.float64)
    np.testing.assert_allclose(trainer.predict_activity(rows), predicted, rtol=1e-5)
    expected = {"loss/activity": np.mean((predicted - activity) ** 2) / 0.7**2}
    for kind, by_scipy in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        own = [by_scipy(activity[cell == one], predicted[cell == one]).statistic for one in (1, 2)]
        expected[f"activity_{kind}"] = np.mean(own)
    losses, of_cells = [], []
    for column, one in enumerate((0, 1)):
        truth = of.valid_windows.log_coverage[:, column].astype(np.float32)
        logits = model.coverage(
            tf.constant(of.valid_windows.codes.astype(np.int32)),
            tf.fill(truth.shape, np.float32(np.nan)),
            tf.fill([len(truth)], one),
        )
        shares = np.exp(-np.stack([cross_entropy(logits, np.full(truth.shape, k)) for k in range(6)], -1))
        mean = shares @ ((np.arange(6) + 0.5) * 4 / 6)
        losses.append(cross_entropy(logits, binned(truth)).mean())
        of_cells.append(
            [by(truth.ravel(), mean.ravel()).statistic for by in (stats.pearsonr, stats.spearmanr)]
        )
    expected["loss/coverage"] = np.mean(losses)
    expected["coverage_pearson"], expected["coverage_spearman"] = np.mean(of_cells, axis=0)
    parts = [found[f"validation/loss/{name}"] for name in Weights._fields]
    expected["loss"] = np.dot(WEIGHTS, parts)
    for name, value in expected.items():
        assert found[f"validation/{name}"] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    others = {"validation/loss/nucleotides", "validation/nucleotide_gain"}
    assert found.keys() == {f"validation/{name}" for name in expected} | others
    # a model that has learnt nothing is wrong by about what a fair die is
    letters, base = trainer.letter_losses(rows)
    assert letters == found["validation/loss/nucleotides"]
    assert found["validation/nucleotide_gain"] == base - letters and 1.2 < letters < 3


def test_letters_are_asked_for_in_cell_types_that_are_drawn(trainer, monkeypatch):
    asked = []

    def spy(call, size, letters, hidden, before, activity, cell):
        asked.append(cell)
        return np.ones(len(cell)), np.ones(len(cell))

    monkeypatch.setattr(trainer, "_in_batches", spy)
    rows = trainer.data.mpra.rows("train")
    for _ in range(2):
        trainer.letter_losses(rows)
    assert len(asked[0]) == len(np.unique(trainer.data.mpra.table.sequence[rows]))
    assert set(asked[0]) == {1, 2}
    np.testing.assert_array_equal(*asked)


@pytest.mark.parametrize(("modalities", "exports"), [("mpra", True), ("tracks", False)])
def test_a_model_without_labels_is_not_exported(modalities, exports, tmp_path):
    trainer = toy_trainer(modalities)
    assert trainer.exports == exports
    if not exports:
        trainer.save(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_training_lowers_each_loss(trainer):
    data = trainer.data
    of = examples(data)._replace(valid_rows=data.mpra.rows("train"), valid_windows=toy_windows(6))
    before = trainer.measure(of)
    train(trainer, 120, of)
    after = trainer.measure(of)
    for name in ("activity", "coverage"):
        assert after[f"validation/loss/{name}"] < 0.7 * before[f"validation/loss/{name}"], name
    assert after["validation/loss/nucleotides"] < before["validation/loss/nucleotides"]
    assert after["validation/activity_pearson"] > 0.6 and after["validation/coverage_pearson"] > 0.6


def test_reset_and_a_late_start_give_the_same_bits(trainer):
    first = train(trainer, 5)
    weights = checkpoints.arrays(trainer.model.variables)
    train(trainer, 2, seed=9)
    trainer.reset(3)
    assert train(trainer, 3) == first[:3]
    assert train(trainer, 2, start=3) == first[3:]
    for name, value in checkpoints.arrays(trainer.model.variables).items():
        np.testing.assert_array_equal(value, weights[name], err_msg=name)
    trainer.reset(4)
    assert train(trainer, 1, seed=4) != first[:1]


@pytest.mark.parametrize("modalities", ["mpra", "tracks"])
def test_a_modality_alone_has_its_own_losses_and_variables(modalities):
    trainer = toy_trainer(modalities)
    of = examples(trainer.data, modalities)
    batch = next(trainer.batches(of, 3, 0))
    assert {name.partition("/")[0] for name in batch} == {modalities}
    with tf.GradientTape() as tape:
        loss, parts = trainer._loss(batch, True, tf.constant([3, 1]))
    expected = {"mpra": {"loss/activity", "loss/nucleotides"}, "tracks": {"loss/coverage"}}[modalities]
    assert parts.keys() == expected
    gradients = tape.gradient(loss, trainer.optimizer.variables)
    named = [v.name.partition("/")[2] for v in trainer.optimizer.variables]
    idle = {name for name, gradient in zip(named, gradients, strict=True) if gradient is None}
    own = {"mpra": ("activity", "letters"), "tracks": ("coverage",)}
    for one, words in own.items():
        for word in words:
            of_word = {name for name in named if f"to_{word}" in name or f"{word}_embedding" in name}
            assert of_word and (of_word <= idle) == (one != modalities), word
    values = {"mpra": Weights(0.5, 2.0, 0.0), "tracks": Weights(0.0, 0.0, 3.0)}[modalities]
    parts = {name.removeprefix("loss/"): value for name, value in parts.items()}
    total = sum(getattr(values, name) * value for name, value in parts.items())
    np.testing.assert_allclose(loss, total, rtol=1e-6)


def test_without_a_weight_letters_are_no_loss():
    trainer = toy_trainer(weights=Weights(1.0, 0.0, 1.0))
    batch = next(trainer.batches(examples(trainer.data), 3, 0))
    loss, parts = trainer._loss(batch, True, tf.constant([3, 1]))
    assert parts.keys() == {"loss/activity", "loss/coverage"}
    np.testing.assert_allclose(loss, sum(parts.values()), rtol=1e-6)


def test_the_measured_value_is_no_input_of_its_prediction(trainer):
    train(trainer, 5)
    rows = trainer.data.mpra.rows("test")
    expected = trainer.predict_activity(rows)
    values = trainer.data.mpra.table.activity
    whole = trainer.data
    for other in (np.random.default_rng(0).permutation(values), np.full_like(values, np.nan)):
        trainer.data = with_activity(whole, other)
        np.testing.assert_array_equal(trainer.predict_activity(rows), expected)
    trainer.data = whole
    # the letters of `nucleotides` are conditioned on it, and do change
    reference = trainer.letter_losses(rows)[0]
    trainer.data = with_activity(whole, values + 2)
    assert trainer.letter_losses(rows)[0] != reference
    trainer.data = whole


def test_labels_of_a_hidden_cell_type_are_in_no_batch(trainer):
    data = trainer.data
    marked = with_activity(data, np.where(data.mpra.cell == 2, 1e6, data.mpra.table.activity))
    rows = [marked.mpra.rows(subset, without=(2,)) for subset in ("train", "valid")]
    assert marked.mpra.table.activity[np.concatenate(rows)].max() < 1e6
    trainer.data = marked
    try:
        of = Examples(*rows, toy_windows(6), toy_windows(6, 1))
        for batch in islice(trainer.batches(of, 3, 0), 60):
            assert set(batch["mpra/cell"].numpy()) == {1}
            assert np.nanmax(batch["mpra/activity"]) < 1e6
            known = batch["mpra/known_activity"].numpy()
            assert not (known == 1e6).any()
        assert trainer.measure(of)["validation/loss/activity"] < 1e3
    finally:
        trainer.data = data


def test_a_prediction_does_not_depend_on_its_batch(trainer):
    rows = trainer.data.mpra.rows("train")
    whole = trainer.predict_activity(rows)  # one full batch and a part of one
    np.testing.assert_allclose(trainer.predict_activity(rows[:1]), whole[:1], rtol=1e-6)
    np.testing.assert_allclose(trainer.predict_activity(rows[::-1]), whole[::-1], rtol=1e-6)


def test_the_prediction_for_an_unseen_cell_type_is_the_mean_of_the_others(trainer):
    rows = trainer.data.mpra.rows("test")
    of_c = trainer.data.mpra.cell[rows] == 2
    expected = trainer.predict_activity(rows)
    expected[of_c] = (trainer.predict_activity(rows[of_c], 0) + trainer.predict_activity(rows[of_c], 1)) / 2
    assert of_c.any() and not of_c.all()
    found = toy_trainer(unseen=("c",)).predict_activity(rows)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.abs(found - trainer.predict_activity(rows))[of_c].min() > 1e-4


def test_a_saved_model_predicts_every_cell_type(trainer, tmp_path):
    train(trainer, 2)
    trainer.save(tmp_path)
    rows = trainer.data.mpra.rows("test")
    sequences = trainer.data.mpra.codes[trainer.data.mpra.table.sequence[rows]]
    one_hot = np.eye(7, dtype=np.float32)[sequences][..., :4]
    expected = trainer.predict_activity(rows)
    model = checkpoints.load(tmp_path / "checkpoint")
    served = tf.saved_model.load(str(tmp_path / "saved_model"))
    found = model(tf.constant(one_hot))["activity"].numpy()
    assert found.shape == (len(rows), 3)
    ends_in_n = sequences[np.arange(len(rows)), (sequences < 6).sum(1) - 1] == 4  # taken for shorter ones
    assert not ends_in_n.all()
    np.testing.assert_allclose(
        found[np.arange(len(rows)), trainer.data.mpra.cell[rows]][~ends_in_n], expected[~ends_in_n], rtol=1e-5
    )
    np.testing.assert_allclose(served(tf.constant(one_hot)), found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("unseen", [(), ("c",)])
def test_a_sample_is_what_a_saved_model_answers_for_its_sequences(trainer, unseen):
    """Of a is nothing measured; an unseen c is the mean of the others."""
    one = toy_trainer(unseen=unseen) if unseen else trainer
    mpra = one.data.mpra
    rows = mpra.rows("train")
    numbers = np.unique(mpra.table.sequence[rows])
    whole = [number for number in numbers if not mpra.table.sequences[number].endswith("N")][:8]
    assert whole != numbers[:8].tolist()  # one of the first ends with N
    found = one.sample_table(rows).to_pandas()
    assert found["name"].tolist() == [f"s{number}" for number in whole for _ in CELL_TYPES]
    assert found["cell_type"].tolist() == [*CELL_TYPES] * 8
    assert found["sequence"].iloc[::3].tolist() == [
        mpra.table.sequences[number].ljust(MPRA_LEN, "N") for number in whole
    ]
    answer = one.model(np.stack([dna.one_hot(letters) for letters in found["sequence"].iloc[::3]]))
    np.testing.assert_allclose(found["predicted"], answer["activity"].numpy().ravel(), rtol=1e-5)
    measured = found["activity"].to_numpy().reshape(-1, 3)
    assert np.isnan(measured[:, 0]).all()
    np.testing.assert_array_equal(
        measured[:, 1:].ravel(), mpra.table.activity[rows][np.isin(mpra.table.sequence[rows], whole)]
    )
    ends = [n for n, sequence in enumerate(mpra.table.sequences) if sequence.endswith("N")]
    assert one.sample_table(np.flatnonzero(np.isin(mpra.table.sequence, ends))) is None


def test_base_entropy_is_that_of_scipy():
    letters = np.random.default_rng(0).choice(4, 999, p=[0.5, 0.3, 0.2, 0.0])
    assert base_entropy(letters) == pytest.approx(stats.entropy(np.bincount(letters, minlength=4)))
    assert base_entropy(np.arange(4)) == pytest.approx(np.log(4)) and base_entropy(np.zeros(5, int)) == 0


def test_means_are_over_what_is_defined():
    pairs = [(0.5, 0.25), (np.nan, np.nan), (0.1, 0.35)]
    assert mean_numbers("x", pairs) == {"x_pearson": pytest.approx(0.3), "x_spearman": pytest.approx(0.3)}
    assert mean_numbers("x", pairs[1:2]) == mean_numbers("x", []) == {}


def test_dropout_is_drawn_from_seed_and_step():
    trainer = toy_trainer(augment=False)
    config = dataclasses.replace(trainer.model.config, dropout=0.5)
    dropping = JointTrainer(
        config, trainer.data, modalities="both", mpra_batch_size=8, track_batch_size=4, weights=WEIGHTS,
        augment=False, clip_norm=0.0, weight_decay=0.0,
    )  # fmt: skip
    batch = next(dropping.batches(examples(trainer.data), 3, 0))
    keys = ([3, 1], [3, 1], [3, 2], [4, 1])
    losses = [float(dropping._loss(batch, True, tf.constant(key))[0]) for key in keys]
    assert losses[0] == losses[1] and len(set(losses)) == 3
    assert float(dropping._loss(batch, False, tf.constant([3, 1]))[0]) not in losses
