import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from mlproject.errors import InputError
from mlproject.options import as_words, command_line, parse


@dataclass(frozen=True)
class Options:
    """Trains nothing."""

    learning_rate: float = 5.0e-4
    """How far a step goes."""
    epochs: int = 20
    """Times over the data."""
    variants: tuple[str, ...] = ("vanilla", "rope")
    """What to train."""
    seeds: tuple[int, ...] = (42, 123)
    """Where chance starts."""
    reverse_complement: bool = True
    """Show both strands."""
    preset: Literal["tiny", "full"] = "tiny"
    """How large."""
    blacklist: Path | None = None
    """Regions to leave out."""
    data: str = "demo"
    """Folder of the data."""


def test_defaults():
    assert parse(Options, []) == Options()


def test_every_type():
    words = (
        "--learning_rate 1e-3 --epochs=3 --variants all --seeds 1,2 --reverse_complement false --preset full"
    )
    assert parse(Options, [*words.split(), "--blacklist", "a b.bed", "--data", "-x"]) == Options(
        1e-3, 3, ("all",), (1, 2), False, "full", Path("a b.bed"), "-x"
    )
    assert parse(Options, ["--blacklist", "none"]).blacklist is None


def test_words_read_back():
    options = Options(seeds=(7,), variants=(), reverse_complement=False, blacklist=Path("x.bed"))
    words = [part for name, word in as_words(options).items() for part in (f"--{name}", word)]
    assert parse(Options, words) == options
    assert as_words(Options())["blacklist"] == "none"


def test_a_command_line_names_what_is_not_by_default_and_reads_back():
    assert command_line("train", Options()) == "python -m mlproject train"
    options = Options(seeds=(7,), reverse_complement=False, blacklist=Path("a b.bed"), data="x; y$z '")
    line = command_line("train", options)
    python, dash, package, command, *words = shlex.split(line)
    assert [python, dash, package, command] == ["python", "-m", "mlproject", "train"]
    assert [word[2:] for word in words[::2]] == ["seeds", "reverse_complement", "blacklist", "data"]
    assert parse(Options, words) == options and "\n" not in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--learning-rate 1", "unknown option --learning-rate; did you mean learning_rate?"),
        ("--zoom 1", "unknown option --zoom, expected one of learning_rate, epochs, variants"),
        ("--epochs many", "--epochs: found 'many', expected a whole number"),
        ("--epochs 2.5", "--epochs: found '2.5', expected a whole number"),
        ("--learning_rate nan", "--learning_rate: found 'nan', expected a number"),
        ("--seeds 1,x", "--seeds: found '1,x', expected whole numbers with commas between them"),
        ("--reverse_complement yes", "--reverse_complement: found 'yes', expected true or false"),
        ("--preset tine", "--preset: found 'tine', expected one of tiny, full; did you mean tiny?"),
        ("--epochs", "--epochs has no value"),
        ("--epochs --seeds 1", "--epochs has no value: found the option --seeds after it"),
        ("--epochs 1 --epochs 2", "--epochs is given twice"),
        ("20", "found '20' where an option was expected"),
    ],
)
def test_a_wrong_word_is_one_line(words, message):
    with pytest.raises(InputError) as error:
        parse(Options, words.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_required_option_is_named():
    @dataclass(frozen=True)
    class Needs:
        data: str

    with pytest.raises(InputError, match="--data: required"):
        parse(Needs, [])


def test_help_shows_each_option_with_its_help_and_default(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Options, ["--help"], program="python -m mlproject train")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for part in (
        "python -m mlproject train",
        "Trains nothing.",
        "--reverse_complement true|false",
        "Show both strands.",
    ):
        assert part in text
    for part in ("(default: vanilla,rope)", "--preset tiny|full", "(default: 0.0005)", "(default: none)"):
        assert part in text
