"""Tuning one vector for each bundled relation, all in one batch, beside the plain loops, in one process.

    python -m tests.benchmarks.tuning [--model NAME] [--hooked] [--relations N] [--steps 40] [--whole]

The plain loops run full forwards with the vector added in a hook, weights frozen, logits at the answer's positions
only, and go back through them to the vector: a relation's prompts as one left-padded batch, or a prompt at a time. Both
are sampled on a few relations and steps, before and after the engine's run, and their means are extended linearly to
all relations, steps and looks at the validation pairs. The skeleton is the engine's own matmuls, forwards and
backwards, replayed with nothing between them.
"""

import argparse
import resource
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.datasets.relation_files import load_relation, relation_names
from fv_lens.engine.batches import PromptBatch
from fv_lens.engine.gradients import Rows, frozen
from fv_lens.ground.storage import versions
from fv_lens.models.lens import lens_of
from fv_lens.models.load import load_model
from fv_lens.vectors.optimizer import EVERY, Tuning, task
from fv_lens.vectors.tuning import finetune_all
from fv_lens.vectors.tuning_pairs import tuning_pairs

from .matmuls import Matmuls
from .timing import timed


@dataclass(frozen=True)
class Batch:
    """Prompts with their answers behind them; `targets` `[row, answer]` is -100 behind an answer's end."""

    ids: Tensor
    mask: Tensor
    targets: Tensor


class Loop:
    """The plain way to tune one vector, on batches of prompts that run one after the other."""

    def __init__(self, lens, layer: int, first_token: bool, prompts: PromptBatch, size: int):
        self.lens, self.layer, self.n = lens, layer, len(prompts)
        parts = (prompts.select(range(i, min(i + size, self.n))) for i in range(0, self.n, size))
        self.batches = [self._batch(part, first_token) for part in parts]

    def _batch(self, prompts: PromptBatch, first_token: bool) -> Batch:
        answers = [torch.tensor(listed[0][:1] if first_token else listed[0]) for listed in prompts.answers]
        targets = torch.nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=-100)
        ids = torch.cat([prompts.tokens, targets[:, :-1].clamp(min=0)], 1)
        mask = pad(prompts.mask, (0, targets.shape[1] - 1), value=1)
        return Batch(*(x.to(self.lens.device) for x in (ids, mask, targets)))

    def loss(self, batch: Batch, vector: Tensor) -> Tensor:
        """The batch's share of the mean loss of an answer."""
        last = batch.targets.shape[1]

        def add(x, hook):
            return torch.cat([x[:, :-last], x[:, -last, None] + vector.to(x), x[:, x.shape[1] - last + 1 :]], 1)

        logits = self.lens.logits(batch.ids, batch.mask, [(f"blocks.{self.layer}.hook_resid_post", add)], last=last)
        return cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten(), reduction="sum") / self.n

    def step(self, vector: Tensor, adam: torch.optim.Adam) -> None:
        with frozen(self.lens.model):
            adam.zero_grad()
            for batch in self.batches:
                self.loss(batch, vector).backward()
            adam.step()

    def gradient(self, vector: Tensor) -> Tensor:
        leaf = vector.to(self.lens.device).requires_grad_()
        with frozen(self.lens.model):
            return torch.autograd.grad(sum(self.loss(batch, leaf) for batch in self.batches), leaf)[0].cpu()

    @torch.no_grad()
    def look(self, vector: Tensor) -> float:
        return float(sum(self.loss(batch, vector) for batch in self.batches))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--hooked", action="store_true", help="as a HookedTransformer (TransformerLens 3.x)")
    parser.add_argument("--relations", type=int, help="so many of the bundled relations; all by default")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--layer", type=int, help="by default at .55 of the depth")
    loss = parser.add_mutually_exclusive_group()
    loss.add_argument("--first-token", action="store_true", default=True, help="tune on first tokens (the default)")
    loss.add_argument("--whole", dest="first_token", action="store_false", help="tune on whole answers")
    parser.add_argument("--sample", type=int, default=3, help="relations to time the plain loops on")
    parser.add_argument("--sample-steps", type=int, default=3, help="steps of each, of the batched loop")
    return parser.parse_args()


def skeleton(lens, relations, layer, n_pairs, first_token):
    """Seconds of the matmuls of a step of all relations, of a look at their validation pairs, and of beginning both."""
    splits = [tuning_pairs(relation, n_pairs, 10) for relation in relations]
    tasks = [task(lens, [part.train], [part.validation], layer, PromptTemplate()) for part in splits]
    seconds, vectors, begin_s = [], torch.full((len(tasks), lens.d_model), 1e-2), 0.0
    for parts, run in (([one.train for one in tasks], Rows.gradient), ([one.validation for one in tasks], Rows.losses)):
        owners = [owner for owner, part in enumerate(parts) for _ in range(len(part))]
        with Matmuls(lens.model) as begun:
            rows = Rows(lens, PromptBatch.joined(parts, lens.pad_id), owners, layer, first_token)
        begin_s += timed(begun.replay())[0]
        with Matmuls(lens.model) as recorded:
            run(rows, vectors)
        matmuls = recorded.replay()
        seconds.append(statistics.median(timed(matmuls)[0] for _ in range(4)))
    return *seconds, begin_s


def main():
    options = arguments()
    model = load_model(options.model, cls="hooked" if options.hooked else None)
    lens, first_token = lens_of(model), options.first_token
    layer = min(lens.n_layers - 1, int(0.55 * lens.n_layers + 0.5)) if options.layer is None else options.layer
    relations = [load_relation(name) for name in relation_names()[: options.relations]]
    settings = dict(layer=layer, n_pairs=options.pairs)

    def tune(steps):
        return finetune_all(model, relations, **settings, how=Tuning(steps, first_token=first_token))

    def sampled(one, size, steps):
        """Seconds of one step and of one look at the validation pairs, for one relation, after a warm-up."""
        train, check = (Loop(lens, layer, first_token, part, size) for part in (one.train, one.validation))
        vector = torch.zeros(lens.d_model, device=lens.device, requires_grad=True)
        adam = torch.optim.Adam([vector], lr=1e-3)
        train.loss(train.batches[0], vector), check.look(vector)
        step_s = timed(lambda: [train.step(vector, adam) for _ in range(steps)])[0] / steps
        return step_s, timed(lambda: check.look(vector))[0]

    # A short run first: it warms up, leaves out what cannot be tuned, and tells preparation from steps.
    tuned = tune(2)
    relations = [relation for relation in relations if relation.name in tuned]
    step = max(1, len(relations) // options.sample)
    splits = [tuning_pairs(relation, options.pairs, 10) for relation in relations[::step][: options.sample]]
    sample = {part[0].name: task(lens, [part.train], [part.validation], layer, PromptTemplate()) for part in splits}
    short_s, _ = timed(lambda: tune(2))
    by_batch, by_prompt = [], []

    def opponents():
        for one in sample.values():
            by_batch.append(sampled(one, options.pairs, options.sample_steps))
            by_prompt.append(sampled(one, 1, 1))

    opponents()
    whole_s, tuned = timed(lambda: tune(options.steps))
    opponents()
    step_s, look_s, begin_s = skeleton(lens, relations, layer, options.pairs, first_token)
    # In float32 the loops' own gradient is about 5e-5 from that of float64 on the default model, the engine's 1e-6: the
    # backward of a three-dimensional batch through the unembedding rounds more than that of flat rows.
    worst = 0.0
    for name, one in sample.items():
        vector = tuned[name].vector
        rows = Rows(lens, one.train, [0] * len(one.train), layer, first_token)
        _, (found,) = rows.gradient(vector[None])
        expected = Loop(lens, layer, first_token, one.train, 1).gradient(vector)
        worst = max(worst, float((found - expected).norm() / expected.norm()))

    n, steps = len(relations), options.steps
    looks = len({*range(0, steps + 1, EVERY), steps})
    pairs = sum(fv.training["n_pairs"] for fv in tuned.values())
    each_s = (whole_s - short_s) / max(1, steps - 2)
    kind = "first token" if first_token else "whole answer"
    print(f"{lens.name} ({type(model).__name__}): {n} relations, {pairs} pairs, {steps} steps, layer {layer}, {kind}")
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    print(f"{torch.get_num_threads()} threads, {lens.dtype}, {lens.device}; {libraries}")
    print(f"skips the blocks below: {'yes' if rows.exact else 'no, full forwards'}")
    print(
        f"engine    {whole_s:9.1f} s   ({whole_s / n:.2f} s a relation; {each_s:.2f} s a step of all, with its looks)"
    )
    bare_s = begin_s + steps * step_s + looks * look_s
    print(
        f"skeleton  {bare_s:9.1f} s   (its own matmuls: {step_s:.3f} s a step, {look_s:.3f} s a look of all relations, "
        f"{begin_s:.1f} s to begin)"
    )
    totals = []
    for name, runs in (("batches", by_batch), ("prompts", by_prompt)):
        one_step_s, one_look_s = (statistics.mean(column) for column in zip(*runs))
        totals.append(n * (steps * one_step_s + looks * one_look_s))
        extended = (
            f"{one_step_s:.3f} s a step and {one_look_s:.3f} s a look of one relation, means of {len(runs)} samples"
        )
        print(f"{name}   {totals[-1]:9.0f} s   (a loop: {extended}, extended to {n} x {steps} and {n} x {looks})")
    print(f"engine / skeleton {whole_s / bare_s:8.2f}")
    print(f"batches / engine  {totals[0] / whole_s:8.1f}")
    print(f"prompts / engine  {totals[1] / whole_s:8.1f}")
    print(f"largest relative difference of a gradient on the sample {worst:.1e}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    on_gpu = f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GB on the GPU" if lens.device.type == "cuda" else ""
    print(f"peak memory {peak:.2f} GB{on_gpu}")


if __name__ == "__main__":
    main()
