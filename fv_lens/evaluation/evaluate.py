"""Word completion on words a vector has not seen: scores with intervals, and controls beside them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pandas as pd

from ..datasets.prompts import PromptTemplate, with_demonstrations
from ..datasets.relation_files import RelationLike, load_relation
from ..datasets.relations import Relation
from ..engine.batches import batch
from ..engine.completion import Completions, completions, rows_of
from ..engine.whatif import WhatIf
from ..ground import display, scores
from ..ground.errors import InputError, whole_number
from ..ground.progress import progress_bar
from ..ground.scores import Score
from ..models.lens import Lens, Model, lens_of
from ..vectors.function_vector import FunctionVector, as_vectors, own_template
from .controls import Controls, edits_of, prompt_controls, vector_controls

TOP_K = 5


class Case:
    """What an evaluation is of: `fv`, `controls` and `beside` of `evaluate`.

    Raises:
        InputError: vectors, controls or a mapping of another type.
    """

    def __init__(
        self,
        fv: FunctionVector | Sequence[FunctionVector] | None,
        controls: Controls | bool = True,
        beside: Mapping[str, FunctionVector | Sequence[FunctionVector]] | None = None,
    ):
        if beside is not None and not isinstance(beside, Mapping):
            kind = type(beside).__name__
            raise InputError(f"beside is {kind}; give a mapping from the name of a row to its vector.")
        self.how = Controls.of(controls)
        self.vectors = [] if fv is None else as_vectors(fv)
        self.others = {row: as_vectors(other) for row, other in (beside or {}).items()}


@dataclass(frozen=True)
class Result:
    """Scores of a prompt or vector, and what the vector under test gains over it (paired over words; None for itself).

    `accuracy`: a right answer is completed as a whole, token by token, and the text then ends or a new line begins.
    `first_token_accuracy`: the most probable next token begins a right answer. `top_k`: one of the five most probable
    does. `log_prob`: of the whole first listed answer, in nats.
    """

    accuracy: Score
    first_token_accuracy: Score
    top_k: Score
    log_prob: Score
    accuracy_gain: Score | None = None
    log_prob_gain: Score | None = None


@dataclass(frozen=True)
class Evaluation:
    """How well a vector (or a plain prompt) completes the test words of a relation, with controls beside it.

    `accuracy`, `first_token_accuracy`, `top_k`, `log_prob`: as in `Result`, of what was evaluated. `controls`: name ->
    `Result`. `words`: one line per test word, whether it was completed right, the log-probability of its first listed
    answer in nats, and the rank of the best answer's first token (0 = most probable).
    """

    accuracy: Score
    first_token_accuracy: Score
    top_k: Score
    log_prob: Score
    controls: Mapping[str, Result]
    name: str
    relation: str
    words: pd.DataFrame = field(repr=False)

    def __repr__(self) -> str:
        return f"Evaluation({self.name!r} on {self.relation!r}, accuracy {self.accuracy}, n = {self.accuracy.n})"

    def __str__(self) -> str:
        lines = [
            f"{self.relation}: {self.accuracy.n} test words; 95 % intervals; gain = {self.name} minus the row, paired"
        ]
        lines.append(f"{'':<26}{'accuracy':<20}{'first token':<20}{'log-prob':<25}{'gain in accuracy':<23}in log-prob")
        for name, row in self.rows.items():
            gains = [gain.signed if gain else "" for gain in (row.accuracy_gain, row.log_prob_gain)]
            shown = f"{row.accuracy!s:<20}{row.first_token_accuracy!s:<20}{row.log_prob!s:<25}"
            lines.append(f"{name:<26}{shown}{gains[0]:<23}{gains[1]}")
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        rows = {name: [getattr(row, part) for part in Result.__dataclass_fields__] for name, row in self.rows.items()}
        return display.evaluation(self.relation, rows, self.accuracy.n)

    @property
    def rows(self) -> dict[str, Result]:
        """Results by name: what was evaluated, then every control."""
        own = Result(self.accuracy, self.first_token_accuracy, self.top_k, self.log_prob)
        return {self.name: own, **self.controls}

    def to_frame(self) -> pd.DataFrame:
        """One line per row of the table: every score with its low and high."""
        lines = {name: scores.columns_of(row) for name, row in self.rows.items()}
        return pd.DataFrame.from_dict(lines, orient="index").rename_axis("row")


def evaluate(
    model: Model,
    relation: RelationLike,
    fv: FunctionVector | Sequence[FunctionVector] | None = None,
    n_shots: int = 0,
    controls: Controls | bool = True,
    seed: int = 0,
    *,
    beside: Mapping[str, FunctionVector | Sequence[FunctionVector]] | None = None,
    shuffled: bool = False,
    template: PromptTemplate | None = None,
) -> Evaluation:
    """Complete the words of the relation's test part, with a vector added at the last token of each prompt.

    Args:
        model: a HookedTransformer or TransformerBridge.
        relation: a Relation, a bundled name or a path.
        fv: the FunctionVector, or a list to add together; None for the plain prompt.
        n_shots: demonstrations (from the train part) in the prompts under test; 0 asks "Q: word\\nA:".
        controls: also measure the prompts without the vector, with 10 demonstrations and with 10 shuffled ones, and
            random vectors in its place: of the same norm, and sums over as many random heads (as they are and, unless
            the vector is distributed, at the same norm). `Controls` sets the number of draws.
        seed: seed of the draws.
        beside: other vectors (or lists of them) to measure on the same prompts, by the name of their row.
        shuffled: whether the demonstrations' answers are exchanged, so that all of them are wrong: the vector must then
            act against its context. The second setting of Todd et al. and of Kang et al.; it takes two shots or more.
        template: the prompts' form; None for the vector's own, or the default.

    Raises:
        InputError: too few pairs, a vector that does not fit the model or was made on another split, bad numbers, a
            name in `beside` that another row has, shuffled answers of fewer than two shots.

    Source: word completion as in Todd et al. 2024, section 3. Intervals of gains resample words, and draws with them.

    Example:
        >>> print(evaluate(model, "antonym", tuned, 10, shuffled=True))
    """
    case = Case(fv, controls, beside)
    return evaluate_cases(model, relation, [case], n_shots, seed, shuffled=shuffled, template=template)[0]


def evaluate_cases(
    model: Model,
    relation: RelationLike,
    cases: Sequence[Case],
    n_shots: int = 0,
    seed: int = 0,
    *,
    shuffled: bool = False,
    template: PromptTemplate | None = None,
) -> list[Evaluation]:
    """`evaluate` of several vectors in one pass: what they share, the prompts and their controls, is run once."""
    lens, relation = lens_of(model), load_relation(relation)
    template = template or own_template([vector for case in cases for vector in case.vectors])
    n_shots, split = whole_number("n_shots", n_shots, least=0), relation.split()
    name = f"{n_shots}-shot{', shuffled' * shuffled}" if n_shots else "zero-shot"
    if shuffled and n_shots < 2:
        raise InputError(f"n_shots is {n_shots}; only answers of two demonstrations or more can be shuffled.")
    test_prompts = batch(lens, with_demonstrations(split.test, split.train, n_shots, seed, shuffled), template)
    controlled = any(case.how for case in cases)
    asides = prompt_controls(split.test, split.train, n_shots, seed) if controlled else {}
    asides.pop(name, None)
    rows = [_rows(lens, relation, case, name, asides, seed, template) for case in cases]
    places = rows_of({(i, row): whatifs for i, of_case in enumerate(rows) for row, whatifs in of_case.items()})
    with progress_bar(total=len(test_prompts) * (1 + len(asides)), desc="evaluation on test", unit="prompt") as bar:
        whatifs = [whatif for of_case in rows for draws in of_case.values() for whatif in draws]
        measured = completions(lens, test_prompts, whatifs, bar.update)
        prompted = {row: completions(lens, batch(lens, prompts, template), [], bar.update)
                    for row, prompts in asides.items()}  # fmt: skip
    evaluations = []
    for i, (case, of_case) in enumerate(zip(cases, rows)):
        title = f"{name} + vector" if case.vectors else name
        tested = measured.rows(places.get((i, title), [0]))
        values = {name: measured.rows([0])} if case.vectors and case.how else {}
        values |= prompted if case.how else {}
        values |= {row: measured.rows(places[i, row]) for row in of_case if row != title}
        evaluations.append(_evaluation(relation.name, title, tested, values, test_prompts.words))
    return evaluations


def _rows(
    lens: Lens, relation: Relation, case: Case, name: str, asides: Collection[str], seed: int, template: PromptTemplate
) -> dict[str, list[WhatIf]]:
    """The what-ifs of a case by the name of their row: the vectors under test, those beside them, and controls."""
    for vector in [*case.vectors, *chain.from_iterable(case.others.values())]:
        vector.check(lens)
        vector.check_split(relation)
    title, drawn = f"{name} + vector" if case.vectors else name, {}
    if case.how and case.vectors:
        drawn = vector_controls(lens, relation, case.vectors, case.how, seed, template)
    if taken := [row for row in case.others if row in {title, name, *drawn, *(asides if case.how else ())}]:
        raise InputError(f"beside names a row {taken[0]!r}, which this evaluation has itself; give it another name.")
    rows = {title: [edits_of(case.vectors)]} if case.vectors else {}
    return rows | {row: [edits_of(other)] for row, other in case.others.items()} | drawn


def _evaluation(
    relation: str, title: str, tested: Completions, values: Mapping[str, Completions], words: Sequence[str]
) -> Evaluation:
    main = result(tested)
    by_word = {"word": words, "right": tested.right[:, 0], "log_prob": tested.log_prob[:, 0]}
    return Evaluation(
        main.accuracy, main.first_token_accuracy, main.top_k, main.log_prob,
        controls={control: result(of_control, tested) for control, of_control in values.items()},
        name=title,
        relation=relation,
        words=pd.DataFrame(by_word | {"rank": tested.rank[:, 0].astype(int)}),
    )  # fmt: skip


def result(values: Completions, tested: Completions | None = None) -> Result:
    """Scores over the prompts of `values`, each row of it a draw; `tested`: the one row of what is under test."""
    right, first, top, log_prob = _measures(values)
    gains = {}
    if tested is not None:
        own = _measures(tested)
        gains["accuracy_gain"] = scores.gain(own[0], right)
        gains["log_prob_gain"] = scores.paired_difference(own[-1], log_prob)
    whole, begun, listed = map(scores.proportion, (right, first, top))
    return Result(whole, begun, listed, scores.mean(log_prob), **gains)


def _measures(values: Completions) -> list[np.ndarray]:
    """What `Result` averages, each `[draw, word]`."""
    rank = values.rank.T
    return [x.astype(float) for x in (values.right.T, rank == 0, rank < TOP_K, values.log_prob.T)]
