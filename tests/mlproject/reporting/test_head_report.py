"""What is said of track heads, against SciPy; hostile words stay words."""

import numpy as np
import pandas as pd
from scipy import stats

from made_studies import HOSTILE, made_curves, made_seconds, made_tracks
from mlproject import reporting
from mlproject.reporting.head_report import head_summary


def study(seeds=(1, 2, 3), gain=0.3, word="", **changes):
    parts = [
        made_tracks(seed, gain, word).assign(
            run_id=f"run {seed}", seed=seed, track=[f"{word} {number}" for number in range(8)]
        )
        for seed in seeds
    ]
    fields = {
        "title": "train_head 1",
        "head": "linear",
        "tracks": pd.concat(parts, ignore_index=True),
        "curves": made_curves(),
        "seconds": made_seconds(),
        "facts": [("command", "python -m mlproject train_head")],
    }
    return reporting.HeadStudy(**(fields | changes))


def test_the_head_has_an_interval_over_seeds():
    given = study()
    means = given.tracks.groupby("seed")["pearson_r"].mean()
    interval = stats.ttest_1samp(means, 0).confidence_interval()
    row = given.leaderboard.iloc[0]
    np.testing.assert_allclose(row[["mean", "low", "high"]].tolist(), [means.mean(), *interval])
    first, second = head_summary(given)
    assert first == (
        f"The linear head has a mean Pearson r of {means.mean():.3f} (95% interval {interval.low:.3f} to "
        f"{interval.high:.3f}) over 3 seeds and 8 tracks; the best of 2 baselines, GC content, has 0.250."
    )
    gain = (given.tracks["pearson_r"] - given.tracks["pearson_r_gc"]).mean()
    assert second.startswith(f"Paired by track, the head minus GC content is {gain:+.3f} (95% interval ")
    assert second.endswith(": the head is better; it is better on 8 of 8 tracks.")


def test_a_head_that_knows_nothing_is_not_better():
    given = study(gain=0.0)
    told = reporting.head_report(given)
    assert "neither is shown to be better" in told.report.sentences[1]
    assert "It is not shown to predict better than GC content." in told.limits


def test_one_seed_has_no_interval_over_seeds_but_one_over_tracks():
    told = reporting.head_report(study((7,)))
    assert (
        "over 1 seed and 8 tracks" in told.report.sentences[0] and "interval" not in told.report.sentences[0]
    )
    assert "95% interval" in told.report.sentences[1]
    assert told.chosen == "It is the head of seed 7, the only one."
    assert "tracks alone" in told.report.sections[1].note


def test_the_best_seed_categories_and_tracks_are_told():
    given = study()
    told = reporting.head_report(given)
    means = given.tracks.groupby("run_id")["pearson_r"].mean()
    assert told.best == means.idxmax()
    headings = [section.heading for section in told.report.sections]
    assert headings == [
        *("Leaderboard", "Head minus baseline", "By category", "Track by track", "Training", "Where time went")
    ]  # fmt: skip
    of_a = given.tracks[given.tracks["category"] == "A"].groupby("seed")["pearson_r"].mean()
    low, high = stats.ttest_1samp(of_a, 0).confidence_interval()
    found = next(one for one in told.evaluations if one.category == "A")
    np.testing.assert_allclose([found.value, found.low, found.high], [of_a.mean(), low, high])
    assert found.n == "3 seeds, 4 tracks"
    scatter = told.report.sections[3].figure
    assert [one.name for one in scatter.data] == ["equal", "GC content", "training mean of the bin"]
    of_tracks = given.tracks.groupby("track")[["pearson_r", "pearson_r_gc"]].mean()
    np.testing.assert_allclose(scatter.data[1].y, of_tracks["pearson_r"].round(4))
    np.testing.assert_allclose(scatter.data[1].x, of_tracks["pearson_r_gc"].round(4))
    assert "n = 8" in scatter.layout.xaxis.title.text


def test_tracks_without_a_correlation_are_counted():
    given = study()
    given.tracks.loc[given.tracks["track"] == " 0", "pearson_r"] = np.nan
    told = reporting.head_report(given)
    assert "1 track had no defined r with some seed." in told.limits
    assert given.differences["tracks"].tolist() == [7, 7]
    assert len(told.report.sections[3].figure.data[1].x) == 7


def test_without_baselines_nothing_is_compared():
    given = study()
    bare = given.tracks.drop(columns=given.baselines)
    told = reporting.head_report(reporting.HeadStudy("t", "linear", bare, given.curves, given.seconds, []))
    assert told.report.sentences[1] == "There is no baseline to compare it with."
    assert "Head minus baseline" not in [section.heading for section in told.report.sections]


def test_hostile_words_are_words():
    given = study(word=HOSTILE, title=HOSTILE, head=HOSTILE, curves=made_curves((HOSTILE,)),
                  seconds=made_seconds((HOSTILE,)))  # fmt: skip
    page = reporting.page(reporting.head_report(given).report)
    assert "<script>alert" not in page and "alert(1)" in page
