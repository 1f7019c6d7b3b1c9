"""Enformer: trunk plus named heads, with its three ablation switches.

Shapes: B batch, L input positions (bp), T bins of 128 bp, C channels.

    sequence [B, L, 4]                       one-hot A C G T, N is zeros
      encoding       [B, L, 4 or 3]          one_hot or komlos
      stem           [B, L/2, C/2]           convolution 15, pointwise block, pooling
      tower          [B, L/128, C]           six times: convolution 5, pointwise block, pooling
      transformer    [B, L/128, C]           attention (positions, values) and MLP
      crop, final    [B, T, 2C]              the embedding
      heads          {name: [B, T, tracks]}  linear, softplus

Source: Avsec et al. 2021, doi:10.1038/s41592-021-01252-x, and the published Sonnet code.
"""

import dataclasses
import functools
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sonnet as snt
import tensorflow as tf

from enformer_core import initial
from enformer_core.attention import MultiHeadAttention, position_basis
from enformer_core.dna import komlos
from enformer_core.heads import TrackHead, TrackHeadConfig, check_rate, check_whole
from enformer_core.layers import (
    ConvBlock,
    LayerNorm,
    Linear,
    MaxPool,
    SoftmaxPool,
    crop,
    draw_masks,
    dropout,
    gelu,
)
from enformer_core.tower import Stage, update

BIN_SIZE_BP = 128  # seven poolings by two
TOWER_BLOCKS = 6

_SWITCHES = {  # variant -> (komlos, rotary, rank1)
    "vanilla": (False, False, False),
    "komlos": (True, False, False),
    "rope": (False, True, False),
    "rank1": (False, False, True),
    "komlos_rope": (True, True, False),
    "komlos_rank1": (True, False, True),
    "rope_rank1": (False, True, True),
    "all": (True, True, True),
}
VARIANTS = tuple(_SWITCHES)
FAMILIES = ("enformer", "ecozoi")
PRECISIONS = ("float32", "bfloat16")
RECOMPUTE = ("auto", "always", "never")
# bp x channels of a batch. Up to the first, steps keep all activations; above it they compute the elementwise ones
# again, and above the second, where stem and tower would keep more than about a GB, all of stem and tower.
RECOMPUTE_ELEMENTWISE_ABOVE = 4 * 2**20
RECOMPUTE_STAGES_ABOVE = 64 * 2**20
# With fixed norms they keep less: four windows of 25,600 bp at full width, 150 Mi, are a sixth faster for 0.5 GB of 13.
RECOMPUTE_FIXED_STAGES_ABOVE = 160 * 2**20
_CHOICES = {
    "family": FAMILIES,
    "encoding": ("one_hot", "komlos"),
    "positions": ("relative", "rotary", "none"),
    "values": ("full", "rank1"),
    "pooling": ("softmax", "max"),
}
_SIZES_FROM_ONE = (
    "sequence_length",
    "channels",
    "num_heads",
    "key_size",
    "divisible_by",
    "num_position_features",
)
_RATES = ("dropout_rate", "attention_dropout_rate", "positional_dropout_rate")


@dataclasses.dataclass(frozen=True)
class EnformerConfig:
    """Everything that makes one model; saved beside its weights. The defaults are the published Enformer.

    Raises:
        ValueError: one line that names the field, what was found and what it takes.
    """

    heads: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"human": 5313, "mouse": 1643})
    """Tracks of each head, by name."""
    sequence_length: int = 196_608
    """Input in bp: a multiple of 128."""
    target_length: int | None = 896
    """Bins of 128 bp that are predicted, the central ones; none crops nothing."""
    channels: int = 1536
    """Width C of the trunk; the stem has C/2, the embedding 2C."""
    num_transformer_layers: int = 11
    num_heads: int = 8
    """Attention heads."""
    key_size: int = 64
    """Size of a key for each head."""
    divisible_by: int = 128
    """Filters of the tower are rounded to a multiple of this."""
    num_position_features: int = 192
    """Position features of relative attention: a multiple of 6."""
    pooling: str = "softmax"
    """softmax or max."""
    encoding: str = "one_hot"
    """one_hot or komlos."""
    positions: str = "relative"
    """relative, rotary or none."""
    values: str = "full"
    """full, or rank1: values of size 1 for each head."""
    family: str = "enformer"
    """enformer, or ecozoi: attention as the published ablation code really built it, with four key/value groups."""
    dropout_rate: float = 0.4
    attention_dropout_rate: float = 0.05
    positional_dropout_rate: float = 0.01

    def __post_init__(self):
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} is {getattr(self, field)!r:.80}; it can be {', '.join(choices)}")
        for field in _SIZES_FROM_ONE:
            check_whole(field, getattr(self, field))
        check_whole("num_transformer_layers", self.num_transformer_layers, least=0)
        if self.target_length is not None:
            check_whole("target_length", self.target_length)
        for field in _RATES:
            check_rate(field, getattr(self, field))
        if not isinstance(self.heads, Mapping) or not all(isinstance(head, str) for head in self.heads):
            raise ValueError(f"heads is {self.heads!r:.80}; it must be the number of tracks by name of head")
        for head, tracks in self.heads.items():
            check_whole(f"the number of tracks of head {head}", tracks)
        if len({head_module_name(head) for head in self.heads}) < len(self.heads):
            raise ValueError(
                f"heads {', '.join(self.heads)} differ in punctuation only; give them other names"
            )
        if self.channels % 2 or self.channels % self.num_heads:
            raise ValueError(
                f"channels is {self.channels}; it must be a multiple of 2 and of num_heads {self.num_heads}"
            )
        if self.channels % self.divisible_by:
            raise ValueError(
                f"channels is {self.channels}; it must be a multiple of divisible_by {self.divisible_by}"
            )
        if not all(tower_filters(self.channels, self.divisible_by)):
            raise ValueError(
                f"divisible_by is {self.divisible_by}, of which half of channels {self.channels} rounds to none; "
                f"it can be up to {self.channels // 2}"
            )
        if self.num_position_features % 6:
            raise ValueError(
                f"num_position_features is {self.num_position_features}; it must be a multiple of 6"
            )
        if self.positions == "rotary" and self.attention_key_size % 2:
            raise ValueError(f"the key size is {self.attention_key_size}; rotary positions need an even one")
        if self.family == "ecozoi" and (self.num_heads % 4 or self.positions == "relative"):
            raise ValueError("family ecozoi needs num_heads in fours, and positions rotary or none")
        check_lengths(self.sequence_length, self.target_length)

    @property
    def attention_key_size(self) -> int:
        """Size of a key for each head, as the family builds it."""
        if self.family == "enformer":
            return self.key_size
        if self.values == "full":
            return self.channels // self.num_heads
        return 2 if self.positions == "rotary" else 1

    @property
    def attention_value_size(self) -> int:
        """Size of a value for each head."""
        return 1 if self.values == "rank1" else self.channels // self.num_heads

    @property
    def num_bins(self) -> int:
        """Bins of the prediction."""
        return self.sequence_length // BIN_SIZE_BP if self.target_length is None else self.target_length


def check_lengths(sequence_length: int, target_length: int | None) -> None:
    """Refuses an input or target length that the model cannot take.

    Raises:
        ValueError: one line that says which lengths it can.
    """
    bins, rest = divmod(sequence_length, BIN_SIZE_BP)
    if rest or bins < 1:
        near = max(1, round(sequence_length / BIN_SIZE_BP)) * BIN_SIZE_BP
        raise ValueError(
            f"a sequence of {sequence_length} bp: the model takes multiples of {BIN_SIZE_BP} bp, such as {near}"
        )
    if target_length is not None and not 1 <= target_length <= bins:
        raise ValueError(
            f"a target of {target_length} bins: {sequence_length} bp give 1 to {bins} bins of {BIN_SIZE_BP} bp"
        )


def tower_filters(channels: int, divisible_by: int) -> list[int]:
    """Filters of the six tower blocks: they grow by one factor from half of channels to channels, then are rounded."""
    growth = 2 ** (1 / (TOWER_BLOCKS - 1))
    return [
        int(np.round(channels // 2 * growth**i / divisible_by) * divisible_by) for i in range(TOWER_BLOCKS)
    ]


_SIZES: dict[str, dict[str, Any]] = {
    "full": {},
    "quarter": {"channels": 384, "num_position_features": 48},
    "tiny": {
        "channels": 96,
        "num_transformer_layers": 2,
        "num_heads": 4,
        "key_size": 16,
        "divisible_by": 16,
        "num_position_features": 24,
        # Of a model this small, dropout takes most of what it could learn in seconds.
        "dropout_rate": 0.1,
    },
}
PRESETS = tuple(_SIZES)


def preset(name: str, **changes: Any) -> EnformerConfig:
    """The configuration of size `full`, `quarter` (the training notebook's) or `tiny`, with fields changed.

    Raises:
        ValueError: unknown name, or what `EnformerConfig` refuses.
    """
    if name not in _SIZES:
        raise ValueError(f"preset is {name!r}; it can be {', '.join(PRESETS)}")
    return EnformerConfig(**{**_SIZES[name], **changes})


def variant(config: EnformerConfig, name: str, family: str = "enformer") -> EnformerConfig:
    """One cell of the 2x2x2 grid: a configuration with its three switches (and family) set.

    In family `ecozoi` the position switch is rotary against none, and pooling is by maximum, as published.

    Raises:
        ValueError: unknown variant or family.
    """
    if name not in _SWITCHES:
        raise ValueError(f"variant is {name!r}; it can be {', '.join(VARIANTS)}")
    use_komlos, use_rotary, use_rank1 = _SWITCHES[name]
    changes: dict[str, Any] = {
        "family": family,
        "encoding": "komlos" if use_komlos else "one_hot",
        "positions": "rotary" if use_rotary else "none" if family == "ecozoi" else "relative",
        "values": "rank1" if use_rank1 else "full",
    }
    if family == "ecozoi":
        changes["pooling"] = "max"
    return dataclasses.replace(config, **changes)


class Enformer(snt.Module):
    """The model: `[B, L, 4]` one-hot float32 to `{head: [B, bins, tracks]}` float32.

    Args:
        config: sizes and switches.
        seed: initial weights are a function of it and of each variable's name and shape.
        precision: of training, `float32` or `bfloat16`: activations and products of the trunk in bfloat16; variables,
            sums of normalisations, the softmax of attention and the heads stay float32, and so does inference.
        recompute: whether a training step computes stem and tower again in its backward pass, or keeps their
            activations: `always`, `never`, or `auto`, which by the size of the batch is all of it, only what is
            elementwise, or nothing.

    Raises:
        ValueError: a precision or recompute that is none of these.
    """

    def __init__(
        self,
        config: EnformerConfig,
        seed: int = 0,
        *,
        precision: str = "float32",
        recompute: str = "auto",
        name: str = "enformer",
    ):
        super().__init__(name=name)
        for option, value, choices in (
            ("precision", precision, PRECISIONS),
            ("recompute", recompute, RECOMPUTE),
        ):
            if value not in choices:
                raise ValueError(f"{option} is {value!r}; it can be {', '.join(choices)}")
        self.config = config
        self._dtype = tf.dtypes.as_dtype(precision)
        self._recompute = recompute
        # In an attribute of its own TensorFlow would search thousands of words for variables, at each `variables`.
        self._untracked = types.SimpleNamespace(tracks={})
        pool = SoftmaxPool if config.pooling == "softmax" else MaxPool
        filters = tower_filters(config.channels, config.divisible_by)
        self._stem = Stage(config.channels // 2, 15, pool, reads_data=True, name="stem")
        self._tower = [Stage(size, 5, pool, name=f"tower_{i}") for i, size in enumerate(filters)]
        self.transformer = [
            TransformerBlock(config, name=f"transformer_{i}") for i in range(config.num_transformer_layers)
        ]
        self._final = ConvBlock(2 * config.channels, 1, name="final")
        self.heads = {
            head: TrackHead(TrackHeadConfig(tracks), name=head_module_name(head))
            for head, tracks in config.heads.items()
        }
        self(tf.zeros([1, 2 * BIN_SIZE_BP, 4]), is_training=False)  # makes the variables
        initial.initialize(self, seed)

    def trunk(
        self,
        sequence: tf.Tensor,
        is_training: bool,
        key: tf.Tensor | None = None,
        *,
        fixed_norms: bool = False,
        moving_blocks: int | None = None,
    ) -> tf.Tensor:
        """The embedding of `[B, L, 4]` one-hot DNA: `[B, bins, 2C]` float32.

        Args:
            sequence: N is zeros; any length that is a multiple of 128 bp, of which the output is cropped only at
                `config.sequence_length`. For training the batch size must be known when this is traced.
            is_training: whether dropout is on and BatchNorm uses batch statistics (which moves its averages).
            key: int32 `[2]`, (seed, step): what dropout is drawn from when training.
            fixed_norms: every BatchNorm uses its averages when training too, and they stay.
            moving_blocks: only the last so many transformer blocks are trained: what comes before and after them is
                called as in inference. None: everything is.
        """
        check_lengths(sequence.shape[1], None)
        x = tf.cast(self.encoded(sequence), self._dtype if is_training else tf.float32)
        if is_training and sequence.shape[0] is None:
            raise ValueError("training needs a fixed batch size, found None")
        everything_moves = is_training and moving_blocks is None
        batch_moments = everything_moves and not fixed_norms
        elementwise, stages = self._recomputes(sequence, fixed_norms) if everything_moves else (False, False)
        for stage in self.stages:
            compute = functools.partial(stage, batch_moments=batch_moments, recompute=elementwise)
            x, moments = (tf.recompute_grad(compute) if stages else compute)(x)
            stage.update(moments)
        return self._after_stages(x, is_training, key, batch_moments, elementwise, moving_blocks)

    @property
    def stages(self) -> list[Stage]:
        """Stem and tower, in order; what comes after them is `after_stages`."""
        return [self._stem, *self._tower]

    def encoded(self, sequence: tf.Tensor) -> tf.Tensor:
        """What the first stage reads of `[B, L, 4]` one-hot DNA: `[B, L, 4]`, or `[B, L, 3]` of encoding komlos."""
        return komlos(sequence) if self.config.encoding == "komlos" else sequence

    def after_stages(self, x: tf.Tensor) -> tf.Tensor:
        """The embedding `[B, bins, 2C]` of what stem and tower return, `[B, L/128, C]` float32, without training."""
        return self._after_stages(x, False, None, False, False, None)

    def _after_stages(
        self,
        x: tf.Tensor,
        is_training: bool,
        key: tf.Tensor | None,
        batch_moments: bool,
        elementwise: bool,
        moving_blocks: int | None,
    ) -> tf.Tensor:
        config, (batch, bins, _) = self.config, x.shape
        features, key_size = config.num_position_features, config.attention_key_size
        basis = position_basis(config.positions, bins, features, key_size)
        basis = None if basis is None else tf.constant(basis, x.dtype)
        masks = [Masks()] * config.num_transformer_layers
        if is_training:
            first = 0 if moving_blocks is None else len(masks) - moving_blocks
            masks[first:] = draw_layers(config, key, batch, bins)[first:]
        for block, keep in zip(self.transformer, masks, strict=True):
            x = block(x, basis, keep)
        x = crop(x, config.target_length if bins * BIN_SIZE_BP == config.sequence_length else None)
        x, moments = self._final(x, batch_moments, elementwise)
        update([self._final], moments)
        if is_training and moving_blocks is None:
            rate = config.dropout_rate / 8
            x = dropout(x, draw_masks(key, "final", rate, 1, [batch, *x.shape[1:]])[0], rate)
        return tf.cast(gelu(x), tf.float32)

    @property
    def tracks(self) -> dict[str, list[dict[str, str]]]:
        """What the tracks of a head are, as far as known: for each head its rows of `targets.txt`, words by column;
        kept in checkpoints."""
        return self._untracked.tracks

    @tracks.setter
    def tracks(self, tracks: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
        # A copy: what comes here is a wrapper of TensorFlow's, which json cannot write.
        self._untracked.tracks = {head: [dict(row) for row in rows] for head, rows in tracks.items()}

    @property
    def trunk_variables(self) -> list[tf.Variable]:
        """Every variable but those of the heads."""
        of_heads = {id(variable) for head in self.heads.values() for variable in head.variables}
        return [variable for variable in self.variables if id(variable) not in of_heads]

    def _recomputes(self, sequence: tf.Tensor, fixed_norms: bool) -> tuple[bool, bool]:
        """Whether a training step computes elementwise activations again, and whole stages."""
        if self._recompute != "auto":
            always = self._recompute == "always"
            return always, always
        batch, length, _ = sequence.shape
        size = batch * length * self.config.channels
        stages = RECOMPUTE_FIXED_STAGES_ABOVE if fixed_norms else RECOMPUTE_STAGES_ABOVE
        return size > RECOMPUTE_ELEMENTWISE_ABOVE, size > stages

    def __call__(
        self, sequence: tf.Tensor, is_training: bool, key: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Predicted signal of every head: `{head: [B, bins, tracks]}`. Arguments as `trunk`."""
        embedding = self.trunk(sequence, is_training, key)
        return {name: head(embedding) for name, head in self.heads.items()}


class Masks(NamedTuple):
    """What dropout keeps in one transformer layer: bool tensors, or None for all."""

    weights: tf.Tensor | None = None  # [B, H, T, T]
    positions: tf.Tensor | None = None  # [2T-1, F]
    attended: tf.Tensor | None = None  # [B, T, C]
    hidden: tf.Tensor | None = None  # [B, T, 2C]
    output: tf.Tensor | None = None  # [B, T, C]


def draw_layers(config: EnformerConfig, key: tf.Tensor | None, batch: int, bins: int) -> list[Masks]:
    """The masks of every layer for `batch` windows of `bins`, a function of key: int32 `[2]`, (seed, step)."""
    attention_rate = 0.0 if config.family == "ecozoi" else config.attention_dropout_rate
    position_rate = config.positional_dropout_rate if config.positions == "relative" else 0.0
    rate, channels = config.dropout_rate, config.channels
    places = Masks(
        weights=(attention_rate, [batch, config.num_heads, bins, bins]),
        positions=(position_rate, [2 * bins - 1, config.num_position_features]),
        attended=(rate, [batch, bins, channels]),
        hidden=(rate, [batch, bins, 2 * channels]),
        output=(rate, [batch, bins, channels]),
    )
    drawn = [
        draw_masks(key, place, rate, config.num_transformer_layers, shape)
        for place, (rate, shape) in places._asdict().items()
    ]
    return [Masks(*masks) for masks in zip(*drawn, strict=True)]


class TransformerBlock(snt.Module):
    """Attention and a two-layer MLP, each normalised before and added after: `[B, T, C]` to the same shape."""

    def __init__(self, config: EnformerConfig, name: str):
        super().__init__(name=name)
        ecozoi = config.family == "ecozoi"
        self._dropout_rate = config.dropout_rate
        self._attention_norm = LayerNorm(name="attention_norm")
        self._attention = MultiHeadAttention(
            channels=config.channels,
            num_heads=config.num_heads,
            key_size=config.attention_key_size,
            value_size=config.attention_value_size,
            num_groups=4 if ecozoi else config.num_heads,
            positions=config.positions,
            with_bias=ecozoi,
            dropout_rate=config.attention_dropout_rate,
            positional_dropout_rate=config.positional_dropout_rate,
            # The name chooses the initial weights: ecozoi's are those of plain linear layers.
            name="grouped_attention" if ecozoi else "attention",
        )
        self._mlp_norm = LayerNorm(name="mlp_norm")
        self._mlp_in = Linear(2 * config.channels, name="mlp_in")
        self._mlp_out = Linear(config.channels, name="mlp_out")

    def __call__(self, x: tf.Tensor, basis: tf.Tensor | None, keep: Masks) -> tf.Tensor:
        attended = self._attention(self._attention_norm(x), basis, keep.weights, keep.positions)
        x += dropout(attended, keep.attended, self._dropout_rate)
        hidden = dropout(self._mlp_in(self._mlp_norm(x)), keep.hidden, self._dropout_rate)
        return x + dropout(self._mlp_out(tf.nn.relu(hidden)), keep.output, self._dropout_rate)


def head_module_name(head: str) -> str:
    """The module of a head, whose name may be any folder's: modules take letters, digits and `_` alone."""
    return "head_" + re.sub(r"\W", "_", head, flags=re.ASCII)
