"""The ablation end to end, on the demo data, as a user runs it: in a process of its own, in an empty folder."""

import itertools
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest

from enformer_core.enformer import FAMILIES, PRESETS
from mlproject import __main__ as door
from mlproject.commands import ablation
from mlproject.data.demo import demo_dataset
from mlproject.errors import InputError
from processes import ROOT, Store, finish, launch

QUICK = ("--seeds", "42", "--steps_per_epoch", "2", "--epochs", "3", "--warmup_steps", "2")


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The demo dataset, built once."""
    return demo_dataset(tmp_path_factory.mktemp("demo"))


def start(folder, *words):
    return launch(folder, "mlproject", "ablation", *words)


@pytest.fixture(scope="module")
def grid(tmp_path_factory, demo):
    """A small grid of human and mouse under `mlflow run`, ended well: its folder, what it printed, its options."""
    folder = tmp_path_factory.mktemp("grid")
    words = ("--data", str(demo), "--organisms", "human,mouse", "--variants", "vanilla,all", *QUICK)
    words = (*words, "--work_dir", str(folder / "work"))
    parameters = [f"-P{name[2:]}={value}" for name, value in zip(words[::2], words[1::2], strict=True)]
    project = ("mlflow", "run", str(ROOT), "-e", "ablation", "--env-manager", "local")
    code, output = finish(launch(folder, *project, "--experiment-name", "ablation", *parameters))
    assert code == 0
    return folder, output, words


@pytest.mark.slow
def test_a_grid_leaves_what_the_docs_promise(grid):
    folder, output, _ = grid
    store = Store(folder, "ablation")
    (parent,) = store.parents
    assert parent.info.status == "FINISHED" and set(store.children) == {"vanilla-42", "all-42"}
    names = {f"experiment_results_human_{part}.csv" for part in ("all_seeds", "seed_42", "avg", "categories")}
    pictures = {"overall_human.png", "categories_human.png", "scatter_human.png"}
    assert names | pictures <= store.artifacts(parent)
    assert {name.replace("human", "mouse") for name in names | pictures} <= store.artifacts(parent)

    child = store.children["all-42"]
    assert child.info.status == "FINISHED"
    expected = {
        "variant": "all",
        "encoding": "komlos",
        "positions": "rotary",
        "values": "rank1",
        "seed": "42",
    }
    assert expected.items() <= child.data.params.items()
    assert {data.dataset.name.split("/")[-1] for data in child.inputs.dataset_inputs} == {"human", "mouse"}
    assert [step for step, _ in store.series(child, "loss")] == [1, 3, 5]  # human and mouse in turn
    assert [step for step, _ in store.series(child, "loss_mouse")] == [2, 4, 6]
    assert [step for step, _ in store.series(child, "validation/pearson")] == [2, 4, 6]
    rates = [value for _, value in store.series(child, "learning_rate")]
    assert rates == pytest.approx([2.5e-4, *[5e-4] * 5])

    tables = {suffix: store.fetch(child, f"tracks_human.{suffix}") for suffix in ("parquet", "csv")}
    tracks = pd.read_parquet(tables["parquet"])
    assert list(tracks) == ["index", "identifier", "description", "category", "pearson_r", "r2", "n"]
    assert len(tracks) == 16 and (tracks["n"] == 32 * 112).all()
    pd.testing.assert_frame_equal(pd.read_csv(tables["csv"]), tracks, check_dtype=False)
    metrics = child.data.metrics
    assert metrics["pearson/mean"] == pytest.approx(tracks["pearson_r"].mean())
    for category, rows in tracks.groupby("category"):
        assert metrics[f"pearson/{category}"] == pytest.approx(rows["pearson_r"].mean())
    assert metrics["pearson/nan_tracks"] == 0
    assert len(store.fetch(child, "tracks_mouse.csv").read_text().splitlines()) == 9

    averages = pd.read_csv(store.fetch(parent, "experiment_results_human_avg.csv")).set_index("experiment")
    assert averages.loc["all", "pearson_human_mean"] == pytest.approx(metrics["pearson/mean"])
    assert "vanilla" in output and "viewStateShareKey" in output
    assert len(child.data.metrics) <= 30


@pytest.mark.slow
def test_the_logged_model_is_the_checkpoint(grid, monkeypatch):
    import mlflow

    from enformer_core import checkpoints

    folder, _, _ = grid
    store = Store(folder, "ablation")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    child = store.children["all-42"]
    (output,) = child.outputs.model_outputs
    served = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    sequence = np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(0, 4, (2, 16_384))]
    answer = served.predict(sequence)
    expected = checkpoints.load(store.fetch(child, "checkpoint"))(sequence, is_training=False)
    for head in ("human", "mouse"):
        # the graph of the SavedModel orders its sums differently from eager execution
        np.testing.assert_allclose(answer[head], expected[head], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_signal_is_kept_as_the_checkpoint_predicts_it(grid, demo, monkeypatch):
    """Of sixteen windows of the test split, for each organism, beside what the records have."""
    from enformer_core import checkpoints
    from mlproject.data.batches import windows_in_order
    from mlproject.data.records import open_dataset
    from mlproject.tracking import signals

    folder, _, _ = grid
    store = Store(folder, "ablation")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    child = store.children["all-42"]
    assert signals.list_signals(child.info.run_id) == ["human", "mouse"]
    assert not {"signals_human.csv", "signals_human.json"} & store.artifacts(child)
    model = checkpoints.load(store.fetch(child, "checkpoint"))
    for organism in ("human", "mouse"):
        dataset = open_dataset(demo, organism)
        windows, places = list(windows_in_order(dataset, "test")), dataset.places("test")
        index = signals.read_signal_index(child.info.run_id, organism)
        shown = np.floor(np.linspace(0, len(windows) - 1, 16)).astype(int)
        assert index["identifier"].tolist() == np.repeat(dataset.targets["identifier"], 16).tolist()
        middle = np.tile([(places[at].start + places[at].end) / 2 for at in shown], len(dataset.targets))
        np.testing.assert_array_equal((index["start"] + index["end"]) / 2, middle)
        assert ((index["end"] - index["start"]) == 112 * 128).all()
        found = signals.read_signals(child.info.run_id, organism, [1])
        assert found["chrom"].tolist() == [places[at].chrom for at in shown]
        one_hot = np.concatenate([np.eye(4), np.zeros([1, 4])]).astype(np.float32)
        for row in (0, 7, 15):
            window = windows[shown[row]]
            expected = model(one_hot[window.sequence][np.newaxis], is_training=False)[organism][0, :, 1]
            # XLA orders its sums differently from eager execution
            np.testing.assert_allclose(found["predicted"][row], expected, rtol=1e-3, atol=1e-5)
            np.testing.assert_array_equal(found["measured"][row], window.target[:, 1].astype(np.float32))
            assert found["sd"][row] is None


@pytest.mark.slow
def test_the_same_command_keeps_finished_children(grid):
    folder, _, words = grid
    before = Store(folder, "ablation")
    code, output = finish(start(folder, *words))
    after = Store(folder, "ablation")
    assert code == 0 and output.count("was done before") == 2
    assert (
        len(after.parents) == 2 and after.parents[0].data.tags["continued_in"] == after.parents[1].info.run_id
    )
    for name, child in before.children.items():
        assert after.children[name].info.run_id == child.info.run_id
        assert after.children[name].data.metrics == child.data.metrics


def track_table(folder, name="vanilla-42"):
    store = Store(folder, "ablation")
    return pd.read_parquet(store.fetch(store.children[name], "tracks_human.parquet")), store


LONG = (
    "--variants",
    "vanilla",
    "--seeds",
    "42",
    "--epochs",
    "30",
    "--max_shift",
    "3",
    "--reverse_complement",
    "true",
)


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory, demo):
    """The track table and loss series of a training that nobody stopped."""
    folder = tmp_path_factory.mktemp("never_stopped")
    code, _ = finish(start(folder, "--data", str(demo), *LONG))
    assert code == 0
    table, store = track_table(folder)
    return table, store.series(store.children["vanilla-42"], "loss")


def wait_for_checkpoint(process, folder, step):
    """Waits until a checkpoint of this step or a later one is there."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(int(path.name[5:]) >= step for path in folder.glob("work/ablation/*/vanilla-42-*/step-*")):
            return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint at step {step}: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_stopped_training_ends_with_the_same_numbers(tmp_path, demo, never_stopped, number, code):
    words = ("--data", str(demo), *LONG, "--checkpoint_seconds", "0")
    process = start(tmp_path, *words)
    wait_for_checkpoint(process, tmp_path, 25)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    if number == signal.SIGTERM:
        assert "stopped by SIGTERM after step" in errors and "the same command goes on from there" in errors
    stopped = Store(tmp_path, "ablation").children["vanilla-42"]
    assert stopped.info.status == ("RUNNING" if number == signal.SIGKILL else "KILLED")

    code, _ = finish(start(tmp_path, *words))
    assert code == 0
    table, store = track_table(tmp_path)
    expected, losses = never_stopped
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    child = store.children["vanilla-42"]
    assert child.info.run_id == stopped.info.run_id and child.info.status == "FINISHED"
    assert store.series(child, "loss") == losses  # no gap, no point twice, the same numbers
    assert [parent.info.status for parent in store.parents] == ["KILLED", "FINISHED"]
    assert not list(tmp_path.glob("work/ablation/*/vanilla-42-*"))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(tmp_path, demo, never_stopped):
    words = ("--data", str(demo), *LONG, "--checkpoint_seconds", "0")
    process = start(tmp_path, *words)
    wait_for_checkpoint(process, tmp_path, 25)
    process.kill()
    process.communicate(timeout=60)
    newest = max(tmp_path.glob("work/ablation/*/vanilla-42-*/step-*"))
    weights = newest / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, output = finish(start(tmp_path, *words))
    assert code == 0 and "cut short or damaged" in output
    table, _ = track_table(tmp_path)
    pd.testing.assert_frame_equal(table, never_stopped[0], check_exact=True)


ROTARY_FAILS = """
import sys
from mlproject import __main__ as door
from mlproject.commands import ablation
def bench(options, datasets, config, make=ablation._bench):
    if config.positions == "rotary":
        raise MemoryError("no room for this one\\nand more lines")
    return make(options, datasets, config)
ablation._bench = bench
sys.exit(door.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_failed_variant_is_shown_and_the_rest_runs(tmp_path, demo):
    words = ("--data", str(demo), "--variants", "rope,vanilla", *QUICK)
    (tmp_path / "rotary_fails.py").write_text(ROTARY_FAILS)
    code, output = finish(launch(tmp_path, "rotary_fails", "ablation", *words))
    assert code == 1 and "rope seed 42: FAILED: MemoryError: no room for this one\n" in output
    store = Store(tmp_path, "ablation")
    statuses = {name: run.info.status for name, run in store.children.items()}
    assert statuses == {"rope-42": "FAILED", "vanilla-42": "FINISHED"}
    assert store.children["rope-42"].data.tags["failure"] == "MemoryError: no room for this one"
    assert "in bench" in store.fetch(store.children["rope-42"], "traceback.txt").read_text()
    path = store.fetch(store.parents[0], "experiment_results_human_avg.csv")
    averages = pd.read_csv(path).set_index("experiment")["pearson_human_mean"]
    assert np.isnan(averages["rope"]) and averages["vanilla"] > -1

    code, output = finish(start(tmp_path, *words))
    assert code == 0 and output.count("was done before") == 1
    child = Store(tmp_path, "ablation").children["rope-42"]
    assert child.info.status == "FINISHED" and "failure" not in child.data.tags


@pytest.mark.slow
def test_out_of_memory_is_one_line_and_ends_every_run(tmp_path, demo):
    words = ("--data", str(demo), "--variants", "rope,vanilla", *QUICK)
    no_memory = "import tensorflow as tf\n" + ROTARY_FAILS.replace(
        'MemoryError("no', 'tf.errors.ResourceExhaustedError(None, None, "no'
    )
    (tmp_path / "rotary_fails.py").write_text(no_memory)
    process = launch(tmp_path, "rotary_fails", "ablation", *words)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "rope seed 42: out of memory with --preset tiny --batch_size 1" in errors.splitlines()[-1]
    store = Store(tmp_path, "ablation")
    assert {name: run.info.status for name, run in store.children.items()} == {"rope-42": "FAILED"}
    assert store.parents[0].info.status == "FAILED"


@pytest.mark.slow
def test_more_seeds_keep_what_was_trained(grid):
    folder, _, words = grid
    words = [word if word != "42" else "42,7" for word in words]
    code, output = finish(start(folder, *words))
    assert code == 0 and output.count("was done before") == 2
    assert set(Store(folder, "ablation").children) == {"vanilla-42", "all-42", "vanilla-7", "all-7"}


@pytest.mark.slow
def test_vanilla_learns_on_demo_data(never_stopped, tmp_path, demo):
    """Above 0.3 is asked for; a learning rate of zero leaves the model as it was made."""
    trained, _ = never_stopped
    code, _ = finish(
        start(tmp_path, "--data", str(demo), "--variants", "vanilla", *QUICK, "--learning_rate", "0")
    )
    assert code == 0
    untrained, _ = track_table(tmp_path)
    assert trained["pearson_r"].mean() > 0.3
    assert trained["pearson_r"].mean() > untrained["pearson_r"].mean() + 0.2


# --- bad input: one clear line, exit code 2, nothing in the store -------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--variants", "vanilla,komlosh"),
            "found 'komlosh'; did you mean komlos?; it can be vanilla, komlos",
        ),
        (("--variants", ""), "--variants: found ''"),
        (("--preset", "huge"), "--preset: found 'huge', expected one of full, quarter, tiny"),
        (("--family", "borzoi"), "--family: found 'borzoi', expected one of enformer, ecozoi"),
        (("--seeds", "42,42"), "--seeds: found '42,42'"),
        (("--seeds", "one"), "--seeds"),
        (("--seeds", "-1"), "--seeds: found -1; it must be from 0 to 2147483647"),
        (("--eval_split", "train"), "--eval_split: found 'train', expected one of test, valid"),
        (("--epochs", "0"), "--epochs: found 0; it must be 1 or more"),
        (("--learning_rate", "-1"), "--learning_rate: found -1.0; it cannot be negative"),
        (("--data", "nowhere"), "nowhere"),
        (("--data", "{demo}", "--organisms", "human,yeast"), "yeast"),
    ],
)
def test_bad_options_are_one_line(words, says, tmp_path, monkeypatch, capsys, demo):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert door.main(["ablation", *(word.format(demo=demo) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlproject ablation: ") and says in line
    assert not list(tmp_path.iterdir())


@pytest.fixture
def copy(demo, tmp_path):
    """A copy of the demo dataset that a test may damage."""
    shutil.copytree(demo / "human", tmp_path / "data" / "human")
    return tmp_path / "data"


@pytest.mark.parametrize("start", [0, 1, 2, 5])
def test_organisms_take_turns_also_when_resumed(demo, tmp_path, start):
    options = ablation.Options(data=str(demo), organisms=("human", "mouse"), max_shift=2, work_dir=tmp_path)
    datasets, _ = ablation._open(options)
    whole = list(itertools.islice(ablation._in_turn(options, datasets, 3, 0), 8))
    assert [batch["head"] for batch in whole] == ["human", "mouse"] * 4
    resumed = itertools.islice(ablation._in_turn(options, datasets, 3, start), 8 - start)
    for batch, expected in zip(resumed, whole[start:], strict=True):
        assert batch["head"] == expected["head"]
        np.testing.assert_array_equal(batch["sequence"], expected["sequence"])
        np.testing.assert_array_equal(batch["target"], expected["target"])


def test_the_choices_are_those_of_the_models():
    from typing import get_args, get_type_hints

    hints = get_type_hints(ablation.Options)
    assert get_args(hints["preset"]) == PRESETS and get_args(hints["family"]) == FAMILIES


def refusal(folder, tmp_path):
    with pytest.raises(InputError) as caught:
        ablation.check(ablation.Options(data=str(folder), work_dir=tmp_path / "work"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_shard_cut_short_is_named(copy, tmp_path):
    shard = sorted((copy / "human" / "tfrecords").glob("train-*.tfr"))[0]
    shard.write_bytes(shard.read_bytes()[:-20])
    assert shard.name in refusal(copy, tmp_path)


@pytest.mark.parametrize("subset", ["train", "valid", "test"])
def test_a_stored_nan_is_refused_before_training(copy, tmp_path, subset):
    """In published data, which has no manifest: there the records are read."""
    from mlproject.data.records import Statistics, read_shard, write_shard

    (copy / "human" / "manifest.json").unlink()
    shard = sorted((copy / "human" / "tfrecords").glob(f"{subset}-*.tfr"))[0]
    examples = list(read_shard(shard, Statistics.read(copy / "human" / "statistics.json")))
    target = examples[-1].target.copy()
    target[3, 2] = np.nan
    write_shard(shard, [*examples[:-1], examples[-1]._replace(target=target)])
    message = refusal(copy, tmp_path)
    assert shard.name in message and "track 2" in message and "NaN" in message


def test_targets_without_a_column_and_with_too_few_rows(copy, tmp_path):
    path = copy / "human" / "targets.txt"
    table = pd.read_csv(path, sep="\t", dtype=str)
    table.iloc[:-1].drop(columns="strand_pair").to_csv(path, sep="\t", index=False)
    message = refusal(copy, tmp_path)
    assert "15" in message and "16" in message and "num_targets" in message
    table.drop(columns="identifier").to_csv(path, sep="\t", index=False)
    message = refusal(copy, tmp_path)
    assert "targets.txt" in message and "identifier" in message


def test_a_length_the_model_cannot_take_says_which_it_can(copy, tmp_path):
    import json

    path = copy / "human" / "statistics.json"
    statistics = json.loads(path.read_text())
    path.write_text(json.dumps({**statistics, "seq_length": 16_500, "crop_bp": 1_082}))
    message = refusal(copy, tmp_path)
    assert "16500 bp" in message and "multiples of 128 bp, such as 16512" in message
