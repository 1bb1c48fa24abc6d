"""The rows of a table of baselines: each method by its name, made of the train pairs and measured on the test words."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch

from ...datasets.prompts import PromptTemplate, with_demonstrations
from ...datasets.relations import Relation
from ...engine.batches import PromptBatch, batch
from ...engine.completion import Completions, completions
from ...engine.whatif import WhatIf
from ...ground.errors import InputError
from ...ground.progress import progress_bar
from ...models.adapters import Adapted, with_lora, with_soft_prompt
from ...models.lens import Lens
from ...vectors.function_vector import FunctionVector
from ...vectors.optimizer import Tuning
from ..controls import edits_of, prompt_controls
from .costs import Cost, memory_held, prepared, timed
from .names import (
    ACTIVATION_ADDITION,
    INSTRUCTION,
    LORA_ALL,
    LORA_ONE,
    MEAN_DIFFERENCE,
    OTHERS,
    OTHERS_BEST,
    OTHERS_MEAN,
    SOFT_1,
    SOFT_5,
    TUNED,
)
from .steering import activation_addition, best_of, instructed, mean_difference
from .training import TrainingPrompts, behind_virtual_tokens, train

SOFT_RATES = (0.1, 0.3)  # Adam's, in root mean squares of the token embeddings
LORA_RATES = (3e-3, 1e-2)

Row = tuple[Completions, Cost, str]


@dataclass(frozen=True, eq=False)
class Measured:
    """What the rows of one table are made of and measured on: the parts of the relation's split."""

    lens: Lens
    relation: Relation
    fv: FunctionVector
    template: PromptTemplate
    how: Tuning
    seed: int

    def rows(
        self, methods: Collection[str], others: Mapping[str, FunctionVector], instruction: str | None
    ) -> tuple[dict[str, Row], dict[str, str]]:
        """The rows by name, the tuned vector first, and the reasons why others are missing."""
        gaps: dict[str, str] = {}
        vectors: dict[str, tuple[list[FunctionVector], Cost, str]] = {TUNED: ([self.fv], Cost(0), self._place(self.fv))}
        measured: dict[str, Callable[[], tuple[FunctionVector, str]]] = {
            ACTIVATION_ADDITION: lambda: activation_addition(
                self.lens, self.relation, self.template, instruction, self.seed
            ),
            MEAN_DIFFERENCE: lambda: mean_difference(self.lens, self.relation, self.template, self.seed),
        }
        for name, make in measured.items():
            if name in methods:
                try:
                    (vector, chosen), *cost = prepared(make)
                    vectors[name] = [vector], Cost(0, *cost), chosen
                except InputError as error:
                    gaps[name] = str(error)
        others = {name: vector for name, vector in others.items() if name != self.relation.name}
        if OTHERS in methods and others:
            named = list(others)
            candidates = [[others[name]] for name in named]
            best, *cost = prepared(lambda: best_of(self.lens, self.relation, candidates, self.template, OTHERS))
            chosen = f"{named[best]}, of {len(named)}"
            vectors[OTHERS_BEST] = [others[named[best]]], Cost(0, *cost), chosen
            vectors[OTHERS_MEAN] = list(others.values()), Cost(0), ""
        elif OTHERS in methods:
            gaps[OTHERS_BEST] = "no vectors of other relations were given; pass others={name: vector}"
        rows = self._with_vectors(vectors)
        if INSTRUCTION in methods and instruction:
            rows |= self._with_instruction(instruction, gaps)
        elif INSTRUCTION in methods:
            gaps[INSTRUCTION] = f"no instruction is known for {self.relation.name!r}; pass instruction="
        return rows | self._trained(methods, gaps), gaps

    def shots(self) -> dict[str, Row]:
        """Rows of prompts with demonstrations from the train pairs, without any vector."""
        parts = self.relation.split()
        asked = prompt_controls(parts.test, parts.train, 0, self.seed).items()
        intact = {name: prompts for name, prompts in asked if name != "zero-shot" and "shuffled" not in name}
        return {name: self._asked(name, batch(self.lens, some, self.template)) for name, some in intact.items()}

    def _prompts(self, template: PromptTemplate | None = None) -> PromptBatch:
        test = self.relation.split().test
        return batch(self.lens, with_demonstrations(test, test, 0), template or self.template)

    def _with_vectors(self, vectors: Mapping[str, tuple[list[FunctionVector], Cost, str]]) -> dict[str, Row]:
        """Rows of vectors, each alone (several are draws), and that of the zero-shot prompt, in one pass."""
        whatifs: list[WhatIf] = [edits_of([vector]) for drawn, _, _ in vectors.values() for vector in drawn]
        prompts = self._prompts()
        with progress_bar(total=len(prompts), desc="vectors on test", unit="prompt") as bar:
            values = completions(self.lens, prompts, whatifs, bar.update)
        rows: dict[str, Row] = {}
        at = 1
        for name, (drawn, cost, chosen) in vectors.items():
            rows[name] = values.rows(slice(at, at + len(drawn))), cost, chosen
            at += len(drawn)
            if name == TUNED:
                rows["zero-shot"] = values.rows([0]), Cost(0), ""
        return rows

    def _with_instruction(self, instruction: str, gaps: dict[str, str]) -> dict[str, Row]:
        try:
            template = instructed(self.lens, self.template, instruction)
            return {INSTRUCTION: self._asked(INSTRUCTION, self._prompts(template), instruction)}
        except InputError as error:
            gaps[INSTRUCTION] = str(error)
            return {}

    def _asked(self, name: str, prompts: PromptBatch, chosen: str = "") -> Row:
        with progress_bar(total=len(prompts), desc=f"{name} on test", unit="prompt") as bar:
            return completions(self.lens, prompts, [], bar.update), Cost(0), chosen

    def _trained(self, methods: Collection[str], gaps: dict[str, str]) -> dict[str, Row]:
        """Rows of what is trained on a twin of the model; the reason goes into `gaps` where one cannot be."""
        lens, layer, every = self.lens, self.fv.layer, range(self.lens.n_layers)
        made: dict[str, tuple[Callable[[], Adapted], tuple[float, ...]]] = {
            SOFT_1: (lambda: with_soft_prompt(lens, 1, self.seed), SOFT_RATES),
            SOFT_5: (lambda: with_soft_prompt(lens, 5, self.seed), SOFT_RATES),
            LORA_ONE: (lambda: with_lora(lens, [layer], 1, self.seed), LORA_RATES),
            LORA_ALL: (lambda: with_lora(lens, every, 1, self.seed), LORA_RATES),
        }
        rows: dict[str, Row] = {}
        if not set(made) & set(methods):
            return rows
        seen, tested = TrainingPrompts.of(self.lens, self.relation.split(), self.template), self._prompts()
        for name, (make, rates) in made.items():
            if name in methods:
                try:
                    rows[name] = self._row_of(name, make, rates, seen, tested)
                except InputError as error:
                    gaps[name] = str(error)
        return rows

    @torch.inference_mode(False)
    def _row_of(
        self,
        name: str,
        make: Callable[[], Adapted],
        rates: tuple[float, ...],
        seen: TrainingPrompts,
        tested: PromptBatch,
    ) -> Row:
        with memory_held() as most:  # of one step, as every later one is like it
            adapted = make()
            start = adapted.values()
            train(adapted, seen, rates[:1], replace(self.how, steps=1))
        adapted.set(start)
        trained, seconds = timed(lambda: train(adapted, seen, rates, self.how))
        with progress_bar(total=len(tested), desc=f"{name} on test", unit="prompt") as bar:
            values = completions(adapted.lens, behind_virtual_tokens(adapted, tested), [], bar.update)
        chosen = f"rate {trained.rate:g}, step {trained.step}, loss {trained.loss:.2f}"
        return values, Cost(adapted.n_parameters, seconds, most()), chosen

    def _place(self, fv: FunctionVector) -> str:
        kept = f", step {fv.training['chosen_step']}, loss {fv.training['validation_loss']:.2f}" if fv.training else ""
        return f"layer {fv.layer}{kept}"
