"""The words of a command line, as an instance of a command's frozen `Options` dataclass.

One dataclass is the only list of options there is. Its fields are `str`, `int`, `float`, `bool`, `Path`, a
`Literal` of words, any of those `| None`, or a tuple of one of them (`tuple[str, ...]`); the docstring under
a field is its help.
MLflow appends parameters as `--name value`, so every option takes exactly one word: booleans are
`true` or `false`, tuples are comma lists, None is `none`. Reading that is short; tyro, which would print a
wrong word as a box of several lines, draws the help page.
"""

import dataclasses
import difflib
import math
import shlex
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from mlproject.errors import InputError

T = TypeVar("T")

_WORDS_FOR_TYPES = {
    str: "a word",
    int: "a whole number",
    float: "a number",
    Path: "a path",
    bool: "true or false",
}


def parse(options_class: type[T], argv: Sequence[str], *, program: str = "") -> T:
    """An instance of `options_class` with the defaults changed by `argv` (`--name value` or `--name=value`).

    `-h` or `--help` prints the help page and raises SystemExit(0).

    Raises:
        InputError: an option that does not exist, is given twice or has no value, or a wrong word.
    """
    if any(word in ("-h", "--help") for word in argv):
        _print_help(options_class, program)
        raise SystemExit(0)
    hints = typing.get_type_hints(options_class)
    fields = {field.name: field for field in dataclasses.fields(options_class)}  # type: ignore[arg-type]
    values = {}
    for name, word in _pairs(argv, list(fields)):
        if name in values:
            raise InputError(f"--{name} is given twice; give it once")
        try:
            values[name] = _read(hints[name], word)
        except ValueError as error:
            raise InputError(f"--{name}: found {word!r}, expected {error}") from None
    missing = [
        f"--{name}"
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{', '.join(missing)}: required, and not given")
    return options_class(**values)


def as_words(options: Any) -> dict[str, str]:
    """Every option of a dataclass instance as the word that `parse` reads back."""
    return {field.name: _word(getattr(options, field.name)) for field in dataclasses.fields(options)}


def command_line(command: str, options: Any) -> str:
    """The words that run a command with these options, those that are as by default left out."""
    default = as_words(type(options)())
    given = [
        f"--{name} {shlex.quote(word)}" for name, word in as_words(options).items() if word != default[name]
    ]
    return " ".join(["python -m mlproject", command, *given])


def shared(kind: type[T], options: Any, **changed: Any) -> T:
    """The options of another command: what `changed` says, and what both have as `options` has it."""
    names = {field.name for field in dataclasses.fields(kind)} - set(changed)  # type: ignore[arg-type]
    both = names & {field.name for field in dataclasses.fields(options)}
    return kind(**{name: getattr(options, name) for name in both}, **changed)


def nearest(found: str, known: Sequence[str]) -> str:
    """`; did you mean X?` for the known name most like `found`, else an empty string."""
    close = difflib.get_close_matches(found, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _pairs(argv: Sequence[str], names: list[str]) -> list[tuple[str, str]]:
    pairs = []
    words = iter(argv)
    for word in words:
        if not word.startswith("--"):
            raise InputError(f"found {word!r} where an option was expected, as in --name value")
        name, equals, value = word[2:].partition("=")
        if name not in names:
            hint = nearest(name.replace("-", "_"), names)
            raise InputError(f"unknown option --{name}{hint or ', expected one of ' + ', '.join(names)}")
        if not equals:
            try:
                value = next(words)
            except StopIteration:
                raise InputError(f"--{name} has no value; write --{name} VALUE") from None
            if value.startswith("--") and value[2:].partition("=")[0] in names:
                raise InputError(f"--{name} has no value: found the option {value} after it")
        pairs.append((name, value))
    return pairs


def _read(hint: Any, word: str) -> Any:
    """The value of type `hint` that `word` spells; ValueError says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if word.lower() == "none":
            return None
        return _read(next(argument for argument in arguments if argument is not type(None)), word)
    if origin is tuple:
        try:
            return tuple(_read(arguments[0], part.strip()) for part in word.split(",") if part.strip())
        except ValueError as error:
            plural = (
                "whole numbers" if arguments[0] is int else "numbers" if arguments[0] is float else str(error)
            )
            raise ValueError(f"{plural} with commas between them") from None
    if origin is Literal:
        if word in arguments:
            return word
        raise ValueError(f"one of {', '.join(arguments)}{nearest(word, arguments)}")
    if hint is bool:
        if word.lower() in ("true", "false"):
            return word.lower() == "true"
    elif hint in (int, float):
        try:
            value = hint(word)
        except ValueError:
            pass
        else:
            if math.isfinite(value):
                return value
    else:
        return hint(word)
    raise ValueError(_WORDS_FOR_TYPES[hint])


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(_word(part) for part in value)
    return str(value)


def _print_help(options_class: type, program: str) -> None:
    import tyro  # a tenth of a second, and only the help page needs it

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def one_word(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec:
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=_metavar(info.type),
            instance_from_str=lambda words: _read(info.type, words[0]),
            is_instance=lambda value: True,
            str_from_instance=lambda value: [_word(value)],
        )

    tyro.cli(
        options_class,
        prog=program or None,
        args=["--help"],
        use_underscores=True,
        registry=registry,
        config=(tyro.conf.FlagConversionOff,),
    )


def _metavar(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return "|".join("none" if argument is type(None) else _metavar(argument) for argument in arguments)
    if origin is tuple:
        return f"{_metavar(arguments[0])},..."
    if origin is Literal:
        return "|".join(arguments)
    if hint is bool:
        return "true|false"
    return "WORD" if hint is str else getattr(hint, "__name__", str(hint)).upper()
