"""A small made-up genome whose signal follows planted motifs: what `data=demo` means.

A chromosome is a row of active and inactive stretches. Active ones are richer in G and C and dense in short
motifs. Each track is a sum over motif occurrences, on either strand, as they really are in the sequence:

    DNASE, ATAC   every motif counts, with weights of the cell type, spread over a few hundred bp
    CHIP          some motifs count, spread over a kilobase
    CAGE          a promoter motif counts, on its own strand, if the cell's enhancer motif is 2 to 6 kb away

Real files are written (FASTA, BED, bigWigs, targets.txt) and go through `tracks.build` like anyone's.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mlproject.data.files import explained, new_folder
from mlproject.data.tracks import build, check

# Geometry, in bp.
SEQUENCE_LENGTH = 16_384
CROP_BP = 1_024  # eight bins of 128 bp at either end
TARGET_BP = SEQUENCE_LENGTH - 2 * CROP_BP
RESOLUTION = 16  # of the bigWigs

# The chromosomes of each organism: name -> windows that fit on it.
CHROMOSOMES = {
    "human": {"chr1": 32, "chr2": 32, "chr3": 32, "chr4": 16, "chr5": 32},
    "mouse": {"chr1": 24, "chr2": 24, "chr3": 8, "chr4": 16},
}
VALID = {"human": "chr4", "mouse": "chr3"}
TEST = {"human": "chr5", "mouse": "chr4"}
CELLS = {"human": 4, "mouse": 2}
UNKNOWN = ("chr1", 200_000, 200_400)  # a stretch of N without signal

# Sequence.
ACTIVE_BP, INACTIVE_BP = 2_500, 6_000  # mean length of a stretch
ACTIVE_GC, INACTIVE_GC = 0.48, 0.42
MOTIFS = 6
MOTIF_BP = (7, 8, 9, 10, 11, 12)
MOTIF_GC = 0.5
ACTIVE_SPACING, INACTIVE_SPACING = 80, 3_000  # mean bp between motifs
PROMOTER_BP = ENHANCER_BP = 12
PROMOTER_SPACING = 800  # in active stretches
ENHANCER_SPACING = 12_000  # anywhere

# Signal. Strengths are mean values of a 128-bp bin before `sum_stat`'s square root.
ACCESSIBLE_SPREAD, DOMAIN_SPREAD, START_SPREAD = 150, 1_000, 100  # standard deviation, bp
ENHANCER_REACH = (2_000, 6_000)
BASELINE = 0.1  # of the mean, everywhere
LONE_PROMOTER = 0.1  # of a promoter with an enhancer
STRENGTH = {"DNASE": 1.0, "ATAC": 1.5, "CHIP": 2.0, "CAGE": 3.0}
SUM_STAT = {"DNASE": "mean", "ATAC": "mean", "CHIP": "sum", "CAGE": "sum_sqrt"}
READS = 8  # counts behind one unit of signal: more is less noise


class Grammar(NamedTuple):
    """The motifs, shared by both organisms, as base codes."""

    motifs: list[np.ndarray]
    promoter: np.ndarray
    enhancers: list[np.ndarray]


def demo_dataset(work_dir: str | os.PathLike = "work", seed: int = 0) -> Path:
    """The folder of the demo dataset, with `human` and `mouse`; made at the first call, in a few seconds.

    Several processes may ask at once; one makes it.

    Args:
      work_dir: where it is kept, under a name that changes with the seed and with this module.
      seed: of sequence, weights and noise.
    """
    raw = demo_inputs(work_dir, seed)
    folder = raw.parent
    for organism in CHROMOSOMES:
        if not (folder / organism / "manifest.json").exists():
            inputs = check(
                folder,
                organism,
                raw / organism / "genome.fa",
                raw / organism / "regions.bed",
                raw / organism / "targets.txt",
                sequence_length=SEQUENCE_LENGTH,
                crop_bp=CROP_BP,
                valid=[VALID[organism]],
                test=[TEST[organism]],
                seed=seed,
                work_dir=work_dir,
            )
            build(inputs)
    return folder


def demo_inputs(work_dir: str | os.PathLike = "work", seed: int = 0) -> Path:
    """The folder with `ORGANISM/genome.fa`, `regions.bed`, `targets.txt`, `bigwigs/`; made at first call."""
    version = hashlib.sha256(Path(__file__).read_bytes() + str(seed).encode()).hexdigest()[:12]
    raw = Path(work_dir) / f"demo-{version}" / "raw"
    with explained(f"work_dir {work_dir}: cannot be written"), new_folder(raw) as partial:
        if partial is not None:
            for number, organism in enumerate(CHROMOSOMES):
                _write_organism(partial / organism, organism, seed, number)
    return raw


def grammar(seed: int) -> Grammar:
    """The motifs of the demo of this seed."""
    rng = np.random.default_rng([seed, 0])
    probability = [(1 - MOTIF_GC) / 2, MOTIF_GC / 2, MOTIF_GC / 2, (1 - MOTIF_GC) / 2]

    def motif(length: int) -> np.ndarray:
        return rng.choice(4, length, p=probability).astype(np.uint8)

    return Grammar(
        [motif(MOTIF_BP[i % len(MOTIF_BP)]) for i in range(MOTIFS)],
        motif(PROMOTER_BP),
        [motif(ENHANCER_BP) for _ in range(max(CELLS.values()) // 2)],
    )


def _write_organism(folder: Path, organism: str, seed: int, number: int) -> None:
    shared = grammar(seed)
    rng = np.random.default_rng([seed, 1 + number])
    lengths = {chrom: n * TARGET_BP + 2 * CROP_BP for chrom, n in CHROMOSOMES[organism].items()}
    sequences = {chrom: _sequence(length, shared, rng) for chrom, length in lengths.items()}
    chrom, start, end = UNKNOWN
    sequences[chrom][start:end] = 4
    signals = {chrom: _signals(bases, shared, organism, seed, number) for chrom, bases in sequences.items()}
    (folder / "bigwigs").mkdir(parents=True)
    write_fasta(folder / "genome.fa", sequences)
    bed = "".join(f"{chrom}\t0\t{length}\n" for chrom, length in lengths.items())
    (folder / "regions.bed").write_text(bed)
    table = _tracks(organism)
    for track, row in table.iterrows():
        assay = row["description"].partition(":")[0]
        per_bp = STRENGTH[assay] / (1 if SUM_STAT[assay] == "mean" else 128)
        mean = np.concatenate([signals[chrom][track] for chrom in lengths]).mean()
        blocks = {}
        for chrom in lengths:
            expected = (signals[chrom][track] / mean + BASELINE) / (1 + BASELINE)
            reads = rng.poisson(expected * READS * RESOLUTION / 128) * (128 / RESOLUTION / READS)
            blocks[chrom] = reads * per_bp
        write_bigwig(folder / row["file"], blocks, [UNKNOWN])
    table.to_csv(folder / "targets.txt", sep="\t", index=False)


def write_fasta(path: Path, sequences: dict[str, np.ndarray]) -> None:
    """Base codes by chromosome as FASTA, N where they are 4."""
    with open(path, "w", encoding="ascii") as fasta:
        for chrom, bases in sequences.items():
            letters = np.frombuffer(b"ACGTN", np.uint8)[bases].tobytes().decode()
            lines = [letters[at : at + 60] for at in range(0, len(letters), 60)]
            fasta.write(f">{chrom}\n" + "\n".join(lines) + "\n")


def write_bigwig(
    path: Path, blocks: dict[str, np.ndarray], unknown: Sequence[tuple[str, int, int]] = ()
) -> None:
    """Values of blocks of `RESOLUTION` bp, which are the whole of each chromosome, as a bigWig.

    Args:
      path: to write.
      blocks: by chromosome.
      unknown: ascending stretches, chromosome, start and end on the borders of blocks, without values.
    """
    import pyBigWig

    file = pyBigWig.open(str(path), "w")
    file.addHeader([(chrom, RESOLUTION * len(values)) for chrom, values in blocks.items()])
    for chrom, values in blocks.items():
        gaps = [(start // RESOLUTION, end // RESOLUTION) for name, start, end in unknown if name == chrom]
        firsts = [0, *(end for _, end in gaps)]
        lasts = [*(start for start, _ in gaps), len(values)]
        for first, last in zip(firsts, lasts, strict=True):
            file.addEntries(
                chrom,
                first * RESOLUTION,
                values=values[first:last].tolist(),
                span=RESOLUTION,
                step=RESOLUTION,
            )
    file.close()


def _tracks(organism: str) -> pd.DataFrame:
    rows: list[dict] = []
    cells = CELLS[organism]
    for assay in ("DNASE", "ATAC", "CHIP", "CAGE"):
        for n in range(cells):
            index = len(rows)
            stranded = assay == "CAGE"
            cell = "ABCD"[n // 2 if stranded else n]
            name = f"{organism}_{assay}_{cell}" + ("+-"[n % 2] if stranded else "")
            kind = "H3K27ac:demo cell" if assay == "CHIP" else "demo cell"
            rows.append(
                {
                    "index": index,
                    "genome": list(CHROMOSOMES).index(organism),
                    "identifier": name,
                    "file": f"bigwigs/{index:02d}.bw",
                    "clip": 384 if stranded else 32,
                    "scale": 1,
                    "sum_stat": SUM_STAT[assay],
                    "strand_pair": (index ^ 1) if stranded else index,
                    "description": f"{assay}:{kind} {cell}",
                }
            )
    return pd.DataFrame(rows)


def background(
    length: int, active_bp: int, inactive_bp: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Base codes `[length]` uint8 without motifs, and where they are active, `[length]` bool: stretches by turns.

    Args:
      length: bp.
      active_bp, inactive_bp: mean length of a stretch.
      rng: draws them.
    """
    stretches = 2 * length // (active_bp + inactive_bp) + 20
    means = np.where(np.arange(stretches) % 2, active_bp, inactive_bp)
    spans = (means * rng.gamma(2.0, 0.5, stretches)).astype(int) + 1
    active = np.repeat(np.arange(stretches) % 2 == 1, spans)
    while len(active) < length:
        active = np.concatenate([active, active])
    active = active[:length]
    strong = rng.random(length) < np.where(active, ACTIVE_GC, INACTIVE_GC)
    one_or_other = rng.integers(0, 2, length)
    return np.where(strong, 1 + one_or_other, 3 * one_or_other).astype(np.uint8), active


def _sequence(length: int, grammar: Grammar, rng: np.random.Generator) -> np.ndarray:
    """Base codes `[length]` uint8: stretches by turns, then motifs written over them."""
    bases, active = background(length, ACTIVE_BP, INACTIVE_BP, rng)
    spacing = np.where(active, ACTIVE_SPACING, INACTIVE_SPACING) * MOTIFS
    for motif in grammar.motifs:
        plant(bases, motif, 1 / spacing, rng)
    for enhancer in grammar.enhancers:
        plant(bases, enhancer, np.full(length, 1 / ENHANCER_SPACING), rng)
    plant(bases, grammar.promoter, active / PROMOTER_SPACING, rng)
    return bases


def plant(bases: np.ndarray, motif: np.ndarray, rate: np.ndarray, rng: np.random.Generator) -> None:
    """Write the motif, on either strand, over the bases at random places.

    Args:
      bases: base codes `[L]`, changed in place.
      motif: base codes.
      rate: how likely it starts at each position, `[L]`.
      rng: draws the places.
    """
    places = np.flatnonzero(rng.random(len(bases) - len(motif)) < rate[: -len(motif)])
    flipped = rng.random(len(places)) < 0.5
    for letters, chosen in ((motif, places[~flipped]), (3 - motif[::-1], places[flipped])):
        bases[chosen[:, None] + np.arange(len(motif))] = letters


def occurrences(bases: np.ndarray, motif: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the motif starts on the forward strand, and where its reverse complement does."""
    windows = np.lib.stride_tricks.sliding_window_view(bases, len(motif))
    found = []
    for letters in (motif, 3 - motif[::-1]):
        places = np.flatnonzero(bases[: len(windows)] == letters[0])
        for offset in range(1, len(letters)):
            places = places[bases[places + offset] == letters[offset]]
        found.append(places)
    return found[0], found[1]


def _signals(bases: np.ndarray, grammar: Grammar, organism: str, seed: int, number: int) -> np.ndarray:
    """Expected signal per block of `RESOLUTION` bp: `[tracks, blocks]` float64, tracks as in `_tracks`."""
    blocks = len(bases) // RESOLUTION
    cells = CELLS[organism]
    rng = np.random.default_rng([seed, 100 + number])
    weights = rng.gamma(2.0, 0.5, (cells, MOTIFS))  # how much each motif opens each cell type
    marked = rng.random((cells, MOTIFS)) < 0.5  # which motifs carry each cell's mark
    marked[:, 0] = True
    places = [np.concatenate(occurrences(bases, motif)) for motif in grammar.motifs]
    density = np.stack([np.bincount(p // RESOLUTION, minlength=blocks)[:blocks] for p in places])
    opened = weights @ density
    signals = [spread(row, ACCESSIBLE_SPREAD) for row in opened]
    signals += [spread(row, 1.5 * ACCESSIBLE_SPREAD) for row in opened]
    signals += [spread(row, DOMAIN_SPREAD) for row in (weights * marked) @ density]
    starts = occurrences(bases, grammar.promoter)
    for cell in range(cells // 2):
        enhancers = np.sort(np.concatenate(occurrences(bases, grammar.enhancers[cell])))
        for strand in range(2):
            fires = np.where(_near(starts[strand], enhancers), 1.0, LONE_PROMOTER)
            row = np.bincount(starts[strand] // RESOLUTION, weights=fires, minlength=blocks)[:blocks]
            signals.append(spread(row, START_SPREAD))
    return np.stack(signals)


def _near(places: np.ndarray, enhancers: np.ndarray) -> np.ndarray:
    """Whether an enhancer lies within `ENHANCER_REACH` of each place, on either side."""
    low, high = ENHANCER_REACH

    def between(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        return np.searchsorted(enhancers, last, "right") > np.searchsorted(enhancers, first, "left")

    return between(places + low, places + high) | between(places - high, places - low)


def spread(row: np.ndarray, spread_bp: float) -> np.ndarray:
    """A value per block of `RESOLUTION` bp smoothed by a Gaussian of sum 1, with this standard deviation."""
    sd = spread_bp / RESOLUTION
    offsets = np.arange(-int(4 * sd), int(4 * sd) + 1)
    kernel = np.exp(-0.5 * (offsets / sd) ** 2)
    return np.convolve(row, kernel / kernel.sum(), "same")
