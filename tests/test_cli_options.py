"""Every option of a command reaches what it is for, and what it prints fits a pipe."""

import csv
import dataclasses
import inspect
import io
import json
import re
import shutil
import sys
import types

import keras
import numpy as np
import pytest
from PIL import Image
from test_cli import RECIPE, run

import tfgen
from tfgen import cli, data, drafts, evaluation, export, plots, training, zoo
from tfgen.data import named
from tfgen.models.hierarchical_vae import HierarchicalVAE
from tfgen.recipe import Recipe
from tfgen.training import announce
from tfgen_command import command_line, entries
from tfgen_command.wording import counted, how_long

NAME = "vae_2d_mnist"


@pytest.mark.parametrize(
    ("place", "name", "command", "expected"),
    [
        (
            training,
            "train",
            f"train {NAME} --out r --tensorboard --checkpoint-seconds 7 --keep-epochs 2 "
            "--verbose 0 --resume",
            {
                "tensorboard": True,
                "checkpoint_seconds": 7.0,
                "keep_epochs": 2,
                "verbose": 0,
                "resume": True,
            },
        ),
        (training, "train", f"train {NAME} --out r", {"verbose": 2, "resume": False}),
        (
            export,
            "add",
            f"export {NAME} --out m --temperature 0.5 --num-samples 3 --version 4 --jit",
            {
                "options": {
                    "temperature": 0.5,
                    "num_samples": 3,
                    "version": 4,
                    "jit_compile": True,
                }
            },
        ),
        (
            data,
            "prepare",
            "data prepare digits --out s --shard-mib 2 --seed 3 --no-verbose",
            {"shard_bytes": 2**21, "seed": 3, "verbose": 0},
        ),
        (
            drafts,
            "draft",
            "recipe new --data digits --out a.json --family GAN --minutes 3 --conditional",
            {"family": "GAN", "minutes": 3.0, "conditional": True},
        ),
        (
            cli,
            "images_for",
            f"reconstruct {NAME} --num 3 --invert",
            {"num": 3, "invert": True, "binarize": False},
        ),
        (
            cli,
            "images_for",
            f"score {NAME} --num 3 --binarize",
            {"num": 3, "invert": False, "binarize": True},
        ),
        (
            cli,
            "ends_for",
            f"interpolate {NAME} --rows 3 --invert",
            {"rows": 3, "invert": True, "binarize": False},
        ),
        (
            evaluation,
            "evaluate",
            f"evaluate {NAME} --data digits --num-samples 9 --metric sample_quality",
            {
                "data_name": "digits",
                "check": False,
                "verbose": 0,  # not a terminal
                "num_samples": 9,
                "metrics": ["sample_quality"],
            },
        ),
    ],
)
def test_every_option_reaches_the_library(place, name, command, expected, tmp_path, monkeypatch):
    signature, seen = inspect.signature(getattr(place, name)), {}

    def noted(*given, **options):
        seen.update(signature.bind(*given, **options).arguments)
        raise ValueError("noted")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, name, noted)
    assert run(monkeypatch, *command.split()) == 2
    assert {key: seen[key] for key in expected} == expected


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_for_a_terminal(tmp_path, monkeypatch):
    seen = []

    def noted(recipe, folder, resume, verbose, *_, **__):
        seen.append(verbose)
        raise ValueError("noted")

    monkeypatch.setattr(training, "train", noted)
    monkeypatch.chdir(tmp_path)
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(monkeypatch, "train", NAME, "--out", "r") == 2
    assert seen == [1, 2]


def test_an_error_does_not_stick_to_a_bar(monkeypatch):
    for stream, start in ((Terminal(), "\r\x1b[Ktfgen: "), (io.StringIO(), "tfgen: ")):
        monkeypatch.setattr(sys, "stderr", stream)
        with pytest.raises(SystemExit):
            command_line._fail("wrong")
        assert stream.getvalue() == f"{start}wrong\n"


def test_ctrl_c_is_told(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(entries, "names", interrupted)
    assert run(monkeypatch, "list") == 130
    assert capsys.readouterr().err == "tfgen: interrupted\n"


@pytest.mark.slow
def test_a_training_in_a_pipe_is_plain_lines(tmp_path, monkeypatch, capsys):
    (tmp_path / "my.json").write_text(json.dumps(RECIPE | {"results": []}))
    assert run(monkeypatch, "train", tmp_path / "my.json", "--out", tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "1 epoch of " in said
    assert not set(said) & {"\b", "\r", "\x1b"}


def test_json_stays_json_while_a_data_set_downloads(monkeypatch, capsys):
    def fetch():
        print("Downloading data from far away")
        return {"train": (np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10)}

    source = dataclasses.replace(named.NAMED["digits"], fetch=fetch)
    monkeypatch.setitem(named.NAMED, "digits", source)
    monkeypatch.delenv("TFGEN_DATA_DIR", raising=False)
    named.load_named("digits")
    streams = capsys.readouterr()
    assert (streams.out, "Downloading" in streams.err) == ("", True)


def test_what_is_cut_off_in_a_download_is_told(monkeypatch):
    def cut_off():
        raise EOFError("Compressed file ended")

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", cut_off)
    monkeypatch.delenv("TFGEN_DATA_DIR", raising=False)
    with pytest.raises(OSError, match=r"connect to the internet, delete .*~/\.keras/datasets"):
        named.load_named("fashion_mnist")


@pytest.fixture
def run_folder(tmp_path):
    """A preset with a recipe, saved and never evaluated."""
    recipe = Recipe.from_dict(RECIPE)
    return zoo.save(training.build(recipe, 8), tmp_path / "own", recipe)


def test_only_what_was_measured_is_checked(run_folder, monkeypatch, capsys):
    assert run(monkeypatch, "info", run_folder) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"  tfgen evaluate {run_folder}"
    assert run(monkeypatch, "evaluate", run_folder, "--check") == 2
    assert "check (--check) needs recorded results" in capsys.readouterr().err
    assert run(monkeypatch, "info", NAME) == 0
    said = capsys.readouterr().out
    assert f"  tfgen evaluate {NAME} --check" in said
    assert "likelihood  a lower bound of log p(x)" in said
    assert "`" not in said


def test_no_entry_shows_marks_of_a_page(monkeypatch, capsys):
    for name in zoo.list_models(kind=None):
        assert run(monkeypatch, "info", name) == 0
    assert "`" not in capsys.readouterr().out


def test_a_run_in_its_first_epoch_is_a_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    (tmp_path / "checkpoint-00000003.npz").touch()
    assert run(monkeypatch, "info", tmp_path) == 2
    assert f"tfgen train {tmp_path} --out {tmp_path} --resume" in capsys.readouterr().err


def test_the_end_of_an_epoch_that_was_cut(monkeypatch, capsys):
    """It has fewer steps than a whole one."""
    now = iter(np.arange(0.0, 1000.0, 60.0))
    monkeypatch.setattr(announce, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    end = announce.ExpectedEnd(epochs=1, steps=10_000, what="of this stage ")
    end.set_params({"steps": 1000})
    end.on_epoch_begin(0)
    for batch in range(10):
        end.on_train_batch_end(batch)
    said = capsys.readouterr().out
    assert said.startswith("\nend       of this stage expected at ")
    assert said.endswith(f"in {990 // 60} h {990 % 60} min\n")


@pytest.mark.parametrize("stream", [None, types.SimpleNamespace(write=len, flush=bool)])
def test_the_end_is_told_to_any_stream(monkeypatch, stream):
    end = announce.ExpectedEnd(epochs=1, steps=10)
    end.set_params({"steps": 10})
    end.on_epoch_begin(0)
    monkeypatch.setattr(sys, "stdout", stream)
    for batch in range(10):
        end.on_train_batch_end(batch)


@pytest.mark.slow
def test_resuming_says_where(tmp_path, capsys):
    recipe = Recipe.from_dict(RECIPE)
    training.train(recipe, tmp_path / "run", verbose=0)
    longer = dataclasses.replace(recipe, epochs=2)
    training.train(longer, tmp_path / "run", resume=True, verbose=2)
    steps = json.loads((tmp_path / "run" / "training.json").read_text())["step"] // 2
    assert f"resumed   after step {steps} and 1 epoch\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"the run's own recipe, .*recipe\.json.* Give that file"):
        training.train(recipe, tmp_path / "run", resume=True, verbose=0)


def test_few_samples_are_told(run_folder, monkeypatch, capsys):
    from tfgen_command import wording

    monkeypatch.setattr(wording, "_told", set())
    evaluation.METRICS["sample_quality"](zoo.load(run_folder), "digits", 12, verbose=0)
    assert "of 12 images are rough, and flatter the model." in capsys.readouterr().err


@pytest.mark.parametrize("family", drafts.FAMILIES)
def test_a_gan_of_colour_images_is_told_what_helps(family, tmp_path, monkeypatch, capsys):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "own.npz", images=images)
    monkeypatch.setattr(drafts, "_images_per_second", lambda *_: 100.0)
    monkeypatch.setattr(drafts, "_pause", lambda *_: 0.0)
    new = ("recipe", "new", "--data", tmp_path / "own.npz", "--family", family)
    assert run(monkeypatch, *new, "--out", tmp_path / "own.json") == 0
    said = capsys.readouterr().out
    assert ('"network": "residual"' in said) == (family == "GAN")
    added = {"network": "residual", "num_blocks": 1, "augment": True}
    assert all(f'"{key}": {json.dumps(value)}' in said for key, value in added.items()) or (
        family != "GAN"
    )
    if family == "GAN":
        recipe = Recipe.load(tmp_path / "own.json")
        training.build(dataclasses.replace(recipe, model={**recipe.model, **added}), 8)


def test_the_time_until_the_first_step_is_part_of_the_minutes(tmp_path, monkeypatch):
    now = [0.0]

    def measured(recipe, split):
        now[0] += 30.0 + drafts.TIMED_STEPS * recipe.batch_size / 100.0
        return 100.0

    monkeypatch.setattr(drafts, "_images_per_second", measured)
    monkeypatch.setattr(drafts, "_pause", lambda *_: 1.0)
    monkeypatch.setattr(drafts, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    np.savez(tmp_path / "own.npz", images=np.zeros((60, 8, 8, 1), np.uint8) + 9)
    drafted = drafts.draft(tmp_path / "own.npz", minutes=1.0)
    assert drafted.start == pytest.approx(30.0)
    assert 0.8 < drafted.minutes <= 1.0


def test_walks_have_their_ends_written_above(monkeypatch):
    seen = {}
    monkeypatch.setattr(cli, "save_rows", lambda *_, **given: seen.update(given) or "")
    for name in (NAME, "gan_mnist"):
        given = () if name == "gan_mnist" else ("--data", "digits")
        monkeypatch.setattr(
            cli, "ends_for", lambda *_: (*2 * [np.zeros((1, 28, 28, 1), np.uint8)], None)
        )
        assert run(monkeypatch, "interpolate", name, "--rows", 1, "--steps", 4, *given) == 0
        assert seen.pop("columns") == ["start", "", "", "end"]


def test_a_plane_has_its_latents_beside_it(tmp_path, monkeypatch):
    seen = []
    kept = plots.captioned
    monkeypatch.setattr(plots, "captioned", lambda *given: seen.append(given) or kept(*given))
    assert run(monkeypatch, "manifold", NAME, "--side", 4, "--out", tmp_path / "a.png") == 0
    (_, rows, columns), *_ = seen
    assert columns == ["-1.2", "-0.3", "0.3", "1.2"]
    assert rows == columns[::-1]


def test_numbers_and_nouns_fit():
    for state, told in (
        ({"epoch": 1, "seconds": 60.0}, ("1 epoch", "1 minute")),
        ({"epoch": 2, "seconds": 1.0}, ("2 epochs", "less than a minute")),
        ({"epoch": 0.5, "seconds": 31.0}, ("0.5 epochs", "1 minute")),
    ):
        assert how_long(state) == told
    assert counted(1, "result") == "1 result"


@pytest.mark.parametrize(
    ("arguments", "words", "absent"),
    [
        (("sample", "vae_mnits"), "Did you mean 'vae_mnist'", "Entries:"),
        (("sample", "qqqqqqqq"), "Entries: ", "Did you mean"),
        (("data", "check", "mnits"), "Did you mean 'mnist'", "Data sets:"),
        (("list", "classifier_mnist"), "matches none without --all.", "Traceback"),
        (("list", "--all", "qqq"), "matches none.", "--all"),
        (("complete", "pixelcnn_mnist", "--mask", "no.png"), "--mask must be an image file", "[Er"),
    ],
)
def test_errors_are_short_and_name_the_option(monkeypatch, capsys, arguments, words, absent):
    assert run(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert absent not in said


def test_help_of_a_walk_speaks_of_walks(monkeypatch, capsys):
    assert run(monkeypatch, "interpolate", "--help") == 0
    said = capsys.readouterr().out
    assert "walk i leads from" in said
    assert "Image i" not in said


def test_an_export_says_what_it_leaves_out(run_folder, tmp_path, monkeypatch, capsys):
    def written(repository, name, format, **options):
        (tmp_path / "m").mkdir()
        left = {"sample": "it needs a loop"}
        (tmp_path / "m" / "signatures.json").write_text(json.dumps({"left_out": left}))
        return tmp_path / "m"

    monkeypatch.setattr(export, "add", written)
    assert run(monkeypatch, "export", run_folder, "--format", "onnx", "--out", tmp_path) == 0
    assert "m, without sample: see signatures.json" in capsys.readouterr().out


def mask_of_one_kind(path):
    Image.new("L", (8, 8), 255).save(path / "white.png")
    return cli.read_mask(training.build(Recipe.from_dict(RECIPE), 8), path / "white.png")


def never_trained(path):
    shutil.rmtree(path)
    path.mkdir()
    (path / "recipe.json").write_text(json.dumps(RECIPE))
    return zoo.load(path, latent_dim=3)


def patient_gan(path):
    recipe = zoo.load_recipe("gan_mnist")
    return training.build(dataclasses.replace(recipe, patience=2), 8)


LADDER = {"filters": (4, 4), "groups": (1,), "group_channels": (1,)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: HierarchicalVAE((8, 8, 1), **LADDER), "must have one entry for each of filters"),
        (patient_gan, "patience must be null for GAN"),
        (
            lambda path: evaluation.evaluate(path, check=True, num_samples=9),
            "num_samples must be None with check",
        ),
        (never_trained, "load_weights must be True, without overrides"),
        (mask_of_one_kind, "--mask must have white pixels"),
        (
            lambda path: Recipe("VAE", {"latent_dim": {1}}, "digits"),
            "recipe: model must be plain data",
        ),
        (
            lambda path: tfgen.load(NAME).enable_lora(2),
            "patterns must name layers that offer low-rank adapters",
        ),
    ],
)
def test_errors_that_only_a_mistake_shows(call, message, run_folder):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(run_folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("manifold", "gan_mnist"), "manifold needs a model with two latents"),
        (("manifold", NAME, "--label", "1,2"), "--label must be one class for a manifold"),
        (("serve", "--models", ".", "--engine", "tensorflow_model_server"), "no such program"),
    ],
)
def test_errors_of_commands(monkeypatch, capsys, arguments, words):
    monkeypatch.setenv("PATH", "")
    assert run(monkeypatch, *arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_log_of_a_pixel_model_has_both_units(tmp_path):
    model = {"image_shape": [8, 8, 1], "filters": 4, "num_blocks": 1, "head_units": 4}
    recipe = Recipe("PixelCNN", model, "digits", epochs=1, batch_size=128, jit_compile=False)
    training.train(recipe, tmp_path / "run", verbose=0)
    with (tmp_path / "run" / "log.csv").open() as file:
        (row,) = csv.DictReader(file)
    nats, bits = float(row["loss"]), float(row["bits_per_dim"])
    assert bits == pytest.approx(nats / (64 * np.log(2)), rel=1e-4)
