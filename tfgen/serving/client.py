"""A client for TF Serving's REST and gRPC: arrays in, arrays out.

It uses only the public protocol: it works with `tfgen serve` and TensorFlow Serving alike.
"""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from tfgen import checks
from tfgen.serving.errors import ServingError, invalid
from tfgen.serving.transports import Endpoint, Grpc, ModelSpec, Rest, convert
from tfgen_command.wording import how_to_install

__all__ = ["Client"]

FIRST_WAIT = 0.05  # seconds before the second attempt; doubles with each further one
LONGEST_WAIT = 2.0
DAY = 86_400  # seconds
# Codes that say nothing about a request's inputs.
NOT_READ = ("CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
_Answer = TypeVar("_Answer")


class Client:
    """Calls `tfgen serve` or TensorFlow Serving; safe to share between threads.

    >>> client = Client("http://127.0.0.1:8501")  # REST; "grpc://127.0.0.1:8500" for gRPC
    >>> client.predict("vae_mnist", {"seed": [0, 1]}, "sample")["images"].shape  # doctest: +SKIP
    (2, 28, 28, 1)

    Args:
        address: "http://host:port", "https://host:port", or "grpc://host:port".
        timeout: Seconds for a call, all its attempts included, at most a day. Over REST a body
            that comes in parts has as long for each.
        retries: Further attempts when the server is unavailable or the connection breaks, with
            exponential backoff and jitter. A request may therefore run twice, which changes
            nothing, since seeds are inputs.

    Raises:
        ValueError: An argument is out of range.
        ImportError: The `serving` extra is not installed.
    """

    def __init__(
        self, address: str = "http://127.0.0.1:8501", timeout: float = 30.0, retries: int = 3
    ):
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https", "grpc") or not parts.netloc:
            raise ValueError(
                "address must be http://host:port, https://host:port or grpc://host:port; "
                f"received {address!r}."
            )
        _deadline(timeout)
        checks.at_least(0, retries=retries)
        self.address = address
        self.timeout = timeout
        self.retries = retries
        try:
            self._transport = Grpc(parts.netloc) if parts.scheme == "grpc" else Rest(address)
        except ImportError as error:
            raise ImportError(f"Client needs {error.name}. {how_to_install('serving')}") from error
        self._known: dict[ModelSpec, dict[str, Endpoint]] = {}

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        signature: str = "serving_default",
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs an endpoint.

        Args:
            model: Its name on the server.
            inputs: {name: array or nested lists}, each with a leading batch axis. Numbers are
                converted if they fit, e.g. [0, 1] to int64.
            signature: The endpoint, e.g. "sample".
            version: The version; None for the newest.
            label: A version label, instead of a version.
            timeout: Seconds, instead of the client's.

        Returns:
            {name: array}; PNG files and other bytes are in object arrays.

        Raises:
            ValueError: An input cannot be converted to the endpoint's dtype, or `timeout` is out of
                range.
            ServingError: The server's error, DEADLINE_EXCEEDED or UNAVAILABLE.
        """
        model_spec = _model_spec(model, version, label)
        deadline = _deadline(self.timeout if timeout is None else timeout)
        known = self._known.get(model_spec, {}).get(signature)
        endpoint = known or self._endpoint(model_spec, signature, deadline)
        try:
            return self._predict(model_spec, signature, endpoint, inputs, deadline)
        except (ServingError, ValueError) as error:
            # A new version may have other inputs or outputs.
            if known is None or getattr(error, "code", None) in NOT_READ:
                raise
            fresh = self._endpoint(model_spec, signature, deadline)
            if fresh == known:
                raise
        return self._predict(model_spec, signature, fresh, inputs, deadline)

    def metadata(
        self, model: str, *, version: int | None = None, label: str | None = None
    ) -> dict[str, Endpoint]:
        """Returns a model's endpoints by name.

        Raises:
            ServingError: See `predict`.
        """
        model_spec = _model_spec(model, version, label)
        return self._fetched(model_spec, _deadline(self.timeout))

    def status(
        self, model: str, *, version: int | None = None, label: str | None = None
    ) -> dict[int, str]:
        """Returns {version: state}, e.g. {1: "AVAILABLE"}.

        Raises:
            ServingError: See `predict`.
        """
        model_spec = _model_spec(model, version, label)
        deadline = _deadline(self.timeout)
        return self._retrying(lambda left: self._transport.status(model_spec, left), deadline)

    def _fetched(self, model_spec: ModelSpec, deadline: float) -> dict[str, Endpoint]:
        """Returns a model's endpoints now, and remembers them."""
        found = self._retrying(lambda left: self._transport.metadata(model_spec, left), deadline)
        self._known[model_spec] = found
        return found

    def _endpoint(self, model_spec: ModelSpec, signature: str, deadline: float) -> Endpoint:
        endpoints = self._fetched(model_spec, deadline)
        if signature not in endpoints:
            raise invalid(
                f"{model_spec.name} has no endpoint {signature!r}; it has "
                f"{', '.join(sorted(endpoints))}.",
            )
        return endpoints[signature]

    def _predict(
        self,
        model_spec: ModelSpec,
        signature: str,
        endpoint: Endpoint,
        inputs: Mapping[str, Any],
        deadline: float,
    ) -> dict[str, np.ndarray]:
        if set(inputs) != set(endpoint.inputs):
            raise ValueError(
                f"inputs must be {', '.join(sorted(endpoint.inputs))}; received "
                f"{', '.join(sorted(inputs)) or 'none'}."
            )
        expected = endpoint.inputs.items()
        arrays = {name: convert(name, inputs[name], spec.dtype) for name, spec in expected}
        return self._retrying(
            lambda left: self._transport.predict(model_spec, signature, endpoint, arrays, left),
            deadline,
        )

    def _retrying(self, call: Callable[[float], _Answer], deadline: float) -> _Answer:
        """Calls with the remaining seconds, again while the server is unavailable."""
        attempt, pause = 0, FIRST_WAIT
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ServingError("DEADLINE_EXCEEDED", f"{self.address} did not respond in time.")
            try:
                return call(left)
            except ServingError as error:
                wait = pause * random.uniform(0.5, 1.0)
                attempt, pause = attempt + 1, min(2 * pause, LONGEST_WAIT)
                late = time.monotonic() + wait >= deadline
                if error.code != "UNAVAILABLE" or attempt > self.retries or late:
                    raise
            time.sleep(wait)


def _deadline(timeout: float) -> float:
    """Returns the time, of `time.monotonic`, at which so many seconds are over."""
    if isinstance(timeout, bool | str | None) or not 0 < timeout <= DAY:
        raise ValueError(f"timeout must be seconds in (0, {DAY}]; received {timeout!r}.")
    return time.monotonic() + timeout


def _model_spec(model: str, version: int | None, label: str | None) -> ModelSpec:
    if version is not None and label is not None:
        raise ValueError(
            f"give either version or label, not both; received {version} and {label!r}."
        )
    return ModelSpec(model, version, label)
