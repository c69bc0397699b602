"""From a recipe to a fitted model: data order, schedule, averaged weights, exact resume.

Everything random is a function of numbers that a checkpoint holds: the order of the data of (seed,
epoch); noise, shifts and mirroring of (seed, step, index in the global batch). So a run that was
killed ends with the weights of one that was not.

    run         a recipe's training from start to end
    build       the model and its optimizers
    batches     which images, in which order
    callbacks   what happens after each step and epoch: averages, log, pictures
    checkpoint  the state of a run, and its files
    folder      whose a run's folder is, what it holds
    stopping    Ctrl-C and SIGTERM
    announce    what a run prints
"""

from tfgen.arrays import load_weights, read_arrays
from tfgen.training.batches import random_mirror, random_shift, train_batches, validation_batches
from tfgen.training.build import build
from tfgen.training.callbacks import AveragedWeights, CSVLog, DrawSamples, KeepWeights
from tfgen.training.checkpoint import Checkpoint, CheckpointFiles, RunState
from tfgen.training.folder import provenance
from tfgen.training.run import train
from tfgen_command.process import tune_allocator

__all__ = [
    "AveragedWeights",
    "CSVLog",
    "Checkpoint",
    "CheckpointFiles",
    "DrawSamples",
    "KeepWeights",
    "RunState",
    "build",
    "load_weights",
    "provenance",
    "random_mirror",
    "random_shift",
    "read_arrays",
    "train",
    "train_batches",
    "tune_allocator",
    "validation_batches",
]
