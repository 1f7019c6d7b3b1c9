"""Streaming Pearson r and R2 for each track."""

import numpy as np

# A track whose spread is below this fraction of its mean is constant up to the rounding of float64 sums.
_CONSTANT = 1e-13


class TrackCorrelation:
    """Pearson r and R2 of each track, pooled over batch and bins, one batch at a time.

    Accumulates centred float64 moments and merges them (Chan, Golub and LeVeque 1983), so the answer equals that of
    one pass over everything in float64; one-pass float32 sums gave 0.246 where the truth was 0.515.

    Args:
        num_tracks: tracks T.
    """

    def __init__(self, num_tracks: int):
        self.n = 0  # values seen for each track
        self._mean = np.zeros((2, num_tracks))  # target, prediction
        self._squares = np.zeros((2, num_tracks))  # sums of squared deviations
        self._products = np.zeros(num_tracks)  # sum of products of deviations

    def update(self, target: np.ndarray, prediction: np.ndarray) -> None:
        """Adds a batch: two arrays `[..., T]` of one shape and any float dtype."""
        if target.shape != prediction.shape or target.shape[-1] != self._mean.shape[1]:
            raise ValueError(
                f"target {target.shape} and prediction {prediction.shape} must both be [..., {self._mean.shape[1]}]"
            )
        values = np.stack([np.reshape(a, (-1, a.shape[-1])) for a in (target, prediction)]).astype(np.float64)
        count = values.shape[1]
        mean = values.mean(1)
        values -= mean[:, None]
        shift = mean - self._mean
        weight = self.n * count / (self.n + count)
        self._squares += np.einsum("snt,snt->st", values, values) + shift**2 * weight
        self._products += np.einsum("nt,nt->t", *values) + shift[0] * shift[1] * weight
        self._mean += shift * (count / (self.n + count))
        self.n += count

    def pearson_r(self) -> np.ndarray:
        """`[T]` float64; NaN for a track whose target or prediction never varies."""
        varies = np.all(self._squares > self.n * (_CONSTANT * self._mean) ** 2, axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            r = self._products / np.sqrt(self._squares[0] * self._squares[1])
        return np.where(varies, np.clip(r, -1, 1), np.nan)

    def r2(self) -> np.ndarray:
        """1 - residual / total sum of squares: `[T]` float64; NaN for a track whose target never varies."""
        residual = (
            self._squares[0]
            + self._squares[1]
            - 2 * self._products
            + self.n * (self._mean[0] - self._mean[1]) ** 2
        )
        varies = self._squares[0] > self.n * (_CONSTANT * self._mean[0]) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(varies, 1 - residual / self._squares[0], np.nan)
