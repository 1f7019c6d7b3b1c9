import itertools
import re

import numpy as np
import pytest

from enformer_core import dna
from mlproject.automaton import draw
from mlproject.constraints import Constraints, parse_constraints, parse_fixed
from mlproject.errors import InputError
from mlproject.motifs import ENZYMES, parse_forbidden

CLASSES = {
    **{letter: letter for letter in "ACGT"},
    **{"R": "[AG]", "Y": "[CT]", "S": "[CG]", "W": "[AT]", "K": "[GT]", "M": "[AC]"},
    **{"B": "[CGT]", "D": "[AGT]", "H": "[ACT]", "V": "[ACG]", "N": "[ACGT]"},
}
# of six or seven letters, of which there are few enough to look at each
SMALL = {
    "nothing": Constraints(6),
    "a palindrome": Constraints(6, forbidden=("GATC",)),
    "two motifs, one strand each": Constraints(6, forbidden=("GAC", "TTG")),
    "one within another": Constraints(6, forbidden=("GACT", "AC")),
    "letters for several bases": Constraints(7, forbidden=("RCNY", "SW")),
    "GC": Constraints(6, gc=(0.5, 0.7)),
    "one GC count": Constraints(6, gc=(0.5, 0.5)),
    "no GC": Constraints(6, gc=(0.0, 0.0)),
    "no run": Constraints(6, max_homopolymer=1),
    "runs of two": Constraints(6, max_homopolymer=2),
    "runs as long as all": Constraints(6, max_homopolymer=6),
    "fixed": Constraints(6, {1: "G", 2: "A", 5: "T"}),
    "fixed in part": Constraints(6, {0: "R", 3: "Y", 4: "S"}),
    "longer than all": Constraints(6, forbidden=("GGATCCA",)),
    "everything": Constraints(7, {0: "G", 3: "W", 6: "C"}, ("GAC", "CNG"), (0.4, 0.6), 2),
    "one letter": Constraints(1, forbidden=("A",)),
}


def texts(codes: np.ndarray) -> list[str]:
    return ["".join("ACGT"[base] for base in row) for row in codes]


def other_strand(text: str) -> str:
    return text.translate(str.maketrans("ACGT", "TGCA"))[::-1]


def obeys(text: str, constraints: Constraints) -> bool:
    """As it is said, with the standard library."""
    for motif in constraints.forbidden:
        pattern = "".join(CLASSES[letter] for letter in motif)
        if re.search(pattern, text) or re.search(pattern, other_strand(text)):
            return False
    share = sum(letter in "GC" for letter in text) / len(text)
    longest = max(len(list(run)) for _, run in itertools.groupby(text))
    return (
        constraints.gc[0] - 1e-9 <= share <= constraints.gc[1] + 1e-9
        and longest <= (constraints.max_homopolymer or len(text))
        and all(re.fullmatch(CLASSES[letter], text[place]) for place, letter in constraints.fixed.items())
    )


@pytest.fixture(params=SMALL.values(), ids=SMALL.keys())
def small(request):
    """Constraints, and every sequence that obeys them."""
    constraints = request.param
    everything = map("".join, itertools.product("ACGT", repeat=constraints.length))
    return constraints, {text for text in everything if obeys(text, constraints)}


def test_what_can_be_written_is_what_obeys(small):
    """Letter by letter: allowed is a letter after which one of the sequences goes on, and no other."""
    constraints, good = small
    plan = constraints.plan()
    for position in range(constraints.length):
        goes_on: dict[str, set[str]] = {}
        for text in good:
            goes_on.setdefault(text[:position], set()).add(text[position])
        written = np.array([list(dna.codes(text)) for text in goes_on], np.uint8)
        state, gc_count = np.zeros(len(written), int), np.zeros(len(written), int)
        for place in range(position):
            state, gc_count = plan.advance(state, gc_count, written[:, place])
        allowed = plan.allowed(state, gc_count, position)
        assert allowed.tolist() == [[base in letters for base in "ACGT"] for letters in goes_on.values()]


def test_satisfied_is_what_obeys(small):
    constraints, good = small
    everything = np.array(list(itertools.product(range(4), repeat=constraints.length)), np.uint8)
    satisfied = constraints.plan().satisfied(everything)
    assert set(texts(everything[satisfied])) == good


def test_random_sequences_are_all_of_them_with_the_wanted_probabilities(small):
    constraints, good = small
    share = np.array([0.4, 0.3, 0.2, 0.1])
    count = 20_000
    codes = constraints.plan().random(count, share, np.random.default_rng(0))
    assert set(texts(codes)) <= good
    # the free positions as independent letters, given that all is obeyed
    given = {place for place, letter in constraints.fixed.items() if letter in "ACGT"}
    weights = {
        text: np.prod(
            [share["ACGT".index(letter)] for place, letter in enumerate(text) if place not in given]
        )
        for text in good
    }
    # by features of sequences, each with three letters, since there are too many to compare each
    for place in (0, (constraints.length - 1) // 2, constraints.length - 1):
        for letter in "ACGT":
            wanted = sum(weight for text, weight in weights.items() if text[place] == letter)
            wanted /= sum(weights.values())
            found = np.mean(codes[:, place] == "ACGT".index(letter))
            # four standard errors; there are about 150 comparisons
            assert abs(found - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / count) + 1e-12
    if len(good) < 60:
        assert set(texts(codes)) == good


@pytest.mark.parametrize("seed", range(8))
def test_long_sequences_obey(seed):
    """Random constraints on 120 letters, with motifs and fixed letters, that some sequence meets."""
    rng = np.random.default_rng(seed)
    motifs = tuple("".join(rng.choice(list("ACGTRYN"), 6, p=[0.2] * 4 + [0.1, 0.05, 0.05])) for _ in range(4))
    fixed = {int(place): "ACGT"[rng.integers(4)] for place in rng.choice(120, 10, replace=False)}
    constraints = Constraints(120, fixed, motifs, (0.35, 0.45), 4)
    plan = constraints.plan()
    codes = plan.random(30, [1, 1, 1, 1], rng)
    assert plan.satisfied(codes).all()
    assert all(obeys(text, constraints) for text in texts(codes))


def test_the_first_random_sequences_of_many_are_those_of_a_few():
    plan = Constraints(30, gc=(0.4, 0.6)).plan()
    many = plan.random(20, [1, 1, 1, 1], np.random.default_rng(3))
    assert np.array_equal(plan.random(5, [1, 1, 1, 1], np.random.default_rng(3)), many[:5])
    assert plan.random(0, [1, 1, 1, 1], np.random.default_rng(3)).shape == (0, 30)


def test_a_share_that_is_far_from_the_composition_is_met():
    """396 of 400 letters G or C have a probability of about 1e-405 here, less than a number holds."""
    plan = Constraints(400, gc=(0.99, 1.0), max_homopolymer=20).plan()
    codes = plan.random(2, [10, 1, 1, 10], np.random.default_rng(0))
    assert plan.satisfied(codes).all()


def test_a_composition_without_a_letter_that_is_needed():
    plan = Constraints(5, {0: "A"}, gc=(0.4, 1.0)).plan()
    assert plan.random(2, [0, 1, 0, 1], np.random.default_rng(0))[:, 0].tolist() == [0, 0]
    with pytest.raises(InputError, match=r"composition: found \[1, 0, 0, 1\]; .* cannot meet"):
        plan.random(2, [1, 0, 0, 1], np.random.default_rng(0))
    for shares in ([0, 0, 0, 0], [1, 1, 1], [1, -1, 1, 1], [1, np.nan, 1, 1]):
        with pytest.raises(InputError, match="expected a share of A, C, G and T"):
            plan.random(2, shares, np.random.default_rng(0))


def test_drawing_follows_the_softmax():
    numbers = (np.arange(10_000) + 0.5) / 10_000
    logits = np.log([0.1, 0.2, 0.3, 0.4]) + 7
    found = np.bincount(draw(np.tile(logits, [10_000, 1]), numbers), minlength=4) / 10_000
    np.testing.assert_allclose(found, [0.1, 0.2, 0.3, 0.4], atol=2e-4)


def test_what_has_no_probability_is_never_drawn():
    never = -np.inf
    edges = np.array([0.0, np.nextafter(1, 0)])
    assert draw(np.array([[never, 0, 0, never]] * 2), edges).tolist() == [1, 2]
    assert draw(np.array([[never, never, never, 3]] * 2), edges).tolist() == [3, 3]


def test_known_letters():
    plan = Constraints(5, {1: "T", 2: "R", 4: "A"}).plan()
    assert plan.known.tolist() == [4, 3, 4, 4, 0]
    assert plan.known.dtype == np.uint8


def test_letters_that_are_none_do_not_satisfy():
    plan = Constraints(3).plan()
    assert plan.satisfied(np.array([[0, 1, 2], [0, 4, 2], [5, 1, 2]], np.uint8)).tolist() == [
        True,
        False,
        False,
    ]


def test_what_a_sequence_breaks():
    plan = Constraints(10, {0: "A"}, ("GAATTC", "GGG"), (0.0, 0.5), 2).plan()
    broken = ["--fixed", "--forbid GAATTC (EcoRI)", "--forbid GGG", "--max_homopolymer"]
    assert plan.broken(dna.codes("TGAATTCCCC")) == broken
    assert plan.broken(dna.codes("ACGCGTGCAC")) == ["--gc_max"]
    assert plan.broken(dna.codes("ATATATATAT")) == []


# --- constraints that contradict each other -----------------------------------------------------------------------

CONFLICTS = {
    "a motif in what is fixed": (
        {"length": 20, "fixed": "2:GAATTC,12:AAA", "forbid": ["BsaI", "EcoRI", "KpnI"], "gc_max": 0.9},
        "--fixed 2:GAATTC and --forbid GAATTC (EcoRI) cannot be met together: no sequence of 20 letters obeys both",
    ),
    "the other strand": (
        {"length": 20, "fixed": "2:GAGACC", "forbid": ["BsaI"]},
        "--fixed 2:GAGACC and --forbid GGTCTC (BsaI) cannot be met together",
    ),
    "across two pieces, from one letter to the next": (
        {"length": 30, "fixed": "0:GGTC,4:TC,10:TTT", "forbid": ["GGTCTC"]},
        "--fixed 0:GGTCTC and --forbid GGTCTC (BsaI) cannot be met together",
    ),
    "GC without runs": (
        {"length": 20, "gc_min": 1.0, "max_homopolymer": 1, "forbid": ["GCG", "AAAA"], "fixed": "3:C"},
        "--forbid GCG, --gc_min 1 and --max_homopolymer 1 cannot be met together: no sequence of 20 letters obeys all",
    ),
    "GC of what is fixed": (
        {"length": 20, "gc_max": 0.2, "fixed": "0:AAGCGC,10:C", "max_homopolymer": 8},
        "--fixed 0:AAGCGC, --fixed 10:C and --gc_max 0.2 cannot be met together",
    ),
    "no count between": (
        {"length": 11, "gc_min": 0.5, "gc_max": 0.5, "forbid": ["TTT"]},
        "--gc_min 0.5 and --gc_max 0.5 cannot be met together",
    ),
    "runs in what is fixed": (
        {"length": 20, "fixed": "4:CCCC", "max_homopolymer": 3},
        "--fixed 4:CCCC and --max_homopolymer 3 cannot be met together",
    ),
    "one alone": (
        {"length": 20, "forbid": ["EcoRI", "N"]},
        "--forbid N cannot be met: no sequence of 20 letters",
    ),
}


@pytest.mark.parametrize("words, message", CONFLICTS.values(), ids=CONFLICTS.keys())
def test_a_conflict_names_what_is_enough_for_it_and_nothing_else(words, message):
    with pytest.raises(InputError) as raised:
        parse_constraints(**words).plan()
    assert str(raised.value).startswith(message)
    assert "change" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_part_of_a_named_conflict_can_be_met():
    """Random small constraints: those named cannot be met, by looking at all sequences; without any one they can."""
    rng = np.random.default_rng(0)
    everything = ["".join(letters) for letters in itertools.product("ACGT", repeat=5)]
    seen = 0
    for _ in range(60):
        motifs = {"".join(rng.choice(list("ACGTSW"), 2)) for _ in range(4)}
        pieces = [f"{place}:{'ACGT'[rng.integers(4)]}" for place in (0, 2, 4) if rng.random() < 0.5]
        words = {
            "fixed": pieces,
            "forbid": sorted(motifs),
            "gc_min": float(rng.choice([0, 0.6])),
            "gc_max": float(rng.choice([0.8, 1])),
            "max_homopolymer": int(rng.integers(3)),
        }
        try:
            _parsed(words).plan()
            assert any(obeys(text, _parsed(words)) for text in everything)
        except InputError as error:
            seen += 1
            named = re.findall(r"--(\w+) ([^, ]+)", str(error).partition(" cannot be met")[0])
            chosen = [(name, word) for name, word in named]
            assert not any(obeys(text, _parsed(_words(chosen))) for text in everything)
            for left_out in chosen:
                rest = _words([one for one in chosen if one != left_out])
                assert any(obeys(text, _parsed(rest)) for text in everything), (str(error), left_out)
    assert seen > 10


def _words(chosen: list[tuple[str, str]]) -> dict:
    words: dict = {"fixed": [], "forbid": []}
    for name, word in chosen:
        if name in words:
            words[name].append(word)
        else:
            words[name] = int(word) if name == "max_homopolymer" else float(word)
    return words


def _parsed(words: dict) -> Constraints:
    return parse_constraints(5, **{**words, "fixed": ",".join(words["fixed"])})


def test_too_many_beginnings_of_motifs():
    with pytest.raises(InputError, match="--forbid: the motifs have more than 50000 combinations"):
        Constraints(100, forbidden=("G" + "N" * 30 + "C",)).plan()


def test_too_large_a_table():
    with pytest.raises(InputError, match=r"--forbid: the table of 5000 letters and .* takes .* GB"):
        Constraints(5000, forbidden=("G" + "N" * 13 + "C",), gc=(0.4, 0.6)).plan()


# --- words --------------------------------------------------------------------------------------------------------


def test_fixed_as_a_template_and_as_pieces():
    assert parse_fixed("nnGAanR", 7) == {2: "G", 3: "A", 4: "A", 6: "R"}
    assert parse_fixed(" 2:gaa, 6:R ", 7) == {2: "G", 3: "A", 4: "A", 6: "R"}
    assert parse_fixed("0:GANT,2:CT", 7) == {0: "G", 1: "A", 2: "C", 3: "T"}
    assert parse_fixed("", 7) == {}


@pytest.mark.parametrize(
    "word, message",
    [
        ("ACGT", r"template of 4 letters, expected 7 .* 0:GAATTC"),
        ("ACGTXAA", r"found 'X' at 4 \(from 0\), expected A, C, G, T, N"),
        ("0:ACGT,5:AAA", r"5:AAA ends at 8, after the 7 letters"),
        ("0:ACGT,3:A", r"position 3 is T and A"),
        ("-1:A", r"found '-1:A', expected POSITION:LETTERS"),
        ("2:", r"found '2:', expected POSITION:LETTERS"),
        ("1:A,TT", r"found 'TT', expected POSITION:LETTERS"),
    ],
)
def test_fixed_that_means_nothing(word, message):
    with pytest.raises(InputError, match=f"^--fixed: .*{message}"):
        parse_fixed(word, 7)


def test_forbidden_as_enzymes_and_letters():
    words = ["EcoRI", "bsai", "gaattc", " RCNY ", "", "Esp3I", "BsmBI"]
    assert parse_forbidden(words) == ("GAATTC", "GGTCTC", "RCNY", "CGTCTC")


@pytest.mark.parametrize(
    "word, message",
    [
        ("EcoR1", "did you mean EcoRI?"),
        ("Xhol", "did you mean XhoI?"),
        ("Cut", "write its site in letters"),
        ("GAAXTC", "write its site in letters"),
    ],
)
def test_forbidden_that_means_nothing(word, message):
    with pytest.raises(InputError, match=f"^--forbid: found '{word}', .*{re.escape(message)}"):
        parse_forbidden([word])


def test_sites_are_letters_and_names_are_not():
    assert all(set(site) <= set(CLASSES) for site in ENZYMES.values())
    assert not [name for name in ENZYMES if set(name.upper()) <= set(CLASSES)]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"length": 0}, "--length: found 0"),
        ({"gc_min": -0.1}, "--gc_min: found -0.1; expected a share from 0 to 1"),
        ({"gc_max": 40.0}, "--gc_max: found 40; expected a share"),
        ({"gc_min": float("nan")}, "--gc_min: found nan; expected a share"),
        ({"gc_min": 0.6, "gc_max": 0.5}, "--gc_min: found 0.6, above --gc_max 0.5"),
        ({"max_homopolymer": -1}, "--max_homopolymer: found -1; expected 1 or more, or 0 for no limit"),
    ],
)
def test_values_that_mean_nothing(changed, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        parse_constraints(**{"length": 10, **changed})


@pytest.mark.parametrize("fixed", [{3: "A"}, {-1: "A"}, {0: "X"}, {0: "AC"}])
def test_fixed_letters_that_cannot_be(fixed):
    with pytest.raises(InputError, match=r"^--fixed: found "):
        Constraints(3, fixed)


def test_a_share_that_is_a_whole_number_of_letters():
    """0.57 * 100 is 56.99999999999999 and 0.29 * 100 is 28.999999999999996."""
    assert Constraints(100, gc=(0.29, 0.57)).gc_counts == (29, 57)
    assert Constraints(100, gc=(0.291, 0.579)).gc_counts == (30, 57)
