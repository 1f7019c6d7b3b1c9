"""Who proposes the parameters of a trial, and who ends a trial early. All settings are pinned and logged."""

import zlib
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from mlproject.search.store import place, quietly

SAMPLERS: dict[str, dict[str, Any]] = {
    # Pinned because Optuna changed them between versions. `group`: key sizes exist only where there are heads.
    # `constant_liar`: what other workers are at counts as bad, so that they do not all try the same.
    "tpe": {
        "n_startup_trials": 10,
        "n_ei_candidates": 24,
        "multivariate": True,
        "group": True,
        "constant_liar": True,
    },
    "random": {},
}
PRUNERS: dict[str, dict[str, Any]] = {
    # from the first epoch on, as Optuna's own default
    "median": {"n_startup_trials": 5, "n_warmup_steps": 1, "interval_steps": 1, "n_min_trials": 3},
    "hyperband": {"min_resource": 1, "reduction_factor": 3},
    "none": {},
}


class NumberedSampler(optuna.samplers.BaseSampler):
    """A sampler of `SAMPLERS` whose draws are a function of (seed, place of the trial, trials before it).

    So a study that is stopped and goes on proposes what one never stopped would: a retry has the place of the trial
    that it does again.
    """

    def __init__(self, name: str, seed: int):
        self._name, self._seed = name, seed
        self._place = 0
        self._inner = self._of("")

    def _of(self, what: str) -> optuna.samplers.BaseSampler:
        seed = zlib.crc32(f"{self._seed} {self._place} {what}".encode())
        with_settings = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        with quietly():
            return with_settings[self._name](seed=seed, **SAMPLERS[self._name])

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        # of the whole study: Hyperband hands in one that has only the trials of a bracket
        self._place = place(study._storage.get_all_trials(study._study_id, deepcopy=False), trial)
        self._inner = self._of("")
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        # each from a start of its own: a retry may have some of them already
        return self._of(param_name).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._inner.after_trial(study, trial, state, values)


def settings(sampler: str, pruner: str, seed: int) -> dict[str, Any]:
    """All that trials are proposed and ended by, to be kept."""
    return {
        "optuna": optuna.__version__,
        "sampler": {"name": sampler, **SAMPLERS[sampler], "seed": f"{seed}, and the place of the trial"},
        "pruner": {"name": pruner, **PRUNERS[pruner]},
    }


def pruner(name: str, steps: int) -> optuna.pruners.BasePruner:
    """A pruner of `PRUNERS`.

    Args:
        name: of it.
        steps: that a whole trial reports.
    """
    if name == "median":
        return optuna.pruners.MedianPruner(**PRUNERS[name])
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=steps, **PRUNERS[name])
    return optuna.pruners.NopPruner()
