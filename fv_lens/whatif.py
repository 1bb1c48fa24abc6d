"""The engine: one prompt, many what-ifs at its last token.

Attention is causal, so an edit at the last prompt token changes no earlier token. The keys and values of the prefix are
computed once, and every what-if is one more row that meets them and itself. Any head, layer, strength or vector is such
a row; head maps, sweeps and evaluations are sets of rows.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from .errors import InputError, ParityError
from .lens import Lens, Prefix
from .prefixes import prefix_of, shared_tokens
from .rows import HEAD_OUTPUT, RESIDUAL, Edit, Plan, WhatIf, as_batch, as_positions, in_full

__all__ = ["Edit", "WhatIf", "head_outputs", "what_if"]

Read = Callable[[Tensor, Tensor], Tensor]
FORMS = {"as positions": as_positions, "as batch elements": as_batch, "in full forwards": in_full}
PREFIX_TOKENS = 1024  # prompts that share one prefix run hold about so many tokens
SLOW = "in full forwards"
MAX_ROWS = 2560  # that run together, if not told otherwise
ALWAYS_PROBED = (HEAD_OUTPUT, RESIDUAL)  # other sites are probed when an edit there is first asked for
TILE = 128  # rows unembedded at a time: logits of a tile stay small enough for memory to be reused

log = logging.getLogger("fv_lens")


@torch.no_grad()
def what_if(
    lens: Lens,
    tokens: Int[Tensor, "prompt pos"],
    mask: Int[Tensor, "prompt pos"],
    whatifs: Sequence[WhatIf],
    read: Read,
    *,
    tail: int = 1,
    max_rows: int = MAX_ROWS,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Run every what-if on every prompt and read the logits of each.

    Args:
        tokens, mask: left-padded prompts. The last `tail` tokens belong to each row: the last prompt token, where edits
            act, and `tail - 1` tokens of a continuation, each of which sees the prefix and its own row only.
        whatifs: lists of `Edit`s; the edits of one list act together.
        read: `(logits [n, tail, vocab] float32, prompt [n]) -> [n, ...]`, called for a tile of rows at a time.
        max_rows: the most rows run together; memory is bounded by it, not by `len(whatifs)` or the number of prompts.
        progress: called with the number of prompts done.

    Returns:
        `[prompt, 1 + len(whatifs), ...]` on the CPU: what `read` returned, the clean row first.

    Raises:
        ParityError: an edit changed nothing, or a form disagrees with full forwards (checked on first use, and again
            for each site that edits are first made at).
    """
    refuse_patches(lens)
    tokens, mask = tokens.to(lens.device), mask.to(lens.device)
    form = form_for(lens, tokens, mask, tail, whatifs)
    if form != "as positions":  # each row carries keys and values, or all tokens, of its own
        most = 16 * PREFIX_TOKENS if form != SLOW else PREFIX_TOKENS
        max_rows = max(2, min(max_rows, most // tokens.shape[1]))
    scores = lens.n_heads * (tokens.shape[1] + lens.d_head)  # numbers that attention holds for each row
    max_rows = max(2, min(max_rows, 2**28 // scores))
    if lens.plain_readout is False:  # logits of all rows at once
        max_rows = max(2, min(max_rows, 2**27 // lens.cfg.d_vocab))
    max_whatifs = max_rows - 1
    results: Tensor | None = None
    shared = shared_tokens(tokens[:, :-tail], mask[:, :-tail]) if form != SLOW else 0
    for prompts in _groups(lens, mask, max(1, max_rows // (min(len(whatifs), max_whatifs) + 1)), shared):
        ids, seen = _trimmed(tokens[prompts], mask[prompts])
        prefix = _prefix(lens, ids, seen, tail, form)
        for start in range(0, max(1, len(whatifs)), max_whatifs):
            plan = Plan(lens, whatifs[start : start + max_whatifs], prompts)
            rows = FORMS[form](lens, prefix, ids, seen, plan)
            read_out = _read(lens, rows, prompts, read, logits=form == SLOW)
            if results is None:
                results = read_out.new_zeros(len(tokens), 1 + len(whatifs), *read_out.shape[2:])
            results[prompts.cpu(), 0] = read_out[0]
            results[prompts.cpu()[:, None], 1 + start + plan.order[None]] = read_out[1:].transpose(0, 1)
        if progress:
            progress(len(prompts))
    return results


@torch.no_grad()
def head_outputs(
    lens: Lens, tokens: Int[Tensor, "prompt pos"], mask: Int[Tensor, "prompt pos"]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Clean forwards, a few prompts at a time: (prompt indices, head outputs, logits), both at the last token.

    Head outputs are `[prompt, layer, head, d_head]` (at `hook_z`), logits `[prompt, vocab]`.
    """
    refuse_patches(lens)
    tokens, mask = tokens.to(lens.device), mask.to(lens.device)
    form_for(lens, tokens, mask, tail=1)
    for prompts in _groups(lens, mask, len(tokens)):
        ids, seen = _trimmed(tokens[prompts], mask[prompts])
        hooks, z = _watch_heads(lens)
        logits = lens.logits(ids, seen, hooks)[:, 0]
        yield prompts.cpu(), torch.stack(z, 1), logits


def _watch_heads(lens: Lens) -> tuple[list, list]:
    """Hooks that leave each layer's head outputs at the last token, `[prompt, head, d_head]`, in a list."""
    z = [None] * lens.n_layers

    def keep(layer):
        return lambda x, hook: z.__setitem__(layer, x[:, -1].clone())

    return [(f"blocks.{layer}.{HEAD_OUTPUT}", keep(layer)) for layer in range(lens.n_layers)], z


def refuse_patches(lens: Lens) -> None:
    """Raise an InputError while a patch is on the model."""
    if lens.patches:
        raise InputError("A patch is active on this model, and it would mix with the edits; leave its block first.")


def _groups(lens: Lens, mask: Tensor, most: int, shared: int = 0) -> Iterator[Tensor]:
    """Indices of prompts of similar length; of equal length where the model does not take padding exactly.

    `shared`: so many first tokens are run once for all of a group.
    """
    lengths = mask.sum(1)
    group: list[int] = []
    for index in lengths.argsort(stable=True, descending=True).tolist():
        longest = int(lengths[group[0]]) if group else 0
        unequal = group and not lens.findings["padding"] and lengths[index] != longest
        if group and (len(group) == most or (len(group) + 1) * (longest - shared) > PREFIX_TOKENS or unequal):
            yield torch.tensor(group, device=mask.device)
            group = []
        group.append(index)
    yield torch.tensor(group, device=mask.device)


def _trimmed(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    longest = int(mask.sum(1).max())
    return ids[:, -longest:], mask[:, -longest:]


def _prefix(lens: Lens, ids: Tensor, mask: Tensor, tail: int, form: str) -> Prefix:
    if form == SLOW:
        return Prefix([], [], mask[:, :-tail])
    return prefix_of(lens, ids[:, :-tail], mask[:, :-tail])


def _read(lens: Lens, rows: Tensor, prompts: Tensor, read: Read, logits: bool) -> Tensor:
    """`rows` `[row, prompt, token, ...]` -> what `read` makes of their logits, `[row, prompt, ...]` on the CPU."""
    shape, which = rows.shape[:2], prompts.expand(rows.shape[:2]).flatten()
    flat = rows.flatten(0, 1)
    tiles = [
        read((flat[i : i + TILE] if logits else lens.readout(flat[i : i + TILE])).float(), which[i : i + TILE])
        for i in range(0, len(flat), TILE)
    ]
    found = torch.cat(tiles).unflatten(0, shape).cpu()
    if found.isnan().any():
        raise InputError(f"Logits of {lens.name} became NaN: an edit is too strong for {lens.dtype}; lower it.")
    return found


def form_for(lens: Lens, tokens: Tensor, mask: Tensor, tail: int, whatifs: Sequence[WhatIf] = ()) -> str:
    """The fastest form that was found exact on this model, at the sites edited, for prompts as long as these."""
    length = int(mask.sum(1).max())
    if length - tail < 1:
        raise InputError("A prompt must have at least two tokens: one before the token that is edited.")
    if length > lens.findings.get("length", 0):
        _probe(lens, tokens, mask, length)
    points = {(edit.layer, edit.hook) for whatif in whatifs for edit in whatif if edit.hook not in ALWAYS_PROBED}
    known = lens.findings.setdefault("points", {})
    new = sorted(point for point in points if point not in known or known[point][0] < length)
    for site in sorted({site for _, site in new}):
        _probe_site(lens, tokens, mask, site, [layer for layer, of in new if of == site], length)
    forms = [form for form in lens.findings["forms"] if tail == 1 or form != "as positions"]
    return next(form for form in forms if all(form in known[point][1] for point in points))


def _probe(lens: Lens, tokens: Tensor, mask: Tensor, length: int) -> None:
    """Compare every form with full forwards on two of the prompts at hand, and keep the exact ones.

    A model whose logits differ from run to run, or on which an edit changes nothing, raises.
    """
    ids, seen = _two_prompts(tokens, mask)
    noise, last = _noise(), lens.n_layers - 1
    edits = [
        Edit(0, noise(lens.d_head), head=0),
        Edit(last, noise(lens.d_head), head=lens.n_heads - 1),
        Edit(last // 2, noise(lens.d_model)),
    ]
    truth = _truth(lens, ids, seen, edits)
    if _differ(lens, lens.logits(ids[:1], seen[:1]).float(), truth[0, :1], truth):
        raise ParityError(f"{lens.name} gives other logits on the same tokens (dropout?). Call model.eval() first.")
    # The first prompt is the longest, so until here it had no padding.
    padded = lens.logits(pad(ids[:1], (3, 0)), pad(seen[:1], (3, 0))).float()
    lens.findings["padding"] = not _differ(lens, padded, truth[0, :1], truth)
    forms = _exact_forms(lens, ids, seen, edits, truth, list(FORMS), "here")
    lens.findings |= {"forms": forms, "length": length}


def _probe_site(lens: Lens, tokens: Tensor, mask: Tensor, site: str, layers: list[int], length: int) -> None:
    """As `_probe`, for vectors added at another site: forms that fail there stay in use for all other edits."""
    ids, seen = _two_prompts(tokens, mask)
    noise = _noise()
    edits = [Edit(layer, noise(lens.d_model), site=site) for layer in layers]
    truth = _truth(lens, ids, seen, edits)
    forms = _exact_forms(lens, ids, seen, edits, truth, lens.findings["forms"], f"for edits at {site}")
    lens.findings["points"] |= {(layer, site): (length, forms) for layer in layers}


def _noise() -> Callable[[int], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda n: torch.randn(n, generator=generator)


def _two_prompts(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The longest prompt and the shortest, the second one padded."""
    pick = mask.sum(1).sort(descending=True).indices[[0, -1]]
    ids, seen = _trimmed(tokens[pick], mask[pick])
    if seen.all() and ids.shape[1] > 4:  # prompts of one length: without padding among them, its harm would not show
        seen = seen.clone()
        seen[1, : ids.shape[1] // 4] = 0
    return ids, seen


def _truth(lens: Lens, ids: Tensor, mask: Tensor, edits: Sequence[Edit]) -> Tensor:
    """Logits of full forwards, `[1 + edit, prompt, 1, vocab]`, the clean ones first, edits by layer."""
    plan = Plan(lens, [[edit] for edit in edits], torch.arange(len(ids), device=ids.device))
    truth = in_full(lens, _prefix(lens, ids, mask, 1, SLOW), ids, mask, plan).float()
    for row, edit in enumerate(plan.order.tolist(), start=1):
        if torch.equal(truth[row], truth[0]):
            changed = edits[edit]
            raise ParityError(f"An edit at blocks.{changed.layer}.{changed.hook} of {lens.name} changed nothing.")
    return truth


def _differ(lens: Lens, a: Tensor, b: Tensor, truth: Tensor) -> bool:
    """Whether two sets of logits differ by more than rounding, given the range of the true ones."""
    tolerance = (truth.amax() - truth.amin()) * (1e-4 if lens.dtype == torch.float32 else 3e-2)
    return not (a - b).abs().max() <= tolerance  # NaN differs


def _exact_forms(
    lens: Lens, ids: Tensor, mask: Tensor, edits: Sequence[Edit], truth: Tensor, forms: list[str], where: str
) -> list[str]:
    """Those of the forms, the last of which is the slow one, whose rows have the logits of full forwards."""
    if not lens.findings["padding"]:
        ids, mask, truth = ids[:1], mask[:1], truth[:, :1]
    plan = Plan(lens, [[edit] for edit in edits], torch.arange(len(ids), device=ids.device))
    exact, refused = [], []
    for form in forms[:-1]:
        try:
            rows = FORMS[form](lens, _prefix(lens, ids, mask, 1, form), ids, mask, plan)
            wrong = _differ(lens, lens.readout(rows).float(), truth, truth)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever an architecture's own code raises on a form it was not written for
            wrong = True
            log.debug("%s: rows %s raised %r", lens.name, form, error)
        (refused if wrong else exact).append(form)
    if refused:
        wrong, instead = " and ".join(refused), (exact or [SLOW])[0]
        log.warning("%s: rows %s are not exact %s; running them %s, exact as well.", lens.name, wrong, where, instead)
    return [*exact, SLOW]
