"""`tfgen serve` over its life: starting, new and broken versions, stopping."""

import asyncio
import dataclasses
import itertools
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from serving_support import SERVER, Server, copy_version, running, tiny_images, write_labelled
from tensorflow_serving.config import model_server_config_pb2

import tfgen_command
from tfgen.serving import Client, ServingError
from tfgen.serving import server as local
from tfgen.serving.repository import Repository, read_config
from tfgen.serving.servable import Servable
from tfgen_command import serve
from tfgen_command.process import Settings, listen

# New versions --------------------------------------------------------------------------------


def eventually(condition) -> None:
    """Waits until the server has noticed."""
    for _ in range(200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it never happened")


def write_changing(path, name: str):
    """A model whose one input has that name."""
    spec = tf.TensorSpec((None,), tf.int64, name)
    module = tf.Module()
    module.run = tf.function(lambda x: {"score": x * 2}, input_signature=[spec])
    tf.saved_model.save(module, str(path), {"serving_default": module.run})


def test_an_unload_waits_as_long_as_a_request_may_take(repository, tmp_path, monkeypatch):
    waited, close = [], Servable.close

    def noted(servable, timeout=None):
        waited.append(timeout)
        close(servable, 0)

    monkeypatch.setattr(Servable, "close", noted)
    copy_version(repository / "tiny" / "3", tmp_path / "tiny" / "1")
    models = Repository(tmp_path, call_seconds=300)
    models.refresh()
    copy_version(repository / "tiny" / "5", tmp_path / "tiny" / "2")
    models.refresh()
    assert waited == [300]
    models.stop()


def test_a_path_with_brackets_is_served(repository, tmp_path):
    """TensorFlow would look for files that the pattern matches."""
    root = tmp_path / "models [old]"
    copy_version(repository / "tiny" / "3", root / "tiny" / "1")
    models = Repository(root)
    models.refresh()
    with models.use("tiny") as servable:
        assert servable.version == 1
    models.stop()


def test_a_configuration_that_is_being_written_changes_nothing(repository, tmp_path):
    """Whoever writes it in place empties it first."""
    for version in ("3", "5"):
        copy_version(repository / "tiny" / version, tmp_path / "tiny" / version)
    (tmp_path / "models.config").write_text((repository / "models.config").read_text())
    models = Repository(tmp_path)
    models.refresh()
    with models.use("tiny", label="old") as servable:
        labelled = servable.version
    (tmp_path / "models.config").write_text("")
    models.refresh()
    with models.use("tiny", label="old") as servable:
        assert servable.version == labelled == 3
    models.stop()


def test_what_lies_next_to_an_installed_package_shadows_nothing(tmp_path):
    """Site-packages may hold backports of the standard library, which comes first."""
    for name in ("tfgen", "tfgen_command"):
        shutil.copytree(SERVER.parents[1] / name, tmp_path / name)
    for name in ("dataclasses", "typing", "asyncio"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a backport')\n")
    settings = {
        "models": "x",
        "host": "192.0.2.1",  # not of this machine
        "port": 0,
        "grpc_port": 0,
    }
    command = [sys.executable, tmp_path / "tfgen" / "serving", json.dumps(settings)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert "192.0.2.1" in run.stderr


@pytest.mark.slow
def test_versions_come_and_go_while_it_serves(repository, tmp_path):
    tiny = tmp_path / "tiny"
    copy_version(repository / "tiny" / "3", tiny / "1")
    # With Python's own list of all that is imported; log level 0 shows that of TensorFlow too.
    options = {"arguments": ("-X", "importtime"), "environment": {"TF_CPP_MIN_LOG_LEVEL": "0"}}
    with running(tmp_path, **options, poll_seconds=0.05) as server:

        def served(bias: int) -> bool:
            return server.predict([1]) == tiny_images([1], bias).tolist()

        def states() -> dict[str, str]:
            found = server.get("/v1/models/tiny")[1]["model_version_status"]
            return {version["version"]: version["state"] for version in found}

        assert served(3)
        stopped, failures = threading.Event(), []

        def hammer():
            """The model never goes away, whatever happens to its versions."""
            for seed in itertools.count():
                if stopped.is_set():
                    return
                status, answer = server.post("/v1/models/tiny:predict", {"inputs": [seed]})
                images = [tiny_images([seed], bias).tolist() for bias in (3, 5)]
                if status != 200 or answer["outputs"] not in images:
                    failures.append(answer)

        hammers = [threading.Thread(target=hammer) for _ in range(3)]
        for thread in hammers:
            thread.start()

        # A better version takes over, and the old one is freed.
        copy_version(repository / "tiny" / "5", tiny / "2")
        eventually(lambda: served(5) and states() == {"2": "AVAILABLE", "1": "END"})

        # Versions that are not whole: nothing there yet, no graph, weights cut short, no proto.
        (tiny / "7").mkdir()
        (tiny / "8" / "variables").mkdir(parents=True)
        (tiny / "8" / "variables" / "variables.index").write_bytes(b"half")
        copy_version(repository / "tiny" / "3", tiny / ".9")
        data = next((tiny / ".9" / "variables").glob("*.data*"))
        data.write_bytes(data.read_bytes()[:-1000])
        (tiny / ".9").rename(tiny / "9")
        (tiny / "10").mkdir()
        (tiny / "10" / "saved_model.pb").write_bytes(b"\xff" * 100)
        copy_version(repository / "tiny" / "3", tiny / ".11")
        data = next((tiny / ".11" / "variables").glob("*.data*"))
        damaged = bytearray(data.read_bytes())
        damaged[len(damaged) // 2] ^= 0xFF
        data.write_bytes(damaged)
        (tiny / ".11").rename(tiny / "11")
        shutil.copytree(repository / "tiny" / "3", tiny / "01")  # no version's name
        failed = {"9": "END", "10": "END", "11": "END"}
        eventually(lambda: states() == {"2": "AVAILABLE", "1": "END", **failed})
        assert served(5)
        broken = server.get("/v1/models/tiny/versions/10")[1]["model_version_status"][0]["status"]
        assert broken["error_code"] != "OK"
        assert "version 10 cannot be loaded" in broken["error_message"]
        assert server.post("/v1/models/tiny/versions/9:predict", {"inputs": [1]})[0] == 404

        # Once it is whole, it is served.
        shutil.copytree(repository / "tiny" / "3", tiny / "9", dirs_exist_ok=True)
        eventually(lambda: served(3))
        for name in ("9", "10", "11"):
            shutil.rmtree(tiny / name)
        eventually(lambda: served(5))
        assert set(states()) == {"1", "2", "9"}  # those that it ever had
        stopped.set()
        for thread in hammers:
            thread.join()
        assert not failures

        # A model whose inputs change: a client that knows the old ones learns the new.
        write_changing(tmp_path / "changing" / "1", "seed")
        eventually(lambda: "changing" in json.dumps(server.get("/models")))
        with Client(f"http://127.0.0.1:{server.port}") as client:
            assert client.predict("changing", {"seed": [3]})["score"] == [6]
            write_changing(tmp_path / "changing" / "2", "labels")
            eventually(lambda: client.status("changing") == {2: "AVAILABLE", 1: "END"})
            assert client.predict("changing", {"labels": [3]})["score"] == [6]
            with pytest.raises(ValueError, match="inputs must be labels; received seed"):
                client.predict("changing", {"seed": [3]})

        # models.config, while it serves: labels and chosen versions; broken, it changes nothing.
        config = tmp_path / "models.config"
        config.write_text(
            'model_config_list { config { name: "tiny" base_path: "/models/tiny" '
            "model_version_policy { specific { versions: 1 versions: 2 } } "
            'version_labels { key: "stable" value: 1 } } }'
        )
        eventually(lambda: states()["1"] == "AVAILABLE")
        path = "/v1/models/tiny/labels/stable:predict"
        eventually(lambda: server.post(path, {"inputs": [1]})[0] == 200)
        assert server.post(path, {"inputs": [1]})[1]["outputs"] == tiny_images([1], 3).tolist()
        config.write_text("model_config_list {")
        server.wait_for("not a valid ModelServerConfig")
        assert server.post(path, {"inputs": [1]})[0] == 200
        config.unlink()
        eventually(lambda: server.post(path, {"inputs": [1]})[0] == 400)

        # The whole model goes.
        shutil.rmtree(tiny)
        eventually(lambda: server.post("/v1/models/tiny:predict", {"inputs": [1]})[0] == 404)
        assert server.get("/health")[0] == 200
        imported = {line.rpartition("|")[2].strip() for line in server.log if "|" in line}
    assert {"tfgen.serving.server", "tensorflow"} <= imported
    assert not {"keras", "tf_keras", "tensorflow_probability"} & imported
    ours = {name for name in imported if name.partition(".")[0] == "tfgen"}
    # The layout on disk and checks of arguments, which need no TensorFlow.
    shared = {"tfgen.model_repository", "tfgen.files", "tfgen.checks"}
    assert all(name.startswith("tfgen.serving") for name in ours - shared)


@pytest.mark.slow
def test_at_the_start_the_newest_whole_version_is_served(repository, tmp_path):
    copy_version(repository / "tiny" / "3", tmp_path / "tiny" / "1")
    (tmp_path / "tiny" / "2").mkdir()
    (tmp_path / "tiny" / "2" / "saved_model.pb").write_bytes(b"broken")
    with running(tmp_path) as server:
        assert server.predict([1]) == tiny_images([1], 3).tolist()
        found = server.get("/v1/models/tiny")[1]["model_version_status"]
        assert [version["state"] for version in found] == ["END", "AVAILABLE"]


# Stopping ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sigterm_lets_running_requests_end(repository):
    server = Server(repository)
    answers = {}

    def ask(api):
        seed = np.array([400_000])  # which takes more than a second
        if api == "rest":
            answers[api] = server.predict({"seed": seed.tolist()}, "slow")[0]
        else:
            answers[api] = tf.make_ndarray(server.rpc({"seed": seed}, "slow").outputs["score"])[0]

    idle = socket.create_connection(("127.0.0.1", server.port))
    threads = [threading.Thread(target=ask, args=(api,)) for api in ("rest", "grpc")]
    for count, thread in enumerate(threads, 1):
        thread.start()
        line = f"tfgen_serving_batch_requests_count {count}.0"
        eventually(
            lambda line=line: (
                line in server.request("GET", "/monitoring/prometheus/metrics")[1].decode()
            )
        )
    server.process.terminate()
    server.wait_for("stopping")
    assert all(thread.is_alive() for thread in threads), "nothing ran any more"

    def refuses(port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return True
        return False

    eventually(lambda: refuses(server.port) and refuses(server.grpc_port))
    for thread in threads:
        thread.join()
    assert answers == {"rest": 400_000, "grpc": 400_000}
    assert server.process.wait(60) == 0
    assert "Traceback" not in "".join(server.log)
    idle.close()


@pytest.mark.parametrize(
    ("code", "attempts"), [("DEADLINE_EXCEEDED", [1, 1]), ("INVALID_ARGUMENT", [1])]
)
def test_what_may_load_later_is_tried_again(repository, tmp_path, monkeypatch, code, attempts):
    """After a while; other files only once they have changed."""
    tried, later = [], [0.0]

    def failing(name, version, path, seconds):
        tried.append(version)
        raise ServingError(code, "it did not load")

    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + later[0])
    monkeypatch.setattr("tfgen.serving.repository.Servable", failing)
    monkeypatch.setattr("tfgen.serving.repository.time", clock)
    (tmp_path / "other").symlink_to(repository / "other")
    models = Repository(tmp_path)
    models.refresh()
    models.refresh()
    assert tried == [1]
    later[0] = 61.0
    models.refresh()
    assert tried == attempts


# Starting ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_port_in_use(repository, server):
    for settings, words in (
        ({"port": server.port}, f"port {server.port} of 127.0.0.1"),
        ({"grpc_port": server.grpc_port}, f"port {server.grpc_port} of 127.0.0.1"),
        ({"host": "192.0.2.1"}, "192.0.2.1"),
        ({"models": str(repository / "nothing")}, "nothing is not a directory"),
        ({"models": str(repository / "tiny")}, "tiny is a model itself"),
    ):
        second = Server(wait=False, **{"models": repository, **settings})
        assert second.process.wait(300) == 2
        assert second.stop() == 2
        (line,) = second.log
        assert line.startswith("tfgen: ")
        assert words in line


def test_ctrl_c_while_tensorflow_is_imported(tmp_path):
    """Ends the process without a traceback; later the server handles the signal itself."""
    (tmp_path / "tensorflow.py").write_text("raise KeyboardInterrupt\n")
    server = Server(tmp_path, environment={"PYTHONPATH": str(tmp_path)}, wait=False)
    assert server.process.wait(60) == 130
    server.stop()
    assert not server.log


def test_a_port_is_in_use_while_the_models_are_loading():
    """Nobody else gets it, not even who was bound to it before."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with listen("127.0.0.1", port, "--port") as loading:
            with pytest.raises(OSError, match="in use"):
                other.listen()
            with pytest.raises(OSError, match=rf"port {port} of .*Choose another with --port"):
                listen("127.0.0.1", port, "--port")
            with socket.create_connection(("127.0.0.1", port)) as waiting:
                accepted, address = loading.accept()
                assert address == waiting.getsockname()
                accepted.close()


@pytest.fixture
def executed(monkeypatch):
    """What `tfgen serve` would have become."""
    commands = []

    class Replaced(Exception):
        pass

    def execve(path, arguments, environment):
        commands.append((path, arguments))
        run.environment = environment
        raise Replaced

    monkeypatch.setattr("os.execve", execve)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["tfgen", "serve", *map(str, arguments)])
        with pytest.raises(Replaced):
            tfgen_command.main()
        return commands.pop()

    return run


SERVE = {
    "host": "::1",
    "port": 1,
    "grpc_port": 2,
    "max_batch_size": 3,
    "batch_window_ms": 4.0,
    "threads": 5,
    "max_body_mb": 6.0,
    "timeout": 7.0,
    "poll_seconds": 8.0,
    "grace_seconds": 9.0,
}


def test_every_option_reaches_the_local_server(executed, monkeypatch):
    monkeypatch.setenv("PATH", "")
    typed = [part for name, value in SERVE.items() for part in (f"--{name}", value)]
    typed = [part.replace("_", "-") if isinstance(part, str) else part for part in typed]
    path, arguments = executed("--models", "here", *typed)
    assert path == arguments[0] == sys.executable
    assert Settings.from_json(arguments[2]) == Settings("here", **SERVE)
    assert {"models", *SERVE} == {field.name for field in dataclasses.fields(Settings)}


def test_every_option_of_the_local_server_reaches_its_part(monkeypatch):
    made = {}

    class Enough(Exception):
        pass

    def note(name, then=None):
        def noted(*given, **named):
            made[name] = given
            if then is not None:
                raise then
            return name

        return noted

    monkeypatch.setattr(local, "Repository", note("repository"))
    monkeypatch.setattr(local, "Batcher", note("batcher"))
    monkeypatch.setattr(local, "Backend", note("backend", Enough))
    with pytest.raises(Enough):
        asyncio.run(local._serve(Settings("here", **SERVE), None))
    path, poll_seconds, _, timeout = made["repository"]
    assert (path, poll_seconds, timeout) == (Path("here"), 8.0, 7.0)
    assert made["batcher"] == (3, 0.004, 5)
    assert made["backend"][:2] == ("repository", "batcher")
    assert made["backend"][3:] == (6 * 2**20, 7.0)


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A program on the PATH with the name of TF Serving's."""
    program = tmp_path / "tensorflow_model_server"
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


def test_tensorflow_model_server_logs_as_it_does_alone(executed, engine, repository, monkeypatch):
    """The command's own import of TensorFlow is quiet, and sets a variable for that."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    executed("--models", repository)
    assert "TF_CPP_MIN_LOG_LEVEL" in os.environ
    assert "TF_CPP_MIN_LOG_LEVEL" not in executed.environment
    assert executed.environment["PATH"] == os.environ["PATH"]


def test_tensorflow_model_server_is_preferred(executed, engine, repository, capsys):
    repository = shutil.copytree(repository, engine.parent / "models")
    (repository / "batching.config").touch()
    path, arguments = executed("--models", repository, "--port", 81, "--grpc-port", 80)
    assert path == arguments[0] == str(engine)
    options = dict(option[2:].partition("=")[::2] for option in arguments[1:])
    assert (options["rest_api_port"], options["port"]) == ("81", "80")
    assert options["batching_parameters_file"] == str(repository / "batching.config")
    assert "monitoring_config_file" not in options
    config = text_format.Parse(
        Path(options["model_config_file"]).read_text(), model_server_config_pb2.ModelServerConfig()
    )
    models = {model.name: model for model in config.model_config_list.config}
    assert set(models) == {"tiny", "other"}
    assert models["tiny"].base_path == str((repository / "tiny").resolve())
    assert models["tiny"].version_labels == {"old": 3}
    assert "every address" in capsys.readouterr().err
    timed = executed("--models", repository, "--timeout", 5, "--poll-seconds", 7)[1]
    assert {"--rest_api_timeout_in_ms=5000", "--file_system_poll_wait_seconds=7"} <= set(timed)
    path, _ = executed("--models", repository, "--engine", "local")
    assert path == sys.executable


def test_starts_leave_one_file(executed, engine, repository, monkeypatch, tmp_path):
    """The server takes this process's place, so nobody is left to remove it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for _ in range(2):
        options = executed("--models", repository)[1]
    (config,) = (path for path in (tmp_path / "temporary").rglob("*") if path.is_file())
    assert f"--model_config_file={config}" in options
    assert config.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "70000"), "--port"),
        (("--port", "9", "--grpc-port", "9"), "must differ"),
        (("--max-batch-size", "0"), "--max-batch-size"),
        (("--batch-window-ms", "-1"), "--batch-window-ms"),
        (("--threads", "0"), "--threads"),
        (("--max-body-mb", "0"), "--max-body-mb"),
        (("--timeout", "nan"), "--timeout"),
        (("--engine", "onnx"), "--engine"),
        (("--models", "nowhere"), "nowhere"),
        (("--host", "127.0.0.1"), "every address"),
        (("--port", "0"), "cannot choose a free port"),
        (("--max-body-mb", "1"), "--max-body-mb is for the local server"),
        (("--threads", "4", "--engine", serve.ENGINE), "--threads is for the local server"),
    ],
)
def test_bad_options(arguments, words, engine, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tfgen", "serve", *arguments])
    with pytest.raises(SystemExit) as stop:
        tfgen_command.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert words in error
    assert "Traceback" not in error


def test_without_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(serve, "NEEDED", ("no_such_package", "json"))
    monkeypatch.setattr("sys.argv", ["tfgen", "serve"])
    with pytest.raises(SystemExit) as stop:
        tfgen_command.main()
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert 'no_such_package. Run pip install ".[serving]" in the clone of tfgen.' in line
    for name, address in (("orjson", "http://x"), ("grpc", "grpc://x")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=rf"Client needs {name}\. Run pip install"):
            Client(address)


def loading(script: str, repository: Path) -> subprocess.Popen:
    """Starts a script and waits until it says that it is loading."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(repository)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "loading\n"
    return process


def assert_ended(process: subprocess.Popen) -> None:
    """At once, and as if it had been served to the end."""
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopped while a model was loaded or unloaded" in log


@pytest.mark.slow_except("2")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_is_stopped_while_it_loads(number, repository):
    script = """
        import asyncio, json, socket, sys, time
        from tfgen.serving import server
        from tfgen_command.process import Settings
        def start(self):
            print("loading", flush=True)
            time.sleep(600)
        server.Repository.start = start
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        server.run(Settings(sys.argv[1], port=0, grpc_port=0), listener)
    """
    process = loading(script, repository)
    process.send_signal(number)
    assert_ended(process)


@pytest.mark.slow
def test_a_server_is_stopped_while_it_loads_a_new_version(repository):
    """Long after its start, and whatever time running requests have."""
    script = """
        import socket, sys, time
        from tfgen.serving import server
        from tfgen_command.process import Settings
        class Repository(server.Repository):
            refreshed = 0
            def refresh(self):
                super().refresh()
                self.refreshed += 1
                if self.refreshed == 2:
                    print("loading", flush=True)
                    time.sleep(600)
        server.Repository = Repository
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        server.run(Settings(sys.argv[1], port=0, grpc_port=0, poll_seconds=0.01), listener)
    """
    process = loading(script, repository)
    assert any(" at http" in line for line in process.stderr)
    process.terminate()
    assert_ended(process)


def test_a_label_moves_once_its_version_is_there(repository, tmp_path):
    tiny, config = tmp_path / "tiny", tmp_path / "models.config"

    def label(version: int, *versions: int) -> None:
        listed = " ".join(f"versions: {number}" for number in versions)
        config.write_text(
            f'model_config_list {{ config {{ name: "tiny" base_path: "{tiny}" model_platform: '
            f'"tensorflow" model_version_policy {{ specific {{ {listed} }} }} '
            f'version_labels {{ key: "stable" value: {version} }} }} }}'
        )

    def labelled() -> int:
        models.refresh()
        with models.use("tiny", label="stable") as servable:
            return servable.version

    copy_version(repository / "tiny" / "3", tiny / "1")
    label(1, 1)
    models = Repository(tmp_path)
    assert labelled() == 1
    (tiny / "2").mkdir()
    (tiny / "2" / "saved_model.pb").write_bytes(b"\xff" * 100)
    label(2, 1, 2)
    assert labelled() == 1
    copy_version(repository / "tiny" / "5", tiny / ".2")
    shutil.rmtree(tiny / "2")
    (tiny / ".2").rename(tiny / "2")
    assert labelled() == 2
    shutil.rmtree(tiny / "1")
    copy_version(repository / "tiny" / "3", tiny / "3")
    label(4, 3)  # which is not there, nor is what the label was for
    with pytest.raises(ServingError, match=r"Specific\(tiny, 4\)"):
        labelled()
    models.stop()


def test_a_version_that_grows_while_it_is_loaded_is_loaded_again(tmp_path, monkeypatch, caplog):
    """A copy may bring the details after the graph: without them labels would not be checked."""
    write_labelled(tmp_path / "m" / "1", num_classes=3)
    details = tmp_path / "m" / "1" / "assets.extra" / "tfgen.json"
    text = details.read_text()
    details.unlink()

    def slowly(*given):
        servable = Servable(*given)
        if not details.exists():
            details.write_text(text)
        return servable

    monkeypatch.setattr("tfgen.serving.repository.Servable", slowly)
    models = Repository(tmp_path)
    models.refresh()
    assert "m version 1 changed while it was loaded" in caplog.text
    models.refresh()
    with models.use("m") as servable:
        assert servable.details["num_classes"] == 3
    # One that is gone before it is whole leaves nothing behind.
    write_labelled(tmp_path / "gone" / "1", num_classes=3)
    monkeypatch.setattr(
        "tfgen.serving.repository.Servable",
        lambda name, version, path, *rest: (
            Servable(name, version, path, *rest),
            shutil.rmtree(path.parent),
        )[0],
    )
    models.refresh()
    models.refresh()
    with pytest.raises(ServingError, match="Could not find"):
        models.status("gone")
    models.stop()


@pytest.mark.slow
def test_a_request_that_outlasts_the_time_to_finish(repository):
    """It is told what it is worth: another try elsewhere."""
    server, answers = Server(repository, grace_seconds=1), []
    body = {"signature_name": "slow", "inputs": [5_000_000]}
    thread = threading.Thread(
        target=lambda: answers.append(server.post("/v1/models/tiny:predict", body))
    )
    thread.start()
    time.sleep(2)
    server.process.terminate()
    thread.join(60)
    assert server.process.wait(60) == 0
    ((status, answer),) = answers
    assert status == 503
    assert list(answer) == ["error"]
    assert "Traceback" not in "".join(server.log)


@pytest.mark.slow
def test_the_command_serves_as_a_user_starts_it(repository):
    """The one test through `tfgen serve` itself: exec, signals and exit code."""
    script = "import tfgen_command; tfgen_command.main()"
    arguments = ["serve", "--models", repository, "--port", 0, "--grpc-port", 0]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments), "--engine", "local"],
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if " at http" in line:
            break
    else:
        raise AssertionError("".join(lines))
    port = int(line.partition("http://127.0.0.1:")[2].split()[0])
    with Client(f"http://127.0.0.1:{port}") as client:
        images = client.predict("tiny", {"seed": [1, 2]})["images"]
    np.testing.assert_array_equal(images, tiny_images([1, 2], 5))
    process.terminate()
    lines += process.stderr
    assert process.wait(60) == 0
    assert all(line.startswith("tfgen serve: ") for line in lines)


# models.config -------------------------------------------------------------------------------


def test_where_a_models_config_points(repository, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere" / "models"
    shutil.copytree(repository / "tiny", elsewhere / "tiny")
    root = tmp_path / "root"
    shutil.copytree(repository / "other", root / "found")
    (root / ".hidden" / "1").mkdir(parents=True)
    (root / ".hidden" / "1" / "saved_model.pb").touch()
    (root / "models.config").write_text(
        "model_config_list {"
        f'config {{ name: "absolute" base_path: "{elsewhere / "tiny"}" }}'
        'config { name: "relative" base_path: "../elsewhere/models/tiny" }'
        'config { name: "container" base_path: "/models/found" } }'
    )
    found = {m.name: m.base_path for m in read_config(root).model_config_list.config}
    assert found == {
        "absolute": str(elsewhere / "tiny"),
        "relative": str(elsewhere / "tiny"),
        "container": str(root / "found"),
        "found": str(root / "found"),
    }
    look = os.stat

    def forbidden(path, *args, **kwargs):
        if str(path).startswith("/models"):
            raise PermissionError(str(path))
        return look(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", forbidden)
    (again,) = (m for m in read_config(root).model_config_list.config if m.name == "container")
    assert again.base_path == str(root / "found")


def test_the_last_good_version_stays_where_the_only_other_is_broken(repository, tmp_path):
    """Also where it is no longer on disk, or no longer asked for."""
    tiny = tmp_path / "tiny"
    copy_version(repository / "tiny" / "3", tiny / "1")
    models = Repository(tmp_path)
    models.refresh()
    (tiny / "2").mkdir()
    (tiny / "2" / "saved_model.pb").write_bytes(b"\xff" * 100)
    shutil.rmtree(tiny / "1")
    models.refresh()
    with models.use("tiny") as servable:
        assert servable.version == 1
    models.stop()


def test_an_error_names_what_there_is(server):
    with Client(f"http://127.0.0.1:{server.port}") as client:
        with pytest.raises(ServingError, match="Models: other, tiny"):
            client.predict("tyni", {"seed": [1]})
        with pytest.raises(ServingError, match="Versions loaded: 3, 5"):
            client.predict("tiny", {"seed": [1]}, version=4)
