"""A small genome, a table of its tracks and a stand-in for the predictor, for tests of `predict`."""

import os
import signal
from pathlib import Path

import numpy as np

from enformer_core.dna import one_hot
from mlproject import __main__ as door
from mlproject.data.predictions import Moments
from mlproject.inference import SignalPredictor

LENGTHS = {"c10": 9_000, "c2": 5_001, "short": 300}
TARGETS = "index\tidentifier\tfile\tstrand_pair\tdescription\n" + "".join(
    f"{index}\t{name}\tf\t{pair}\t{what}\n"
    for index, name, pair, what in (
        (10, "plus", 11, "CAGE:x"),
        (11, "minus", 10, "CAGE:x"),
        (12, "open", 12, "DNASE:K562"),
    )
)
PARTNERS = [1, 0, 2]


def letters_of(lengths, seed=0):
    random = np.random.default_rng(seed)
    letters = {chrom: "".join(random.choice(list("ACGTacgt"), size)) for chrom, size in lengths.items()}
    letters["c2"] = letters["c2"][:1000] + "N" * 1500 + "RY" + letters["c2"][2502:]
    return letters


LETTERS = letters_of(LENGTHS)


def predict(places, **options):
    """Exit code of the command on this genome, in the current folder."""
    options = {"fasta": places / "genome.fa", "weights": places / "trunk", "head": "human", **options}
    return door.main(["predict", *(f"--{name}={value}" for name, value in options.items())])


def bed(*regions):
    Path("regions.bed").write_text("".join("\t".join(map(str, region)) + "\n" for region in regions))
    return "regions.bed"


def arrays(output="work/predicted"):
    with np.load(Path(output, "predictions.npz"), allow_pickle=False) as found:
        return dict(found)


def by_place(found, name="values"):
    """Values of each bin by chromosome and start."""
    return {
        (str(chrom), int(start) + 128 * row): found[name][offset + row]
        for chrom, start, offset, last in zip(
            found["chrom"], found["start"], found["offset"], found["offset"][1:], strict=False
        )
        for row in range(last - offset)
    }


def around(chrom, start, end):
    """Letters of a stretch, N beyond the chromosome."""
    text = LETTERS[chrom]
    return "".join(text[at] if 0 <= at < len(text) else "N" for at in range(start, end))


def resized(start, end, span):
    """As published, then to the nearest bin."""
    count = int(np.ceil((end - start) / span))
    first = (start + end) / 2 - count * span / 2
    return int(np.floor(first / 128 + 0.5) * 128), count


def expected_bins(regions, one_prediction, length, bins, shifts, both):
    """For each bin all that is predicted for it, window by window: {(chrom, start): [predictions, tracks]}."""
    span, flank = 128 * bins, (length - 128 * bins) // 2
    fragments = set()
    for chrom, start, end in regions:
        first, count = resized(start, end, span)
        fragments |= {(chrom, first + span * number) for number in range(count)}
    found = {}
    for chrom, start in fragments:
        for shift in range(-(shifts // 2), shifts - shifts // 2 + 1):
            text = around(chrom, start - flank + shift, start - flank + shift + length)
            sequence = one_hot(text)
            answers = [one_prediction(sequence)]
            if both:
                answers.append(one_prediction(sequence[::-1, ::-1])[::-1, PARTNERS])
            for row in range(bins):
                if 0 <= start + 128 * row < LENGTHS[chrom]:
                    found.setdefault((chrom, start + 128 * row), []).extend(a[row] for a in answers)
    return {place: np.array(values, np.float64) for place, values in found.items()}


# --- without a model that has to be compiled ----------------------------------------------------------------------


def share_of_letters(sequence):
    """`[L, 4]` to `[bins, 3]`: how often A, C and G stand in each bin, cropped as the model crops."""
    counts = sequence.reshape(-1, 128, 4).sum(1)[:, :3] / 128
    return counts[1:-1] if len(counts) == 16 else counts


class Predictor(SignalPredictor):
    """Counts letters in place of the model; is stopped where it is told to be."""

    calls: list[int] = []  # noqa: RUF012  # of the class: the command makes its own
    stop_at = 0
    bad = False

    def __init__(self, model, head, tracks, partners, shape, **how):
        super().__init__(model, head, tracks, partners, shape, **how)
        self._tracks = list(tracks)

    def __call__(self, sequences):
        self.calls.append(len(sequences))
        if len(self.calls) == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        assert sequences.shape[1:] == (self.length, 4) and sequences.dtype == np.float32
        columns = np.array(self._tracks) % 3
        mean = np.array([share_of_letters(window)[:, columns] for window in sequences], np.float64)
        return Moments(mean * (np.nan if self.bad else 1), mean * 0 if self._variance else None)
