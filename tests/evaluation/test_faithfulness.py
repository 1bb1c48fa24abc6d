"""How well a sum stands for its heads, against full forwards with hooks."""

import pytest
import torch

from fv_lens import InputError, Relation, faithfulness, indirect_effects, mean_effects
from fv_lens.datasets.prompts import with_demonstrations
from fv_lens.engine.batches import batch
from fv_lens.models.lens import lens_of
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.summed import function_vector, head_sum

from .. import tiny
from ..oracles import difference

HEADS = [(2, 3), (0, 1), (2, 0), (1, 1)]


def gains_by_hooks(model, words, effects) -> torch.Tensor:
    """`[word, 2]`: what setting the heads, and adding their sums, does to the answer's log-probability."""
    lens, validation = lens_of(model), words.split().validation
    prompts = batch(lens, with_demonstrations(validation, validation, 0))

    def sets(layer, head):
        def hook(z, hook):
            z = z.clone()
            z[0, at, head] = effects.mean_z[layer, head]
            return z

        return f"blocks.{layer}.attn.hook_z", hook

    def adds(layer):
        own = head_sum(lens, [head for head in HEADS if head[0] == layer], effects.mean_z, effects.attention_rms)

        def hook(x, hook):
            x = x.clone()
            x[0, at] += own
            return x

        return f"blocks.{layer}.hook_resid_post", hook

    gains = []
    for i in range(len(prompts)):
        answer = prompts.answers[i][0]
        prompt = prompts.tokens[i][prompts.mask[i] > 0].tolist()
        ids, at = torch.tensor([[*prompt, *answer]]), len(prompt) - 1
        found = []
        for hooks in ([], [sets(*head) for head in HEADS], [adds(layer) for layer in (0, 1, 2)]):
            logits = model.run_with_hooks(ids, fwd_hooks=hooks)[0, at : at + len(answer)].float().log_softmax(-1)
            found.append(float(sum(logits[j, token] for j, token in enumerate(answer))))
        gains.append([found[1] - found[0], found[2] - found[0]])
    return torch.tensor(gains)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", pytest.param("gemma2", marks=pytest.mark.slow)])
def test_both_gains_are_those_of_full_forwards(name, words):
    model = tiny.build(name)
    effects = indirect_effects(model, words, 2, 2, 4)
    fv = function_vector(model, words, HEADS, 1, effects.mean_z, effects.attention_rms)
    found = faithfulness(model, words, fv, effects)
    expected = gains_by_hooks(model, words, effects)
    assert difference(torch.from_numpy(found.gains).float(), expected) <= 1e-4
    assert found.by_heads.value == pytest.approx(float(expected[:, 0].mean()), abs=1e-4)
    assert found.by_sum.value == pytest.approx(float(expected[:, 1].mean()), abs=1e-4)
    assert f"{found.by_sum:+}" in str(found)


@pytest.mark.slow
def test_a_vector_chosen_by_a_map_over_relations_is_compared_with_its_own_heads(words):
    model = tiny.build("llama")
    other = Relation("other", [(f"w{i}", f"w{i + 50}") for i in range(40)])
    maps = [indirect_effects(model, relation, 2, 2, 4) for relation in (words, other)]
    fv = function_vector(model, words, HEADS, 1, maps[0].mean_z)
    by_own, by_all = (faithfulness(model, words, fv, effects) for effects in (maps[0], mean_effects(maps)))
    assert difference(torch.from_numpy(by_all.gains), torch.from_numpy(by_own.gains)) <= 1e-4


def test_a_vector_without_heads_is_refused(words):
    model = tiny.build("llama")
    effects = indirect_effects(model, words, 2, 2, 4)
    vector = FunctionVector.on(lens_of(model), torch.ones(32), 1, words)
    with pytest.raises(InputError, match="is not a sum of heads"):
        faithfulness(model, words, vector, effects)
