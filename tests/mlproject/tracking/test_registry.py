"""Checkpoints behind the addresses of a real sqlite store."""

import shutil
from dataclasses import dataclass

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlproject.errors import InputError
from mlproject.tracking import registry, runs


@dataclass(frozen=True)
class Options:
    experiment: str = "grids"


@pytest.fixture
def trained(folder):
    """A run with a checkpoint and another folder of that form."""
    with runs.start_run("ablation", Options()) as run:
        for name in ("checkpoint", "best"):
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(name)
            run.keep(folder / name)
            shutil.rmtree(folder / name)
    return run


def content(address, folder):
    """The text of the config.json that is fetched; nothing else may be left in the folder."""
    found = registry.fetch_checkpoint(address, folder / "fetched")
    assert [*(folder / "fetched").iterdir()] == [found]
    return (found / "config.json").read_text()


@pytest.mark.parametrize(
    ("path", "expected"),
    [("", "checkpoint"), ("/", "checkpoint"), ("/checkpoint", "checkpoint"), ("/best", "best")],
)
def test_of_a_run(trained, folder, path, expected):
    assert content(f"runs:/{trained.id}{path}", folder) == expected


def test_of_models(trained, folder):
    client = MlflowClient()
    logged = client.create_logged_model(trained.experiment_id, "enformer", trained.id)
    client.create_registered_model("my enformer")
    client.create_model_version("my enformer", f"runs:/{trained.id}/model", trained.id)
    client.create_model_version("my enformer", logged.model_uri, model_id=logged.model_id)
    client.set_registered_model_alias("my enformer", "best", "2")
    for number, address in enumerate(
        (logged.model_uri, "models:/my enformer/1", "models:/my enformer/2", "models:/my enformer@best")
    ):
        assert content(address, folder / str(number)) == "checkpoint", address


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("runs:/0123456789abcdef0123456789abcdef", "Run with id=0123456789abcdef0123456789abcdef not found"),
        ("models:/m-0123456789abcdef0123456789abcdef", "not found"),
        ("models:/enformer@best", "not found"),
        ("models:/enformer/3", "not found"),
        ("models:/enformer", "not an address of MLflow; expected runs:/ID, "),
        ("models:/enformer/latest", "not an address of MLflow"),
        ("runs:/", "not an address of MLflow"),
    ],
)
def test_of_nothing(folder, address, said):
    with pytest.raises(InputError, match=rf"^{address}: [^\n]*{said}"):
        registry.fetch_checkpoint(address, folder / "fetched")
    assert not (folder / "fetched").exists()


def test_of_a_run_without_one(folder, trained):
    with runs.start_run("report", Options()) as run:
        run.keep_text("report.md", "")
    with pytest.raises(
        InputError, match=r"has no artifact folder 'checkpoint'; it has options.json, report.md$"
    ):
        registry.fetch_checkpoint(f"runs:/{run.id}", folder / "fetched")
    with pytest.raises(
        InputError, match=r"has no artifact folder 'bets'; it has best, checkpoint, options.json$"
    ):
        registry.fetch_checkpoint(f"runs:/{trained.id}/bets", folder / "fetched")
    with pytest.raises(InputError, match=r"^runs:/[^\n]*$"):
        registry.fetch_checkpoint(f"runs:/{trained.id}/../../secret", folder / "fetched")


def test_of_a_model_that_no_run_made(folder):
    client = MlflowClient()
    client.create_registered_model("bought")
    client.create_model_version("bought", f"file://{folder}/bought")
    with pytest.raises(InputError, match="made by no run"):
        registry.fetch_checkpoint("models:/bought/1", folder / "fetched")


def test_a_download_that_fails_leaves_nothing(trained, folder, monkeypatch):
    def fail(self, run, path, target):
        (folder / "fetched").joinpath(target, "half").write_text("written")
        raise MlflowException("gone\nTraceback")

    monkeypatch.setattr(MlflowClient, "download_artifacts", fail)
    with pytest.raises(InputError, match=r": gone$"):
        registry.fetch_checkpoint(f"runs:/{trained.id}", folder / "fetched")
    assert not [*(folder / "fetched").iterdir()]


def saved_model(folder):
    """What Run.log_model takes; nothing here loads it."""
    path = folder / "exported"
    path.mkdir(exist_ok=True)
    (path / "saved_model.pb").write_bytes(b"")
    return path


@pytest.fixture
def logged(trained, folder):
    """The run, with the model `head`."""
    trained.log_model(
        saved_model(folder), name="head", input_shape=(-1, 8, 4), output_shapes={"head": (-1, 8, 3)}
    )
    return trained


def test_a_registered_model_leads_back_to_the_checkpoint(logged, folder):
    version = registry.register(logged, "head", "best head", {"study": "abc"}, ["best", "newest"])
    assert version == "1"
    assert content("models:/best head@best", folder / "a") == "checkpoint"
    assert content("models:/best head/1", folder / "b") == "checkpoint"
    found = MlflowClient().get_model_version_by_alias("best head", "newest")
    assert (found.run_id, found.tags) == (logged.id, {"study": "abc"})
    (model,) = MlflowClient().search_logged_models([logged.experiment_id])
    assert found.source == model.model_uri


def test_the_same_model_is_registered_once(logged, folder):
    client = MlflowClient()
    assert registry.register(logged, "head", "best head", {"study": "abc"}) == "1"
    # as after a kill between the version and its alias
    assert registry.register(logged, "head", "best head", {"study": "def"}, ["best"]) == "1"
    assert client.get_model_version("best head", "1").tags == {"study": "def"}
    assert registry.register(logged, "head", "other", {}, ["best"]) == "1"
    with runs.start_run("ablation", Options()) as later:
        shapes = {"input_shape": (-1, 8, 4), "output_shapes": {"head": (-1, 8, 3)}}
        later.log_model(saved_model(folder), name="head", **shapes)
    assert registry.register(later, "head", "best head", {}, ["best"]) == "2"
    # the first command run again does not take the alias back
    assert registry.register(logged, "head", "best head", {}, ["best"]) == "1"
    assert str(client.get_model_version_by_alias("best head", "best").version) == "2"
    assert len(client.search_model_versions("name = 'best head'")) == 2


@pytest.mark.parametrize(
    ("name", "alias", "said"),
    [
        ("a/b", "best", r"registered model 'a/b': expected a name without '@', '/', ':'"),
        ("", "best", "registered model '': expected"),
        ("..", "best", "registered model"),
        ("a\nb", "best", "registered model 'a.nb': expected"),
        ("a@b", "best", "registered model 'a@b': expected a name without '@'"),
        ("head", "v1", "alias 'v1': expected"),
        ("head", "Latest", "alias 'Latest': expected"),
        ("head", "a b", "alias 'a b': expected"),
        ("head", "", "alias '': expected"),
    ],
)
def test_names_that_cannot_be_registered(logged, name, alias, said):
    with pytest.raises(InputError, match=rf"^{said}[^\n]*$"):
        registry.register(logged, "head", name, {}, [alias])
    assert not MlflowClient().search_registered_models()


def test_nothing_to_register(trained):
    with pytest.raises(InputError, match=rf"^the run {trained.id} has no logged model 'head' to register$"):
        registry.register(trained, "head", "best", {})
    assert not MlflowClient().search_registered_models()


def test_a_store_without_a_registry(logged, monkeypatch):
    client = MlflowClient(registry_uri="nowhere://registry")
    monkeypatch.setattr(logged, "client", client)
    with pytest.raises(InputError, match=r"^registered model 'best': [^\n]*registry[^\n]*$"):
        registry.register(logged, "head", "best", {})
