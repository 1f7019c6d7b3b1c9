import hashlib
import json
import os

import numpy as np
import pytest

from mlproject.data import files
from mlproject.data.constructs import Site, read_constructs
from mlproject.data.genome import Genome
from mlproject.data.placement import build, check, place
from mlproject.errors import InputError

PAIR = dict(zip("ACGT", "TGCA", strict=True))
LENGTH = 100


def letters(length: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def turned(sequence: str) -> str:
    return "".join(PAIR[letter] for letter in reversed(sequence))


REFERENCE = letters(600, 0)
SHORT, ODD, LONG = letters(40, 1), letters(61, 2), letters(135, 3)  # and "gone", a deletion
SITE = SHORT[10:32]


class Toy:
    """Inputs of four payloads; `build` makes constructs of them with changed files or options."""

    def __init__(self, folder):
        self.folder = folder
        self.write("r.fa", f">other\nACGT\n>c\n{REFERENCE}\n")
        self.write(
            "p.fa", f">short~1\n{SHORT.lower()}\n>odd\n{ODD[:-22]}{SITE}\n>long\n{LONG}\n>spare\n{SHORT}\n"
        )
        self.write("s.bed", "short_1\t10\t32\tx\nlong\t0\t20\tcut\nlong\t30\t60\ty\n")
        self.write(
            "t.tsv",
            "MenDel.Name\tgroups\tfoldchange\tactivity\n"
            "short_1\tg\t1\t0.5\nshort_1\tg\t1\t1\nodd\th\t1\t2\nlong\tg\t1\t3\ngone\ti\t1\t0\nnone\ti\t1\tNA\n",
        )

    def write(self, name, text):
        (self.folder / name).write_text(text)

    def check(self, **changes):
        options = {
            "output": self.folder / "out", "table": self.folder / "t.tsv", "payloads": self.folder / "p.fa",
            "sites": self.folder / "s.bed", "reference": self.folder / "r.fa", "locus": "c:200-260",
            "length": LENGTH, "fold_ratios": ("train=2", "test=1"), "deletions": ("gone",),
            "work_dir": self.folder / "work",
        } | changes  # fmt: skip
        paths = [options.pop(n) for n in ("output", "table", "payloads", "sites", "reference", "locus")]
        return check(*paths, **options)

    def build(self, **changes):
        summary = build(self.check(**changes))
        return {one.name: one for one in read_constructs(self.folder / "out")}, summary


@pytest.fixture
def toy(tmp_path):
    return Toy(tmp_path)


def test_constructs_are_put_together_as_by_hand(toy):
    found, summary = toy.build()
    odd = ODD[:-22] + SITE
    assert {name: one.sequence for name, one in found.items()} == {
        "short_1": REFERENCE[170:200] + SHORT + REFERENCE[260:290],
        "odd": REFERENCE[181:200] + odd + REFERENCE[260:280],
        "long": LONG[17:117],
        "gone": REFERENCE[150:200] + REFERENCE[260:310],
    }
    assert [one.index for one in found.values()] == [0, 1, 2, 3]
    assert [one.activity for one in found.values()] == [0.75, 2, 3, 0]
    assert (
        [one.group for one in found.values()]
        == [one.cluster for one in found.values()]
        == ["g", "h", "g", "i"]
    )
    assert found["short_1"].fold == found["long"].fold
    assert found["short_1"].sites == (Site("x", 40, 62),)
    assert found["long"].sites == (Site("y", 13, 43),)
    assert found["odd"].sites == (Site("x", 19 + 39, 19 + 61),)  # not in the BED: found by its sequence
    for name in ("short_1", "odd"):
        (site,) = found[name].sites
        assert found[name].sequence[site.start : site.end] == SITE
    assert summary["sites"] == {"given": 3, "found": 1, "outside": ["long cut:0-20"]}
    assert summary["rows"] == {"read": 6, "without_value": 1}
    assert summary["payloads"] == {
        "in_table": 5, "without_value": ["none"], "without_sequence": [], "deletions": ["gone"],
        "not_in_table": 1, "letters_made_n": 0,
    }  # fmt: skip
    assert summary["placed"] == {
        "trimmed": 1, "same_sequence": 0, "flank_bp": 60 + 39 + 100, "flank_n_bp": 0, "off_chromosome_bp": 0
    }  # fmt: skip
    assert json.loads((toy.folder / "out" / "summary.json").read_text()) == summary
    counts = {fold: held["constructs"] for fold, held in summary["folds"].items()}
    assert counts == {fold: [one.fold for one in found.values()].count(fold) for fold in ("train", "test")}


def test_a_construct_reads_along_the_reverse_strand(toy):
    found, _ = toy.build(locus="c:260-200")
    assert found["short_1"].sequence == turned(REFERENCE[260:290]) + SHORT + turned(REFERENCE[170:200])
    assert found["gone"].sequence == turned(REFERENCE[150:200] + REFERENCE[260:310])
    odd = ODD[:-22] + SITE
    assert found["odd"].sequence == turned(REFERENCE[260:279]) + odd + turned(REFERENCE[180:200])


def test_off_the_chromosome_is_n_and_counted(toy):
    found, summary = toy.build(locus="c:10-595")
    assert found["gone"].sequence == "N" * 40 + REFERENCE[:10] + REFERENCE[595:] + "N" * 45
    assert summary["placed"]["off_chromosome_bp"] == 40 + 45 + 20 + 25 + 9 + 15
    toy.write("r.fa", f">c\n{REFERENCE[:195]}nrNNN{REFERENCE[200:]}\n")
    _, summary = toy.build(output=toy.folder / "out2"), toy.check(output=toy.folder / "out2").summary
    assert (summary["placed"]["flank_n_bp"], summary["placed"]["off_chromosome_bp"]) == (15, 0)


def test_only_the_flanks_that_are_needed_are_read(toy, monkeypatch):
    asked = []
    read = Genome.letters
    monkeypatch.setattr(Genome, "letters", lambda genome, where: asked.append(where) or read(genome, where))
    toy.check()  # a deletion needs half of the length on either side
    assert asked == [("c", 150, 200), ("c", 260, 310)]
    asked.clear()
    toy.check(deletions=(), without_sequence="drop", length=101)  # the shortest payload has 40 bp
    assert asked == [("c", 169, 200), ("c", 260, 291)]
    asked.clear()
    toy.check(deletions=(), without_sequence="drop", length=30)
    assert not asked


@pytest.mark.parametrize("length", range(1, 12))
def test_the_middle_is_the_same_however_long(length):
    payload, flanks = "ACGTAC", ("TTTTTTTTTTTT", "GGGGGGGGGGGG")
    placed = place(payload, [Site("a", 0, 6), Site("b", 2, 4)], flanks, length)
    assert len(placed.sequence) == length
    if length >= 6:
        left = (length - 6) // 2
        assert placed.sequence == "T" * left + payload + "G" * (length - 6 - left)
        assert placed.sites == (Site("a", left, left + 6), Site("b", left + 2, left + 4))
    else:
        cut = (6 - length) // 2
        assert placed.sequence == payload[cut : cut + length]
        assert Site("a", 0, 6) in placed.outside
        assert placed.sites == ((Site("b", 2 - cut, 4 - cut),) if cut <= 2 and cut + length >= 4 else ())
    assert placed.sequence[placed.start : placed.end] == payload[max(-int((length - 6) / 2), 0) :][:length]
    assert placed.trimmed_bp == max(6 - length, 0)


def test_folds_of_cross_validation_are_numbers(toy):
    found, summary = toy.build(split_by="construct", num_folds=4)
    assert sorted(one.fold for one in found.values()) == ["0", "1", "2", "3"]
    assert [one.cluster for one in found.values()] == list(found)
    assert list(summary["folds"]) == ["0", "1", "2", "3"]


def test_similar_payloads_stay_together_and_sharing_is_counted(toy):
    base = letters(90, 9)
    kin = [base, base[:80] + letters(10, 8), turned(base), letters(90, 7), letters(90, 6)]
    toy.write("p.fa", "".join(f">p{n}\n{one}\n" for n, one in enumerate(kin)))
    rows = "".join(f"p{n}\tg{n}\t{n}\n" for n in range(5))
    toy.write("t.tsv", f"MenDel.Name\tgroups\tactivity\n{rows}")
    changes = {"deletions": (), "sites": None, "num_folds": 3}
    found, summary = toy.build(split_by="similarity", similarity=0.5, **changes)
    assert [one.cluster for one in found.values()] == ["p0", "p0", "p0", "p3", "p4"]
    assert len({found[name].fold for name in ("p0", "p1", "p2")}) == 1
    assert max(held["shared_most"] for held in summary["folds"].values()) == 0
    summary = build(toy.check(output=toy.folder / "out2", split_by="construct", **changes | {"num_folds": 5}))
    assert sorted(held["shared_most"] for held in summary["folds"].values()) == [
        0,
        0,
        pytest.approx(50 / 60),
        1,
        1,
    ]


def test_payloads_without_a_sequence_are_refused_or_dropped(toy):
    with pytest.raises(
        InputError, match=r"table .*t\.tsv: gone: no sequence in .*p\.fa; add it, name it in del"
    ):
        toy.check(deletions=())
    found, summary = toy.build(deletions=(), without_sequence="drop")
    assert "gone" not in found and summary["payloads"]["without_sequence"] == ["gone"]


def test_constructs_of_one_sequence_are_counted(toy):
    toy.write("p.fa", f">short_1\n{SHORT}\n>odd\n{SHORT}\n>long\n{LONG}\n")
    assert toy.build(sites=None)[1]["placed"]["same_sequence"] == 1


def test_the_same_again_is_nothing_to_do_and_other_inputs_are_refused(toy):
    _, first = toy.build()
    content = (toy.folder / "out" / "constructs.tsv").read_bytes()
    assert first["sha256"] == hashlib.sha256(content).hexdigest()
    made = os.stat(toy.folder / "out" / "constructs.tsv").st_mtime_ns
    assert toy.build()[1] == first
    assert os.stat(toy.folder / "out" / "constructs.tsv").st_mtime_ns == made
    assert sorted(path.name for path in (toy.folder / "out").iterdir()) == ["constructs.tsv", "summary.json"]
    with pytest.raises(
        InputError, match="out: exists and was built with another length; choose another output"
    ):
        toy.check(length=90)
    (toy.folder / "out" / "constructs.tsv").write_bytes(content + b"\n")
    with pytest.raises(
        InputError, match=r"out: its constructs\.tsv is not what these options and inputs give"
    ):
        toy.check()
    toy.write("s.bed", "short_1\t10\t32\tz\n")
    with pytest.raises(InputError, match="out: exists and was built with another sites"):
        toy.check()
    for name in ("summary.json", "constructs.tsv"):
        (toy.folder / "out" / name).unlink()
        with pytest.raises(InputError, match="out: exists and was not made by build_constructs"):
            toy.check()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"output": ""}, "output is ''"), ({"length": 0}, "length is 0, expected 1 to 1048576 bp"),
     ({"length": 10**12}, "length is 1000000000000, expected 1 to 1048576 bp"),
     ({"seed": -1}, "seed is -1"), ({"similarity": 0.0}, "similarity is 0, expected above 0"),
     ({"num_folds": 1}, "num_folds is 1, expected 3 or more"), ({"num_folds": -2}, "num_folds is -2"),
     ({"num_folds": 2}, r"num_folds is 2, expected 3 or more \(one to hold out, one to validate on, the rest to train"),
     ({"num_folds": 10**6}, "num_folds is 1000000, and the 4 constructs are in 3 clusters"),
     ({"fold_ratios": ("train=2", "dev=1")}, "fold_ratios has 'dev=1', expected each of train, valid, test"),
     ({"fold_ratios": ("train=2", "train=1")}, "fold_ratios has 'train=1'"),
     ({"fold_ratios": ("train",)}, "fold_ratios has 'train'"), ({"fold_ratios": ("train=-1",)}, "'train=-1'"),
     ({"fold_ratios": ("train=inf",)}, "'train=inf'"), ({"fold_ratios": ("train=0",)}, "no fold above 0"),
     ({"fold_ratios": ()}, "no fold above 0"),
     ({"num_folds": 4}, r"num_folds is 4, and the 4 constructs are in 3 clusters \(split_by group\), which stay whole"),
     ({"num_folds": 5, "split_by": "construct"}, r"4 constructs are in 4 clusters \(split_by construct\)"),
     ({"deletions": ("gome",)}, "deletions names gome, which is not in table .*; did you mean gone"),
     ({"deletions": ("gone", "odd")}, "deletions names odd, which has a sequence"),
     ({"locus": "chr3:200-260"}, "has no chromosome chr3; it has other, c"), ({"locus": "c:200-601"}, "not inside c"),
     ({"table": "absent.tsv"}, r"table absent\.tsv: cannot be read \(No such file"),
     ({"reference": "absent.fa"}, r"fasta absent\.fa: cannot be read"), ({"sites": "absent.bed"}, "bed absent"),
     ({"value_column": "signal"}, "has no column 'signal'"), ({"group_column": "kin"}, "has no column 'kin'"),
     ({"value_column": "groups"}, "line 2: groups is 'g', expected a number")],
)  # fmt: skip
def test_bad_options_are_one_line_and_leave_nothing(toy, changes, said):
    with pytest.raises(InputError, match=said) as caught:
        toy.check(**changes)
    assert "\n" not in str(caught.value)
    assert not (toy.folder / "out").exists()


def test_a_table_without_any_value_is_refused(toy):
    toy.write("t.tsv", "MenDel.Name\tgroups\tactivity\nodd\tg\tNA\n")
    with pytest.raises(InputError, match="no payload has both a value of activity and a sequence"):
        toy.check(deletions=())


def test_a_full_disk_is_one_line_and_leaves_nothing(toy, monkeypatch):
    inputs = toy.check()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(InputError, match=r"output .*out: cannot be written \(No space left on device\)"):
        build(inputs)
    assert not [path for path in toy.folder.iterdir() if "out" in path.name]


def test_the_sox2_payloads(sox2_payloads, tmp_path):
    """The locus of the whole payload, put together from payloads and flanks, is the whole payload again."""
    whole = sequence_of(sox2_payloads / "Payload.fasta", "Sox2_Sox2_143kb")
    (tmp_path / "r.fa").write_text(f">whole\n{whole}\n")
    inputs = check(
        tmp_path / "out",
        sox2_payloads / "activity_table.tsv",
        sox2_payloads / "Payload.fasta",
        sox2_payloads / "Sox2_DistalLCR_WT_payload_DHS.bed",
        tmp_path / "r.fa",
        "whole:101359-142732",
        length=50_000,
        split_by="similarity",
        num_folds=5,
        deletions=("dLCR",),
        without_sequence="drop",
        work_dir=tmp_path / "work",
    )
    summary = build(inputs)
    found = {one.name: one for one in read_constructs(tmp_path / "out")}
    assert len(found) == 84 and summary["rows"] == {"read": 362, "without_value": 3}
    assert summary["payloads"]["without_value"] == ["MK6", "Parental"]
    assert summary["payloads"]["without_sequence"] == ["dSox2"]
    wild = found["Sox2_DistalLCR_WT"]
    left = (50_000 - 41_407) // 2
    assert wild.sequence[:left] == whole[101_359 - left : 101_359]
    assert (
        wild.sequence[left + 34 : left + 41_407] == whole[101_359:]
    )  # the payload has 34 bp of vector first
    assert [(site.name, site.start - left) for site in wild.sites] == [
        ("Sox2DHS19ext", 2_114), ("Sox2DHS23", 23_213), ("Sox2DHS24", 24_829),
    ]  # fmt: skip
    assert wild.activity == pytest.approx(np.mean(activities(sox2_payloads, "Sox2_DistalLCR_WT")))
    assert found["dLCR"].sequence == whole[101_359 - 25_000 : 101_359] + "N" * 25_000
    inverted = [site.name for site in found["Sox2_DistalLCR_WT~inverted"].sites]
    assert inverted == ["Sox2DHS24", "Sox2DHS23", "Sox2DHS19ext"]
    folds: dict[str, set[str]] = {}
    for one in found.values():
        folds.setdefault(one.cluster, set()).add(one.fold)
    assert all(len(own) == 1 for own in folds.values())
    assert {fold: held["constructs"] for fold, held in summary["folds"].items()} == dict(
        zip("01234", (21, 19, 18, 13, 13), strict=True)
    )


def sequence_of(path, name: str) -> str:
    records = path.read_text().split(">")
    return next("".join(r.split("\n")[1:]).upper() for r in records if r.split("\n")[0] == name)


def activities(folder, name: str) -> list[float]:
    rows = (line.split("\t") for line in (folder / "activity_table.tsv").read_text().splitlines())
    return [float(row[3]) for row in rows if row[0] == name and row[3] != "NA"]
