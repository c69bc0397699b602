"""`tfgen serve`."""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tfgen.serving.settings import Settings

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


def serve(
    models: Annotated[
        Path, typer.Option(help="Model repository: NAME/VERSION/saved_model.pb.")
    ] = Path("saved_models"),
    port: Annotated[int, typer.Option(help="REST and the page; 0: any free one.")] = Settings.port,
    grpc_port: Annotated[int, typer.Option(help="gRPC; 0: any free one.")] = Settings.grpc_port,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default 127.0.0.1, this machine only.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="auto: tensorflow_model_server if it is on the PATH, else the local server; "
            "local; tensorflow_model_server."
        ),
    ] = "auto",
    max_batch_size: Annotated[
        int, typer.Option(help="Most rows in a call, and in a request.")
    ] = Settings.max_batch_size,
    batch_window_ms: Annotated[
        float, typer.Option(help="How long a request waits for others to run with.")
    ] = Settings.batch_window_ms,
    threads: Annotated[int, typer.Option(help="Calls side by side.")] = Settings.threads,
    max_body_mb: Annotated[
        float, typer.Option(help="Most megabytes of a request.")
    ] = Settings.max_body_mb,
    timeout: Annotated[float, typer.Option(help="Most seconds for a request.")] = Settings.timeout,
    poll_seconds: Annotated[
        float, typer.Option(help="Time between two looks for new versions.")
    ] = Settings.poll_seconds,
    grace_seconds: Annotated[
        float, typer.Option(help="Time that running requests get on SIGTERM.")
    ] = Settings.grace_seconds,
) -> None:
    """Serves SavedModels over TF Serving's REST and gRPC, with a page to try them at the root.

    The local server is for trying out; in production run TF Serving on the same folder.
    """
    for name, value, least, most in (
        ("--port", port, 0, 65535),
        ("--grpc-port", grpc_port, 0, 65535),
        ("--max-batch-size", max_batch_size, 1, 2**20),
        ("--batch-window-ms", batch_window_ms, 0, 10_000),
        ("--threads", threads, 1, 256),
        ("--max-body-mb", max_body_mb, 0.001, 2047),
        ("--timeout", timeout, 0.001, 86_400),
        ("--poll-seconds", poll_seconds, 0.01, 86_400),
        ("--grace-seconds", grace_seconds, 0, 86_400),
    ):
        if not least <= value <= most:
            raise ValueError(f"{name} must lie in [{least}, {most}]; received {value}.")
    if port == grpc_port != 0:
        raise ValueError(f"--port and --grpc-port must differ; received {port} for both.")
    if engine not in ("auto", "local", ENGINE):
        raise ValueError(f"--engine must be auto, local or {ENGINE}; received {engine!r}.")
    _need_extra()
    found = shutil.which(ENGINE)
    if engine == ENGINE and found is None:
        raise ValueError(f"--engine {ENGINE}: no such program is on the PATH. Use --engine local.")
    if found and engine != "local":
        command = _engine_command(found, models, port, grpc_port, host)
    else:
        settings = Settings(
            str(models.expanduser()),
            host or Settings.host,
            port,
            grpc_port,
            max_batch_size,
            batch_window_ms,
            threads,
            max_body_mb,
            timeout,
            poll_seconds,
            grace_seconds,
        )
        command = [sys.executable, str(Path(__file__).parent), settings.to_json()]
    # The server takes this process's place: signals reach it, and Keras' memory is given back.
    os.execv(command[0], command)


def _need_extra() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"tfgen serve needs {', '.join(missing)}: pip install 'tfgen[serving]'.")


def _engine_command(
    program: str, models: Path, port: int, grpc_port: int, host: str | None
) -> list[str]:
    """Returns the command that runs TF Serving on the repository.

    Raises:
        ValueError: One address was asked for, which TF Serving cannot do.
    """
    from tfgen.serving.repository import read_config

    if host not in (None, "0.0.0.0"):
        raise ValueError(
            f"{ENGINE} listens on every address of the machine; received --host {host}. Leave "
            "--host out, or use --engine local."
        )
    models = models.expanduser()
    # A file of its own, since base paths must be absolute; TF Serving reads it while it runs.
    config = Path(tempfile.mkdtemp(prefix="tfgen-serve-")) / "models.config"
    config.write_text(str(read_config(models)))
    typer.echo(
        f"tfgen serve: starting {program}, which listens on every address of this machine; "
        "--engine local starts the local server, with the page, on 127.0.0.1.",
        err=True,
    )
    made = [
        program,
        f"--port={grpc_port}",
        f"--rest_api_port={port}",
        f"--model_config_file={config}",
        "--allow_version_labels_for_unavailable_models",
        "--enable_batching",
    ]
    for flag, file in ENGINE_FILES.items():
        if (models / file).is_file():
            made.append(f"--{flag}={(models / file).resolve()}")
    return made
