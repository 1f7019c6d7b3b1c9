"""Effects of a factorial against least squares, the paired t test, simulations, and the published grid."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mlproject.data.results import read_results
from mlproject.reporting import effects

PUBLISHED = Path(__file__).parents[4] / "shared" / "reference" / "ecozoi_results"
VARIANTS = ("vanilla", "komlos", "rope", "rank1", "komlos_rope", "komlos_rank1", "rope_rank1", "all")


def grid(seeds=3, tracks=1, true=None, noise=1.0, seed=0, of_track=0.0):
    """Made-up scores: true effects by name of a variant, noise of runs, and of tracks within a run."""
    random = np.random.default_rng(seed)
    rows = []
    for variant, number in itertools.product(VARIANTS, range(seeds)):
        run = (true or {}).get(variant, 0.0) + noise * random.standard_normal()
        for track in range(tracks):
            score = run + of_track * random.standard_normal()
            rows.append((variant, number, f"t{track}", score))
    return pd.DataFrame(rows, columns=["variant", "seed", "track", "score"])


def test_effects_are_those_of_least_squares():
    scores = grid(seeds=4, tracks=5, of_track=0.5)
    found = effects.effects(scores)
    signs = {one: np.array([1 if one in effects.modifications(v) else -1 for v in scores["variant"]])
             for one in effects.MODIFICATIONS}  # fmt: skip
    names = found.table["effect"].tolist()
    columns = [np.prod([signs[one] for one in name.split(" x ")], axis=0) for name in names]
    design = np.column_stack([np.ones(len(scores)), *columns])
    fitted, *_ = np.linalg.lstsq(design, scores["score"].to_numpy(), rcond=None)
    np.testing.assert_allclose(found.table["difference"], 2 * fitted[1:], atol=1e-12)
    assert (
        names[:4] == ["komlos", "rope", "rank1", "komlos x rope"] and found.table["order"].tolist()[-1] == 3
    )
    assert (found.seeds, found.tracks, found.left_out) == (4, 5, "")


def test_an_interval_without_tracks_is_that_of_the_paired_t_test():
    """To the Monte Carlo error of 2,000 resamples, some 3%."""
    scores = grid(seeds=5)
    table = effects.effects(scores).table
    wide = scores.pivot(index="seed", columns="variant", values="score")
    has = [v for v in VARIANTS if "rope" in effects.modifications(v)]
    of_seeds = wide[has].mean(axis=1) - wide.drop(columns=has).mean(axis=1)
    low, high = stats.ttest_1samp(of_seeds, 0).confidence_interval()
    row = table.set_index("effect").loc["rope"]
    assert row["high"] - row["low"] == pytest.approx(high - low, rel=0.06)
    assert row["difference"] == pytest.approx((low + high) / 2)


def test_a_true_effect_stands_and_only_that():
    true = {variant: 5.0 for variant in VARIANTS if "rank1" in effects.modifications(variant)}
    table = effects.effects(grid(seeds=4, true=true)).table.set_index("effect")
    assert table.index[table["stands"]].tolist() == ["rank1"]
    assert table.loc["rank1", "p_adjusted"] < 0.001 and (table["p_adjusted"] >= table["p"]).all()


@pytest.mark.slow
def test_a_false_effect_is_rare():
    """Of grids without any effect, 5% have one with an adjusted p below 0.05."""
    least = np.array(
        [effects.effects(grid(seeds=3, seed=seed)).table["p_adjusted"].min() for seed in range(200)]
    )
    for level in (0.05, 0.2, 0.5):
        assert stats.binomtest(int((least < level).sum()), len(least), level).pvalue > 0.001


def test_what_can_be_found_is_told_in_units_of_the_noise():
    scores = grid(seeds=3)
    found = effects.effects(scores).detectable
    assert found.pair == pytest.approx(found.effect * 2)
    rest = scores["score"] - scores.groupby("variant")["score"].transform("mean")
    rest -= scores.groupby("seed")["score"].transform("mean") - scores["score"].mean()
    assert found.sd == pytest.approx(np.sqrt((rest**2).sum() / 14))
    assert effects.effects(scores.assign(score=10 * scores["score"])).detectable.effect == pytest.approx(
        10 * found.effect
    )


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_what_can_be_found_is_found_in_four_of_five(seeds):
    """Of grids with an effect of that size, in 4 of 5 it stands."""
    found = effects.effects(grid(seeds=seeds)).detectable
    size = found.effect / found.sd
    true = {variant: size for variant in VARIANTS if "rank1" in effects.modifications(variant)}
    stands = [
        effects.effects(grid(seeds=seeds, true=true, seed=seed))
        .table.set_index("effect")
        .loc["rank1", "stands"]
        for seed in range(200)
    ]
    assert stats.binomtest(int(np.sum(stands)), len(stands), 0.8).pvalue > 0.001


@pytest.mark.parametrize(
    ("variants", "most"), [(VARIANTS[:2], 5), (("vanilla", "komlos", "rope", "komlos_rope"), 2)]
)
def test_of_too_few_runs_nothing_is_said_to_be_findable(variants, most):
    """Permutations are then so few that even an effect without any noise does not stand."""
    for seeds, possible in ((most, False), (most + 1, True)):
        scores = grid(seeds=seeds, noise=1e-3, true={"komlos": 1.0, "komlos_rope": 1.0})
        found = effects.effects(scores[scores["variant"].isin(variants)])
        assert np.isfinite(found.detectable.effect) == possible
        assert found.table.set_index("effect").loc["komlos", "stands"] == possible


def test_what_is_not_complete_is_left_out_and_said():
    scores = grid(seeds=4, tracks=3, of_track=0.1)
    part = scores[~((scores["variant"] == "all") & (scores["seed"] == 1))].copy()
    part.loc[(part["track"] == "t2") & (part["seed"] == 0), "score"] = np.nan
    found = effects.effects(part)
    assert (found.seeds, found.tracks) == (3, 2)
    assert (
        found.left_out
        == "1 of 4 seeds, which lack a variant and 1 of 3 tracks, which are undefined in some run"
    )
    same = effects.effects(scores[(scores["seed"] != 1) & (scores["track"] != "t2")])
    pd.testing.assert_frame_equal(found.table, same.table)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (lambda s: s[s["variant"] == "rope"], "one variant alone has no effects"),
        (
            lambda s: s[s["variant"] != "all"],
            "effects take all 8 combinations of komlos, rope, rank1; 1 are missing",
        ),
        (lambda s: s[s["seed"] == 0], "effects take two seeds with all variants; found 1"),
        (
            lambda s: s.replace({"variant": {"rope": "<b>x"}}),
            "'<b>x' is no combination of komlos, rope, rank1",
        ),
        (lambda s: s.assign(score=np.nan), "no track has a number in all runs"),
    ],
)
def test_why_there_are_no_effects(chosen, said):
    assert effects.effects(chosen(grid())) == said


def test_a_part_of_the_modifications_is_a_factorial_too():
    scores = grid()
    two = scores[scores["variant"].isin(["komlos", "all", "komlos_rope", "komlos_rank1"])]
    assert effects.effects(two).table["effect"].tolist() == ["rope", "rank1", "rope x rank1"]


def test_means_have_intervals_of_student():
    scores = grid(seeds=3)
    table = effects.variant_means(scores)
    assert table["mean"].is_monotonic_decreasing and len(table) == 8
    for row in table.itertuples():
        own = scores[scores["variant"] == row.variant]["score"]
        low, high = stats.ttest_1samp(own, 0).confidence_interval()
        np.testing.assert_allclose([row.mean, row.low, row.high], [own.mean(), low, high])
    one = effects.variant_means(scores[scores["seed"] == 0])
    assert one["low"].isna().all() and (one["seeds"] == 1).all()


def test_analysis_of_variance():
    scores = grid(seeds=3)
    expected = stats.f_oneway(*(own["score"] for _, own in scores.groupby("variant")))
    assert effects.anova(scores) == pytest.approx((expected.statistic, expected.pvalue, 7, 16))
    assert effects.anova(scores[scores["seed"] == 0]) is None
    assert effects.anova(scores[scores["variant"] == "all"]) is None


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs ../shared/reference/ecozoi_results")
def test_the_published_grid_separates_no_variant():
    found = read_results(PUBLISHED)
    scores = found.runs.assign(track="mean")
    average = pd.read_csv(PUBLISHED / "experiment_results_human_avg.csv").set_index("experiment")
    means = effects.variant_means(scores).set_index("variant")["mean"]
    for name, mean in average["pearson_human_mean"].items():
        assert means[name] == pytest.approx(mean, rel=1e-14)
    anova = effects.anova(scores)
    assert (round(anova.f, 2), round(anova.p, 2)) == (0.76, 0.63)
    assert not effects.effects(scores).table["stands"].any()
    expected = pd.read_csv(PUBLISHED / "experiment_results_human_categories.csv")
    assert found.categories["variant"].tolist() == expected["experiment"].tolist()
    np.testing.assert_array_equal(found.categories["DNASE"], expected["DNASE_mean"])


@pytest.mark.parametrize(("seeds", "tracks"), [(3, 1), (3, 20), (2, 7), (5, 50)])
def test_standard_errors_are_those_of_many_draws(seeds, tracks):
    random = np.random.default_rng(1)
    shares = [(4, seeds, tracks), (4, seeds, 1), (4, 1, tracks)]
    values = 3 + sum(random.normal(size=shape) for shape in shares)
    of_seed = random.multinomial(seeds - 1, np.full(seeds, 1 / seeds), 20_000) / (seeds - 1)
    of_track = np.ones((20_000, 1))
    if tracks > 1:
        of_track = random.multinomial(tracks - 1, np.full(tracks, 1 / tracks), 20_000) / (tracks - 1)
    drawn = np.einsum("bs,est,bt->eb", of_seed, values, of_track, optimize=True).std(1, ddof=1)
    np.testing.assert_allclose(
        effects.standard_errors(values), drawn, rtol=0.03
    )  # of 20,000 draws: 0.5%, six times
    np.testing.assert_allclose(
        effects.standard_errors(values + 1e6), effects.standard_errors(values), rtol=1e-6
    )
