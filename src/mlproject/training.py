"""fit(): the only training loop, with its step, its optimizer and its warm-up."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from enformer_core.initial import variable_name

Batch = Mapping[str, tf.Tensor]
LossFunction = Callable[[Batch, bool, tf.Tensor], tuple[tf.Tensor, dict[str, tf.Tensor]]]
Step = Callable[[Batch, float, np.ndarray], dict[str, tf.Tensor]]


class Diverged(Exception):
    """A training number became NaN or infinite; the message names it and the step."""


class Adam:
    """Adam (https://arxiv.org/abs/1412.6980) over a fixed list of variables, one fused operation for each.

    With `weight_decay` it is AdamW (https://arxiv.org/abs/1711.05101): weights also shrink by their share of
    `learning_rate * weight_decay` in each step, whatever the gradients. Only weights: pulling a bias or the scale of a
    normalisation to 0 makes no function smoother, and shifts what every example has in common.

    The moments exist before any step is traced, so that a step is traced once.

    Args:
        variables: what moves.
        beta1, beta2, epsilon: of the paper.
        weight_decay: of the second paper; 0 is Adam.
    """

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        self.variables = list(variables)
        self._weight_decay = weight_decay
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._count = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._moments = [
            tuple(tf.Variable(tf.zeros_like(v), trainable=False) for _ in range(2)) for v in self.variables
        ]

    def apply(self, gradients: Sequence[tf.Tensor | None], learning_rate: tf.Tensor) -> None:
        """Moves every variable by one step; one without a gradient (None) stays, and so do its moments."""
        count = tf.cast(self._count.assign_add(1), tf.float32)
        beta1_power, beta2_power = tf.pow(self._beta1, count), tf.pow(self._beta2, count)
        for variable, (first, second), gradient in zip(self.variables, self._moments, gradients, strict=True):
            if gradient is None:  # the head of another organism
                continue
            if self._weight_decay and _is_weight(variable):
                variable.assign_sub(learning_rate * self._weight_decay * variable)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=beta1_power,
                beta2_power=beta2_power,
                lr=learning_rate,
                beta1=self._beta1,
                beta2=self._beta2,
                epsilon=self._epsilon,
                grad=gradient,
            )

    def reset(self) -> None:
        """Back to the state before the first step."""
        for slot in self.slots().values():
            slot.assign(tf.zeros_like(slot))

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, by name."""
        return {name: slot.numpy() for name, slot in self.slots().items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets what `state` returned."""
        for name, slot in self.slots().items():
            slot.assign(state[name])

    def slots(self) -> dict[str, tf.Variable]:
        """The count of steps and the two moments of each variable, by name."""
        slots = {"count": self._count}
        for variable, (first, second) in zip(self.variables, self._moments, strict=True):
            slots[f"first/{variable_name(variable)}"] = first
            slots[f"second/{variable_name(variable)}"] = second
        return slots


def _is_weight(variable: tf.Variable) -> bool:
    """Whether it is multiplied with channels; the biases of relative positions have a rank of 4 too."""
    return variable.shape.rank >= 2 and not variable_name(variable).endswith("_bias")


def make_step(loss_fn: LossFunction, optimizer: Adam, clip_norm: float = 0.0, compiled: bool = True) -> Step:
    """One training step: `(batch, learning_rate, key)` to what `step_function` gives; arguments as there."""
    step = step_function(loss_fn, optimizer, clip_norm, compiled)

    def call(batch: Batch, learning_rate: float, key: np.ndarray) -> dict[str, tf.Tensor]:
        return step(batch, tf.constant(learning_rate, tf.float32), tf.constant(key, tf.int32))

    return call


def step_function(
    loss_fn: LossFunction, optimizer: Adam, clip_norm: float = 0.0, compiled: bool = True
) -> tf.types.experimental.PolymorphicFunction:
    """One training step as a TensorFlow function of tensors.

    Args:
        loss_fn: `(batch, is_training, key)` to (scalar loss, more scalars by name); key is int32 `[2]`, (seed, step),
            what dropout is drawn from.
        optimizer: holds the variables that move.
        clip_norm: gradients are scaled down to this global norm; 0 leaves them as they are.
        compiled: by XLA: half the time and a third of the memory; it costs seconds for each new shape of batch.

    Returns:
        `(batch, learning_rate, key)` to scalars by name: `loss`, `gradient_norm` and those of loss_fn.
    """

    # Nothing in a model is Python that autograph would have to turn, and reading all of it takes seconds.
    @tf.function(jit_compile=compiled, autograph=False)
    def step(batch: Batch, learning_rate: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(optimizer.variables)
            loss, scalars = loss_fn(batch, True, key)
        gradients = tape.gradient(loss, optimizer.variables)
        norm = tf.linalg.global_norm(gradients)
        if clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, use_norm=norm)
        optimizer.apply(gradients, learning_rate)
        return {"loss": loss, "gradient_norm": norm, **scalars}

    return step


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast: counts of steps, and a learning rate that rises linearly over the warm-up.

    After it the rate stays, or falls along a cosine to `final_share` of itself at the last step
    (https://arxiv.org/abs/1608.03983, without restarts).
    """

    epochs: int
    steps_per_epoch: int
    warmup_steps: int
    learning_rate: float
    final_share: float = 1.0

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 1."""
        if step <= self.warmup_steps or self.final_share == 1:
            return self.learning_rate * min(1.0, step / max(1, self.warmup_steps))
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        share = self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * share


class TrainResult(NamedTuple):
    """How a training ended: steps done, the last step's scalars, seconds spent in steps."""

    step: int
    metrics: dict[str, float]
    seconds: float


def fit(
    step: Step,
    batches: Iterator[Batch],
    schedule: Schedule,
    log: Callable[[int, dict[str, float]], None],
    *,
    seed: int,
    start: int = 0,
    end_of_epoch: Callable[[int], bool | None] = lambda step: None,
    after_step: Callable[[int], None] = lambda step: None,
) -> TrainResult:
    """Trains: the whole loop.

    Args:
        step: what `make_step` returns.
        batches: endless, and already at `start`.
        schedule: lengths and learning rates.
        log: gets (step, scalars) after every step: those of the step and `learning_rate`.
        seed: dropout is drawn from (seed, step).
        start: steps done before, by a run that is resumed.
        end_of_epoch: called with the step count after every epoch: validation, checkpoints; true ends the training.
        after_step: called with the step count after every step; may raise to stop.

    Raises:
        Diverged: a scalar is NaN or infinite; names it and the step. The model is then of no use.
    """
    metrics: dict[str, float] = {}
    seconds = 0.0
    for count in range(start + 1, schedule.steps + 1):
        batch = next(batches)
        began = time.perf_counter()
        scalars = step(batch, schedule.rate(count), np.array([seed, count], np.int32))
        metrics = {name: float(value) for name, value in scalars.items()}
        seconds += time.perf_counter() - began
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise Diverged(
                    f"{name} became {value} at step {count} of {schedule.steps}; try a lower learning_rate"
                )
        log(count, {**metrics, "learning_rate": schedule.rate(count)})
        enough = count % schedule.steps_per_epoch == 0 and end_of_epoch(count)
        after_step(count)
        if enough:
            return TrainResult(count, metrics, seconds)
    return TrainResult(schedule.steps, metrics, seconds)
