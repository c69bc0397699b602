"""Ending a run on request: Ctrl-C or SIGTERM saves it, and prints how to continue.

Between two steps a run can be saved at once; in an epoch's end (validation, pictures) what its last
step left is kept in memory for that. Only a long step, such as the first one, which compiles, must
be waited for; or given up, since the newest checkpoint is on disk. One that is being written is
finished first, unless a disk hangs for longer than WRITING.
"""

import contextlib
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tfgen import devices
from tfgen.arrays import last_written

__all__ = ["Stop"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WRITING = 30.0  # seconds that a process which ends in a step waits for its checkpoint


class Stop:
    """A request to end a run.

    Attributes:
        signal: Which signal has asked for the end; None if none has.
        pending: Writes the state that an epoch's last step left; None between such times.
        writing: Held while a checkpoint is written. A thread may take it again, as a signal's
            handler does in the middle of a checkpoint.

    Args:
        folder: The run's folder.
        within: Seconds after which the process ends even if a step still runs, or up to WRITING
            later if a checkpoint is being written; None waits for the step.
    """

    def __init__(self, folder: Path, within: float | None = None):
        self.folder, self.within = Path(folder), within
        self.signal: int | None = None
        self.pending: Callable[[], None] | None = None
        self.writing = threading.RLock()
        self._ended = threading.Event()
        self._told = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over for a while."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return
        before = {number: signal.signal(number, self._request) for number in SIGNALS}
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, args=(reader,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            self._ended.set()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            writer.close()
            watcher.join()
            reader.close()

    def _request(self, number, frame) -> None:
        """Python runs this in the main thread, once native code returns."""
        again, self.signal = self.signal is not None, number
        if again or self.pending is not None:
            self.end()

    def end(self) -> None:
        """Saves what is pending, prints how to continue, and raises what ends the run.

        Raises:
            KeyboardInterrupt: Ctrl-C asked for the end.
            SystemExit: SIGTERM did; exit code 143.
        """
        self._save()
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)

    def _save(self) -> None:
        with self.writing:
            pending, self.pending = self.pending, None
            if pending is not None:
                pending()
            if devices.is_chief() and not self._told:
                self._told = True
                print(f"\ntfgen: {self._advice()}", file=sys.stderr, flush=True)

    def _save_or_say(self) -> None:
        try:
            self._save()
        except OSError as error:  # such as that of a full disk
            print(f"\ntfgen: {error}; {self._advice()}", file=sys.stderr, flush=True)

    def _advice(self) -> str:
        newest, saved = last_written(self.folder), "no step to save yet; begin"
        if newest is not None:
            saved = f"saved at step {int(newest.stem.split('-')[1]):,}; continue"
        folder = shlex.quote(str(self.folder.absolute()))
        return (
            f"{saved} with: tfgen train {folder} --out {folder} --resume\n"
            "       (and with other options that you gave, such as --keep-epochs)"
        )

    def _watch(self, reader: socket.socket) -> None:
        """Ends the process if the main thread does not in time."""
        while received := reader.recv(1):
            if received[0] in SIGNALS and self.within is not None:
                if not self._ended.wait(self.within):
                    # In a thread of its own, since a disk may hang for good.
                    saving = threading.Thread(target=self._save_or_say, daemon=True)
                    saving.start()
                    saving.join(WRITING)
                    if not self._ended.is_set():
                        os._exit(128 + received[0])
                return
