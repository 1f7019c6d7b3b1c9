"""Building a dataset from a FASTA and bigWigs: ours against reading window by window, as published code does.

    python benchmarks/dataset_building.py

Windows are of 25,600 bp in bins of 128 bp. The reference reads the same windows of the same tracks in the same order
on one core, as published fine-tuning code does: pyBigWig, opened once, gives the values of a window; missing ones
become its median (which is NaN, made 0, where values are missing: so both count them as 0); bins are means, scaled,
clipped, float16. The sequence is fetched with pyfaidx, one-hot in float16; batches of both go into HDF5 files with
h5py's gzip and its own choice of chunks. Our build is timed from the check of its inputs to the last flush. Inputs
are in the page cache. The targets of both must agree to 1e-3.

- dense: made up, coverage by fragments of 150 bp, which changes every 7 bp and has no gaps; a window starts every
  6,400 bp, so that windows overlap, as random ones do
- apart: the same, but windows only touch and share nothing; without a limit, since most of the work of both is then
  to inflate the blocks of the bigWigs
- yeast: where ../shared/data/yeast is there; start sites, sparse

Everything is measured in turn, and the best of each counts. One core against one is in the seconds that the process
had a core, so that what else runs on the machine counts little. Two cores against one are in seconds of the clock.
On a machine whose second core is a second thread, or busy, no program gains 1.8: what two builds at once gain that know
nothing of each other is printed beside it.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from measuring import ROOT, case_of, in_child

LENGTH_BP, BIN_SIZE_BP, STRIDE_BP = 25_600, 128, 6_400
CLIP = 384.0
TRACKS, DISTINCT, FRAGMENT_BP = 12, 2, 150
MILLIONS = {
    "one": 20,
    "two": 20,
    "three": 20,
    "four": 20,
    "five": 2,
    "six": 2,
}  # bp; the last for valid and test
CHROMOSOMES = {chrom: millions * 1_000_000 for chrom, millions in MILLIONS.items()}
QUARTER = {"one": 12_000_000, "five": 2_000_000, "six": 2_000_000}
ALPHABET = "ACGT"
REFERENCE_WINDOWS = 1_024  # the reference is as fast at any number of windows
BATCH, EVERY = 32, 16  # every so many windows are compared
ROUNDS = 3
LIMIT, LIMIT_TWO, LIMIT_MEMORY, TOLERANCE = 5.0, 1.8, 1.05, 1e-3
YEAST = ROOT.parent / "shared" / "data" / "yeast"


class Inputs(NamedTuple):
    """What both sides read."""

    folder: Path  # of targets.txt
    fasta: Path
    regions: Path
    valid: str
    test: str
    bigwigs: list[Path]

    def checked(self, output: Path, stride: int) -> Any:
        """Our checked inputs of a build."""
        from mlproject.data.tracks import check

        return check(
            output, "made", self.fasta, self.regions, self.folder / "targets.txt",
            sequence_length=LENGTH_BP, crop_bp=0, stride=stride, valid=[self.valid], test=[self.test],
            work_dir=self.folder / "work",
        )  # fmt: skip


def write_dense(folder: Path) -> Inputs:
    """A made-up genome with tracks of coverage."""
    import pyBigWig

    random = np.random.default_rng(0)
    with open(folder / "genome.fa", "w") as fasta:
        for chrom, length in CHROMOSOMES.items():
            letters = np.frombuffer(ALPHABET.encode(), np.uint8)[random.integers(0, 4, (length // 80, 80))]
            lines = np.concatenate([letters, np.full((len(letters), 1), ord("\n"), np.uint8)], axis=1)
            fasta.write(f">{chrom}\n{lines.tobytes().decode()}")
    bigwigs = [folder / f"{track}.bw" for track in range(TRACKS)]
    for path in bigwigs[:DISTINCT]:
        file = pyBigWig.open(str(path), "w")
        file.addHeader(list(CHROMOSOMES.items()))
        for chrom, length in CHROMOSOMES.items():
            density = np.repeat(random.gamma(2, 0.04, length // 2_000), 2_000)
            begins = random.poisson(density)
            coverage = begins.copy()
            coverage[FRAGMENT_BP:] -= begins[:-FRAGMENT_BP]
            coverage = coverage.cumsum()
            starts = np.flatnonzero(np.diff(coverage, prepend=-1))
            ends = np.append(starts[1:], length)
            file.addEntries(np.full(len(starts), chrom), starts, ends=ends, values=0.137 * coverage[starts])
        file.close()
    for track, path in enumerate(bigwigs[DISTINCT:]):
        shutil.copy(bigwigs[track % DISTINCT], path)
    (folder / "regions.bed").write_text("".join(f"{c}\t0\t{n}\n" for c, n in CHROMOSOMES.items()))
    (folder / "quarter.bed").write_text("".join(f"{c}\t0\t{n}\n" for c, n in QUARTER.items()))
    return _with_table(Inputs(folder, folder / "genome.fa", folder / "regions.bed", "five", "six", bigwigs))


def write_yeast(folder: Path) -> Inputs:
    """The yeast genome, decompressed, with a table of its start sites."""
    import gzip

    import pyBigWig

    (packed,) = YEAST.glob("*.fa.gz")
    (folder / "genome.fa").write_bytes(gzip.decompress(packed.read_bytes()))
    bigwigs = sorted((YEAST / "stripeseq").glob("*.bw"))
    shared = set.intersection(*(set(pyBigWig.open(str(path)).chroms().items()) for path in bigwigs))
    regions = "".join(f"{chrom}\t0\t{length}\n" for chrom, length in sorted(shared) if length > 2 * LENGTH_BP)
    (folder / "regions.bed").write_text(regions)
    return _with_table(Inputs(folder, folder / "genome.fa", folder / "regions.bed", "II", "XVI", bigwigs))


def _with_table(inputs: Inputs) -> Inputs:
    rows = [f"{path.stem}\t{path}\t{CLIP}\tmean\tATAC:{path.stem}\n" for path in inputs.bigwigs]
    (inputs.folder / "targets.txt").write_text(
        "identifier\tfile\tclip\tsum_stat\tdescription\n" + "".join(rows)
    )
    return inputs


class Reference:
    """Reads and writes window by window."""

    def __init__(self, inputs: Inputs) -> None:
        import pyBigWig
        import pyfaidx

        self._files = [pyBigWig.open(str(path)) for path in inputs.bigwigs]
        self._fasta = pyfaidx.Fasta(str(inputs.fasta))
        self._one_hot = np.zeros((256, 4), np.float16)
        self._one_hot[[ord(letter) for letter in ALPHABET], range(4)] = 1

    def target(self, chrom: str, start: int, end: int) -> np.ndarray:
        """`[bins, tracks]` float16."""
        tracks = []
        for file in self._files:
            values = file.values(chrom, start, end, numpy=True)
            median = np.nan_to_num(np.percentile(values, 50))
            values[np.isnan(values)] = median
            means = np.mean(values.reshape(-1, BIN_SIZE_BP), axis=1, dtype=np.float32) * np.float32(1)
            limit = np.finfo(np.float16).max
            tracks.append(np.clip(np.clip(means, -CLIP, CLIP), -limit, limit).astype(np.float16))
        return np.stack(tracks, axis=-1)

    def sequence(self, chrom: str, start: int, end: int) -> np.ndarray:
        """`[length, 4]` float16."""
        letters = str(self._fasta[chrom][start:end]).upper()
        return self._one_hot[np.frombuffer(letters.encode(), np.uint8)]

    def build(self, windows: Sequence[Any], folder: Path) -> None:
        """Write the windows as HDF5."""
        import h5py

        for number, first in enumerate(range(0, len(windows), BATCH)):
            batch = [(w.chrom, w.start, w.end) for w in windows[first : first + BATCH]]
            with h5py.File(folder / f"{number}.h5", "w") as file:
                sequences = np.stack([self.sequence(*window) for window in batch])
                file.create_dataset("sequence", data=sequences, compression="gzip")
                targets = np.stack([self.target(*window) for window in batch])
                file.create_dataset("target", data=targets, compression="gzip")


def read_targets(checked: Any, windows: Sequence[Any]) -> Iterator[np.ndarray]:
    """Our targets of the windows, `[bins, tracks]` each."""
    from mlproject.data.shards import stretches
    from mlproject.data.signals import SignalReader

    reader = SignalReader(checked.plan.targets, checked.plan.bigwigs)
    for group in stretches(windows, lambda window: window):
        starts = [window.start for window in group]
        yield from reader.read(group[0].chrom, starts, LENGTH_BP, BIN_SIZE_BP)


class Seconds(NamedTuple):
    """What a call took, by the clock and of a core."""

    clock: float
    core: float


def seconds(call: Callable[[], Any]) -> Seconds:
    """How long a call takes."""
    began, core_began = time.perf_counter(), time.process_time()
    call()
    return Seconds(time.perf_counter() - began, time.process_time() - core_began)


def seconds_of_build(inputs: Inputs, stride: int, workers: int) -> Seconds:
    """One build of ours, from nothing."""
    from mlproject.data.tracks import build

    with tempfile.TemporaryDirectory(dir=inputs.folder) as output:
        return seconds(lambda: build(inputs.checked(Path(output), stride), workers=workers))


def in_children(inputs: Inputs, count: int) -> list[dict[str, float]] | None:
    """What `count` builds of ours at once, each in a process of its own, say of themselves; None if one fails."""
    case = {"inputs": [*map(str, inputs[:-1])], "bigwigs": [*map(str, inputs.bigwigs)]}
    with ThreadPoolExecutor(count) as pool:
        found = [said for said in pool.map(lambda _: in_child(__file__, case), range(count)) if said]
    return found if len(found) == count else None


def build_as_child(case: dict[str, Any]) -> dict[str, float]:
    """Build in this process; say how long it took, how many windows there are, and the peak memory in GB."""
    folder, fasta, regions, valid, test = case["inputs"]
    inputs = Inputs(Path(folder), Path(fasta), Path(regions), valid, test, [Path(p) for p in case["bigwigs"]])
    windows = len(inputs.checked(Path(folder) / "never", STRIDE_BP).windows)
    clock, _ = seconds_of_build(inputs, STRIDE_BP, 1)
    # not the peak of getrusage, which begins with what the process had that started this one
    status = Path("/proc/self/status").read_text()
    return {
        "seconds": clock,
        "windows": windows,
        "gb": int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9,
    }


def largest_difference(inputs: Inputs, checked: Any, reference: Reference) -> float:
    """Of the targets in the records of a build from those of the reference; the sequences must be the same."""
    from mlproject.data.records import open_dataset, read_shard
    from mlproject.data.tracks import build

    build(checked)
    dataset = open_dataset(checked.final.parent, checked.final.name)
    rows = [row.split("\t") for row in (dataset.path / "sequences.bed").read_text().splitlines()]
    largest = 0.0
    examples = (e for shard in dataset.shards("train") for e in read_shard(shard, dataset.statistics))
    for number, (row, example) in enumerate(zip(rows, examples, strict=False)):
        if number % EVERY == 0:
            window = (row[0], int(row[1]), int(row[2]))
            difference = example.target.astype(np.float32) - reference.target(*window).astype(np.float32)
            largest = max(largest, float(np.abs(difference).max()))
            one_hot = np.arange(4) == example.sequence[:, None]
            assert np.array_equal(one_hot, reference.sequence(*window).astype(bool)), window
    return largest


def verdict(value: float, limit: float | None) -> tuple[bool, str]:
    """Whether a ratio is as high as its limit, and that in words."""
    if limit is None:
        return True, "no limit"
    return value >= limit, f"limit {limit:g}: {'met' if value >= limit else 'NOT met'}"


def compare(
    name: str,
    inputs: Inputs,
    stride: int,
    limit_targets: float | None,
    limit: float | None,
    two: bool = False,
) -> bool:
    """Measure one case, print its lines, and say whether the limits are met."""
    checked = inputs.checked(inputs.folder / f"compared-{stride}", stride)
    windows = checked.windows
    # whole shards, from everywhere
    step = max(1, len(windows) // REFERENCE_WINDOWS)
    part = [window for number, window in enumerate(windows) if number // BATCH % step == 0]
    reference = Reference(inputs)
    difference = largest_difference(inputs, checked, reference)
    found: dict[str, list[float]] = {}

    def note(what: str, count: float, seconds: float) -> None:
        found.setdefault(what, []).append(count / seconds)

    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir=inputs.folder) as folder:
            note("theirs", len(part), seconds(lambda: reference.build(part, Path(folder))).core)
        note("their targets", len(part), seconds(lambda: [reference.target(*w[:3]) for w in part]).core)
        note("our targets", len(part), seconds(lambda: list(read_targets(checked, part))).core)
        ours = seconds_of_build(inputs, stride, 1)
        note("ours", len(windows), ours.core)
        if two:
            note("one", 1, ours.clock)
            note("two", 1, seconds_of_build(inputs, stride, 2).clock)
            alone, both = in_children(inputs, 1), in_children(inputs, 2)
            if alone is None or both is None:
                return False
            note("alone", 1, alone[0]["seconds"])
            note("both", 2, max(said["seconds"] for said in both))
    rate = {what: max(rates) for what, rates in found.items()}
    print(
        f"{name}: {len(windows)} windows, one every {stride} bp, {len(inputs.bigwigs)} tracks; largest difference of "
        f"targets {difference:.1e} (limit {TOLERANCE:g}): {'met' if difference <= TOLERANCE else 'NOT met'}"
    )
    ratio, whole = rate["our targets"] / rate["their targets"], rate["ours"] / rate["theirs"]
    targets_met, targets_said = verdict(ratio, limit_targets)
    whole_met, whole_said = verdict(whole, limit)
    print(
        f"  reading targets: {rate['our targets']:.0f} windows/s, {ratio:.2f} of the reference's "
        f"{rate['their targets']:.0f} ({targets_said})"
    )
    print(
        f"  the whole build, one core: {rate['ours']:.0f} windows/s, {whole:.2f} of the reference's "
        f"{rate['theirs']:.0f} ({whole_said})",
        flush=True,
    )
    met = difference <= TOLERANCE and targets_met and whole_met
    if two:
        gain, most = rate["two"] / rate["one"], rate["both"] / rate["alone"]
        gain_met, said = verdict(gain, LIMIT_TWO)
        print(f"  two cores: {gain:.2f} of one; two builds at once {most:.2f} of one ({said})", flush=True)
        met &= gain_met
    return met


def compare_memory(inputs: Inputs) -> bool:
    """Peak memory of a build of a quarter of the genome and of the whole."""
    few, many = in_children(inputs._replace(regions=inputs.folder / "quarter.bed"), 1), in_children(inputs, 1)
    if few is None or many is None:
        return False
    ratio = many[0]["gb"] / few[0]["gb"]
    met = ratio <= LIMIT_MEMORY
    print(
        f"memory: {many[0]['gb']:.3f} GB for {many[0]['windows']} windows, {ratio:.3f} of that for "
        f"{few[0]['windows']} (limit {LIMIT_MEMORY:g}): {'met' if met else 'NOT met'}",
        flush=True,
    )
    return met


def main() -> int:
    sys.path.insert(0, str(ROOT / "src"))
    if case := case_of(__doc__):
        import json

        print(json.dumps(build_as_child(case)))
        return 0
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        dense = write_dense(Path(folder))
        print(f"made the inputs in {time.perf_counter() - began:.0f} s", flush=True)
        met = [
            compare("dense", dense, STRIDE_BP, LIMIT, LIMIT, two=True),
            compare("apart", dense, LENGTH_BP, None, None),
        ]
        met.append(compare_memory(dense))
    if (YEAST / "stripeseq").exists():
        with tempfile.TemporaryDirectory() as folder:
            met.append(compare("yeast", write_yeast(Path(folder)), STRIDE_BP, LIMIT, None))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
