"""The whole command line: every command, and the form of an error.

An error that the command can explain, mostly bad input, ends with exit code 2 and one line; a lost
connection to another worker with 75 and one line. Anything else that goes wrong is a bug and shows
its traceback.
"""

import os
import re
import sys
from typing import NoReturn

import typer

from tfgen_command import (  # noqa: F401  they add their commands to the application
    draw,
    look,
    measure,
    own_images,
    serve,
    work,
)
from tfgen_command.app import app
from tfgen_command.process import on_sigterm
from tfgen_command.wording import wiping

__all__ = ["app", "run"]

EXPLAINED = (ValueError, NotImplementedError, OSError, ImportError, FloatingPointError)
NO_MEMORY = "out of memory; use a smaller batch or model"
TOLD = {
    "DataLossError": "a record of the data is damaged. Prepare the shards again.",
    "NotFoundError": "",  # its own message is told
    "OverflowError": "a number is too large",
    "PermissionDeniedError": "",
    "ResourceExhaustedError": NO_MEMORY,
}
INTERRUPTED = 130  # what typer returns after Ctrl-C
NO_HOME = "Could not determine home directory."  # what pathlib says of ~NAME


def run() -> NoReturn:
    """Runs the command line: one line on stderr and exit code 2 for errors it can explain.

    Raises:
        SystemExit: Always.
    """
    on_sigterm(lambda *_: sys.exit(143))  # so that `finally` is reached
    if sys.stdout is None:  # closed, which Keras' progress bar does not expect
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):  # names of files need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(prog_name="tfgen", standalone_mode=False)
        if code == INTERRUPTED:
            _fail("interrupted", code)
    except typer.TyperException as error:  # an option that does not exist, or out of its range
        # Without the prefix of pydantic, which checks choices.
        _fail(error.format_message().replace("Value error, ", ""))
    except ConnectionError as error:  # worth another try, unlike most others
        _fail(error, os.EX_TEMPFAIL)
    except MemoryError as error:  # that of Python has no message
        _fail(str(error) or NO_MEMORY)
    except EXPLAINED as error:
        _fail(error)
    except RuntimeError as error:
        if str(error) != NO_HOME:
            raise
        _fail("~NAME must be a user of this machine; write ./~NAME for a file.")
    except Exception as error:
        kind = type(error).__name__  # TensorFlow's are not imported: that takes seconds
        if kind not in TOLD:
            raise
        _fail(str(error) if "space left" in str(error) else TOLD[kind] or str(error))
    sys.exit(code or 0)


def _fail(error: Exception | str, code: int = 2) -> NoReturn:
    line = re.sub(r"\s*\n\s*", " ", str(error).strip())  # spaces may be of a file's name
    typer.echo(f"{wiping(sys.stderr)}tfgen: {line}", err=True)
    raise SystemExit(code)
