"""The `FunctionVector` type: arithmetic, checks against a model and the words it is measured on, saving and loading."""

import hashlib
import json
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..datasets.prompts import PromptTemplate
from ..datasets.relations import Relation
from ..ground import storage
from ..ground.errors import InputError, finite_number, whole_number
from ..ground.text_files import FilePath
from ..models.hooking import Hook
from ..models.lens import Lens, Model, lens_of
from ..models.positions import At, Prompts, as_at
from .applying import apply
from .checks import are_two_models, check_model, check_split
from .handles import Application
from .portrait import html_of, parts_of
from .records import Vector

if TYPE_CHECKING:
    from ..models.hooking import HookPoint

TOKENS, PROCESSING = ("last",), ("raw", "centered")


@dataclass(frozen=True, eq=False)
class FunctionVector:
    """A vector that carries a relation, and where it came from.

    Args:
        vector: `[d_model]`, kept as float32 on the CPU; any strength is already multiplied in.
        layer: it is added to the residual stream after this block.
        site: the hook point it is added at.
        token: the rule for the token it is added at: "last", the last token of the prompt.
        model: name of the model it was made on; None or "" where it is not known, and not checked.
        processing: "raw", or "centered" where TransformerLens centred the weights that write to the residual stream.
        bos: whether its prompts began with a BOS token.
        relation, data_hash, split_seed: the relation, SHA-256 of its pairs, and which split its words came from.
        aliases: what else its relation is called, in other sets of relations.
        kin: families and relations, beside its own, with which it is left out where families are.
        template: the prompt template, as `PromptTemplate.to_dict` gives it.
        heads: the (layer, head) whose outputs were summed.
        method: "sum", "combination" (of `parents`), or what another module of fv_lens names.
        strength: the factor that the sum was multiplied by.
        parents: (weight, record) of the vectors it was combined or tuned from.
        training: how a tuned vector was tuned: pairs, losses of every step, the chosen step (`training_frame`).
        weights, source: of a composite, relation -> weight (largest first), and the pair A, B that it was made for.
        frozen_rms: of a sum in a model with norms behind attention, layer -> the root mean square of attention's output
            at which the norm's divisor was held.
        versions: of fv_lens and the libraries below it.

    Raises:
        InputError: a vector that is not one-dimensional, or holds NaN or infinity; a negative layer; an unknown token
            rule or processing; a strength that is not finite.

    Example:
        >>> mixed = 0.5 * antonym + 0.5 * synonym
        >>> [weight for weight, record in mixed.parents]
        [1.0, 1.0]
    """

    vector: Tensor
    layer: int
    site: str = "hook_resid_post"
    token: str = "last"
    model: str | None = ""
    processing: str = "raw"
    bos: bool | None = None
    relation: str | None = None
    data_hash: str | None = None
    split_seed: int | None = None
    aliases: Sequence[str] = ()
    kin: Sequence[str] = ()
    template: Mapping[str, str] | None = None
    heads: Sequence[tuple[int, int]] = ()
    method: str = "sum"
    strength: float = 1.0
    parents: Sequence[tuple[float, Mapping[str, Any]]] = ()
    training: Mapping[str, Any] | None = None
    weights: Mapping[str, float] | None = None
    source: Sequence[str] = ()
    frozen_rms: Mapping[str, float] | None = None
    versions: Mapping[str, str] = field(default_factory=storage.versions)

    __array_ufunc__ = None  # numpy's numbers leave `scale * vector` to __rmul__

    def __post_init__(self) -> None:
        vector = torch.as_tensor(self.vector, device="cpu").detach().to("cpu", torch.float32, copy=True)
        if vector.dim() != 1:
            raise InputError(f"vector has the shape {list(vector.shape)}; give a one-dimensional vector, [d_model].")
        if not vector.isfinite().all():
            bad = int((~vector.isfinite()).sum())
            raise InputError(f"{bad} of {len(vector)} numbers of the vector are NaN or infinite; give finite numbers.")
        object.__setattr__(self, "vector", vector)
        for name, known in (("token", TOKENS), ("processing", PROCESSING)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose from {', '.join(known)}.")
        object.__setattr__(self, "layer", whole_number("layer", self.layer, least=0))
        object.__setattr__(self, "strength", finite_number("strength", self.strength))
        object.__setattr__(self, "heads", tuple((int(layer), int(head)) for layer, head in self.heads))
        for name in ("aliases", "kin"):
            if isinstance(getattr(self, name), str):
                raise InputError(f"{name} is {getattr(self, name)!r}; give a list of names.")
        for name in ("source", "aliases", "kin"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "parents", tuple((float(weight), parent) for weight, parent in self.parents))

    @classmethod
    def on(
        cls,
        lens: Lens,
        vector: Tensor,
        layer: int,
        relation: Relation | None = None,
        template: PromptTemplate | None = None,
        **record: Any,
    ) -> "FunctionVector":
        """A vector made on a model from a relation, whose names, hash and settings go into its record.

        Args:
            record: further fields, by name.
        """
        if relation is not None:
            record |= {"relation": relation.name, "data_hash": relation.hash, "split_seed": relation.split_seed}
        if template is not None:
            record["template"] = template.to_dict()
        return cls(vector, layer, model=lens.name, processing=lens.processing, bos=lens.bos, **record)

    def __repr__(self) -> str:
        of = f" of {self.relation!r}" if self.relation else ""
        return f"FunctionVector({self.method}{of}, layer {self.layer}, norm {self.vector.norm():.3g}, {self.model})"

    def _repr_html_(self) -> str:
        return html_of(self)

    def to_frame(self) -> pd.DataFrame:
        """What the vector is made of, one line each: kind ("relation", "head", "vector"), part, weight.

        A composite has weights of relations, a sum its heads (each with the vector's strength), any other vector those
        it was combined or tuned from.
        """
        return pd.DataFrame(parts_of(self), columns=["kind", "part", "weight"])

    @property
    def record(self) -> dict[str, Any]:
        """Everything but the numbers, as plain JSON data."""
        parts = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "vector"}
        return json.loads(json.dumps(parts))

    @property
    def sha256(self) -> str:
        """SHA-256 of the vector's float32 numbers, whatever its record says."""
        return hashlib.sha256(self.vector.numpy().tobytes()).hexdigest()

    def __add__(self, other: "FunctionVector") -> "FunctionVector":
        if not isinstance(other, FunctionVector):
            return NotImplemented
        for name in ("layer", "site", "token", "processing", "bos"):
            value, others = getattr(self, name), getattr(other, name)
            if value != others:
                raise InputError(f"Vectors of {name} {value!r} and {others!r} cannot be added; give two of one {name}.")
        if are_two_models(self.model, other.model):
            raise InputError(
                f"Vectors of model {self.model!r} and {other.model!r} cannot be added; give two of one model."
            )
        if len(self.vector) != len(other.vector):
            raise InputError(f"Vectors of {len(self.vector)} and {len(other.vector)} numbers cannot be added.")
        return self._combined(self.vector + other.vector, ((1.0, self), (1.0, other)))

    def __mul__(self, scale: SupportsFloat) -> "FunctionVector":
        if not isinstance(scale, numbers.Real):
            return NotImplemented
        scale = finite_number("the scale of a vector", scale)
        return self._combined(self.vector * scale, ((scale, self),))

    __rmul__ = __mul__

    def __neg__(self) -> "FunctionVector":
        return self * -1.0

    def __sub__(self, other: "FunctionVector") -> "FunctionVector":
        return self + (-other) if isinstance(other, FunctionVector) else NotImplemented

    def _combined(self, vector: Tensor, parents: "Sequence[tuple[float, FunctionVector]]") -> "FunctionVector":
        same = {name: getattr(self, name) for name in ("relation", "data_hash", "split_seed", "template", "model")}
        same = {k: v if all(getattr(parent, k) == v for _, parent in parents) else None for k, v in same.items()}
        same["model"] = same["model"] or self.model
        same |= {name: union(name, [parent for _, parent in parents]) for name in ("aliases", "kin")}
        return replace(
            self, vector=vector, method="combination", heads=(), strength=1.0,
            parents=tuple((weight, parent.record) for weight, parent in parents),
            training=None, weights=None, source=(), frozen_rms=None, **same,
        )  # fmt: skip

    def strengthened(self, strength: SupportsFloat) -> "FunctionVector":
        """The same vector, `strength` times as strong, with that recorded instead of a parent."""
        strength = finite_number("strength", strength)
        return replace(self, vector=self.vector * strength, strength=self.strength * strength)

    @property
    def hook_name(self) -> str:
        """The TransformerLens hook point that the vector is added at, such as "blocks.9.hook_resid_post"."""
        return f"blocks.{self.layer}.{self.site}"

    def hooks(
        self,
        model: Model,
        *,
        strength: SupportsFloat = 1.0,
        at: At = None,
    ) -> list[Hook]:
        """The vector as `fwd_hooks` of TransformerLens: `[(hook_name, hook)]`, which adds it at the last position.

        In `run_with_hooks` this is bit for bit what `patch` does in a forward of unpadded or left-padded prompts, and
        it can be combined with other hooks. A hook sees activations, not the attention mask: for prompts padded on the
        right, say with `at` where each one ends. In a forward over cached keys and values it sees only the new tokens.
        To generate text, use `patch`, which tells the prompt's last token from those that follow.

        Args:
            model: the HookedTransformer or TransformerBridge that the hooks are for; the vector is checked against it.
            strength: multiplies the vector; 0 changes nothing.
            at: the tokens that get the vector instead of each row's last, in columns of this forward: as for `patch`.

        Raises:
            InputError: a vector that does not belong to the model, a strength that is not finite, an `at` of another
                form; when the hooks run, an `at` that does not fit the batch.

        Example:
            >>> logits = model.run_with_hooks(tokens, fwd_hooks=fv.hooks(model))
            >>> logits, cache = model.run_with_cache(tokens)  # the model itself is as it was
            >>> hooks = [hook for part in distributed_vectors(model, "antonym", heads) for hook in part.hooks(model)]
        """
        self.check(lens_of(model))
        strength, at = finite_number("strength", strength), as_at(at)

        def add(x: Tensor, hook: "HookPoint") -> Tensor | None:
            if strength == 0:
                return None
            rows, length, _ = x.shape
            here, _ = Prompts.of((rows, length)).at(at, rows, 0).columns((rows, length), 0, x.device)
            return torch.where(here[..., None], x + (strength * self.vector).to(x), x)

        return [(self.hook_name, add)]

    def apply(
        self,
        model: PreTrainedModel | nn.Module,
        strength: SupportsFloat = 1.0,
        tokens: Literal["last", "every"] = "last",
        at: At = None,
    ) -> Application:
        """Add the vector on a plain Hugging Face model, by PyTorch hooks and without TransformerLens.

        It does what `patch` does on a TransformerBridge of the same weights, number for number, and its handle is used
        in the same way. Several handles on a model add up. The last prompt token is the last 1 of each row of
        `attention_mask`, or the last column where none is given; in `generate` it is that of the call's own prompts,
        with or without a cache, for beams, several sequences of a prompt, and embeddings. `unpatch(model)` takes off
        all vectors.

        The decoder's blocks are found once, by a forward over four tokens: those that hand the residual stream on to
        each other. A model under PEFT or torch.compile is served (a compiled model runs uncompiled meanwhile). Token
        ids are used as they are given: begin prompts with a BOS token if, and only if, `self.bos` says that the
        vector's own prompts did. If none of the prompts does so, a warning says it once.

        Args:
            model: a causal language model of Hugging Face's transformers, as `from_pretrained` gives it.
            strength: a finite number that multiplies the vector; 0 changes nothing.
            tokens: "last" for the last prompt token; "every" for each token that `generate` writes as well.
            at: the tokens that get the vector instead of each prompt's last, as for `patch`: a column, one for each
                row, or a mask `[batch, pos]`.

        Raises:
            InputError: a vector of another model, another `d_model`, layer or processing mode; a `site` other than
                "hook_resid_post"; a model that TransformerLens wraps, an encoder-decoder, one whose blocks were not
                found, or a shallow copy of one that has vectors; a strength, `tokens` or `at` of another form. While
                applied: what `patch` refuses as well, and a call of a part of the model instead of the model itself.
            ParityError: a block returns another shape than the tokens of its forward have.

        Example:
            >>> tokenizer = AutoTokenizer.from_pretrained("gpt2")
            >>> network = AutoModelForCausalLM.from_pretrained("gpt2")
            >>> prompts = tokenizer(["Q: big\nA:"], return_tensors="pt")
            >>> with fv.apply(network, strength=2.0):
            ...     print(tokenizer.batch_decode(network.generate(**prompts, max_new_tokens=3, do_sample=False)))
        """
        return apply(self, model, strength, tokens, at)

    def check(self, lens: Lens) -> None:
        """Raise an InputError if the vector does not belong to the model, see `check_model`."""
        check_model(self, lens)

    def check_split(self, relation: Relation) -> None:
        """Raise an InputError if the vector, or one it was combined from, may have seen the words it is measured on."""
        check_split(self, relation)

    def save(self, path: FilePath) -> None:
        """Write the vector and its record to a safetensors file."""
        storage.save_checked(path, Vector, {"vector": self.vector}, self.record)

    @classmethod
    def load(cls, path: FilePath) -> "FunctionVector":
        """Read a saved vector; an InputError names a file that is missing, damaged or something else, and the field."""
        tensors, record = storage.load(path, Vector)
        with storage.naming(path):
            return cls.of_parts(tensors["vector"], record)

    @classmethod
    def from_hub(
        cls, repo: str, name: str, *, revision: str | None = None, token: str | bool | None = None
    ) -> "FunctionVector":
        """One vector of a library on the Hugging Face hub, see `Library.push_to_hub`; from the cache if it is there.

        Args:
            repo: "org/name".
            name: of the vector in the library, such as "antonym".
            revision: a branch, a tag or a commit; by default the newest of the main branch.
            token: for private repositories; by default the one that `hf auth login` keeps.

        Raises:
            InputError: there is no such repository, revision or vector; the token is refused; the hub cannot be reached
                and the cache does not have it.

        Example:
            >>> fv = FunctionVector.from_hub("org/relations", "antonym")
        """
        from .sharing.hub import fetched_vector

        return cls.load(fetched_vector(repo, name, revision, token))

    @classmethod
    def of_parts(cls, vector: Tensor, record: Mapping[str, Any]) -> "FunctionVector":
        """The vector of these numbers and this `record`; an InputError names an invalid field."""
        Vector.check({"vector": vector}, record)
        heads = [(layer, head) for layer, head in record["heads"]]
        parents = [(weight, parent) for weight, parent in record["parents"]]
        return cls(vector, **{**record, "heads": heads, "parents": parents})


def as_vectors(fv: "FunctionVector | Sequence[FunctionVector]") -> list[FunctionVector]:
    """One vector or several as a list; an InputError for anything else, or for none."""
    vectors: list[Any] = list(fv) if isinstance(fv, list | tuple) else [fv]  # of whatever was given
    if not vectors:
        raise InputError("fv is an empty list; give a FunctionVector or a list of them.")
    for vector in vectors:
        if not isinstance(vector, FunctionVector):
            raise InputError(f"fv holds {type(vector).__name__}; give a FunctionVector or a list of them.")
    return vectors


def union(name: str, vectors: "Sequence[FunctionVector]") -> tuple[str, ...]:
    """The `aliases` or `kin` of several vectors, each once."""
    return tuple(dict.fromkeys(label for fv in vectors for label in getattr(fv, name)))


def own_template(vectors: Sequence[FunctionVector]) -> PromptTemplate:
    """The template that the vectors were made with, where they agree on one; else the default."""
    known = [vector.template for vector in vectors if vector.template]
    agreed = known and all(template == known[0] for template in known)
    return PromptTemplate.from_dict(known[0]) if agreed else PromptTemplate()
