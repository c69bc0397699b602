"""Pictures of models: arrays and PNG files (`grid`, `rows`, `save`), and matplotlib figures.

raster     pictures as uint8 arrays, and writing them whole or not at all
figures    figures of a model, for notebooks and as callbacks of a training
"""

from tfgen.plots.figures import (
    Draw,
    completed,
    completions,
    curves,
    history,
    interpolations,
    manifold,
    neighbours,
    prior_plane,
    reconstructions,
    samples,
    show,
    surprise,
)
from tfgen.plots.raster import captioned, grid, progress, rows, save, save_figure

__all__ = [
    "Draw",
    "captioned",
    "completed",
    "completions",
    "curves",
    "grid",
    "history",
    "interpolations",
    "manifold",
    "neighbours",
    "prior_plane",
    "progress",
    "reconstructions",
    "rows",
    "samples",
    "save",
    "save_figure",
    "show",
    "surprise",
]
