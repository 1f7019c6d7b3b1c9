"""One trial: what it is worth, what it reports, and that being killed anywhere changes nothing."""

import math

import numpy as np
import pytest

from mlproject.embeddings import EmbeddingCache
from mlproject.head_training import StoredWindows
from mlproject.search.trials import Budget, Pruned, TracksTask, hopeless, train, worth
from mlproject.training import Diverged
from searching import CHOICE, toy_task
from toys import toy_tracks

PARAMS = {**CHOICE, "learning_rate": 2e-3, "dropout": 0.2, "weight_decay": 0.1, "hidden_size": 4}


# --- worth --------------------------------------------------------------------------------------------------------


def test_worth_is_the_mean_over_parts_of_the_epoch_with_the_lowest_loss():
    random = np.random.default_rng(0)
    reports = random.normal(size=(3, 4, 2))  # parts, epochs, loss and Pearson r
    best = reports[:, :, 0].argmin(1)
    kept = reports[np.arange(3), best]
    whole = reports.reshape(-1, 2).tolist()
    assert worth(whole, 4, "loss") == pytest.approx(kept[:, 0].mean(), rel=1e-12)
    assert worth(whole, 4, "pearson") == pytest.approx(kept[:, 1].mean(), rel=1e-12)
    half = [*whole[:6]]  # a part and half of the second
    second = reports[1, :2][reports[1, :2, 0].argmin()]
    assert worth(half, 4, "pearson") == pytest.approx((kept[0, 1] + second[1]) / 2, rel=1e-12)
    assert worth(whole[:1], 4, "loss") == whole[0][0]


def test_worth_is_nan_only_where_the_kept_epoch_has_no_correlation():
    part = [[0.5, 0.25], [0.7, math.nan]]
    assert worth(part, 2, "pearson") == 0.25
    assert math.isnan(worth([*part, [0.1, math.nan]], 2, "pearson"))
    assert worth([*part, [0.1, math.nan]], 2, "loss") == pytest.approx(0.3)


def test_a_part_has_two_chances_to_have_a_correlation():
    nan, some = [0.5, math.nan], [0.6, 0.25]
    for epochs, reports, expected in (
        (10, [nan], False),
        (10, [nan, nan], False),
        (10, [nan, nan, nan], True),
        (10, [nan, nan, [0.4, 0.25]], False),
        (3, [nan, nan, nan], True),
        (3, [some] * 3 + [nan, nan], False),
        (3, [some] * 3 + [nan] * 3, True),
        (3, [nan] * 3 + [some], True),
        (1, [nan], True),
        (2, [nan, nan], True),
    ):
        assert hopeless(reports, epochs, "pearson") == expected, (epochs, reports)
        assert not hopeless(reports, epochs, "loss")


# --- activity heads -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return toy_task(tmp_path_factory.mktemp("task"))


def test_what_is_held_is_what_trials_read(tmp_path):
    task = toy_task(tmp_path)
    task.hold(2**20)
    held = [one.fold in ("1", "2") for one in task.windows.constructs]
    keys = task.windows.keys([row for row, at in enumerate(task.windows.construct) if held[at]])
    assert set(task.embeddings._held[0]) == set(keys) and len(keys) == 32


def reports_of(task, folder, params=PARAMS, known=(), stop_at=None, known_then=None):
    """What a trial reports; after `stop_at` reports it is as if its process were killed."""
    found = [list(report) for report in known]

    class Killed(BaseException):
        """As kill -9."""

    def report(loss, pearson):
        if len(found) == stop_at:
            raise Killed
        found.append([loss, pearson])
        return False

    try:
        train(task, params, list(known), folder, report)
    except Killed:
        return found
    assert not folder.exists()
    return found


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    return reports_of(task, tmp_path_factory.mktemp("whole") / "trial")


def test_a_trial_reports_each_epoch_of_each_part(task, whole):
    assert len(whole) == 2 * 4 and np.isfinite(whole).all()
    losses = [report[0] for report in whole]
    assert losses[3] < losses[0] and losses[7] < losses[4]  # parts begin anew


@pytest.mark.parametrize("stop_at", range(8))
@pytest.mark.parametrize("checkpoints", ["each epoch", "none"])
def test_a_trial_that_is_killed_goes_on_bit_equal(task, whole, tmp_path, stop_at, checkpoints):
    """In the first epoch, in the middle of a part, at the end of one, in the last; with its checkpoints or without."""
    if checkpoints == "none":
        task = toy_task(tmp_path, checkpoint_seconds=1e9)
    folder = tmp_path / "trial"
    known = reports_of(task, folder, stop_at=stop_at)
    assert known == whole[:stop_at]
    assert reports_of(task, folder, known=known) == whole
    # a report that was on its way: the worker has gone on from it, or the study has not got it
    if known:
        reports_of(task, folder, stop_at=stop_at)
        assert reports_of(task, folder, known=known[:-1]) == whole


def test_what_is_known_is_not_reported_again(task, whole, tmp_path):
    said = []
    train(task, PARAMS, whole[:5], tmp_path / "trial", lambda *report: said.append([*report]))
    assert said == whole[5:]
    train(task, PARAMS, whole, tmp_path / "trial", lambda *report: pytest.fail("all was known"))


def test_enough_ends_a_trial_and_removes_its_checkpoints(task, whole, tmp_path):
    said = []

    def report(*values):
        said.append([*values])
        return len(said) == 3

    with pytest.raises(Pruned):
        train(task, PARAMS, [], tmp_path / "trial", report)
    assert said == whole[:3] and not (tmp_path / "trial").exists()


def test_a_learning_rate_that_is_too_high_diverges(task, tmp_path):
    with pytest.raises(Diverged, match=r"became (nan|inf) at step \d+"):
        reports_of(task, tmp_path / "trial", {**PARAMS, "learning_rate": 1e30})
    assert not (tmp_path / "trial").exists()


def test_what_is_measured_is_numpys(task):
    training = task.training(PARAMS)
    training.reset(3)
    folds = ["1", "2"]
    for part, (fold, other) in enumerate(zip(folds, folds[::-1], strict=True)):
        assert training.windows(part) == 8 * 2  # constructs of the other fold, two windows each
        batches = training.batches(part, 7, 0)
        shown = np.concatenate([next(batches)["target"][:, 0] for _ in range(4)])
        of_other = [one.activity for one in task.windows.constructs if one.fold == other]
        assert sorted(shown) == sorted(np.repeat(np.float32(of_other), 2))
        losses, means, activities = [], [], []
        for position, construct in enumerate(task.windows.constructs):
            if construct.fold != fold:
                continue
            rows = np.flatnonzero(task.windows.construct == position)
            kept = task.embeddings.read(task.windows.keys(rows)).astype(np.float32)
            predicted = training._trainer.head(kept, False)[:, 0].numpy()
            losses += [*(predicted - np.float32(construct.activity)) ** 2]
            means.append(predicted.mean())
            activities.append(construct.activity)
        loss, pearson = training.measure(part)
        assert loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert pearson == pytest.approx(np.corrcoef(means, activities)[0, 1], rel=1e-4)


# --- track heads --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracks")
    dataset = toy_tracks(folder)
    stored = StoredWindows(
        EmbeddingCache(folder / "embeddings", 14, 8), folder / "targets", dataset, ("train", "valid"), True
    )

    def embed(codes):
        bins = codes[:, 128:-128].reshape(len(codes), 14, 128)
        return np.stack([(bins == letter % 5).mean(2) - 0.2 for letter in range(8)], 2)

    stored.fill(embed, batch_size=4)
    return TracksTask(dataset, stored, "poisson", 0.2, True, Budget(6, 0, 2, 1.0, 7, 0.0))


def test_a_track_head_learns(tracks, tmp_path):
    params = {**PARAMS, "dropout": 0.0, "learning_rate": 0.05, "num_heads": 2}
    found = reports_of(tracks, tmp_path / "trial", params)
    assert tracks.parts == 1 and len(found) == 6 and tracks.training(params).windows(0) == 7
    assert found[-1][0] < found[0][0] - 0.01 and np.isfinite(found).all()
    without = {name: value for name, value in params.items() if name not in ("key_size", "value_size")}
    assert len(reports_of(tracks, tmp_path / "trial", {**without, "num_heads": 0})) == 6


def test_a_track_head_that_is_killed_goes_on_bit_equal(tracks, tmp_path):
    expected = reports_of(tracks, tmp_path / "whole")
    known = reports_of(tracks, tmp_path / "trial", stop_at=3)
    assert reports_of(tracks, tmp_path / "trial", known=known) == expected


def test_tracks_are_measured_as_numpy_does(tracks):
    training = tracks.training(PARAMS)
    training.reset(3)
    loss, pearson = training.measure(0)
    stored = tracks.stored.read("valid", range(5), [False] * 5)
    predicted = training._trainer.head(stored["embedding"], False).numpy().astype(float)
    target = stored["target"].numpy().astype(float)
    assert loss == pytest.approx((predicted - target * np.log(predicted + 1e-7)).mean(), rel=1e-5)
    of_tracks = [np.corrcoef(predicted[..., t].ravel(), target[..., t].ravel())[0, 1] for t in range(3)]
    assert pearson == pytest.approx(np.mean(of_tracks), abs=1e-5)
