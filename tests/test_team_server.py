"""The tracking server of docs/team.md, for real: PostgreSQL, S3, users; a grid logs through it, others are refused."""

import http.client
import re
import subprocess
import sys
from urllib.parse import urlsplit

import mlflow
import pytest
from mlflow.server.security_utils import get_default_allowed_hosts, is_allowed_host_header
from sqlalchemy import create_engine, text

from enformer_core import checkpoints
from mlproject.errors import InputError
from mlproject.tracking import grids, runs, store
from team_server import PAGE, ROOT, team_server

pytestmark = pytest.mark.slow
PASSWORDS = {name: f"the password of {name}" for name in ("ada", "bob")}
QUICK = (
    "--variants",
    "vanilla",
    "--seeds",
    "42",
    "--epochs",
    "1",
    "--steps_per_epoch",
    "2",
    "--eval_steps",
    "2",
)


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    with team_server(tmp_path_factory.mktemp("team")) as running:
        yield running


def command(team, user, *words, password=""):
    """A command of a user, from a folder of his own: exit code, output, lines of errors; never a traceback."""
    folder = team.folder / user
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "mlproject", *words],
        cwd=folder,
        env=team.client(user, password or PASSWORDS[user]),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    # TensorFlow's own lines are none of ours
    errors = [line for line in done.stderr.splitlines() if not re.match(r"[EWI]\d{4} ", line)]
    return done.returncode, done.stdout, errors


@pytest.fixture(scope="module")
def grid(team):
    """The run of a grid of one training, by ada."""
    code, output, errors = command(team, "ada", "ablation", *QUICK)
    assert code == 0, (output, errors)
    return re.search(r"grid ([0-9a-f]{16})", output)[1]


@pytest.fixture
def reader(team, monkeypatch):
    """Makes this process read as a user."""

    def become(user):
        for name, word in team.client(user, PASSWORDS[user]).items():
            if name.startswith("MLFLOW_"):
                monkeypatch.setenv(name, word)

    yield become
    mlflow.set_tracking_uri(None)


def test_a_grid_is_read_back_through_the_server_and_its_files_are_in_s3(team, grid, reader, tmp_path):
    reader("ada")
    (listed,) = grids.list_grids("ablation").itertuples()
    found = grids.find_grid(listed.run_id)
    assert found.status == "FINISHED" and found.row["tags.grid"] == grid
    (child,) = found.children.itertuples()
    assert child.variant == "vanilla" and child.status == "FINISHED"
    tracks = grids.read_tracks(child.run_id, "human")
    assert len(tracks) > 0 and tracks["pearson_r"].notna().any()
    assert list(grids.read_curves(child.run_id, ["loss"])["step"]) == [1, 2]

    place = f"{child.experiment_id}/{child.run_id}/artifacts/"
    kept = {key.removeprefix(place) for key in team.objects() if key.startswith(place)}
    assert {"tracks_human.parquet", "checkpoint/config.json", "signals_human.parquet"} <= kept
    folder = mlflow.artifacts.download_artifacts(
        run_id=child.run_id, artifact_path="checkpoint", dst_path=str(tmp_path)
    )
    assert set(checkpoints.load(folder).config.heads) == {"human"}


def test_report_through_the_server(team, grid, reader):
    code, output, errors = command(team, "ada", "report")
    assert code == 0, (output, errors)
    assert "report.html" in output
    reader("ada")
    study = grids.list_grids("ablation")["run_id"][0]
    assert any(key.endswith(f"{study}/artifacts/report.html") for key in team.objects())


def test_who_has_the_wrong_password_is_told_so_in_a_line(team):
    code, _, errors = command(team, "ada", "report", password="the password of eve")
    assert code == 2
    (line,) = errors
    assert line.startswith(
        f"mlproject report: the tracking server {team.address} does not let the user ada in"
    )
    assert "MLFLOW_TRACKING_PASSWORD" in line and "eve" not in line


def test_a_colleague_reads_and_cannot_add(team, grid, reader):
    reader("bob")
    assert len(grids.list_grids("ablation")) == 1
    code, _, errors = command(team, "bob", "ablation", *QUICK)
    assert code == 2
    (line,) = errors
    assert line.startswith(
        f"mlproject ablation: the tracking server {team.address} refuses this to the user bob"
    )
    assert "--experiment" in line


@pytest.mark.parametrize(
    ("host", "allowed"),
    [("", True), ("tracking.example.org", True), ("10.evil.com", False), ("evil.com", False)],
)
def test_only_names_that_are_allowed_are_answered(team, host, allowed):
    at = urlsplit(team.address).netloc
    connection = http.client.HTTPConnection(at, timeout=30)
    try:
        connection.request(
            "GET", "/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": host or at}
        )
        answer = connection.getresponse()
        assert answer.status == (401 if allowed else 403)
        assert allowed or b"Host" in answer.read()
    finally:
        connection.close()
    if host.startswith("10."):  # why the page has the option
        assert is_allowed_host_header(get_default_allowed_hosts(), host)


@pytest.mark.parametrize(
    ("origin", "allowed"), [("https://tracking.example.org", True), ("https://evil.com", False)]
)
def test_only_pages_of_the_server_itself_may_change_things(team, origin, allowed):
    connection = http.client.HTTPConnection(urlsplit(team.address).netloc, timeout=30)
    try:
        headers = {"Origin": origin, "Content-Type": "application/json"}
        connection.request(
            "POST", "/api/2.0/mlflow/experiments/create", body='{"name": "theirs"}', headers=headers
        )
        assert connection.getresponse().status == (401 if allowed else 403)
    finally:
        connection.close()


def test_a_backup_holds_runs_and_users(team, grid):
    team.run("Backups")
    restore = PAGE.read_text(encoding="utf-8").partition("Back, into new databases")[2]
    code = re.search(r"```sh\n(.*?)```", restore, re.DOTALL)[1].replace("/srv/mlflow", str(team.folder))
    subprocess.run(["bash", "-euc", code], env=team.environment, check=True, timeout=120)
    at = team.environment
    engine = create_engine(f"postgresql+psycopg://{at['PGUSER']}@127.0.0.1:{at['PGPORT']}/mlflow_restored")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM runs")).scalar_one() >= 2
    engine.dispose()
    assert (team.folder / "mlflow_users.dump").stat().st_size > 0


def test_secrets_are_made_up_and_kept_from_others(team):
    path = team.folder / "environment"
    assert path.stat().st_mode & 0o077 == 0
    words = dict(line.split("=", 1) for line in path.read_text().splitlines())
    made = [
        words[name] for name in ("PGPASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
    ]
    assert len(set(made)) == 3 and min(map(len, made)) >= 40


def test_the_packages_of_the_page_are_those_of_the_project():
    pip = re.search(r"pip install (.*)", PAGE.read_text(encoding="utf-8"))[1]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = re.findall(r'"([^"]+)"', pip)
    assert len(names) == 3 and all(name in project for name in names if not name.startswith("mlflow"))


def test_who_has_no_permission_is_refused(team, grid, reader):
    """The last one: there is no way back for bob."""
    reader("ada")
    study = grids.list_grids("ablation")["run_id"][0]
    team.run("Granting", EDIT="DENY")
    for option, value in (("--run", study), ("--experiment", "ablation")):
        code, _, errors = command(team, "bob", "report", option, value)
        assert code == 2, errors
        (line,) = errors
        assert "refuses this to the user bob" in line
    reader("bob")
    assert grids.list_grids().empty
    with pytest.raises(InputError, match="refuses this to the user bob"), store.explained():
        runs.find_run(study)
    with pytest.raises(InputError, match="refuses this to the user bob"), store.explained():
        store.experiment_id(store.open_store(), "ablation")
