import contextlib
import errno
import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mlproject.data import files, shards, tracks
from mlproject.data.genome import Genome, Interval
from mlproject.data.records import open_dataset, read_shard, verify
from mlproject.data.tracks import build, check
from mlproject.errors import InputError


def windows(dataset, subset):
    """Pairs of (row of sequences.bed, example)."""
    rows = [line.split("\t") for line in (dataset.path / "sequences.bed").read_text().splitlines()]
    rows = [row for row in rows if row[3] == subset]
    found = [e for shard in dataset.shards(subset) for e in read_shard(shard, dataset.statistics)]
    assert len(rows) == len(found) == dataset.count(subset)
    return [((row[0], int(row[1]), int(row[2])), example) for row, example in zip(rows, found, strict=True)]


def test_records_hold_the_sequence_and_signal_of_their_rows(toy, tmp_path):
    statistics = toy.build(tmp_path / "data", examples_per_shard=3)
    dataset = open_dataset(tmp_path / "data", "toy")
    verify(dataset, tmp_path / "work")
    assert statistics == dataset.statistics
    assert (statistics.train_seqs, statistics.valid_seqs, statistics.test_seqs) == (11, 6, 4)
    assert statistics.extras["windows_with_n"] == 1
    assert len(dataset.shards("train")) == 4
    for subset in ("train", "valid", "test"):
        for (chrom, start, end), example in windows(dataset, subset):
            letters = toy.letters[chrom][start:end].upper()
            np.testing.assert_array_equal(example.sequence, ["ACGTN".index(letter) for letter in letters])
            values = np.nan_to_num(toy.signal[chrom][:, start + 128 : end - 128]).astype(np.float64)
            np.testing.assert_allclose(example.target[:, 0], values[0].reshape(6, 128).sum(1), rtol=1e-3)
            rooted = np.sqrt(1 + 0.5 * values[1].reshape(6, 128).mean(1)) - 1
            np.testing.assert_allclose(example.target[:, 1], rooted, rtol=1e-3)
    covered = sum(
        np.isnan(toy.signal[chrom][1, start + 128 : end - 128]).sum()
        for subset in ("train", "valid", "test")
        for (chrom, start, end), _ in windows(dataset, subset)
    )
    assert statistics.extras["missing_bp"] == [0, covered, 0]


def test_workers_do_not_change_the_dataset(toy, tmp_path):
    toy.build(tmp_path / "one", workers=1)
    toy.build(tmp_path / "two", workers=2)
    names = [str(p.relative_to(tmp_path / "one")) for p in (tmp_path / "one").rglob("*") if p.is_file()]
    assert len(names) == 5 + 3 + 2 + 1
    _, different, errors = filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", names, shallow=False)
    assert not different and not errors


def test_the_same_again_is_nothing_to_do_and_another_is_refused(toy, tmp_path):
    toy.build(tmp_path / "data")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    assert toy.build(tmp_path / "data") == open_dataset(tmp_path / "data", "toy").statistics
    with pytest.raises(InputError, match="built with another seed"):
        toy.build(tmp_path / "data", seed=1)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*")}
    (tmp_path / "data" / "toy" / "manifest.json").unlink()
    with pytest.raises(InputError, match="was not made by build_tracks"):
        toy.build(tmp_path / "data")


@pytest.mark.parametrize("damage", ["gone", "cut", "more"])
def test_a_damaged_dataset_is_not_nothing_to_do(toy, tmp_path, damage):
    toy.build(tmp_path / "data")
    shard = tmp_path / "data" / "toy" / "tfrecords" / "train-1.tfr"
    whole = shard.read_bytes()
    shard.unlink()
    if damage == "cut":
        shard.write_bytes(whole[:-9])
    elif damage == "more":
        shard.write_bytes(whole)
        shutil.copy(shard, shard.with_name("train-77.tfr"))
    with pytest.raises(
        InputError, match=r"train-(1|77)\.tfr.*; copy the dataset again, or remove it and build"
    ):
        toy.build(tmp_path / "data")


def test_target_length_instead_of_crop(toy, tmp_path):
    statistics = toy.build(tmp_path / "data", crop_bp=None, target_length=4)
    assert (statistics.target_length, statistics.crop_bp) == (4, 256)


def test_windows_of_mostly_n_and_flat_windows_are_left_out(toy, tmp_path):
    letters = toy.letters | {"c1": "N" * 3000 + toy.letters["c1"][3000:]}
    toy.fasta.write_text("".join(f">{chrom}\n{s}\n" for chrom, s in letters.items()))
    extras = toy.build(tmp_path / "data").extras
    assert extras["dropped"]["mostly N"] == 4
    with pytest.raises(
        InputError, match=r"no train window is left: .* 4 were mostly N and 7 below min_std 1e"
    ):
        toy.build(tmp_path / "flat", min_std=1e9)
    assert not (tmp_path / "flat").exists()


def bad_chromosomes(toy, write):
    toy.fasta.write_text(toy.fasta.read_text().replace(">c", ">chr"))
    return {"valid": ["chr2"], "test": ["chr3"]}


def other_genome(toy, write):
    toy.fasta.write_text(toy.fasta.read_text().rstrip() + "ACGT\n")
    return {}


def bad_bed(text):
    def make(toy, write):
        (toy.folder / "r.bed").write_text(text)
        return {"regions_bed": toy.folder / "r.bed"}

    return make


def bad_blacklist(toy, write):
    (toy.folder / "b.bed").write_text("chr1\t0\t10\n")
    return {"blacklist": toy.folder / "b.bed"}


def all_black(toy, write):
    (toy.folder / "b.bed").write_text("c2\t0\t5000\n")
    return {"blacklist": toy.folder / "b.bed"}


def fewer_chromosomes(toy, write):
    write(toy.folder / "1.bw", {"c1": 9000}, {"c1": np.ones(9000)})
    return bad_bed("c1\t0\t9000\nc2\t0\t5000\nc3\t0\t4000\n")(toy, write)


def empty_bigwig(toy, write):
    lengths = {chrom: len(letters) for chrom, letters in toy.letters.items()}
    write(toy.folder / "1.bw", lengths, {chrom: np.full(n, np.nan) for chrom, n in lengths.items()})
    return {}


def absent_bigwig(toy, write):
    (toy.folder / "1.bw").unlink()
    return {}


def text_bigwig(toy, write):
    (toy.folder / "1.bw").write_text("chr1 1 2 3\n" * 50)
    return {}


def infinite_bigwig(toy, write):
    lengths = {chrom: len(letters) for chrom, letters in toy.letters.items()}
    values = {chrom: np.full(n, 1.0) for chrom, n in lengths.items()}
    values["c2"][7] = np.inf
    write(toy.folder / "1.bw", lengths, values)
    return {}


def overflow(toy, write):
    toy.targets.write_text(toy.targets.read_text().replace("\t0.5\t", "\t3e38\t"))
    return {}


def option(**options):
    return lambda toy, write: options


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (bad_chromosomes, r"chr1 is in FASTA .*toy\.fa, of .* not in bigWig .*0\.bw, which has c1, c2, c3; .*BED"),
        (fewer_chromosomes, r"chromosome c2 is in BED .*r\.bed but not in bigWig .*1\.bw, which has c1"),
        (empty_bigwig, r"1\.bw \(NA\): holds no values"),
        (all_black, r"of c2:0-5000: 6 more than half blacklisted by .*b\.bed"),
        (option(valid=["c2", "c1"]), "no train window would be made: valid and test name every chromosome"),
        (other_genome, r"c3 is 4004 bp in .*toy\.fa and 4000 bp in bigWig"),
        (bad_bed("chr1\t0\t100\n"), r"r\.bed, line 1: chromosome chr1 is not in the FASTA, .* c1, c2, c3"),
        (bad_bed("c1\t0\t9001\n"), "off the end of c1, which is 9000 bp"),
        (bad_bed(""), "has no regions"),
        (bad_bed("c1\t0\t9000\nc2\t0\t5000\n"), "test names chromosome c3, the BED .* has c1, c2"),
        (bad_bed("c1\t0\t9000\nc2\t0\t5000\nc3\t0\t300\n"), "no test window would be made"),
        (bad_blacklist, r"b\.bed names chromosomes chr1, the FASTA has c1, c2, c3"),
        (absent_bigwig, r"1\.bw \(NA\): cannot be read"),
        (text_bigwig, r"1\.bw \(NA\): is not a bigWig file"),
        (infinite_bigwig, r"1\.bw \(NA\): stores NaN or infinite"),
        (overflow, r"track NA, bigWig .*1\.bw: the target at c.* is NaN or infinite"),
        (option(fasta="absent.fa"), r"absent\.fa: cannot be read"),
        (option(targets_path="absent.txt"), r"absent\.txt: cannot be read"),
        (option(regions_bed="absent.bed"), r"absent\.bed: cannot be read"),
        (option(valid=["c9"]), "valid names chromosome c9, the FASTA has c1, c2, c3"),
        (option(valid=[]), "valid names no chromosome"),
        (option(test=["c2"]), "c2 is in valid and in test"),
        (option(sequence_length=1000), "sequence_length is 1000, expected a multiple of bin_size 128"),
        (option(crop_bp=100), "crop_bp is 100"),
        (option(crop_bp=512), "0 bp of target"),
        (option(sequence_length=8192), "no valid window would be made"),
        (option(workers=0), "workers is 0"),
        (option(split_column=True, valid=[], test=[]), "split_column needs regions"),
    ],
)  # fmt: skip
def test_a_bad_input_is_one_line_and_leaves_nothing(toy, tmp_path, bigwig_writer, make, said):
    options = make(toy, bigwig_writer)
    with pytest.raises(InputError, match=said) as caught:
        toy.build(tmp_path / "data", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_an_error_in_a_worker_is_the_same_line(toy, tmp_path, bigwig_writer):
    overflow(toy, bigwig_writer)
    with pytest.raises(InputError, match="track NA"):
        toy.build(tmp_path / "data", workers=2)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("place", ["write_shard", "make_shards", "sync"])
def test_a_full_disk_is_one_line_and_leaves_nothing(toy, tmp_path, monkeypatch, place):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    room = {"write_shard": shards, "make_shards": tracks, "sync": files}[place]
    monkeypatch.setattr(room, place, full)
    with pytest.raises(InputError, match=r"output .*data: cannot be written \(No space left on device\)"):
        toy.build(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_an_output_that_cannot_be_written_is_named(toy, tmp_path):
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(InputError, match=rf"output {output}: cannot be written"):
            toy.build(output)
    with pytest.raises(InputError, match="output is empty"):
        toy.build("")


def test_the_workers_of_a_killed_build_end_too(toy, tmp_path):
    code = (
        "from mlproject.data import tracks\n"
        f"inputs = tracks.check({str(tmp_path / 'data')!r}, 'toy', {str(toy.fasta)!r}, None,"
        f" {str(toy.targets)!r}, sequence_length=1024, crop_bp=128, stride=1, valid=['c2'], test=['c3'],"
        f" examples_per_shard=4, work_dir={str(toy.folder / 'work')!r})\n"
        "tracks.build(inputs, workers=2)\n"
    )
    source = Path(__file__).parents[3] / "src"
    build = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        while build.poll() is None and not list((tmp_path / "data").glob(".toy*/tfrecords/placed-*")):
            time.sleep(0.05)
        build.kill()
        assert build.wait() == -signal.SIGKILL
        build.communicate(timeout=60)  # the pipe closes when the last process that has it ends
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(build.pid, signal.SIGKILL)


def test_a_killed_build_leaves_nothing_that_looks_complete(toy, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from mlproject.data import tracks\n"
        "tracks._finish = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"tracks.build(tracks.check({str(tmp_path / 'data')!r}, 'toy', {str(toy.fasta)!r}, None, {str(toy.targets)!r},"
        " sequence_length=1024, crop_bp=128, valid=['c2'], test=['c3'], examples_per_shard=4,"
        f" work_dir={str(toy.folder / 'work')!r}))\n"
    )
    source = Path(__file__).parents[3] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(source)}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert [p.name.split("-")[0] for p in (tmp_path / "data").iterdir()] == [".toy.partial"]
    with pytest.raises(InputError, match=r"'toy' is not in .* it has no dataset"):
        open_dataset(tmp_path / "data", "toy")
    toy.build(tmp_path / "data")
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["toy"]


def test_human_bigwigs_give_the_stored_targets(baskerville, tmp_path):
    """The derived bigWigs hold the stored targets per bp, so a mean over 32 bp gives them back exactly."""
    derived = baskerville / "hg38" / "derived"
    stored = open_dataset(baskerville, "hg38")
    rows = [line.split("\t") for line in (derived / "windows.tsv").read_text().splitlines()[1:]]
    (tmp_path / "regions.bed").write_text("".join(f"{r[0]}\t{r[5]}\t{r[6]}\t{r[1]}\n" for r in rows))
    files = sorted((derived / "bw").glob("*.bw"))[:6]
    lines = [f"{path.stem}\t{path}\tmean\tCAGE:{path.stem}" for path in files]
    (tmp_path / "targets.txt").write_text(
        "\n".join(["identifier\tfile\tsum_stat\tdescription", *lines]) + "\n"
    )
    inputs = check(
        tmp_path / "data", "hg38", derived / "windows.fa.gz", tmp_path / "regions.bed",
        tmp_path / "targets.txt",
        sequence_length=131_072, crop_bp=32_768, bin_size=32, split_column=True,
        work_dir=tmp_path / "work",
    )  # fmt: skip
    build(inputs, workers=2)
    dataset = open_dataset(tmp_path / "data", "hg38")
    tracks = [int(path.stem[:2]) for path in files]
    for subset in ("train", "valid", "test"):
        contigs = [row[0] for row in rows if row[1] == subset]
        theirs = [e for shard in stored.shards(subset) for e in read_shard(shard, stored.statistics)]
        known = dict(zip(contigs, theirs, strict=True))
        for (contig, start, end), example in windows(dataset, subset):
            assert (start, end) == (0, 131_072)
            np.testing.assert_array_equal(example.sequence, known[contig].sequence)
            np.testing.assert_array_equal(example.target, known[contig].target[:, tracks])


def test_yeast_start_sites(yeast, tmp_path):
    files = sorted((yeast / "stripeseq").glob("*.bw"))
    rows = [f"{i}\t{p.stem}\t{p}\t384\t64\tsum_sqrt\t{i ^ 1}\tCAGE:{p.stem}" for i, p in enumerate(files)]
    head = "index\tidentifier\tfile\tclip\tclip_soft\tsum_stat\tstrand_pair\tdescription"
    (tmp_path / "targets.txt").write_text("\n".join([head, *rows]) + "\n")
    fasta = next(yeast.glob("*.fa.gz"))
    (tmp_path / "regions.bed").write_text("I\t0\t230218\nII\t0\t200000\nXVI\t0\t200000\n")
    inputs = check(
        tmp_path / "data", "yeast", fasta, tmp_path / "regions.bed", tmp_path / "targets.txt",
        sequence_length=16_384, crop_bp=1_024, valid=["II"], test=["XVI"], work_dir=tmp_path / "work",
    )  # fmt: skip
    statistics = build(inputs)
    assert (statistics.train_seqs, statistics.valid_seqs, statistics.test_seqs) == (15, 13, 13)
    import pybigtools

    dataset = open_dataset(tmp_path / "data", "yeast")
    genome = Genome(fasta, tmp_path / "work")
    file = pybigtools.open(str(files[3]))
    for (chrom, start, end), example in windows(dataset, "test")[:4]:
        values = np.asarray(file.values(chrom, start + 1024, end - 1024, fillna=0.0)).reshape(112, 128)
        np.testing.assert_allclose(example.target[:, 3], np.sqrt(1 + values.sum(1)) - 1, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(example.sequence, genome.codes(Interval(chrom, start, end)))
    file.close()
    genome.close()
    assert json.loads((dataset.path / "build.json").read_text())["valid"] == ["II"]
    shutil.rmtree(tmp_path / "work")
