"""Weights of the published Sonnet code and of its PyTorch port, `enformer-pytorch`, as a model of ours.

One table names every variable three ways. Channels, layers, heads, key size, position features, pooling and tracks are
read off the shapes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from enformer_core.checkpoints import check_values
from enformer_core.enformer import TOWER_BLOCKS, Enformer, EnformerConfig, head_module_name, tower_filters
from enformer_core.initial import variable_name

_LINEAR = {"w": ("w", "weight"), "b": ("b", "bias")}
_LOGIT = {"w": ("w", "weight")}
_NORM = {"scale": ("scale", "weight"), "offset": ("offset", "bias")}
_BATCH_NORM = {
    **_NORM,
    "moving_mean/counter": ("moving_mean/_counter", "num_batches_tracked"),
    "moving_mean/hidden": ("moving_mean/_hidden", "running_mean"),
    "moving_mean/average": ("moving_mean/average", "running_mean"),
    "moving_variance/counter": ("moving_variance/_counter", "num_batches_tracked"),
    "moving_variance/hidden": ("moving_variance/_hidden", "running_var"),
    "moving_variance/average": ("moving_variance/average", "running_var"),
}
_ATTENTION = {
    "query/w": ("_q_layer/w", "to_q.weight"),
    "key/w": ("_k_layer/w", "to_k.weight"),
    "value/w": ("_v_layer/w", "to_v.weight"),
    "relative_key/w": ("_r_k_layer/w", "to_rel_k.weight"),
    "content_bias": ("_r_w_bias", "rel_content_bias"),
    "position_bias": ("_r_r_bias", "rel_pos_bias"),
    "output/w": ("_embedding_layer/w", "to_out.weight"),
    "output/b": ("_embedding_layer/b", "to_out.bias"),
}
# Groups of variables: ours, Sonnet's, the port's, and what is within. {i} is a tower or transformer block, or a head.
_TOWER, _LAYER = "_trunk/_layers/1/_layers/{i}/_layers", "_trunk/_layers/2/_layers/{i}/_layers"
_GROUPS = (
    ("stem/conv", "_trunk/_layers/0/_layers/0", "stem.0", _LINEAR),
    (
        "stem/pointwise_block/batch_norm",
        "_trunk/_layers/0/_layers/1/_module/_layers/0",
        "stem.1.fn.0",
        _BATCH_NORM,
    ),
    (
        "stem/pointwise_block/pointwise",
        "_trunk/_layers/0/_layers/1/_module/_layers/2",
        "stem.1.fn.2",
        _LINEAR,
    ),
    ("stem/pool/logit", "_trunk/_layers/0/_layers/2/_logit_linear", "stem.2.to_attn_logits", _LOGIT),
    ("tower_{i}/conv_block/batch_norm", f"{_TOWER}/0/_layers/0", "conv_tower.{i}.0.0", _BATCH_NORM),
    ("tower_{i}/conv_block/conv", f"{_TOWER}/0/_layers/2", "conv_tower.{i}.0.2", _LINEAR),
    (
        "tower_{i}/pointwise_block/batch_norm",
        f"{_TOWER}/1/_module/_layers/0",
        "conv_tower.{i}.1.fn.0",
        _BATCH_NORM,
    ),
    (
        "tower_{i}/pointwise_block/pointwise",
        f"{_TOWER}/1/_module/_layers/2",
        "conv_tower.{i}.1.fn.2",
        _LINEAR,
    ),
    ("tower_{i}/pool/logit", f"{_TOWER}/2/_logit_linear", "conv_tower.{i}.2.to_attn_logits", _LOGIT),
    ("transformer_{i}/attention_norm", f"{_LAYER}/0/_module/_layers/0", "transformer.{i}.0.fn.0", _NORM),
    ("transformer_{i}/attention", f"{_LAYER}/0/_module/_layers/1", "transformer.{i}.0.fn.1", _ATTENTION),
    ("transformer_{i}/mlp_norm", f"{_LAYER}/1/_module/_layers/0", "transformer.{i}.1.fn.0", _NORM),
    ("transformer_{i}/mlp_in", f"{_LAYER}/1/_module/_layers/1", "transformer.{i}.1.fn.1", _LINEAR),
    ("transformer_{i}/mlp_out", f"{_LAYER}/1/_module/_layers/4", "transformer.{i}.1.fn.4", _LINEAR),
    ("final/batch_norm", "_trunk/_layers/4/_layers/0/_layers/0", "final_pointwise.1.0", _BATCH_NORM),
    ("final/pointwise", "_trunk/_layers/4/_layers/0/_layers/2", "final_pointwise.1.2", _LINEAR),
    ("head_{i}/linear", "_heads/{i}/_layers/0", "_heads.{i}.0", _LINEAR),
)
# Our name -> Sonnet's, the port's.
_NAMES = {
    f"{ours}/{leaf}": (f"{sonnet}/{its}", f"{port}.{theirs}")
    for ours, sonnet, port, leaves in _GROUPS
    for leaf, (its, theirs) in leaves.items()
}
_SONNET, _PORT = 0, 1
_CODE = ("a checkpoint of the published Enformer", "a state dict of enformer-pytorch")
_STEM = _NAMES["stem/conv/w"]
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# The port's second names of stem, tower, transformer and final block. Some writers of files keep these alone.
_SECOND = {"_trunk.1.": "stem.", "_trunk.2.": "conv_tower.", "_trunk.4.": "transformer."}
_SECOND["_trunk.6."] = "final_pointwise."
# Batches after which an average is no longer corrected for its start: 0.9**1000 is 0 in float32. The port corrects
# nothing, so that hidden and corrected average are both its own.
_SETTLED = 1000


def read_sonnet(
    path: Path | str, sequence_length: int = 196_608, target_length: int | None = 896
) -> Enformer:
    """The model of a checkpoint written by the published Sonnet code (`tf.train.Checkpoint(module=model)`).

    Args:
        path: of the checkpoint, without `.index` or `.data-...`; or the folder that holds just one.
        sequence_length: input in bp, not in the checkpoint; the published model uses 196,608.
        target_length: bins after the crop, not in the checkpoint; 896 in the published model, None for no crop.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is cut short, or is not one of the published code's (names the variable).
    """
    prefix = _sonnet_prefix(Path(path))
    stem = _STEM[_SONNET]
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        keys = [
            key.removesuffix(_SUFFIX) for key in reader.get_variable_to_shape_map() if key.endswith(_SUFFIX)
        ]
        root = next((key.removesuffix(stem) for key in keys if key.endswith(stem)), None)
        if root is None:
            raise ValueError(f"{prefix}: no variable .../{stem}; it is not {_CODE[_SONNET]}")
        arrays = {
            key.removeprefix(root): reader.get_tensor(key + _SUFFIX) for key in keys if key.startswith(root)
        }
    except (tf.errors.OpError, RuntimeError, IndexError) as error:
        raise ValueError(f"{prefix}: cut short or damaged ({str(error).splitlines()[0]})") from error
    return _model(_Weights(prefix, _SONNET, root, arrays), sequence_length, target_length)


def from_port(
    arrays: Mapping[str, np.ndarray],
    source: Path | str,
    sequence_length: int = 196_608,
    target_length: int | None = 896,
) -> Enformer:
    """The model of a state dict of the PyTorch port.

    Args:
        arrays: by name, such as `stem.0.weight`; with or without the second names `_trunk.1.0.weight` and so on, all
            under any one prefix such as `module.`. What is not under that prefix is left out.
        source: what to call it in a message.
        sequence_length, target_length: as `read_sonnet`.

    Raises:
        ValueError: a variable is missing, is left over or does not fit; names it.
    """
    arrays = _first_names(arrays, source)
    stem = _STEM[_PORT]
    roots = sorted(
        key.removesuffix(stem) for key in arrays if re.fullmatch(rf"(.+\.)?{re.escape(stem)}", key)
    )
    if len(roots) != 1:
        found = (
            f"{len(roots)} models, under {roots[0]!r} and {roots[1]!r}" if roots else f"no variable {stem}"
        )
        raise ValueError(f"{source}: {found}; it is not {_CODE[_PORT]}")
    within = {key.removeprefix(roots[0]): array for key, array in arrays.items() if key.startswith(roots[0])}
    weights = _Weights(source, _PORT, roots[0], within)
    model = _model(weights, sequence_length, target_length)
    weights.refuse_unused()
    return model


class _Weights:
    """Arrays under the names of one of the two codes, found by our names, in our order of axes."""

    def __init__(self, source: Path | str, code: int, root: str, arrays: Mapping[str, np.ndarray]):
        self.source = source
        self._code = code
        self._root = root
        self._arrays = arrays
        self._used: set[str] = set()

    def key(self, name: str, i: int | str = "") -> str:
        """What the code calls our variable `name`, a template of `_NAMES`, of block or head `i`."""
        return self._root + _NAMES[name][self._code].format(i=i)

    def __contains__(self, name: str) -> bool:
        return _NAMES[name][self._code] in self._arrays

    def indices(self, name: str) -> list[str]:
        """Every `{i}` for which there is a variable `name`, sorted."""
        pattern = re.escape(_NAMES[name][self._code]).replace(re.escape("{i}"), "([^/]+)")
        return sorted(match[1] for key in self._arrays if (match := re.fullmatch(pattern, key)))

    def get(self, name: str, i: int | str = "", rank: int | None = None) -> np.ndarray:
        """The array of our variable; ValueError where there is none, or not of that rank."""
        key = _NAMES[name][self._code].format(i=i)
        self._used.add(key)
        if self._code == _PORT and key.endswith("num_batches_tracked"):
            return np.asarray(_SETTLED)
        if key not in self._arrays:
            raise ValueError(f"{self.source}: no variable {self._root}{key}; it is not {_CODE[self._code]}")
        array = self._arrays[key]
        if rank is not None and array.ndim != rank:
            raise ValueError(f"{self.source}: {self._root}{key} is {array.shape}; it must have {rank} axes")
        return array.T if self._code == _PORT and key.endswith("weight") else array

    def fitted(self, name: str, i: int | str, shape: tuple[int, ...]) -> np.ndarray:
        """The array of our variable in its shape; ValueError where it does not fit.

        The codes differ in axes of size 1: those of convolutions of width 1, and of averages.
        """
        array = self.get(name, i)
        if [size for size in array.shape if size != 1] == [size for size in shape if size != 1]:
            return array.reshape(shape)
        if self._code == _PORT and self.key(name, i).endswith("weight"):
            array, shape = array.T, shape[::-1]
        raise ValueError(f"{self.source}: {self.key(name, i)} is {array.shape}; the model needs {shape}")

    def refuse_unused(self) -> None:
        """ValueError where there is an array that no `get` has asked for."""
        if extra := sorted(set(self._arrays) - self._used):
            shape = self._arrays[extra[0]].shape
            raise ValueError(f"{self.source}: {self._root}{extra[0]} {shape} has no place in the model")


def _model(weights: _Weights, sequence_length: int, target_length: int | None) -> Enformer:
    model = Enformer(_config(weights, sequence_length, target_length))
    variables = {variable_name(v).partition("/")[2]: v for v in model.variables}
    for ours, name, i in _variables(model.config):
        variable = variables.pop(ours)
        array = weights.fitted(name, i, tuple(variable.shape))
        check_values(array, variable.dtype, f"{weights.source}: {weights.key(name, i)}")
        variable.assign(array.astype(variable.dtype.as_numpy_dtype))
    assert not variables, f"not in the table: {', '.join(variables)}"
    return model


def _variables(config: EnformerConfig) -> Iterator[tuple[str, str, int | str]]:
    """Our name of every variable, the template in `_NAMES` that it is made from, and its block or head."""
    indices: dict[str, Iterable[int | str]] = {
        "tower": range(TOWER_BLOCKS),
        "transformer": range(config.num_transformer_layers),
        "head": config.heads,
    }
    for name in _NAMES:
        if "/pool/" in name and config.pooling == "max":
            continue
        for i in indices[name.partition("_{i}")[0]] if "{i}" in name else [""]:
            yield name.format(i=head_module_name(str(i)).removeprefix("head_")), name, i


def _config(weights: _Weights, sequence_length: int, target_length: int | None) -> EnformerConfig:
    blocks = len(weights.indices("tower_{i}/conv_block/conv/b"))
    if blocks > TOWER_BLOCKS:
        raise ValueError(f"{weights.source}: the tower has {blocks} blocks; the model has {TOWER_BLOCKS}")
    channels = weights.get("final/pointwise/w", rank=3).shape[-2]
    tower = [weights.get("tower_{i}/conv_block/conv/b", i, rank=1).shape[0] for i in range(TOWER_BLOCKS)]
    _, num_heads, _, key_size = weights.get("transformer_{i}/attention/content_bias", 0, rank=4).shape
    divisible_by = next((d for d in range(channels, 0, -1) if tower_filters(channels, d) == tower), None)
    if divisible_by is None:
        raise ValueError(
            f"{weights.source}: the tower has filters {tower}, which do not grow to {channels} channels by one factor"
        )
    head = "head_{i}/linear/b"
    heads = {i: weights.get(head, i, rank=1).shape[0] for i in weights.indices(head)}
    num_position_features = weights.get("transformer_{i}/attention/relative_key/w", 0, rank=2).shape[0]
    try:
        return EnformerConfig(
            heads=heads,
            sequence_length=sequence_length,
            target_length=target_length,
            channels=channels,
            num_transformer_layers=len(weights.indices("transformer_{i}/mlp_in/b")),
            num_heads=num_heads,
            key_size=key_size,
            divisible_by=divisible_by,
            num_position_features=num_position_features,
            pooling="softmax" if "stem/pool/logit/w" in weights else "max",
        )
    except ValueError as error:
        raise ValueError(f"{weights.source}: {error}") from error


def _sonnet_prefix(path: Path) -> Path:
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


def _first_names(arrays: Mapping[str, np.ndarray], source: Path | str) -> dict[str, np.ndarray]:
    """The arrays under the first of the two names that the port has for each variable of its trunk."""
    first: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    for key, array in arrays.items():
        name = re.sub(
            r"(?:(?<=\.)|^)_trunk\.\d\.", lambda found: _SECOND.get(found[0], found[0]), key, count=1
        )
        if name in first and array is not first[name] and not np.array_equal(array, first[name]):
            raise ValueError(f"{source}: {names[name]} and {key} are one variable, and differ")
        first[name], names[name] = array, key
    return first
