"""A local server and a client that speak TensorFlow Serving's own REST and gRPC."""

from tfgen.serving.client import Client
from tfgen.serving.errors import ServingError

__all__ = ["Client", "ServingError"]
