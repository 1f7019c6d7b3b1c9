from collections import Counter
from itertools import product

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold

from mlproject import baselines
from mlproject.data import batches
from mlproject.data.constructs import Construct, Site
from mlproject.data.published_h5 import unnamed_targets
from mlproject.data.records import Example, Statistics, open_dataset, write_shard
from mlproject.data.targets import write_targets
from toys import toy_constructs

COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}


def construct(letters="ACGTACGT", sites=(), index=0):
    return Construct(index, f"c{index}", "g", "k", "0", 0.5, tuple(sites), letters)


# --- features -----------------------------------------------------------------------------------------------------


def other_strand(letters):
    return "".join(COMPLEMENT[letter] for letter in reversed(letters))


def by_hand(letters):
    """Shares of 5-mers, each counted under the one of its two names that comes first in the alphabet."""
    counts = Counter()
    for start in range(len(letters) - 4):
        found = letters[start : start + 5]
        if "N" not in found:
            counts[min(found, other_strand(found))] += 1
    names = sorted({min(name, other_strand(name)) for name in map("".join, product("ACGT", repeat=5))})
    return np.array([counts[name] for name in names]) / max(1, counts.total())


def test_kmers_are_counted_on_either_strand_and_not_across_n():
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("ACGTN"), 700, p=[0.3, 0.2, 0.2, 0.25, 0.05])) for _ in range(4)]
    texts.append("ACGTN" * 140)  # no 5-mer without N
    found = baselines.kmer_frequencies([construct(text) for text in texts])
    assert found.shape == (5, 512)
    np.testing.assert_allclose(found, [by_hand(text) for text in texts], rtol=1e-12)
    np.testing.assert_allclose(found.sum(1), [1, 1, 1, 1, 0], rtol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 4])
def test_shares_of_plain_sequences(k):
    texts = ["ACGTTGCANNACC", "acgttGCAnnacc", "GATTACA", "AC", "", "NNNNN"]
    names = sorted({min(name, other_strand(name)) for name in map("".join, product("ACGT", repeat=k))})
    expected = []
    for text in map(str.upper, texts):
        mers = [text[at : at + k] for at in range(len(text) - k + 1)]
        mers = [min(mer, other_strand(mer)) for mer in mers if "N" not in mer]
        expected.append([mers.count(name) / max(1, len(mers)) for name in names])
    np.testing.assert_allclose(baselines.kmer_shares(iter(texts), k), expected, rtol=1e-12)
    assert baselines.kmer_shares([], 5).shape == (0, 512)


def test_gc_content_is_of_the_known_bases():
    texts = ["ACGT", "GGCCN", "AATN", "", "NN", "gA"]
    np.testing.assert_allclose(baselines.gc_content(iter(texts)), [0.5, 1, 0, 0, 0, 0.5], rtol=1e-15)


def test_kmers_of_the_other_strand_are_the_same():
    text = toy_constructs(1)[0].sequence
    forward, reverse = baselines.kmer_frequencies([construct(text), construct(other_strand(text))])
    np.testing.assert_array_equal(forward, reverse)


def test_sites_are_there_or_not():
    b, a, other = (Site(name, start, start + 5) for name, start in (("B", 0), ("A", 1), ("B", 3)))
    found = baselines.site_presence([construct(sites=[b, a, other]), construct(), construct(sites=[other])])
    assert found.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert baselines.site_presence([construct(), construct()]).shape == (2, 0)


# --- regression ---------------------------------------------------------------------------------------------------


@pytest.fixture
def made_up():
    """Features of 40 constructs, an activity that follows two of them, which 30 are known, and clusters."""
    random = np.random.default_rng(1)
    features = random.normal(size=(40, 6)) * [1, 10, 0.1, 3, 1, 0] + 2
    activity = features[:, 0] - 0.2 * features[:, 1] + random.normal(size=40)
    return features, activity, random.permutation(np.arange(40) < 30), [f"k{n // 4}" for n in range(40)]


def held_out_error(features, activity, penalty, splits):
    """Mean over splits of the squared error of a ridge regression, in closed form, on what it was not fitted to."""
    errors = []
    for fitted, held in splits:
        mean = features[fitted].mean(0)
        gram = (features[fitted] - mean).T @ (features[fitted] - mean) + penalty * np.eye(features.shape[1])
        known = activity[fitted].mean()
        weights = np.linalg.solve(gram, (features[fitted] - mean).T @ (activity[fitted] - known))
        errors.append(np.mean((activity[held] - known - (features[held] - mean) @ weights) ** 2))
    return np.mean(errors)


def test_ridge_is_the_closed_form_at_the_best_penalty(made_up):
    features, activity, known, clusters = made_up
    mean, deviation = features[known].mean(0), features[known].std(0)
    scaled = (features - mean) / np.where(deviation > 0, deviation, 1)
    penalties = 10 ** np.arange(-2, 6.01, 0.25)
    splits = list(GroupKFold(5).split(scaled[known], groups=np.array(clusters)[known]))
    for fitted, held in splits:  # relatives are held out together
        assert not {np.array(clusters)[known][n] for n in fitted} & {
            np.array(clusters)[known][n] for n in held
        }
    errors = [held_out_error(scaled[known], activity[known], penalty, splits) for penalty in penalties]
    best = penalties[np.argmin(errors)]
    assert penalties[0] < best < penalties[-1]
    gram = scaled[known].T @ scaled[known] + best * np.eye(6)
    weights = np.linalg.solve(gram, scaled[known].T @ (activity[known] - activity[known].mean()))
    found = baselines.ridge_predictions(features, activity, known, clusters)
    np.testing.assert_allclose(found, scaled @ weights + activity[known].mean(), rtol=1e-8)
    trusted = Ridge(best).fit(scaled[known], activity[known]).predict(scaled)
    np.testing.assert_allclose(found, trusted, rtol=1e-8)


def test_activities_that_are_not_known_do_not_matter(made_up):
    features, activity, known, clusters = made_up
    changed = np.where(known, activity, 1e6)
    before, after = (
        baselines.ridge_predictions(features, values, known, clusters) for values in (activity, changed)
    )
    np.testing.assert_array_equal(before, after)
    assert not np.array_equal(
        before, baselines.ridge_predictions(features, activity + known * features[:, 2], known, clusters)
    )


def test_without_features_there_is_no_prediction(made_up):
    _, activity, known, clusters = made_up
    assert np.isnan(baselines.ridge_predictions(np.zeros((40, 0)), activity, known, clusters)).all()


def test_one_cluster_alone_is_enough(made_up):
    features, activity, known, _ = made_up
    found = baselines.ridge_predictions(features, activity, known, ["k"] * 40)
    assert np.corrcoef(found[~known], activity[~known])[0, 1] > 0.5


@pytest.mark.parametrize("name", baselines.FEATURES)
def test_every_feature_predicts_every_construct(name):
    constructs = toy_constructs(12, 500)
    activity = np.array([one.activity for one in constructs])
    features = baselines.FEATURES[name](constructs)
    known = np.array([one.fold != "0" for one in constructs])
    clusters = [one.cluster for one in constructs]
    found = baselines.ridge_predictions(features, activity, known, clusters)
    assert found.shape == (12,) and np.isfinite(found).all()


# --- tracks -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def tracks(request, tmp_path, monkeypatch):
    """Of four tracks the first rises with GC, the second falls with it, the third follows its bin, one is flat."""
    monkeypatch.setattr(batches, "_decoded", {})
    if request.param == "disk":
        monkeypatch.setattr(batches, "MEMORY_BUDGET", 0)
    random = np.random.default_rng(0)
    path, counts, windows = tmp_path / "lab", {"train": 9, "valid": 1, "test": 5}, {}
    (path / "tfrecords").mkdir(parents=True)
    for subset, count in counts.items():
        made = []
        for _ in range(count):
            share = np.repeat(random.uniform(0.1, 0.9, 8), 128)  # of G and C, by bin
            codes = np.where(
                random.random(1024) < share, random.choice([1, 2], 1024), random.choice([0, 3], 1024)
            )
            codes[random.random(1024) < 0.1] = 4
            codes[128:256] = 4  # a bin of which nothing is known
            rate = share.reshape(8, 128)[1:7, 0]
            noise = random.random((6, 4))
            signal = [
                5 * rate + noise[:, 0],
                5 - 5 * rate + noise[:, 1],
                np.arange(6) + noise[:, 2],
                np.ones(6),
            ]
            made.append(Example(codes.astype(np.uint8), np.stack(signal, 1).astype(np.float16)))
        write_shard(path / "tfrecords" / f"{subset}-0.tfr", made)
        windows[subset] = made
    sizes = {f"{subset}_seqs": count for subset, count in counts.items()}
    Statistics(4, 1024, 6, 128, 128, **sizes).write(path / "statistics.json")
    write_targets(path / "targets.txt", unnamed_targets(4))
    return open_dataset(tmp_path, "lab"), windows


def test_track_baselines_know_the_training_windows_alone(tracks):
    """Against NumPy over all of the windows at once."""
    dataset, windows = tracks
    found = baselines.track_baselines(dataset, "test")
    assert set(found) == {"bin_mean", "gc"}

    def gc(examples):
        shares = np.zeros((len(examples), 6))
        for row, example in enumerate(examples):
            for number in range(6):
                letters = example.sequence[128 + 128 * number : 256 + 128 * number]
                known = np.isin(letters, (0, 1, 2, 3)).sum()
                shares[row, number] = np.isin(letters, (1, 2)).sum() / known if known else 0
        return shares.ravel()

    train, test = (np.stack([e.target for e in windows[s]]).astype(np.float64) for s in ("train", "test"))
    signs = []
    for track in range(3):
        signs.append(np.sign(np.corrcoef(gc(windows["train"]), train[..., track].ravel())[0, 1]))
        r = np.corrcoef(signs[-1] * gc(windows["test"]), test[..., track].ravel())[0, 1]
        assert found["gc"][track] == pytest.approx(r, abs=1e-6)
        mean = np.tile(train[..., track].mean(0), len(test))
        r = np.corrcoef(mean, test[..., track].ravel())[0, 1]
        assert found["bin_mean"][track] == pytest.approx(r, abs=1e-6)
    assert signs[:2] == [1, -1] and (found["gc"][:2] > 0.3).all() and found["bin_mean"][2] > 0.95
    assert np.isnan(found["gc"][3]) and np.isnan(found["bin_mean"][3])
