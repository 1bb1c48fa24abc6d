"""The card of a library: what it is, how to use it, what was measured, as Markdown with the hub's metadata."""

import importlib.resources
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ...ground.errors import InputError
from ...ground.markdown import markdown_table
from ...ground.measures import ELSEWHERE, MEASURES
from ...ground.scores import Score
from ...ground.storage import versions
from ...models.bundled import BUNDLED
from ..library_scores import VECTOR
from .record import LIBRARY_NAME

if TYPE_CHECKING:
    from jinja2 import Template

    from ..function_vector import FunctionVector
    from ..library import Library

TAGS = ("function-vectors", "activation-steering", "mechanistic-interpretability", "transformer-lens", LIBRARY_NAME)
Column = Callable[[str, "FunctionVector"], str]  # of a vector's name and itself
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def card_of(library: "Library", repo: str | None = None, base_model: str | None = None) -> str:
    """The text of a library's card.

    Args:
        repo: "org/name", where the card is for a repository.
        base_model: the model's name on the hub; by default that on record, where it is one.

    Raises:
        InputError: the hub's metadata cannot hold one of them.
    """
    base, example = base_model or base_model_of(library), _example(library)
    controls = [row for row in library.rows() if row != VECTOR]
    return _metadata(library, repo, base) + _template().render(
        library=library, title=repo or _title(library), model=_model(library), base=base, repo=repo,
        example=example, prompt=library.template.question.format(word=_word(library[example])),
        vectors=_table(library, {"made by": _method, "strength": _strength, "norm": _norm, "pairs": _pairs}),
        scores=_scores(library, controls), controls=controls, elsewhere=_elsewhere(library), versions=versions(),
    )  # fmt: skip


def base_model_of(library: "Library") -> str | None:
    """The name on the hub of the model that a library was made on, where its name tells."""
    name = library.model or ""
    if name in BUNDLED:
        return BUNDLED[name].hub
    return name if HUB_NAME.fullmatch(name) else None


def _model(library: "Library") -> str:
    """The name of the model, without the folders of a path, which are nobody else's."""
    name = library.model or "MODEL"
    return name if HUB_NAME.fullmatch(name) else PurePath(name).name


def _title(library: "Library") -> str:
    return f"Function vectors for {_model(library)}"


def _metadata(library: "Library", repo: str | None, base: str | None) -> str:
    """The block of YAML by which the hub finds and shows the card."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation", task_name="completion of words without examples", dataset_type=name,
            dataset_name=f"{name}, {score.n} test words", metric_type="accuracy", metric_name="whole answers right",
            metric_value=score.value, verified=False,
        )
        for name in library
        if (score := library.score(name))
    ]  # fmt: skip
    about: dict[str, Any] = {"license": library.licence, "library_name": LIBRARY_NAME, "tags": list(TAGS)}
    about |= {"pipeline_tag": "text-generation", "base_model": base}
    if results:
        about |= {"eval_results": results, "model_name": repo or _title(library)}
    try:
        return f"---\n{ModelCardData(**about)}\n---\n\n"
    except (ValueError, TypeError) as error:
        raise InputError(f"The card's metadata cannot be written: {error}.") from None


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"cell": cell, "code": code, "literal": literal}
    text = importlib.resources.files(__package__).joinpath("card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(text)


def cell(value: str) -> str:
    """A text for a cell of a Markdown table, or for a sentence: one line, in which nothing is Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>|~#&])", r"\\\1", " ".join(value.split()))


def literal(value: str) -> str:
    """A text as it is typed in Python, in double quotes, without a fence of Markdown in it."""
    return json.dumps(value, ensure_ascii=False).replace("`", "\\u0060")


def code(value: str) -> str:
    """The same in a span of code."""
    return f"`{literal(value)}`"


def _table(library: "Library", columns: Mapping[str, Column]) -> str:
    """A line for each vector, whose cells, in Markdown, are functions of its name and of itself."""
    body = [[cell(name), *(of(name, fv) for of in columns.values())] for name, fv in library.items()]
    return markdown_table(["vector", *columns], body)


def _method(name: str, fv: "FunctionVector") -> str:
    return cell(fv.method)


def _strength(name: str, fv: "FunctionVector") -> str:
    return f"{fv.strength:g}"


def _norm(name: str, fv: "FunctionVector") -> str:
    return f"{fv.vector.norm():.3g}"


def _pairs(name: str, fv: "FunctionVector") -> str:
    return str(fv.training["n_pairs"]) if fv.training else ""


def _unbroken(score: Score | None, signed: bool = False) -> str:
    """A score, whose interval stays on one line; "" for none."""
    return ("" if score is None else score.signed if signed else str(score)).replace(", ", ",\N{NO-BREAK SPACE}")


def _scores(library: "Library", controls: list[str]) -> str:
    """Whole answers right by vector and by control; "" where nothing was measured."""
    if not library.rows():
        return ""

    def of(row: str) -> Column:
        return lambda name, fv: _unbroken(library.score(name, "accuracy", row))

    def words(name: str, fv: "FunctionVector") -> str:
        score = library.score(name)
        return str(score.n) if score else ""

    return _table(library, {"with the vector": of(VECTOR), **{cell(row): of(row) for row in controls}, "words": words})


def _elsewhere(library: "Library") -> str:
    """Side effects by vector; "" where nothing was measured."""
    measures = [measure for measure in ELSEWHERE if library.rows(measure)]

    def of(measure: str) -> Column:
        return lambda name, fv: _unbroken(library.score(name, measure), signed=measure == "lost")

    return _table(library, {MEASURES[measure].column: of(measure) for measure in measures}) if measures else ""


def _example(library: "Library") -> str:
    """The vector that the card's lines of Python insert: the one with the highest score, else the first."""
    return max(library, key=lambda name: score.value if (score := library.score(name)) else -1.0)


def _word(fv: "FunctionVector") -> str:
    """A word to ask for, of those that a vector was tuned on."""
    return str(((fv.training or {}).get("train_words") or ["WORD"])[0])
