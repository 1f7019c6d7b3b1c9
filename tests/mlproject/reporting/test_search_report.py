"""What is said of a search; a study that is made of a table of trials; hostile words stay words."""

import math

import numpy as np
import pandas as pd
import pytest

from made_studies import (
    HOSTILE,
    made_comparison,
    made_constructs,
    made_curves,
    made_seconds,
    made_tracks,
    made_trials,
)
from mlproject import reporting


def best_activity():
    constructs = made_constructs(("test",))
    trainings = pd.DataFrame([("run", "trial 4", 42)], columns=["run_id", "variant", "seed"])
    curves, seconds = made_curves(("trial 4",)), made_seconds(("trial 4",))
    comparison = made_comparison(constructs)
    return reporting.ConstructStudy("s", comparison, constructs, trainings, curves, seconds, [])


def best_head():
    tracks = made_tracks(0).assign(run_id="run", seed=42, track=[str(number) for number in range(8)])
    return reporting.HeadStudy("s", "best", tracks, made_curves(("trial 4",)), made_seconds(("trial 4",)), [])


def study(best=None, **changes):
    fields = {
        "title": "search_head 1",
        "trials": made_trials(),
        "objective": "validation Pearson r",
        "maximizes": True,
        "best": best,
        "seconds": made_seconds(("search",)),
        "facts": [("command", "python -m mlproject search_head")],
    }
    return reporting.SearchStudy(**(fields | changes))


def test_the_best_trial_and_its_head_are_told():
    told = reporting.search_report(study(best_activity()))
    first, second = told.report.sentences
    assert first == (
        "Of 5 trials (3 complete, 1 pruned, 1 failed), trial 4 is best with validation Pearson r 0.900 (num_heads 4, "
        "key_size 16, learning_rate 0.001); the median of the complete ones is 0.500, the best published head, "
        "single_64_64, has 0.500."
    )
    assert second.startswith(
        "Trained again on the full budget, on held-out data that chose nothing, the model has"
    )
    headings = [section.heading for section in told.report.sections]
    assert headings == [
        *("Leaderboard", "History", "Importance of parameters", "Slices", "Parallel coordinates"),
        *("The best head: leaderboard", "The best head: predicted against measured"),
        *("Training of the best head", "Where time went"),
    ]
    board = told.report.sections[0]
    assert list(board.columns) == [
        "trial",
        "validation Pearson r",
        "num_heads",
        "key_size",
        "learning_rate",
        "origin",
    ]
    assert [row[0] for row in board.rows] == ["4", "0", "1"]
    assert board.rows[1] == ["0", "0.5000", "2", "-", "0.0001", "single_64_64"]
    assert "Failed: loss became NaN." in board.note
    assert told.best == "run" and "trial 4, the best of 3 complete ones" in told.chosen
    assert told.evaluations[-1].value == 0.9 and "chosen" in told.evaluations[-1].what


def test_the_lowest_loss_is_best():
    given = study(best_head(), maximizes=False, objective="validation loss")
    told = reporting.search_report(given)
    assert "trial 1 is best with validation loss 0.100" in told.report.sentences[0]
    assert "the best head has a mean Pearson r of" in told.report.sentences[1]
    assert told.evaluations[0].n == "1 seed, 8 tracks"


@pytest.mark.parametrize("state", ["running", "pruned", "failed"])
def test_without_complete_trials_there_is_no_best(state):
    told = reporting.search_report(study(trials=made_trials().assign(state=state, value=np.nan)))
    assert told.report.sentences[1] == "There is no best head." and told.best == ""
    reporting.page(told.report)


def test_without_a_head_nothing_is_held_out():
    told = reporting.search_report(study())
    assert "was not trained again" in told.report.sentences[1] and told.best == ""


def test_hostile_words_are_words():
    trials = made_trials().rename(columns={"num_heads": HOSTILE})
    trials = trials.assign(origin=HOSTILE, failure=HOSTILE, kind=[HOSTILE, "b", "b", "b", HOSTILE])
    given = study(best_activity(), trials=trials, title=HOSTILE, objective=HOSTILE)
    page = reporting.page(reporting.search_report(given).report)
    assert "<script>alert" not in page and "alert(1)" in page
    plots = reporting.search_plots(given.study, HOSTILE)
    assert not [name for name, plot in plots.items() if "<script>" in str(plot.to_dict()["layout"])]
    assert "<script>" not in str(plots["importance"].data[0].y)


# --- a study of a table -------------------------------------------------------------------------------------------


def test_a_study_is_what_its_table_says():
    found = reporting.study_of(made_trials(), True, "made")
    assert (found.study_name, found.direction.name, found.best_value) == ("made", "MAXIMIZE", 0.9)
    trials = found.trials
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4]
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    assert trials[0].params == {"num_heads": 2, "learning_rate": 1e-4}  # had no key size
    assert (
        trials[4].system_attrs["retry_history"] == [3]
        and trials[3].user_attrs["failure"] == "loss became NaN"
    )
    kinds = trials[4].distributions
    assert kinds["num_heads"].choices == (1, 2, 4) and kinds["key_size"].choices == (16, 32)
    rate = kinds["learning_rate"]
    assert (rate.low, rate.high, rate.log) == (1e-5, 1e-2, True)
    again = reporting.search_summary(found)
    assert again[again["state"] == "complete"]["number"].tolist() == [4, 0, 1]


def test_a_table_of_many_values_has_ranges():
    count = 40
    trials = pd.DataFrame(
        {
            "number": range(count),
            "state": "complete",
            "value": np.linspace(0, 1, count),
            "width": range(10, 10 + count),
            "deep": np.geomspace(1, 4000, count).round().astype(int),
            "dropout": np.linspace(0, 0.5, count),
            "decay": [0.0, 0.01] * (count // 2),
            "kind": ["a", "b"] * (count // 2),
        }
    )
    kinds = reporting.study_of(trials, False, "many").trials[0].distributions
    assert (kinds["width"].low, kinds["width"].high, kinds["width"].log) == (10, 49, False)
    assert kinds["deep"].log and not kinds["dropout"].log
    assert kinds["decay"].choices == (0.0, 0.01) and kinds["kind"].choices == ("a", "b")
    assert set(reporting.search_plots(reporting.study_of(trials, False, "many"), "loss")) == {
        *("history", "importance", "slice", "parallel_coordinates")
    }  # fmt: skip


def test_trials_that_the_store_lacks_wait():
    trials = pd.DataFrame(
        {"number": [1, 3], "state": ["complete", "running"], "value": [math.nan, math.nan], "heads": [1, 2]}
    )
    found = reporting.study_of(trials, True, "holes")
    assert [trial.state.name for trial in found.trials] == ["WAITING", "COMPLETE", "WAITING", "RUNNING"]
    assert found.trials[1].value == -math.inf  # a value that is not finite is not in the store
    assert reporting.search_plots(found, "r") == {}
    assert reporting.study_of(trials[:0], True, "none").trials == []
