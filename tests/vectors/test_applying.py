"""Vectors on plain Hugging Face models against `patch` on a bridge of the same weights, and against hooks by hand."""

import copy
import dataclasses
import inspect
import threading

import peft
import pytest
import torch
import transformers as hf
from accelerate import cpu_offload
from transformer_lens.model_bridge import TransformerBridge

from fv_lens.ground.errors import InputError
from fv_lens.vectors.function_vector import FunctionVector
from fv_lens.vectors.patching import patch, unpatch

from .. import tiny
from .patched import PAD, SIDES, TOKENS, padded, prompts, vector

EACH = pytest.mark.parametrize("name", tiny.params(tiny.ARCHITECTURES, quick=("llama", "gpt2", "gemma2")))
ENDLESS = dict(do_sample=False, eos_token_id=None, pad_token_id=PAD)


def plain(name: str = "llama"):
    """A network with the attention of a bridge, which multiplies in the same order."""
    network = tiny.network(name)
    network.set_attn_implementation("eager")
    return network


def given(side: str | None) -> tuple[torch.Tensor, dict, torch.Tensor]:
    """Ids, what a forward is given with them, and which of them are tokens."""
    if side is None:
        return prompts(3), {}, torch.ones(3, 6, dtype=torch.bool)
    ids, mask, _ = padded(side)
    return ids, {"attention_mask": mask}, mask.bool()


def positions(network, more: dict) -> dict:
    """Position ids of padded prompts, for networks that take them and do not count by the mask themselves."""
    takes = "position_ids" in inspect.signature(network.forward).parameters
    return {"position_ids": (more["attention_mask"].cumsum(-1) - 1).clamp(min=0)} if takes and more else {}


def blocks(network):
    return next(part for part in network.modules() if isinstance(part, torch.nn.ModuleList))


@torch.no_grad()
def logits(network, ids, **more) -> torch.Tensor:
    return network(ids, **more).logits


@torch.no_grad()
def by_hand(network, ids, fv, where: torch.Tensor, strength=1.0, layers=None, **more) -> torch.Tensor:
    """Logits with the vector added at the tokens of a mask, by a hook that knows nothing of calls."""

    def add(block, args, output):
        x = output[0] if isinstance(output, tuple) else output
        x = torch.where(where[..., None], x + strength * fv.vector.to(x), x)
        return (x, *output[1:]) if isinstance(output, tuple) else x

    handle = (layers or blocks(network))[fv.layer].register_forward_hook(add)
    try:
        return logits(network, ids, **more)
    finally:
        handle.remove()


def at_columns(columns, width=6) -> torch.Tensor:
    return torch.arange(width) == torch.tensor(columns)[:, None]


def assert_near(a, b):
    """Equal to 1e-6 of the largest number: a bridge computes some projections in parts."""
    assert (a - b).abs().max() <= 1e-6 * b.abs().max()


@EACH
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_a_forward_equals_a_patch_on_the_bridge_and_a_hook_by_hand(name, side):
    bridge, network, (ids, more, real) = tiny.build(name), plain(name), given(side)
    fv, more = vector(bridge), more | positions(network, more)
    clean = logits(network, ids, **more)
    with torch.no_grad(), patch(bridge, fv, 2.0):
        expected = bridge(ids, **more)
    with fv.apply(network, 2.0):
        applied = logits(network, ids, **more)
    assert_near(applied[real], expected[real])
    last = at_columns([5, 5, 5]) if side is None else at_columns(padded(side)[2])
    assert torch.equal(applied, by_hand(network, ids, fv, last, 2.0, **more))
    assert (applied - clean)[last].abs().max() > 0.1 and torch.equal(logits(network, ids, **more), clean)


@EACH
@TOKENS
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_generate_writes_what_a_patched_bridge_does(name, side, tokens):
    bridge, network, (ids, more, _) = tiny.build(name), plain(name), given(side)
    fv = vector(bridge)
    for use_cache in True, False:
        with patch(bridge, fv, tokens=tokens):
            expected = bridge.original_model.generate(ids, max_new_tokens=4, use_cache=use_cache, **more, **ENDLESS)
        with fv.apply(network, tokens=tokens):
            written = network.generate(ids, max_new_tokens=4, use_cache=use_cache, **more, **ENDLESS)
        assert torch.equal(written, expected)


def grown(network, ids, fv, last: torch.Tensor, n: int, every: bool) -> torch.Tensor:
    """The plain way to generate: full forwards, the vector by hand at the same columns each time."""
    for _ in range(n):
        where = torch.nn.functional.pad(last, (0, ids.shape[1] - last.shape[1]), value=every)
        ids = torch.cat([ids, by_hand(network, ids, fv, where)[:, -1:].argmax(-1)], 1)
    return ids


@EACH
@TOKENS
def test_generate_writes_what_full_forwards_by_hand_do(name, tokens):
    network, ids = plain(name), prompts(3)
    fv = FunctionVector(torch.randn(32, generator=torch.Generator().manual_seed(3)) * 3, layer=1)
    expected = grown(network, ids, fv, at_columns([5, 5, 5]), 4, tokens == "every")
    with fv.apply(network, tokens=tokens):
        for use_cache in True, False:
            assert torch.equal(network.generate(ids, max_new_tokens=4, use_cache=use_cache, **ENDLESS), expected)


@pytest.fixture
def llama_network():
    return plain()


@pytest.fixture
def fv(llama):
    return vector(llama)


@SIDES
@pytest.mark.parametrize("strategy", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}], ids=str)
def test_beams_of_padded_prompts(llama, llama_network, fv, side, strategy):
    ids, more, _ = given(side)
    with patch(llama, fv):
        expected = llama.original_model.generate(ids, max_new_tokens=4, **more, **strategy, **ENDLESS)
    with fv.apply(llama_network):
        written = llama_network.generate(ids, max_new_tokens=4, **more, **strategy, **ENDLESS)
    assert torch.equal(written, expected)


@pytest.mark.parametrize("at", [2, -3, [0, 3, 5], at_columns([1, 4, 5]) | at_columns([2, 2, 0])], ids=str)
def test_at_names_columns_or_a_mask_as_in_a_patch(llama, llama_network, fv, at):
    ids = prompts(3)
    with patch(llama, fv, at=at):
        expected = llama.original_model.generate(ids, max_new_tokens=4, **ENDLESS)
        with torch.no_grad():
            expected_logits = llama(ids)
    with fv.apply(llama_network, at=at) as handle:
        assert torch.equal(llama_network.generate(ids, max_new_tokens=4, **ENDLESS), expected)
        assert_near(logits(llama_network, ids), expected_logits)
        handle.at = -1
        assert torch.equal(logits(llama_network, ids), by_hand(plain(), ids, fv, at_columns([5, 5, 5])))


def test_a_forward_over_a_cache_adds_at_its_last_token_or_where_at_says(llama_network, fv):
    ids = prompts(3)
    expected = by_hand(llama_network, ids, fv, at_columns([3, 3, 3]))
    with torch.no_grad(), fv.apply(llama_network) as handle:
        cache = llama_network(ids[:, :4], use_cache=True).past_key_values
        handle.at = torch.zeros(3, 6)
        rest = llama_network(ids[:, 4:], past_key_values=cache).logits
    torch.testing.assert_close(rest, expected[:, 4:])


def test_embeddings_are_prompts_as_well(llama_network, fv):
    ids = prompts()
    embeddings = llama_network.get_input_embeddings()(ids).detach()
    with fv.apply(llama_network):
        expected = llama_network.generate(ids, max_new_tokens=4, **ENDLESS)[:, 6:]
        assert torch.equal(llama_network.generate(inputs_embeds=embeddings, max_new_tokens=4, **ENDLESS), expected)


@pytest.mark.parametrize("before", ["nothing", "hidden states", "a vector"])
def test_hidden_states_have_the_vector_whatever_was_called_before(fv, before):
    network, ids = plain(), prompts(2)
    if before == "hidden states":
        network(ids, output_hidden_states=True)
    if before == "a vector":
        fv.apply(network).remove()
    clean = network(ids, output_hidden_states=True).hidden_states[fv.layer + 1]
    with fv.apply(network):
        moved = network(ids, output_hidden_states=True).hidden_states[fv.layer + 1]
    torch.testing.assert_close(moved[:, -1] - clean[:, -1], fv.vector.expand(2, -1))
    assert moved[:, :-1].equal(clean[:, :-1])


@pytest.mark.parametrize("by", ["argument", "setting of the model"])
def test_guidance_which_runs_a_second_prompt_is_refused(fv, by):
    network, ids = plain(), prompts(2)
    given = {"guidance_scale": 1.5} if by == "argument" else {}
    if not given:
        network.generation_config.guidance_scale = 1.5
    network.generate(ids, max_new_tokens=1, **ENDLESS, **given)
    with fv.apply(network), pytest.raises(InputError, match="guidance_scale is 1.5, which runs a second"):
        network.generate(ids, max_new_tokens=1, **ENDLESS, **given)


def test_strength_zero_changes_nothing_bit_for_bit(llama_network, fv):
    clean = logits(llama_network, prompts())
    with fv.apply(llama_network, strength=0):
        assert torch.equal(logits(llama_network, prompts()), clean)


def test_handles_add_up_and_come_off_in_any_order(llama_network, llama):
    ids, one, other = prompts(), vector(llama, 0, seed=1), vector(llama, 2, seed=2)
    clean, both = logits(llama_network, ids), None
    with torch.no_grad(), patch(llama, [one, other]):
        both = llama(ids)
    first = one.apply(llama_network)
    second = other.apply(llama_network)
    assert_near(logits(llama_network, ids), both)
    first.remove()
    assert torch.equal(logits(llama_network, ids), by_hand(plain(), ids, other, at_columns([5, 5])))
    second.remove()
    assert torch.equal(logits(llama_network, ids), clean)
    one.apply(llama_network), one.apply(llama_network)
    unpatch(llama_network)
    assert torch.equal(logits(llama_network, ids), clean)


def test_nothing_is_left_behind_and_copies_are_without_the_vector(llama_network, fv):
    def state():
        return [(set(m.__dict__) - {"_fv_lens"}, len(m._forward_hooks)) for m in llama_network.modules()]

    before, clean = state(), logits(llama_network, prompts())
    with fv.apply(llama_network):
        copied = copy.deepcopy(llama_network)
        assert torch.equal(logits(copied, prompts()), clean)
        with pytest.raises(InputError, match="shallow copy"):
            copy.copy(llama_network)(prompts())
    assert state() == before


def test_a_vision_language_model_by_its_nested_decoder(fv):
    text = tiny.GROUPED | {"head_dim": 16, "sliding_window": 8}
    vision = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16, image_size=8)
    config = hf.Gemma3Config(text_config=text, vision_config=vision | {"patch_size": 4}, mm_tokens_per_image=4)
    torch.manual_seed(0)
    network = hf.Gemma3ForConditionalGeneration(config).eval()
    layers, ids = network.model.language_model.layers, prompts(3)
    assert len(network.model.vision_tower.encoder.layers) == len(layers), "the wrong list would be found by its length"
    free = dataclasses.replace(fv, model=None)
    with free.apply(network):
        applied = logits(network, ids)
    assert torch.equal(applied, by_hand(network, ids, free, at_columns([5, 5, 5]), layers=layers))


def test_a_model_under_peft(llama_network, fv):
    adapter = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    network = peft.get_peft_model(llama_network, adapter).eval()
    ids = prompts(3)
    expected = by_hand(network, ids, fv, at_columns([5, 5, 5]))
    written = grown(network, ids, fv, at_columns([5, 5, 5]), 3, False)
    with fv.apply(network):
        assert torch.equal(logits(network, ids), expected)
        assert torch.equal(network.generate(input_ids=ids, max_new_tokens=3, **ENDLESS), written)


def test_a_compiled_model(llama_network, fv):
    expected = by_hand(llama_network, prompts(), fv, at_columns([5, 5]))
    compiled = torch.compile(llama_network, backend="eager")
    clean = logits(compiled, prompts())
    with fv.apply(compiled):
        assert torch.equal(logits(compiled, prompts()), expected)
    assert torch.equal(logits(compiled, prompts()), clean)


def test_half_precision(llama_network, fv):
    network = llama_network.to(torch.bfloat16)
    expected = by_hand(network, prompts(), fv, at_columns([5, 5]))
    with fv.apply(network):
        applied = logits(network, prompts())
    assert applied.dtype == torch.bfloat16 and torch.equal(applied, expected)


def test_offloaded_weights(llama_network, fv):
    expected = by_hand(llama_network, prompts(), fv, at_columns([5, 5]))
    network = cpu_offload(llama_network, torch.device("cpu"))
    assert next(network.parameters()).device.type == "meta"
    with fv.apply(network):
        assert torch.equal(logits(network, prompts()), expected)


def test_threads_that_share_a_model_do_not_disturb_each_other(llama_network, fv):
    batches = [prompts(2, length) for length in (3, 5, 6, 7)]
    with fv.apply(llama_network):
        expected = [llama_network.generate(ids, max_new_tokens=4, **ENDLESS) for ids in batches]
        written = [None] * len(batches)

        def write(place):
            written[place] = llama_network.generate(batches[place], max_new_tokens=4, **ENDLESS)

        threads = [threading.Thread(target=write, args=(place,)) for place in range(len(batches))]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert all(torch.equal(a, b) for a, b in zip(written, expected))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(vector=torch.ones(8)), "8 numbers; the residual stream of LlamaForCausalLM has 32"),
        (dict(layer=3), r"Layer 3 is outside 0\.\.2 of LlamaForCausalLM"),
        (dict(processing="centered"), "made on centered weights and LlamaForCausalLM has raw ones"),
        (dict(site="attn.hook_out"), "added at 'attn.hook_out'; .* 'hook_resid_post' alone. Use fv_lens.patch"),
    ],
    ids=str,
)
def test_vectors_that_do_not_fit_are_refused(llama_network, fv, change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(fv, **change).apply(llama_network)


def test_a_vector_of_another_model_is_refused(llama_network, fv):
    llama_network.name_or_path = "some/other-model"
    with pytest.raises(InputError, match="made on 'tiny/llama' and this model is 'some/other-model'"):
        fv.apply(llama_network)


def test_models_that_cannot_be_served_are_refused(llama, fv, llama_network):
    with pytest.raises(InputError, match="got TransformerBridge. .* use fv_lens.patch"):
        fv.apply(llama)
    with pytest.raises(InputError, match="is inside a TransformerBridge"):
        fv.apply(llama.original_model)
    seq2seq = hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=64, d_model=32, num_layers=3, num_heads=2, d_ff=8))
    with pytest.raises(InputError, match="T5ForConditionalGeneration is an encoder-decoder"):
        fv.apply(seq2seq)
    for bad, message in ((dict(tokens="all"), "tokens is 'all'"), (dict(strength=float("nan")), "strength is nan")):
        with pytest.raises(InputError, match=message):
            fv.apply(llama_network, **bad)


def test_blocks_that_change_the_stream_between_them_are_not_taken_for_it(llama_network, fv):
    blocks(llama_network)[1].register_forward_pre_hook(lambda block, args: (2 * args[0], *args[1:]))
    fv.apply(llama_network).remove()  # the user's hooks are not the network's
    layers = blocks(llama_network)
    forward = layers[1].forward
    layers[1].forward = lambda x, *args, **more: forward(x, *args, **more) / 2
    fv.apply(llama_network).remove()  # another forward still hands on what it returns
    doubled = plain()
    first = blocks(doubled)[0]
    blocks(doubled)[0] = torch.nn.Sequential(first)
    with pytest.raises(InputError, match="has 0 lists of 3 decoder blocks|failed"):
        fv.apply(doubled)


def test_a_call_of_a_part_is_refused_and_not_left_without_the_vector(llama_network, fv):
    with fv.apply(llama_network), pytest.raises(InputError, match="ran outside of a call of it"):
        llama_network.model(prompts())


def test_a_part_that_a_whole_model_generates_with_is_refused_and_serves_its_forwards(llama_network, fv):
    clean, part = llama_network(prompts()).logits, llama_network.model
    with fv.apply(part):
        with pytest.raises(InputError, match="Apply the vector to the LlamaForCausalLM"):
            llama_network.generate(prompts(), max_new_tokens=2, **ENDLESS)
        applied = logits(llama_network, prompts())
    assert torch.equal(applied, by_hand(llama_network, prompts(), fv, at_columns([5, 5])))
    assert not torch.equal(applied, clean)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_with_checkpointing_are_those_without(llama_network, fv, reentrant):
    def gradient():
        llama_network.zero_grad()
        with fv.apply(llama_network):
            llama_network(prompts()).logits.square().sum().backward()
        return llama_network.model.layers[0].mlp.up_proj.weight.grad.clone()

    expected = gradient()
    llama_network.train()
    llama_network.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert expected.abs().max() > 0 and torch.equal(gradient(), expected)


def test_generation_of_several_batches_at_once_is_refused(llama_network, fv):
    with fv.apply(llama_network), pytest.raises(InputError, match="generate_batch does not say"):
        llama_network.generate_batch([[1, 2]])


@pytest.mark.parametrize(("bos", "begins"), [(True, False), (False, True), (True, True), (None, False)])
def test_prompts_that_begin_otherwise_than_the_vectors_own_are_noted_once(llama_network, fv, caplog, bos, begins):
    ids = prompts().clone()
    ids[:, 0] = llama_network.config.bos_token_id if begins else 7
    with dataclasses.replace(fv, bos=bos).apply(llama_network), caplog.at_level("WARNING", logger="fv_lens"):
        logits(llama_network, ids), logits(llama_network, ids)
    assert len(caplog.records) == (bos is not None and bos is not begins)
    assert all("begin with the BOS token (1)" in record.message for record in caplog.records)


def test_a_bridge_made_of_a_network_that_had_a_vector(llama_network, fv):
    fv.apply(llama_network).remove()
    llama_network.config.architectures = [type(llama_network).__name__]
    bridge = TransformerBridge.boot_transformers(
        "tiny/llama", hf_model=llama_network, tokenizer=tiny.tokenizer(), device="cpu"
    )
    with torch.no_grad(), patch(bridge, fv):
        patched = bridge(prompts())
    assert_near(patched, by_hand(plain(), prompts(), fv, at_columns([5, 5])))
