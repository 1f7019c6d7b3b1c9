"""`report` on studies of every kind but ablation, as a user calls it; their runs are made up."""

from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from made_studies import HOSTILE, keep_finetune, keep_joint, keep_search, keep_train_head
from mlproject import __main__ as door
from mlproject.tracking import reading, runs, studies


def written():
    return (Path("work/report", name).read_text("utf-8") for name in ("report.html", "model_card.md"))


@pytest.mark.parametrize(
    ("keep", "said", "in_card"),
    [
        (keep_finetune, "Of 24 constructs in 12 clusters, held out in 2 folds, the model has Pearson r",
         "predict_constructs --weights runs:/"),
        (keep_train_head, "The linear head has a mean Pearson r of 0.5", "predict --weights runs:/"),
        (keep_search, "Of 5 trials (3 complete, 1 pruned, 1 failed), trial 4 is best with validation Pearson r 0.900",
         "predict_constructs --weights runs:/"),
        (keep_joint, "Of 2 arms over 3 seeds, both has the highest held-out Pearson r of activity, 0.6",
         "A Perceiver trained on"),
    ],
)  # fmt: skip
def test_every_kind_is_reported_and_keeps_page_and_card(folder, capsys, keep, said, in_card):
    run = keep()
    assert door.main(["report"]) == 0
    page, card = written()
    assert said in capsys.readouterr().out and said in page
    assert f"python -m mlproject {reading.read_run(run.id)['tags.command']} " in page
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == "demo"
    assert in_card in card and "It was trained on made-up demo data" in card
    for name, text in (("report.html", page), ("model_card.md", card)):
        kept = MlflowClient().download_artifacts(run.id, name, str(folder))
        assert Path(kept).read_text("utf-8") == text
    (own,) = [row for row in reading.read_runs().to_dict("records") if row.get("tags.command") == "report"]
    assert own["status"] == "FINISHED" and own["tags.reported"] == run.id
    best = card.partition("the model of run `")[2].partition("`")[0]
    trained = studies.find_study(run.id).trainings["run_id"].tolist()
    assert best in trained
    table = "trials" if keep is keep_search else "leaderboard"
    assert len(runs.find_run(own["run_id"]).table(table))


def test_the_newest_of_any_kind_or_of_an_experiment_is_taken(folder, capsys):
    keep_finetune()
    keep_train_head((1,))
    assert door.main(["report"]) == 0
    assert "The linear head" in capsys.readouterr().out
    assert door.main(["report", "--experiment", "finetune"]) == 0
    assert "Of 24 constructs" in capsys.readouterr().out


def test_a_search_of_tracks_and_one_without_a_best_head(folder, capsys):
    keep_search("tracks")
    assert door.main(["report"]) == 0
    assert "the best head has a mean Pearson r of" in capsys.readouterr().out
    assert "predict --weights" in Path("work/report/model_card.md").read_text("utf-8")
    run = keep_search(best=False, table=False)
    assert door.main(["report", "--run", f"runs:/{run.id}", "--output", "other"]) == 0
    assert "was not trained again" in capsys.readouterr().out
    assert [path.name for path in Path("other").iterdir()] == ["report.html"]  # there is no model


def test_hostile_names_are_words(folder):
    word = HOSTILE.replace("\n", " ")
    for run in (
        keep_finetune(("a<script>alert(1)</script>|`x`", "b"), word),
        keep_train_head(word=word),
        keep_joint(word=word),
    ):
        assert door.main(["report", "--run", run.id]) == 0
        page, card = written()
        assert "<script>alert" not in page
        assert "<script>alert" not in card.split("---\n", 2)[2].replace("```", "")
        yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--organism", "human"], "--organism: is for ablation; found a run of train_head"),
        (
            ["--run", "child"],
            "which is no study: a run of ablation, finetune, train_head, search_head, joint",
        ),
        (["--run", "study", "--experiment", "finetune"], "which is no run of experiment 'finetune'"),
        (["--run", "lost"], "--run: finetune "),
    ],
)
def test_bad_input_is_one_line(folder, capsys, words, said):
    lost = keep_finetune()
    study = keep_train_head((1,))
    child = studies.find_study(study.id).trainings["run_id"].iloc[0]
    names = {"child": child, "study": study.id, "lost": lost.id}
    MlflowClient()._tracking_client._get_artifact_repo(lost.id).delete_artifacts("comparison.parquet")
    assert door.main(["report", *(names.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not Path("work/report").exists()
