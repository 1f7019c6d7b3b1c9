"""A toy genome with three bigWigs, and the places of real data where there are any."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyBigWig
import pytest

SHARED = Path(__file__).parents[4] / "shared" / "data"
LENGTHS = {"c1": 9_000, "c2": 5_000, "c3": 4_000}


class Toy(NamedTuple):
    """Paths of the inputs, and what was put in them."""

    folder: Path
    fasta: Path
    targets: Path
    letters: dict[str, str]
    signal: dict[str, np.ndarray]  # chromosome -> [tracks, length], NaN where the bigWig has nothing

    def build(self, output: Path, **options):
        """`tracks.build` with sizes that fit the toy."""
        from mlproject.data.tracks import build, check

        chosen = {
            "sequence_length": 1024,
            "crop_bp": 128,
            "valid": ["c2"],
            "test": ["c3"],
            "examples_per_shard": 4,
            "work_dir": self.folder / "work",
            "regions_bed": None,
            "fasta": self.fasta,
            "targets_path": self.targets,
        } | options
        workers = chosen.pop("workers", 1)
        inputs = check(
            output,
            "toy",
            chosen.pop("fasta"),
            chosen.pop("regions_bed"),
            chosen.pop("targets_path"),
            **chosen,
        )
        return build(inputs, workers=workers)


def write_bigwig(path: Path, lengths: dict[str, int], signal: dict[str, np.ndarray]) -> None:
    """Write per-base values; NaN positions are left out."""
    file = pyBigWig.open(str(path), "w")
    file.addHeader(list(lengths.items()))
    for chrom in lengths:
        there = np.flatnonzero(~np.isnan(signal[chrom]))
        if len(there):
            values = signal[chrom][there].astype(float).tolist()
            file.addEntries([chrom] * len(there), there.tolist(), ends=(there + 1).tolist(), values=values)
    file.close()


def make_toy(folder: Path) -> Toy:
    """Write the toy's files."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    letters = {chrom: "".join(rng.choice(list("ACGTacgt"), n)) for chrom, n in LENGTHS.items()}
    letters["c1"] = letters["c1"][:300] + "N" * 50 + letters["c1"][350:]
    fasta = folder / "toy.fa"
    fasta.write_text("".join(f">{c}\n{s[:60]}\n{_rows(s[60:])}\n" for c, s in letters.items()))
    signal = {chrom: rng.gamma(0.5, 2.0, (3, n)).astype(np.float32) for chrom, n in LENGTHS.items()}
    for chrom in signal:
        signal[chrom][1, rng.random(signal[chrom].shape[1]) < 0.4] = np.nan
    for track in range(3):
        write_bigwig(folder / f"{track}.bw", LENGTHS, {chrom: signal[chrom][track] for chrom in LENGTHS})
    targets = folder / "targets.txt"
    targets.write_text(
        "index\tidentifier\tfile\tclip\tclip_soft\tscale\tsum_stat\tstrand_pair\tdescription\n"
        "0\tone\t0.bw\t\t\t1\tsum\t0\tDNASE:one\n"
        "1\tNA\t1.bw\t9\t5\t0.5\tmean_sqrt\t2\tCAGE:two +\n"
        "2\t007\t2.bw\t11.5\t10\t2\tsum_sqrt\t1\tCAGE:two -\n"
    )
    return Toy(folder, fasta, targets, letters, signal)


def _rows(letters: str) -> str:
    return "\n".join(letters[at : at + 60] for at in range(0, len(letters), 60))


@pytest.fixture
def toy(tmp_path) -> Toy:
    return make_toy(tmp_path / "toy")


@pytest.fixture(scope="session")
def toy_dataset(tmp_path_factory):
    """The toy built: 10 train windows, 6 valid, 4 test, of 6 bins of 128 bp and 3 tracks."""
    from mlproject.data.records import open_dataset

    folder = tmp_path_factory.mktemp("toy_dataset")
    make_toy(folder / "toy").build(folder / "data", max_train=10)
    return open_dataset(folder / "data", "toy")


@pytest.fixture
def bigwig_writer():
    return write_bigwig


def _shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not beside this checkout (../shared/data)")
    return SHARED / name


@pytest.fixture
def yeast() -> Path:
    return _shared("yeast")


@pytest.fixture
def baskerville() -> Path:
    return _shared("baskerville_tiny")


@pytest.fixture
def sox2_payloads() -> Path:
    return _shared("sox2_payloads")


@pytest.fixture
def published_targets() -> Path:
    return _shared("targets")


@pytest.fixture
def crx_mpra() -> Path:
    return _shared("crx_mpra")
