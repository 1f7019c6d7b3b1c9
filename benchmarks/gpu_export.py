"""The compiled training step, from TensorFlow, as StableHLO: what `gpu_step.py` runs where there is no TensorFlow.

    python benchmarks/gpu_export.py FOLDER
    python benchmarks/gpu_export.py FOLDER --preset tiny --length 4096 --layers 2 --tracks 50 --values

Writes the module before any pass of XLA, since those of this machine's processor would stay in it, and a plan: what the
inputs are and how to draw them, which output is the new value of which input, and the arithmetic of a step. Weights do
not travel. `--values`, for small sizes, also writes what TensorFlow computes from the same inputs.
"""

import argparse
import dataclasses
import json
import lzma
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from gpu_step import EXPECTED, MODULE, PLAN, draw
from measuring import ROOT, config_of, forward_gflop
from training_step import poisson_of

sys.path.insert(0, str(ROOT / "src"))

from enformer_core.enformer import Enformer, EnformerConfig
from enformer_core.initial import variable_name
from mlproject.training import Adam, step_function

DTYPES = {"f32": "float32", "i32": "int32", "i64": "int64"}
LEARNING_RATE = 1e-3


def tensor_types(words: str) -> list[tuple[list[int], str]]:
    """Shape and dtype of every tensor type in a piece of StableHLO."""
    types = [found.split("x") for found in re.findall(r"tensor<([^>]*)>", words)]
    return [([int(size) for size in shape], DTYPES[dtype]) for *shape, dtype in types]


def signature(module: str) -> tuple[list[tuple[list[int], str]], list[tuple[list[int], str]]]:
    """Shape and dtype of every input and of every output of a module."""
    main = re.search(r"func\.func @main\((.*?)\) -> \((.*?)\) \{", module)
    assert main
    return tensor_types(main[1]), tensor_types(main[2])


def input_plan(
    name: str,
    shape: Sequence[int],
    dtype: str = "float32",
    fill: str = "normal",
    mean: float = 0,
    stddev: float = 0,
) -> dict[str, Any]:
    """What `draw` needs to know of one input."""
    return {"name": name, "shape": list(shape), "dtype": dtype, "fill": fill, "mean": mean, "stddev": stddev}


def variable_plan(name: str, variable: tf.Variable, is_trained: bool) -> dict[str, Any]:
    """The plan of a variable: like its first value, but such that every gradient is a number worth comparing."""
    mean, stddev = variable.dtype.as_numpy_dtype(np.mean(variable.numpy())).item(), 0.0
    if is_trained:  # the projections that begin at zero would hide what is behind them
        stddev = max(0.01, float(np.std(variable.numpy())))
    elif name.startswith("first/"):
        stddev = 1e-3
    elif name.startswith("second/"):  # at zero, Adam's first step would be the sign of a rounding error
        mean = 1e-6
    return input_plan(name, variable.shape, variable.dtype.name, mean=mean, stddev=stddev)


def export(folder: Path, config: EnformerConfig, batch: int, values: bool) -> dict[str, Any]:
    """Writes the module, the plan and, with values, what TensorFlow computes; returns the plan."""
    model = Enformer(config)
    optimizer = Adam(model.trainable_variables)

    step = step_function(poisson_of(model), optimizer)
    inputs = [
        input_plan("sequence", [batch, config.sequence_length, 4], fill="one_hot"),
        input_plan("target", [batch, config.num_bins, config.heads["human"]], fill="exponential"),
        input_plan("learning_rate", [], mean=LEARNING_RATE),
        input_plan("key", [2], "int32", mean=1),
    ]
    sequence, target, *rest = (tf.constant(draw(plan, index)) for index, plan in enumerate(inputs))
    arguments = ({"sequence": sequence, "target": target}, *rest)
    traced = step.get_concrete_function(*arguments)

    named = {variable_name(variable): variable for variable in model.variables} | optimizer.slots()
    names = {id(variable.handle): name for name, variable in named.items()}
    captured = [names[id(handle)] for handle in traced.captured_inputs]
    trained = {variable_name(variable) for variable in optimizer.variables}
    inputs += [variable_plan(name, named[name], name in trained) for name in captured]

    module = step.experimental_get_compiler_ir(*arguments)(stage="stablehlo")
    # The one operation that StableHLO has no word for; all it says is that an output is not an input.
    module = re.sub(r"mhlo\.copy (%\S+) : (tensor<[^>]*>)", r"stablehlo.reshape \1 : (\2) -> \2", module)
    if signature(module)[0] != [(plan["shape"], plan["dtype"]) for plan in inputs]:
        raise RuntimeError("the inputs of the module are not the step's arguments and then its variables")
    aliases = r"parameter_number = (\d+) : i64}, output_index = array<i64: (\d+)>"
    outputs = {int(index): int(output) for index, output in re.findall(aliases, module)}
    for index, plan in enumerate(inputs):
        plan["output"] = outputs.get(index)
    plan = {
        "config": dataclasses.asdict(config),
        "flop": 3e9 * batch * forward_gflop(config),  # two gradients for each product
        "custom_calls": sorted(set(re.findall(r"custom_call @(\w+)", module))),
        "scalars": sorted(traced.structured_outputs),
        "inputs": inputs,
    }
    folder.mkdir(parents=True, exist_ok=True)
    # Packed it is a hundredth, since every layer holds the same table of positions.
    (folder / MODULE).write_bytes(lzma.compress(module.encode()))
    (folder / PLAN).write_text(json.dumps(plan, indent=1), encoding="utf-8")
    (folder / EXPECTED).unlink(missing_ok=True)
    if values:
        for index, name in enumerate(captured, len(inputs) - len(captured)):
            named[name].assign(draw(inputs[index], index))
        scalars = step(*arguments)
        results = {name: scalars[name].numpy() for name in plan["scalars"]}
        np.savez(folder / EXPECTED, **results, **{name: named[name].numpy() for name in captured})
    return plan


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="full")
    parser.add_argument("--length", type=int, default=196_608, help="bp")
    parser.add_argument("--layers", type=int, default=11)
    parser.add_argument("--tracks", type=int, default=5313)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--values", action="store_true", help="also what TensorFlow computes")
    chosen = parser.parse_args()
    config = config_of(
        {
            "preset": chosen.preset,
            "length": chosen.length,
            "heads": {"human": chosen.tracks},
            "config": {"num_transformer_layers": chosen.layers},
        }
    )
    plan = export(chosen.folder, config, chosen.batch, chosen.values)
    print(f"{len(plan['inputs'])} inputs, {plan['flop'] / 1e9:,.1f} GFLOP a step")
    print(f"calls of what only TensorFlow has: {', '.join(plan['custom_calls']) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
