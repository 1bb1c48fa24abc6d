"""Parity: which forms of rows are exact on a model, measured against full forwards.

The comparison uses the caller's own prompts, on first use and again for longer prompts, for each kind of rows: plain
rows, rows with edits at another site, rows of several tokens, and prompts whose shared beginning is run once. Each kind
falls back on its own. If the user has hooks on the model, there is one form: full forwards of one prompt at a time.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..ground.errors import InputError, ParityError
from ..ground.storage import versions
from ..models.base import HEAD_OUTPUT
from ..models.cached import check_libraries
from ..models.lens import Lens
from ..models.state import Form, Parity, places
from .batches import PromptBatch
from .edits import RESIDUAL, Edit, Plan, WhatIf
from .forms import ALONE, BATCH, FORMS, POSITIONS, SLOW, in_full, one_by_one, prefix_for
from .prefixes import WORTH, shared_tokens, trimmed

ALWAYS_PROBED = (HEAD_OUTPUT, RESIDUAL)  # other sites are probed when an edit there is first asked for

log = logging.getLogger("fv_lens")


@torch.no_grad()
def measured(lens: Lens, tokens: Tensor, mask: Tensor, tail: int = 1) -> Parity:
    """The model's parity under its present conditions, measured on these prompts unless others were at least as long.

    Inspects the model first: results under other conditions (hooks, adapters, train mode, ...) do not count.
    """
    lens.renew()
    length = int(mask.sum(1).max())
    if length - tail < 1:
        raise InputError("A prompt must have at least two tokens: one before the token that is edited.")
    if length > lens.parity.length:
        _probe(lens, tokens, mask, length)
    return lens.parity


@torch.no_grad()
def measure_ahead(lens: Lens, prompts: PromptBatch, whatifs: Sequence[WhatIf] = ()) -> None:
    """Measure parity on the longest of these prompts and answers: rows of one token and of several, shared beginnings.

    For work that begins with shorter prompts, each longer one of which would be compared again; and for work whose
    order is not known, which is then done in the same forms in any order. Sites are those of the what-ifs' edits.
    """
    answer = max(chain.from_iterable(prompts.answers), key=len)[: lens.n_ctx - prompts.tokens.shape[1]]
    tokens = torch.cat([prompts.tokens, torch.tensor(answer, device="cpu").expand(len(prompts), -1).long()], 1)
    tokens, mask = tokens.to(lens.device), pad(prompts.mask, (0, len(answer)), value=1).to(lens.device)
    parity = measured(lens, tokens, mask)
    if not lens.one_by_one and BATCH in parity.forms:
        _forms_of_several_tokens(lens, tokens, mask, int(mask.sum(1).max()))
    form, length = form_for(lens, tokens, mask, 1, whatifs), int(mask.sum(1).max())
    if form not in (SLOW, ALONE) and length > WORTH + 4:
        shared = shared_tokens(tokens[:, :-1], mask[:, :-1]) or WORTH
        sharing_is_exact(lens, tokens, mask, shared, form)


def form_for(lens: Lens, tokens: Tensor, mask: Tensor, tail: int, whatifs: Sequence[WhatIf] = ()) -> Form:
    """The fastest form that is exact on this model, at the sites edited, for prompts as long as these."""
    parity, length = measured(lens, tokens, mask, tail), int(mask.sum(1).max())
    if lens.one_by_one:
        return ALONE
    points = {(edit.layer, edit.hook) for whatif in whatifs for edit in whatif if edit.hook not in ALWAYS_PROBED}
    new = sorted(point for point in points if parity.sites.get(point, (0, []))[0] < length)
    for site in sorted({site for _, site in new}):
        _probe_site(lens, tokens, mask, site, [layer for layer, of in new if of == site], length)
    forms = parity.forms
    if tail > 1:
        several = _forms_of_several_tokens(lens, tokens, mask, length) if BATCH in forms else [SLOW]
        forms = [form for form in forms if form in several]
    return next(form for form in forms if all(form in parity.sites[point][1] for point in points))


def _probe(lens: Lens, tokens: Tensor, mask: Tensor, length: int) -> None:
    """Compare every form with full forwards on two of these prompts, and keep the exact ones.

    Raises if the model's logits differ from run to run or are not finite, or if an edit changes nothing.
    """
    ids, seen = _two_prompts(tokens, mask)
    edits = _some_edits(lens)
    if lens.one_by_one:
        ids, seen = ids[:1], seen[:1]
    truth = _truth(lens, ids, seen, edits)
    if not truth.isfinite().all():  # of the padded prompt alone, perhaps: some masks overflow in half precision
        ids, seen, truth = ids[:1], seen[:1], truth[:, :1]
    if not truth.isfinite().all():
        raise InputError(
            f"Logits of {lens.name} are not finite on these prompts: its numbers overflow in {lens.dtype}. Load it in "
            "float32 or bfloat16."
        )
    before, once = lens.logits(ids[:1], seen[:1], last=2).float().split(1, 1)
    if _differ(lens, once, lens.logits(ids[:1], seen[:1]).float(), truth):
        raise ParityError(f"{lens.name} gives different logits for equal tokens (dropout?). Call model.eval() first.")
    if not lens.user_hooks and _differ(lens, before, lens.logits(ids[:1, :-1], seen[:1, :-1]).float(), truth):
        raise ParityError(
            f"In {lens.name} the last token changes the logits of those before it: it is not causal, or not run so by "
            f"{_installed()}. Function vectors need a causal language model."
        )
    if _differ(lens, once, truth[0, :1], truth):
        lens.parity.batches_exact = False
    if lens.one_by_one:
        _warn_of_lone_prompts(lens, length)
        lens.parity.forms, lens.parity.padding, lens.parity.length = [ALONE], False, length
        return
    # The first prompt is the longest, so until here it had no padding.
    padded = lens.logits(pad(ids[:1], (3, 0)), pad(seen[:1], (3, 0))).float()
    lens.parity.padding = not _differ(lens, padded, truth[0, :1], truth)
    forms = _exact_forms(lens, ids, seen, edits, truth, [POSITIONS, BATCH, SLOW], "here")
    lens.parity.forms, lens.parity.length = forms, length


def _warn_of_lone_prompts(lens: Lens, length: int) -> None:
    """One warning, why prompts are run one by one."""
    reason = f"{lens.name}: a prompt's logits differ between a padded batch and a forward of its own."
    if lens.user_hooks:
        where = places(lens.user_hooks, lens.network, lens.model)
        shown = ", ".join(where[:3]) + f" and {len(where) - 3} more" * (len(where) > 3)
        off = "; model.reset_hooks() takes those of TransformerLens off"
        reason = f"{lens.name}: hooks or modules of your own stay in use ({shown}{off})."
    if reason not in lens.state.warned:
        lens.state.warned.add(reason)
        log.warning("%s Prompts are run one by one, in full forwards: exact, about %d times slower.", reason, length)


def _probe_site(lens: Lens, tokens: Tensor, mask: Tensor, site: str, layers: list[int], length: int) -> None:
    """As `_probe`, for vectors added at another site: forms that fail there stay in use for all other edits."""
    ids, seen = _two_prompts(tokens, mask)
    noise = _noise()
    edits = [Edit(layer, noise(lens.d_model), site=site) for layer in layers]
    truth = _truth(lens, ids, seen, edits)
    forms = _exact_forms(lens, ids, seen, edits, truth, lens.parity.forms, f"for edits at {site}")
    lens.parity.sites |= {(layer, site): (length, forms) for layer in layers}


def _forms_of_several_tokens(lens: Lens, tokens: Tensor, mask: Tensor, length: int) -> list[Form]:
    """As `_probe`, for rows of several tokens: the last prompt token and those of a continuation."""
    compared, forms = lens.parity.several_tokens
    if compared < length:
        ids, seen = _two_prompts(tokens, mask)
        tail = max(2, min(3, int(seen.sum(1).min()) - 1))
        edits = _some_edits(lens)
        truth = _truth(lens, ids, seen, edits, tail)
        forms = _exact_forms(lens, ids, seen, edits, truth, [BATCH, SLOW], "for several tokens")
        lens.parity.several_tokens = length, forms
    return forms


def sharing_is_exact(lens: Lens, tokens: Tensor, mask: Tensor, shared: int, form: Form) -> bool:
    """Whether prompts as long as these, which share their first tokens, may have those run once for all of them.

    Compared with full forwards on the longest prompt and on others that share its beginning: one as long as it and, if
    the model takes padding exactly, a shorter one.
    """
    length = int(mask.sum(1).max())
    compared, exact = lens.parity.sharing
    if compared < length:
        longest = tokens[mask.sum(1).argmax(), -length:]
        shared = min(shared, length - 4)
        beginning, rest = longest[:shared], longest[shared:].flip(0)
        ends = [rest, rest[len(rest) // 2 :]] if lens.parity.padding else [rest]
        prompts = [longest, *(torch.cat([beginning, end]) for end in ends)]
        ids = torch.stack([pad(prompt, (length - len(prompt), 0)) for prompt in prompts])
        seen = torch.stack([pad(torch.ones_like(prompt), (length - len(prompt), 0)) for prompt in prompts])
        plan = Plan(lens, [], torch.arange(len(ids), device=ids.device))

        def rows() -> Tensor:
            return FORMS[form](lens, prefix_for(lens, ids, seen, 1, form, shared), ids, seen, plan)

        problem = _disagreement(lens, rows, _truth(lens, ids, seen, []))
        exact = problem is None
        if not exact:
            instead = "running all tokens of each prompt instead, which is exact."
            log.warning("%s: running what prompts share once is not exact here (%s); %s", lens.name, problem, instead)
        lens.parity.sharing = length, exact
    return exact


def _some_edits(lens: Lens) -> list[Edit]:
    """Of a head in the first layer that has any and in the last, and of the residual stream in the middle."""
    noise, edits = _noise(), []
    for layer, head in zip((lens.head_layers or [None])[:: max(1, len(lens.head_layers) - 1)], (0, lens.n_heads - 1)):
        edits += [] if layer is None else [Edit(layer, noise(lens.d_head), head=head)]
    return [*edits, Edit((lens.n_layers - 1) // 2, noise(lens.d_model))]


def _noise() -> Callable[[int], Tensor]:
    generator = torch.Generator("cpu").manual_seed(0)
    return lambda n: torch.randn(n, generator=generator, dtype=torch.float32, device="cpu")


def _two_prompts(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The longest prompt and the shortest, the second one padded."""
    pick = mask.sum(1).sort(descending=True).indices[[0, -1]]
    ids, seen = trimmed(tokens[pick], mask[pick])
    if seen.all() and ids.shape[1] > 4:  # prompts of one length: pad one, so that an effect of padding would show
        seen = seen.clone()
        seen[1, : ids.shape[1] // 4] = 0
    return ids, seen


def _truth(lens: Lens, ids: Tensor, mask: Tensor, edits: Sequence[Edit], tail: int = 1) -> Tensor:
    """Logits of full forwards, `[1 + edit, prompt, tail, vocab]`, the clean ones first, edits by layer."""
    plan = Plan(lens, [[edit] for edit in edits], torch.arange(len(ids), device=ids.device))
    run = one_by_one if lens.one_by_one else in_full
    truth = run(lens, prefix_for(lens, ids, mask, tail, SLOW), ids, mask, plan).float()
    for row, edit in enumerate(plan.order.tolist(), start=1):
        if torch.equal(truth[row], truth[0]):
            changed = edits[edit]
            raise ParityError(f"An edit at blocks.{changed.layer}.{changed.hook} of {lens.name} changed nothing.")
    return truth


def _differ(lens: Lens, a: Tensor, b: Tensor, truth: Tensor) -> bool:
    """Whether two sets of logits differ by more than rounding, given the range of the true ones."""
    tolerance = (truth.amax() - truth.amin()) * (1e-4 if lens.full_precision else 3e-2)
    return not (a - b).abs().max() <= tolerance  # NaN differs


def _exact_forms(
    lens: Lens, ids: Tensor, mask: Tensor, edits: Sequence[Edit], truth: Tensor, forms: Sequence[Form], where: str
) -> list[Form]:
    """Those of the forms, the last of which is the slow one, whose rows have the logits of full forwards."""
    if not lens.parity.padding:
        ids, mask, truth = ids[:1], mask[:1], truth[:, :1]
    plan = Plan(lens, [[edit] for edit in edits], torch.arange(len(ids), device=ids.device))
    exact: list[Form] = []
    refused: dict[Form, str] = {}
    tail = truth.shape[2]
    for form in forms[:-1]:

        def rows(form: Form = form) -> Tensor:
            return FORMS[form](lens, prefix_for(lens, ids, mask, tail, form), ids, mask, plan)

        problem = _disagreement(lens, rows, truth)
        if problem is None:
            exact.append(form)
        else:
            refused[form] = problem
    if refused and not exact:
        check_libraries(lens)
    if refused:
        _warn_of_forms(lens, refused, exact, where, ids.shape[1])
    return [*exact, SLOW]


def _warn_of_forms(lens: Lens, refused: Mapping[Form, str], exact: Sequence[Form], where: str, length: int) -> None:
    wrong, problems = " and ".join(refused), " and ".join(dict.fromkeys(refused.values()))
    if exact:
        instead = f"running them {exact[0]} instead, which is exact."
    else:
        instead = (
            f"running them {SLOW} instead: exact, but about {length} times slower. Please report this line, with "
            f"{type(lens.network).__name__}, {_installed()}."
        )
    log.warning("%s: rows %s are not exact %s (%s); %s", lens.name, wrong, where, problems, instead)


def _installed() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions().items())


def _disagreement(lens: Lens, rows: Callable[[], Tensor], truth: Tensor) -> str | None:
    """The fault of a function's rows, in words: the error it raised, or how far off the logits are; None if exact."""
    try:
        logits = lens.readout(rows()).float().to(truth.device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an architecture's own code raises on a form it was not written for
        log.debug("%s: raised", lens.name, exc_info=True)
        return f"raised {type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    return f"off by {(logits - truth).abs().max():.2g} in logits" if _differ(lens, logits, truth, truth) else None
