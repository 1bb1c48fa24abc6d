"""Vocabulary decoding: the tokens that a vector promotes and suppresses, and the ranks of its relation's names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from ..datasets.relation_files import load_relation, relation_names
from ..ground import display
from ..ground.errors import InputError, whole_number
from ..models.lens import Lens, Model, lens_of
from ..vectors.function_vector import FunctionVector
from .readings import NEUTRAL_PROMPTS, Reading, checked_prompts, name_tokens, rank, through_model, unembedded


class Token(NamedTuple):
    """A token in a reading.

    `rank`: number of tokens that are at least as strong (0 = the strongest). `probability`, `log_prob` (nats): in the
    reading itself; over several prompts the mean log-probability and its exponential. `change`: `log_prob` minus that
    after the same prompts with the centre's vector, or with none; None if the vector was unembedded.
    """

    token: str
    id: int
    rank: int
    probability: float
    log_prob: float
    change: float | None


@dataclass(frozen=True)
class Decoding:
    """What `decode` read.

    `top`, `suppressed`: the `k` strongest and the `k` most suppressed tokens. `names`: each name of the relation ->
    its best spelling's first token, which may be a piece of the name (`pieces`). `vocabulary`: how many tokens there
    are to be ranked among.
    """

    top: tuple[Token, ...]
    suppressed: tuple[Token, ...]
    names: Mapping[str, Token]
    relation: str | None
    layer: int
    model: str
    through: Reading
    centered: bool
    vocabulary: int
    prompts: tuple[str, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        top = ", ".join(_quoted(token.token) for token in self.top[:3])
        whole = [(name, token) for name, token in self.names.items() if name not in self.pieces]
        names = "".join(f"; {name!r} at rank {token.rank}" for name, token in whole[:3])
        return f"Decoding({self._of}: {top}{', ...' if len(self.top) > 3 else ''}{names})"

    def __str__(self) -> str:
        change = f"  {'change':>6}" if self.through == "model" else ""
        lines = [f"{self._of}, layer {self.layer} of {self.model}", self._units]
        parts = {"top": [("", token) for token in self.top], "suppressed": [("", token) for token in self.suppressed]}
        for part, tokens in (parts | {"names": list(self.names.items())}).items():
            lines += [f"{part:<28} {'rank':>6}  {'probability':>11}{change}"] if tokens else []
            lines += [_line(name, token) for name, token in tokens]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return display.decoding(self.to_frame(), self._of, self.layer, self.model, self._units, self.pieces)

    @property
    def pieces(self) -> tuple[str, ...]:
        """The names whose token is not the whole name: " O" of "opposite" names nothing, however strong it is."""
        return tuple(name for name, token in self.names.items() if not _whole(name, token))

    @property
    def _units(self) -> str:
        by = "by change from the centre" if self.centered and self.through == "model" else "by probability"
        change = ", change in nats" if self.through == "model" else ""
        return f"rank 0 is the strongest of {self.vocabulary} tokens, {by}; probability from 0 to 1{change}"

    @property
    def _of(self) -> str:
        of = f"{self.relation!r} " if self.relation else ""
        prompts = f" after {_count(self.prompts)}" if self.prompts else ""
        return f"{of}through {self.through}{prompts}{', centred' if self.centered else ''}"

    def to_frame(self) -> pd.DataFrame:
        """One line per token: `part` ("top", "suppressed" or "name"), `name`, and the fields of `Token`."""
        parts: list[tuple[str, str | None, Token]] = []
        parts += [(part, None, token) for part in ("top", "suppressed") for token in getattr(self, part)]
        parts += [("name", name, token) for name, token in self.names.items()]
        lines = [{"part": part, "name": name, **token._asdict()} for part, name, token in parts]
        return pd.DataFrame(lines).astype({"change": float})


def decode(
    model: Model,
    fv: FunctionVector,
    k: int = 10,
    through: Reading = "unembed",
    *,
    center: FunctionVector | Tensor | None = None,
    names: str | Sequence[str] | None = None,
    prompts: str | Sequence[str] = NEUTRAL_PROMPTS,
) -> Decoding:
    """Read a function vector as tokens.

    Args:
        fv: one FunctionVector.
        k: how many tokens to list at either end.
        through: "unembed", the final norm and unembedding alone; "model", the next token after neutral prompts with
            the vector inserted at its layer, mean log-probability over the prompts.
        center: what the vectors of all relations share, to be removed: a FunctionVector (such as the mean of the
            vectors of many relations), or `[d_model]`, which is inserted where `fv` is. With "unembed" it is subtracted
            from the vector. With "model" its log-probabilities, read the same way, are subtracted from the vector's
            before tokens are ranked.
        names: words that name the relation; by default those of the bundled relation that the vector is of. A name
            counts as the first token of its best spelling: as given, lower case, capitalised or upper case, with and
            without a space before it. For a long name that token may be a meaningless piece, which `token` shows.
        prompts: a prompt or several, of at least two tokens each; used with "model".

    Returns:
        Tokens from the strongest down: highest log-probability, with a centre in "model" the highest change. The
        suppressed ones are the lowest in log-probability with "unembed", in change with "model".

    Raises:
        InputError: `fv` is not a FunctionVector, or not of this model; `k` outside 1..vocabulary; an unknown `through`;
            no names, a name that is not a word or has no token; no prompts, an empty or long one; a patch is active.

    Source: Todd et al. 2024, for "unembed".

    Example:
        >>> decode(model, antonym, through="model", center=mean_vector).names["opposite"].rank
    """
    lens = lens_of(model)
    if not isinstance(fv, FunctionVector):
        raise InputError(f"fv is {type(fv).__name__}; give one FunctionVector. Several are read by log_probs.")
    fv.check(lens)
    k, centre = whole_number("k", k, least=1), _centre(lens, fv, center)
    read, reference = checked_prompts(lens, through, prompts), None
    tokens = name_tokens(lens, _default_names(fv) if names is None else names, strict=names is not None)
    if through == "unembed":
        own = unembedded(lens, [replace(fv, vector=fv.vector - centre.vector) if centre else fv])[0]
    else:
        rows = through_model(lens, [fv, centre] if centre else [fv], read)
        own, reference = rows[1], rows[2 if centre else 0]
    if k > len(own):
        raise InputError(f"k is {k}; the vocabulary of {lens.name} has {len(own)} tokens, so give 1..{len(own)}.")
    change = None if reference is None else own - reference
    strength = own if change is None or centre is None else change

    def token(index: int, own_spellings: Sequence[int] = ()) -> Token:
        return Token(
            token=lens.text(index), id=index, rank=rank(strength, own_spellings or [index]),
            probability=float(own[index].exp()), log_prob=float(own[index]),
            change=None if change is None else float(change[index]),
        )  # fmt: skip

    return Decoding(
        top=tuple(token(i) for i in strength.argsort(descending=True, stable=True)[:k].tolist()),
        suppressed=tuple(token(i) for i in (own if change is None else change).argsort(stable=True)[:k].tolist()),
        names={name: token(max(ids, key=lambda i: strength[i]), ids) for name, ids in tokens.items()},
        relation=fv.relation,
        layer=fv.layer,
        model=lens.name,
        through=through,
        centered=centre is not None,
        vocabulary=len(own),
        prompts=read,
    )


def _centre(lens: Lens, fv: FunctionVector, center: FunctionVector | Tensor | None) -> FunctionVector | None:
    if center is None:
        return None
    if isinstance(center, Tensor):
        center = replace(fv, vector=center)
    if not isinstance(center, FunctionVector):
        raise InputError(f"center is {type(center).__name__}; give a FunctionVector or a tensor [d_model].")
    center.check(lens)
    return center


def _default_names(fv: FunctionVector) -> Sequence[str]:
    return load_relation(fv.relation).names if fv.relation and fv.relation in relation_names() else ()


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _whole(name: str, token: Token) -> bool:
    return token.token.strip().casefold() == name.strip().casefold()


def _line(name: str, token: Token) -> str:
    label, change = f"{name}: " if name else "", "" if token.change is None else f"  {token.change:>+6.2f}"
    line = f"  {label + _quoted(token.token):<26} {token.rank:>6}  {token.probability:>11.2g}{change}"
    return line if not name or _whole(name, token) else line + "  (a piece of the name)"


def _count(prompts: Sequence[str]) -> str:
    return _quoted(prompts[0]) if len(prompts) == 1 else f"{len(prompts)} prompts"
