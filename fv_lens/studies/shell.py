"""Shell manners of the commands: Ctrl-C at any moment, closed pipes, full disks, old encodings.

Imports nothing slow, as it is active while everything else is imported.
"""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED, BROKEN_PIPE, NOT_WRITTEN = 130, 141, 1  # exit codes; the first two are what shells give for the signals
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def begin() -> None:
    """Before the imports: end at once on Ctrl-C, and print what the encoding lacks as \\u1234."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job ignores it, and may
        signal.signal(signal.SIGINT, _end)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _end(number: int, frame: FrameType | None) -> None:
    # No exception: one that is raised while modules are imported may be swallowed, or shown with a traceback.
    os.write(2, b"Interrupted. Nothing was saved.\n")
    os._exit(INTERRUPTED)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt inside, for a command to say what is saved; after it nothing is left to stop."""
    begun = signal.getsignal(signal.SIGINT) is _end
    if begun:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if begun:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def is_of_output(error: OSError) -> bool:
    """Whether it is standard output or error that could not be written to: they have no file name."""
    return error.filename is None and (isinstance(error, BrokenPipeError) or error.errno in NO_ROOM)


def output_failed(error: OSError) -> int:
    """The exit code where standard output cannot be written to, after one line unless it is a pipe nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
            continue
        with suppress(OSError, ValueError, AttributeError):  # what is buffered would fail again at exit
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    say(f"Error: the output cannot be written: {error.strerror or error}")
    return NOT_WRITTEN


def say(line: str) -> None:
    """Print a line on standard error, if it can be written to."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
