"""What the words of a search mean, checked against Optuna's own distributions and hand-written choices."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from mlproject.errors import InputError
from mlproject.search.space import Bounds, parse_space, shown
from searching import BOUNDS, WORDS, toy_space


def one(word, bounds):
    """What a word is for an option, beside one that is searched."""
    space = parse_space({"x": word, "other": "1,2"}, {"x": bounds, "other": Bounds(True, 1)})
    return space.searched["x"] if "x" in space.searched else space.fixed["x"]


WHOLE, REAL = Bounds(True, 0), Bounds(False, 0, 1)


@pytest.mark.parametrize(
    ("word", "bounds", "expected"),
    [
        ("3", WHOLE, 3),
        ("0.5", REAL, 0.5),
        (" 7 ,", WHOLE, 7),
        ("1,2, 4", WHOLE, CategoricalDistribution([1, 2, 4])),
        ("0,1e-4,.5", REAL, CategoricalDistribution([0.0, 1e-4, 0.5])),
        ("1..8", WHOLE, IntDistribution(1, 8)),
        ("16..64:16", WHOLE, IntDistribution(16, 64, step=16)),
        ("1..64:log", WHOLE, IntDistribution(1, 64, log=True)),
        ("0..0.5", REAL, FloatDistribution(0, 0.5)),
        ("0..0.3:0.1", REAL, FloatDistribution(0, 0.3, step=0.1)),
        ("1e-5..1e-2:log", REAL, FloatDistribution(1e-5, 1e-2, log=True)),
        ("0.25..0.25", REAL, 0.25),
    ],
)
def test_words_are_one_value_choices_or_a_range(word, bounds, expected):
    found = one(word, bounds)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "word", "says"),
    [
        ("num_heads", "", "there is no value"),
        ("num_heads", " , ", "there is no value"),
        ("num_heads", "1,2,1", "a value is there twice"),
        ("dropout", "0,0.0", "a value is there twice"),
        ("num_heads", "0", "0 is out of bounds: it must be at least 1"),
        ("num_heads", "2,0", "0 is out of bounds: it must be at least 1"),
        ("num_heads", "0..4", "0 is out of bounds"),
        ("num_heads", "1.5", "'1.5' is not a whole number"),
        ("num_heads", "one", "'one' is not a whole number"),
        ("num_heads", "1..2..3", "'2..3' is not a whole number"),
        ("num_heads", "1,2..3", "'1,2' is not a whole number"),
        ("num_heads", "..3", "'' is not a whole number"),
        ("hidden_size", "8..4", "8 is above 4"),
        ("hidden_size", "0..8:log", "a logarithmic range begins above 0"),
        ("hidden_size", "16..64:20", "steps of 20 do not lead from 16 to 64"),
        ("hidden_size", "16..64:100", "steps of 100 do not lead from 16 to 64"),
        ("hidden_size", "16..64:0", "0 is out of bounds: it must be above 0"),
        ("hidden_size", "16..64:1.5", "'1.5' is not a whole number"),
        ("hidden_size", "16..64:lin", "'lin' is not a whole number"),
        ("dropout", "1", "1 is out of bounds: it must be at least 0 and below 1"),
        ("dropout", "0..1", "1 is out of bounds"),
        ("dropout", "-0.1", "-0.1 is out of bounds"),
        ("dropout", "nan", "nan is out of bounds"),
        ("dropout", "0..0.5:0.3", "steps of 0.3 do not lead from 0 to 0.5"),
        ("learning_rate", "0", "0 is out of bounds: it must be above 0"),
        ("learning_rate", "0..1e-2:log", "0 is out of bounds: it must be above 0"),
        ("learning_rate", "inf", "inf is out of bounds"),
        ("weight_decay", "-1e-4,0", "-1e-4 is out of bounds: it must be at least 0"),
    ],
)
def test_what_makes_no_sense_is_one_line(name, word, says):
    with pytest.raises(InputError) as caught:
        toy_space(**{name: word})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"--{name}: found {word!r}: ") and says in line
    assert line.endswith(
        "expected one value, choices as 1,2,4, or a range as 0..0.5, 1e-5..1e-2:log or 16..64:16"
    )


FIXED = {**WORDS, "num_heads": "1", "value_size": "4", "learning_rate": "1e-3"}


def test_with_one_value_for_each_there_is_nothing_to_search():
    with pytest.raises(InputError) as caught:
        parse_space(FIXED, BOUNDS)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("nothing to search: each of --num_heads, --key_size, ")


def test_sizes_of_heads_that_are_not_there_are_not_searched():
    bounds = {**BOUNDS, "num_heads": Bounds(True, 0)}
    words = {**FIXED, "num_heads": "0", "key_size": "4,8", "value_size": "1..9"}
    with pytest.raises(InputError, match="nothing to search"):
        parse_space(words, bounds)
    space = parse_space({**words, "dropout": "0,0.5"}, bounds)
    assert set(space.searched) == {"dropout"}
    assert set(space.some()) == set(WORDS) - {"key_size", "value_size"}
    assert not space.holds({"key_size": 4}) and space.holds({"num_heads": 0, "dropout": 0.5})


@pytest.fixture(scope="module")
def with_and_without():
    bounds = {**BOUNDS, "num_heads": Bounds(True, 0)}
    words = {"num_heads": "0,2", "key_size": "4,8", "value_size": "4..16:4", "hidden_size": "0..64:16"}
    return parse_space({**words, "dropout": "0..0.5:0.1", "learning_rate": "1e-4..1e-2:log"}, bounds)


def test_sizes_are_chosen_only_where_there_are_heads(with_and_without):
    with_heads = {"num_heads": 2, "key_size": 8, "value_size": 12}
    rest = {"hidden_size": 32, "dropout": 0.3, "learning_rate": 1e-3}
    assert with_and_without.of({**with_heads, **rest}) == {**with_heads, **rest}
    assert with_and_without.of({"num_heads": 0, **rest}) == {"num_heads": 0, **rest}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    sizes = set()
    for _ in range(40):
        trial = study.ask()
        chosen = with_and_without.suggest(trial)
        assert chosen == with_and_without.of(trial.params)
        assert chosen == pytest.approx(trial.params, rel=5e-3)  # ranges with three digits
        assert chosen["learning_rate"] == float(f"{trial.params['learning_rate']:.3g}")
        assert with_and_without.holds(chosen)
        assert ("key_size" in chosen) == ("value_size" in chosen) == (chosen["num_heads"] == 2)
        sizes.add(chosen.get("value_size"))
    assert sizes == {None, 4, 8, 12, 16}


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("num_heads", [0, 2], [1, 4]),
        ("value_size", [4, 8, 16], [0, 6, 20]),
        ("dropout", [0, 0.1, 0.1 * 3, 0.3, 0.5], [0.05, 0.6, -0.1]),
        ("learning_rate", [1e-4, 3e-3, 1e-2], [9e-5, 0.011]),
        ("weight_decay", [], [0]),
    ],
)
def test_what_a_space_holds(with_and_without, name, inside, outside):
    assert [with_and_without.holds({name: value}) for value in inside] == [True] * len(inside)
    assert [with_and_without.holds({name: value}) for value in outside] == [False] * len(outside)


def test_some_choice_is_one_of_the_space(with_and_without):
    for space in (with_and_without, toy_space(), toy_space(num_heads="3", key_size="1..5")):
        assert space.holds(space.some())
        assert list(space.some()) == [name for name in space.words if name in space.some()]


def test_values_in_a_line():
    values = {"num_heads": 2, "learning_rate": 0.000312345, "dropout": 0.25}
    assert shown(values, ("learning_rate", "key_size", "num_heads")) == "learning_rate 0.000312, num_heads 2"
