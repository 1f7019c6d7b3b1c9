"""The embeddings of the same sequence seen through windows that are shifted by one bp each.

Shapes: B batch, L length of a window in bp, N shifts, K stages that are shared, P = min(2^K, N + 1) phases, C channels.

    sequence     [B, L + N, 4]             window s is sequence[:, s : s + L], s = 0 to N
      phases     [P, B, L/2^K + more, C]   what K stages make of the whole sequence, for the shifts s mod 2^K
      edges      [N + 1, B, E, C] twice    what they make of the ends of each window, which see its padding
      window s   [B, L/2^K, C]             edge, the inner part of phase s mod 2^K from s // 2^K on, edge
      the rest   read(embedding)           the other stages, transformer, crop, final: for each window anew

Before a pooling, windows are the same array seen from another position on. After it, those whose shifts differ by an
even number still are, so each pooling doubles the arrays that differ, the phases, and halves their length: stages
are shared as long as there are fewer phases than windows. The exception are the few positions at each end of a window
whose convolutions see the zeros beyond it; short strips of the sequence give them, at the cost of a few hundred bp.
Attention sees whole windows, so nothing of it can be shared.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from enformer_core.enformer import Enformer, check_lengths
from enformer_core.heads import check_whole
from enformer_core.tower import Stage


class ShiftedTrunk:
    """What `read` says of the embedding of every shifted window, each as if it were predicted alone.

    For inference. Equal to `Enformer.trunk` of each window to rounding, about 1e-5 of the largest value: the tiles of
    wide convolutions are cut from where their array starts. XLA compiles a program for each shared stage, one for the
    edges and one for the rest, all once for each size of batch.

    Of a call the phases are kept until its last window: of the published model, at 196,608 bp and ten shifts, 0.55 GB
    for each sequence of a batch. Making them takes as much beside that as a single prediction does, and 0.6 GB.

    Args:
        enformer: its variables are followed, so new weights need no new instance.
        length: L of a window in bp, a multiple of 128; as in `Enformer.trunk` the output is cropped only at the model's
            own `sequence_length`.
        shifts: N, so there are N + 1 windows; with 0 it is the plain trunk.
        read: what is wanted of an embedding, `[B, bins, 2C]` float32 to a tensor; compiled with the rest.

    Raises:
        ValueError: a length that the model cannot take, or shifts that are no whole number from 0.
    """

    def __init__(self, enformer: Enformer, length: int, shifts: int, read: Callable[[tf.Tensor], tf.Tensor]):
        check_lengths(length, None)
        check_whole("shifts", shifts, least=0)
        self.shared = stages_to_share(enformer.stages, length, shifts)
        """K, how many stages are shared."""
        self._enformer = enformer
        self._length = length
        self._shifts = shifts
        self._read = read
        self._edge = edge(enformer.stages[: self.shared])
        compiled = functools.partial(tf.function, jit_compile=True, autograph=False)
        self._stage = compiled(self._stage_of_phase)  # once for each stage, for the last perhaps twice
        self._edges = compiled(self._edges_of_windows)
        self._rest = compiled(self._read_window)

    def __call__(self, sequence: tf.Tensor) -> Iterator[tf.Tensor]:
        """`read` of the windows 0 to N of one-hot `[B, L + N, 4]` float32, in order; unknown letters are zeros.

        Raises:
            ValueError: a sequence of another length.
        """
        sequence = tf.convert_to_tensor(sequence, tf.float32)
        expected = self._length + self._shifts
        if sequence.shape.rank != 3 or sequence.shape[1:] != [expected, 4]:
            raise ValueError(
                f"sequence is {sequence.shape}; {self._shifts} shifts of {self._length} bp read [batch, {expected}, 4]"
            )
        return self._windows(sequence)

    def _windows(self, sequence: tf.Tensor) -> Iterator[tf.Tensor]:
        x = self._enformer.encoded(sequence)
        left, right = self._edges(x)
        phases = self._phases(x)
        inner = (self._length >> self.shared) - 2 * self._edge
        for shift in range(self._shifts + 1):
            start, phase = divmod(shift, 1 << self.shared)
            start += self._edge
            window = tf.concat([left[shift], phases[phase][:, start : start + inner], right[shift]], axis=1)
            yield self._rest(window)

    def _phases(self, x: tf.Tensor) -> dict[int, tf.Tensor]:
        """The phases of an encoded sequence, `[B, L/2^K + more, C]` each, by shift."""
        # So many zeros that lengths stay even; nothing of them reaches a window.
        x = tf.pad(x, [[0, 0], [0, -self._shifts % (1 << self.shared)], [0, 0]])
        found, waiting = {}, [(0, 0, x)]
        while waiting:  # one array at a time, and the long ones soon go: little is held
            index, phase, x = waiting.pop()
            if index == self.shared:
                found[phase] = x
                continue
            starts = (phase, phase + (1 << index))
            # The second only where there are such windows.
            parts = self._stage(x, index, starts[1] <= self._shifts)
            waiting += [(index + 1, start, part) for start, part in zip(starts, parts, strict=False)]
        return found

    def _stage_of_phase(self, x: tf.Tensor, index: int, both: bool) -> list[tf.Tensor]:
        """What a stage makes of a phase, pooled from its first position on, and if `both` also from its second."""
        stage = self._enformer.stages[index]
        x, _ = stage.unpooled(x)
        starts = [x, tf.pad(x[:, 1:], [[0, 0], [0, 1], [0, 0]])] if both else [x]
        return [stage.pool(start) for start in starts]

    def _edges_of_windows(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The left and right edges of the windows of an encoded sequence, `[N + 1, B, E, C]` each."""
        strips = self._strips(x)
        for stage in self._enformer.stages[: self.shared]:
            strips, _ = stage(strips)
        strips = tf.reshape(strips, [2, self._shifts + 1, x.shape[0], *strips.shape[1:]])
        return strips[0, :, :, : self._edge], strips[1, :, :, strips.shape[3] - self._edge :]

    def _strips(self, x: tf.Tensor) -> tf.Tensor:
        """The beginnings of all windows of an encoded sequence, then their ends: `[2 (N + 1) B, S, 4 or 3]`.

        Half of a strip sees the padding of its window, the other half that of the strip itself.
        """
        length = strip_length(self._enformer.stages[: self.shared])
        starts = tf.range(self._shifts + 1)
        starts = tf.concat([starts, starts + self._length - length], axis=0)
        strips = tf.gather(x, starts[:, tf.newaxis] + tf.range(length), axis=1)  # [B, 2 (N + 1), S, 4 or 3]
        return tf.reshape(tf.transpose(strips, [1, 0, 2, 3]), [-1, length, x.shape[2]])

    def _read_window(self, x: tf.Tensor) -> tf.Tensor:
        for stage in self._enformer.stages[self.shared :]:
            x, _ = stage(x)
        return self._read(self._enformer.after_stages(x))


def edge(stages: Sequence[Stage]) -> int:
    """Positions at each end of a window that see what is beyond it, after these stages."""
    positions = 0
    for stage in stages:
        positions = -(-(positions + stage.width // 2) // 2)
    return positions


def strip_length(stages: Sequence[Stage]) -> int:
    """bp of a strip from which these stages make one edge of a window and as many positions that are of no use."""
    return 2 * edge(stages) << len(stages)


def stages_to_share(stages: Sequence[Stage], length: int, shifts: int) -> int:
    """How many of the first stages cost least when they are shared by the windows; 0 is none.

    Arguments as in `ShiftedTrunk`. Strips need windows of their length at least.
    """
    possible = [count for count in range(len(stages) + 1) if strip_length(stages[:count]) <= length]
    return min(possible, key=lambda count: products(stages, length, shifts, count))


def products(stages: Sequence[Stage], length: int, shifts: int, shared: int) -> int:
    """Multiplications of all windows in stem and tower, of which the first `shared` stages are shared.

    Pooling counts with its published projection of every position; ours needs half of it.
    """
    windows, channels, total = shifts + 1, 4, 0
    strips = 2 * windows * strip_length(stages[:shared])
    for index, stage in enumerate(stages):
        convolved = pooled = windows * length  # bp, of positions that are 2^index bp each
        if index < shared:
            convolved = min(1 << index, windows) * length + strips
            pooled = min(2 << index, windows) * length + strips
        products = convolved * (stage.width * channels + stage.filters) + pooled * stage.filters
        total += products * stage.filters >> index
        channels = stage.filters
    return total
