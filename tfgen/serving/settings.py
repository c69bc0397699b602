"""What can be set about the local server. Imports nothing heavy: the command line reads it too."""

import dataclasses
import json

__all__ = ["Settings"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the local server.

    Args:
        models: The model repository, a folder.
        host: Address to listen on.
        port: REST and the page; 0 for any free one.
        grpc_port: gRPC; 0 for any free one.
        max_batch_size: Most rows in a call, and in a request.
        batch_window_ms: How long a request waits for mates while another call runs.
        threads: Calls that run side by side.
        max_body_mb: Most megabytes of a request.
        timeout: Most seconds for a request.
        poll_seconds: Time between two looks at the repository.
        grace_seconds: Time that running requests get when the server is told to stop.
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
        """Returns the settings as one word for a command line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Reads what `to_json` wrote."""
        return cls(**json.loads(text))
