"""The published Sonnet checkpoint as a model of ours."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from enformer_core.checkpoints import assign
from enformer_core.enformer import TOWER_BLOCKS, Enformer, EnformerConfig, tower_filters
from enformer_core.initial import variable_name

_NORM = {
    "scale": "scale",
    "offset": "offset",
    **{
        f"{moment}/{ours}": f"{moment}/{theirs}"
        for moment in ("moving_mean", "moving_variance")
        for ours, theirs in (("counter", "_counter"), ("hidden", "_hidden"), ("average", "average"))
    },
}
_LINEAR = {"w": "w", "b": "b"}
_LAYER_NORM = {"scale": "scale", "offset": "offset"}
_ATTENTION = {
    "query/w": "_q_layer/w",
    "key/w": "_k_layer/w",
    "value/w": "_v_layer/w",
    "relative_key/w": "_r_k_layer/w",
    "content_bias": "_r_w_bias",
    "position_bias": "_r_r_bias",
    "output/w": "_embedding_layer/w",
    "output/b": "_embedding_layer/b",
}
# Groups of variables: ours, theirs, and the variables within; {i} counts tower or transformer blocks.
_PUBLISHED = (
    ("stem/conv", "_trunk/_layers/0/_layers/0", _LINEAR),
    ("stem/pointwise_block/batch_norm", "_trunk/_layers/0/_layers/1/_module/_layers/0", _NORM),
    ("stem/pointwise_block/pointwise", "_trunk/_layers/0/_layers/1/_module/_layers/2", _LINEAR),
    ("stem/pool/logit", "_trunk/_layers/0/_layers/2/_logit_linear", {"w": "w"}),
    ("tower_{i}/conv_block/batch_norm", "_trunk/_layers/1/_layers/{i}/_layers/0/_layers/0", _NORM),
    ("tower_{i}/conv_block/conv", "_trunk/_layers/1/_layers/{i}/_layers/0/_layers/2", _LINEAR),
    (
        "tower_{i}/pointwise_block/batch_norm",
        "_trunk/_layers/1/_layers/{i}/_layers/1/_module/_layers/0",
        _NORM,
    ),
    (
        "tower_{i}/pointwise_block/pointwise",
        "_trunk/_layers/1/_layers/{i}/_layers/1/_module/_layers/2",
        _LINEAR,
    ),
    ("tower_{i}/pool/logit", "_trunk/_layers/1/_layers/{i}/_layers/2/_logit_linear", {"w": "w"}),
    (
        "transformer_{i}/attention_norm",
        "_trunk/_layers/2/_layers/{i}/_layers/0/_module/_layers/0",
        _LAYER_NORM,
    ),
    ("transformer_{i}/attention", "_trunk/_layers/2/_layers/{i}/_layers/0/_module/_layers/1", _ATTENTION),
    ("transformer_{i}/mlp_norm", "_trunk/_layers/2/_layers/{i}/_layers/1/_module/_layers/0", _LAYER_NORM),
    ("transformer_{i}/mlp_in", "_trunk/_layers/2/_layers/{i}/_layers/1/_module/_layers/1", _LINEAR),
    ("transformer_{i}/mlp_out", "_trunk/_layers/2/_layers/{i}/_layers/1/_module/_layers/4", _LINEAR),
    ("final/batch_norm", "_trunk/_layers/4/_layers/0/_layers/0", _NORM),
    ("final/pointwise", "_trunk/_layers/4/_layers/0/_layers/2", _LINEAR),
)
_STEM = "_trunk/_layers/0/_layers/0/w"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def read_published(
    path: Path | str, sequence_length: int = 196_608, target_length: int | None = 896
) -> Enformer:
    """The model of a checkpoint written by the published Sonnet code (`tf.train.Checkpoint(module=model)`).

    Channels, layers, heads, key size, position features, pooling and tracks are read off the shapes.

    Args:
        path: of the checkpoint, without `.index` or `.data-...`; or the folder that holds just one.
        sequence_length: input in bp, not in the checkpoint; the published model uses 196,608.
        target_length: bins after the crop, not in the checkpoint; 896 in the published model, None for no crop.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is cut short, or is not one of the published code's (names the variable).
    """
    prefix = _published_prefix(Path(path))
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        keys = [
            key.removesuffix(_SUFFIX) for key in reader.get_variable_to_shape_map() if key.endswith(_SUFFIX)
        ]
        root = next((key.removesuffix(_STEM) for key in keys if key.endswith(_STEM)), None)
        if root is None:
            raise ValueError(
                f"{prefix}: no variable .../{_STEM}; it is not a checkpoint of the published Enformer"
            )
        theirs = {
            key.removeprefix(root): reader.get_tensor(key + _SUFFIX) for key in keys if key.startswith(root)
        }
    except (tf.errors.OpError, RuntimeError, IndexError) as error:
        raise ValueError(f"{prefix}: cut short or damaged ({str(error).splitlines()[0]})") from error
    model = Enformer(_published_config(prefix, theirs, sequence_length, target_length))
    arrays = {}
    for name, variable in ((variable_name(v), v) for v in model.variables):
        key = _published_key(name)
        if key not in theirs:
            raise ValueError(
                f"{prefix}: no variable {root}{key}; it is not a checkpoint of the published Enformer"
            )
        # A convolution of width 1, [1, C, D] there, is a matrix here.
        arrays[name] = theirs[key][0] if theirs[key].ndim == len(variable.shape) + 1 else theirs[key]
    assign(model, arrays, prefix)
    return model


def _published_prefix(path: Path) -> Path:
    found = [
        file
        for file in (path.glob("*.index") if path.is_dir() else [Path(f"{path}.index")])
        if file.is_file()
    ]
    if len(found) != 1:
        raise FileNotFoundError(
            f"{path}: {len(found)} checkpoints (*.index) there; name one, without its suffix"
        )
    return found[0].with_suffix("")


def _published_key(name: str) -> str:
    """The key of one of our variables in the published checkpoint, below its root."""
    name = name.removeprefix("enformer/")
    if head := re.fullmatch(r"head_(.+)/linear/([wb])", name):
        return f"_heads/{head[1]}/_layers/0/{head[2]}"
    block = re.search(r"_(\d+)/", name)
    index = block[1] if block else ""
    for ours, theirs, within in _PUBLISHED:
        group = ours.format(i=index) + "/"
        if name.startswith(group) and (rest := name.removeprefix(group)) in within:
            return f"{theirs.format(i=index)}/{within[rest]}"
    raise ValueError(f"{name} has no counterpart in the published code")


def _published_config(
    prefix: Path, theirs: Mapping[str, np.ndarray], sequence_length: int, target_length: int | None
) -> EnformerConfig:
    heads = {
        match[1]: array.shape[0]
        for key, array in sorted(theirs.items())
        if (match := re.fullmatch(r"_heads/(.+)/_layers/0/b", key))
    }
    layers = {match[1] for key in theirs if (match := re.match(r"_trunk/_layers/2/_layers/(\d+)/", key))}
    attention = "_trunk/_layers/2/_layers/0/_layers/0/_module/_layers/1/"
    try:
        channels = theirs["_trunk/_layers/4/_layers/0/_layers/2/w"].shape[-2]
        tower = [
            theirs[f"_trunk/_layers/1/_layers/{i}/_layers/0/_layers/2/b"].shape[0]
            for i in range(TOWER_BLOCKS)
        ]
        _, num_heads, _, key_size = theirs[attention + "_r_w_bias"].shape
        num_position_features = theirs[attention + "_r_k_layer/w"].shape[0]
    except KeyError as error:
        raise ValueError(
            f"{prefix}: no variable {error}; it is not a checkpoint of the published Enformer"
        ) from error
    divisible_by = next((d for d in range(channels, 0, -1) if tower_filters(channels, d) == tower), None)
    if divisible_by is None:
        raise ValueError(
            f"{prefix}: the tower has filters {tower}, which do not grow to {channels} channels by one factor"
        )
    return EnformerConfig(
        heads=heads,
        sequence_length=sequence_length,
        target_length=target_length,
        channels=channels,
        num_transformer_layers=len(layers),
        num_heads=num_heads,
        key_size=key_size,
        divisible_by=divisible_by,
        num_position_features=num_position_features,
        pooling="softmax" if "_trunk/_layers/0/_layers/2/_logit_linear/w" in theirs else "max",
    )
