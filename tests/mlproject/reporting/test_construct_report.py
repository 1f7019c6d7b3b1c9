"""What is said of fine-tuning on constructs, against NumPy; hostile words stay words."""

import numpy as np
import pandas as pd
import pytest

from made_studies import HOSTILE, made_comparison, made_constructs, made_curves, made_seconds
from mlproject import reporting
from mlproject.reporting.construct_report import best_baseline, construct_summary


def study(folds=("a", "b"), of_fold=12, word="", **changes):
    constructs = made_constructs(folds, of_fold, word)
    trainings = pd.DataFrame(
        [(f"run {fold}", f"fold {fold}", 42) for fold in folds], columns=["run_id", "variant", "seed"]
    )
    fields = {
        "title": "finetune 1",
        "comparison": made_comparison(constructs),
        "constructs": constructs,
        "trainings": trainings,
        "curves": made_curves(),
        "seconds": made_seconds(),
        "facts": [("command", "python -m mlproject finetune")],
        "limits": ["It was trained on demo data."],
    }
    return reporting.ConstructStudy(**(fields | changes))


def test_the_model_is_compared_with_the_best_baseline():
    given = study()
    r = {
        name: np.corrcoef(given.constructs["activity"], given.constructs[name])[0, 1]
        for name in ("predicted", "ridge_sites", "ridge_kmers")
    }
    first, second = construct_summary(given)
    assert best_baseline(given.comparison)["predictor"] == max(("ridge_sites", "ridge_kmers"), key=r.get)
    assert first.startswith("Of 24 constructs in 12 clusters, held out in 2 folds, the model has Pearson r ")
    assert f"Pearson r {r['predicted']:.3f} (95% interval " in first
    assert f"the best of 2 baselines, ridge on sites, has {r['ridge_sites']:.3f} (95%" in first
    assert f"is {r['predicted'] - r['ridge_sites']:+.3f} (95% interval " in second
    assert second.endswith(": the model is better.")


def test_few_clusters_have_no_interval_and_no_verdict():
    first, second = construct_summary(study(("a",), 6))
    assert "held out in 1 fold" in first and "interval" not in first
    assert second.endswith("of which these clusters are too few to make an interval.")


def test_noise_is_not_better():
    constructs = made_constructs().assign(
        predicted=lambda frame: frame["ridge_kmers"] + 1e-3 * frame["ridge_sites"]
    )
    given = study(constructs=constructs, comparison=made_comparison(constructs))
    assert construct_summary(given)[1].endswith((": neither is shown to be better.", ": the model is worse."))
    assert any("no better than a ridge on sites" in one for one in reporting.construct_report(given).limits)


def test_the_best_fold_and_each_fold_are_told():
    told = reporting.construct_report(study())
    folds = told.tables["folds"].set_index("fold")
    constructs = made_constructs()
    for fold, own in constructs.groupby("fold"):
        np.testing.assert_allclose(
            folds.loc[fold, "predicted"], np.corrcoef(own["activity"], own["predicted"])[0, 1]
        )
    best = folds["predicted"].idxmax()
    assert told.best == f"run {best}" and f"fold {best}" in told.chosen
    headings = [section.heading for section in told.report.sections]
    assert headings == ["Leaderboard", "Predicted against measured", "Folds", "Training", "Where time went"]
    of_all, *_ = told.evaluations
    assert (of_all.what, of_all.n) == ("Pearson r of activity, model", "24 constructs, 12 clusters")
    assert {one.category for one in told.evaluations} == {"", "fold a", "fold b"}
    assert told.limits[-1] == "It was trained on demo data."


def test_points_are_what_was_measured_and_axes_say_units_and_n():
    section = reporting.construct_report(study()).report.sections[1]
    line, *points = section.figure.data
    assert line.mode == "lines" and len(points) == 2  # a symbol for each fold
    assert len({one.marker.symbol for one in points}) == 2
    drawn = np.concatenate([np.stack([one.x, one.y], 1) for one in points])
    np.testing.assert_allclose(drawn, made_constructs()[["predicted", "activity"]].round(4))
    assert "units of the table, n = 24" in section.figure.layout.yaxis.title.text


def test_hostile_words_are_words():
    folds = (f"a{HOSTILE}", f"b{HOSTILE}")
    given = study(folds, word=HOSTILE, title=HOSTILE, facts=[(HOSTILE, HOSTILE)], curves=made_curves(folds),
                  seconds=made_seconds(folds))  # fmt: skip
    page = reporting.page(reporting.construct_report(given).report)
    assert "<script>alert" not in page and "alert(1)" in page


@pytest.mark.parametrize("folds", [("a",), tuple("abcdefghij")])
def test_any_number_of_folds_is_drawn(folds):
    given = study(folds, curves=made_curves(()), seconds=pd.DataFrame(columns=["variant", "seed"]))
    told = reporting.construct_report(given)
    assert [section.heading for section in told.report.sections][-1] == "Folds"
    assert reporting.page(told.report).count('id="figure-') == 2
