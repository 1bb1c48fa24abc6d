"""Ctrl-C and SIGTERM, which end a command and all that it has started."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM acts as Ctrl-C does, so that workers do not outlive the command."""
    with _handling(signal.SIGTERM, signal.default_int_handler):
        yield


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """What is started within passes over the Ctrl-C of its terminal: the command acts on it, and ends its workers."""
    with _handling(signal.SIGINT, signal.SIG_IGN):
        yield


@contextmanager
def _handling(number: signal.Signals, how: "signal._HANDLER") -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield
        return
    before = signal.signal(number, how)
    try:
        yield
    finally:
        signal.signal(number, before)
