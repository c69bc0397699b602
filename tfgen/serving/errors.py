"""Errors as TF Serving reports them: gRPC status codes and the HTTP status of each."""

__all__ = ["CODES", "ServingError", "code_of_http", "invalid"]

# {name: (gRPC's number, HTTP status)}; TF Serving's own table.
CODES = {
    "OK": (0, 200),
    "CANCELLED": (1, 499),
    "UNKNOWN": (2, 500),
    "INVALID_ARGUMENT": (3, 400),
    "DEADLINE_EXCEEDED": (4, 504),
    "NOT_FOUND": (5, 404),
    "ALREADY_EXISTS": (6, 409),
    "PERMISSION_DENIED": (7, 403),
    "RESOURCE_EXHAUSTED": (8, 429),
    "FAILED_PRECONDITION": (9, 400),
    "ABORTED": (10, 409),
    "OUT_OF_RANGE": (11, 400),
    "UNIMPLEMENTED": (12, 501),
    "INTERNAL": (13, 500),
    "UNAVAILABLE": (14, 503),
    "DATA_LOSS": (15, 500),
    "UNAUTHENTICATED": (16, 401),
}
# The code to assume where several share an HTTP status.
_OF_HTTP = {status: name for name, (_, status) in reversed(CODES.items())} | {
    413: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
}


class ServingError(Exception):
    """A request that failed.

    Args:
        code: A key of `CODES`, e.g. "NOT_FOUND".
        message: What was wrong and how to fix it.
        http: The HTTP status, if not that of `CODES`.
    """

    def __init__(self, code: str, message: str, http: int | None = None):
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.http = CODES[code][1] if http is None else http

    def __reduce__(self) -> tuple:
        return type(self), (self.code, self.message, self.http)


def invalid(message: str) -> ServingError:
    """Returns the error for a request that does not fit what is served."""
    return ServingError("INVALID_ARGUMENT", message)


def code_of_http(status: int) -> str:
    """Returns the code that an HTTP status stands for.

    >>> code_of_http(404), code_of_http(418), code_of_http(502)
    ('NOT_FOUND', 'INVALID_ARGUMENT', 'UNAVAILABLE')
    """
    return _OF_HTTP.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
