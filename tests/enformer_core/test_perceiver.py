"""The Perceiver against a forward pass in NumPy (Jaegle et al. 2021), and what it promises."""

import numpy as np
import pytest
import tensorflow as tf

from enformer_core import checkpoints, perceiver
from enformer_core.initial import variable_name
from enformer_core.perceiver import MASKED, PADDING, UNKNOWN, Perceiver
from toys import toy_perceiver_config

NAN = np.float32(np.nan)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def toy(seed=0, **changes):
    """A toy model none of whose variables is still zero or one."""
    model = Perceiver(toy_perceiver_config(**changes), seed)
    random = np.random.default_rng(seed)
    for variable in model.variables:
        variable.assign_add(0.2 * random.standard_normal(variable.shape).astype(np.float32))
    return model


def mpra(batch=3, length=9, seed=0):
    """Letters with an N, a masked stretch and, in the second row, two positions of padding; activities; cell types."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 4, (batch, length), np.int32)
    codes[0, 2], codes[:, 4:6] = UNKNOWN, MASKED
    codes[1:2, -2:] = PADDING
    activity = random.normal(0, 2, batch).astype(np.float32)
    activity[2:3] = NAN
    return codes, activity, np.arange(batch, dtype=np.int32) % 2


def window(batch=3, length=12, seed=0):
    """Letters, log coverage that is hidden in places and elsewhere also outside the bins, and cell types."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 5, (batch, length), np.int32)
    codes[1:2, -3:] = PADDING
    coverage = random.uniform(-0.5, 4.5, (batch, length)).astype(np.float32)
    coverage[:, 2:6] = NAN
    return codes, coverage, np.arange(1, batch + 1, dtype=np.int32) % 2


class Reference:
    """The same in float64, one sequence at a time; padding is what is not there."""

    def __init__(self, model):
        self.config = model.config
        self.values = {
            variable_name(v).removeprefix("perceiver/"): v.numpy().astype(np.float64) for v in model.variables
        }

    def linear(self, x, name):
        return x @ self.values[f"{name}/w"] + self.values.get(f"{name}/b", 0)

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return normed * self.values[f"{name}/scale"] + self.values[f"{name}/offset"]

    def attend(self, x, inputs, name, heads):
        normed = self.norm(x, f"{name}/norm")
        source = normed if inputs is None else self.norm(inputs, f"{name}/input_norm")
        query = self.linear(normed, f"{name}/query")
        keys, values = (self.linear(source, f"{name}/{part}") for part in ("key", "value"))
        size = query.shape[1] // heads
        answers = []
        for start in range(0, query.shape[1], size):
            own = slice(start, start + size)
            answers.append(softmax(query[:, own] @ keys[:, own].T / np.sqrt(size)) @ values[:, own])
        x = x + self.linear(np.concatenate(answers, 1), f"{name}/output")
        hidden = self.linear(self.norm(x, f"{name}/mlp_norm"), f"{name}/up")
        return x + self.linear(hidden / (1 + np.exp(-1.702 * hidden)), f"{name}/down")

    def decode(self, queries, tokens):
        latents = self.attend(self.values["latents"], tokens, "encoder", self.config.num_cross_attn_heads)
        for _ in range(self.config.num_blocks):
            for layer in range(self.config.num_self_attention_layers):
                latents = self.attend(
                    latents, None, f"self_attention_{layer}", self.config.num_self_attn_heads
                )
        return self.attend(queries, latents, "decoder", self.config.num_cross_attn_heads)

    def letters(self, codes):
        channels = np.zeros([len(codes), 5])
        for position, code in enumerate(codes):
            if code != UNKNOWN:
                channels[position, 4 if code == MASKED else code] = 1
        w = self.values["letter/w"]
        if self.config.nucleotide_width == 1:
            return channels @ w
        half = self.config.nucleotide_width // 2
        seen = np.pad(channels, [(half, half), (0, 0)])
        x = np.stack([np.tensordot(seen[i : i + len(w)], w, 2) for i in range(len(codes))])
        x = x + self.values["letter/b"]
        return self.linear(x / (1 + np.exp(-1.702 * x)), "context")

    def placed(self, length, modality, cell):
        rows = self.values["modality_embedding"][modality] + self.values["cell_type_embedding"][cell]
        return self.values["position_embedding"][:length] + rows

    def known(self, activity):
        table = self.values["activity_embedding"]
        if np.isnan(activity):
            return table[-1]
        x = np.clip((activity - self.config.activity_mean) / self.config.activity_sd, -3, 3)
        return softmax(-0.5 * ((x - np.linspace(-3, 3, 25)) / 0.5) ** 2) @ table[:-1]

    def activity(self, codes, cell, trunk=None):
        codes = codes[codes != PADDING]
        x = self.letters(codes) if trunk is None else self.linear(trunk, "trunk")
        tokens = x + self.placed(len(x), 0, cell) + self.values["activity_embedding"][-1]
        found = self.linear(self.decode(tokens.mean(0, keepdims=True), tokens), "to_activity")[0, 0]
        return found * self.config.activity_sd + self.config.activity_mean

    def nucleotides(self, codes, activity, cell, before=None):
        codes = codes[codes != PADDING]
        both = self.values["cell_type_embedding"][cell] + self.known(activity)
        hidden = self.linear(self.norm(both, "wanted_norm"), "wanted_up")
        wanted = self.known(activity) + self.linear(hidden / (1 + np.exp(-1.702 * hidden)), "wanted_down")
        added = self.placed(len(codes), 0, cell) + wanted
        tokens = queries = self.letters(codes) + added
        if before is not None:  # each query from a sequence of its own
            written = [np.concatenate([before[:p], codes[p:]]) for p in range(len(codes))]
            queries = np.stack([self.letters(one)[p] for p, one in enumerate(written)]) + added
        return self.linear(self.decode(queries, tokens), "to_letters")

    def coverage(self, codes, coverage, cell, trunk=None):
        coverage, codes = coverage[codes != PADDING], codes[codes != PADDING]
        scaled = (np.nan_to_num(coverage) - self.config.min_cov) / (self.config.max_cov - self.config.min_cov)
        bins = np.clip(np.floor(scaled * self.config.num_bins), 0, self.config.num_bins - 1).astype(int)
        bins[np.isnan(coverage)] = self.config.num_bins
        visible = self.values["coverage_embedding"][bins] + self.placed(len(codes), 1, cell)
        if trunk is None:
            tokens = queries = visible + self.letters(codes)
        else:
            embeddings = self.linear(trunk, "trunk") + self.placed(len(trunk), 1, cell)
            queries, tokens = visible, np.concatenate([visible, embeddings])
        return self.linear(self.decode(queries, tokens), "to_coverage")


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def check_rows(found, expected):
    """Each row up to where its padding begins."""
    for row, answer in zip(found, expected, strict=True):
        np.testing.assert_allclose(row[: len(answer)], answer, **CLOSE)


@pytest.mark.parametrize("width", [1, 3, 5])
def test_every_answer_is_that_of_numpy(width):
    model = toy(nucleotide_width=width, activity_mean=0.5, activity_sd=1.5, min_cov=0.25)
    reference = Reference(model)
    codes, activity, cell = mpra()
    expected = [reference.activity(*row) for row in zip(codes, cell, strict=True)]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(model.activity(codes, cell), expected, **CLOSE)
    expected = [reference.nucleotides(*row) for row in zip(codes, activity, cell, strict=True)]
    check_rows(model.nucleotides(codes, activity, cell), expected)
    before = np.where(codes == MASKED, 2, codes)
    expected = [reference.nucleotides(*row) for row in zip(codes, activity, cell, before, strict=True)]
    check_rows(model.nucleotides(codes, activity, cell, before=before), expected)
    codes, coverage, cell = window()
    expected = [reference.coverage(*row) for row in zip(codes, coverage, cell, strict=True)]
    check_rows(model.coverage(codes, coverage, cell), expected)


def test_every_answer_on_trunk_embeddings_is_that_of_numpy():
    model = toy(trunk_channels=7)
    reference = Reference(model)
    trunk = np.random.default_rng(1).standard_normal((3, 4, 7), np.float32)
    codes, activity, cell = mpra()
    expected = [reference.activity(*row) for row in zip(codes, cell, trunk, strict=True)]
    np.testing.assert_allclose(model.activity(codes, cell, trunk=trunk), expected, **CLOSE)
    expected = [reference.nucleotides(*row) for row in zip(codes, activity, cell, strict=True)]
    check_rows(model.nucleotides(codes, activity, cell), expected)
    codes, coverage, cell = window()
    expected = [reference.coverage(*row) for row in zip(codes, coverage, cell, trunk, strict=True)]
    check_rows(model.coverage(codes, coverage, cell, trunk=trunk), expected)


def test_activities_beyond_the_centres_and_without_end_are_those_of_the_last():
    model, (codes, _, cell) = toy(), mpra()
    expected = model.nucleotides(codes, tf.constant([3.0, -3.0, 3.0]), cell)
    for far in (4.0, 1e30, np.inf):
        np.testing.assert_array_equal(model.nucleotides(codes, tf.constant([far, -far, far]), cell), expected)


def test_bins_of_coverage_and_back():
    model = Perceiver(toy_perceiver_config(num_bins=4, min_cov=1.0, max_cov=3.0))
    found = model.coverage_bins([[-np.inf, 0.0, 1.0, 1.4, 1.6], [2.1, 2.9, 3.0, np.inf, np.nan]])
    np.testing.assert_array_equal(found, [[0, 0, 0, 0, 1], [2, 3, 3, 3, 0]])
    logits = np.log(np.array([[[0.5, 0.25, 0.25, 1e-30], [0.1, 0.2, 0.3, 0.4]]], np.float32))
    expected = [[0.5 * 1.25 + 0.25 * (1.75 + 2.25), 0.1 * 1.25 + 0.2 * 1.75 + 0.3 * 2.25 + 0.4 * 2.75]]
    np.testing.assert_allclose(model.expected_coverage(logits), expected, rtol=1e-6)


# --- what changes nothing, and what does --------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 3])
def test_padding_changes_nothing(width):
    model = toy(nucleotide_width=width)
    codes, activity, cell = mpra(length=6)
    codes[codes == PADDING] = 0
    longer = np.pad(codes, [(0, 0), (0, 3)], constant_values=PADDING)
    np.testing.assert_allclose(model.activity(longer, cell), model.activity(codes, cell), **CLOSE)
    found = model.nucleotides(longer, activity, cell)[:, :6]
    np.testing.assert_allclose(found, model.nucleotides(codes, activity, cell), **CLOSE)
    coverage = np.random.default_rng(0).uniform(0, 4, (3, 6)).astype(np.float32)
    expected = model.coverage(codes, coverage, cell)
    for value in (NAN, 3):
        padded = np.pad(coverage, [(0, 0), (0, 3)], constant_values=value)
        np.testing.assert_allclose(model.coverage(longer, padded, cell)[:, :6], expected, **CLOSE)


@pytest.mark.parametrize("size", [1, 4])
def test_the_size_of_a_batch_changes_nothing(size):
    model = toy(nucleotide_width=3)
    for call, batch in (
        (model.activity, mpra(8)[::2]),
        (model.nucleotides, mpra(8)),
        (model.coverage, window(8)),
    ):
        parts = [call(*(array[start : start + size] for array in batch)) for start in range(0, 8, size)]
        np.testing.assert_allclose(np.concatenate(parts), call(*batch), **CLOSE)


def test_the_activity_that_was_measured_is_no_input_of_its_prediction():
    model, (codes, activity, cell) = toy(), mpra()
    with pytest.raises(TypeError, match="activity"):
        model.activity(codes, cell, activity=activity)
    step = [
        (model.activity(codes, cell), model.nucleotides(codes, y, cell)) for y in (activity, activity[::-1])
    ]
    np.testing.assert_array_equal(step[0][0], step[1][0])
    assert np.abs(step[0][1] - step[1][1]).max() > 1e-3  # which does read it


def test_hidden_coverage_changes_nothing_and_visible_coverage_does():
    model, (codes, coverage, cell) = toy(), window()
    hidden = np.isnan(coverage)
    answers = []
    for truth in (coverage, np.where(hidden, 3.9, coverage), np.where(hidden, coverage, 3.9)):
        shown = np.where(hidden, NAN, truth).astype(np.float32)
        answers.append(model.coverage(codes, shown, cell))
    np.testing.assert_array_equal(answers[0], answers[1])
    assert np.abs(answers[0] - answers[2])[hidden].max() > 1e-3


def test_masked_letters_change_nothing_and_the_others_do():
    model, (codes, activity, cell) = toy(nucleotide_width=3), mpra()
    masked, answers = codes == MASKED, []
    for truth in (np.where(masked, 0, codes), np.where(masked, 3, codes), np.full_like(codes, 3)):
        answers.append(model.nucleotides(np.where(masked, MASKED, truth), activity, cell))
    np.testing.assert_array_equal(answers[0], answers[1])
    assert np.abs(answers[0] - answers[2])[masked].max() > 1e-3
    unknown = np.where(masked, UNKNOWN, codes)  # asked for is not the same as not known
    assert np.abs(answers[0] - model.nucleotides(unknown, activity, cell)).max() > 1e-3


def test_a_letter_sees_what_is_written_before_it_and_nothing_else_of_what_is_hidden():
    model, (codes, activity, cell) = toy(nucleotide_width=5, mpra_len=12), mpra(length=12)
    codes[:, 4:] = np.where(codes[:, 4:] == PADDING, PADDING, MASKED)
    written = np.where(codes == MASKED, 2, codes)
    found = model.nucleotides(codes, activity, cell, before=written)
    np.testing.assert_allclose(found[:, 4], model.nucleotides(codes, activity, cell)[:, 4], **CLOSE)
    other = written.copy()
    other[:, 7] = 3
    changed = np.abs(found - model.nucleotides(codes, activity, cell, before=other)).max((0, 2)) > 1e-3
    assert np.flatnonzero(changed).tolist() == [8, 9]


# --- variables ----------------------------------------------------------------------------------------------------


def gradients_of(model, calls, trunk=None):
    """Largest absolute gradient of each variable, None where there is none, of a loss over these calls."""
    codes, activity, cell = mpra()
    wide, coverage, cells = window()
    functions = {
        "activity": lambda: model.activity(codes, cell, trunk=trunk),
        "nucleotides": lambda: model.nucleotides(codes, activity, cell),
        "coverage": lambda: model.coverage(wide, coverage, cells, trunk=trunk),
    }
    random = np.random.default_rng(3)
    with tf.GradientTape() as tape:
        answers = [functions[name]() for name in calls]
        loss = tf.add_n(
            [tf.reduce_sum(answer * random.standard_normal(answer.shape, np.float32)) for answer in answers]
        )
    found = tape.gradient(loss, model.trainable_variables)
    return {
        variable_name(variable).removeprefix("perceiver/"): None if gradient is None else gradient.numpy()
        for variable, gradient in zip(model.trainable_variables, found, strict=True)
    }


@pytest.mark.parametrize("channels", [0, 7])
@pytest.mark.parametrize("width", [1, 3])
def test_the_three_losses_together_reach_every_variable(width, channels):
    model = toy(nucleotide_width=width, trunk_channels=channels)
    assert len(model.trainable_variables) == len(model.variables)
    trunk = np.ones([3, 4, channels], np.float32) if channels else None
    for name, gradient in gradients_of(model, ("activity", "nucleotides", "coverage"), trunk).items():
        largest = np.abs(gradient).max()
        if name.endswith("key/b"):  # adds the same to all logits of a query, which softmax takes away again
            assert largest < 1e-4, name
        else:
            assert largest > 1e-3, name


def test_on_trunk_embeddings_only_masked_letters_train_what_reads_letters():
    model = toy(nucleotide_width=3, trunk_channels=7)
    found = gradients_of(model, ("activity", "coverage"), np.ones([3, 4, 7], np.float32))
    without = {name for name, gradient in found.items() if gradient is None}
    letters = ("letter", "context", "to_letters", "wanted_up", "wanted_down")
    assert without == {f"{name}/{part}" for name in letters for part in "wb"} | {
        "wanted_norm/scale",
        "wanted_norm/offset",
    }
    assert not found["activity_embedding"][:-1].any() and found["activity_embedding"][-1].any()


def test_the_answer_for_an_unseen_cell_type_is_the_mean_of_the_others(tmp_path):
    names = ("a", "b", "c")
    letters = np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(0, 4, (2, 9))]
    model = toy(cell_types=names, unseen_cell_types=("b",))
    own = toy(cell_types=names)(letters)["activity"].numpy()
    checkpoints.save(tmp_path / "model", model)
    for one in (model, checkpoints.load(tmp_path / "model")):
        found = one(letters)["activity"].numpy()
        np.testing.assert_allclose(
            found, np.stack([own[:, 0], own[:, [0, 2]].mean(1), own[:, 2]], 1), rtol=1e-5
        )
    assert np.abs(found - own).max() > 0.01


def test_both_modalities_share_one_embedding_of_cell_types():
    model = toy()
    assert sum("cell_type" in variable.name for variable in model.variables) == 1
    for name in ("activity", "nucleotides", "coverage"):
        gradient = gradients_of(model, (name,))["cell_type_embedding"]
        assert gradient.shape == (2, 8) and (np.abs(gradient).max(1) > 1e-3).all()


def test_the_same_seed_is_the_same_weights():
    one, again, other = (
        checkpoints.arrays(Perceiver(toy_perceiver_config(), seed).variables) for seed in (1, 1, 2)
    )
    for name, array in one.items():
        np.testing.assert_array_equal(array, again[name])
        if array.min() != array.max():  # biases and scales begin the same
            assert np.abs(array - other[name]).max() > 1e-3, name
    more = checkpoints.arrays(Perceiver(toy_perceiver_config(num_self_attention_layers=3), 1).variables)
    assert all(np.array_equal(more[name], array) for name, array in one.items())


# --- dropout, XLA -------------------------------------------------------------------------------------------------


def test_dropout_is_a_function_of_the_key_and_off_in_inference():
    model, plain = toy(dropout=0.5), toy()
    for name, batch in (("activity", mpra()[::2]), ("nucleotides", mpra()), ("coverage", window())):
        call = getattr(model, name)
        one, again, step, seed = (
            call(*batch, True, tf.constant(k)) for k in ([1, 2], [1, 2], [1, 3], [2, 2])
        )
        np.testing.assert_array_equal(one, again)
        assert np.abs(one - step).max() > 1e-3 and np.abs(one - seed).max() > 1e-3
        expected = getattr(plain, name)(*batch)
        np.testing.assert_array_equal(call(*batch), expected)
        np.testing.assert_array_equal(
            getattr(plain, name)(*batch, is_training=True), expected
        )  # no key needed
        with pytest.raises(ValueError, match="is_training=True needs key"):
            call(*batch, is_training=True)


def test_each_place_draws_dropout_of_its_own(monkeypatch):
    places = []

    def draw(key, name, rate, count, shape):
        places.append(name)
        return [tf.ones(shape, tf.bool)] * count

    monkeypatch.setattr(perceiver, "draw_masks", draw)
    model, (codes, _, cell) = toy(dropout=0.5), mpra()
    model.activity(codes, cell, True, tf.constant([0, 0]))
    assert len(places) == len(set(places)) == 2 * (1 + 2 * 2 + 1)


def test_dropout_needs_a_fixed_size_of_batch():
    model = toy(dropout=0.5)

    @tf.function(input_signature=[tf.TensorSpec([None, 9], tf.int32), tf.TensorSpec([None], tf.int32)])
    def activity(codes, cell):
        return model.activity(codes, cell, True, tf.constant([0, 0]))

    with pytest.raises(ValueError, match="training needs a fixed batch size, found None"):
        activity.get_concrete_function()


def test_xla_changes_nothing():
    model = toy(nucleotide_width=3)
    for call, batch in (
        (model.activity, mpra()[::2]),
        (model.nucleotides, mpra()),
        (model.coverage, window()),
    ):
        compiled = tf.function(call, jit_compile=True, autograph=False)
        np.testing.assert_allclose(compiled(*map(tf.constant, batch)), call(*batch), **CLOSE)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_sequences_longer_than_configured_are_refused():
    model, (codes, activity, cell) = toy(), mpra(length=10)
    mpra_said = r"^sequences of 10 bp; this model takes 9 at most \(mpra_len\)$"
    for call in (
        lambda: model.activity(codes, cell),
        lambda: model.nucleotides(codes, activity, cell),
        lambda: model(np.zeros([1, 10, 4], np.float32)),
    ):
        with pytest.raises(ValueError, match=mpra_said):
            call()
    assert model.coverage(*window(length=12)).shape == (3, 12, 6)
    with pytest.raises(ValueError, match=r"^sequences of 13 bp; this model takes 12 at most \(seq_len\)$"):
        model.coverage(*window(length=13))
    short = toy(seq_len=5)  # though there are positions for more
    with pytest.raises(ValueError, match=r"^sequences of 6 bp; this model takes 5 at most \(seq_len\)$"):
        short.coverage(*window(length=6))


@pytest.mark.parametrize(
    ("channels", "shape", "said"),
    [(0, (3, 4, 7), "trunk embeddings of 7 channels; this model takes none"),
     (7, (3, 4, 6), "trunk embeddings of 6 channels; this model takes 7"),
     (7, (3, 13, 7), "trunk embeddings of 13 bins; this model takes 12 at most")],
)  # fmt: skip
def test_embeddings_of_another_trunk_are_refused(channels, shape, said):
    model, trunk = toy(trunk_channels=channels), np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=f"^{said}$"):
        model.activity(*mpra()[::2], trunk=trunk)
    with pytest.raises(ValueError, match=f"^{said}$"):
        model.coverage(*window(), trunk=trunk)
