"""Whether this host can compute in a precision: tried in a child process, because some hosts kill a process that tries.

Processors that advertise bfloat16 instructions but trap them end a process with SIGILL, where no exception can be
caught.
"""

import os
import signal
import subprocess
import sys

from mlproject.errors import InputError

TIMEOUT_SECONDS = 300


def require(precision: str, command: list[str] | None = None) -> None:
    """Returns if this host can train in a precision; float32 is every host's.

    Args:
        precision: `float32` or `bfloat16`.
        command: what to run instead of the trial, in tests.

    Raises:
        InputError: one line that says how the trial ended.
    """
    if precision == "float32":
        return
    words = command or [sys.executable, "-m", "mlproject.precision", precision]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # the child finds what this process has found
        "TF_CPP_MIN_LOG_LEVEL": "3",  # what it says last is then the error
    }
    try:
        tried = subprocess.run(
            words,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        how = f"did not end within {TIMEOUT_SECONDS} seconds"
    else:
        if tried.returncode == 0:
            return
        if tried.returncode < 0:
            how = f"was killed by signal {-tried.returncode} ({signal.strsignal(-tried.returncode)})"
        else:
            how = f"failed with {tried.stderr.strip().rpartition(chr(10))[2] or tried.returncode}"
    raise InputError(
        f"--precision: found {precision!r}, but a trial of it on this host, in a process of its own, {how}; "
        "choose float32"
    )


def _try(precision: str) -> None:
    """One compiled training step of a small model, with products as large as those that use matrix instructions."""
    import numpy as np
    import tensorflow as tf

    from enformer_core.enformer import Enformer, preset
    from mlproject.training import Adam, Batch, make_step

    config = preset(
        "quarter", heads={"human": 2}, sequence_length=4096, target_length=None, num_transformer_layers=1
    )
    model = Enformer(config, precision=precision)

    def loss(batch: Batch, is_training: bool, key: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        return tf.reduce_mean(model(batch["sequence"], is_training, key)["human"]), {}

    sequence = tf.one_hot(np.random.default_rng(0).integers(0, 4, (1, 4096)), 4)
    step = make_step(loss, Adam(model.trainable_variables))
    found = step({"sequence": sequence}, 1e-4, np.zeros(2, np.int32))
    if not all(np.isfinite(float(value)) for value in found.values()):
        raise FloatingPointError(f"numbers that are not finite: {found}")


if __name__ == "__main__":
    _try(sys.argv[1])
