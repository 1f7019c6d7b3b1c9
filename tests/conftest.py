"""Compiled programs go to a folder of the test session, never to the user's cache."""

import os
import shutil
import tempfile

_cache = tempfile.mkdtemp(prefix="compilation-cache-")
os.environ["MLPROJECT_COMPILATION_CACHE"] = _cache


def pytest_unconfigure():
    shutil.rmtree(_cache, ignore_errors=True)
