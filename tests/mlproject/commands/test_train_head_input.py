"""What train_head refuses: one clear line, exit code 2, nothing half-written."""

import json
import re
import shutil
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import tensorflow as tf

from enformer_core import checkpoints
from enformer_core.enformer import PRESETS
from enformer_core.heads import TRACK_HEADS, TrackHeadConfig
from enformer_core.track_model import TrackModel
from foreign import save_tensorhub
from mlproject import __main__ as door
from mlproject.commands import train_head
from mlproject.data.records import open_dataset
from processes import Store
from toys import toy_h5, toy_model, toy_tracks


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(toy_tracks(tmp_path_factory.mktemp("data")).folder)


@pytest.fixture
def in_this_process(monkeypatch):
    """The command, which makes TensorFlow deterministic, leaves it for other tests as it is."""
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)


def refused(words, capsys):
    assert door.main(["train_head", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlproject train_head: ")
    return line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        *(
            (f"--{name}=0", f"--{name}: found 0; it must be 1 or more")
            for name in ("epochs", "steps_per_epoch")
        ),
        ("--batch_size=-4", "--batch_size: found -4; it must be 1 or more"),
        *(
            (f"--{name}=-1", f"--{name}: found -1; it cannot be negative")
            for name in ("warmup_steps", "patience", "hidden_size", "num_heads", "valid_files", "test_files")
        ),
        ("--learning_rate=-1", "--learning_rate: found -1.0; it cannot be negative"),
        ("--learning_rate=nan", "--learning_rate: found 'nan', expected a number"),
        ("--clip_norm=inf", "--clip_norm: found 'inf', expected a number"),
        ("--work_dir={data}/lab/targets.txt", "lab/targets.txt"),
        ("--total_weight=-0.1", "--total_weight: found -0.1; it cannot be negative"),
        ("--checkpoint_seconds=-1", "--checkpoint_seconds: found -1.0; it cannot be negative"),
        ("--key_size=0", "--key_size is 0; it must be 1 or more"),
        ("--value_size=-2", "--value_size is -2; it must be 1 or more"),
        ("--weight_decay=-1", "--weight_decay: found -1.0; it cannot be negative"),
        ("--dropout=1", "--dropout is 1.0; it must be a number from 0 to below 1"),
        ("--dropout=-0.5", "--dropout is -0.5; it must be a number from 0 to below 1"),
        ("--head=deep", "--head: found 'deep', expected one of linear, hidden, attention"),
        ("--loss=mse", "--loss: found 'mse', expected one of poisson, poisson_multinomial"),
        ("--cache=maybe", "--cache: found 'maybe', expected one of on, off"),
        ("--eval_split=train", "--eval_split: found 'train', expected one of test, valid"),
        ("--seeds=1,1", "--seeds: found '1,1'; give at least one, each once"),
        ("--seeds=", "--seeds: found ''"),
        ("--seeds=-1", "--seeds: found -1; it must be from 0 to 2147483647"),
        ("--organism=human", "organism 'human' is not in "),
        ("--organism=../lab", "organism '../lab': use letters"),
        ("--data=nowhere", "data "),
        ("--data=", ""),
        ("--valid_files=1", "--valid_files: is for published h5 files; found --data "),
        ("--test_files=1", "--test_files: is for published h5 files; found --data "),
        ("--weights_dir=here", "--weights_dir: is for --weights published or tensorhub; found random"),
        ("--weights=tensorhub --download=true", "--download: is for --weights published; found tensorhub"),
        ("--num_tracks=3", "num_tracks"),  # it comes from the data
        *(  # what would do nothing
            (
                f"{words} --{name}_size=32",
                f"--{name}_size: is for --head attention, or --num_heads; found --head",
            )
            for name, words in (("key", ""), ("value", "--head=hidden --hidden_size=8"))
        ),
        ("--total_weight=1", "--total_weight: is for --loss poisson_multinomial; found poisson"),
        ("--weights=here --preset=quarter", "--preset: is for --weights random; found here"),
    ],
)
def test_bad_options_are_one_line_and_no_run(words, says, tmp_path, monkeypatch, capsys, data):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    given = dict(word.split("=") for word in words.format(data=data).split())
    options = {"--data": data, "--organism": "lab", **given}
    assert says in refused(map("=".join, options.items()), capsys)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def copy(data, tmp_path):
    """A copy of the dataset that a test may damage."""
    shutil.copytree(Path(data), tmp_path / "data")
    return tmp_path / "data" / "lab"


def without_windows(subset):
    def change(path):
        statistics = json.loads((path / "statistics.json").read_text())
        (path / "statistics.json").write_text(json.dumps({**statistics, f"{subset}_seqs": 0}))

    return change


def cut(path):
    shard = path / "tfrecords" / "train-0.tfr"
    shard.write_bytes(shard.read_bytes()[:-30])


def fewer_places(path):
    bed = path / "sequences.bed"
    bed.write_text("".join(bed.read_text().splitlines(keepends=True)[:-1]))


def bins_of_48(path):
    statistics = json.loads((path / "statistics.json").read_text())
    (path / "statistics.json").write_text(json.dumps({**statistics, "pool_width": 48, "crop_bp": 688}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_windows("train"), "lab: has no train windows"),
        (without_windows("valid"), "lab: has no valid windows"),
        (without_windows("test"), "lab: has no test windows; give eval_split=valid"),
        (cut, "train-0.tfr: is truncated or corrupt"),
        (fewer_places, "sequences.bed: has 2 test windows, statistics.json says 3"),
        (bins_of_48, "cannot be pooled to whole bins of 128 bp"),
        (lambda path: (path / "tfrecords" / "valid-0.tfr").unlink(), "has no shard named valid-N.tfr"),
        (lambda path: (path / "targets.txt").write_text("index\n"), "targets.txt"),
    ],
)
def test_data_that_cannot_be_trained_on_are_one_line_and_no_run(
    copy, tmp_path, monkeypatch, capsys, change, says
):
    change(copy)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert says in refused(["--data", str(copy.parent), "--organism", "lab"], capsys)
    assert {path.name for path in (tmp_path / "here").rglob("*")} <= {"work", "verified.json"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--data", "{prefix}.1.h5"),
            "tracks.1.h5: give what stands before .0.h5, .1.h5 and so on, for all of them",
        ),
        ((), "--eval_split test: needs --test_files, as h5 files have no test split; or give valid"),
        (
            ("--test_files", "1", "--valid_files", "2"),
            "2 files to validate and 1 to test leave none of 3 to train",
        ),
        (("--eval_split", "valid", "--organism", "a/b"), "organism 'a/b': use letters"),
    ],
)
def test_h5_files_that_cannot_be_split_are_one_line_and_no_run(tmp_path, monkeypatch, capsys, words, says):
    prefix = toy_h5(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    words = [word.format(prefix=prefix) for word in words]
    assert says in refused(words if "--data" in words else ["--data", prefix, *words], capsys)
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_an_h5_file_cut_short_by_a_kill_is_one_line_and_no_run(tmp_path, monkeypatch, capsys, share):
    prefix = toy_h5(tmp_path)
    path = Path(f"{prefix}.2.h5")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    says = "tracks.2.h5: is cut short or damaged; copy it or make it again"
    assert says in refused(["--data", prefix, "--eval_split", "valid"], capsys)
    assert not list((tmp_path / "here").iterdir())


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Weights that no head can be trained on."""
    folder = tmp_path_factory.mktemp("weights")
    save_tensorhub(folder / "hub")
    model = TrackModel(toy_model(), TrackHeadConfig(3), "lab")
    checkpoints.save(folder / "whole", model)
    checkpoints.save_head(folder / "head", model, "published")
    shutil.copytree(folder / "whole", folder / "cut")
    weights = folder / "cut" / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--weights {places}/hub", "the TF-Hub form exposes no trunk: it can predict, not be trained; use"),
        ("--weights {places}/cut", "weights.npz: cut short or damaged"),
        ("--weights {places}/head", "a head alone, trained on the trunk published; name both"),
        ("--weights {places}/none", "no file or folder of that name, and none of random, published"),
        ("--weights runs:/abc", "--weights runs:/abc: "),
    ],
)
def test_weights_that_cannot_be_used_are_one_line(words, says, folder, capsys, data, places, in_this_process):
    words = ["--data", data, "--organism", "lab", *words.format(places=places).split()]
    assert says in refused(words, capsys)
    (run,) = Store(folder, "train_head").parents
    assert run.info.status == "FAILED" and says in run.data.tags["failure"]


def test_a_disk_that_is_too_small_is_one_line(folder, capsys, data, monkeypatch, in_this_process, places):
    """Said before the first window; every run has ended; without the cache there is room enough."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: (10**9, 0, 10_000))
    words = ["--data", data, "--organism", "lab", "--weights", str(places / "whole")]
    line = refused(words, capsys)
    assert re.search(
        r"/embeddings/[0-9a-f]{16}: 0\.04 MB needed for embeddings, 0\.01 MB free; .* cache=off$", line
    )
    store = Store(folder, "train_head")
    assert {run.info.status for run in (*store.parents, *store.children.values())} == {"FAILED"}
    assert not list(folder.glob("work/embeddings/*/*.npy"))
    assert not list(folder.glob("work/train_head/*"))


def test_windows_of_a_length_that_no_model_takes_say_which_they_may_have(folder, capsys, in_this_process):
    prefix = toy_h5(folder, sequence_length=2000)  # of the ends, which have no bins, 24 bp are missing
    line = refused(["--data", prefix, "--eval_split", "valid"], capsys)
    assert "statistics.json: a sequence of 2000 bp: the model takes multiples of 128 bp" in line
    (run,) = Store(folder, "train_head").parents
    assert run.info.status == "FAILED"


def study(dataset, trunk="trunk", **options):
    return train_head._study(train_head.Options(**options), dataset, trunk)


def test_what_changes_numbers_is_another_study(data):
    """Both modes of `cache` too, whose numbers agree to the rounding of float16 alone."""
    dataset = open_dataset(data, "lab")
    studies = {
        study(dataset),
        study(dataset, "other"),
        study(dataset, cache="off"),
        study(dataset, reverse_complement=True),
        study(dataset, head="attention"),
        study(dataset, head="attention", key_size=32),
        study(dataset, loss="poisson_multinomial"),
        study(dataset, loss="poisson_multinomial", total_weight=1.0),
        study(dataset, batch_size=2),
        study(dataset, dropout=0.1),
        study(dataset, weight_decay=0.1),
        study(dataset, eval_split="valid"),
    }
    assert len(studies) == 12
    same = {"seeds": (1, 2), "work_dir": Path("there"), "experiment": "other", "checkpoint_seconds": 1.0}
    assert study(dataset, **same, preset="full") == study(dataset)


def test_the_heads_are_those_of_the_models():
    hints = get_type_hints(train_head.Options)
    assert get_args(hints["head"]) == tuple(TRACK_HEADS) and get_args(hints["preset"]) == PRESETS
