"""Studies of every kind, read back from a real store of made-up runs."""

import numpy as np
import pandas as pd
import pytest

from made_studies import (
    HOSTILE,
    keep_finetune,
    keep_joint,
    keep_search,
    keep_train_head,
    made_constructs,
    made_trials,
)
from mlproject.commands import search_head
from mlproject.errors import InputError
from mlproject.tracking import grids, runs, studies


def test_studies_are_listed_newest_first(folder):
    made = [keep_finetune().id, keep_train_head((1,)).id]
    table = studies.list_studies()
    assert table["run_id"].tolist() == made[::-1]
    assert table["tags.command"].tolist() == ["train_head", "finetune"]
    assert studies.list_studies("finetune")["run_id"].tolist() == made[:1]
    assert studies.list_studies(kinds=("joint",)).empty


def test_trainings_have_a_variant_and_a_seed(folder):
    finetune = studies.find_study(keep_finetune().id)
    assert finetune.trainings["variant"].tolist() == ["fold a", "fold b"]
    assert finetune.trainings["seed"].tolist() == [42, 42]
    heads = studies.find_study(keep_train_head((3, 1)).id)
    assert list(zip(heads.trainings["variant"], heads.trainings["seed"], strict=True)) == [
        ("linear", 3),
        ("linear", 1),
    ]
    joint = studies.find_study(keep_joint((1,), word="d_model 8").id)
    assert joint.trainings["variant"].tolist() == ["both d_model 8", "mpra d_model 8"]
    search = studies.find_study(keep_search().id)
    assert search.trainings["variant"].tolist() == ["trial 4, 20 epochs"]
    assert search.trainings["seed"].tolist() == [42]


def test_curves_seconds_facts_and_data_are_those_of_the_trainings(folder):
    study = studies.find_study(keep_finetune().id)
    curves = grids.curves_of(study.trainings, ("loss", "validation/loss", "nothing"))
    own = curves[(curves["variant"] == "fold a") & (curves["series"] == "loss")]
    assert own[["step", "value"]].to_numpy().tolist() == [[1, 1.0], [2, 0.5]]
    assert set(curves["series"]) == {"loss", "validation/loss"}
    seconds = grids.seconds_of(study.trainings)
    assert list(seconds) == ["variant", "seed", "training", "other"]  # evaluation was not timed
    assert seconds["other"].tolist() == [2.0, 2.0]
    facts = dict(studies.study_facts(study))
    assert facts["dataset"] == "demo, digest 0123456789abcdef"
    assert facts["command"].startswith("python -m mlproject finetune --batch_size 4 ")
    (dataset,) = studies.datasets_of(study.trainings["run_id"].iloc[0])
    assert dataset == ("demo", "0123456789abcdef", "somewhere")
    assert studies.datasets_of(study.run_id) == []


def test_tables_are_read_back_or_named(folder):
    run = keep_finetune()
    study = studies.find_study(run.id)
    pd.testing.assert_frame_equal(
        studies.needed_table(study, run.id, "constructs"), made_constructs(), check_dtype=False
    )
    assert studies.kept_table(run.id, "nothing") is None
    with pytest.raises(InputError, match="has kept no table 'nothing'"):
        studies.needed_table(study, run.id, "nothing")
    assert not studies.has_model(run.id)


def test_trials_are_those_of_the_table_or_of_the_children(folder):
    whole = studies.read_trials(keep_search(best=False).id)
    pd.testing.assert_frame_equal(whole, made_trials(), check_dtype=False)
    children = studies.read_trials(keep_search(table=False, best=False).id)
    expected = made_trials().sort_values("number", ignore_index=True)
    for name in ("number", "state", "value", "num_heads", "learning_rate", "seconds", "origin"):
        assert children[name].isna().tolist() == expected[name].isna().tolist()
        assert children[name].dropna().tolist() == expected[name].dropna().tolist(), name
    assert str(children["num_heads"].dtype) == "Int64" and children["key_size"].isna().sum() == 1
    assert studies.read_trials(keep_finetune().id).empty


def test_a_search_under_way_has_the_trials_so_far(folder):
    with runs.start_run("search_head", search_head.Options()) as run:
        assert studies.read_trials(run.id).empty
        with run.child(
            "trial 0", key={"grid": "s", "trial": "0"}, params={"trial": 0, "num_heads": 2}
        ) as child:
            child.tag({"state": "running"})
            other = {studies.PARENT: run.id, "trial": "of somebody else"}
            run.client.create_run(run.experiment_id, tags=other)
            found = studies.read_trials(run.id)
    assert found[["number", "state", "num_heads"]].to_numpy().tolist() == [[0, "running", 2]]
    assert np.isnan(found["value"].iloc[0])


def test_what_is_no_study_is_refused(folder):
    with pytest.raises(InputError, match="run abc: "):
        studies.find_study("abc")
    child = studies.find_study(keep_finetune().id).trainings["run_id"].iloc[0]
    with pytest.raises(InputError, match="is no study"):
        studies.find_study(child)


def test_a_study_that_another_has_gone_on_with_says_so(folder):
    first = keep_train_head((1,)).id
    runs.find_run(first).tag({"continued_in": "def"})
    study = studies.find_study(first)
    with pytest.raises(InputError, match="they are those of run def"):
        studies.ended(study._replace(trainings=study.trainings[:0]))


def test_hostile_names_come_back_as_they_are(folder):
    study = studies.find_study(keep_finetune((HOSTILE[:20], "b")).id)
    assert study.trainings["variant"].iloc[0] == f"fold {HOSTILE[:20]}"
