"""How good an answer or a set of boxes is, and how sure we may be of the figure: intervals, calibration."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "COCO_OVERLAPS",
    "FALSE_PER_SCAN",
    "Interval",
    "at_threshold",
    "average_precision",
    "best_temperature",
    "bootstrap_interval",
    "bootstrap_statistic",
    "dice",
    "exact_match",
    "expected_calibration_error",
    "froc",
    "label_dice",
    "match_boxes",
    "normalise_answer",
    "operating_points",
    "platt",
    "risk_coverage",
    "sorting_figures",
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


def bootstrap_statistic(
    statistic: Callable[[list[int]], Sequence[float]], clusters: Sequence[Hashable], *, counts: Sequence[int],
    resamples: int = 200, level: float = 0.95, seed: int = 0,
) -> list[Interval]:  # fmt: skip
    """Any figures of all rows, each with a percentile bootstrap interval that resamples whole clusters.

    statistic: numbers of rows, some more than once -> the figures; NaN for one that such rows do not have (left out).
    For means `bootstrap_interval` is faster. counts: `n` of each figure, kept as it is.
    """
    rows: dict[Hashable, list[int]] = {}
    for number, name in enumerate(clusters):
        rows.setdefault(name, []).append(number)
    groups = list(rows.values())
    values = statistic(list(range(len(clusters)))) if groups else [math.nan] * len(counts)
    random = np.random.default_rng(seed)
    draws = [
        statistic([i for g in random.integers(len(groups), size=len(groups)) for i in groups[g]])
        for _ in range(resamples if groups else 0)
    ]
    intervals = []
    for column, (value, n) in enumerate(zip(values, counts, strict=True)):
        known = [draw[column] for draw in draws if not math.isnan(draw[column])]
        if math.isnan(value) or not known:
            intervals.append(Interval(value, math.nan, math.nan, n))
            continue
        low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
        intervals.append(Interval(float(value), float(low), float(high), n))
    return intervals


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two boolean masks of one shape (Dice 1945); 0 where both are empty."""
    return float(2 * (found & truth).sum() / max(int(found.sum()) + int(truth.sum()), 1))


def label_dice(found: Tensor, truth: Tensor, classes: int, *, partial: bool = False) -> Tensor:
    """(classes,): Dice of each class of two label maps of one shape, over all their voxels; NaN where it is in neither.

    found, truth: whole numbers, 0 the background, then 1 to `classes`. partial: the truth leaves classes out that are
    there; one that it does not draw has NaN too.
    """
    found, truth = found.long(), truth.long()

    def sizes(labels: Tensor) -> Tensor:
        return labels.flatten().bincount(minlength=classes + 1)[1:].float()

    drawn = sizes(truth)
    scores = 2 * sizes(truth[found == truth]) / (sizes(found) + drawn)
    return scores.masked_fill(drawn == 0, float("nan")) if partial else scores


COCO_OVERLAPS = tuple(0.5 + 0.05 * k for k in range(10))  # IoU 0.5, 0.55, ... 0.95


def match_boxes(
    found: Sequence[tuple[Tensor, Tensor, Tensor]], drawn: Sequence[tuple[Tensor, Tensor]], *, overlaps: Sequence[float]
) -> list[dict[int, dict[str, np.ndarray]]]:
    """Which boxes of each scan hit one that is drawn, class by class, by MONAI (COCO's rule: best first, each once).

    found: boxes (N, 6), scores (N,), labels (N,); drawn: boxes (M, 6), labels (M,). overlaps: IoU from which it counts.
    """
    from monai.apps.detection.metrics.matching import matching_batch
    from monai.data.box_utils import box_iou

    boxes, scores, labels = ([np.asarray(row[k]) for row in found] for k in range(3))
    true, kinds = ([np.asarray(row[k]) for row in drawn] for k in range(2))
    iou: Any = box_iou
    done: list[dict[int, dict[str, np.ndarray]]] = matching_batch(
        iou, list(overlaps), boxes, labels, scores, true, kinds, max_detections=100
    )
    return done


def average_precision(matches: Sequence[dict[int, dict[str, np.ndarray]]], names: Sequence[str]) -> dict[str, Any]:
    """COCO's figures by MONAI, from `match_boxes` at IoU 0.5, 0.55, ..., 0.95: "ap50", "ap" (mean over those), and
    "classes", AP at 0.5 of each class. Classes that nobody drew are in no mean and have NaN."""
    from monai.apps.detection.metrics.coco import COCOMetric

    present = [k for k in range(len(names)) if any(len(row[k]["gtIgnore"]) for row in matches if k in row)]
    if not present:
        return {"ap50": math.nan, "ap": math.nan, "classes": dict.fromkeys(names, math.nan)}
    kept = [{new: row[k] for new, k in enumerate(present) if k in row} for row in matches]
    shown = [f"class{k}" for k in present]
    metric = COCOMetric(shown, iou_list=[0.5], iou_range=(0.5, 0.95, 0.05), max_detection=[100], verbose=False)
    values = metric(kept)[0]
    each = {names[k]: float(values[f"class{k}_AP_IoU_0.50_MaxDet_100"]) for k in present}
    return {
        "ap50": float(values["AP_IoU_0.50_MaxDet_100"]),
        "ap": float(values["mAP_IoU_0.50_0.95_0.05_MaxDet_100"]),
        "classes": {name: each.get(name, math.nan) for name in names},
    }


FALSE_PER_SCAN = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def froc(matches: Sequence[dict[int, dict[str, np.ndarray]]], *, overlap: int = 0) -> tuple[list[float], float]:
    """Sensitivity at 1/8, 1/4, ... 8 false boxes a scan, and their mean, LUNA16's CPM, by MONAI; NaN without a box.

    overlap: which of the overlaps of `match_boxes` counts as a hit.
    """
    from monai.metrics import compute_froc_curve_data, compute_froc_score

    parts = [part for row in matches for part in row.values()]
    targets = sum(len(part["gtIgnore"]) for part in parts)
    if not targets:
        return [math.nan] * len(FALSE_PER_SCAN), math.nan
    scores = np.concatenate([part["dtScores"] for part in parts])
    hits = np.concatenate([part["dtMatches"][overlap] for part in parts]).astype(bool)
    if not hits.any():
        return [0.0] * len(FALSE_PER_SCAN), 0.0
    # the curve leaves out its lowest threshold; a false one below all others stands for it
    wrong = np.concatenate([scores[~hits], [-1.0]])
    false, sensitivity = compute_froc_curve_data(wrong, scores[hits], targets, len(matches))
    each = [float(compute_froc_score(false, sensitivity, (rate,))) for rate in FALSE_PER_SCAN]
    return each, float(np.mean(each))


def at_threshold(
    matches: Sequence[dict[int, dict[str, np.ndarray]]], threshold: float, *, overlap: int = 0
) -> tuple[float, float]:
    """What is right of the boxes whose score is `threshold` or more, precision, and how many of those drawn they hit,
    sensitivity; NaN without a box. overlap: as in `froc`."""
    parts = [part for row in matches for part in row.values()]
    targets = sum(len(part["gtIgnore"]) for part in parts)
    hits = [part["dtMatches"][overlap][part["dtScores"] >= threshold].astype(bool) for part in parts]
    right, shown = sum(int(h.sum()) for h in hits), sum(len(h) for h in hits)
    return right / shown if shown else math.nan, right / targets if targets else math.nan


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


def sorting_figures(probabilities: Tensor, truth: Tensor) -> dict[str, float]:
    """auc (one against the rest, mean of the classes that are there and not everything), balanced_accuracy (mean
    sensitivity of the classes that are there), "auc 0", ... of each class; by torchmetrics.

    probabilities: (N, K); truth: (N,) class numbers. NaN for a class without both sides.
    """
    from torchmetrics.functional.classification import binary_auroc

    chosen, each = probabilities.argmax(1), {}
    for k in range(probabilities.shape[1]):
        own = truth == k
        known = 0 < int(own.sum()) < len(own)
        each[f"auc {k}"] = float(binary_auroc(probabilities[:, k], own.int())) if known else math.nan
    found = [float((chosen[truth == k] == k).float().mean()) for k in truth.unique().tolist()]
    known_aucs = [v for v in each.values() if not math.isnan(v)]
    return {
        "auc": float(np.mean(known_aucs)) if known_aucs else math.nan,
        "balanced_accuracy": float(np.mean(found)),
        **each,
    }


def best_temperature(logits: Tensor, truth: Tensor) -> float:
    """What (N, K) logits have to be divided by for the least cross-entropy (Guo et al., ICML 2017)."""
    import torch
    import torch.nn.functional as F

    tried = torch.logspace(-1, 1, 201)
    losses = [float(F.cross_entropy(logits / t, truth)) for t in tried]
    return round(float(tried[int(np.argmin(losses))]), 4)


def platt(inputs: Tensor, right: Tensor, *, ridge: float = 0.02) -> list[float]:
    """Weights of (N, 3) inputs, the last of which is 1, that make them the logit of `right` (N,), with Platt's targets
    (Platt 1999). `ridge` holds the first two at 1 and 0, so that few cases are not believed too far."""
    import torch
    import torch.nn.functional as F

    yes, no = float(right.sum()), float((1 - right).sum())
    target = torch.where(right > 0, (yes + 1) / (yes + 2), 1 / (no + 2))
    start = torch.tensor([1.0, 0.0, 0.0])
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(inputs @ weights, target)
        loss = loss + ridge * (weights - start)[:2].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return [round(w, 4) for w in weights.tolist()]


def operating_points(scores: Tensor, present: Tensor, *, sensitivity: float, specificity: float) -> dict[str, float]:
    """Two thresholds on (N,) scores: "sensitive", the highest that keeps `sensitivity`, and "specific", the lowest that
    keeps `specificity` (Gulshan et al., JAMA 2016); nothing where one side is missing. By torchmetrics."""
    from torchmetrics.functional.classification import (
        binary_sensitivity_at_specificity,
        binary_specificity_at_sensitivity,
    )

    if not 0 < int(present.sum()) < len(present):
        return {}
    truth = present.int()
    sensitive = float(binary_specificity_at_sensitivity(scores, truth, min_sensitivity=sensitivity)[1])
    specific = float(binary_sensitivity_at_specificity(scores, truth, min_specificity=specificity)[1])
    return {"sensitive": sensitive, "specific": specific}


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
