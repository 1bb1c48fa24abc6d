"""Readings of function vectors: the log-probability of every token of the vocabulary.

Two readings. "unembed" is `softmax(W_U ln_final(v))`: the vector through the model's own final norm and unembedding.
"model" inserts the vector, at its own layer, at the last token of neutral prompts, and reads the next token: a vector
of a middle layer is written for the layers above it, and says more once they have read it.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ..engine.batches import padded_texts
from ..engine.whatif import Edit, what_if
from ..ground.errors import InputError
from ..models.lens import Lens, Model, lens_of
from ..vectors.function_vector import FunctionVector, as_vectors

NEUTRAL_PROMPTS = (
    "This is an example of the",
    "The text is about the",
    "They were talking about the",
    "The first word that comes to mind is",
    "What we see here is a",
    "In one word, this is",
)
Reading = Literal["unembed", "model"]
READINGS = get_args(Reading)


def log_probs(
    model: Model,
    vectors: FunctionVector | Sequence[FunctionVector],
    through: Reading = "unembed",
    *,
    prompts: str | Sequence[str] = NEUTRAL_PROMPTS,
) -> Float[Tensor, "vector vocab"]:
    """Log-probabilities of every token in the reading of each of many vectors, on the CPU.

    With "model", all vectors are rows over one run of each prompt, and the mean over prompts is returned; while it
    runs, `prompts x vectors x vocabulary` numbers are held.

    Raises:
        InputError: as `decode`.

    Example:
        >>> readings = log_probs(model, vectors, through="model")
        >>> own = readings - readings.mean(0)  # what each vector says and the others do not
    """
    lens, listed = lens_of(model), as_vectors(vectors)
    for vector in listed:
        vector.check(lens)
    read = checked_prompts(lens, through, prompts)
    return unembedded(lens, listed) if through == "unembed" else through_model(lens, listed, read)[1:]


def name_tokens(lens: Lens, names: str | Sequence[str], strict: bool = True) -> dict[str, list[int]]:
    """First tokens of all spellings of each name; a name without any is left out, or with `strict` an InputError."""
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or (strict and not names):
        raise InputError(f"names is {names!r}; give a word or several that name the relation, such as ['opposite']")
    skip, unknown = int(lens.bos), getattr(lens.model.tokenizer, "unk_token_id", None)
    tokens: dict[str, list[int]] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"names holds {name!r}; give words, such as 'opposite'")
        cased = dict.fromkeys([name, name.lower(), name.capitalize(), name.upper()])
        spelled = [lens.tokens(space + spelling)[skip:] for spelling in cased for space in (" ", "")]
        first = [next((i for i in ids if lens.text(i).strip()), unknown) for ids in spelled]  # no lone space
        tokens[name] = list(dict.fromkeys(i for i in first if i is not None and i != unknown))
        if strict and not tokens[name]:
            raise InputError(f"The vocabulary of {lens.name} has no token for the name {name!r}; give another name.")
    return {name: ids for name, ids in tokens.items() if ids}


def rank(strength: Float[Tensor, " vocab"], tokens: Sequence[int]) -> int:
    """How many other tokens are at least as strong as the strongest of `tokens`: a tie counts against them."""
    own = strength[list(tokens)]
    return int((strength >= own.max()).sum() - (own >= own.max()).sum())


@torch.no_grad()
def unembedded(lens: Lens, vectors: Sequence[FunctionVector]) -> Float[Tensor, "vector vocab"]:
    """Log-probabilities by the model's final norm and unembedding alone."""
    read = lens.unembed(torch.stack([vector.vector for vector in vectors])).float().log_softmax(-1).cpu()
    if read.isnan().any():
        raise InputError(f"Logits of {lens.name} became NaN: a vector is too strong for {lens.dtype}; scale it down.")
    return read


def through_model(lens: Lens, vectors: Sequence[FunctionVector], prompts: Sequence[str]) -> Float[Tensor, "row vocab"]:
    """Mean log-probabilities over the prompts, without a vector in row 0, then with each."""
    tokens, mask = padded_texts(lens, prompts)
    edits = [[Edit(vector.layer, vector.vector, site=vector.site)] for vector in vectors]
    return what_if(lens, tokens, mask, edits, lambda logits, prompt: logits[:, 0].log_softmax(-1)).mean(0)


def checked_prompts(lens: Lens, through: Reading, prompts: str | Sequence[str]) -> tuple[str, ...]:
    """The prompts used by the reading `through`: none for "unembed"."""
    if through not in READINGS:
        raise InputError(f"through is {through!r}; give 'unembed' or 'model'")
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, list | tuple) or not prompts:
        raise InputError(f"prompts is {prompts!r}; give a prompt or several, such as {NEUTRAL_PROMPTS[0]!r}")
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"prompts holds {prompt!r}; give some text, such as {NEUTRAL_PROMPTS[0]!r}")
        if through == "model" and len(lens.tokens(prompt)) > lens.n_ctx:
            raise InputError(f"The prompt {prompt[:40]!r}... is longer than the context of {lens.name}, {lens.n_ctx}.")
    return tuple(prompts) if through == "model" else ()
