"""What the libraries underneath say while a model loads: silenced, or quoted in one error."""

import contextlib
import io
from collections.abc import Iterator

import transformers

from ..ground.errors import InputError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings: a model either loads or raises."""
    talk = transformers.utils.logging
    verbosity, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        # The GGUF reader's bar has no switch; it writes to the standard error of the moment.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        talk.set_verbosity(verbosity)
        if bars:
            talk.enable_progress_bar()


@contextlib.contextmanager
def quoting(name: str, remedy: str) -> Iterator[None]:
    """Turn whatever the underlying libraries raise on a model into an InputError that quotes it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name!r} cannot be loaded: {first_line(error)} {remedy}") from error


def first_line(error: Exception) -> str:
    """First line of an error's message, shortened to 300 characters."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 300 else line[:300] + " ..."
