"""How sure a change is: estimates with intervals that hold for few repeats, and Holm's correction.

The unit of evidence for a time is the repeat, for what is sampled (acceptance, quality) the sample; more
rows inside one are not more evidence. An interval is change ± t · √(Σ vₖ), where each source of chance
brings a variance vₖ of the mean with its own degrees of freedom, which Welch and Satterthwaite join:

- repeats: s² / n of the repeats' figures in each run, n − 1 (Kalibera & Jones 2013, section 6);
- samples: the bootstrap over samples, repeats held together, times S / (S − 1), S − 1.

Both together are the two levels of a hierarchical bootstrap without its error: resampling n repeats
understates their variance by 1/n and knows nothing of t, so that its 99 % interval covers as little as
88 % of the time with three repeats (docs/statistics.md has the figures).
Sources: Welch 1947; Satterthwaite 1946; Efron & Tibshirani 1993; Holm 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from specbench.report.pairing import Batches, Floats
from specbench.report.stats import median_and_spread

LEVEL = 0.99
"""Of every interval; the chance of one false alarm among all figures that gate is at most 1 - this."""

RESAMPLES, FEWEST_RESAMPLES, MOST_DRAWS = 500, 100, 100_000
"""A standard error needs one to some hundred (Efron & Tibshirani 1993, section 6.4); of many samples it
takes fewer, for time."""


@dataclass(frozen=True)
class Estimate:
    """A change, and how sure it is.

    Attributes:
        change: ln(new / reference), or new - reference.
        sources: (variance of the mean, degrees of freedom) of each source of chance.
        repeats, samples: how many it rests on; of batches, `samples` counts batches.
        spread: interquartile range / median between repeats; NaN for what is sampled.
    """

    change: float
    sources: tuple[tuple[float, float], ...]
    repeats: int
    samples: int
    spread: float = np.nan

    @property
    def error(self) -> float:
        """The standard error; NaN if there is no telling."""
        known = self.sources and all(df > 0 for _, df in self.sources)
        return float(np.sqrt(sum(v for v, _ in self.sources))) if known else np.nan

    @property
    def df(self) -> float:
        """Welch and Satterthwaite's degrees of freedom: (Σ vₖ)² / Σ (vₖ² / dfₖ)."""
        total = sum(v for v, _ in self.sources)
        parts = sum(v * v / df for v, df in self.sources if df > 0)
        return total * total / parts if parts > 0 else np.inf

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Two-sided, of the change; NaN if there is no telling."""
        from scipy.special import stdtrit  # late: it takes longer to import than a comparison

        half = float(stdtrit(self.df, (1 + level) / 2)) * self.error
        return self.change - half, self.change + half

    def p_value(self, floor: float) -> float:
        """Two-sided, that the true change is no larger than the floor, up or down."""
        beyond = abs(self.change) - floor
        if np.isnan(self.error) or np.isnan(beyond):
            return np.nan
        if self.error == 0:
            return 0.0 if beyond > 0 else 1.0
        from scipy.special import stdtr

        return float(min(1.0, 2 * stdtr(self.df, -beyond / self.error)))


def holm(p_values: Sequence[float]) -> Floats:
    """Holm's adjusted p-values: rejecting those up to α keeps the chance of any false one under α.

    In rising order pₖ becomes the largest of (m − j + 1) pⱼ, j ≤ k, at most 1 (Holm 1979). NaN is no
    test: it stays NaN and does not count in m.
    """
    p = np.asarray(p_values, float)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def fewest_samples(tests: int, part: float = 0.0) -> int | None:
    """So many samples it takes before `of_counts` can be certain of any change, even of a total loss.

    All samples change alike then, and t is (S + 1) (1 - part) with S - 1 degrees of freedom.

    Args:
        tests: for how many figures Holm corrects.
        part: of the total loss that is within the floor.

    Returns:
        None if the floor takes (nearly) all of it.
    """
    from scipy.special import stdtr

    counts = np.arange(2.0, 200.0)
    p = 2 * tests * stdtr(counts - 1, -(counts + 1) * (1 - part))
    enough = counts[p <= 1 - LEVEL]
    return int(enough[0]) if len(enough) else None


def of_steps(runs: Sequence[Floats]) -> Estimate | None:
    """From times per step, or their ratios within a run: the median over items, the mean over repeats.

    What an item costs is taken out of two runs first, since it is the same in both and in all repeats; so
    they need no pairing of repeats, and each brings n − 1 degrees of freedom. Where luck makes repeats
    differ, the same in both runs, give the runs' difference as if it were a single run: that pairs the
    repeats, takes the luck out and leaves n − 1 degrees of freedom.

    Args:
        runs: logarithms, (cases, repeats, items) each: the new run and its reference, or a single run
            against zero. Of several cases the mean counts. Items without a figure in some repeat are
            left out.

    Returns:
        None if no item is left.
    """
    runs = _finite(runs)
    if not runs[0].size:
        return None
    if len(runs) > 1:
        own = sum(run.mean(axis=1, keepdims=True) for run in runs) / len(runs)
        runs = [run - own for run in runs]

    def figures(run: Floats, which: NDArray[np.intp]) -> Floats:
        """(repeats, ...), from items of number `which` (..., items)."""
        return np.asarray(np.median(run[:, :, which], axis=-1).mean(axis=0))

    items = runs[0].shape[-1]
    found = [figures(run, np.arange(items)) for run in runs]
    resampled = [figures(run, _resampled(items)).mean(axis=0) for run in runs]
    sources = [*(_of_repeats(part) for part in found), *_of_samples(_minus(resampled), items)]
    spread = max(median_and_spread(np.exp(part))[1] for part in found)
    change = float(_minus([part.mean() for part in found]))
    return Estimate(change, tuple(sources), len(found[0]), items, spread)


def of_rates(cases: Sequence[tuple[Batches, ...]]) -> Estimate | None:
    """From tokens per second of each repeat of one run, all its tokens over all its time.

    Args:
        cases: of which the mean counts: the batches, (repeats, items), and those that they are held
            against, if any.
    """
    tokens = cases[0][0].tokens
    if not tokens.size:
        return None
    items = tokens.shape[1]

    def figures(weights: Floats) -> Floats:
        """(..., repeats), from items weighted by (..., items)."""
        speeds = [_minus([_log_speed(weights, part) for part in case]) for case in cases]
        return np.asarray(np.mean(speeds, axis=0))

    with np.errstate(divide="ignore", invalid="ignore"):
        found = figures(np.ones(items))
        resampled = figures(_weights(items)).mean(axis=-1)
    if not np.isfinite(found).all():
        return None
    sources = [_of_repeats(found), *_of_samples(resampled, items)]
    spread = median_and_spread(np.exp(found))[1]
    return Estimate(float(found.mean()), tuple(sources), len(found), items, spread)


def of_counts(
    new: tuple[Floats, Floats],
    old: tuple[Floats, Floats],
    samples: NDArray[np.uint64],
    repeats: int,
    is_difference: bool,
) -> Estimate | None:
    """From a rate of sums, as τ = Σ tokens / Σ steps: what is sampled, in which the sample is the unit.

    Args:
        new, old: numerator and denominator of each sequence, (sequences,), paired.
        samples: code of each sequence's sample.
        is_difference: new − old; else ln(new / old).

    Returns:
        None if there is no sequence, a denominator is zero or a figure is not known.
    """
    if not len(samples):
        return None
    codes = np.unique(samples, return_inverse=True)[1]
    count = int(codes.max()) + 1
    sums = [np.bincount(codes, part, minlength=count) for part in (*new, *old)]

    def change(weights: Floats) -> Floats:
        top, bottom, old_top, old_bottom = (weights @ part for part in sums)
        rates = top / bottom, old_top / old_bottom
        return rates[0] - rates[1] if is_difference else np.log(rates[0]) - np.log(rates[1])

    with np.errstate(divide="ignore", invalid="ignore"):
        found, resampled = float(change(np.ones(count))), change(_weights(count))
    if not np.isfinite(found):
        return None
    resampled = resampled[np.isfinite(resampled)]
    if all(np.array_equal(a, b) for a, b in zip(new, old, strict=True)):
        return Estimate(0.0, ((0.0, max(count - 1.0, 1.0)),), repeats, count)
    if count < 2:
        return Estimate(found, ((np.nan, 0.0),), repeats, count)
    # Samples that all changed alike leave the bootstrap no variance. No evidence is stronger than that of
    # one more sample, which would not have changed: its standard error is change / (S + 1). Repeats and
    # completions do not make it smaller: they draw again what these samples do, not other samples, and at
    # temperature 0 they do not even do that.
    ((variance, df),) = _of_samples(resampled, count)
    return Estimate(found, ((max(variance, (found / (count + 1)) ** 2), df),), repeats, count)


def unpaired(new: Estimate, old: Estimate) -> Estimate:
    """One change less another where nothing pairs them: their variances add up."""
    repeats, samples = min(new.repeats, old.repeats), min(new.samples, old.samples)
    return Estimate(new.change - old.change, new.sources + old.sources, repeats, samples)


def _finite(runs: Sequence[Floats]) -> list[Floats]:
    fine = np.all([np.isfinite(run).all(axis=(0, 1)) for run in runs], axis=0)
    return [run[:, :, fine] for run in runs]


def _minus(parts: Sequence[Floats]) -> Floats:
    return parts[0] if len(parts) == 1 else parts[0] - parts[1]


def _log_speed(weights: Floats, part: Batches) -> Floats:
    return np.log((weights @ part.tokens.T) / (weights @ part.wall_s.T))


def _of_repeats(figures: Floats) -> tuple[float, float]:
    n = len(figures)
    return (float(figures.var(ddof=1)) / n if n > 1 else np.nan), n - 1.0


def _of_samples(resampled: Floats, items: int) -> list[tuple[float, float]]:
    """One item alone says nothing about others: its evidence is of itself."""
    if items < 2:
        return []
    return [(float(resampled.var()) * items / (items - 1), items - 1.0)]


@lru_cache(maxsize=16)
def _resampled(items: int) -> NDArray[np.intp]:
    """(resamples, items) of numbers of items, the same at each call: a verdict can be had again."""
    count = min(RESAMPLES, max(FEWEST_RESAMPLES, MOST_DRAWS // items))
    return np.random.default_rng(items).integers(0, items, (count, items))


@lru_cache(maxsize=16)
def _weights(items: int) -> Floats:
    """The same resamples as how often each item is in them."""
    which = _resampled(items)
    numbers = which + items * np.arange(len(which))[:, None]
    return np.bincount(numbers.ravel(), minlength=which.size).reshape(-1, items).astype(float)
