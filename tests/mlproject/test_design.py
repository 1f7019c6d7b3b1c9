import contextlib
import itertools
import random

import numpy as np
import pytest

from enformer_core import dna
from mlproject.constraints import Constraints, parse_constraints
from mlproject.design import MASKED, diversity, evolve, nearest, read_start, sample
from mlproject.errors import InputError

FREE = Constraints(12).plan()
STRICT = parse_constraints(40, "0:GAATTC,30:ACGTR", ["BsaI", "GGCC", "TATA"], 0.4, 0.6, 3).plan()
SAMPLING = {"temperature": 1.0, "seed": 0, "batch_size": 16}
EVOLVING = {"rounds": 60, "proposals": 12, "seed": 0, "batch_size": 32}


def toy_logits(codes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """By target, position and what is known on both sides: `[n, L, 4]` float32; without a target by those two."""
    _n, length = codes.shape
    wanted = np.nan_to_num(targets)[:, None, None] * np.array([-1, 1, 1, -1])
    place = np.sin(np.arange(length)[:, None] + np.arange(4))
    before = np.pad(codes, ((0, 0), (1, 0)), constant_values=MASKED)[:, :-1]
    after = np.pad(codes, ((0, 0), (0, 1)), constant_values=MASKED)[:, 1:]
    table = np.cos(np.arange(28).reshape(7, 4))
    return (wanted + place + table[before] - table[after]).astype(np.float32)


def gc_share(codes: np.ndarray) -> np.ndarray:
    return np.isin(codes, [1, 2]).mean(axis=1)


# --- sampling -----------------------------------------------------------------------------------------------------


def test_letters_follow_the_logits():
    """One letter at a time, so the probability of a sequence is a product that is computed here."""
    plan = Constraints(3, {2: "C"}).plan()
    count = 20_000
    codes = sample(toy_logits, plan, np.full(count, 0.3), **{**SAMPLING, "batch_size": 4096})
    assert (codes[:, 2] == 1).all()
    for first, second in itertools.product(range(4), repeat=2):
        state = np.array([[MASKED, MASKED, 1]], np.uint8)
        wanted = softmax(toy_logits(state, np.array([0.3]))[0, 0])[first]
        state[0, 0] = first
        wanted *= softmax(toy_logits(state, np.array([0.3]))[0, 1])[second]
        found = np.mean((codes[:, 0] == first) & (codes[:, 1] == second))
        # four standard errors
        assert abs(found - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / count)


def softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(values) / np.exp(values).sum()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_logits(temperature):
    plan = Constraints(1).plan()
    codes = sample(toy_logits, plan, np.zeros(20_000), temperature=temperature, seed=1, batch_size=20_000)
    logits = toy_logits(np.array([[MASKED]], np.uint8), np.zeros(1))[0, 0]
    # four standard errors of a share
    np.testing.assert_allclose(
        np.bincount(codes[:, 0], minlength=4) / 20_000, softmax(logits / temperature), atol=4 * 0.5 / 141
    )


def test_letters_that_are_not_allowed_give_their_share_to_the_others():
    plan = Constraints(1, {0: "K"}).plan()
    codes = sample(toy_logits, plan, np.zeros(20_000), temperature=1.0, seed=1, batch_size=20_000)
    share = softmax(toy_logits(np.array([[MASKED]], np.uint8), np.zeros(1))[0, 0, [2, 3]])
    assert np.mean(codes == 2) == pytest.approx(share[0], abs=4 * 0.5 / 141)
    assert np.isin(codes, [2, 3]).all()


def test_temperature_0_takes_the_most_likely_letter_that_is_allowed():
    found = sample(toy_logits, STRICT, np.array([0.5, -1.0]), **{**SAMPLING, "temperature": 0.0})
    for row, target in zip(found, [0.5, -1.0], strict=True):
        known = STRICT.known
        codes = np.where(known < 4, known, MASKED).astype(np.uint8)
        state, gc_count = np.zeros(1, int), np.zeros(1, int)
        for position in range(STRICT.length):
            if codes[position] == MASKED:
                allowed = STRICT.allowed(state, gc_count, position)[0]
                logits = toy_logits(codes[None], np.array([target]))[0, position]
                codes[position] = max(np.flatnonzero(allowed), key=lambda base: logits[base])
            state, gc_count = STRICT.advance(state, gc_count, codes[position : position + 1])
        assert np.array_equal(row, codes)
    # as does a low temperature, of any seed
    low = sample(toy_logits, STRICT, np.array([0.5, -1.0]), temperature=1e-310, seed=9, batch_size=2)
    assert np.array_equal(found, low)


@pytest.mark.parametrize("step", [1, 3, 100])
def test_batches_do_not_matter(step):
    targets = np.linspace(-1, 1, 11)
    whole = sample(toy_logits, STRICT, targets, **{**SAMPLING, "batch_size": 64}, step=step)
    for batch_size in (1, 4, 11):
        assert np.array_equal(
            sample(toy_logits, STRICT, targets, **{**SAMPLING, "batch_size": batch_size}, step=step), whole
        )
    # nor how many there are: a sequence is the one of its number
    assert np.array_equal(sample(toy_logits, STRICT, targets[:3], **SAMPLING, step=step), whole[:3])
    assert not np.array_equal(
        sample(toy_logits, STRICT, targets, **{**SAMPLING, "seed": 1}, step=step), whole
    )


def test_a_call_has_always_the_same_shape():
    shapes = set()

    def logits(codes, targets):
        shapes.add((codes.shape, targets.shape, codes.dtype.name, targets.dtype.name))
        return toy_logits(codes, targets)

    sample(logits, FREE, np.zeros(7), **{**SAMPLING, "batch_size": 3})
    assert shapes == {((3, 12), (3,), "uint8", "float32")}


@pytest.mark.parametrize("step", [1, 4])
def test_the_model_sees_what_is_given_and_written_and_nothing_else(step):
    plan = Constraints(10, {0: "G", 3: "R", 6: "C", 9: "T"}).plan()
    seen = []

    def logits(codes, targets):
        seen.append(dna.letters(np.minimum(codes, 4))[0])
        assert ((codes < 4) | (codes == MASKED)).all()
        return toy_logits(codes, targets)

    rounds = []
    codes = sample(
        logits,
        plan,
        np.zeros(1),
        **{**SAMPLING, "temperature": 0.0},
        step=step,
        progress=lambda *at: rounds.append(at),
    )
    text = dna.letters(codes)[0]
    masked = [1, 2, 3, 4, 5, 7, 8]
    hidden = [masked[start:] for start in range(0, len(masked), step)]
    assert seen == ["".join("N" if at in rest else base for at, base in enumerate(text)) for rest in hidden]
    assert rounds == [(min(end, 7), 7) for end in range(step, 7 + step, step)]


def test_nothing_to_write():
    plan = Constraints(4, dict(enumerate("ACGT"))).plan()
    assert dna.letters(sample(toy_logits, plan, np.zeros(2), **SAMPLING)) == ["ACGT", "ACGT"]


@pytest.mark.parametrize("seed", range(10))
def test_what_is_sampled_obeys(seed):
    """Constraints by chance, with a model that would have all letters G: it never meets a dead end."""
    rng = np.random.default_rng(seed)
    plan = None
    while plan is None:
        motifs = ["".join(rng.choice(list("ACGTRYN"), 5)) for _ in range(3)]
        words = f"{rng.integers(40)}:ACTGACTG", motifs, 0.4, 0.5, int(rng.integers(3, 6))
        with contextlib.suppress(InputError):  # what is fixed may hold a motif
            plan = parse_constraints(50, *words).plan()
    codes = sample(
        lambda codes, targets: np.tile(np.float32([0, 0, 30, 0]), [*codes.shape, 1]),
        plan,
        np.zeros(20),
        temperature=float(rng.choice([0.0, 1.0, 20.0])),
        seed=seed,
        batch_size=20,
        step=int(rng.integers(1, 6)),
    )
    assert plan.satisfied(codes).all()


def test_guidance_moves_logits_away_from_those_without_a_target():
    plan = Constraints(1).plan()
    given = {"seed": 0, "batch_size": 20_000, "temperature": 1.0}
    codes = sample(toy_logits, plan, np.full(20_000, 0.2), guidance=1.5, **given)
    # only the target's part of these logits differs, so guidance multiplies it
    logits = toy_logits(np.array([[MASKED]], np.uint8), np.array([0.2 * 2.5]))[0, 0]
    found = np.bincount(codes[:, 0], minlength=4) / 20_000
    np.testing.assert_allclose(found, softmax(logits), atol=4 * 0.5 / 141)


def test_a_target_is_followed():
    codes = sample(toy_logits, FREE, np.repeat([-2.0, 2.0], 50), **SAMPLING)
    assert gc_share(codes[:50]).mean() < 0.3 < 0.7 < gc_share(codes[50:]).mean()


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"temperature": -0.5}, r"^--temperature: found -0.5; it must be 0 \(greedy\) or more"),
        ({"temperature": float("nan")}, "^--temperature: found nan"),
        ({"seed": -1}, "^--seed: found -1; it cannot be negative"),
        ({"batch_size": 0}, "^--batch_size: found 0"),
        ({"step": 0}, "^--step: found 0"),
        ({"targets": [1.0, np.nan]}, r"^--target_activity: found \[1.0, nan\]"),
        ({"targets": []}, r"^--target_activity: found \[\]"),
        (
            {"logits": lambda codes, _: np.full([*codes.shape, 4], np.nan)},
            "logits at position 0 .* not finite",
        ),
    ],
)
def test_sampling_with_what_cannot_be(changed, message):
    given = {"logits": toy_logits, "plan": FREE, "targets": [0.0, 1.0], **SAMPLING, **changed}
    with pytest.raises(InputError, match=message):
        sample(**given)


# --- evolving -----------------------------------------------------------------------------------------------------


def starts(plan, n: int) -> np.ndarray:
    return plan.random(n, [1, 1, 1, 1], np.random.default_rng(5))


def motif_count(codes: np.ndarray) -> np.ndarray:
    return np.array([text.count("GATA") for text in dna.letters(codes)], float)


def test_evolving_reaches_a_share_that_is_wanted():
    targets = np.array([0.4, 0.45, 0.5, 0.55, 0.6] * 2)
    evolved = evolve(gc_share, STRICT, targets, starts(STRICT, 10), **EVOLVING)
    # all of the shares are whole numbers of 40 letters
    np.testing.assert_allclose(evolved.predicted, targets, atol=1e-7)
    np.testing.assert_array_equal(evolved.predicted, gc_share(evolved.codes))
    assert STRICT.satisfied(evolved.codes).all()


def test_evolving_finds_a_planted_motif():
    """A predictor that says how much of GATAAG each sequence has, three times of it at most."""
    word = dna.codes("GATAAG")

    def predict(codes):
        windows = np.lib.stride_tricks.sliding_window_view(codes, 6, axis=1)
        return np.sort((windows == word).sum(axis=2), axis=1)[:, -1].astype(float)

    plan = parse_constraints(30, "", ["EcoRI"], 0.3, 0.6, 4).plan()
    evolved = evolve(predict, plan, np.full(6, 6.0), starts(plan, 6), **EVOLVING)
    assert all("GATAAG" in text for text in dna.letters(evolved.codes))
    assert evolved.history[-1] == 0


def test_at_temperature_0_it_only_comes_nearer():
    evolved = evolve(motif_count, FREE, np.full(8, 2.0), starts(FREE, 8), **EVOLVING)
    assert len(evolved.history) == EVOLVING["rounds"] + 1
    assert (np.diff(evolved.history) <= 0).all()
    assert evolved.history[0] > evolved.history[-1]
    assert evolved.history[-1] == np.abs(motif_count(evolved.codes) - 2).mean()


def test_with_a_temperature_it_may_go_further_and_the_best_is_kept():
    targets = np.full(8, 0.5)
    start = starts(FREE, 8)
    seen = []

    def predict(codes):
        seen.extend(np.abs(gc_share(codes) - 0.5))
        return gc_share(codes)

    hot = evolve(predict, FREE, targets, start, **{**EVOLVING, "proposals": 1}, temperature=10.0)
    assert (np.diff(hot.history) > 0).any()
    np.testing.assert_array_equal(np.abs(hot.predicted - 0.5), np.abs(gc_share(hot.codes) - 0.5))
    assert np.abs(hot.predicted - 0.5).mean() <= hot.history.min()
    seen.clear()
    one = evolve(predict, FREE, targets[:1], start[:1], **{**EVOLVING, "proposals": 3}, temperature=10.0)
    assert abs(one.predicted[0] - 0.5) == min(seen)


def test_metropolis_takes_what_is_further_with_its_probability():
    """One round from the optimum: every mutant is 1 away, and is taken with probability exp(-1 / temperature)."""
    start = np.zeros([4000, 12], np.uint8)

    def predict(codes):
        return (codes != 0).any(axis=1).astype(float)

    given = {**EVOLVING, "rounds": 1, "proposals": 1, "mutations": 1, "crossover": 0, "shifts": 0}
    evolved = evolve(predict, FREE, np.zeros(4000), start, **given, temperature=2.0)
    # four standard errors
    assert evolved.history[1] == pytest.approx(np.exp(-0.5), abs=4 * 0.5 / 63)
    assert not evolved.codes.any()


@pytest.mark.parametrize("kinds", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_all_that_is_predicted_obeys(kinds):
    start = starts(STRICT, 6)
    count = 0

    def predict(codes):
        nonlocal count
        count += len(codes)
        assert STRICT.satisfied(codes).all()
        assert codes.dtype == np.uint8
        return gc_share(codes)

    crossover, shifts = kinds
    given = {**EVOLVING, "rounds": 20, "temperature": 0.1, "crossover": crossover, "shifts": shifts}
    evolve(predict, STRICT, np.full(6, 0.5), start, **given)
    assert count > 32


def test_mutants_are_what_they_are_said_to_be():
    plan = Constraints(12, {4: "C"}).plan()
    start = starts(plan, 3)
    seen: list[np.ndarray] = []

    def mutants(**kinds):
        seen.clear()

        def predict(codes):
            seen.append(codes)
            return np.zeros(len(codes))

        evolve(predict, plan, np.zeros(3), start, rounds=1, proposals=200, seed=0, batch_size=600, **kinds)
        assert (seen[1][:, 4] == 1).all()
        return seen[1][:600].reshape(3, 200, 12)

    changed = (mutants(mutations=3, crossover=0, shifts=0) != start[:, None]).sum(axis=2)
    assert changed.max() == 3
    assert (changed > 0).mean() > 0.95  # a letter may be changed back
    crossed = mutants(crossover=1.0, shifts=0)
    for number in range(3):
        others = [start[other] for other in range(3) if other != number]
        stretches = {
            tuple(np.concatenate([start[number][:first], other[first:end], start[number][end:]]))
            for other in others
            for first, end in itertools.combinations(range(13), 2)
        }
        assert {tuple(row) for row in crossed[number]} <= stretches
        assert len({tuple(row) for row in crossed[number]}) > 20
    shifted = mutants(crossover=0, shifts=1.0)
    for number in range(3):
        rolled = set()
        for first, end in itertools.combinations(range(13), 2):
            for direction in (-1, 1):
                row = start[number].copy()
                row[first:end] = np.roll(row[first:end], direction)
                row[4] = 1
                rolled.add(tuple(row))
        assert {tuple(row) for row in shifted[number]} <= rolled
        assert len({tuple(row) for row in shifted[number]}) > 20


def test_evolving_is_a_function_of_its_seed():
    given = (gc_share, STRICT, np.linspace(0.4, 0.6, 5), starts(STRICT, 5))
    hot = {**EVOLVING, "rounds": 10, "temperature": 0.05}
    first, again = evolve(*given, **hot), evolve(*given, **{**hot, "batch_size": 7})
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(first.codes, evolve(*given, **{**hot, "seed": 1}).codes)


def test_the_start_is_left_as_it_is():
    start = starts(FREE, 4)
    before = start.copy()
    evolve(gc_share, FREE, np.ones(4), start, **EVOLVING)
    assert np.array_equal(start, before)


def test_progress_and_no_rounds():
    done: list[int] = []
    start = starts(FREE, 2)
    evolve(gc_share, FREE, np.ones(2), start, **{**EVOLVING, "rounds": 3}, progress=done.append)
    assert done == [1, 2, 3]
    unchanged = evolve(gc_share, FREE, np.ones(2), start, **{**EVOLVING, "rounds": 0})
    assert np.array_equal(unchanged.codes, start)
    assert unchanged.history.tolist() == [np.abs(gc_share(start) - 1).mean()]


def test_a_round_in_which_every_mutant_is_dropped():
    plan = Constraints(4, dict(enumerate("ACG")), max_homopolymer=1, forbidden=("GA", "GC")).plan()
    start = np.array([[0, 1, 2, 3]], np.uint8)
    evolved = evolve(gc_share, plan, np.ones(1), start, **EVOLVING)
    assert dna.letters(evolved.codes) == ["ACGT"]


def test_mutants_without_a_finite_prediction_are_not_kept():
    def predict(codes):
        return np.where(gc_share(codes) > 0.5, np.nan, gc_share(codes))

    start = np.zeros([3, 12], np.uint8)
    evolved = evolve(predict, FREE, np.ones(3), start, **EVOLVING, temperature=0.1)
    assert evolved.predicted.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"temperature": -1.0}, "^--temperature: found -1"),
        ({"rounds": -1}, "^--rounds: found -1; it must be 0 or more"),
        ({"proposals": 0}, "^--proposals: found 0; it must be 1 or more"),
        ({"mutations": 0}, "^--mutations: found 0; it must be 1 or more"),
        ({"crossover": 1.5}, "^--crossover: found 1.5"),
        ({"crossover": 0.5, "shifts": 0.6}, "^--shifts: found 0.6; .* both shares together"),
        ({"targets": [0.0]}, "^--start: found 2 sequences of 12 letters, expected 1 of 12"),
        ({"plan": STRICT}, "^--start: found 2 sequences of 12 letters, expected 2 of 40"),
        (
            {"plan": parse_constraints(12, "0:C", ["AAAC", "EcoRI"]).plan()},
            r"^--start: 1 of 2 sequences break constraints, the first of them \(number 2\) --fixed, --forbid GAATTC",
        ),
        (
            {"predict": lambda codes: np.full(len(codes), np.nan)},
            "no finite activity of 2 of 2 start sequences",
        ),
    ],
)
def test_evolving_with_what_cannot_be(changed, message):
    start = np.stack([dna.codes("CCCCCCCCCCCC"), dna.codes("ATGAATTCGGGG")])
    given = {"predict": gc_share, "plan": FREE, "targets": [0.0, 1.0], "start": start, **EVOLVING, **changed}
    with pytest.raises(InputError, match=message):
        evolve(**given)


# --- start sequences ----------------------------------------------------------------------------------------------


def test_start_sequences_of_fasta_and_of_lines(tmp_path):
    path = tmp_path / "start"
    path.write_text(">one\nACG\nTtt\n\n>two words\nGGGCCC\n")
    assert dna.letters(read_start(path, 6)) == ["ACGTTT", "GGGCCC"]
    assert dna.letters(np.array([[0, 1, 2], [3, 4, 5]], np.uint8)) == ["ACG", "TNN"]
    path.write_text("acgttt\r\n\r\nGGGCCC")
    found = read_start(path, 6)
    assert dna.letters(found) == ["ACGTTT", "GGGCCC"]
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty; expected FASTA, or one sequence on each line"),
        ("ACGTTT\nACG\n", "line 2: a sequence of 3 letters, expected 6; change --length"),
        (">a\nACGTTT\n>b\nACG\nTTTT", "line 3: a sequence of 7 letters, expected 6"),
        (">a\n>b\nACGTTT", "line 1: a sequence of 0 letters, expected 6"),
        ("ACGNTT", r"line 1: found 'N' at position 3 \(from 0\) of the sequence, expected A, C, G or T"),
        ("ACG TT", r"line 1: found ' ' at position 3"),
    ],
)
def test_start_sequences_that_cannot_be(tmp_path, text, message):
    path = tmp_path / "start.fa"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^start {path}.*{message}"):
        read_start(path, 6)
    with pytest.raises(InputError, match=r"^start .*cannot be read"):
        read_start(tmp_path / "none", 6)


# --- what sequences are like --------------------------------------------------------------------------------------


def edits(one: str, other: str) -> int:
    """Wagner and Fischer 1974."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, 1):
        row, before = [number], row
        for place, wanted in enumerate(other):
            row.append(min(before[place] + (letter != wanted), before[place + 1] + 1, row[place] + 1))
    return row[-1]


def test_nearest_is_by_edit_distance_and_the_first_of_equals():
    chance = random.Random(0)
    training = ["".join(chance.choices("ACGT", k=chance.randint(20, 30))) for _ in range(60)]
    training += training[:5]  # ties
    sequences = ["".join(chance.choices("ACGT", k=25)) for _ in range(20)]
    # one letter less or more than one of them, and the same as one of them
    sequences += [training[7][1:], training[3] + "A", training[2], training[60]]
    found = nearest(sequences, training)
    for number, sequence in enumerate(sequences):
        distances = [edits(sequence, other) for other in training]
        assert found.distance[number] == min(distances)
        assert found.neighbour[number] == distances.index(min(distances))
    neighbour, distance = found
    assert neighbour[-4:].tolist() == [7, 3, 2, 0]
    assert distance[-4:].tolist() == [1, 1, 0, 0]
    with pytest.raises(InputError, match="no training sequences"):
        nearest(["ACGT"], [])


def test_diversity_is_the_mean_over_pairs():
    codes = np.random.default_rng(0).integers(4, size=[9, 20]).astype(np.uint8)
    codes[4] = codes[2]
    pairs = [np.mean(one != other) for one, other in itertools.combinations(codes, 2)]
    found = diversity(codes)
    assert found.hamming == pytest.approx(np.mean(pairs))
    assert found.distinct == 8
    assert diversity(np.zeros([2, 5], np.uint8)) == (0, 1)
    one = diversity(np.zeros([1, 5], np.uint8))
    assert np.isnan(one.hamming)
    assert one.distinct == 1


def test_a_higher_temperature_is_more_diverse():
    given = {"seed": 0, "batch_size": 50}
    found = [
        diversity(sample(toy_logits, FREE, np.zeros(50), temperature=t, **given)).hamming for t in (0, 0.3, 3)
    ]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[2] > 0.6
