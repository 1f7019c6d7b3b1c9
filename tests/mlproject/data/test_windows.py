import itertools

import pytest

from mlproject.data.genome import Interval
from mlproject.data.windows import Regions, allowed_regions, place_windows, read_blacklist
from mlproject.errors import InputError

LENGTHS = {"a": 100_000, "b": 20_000, "c": 20_000}
WHOLE = [(Interval(chrom, 0, length), "") for chrom, length in LENGTHS.items()]


def place(regions=WHOLE, **options):
    chosen = {
        "sequence_length": 1000, "crop_bp": 100, "stride": 800, "valid": ["b"], "test": ["c"],
        "labelled": False, "blacklist": Regions([]), "limits": {}, "seed": 0,
    } | options  # fmt: skip
    return place_windows(regions, LENGTHS, **chosen)


def test_targets_tile_each_chromosome_once():
    windows = place().windows
    assert {w.subset for w in windows if w.chrom == "a"} == {"train"}
    assert {w.subset for w in windows if w.chrom == "b"} == {"valid"}
    covered = sorted((w.start + 100, w.end - 100) for w in windows if w.chrom == "a")
    assert covered[0][0] == 100 and 100_000 - 900 < covered[-1][1] <= 100_000 - 100
    assert all(one[1] == other[0] for one, other in itertools.pairwise(covered))
    assert all(w.start >= 0 and w.end <= LENGTHS[w.chrom] and w.end - w.start == 1000 for w in windows)


def test_targets_stay_in_regions_and_sequences_on_the_chromosome():
    regions = [(Interval("a", 0, 2000), ""), (Interval("a", 50_000, 50_900), ""), *WHOLE[1:]]
    windows = [w for w in place(regions).windows if w.chrom == "a"]
    assert sorted((w.start + 100, w.end - 100) for w in windows) == [
        (100, 900),
        (900, 1700),
        (50_000, 50_800),
    ]


def test_order_and_choice_follow_the_seed():
    assert place(seed=1) == place(seed=1)
    assert place(seed=1).windows != place(seed=2).windows
    assert sorted(place(seed=1).windows) == sorted(place(seed=2).windows)
    limited = place(limits={"train": 7}).windows
    assert sum(w.subset == "train" for w in limited) == 7
    assert set(limited) <= set(place().windows)


def test_mostly_blacklisted_windows_are_left_out_and_counted():
    black = Regions([Interval("a", 10_000, 20_000), Interval("a", 15_000, 21_000)])
    kept, dropped = place(blacklist=black)
    assert dropped["blacklisted"] == len(place().windows) - len(kept) > 10
    assert all(2 * black.overlap("a", w.start + 100, w.end - 100) <= 800 for w in kept if w.chrom == "a")


def test_labels_choose_the_subset_and_train_keeps_away_from_held_out_regions():
    regions = [(Interval("a", 0, 50_000), "train"), (Interval("a", 50_000, 60_000), "valid"),
               (Interval("a", 60_000, 70_000), "test")]  # fmt: skip
    kept, dropped = place(regions, labelled=True, valid=[], test=[])
    assert {w.subset for w in kept} == {"train", "valid", "test"}
    assert max(w.end for w in kept if w.subset == "train") <= 50_000
    assert dropped["next to held-out"] == 0 or dropped["next to held-out"] == 1
    with pytest.raises(InputError, match="labelled train and overlaps"):
        place([*regions, (Interval("a", 59_990, 60_010), "train")], labelled=True, valid=[], test=[])


def test_an_empty_subset_is_refused():
    with pytest.raises(InputError, match="no valid window would be made"):
        place([(Interval("a", 0, 9000), ""), (Interval("b", 0, 700), ""), WHOLE[2]])


def test_an_empty_subset_says_why():
    black = Regions([Interval("b", 0, 20_000)], "black.bed")
    with pytest.raises(InputError, match=r"of b:0-20000: 24 more than half blacklisted by black\.bed\."):
        place(blacklist=black)
    with pytest.raises(InputError, match=r"of c:0-700: 1 too short for 1000 bp .* 800 bp of target\."):
        place([*WHOLE[:2], (Interval("c", 0, 700), "")])
    with pytest.raises(InputError, match=r"no train window .*: valid and test name every chromosome"):
        place(valid=["a", "b"])
    labelled = [(Interval("a", 0, 9000), "train"), (Interval("b", 0, 9000), "valid")]
    with pytest.raises(InputError, match=r"no test window .*: no region is labelled test"):
        place(labelled, labelled=True)


def test_a_chromosome_is_named_once():
    with pytest.raises(InputError, match="valid names chromosome b twice"):
        allowed_regions(None, LENGTHS, False, ["b", "b"], ["c"])


def test_a_blacklist_keeps_to_the_chromosomes_it_shares_with_the_fasta(tmp_path):
    bed = tmp_path / "b.bed"
    bed.write_text("a\t0\t10\nelsewhere\t0\t999999\n")
    assert read_blacklist(bed, LENGTHS)[0] == Interval("a", 0, 10)
    bed.write_text("a\t0\t10\nb\t0\t20001\n")
    with pytest.raises(InputError, match=r"b\.bed, line 2: end 20001 is off the end of b, which is 20000 bp"):
        read_blacklist(bed, LENGTHS)


def test_regions_overlap():
    regions = Regions([Interval("a", 5, 10), Interval("a", 8, 12), Interval("a", 20, 30)])
    assert regions.overlap("a", 0, 25) == 12
    assert regions.overlap("a", 12, 20) == 0
    assert regions.within("a", 11, 21) == [Interval("a", 11, 12), Interval("a", 20, 21)]
    assert regions.overlap("z", 0, 5) == 0


@pytest.mark.parametrize(("stride", "longest"), [(1600, 8), (800, 8), (400, 16), (200, 32), (50, 32)])
def test_runs_of_neighbours_cover_as_much_where_targets_overlap(stride, longest):
    windows = [w for w in place(stride=stride).windows if w.chrom == "a"]
    runs = [[windows[0]]]
    for one, other in itertools.pairwise(windows):
        if other.start - one.start != stride:
            runs.append([])
        runs[-1].append(other)
    assert sorted({len(run) % longest for run in runs[:-1]})[0] == 0  # two runs may meet by chance
    assert sum(len(run) != longest for run in runs) < len(runs) / 2
