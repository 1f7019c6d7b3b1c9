"""Toy models as SavedModels beside what they are, and a small reference genome."""

import dataclasses
from pathlib import Path

import pytest

from enformer_core.activity import ActivityModel
from enformer_core.enformer import Enformer
from enformer_core.heads import ActivityHeadConfig
from enformer_core.perceiver import Perceiver
from serving_models import GENOME, Toy, known, made
from toys import toy_config, toy_perceiver_config


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Toy:
    """2,048 bp, heads human (three tracks, two of them of two strands) and mouse (two), 14 bins."""
    return made(tmp_path_factory.mktemp("tracks"), known(Enformer(toy_config())))


@pytest.fixture(scope="session")
def odd(tmp_path_factory) -> Toy:
    """Of an odd crop: 5 of 8 bins."""
    config = dataclasses.replace(toy_config(), sequence_length=1024, target_length=5)
    return made(tmp_path_factory.mktemp("odd"), known(Enformer(config)))


@pytest.fixture(scope="session")
def activity(tmp_path_factory) -> Toy:
    """A trunk of 512 bp with an activity head."""
    enformer = Enformer(dataclasses.replace(toy_config(), sequence_length=512, target_length=None))
    return made(tmp_path_factory.mktemp("activity"), ActivityModel(enformer, ActivityHeadConfig()))


@pytest.fixture(scope="session")
def joint(tmp_path_factory) -> Toy:
    """Nine letters, activity in the cell types a and b."""
    return made(tmp_path_factory.mktemp("joint"), Perceiver(toy_perceiver_config()))


@pytest.fixture
def fasta(tmp_path, monkeypatch) -> Path:
    """A FASTA that the environment names."""
    path = tmp_path / "genome.fa"
    lines = [
        f">{name}\n" + "\n".join(letters[at : at + 60] for at in range(0, len(letters), 60))
        for name, letters in GENOME.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("MLPROJECT_REFERENCE_FASTA", str(path))
    return path
