"""A vector as it shows itself in a notebook, and what it is made of."""

from typing import TYPE_CHECKING

from ..ground.markup import bars, card, facts, side
from .records import terms

if TYPE_CHECKING:
    from .function_vector import FunctionVector


def html_of(fv: "FunctionVector") -> str:
    """The vector's record as a card: where it is added, what it was made of, how it was tuned."""
    rule = {True: "with BOS", False: "without BOS", None: ""}[fv.bos]
    known = {
        "method": fv.method, "made for": " : ".join(fv.source),
        "added": f"after layer {fv.layer}, at {fv.site}, {fv.token} token",
        "norm": f"{fv.vector.norm():.3g}, {len(fv.vector)} numbers", "strength": f"{fv.strength:g}",
        "model": ", ".join(filter(None, (fv.model, fv.processing, rule))),
        "heads": ", ".join(f"L{layer}H{head}" for layer, head in fv.heads),
        "norms behind attention": "held at their mean" if fv.frozen_rms else "",
    }  # fmt: skip
    if fv.parents and fv.weights is None:
        known["from"] = " + ".join(f"{weight:.2g} × {name}" for weight, name in terms(fv.record))
    if tuned := fv.training:
        known["tuned"] = f"{tuned['n_pairs']} pairs, step {tuned['chosen_step']} of {len(tuned['losses'])}"
        known["validation loss"] = f"{tuned['validation_loss']:.2f} nats per answer"
    title = fv.relation or " : ".join(fv.source) or fv.method
    return card("FunctionVector", title, side(facts(known), bars(fv.weights or {}, "relation")))


def parts_of(fv: "FunctionVector") -> list[tuple[str, str, float]]:
    """What the vector is made of, as (kind, part, weight), see `FunctionVector.to_frame`."""
    if fv.weights is not None:
        return [("relation", name, weight) for name, weight in fv.weights.items()]
    if fv.heads:
        return [("head", f"L{layer}H{head}", fv.strength) for layer, head in fv.heads]
    return [("vector", name, weight) for weight, name in terms(fv.record)]
