"""Whether a vector belongs to a model, and whether it may have seen the words that it is measured on."""

import re
import warnings
from typing import TYPE_CHECKING

from ..datasets.relations import Relation
from ..ground.errors import InputError
from ..models.lens import Lens, check_layer
from ..models.network import Network
from ..models.sites import check_site
from .records import lineage

if TYPE_CHECKING:
    from .function_vector import FunctionVector


def check_model(fv: "FunctionVector", lens: Lens | Network) -> None:
    """Raise an InputError if the vector does not belong to the model; warn if its name is spelled otherwise.

    Of two names the last part of the path counts, in any letter case: "gpt2" may be "openai-community/gpt2".
    """
    title = lens.name or type(lens.model).__name__
    if len(fv.vector) != lens.d_model:
        raise InputError(f"The vector has {len(fv.vector)} numbers; the residual stream of {title} has {lens.d_model}.")
    if are_two_models(fv.model, lens.name):
        raise InputError(
            f"The vector was made on {fv.model!r} and this model is {lens.name!r}. Load that model, or make the "
            "vector again; if both names are of one model, use dataclasses.replace(fv, model=None)."
        )
    check_layer(lens, fv.layer)
    if f"blocks.{fv.layer}.{fv.site}" not in lens.points:
        raise InputError(f"{title} has no hook point 'blocks.{fv.layer}.{fv.site}' to add a vector at.")
    if fv.processing != lens.processing:
        raise InputError(
            f"The vector was made on {fv.processing} weights and {title} has {lens.processing} ones: their "
            "residual streams differ. Load the model in the same processing mode, or make the vector again."
        )
    bos = lens.bos
    if fv.bos is not None and bos is not None and fv.bos != bos:
        rule = {True: "with", False: "without"}
        raise InputError(
            f"The vector was made on prompts {rule[fv.bos]} a BOS token and {title} runs {rule[bos]}. "
            f"Make the vector again on this model; or, in Python, set model.cfg.default_prepend_bos = {fv.bos}"
            f"{', if its tokenizer has a BOS token' if fv.bos else ''}."
        )
    if fv.model and lens.name and fv.model != lens.name:
        warnings.warn(f"The vector was made on {fv.model!r}; this model is {lens.name!r}.", stacklevel=4)

    if isinstance(lens, Lens):
        check_site(lens, fv.layer, fv.site)


def check_split(fv: "FunctionVector", relation: Relation) -> None:
    """Raise an InputError if the vector, or one it was combined from, may have seen the words it is measured on."""
    for record in lineage(fv.record):
        seed, same_pairs = record["split_seed"], record["data_hash"] in (None, relation.hash)
        if record["relation"] != relation.name or seed is None or (seed == relation.split_seed and same_pairs):
            continue
        other = f"split {seed}" if same_pairs else "other pairs"
        raise InputError(
            f"The vector was made from {other} of {relation.name!r} and may have seen the words it is measured on. "
            f"Give the relation it was made from, .with_split({seed}); if the words are new, rename the relation."
        )


def are_two_models(name: str | None, other: str | None) -> bool:
    """Whether two known names are of different models; False if either is unknown."""
    last, others = (re.split(r"[/\\]", (full_name or "").rstrip("/\\").casefold())[-1] for full_name in (name, other))
    return bool(last and others) and last != others
