"""A store of real tiny runs, with hostile words beside them, and the dashboard on it in a real browser."""

import pytest
from mlflow import MlflowClient

from browser import Page, browser, dashboard
from made_up_grid import HOSTILE, SHORT, Options, train
from mlproject.tracking import runs
from processes import finish, launch, words_of

GRID = {"--variants": "vanilla,rope", "--seeds": "1,2", "--epochs": "2", "--steps_per_epoch": "4"}
SEARCH = {
    "--trials": "6",
    "--trial_epochs": "2",
    "--epochs": "2",
    "--workers": "1",
    "--register": "heads@champion",
}


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Folder of the store."""
    folder = tmp_path_factory.mktemp("dashboard")
    for command, options in (("search_head", SEARCH), ("ablation", GRID)):
        code, _ = finish(launch(folder, "mlproject", command, *words_of(options)))
        assert code == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        with runs.start_run("ablation", Options(variants=(HOSTILE, "rope"))) as run:
            run.rename(HOSTILE)
            for variant in (HOSTILE, "rope"):
                for seed in (1, 2):
                    train(run, variant, seed, HOSTILE, SHORT)
        client = MlflowClient()
        client.create_registered_model(SHORT.replace("/", ""), description=HOSTILE)
        client.create_model_version(
            SHORT.replace("/", ""),
            f"runs:/{run.id}/model",
            run.id,
            tags={"words": HOSTILE},
            description=HOSTILE,
        )
    return folder


@pytest.fixture(scope="module")  # no longer: while it is open, asyncio.run fails in this thread
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(store):
    with dashboard(store) as found:
        yield found


@pytest.fixture
def page(chromium, address):
    """A page on the store; nothing must go wrong in it."""
    found = Page(chromium, address)
    yield found
    found.close()


@pytest.fixture(scope="session")
def grid_runs(store):
    """IDs of the real grid: of its run, then of its trainings."""
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("ablation").experiment_id
    found = client.search_runs([experiment])
    parents = [run.info.run_id for run in found if "mlflow.parentRunId" not in run.data.tags]
    return [*parents, *(run.info.run_id for run in found if "mlflow.parentRunId" in run.data.tags)]


@pytest.fixture(scope="session")
def tracks_page(grid_runs):
    """Address of the page of tracks, of two runs."""
    return f"/?page=Tracks&x={grid_runs[1]}&y={grid_runs[2]}"


@pytest.fixture(scope="session")
def search_run(store):
    """ID of the run of the real search."""
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("search_head").experiment_id
    return next(
        run.info.run_id
        for run in client.search_runs([experiment])
        if "mlflow.parentRunId" not in run.data.tags
    )
