"""Low-rank adapters on the projections of a transformer (https://arxiv.org/abs/2106.09685).

A matrix w of shape `[C, D]` stays, and what moves is a product beside it: `x w + x down up`, down `[C, rank]`, up
`[rank, D]`. up starts at zero, so at first nothing changes; at the end `merge` adds `down up` to w, and the model is an
ordinary one again.
"""

from collections.abc import Sequence

import sonnet as snt
import tensorflow as tf

from enformer_core import initial
from enformer_core.enformer import Enformer
from enformer_core.layers import Linear


class Adapter(snt.Module):
    """`x down up`: `[B, C]` to `[B, size]`, for the linear layer whose weight is `[C, size]`."""

    def __init__(self, shape: Sequence[int], rank: int):
        super().__init__(name="adapter")
        channels, size = shape
        self.down = Linear(rank, with_bias=False, name="down")
        self.up = Linear(size, with_bias=False, name="up")
        self(tf.zeros([1, channels]))  # makes the variables

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self.up(self.down(x))


class Adapters:
    """The adapters of the last transformer blocks of a model: on every projection of the attention
    (query, key, value, relative key, output) and on both MLP layers.

    They are part of the model, and of its variables, between `attach` and `detach`.

    Args:
        model: gets its adapters attached.
        rank: inner size of each adapter.
        blocks: how many blocks, counted from the last.

    Raises:
        ValueError: rank is below 1, or not below the size of what it adapts.
    """

    def __init__(self, model: Enformer, rank: int, blocks: int):
        names = ("query", "key", "value", "relative_key", "output", "mlp_in", "mlp_out")
        first = model.config.num_transformer_layers - blocks
        self._layers: dict[str, Linear] = {}
        for number, block in enumerate(model.transformer[first:], first):
            for module in block.submodules:
                if isinstance(module, Linear) and module.name in names:
                    self._layers[f"transformer_{number}/{module.name}"] = module
        smallest = min((min(layer.w.shape) for layer in self._layers.values()), default=0)
        if not 1 <= rank < smallest:
            raise ValueError(f"rank is {rank}; the smallest projection takes 1 to {smallest - 1}")
        self._adapters = {}
        for place, layer in self._layers.items():
            with tf.name_scope(place):  # so that each is named, and drawn, by its place
                self._adapters[place] = Adapter(layer.w.shape, rank)
        self.attach()

    @property
    def variables(self) -> list[tf.Variable]:
        """Those of every adapter."""
        return [variable for adapter in self._adapters.values() for variable in adapter.variables]

    def initialize(self, seed: int) -> None:
        """Back to a sum that is zero."""
        for adapter in self._adapters.values():
            initial.initialize(adapter, seed)

    def attach(self) -> None:
        """Makes the model add them."""
        for place, layer in self._layers.items():
            layer.adapter = self._adapters[place]

    def detach(self) -> None:
        """Makes the model the one that it was."""
        for layer in self._layers.values():
            layer.adapter = None

    def merge(self) -> None:
        """Adds every adapter to the weight beside it, and makes it zero: the model answers as before."""
        for place, layer in self._layers.items():
            adapter = self._adapters[place]
            layer.w.assign_add(adapter.down.w @ adapter.up.w)
            adapter.up.w.assign(tf.zeros_like(adapter.up.w))
