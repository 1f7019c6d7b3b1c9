"""Toy models in the forms of other codes: the published Sonnet code, its PyTorch port, TF-Hub."""

import re

import numpy as np
import tensorflow as tf

from enformer_core import published
from enformer_core.enformer import tower_filters
from enformer_core.initial import variable_name


def named(model, code):
    """The variables of a model of ours by the names of one of the two codes, in our shapes."""
    arrays = {variable_name(v).partition("/")[2]: v.numpy() for v in model.variables}
    return {
        published._NAMES[name][code].format(i=i): arrays[ours]
        for ours, name, i in published._variables(model.config)
    }


def sonnet_checkpoint(model, path):
    """Writes a checkpoint with the object layout of the published code, from a model of ours."""
    root = tf.Module()
    for key, array in named(model, published._SONNET).items():
        node = root
        *folders, leaf = key.split("/")
        for name in folders:
            if not hasattr(node, name):
                setattr(node, name, tf.Module())
            node = getattr(node, name)
        pointwise = re.search(r"/_layers/2/w$", key) and array.ndim == 2
        setattr(node, leaf, tf.Variable(array[None] if pointwise else array))
    return tf.train.Checkpoint(module=root).write(str(path))


def port_shapes(config):
    """Every variable of the port and its shape, written down from its `state_dict()`; second names left out."""
    shapes = {"stem.0": (config.channels // 2, 4, 15)}
    sizes = [config.channels // 2, *tower_filters(config.channels, config.divisible_by)]
    for i, (before, size) in enumerate(zip([4, *sizes[:-1]], sizes, strict=True)):
        block = f"conv_tower.{i - 1}." if i else "stem."
        if i:
            shapes |= {f"{block}0.0": (before,), f"{block}0.2": (size, before, 5)}
        shapes |= {f"{block}1.fn.0": (size,), f"{block}1.fn.2": (size, size, 1)}
        if config.pooling == "softmax":
            shapes[f"{block}2.to_attn_logits"] = (size, size, 1, 1)
    channels, keys = config.channels, config.num_heads * config.key_size
    for i in range(config.num_transformer_layers):
        attention = f"transformer.{i}.0.fn.1."
        for name, shape in (("q", (keys, channels)), ("k", (keys, channels)), ("v", (channels, channels))):
            shapes[f"{attention}to_{name}"] = shape
        shapes[f"{attention}to_rel_k"] = (keys, config.num_position_features)
        shapes[f"{attention}to_out"] = (channels, channels)
        for name in ("rel_content_bias", "rel_pos_bias"):
            shapes[attention + name] = (1, config.num_heads, 1, config.key_size)
        shapes |= {f"transformer.{i}.0.fn.0": (channels,), f"transformer.{i}.1.fn.0": (channels,)}
        shapes |= {f"transformer.{i}.1.fn.1": (2 * channels, channels)}
        shapes |= {f"transformer.{i}.1.fn.4": (channels, 2 * channels)}
    shapes |= {"final_pointwise.1.0": (channels,), "final_pointwise.1.2": (2 * channels, channels, 1)}
    shapes |= {f"_heads.{head}.0": (tracks, 2 * channels) for head, tracks in config.heads.items()}
    found = {}
    for name, shape in shapes.items():
        if name.endswith("_bias"):
            found[name] = shape
            continue
        found[f"{name}.weight"] = shape
        if not name.endswith(("to_attn_logits", "to_q", "to_k", "to_v", "to_rel_k")):
            found[f"{name}.bias"] = shape[:1]
        if len(shape) == 1 and not name.startswith("transformer"):
            found |= {f"{name}.running_mean": shape, f"{name}.running_var": shape}
            found[f"{name}.num_batches_tracked"] = ()
    return found


def port_state_dict(model):
    """A state dict of the port, from a model of ours."""
    arrays, shapes = named(model, published._PORT), port_shapes(model.config)
    assert set(arrays) == set(shapes)
    return {
        key: np.ascontiguousarray(array.T if key.endswith("weight") else array).reshape(shapes[key])
        for key, array in arrays.items()
    }


def save_tensorhub(folder):
    """Writes a SavedModel of the TF-Hub form, whose head human has two tracks."""

    class Inner(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 393_216, 4], tf.float32)])
        def predict_on_batch(self, sequence):
            return {"human": sequence[:, :896, :2]}

    outer = tf.Module()
    outer.model = Inner()
    tf.saved_model.save(outer, str(folder))
