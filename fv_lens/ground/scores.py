"""A measured number with its interval: Wilson for proportions, bootstrap over words for everything else.

Bootstrap intervals are Hesterberg's expanded percentiles, wider than plain ones where values are few: plain ones hold
the truth less often than they say.

Source: Hesterberg 2015, What teachers should know about the bootstrap, section 3.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy import stats

from .markup import minus

RESAMPLES = 2000
ENOUGH_GROUPS = 10  # for a bootstrap over groups
ANY, SHARE, GAIN = (-np.inf, np.inf), (0.0, 1.0), (-1.0, 1.0)  # what a mean, a share, a difference of shares can be


@dataclass(frozen=True)
class Score:
    """A number with its 95 % interval and the number of words it was measured on; converts to `float`.

    As text it is "value [low, high]". A format may begin with "+", which gives the value its sign and an end of the
    interval that rounds to 0 the digits to tell its side, and end with a precision, as numbers have it: `.4f` or `.3g`.

    Example:
        >>> score = proportion(np.array([1, 0, 1, 1]))
        >>> float(score), score.n
        (0.75, 4)
        >>> f"{score}", f"{score:+}", f"{score:.3f}"
        ('0.75 [0.30, 0.95]', '+0.75 [0.30, 0.95]', '0.750 [0.301, 0.954]')
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, line: Any) -> "Score":
        """The score in a line of a table, which has the columns `value`, `low`, `high` and `n`."""
        return cls(float(line.value), float(line.low), float(line.high), int(line.n))

    def columns(self, name: str) -> dict[str, float]:
        """The value and the ends of its interval as columns of a table: "name", "name_low" and "name_high"."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return format(self)

    def __format__(self, form: str) -> str:
        return " ".join(self.written(form))

    def written(self, form: str = "") -> tuple[str, str]:
        """The value and the interval as two strings, for a table cell; `form` as described for the class."""
        match = re.fullmatch(r"(\+?)((?:\.\d+[fg])?)", form)
        if match is None:
            raise ValueError(f"the format of a score is {form!r}; give '+', a precision such as '.3f', or both: '+.3f'")
        sign, precision = match[1], match[2] or ".2f"
        low, high = (_end(end, precision) if sign else format(end, precision) for end in (self.low, self.high))
        return format(self.value, sign + precision), f"[{low}, {high}]" if self.known else "(no interval)"

    def _repr_html_(self) -> str:
        return str(Markup("<span>{}</span> <small>n = {}</small>").format(minus(self), self.n))

    @property
    def signed(self) -> str:
        """The score with its sign, as differences are written: "+0.55 [0.46, 0.65]"."""
        return f"{self:+}"

    @property
    def unsigned(self) -> str:
        """The size of a difference, for a sentence whose words give its sign."""
        low, high = sorted((abs(self.low), abs(self.high)))
        return str(Score(abs(self.value), low, high, self.n))

    @property
    def known(self) -> bool:
        """Whether there is an interval: too few values, or values that are all alike, have none."""
        return bool(np.isfinite([self.low, self.high]).all())

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the interval, NaN where there is none, as tables have it."""
        return (self.low, self.high) if self.known else (np.nan, np.nan)

    def differs(self, than: float = 0.0) -> bool:
        """Whether the whole interval lies on one side of `than`; without an interval nothing is shown."""
        return self.known and (self.low > than or self.high < than)


def columns_of(scores: Any) -> dict[str, float]:
    """`Score.columns` of every score among the fields of a dataclass, by the field's name."""
    parts = {part.name: getattr(scores, part.name) for part in fields(scores)}
    return {
        column: x for name, score in parts.items() if score is not None for column, x in score.columns(name).items()
    }


def proportion(right: np.ndarray) -> Score:
    """Share of ones in `right`, `[word]` or `[draw, word]`, with Wilson's interval; draws do not count as words."""
    right = np.atleast_2d(right).astype(float)
    share, n, z = float(right.mean()), right.shape[1], stats.norm.ppf(0.975)
    # scipy's own takes whole counts only, and a mean over draws is not a whole count.
    centre, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
    return Score(share, max(0.0, round(float(low), 12)), min(1.0, round(float(high), 12)), n)


def mean(values: np.ndarray, seed: int = 0) -> Score:
    """Mean of `values`, `[word]` or `[draw, word]`, with a bootstrap interval over words and draws."""
    values = np.atleast_2d(values)
    return _score(values.mean(), _resampled_means(values, seed), values.shape[1])


def clustered_mean(
    values: np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    seed: int = 0,
    within: tuple[float, float] = ANY,
    alike: float = 1e-12,
) -> Score:
    """Mean of `values` `[value]` with an interval over whole groups, as the values of a group are not independent.

    Groups are resampled with replacement. With fewer than ten groups, too few to resample, the interval is Student's
    with the cluster-robust standard error. One group, or groups that are all alike, say nothing about the spread: then
    there is no interval.

    Args:
        groups: the group of each value.
        within: what the mean can be, such as `SHARE`; Student's interval ends there.
        alike: groups are all alike if their means differ by less; more than rounding errors of the values.

    Source: Cameron and Miller 2015, A practitioner's guide to cluster-robust inference.

    Example:
        >>> str(clustered_mean(np.arange(30) % 3 / 2, np.arange(30) // 3))
        '0.50 (no interval)'
    """
    group = np.unique(list(groups), return_inverse=True)[1]
    sizes, sums = np.bincount(group), np.bincount(group, weights=values)
    n, centre = len(sizes), float(np.mean(values))
    if n == 1:
        low, high = -np.inf, np.inf
    elif n < ENOUGH_GROUPS:
        error = np.sqrt(n / (n - 1) * ((sums - sizes * centre) ** 2).sum()) / len(values)
        low, high = np.clip(centre + np.array([-1, 1]) * stats.t.ppf(0.975, n - 1) * error, *within)
    else:
        resamples = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        low, high = np.quantile((resamples @ sums) / (resamples @ sizes), _ends(n))
    if np.ptp(sums / sizes) < alike:
        low, high = -np.inf, np.inf
    return Score(centre, float(low), float(high), len(values))


def paired_difference(values: np.ndarray, control: np.ndarray, seed: int = 0) -> Score:
    """Mean of `values` `[word]` minus that of `control`, `[word]` or `[draw, word]`; words are resampled together."""
    return mean(np.atleast_2d(values) - np.atleast_2d(control), seed)


def gain(right: np.ndarray, control: np.ndarray, seed: int = 0) -> Score:
    """`paired_difference` of ones and zeros: the share of words won minus the share lost.

    For the interval two words are added, one won and one lost, so that it has a width where all words fare alike.

    Source: Bonett and Price 2012, Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data.

    Example:
        >>> gain(np.ones(20), np.ones(20)).differs()
        False
    """
    apart = np.atleast_2d(right).astype(float) - np.atleast_2d(control)
    more = np.concatenate([apart, np.tile([1.0, -1.0], (len(apart), 1))], axis=1)
    return _score(apart.mean(), _resampled_means(more, seed), apart.shape[1])


def interval(values: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap interval of the mean over the first axis: (low, high), each of the shape of one value."""
    if len(values) == 1:  # one value says nothing about its spread
        return np.full(values.shape[1:], -np.inf), np.full(values.shape[1:], np.inf)
    rng, n = np.random.default_rng(seed), len(values)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n  # how often each value is drawn
    means = weights @ values.reshape(n, -1).astype(np.float64)
    low, high = np.quantile(means, _ends(n, level), axis=0)
    return low.reshape(values.shape[1:]), high.reshape(values.shape[1:])


def _resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    rng, (draws, words) = np.random.default_rng(seed), values.shape
    of_draws = rng.multinomial(draws, np.full(draws, 1 / draws), size=RESAMPLES) / draws
    of_words = rng.multinomial(words, np.full(words, 1 / words), size=RESAMPLES) / words
    return np.einsum("rd,dw,rw->r", of_draws, values.astype(np.float64), of_words, optimize=True)


def _score(value: float, resampled: np.ndarray, n: int) -> Score:
    low, high = np.quantile(resampled, _ends(n)) if n > 1 else (-np.inf, np.inf)  # one says nothing of spread
    return Score(float(value), float(low), float(high), n)


def _ends(n: int, level: float = 0.95) -> tuple[float, float]:
    """The quantiles of resampled means of `n` values at which an expanded percentile interval ends."""
    below = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - level) / 2, n - 1))
    return below, 1 - below


def _end(end: float, precision: str) -> str:
    """An end of an interval, with one or two more digits where it would round to 0, which hides on which side it is."""
    shown = format(end, precision)
    if not precision.endswith("f") or end == 0 or float(shown) != 0:
        return shown
    digits = int(precision[1:-1])
    return next((longer for more in (1, 2) if float(longer := f"{end:.{digits + more}f}")), shown)
