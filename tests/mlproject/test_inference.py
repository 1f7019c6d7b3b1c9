import numpy as np
import pytest
import tensorflow as tf

from enformer_core.activity import ActivityModel
from enformer_core.heads import ActivityHeadConfig, TrackHeadConfig
from enformer_core.track_model import TrackModel
from mlproject.data.constructs import Site
from mlproject.errors import InputError
from mlproject.inference import (
    SignalPredictor,
    WindowPredictor,
    count_tracks,
    digest,
    geometry,
    site_maxima,
    track_heads,
)
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


# --- signal over fragments ----------------------------------------------------------------------------------------

PARTNERS = [0, 2, 1]  # of the three tracks of head human


@pytest.fixture(scope="module")
def cropped():
    """2,048 bp, of whose 16 bins the central 14 are predicted."""
    return toy_model(seed=5)


def by_hand(model, head, tracks, sequences, length, bins, shifts, both):
    """Every prediction that is averaged, by calls of the whole model: `[predictions, n, bins, tracks]`."""
    found = []
    for shift in range(shifts + 1):
        window = sequences[:, shift : shift + length]
        values = model(window, is_training=False)[head].numpy()
        first = (values.shape[1] - bins + 1) // 2
        found.append(values[:, first : first + bins][..., tracks])
        if both:
            values = model(window[:, ::-1, ::-1], is_training=False)[head].numpy()[:, ::-1]
            partners = [PARTNERS[track] for track in tracks]
            found.append(values[:, (values.shape[1] - bins) // 2 :][:, :bins][..., partners])
    return np.array(found, np.float64)


@pytest.mark.parametrize(
    ("target", "length", "expected"),
    [
        (14, 0, (2048, 14, 128)),
        (14, 2048, (2048, 14, 128)),
        (14, 1024, (1024, 8, 0)),  # of another length nothing is cropped
        (None, 0, (2048, 16, 0)),
        (13, 0, (2048, 13, 128)),
    ],
)
def test_what_a_call_reads_and_predicts(target, length, expected):
    model = toy_model(target_length=target)
    assert tuple(geometry(model, length, False)) == expected
    both = geometry(model, length, True)
    assert tuple(both) == ((2048, 12, 256) if target == 13 else expected)
    assert both.span == 128 * both.bins


@pytest.mark.parametrize(
    ("target", "length", "shifts", "both"),
    [(14, 0, 0, False), (14, 0, 3, True), (14, 1024, 2, True), (13, 0, 0, True), (15, 0, 1, True)],
)
def test_signal_is_the_mean_over_windows_and_strands(target, length, shifts, both):
    model = toy_model(seed=5, target_length=target)
    shape = geometry(model, length, both)
    sequences = toy_sequence(3, shape.length + shifts, seed=9).numpy()
    tracks = [2, 0]
    predict = SignalPredictor(
        model,
        "human",
        tracks,
        [PARTNERS[track] for track in tracks],
        shape,
        shifts=shifts,
        both_strands=both,
        variance=True,
        batch_size=3,
    )
    expected = by_hand(model, "human", tracks, sequences, shape.length, shape.bins, shifts, both)
    found = predict(sequences)
    assert predict.count == len(expected) and predict.length == sequences.shape[1]
    assert predict.before == shape.flank + shifts // 2
    assert found.mean.dtype == np.float64 and found.mean.shape == expected.shape[1:]
    np.testing.assert_allclose(found.mean, expected.mean(0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.spread / len(expected), expected.var(0), rtol=0, atol=1e-6)
    if len(expected) > 1:  # that an exchange of windows, bins or tracks would show
        assert expected.var(0).max() > 1e-5
    alone = predict(sequences[1:2])
    np.testing.assert_allclose(alone.mean, found.mean[1:2], rtol=1e-6)


def test_without_variance_none_is_summed(cropped):
    how = {"shifts": 0, "both_strands": False, "variance": False, "batch_size": 1}
    predict = SignalPredictor(cropped, "mouse", [1], [1], geometry(cropped, 0, False), **how)
    assert predict(toy_sequence(1).numpy()).spread is None


def test_a_trained_head_and_the_trunk_of_an_activity_model(model, cropped):
    trained = TrackModel(toy_model(seed=5), TrackHeadConfig(4, num_heads=1, key_size=4), "mine", seed=3)
    assert list(track_heads(trained)) == ["mine"] and count_tracks(trained, "mine") == 4
    assert list(track_heads(model)) == ["human", "mouse"] and count_tracks(model, "mouse") == 2
    how = {"shifts": 0, "both_strands": False, "variance": False, "batch_size": 1}
    sequences = toy_sequence(1, seed=2).numpy()
    predict = SignalPredictor(trained, "mine", [3, 1], [3, 1], geometry(trained, 0, False), **how)
    expected = trained(sequences, is_training=False)["mine"].numpy()[..., [3, 1]]
    np.testing.assert_allclose(predict(sequences).mean, expected, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="--head: found 'mins'; did you mean mine"):
        count_tracks(trained, "mins")


def test_signal_of_the_tf_hub_form(hub):
    shape = geometry(hub, 1024, True)
    assert shape == (1024, 8, 0) and geometry(hub, 0, True) == (196_608, 896, 40_960)
    how = {"shifts": 1, "both_strands": True, "variance": False, "batch_size": 2}
    sequences = toy_sequence(2, 1025, seed=3).numpy()
    found = SignalPredictor(hub, "human", [1], [0], shape, **how)(sequences).mean
    windows = [sequences[:, shift : shift + 1024].reshape(2, 8, 128, 4).sum(2) for shift in (0, 1)]
    # the other strand has a T for each A, and its track 0 is A
    expected = np.mean([window[..., strand] for window in windows for strand in (1, 3)], 0)
    np.testing.assert_allclose(found[..., 0], expected, rtol=1e-6)
    assert count_tracks(hub, "human") == 2
    with pytest.raises(InputError, match="no head 'mouse'; it has human"):
        count_tracks(hub, "mouse")
    with pytest.raises(InputError, match="--length: found 393344; the TF-Hub form takes 393216 bp at most"):
        geometry(hub, 393_344, False)


def test_one_bin_after_an_odd_crop_has_one_strand():
    model = toy_model(target_length=1)
    assert geometry(model, 0, False).bins == 1
    with pytest.raises(InputError, match="--strands: both strands of one bin after an odd crop share none"):
        geometry(model, 0, True)


def test_the_digest_of_a_model_is_of_what_it_predicts_with(model, cropped, hub):
    assert digest(cropped) == digest(toy_model(seed=5)) != digest(toy_model(seed=6))
    assert digest(toy_model(positions="none")) != digest(
        toy_model(positions="rotary")
    )  # of the same variables
    assert digest(hub) == digest(TensorHubModel(hub.source)) and digest(model) != digest(model.enformer)
