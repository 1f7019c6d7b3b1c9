import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlproject import evaluation, joint_evaluation
from mlproject.baselines import gc_content, kmer_shares, ridge_predictions
from toy_joint import toy_joint, with_activity


@pytest.fixture
def few_draws(monkeypatch):
    """Intervals need no thousand draws here."""
    monkeypatch.setattr(evaluation, "_RESAMPLES", 100)


@pytest.fixture(scope="module")
def data():
    return toy_joint()


def known_of(data, hidden):
    """Measurements that may be read."""
    return np.concatenate([data.mpra.rows(subset, without=(hidden,)) for subset in ("train", "valid")])


@pytest.fixture(scope="module")
def table(data):
    """Of all sequences, with the truth and noise as predictions."""
    rows = np.arange(len(data.mpra.table.sequence))
    noise = np.random.default_rng(0).normal(size=len(rows))
    found = joint_evaluation.activity_table(data.mpra, rows, data.mpra.table.activity + noise, 2)
    return found.assign(gc=noise, constant=1.0)


def test_the_table_has_a_row_for_each_measurement(data):
    rows = data.mpra.rows("test")
    found = joint_evaluation.activity_table(data.mpra, rows, np.arange(len(rows)), 2)
    source = data.mpra.table
    for place, row in enumerate(rows):
        line = found.iloc[place]
        assert line["name"] == source.names[source.sequence[row]] and line["activity"] == source.activity[row]
        assert line["cell_type"] == source.cell_types[source.cell[row]] and line["predicted"] == place
        assert line["labels"] == ("hidden" if line["cell_type"] == "c" else "seen")
        assert line["cluster"] == source.sequence[row] // 2
    nobody = joint_evaluation.activity_table(data.mpra, rows, np.arange(len(rows)), None)
    assert set(nobody["labels"]) == {"seen"}


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [None, 2])
def test_baselines_are_fitted_to_each_cell_type_or_to_the_mean_of_the_others(data, hidden):
    known = known_of(data, 99 if hidden is None else hidden)
    test = data.mpra.rows("test")
    found = joint_evaluation.baselines(data.mpra, known, test)
    table = data.mpra.table
    read = pd.DataFrame({"s": table.sequence, "cell": data.mpra.cell, "y": table.activity}).iloc[known]
    order = sorted({*read["s"], *table.sequence[test]})
    sequences = [table.sequences[n] for n in order]
    clusters = [str(data.mpra.split.clusters[n]) for n in order]
    assert read["cell"].nunique() == (2 if hidden is None else 1)
    for cell in (1, 2):
        own = read if cell == hidden else read[read["cell"] == cell]
        mean = own.groupby("s")["y"].mean().reindex(order)
        asked = test[data.mpra.cell[test] == cell]
        for name, features in (("kmers", kmer_shares(sequences)), ("gc", gc_content(sequences)[:, None])):
            expected = ridge_predictions(
                features, mean.fillna(0).to_numpy(), mean.notna().to_numpy(), clusters
            )
            expected = pd.Series(expected, order)[table.sequence[asked]]
            np.testing.assert_allclose(found[name][data.mpra.cell[test] == cell], expected, rtol=1e-6)


@pytest.mark.slow
def test_baselines_do_not_read_hidden_or_held_out_labels(data):
    known, test = known_of(data, 2), data.mpra.rows("test")
    values = data.mpra.table.activity.copy()
    values[np.setdiff1d(np.arange(len(values)), known)] = np.nan
    expected = joint_evaluation.baselines(data.mpra, known, test)
    found = joint_evaluation.baselines(with_activity(data, values).mpra, known, test)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        assert np.isfinite(value).all()


def test_cell_types_are_compared_one_by_one(table, few_draws):
    found = joint_evaluation.compare_cell_types(table, ["predicted", "gc", "constant"])
    assert found["predictor"].tolist() == ["predicted", "gc", "constant"] * 2
    for row in found.itertuples():
        own = table[table["cell_type"] == row.cell_type]
        assert row.sequences == len(own) == 30 and row.clusters == 15
        assert row.labels == {"b": "seen", "c": "hidden"}[row.cell_type]
        reliability = 1 - 0.2**2 / 2 / own["activity"].var()
        assert row.ceiling == pytest.approx(np.sqrt(reliability))
        if row.predictor == "constant":
            assert np.isnan([row.pearson, row.spearman, row.pearson_low]).all()
            continue
        for kind, by_scipy in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
            r = by_scipy(own["activity"], own[row.predictor]).statistic
            assert getattr(row, kind) == pytest.approx(r)
            assert getattr(row, f"{kind}_low") < r < getattr(row, f"{kind}_high")


def test_final_numbers_are_means_over_cell_types(table, few_draws):
    third = table[table["cell_type"] == "b"].assign(cell_type="d")
    third["predicted"] = np.random.default_rng(1).permutation(third["predicted"])
    comparison = joint_evaluation.compare_cell_types(pd.concat([table, third]), ["predicted", "constant"])
    found = joint_evaluation.activity_numbers(comparison)
    r = comparison[comparison["predictor"] == "predicted"].set_index("cell_type")
    assert found["pearson/activity"] == pytest.approx(r.loc[["b", "d"], "pearson"].mean())
    assert found["spearman/activity_hidden"] == pytest.approx(r.loc["c", "spearman"])
    assert np.isnan(found["pearson/constant"]) and np.isnan(found["spearman/constant_hidden"])
    assert found["ceiling/activity_hidden"] == pytest.approx(r.loc["c", "ceiling"])
    kinds = ("pearson", "spearman")
    names = {
        f"{kind}/{name}{end}"
        for kind in kinds
        for name in ("activity", "constant")
        for end in ("", "_hidden")
    }
    assert found.keys() == names | {"ceiling/activity", "ceiling/activity_hidden"}
    without = joint_evaluation.activity_numbers(comparison.assign(ceiling=np.nan))
    assert without.keys() == names


def test_coverage_of_the_hidden_cell_type_is_told_apart():
    of_cells = [(0.2, 0.1), (np.nan, np.nan), (0.6, 0.7)]
    cells = np.array([4, 0, 2])
    found = joint_evaluation.coverage_numbers(1.5, of_cells, cells, 2)
    assert found == pytest.approx(
        {
            "coverage/loss": 1.5, "pearson/coverage": 0.4, "pearson/coverage_hidden": 0.6,
            "spearman/coverage": 0.4, "spearman/coverage_hidden": 0.7,
        }
    )  # fmt: skip
    assert "pearson/coverage_hidden" not in joint_evaluation.coverage_numbers(1.5, of_cells, cells, 3)
    assert "pearson/coverage_hidden" not in joint_evaluation.coverage_numbers(1.5, of_cells, cells, None)
    nothing = joint_evaluation.coverage_numbers(1.5, of_cells[1:2], cells[1:2], None)
    assert np.isnan(nothing["pearson/coverage"])


def test_differences_are_paired_by_seed():
    random = np.random.default_rng(0)
    rows = [
        {"setting": setting, "modalities": modalities, "seed": seed, "r": random.normal(), "s": seed / 10}
        for setting in ("x", "y")
        for modalities in ("mpra", "both", "tracks")
        for seed in (3, 1, 2)
    ]
    results = pd.DataFrame(rows)
    results.loc[(results["seed"] == 2) & (results["setting"] == "y"), "r"] = np.nan
    found = joint_evaluation.paired_differences(results, ["r", "absent"], "both", "mpra")
    assert found["setting"].tolist() == ["x", "y"] and set(found["number"]) == {"r"}
    for row in found.to_dict("records"):
        own = results[results["setting"] == row["setting"]].dropna().sort_values("seed")
        both, mpra = (own["r"][own["modalities"] == name].to_numpy() for name in ("both", "mpra"))
        assert row["seeds"] == len(both) == {"x": 3, "y": 2}[row["setting"]]
        difference = both - mpra
        error = difference.std(ddof=1) / np.sqrt(len(both)) * stats.t.ppf(0.975, len(both) - 1)
        expected = [
            both.mean(),
            mpra.mean(),
            difference.mean(),
            difference.mean() - error,
            difference.mean() + error,
        ]
        np.testing.assert_allclose(
            [row[name] for name in ("both", "mpra", "difference", "low", "high")], expected
        )


def test_differences_that_have_no_interval_or_no_pair():
    rows = [
        {"setting": "", "modalities": name, "seed": 1, "r": r} for name, r in (("both", 0.5), ("mpra", 0.3))
    ]
    (alone,) = joint_evaluation.paired_differences(pd.DataFrame(rows), ["r"], "both", "mpra").to_dict(
        "records"
    )
    assert alone["difference"] == pytest.approx(0.2) and np.isnan([alone["low"], alone["high"]]).all()
    assert joint_evaluation.paired_differences(pd.DataFrame(rows[:1]), ["r"], "both", "mpra").empty
    same = pd.DataFrame([{**row, "seed": seed} for row in rows for seed in (1, 2, 3)])
    (same,) = joint_evaluation.paired_differences(same, ["r"], "both", "mpra").to_dict("records")
    assert same["low"] == pytest.approx(0.2) == same["high"]


def test_cell_types_without_labels_to_train_on_count_in_no_mean(data):
    rows = data.mpra.rows("test")
    found = joint_evaluation.activity_table(
        data.mpra, rows, data.mpra.table.activity[rows], None, labelled=[1]
    )
    assert set(found["labels"][found["cell_type"] == "b"]) == {"seen"}
    assert set(found["labels"][found["cell_type"] == "c"]) == {"none"}
    hidden = joint_evaluation.activity_table(data.mpra, rows, data.mpra.table.activity[rows], 2, labelled=[1])
    assert set(hidden["labels"]) == {"seen", "hidden"}
    numbers = joint_evaluation.activity_numbers(joint_evaluation.compare_cell_types(found, ["predicted"]))
    assert numbers["pearson/activity"] == pytest.approx(1)
    assert numbers.keys() == {"pearson/activity", "spearman/activity", "ceiling/activity"}


def test_the_mean_of_cell_types_is_of_hidden_rows_alone(table):
    is_hidden = (table["labels"] == "hidden").to_numpy()
    own = table["activity"][is_hidden].to_numpy()
    mean = joint_evaluation.mean_of_cells({0: own + 1, 3: 3 * own}, is_hidden)
    assert np.isnan(mean[~is_hidden]).all()
    np.testing.assert_allclose(mean[is_hidden], 2 * own + 0.5)
    assert np.isnan(joint_evaluation.mean_of_cells({}, np.zeros(4, bool))).all()
    with_mean = table.assign(mean_of_cells=mean)
    comparison = joint_evaluation.compare_cell_types(with_mean, ["predicted", "mean_of_cells"])
    numbers = joint_evaluation.activity_numbers(comparison)
    assert numbers["pearson/mean_of_cells_hidden"] == pytest.approx(1)
    assert "pearson/mean_of_cells" not in numbers
