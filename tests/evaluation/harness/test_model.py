"""The model of lm-evaluation-harness beside the harness's own, and what it is given and records."""

import random
import subprocess
import sys

import pytest
import torch

from fv_lens.ground.errors import InputError
from fv_lens.vectors.patching import patch

from ... import tiny
from ...vectors.patched import is_bridge, vector

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra 'harness')")


from fv_lens.evaluation.harness.arguments import NamedLM  # noqa: E402
from fv_lens.evaluation.harness.model import PatchedLM  # noqa: E402

from .by_hand import STRENGTH, assert_close, by_hand, contexts, pairs, requests, split, text  # noqa: E402

# Beside the harness's own model


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_without_a_vector_all_is_as_in_the_harness_own_model(model):
    """Under the BOS rule of its tokenizer, which adds none.

    With a cache of logits, it gives a short continuation another token's log-probability if a longer one behind a
    shorter context has the same tokens (0.4.13).
    """
    from lm_eval.models.huggingface import HFLM

    bridge = tiny.build(model)
    bridge.cfg.default_prepend_bos = False
    theirs = HFLM(tiny.network(model), tokenizer=tiny.tokenizer(), batch_size=4, max_length=24, logits_cache=False)
    ours = PatchedLM(bridge, batch_size=8, max_length=24)
    asked = requests("loglikelihood", [*pairs(), ("", "w1 w2"), (text(random.Random(7), 40, 40), " w1 w2")])
    assert_close(ours.loglikelihood(asked), theirs.loglikelihood(asked))
    rolling = requests("loglikelihood_rolling", [(text(random.Random(8), 80, 60),), ("w1 w2",)])
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(theirs.loglikelihood_rolling(rolling), abs=1e-4)
    settings = {"until": ["w7"], "max_gen_toks": 5}
    written = requests("generate_until", [(context, settings) for context in contexts()[:-1]])
    assert ours.generate_until(written) == theirs.generate_until(written)


# What it is given, and tells


def test_the_users_own_hooks_see_each_request_alone(llama, caplog):
    fv, widths = vector(llama), []

    def double(x, hook):
        widths.append(tuple(x.shape[:2]))
        return x * 1.1

    llama.add_hook("blocks.0.hook_resid_post", double)
    try:
        expected = [by_hand(llama, fv, *split(llama, *pair)) for pair in pairs()[:8]]
        widths.clear()
        lm = PatchedLM(llama, fv, STRENGTH, batch_size=8)
        assert_close(lm.loglikelihood(requests("loglikelihood", pairs()[:8])), expected)
        assert {rows for rows, _ in widths} == {1}
    finally:
        llama.reset_hooks()


def test_a_patch_on_the_model_is_refused(llama):
    lm = PatchedLM(llama, vector(llama))
    with patch(llama, vector(llama)):
        for kind, given in (("loglikelihood", ("w1", " w2")), ("generate_until", ("w1", {"max_gen_toks": 2}))):
            with pytest.raises(InputError, match="A patch is active on this model"):
                getattr(lm, kind)(requests(kind, [given]))


def test_bad_settings_are_refused(llama):
    other = vector(tiny.build("gpt2"))
    for given, problem in (
        (dict(vectors=other), "was made on 'tiny/gpt2'"),
        (dict(strength=float("nan")), "strength is nan"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(rolling="last"), "rolling is 'last'; choose from first, every, none"),
        (dict(max_length=129), "max_length is 129; tiny/llama takes at most 128"),
        (dict(vectors=[1]), "fv holds int"),
    ):
        with pytest.raises(InputError, match=problem):
            PatchedLM(llama, **given)


CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m.role }} : {{ m.content }} {% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


def test_the_chat_form_is_the_tokenizers_without_a_second_bos(caplog):
    model = tiny.chatting(CHAT)
    lm = PatchedLM(model)
    written = lm.apply_chat_template([{"role": "system", "content": "w9"}, {"role": "user", "content": "w1"}])
    assert written == "<s>user : w1 assistant :" and "takes no system turn" in caplog.text
    assert lm.chat_template(True) == CHAT and lm.tokenizer_name
    ids, bos = lm.tok_encode(written), model.tokenizer.bos_token_id
    assert ids[0] == bos and ids.count(bos) == 1 and lm.tok_encode("w1")[0] == bos
    with pytest.raises(InputError, match="The tokenizer of tiny/llama has no chat template"):
        PatchedLM(tiny.build("llama")).apply_chat_template([])


# By name, and where it is not installed


def test_the_harness_command_line_makes_it_by_name(monkeypatch, tmp_path, llama):
    from fv_lens.evaluation.harness import arguments

    vector(llama).save(tmp_path / "v.safetensors")
    asked = []
    monkeypatch.setattr(arguments, "load_model", lambda name, **more: asked.append((name, more)) or llama)
    line = f"vector={tmp_path / 'v.safetensors'},strength=2,dtype=float32"
    lm = NamedLM.create_from_arg_string(line, {"batch_size": "4", "max_batch_size": 64, "device": "cuda:0"})
    on_gpu = {"device": "cuda:0"} if torch.cuda.is_available() else {}
    assert asked == [("tiny/llama", {"dtype": "float32"} | on_gpu)]
    assert (lm.strength, lm.batch_size, lm.vectors[0].layer) == (2.0, 4, 1)
    assert NamedLM.create_from_arg_obj({"model": "x"}).vectors == []
    for given, problem in (
        ({"vektor": "v"}, "model_args has 'vektor'; give model, vector, dtype"),
        ({"strength": 2}, "model_args names no model"),
        ({"model": "x", "batch_size": "auto"}, "batch_size is 'auto'"),
    ):
        with pytest.raises(InputError, match=problem):
            NamedLM.create_from_arg_obj(given)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
def test_fv_lens_does_not_import_the_harness_and_says_how_to_install_it():
    imported = run_python(
        "import sys, fv_lens\nfor name in fv_lens.__all__: getattr(fv_lens, name)\nprint('lm_eval' in sys.modules)"
    )
    assert imported.strip() == "False"
    missing = run_python(
        "import sys\nsys.modules['lm_eval'] = None\n"
        "try:\n    import fv_lens.evaluation.harness.model\n"
        "except ValueError as error:\n    print(type(error).__name__, error)"
    )
    assert missing.startswith("InputError") and 'pip install "fv-lens[harness]"' in missing


@pytest.mark.skipif(not tiny.HOOKED_INSTALLED, reason="HookedTransformer needs TransformerLens 3")
def test_both_model_classes_are_served():
    assert not is_bridge(tiny.build("hooked-llama")) and is_bridge(tiny.build("llama"))
