"""What tests of `predict` share; see `predicting`."""

import pytest

from enformer_core import checkpoints
from enformer_core.heads import TrackHeadConfig
from enformer_core.track_model import TrackModel
from mlproject.commands import predict as command
from predicting import LETTERS, TARGETS, Predictor
from toys import toy_model


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """A genome, a table of tracks, a trunk (2,048 bp, the central 14 of 16 bins) and one with a trained head."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "genome.fa").write_text("".join(f">{chrom}\n{text}\n" for chrom, text in LETTERS.items()))
    (folder / "targets.txt").write_text(TARGETS)
    checkpoints.save(folder / "trunk", toy_model(seed=1))
    trained = TrackModel(toy_model(seed=1), TrackHeadConfig(2), "mine", seed=3)
    trained.tracks["mine"] = [{"identifier": "first"}, {"identifier": "second"}]
    checkpoints.save(folder / "trained", trained)
    checkpoints.save_head(folder / "head", trained, "trunk")
    return folder


@pytest.fixture
def predictor(monkeypatch):
    """The class, as the command uses it."""
    monkeypatch.setattr(command, "SignalPredictor", Predictor)
    for name, value in (("calls", []), ("stop_at", 0), ("bad", False)):
        monkeypatch.setattr(Predictor, name, value)
    return Predictor
