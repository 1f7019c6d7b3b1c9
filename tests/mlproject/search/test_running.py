"""The loop of a search with workers that are made up: killed before any write to the store, it ends with the same."""

import contextlib
import math
from types import SimpleNamespace

import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from mlproject import stopping
from mlproject.errors import InputError, Stopped
from mlproject.search import running, sampling, store
from mlproject.search.running import Plan, run_trials
from mlproject.search.trials import Budget
from mlproject.search.workers import End, Report
from searching import CHOICE, toy_space, toy_study

EPOCHS = 3
SPACE = toy_space()
FIRST = {"known": CHOICE, "outside": {**CHOICE, "num_heads": 3}, "other": {**CHOICE, "num_heads": 2}}


class Killed(BaseException):
    """As kill -9: nothing cleans up."""


class Mirror:
    """Follows nothing, and counts."""

    def __init__(self):
        self.followed = []

    def follow(self, trial):
        self.followed.append((trial.number, trial.state))

    def follow_all(self):
        pass


class OneWorker:
    """A worker in this process, whose losses and correlations are a function of the parameters and the epoch."""

    def __init__(self, says=lambda number, reports: None):
        self._order, self._enough, self._says = None, False, says
        self.orders = []
        self.stopped = []

    idle = property(lambda self: int(self._order is None))
    busy = property(lambda self: [] if self._order is None else [self._order.number])

    def train(self, order):
        assert self._order is None
        self._order, self._enough, self._done = order, False, len(order.known)
        self.orders.append(order)

    def answer(self, number, enough):
        assert number == self._order.number
        self._enough = enough

    def events(self, seconds):
        order = self._order
        end = self._says(order.number, self._done)
        if end is None and self._enough:
            end = End("pruned")
        if end is None and self._done == EPOCHS:
            end = End("done")
        if end is not None:
            self._order = None
            yield order.number, end
            return
        self._done += 1
        yield order.number, Report(*report(order.params, self._done))

    def close(self, at_once=True):
        self.stopped.append(at_once)
        self._order = None


def report(params, epoch):
    quality = params["num_heads"] * params["value_size"] * params["learning_rate"] ** 0.25
    return 2 - quality / 10 + 0.1 * (epoch - 2) ** 2, math.tanh(quality / 10) - 0.01 * epoch


def run(path, trials=7, worker=None, mirror=None, objective="pearson", first=FIRST, **plan):
    study = toy_study(
        path, direction="minimize" if objective == "loss" else "maximize", pruner="median", steps=EPOCHS
    )
    store.give_up_stale(study, alone=True)
    budget = Budget(EPOCHS, 1, 1, 1.0, 0, 0.0)
    folder = plan.pop("folder", None) or SimpleNamespace(__truediv__=None)
    plan = Plan(trials, plan.pop("timeout", 0), objective, budget, folder, first)
    run_trials(study, worker or OneWorker(), SPACE, mirror or Mirror(), plan)
    return study


def table(study):
    """What came of each trial, those of a retry where its first try was."""
    given_up = store.retried(study.trials)
    rows = [trial for trial in study.trials if trial.number not in given_up]
    rows.sort(key=lambda trial: store.place(study.trials, trial))
    return [(t.state, t.params, t.value, t.intermediate_values, t.user_attrs[store.VALIDATION]) for t in rows]


@pytest.fixture
def eager(monkeypatch):
    """A sampler and a pruner that need few trials before they have an opinion."""
    monkeypatch.setitem(sampling.SAMPLERS, "tpe", {**sampling.SAMPLERS["tpe"], "n_startup_trials": 3})
    settings = {"n_startup_trials": 2, "n_warmup_steps": 1, "interval_steps": 1, "n_min_trials": 1}
    monkeypatch.setitem(sampling.PRUNERS, "median", settings)


def test_killed_before_any_write_it_ends_with_the_same_trials(tmp_path, eager, monkeypatch):
    """Twice in each study, the second time while what the first had begun is done again."""
    write, left = JournalFileBackend.append_logs, [10**6]

    def counted(backend, logs):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        write(backend, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", counted)
    whole = run(str(tmp_path / "whole"), folder=tmp_path)
    expected, writes = table(whole), 10**6 - left[0]
    found = [state for state, *_ in expected]
    assert found.count(TrialState.PRUNED) > 0 and found.count(TrialState.COMPLETE) > 3 and len(found) == 7
    assert writes > 60
    for before in range(2, writes, 2):
        path = str(tmp_path / f"killed-{before}")
        for allowed in (before, 9 + before % 5):
            left[0] = allowed
            with contextlib.suppress(Killed):
                run(path, folder=tmp_path)
        left[0] = 10**6
        study = run(path, folder=tmp_path)
        assert table(study) == expected, before
        assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


def test_published_choices_that_the_space_has_come_first(tmp_path):
    study = run(str(tmp_path / "journal"), folder=tmp_path)
    origins = [trial.user_attrs.get(store.ORIGIN) for trial in study.trials]
    assert origins == ["known", "other", *[None] * 5]
    for trial, name in zip(study.trials, ("known", "other"), strict=False):
        assert SPACE.of(trial.params) == FIRST[name]
    few = run(str(tmp_path / "few"), trials=1, folder=tmp_path)
    assert [trial.user_attrs[store.ORIGIN] for trial in few.trials] == ["known"]
    more = run(str(tmp_path / "few"), trials=3, folder=tmp_path)
    assert [trial.user_attrs.get(store.ORIGIN) for trial in more.trials] == ["known", "other", None]


@pytest.mark.parametrize("objective", ["pearson", "loss"])
def test_a_trial_is_worth_the_epoch_of_its_lowest_loss(tmp_path, objective):
    study = run(str(tmp_path / "journal"), objective=objective, folder=tmp_path)
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    values = [report(SPACE.of(trial.params), 2)[objective == "pearson"] for trial in complete]
    assert len(values) > 3 and [trial.value for trial in complete] == values
    assert study.best_value == (max if objective == "pearson" else min)(values)


def test_the_same_command_does_nothing_and_more_trials_go_on(tmp_path):
    path = str(tmp_path / "journal")
    before = table(run(path, trials=4, folder=tmp_path))
    worker = OneWorker()
    assert table(run(path, trials=4, worker=worker, folder=tmp_path)) == before and not worker.orders
    after = table(run(path, trials=6, worker=worker, folder=tmp_path))
    assert after[:4] == before and len(after) == 6 and len(worker.orders) == 2
    assert table(run(str(tmp_path / "whole"), trials=6, folder=tmp_path)) == after


def test_a_trial_that_fails_is_one_of_the_trials(tmp_path):
    mirror = Mirror()

    def says(number, reports):
        (tmp_path / f"trial-{number}").mkdir(exist_ok=True)
        return End("failed", "Diverged: loss") if number == 2 else None

    study = run(str(tmp_path / "journal"), trials=4, worker=OneWorker(says), mirror=mirror, folder=tmp_path)
    assert not list(tmp_path.glob("trial-*"))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[2].user_attrs[store.FAILURE] == "Diverged: loss"
    assert (2, TrialState.FAIL) in mirror.followed and store.counts(study) == (3, 0, 1, 0, 0)


def test_a_trial_whose_worker_is_lost_is_done_again(tmp_path):
    worker = OneWorker(
        lambda number, reports: End("lost", "signal 9") if (number, reports) == (1, 2) else None
    )
    study = run(str(tmp_path / "journal"), trials=3, worker=worker, folder=tmp_path)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    (first, second) = [order for order in worker.orders if order.number in (1, 2)]
    assert second.params == first.params and second.folder == first.folder == tmp_path / "trial-1"
    assert len(second.known) == 2 and first.known == []
    assert table(study) == table(run(str(tmp_path / "whole"), trials=3, folder=tmp_path))


def test_a_trial_that_always_ends_its_worker_fails_and_the_search_ends(tmp_path, capsys):
    def says(number, reports):
        (worker.orders[-1].folder / "0").mkdir(parents=True, exist_ok=True)
        return End("lost", "its worker ended with signal 9")

    worker = OneWorker(says)
    study = run(str(tmp_path / "journal"), trials=2, worker=worker, folder=tmp_path)
    assert [trial.state.name for trial in study.trials] == ["FAIL"] * 8
    assert store.counts(study) == (0, 0, 2, 0, 0)
    output = capsys.readouterr().out
    assert output.count("; it is done again") == 6 and output.count("signal 9, too often") == 2
    assert not list(tmp_path.glob("trial-*"))


def test_what_the_user_must_mend_ends_the_search_and_costs_no_trial(tmp_path):
    path = str(tmp_path / "journal")
    worker = OneWorker(lambda number, reports: End("refused", "the disk is full") if number == 1 else None)
    with pytest.raises(InputError, match=r"^the disk is full$"):
        run(path, trials=3, worker=worker, folder=tmp_path)
    study = run(path, trials=3, folder=tmp_path)
    assert table(study) == table(run(str(tmp_path / "whole"), trials=3, folder=tmp_path))


def test_a_trial_that_another_command_gave_up_is_let_go(tmp_path):
    """As after a machine has slept for longer than its heart may stop."""
    path = str(tmp_path / "journal")

    def says(number, reports):
        if (number, reports) == (1, 1):
            store.give_up(toy_study(path, pruner="median"), 1, "silent")
        return None

    study = run(path, trials=3, worker=OneWorker(says), folder=tmp_path)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert table(study) == table(run(str(tmp_path / "whole"), trials=3, folder=tmp_path))


@pytest.mark.parametrize("reports", [1, EPOCHS])
def test_a_trial_that_is_ended_elsewhere_at_the_last_moment_is_let_go(tmp_path, monkeypatch, reports):
    """Between the look at its state and the word of it; another command takes it for dead."""
    path, looked = str(tmp_path / "journal"), []
    frozen = running._Search._frozen

    def late(search, number):
        found = frozen(search, number)
        if number == 1 and len(found.user_attrs.get(store.VALIDATION, [])) == reports and not looked:
            looked.append(number)
            store.give_up(toy_study(path, pruner="median"), 1, "silent")
        return found

    def hear(search, number, said, original=running._Search._hear):
        monkeypatch.setattr(running._Search, "_frozen", late)
        original(search, number, said)

    monkeypatch.setattr(running._Search, "_hear", hear)
    study = run(path, trials=3, folder=tmp_path)
    assert looked
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


def test_a_stop_that_reaches_a_worker_first_is_no_fault_of_its_trial(tmp_path, monkeypatch):
    path = str(tmp_path / "journal")

    def says(number, reports):
        if number == 1:
            monkeypatch.setattr(stopping, "_received", 2)
            return End("lost", "its worker ended with exit code 0")
        return None

    monkeypatch.setattr(stopping, "_received", None)
    with pytest.raises(Stopped):
        run(path, trials=4, worker=OneWorker(says), folder=tmp_path)
    trials = toy_study(path, pruner="median").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "WAITING"]
    assert store.LOST not in trials[2].user_attrs


def test_a_trial_beats_before_anything_else(tmp_path, monkeypatch):
    """A command that is killed then can be missed by other machines."""

    def killed(trial, name, value):
        raise Killed

    monkeypatch.setattr("optuna.Trial.set_user_attr", killed)
    storage = f"sqlite:///{tmp_path}/optuna.db"
    with pytest.raises(Killed):
        run(storage, folder=tmp_path)
    with toy_study(storage, pruner="median")._storage._backend.engine.begin() as connection:
        rows = connection.exec_driver_sql("SELECT trial_id FROM trial_heartbeats").all()
    assert rows == [(1,)]


def test_asked_to_stop_it_queues_what_was_under_way(tmp_path, monkeypatch):
    path, worker = str(tmp_path / "journal"), OneWorker()
    monkeypatch.setattr(stopping, "_received", None)

    def says(number, reports):
        if (number, reports) == (2, 1):
            monkeypatch.setattr(stopping, "_received", 15)
        return None

    worker._says = says
    with pytest.raises(Stopped, match=r"^after 2 of 4 trials; the same command goes on from there$"):
        run(path, trials=4, worker=worker, folder=tmp_path)
    assert worker.stopped == [False]
    monkeypatch.setattr(stopping, "_received", None)
    study = toy_study(path, pruner="median")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]
    assert table(run(path, trials=4, folder=tmp_path)) == table(
        run(str(tmp_path / "whole"), trials=4, folder=tmp_path)
    )


def test_after_the_timeout_no_trial_begins(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def says(number, reports):
        clock[0] += 1
        return None

    study = run(str(tmp_path / "journal"), worker=OneWorker(says), timeout=6, folder=tmp_path)
    # three reports and an end: the second begins after four seconds and is finished
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2


@pytest.mark.parametrize("name", ["median", "none"])
def test_a_trial_that_loses_its_correlation_is_pruned_whatever_the_pruner(tmp_path, monkeypatch, name):
    """numpy warns where Optuna's median is asked of NaN alone, and warnings are errors here."""
    original, settings = report, {"n_startup_trials": 2, "n_warmup_steps": 0, "interval_steps": 1}
    monkeypatch.setitem(sampling.PRUNERS, "median", {**settings, "n_min_trials": 1})
    monkeypatch.setitem(globals(), "EPOCHS", 5)
    known = toy_study

    def nan(params, epoch):
        loss, pearson = 1 / epoch, original(params, epoch)[1]
        return loss, math.nan if params["num_heads"] == 2 and epoch > 1 else pearson

    monkeypatch.setitem(globals(), "report", nan)
    monkeypatch.setitem(globals(), "toy_study", lambda path, **how: known(path, **{**how, "pruner": name}))
    first = {f"{heads} {turn}": {**CHOICE, "num_heads": heads} for heads in (1, 2) for turn in range(3)}
    study = run(str(tmp_path / "journal"), trials=6, first=first, folder=tmp_path)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3 + ["PRUNED"] * 3
    assert [len(trial.user_attrs[store.VALIDATION]) for trial in study.trials] == [5] * 3 + [3] * 3
    assert all(len(trial.intermediate_values) == 1 for trial in study.trials[3:])


def test_a_trial_without_a_correlation_has_failed(tmp_path, monkeypatch):
    def nan(params, epoch, original=report):
        loss, pearson = original(params, epoch)
        return loss, math.nan if params["num_heads"] == 1 else pearson

    monkeypatch.setitem(globals(), "report", nan)
    study = run(str(tmp_path / "journal"), trials=2, folder=tmp_path)
    failed, complete = study.trials
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs[store.FAILURE].startswith("validation Pearson r is undefined")
    assert complete.state == TrialState.COMPLETE
