"""The search with its study in a real PostgreSQL server, which several commands share and which may go away."""

import contextlib
import shutil
import time

import optuna
import pytest
import sqlalchemy

from mlproject.data.constructs import as_table
from mlproject.search import store as kept
from postgres import postgres
from processes import Store, finish, launch, words_of
from toys import toy_constructs

pytestmark = pytest.mark.slow

OPTIONS = {"--window": "2048", "--samples": "2", "--batch_size": "2", "--checkpoint_seconds": "0"}
OPTIONS |= {
    "--trials": "6",
    "--trial_epochs": "3",
    "--epochs": "1",
    "--steps_per_epoch": "6",
    "--study": "shared",
}
OPTIONS |= {"--pruner": "none"}


@pytest.fixture(scope="module")
def server():
    with postgres() as running:
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "constructs.tsv"
    path.write_text(as_table(toy_constructs(24, folds=4)))
    return str(path)


def start(folder, data, url, **changes):
    words = words_of(OPTIONS, {"--data": data, "--storage": url}, changes)
    return launch(folder, "mlproject", "search_head", *words)


def finished(url):
    """The values of the trials that are complete, by number; nothing before the study is there."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    query = "SELECT number, value FROM trials JOIN trial_values USING (trial_id) WHERE state = 'COMPLETE'"
    try:
        with engine.connect() as connection:
            return dict(map(tuple, connection.exec_driver_sql(query)))
    except sqlalchemy.exc.ProgrammingError:  # no tables yet
        return {}


def until_finished(process, url, count):
    deadline = time.monotonic() + 300
    while len(found := finished(url)) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"it ended too early: {process.communicate()}")
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def study_at(url):
    storage = kept.open_storage(url)
    yield optuna.load_study(study_name="shared", storage=storage)
    storage.engine.dispose()


def check_whole(study):
    """Six trials, of which each has a value, and none is under way."""
    assert kept.counts(study) == (6, 0, 0, 0, 0)
    assert sorted({kept.place(study.trials, trial) for trial in study.trials}) == list(range(6))


def test_killed_and_left_by_its_server_it_goes_on(server, data, folder):
    url = server.database("killed")
    process = start(folder, data, url, **{"--workers": "2"})
    until_finished(process, url, 1)
    process.kill()
    process.communicate()
    before = finished(url)

    process = start(folder, data, url, **{"--workers": "2"})
    until_finished(process, url, len(before) + 1)
    server.stop("immediate")  # as if it were killed
    output, errors = process.communicate(timeout=120)
    server.start()
    assert process.returncode == 2, (output, errors)
    line = errors.rstrip("\n")
    assert "\n" not in line, errors
    assert line.startswith(f"mlproject search_head: storage {url}: ")
    assert line.endswith("; what it holds is kept: the same command goes on from there")
    assert [run.info.status for run in Store(folder, "search_head").parents] == ["KILLED", "FAILED"]
    assert before.items() <= finished(url).items()
    before = finished(url)

    code, output = finish(start(folder, data, url, **{"--workers": "2"}))
    assert code == 0 and len(before) < 6
    after = finished(url)
    assert before.items() <= after.items() and len(after) == 6
    with study_at(url) as study:
        check_whole(study)
    store = Store(folder, "search_head")
    statuses = {name: run.info.status for name, run in store.children.items()}
    assert "RUNNING" not in statuses.values() and store.parents[-1].info.status == "FINISHED"
    complete = {
        name for name, status in statuses.items() if name.startswith("trial") and status == "FINISHED"
    }
    assert complete == {f"trial {number}" for number in after}


def test_two_commands_share_the_trials_of_a_study(server, data, tmp_path, empty_store):
    url = server.database("shared")
    folders = [tmp_path / "one", tmp_path / "other"]
    for one in folders:
        one.mkdir()
        shutil.copy(empty_store, one / "mlflow.db")
    processes = [start(one, data, url, **{"--workers": "1"}) for one in folders]
    ended = [finish(process) for process in processes]
    assert [code for code, _ in ended] == [0, 0], ended
    with study_at(url) as study:
        check_whole(study)
        assert len(study.trials) == 6  # none was done again
        assert len({trial.user_attrs[kept.OWNER] for trial in study.trials}) == 2
        origins = [trial.user_attrs.get(kept.ORIGIN) for trial in study.trials]
        assert origins == ["single_64_64", "single_64_128", "multi_64_64", None, None, None]
    values = sorted(value for value in finished(url).values())
    parents = [parent for one in folders for parent in Store(one, "search_head").parents]
    assert len(parents) == 2 and {parent.info.status for parent in parents} == {"FINISHED"}
    # the last to end knows all of them
    assert max(parent.data.metrics["best/objective"] for parent in parents) == values[-1]
