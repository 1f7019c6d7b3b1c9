"""Joint training end to end, as a user runs it: in a process of its own, models of a few thousand weights."""

import json
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from enformer_core import checkpoints, dna
from joint_tables import LETTERS, OF_TABLE, TINY, made_up
from mlproject.commands import joint
from processes import Store, finish, launch, run_studies, words_of

SHARED = Path(__file__).parents[4] / "shared" / "data"
LONG = {"--epochs": "20"}
SHORT = {"--epochs": "2"}


def hidden_changed(table):
    """The same, with other activities wherever no training may read them."""
    changed = table.copy()
    held_out = table["label"].str.match("chr[89]-")
    changed["log2_K562"] = 5 - 3 * table["log2_K562"].to_numpy()[::-1]
    changed.loc[held_out, "log2_HepG2"] = -7 * table["log2_HepG2"][held_out]
    return changed


@pytest.fixture(scope="module")
def studies(tmp_path_factory, empty_store):
    folder = tmp_path_factory.mktemp("studies")
    shutil.copy(empty_store, folder / "mlflow.db")
    table = made_up()
    table.to_csv(folder / "table.csv", index=False)
    hidden_changed(table).to_csv(folder / "changed.csv", index=False)
    sweep = {"--num_latents": "3,4", "--learning_rate": "0.001,0.002", "--seeds": "7"}
    order = [
        ("whole", LONG),
        ("table", {**SHORT, **OF_TABLE, "--mpra": "table.csv"}),
        ("changed", {**SHORT, **OF_TABLE, "--mpra": "changed.csv"}),
        ("sweep", {**SHORT, **OF_TABLE, "--mpra": "table.csv", **sweep}),
        ("tracks", {**SHORT, "--modalities": "tracks", "--seeds": "1"}),
        ("whole", LONG),
    ]
    return run_studies(folder, "joint", [(name, {**TINY, **given}) for name, given in order])


def table_of(store, run, name):
    return pd.read_parquet(store.fetch(run, f"{name}.parquet"))


def trained(store):
    """The child runs by modalities and seed; of the last one where there are several settings."""
    return {
        (child.data.params["modalities"], int(child.data.params["seed"])): child
        for child in store.children.values()
    }


def kinds(*names):
    return {f"{name}.{suffix}" for name in names for suffix in ("json", "csv", "parquet")}


@pytest.mark.slow
def test_a_study_leaves_what_the_docs_promise(studies):
    store = studies.store("whole")
    output = studies.outputs["whole"][0]
    parent = store.parents[0]
    children = trained(store)
    assert set(children) == {(modalities, seed) for modalities in ("both", "mpra") for seed in (1, 2)}
    assert studies.codes["whole"] == ["0", "0"] and len(store.children) == 4
    assert parent.info.status == "FINISHED"
    assert {"joint.png", "models"} | kinds("results", "differences") <= store.artifacts(parent)
    results = table_of(store, parent, "results").set_index(["modalities", "seed"])
    assert len(results) == 4
    for (modalities, seed), child in children.items():
        assert child.info.status == "FINISHED" and child.outputs.model_outputs
        kept = {"activity.png", "checkpoint", "sample_activity.parquet"} | kinds("predictions", "comparison")
        assert kept <= store.artifacts(child)
        assert child.info.run_name == f"training {results.loc[(modalities, seed), 'name']}"
        expected = {"holdout_cell_type": "demo_D", "d_model": "16", "epochs": "20"}
        assert expected.items() <= child.data.params.items()
        assert [step for step, _ in store.series(child, "loss")] == list(range(1, 61))
        losses = store.series(child, "validation/loss")
        assert [step for step, _ in losses] == list(range(3, 61, 3))
        metrics = child.data.metrics
        assert metrics["best/step"] == min(losses, key=lambda point: point[1])[0]
        assert len(metrics) <= 60
        assert ("pearson/coverage" in metrics) == (modalities == "both")
        for number in ("pearson/activity", "pearson/activity_hidden", "best/nucleotide_gain"):
            assert results.loc[(modalities, seed), number] == pytest.approx(metrics[number])
        regions = child.data.tags["training_regions"]
        assert "MPRA sequences, measured in demo_" in regions and "demo_D" not in regions.split(";")[0]
        assert ("windows of 64 bp on chr" in regions) == (modalities == "both")
        predictions = table_of(store, child, "predictions")
        of_hidden = predictions[predictions["cell_type"] == "demo_D"]
        assert set(of_hidden["labels"]) == {"hidden"}
        found = np.corrcoef(of_hidden["activity"], of_hidden["predicted"])[0, 1]
        assert metrics["pearson/activity_hidden"] == pytest.approx(found)
        others = predictions[predictions["labels"] == "seen"].groupby("cell_type")
        found = [np.corrcoef(own["activity"], own["predicted"])[0, 1] for _, own in others]
        assert len(found) == predictions["cell_type"].nunique() - 1 and metrics[
            "pearson/activity"
        ] == pytest.approx(np.mean(found))
    differences = table_of(store, parent, "differences").set_index("number")
    pivot = results["pearson/activity_hidden"].unstack("modalities")
    gain = (pivot["both"] - pivot["mpra"]).mean()
    assert differences.loc["pearson/activity_hidden", "difference"] == pytest.approx(gain)
    assert parent.data.metrics["gain/activity_hidden"] == pytest.approx(gain)
    assert "What tracks add to MPRA:" in output and "viewStateShareKey" in output
    assert not list(studies.folder.glob("work/joint/*/*"))


@pytest.mark.slow
def test_the_pair_for_generate_is_two_seeds_of_one_setting(studies):
    store = studies.store("whole")
    models = store.fetch(store.parents[0], "models")
    document = json.loads((models / "models.json").read_text())
    for role, seed in (("generator", 1), ("judge", 2)):
        child = trained(store)["both", seed]
        name = child.info.run_name.removeprefix("training ")
        held_out = (
            table_of(store, child, "comparison").query("predictor == 'predicted'").set_index("cell_type")
        )
        of_cells = held_out[["pearson", "pearson_low", "pearson_high"]].to_numpy().tolist()
        assert document[role] == {
            **{"run": child.info.run_id, "seed": seed, "name": name},
            "held_out": dict(zip(held_out.index, of_cells, strict=True)),
        }
        ours, theirs = (checkpoints.load(path) for path in (models / role, store.fetch(child, "checkpoint")))
        assert ours.config == theirs.config
        for one, other in zip(ours.variables, theirs.variables, strict=True):
            np.testing.assert_array_equal(one, other)
    (demo,) = (studies.folder / "work").glob("demo-joint-*/raw")
    table = pd.read_csv(demo / "mpra.tsv", sep="\t")
    assert sorted(["demo_D", *document["labelled"]]) == sorted(table["cell_type"].unique())
    tracks = pd.read_csv(demo / "targets.txt", sep="\t")["cell_type"]
    assert document["cell_types"] == list(dict.fromkeys(tracks))
    assert (models / "grammar.json").read_bytes() == (demo / "grammar.json").read_bytes()
    trained_on = pd.read_csv(models / "training.tsv", sep="\t")
    held_out = set(table_of(store, trained(store)["both", 1], "predictions")["name"])
    assert not held_out & set(trained_on["name"]) and len(trained_on) > 5 * len(held_out)
    sequences = table.drop_duplicates("name").set_index("name")["sequence"]
    assert (sequences[trained_on["name"]].to_numpy() == trained_on["sequence"].to_numpy()).all()


@pytest.mark.slow
def test_the_same_command_has_nothing_to_do(studies):
    store, again = studies.store("whole"), studies.outputs["whole"][1]
    assert again.count("was done before") == 4
    before, after = store.parents
    assert before.data.tags["continued_in"] == after.info.run_id
    for child in store.children.values():
        assert child.info.end_time <= after.info.start_time
    for name in ("results", "differences"):
        pd.testing.assert_frame_equal(
            *(table_of(store, parent, name) for parent in store.parents), check_exact=True
        )


@pytest.mark.slow
def test_the_logged_model_and_the_checkpoint_predict_the_table(studies, monkeypatch):
    import mlflow

    store = studies.store("table")
    child = trained(store)["mpra", 1]
    predictions = table_of(store, child, "predictions")
    assert set(predictions["chromosome"]) == {"chr8", "chr9"}
    sequences = made_up().set_index("label")["sequence"]
    letters = [sequences[name] for name in predictions["name"]]
    one_hot = np.stack([dna.one_hot(one.ljust(LETTERS, "N")) for one in letters]).astype(np.float32)
    model = checkpoints.load(store.fetch(child, "checkpoint"))
    column = [model.config.cell_types.index(name) for name in predictions["cell_type"]]
    rows = np.arange(len(column))
    found = model(tf.constant(one_hot))["activity"].numpy()[rows, column]
    # XLA orders its sums differently from eager execution and from a SavedModel
    np.testing.assert_allclose(found, predictions["predicted"], rtol=1e-4)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{studies.folder}/mlflow.db")
    (output,) = child.outputs.model_outputs
    served = mlflow.pyfunc.load_model(f"models:/{output.model_id}").predict(one_hot)
    np.testing.assert_allclose(served[rows, column], predictions["predicted"], rtol=1e-4)


@pytest.mark.slow
def test_what_may_not_be_read_changes_nothing(studies):
    """Test chromosomes and the labels of the hidden cell type have other values in the second study."""
    stores = [studies.store(name) for name in ("table", "changed")]
    for seed in (1, 2):
        first, other = (table_of(store, trained(store)["mpra", seed], "predictions") for store in stores)
        assert (first["activity"] != other["activity"]).all()
        assert set(first["labels"][first["cell_type"] == "K562"]) == {"hidden"}
        unchanged = [column for column in first if column != "activity"]
        assert {"predicted", "kmers", "gc"} < set(unchanged)
        pd.testing.assert_frame_equal(first[unchanged], other[unchanged], check_exact=True)
        for key in ("loss", "validation/loss", "validation/activity_pearson"):
            one, another = (store.series(trained(store)["mpra", seed], key) for store in stores)
            assert one == another
    documents = []
    for store in stores:
        document = json.loads((store.fetch(store.parents[0], "models") / "models.json").read_text())
        documents.append({key: document[key] for key in ("labelled", "activity", "cell_types")})
    assert documents[0] == documents[1] and documents[0]["labelled"] == ["HepG2"]


@pytest.mark.slow
def test_comma_lists_make_a_grid_and_one_seed_gets_a_judge(studies):
    store = studies.store("sweep")
    (output,) = studies.outputs["sweep"]
    wanted = {(latents, rate) for latents in ("3", "4") for rate in ("0.001", "0.002")}
    swept = [child for child in store.children.values() if child.data.params["seed"] == "7"]
    assert {(c.data.params["num_latents"], c.data.params["learning_rate"]) for c in swept} == wanted
    assert len(swept) == 4 and "one seed: a model of seed" in output
    (judge,) = (child for child in store.children.values() if child.data.params["seed"] == "8")
    document = json.loads((store.fetch(store.parents[0], "models") / "models.json").read_text())
    assert document["judge"]["run"] == judge.info.run_id and document["judge"]["seed"] == 8
    best = max(swept, key=lambda child: child.data.metrics["best/activity_pearson"])
    assert document["generator"]["run"] == best.info.run_id
    for name in ("num_latents", "learning_rate"):
        assert judge.data.params[name] == best.data.params[name]
    results = table_of(store, store.parents[0], "results")
    assert len(results) == 4 and results["setting"].nunique() == 4
    rates = {c.data.params["learning_rate"]: store.series(c, "learning_rate")[1][1] for c in swept}
    assert rates == {"0.001": 0.001, "0.002": 0.002}  # warm after two steps


@pytest.mark.slow
def test_tracks_alone(studies):
    store = studies.store("tracks")
    assert studies.codes["tracks"] == ["0"] and list(trained(store)) == [("tracks", 1)]
    child = trained(store)["tracks", 1]
    assert {"pearson/coverage", "coverage/loss"} <= child.data.metrics.keys()
    assert not [name for name in child.data.metrics if "activity" in name or "nucleotide" in name]
    assert "checkpoint" in store.artifacts(child) and "activity.png" not in store.artifacts(child)
    assert "joint.png" in store.artifacts(store.parents[0]) and "models" not in store.artifacts(
        store.parents[0]
    )


def wait_for_checkpoint(process, folder, seed):
    """Waits until a training has a checkpoint."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(folder.glob(f"work/joint/*/both-*-{seed}-*/step-*")):
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint of seed {seed}: {process.communicate()}")


@pytest.mark.slow
def test_a_stopped_study_ends_with_the_same_numbers(folder, studies):
    """Killed in its first training, asked to end in its second."""
    (demo,) = (studies.folder / "work").glob("demo-joint-*")
    shutil.copytree(demo, folder / "work" / demo.name)  # with times of change, which the digest has
    words = ["joint", *words_of(TINY, LONG, {"--modalities": "both", "--checkpoint_seconds": "0"})]
    stopped = []
    for seed, number, code in ((1, signal.SIGKILL, -9), (2, signal.SIGTERM, 143)):
        process = launch(folder, "mlproject", *words)
        wait_for_checkpoint(process, folder, seed)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == code and "Traceback" not in errors
        stopped.append(trained(Store(folder, "joint"))["both", seed])
    assert re.search(r"of 60 in training both-\S+-2; the same command goes on from there", errors)
    assert re.search(r"\[1/2\] training both-\S+-1: goes on after step ", output)
    assert [child.info.status for child in stopped] == ["RUNNING", "KILLED"]
    code, output = finish(launch(folder, "mlproject", *words))
    assert code == 0, output
    assert re.search(r"\[2/2\] training both-\S+-2: goes on after step ", output)
    expected, found = studies.store("whole"), Store(folder, "joint")
    assert set(trained(found)) == {("both", 1), ("both", 2)}
    for key, before in zip((("both", 1), ("both", 2)), stopped, strict=True):
        child, other = trained(found)[key], trained(expected)[key]
        assert child.info.run_id == before.info.run_id
        for kept in ("predictions", "comparison", "sample_activity"):
            pd.testing.assert_frame_equal(
                table_of(found, child, kept), table_of(expected, other, kept), check_exact=True
            )
        for name in ("loss", "validation/loss", "validation/coverage_pearson"):
            assert found.series(child, name) == expected.series(other, name)
    assert not list(folder.glob("work/joint/*/*"))


@pytest.mark.slow
def test_near_duplicates_stay_on_one_side(studies):
    """Of the demo: copies with three changes, which are named after their originals."""
    data = joint.open_data(joint.Options(work_dir=studies.folder / "work", modalities=("mpra",)))
    place = dict(
        zip(
            data.mpra.table.names,
            zip(data.mpra.split.subset, data.mpra.split.clusters, strict=True),
            strict=True,
        )
    )
    copies = [name for name in place if name.endswith("_copy")]
    assert len(copies) > 100
    for name in copies:
        assert place[name] == place[name.removesuffix("_copy")]
    assert {subset for subset, _ in map(place.get, copies)} == {"train", "valid", "test"}


# --- real data, where there is any --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "crx_mpra").exists(), reason="needs data/crx_mpra")
def test_a_published_table(folder):
    data = SHARED / "crx_mpra"
    words = {
        **{"--mpra": str(data / "rhoActivityJoinedAnnotated.txt"), "--modalities": "mpra", "--seeds": "1,2"},
        **{"--mpra_fasta": str(data / "library1And2.fasta"), "--mpra_activity": "expression"},
        **{
            "--mpra_spread": "expression_std",
            "--mpra_replicate_count": "expression_reps",
            "--mpra_log2": "1",
        },
        **{"--mpra_len": "164", "--mpra_test": "chr8,chr9,chr10"},
    }
    code, output = finish(launch(folder, "mlproject", "joint", *words_of(TINY, SHORT, words)))
    assert code == 0 and "clusters of near-duplicates" in output
    store = Store(folder, "joint")
    child = trained(store)["mpra", 1]
    predictions = table_of(store, child, "predictions").set_index("name")
    assert set(predictions["chromosome"]) == {"chr8", "chr9", "chr10"} and len(predictions) > 500
    given = pd.read_csv(data / "rhoActivityJoinedAnnotated.txt", sep="\t", index_col=0).loc[predictions.index]
    np.testing.assert_allclose(predictions["activity"], np.log2(given["expression"] + 1))
    spread = given["expression_std"] / ((given["expression"] + 1) * np.log(2))
    np.testing.assert_allclose(predictions["spread"], spread)
    metrics = child.data.metrics
    assert 0.2 < metrics["pearson/kmers"] < 0.45 and 0.5 < metrics["ceiling/activity"] < 1
    found = np.corrcoef(predictions["activity"], predictions["kmers"])[0, 1]
    assert metrics["pearson/kmers"] == pytest.approx(found)
    comparison = table_of(store, child, "comparison").set_index("predictor")
    assert comparison.loc["kmers", "pearson_low"] < found < comparison.loc["kmers", "pearson_high"]


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "yeast" / "stripeseq").exists(), reason="needs data/yeast/stripeseq")
def test_published_tracks(folder):
    signals = sorted((SHARED / "yeast" / "stripeseq").glob("*_1.fwd.bw"))
    rows = [f"{path.name[:-7]}\t{path}\tCAGE:{path.name[:-7]}" for path in signals]
    (folder / "targets.txt").write_text("\n".join(["identifier\tfile\tdescription", *rows]) + "\n")
    (fasta,) = (SHARED / "yeast").glob("*.dna.toplevel.fa.gz")
    words = {"--modalities": "tracks", "--tracks": "targets.txt", "--fasta": str(fasta), "--seeds": "1"}
    words |= {"--track_valid": "III", "--track_test": "IV"}
    code, _ = finish(launch(folder, "mlproject", "joint", *words_of(TINY, SHORT, words)))
    assert code == 0
    store = Store(folder, "joint")
    child = trained(store)["tracks", 1]
    model = checkpoints.load(store.fetch(child, "checkpoint"))
    assert model.config.cell_types == tuple(path.name[:-7] for path in signals)
    assert abs(child.data.metrics["pearson/coverage"]) < 1 and child.data.metrics["coverage/loss"] > 0
