import numpy as np
import pytest
import tensorflow as tf

from enformer_core.activity import ActivityModel
from enformer_core.heads import ActivityHeadConfig
from mlproject.data.constructs import Site
from mlproject.errors import InputError
from mlproject.inference import WindowPredictor, site_maxima
from mlproject.tensorhub import TensorHubModel
from toys import toy_model, toy_sequence

HEAD = ActivityHeadConfig(2, 8, 8)
# XLA orders its sums differently from eager execution
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def model():
    """An activity model on 1,024 bp, 8 bins, with nothing cropped."""
    return ActivityModel(toy_model(sequence_length=1024, target_length=None), HEAD, seed=2)


@pytest.fixture(scope="module")
def windows():
    return toy_sequence(5, 1024, seed=4).numpy()


def test_a_fine_tuned_model_predicts_activity_and_signal(model, windows):
    predict = WindowPredictor(model, "human", 2, batch_size=2)
    found = predict(windows)
    expected = model(windows, is_training=False)["activity"]
    signal = model.enformer(windows, is_training=False)["human"]
    assert found.activity.dtype == found.signal.dtype == np.float32
    np.testing.assert_allclose(found.activity, expected[:, 0], **CLOSE)
    np.testing.assert_allclose(found.signal, signal[..., 2], **CLOSE)
    assert np.ptp(found.activity) > 1e-4  # so that an exchange of windows would show


def test_the_size_of_a_batch_changes_no_answer(model, windows):
    predict = WindowPredictor(model, "mouse", 1, batch_size=2)
    together = predict(windows)
    for row, window in enumerate(windows):
        alone = predict(window[np.newaxis])
        assert alone.activity.shape == (1,) and alone.signal.shape == (1, 8)
        np.testing.assert_allclose(alone.activity[0], together.activity[row], rtol=1e-6)
        np.testing.assert_allclose(alone.signal[0], together.signal[row], rtol=1e-6)
    fours = WindowPredictor(model, "mouse", 1, batch_size=4)(windows)
    np.testing.assert_allclose(fours.activity, together.activity, **CLOSE)
    np.testing.assert_allclose(fours.signal, together.signal, **CLOSE)


def test_batches_are_of_one_size(windows):
    sizes = []

    class Model(TensorHubModel):
        def __init__(self):
            self.heads = {}

        def predict(self, sequence, head):
            sizes.append(len(sequence))
            return np.asarray(sequence)[:, ::128, :3] if head == "human" else None

    found = WindowPredictor(Model(), "human", 1, batch_size=3)(windows)
    assert sizes == [3, 3]
    np.testing.assert_array_equal(found.signal, windows[:, ::128, 1])
    assert found.activity.shape == (5,) and np.isnan(found.activity).all()


def test_a_trunk_alone_has_no_activity(model, windows):
    found = WindowPredictor(model.enformer, "mouse", 0, batch_size=2)(windows)
    assert found.activity.shape == (5,) and np.isnan(found.activity).all()
    expected = model.enformer(windows, is_training=False)["mouse"][..., 0]
    np.testing.assert_allclose(found.signal, expected, **CLOSE)


@pytest.mark.parametrize(
    ("head", "track", "said"),
    [
        ("mose", 0, "--head: found 'mose'; did you mean mouse?; the model has human, mouse"),
        ("yeast", 0, "--head: found 'yeast'; the model has human, mouse"),
        ("mouse", 2, "--track: found 2; head mouse has tracks 0 to 1"),
    ],
)
def test_heads_and_tracks_that_are_not_there(model, head, track, said):
    for either in (model, model.enformer):
        with pytest.raises(InputError) as caught:
            WindowPredictor(either, head, track, batch_size=2)
        assert str(caught.value) == said


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The TF-Hub form, whose head human says how often A and C stand in a bin."""

    class Inner(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 393_216, 4], tf.float32)])
        def predict_on_batch(self, sequence):
            counts = tf.reduce_sum(tf.reshape(sequence, [-1, 3072, 128, 4]), 2)
            return {"human": counts[:, 1088:-1088, :2]}

    outer = tf.Module()
    outer.model = Inner()
    folder = tmp_path_factory.mktemp("hub") / "enformer"
    tf.saved_model.save(outer, str(folder))
    return TensorHubModel(folder)


def test_the_tf_hub_form_has_signal_only(hub, windows):
    found = WindowPredictor(hub, "human", 1, batch_size=2)(windows)
    np.testing.assert_array_equal(found.signal, windows.reshape(5, 8, 128, 4).sum(2)[..., 1])
    assert np.isnan(found.activity).all() and found.activity.shape == (5,)
    with pytest.raises(InputError, match=r"enformer: no head 'mouse'; it has human$"):
        WindowPredictor(hub, "mouse", 0, batch_size=2)(windows)
    with pytest.raises(InputError, match=r"^--track: found 2; head human has tracks 0 to 1$"):
        WindowPredictor(hub, "human", 2, batch_size=2)(windows)


# --- sites --------------------------------------------------------------------------------------------------------


def maxima_by_base(signal, sites, offset):
    """Base by base: each base of the window is in one bin."""
    found = {}
    for number, site in enumerate(sites):
        bases = [base - offset for base in range(site.start, site.end)]
        values = [signal[base // 128] for base in bases if 0 <= base < 128 * len(signal)]
        if values:
            found[number] = max(values)
    return found


def test_sites_are_read_in_every_bin_that_has_a_base_of_theirs():
    random = np.random.default_rng(0)
    outside = 0
    for _ in range(300):
        signal = random.normal(size=random.integers(1, 9)).astype(np.float32)
        starts = random.integers(0, 2000, 6)
        sites = [
            Site("s", int(start), int(start + random.choice([1, 20, 128, 129, 700]))) for start in starts
        ]
        offset = int(random.integers(0, 1200))
        expected = maxima_by_base(signal, sites, offset)
        outside += len(sites) - len(expected)
        assert site_maxima(signal, sites, offset) == expected
    assert 0 < outside < 6 * 300


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 1000, None),  # it ends where the window starts
        (999, 1001, 0),
        (1127, 1128, 0),
        (1127, 1129, 1),
        (1128, 1256, 1),
        (1383, 1384, 2),
        (1384, 1385, None),  # it starts where the window ends
        (0, 5000, 2),
    ],
)
def test_the_ends_of_bins_and_of_the_window(start, end, expected):
    found = site_maxima(np.arange(3.0), [Site("s", start, end)], 1000)
    assert found == ({} if expected is None else {0: expected})
