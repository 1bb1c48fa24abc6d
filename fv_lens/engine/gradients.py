"""Losses of whole answers under added vectors, and their gradients: the engine's trainable rows.

A row is a prompt with its answer, and a vector added at the prompt's last token after one block. Nothing up to that
block depends on the vector, nor does any earlier token: keys, values and residuals there are computed once. A step runs
only the blocks above, forward and backward, on the row's own tokens, as an element of the batch of a decode step, which
it joins in its own layer.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..ground.errors import InputError, ParityError
from ..models.hooking import Hook, HookFunction
from ..models.lens import Lens, check_layer
from ..models.onednn import only
from ..models.sites import probe_noise
from ..models.state import Parity
from .batches import PromptBatch
from .beginnings import begin
from .chunks import Chunk, groups, with_answers
from .edits import CPU_FLOAT32, RESIDUAL
from .growing import growing, told_apart
from .parity import measured
from .whatif import TILE, clean_logits, without_patches

if TYPE_CHECKING:
    from ..models.hooking import HookPoint

log = logging.getLogger("fv_lens")


class Rows:
    """Prompts with their first listed answers as targets, each under one of several vectors.

    Args:
        prompts: the prompts; of each, the first listed answer counts, all its tokens or `first_token` alone.
        owners: which vector each prompt belongs to, `[prompt]`, whole numbers from 0.
        layers: the block after which each vector is added to the residual stream, at the last prompt token: `[vector]`,
            or one for all.

    Raises:
        InputError: a layer outside the model, owners that do not fit the prompts, or a patch that is active.
        ParityError: a vector changes nothing.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        lens: Lens,
        prompts: PromptBatch,
        owners: Sequence[int],
        layers: int | Sequence[int],
        first_token: bool = False,
    ):
        if any(parameter.is_inference() for parameter in lens.model.parameters()):
            raise InputError(
                f"{lens.name} was loaded in torch.inference_mode(), where nothing can be tuned; load it outside."
            )
        self.lens = lens
        self.owners = torch.as_tensor(owners, device="cpu").clone()
        if self.owners.shape != (len(prompts),):
            raise InputError(f"There are {len(self.owners)} owners for {len(prompts)} prompts; give one for each.")
        counts = torch.bincount(self.owners)
        of_vectors = [layers] * len(counts) if isinstance(layers, int) else layers
        self.layers = [check_layer(lens, layer) for layer in of_vectors]
        self.shares = 1 / counts[self.owners].float()  # of each row in the mean loss of its vector
        answers = [listed[0][:1] if first_token else listed[0] for listed in prompts.answers]
        self.chunks = without_patches(self._make_chunks)(lens, prompts, answers)

    def _make_chunks(self, lens: Lens, prompts: PromptBatch, answers: Sequence[tuple[int, ...]]) -> list[Chunk]:
        """The rows in chunks, once it is known whether the blocks above suffice."""
        parity = measured(lens, prompts.tokens.to(lens.device), prompts.mask.to(lens.device))
        self.exact = self._probe(parity, prompts, answers)
        owners = self.owners.tolist()
        members = groups(lens, parity, prompts, answers, min(self.layers), self.exact)
        ordered = (sorted(rows, key=lambda row: self.layers[owners[row]]) for rows in members)
        chunks = (self._chunk(prompts, answers, rows, [self.layers[owners[row]] for row in rows]) for rows in ordered)
        return [begin(self.lens, chunk) if self.exact else chunk for chunk in chunks]

    @property
    def residual_rms(self) -> Float[Tensor, " vector"]:
        """Root mean square of the residual stream at its layer, over each vector's prompts (last token) and d_model."""
        squares = torch.zeros(len(self.owners), **CPU_FLOAT32)

        def see(rows: Tensor, which: Tensor | slice, x: Tensor, hook: "HookPoint | None" = None) -> None:
            squares[rows] = x[which, -1].float().square().mean(1).cpu()

        for chunk in self.chunks:
            if self.exact:
                see(chunk.rows, slice(None), chunk.begun.residual[:, :1])
            else:
                end = chunk.ids.shape[1] - chunk.new + 1
                places = {layer: torch.tensor(chunk.layers) == layer for layer in dict.fromkeys(chunk.layers)}
                hooks: list[Hook] = [
                    (f"blocks.{layer}.{RESIDUAL}", partial(see, chunk.rows[which], which))
                    for layer, which in places.items()
                ]
                with torch.no_grad():
                    clean_logits(self.lens, chunk.ids[:, :end], chunk.mask[:, :end], hooks)
        totals = torch.zeros(int(self.owners.max()) + 1, **CPU_FLOAT32)
        return totals.index_add_(0, self.owners, squares * self.shares).sqrt()

    @torch.inference_mode(False)
    def losses(self, vectors: Float[Tensor, "vector d_model"]) -> Float[Tensor, " row"]:
        """Cross-entropy of each prompt's answer under its vector, summed over the answer's tokens, in nats."""
        with torch.no_grad():
            return self._run(vectors, gradient=False)

    @torch.inference_mode(False)
    def gradient(
        self, vectors: Float[Tensor, "vector d_model"], perplexity: bool = False
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, "vector d_model"]]:
        """(losses `[row]`, gradient of the mean loss of each vector's rows), both float32 on the CPU.

        With `perplexity`, the gradient is that of the mean of exp(loss / number of the answer's tokens); the losses
        are the same.
        """
        leaf = vectors.detach().to(self.lens.device, torch.float32, copy=True).requires_grad_()
        with self.lens.state.lock, frozen(self.lens.model), torch.enable_grad():
            losses = self._run(leaf, gradient=True, perplexity=perplexity)
        assert leaf.grad is not None  # `_run` goes back to it
        return losses, leaf.grad.cpu()

    def _run(self, vectors: Tensor, gradient: bool, perplexity: bool = False) -> Tensor:
        losses = torch.zeros(len(self.owners), **CPU_FLOAT32)
        for chunk in self.chunks:
            run = without_patches(
                lambda lens, chunk=chunk: self._losses(chunk, vectors, gradient, self.exact, perplexity)
            )
            losses[chunk.rows] = run(self.lens).cpu()
        return losses

    def _losses(self, chunk: Chunk, vectors: Tensor, gradient: bool, exact: bool, perplexity: bool = False) -> Tensor:
        """Losses `[row]` of a chunk; with `gradient`, that of the mean losses is added to `vectors.grad`."""
        added = vectors.to(chunk.ids.device)[chunk.owners.to(chunk.ids.device)]
        run = self._above if exact else self._in_full
        rows = run(chunk, added)
        targets = chunk.targets.to(rows.device)
        counted = targets >= 0
        picked, targets = rows[counted], targets[counted]
        row = counted.nonzero()[:, 0]
        weights = self.shares.to(row.device)[chunk.rows.to(row.device)][row]
        plain = exact and self.lens.parity.plain_readout is not False
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for i in range(0, len(picked), TILE):  # the logits of a tile live no longer than it
            part = picked[i : i + TILE].detach().requires_grad_(gradient)
            logits = self.lens.readout(part) if plain else part
            target = targets[i : i + TILE, None].to(logits.device)
            log_probs = logits.detach().float().log_softmax(-1)
            losses.append(-log_probs.gather(1, target)[:, 0])
            if gradient:  # of cross-entropy in its closed form, in place: torch's own takes six times as long
                slope = log_probs.exp_().scatter_add_(1, target, -torch.ones_like(target, dtype=torch.float32))
                slope *= weights[i : i + TILE, None].to(slope.device)
                gradients += torch.autograd.grad(logits, part, slope.to(logits))
        of_tokens = torch.cat(losses).to(rows.device)
        of_rows = torch.zeros(len(rows), dtype=torch.float32, device=rows.device).index_add_(0, row, of_tokens)
        if gradient:
            slopes = torch.cat(gradients)
            if perplexity:  # by the chain rule, once the loss of the whole answer is known
                n_tokens = counted.sum(1)
                slopes *= ((of_rows / n_tokens).exp() / n_tokens)[row].to(slopes)[:, *[None] * (slopes.dim() - 1)]
            picked.backward(slopes)
        return of_rows.to(added.device)

    def _above(self, chunk: Chunk, added: Tensor) -> Tensor:
        """What enters the unembedding (or logits), `[row, new, ...]`, from running only the blocks above each layer."""
        begun, alive = chunk.begun, chunk.alive(self.lens.n_layers)
        first = begun.residual[:, :1] + added[:, None].to(begun.residual)
        residual, read = torch.cat([first, begun.residual[:, 1:]], 1), chunk.targets >= 0
        # If all rows join at once, no batch is cut, so its dimension need not be recognised.
        at_once = len(set(chunk.layers)) == 1
        n_rows = len(residual) if at_once else told_apart(self.lens, len(residual), chunk.ids.shape[1])
        row = torch.arange(n_rows, device=chunk.ids.device) % len(residual)

        def join(layer: int, x: Tensor) -> Tensor:
            before = alive[layer - 1] if layer else 0
            new = residual[before : alive[layer]].to(x.device)
            return new if not before else torch.cat([x, new]) if len(new) else x

        def attend(layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return torch.cat([begun.prefix.keys[layer], k], 2), torch.cat([begun.prefix.values[layer], v], 2)

        def reading(layer: int, forward: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
            with only(read[: len(x)]):
                return forward(x, *args, **kwargs)

        with self.lens.blocks_through(reading), growing(self.lens, alive, n_rows, join, begun.tuples):
            ids, mask = chunk.ids[row][:, -chunk.new :], chunk.mask[row]
            return self.lens.step(begun.prefix, ids, mask, attend, [], alone=False)

    def _in_full(self, chunk: Chunk, added: Tensor) -> Tensor:
        """Logits `[row, new, vocab]` by full forwards with the vectors added in hooks: the slow reference."""
        at = chunk.ids.shape[1] - chunk.new

        def adds(layer: int) -> HookFunction:
            others = torch.tensor([of != layer for of in chunk.layers], device=added.device)
            own = added.masked_fill(others[:, None], 0)[:, None]
            return lambda x, hook: torch.cat([x[:, :at], x[:, at : at + 1] + own.to(x), x[:, at + 1 :]], 1)

        hooks: list[Hook] = [(f"blocks.{layer}.{RESIDUAL}", adds(layer)) for layer in dict.fromkeys(chunk.layers)]
        if self.lens.one_by_one:  # each token in a forward that ends in it, as in `forms.one_by_one`
            ends = range(at + 1, at + 1 + chunk.new)
            return torch.cat([self.lens.logits(chunk.ids[:, :end], chunk.mask[:, :end], hooks) for end in ends], 1)
        return self.lens.logits(chunk.ids, chunk.mask, hooks, last=chunk.new)

    def _chunk(
        self, prompts: PromptBatch, answers: Sequence[tuple[int, ...]], rows: Sequence[int], layers: Sequence[int]
    ) -> Chunk:
        rows = list(rows)
        ids, mask, targets = (x.to(self.lens.device) for x in with_answers(prompts, answers, rows))
        return Chunk(torch.tensor(rows, device="cpu"), self.owners[rows], layers, ids, mask, targets)

    def _probe(self, parity: Parity, prompts: PromptBatch, answers: Sequence[tuple[int, ...]]) -> bool:
        """Whether running the blocks above alone equals full forwards here, in losses and gradients.

        Kept per set of layers and for answers of one or of several tokens, and measured again for longer prompts.
        Compared on the longest of these prompts, with the longest answer, and on the shortest, in every layer.
        """
        lens, lengths, longest = self.lens, prompts.mask.sum(1), max(answers, key=len)
        if lens.one_by_one:
            return False
        layers = sorted(set(self.layers))
        key = tuple(layers), len(longest) > 1
        compared, exact = parity.gradients.get(key, (0, False))
        if int(lengths.max()) <= compared:
            return exact
        order = lengths.argsort(stable=True).tolist()
        rows = [order[-1], order[0]] if parity.padding and len(order) > 1 else order[-1:]
        answers = [longest if i == rows[0] else answer for i, answer in enumerate(answers)]
        of_rows = [layer for layer in layers for _ in rows]
        chunk = self._chunk(prompts, answers, rows * len(layers), of_rows)
        chunk = replace(chunk, owners=torch.arange(len(of_rows), device="cpu"))
        noise = probe_noise(len(of_rows), lens.d_model).to(lens.device)
        truth, slope = self._losses_and_gradient(chunk, noise, exact=False)
        unmoved = truth == self._losses_and_gradient(chunk, 0 * noise, exact=False)[0]
        for layer, same in zip(layers, unmoved.unflatten(0, (len(layers), -1)).all(1)):
            if same:
                raise ParityError(f"A vector added at blocks.{layer}.{RESIDUAL} of {lens.name} changed nothing.")
        tolerance = 1e-3 if lens.full_precision else 1e-1
        try:
            losses, gradient = self._losses_and_gradient(begin(self.lens, chunk), noise, exact=True)
            exact = bool((losses - truth).abs().max() <= tolerance * truth.abs().max().clamp(min=1))
            for off, whole in zip((gradient - slope).split(len(rows)), slope.split(len(rows))):  # of each layer
                exact &= bool(off.norm() <= tolerance * whole.norm().clamp(min=1e-8))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever an architecture's own code raises on a form it was not written for
            exact = False
            log.debug("%s: rows above layers %s raised %r", lens.name, layers, error)
        if not exact:
            log.warning("%s: tuning cannot skip the blocks below here; running full forwards.", lens.name)
        parity.gradients[key] = int(lengths.max()), exact
        return exact

    def _losses_and_gradient(self, chunk: Chunk, vectors: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
        leaf = vectors.detach().clone().requires_grad_()
        with self.lens.state.lock, frozen(self.lens.model), torch.enable_grad():
            losses = self._losses(chunk, leaf, True, exact)
        assert leaf.grad is not None  # `_losses` goes back to it
        return losses, leaf.grad


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Freeze the model's parameters in this block; `requires_grad` is restored at its end."""
    on = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in on:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in on:
            parameter.requires_grad_(True)
