"""Compiled programs go to a folder of the test session, and no test leaves the next one its tracking store."""

import os
import shutil
import sys
import tempfile

import pytest

_cache = tempfile.mkdtemp(prefix="compilation-cache-")
os.environ["MLPROJECT_COMPILATION_CACHE"] = _cache


def pytest_unconfigure():
    shutil.rmtree(_cache, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_store_is_left():
    """MLflow remembers the store of a process, and takes it before the variable that the next test sets."""
    yield
    if mlflow := sys.modules.get("mlflow"):
        mlflow.set_tracking_uri(None)
