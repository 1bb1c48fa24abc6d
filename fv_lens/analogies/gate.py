"""When to insert a composite: a gate decided from the pair A:B alone, and what it gains at every coverage.

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
from .basis import Basis, allowed_for
from .compose import Composer
from .composition import Composition, CompositionLike, Folded, settings_for, with_folds
from .scores import LibraryName, exclusion
from .unseen import some_unseen

Signal = Literal["gain of the best vector", "gain of the composite", "certainty of the weights"]
SIGNALS = get_args(Signal)
COVERAGES = tuple(i / 10 for i in range(1, 11))


@dataclass(frozen=True, eq=False)
class GateCurve:
    """What a composite gains over its prompt where a signal is largest, from few analogies to all of them.

    `values`: the signal of each analogy's pair. `gained`: 1 where the composite alone completes the analogy right, -1
    where the prompt without it does, else 0. `groups`: of each analogy; intervals are over groups. `threshold`: of the
    gate, where there is one; infinity if it never inserts. `left_out`: analogies whose pairs a vector was tuned on.
    """

    signal: Signal
    values: np.ndarray = field(repr=False)
    gained: np.ndarray = field(repr=False)
    groups: Sequence[Any] = field(repr=False)
    threshold: float | None = None
    left_out: int = 0

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
        return _reaches(self.values, self.threshold)

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
        note = f"{len(self.values)} analogies" + (f", {self.left_out} more left out" if self.left_out else "")
        return card("GateCurve", self.signal, table(headings, lines), note=note)

    def _mean(self, gained: np.ndarray, mask: np.ndarray | None = None) -> Score:
        groups = [group for i, group in enumerate(self.groups) if mask is None or mask[i]]
        return scores.clustered_mean(gained, groups, within=scores.GAIN)


@dataclass(frozen=True, eq=False)
class Gate:
    """Whether to insert a composite, decided from the pair A:B alone: where a signal reaches a threshold.

    `how`: the composite. `threshold`: infinity to insert it never. `library`: what the library held where the gate was
    chosen. `record`: the mean gain of each signal over coverages, and the gain over all analogies at the threshold, all
    on validation; how many analogies of it were left out, for a pair that was tuned on.
    """

    how: Composition | Folded
    signal: Signal
    threshold: float
    library: LibraryName = "full"
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """What was chosen, and on what, as plain JSON data; the threshold is None if the gate never inserts."""
        threshold = self.threshold if np.isfinite(self.threshold) else None
        return {"signal": self.signal, "threshold": threshold, "library": self.library, **self.record}

    def inserts(self, model: Model, vectors: Mapping[str, FunctionVector], pair: tuple[str, str]) -> bool:
        """Whether the composite of one pair, which may be one that was tuned on, is to be inserted."""
        asked = [Question(pair, target=pair[0], answers=(pair[1],))]
        values = Gated(model, vectors, asked, drop_seen=False).signals(self.how, "full")
        return bool(_reaches(values[self.signal], self.threshold)[0])

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
    all analogies; infinity, never to insert, if every other one loses.

    Args:
        model: a HookedTransformer or TransformerBridge.
        vectors: the library, relation -> FunctionVector.
        validation: analogies, best those that nothing else was chosen on: gains on others are a little too large. Those
            on a pair that a vector was tuned on are left out and counted, see `unseen`, here and in `Gate.curve`.
        how: the composite; its `n_shots` says which prompt is asked with and without it.
        library: what the library holds for each analogy; of fitted folds those are used that fit it.

    Raises:
        InputError: no analogies, or none left; an empty library, vectors of two models or layers; an unknown method or
            library.

    Example:
        >>> gate = fit_gate(model, vectors, parts.validation, affine["affine, diagonal"])
        >>> curve = gate.curve(model, vectors, parts.test)
        >>> plots.gate({"full": curve}).show()
    """
    return Gated(model, vectors, validation).fit(how, library)


class Gated:
    """Analogies with the signals of their pairs; what several composites and libraries share is computed once.

    Args:
        drop_seen: leave out analogies on pairs that a vector was tuned on, and count them.
    """

    def __init__(
        self,
        model: Model,
        vectors: Mapping[str, FunctionVector],
        questions: Sequence[Question],
        *,
        drop_seen: bool = True,
    ):
        if not questions:
            raise InputError("There are no analogies to choose or to measure a gate on; give some.")
        self.lens = lens_of(model)
        self.library, self.families = Basis.of(self.lens, vectors), families_of(questions)
        self.questions, self.left_out = some_unseen(questions, vectors.values()) if drop_seen else ([*questions], 0)
        self.composer = Composer(self.lens, self.library, [question.source for question in self.questions])
        self.groups = [question.kin or i for i, question in enumerate(self.questions)]

    def fit(self, how: CompositionLike, library: LibraryName = "full") -> Gate:
        """As `fit_gate`."""
        how = with_folds(how)
        gained = self.gained(how, library)
        signals = self.signals(how, library)
        curves = [GateCurve(signal, signals[signal], gained, self.groups) for signal in SIGNALS if signal in signals]
        best = max(curves, key=lambda curve: round(curve.mean_gain, 9))
        # Of thresholds that gain the same, the lowest, which inserts most often; the last never inserts.
        thresholds = [*np.unique(best.values[np.isfinite(best.values)]).tolist(), np.inf]
        gains = [round(float((gained * _reaches(best.values, threshold)).mean()), 9) for threshold in thresholds]
        at = int(np.argmax(gains))
        record = {
            "mean gain": {curve.signal: curve.mean_gain for curve in curves},
            "gain": gains[at],
            "left out": self.left_out,
        }
        return Gate(how, best.signal, thresholds[at], library, record)

    def curve(self, gate: Gate) -> GateCurve:
        """As `Gate.curve`."""
        values = self.signals(gate.how, gate.library)[gate.signal]
        gained = self.gained(gate.how, gate.library)
        return GateCurve(gate.signal, values, gained, self.groups, gate.threshold, self.left_out)

    def signals(self, how: Composition | Folded, library: LibraryName) -> dict[Signal, np.ndarray]:
        """Each signal of each pair; "certainty of the weights" only if the composite has weights in every fold."""
        may = self._allowed(library)
        each = settings_for(how, self.questions, exclusion(library) is not None)
        plain, with_vectors = self.composer.log_probs[:, 0], self.composer.log_probs[:, 1:]
        best = with_vectors.nan_to_num(-torch.inf).masked_fill(~may, -torch.inf).max(1).values
        edited = [self.library.edit(self.composer.vectors(each, may))]
        sources = self.composer.sources.select(self.composer.place)
        of_composite = completions(self.lens, sources, edited).log_prob
        values: dict[Signal, np.ndarray] = {
            "gain of the best vector": (best - plain).numpy(),
            "gain of the composite": of_composite[:, 1] - of_composite[:, 0],
        }
        settings = (how.whole, *how.folds) if isinstance(how, Folded) else (how,)
        if all(one.weighting != "none" for one in settings):
            entropy = torch.special.entr(self.composer.weights_of_each(each, may)).sum(1)
            most = may.sum(1).float().log()
            values["certainty of the weights"] = (1 - entropy / most.clamp(min=1e-9)).numpy()
        return values

    def gained(self, how: Composition | Folded, library: LibraryName) -> np.ndarray:
        """1 where the composite completes the whole answer and the same prompt without it does not; -1; 0."""
        may = self._allowed(library)
        each = settings_for(how, self.questions, exclusion(library) is not None)
        prompts = batch(
            self.lens, [q.asked(how.n_shots) for q, how in zip(self.questions, each)], self.library.template
        )
        edited = [self.library.edit(self.composer.vectors(each, may))]
        right = completions(self.lens, prompts, edited).right.astype(float)
        return right[:, 1] - right[:, 0]

    def _allowed(self, library: LibraryName) -> torch.Tensor:
        return allowed_for(self.library, self.questions, exclusion(library), self.families)


def _reaches(values: np.ndarray, threshold: float) -> np.ndarray:
    """Mask of the signals that a threshold lets through; that of infinity none, however large."""
    return (values >= threshold) & (threshold < np.inf)
