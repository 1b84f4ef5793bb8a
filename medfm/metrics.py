"""How good an answer is, and how sure we may be of the figure: exact match, token F1, intervals, calibration."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Interval",
    "bootstrap_interval",
    "exact_match",
    "expected_calibration_error",
    "normalise_answer",
    "risk_coverage",
    "token_f1",
]

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}
_DECIMAL_POINT = re.compile(r"(?<=\d)\.(?=\d)")
_JOINERS = re.compile(r"[-–—/_,;:]")
_PUNCTUATION = re.compile(r"[^\w\s\N{MIDDLE DOT}]")


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; `n` rows went in. All three numbers are NaN when n is 0."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON, which has no NaN: numbers rounded to 6 places, None where there was nothing to measure."""

        def plain(number: float) -> float | None:
            return None if math.isnan(number) else round(number, 6)

        return {"value": plain(self.value), "low": plain(self.low), "high": plain(self.high), "n": self.n}


def normalise_answer(text: str) -> str:
    """Lower case, no punctuation or articles, number words as digits, single spaces.

    Hyphens, slashes and commas separate words ("T2-weighted" equals "t2 weighted"); a decimal point stays
    ("1.5" is not "15"). An answer that is nothing but an article is kept. Idempotent.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("\N{MIDDLE DOT}", " ")
    text = _DECIMAL_POINT.sub("\N{MIDDLE DOT}", text)
    text = _PUNCTUATION.sub("", _JOINERS.sub(" ", text)).replace("\N{MIDDLE DOT}", ".")
    words = [_NUMBERS.get(word, word) for word in text.split()]
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def exact_match(prediction: str, truth: str) -> float:
    """1.0 where the two are the same after `normalise_answer`, else 0.0."""
    return float(normalise_answer(prediction) == normalise_answer(truth))


def token_f1(prediction: str, truth: str) -> float:
    """Harmonic mean of word precision and recall after `normalise_answer` (SQuAD; Rajpurkar et al. 2016)."""
    found, expected = normalise_answer(prediction).split(), normalise_answer(truth).split()
    if not found or not expected:
        return float(found == expected)
    shared = sum((Counter(found) & Counter(expected)).values())
    return 2 * shared / (len(found) + len(expected))


def bootstrap_interval(
    scores: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of `scores` with a percentile bootstrap interval that resamples whole clusters.

    Questions about one image are not independent, so images are drawn, each with all its questions.
    For a paired comparison pass the differences.

    Raises:
        ValueError: scores and clusters differ in length.
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} scores but {len(clusters)} cluster names; one name per score is needed")
    if len(values) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    members = np.array([index[name] for name in clusters])
    sums = np.bincount(members, weights=values)
    counts = np.bincount(members).astype(np.float64)
    draws = np.random.default_rng(seed).multinomial(len(index), np.full(len(index), 1 / len(index)), size=resamples)
    means = (draws @ sums) / (draws @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def expected_calibration_error(confidence: Sequence[float], correct: Sequence[float], *, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over `bins` equal bins of confidence (L1; Guo et al. 2017).

    Raises:
        ValueError: the lengths differ, nothing was given, or a confidence lies outside 0..1.
    """
    if len(confidence) != len(correct) or len(confidence) == 0:
        raise ValueError(
            f"{len(confidence)} confidences and {len(correct)} outcomes; equal, non-zero numbers are needed"
        )
    if not all(0.0 <= value <= 1.0 for value in confidence):
        raise ValueError("a confidence lies outside 0..1; pass probabilities")
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    # torchmetrics calibrates the probability of the positive class; "the answer is right" is that class here
    return float(
        binary_calibration_error(torch.tensor(confidence), torch.tensor(correct).int(), n_bins=bins, norm="l1")
    )


def risk_coverage(confidence: Sequence[float], correct: Sequence[float]) -> list[dict[str, float]]:
    """The risk-coverage curve (Geifman & El-Yaniv, NeurIPS 2017): for each confidence asked for, what is left.

    Returns, from the lowest threshold to the highest, {threshold, coverage (share kept), risk (share of those wrong)}.
    """
    import torch
    from torchmetrics.functional.classification import binary_precision_recall_curve

    sure = torch.tensor(confidence, dtype=torch.float64)
    # the precision of "this is right" among those at least so sure is one minus the risk
    precision, _, thresholds = binary_precision_recall_curve(sure, torch.tensor(correct).int())
    return [
        {"threshold": float(t), "coverage": float((sure >= t).double().mean()), "risk": 1.0 - float(p)}
        for t, p in zip(thresholds, precision[:-1], strict=True)
    ]
