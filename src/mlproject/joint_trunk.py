"""Enformer trunk embeddings of short sequences, which enter a joint model in place of their letters.

A sequence lies at the left of a window of whole bins, N behind it. Embeddings are computed once and kept in the work
folder; they are of the sequence as it is given, so nothing is shown on the other strand or at another place.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from enformer_core import dna
from enformer_core.enformer import BIN_SIZE_BP, Enformer
from mlproject import weights
from mlproject.compilation import Batches
from mlproject.data.joint import JointData
from mlproject.embeddings import EmbeddingCache, at_once, sequence_key, trunk_embeddings, trunk_key


class TrunkTokens:
    """Embeddings of sequences of up to one length.

    Args:
        enformer: its trunk, at `window(longest)` bp.
        work_dir: where they are kept.
    """

    def __init__(self, enformer: Enformer, work_dir: Path):
        self._window = enformer.config.sequence_length
        self._cache: EmbeddingCache = trunk_embeddings(work_dir, enformer)
        self.channels = self._cache.shape[1]
        self.digest = trunk_key(enformer)
        self._batches = Batches()
        self._embed = tf.function(
            lambda sequence: enformer.trunk(sequence, is_training=False), jit_compile=True, autograph=False
        )

    def fill(self, codes: np.ndarray) -> None:
        """Computes what is missing of sequences `[n, L]` uint8."""
        windows = self._windows(codes)
        size = at_once(self._window)

        def embed(rows: list[int]) -> np.ndarray:
            (found,) = self._batches(self._embed, size, dna.ONE_HOT[windows[rows]])
            return found

        self._cache.fill([sequence_key(window) for window in windows], embed, batch_size=size)

    def read(self, codes: np.ndarray) -> np.ndarray:
        """The embeddings of sequences that were filled: `[n, bins, channels]` float32."""
        return self._cache.read([sequence_key(window) for window in self._windows(codes)]).astype(np.float32)

    def _windows(self, codes: np.ndarray) -> np.ndarray:
        windows = np.full((len(codes), self._window), 4, np.uint8)
        windows[:, : codes.shape[1]] = np.minimum(codes, 4)
        return windows


class JointTrunk(NamedTuple):
    """Of both modalities."""

    mpra: TrunkTokens | None
    tracks: TrunkTokens | None

    @property
    def channels(self) -> int:
        """Of an embedding."""
        tokens = self.mpra or self.tracks
        return tokens.channels if tokens else 0

    @property
    def digest(self) -> str:
        """Of the trunk and both lengths."""
        return " ".join(tokens.digest for tokens in self if tokens is not None)


def window(longest: int) -> int:
    """Whole bins that hold a sequence of this length, in bp."""
    return -(-longest // BIN_SIZE_BP) * BIN_SIZE_BP


def load_trunk(
    word: str, *, weights_dir: str, download: bool, work_dir: Path, data: JointData, seq_len: int
) -> JointTrunk:
    """The trunk that the option `weights` names, at the lengths of both modalities.

    Args:
        word: as `weights.load_trunk` takes it; `random` is a tiny untrained one.
        data: which modalities there are.
        seq_len: longest window of tracks in bp.

    Raises:
        InputError: it cannot be had.
    """

    def tokens(longest: int) -> TrunkTokens:
        length = window(longest)
        enformer = weights.load_trunk(
            word,
            weights_dir=weights_dir,
            download=download,
            work_dir=work_dir,
            random=lambda: weights.untrained("tiny", length, 0),
            sequence_length=length,
            target_length=None,
        )
        return TrunkTokens(enformer, work_dir)

    mpra = tokens(data.mpra.codes.shape[1]) if data.mpra is not None else None
    if mpra is not None and data.mpra is not None:
        mpra.fill(data.mpra.codes)
    return JointTrunk(mpra, tokens(seq_len) if data.tracks is not None else None)
