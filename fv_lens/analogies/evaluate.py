"""Evaluation on many analogies: every method, with libraries with and without the analogy's own relation."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ..datasets.prompts import FewShot, PromptTemplate
from ..datasets.question_split import families_of
from ..datasets.questions import Question
from ..engine.batches import batch
from ..engine.completion import completions
from ..engine.edits import WhatIf
from ..ground.errors import InputError
from ..ground.measures import COMPLETED
from ..ground.progress import progress_bar
from ..models.lens import Lens, Model, lens_of
from ..vectors.function_vector import FunctionVector
from .basis import Basis, Exclusion, allowed_for
from .compose import Composer, weights_of
from .composition import METHODS, Composition, CompositionLike, Folded, composition, settings_for, with_folds
from .scores import LIBRARIES, PROFILES, PROMPT_ONLY, SUMMED, TIE, TRUE, AnalogyScores, LibraryName, Row
from .solve import SENTENCE, choice_scores
from .unseen import some_unseen

Progress = Callable[[int], Any]  # called with how many prompts were begun


def evaluate_analogies(
    model: Model,
    vectors: Mapping[str, FunctionVector],
    questions: Sequence[Question],
    methods: Mapping[str, CompositionLike | tuple[CompositionLike, CompositionLike]] | None = None,
    *,
    libraries: Sequence[LibraryName] = tuple(LIBRARIES),
    summed: Mapping[str, FunctionVector] | None = None,
    choices: bool = True,
    seed: int = 0,
) -> AnalogyScores:
    """Answer all questions by all methods, in zero-shot and one-shot prompts, and by prompts alone.

    Args:
        model: a HookedTransformer or TransformerBridge.
        vectors: the library, relation -> FunctionVector. Questions with a pair it was tuned on are left out.
        questions: see `load_questions`; completion is always measured.
        methods: name -> `Composition`, name of `METHODS` or what `fit_composition` returned; all of `METHODS` if None.
            A method with a part that was fitted (shared vector or affine map) is used only in the prompt it was fitted
            for; two in a tuple are one method in the zero-shot and in the one-shot prompt.
        libraries: "full", "relation left out" and "family left out": what the library holds for each question.
        summed: untuned vectors, mixed as by "posterior", for comparison.
        choices: also choose among the answers of the questions that have choices.
        seed: seed of the order of choices.

    Raises:
        InputError: not questions, or none left; an empty library; vectors of two models or layers; an unknown method or
            library.

    Source: analogies from composite vectors follow Kang et al. 2026 (arXiv 2601.08169).
    """
    lens = lens_of(model)
    library = Basis.of(lens, vectors)
    for question in questions:
        if not isinstance(question, Question):
            raise InputError(f"questions holds {question!r}; give Questions, such as load_questions() does.")
    kept, left_out = some_unseen(questions, vectors.values())
    if unknown := [name for name in libraries if name not in LIBRARIES]:
        raise InputError(f"libraries has {unknown[0]!r}; choose from {', '.join(LIBRARIES)}.")
    methods = METHODS if methods is None else methods
    ways = {
        name: tuple(map(with_folds, how if isinstance(how, tuple) else (how, how))) for name, how in methods.items()
    }
    kept = [question.shuffled(seed) for question in kept]
    asker = _Asker(lens, library, None if summed is None else Basis.of(lens, summed), ways, libraries,
                    families_of(questions))  # fmt: skip
    bar: Any = progress_bar(desc="analogies", unit="prompt")
    with bar:
        values = asker.completed(kept, bar.update)
        chosen = asker.chosen(kept, bar.update) if choices else {}
    for row, measures in chosen.items():
        values[row] = values.get(row, {}) | measures
    groups = [question.kin or i for i, question in enumerate(kept)]
    return AnalogyScores(values, kept, groups, left_out)


class _Asker:
    """Runs questions by every method; what methods have in common is computed once."""

    def __init__(
        self,
        lens: Lens,
        library: Basis,
        summed: Basis | None,
        ways: Mapping[str, tuple[Composition | Folded, ...]],  # in the zero-shot and in the one-shot prompt
        libraries: Sequence[LibraryName],
        families: Mapping[str, str],
    ):
        self.families = families
        self.lens, self.library, self.summed, self.ways, self.libraries = lens, library, summed, ways, libraries
        self.template = library.template
        self._composers: dict[tuple[int, tuple[Sequence[str], ...]], Composer] = {}
        each = [
            settings
            for pair in ways.values()
            for how in pair
            for settings in ((how.whole, *how.folds) if isinstance(how, Folded) else (how,))
        ]
        self.pair_steps = max((settings.pair_steps for settings in each), default=0)

    def _allowed(
        self, library: Basis, questions: Sequence[Question], exclude: Exclusion | None
    ) -> Bool[Tensor, "question vector"]:
        return allowed_for(library, questions, exclude, self.families)

    def _composer(self, library: Basis, pairs: tuple[Sequence[str], ...]) -> Composer:
        """The composer of all prompts with these source pairs, so that what they share is computed once."""
        key = id(library), pairs
        if key not in self._composers:
            self._composers[key] = Composer(self.lens, library, pairs, self.pair_steps)
        return self._composers[key]

    def whatifs(self, questions: Sequence[Question], n_shots: int) -> dict[Row, WhatIf]:
        """The vectors that every method adds to each question's prompt."""
        prompt = ("zero-shot", "one-shot")[n_shots]
        pairs = tuple(question.source for question in questions)
        composers = dict.fromkeys(self.ways, self._composer(self.library, pairs))
        ways = {title: pair[n_shots] for title, pair in self.ways.items()}
        if self.summed is not None:
            composers[SUMMED], ways[SUMMED] = self._composer(self.summed, pairs), METHODS["posterior"]
        may = {
            (composer, name): self._allowed(composer.library, questions, LIBRARIES[name])
            for composer in set(composers.values())
            for name in self.libraries
        }
        whatifs: dict[Row, WhatIf] = {}
        for name, (title, how) in product(self.libraries, ways.items()):
            composer, whole, folded = composers[title], composition(how), isinstance(how, Folded)
            depends = folded or whole.uses_library  # on the library, or on what a fold has not seen
            if whole.is_fitted and whole.n_shots != n_shots:
                continue
            if not depends and name != self.libraries[0]:
                continue
            settings = settings_for(how, questions, LIBRARIES[name] is not None)
            row = Row(title, name if depends else "", prompt)
            whatifs[row] = composer.library.edit(composer.vectors(settings, may[composer, name]))
        places: dict[str | None, int] = {name: i for i, name in enumerate(self.library.names)}
        rows = [places.get(question.relation, -1) for question in questions]
        if max(rows, default=-1) >= 0:
            known = torch.tensor(rows, device="cpu") >= 0
            matrix = self.library.matrix[[max(0, place) for place in rows]] * known[:, None]
            whatifs[Row(TRUE, "", prompt)] = self.library.edit(matrix)
        return whatifs

    def completed(self, questions: Sequence[Question], progress: Progress) -> dict[Row, dict[str, np.ndarray]]:
        """The measures of completion, by row."""
        rows: dict[Row, dict[str, np.ndarray]] = {}
        for n_shots, prompt in enumerate(("zero-shot", "one-shot", "sentence")):
            whatifs = {} if prompt == "sentence" else self.whatifs(questions, n_shots)
            prompts = batch(self.lens, [_prompt(question, prompt) for question in questions], self._template(prompt))
            measured = completions(self.lens, prompts, list(whatifs.values()), progress)
            for i, row in enumerate([Row(PROMPT_ONLY, "", prompt), *whatifs]):
                values = (measured.right[:, i], measured.rank[:, i] == 0, measured.log_prob[:, i])
                known = self._known(row, questions)
                rows[row] = {name: np.where(known, value, np.nan) for name, value in zip(COMPLETED, values)}
        return rows

    def chosen(self, questions: Sequence[Question], progress: Progress) -> dict[Row, dict[str, np.ndarray]]:
        """The measures of choice, by row; NaN for questions without choices."""
        places = [i for i, question in enumerate(questions) if question.right is not None]
        if not places:
            return {}
        with_choices = [questions[i] for i in places]
        measured: dict[Row, dict[str, np.ndarray]] = {}
        right = [question.right for question in with_choices]

        def marks(values: Sequence[np.ndarray], known: np.ndarray | None = None) -> np.ndarray:
            """Whether the right choice alone scores highest."""
            marked = np.full(len(questions), np.nan)
            for i, place in enumerate(places):
                if known is None or known[i]:
                    best = np.flatnonzero(values[i] >= values[i].max() - TIE)
                    marked[place] = len(best) == 1 and best[0] == right[i]
            return marked

        for n_shots, prompt in enumerate(("zero-shot", "one-shot", "sentence")):
            rows, forth = self._choice_scores(with_choices, n_shots, prompt, progress)
            _, back = self._choice_scores([question.reversed() for question in with_choices], n_shots, prompt, progress)
            for j, row in enumerate(rows):
                known = self._known(row, with_choices)
                measures = {"choice": marks([x[:, j] for x in forth], known)}
                if row.method != TRUE:
                    measures["choice_both_ways"] = marks([x[:, j] + y[:, j] for x, y in zip(forth, back)], known)
                if j:
                    measures["choice_minus_plain"] = marks([x[:, j] - x[:, 0] for x in forth], known)
                measured[row] = measures
        return measured | self._profiles(with_choices, marks)

    def _choice_scores(
        self, questions: Sequence[Question], n_shots: int, prompt: str, progress: Progress
    ) -> tuple[list[Row], list[np.ndarray]]:
        whatifs = {} if prompt == "sentence" else self.whatifs(questions, n_shots)
        items = []
        for question in questions:
            pairs = [(_sentence(question.source, c) if prompt == "sentence" else c, d) for c, d in question.pairs]
            items.append(((question.source,) if prompt == "one-shot" else (), pairs))
        scored = choice_scores(self.lens, self._template(prompt), items, list(whatifs.values()), progress)
        return [Row(PROMPT_ONLY, "", prompt), *whatifs], scored

    def _profiles(
        self, questions: Sequence[Question], marks: Callable[[Sequence[np.ndarray]], np.ndarray]
    ) -> dict[Row, dict[str, np.ndarray]]:
        """Choice by the cosine between the weights of A:B and those of C:D."""
        pairs = [pair for question in questions for pair in question.pairs]
        sources = self._composer(self.library, tuple(question.source for question in questions))
        targets = Composer(self.lens, self.library, pairs)
        sizes = torch.tensor([len(question.pairs) for question in questions], device="cpu")
        owner, ends = torch.arange(len(questions), device="cpu").repeat_interleave(sizes), sizes.cumsum(0)[:-1]
        profiles: dict[Row, dict[str, np.ndarray]] = {}
        how = METHODS["posterior"]
        for name in self.libraries:
            may = self._allowed(self.library, questions, LIBRARIES[name])
            source_weights = weights_of(sources.log_probs, how, may)
            target_weights = weights_of(targets.log_probs, how, may[owner])
            cosine = torch.cosine_similarity(source_weights[owner], target_weights).numpy()
            profiles[Row(PROFILES, name)] = {"choice": marks(np.split(cosine, ends))}
        return profiles

    def _known(self, row: Row, questions: Sequence[Question]) -> np.ndarray:
        """Mask of the questions that a row can answer: for "true relation" those whose relation is in the library."""
        return np.array([row.method != TRUE or question.relation in self.library.names for question in questions])

    def _template(self, prompt: str) -> PromptTemplate:
        return SENTENCE if prompt == "sentence" else self.template


def _prompt(question: Question, prompt: str) -> FewShot:
    if prompt == "sentence":
        target, answers = question.completion
        return FewShot(_sentence(question.source, target), answers)
    return question.asked(int(prompt == "one-shot"))


def _sentence(source: Sequence[str], target: str) -> str:
    return f"{source[0]} is to {source[1]} as {target} is to"
