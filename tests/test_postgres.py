"""The PostgreSQL server of the tests keeps what Optuna and MLflow put there."""

import warnings

import optuna
import pytest
import sqlalchemy
from mlflow import MlflowClient
from optuna.storages import RDBStorage

from postgres import postgres


@pytest.fixture(scope="module")
def server():
    with postgres() as running:
        yield running


def storage(url):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the heartbeat
        return RDBStorage(url, heartbeat_interval=20, grace_period=60)


def test_a_study_outlives_its_process_and_the_server(server):
    url = server.database("studies")
    first = storage(url)
    study = optuna.create_study(storage=first, study_name="kept", direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    values = [trial.value for trial in study.trials]
    first.engine.dispose()
    server.stop("immediate")  # as if it were killed
    with pytest.raises(sqlalchemy.exc.OperationalError, match="refused"):
        storage(url)
    server.start()
    again = storage(url)
    assert [trial.value for trial in optuna.load_study(study_name="kept", storage=again).trials] == values
    again.engine.dispose()


def test_it_can_be_the_store_of_mlflow(server, tmp_path):
    url = server.database("runs")
    client = MlflowClient(url)
    experiment = client.create_experiment("kept", artifact_location=str(tmp_path))
    run = client.create_run(experiment)
    client.log_metric(run.info.run_id, "loss", 0.5)
    assert MlflowClient(url).get_run(run.info.run_id).data.metrics == {"loss": 0.5}
