"""Measuring a model: each metric is a function of (model, data name) to results by name."""

from tfgen.evaluation.evaluate import evaluate
from tfgen.evaluation.metrics import METRICS
from tfgen.evaluation.result import Result

__all__ = ["METRICS", "Result", "evaluate"]
