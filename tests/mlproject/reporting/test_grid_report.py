"""The page of a grid: what it says, and that hostile words stay words."""

import dataclasses
import re
from itertools import product

import numpy as np
import pandas as pd
import pytest

from mlproject import reporting

VARIANTS = ("vanilla", "komlos", "rope", "rank1", "komlos_rope", "komlos_rank1", "rope_rank1", "all")
HOSTILE = "<script>alert(1)</script>"


def grid(variants=VARIANTS, seeds=(1, 2, 3), gain=0.0, **changes):
    random = np.random.default_rng(0)
    rows = [
        (
            variant,
            seed,
            f"track {number}",
            0.5 + gain * ("rope" in variant or variant == "all") + noise,
            category,
        )
        for variant, seed in product(variants, seeds)
        for number, (noise, category) in enumerate(zip(random.normal(0, 0.01, 4), "AABB", strict=True))
    ]
    scores = pd.DataFrame(rows, columns=["variant", "seed", "track", "score", "category"])
    runs = list(product(variants, seeds))
    parts = {
        "title": "a grid",
        "organism": "human",
        "scores": scores,
        "categories": scores.pivot_table(index="variant", columns="category", values="score").reset_index(),
        "curves": pd.DataFrame(
            [
                (v, s, name, step, 1.0 / step)
                for v, s in runs
                for name in ("loss", "validation/pearson")
                for step in (1, 2)
            ],
            columns=["variant", "seed", "series", "step", "value"],
        ),
        "seconds": pd.DataFrame(
            [(v, s, 3.0, 1.0) for v, s in runs], columns=["variant", "seed", "training", "other"]
        ),
        "facts": [("command", "python -m mlproject ablation")],
    }
    return reporting.Grid(**(parts | changes))


def text_of(page):
    """Words of a page outside of its scripts and tags."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_a_true_effect_is_in_the_first_words():
    first, second = reporting.summary(grid(gain=0.2))
    assert (
        first.startswith("Of 8 variants over 3 seeds, ")
        and "; variants differ (one-way ANOVA, F(7, 16) = " in first
    )
    assert second.startswith("Of 7 effects, paired by seed, these stand after correction: rope (+0.2")
    assert second.count("adjusted p") == 1 and "would have been found in 4 of 5 such grids" in second


def test_noise_is_called_noise():
    first, second = reporting.summary(grid())
    assert "no variant is separated from the others" in first
    assert "none stands after correction: the largest is " in second


def test_one_seed_has_no_intervals():
    first, second = reporting.summary(grid(seeds=(1,)))
    assert "interval" not in first and "ANOVA" not in first
    assert (
        second == "Effects of modifications are not known: effects take two seeds with all variants; found 1."
    )


def test_the_page_has_every_part_and_asks_the_network_for_nothing():
    page = reporting.page(reporting.grid_report(grid(gain=0.2)))
    words = text_of(page)
    for heading in ("Leaderboard", "Effects of modifications", "By category", "Variants by category", "Track by track",
                    "Training", "Where time went", "To repeat it"):  # fmt: skip
        assert heading in words
    assert " ".join(reporting.summary(grid(gain=0.2))) in words.replace("&lt;", "<")
    assert "python -m mlproject ablation" in words
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", page)
    assert page.count('id="figure-') == 6


def test_effects_by_category_are_those_of_its_tracks():
    found = grid(gain=0.2).category_effects
    assert found["category"].tolist() == ["A"] * 7 + ["B"] * 7 and set(found["tracks"]) == {2}
    rope = found[found["effect"] == "rope"]
    assert rope["stands"].all() and np.allclose(rope["difference"], 0.2, atol=0.02)


def test_what_is_not_known_is_left_out():
    bare = grid(
        curves=pd.DataFrame(columns=["variant", "seed", "series", "step", "value"]),
        seconds=pd.DataFrame(columns=["variant", "seed"]),
        categories=pd.DataFrame({"variant": VARIANTS}),
    )
    scores = bare.scores.groupby(["variant", "seed"], as_index=False)["score"].mean().assign(track="mean")
    page = reporting.page(reporting.grid_report(dataclasses.replace(bare, scores=scores)))
    words = text_of(page)
    for heading in ("By category", "Variants by category", "Track by track", "Training", "Where time went"):
        assert heading not in words
    assert page.count('id="figure-') == 2


@pytest.mark.parametrize("field", ["title", "variant", "track", "category", "fact"])
def test_hostile_words_are_words(field):
    given = grid(variants=("vanilla", HOSTILE)) if field == "variant" else grid()
    if field in ("track", "category"):
        given = dataclasses.replace(
            given, scores=given.scores.assign(**{field: given.scores[field] + HOSTILE})
        )
        of_category = given.scores.pivot_table(
            index="variant", columns="category", values="score"
        ).reset_index()
        given = dataclasses.replace(given, categories=of_category)
    given = dataclasses.replace(given, title=HOSTILE) if field == "title" else given
    given = dataclasses.replace(given, facts=[(HOSTILE, HOSTILE)]) if field == "fact" else given
    page = reporting.page(reporting.grid_report(given))
    assert HOSTILE not in page
    assert "alert(1)" in page


@pytest.mark.parametrize("lost", [VARIANTS, ("rope",)])
def test_variants_without_any_number_break_nothing(lost):
    """As where a model came to predict the same everywhere: r is not defined then."""
    scores = grid().scores
    scores.loc[scores["variant"].isin(lost), "score"] = np.nan
    runs = pd.DataFrame([(f"{v}-1", v, 1) for v in VARIANTS], columns=["run_id", "variant", "seed"])
    told = reporting.grid_told(grid(scores=scores), runs)
    said = " ".join(told.report.sentences)
    everything = len(lost) == len(VARIANTS)
    assert ("No track has a Pearson r in any run" in said) == everything == (not told.best)
    assert everything or said.startswith("Of 7 variants over 3 seeds")
    page = text_of(reporting.page(told.report))
    assert f"Not listed, as none of their numbers is defined: {', '.join(sorted(lost))}." in page


def test_many_seeds_have_one_entry_in_the_legend():
    for seeds, names in ((3, ["seed 0", "seed 1", "seed 2"]), (20, ["a run"])):
        figure = reporting.leaderboard_plot(grid(("vanilla", "rope"), seeds=range(seeds)))
        shown = [trace.name for trace in figure.data if trace.showlegend is not False]
        assert shown == [*names, "mean, 95% interval"]
        assert sum(len(trace.x) for trace in figure.data) == 2 * seeds + 2
