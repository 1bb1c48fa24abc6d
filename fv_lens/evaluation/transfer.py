"""Transfer: a vector that was made in one form of prompts, asked in others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd

from ..datasets.prompts import FewShot, PromptTemplate, with_demonstrations
from ..datasets.relation_files import RelationLike, load_relation
from ..datasets.relations import Relation
from ..datasets.templates import TEMPLATES, sentence_template
from ..engine.batches import PromptBatch, batch
from ..engine.completion import Completions, completions
from ..ground import scores
from ..ground.display import scored
from ..ground.errors import InputError, whole_number
from ..ground.markup import card, table
from ..ground.progress import progress_bar
from ..ground.scores import Score
from ..models.lens import Lens, Model, lens_of
from ..vectors.function_vector import FunctionVector, as_vectors, own_template
from .controls import edits_of
from .evaluate import Result, result

OWN, PLAIN, MOVED = "own", "zero-shot", "zero-shot + vector"


@dataclass(frozen=True)
class Transfer:
    """Completion of the same test words in several templates, with and without one vector.

    Args:
        relation: the relation's name.
        rows: name of a template -> "zero-shot", "zero-shot + vector" and "10-shot" (without it) -> `Result`; gains are
            the vector's minus the row's. The first template, "own", is the one that the vector was made in.
        gaps: name of a template that the model cannot be asked in -> why.
        templates: the templates themselves, by name.
        elsewhere: what the vector gains in accuracy over zero-shot prompts, on average over the other templates;
            intervals over words and templates. None if there are no others.
        words: a line for each template, prompt and word: whether it was completed right, and the log-probability of its
            first listed answer, in nats.
    """

    relation: str
    rows: Mapping[str, Mapping[str, Result]]
    gaps: Mapping[str, str]
    templates: Mapping[str, PromptTemplate] = field(repr=False)
    elsewhere: Score | None
    words: pd.DataFrame = field(repr=False)

    def __repr__(self) -> str:
        gaps = f", {len(self.gaps)} gaps" if self.gaps else ""
        return f"Transfer({self.relation!r}, {len(self.rows) - 1} other templates{gaps}, gain {self.elsewhere})"

    @property
    def verdict(self) -> str:
        """One sentence: what the vector gains in its own template, and on average in the others."""
        own = self.rows[OWN][PLAIN].accuracy_gain
        assert own is not None
        said = f"In zero-shot prompts the vector gains {own:+} in accuracy in its own template"
        if self.elsewhere is None:
            return f"{said}."
        return f"{said}, and {self.elsewhere:+} on average over {len(self.rows) - 1} others."

    def __str__(self) -> str:
        lines = [f"{self.relation}: {self._n_words} test words; 95 % intervals; gain = with the vector minus the row"]
        titles = f"{'':<42}{'accuracy':<20}{'first token':<20}{'log-prob':<25}"
        lines.append(f"{titles}{'gain in accuracy':<23}in log-prob")
        for name, prompts in self.rows.items():
            for prompt, row in prompts.items():
                gains = [gain.signed if gain else "" for gain in (row.accuracy_gain, row.log_prob_gain)]
                shown = f"{row.accuracy!s:<20}{row.first_token_accuracy!s:<20}{row.log_prob!s:<25}"
                lines.append(f"{f'{name}, {prompt}':<42}{shown}{gains[0]:<23}{gains[1]}")
        lines += [f"{name:<42}left out: {why}" for name, why in self.gaps.items()]
        return "\n".join(line.rstrip() for line in [*lines, self.verdict])

    def _repr_html_(self) -> str:
        columns = ["", "accuracy", "first token", "log-prob, nats", "gain in accuracy", "gain in log-prob"]
        lines = [
            (
                f"{name}, {prompt}",
                *(scored(score) for score in (row.accuracy, row.first_token_accuracy, row.log_prob)),
                *(scored(gain, True) for gain in (row.accuracy_gain, row.log_prob_gain)),
            )
            for name, prompts in self.rows.items()
            for prompt, row in prompts.items()
        ]
        every_prompt = [prompt for prompts in self.rows.values() for prompt in prompts]
        moved = [place for place, prompt in enumerate(every_prompt) if prompt == MOVED]
        return card(
            "Transfer", self.relation, table(columns, lines, strong=moved, most=len(lines)),
            table(["left out", "why"], self.gaps.items(), words=True), self.verdict,
            note=f"{self._n_words} test words, 95 % intervals. Gain: with the vector minus the row, paired over words; "
            "not shown: the interval holds 0.",
        )  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One line per template and prompt: every score with its low and high."""
        lines = {
            (name, prompt): scores.columns_of(row)
            for name, prompts in self.rows.items()
            for prompt, row in prompts.items()
        }
        return pd.DataFrame.from_dict(lines, orient="index").rename_axis(["template", "prompt"])

    @property
    def _n_words(self) -> int:
        return self.rows[OWN][MOVED].accuracy.n


def transfer(
    model: Model,
    relation: RelationLike,
    fv: FunctionVector | Sequence[FunctionVector],
    templates: Mapping[str, PromptTemplate] | None = None,
    n_shots: int = 10,
    *,
    sentence: str | None = None,
    seed: int = 0,
) -> Transfer:
    """What a vector that was made in one template does in others, on the test words of its relation.

    In each template the words are asked for in zero-shot prompts, without the vector and with it (at the last token),
    and after `n_shots` demonstrations without it, which is what the template itself allows for.

    Args:
        fv: the FunctionVector, or a list to add together; its record says which template it was made in.
        templates: the other templates, by name. None for short ones ("Question: big\\nAnswer:", "big ->"), a
            sentence ("The opposite of big is") and the model's chat form. The vector's own is not measured twice.
        n_shots: demonstrations from the train part.
        sentence: the beginning of a sentence with `{word}` in it, where none is bundled for this relation.
        seed: seed of the draws of demonstrations.

    Returns:
        A table of all templates; those that the model cannot be asked in are in `gaps`, with the reason.

    Raises:
        InputError: a vector that does not fit the model or was made on these words; templates that are not a mapping
            from names to templates, or are named "own"; a sentence without `{word}`; too few pairs.

    Example:
        >>> print(fv_lens.transfer(model, "antonym", tuned))
        >>> arrow = {"arrow": PromptTemplate("{word} =>", separator="\\n")}
        >>> transfer(model, "antonym", tuned, arrow).rows["arrow"]["zero-shot"].accuracy_gain
    """
    lens, relation = lens_of(model), load_relation(relation)
    n_shots, vectors = whole_number("n_shots", n_shots, least=1), as_vectors(fv)
    for vector in vectors:
        vector.check(lens)
        vector.check_split(relation)
    forms, gaps = _forms(lens, relation, templates, sentence)
    own = own_template(vectors)
    forms = {OWN: own} | {name: form for name, form in forms.items() if form != own}
    parts = relation.split()
    zero, few = (with_demonstrations(parts.test, parts.train, shots, seed) for shots in (0, n_shots))
    asked = _asked(lens, forms, zero, few, gaps)
    measured = {}
    with progress_bar(total=2 * len(zero) * len(asked), desc="prompts in all templates", unit="prompt") as bar:
        for name, (alone, shown) in asked.items():
            values = completions(lens, alone, [edits_of(vectors)], bar.update)
            shots = completions(lens, shown, [], bar.update)
            measured[name] = {PLAIN: values.rows([0]), MOVED: values.rows([1]), f"{n_shots}-shot": shots}
    rows = {
        name: {prompt: result(x, None if prompt == MOVED else prompts[MOVED]) for prompt, x in prompts.items()}
        for name, prompts in measured.items()
    }
    others = [name for name in measured if name != OWN]
    moved, plain = (
        np.array([measured[name][prompt].right[:, 0] for name in others], dtype=float) for prompt in (MOVED, PLAIN)
    )
    elsewhere = scores.gain(moved, plain) if others else None
    kept = {name: forms[name] for name in rows}
    return Transfer(relation.name, rows, gaps, kept, elsewhere, _words(parts.test.words, measured))


def _asked(
    lens: Lens,
    forms: Mapping[str, PromptTemplate],
    zero: Sequence[FewShot],
    few: Sequence[FewShot],
    gaps: dict[str, str],
) -> dict[str, tuple[PromptBatch, PromptBatch]]:
    """Both kinds of prompts in each template; those that the model cannot be asked in go to `gaps`."""
    asked = {}
    for name, form in forms.items():
        try:
            asked[name] = batch(lens, zero, form), batch(lens, few, form)
        except InputError as error:  # words that the tokenizer joins in this form, or too long a prompt
            if name == OWN:
                raise
            gaps[name] = str(error)
    return asked


def _words(words: Sequence[str], measured: Mapping[str, Mapping[str, Completions]]) -> pd.DataFrame:
    """A line for each template, prompt and word."""
    lines = [
        pd.DataFrame({"template": name, "prompt": prompt, "word": words,
                      "right": x.right[:, 0], "log_prob": x.log_prob[:, 0]})
        for name, prompts in measured.items() for prompt, x in prompts.items()
    ]  # fmt: skip
    return pd.concat(lines, ignore_index=True)


def _forms(
    lens: Lens, relation: Relation, templates: Mapping[str, PromptTemplate] | None, sentence: str | None
) -> tuple[dict[str, PromptTemplate], dict[str, str]]:
    """The templates to ask in, by name, and why others cannot be had."""
    made: dict[str, Callable[[], PromptTemplate]] = {}
    if templates is None:
        made["chat"] = partial(PromptTemplate.chat, lens.model)
    elif not isinstance(templates, Mapping) or not templates:
        raise InputError(f"templates is {templates!r}; give a mapping from names to PromptTemplates, or None.")
    forms = dict(TEMPLATES if templates is None else templates)
    for name, form in forms.items():
        if not isinstance(form, PromptTemplate):
            raise InputError(f"the template {name!r} is {form!r}; give a PromptTemplate('{{word}} =>').")
    for name, whose in {OWN: "the vector's", **({} if sentence is None else {"sentence": "for sentence="})}.items():
        if name in forms:
            raise InputError(f"templates names one {name!r}, which is {whose}; give it another name.")
    if sentence is not None:
        forms["sentence"] = sentence_template(relation.name, sentence)
    elif templates is None:
        made = {"sentence": partial(sentence_template, relation.name)} | made
    gaps = {}
    for name, make in made.items():
        try:
            forms[name] = make()
        except InputError as error:
            gaps[name] = str(error)
    return forms, gaps
