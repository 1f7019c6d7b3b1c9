import dataclasses

import numpy as np
import pytest

from enformer_core.perceiver import PerceiverConfig
from mlproject import joint_grid
from mlproject.errors import InputError
from toy_joint import toy_joint, with_activity

ONE = {
    "holdout_cell_type": ("c",), "num_track_train_samples": (6,), "num_mpra_train_samples": (0,), "d_model": (0,),
    "d_latent": (0,), "num_latents": (0,), "num_blocks": (0,), "num_self_attention_layers": (0,),
    "nucleotide_width": (0,), "dropout": (0.0,), "learning_rate": (0.01,), "modalities": ("both",), "seeds": (1,),
}  # fmt: skip


def trainings(**changes):
    return joint_grid.combinations(ONE | changes)


def test_comma_lists_make_every_combination_with_seeds_innermost():
    found = trainings(d_model=(8, 16), modalities=("both", "mpra"), seeds=(3, 4))
    digits = [one.name.split("-")[1] for one in found]
    assert digits == [digits[0]] * 4 + [digits[4]] * 4 and digits[0] != digits[4]
    words = [("both", 3), ("both", 4), ("mpra", 3), ("mpra", 4)] * 2
    expected = [f"{word}-{own}-{seed}" for own, (word, seed) in zip(digits, words, strict=True)]
    assert [one.name for one in found] == expected
    assert [one.setting for one in found] == ["d_model=8"] * 4 + ["d_model=16"] * 4
    assert [(one.values["d_model"], one.modalities, one.seed) for one in found][:3] == [
        *((8, "both", 3), (8, "both", 4), (8, "mpra", 3)),
    ]
    (alone,) = trainings()
    assert alone.setting == ""


OTHERS = {
    "holdout_cell_type": "b", "num_track_train_samples": 7, "num_mpra_train_samples": 5, "d_model": 8, "d_latent": 8,
    "num_latents": 8, "num_blocks": 2, "num_self_attention_layers": 1, "nucleotide_width": 3, "dropout": 0.1,
    "learning_rate": 0.02, "modalities": "mpra", "seeds": 2,
}  # fmt: skip


@pytest.mark.parametrize("option", joint_grid.SWEPT)
def test_another_value_is_another_training_and_more_values_find_the_first_again(option):
    """A training is found again by its name, in a study whose hash leaves out what is swept."""
    (first,), (other,) = trainings(), trainings(**{option: (OTHERS[option],)})
    assert first.name != other.name
    both = trainings(**{option: (ONE[option][0], OTHERS[option])})
    assert [one.name for one in both] == [first.name, other.name]


def test_names_are_parts_of_paths_and_differ_where_values_do():
    cells = ("T cell", "T_cell", "CD4+/CD8-", "CD4+_CD8-", "../x", "é")
    names = [one.name for one in trainings(holdout_cell_type=cells)]
    assert len(set(names)) == len(cells)
    assert all("/" not in name and name.isascii() and not name.startswith(".") for name in names)


def test_another_seed_changes_the_seed_alone():
    for training in trainings(d_model=(1, 11), seeds=(11, 1)):
        other = training.with_seed(12)
        assert other.values == {**training.values, "seeds": 12} and other.setting == training.setting
        assert other.name == f"{training.name.rpartition('-')[0]}-12"
        assert training.name in [
            one.name for one in trainings(d_model=(training.values["d_model"],), seeds=(1, 11))
        ]


def test_sizes_are_given_or_of_the_preset():
    (training,) = trainings(d_latent=(40,), holdout_cell_type=("none",))
    config = joint_grid.configuration(training, toy_joint(), "published", {"seq_len": 77, "num_bins": 0})
    assert config == PerceiverConfig(("a", "b", "c"), seq_len=77, d_latent=40)
    (training,) = trainings(dropout=(0.2,))
    tiny = joint_grid.configuration(training, toy_joint(), "tiny", {}, mean=1.0, sd=2.0)
    assert (tiny.activity_mean, tiny.activity_sd, tiny.dropout) == (1.0, 2.0, 0.2)
    assert tiny.d_model < PerceiverConfig(("a",)).d_model
    (training,) = trainings(d_model=(30,))
    with pytest.raises(
        InputError, match=r"^--d_model is 30; it must be a multiple of num_cross_attn_heads, 4"
    ):
        joint_grid.configuration(training, toy_joint(), "tiny", {})


def test_labels_of_the_hidden_cell_type_are_neither_trained_nor_validated_on():
    data = toy_joint()
    (training,) = trainings()
    assert training.hidden(data) == 2
    train, valid = joint_grid.labels(training, data)
    assert set(data.mpra.cell[train]) == set(data.mpra.cell[valid]) == {1}
    subset = data.mpra.split.subset[data.mpra.table.sequence]
    assert set(subset[train]) == {"train"} and set(subset[valid]) == {"valid"}
    (nobody,) = trainings(holdout_cell_type=("none",))
    assert nobody.hidden(data) is None
    assert [len(rows) for rows in joint_grid.labels(nobody, data)] == [2 * len(train), 2 * len(valid)]
    (few,) = trainings(num_mpra_train_samples=(5,))
    sampled, all_valid = joint_grid.labels(few, data)
    assert len(sampled) == 5 and set(sampled) < set(train) and all_valid.tolist() == valid.tolist()
    drawn = [tuple(joint_grid.labels(few.with_seed(seed), data)[0]) for seed in (1, 2)]
    assert drawn[0] == tuple(sampled) and drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("modalities", "hidden", "unseen"),
    [
        *(("both", "c", ("c",)), ("both", "b", ()), ("mpra", "b", ("a", "b"))),
        *(("mpra", "none", ("a",)), ("tracks", "b", ("c",))),
    ],
)
def test_a_model_knows_what_cell_types_it_has_seen_nothing_of(modalities, hidden, unseen):
    (training,) = trainings(modalities=(modalities,), holdout_cell_type=(hidden,))
    assert joint_grid.configuration(training, toy_joint(), "tiny", {}).unseen_cell_types == unseen


def test_a_cell_type_whose_labels_were_not_drawn_is_unseen():
    data = toy_joint()
    rare = np.flatnonzero(data.mpra.cell == 2)[4:]  # c keeps the labels of four sequences
    table = dataclasses.replace(
        data.mpra.table,
        **{
            name: np.delete(getattr(data.mpra.table, name), rare)
            for name in ("sequence", "cell", "activity", "spread", "replicates")
        },
    )
    mpra = dataclasses.replace(data.mpra, table=table, cell=np.delete(data.mpra.cell, rare))
    data = dataclasses.replace(data, mpra=mpra)
    found = set()
    for training in trainings(
        modalities=("mpra",), holdout_cell_type=("none",), num_mpra_train_samples=(5,), seeds=tuple(range(20))
    ):
        drawn = set(mpra.cell[joint_grid.labels(training, data)[0]])
        unseen = joint_grid.configuration(training, data, "tiny", {}).unseen_cell_types
        assert unseen == (("a",) if 2 in drawn else ("a", "c"))
        found.add(unseen)
    assert len(found) == 2


def test_labels_that_say_nothing_are_refused():
    data = toy_joint()
    (one,) = trainings(num_mpra_train_samples=(1,))
    with pytest.raises(
        InputError, match="--mpra: found 1 measurements for training with --holdout_cell_type c and"
    ):
        joint_grid.labels(one, data)
    # all that can be read are equal; those of the hidden cell type are not
    activity = np.where(data.mpra.cell == 2, data.mpra.table.activity, 1.0)
    (training,) = trainings()
    with pytest.raises(InputError, match="--mpra_activity: all activities to train on are equal"):
        joint_grid.labels(training, with_activity(data, activity))


@pytest.mark.parametrize(
    ("name", "modalities", "said"),
    [
        ("bb", ("mpra",), "--holdout_cell_type: found 'bb'.*the MPRA table has b, c"),
        ("a", ("both",), "--holdout_cell_type: found 'a'.*the MPRA table has b, c"),
        ("c", ("mpra", "both"), "--holdout_cell_type: c has no tracks.* tracks have a, b"),
    ],
)
def test_a_cell_type_that_cannot_be_hidden_is_refused(name, modalities, said):
    with pytest.raises(InputError, match=said):
        joint_grid.check_hidden(name, modalities, toy_joint())


def test_what_can_be_hidden():
    for name, modalities in (("none", ("both",)), ("b", ("both", "mpra")), ("c", ("mpra",))):
        joint_grid.check_hidden(name, modalities, toy_joint())
