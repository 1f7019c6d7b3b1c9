"""Stem and tower, the convolutional part of the trunk: stages that each halve the length.

Shapes: B batch, L positions, C channels.

    x                [B, L, C]
      convolution    [B, L, filters]      of an odd width, zeros beyond the ends
      pointwise      [B, L, filters]      is added
      pooling        [B, L/2, filters]    of neighbours, positions 2i and 2i + 1
"""

import sonnet as snt
import tensorflow as tf

from enformer_core.layers import Conv1D, ConvBlock, Moments


class Stage(snt.Module):
    """Convolution, residual pointwise block, pooling: `[B, L, C]` to `[B, L/2, filters]`.

    Args:
        filters: channels of the output.
        width: odd; positions that one output of the convolution sees.
        pool: makes the pooling module.
        reads_data: x is the encoded sequence, whose convolution is a plain one (the stem); the others come after
            normalisation and GELU.
    """

    def __init__(self, filters: int, width: int, pool: type, *, reads_data: bool = False, name: str):
        super().__init__(name=name)
        self.filters = filters
        self.width = width
        if reads_data:
            self._conv = Conv1D(filters, width, reads_data=True, name="conv")
        else:
            self._conv = ConvBlock(filters, width, name="conv_block")
        self._pointwise = ConvBlock(filters, 1, name="pointwise_block")
        self.pool = pool()
        """The pooling alone, `[B, L, filters]` to `[B, L/2, filters]`."""

    def unpooled(
        self, x: tf.Tensor, batch_moments: bool = False, recompute: bool = False
    ) -> tuple[tf.Tensor, list[Moments]]:
        """What is pooled, `[B, L, filters]`, and the moments of the batch that `update` takes.

        Arguments as in `ConvBlock`.
        """
        moments: list[Moments] = []
        if isinstance(self._conv, Conv1D):
            x = self._conv(x)
        else:
            x, moments = self._conv(x, batch_moments, recompute)
        y, of_pointwise = self._pointwise(x, batch_moments, recompute)
        return x + y, moments + of_pointwise

    def __call__(
        self, x: tf.Tensor, batch_moments: bool = False, recompute: bool = False
    ) -> tuple[tf.Tensor, list[Moments]]:
        """The output, and the rest as `unpooled`."""
        x, moments = self.unpooled(x, batch_moments, recompute)
        return self.pool(x), moments

    def update(self, moments: list[Moments]) -> None:
        """Moves the averages of the normalisations by one step; none, of inference, moves nothing."""
        update([block for block in (self._conv, self._pointwise) if isinstance(block, ConvBlock)], moments)


def update(blocks: list[ConvBlock], moments: list[Moments]) -> None:
    """Moves the averages of the blocks by the moments of a batch, where there are any."""
    if moments:
        for block, found in zip(blocks, moments, strict=True):
            block.norm.update(found)
