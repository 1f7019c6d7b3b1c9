"""What the served model answers, against the model itself and NumPy written here."""

import json
import threading

import numpy as np
import pandas as pd
import pytest

from serving_models import CHROMOSOMES, GENOME, read

PAIR = str.maketrans("ACGTN", "TGCAN")


def random_letters(length, seed=0):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def around(chrom, start, end):
    """Letters of the genome, N where there is none."""
    text = GENOME[chrom].upper()
    return "".join(text[at] if 0 <= at < len(text) else "N" for at in range(start, end))


def padded(letters, length):
    left = (length - len(letters)) // 2
    return "N" * left + letters + "N" * (length - len(letters) - left)


def sequences(*letters):
    return pd.DataFrame({"sequence": list(letters)})


def wide(answer, column="value"):
    """`[rows, tracks, ...]` of an answer."""
    rows = answer["row"].max() + 1
    return np.array(answer[column].tolist()).reshape(rows, len(answer) // rows, *np.shape(answer[column][0]))


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_sequences_are_answered_as_the_model_does(toy):
    letters = [random_letters(size, size) for size in (2048, 2047, 1, 700, 2048)]
    native = toy.native([padded(one, 2048) for one in letters])
    model = read(toy)
    answer = model.predict(None, sequences(*letters[:3], letters[3].lower(), letters[4]))
    assert list(answer.columns) == [
        "row",
        "head",
        "index",
        "identifier",
        "value",
        "padded_left",
        "padded_right",
    ]
    assert answer["row"].tolist() == np.repeat(range(5), 3).tolist()
    assert set(answer["head"]) == {"human"}
    assert answer["index"].tolist() == [10, 11, 12] * 5
    assert answer["identifier"].tolist() == ["open", "plus", "minus"] * 5
    close(wide(answer), native.mean(1))
    assert wide(answer, "padded_left")[:, 0].tolist() == [0, 0, 1023, 674, 0]
    assert wide(answer, "padded_right")[:, 0].tolist() == [0, 1, 1024, 674, 0]
    close(wide(model.predict(None, sequences(*letters), {"aggregate": "max"})), native.max(1))
    close(wide(model.predict(None, sequences(*letters), {"log1p": True})), np.log1p(native.mean(1)))
    chosen = {"aggregate": "none", "bins": "3-6", "tracks": "minus,10"}
    answer = model.predict(None, sequences(*letters), chosen)
    close(wide(answer, "values"), native[:, 3:6, [2, 0]].swapaxes(1, 2))
    # one of sixteen bins is cropped, so bin 3 of the answer is the fourth of the window from its second on
    assert answer["first_bin"].tolist() == [3] * 10
    assert wide(answer, "start")[:, 0].tolist() == [512, 512, 512 - 1023, 512 - 674, 512]
    assert json.dumps(answer.to_dict("records"), allow_nan=False)


def test_letters_that_are_none_of_the_four_are_unknown(toy):
    letters = list(random_letters(2048))
    letters[100:111] = "RYSWKMBDHVn"
    plain = "".join("N" if 100 <= at < 111 else letter for at, letter in enumerate(letters))
    model = read(toy)
    close(wide(model.predict(None, sequences("".join(letters)))), toy.native([plain]).mean(1))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_size_of_a_batch_changes_nothing(toy, monkeypatch, size):
    letters = [random_letters(2048, seed) for seed in range(4)]
    monkeypatch.setenv("MLPROJECT_BATCH_SIZE", str(size))
    close(wide(read(toy).predict(None, sequences(*letters))), toy.native(letters).mean(1))


def test_strands(toy):
    """The reverse complement turned back: bins reversed, plus and minus exchanged."""
    letters = [random_letters(2048, seed) for seed in range(2)] + [random_letters(301)]
    windows = [padded(one, 2048) for one in letters]
    forward = toy.native(windows)
    reverse = toy.native([window.translate(PAIR)[::-1] for window in windows])[:, ::-1, [0, 2, 1]]
    model = read(toy)
    for strands, expected in (("reverse", reverse), ("both", (forward + reverse) / 2)):
        answer = model.predict(None, sequences(*letters), {"strands": strands, "aggregate": "none"})
        close(wide(answer, "values"), expected.swapaxes(1, 2))
    answer = model.predict(None, sequences(*letters), {"strands": "both", "tracks": "plus", "bins": "0-2"})
    close(wide(answer)[:, 0], ((forward + reverse) / 2)[:, :2, 1].mean(1))


def test_strands_after_an_odd_crop_share_all_bins_but_one(odd):
    """Bins 1 to 5 of eight forward, 2 to 6 turned back: bins 1 to 4 of five are of both."""
    window = random_letters(1024)
    forward = odd.native([window])
    reverse = odd.native([window.translate(PAIR)[::-1]])[:, ::-1, [0, 2, 1]]
    expected = (forward[:, 1:] + reverse[:, :-1]) / 2
    model = read(odd)
    answer = model.predict(None, sequences(window), {"strands": "both", "aggregate": "none"})
    close(wide(answer, "values"), expected.swapaxes(1, 2))
    assert (answer["first_bin"][0], answer["start"][0]) == (1, 256)
    # shifted by one bin, a window's bins are the same up to what is at its ends
    close(wide(model.predict(None, sequences(window), {"strands": "reverse"})), reverse[:, :-1].mean(1))
    assert len(model.predict(None, sequences(window), {"aggregate": "none"})["values"][0]) == 5


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ("", ["open", "plus", "minus"]),
        ("12", ["minus"]),
        ("10-11", ["open", "plus"]),
        ("plus, open", ["plus", "open"]),
        ("cage", ["plus", "minus"]),
        ("DNASE,CAGE,11", ["open", "plus", "minus"]),
        ("minus,10-12", ["minus", "open", "plus"]),
    ],
)
def test_tracks_by_index_identifier_and_category(toy, words, chosen):
    native = toy.native([padded("ACGT", 2048)])
    answer = read(toy).predict(None, sequences("ACGT"), {"tracks": words})
    assert answer["identifier"].tolist() == chosen
    close(answer["value"], native.mean(1)[0, [["open", "plus", "minus"].index(name) for name in chosen]])


def test_another_head_of_which_nothing_is_known(toy):
    answer = read(toy).predict(None, sequences("ACGT"), {"head": "mouse", "tracks": "OTHER"})
    assert answer["identifier"].tolist() == ["mouse_0", "mouse_1"]
    close(answer["value"], toy.native([padded("ACGT", 2048)], "mouse").mean(1)[0])


# --- with a genome --------------------------------------------------------------------------------------------------


def test_intervals(toy, fasta):
    """Centred, the odd base on the right; off the chromosome is N."""
    table = pd.DataFrame(
        [("c1", 2000, 4048), ("c1", 3000, 3001), ("c1", 0, 100), ("c2", 0, 700), ("c1", 5990, 6000)],
        columns=["chrom", "start", "end"],
    )
    starts = [
        start - (2048 - (end - start)) // 2 for start, end in zip(table["start"], table["end"], strict=True)
    ]
    windows = [around(chrom, at, at + 2048) for chrom, at in zip(table["chrom"], starts, strict=True)]
    model = read(toy)
    answer = model.predict(None, table)
    close(wide(answer), toy.native(windows).mean(1))
    assert wide(answer, "padded_left")[:, 0].tolist() == [max(0, -at) for at in starts]
    sizes = table["chrom"].map(CHROMOSOMES)
    assert wide(answer, "padded_right")[:, 0].tolist() == [
        max(0, at + 2048 - size) for at, size in zip(starts, sizes, strict=True)
    ]
    answer = model.predict(None, table.astype({"start": float}), {"aggregate": "none", "bins": "2-3"})
    assert wide(answer, "start")[:, 0].tolist() == [at + 3 * 128 for at in starts]


def test_variants(toy, fasta):
    """The difference of two predictions; an indel takes more or less of the genome on the right."""
    rows, pairs = [], []
    for chrom, pos, length, alt in (
        ("c1", 3000, 1, "T"),
        ("c1", 3000, 4, "g"),
        ("c1", 3100, 1, "ACGTACGT"),
        ("c1", 3, 2, "CC"),
        ("c2", 699, 1, "TT"),
    ):
        ref = GENOME[chrom][pos : pos + length]
        rows.append((chrom, pos, ref.swapcase(), alt))
        start = pos - (2048 - length) // 2
        after = around(chrom, pos + length, start + 2048 + length - len(alt))
        changed = around(chrom, start, pos) + alt.upper() + after
        pairs.append((around(chrom, start, start + 2048), changed))
    table = pd.DataFrame(rows, columns=["chrom", "pos", "ref", "alt"])
    ref, alt = (toy.native(list(windows)) for windows in zip(*pairs, strict=True))
    model = read(toy)
    answer = model.predict(None, table[["alt", "ref", "pos", "chrom"]])
    close(wide(answer, "ref_value"), ref.mean(1))
    close(wide(answer, "alt_value"), alt.mean(1))
    np.testing.assert_allclose(wide(answer, "difference"), alt.mean(1) - ref.mean(1), atol=1e-6)
    assert "value" not in answer
    assert wide(answer, "padded_left")[:, 0].tolist() == [0, 0, 0, 1020, 324]
    assert wide(answer, "padded_right")[:, 0].tolist() == [0, 0, 0, 0, 1024]  # of the reference
    answer = model.predict(None, table, {"aggregate": "none", "tracks": "plus"})
    close(wide(answer, "ref_values")[:, 0], ref[..., 1])
    np.testing.assert_allclose(wide(answer, "differences")[:, 0], (alt - ref)[..., 1], atol=1e-6)


def test_an_old_index_beside_the_genome_is_not_read(toy, fasta):
    import os

    import pyfaidx

    index = fasta.with_name("genome.fa.fai")
    pyfaidx.Faidx(str(fasta), indexname=str(index)).close()
    place = pd.DataFrame({"chrom": ["c1"], "start": [2500], "end": [2600]})
    expected = read(toy).predict(None, place)["value"].tolist()
    wrong = index.read_text().replace("c1\t6000\t4", "c1\t6000\t9")
    index.write_text(wrong)
    os.utime(index, (0, 0))
    assert read(toy).predict(None, place)["value"].tolist() == expected
    assert index.read_text() == wrong


# --- other kinds ----------------------------------------------------------------------------------------------------


def test_activity(activity, fasta):
    window = random_letters(512)
    model = read(activity)
    answer = model.predict(None, sequences(window, "ACGT"), {"strands": "both", "aggregate": "none"})
    windows = [window, padded("ACGT", 512)]
    expected = [
        activity.native([one.translate(PAIR)[::-1] if turned else one for one in windows], "activity")
        for turned in (False, True)
    ]
    close(wide(answer), np.mean(expected, 0))
    assert answer[["head", "index", "identifier"]].values.tolist() == [["activity", 0, "activity"]] * 2
    variant = pd.DataFrame({"chrom": ["c1"], "pos": [3000], "ref": [GENOME["c1"][3000]], "alt": ["A"]})
    assert len(model.predict(None, variant)) == 1


def test_a_joint_model_has_sequences_at_the_left(joint):
    """As it was trained: nothing is before them, and the end behind them is no N."""
    model = read(joint)
    letters = ["ACGTA", "ACGTACGTA", "NCN"]
    windows = [one.ljust(9, "N") for one in letters]
    close(wide(model.predict(None, sequences(*letters))), joint.native(windows, "activity"))
    answer = model.predict(None, sequences(*letters), {"strands": "reverse", "tracks": "b"})
    turned = [one.translate(PAIR)[::-1].ljust(9, "N") for one in letters]
    close(wide(answer)[:, 0], joint.native(turned, "activity")[:, 1])
    assert answer["padded_left"].tolist() == [0, 0, 0]
    assert answer["padded_right"].tolist() == [4, 0, 6]


def test_threads_get_their_own_answers(toy, fasta):
    model = read(toy)
    model.warm_up()
    tables = [
        pd.DataFrame(
            {"chrom": "c1", "start": np.arange(5) * 137 + seed, "end": np.arange(5) * 137 + seed + 50}
        )
        for seed in range(4)
    ]
    expected = [model.predict(None, table)["value"].tolist() for table in tables]
    found = [None] * 4

    def ask(place):
        found[place] = model.predict(None, tables[place])["value"].tolist()

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        close(one, other)


def test_the_answer_writes_no_more_digits_than_float32_has(toy):
    (value,) = read(toy).predict(None, sequences("ACGT"), {"tracks": "open"})["value"]
    assert len(repr(value)) <= 12
    assert np.float32(value) == np.float32(repr(value))
