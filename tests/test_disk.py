"""Full or read-only disks, and folders that two runs want: a clear error, nothing lost."""

import contextlib
import dataclasses
import errno
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import runs

from tfgen import AutoEncoder, cli, files, presets, training, zoo
from tfgen.files import only_writer, replacing, write_json
from tfgen.recipe import Recipe

IMAGES = np.zeros((1, 8, 8, 1), np.uint8)
RECIPE = Recipe(
    family="AutoEncoder",
    model={
        **runs.TINY,
        "dense_units": 64,
    },
    data="digits",
    batch_size=256,  # 4 steps an epoch
    epochs=3,
    jit_compile=False,
)


@contextlib.contextmanager
def tmpfs(folder, size: str):
    """Mounts a small disk on the folder, or skips."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("this system has no mount")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk") / "whole"
    return training.train(RECIPE, folder, verbose=0), folder


WRITERS = {
    "log.csv": lambda path: training.CSVLog(path).on_epoch_end(0, {"loss": 1.0}),
    "a.npz": lambda path: cli.save_samples(IMAGES, None, path, None, 1),
    "a.keras": lambda path: AutoEncoder(**runs.TINY).save(path),
    "a.weights.h5": lambda path: AutoEncoder(**runs.TINY).save_weights(path),
}


ADDRESSED = {
    "an export": lambda path: AutoEncoder(**runs.TINY).export(path),
    "a preset": lambda path: AutoEncoder(**runs.TINY).save_to_preset(path),
    "another format": lambda path: AutoEncoder(**runs.TINY).export(path, format="litert"),
    "a run": lambda path: training.train(RECIPE, path, verbose=0),
    "images": lambda path: cli.save_samples(IMAGES, None, pathlib.Path(path, "a.npz"), None, 1),
}


@pytest.mark.slow_except("a preset-gs://bucket/model", "another format-gs://bucket", "images-*")
@pytest.mark.parametrize("path", ["gs://bucket/model", "s3:/bucket/model", "gs://bucket"])
@pytest.mark.parametrize("name", ADDRESSED)
def test_an_address_is_not_taken_for_a_folder(name, path, tmp_path, monkeypatch):
    """What is written to a folder called gs: is soon gone, with the machine."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"must be on a disk of this machine; received .*(gs|s3):"):
        ADDRESSED[name](path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_is_cut_off_leaves_what_was_there(name, tmp_path, monkeypatch):
    before = "epoch,loss\n"
    (tmp_path / name).write_text(before)

    def fail(*_):
        raise OSError("cut off")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="cut off"):
        WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_full_disk(whole, tmp_path):
    """The run ends with the system's error; what was written before is whole and goes on."""
    model, reference = whole
    with tmpfs(tmp_path / "disk", "1M") as disk:
        ballast = disk / "ballast"
        newest = sorted(reference.glob("checkpoint-*"))[-1].stat().st_size
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        # Room for one checkpoint, the log and the pictures, and not for two.
        ballast.write_bytes(bytes(free - int(1.9 * newest) - 60_000))
        with pytest.raises(OSError, match="No space left on device"):
            training.train(RECIPE, disk / "run", verbose=0, checkpoint_seconds=0.0)
        assert not list((disk / "run").glob("**/.*.tmp.*"))
        kept = sorted((disk / "run").glob("checkpoint-*"))
        assert kept, "not even the first checkpoint fitted"
        for path in kept:
            training.read_arrays(path)
        ballast.unlink()
        resumed = training.train(RECIPE, disk / "run", resume=True, verbose=0)
        for own, other in zip(resumed.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(own, other)
        assert runs.log_of(disk / "run") == runs.log_of(reference)


@pytest.mark.slow
def test_full_disk_spares_the_old_entry(whole, tmp_path):
    model, _ = whole
    with tmpfs(tmp_path / "disk", "300k") as disk:
        zoo.save(model, disk / "entry")
        size = (disk / "entry" / presets.WEIGHTS).stat().st_size
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        if free > size // 2:
            (disk / "ballast").write_bytes(bytes(free - size // 2))
        with pytest.raises(OSError, match=r"(?i)no space|unable to|can't"):
            zoo.save(model, disk / "entry")
        loaded = zoo.load(disk / "entry")
        for own, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(own, other)


@pytest.mark.slow
def test_saving_needs_no_temporary_folder(whole, tmp_path):
    """A full disk under $TMPDIR: nothing is written there, so nothing can fail or crash there."""
    model, _ = whole
    script = """
        import sys
        import tfgen

        model = tfgen.zoo.load(sys.argv[1])
        model.save_to_preset(sys.argv[2])
        model.save_weights(sys.argv[2] + "/all.weights.h5")
        model.load_weights(sys.argv[2] + "/all.weights.h5")
        model.save_to_preset(sys.argv[2])
        model.save(sys.argv[2] + "/model.keras")
    """
    zoo.save(model, tmp_path / "entry")
    with tmpfs(tmp_path / "temporary", "16k") as full:
        (full / "ballast").write_bytes(bytes(os.statvfs(full).f_bavail * 4096))
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), tmp_path / "entry", tmp_path / "copy"],
            env={**os.environ, "TMPDIR": str(full)},
            check=True,
        )
    loaded = zoo.load(tmp_path / "copy")
    for own, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("file", ["model.weights.h5", "model.keras"])
def test_a_file_of_keras_is_whole_or_not_there(whole, tmp_path, file):
    model, _ = whole
    save = model.save if file.endswith(".keras") else model.save_weights
    with tmpfs(tmp_path / "disk", "64k") as disk:
        with pytest.raises(OSError, match="No space left"):
            save(disk / file)
        assert not list(disk.iterdir())
    save(tmp_path / file)
    size = (tmp_path / file).stat().st_size
    save(tmp_path / file)  # over the first one
    assert (tmp_path / file).stat().st_size == pytest.approx(size, rel=0.01)


@pytest.mark.slow
def test_read_only_folder(tmp_path):
    """Root writes wherever permissions forbid it, so the disk itself is read-only."""
    with tmpfs(tmp_path / "disk", "1M") as disk:
        remount = ["mount", "-o", "remount,ro", str(disk)]
        if subprocess.run(remount, capture_output=True).returncode:
            pytest.skip("the disk cannot be made read-only here")
        with pytest.raises(OSError, match="Read-only file system"):
            training.train(RECIPE, disk / "run", verbose=0)
        (tmp_path / "recipe.json").write_text(RECIPE.to_json())
        command = [sys.executable, "-m", "tfgen_command", "train", tmp_path / "recipe.json"]
        run = subprocess.run(
            [*command, "--out", disk / "run"], capture_output=True, text=True, check=False
        )
        assert run.returncode == 2
        assert "Read-only file system" in run.stderr
        assert "Traceback" not in run.stderr


# Two runs in one folder


@pytest.mark.slow
def test_two_runs_in_one_folder(whole, tmp_path):
    """The second one is told so and leaves the folder as it is; the lock dies with its holder."""
    script = """
        import sys
        from tfgen.files import only_writer

        with only_writer(sys.argv[1]):
            print("held", flush=True)
            sys.stdin.read()
    """
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"not be in use by another process; .* is\."):
            training.train(RECIPE, folder, verbose=0)
        assert not (folder / "recipe.json").exists()
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    model = training.train(RECIPE, folder, verbose=0)
    for own, other in zip(model.get_weights(), whole[0].get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)


def test_the_lock_is_freed(tmp_path):
    for _ in range(2):
        with only_writer(tmp_path / "run"):
            pass
    with pytest.raises(RuntimeError, match="inside"), only_writer(tmp_path / "run"):
        raise RuntimeError("inside")
    with only_writer(tmp_path / "run"):
        pass


# Stopping


@pytest.mark.slow
def test_sigterm_saves_and_ends(whole, tmp_path, monkeypatch):
    def step(self, batch, logs=None):
        if self.state.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, batch, logs)

    before = signal.getsignal(signal.SIGTERM)
    original = training.Checkpoint.on_train_batch_end
    with monkeypatch.context() as patch:
        patch.setattr(training.Checkpoint, "on_train_batch_end", step)
        with pytest.raises(SystemExit) as stop:
            training.train(RECIPE, tmp_path / "run", verbose=0)
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "run" / "checkpoint-000000005.npz").exists()
    resumed = training.train(RECIPE, tmp_path / "run", resume=True, verbose=0)
    for own, other in zip(resumed.get_weights(), whole[0].get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)


# One file


def test_replacing_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise KeyError

    with pytest.raises(KeyError), replacing(path) as temporary:
        fail(temporary)
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_writer_that_interrupts_another_one_leaves_a_whole_file(tmp_path):
    """As a signal does that saves a checkpoint while its epoch's is being written."""
    path = tmp_path / "file.txt"

    def interrupted(temporary):
        with temporary.open("w") as file:
            file.write("half of the outer ")
            file.flush()
            with replacing(path) as inner:
                inner.write_text("inner")
            file.write("rest")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        interrupted(temporary)
    assert path.read_text() == "inner"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_writers_in_two_containers_have_names_of_their_own(tmp_path, monkeypatch):
    """Each is process 1 of its own, and both write one file of a volume that they share."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    temporaries = []
    with contextlib.ExitStack() as stack:
        for content in ("first", "second"):
            spec = importlib.util.spec_from_file_location("container", files.__file__)
            container = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(container)
            temporary = stack.enter_context(container.replacing(tmp_path / "file.txt"))
            temporary.write_text(content)
            temporaries.append(temporary)
        assert sorted(tmp_path.glob(".*.tmp.*")) == sorted(temporaries)
        assert [path.read_text() for path in temporaries] == ["first", "second"]
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


# Checkpoints


@pytest.mark.slow
def test_no_bit_of_a_checkpoint_can_change_unseen(tmp_path, capsys):
    """A flipped bit: the state that was stored, or the checkpoint before; never another state."""
    recipe = dataclasses.replace(
        RECIPE, model={**RECIPE.model, "dense_units": 4}, ema_momentum=0.0, epochs=2
    )
    training.train(recipe, tmp_path, verbose=0)
    newer = max(tmp_path.glob("checkpoint-*"))
    model = training.build(recipe)

    def restored() -> list[bytes]:
        checkpoint = training.Checkpoint(tmp_path, None)
        checkpoint.set_model(model)
        assert checkpoint.restore(model, checkpoint.files.newest())
        return [v.numpy().tobytes() for v in (*model.variables, *model.optimizer.variables)]

    whole = newer.read_bytes()
    states = [restored()]
    newer.unlink()
    states.append(restored())
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, len(whole), 60), *range(80), *range(len(whole) - 60, len(whole))]
    fell_back = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        newer.write_bytes(damaged)
        state = restored()
        assert state in states, f"byte {place} made another state"
        fell_back += state == states[1]
    assert fell_back > len(places) // 2
    assert "cannot be read" in capsys.readouterr().out
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        newer.write_bytes(whole[:length])
        assert restored() == states[1]


@pytest.mark.slow
def test_when_no_checkpoint_can_be_read_the_run_begins_anew(whole, tmp_path, capsys):
    training.train(RECIPE, tmp_path / "run", verbose=0)
    for path in (tmp_path / "run").glob("checkpoint-*"):
        path.write_bytes(b"nothing")
    model = training.train(RECIPE, tmp_path / "run", resume=True, verbose=0)
    assert "no checkpoint in" in capsys.readouterr().out
    for own, other in zip(model.get_weights(), whole[0].get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.slow
def test_a_disk_that_is_away_does_not_begin_a_run_anew(tmp_path, monkeypatch):
    """An error of the system tells nothing about the checkpoints."""
    training.train(RECIPE, tmp_path / "run", verbose=0)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}

    def away(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("tfgen.training.checkpoint.read_arrays", away)
    with pytest.raises(OSError, match="Stale"):
        training.train(RECIPE, tmp_path / "run", resume=True, verbose=0)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}


@pytest.mark.slow
def test_damaged_best_weights_are_refused(tmp_path):
    training.train(RECIPE, tmp_path / "run", verbose=0)
    path = tmp_path / "run" / "best.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"best\.npz holds weights of a run and cannot be read"):
        training.train(RECIPE, tmp_path / "run", resume=True, verbose=0)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_number_that_json_lacks_leaves_the_file_as_it_was(tmp_path, value):
    write_json(tmp_path / "a.json", {"a": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": [value]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
