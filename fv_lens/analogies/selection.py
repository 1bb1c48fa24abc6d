"""What fits of composites share: folds over families of relations, and the settings that are best on validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..datasets.questions import Question
from ..engine.batches import batch
from ..engine.completion import Completions, completions
from ..ground.progress import progress_bar
from ..ground.streams import Stream, generator
from .basis import Exclusion, allowed_for
from .compose import Composer
from .composition import Composition, Folded

BEST = "shared + best"
UNCHOSEN = ", with no analogy to choose on"


def folds_of(questions: Sequence[Question], n_folds: int, seed: int = 0) -> dict[str, int]:
    """Family -> fold, with about equally many questions per fold; empty if fewer than two families are known."""
    counts: dict[str, int] = {}
    for question in questions:
        if (family := question.kin) is not None:
            counts[family] = counts.get(family, 0) + 1
    n_folds = min(n_folds, len(counts))
    if n_folds < 2:
        return {}
    names = sorted(counts)
    order = generator(seed, Stream.FOLDS).permutation(len(names))
    sizes, fold_of = [0] * n_folds, {}
    for name in sorted((names[i] for i in order), key=lambda name: -counts[name]):
        fold_of[name] = int(np.argmin(sizes))
        sizes[fold_of[name]] += counts[name]
    return fold_of


@dataclass(frozen=True)
class Folds:
    """Family -> the fold that leaves it out."""

    of: Mapping[str, int]

    @property
    def n(self) -> int:
        return max(self.of.values(), default=-1) + 1

    def fold(self, question: Question) -> int:
        """The fold that leaves out the question's family; -1 where that is not known."""
        return -1 if question.kin is None else self.of.get(question.kin, -1)


def answers_by_setting(
    composer: Composer,
    questions: Sequence[Question],
    settings: Sequence[Sequence[Composition]],
    n_shots: int,
    folds: Folds,
    families: Mapping[str, str],
) -> dict[Exclusion | None, Completions]:
    """How each setting answers validation questions: by all vectors, and in its folds without a question's family.

    Args:
        composer: of the source pairs of the questions.
        settings: of each, that of all families, then that of each fold.
    """
    lens, library = composer.lens, composer.library
    prompts = batch(lens, [question.asked(n_shots) for question in questions], library.template)
    answers: dict[Exclusion | None, Completions] = {}
    exclusions: tuple[Exclusion | None, ...] = (None, "family") if folds.n else (None,)
    for exclude in exclusions:
        may, whatifs = allowed_for(library, questions, exclude, families), []
        for by_fold in progress_bar(settings, desc="composites on validation", unit="setting"):
            # A question of no known family has the setting of all families.
            own = [by_fold[1 + folds.fold(question)] for question in questions] if exclude else by_fold[0]
            whatifs.append(library.edit(composer.vectors(own, may)))
        answers[exclude] = completions(lens, prompts, whatifs).rows(slice(1, None))
    return answers


def best_settings(
    every: Sequence[tuple[str, str]],
    settings_by_fold: Sequence[Sequence[Composition]],
    quality: Mapping[Exclusion | None, Completions],
    fold_of_question: np.ndarray,
    folds: Folds,
) -> dict[str, Folded]:
    """The best settings of each name, for all and for each fold: by whole answers, then by log-probability.

    Where a fold has no question of another one to choose on, it has the first setting of the name, and the record says
    so.

    Args:
        every: of each setting, its name and what it is in words.
    """
    # Equal shares stay equal, so that rounding does not choose between them; the log-probability does.
    # A question of no known family was answered with vectors that have seen all of them.
    others = {fold: (fold_of_question != fold) & (fold_of_question >= 0) for fold in range(folds.n)}
    means = {fold: _means(quality["family"].prompts(chosen_on)) for fold, chosen_on in others.items()}
    of_all = _means(quality[None])
    names = dict.fromkeys(name for name, _ in every)

    def folded(candidates: Sequence[int]) -> Folded:
        best = {fold: max(candidates, key=lambda i: mean[i]) for fold, mean in means.items()}
        whole = max(candidates, key=lambda i: of_all[i])
        settings = tuple(settings_by_fold[best[fold]][1 + fold] for fold in range(folds.n))
        tried: dict[str, Any] = {"accuracy": of_all[whole][0], "log_prob": of_all[whole][1], "chosen": every[whole][1]}
        if (fold_of_question >= 0).any():
            left_out = [
                quality["family"].prompts(fold_of_question == fold).rows([best[fold]]) for fold in range(folds.n)
            ]
            accuracy, log_prob = _means(Completions.joined(left_out))[0]
            tried["family left out"] = {"accuracy": accuracy, "log_prob": log_prob}
            tried["family left out"]["chosen"] = [
                every[best[fold]][1] + ("" if chosen_on.any() else UNCHOSEN) for fold, chosen_on in others.items()
            ]
        return Folded(settings_by_fold[whole][0], settings, folds.of, tried)

    fitted = {name: folded([i for i, (other, _) in enumerate(every) if other == name]) for name in names}
    return fitted | {BEST: folded(range(len(every)))}


def _means(measured: Completions) -> list[tuple[float, float]]:
    """(share of whole answers right, mean log-probability) of each row; zeros where nothing was asked."""
    if not len(measured.right):
        return [(0.0, 0.0)] * measured.right.shape[1]
    return list(zip(measured.right.mean(0).round(9).tolist(), measured.log_prob.mean(0).round(9).tolist()))
