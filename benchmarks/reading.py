"""Reading and decoding records of the published shape: our batches against inflating the same files alone.

    python benchmarks/reading.py

Windows are of 131,072 bp, 896 bins and 5,313 tracks, and are more than batches keep in memory, so that they come from
disk, shuffled as in training, one a batch. Values are made up: Poisson counts times a scale for each track, an eighth
of the tracks nearly empty. They compress about as well as the published data seem to: 320 GB, says the README of
deepmind-research/enformer, for what is 500 GB uncompressed. The files are in the page cache.

The reference is Python's `zlib` inflating the same shards, one thread for each, and nothing else. Our reader inflates
with zlib-ng; what that does alone is printed too. A reader is good enough if it gives ten records a second, or 0.8 of
what `zlib` gives alone. Everything is measured in turn, three times, and the best is taken.
"""

import itertools
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from measuring import ROOT

SHARDS, WINDOWS = 4, 16  # of each shard; all together are more than `batches.MEMORY_BUDGET`
LENGTH_BP, BINS, BIN_SIZE_BP, TRACKS = 131_072, 896, 128, 5313
ROUNDS = 3
LIMIT_RECORDS, LIMIT_SHARE = 10, 0.8


def windows(random: np.random.Generator) -> Iterator[Any]:
    """Examples without end, of coverage whose bins and tracks go together."""
    from mlproject.data.records import Example

    scale = random.uniform(0.5, 2, TRACKS) / 64
    depth = 0.5 * random.lognormal(0, 1.5, TRACKS)
    depth[random.random(TRACKS) < 0.12] = 0.003
    while True:
        region = random.standard_gamma(1.0, (BINS, 1))
        region += 0.3 + np.roll(region, 1, axis=0)
        reads = random.poisson(depth * region)
        reads += np.roll(reads, 1, axis=0)
        codes = random.integers(0, 4, LENGTH_BP, dtype=np.uint8)
        yield Example(codes, (scale * reads).astype(np.float16))


def write(folder: Path) -> None:
    """A dataset of one organism: one shard of made-up windows, and copies of it."""
    from mlproject.data.records import Statistics, write_shard

    shards = [folder / "tfrecords" / f"train-{number}.tfr" for number in range(SHARDS)]
    shards[0].parent.mkdir(parents=True)
    write_shard(shards[0], itertools.islice(windows(np.random.default_rng(0)), WINDOWS))
    for shard in shards[1:]:
        shutil.copy(shards[0], shard)
    crop_bp = (LENGTH_BP - BINS * BIN_SIZE_BP) // 2
    statistics = Statistics(TRACKS, LENGTH_BP, BINS, BIN_SIZE_BP, crop_bp, SHARDS * WINDOWS)
    statistics.write(folder / "statistics.json")
    rows = [f"{track}\tt{track}\tt{track}.bw\t\t1\tmean\tDNASE:{track}" for track in range(TRACKS)]
    header = "index\tidentifier\tfile\tclip\tscale\tsum_stat\tdescription"
    (folder / "targets.txt").write_text("\n".join([header, *rows, ""]))


def inflate(shard: Path, decompressor: Any) -> None:
    """Inflates a file in pieces and keeps none of them."""
    with open(shard, "rb") as file:
        while not decompressor.eof:
            decompressor.decompress(decompressor.unconsumed_tail or file.read(1 << 20), 8 << 20)


def main() -> int:
    sys.path.insert(0, str(ROOT / "src"))
    from zlib_ng import zlib_ng

    from mlproject.data.batches import training_batches
    from mlproject.data.records import TrackDataset, open_dataset

    def seconds_alone(shards: list[Path], library: Any) -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(len(shards)) as pool:
            list(pool.map(lambda shard: inflate(shard, library.decompressobj()), shards))
        return time.perf_counter() - began

    def seconds_of_a_pass(dataset: TrackDataset, **options: Any) -> float:
        stream = training_batches(dataset, batch_size=1, work_dir=dataset.folder, **options)
        began = time.perf_counter()
        for _ in itertools.islice(stream, dataset.count("train")):
            pass
        return time.perf_counter() - began

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "human")
        dataset = open_dataset(folder, "human")
        shards, count = dataset.shards("train"), dataset.count("train")
        statistics = dataset.statistics
        window_bytes = 4 * statistics.seq_length + 2 * statistics.target_length * statistics.num_targets
        ratio = count * window_bytes / sum(shard.stat().st_size for shard in shards)
        rounds = [
            (
                seconds_alone(shards, zlib),
                seconds_alone(shards, zlib_ng),
                seconds_of_a_pass(dataset, seed=seed),
                seconds_of_a_pass(dataset, seed=seed, reverse_complement=True, max_shift=3),
            )
            for seed in range(ROUNDS)
        ]
    reference, own, *found = (count / min(seconds) for seconds in zip(*rounds, strict=True))
    print(
        f"{count} windows, compressed {ratio:.2f} times, in {len(shards)} shards; inflating alone: ", end=""
    )
    print(f"{reference:.1f} records/s with zlib, {own:.1f} with zlib-ng")
    met = True
    for name, rate in zip(("as stored", "either strand, shifted"), found, strict=True):
        enough = rate >= LIMIT_RECORDS or rate >= LIMIT_SHARE * reference
        met &= enough
        print(
            f"{name}: {rate:.1f} records/s, {rate / reference:.2f} of zlib alone (reference {reference:.1f}, "
            f"limit {LIMIT_RECORDS} records/s or {LIMIT_SHARE}): {'met' if enough else 'NOT met'}"
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
