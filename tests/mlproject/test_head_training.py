"""A head on a trunk that stays: from embeddings that are kept, and from ones made in every step."""

import functools
import itertools
import pickle
import shutil
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from enformer_core import checkpoints
from enformer_core.heads import TRACK_HEADS, TrackHeadConfig
from enformer_core.losses import poisson, poisson_multinomial
from enformer_core.track_model import TrackModel, track_head
from mlproject import embeddings, head_training
from mlproject.data.batches import other_strand, training_batches, windows_in_order
from mlproject.data.published_h5 import unnamed_targets
from mlproject.data.records import Example, TrackDataset, open_dataset, read_shard, write_shard
from mlproject.data.targets import strand_order, write_targets
from mlproject.embeddings import EmbeddingCache, sequence_key, trunk_embeddings
from mlproject.head_training import HeadTrainer, StoredHeadTrainer, StoredWindows, loss_function
from toys import TRACK_WINDOWS as COUNTS
from toys import toy_model, toy_tracks


class Toy(NamedTuple):
    """A trainer, its dataset, and where its embeddings are."""

    trainer: HeadTrainer
    dataset: TrackDataset
    folder: object


def make(
    dataset,
    folder,
    *,
    cache,
    both=False,
    head=None,
    loss="poisson",
    total_weight=0.2,
    clip_norm=0.0,
    decay=0.0,
):
    enformer = toy_model(seed=1)
    stored = None
    if cache:
        kept = trunk_embeddings(folder, enformer)
        stored = StoredWindows(kept, folder / "targets" / dataset.state[:8], dataset, list(COUNTS), both)
    model = TrackModel(enformer, TrackHeadConfig(3, **(head or {})), "lab")
    trainer = HeadTrainer(
        model,
        dataset,
        loss=loss_function(loss, total_weight),
        batch_size=2,
        clip_norm=clip_norm,
        weight_decay=decay,
        reverse_complement=both,
        stored=stored,
        work_dir=folder,
    )
    trainer.fill()
    trainer.compile()
    return Toy(trainer, dataset, folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toy_tracks(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def toys(dataset, tmp_path_factory):
    """Trainers by (cache, both strands), made once."""
    return functools.cache(
        lambda cache, both: make(dataset, tmp_path_factory.mktemp("work"), cache=cache, both=both)
    )


def train(trainer, count, start=0, seed=3):
    """The losses of steps on the batches from `start` on."""
    batches = trainer.batches(seed, start)
    return [
        float(trainer.step(batch, 1e-2, np.array([seed, number], np.int32))["loss"])
        for number, batch in enumerate(itertools.islice(batches, count), start + 1)
    ]


def weights(trainer):
    return checkpoints.arrays(trainer.model.head.variables)


@pytest.mark.slow
@pytest.mark.parametrize("both", [False, True])
def test_kept_embeddings_train_as_ones_made_in_every_step(toys, both):
    """To the rounding of float16, three digits."""
    found = {}
    for cache in (False, True):
        trainer = toys(cache, both).trainer
        trainer.reset(5)
        losses = train(trainer, 9)  # more than two passes
        found[cache] = losses, weights(trainer), trainer.evaluate("valid")
    np.testing.assert_allclose(found[True][0], found[False][0], rtol=1e-3)
    for name, array in found[False][1].items():
        np.testing.assert_allclose(found[True][1][name], array, atol=2e-3, err_msg=name)
    assert found[True][2].loss == pytest.approx(found[False][2].loss, rel=1e-3)
    np.testing.assert_allclose(found[True][2].pearson_r, found[False][2].pearson_r, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True])
def test_the_trunk_stays_bit_by_bit(toys, cache):
    """Every variable and BatchNorm average, in embedding, training and evaluation."""
    fresh = checkpoints.arrays(toy_model(seed=1).trunk_variables)
    trainer = toys(cache, True).trainer
    trainer.reset(1)
    head = weights(trainer)
    train(trainer, 4)
    trainer.evaluate("test")
    after = checkpoints.arrays(trainer.model.enformer.variables)
    assert after.keys() == fresh.keys() and sum("moving_mean" in name for name in after) > 5
    for name, array in fresh.items():
        assert array.tobytes() == after[name].tobytes(), name
    assert all(not np.array_equal(head[name], array) for name, array in weights(trainer).items())
    moves = {id(variable) for variable in trainer.optimizer.variables}
    assert moves == {id(variable) for variable in trainer.model.head.trainable_variables}


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True])
def test_evaluation_is_over_the_whole_split(toys, cache):
    """Against NumPy on predictions of the model itself, window by window; the last batch is smaller."""
    toy = toys(cache, False)
    toy.trainer.reset(2)
    train(toy.trainer, 2)
    for subset, count in COUNTS.items():
        windows = list(windows_in_order(toy.dataset, subset))
        assert len(windows) == count
        one_hot = np.concatenate([np.eye(4), np.zeros([1, 4])]).astype(np.float32)
        predicted = np.concatenate(
            [toy.trainer.model(one_hot[w.sequence][np.newaxis], is_training=False)["lab"] for w in windows]
        ).astype(np.float64)
        target = np.stack([w.target for w in windows]).astype(np.float64)
        found = toy.trainer.evaluate(subset)
        assert found.n == count * 14
        assert found.loss == pytest.approx((predicted - target * np.log(predicted + 1e-7)).mean(), rel=1e-3)
        for track in range(3):
            r = np.corrcoef(predicted[..., track].ravel(), target[..., track].ravel())[0, 1]
            assert found.pearson_r[track] == pytest.approx(r, abs=2e-3)
        shown, measured = toy.trainer.predict(subset, 3)
        assert len(shown) == len(measured) == 3
        np.testing.assert_allclose(shown, predicted[:3], rtol=5e-3)
        np.testing.assert_array_equal(measured, target[:3].astype(np.float32))
        assert len(toy.trainer.predict(subset, 100)[0]) == count


@pytest.mark.slow
def test_kept_windows_are_the_batches_with_their_embeddings(toys):
    toy = toys(True, True)
    embedded = toy.trainer.batches(3, start=2)
    plain = training_batches(toy.dataset, batch_size=2, seed=3, reverse_complement=True, start=2)
    for batch, expected in itertools.islice(zip(embedded, plain, strict=False), 6):
        np.testing.assert_array_equal(batch["target"], expected["target"])
        assert batch["embedding"].dtype == batch["target"].dtype == tf.float32
        embedding = toy.trainer.model.enformer.trunk(expected["sequence"], is_training=False)
        np.testing.assert_allclose(batch["embedding"], embedding, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_a_second_trainer_computes_nothing_and_another_strand_only_its_own(toys, dataset, capsys):
    toy = toys(True, False)
    before = toy.trainer.evaluate("valid")
    capsys.readouterr()
    again = make(dataset, toy.folder, cache=True)
    assert capsys.readouterr().out == ""
    again.trainer.reset(0)
    toy.trainer.reset(0)
    np.testing.assert_array_equal(again.trainer.evaluate("valid").r2, toy.trainer.evaluate("valid").r2)
    assert np.isfinite(before.r2).all()
    kept = trunk_embeddings(toy.folder, toy_model(seed=1))
    windows = StoredWindows(kept, toy.folder / "anew", dataset, ["train", "valid"], True)
    swap, asked = strand_order(dataset.targets), []

    def embed(codes):
        asked.extend(codes)
        return again.trainer.embed(codes)

    assert windows.fill(embed, batch_size=2) == 7
    assert "7 of 19 windows to compute" in capsys.readouterr().out
    expected = [other_strand(e, swap) for e in windows_in_order(dataset, "train")]
    np.testing.assert_array_equal(asked, [e.sequence for e in expected])
    found = windows.read("train", [4, 4, 0], [True, False, True])
    np.testing.assert_array_equal(found["target"][0], expected[4].target.astype(np.float32))
    np.testing.assert_array_equal(found["target"][2], expected[0].target.astype(np.float32))
    np.testing.assert_array_equal(found["target"][1], list(windows_in_order(dataset, "train"))[4].target)


def test_windows_that_were_left_by_a_kill_are_made_up_for(dataset, tmp_path, monkeypatch):
    """Shards of two windows; the process ends in the third."""
    monkeypatch.setattr(embeddings, "_SHARD_BYTES", 1)
    calls = []

    def embed(codes):
        calls.append(codes)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return np.repeat(codes[:, :14, np.newaxis], 96, 2).astype(np.float32)

    def stored():
        kept = EmbeddingCache(tmp_path / "trunk", 14, 96)
        return StoredWindows(kept, tmp_path / "targets", dataset, ["train", "valid"], True)

    with pytest.raises(KeyboardInterrupt):
        stored().fill(embed, batch_size=2)
    windows = stored()
    assert windows.fill(embed, batch_size=2) == 2 * 7 + 5 - 4
    train = list(windows_in_order(dataset, "train"))
    swap = strand_order(dataset.targets)
    for flipped in (False, True):
        found = windows.read("train", range(7), [flipped] * 7)
        expected = [other_strand(e, swap) if flipped else e for e in train]
        np.testing.assert_array_equal(found["embedding"][:, :, 5], [e.sequence[:14] for e in expected])
        np.testing.assert_array_equal(found["target"], [e.target.astype(np.float32) for e in expected])


class Counting:
    """Stands in for a trunk: the first codes of a window, and how many windows it was asked for."""

    def __init__(self):
        self.asked = 0

    def __call__(self, codes):
        self.asked += len(codes)
        return np.repeat(codes[:, :14, np.newaxis], 4, 2).astype(np.float32)


def stored_in(folder, dataset, both=False):
    """As the command keeps them."""
    kept = EmbeddingCache(folder / "trunk", 14, 4)
    return StoredWindows(kept, folder / "targets" / dataset.state[:16], dataset, list(COUNTS), both)


def test_other_tracks_over_the_same_windows_share_their_embeddings(dataset, tmp_path):
    """Another targets.txt, another bigWig, other splits: what the trunk says is the same."""
    trunk = Counting()
    stored_in(tmp_path, dataset, both=True).fill(trunk, batch_size=4)
    assert trunk.asked == 2 * 7 + 5 + 3
    shutil.copytree(dataset.folder, tmp_path / "other")
    path = tmp_path / "other" / "lab"
    windows = {subset: list(windows_in_order(dataset, subset)) for subset in COUNTS}
    for subset, taken in (("train", "valid"), ("valid", "train"), ("test", "test")):
        doubled = [Example(w.sequence, np.tile(w.target, 2)) for w in windows[taken]]
        write_shard(path / "tfrecords" / f"{subset}-0.tfr", doubled)
    counts = {"train_seqs": 5, "valid_seqs": 7, "test_seqs": 3}
    replace(dataset.statistics, num_targets=6, **counts).write(path / "statistics.json")
    write_targets(path / "targets.txt", unnamed_targets(6))
    other = stored_in(tmp_path, open_dataset(tmp_path / "other", "lab"))
    assert other.fill(trunk, batch_size=4) == 0 and trunk.asked == 22
    found = other.read("train", [2, 0], [False, False])
    np.testing.assert_array_equal(found["target"], [np.tile(windows["valid"][n].target, 2) for n in (2, 0)])
    np.testing.assert_array_equal(
        found["embedding"][:, :, 0], [windows["valid"][n].sequence[:14] for n in (2, 0)]
    )


def test_a_replaced_shard_of_the_same_size_is_seen(tmp_path):
    """Without a manifest, whose sha256 would tell: the file's time of change does."""
    trunk = Counting()
    folder = tmp_path / "data"
    dataset = toy_tracks(folder)
    stored_in(tmp_path, dataset).fill(trunk, batch_size=4)
    (shard,) = dataset.shards("valid")
    size, windows = shard.stat().st_size, list(windows_in_order(dataset, "valid"))
    for order in itertools.islice(itertools.permutations(range(5)), 1, None):
        swapped = [windows[row] for row in order]
        write_shard(shard, swapped)
        if shard.stat().st_size == size:
            break
    assert shard.stat().st_size == size
    again = open_dataset(folder, "lab")
    assert again.state != dataset.state and again.digest == dataset.digest
    stored = stored_in(tmp_path, again)
    stored.fill(trunk, batch_size=4)
    found = stored.read("valid", range(5), [False] * 5)
    np.testing.assert_array_equal(found["target"], [w.target.astype(np.float32) for w in swapped])
    np.testing.assert_array_equal(found["embedding"][:, :, 0], [w.sequence[:14] for w in swapped])


def test_windows_are_read_and_named_once(dataset, tmp_path, monkeypatch):
    """Not for every batch, nor by the next process."""
    named, read = [], []

    def naming(codes):
        named.append(codes)
        return sequence_key(codes)

    def reading(dataset, subset):
        read.append(subset)
        return windows_in_order(dataset, subset)

    monkeypatch.setattr(head_training, "sequence_key", naming)
    monkeypatch.setattr(head_training, "windows_in_order", reading)
    stored = stored_in(tmp_path, dataset, both=True)
    stored.fill(Counting(), batch_size=4)
    assert len(named) == 2 * (7 + 5 + 3)
    named.clear()
    for _ in range(3):
        stored.read("train", [0, 6, 6], [True, False, True])
    assert not named
    read.clear()
    again = stored_in(tmp_path, dataset, both=True)
    assert again.fill(Counting(), batch_size=4) == 0
    np.testing.assert_array_equal(
        again.read("test", [1], [False])["embedding"], stored.read("test", [1], [False])["embedding"]
    )
    assert not named and not read
    path = tmp_path / "targets" / dataset.state[:16] / "valid.sequences"
    path.write_bytes(path.read_bytes()[:-40])
    assert stored_in(tmp_path, dataset).fill(Counting(), batch_size=4) == 0
    assert len(named) == 2 * 5 and set(read) == {"valid"}


def test_pooled_targets_are_kept_as_float32(tmp_path):
    """Sums of bins are not rounded to float16."""
    dataset = toy_tracks(tmp_path / "data", pool_width=32)
    kept = EmbeddingCache(tmp_path / "trunk", 14, 1)
    windows = StoredWindows(kept, tmp_path / "targets", dataset, ["valid"], False)
    windows.fill(lambda codes: np.zeros([len(codes), 14, 1]), batch_size=4)
    found = windows.read("valid", range(5), [False] * 5)["target"].numpy()
    examples = read_shard(dataset.shards("valid")[0], dataset.statistics)
    stored = np.stack([e.target for e in examples]).astype(np.float32)
    np.testing.assert_allclose(found, stored.reshape(5, 14, 4, 3).sum(2), rtol=1e-6)
    assert (found != found.astype(np.float16)).any()


@pytest.mark.slow
@pytest.mark.parametrize("head", ["hidden", "attention"])
def test_other_heads_and_losses_train_and_start_again(dataset, toys, head):
    config = {**TRACK_HEADS[head], "key_size": 4, "value_size": 4}
    folder = toys(True, False).folder  # whose embeddings are there
    trainer = make(
        dataset, folder, cache=True, head=config, loss="poisson_multinomial", clip_norm=1.0
    ).trainer
    trainer.reset(5)
    first, before = weights(trainer), trainer.evaluate("train").loss
    losses = train(trainer, 40)
    assert trainer.evaluate("train").loss < before - 1e-3
    trainer.reset(5)
    for name, array in weights(trainer).items():
        np.testing.assert_array_equal(array, first[name])
    assert not any(state.any() for state in trainer.optimizer.state().values())
    assert train(trainer, 40) == losses
    trainer.reset(6)
    assert any(not np.array_equal(array, first[name]) for name, array in weights(trainer).items())


@pytest.mark.slow
def test_a_head_trains_without_its_trunk_as_with_it(dataset, toys):
    """In another process, and not compiled; the order of sums differs."""
    config = {"hidden_size": 6, "num_heads": 2, "key_size": 4, "value_size": 4, "dropout": 0.25}
    folder = toys(True, True).folder  # whose embeddings are there
    whole = make(dataset, folder, cache=True, both=True, head=config, clip_norm=1.0, decay=0.1).trainer
    stored, windows = pickle.loads(pickle.dumps((whole.stored, dataset)))
    alone = StoredHeadTrainer(
        track_head(TrackHeadConfig(3, **config), "lab"),
        windows,
        loss=loss_function("poisson", 0.2),
        batch_size=2,
        clip_norm=1.0,
        weight_decay=0.1,
        reverse_complement=True,
        stored=stored,
        compiled=False,
    )
    losses, found = [], []
    for trainer in (whole, alone):
        trainer.reset(5)
        losses.append(train(trainer, 9))
        found.append((trainer.evaluate("valid"), trainer.predict("test", 3)))
    assert np.ptp(losses[0]) > 0.05
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert found[1][0].loss == pytest.approx(found[0][0].loss, rel=1e-5)
    np.testing.assert_allclose(found[1][0].pearson_r, found[0][0].pearson_r, atol=1e-4)
    np.testing.assert_allclose(found[1][1][0], found[0][1][0], rtol=1e-4)
    alone.reset(5)
    assert train(alone, 9) == losses[1]
    names = [checkpoints.arrays(trainer.head.variables).keys() for trainer in (whole, alone)]
    assert names[0] == names[1]


@pytest.mark.slow
def test_what_is_saved_predicts_what_the_trainer_said(toys, tmp_path):
    """Of one head after another: the SavedModel is traced once."""
    toy = toys(True, False)
    sequences = np.stack([w.sequence for w in windows_in_order(toy.dataset, "test")])
    one_hot = np.concatenate([np.eye(4), np.zeros([1, 4])]).astype(np.float32)[sequences]
    for seed in (1, 2):
        toy.trainer.reset(seed)
        train(toy.trainer, 2)
        folder = tmp_path / str(seed)
        toy.trainer.save(folder, "random")
        expected, _ = toy.trainer.predict("test", 3)
        loaded = tf.saved_model.load(str(folder / "saved_model"))
        whole = checkpoints.load(folder / "checkpoint")
        trunk = toy_model(seed=1)
        alone = checkpoints.load_head(folder / "head", trunk)
        for model in (loaded, lambda x, m=whole: m(x, False)["lab"], lambda x, m=alone: m(x, False)["lab"]):
            np.testing.assert_allclose(model(one_hot), expected, rtol=5e-3)  # the embedding as float16
        np.testing.assert_array_equal(alone(one_hot, False)["lab"], whole(one_hot, False)["lab"])


def test_losses_by_name():
    random = np.random.default_rng(0)
    target, prediction = random.gamma(1.0, 1.0, (2, 2, 5, 3)).astype(np.float32)
    found = loss_function("poisson", 0.2)(target, prediction)
    assert float(found) == pytest.approx(float(np.mean(poisson(target, prediction))), rel=1e-6)
    for weight in (0.2, 1.0):
        found = loss_function("poisson_multinomial", weight)(target, prediction)
        expected = np.mean(poisson_multinomial(target, prediction, weight))
        assert float(found) == pytest.approx(float(expected), rel=1e-6)
