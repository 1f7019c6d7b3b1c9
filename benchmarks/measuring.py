"""What the benchmarks share: processes of their own, peak memory, rate of a matrix product, counts of arithmetic."""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def in_child(script: str, case: Mapping[str, Any], python: str = sys.executable) -> dict[str, float] | None:
    """What `script --case CASE` prints as JSON in its last line, in a process whose peak memory is its own.

    Nothing is loaded from the cache of compiled programs. None where the process ends badly; its stderr is shown then.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_XLA_FLAGS": "",
    }
    words = [python, script, "--case", json.dumps(case)]
    ended = subprocess.run(words, capture_output=True, text=True, env=environment)
    if ended.returncode:
        print(f"{case}: ended with {ended.returncode}\n{ended.stderr[-2000:]}")
        return None
    return json.loads(ended.stdout.splitlines()[-1])


def command(folder: Path, *words: str) -> None:
    """Runs one command of the project in a folder, on a store of its own; what it prints is shown where it fails."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "mlproject", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        raise SystemExit(
            f"{words[0]} ended with {ended.returncode}\n{ended.stdout[-1000:]}{ended.stderr[-2000:]}"
        )


def case_of(description: str) -> dict[str, Any] | None:
    """The case that this process is a child for, or None in the process that the user started."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--case", help=argparse.SUPPRESS)
    found = parser.parse_args().case
    return json.loads(found) if found else None


def verdict(name: str, value: float, limit: float, unit: str = "") -> bool:
    """Prints a value beside its limit and returns whether it is met."""
    met = value <= limit
    print(f"{name}: {value:.2f}{unit} (limit {limit:g}{unit}): {'met' if met else 'NOT met'}", flush=True)
    return met


def peak_gb() -> float:
    """Peak resident memory of this process in GB (10^9 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def fastest(call: Callable[[], Any], times: int) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def matrix_rate() -> float:
    """float32 GFLOP/s of one large matrix product in TensorFlow, the fastest of ten: what a model can hope for."""
    import tensorflow as tf

    size = 4096
    a, b = (tf.random.stateless_normal([size, size], [0, i]) for i in range(2))
    return 2 * size**3 / 1e9 / fastest(lambda: tf.matmul(a, b).numpy(), 10)


def forward_gflop(config: Any) -> float:
    """Multiplications and additions of the matrix products of one forward pass as published, in 10^9.

    Pooling counts with its published projection of every position; ours needs half of it.
    """
    from enformer_core.enformer import BIN_SIZE_BP, tower_filters

    channels, positions = config.channels // 2, config.sequence_length
    products = positions * 15 * 4 * channels
    filters = tower_filters(config.channels, config.divisible_by)
    for width, size in zip((0, *[5] * len(filters)), (channels, *filters), strict=True):
        # convolution, pointwise, pooling
        products += positions * (width * channels * size + 2 * size * size)
        channels, positions = size, positions // 2
    bins, keys = config.sequence_length // BIN_SIZE_BP, config.num_heads * config.attention_key_size
    layer = bins * channels * (2 * keys + 2 * channels)  # query and key, value and output
    layer += (2 * bins - 1) * config.num_position_features * keys
    layer += (
        bins * keys * (bins + 2 * bins - 1) + bins * bins * channels
    )  # content, positions, weighted values
    layer += bins * channels * 4 * channels
    products += config.num_transformer_layers * layer
    products += config.num_bins * 2 * channels * (channels + sum(config.heads.values()))
    return 2 * products / 1e9


def config_of(case: Mapping[str, Any]) -> Any:
    """The `EnformerConfig` of a case: `preset`, `length` in bp, `heads` (tracks by name), `config` (other fields)."""
    from enformer_core.enformer import BIN_SIZE_BP, preset

    return preset(
        case["preset"],
        heads=case.get("heads", {"human": 5313}),
        sequence_length=case["length"],
        target_length=min(896, case["length"] // BIN_SIZE_BP),
        **case.get("config", {}),
    )


def step_floor(found: Mapping[str, float]) -> float:
    """Seconds of the products of three forward passes, as a training step has them: printed as the reference."""
    floor = 3 * found["gflop"] / found["rate"]
    print(
        f"reference: three forward passes of {found['gflop']:.0f} GFLOP at {found['rate']:.0f} GFLOP/s: {floor:.1f} s"
    )
    return floor


def one_hot(length: int) -> Any:
    """Random DNA `[1, length, 4]` float32."""
    import numpy as np

    return np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(0, 4, (1, length))]
