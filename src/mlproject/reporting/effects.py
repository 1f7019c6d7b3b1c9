"""What a grid says of its modifications, and how surely: effects of a two-level factorial, paired by seed and by track.

    scores    one row for each variant, seed and track: variant, seed, track, score; where only means over tracks are
              known, one track

An effect is the mean of the runs on one side of a contrast minus that on the other, as Yates has it: of one
modification those with it and without it; of two, those with both or neither and those with one of them.

Shapes: V variants, S seeds, T tracks, E effects.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

MODIFICATIONS = ("komlos", "rope", "rank1")
_CONFIDENCE = 0.95
_PERMUTATIONS = 20_000
_SIGNIFICANT = 0.05
_POWER = 0.8
_DRAWS = 100_000


class Anova(NamedTuple):
    """One-way analysis of variance: do variants differ more than seeds of one variant do?"""

    f: float
    p: float
    between: int
    """Degrees of freedom."""
    within: int


class Detectable(NamedTuple):
    """The smallest true differences that stand in 4 of 5 grids of this size; infinite where none can stand."""

    effect: float
    """Of an effect: half of the runs against the other half."""
    pair: float
    """Of two variants."""
    sd: float
    """Of a run, what variant and seed do not explain."""


def modifications(variant: str) -> frozenset[str] | None:
    """Those of a variant by its name, such as `komlos_rope`; None where the name is not made of them."""
    if variant in ("vanilla", "all"):
        return frozenset(MODIFICATIONS if variant == "all" else ())
    parts = frozenset(variant.split("_"))
    return parts if parts <= set(MODIFICATIONS) else None


def variant_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Of each variant the mean over seeds of the mean over tracks, with a 95% interval of Student's t; best first.

    Returns:
        variant, seeds, mean, sd (of a sample of seeds), low, high; sd, low and high are NaN with one seed.
    """
    of_runs = _run_means(scores)
    rows = []
    for variant, values in of_runs.groupby("variant", sort=False)["score"]:
        count, mean, sd = len(values), values.mean(), values.std()
        half = sd / np.sqrt(count) * stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1) if count > 1 else np.nan
        rows.append((variant, count, mean, sd, mean - half, mean + half))
    table = pd.DataFrame(rows, columns=["variant", "seeds", "mean", "sd", "low", "high"])
    return table.sort_values("mean", ascending=False, ignore_index=True)


def anova(scores: pd.DataFrame) -> Anova | None:
    """Whether variants differ at all, from the means over tracks of runs; None where seeds of no variant differ."""
    groups = [values.to_numpy() for _, values in _run_means(scores).groupby("variant")["score"]]
    within = sum(len(values) - 1 for values in groups)
    if len(groups) < 2 or within < 1:
        return None
    if not any(np.ptp(values) > 0 for values in groups):
        return None
    found = stats.f_oneway(*groups)
    return Anova(float(found.statistic), float(found.pvalue), len(groups) - 1, within)


class Effects(NamedTuple):
    """Effects of modifications and their interactions, and what they are of."""

    table: pd.DataFrame
    """effect, order (1: of one modification), difference, low, high (95%), p, p_adjusted, and whether it stands: where
    the interval leaves 0 out and p_adjusted is below 0.05."""
    seeds: int
    """With all variants, which are compared."""
    tracks: int
    detectable: Detectable | None
    left_out: str
    """What was not used, and why; empty where all was."""


def effects(scores: pd.DataFrame) -> Effects | str:
    """The effect of each modification and each interaction among the variants that were trained.

    Intervals: Student's t on the standard error of a bootstrap over seeds and tracks at once, which draws a seed fewer
    than there are: so the variance of few seeds is not underestimated (Rao and Wu 1988,
    doi:10.1080/01621459.1988.10478591). p: variants are permuted within seeds, which is exact where no modification
    does anything; `p_adjusted` compares with the largest of all effects in each permutation (Westfall and Young 1993),
    so that among all of them a false one is found in 5% of such grids.

    Args:
        scores: as the module says; a NaN makes its track be left out.

    Returns:
        The effects, or why there are none, in one line.
    """
    variants = list(dict.fromkeys(scores["variant"]))
    own: dict[str, frozenset[str]] = {}
    for variant in variants:
        parts = modifications(variant)
        if parts is None:
            return f"{variant!r} is no combination of {', '.join(MODIFICATIONS)}"
        own[variant] = parts
    varied = [one for one in MODIFICATIONS if len({one in parts for parts in own.values()}) > 1]
    fixed = frozenset.intersection(*own.values())
    cells = {
        frozenset(chosen) | fixed
        for size in range(len(varied) + 1)
        for chosen in itertools.combinations(varied, size)
    }
    if not varied:
        return "one variant alone has no effects"
    if missing := cells - set(own.values()):
        return (
            f"effects take all {len(cells)} combinations of {', '.join(varied)}; {len(missing)} are missing"
        )
    wide = scores.pivot_table(index=["variant", "seed"], columns="track", values="score", dropna=False)
    trained = set(zip(scores["variant"], scores["seed"], strict=True))
    complete = [
        seed
        for seed in dict.fromkeys(scores["seed"])
        if all((variant, seed) in trained for variant in variants)
    ]
    if len(complete) < 2:
        return f"effects take two seeds with all variants; found {len(complete)}"
    values = np.stack([wide.loc[[(variant, seed) for seed in complete]].to_numpy() for variant in variants])
    known = np.isfinite(values).all((0, 1))
    if not known.any():
        return "no track has a number in all runs"
    values = values[:, :, known]
    notes = []
    if dropped := scores["seed"].nunique() - len(complete):
        notes.append(f"{dropped} of {dropped + len(complete)} seeds, which lack a variant")
    if not known.all():
        notes.append(f"{int((~known).sum()):,} of {len(known):,} tracks, which are undefined in some run")
    named = [chosen for size in range(1, len(varied) + 1) for chosen in itertools.combinations(varied, size)]
    contrasts = np.array([_contrast(chosen, [own[variant] for variant in variants]) for chosen in named])
    of_seeds = np.einsum("ev,vst->est", contrasts, values)
    difference = of_seeds.mean((1, 2))
    half = standard_errors(of_seeds) * stats.t.ppf((1 + _CONFIDENCE) / 2, len(complete) - 1)
    p, p_adjusted = _permuted(contrasts, values.mean(2), difference)
    table = pd.DataFrame(
        {
            "effect": [" x ".join(chosen) for chosen in named],
            "order": [len(chosen) for chosen in named],
            "difference": difference,
            "low": difference - half,
            "high": difference + half,
            "p": p,
            "p_adjusted": p_adjusted,
        }
    )
    table["stands"] = (np.abs(difference) > half) & (p_adjusted < _SIGNIFICANT)
    return Effects(
        table, len(complete), int(known.sum()), _detectable(values.mean(2), len(named)), " and ".join(notes)
    )


def _run_means(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.groupby(["variant", "seed"], sort=False, as_index=False)["score"].mean().dropna()


def _contrast(chosen: Sequence[str], parts: Sequence[frozenset[str]]) -> np.ndarray:
    """Weights of the variants `[V]`: their positive ones sum to 1, as their negative ones do to -1."""
    signs = np.array([np.prod([1 if one in own else -1 for one in chosen]) for own in parts], np.float64)
    return signs / (len(parts) / 2)


def standard_errors(of_seeds: np.ndarray) -> np.ndarray:
    """Of the mean over seeds and tracks, for each effect of `[E, S, T]`: `[E]`.

    What a bootstrap over seeds and tracks at once gives, one fewer of each drawn than there are, with infinitely many
    draws: weights of a draw are multinomial, so the moments of the weighted mean are known.
    """
    _, seeds, tracks = of_seeds.shape
    same_seed, any_seed = _moments(seeds)
    same_track, any_track = _moments(tracks)
    apart = of_seeds - of_seeds.mean(
        (1, 2), keepdims=True
    )  # weights add up to 1, so this changes nothing else
    return np.sqrt(
        any_seed * same_track * (apart.sum(1) ** 2).sum(1)
        + same_seed * any_track * (apart.sum(2) ** 2).sum(1)
        + same_seed * same_track * (apart**2).sum((1, 2))
    )


def _moments(count: int) -> tuple[float, float]:
    """The mean of the product of two weights of a draw: what is added where they are one's, and of any two."""
    if count == 1:
        return 0.0, 1.0
    return 1 / (count * (count - 1)), (1 - 1 / (count - 1)) / count**2


def _permuted(contrasts: np.ndarray, of_runs: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p of each effect by permutations of variants `[V, S]` within seeds, alone and beside the largest of all."""
    random = np.random.default_rng(0)
    variants, seeds = of_runs.shape
    order = random.random((_PERMUTATIONS, variants, seeds)).argsort(1)
    means = np.take_along_axis(of_runs[np.newaxis], order, 1).mean(2)  # [P, V]
    null = np.abs(means @ contrasts.T)  # [P, E]
    least = np.abs(found) * (1 - 1e-9)  # the grid itself is one of the permutations
    alone = ((null >= least).sum(0) + 1) / (_PERMUTATIONS + 1)
    together = ((null.max(1, keepdims=True) >= least).sum(0) + 1) / (_PERMUTATIONS + 1)
    return alone, together


def _detectable(of_runs: np.ndarray, comparisons: int) -> Detectable | None:
    """From runs `[V, S]`; None where variant and seed explain all.

    An effect stands where it passes the interval, whose error is of seeds alone, and the correction, which is that of a
    t with the error of the whole grid: both errors are drawn, as is how far a run's noise moves the effect.
    """
    variants, seeds = of_runs.shape
    rest = of_runs - of_runs.mean(0) - of_runs.mean(1, keepdims=True) + of_runs.mean()
    freedom = (variants - 1) * (seeds - 1)
    sd = float(np.sqrt((rest**2).sum() / freedom))
    if not sd > 0:
        return None
    # the same split of variants in all seeds, either way round and for any effect, is the rarest permutation there is
    if 2 * comparisons / math.comb(variants, variants // 2) ** seeds >= _SIGNIFICANT:
        return Detectable(np.inf, np.inf, sd)
    random = np.random.default_rng(0)
    own = random.chisquare(seeds - 1, _DRAWS)
    others = random.chisquare(freedom - seeds + 1, _DRAWS) if variants > 2 else 0.0
    interval = stats.t.ppf((1 + _CONFIDENCE) / 2, seeds - 1) * np.sqrt(own / (seeds - 1))
    corrected = stats.t.ppf(1 - _SIGNIFICANT / 2 / comparisons, freedom) * np.sqrt((own + others) / freedom)
    needed = np.maximum(interval, corrected) - random.standard_normal(_DRAWS)
    shift = float(np.quantile(needed, _POWER))  # in standard errors
    return Detectable(shift * sd * 2 / math.sqrt(variants * seeds), shift * sd * math.sqrt(2 / seeds), sd)
