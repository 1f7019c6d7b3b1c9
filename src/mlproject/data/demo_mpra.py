"""Made-up cell types whose coverage and MPRA follow one grammar: how much each motif counts in each of them.

The motifs are those of `demo.grammar`, and where they are is read from the finished letters, on either strand, so
that chance ones count too. Both measurements of a cell type have the same weights, none of which is below 0:

    coverage   at x = DEPTH * (BASELINE + sum over occurrences of weight * exp(-(x - place)² / (2 SPREAD_BP²))),
               counted in blocks of 16 bp with Poisson noise
    activity   of a sequence = log2(1 + GAIN * sum over its occurrences of weight), + noise of each replicate

MPRA sequences are made as in libraries of synthetic elements: all of one length, with motifs of a few kinds on a grid
of slots, in letters drawn at random. In the genome motifs are anywhere. So a model that learnt from coverage what a
cell type responds to knows its activity as well. Real files are written (FASTA, bigWigs, targets.txt, a table of
activity) and are read like anyone's; `grammar.json` keeps the truth.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from enformer_core import dna
from mlproject.data import demo
from mlproject.data.files import explained, new_folder, read_text
from mlproject.errors import InputError

GRAMMAR = "grammar.json"
CELL_TYPES = tuple(f"demo_{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWX")
RESOLUTION = demo.RESOLUTION  # bp, of the bigWigs

# Weights of motifs in cell types: gamma of mean 1, or none.
COUNTS = 0.5  # chance that a motif counts in a cell type
STRONG = 1.0  # each cell type has such a motif, and each motif such a cell type
ALIKE = (-0.3, 0.6)  # correlation of two cell types' weights, where it can be had
TRIES = 5_000  # draws of weights, of which the best is taken

# Genome.
CHROMOSOME_BP = {chrom: 120_000 for chrom in ("chr1", "chr2", "chr3", "chr4", "chr5")}
VALID, TEST = "chr4", "chr5"
UNKNOWN = (("chr1", 40_000, 40_400), ("chr4", 72_000, 72_208))  # N, without coverage
ACTIVE_BP = INACTIVE_BP = 1_500  # mean length of a stretch
ACTIVE_SPACING, INACTIVE_SPACING = 110, 1_500  # mean bp between motifs

# Coverage.
SPREAD_BP = 60.0  # standard deviation of the bump of a motif
BASELINE = 0.03  # in weights
DEPTH = 25.0  # coverage at a motif of weight 1 that is alone
READS = 1.0  # counts behind one unit of coverage in a block: more is less noise

# MPRA.
SEQUENCES = 1_200
COPIED = 0.1  # of the sequences are copies of another, with changes
CHANGES = 3  # bases of a copy
LENGTH_BP = 150
SLOTS, SLOT_BP = 9, 16  # the grid; 0 to all slots have a motif, any number equally often
KINDS = 3  # most different motifs of a sequence: with all of them in each, cell types would respond alike
GAIN = 1.0
CEILING = 0.95  # correlation of the mean of two replicates with the truth, over sequences and cell types
MISSING = 0.01  # of the values: one replicate has none


class JointGrammar(NamedTuple):
    """What made the data.

    `motifs` are letters, `weights` are `[cell types, motifs]` float64, `gain` turns a sum of weights into activity,
    and coverage is `depth` times `baseline` and bumps of `spread_bp`.
    """

    motifs: tuple[str, ...]
    cell_types: tuple[str, ...]
    weights: np.ndarray
    gain: float
    depth: float
    baseline: float
    spread_bp: float


def demo_joint_inputs(work_dir: str | os.PathLike = "work", seed: int = 0) -> Path:
    """The folder with the demo's files; made at the first call, in seconds.

    They are `genome.fa`; `targets.txt` with a column `cell_type` and its `bigwigs/`; `mpra.tsv` with the columns name,
    sequence, cell_type, activity_rep1 and activity_rep2, a row per sequence and cell type; `grammar.json`.

    Args:
      work_dir: where it is kept, under a name that changes with the seed and with the modules that make it.
      seed: of motifs, weights, sequence and noise.

    Raises:
      InputError: it cannot be written.
    """
    sources = Path(__file__).read_bytes() + Path(str(demo.__file__)).read_bytes()
    version = hashlib.sha256(sources + str(seed).encode()).hexdigest()[:12]
    raw = Path(work_dir) / f"demo-joint-{version}" / "raw"
    with explained(f"work_dir {work_dir}: cannot be written"), new_folder(raw) as partial:
        if partial is not None:
            grammar = make_grammar(seed)
            text = json.dumps(grammar._replace(weights=grammar.weights.tolist())._asdict(), indent=2)  # type: ignore[arg-type]
            (partial / GRAMMAR).write_text(text + "\n")
            _write_tracks(partial, grammar, np.random.default_rng([seed, 301]))
            _write_mpra(partial / "mpra.tsv", grammar, np.random.default_rng([seed, 302]))
    return raw


def read_joint_grammar(folder: str | os.PathLike) -> JointGrammar:
    """The grammar that made the data of a folder of `demo_joint_inputs`.

    Raises:
      InputError: the folder has no such file, or it is damaged.
    """
    path = Path(folder) / GRAMMAR
    try:
        read = json.loads(read_text(path, "grammar"))
        read["weights"] = np.array(read["weights"], np.float64)
        read["motifs"], read["cell_types"] = tuple(read["motifs"]), tuple(read["cell_types"])
        return JointGrammar(**read)
    except (ValueError, TypeError, KeyError):
        raise InputError(f"grammar {path}: is damaged; remove {folder}, and it is made again.") from None


def make_grammar(seed: int) -> JointGrammar:
    """The grammar of the demo of this seed."""
    shared = demo.grammar(seed)
    letters = tuple("".join("ACGT"[base] for base in motif) for motif in shared.motifs)
    weights = _weights(len(letters), np.random.default_rng([seed, 300]))
    return JointGrammar(letters, CELL_TYPES, weights, GAIN, DEPTH, BASELINE, SPREAD_BP)


def motif_counts(sequences: Sequence[str], grammar: JointGrammar) -> np.ndarray:
    """How often each motif occurs in each sequence, on either strand: `[sequences, motifs]` int64.

    Occurrences that overlap count each, and one that is its own reverse complement counts twice. N is in none.
    """
    # One text of all, with an N after each, in which no occurrence goes over a border.
    bases = dna.codes("".join(f"{letters}N" for letters in sequences) + "N" * 64)
    ends = np.cumsum([len(letters) + 1 for letters in sequences])
    counts = np.zeros((len(sequences), len(grammar.motifs)), np.int64)
    for column, motif in enumerate(grammar.motifs):
        places = np.concatenate(demo.occurrences(bases, dna.codes(motif)))
        owners = np.searchsorted(ends, places, "right")
        counts[:, column] = np.bincount(owners, minlength=len(sequences))
    return counts


def expected_activity(sequences: Sequence[str], cell_type: str, grammar: JointGrammar) -> np.ndarray:
    """The activity of sequences of any length in a cell type, without noise: `[sequences]` float64.

    Raises:
      InputError: the grammar has not this cell type.
    """
    if cell_type not in grammar.cell_types:
        raise InputError(f"cell_type {cell_type!r}: the demo has {', '.join(grammar.cell_types)}.")
    weights = grammar.weights[grammar.cell_types.index(cell_type)]
    return np.log2(1 + grammar.gain * (motif_counts(sequences, grammar) @ weights))


def expected_coverage(bases: np.ndarray, grammar: JointGrammar) -> np.ndarray:
    """The coverage of base codes `[L]` without noise: `[cell types, L // RESOLUTION]` float64."""
    blocks = len(bases) // RESOLUTION
    bumps = np.zeros((len(grammar.motifs), blocks))
    peak = math.sqrt(2 * math.pi) * grammar.spread_bp / RESOLUTION  # of a Gaussian whose sum is 1, to 1
    for row, motif in enumerate(grammar.motifs):
        places = np.concatenate(demo.occurrences(bases, dna.codes(motif))) + len(motif) // 2
        density = np.bincount(places // RESOLUTION, minlength=blocks)[:blocks]
        bumps[row] = peak * demo.spread(density, grammar.spread_bp)
    return grammar.depth * (grammar.baseline + grammar.weights @ bumps)


def _weights(motifs: int, rng: np.random.Generator) -> np.ndarray:
    """Weights `[cell types, motifs]` float64: of `TRIES` draws the one whose correlations leave `ALIKE` least."""
    above = np.triu_indices(len(CELL_TYPES), 1)
    best, least = np.zeros((len(CELL_TYPES), motifs)), math.inf
    for _ in range(TRIES):
        weights = rng.gamma(2.0, 0.5, best.shape) * (rng.random(best.shape) < COUNTS)
        strong = weights >= STRONG
        # a cell type with the same weight of every motif has no correlation
        if strong.any(axis=0).all() and strong.any(axis=1).all() and weights.std(axis=1).all():
            alike = np.asarray(np.corrcoef(weights))[above]
            outside = float(((alike - np.clip(alike, *ALIKE)) ** 2).sum())
            if outside < least:
                best, least = weights.round(3), outside
    assert least < math.inf  # some draws are strong enough
    return best


def _write_tracks(folder: Path, grammar: JointGrammar, rng: np.random.Generator) -> None:
    """`genome.fa`, `targets.txt` and the bigWigs."""
    sequences = {chrom: _chromosome(length, grammar, rng) for chrom, length in CHROMOSOME_BP.items()}
    for chrom, start, end in UNKNOWN:
        sequences[chrom][start:end] = 4
    demo.write_fasta(folder / "genome.fa", sequences)
    (folder / "bigwigs").mkdir()
    coverage = {chrom: expected_coverage(bases, grammar) for chrom, bases in sequences.items()}
    rows = []
    for index, cell_type in enumerate(grammar.cell_types):
        name = f"bigwigs/{cell_type}.bw"
        blocks = {chrom: rng.poisson(READS * rows[index]) / READS for chrom, rows in coverage.items()}
        demo.write_bigwig(folder / name, blocks, UNKNOWN)
        rows.append(
            {
                "index": index,
                "genome": 0,
                "identifier": f"{cell_type}_ATAC",
                "file": name,
                "clip": 384,
                "scale": 1,
                "sum_stat": "mean",
                "strand_pair": index,
                "description": f"ATAC:{cell_type}",
                "cell_type": cell_type,
            }
        )
    pd.DataFrame(rows).to_csv(folder / "targets.txt", sep="\t", index=False)


def _chromosome(length: int, grammar: JointGrammar, rng: np.random.Generator) -> np.ndarray:
    """Base codes `[length]` uint8: active and inactive stretches by turns, with motifs written over them."""
    bases, active = demo.background(length, ACTIVE_BP, INACTIVE_BP, rng)
    rate = 1 / (np.where(active, ACTIVE_SPACING, INACTIVE_SPACING) * len(grammar.motifs))
    for motif in grammar.motifs:
        demo.plant(bases, dna.codes(motif), rate, rng)
    return bases


def _write_mpra(path: Path, grammar: JointGrammar, rng: np.random.Generator) -> None:
    """The table of activity, a row per sequence and cell type."""
    originals = round(SEQUENCES * (1 - COPIED))
    sequences = {f"mpra_{n:04d}": _sequence(grammar, rng) for n in range(1, originals + 1)}
    chosen = rng.choice(originals, SEQUENCES - originals, replace=False)
    for name in [list(sequences)[n] for n in np.sort(chosen)]:
        bases = sequences[name].copy()
        places = rng.choice(len(bases), CHANGES, replace=False)
        bases[places] = (bases[places] + rng.integers(1, 4, CHANGES)) % 4
        sequences[f"{name}_copy"] = bases
    letters = [np.frombuffer(b"ACGT", np.uint8)[bases].tobytes().decode() for bases in sequences.values()]
    truth = np.stack([expected_activity(letters, cell, grammar) for cell in grammar.cell_types], axis=1)
    # The mean of two replicates with this noise has a share CEILING² of its variance from the truth.
    noise = truth.std() * math.sqrt(2 * (1 / CEILING**2 - 1))
    measured = truth[..., None] + noise * rng.standard_normal((*truth.shape, 2))
    absent = (rng.random(truth.shape) < MISSING)[..., None] & (
        rng.integers(0, 2, truth.shape)[..., None] == [0, 1]
    )
    lines = ["name\tsequence\tcell_type\tactivity_rep1\tactivity_rep2"]
    for row, name in enumerate(sequences):
        for column, cell_type in enumerate(grammar.cell_types):
            words = [
                "NA" if gone else f"{value:.4f}"
                for value, gone in zip(measured[row, column], absent[row, column], strict=True)
            ]
            lines.append("\t".join([name, letters[row], cell_type, *words]))
    path.write_text("\n".join(lines) + "\n")


def _sequence(grammar: JointGrammar, rng: np.random.Generator) -> np.ndarray:
    """Base codes of one sequence, `[LENGTH_BP]` uint8, with motifs on either strand in the middle of some slots."""
    gc = (demo.ACTIVE_GC + demo.INACTIVE_GC) / 2
    bases = rng.choice(4, LENGTH_BP, p=[(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]).astype(np.uint8)
    kinds = rng.permutation(len(grammar.motifs))[: rng.integers(1, KINDS + 1)]
    for slot in rng.permutation(SLOTS)[: rng.integers(SLOTS + 1)]:
        motif = dna.codes(grammar.motifs[rng.choice(kinds)])
        at = (LENGTH_BP - SLOTS * SLOT_BP) // 2 + slot * SLOT_BP + (SLOT_BP - len(motif)) // 2
        bases[at : at + len(motif)] = motif if rng.random() < 0.5 else 3 - motif[::-1]
    return bases
