"""What the commands share: two consoles, plain errors, quiet libraries."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ..ground.errors import InputError, ParityError
from . import shell
from .folders import OutputFolder
from .names import DTYPES

STUDY = Path("fv_lens_study")
LIBRARY = STUDY / "vectors"
MOST_PROMPTS, MOST_DEALS, MOST_EACH, MOST_SEED = 10_000, 100, 10_000, 2**32 - 1  # more is a typing error


def expanded(value: Any) -> Any:
    """A path, or several, with `~` expanded, which a shell does not do in --out=~/results."""
    if isinstance(value, list | tuple):
        return [expanded(item) for item in value]
    return None if value is None else type(value)(os.path.expanduser(value))


ModelName = Annotated[
    str, typer.Option(help="smollm2-135m, gemma-3-270m, a Hugging Face name, a model folder, or a .gguf file.")
]
ModelNames = Annotated[
    list[str] | None,
    typer.Option(help="Several models instead, each as for --model, with commas between or --models again."),
]

Dtype = Annotated[str, typer.Option(help=f"Of the weights: {', '.join(DTYPES)}.")]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # as it came; rich would exit with 1


console, notes = _Console(highlight=False), _Console(stderr=True, highlight=False)


def tell(line: str) -> None:
    """Show a line before a stage."""
    notes.print(Text(line, style="bold"), soft_wrap=True)


@contextmanager
def output_folder(out: Path, command: str, saved: list[Path]) -> Iterator[OutputFolder]:
    """The folder that a command writes to; if the command is stopped, `saved` gets the finished stages.

    Before the plan is claimed, stages may be another run's, so an error does not mention them.
    """
    with OutputFolder(out, command) as folder:
        try:
            yield folder
        except BaseException as error:
            if folder.stages and (folder.claimed or isinstance(error, KeyboardInterrupt)):
                saved[:] = [out / "stages"]
            raise


@contextmanager
def plain_errors(saved: Sequence[Path] = (), goes_on: bool = False) -> Iterator[None]:
    """Turn expected errors into one line, which names what has been saved, and an exit code."""
    try:
        with shell.interruptible():
            yield
        return
    except (InputError, ParityError) as error:
        line, code = f"Error: {' '.join(str(error).splitlines())}", 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        line, code = "Interrupted.", shell.INTERRUPTED
    except OSError as error:
        if not shell.is_of_output(error):
            raise
        raise typer.Exit(shell.output_failed(error)) from None
    if saved:
        again = " The same command goes on from there." * (goes_on and code == shell.INTERRUPTED)
        line += f" Saved before that: {', '.join(map(str, saved))}.{again}"
    elif code == shell.INTERRUPTED:
        line += " Nothing was saved."
    shell.say(line)
    raise typer.Exit(code)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' warnings; other warnings are shown as notes."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        typer.echo(f"Note: {message}", err=True)

    with warnings.catch_warnings():
        for library in ("huggingface_hub", "torch", "transformer_lens", "transformers"):
            warnings.filterwarnings("ignore", module=library)
        warnings.showwarning = show
        yield
