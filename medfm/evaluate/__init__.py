"""Measuring a model on data with known answers, with baselines and intervals beside every figure."""

from medfm.evaluate.report import evaluate_report
from medfm.evaluate.vqa import evaluate_vqa

__all__ = ["evaluate_report", "evaluate_vqa"]
