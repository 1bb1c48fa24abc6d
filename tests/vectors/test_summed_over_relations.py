"""Distributed vectors: adding them is adding the heads' mean outputs to the heads' own, on every architecture."""

import logging

import pytest
import torch
import transformers as hf
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.datasets.prompts import PromptTemplate
from fv_lens.engine.whatif import FORMS, SLOW, Edit, what_if
from fv_lens.evaluation.evaluate import evaluate
from fv_lens.ground.errors import InputError, ParityError
from fv_lens.models.lens import lens_of
from fv_lens.vectors import summed
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.mediation import mean_head_outputs
from fv_lens.vectors.patching import patch
from fv_lens.vectors.summed import distributed_vectors, function_vector

from .. import oracles, tiny
from ..oracles import EXACT, difference

HEADS = [(2, 3), (0, 1), (2, 0), (0, 2), (1, 1)]
PROMPTS = oracles.random_prompts(9, 13, 5)
POST_NORM = dict(
    n_layers=3, d_model=32, n_ctx=128, d_head=8, n_heads=4, d_mlp=48, d_vocab=256, act_fn="silu", gated_mlp=True,
    normalization_type="RMS", final_rms=True, use_normalization_before_and_after=True, initializer_range=0.2,
    positional_embedding_type="rotary", rotary_dim=8, rotary_adjacent_pairs=False, model_name="tiny/post-norm",
)  # fmt: skip


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mean_z_like(model, scale: float = 2.0) -> torch.Tensor:
    return scale * noise(model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head)


@torch.no_grad()
def with_heads_moved(model, ids: list[int], mean_z, heads=HEADS, last: int = -1) -> torch.Tensor:
    """`[vocab]`: next-token logits with `z := z + mean_z` for the heads, at one token of the prompt."""

    def hook_of(layer, head):
        def hook(z, hook):
            z = z.clone()
            z[0, last, head] += mean_z[layer, head]
            return z

        return f"blocks.{layer}.attn.hook_z", hook

    return model.run_with_hooks(torch.tensor([ids]), fwd_hooks=[hook_of(*at) for at in heads])[0, -1].float()


def edits_of(vectors):
    return [Edit(vector.layer, vector.vector, site=vector.site) for vector in vectors]


def by_engine(lens, whatifs, prompts=PROMPTS):
    return what_if(lens, *oracles.padded(prompts), whatifs, lambda logits, prompt: logits[:, 0].log_softmax(-1))


def fresh(model):
    """The model with a lens that has found nothing out yet."""
    model.__dict__.pop("_fv_lens", None)
    return lens_of(model)


def bridge(network):
    for parameter in network.eval().parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    network.config.architectures = [type(network).__name__]
    name = f"tiny/{network.config.model_type}"
    return TransformerBridge.boot_transformers(name, hf_model=network, tokenizer=tiny.tokenizer(), device="cpu")


# The same as moving the heads


def test_patching_moves_the_heads(model, words):
    mean_z = mean_z_like(model)
    vectors = distributed_vectors(model, words, HEADS, mean_z)
    for ids in PROMPTS:
        expected, clean = with_heads_moved(model, ids, mean_z), oracles.logits(model, ids)[0]
        with patch(model, vectors):
            plain = model(torch.tensor([ids]))[0, -1].detach()
            hooked = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=[])[0, -1].detach()
        assert difference(plain.log_softmax(-1), expected.log_softmax(-1)) <= EXACT
        assert difference(hooked.log_softmax(-1), expected.log_softmax(-1)) <= EXACT
        assert difference(expected, clean) > 0.1


@pytest.mark.slow
def test_the_engine_moves_the_heads_in_every_form(model, words):
    lens, mean_z = fresh(model), mean_z_like(model)
    vectors = distributed_vectors(model, words, HEADS, mean_z)
    whatifs = [edits_of(vectors), edits_of(vectors[1:]), [Edit(1, noise(lens.d_model))]]
    heads = [HEADS, [head for head in HEADS if head[0] > 0]]
    moved = [torch.stack([with_heads_moved(model, ids, mean_z, these) for ids in PROMPTS]) for these in heads]
    expected = torch.stack(moved, 1).log_softmax(-1)
    assert difference(by_engine(lens, whatifs)[:, 1:3], expected) <= EXACT
    forms = lens.parity.forms
    assert all(found == (13, forms) for found in lens.parity.sites.values()) and forms[0] != SLOW
    assert set(lens.parity.sites) == {(vector.layer, vector.site) for vector in vectors}
    for form in forms:
        lens.parity.forms = [form]
        assert difference(by_engine(lens, whatifs)[:, 1:3], expected) <= EXACT, form
    lens.parity.forms = forms


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**tiny.GROUPED, residual_multiplier=0.3)),
        lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**tiny.GROUPED)),
        lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**tiny.GROUPED, head_dim=16, sliding_window=8)),
    ],
    ids=["granite", "olmo2", "gemma3"],
)
def test_models_that_rescale_what_heads_write_take_distributed_vectors_all_the_same(network, words):
    torch.manual_seed(0)
    model = bridge(network())
    mean_z = mean_z_like(model)
    vectors = distributed_vectors(model, words, HEADS, mean_z)
    expected = torch.stack([with_heads_moved(model, ids, mean_z) for ids in PROMPTS]).log_softmax(-1)
    with patch(model, vectors):
        patched = torch.cat([model(torch.tensor([ids]))[:, -1].detach() for ids in PROMPTS])
    assert difference(patched.log_softmax(-1), expected) <= EXACT
    assert difference(by_engine(lens_of(model), [edits_of(vectors)])[:, 1], expected) <= EXACT


def test_evaluating_moves_the_heads(model, words):
    mean_z, template = mean_z_like(model), PromptTemplate()
    vectors = distributed_vectors(model, words, HEADS, mean_z)
    found = evaluate(model, words, vectors, controls=False).words.set_index("word")["log_prob"]
    for word in found.index[:3]:
        ids, ((token,),) = oracles.in_words(model, template.prompt(word), (f"w{int(word[1:]) + 1}",))
        expected = with_heads_moved(model, ids, mean_z).log_softmax(-1)[token]
        assert abs(found[word] - float(expected)) <= EXACT


@pytest.mark.slow(but=1)
@pytest.mark.parametrize("cached", [True, False])
def test_generating_moves_the_heads_at_the_last_prompt_token(model, words, cached):
    mean_z, ids = mean_z_like(model), PROMPTS[0]
    vectors = distributed_vectors(model, words, HEADS, mean_z)
    written = list(ids)
    for _ in range(4):
        written.append(int(with_heads_moved(model, written, mean_z, last=len(ids) - 1).argmax()))
    with patch(model, vectors):
        options = dict(max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False, use_past_kv_cache=cached)
        generated = model.generate(torch.tensor([ids]), **options)
    assert generated[0].tolist() == written


def test_a_patch_leaves_the_model_as_it_was(model, words):
    before = oracles.logits(model, PROMPTS[0])
    with patch(model, distributed_vectors(model, words, HEADS, mean_z_like(model)), strength=3.0):
        pass
    assert torch.equal(oracles.logits(model, PROMPTS[0]), before)


# What the vectors are


def test_there_is_one_vector_for_each_layer_with_chosen_heads(llama, words):
    vectors = distributed_vectors(llama, words.with_split(3), [(2, 3), (0, 1), (2, 0)], mean_z_like(llama))
    assert [(vector.layer, vector.heads) for vector in vectors] == [(0, ((0, 1),)), (2, ((2, 3), (2, 0)))]
    expected = dict(method="distributed", site="attn.hook_out", token="last", relation="successor", split_seed=3)
    expected |= dict(model="tiny/llama", data_hash=words.hash, bos=True, processing="raw", strength=1.0)
    assert all(vector.record.items() >= expected.items() for vector in vectors)
    assert all(vector.template == PromptTemplate().to_dict() for vector in vectors)


def test_their_sum_is_the_function_vector_where_heads_write_plainly(model, words):
    if model.cfg.model_name == "tiny/gemma2":
        pytest.skip("no summed vector on Gemma-2")
    mean_z = mean_z_like(model)
    added = sum(vector.vector for vector in distributed_vectors(model, words, HEADS, mean_z))
    assert difference(added, function_vector(model, words, HEADS, 1, mean_z).vector) <= EXACT


@pytest.mark.slow
def test_mean_head_outputs_are_computed_where_they_are_not_given(llama, words):
    words, options = words.with_split(1), dict(template=PromptTemplate("{word} :"))
    mean_z, _ = mean_head_outputs(llama, words, **options)
    for made, given in zip(*(distributed_vectors(llama, words, HEADS, z, **options) for z in (None, mean_z))):
        assert torch.equal(made.vector, given.vector) and made.record == given.record


@pytest.mark.slow
def test_a_saved_vector_does_the_same(llama, words, tmp_path):
    vectors = distributed_vectors(llama, words, HEADS, mean_z_like(llama))
    for i, vector in enumerate(vectors):
        vector.save(tmp_path / f"{i}.safetensors")
    loaded = [FunctionVector.load(tmp_path / f"{i}.safetensors") for i in range(len(vectors))]
    assert [vector.record for vector in loaded] == [vector.record for vector in vectors]
    rows = by_engine(lens_of(llama), [edits_of(vectors), edits_of(loaded)])
    assert all(torch.equal(a.vector, b.vector) for a, b in zip(vectors, loaded))
    assert difference(rows[:, 1], rows[:, 2]) <= EXACT < difference(rows[:, 1], rows[:, 0])


# What is refused


@pytest.mark.parametrize(
    "heads, message",
    [
        ([], "No heads"),
        ([(0, 1), (2, 2), (0, 1)], r"\(0, 1\) was given twice"),
        ([(3, 0)], "Layer 3 is outside 0..2"),
        ([(0, 4)], "Head 4 of layer 0 is outside 0..3"),
        ([(0, -1)], "at least 0"),
        ([0, 1], "0 is not a head"),
    ],
)
def test_heads_that_are_not_there_are_refused(llama, words, heads, message):
    with pytest.raises(InputError, match=message):
        distributed_vectors(llama, words, heads, mean_z_like(llama))


@pytest.mark.parametrize("shape", [(3, 4, 16), (4, 3, 8), (3, 4), (8,)])
def test_mean_head_outputs_of_another_shape_are_refused(llama, words, shape):
    with pytest.raises(InputError, match=r"\(3, 4, 8\)"):
        distributed_vectors(llama, words, HEADS, noise(*shape))


def test_without_the_point_before_the_norm_a_post_norm_model_is_refused_with_a_way_out(words, monkeypatch):
    model = tiny.build("gemma2")
    lens = lens_of(model)
    lens.points = {name: point for name, point in lens.points.items() if not name.endswith("attn.hook_out")}
    assert "blocks.0.hook_attn_out" in lens.points
    monkeypatch.setattr(summed, "lens_of", lambda model: lens)
    with pytest.raises(InputError, match="layer 0.*finetune.*'zero'"):
        distributed_vectors(model, words, HEADS, mean_z_like(model))


@pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="HookedTransformer is not in this TransformerLens")
def test_a_hooked_transformer_with_post_norm_blocks_is_refused_with_a_way_out(words):
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    model = HookedTransformer(HookedTransformerConfig(**POST_NORM, device="cpu"), tokenizer=tiny.tokenizer()).eval()
    with pytest.raises(InputError, match="layer 0.*finetune.*'zero'"):
        distributed_vectors(model, words, HEADS, mean_z_like(model))


def test_the_sum_of_a_vector_and_one_of_another_site_is_refused(llama, words):
    vector, *_ = distributed_vectors(llama, words, [(1, 0)], mean_z_like(llama))
    with pytest.raises(InputError, match="site"):
        vector + function_vector(llama, words, [(1, 0)], 1, mean_z_like(llama))


# What is found out when a site is first edited


@pytest.mark.slow
def test_a_hook_point_that_does_nothing_raises_when_it_is_first_edited(model, words, monkeypatch):
    vectors = distributed_vectors(model, words, HEADS, mean_z_like(model))
    lens, name = fresh(model), f"blocks.1.{vectors[1].site}"
    point, add_hook = model.hook_dict[name], model.hook_dict[name].add_hook
    monkeypatch.setattr(point, "add_hook", lambda hook, *args, **kw: add_hook(lambda *a, **k: None, *args, **kw))
    by_engine(lens, [[Edit(1, noise(lens.d_model))], edits_of(vectors[:1])])
    with pytest.raises(ParityError, match=f"{name} .*changed nothing"):
        by_engine(lens, [edits_of(vectors)])


@pytest.mark.slow
def test_a_form_that_fails_at_a_site_alone_stays_in_use_for_other_edits(llama, words, monkeypatch, caplog):
    mean_z, lens, used = mean_z_like(llama), fresh(llama), []
    vectors = distributed_vectors(llama, words, HEADS, mean_z)

    def as_positions(lens, prefix, ids, mask, plan, run=FORMS["as positions"]):
        used.append(True)
        return run(lens, prefix, ids, mask, plan) + 0.1 * any(hook == vectors[0].site for _, hook in plan.at)

    monkeypatch.setitem(FORMS, "as positions", as_positions)
    plain = [[Edit(1, noise(lens.d_model))]]
    expected = torch.stack([with_heads_moved(llama, ids, mean_z) for ids in PROMPTS]).log_softmax(-1)
    with caplog.at_level(logging.WARNING, "fv_lens"):
        assert difference(by_engine(lens, [edits_of(vectors), *plain])[:, 1], expected) <= EXACT
    assert "as positions are not exact for edits at attn.hook_out" in caplog.text
    used.clear()
    by_engine(lens, [edits_of(vectors)])
    assert not used and lens.parity.forms[0] == "as positions"
    by_engine(lens, plain)
    assert used


@pytest.mark.slow
def test_a_site_is_probed_anew_for_longer_prompts(words):
    """Within its window of 8 Mistral's rows may be positions, beyond it they may not."""
    model = tiny.build("mistral")
    lens, mean_z = lens_of(model), mean_z_like(model)
    vectors = distributed_vectors(model, words, HEADS, mean_z)
    for lengths in ((6, 4), (13, 9), (5, 6)):
        prompts = oracles.random_prompts(*lengths)
        expected = torch.stack([with_heads_moved(model, ids, mean_z) for ids in prompts]).log_softmax(-1)
        assert difference(by_engine(lens, [edits_of(vectors)], prompts)[:, 1], expected) <= EXACT, lengths
    assert {found[0] for found in lens.parity.sites.values()} == {13}
