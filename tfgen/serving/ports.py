"""Ports, taken before TensorFlow is imported, so one that is in use is reported at once."""

import socket

__all__ = ["listen", "port_in_use"]


def listen(host: str, port: int, option: str) -> socket.socket:
    """Returns a socket that listens: connections wait until the server accepts them.

    One that is only bound would not keep a second server from the port while models are loading.

    Args:
        host: An address of this machine.
        port: 0 for any free one.
        option: The command-line option that chose the port, for the message.

    Raises:
        OSError: The address is not of this machine, or the port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; an answer would wait
    # 40 ms otherwise.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise port_in_use(host, port, option, error.strerror or str(error)) from None
    return listener


def port_in_use(host: str, port: int, option: str, reason: str) -> OSError:
    """Returns the error for a port that cannot be listened on."""
    return OSError(
        f"cannot listen on port {port} of {host}: {reason}. Choose another with {option}, or "
        "another address with --host."
    )
