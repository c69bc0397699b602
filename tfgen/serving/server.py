"""The local server's process: REST and gRPC in one event loop, models in threads."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import grpc
import uvicorn
import uvloop

from tfgen.serving.backend import Backend, Metrics
from tfgen.serving.batching import Batcher
from tfgen.serving.repository import Repository
from tfgen.serving.rest import build_app
from tfgen.serving.rpc import handlers
from tfgen_command.process import Settings, port_in_use
from tfgen_command.wording import counted

__all__ = ["run"]

_log = logging.getLogger("tfgen.serving")


class _Web(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):
        """Leaves signals to `_serve`, which also stops gRPC."""
        yield


def run(settings: Settings, listener: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT, then finishes the requests that are running and returns.

    Args:
        settings: See `Settings`.
        listener: Where REST and the page are served.

    Raises:
        ValueError: A setting is out of range, or `models` is not a repository.
        OSError: The gRPC port is in use.
    """
    logging.basicConfig(stream=sys.stderr, format="tfgen serve: %(message)s", level=logging.INFO)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # A request takes several turns of the loop, which cost less in uvloop than in asyncio.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listener))


async def _serve(settings: Settings, listener: socket.socket) -> None:
    metrics = Metrics()
    repository = Repository(
        Path(settings.models), settings.poll_seconds, metrics.note_version, settings.timeout
    )
    limit = int(settings.max_body_mb * 2**20)
    batcher = Batcher(
        settings.max_batch_size,
        settings.batch_window_ms / 1000,
        settings.threads,
        on_batch=metrics.count_batch,
    )
    backend = Backend(repository, batcher, metrics, limit, settings.timeout)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    rpc, grpc_port = _rpc_server(settings, backend, host, limit)
    web = _Web(
        uvicorn.Config(
            build_app(backend),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=max(int(settings.grace_seconds), 1),
        )
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop_loading)
    await asyncio.to_thread(repository.start)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    gc.freeze()  # what TensorFlow made is never searched for garbage again, which takes 0.3 s
    await rpc.start()
    serving = asyncio.create_task(web.serve(sockets=[listener]))
    while not (web.started or serving.done()):
        await asyncio.sleep(0.01)
    port = listener.getsockname()[1]
    _log.info(
        "%s at http://%s:%d (page and REST) and %s:%d (gRPC); this local server is for "
        "trying models out, use TF Serving in production",
        counted(len(repository.models()), "model"),
        host,
        port,
        host,
        grpc_port,
    )
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
    _log.info("stopping; running requests have %g seconds to finish", settings.grace_seconds)
    backend.draining = True
    web.should_exit = True
    await asyncio.gather(rpc.stop(settings.grace_seconds), serving)
    batcher.stop()
    # Whatever still runs has no client left.
    if not await asyncio.to_thread(repository.stop, 1.0):
        _stop_loading()


def _stop_loading() -> None:
    """Ends the process at once: nobody is served, and TensorFlow cannot be interrupted."""
    _log.info("stopped while a model was loaded or unloaded")
    logging.shutdown()
    os._exit(0)


def _rpc_server(
    settings: Settings, backend: Backend, host: str, limit: int
) -> tuple[grpc.aio.Server, int]:
    """Makes the gRPC server, not yet started, and returns it with its port."""
    # Without grpc.so_reuseport=0, two servers would silently share a port.
    rpc = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
        ]
    )
    rpc.add_generic_rpc_handlers(handlers(backend))
    try:
        port = rpc.add_insecure_port(f"{host}:{settings.grpc_port}")
    except RuntimeError:
        raise port_in_use(settings.host, settings.grpc_port, "--grpc-port", "in use") from None
    return rpc, port
