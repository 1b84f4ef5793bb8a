"""Records of reported pictures to figures with intervals: facts, sides, inventions, words, calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from medfm.errors import MedfmError
from medfm.metrics import bootstrap_interval, expected_calibration_error, risk_coverage

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["check_libraries", "report_table", "score_reports"]

Record = dict[str, Any]
Ratio = Callable[[dict[str, int]], tuple[float, float]]  # counts of one report -> numerator, denominator

_F1: Ratio = lambda c: (2 * c["right"], 2 * c["right"] + c["wrong"] + c["missed"])  # noqa: E731
_PRECISION: Ratio = lambda c: (c["right"], c["right"] + c["wrong"])  # noqa: E731
_RECALL: Ratio = lambda c: (c["right"], c["right"] + c["missed"])  # noqa: E731
_SIDES: Ratio = lambda c: (c["off"], c["sided"])  # noqa: E731


def check_libraries() -> None:
    """Raise MedfmError where a library that compares words is missing: before an hour of work, not behind it."""
    missing = [name for name in ("nltk", "rouge_score", "sacrebleu") if find_spec(name) is None]
    if missing:
        raise MedfmError(f"found no {', '.join(missing)}, which compare words of reports; pip install 'medfm[measure]'")


def score_reports(records: Sequence[Record], *, resamples: int, seed: int) -> dict[str, Any]:
    """The figures of metrics.json; facts are pooled over reports, intervals resample pictures."""

    def ratio(of: Ratio, name: str = "text") -> dict[str, Any]:
        values, images = [], []
        for record in records:  # a pooled ratio is the mean of its units, so the intervals of means serve
            top, bottom = of(record[f"{name}_count"])
            values += [1.0] * int(top) + [0.0] * int(bottom - top)
            images += [record["image"]] * int(bottom)
        return bootstrap_interval(values, images, resamples=resamples, seed=seed).as_dict()

    def mean(values: Sequence[float]) -> dict[str, Any]:
        images = [record["image"] for record in records]
        return bootstrap_interval(values, images, resamples=resamples, seed=seed).as_dict()

    return {
        "format": "medfm.report-metrics",
        "version": 1,
        "facts_f1": ratio(_F1),
        "facts_precision": ratio(_PRECISION),
        "facts_recall": ratio(_RECALL),
        "side_errors": ratio(_SIDES),
        "invented": mean([r["text_count"]["invented"] for r in records]),
        "blank_image": ratio(_F1, "blank"),
        "other_image": ratio(_F1, "other"),
        "most_frequent": ratio(_F1, "most_frequent"),
        **{name: mean(values) for name, values in _words(records).items()},
        "sentences": _sentences(records),
        "calibration": _calibration(records),
        "by": {"modality": _by_modality(records, resamples=resamples, seed=seed)},
        "unreadable": {r["image"]: r["error"] for r in records if r["error"] is not None},
        "bootstrap": {"resamples": resamples, "seed": seed, "level": 0.95, "cluster": "image"},
    }


def _words(records: Sequence[Record]) -> dict[str, list[float]]:
    """BLEU-4 of each report (sacrebleu), ROUGE-L F1 (rouge-score), METEOR by exact and stem matches (nltk; its
    synonyms need WordNet, which a closed network does not have)."""
    from nltk.translate.meteor_score import single_meteor_score
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    bleu, rouge = BLEU(effective_order=True), RougeScorer(["rougeL"])
    pairs = [(record["text"], record["reference"]) for record in records]
    return {
        "bleu4": [bleu.sentence_score(text, [true]).score / 100 for text, true in pairs],
        "rouge_l": [rouge.score(true, text)["rougeL"].fmeasure for text, true in pairs],
        "meteor": [
            float(single_meteor_score(true.lower().split(), text.lower().split(), wordnet=_NoSynonyms()))
            for text, true in pairs
        ],
    }


class _NoSynonyms:
    """Stands in for WordNet in nltk's METEOR."""

    def synsets(self, word: str) -> list[Any]:
        return []


def _sentences(records: Sequence[Record]) -> dict[str, Any]:
    said = [s for r in records for s in r["sentences"]]
    kept = [s for s in said if not s["abstained"]]
    return {
        "n": len(said),
        "abstained": sum(s["abstained"] for s in said),
        "with_evidence": sum(s["evidence"] > 0 for s in kept),
        "decided": sum(s["verdict"] != "unknown" for s in kept),
        "right": sum(s["verdict"] == "right" for s in kept),
    }


def _calibration(records: Sequence[Record]) -> dict[str, Any]:
    """Of sentences, declined ones among them, that the truth decides and that carry a confidence."""
    said = [
        s for r in records for s in r["sentences"] if s["verdict"] != "unknown" and s["confidence"] is not None
    ]  # fmt: skip
    if not said:
        return {"ece": None, "n": 0}
    confidence = [min(1.0, s["confidence"]) for s in said]
    right = [float(s["verdict"] == "right") for s in said]
    curve = risk_coverage(confidence, right)
    tenths = [min(curve, key=lambda point: abs(point["coverage"] - share / 10)) for share in range(10, 0, -1)]
    return {
        "ece": round(expected_calibration_error(confidence, right), 6),
        "mean_confidence": round(sum(confidence) / len(said), 6),
        "bins": 15,
        "n": len(said),
        "risk_coverage": [{key: round(value, 4) for key, value in point.items()} for point in tenths],
    }


def _by_modality(records: Sequence[Record], *, resamples: int, seed: int) -> dict[str, Any]:
    groups = {}
    for modality in sorted({r["kind"][0] for r in records}):
        values, images = [], []
        for record in (r for r in records if r["kind"][0] == modality):
            top, bottom = _F1(record["text_count"])
            values += [1.0] * int(top) + [0.0] * int(bottom - top)
            images += [record["image"]] * int(bottom)
        groups[modality] = bootstrap_interval(values, images, resamples=resamples, seed=seed).as_dict()
    return groups


def report_table(metrics: dict[str, Any]) -> Table:
    """The figures as a table for a terminal."""
    from rich.table import Table

    shown = Table(title=f"{metrics['model']['name']} on {metrics['data']['file']}", title_justify="left")
    for heading, justify in (("", "left"), ("value", "right"), ("95 % interval", "right"), ("n", "right")):
        shown.add_column(heading, justify=justify)  # type: ignore[arg-type]
    lines = {
        "facts F1": "facts_f1", "  precision": "facts_precision", "  recall": "facts_recall",
        "  same model, blank image": "blank_image", "  another picture's report": "other_image",
        "  most frequent report": "most_frequent", "sides wrong, of those told": "side_errors",
        "invented findings a report": "invented", "BLEU-4": "bleu4", "ROUGE-L": "rouge_l", "METEOR": "meteor",
    }  # fmt: skip
    figures = {name: metrics[key] for name, key in lines.items()}
    figures |= {f"facts F1, {name}": figure for name, figure in metrics["by"]["modality"].items()}
    for name, figure in figures.items():
        if figure["n"]:
            interval = f"{figure['low']:.3f} to {figure['high']:.3f}"
            shown.add_row(name, f"{figure['value']:.3f}", interval, str(figure["n"]))
    if metrics["calibration"]["n"]:
        shown.add_row(
            "calibration error (ECE)", f"{metrics['calibration']['ece']:.3f}", "", str(metrics["calibration"]["n"])
        )
    return shown
