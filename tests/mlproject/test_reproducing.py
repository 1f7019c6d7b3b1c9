"""Whether a model is the one that its run has measured: against numbers made here."""

import numpy as np
import pandas as pd
import pytest

from enformer_core import dna
from enformer_core.saved_model import Predictor
from mlproject.errors import InputError
from mlproject.reproducing import (
    check_reproduced,
    reproduce_activity,
    reproduce_tracks,
    saved_model_predictions,
)
from toys import toy_model

RANDOM = np.random.default_rng(0)
LETTERS = "".join(RANDOM.choice([*"ACGTN"], 2048))


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
            "index": tracks,
            "predicted": [answer[:, track] for track in tracks],
            "measured": [answer[:, track] + RANDOM.normal(0, 0.1, len(answer)) for track in tracks],
        }
    )
    return head, pd.DataFrame({"chrom": ["chr1"], "start": [0], "sequence": [LETTERS]}), signal


def test_the_model_that_was_measured_is_reproduced(model, predict):
    head, sample, signal = kept(model)
    found = reproduce_tracks(predict, head, sample, signal)
    assert found.numbers == 2 * 14 and found.apart < 1e-5
    measured, predicted = (np.concatenate([*signal[name]]) for name in ("measured", "predicted"))
    assert found.kept == pytest.approx(np.corrcoef(measured, predicted)[0, 1])
    assert found.found == pytest.approx(found.kept, abs=1e-5)
    check_reproduced(found, "runs:/x")


def test_another_model_is_refused(predict):
    found = reproduce_tracks(predict, *kept(toy_model(seed=2)))
    with pytest.raises(InputError, match=r"^runs:/x: does not predict .*not registered$"):
        check_reproduced(found, "runs:/x")


def test_a_model_that_answers_nan_is_refused(model):
    head, sample, signal = kept(model)
    found = reproduce_tracks(lambda _: {head: np.full((1, 14, 9), np.nan)}, head, sample, signal)
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
