import itertools

import numpy as np
import pytest

from mlproject.data import demo_constructs
from mlproject.data.constructs import Site
from mlproject.data.demo import grammar
from mlproject.data.demo_constructs import demo_construct_inputs, expected_activity
from mlproject.data.payloads import read_activities, read_sequences, read_sites
from mlproject.data.similarity import leaks


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Activities, sequences and sites of the demo's payloads."""
    raw = demo_construct_inputs(tmp_path_factory.mktemp("demo"))
    activities = read_activities(raw / "table.tsv", "activity")
    sequences, _ = read_sequences(raw / "payloads.fa")
    return activities, sequences, read_sites(raw / "sites.bed", sequences)


def test_there_are_groups_of_payloads_with_sites(demo):
    activities, sequences, sites = demo
    assert len(sequences) == len(sites) == len(activities.payloads) == 72
    assert activities.rows == 3 * 72 and 3 <= activities.without_value <= 20
    groups = [one.group for one in activities.payloads.values()]
    assert len(set(groups)) == 12 and all(groups.count(group) == 6 for group in groups)
    assert all(3_000 <= len(letters) <= 8_000 for letters in sequences.values())
    assert all(300 <= end - start <= 500 for own in sites.values() for _, start, end in own)
    for own in sites.values():
        assert all(one.end <= other.start for one, other in itertools.pairwise(own))


def test_activity_is_what_the_sites_say(demo):
    activities, _, sites = demo
    values = np.array([one.activity for one in activities.payloads.values()])
    expected = np.array([expected_activity(list(sites[key])) for key in activities.payloads])
    assert not np.isnan(values).any() and values.min() > -0.2 and values.max() < 1.4
    assert np.abs(values - expected).max() < 5 * demo_constructs.NOISE
    kinds = [{site.name for site in sites[key]} for key in activities.payloads]
    held = np.array([sum(demo_constructs.WEIGHTS[kind] for kind in own) for own in kinds])
    assert 0.35 < held.var() / values.var() < 0.65  # what is there
    assert 0.35 < (expected - held).var() / values.var() < 0.65  # in which order and how far apart


def test_order_and_spacing_matter():
    sites = [Site("A", 100, 500), Site("B", 1_600, 2_000)]
    near, far = ([sites[0], Site("B", start, start + 400)] for start in (900, 3_000))
    turned = [Site("B", 100, 500), Site("A", 1_600, 2_000)]
    assert expected_activity(sites) == pytest.approx(expected_activity(turned) + demo_constructs.BONUS)
    assert expected_activity(near) == expected_activity(far) == expected_activity(turned)


def test_payloads_of_a_group_have_the_same_sites_in_other_orders(demo):
    activities, _, sites = demo
    for group in {one.group for one in activities.payloads.values()}:
        by_name = {key: one.activity for key, one in activities.payloads.items() if one.group == group}
        first, second = (
            next(value for key, value in by_name.items() if key.endswith(f"_{design}")) for design in (1, 2)
        )
        assert first - second > 0.2
    names = [[site.name for site in own] for own in sites.values()]
    assert ["A", "B"] in names and ["B", "A"] in names


def test_sites_are_dense_in_motifs_of_the_demo(demo):
    _, sequences, sites = demo
    motifs = ["".join("ACGT"[base] for base in motif) for motif in grammar(0).motifs]
    turned = ["".join("ACGT"[3 - base] for base in motif[::-1]) for motif in grammar(0).motifs]

    def count(letters: str, numbers) -> int:
        return sum(letters.count(one[n]) for n in numbers for one in (motifs, turned))

    for key, own in sites.items():
        for name, start, end in own:
            letters = sequences[key][start:end]
            assert count(letters, demo_constructs.KINDS[name]) >= (end - start) // 24 - 2
            assert count(letters, set(range(6)) - set(demo_constructs.KINDS[name])) <= 3


def test_groups_share_hardly_any_sequence_and_their_payloads_most(demo):
    activities, sequences, _ = demo
    groups = [activities.payloads[key].group for key in sequences]
    assert leaks(list(sequences.values()), groups).max() < 0.01
    assert leaks(list(sequences.values()), list(sequences)).min() > 0.3


def test_the_demo_is_the_same_again_and_another_with_another_seed(tmp_path):
    first, again = (demo_construct_inputs(tmp_path / name) for name in ("a", "b"))
    for name in ("table.tsv", "payloads.fa", "sites.bed"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    other = demo_construct_inputs(tmp_path / "a", seed=1)
    assert other != first and (other / "table.tsv").read_bytes() != (first / "table.tsv").read_bytes()
