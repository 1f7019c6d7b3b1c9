"""One model for tracks and MPRA: a Perceiver IO over letters, coverage, activity and cell types.

    letters (+ coverage, or activity)  [B, L, M]  -> cross-attention -> latents [B, N, D]
    latents: num_blocks times the same num_self_attention_layers of self-attention
    output queries [B, Q, M]  -> cross-attention to the latents -> coverage bins, activity or letters

Perceiver IO is Jaegle et al. 2021 (https://arxiv.org/abs/2107.14795); blocks share their weights as there. What is
predicted is never an input: `activity` takes no activity, `coverage` hides what is NaN, `nucleotides` what is MASKED.

Shapes: B batch, L positions, M d_model, N num_latents, D d_latent, Q output queries, H heads, C cell types.
"""

import dataclasses

import numpy as np
import sonnet as snt
import tensorflow as tf

from enformer_core import initial
from enformer_core.attention import join_heads, split_heads
from enformer_core.dna import MASKED, PADDING, UNKNOWN
from enformer_core.heads import check_rate, check_whole
from enformer_core.layers import Conv1D, LayerNorm, Linear, draw_masks, dropout, gelu

_LETTERS = 5  # channels of a letter: A, C, G, T, masked
_MPRA, _TRACK = 0, 1  # rows of the modality embedding
_LARGEST = float(np.finfo(np.float32).max)
_ACTIVITY_CENTRES = np.linspace(-3, 3, 25, dtype=np.float32)  # of standardised activity


@dataclasses.dataclass(frozen=True)
class PerceiverConfig:
    """Sizes and units of a `Perceiver`; the defaults are the published ones.

    Raises:
        ValueError: one line that names the field, what was found and what it takes.
    """

    cell_types: tuple[str, ...]
    """Names, in the order of the cell-type embedding."""
    seq_len: int = 1_000
    """Most positions of a window of tracks, in bp."""
    mpra_len: int = 150
    """Most letters of an MPRA sequence."""
    d_model: int = 256
    """Channels of inputs and output queries."""
    d_latent: int = 512
    """Channels of a latent."""
    num_latents: int = 128
    num_blocks: int = 1
    """How often the self-attention layers are applied; their weights are the same each time."""
    num_self_attention_layers: int = 4
    num_cross_attn_heads: int = 4
    num_self_attn_heads: int = 8
    widening_factor: int = 1
    """Channels of the hidden layer of a feed-forward block, as a multiple of its input."""
    num_bins: int = 256
    """Bins of log(1 + coverage)."""
    min_cov: float = 0.0
    max_cov: float = 10.0
    """Range of log(1 + coverage); what is outside falls into the first or last bin."""
    nucleotide_width: int = 1
    """Letters that the embedding of one sees: 1 as published; more is a convolution, which finds motifs much faster."""
    trunk_channels: int = 0
    """Channels of Enformer trunk embeddings that stand in for the letters. 0: letters."""
    dropout: float = 0.0
    """Share of what each attention and feed-forward block adds that is dropped in training."""
    unseen_cell_types: tuple[str, ...] = ()
    """Cell types that nothing was trained on, for which `__call__` answers the mean of the others."""
    activity_mean: float = 0.0
    activity_sd: float = 1.0
    """Of the training labels: the model computes in standardised activity and answers in the units of the labels."""

    def __post_init__(self):
        for field, least in (("cell_types", 1), ("unseen_cell_types", 0)):
            names = getattr(self, field)
            if not isinstance(names, tuple | list) or not all(
                isinstance(name, str) and name for name in names
            ):
                raise ValueError(f"{field} is {names!r:.200}; it must be a list of names")
            if len(names) < least or len(set(names)) != len(names):
                many = ", at least one" if least else ""
                raise ValueError(f"{field} is {names!r:.200}; it must be different names{many}")
            object.__setattr__(self, field, tuple(names))  # JSON has lists
        if not set(self.unseen_cell_types) < set(self.cell_types):
            raise ValueError(
                f"unseen_cell_types is {self.unseen_cell_types!r:.200}; it must name some, not all, of cell_types"
            )
        sizes = "seq_len mpra_len d_model d_latent num_latents num_blocks num_self_attention_layers"
        for name in (*sizes.split(), "num_cross_attn_heads", "num_self_attn_heads", "widening_factor"):
            check_whole(name, getattr(self, name))
        check_whole("num_bins", self.num_bins, least=2)
        check_whole("trunk_channels", self.trunk_channels, least=0)
        check_whole("nucleotide_width", self.nucleotide_width)
        if self.nucleotide_width % 2 == 0:
            raise ValueError(f"nucleotide_width is {self.nucleotide_width}; it must be odd")
        check_rate("dropout", self.dropout)
        for heads, size in (("num_cross_attn_heads", "d_model"), ("num_self_attn_heads", "d_latent")):
            if getattr(self, size) % getattr(self, heads):
                raise ValueError(
                    f"{size} is {getattr(self, size)}; it must be a multiple of {heads}, {getattr(self, heads)}"
                )
        for name in ("min_cov", "max_cov", "activity_mean", "activity_sd"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not abs(value) < _LARGEST:
                raise ValueError(f"{name} is {value!r:.80}; it must be a number")
        if not self.min_cov < self.max_cov:
            raise ValueError(f"max_cov is {self.max_cov:g}; it must be above min_cov, {self.min_cov:g}")
        if not self.activity_sd > 0:
            raise ValueError(f"activity_sd is {self.activity_sd:g}; it must be above 0")

    @property
    def sequence_length(self) -> int:
        """Letters of the input that a SavedModel takes."""
        return self.mpra_len

    @property
    def seen(self) -> tuple[int, ...]:
        """Positions of the cell types that something was trained on."""
        return tuple(i for i, name in enumerate(self.cell_types) if name not in self.unseen_cell_types)


class Perceiver(snt.Module):
    """Coverage of tracks, activity of MPRA sequences, and masked letters, in any of its cell types.

    Letters are codes, integers `[B, L]`: A 0, C 1, G 2, T 3, N `UNKNOWN`, to be predicted `MASKED`, beyond the end
    `PADDING`, which nothing attends to. L is at most `seq_len` for tracks and `mpra_len` for MPRA; it must be known
    when a call is traced, B too where dropout draws. Cell types are positions in `config.cell_types`, int32 `[B]`.
    `key`, int32 `[2]`, (seed, step), is what dropout is drawn from in training.

    Every call raises ValueError, one line, for a sequence that is too long or embeddings of another width.

    Args:
        config: sizes and units.
        seed: of the initial weights.
    """

    def __init__(self, config: PerceiverConfig, seed: int = 0):
        super().__init__(name="perceiver")
        self.config = config
        self.heads = {"activity": None}
        self.tracks: dict[str, list[dict[str, str]]] = {}
        m, d = config.d_model, config.d_latent
        positions = max(config.seq_len, config.mpra_len)
        self._position = _table(positions, m, "position_embedding")
        self._modality = _table(2, m, "modality_embedding")
        self._cell = _table(len(config.cell_types), m, "cell_type_embedding")
        self._coverage = _table(config.num_bins + 1, m, "coverage_embedding")  # the last row: hidden
        self._activity = _table(len(_ACTIVITY_CENTRES) + 1, m, "activity_embedding")  # likewise
        self._latents = _table(config.num_latents, d, "latents")
        if config.trunk_channels:
            self._trunk = Linear(m, reads_data=True, name="trunk")
        if config.nucleotide_width == 1:
            self._letter = Linear(m, with_bias=False, reads_data=True, name="letter")
        else:
            self._letter = Conv1D(m, config.nucleotide_width, reads_data=True, name="letter")
            self._context = Linear(m, name="context")
        cross, own, wide = config.num_cross_attn_heads, config.num_self_attn_heads, config.widening_factor
        self._encode = _Attend(m, cross, wide, config.dropout, "encoder")
        self._layers = [
            _Attend(d, own, wide, config.dropout, f"self_attention_{i}")
            for i in range(config.num_self_attention_layers)
        ]
        self._decode = _Attend(m, cross, wide, config.dropout, "decoder")
        self._to_coverage = Linear(config.num_bins, name="to_coverage")
        self._to_activity = Linear(1, name="to_activity")
        self._to_letters = Linear(4, name="to_letters")
        self._wanted_norm = LayerNorm("wanted_norm")
        self._wanted_up, self._wanted_down = Linear(2 * m, name="wanted_up"), Linear(m, name="wanted_down")
        with tf.init_scope():  # makes the variables
            codes, cell = tf.zeros([1, 1], tf.int32), tf.zeros([1], tf.int32)
            self.coverage(codes, tf.zeros([1, 1]), cell, trunk=self._no_trunk())
            self.activity(codes, cell, trunk=self._no_trunk())
            self.nucleotides(codes, tf.zeros([1]), cell)
        initial.initialize(self, seed)

    def __call__(
        self, sequence: tf.Tensor, is_training: bool = False, key: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """The activity in every cell type, `{"activity": [B, C]}`, of one-hot letters `[B, mpra_len, 4]`.

        A row of zeros is N, or the end where no letter comes after it. The answer for unseen cell types is the mean of
        the others.
        """
        letters = tf.reduce_sum(sequence, -1) > 0  # [B, L]
        after = tf.cumsum(tf.cast(letters, tf.int32), axis=1, reverse=True) > 0
        codes = tf.where(letters, tf.argmax(sequence, -1, tf.int32), tf.where(after, UNKNOWN, PADDING))
        count = len(self.config.cell_types)
        rows = tf.repeat(codes, count, axis=0)  # [B * C, L]
        cells = tf.tile(tf.range(count), [tf.shape(codes)[0]])
        answers = tf.reshape(self.activity(rows, cells, is_training, key), [-1, count])
        if self.config.unseen_cell_types:
            seen = self.config.seen
            mean = tf.reduce_mean(tf.gather(answers, seen, axis=1), 1, keepdims=True)
            answers = tf.where(np.isin(np.arange(count), seen), answers, mean)
        return {"activity": answers}

    def activity(
        self,
        codes: tf.Tensor,
        cell: tf.Tensor,
        is_training: bool = False,
        key: tf.Tensor | None = None,
        trunk: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Activity of MPRA sequences, in the units of the training labels: `[B]` float32.

        Of an unseen cell type it is what an embedding that nothing has taught says; `__call__` has the mean.
        `trunk`, `[B, bins, trunk_channels]`, is for a configuration that takes those in place of letters.
        """
        self._check("mpra_len", codes)
        self._check_trunk(trunk)
        tokens = self._letters(codes, trunk, _MPRA, self._cells(cell) + self._activity[-1])
        padding = self._padding(codes, trunk)
        latents = self._latents_of(tokens, padding, is_training, key)
        # the query of a position is its token; that of a sequence, the mean of them, begins with what letters there are
        there = tf.cast(~padding, tf.float32)[..., tf.newaxis]
        query = tf.reduce_sum(tokens * there, 1, keepdims=True)  # [B, 1, M]
        query /= tf.maximum(1.0, tf.reduce_sum(there, 1, keepdims=True))
        found = self._to_activity(self._decode(query, latents, None, is_training, key))[:, 0, 0]
        return found * self.config.activity_sd + self.config.activity_mean

    def nucleotides(
        self,
        codes: tf.Tensor,
        activity: tf.Tensor,
        cell: tf.Tensor,
        is_training: bool = False,
        key: tf.Tensor | None = None,
        before: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Logits of A, C, G, T at each position of an MPRA sequence, given the others, its activity and its cell type.

        Args:
            codes: letters, those to predict `MASKED`.
            activity: float32 `[B]` in the units of the training labels; NaN is not known.
            before: letters like `codes`: what the query of each position sees to its left, as far as `nucleotide_width`
                reaches. In training the true ones, so that each position of a sequence is an example of the next letter
                and not the first masked one alone. The latents see `codes`. None: `codes`.

        Returns:
            `[B, L, 4]` float32; only those of masked positions mean something.
        """
        self._check("mpra_len", codes)
        wanted = self._wanted(cell, activity)
        tokens = self._letters(codes, None, _MPRA, wanted)
        latents = self._latents_of(tokens, codes == PADDING, is_training, key)
        queries = tokens if before is None else self._letters(codes, None, _MPRA, wanted, before)
        return self._to_letters(self._decode(queries, latents, None, is_training, key))

    def coverage(
        self,
        codes: tf.Tensor,
        log_coverage: tf.Tensor,
        cell: tf.Tensor,
        is_training: bool = False,
        key: tf.Tensor | None = None,
        trunk: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Logits of the bins of log(1 + coverage) at each position, given the coverage of other positions.

        Args:
            codes: letters of a window.
            log_coverage: float32 `[B, L]`, NaN where it is hidden.

        Returns:
            `[B, L, num_bins]` float32; `expected_coverage` makes numbers of them.
        """
        self._check("seq_len", codes)
        self._check_trunk(trunk)
        cells = self._cells(cell)
        bins = tf.where(tf.math.is_nan(log_coverage), self.config.num_bins, self.coverage_bins(log_coverage))
        visible = _look_up(self._coverage, bins)  # [B, L, M]
        if self.config.trunk_channels:
            tokens = visible + self._placed(codes, _TRACK, cells)
            read = tf.concat([tokens, self._letters(codes, trunk, _TRACK, cells)], 1)
            padding = tf.concat([codes == PADDING, self._padding(codes, trunk)], 1)
        else:
            read = tokens = visible + self._letters(codes, None, _TRACK, cells)
            padding = codes == PADDING
        latents = self._latents_of(read, padding, is_training, key)
        return self._to_coverage(self._decode(tokens, latents, None, is_training, key))

    def coverage_bins(self, log_coverage: tf.Tensor) -> tf.Tensor:
        """The bin of each log(1 + coverage), int32 of the same shape; NaN becomes the first."""
        low, high, count = self.config.min_cov, self.config.max_cov, self.config.num_bins
        known = tf.where(tf.math.is_nan(log_coverage), low, log_coverage)
        place = tf.floor((known - low) / (high - low) * count)
        return tf.cast(tf.clip_by_value(place, 0, count - 1), tf.int32)

    def expected_coverage(self, logits: tf.Tensor) -> tf.Tensor:
        """The mean of log(1 + coverage) that logits `[..., num_bins]` stand for: `[...]` float32."""
        low, high, count = self.config.min_cov, self.config.max_cov, self.config.num_bins
        centres = low + (np.arange(count, dtype=np.float32) + 0.5) * np.float32((high - low) / count)
        return tf.linalg.matvec(tf.nn.softmax(logits), centres)

    # -- inside

    def _check_trunk(self, trunk: tf.Tensor | None) -> None:
        """Refuses letters alone where embeddings stand in for them, and embeddings that do not fit."""
        expected = self.config.trunk_channels
        if trunk is None:
            if expected:
                raise ValueError(
                    f"this model reads trunk embeddings of {expected} channels, and letters alone are given"
                )
            return
        _, bins, channels = trunk.shape
        if channels != expected:
            raise ValueError(
                f"trunk embeddings of {channels} channels; this model takes {expected or 'none'}"
            )
        if bins is None or bins > self._position.shape[0]:
            raise ValueError(
                f"trunk embeddings of {bins or 'unknown'} bins; this model takes {self._position.shape[0]} at most"
            )

    def _check(self, limit: str, codes: tf.Tensor) -> None:
        length, most = codes.shape[1], getattr(self.config, limit)
        if length is None or length > most:
            raise ValueError(
                f"sequences of {length or 'unknown'} bp; this model takes {most} at most ({limit})"
            )

    def _cells(self, cell: tf.Tensor) -> tf.Tensor:
        return _look_up(self._cell, cell)  # [B, M]

    def _wanted(self, cell: tf.Tensor, activity: tf.Tensor) -> tf.Tensor:
        """Embedding of an activity in a cell type: `[B, M]`.

        Which letters it takes depends on both at once. A sum alone learns within the usual number of steps what raises
        activity in all cell types, and not what does in one.
        """
        both = self._cells(cell) + self._activities(activity)
        return both + self._wanted_down(gelu(self._wanted_up(self._wanted_norm(both))))

    def _activities(self, activity: tf.Tensor) -> tf.Tensor:
        """Embedding of known activities, a mean of the rows of near centres: `[B, M]`."""
        known = ~tf.math.is_nan(activity)
        x = (tf.where(known, activity, 0.0) - self.config.activity_mean) / self.config.activity_sd
        width = _ACTIVITY_CENTRES[1] - _ACTIVITY_CENTRES[0]
        x = tf.clip_by_value(x, _ACTIVITY_CENTRES[0], _ACTIVITY_CENTRES[-1])[:, tf.newaxis]
        weights = tf.nn.softmax(-0.5 * ((x - _ACTIVITY_CENTRES) / (2 * width)) ** 2)  # [B, centres]
        weights = tf.where(known[:, tf.newaxis], weights, tf.zeros_like(weights))
        hidden = tf.cast(~known, tf.float32)[:, tf.newaxis]
        return tf.matmul(tf.concat([weights, hidden], 1), self._activity)

    def _letters(
        self,
        codes: tf.Tensor,
        trunk: tf.Tensor | None,
        modality: int,
        added: tf.Tensor,
        before: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Tokens of a sequence, `[B, L, M]`, or `[B, bins, M]` of trunk embeddings; `added` `[B, M]` is on each."""
        if trunk is not None:
            bins = trunk.shape[1]
            return (
                self._trunk(trunk) + self._position[:bins] + self._modality[modality] + added[:, tf.newaxis]
            )
        channels = tf.constant(np.eye(PADDING + 1, dtype=np.float32)[:, [0, 1, 2, 3, MASKED]])  # [7, 5]
        letters = tf.gather(channels, codes)
        x = self._letter(letters)
        if self.config.nucleotide_width > 1:
            if before is not None:  # position p sees p - half to p - 1 of it
                half = self.config.nucleotide_width // 2
                other = tf.pad(tf.gather(channels, before) - letters, [[0, 0], [half, 0], [0, 0]])
                x += tf.nn.conv1d(other, self._letter.w[:half], stride=1, padding="VALID")[:, :-1]
            x = self._context(gelu(x))
        return x + self._placed(codes, modality, added)

    def _placed(self, codes: tf.Tensor, modality: int, added: tf.Tensor) -> tf.Tensor:
        """What is known of every position whatever its letter: `[B, L, M]`."""
        return self._position[: codes.shape[1]] + self._modality[modality] + added[:, tf.newaxis]

    def _padding(self, codes: tf.Tensor, trunk: tf.Tensor | None) -> tf.Tensor:
        return codes == PADDING if trunk is None else tf.zeros(tf.shape(trunk)[:2], tf.bool)

    def _no_trunk(self) -> tf.Tensor | None:
        channels = self.config.trunk_channels
        return tf.zeros([1, 1, channels]) if channels else None

    def _latents_of(
        self, tokens: tf.Tensor, padding: tf.Tensor, is_training: bool, key: tf.Tensor | None
    ) -> tf.Tensor:
        latents = self._encode(self._latents[tf.newaxis], tokens, padding, is_training, key)
        for block in range(self.config.num_blocks):
            for layer in self._layers:
                latents = layer(latents, None, None, is_training, key, f"/{block}")
        return latents


class _Attend(snt.Module):
    """A pre-norm attention block with its feed-forward block, both residual, as in Perceiver IO.

    Args:
        size: channels of queries, keys and values over all heads.
        num_heads: heads.
        widening_factor: of the feed-forward block.
        dropout_rate: of what both add.
    """

    def __init__(self, size: int, num_heads: int, widening_factor: int, dropout_rate: float, name: str):
        super().__init__(name=name)
        self._num_heads, self._widening, self._rate = num_heads, widening_factor, dropout_rate
        self._query, self._key, self._value = (Linear(size, name=part) for part in ("query", "key", "value"))
        self._norm, self._mlp_norm = LayerNorm("norm"), LayerNorm("mlp_norm")
        self._input_norm = LayerNorm("input_norm")

    @snt.once
    def _initialize(self, channels: int) -> None:
        self._output = Linear(channels, name="output")
        self._up = Linear(channels * self._widening, name="up")
        self._down = Linear(channels, name="down")

    def __call__(
        self,
        x: tf.Tensor,
        inputs: tf.Tensor | None,
        padding: tf.Tensor | None,
        is_training: bool,
        key: tf.Tensor | None,
        place: str = "",
    ) -> tf.Tensor:
        """x `[B, Q, C]` after attending to `inputs` `[B, L, E]`, or to itself where they are None.

        x may be `[1, Q, C]`, one for all inputs, whose query is then computed once. `padding`, bool `[B, L]`, is what
        nobody attends to; `place` tells apart calls that draw their own dropout.
        """
        self._initialize(x.shape[-1])
        normed = _by_row(self._norm, x)
        source = normed if inputs is None else _by_row(self._input_norm, inputs)
        query, keys, values = (
            split_heads(project(y), self._num_heads)
            for project, y in ((self._query, normed), (self._key, source), (self._value, source))
        )
        logits = tf.matmul(query * keys.shape[-1] ** -0.5, keys, transpose_b=True)  # [B, H, Q, L]
        if padding is not None:
            logits = tf.where(padding[:, tf.newaxis, tf.newaxis], -1e9, logits)
        attended = join_heads(tf.matmul(tf.nn.softmax(logits), values))
        x += self._dropped(self._output(attended), is_training, key, f"attention{place}")
        return x + self._dropped(
            self._down(gelu(self._up(_by_row(self._mlp_norm, x)))), is_training, key, f"mlp{place}"
        )

    def _dropped(self, x: tf.Tensor, is_training: bool, key: tf.Tensor | None, place: str) -> tf.Tensor:
        if not is_training or not self._rate:
            return x
        if x.shape[0] is None:
            raise ValueError("training needs a fixed batch size, found None")
        keep = draw_masks(key, f"{self.name}/{place}", self._rate, 1, list(x.shape))[0]
        return dropout(x, keep, self._rate)


def _by_row(norm: LayerNorm, x: tf.Tensor) -> tf.Tensor:
    """`norm` of `[B, L, C]` as of a matrix: XLA is much slower at sums over two axes, which its gradients would be."""
    return tf.ensure_shape(tf.reshape(norm(tf.reshape(x, [-1, x.shape[-1]])), tf.shape(x)), x.shape)


def _table(rows: int, channels: int, name: str) -> tf.Variable:
    return tf.Variable(tf.zeros([rows, channels]), name=name)


def _look_up(table: tf.Variable, rows: tf.Tensor) -> tf.Tensor:
    """Rows of a table `[n, M]` by number: `[..., M]`; as a product, because its gradient is one too, and no scatter."""
    flat = tf.one_hot(tf.reshape(rows, [-1]), table.shape[0])
    found = tf.matmul(flat, table)
    return tf.ensure_shape(
        tf.reshape(found, tf.concat([tf.shape(rows), [table.shape[1]]], 0)), [*rows.shape, table.shape[1]]
    )
