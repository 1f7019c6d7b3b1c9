"""Studies whose numbers are made up: as frames, and as runs in the store."""

import numpy as np
import pandas as pd

from mlproject.evaluation import compare_predictors
from mlproject.tracking import runs

HOSTILE = "<script>alert(1)</script>|`[x](javascript:1)\n# z"
PREDICTORS = ("predicted", "ridge_sites", "ridge_kmers")


def made_constructs(folds=("a", "b"), of_fold=12, word=""):
    """Of each fold 12 constructs, two to a cluster; the model is near what was measured, the baselines are not."""
    random = np.random.default_rng(0)
    count = len(folds) * of_fold
    activity = random.normal(1, 0.5, count)
    return pd.DataFrame(
        {
            "index": np.arange(count),
            "name": [f"construct {number}{word}" for number in range(count)],
            "group": [f"G{number % 3}{word}" for number in range(count)],
            "cluster": [f"c{number // 2}" for number in range(count)],
            "fold": np.repeat(folds, of_fold),
            "activity": activity,
            "windows": 2,
            "predicted": activity + random.normal(0, 0.1, count),
            "predicted_sd": 0.01,
            "ridge_sites": activity + random.normal(0, 0.5, count),
            "ridge_kmers": random.normal(0, 1.0, count),
        }
    )


def made_comparison(constructs):
    return compare_predictors(constructs, list(PREDICTORS))


def made_tracks(seed, gain=0.3, word=""):
    """Eight tracks of two categories, as a training of train_head keeps them."""
    random = np.random.default_rng(seed)
    baseline = np.linspace(0.1, 0.4, 8)
    return pd.DataFrame(
        {
            "index": range(8),
            "identifier": [f"track{word}"] * 8,
            "description": ["what it is"] * 8,
            "category": [f"A{word}"] * 4 + [f"B{word}"] * 4,
            "pearson_r": baseline + gain + random.normal(0, 0.01, 8),
            "r2": 0.0,
            "n": 100,
            "pearson_r_gc": baseline,
            "pearson_r_bin_mean": baseline - 0.1,
        }
    )


def made_trials():
    """Three complete trials, one pruned, one failed and tried again."""
    return pd.DataFrame(
        {
            "number": [4, 0, 1, 2, 3],
            "state": ["complete", "complete", "complete", "pruned", "failed"],
            "value": [0.9, 0.5, 0.1, np.nan, np.nan],
            "num_heads": pd.array([4, 2, 1, 1, 4], dtype="Int64"),
            "key_size": pd.array([16, None, 32, 16, 16], dtype="Int64"),
            "learning_rate": [1e-3, 1e-4, 1e-5, 1e-2, 1e-3],
            "epochs": [3, 3, 3, 1, 0],
            "seconds": [1.0] * 5,
            "origin": ["", "single_64_64", "", "", ""],
            "failure": ["", "", "", "", "loss became NaN"],
            "retry_of": pd.array([3, None, None, None, None], dtype="Int64"),
        }
    )


def made_results(seeds=(1, 2, 3), gain=0.1):
    """Trainings of two arms."""
    random = np.random.default_rng(0)
    rows = [
        {
            "run_id": f"{arm}-{seed}",
            "variant": arm,
            "seed": seed,
            "pearson/activity": 0.5 + gain * (arm == "both") + random.normal(0, 0.01),
            "pearson/kmers": 0.4,
            "pearson/coverage": 0.3 if arm == "both" else np.nan,
        }
        for arm in ("both", "mpra")
        for seed in seeds
    ]
    return pd.DataFrame(rows)


def made_predictions(word=""):
    random = np.random.default_rng(0)
    activity = random.normal(1, 1, 40)
    return pd.DataFrame(
        {
            "name": [f"sequence {number}{word}" for number in range(40)],
            "cell_type": [f"cell{word}"] * 20 + ["other"] * 20,
            "labels": ["seen"] * 20 + ["hidden"] * 20,
            "activity": activity,
            "predicted": activity + random.normal(0, 0.1, 40),
        }
    )


def made_cell_types(word=""):
    return pd.DataFrame(
        {
            "cell_type": [f"cell{word}", f"cell{word}", "other"],
            "labels": ["seen", "seen", "hidden"],
            "predictor": ["predicted", "kmers", "predicted"],
            "pearson": [0.9, 0.4, 0.5],
            "pearson_low": [0.8, 0.3, np.nan],
            "pearson_high": [0.95, 0.5, np.nan],
            "ceiling": [0.99, 0.99, np.nan],
            "sequences": 20,
            "clusters": 10,
        }
    )


def made_differences():
    return pd.DataFrame(
        {
            "setting": ["", ""],
            "number": ["pearson/activity", "pearson/coverage"],
            "seeds": [3, 3],
            "both": [0.6, 0.3],
            "mpra": [0.5, 0.29],
            "difference": [0.1, 0.01],
            "low": [0.05, -0.02],
            "high": [0.15, 0.04],
        }
    )


def made_curves(variants=("a", "b")):
    rows = [(name, 1, "loss", step, 1.0 / step) for name in variants for step in (1, 2)]
    return pd.DataFrame(rows, columns=["variant", "seed", "series", "step", "value"])


def made_seconds(variants=("a", "b")):
    rows = [(name, 1, 3.0, 1.0) for name in variants]
    return pd.DataFrame(rows, columns=["variant", "seed", "training", "other"])


# --- in the store -------------------------------------------------------------------------------------------------


def _ended(child, **numbers):
    child.use_dataset(name="demo", digest="0123456789abcdef", source="somewhere", context="training")
    for step in (1, 2):
        child.log(step, {"loss": 1 / step, "validation/loss": 2 / step})
    child.summarize({"seconds/train": 3.0, "seconds/total": 5.0, **numbers})


def keep_finetune(folds=("a", "b"), word=""):
    """A finished study of finetune with its table of all that was held out."""
    from mlproject.commands import finetune

    constructs = made_constructs(folds, word=word)
    with runs.start_run("finetune", finetune.Options()) as run:
        for fold in folds:
            own = constructs[constructs["fold"] == fold]
            with run.child(
                f"fold {fold}", key={"grid": "f", "fold": fold}, params={"fold": fold, "seed": 42}
            ) as child:
                child.keep_table("constructs", own)
                _ended(child, **{"pearson/constructs": 0.9})
        run.keep_table("constructs", constructs)
        run.keep_table("comparison", made_comparison(constructs))
    return run


def keep_train_head(seeds=(1, 2, 3), word=""):
    """A finished study of train_head."""
    from mlproject.commands import train_head

    with runs.start_run("train_head", train_head.Options(seeds=seeds)) as run:
        for seed in seeds:
            key = {"grid": "t", "seed": str(seed)}
            with run.child(f"seed {seed}", key=key, params={"seed": seed, "head": "linear"}) as child:
                child.keep_table("tracks_human", made_tracks(seed, word=word))
                _ended(child)
    return run


def keep_search(task="constructs", table=True, best=True):
    """A finished study of search_head, with its trials as children."""
    from mlproject.commands import search_head

    trials = made_trials()
    with runs.start_run("search_head", search_head.Options(task=task)) as run:
        for row in trials.to_dict("records"):
            params = {name: row[name] for name in ("num_heads", "key_size", "learning_rate")}
            params = {name: value for name, value in params.items() if not pd.isna(value)}
            key = {"grid": "s", "trial": str(row["number"])}
            with run.child(
                f"trial {row['number']}", key=key, params={"trial": row["number"], **params}
            ) as child:
                child.tag({"state": row["state"], "origin": row["origin"] or "the sampler"})
                if row["state"] == "complete":
                    child.summarize({"objective": row["value"]})
                child.summarize({"seconds/total": row["seconds"]})
        if table:
            run.keep_table("trials", trials)
        if best:
            with run.child("best 4", key={"grid": "s", "best": "4, 20 epochs"}, params={"best": 4}) as child:
                if task == "constructs":
                    child.keep_table("constructs", made_constructs(("test",)))
                else:
                    child.keep_table("tracks_human", made_tracks(0))
                _ended(child)
        run.summarize({"seconds/embeddings": 1.0, "seconds/trials": 2.0, "seconds/total": 9.0})
    return run


def keep_joint(seeds=(1, 2, 3), word=""):
    """A finished study of joint with two arms."""
    from mlproject.commands import joint

    with runs.start_run("joint", joint.Options(seeds=seeds)) as run:
        for row in made_results(seeds).to_dict("records"):
            key = {"grid": "j", "training": row["run_id"]}
            params = {"modalities": row["variant"], "setting": word, "seed": row["seed"]}
            with run.child(f"training {row['run_id']}", key=key, params=params) as child:
                child.keep_table("comparison", made_cell_types(word))
                child.keep_table("predictions", made_predictions(word))
                _ended(
                    child, **{name: value for name, value in row.items() if "/" in name and value == value}
                )
        run.keep_table("differences", made_differences())
    return run
