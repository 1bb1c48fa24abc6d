"""The command line: `fv-lens run`, `reproduce`, `analogies`, `humans`, `library`, `harness` and others.

Slow imports (torch, TransformerLens) are inside the commands, so that help is instant.
"""

import json
import shlex
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..datasets.relation_files import FORMAT, OPTIONAL, load_relation, relation_names
from ..datasets.relations import pairs_for
from ..ground.errors import InputError
from .analogies.command import analogies
from .console import (
    MOST_PROMPTS,
    MOST_SEED,
    ModelName,
    console,
    expanded,
    notes,
    output_folder,
    plain_errors,
    quiet,
    tell,
)
from .exchange.command import export, import_
from .harness.command import harness
from .humans.command import humans
from .job import Job
from .library.command import library
from .own_model import model_of
from .reproduce.command import reproduce
from .reproduce.merge import merge
from .run.study import N_SHOTS
from .table import table

ENOUGH = pairs_for(N_SHOTS + 1)  # pairs of a relation for `run`: the prompts' own word is of the train part, too
FILES = f"{ENOUGH} pairs or more: JSON {FORMAT}, optionally with {OPTIONAL}; or a .csv of words and answers."

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"fv-lens {metadata.version('fv-lens')}")
        raise typer.Exit()
    return wanted


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Function vectors: find the heads that carry a relation, build its vector, insert it, measure it."""


@app.command()
def run(
    relation: Annotated[
        str, typer.Argument(callback=expanded, help=f"A bundled relation, or a file of {FILES}")
    ] = "antonym",
    model: ModelName = "smollm2-135m",
    out: Annotated[Path, typer.Option(callback=expanded, help="Folder for the results.")] = Path("fv_lens_run"),
    prompts: Annotated[int, typer.Option(min=1, max=MOST_PROMPTS, help="Prompts on which effects are measured.")] = 25,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Seed of every random choice, including the split of the words.")
    ] = 0,
) -> None:
    """Find the heads of a relation, choose and tune its vector, evaluate it on test words, read it in words."""
    saved: list[Path] = []
    with plain_errors(saved), quiet():
        pairs = load_relation(relation)
        if len(pairs) < ENOUGH:
            raise InputError(
                f"relation {pairs.name!r} has {len(pairs)} pairs and `fv-lens run` needs {ENOUGH} or more (add "
                f"{ENOUGH - len(pairs)}): its prompts show {N_SHOTS} pairs beside the one they ask for, all of the "
                "train part, two fifths of the pairs"
            )
        train = pairs.split(seed).train
        options = {"--model": model, "--out": out, "--prompts": prompts, "--seed": seed}
        arguments = [str(part) for option in options.items() for part in option]
        command = shlex.join(["fv-lens", "run", relation, *arguments])
        with output_folder(out, "run", saved) as folder:
            # Shows a header that was read as a pair, or a file that was not meant.
            (word, answers), *_ = pairs.pairs
            notes.print(Text(f"{pairs.name}: {len(pairs)} pairs, the first {word} → {answers[0]}"))
            from ..datasets.prompts import corrupted
            from .run.study import run as run_one

            corrupted(train, prompts, N_SHOTS, seed)  # what cannot be asked shows before the model is loaded
            run_one(pairs, model, prompts, seed, Job(folder, command, tell), saved, console, notes)


@app.command()
def relations() -> None:
    """List the bundled relations."""
    table = Table("name", "category", "family", "pairs", "example", box=None, padding=(0, 1, 0, 0), header_style="bold")
    # A name cut short could not be given to the other commands.
    table.columns[0].no_wrap = True
    table.columns[3].justify = "right"
    with plain_errors():
        for name in relation_names():
            relation = load_relation(name)
            word, answers = relation.pairs[0]
            table.add_row(name, relation.category, relation.family, str(len(relation)), f"{word} → {answers[0]}")
        console.print(table)


@app.command()
def generate(
    vector: Annotated[Path, typer.Argument(callback=expanded, help="A saved vector.")],
    prompt: Annotated[str, typer.Argument(help=r"The prompt; a \n in it is a new line.")],
    model: Annotated[str | None, typer.Option(help="As for run; by default the vector's own model.")] = None,
    strength: Annotated[float, typer.Option(help="Multiplies the vector.")] = 1.0,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 8,
) -> None:
    """Complete a prompt greedily, without and with a vector."""
    with plain_errors(), quiet():
        if not prompt:
            raise InputError("The prompt is empty; give some text, such as 'Q: big\\nA:'.")
        from ..vectors.function_vector import FunctionVector

        fv = FunctionVector.load(vector)
        loaded = model_of(fv, vector, model)

        import torch

        from ..models.lens import lens_of
        from ..vectors.patching import patch

        lens = lens_of(loaded)
        ids = torch.tensor([lens.tokens(prompt.replace("\\n", "\n"))], device=lens.device)
        if ids.shape[1] + tokens > lens.n_ctx:
            raise InputError(
                f"The prompt's {ids.shape[1]} tokens and {tokens} new ones exceed the context of {lens.n_ctx}; "
                "shorten the prompt, or lower --tokens."
            )

        def completion() -> Text:
            out = loaded.generate(ids, max_new_tokens=tokens, do_sample=False, return_type="tokens", verbose=False)
            # As JSON: spaces and new lines show.
            return Text(json.dumps(loaded.tokenizer.decode(out[0, ids.shape[1] :]), ensure_ascii=False))

        table = Table.grid(padding=(0, 2, 0, 0))
        with patch(loaded, fv, strength):
            patched = completion()
        table.add_row("without", completion())
        table.add_row("with", patched)
        console.print(table)


@app.command()
def decode(
    vector: Annotated[Path, typer.Argument(callback=expanded, help="A saved vector.")],
    model: Annotated[str | None, typer.Option(help="As for run; by default the vector's own model.")] = None,
    through: Annotated[
        str, typer.Option(help="unembed: final norm and unembedding (fast); model: inserted into neutral prompts.")
    ] = "unembed",
    k: Annotated[int, typer.Option("-k", min=1, help="Tokens to list at either end.")] = 10,
) -> None:
    """Read a vector through the vocabulary: the tokens it promotes and suppresses, the names of its relation."""
    with plain_errors(), quiet():
        from ..vectors.function_vector import FunctionVector

        fv = FunctionVector.load(vector)
        loaded = model_of(fv, vector, model)
        from ..evaluation.decoding import decode as read

        reading: Any = through  # `decode` says what else it could be
        console.print(Text(str(read(loaded, fv, k, reading))), soft_wrap=True)
        if through == "unembed":
            notes.print(Text("A vector from the middle of a model often says more with --through model."), style="dim")


app.command()(reproduce)
app.command()(merge)
app.command()(table)
app.command()(analogies)
app.command()(humans)
app.command()(library)
app.command()(export)
app.command("import")(import_)
app.command()(harness)


if __name__ == "__main__":
    app()
