"""The search itself: trials are asked for, handed to workers, pruned, told and mirrored, until there are enough."""

import dataclasses
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from mlproject import stopping
from mlproject.errors import InputError, Stopped
from mlproject.search import store
from mlproject.search.mirror import Mirror
from mlproject.search.space import Number, Space, shown
from mlproject.search.trials import Budget, Objective, Validation, hopeless, worth
from mlproject.search.workers import End, Order, Report, Workers

_WAIT_SECONDS = 0.5


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
        first: choices that people have made, a value for each option by what the choice is called; a study begins with
            those that its space has.
    """

    trials: int
    timeout: float
    objective: Objective
    budget: Budget
    folder: Path
    first: Mapping[str, Mapping[str, Number]] = dataclasses.field(default_factory=dict)


def left(study: optuna.Study, plan: Plan) -> bool:
    """Whether trials are to be run yet."""
    found = store.counts(study)
    return found.waiting > 0 or found.all < plan.trials


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
        bar.update(store.counts(study).ended)
        while not should_stop():
            in_time = not plan.timeout or time.monotonic() - began < plan.timeout
            while workers.idle and in_time and search.begin_trial():
                pass
            search.tell_news()  # while the workers are at work
            if not workers.busy:
                break
            search.go_on()
        if should_stop():
            search.stop()
            raise Stopped(
                f"after {store.counts(study).ended} of {plan.trials} trials; the same command goes on from there"
            )


class _Search:
    """What `run_trials` does in each turn."""

    def __init__(
        self, study: optuna.Study, workers: Workers, space: Space, mirror: Mirror, plan: Plan, bar: tqdm
    ):
        self._study, self._workers, self._space, self._mirror = study, workers, space, mirror
        self._plan, self._bar = plan, bar
        self._trials: dict[int, optuna.Trial] = {}  # under way
        self._news: dict[int, None] = {}  # trials of which the mirror is to tell, in order
        self._beat_at = 0.0
        self._first = [(name, params) for name, params in plan.first.items() if space.holds(params)]

    def begin_trial(self) -> bool:
        """Begins the next trial; false where there is none."""
        with store.exclusively(self._study):
            store.drop_surplus(self._study)
            if not left(self._study, self._plan):
                return False
            self._queue_first()
            with store.quietly():  # of heartbeats, which `_beat` sends
                trial = self._study.ask()
            self._record(trial)  # first: whoever is killed after it is missed by other machines too
            trial.set_user_attr(store.OWNER, store.owner())
        params = self._space.suggest(trial)
        number = trial.number
        self._trials[number] = trial
        frozen = self._frozen(number)
        known = frozen.user_attrs.get(store.VALIDATION, [])
        if self._was_enough(trial, known):  # when it was killed
            self._end_trial(trial, End("pruned"))
        else:
            self._workers.train(Order(number, params, known, self._folder(frozen)))
        self._news[number] = None
        return True

    def go_on(self) -> None:
        """Waits for what workers say, and does what follows."""
        for number, said in self._workers.events(_WAIT_SECONDS):
            try:
                self._hear(number, said)
            except UpdateFinishedTrialError:  # another command has taken this one for dead
                if isinstance(said, Report):
                    self._workers.answer(number, True)
                else:
                    self._trials.pop(number, None)
            self._news[number] = None
        self._beat()

    def tell_news(self) -> None:
        """Has the mirror tell what has happened."""
        for number in self._news:
            self._mirror.follow(self._frozen(number))
        self._news.clear()

    def stop(self) -> None:
        """Ends the workers after a checkpoint, and queues their trials again."""
        self._workers.close(at_once=False)
        for number in list(self._trials):
            del self._trials[number]
            with store.exclusively(self._study):
                store.give_up(self._study, number, "the command was stopped")
        self._mirror.follow_all()

    # -- inside

    def _frozen(self, number: int) -> FrozenTrial:
        """A trial as the store has it, only to be read."""
        return self._study.get_trials(deepcopy=False)[number]

    def _folder(self, trial: FrozenTrial) -> Path:
        """For the checkpoints of a trial and its retries."""
        return self._plan.folder / f"trial-{trial.system_attrs.get('failed_trial', trial.number)}"

    def _hear(self, number: int, said: Report | End) -> None:
        """Does what follows of what a worker says.

        Raises:
            UpdateFinishedTrialError: somebody else has ended this trial.
        """
        if self._frozen(number).state.is_finished():
            raise UpdateFinishedTrialError
        if isinstance(said, Report):
            self._workers.answer(number, self._is_enough(self._trials[number], said))
        else:
            self._end_trial(self._trials[number], said)

    def _queue_first(self) -> None:
        """Makes the next trial what people have chosen, in its turn: queued one by one, so that retries come first."""
        found = store.counts(self._study)
        if not found.waiting and found.all < len(self._first):
            name, params = self._first[found.all]
            searched = {option: value for option, value in params.items() if option in self._space.searched}
            self._study.enqueue_trial(searched, user_attrs={store.ORIGIN: name})

    def _was_enough(self, trial: optuna.Trial, known: Validation) -> bool:
        """Whether a trial that is done again would have been pruned after what it has reported."""
        enough = False
        for step in range(1, len(known) + 1):
            enough = self._judge(trial, known[:step])
        return enough

    def _judge(self, trial: optuna.Trial, validation: Validation) -> bool:
        """Tells the study what a trial is worth after its reports; whether the pruner ends it.

        Of an undefined Pearson r, NaN, the pruner is not told: it ends a trial that has none when a part has had two
        chances (`hopeless`), whatever the pruner.
        """
        value = worth(validation, self._plan.budget.epochs, self._plan.objective)
        if math.isnan(value):
            return hopeless(validation, self._plan.budget.epochs, self._plan.objective)
        if len(validation) not in self._frozen(trial.number).intermediate_values:
            trial.report(value, len(validation))
        return trial.should_prune()

    def _is_enough(self, trial: optuna.Trial, report: Report) -> bool:
        """Keeps what a trial has reported; whether that ends it."""
        validation = [*trial.user_attrs.get(store.VALIDATION, []), [report.loss, report.pearson]]
        trial.set_user_attr(store.VALIDATION, validation)
        return self._judge(trial, validation)

    def _end_trial(self, trial: optuna.Trial, end: End) -> None:
        number = trial.number
        del self._trials[number]
        if end.how == "refused":
            with store.exclusively(self._study):
                store.give_up(self._study, number, end.why)
            raise InputError(end.why)
        if end.how == "lost":
            # a stop may reach workers before this process: that is no fault of a trial
            lost = not stopping.should_stop()
            with store.exclusively(self._study):
                again = store.give_up(self._study, number, end.why, lost)
            tqdm.write(f"trial {number}: {end.why}{'; it is done again' if again else ', too often'}")
            if not again:
                shutil.rmtree(self._folder(self._frozen(number)), ignore_errors=True)
                self._bar.update()
            return
        validation = trial.user_attrs.get(store.VALIDATION, [])
        value = worth(validation, self._plan.budget.epochs, self._plan.objective) if validation else math.nan
        why = end.why
        without = not any(math.isfinite(pearson) for _, pearson in validation)
        if not why and math.isnan(value) and (without or end.how == "done"):
            why = "validation Pearson r is undefined: the predictions of a fold are all alike"
        if why:
            trial.set_user_attr(store.FAILURE, why)
            self._tell(trial, state=TrialState.FAIL)
            said = f"failed: {why}"
        elif end.how == "pruned":
            self._tell(trial, state=TrialState.PRUNED)
            said = f"pruned after epoch {len(validation)}, {self._plan.objective} {value:.4f}"
        else:
            self._tell(trial, value)
            said = f"{self._plan.objective} {value:.4f}"
        shutil.rmtree(self._folder(self._frozen(number)), ignore_errors=True)  # of one that has failed
        self._bar.update()
        ended = store.counts(self._study).ended
        tqdm.write(
            f"[{ended}/{self._plan.trials}] trial {number}: {said} ({shown(trial.params, self._space.words)})"
        )

    def _tell(self, trial: optuna.Trial, value: float | None = None, state: TrialState | None = None) -> None:
        try:
            self._study.tell(trial, value, state)
        except ValueError as error:
            if self._frozen(trial.number).state.is_finished():
                raise UpdateFinishedTrialError from error
            raise

    def _record(self, trial: optuna.Trial) -> None:
        """Says that somebody is at a trial."""
        if isinstance(self._study._storage, BaseHeartbeat):
            self._study._storage.record_heartbeat(trial._trial_id)

    def _beat(self) -> None:
        """Tells a database that these trials are alive, and gives up those of other commands that are not."""
        beats = isinstance(self._study._storage, BaseHeartbeat)
        if not beats or time.monotonic() - self._beat_at <= store.HEARTBEAT_SECONDS:
            return
        self._beat_at = time.monotonic()
        for trial in self._trials.values():
            self._record(trial)
        store.give_up_stale(self._study, alone=False)
