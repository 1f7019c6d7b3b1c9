import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from enformer_core import checkpoints
from enformer_core.perceiver import MASKED, PADDING, Perceiver
from mlproject import generators
from mlproject.errors import InputError
from mlproject.generators import Functions
from toys import toy_model, toy_perceiver_config
from writing import TRAINING, copied, toy_pair, with_grammar


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return toy_pair(tmp_path_factory.mktemp("pair"))


def test_a_folder_is_read_whole(models, tmp_path):
    found = generators.read(str(models), tmp_path)
    for name, seed in (("generator", 1), ("judge", 2)):
        one = getattr(found, name)
        expected = checkpoints.load(models / name)
        assert checkpoints.model_digest(one.model) == checkpoints.model_digest(expected)
        assert (one.name, one.seed) == (f"both seed {seed}", seed)
        assert one.held_out == {"b": (0.5, 0.25, 0.75) if name == "generator" else (0.25, -0.25, 0.5)}
    assert found.cell_types == ("a", "b") and found.labelled == ("b",)
    assert found.activity == (0.5, 3.5) and found.activity_by_cell_type == {"b": (1.0, 3.0)}
    assert found.composition == (0.3, 0.2, 0.2, 0.3) and found.writes
    assert dict(zip(found.names, found.sequences, strict=True)) == TRAINING
    assert found.grammar is None
    assert found.usual_length == 8 and found.most_letters == 9


def test_the_usual_length_is_one_that_the_models_take(models, tmp_path):
    folder = copied(models, tmp_path)
    (folder / "training.tsv").write_text("name\tsequence\nlong\tACGTACGTACGT\n")
    assert generators.read(str(folder), tmp_path).usual_length == 9


def test_the_grammar_of_demo_data_is_read(models, tmp_path):
    folder = copied(models, tmp_path)
    with_grammar(folder)
    assert generators.read(str(folder), tmp_path).grammar.motifs == ("AC", "GG")


def test_a_cell_type_is_known_by_name(models, tmp_path):
    found = generators.read(str(models), tmp_path)
    assert found.cell("a") == ("a", 0) and found.cell("b") == ("b", 1)
    assert found.cell("") == ("b", 1)  # the first with labels
    with pytest.raises(InputError, match="--cell_type: found 'c'; the models have a, b"):
        found.cell("c")


def test_a_cell_type_that_nothing_was_trained_on_is_refused(models, tmp_path):
    folder = copied(models, tmp_path)
    shutil.rmtree(folder / "judge")
    checkpoints.save(folder / "judge", Perceiver(toy_perceiver_config(unseen_cell_types=("a",))))
    found = generators.read(str(folder), tmp_path)
    assert found.cell("b") == ("b", 1)
    with pytest.raises(
        InputError, match="found 'a'; the models have seen neither tracks nor labels of it; take one of b"
    ):
        found.cell("a")


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"labelled": []}, "trained on tracks alone, without any activity"),
        (
            {
                **{"cell_types": ["a", "c"], "labelled": ["a"]},
                "activity_by_cell_type": {"a": {"low": 1, "high": 2}},
            },
            "generator has the cell types a, b; models.json names a, c",
        ),
        ({"labelled": ["c"]}, "are not possible"),
        ({"base_composition": [0.5, 0.5]}, "are not possible"),
        ({"base_composition": [1, 1, 1, -1]}, "are not possible"),
        ({"base_composition": [0, 0, 0, 0]}, "are not possible"),
        ({"activity": {"low": float("nan"), "high": 1}}, "are not possible"),
        ({"activity": {"low": 1}}, "is damaged (KeyError: 'high')"),
        ({"activity_by_cell_type": {"b": {"low": 1, "high": float("inf")}}}, "are not possible"),
        ({"activity_by_cell_type": {"b": 3}}, "is damaged (TypeError"),
        ({"activity_by_cell_type": {}}, "are not possible"),
        ({"activity_by_cell_type": {"b": {"low": 2, "high": 1}}}, "are not possible"),
        ({"judge": {"name": "x"}}, "is damaged (KeyError: 'run')"),
    ],
)
def test_facts_that_do_not_fit_are_one_line(models, tmp_path, facts, says):
    folder = copied(models, tmp_path)
    path = folder / "models.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    with pytest.raises(InputError) as error:
        generators.read(str(folder), tmp_path)
    assert str(error.value).startswith(f"--model {folder}: ") and says in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_damaged_files_are_one_line(models, tmp_path):
    def refused(says):
        with pytest.raises(InputError) as error:
            generators.read(str(folder), tmp_path)
        assert str(error.value).startswith(f"--model {folder}: ") and says in str(error.value)
        assert len(str(error.value).splitlines()) == 1

    folder = copied(models, tmp_path)
    weights = folder / "judge" / "weights.npz"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    refused("cut short or damaged")
    weights.unlink()
    refused("No such file or directory")
    weights.write_bytes((folder / "generator" / "weights.npz").read_bytes())
    refused("generator and judge are the same model")
    weights.write_bytes(whole)
    (folder / "training.tsv").write_text("name\tsequence\n")
    refused("has no rows")
    (folder / "training.tsv").write_text("name\tletters\nx\tACGT\n")
    refused("has no column 'sequence'")
    (folder / "models.json").write_text("{")
    refused("is damaged (JSONDecodeError")
    (folder / "models.json").unlink()
    refused("no folder with models.json, as joint keeps its models; name one, a run (runs:/ID), or newest")


def test_other_models_are_refused(models, tmp_path):
    folder = copied(models, tmp_path)
    (folder / "judge").rename(tmp_path / "judge")
    checkpoints.save(folder / "judge", toy_model())
    with pytest.raises(InputError, match="judge is of kind Enformer; expected a Perceiver"):
        generators.read(str(folder), tmp_path)
    with pytest.raises(InputError, match="generator takes Enformer trunk embeddings in place of letters"):
        generators.read(str(toy_pair(tmp_path / "trunk", trunk_channels=4)), tmp_path)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_functions_are_the_models_whatever_the_batch(models, batch_size):
    """Shorter sequences are padded, and batches filled up: neither changes an answer. XLA sums in another order."""
    model = checkpoints.load(models / "generator")
    functions = Functions(model, 1, batch_size)
    random = np.random.default_rng(0)
    codes = random.integers(0, 4, (5, 7)).astype(np.uint8)
    cells = tf.ones([5], tf.int32)
    expected = model.activity(tf.constant(codes.astype(np.int32)), cells).numpy()
    found = functions.predict(codes)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=2e-5)

    codes[:, 3:] = MASKED
    targets = np.array([1, 2, 3, np.nan, 2.5], np.float32)
    expected = model.nucleotides(tf.constant(codes.astype(np.int32)), tf.constant(targets), cells).numpy()
    found = functions.logits(codes, targets)
    assert found.shape == (5, 7, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(np.diff(found[:, 3], axis=0)).max() > 1e-3  # which differ


def test_cell_types_differ(models):
    model = checkpoints.load(models / "generator")
    codes = np.random.default_rng(0).integers(0, 4, (4, 9)).astype(np.uint8)
    first, second = (Functions(model, cell, 4).predict(codes) for cell in (0, 1))
    assert np.abs(first - second).max() > 1e-3


def test_letters_beyond_the_length_are_left_out():
    found = generators.letter_codes(["ACGTN", "AC"], 4)
    assert found.tolist() == [[0, 1, 2, 3], [0, 1, PADDING, PADDING]]
