"""A fresh store in a fresh working folder; making one takes two seconds, so each test copies the first."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A sqlite store with its tables and nothing in them."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch, empty_store) -> Path:
    """The folder the user stands in, with the default store `mlflow.db`; no MLflow variable is set."""
    for name in ("TRACKING_URI", "RUN_ID", "EXPERIMENT_ID", "EXPERIMENT_NAME"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path
