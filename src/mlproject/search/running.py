"""The search itself: trials are asked for, handed to workers, pruned, told and mirrored, until there are enough."""

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.trial import TrialState
from tqdm import tqdm

from mlproject import stopping
from mlproject.errors import Stopped
from mlproject.search import store
from mlproject.search.mirror import Mirror
from mlproject.search.space import Number, Space, shown
from mlproject.search.trials import Budget, Objective, worth
from mlproject.search.workers import End, Order, Report, Workers

_WAIT_SECONDS = 0.5
_SHOWN = ("num_heads", "key_size", "value_size", "hidden_size", "dropout", "learning_rate", "weight_decay")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a search goes on, and what its trials are worth.

    Args:
        trials: how many there are to be in the study, those of earlier commands included; a retry counts as the
            trial that it does again.
        timeout: seconds after which no trial begins; 0 for none.
        objective: what is looked for.
        budget: of a trial.
        folder: for checkpoints of trials under way.
    """

    trials: int
    timeout: float
    objective: Objective
    budget: Budget
    folder: Path


def left(study: optuna.Study, plan: Plan) -> bool:
    """Whether trials are to be run yet."""
    found = store.counts(study)
    return found.waiting > 0 or found.all < plan.trials


def queue(study: optuna.Study, space: Space, presets: Mapping[str, Mapping[str, Number]], most: int) -> None:
    """Puts choices that people have made first in a study that is new, those that the space has.

    Args:
        study: new if it has no trials.
        space: of the search.
        presets: a value for each option, by what the choice is called.
        most: trials of the study.
    """
    if study.get_trials(deepcopy=False):
        return
    for name, params in [(name, params) for name, params in presets.items() if space.holds(params)][:most]:
        searched = {option: value for option, value in params.items() if option in space.searched}
        study.enqueue_trial(searched, user_attrs={store.ORIGIN: name})


def run_trials(study: optuna.Study, workers: Workers, space: Space, mirror: Mirror, plan: Plan) -> None:
    """Runs what is left of a study.

    Raises:
        Stopped: SIGTERM or Ctrl-C; trials that were under way are queued again, with what they have reported.
    """
    began = time.monotonic()
    with (
        tqdm(total=plan.trials, desc="trials", unit="trial", disable=None, leave=False) as bar,
        stopping.deferred() as should_stop,
    ):
        search = _Search(study, workers, space, mirror, plan, bar)
        bar.update(_ended(study))
        while not should_stop():
            in_time = not plan.timeout or time.monotonic() - began < plan.timeout
            while workers.idle and in_time and left(study, plan):
                search.begin_trial()
            if not workers.busy:
                break
            search.go_on()
        if should_stop():
            search.stop()
            raise Stopped(
                f"after {_ended(study)} of {plan.trials} trials; the same command goes on from there"
            )


def _ended(study: optuna.Study) -> int:
    found = store.counts(study)
    return found.complete + found.pruned + found.failed


class _Search:
    """What `run_trials` does in each turn."""

    def __init__(
        self, study: optuna.Study, workers: Workers, space: Space, mirror: Mirror, plan: Plan, bar: tqdm
    ):
        self._study, self._workers, self._space, self._mirror = study, workers, space, mirror
        self._plan, self._bar = plan, bar
        self._trials: dict[int, optuna.Trial] = {}  # under way
        self._beat_at = 0.0

    def begin_trial(self) -> None:
        with store.quietly():  # of heartbeats, which `_beat` sends
            trial = self._study.ask()
        trial.set_user_attr(store.OWNER, store.owner())
        params = self._space.suggest(trial)
        self._trials[trial.number] = trial
        frozen = self._study.trials[trial.number]
        first = frozen.system_attrs.get("failed_trial", trial.number)
        known = frozen.user_attrs.get(store.VALIDATION, [])
        self._workers.train(Order(trial.number, params, known, self._plan.folder / f"trial-{first}"))
        self._beat(now=True)
        self._mirror.follow(frozen)

    def go_on(self) -> None:
        """Waits for what workers say, and does what follows."""
        for number, said in self._workers.events(_WAIT_SECONDS):
            trial = self._trials[number]
            if isinstance(said, Report):
                self._workers.answer(number, self._is_enough(trial, said))
            else:
                self._end_trial(trial, said)
            self._mirror.follow(self._study.trials[number])
        self._beat()

    def stop(self) -> None:
        """Ends the workers after a checkpoint, and queues their trials again."""
        self._workers.close(at_once=False)
        for number in list(self._trials):
            self._give_up(number, "the command was stopped")
        self._mirror.follow_all()

    # -- inside

    def _is_enough(self, trial: optuna.Trial, report: Report) -> bool:
        """Tells the study what a trial has reported; whether the pruner ends it."""
        validation = [*trial.user_attrs.get(store.VALIDATION, []), [report.loss, report.pearson]]
        trial.set_user_attr(store.VALIDATION, validation)
        value = worth(validation, self._plan.budget.epochs, self._plan.objective)
        if not math.isfinite(value):  # a Pearson r that is undefined as yet
            return False
        trial.report(value, len(validation))
        return trial.should_prune()

    def _end_trial(self, trial: optuna.Trial, end: End) -> None:
        number = trial.number
        if end.how == "lost":
            self._give_up(number, end.why)
            tqdm.write(f"trial {number}: {end.why}; it is done again")
            return
        del self._trials[number]
        validation = trial.user_attrs.get(store.VALIDATION, [])
        value = worth(validation, self._plan.budget.epochs, self._plan.objective) if validation else math.nan
        why = end.why
        if end.how == "done" and not math.isfinite(value):
            why = "validation Pearson r is undefined: the predictions of a fold are all alike"
        if why:
            trial.set_user_attr(store.FAILURE, why)
            self._study.tell(trial, state=TrialState.FAIL)
            said = f"failed: {why}"
        elif end.how == "pruned":
            self._study.tell(trial, state=TrialState.PRUNED)
            said = f"pruned after epoch {len(validation)}, {self._plan.objective} {value:.4f}"
        else:
            self._study.tell(trial, value)
            said = f"{self._plan.objective} {value:.4f}"
        self._bar.update()
        ended = _ended(self._study)
        tqdm.write(f"[{ended}/{self._plan.trials}] trial {number}: {said} ({shown(trial.params, _SHOWN)})")

    def _give_up(self, number: int, why: str) -> None:
        del self._trials[number]
        store.give_up(self._study, number, why)

    def _beat(self, now: bool = False) -> None:
        """Tells a database that has heartbeats that these trials are alive."""
        storage = self._study._storage
        if not isinstance(storage, optuna.storages.RDBStorage):
            return
        if now or time.monotonic() - self._beat_at > store.HEARTBEAT_SECONDS:
            self._beat_at = time.monotonic()
            for trial in self._trials.values():
                storage.record_heartbeat(trial._trial_id)
