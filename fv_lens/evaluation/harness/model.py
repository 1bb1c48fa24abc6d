"""The model class for lm-evaluation-harness: a TransformerLens model with vectors at the last prompt token.

    lm = PatchedLM(model, tuned, strength=1.0, batch_size=8)
    results = lm_eval.simple_evaluate(lm, tasks=["hellaswag"])

A request's prompt is its context. `loglikelihood` scores the continuation behind it, `generate_until` writes one, and a
text of `loglikelihood_rolling` continues nothing, see `ROLLING`.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, SupportsFloat, get_args

from jinja2 import TemplateError

from ...engine.edits import Edit
from ...ground.errors import InputError, finite_number, whole_number
from ...ground.progress import no_progress, progress_bar
from ...models.lens import Model, lens_of
from ...models.tokens import token_ids
from ...vectors.function_vector import FunctionVector, as_vectors
from .library import (
    Collator,
    Instance,
    TemplateLM,
    get_rolling_token_windows,
    handle_stop_sequences,
    make_disjoint_window,
    normalize_gen_kwargs,
)
from .scoring import Encoded, Mark, scored, tell_of_long
from .writing import chooser, written

Rolling = Literal["first", "every", "none"]
ROLLING: tuple[Rolling, ...] = get_args(Rolling)

log = logging.getLogger("fv_lens")


class PatchedLM(TemplateLM):
    """A HookedTransformer or TransformerBridge as lm-evaluation-harness calls it, with vectors added.

    Texts become tokens as in the harness's own Hugging Face model, with the BOS rule that `model.to_tokens` has: spaces
    at the end of a context go to the continuation, an empty context is the BOS token (or, where there is none, the EOS
    token), and a context that is too long loses its first tokens. In each of them the vector stands at the context's
    last token. A batch gives the numbers of single requests.

    Args:
        model: nothing stays on it between calls.
        vectors: a FunctionVector or several, each added at its own layer and site; none for the model as it is.
        strength: multiplies the vectors.
        batch_size: requests that run together.
        rolling: where vectors stand in `loglikelihood_rolling`, whose texts have no prompt. "first": at the token that
            each window begins with, so that a text of one window has the log-likelihood that it has as the
            continuation of an empty context. "every": at each token. "none": nowhere.
        max_length: the most tokens of a forward; by default the model's context length.
        max_gen_toks: the most tokens to generate where a task does not say.

    Raises:
        InputError: a vector that does not belong to the model; a strength that is not finite; a size that is not a
            whole number, or a `max_length` beyond the model's; an unknown `rolling`; no tokenizer. When called: a
            patch on the model; a continuation without tokens, or that is longer than `max_length`; generation settings
            that are not supported.

    Example:
        >>> lm = PatchedLM(model, tuned, batch_size=8)
        >>> results = lm_eval.simple_evaluate(lm, tasks=["arc_easy"], limit=100)
        >>> results["config"]["fv_lens"]["vectors"][0]["relation"]
        'antonym'
    """

    def __init__(
        self,
        model: Model,
        vectors: FunctionVector | Sequence[FunctionVector] = (),
        strength: SupportsFloat = 1.0,
        *,
        batch_size: int = 1,
        rolling: Rolling = "first",
        max_length: int | None = None,
        max_gen_toks: int = 256,
    ):
        super().__init__()
        lens = lens_of(model)
        self.model, self._own, self.tokenizer, self._device = model, lens.model, lens.model.tokenizer, lens.device
        if self.tokenizer is None:
            raise InputError(f"{lens.name} has no tokenizer, and requests are texts. Load it with one.")
        self.vectors = as_vectors(vectors) if isinstance(vectors, FunctionVector) or len(vectors) else []
        for vector in self.vectors:
            vector.check(lens)
        if rolling not in ROLLING:
            raise InputError(f"rolling is {rolling!r}; choose from {', '.join(ROLLING)}.")
        self.strength, self.rolling = finite_number("strength", strength), rolling
        self.batch_size = whole_number("batch_size", batch_size, least=1)
        self.max_gen_toks = whole_number("max_gen_toks", max_gen_toks, least=1)
        self.max_length = whole_number("max_length", lens.n_ctx if max_length is None else max_length, least=2)
        if self.max_length > lens.n_ctx:
            raise InputError(f"max_length is {max_length}; {lens.name} takes at most {lens.n_ctx} tokens.")

    @property
    def edits(self) -> list[Edit]:
        """The vectors as edits, multiplied by the strength; none at strength 0."""
        some = self.vectors if self.strength else []
        return [Edit(vector.layer, self.strength * vector.vector, site=vector.site) for vector in some]

    # Text and tokens

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text; None where the tokenizer has none."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What an empty context consists of."""
        known = [token for token in (self.tokenizer.bos_token_id, self.eot_token_id) if token is not None]
        if not known:
            raise InputError(
                f"The tokenizer of {lens_of(self.model).name} has neither a BOS nor an EOS token, of which an empty "
                "context would consist; ask for tasks with contexts."
            )
        return known[0]

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer, by which the harness knows requests that it has kept."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text under the model's own BOS rule, or without special tokens; never two BOS tokens."""
        if add_special_tokens is False:
            return self.tokenizer(string, add_special_tokens=False)["input_ids"]
        ids, bos = token_ids(self._own, string), self.tokenizer.bos_token_id
        written = bos is not None and string.startswith(self.tokenizer.bos_token)  # by a chat template
        return ids[1:] if written and ids[:2] == [bos, bos] else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        before, behind = super()._encode_pair(context, continuation)
        return before or [self.prefix_token_id], behind  # of a context of spaces nothing is left

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the tokenizer's chat template writes it, without the system's turn if it takes none.

        Raises:
            InputError: the tokenizer has no chat template.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(f"The tokenizer of {lens_of(self.model).name} has no chat template; ask without one.")

        def written(turns: list[dict[str, str]]) -> str:
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )  # fmt: skip

        try:
            return written(chat_history)
        except TemplateError:
            log.warning("The chat template takes no system turn, which is left out.")
            return written([turn for turn in chat_history if turn["role"] != "system"])

    # Scores of texts

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of each continuation behind its context, and whether it is what greedy decoding writes."""
        for context, continuation in (request.args for request in requests):
            if not continuation:
                raise InputError(f"The continuation of {context!r} is empty; give a text to score.")
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: list[Encoded], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        def at_context_end(read: int, scored: int) -> slice:
            return slice(read - scored, read - scored + 1)

        return self._scored(requests, at_context_end, "Running loglikelihood requests", disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each text behind the BOS (or EOS) token, in windows of `max_length` tokens.

        A BOS token that the model's tokens begin with is read and not scored: no text contains it.
        """
        texts = [text for (text,) in (request.args for request in requests)]
        windows: list[Encoded] = []
        owners: list[int] = []
        for owner, text in enumerate(texts):
            tokens = self.tok_encode(text, add_special_tokens=False)
            for window in get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(owner)
        marks = {"first": slice(0, 1), "every": slice(None), "none": slice(0)}[self.rolling]
        scores = self._scored(windows, lambda *sizes: marks, "Running loglikelihood_rolling requests", disable_tqdm)
        totals = [0.0] * len(texts)
        for owner, (log_prob, _) in zip(owners, scores):
            totals[owner] += log_prob
        for text, total in zip(texts, totals):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _scored(self, requests: Sequence[Encoded], mark: Mark, desc: str, hidden: bool) -> list[tuple[float, bool]]:
        """Scores of the continuations, each of which the harness is told of when it is known."""

        def done(i: int, score: tuple[float, bool]) -> None:
            if (texts := requests[i][0]) is not None:
                self.cache_hook.add_partial("loglikelihood", texts, score)
            bar.update(1)

        with self._bar(len(requests), desc, hidden) as bar:
            lens = lens_of(self.model)
            return scored(lens, requests, self.edits, mark, self.max_length, self.batch_size, done)

    # Texts that are written

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes behind each context, up to a stop text or its end.

        Settings of a request: `until`, `max_gen_toks`, and those of `chooser`. Contexts lose their first tokens where
        the text to be written would not fit behind them.
        """
        order = Collator(
            [request.args for request in requests],
            sort_fn=lambda request: (-len(request[0]), request[0]),
            group_by="gen_kwargs",
            group_fn=lambda request: request[1],
        )
        results: list[str] = []
        with self._bar(len(requests), "Running generate_until requests", disable_tqdm) as bar:
            for chunk in order.get_batched(n=self.batch_size):
                contexts, settings = [context for context, _ in chunk], chunk[0][1]
                for context, text in zip(contexts, self._written(contexts, settings)):
                    results.append(text)
                    self.cache_hook.add_partial("generate_until", (context, settings), text)
                    bar.update(1)
        return order.get_original(results)

    def _written(self, contexts: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
        known: dict[str, Any] = dict(normalize_gen_kwargs(dict(settings), self.max_gen_toks))
        n, until = known.pop("max_gen_toks"), known.pop("until")
        if not 1 <= n < self.max_length:
            raise InputError(
                f"max_gen_toks is {n}, and max_length {self.max_length}: give 1 to {self.max_length - 1}, which leaves "
                "room for a context."
            )
        prompts = [self.tok_encode(context) or [self.prefix_token_id] for context in contexts]
        tell_of_long(list(map(len, prompts)), self.max_length - n)
        prompts = [prompt[-(self.max_length - n) :] for prompt in prompts]
        end = self.eot_token_id
        eos = None if end is None else self.tokenizer.decode(end, skip_special_tokens=False)
        stops = [stop for stop in handle_stop_sequences(until, eos=eos) if stop]
        return written(lens_of(self.model), prompts, self.edits, n, chooser(known), stops, self._end_tokens)

    @property
    def _end_tokens(self) -> set[int | None]:
        """The tokens that end a text: the tokenizer's, and those that a Hugging Face model's own settings list."""
        settings = getattr(lens_of(self.model).network, "generation_config", None)
        listed = getattr(settings, "eos_token_id", None)
        return {self.eot_token_id, *(listed if isinstance(listed, list) else [listed])}

    # What is told

    def get_model_info(self) -> dict[str, Any]:
        """What was measured, for the harness's results: the model, and every vector with its SHA-256."""
        lens = lens_of(self.model)
        vectors = [
            {
                "relation": vector.relation,
                "method": vector.method,
                "layer": vector.layer,
                "site": vector.site,
                "norm": float(vector.vector.norm()),
                "sha": hashlib.sha256(vector.vector.numpy().tobytes()).hexdigest(),
            }
            for vector in self.vectors
        ]
        known = {"model": lens.name, "strength": self.strength, "rolling": self.rolling, "vectors": vectors}
        return {
            "model_num_parameters": sum(parameter.numel() for parameter in lens.model.parameters()),
            "model_dtype": str(lens.dtype),
            "model_sha": lens.weights_hash,
            "fv_lens": known,
        }

    @staticmethod
    @contextmanager
    def _bar(total: int, desc: str, hidden: bool) -> Iterator[Any]:
        with no_progress() if hidden else nullcontext(), progress_bar(total=total, desc=desc, unit="request") as bar:
            yield bar
