"""Trials as runs of a real MLflow store."""

import dataclasses

import pytest
from optuna.trial import TrialState

from mlproject.search import store
from mlproject.search.mirror import Mirror
from mlproject.tracking.runs import start_run
from processes import Store
from searching import new_trial, toy_study


@dataclasses.dataclass(frozen=True)
class Options:
    """None."""

    experiment: str = "search_head"


VALIDATION = [[0.5, 0.25], [0.25, float("nan")], [0.125, 0.75]]


@pytest.fixture
def study(tmp_path):
    return toy_study(str(tmp_path / "optuna.journal"))


def reporting(study, count, **attributes):
    trial = new_trial(study)
    for name, value in {store.VALIDATION: VALIDATION[:count], **attributes}.items():
        trial.set_user_attr(name, value)
    return trial


def populate(study):
    """Trials 0 complete, 1 pruned, 2 failed, 3 given up and 4 its retry, complete and the best."""
    study.enqueue_trial({"num_heads": 2}, user_attrs={store.ORIGIN: "published"})
    study.tell(reporting(study, 3), 0.5)
    study.tell(reporting(study, 2), state=TrialState.PRUNED)
    study.tell(reporting(study, 1, failure="Diverged: loss became nan"), state=TrialState.FAIL)
    store.give_up(study, reporting(study, 1).number, "its worker ended with signal 9")
    study.tell(reporting(study, 3), 0.75)


def follow(study, key="key"):
    """As a command does; returns the id of its run."""
    with start_run("search_head", Options()) as run:
        mirror = Mirror(run, key, study)
        mirror.follow_all()
        mirror.close()
    return run.id


def what(store, run):
    """All that is kept of a run, without when and under which parent."""
    tags = {name: value for name, value in run.data.tags.items() if name != "mlflow.parentRunId"}
    series = {name: store.series(run, name) for name in run.data.metrics}
    return run.info.run_id, run.info.run_name, run.info.status, run.data.params, tags, series


def test_each_trial_is_a_child_with_its_state(folder, study):
    populate(study)
    follow(study)
    found = Store(folder, "search_head")
    statuses = {name: (run.info.status, run.data.tags["state"]) for name, run in found.children.items()}
    assert statuses == {
        "trial 0": ("FINISHED", "complete"),
        "trial 1 (pruned)": ("FINISHED", "pruned"),
        "trial 2 (failed)": ("FAILED", "failed"),
        "trial 3 (failed)": ("FAILED", "failed"),
        "trial 4": ("FINISHED", "complete"),
    }
    first = found.children["trial 0"]
    chosen = study.trials[0].params
    rate = f"{chosen['learning_rate']:.3g}"  # the UI's table cuts longer ones, exponent and all
    params = {name: str(value) for name, value in chosen.items()}
    assert first.data.params == {"trial": "0", **params, "learning_rate": rate}
    assert first.data.params["num_heads"] == "2" and len(params["learning_rate"]) > len(rate)
    assert first.data.tags["origin"] == "published" and first.data.metrics["objective"] == 0.5
    assert found.series(first, "validation/loss") == [(1, 0.5), (2, 0.25), (3, 0.125)]
    assert found.series(first, "validation/pearson") == [(1, 0.25), (3, 0.75)]
    assert first.data.tags["not_finite"] == "validation/pearson"
    pruned = found.children["trial 1 (pruned)"]
    assert [step for step, _ in found.series(pruned, "validation/loss")] == [1, 2]
    assert "objective" not in pruned.data.metrics and pruned.data.tags["origin"] == "the sampler"
    assert found.children["trial 2 (failed)"].data.tags["failure"] == "Diverged: loss became nan"
    reason = found.children["trial 3 (failed)"].data.tags["failure"]
    assert reason == "its worker ended with signal 9; trial 4 does it again"
    (parent,) = found.parents
    expected = {
        "trials/complete": 2,
        "trials/pruned": 1,
        "trials/failed": 1,
        "best/objective": 0.75,
        "best/trial": 4,
    }
    assert parent.data.metrics == expected


def test_following_again_in_another_command_changes_nothing(folder, study, tmp_path):
    populate(study)
    first = follow(study)
    found = Store(folder, "search_head")
    before = {run.info.run_id: what(found, run) for run in found.children.values()}
    second = follow(toy_study(str(tmp_path / "optuna.journal")))
    found = Store(folder, "search_head")
    assert {run.info.run_id: what(found, run) for run in found.children.values()} == before and len(
        before
    ) == 5
    assert [run.info.run_id for run in found.parents] == [first, second]
    one, other = (run.data for run in found.parents)
    assert one.metrics == other.metrics and one.tags["continued_in"] == second
    assert {run.data.tags["mlflow.parentRunId"] for run in found.children.values()} == {second}


def test_a_study_of_another_key_has_children_of_its_own(folder, study, tmp_path):
    populate(study)
    follow(study)
    before = set(Store(folder, "search_head").children)
    study = toy_study(str(tmp_path / "other.journal"))
    study.tell(reporting(study, 1), 0.5)
    follow(study, "another")
    found = Store(folder, "search_head")
    assert set(found.children) == {"trial 0"} and before > {"trial 0"}


def test_a_trial_is_followed_while_it_runs_and_found_again_by_its_number(folder, study):
    """Its command is killed; the next one gives the trial up, and does it again."""
    with start_run("search_head", Options()) as run:
        mirror = Mirror(run, "key", study)
        trial = reporting(study, 1)
        mirror.follow(study.trials[0])
        trial.set_user_attr(store.VALIDATION, VALIDATION)
        mirror.follow(study.trials[0])
        mirror.follow(study.trials[0])
        _, child = mirror._open[0]
        child.flush()
        found = Store(folder, "search_head")
        running = found.children["trial 0"]
        assert running.info.status == "RUNNING" and running.data.tags["state"] == "running"
        assert found.series(running, "validation/loss") == [(1, 0.5), (2, 0.25), (3, 0.125)]
        assert "trials/complete" not in found.parents[0].data.metrics
    assert store.give_up_stale(study, alone=True) == [0]
    follow(study)
    found = Store(folder, "search_head")
    (child,) = found.children.values()
    assert child.info.run_id == running.info.run_id and child.info.run_name == "trial 0 (failed)"
    assert child.info.status == "FAILED" and child.data.tags["state"] == "failed"
    assert child.data.tags["failure"] == "the command that ran it was killed; trial 1 does it again"
    assert len(found.series(child, "validation/loss")) == 3
    assert found.parents[-1].data.metrics == {"trials/complete": 0, "trials/pruned": 0, "trials/failed": 0}


def test_the_end_of_a_command_leaves_no_child_running(folder, study):
    with start_run("search_head", Options()) as run:
        mirror = Mirror(run, "key", study)
        reporting(study, 1)
        mirror.follow(study.trials[0])
        mirror.close()
    (child,) = Store(folder, "search_head").children.values()
    assert (child.info.status, child.data.tags["state"]) == ("FAILED", "failed")
    assert child.data.tags["failure"] == "the command ended before it"
