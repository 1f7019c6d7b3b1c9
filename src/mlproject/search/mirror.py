"""The trials of a study as runs of the tracking store: Optuna owns the study, what is here follows it.

A child run for each trial, found again by its number: doing it once more changes nothing.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from mlproject.search import store
from mlproject.search.space import Number, as_chosen, shown

if TYPE_CHECKING:
    from mlproject.tracking.runs import Run

STATE = "state"  # tag of a child: running, complete, pruned or failed
_STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def run_name(trial: FrozenTrial) -> str:
    """What the run of a trial that has ended is called."""
    state = _STATES[trial.state]
    return f"trial {trial.number}" if state == "complete" else f"trial {trial.number} ({state})"


def by_run_name(study: optuna.Study, values: Mapping[int, str]) -> dict[str, str]:
    """What is said of trials by their numbers, by the names of their runs."""
    trials = study.get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state.is_finished() and trial.number in values]
    return {run_name(trial): values[trial.number] for trial in ended}


class Mirror:
    """What the store is told of a study.

    Args:
        run: of the command: the parent.
        key: tag `grid` of the children.
        study: what is told.
    """

    def __init__(self, run: "Run", key: str, study: optuna.Study):
        self.run = run
        self._key = key
        self._study = study
        self._open: dict[int, tuple[AbstractContextManager[Run], Run]] = {}
        self._ended: set[int] = set()

    def follow_all(self) -> None:
        """Tells of every trial that has ended; while other commands are at work, of this one's alone."""
        shared, owner = store.others_at_work(self._study), store.owner()
        for trial in self._study.get_trials(deepcopy=False):
            own = trial.user_attrs.get(store.OWNER) == owner
            if trial.state.is_finished() and (own or not shared):
                self.follow(trial)

    def follow(self, trial: FrozenTrial) -> None:
        """Tells what is new of a trial."""
        if trial.number in self._ended or trial.state not in _STATES:
            return
        _, child = self._open[trial.number] if trial.number in self._open else self._begin(trial)
        if not child.done:
            for step, (loss, pearson) in enumerate(trial.user_attrs.get(store.VALIDATION, ()), 1):
                child.log(step, {"validation/loss": loss, "validation/pearson": pearson})
        if trial.state.is_finished():
            self._end(trial)
            self._sum_up()

    def describe(self, objective: str, params: Mapping[str, Number], counted: str) -> None:
        """What the page of the parent says first: the best value and parameters, and what else there is to see.

        Args:
            objective: what it is called.
            params: of the best trial.
            counted: how many trials there are.
        """
        best = self._study.best_trial
        origin = best.user_attrs.get(store.ORIGIN)
        self.run.tag({f"best.{name}": f"{value:g}" for name, value in params.items()})
        self.run.describe(
            f"**Best {objective} {best.value:.4f}** with {shown(params, params)} (trial {best.number}"
            f"{f', the published head {origin}' if origin else ''}); {counted}.\n\n"
            "Artifacts: `search.html` (interactive), `history.png`, `importance.png`, `slice.png`, "
            "`parallel_coordinates.png`, and the table `trials`. Children: a run for each trial, and `best`, which has "
            "the head as a model."
        )

    def close(self) -> None:
        """Ends the children whose trials go on, or are done again, in another command."""
        for number in list(self._open):
            context, child = self._open.pop(number)
            child.tag({STATE: "failed"})
            child.fail("the command ended before it")
            context.__exit__(None, None, None)

    def _sum_up(self) -> None:
        """What the parent says of the study, as it stands."""
        found = store.counts(self._study)
        numbers: dict[str, float] = {"trials/complete": found.complete, "trials/pruned": found.pruned}
        numbers["trials/failed"] = found.failed
        if found.complete:
            numbers |= {"best/objective": self._study.best_value, "best/trial": self._study.best_trial.number}
        self.run.log(found.ended, numbers)
        self.run.flush()

    def _begin(self, trial: FrozenTrial) -> tuple[AbstractContextManager["Run"], "Run"]:
        number = str(trial.number)
        context = self.run.child(
            f"trial {number}",  # `run_name` when it has ended
            key={"grid": self._key, "trial": number},
            params={"trial": number, **as_chosen(trial)},
        )
        child = context.__enter__()
        if not child.done:
            origin = trial.user_attrs.get(store.ORIGIN, "the sampler")
            child.tag({STATE: "running", store.ORIGIN: origin})
        self._open[trial.number] = context, child
        return context, child

    def _end(self, trial: FrozenTrial) -> None:
        context, child = self._open.pop(trial.number)
        self._ended.add(trial.number)
        state = _STATES[trial.state]
        if not child.done:
            seconds = trial.duration.total_seconds() if trial.duration else 0.0
            if "seconds/total" not in child.metrics():  # one that has failed is told of again by each command
                child.summarize({"seconds/total": seconds})
            if trial.state == TrialState.COMPLETE:
                child.summarize({"objective": trial.value or 0.0})
            if trial.state == TrialState.FAIL:
                why = trial.user_attrs.get(store.FAILURE, "no process was at it any more")
                retry = store.retried(self._study.get_trials(deepcopy=False)).get(trial.number)
                child.fail(why if retry is None else f"{why}; trial {retry} does it again")
            if child.name != run_name(trial):
                child.rename(run_name(trial))
            child.tag({STATE: state})
        context.__exit__(None, None, None)
