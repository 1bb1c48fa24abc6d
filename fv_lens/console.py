"""What the commands share: two consoles, plain errors, quiet libraries."""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from .errors import InputError, ParityError

STUDY = Path("fv_lens_study")
LIBRARY = STUDY / "vectors"
ModelName = Annotated[str, typer.Option(help="smollm2-135m, a Hugging Face name, or a model folder.")]

console, notes = Console(highlight=False), Console(stderr=True, highlight=False)


def teller(saved: list[Path], out: Path) -> Callable[[str], None]:
    """A function that shows a line before each stage; `saved` gets the folder of stages once one is in it."""

    def tell(line: str) -> None:
        saved[:] = [out / "stages"] if any((out / "stages").glob("*.safetensors")) else []
        notes.print(Text(line, style="bold"))

    return tell


@contextmanager
def plain_errors(saved: Sequence[Path] = (), goes_on: bool = False) -> Iterator[None]:
    """One line and an exit code for what can be expected to go wrong, and what is on disk by then."""
    try:
        yield
        return
    except (InputError, ParityError) as error:
        line, code = f"Error: {' '.join(str(error).splitlines())}", 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        line, code = "Interrupted.", 130
    if saved:
        again = " The same command goes on from there." * (goes_on and code == 130)
        line += f" Saved before that: {', '.join(map(str, saved))}.{again}"
    elif code == 130:
        line += " Nothing was saved."
    typer.echo(line, err=True)
    raise typer.Exit(code)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' advice; other warnings are shown as notes."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

    def show(message: Warning | str, *args: object, **kwargs: object) -> None:
        typer.echo(f"Note: {message}", err=True)

    with warnings.catch_warnings():
        for library in ("huggingface_hub", "torch", "transformer_lens", "transformers"):
            warnings.filterwarnings("ignore", module=library)
        warnings.showwarning = show
        yield


def check_writable(out: Path) -> None:
    """Try to write where the folder is or will be made, and leave nothing there."""
    try:
        nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InputError(f"Cannot write to {str(out)!r}: {error.strerror or error}. Choose another --out.") from None
