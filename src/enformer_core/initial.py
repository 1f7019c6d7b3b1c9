"""Initial weights as a function of (seed, variable name, shape).

Variants of one seed therefore share every variable that they have in common, in whatever order they are built,
and a model is made new for another seed by assigning to its variables, without building or tracing it again.
"""

import hashlib
import re

import numpy as np
import sonnet as snt
import tensorflow as tf

# First match decides. The numbers are those of the published Sonnet code: `snt.Linear` and `snt.Conv1D` draw from
# a normal of standard deviation 1/sqrt(fan-in) cut at two deviations; attention projections from
# `VarianceScaling(2.0)`, which corrects for the cut; pooling starts near a maximum; the attention output at zero.
# Low-rank adapters start as nothing: one factor drawn, the other zero. Rows of a table are no
# fan-in. Of the five channels of a letter one is not zero: its embedding begins with a variance of 1. Latents
# begin by looking at few positions each: a mean over all hides a motif.
_RULES = (
    (re.compile(r"/pool/logit/w$"), "identity", 2.0),
    (re.compile(r"/attention/output/w$"), "constant", 0.0),
    (re.compile(r"/(attention|activity|head_\w+)/(query|key|value|relative_key)/w$"), "scaled normal", 2.0),
    (re.compile(r"/attention/(content|position)_bias$"), "scaled normal", 2.0),
    (re.compile(r"/adapter/up/w$"), "constant", 0.0),
    (re.compile(r"^perceiver/position_embedding$"), "embedding", 0.05),
    (re.compile(r"^perceiver/(\w+_embedding|latents)$"), "embedding", 0.2),
    (re.compile(r"^perceiver/letter/w$"), "normal", 5.0),
    (re.compile(r"^perceiver/encoder/query/w$"), "normal", 4.0),
    (re.compile(r"/w$"), "normal", 1.0),
    (re.compile(r"/scale$"), "constant", 1.0),
    # Zero in Sonnet, which makes a model that has seen no batch overflow; the first update replaces it either way.
    (re.compile(r"/moving_variance/average$"), "constant", 1.0),
    (re.compile(r""), "constant", 0.0),
)
_STDDEV_OF_CUT_NORMAL = 0.87962566103423978  # of a standard normal cut at -2 and 2


def initialize(module: snt.Module, seed: int) -> None:
    """Sets every variable of a module, BatchNorm averages and counters included, to its initial value."""
    for variable in module.variables:
        variable.assign(initial_value(seed, variable_name(variable), variable.shape, variable.dtype))


def variable_name(variable: tf.Variable) -> str:
    """The name of a variable without TensorFlow's `:0`, such as `enformer/stem/conv/w`."""
    return variable.name.removesuffix(":0")


def initial_value(seed: int, name: str, shape: tf.TensorShape, dtype: tf.DType = tf.float32) -> np.ndarray:
    """The initial value of one variable: a NumPy array of its shape and dtype.

    Fan-in is the product of all axes but the last.
    """
    shape = tuple(shape)
    kind, scale = next((kind, scale) for pattern, kind, scale in _RULES if pattern.search(name))
    if kind == "constant":
        return np.full(shape, scale, dtype.as_numpy_dtype)
    if kind == "identity":
        return scale * np.eye(*shape, dtype=dtype.as_numpy_dtype)
    digest = hashlib.sha256(f"{seed}/{name}/{shape}".encode()).digest()
    draw = _cut_normal(np.random.default_rng(int.from_bytes(digest, "little")), shape)
    if kind == "embedding":
        return (draw * scale).astype(dtype.as_numpy_dtype)
    stddev = np.sqrt(scale / max(1, int(np.prod(shape[:-1]))))
    if kind == "scaled normal":
        stddev /= _STDDEV_OF_CUT_NORMAL
    return (draw * stddev).astype(dtype.as_numpy_dtype)


def _cut_normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    draw = random.standard_normal(shape, np.float32)
    while len(outside := np.flatnonzero(np.abs(draw) > 2)):
        draw.flat[outside] = random.standard_normal(len(outside), np.float32)
    return draw
