"""Ctrl-C and SIGTERM, at any moment of a run: it is saved, says how to go on, and does go on."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import runs

from tfgen import plots, training, zoo
from tfgen.recipe import Recipe
from tfgen.training import stopping

RECIPE = Recipe(
    family="AutoEncoder",
    model={"image_shape": [8, 8, 1], "latent_dim": 2, "filters": [4], "num_blocks": 0},
    data="digits",
    batch_size=256,  # 4 steps an epoch
    epochs=3,
    ema_momentum=0.9,
    jit_compile=False,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopping") / "whole"
    return folder, training.train(RECIPE, folder, verbose=0)


def assert_resumes(folder, whole) -> None:
    model = training.train(RECIPE, folder, resume=True, verbose=0)
    for a, b in zip(model.get_weights(), whole[1].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert runs.log_of(folder) == runs.log_of(whole[0])


def at(place, method: str, time_: int, number: int):
    """A patch that sends a signal to this process when `method` is called for the n-th time."""
    original, calls = getattr(place, method), []

    def signalled(*args, **kwargs):
        calls.append(args)
        if len(calls) == time_:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    return place, method, signalled


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("place", "method", "time_", "step"),
    [
        (training.AveragedWeights, "on_train_batch_end", 6, 6),  # inside an epoch
        (training.AveragedWeights, "on_train_batch_end", 8, 8),  # in its last step
        (training.AveragedWeights, "on_test_begin", 1, 4),  # in the first validation
        (plots, "save", 2, 8),  # in a picture
    ],
)
def test_a_signal_saves_the_run(
    whole, tmp_path, monkeypatch, capsys, number, place, method, time_, step
):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(*at(place, method, time_, number))
        error = KeyboardInterrupt if number == signal.SIGINT else SystemExit
        with pytest.raises(error) as stop:
            training.train(RECIPE, folder, verbose=0)
    assert number == signal.SIGINT or stop.value.code == 143
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    said = capsys.readouterr().err
    assert (
        f"saved at step {step}; continue with: tfgen train {folder} --out {folder} --resume" in said
    )
    assert_resumes(folder, whole)


@pytest.mark.slow
def test_a_step_that_takes_long_is_given_up(whole, tmp_path):
    script = f"""
        import sys, time
        from tfgen import training
        from tfgen.recipe import Recipe

        def slow(self, batch, logs=None):
            if self.model.optimizer.iterations == 6:
                print("slow", flush=True)
                time.sleep(100)
            original(self, batch, logs)

        original = training.AveragedWeights.on_train_batch_end
        training.AveragedWeights.on_train_batch_end = slow
        recipe = Recipe.from_dict({RECIPE.to_dict()!r})
        training.train(recipe, sys.argv[1], verbose=0, stop_within=0.5)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), tmp_path / "run"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "slow\n"
    began = time.monotonic()
    run.send_signal(signal.SIGTERM)
    _, error = run.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert run.returncode == 143
    assert "saved at step 4; continue with: tfgen train" in error
    assert_resumes(tmp_path / "run", whole)


class Watched:
    """A `Stop` with its watcher, and what the process would have ended with."""

    def __init__(self, folder: Path):
        self.codes: list[int] = []
        self.exited = threading.Event()
        self.stop = stopping.Stop(folder, within=0.01)
        self.reader, self.writer = socket.socketpair()
        self.watcher = threading.Thread(target=self.stop._watch, args=(self.reader,))
        self.watcher.start()

    def exit(self, code: int) -> None:
        self.codes.append(code)
        self.exited.set()

    def receive(self) -> None:
        self.writer.send(bytes([signal.SIGTERM]))


@pytest.fixture
def watched(tmp_path, monkeypatch):
    watched = Watched(tmp_path)
    monkeypatch.setattr(stopping.os, "_exit", watched.exit)
    yield watched
    watched.writer.close()
    watched.watcher.join(10)
    watched.reader.close()


def test_a_checkpoint_that_is_being_written_is_finished(watched, tmp_path, capsys):
    with watched.stop.writing:
        watched.receive()
        assert not watched.exited.wait(0.3)
        (tmp_path / "checkpoint-000000007.npz").touch()
    assert watched.exited.wait(10)
    assert watched.codes == [143]
    assert capsys.readouterr().err.count("saved at step 7") == 1


@pytest.mark.parametrize("writes", ["the run", "the watcher"])
def test_a_disk_that_hangs_is_not_waited_for(watched, monkeypatch, writes):
    monkeypatch.setattr(stopping, "WRITING", 0.05)
    released = threading.Event()
    if writes == "the watcher":
        watched.stop.pending = lambda: released.wait(60)
    with watched.stop.writing if writes == "the run" else contextlib.nullcontext():
        watched.receive()
        assert watched.exited.wait(10)
    released.set()
    assert watched.codes == [143]


def test_a_run_that_ends_by_itself_meanwhile_is_not_killed(watched):
    with watched.stop.writing:
        watched.receive()
        assert not watched.exited.wait(0.1)
        watched.stop._ended.set()
    watched.watcher.join(10)
    assert not watched.watcher.is_alive()
    assert watched.codes == []


def test_the_watcher_waits_for_every_checkpoint(tmp_path, monkeypatch):
    checkpoint, free = training.Checkpoint(tmp_path, None), []
    checkpoint.set_model(training.build(RECIPE))

    def write(arrays, state):
        take = checkpoint.stop.writing.acquire
        other = threading.Thread(target=lambda: free.append(take(blocking=False)))
        other.start()
        other.join()

    monkeypatch.setattr(checkpoint.files, "write", write)
    checkpoint.save()
    assert free == [False]


def test_a_run_that_has_nothing_to_save_says_so(tmp_path):
    stop = training.stopping.Stop(tmp_path / "my run")
    advice = stop._advice()
    assert "no step to save yet; begin with: tfgen train" in advice
    folder = str(tmp_path / "my run")
    assert shlex.split(advice.splitlines()[0])[-4:] == [folder, "--out", folder, "--resume"]


def test_the_advice_continues_the_run_wherever_it_is_pasted(tmp_path, monkeypatch):
    """Also a run whose folder has the name of an entry, and was typed as that name."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "vae_2d_mnist"
    folder.mkdir()
    (folder / "recipe.json").write_text(RECIPE.to_json())
    advice = training.stopping.Stop(Path(folder.name))._advice()
    recipe, _, out, _ = shlex.split(advice.splitlines()[0])[-4:]
    for place in (tmp_path, folder):
        monkeypatch.chdir(place)
        assert zoo.load_recipe(recipe) == RECIPE
        assert Path(out).resolve() == folder
