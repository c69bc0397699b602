"""Figures of a model, each a function of (model, data name) to named numbers."""

from tfgen.evaluation.entry import METRICS, Figure, evaluate

__all__ = ["METRICS", "Figure", "evaluate"]
