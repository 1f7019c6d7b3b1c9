"""The letter-counting model behind a guard in this process."""

import mlflow
import pytest

from asking import save_letters
from mlproject.serving.guard import Guard, Limits, Served
from mlproject.serving.server import schema_of


@pytest.fixture(scope="session")
def letters_folder(tmp_path_factory):
    with pytest.warns(UserWarning, match="input example"):
        return save_letters(tmp_path_factory.mktemp("served") / "letters")


@pytest.fixture(scope="session")
def letters(letters_folder):
    return mlflow.pyfunc.load_model(str(letters_folder))


@pytest.fixture
def guard_of(letters):
    """Makes a guard with limits; what it logs lands in its `lines`."""

    def make(predict=None, schema=None, **limits):
        called = predict or (lambda table, params: letters.predict(table, params=params))
        served = Served(called, schema or schema_of(letters.metadata), {"model": "letters"})
        lines = []
        guard = Guard(lambda: served, Limits(**limits), lines.append)
        guard.start()
        guard.lines = lines
        return guard

    return make


@pytest.fixture
def guard(guard_of):
    return guard_of()
