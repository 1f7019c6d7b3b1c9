"""One training step on a GPU: TensorFlow's compiled step under JAX's runtime beside the PyTorch port, on one card.

For some cards there is JAX and PyTorch, but no TensorFlow. `gpu_export.py` writes our step as StableHLO, on any machine
with the environment of the README; the folder that it makes and this one travel, without an installation:

    python benchmarks/gpu_step.py FOLDER                    # both sides, each in a process of its own, and the ratios
    python benchmarks/gpu_step.py FOLDER --jax A/bin/python --torch B/bin/python
    python benchmarks/gpu_step.py FOLDER --side jax         # one side alone

One side needs jax (written for 0.11), the other torch and enformer-pytorch (0.8); none is a dependency of this project.
Where there is no package index, the port travels as wheels: `pip download --no-deps enformer-pytorch polars
polars-runtime-32 pyfaidx` (and einops or transformers where they lack), `pip install --no-index --no-deps --target SITE
*.whl`, and SITE on PYTHONPATH.

Each side draws the same batch. Where the folder has what TensorFlow computed, our side compares in float32, and exits
with 1 where the loss or the change of a variable differs by more than 1e-3.

The peak is a large matrix product of the same process, framework and precision: `float32`, or `tf32`, which rounds the
inputs of products to 10 bits. The arithmetic, for both, is that of three forward passes as published: the gradient of
a product is two. What a backward pass computes again does not count, and our pooling does half of what counts.
"""

import argparse
import json
import lzma
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from measuring import fastest, peak_gb

MODULE, PLAN, EXPECTED = "step.mlir.xz", "step.json", "expected.npz"
TOLERANCE = 1e-3
PRECISIONS = ("float32", "tf32")
NO_GPU = "no GPU here: numbers below are of the CPU and only show that the script works"


def draw(plan: dict[str, Any], index: int) -> np.ndarray:
    """The value of one input, a function of its plan and of its place among the inputs."""
    random = np.random.default_rng(index)
    shape, dtype = plan["shape"], plan["dtype"]
    if plan["fill"] == "one_hot":
        return np.eye(shape[-1], dtype=dtype)[random.integers(0, shape[-1], shape[:-1])]
    if plan["fill"] == "exponential":
        return random.standard_exponential(shape, dtype)
    values = np.full(shape, plan["mean"], dtype)
    return values + plan["stddev"] * random.standard_normal(shape, dtype) if plan["stddev"] else values


def timed(call: Callable[[], Any], count: int) -> dict[str, float]:
    """Seconds of the first call, and of the fastest of `count` more."""
    first_s = fastest(call, 1)
    return {"first_s": first_s, "step_s": fastest(call, count)}


def peak_rows(card: str | None) -> int:
    """Rows of the matrix product that is the peak."""
    return 8192 if card else 2048


def differences(
    plan: dict[str, Any], outputs: list[np.ndarray], expected: dict[str, np.ndarray]
) -> dict[str, float]:
    """How far outputs are from TensorFlow's, relative: of a scalar, or of the change of a variable, by its norm."""
    found = {}
    for output, name in zip(outputs, plan["scalars"], strict=False):  # the scalars come first
        found[name] = float(abs(output - expected[name]) / abs(expected[name]))
    for index, about in enumerate(plan["inputs"]):
        if about["output"] is not None:
            before = draw(about, index).astype(np.float64)
            change = expected[about["name"]] - before
            error = np.linalg.norm(outputs[about["output"]] - before - change)
            found[about["name"]] = float(error / (np.linalg.norm(change) or 1))
    return found


def jax_side(folder: Path, plan: dict[str, Any], precision: str, steps: int) -> dict[str, Any]:
    """The exported step under JAX's runtime."""
    import jax
    import jax.numpy as jnp
    from jax._src.compiler import get_compile_options  # JAX's own: they know where CUDA is
    from jax._src.lib import xla_client  # JAX has no public way to run a module that it did not make
    from jax.extend import mlir
    from jax.extend.mlir.dialects import stablehlo

    jax.config.update("jax_enable_x64", True)  # counters are int64
    device = jax.devices()[0]
    card = None if device.platform == "cpu" else device.device_kind
    exact = precision == "float32"
    module = lzma.decompress((folder / MODULE).read_bytes()).decode()
    if exact:  # what DEFAULT products are on a card with TF32
        module = re.sub(r"\bDEFAULT\b", "HIGHEST", module)
    # The form in which the plugin of a card gets every module; on the CPU it only shows that the module has one.
    portable = mlir.serialize_portable_artifact(module, stablehlo.get_minimum_version())
    began = time.perf_counter()
    executable = device.client.compile_and_load(
        portable,
        xla_client.DeviceList((device,)),
        get_compile_options(1, 1, device_assignment=np.array([[device.id]])),
    )
    compile_s = time.perf_counter() - began
    inputs = [jax.device_put(draw(about, index), device) for index, about in enumerate(plan["inputs"])]

    def step() -> list[jax.Array]:
        outputs = jax.block_until_ready(executable.execute(inputs))
        for index, about in enumerate(plan["inputs"]):
            if about["output"] is not None:  # it lies where the input lay, which is gone
                inputs[index] = outputs[about["output"]]
        return outputs

    found: dict[str, Any] = {"card": card, "compile_s": compile_s}
    if (folder / EXPECTED).exists():
        outputs = [np.asarray(output) for output in step()]
        with np.load(folder / EXPECTED) as expected:
            found["differences"] = differences(plan, outputs, dict(expected))
    found |= timed(step, steps)
    statistics = device.memory_stats()
    found["memory_gb"] = statistics["peak_bytes_in_use"] / 1e9 if statistics else peak_gb()
    factor = jax.random.normal(jax.random.key(0), [peak_rows(card)] * 2, jnp.float32)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest" if exact else "default"))
    found["product_s"] = timed(lambda: jax.block_until_ready(product(factor)), 5)["step_s"]
    return found


def torch_side(folder: Path, plan: dict[str, Any], precision: str, steps: int) -> dict[str, Any]:
    """The step of the PyTorch port, at the same sizes."""
    import torch
    from enformer_pytorch import Enformer

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    device = "cuda" if card else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True  # XLA, too, tries which convolution is fastest
    sequence, target = (torch.from_numpy(draw(plan["inputs"][i], i)).to(device) for i in (0, 1))
    config = plan["config"]
    model = Enformer.from_hparams(
        dim=config["channels"],
        depth=config["num_transformer_layers"],
        heads=config["num_heads"],
        attn_dim_key=config["key_size"],
        dim_divisible_by=config["divisible_by"],
        target_length=config["target_length"] or -1,
        output_heads=config["heads"],
        dropout_rate=config["dropout_rate"],
        attn_dropout=config["attention_dropout_rate"],
        pos_dropout=config["positional_dropout_rate"],
    )
    model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss = model(sequence, head="human", target=target)
        loss.backward()
        optimizer.step()
        loss.item()
        if card:
            torch.cuda.synchronize()

    found: dict[str, Any] = {"card": card, **timed(step, steps)}
    found["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9 if card else peak_gb()
    factor = torch.randn([peak_rows(card)] * 2, device=device)
    found["product_s"] = timed(lambda: (factor @ factor)[0, 0].item(), 5)["step_s"]
    return found


SIDES = {"jax": jax_side, "torch": torch_side}


def report(side: str, folder: Path, precision: str, steps: int) -> bool:
    """Measures one side, prints a line for people and one for the other process; whether it is within the limit."""
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    found = SIDES[side](folder, plan, precision, steps)
    card = found["card"]
    if card is None:
        print(NO_GPU)
    peak = 2 * peak_rows(card) ** 3 / found["product_s"]
    first_s = found["first_s"] + found.get("compile_s", 0)
    print(
        f"{side}, {precision}: step {found['step_s']:.4f} s, first {first_s:.1f} s, memory "
        f"{found['memory_gb']:.2f} GB of the {'card' if card else 'process'}, "
        f"{plan['flop'] / found['step_s'] / peak:.2f} of {peak / 1e12:.3g} TFLOP/s ({card or 'CPU'})"
    )
    apart = found.get("differences", {})
    worst = max(apart, key=lambda name: (apart[name] != apart[name], apart[name]), default="")  # NaN is worst
    met = precision == "tf32" or not worst or apart[worst] <= TOLERANCE
    if worst:
        limit = (
            "none, TF32 rounds as much"
            if precision == "tf32"
            else f"{TOLERANCE}: {'met' if met else 'NOT met'}"
        )
        print(f"from TensorFlow's results at most {apart[worst]:.1e} ({worst}); limit {limit}")
    print(json.dumps(found), flush=True)
    return met


def compare(folder: Path, steps: int, pythons: dict[str, str]) -> bool:
    """Both sides at every precision that the device has, each in a process of its own, so that memory is its own."""
    met = True
    for precision in PRECISIONS:
        found = {}
        for side, python in pythons.items():
            words = [
                python,
                __file__,
                str(folder),
                "--side",
                side,
                "--precision",
                precision,
                "--steps",
                str(steps),
            ]
            ended = subprocess.run(words, stdout=subprocess.PIPE, text=True)
            *lines, last = ended.stdout.splitlines() or [""]
            print(*lines, sep="\n", flush=True)
            if ended.returncode:
                print(f"{side}: ended with {ended.returncode}")
                met = False
            if last:
                found[side] = json.loads(last)
        on_card = {side["card"] is not None for side in found.values()}
        if len(found) == len(SIDES) and len(on_card) == 1:
            ratios = [found["jax"][key] / found["torch"][key] for key in ("step_s", "memory_gb")]
            print(
                f"{precision}: {ratios[0]:.2f} of the port's time, {ratios[1]:.2f} of its memory", flush=True
            )
        elif len(on_card) > 1:
            print("no ratio: one side ran on the GPU, the other on the CPU")
            met = False
        if True not in on_card:  # a CPU has no TF32
            break
    return met


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what gpu_export.py wrote")
    parser.add_argument("--steps", type=int, default=10, help="the fastest counts")
    parser.add_argument("--side", choices=SIDES, help="this one alone, in this process")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of one side alone")
    parser.add_argument("--jax", default=sys.executable, help="a Python that has jax")
    parser.add_argument("--torch", default=sys.executable, help="a Python that has enformer-pytorch")
    chosen = parser.parse_args()
    if chosen.side:
        return 0 if report(chosen.side, chosen.folder, chosen.precision, chosen.steps) else 1
    return 0 if compare(chosen.folder, chosen.steps, {"jax": chosen.jax, "torch": chosen.torch}) else 1


if __name__ == "__main__":
    sys.exit(main())
