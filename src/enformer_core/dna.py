"""Letters to arrays: DNA as base codes, one-hot and Komlós encodings, for NumPy arrays and tensors alike.

Without TensorFlow, so that worker processes load it in no time.

Shapes: L positions (bp), B batch. Channels of the one-hot encoding are A, C, G, T in this order.
"""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

Sequence = TypeVar("Sequence", np.ndarray, "tf.Tensor")

ALPHABET = "ACGT"

# Codes beyond the four letters, of those who need them.
UNKNOWN = 4  # N and every other letter
MASKED = 5  # a letter that is to be predicted or written
PADDING = 6  # beyond the end of a sequence

_CODE_OF_BYTE = np.full(256, UNKNOWN, np.uint8)
for _code, _letter in enumerate(ALPHABET):
    _CODE_OF_BYTE[[ord(_letter), ord(_letter.lower())]] = _code

# Row c is base code c: A, C, G, T, and N as zeros.
ONE_HOT = np.vstack([np.eye(4, dtype=np.float32), np.zeros((1, 4), np.float32)])

# Rows A, C, G, T. Every letter is a corner of a cube, letters differ in exactly two of three coordinates,
# and the four corners sum to zero.
KOMLOS = np.array([[1, 1, -1], [-1, 1, 1], [-1, -1, -1], [1, -1, 1]], np.float32)


def codes(letters: str) -> np.ndarray:
    """DNA letters as `[L]` uint8: A 0, C 1, G 2, T 3 in either case, N and every other letter 4."""
    return _CODE_OF_BYTE[np.frombuffer(letters.encode("latin-1", "replace"), np.uint8)]


def letters(codes: np.ndarray) -> list[str]:
    """The sequences `[n, L]` uint8 as letters; what is none of A, C, G and T becomes N."""
    alphabet = np.frombuffer(f"{ALPHABET}N".encode(), np.uint8)
    return [row.tobytes().decode("ascii") for row in alphabet[np.minimum(codes, UNKNOWN)]]


def codes_of(sequences: np.ndarray) -> np.ndarray:
    """One-hot DNA `[..., L, 4]` as codes `[..., L]` uint8; a row of zeros is 4."""
    return np.where(sequences.any(-1), sequences.argmax(-1), UNKNOWN).astype(np.uint8)


def one_hot(letters: str) -> np.ndarray:
    """DNA letters as `[L, 4]` float32, order A C G T; N and every other letter become a row of zeros."""
    return ONE_HOT[codes(letters)]


def komlos(sequence: Sequence) -> Sequence:
    """Komlós encoding of one-hot DNA: `[..., 4]` float32 to `[..., 3]` float32.

    A (1, 1, -1), C (-1, 1, 1), G (-1, -1, -1), T (1, -1, 1); N (a row of zeros) stays zeros. The published
    ablation code reads channel 2 as T and channel 3 as G, which exchanges the two; here the map is the stated one.
    """
    return sequence @ KOMLOS


def reverse_complement(sequence: Sequence) -> Sequence:
    """The other strand of one-hot DNA `[..., L, 4]`, read 5' to 3': same shape and dtype, N stays N."""
    return sequence[..., ::-1, ::-1]
