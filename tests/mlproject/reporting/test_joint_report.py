"""What is said of joint trainings, against SciPy; hostile words stay words."""

import numpy as np
import pandas as pd
from scipy import stats

from made_studies import (
    HOSTILE,
    made_cell_types,
    made_curves,
    made_differences,
    made_predictions,
    made_results,
    made_seconds,
)
from mlproject import reporting


def study(word="", **changes):
    fields = {
        "title": "joint 1",
        "results": made_results(),
        "differences": made_differences(),
        "comparison": made_cell_types(word),
        "predictions": made_predictions(word),
        "curves": made_curves(("both", "mpra")),
        "seconds": made_seconds(("both", "mpra")),
        "facts": [("command", "python -m mlproject joint")],
    }
    return reporting.JointStudyTold(**(fields | changes))


def test_arms_have_intervals_over_seeds():
    given = study()
    own = given.results[given.results["variant"] == "both"]["pearson/activity"]
    low, high = stats.ttest_1samp(own, 0).confidence_interval()
    told = reporting.joint_report(given)
    first, second = told.report.sentences
    assert first == (
        f"Of 2 arms over 3 seeds, both has the highest held-out Pearson r of activity, {own.mean():.3f} (95% interval "
        f"{low:.3f} to {high:.3f}); the best baseline, ridge on 5-mers, has 0.400."
    )
    assert second == (
        "Paired by seed, both minus mpra in activity is +0.100 (95% interval 0.050 to 0.150); both minus mpra in "
        "coverage is +0.010 (95% interval -0.020 to 0.040), so none is shown."
    )
    assert (
        told.best
        == given.results.loc[own.idxmax(), "run_id"]
        == given.results.loc[reporting.best_training(given.results), "run_id"]
    )
    found = told.evaluations[0]
    np.testing.assert_allclose([found.value, found.low, found.high], [own.mean(), low, high])
    assert "In coverage a difference between both and mpra is not shown." in told.limits


def test_gains_over_baselines_are_paired_by_seed():
    given = study()
    own = given.results[given.results["variant"] == "mpra"]
    expected = stats.ttest_rel(own["pearson/activity"], own["pearson/kmers"]).confidence_interval()
    row = given.gains.set_index("variant").loc["mpra"]
    np.testing.assert_allclose([row["low"], row["high"]], expected)
    assert row["stands"]


def test_one_arm_is_compared_with_its_baseline():
    results = made_results()[:3]
    told = reporting.joint_report(study(results=results, differences=pd.DataFrame()))
    assert told.report.sentences[0].startswith("Over 3 seeds, both has a held-out Pearson r of activity of ")
    assert told.report.sentences[1].startswith("Over seeds, both minus ridge on 5-mers is +0.")
    assert told.report.sentences[1].endswith(": it is better.")
    one = reporting.joint_report(study(results=results[:1], differences=pd.DataFrame()))
    assert "interval" not in " ".join(one.report.sentences)


def test_tracks_alone_have_no_activity():
    results = made_results().drop(columns=["pearson/activity", "pearson/kmers"])[:3]
    empty = pd.DataFrame()
    told = reporting.joint_report(
        study(results=results, differences=empty, comparison=empty, predictions=empty)
    )
    assert "Pearson r of coverage" in told.report.sentences[0]
    assert told.report.sentences[1] == "No seed has two arms, so nothing is compared."
    headings = [section.heading for section in told.report.sections]
    assert headings == ["Leaderboard: coverage", "Training", "Where time went"]
    nothing = results.assign(**{"pearson/coverage": np.nan})
    told = reporting.joint_report(
        study(results=nothing, differences=empty, comparison=empty, predictions=empty)
    )
    assert told.report.sentences[0].startswith("No correlation is defined")


def test_measurements_and_cell_types_are_drawn():
    told = reporting.joint_report(study())
    sections = {section.heading: section for section in told.report.sections}
    figure = sections["Predicted against measured"].figure
    points = [one for one in figure.data if one.mode == "markers"]
    assert [len(one.x) for one in points] == [20, 20]
    assert [one.text for one in figure.layout.annotations] == [
        "labels seen<br>n = 20",
        "labels hidden<br>n = 20",
    ]
    rows = {row[0]: row for row in sections["By cell type"].rows}
    assert list(rows["cell"]) == [
        "cell",
        "seen",
        "20",
        "0.990",
        "0.900 (0.800 to 0.950)",
        "0.400 (0.300 to 0.500)",
    ]
    assert list(rows["other"]) == ["other", "hidden", "20", "-", "0.500", "-"]
    (gains,) = [one for one in sections["What both brings over mpra"].figure.data]
    assert list(gains.marker.symbol) == ["circle", "circle-open"]  # what stands is filled


def test_hostile_words_are_words():
    results = made_results().assign(variant=lambda frame: frame["variant"] + HOSTILE)
    differences = made_differences().assign(setting=HOSTILE)
    names = tuple(results["variant"].unique())
    given = study(HOSTILE, results=results, differences=differences, title=HOSTILE, curves=made_curves(names),
                  seconds=made_seconds(names))  # fmt: skip
    page = reporting.page(reporting.joint_report(given).report)
    assert "<script>alert" not in page and "alert(1)" in page
