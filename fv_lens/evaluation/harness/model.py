"""The model class for lm-evaluation-harness: a TransformerLens model with vectors at the last prompt token.

    lm = PatchedLM(model, tuned, strength=1.0, batch_size=8)
    results = lm_eval.simple_evaluate(lm, tasks=["hellaswag"])

A request's prompt is its context. `loglikelihood` scores the continuation behind it, `generate_until` writes one, and a
text of `loglikelihood_rolling` continues nothing, see `PatchedLM`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, SupportsFloat, get_args

from ...engine.edits import WhatIf
from ...ground.errors import InputError, finite_number, whole_number
from ...ground.progress import no_progress, progress_bar
from ...models.lens import Model, lens_of
from ...vectors.function_vector import FunctionVector, as_vectors
from ..controls import edits_of
from .lm_eval_names import (
    Collator,
    Instance,
    get_rolling_token_windows,
    handle_stop_sequences,
    make_disjoint_window,
    normalize_gen_kwargs,
)
from .scoring import Encoded, Mark, request_scores, warn_of_long
from .tokens import TokenizedLM
from .writing import chooser, generated_texts

Rolling = Literal["first", "every", "none"]
ROLLING: tuple[Rolling, ...] = get_args(Rolling)


def as_rolling(value: str) -> Rolling:
    """A place of vectors in rolling texts, by its name.

    Raises:
        InputError: an unknown name.
    """
    for rolling in ROLLING:
        if value == rolling:
            return rolling
    raise InputError(f"rolling is {value!r}; choose from {', '.join(ROLLING)}.")


class PatchedLM(TokenizedLM):
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
        super().__init__(model)
        lens = lens_of(model)
        self.vectors = as_vectors(vectors) if isinstance(vectors, FunctionVector) or len(vectors) else []
        for vector in self.vectors:
            vector.check(lens)
        self.strength, self.rolling = finite_number("strength", strength), as_rolling(rolling)
        self.batch_size = whole_number("batch_size", batch_size, least=1)
        self.max_gen_toks = whole_number("max_gen_toks", max_gen_toks, least=1)
        self.max_length = whole_number("max_length", lens.n_ctx if max_length is None else max_length, least=2)
        if self.max_length > lens.n_ctx:
            raise InputError(f"max_length is {max_length}; {lens.name} takes at most {lens.n_ctx} tokens.")

    @property
    def edits(self) -> WhatIf:
        """The vectors as edits, multiplied by the strength; none at strength 0."""
        return edits_of([vector.strengthened(self.strength) for vector in self.vectors]) if self.strength else []

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
        def at_context_end(length: int, n_targets: int) -> slice:
            return slice(length - n_targets, length - n_targets + 1)

        return self._scores(requests, at_context_end, "Running loglikelihood requests", disable_tqdm)

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
        scores = self._scores(windows, lambda *sizes: marks, "Running loglikelihood_rolling requests", disable_tqdm)
        totals = [0.0] * len(texts)
        for owner, (log_prob, _) in zip(owners, scores):
            totals[owner] += log_prob
        for text, total in zip(texts, totals):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _scores(self, requests: Sequence[Encoded], mark: Mark, desc: str, hidden: bool) -> list[tuple[float, bool]]:
        """Scores of the continuations, each of which the harness is told of when it is known."""

        def report(i: int, score: tuple[float, bool]) -> None:
            if (texts := requests[i][0]) is not None:
                self.cache_hook.add_partial("loglikelihood", texts, score)
            bar.update(1)

        with self._bar(len(requests), desc, hidden) as bar:
            lens = lens_of(self.model)
            return request_scores(lens, requests, self.edits, mark, self.max_length, self.batch_size, report)

    # Generated texts

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate a text behind each context, up to a stop text or its end.

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
                for context, text in zip(contexts, self._texts(contexts, settings)):
                    results.append(text)
                    self.cache_hook.add_partial("generate_until", (context, settings), text)
                    bar.update(1)
        return order.get_original(results)

    def _texts(self, contexts: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
        sampling: dict[str, Any] = dict(normalize_gen_kwargs(dict(settings), self.max_gen_toks))
        n, until = sampling.pop("max_gen_toks"), sampling.pop("until")
        if not 1 <= n < self.max_length:
            raise InputError(
                f"max_gen_toks is {n}, and max_length {self.max_length}: give 1 to {self.max_length - 1}, which leaves "
                "room for a context."
            )
        prompts = [self.tok_encode(context) or [self.prefix_token_id] for context in contexts]
        warn_of_long(list(map(len, prompts)), self.max_length - n)
        prompts = [prompt[-(self.max_length - n) :] for prompt in prompts]
        end = self.eot_token_id
        eos = None if end is None else self.tokenizer.decode(end, skip_special_tokens=False)
        until = list(until) if isinstance(until, tuple) else until
        stops = [stop for stop in handle_stop_sequences(until, eos=eos) if stop]
        return generated_texts(lens_of(self.model), prompts, self.edits, n, chooser(sampling), stops, self._end_tokens)

    @property
    def _end_tokens(self) -> set[int | None]:
        """The tokens that end a text: the tokenizer's, and those that a Hugging Face model's own settings list."""
        settings = getattr(lens_of(self.model).network, "generation_config", None)
        listed = getattr(settings, "eos_token_id", None)
        return {self.eot_token_id, *(listed if isinstance(listed, list) else [listed])}

    # Records

    def get_model_info(self) -> dict[str, Any]:
        """Record of what is measured, for the harness's results: the model, and every vector with its SHA-256."""
        lens = lens_of(self.model)
        vectors = [
            {
                "relation": vector.relation,
                "method": vector.method,
                "layer": vector.layer,
                "site": vector.site,
                "norm": float(vector.vector.norm()),
                "sha": vector.sha256,
            }
            for vector in self.vectors
        ]
        record = {"model": lens.name, "strength": self.strength, "rolling": self.rolling, "vectors": vectors}
        return {
            "model_num_parameters": sum(parameter.numel() for parameter in lens.model.parameters()),
            "model_dtype": str(lens.dtype),
            "model_sha": lens.weights_hash,
            "fv_lens": record,
        }

    @staticmethod
    @contextmanager
    def _bar(total: int, desc: str, hidden: bool) -> Iterator[Any]:
        with no_progress() if hidden else nullcontext(), progress_bar(total=total, desc=desc, unit="request") as bar:
            yield bar
