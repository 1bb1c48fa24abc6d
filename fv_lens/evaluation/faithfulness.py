"""Whether a sum of heads stands for the heads: what each does to the answer, on the same words."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from ..datasets.prompts import with_demonstrations
from ..datasets.relation_files import RelationLike, load_relation
from ..engine.batches import batch
from ..engine.completion import completions
from ..engine.edits import Edit
from ..ground.errors import InputError
from ..ground.scores import Score, mean
from ..models.lens import Model, lens_of
from ..vectors.choice import means_of
from ..vectors.effects import HeadEffects
from ..vectors.function_vector import FunctionVector, own_template
from ..vectors.summed import head_sum


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """Gains in the log-probability of the whole answer, in nats, over zero-shot prompts without an edit.

    `by_heads`: with the outputs of the heads set to their means (at `hook_z`). `by_sum`: with what those means add to
    the residual stream added there, after each head's own block. `gains`: `[word, 2]`, both for each word.
    """

    by_heads: Score
    by_sum: Score
    gains: Float[np.ndarray, "word 2"] = field(repr=False)

    def __str__(self) -> str:
        return (
            f"setting the heads moves the answer's log-probability by {self.by_heads:+} nats, adding their sum at "
            f"their own layers by {self.by_sum:+}"
        )


def faithfulness(model: Model, relation: RelationLike, vector: FunctionVector, effects: HeadEffects) -> Faithfulness:
    """How well the sum of a vector's heads stands for the heads themselves, on zero-shot prompts of validation words.

    Each layer's part of the sum is added after that layer, at strength 1, so only what the sum leaves out tells the two
    apart: that norms behind attention are held fixed, that the heads' outputs in the prompt itself stay beside it, and
    that their own block's MLP does not see it.

    Args:
        vector: a sum of heads, as `choose` or `function_vector` gives it.
        effects: the head map that it was chosen by; if that is not of this relation, mean outputs are computed again.

    Raises:
        InputError: a vector without heads, of another model, or made on these words; a model on which heads cannot be
            summed.
    """
    lens, relation = lens_of(model), load_relation(relation)
    vector.check(lens)
    effects.check(lens)
    if not vector.heads:
        raise InputError(f"{vector!r} is not a sum of heads; give one that is, such as choose(...).")
    relation = relation.with_split(effects.record["split_seed"])
    vector.check_split(relation)
    mean_z, attention_rms = means_of(model, relation, effects)
    words = relation.split().validation
    prompts = batch(lens, with_demonstrations(words, words, 0), own_template([vector]))
    heads = [Edit(layer, mean_z[layer, head], head) for layer, head in vector.heads]
    by_layer = {layer: [head for head in vector.heads if head[0] == layer] for layer, _ in vector.heads}
    parts = [Edit(layer, head_sum(lens, own, mean_z, attention_rms)) for layer, own in sorted(by_layer.items())]
    log_prob = completions(lens, prompts, [heads, parts]).log_prob
    gains = log_prob[:, 1:] - log_prob[:, :1]
    return Faithfulness(mean(gains[:, 0]), mean(gains[:, 1]), gains)
