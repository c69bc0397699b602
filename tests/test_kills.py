"""Runs that are killed with SIGKILL at random moments end like an uninterrupted one, to the bit.

Two kills per family here; `pytest -m nightly tests/test_kills.py` kills each family 20 times and
prints where the kills struck. Every step writes a checkpoint, and every other kill waits until a
file is being written.
"""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import runs
from conftest import CONFIGURATIONS, image_shape

from tfgen import families
from tfgen.recipe import Recipe

STEPS_PER_EPOCH = 4
EPOCHS = 3

# A process that has imported everything, and forks a child for each run: most of a run's start is
# imports. The child tells of each step that it has finished, and dawdles in the middle of writing a
# checkpoint and before it renames it, so that a kill can strike there.
NURSERY = """
    import io, json, os, sys, time
    import numpy as np
    import tensorflow as tf
    from tfgen import training
    from tfgen.recipe import Recipe

    def run(recipe, folder, resume):
        def told(self, batch, logs=None):
            original(self, batch, logs)
            os.write(1, b"step\\n")

        def savez(path, **arrays):
            content = io.BytesIO()
            save(content, **arrays)
            half = content.tell() // 2
            with open(path, "wb") as file:
                file.write(content.getvalue()[:half])
                file.flush()
                time.sleep(0.02)
                file.write(content.getvalue()[half:])
            time.sleep(0.02)

        save, np.savez = np.savez, savez
        original = training.Checkpoint.on_train_batch_end
        training.Checkpoint.on_train_batch_end = told
        tf.config.threading.set_inter_op_parallelism_threads(2)
        training.train(
            Recipe.from_dict(recipe), folder, resume=resume, verbose=0, checkpoint_seconds=0.0
        )

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                run(**json.loads(line))
                os.write(1, b"end\\n")
            except BaseException as error:
                os.write(1, f"{error!r}\\n".encode())
            os._exit(0)
        os.write(1, f"{child}\\n".encode())
        os.waitpid(child, 0)
        os.write(1, b"gone\\n")
"""


class Nursery:
    """Starts runs and kills them."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(NURSERY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )

    def run(
        self,
        recipe: Recipe,
        folder: Path,
        resume: bool,
        kill_after: float | None = None,
        while_writing: bool = False,
    ) -> tuple[bool, float]:
        """Returns whether the run was killed and the seconds from its first step to its end.

        Args:
            recipe, folder, resume: As for `training.train`.
            kill_after: Seconds after its first step until it is killed; None lets it live.
            while_writing: Wait longer, until a file is half-written or not yet renamed.
        """
        values = {"recipe": recipe.to_dict(), "folder": str(folder), "resume": resume}
        print(json.dumps(values), file=self._process.stdin, flush=True)
        child = int(self._line())
        word = self._line()
        began = time.monotonic()
        if kill_after is not None and word == "step":
            time.sleep(kill_after)
            deadline = time.monotonic() + 10
            while while_writing and not unfinished(folder) and time.monotonic() < deadline:
                time.sleep(0.001)
            os.kill(child, signal.SIGKILL)
        while word == "step":
            word = self._line()
        seconds = time.monotonic() - began
        if word != "gone":
            assert word == "end", word
            assert self._line() == "gone"
        return word == "gone", seconds

    def _line(self) -> str:
        line = self._process.stdout.readline()
        assert line, f"the nursery ended with {self._process.wait()}"
        return line.strip()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def unfinished(folder: Path) -> list[Path]:
    """Files that are being written, or were when their writer was killed."""
    return [*folder.rglob(".*.tmp.*")]


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """Few enough images for a short epoch."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for shape in {image_shape(a) for f in CONFIGURATIONS.values() for a in f.values()}:
        np.savez(
            folder / f"{shape}.npz",
            images=rng.integers(0, 256, (100, *shape), np.uint8),
            labels=np.arange(100) % 2,
        )
    return folder


def recipe_for(family: str, name: str, data: Path) -> Recipe:
    """A recipe in which all that has a state is on."""
    arguments = dict(CONFIGURATIONS[family][name])
    patience = 2 if "loss" in families.find(family).loss_names else None
    return Recipe(
        family=family,
        model=arguments,
        data=str(data / f"{tuple(image_shape(arguments))}.npz"),
        batch_size=16,  # of 64 images
        epochs=EPOCHS,
        learning_rate=0.01,
        warmup_steps=3,
        clip_norm=50.0,
        ema_momentum=0.9,
        max_shift=1,
        mirror=True,
        patience=patience,
        jit_compile=False,
        seed=3,
    )


def end_of(folder: Path) -> dict:
    """Everything that a run ends with, but for the time it took."""
    newest = sorted(folder.glob("checkpoint-*.npz"))[-1]
    with np.load(newest) as arrays:
        found = {name: arrays[name].tobytes() for name in arrays.files if name != "state"}
        state = json.loads(bytes(arrays["state"]))
    found |= {"state": {**state, "seconds": 0}, "log": runs.log_of(folder)}
    if (folder / "best.npz").exists():
        with np.load(folder / "best.npz") as arrays:
            found |= {f"best {name}": arrays[name].tobytes() for name in arrays.files}
    found |= {path.name: path.read_bytes() for path in (folder / "samples").iterdir()}
    return found


def assert_survives(nursery: Nursery, recipe: Recipe, folder: Path, kills: int) -> dict:
    """Kills a run `kills` times and compares its end with an uninterrupted one's."""
    killed, seconds = nursery.run(recipe, folder / "whole", resume=False)
    assert not killed
    chance = random.Random(7)
    struck = {"kills": 0, "lives": 0, "while writing": 0, "inside an epoch": 0}
    run = folder / "killed"
    while struck["kills"] < kills:
        lasts = chance.uniform(0, 2 * seconds / (kills + 1))
        killed, _ = nursery.run(
            recipe,
            run,
            resume=run.exists(),
            kill_after=lasts,
            while_writing=struck["lives"] % 2 == 0,
        )
        struck["lives"] += 1
        struck["kills"] += killed
        struck["while writing"] += bool(unfinished(run))
        newest = sorted(run.glob("checkpoint-*.npz"))
        if newest:
            struck["inside an epoch"] += int(newest[-1].stem[-9:]) % STEPS_PER_EPOCH > 0
        if not killed:  # it reached its end; kill another one on the way there
            run = folder / f"killed_{struck['lives']}"
    killed, _ = nursery.run(recipe, run, resume=True)
    assert not killed
    expected, found = end_of(folder / "whole"), end_of(run)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name
    assert not unfinished(run), "a temporary file stayed behind"
    assert kills < 3 or struck["while writing"], f"no kill was in the middle of a file: {struck}"
    return struck


@pytest.mark.slow
def test_killed_twice(first_case, nursery, digits, tmp_path):
    recipe = recipe_for(first_case.family, first_case.name, digits)
    assert_survives(nursery, recipe, tmp_path, kills=2)


@pytest.mark.nightly
def test_killed_twenty_times(first_case, nursery, digits, tmp_path, capsys):
    """More epochs, so that each kill finds something to interrupt."""
    recipe = recipe_for(first_case.family, first_case.name, digits)
    recipe = dataclasses.replace(recipe, epochs=10 * EPOCHS, patience=None)
    struck = assert_survives(nursery, recipe, tmp_path, kills=20)
    with capsys.disabled():
        print(f"\n{first_case.family}: {struck}, the end bit-equal to that of a run without kills")
