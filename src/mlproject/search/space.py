"""What a search may choose: each option is one value, choices `1,2,4`, or a range `LOW..HIGH`, `:log` or `:STEP`."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from mlproject.errors import InputError

Number = int | float
FORMS = "one value, choices as 1,2,4, or a range as 0..0.5, 1e-5..1e-2:log or 16..64:16"

_OF_ATTENTION = ("key_size", "value_size")  # have no meaning where there are no attention heads


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What an option takes: whole numbers or any, from `least` on, and below `below`."""

    whole: bool
    least: float
    below: float = math.inf
    above_least: bool = False
    """Whether `least` itself is refused."""

    def read(self, word: str) -> Number:
        """The number that a word spells.

        Raises:
            ValueError: says what was expected.
        """
        try:
            value: Number = int(word) if self.whole else float(word)
        except ValueError:
            raise ValueError(f"{word!r} is not a {'whole ' * self.whole}number") from None
        low = value <= self.least if self.above_least else value < self.least
        if low or not value < self.below:
            least = f"{'above' if self.above_least else 'at least'} {self.least:g}"
            below = f" and below {self.below:g}" if self.below < math.inf else ""
            raise ValueError(f"{word} is out of bounds: it must be {least}{below}")
        return value


@dataclasses.dataclass(frozen=True)
class Space:
    """What is searched, and what has one value.

    Args:
        searched: a distribution of Optuna for each option that varies.
        fixed: the others.
        words: what the user wrote, by option.
    """

    searched: dict[str, BaseDistribution]
    fixed: dict[str, Number]
    words: dict[str, str]

    def suggest(self, trial: optuna.Trial) -> dict[str, Number]:
        """A value for each option, of ranges `rounded`; sizes of keys and values only where there are heads."""
        chosen: dict[str, Number] = {}
        for name in self.words:
            if name in _OF_ATTENTION and chosen["num_heads"] == 0:
                continue
            chosen[name] = (
                self.fixed[name] if name in self.fixed else _suggest(trial, name, self.searched[name])
            )
        return chosen

    @property
    def conditional(self) -> tuple[str, ...]:
        """What only some of the trials choose."""
        return _OF_ATTENTION if _may_be(self.searched.get("num_heads"), 0) else ()

    def some(self) -> dict[str, Number]:
        """A choice of the space, whichever."""
        ends = {name: _end(distribution) for name, distribution in self.searched.items()}
        return self.of(ends)

    def of(self, searched: Mapping[str, Number]) -> dict[str, Number]:
        """A value for each option, where those that are searched have these."""
        return self.suggest(optuna.trial.FixedTrial(dict(searched)))  # type: ignore[arg-type]

    def holds(self, values: Mapping[str, Number]) -> bool:
        """Whether the space has this choice."""
        return all(
            value == self.fixed[name]
            if name in self.fixed
            else name in self.searched and _holds(self.searched[name], value)
            for name, value in values.items()
        )


def parse_space(words: Mapping[str, str], bounds: Mapping[str, Bounds]) -> Space:
    """The space that options spell.

    Args:
        words: of each option, `num_heads` before those that depend on it.
        bounds: what each takes.

    Raises:
        InputError: no value, one that an option does not take, a range that is empty or that its step does not divide;
            or nothing is left to search.
    """
    searched, fixed = {}, {}
    for name, word in words.items():
        try:
            found = _parse(word, bounds[name])
        except (ValueError, ArithmeticError) as error:  # arithmetic: of steps that are tiny
            raise InputError(f"--{name}: found {word[:200]!r}: {error}; expected {FORMS}") from None
        if isinstance(found, BaseDistribution):
            searched[name] = found
        else:
            fixed[name] = found
    if fixed.get("num_heads") == 0:
        for name in _OF_ATTENTION:
            searched.pop(name, None)
    if not searched:
        raise InputError(
            f"nothing to search: each of {', '.join(f'--{name}' for name in words)} has one value; give choices "
            "as 1,2,4 or a range as 0..0.5 to at least one"
        )
    return Space(searched, fixed, dict(words))


def _parse(word: str, bounds: Bounds) -> BaseDistribution | Number:
    if ".." in word:
        return _range(word, bounds)
    values = [bounds.read(part.strip()) for part in word.split(",") if part.strip()]
    if not values:
        raise ValueError("there is no value")
    if len(set(values)) < len(values):
        raise ValueError("a value is there twice")
    return values[0] if len(values) == 1 else CategoricalDistribution(values)


def _range(word: str, bounds: Bounds) -> BaseDistribution | Number:
    ends, _, how = word.partition(":")
    low, high = (bounds.read(part.strip()) for part in ends.split("..", 1))
    if low > high:
        raise ValueError(f"{low:g} is above {high:g}")
    if low == high:
        return low
    log, step = how.strip() == "log", None
    if log and low <= 0:
        raise ValueError("a logarithmic range begins above 0")
    if how and not log:
        step = Bounds(bounds.whole, 0, above_least=True).read(how.strip())
        if abs(steps := (high - low) / step) < 1 or abs(steps - round(steps)) > 1e-9:
            raise ValueError(f"steps of {step:g} do not lead from {low:g} to {high:g}")
    if bounds.whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Number:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)  # type: ignore[return-value]
    if isinstance(distribution, IntDistribution):
        low, high = distribution.low, distribution.high
        return trial.suggest_int(name, low, high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    ends, step = (distribution.low, distribution.high), distribution.step
    value = trial.suggest_float(name, *ends, step=step, log=distribution.log)
    return value if step else min(max(rounded(value), ends[0]), ends[1])


def as_chosen(trial: FrozenTrial) -> dict[str, Number]:
    """What a trial was told to use, of what was searched."""
    return {
        name: rounded(value) if _is_rounded(trial.distributions[name]) else value
        for name, value in trial.params.items()
    }


def _is_rounded(distribution: BaseDistribution) -> bool:
    return isinstance(distribution, FloatDistribution) and distribution.step is None


def rounded(value: Number) -> Number:
    """The number with three digits, which nobody can tell from it in a training, and which can be read and typed."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _end(distribution: BaseDistribution) -> Number:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]  # type: ignore[return-value]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low


def _may_be(distribution: BaseDistribution | None, value: Number) -> bool:
    return distribution is not None and _holds(distribution, value)


def _holds(distribution: BaseDistribution, value: Number) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    steps = (value - distribution.low) / (distribution.step or 1)
    on_a_step = not distribution.step or abs(steps - round(steps)) < 1e-9
    return distribution.low <= value <= distribution.high and on_a_step


def shown(values: Mapping[str, Number], names: Iterable[str]) -> str:
    """`num_heads 2, learning_rate 0.00031`: some of a trial's values for a line."""
    return ", ".join(f"{name} {values[name]:.3g}" for name in names if name in values)
