import dataclasses
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from enformer_core import initial
from enformer_core.enformer import (
    FAMILIES,
    VARIANTS,
    Enformer,
    EnformerConfig,
    preset,
    variant,
)
from toys import toy_config, toy_model, toy_sequence


def weights(model):
    return {initial.variable_name(v): v.numpy() for v in model.variables}


def test_defaults_are_the_published_model():
    config = EnformerConfig()
    assert dict(config.heads) == {"human": 5313, "mouse": 1643}
    assert (config.sequence_length, config.num_bins, config.channels) == (196_608, 896, 1536)
    assert (config.attention_key_size, config.attention_value_size) == (64, 192)
    assert preset("full") == config


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_predicts_every_bin_and_track(name, family):
    model = Enformer(variant(toy_config(), name, family))
    outputs = model(toy_sequence(batch=2), is_training=False)
    assert {head: tuple(y.shape) for head, y in outputs.items()} == {"human": (2, 14, 3), "mouse": (2, 14, 2)}
    assert all(np.all(y.numpy() > 0) for y in outputs.values())


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("komlos", "encoding", "komlos"), ("rope", "positions", "rotary"), ("rank1", "values", "rank1")],
)
def test_each_switch_changes_one_thing(name, field, value):
    vanilla, changed = variant(toy_config(), "vanilla"), variant(toy_config(), name)
    assert dataclasses.replace(vanilla, **{field: value}) == changed
    ours, theirs = (weights(Enformer(config)) for config in (vanilla, changed))
    differ = {
        n
        for n in ours.keys() | theirs.keys()
        if getattr(ours.get(n), "shape", 0) != getattr(theirs.get(n), "shape", 1)
    }
    touched = {
        "encoding": {"enformer/stem/conv/w"},
        "positions": {n for n in ours if "attention" in n and ("relative_key" in n or n.endswith("_bias"))},
        "values": {n for n in ours if n.endswith(("attention/value/w", "attention/output/w"))},
    }[field]
    assert differ == touched and touched


def test_rank1_values_have_size_one_and_ecozoi_shrinks_keys_too():
    config = toy_config()
    for name, family, sizes in [
        ("rank1", "enformer", (16, 1)),
        ("vanilla", "ecozoi", (12, 12)),
        ("rank1", "ecozoi", (1, 1)),
        ("rope_rank1", "ecozoi", (2, 1)),
    ]:
        chosen = variant(config, name, family)
        assert (chosen.attention_key_size, chosen.attention_value_size) == sizes
    assert variant(config, "vanilla", "ecozoi").positions == "none"
    assert variant(config, "vanilla", "ecozoi").pooling == "max"


def test_variants_of_one_seed_share_every_variable_they_have_in_common():
    models = [weights(Enformer(variant(toy_config(), name), seed=3)) for name in ("all", "vanilla", "rope")]
    shared = 0
    for other in models[1:]:
        for name, value in models[0].items():
            if name in other and other[name].shape == value.shape:
                np.testing.assert_array_equal(value, other[name])
                shared += 1
    assert shared > 200


def test_seeds_differ_and_a_model_is_made_new_in_place():
    first, second = (weights(Enformer(toy_config(), seed=seed)) for seed in (1, 2))
    assert not np.array_equal(first["enformer/stem/conv/w"], second["enformer/stem/conv/w"])
    model = Enformer(toy_config(), seed=1)
    model(toy_sequence(), is_training=True, key=tf.constant([0, 0]))  # moves the averages of BatchNorm
    initial.initialize(model, 2)
    for name, value in weights(model).items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def test_initial_weights_have_the_published_spread():
    config = toy_config(channels=384, divisible_by=128, num_heads=8, num_position_features=48)
    found = weights(Enformer(config))
    cut = initial._STDDEV_OF_CUT_NORMAL
    expected = {
        "stem/conv/w": cut / np.sqrt(15 * 4),
        "tower_5/conv_block/conv/w": cut / np.sqrt(5 * 384),
        "transformer_0/attention/query/w": np.sqrt(2 / 384),
        "transformer_0/mlp_in/w": cut / np.sqrt(384),
    }
    for name, stddev in expected.items():
        assert found[f"enformer/{name}"].std() == pytest.approx(stddev, rel=0.03), name
    np.testing.assert_array_equal(found["enformer/stem/pool/logit/w"], 2 * np.eye(192))
    assert not found["enformer/transformer_0/attention/output/w"].any()


def test_a_variable_name_is_used_once():
    names = [initial.variable_name(v) for v in toy_model().variables]
    assert len(set(names)) == len(names)


def test_batch_size_does_not_change_an_answer():
    model, x = toy_model(), toy_sequence(batch=3)
    whole = model(x, is_training=False)["human"]
    for row in range(3):
        # different batch sizes take different matrix kernels
        np.testing.assert_allclose(
            model(x[row : row + 1], is_training=False)["human"][0], whole[row], rtol=1e-4, atol=1e-6
        )


def test_other_lengths_are_not_cropped():
    assert toy_model().trunk(toy_sequence(length=1280), is_training=False).shape == (1, 10, 96)


def test_inference_moves_nothing_and_training_moves_the_averages():
    model = toy_model()
    before = weights(model)
    model(toy_sequence(), is_training=False)
    after_inference = weights(model)
    assert all(np.array_equal(before[n], after_inference[n]) for n in before)
    model(toy_sequence(), is_training=True, key=tf.constant([0, 1]))
    moved = {n for n, value in weights(model).items() if not np.array_equal(value, before[n])}
    assert moved and all("moving_" in n for n in moved)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoding": "binary"}, "encoding is 'binary'; it can be one_hot, komlos"),
        ({"sequence_length": 1000}, "multiples of 128 bp, such as 1024"),
        ({"sequence_length": 2048, "target_length": 17}, "give 1 to 16 bins"),
        ({"channels": 100}, "multiple of divisible_by"),
        ({"divisible_by": 48}, "of which half of channels 48 rounds to none; it can be up to 24"),
        ({"num_heads": 5}, "num_heads 5"),
        ({"num_position_features": 25}, "multiple of 6"),
        ({"positions": "rotary", "key_size": 15}, "even"),
        ({"family": "ecozoi"}, "rotary or none"),
        ({"encoding": ["one_hot"]}, r"encoding is \['one_hot'\]; it can be"),
        ({"sequence_length": 2048.0}, r"sequence_length is 2048\.0; it must be a whole number, 1 or more"),
        ({"target_length": True}, "target_length is True; it must be a whole number, 1 or more"),
        ({"channels": 48.0}, r"channels is 48\.0; it must be a whole number"),
        ({"key_size": 16.5}, r"key_size is 16\.5; it must be a whole number"),
        ({"num_heads": None}, "num_heads is None; it must be a whole number"),
        ({"divisible_by": 0}, "divisible_by is 0; it must be 1 or more"),
        (
            {"num_transformer_layers": "2"},
            "num_transformer_layers is '2'; it must be a whole number, 0 or more",
        ),
        ({"num_transformer_layers": -1}, "num_transformer_layers is -1; it must be 0 or more"),
        ({"heads": {"human": 0}}, "the number of tracks of head human is 0; it must be 1 or more"),
        ({"heads": {"human": 3.0}}, r"the number of tracks of head human is 3\.0; it must be a whole number"),
        ({"heads": {3: 1}}, r"heads is \{3: 1\}; it must be the number of tracks by name of head"),
        ({"heads": ["human"]}, r"heads is \['human'\]; it must be the number of tracks"),
        ({"dropout_rate": 1.0}, r"dropout_rate is 1\.0; it must be a number from 0 to below 1"),
        ({"dropout_rate": "a"}, "dropout_rate is 'a'; it must be a number from 0"),
        ({"attention_dropout_rate": -0.1}, r"attention_dropout_rate is -0\.1; it must be a number"),
        ({"positional_dropout_rate": 2.0}, r"positional_dropout_rate is 2\.0; it must be a number"),
        ({"positional_dropout_rate": float("nan")}, "positional_dropout_rate is nan; it must be a number"),
    ],
)
def test_bad_configurations_say_what_is_wrong(changes, words):
    with pytest.raises(ValueError, match=words):
        toy_config(**changes)


def test_a_head_may_be_called_like_any_folder():
    heads = {"hg38.v2": 3, "mouse 1": 2}
    outputs = toy_model(heads=heads)(toy_sequence(), is_training=False)
    assert {head: y.shape[-1] for head, y in outputs.items()} == heads
    with pytest.raises(ValueError, match="differ in punctuation only"):
        toy_config(heads={"a.b": 1, "a-b": 1})


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="vanilla, komlos"):
        variant(toy_config(), "komloss")
    with pytest.raises(ValueError, match="full, quarter, tiny"):
        preset("huge")
    with pytest.raises(ValueError, match="multiples of 128 bp"):
        toy_model().trunk(tf.zeros([1, 1000, 4]), is_training=False)


def moved(model, **how):
    """Names of the variables that a call of the trunk in training changes, and gradients by name."""
    before = weights(model)
    with tf.GradientTape() as tape:
        y = model.trunk(toy_sequence(2), True, tf.constant([0, 1]), **how)
        loss = tf.reduce_sum(y * y)
    gradients = tape.gradient(loss, model.trainable_variables)
    after = weights(model)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    return changed, dict(zip(map(initial.variable_name, model.trainable_variables), gradients, strict=True))


@pytest.mark.parametrize("recompute", ["never", "always"])
def test_fixed_norms_stay_and_normalise_with_their_averages(recompute):
    model = toy_model(dropout_rate=0.0, attention_dropout_rate=0.0, positional_dropout_rate=0.0)
    model._recompute = recompute
    changed, _ = moved(model)
    assert changed and all("/moving_" in name for name in changed)
    changed, gradients = moved(model, fixed_norms=True)
    assert changed == set()
    assert gradients["enformer/stem/conv/w"] is not None
    # without dropout, training with fixed norms is inference
    trained = model.trunk(toy_sequence(2), True, tf.constant([0, 1]), fixed_norms=True)
    np.testing.assert_allclose(trained, model.trunk(toy_sequence(2), False), rtol=1e-5, atol=1e-6)


def test_what_does_not_move_is_called_as_in_inference():
    # with dropout in transformer blocks only, one moving block of two differs from inference by its own dropout
    model = toy_model(num_transformer_layers=2)
    key = tf.constant([0, 1])
    draws = [model.trunk(toy_sequence(1), True, key, moving_blocks=n).numpy() for n in (0, 1, 2)]
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(draws))
    assert moved(model, moving_blocks=1)[0] == set()
    np.testing.assert_array_equal(draws[0], model.trunk(toy_sequence(1), False))


def test_the_names_of_tracks_stay_plain_and_out_of_what_tensorflow_searches():
    model = Enformer(toy_config())
    assert model.tracks == {}
    variables = model.variables
    model.tracks = {"human": [{"identifier": "ENCFF833POA", "description": "DNASE:heart"}]}
    model.tracks["mouse"] = []
    assert json.loads(json.dumps(model.tracks)) == {
        "human": [{"identifier": "ENCFF833POA", "description": "DNASE:heart"}],
        "mouse": [],
    }
    assert type(model.tracks["human"][0]) is dict
    assert [id(variable) for variable in model.variables] == [id(variable) for variable in variables]


@pytest.mark.parametrize("name", ["vanilla", "all"])
def test_the_trunk_is_its_stages_and_what_comes_after_them(name):
    model = Enformer(variant(toy_config(), name))
    sequence = toy_sequence(2)
    x = model.encoded(sequence)
    for stage in model.stages:
        x, moments = stage(x)
        assert moments == []
    assert x.shape == [2, 2048 // 128, model.config.channels]
    np.testing.assert_array_equal(model.after_stages(x), model.trunk(sequence, is_training=False))
