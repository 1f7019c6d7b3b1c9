import json
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mlproject.data import records
from mlproject.data.records import (
    Example,
    Statistics,
    TrackDataset,
    file_sha256,
    open_dataset,
    read_shard,
    shard_counts,
    verify,
    write_shard,
)
from mlproject.data.tfrecord import masked_crc32c, read_records
from mlproject.errors import InputError

STATISTICS = Statistics(num_targets=3, seq_length=40, target_length=5, pool_width=4, crop_bp=10)


def examples(count=4):
    rng = np.random.default_rng(0)
    return [
        Example(rng.integers(0, 5, 40).astype(np.uint8), rng.normal(size=(5, 3)).astype(np.float16))
        for _ in range(count)
    ]


def one_hot(codes):
    return np.stack([codes == base for base in range(4)], axis=-1)


def basenji_bytes(sequence, target):
    """The record as basenji_data_write.py makes it."""
    feature = {
        "sequence": tf.train.Feature(bytes_list=tf.train.BytesList(value=[sequence.tobytes()])),
        "target": tf.train.Feature(bytes_list=tf.train.BytesList(value=[target.tobytes()])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def tf_write(path, records):
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type="ZLIB")) as writer:
        for record in records:
            writer.write(record)


def same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.sequence, b.sequence)
        np.testing.assert_array_equal(a.target, b.target)


def test_tensorflow_reads_what_is_written(tmp_path):
    expected = examples()
    assert write_shard(tmp_path / "a.tfr", expected) == 4
    records = list(tf.data.TFRecordDataset(str(tmp_path / "a.tfr"), "ZLIB").as_numpy_iterator())
    for record, example in zip(records, expected, strict=True):
        features = tf.train.Example.FromString(record).features.feature
        assert features["sequence"].bytes_list.value[0] == one_hot(example.sequence).astype(bool).tobytes()
        assert features["target"].bytes_list.value[0] == example.target.tobytes()


def test_the_stream_is_byte_for_byte_what_tensorflow_writes(tmp_path):
    write_shard(tmp_path / "ours.tfr", examples())
    records = list(read_records(tmp_path / "ours.tfr"))
    tf_write(tmp_path / "theirs.tfr", records)
    ours, theirs = ((tmp_path / f"{name}.tfr").read_bytes() for name in ("ours", "theirs"))
    assert zlib.decompress(ours) == zlib.decompress(theirs)
    assert masked_crc32c(records[0]) == int.from_bytes(
        zlib.decompress(ours)[12 + len(records[0]) :][:4], "little"
    )


def test_both_record_layouts_read_the_same(tmp_path):
    expected = examples()
    tf_write(tmp_path / "old.tfr", [basenji_bytes(one_hot(e.sequence), e.target) for e in expected])
    tf_write(tmp_path / "new.tfr", [basenji_bytes(e.sequence, e.target) for e in expected])
    same(list(read_shard(tmp_path / "old.tfr", STATISTICS)), expected)
    same(list(read_shard(tmp_path / "new.tfr", STATISTICS)), expected)
    same(list(read_shard(tmp_path / "new.tfr", STATISTICS, skip=[0, 2])), [expected[1], expected[3]])


def test_large_and_compressible_records(tmp_path):
    statistics = Statistics(num_targets=1000, seq_length=50_000, target_length=6000, pool_width=8)
    example = Example(np.zeros(50_000, np.uint8), np.zeros((6000, 1000), np.float16))
    write_shard(tmp_path / "a.tfr", [example] * 3)  # 36 MB in 40 kB
    same(list(read_shard(tmp_path / "a.tfr", statistics)), [example] * 3)


def damage(kind, path):
    whole = path.read_bytes()
    stream = zlib.decompress(whole)
    frame = 16 + int.from_bytes(stream[:8], "little")
    path.write_bytes(
        {
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "no trailer": whole[:-4],
            "record boundary": zlib.compressobj().compress(stream[:0]) + _flushed(stream[: 2 * frame]),
            "inside a header": zlib.compress(stream[: frame + 5]),
            "inside a record": zlib.compress(stream[: frame + 30]),
            "flipped": whole[:60] + bytes([whole[60] ^ 0x55]) + whole[61:],
            "longer": whole + b"more",
            "not zlib": b"plain text, not a shard" * 10,
            "header": zlib.compress(b"\xff" * 4 + stream[4:]),
        }[kind]
    )


def _flushed(data):
    compressor = zlib.compressobj()
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    "kind",
    ["empty", "cut", "no trailer", "record boundary", "inside a header", "inside a record", "flipped",
     "longer", "not zlib", "header"],
)  # fmt: skip
def test_a_damaged_shard_is_named(tmp_path, kind):
    path = tmp_path / "train-0.tfr"
    write_shard(path, examples())
    damage(kind, path)
    with pytest.raises(InputError, match=r"train-0\.tfr: is truncated or corrupt") as caught:
        list(read_shard(path, STATISTICS))
    assert "\n" not in str(caught.value)


def test_records_of_other_sizes_are_refused(tmp_path):
    write_shard(tmp_path / "a.tfr", examples())
    for change, said in (("num_targets", "target of record 0"), ("seq_length", "sequence of record 0")):
        statistics = Statistics(**{**STATISTICS.__dict__, change: 77})
        with pytest.raises(InputError, match=said):
            list(read_shard(tmp_path / "a.tfr", statistics))


def test_statistics_keep_what_they_do_not_know(tmp_path):
    statistics = Statistics(1, 256, 1, 128, 64, 3, 2, 1, {"seq_1hot": True})
    statistics.write(tmp_path / "statistics.json")
    assert Statistics.read(tmp_path / "statistics.json") == statistics


@pytest.mark.parametrize(
    ("change", "said"),
    [({"num_targets": None}, "no entry 'num_targets'"), ({"seq_length": "131072"}, "seq_length is '131072'"),
     ({"target_length": 0}, "target_length is 0"), ({"pool_width": 4096},
      "1 x pool_width 4096 .* is 4096 bp, but seq_length is 256"),
     ({"crop_bp": 32}, r"1 x pool_width 128 \+ 2 x crop_bp 32 is 192 bp, but seq_length is 256")],
)  # fmt: skip
def test_bad_statistics(tmp_path, change, said):
    values = {"num_targets": 1, "seq_length": 256, "target_length": 1, "pool_width": 128} | change
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    with pytest.raises(InputError, match=said):
        Statistics.read(path)
    path.write_text("{not json")
    with pytest.raises(InputError, match="not JSON"):
        Statistics.read(path)


def test_the_sizes_of_the_published_data_agree(tmp_path):
    values = {"num_targets": 5313, "seq_length": 131_072, "target_length": 896, "pool_width": 128}
    (tmp_path / "statistics.json").write_text(json.dumps(values | {"crop_bp": 8192}))
    assert Statistics.read(tmp_path / "statistics.json").crop_bp == 8192
    (tmp_path / "statistics.json").write_text(json.dumps(values))
    assert Statistics.read(tmp_path / "statistics.json").crop_bp == 0


def copy(dataset: TrackDataset, folder, *, manifest=True):
    import shutil

    shutil.copytree(dataset.path, folder / "toy")
    if not manifest:
        (folder / "toy" / "manifest.json").unlink()
    return open_dataset(folder, "toy")


def test_open_refuses_what_does_not_agree(toy_dataset, tmp_path):
    with pytest.raises(InputError, match=r"'fly' is not in .* it has toy"):
        open_dataset(toy_dataset.folder, "fly")
    with pytest.raises(InputError, match="cannot be read"):
        open_dataset(tmp_path / "nowhere", "toy")
    dataset = copy(toy_dataset, tmp_path)
    lines = (dataset.path / "targets.txt").read_text().splitlines()
    (dataset.path / "targets.txt").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    with pytest.raises(InputError, match=r"2 rows but num_targets .* is 3"):
        open_dataset(tmp_path, "toy")


def test_shards_are_in_order_of_their_numbers(toy_dataset, tmp_path):
    dataset = copy(toy_dataset, tmp_path, manifest=False)
    first = dataset.shards("train")[0]
    for number in (10, 2, 9):
        os.link(first, first.with_name(f"valid-{number}.tfr"))
    names = [shard.name for shard in open_dataset(tmp_path, "toy").shards("valid")]
    assert names == ["valid-0.tfr", "valid-1.tfr", "valid-2.tfr", "valid-9.tfr", "valid-10.tfr"]


@pytest.mark.parametrize("manifest", [True, False])
def test_verify_finds_a_damaged_or_missing_shard(toy_dataset, tmp_path, manifest):
    dataset = copy(toy_dataset, tmp_path, manifest=manifest)
    work = tmp_path / "work"
    verify(dataset, work)
    verify(dataset, work)
    assert sum(shard_counts(dataset, "train", work)) == dataset.count("train") == 10
    shard = dataset.shards("train")[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:70] + bytes([whole[70] ^ 1]) + whole[71:])
    with pytest.raises(InputError, match=r"train-1\.tfr: is truncated or corrupt"):
        verify(dataset, work)
    shard.unlink()
    with pytest.raises(InputError, match="train"):
        verify(dataset, work)


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_verify_finds_targets_that_are_not_finite(toy_dataset, tmp_path, manifest, bad):
    dataset = copy(toy_dataset, tmp_path, manifest=manifest)
    shard = dataset.shards("valid")[0]
    stored = [Example(e.sequence, e.target.copy()) for e in read_shard(shard, dataset.statistics)]
    stored[1].target[3, 2] = bad
    write_shard(shard, stored)
    if manifest:
        dataset.manifest[shard.name] |= {"bytes": shard.stat().st_size, "sha256": file_sha256(shard)}
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"valid-0\.tfr: the target of track 2 \(007, .* is NaN or infinite"
        ):
            verify(dataset, tmp_path / "work")


@pytest.mark.parametrize("manifest", [True, False])
def test_verify_compares_the_records_with_sizes_that_changed_since(toy_dataset, tmp_path, manifest):
    dataset = copy(toy_dataset, tmp_path, manifest=manifest)
    verify(dataset, tmp_path / "work")
    replace(dataset.statistics, target_length=4, crop_bp=256).write(dataset.path / "statistics.json")
    with pytest.raises(InputError, match=r"train-.*target of record 0 has 36 bytes"):
        verify(open_dataset(tmp_path, "toy"), tmp_path / "work")


def test_an_older_check_does_not_count(toy_dataset, tmp_path, monkeypatch):
    work = tmp_path / "work"
    verify(toy_dataset, work)
    assert len(json.loads((work / "verified.json").read_text())) == 6
    monkeypatch.setattr(records, "_CHECK", records._CHECK + 1)
    verify(toy_dataset, work)
    assert len(json.loads((work / "verified.json").read_text())) == 12


def test_a_work_dir_that_cannot_remember_is_named(toy_dataset, tmp_path):
    (tmp_path / "verified.json").mkdir()
    (tmp_path / "file").write_text("x")
    for work in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match=f"work_dir {work}: cannot be written"):
            verify(toy_dataset, work)


def test_a_shard_too_many_is_named_with_its_windows(toy_dataset, tmp_path):
    dataset = copy(toy_dataset, tmp_path, manifest=False)
    for number in range(2, 9):
        os.link(dataset.shards("train")[0], dataset.path / "tfrecords" / f"train-{number}0.tfr")
    write_shard(
        dataset.path / "tfrecords" / "train-5.tfr",
        list(read_shard(dataset.shards("train")[0], dataset.statistics))[:1],
    )
    with pytest.raises(
        InputError, match=r"says 10; .* odd ones first: train-2\.tfr 2, train-5\.tfr 1, train-0"
    ):
        verify(dataset, tmp_path / "work")


@pytest.mark.parametrize("manifest", [True, False])
def test_a_dangling_shard_is_named(toy_dataset, tmp_path, manifest):
    dataset = copy(toy_dataset, tmp_path, manifest=manifest)
    shard = dataset.shards("test")[0]
    shard.unlink()
    shard.symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"test-0\.tfr: cannot be read \(No such file"):
        verify(dataset, tmp_path / "work")
    if not manifest:
        with pytest.raises(InputError, match=r"test-0\.tfr: cannot be read \(No such file"):
            _ = dataset.digest


def broken_manifest(text):
    def make(path):
        (path / "manifest.json").write_text(text)

    return make


def folder_for(name):
    def make(path):
        (path / name).unlink()
        (path / name).mkdir()

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (folder_for("manifest.json"), r"manifest\.json: cannot be read \(Is a directory\)"),
        (folder_for("statistics.json"), r"statistics\.json: cannot be read \(Is a directory\)"),
        (folder_for("targets.txt"), r"targets\.txt: cannot be read \(Is a directory\)"),
        (broken_manifest('{"shards": {"train-0.tfr": {"sha256": "x", "records": 4}}}'), "is damaged; copy .* again"),
        (broken_manifest('{"shards": {"train-0.tfr": 3}}'), "is damaged; copy .* again"),
        (broken_manifest('{"shards": {"a": {"sha256": "x", "records": "4", "bytes": 1}}}'), "is damaged"),
        (broken_manifest('{"shards": {}} {'), "is damaged"),
        (broken_manifest('{"shards": {"train-0.tfr": {"sha256": "x", "records": 4, "bytes": 1}}}'),
         r"counts 4 train records, statistics\.json 10; copy the dataset again, or remove it and build"),
    ],
)  # fmt: skip
def test_a_damaged_dataset_is_one_line(toy_dataset, tmp_path, make, said):
    make(copy(toy_dataset, tmp_path).path)
    with pytest.raises(InputError, match=said) as caught:
        open_dataset(tmp_path, "toy")
    assert "\n" not in str(caught.value)


def test_a_dataset_is_asked_for_by_its_parent_and_a_plain_name(toy_dataset, tmp_path):
    for organism in ("../data/toy", "", ".", "a/b", str(toy_dataset.path)):
        with pytest.raises(InputError, match="it names a folder"):
            open_dataset(toy_dataset.folder, organism)
    with pytest.raises(
        InputError, match=r"is the folder of one organism; give its parent .*data as data and toy"
    ):
        open_dataset(toy_dataset.path, "toy")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"data .*file: cannot be read \(Not a directory\)"):
        open_dataset(tmp_path / "file", "toy")


def test_the_digest_follows_the_content(toy_dataset, tmp_path):
    dataset = copy(toy_dataset, tmp_path)
    assert dataset.digest == toy_dataset.digest
    manifest = json.loads((dataset.path / "manifest.json").read_text())
    manifest["shards"]["train-0.tfr"]["sha256"] = "0" * 64
    (dataset.path / "manifest.json").write_text(json.dumps(manifest))
    assert open_dataset(tmp_path, "toy").digest != toy_dataset.digest


def test_the_state_follows_the_files_where_no_manifest_does(toy_dataset, tmp_path):
    """Of a dataset without one, a shard that is replaced by one of its size; the digest stays, for a copy too."""
    dataset = copy(toy_dataset, tmp_path)
    assert dataset.state == dataset.digest
    plain = copy(toy_dataset, tmp_path / "plain", manifest=False)
    shard, before = plain.shards("train")[0], plain.state
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    again = open_dataset(tmp_path / "plain", "toy")
    assert again.digest == plain.digest and len({again.state, before, plain.digest}) == 3


def test_places_are_those_of_the_records(toy_dataset, tmp_path):
    lines = [line.split("\t") for line in (toy_dataset.path / "sequences.bed").read_text().splitlines()]
    for subset, count in (("train", 10), ("valid", 6), ("test", 4)):
        found = toy_dataset.places(subset)
        assert len(found) == count
        assert [(p.chrom, str(p.start), str(p.end)) for p in found] == [
            tuple(fields[:3]) for fields in lines if fields[3] == subset
        ]
    dataset = copy(toy_dataset, tmp_path)
    (dataset.path / "sequences.bed").unlink()
    assert dataset.places("train") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], "sequences.bed: has 3 test windows, statistics.json says 4; "),
        (lambda lines: [*lines, lines[-1]], "sequences.bed: has 5 test windows, statistics.json says 4; "),
        (lambda lines: [*lines[:-1], "c3\t1\t2\tfold3"], "line 20: the fourth column is 'fold3', expected "),
        (lambda lines: [*lines[:-1], lines[-1][:4]], "line 20: "),
    ],
)
def test_places_that_do_not_fit_are_refused(toy_dataset, tmp_path, change, said):
    dataset = copy(toy_dataset, tmp_path)
    path = dataset.path / "sequences.bed"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(InputError, match=said) as caught:
        dataset.places("test")
    assert "\n" not in str(caught.value)


def test_head_bins():
    tiny = TrackDataset(Path("data"), "x", Statistics(74, 131_072, 2048, 32, 32_768), None, {})  # type: ignore[arg-type]
    assert tiny.head_bins() == 512
    assert tiny.head_bins(32) == 2048
    for width in (48, 16):
        with pytest.raises(InputError, match=f"whole bins of {width} bp"):
            tiny.head_bins(width)


def test_native_human_records(baskerville, tmp_path):
    dataset = open_dataset(baskerville, "hg38")
    verify(dataset, tmp_path / "work")
    assert [
        sum(shard_counts(dataset, subset, tmp_path / "work")) for subset in ("train", "valid", "test")
    ] == [45, 10, 10]
    shard = dataset.shards("train")[0]
    theirs = next(tf.data.TFRecordDataset(str(shard), "ZLIB").as_numpy_iterator())
    features = tf.train.Example.FromString(theirs).features.feature
    ours = next(read_shard(shard, dataset.statistics))
    assert features["sequence"].bytes_list.value[0] == ours.sequence.tobytes()
    assert features["target"].bytes_list.value[0] == ours.target.tobytes()
