"""conda.yaml, which MLflow makes environments from, follows pyproject.toml."""

import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def project() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_conda_environment_is_the_dependencies_and_not_the_project():
    listed = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))["dependencies"]
    python, pip, packages = listed
    assert python.startswith("python=3.")
    assert pip == "pip"
    assert packages == {"pip": project()["dependencies"]}


def test_its_python_is_one_that_the_project_takes():
    specifiers = pytest.importorskip("packaging.specifiers")
    listed = yaml.safe_load((ROOT / "conda.yaml").read_text(encoding="utf-8"))["dependencies"]
    takes = specifiers.SpecifierSet(project()["requires-python"])
    assert listed[0].removeprefix("python=") in takes
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in takes


def test_no_lock_file_beside_mlproject():
    """`mlflow run --env-manager uv` would use it in place of conda.yaml, without the sources, and fail."""
    assert not (ROOT / "uv.lock").exists()
