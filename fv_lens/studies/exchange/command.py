"""The commands `fv-lens export` and `fv-lens import`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ...ground.errors import InputError
from ..console import console, expanded, notes, plain_errors, quiet
from ..own_model import model_of

EVERY_TOKEN = (
    "llama.cpp and repeng add it at every token, for which it was not made: choose its strength there again, half "
    "or less to begin with (--control-vector-scaled FILE:0.5)."
)


def export(
    vectors: Annotated[list[Path], typer.Argument(callback=expanded, help="A saved vector, or several.")],
    out: Annotated[Path, typer.Option(callback=expanded, help="The file to write.")],
    model: Annotated[str | None, typer.Option(help="As for run; by default the vector's own model.")] = None,
    to: Annotated[
        str,
        typer.Option(help="gguf: for llama.cpp and repeng. safetensors: plain tensors, direction.N for block N."),
    ] = "gguf",
    model_type: Annotated[
        str | None,
        typer.Option(help="Its model type in transformers, such as llama; the model is then not loaded, nor checked."),
    ] = None,
) -> None:
    """Write saved vectors in another engine's format: a GGUF control vector, for llama.cpp and repeng."""
    with plain_errors(), quiet():
        if model and model_type:
            raise InputError(f"--model is {model!r} and --model-type {model_type!r}; give one of them.")
        from ...vectors.formats.exchange import export_vectors
        from ...vectors.function_vector import FunctionVector

        exports = [FunctionVector.load(vector) for vector in vectors]
        target = None if model_type else model_of(exports[0], vectors[0], model)
        chosen: Any = to  # `export_vectors` says what else it could be
        export_vectors(exports, out, model=target, model_type=model_type, to=chosen)
        console.print(Text(str(out)), soft_wrap=True)
        if to == "gguf":
            notes.print(Text(EVERY_TOKEN), soft_wrap=True)


def import_(
    file: Annotated[Path, typer.Argument(callback=expanded, help="A GGUF control vector, of llama.cpp or repeng.")],
    model: Annotated[
        str | None, typer.Option(help="The model it is for, as for run; needed unless fv-lens export wrote the file.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(callback=expanded, help="The vector to save.", show_default="FILE.safetensors")
    ] = None,
) -> None:
    """Save the vectors of another engine's file, one for each layer, each with -layerN in its name if several."""
    with plain_errors(), quiet():
        from ...models.load import load_model
        from ...vectors.formats.exchange import import_vectors

        vectors = import_vectors(file)  # a file that cannot be read shows before the model is loaded
        if model:
            vectors = import_vectors(file, load_model(model))
        elif not vectors[0].model:
            raise InputError(f"{str(file)!r} does not say which model it is for; pass --model.")
        target = out or file.with_suffix(".safetensors")
        for vector in vectors:
            suffix = f"-layer{vector.layer}" if len(vectors) > 1 else ""
            path = target.with_name(f"{target.stem}{suffix}{target.suffix}")
            vector.save(path)
            summary = f"{vector.method}, layer {vector.layer}, norm {vector.vector.norm():.3g}"
            console.print(Text(f"{path}  {summary}"), soft_wrap=True)
