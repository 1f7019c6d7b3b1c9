"""Every word of the option `weights`, and what is said of each that leads nowhere."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from enformer_core import checkpoints
from enformer_core.activity import ActivityModel
from enformer_core.enformer import Enformer
from enformer_core.heads import ActivityHeadConfig, TrackHeadConfig
from enformer_core.perceiver import Perceiver
from enformer_core.track_model import TrackModel
from foreign import port_state_dict, save_tensorhub, sonnet_checkpoint
from mlproject import weights
from mlproject.errors import InputError
from mlproject.tensorhub import TensorHubModel
from mlproject.tracking import runs
from toys import toy_model, toy_perceiver_config, toy_sequence

REFERENCE = Path(__file__).parents[2].parent / "shared" / "reference" / "deepmind_tiny"


@dataclass(frozen=True)
class Options:
    experiment: str = "grids"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in (weights.BASELINE, weights.TENSORHUB):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """One model as a checkpoint of ours, a Sonnet checkpoint and a state dict; and a SavedModel in the TF-Hub form."""
    folder = tmp_path_factory.mktemp("weights")
    model = toy_model(seed=3)
    checkpoints.save(folder / "ours", model)
    checkpoints.save(folder / "activity", ActivityModel(model, ActivityHeadConfig()))
    (folder / "sonnet").mkdir()
    sonnet_checkpoint(model, folder / "sonnet" / "enformer-1")
    save_file(port_state_dict(model), folder / "port.safetensors")

    save_tensorhub(folder / "hub")
    return folder, model


def never():
    raise AssertionError("random weights were not asked for")


def load(word, work_dir, load=weights.load, **arguments):
    return load(str(word), work_dir=Path(work_dir), random=never, **arguments)


def check_same(found, model, sequence_length=2048, target_length=14):
    """An Enformer of those lengths with the weights of the toy model."""
    assert isinstance(found, Enformer)
    assert (found.config.sequence_length, found.config.target_length) == (sequence_length, target_length)
    embeddings = (m.trunk(toy_sequence(length=1024), is_training=False) for m in (model, found))
    np.testing.assert_allclose(*embeddings, rtol=1e-5, atol=1e-6)


def test_random(tmp_path):
    model = toy_model()
    for function in (weights.load, weights.load_trunk):
        assert function("random", work_dir=tmp_path, random=lambda: model, sequence_length=256) is model


PLACES = ["ours", "sonnet", "sonnet/enformer-1", "sonnet/enformer-1.index", "port.safetensors"]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("function", [weights.load, weights.load_trunk])
def test_paths(places, tmp_path, name, function):
    folder, model = places
    found = load(folder / name, tmp_path, function, sequence_length=1024, target_length=None)
    check_same(found, model, 1024, None)


def test_lengths_are_those_of_the_weights_unless_given(places, tmp_path):
    folder, model = places
    check_same(load(folder / "ours", tmp_path), model)
    check_same(load(folder / "sonnet", tmp_path), model, 196_608, 896)
    check_same(load(folder / "port.safetensors", tmp_path), model, 196_608, 896)


def test_published(places, tmp_path, monkeypatch):
    folder, model = places
    lengths = {"sequence_length": 2048, "target_length": 14}
    check_same(load("published", tmp_path, weights_dir=str(folder / "sonnet"), **lengths), model)
    monkeypatch.setenv(weights.BASELINE, str(folder / "sonnet"))
    check_same(load("published", tmp_path, **lengths), model)
    with pytest.raises(InputError, match=r"^--weights published: [^\n]*nowhere: 0 checkpoints"):
        load("published", tmp_path, weights_dir="nowhere")  # before the variable


def test_published_as_it_was_fetched(places, tmp_path, monkeypatch):
    folder, model = places
    said = (
        r"^--weights published: name the folder [^\n]* with weights_dir or the variable ENFORMERBASELINE, "
        r"or give download=true"
    )
    with pytest.raises(InputError, match=said):
        load("published", tmp_path)

    def fetch(target):
        shutil.copytree(folder / "sonnet", target)
        return target

    monkeypatch.setattr(weights, "fetch_published", fetch)
    check_same(load("published", tmp_path, download=True, sequence_length=2048, target_length=14), model)
    check_same(load("published", tmp_path, sequence_length=2048, target_length=14), model)


def test_the_reference(tmp_path):
    if not REFERENCE.is_dir():
        pytest.skip("needs ../shared/reference/deepmind_tiny, which is not part of the project")
    found = load("published", tmp_path, weights_dir=str(REFERENCE))
    assert found.config.heads == {"human": 6, "mouse": 4} and found.config.channels == 384


@pytest.mark.parametrize("word", ["tensorhub", "path"])
def test_the_tf_hub_form_predicts_only(places, tmp_path, monkeypatch, word):
    folder, _ = places
    monkeypatch.setenv(weights.TENSORHUB, str(folder / "hub"))
    word = word if word == "tensorhub" else str(folder / "hub")
    found = load(word, tmp_path)
    assert isinstance(found, TensorHubModel)
    assert found.predict(toy_sequence(), "human").shape == (1, 16, 2)
    said = (
        rf"^--weights {word}: the TF-Hub form exposes no trunk: it can predict, not be trained; use published"
    )
    with pytest.raises(InputError, match=said):
        load(word, tmp_path, weights.load_trunk)


def test_tensorhub_needs_a_folder(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"^--weights tensorhub: name the folder [^\n]* ENFORMERTENSORHUB$"):
        load("tensorhub", tmp_path)
    monkeypatch.setenv(weights.TENSORHUB, "https://tfhub.dev/deepmind/enformer/1")
    with pytest.raises(InputError, match=r"found the address https://tfhub.dev[^\n]*; name the folder"):
        load("tensorhub", tmp_path)
    with pytest.raises(InputError, match="not a SavedModel, or a damaged one"):
        load("tensorhub", tmp_path, weights_dir=str(tmp_path))


def test_a_fine_tuned_model(places, tmp_path):
    folder, model = places
    assert isinstance(load(folder / "activity", tmp_path, sequence_length=1024), ActivityModel)
    check_same(load(folder / "activity", tmp_path, weights.load_trunk), model)
    found = load(folder / "activity", tmp_path, weights.load_trunk, sequence_length=1024)
    check_same(found, model, 1024, None)


def test_a_run(places, folder):
    of, model = places
    with runs.start_run("ablation", Options()) as run:
        shutil.copytree(of / "ours", folder / "checkpoint")
        run.keep(folder / "checkpoint")
    check_same(load(f"runs:/{run.id}", folder / "work"), model)
    assert not [*(folder / "work").iterdir()]
    with pytest.raises(InputError, match=r"^--weights models:/enformer@best: [^\n]*not found"):
        load("models:/enformer@best", folder / "work")
    assert not [*(folder / "work").iterdir()]


def test_a_perceiver_is_named(tmp_path):
    checkpoints.save(tmp_path / "joint", Perceiver(toy_perceiver_config()))
    for function in (weights.load, weights.load_trunk):
        with pytest.raises(
            InputError, match=r"^--weights [^\n]*/joint: a Perceiver, [^\n]* takes an Enformer$"
        ):
            load(tmp_path / "joint", tmp_path, function, sequence_length=1024)


def write(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("publishd", r"no file or folder of that name, and none of random, .*; did you mean published\?"),
        ("empty", r"a folder with neither config\.json \(ours\), nor"),
        ("notes.txt", r"a file that is none of \.pt, \.pth, \.bin, \.safetensors"),
        ("empty.pt", "is neither a file of torch.save"),
        ("cut.safetensors", "cut short or damaged"),
        ("half", r"half/weights\.npz: No such file or directory"),
        ("cut", r"weights\.npz: cut short or damaged"),
        ("cut_sonnet", r"enformer-1: cut short or damaged"),
        ("other.safetensors", "no variable stem.0.weight; it is not a state dict of enformer-pytorch"),
        ("fewer", r"enformer/[^\n]* is \(.*\); the model needs \("),
    ],
)
def test_paths_that_lead_nowhere(places, tmp_path, monkeypatch, name, said):
    folder, _ = places
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    write(Path("notes.txt"))
    write(Path("empty.pt"))
    write(Path("cut.safetensors"), (folder / "port.safetensors").read_bytes()[:-100])
    write(Path("half/config.json"), (folder / "ours" / "config.json").read_bytes())
    write(Path("cut/config.json"), (folder / "ours" / "config.json").read_bytes())
    write(Path("cut/weights.npz"), (folder / "ours" / "weights.npz").read_bytes()[:-100])
    shutil.copytree(folder / "sonnet", "cut_sonnet")
    with Path("cut_sonnet/enformer-1.data-00000-of-00001").open("r+b") as file:
        file.truncate(5000)
    save_file({"w": np.zeros(3, np.float32)}, "other.safetensors")
    shutil.copytree(folder / "ours", "fewer")
    config = Path("fewer/config.json")
    config.write_text(config.read_text().replace('"human": 3', '"human": 4'))
    with pytest.raises(InputError, match=rf"^--weights {name}: [^\n]*{said}") as caught:
        load(name, tmp_path / "work")
    assert "\n" not in str(caught.value) and str(caught.value).count(f"{name}: ") == 1
    assert not (tmp_path / "work").exists()


def test_lengths_that_no_model_has(places, tmp_path):
    with pytest.raises(
        InputError, match=r"^--weights [^\n]*a sequence of 1000 bp: the model takes multiples"
    ):
        load(places[0] / "port.safetensors", tmp_path, sequence_length=1000)


# --- a track head -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_head(tmp_path_factory):
    """A head, alone and with its trunk, and what both say."""
    folder = tmp_path_factory.mktemp("heads")
    model = TrackModel(toy_model(seed=3), TrackHeadConfig(4, hidden_size=5), "lab", seed=1)
    model.tracks["lab"] = [{"identifier": f"t{n}"} for n in range(4)]
    checkpoints.save_head(folder / "head", model, "published")
    checkpoints.save(folder / "whole", model)
    return folder, model(toy_sequence(), is_training=False)["lab"]


def test_a_head_is_put_on_its_trunk(trained_head, places, tmp_path):
    """Whatever form the trunk comes in, if its values are the same."""
    folder, expected = trained_head
    for form in ("ours", "sonnet"):
        enformer = load(
            places[0] / form, tmp_path, weights.load_trunk, sequence_length=2048, target_length=14
        )
        model = weights.load_head(str(folder / "head"), enformer, tmp_path)
        assert isinstance(model, TrackModel) and len(model.tracks["lab"]) == 4
        np.testing.assert_allclose(model(toy_sequence(), is_training=False)["lab"], expected, rtol=1e-5)


def test_a_trunk_with_its_head_is_weights_like_others(trained_head, tmp_path):
    folder, expected = trained_head
    model = load(folder / "whole", tmp_path)
    np.testing.assert_array_equal(model(toy_sequence(), is_training=False)["lab"], expected)
    trunk = load(folder / "whole", tmp_path, weights.load_trunk, sequence_length=1024, target_length=4)
    assert isinstance(trunk, Enformer) and trunk.config.heads == {}
    assert (trunk.config.sequence_length, trunk.config.target_length) == (1024, 4)


def test_a_head_of_a_run(trained_head, folder):
    of, expected = trained_head
    with runs.start_run("train_head", Options()) as run:
        run.keep(of / "head")
    model = weights.load_head(f"runs:/{run.id}", toy_model(seed=3), folder / "work")
    np.testing.assert_allclose(model(toy_sequence(), is_training=False)["lab"], expected, rtol=1e-6)
    assert not [*(folder / "work").iterdir()]
    with pytest.raises(
        InputError, match=r"^--weights runs:/\w+: [^\n]* has no artifact folder 'checkpoint'; it has head"
    ):
        load(f"runs:/{run.id}", folder / "work")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("head", "this head was trained on another trunk: that of published"),
        ("whole", "a whole TrackModel, no head alone; give it as the weights"),
        ("none", "No such file or directory"),
        ("cut", r"weights\.npz: cut short or damaged"),
    ],
)
def test_heads_that_do_not_fit_are_one_line(trained_head, tmp_path, name, said):
    folder, _ = trained_head
    shutil.copytree(folder / "head", tmp_path / "cut")
    path = tmp_path / "cut" / "weights.npz"
    path.write_bytes(path.read_bytes()[:-100])
    enformer = toy_model(seed=3 if name == "cut" else 4)
    where = tmp_path / "cut" if name == "cut" else folder / name
    with pytest.raises(InputError, match=rf"^--head {where}: [^\n]*{said}") as caught:
        weights.load_head(str(where), enformer, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_head_alone_is_no_weights(trained_head, tmp_path):
    where = trained_head[0] / "head"
    for function in (weights.load, weights.load_trunk):
        with pytest.raises(
            InputError, match=rf"^--weights {where}: .*a head alone, trained on the trunk published"
        ):
            load(where, tmp_path, function)


def test_a_name_of_a_head_comes_before_a_folder_and_a_folder_needs_no_slash(
    trained_head, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("head", "human"):
        shutil.copytree(trained_head[0] / "head", tmp_path / name)
    assert weights.with_head(toy_model(seed=3), "human", tmp_path)[1] == "human"
    model, name = weights.with_head(toy_model(seed=3), "head", tmp_path)
    assert isinstance(model, TrackModel) and name == "lab"
    enformer = toy_model(seed=3)
    assert weights.with_head(enformer, "", tmp_path) == (enformer, "human")
    assert weights.with_head(enformer, "nothing", tmp_path) == (enformer, "nothing")  # for who uses it
    assert capsys.readouterr().out == "head: human (of human, mouse)\n"


def test_a_name_longer_than_any_file_is_one_line(tmp_path):
    with pytest.raises(
        InputError, match=r"^--weights x+: no file or folder of that name, and none of [^\n]*$"
    ):
        load("x" * 300, tmp_path)


def test_newest_is_the_last_finished_child_of_a_command(folder, capsys):
    def train(command, name, fails=False):
        with runs.start_run(command, Options()) as run, run.child(name, key={"a": name}, params={}) as child:
            if fails:
                child.fail("it diverged")
            return child.id

    assert weights.newest(("one", "two"), "model of tracks") == "random"
    said = (
        "This store has no model of tracks: an untrained one (weights=random) predicts, and its numbers mean"
    )
    assert capsys.readouterr().out == f"{said} nothing. `mlflow run . -e one` makes one.\n"
    train("one", "first")
    expected = train("two", "second")
    train("three", "third")
    train("one", "fourth", fails=True)
    assert weights.newest(("one", "two"), "model of tracks") == f"runs:/{expected}"
    assert capsys.readouterr().out.startswith("weights: second of 20")
