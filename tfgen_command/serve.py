"""`tfgen serve`."""

import hashlib
import importlib.util
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tfgen_command import app, entries
from tfgen_command.process import Settings, import_tensorflow
from tfgen_command.wording import how_to_install

__all__ = ["serve"]

ENGINE = "tensorflow_model_server"
ENGINE_FILES = {
    "batching_parameters_file": "batching.config",
    "monitoring_config_file": "monitoring.config",
}
NEEDED = (
    "fastapi",
    "grpc",
    "httptools",
    "orjson",
    "prometheus_client",
    "tensorflow_serving",
    "uvicorn",
    "uvloop",
)
DAY = 86_400  # seconds
TO_LOCAL = "Leave it out, or use --engine local."
# Options that TF Serving has no flag for.
LOCAL_ALONE = ("max_batch_size", "batch_window_ms", "threads", "max_body_mb", "grace_seconds")


def _finite(value: float) -> float:
    """Refuses NaN, which no range of typer's does."""
    if math.isnan(value):
        raise typer.BadParameter("nan is not a number.")
    return value


def _real(least: float, most: float, text: str) -> Any:
    """Returns the option of a real number in a range."""
    return typer.Option(min=least, max=most, callback=_finite, help=text)


Models = Annotated[Path, typer.Option(help="Model repository: NAME/VERSION/saved_model.pb.")]
Port = Annotated[
    int, typer.Option(min=0, max=65535, help="Port of REST and the page; 0 for any free port.")
]
GrpcPort = Annotated[int, typer.Option(min=0, max=65535, help="Port of gRPC; 0 for any free port.")]
Host = Annotated[
    str | None, typer.Option(help="Address to listen on; by default 127.0.0.1, this machine only.")
]
Engine = Annotated[
    Literal["auto", "local", ENGINE],
    typer.Option(help="auto: tensorflow_model_server if it is on the PATH, else the local server."),
]
MaxBatchSize = Annotated[
    int, typer.Option(min=1, max=2**20, help="Maximum rows per batch and per request.")
]
BatchWindowMs = Annotated[float, _real(0, 10_000, "Maximum wait for requests to batch with.")]
Threads = Annotated[int, typer.Option(min=1, max=256, help="Calls that run at the same time.")]
MaxBodyMb = Annotated[float, _real(0.001, 2047, "Maximum request size in MiB.")]
Timeout = Annotated[
    float,
    _real(0.001, DAY, "Maximum seconds per request; the local server cancels no call before 30."),
]
PollSeconds = Annotated[float, _real(0.01, DAY, "Seconds between checks for new versions.")]
GraceSeconds = Annotated[
    float, _real(0, DAY, "Seconds for running requests to finish after SIGTERM.")
]


@app.command()
def serve(
    context: typer.Context,
    models: Models = Path("saved_models"),
    port: Port = Settings.port,
    grpc_port: GrpcPort = Settings.grpc_port,
    host: Host = None,
    engine: Engine = "auto",
    max_batch_size: MaxBatchSize = Settings.max_batch_size,
    batch_window_ms: BatchWindowMs = Settings.batch_window_ms,
    threads: Threads = Settings.threads,
    max_body_mb: MaxBodyMb = Settings.max_body_mb,
    timeout: Timeout = Settings.timeout,
    poll_seconds: PollSeconds = Settings.poll_seconds,
    grace_seconds: GraceSeconds = Settings.grace_seconds,
) -> None:
    """Serves models over REST and gRPC, with a page to try them.

    The server speaks TF Serving's protocols; the page is at its root. The local server is for
    trying models out; in production run TF Serving on the same folder.
    """
    if port == grpc_port != 0:
        raise ValueError(f"--port and --grpc-port must differ; received {port} for both.")
    _require_extra()
    environment = dict(os.environ)  # before TensorFlow's messages are turned off
    program = shutil.which(ENGINE)
    if engine == ENGINE and program is None:
        raise ValueError(f"--engine {ENGINE}: no such program is on the PATH. Use --engine local.")
    if program and engine != "local":
        app.refuse(context, f"is for the local server, not for {ENGINE}. {TO_LOCAL}", *LOCAL_ALONE)
        command = _engine_command(program, models, port, grpc_port, host)
        command.append(f"--rest_api_timeout_in_ms={round(1000 * timeout)}")
        command.append(f"--file_system_poll_wait_seconds={max(1, round(poll_seconds))}")
    else:
        settings = Settings(
            models=str(models.expanduser()),
            host=host or Settings.host,
            port=port,
            grpc_port=grpc_port,
            max_batch_size=max_batch_size,
            batch_window_ms=batch_window_ms,
            threads=threads,
            max_body_mb=max_body_mb,
            timeout=timeout,
            poll_seconds=poll_seconds,
            grace_seconds=grace_seconds,
        )
        command = [
            sys.executable,
            str(entries.package() / "serving"),
            settings.to_json(),
        ]
    # The server replaces this process, so it receives the signals.
    os.execve(command[0], command, environment)


def _require_extra() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"tfgen serve needs {', '.join(missing)}. {how_to_install('serving')}")


def _absolute_config(models: Path, text: str) -> Path:
    """Writes models.config with absolute base paths, which TF Serving needs, and returns its path.

    It is the same one at every start on a repository, since nobody is left to remove it.
    """
    folder = Path(tempfile.gettempdir()) / f"tfgen-serve-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(
            f"{folder} must be yours; it is another user's. Set TMPDIR to a folder of your own."
        )
    from tfgen.files import replacing

    config = folder / f"{hashlib.sha256(os.fsencode(models)).hexdigest()}.config"
    with replacing(config) as path:
        path.write_text(text, encoding="utf-8")
    return config


def _engine_command(
    program: str, models: Path, port: int, grpc_port: int, host: str | None
) -> list[str]:
    """Returns the command that runs TF Serving on the repository.

    Raises:
        ValueError: `host` is one address, or a port is 0, which TF Serving does not support.
    """
    import_tensorflow()
    from tfgen.serving.repository import read_config

    if host not in (None, "0.0.0.0"):
        raise ValueError(
            f"{ENGINE} listens on every address of the machine; received --host {host}. {TO_LOCAL}"
        )
    if 0 in (port, grpc_port):
        raise ValueError(f"{ENGINE} cannot choose a free port; received 0. {TO_LOCAL}")
    models = models.expanduser()
    config = _absolute_config(models.resolve(), str(read_config(models)))
    typer.echo(
        f"tfgen serve: starting {program}, which listens on every address of this machine; "
        "--engine local starts the local server, with the page, on 127.0.0.1.",
        err=True,
    )
    command = [
        program,
        f"--port={grpc_port}",
        f"--rest_api_port={port}",
        f"--model_config_file={config}",
        "--allow_version_labels_for_unavailable_models",
        "--enable_batching",
    ]
    for flag, file in ENGINE_FILES.items():
        if (models / file).is_file():
            command.append(f"--{flag}={(models / file).resolve()}")
    return command
