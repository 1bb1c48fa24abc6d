"""Tiny models whose blocks live on two devices, by accelerate's hooks, as `device_map` spreads a real one."""

import zlib

import pytest
import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.datasets.relations import Relation
from fv_lens.engine.whatif import residuals_of_layers
from fv_lens.evaluation.baselines.training import TrainingPrompts, train
from fv_lens.evaluation.controls import Controls
from fv_lens.evaluation.evaluate import evaluate
from fv_lens.evaluation.head_words import head_words
from fv_lens.evaluation.readings import log_probs
from fv_lens.models.adapters import with_lora, with_soft_prompt
from fv_lens.models.lens import lens_of
from fv_lens.vectors.choice import choose
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.mediation import indirect_effects, mean_outputs
from fv_lens.vectors.optimizer import Tuning
from fv_lens.vectors.patching import patch
from fv_lens.vectors.summed import distributed_vectors, function_vector
from fv_lens.vectors.sweeps import sweep
from fv_lens.vectors.tuning import finetune

from . import tiny

IDS = torch.tensor([[3, 1, 4, 1, 5, 9]])


def build(name: str, devices: tuple, split: int = 1, main: int = 0):
    """The model of `tiny.build`, its embeddings and first `split` blocks on one device, all behind on the other.

    `main`: the device to which accelerate takes what the network is called with, before it reaches a part.
    """
    network = tiny.network(name)
    network.config.architectures = [type(network).__name__]
    spread(network, devices, split, main)
    model = TransformerBridge.boot_transformers(
        f"tiny/{name}", hf_model=network, tokenizer=tiny.tokenizer(), device=str(devices[0])
    )
    return model


def spread(network, devices: tuple, split: int, main: int) -> None:
    """Put the parts of a Hugging Face network on two devices, in the order in which they run."""
    base, prefix = network.base_model, network.base_model_prefix
    places, behind = {"": devices[main]}, False
    for part, module in base.named_children():
        if isinstance(module, torch.nn.ModuleList):
            places |= {f"{prefix}.{part}.{i}": devices[i >= split] for i in range(len(module))}
            behind = True
        else:
            places[f"{prefix}.{part}"] = devices[behind and any(True for _ in module.parameters())]
    unembedding = network.get_output_embeddings()
    (head,) = [part for part, module in network.named_children() if module is unembedding]
    is_tied = unembedding.weight is network.get_input_embeddings().weight
    places[head] = devices[0 if is_tied else 1]
    stays = {part: False for part in places if part}  # nothing is offloaded
    attach_align_device_hook_on_blocks(network, places, stays, skip_keys=network._skip_keys_device_placement)
    network.tie_weights()
    if {torch.device(place).type for place in places.values()} != {"cpu", "cuda"}:  # which TransformerLens refuses
        network.hf_device_map = {part: str(place) for part, place in places.items() if part}


# What is measured on a spread model, and on the same model on one device.


def effects(model, relation):
    measured = indirect_effects(model, relation, n_prompts=3, n_shots=3, n_mean_prompts=5)
    return measured.log_prob_values, measured.mean_z


def summed(model, relation):
    heads, means = [(0, 1), (2, 3)], mean_outputs(model, relation, 5, 3)
    fv = function_vector(model, relation, heads, 1, means.z, means.attention_rms)
    return fv.vector, *(part.vector for part in distributed_vectors(model, relation, heads, means.z))


def tuned(model, relation):
    return losses(finetune(model, uneven(), vector_of(model), n_pairs=10, n_validation=5, how=Tuning(3)))


def tuned_in_two_layers(model, relation):
    """Vectors of several layers in one batch, whose rows join it on the devices of their blocks."""
    how = Tuning(3, perplexity=True)
    return losses(finetune(model, uneven(), layer=[0, 2], n_pairs=10, n_validation=5, how=how))


def tuned_behind_the_last_block(model, relation):
    """No block runs above the vector, on one token of each answer."""
    how = Tuning(3, first_token=True)
    return losses(finetune(model, uneven(), vector_of(model), layer=2, n_pairs=10, n_validation=5, how=how))


def swept(model, relation):
    tried = sweep(model, uneven(), [vector_of(model)], range(3), [1, 2])
    return torch.from_numpy(tried.log_probs), torch.from_numpy(tried.right)


def chosen(model, relation):
    measured = indirect_effects(model, relation, n_prompts=3, n_shots=3, n_mean_prompts=5)
    return (choose(model, relation, measured, head_counts=[2, 4], layers=[0, 2], strengths=[1, 2]).vector,)


def evaluated(model, relation):
    """With demonstrations in prompts that begin alike, which are run once."""
    lens = lens_of(model)
    controls = Controls(draws=2, mean_z=torch.ones(3, 4, lens.d_head), attention_rms=torch.ones(3))
    score = evaluate(model, uneven(), [vector_of(model, layer=0), vector_of(model, layer=2)], controls=controls)
    return torch.tensor(score.words["log_prob"]), torch.tensor([row.log_prob.value for row in score.rows.values()])


def decoded(model, relation):
    fv = vector_of(model)
    return log_probs(model, fv), log_probs(model, fv, through="model", prompts=["w1 w2 w3", "w4 w5 w6 w7"])


def words_of_heads(model, relation):
    measured = indirect_effects(model, relation, n_prompts=3, n_shots=3, n_mean_prompts=5)
    words = [word for listed in head_words(model, measured, k=3).values() for word in listed]
    return (torch.tensor([zlib.crc32(word.encode()) for word in words]),)


def patched(model, relation):
    ids, how = IDS.to(lens_of(model).device), dict(do_sample=False, stop_at_eos=False, verbose=False)
    with torch.no_grad(), patch(model, [vector_of(model, layer=0), vector_of(model, layer=2)]):
        logits = model(ids)[0, -1]
        written = [model.generate(ids, 3, use_past_kv_cache=cached, **how) for cached in (True, False)]
    return logits.log_softmax(-1), *written


def hooked(model, relation):
    hooks = [hook for layer in range(3) for hook in vector_of(model, layer).hooks(model)]
    with torch.no_grad():
        return (model.run_with_hooks(IDS.to(lens_of(model).device), fwd_hooks=hooks)[0, -1].log_softmax(-1),)


def one_by_one(model, relation):
    """Under a hook of the user's each prompt has forwards of its own."""
    handle = model.blocks[1].register_forward_hook(lambda module, given, out: None)
    try:
        measured = indirect_effects(model, relation, n_prompts=1, n_shots=2, n_mean_prompts=1)
        return measured.log_prob_values, measured.mean_z, *residual_streams(model, relation)
    finally:
        handle.remove()


def residual_streams(model, relation):
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    return (residuals_of_layers(lens_of(model), torch.cat([IDS, IDS.flip(1)]), mask, range(3)),)


def trained_adapters(model, relation):
    pytest.importorskip("peft")
    lens, split = lens_of(model), uneven().split()
    curves = []
    for adapted in (with_lora(lens, range(3)), with_soft_prompt(lens, 2)):
        prompts = TrainingPrompts.of(lens, split, PromptTemplate())
        prompts = TrainingPrompts(prompts.train.select(range(4)), prompts.validation.select(range(2)))
        curves.append(torch.tensor(list(train(adapted, prompts, [0.1], Tuning(2)).losses.values())))
    return curves


MEASURED = {
    measure.__name__: measure
    for measure in (
        effects, summed, tuned, tuned_in_two_layers, tuned_behind_the_last_block, swept, chosen, evaluated, decoded,
        words_of_heads, patched, hooked, one_by_one, residual_streams, trained_adapters,
    )
}  # fmt: skip


def losses(fv: FunctionVector) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor(fv.training[name]) for name in ("losses", "validation_losses"))


def vector_of(model, layer: int = 1) -> FunctionVector:
    noise, lens = 4 * torch.randn(32, generator=torch.Generator().manual_seed(0)), lens_of(model)
    return FunctionVector(noise, layer, model=lens.name, processing=lens.processing, bos=lens.bos)


def uneven() -> Relation:
    """Questions and answers of one to three tokens."""
    answers = [" ".join(f"w{100 + i % 4 + j}" for j in range(1 + i % 3)) for i in range(40)]
    return Relation("uneven", [(f"w{i} w{i}" if i % 2 else f"w{i}", answer) for i, answer in enumerate(answers)])


def exact_forms(model) -> tuple:
    """What runs fast on the model, as compared with full forwards: an operation that raises would be among the rest."""
    parity = lens_of(model).parity
    gradients = {key: exact for key, (_, exact) in parity.gradients.items()}
    return parity.forms, parity.padding, parity.batches_exact, parity.several_tokens[1], parity.sharing[1], gradients


def furthest(numbers, others) -> float:
    """The largest difference between the same measurements on two models."""
    pairs = [(x.detach().cpu().double(), y.detach().cpu().double()) for x, y in zip(numbers, others, strict=True)]
    assert all(torch.equal(x.isnan(), y.isnan()) for x, y in pairs)
    return max(float((x - y).nan_to_num(0).abs().max()) for x, y in pairs)
