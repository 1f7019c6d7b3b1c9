import numpy as np

from mlproject.data import demo
from mlproject.data.records import open_dataset, read_shard, verify


def targets(dataset, subset):
    found = [e for shard in dataset.shards(subset) for e in read_shard(shard, dataset.statistics)]
    return np.stack([e.sequence for e in found]), np.stack([e.target for e in found]).astype(np.float64)


def test_the_demo_is_what_the_commands_expect(tmp_path):
    folder = demo.demo_dataset(tmp_path)
    digests = []
    for organism, counts, tracks in (("human", (96, 16, 32), 16), ("mouse", (48, 8, 16), 8)):
        dataset = open_dataset(folder, organism)
        verify(dataset, tmp_path)
        statistics = dataset.statistics
        assert (statistics.train_seqs, statistics.valid_seqs, statistics.test_seqs) == counts
        assert (statistics.seq_length, statistics.target_length, statistics.num_targets) == (
            16_384,
            112,
            tracks,
        )
        assert dataset.targets["category"].value_counts().to_dict() == dict.fromkeys(
            ("DNASE", "ATAC", "CHIP", "CAGE"), tracks // 4
        )
        assert set(dataset.targets["sum_stat"]) == {"mean", "sum", "sum_sqrt"}
        sequence, target = targets(dataset, "train")
        means = target.mean((0, 1))
        assert (target >= 0).all() and (means > 0.3).all() and (means < 3).all()
        assert (target.std((0, 1)) > 0.5).all()
        inner = sequence[:, 1024:-1024].reshape(-1, 112, 128)
        gc = ((inner == 1) | (inner == 2)).mean(-1)
        # Base composition is quick to learn, but most of the signal is motifs.
        assert 0.3 < np.corrcoef(gc.ravel(), target[..., 0].ravel())[0, 1] < 0.6
        digests.append(dataset.digest)
        places = {"human": "chr1 (32), chr2 (32), chr3 (32)", "mouse": "chr1 (24), chr2 (24)"}[organism]
        assert dataset.describe("train") == f"{counts[0]} windows of 16,384 bp on {places}"
        (dataset.path / "sequences.bed").rename(tmp_path / "aside")
        assert dataset.describe("train") == f"{counts[0]} windows of 16,384 bp"
        (tmp_path / "aside").rename(dataset.path / "sequences.bed")
    made = (folder / "human" / "manifest.json").stat().st_mtime_ns
    assert demo.demo_dataset(tmp_path) == folder
    assert (folder / "human" / "manifest.json").stat().st_mtime_ns == made
    assert demo.demo_inputs(tmp_path, seed=1).parent != folder
    again = demo.demo_dataset(tmp_path / "elsewhere")
    assert [open_dataset(again, organism).digest for organism in ("human", "mouse")] == digests


def test_a_promoter_fires_where_an_enhancer_is_in_reach():
    grammar = demo.grammar(0)
    bases = np.zeros(80_000, np.uint8)
    promoter, enhancer = grammar.promoter, grammar.enhancers[0]
    for at in (20_000, 60_000):
        bases[at : at + len(promoter)] = promoter
    bases[24_000 : 24_000 + len(enhancer)] = enhancer
    signals = demo._signals(bases, grammar, "human", 0, 0)
    forward, reverse = signals[12], signals[13]  # CAGE of cell A, + and -
    assert abs(forward.argmax() * demo.RESOLUTION - 20_000) <= demo.RESOLUTION
    weak = forward[60_000 // demo.RESOLUTION]
    np.testing.assert_allclose(weak / forward.max(), demo.LONE_PROMOTER, rtol=1e-6)
    assert reverse.max() == 0
    turned = demo._signals(3 - bases[::-1], grammar, "human", 0, 0)
    np.testing.assert_allclose(turned[13, ::-1].sum(), forward.sum(), rtol=1e-6)
