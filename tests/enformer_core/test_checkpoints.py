import dataclasses
import json
import re
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from enformer_core import checkpoints
from enformer_core.activity import ActivityModel
from enformer_core.enformer import Enformer
from enformer_core.heads import ActivityHeadConfig, TrackHeadConfig
from enformer_core.track_model import TrackModel
from toys import toy_config, toy_model, toy_sequence


@pytest.fixture
def trained(tmp_path):
    """A model whose averages have moved, and its checkpoint."""
    model = toy_model(seed=5)
    model(toy_sequence(), is_training=True, key=tf.constant([0, 0]))
    checkpoints.save(tmp_path / "checkpoint", model)
    return model, tmp_path / "checkpoint"


def test_a_folder_loads_with_no_flags(trained):
    model, folder = trained
    loaded = checkpoints.load(folder)
    assert loaded.config == model.config
    for ours, theirs in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    outputs = (m(toy_sequence(), is_training=False)["mouse"] for m in (model, loaded))
    np.testing.assert_array_equal(*outputs)
    assert checkpoints.digest(model.variables) == checkpoints.digest(reversed(loaded.variables))
    assert [p.name for p in folder.parent.iterdir()] == ["checkpoint"]


def test_a_digest_changes_with_one_value(trained):
    model, _ = trained
    before = checkpoints.digest(model.variables)
    model.variables[3].assign(model.variables[3] + 1e-6)
    assert checkpoints.digest(model.variables) != before


def test_a_digest_of_a_model_is_of_how_it_is_made_too():
    plain = toy_config(positions="none", num_heads=2, key_size=8)
    models = [
        Enformer(dataclasses.replace(plain, **changes))
        for changes in (
            {},
            {"positions": "rotary"},
            {"num_heads": 4, "key_size": 4},
            {"sequence_length": 4096, "target_length": None, "dropout_rate": 0.1},
        )
    ]
    digests = [checkpoints.digest(model.variables) for model in models]
    assert len(set(digests)) == 1  # the variables are the same
    of_models = [checkpoints.model_digest(model) for model in models]
    of_trunks = [checkpoints.trunk_digest(model) for model in models]
    for found in (of_models, of_trunks):
        assert len({*found[:3]}) == 3 and found[3] == found[0]
    heads = TrackModel(toy_model(seed=1), TrackHeadConfig(4), "lab")
    assert checkpoints.trunk_digest(heads.enformer) == checkpoints.trunk_digest(toy_model(seed=1))
    assert checkpoints.model_digest(heads) != checkpoints.model_digest(toy_model(seed=1))
    dropping = TrackModel(toy_model(seed=1), TrackHeadConfig(4, dropout=0.5), "lab")
    assert checkpoints.model_digest(heads) == checkpoints.model_digest(dropping)


def test_another_length_uses_the_same_weights_and_crops_nothing(trained):
    model, folder = trained
    loaded = checkpoints.load(folder, 2048 + 128)
    assert (loaded.config.sequence_length, loaded.config.target_length) == (2176, None)
    assert checkpoints.digest(model.variables) == checkpoints.digest(loaded.variables)
    sequence = toy_sequence(length=2176)
    found = loaded(sequence, is_training=False)["human"]
    assert found.shape == (1, 17, 3)
    np.testing.assert_array_equal(found, model(sequence, is_training=False)["human"])


def test_an_activity_model_loads_with_its_trunk_and_its_track_heads(tmp_path):
    model = ActivityModel(toy_model(seed=3), ActivityHeadConfig(2, 3, 4, 5, 0.25), seed=3)
    checkpoints.save(tmp_path / "checkpoint", model)
    loaded = checkpoints.load(tmp_path / "checkpoint", 25_600)  # has a length of its own
    assert isinstance(loaded, ActivityModel) and loaded.config == model.config
    assert checkpoints.digest(model.variables) == checkpoints.digest(loaded.variables)
    outputs = (m(toy_sequence(2), is_training=False)["activity"] for m in (model, loaded))
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("kind", ["activity", "track model", "head alone"])
def test_heads_saved_before_they_had_dropout_and_a_hidden_layer_are_those_without(tmp_path, kind):
    trunk, folder = toy_model(seed=3), tmp_path / "saved"
    if kind == "activity":
        model = ActivityModel(trunk, ActivityHeadConfig(2, 3, 4), seed=3)
    else:
        model = TrackModel(trunk, TrackHeadConfig(4, num_heads=1), "lab", seed=3)
    if kind == "head alone":
        checkpoints.save_head(folder, model, "here")
    else:
        checkpoints.save(folder, model)
    path = folder / "config.json"
    document = json.loads(path.read_text())
    head = document["config"]["activity" if kind == "activity" else "head"]
    for name in ("dropout", "hidden_size") if kind == "activity" else ("dropout",):
        assert head.pop(name) == 0
    path.write_text(json.dumps(document))
    loaded = checkpoints.load_head(folder, trunk) if kind == "head alone" else checkpoints.load(folder)
    assert loaded.config == model.config
    outputs = [next(iter(m(toy_sequence(2), is_training=False).values())) for m in (model, loaded)]
    np.testing.assert_array_equal(*outputs)


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), checkpoints.whole_folder(tmp_path / "new") as folder:
        (folder / "half").write_text("written")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_folder_is_never_overwritten(trained):
    model, folder = trained
    with pytest.raises(FileExistsError):
        checkpoints.save(folder, model)


@pytest.mark.parametrize("left", [0, 100, -1000])
def test_files_cut_short_are_named(trained, left):
    path = trained[1] / "weights.npz"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"weights\.npz: cut short or damaged"):
        checkpoints.read_arrays(path)


def test_a_flipped_byte_is_found(trained):
    path = trained[1] / "weights.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cut short or damaged"):
        checkpoints.load(trained[1])


def test_weights_that_do_not_fit_name_the_variable_and_both_shapes(trained):
    config = json.loads((trained[1] / "config.json").read_text())
    config["config"]["heads"]["human"] = 9
    (trained[1] / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"head_human/linear/[wb] is \(.*3,?\); the model needs \(.*9,?\)"):
        checkpoints.load(trained[1])


def test_config_of_something_else_is_refused(trained):
    (trained[1] / "config.json").write_text('{"layers": 3}')
    with pytest.raises(ValueError, match="not the configuration of a model"):
        checkpoints.load(trained[1])


@pytest.mark.parametrize(
    "text",
    ["", "3", "[]", '{"model": "Enformer", "config": 3}', '{"model": ["Enformer"], "config": {}}']
    + ['{"model": "ActivityModel", "config": {"enformer": {}, "activity": 3}}', '{"model": "Enformer"}']
    + ["[" * 100_000, '{"model": "Enformer", "config": {"heads": {"human": ' + "9" * 5_000 + "}}}"]
    + ['{"model": "Enformer", "config": {"depth": 3}}'],
)
def test_a_config_of_any_json_is_one_line(trained, text):
    (trained[1] / "config.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"^[^\n]*config\.json: not the configuration of a model \([^\n]*\)$"
    ):
        checkpoints.load(trained[1])


def test_a_config_that_is_not_text_is_one_line(trained):
    (trained[1] / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"config\.json: not the configuration of a model \(.*utf-8"):
        checkpoints.load(trained[1])


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("heads", {"human": -3}, "the number of tracks of head human is -3; it must be 1 or more"),
     ("heads", ["human"], r"heads is \['human'\]; it must be the number of tracks by name of head"),
     ("channels", 96.0, r"channels is 96\.0; it must be a whole number, 1 or more"),
     ("sequence_length", "2048" * 100, "sequence_length is '20482048[0-9]{71}; it must be a whole number")],
)  # fmt: skip
def test_a_config_of_wrong_values_is_one_line(trained, field, value, said):
    document = json.loads((trained[1] / "config.json").read_text())
    document["config"][field] = value
    (trained[1] / "config.json").write_text(json.dumps(document))
    with pytest.raises(
        ValueError, match=rf"config\.json: not the configuration of a model \({said}[^\n]*\)$"
    ):
        checkpoints.load(trained[1])


@pytest.mark.parametrize("size", [10**12, 10**30])
def test_a_config_too_large_to_be_made_is_one_line(trained, size):
    document = json.loads((trained[1] / "config.json").read_text())
    document["config"]["key_size"] = size
    (trained[1] / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"^[^\n]*config\.json: no such model can be made \([^\n]*\)$"):
        checkpoints.load(trained[1])


def test_other_files_under_the_name_of_weights_are_one_line(trained):
    path = trained[1] / "weights.npz"
    np.save(path.with_suffix(".npy"), np.ones(3))
    array = path.with_suffix(".npy").read_bytes()
    with zipfile.ZipFile(trained[1] / "text.npz", "w") as archive:
        archive.writestr("a.txt", "text")
    text = (trained[1] / "text.npz").read_bytes()
    unclosed = array.replace(b"}", b" ")
    for content in (array, text, unclosed, b"\x93NUMPY", b"PK", b"text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^[^\n]*weights\.npz: cut short or damaged \([^\n]*\); take"):
            checkpoints.load(trained[1])


def changed(folder, name, array):
    """Writes the weights of a checkpoint with another array."""
    arrays = checkpoints.read_arrays(folder / "weights.npz")
    assert name in arrays
    np.savez(folder / "weights.npz", **{**arrays, name: array})


@pytest.mark.parametrize(
    ("values", "said"),
    [([0, np.nan, np.inf], "has 2 of 3 values that are NaN or infinite; take"),
     ([0, 1, -np.inf], "has 1 of 3 values that are NaN or infinite"),
     ([0, 1, 1e300], "has 1 of 3 values that are NaN or infinite"),  # beyond float32
     ([0, 1, 2j], "is of complex128; the model needs float32"),
     (["a", "b", "c"], "is of <U1; the model needs float32")],
)  # fmt: skip
def test_values_that_no_weights_have_name_the_variable_and_set_nothing(trained, values, said):
    model, folder = trained
    before = checkpoints.digest(model.variables)
    changed(folder, "enformer/head_human/linear/b", np.array(values))
    changed(folder, "enformer/stem/conv/b", np.ones(24, np.float32))
    with pytest.raises(ValueError, match=rf"weights\.npz: enformer/head_human/linear/b {said}"):
        checkpoints.load(folder)
    arrays = checkpoints.read_arrays(folder / "weights.npz")
    with pytest.raises(ValueError, match="head_human/linear/b"):
        checkpoints.assign(model, arrays, "here")
    assert checkpoints.digest(model.variables) == before


def test_weights_of_another_precision_are_converted(trained):
    changed(trained[1], "enformer/head_human/linear/b", np.array([0.5, 1, 2]))
    head = checkpoints.load(trained[1]).heads["human"]
    bias = next(variable for variable in head.variables if variable.name.endswith("b:0"))
    np.testing.assert_array_equal(bias, np.float32([0.5, 1, 2]))


# --- a track head on its trunk, and alone -------------------------------------------------------------------------

ROWS = [{"identifier": f"t{track}", "description": "CAGE:x", "strand_pair": ""} for track in range(4)]


def head_of(config):
    return TrackHeadConfig(4, **config)


@pytest.fixture(params=[{}, {"hidden_size": 5}, {"hidden_size": 5, "num_heads": 2, "key_size": 3}])
def head_model(request, tmp_path):
    """A trunk with a head, the checkpoint of both and that of the head alone."""
    enformer = toy_model(seed=5)
    enformer.trunk(toy_sequence(), is_training=True, key=tf.constant([0, 0]))  # its averages move
    model = TrackModel(enformer, head_of(request.param), "lab.1", seed=3)
    model.tracks["lab.1"] = ROWS
    checkpoints.save(tmp_path / "checkpoint", model)
    checkpoints.save_head(tmp_path / "head", model, "published")
    return model, tmp_path


def answer(model, sequence=None):
    sequence = toy_sequence(2) if sequence is None else sequence
    return model(sequence, is_training=False)["lab.1"]


def test_a_trunk_with_its_head_loads_with_no_flags(head_model):
    model, folder = head_model
    loaded = checkpoints.load(folder / "checkpoint")
    assert isinstance(loaded, TrackModel) and loaded.config == model.config
    assert checkpoints.digest(loaded.variables) == checkpoints.digest(model.variables)
    assert loaded.tracks == {"lab.1": ROWS}
    np.testing.assert_array_equal(answer(loaded), answer(model))
    longer = checkpoints.load(folder / "checkpoint", 2176, None)
    assert answer(longer, toy_sequence(length=2176)).shape == (1, 17, 4)


def test_a_head_loads_on_its_trunk(head_model):
    model, folder = head_model
    assert sorted(path.name for path in (folder / "head").iterdir()) == [
        "config.json",
        "tracks.json",
        "weights.npz",
    ]
    trunk_bytes = sum(v.numpy().nbytes for v in model.enformer.trunk_variables)
    assert (folder / "head" / "weights.npz").stat().st_size < trunk_bytes / 4
    enformer = toy_model()  # as one that is read from elsewhere, with heads of its own
    values = checkpoints.arrays(model.enformer.trunk_variables)
    checkpoints.assign_variables(enformer.trunk_variables, values, "trunk")
    enformer.tracks["human"] = ROWS[:3]
    loaded = checkpoints.load_head(folder / "head", enformer)
    assert loaded.enformer is enformer and loaded.config == model.config and loaded.tracks == {"lab.1": ROWS}
    np.testing.assert_array_equal(answer(loaded), answer(model))


def test_a_head_loads_on_its_trunk_at_another_length(head_model):
    model, folder = head_model
    enformer = checkpoints.load(folder / "checkpoint", 2176, None).enformer
    loaded = checkpoints.load_head(folder / "head", enformer)
    sequence = toy_sequence(length=2176)
    embedding = enformer.trunk(sequence, is_training=False)
    np.testing.assert_array_equal(answer(loaded, sequence), model.head(embedding))


def test_a_head_of_another_trunk_is_refused(head_model):
    model, folder = head_model
    average = next(v for v in model.enformer.variables if "moving_mean/average" in v.name)
    average.assign(average + 1e-6)  # even one average
    with pytest.raises(
        ValueError, match=r"/head: this head was trained on another trunk: that of published$"
    ):
        checkpoints.load_head(folder / "head", model.enformer)


def test_a_head_of_a_trunk_that_is_made_otherwise_is_refused(tmp_path):
    """With the same variables."""
    trunk = toy_model(positions="none")
    checkpoints.save_head(tmp_path / "head", TrackModel(trunk, TrackHeadConfig(4), "lab"), "published")
    assert checkpoints.load_head(tmp_path / "head", toy_model(positions="none", sequence_length=4096))
    with pytest.raises(ValueError, match="this head was trained on another trunk: that of published"):
        checkpoints.load_head(tmp_path / "head", toy_model(positions="rotary"))


def test_a_head_alone_and_a_whole_model_are_not_taken_for_each_other(head_model):
    model, folder = head_model
    with pytest.raises(ValueError, match=r"a head alone, trained on the trunk published; name both"):
        checkpoints.load(folder / "head")
    with pytest.raises(ValueError, match=r"a whole TrackModel, no head alone; give it as the weights"):
        checkpoints.load_head(folder / "checkpoint", model.enformer)


@pytest.fixture
def head_alone(tmp_path):
    model = TrackModel(toy_model(), TrackHeadConfig(4), "lab")
    model.tracks["lab"] = ROWS
    checkpoints.save_head(tmp_path / "head", model, "published")
    return model.enformer, tmp_path / "head"


def refusal(head_alone, error=ValueError):
    """What is said of a damaged head, in one line; the trunk is as it was."""
    enformer, folder = head_alone
    before = checkpoints.digest(enformer.trunk_variables)
    with pytest.raises(error) as caught:
        checkpoints.load_head(folder, enformer)
    assert checkpoints.digest(enformer.trunk_variables) == before
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("left", [0, 30, -30])
def test_weights_of_a_head_cut_short_are_named(head_alone, left):
    path = head_alone[1] / "weights.npz"
    path.write_bytes(path.read_bytes()[:left])
    assert "head/weights.npz: cut short or damaged" in refusal(head_alone)


@pytest.mark.parametrize("name", ["config.json", "weights.npz"])
def test_a_head_without_one_of_its_files_names_it(head_alone, name):
    (head_alone[1] / name).unlink()
    assert name in refusal(head_alone, FileNotFoundError)


def without(document, *keys):
    *path, last = keys
    for key in path:
        document = document[key]
    del document[last]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: without(d, "trunk"), "config.json: not the configuration of a model ('trunk')"),
        (lambda d: without(d, "trunk", "digest"), "config.json: not the configuration of a model ('digest')"),
        (
            lambda d: without(d, "trunk", "weights"),
            "config.json: not the configuration of a model ('weights')",
        ),
        (lambda d: d.update(trunk=["x"]), "config.json: not the configuration of a model ("),
        (lambda d: d["config"].update(name=3), "config.json: not the configuration of a model ("),
        (lambda d: d["config"]["head"].update(depth=3), "config.json: not the configuration of a model ("),
        (lambda d: d["config"]["head"].update(num_heads=-1), "num_heads is -1; it must be 0 or more"),
        (lambda d: d["config"]["head"].update(num_tracks=10**30), "config.json: no such model can be made ("),
        (
            lambda d: d["trunk"].update(digest="0"),
            "this head was trained on another trunk: that of published",
        ),
    ],
)
def test_a_damaged_configuration_of_a_head_is_one_line(head_alone, change, said):
    path = head_alone[1] / "config.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    if document["config"]["head"]["num_tracks"] != 4:
        (head_alone[1] / "tracks.json").unlink()
    assert said in refusal(head_alone)


def test_weights_of_another_head_name_the_variable(head_alone):
    path = head_alone[1] / "config.json"
    path.write_text(path.read_text().replace('"hidden_size": 0', '"hidden_size": 8'))
    assert re.search(
        r"weights\.npz: track_model/head_lab/hidden/[bw] is nothing; the model needs \(", refusal(head_alone)
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not the tracks of a model ("),
        ("[]", "not the tracks of a model ("),
        ('{"lab": 3}', "not the tracks of a model ("),
        ('{"lab": ["a", "b", "c", "d"]}', "not the tracks of a model ("),
        ('{"lab": [{"clip": 3.5}]}', "not the tracks of a model (a value is no text)"),
        ('{"lab": [{"clip": "3.5"}]}', "not the tracks of a model (1 tracks of head lab, the model has 4)"),
        ('{"other": []}', "not the tracks of a model (0 tracks of head other, the model has none"),
        ("[" * 100_000, "not the tracks of a model ("),
    ],
)
def test_tracks_of_something_else_are_one_line(head_alone, text, said):
    (head_alone[1] / "tracks.json").write_text(text)
    assert f"tracks.json: {said}" in refusal(head_alone)


def test_what_is_known_of_tracks_travels_with_any_model(tmp_path):
    model = toy_model()
    checkpoints.save(tmp_path / "unknown", model)
    assert not (tmp_path / "unknown" / "tracks.json").exists()
    assert checkpoints.load(tmp_path / "unknown").tracks == {}
    model.tracks["mouse"] = ROWS[:2]
    checkpoints.save(tmp_path / "mouse", model)
    assert checkpoints.load(tmp_path / "mouse").tracks == {"mouse": ROWS[:2]}
    checkpoints.save(tmp_path / "activity", ActivityModel(model, ActivityHeadConfig()))
    assert checkpoints.load(tmp_path / "activity").tracks == {"mouse": ROWS[:2]}
