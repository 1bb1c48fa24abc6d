"""When to insert a composite: a gate that knows the pair A:B alone, and what it gains at every coverage.

Source: risk-coverage curves as in El-Yaniv and Wiener 2010, On the foundations of noise-free selective classification.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch

from ..datasets.question_split import families_of
from ..datasets.questions import Question
from ..engine.batches import batch
from ..engine.completion import completions
from ..ground import scores
from ..ground.errors import InputError
from ..ground.markup import card, table
from ..ground.scores import Score
from ..models.lens import Model, lens_of
from ..vectors.function_vector import FunctionVector
from .compose import Composer
from .composition import Composition, CompositionLike, Folded, composition
from .library import Library, allowed
from .scores import LIBRARIES, LibraryName

Signal = Literal["gain of the best vector", "gain of the composite", "certainty of the weights"]
SIGNALS = get_args(Signal)
COVERAGES = tuple(i / 10 for i in range(1, 11))


@dataclass(frozen=True, eq=False)
class GateCurve:
    """What a composite gains over its prompt where a signal is largest, from few analogies to all of them.

    `values`: the signal of each analogy's pair. `gained`: 1 where the composite alone completes the analogy right, -1
    where the prompt without it does, else 0. `groups`: of each analogy; intervals are over groups. `threshold`: of the
    gate, where there is one.
    """

    signal: Signal
    values: np.ndarray = field(repr=False)
    gained: np.ndarray = field(repr=False)
    groups: Sequence[Any] = field(repr=False)
    threshold: float | None = None

    def covered(self, coverage: float) -> np.ndarray:
        """Mask of the analogies whose signal is largest, a share of all of them; at least one."""
        if not 0 < coverage <= 1:
            raise InputError(f"coverage is {coverage!r}; give a share above 0, of at most 1.")
        mask = np.zeros(len(self.values), dtype=bool)
        mask[np.argsort(-self.values, kind="stable")[: max(1, round(coverage * len(mask)))]] = True
        return mask

    @property
    def inserted(self) -> np.ndarray:
        """Mask of the analogies that the gate lets the composite be inserted for."""
        if self.threshold is None:
            raise InputError("The curve is of a signal without a threshold; `Gate.curve` gives one that has it.")
        return self.values >= self.threshold

    def gain(self, coverage: float = 1.0) -> Score:
        """Share of analogies won less the share lost, among those covered."""
        return self._mean(self.gained[mask := self.covered(coverage)], mask)

    def gain_over_all(self, coverage: float = 1.0) -> Score:
        """The same over all analogies, those not covered being answered by the prompt alone."""
        return self._mean(self.gained * self.covered(coverage))

    @property
    def gated(self) -> Score:
        """`gain_over_all` where the gate, and not a coverage, decides."""
        return self._mean(self.gained * self.inserted)

    @property
    def mean_gain(self) -> float:
        """Of `gain` over coverages of 10 to 100 %: large if the signal puts first what the composite helps."""
        return float(np.mean([self.gain(coverage).value for coverage in COVERAGES]))

    def to_frame(self) -> pd.DataFrame:
        """One line per coverage and measure: coverage, measure, value, low, high, n."""
        lines = [
            (coverage, name, score.value, *score.ends, score.n)
            for coverage in COVERAGES
            for name, score in (("gain", self.gain(coverage)), ("gain_over_all", self.gain_over_all(coverage)))
        ]
        return pd.DataFrame(lines, columns=["coverage", "measure", "value", "low", "high", "n"])

    def _repr_html_(self) -> str:
        lines = [
            (f"{coverage:.0%}", self.gain(coverage).signed, self.gain_over_all(coverage).signed)
            for coverage in COVERAGES
        ]
        headings = ["coverage", "gain where inserted", "gain over all"]
        return card("GateCurve", self.signal, table(headings, lines), note=f"{len(self.values)} analogies")

    def _mean(self, gained: np.ndarray, mask: np.ndarray | None = None) -> Score:
        groups = [group for i, group in enumerate(self.groups) if mask is None or mask[i]]
        return scores.clustered_mean(gained, groups, within=scores.GAIN)


@dataclass(frozen=True, eq=False)
class Gate:
    """Whether to insert a composite, said by the pair A:B alone: it is inserted where a signal reaches a threshold.

    `how`: the composite. `library`: what the library held where the gate was chosen. `record`: the mean gain of each
    signal over coverages, and the gain over all analogies at the threshold, all on validation.
    """

    how: Composition | Folded
    signal: Signal
    threshold: float
    library: LibraryName = "full"
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """What was chosen, and on what, as plain JSON data."""
        return {"signal": self.signal, "threshold": self.threshold, "library": self.library, **self.record}

    def inserts(self, model: Model, vectors: Mapping[str, FunctionVector], pair: tuple[str, str]) -> bool:
        """Whether the composite of one pair is to be inserted."""
        values = Gated(model, vectors, [Question(pair, target=pair[0], answers=(pair[1],))]).signals(self.how, "full")
        return bool(values[self.signal][0] >= self.threshold)

    def curve(self, model: Model, vectors: Mapping[str, FunctionVector], questions: Sequence[Question]) -> GateCurve:
        """What the composite gains on other analogies, by the signal of the gate."""
        return Gated(model, vectors, questions).curve(self)


def fit_gate(
    model: Model,
    vectors: Mapping[str, FunctionVector],
    validation: Sequence[Question],
    how: CompositionLike = "posterior",
    *,
    library: LibraryName = "full",
) -> Gate:
    """The signal and the threshold by which a composite gains most on validation analogies.

    A signal is known before C is: how much more probable the best vector of the library, or the composite itself, makes
    B after A, and how far the weights are from uniform (1 less their entropy as a share of the largest one). Chosen is
    the signal with the largest mean gain over coverages of 10 to 100 %, then the threshold with the largest gain over
    all analogies.

    Args:
        model: a HookedTransformer or TransformerBridge.
        vectors: the library, relation -> FunctionVector.
        validation: analogies, best those that nothing else was chosen on: gains on others are a little too large.
        how: the composite; its `n_shots` says which prompt is asked with and without it.
        library: what the library holds for each analogy; of fitted folds those are used that fit it.

    Raises:
        InputError: no analogies; an empty library, vectors of two models or layers; an unknown method or library.

    Example:
        >>> gate = fit_gate(model, vectors, parts.validation, affine["affine, diagonal"])
        >>> curve = gate.curve(model, vectors, parts.test)
        >>> plots.gate({"full": curve}).show()
    """
    return Gated(model, vectors, validation).fit(how, library)


class Gated:
    """Analogies with the signals of their pairs; what several composites and libraries share is computed once."""

    def __init__(self, model: Model, vectors: Mapping[str, FunctionVector], questions: Sequence[Question]):
        if not questions:
            raise InputError("There are no analogies to choose or to measure a gate on; give some.")
        self.lens = lens_of(model)
        self.library, self.questions = Library.of(self.lens, vectors), questions
        self.composer = Composer(self.lens, self.library, [question.source for question in questions])
        self.groups = [question.kin or i for i, question in enumerate(questions)]

    def fit(self, how: CompositionLike, library: LibraryName = "full") -> Gate:
        """As `fit_gate`."""
        how = how if isinstance(how, Folded) else composition(how)
        gained = self.gained(how, library)
        signals = self.signals(how, library)
        curves = [GateCurve(signal, signals[signal], gained, self.groups) for signal in SIGNALS if signal in signals]
        best = max(curves, key=lambda curve: round(curve.mean_gain, 9))
        # Of thresholds that gain the same, the lowest, which inserts most often.
        thresholds = np.unique(best.values)
        gains = [round(float((gained * (best.values >= threshold)).mean()), 9) for threshold in thresholds]
        at = int(np.argmax(gains))
        record = {"mean gain": {curve.signal: curve.mean_gain for curve in curves}, "gain": gains[at]}
        return Gate(how, best.signal, float(thresholds[at]), library, record)

    def curve(self, gate: Gate) -> GateCurve:
        """As `Gate.curve`."""
        values = self.signals(gate.how, gate.library)[gate.signal]
        return GateCurve(gate.signal, values, self.gained(gate.how, gate.library), self.groups, gate.threshold)

    def signals(self, how: Composition | Folded, library: LibraryName) -> dict[Signal, np.ndarray]:
        """Each signal of each pair; without weights there is no certainty of them."""
        may, each = self._allowed(library), self._settings(how, library)
        plain, with_vectors = self.composer.log_probs[:, 0], self.composer.log_probs[:, 1:]
        best = with_vectors.nan_to_num(-torch.inf).masked_fill(~may, -torch.inf).max(1).values
        edited = [self.library.edit(self.composer.vectors(each, may))]
        sources = self.composer.sources.select(self.composer.place)
        of_composite = completions(self.lens, sources, edited).log_prob
        values: dict[Signal, np.ndarray] = {
            "gain of the best vector": (best - plain).numpy(),
            "gain of the composite": of_composite[:, 1] - of_composite[:, 0],
        }
        if all(settings.weighting != "none" for settings in each):
            rows = {id(settings): self.composer.weights(settings, may) for settings in each}
            weights = torch.stack([rows[id(settings)][i] for i, settings in enumerate(each)])  # type: ignore[index]
            entropy = torch.special.entr(weights).sum(1)
            most = may.sum(1).float().log()
            values["certainty of the weights"] = (1 - entropy / most.clamp(min=1e-9)).numpy()
        return values

    def gained(self, how: Composition | Folded, library: LibraryName) -> np.ndarray:
        """1 where the composite completes the whole answer and the same prompt without it does not; -1; 0."""
        each = self._settings(how, library)
        prompts = batch(
            self.lens, [q.asked(how.n_shots) for q, how in zip(self.questions, each)], self.library.template
        )
        edited = [self.library.edit(self.composer.vectors(each, self._allowed(library)))]
        right = completions(self.lens, prompts, edited).right.astype(float)
        return right[:, 1] - right[:, 0]

    def _settings(self, how: Composition | Folded, library: LibraryName) -> list[Composition]:
        if isinstance(how, Folded) and LIBRARIES[library]:
            return [how.of(question.kin) for question in self.questions]
        return [composition(how)] * len(self.questions)

    def _allowed(self, library: LibraryName) -> torch.Tensor:
        if library not in LIBRARIES:
            raise InputError(f"library is {library!r}; choose from {', '.join(LIBRARIES)}.")
        names = [[getattr(question, name) for question in self.questions] for name in ("relation", "family")]
        return allowed(self.library, names[0], LIBRARIES[library], families_of(self.questions), names[1])
