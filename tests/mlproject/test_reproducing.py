"""Whether a model is the one that its run has measured: against numbers made here."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from enformer_core import dna
from enformer_core.perceiver import Perceiver
from enformer_core.saved_model import Predictor
from mlproject.data.mpra import codes
from mlproject.errors import InputError
from mlproject.reproducing import (
    check_reproduced,
    reproduce_activity,
    reproduce_cell_types,
    reproduce_tracks,
    saved_model_predictions,
)
from toys import toy_model, toy_perceiver_config

RANDOM = np.random.default_rng(0)
LETTERS = "".join(RANDOM.choice([*"ACGTN"], 2048))
FIRST = 10  # the tracks are rows 10 and on of a larger table, and have its numbers
TRACKS = [{"index": str(FIRST + column)} for column in range(9)]


@pytest.fixture(scope="module")
def model():
    return toy_model(seed=1)


@pytest.fixture(scope="module")
def predict(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "saved_model"
    Predictor(model).save(folder)
    return saved_model_predictions(folder)


def kept(model, tracks=(2, 0), scale=1.0):
    """What a run would have kept of `LETTERS`: a sample, and signal of some tracks."""
    head = next(iter(model.heads))
    answer = model(dna.one_hot(LETTERS)[np.newaxis], is_training=False)[head].numpy()[0] * scale
    signal = pd.DataFrame(
        {
            "index": [FIRST + track for track in tracks],
            "predicted": [answer[:, track] for track in tracks],
            "measured": [answer[:, track] + RANDOM.normal(0, 0.1, len(answer)) for track in tracks],
        }
    )
    return head, pd.DataFrame({"chrom": ["chr1"], "start": [0], "sequence": [LETTERS]}), signal


def test_the_model_that_was_measured_is_reproduced(model, predict):
    head, sample, signal = kept(model)
    found = reproduce_tracks(predict, head, sample, signal, TRACKS)
    assert found.numbers == 2 * 14 and found.apart < 1e-5
    measured, predicted = (np.concatenate([*signal[name]]) for name in ("measured", "predicted"))
    assert found.kept == pytest.approx(np.corrcoef(measured, predicted)[0, 1])
    assert found.found == pytest.approx(found.kept, abs=1e-5)
    check_reproduced(found, "runs:/x")


def test_a_track_that_the_head_does_not_have(model, predict):
    with pytest.raises(InputError, match=r"track 12, which head \w+ does not have"):
        reproduce_tracks(predict, *kept(model), TRACKS[:2])


def test_another_model_is_refused(predict):
    found = reproduce_tracks(predict, *kept(toy_model(seed=2)), TRACKS)
    with pytest.raises(InputError, match=r"^runs:/x: does not predict .*not registered$"):
        check_reproduced(found, "runs:/x")


def test_a_model_that_answers_nan_is_refused(model):
    head, sample, signal = kept(model)
    found = reproduce_tracks(lambda _: {head: np.full((1, 14, 9), np.nan)}, head, sample, signal, TRACKS)
    with pytest.raises(InputError, match="does not predict"):
        check_reproduced(found, "runs:/x")


def test_activity_of_the_first_windows_is_compared():
    def predict(sequences):  # the share of A
        return {"activity": sequences[:, :, 0].mean(1, keepdims=True)}

    sample = pd.DataFrame({"sequence": ["AACC", "ACGT", "TTTA"]})
    predictions = pd.DataFrame({"predicted": [0.5, 0.25, 0.25, 9.0], "activity": [1.0, 0.5, 0.4, 0.0]})
    found = reproduce_activity(predict, sample, predictions)
    assert (found.numbers, found.apart) == (3, 0.0)
    assert found.kept == pytest.approx(np.corrcoef([0.5, 0.25, 0.25], [1.0, 0.5, 0.4])[0, 1])
    predictions["predicted"] *= 1.1
    assert reproduce_activity(predict, sample, predictions).apart == pytest.approx(0.1 / 1.1)


# Activities around 20, as logarithms may lie: 1% of the largest value is 0.4 of their standard deviation.
JOINT = {"cell_types": ("a", "b", "c"), "activity_mean": 20.0, "activity_sd": 0.5}
MPRA = ("ACGTNACGA", "GGC", "TTACGA", "CNA")  # as long as the model takes, or shorter


def exported(folder, seed=3, **changes):
    """A Perceiver, and what its SavedModel answers."""
    model = Perceiver(toy_perceiver_config(**{**JOINT, **changes}), seed=seed)
    Predictor(model).save(folder)
    return model, saved_model_predictions(folder)


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("exported") / "joint")


@pytest.fixture
def cell_sample(joint):
    """What a run would have kept of `MPRA`: of b is nothing measured."""
    model, _ = joint
    rows = []
    for letters in MPRA:
        code = tf.constant(codes([letters], 9), tf.int32)
        for number, name in enumerate(model.config.cell_types):
            predicted = float(model.activity(code, tf.constant([number]))[0])
            rows.append(
                (letters.ljust(9, "N"), name, 19.5 + len(rows) / 9 if name != "b" else np.nan, predicted)
            )
    return pd.DataFrame(rows, columns=["sequence", "cell_type", "activity", "predicted"])


def test_activity_is_compared_in_every_cell_type(joint, cell_sample):
    """Of sequences shorter than the model's, whatever the order of rows."""
    model, predict = joint
    for sample in (cell_sample, cell_sample[::-1], cell_sample.sample(frac=1, random_state=0)):
        found = reproduce_cell_types(predict, sample, model.config.cell_types)
        assert found.numbers == 12 and found.apart < 1e-4
        known = sample.dropna()
        assert found.kept == pytest.approx(np.corrcoef(known["activity"], known["predicted"])[0, 1])
        assert found.found == pytest.approx(found.kept, abs=1e-3)
        check_reproduced(found, "runs:/x")


@pytest.mark.parametrize("cell_type", JOINT["cell_types"])
def test_a_cell_type_that_differs_is_refused(joint, cell_sample, cell_type):
    """Though by less than 1% of the value."""
    model, predict = joint
    cell_sample.loc[cell_sample["cell_type"] == cell_type, "predicted"] += 0.1
    found = reproduce_cell_types(predict, cell_sample, model.config.cell_types)
    mean = cell_sample["activity"].mean()
    distance = np.abs(np.append(cell_sample["predicted"], cell_sample["activity"].dropna()) - mean).max()
    assert found.apart == pytest.approx(0.1 / distance, rel=1e-3)
    with pytest.raises(InputError, match=r"^runs:/x: does not predict .*not registered$"):
        check_reproduced(found, "runs:/x")


def test_another_joint_model_is_refused(cell_sample, tmp_path):
    _, predict = exported(tmp_path / "other", seed=4)
    with pytest.raises(InputError, match="does not predict"):
        check_reproduced(reproduce_cell_types(predict, cell_sample, JOINT["cell_types"]), "runs:/x")
    others = ("a", "b", "d")
    with pytest.raises(
        InputError, match=r"^the model answers for a, b, d, and .* is of a, b, c; it is another"
    ):
        reproduce_cell_types(predict, cell_sample, others)
    _, predict = exported(tmp_path / "longer", mpra_len=11)
    with pytest.raises(InputError, match=r"^the model takes sequences of 11 bp; these are of 9 bp$"):
        reproduce_cell_types(predict, cell_sample, JOINT["cell_types"])
