"""Samplers are what is logged of them, and a study that is stopped proposes what one never stopped does."""

import optuna
import pytest
from optuna.trial import TrialState

from mlproject.search import sampling, store
from searching import toy_space, toy_study

SPACE = toy_space(num_heads="1,2,4", value_size="4..64:4", weight_decay="0,1e-3,1e-2")
COUNT = 16  # the estimator of tpe takes over after ten


def value_of(params):
    return params["num_heads"] - abs(params["value_size"] - 20) / 7 + 10 * params["learning_rate"]


def run_to(study, count):
    while store.counts(study).complete < count:
        trial = study.ask()
        study.tell(trial, value_of(SPACE.suggest(trial)))


def proposed(study):
    """Parameters of the trials in order, those of a retry where its first try was."""
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    return [trial.params for trial in sorted(done, key=lambda trial: store.place(study.trials, trial))]


@pytest.fixture(scope="module", params=["tpe", "random"])
def never_stopped(request, tmp_path_factory):
    study = toy_study(str(tmp_path_factory.mktemp("whole") / "journal"), sampler=request.param)
    run_to(study, COUNT)
    return request.param, proposed(study)


@pytest.mark.parametrize("stops", [(0,), (1, 5), (9, 10, 11, 12, 13)])
def test_a_study_goes_on_with_the_same_parameters(never_stopped, stops, tmp_path):
    """Stopped between trials, then in one: before it had a parameter, when it had the first, and when it had all."""
    sampler, expected = never_stopped
    path = str(tmp_path / "journal")
    for number, stop in enumerate(stops):
        study = toy_study(path, sampler=sampler)
        run_to(study, stop)
        trial = study.ask()
        if number % 3 == 1:
            trial.suggest_categorical("num_heads", [1, 2, 4])
        if number % 3 == 2:
            SPACE.suggest(trial)
        study = toy_study(path, sampler=sampler)
        assert store.give_up_stale(study, alone=True) == [trial.number]
    run_to(study, COUNT)
    assert proposed(study) == expected and len(study.trials) == COUNT + len(stops)


def test_under_hyperband_trials_differ_too(tmp_path):
    """It shows a sampler the trials of one bracket: places are those in the whole study."""
    path, params = str(tmp_path / "journal"), []
    for _ in range(2):  # the second time in another command
        study = toy_study(path, sampler="random", pruner="hyperband", steps=9)
        for _ in range(10):
            trial = study.ask()
            params.append(SPACE.suggest(trial))
            value = value_of(params[-1])
            for step in range(1, 10):
                trial.report(value * step, step)
                if trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                study.tell(trial, value)
    assert len({tuple(one.items()) for one in params}) == 20 == len(study.trials)
    assert {trial.state for trial in study.trials} == {TrialState.PRUNED, TrialState.COMPLETE}
    whole = toy_study(str(tmp_path / "whole"), sampler="random")
    run_to(whole, 20)
    assert [SPACE.of(trial.params) for trial in whole.trials] == params


def test_trials_and_seeds_differ(never_stopped, tmp_path):
    sampler, expected = never_stopped
    assert len({tuple(params.items()) for params in expected}) == COUNT
    other = store.open_study(
        str(tmp_path / "journal"),
        "toy",
        direction="maximize",
        settings={},
        sampler=sampling.NumberedSampler(sampler, 4),
        pruner=sampling.pruner("none", 1),
    )
    run_to(other, COUNT)
    assert not [params for params in proposed(other) if params in expected]


def test_the_estimator_finds_more_than_chance(tmp_path):
    best = {}
    for sampler in ("tpe", "random"):
        study = toy_study(str(tmp_path / sampler), sampler=sampler)
        run_to(study, 40)
        best[sampler] = sum(value_of(params) for params in proposed(study)[-20:]) / 20
    assert best["tpe"] > best["random"] + 1


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_samplers_have_the_settings_that_are_kept(name, monkeypatch):
    made = []
    for kind in ("TPESampler", "RandomSampler"):
        original = getattr(optuna.samplers, kind)

        def make(original=original, **settings):
            made.append((original, settings))
            return original(**settings)

        monkeypatch.setattr(optuna.samplers, kind, make)
    sampling.NumberedSampler(name, 5)
    ((kind, given),) = made
    kept = sampling.settings(name, "none", 5)["sampler"]
    assert kind.__name__.lower().startswith(kept.pop("name")) and kept.pop("seed").startswith("5, ")
    assert isinstance(given.pop("seed"), int) and given == kept


def test_the_estimator_has_the_settings_of_its_options():
    """By the names that Optuna itself gives them."""
    inner = sampling.NumberedSampler("tpe", 5)._inner
    kept = sampling.settings("tpe", "none", 5)["sampler"]
    assert (inner._n_startup_trials, inner._n_ei_candidates) == (
        kept["n_startup_trials"],
        kept["n_ei_candidates"],
    )
    assert (inner._multivariate, inner._group, inner._constant_liar) == (True, True, True)
    assert [kept[name] for name in ("multivariate", "group", "constant_liar")] == [True, True, True]


def test_pruners_have_the_settings_that_are_kept():
    median = sampling.pruner("median", 30)
    kept = sampling.settings("tpe", "median", 5)["pruner"]
    assert type(median) is optuna.pruners.MedianPruner and kept.pop("name") == "median"
    assert {name: getattr(median, f"_{name}") for name in kept} == kept
    hyperband = sampling.pruner("hyperband", 30)
    assert type(hyperband) is optuna.pruners.HyperbandPruner
    assert (hyperband._min_resource, hyperband._max_resource, hyperband._reduction_factor) == (1, 30, 3)
    assert type(sampling.pruner("none", 30)) is optuna.pruners.NopPruner
