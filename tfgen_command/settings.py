"""Settings of the local server. Imports nothing heavy, since the command line uses it too."""

import dataclasses
import json

__all__ = ["Settings"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the local server.

    Args:
        models: The model repository, a folder.
        host: Address to listen on.
        port: Port of REST and the page; 0 for any free port.
        grpc_port: Port of gRPC; 0 for any free port.
        max_batch_size: Maximum rows per batch and per request.
        batch_window_ms: Maximum wait for other requests to batch with, while another call runs.
        threads: Calls that run at the same time.
        max_body_mb: Maximum request size in MiB.
        timeout: Maximum seconds per request.
        poll_seconds: Seconds between checks of the repository for changes.
        grace_seconds: Seconds for running requests to finish after the server is stopped.
    """

    models: str
    host: str = "127.0.0.1"
    port: int = 8501
    grpc_port: int = 8500
    max_batch_size: int = 256
    batch_window_ms: float = 2.0
    threads: int = 2
    max_body_mb: float = 64.0
    timeout: float = 30.0
    poll_seconds: float = 1.0
    grace_seconds: float = 30.0

    def to_json(self) -> str:
        """Returns the settings as one command-line argument."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Parses the output of `to_json`."""
        return cls(**json.loads(text))
