"""MLproject, the commands and the README name the same things, and every option has help."""

import dataclasses
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlproject import options
from mlproject.__main__ import command_names

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]


def options_of(command: str) -> type:
    return importlib.import_module(f"mlproject.commands.{command}").Options


def help_of(command: str) -> str:
    """The help page, as wide as it needs to be."""
    done = subprocess.run(
        [sys.executable, "-m", "mlproject", command, "--help"],
        env={"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "1000", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_entry_points_are_the_commands():
    assert sorted(ENTRY_POINTS) == command_names()


def test_the_readme_has_a_row_for_each_command():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(rows) == command_names()


@pytest.mark.parametrize("command", command_names())
def test_an_entry_point_names_only_what_the_command_requires(command):
    entry = ENTRY_POINTS[command]
    required = {
        field.name
        for field in dataclasses.fields(options_of(command))
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    declared = entry.get("parameters", {})
    assert set(declared) == required
    expected = f"PYTHONPATH=src python -m mlproject {command}"
    # without quotes around {name}: MLflow quotes values itself, and quotes would undo its own
    assert entry["command"] == " ".join([expected, *(f"--{name}={{{name}}}" for name in declared)])


@pytest.mark.parametrize("command", command_names())
def test_every_option_is_a_flag_with_help(command):
    text = help_of(command)
    fields = dataclasses.fields(options_of(command))
    for field in fields:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", field.name)
        found = re.search(rf"--{field.name} (.*)", text)
        assert found, f"{command} --help does not name --{field.name}"
        help_text = text[found.end() :].strip(" │\n").splitlines()[0]
        said = re.sub(r"\(default: .*\)", "", help_text).strip(" │")
        assert len(said) > 10, f"{command}: --{field.name} has no help"


@pytest.mark.parametrize("command", command_names())
def test_defaults_are_words_that_read_back(command):
    """So every option can be given with -P, and MLflow's parameters say what was used."""
    chosen = options_of(command)
    try:
        default = chosen()
    except TypeError:
        pytest.skip("has required options")
    words = [part for name, word in options.as_words(default).items() for part in (f"--{name}", word)]
    assert options.parse(chosen, words) == default
